"""The states on the way to a live subscription. Pure."""

from __future__ import annotations

from typing import Final

from ortege_watch.answers import api_error, is_unauthorized
from ortege_watch.errors import TransportError
from ortege_watch.subscription import frames
from ortege_watch.subscription.context import Context
from ortege_watch.subscription.states import (
    AskingToken,
    AskToken,
    Authorizing,
    Closed,
    Connecting,
    DeadlinePassed,
    Disconnect,
    Dropped,
    Event,
    Live,
    Open,
    Opened,
    OpenFailed,
    Polling,
    Received,
    Send,
    TokenFailed,
    TokenReady,
    Unreadable,
    Waiting,
)

__all__ = ["asking_token", "authorizing", "connecting", "waiting"]

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
