"""The state machine of a subscription: (state, event, now) -> effects.

It opens no socket, reads no clock and draws no random number: the runner executes the
effects and reports what happened as events, in order. Each state has one method, whose
return type names every state that may follow. A type checker proves these types, and a
test compares the diagram in the documentation with them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, assert_never

import attrs
from msgspec.structs import replace

from ortege_watch._http.conversation import TokenTimeout, next_attempt, respected
from ortege_watch._http.statuses import TRANSIENT, api_error
from ortege_watch._json import ResultPart
from ortege_watch.errors import (
    ApiError,
    AuthenticationError,
    DecodeError,
    OrtegeWatchError,
    QueryRejected,
    SubscriptionLost,
    TransportError,
    printable,
)
from ortege_watch.query.added_keys import AddedKeys
from ortege_watch.tokens import expiry, timestamp
from ortege_watch.watch import frames, states
from ortege_watch.watch.options import Dialect, Settings, SharedFailures
from ortege_watch.watch.states import (
    AskingToken,
    Authorizing,
    Closed,
    Connecting,
    Live,
    Polling,
    State,
    Waiting,
)
from ortege_watch.watch.tracker import QueryTracker

LOGGER: Final = logging.getLogger("ortege_watch.watch")

_REFUSALS_BEFORE_POLLING: Final = 5
"""How often a server that has spoken WebSocket before may refuse the upgrade: it may be
restarting behind a proxy, for half a minute by the default delays."""

_ASK_AGAIN_AFTER: Final = 10.0
"""Seconds after which a token function that has no newer token is called again."""

_LONGEST_ASKING_PAUSE: Final = 60.0
"""Seconds between two requests for an answer that could not be decoded, at most."""

_FRAME_TOO_BIG: Final = 1009
"""The close code for a frame that exceeds the receiver's limit."""

_WEBSOCKETS_OFF: Final = frozenset({200, 400, 403, 404})
"""The statuses with which a Cube server without WebSockets refuses an upgrade (seen on
0.35.81 and 1.7.43)."""

_TOKEN_REFUSED: Final = (
    "Invalid token",
    "Not authorized",
    "Authorization header isn't set",
    "Unable to decode JWT key",
    "Unable to verify, JWK",
    "JWT without kid",
)
"""How a Cube server begins the message of a 403 that is about the token. Any other is
about the query, or is repeated for every query."""


@attrs.define
class DialectChoice:
    """The dialect of a subscription, shared by its sessions."""

    dialect: Dialect  # the one that new sessions speak
    # whether the other one is tried if the server does not understand it
    may_switch: bool
    confirmed: bool = False  # whether the server has understood it
    # how the other dialect failed, if it was tried before
    previous_error: OrtegeWatchError | None = None


@attrs.define
class _Refusal:
    """A token that the server refused, until it accepts one."""

    token: str = attrs.field(repr=False)
    error: AuthenticationError
    repeated: bool = False  # the token function has returned it again


