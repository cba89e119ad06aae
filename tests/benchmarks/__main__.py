"""Measure the subscription and print ratios: ``python tests/benchmarks [--quick]``.

CPU time of the receiving process, two receivers compared in every round on the same
frames over loopback; medians and quartiles of the per-round ratios. The floor is also
compared with itself: a size where that is outside 0.85 to 1.15 was disturbed, and is
marked. A receiver that saw other rows than the floor ends the run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent

# rows: frames a run; many for small ones, because process_time has steps.
FRAMES = {1: 200, 10: 200, 100: 150, 1_000: 60, 10_000: 16, 50_000: 7}
GOALS = {
    ("few", 1): 2.0,
    ("few", 10): 2.0,
    ("few", 100): 2.0,
    ("few", 1_000): 0.8,
    ("few", 10_000): 0.6,
    ("few", 50_000): 0.5,
    ("none", 1_000): 0.6,
    ("none", 10_000): 0.4,
    ("none", 50_000): 0.35,
    ("all", 1_000): 4.5,
    ("all", 10_000): 4.5,
    ("all", 50_000): 4.5,
}
NAMES = {
    "few": "0.1 % of the rows changed",
    "none": "none changed",
    "all": "all changed",
}
TUTORIAL_SIZES = (1_000, 10_000)
TUTORIAL_GOAL = 80.0


@contextmanager
def server(rows: int, case: str, count: int, pace: float) -> Iterator[int]:
    command = [sys.executable, HERE / "server.py", rows, case, count, pace]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def receive(which: str, port: int, count: int, updates: int) -> list:
    """Run a receiver; once more if it was so late that two frames became one."""
    command = [sys.executable, HERE / "receivers.py", which, port, count]
    for _ in range(4):
        done = subprocess.run(
            list(map(str, command)), check=True, stdout=subprocess.PIPE, timeout=120
        )
        seen = json.loads(done.stdout)
        if seen[1] == updates or which != "library":
            return seen
    raise SystemExit(f"{seen[1]} updates of {updates}: the machine is too busy")


def pace_of(rows: int, case: str) -> float:
    return max(0.008, rows * (40e-6 if case == "all" else 12e-6))


def compare(rows: int, case: str, rounds: int) -> tuple[list[float], list[float]]:
    """Return the ratios library / floor, and floor / floor."""
    count = FRAMES[rows]
    updates = 2 if case == "none" else count
    ratios, itself = [], []
    with server(rows, case, count, pace_of(rows, case)) as port:
        for _ in range(rounds):
            floor = receive("floor", port, count, updates)
            ours = receive("library", port, count, updates)
            again = receive("floor", port, count, updates)
            if floor[2:] != ours[2:]:
                raise SystemExit(f"not the same rows: {floor[1:]} and {ours[1:]}")
            ratios.append(2 * ours[0] / (floor[0] + again[0]))
            itself.append(again[0] / floor[0])
    return ratios, itself


def compare_tutorial(rows: int, rounds: int) -> list[float]:
    """Return the ratios tutorial / library, per frame."""
    ratios, count = [], 8
    with server(rows, "few", count, rows * 150e-6) as port:
        for _ in range(rounds):
            ours = receive("library", port, count, count)
            theirs = receive("tutorial", port, count, count)
            if theirs[2:] != ours[2:]:
                raise SystemExit(f"not the same rows: {theirs[1:]} and {ours[1:]}")
            ratios.append(theirs[0] / ours[0])
    return ratios


def in_child(code: str) -> float:
    """Return what a snippet assigns to ``cost``, in a Python of its own."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nprint(cost)"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    return float(done.stdout)


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
OURS = 'ortege_watch.AsyncCubeClient("http://127.0.0.1", "t")'


def compare_start(rounds: int) -> tuple[list[float], list[float]]:
    """Return the ratios of importing us / httpx, and of a second client / httpx's."""
    imports, clients = [], []
    for _ in range(rounds):
        ours, theirs = IMPORT.format("ortege_watch"), IMPORT.format("httpx")
        imports.append(in_child(ours) / in_child(theirs))
        ours, theirs = SECOND.format(OURS), SECOND.format("httpx.Client()")
        clients.append(in_child(ours) / in_child(theirs))
    return imports, clients


def check() -> None:
    """See that every receiver sees the same rows; nothing is timed."""
    for case, name in NAMES.items():
        with server(50, case, 6, 0.05) as port:
            updates = 2 if case == "none" else 6
            floor = receive("floor", port, 6, updates)
            ours = receive("library", port, 6, updates)
            theirs = receive("tutorial", port, 6, updates)
        if not floor[2:] == ours[2:] == theirs[2:]:
            raise SystemExit(f"not the same rows: {floor} {ours} {theirs}")
        print(f"{name}: {floor[2]} rows, {ours[1]} updates, sum {floor[3]}")


def line(
    name: str, rows: int, ratios: list[float], goal: float | None, note: str
) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4)
    aim = "" if goal is None else f"{goal:g}"
    return f"{name:28} {rows:>6} {middle:>8.2f}  {low:>7.2f} .. {high:<7.2f} {aim:>6}  {note}"


def main() -> None:
    """Print every ratio beside its goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, small sizes")
    parser.add_argument("--check", action="store_true", help="compare rows, not times")
    options = parser.parse_args()
    if options.check:
        check()
        return
    rounds = 3 if options.quick else 7
    sizes = [10, 1_000] if options.quick else list(FRAMES)
    print("library / (websockets + orjson.loads), CPU time; smaller is better")
    print(f"{'':28} {'rows':>6} {'median':>8}  {'quartiles':^18} {'goal':>6}")
    for case, name in NAMES.items():
        for rows in sizes:
            ratios, itself = compare(rows, case, rounds)
            middle = statistics.median(itself)
            fine = 0.85 <= middle <= 1.15
            note = f"(floor / floor {middle:.2f}{'' if fine else ': DISTURBED'})"
            print(line(name, rows, ratios, GOALS.get((case, rows)), note), flush=True)
    print("\nstart-up, CPU time; smaller is better")
    imports, clients = compare_start(rounds)
    print(line("import, to import httpx", 0, imports, 0.05, ""))
    print(line("second client, to httpx's", 0, clients, 0.05, ""), flush=True)
    print("\nthe tutorial's stack / library, CPU time; larger is better")
    for rows in TUTORIAL_SIZES[: 1 if options.quick else 2]:
        ratios = compare_tutorial(rows, 2 if options.quick else 3)
        print(line(NAMES["few"], rows, ratios, TUTORIAL_GOAL, ""), flush=True)


if __name__ == "__main__":
    main()
