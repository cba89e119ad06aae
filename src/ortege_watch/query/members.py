"""Members of cubes: measures, dimensions, time dimensions, segments.

Members are values: frozen, hashable, equal when name and type are. Their methods make
filters, orders and time selections; ``==`` never does.
"""

from __future__ import annotations

import builtins
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, tzinfo
from decimal import Decimal
from typing import Any, ClassVar, Literal, TypeVar, overload

import attrs

from ortege_watch.errors import QueryError
from ortege_watch.query.base import Member
from ortege_watch.query.filters import Condition
from ortege_watch.query.values import Range, check_range, range_to_wire, shown

__all__ = [
    "GRANULARITIES",
    "Column",
    "Dimension",
    "Measure",
    "Order",
    "Orderable",
    "Segment",
    "TimeDimension",
    "TimeSelection",
]

T = TypeVar("T")


class Orderable(ABC):
    """Be something that rows may be ordered by."""

    __slots__ = ()

    @property
    @abstractmethod
    def order_name(self) -> str:
        """Name what Cube is told to order by."""

    def asc(self) -> Order:
        """Order rows by this, smallest or earliest first."""
        return Order(self)

    def desc(self) -> Order:
        """Order rows by this, largest or latest first."""
        return Order(self, "desc")


@attrs.frozen(repr=False)
class Order:
    """Order rows by a member of the query; ``.asc()`` and ``.desc()`` make these.

    Raises:
        QueryError: something that has no column, a direction that is neither.
    """

    member: Orderable
    direction: Literal["asc", "desc"] = "asc"

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.member, Orderable):
            raise QueryError(f"{shown(self.member)} has no column to order by")
        if self.direction not in ("asc", "desc"):
            raise QueryError(
                f'the direction is "asc" or "desc", not {shown(self.direction)}'
            )

    @property
    def name(self) -> str:
        """Name what Cube orders by: the dimension, also for a time selection."""
        return self.member.order_name

    def __repr__(self) -> str:
        return f"{self.member!r}.{self.direction}()"


class Column(Member[T], Orderable):
    """Be a member that has a column: it may be NULL, and rows may be ordered by it."""

    __slots__ = ()

    @property
    def order_name(self) -> str:
        """Name the member."""
        return self.name

    def is_set(self) -> Condition:
        """Keep rows where the member is not NULL."""
        return Condition(self, "set")

    def is_not_set(self) -> Condition:
        """Keep rows where the member is NULL."""
        return Condition(self, "notSet")


class _Compared(Column[T]):
    """Be a measure or a dimension that is compared with values of its type.

    Members declared ``Decimal`` take ``int`` as well. No ``float`` is taken anywhere.
    """

    __slots__ = ()

    @overload
    def eq(self: _Compared[Decimal], value: Decimal | int) -> Condition: ...
    @overload
    def eq(self, value: T) -> Condition: ...
    def eq(self, value: Any) -> Condition:
        """Keep rows where the member equals ``value``; for NULL use ``is_not_set``."""
        return Condition(self, "equals", (_present(self, "eq", value),))

    @overload
    def ne(self: _Compared[Decimal], value: Decimal | int) -> Condition: ...
    @overload
    def ne(self, value: T) -> Condition: ...
    def ne(self, value: Any) -> Condition:
        """Keep rows where the member differs from ``value``, NULL among them."""
        return Condition(self, "notEquals", (_present(self, "ne", value),))

    @overload
    def in_(
        self: _Compared[Decimal], values: Iterable[Decimal | int | None]
    ) -> Condition: ...
    @overload
    def in_(self, values: Iterable[T | None]) -> Condition: ...
    def in_(self, values: Iterable[Any]) -> Condition:
        """Keep rows where the member is one of ``values``; ``None`` means NULL."""
        return Condition(self, "equals", _several(self, "in_", values))

    @overload
    def not_in(
        self: _Compared[Decimal], values: Iterable[Decimal | int | None]
    ) -> Condition: ...
    @overload
    def not_in(self, values: Iterable[T | None]) -> Condition: ...
    def not_in(self, values: Iterable[Any]) -> Condition:
        """Keep rows where the member is none of ``values``.

        NULL is kept unless ``None`` is among the values (source: Cube's schema
        compiler adds ``OR ... IS NULL``).
        """
        return Condition(self, "notEquals", _several(self, "not_in", values))

    @overload
    def gt(self: _Compared[Decimal], value: Decimal | int) -> Condition: ...
    @overload
    def gt(self, value: T) -> Condition: ...
    def gt(self, value: Any) -> Condition:
        """Keep rows where the member is greater than ``value``."""
        return Condition(self, "gt", (value,))

    @overload
    def gte(self: _Compared[Decimal], value: Decimal | int) -> Condition: ...
    @overload
    def gte(self, value: T) -> Condition: ...
    def gte(self, value: Any) -> Condition:
        """Keep rows where the member is ``value`` or greater."""
        return Condition(self, "gte", (value,))

    @overload
    def lt(self: _Compared[Decimal], value: Decimal | int) -> Condition: ...
    @overload
    def lt(self, value: T) -> Condition: ...
    def lt(self, value: Any) -> Condition:
        """Keep rows where the member is less than ``value``."""
        return Condition(self, "lt", (value,))

    @overload
    def lte(self: _Compared[Decimal], value: Decimal | int) -> Condition: ...
    @overload
    def lte(self, value: T) -> Condition: ...
    def lte(self, value: Any) -> Condition:
        """Keep rows where the member is ``value`` or less."""
        return Condition(self, "lte", (value,))


