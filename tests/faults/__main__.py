"""Run random schedules of faults: ``python -m tests.faults --trials 20 --seed 1``.

A trial has one schedule for each of five watches. The last lines are the figures of all
trials; the exit status is 1 if one of them failed.
"""

from __future__ import annotations

import argparse
import logging
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from injection.real import real_server
from injection.servers import FakeServer, Server
from injection.trial import Report, run, summary

SERVERS = ("fake", "fake-classic", "fake-strict", "classic", "strict")


@contextmanager
def running(name: str) -> Iterator[list[Server]]:
    """Start the servers that a name stands for."""
    if name in {"classic", "strict"}:
        with real_server(name) as server:
            yield [server]
        return
    with FakeServer("classic") as classic, FakeServer("strict") as strict:
        chosen = {"fake": [classic, strict], "fake-classic": [classic]}
        yield [*chosen.get(name, [strict])]


def main() -> int:
    """Run the trials and print what came of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--trials", type=int, default=10, help="for each server")
    parser.add_argument("--minutes", type=float, default=1e6, help="at most so many")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--server", choices=SERVERS, default="fake")
    parser.add_argument("--log", action="store_true", help="show the library's log")
    chosen = parser.parse_args()
    level = logging.DEBUG if chosen.log else logging.CRITICAL
    logging.basicConfig(format="%(relativeCreated)d %(message)s", level=level)
    until = time.monotonic() + 60 * chosen.minutes
    print(f"{chosen.server}, seed {chosen.seed}", flush=True)
    reports: list[Report] = []
    with running(chosen.server) as servers:
        for seed in range(chosen.seed, chosen.seed + chosen.trials):
            for server in servers:
                if time.monotonic() < until:
                    reports.append(run(server, seed))
                    if reports[-1].failures:
                        print(reports[-1], flush=True)
    print(summary(reports))
    return any(report.failures for report in reports)


if __name__ == "__main__":
    sys.exit(main())
