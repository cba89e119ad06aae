"""THE state machine of a subscription: (state, event, now) -> effects.

Pure: it opens no socket, reads no clock and rolls no dice. The shell (``runner.py``)
executes the effects and reports what happened as events, in order. Each state has one
function, in ``opening.py`` or ``live.py``, whose return type names every state that may
follow; a type checker holds it to that, and the diagram in the docs is checked against
it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, assert_never

import attrs

from ortege_watch._http.conversation import Backoff
from ortege_watch._http.statuses import api_error, is_unauthorized
from ortege_watch.errors import (
    ApiError,
    AuthenticationError,
    DecodeError,
    OrtegeWatchError,
    QueryRejected,
    RateLimited,
    SubscriptionLost,
    TransportError,
)
from ortege_watch.watch import frames
from ortege_watch.watch.book import Book
from ortege_watch.watch.options import Dialect, Settings
from ortege_watch.watch.states import (
    AskingToken,
    AskToken,
    Authorizing,
    Closed,
    Connecting,
    ConnectionState,
    DeadlinePassed,
    Disconnect,
    Dropped,
    Effect,
    Event,
    Fail,
    Finish,
    Live,
    Log,
    Open,
    Opened,
    OpenFailed,
    Ping,
    Poll,
    Polled,
    PollFailed,
    Polling,
    Pong,
    Received,
    Send,
    State,
    SwitchDialect,
    TokenFailed,
    TokenReady,
    Unreadable,
    Waiting,
)

__all__ = [
    "Context",
    "Session",
    "asking_token",
    "authorizing",
    "connecting",
    "live",
    "polling",
    "waiting",
]

# -------------------- What the states of a session share: its memory and the ways out of a state.
#
# Pure. ``opening.py`` and ``live.py`` hold one function a state; each calls these
# methods, which note the effects and return the state that follows.


_REFUSALS_BEFORE_POLLING: Final = 5
"""How often a server that has spoken WebSocket before may refuse the upgrade: it may be
restarting behind a proxy, for half a minute by the default delays."""

_ASK_AGAIN_AFTER: Final = 10.0
"""Seconds after which a provider that has no better token is asked again."""


@attrs.define(kw_only=True)
class Context:
    """Remember what outlives a state, and collect the effects of one event.

    Attributes:
        failures: attempts that failed in a row.
        because: how the other dialect failed, if it was tried before.
        proven: the server has understood this dialect, in this session or another one.
        refused_token: the token that the server refused last, until one is taken.
        refused_upgrades: upgrades in a row that were answered as "WebSockets are off".
        early_drops: sockets in a row that were lost before the server understood us.
    """

    book: Book
    dialect: Dialect
    may_switch: bool
    settings: Settings
    draw: Callable[[], float]
    new_id: Callable[[], str]
    now: float
    failures: int = 0
    because: OrtegeWatchError | None = None
    proven: bool = False
    refused_token: str | None = attrs.field(default=None, repr=False)
    refused_upgrades: int = 0
    early_drops: int = 0
    effects: list[Effect] = attrs.field(factory=list)

    def do(self, *effects: Effect) -> None:
        """Note effects, in order."""
        self.effects.extend(effects)

    def log(self, level: int, text: str) -> None:
        """Note a log line."""
        self.do(Log(level, text))

    # ----------------------------------------------------------------- onwards

    def ask_token(self) -> AskingToken:
        """Ask the provider before a socket is opened."""
        self.do(AskToken())
        return AskingToken(self.now + self.settings.token_within)

    def go_live(self, token: str, expires_at: float | None) -> Live:
        """Send every query on the open socket.

        Cube has shaken hands by now. The tutorial's dialect has no handshake, no
        heartbeat and no second authorisation: the first answer proves it.
        """
        now, settings = self.now, self.settings
        self.book.reconnected()
        self.subscribe_all()
        silent_at = now + settings.stale_after
        if self.dialect == "ortege":
            switching = self.may_switch and not self.proven
            prove_by = silent_at if switching else None
            return Live(token=token, silent_at=silent_at, prove_by=prove_by)
        return self.understood(
            Live(
                token=token,
                silent_at=silent_at,
                lost_at=now + 2 * settings.stale_after,
                resend_at=now + settings.resend_every,
                renew_at=self.renew_at(expires_at),
            )
        )

    def understood(self, state: Live) -> Live:
        """Note that the server speaks this dialect."""
        self.proven = True
        self.because = None
        self.refused_token = None
        self.refused_upgrades = 0
        self.early_drops = 0
        count = len(self.book.open)
        self.log(logging.INFO, f"live: queries subscribed: {count}")
        return attrs.evolve(state, since=self.now, prove_by=None)

    def subscribe_all(self) -> None:
        """Send every query that has not ended; on a live socket that renews it."""
        for key, query in self.book.open.items():
            request_id = self.new_id()
            if self.dialect == "cube":
                self.do(Send(frames.subscribe(key, query, request_id)))
            else:
                self.do(Send(frames.tutorial_subscribe(query, request_id)))

    def renew_at(self, expires_at: float | None) -> float | None:
        """Give the time to ask for the token after one that ends at ``expires_at``."""
        if expires_at is None:
            return None
        left = expires_at - self.now
        if left <= 0:  # the provider's clock, or ours, is wrong
            return self.now + _ASK_AGAIN_AFTER
        margin = min(self.settings.renew_before, left / 4)
        return self.now + max(1.0, left - margin)

    def poll(self, pending: frozenset[str] = frozenset()) -> Polling:
        """Ask every query over REST whose last answer has come."""
        idle = frozenset(self.book.open) - pending
        self.do(*(Poll(key) for key in sorted(idle)))
        return Polling(self.now + self.settings.poll_every, pending | idle)

    def renew_token(self, state: Live) -> Live:
        """Ask for another token on the live socket; again, if the provider hangs."""
        self.do(AskToken())
        return attrs.evolve(state, renew_at=self.now + self.settings.token_within)

    def ask_again_at(self) -> float:
        """Give the time to ask a provider again that has failed."""
        return self.now + _ASK_AGAIN_AFTER

    # ------------------------------------------------------------------ ways out

    def retry(self, error: OrtegeWatchError) -> Waiting | Closed:
        """Wait out a back-off delay, unless there were too many failures."""
        attempts = self.settings.reconnect.attempts
        if attempts is not None and self.failures >= attempts:
            return self.finish(error)
        delay = self.next_delay()
        self.refused_token = None
        self.log(logging.WARNING, f"{error}; next attempt in {delay:.1f} s")
        return Waiting(self.now + delay)

    def next_delay(self) -> float:
        """Draw the delay after one more failure."""
        reconnect = self.settings.reconnect
        backoff = Backoff(base=reconnect.base, cap=reconnect.cap)
        delay = backoff.delay(self.failures, self.draw())
        self.failures += 1
        return delay

    def lost(self, state: Live, error: OrtegeWatchError) -> Waiting | Closed:
        """Retry; the delays start anew only if the connection had held."""
        healthy_after = self.settings.reconnect.healthy_after
        if state.since is not None and self.now - state.since >= healthy_after:
            self.failures = 0
        return self.retry(error)

    def dropped_early(self, error: OrtegeWatchError) -> Waiting | Closed:
        """Take the loss of a socket on which the server has understood nothing yet.

        Once is an outage. Twice in a row may be a server that hangs up on what it does
        not understand.
        """
        self.early_drops += 1
        if self.early_drops >= 2 and self.may_switch:
            return self.not_understood(error)
        return self.retry(error)

    def give_up_socket(self, state: Live, error: OrtegeWatchError) -> Waiting | Closed:
        """Close a socket that is of no more use, and retry."""
        self.do(Disconnect())
        return self.lost(state, error)

    def finish(self, error: OrtegeWatchError | None) -> Closed:
        """End the session for good."""
        self.do(Disconnect(), Finish(error))
        return Closed(error)

    def finish_if_done(self) -> Closed | None:
        """End the session if every query has ended."""
        return None if self.book.open else self.finish(None)

    def token_refused(self, status: int, message: str) -> Closed:
        """End the session because two tokens in a row were refused."""
        return self.finish(AuthenticationError(message, status=status))

    def upgrade_refused(self, error: OrtegeWatchError) -> Polling | Waiting | Closed:
        """Poll over REST, unless the server has spoken WebSocket a moment ago."""
        self.refused_upgrades += 1
        restarting = self.refused_upgrades < _REFUSALS_BEFORE_POLLING
        pinned = self.settings.transport == "websocket"
        if self.proven and (restarting or pinned):
            return self.retry(error)
        problem = f"WebSockets are disabled or blocked at this server: {error}"
        if pinned:
            return self.finish(SubscriptionLost(problem))
        every = self.settings.poll_every
        self.log(logging.WARNING, f"{problem}; asking over REST every {every:g} s")
        self.book.reconnected()
        return self.poll()

    def not_understood(self, error: OrtegeWatchError) -> Waiting | Closed:
        """Try the other dialect, where that is allowed and makes sense."""
        if self.proven or not (self.may_switch or _is_refusal(error)):
            self.do(Disconnect())
            return self.retry(error)
        if not self.may_switch:
            problem = f"the server does not speak the {self.dialect!r} dialect"
            return self.finish(SubscriptionLost(f"{problem}: {error}"))
        other: Dialect = "ortege" if self.dialect == "cube" else "cube"
        if self.because is not None and _is_refusal(error, self.because):
            problem = (
                f"the server speaks neither dialect: to {self.dialect!r} it said "
                f"{error}; to {other!r} it said {self.because}"
            )
            return self.finish(SubscriptionLost(problem))
        first = self.because is None and self.failures == 0
        delay = self.next_delay()
        self.log(logging.WARNING, f"{error}; trying the {other!r} dialect")
        self.do(
            Disconnect(),
            SwitchDialect(error, self.failures, 0.0 if first else delay),
        )
        return Closed()


def _is_refusal(*errors: OrtegeWatchError) -> bool:
    """Tell answers that will stay the same from outages."""
    return all(isinstance(e, ApiError) and 400 <= e.status < 500 for e in errors)


# -------------------- The states in which updates flow: a live socket, or polling over REST. Pure.


_FRAME_TOO_BIG: Final = 1009
"""The close code for a frame that is larger than the receiver takes."""


def live(context: Context, state: Live, event: Event) -> Live | Waiting | Closed:
    """Take frames, notice silence, renew queries and tokens."""
    match event:
        case Received(frame=frame):
            return _frame(context, _heard(context, state), frame)
        case Pong():
            silent_at = context.now + context.settings.stale_after
            return attrs.evolve(state, silent_at=silent_at, pong_by=None)
        case DeadlinePassed():
            return _deadline(context, state)
        case TokenReady(token=token, expires_at=expires_at):
            return _token(context, state, token, expires_at)
        case TokenFailed(error=error):
            if context.refused_token is not None:
                return context.give_up_socket(state, error)
            context.log(logging.WARNING, f"{error}; the live token is kept for now")
            return attrs.evolve(state, renew_at=context.ask_again_at())
        case Unreadable(error=error):
            # What it held is unknown, and the server pushes a result only once.
            return context.give_up_socket(state, error)
        case Dropped():
            return _dropped(context, state, event)
        case _:
            return state


def polling(context: Context, state: Polling, event: Event) -> Polling | Closed:
    """Ask every query again and again; the updates are the same."""
    match event:
        case DeadlinePassed():
            return context.poll(state.pending)
        case Polled(message_id=key, part=part):
            context.failures = 0
            context.do(*context.book.snapshot(key, part, context.now))
        case PollFailed(error=AuthenticationError() as error):
            return context.finish(error)
        case PollFailed(message_id=key, error=error):
            if isinstance(error, ApiError) and not isinstance(error, RateLimited):
                context.do(*context.book.api_error(key, error))
                ended = context.finish_if_done()
                if ended is not None:
                    return ended
            else:
                return _poll_later(context, state, key, error)
        case _:
            return state
    return attrs.evolve(state, pending=state.pending - {key})


def _poll_later(
    context: Context, state: Polling, key: str, error: OrtegeWatchError
) -> Polling | Closed:
    after = context.retry(error)
    if isinstance(after, Closed):
        return after
    context.book.reconnected()
    asked = error.retry_after if isinstance(error, RateLimited) else None
    until = max(state.until, after.until, context.now + (asked or 0.0))
    return Polling(until, state.pending - {key})


def _frame(
    context: Context, state: Live, frame: frames.Frame
) -> Live | Waiting | Closed:
    match frame:
        case frames.Processed(message_id=key):
            if key in context.book.ids:
                return state
            return _unknown(context, state, key)
        case frames.Answer():
            return _answer(context, state, frame)
        case frames.Handshake():
            context.refused_token = None
            return attrs.evolve(state, handshake_by=None)
        case frames.FrameError(status=status, message=message):
            error = api_error(message, status=status)
            if isinstance(error, AuthenticationError):
                return _token_refused(context, state, error)
            if context.dialect == "ortege" and context.proven:
                return _query_error(context, state, error)
            if state.since is None:
                return context.not_understood(error)
            return context.give_up_socket(state, error)
    assert_never(frame)


def _query_error(
    context: Context, state: Live, error: ApiError
) -> Live | Waiting | Closed:
    """Take an error in the tutorial's dialect: a socket has one query there."""
    if state.since is None:
        state = context.understood(state)
    (key,) = context.book.ids
    return _failed(context, state, context.book.api_error(key, error))


