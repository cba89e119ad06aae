"""What every fake server keeps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ortege_watch.testing._faults import Faults
    from ortege_watch.testing._messages import HttpRequest

__all__ = ["Records"]


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
