"""Signed requests over ASGI: read, verify, answer; and the application for alerts.

The headers are checked before the body is read, so a request that names no known app
costs no memory: its body is read and thrown away. The signature can be checked only when
the whole body is there, so few large bodies are read at once; further ones wait.
"""

from __future__ import annotations

import math
import os
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    MutableMapping,
)
from multiprocessing import parent_process
from typing import Any, Final, Self, TypeAlias, TypeVar

import anyio
from attrs import define, evolve, frozen

from ortege_watch._checks import check_int, check_seconds
from ortege_watch.errors import OrtegeWatchError
from ortege_watch.watchbus.handled import MemoryHandled
from ortege_watch.watchbus.inbox import (
    AlertHandler,
    AlertInbox,
    InboxAnswer,
    check_method,
    check_receiver,
    error_response,
    handle_all,
    logger,
    shown_request,
)
from ortege_watch.watchbus.models import Alerts, read_alerts
from ortege_watch.watchbus.receiving import FrameReceiver
from ortege_watch.watchbus.signing import CONTENT_TYPE
from ortege_watch.watchbus.threads import run_verifier
from ortege_watch.watchbus.verifier import (
    Head,
    MemoryNonces,
    RequestChecks,
    RequestVerifier,
    body_too_large,
    checks_of,
)
from ortege_watch.watchbus.wire import ResultCode, error_answer

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
T = TypeVar("T")

READ_WITHIN: Final = 30.0
"""Seconds in which the body of a request must arrive."""

CHECK_EVERY: Final = 20.0
"""Seconds after which it is checked that the secret of a channel is still valid."""

LARGE_BODIES: Final = 16
"""The number of large bodies that an application reads at once."""

_RETRY_AFTER: Final = 5  # seconds

_SMALL_BODY: Final = 64 * 1024
"""Bytes that every connection may cost; a server of HTTP buffers as many."""

_DRAINED: Final = 16 * 1024 * 1024
"""The most bytes that are thrown away of the body of a refused request."""


