"""The benchmark compares like with like: every receiver sees the same rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_every_receiver_sees_the_same_rows():
    command = [sys.executable, str(Path(__file__).parent), "--check"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0].startswith("0.1 % of the rows changed: 50 rows")