def _token_refused(
    context: Context, state: Live, error: AuthenticationError
) -> Live | Waiting | Closed:
    """Ask for another token, once."""
    if context.refused_token is not None:
        return context.finish(error)
    if context.dialect == "cube":
        context.refused_token = state.token
        return context.renew_token(attrs.evolve(state, handshake_by=None))
    after = context.give_up_socket(state, error)  # only a new socket takes a new token
    context.refused_token = state.token
    return after


def _answer(
    context: Context, state: Live, answer: frames.Answer
) -> Live | Waiting | Closed:
    book, key = context.book, answer.message_id
    if key is None and context.dialect == "ortege":
        (key,) = book.ids  # one query a socket
    if key is None or key not in book.ids:
        return _unknown(context, state, key)
    message = answer.body.error
    if message == frames.CONTINUE_WAIT:  # the server goes on by itself
        return state
    if message is not None or answer.status >= 400:
        message = message or "no reason given"
        code, status = answer.body.type, answer.status
        error = api_error(message, status=status, code=code)
        if isinstance(error, AuthenticationError):
            # The server forgot our token, and says so on every frame from here on; or
            # it refuses the token for this query, however new it is.
            if not book.is_unauthorized_again(key):
                return context.give_up_socket(state, error)
            return _failed(context, state, book.fail(key, error, final=True))
        return _failed(context, state, book.api_error(key, error))
    if state.since is None:
        state = context.understood(state)
    parts = answer.body.parts
    if len(parts) != 1:
        problem = f"an answer holds {len(parts)} results where one was asked for"
        context.do(*book.fail(key, DecodeError(problem), final=False))
        return state
    context.do(*book.snapshot(key, parts[0], context.now))
    if book.release_at == state.release_at:
        return state
    return attrs.evolve(state, release_at=book.release_at)


