"""Alerts over one WebSocket: the sender :class:`AlertChannel`, and a server.

**Experimental**: it may change in any release. The page recommends WebSocket for alerts and documents nothing about it, so this channel
is ours: it works between two programs that use this library. The upgrade is signed with
the four headers of any request: method ``GET``, the path of the channel, an empty body.
Its frames are described in ``frames.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl as tls
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Never, NoReturn, Self

import anyio
import msgspec
from anyio import to_thread
from attrs import define, evolve, field, frozen
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ortege_watch._checks import (
    check_clock,
    check_int,
    check_kind,
    check_list,
    check_seconds,
    check_text,
    not_copyable,
)
from ortege_watch._http.conversation import (
    Headers,
    Response as Answer,
    Retry,
    split_url,
)
from ortege_watch._http.driver import (
    AsyncClock,
    AsyncSystemClock,
    check_environment,
    is_bad_certificate,
)
from ortege_watch._http.statuses import REDIRECTED, redirect_target
from ortege_watch._websocket import (
    CLOSE_TIMEOUT,
    SILENT,
    close,
    open_websocket,
    running_loop,
    transport_error,
)
from ortege_watch.errors import (
    DecodeError,
    InvalidArgument,
    OrtegeWatchError,
    TransportError,
    WatchBusError,
    printable,
)
from ortege_watch.tokens import Concealed, Secrets, redact, safe_cause
from ortege_watch.watch.options import FailureCount, Reconnect
from ortege_watch.watchbus.frames import (
    OVERHEAD,
    AlertFrame,
    AnswerFrame,
    PendingFrame,
    PendingFrames,
    decode_frame,
    encode_frame,
    is_transient,
)
from ortege_watch.watchbus.inbox import (
    AlertHandler,
    AlertInbox,
    check_receiver,
    error_response,
    logger,
    shown_request,
)
from ortege_watch.watchbus.models import AlertInfo, shown_alert
from ortege_watch.watchbus.outbox import Outbox, OutboxQueue, open_outbox, queue_of
from ortege_watch.watchbus.receiving import FrameReceiver
from ortege_watch.watchbus.requests import (
    NO_PASSWORD,
    is_misconfigured,
    log_skew,
    server_ahead,
)
from ortege_watch.watchbus.sending import (
    DEAD_LETTERS,
    BatchResults,
    BatchSize,
    FailureStreak,
    QueuedAlert,
    SendingPace,
    SendLease,
    log_failures,
    prepare_alerts,
)
from ortege_watch.watchbus.signing import (
    CONTENT_TYPE,
    SIGNATURE_HEADERS,
    Credentials,
    check_credentials,
    request_line,
    signed_headers,
)
from ortege_watch.watchbus.verifier import RequestVerifier, checks_of
from ortege_watch.watchbus.wire import (
    DOCUMENTED,
    WireStyle,
    alerts_body,
    encode_alerts,
    read_answer,
)

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection
    from websockets.http11 import Request, Response

_READ_AHEAD: Final = 64
"""Frames that the receiver buffers; when more arrive, TCP slows the sender down."""

_GOING_AWAY: Final = 1001
_TOO_LARGE: Final = 1009
_RECONNECT: Final = Reconnect()
_POLL_EVERY: Final = 1.0  # seconds between two looks at an outbox


def refused_upgrade(status: int, body: bytes) -> tuple[OrtegeWatchError, bool]:
    """Return the error for a refused handshake, and whether a retry would fail too."""
    try:
        read_answer(body, status)
    except WatchBusError as error:
        return error, not is_transient(status)
    except DecodeError:
        pass  # a success of a server that is not a receiver
    problem = f"expected an alert channel, got HTTP status {status}"
    return TransportError(problem), True


def parse_address(url: str | Concealed) -> tuple[str, str]:
    """Return the ``ws://`` or ``wss://`` URL of a channel, and the path to sign."""
    parts = split_url(url, "wss://alerts.example.com/alerts/ws", NO_PASSWORD)
    path = parts.path or "/"
    request_line("GET", path)
    scheme = "wss" if parts.scheme in {"https", "wss"} else "ws"
    return f"{scheme}://{parts.netloc}{path}", path


