"""Subscriptions on asyncio: the sockets, timers and tasks of their sessions.

A runner executes the effects of its session and reports what happened; it decides
nothing. Effects are executed without waiting: what takes time is a task that reports
back, so events are handled one at a time, in order, on the event loop.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any, Final, ParamSpec, TypeVar, assert_never

import attrs
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ortege_watch import _json as codec
from ortege_watch._checks import close_coroutine
from ortege_watch._http.conversation import Response
from ortege_watch._http.driver import AsyncClock, is_bad_certificate
from ortege_watch._http.statuses import (
    REDIRECTED,
    redirect_target,
    retry_after,
    server_error,
)
from ortege_watch._http.token_source import type_and_place
from ortege_watch._json import ResultPart
from ortege_watch._websocket import (
    Connection,
    close,
    open_websocket,
    transport_error,
)
from ortege_watch.errors import ApiError, DecodeError, OrtegeWatchError, TransportError
from ortege_watch.query import Query
from ortege_watch.query.added_keys import AddedKeys
from ortege_watch.tokens import Secrets, expiry, redact, timestamp
from ortege_watch.watch import frames, states
from ortege_watch.watch.mailbox import Mailbox
from ortege_watch.watch.options import (
    Dialect,
    SharedFailures,
    WatchOptions,
    check_queries,
    settings_of,
)
from ortege_watch.watch.session import LOGGER, DialectChoice, Session
from ortege_watch.watch.states import ConnectionState

T = TypeVar("T")
P = ParamSpec("P")

_WORST_FIRST: Final = (
    ConnectionState.WAITING,
    ConnectionState.CONNECTING,
    ConnectionState.POLLING,
    ConnectionState.LIVE,
)


@lru_cache(maxsize=128)
def _warn_of_expiry(server: str, until: float) -> None:
    """Log a warning, once for each token, however many subscriptions use it."""
    LOGGER.warning(
        "%s: the token is a fixed string and %s at %s: pass a function that"
        " returns a new one",
        server,
        "expires" if until > time.time() else "expired",
        timestamp(until),
    )


@attrs.frozen(kw_only=True)
class Target:
    """The server of a subscription, and how to reach it."""

    url: str  # the WebSocket address, ws:// or wss://
    token: Callable[[], Awaitable[str]]  # calls the token function
    # what to do about a refused token that it returned again
    advice: Callable[[], str]
    # whether a token may be replaced before it expires; not for a fixed string
    token_expires: bool
    fixed_until: float | None  # when a fixed string expires, in unix seconds
    poll: Callable[[Query], Awaitable[ResultPart]]  # sends one query over REST
    clock: AsyncClock  # the clock of all time limits
    added_keys: AddedKeys  # what is added to queries
    # the size in bytes of the largest frame; a result of 50,000 rows has 17 MB
    max_size: int
    tls: ssl.SSLContext | None = None


class Subscription:
    """The sessions of one ``watch()``, and what they received.

    Args:
        queries: the queries to subscribe to.
        options: the keyword arguments of ``watch()``.
        target: the server.
        remembered: the dialect that worked last with this server.
        remember: called with the dialect that works.

    Attributes:
        mailbox: what the caller has not yet taken.
        arrived: set when there may be something new in it, or it is finished.
        finished: nothing more will arrive.
        state: the worst state of any session.
        last_seen: when the last frame or poll arrived, in UTC.
        server: its host, for log lines.
        about: the server and the number of queries, for a repr.
    """

    def __init__(
        self,
        queries: Sequence[Query],
        options: WatchOptions,
        *,
        target: Target,
        remembered: Dialect | None,
        remember: Callable[[Dialect], object],
    ) -> None:
        check_queries(queries)
        self._settings = settings_of(options)
        dialect = options.get("dialect", "auto")
        self._failures = SharedFailures(self._settings.reconnect)
        self._choice = DialectChoice(
            dialect=(remembered or "cube") if dialect == "auto" else dialect,
            may_switch=dialect == "auto",
        )
        on_error = options.get("on_error")
        self.mailbox: Final = Mailbox(
            queries,
            on_error and (lambda error: self._call("on_error", on_error, error)),
            server=target.url.split("/")[2],
        )
        self.arrived: Final = asyncio.Event()
        self.finished = False
        self.state = ConnectionState.CONNECTING
        self.last_seen: datetime | None = None
        self._wire = {key: query.to_wire() for key, query in self.mailbox.open.items()}
        self._target = target
        self.server: Final = target.url.split("/")[2]
        number = len(queries)
        self.about: Final = (
            f"{self.server}, {number} {'query' if number == 1 else 'queries'}"
        )
        self._on_state = options.get("on_state")
        self._callback_failed = False
        self._remember = remember
        self._runners: list[SessionRunner] = []
        self._closing: list[SessionRunner] = []

    @property
    def outage(self) -> OrtegeWatchError | None:
        """Why nothing arrives now, if that is known."""
        return self._failures.error

    def start(self) -> None:
        """Open the first sessions."""
        if self._on_state is not None:
            self._call("on_state", self._on_state, self.state)
        if self._target.fixed_until is not None:
            _warn_of_expiry(self.server, self._target.fixed_until)
        if not self.finished:  # by a callback that failed
            self._start_sessions()

    async def aclose(self) -> None:
        """Close every socket and end every task.

        Raises:
            BaseException: what a callback raised to end the program, if no iteration
                has raised it yet.
        """
        self.end()
        leaving = self.mailbox.clear()
        try:
            await self._wait_closed()
        except asyncio.CancelledError:  # no time for closing handshakes
            for runner in self._closing:
                runner.cancel()
            await self._wait_closed()
            raise
        leaving = leaving or self.mailbox.clear()
        if leaving is not None:
            raise leaving

    async def _wait_closed(self) -> None:
        for runner in self._closing:
            await runner.wait_closed()

    def deliver(self, effect: states.Deliver) -> None:
        """Take a snapshot."""
        if self.mailbox.put(
            effect.message_id,
            effect.part,
            resumed=effect.resumed,
            received_at=datetime.now(UTC),
        ):
            self.arrived.set()

    def fail(self, effect: states.Fail) -> None:
        """Take an error of one query."""
        self.mailbox.put_error(effect.message_id, effect.error, final=effect.final)
        self.arrived.set()

    def switch_dialect(self, effect: states.SwitchDialect) -> None:
        """Replace all sessions."""
        for runner in list(self._runners):
            self._stop(runner)
        self._start_sessions(delay=effect.delay)

    def finish(self, runner: SessionRunner, error: BaseException | None) -> None:
        """End a session; with an error, or if it was the last one, the subscription."""
        self._stop(runner)
        if error is not None or not self._runners:
            self.end(error)

    def on_connection_change(self, runner: SessionRunner) -> None:
        """Take the new connection state of a session."""
        if runner.connection is ConnectionState.LIVE:
            self._remember(runner.session.dialect)
        states = {each.connection for each in self._runners}
        for state in _WORST_FIRST:
            if state in states:
                self._set_state(state)
                return

    def _start_sessions(self, *, delay: float = 0.0) -> None:
        keys = list(self.mailbox.open)
        cube = self._choice.dialect == "cube"
        for group in [keys] if cube else [[key] for key in keys]:
            session = Session(
                {key: self._wire[key] for key in group},
                server=self.server,
                choice=self._choice,
                settings=self._settings,
                added_keys=self._target.added_keys,
                failures=self._failures,
                jitter=random.random,
                new_id=lambda: str(uuid.uuid4()),
                advice=self._target.advice,
                now=self._target.clock.now(),
                delay=delay,
            )
            runner = SessionRunner(session, self._target, self)
            self._runners.append(runner)
            runner.start()

    def _stop(self, runner: SessionRunner) -> None:
        if runner in self._runners:
            self._runners.remove(runner)
            runner.stop()
            self._closing = [each for each in self._closing if each.is_busy]
            self._closing.append(runner)

    def end(self, error: BaseException | None = None) -> None:
        """Begin to close every session; the iteration raises the error, or ends."""
        for runner in list(self._runners):
            self._stop(runner)
        if isinstance(error, Exception):
            count, after = self._failures.count, " and is not retried"
            if self._failures.exhausted:
                row = "s in a row" if count > 1 else ""
                after = f" after {count} failed attempt{row}"
            LOGGER.error(
                "%s: the subscription has ended%s: %s",
                self.server,
                after,
                error.text if isinstance(error, OrtegeWatchError) else error,
            )
        if error is not None:
            self.mailbox.put_end(error)
        if not self.finished:
            self.finished = True
            if error is None:
                LOGGER.info("%s: closed", self.server)
            self._set_state(ConnectionState.CLOSED)
        self.arrived.set()

    def _set_state(self, state: ConnectionState) -> None:
        if state is not self.state:
            self.state = state
            if self._on_state is not None:
                self._call("on_state", self._on_state, state)

    def _call(self, name: str, callback: Callable[[T], object], argument: T) -> None:
        """Call the caller's callback; if it fails, the iteration ends with an error."""
        if self._callback_failed:
            return
        failure: BaseException | None = None
        try:
            # A lambda may return the coroutine of an async function.
            if close_coroutine(callback(argument)):
                failure = OrtegeWatchError(
                    f"the callback {name} is async and was not awaited: use a plain"
                    " function"
                )
        except BaseException as error:  # noqa: BLE001 - callers' code may raise anything
            failure = _failure(f"the callback {name} failed", error)
        if failure is not None:
            self._callback_failed = True
            self.end(failure)