def _failed(
    context: Context, state: Live, failures: list[Fail]
) -> Live | Waiting | Closed:
    context.do(*failures)
    for failure in failures:
        if failure.final and context.dialect == "cube":
            context.do(Send(frames.unsubscribe(failure.message_id)))
    return context.finish_if_done() or state


def _deadline(context: Context, state: Live) -> Live | Waiting | Closed:
    now, settings = context.now, context.settings

    def passed(deadline: float | None) -> bool:
        return deadline is not None and deadline <= now

    if passed(state.pong_by):
        return context.give_up_socket(state, TransportError("a ping had no answer"))
    if passed(state.handshake_by):
        problem = "the new token was not answered in time"
        return context.give_up_socket(state, TransportError(problem))
    if passed(state.prove_by):
        problem = "nothing came back in the tutorial's dialect"
        return context.not_understood(TransportError(problem))
    if passed(state.lost_at):
        problem = "the server answers pings, but sends no frames"
        return context.give_up_socket(state, TransportError(problem))
    if passed(state.release_at):
        context.do(*context.book.release(now))
        return attrs.evolve(state, release_at=context.book.release_at)
    if passed(state.renew_at):
        return context.renew_token(state)
    if passed(state.resend_at):
        context.subscribe_all()
        return attrs.evolve(state, resend_at=now + settings.resend_every)
    context.log(logging.DEBUG, "nothing heard for a while; sending a ping")
    context.do(Ping())
    return attrs.evolve(state, pong_by=now + settings.pong_within)


