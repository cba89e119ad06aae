"""Compare random queries: ``python -m tests.integration.differential --queries 1000``.

The servers are started here. The last lines are the figures; the exit status is 1 if a
difference is unknown. ``--first`` repeats a query of a series by its number.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for harness/

from harness.cube_server import CubeServer
from harness.generations import GENERATIONS, PROJECT, Generation
from harness.postgres import Postgres

from differential.comparison import comparison


def run(
    generation: Generation, postgres: Postgres, *, seed: int, numbers: range
) -> int:
    """Compare the queries with one generation; return how many unknown ones differ."""
    database = postgres.create_database(generation.name)
    database.execute((PROJECT / "tables.sql").read_text(encoding="utf-8"))
    cube = CubeServer(generation, database, websockets=False)
    figures: Counter[str] = Counter()
    try:
        cube.start()
        with comparison(cube, database) as compared:
            for number in numbers:
                verdict = compared.compare(seed, number)
                figures[verdict.kind] += 1
                if verdict.is_unknown:
                    print(verdict, flush=True)
    finally:
        cube.close()
    print(
        f"{generation.name} {generation.version}, seed {seed}: {len(numbers)} queries"
    )
    for kind, count in sorted(figures.items()):
        print(f"  {kind}: {count}", flush=True)
    return figures["UNKNOWN"]


def main() -> int:
    """Compare with each generation."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.integration.differential", description=__doc__
    )
    parser.add_argument("--queries", type=int, default=1000, help="for each server")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first query"
    )
    names = [each.name for each in GENERATIONS]
    parser.add_argument("--server", choices=names, help="both by default")
    chosen = parser.parse_args()
    postgres = Postgres()
    try:
        postgres.start()
        unknown = sum(
            run(
                generation,
                postgres,
                seed=chosen.seed,
                numbers=range(chosen.first, chosen.first + chosen.queries),
            )
            for generation in GENERATIONS
            if chosen.server in {None, generation.name}
        )
    finally:
        postgres.stop()
    return unknown > 0


if __name__ == "__main__":
    sys.exit(main())
