"""A query over the fake server's events, and rows for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from ortege_watch import AsyncCubeClient, Dimension, Measure, Query
from ortege_watch.testing import FakeCube

EVENTS = "stacks_contract_events"


class Events:
    amount = Measure(f"{EVENTS}.asset_amount", Decimal)
    function = Dimension(f"{EVENTS}.function_name")
    sender = Dimension(f"{EVENTS}.sender_address")


QUERY = Query(measures=[Events.amount], dimensions=[Events.sender])
FUNCTIONS = Query(measures=[Events.amount], dimensions=[Events.function])


class States(list):
    """Every state that ``on_state`` said, and a way to wait for one."""

    def __init__(self):
        super().__init__()
        self._said = asyncio.Event()

    def __call__(self, state) -> None:
        self.append(str(state))
        self._said.set()

    async def reach(self, state: str, *, times: int = 1) -> None:
        async with asyncio.timeout(10):
            while self.count(state) < times:
                self._said.clear()
                await self._said.wait()


class Watching:
    """A fake server, a client, its subscription, and shortcuts."""

    def __init__(self, cube, client, updates, states):
        self.cube = cube
        self.client = client
        self.updates = updates
        self.states = states

    def insert(self, *senders: str, amount: int = 1, function: str = "borrow") -> None:
        self.cube.tables[EVENTS].insert(
            [
                {
                    "sender_address": sender,
                    "function_name": function,
                    "asset_amount": Decimal(amount),
                }
                for sender in senders
            ]
        )

    async def next(self):
        async with asyncio.timeout(10):
            return await anext(self.updates)

    async def wait_out(self, clock) -> None:
        """Move the clock until the back-off delay has passed, and no further."""
        said = len(self.states)
        while len(self.states) == said:
            await clock.advance(clock.sleepers[0])

    async def hear(self, seconds: float) -> None:
        """Do something else until the server has been heard for so long."""
        until = datetime.now(UTC) + timedelta(seconds=seconds)
        async with asyncio.timeout(10):
            while self.updates.last_seen < until:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def watching(
    *queries: Query, cube: FakeCube | None = None, token=None, clock=None, **options
) -> AsyncIterator[Watching]:
    cube = cube or FakeCube()
    with cube:
        client = AsyncCubeClient(cube.url, token or cube.token(), clock=clock)
        states = States()
        queries = queries or (QUERY,)
        async with (
            client,
            client.watch(*queries, on_state=states, **options) as updates,
        ):
            yield Watching(cube, client, updates, states)


def senders(rows) -> list[str]:
    return sorted(row[Events.sender] for row in rows)