def _token(
    context: Context, state: Live, token: str, expires_at: float | None
) -> Live | Closed:
    """Authorise the live socket again; the old token stays in force until then."""
    if token == context.refused_token:
        return context.token_refused(403, "Invalid token")
    renew_at = context.renew_at(expires_at)
    if token == state.token:  # the provider has no newer one yet
        return attrs.evolve(state, renew_at=renew_at)
    context.log(logging.INFO, "authorising the live socket with a new token")
    context.do(Send(frames.authorization(token)))
    handshake_by = context.now + context.settings.handshake_within
    return attrs.evolve(
        state, token=token, renew_at=renew_at, handshake_by=handshake_by
    )


def _heard(context: Context, state: Live) -> Live:
    """Count any frame as life."""
    silent_at = context.now + context.settings.stale_after
    lost_at = silent_at + context.settings.stale_after
    return state.heard(silent_at, None if state.lost_at is None else lost_at)


def _unknown(context: Context, state: Live, key: str | None) -> Waiting | Closed:
    problem = f"a frame belongs to no subscription (messageId {key!r})"
    return context.give_up_socket(state, DecodeError(problem))


def _dropped(context: Context, state: Live, event: Dropped) -> Waiting | Closed:
    if event.too_big:
        problem = (
            "the server sent a frame larger than the client's max_size: raise that "
            "setting, or narrow or limit the query"
        )
        return context.finish(SubscriptionLost(problem))
    if event.code == _FRAME_TOO_BIG:
        # Sent again, it would be refused again, for ever.
        sentence = "the server refuses a frame of this size (close code 1009)"
        refusal = QueryRejected(sentence, status=413)
        context.do(*context.book.fail(context.book.largest(), refusal, final=True))
    ended = context.finish_if_done()
    if ended is not None:
        return ended
    if state.since is None:
        return context.dropped_early(event.error)
    return context.lost(state, event.error)


