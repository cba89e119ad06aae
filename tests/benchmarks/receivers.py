"""The Python programs that receive pushes; each runs in a process of its own.

``receivers.py NAME PORT COUNT`` receives ``COUNT`` answers and prints an ``Outcome`` as
JSON. With ``--memory``, a subscription to one row comes before, so that modules and
buffers are loaded; nothing is compared with that row. With ``--without-last``, what
the last answer needs does not count: the library says nothing of answers that are alike,
and the last one is there to end the run.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
from decimal import Decimal
from pathlib import Path
from time import monotonic, process_time
from typing import TYPE_CHECKING, Any, TypeVar

from frames import AMOUNT, DIMENSIONS, LIMIT, QUERY, SENDER, step_of

if TYPE_CHECKING:
    from ortege_watch import Dimension, Measure, Query

T = TypeVar("T")

HELLO = '{"authorization":"token"}'
SAMPLES = 0.1
"""Seconds between two samples; the server pauses longer before the last answer."""

BEFORE_SLEEP = 10
"""How many answers a loop that sleeps has taken before."""


def page_faults() -> int:
    """Return how many pages of memory this process has had to ask for."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def memory(name: str) -> int:
    """Return the resident memory (``VmRSS``) or its peak (``VmHWM``) in bytes."""
    status = Path("/proc/self/status").read_text("ascii")
    return int(status.partition(f"{name}:")[2].split()[0]) * 1024


def forget_peak() -> None:
    """Let the peak of the resident memory begin at what is resident now."""
    Path("/proc/self/clear_refs").write_text("5", "ascii")


class Recorder:
    """What a program receives, from its first answer on.

    Args:
        with_memory: record the peak of the memory above what was resident at the
            first answer, which must be a small one. Reading it takes time.
        without_last: do not count what the last answer needs.
    """

    def __init__(
        self, *, with_memory: bool = False, without_last: bool = False
    ) -> None:
        self.seen: list[tuple[int, float]] = []
        self.outcome: dict[str, Any] = {"seen": self.seen}
        self.with_memory = with_memory
        self._without_last = without_last
        gc.collect()

    def on_answer(self, step: int) -> None:
        """Record that the answer of a step has reached the caller's code."""
        self.seen.append((step, monotonic()))
        if self.with_memory:
            self._record_memory()
        if len(self.seen) == 1:
            self._first = process_time(), page_faults()
            if self._without_last:
                self._sample()

    def _sample(self) -> None:
        self._last = process_time(), page_faults()
        asyncio.get_running_loop().call_later(SAMPLES, self._sample)

    def _record_memory(self) -> None:
        if len(self.seen) == 1:
            forget_peak()
            self._resident = memory("VmRSS")
        else:
            peak = memory("VmHWM") - self._resident
            self.outcome.setdefault("first_peak", peak)
            self.outcome["peak"] = peak

    def finish(self) -> None:
        """Record what receiving has cost."""
        if not self._without_last:
            self._last = process_time(), page_faults()
        self.outcome["cpu"] = self._last[0] - self._first[0]
        self.outcome["faults"] = self._last[1] - self._first[1]

    def report(self, amounts: list[Decimal]) -> None:
        """Print everything, with the rows of the last answer."""
        rows = {"rows": len(amounts), "sum": str(sum(amounts, Decimal()))}
        print(json.dumps(self.outcome | rows))


def warm_up(recorder: Recorder, small: T, query: T, count: int) -> list[tuple[T, int]]:
    """Return what to subscribe to, and for how many answers."""
    return [(small, 1)] * recorder.with_memory + [(query, count)]


async def floor(port: int, count: int, recorder: Recorder) -> None:
    """Receive with websockets and build dicts with orjson, and do nothing more."""
    import orjson
    from websockets.asyncio.client import connect

    url = f"ws://127.0.0.1:{port}/"
    for query, answers in warm_up(recorder, QUERY | {"limit": 1}, QUERY, count):
        params = {"messageId": "1", "method": "subscribe", "params": {"query": query}}
        async with connect(
            url, compression=None, max_size=None, ping_interval=None
        ) as socket:
            await socket.send(HELLO)
            await socket.recv()
            await socket.send(json.dumps(params))
            for step in range(answers):
                message = orjson.loads(await socket.recv(decode=False))
                recorder.on_answer(step)
            recorder.finish()
    rows = message["message"]["results"][0]["data"]
    recorder.report([Decimal(row[AMOUNT]) for row in rows])