class Session:
    """The life of one connection and of the queries on it.

    ``queries`` are wire queries by message id ("1", "2", ...), exactly one in the
    tutorial's dialect. ``added_keys`` is shared by all calls of the client, ``failures``
    by all sessions of the subscription.
    ``jitter`` returns a number in [0, 1) for each back-off delay, ``new_id`` a
    ``requestId`` (a uuid4) for each frame, ``advice`` what to do about a refused token
    that was returned again. ``now`` is monotonic; the first attempt starts in ``delay``
    seconds.
    """

    def __init__(
        self,
        queries: Mapping[str, Mapping[str, Any]],
        *,
        server: str,
        choice: DialectChoice,
        settings: Settings,
        added_keys: AddedKeys,
        failures: SharedFailures,
        jitter: Callable[[], float],
        new_id: Callable[[], str],
        advice: Callable[[], str],
        now: float,
        delay: float = 0.0,
    ) -> None:
        self.dialect: Final[Dialect] = choice.dialect
        self.state: State = Waiting(now + delay)
        self._server = server
        self._choice = choice
        self._settings = settings
        self._jitter = jitter
        self._new_id = new_id
        self._advice = advice
        self._now = now
        self._queries = QueryTracker(
            queries, added_keys=added_keys, hold_stale_for=settings.hold_stale_for
        )
        self._effects: list[states.Effect] = []
        self._failures: Final = failures
        self._refusal: _Refusal | None = None
        self._old_tokens = 0
        """How often in a row the token function returned no newer token."""
        self._poll_failing = False
        """Whether no query of the latest round has succeeded."""
        self._poll_errors: dict[str, tuple[object, ...]] = {}
        """The latest error of each query, until a poll of it succeeds."""
        self._asked = 0
        """How often in a row answers that could not be decoded were asked for again."""
        self._refused_upgrades = 0
        """Upgrades in a row that were answered as if WebSockets were off."""
        self._early_drops = 0
        """Sockets in a row that were lost before the server confirmed the dialect."""

    def handle(self, event: states.Event, now: float) -> list[states.Effect]:
        """Change the state by one event, and return what to do, in order.

        A :class:`DeadlinePassed` before the deadline is ignored, so that a timer need
        not be cancelled when its deadline moves.
        """
        state = self.state
        if isinstance(event, states.DeadlinePassed) and not (
            state.until is not None and state.until <= now
        ):
            return []
        self._now = now
        effects = self._effects = []
        match state:
            case Live():
                self.state = self._live(state, event)
            case Waiting():
                self.state = self._waiting(state, event)
            case AskingToken():
                self.state = self._asking_token(state, event)
            case Connecting():
                self.state = self._connecting(state, event)
            case Authorizing():
                self.state = self._authorizing(state, event)
            case Polling():
                self.state = self._polling(state, event)
            case Closed():
                pass
            case _:
                assert_never(state)
        return effects

    # Each state's events

    def _waiting(
        self, state: Waiting, event: states.Event
    ) -> Waiting | AskingToken | Polling:
        match event:
            case states.DeadlinePassed():
                if (at := self._failures.try_at(self, self._now)) > self._now:
                    return Waiting(at)
                if self._settings.transport == "rest":
                    return self._start_polling()
                return self._ask_token()
            case _:  # of a socket that was closed
                return state

    def _asking_token(
        self, state: AskingToken, event: states.Event
    ) -> AskingToken | Connecting | Waiting | Closed:
        match event:
            case states.TokenReady(token=token, expires_at=expires_at):
                refusal = self._refusal_of(token)
                if refusal is not None and not refusal.repeated:
                    return self._retry_token(refusal)
                if expires_at is not None and expires_at <= self._now:
                    self._on_old_token(token, expired=True)
                self._log(logging.DEBUG, "connecting")
                self._do(states.Open(token))
                until = self._now + self._settings.connect_within
                return Connecting(token, expires_at, until)
            case states.TokenFailed(error=error):
                if self._failures.count == 0 and not self._failures.worked:
                    # Nothing has worked yet, so the caller is still there to fix it.
                    return self._finish(error)
                return self._retry(error)
            case states.DeadlinePassed():
                return self._retry(TokenTimeout(self._settings.token_within))
            case _:
                return state

    def _connecting(
        self, state: Connecting, event: states.Event
    ) -> AskingToken | Connecting | Authorizing | Live | Polling | Waiting | Closed:
        match event:
            case states.Opened():
                if self.dialect == "ortege":
                    return self._go_live(state.token, None)
                return self._authorize(state.token, state.expires_at)
            case states.OpenFailed():
                return self._on_open_failed(state, event)
            case states.DeadlinePassed():
                self._do(states.Disconnect())
                within = self._settings.connect_within
                problem = f"no answer to the WebSocket upgrade within {within:g} s"
                return self._retry(TransportError(problem))
            case _:
                return state

    def _authorizing(
        self, state: Authorizing, event: states.Event
    ) -> Authorizing | Live | Waiting | Closed:
        match event:
            case states.Received(frame=frames.Handshake()):
                return self._go_live(state.token, state.expires_at)
            case states.Received(
                frame=frames.FrameError(status=status, message=message)
            ):
                error = api_error(message, status=status)
                if not isinstance(error, AuthenticationError):
                    return self._not_understood(error)
                if self._refusal is not None:
                    return self._end_unauthorized(state.token, error)
                self._refusal = _Refusal(state.token, error)
                self._do(states.AskToken())
                return attrs.evolve(
                    state, until=self._now + self._settings.token_within
                )
            case states.TokenReady(token=token, expires_at=expires_at):
                if (refusal := self._refusal_of(token)) is not None:
                    return self._retry_token(refusal)
                return self._authorize(token, expires_at)
            case states.TokenFailed(error=error):
                self._do(states.Disconnect())
                return self._retry(error)
            case states.Received():
                return self._not_understood(
                    TransportError("expected a handshake, got another frame")
                )
            case states.Unreadable(error=error):
                return self._not_understood(error)
            case states.DeadlinePassed() if self._refusal_of(state.token):
                self._do(states.Disconnect())
                return self._retry(TokenTimeout(self._settings.token_within))
            case states.DeadlinePassed():
                return self._not_understood(
                    TransportError("no handshake arrived in time")
                )
            case states.Dropped(error=error):
                return self._dropped_early(error)
            case _:
                return state

    def _live(self, state: Live, event: states.Event) -> Live | Waiting | Closed:
        match event:
            case states.Received(frame=frame):
                state = state.after_frame(self._now, self._settings.stale_after)
                return self._on_frame(state, frame)
            case states.Pong():
                silent_at = self._now + self._settings.stale_after
                return replace(state, silent_at=silent_at, pong_by=None)
            case states.DeadlinePassed():
                return self._on_deadline(state)
            case states.TokenReady(token=token, expires_at=expires_at):
                return self._on_new_token(state, token, expires_at)
            case states.TokenFailed(error=error):
                if self._refusal is not None:
                    return self._reconnect(state, error)
                self._log(logging.WARNING, f"{error.text}; keeping the current token")
                return replace(state, renew_at=self._now + _ASK_AGAIN_AFTER)
            case states.Unreadable(error=error, message_id=message_id):
                if self.dialect == "cube" and message_id is not None:
                    if (key := self._queries.key_of(message_id)) is not None:
                        return self._on_unreadable(state, key, error)
                    if self._queries.was_id(message_id):
                        return state.after_frame(self._now, self._settings.stale_after)
                # The server sends a result once. Which query's it was is unknown, or
                # the dialect has no way to ask for it again on this socket.
                return self._reconnect(state, error)
            case states.Dropped():
                return self._on_dropped(state, event)
            case _:
                return state

    def _polling(self, state: Polling, event: states.Event) -> Polling | Closed:
        match event:
            case states.DeadlinePassed():
                if state.outage is not None:  # other queries have no response yet
                    return self._round_failed(state, state.outage)
                if (at := self._failures.try_at(self, self._now)) > self._now:
                    return attrs.evolve(state, until=at)
                return self._poll(state.pending)
            case states.Polled(message_id=key, part=part):
                if self._poll_failing:
                    self._poll_failing = False
                    self._log(logging.INFO, "polling works again")
                self._failures.succeeded()
                self._failures.reset()
                self._poll_errors.pop(key, None)
                self._on_snapshot(key, part)
                return state.after_response(key)
            case states.PollFailed():
                return self._poll_failed(state, event)
            case _:
                return state

    # Frames and deadlines of a live socket

    def _on_frame(self, state: Live, frame: frames.Frame) -> Live | Waiting | Closed:
        match frame:
            case frames.Processed(message_id=message_id):
                queries = self._queries
                if queries.key_of(message_id) or queries.was_id(message_id):
                    return state
                return self._unknown_id(state)
            case frames.Answer():
                return self._on_answer(state, frame)
            case frames.Handshake():
                self._refusal = None
                return replace(state, handshake_by=None)
            case frames.FrameError(status=status, message=message):
                error = api_error(message, status=status)
                if isinstance(error, AuthenticationError):
                    return self._token_refused(state, error)
                if self.dialect == "ortege" and self._choice.confirmed:
                    # A socket has one query in this dialect, so the error is its own.
                    if state.since is None:
                        state = self._confirm(state)
                    (key,) = self._queries.ids
                    return self._report(state, self._queries.on_api_error(key, error))
                if state.since is None:
                    return self._not_understood(error)
                return self._reconnect(state, error)
        assert_never(frame)

    def _on_answer(self, state: Live, answer: frames.Answer) -> Live | Waiting | Closed:
        queries, message_id = self._queries, answer.message_id
        if message_id is not None:
            key = queries.key_of(message_id)
            if key is None and queries.was_id(message_id):
                # A refresh that was in progress may have subscribed to it again.
                self._do(states.Send(frames.unsubscribe(message_id)))
                return state
        else:
            key = next(iter(queries.ids)) if self.dialect == "ortege" else None
        if key is None:
            return self._unknown_id(state)
        message = answer.body.error
        if message == frames.CONTINUE_WAIT:  # the server continues by itself
            name = queries.name(key)
            self._log(logging.DEBUG, f"{name}: still running ({message})")
            return state
        if message is not None or answer.status >= 400:
            message = message or "no reason given"
            code, status = answer.body.type, answer.status
            error = api_error(message, status=status, code=code)
            if (refused := queries.refused_key(key, error)) is not None:
                problem = f"the server does not know {refused!r} in a query"
                self._log(logging.INFO, f"{problem}; sending the queries without it")
                return self._resend(state)
            if not isinstance(error, AuthenticationError):
                return self._report(state, queries.on_api_error(key, error))
            # The server forgot the token, and repeats this on every frame; or it
            # refuses every token for this query.
            if not queries.is_unauthorized_again(key):
                return self._reconnect(state, error)
            return self._report(state, queries.on_error(key, error, final=True))
        if state.since is None:
            state = self._confirm(state)
        queries.on_readable(key)
        if state.ask_at is not None and not queries.unread:
            state = replace(state, ask_at=None)
        parts = answer.body.parts
        if len(parts) != 1:
            # Not asked for again: it could be decoded, so the same would come again.
            problem = f"expected one result in a response, got {len(parts)}"
            self._do(*queries.on_error(key, DecodeError(problem), final=False))
            return state
        self._on_snapshot(key, parts[0])
        if queries.release_at == state.release_at:
            return state
        return replace(state, release_at=queries.release_at)

    def _on_snapshot(self, key: str, part: ResultPart) -> None:
        """Deliver a snapshot, or hold it."""
        delivered = self._queries.on_snapshot(key, part, self._now)
        self._effects += delivered
        if not delivered and self._queries.holds_since(key, self._now):
            seconds = self._settings.hold_stale_for
            name = self._queries.name(key)
            text = f"{name}: older snapshot held for up to {seconds:g} s"
            self._log(logging.INFO, text)

    def _on_unreadable(self, state: Live, key: str, error: OrtegeWatchError) -> Live:
        """Report an answer that cannot be decoded to its query, and keep the socket.

        On a new connection the same answer might come again, and would keep the other
        queries from theirs.
        """
        before = self._queries.unread
        self._do(*self._queries.on_unreadable(key, error))
        state = state.after_frame(self._now, self._settings.stale_after)
        if self._queries.unread == before:
            return state
        self._asked = 0
        return replace(state, ask_at=self._now + self._settings.poll_every)

    def _report(self, state: Live, failures: list[states.Fail]) -> Live | Closed:
        self._do(*failures)
        for failure in failures:
            if failure.final and self.dialect == "cube":
                message_id = self._queries.message_id(failure.message_id)
                self._do(states.Send(frames.unsubscribe(message_id)))
        return state if self._queries.open else self._finish(None)

    def _unknown_id(self, state: Live) -> Waiting | Closed:
        return self._reconnect(state, DecodeError("a frame has an unknown messageId"))

    def _on_deadline(self, state: Live) -> Live | Waiting | Closed:
        now = self._now

        def is_over(deadline: float | None) -> bool:
            return deadline is not None and deadline <= now

        if is_over(state.pong_by):
            return self._reconnect(state, TransportError("no response to a ping"))
        if is_over(state.handshake_by):
            problem = "no response to the new token"
            return self._reconnect(state, TransportError(problem))
        if is_over(state.confirm_by):
            problem = "no response in the tutorial's dialect"
            return self._not_understood(TransportError(problem))
        if is_over(state.lost_at):
            problem = "the server answers pings, but sends no frames"
            return self._reconnect(state, TransportError(problem))
        if is_over(state.release_at):
            self._do(*self._queries.release(now))
            return replace(state, release_at=self._queries.release_at)
        if is_over(state.renew_at):
            return self._renew_token(state)
        if is_over(state.ask_at):
            return self._ask_again(state)
        if is_over(state.resend_at):
            return self._resend(state)
        seconds = self._settings.stale_after
        self._log(logging.DEBUG, f"no frame for {seconds:g} s; sending a ping")
        self._do(states.Ping())
        return replace(state, pong_by=now + self._settings.pong_within)

    def _on_dropped(self, state: Live, event: states.Dropped) -> Waiting | Closed:
        if event.max_size is not None:
            error = SubscriptionLost(
                f"the server sent a frame larger than max_size ({event.max_size} bytes):"
                f" narrow or limit {self._queries}, or raise max_size"
            )
            if len(self._queries.open) > 1:  # whose it was is unknown
                return self._finish(error)
            for key in self._queries.open:  # sessions of other queries go on
                self._do(*self._queries.on_error(key, error, final=True))
        elif event.code == _FRAME_TOO_BIG:
            # Sent again, it would be refused again.
            problem = "the server refuses a frame of this size (close code 1009)"
            refusal = QueryRejected(problem, status=413)
            key = self._queries.largest()
            self._do(*self._queries.on_error(key, refusal, final=True))
        if not self._queries.open:
            return self._finish(None)
        if state.since is None:
            return self._dropped_early(event.error)
        return self._lost(state, event.error)

    # Tokens

    def _ask_token(self) -> AskingToken:
        self._do(states.AskToken())
        return AskingToken(self._now + self._settings.token_within)

    def _authorize(self, token: str, expires_at: float | None) -> Authorizing:
        self._do(states.Send(frames.authorization(token)))
        until = self._now + self._settings.handshake_within
        return Authorizing(token, expires_at, until)

    def _renew_token(self, state: Live) -> Live:
        """Call the token function; again later, if it does not return in time."""
        self._do(states.AskToken())
        return replace(state, renew_at=self._now + self._settings.token_within)

    def _on_new_token(
        self, state: Live, token: str, expires_at: float | None
    ) -> Live | Waiting | Closed:
        """Authenticate anew; the old token is valid until the handshake."""
        if (refusal := self._refusal_of(token)) is not None:
            return self._retry_token(refusal)
        renew_at = self._renew_at(expires_at)
        expired = expires_at is not None and expires_at <= self._now
        if token == state.token or (expired and self._refusal is None):
            self._on_old_token(token, expired=expired)
            return replace(state, renew_at=renew_at)
        self._old_tokens = 0
        self._log(logging.INFO, "authenticating with a new token")
        after = self._authorize(token, expires_at)
        return replace(state, token=token, renew_at=renew_at, handshake_by=after.until)

    def _token_refused(
        self, state: Live, error: AuthenticationError
    ) -> Live | Waiting | Closed:
        """Ask for another token, once."""
        if self._refusal is not None:
            return self._end_unauthorized(state.token, error)
        refusal = _Refusal(state.token, error)
        if self.dialect == "cube":
            self._refusal = refusal
            return self._renew_token(replace(state, handshake_by=None))
        after = self._reconnect(state, error)  # this dialect has one token per socket
        self._refusal = refusal
        return after

    def _refusal_of(self, token: str) -> _Refusal | None:
        """Return the refusal of this token, if it is the one that was refused last."""
        refusal = self._refusal
        return refusal if refusal is not None and refusal.token == token else None

    def _retry_token(self, refusal: _Refusal) -> Waiting | Closed:
        """Ask for a token after a delay, once: the function returned a refused one.

        If nothing has worked yet, the caller is still there to fix it.
        """
        if refusal.repeated or not self._failures.worked:
            return self._end_unauthorized(refusal.token, refusal.error)
        self._do(states.Disconnect())
        refusal.error.advice, refusal.repeated = self._advice(), True
        after = self._retry(refusal.error)
        self._refusal = refusal
        return after

    def _on_old_token(self, token: str, *, expired: bool) -> None:
        """Log once that the token function returns no newer token.

        A function that caches its token may return it once more before it expires.
        """
        before, until = self._old_tokens, expiry(token)
        self._old_tokens += 2 if expired else 1
        if until is not None and before < 2 <= self._old_tokens:
            when = f"{'expired' if expired else 'expires'} at {timestamp(until)}"
            problem = f"the token function returned a token that {when}"
            self._log(logging.WARNING, f"{problem}; expected a newer one")

    def _renew_at(self, expires_at: float | None) -> float | None:
        """Return when to ask for the token after one that expires at ``expires_at``."""
        if expires_at is None:
            return None
        left = expires_at - self._now
        if left <= 0:  # the issuer's clock, or ours, is wrong
            return self._now + _ASK_AGAIN_AFTER
        margin = min(self._settings.renew_before, left / 4)
        return self._now + max(1.0, left - margin)

    # Subscribing and polling

    def _go_live(self, token: str, expires_at: float | None) -> Live:
        """Send every query on the open socket.

        Cube has confirmed its dialect by now, with the handshake. The tutorial's has no
        handshake, no heartbeat, no renewed token: the first answer confirms it.
        """
        now, settings = self._now, self._settings
        self._failures.connected(self, now)
        self._queries.on_reconnect()
        self._subscribe_all()
        silent_at = now + settings.stale_after
        if self.dialect == "ortege":
            switching = self._choice.may_switch and not self._choice.confirmed
            confirm_by = silent_at if switching else None
            return Live(token=token, silent_at=silent_at, confirm_by=confirm_by)
        return self._confirm(
            Live(
                token=token,
                silent_at=silent_at,
                lost_at=now + 2 * settings.stale_after,
                resend_at=now + settings.resend_every,
                renew_at=self._renew_at(expires_at),
            )
        )

    def _confirm(self, state: Live) -> Live:
        """Note that the server understands this dialect."""
        self._choice.confirmed = True
        self._failures.succeeded()
        self._choice.previous_error = self._refusal = None
        self._refused_upgrades = self._early_drops = 0
        self._log(logging.INFO, f"live, subscribed to {self._queries}")
        return replace(state, since=self._now, confirm_by=None)

    def _subscribe_all(self) -> None:
        """Send every open query; on a live socket that renews its subscription."""
        for key, query in self._queries.open.items():
            if self.dialect == "cube":
                self._subscribe(key)
            else:
                frame = frames.tutorial_subscribe(query, self._new_id())
                self._do(states.Send(frame))

    def _subscribe(self, key: str) -> None:
        """Send one query in Cube's dialect."""
        message_id, sent = self._queries.message_id(key), self._queries.on_send(key)
        self._do(states.Send(frames.subscribe(message_id, sent, self._new_id())))

    def _ask_again(self, state: Live) -> Live:
        """Ask for each answer that could not be decoded, until one can be.

        The pauses grow: an answer that can never be decoded may be large, and the server
        may need longer for it than the first pause.

        The server believes that it has sent this result: to the same query it answers
        only ``messageProcessedId``. ``unsubscribe`` makes it forget, so it answers the
        ``subscribe`` that follows in full.

        A refresh of the query that is in progress meanwhile cannot swallow that answer
        (read in the source of 0.35.81 and 1.7.43). The server forgets the result while
        it reads the frame, before it reads the next one. A refresh compares its result
        with the one that was sent last, and notes it as sent in the same turn of the
        event loop, or in the turn in which it sends it. So what it takes for sent after
        ``unsubscribe``, it has sent after ``unsubscribe``, and it arrives here. If that
        frame cannot be decoded either, it is asked for again.

        An error ends nothing: where the server fails before it has a result (in
        ``contextByReq``), it sends an error, and goes on believing that the result was
        sent, or does not subscribe at all.
        """
        unread = self._queries.unread
        for key in unread:
            name = self._queries.name(key)
            text = f"{name}: asking again for an answer that could not be decoded"
            self._log(logging.DEBUG, text)
            message_id = self._queries.message_id(key)
            self._do(states.Send(frames.unsubscribe(message_id)))
            self._subscribe(key)
        if not unread:
            return replace(state, ask_at=None)
        self._asked += 1
        settings = self._settings
        pause = min(settings.poll_every * 2.0**self._asked, _LONGEST_ASKING_PAUSE)
        return replace(state, ask_at=self._now + max(pause, settings.poll_every))

    def _resend(self, state: Live) -> Live:
        """Send every open query of Cube's dialect again."""
        self._do(
            *(states.Send(frames.unsubscribe(old)) for old in self._queries.renew_ids())
        )
        self._subscribe_all()
        ask_at = state.ask_at if self._queries.unread else None
        resend_at = self._now + self._settings.resend_every
        return replace(state, resend_at=resend_at, ask_at=ask_at)

    def _start_polling(self) -> Polling:
        """Send every query over REST for the first time."""
        every = self._settings.poll_every
        self._log(logging.INFO, f"polling {self._queries} every {every:g} s")
        return self._poll()

    def _poll(self, pending: frozenset[str] = frozenset()) -> Polling:
        """Send every query over REST that has no request in flight."""
        idle = frozenset(self._queries.open) - pending
        self._do(*(states.Poll(key) for key in sorted(idle)))
        return Polling(self._now + self._settings.poll_every, pending | idle)

    def _poll_failed(
        self, state: Polling, event: states.PollFailed
    ) -> Polling | Closed:
        key, error = event.message_id, event.error
        worked = self._failures.worked
        if isinstance(error, SubscriptionLost) or (event.permanent and not worked):
            return self._finish(error)
        if type(error) is OrtegeWatchError and not (worked or self._failures.count):
            return self._finish(error)  # of the token function, as over a WebSocket
        if isinstance(error, AuthenticationError) and _is_of_query(error):
            self._do(*self._queries.on_error(key, error, final=True))
        elif isinstance(error, AuthenticationError):
            # As in _retry_token(): with advice, the token was the same again.
            is_of_proxy = worked and error.from_proxy
            may_pass = worked and error.advice
            if not is_of_proxy and (
                self._queries.is_unauthorized_again(key) or not may_pass
            ):
                return self._finish(error)
        elif isinstance(error, DecodeError):
            self._do(*self._queries.on_error(key, error, final=False))
        elif isinstance(error, ApiError) and error.status not in TRANSIENT:
            self._do(*self._queries.on_api_error(key, error))
        open_queries = self._queries.open
        if not open_queries:
            return self._finish(None)
        asked = error.retry_after if isinstance(error, ApiError) else None
        until = max(state.until, self._now + respected(asked))
        state = attrs.evolve(state, until=until, pending=state.pending - {key})
        after: Polling | Closed = state
        # A query that is refused for good is neither a success nor an outage.
        outage = error if key in open_queries else state.outage
        if not state.succeeded and outage is not None:
            after = attrs.evolve(state, outage=outage)
            if not state.pending:
                after = self._round_failed(state, outage)
        if key not in open_queries:
            return after
        reported = any(isinstance(each, states.Fail) for each in self._effects)
        about = (type(error), *error.args)  # without the id of the request
        before, self._poll_errors[key] = self._poll_errors.get(key), about
        if isinstance(after, Polling):
            level = logging.DEBUG if reported else logging.WARNING  # or it has two
            text = "still failing" if about == before else error.text
            when = next_attempt(after.until - self._now, asked)
            self._log(level, f"{self._queries.name(key)}: {text}; {when}")
        return after

    def _round_failed(
        self, state: Polling, error: OrtegeWatchError
    ) -> Polling | Closed:
        """Poll later, because no query of this round has succeeded."""
        self._poll_failing = True
        self._failures.error = error
        at = self._failures.failed(self, self._now, self._jitter())
        if at is None:
            return self._finish(error)
        self._queries.on_reconnect()
        return attrs.evolve(state, until=max(state.until, at), outage=None)

    def _upgrade_refused(self, error: OrtegeWatchError) -> Polling | Waiting | Closed:
        """Poll over REST, unless the server has spoken WebSocket recently."""
        self._refused_upgrades += 1
        restarting = self._refused_upgrades < _REFUSALS_BEFORE_POLLING
        websocket_only = self._settings.transport == "websocket"
        if self._choice.confirmed and (restarting or websocket_only):
            return self._retry(error)
        problem = f"WebSockets are disabled or blocked at this server: {error.text}"
        if websocket_only:
            return self._finish(SubscriptionLost(problem))
        every = self._settings.poll_every
        self._log(logging.WARNING, f"{problem}; polling over REST every {every:g} s")
        self._queries.on_reconnect()
        return self._start_polling()

    # Failures

    def _on_open_failed(
        self, state: Connecting, event: states.OpenFailed
    ) -> AskingToken | Polling | Waiting | Closed:
        error, status, worked = event.error, event.status, self._failures.worked
        if event.permanent and not worked:
            return self._finish(error)
        if status in {401, 403} and worked and event.message is None:
            return self._retry(error, event.retry_after)  # a proxy's page
        if status == 401:
            refused = AuthenticationError(event.message or error.text, status=401)
            refused.from_proxy = event.message is None
            if self._refusal is not None:
                return self._end_unauthorized(state.token, refused)
            self._refusal = _Refusal(state.token, refused)
            return self._ask_token()
        if status in _WEBSOCKETS_OFF:
            return self._upgrade_refused(error)
        return self._retry(error, event.retry_after)

    def _retry(
        self, error: OrtegeWatchError, retry_after: float | None = None
    ) -> Waiting | Closed:
        """Wait for a back-off delay, unless there were too many failures."""
        self._failures.error = error
        at = self._failures.failed(self, self._now, self._jitter(), retry_after)
        if at is None:
            return self._finish(error)
        self._refusal = None
        when = next_attempt(max(0.0, at - self._now), retry_after)
        self._log(logging.WARNING, f"{error.text}; {when}")
        return Waiting(at)

    def _reconnect(self, state: Live, error: OrtegeWatchError) -> Waiting | Closed:
        """Close the socket, and retry."""
        self._do(states.Disconnect())
        return self._lost(state, error)

    def _lost(self, state: Live, error: OrtegeWatchError) -> Waiting | Closed:
        """Retry; the delays start again only if the connection was healthy."""
        if state.since is not None:
            self._failures.session_lost(self, self._now - state.since)
        return self._retry(error)

    def _dropped_early(self, error: OrtegeWatchError) -> Waiting | Closed:
        """Retry after a socket was lost on which the server confirmed nothing.

        Once is an outage. Twice in a row may be a server that closes the connection
        when it does not understand a frame.
        """
        self._early_drops += 1
        if self._early_drops >= 2 and self._choice.may_switch:
            return self._not_understood(error)
        return self._retry(error)

    def _not_understood(self, error: OrtegeWatchError) -> Waiting | Closed:
        """Switch to the other dialect, if that is allowed and may help."""
        choice, refused = self._choice, _is_refusal(error)
        if choice.confirmed or not (choice.may_switch or refused):
            self._do(states.Disconnect())
            return self._retry(error)
        if not choice.may_switch:
            problem = (
                f"the server does not speak the {self.dialect!r} dialect: {error.text}"
            )
            return self._finish(SubscriptionLost(problem))
        other: Dialect = "ortege" if self.dialect == "cube" else "cube"
        previous = choice.previous_error
        if refused and previous is not None and _is_refusal(previous):
            problem = (
                f"the server speaks neither dialect; {self.dialect!r} failed with"
                f" {error.text}; {other!r} failed with {previous.text}"
            )
            return self._finish(SubscriptionLost(problem))
        at: float | None = self._now
        if previous is not None or self._failures.count > 0:
            at = self._failures.failed(self, self._now, self._jitter())
        if at is None:
            return self._finish(error)
        self._failures.restart()
        self._log(logging.WARNING, f"{error.text}; trying the {other!r} dialect")
        choice.dialect, choice.previous_error = other, error
        self._failures.error = error
        self._do(states.Disconnect(), states.SwitchDialect(at - self._now))
        return Closed()

    def _end_unauthorized(self, token: str, error: AuthenticationError) -> Closed:
        """End the subscription after a token was refused, and the next one, too."""
        if self._refusal_of(token) is not None and not error.from_proxy:
            error.advice = self._advice()
        return self._finish(error)

    def _finish(self, error: OrtegeWatchError | None) -> Closed:
        if error is not None:
            error.host = self._server
        self._failures.left(self)
        self._do(states.Disconnect(), states.Finish(error))
        return Closed(error)

    def _do(self, *effects: states.Effect) -> None:
        self._effects += effects

    def _log(self, level: int, text: str) -> None:
        LOGGER.log(level, "%s: %s", self._server, printable(text))


def _is_of_query(error: AuthenticationError) -> bool:
    """Return whether a server refuses a query over REST, and not its token."""
    is_of_token = error.message.startswith(_TOKEN_REFUSED)
    return error.status == 403 and not (error.from_proxy or is_of_token)


def _is_refusal(error: OrtegeWatchError) -> bool:
    """Return whether the server would answer the same again; an outage passes."""
    return isinstance(error, ApiError) and 400 <= error.status < 500