class AlertChannel:
    """A sender of alerts over one WebSocket that reconnects (experimental).

    The specification documents no WebSocket for alerts, so the other side must be
    :func:`serve_alert_channel` or :func:`alert_app`, and may have to be of the same
    release.

    Use it as ``async with AlertChannel(...) as channel``. It connects in the
    background and reconnects after every outage; frames that were not acknowledged are
    then sent again, in order. So an alert may arrive twice; the receiver detects it by
    :meth:`AlertInfo.dedupe_key`, as :func:`serve_alert_channel` does.

    Args:
        url: the address of the channel, ``wss://`` or ``ws://``; its path is signed.
        credentials: sign the handshake.
        reconnect: the delays between connections, and before alerts that the receiver
            failed to handle are sent again. With ``attempts``, :meth:`send` fails after
            so many failed connections in a row; unlimited by default.
        style: the form in which alerts are written.
        max_pending: how many frames may be without an answer. Further calls of
            :meth:`send` wait, so a slow receiver slows down its senders.
        max_attempts: how often the receiver may fail to handle the alerts of a frame, or
            close the connection because of them; :meth:`send` fails then. Other frames
            do not wait for one that fails.
        max_body: the size in bytes of the largest body to send; the limit of the
            receiver is ``max_body`` of its verifier.
        outbox: an :class:`Outbox` for :meth:`enqueue`, or the path of one, which is
            then closed with this channel; ``None`` for no outbox.
        ping_every: seconds between two pings.
        pong_within: seconds for the answer to a ping; without one, reconnect.
        answer_within: seconds for the answer to a frame, for each alert in it, from when
            those before it were answered; more than the ``handle_within`` of the
            receiver. Without one, reconnect; the frame is sent again as after any lost
            connection, and goes behind the others.
        connect_within: seconds for connecting, TLS and the handshake.
        ssl: TLS settings for ``wss://``; by default the authorities of ``certifi``.
        clock: returns the time and sleeps; for tests.

    Attributes:
        outbox: the outbox, or ``None``.

    Raises:
        InvalidArgument: an argument cannot be used.
        OrtegeWatchError: the outbox cannot be opened.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        *,
        reconnect: Reconnect = _RECONNECT,
        style: WireStyle = DOCUMENTED,
        max_pending: int = 16,
        max_attempts: int = 10,
        max_body: int = 1024 * 1024,
        outbox: Outbox | str | Path | None = None,
        ping_every: float = 20.0,
        pong_within: float = 10.0,
        answer_within: float = 120.0,
        connect_within: float = 20.0,
        ssl: tls.SSLContext | None = None,
        clock: AsyncClock | None = None,
    ) -> None:
        address, given = Concealed(url), Concealed(credentials)
        del url, credentials  # a traceback shows what a frame has
        signer = check_credentials(given)
        check_kind("reconnect", reconnect, Reconnect)
        check_kind("style", style, WireStyle)
        check_int("max_pending", max_pending)
        check_int("max_attempts", max_attempts)
        check_int("max_body", max_body)
        check_seconds("ping_every", ping_every)
        check_seconds("pong_within", pong_within)
        check_seconds("answer_within", answer_within)
        check_seconds("connect_within", connect_within)
        check_environment(ssl)
        check_clock(clock, sleep="async")
        self._url, self._path = parse_address(address)
        self._host = self._url.split("/")[2]
        self._credentials = signer
        # In log lines; without the path, a "not found" would not say of what.
        self._sender = f"{self._host}{self._path}, app {signer.app_id}"
        self._style = style
        self._max_body = max_body
        self._ping_every = ping_every
        self._pong_within = pong_within
        self._answer_within = answer_within
        self._connect_within = connect_within
        self._ssl = ssl
        self._clock = clock or AsyncSystemClock()
        self._signature = ""  # of the latest handshake
        self._has_worked = False  # later, a bad certificate is an outage
        self._ahead = 0.0  # seconds that the receiver's clock is ahead of ours
        self._pending = PendingFrames(reconnect, max_pending, max_attempts)
        self._failures = FailureCount(reconnect)
        self._wake = asyncio.Event()
        self._enqueued = asyncio.Event()
        self._pace = SendingPace(
            self._sender, Retry(base=reconnect.base, cap=reconnect.cap)
        )
        self.outbox = open_outbox(outbox, signer.app_id, self._host + self._path)
        self._owns_outbox = self.outbox is not outbox
        self._queue = queue_of(self.outbox)
        self._batches, self._streak = BatchSize(_READ_AHEAD), FailureStreak()
        self._task: asyncio.Task[None] | None = None
        self._closed: OrtegeWatchError | None = None

    def __reduce__(self) -> NoReturn:
        raise not_copyable(self)

    def __repr__(self) -> str:
        # A traceback also shows a channel that could not be created.
        return f"AlertChannel({getattr(self, '_url', '')!r})"

    async def send(self, alerts: Iterable[AlertInfo]) -> None:
        """Send alerts in one frame; return when the receiver has handled all of them.

        Any number of tasks may call it at the same time. How long it takes depends on
        the network and the receiver: set a limit with ``asyncio.timeout()``. Alerts
        whose call was cancelled are not sent again, and may have arrived.

        Raises:
            InvalidArgument: the list is empty, an alert cannot be encoded, or they are too
                large for one frame. Nothing was sent.
            WatchBusError: the receiver rejects the alerts or the credentials, or has
                failed to handle the alerts ``max_attempts`` times; ``.code``,
                ``.reason`` and ``.status`` say why.
            TransportError: there were as many failed connections in a row as
                ``reconnect`` allows, or ``max_attempts`` connections were lost with this
                frame alone, while others were acknowledged.
            OrtegeWatchError: the channel is closed.
        """
        checked = check_list("alerts", alerts, AlertInfo)
        body = encode_alerts(checked, self._style)
        self._check_size(len(body), "send fewer at once")
        frame = await self._send_body(body, checked)
        if frame.error is not None:
            error = copy(frame.error)  # it may be the error of several callers
            error.host = self._host
            raise error from frame.error.__cause__

    async def enqueue(self, alerts: Iterable[AlertInfo]) -> None:
        """Write alerts to the outbox, from where they are sent in the background.

        They stay there until the receiver acknowledges them, also across restarts; see
        :class:`Outbox` for the guarantees. The channel may be opened later.

        Raises:
            InvalidArgument: the list is empty, an alert cannot be encoded or is too
                large, or the channel has no outbox.
            OutboxFull: the outbox has no room; none was accepted.
            OrtegeWatchError: the outbox cannot be used.
        """
        if self._queue is None:
            raise InvalidArgument("enqueue() needs an outbox: pass outbox=")
        prepared = prepare_alerts(alerts, self._credentials.app_id, self._style)
        size = max(len(alerts_body([each.data], self._style)) for each in prepared)
        self._check_size(size, "one alert is too large")
        await to_thread.run_sync(self._queue.accept, prepared)
        self._enqueued.set()

    def _check_size(self, size: int, advice: str) -> None:
        if size > self._max_body:
            raise InvalidArgument(
                f"alerts must have at most {self._max_body} bytes (max_body), got"
                f" {size}: {advice}"
            )

    async def _send_body(
        self, body: bytes, alerts: Sequence[AlertInfo], *, retry: bool = True
    ) -> PendingFrame:
        """Send a body in a frame, and return the frame when it is resolved."""
        frame_id = uuid.uuid4().hex
        if self._closed is not None:
            raise copy(self._closed) from self._closed.__cause__
        if self._task is None:
            raise OrtegeWatchError("use `async with` to open the alert channel")
        text = encode_frame(AlertFrame(frame_id, msgspec.Raw(body)))
        resolved = asyncio.Event()
        frame = self._pending.add(
            frame_id, text, alerts, retry=retry, on_resolved=resolved.set
        )
        self._wake.set()
        try:
            await resolved.wait()
        finally:
            self._pending.drop(frame_id)
            self._wake.set()
        return frame

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise OrtegeWatchError("an alert channel can be opened only once")
        loop = running_loop("AlertChannel", "AsyncAlertPublisher")
        self._task = loop.create_task(self._work())
        self._task.add_done_callback(self._ended)
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close the connection; pending calls of :meth:`send` fail."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self.outbox is not None and self._owns_outbox:
            await to_thread.run_sync(self.outbox.close)

    def _ended(self, task: asyncio.Task[None]) -> None:
        defect = None if task.cancelled() else task.exception()
        self._closed = OrtegeWatchError("the alert channel is closed")
        if defect is not None:
            self._closed = OrtegeWatchError("the alert channel failed unexpectedly")
            self._closed.__cause__ = defect
        self._pending.fail(self._closed)

    async def _work(self) -> None:
        if self._queue is None:
            await self._run()
        else:
            await _race(self._run(), self._send_queued(self._queue))

    async def _send_queued(self, queue: OutboxQueue) -> Never:
        """Send the alerts of the outbox, for as long as the channel is open."""
        while True:
            self._enqueued.clear()
            error = await self._send_due(queue)
            if error is not None:
                jitter = random.random()  # noqa: S311
                backlog = await to_thread.run_sync(queue.backlog)
                await self._clock.sleep(self._pace.next(error, jitter, backlog))
            else:
                self._pace.reset(has_sent=False)
                # Others write to the file, too, and alerts become due again.
                await _race(self._enqueued.wait(), self._clock.sleep(_POLL_EVERY))

    async def _send_due(self, queue: OutboxQueue) -> Exception | None:
        """Send what is due, unless another sender does; return why it had to stop."""
        lease = SendLease()
        try:
            size = self._batches.size
            batch = await to_thread.run_sync(queue.begin_sending, lease, size)
            while batch:
                results = await self._deliver(batch)
                size = self._batches.size
                batch, done = await to_thread.run_sync(queue.resolve, results, size)
                if results.sent:
                    self._pace.reset(has_sent=True)
                log_failures(self._sender, done, DEAD_LETTERS)
                if results.error is not None:
                    return results.error
        except Exception as error:  # noqa: BLE001 - it is logged
            return error
        finally:
            queue.end_sending(lease)
        return None

    async def _deliver(self, batch: Sequence[QueuedAlert]) -> BatchResults:
        """Send each alert in a frame of its own, so that none stops the others."""

        async def attempt(queued: QueuedAlert) -> None:
            body = alerts_body([queued.data], self._style)
            try:
                frame = await self._send_body(body, [queued.alert], retry=False)
            except OrtegeWatchError as closed:
                results.error = closed
                return
            error = frame.error
            if error is None:
                results.add_sent([queued])
                self._batches.is_confirmed = True
            elif self._ends_batch(frame, error, is_alone=len(batch) == 1):
                results.error = error
                self._batches.on_failure()
            elif not results.add_failure(queued, error):
                is_streak = self._streak.is_of_server(error)
                if is_streak and not results.sent:
                    results.error = error
                    if is_misconfigured(error):
                        self._batches.on_failure()

        results = BatchResults()
        await asyncio.gather(*map(attempt, batch))
        if results.sent:
            self._streak.reset()
            if results.error is None:  # else the next one is to be alone
                self._batches.on_success(len(results.sent))
        return results

    def _ends_batch(
        self, frame: PendingFrame, error: OrtegeWatchError, *, is_alone: bool
    ) -> bool:
        """Return whether a failure concerns the receiver, and not the alert of a frame.

        That of a single alert after an outage may concern either: the next one decides.
        """
        is_single = is_alone and self._batches.is_reduced
        is_of_server = self._batches.is_of_server(error)
        return not frame.was_sent or (is_of_server and not is_single)

    async def _run(self) -> Never:
        while True:
            error, final = await self._connect()
            delay = self._failures.next_delay(random.random())  # noqa: S311
            exhausted = self._failures.exhausted
            error.host, what = self._host, error.text
            logger.warning("%s: %s; next attempt in %.1f s", self._sender, what, delay)
            if exhausted:
                self._failures.count = 0
            final = final or exhausted
            if final:
                self._pending.fail(error)
            await self._clock.sleep(delay)
            while final and not self._pending:  # until there is something to send
                self._wake.clear()
                await self._wake.wait()

    async def _connect(self) -> tuple[OrtegeWatchError, bool]:
        """Use one connection; return the error that ended it, and whether it is final."""
        try:
            connection = await self._open()
        except InvalidStatus as error:
            return self._refused(error)
        except TransportError as error:
            return error, is_bad_certificate(error) and not self._has_worked
        self._has_worked = True
        opened_at = self._clock.now()
        try:
            ended = await self._converse(connection)
            jitter = random.random()  # noqa: S311
            self._pending.connection_lost(ended, self._clock.now(), jitter)
            return ended, False
        finally:
            self._failures.connection_lost(self._clock.now() - opened_at)
            await close(connection)

    async def _open(self) -> ClientConnection:
        headers = Headers(
            signed_headers(
                self._credentials,
                "GET",
                self._path,
                b"",
                timestamp=int((time.time() + self._ahead) * 1000),
                nonce=uuid.uuid4().hex,
            )
        )
        self._signature = headers[SIGNATURE_HEADERS[-1]]
        return await open_websocket(
            self._url,
            headers,
            secrets=self._secrets(),
            ssl=self._ssl,
            open_timeout=self._connect_within,
        )

    def _secrets(self) -> Secrets:
        """Return what the receiver knows and an error must not show."""
        return Secrets([self._credentials.secret, self._signature])

    def _refused(self, cause: InvalidStatus) -> tuple[OrtegeWatchError, bool]:
        response = cause.response
        body = redact(bytes(response.body or b""), self._secrets())
        status = response.status_code
        error, final = refused_upgrade(status, body)
        # Not response.headers.get(), which raises where a name is there twice.
        headers = {k.lower(): v for k, v in response.headers.raw_items()}
        answer = Answer(status=status, headers=headers)
        if target := redirect_target(answer, self._secrets()):
            problem = f"redirected to {target} (status {status}); {REDIRECTED}"
            error = WatchBusError(problem, status=status)
        if not self._ahead:
            ahead = server_ahead(error, headers.get("date", ""), time.time())
            if ahead is not None:
                log_skew(self._host, ahead)
                self._ahead, final = ahead, False
        error.__cause__ = safe_cause(cause, self._secrets())
        return error, final

    async def _converse(self, connection: ClientConnection) -> OrtegeWatchError:
        try:
            await _race(
                self._write(connection),
                self._read(connection),
                self._ping(connection),
                self._await_answers(),
            )
        except ConnectionClosed as error:
            # If our side refused the size, the receiver only repeats the code.
            received = error.rcvd
            if received and received.code == _TOO_LARGE and error.rcvd_then_sent:
                self._pending.on_too_large()
            problem = f"the connection was lost ({error})"
            return transport_error(problem, error, self._secrets())
        except (DecodeError, TransportError) as error:
            problem = f"closing the connection: {error}"
            return transport_error(problem, error, self._secrets())
        raise AssertionError("a loop has ended")

    async def _write(self, connection: ClientConnection) -> Never:
        while True:
            self._wake.clear()
            for text in self._pending.due(self._clock.now()):
                await connection.send(text)
            next_at = self._pending.next_at()
            if next_at is None:
                await self._wake.wait()
            else:
                # A frame may have become due while the others were being sent.
                delay = max(0.0, next_at - self._clock.now())
                await _race(self._wake.wait(), self._clock.sleep(delay))

    async def _read(self, connection: ClientConnection) -> Never:
        while True:
            answer = decode_frame(AnswerFrame, await connection.recv(decode=False))
            jitter = random.random()  # noqa: S311
            delay = self._pending.on_answer(answer, self._clock.now(), jitter)
            if delay is not None:
                problem = "%s: alert %s not handled (status %d); next attempt in %.1f s"
                name = self._shown(self._pending.alerts_of(answer.id))
                logger.info(problem, self._sender, name, answer.status, delay)
            self._wake.set()  # another frame may be sent

    async def _await_answers(self) -> Never:
        """Raise once a frame is not answered in time."""
        while True:
            left = self._answer_within
            if (awaited := self._pending.awaited()) is not None:
                frame, since = awaited
                within = self._answer_within * len(frame.alerts)
                left = min(left, since + within - self._clock.now())
                if left <= 0:
                    name = self._shown(frame.alerts)
                    raise TransportError(
                        f"no answer within {within:g} s to alert {name}"
                    )
            await self._clock.sleep(left)

    def _shown(self, alerts: Sequence[AlertInfo]) -> str:
        """Return what a log line calls the alerts of a frame."""
        first = alerts[0]
        name = shown_alert(first, first.dedupe_key(self._credentials.app_id))
        return f"{name} and {len(alerts) - 1} more" if len(alerts) > 1 else name

    async def _ping(self, connection: ClientConnection) -> Never:
        while True:
            await self._clock.sleep(self._ping_every)
            # The ping itself may block: a peer that reads nothing fills the buffers.
            timeout = self._clock.sleep(self._pong_within)
            if await _race(_pong(connection), timeout) == 1:
                raise TransportError("no response to a ping")


async def _pong(connection: ClientConnection) -> None:
    await (await connection.ping())


async def _race(*works: Coroutine[Any, Any, object]) -> int:
    """Run all until the first one ends; return its index, or raise its exception."""
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


@frozen
class AlertServer:
    """The address of a channel that is served.

    Attributes:
        port: the port, also where 0 let the system choose.
        url: the address of the channel, for :class:`AlertChannel` on this machine.
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
    """Receive alerts over WebSocket while the ``async with`` lasts (experimental).

    To receive them on the port of an ASGI application, see :func:`alert_app`.

    A frame is acknowledged when the handler has returned for every alert in it. If the
    handler raises, the other alerts are handled all the same; the sender sends the
    frame again after a delay, and only what failed is handled again. An alert that was
    handled before is skipped; one that another connection or an :func:`alert_app` is
    handling is not handled twice: the answer is sent after that. The frames of one
    connection are handled one after the other, those of several concurrently.

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
        inbox: remembers the handled alerts; by default the last 100,000 of each app, in
            memory.
        ping_every: seconds between two pings, and for the answer to each; detects
            senders that are gone. A connection ends when the secret that signed its
            handshake is revoked, which is checked as often and at each frame.
        close_within: seconds that the handler may take on leaving.

    Raises:
        InvalidArgument: an argument cannot be used.
        OrtegeWatchError: the address cannot be listened on.
    """
    check_receiver(verifier, handler, inbox)
    check_text("host", host)
    check_int("port", port, "an int, 0 to 65535", first=0, last=65535)
    check_seconds("ping_every", ping_every)
    check_seconds("close_within", close_within, or_zero=True)
    running_loop("serve_alert_channel()", "alert_app()")
    checks = evolve(checks_of(verifier), method="GET")
    inbox = AlertInbox() if inbox is None else inbox
    receiver = _Connections(FrameReceiver(checks, handler, inbox, ping_every))
    try:
        server = await serve(
            receiver.converse,
            host,
            port,
            process_request=receiver.admit,
            logger=SILENT,
            ssl=ssl,
            compression=None,
            max_size=checks.max_body + OVERHEAD,
            max_queue=_READ_AHEAD,
            ping_interval=ping_every,
            ping_timeout=ping_every,
            close_timeout=CLOSE_TIMEOUT,
        )
    except (OSError, ValueError) as error:  # a host may be invalid
        problem = f"cannot listen on {printable(host)}:{port}: {error}"
        raise OrtegeWatchError(problem) from error
    try:
        number = next(iter(server.sockets)).getsockname()[1]
        scheme, name = "wss" if ssl else "ws", f"[{host}]" if ":" in host else host
        yield AlertServer(number, f"{scheme}://{name}:{number}{verifier.path}")
    finally:
        await receiver.close(server, close_within)


