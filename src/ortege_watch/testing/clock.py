"""A clock that moves only when a test says so."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading

import attrs

__all__ = ["ManualClock"]

# Enough turns of the event loop for a chain of tasks that wake one another; what
# waits for real sockets needs wait_for_sleepers or a condition of its own.
_TURNS = 20


@attrs.frozen(order=True)
class _Sleeper:
    deadline: float
    number: int
    loop: asyncio.AbstractEventLoop = attrs.field(order=False)
    awake: asyncio.Event = attrs.field(order=False)


class ManualClock:
    """Stand in for the monotonic clock and for ``asyncio.sleep``.

    Hand it to whatever takes a clock (``now() -> float`` in seconds and
    ``async sleep(seconds)``); back-off, deadlines and heartbeats then pass in no time::

        clock = ManualClock()
        ...
        await clock.wait_for_sleepers(1)   # the code under test has begun to wait
        assert clock.sleepers == (1.0,)    # ... for one second
        await clock.advance(1.0)           # and wakes

    Args:
        start: what ``now()`` says at first, in seconds.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._sleepers: list[_Sleeper] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._arrivals: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def now(self) -> float:
        """Tell the time in seconds."""
        return self._now

    @property
    def sleepers(self) -> tuple[float, ...]:
        """Seconds that each sleeper still has to wait, the next one first."""
        with self._lock:
            return tuple(s.deadline - self._now for s in sorted(self._sleepers))

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been moved by that many seconds.

        Nothing or less than nothing only lets the other tasks run.
        """
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        with self._lock:
            sleeper = _Sleeper(
                self._now + seconds, next(self._numbers), loop, asyncio.Event()
            )
            heapq.heappush(self._sleepers, sleeper)
            arrivals = tuple(self._arrivals)
        for waiting, arrived in arrivals:
            waiting.call_soon_threadsafe(arrived.set)
        try:
            await sleeper.awake.wait()
        finally:
            with self._lock:
                if sleeper in self._sleepers:  # cancelled
                    self._sleepers.remove(sleeper)
                    heapq.heapify(self._sleepers)

    def jump(self, seconds: float) -> None:
        """Move the clock and wake whoever is due, from any thread, without waiting.

        Sleepers wake in the order of their deadlines, but all of them see the new
        time; :meth:`advance` shows each its own.
        """
        self._move(self._now + seconds)

    async def advance(self, seconds: float) -> None:
        """Move the clock, waking each sleeper at its own time and letting it run.

        A sleeper that sleeps again within the span is woken again, as often as it is
        due. Only tasks get to run, not sockets: after this, wait for what the code
        under test does, or for it to sleep again (:meth:`wait_for_sleepers`).

        Args:
            seconds: how far; 0 only lets the tasks run.
        """
        target = self._now + seconds
        await _let_run()
        while (due := self._next_deadline(target)) is not None:
            self._move(due)
            await _let_run()
        self._move(target)
        await _let_run()

    async def wait_for_sleepers(self, count: int = 1, *, timeout: float = 5.0) -> None:
        """Wait until at least that many tasks sleep on this clock.

        Args:
            count: how many.
            timeout: seconds of real time before giving up.

        Raises:
            TimeoutError: fewer tasks than that went to sleep in time.
        """
        arrived = asyncio.Event()
        entry = (asyncio.get_running_loop(), arrived)
        with self._lock:
            self._arrivals.append(entry)
        try:
            async with asyncio.timeout(timeout):
                while len(self._sleepers) < count:
                    arrived.clear()
                    await arrived.wait()
        except TimeoutError:
            text = f"{len(self._sleepers)} tasks sleep after {timeout} s, not {count}"
            raise TimeoutError(text) from None
        finally:
            with self._lock:
                self._arrivals.remove(entry)

    def _next_deadline(self, until: float) -> float | None:
        with self._lock:
            if self._sleepers and self._sleepers[0].deadline <= until:
                return self._sleepers[0].deadline
            return None

    def _move(self, to: float) -> None:
        with self._lock:
            self._now = max(self._now, to)
            due: list[_Sleeper] = []
            while self._sleepers and self._sleepers[0].deadline <= self._now:
                due.append(heapq.heappop(self._sleepers))
        for sleeper in due:
            sleeper.loop.call_soon_threadsafe(sleeper.awake.set)


async def _let_run() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)
