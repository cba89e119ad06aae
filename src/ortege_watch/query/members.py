"""Measures, dimensions, time dimensions and segments; orders and time selections.

Members are values: frozen, hashable, equal if name and type are. Their methods make
filters, orders and time selections; ``==`` never does.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterable, Mapping, Sequence, Set as AbstractSet
from datetime import date, datetime, tzinfo
from decimal import Decimal
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    NoReturn,
    TypeAlias,
    TypeVar,
    overload,
)

import attrs
from attrs.converters import optional

from ortege_watch._checks import shown
from ortege_watch.errors import QueryError
from ortege_watch.query.filters import OPERATORS, Condition, Member
from ortege_watch.query.values import (
    UNITS,
    Range,
    RangeLike,
    check_list,
    check_moment,
    check_range,
    check_value,
    range_to_wire,
)

T = TypeVar("T")


class Column(Member[T]):
    """A member that has a column: it may be NULL, and rows may be ordered by it."""

    __slots__ = ()

    def asc(self) -> Order:
        """Order rows by this member, smallest or earliest first."""
        return Order(self)

    def desc(self) -> Order:
        """Order rows by this member, largest or latest first."""
        return Order(self, "desc")

    def is_set(self) -> Condition:
        """Keep rows where the member is not NULL."""
        return Condition(self, "set")

    def is_not_set(self) -> Condition:
        """Keep rows where the member is NULL."""
        return Condition(self, "notSet")


class ComparableColumn(Column[T]):
    """A measure or a dimension, which is compared with values of its type.

    Members declared ``Decimal`` also accept ``int``; none accepts ``float``.
    """

    __slots__ = ()

    @overload
    def eq(self: ComparableColumn[Decimal], value: Decimal | int) -> Condition: ...
    @overload
    def eq(self, value: T) -> Condition: ...
    def eq(self, value: Any) -> Condition:
        """Keep rows where the member equals ``value``; for NULL use ``is_not_set``."""
        checked = check_value(value, self.type, f"{self.name}.eq")
        return Condition(self, "equals", (checked,))

    @overload
    def ne(self: ComparableColumn[Decimal], value: Decimal | int) -> Condition: ...
    @overload
    def ne(self, value: T) -> Condition: ...
    def ne(self, value: Any) -> Condition:
        """Keep rows where the member differs from ``value`` or is NULL."""
        checked = check_value(value, self.type, f"{self.name}.ne")
        return Condition(self, "notEquals", (checked,))

    @overload
    def in_(
        self: ComparableColumn[Decimal], values: Iterable[Decimal | int | None]
    ) -> Condition: ...
    @overload
    def in_(self, values: Iterable[T | None]) -> Condition: ...
    def in_(self, values: Iterable[Any]) -> Condition:
        """Keep rows where the member is one of ``values``; ``None`` means NULL."""
        return Condition(self, "equals", _several(self, "in_", values))

    @overload
    def not_in(
        self: ComparableColumn[Decimal], values: Iterable[Decimal | int | None]
    ) -> Condition: ...
    @overload
    def not_in(self, values: Iterable[T | None]) -> Condition: ...
    def not_in(self, values: Iterable[Any]) -> Condition:
        """Keep rows where the member is not one of ``values``.

        NULL is kept unless ``None`` is among the values (source: Cube's schema
        compiler adds ``OR ... IS NULL``).
        """
        return Condition(self, "notEquals", _several(self, "not_in", values))

    @overload
    def gt(self: ComparableColumn[Decimal], value: Decimal | int) -> Condition: ...
    @overload
    def gt(self, value: T) -> Condition: ...
    def gt(self, value: Any) -> Condition:
        """Keep rows where the member is greater than ``value``."""
        return Condition(self, "gt", (value,))

    @overload
    def gte(self: ComparableColumn[Decimal], value: Decimal | int) -> Condition: ...
    @overload
    def gte(self, value: T) -> Condition: ...
    def gte(self, value: Any) -> Condition:
        """Keep rows where the member is ``value`` or greater."""
        return Condition(self, "gte", (value,))

    @overload
    def lt(self: ComparableColumn[Decimal], value: Decimal | int) -> Condition: ...
    @overload
    def lt(self, value: T) -> Condition: ...
    def lt(self, value: Any) -> Condition:
        """Keep rows where the member is less than ``value``."""
        return Condition(self, "lt", (value,))

    @overload
    def lte(self: ComparableColumn[Decimal], value: Decimal | int) -> Condition: ...
    @overload
    def lte(self, value: T) -> Condition: ...
    def lte(self, value: Any) -> Condition:
        """Keep rows where the member is ``value`` or less."""
        return Condition(self, "lte", (value,))


class Measure(ComparableColumn[T]):
    """A measure, ``Decimal`` by default: ``Measure("cube.total")``."""

    __slots__ = ()
    kind = "measure"
    _default = Decimal

    @overload
    def __init__(self: Measure[Decimal], name: str) -> None: ...
    @overload
    def __init__(self, name: str, type: builtins.type[T]) -> None: ...
    def __init__(self, name: str, type: builtins.type[Any] = Decimal) -> None:
        self._set(name, type)


class Dimension(ComparableColumn[T]):
    """A dimension, ``str`` by default: ``Dimension("cube.sender")``.

    Searches ignore case; of several strings any may match. Use ``TimeDimension`` to
    filter or group by time.

    Cube 0.35.81 reads ``_``, ``%`` and backslashes as wildcards in ``starts_with``,
    ``ends_with`` and their negations, and a backslash also in ``contains`` [seen]. 1.7.43
    reads all of them literally.
    """

    __slots__ = ()
    kind = "dimension"
    _default = str

    @overload
    def __init__(self: Dimension[str], name: str) -> None: ...
    @overload
    def __init__(self, name: str, type: builtins.type[T]) -> None: ...
    def __init__(self, name: str, type: builtins.type[Any] = str) -> None:
        self._set(name, type)

    def contains(self: Dimension[str], *texts: str | None) -> Condition:
        """Keep rows whose string contains any of ``texts``; ``None`` adds NULL."""
        return Condition(self, "contains", texts)

    def not_contains(self: Dimension[str], *texts: str | None) -> Condition:
        """Drop rows whose string contains any of ``texts``; ``None`` drops NULL."""
        return Condition(self, "notContains", texts)

    def starts_with(self: Dimension[str], *texts: str | None) -> Condition:
        """Keep rows whose string starts with any of ``texts``; ``None`` adds NULL.

        ``_``, ``%`` and backslashes are wildcards on Cube 0.35; see ``Dimension``.
        """
        return Condition(self, "startsWith", texts)

    def not_starts_with(self: Dimension[str], *texts: str | None) -> Condition:
        """Drop rows whose string starts with any of ``texts``; ``None`` drops NULL.

        ``_``, ``%`` and backslashes are wildcards on Cube 0.35; see ``Dimension``.
        """
        return Condition(self, "notStartsWith", texts)

    def ends_with(self: Dimension[str], *texts: str | None) -> Condition:
        """Keep rows whose string ends with any of ``texts``; ``None`` adds NULL.

        ``_``, ``%`` and backslashes are wildcards on Cube 0.35; see ``Dimension``.
        """
        return Condition(self, "endsWith", texts)

    def not_ends_with(self: Dimension[str], *texts: str | None) -> Condition:
        """Drop rows whose string ends with any of ``texts``; ``None`` drops NULL.

        ``_``, ``%`` and backslashes are wildcards on Cube 0.35; see ``Dimension``.
        """
        return Condition(self, "notEndsWith", texts)


class Segment(Member[bool]):
    """A filter that the cube defines; it has no column."""

    __slots__ = ()
    kind = "segment"
    _default = bool

    def __init__(self, name: str) -> None:
        self._set(name, bool)


def _several(member: Member[Any], method: str, values: Any) -> tuple[Any, ...]:
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        message = f"{member.name}.{method} takes a list of values, got {shown(values)}"
        raise QueryError(message)
    # The order of a set of strings differs between runs; the JSON must not.
    in_order = sorted(values, key=repr) if isinstance(values, AbstractSet) else values
    what = f"{member.name}.{method}"
    found = [v if v is None else check_value(v, member.type, what) for v in in_order]
    if not found:
        effect = ", so no row can match; skip the query"
        if method == "not_in":
            effect = " and excludes nothing; omit the filter"
        raise QueryError(f"{what}: the list is empty{effect}")
    return tuple(found)


# What compares other members, and what does so for times.
_TIME_METHODS = {
    "eq": "on",
    "gt": "after",
    "gte": "on_or_after",
    "lt": "before",
    "lte": "on_or_before",
    "ne": "not_in_range",
}


class TimeDimension(Column[datetime]):
    """A dimension of time.

    In its filters a ``date`` is the whole day in the query's time zone, an aware
    ``datetime`` an instant. Ranges include both ends.
    """

    __slots__ = ()
    kind = "dimension"
    _default = datetime

    def __init__(self, name: str) -> None:
        self._set(name, datetime)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            message = f"a TimeDimension has no {name!r}"
            if name in _TIME_METHODS:
                message += f"; use .{_TIME_METHODS[name]}(...)"
            raise AttributeError(message, name=name, obj=self)

    def in_range(self, start: date, end: date) -> Condition:
        """Keep rows from ``start`` to ``end``, both included."""
        return Condition(self, "inDateRange", (start, end))

    def not_in_range(self, start: date, end: date) -> Condition:
        """Keep rows before ``start`` and after ``end``."""
        return Condition(self, "notInDateRange", (start, end))

    def on(self, day: date) -> Condition:
        """Keep the rows of one day."""
        return self._at("onTheDate", day)

    def before(self, moment: date) -> Condition:
        """Keep rows before an instant, or before the start of a day."""
        return self._at("beforeDate", moment)

    def on_or_before(self, moment: date) -> Condition:
        """Keep rows up to an instant, or up to the end of a day."""
        return self._at("beforeOrOnDate", moment)

    def after(self, moment: date) -> Condition:
        """Keep rows after an instant, or after the end of a day."""
        return self._at("afterDate", moment)

    def on_or_after(self, moment: date) -> Condition:
        """Keep rows from an instant on, or from the start of a day on."""
        return self._at("afterOrOnDate", moment)

    def _at(self, operator: str, moment: date) -> Condition:
        what = f"{self.name}.{OPERATORS[operator].method}"
        return Condition(self, operator, (check_moment(moment, what),))

    def by(self, granularity: str) -> TimeSelection:
        """Group by second, minute, hour, day, week, month, quarter or year.

        Weeks start on Monday. Cube 1.0 and later also accept the name of a granularity
        that the cube defines.
        """
        return TimeSelection(self, granularity=granularity)

    def over(self, range: RangeLike) -> TimeSelection:
        """Restrict to a range: words, a day, or a pair of dates or datetimes.

        Words are ``today``, ``yesterday``, ``tomorrow``, ``this week``, ``last month``,
        ``next quarter``, ``last 7 days``, ``from 7 days ago to now``, ``from 1 hour ago
        to 5 minutes ago``, ``from 2024-05-01 to 2024-05-03`` and a day alone.
        Servers take whole units, with ``to now`` including the current one: at 19:56
        ``from 2 hours ago to now`` is 17:00 to 19:59:59.999. For a finer window write
        ``from 120 minutes ago to now``. Both ends of a pair are included.
        """
        return TimeSelection(self).over(range)

    def compare(self, ranges: Sequence[RangeLike]) -> TimeSelection:
        """Restrict to several ranges; ``CubeClient.compare`` returns a result for each."""
        return TimeSelection(self).compare(ranges)


def _granularity(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not re.fullmatch("[a-zA-Z0-9_]{1,128}", value):
        raise QueryError(
            f"granularity must be one of {', '.join(UNITS)}, or one that the cube "
            f"defines, got {shown(value)}"
        )
    likely = value.lower().removesuffix("s")
    if likely in UNITS and value not in UNITS:
        raise QueryError(f"unknown granularity {value!r}: did you mean {likely!r}?")
    return value


def _check_ranges(value: Any, what: str = "compared") -> tuple[Range, ...]:
    ranges = check_list(value, what)
    if not ranges:
        raise QueryError(f'{what} needs at least one range, such as "this month"')
    return tuple(check_range(item, f"{what}[{i}]") for i, item in enumerate(ranges))


@attrs.frozen(repr=False)
class TimeSelection:
    """A time dimension, grouped by a granularity, restricted to a range, or both.

    Attributes:
        dimension: the time dimension.
        granularity: what rows are grouped by; ``None``: no column, only a filter.
        range: words, or a pair of dates or datetimes; ``None`` is all of time.

    Args:
        compared: the ranges of a comparison, instead of ``range``; see :meth:`compare`.

    Raises:
        QueryError: a malformed argument, or ``range`` and ``compared`` together.
    """

    type: ClassVar[builtins.type[datetime]] = datetime

    dimension: TimeDimension
    granularity: str | None = attrs.field(
        default=None, kw_only=True, converter=_granularity
    )
    range: Range | None = attrs.field(
        default=None, kw_only=True, converter=optional(check_range)
    )
    _compared: tuple[Range, ...] | None = attrs.field(
        default=None, kw_only=True, converter=optional(_check_ranges)
    )

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.dimension, TimeDimension):
            message = f"dimension must be a TimeDimension, got {shown(self.dimension)}"
            raise QueryError(message)
        if self.range is not None and self._compared is not None:
            name = self.dimension.name
            raise QueryError(f"{name}: use .over(range) or .compare(ranges), not both")

    @property
    def name(self) -> str:
        """The column of the result: ``cube.member.day``, or ``cube.member``."""
        suffix = f".{self.granularity}" if self.granularity else ""
        return self.dimension.name + suffix

    def by(self, granularity: str) -> TimeSelection:
        """Group by ``granularity``; see ``TimeDimension.by``."""
        return attrs.evolve(self, granularity=granularity)

    def over(self, range: RangeLike) -> TimeSelection:
        """Restrict to ``range``; see ``TimeDimension.over``."""
        checked = check_range(range, f"{self.dimension.name}.over")
        return attrs.evolve(self, range=checked)

    def compare(self, ranges: Sequence[RangeLike]) -> TimeSelection:
        """Restrict to several ranges; see ``TimeDimension.compare``."""
        checked = _check_ranges(ranges, f"{self.dimension.name}.compare")
        return attrs.evolve(self, compared=checked)

    def asc(self) -> Order:
        """Order rows by this selection, earliest first."""
        return Order(self)

    def desc(self) -> Order:
        """Order rows by this selection, latest first."""
        return Order(self, "desc")

    def to_wire(self, zone: tzinfo) -> dict[str, Any]:
        """Return the selection as Cube's JSON; instants become wall clock of ``zone``."""
        name = self.dimension.name
        wire: dict[str, Any] = {"dimension": name}
        if self.granularity is not None:
            wire["granularity"] = self.granularity
        if self.range is not None:
            wire["dateRange"] = range_to_wire(self.range, zone, f"{name}.over")
        if self._compared is not None:
            wire["compareDateRange"] = [
                range_to_wire(item, zone, f"{name}.compare") for item in self._compared
            ]
        return wire

    def __repr__(self) -> str:
        text = repr(self.dimension)
        if self.granularity is not None:
            text += f".by({self.granularity!r})"
        if self.range is not None:
            text += f".over({self.range!r})"
        if self._compared is not None:
            text += f".compare({list(self._compared)!r})"
        return text


