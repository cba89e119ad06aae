"""A minute of watches while tokens expire and the server restarts: nothing grows.

``python -m tests.faults.soak --minutes 60`` runs longer; see ``tests/faults``.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from harness.cube_server import TICK_SECONDS

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))  # for injection/

from injection.servers import RealServer
from injection.soak import run


def test_nothing_grows_and_nothing_is_lost(cube, postgres, generation, caplog):
    caplog.set_level(logging.CRITICAL)  # pytest keeps what is logged
    server = RealServer(generation.name, cube, postgres, tick=TICK_SECONDS)
    report = run(server, seconds=60)
    print(report)
    assert report.failures == []
    assert report.restarts >= 2
    assert report.tokens > 5 * report.restarts
    assert len(report.updates) == 5
    assert min(report.updates.values()) > 5
