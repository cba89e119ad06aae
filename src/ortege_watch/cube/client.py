"""CubeClient and AsyncCubeClient: one implementation, for threads and for tasks."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Awaitable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, Unpack
from urllib.parse import urlsplit
from uuid import uuid4
from weakref import WeakSet

from attrs import evolve, frozen

from ortege_watch._http.conversation import (
    DEFAULT_MAX_SIZE,
    HTTP_SCHEMES,
    ClientOptions,
    Limits,
    Retry,
    TimeBudget,
    check_names,
    is_loopback,
    split_url,
)
from ortege_watch._http.driver import (
    AsyncClock,
    AsyncHttp,
    AsyncHttpClient,
    AsyncHttpDriver,
    Clock,
    Http,
    HttpClient,
    HttpDriver,
    check_environment,
)
from ortege_watch._http.token_source import TokenSource
from ortege_watch.cube import calls
from ortege_watch.cube.calls import Call
from ortege_watch.errors import InvalidArgument, OrtegeWatchError, SubscriptionLost
from ortege_watch.query.added_keys import AddedKeys
from ortege_watch.tokens import Concealed, TokenLike, expiry

if TYPE_CHECKING:
    from ortege_watch._json import ResultPart
    from ortege_watch.cube.calls import DryRun, Sql
    from ortege_watch.cube.meta import Meta
    from ortege_watch.query import Query
    from ortege_watch.results import Result
    from ortege_watch.watch.options import Dialect, WatchOptions
    from ortege_watch.watch.updates import AsyncUpdates, Updates

_POLL_WITHIN: Final = 300.0
"""Seconds that one poll of a subscription may take, "Continue wait" included."""

_LOGGER: Final = logging.getLogger("ortege_watch.cube")
_YEAR_9999: Final = 253370764800

_DEFAULT_PATH: Final = "/cubejs-api"
_EXAMPLE: Final = "https://cube.example.com/cubejs-api/v1"


@frozen(kw_only=True)
class Endpoint:
    """The addresses of one Cube server."""

    api: str  # what REST paths are appended to, https://host/cubejs-api/v1
    root: str  # what /readyz is appended to, https://host
    # the WebSocket, wss://host/cubejs-api/v1/load/; Cube takes an upgrade on any path
    # (seen on 0.35.81 and 1.7.43), a gateway may not
    socket: str
    host: str  # host and port, for messages

    @classmethod
    def parse(cls, url: str | Concealed) -> Endpoint:
        """Parse a URL: a scheme, a host, perhaps ``/cubejs-api``, ``/v1`` or ``/load``.

        ``ws`` and ``wss`` stand for ``http`` and ``https``. A path that ends in ``/v1``
        is taken as it is (a server may have another base path); any other path is a
        prefix before ``/cubejs-api/v1``. An invalid URL is an ``InvalidArgument``.
        """
        parts = split_url(url, _EXAMPLE, "pass CubeClient(url, token)")
        scheme = HTTP_SCHEMES[parts.scheme]
        path = parts.path.rstrip("/").removesuffix("/load").rstrip("/")
        if not path.endswith("/v1"):
            path = path.removesuffix(_DEFAULT_PATH) + _DEFAULT_PATH + "/v1"
        prefix = path.removesuffix(_DEFAULT_PATH + "/v1")
        host = parts.netloc
        return cls(
            api=f"{scheme}://{host}{path}",
            root=f"{scheme}://{host}" + (prefix if prefix != path else ""),
            socket=f"{scheme.replace('http', 'ws')}://{host}{path}/load/",
            host=host,
        )


@cache
def _warn_of_plain_http(host: str) -> None:
    """Log a warning, once for each host."""
    _LOGGER.warning("%s: tokens are sent unencrypted over http; use https", host)


class Settings:
    """The server, the token and the options of a client."""

    def __init__(
        self,
        url: Concealed,
        token: Concealed,
        options: ClientOptions,
        *,
        in_thread: bool = False,
    ) -> None:
        check_names(options, ClientOptions, "url", "token", "http", "clock")
        if url.value is None:
            url = Concealed(os.environ.get("ORTEGE_URL"))
        if not url.value:
            raise InvalidArgument("missing server url: pass url=... or set ORTEGE_URL")
        self.endpoint = Endpoint.parse(url)
        parts = urlsplit(self.endpoint.api)
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            _warn_of_plain_http(self.endpoint.host)
        self.tokens = TokenSource(
            os.environ.get("ORTEGE_TOKEN", "") if token.value is None else token.value,
            in_thread=in_thread,
        )
        self.budget = TimeBudget.of(options)
        self.added_keys = AddedKeys()
        self.dialect: Dialect | None = None
        """The WebSocket dialect that worked last with this server."""

    def call(self, now: float, budget: TimeBudget) -> Call:
        """Begin a call."""
        return Call(
            api=self.endpoint.api,
            request_id=str(uuid4()),
            started=now,
            budget=budget,
            tokens=self.tokens,
            token=self.tokens.fixed,
            added_keys=self.added_keys,
        )


class _Calls:
    """What the clients for tasks and those for threads share."""

    _settings: Settings
    _driver: Any
    _watches: WeakSet[Any]
    """The subscriptions, which end with the client; a user may drop them earlier."""

    def __repr__(self) -> str:
        # A traceback also shows a client that could not be created.
        settings = getattr(self, "_settings", None)
        url = settings.endpoint.api if settings is not None else ""
        return f"{type(self).__name__}({url!r})"

    def _call(self, limits: Limits) -> Call:
        self._driver.check_open()
        budget = self._settings.budget.override(limits)
        return self._settings.call(self._driver.clock.now(), budget)


class AsyncCubeClient(AsyncHttpClient, _Calls):
    """A client of a Cube server for tasks of asyncio or trio.

    Every method retries transient failures and repeats the request while the server is
    still working ("Continue wait" is never returned), until its deadline; every method
    takes ``timeout=`` and ``deadline=`` for one call. Besides what is listed there,
    they raise :class:`AuthenticationError` (the token was refused, and so was the next
    one of the token function), :class:`ApiError` and :class:`RateLimited`,
    :class:`TransportError` (no response), :class:`DeadlineExceeded`,
    :class:`DecodeError`, and :class:`OrtegeWatchError` itself if the token function
    failed.

    Args:
        url: the server, such as ``https://host/cubejs-api/v1``; ``https://host``, the
            ``wss://`` form and trailing slashes are accepted. Default: the environment
            variable ``ORTEGE_URL``.
        token: a JWT, or a function or async function that returns one; it is called
            for each call, and again when its token is refused. An async one is cancelled
            after 30 s; a plain one blocks the event loop. A leading ``Bearer`` is
            removed. Default: the environment variable ``ORTEGE_TOKEN``.
        http: your own ``httpx.AsyncClient`` or transport; its timeouts are replaced by
            those here, and it is not closed with this client.
        clock: what reads the time and sleeps; for tests.
        options: see :class:`ClientOptions`.

    Raises:
        InvalidArgument: the URL, the token or an option cannot be used.
    """

    def __init__(
        self,
        url: str | None = None,
        token: TokenLike | None = None,
        *,
        http: AsyncHttp | None = None,
        clock: AsyncClock | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        address, given = Concealed(url), Concealed(token)
        del url, token  # a traceback shows what a frame has
        self._settings = Settings(address, given, options)
        max_size = options.get("max_size", DEFAULT_MAX_SIZE)
        self._driver = AsyncHttpDriver(
            http=http, clock=clock, max_size=max_size, tls=options.get("ssl")
        )
        self._watches = WeakSet()

    async def load(self, query: Query, **limits: Unpack[Limits]) -> Result:
        """Return the rows of a query.

        Raises:
            QueryError: the query compares date ranges; use :meth:`compare`.
            QueryRejected: the server refused the query.
        """
        return await self._driver.arun(calls.load(self._call(limits), query))

    async def load_raw(
        self, query: Mapping[str, Any], **limits: Unpack[Limits]
    ) -> Result:
        """Return the rows of a query in Cube's JSON form, which is sent unchanged.

        The rows have the types that the server's annotation names.

        Raises:
            QueryError: the query is not a mapping, cannot be written as JSON, or
                compares date ranges.
            QueryRejected: the server refused the query.
        """
        return await self._driver.arun(calls.load_raw(self._call(limits), query))

    async def compare(self, query: Query, **limits: Unpack[Limits]) -> list[Result]:
        """Return one result for each date range of ``.compare([range, ...])``, in order.

        Raises:
            QueryError: the query compares no date ranges.
            QueryRejected: the server refused the query.
        """
        return await self._driver.arun(calls.compare(self._call(limits), query))

    async def blend(self, *queries: Query, **limits: Unpack[Limits]) -> list[Result]:
        """Return one result for each query, in order, with a single request.

        Raises:
            QueryError: there are fewer than two queries, or their granularities or
                ``cache`` modes differ.
            QueryRejected: the server refused a query.
        """
        return await self._driver.arun(calls.blend(self._call(limits), queries))

    async def sql(self, query: Query, **limits: Unpack[Limits]) -> Sql:
        """Return the SQL that the server would run for a query.

        Raises:
            QueryError: the query compares date ranges.
            QueryRejected: the server refused the query.
        """
        return await self._driver.arun(calls.sql(self._call(limits), query))

    async def dry_run(self, query: Query, **limits: Unpack[Limits]) -> DryRun:
        """Return the query as the server normalised it, without running it.

        Raises:
            QueryRejected: the server refused the query.
        """
        return await self._driver.arun(calls.dry_run(self._call(limits), query))

    async def meta(self, **limits: Unpack[Limits]) -> Meta:
        """Return the cubes of the server, with their measures, dimensions and segments."""
        return await self._driver.arun(calls.meta(self._call(limits)))

    async def ready(self, **limits: Unpack[Limits]) -> bool:
        """Return whether the server is ready for queries; sends one request, no token.

        Returns:
            ``False`` if the server says so, fails or cannot be reached; :meth:`load`
            raises the reason.

        Raises:
            ApiError: the response is not that of a Cube server's ``/readyz``, which a
                gateway may hide.
        """
        root = self._settings.endpoint.root
        return await self._driver.arun(calls.ready(self._call(limits), root))

    def watch(self, *queries: Query, **options: Unpack[WatchOptions]) -> AsyncUpdates:
        """Subscribe to the results of one or more queries.

        Enter the return value with ``async with`` and iterate over it. It reconnects,
        authenticates and resubscribes by itself, and each :class:`Update` is the
        difference to the last one. Needs asyncio.

        Args:
            queries: the queries, over one connection.
            options: see :class:`WatchOptions`.

        Raises:
            InvalidArgument: an option has an invalid value.
            QueryError: a query cannot be subscribed to.
        """
        self._driver.check_open()
        updates = _watch(self._settings, self._driver, queries, options)
        self._watches.add(updates)
        return updates

    async def aclose(self) -> None:
        """Close the client's subscriptions and connections; it cannot be used afterwards.

        An iteration over a subscription ends.
        """
        try:
            while watches := list(self._watches):
                from ortege_watch.watch.updates import aclose_all  # noqa: PLC0415

                self._watches.clear()
                await aclose_all(watches)
        finally:
            await super().aclose()


class CubeClient(HttpClient, _Calls):
    """A client of a Cube server for threads and scripts; threads may share it.

    Every method retries transient failures and repeats the request while the server is
    still working ("Continue wait" is never returned), until its deadline; every method
    takes ``timeout=`` and ``deadline=`` for one call. Besides what is listed there,
    they raise :class:`AuthenticationError` (the token was refused, and so was the next
    one of the token function), :class:`ApiError` and :class:`RateLimited`,
    :class:`TransportError` (no response), :class:`DeadlineExceeded`,
    :class:`DecodeError`, and :class:`OrtegeWatchError` itself if the token function
    failed.

    The deadline holds for each read and write, unless ``http`` is a transport that does
    not have a connection pool of httpx; there it is checked after each part of a body.

    Args:
        url: the server, such as ``https://host/cubejs-api/v1``; ``https://host``, the
            ``wss://`` form and trailing slashes are accepted. Default: the environment
            variable ``ORTEGE_URL``.
        token: a JWT, or a plain function that returns one; it is called for each call,
            and again when its token is refused. It runs in a daemon thread, with a copy
            of the context variables, for up to 30 s; calls that need a token while it
            is running share its result. A leading ``Bearer`` is removed. Default: the
            environment variable ``ORTEGE_TOKEN``.
        http: your own ``httpx.Client`` or transport; its timeouts are replaced by
            those here, and it is not closed with this client.
        clock: what reads the time and sleeps; for tests.
        options: see :class:`ClientOptions`.

    Raises:
        InvalidArgument: the URL, the token or an option cannot be used.
    """

    def __init__(
        self,
        url: str | None = None,
        token: TokenLike | None = None,
        *,
        http: Http | None = None,
        clock: Clock | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        address, given = Concealed(url), Concealed(token)
        del url, token  # a traceback shows what a frame has
        self._settings = Settings(address, given, options, in_thread=True)
        max_size = options.get("max_size", DEFAULT_MAX_SIZE)
        self._driver = HttpDriver(
            http=http, clock=clock, max_size=max_size, tls=options.get("ssl")
        )
        self._watches = WeakSet()

    def load(self, query: Query, **limits: Unpack[Limits]) -> Result:
        """Return the rows of a query.

        Raises:
            QueryError: the query compares date ranges; use :meth:`compare`.
            QueryRejected: the server refused the query.
        """
        return self._driver.run(calls.load(self._call(limits), query))

    def load_raw(self, query: Mapping[str, Any], **limits: Unpack[Limits]) -> Result:
        """Return the rows of a query in Cube's JSON form, which is sent unchanged.

        The rows have the types that the server's annotation names.

        Raises:
            QueryError: the query is not a mapping, cannot be written as JSON, or
                compares date ranges.
            QueryRejected: the server refused the query.
        """
        return self._driver.run(calls.load_raw(self._call(limits), query))

    def compare(self, query: Query, **limits: Unpack[Limits]) -> list[Result]:
        """Return one result for each date range of ``.compare([range, ...])``, in order.

        Raises:
            QueryError: the query compares no date ranges.
            QueryRejected: the server refused the query.
        """
        return self._driver.run(calls.compare(self._call(limits), query))

    def blend(self, *queries: Query, **limits: Unpack[Limits]) -> list[Result]:
        """Return one result for each query, in order, with a single request.

        Raises:
            QueryError: there are fewer than two queries, or their granularities or
                ``cache`` modes differ.
            QueryRejected: the server refused a query.
        """
        return self._driver.run(calls.blend(self._call(limits), queries))

    def sql(self, query: Query, **limits: Unpack[Limits]) -> Sql:
        """Return the SQL that the server would run for a query.

        Raises:
            QueryError: the query compares date ranges.
            QueryRejected: the server refused the query.
        """
        return self._driver.run(calls.sql(self._call(limits), query))

    def dry_run(self, query: Query, **limits: Unpack[Limits]) -> DryRun:
        """Return the query as the server normalised it, without running it.

        Raises:
            QueryRejected: the server refused the query.
        """
        return self._driver.run(calls.dry_run(self._call(limits), query))

    def meta(self, **limits: Unpack[Limits]) -> Meta:
        """Return the cubes of the server, with their measures, dimensions and segments."""
        return self._driver.run(calls.meta(self._call(limits)))

    def ready(self, **limits: Unpack[Limits]) -> bool:
        """Return whether the server is ready for queries; sends one request, no token.

        Returns:
            ``False`` if the server says so, fails or cannot be reached; :meth:`load`
            raises the reason.

        Raises:
            ApiError: the response is not that of a Cube server's ``/readyz``, which a
                gateway may hide.
        """
        root = self._settings.endpoint.root
        return self._driver.run(calls.ready(self._call(limits), root))

    def watch(self, *queries: Query, **options: Unpack[WatchOptions]) -> Updates:
        """Subscribe to the results of one or more queries.

        Enter the return value with ``with`` and iterate over it. It reconnects,
        authenticates and resubscribes by itself, and each :class:`Update` is the
        difference to the last one. The subscription has a thread of its own, which also
        calls the callbacks; a token function is called in another one, so that it may
        block.

        Args:
            queries: the queries, over one connection.
            options: see :class:`WatchOptions`.

        Raises:
            InvalidArgument: an option has an invalid value.
            QueryError: a query cannot be subscribed to.
        """
        from ortege_watch.watch.updates import Updates  # noqa: PLC0415

        self._driver.check_open()
        driver = AsyncHttpDriver(max_size=self._driver.max_size, tls=self._driver.tls)
        updates = _watch(self._settings, driver, queries, options)
        watch = Updates(
            updates, aclose=driver.aclose, server=self._settings.endpoint.host
        )
        self._watches.add(watch)
        return watch

    def close(self) -> None:
        """Close the client's subscriptions and connections; it cannot be used afterwards.

        An iteration over a subscription ends.
        """
        try:
            while watches := list(self._watches):
                from ortege_watch.watch.updates import close_all  # noqa: PLC0415

                self._watches.clear()
                close_all(watches)
        finally:
            super().close()


def _watch(
    settings: Settings,
    driver: AsyncHttpDriver,
    queries: Sequence[Query],
    options: WatchOptions,
) -> AsyncUpdates:
    check_environment(driver.tls)  # also where REST requests use a client of the caller
    # Importing websockets takes longer than all the rest, and REST needs none of it.
    from ortege_watch.watch.runner import Subscription, Target  # noqa: PLC0415
    from ortege_watch.watch.updates import AsyncUpdates  # noqa: PLC0415

    def poll(query: Query) -> Awaitable[ResultPart]:
        try:
            driver.check_open()  # the client of httpx may be the user's
        except OrtegeWatchError as error:
            raise SubscriptionLost(f"polling is not possible: {error}") from error
        # One attempt: the subscription has a back-off of its own.
        deadline = min(settings.budget.deadline or _POLL_WITHIN, _POLL_WITHIN)
        budget = evolve(settings.budget, deadline=deadline, retry=Retry(attempts=1))
        call = settings.call(driver.clock.now(), budget)
        return driver.arun(calls.snapshot(call, query))

    def remember(dialect: Dialect) -> None:
        settings.dialect = dialect

    expires = expiry(settings.tokens.fixed)
    target = Target(
        url=settings.endpoint.socket,
        token=partial(settings.tokens.aget, math.inf),  # the session limits it
        advice=lambda: settings.tokens.advice(time.time()),
        token_expires=not settings.tokens.fixed,
        # beyond that, datetime has no years
        fixed_until=expires if expires and expires < _YEAR_9999 else None,
        poll=poll,
        clock=driver.clock,
        added_keys=settings.added_keys,
        max_size=driver.max_size,
        tls=driver.tls,
    )
    return AsyncUpdates(
        Subscription(
            queries,
            options,
            target=target,
            remembered=settings.dialect,
            remember=remember,
        )
    )
