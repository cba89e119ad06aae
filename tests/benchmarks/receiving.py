"""Receiving pushes: the library, the least any client can do, and other clients."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from comparing import Comparison, compare, quartiles
from peers import Missing, javascript
from processes import Outcome, Program, PushServer, receiver
from tables import (
    Plan,
    Record,
    Table,
    at_least,
    at_most,
    count,
    itself,
    median,
    number,
    spread,
    text,
)

# rows: answers of a run; many small ones, for a few milliseconds of CPU time at least
ANSWERS = {1: 200, 10: 200, 100: 150, 1_000: 60, 10_000: 16, 50_000: 9}
CASES = {"few": "0.1 %", "none": "none", "all": "all"}
GOALS = {
    "few": {1: 1.5, 10: 1.5, 100: 1.5, 1_000: 0.5, 10_000: 0.35, 50_000: 0.3},
    "none": {1: 0.9, 10: 0.9, 100: 0.9, 1_000: 0.35, 10_000: 0.25, 50_000: 0.2},
    "all": {1: 1.5, 10: 1.5, 100: 2.0, 1_000: 2.0, 10_000: 2.0, 50_000: 2.0},
}
TUTORIAL_GOAL = 100.0
JAVASCRIPT_GOAL = 0.15


def _pace(rows: int, case: str) -> float:
    """Return the seconds between pushes, so that the slower program keeps up."""
    return max(0.008, rows * (40e-6 if case == "all" else 12e-6))


def _answers(plan: Plan, rows: int) -> int:
    return ANSWERS[rows] // 2 if plan.quick else ANSWERS[rows]


def _compared(comparison: Comparison, ratios: list[float]) -> Record:
    return {
        "ratio": quartiles(ratios),
        "itself": statistics.median(comparison.itself),
        "disturbed": comparison.disturbed,
    }


def _without_last(server: PushServer, program: Program) -> Outcome:
    return server.run(program, "--without-last")


def _faults(outcomes: list[Outcome], answers: int) -> float:
    return statistics.median(each.faults for each in outcomes) / answers


def _delays(outcomes: list[Outcome]) -> list[float]:
    """Return p50 and p99 in milliseconds, without the first answer of each run."""
    delays = [1000 * delay for each in outcomes for delay in each.latencies[1:]]
    percentiles = statistics.quantiles(delays, n=100, method="inclusive")
    return [percentiles[49], percentiles[98]]


def measure(plan: Plan) -> Iterator[Record]:
    programs = {name: receiver(name) for name in ("floor", "library")}
    for case, name in CASES.items():
        for rows in ANSWERS:
            if plan.quick and (rows, case) != (10, "few") and rows != 1_000:
                continue
            answers = _answers(plan, rows)
            with PushServer.start(rows, case, answers, _pace(rows, case)) as server:
                run, updates, counted = server.run, answers, answers - 1
                if case == "none":
                    run = partial(_without_last, server)
                    updates, counted = 2, answers - 2
                result = compare(programs, run, plan.rounds, updates=updates)
            floor, library = result.of("floor"), result.of("library")
            yield {
                "rows": rows,
                "case": name,
                **_compared(result, result.ratios("library")),
                "goal": GOALS[case][rows],
                "faults": [_faults(floor, counted), _faults(library, counted)],
                "floor_delay": _delays(floor),
                "delay": _delays(library) if case != "none" else [],
            }


def measure_tutorial(plan: Plan) -> Iterator[Record]:
    programs = {name: receiver(name) for name in ("library", "tutorial")}
    for rows in (1_000,) if plan.quick else (1_000, 10_000):
        # The tutorial's stack is later than that, which does not change its CPU time.
        answers, rounds = _answers(plan, rows), min(plan.rounds, 3)
        with PushServer.start(rows, "few", answers, _pace(rows, "few")) as server:
            result = compare(programs, server.run, rounds, updates=answers)
        ratios = result.ratios("tutorial")
        yield {"rows": rows, **_compared(result, ratios), "goal": TUTORIAL_GOAL}


def measure_javascript(plan: Plan) -> Iterator[Record]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            client = javascript(Path(folder))
        except Missing as error:
            yield {"skipped": str(error)}
            return
        programs: dict[str, Program] = {
            "javascript": client,
            "library": receiver("library"),
        }
        for rows in (1_000,) if plan.quick else (1_000, 10_000):
            answers = _answers(plan, rows)
            with PushServer.start(rows, "few", answers, _pace(rows, "few")) as server:
                result = compare(programs, server.run, plan.rounds, updates=answers)
            ratios = result.ratios("library")
            yield {"rows": rows, **_compared(result, ratios), "goal": JAVASCRIPT_GOAL}


RATIO = {"ratio": median, "quartiles": spread}
RECEIVING = Table(
    "receiving",
    "The library, to websockets and orjson.loads: CPU time.",
    {
        "rows": count("rows"),
        "what changed": text("case"),
        **RATIO,
        "goal": at_most,
        "baseline to itself": itself,
    },
    measure,
    (
        "Minor page faults a frame; p50 / p99 of the wall time from sending to your code.",
        {
            "rows": count("rows"),
            "what changed": text("case"),
            "faults, baseline / library": number("faults", 0),
            "baseline, ms": number("floor_delay", 1),
            "library, ms": number("delay", 1),
        },
    ),
)
TUTORIAL = Table(
    "tutorial",
    "The tutorial's stack, to the library: CPU time, 0.1 % of the rows changed.",
    {"rows": count("rows"), **RATIO, "goal": at_least, "library to itself": itself},
    measure_tutorial,
)
JAVASCRIPT = Table(
    "javascript",
    "The library, to Cube's JavaScript client: CPU time, 0.1 % of the rows changed.",
    {"rows": count("rows"), **RATIO, "goal": at_most, "client to itself": itself},
    measure_javascript,
)
