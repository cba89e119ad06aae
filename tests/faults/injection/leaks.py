"""Threads and file descriptors that a block leaves behind."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_SECONDS = 10.0
_POLL_SECONDS = 0.01


def descriptors() -> dict[str, str]:
    """Return the open file descriptors, and what each of them is."""
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        try:
            found[path.name] = str(path.readlink())
        except OSError:  # it was that of the list
            continue
    return found


@contextmanager
def leaks(patience: float = PATIENCE_SECONDS) -> Iterator[list[str]]:
    """Fill the list with what the block has left, once that does not change for long.

    Descriptors are found on Linux only.
    """
    linux = Path("/proc/self/fd").exists()
    threads = set(threading.enumerate())
    before = descriptors() if linux else {}

    def left() -> list[str]:
        now = descriptors() if linux else {}
        return [
            *(f"thread {t.name}" for t in set(threading.enumerate()) - threads),
            *(
                f"descriptor {n}, {what}"
                for n, what in now.items()
                if before.get(n) != what
            ),
        ]

    found: list[str] = []
    yield found
    # Servers in other threads close their ends a little later.
    deadline = time.monotonic() + patience
    while left() and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    found += left()
