"""The provider's side: an ASGI application with the four endpoints of the specification."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, TypeAlias, cast

import anyio
from anyio import to_thread
from attrs import asdict, define, evolve, field, frozen

from ortege_watch import _json as codec
from ortege_watch._checks import (
    check_callable,
    check_int,
    check_kind,
    check_list,
    check_methods,
    check_seconds,
    is_async,
    shown,
)
from ortege_watch.errors import (
    DecodeError,
    InvalidArgument,
    SignatureError,
    SignatureReason,
)
from ortege_watch.tokens import Concealed
from ortege_watch.watchbus.asgi import (
    LARGE_BODIES,
    READ_WITHIN,
    HttpAnswer,
    Message,
    Receive,
    RequestBody,
    Send,
    SignedApp,
    http_answer,
    refusal_of,
    refuse_request,
    serve_request,
    warn_of_workers,
    whole_path,
)
from ortege_watch.watchbus.inbox import error_response, is_failure, logger
from ortege_watch.watchbus.models import EntityInfo, SubscriptionPage, SupportedEvent
from ortege_watch.watchbus.reading import read_json
from ortege_watch.watchbus.requests import WatchPaths
from ortege_watch.watchbus.threads import as_exception, in_worker
from ortege_watch.watchbus.verifier import (
    FindSecrets,
    NonceStore,
    RequestChecks,
    RequestVerifier,
    check_json,
    checks_of,
)
from ortege_watch.watchbus.wire import (
    MAX_PAGE_SIZE,
    PageRequest,
    ResultCode,
    decode_entities,
    decode_page_request,
    error_answer,
    is_address,
    ok_answer,
    subscription_page_data,
    supported_events_data,
    watch_result_data,
)

RateLimit: TypeAlias = Callable[[str], "float | Awaitable[float | None] | None"]
"""A function, plain or async, that gets an app id and returns ``None`` or 0 if the
app may send a request now, else the seconds after which it may."""

_PREFIXES: Final = ("/api/watch/", "/api/v1/watch/")


class Provider(Protocol):
    """The object behind :func:`provider_app`; :class:`SQLiteProvider` is one.

    A plain method runs in a worker thread, several at a time; an ``async`` one runs on
    the event loop. The app id is that of the verified signature. If a method raises, the
    error is logged, and the client gets status 500 and the code ``000001``.
    """

    def subscribe(
        self, app_id: str, entities: Sequence[EntityInfo], /
    ) -> Iterable[EntityInfo] | Awaitable[Iterable[EntityInfo]]:
        """Start to watch entities for an app; return those that are watched now."""
        ...

    def unsubscribe(
        self, app_id: str, entities: Sequence[EntityInfo], /
    ) -> Iterable[EntityInfo] | Awaitable[Iterable[EntityInfo]]:
        """Stop to watch entities for an app; return those for which that succeeded."""
        ...

    def subscriptions(
        self, app_id: str, addresses: Sequence[str] | None, page: PageRequest, /
    ) -> SubscriptionPage | Awaitable[SubscriptionPage]:
        """Return a page of what is watched for an app: all, or only some addresses.

        ``page.select()`` cuts the page out of a list of all subscriptions.
        """
        ...

    def events(
        self,
    ) -> Iterable[SupportedEvent] | Awaitable[Iterable[SupportedEvent]]:
        """Return the events that can be watched for."""
        ...


@frozen
class Endpoint:
    """What the body of a request and the result of a provider's method mean.

    Attributes:
        name: the method.
        parameters: the names of the method's parameters.
        arguments: returns the method's arguments for an app id, a body, and the largest
            page; raises :class:`DecodeError`.
        kind: what the method returns, or what it returns several of.
        data: returns the ``data`` of the answer for the method's result.
    """

    name: str
    parameters: tuple[str, ...]
    arguments: Callable[[str, bytes, int], tuple[Any, ...]]
    kind: type[EntityInfo | SubscriptionPage | SupportedEvent]
    data: Callable[[Any], Any]


def _entities(app_id: str, body: bytes, _: int) -> tuple[Any, ...]:
    asked = tuple(dict.fromkeys(decode_entities(body)))
    # The answer lists successes; without an address there can be none.
    found = tuple(each for each in asked if is_address(each.entity))
    if len(found) < len(asked):
        problem = "%d of %d entities of app %s fail: not 0x and 40 hex digits"
        logger.warning(problem, len(asked) - len(found), len(asked), app_id)
    return app_id, found


def _page(app_id: str, body: bytes, largest: int) -> tuple[Any, ...]:
    return app_id, *decode_page_request(body, largest)


def _nothing(_: str, body: bytes, __: int) -> tuple[Any, ...]:
    if body and read_json(body) not in ({}, None):
        problem = "$: expected an empty body"
        raise DecodeError(problem, excerpt=codec.excerpt(body))
    return ()


_ENDPOINTS: Final = (
    Endpoint(
        "subscribe", ("app_id", "entities"), _entities, EntityInfo, watch_result_data
    ),
    Endpoint(
        "unsubscribe", ("app_id", "entities"), _entities, EntityInfo, watch_result_data
    ),
    Endpoint(
        "subscriptions",
        ("app_id", "addresses", "page"),
        _page,
        SubscriptionPage,
        subscription_page_data,
    ),
    Endpoint("events", (), _nothing, SupportedEvent, supported_events_data),
)


class _BadResult(Exception):
    """Raised for a result of the application that cannot be used."""


def _checked(endpoint: Endpoint, result: Any) -> Any:
    """Return the result of a provider's method; a tuple if it has several items."""
    name, kind = f"the result of provider.{endpoint.name}()", endpoint.kind
    try:
        if kind is SubscriptionPage:
            check_kind(name, result, kind)
            return result
        if isinstance(result, Iterable) and not isinstance(result, str | bytes):
            result = tuple(result)
        # Nothing is a result, too, which check_list() refuses.
        return () if result == () else check_list(name, result, kind)
    except InvalidArgument as error:
        raise _BadResult(str(error)) from None


