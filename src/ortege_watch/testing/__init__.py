"""Servers and clocks for tests of code that uses this library.

:class:`FakeCube` is a Cube server on loopback that answers from rows which the test
sets, and misbehaves on command; :class:`ManualClock` moves only when told to. Install
the extra ``ortege-watch[testing]`` for them.
"""

from __future__ import annotations

from ortege_watch.testing._messages import HttpRequest
from ortege_watch.testing._table import Table
from ortege_watch.testing.clock import ManualClock
from ortege_watch.testing.fake_cube import FakeCube

__all__ = ["FakeCube", "HttpRequest", "ManualClock", "Table"]
