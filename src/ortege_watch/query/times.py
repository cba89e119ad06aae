"""Time dimensions, and the selections of a query that they make."""

from __future__ import annotations

import builtins
import re
from collections.abc import Sequence
from datetime import date, datetime, tzinfo
from typing import Any, ClassVar

import attrs

from ortege_watch.errors import QueryError
from ortege_watch.query.filters import Condition
from ortege_watch.query.members import Column, Orderable
from ortege_watch.query.ranges import Range, check_range, range_to_wire
from ortege_watch.query.values import shown

__all__ = ["GRANULARITIES", "TimeDimension", "TimeSelection"]

GRANULARITIES = (
    "second",
    "minute",
    "hour",
    "day",
    "week",
    "month",
    "quarter",
    "year",
)


class TimeDimension(Column[datetime]):
    """Name a dimension of time.

    In its filters a ``date`` is the whole day in the query's zone, an aware
    ``datetime`` an instant. Ranges include both ends.
    """

    __slots__ = ()
    kind = "dimension"

    def __init__(self, name: str) -> None:
        self._set(name, datetime)

    def in_range(self, start: date, end: date) -> Condition:
        """Keep rows from ``start`` to ``end``, both included."""
        return Condition(self, "inDateRange", (start, end))

    def not_in_range(self, start: date, end: date) -> Condition:
        """Keep rows before ``start`` and after ``end``."""
        return Condition(self, "notInDateRange", (start, end))

    def on(self, day: date) -> Condition:
        """Keep the rows of one day."""
        return Condition(self, "onTheDate", (day,))

    def before(self, moment: date) -> Condition:
        """Keep rows before an instant, or before a day has begun."""
        return Condition(self, "beforeDate", (moment,))

    def on_or_before(self, moment: date) -> Condition:
        """Keep rows up to an instant, or up to the end of a day."""
        return Condition(self, "beforeOrOnDate", (moment,))

    def after(self, moment: date) -> Condition:
        """Keep rows after an instant, or after a day has ended."""
        return Condition(self, "afterDate", (moment,))

    def on_or_after(self, moment: date) -> Condition:
        """Keep rows from an instant on, or from the beginning of a day on."""
        return Condition(self, "afterOrOnDate", (moment,))

    def by(self, granularity: str) -> TimeSelection:
        """Group by time: second, minute, hour, day, week, month, quarter, year.

        Weeks start on Monday. A name of the cube's own is accepted from Cube 1.0 on.
        """
        return TimeSelection(self, granularity=granularity)

    def over(self, range: str | date | tuple[date, date]) -> TimeSelection:
        """Restrict to a range: words, a day, or a pair of moments, both included.

        Words are ``today``, ``yesterday``, ``tomorrow``, ``this week``, ``last month``,
        ``next quarter``, ``last 7 days``, ``from 7 days ago to now`` and a day alone.
        """
        return TimeSelection(self, range=range)

    def compare(
        self, ranges: Sequence[str | date | tuple[date, date]]
    ) -> TimeSelection:
        """Ask for one result for each of ``ranges``, to be loaded by ``compare``."""
        return TimeSelection(self, compared=ranges)

    def __repr__(self) -> str:
        return f"TimeDimension({self.name!r})"


def _granularity(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not re.fullmatch("[a-zA-Z0-9_]{1,128}", value):
        raise QueryError(
            f"by: {shown(value)} is no granularity; use {', '.join(GRANULARITIES)} or a "
            "name of the cube's own"
        )
    likely = value.lower().removesuffix("s")
    if likely in GRANULARITIES and value not in GRANULARITIES:
        raise QueryError(f"by: {shown(value)} is no granularity; use {likely!r}")
    return value


def _compared(value: Any) -> tuple[Range, ...] | None:
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        message = f'compare: give a list of ranges, such as ["this month"], not {shown(value)}'
        raise QueryError(message)
    return tuple(check_range(item, f"compare[{i}]") for i, item in enumerate(value))


def _range(value: Any) -> Range | None:
    return None if value is None else check_range(value, "over")


@attrs.frozen(repr=False)
class TimeSelection(Orderable):
    """Select a time dimension: grouped by a granularity, restricted to a range, or both.

    Attributes:
        dimension: the time dimension.
        granularity: what rows are grouped by; ``None``: no column, a filter alone.
        range: words, or a pair of moments; ``None`` is all of time.
        compared: the ranges of a comparison, instead of ``range``.

    Raises:
        QueryError: a range together with a comparison, a malformed one of these.
    """

    type: ClassVar[builtins.type[datetime]] = datetime

    dimension: TimeDimension
    granularity: str | None = attrs.field(
        default=None, kw_only=True, converter=_granularity
    )
    range: Range | None = attrs.field(default=None, kw_only=True, converter=_range)
    compared: tuple[Range, ...] | None = attrs.field(
        default=None, kw_only=True, converter=_compared
    )

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.dimension, TimeDimension):
            message = f"{shown(self.dimension)} is no TimeDimension"
            raise QueryError(message)
        if self.range is not None and self.compared is not None:
            raise QueryError(
                f"{self.dimension.name}: takes .over(range) or .compare(ranges), not both"
            )

    @property
    def name(self) -> str:
        """Name the column of the result: ``cube.member.day``, or ``cube.member``."""
        suffix = f".{self.granularity}" if self.granularity else ""
        return self.dimension.name + suffix

    def by(self, granularity: str) -> TimeSelection:
        """Group by ``granularity``, see ``TimeDimension.by``."""
        return attrs.evolve(self, granularity=granularity)

    def over(self, range: str | date | tuple[date, date]) -> TimeSelection:
        """Restrict to ``range``, see ``TimeDimension.over``."""
        return attrs.evolve(self, range=range)

    def compare(
        self, ranges: Sequence[str | date | tuple[date, date]]
    ) -> TimeSelection:
        """Ask for one result for each of ``ranges``, see ``TimeDimension.compare``."""
        return attrs.evolve(self, compared=ranges)

    @property
    def order_name(self) -> str:
        """Name the dimension: servers know the order of a selection by that."""
        return self.dimension.name

    def to_wire(self, zone: tzinfo) -> dict[str, Any]:
        """Spell the selection in Cube's JSON; instants become wall clock of ``zone``."""
        what = self.dimension.name
        wire: dict[str, Any] = {"dimension": what}
        if self.granularity is not None:
            wire["granularity"] = self.granularity
        if self.range is not None:
            wire["dateRange"] = range_to_wire(self.range, zone, what)
        if self.compared is not None:
            wire["compareDateRange"] = [
                range_to_wire(item, zone, what) for item in self.compared
            ]
        return wire

    def __repr__(self) -> str:
        text = repr(self.dimension)
        if self.granularity is not None:
            text += f".by({self.granularity!r})"
        if self.range is not None:
            text += f".over({self.range!r})"
        if self.compared is not None:
            text += f".compare({list(self.compared)!r})"
        return text
