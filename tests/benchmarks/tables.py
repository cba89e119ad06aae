"""The tables of figures: as records in a JSON file, and as Markdown for the docs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]
"""One row of a table, as it is in the JSON file."""


@dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes:
        quick: small sizes and one round.
        rounds: how many undisturbed rounds of each comparison.
        sleep: for how many seconds a loop sleeps while updates arrive.
    """

    quick: bool
    rounds: int
    sleep: int


Columns = Mapping[str, Callable[[Record], str]]
"""How a record is shown in each column, by the column's heading."""


@dataclass(frozen=True)
class Table:
    """A table of figures.

    Attributes:
        name: its key in the JSON file.
        caption: what is compared with what.
        columns: its columns.
        measure: yields the records. A record with only ``skipped`` says why others
            are missing.
        details: the caption and the columns of a second table of the same records.
    """

    name: str
    caption: str
    columns: Columns
    measure: Callable[[Plan], Iterator[Record]]
    details: tuple[str, Columns] | None = None

    def lines(self, records: Iterable[Record]) -> Iterator[str]:
        """Yield the lines of Markdown, each as soon as its record is there."""
        taken = []
        yield from _head(self.caption, self.columns)
        for record in records:
            taken.append(record)
            yield _row(record, self.columns)
        if self.details is not None:
            caption, columns = self.details
            yield from _head(caption, columns)
            yield from (_row(record, columns) for record in taken)


def _head(caption: str, columns: Columns) -> list[str]:
    return [f"\n{caption}\n", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]


def _row(record: Record, columns: Columns) -> str:
    if "skipped" in record:
        return f"| skipped: {record['skipped']} |"
    return f"| {' | '.join(show(record) for show in columns.values())} |"


def text(key: str) -> Callable[[Record], str]:
    """Return a column of strings."""
    return lambda record: record[key]


def count(key: str) -> Callable[[Record], str]:
    """Return a column of integers."""
    return lambda record: f"{record[key]:,}"


def number(key: str, digits: int = 2) -> Callable[[Record], str]:
    """Return a column of numbers; of a list, all of them, with a slash between."""

    def show(record: Record) -> str:
        value = record[key]
        values: Sequence[float] = value if isinstance(value, list | tuple) else [value]
        return " / ".join(f"{each:,.{digits}f}" for each in values)

    return show


def median(record: Record) -> str:
    """Show the median of the quartiles ``ratio``, with the digits that count."""
    return _ratio(record["ratio"][1])


def spread(record: Record) -> str:
    """Show the lower and the upper quartile of ``ratio``."""
    low, _, high = record["ratio"]
    return f"{_ratio(low)} to {_ratio(high)}"


def _ratio(value: float) -> str:
    return (
        f"{value:.0f}"
        if value >= 20
        else f"{value:.3f}"
        if value < 0.1
        else f"{value:.2f}"
    )


def at_most(record: Record) -> str:
    """Show a goal, and whether it was missed."""
    if record["goal"] is None:
        return ""
    met = record["ratio"][1] <= record["goal"]
    return f"≤ {record['goal']:g}{'' if met else ' (missed)'}"


def at_least(record: Record) -> str:
    """Show a goal that is a lower limit, and whether it was missed."""
    met = record["ratio"][1] >= record["goal"]
    return f"≥ {record['goal']:g}{'' if met else ' (missed)'}"


def itself(record: Record) -> str:
    """Show the ratio of the baseline to itself, and whether it was disturbed."""
    mark = " (disturbed)" if record["disturbed"] else ""
    return f"{record['itself']:.2f}{mark}"