def _seconds(wait: object) -> int:
    """Return the seconds that a rate limit asks for; 0 if the request may be sent."""
    if wait is None:
        return 0
    try:
        check_seconds("the result of rate_limit()", wait, or_zero=True)
    except InvalidArgument as error:
        raise _BadResult(str(error)) from None
    return math.ceil(cast("float", wait))


def endpoints_at(paths: WatchPaths) -> dict[str, Endpoint]:
    """Return the endpoint of each path; a documented path has both of its spellings.

    Raises:
        InvalidArgument: two endpoints have the same path.
    """
    found: dict[str, Endpoint] = {}
    for endpoint in _ENDPOINTS:
        path = asdict(paths)[endpoint.name]
        tails = [path.removeprefix(p) for p in _PREFIXES if path.startswith(p)]
        for each in [prefix + tail for tail in tails for prefix in _PREFIXES] or [path]:
            if found.setdefault(each, endpoint) is not endpoint:
                raise InvalidArgument(f"paths has {each!r} for two endpoints")
    return found


def provider_app(
    secrets: Mapping[str, Sequence[str]] | FindSecrets,
    provider: Provider,
    *,
    paths: WatchPaths = WatchPaths(),  # noqa: B008 - frozen
    page_size: int = MAX_PAGE_SIZE,
    nonces: NonceStore | None = None,
    tolerance: float = 300.0,
    max_body: int = 1024 * 1024,
    rate_limit: RateLimit | None = None,
    answer_within: float = 30.0,
    clock: Callable[[], float] = time.time,
) -> ProviderApp:
    """Return an ASGI 3 application with the endpoints of a provider.

    They are subscribe, unsubscribe, subscriptions/list and event/list, each under
    ``/api/watch`` and ``/api/v1/watch``. Run it with any ASGI server, or mount it into
    another application; the signature covers the whole path, with the prefix of the
    mount. Every request must be signed, and is accepted once.

    Args:
        secrets: the valid secrets of each app id, as for :class:`RequestVerifier`.
        provider: stores the subscriptions; see :class:`Provider`.
        paths: the paths of the endpoints, without the prefix of a mount. One that does
            not begin with a documented prefix has only this spelling.
        page_size: the most subscriptions in a page, at most 50; also how many there are
            if the request does not say it.
        nonces: stores nonces; several processes need a shared store.
        tolerance: the largest age of a request in seconds, also ahead of the clock.
        max_body: the size in bytes of the largest body that is read.
        rate_limit: called with the app id of each verified request. If it returns
            seconds greater than 0, the request is refused with status 429, the code
            ``000002`` and ``Retry-After``.
        answer_within: seconds in which the provider must answer; then it has failed. A
            plain method that takes longer goes on in its thread.
        clock: returns unix seconds.

    Raises:
        InvalidArgument: an argument cannot be used.
    """
    given = Concealed(secrets)
    del secrets  # a traceback shows what a frame has
    check_kind("paths", paths, WatchPaths)
    check_seconds("answer_within", answer_within)
    check_int("page_size", page_size, "an int from 1 to 50", last=MAX_PAGE_SIZE)
    methods = {each.name: each.parameters for each in _ENDPOINTS}
    check_methods("provider", provider, methods, "a Provider")
    if rate_limit is not None:
        check_callable("rate_limit", rate_limit, "app_id")
    verifier = RequestVerifier(
        given.value,
        path=paths.subscribe,
        nonces=nonces,
        tolerance=tolerance,
        max_body=max_body,
        clock=clock,
    )
    warn_of_workers(verifier.nonces)
    endpoints = endpoints_at(paths)
    return ProviderApp(
        *(checks_of(verifier), provider, endpoints),
        *(page_size, rate_limit, answer_within),
    )


