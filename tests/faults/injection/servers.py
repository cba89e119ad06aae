"""The servers behind the proxies, and the tables that the watches are about."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Literal, Protocol, Self

from ortege_watch import Dimension, Measure, Query
from ortege_watch.testing import FakeCube, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from harness.cube_server import CubeServer
    from harness.postgres import Database
    from injection.oracle import State

NAME = "stacks_contract_events"
KEY = Dimension(f"{NAME}.tx_hash")
CONTRACT = Dimension(f"{NAME}.contract_id")
AMOUNT = Measure(f"{NAME}.asset_amount", Decimal)


def rows_of(contract: str) -> Query:
    """Return the query for every row of a contract and its amount."""
    where = [CONTRACT.eq(contract)]
    return Query(measures=[AMOUNT], dimensions=[KEY], where=where)


class FastClock:
    """A clock that runs several times as fast as the system's.

    With it the library's limits of 10 and 20 s pass within a test. The time limits of
    httpx are not its.
    """

    def __init__(self, speed: float) -> None:
        self._speed = speed

    def now(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic() * self._speed

    async def sleep(self, seconds: float, /) -> None:
        """Wait so many of its seconds."""
        await asyncio.sleep(seconds / self._speed)


class Store(Protocol):
    """The rows of one contract; each call is one transaction."""

    def insert(self, rows: Mapping[str, Decimal]) -> None:
        """Insert rows."""
        ...

    def update(self, key: str, amount: Decimal) -> None:
        """Change the amount of a row."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Delete rows."""
        ...

    def rows(self) -> State:
        """Return all rows."""
        ...


class Server(Protocol):
    """A running server.

    Attributes:
        name: what it is, for reports.
        port: where it listens on loopback.
        speed: how fast the clock of its clients may run.
        tick: seconds between two runs of its subscriptions.
        seconds: how long the faults of a schedule last.
        patience: seconds within which every watch must have caught up.
        pace: seconds between two transactions of a writer.
    """

    name: str
    port: int
    speed: float
    tick: float
    seconds: float
    patience: float
    pace: float

    def token(self) -> str:
        """Return a token that it accepts."""
        ...

    def store(self, contract: str) -> Store:
        """Return the rows of a contract."""
        ...


class FakeServer:
    """A running :class:`FakeCube`, which ticks as a real server does."""

    speed = 20.0
    tick = 0.1
    seconds = 2.0
    # A connection that stays silent costs the watch in a thread 20 s.
    patience = 45.0
    pace = 0.02

    def __init__(self, generation: Literal["classic", "strict"]) -> None:
        self.name = f"fake {generation}"
        table = Table(
            NAME,
            measures={"asset_amount": "sum"},
            dimensions={"tx_hash": "string", "contract_id": "string"},
        )
        self._fake = FakeCube(generation, tables=[table], tick=self.tick, push="tick")
        self._table = table
        self.port = 0

    def __enter__(self) -> Self:
        self._fake.start()
        self.port = self._fake.port
        return self

    def __exit__(self, *error: object) -> None:
        self._fake.stop()

    def token(self) -> str:
        """Return a token that it accepts."""
        return self._fake.token()

    def store(self, contract: str) -> Store:
        """Return the rows of a contract."""
        return _FakeStore(self._table, contract)


class _FakeStore:
    def __init__(self, table: Table, contract: str) -> None:
        self._table = table
        self._contract = contract

    def insert(self, rows: Mapping[str, Decimal]) -> None:
        self._table.insert(
            {"tx_hash": key, "contract_id": self._contract, "asset_amount": amount}
            for key, amount in rows.items()
        )

    def update(self, key: str, amount: Decimal) -> None:
        where = {"tx_hash": key, "contract_id": self._contract}
        assert self._table.update(where, {"asset_amount": amount}) == 1

    def delete(self, keys: Iterable[str]) -> None:
        gone = set(keys)
        count = self._table.delete(
            lambda row: row["contract_id"] == self._contract and row["tx_hash"] in gone
        )
        assert count == len(gone)

    def rows(self) -> State:
        return {
            str(row["tx_hash"]): Decimal(str(row["asset_amount"]))
            for row in self._table.rows
            if row["contract_id"] == self._contract
        }


class RealServer:
    """A running Cube server on PostgreSQL.

    Args:
        name: its generation, for reports.
        cube: the server.
        database: its database.
        tick: seconds between two runs of its subscriptions.
    """

    # A snapshot from an old cache is held for 30 s of the clients' clock: 10 s.
    speed = 3.0
    seconds = 3.0
    patience = 60.0
    pace = 0.1

    def __init__(
        self, name: str, cube: CubeServer, database: Database, *, tick: float
    ) -> None:
        self.name = name
        self.tick = tick
        self.port = int(cube.host.rpartition(":")[2])
        self.cube = cube
        self._database = database

    def token(self) -> str:
        """Return a token that it accepts."""
        return self.cube.token()

    def store(self, contract: str) -> Store:
        """Return the rows of a contract."""
        return _DatabaseStore(self._database, contract)


class _DatabaseStore:
    def __init__(self, database: Database, contract: str) -> None:
        self._database = database
        self._contract = contract

    def insert(self, rows: Mapping[str, Decimal]) -> None:
        values = ", ".join(
            f"('{key}', '{self._contract}', {amount}, 1, now())"
            for key, amount in rows.items()
        )
        self._database.execute(
            f"INSERT INTO {NAME} (tx_hash, contract_id, amount, block_height, tx_date)"
            f" VALUES {values}"
        )

    def update(self, key: str, amount: Decimal) -> None:
        self._database.execute(
            f"UPDATE {NAME} SET amount = {amount} WHERE {self._where([key])}"
        )

    def delete(self, keys: Iterable[str]) -> None:
        self._database.execute(f"DELETE FROM {NAME} WHERE {self._where(keys)}")

    def rows(self) -> State:
        found = self._database.rows(
            f"SELECT tx_hash, amount FROM {NAME} WHERE contract_id = '{self._contract}'"
        )
        return {key: Decimal(amount) for key, amount in found}

    def _where(self, keys: Iterable[str]) -> str:
        listed = ", ".join(f"'{key}'" for key in keys)
        return f"contract_id = '{self._contract}' AND tx_hash IN ({listed})"
