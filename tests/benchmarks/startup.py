"""Importing the library, and making a client, to the same of httpx."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from comparing import quartiles
from tables import Plan, Record, Table, at_most, median, spread, text

GOAL = 0.05
IMPORT = (
    "import time; t = time.process_time(); import {}; cost = time.process_time() - t"
)
SECOND = """
import time, httpx, ortege_watch
first = {0}
t = time.process_time()
for _ in range(20): {0}
cost = time.process_time() - t
"""
COMPARED = {
    "`import ortege_watch`, to `import httpx`": (
        IMPORT.format("ortege_watch"),
        IMPORT.format("httpx"),
    ),
    "a second `AsyncCubeClient`, to `httpx.Client()`": (
        SECOND.format('ortege_watch.AsyncCubeClient("http://127.0.0.1", "t")'),
        SECOND.format("httpx.Client()"),
    ),
}


def _in_child(code: str) -> float:
    """Return what a snippet assigns to ``cost``, in a Python of its own."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nprint(cost)"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    return float(done.stdout)


def measure(plan: Plan) -> Iterator[Record]:
    for what, (ours, theirs) in COMPARED.items():
        ratios = [_in_child(ours) / _in_child(theirs) for _ in range(plan.rounds)]
        yield {"what": what, "ratio": quartiles(ratios), "goal": GOAL}


START = Table(
    "start",
    "Start-up: CPU time.",
    {"what": text("what"), "ratio": median, "quartiles": spread, "goal": at_most},
    measure,
)
