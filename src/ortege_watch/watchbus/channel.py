"""Alerts over WebSocket, out: the asyncio shell of the alert channel.

The page recommends WebSocket for alerts and documents nothing about it, so this channel
is ours: it works between two programs that use this library. The upgrade is signed with
the four headers of any request (method ``GET``, the channel's path, an empty body); a
frame carries what a POST would carry, and is answered as a POST would be. The other end
is ``channel_server.py``.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl as tls
import time
import uuid
from collections.abc import Coroutine, Iterable
from copy import copy
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Never, Self, TypeVar

from websockets.exceptions import (
    ConnectionClosed,
    InvalidStatus,
    WebSocketException,
)

from ortege_watch._http import AsyncClock, _AsyncSystemClock, ssl_context
from ortege_watch._sockets import CLOSE_WITHIN, SILENT, Dial, close
from ortege_watch.errors import (
    DecodeError,
    OrtegeWatchError,
    QueryError,
    TransportError,
)
from ortege_watch.subscription.settings import Reconnect
from ortege_watch.watchbus import frames
from ortege_watch.watchbus.alerts import AlertInfo
from ortege_watch.watchbus.delivery import (
    Delivery,
    Redial,
    Settled,
    address_of,
    refused_upgrade,
    server_ahead,
)
from ortege_watch.watchbus.payloads import WireStyle, encode_alerts
from ortege_watch.watchbus.signing import Credentials, signed_headers

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

__all__ = ["AlertChannel"]

E = TypeVar("E", bound=OrtegeWatchError)

logger: Final = logging.getLogger("ortege_watch.watchbus")

_RECONNECT: Final = Reconnect()
_STYLE: Final = WireStyle()
_TOO_LARGE: Final = 1009


class AlertChannel:
    """Send alerts over one WebSocket that comes back by itself.

    Use it as ``async with AlertChannel(...) as channel``. It connects in the
    background, and again after every outage; what was not acknowledged is then sent
    again, in the order in which it was given. So an alert may arrive twice, and the
    receiver tells by :meth:`AlertInfo.dedupe_key`, as :func:`serve_alert_channel` does.

    Args:
        url: the channel's address, ``wss://`` or ``ws://``; its path is signed.
        credentials: what the handshake is signed with.
        retry: the delays between connections, and before alerts are sent again that
            the receiver could not handle. With ``attempts``, :meth:`send` fails after
            so many failures in a row; by default it never gives up.
        style: the form in which alerts are written.
        max_pending: how many frames may be without an answer. Further calls of
            :meth:`send` wait: a receiver that is slow slows down its senders.
        max_body: the size in bytes of the largest body to send; the receiver's limit
            is its verifier's ``max_body``.
        ping_every: seconds between two pings.
        pong_within: seconds that the answer to a ping may take; then the connection is
            given up for another one.
        connect_within: seconds that a connection may take, TLS and handshake included.
        ssl: TLS settings for ``wss://``; by default the system's authorities.
        clock: what tells the time and sleeps; for tests.

    Raises:
        QueryError: an argument cannot be used.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        *,
        retry: Reconnect = _RECONNECT,
        style: WireStyle = _STYLE,
        max_pending: int = 16,
        max_body: int = 1024 * 1024,
        ping_every: float = 20.0,
        pong_within: float = 10.0,
        connect_within: float = 20.0,
        ssl: tls.SSLContext | None = None,
        clock: AsyncClock | None = None,
    ) -> None:
        if max_pending < 1:
            raise QueryError(f"max_pending: {max_pending!r} lets nothing through")
        self._url, self._path = address_of(url)
        self._credentials = credentials
        self._style = style
        self._max_body = max_body
        self._ping_every = ping_every
        self._pong_within = pong_within
        self._connect_within = connect_within
        self._ssl = ssl
        self._clock = clock or _AsyncSystemClock()
        self._ahead = 0.0  # seconds that the receiver's clock is ahead of ours
        self._delivery = Delivery(retry)
        self._redial = Redial(retry)
        self._room = asyncio.Semaphore(max_pending)
        self._wake = asyncio.Event()
        self._waiting: dict[str, asyncio.Future[OrtegeWatchError | None]] = {}
        self._task: asyncio.Task[None] | None = None
        self._over: OrtegeWatchError | None = None

    async def send(self, alerts: Iterable[AlertInfo]) -> None:
        """Send alerts in one frame; return when the receiver has handled all of them.

        Any number of tasks may call it at once. How long it takes is up to the network
        and to the receiver: set a limit with ``asyncio.timeout()``. Alerts whose call
        was cancelled are not sent again, and may have arrived.

        Raises:
            QueryError: there is no alert, one cannot be sent, or they are too large for
                one frame. Nothing was sent.
            WatchBusError: the receiver will not have them, or refuses the credentials;
                ``.code``, ``.reason`` and ``.status`` say why.
            TransportError: there were more failures in a row than ``retry`` allows.
            OrtegeWatchError: the channel is closed.
        """
        body = encode_alerts(alerts, self._style)
        if len(body) > self._max_body:
            raise QueryError(
                f"alerts: {len(body)} bytes are more than max_body, {self._max_body};"
                " send fewer at once"
            )
        key = uuid.uuid4().hex
        async with self._room:
            self._check_open()
            text = frames.write_alerts(frames.AlertFrame(key, body))
            answer = asyncio.get_running_loop().create_future()
            self._waiting[key] = answer
            self._delivery.add(key, text)
            self._wake.set()
            try:
                error = await answer
            finally:
                self._delivery.drop(key)
                del self._waiting[key]
        if error is not None:
            raise copy(error) from error.__cause__  # each caller gets its own

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise OrtegeWatchError("an alert channel is entered once; make another one")
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._ended)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection; calls of :meth:`send` that still wait fail."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _check_open(self) -> None:
        if self._over is not None:
            raise copy(self._over) from self._over.__cause__
        if self._task is None:
            raise OrtegeWatchError("enter the alert channel with `async with` first")

    def _ended(self, task: asyncio.Task[None]) -> None:
        defect = None if task.cancelled() else task.exception()
        self._over = OrtegeWatchError("the alert channel is closed")
        if defect is not None:  # it must not end in silence
            problem = "the alert channel failed unexpectedly"
            self._over = _because(OrtegeWatchError(problem), defect)
        self._tell_all(self._over)

    def _tell_all(self, error: OrtegeWatchError) -> None:
        for key in tuple(self._waiting):
            self._settle(Settled(key, error))

    def _settle(self, settled: Settled) -> None:
        self._delivery.drop(settled.id)
        answer = self._waiting[settled.id]
        if not answer.done():
            answer.set_result(settled.error)

    # -------------------------------------------------------------- connections

    async def _run(self) -> None:
        while True:
            error, final = await self._connect()
            setback = self._redial.failed(self._clock.now(), random.random())  # noqa: S311
            logger.warning("%s; next attempt in %.1f s", error, setback.delay)
            final = final or setback.gives_up
            if final:
                self._tell_all(error)
            await self._clock.sleep(setback.delay)
            while final and not self._delivery:  # somebody else must want it
                self._wake.clear()
                await self._wake.wait()

    async def _connect(self) -> tuple[OrtegeWatchError, bool]:
        """Connect and converse; return what ended it, and whether it always will."""
        try:
            connection = await self._open()
        except InvalidStatus as error:
            return self._refused(error)
        # An ImportError: the environment names a SOCKS proxy, which needs a package.
        except (OSError, WebSocketException, ValueError, ImportError) as error:
            host = self._url.split("/")[2]
            reason = str(error) or type(error).__name__
            failure = TransportError(f"no connection to {host}: {reason}")
            return _because(failure, error), False
        try:
            self._redial.opened(self._clock.now())
            return await self._converse(connection), False
        finally:
            await close(connection)

    async def _open(self) -> ClientConnection:
        context = self._ssl or ssl_context() if self._url.startswith("wss:") else None
        headers = signed_headers(
            self._credentials,
            "GET",
            self._path,
            b"",
            timestamp=int((time.time() + self._ahead) * 1000),
            nonce=uuid.uuid4().hex,
        )
        return await Dial(
            self._url,
            logger=SILENT,
            additional_headers=headers,
            ssl=context,
            compression=None,
            open_timeout=self._connect_within,
            ping_interval=None,  # ours go by the clock that was given
            close_timeout=CLOSE_WITHIN,
        )

    def _refused(self, cause: InvalidStatus) -> tuple[OrtegeWatchError, bool]:
        answer = cause.response
        body = bytes(answer.body or b"")
        error, final = refused_upgrade(answer.status_code, body)
        if not self._ahead:
            ahead = server_ahead(error, answer.headers.get("Date"), time.time())
            if ahead is not None:
                logger.warning("the receiver's clock is %.0f s ahead of ours", ahead)
                self._ahead, final = ahead, False
        return _because(error, cause), final

    async def _converse(self, connection: ClientConnection) -> OrtegeWatchError:
        self._delivery.lost()
        try:
            await _race(
                self._write(connection), self._read(connection), self._ping(connection)
            )
        except ConnectionClosed as error:
            return self._dropped(error)
        except (DecodeError, TransportError) as error:
            problem = f"the connection is given up: {error}"
            return _because(TransportError(problem), error)
        raise AssertionError("a loop has ended")

    def _dropped(self, error: ConnectionClosed) -> TransportError:
        close = error.rcvd
        # Of a frame that is too large for this side, the receiver repeats the code.
        if close is not None and close.code == _TOO_LARGE and error.rcvd_then_sent:
            settled = self._delivery.too_large()
            if settled is not None:
                self._settle(settled)
        return _because(TransportError(f"the connection was lost ({error})"), error)

    async def _write(self, connection: ClientConnection) -> Never:
        while True:
            self._wake.clear()
            for text in self._delivery.due(self._clock.now()):
                await connection.send(text)
            next_at = self._delivery.next_at()
            if next_at is None:
                await self._wake.wait()
            else:
                delay = next_at - self._clock.now()
                await _race(self._wake.wait(), self._clock.sleep(delay))

    async def _read(self, connection: ClientConnection) -> Never:
        while True:
            answer = frames.read_answer(await connection.recv(decode=False))
            now, draw = self._clock.now(), random.random()  # noqa: S311
            settled = self._delivery.answered(answer, now, draw)
            if settled is not None:
                self._settle(settled)
            else:
                logger.info("alerts were not handled (status %d)", answer.status)
                self._wake.set()

    async def _ping(self, connection: ClientConnection) -> Never:
        while True:
            await self._clock.sleep(self._ping_every)
            # To a peer that reads nothing, not even the ping may go out.
            late = self._clock.sleep(self._pong_within)
            if await _race(_answered_ping(connection), late) == 1:
                raise TransportError("a ping had no answer")


async def _answered_ping(connection: ClientConnection) -> None:
    await (await connection.ping())


async def _race(*works: Coroutine[Any, Any, object]) -> int:
    """Run all until the first one ends; return which, or raise what it raised."""
    tasks = [asyncio.create_task(each) for each in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        errors = [task.exception() for task in tasks if not task.cancelled()]
    for error in errors:
        if error is not None:
            raise error
    return min(map(tasks.index, done))


def _because(error: E, cause: BaseException) -> E:
    error.__cause__ = cause
    return error