class Measure(_Compared[T]):
    """Name a measure, ``Decimal`` unless another type is given.

    ``Measure("cube.total")`` is a ``Measure[Decimal]``.
    """

    __slots__ = ()
    kind = "measure"

    @overload
    def __init__(self: Measure[Decimal], name: str) -> None: ...
    @overload
    def __init__(self, name: str, type: builtins.type[T]) -> None: ...
    def __init__(self, name: str, type: builtins.type[Any] = Decimal) -> None:
        self._set(name, type)

    def __repr__(self) -> str:
        return _repr(self, Decimal)


class Dimension(_Compared[T]):
    """Name a dimension, ``str`` unless another type is given.

    ``Dimension("cube.sender")`` is a ``Dimension[str]``. Text is searched without
    regard to case; of several texts any may match. A dimension of time that is to be
    filtered or grouped by time is a ``TimeDimension``.
    """

    __slots__ = ()
    kind = "dimension"

    @overload
    def __init__(self: Dimension[str], name: str) -> None: ...
    @overload
    def __init__(self, name: str, type: builtins.type[T]) -> None: ...
    def __init__(self, name: str, type: builtins.type[Any] = str) -> None:
        self._set(name, type)

    def contains(self: Dimension[str], *texts: str | None) -> Condition:
        """Keep rows whose text contains any of ``texts``; ``None`` adds NULL."""
        return Condition(self, "contains", texts)

    def not_contains(self: Dimension[str], *texts: str | None) -> Condition:
        """Keep rows whose text contains none of ``texts``; ``None`` drops NULL."""
        return Condition(self, "notContains", texts)

    def starts_with(self: Dimension[str], *texts: str | None) -> Condition:
        """Keep rows whose text starts with any of ``texts``; ``None`` adds NULL."""
        return Condition(self, "startsWith", texts)

    def not_starts_with(self: Dimension[str], *texts: str | None) -> Condition:
        """Keep rows whose text starts with none of ``texts``; ``None`` drops NULL."""
        return Condition(self, "notStartsWith", texts)

    def ends_with(self: Dimension[str], *texts: str | None) -> Condition:
        """Keep rows whose text ends with any of ``texts``; ``None`` adds NULL."""
        return Condition(self, "endsWith", texts)

    def not_ends_with(self: Dimension[str], *texts: str | None) -> Condition:
        """Keep rows whose text ends with none of ``texts``; ``None`` drops NULL."""
        return Condition(self, "notEndsWith", texts)

    def __repr__(self) -> str:
        return _repr(self, str)


class Segment(Member[bool]):
    """Name a segment: a filter that the cube defines. It has no column."""

    __slots__ = ()
    kind = "segment"

    def __init__(self, name: str) -> None:
        self._set(name, bool)

    def __repr__(self) -> str:
        return f"Segment({self.name!r})"


def _present(member: Member[Any], method: str, value: Any) -> Any:
    if value is None:
        advice = "is_not_set" if method == "eq" else "is_set"
        raise QueryError(f"{member.name}.{method}: for NULL use .{advice}()")
    return value


def _several(member: Member[Any], method: str, values: Any) -> tuple[Any, ...]:
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise QueryError(
            f"{member.name}.{method}: give a list of values, not {shown(values)}"
        )
    # The order of a set of strings changes between runs; the wire form must not.
    return tuple(
        sorted(values, key=repr) if isinstance(values, AbstractSet) else values
    )


def _repr(member: Member[Any], default: builtins.type) -> str:
    kind = type(member).__name__
    if member.type is default:
        return f"{kind}({member.name!r})"
    of = "datetime.datetime" if member.type is datetime else member.type.__name__
    return f"{kind}({member.name!r}, {of})"


# -------------------- Time dimensions, and the selections of a query that they make.


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
