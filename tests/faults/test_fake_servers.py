"""Watches of a fake server of each generation behind proxies with random faults.

A failing trial is repeated with ``python -m tests.faults --seed SEED --trials 1``.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading

import pytest
from injection.leaks import leaks
from injection.servers import FakeServer
from injection.trial import Report, run

TRIALS = 3
# CI runs the same schedules each time.
SEED = 1 if os.environ.get("CI") else secrets.randbelow(10**6)


def check(report: Report) -> None:
    """Fail with the whole report if anything went wrong, or if nothing happened."""
    print(report)
    assert report.failures == []
    assert len(report.schedules) == 5
    assert all(report.updates.values())
    assert report.written["inserted"] > 10
    assert report.effects.total() > 5


@pytest.mark.parametrize("generation", ["classic", "strict"])
def test_nothing_is_lost_repeated_or_left_over(generation):
    reports = []
    with FakeServer(generation) as server:
        for seed in range(SEED, SEED + TRIALS):
            print(f"seed {seed}")
            reports.append(run(server, seed))
            check(reports[-1])
    assert sum(report.resumed for report in reports) > 5


def test_a_thread_and_a_socket_that_are_left_are_found():
    stop = threading.Event()
    with leaks(patience=0.05) as found:
        thread = threading.Thread(target=stop.wait, name="forgotten")
        thread.start()
        left, other = socket.socketpair()
    stop.set()
    thread.join()
    left.close()
    other.close()
    assert found[0] == "thread forgotten"
    assert len(found) == (3 if sys.platform == "linux" else 1)
