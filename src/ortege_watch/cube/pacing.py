"""How long a conversation goes on: attempts, pauses and the deadline."""

from __future__ import annotations

import math
from typing import Final, TypedDict

from attrs import frozen, mutable

from ortege_watch.cube.effects import Answer, Conversation, Pause
from ortege_watch.errors import DeadlineExceeded, OrtegeWatchError, QueryError
from ortege_watch.subscription.backoff import Backoff

__all__ = ["DEADLINE", "TIMEOUT", "Limits", "Pace", "Retry", "check_limits"]

TIMEOUT: Final = 30.0
DEADLINE: Final = 300.0

_LONGEST_SECONDS: Final = 1e6
"""More than any socket's timeout can be, everywhere."""

_LONGEST_RETRY_AFTER: Final = 3600.0
"""Seconds: a server that asks for more is not waited for."""


class Limits(TypedDict, total=False):
    """Override a client's time limits for one call, in seconds.

    Attributes:
        timeout: how long the server may be silent.
        deadline: how long the whole call may take; ``None`` for no limit.
    """

    timeout: float
    deadline: float | None


@frozen(kw_only=True)
class Retry:
    """Say how often a REST request is tried, and how long the pauses are.

    Connection failures and the statuses 429, 502, 503 and 504 are retried. Each pause
    is drawn between half and the whole of ``base``, ``2 * base``, ``4 * base`` ... up
    to ``cap``; a longer ``Retry-After`` is kept to, up to an hour.

    Attributes:
        attempts: tries in a row, the first included; 1 retries nothing.
        base: seconds.
        cap: seconds.
    """

    attempts: int = 4
    base: float = 0.5
    cap: float = 20.0

    def __attrs_post_init__(self) -> None:
        if self.attempts < 1:
            raise QueryError(f"attempts={self.attempts!r}: give 1 or more")
        Backoff(self.base, self.cap)  # refuses what is no back-off

    def delay(self, failures: int, draw: float) -> float:
        """Return the pause, in seconds, after so many failures in a row."""
        return Backoff(self.base, self.cap).delay(failures - 1, draw)


def check_limits(timeout: float | None, deadline: float | None) -> None:
    """Refuse what are no limits on time, in seconds.

    Raises:
        QueryError: one is not above 0, or too large; ``timeout`` is ``None``.
    """
    for name, seconds in (("timeout", timeout), ("deadline", deadline)):
        if seconds is None and name == "deadline":
            continue
        if seconds is None or not 0 < seconds <= _LONGEST_SECONDS:
            raise QueryError(
                f"{name}={seconds!r}: give seconds, more than 0 and at most a million"
            )


@mutable(kw_only=True)
class Pace:
    """Keep the time of one conversation.

    Attributes:
        now: monotonic seconds, as the driver told them last.
        deadline: seconds for the whole; ``None`` for no limit.
        until: the end, in monotonic seconds.
        failures: attempts in a row that failed.
        still: what :class:`DeadlineExceeded` adds to its sentence.
    """

    now: float
    deadline: float | None
    retry: Retry
    until: float
    draw: float = 0.0
    failures: int = 0
    still: str = ""

    def note(self, answer: Answer) -> None:
        """Take the time, and the dice, from what the driver sent."""
        self.now = answer.now
        self.draw = answer.draw

    @property
    def left(self) -> float | None:
        """The seconds that are left; ``None`` without a deadline.

        Raises:
            DeadlineExceeded: there are none.
        """
        left = self.until - self.now
        if left <= 0:
            raise self.late()
        return None if math.isinf(left) else left

    def back_off(
        self, error: OrtegeWatchError, retry_after: float | None
    ) -> Conversation[None]:
        """Wait before another attempt.

        Raises:
            OrtegeWatchError: the error itself, if there is to be none.
            DeadlineExceeded: no time is left for it.
        """
        self.failures += 1
        asked = retry_after or 0.0
        if self.failures >= self.retry.attempts or asked > _LONGEST_RETRY_AFTER:
            raise error
        pause = max(self.retry.delay(self.failures, self.draw), asked)
        yield from self.pause(pause, error)

    def pause(
        self, seconds: float, cause: OrtegeWatchError | None = None
    ) -> Conversation[None]:
        """Wait.

        Raises:
            DeadlineExceeded: it would be over after that.
        """
        if self.now + seconds >= self.until:
            raise self.late() from cause
        self.note((yield Pause(seconds)))

    def late(self) -> DeadlineExceeded:
        """Return the error of a conversation that has no time left."""
        return DeadlineExceeded(f"no answer within {self.deadline} s{self.still}")
