"""Alerts over WebSocket, out: the asyncio shell of the alert channel.

The page recommends WebSocket for alerts and documents nothing about it, so this channel
is ours: it works between two programs that use this library. The upgrade is signed with
the four headers of any request (method ``GET``, the channel's path, an empty body); a
frame carries what a POST would carry, and is answered as a POST would be. The other end
is ``channel_server.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import ssl as tls
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterable
from copy import copy
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Final, Never, Self, TypeAlias, TypeVar

import anyio
import msgspec
from attrs import define, frozen
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ortege_watch import _json as codec
from ortege_watch._http.conversation import Backoff, split_url
from ortege_watch._http.driver import AsyncClock, _AsyncSystemClock
from ortege_watch._http.statuses import http_date
from ortege_watch._websocket import (
    CLOSE_TIMEOUT,
    SILENT,
    close,
    open_websocket,
    transport_error,
)
from ortege_watch.errors import (
    DecodeError,
    OrtegeWatchError,
    QueryError,
    SignatureReason,
    TransportError,
    WatchBusError,
)
from ortege_watch.watch.options import Reconnect
from ortege_watch.watchbus.inbox import (
    AlertHandler,
    AlertInbox,
    error_response,
    run_verifier,
)
from ortege_watch.watchbus.models import AlertInfo, decode_alerts
from ortege_watch.watchbus.signing import (
    CONTENT_TYPE,
    SIGNATURE_HEADERS,
    Credentials,
    request_line,
    signature_headers,
    signed_headers,
)
from ortege_watch.watchbus.verifier import RequestVerifier
from ortege_watch.watchbus.wire import (
    REFUSALS,
    WireStyle,
    encode_alerts,
    read_answer,
)

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection
    from websockets.http11 import Request, Response

__all__ = [
    "OVERHEAD",
    "AlertChannel",
    "AlertFrame",
    "AlertServer",
    "AnswerFrame",
    "Delivery",
    "Redial",
    "Setback",
    "Settled",
    "address_of",
    "read_alerts",
    "read_answer_frame",
    "refused_upgrade",
    "serve_alert_channel",
    "server_ahead",
    "write_alerts",
    "write_answer",
]

# -------------------- The frames of an alert channel: the one place that knows their form.
#
# The page recommends WebSocket for alerts and documents no frame. These are therefore
# ours, and as close to the documented POST as can be: a frame is the POST's body under an
# id, an answer is the POST's answer (status and envelope) under the same id. Both are
# JSON in WebSocket text frames::
#
#     a request: {"id": "5f3c...", "body": {"alert_info_list": [...]}}
#     an answer: {"id": "5f3c...", "status": 200, "body": {"status": "OK", "code": "000000000", ...}}
#
# If a form is documented one day, these four functions are what changes.


OVERHEAD: Final = 256
"""Bytes that a frame has at most beyond its body."""

_Id: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
_Status: TypeAlias = Annotated[int, msgspec.Meta(ge=100, lt=600)]


@frozen
class AlertFrame:
    """Carry alerts to the receiver.

    Attributes:
        id: what the answer carries as well; the same when the frame is sent again.
        body: the body of an alert POST, byte for byte.
    """

    id: str
    body: bytes


@frozen
class AnswerFrame:
    """Tell the sender what became of a frame.

    Attributes:
        id: the frame's.
        status: the HTTP status that a POST would have been answered with; 200 if all
            its alerts are handled.
        body: the envelope, ``{"status": ..., "code": ..., "data": ...}``.
    """

    id: str
    status: int
    body: bytes


class _Alerts(msgspec.Struct):
    id: _Id
    body: msgspec.Raw


class _Answer(msgspec.Struct):
    id: _Id
    status: _Status
    body: msgspec.Raw


T = TypeVar("T")

_alerts: Final = msgspec.json.Decoder(_Alerts)
_answer: Final = msgspec.json.Decoder(_Answer)


def write_alerts(frame: AlertFrame) -> str:
    """Write a frame of alerts."""
    head = codec.dumps(frame.id)
    return f'{{"id":{head},"body":{frame.body.decode()}}}'


def read_alerts(data: bytes) -> AlertFrame:
    """Read a frame of alerts; what its body holds is not looked at.

    Raises:
        DecodeError: it is something else.
    """
    found = _read(_alerts, data, "no frame of alerts")
    return AlertFrame(found.id, bytes(found.body))


def write_answer(frame: AnswerFrame) -> str:
    """Write the answer to a frame."""
    head = f'{{"id":{codec.dumps(frame.id)},"status":{frame.status}'
    return f'{head},"body":{frame.body.decode()}}}'


def read_answer_frame(data: bytes) -> AnswerFrame:
    """Read the answer to a frame; what its envelope says is not looked at.

    Raises:
        DecodeError: it is something else.
    """
    found = _read(_answer, data, "no answer to a frame of alerts")
    return AnswerFrame(found.id, found.status, bytes(found.body))


def _read(decoder: msgspec.json.Decoder[T], data: bytes, problem: str) -> T:
    try:
        return decoder.decode(data)
    except codec.UNREADABLE as error:
        text = f"this is {problem} ({error})"
        raise DecodeError(text, excerpt=codec.excerpt(data)) from error


# -------------------- What an alert channel still has to deliver, and when it dials again. Pure.
#
# A parcel is a frame with its id. It stays until the receiver has acknowledged it or has
# refused it for good, and is sent again on every new connection, under the same id and in
# the order in which it was given.


_PASSING: Final = frozenset({408, 425, 429})
_EXPIRED: Final = REFUSALS[SignatureReason.EXPIRED][2]
_EXAMPLE: Final = "wss://alerts.example.com/alerts/ws"


@frozen
class Settled:
    """Tell that a parcel is done with.

    Attributes:
        id: the parcel's.
        error: why the receiver will not have it; ``None`` if it has handled it.
    """

    id: str
    error: OrtegeWatchError | None = None


@define
class _Parcel:
    text: str
    sent: bool = False
    refusals: int = 0
    not_before: float = -math.inf


class Delivery:
    """Hold the parcels, in order.

    Args:
        reconnect: the delays before a parcel that was not handled is sent again, and how
            often that is done.
    """

    def __init__(self, reconnect: Reconnect) -> None:
        self._parcels: dict[str, _Parcel] = {}
        self._backoff = Backoff(base=reconnect.base, cap=reconnect.cap)
        self._attempts = math.inf if reconnect.attempts is None else reconnect.attempts

    def __len__(self) -> int:
        return len(self._parcels)

    def add(self, key: str, text: str) -> None:
        """Take a parcel; it is due at once."""
        self._parcels[key] = _Parcel(text)

    def drop(self, key: str) -> None:
        """Forget a parcel, if it is there: nobody waits for it any more."""
        self._parcels.pop(key, None)

    def due(self, now: float) -> list[str]:
        """List the frames to send now, and expect each to be sent."""
        found = [
            parcel
            for parcel in self._parcels.values()
            if not parcel.sent and parcel.not_before <= now
        ]
        for parcel in found:
            parcel.sent = True
        return [parcel.text for parcel in found]

    def next_at(self) -> float | None:
        """Tell when the next parcel is due that is being held back."""
        held = (each.not_before for each in self._parcels.values() if not each.sent)
        return min(held, default=None)

    def lost(self) -> None:
        """Note that the connection is gone: what has no answer is sent again."""
        for parcel in self._parcels.values():
            parcel.sent = False

    def answered(self, answer: AnswerFrame, now: float, draw: float) -> Settled | None:
        """Take an answer.

        Args:
            answer: what came.
            now: monotonic seconds.
            draw: a random number, 0 <= draw < 1.

        Returns:
            What is settled by it; ``None`` where the parcel is held back and sent
            again, and where nobody waits for it any more.
        """
        parcel = self._parcels.get(answer.id)
        if parcel is None:
            return None
        try:
            read_answer(answer.body, answer.status)
        except (DecodeError, WatchBusError) as error:
            if not _passing(answer.status) or parcel.refusals >= self._attempts:
                return Settled(answer.id, error)
            delay = self._backoff.delay(parcel.refusals, draw)
            parcel.refusals += 1
            parcel.not_before = now + delay
            parcel.sent = False
            return None
        return Settled(answer.id)

    def too_large(self) -> Settled | None:
        """Give up the largest frame that is under way: the receiver takes none so big.

        The close code says that some frame was, and not which.
        """
        sent = {key: each for key, each in self._parcels.items() if each.sent}
        if not sent:
            return None
        key = max(sent, key=lambda key: len(sent[key].text))
        problem = "the receiver takes no frame of this size; send fewer alerts at once"
        return Settled(key, WatchBusError(problem, status=413))


def _passing(status: int) -> bool:
    return status >= 500 or status in _PASSING


@frozen
class Setback:
    """Say how to go on after a failure.

    Attributes:
        delay: seconds until the next attempt.
        gives_up: whether those who wait are to be told of the failure.
    """

    delay: float
    gives_up: bool


class Redial:
    """Count failures in a row; only a connection that held begins anew."""

    def __init__(self, reconnect: Reconnect) -> None:
        self._reconnect = reconnect
        self._backoff = Backoff(base=reconnect.base, cap=reconnect.cap)
        self._failures = 0
        self._since: float | None = None

    def opened(self, now: float) -> None:
        """Note that a connection stands; that alone proves nothing."""
        self._since = now

    def failed(self, now: float, draw: float) -> Setback:
        """Take the end of a connection, or an attempt that came to none.

        Args:
            now: monotonic seconds.
            draw: a random number, 0 <= draw < 1.
        """
        since, self._since = self._since, None
        if since is not None and now - since >= self._reconnect.healthy_after:
            self._failures = 0
        delay = self._backoff.delay(self._failures, draw)
        attempts = self._reconnect.attempts
        gives_up = attempts is not None and self._failures >= attempts
        self._failures = 0 if gives_up else self._failures + 1
        return Setback(delay, gives_up)


def refused_upgrade(status: int, body: bytes) -> tuple[OrtegeWatchError, bool]:
    """Read the answer to a handshake that was not accepted.

    Returns:
        The error, and whether another attempt would come to the same: true for bad
        credentials and a wrong path, false for a server that is not well.
    """
    try:
        read_answer(body, status)
    except WatchBusError as error:
        return error, not _passing(status)
    except DecodeError as error:
        failure = _no_channel(status)
        failure.__cause__ = error
        return failure, True
    return _no_channel(status), True


def _no_channel(status: int) -> TransportError:
    problem = f"HTTP status {status} was the answer to the upgrade: no alert channel"
    return TransportError(problem)


def server_ahead(error: OrtegeWatchError, date: str | None, now: float) -> float | None:
    """Tell how far the server's clock is ahead, where it calls ours expired.

    Args:
        error: what :func:`refused_upgrade` made of its answer.
        date: the answer's Date header.
        now: unix seconds by our clock.

    Returns:
        Seconds, negative if it is behind; ``None`` where that is not the trouble, or
        where it cannot be told.
    """
    if not isinstance(error, WatchBusError) or error.reason != _EXPIRED:
        return None
    moment = http_date(date or "")
    # The header has whole seconds: on average it is half a second late.
    return None if moment is None else moment + 0.5 - now


def address_of(url: str) -> tuple[str, str]:
    """Read a channel's address; ``http`` and ``https`` stand for ``ws`` and ``wss``.

    Returns:
        The address of the WebSocket, and its path: what the handshake signs.

    Raises:
        QueryError: this is no such address, or its path cannot be signed.
    """
    parts = split_url(url, _EXAMPLE, "pass credentials, which sign the requests")
    path = parts.path or "/"
    request_line("GET", path)
    scheme = "wss" if parts.scheme in {"https", "wss"} else "ws"
    return f"{scheme}://{parts.netloc}{path}", path


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
        reconnect: the delays between connections, and before alerts are sent again that
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
        reconnect: Reconnect = _RECONNECT,
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
        self._signature = ""  # of the latest handshake
        self._ahead = 0.0  # seconds that the receiver's clock is ahead of ours
        self._delivery = Delivery(reconnect)
        self._redial = Redial(reconnect)
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
            TransportError: there were more failures in a row than ``reconnect`` allows.
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
            text = write_alerts(AlertFrame(key, body))
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
        except TransportError as error:
            return error, False
        try:
            self._redial.opened(self._clock.now())
            return await self._converse(connection), False
        finally:
            await close(connection)

    async def _open(self) -> ClientConnection:
        headers = signed_headers(
            self._credentials,
            "GET",
            self._path,
            b"",
            timestamp=int((time.time() + self._ahead) * 1000),
            nonce=uuid.uuid4().hex,
        )
        self._signature = headers[SIGNATURE_HEADERS[-1]]
        return await open_websocket(
            self._url,
            headers,
            secrets=self._secrets(),
            ssl=self._ssl,
            open_timeout=self._connect_within,
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
        problem = f"the connection was lost ({error})"
        return transport_error(problem, error, self._secrets())

    def _secrets(self) -> tuple[str, str]:
        """Return what the receiver knows and an error must not show."""
        return self._credentials.secret, self._signature

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
            answer = read_answer_frame(await connection.recv(decode=False))
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


# -------------------- Alerts over WebSocket, in: the asyncio shell of the alert channel's receiver.


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
    inbox: AlertInbox | None = None,
    ping_every: float = 20.0,
    close_within: float = 10.0,
) -> AsyncIterator[AlertServer]:
    """Receive alerts over WebSocket for as long as the ``async with`` lasts.

    A frame is acknowledged when the handler has returned for every alert in it. If the
    handler raises, the other alerts are handled all the same; the sender sends the
    frame again after a delay, and only what failed is handled again. An alert that was
    handled before is skipped; one that another connection or an :func:`alert_app` is
    handling is not handled twice: the answer waits for it. The frames of one connection
    are handled one after the other, those of several connections concurrently.

    On leaving, a running call of the handler has ``close_within`` seconds to return and
    to be acknowledged. Then it is cancelled; a call in a thread cannot be, and is
    waited for.

    Args:
        verifier: accepts the handshakes, which are signed ``GET`` requests for its
            ``path``; its own ``method`` does not matter. Its ``max_body`` limits the
            body of a frame.
        handler: called with each alert. A plain function runs in a worker thread, an
            async one on the event loop.
        host: the address to listen on.
        port: the port; 0 lets the system choose.
        ssl: TLS settings; without them, use the channel on loopback or behind a proxy
            that terminates TLS.
        inbox: remembers the handled alerts; by default the last 100,000 in memory.
        ping_every: seconds between two pings, and for the answer to each; detects
            senders that are gone.
        close_within: seconds that the handler may take on leaving.

    Raises:
        OrtegeWatchError: the address cannot be listened on.
    """
    verifier = verifier.for_method("GET")
    receiver = _Receiver(verifier, handler, AlertInbox() if inbox is None else inbox)
    try:
        server = await serve(
            receiver.converse,
            host,
            port,
            process_request=receiver.admit,
            logger=SILENT,
            ssl=ssl,
            compression=None,
            max_size=verifier.max_body + OVERHEAD,
            max_queue=_AHEAD,
            ping_interval=ping_every,
            ping_timeout=ping_every,
            close_timeout=CLOSE_TIMEOUT,
        )
    except OSError as error:
        problem = f"cannot listen on {host}:{port}: {error}"
        raise OrtegeWatchError(problem) from error
    try:
        number = next(iter(server.sockets)).getsockname()[1]
        scheme, name = "wss" if ssl else "ws", f"[{host}]" if ":" in host else host
        yield AlertServer(number, f"{scheme}://{name}:{number}{verifier.path}")
    finally:
        await receiver.close(server, close_within)


class _Receiver:
    """The handshakes and connections of one server."""

    def __init__(
        self, verifier: RequestVerifier, handler: AlertHandler, inbox: AlertInbox
    ) -> None:
        self._verifier = verifier
        self._handler = handler
        self._inbox = inbox
        self._closing = False
        self._open: dict[ServerConnection, anyio.CancelScope] = {}
        self._idle: set[ServerConnection] = set()

    async def admit(
        self, connection: ServerConnection, request: Request
    ) -> Response | None:
        """Accept a handshake, or return the response that refuses it."""
        verifier, headers = self._verifier, list(request.headers.raw_items())
        try:
            verifier.check_target(request.path)
            await run_verifier(verifier, verifier.verify, headers, b"")
        except Exception as error:  # noqa: BLE001 - it is logged
            status, answer = error_response(error)
        else:
            return None
        response = connection.respond(status, answer.decode())
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = CONTENT_TYPE
        return response

    async def converse(self, connection: ServerConnection) -> None:
        """Handle the frames of a connection until it ends."""
        # Not task.cancel(): only a scope waits for a handler that runs in a thread.
        with anyio.CancelScope() as scope:
            self._open[connection] = scope
            try:
                await self._converse(connection)
            except ConnectionClosed as error:
                logger.debug("a sender has disconnected: %s", error)
            except Exception:
                logger.exception("the connection of a sender failed unexpectedly")
                raise
            finally:
                del self._open[connection]

    async def _converse(self, connection: ServerConnection) -> None:
        assert connection.request is not None  # noqa: S101 - it was admitted
        app_id = signature_headers(connection.request.headers.raw_items())[0]
        while not self._closing:
            data = await self._next(connection)
            try:
                frame = read_alerts(data)
            except DecodeError as error:
                logger.warning("closing the connection of a sender: %s", error)
                await connection.close(_NO_FRAME, "this is no frame of alerts")
                return
            try:
                alerts = decode_alerts(frame.body)
            except DecodeError as error:
                status, body = error_response(error)
            else:
                status, body = await self._inbox.answer(alerts, app_id, self._handler)
            answer = AnswerFrame(frame.id, status, body)
            await connection.send(write_answer(answer))
        await connection.close(_GOING_AWAY)

    async def _next(self, connection: ServerConnection) -> bytes:
        self._idle.add(connection)
        try:
            return await connection.recv(decode=False)
        finally:
            self._idle.discard(connection)

    async def close(self, server: Server, within: float) -> None:
        """Let running calls of the handler return, then close every connection."""
        self._closing = True
        server.close(close_connections=False)
        try:
            async with asyncio.timeout(within):
                idle = (each.close(_GOING_AWAY) for each in self._idle)
                await asyncio.gather(*idle)
                await server.wait_closed()
        except TimeoutError:
            logger.warning("the handler took more than %g s: cancelling it", within)
        finally:
            for connection, scope in self._open.items():
                scope.cancel()
                connection.transport.abort()
            await server.wait_closed()
