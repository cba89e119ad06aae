"""What the states of a session share: its memory and the ways out of a state.

Pure. ``opening.py`` and ``live.py`` hold one function a state; each calls these
methods, which note the effects and return the state that follows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import attrs

from ortege_watch.errors import (
    ApiError,
    AuthenticationError,
    OrtegeWatchError,
    SubscriptionLost,
)
from ortege_watch.subscription import frames
from ortege_watch.subscription.backoff import Backoff
from ortege_watch.subscription.book import Book
from ortege_watch.subscription.settings import Dialect, Settings
from ortege_watch.subscription.states import (
    AskingToken,
    AskToken,
    Closed,
    Disconnect,
    Effect,
    Finish,
    Live,
    Log,
    Poll,
    Polling,
    Send,
    SwitchDialect,
    Waiting,
)

__all__ = ["Context"]

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