@frozen
class HttpAnswer:
    """The response to a request: an HTTP status, a JSON body, and further headers."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


class _Refused(Exception):
    """Raised for a request that is answered without verifying its signature."""

    def __init__(self, status: int, reason: str, *headers: tuple[bytes, bytes]) -> None:
        body = error_answer(ResultCode.SERVER_ERROR, reason)
        self.answer = HttpAnswer(status, body, headers)
        super().__init__(reason)


class RequestBody:
    """The body of a request, to be read once.

    A large one takes a place while it is read, and until the ``with`` block ends.

    Args:
        receive: the function of the ASGI server.
        within: seconds in which the whole body must arrive.
        places: what limits the number of large bodies.

    Attributes:
        ended: everything has been read.
        disconnected: the client has disconnected before the end.
    """

    def __init__(
        self, receive: Receive, within: float, places: anyio.Semaphore
    ) -> None:
        self._receive = receive
        self._deadline = anyio.current_time() + within
        self._places = places
        self._has_place = False
        self.ended = False
        self.disconnected = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._has_place:
            self._places.release()

    async def read(self, limit: int, length: int = 0) -> bytes:
        """Return the body, whose length the client may have said.

        Raises:
            SignatureError: it has more than ``limit`` bytes; the rest is not read.
        """
        if length > limit:
            raise body_too_large(limit)
        if length > _SMALL_BODY:
            await self._take_place()
        body = bytearray()
        async for piece in self._pieces():
            body += piece
            if len(body) > limit:
                raise body_too_large(limit)
            if len(body) > _SMALL_BODY and not self.ended:
                await self._take_place()
        return bytes(body)

    async def _take_place(self) -> None:
        if self._has_place:
            return
        with anyio.CancelScope(deadline=self._deadline):
            await self._places.acquire()
            self._has_place = True
        if not self._has_place:
            later = (b"retry-after", b"%d" % _RETRY_AFTER)
            raise _Refused(503, "too many large requests at once", later)

    async def drain(self) -> None:
        """Read the rest and throw it away, as far as the limits of size and time go.

        Many clients lose a response that is sent before they have sent everything.
        """
        size = 0
        try:
            async for piece in self._pieces():
                size += len(piece)
                if size > _DRAINED:
                    return
        except _Refused:  # it is late
            pass

    async def _pieces(self) -> AsyncIterator[bytes]:
        while not (self.ended or self.disconnected):
            message: Message | None = None
            with anyio.CancelScope(deadline=self._deadline):
                message = await self._receive()
            if message is None:
                raise _Refused(408, "the body did not arrive in time")
            self.disconnected = message["type"] == "http.disconnect"
            self.ended = not message.get("more_body", False)
            yield message.get("body", b"")


async def serve_request(
    scope: Message,
    receive: Receive,
    send: Send,
    checks: RequestChecks,
    read: Callable[[bytes, str], T],
    act: Callable[[T], Awaitable[HttpAnswer]],
    places: anyio.Semaphore,
    *,
    read_within: float = READ_WITHIN,
) -> None:
    """Verify a signed request and send the response to it.

    Args:
        scope: an ASGI scope of type ``http``.
        receive: the function of the ASGI server.
        send: the function of the ASGI server.
        checks: those of the request's path and method.
        read: decodes the body, and is given the app id; called before the nonce is
            stored, and in a thread if that may block.
        act: returns the response; called with the result of ``read``.
        places: what limits the number of large bodies of the application.
        read_within: seconds in which the whole body must arrive.
    """
    body = RequestBody(receive, read_within, places)
    try:
        accepted = await _read_and_check(scope, body, checks, read)
    except Exception as error:  # noqa: BLE001 - it is logged
        # The error ends here: its traceback has the frames that have the content.
        refusal = refusal_of(error, scope)
    else:
        if accepted:
            await respond(send, await act(*accepted))
        return
    await refuse_request(scope, body, send, refusal)


async def _read_and_check(
    scope: Message,
    body: RequestBody,
    checks: RequestChecks,
    read: Callable[[bytes, str], T],
) -> tuple[T] | None:
    """Return the result of ``read``; ``None`` if the client has disconnected."""
    head = await _check_head(scope, checks)
    with body:
        content = await body.read(checks.max_body, _length(scope["headers"]))
        if body.disconnected:
            return None
        head = checks.check_again(head)
        may_block = checks.nonces_may_block
        return (await run_verifier(may_block, checks.accept, head, content, read),)


async def refuse_request(
    scope: Message, body: RequestBody, send: Send, answer: HttpAnswer
) -> None:
    """Send the response to a request that is refused."""
    await body.drain()
    if not body.ended and str(scope.get("http_version", "1.1")) < "2":
        answer = evolve(answer, headers=(*answer.headers, (b"connection", b"close")))
    if not body.disconnected:
        await respond(send, answer)


async def _check_head(scope: Message, checks: RequestChecks) -> Head:
    """Refuse a request by what is known of it before its body is read."""
    checks.check_target(whole_target(scope, checks.path))
    if scope["method"] != checks.method:
        allowed = (b"allow", checks.method.encode())
        raise _Refused(405, "method not allowed", allowed)
    return await checks.find_head(scope["headers"])


def _length(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Return the length of a body, as the client has said it; else 0."""
    length = dict(headers).get(b"content-length", b"")
    return int(length) if length.isdigit() and len(length) < 20 else 0


def refusal_of(error: Exception, scope: Message) -> HttpAnswer:
    """Log why a request is refused, and return the response to it."""
    method, path = scope.get("method", "WebSocket"), whole_path(scope)
    request = shown_request(scope["headers"], method, path, scope.get("client"))
    if isinstance(error, _Refused):
        logger.warning("request refused: %s: %s", request, error)
        return error.answer
    return http_answer(error_response(error, request))


