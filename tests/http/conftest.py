"""What the tests of this directory share."""

from __future__ import annotations

import sys
from pathlib import Path

# for loopback.py, and for peers.py and watching.py
for _name in ("http", "watch"):
    sys.path.insert(0, str(Path(__file__).parent.parent / _name))
