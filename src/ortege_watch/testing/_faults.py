"""What a fake server has been told to do wrong."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import attrs

if TYPE_CHECKING:
    from ortege_watch.testing._messages import HttpRequest, HttpResponse

__all__ = ["Records"]

Moment = Literal["upgrade", "handshake"]


@attrs.define
class Countdown:
    """Hold a fault that passes by itself after so many times; None: never."""

    value: Any
    left: int | None


@attrs.define(kw_only=True)
class Faults:
    """Hold the faults in force. Read and changed under the server's lock.

    Attributes:
        silent: nothing is sent; what would be is held back.
        delay: seconds by which every answer is late.
        drop_after: connections are dropped after this point.
        fragments: into how many frames a message is cut.
        no_handshake: body of the refusal that answers authorizations.
        refusals: status that answers upgrades and requests.
        answers: what HTTP requests are answered, one after the other.
        cuts: how many HTTP answers are still to be cut in the middle.
        continue_wait: how many evaluations still answer "Continue wait".
        failing: the (sentence, status) that evaluations answer.
    """

    silent: bool = False
    delay: float = 0.0
    drop_after: Moment | None = None
    fragments: int = 1
    no_handshake: Countdown | None = None
    refusals: Countdown | None = None
    answers: deque[Countdown] = attrs.field(factory=deque)
    cuts: int = 0
    continue_wait: int = 0
    failing: Countdown | None = None

    def take(self, name: Literal["no_handshake", "refusals", "failing"]) -> Any:
        """Use a fault once and return its value; None where there is none."""
        fault: Countdown | None = getattr(self, name)
        if fault is None:
            return None
        value, over = _used(fault)
        if over:
            setattr(self, name, None)
        return value

    def take_answer(self) -> HttpResponse | None:
        """Use the first answer in the queue once."""
        if not self.answers:
            return None
        value, over = _used(self.answers[0])
        if over:
            self.answers.popleft()
        fault: HttpResponse = value
        return fault

    def take_cut(self) -> bool:
        """Tell whether this answer is to be cut."""
        if self.cuts == 0:
            return False
        self.cuts -= 1
        return True

    def take_wait(self) -> bool:
        """Tell whether this evaluation answers "Continue wait"."""
        if self.continue_wait == 0:
            return False
        self.continue_wait -= 1
        return True


def _used(fault: Countdown) -> tuple[Any, bool]:
    if fault.left is None:
        return fault.value, False
    fault.left -= 1
    return fault.value, fault.left <= 0


# -------------------- What every fake server keeps.


class Records:
    """Keep what a fake has seen.

    Everything here is read and changed under ``lock`` only.

    Args:
        faults: what it was told to do wrong.
        time: tells the time of the log, in seconds.
    """

    def __init__(self, faults: Faults, time: Callable[[], float]) -> None:
        self.faults = faults
        self.time = time
        self.lock = threading.RLock()
        self.happened = threading.Condition(self.lock)
        self.watchers: list[Callable[[], None]] = []
        self.requests: list[HttpRequest] = []
        self.failures: list[Exception] = []

    def failed(self, error: Exception) -> None:
        """Keep a defect of the fake for when the test is over."""
        self.failures.append(error)

    def changed(self) -> None:
        """Let whoever waits look again."""
        self.happened.notify_all()
        for watch in self.watchers:
            watch()