def is_comparison(selection: TimeSelection) -> bool:
    """Return whether a selection has several ranges, with a result for each."""
    return selection._compared is not None  # noqa: SLF001 - same module


@attrs.frozen(repr=False)
class Order:
    """A member to order rows by, and the direction; made by ``asc()`` and ``desc()``.

    Raises:
        QueryError: a member without a column, an unknown direction.
    """

    member: Column[Any] | TimeSelection
    direction: Literal["asc", "desc"] = "asc"

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.member, Column | TimeSelection):
            raise QueryError(f"{shown(self.member)} has no column to order by")
        if self.direction not in ("asc", "desc"):
            message = f'direction must be "asc" or "desc", got {shown(self.direction)}'
            raise QueryError(message)

    @property
    def name(self) -> str:
        """The member that Cube orders by: of a time selection, its dimension."""
        member = self.member
        return (member.dimension if isinstance(member, TimeSelection) else member).name

    def __repr__(self) -> str:
        return f"{self.member!r}.{self.direction}()"


Selected: TypeAlias = Measure[Any] | Dimension[Any] | TimeDimension | TimeSelection


def columns_of(
    members: Iterable[Measure[Any] | Dimension[Any] | TimeDimension],
    time: Iterable[TimeSelection],
) -> dict[str, Selected]:
    """Return the columns of a result, see ``Query.columns``."""
    columns: dict[str, Selected] = {member.name: member for member in members}
    for selection in time:
        if selection.granularity is not None:
            columns[selection.name] = selection
            columns.setdefault(selection.dimension.name, selection)
    return columns


def orders_by(name: str, columns: Iterable[str]) -> bool:
    """Return whether servers order by this name; they ignore what is not selected.

    ``cube.time`` also stands for ``cube.time.day`` among the dimensions [seen].
    """
    return any(name in (column, column.rpartition(".")[0]) for column in columns)
