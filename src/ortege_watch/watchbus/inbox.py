"""Take alerts over HTTP: an ASGI 3 application around a verifier and a handler."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, Protocol, TypeAlias

from anyio import to_thread

from ortege_watch.errors import (
    DecodeError,
    OrtegeWatchError,
    SignatureError,
    SignatureReason,
)
from ortege_watch.watchbus.models import AlertInfo, decode_alerts
from ortege_watch.watchbus.signing import CONTENT_TYPE, Headers
from ortege_watch.watchbus.verifier import MemoryNonces, RequestVerifier
from ortege_watch.watchbus.wire import ResultCode, error_answer, ok_answer, refusal

__all__ = [
    "AlertApp",
    "AlertHandler",
    "HandledAlerts",
    "Handling",
    "Once",
    "RecentAlerts",
    "alert_app",
]

logger: Final = logging.getLogger("ortege_watch.watchbus")

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

AlertHandler: TypeAlias = Callable[[AlertInfo], object]
"""A function, plain or async, that takes one alert."""


class HandledAlerts(Protocol):
    """Remember which alerts were handled; a ``set`` fits, apart from its growth."""

    def __contains__(self, key: object, /) -> bool: ...

    def add(self, key: str, /) -> None:
        """Remember an alert by its dedupe key; called when its handler returned."""
        ...


class RecentAlerts:
    """Remember the alerts that were handled last, in this process's memory.

    Args:
        limit: how many. The oldest is forgotten: it would be handled again.
    """

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self._keys: dict[str, None] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def add(self, key: str) -> None:
        """Remember an alert by its dedupe key."""
        self._keys[key] = None
        if len(self._keys) > self._limit:
            del self._keys[next(iter(self._keys))]


class Once:
    """Call a handler for an alert that was not handled before.

    Args:
        handler: takes one alert; a plain function runs in a worker thread.
        handled: remembers alerts by their dedupe keys.
    """

    def __init__(self, handler: AlertHandler, handled: HandledAlerts) -> None:
        self._handler = handler
        self._handled = handled
        # An object may be a handler, too.
        call = getattr(type(handler), "__call__", None)  # noqa: B004 - which one it is
        self._is_async = any(map(inspect.iscoroutinefunction, (handler, call)))

    async def handle(self, key: str, alert: AlertInfo) -> bool:
        """Handle an alert and remember its key; tell whether it is done."""
        try:
            if key not in self._handled:
                await self._call(alert)
                self._handled.add(key)
        except Exception:
            logger.exception("an alert was not handled: %s", alert.event_code)
            return False
        return True

    async def _call(self, alert: AlertInfo) -> None:
        if self._is_async:
            result = self._handler(alert)
        else:
            result = await to_thread.run_sync(self._handler, alert)
        if inspect.isawaitable(result):
            await result


def alert_app(
    verifier: RequestVerifier,
    handler: AlertHandler,
    *,
    handled: HandledAlerts | None = None,
) -> AlertApp:
    """Make an ASGI 3 application that receives alerts.

    Run it with any ASGI server, or mount it into another application. The verifier's
    path is the whole path that the sender asked for, so mount at a prefix of it.

    The sender is told that all is well when the handler returned for every alert of its
    request. If one raises, the others are handled all the same, and the answer is a
    500: the sender tries again, and then only what failed is handled. An alert that
    came before is skipped, whatever request it is in.

    Args:
        verifier: accepts the requests; its ``path`` and ``max_body`` are the app's.
        handler: called with each alert, one after the other for a request. A plain
            function runs in a worker thread, an async one on the event loop.
        handled: remembers alerts by :meth:`AlertInfo.dedupe_key`, on the event loop;
            by default the last 100,000 in memory. Give one with a file behind it to
            have the same after a restart.
    """
    memory = RecentAlerts() if handled is None else handled
    return AlertApp(verifier, handler, memory)


class AlertApp:
    """Be the application; :func:`alert_app` makes it.

    It is an object and no function, so that Starlette's ``Route`` takes it as an ASGI
    application.
    """

    def __init__(
        self, verifier: RequestVerifier, handler: AlertHandler, handled: HandledAlerts
    ) -> None:
        self._verifier = verifier
        self._once = Once(handler, handled)
        self._running: set[str] = set()
        # A store with a file or a network behind it must not stop the event loop.
        self._waits = not isinstance(verifier.nonces, MemoryNonces)

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
                raise OrtegeWatchError(f"an ASGI connection of type {kind!r}")

    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        more: list[tuple[bytes, bytes]] = []
        try:
            # First of all: an answer while the body is still on its way may be lost.
            body = await self._body(receive)
            if body is None:
                return  # the sender is gone, and nobody waits for an answer
            self._verifier.check_target(self._target(scope))
            if scope["method"] == self._verifier.method:
                status, answer = await self._take(scope["headers"], body)
            else:
                more = [(b"allow", self._verifier.method.encode())]
                problem = "method not allowed"
                status, answer = 405, error_answer(ResultCode.SERVER_ERROR, problem)
        except SignatureError as error:
            logger.warning("a request is refused: %s", error)
            status, answer = refusal(error)
            if status == 413 and str(scope.get("http_version", "1.1")) < "2":
                more = [(b"connection", b"close")]  # the rest is not waited for
        except DecodeError as error:
            logger.warning("a signed request cannot be read: %s", error)
            problem = "; ".join(error.problems)
            status, answer = 400, error_answer(ResultCode.SERVER_ERROR, problem)
        except OrtegeWatchError:
            logger.exception("a request could not be verified")
            status, answer = 503, error_answer(ResultCode.SERVER_ERROR, "try again")
        await _answer(send, status, answer, more)

    def _target(self, scope: Message) -> str:
        """Return what was asked: the whole path, also where the app is mounted."""
        # Some frameworks leave a mount's prefix in the path, some cut it off.
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
                problem = f"the body has more than {limit} bytes"
                raise SignatureError(SignatureReason.BODY_TOO_LARGE, problem)
            if not message.get("more_body", False):
                return bytes(body)

    async def _take(self, headers: Headers, body: bytes) -> tuple[int, bytes]:
        if self._waits:
            app_id = await to_thread.run_sync(self._verifier.verify, headers, body)
        else:
            app_id = self._verifier.verify(headers, body)
        done = [await self._handle(each, app_id) for each in decode_alerts(body)]
        if all(done):
            return 200, ok_answer()
        return 500, error_answer(ResultCode.SERVER_ERROR, "an alert was not handled")

    async def _handle(self, alert: AlertInfo, app_id: str) -> bool:
        """Handle an alert, unless that was done before; tell whether it is done."""
        key = alert.dedupe_key(app_id)
        if key in self._running:
            return False  # by another request; the sender asks again, and sees
        self._running.add(key)
        try:
            return await self._once.handle(key, alert)
        finally:
            self._running.discard(key)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _answer(
    send: Send, status: int, body: bytes, more: list[tuple[bytes, bytes]]
) -> None:
    length = (b"content-length", str(len(body)).encode())
    head = [(b"content-type", CONTENT_TYPE.encode()), length, *more]
    try:
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": body})
    except OSError:
        logger.debug("the sender left before the answer")


# -------------------- Hand alerts to a handler, each of them once, and say what became of them.


class Handling:
    """Call a handler for each alert that was not handled before.

    Each call is a task of its own: it outlives the connection that brought the alert.
    The sender brings the alert again over the next one, and that one waits for the call
    that is still running.

    Args:
        handler: takes one alert; a plain function runs in a worker thread.
        handled: remembers alerts by their dedupe keys.
    """

    def __init__(self, handler: AlertHandler, handled: HandledAlerts) -> None:
        self._once = Once(handler, handled)
        self._running: dict[str, asyncio.Task[bool]] = {}

    async def take(self, body: bytes, app_id: str) -> tuple[int, bytes]:
        """Handle the alerts of a body, one after the other.

        Returns:
            The HTTP status and the envelope that answer it.
        """
        try:
            alerts = decode_alerts(body)
        except DecodeError as error:
            logger.warning("signed alerts cannot be read: %s", error)
            problem = "; ".join(error.problems)
            return 400, error_answer(ResultCode.SERVER_ERROR, problem)
        done = [await self._handle(each, app_id) for each in alerts]
        if all(done):
            return 200, ok_answer()
        return 500, error_answer(ResultCode.SERVER_ERROR, "an alert was not handled")

    async def _handle(self, alert: AlertInfo, app_id: str) -> bool:
        """Handle an alert, unless that was done before; tell whether it is done."""
        key = alert.dedupe_key(app_id)
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(self._once.handle(key, alert))
            self._running[key] = task
            task.add_done_callback(lambda _: self._running.pop(key))
        # Its own end by cancellation must not look like the waiting one's.
        await asyncio.wait([task])
        return not task.cancelled() and task.result()

    async def settle(self) -> None:
        """Wait until no call is running."""
        while self._running:
            await asyncio.wait(self._running.values())

    def cancel(self) -> None:
        """Cancel every call; a plain function runs to its end all the same."""
        for task in self._running.values():
            task.cancel()