def http_answer(answer: InboxAnswer) -> HttpAnswer:
    """Return the response to a request, with ``Retry-After`` if it is to be retried."""
    if answer.retry_after is None:
        return HttpAnswer(answer.status, answer.body)
    after = str(math.ceil(answer.retry_after)).encode()
    return HttpAnswer(answer.status, answer.body, ((b"retry-after", after),))


def whole_path(scope: Message) -> str:
    """Return the path of a request, with the prefix of a mount."""
    # Some frameworks leave a mount's prefix in the path, some remove it.
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path if path.startswith(f"{root}/") else root + path


def whole_target(scope: Message, known: str) -> str:
    """Return the whole path and the query of a request, also where the app is mounted.

    ``known`` is the path that is expected, with the prefix of the mount.
    """
    # Some frameworks leave a mount's prefix in the path, some remove it.
    path = scope["path"]
    raw_path = (scope.get("raw_path") or b"").decode("latin-1")
    if known in {scope.get("root_path", "") + path, raw_path}:
        path = known
    query = scope.get("query_string", b"").decode("latin-1")
    return f"{path}?{query}" if query else path


def warn_of_workers(*stores: object) -> None:
    """Log a warning where several workers would have such stores, one each."""
    advice = {
        MemoryNonces: "nonces in SQLiteNonces(path)",
        MemoryHandled: "handled alerts in SQLiteHandled(path)",
    }
    shared = [text for kind, text in advice.items() if kind in map(type, stores)]
    signs = {
        "this is a child process": parent_process() is not None,
        "WEB_CONCURRENCY": os.environ.get("WEB_CONCURRENCY", "").isdigit()
        and int(os.environ["WEB_CONCURRENCY"]) > 1,
        "gunicorn": os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn"),
    }
    found = ", ".join(sign for sign, is_there in signs.items() if is_there)
    if shared and found:
        logger.warning(
            "there may be several worker processes (%s), and each would accept the same"
            " request: keep %s",
            found,
            " and ".join(shared),
        )