def _failure(problem: str, error: BaseException) -> BaseException:
    """Return what the iteration raises: the error of a caller's code with a cause.

    ``SystemExit``, ``KeyboardInterrupt`` and their like are returned as they are.
    """
    if not isinstance(error, Exception | asyncio.CancelledError):
        return error
    failure = OrtegeWatchError(f"{problem}: {type_and_place(error)}")
    failure.__cause__ = error
    return failure


class SessionRunner:
    """Runs one session until it is stopped."""

    def __init__(
        self, session: Session, target: Target, subscription: Subscription
    ) -> None:
        self.session = session
        self.connection = session.state.connection
        self.tokens: deque[str] = deque(maxlen=2)
        """The latest tokens, to be removed from messages."""
        self._queries = subscription.mailbox.open
        self._reader = frames.Reader(len(self._queries))
        self._subscription = subscription
        self._target = target
        self._clock = target.clock
        self._stopped = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.Task[None] | None = None
        self._timer_at: float | None = None
        self._token_task: asyncio.Task[None] | None = None
        self._socket: _Socket | None = None

    @property
    def is_busy(self) -> bool:
        """Whether one of its tasks or its socket still exists."""
        return bool(self._tasks)

    def start(self) -> None:
        """Start the timer; the first deadline starts the first attempt."""
        self._arm()

    def stop(self) -> None:
        """Begin to close; no further event is handled."""
        self._stopped = True
        self._socket = None
        self.cancel()

    def cancel(self) -> None:
        """Cancel every task; a closing handshake in progress is aborted."""
        for task in self._tasks:
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until no task and no socket of a stopped runner is left."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that does not outlive the runner."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A defect of the library, which must not end in silence.
            failure = _failure("the subscription failed unexpectedly", error)
            self._subscription.finish(self, failure)

    async def _guarded(
        self, call: Callable[P, Awaitable[None]], *given: P.args, **options: P.kwargs
    ) -> None:
        """Call what may call the caller's token function.

        asyncio would stop the whole event loop for its ``SystemExit``, and not tell
        who iterates.
        """
        try:
            await call(*given, **options)
        except (SystemExit, KeyboardInterrupt) as error:
            self._subscription.finish(self, error)

    def feed(self, event: states.Event) -> None:
        """Give the session an event, and execute its effects."""
        if self._stopped:
            return
        session = self.session
        for effect in session.handle(event, self._clock.now()):
            self._execute(effect)
        if self._timer_at is None or (session.state.until or 0.0) < self._timer_at:
            self._arm()
        if session.state.connection is not self.connection:
            self.connection = session.state.connection
            self._subscription.on_connection_change(self)

    def _execute(self, effect: states.Effect) -> None:
        match effect:
            case states.Deliver():
                self._subscription.deliver(effect)
            case states.Send(text=text):
                if self._socket is not None:
                    self._socket.outbox.put_nowait(text)
            case states.Fail():
                self._subscription.fail(effect)
            case states.Ping():
                self.spawn(self._ping())
            case states.AskToken():
                if self._token_task is not None:  # it took too long
                    self._token_task.cancel()
                self._token_task = self.spawn(self._guarded(self._ask_token))
            case states.Open(token=token):
                self._socket = _Socket(self, self._target, token)
            case states.Disconnect():
                self._disconnect()
            case states.Poll(message_id=key):
                self.spawn(self._guarded(self._poll, key, self._queries[key]))
            case states.SwitchDialect():
                self._subscription.switch_dialect(effect)
            case states.Finish(error=error):
                self._subscription.finish(self, error)
            case _:
                assert_never(effect)

    def _disconnect(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.task.cancel()

    async def _ask_token(self) -> None:
        if self._target.token_expires:
            LOGGER.debug("%s: calling the token function", self._subscription.server)
        try:
            token = await self._target.token()
        except OrtegeWatchError as error:
            self.feed(states.TokenFailed(error))
            return
        if token not in self.tokens:
            self.tokens.append(token)
        expires = expiry(token) if self._target.token_expires else None
        if expires is not None:
            expires += self._clock.now() - time.time()
        self.feed(states.TokenReady(token, expires))

    async def _poll(self, key: str, query: Query) -> None:
        try:
            part = await self._target.poll(query)
        except OrtegeWatchError as error:
            redirects = isinstance(error, ApiError) and 300 <= error.status < 400
            permanent = redirects or is_bad_certificate(error)
            self.feed(states.PollFailed(key, error, permanent))
        else:
            self._subscription.last_seen = datetime.now(UTC)
            self.feed(states.Polled(key, part))

    async def _ping(self) -> None:
        socket = self._socket
        if socket is not None and await socket.ping():
            self.feed(states.Pong())

    def on_frame(self, socket: _Socket, data: bytes | bytearray) -> None:
        """Read a frame, with the tokens removed from its messages."""
        if socket is not self._socket:
            return
        self._subscription.last_seen = datetime.now(UTC)
        try:
            frame = self._reader.read(data)
        except DecodeError as error:
            error = self._without_excerpt_of_tokens(error, data)
            self.feed(states.Unreadable(error, frames.query_of(data)))
            return
        match frame:
            case frames.FrameError(status=status, message=message):
                frame = frames.FrameError(status, self._without_tokens(message))
            case frames.Answer(body=body) if body.error is not None:
                body.error = self._without_tokens(body.error)
                body.type = body.type and self._without_tokens(body.type)
            case _:
                pass
        self.feed(states.Received(frame))

    def on_socket(
        self, socket: _Socket, event: states.Opened | states.OpenFailed | states.Dropped
    ) -> None:
        """Report the state of the socket, unless it was given up."""
        if socket is self._socket:
            if not isinstance(event, states.Opened):
                self._socket = None
            self.feed(event)

    def _without_tokens(self, text: str) -> str:
        return redact(text, self.tokens)

    def _without_excerpt_of_tokens(
        self, error: DecodeError, data: bytes | bytearray
    ) -> DecodeError:
        # Removed before it is cut, because an excerpt may end in the middle of a token.
        clean = redact(bytes(data), self.tokens)
        if clean == data:
            return error
        return DecodeError(*error.problems, excerpt=codec.excerpt(clean))

    def _arm(self) -> None:
        """Set the timer to the deadline; :meth:`feed` ignores one that fires early."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._timer_at = None if self._stopped else self.session.state.until
        if self._timer_at is not None:
            self._timer = self.spawn(self._sleep_until(self._timer_at))

    async def _sleep_until(self, deadline: float) -> None:
        await self._clock.sleep(max(0.0, deadline - self._clock.now()))
        self._timer = self._timer_at = None
        self.feed(states.DeadlinePassed())
        if self._timer is None:  # that was too early
            self._arm()


class _Socket:
    """One WebSocket connection; cancel its task to close it."""

    def __init__(self, runner: SessionRunner, target: Target, token: str) -> None:
        self.outbox: asyncio.Queue[str] = asyncio.Queue()
        self.task = runner.spawn(self._run(target, token))
        self._runner = runner
        self._connection: Connection | None = None

    async def _run(self, target: Target, token: str) -> None:
        """Open it, then read until it is closed; report both."""
        runner = self._runner
        try:
            connection = await open_websocket(
                target.url,
                {"Authorization": f"Bearer {token}"},
                secrets=runner.tokens,
                max_size=target.max_size,
                ssl=target.tls,
            )
        except InvalidStatus as error:
            runner.on_socket(self, self._refused(error))
            return
        except TransportError as failure:
            permanent = is_bad_certificate(failure)
            failure.__traceback__ = None  # the frames have the token
            runner.on_socket(self, states.OpenFailed(failure, permanent=permanent))
            return
        self._connection = connection
        writer = runner.spawn(self._write(connection))
        try:
            runner.on_socket(self, states.Opened())
            await connection.read(partial(runner.on_frame, self))
        except ConnectionClosed as error:
            runner.on_socket(self, self._dropped(error, target.max_size))
        finally:
            writer.cancel()
            await close(connection)

    async def _write(self, connection: Connection) -> None:
        try:
            while True:
                await connection.send(await self.outbox.get())
        except ConnectionClosed:
            pass  # the reader reports it

    def _refused(self, error: InvalidStatus) -> states.OpenFailed:
        answer = Response(
            status=error.response.status_code,
            headers={k.lower(): v for k, v in error.response.headers.raw_items()},
            content=bytes(error.response.body),
            received_at=time.time(),
        )
        tokens = Secrets(self._runner.tokens)
        # Before it is cut, because an excerpt may end in the middle of a token.
        content = redact(answer.content, tokens)
        message = server_error(content)[0]
        # Again, because JSON can escape every character of a token.
        message = message and redact(message, tokens)
        problem = f"the server refused the WebSocket with HTTP {answer.status}"
        if said := message or codec.excerpt(content):
            problem += f": {said if message else repr(said)}"
        target = redirect_target(answer, tokens)
        if target is not None:
            problem = f"redirected to {target}; {REDIRECTED}"
        return states.OpenFailed(
            transport_error(problem, error, tokens),
            answer.status,
            message=message,
            permanent=target is not None,
            retry_after=retry_after(answer),
        )

    def _dropped(self, error: ConnectionClosed, max_size: int) -> states.Dropped:
        received, sent = error.rcvd, error.sent
        code = 1006 if received is None else received.code
        problem = f"the connection was lost ({error})"
        too_big = sent is not None and sent.code == 1009 and not error.rcvd_then_sent
        failure = transport_error(problem, error, self._runner.tokens)
        return states.Dropped(code, failure, max_size if too_big else None)

    async def ping(self) -> bool:
        """Send a ping; return whether it was answered."""
        if self._connection is None:
            return False
        try:
            await (await self._connection.ping())
        except ConnectionClosed:
            return False
        return True
