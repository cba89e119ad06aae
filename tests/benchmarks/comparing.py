"""Comparing programs in rounds: what a round is, and when it counts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from processes import Failed, Outcome, Program

UNDISTURBED = (0.85, 1.15)
"""The ratio of the baseline to itself in a round that counts."""


@dataclass
class Comparison:
    """Several programs that were run alternately on the same answers.

    Attributes:
        baseline: the name of the program that the others are compared with.
        rounds: the outcomes of each round that counts, by the program's name.
        again: the baseline's second outcome in each of them.
        disturbed: too few rounds were undisturbed, so all of them count.
    """

    baseline: str
    rounds: list[Mapping[str, Outcome]] = field(default_factory=list)
    again: list[Outcome] = field(default_factory=list)
    disturbed: bool = False

    def add(self, outcomes: Mapping[str, Outcome], again: Outcome) -> None:
        self.rounds.append(outcomes)
        self.again.append(again)

    def of(self, name: str) -> list[Outcome]:
        """Return a program's outcomes."""
        return [each[name] for each in self.rounds]

    def ratios(self, name: str) -> list[float]:
        """Return a program's CPU time, relative to the baseline's, for each round."""
        return [
            2 * outcome.cpu / (baseline.cpu + again.cpu)
            for outcome, baseline, again in zip(
                self.of(name), self.of(self.baseline), self.again, strict=True
            )
        ]

    @property
    def itself(self) -> list[float]:
        """The ratios of the baseline to itself, for each round."""
        return [
            again.cpu / baseline.cpu
            for baseline, again in zip(self.of(self.baseline), self.again, strict=True)
        ]


def compare(
    programs: Mapping[str, Program],
    run: Callable[[Program], Outcome],
    rounds: int,
    *,
    updates: int | None = None,
) -> Comparison:
    """Run the programs until ``rounds`` undisturbed rounds have passed.

    The first program is the baseline, and runs once more at the end of each round. A
    round where its two CPU times differ too much was disturbed, and is repeated: at
    most three times as many rounds are run. If too few were undisturbed, all count.

    Args:
        programs: the programs by name.
        run: runs one of them.
        rounds: how many rounds to take.
        updates: how many updates the program "library" must see. A round where two
            became one, because the library was late, never counts.

    Raises:
        Failed: the programs did not see the same rows, or no round counts.
    """
    baseline, low, high = next(iter(programs)), *UNDISTURBED
    quiet, complete = Comparison(baseline), Comparison(baseline, disturbed=True)
    for _ in range(3 * rounds):
        outcomes = {name: run(program) for name, program in programs.items()}
        again = run(programs[baseline])
        check_same(outcomes)
        if updates is not None and len(outcomes["library"].seen) != updates:
            continue
        complete.add(outcomes, again)
        if low <= again.cpu / outcomes[baseline].cpu <= high:
            quiet.add(outcomes, again)
            if len(quiet.rounds) == rounds:
                return quiet
    if not complete.rounds:
        raise Failed(f"{updates} updates were due, and fewer came: the machine is busy")
    return complete


def check_same(outcomes: Mapping[str, Outcome]) -> None:
    """Check that all programs saw the same number of rows, and the same amounts.

    Raises:
        Failed: they did not.
    """
    if len({outcome.content for outcome in outcomes.values()}) > 1:
        seen = {name: outcome.content for name, outcome in outcomes.items()}
        raise Failed(f"not the same rows: {seen}")


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    if len(values) == 1:
        values = values * 2
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
