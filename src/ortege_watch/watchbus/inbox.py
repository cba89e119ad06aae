"""Receive alerts: each is handled once, over HTTP (an ASGI application) or a channel."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Container, MutableMapping, Sequence
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import anyio
import sniffio
from anyio import to_thread
from attrs import define, field

from ortege_watch._checks import check_callable, check_int, check_kind
from ortege_watch.errors import DecodeError, OrtegeWatchError, SignatureError
from ortege_watch.watchbus.models import AlertInfo
from ortege_watch.watchbus.signing import CONTENT_TYPE, Headers, signature_headers
from ortege_watch.watchbus.verifier import MemoryNonces, RequestVerifier, body_too_large
from ortege_watch.watchbus.wire import ResultCode, error_answer, ok_answer, refusal

logger: Final = logging.getLogger("ortege_watch.watchbus")

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
T = TypeVar("T")

AlertHandler: TypeAlias = Callable[[AlertInfo], object]
"""A function, plain or async, that takes one alert."""


class HandledAlerts(Container[object], Protocol):
    """The dedupe keys of handled alerts; a ``set`` works, but grows without limit."""

    def add(self, key: str, /) -> None:
        """Add a key; called when the handler has returned."""
        ...


class AlertInbox:
    """The alerts that were handled or are being handled; each is handled once.

    Share one between :func:`alert_app` and :func:`serve_alert_channel` to have each
    alert handled once, whether it arrives over HTTP, WebSocket or both at the same
    time. All users of an inbox must run on the same event loop.

    Args:
        handled: the dedupe keys (:meth:`AlertInfo.dedupe_key`) of handled alerts, used
            on the event loop. Pass one that is stored in a file to keep them across
            restarts; the default is the last ``limit`` keys in memory.
        limit: how many keys to keep in memory. An alert whose key was dropped is
            handled again if it arrives again.

    Raises:
        InvalidArgument: ``limit`` is not positive.
    """

    def __init__(
        self, handled: HandledAlerts | None = None, *, limit: int = 100_000
    ) -> None:
        check_int("limit", limit)
        self._handled = handled
        self._limit = limit
        self._recent: dict[str, None] = {}
        self._running: dict[str, _Call] = {}

    def __contains__(self, key: object) -> bool:
        return key in (self._recent if self._handled is None else self._handled)

    async def handle(
        self, alert: AlertInfo, app_id: str, handler: AlertHandler
    ) -> bool:
        """Call the handler with an alert, unless the alert was handled before.

        While another call handles the same alert, wait for it and return its result.

        Args:
            alert: the alert.
            app_id: the id of the app that sent it.
            handler: a plain function runs in a worker thread, an async one on the
                event loop.

        Returns:
            Whether the alert is handled. An exception of the handler is logged.
        """
        key = alert.dedupe_key(app_id)
        if (running := self._running.get(key)) is not None:
            await running.finished.wait()
            return running.handled
        call = self._running[key] = _Call()
        try:
            if key in self:
                call.handled = True
                return True
            try:
                await call.run(handler, alert)
            finally:  # a call that is cancelled may have returned in its thread
                if call.returned:
                    self._add(key)
                    call.handled = True
        except Exception:
            problem = "the handler failed: %s at %s, from app %s"
            logger.exception(problem, alert.event_code, alert.entity, app_id)
        finally:  # also where this is cancelled
            del self._running[key]
            call.finished.set()
        return call.handled

    async def answer(
        self, alerts: Sequence[AlertInfo], app_id: str, handler: AlertHandler
    ) -> tuple[int, bytes]:
        """Handle alerts one after the other, as :meth:`handle`.

        Returns:
            The HTTP status and the body of the response to the sender.
        """
        handled = [await self.handle(each, app_id, handler) for each in alerts]
        if all(handled):
            return 200, ok_answer()
        return 500, error_answer(ResultCode.SERVER_ERROR, "an alert was not handled")

    def _add(self, key: str) -> None:
        if self._handled is not None:
            self._handled.add(key)
            return
        self._recent[key] = None
        if len(self._recent) > self._limit:
            del self._recent[next(iter(self._recent))]


@define(eq=False)
class _Call:
    """A call of a handler, for the duplicates that wait for it."""

    finished: anyio.Event = field(factory=anyio.Event)
    returned: bool = False
    handled: bool = False

    async def run(self, handler: AlertHandler, alert: AlertInfo) -> None:
        """Call the handler and wait for it, a plain function in a thread."""
        call = getattr(type(handler), "__call__", None)  # noqa: B004 - an object's
        if any(map(inspect.iscoroutinefunction, (handler, call))):
            result = handler(alert)
        else:
            result = await _in_thread(self._run, handler, alert)
        if inspect.isawaitable(result):
            await result
        self.returned = True

    def _run(self, handler: AlertHandler, alert: AlertInfo) -> object:
        result = handler(alert)
        self.returned = not inspect.isawaitable(result)
        return result


async def _in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Call a function in a thread, and wait for it even where this is cancelled.

    After a ``Task.cancel()`` of asyncio, anyio does not wait for the thread.
    """
    if sniffio.current_async_library() != "asyncio":
        return await to_thread.run_sync(function, *arguments)
    task = asyncio.ensure_future(to_thread.run_sync(function, *arguments))
    cancelled = False
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                cancelled = True
    if cancelled:
        raise asyncio.CancelledError from task.exception()
    return task.result()