def library_query(
    limit: int = LIMIT,
) -> tuple[Query, Measure[Decimal], Dimension[str]]:
    """Return the query with the library's classes, and the members to read."""
    from ortege_watch import Dimension, Measure, Query, TimeDimension

    contract, function, _, time = DIMENSIONS
    amount, sender = Measure(AMOUNT, Decimal), Dimension(SENDER, str)
    dimensions = [Dimension(contract), Dimension(function), sender, TimeDimension(time)]
    query = Query(measures=[amount], dimensions=dimensions, limit=limit)
    return query, amount, sender


async def library(port: int, count: int, recorder: Recorder) -> None:
    """Receive updates, and read two typed values of each row that differs."""
    from ortege_watch import AsyncCubeClient

    query, amount, sender = library_query()
    client = AsyncCubeClient(f"http://127.0.0.1:{port}", "token")
    small = library_query(limit=1)[0]
    async with client:
        for each, answers in warm_up(recorder, small, query, count):
            async with client.watch(each, dialect="cube") as updates:
                async for update in updates:
                    if not update.first:
                        for row in (*update.added, *update.changed):
                            assert row[amount] > 0
                            assert row[sender]
                    step = step_of(update.result.refreshed_at)
                    recorder.on_answer(step)
                    if step == answers - 1:
                        break
                recorder.finish()
    recorder.report([row[amount] for row in update.result])


async def sleeper(port: int, seconds: int, recorder: Recorder) -> None:
    """Take some updates of the library, sleep for ``seconds``, and take the newest.

    Records as ``growth`` how much more memory was needed at the peak of the sleep than
    at the peak before it, and how many answers came meanwhile.
    """
    from ortege_watch import AsyncCubeClient

    query, amount, _ = library_query()
    client = AsyncCubeClient(f"http://127.0.0.1:{port}", "token")
    async with client, client.watch(query, dialect="cube") as updates:
        forget_peak()
        async for update in updates:
            step = step_of(update.result.refreshed_at)
            recorder.on_answer(step)
            if len(recorder.seen) == BEFORE_SLEEP:
                before = memory("VmHWM")
                forget_peak()
                await asyncio.sleep(seconds)
                recorder.outcome["growth"] = memory("VmHWM") - before
                recorder.outcome["missed"] = -step
            elif len(recorder.seen) > BEFORE_SLEEP:
                recorder.outcome["missed"] += step
                break
        recorder.finish()
    recorder.report([row[amount] for row in update.result])


def tutorial(port: int, count: int, recorder: Recorder) -> None:
    """Do as the tutorial does: websocket-client's app, and json."""
    import websocket

    rows: list[dict[str, str]] = []

    def on_open(app) -> None:
        app.send(json.dumps({"queryType": "subscribe", "query": QUERY}))

    def on_message(app, text: str) -> None:
        rows[:] = json.loads(text)["data"]
        recorder.on_answer(len(recorder.seen))
        if len(recorder.seen) == count:
            recorder.finish()
            app.close()

    app = websocket.WebSocketApp(
        f"ws://127.0.0.1:{port}/", on_open=on_open, on_message=on_message
    )
    app.run_forever(ping_interval=60, ping_timeout=10)
    recorder.report([Decimal(row[AMOUNT]) for row in rows])


def main() -> None:
    programs = {each.__name__: each for each in (floor, library, sleeper, tutorial)}
    parser = argparse.ArgumentParser()
    parser.add_argument("program", choices=programs)
    parser.add_argument("port", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--without-last", action="store_true")
    options = parser.parse_args()
    recorder = Recorder(with_memory=options.memory, without_last=options.without_last)
    program = programs[options.program]
    done = program(options.port, options.count, recorder)
    if done is not None:
        asyncio.run(done)


if __name__ == "__main__":
    main()
