"""A clock that moves only when a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading

import attrs

# Enough iterations of the event loop for a chain of tasks that wake one another; code
# that waits for real sockets needs wait_for_sleepers() or a condition of its own.
_ITERATIONS = 20


@attrs.frozen(order=True)
class _Sleeper:
    deadline: float
    number: int
    loop: asyncio.AbstractEventLoop = attrs.field(order=False)
    awake: asyncio.Event = attrs.field(order=False)


class ManualClock:
    """A replacement for the monotonic clock and for ``asyncio.sleep``.

    Pass it as the ``clock`` of a client or a fake (``now() -> float`` in seconds and
    ``async sleep(seconds)``); back-off, deadlines and heartbeats then take no time::

        clock = ManualClock()
        ...
        await clock.wait_for_sleepers(1)   # the code under test sleeps ...
        assert clock.sleepers == (1.0,)    # ... for one second
        await clock.advance(1.0)           # and wakes

    Args:
        start: the first value of ``now()``, in seconds.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._sleepers: list[_Sleeper] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def now(self) -> float:
        """Return the time in seconds."""
        return self._now

    @property
    def sleepers(self) -> tuple[float, ...]:
        """The seconds until each sleeper wakes, the next one first."""
        with self._lock:
            return tuple(s.deadline - self._now for s in sorted(self._sleepers))

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been moved by that many seconds.

        Zero or a negative number only lets the other tasks run.
        """
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        loop, awake = asyncio.get_running_loop(), asyncio.Event()
        with self._lock:
            deadline = self._now + seconds
            sleeper = _Sleeper(deadline, next(self._numbers), loop, awake)
            heapq.heappush(self._sleepers, sleeper)
            waiters = tuple(self._waiters)
        for waiting, arrived in waiters:
            waiting.call_soon_threadsafe(arrived.set)
        try:
            await awake.wait()
        finally:
            with self._lock:
                if sleeper in self._sleepers:  # cancelled
                    self._sleepers.remove(sleeper)
                    heapq.heapify(self._sleepers)

    def jump(self, seconds: float) -> None:
        """Move the clock and wake the sleepers that are due, from any thread.

        Sleepers wake in the order of their deadlines, but all of them see the new
        time; with :meth:`advance` each sees its own.
        """
        self._move(self._now + seconds)

    async def advance(self, seconds: float) -> None:
        """Move the clock, waking each sleeper at its own time and letting it run.

        A sleeper that sleeps again within the span is woken again, as often as it is
        due. Only tasks run, not sockets: after this, wait for what the code under test
        does, or for it to sleep again (:meth:`wait_for_sleepers`).

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
            count: the number of tasks.
            timeout: seconds of real time before giving up.

        Raises:
            TimeoutError: fewer tasks slept in time.
        """
        arrived = asyncio.Event()
        waiter = (asyncio.get_running_loop(), arrived)
        with self._lock:
            self._waiters.append(waiter)
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
                self._waiters.remove(waiter)

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
    for _ in range(_ITERATIONS):
        await asyncio.sleep(0)