async def run_verifier(
    verifier: RequestVerifier,
    check: Callable[[Headers, bytes], T],
    headers: Headers,
    body: bytes,
) -> T:
    """Call a method of the verifier; in a thread if its store of nonces may block."""
    if isinstance(verifier.nonces, MemoryNonces):
        return check(headers, body)
    return await to_thread.run_sync(check, headers, body)


def error_response(error: Exception) -> tuple[int, bytes]:
    """Log why a request was not accepted; return the status and the body to answer."""
    if isinstance(error, SignatureError):
        logger.warning("request refused: %s", error)
        return refusal(error)
    if isinstance(error, DecodeError):
        logger.warning("signed request cannot be decoded: %s", error)
        return 400, error_answer(ResultCode.SERVER_ERROR, "; ".join(error.problems))
    logger.error("request could not be verified", exc_info=error)
    return 503, error_answer(ResultCode.SERVER_ERROR, "try again")


def check_receiver(verifier: object, handler: object, inbox: object) -> None:
    """Raise :class:`InvalidArgument` unless alerts can be received with them."""
    check_kind("verifier", verifier, RequestVerifier)
    check_callable("handler", handler)
    check_kind("inbox", inbox, AlertInbox | None, "an AlertInbox")


def alert_app(
    verifier: RequestVerifier,
    handler: AlertHandler,
    *,
    inbox: AlertInbox | None = None,
) -> AlertApp:
    """Return an ASGI 3 application that receives alerts.

    Run it with any ASGI server, or mount it into another application. The verifier's
    ``path`` is the whole path of the request, with the prefix of the mount.

    The response is 200 when the handler has returned for every alert of the request. If
    the handler raises, the other alerts are handled all the same and the response is
    500; the sender retries, and only what failed is handled again. An alert that was
    handled before is skipped; one that another request or a channel is handling is
    not handled twice: the response is sent when it has been handled.

    Args:
        verifier: accepts the requests; its ``path`` and ``max_body`` are the app's.
        handler: called with each alert, one after the other for a request. A plain
            function runs in a worker thread, an async one on the event loop.
        inbox: remembers the handled alerts; by default the last 100,000 in memory.

    Raises:
        InvalidArgument: an argument cannot be used.
    """
    check_receiver(verifier, handler, inbox)
    return AlertApp(verifier, handler, AlertInbox() if inbox is None else inbox)


@define(eq=False)
class AlertApp:
    """The application that :func:`alert_app` returns.

    It is an object because Starlette's ``Route`` takes a function for an endpoint of
    its own kind.
    """

    _verifier: RequestVerifier
    _handler: AlertHandler
    _inbox: AlertInbox

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        match scope["type"]:
            case "http":
                await self._http(scope, receive, send)
            case "lifespan":
                await _lifespan(receive, send)
            case "websocket":
                await send({"type": "websocket.close", "code": 1008})
            case kind:
                raise OrtegeWatchError(f"unexpected type of ASGI connection: {kind!r}")

    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        extra: list[tuple[bytes, bytes]] = []
        try:
            # Read the body first: the client may lose an early response.
            body = await self._body(receive)
        except SignatureError as error:  # it is too large
            status, answer = error_response(error)
            if str(scope.get("http_version", "1.1")) < "2":
                extra = [(b"connection", b"close")]  # the rest is not read
        else:
            if body is None:
                return  # the client has disconnected
            status, answer = await self._take(scope, body)
            if status == 405:
                extra = [(b"allow", self._verifier.method.encode())]
        await _respond(send, status, answer, extra)

    async def _take(self, scope: Message, body: bytes) -> tuple[int, bytes]:
        verifier, headers = self._verifier, scope["headers"]
        try:
            verifier.check_target(self._target(scope))
            if scope["method"] != verifier.method:
                return 405, error_answer(ResultCode.SERVER_ERROR, "method not allowed")
            alerts = await run_verifier(verifier, verifier.alerts, headers, body)
        except Exception as error:  # noqa: BLE001 - it is logged
            return error_response(error)
        app_id = signature_headers(headers)[0]
        return await self._inbox.answer(alerts, app_id, self._handler)

    def _target(self, scope: Message) -> str:
        """Return the whole path and the query, also where the app is mounted."""
        # Some frameworks leave a mount's prefix in the path, some remove it.
        path = scope["path"]
        raw_path = (scope.get("raw_path") or b"").decode("latin-1")
        known = self._verifier.path
        if known in {scope.get("root_path", "") + path, raw_path}:
            path = known
        query = scope.get("query_string", b"").decode("latin-1")
        return f"{path}?{query}" if query else path

    async def _body(self, receive: Receive) -> bytes | None:
        limit = self._verifier.max_body
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > limit:
                raise body_too_large(limit)
            if not message.get("more_body", False):
                return bytes(body)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _respond(
    send: Send, status: int, body: bytes, extra: list[tuple[bytes, bytes]]
) -> None:
    length = (b"content-length", str(len(body)).encode())
    head = [(b"content-type", CONTENT_TYPE.encode()), length, *extra]
    try:
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": body})
    except OSError:
        logger.debug("the client disconnected before the response")