@define(eq=False, repr=False)
class ProviderApp(SignedApp):
    """The application that :func:`provider_app` returns."""

    _checks: RequestChecks
    _provider: Provider
    _endpoints: Mapping[str, Endpoint]
    _page_size: int
    _rate_limit: RateLimit | None
    _answer_within: float
    _places: anyio.Semaphore = field(factory=lambda: anyio.Semaphore(LARGE_BODIES))

    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        found = self._route(scope)
        if found is None:
            problem = f"the provider has no endpoint at {shown(scope['path'])}"
            error = SignatureError(SignatureReason.OTHER_PATH, problem)
            body = RequestBody(receive, READ_WITHIN, self._places)
            await refuse_request(scope, body, send, refusal_of(error, scope))
            return
        checks, endpoint = found

        async def act(request: tuple[str, bytes]) -> HttpAnswer:
            return await self._answer(endpoint, *request)

        await serve_request(scope, receive, send, checks, _read, act, self._places)

    def _route(self, scope: Message) -> tuple[RequestChecks, Endpoint] | None:
        whole, root = whole_path(scope), scope.get("root_path", "")
        raw_path = (scope.get("raw_path") or b"").decode("latin-1")
        for each in (whole, raw_path):
            for tail in (each, each.removeprefix(root)):
                if (endpoint := self._endpoints.get(tail)) is not None:
                    # A prefix with parameters may be one that cannot be signed.
                    with suppress(InvalidArgument):
                        return evolve(self._checks, path=each), endpoint
        return None

    async def _answer(self, endpoint: Endpoint, app_id: str, body: bytes) -> HttpAnswer:
        named, part = f"{endpoint.name} of app {app_id}", "rate_limit"
        try:
            with anyio.move_on_after(self._answer_within):
                wait = self._rate_limit and await _call(self._rate_limit, app_id)
                if seconds := _seconds(wait):
                    logger.info("%s: over its rate limit", named)
                    refused = error_answer(ResultCode.RATE_LIMIT, "rate limit")
                    return HttpAnswer(
                        429, refused, ((b"retry-after", b"%d" % seconds),)
                    )
                part = f"provider.{endpoint.name}()"
                return await self._ask(endpoint, app_id, body)
            logger.error("%s: %s took more than %g s", named, part, self._answer_within)
        except _BadResult as error:
            logger.error("%s: %s", named, error)
        except Exception:  # noqa: BLE001 - it is logged
            logger.exception("%s: %s failed", named, part)
        failed = error_answer(ResultCode.SERVER_ERROR, "unknown server error")
        return HttpAnswer(500, failed)

    async def _ask(self, endpoint: Endpoint, app_id: str, body: bytes) -> HttpAnswer:
        try:
            arguments = endpoint.arguments(app_id, body, self._page_size)
        except DecodeError as error:
            request = f"app {app_id!r}, {endpoint.name}"
            return http_answer(error_response(error, request))
        method = getattr(self._provider, endpoint.name)
        result = _checked(endpoint, await _call(method, *arguments))
        if endpoint.kind is EntityInfo:
            counts = (len(result), len(arguments[1]))
            line = "%s of app %s: %d of %d entities"
            logger.info(line, endpoint.name, app_id, *counts)
        return HttpAnswer(200, ok_answer(endpoint.data(result)))


def _read(body: bytes, app_id: str) -> tuple[str, bytes]:
    check_json(body, app_id)
    return app_id, body


async def _call(function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function, a plain one in a thread, and wait for its result."""
    if not is_async(function):
        outcome = await to_thread.run_sync(
            in_worker, function, *arguments, abandon_on_cancel=True
        )
        try:
            result = outcome.get()
        finally:
            del outcome  # it may have an error, whose traceback has this frame
        if not inspect.isawaitable(result):
            return result
    else:
        result = function(*arguments)
    try:
        return await result
    except Exception:
        raise
    except BaseException as error:
        if not is_failure(error):
            raise
        raise as_exception(error) from error
