"""Count the library's Python calls in its hot paths: ``python tests/benchmarks/calls.py``.

Each case runs against a fake server in another thread, and a warmed-up round is
counted: every ``call`` event of ``sys.setprofile`` in the calling thread whose
code belongs to the library (its fakes excluded). Resuming a generator or coroutine
counts as a call, too.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import sys
import tempfile
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from types import FrameType

import ortege_watch
from ortege_watch import AsyncCubeClient, CubeClient, Dimension, Measure, Query
from ortege_watch.testing import FakeCube, FakeWatchBus
from ortege_watch.watchbus import AlertInfo, AlertPublisher, Outbox

LIBRARY = str(Path(ortege_watch.__file__).parent)
FAKES = str(Path(LIBRARY) / "testing")
LIMITS = {"load": 70, "push, new row": 50, "push, changed row": 50, "publish": 155}
ON_FRAME = ("watch/runner.py", "SessionRunner.on_frame")

QUERY = Query(
    measures=[Measure("stacks_oracle_prices.price", Decimal)],
    dimensions=[Dimension("stacks_oracle_prices.token", str)],
)
ALERT = AlertInfo(
    *("0x" + "ab" * 20, 56, "ERC20", "big_amount_txn", 1_700_000_000),
    {"block_number": "1", "tx_hash": "0x" + "cd" * 32, "current_value": "1000.5"},
)
Calls = collections.Counter[tuple[str, str]]


class Profile:
    """Counts the library's calls while it is entered."""

    def __init__(self) -> None:
        self.calls: Calls = collections.Counter()

    def __enter__(self) -> Calls:
        sys.setprofile(self._on_event)
        return self.calls

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    def _on_event(self, frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        path = code.co_filename
        if event == "call" and path.startswith(LIBRARY) and not path.startswith(FAKES):
            self.calls[path[len(LIBRARY) + 1 :], code.co_qualname] += 1


def load() -> Calls:
    """Count a REST ``load()`` of one row."""
    with FakeCube() as fake, CubeClient(fake.url, fake.token()) as cube:
        fake.tables["stacks_oracle_prices"].insert(
            {"token": "STX", "price": Decimal("0.81")}
        )
        cube.load(QUERY)
        with Profile() as calls:
            cube.load(QUERY)
    return calls


async def push(*, new: bool) -> Calls:
    """Count a pushed frame with one new or one changed row, from the socket to the loop.

    The heartbeat that a server sends after it may arrive before the loop continues; a
    heartbeat is counted by itself, too, and subtracted.
    """
    with FakeCube() as fake:
        prices = fake.tables["stacks_oracle_prices"]
        async with (
            AsyncCubeClient(fake.url, fake.token()) as cube,
            cube.watch(QUERY) as updates,
        ):
            for number in range(3):
                await anext(updates)
                prices.insert({"token": f"T{number}", "price": Decimal(number)})
            await anext(updates)
            waiting = asyncio.ensure_future(anext(updates))
            await asyncio.sleep(0)
            with Profile() as calls:
                if new:
                    prices.insert({"token": "T", "price": Decimal("0.5")})
                else:
                    prices.update({"token": "T1"}, {"price": Decimal("0.5")})
                update = await waiting
            assert [len(update.added), len(update.changed)] == [new, not new]
            while not (heartbeat := await _heartbeat(fake))[ON_FRAME]:
                pass
        for _ in range(calls[ON_FRAME] - 1):
            calls.subtract(heartbeat)
    return +calls


async def _heartbeat(fake: FakeCube) -> Calls:
    with Profile() as calls:
        fake.refresh()
        async with asyncio.timeout(10):
            while not calls[ON_FRAME]:
                await asyncio.sleep(0)
    return calls


def publish() -> Calls:
    """Count ``publish()`` of one alert with an outbox in SQLite."""
    with (
        tempfile.TemporaryDirectory() as folder,
        FakeWatchBus() as bus,
        AlertPublisher(
            bus.url, bus.credentials, outbox=Outbox(Path(folder) / "outbox")
        ) as publisher,
    ):
        publisher.publish([ALERT])
        with Profile() as calls:
            result = publisher.publish([ALERT])
        assert result.sent == (ALERT,), result
    return calls


def main() -> int:
    """Print each case's count and limit; with ``-v`` also every function."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--verbose", "-v", action="store_true", help="every function")
    options = parser.parse_args()
    cases: dict[str, Callable[[], Calls | Awaitable[Calls]]] = {
        "load": load,
        "push, new row": lambda: asyncio.run(push(new=True)),
        "push, changed row": lambda: asyncio.run(push(new=False)),
        "publish": publish,
    }
    too_many = False
    for name, case in cases.items():
        calls = case()
        assert isinstance(calls, collections.Counter)
        total = calls.total()
        too_many |= total > LIMITS[name]
        print(f"{name:17} {total:4} calls, limit {LIMITS[name]}")
        if options.verbose:
            for (path, function), count in calls.items():
                print(f"    {count:3}  {path}  {function}")
    return int(too_many)


if __name__ == "__main__":
    sys.exit(main())
