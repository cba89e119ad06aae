"""The states in which updates flow: a live socket, or polling over REST. Pure."""

from __future__ import annotations

import logging
from typing import Final, assert_never

import attrs

from ortege_watch.answers import api_error
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
from ortege_watch.subscription import frames
from ortege_watch.subscription.context import Context
from ortege_watch.subscription.states import (
    Closed,
    DeadlinePassed,
    Dropped,
    Event,
    Fail,
    Live,
    Ping,
    Polled,
    PollFailed,
    Polling,
    Pong,
    Received,
    Send,
    TokenFailed,
    TokenReady,
    Unreadable,
    Waiting,
)

__all__ = ["live", "polling"]

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
