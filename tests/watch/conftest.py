"""What the tests of the subscription's shells share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ortege_watch.testing import ManualClock

sys.path.insert(0, str(Path(__file__).parent))  # for watching.py


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()