@frozen(eq=False)
class _Socket:
    """A connection, as :class:`FrameReceiver` uses it."""

    _connection: ServerConnection
    _server: _Connections

    async def receive(self) -> bytes:
        return await self._server.next(self._connection)

    async def send(self, text: str) -> None:
        await self._connection.send(text)

    async def close(self, code: int, reason: str) -> None:
        await self._connection.close(code, reason)


@define(eq=False)
class _Connections:
    """The handshakes and connections of one server."""

    _receiver: FrameReceiver
    _closing: bool = False
    _open: dict[ServerConnection, anyio.CancelScope] = field(factory=dict)
    _idle: set[ServerConnection] = field(factory=set)

    async def admit(
        self, connection: ServerConnection, request: Request
    ) -> Response | None:
        """Accept a handshake, or return the response that refuses it."""
        target, headers = request.path, list(request.headers.raw_items())
        try:
            await self._receiver.admit(target, headers)
        except Exception as error:  # noqa: BLE001 - it is logged
            peer = connection.remote_address
            named = shown_request(headers, "WebSocket", target, peer)
            answer = error_response(error, named)
        else:
            return None
        response = connection.respond(answer.status, answer.body.decode())
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = CONTENT_TYPE
        return response

    async def converse(self, connection: ServerConnection) -> None:
        """Handle the frames of a connection until it ends."""
        assert connection.request is not None  # noqa: S101 - it was admitted
        headers = list(connection.request.headers.raw_items())
        # Not task.cancel(): only a scope waits for a handler that runs in a thread.
        with anyio.CancelScope() as scope:
            self._open[connection] = scope
            try:
                await self._receiver.converse(_Socket(connection, self), headers)
            except (ConnectionClosed, ConnectionError) as error:
                logger.debug("a sender has disconnected: %s", error)
            except Exception:
                logger.exception("the connection of a sender failed unexpectedly")
                raise
            finally:
                del self._open[connection]

    async def next(self, connection: ServerConnection) -> bytes:
        """Return the next frame; close the connection if the server is closing."""
        if self._closing:
            await connection.close(_GOING_AWAY)
            raise ConnectionAbortedError(
                "the server is closing"
            )  # not what it has read
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
