"""What the tests of the watch-bus share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for signed.py

from forks import Forks


@pytest.fixture
def forks() -> Iterator[Forks]:
    with Forks() as forks:
        yield forks
