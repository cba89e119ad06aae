"""A real Cube server for the command line; in pytest, fixtures start it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from injection.servers import RealServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def real_server(name: str) -> Iterator[RealServer]:
    """Start PostgreSQL and a Cube server of this generation."""
    from harness.cube_server import TICK_SECONDS, CubeServer
    from harness.generations import GENERATIONS, PROJECT
    from harness.postgres import Postgres

    [generation] = [each for each in GENERATIONS if each.name == name]
    postgres = Postgres()
    try:
        postgres.start()
        database = postgres.create_database(name)
        database.execute((PROJECT / "tables.sql").read_text(encoding="utf-8"))
        cube = CubeServer(generation, database)
        try:
            cube.start()
            yield RealServer(name, cube, database, tick=TICK_SECONDS)
        finally:
            cube.close()
    finally:
        postgres.stop()
