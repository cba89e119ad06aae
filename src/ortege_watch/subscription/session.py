"""THE state machine of a subscription: (state, event, now) -> effects.

Pure: it opens no socket, reads no clock and rolls no dice. The shell (``runner.py``)
executes the effects and reports what happened as events, in order. Each state has one
function, in ``opening.py`` or ``live.py``, whose return type names every state that may
follow; a type checker holds it to that, and the diagram in the docs is checked against
it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, assert_never

from ortege_watch.errors import OrtegeWatchError
from ortege_watch.subscription.book import Book
from ortege_watch.subscription.context import Context
from ortege_watch.subscription.live import live, polling
from ortege_watch.subscription.opening import (
    asking_token,
    authorizing,
    connecting,
    waiting,
)
from ortege_watch.subscription.settings import Dialect, Settings
from ortege_watch.subscription.states import (
    AskingToken,
    Authorizing,
    Closed,
    Connecting,
    ConnectionState,
    DeadlinePassed,
    Effect,
    Event,
    Live,
    Polling,
    State,
    Waiting,
)

__all__ = ["Session"]


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
