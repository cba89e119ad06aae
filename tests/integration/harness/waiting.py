"""Bounded waits for a condition: the only place of these tests that sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio

POLL_SECONDS = 0.02


def wait_until(condition: Callable[[], object], *, seconds: float, what: str) -> None:
    """Return as soon as `condition` is true.

    Raises:
        TimeoutError: it was not within `seconds`; the text names `what`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s in vain: {what}")
        time.sleep(POLL_SECONDS)


async def await_until(
    condition: Callable[[], object], *, seconds: float, what: str
) -> None:
    """Return as soon as `condition` is true, while other tasks go on.

    Raises:
        TimeoutError: it was not within `seconds`; the text names `what`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s in vain: {what}")
        await anyio.sleep(POLL_SECONDS)
