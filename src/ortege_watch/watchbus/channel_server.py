"""Alerts over WebSocket, in: the asyncio shell of the alert channel's receiver."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl as tls
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from anyio import to_thread
from attrs import frozen
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from ortege_watch._sockets import CLOSE_WITHIN, SILENT
from ortege_watch.errors import (
    DecodeError,
    OrtegeWatchError,
    QueryError,
    SignatureError,
)
from ortege_watch.watchbus import frames
from ortege_watch.watchbus.asgi import AlertHandler, HandledAlerts, RecentAlerts
from ortege_watch.watchbus.envelope import ResultCode, error_answer, refusal
from ortege_watch.watchbus.handling import Handling
from ortege_watch.watchbus.headers import signature_headers
from ortege_watch.watchbus.nonces import MemoryNonces
from ortege_watch.watchbus.receiver import RequestVerifier
from ortege_watch.watchbus.signing import CONTENT_TYPE

if TYPE_CHECKING:
    from websockets.http11 import Request, Response

__all__ = ["AlertServer", "serve_alert_channel"]

logger: Final = logging.getLogger("ortege_watch.watchbus")

_AHEAD: Final = 64
"""Frames that are read ahead of the handler; then TCP holds the sender up."""
_NO_FRAME: Final = 1007
_GOING_AWAY: Final = 1001


@frozen
class AlertServer:
    """Say where a channel is served.

    Attributes:
        port: the port, also where 0 let the system choose.
        url: the channel's address, for :class:`AlertChannel` on this machine.
    """

    port: int
    url: str


@contextlib.asynccontextmanager
async def serve_alert_channel(
    verifier: RequestVerifier,
    handler: AlertHandler,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    ssl: tls.SSLContext | None = None,
    handled: HandledAlerts | None = None,
    ping_every: float = 20.0,
    close_within: float = 10.0,
) -> AsyncIterator[AlertServer]:
    """Receive alerts over WebSocket for as long as the ``async with`` lasts.

    A sender is told that all is well when the handler returned for every alert of its
    frame. If one raises, the others are handled all the same; the sender sends the
    frame again after a delay, and then only what failed is handled. An alert that came
    before is skipped, over whatever connection it comes. The frames of one connection
    are handled one after the other, those of several at once.

    Leaving ends what is going on: a call of the handler has ``close_within`` seconds to
    return and be acknowledged; then it is cancelled (one in a thread is waited for).

    Args:
        verifier: accepts the handshakes: made with ``method="GET"`` and the channel's
            ``path``. Its ``max_body`` is the limit of what a frame may hold.
        handler: called with each alert. A plain function runs in a worker thread, an
            async one on the event loop.
        host: the address to listen on.
        port: the port; 0 lets the system choose.
        ssl: TLS settings; without them the channel is for loopback, or stands behind a
            proxy that ends TLS.
        handled: remembers alerts by :meth:`AlertInfo.dedupe_key`, on the event loop; by
            default the last 100,000 in memory. Give the one of :func:`alert_app` to
            have each alert handled once, whichever way it comes.
        ping_every: seconds between two pings, and for the answer to one; a sender that
            is gone is noticed by it.
        close_within: seconds that the handler may take on leaving.

    Raises:
        QueryError: the verifier is one for another method.
        OrtegeWatchError: the address cannot be listened on.
    """
    if verifier.method != "GET":
        raise QueryError(
            f"verifier: it accepts {verifier.method}, and a WebSocket handshake is a"
            ' GET; make it with RequestVerifier(..., method="GET")'
        )
    memory = RecentAlerts() if handled is None else handled
    receiver = _Receiver(verifier, Handling(handler, memory))
    try:
        server = await serve(
            receiver.converse,
            host,
            port,
            process_request=receiver.admit,
            logger=SILENT,
            ssl=ssl,
            compression=None,
            max_size=verifier.max_body + frames.OVERHEAD,
            max_queue=_AHEAD,
            ping_interval=ping_every,
            ping_timeout=ping_every,
            close_timeout=CLOSE_WITHIN,
        )
    except OSError as error:
        problem = f"alerts cannot be received at {host}:{port}: {error}"
        raise OrtegeWatchError(problem) from error
    try:
        number = next(iter(server.sockets)).getsockname()[1]
        scheme, name = "wss" if ssl else "ws", f"[{host}]" if ":" in host else host
        yield AlertServer(number, f"{scheme}://{name}:{number}{verifier.path}")
    finally:
        await receiver.close(server, close_within)


class _Receiver:
    """Take handshakes and frames."""

    def __init__(self, verifier: RequestVerifier, handling: Handling) -> None:
        self._verifier = verifier
        self._handling = handling
        self._closing = False
        self._open: set[ServerConnection] = set()
        self._idle: set[ServerConnection] = set()
        # A store with a file or a network behind it must not stop the event loop.
        self._waits = not isinstance(verifier.nonces, MemoryNonces)

    async def admit(
        self, connection: ServerConnection, request: Request
    ) -> Response | None:
        """Accept a handshake, or answer it with a refusal."""
        try:
            await self._verify(request)
        except SignatureError as error:
            logger.warning("a handshake is refused: %s", error)
            status, answer = refusal(error)
        except Exception:
            logger.exception("a handshake could not be verified")
            status, answer = 503, error_answer(ResultCode.SERVER_ERROR, "try again")
        else:
            return None
        response = connection.respond(status, answer.decode())
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = CONTENT_TYPE
        return response

    async def _verify(self, request: Request) -> None:
        headers = list(request.headers.raw_items())
        self._verifier.check_target(request.path)
        if self._waits:
            await to_thread.run_sync(self._verifier.verify, headers, b"")
        else:
            self._verifier.verify(headers, b"")

    async def converse(self, connection: ServerConnection) -> None:
        """Handle the frames of a connection until it ends."""
        self._open.add(connection)
        try:
            await self._converse(connection)
        except ConnectionClosed as error:
            logger.debug("a sender is gone: %s", error)
        except Exception:
            logger.exception("a connection ends unexpectedly")
            raise
        finally:
            self._open.discard(connection)

    async def _converse(self, connection: ServerConnection) -> None:
        assert connection.request is not None  # noqa: S101 - it was admitted
        app_id = signature_headers(connection.request.headers.raw_items())[0]
        while not self._closing:
            data = await self._next(connection)
            try:
                frame = frames.read_alerts(data)
            except DecodeError as error:
                logger.warning("a sender is parted from: %s", error)
                await connection.close(_NO_FRAME, "this is no frame of alerts")
                return
            status, body = await self._handling.take(frame.body, app_id)
            answer = frames.AnswerFrame(frame.id, status, body)
            await connection.send(frames.write_answer(answer))
        await connection.close(_GOING_AWAY)

    async def _next(self, connection: ServerConnection) -> bytes:
        self._idle.add(connection)
        try:
            return await connection.recv(decode=False)
        finally:
            self._idle.discard(connection)

    async def close(self, server: Server, within: float) -> None:
        """Let what is going on end, then part with everybody."""
        self._closing = True
        server.close(close_connections=False)
        try:
            async with asyncio.timeout(within):
                idle = (each.close(_GOING_AWAY) for each in self._idle)
                await asyncio.gather(*idle)
                await server.wait_closed()
        except TimeoutError:
            logger.warning("a handler is cancelled: it took more than %g s", within)
        finally:
            self._handling.cancel()
            for each in self._open:
                each.transport.abort()
            await server.wait_closed()
            await self._handling.settle()