async def lifespan(receive: Receive, send: Send) -> None:
    """Serve an ASGI scope of type ``lifespan``: there is nothing to start or stop."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def respond(send: Send, answer: HttpAnswer, kind: str = "http.response") -> None:
    """Send a response, unless the client has disconnected."""
    length = (b"content-length", str(len(answer.body)).encode())
    head = [(b"content-type", CONTENT_TYPE.encode()), length, *answer.headers]
    start = {"type": f"{kind}.start", "status": answer.status, "headers": head}
    try:
        await send(start)
        await send({"type": f"{kind}.body", "body": answer.body})
    except OSError:
        logger.debug("the client disconnected before the response")


class SignedApp:
    """Base class of ASGI 3 applications whose requests are signed.

    They are objects because Starlette's ``Route`` takes a function for an endpoint of
    its own kind.
    """

    _checks: RequestChecks

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._checks!r})"

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        match scope["type"]:
            case "http":
                await self._http(scope, receive, send)
            case "lifespan":
                await lifespan(receive, send)
            case "websocket":
                await self._websocket(scope, receive, send)
            case kind:
                raise OrtegeWatchError(f"unexpected type of ASGI connection: {kind!r}")

    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        raise NotImplementedError

    async def _websocket(self, scope: Message, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "websocket.close", "code": 1008})


def alert_app(
    verifier: RequestVerifier,
    handler: AlertHandler,
    *,
    inbox: AlertInbox | None = None,
    channel: bool = False,
    read_within: float = READ_WITHIN,
    large_bodies: int = LARGE_BODIES,
) -> AlertApp:
    """Return an ASGI 3 application that receives alerts.

    Run it with any ASGI server, or mount it into another application. The verifier's
    ``path`` is the whole path of the request, with the prefix of the mount.

    The response is 200 when the handler has returned for every alert of the request. If
    the handler raises, the other alerts are handled all the same and the response is
    500; the sender retries, and only what failed is handled again. An alert that was
    handled before is skipped; one that another request or a channel is handling is
    not handled twice: the response is sent when it has been handled.

    The headers are checked before the body is read.

    Args:
        verifier: accepts the requests; its ``path`` and ``max_body`` are the app's.
        handler: called with each alert, one after the other for a request. A plain
            function runs in a worker thread, an async one on the event loop.
        inbox: remembers the handled alerts; by default the last 100,000 of each app, in
            memory.
        channel: also accept WebSockets of an :class:`AlertChannel` at the same path
            (experimental). The ASGI server sends the pings.
        read_within: seconds in which the whole body of a request must arrive.
        large_bodies: how many bodies of more than 64 KiB are in memory at once before
            their signature is checked. Further ones wait; if they wait longer than
            ``read_within``, the response is 503 with ``Retry-After``.

    Raises:
        InvalidArgument: an argument cannot be used.
    """
    check_receiver(verifier, handler, inbox)
    check_method(verifier)
    check_seconds("read_within", read_within)
    check_int("large_bodies", large_bodies)
    inbox = AlertInbox() if inbox is None else inbox
    warn_of_workers(verifier.nonces, inbox.handled)
    frames, checks = None, checks_of(verifier)
    if channel:
        get = evolve(checks, method="GET")
        frames = FrameReceiver(get, handler, inbox, CHECK_EVERY)
    places = anyio.Semaphore(large_bodies)
    return AlertApp(checks, handler, inbox, read_within, places, frames)


@define(eq=False, repr=False)
class AlertApp(SignedApp):
    """The application that :func:`alert_app` returns."""

    _checks: RequestChecks
    _handler: AlertHandler
    _inbox: AlertInbox
    _read_within: float
    _places: anyio.Semaphore
    _frames: FrameReceiver | None

    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        async def act(alerts: Alerts) -> HttpAnswer:
            return http_answer(
                await handle_all(self._inbox, alerts, alerts.app_id, self._handler)
            )

        await serve_request(
            scope,
            receive,
            send,
            self._checks,
            _read,
            act,
            self._places,
            read_within=self._read_within,
        )

    async def _websocket(self, scope: Message, receive: Receive, send: Send) -> None:
        if self._frames is None:
            problem = "WebSocket refused: pass channel=True to alert_app: %s"
            path, peer = whole_path(scope), scope.get("client")
            request = shown_request(scope["headers"], "WebSocket", path, peer)
            logger.warning(problem, request)
            await super()._websocket(scope, receive, send)
            return
        await receive()  # that a client wants to connect
        target = whole_target(scope, self._checks.path)
        try:
            await self._frames.admit(target, scope["headers"])
        except Exception as error:  # noqa: BLE001 - it is logged
            await _refuse_websocket(scope, send, refusal_of(error, scope))
            return
        try:
            await send({"type": "websocket.accept"})
            await self._frames.converse(_Socket(receive, send), scope["headers"])
        except OSError as error:
            logger.debug("a sender has disconnected: %s", error)


def _read(body: bytes, app_id: str) -> Alerts:
    return Alerts(read_alerts(body, app_id), app_id)


async def _refuse_websocket(scope: Message, send: Send, answer: HttpAnswer) -> None:
    if "websocket.http.response" in (scope.get("extensions") or ()):
        await respond(send, answer, "websocket.http.response")
    else:  # the server answers 403
        await send({"type": "websocket.close", "code": 1008})


@frozen
class _Socket:
    """An ASGI WebSocket, as :class:`FrameReceiver` uses it."""

    _receive: Receive
    _send: Send

    async def receive(self) -> bytes:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            raise ConnectionError(f"code {message.get('code')}")
        text: str | None = message.get("text")
        data: bytes = message["bytes"] if text is None else text.encode()
        return data

    async def send(self, text: str) -> None:
        await self._send({"type": "websocket.send", "text": text})

    async def close(self, code: int, reason: str) -> None:
        await self._send({"type": "websocket.close", "code": code, "reason": reason})
