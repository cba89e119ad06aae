"""Watches for long, while tokens expire and the server restarts: what grows?"""

from __future__ import annotations

import asyncio
import gc
import itertools
import resource
import statistics
import threading
import time
import tracemalloc
from collections import Counter
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import attrs
from injection.leaks import descriptors, leaks
from injection.oracle import State
from injection.servers import AMOUNT, KEY, RealServer, rows_of
from injection.watches import FINAL, Progress

from ortege_watch import AsyncCubeClient, CubeClient, Reconnect, Update

if TYPE_CHECKING:
    from collections.abc import Iterator

    from injection.servers import Store

TOKEN_SECONDS = 20.0
RESTART_SECONDS = 20.0
SLOW_SECONDS = 2.0
PATIENCE_SECONDS = 60.0
_ROWS = 200
_SAMPLE_SECONDS = 0.5
# What may differ by chance: a connection that is being opened, the heap's layout.
ALLOWED = {
    "tasks": 1,
    "threads": 1,
    "descriptors": 2,
    "traced KiB": 512,
    "RSS KiB": 8192,
}

_OF_CONNECTIONS = ("tasks", "threads", "descriptors")


@attrs.define(kw_only=True)
class Report:
    """What a soak did, and what it measured.

    Attributes:
        seconds: how long the watches ran.
        tokens: the number of tokens that were asked for.
        restarts: how often the server was killed and started.
        changes: the number of transactions.
        updates: by watch.
        errors: the transient errors, by type.
        samples: of each figure, every half second.
        wrong: what the watches got wrong, and what was left.
    """

    seconds: float = 0.0
    tokens: int = 0
    restarts: int = 0
    changes: int = 0
    updates: Counter[str] = attrs.field(factory=Counter)
    errors: Counter[str] = attrs.field(factory=Counter)
    samples: dict[str, list[int]] = attrs.field(factory=dict)
    wrong: list[str] = attrs.field(factory=list)

    def quarters(self) -> dict[str, tuple[float, float]]:
        """Return the figures of the second and the last quarter, by name.

        The first quarter is the warm-up. The figure of a quarter is the median; of what a
        connection has, it is the maximum in the second quarter, because connections may
        be down for most of it.
        """
        return {
            name: (
                (max if name in _OF_CONNECTIONS else statistics.median)(
                    values[len(values) // 4 : len(values) // 2]
                ),
                statistics.median(values[3 * len(values) // 4 :]),
            )
            for name, values in self.samples.items()
        }

    @property
    def failures(self) -> list[str]:
        """Everything that went wrong or grew, each in a sentence."""
        grown = [
            f"{name} grew from {before:g} to {after:g}"
            for name, (before, after) in self.quarters().items()
            if after > before + ALLOWED[name]
        ]
        return [*self.wrong, *grown]

    def __str__(self) -> str:
        lines = [
            f"seconds: {self.seconds:.0f}",
            f"tokens: {self.tokens}",
            f"server restarts: {self.restarts}",
            f"transactions: {self.changes}",
            f"updates: {self.updates.total()} {dict(self.updates)}",
            f"transient errors: {self.errors.total()} {dict(self.errors)}",
        ]
        lines += [
            f"{name}: {before:g} in the second quarter, {after:g} in the last,"
            f" {max(self.samples[name])} at most"
            for name, (before, after) in self.quarters().items()
        ]
        return "\n".join([*lines, *(f"FAILED {each}" for each in self.failures)])


def run(
    server: RealServer, seconds: float, *, restart_every: float = RESTART_SECONDS
) -> Report:
    """Watch a server for so long, and restart it every so many seconds."""
    report = Report()
    tracemalloc.start()
    try:
        with leaks() as left:
            asyncio.run(_Soak(server, report, restart_every).run(seconds))
    finally:
        tracemalloc.stop()
    # The server that was started last has a new pipe as its standard input.
    report.wrong += [f"left over: {each}" for each in left if ", pipe:" not in each]
    return report


@attrs.define(eq=False, kw_only=True)
class _Watch:
    """One ``watch()``, and the rows that it has by now."""

    name: str
    transport: str
    slow: bool = False
    threaded: bool = False
    state: State = attrs.field(factory=dict)
    finished: bool = False


class _Soak:
    def __init__(
        self, server: RealServer, report: Report, restart_every: float
    ) -> None:
        self._server = server
        self._cube = server.cube
        self._report = report
        self._restart_every = restart_every
        self._contract = f"SPSOAK{time.monotonic_ns()}"
        self._watches = [
            _Watch(name="task websocket", transport="websocket"),
            _Watch(name="slow task websocket", transport="websocket", slow=True),
            _Watch(name="task rest", transport="rest"),
            _Watch(name="thread websocket", transport="websocket", threaded=True),
            _Watch(name="thread rest", transport="rest", threaded=True),
        ]
        self._stopped = threading.Event()

    async def run(self, seconds: float) -> None:
        self._progress = Progress()
        store = self._server.store(self._contract)
        state: State = {}
        state.update((f"0xfirst{number:04}", Decimal(1)) for number in range(_ROWS))
        store.insert(state)
        running = []
        for watch in self._watches:
            if watch.threaded:
                threading.Thread(
                    target=self._follow_in_thread,
                    args=(watch,),
                    name=watch.name,
                    daemon=True,
                ).start()
            else:
                follow = self._follow(watch)
                running.append(asyncio.create_task(follow, name=watch.name))
        writing = asyncio.create_task(asyncio.to_thread(self._write, store, state))
        started = time.monotonic()
        try:
            await self._restart_and_measure(started + seconds)
        finally:  # a server that does not start again ends it too
            self._stopped.set()
            await writing
            store.insert({FINAL: Decimal(1)})
            state[FINAL] = Decimal(1)
        self._report.seconds = time.monotonic() - started
        await self._progress.until(
            lambda: all(watch.finished for watch in self._watches), PATIENCE_SECONDS
        )
        expected = store.rows()
        assert state == expected
        for watch in self._watches:
            if watch.state != expected:
                self._wrong(watch, "does not have the rows of the table")
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=PATIENCE_SECONDS)
        own = asyncio.current_task()
        self._report.wrong += [
            f"left over: {task}" for task in asyncio.all_tasks() if task is not own
        ]

    async def _restart_and_measure(self, until: float) -> None:
        restart_at = time.monotonic() + self._restart_every
        while (now := time.monotonic()) < until:
            if now >= restart_at:
                await asyncio.to_thread(self._cube.kill)
                await asyncio.to_thread(self._cube.start)
                self._report.restarts += 1
                restart_at = time.monotonic() + self._restart_every
            await asyncio.sleep(_SAMPLE_SECONDS)
            for name, value in measure().items():
                self._report.samples.setdefault(name, []).append(value)

    def _write(self, store: Store, state: State) -> None:
        """Replace and update rows; their number stays the same."""
        random = Random(self._contract)
        numbers = itertools.count(1)
        while not self._stopped.wait(random.uniform(0.05, 0.3)):
            new = {f"0x{next(numbers):08x}": Decimal(random.randrange(1, 10**9)) / 1000}
            store.insert(new)
            state |= new
            oldest = next(iter(state))
            store.delete([oldest])
            del state[oldest]
            key, amount = random.choice(list(state)), Decimal(random.randrange(10**6))
            store.update(key, amount)
            state[key] = amount
            self._report.changes += 3

    def _token(self) -> str:
        self._report.tokens += 1
        return self._cube.token(exp=time.time() + TOKEN_SECONDS)

    def _options(self, watch: _Watch) -> dict[str, object]:
        return {
            "transport": watch.transport,
            "reconnect": Reconnect(base=0.1, cap=1.0),
            "poll_every": 1.0,
            "on_error": lambda error: self._report.errors.update(
                [type(error).__name__]
            ),
        }

    async def _follow(self, watch: _Watch) -> None:
        with self._reported(watch):
            async with (
                AsyncCubeClient(self._cube.url, self._token) as client,
                client.watch(
                    rows_of(self._contract), **self._options(watch)
                ) as updates,
            ):
                async for update in updates:
                    self._take(watch, update)
                    if watch.finished:
                        return
                    if watch.slow and not self._stopped.is_set():
                        await asyncio.sleep(SLOW_SECONDS)

    def _follow_in_thread(self, watch: _Watch) -> None:
        with (
            self._reported(watch),
            CubeClient(self._cube.url, self._token) as client,
            client.watch(rows_of(self._contract), **self._options(watch)) as updates,
        ):
            for update in updates:
                self._take(watch, update)
                if watch.finished:
                    return

    @contextmanager
    def _reported(self, watch: _Watch) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - any end but its own is a failure
            self._wrong(watch, f"ended with {error!r}")
        else:
            if not watch.finished:
                self._wrong(watch, "ended without an error")

    def _take(self, watch: _Watch, update: Update) -> None:
        self._report.updates[watch.name] += 1
        state = watch.state
        for row in update.removed:
            if state.pop(row[KEY], None) is None:
                self._wrong(watch, f"removed {row[KEY]}, which it did not have")
        for row in update.added:
            if row[KEY] in state:
                self._wrong(watch, f"added {row[KEY]} twice")
        state.update((row[KEY], row[AMOUNT]) for row in update.upserted)
        if FINAL in state:
            watch.finished = True
            self._progress.notify()

    def _wrong(self, watch: _Watch, what: str) -> None:
        self._report.wrong.append(f"{watch.name} {what}")


def measure() -> dict[str, int]:
    """Return what a leak would make larger; must be called in the loop."""
    gc.collect()
    found = {
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
        "traced KiB": tracemalloc.get_traced_memory()[0] // 1024,
    }
    if Path("/proc/self").exists():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        found["descriptors"] = len(descriptors())
        found["RSS KiB"] = pages * resource.getpagesize() // 1024
    return found
