"""Servers and a clock for tests of code that uses this library.

:class:`FakeCube` is a Cube server on loopback that answers from rows which the test
sets, and misbehaves on command; :class:`FakeProvider` and :class:`FakeWatchBus` are the
two sides of the watch-bus; :class:`ManualClock` moves only when a test moves it. They
need the extra ``ortege-watch[testing]``.
"""

from __future__ import annotations

from ortege_watch.testing._cube.table import Table
from ortege_watch.testing._messages import HttpRequest
from ortege_watch.testing.clock import ManualClock
from ortege_watch.testing.cube import FakeCube
from ortege_watch.testing.watchbus import FakeProvider, FakeWatchBus

__all__ = [
    "FakeCube",
    "FakeProvider",
    "FakeWatchBus",
    "HttpRequest",
    "ManualClock",
    "Table",
]


def __dir__() -> list[str]:
    return __all__
