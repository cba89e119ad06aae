"""The asyncio shell of one session: its socket, its timer, its tasks.

It executes the session's effects and reports what happened; it decides nothing. All
effects are executed without waiting: what takes time is a task that reports back, so
events are handled one at a time, in order, on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol, assert_never

import attrs
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ortege_watch import _json as codec
from ortege_watch._http.driver import AsyncClock
from ortege_watch._json import ResultPart
from ortege_watch._websocket import close, open_websocket, transport_error
from ortege_watch.errors import DecodeError, OrtegeWatchError, TransportError
from ortege_watch.query import Query
from ortege_watch.tokens import expiry
from ortege_watch.watch import frames
from ortege_watch.watch.session import Session
from ortege_watch.watch.states import (
    AskToken,
    DeadlinePassed,
    Deliver,
    Disconnect,
    Dropped,
    Effect,
    Event,
    Fail,
    Finish,
    Log,
    Open,
    Opened,
    OpenFailed,
    Ping,
    Poll,
    Polled,
    PollFailed,
    Pong,
    Received,
    Send,
    SwitchDialect,
    TokenFailed,
    TokenReady,
    Unreadable,
)

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

__all__ = ["LOGGER", "Host", "Link", "Target"]

LOGGER: Final = logging.getLogger("ortege_watch.subscription")


@attrs.frozen(kw_only=True)
class Target:
    """Say where a session connects to, and with what.

    Attributes:
        url: the WebSocket address, ``ws://`` or ``wss://``.
        token: asks the token provider.
        token_expires: whether a token may be replaced before it expires; not for a
            fixed string.
        poll: asks one query over REST.
        clock: what all time limits go by.
        max_size: the largest frame to take; a result of 50,000 rows is 17 MB.
    """

    url: str
    token: Callable[[], Awaitable[str]]
    token_expires: bool
    poll: Callable[[Query], Awaitable[ResultPart]]
    clock: AsyncClock
    max_size: int


class Host(Protocol):
    """What a link reports to."""

    def deliver(self, message_id: str, part: ResultPart, *, resumed: bool) -> None:
        """Take a snapshot."""

    def fail(self, message_id: str, error: OrtegeWatchError, *, final: bool) -> None:
        """Take an error of one query."""

    def switch(self, link: Link, effect: SwitchDialect) -> None:
        """Go on in the other dialect; the link is done."""

    def finish(self, link: Link, error: OrtegeWatchError | None) -> None:
        """Take the end of the link."""

    def heard(self) -> None:
        """Note that a frame came."""

    def changed(self, link: Link) -> None:
        """Note that the link's state may have changed."""


