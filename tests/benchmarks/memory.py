"""The memory that a subscription needs at its peak, in frames that were sent.

What is resident before counts from when each program has received one row through a
subscription of its own. Then it subscribes to many rows. The library's loop reads two
values of each row that differs from the snapshot before, and no row of the first one.
The library's last answer is read as a whole after the peak was recorded.
"""

from __future__ import annotations

from collections.abc import Iterator

from comparing import quartiles
from processes import Outcome, PushServer, receiver
from receivers import BEFORE_SLEEP
from tables import Plan, Record, Table, at_most, count, median, spread, text

PUSHES = 20
PEAK_GOAL = 2.2
GROWTH_GOAL = 1.0
PER_SECOND = 10


def _record(rows: int, what: str, ratios: list[float], goal: float | None) -> Record:
    return {"rows": rows, "what": what, "ratio": quartiles(ratios), "goal": goal}


def measure(plan: Plan) -> Iterator[Record]:
    rows = 10_000 if plan.quick else 50_000
    rounds = 1 if plan.quick else 3
    outcomes: dict[str, list[Outcome]] = {"library": [], "floor": []}
    with PushServer.start(rows, "few", 1 + PUSHES, rows * 12e-6) as server:
        for _ in range(rounds):
            for name, some in outcomes.items():
                some.append(server.run(receiver(name), "--memory"))
    for name, goal in {"library": PEAK_GOAL, "floor": None}.items():
        who = "library" if name == "library" else "baseline, default form"
        some = outcomes[name]
        first = [each.first_peak / each.bytes for each in some]
        yield _record(rows, f"{who}: first snapshot", first, goal)
        later = [each.peak / each.bytes for each in some]
        yield _record(rows, f"{who}: {PUSHES} pushes, 0.1 % changed", later, goal)

    rows = 10_000
    answers = BEFORE_SLEEP + PER_SECOND * (plan.sleep + 2)
    with PushServer.start(rows, "few", answers, 1 / PER_SECOND) as server:
        slept = [
            server.run(receiver("sleeper"), count=plan.sleep) for _ in range(rounds)
        ]
    growth = [each.growth / each.bytes for each in slept]
    missed = min(each.missed for each in slept)
    what = f"growth while a loop sleeps {plan.sleep} s and {missed} pushes arrive"
    yield _record(rows, what, growth, GROWTH_GOAL)


MEMORY = Table(
    "memory",
    "The peak of the resident memory above what was resident before the subscription,"
    " in bytes of a frame that was sent.",
    {
        "rows": count("rows"),
        "what": text("what"),
        "frames": median,
        "quartiles": spread,
        "goal": at_most,
    },
    measure,
)
