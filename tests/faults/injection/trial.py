"""One trial: writers, watches behind faulty proxies, and what became of them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING

import attrs
from injection.leaks import PATIENCE_SECONDS, leaks
from injection.oracle import Verdict
from injection.proxy import LoopThread, Proxy
from injection.schedule import Entry, Fault, draw
from injection.watches import (
    FINAL,
    SPOILED,
    Progress,
    TaskWatch,
    ThreadWatch,
    make_watches,
)
from injection.writers import Writer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from injection.servers import Server

FAULTS_PER_WATCH = 5
# The share of the time of the faults in which rows change.
_WRITING = 0.6


@attrs.define(kw_only=True)
class Report:
    """What one trial did, and what went wrong.

    Attributes:
        server: the server's name.
        seed: of everything random.
        schedules: the faults of each watch.
        effects: how often each fault met a connection or a chunk of its bytes.
        written: rows by kind of change.
        verdicts: what went wrong, by query.
        updates: the updates of each watch.
        resumed: the number of updates that were the first after an outage.
        errors: the transient errors that the watches reported, by type.
        ended: watches that ended, and should not have.
        leaks: what was left after closing.
        seconds: how long it took.
    """

    server: str
    seed: int
    schedules: dict[str, list[Entry]] = attrs.field(factory=dict)
    effects: Counter[Fault] = attrs.field(factory=Counter)
    written: Counter[str] = attrs.field(factory=Counter)
    verdicts: dict[str, Verdict] = attrs.field(factory=dict)
    updates: dict[str, int] = attrs.field(factory=dict)
    resumed: int = 0
    errors: Counter[str] = attrs.field(factory=Counter)
    ended: list[str] = attrs.field(factory=list)
    leaks: list[str] = attrs.field(factory=list)
    seconds: float = 0.0

    @property
    def failures(self) -> list[str]:
        """Everything that went wrong, each in a sentence."""
        wrong = [
            f"{query}: {kind}: {', '.join(values)}"
            for query, verdict in self.verdicts.items()
            for kind, values in attrs.asdict(verdict).items()
            if values
        ]
        return [*wrong, *self.ended, *(f"left over: {each}" for each in self.leaks)]

    def __str__(self) -> str:
        lines = [f"{self.server}, seed {self.seed}:"]
        for name, schedule in self.schedules.items():
            lines += [f"  {name}: {entry}" for entry in schedule]
        return "\n".join([*lines, *(f"  FAILED {each}" for each in self.failures)])


def summary(reports: Iterable[Report]) -> str:
    """Return the figures of several trials, one per line."""
    reports = list(reports)
    effects: Counter[Fault] = sum((r.effects for r in reports), Counter())
    written: Counter[str] = sum((r.written for r in reports), Counter())
    errors: Counter[str] = sum((r.errors for r in reports), Counter())
    verdicts = [v for r in reports for v in r.verdicts.values()]

    def listed(counts: Counter[str] | Counter[Fault]) -> str:
        each = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        return f"{counts.total()} ({each})" if counts else "0"

    figures = {
        "schedules": sum(len(r.schedules) for r in reports),
        "trials": f"{len(reports)}, failed: {sum(bool(r.failures) for r in reports)}",
        "seconds": round(sum(r.seconds for r in reports)),
        "faults": listed(effects),
        "rows written": listed(written),
        "updates": sum(sum(r.updates.values()) for r in reports),
        "first updates after an outage": sum(r.resumed for r in reports),
        "transient errors": listed(errors),
        "rows lost": sum(len(v.lost) for v in verdicts),
        "rows that do not exist": sum(len(v.extra) for v in verdicts),
        "rows added twice": sum(len(v.twice) for v in verdicts),
        "ghosts": sum(len(v.ghosts) for v in verdicts),
        "other contradictions": sum(len(v.wrong) for v in verdicts),
        "watches that ended": sum(len(r.ended) for r in reports),
        "leaks": sum(len(r.leaks) for r in reports),
    }
    return "\n".join(f"{name}: {value}" for name, value in figures.items())


def run(server: Server, seed: int) -> Report:
    """Run one trial: a schedule of faults for each of several watches."""
    started = time.monotonic()
    report = Report(server=server.name, seed=seed)
    with leaks() as left, LoopThread() as thread:
        asyncio.run(_Trial(server, report, thread).run())
    report.leaks += left
    report.seconds = time.monotonic() - started
    return report


class _Trial:
    def __init__(self, server: Server, report: Report, thread: LoopThread) -> None:
        self._server = server
        self._report = report
        self._thread = thread

    async def run(self) -> None:
        server, report = self._server, self._report
        contracts = [f"SP{report.seed}.{name}" for name in ("first", "second")]
        self._writers = [Writer(server, c, f"{report.seed}/{c}") for c in contracts]
        self._histories = {each.contract: each.history for each in self._writers}
        self._progress = Progress()
        self._watches = make_watches(server, self._progress, *contracts)
        with ExitStack() as stack:
            self._proxies = {
                watch.name: stack.enter_context(
                    Proxy(self._thread, server.port, f"{report.seed}/{watch.name}")
                )
                for watch in self._watches
            }
            try:
                await self._inject()
                await self._progress.until(self._is_decided, server.patience)
                if self._all_show_it():
                    await self._spoiled_update()
                if self._all_show_it():
                    await self._quiet_update()
            finally:
                await self._stop()
        self._judge()

    def _start(self, watch: TaskWatch | ThreadWatch) -> None:
        watch.start(self._proxies[watch.name].port)

    async def _inject(self) -> None:
        """Let the writers and the faults run, until both are over."""
        server, seed = self._server, self._report.seed
        for writer in self._writers:
            writer.insert("0xfirst")
        on_time = [watch for watch in self._watches if not watch.late]
        for watch in on_time:
            self._start(watch)
        await self._progress.until(
            lambda: all(watch.has_begun() for watch in on_time), server.patience
        )
        running = []
        for watch in self._watches:
            schedule = draw(
                f"{seed}/{watch.name}",
                seconds=server.seconds,
                count=FAULTS_PER_WATCH,
                longest=server.seconds / 5,
            )
            self._report.schedules[watch.name] = schedule
            running.append(asyncio.wrap_future(self._proxies[watch.name].run(schedule)))
        for writer in self._writers:
            writer.start()
        for watch in self._watches:
            if watch.late:
                self._start(watch)
        # A later change would hide that a watch has missed one, so the writers end
        # before the faults do.
        await asyncio.wait(running, timeout=_WRITING * server.seconds)
        for writer in self._writers:
            await asyncio.to_thread(writer.stop)
        await asyncio.gather(*running)

    async def _spoiled_update(self) -> None:
        """Corrupt the answer with the last change, in each watch once, and wait.

        The server has sent it, and sends nothing more by itself.
        """
        for proxy in self._proxies.values():
            proxy.spoil(SPOILED)
        for writer in self._writers:
            writer.insert(SPOILED)
        await self._progress.until(self._is_decided, self._server.patience)
        for name, proxy in self._proxies.items():
            if not proxy.has_spoiled:
                wrong = "the last change was not corrupted"
                self._report.verdicts[f"{name}, spoiled"] = Verdict(wrong=[wrong])

    async def _quiet_update(self) -> None:
        """Wait for exactly one update of one more change."""
        before = {watch.name: watch.updates for watch in self._watches}
        for writer in self._writers:
            writer.insert(FINAL)
        await self._progress.until(self._is_decided, self._server.patience)
        for watch in self._watches:
            count = watch.updates - before[watch.name]
            if count != len(watch.contracts):
                wrong = f"{count} updates for one new row in {len(watch.contracts)}"
                self._report.verdicts[f"{watch.name}, quiet"] = Verdict(wrong=[wrong])

    def _all_show_it(self) -> bool:
        return all(watch.shows(self._histories) for watch in self._watches)

    def _is_decided(self) -> bool:
        return self._all_show_it() or any(watch.ended for watch in self._watches)

    async def _stop(self) -> None:
        report, cancel = self._report, not self._all_show_it()
        for watch in self._watches:
            report.leaks += await watch.stop(PATIENCE_SECONDS, cancel=cancel)
        own = asyncio.current_task()
        report.leaks += [
            f"task {task.get_name()}, {task.get_coro()}"
            for task in asyncio.all_tasks()
            if task is not own
        ]
        for name, proxy in self._proxies.items():
            if not await asyncio.to_thread(proxy.wait_idle, PATIENCE_SECONDS):
                report.leaks.append(f"{proxy.connections} connections of {name}")

    def _judge(self) -> None:
        report = self._report
        for proxy in self._proxies.values():
            report.effects += proxy.effects
        for writer in self._writers:
            report.written += writer.history.written
        for watch in self._watches:
            report.verdicts |= watch.judge(self._histories)
            report.updates[watch.name] = watch.updates
            report.resumed += watch.resumed
            report.errors += watch.errors
            report.ended += watch.ended