# -------------------- The states on the way to a live subscription. Pure.


_WEBSOCKETS_OFF: Final = frozenset({200, 400, 403, 404})
"""What a Cube server with WebSockets off answers to an upgrade (seen on both)."""


def waiting(
    context: Context, state: Waiting, event: Event
) -> Waiting | AskingToken | Polling:
    """Start the next attempt when the delay has passed."""
    match event:
        case DeadlinePassed():
            if context.settings.transport == "rest":
                return context.poll()
            return context.ask_token()
        case _:  # a socket that was given up may still speak
            return state


def asking_token(
    context: Context, state: AskingToken, event: Event
) -> AskingToken | Connecting | Waiting | Closed:
    """Open a socket with the provider's token."""
    match event:
        case TokenReady(token=token, expires_at=expires_at):
            if token == context.refused_token:
                return context.token_refused(401, "the provider has no other token")
            context.do(Open(token))
            until = context.now + context.settings.connect_within
            return Connecting(token, expires_at, until)
        case TokenFailed(error=error):
            if context.failures == 0 and not context.proven:
                # Nothing has worked yet, so the caller is still there to mend it.
                return context.finish(error)
            return context.retry(error)
        case DeadlinePassed():
            return context.retry(TransportError("the token provider gave no token"))
        case _:
            return state


def connecting(
    context: Context, state: Connecting, event: Event
) -> AskingToken | Connecting | Authorizing | Live | Polling | Waiting | Closed:
    """Greet the server in the session's dialect once the socket is open."""
    match event:
        case Opened():
            if context.dialect == "ortege":
                return context.go_live(state.token, None)
            context.do(Send(frames.authorization(state.token)))
            until = context.now + context.settings.handshake_within
            return Authorizing(state.token, state.expires_at, until)
        case OpenFailed(error=error, status=401):
            if context.refused_token is not None:
                return context.token_refused(401, str(error))
            context.refused_token = state.token
            return context.ask_token()
        case OpenFailed(error=error, status=status):
            if status in _WEBSOCKETS_OFF:
                return context.upgrade_refused(error)
            return context.retry(error)
        case DeadlinePassed():
            context.do(Disconnect())
            return context.retry(TransportError("the socket did not open in time"))
        case _:
            return state