class Link:
    """Run one session until it is closed."""

    def __init__(
        self,
        session: Session,
        target: Target,
        host: Host,
        *,
        queries: Mapping[str, Query],
    ) -> None:
        self.session = session
        self.queries = queries
        """The queries that this link carries, by message id."""
        self._target = target
        self._clock = target.clock
        self._host = host
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.Task[None] | None = None
        self._timer_at: float | None = None
        self._asking: asyncio.Task[None] | None = None
        self.tokens: deque[str] = deque(maxlen=2)
        """The latest ones, to be cut out of what the server says."""
        self._socket: _Socket | None = None

    @property
    def is_busy(self) -> bool:
        """Tell whether a task or a socket of it is still there."""
        return bool(self._tasks)

    def start(self) -> None:
        """Begin; the session's first deadline starts the first attempt."""
        self._arm()

    async def settled(self) -> None:
        """Wait until no task and no socket is left of a link that was stopped."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        """Cancel every task; a socket that is closing politely is cut at once."""
        for task in self._tasks:
            task.cancel()

    def stop(self) -> None:
        """Begin to close: no event is handled any more."""
        self._closed = True
        self._socket = None
        self.cut()

    def feed(self, event: Event) -> None:
        """Hand the session an event and execute what it says."""
        if self._closed:
            return
        for effect in self.session.handle(event, self._clock.now()):
            self._execute(effect)
        self._arm()
        self._host.changed(self)

    # ------------------------------------------------------------------ effects

    def _execute(self, effect: Effect) -> None:
        match effect:
            case Send(text=text):
                if self._socket is not None:
                    self._socket.outbox.put_nowait(text)
            case Deliver(message_id=key, part=part, resumed=resumed):
                self._host.deliver(key, part, resumed=resumed)
            case Fail(message_id=key, error=error, final=final):
                self._host.fail(key, error, final=final)
            case Ping():
                self.spawn(self._ping())
            case AskToken():
                if self._asking is not None:  # it took too long
                    self._asking.cancel()
                self._asking = self.spawn(self._ask_token())
            case Open(token=token):
                self._socket = _Socket(self, self._target, token)
            case Disconnect():
                self._disconnect()
            case Poll(message_id=key):
                self.spawn(self._poll(key))
            case Log(level=level, text=text):
                LOGGER.log(level, "%s", text)
            case SwitchDialect():
                self._host.switch(self, effect)
            case Finish(error=error):
                self._host.finish(self, error)
            case _:
                assert_never(effect)

    async def _ask_token(self) -> None:
        try:
            token = await self._target.token()
        except OrtegeWatchError as error:
            self.feed(TokenFailed(error))
            return
        if token not in self.tokens:
            self.tokens.append(token)
        expires = expiry(token) if self._target.token_expires else None
        if expires is not None:
            expires += self._clock.now() - time.time()
        self.feed(TokenReady(token, expires))

    async def _poll(self, key: str) -> None:
        try:
            part = await self._target.poll(self.queries[key])
        except OrtegeWatchError as error:
            self.feed(PollFailed(key, error))
        else:
            self._host.heard()
            self.feed(Polled(key, part))

    async def _ping(self) -> None:
        socket = self._socket
        if socket is not None and await socket.ping():
            self.feed(Pong())

    # ------------------------------------------------------- what a socket reports

    def came(self, socket: _Socket, data: bytes) -> None:
        """Take a frame."""
        if socket is not self._socket:
            return
        self._host.heard()
        try:
            frame = frames.read(data)
        except DecodeError as error:
            self.feed(Unreadable(self._readable(error, data)))
            return
        match frame:
            case frames.FrameError(status=status, message=message):
                frame = frames.FrameError(status, self._without_tokens(message))
            case frames.Answer(body=body) if body.error is not None:
                body.error = self._without_tokens(body.error)
            case _:
                pass
        self.feed(Received(frame))

    def report(self, socket: _Socket, event: Opened | OpenFailed | Dropped) -> None:
        """Take what became of a socket; one that was given up is not heard."""
        if socket is self._socket:
            if not isinstance(event, Opened):
                self._socket = None
            self.feed(event)

    def failure(self, text: str, cause: Exception) -> TransportError:
        """Return a TransportError with the tokens removed from its message."""
        return transport_error(text, cause, self.tokens)

    def _readable(self, error: DecodeError, data: bytes) -> DecodeError:
        # Cut out first: an excerpt may end in the middle of the token.
        clean = data
        for token in self.tokens:
            clean = clean.replace(token.encode(), b"<token>")
        if clean == data:
            return error
        return DecodeError(*error.problems, excerpt=codec.excerpt(clean))

    def _without_tokens(self, text: str) -> str:
        for token in self.tokens:
            text = text.replace(token, "<token>")
        return text

    def _disconnect(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.task.cancel()

    # ----------------------------------------------------------------- the timer

    def _arm(self) -> None:
        """Keep a timer that fires at the deadline or before; too early is harmless."""
        deadline = None if self._closed else self.session.deadline
        if deadline is None or (
            self._timer_at is not None and self._timer_at <= deadline
        ):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self.spawn(self._sleep_until(deadline))

    async def _sleep_until(self, deadline: float) -> None:
        await self._clock.sleep(max(0.0, deadline - self._clock.now()))
        self._timer = self._timer_at = None
        self.feed(DeadlinePassed())
        self._arm()  # an early one changed nothing, and so armed nothing

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that does not outlive the link."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A defect, in the library or in a callback: it must not end in silence.
            self._host.finish(self, _defect(error))


def _defect(error: BaseException) -> OrtegeWatchError:
    name = type(error).__name__
    failure = OrtegeWatchError(f"the subscription failed unexpectedly: {name}")
    failure.__cause__ = error
    return failure


class _Socket:
    """One WebSocket connection, from its first packet to its last.

    Cancel its task to close it.
    """

    def __init__(self, link: Link, target: Target, token: str) -> None:
        self.outbox: asyncio.Queue[str] = asyncio.Queue()
        self.task = link.spawn(self._run(target, token))
        self._link = link
        self._connection: ClientConnection | None = None

    async def _run(self, target: Target, token: str) -> None:
        """Open, then read until the connection is gone; report both."""
        try:
            connection = await open_websocket(
                target.url,
                {"Authorization": f"Bearer {token}"},
                secrets=self._link.tokens,
                max_size=target.max_size,
            )
        except InvalidStatus as error:
            status = error.response.status_code
            problem = f"HTTP {status} was the answer to the upgrade"
            failure = self._link.failure(problem, error)
            self._link.report(self, OpenFailed(failure, status))
            return
        except TransportError as failure:
            self._link.report(self, OpenFailed(failure))
            return
        self._connection = connection
        writer = self._link.spawn(self._write(connection))
        try:
            self._link.report(self, Opened())
            while True:
                self._link.came(self, await connection.recv(decode=False))
        except ConnectionClosed as error:
            self._link.report(self, self._dropped(error))
        finally:
            writer.cancel()
            await close(connection)

    async def _write(self, connection: ClientConnection) -> None:
        try:
            while True:
                await connection.send(await self.outbox.get())
        except ConnectionClosed:
            pass  # the reader reports it

    def _dropped(self, error: ConnectionClosed) -> Dropped:
        received, sent = error.rcvd, error.sent
        code = 1006 if received is None else received.code
        problem = f"the connection was lost ({error})"
        too_big = sent is not None and sent.code == 1009 and not error.rcvd_then_sent
        return Dropped(code, self._link.failure(problem, error), too_big=too_big)

    async def ping(self) -> bool:
        """Send a ping; return whether it was answered."""
        if self._connection is None:
            return False
        try:
            await (await self._connection.ping())
        except ConnectionClosed:
            return False
        return True
