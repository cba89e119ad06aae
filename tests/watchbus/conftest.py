"""What the tests of the watch-bus share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for signed.py

from driving import UnixClock
from forks import Forks


@pytest.fixture
def clock() -> UnixClock:
    return UnixClock()


@pytest.fixture(scope="session")
def parent_of_forks() -> Iterator[Forks]:
    with Forks() as forks:
        yield forks


@pytest.fixture
def forks(parent_of_forks: Forks) -> Iterator[Forks]:
    """Start processes, which end with the test."""
    yield parent_of_forks
    parent_of_forks.end()