def authorizing(
    context: Context, state: Authorizing, event: Event
) -> Authorizing | Live | Waiting | Closed:
    """Await the handshake; a refused token is asked for once more."""
    match event:
        case Received(frame=frames.Handshake()):
            return context.go_live(state.token, state.expires_at)
        case Received(frame=frames.FrameError(status=status, message=message)):
            if not is_unauthorized(status, message):
                return context.not_understood(api_error(message, status=status))
            if context.refused_token is not None:
                return context.token_refused(status, message)
            context.refused_token = state.token
            context.do(AskToken())
            until = context.now + context.settings.token_within
            return Authorizing(state.token, state.expires_at, until)
        case TokenReady(token=token, expires_at=expires_at):
            if token == context.refused_token:
                return context.token_refused(403, "Invalid token")
            context.do(Send(frames.authorization(token)))
            until = context.now + context.settings.handshake_within
            return Authorizing(token, expires_at, until)
        case TokenFailed(error=error):
            context.do(Disconnect())
            return context.retry(error)
        case Received():
            problem = "another frame came where the handshake was due"
            return context.not_understood(TransportError(problem))
        case Unreadable(error=error):
            return context.not_understood(error)
        case DeadlinePassed() if state.token == context.refused_token:
            context.do(Disconnect())
            return context.retry(TransportError("the token provider gave no token"))
        case DeadlinePassed():
            problem = "the handshake did not come in time"
            return context.not_understood(TransportError(problem))
        case Dropped(error=error):
            return context.dropped_early(error)
        case _:
            return state


class Session:
    """Keep the queries of one socket alive.

    Args:
        queries: wire queries by message id ("1", "2", ...); exactly one in the
            tutorial's dialect.
        dialect: which dialect this session speaks.
        may_switch: whether the other dialect may be tried, if this one is not
            understood.
        settings: all time limits, in seconds.
        draw: gives a number in [0, 1) for each back-off delay.
        new_id: gives a ``requestId`` (a uuid4 as text) for each frame.
        now: monotonic seconds.
        delay: seconds to wait before the first attempt.
        failures: attempts that have failed in a row before this session.
        because: how the other dialect failed, if it was tried before.
        proven: whether the server has understood this dialect in another session.
    """

    def __init__(
        self,
        queries: Mapping[str, Mapping[str, Any]],
        *,
        dialect: Dialect,
        may_switch: bool,
        settings: Settings,
        draw: Callable[[], float],
        new_id: Callable[[], str],
        now: float,
        delay: float = 0.0,
        failures: int = 0,
        because: OrtegeWatchError | None = None,
        proven: bool = False,
    ) -> None:
        self.dialect: Final[Dialect] = dialect
        self.state: State = Waiting(now + delay)
        self._context = Context(
            book=Book(queries, hold_stale_for=settings.hold_stale_for),
            dialect=dialect,
            may_switch=may_switch,
            settings=settings,
            draw=draw,
            new_id=new_id,
            now=now,
            failures=failures,
            because=because,
            proven=proven,
        )

    @property
    def deadline(self) -> float | None:
        """Give the monotonic time at which to say :class:`DeadlinePassed`."""
        return self.state.until

    @property
    def proven(self) -> bool:
        """Tell whether the server has understood this dialect."""
        return self._context.proven

    @property
    def connection(self) -> ConnectionState:
        """Give the state as the caller sees it."""
        state = self.state
        match state:
            case Waiting():
                return ConnectionState.WAITING
            case AskingToken() | Connecting() | Authorizing() | Live(since=None):
                return ConnectionState.CONNECTING
            case Live():
                return ConnectionState.LIVE
            case Polling():
                return ConnectionState.POLLING
            case Closed():
                return ConnectionState.CLOSED
        assert_never(state)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event and return what to do, in order.

        A :class:`DeadlinePassed` that comes too early is ignored, so a timer need not
        be cancelled when its deadline moves.
        """
        state, context = self.state, self._context
        if isinstance(event, DeadlinePassed) and not (
            state.until is not None and state.until <= now
        ):
            return []
        context.now = now
        context.effects = []
        match state:
            case Waiting():
                self.state = waiting(context, state, event)
            case AskingToken():
                self.state = asking_token(context, state, event)
            case Connecting():
                self.state = connecting(context, state, event)
            case Authorizing():
                self.state = authorizing(context, state, event)
            case Live():
                self.state = live(context, state, event)
            case Polling():
                self.state = polling(context, state, event)
            case Closed():  # final, whatever comes
                pass
            case _:
                assert_never(state)
        return context.effects
