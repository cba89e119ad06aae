"""What every test relies on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# A developer's own server and token stay out of the tests.
for _name in ("ORTEGE_URL", "ORTEGE_TOKEN"):
    os.environ.pop(_name, None)

# The machine's speed must not decide whether a test passes.
settings.register_profile(
    "here", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
# CI tries the same examples each time: a red run can be repeated.
settings.register_profile("ci", settings.get_profile("here"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run async tests on asyncio: the library is built on it."""
    return "asyncio"


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt, also where it is ignored from the start.

    Shells start background jobs with SIGINT ignored, and so do nohup and some CI.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
