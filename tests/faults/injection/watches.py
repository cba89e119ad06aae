"""The watches of a trial: each kind of transport, in tasks and in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import TYPE_CHECKING

import attrs
from injection.oracle import History, Recorder, Verdict
from injection.proxy import LOOPBACK
from injection.servers import AMOUNT, KEY, FastClock, Server, rows_of

from ortege_watch import AsyncCubeClient, CubeClient, Reconnect, Update, Updates

if TYPE_CHECKING:
    from collections.abc import Callable

    from ortege_watch.errors import OrtegeWatchError

FINAL = "0xfinal"
"""The key of the last row; a watch that has it in every query ends."""


SPOILED = "0xspoiled"
"""The key of the row before it, whose first answer is corrupted."""


class Progress:
    """Wakes a task when something has happened in any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._happened = asyncio.Event()

    def notify(self) -> None:
        """Let the waiting task check its condition again."""
        self._loop.call_soon_threadsafe(self._happened.set)

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for a condition; return whether it came true in time."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._happened.clear()
                    if not condition():
                        await self._happened.wait()
        except TimeoutError:
            return condition()
        return True


@attrs.define(eq=False, kw_only=True)
class Watch:
    """One ``watch()`` of one or two contracts, and what it saw.

    Attributes:
        name: for reports.
        contracts: the contracts that it watches.
        transport: as for ``watch()``.
        late: whether it begins when the faults do, and is cancelled at the end.
        errors: the transient errors that it reported, by type.
        ended: how it ended, if it ended too early.
    """

    name: str
    contracts: tuple[str, ...]
    server: Server
    progress: Progress
    transport: str = "auto"
    late: bool = False
    errors: Counter[str] = attrs.field(factory=Counter)
    ended: list[str] = attrs.field(factory=list)
    recorders: dict[str, Recorder] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.recorders = {each: Recorder(KEY, AMOUNT) for each in self.contracts}

    @property
    def updates(self) -> int:
        """The number of updates so far."""
        return sum(each.updates for each in self.recorders.values())

    @property
    def resumed(self) -> int:
        """The number of updates that were the first after an outage."""
        return sum(each.resumed for each in self.recorders.values())

    def has_begun(self) -> bool:
        """Return whether every query has had an update."""
        return all(each.updates for each in self.recorders.values())

    def shows(self, histories: dict[str, History]) -> bool:
        """Return whether it has the newest version of every contract."""
        return all(
            recorder.state == histories[contract].state
            for contract, recorder in self.recorders.items()
        )

    def judge(self, histories: dict[str, History]) -> dict[str, Verdict]:
        """Return what went wrong, by query."""
        return {
            f"{self.name}, {contract}": recorder.judge(histories[contract])
            for contract, recorder in self.recorders.items()
        }

    def options(self, speed: float) -> dict[str, object]:
        """Return the options of ``watch()`` for a clock of this speed."""
        tick = self.server.tick
        return {
            "transport": self.transport,
            "reconnect": Reconnect(
                base=0.05 * speed, cap=0.4 * speed, healthy_after=0.5 * speed
            ),
            "stale_after": max(0.5, 6 * tick) * speed,
            "poll_every": tick * speed,
            "on_error": self._on_error,
        }

    def _on_error(self, error: OrtegeWatchError) -> None:
        self.errors[type(error).__name__] += 1

    def _take(self, update: Update, contract: str) -> bool:
        """Record an update; return whether the watch has come to its end."""
        self.recorders[contract].take(update)
        self.progress.notify()
        return not self.late and all(
            FINAL in each.state for each in self.recorders.values()
        )

    def _end(self, how: str) -> None:
        self.ended.append(f"{self.name} ended {how}")
        self.progress.notify()


class TaskWatch(Watch):
    """A watch of :class:`AsyncCubeClient`."""

    def start(self, port: int) -> None:
        """Start its task; ``port`` is that of its proxy."""
        self._task = asyncio.create_task(self._follow(port), name=self.name)

    async def stop(self, seconds: float, *, cancel: bool) -> list[str]:
        """Wait for its end, or cancel it; return what is left."""
        if cancel or self.late:
            self._task.cancel()
        await asyncio.wait({self._task}, timeout=seconds)
        return [] if self._task.done() else [f"the task of {self.name}"]

    async def _follow(self, port: int) -> None:
        speed = self.server.speed
        queries = {rows_of(contract): contract for contract in self.contracts}
        try:
            async with (
                AsyncCubeClient(
                    url(port),
                    self.server.token(),
                    clock=FastClock(speed),
                    timeout=1.0,  # of httpx, which has the system's clock
                    deadline=10.0 * speed,
                ) as client,
                client.watch(*queries, **self.options(speed)) as updates,
            ):
                async for update in updates:
                    if self._take(update, queries[update.query]):
                        return
                self._end("without an error")
        except Exception as error:  # noqa: BLE001 - any end but its own is a failure
            self._end(f"with {error!r}")


class ThreadWatch(Watch):
    """A watch of :class:`CubeClient`, with the system's clock."""

    _updates: Updates | None = None
    _closing = False

    def start(self, port: int) -> None:
        """Start its thread; ``port`` is that of its proxy."""
        self._thread = threading.Thread(
            target=self._follow, args=(port,), name=self.name, daemon=True
        )
        self._thread.start()

    async def stop(self, seconds: float, *, cancel: bool) -> list[str]:
        """Wait for its end, or close it; return what is left."""
        self._closing = cancel
        if cancel and self._updates is not None:
            await asyncio.to_thread(self._close, self._updates)
        await asyncio.to_thread(self._thread.join, seconds)
        return [f"the thread of {self.name}"] if self._thread.is_alive() else []

    def _close(self, updates: Updates) -> None:
        try:
            updates.__exit__(None, None, None)
        except BaseException as error:  # noqa: BLE001 - it was being iterated over
            self._end(f"with {error!r} from closing it")

    def _follow(self, port: int) -> None:
        queries = {rows_of(contract): contract for contract in self.contracts}
        try:
            with (
                CubeClient(url(port), self.server.token()) as client,
                client.watch(*queries, **self.options(1.0)) as updates,
            ):
                self._updates = updates
                for update in updates:
                    if self._take(update, queries[update.query]):
                        return
                if not self._closing:
                    self._end("without an error")
        except Exception as error:  # noqa: BLE001 - any end but its own is a failure
            self._end(f"with {error!r}")


def url(port: int) -> str:
    """Return the base of the REST API behind a port."""
    return f"http://{LOOPBACK}:{port}/cubejs-api/v1"


def make_watches(
    server: Server, progress: Progress, first: str, second: str
) -> list[TaskWatch | ThreadWatch]:
    """Return the watches of one trial."""

    def task(name: str, *contracts: str, **more: object) -> TaskWatch:
        return TaskWatch(
            name=name, contracts=contracts, server=server, progress=progress, **more
        )

    return [
        task("websocket", first, transport="websocket"),
        task("two queries", first, second),
        task("rest", second, transport="rest"),
        task("late", second, late=True),
        ThreadWatch(
            name="thread",
            contracts=(first,),
            transport="websocket",
            server=server,
            progress=progress,
        ),
    ]
