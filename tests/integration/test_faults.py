"""Watches of a real server behind proxies with random faults; see ``tests/faults``.

A failing trial is repeated with
``python -m tests.faults --server GENERATION --seed SEED --trials 1``.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

import pytest
from harness.cube_server import TICK_SECONDS

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))  # for injection/

from injection.servers import RealServer
from injection.trial import run

TRIALS = 12
# CI runs the same schedules each time.
SEED = 100 if os.environ.get("CI") else secrets.randbelow(10**6)


@pytest.mark.parametrize("number", range(TRIALS))
def test_nothing_is_lost_repeated_or_left_over(cube, postgres, generation, number):
    server = RealServer(generation.name, cube, postgres, tick=TICK_SECONDS)
    print(f"seed {SEED + number}")
    report = run(server, SEED + number)
    print(report)
    assert report.failures == []
    assert len(report.schedules) == 5
    assert all(report.updates.values())
    assert report.written["inserted"] > 10
    assert report.resumed > 0
    assert report.effects.total() > 5
