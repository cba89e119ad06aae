"""Members of cubes, conditions on them, and groups of conditions.

Conditions come from the methods of members, such as ``Events.fee.gt(5)``; ``&`` and
``|`` group them. Filters are compared by structure and have no truth value.
"""

from __future__ import annotations

import builtins
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from datetime import date, datetime, tzinfo
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Literal,
    NamedTuple,
    NoReturn,
    TypeVar,
)

import attrs

from ortege_watch._checks import shown
from ortege_watch.errors import QueryError
from ortege_watch.query.values import (
    TYPES,
    Value,
    check_list,
    check_moment,
    check_ordered,
    check_range,
    check_text,
    check_value,
    day_end,
    inclusive_end,
    range_to_wire,
    relative_words,
    value_to_wire,
    wall_clock,
)

T_co = TypeVar("T_co", covariant=True)

_NAME = re.compile(r"[a-zA-Z0-9_]+(\.[a-zA-Z0-9_]+)+")


@attrs.frozen(init=False, repr=False)
class Member(Generic[T_co]):
    """The name of a member of a cube, and the Python type of its values.

    Attributes:
        name: ``cube.member``, of ASCII letters, digits and underscores; with a join alias
            ``cube.alias.member``.
        type: ``Decimal``, ``int``, ``str``, ``bool`` or ``datetime``; ``object`` if it
            is unknown: values are then read as the server's annotation says.

    Raises:
        QueryError: a malformed name, a type that cannot be read exactly.
    """

    # "dimension", "measure" or "segment"
    kind: ClassVar[str]
    _default: ClassVar[builtins.type[Any]]

    name: str
    type: builtins.type[T_co]

    def _set(self, name: str, type: builtins.type[Any]) -> None:
        kind = self.__class__.__name__
        name = check_text(name, f"{kind} name")
        if not _NAME.fullmatch(name):
            expected = "expected cube.member, of ASCII letters, digits and underscores"
            raise QueryError(f"invalid {kind} name {shown(name)}: {expected}")
        if type not in TYPES:
            raise QueryError(f"{name}: {_type_advice(type)}")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "type", type)

    def __repr__(self) -> str:
        declared = ""
        if self.type is not self._default:
            name = "datetime.datetime" if self.type is datetime else self.type.__name__
            declared = f", {name}"
        return f"{type(self).__name__}({self.name!r}{declared})"


def _type_advice(type: Any) -> str:
    if type is float:
        return "float is not exact; declare Decimal"
    if type is date:
        return "Cube has times but no dates; declare datetime or a TimeDimension"
    known = ", ".join(allowed.__name__ for allowed in TYPES)
    return f"type must be one of {known}, got {shown(type)}"


class Operator(NamedTuple):
    """The method of a member that makes the condition, if any, and what it takes."""

    method: str
    takes: Literal["list", "text", "one", "none", "range", "day", "moment"]

    @property
    def dated(self) -> bool:
        """Whether the values are read in the query's time zone."""
        return self.takes in {"range", "day", "moment"}


# As documented by Cube ("Query format" of the REST API).
OPERATORS: dict[str, Operator] = {
    "equals": Operator("eq", "list"),
    "notEquals": Operator("ne", "list"),
    "contains": Operator("contains", "text"),
    "notContains": Operator("not_contains", "text"),
    "startsWith": Operator("starts_with", "text"),
    "notStartsWith": Operator("not_starts_with", "text"),
    "endsWith": Operator("ends_with", "text"),
    "notEndsWith": Operator("not_ends_with", "text"),
    "gt": Operator("gt", "one"),
    "gte": Operator("gte", "one"),
    "lt": Operator("lt", "one"),
    "lte": Operator("lte", "one"),
    "set": Operator("is_set", "none"),
    "notSet": Operator("is_not_set", "none"),
    "measureFilter": Operator("", "none"),
    "inDateRange": Operator("in_range", "range"),
    "notInDateRange": Operator("not_in_range", "range"),
    "onTheDate": Operator("on", "day"),
    "beforeDate": Operator("before", "moment"),
    "beforeOrOnDate": Operator("on_or_before", "moment"),
    "afterDate": Operator("after", "moment"),
    "afterOrOnDate": Operator("on_or_after", "moment"),
}


class Filter(ABC):
    """A condition or a group of conditions; ``&`` and ``|`` join two.

    ``bool()`` raises ``QueryError``: ``and``, ``or``, ``not`` and ``if`` would silently
    drop one side.
    """

    __slots__ = ()

    def __and__(self, other: Filter) -> Group:
        return Group("and", (self, other))

    def __or__(self, other: Filter) -> Group:
        return Group("or", (self, other))

    def __bool__(self) -> bool:
        raise QueryError(
            f"{self!r} has no truth value; join filters with & and |, in parentheses, "
            "or pass a list: all filters of a list must hold; instead of not, use the "
            "opposite method, such as ne(), not_in() or is_not_set()"
        )

    if not TYPE_CHECKING:  # type checkers know that ~ is not supported

        def __invert__(self) -> NoReturn:
            raise QueryError(
                f"~ is not supported by {self!r}; use the opposite method, such as ne(), "
                "not_in() or is_not_set()"
            )

    @property
    def kind(self) -> str:
        """What is restricted: ``"dimension"`` or ``"measure"``."""
        return next(self.conditions()).member.kind

    @abstractmethod
    def conditions(self) -> Iterator[Condition]:
        """Yield the conditions at every depth."""

    @abstractmethod
    def to_wire(self, zone: tzinfo) -> dict[str, Any]:
        """Return the filter as Cube's JSON; instants become wall clock of ``zone``."""


@attrs.frozen(repr=False)
class Condition(Filter):
    """A comparison of a member by one of Cube's operators; made by members' methods.

    Attributes:
        member: the measure, dimension or time dimension.
        operator: Cube's name, such as ``"equals"``.
        values: what the member is compared with; ``None`` is NULL. A date operator also
            takes one string of relative words, such as ``"last 7 days"``, which 1.7.43
            reads and 0.35.81 answers with a database error [seen].

    Raises:
        QueryError: an unknown operator, a wrong number of values, a wrong type.
    """

    member: Member[Any]
    operator: str
    values: tuple[Value, ...] = ()

    def __attrs_post_init__(self) -> None:
        if getattr(self.member, "kind", "segment") == "segment":
            message = f"member must be a measure or dimension, got {shown(self.member)}"
            raise QueryError(message)
        if self.operator not in list(OPERATORS):
            raise QueryError(
                f"{self.member.name}: operator must be one of {', '.join(OPERATORS)}, "
                f"got {shown(self.operator)}"
            )
        if not isinstance(self.values, tuple):
            message = f"{self._what}: values must be a tuple, got {shown(self.values)}"
            raise QueryError(message)
        operator = OPERATORS[self.operator]
        check = _check_moments if operator.dated else _check_values
        checked = check(self.member, operator.takes, self.values, self._what)
        object.__setattr__(self, "values", checked)

    @property
    def _what(self) -> str:
        return f"{self.member.name}.{OPERATORS[self.operator].method or self.operator}"

    def conditions(self) -> Iterator[Condition]:
        """Yield the condition itself."""
        yield self

    def to_wire(self, zone: tzinfo) -> dict[str, Any]:
        """Return the condition as Cube's JSON; instants become wall clock of ``zone``.

        A day means the whole day with every operator. Ranges and days always have two
        values: with one, a range of Cube 0.35.81 ends with today [seen]. Cube's older
        planner reads a single day as its 00:00, so ``beforeOrOnDate`` and ``afterDate``
        send the day's last millisecond. Instants finer than a millisecond are rounded
        so that no row is lost.
        """
        leaf: dict[str, Any] = {"member": self.member.name, "operator": self.operator}
        if OPERATORS[self.operator].dated:
            leaf["values"] = self._moments(zone)
        elif self.values:
            leaf["values"] = [value_to_wire(value) for value in self.values]
        return leaf

    def _moments(self, zone: tzinfo) -> object:
        match self.values:
            case [date() as start, date() as end]:
                inward = self.operator == "notInDateRange"
                return range_to_wire((start, end), zone, self._what, inward=inward)
            case [datetime() as moment]:
                up = self.operator in {"beforeDate", "beforeOrOnDate"}
                if self.operator == "beforeOrOnDate":
                    moment = inclusive_end(moment)
                return [wall_clock(moment, zone, self._what, up=up)]
            case [date() as day] if self.operator == "onTheDate":
                return [day.isoformat(), day.isoformat()]
            case [date() as day] if self.operator in {"beforeOrOnDate", "afterDate"}:
                return [day_end(day)]
            case values:
                return [str(value) for value in values]

    def __repr__(self) -> str:
        operator = OPERATORS[self.operator]
        words = operator.dated and isinstance(self.values[0], str)
        if words or not hasattr(self.member, operator.method):
            call = (self.member, self.operator, self.values)
            return f"Condition({', '.join(map(repr, call))})"
        if operator.takes == "list" and (
            len(self.values) > 1 or self.values == (None,)
        ):
            method = "in_" if self.operator == "equals" else "not_in"
            return f"{self.member!r}.{method}({list(self.values)!r})"
        values = ", ".join(map(repr, self.values))
        return f"{self.member!r}.{operator.method}({values})"


def _check_values(
    member: Member[Any], takes: str, values: tuple[Any, ...], what: str
) -> tuple[Value, ...]:
    """Return the values of an operator that does not depend on the time zone."""
    of = member.type
    match takes:
        case "none" if values:
            raise QueryError(f"{what} takes no values, got {len(values)}")
        case "list" if not values:
            raise QueryError(f"{what} needs at least one value")
        case "list" if len(values) > 1 and all(value is None for value in values):
            # An empty IN () in SQL.
            method = "is_not_set" if what.endswith(".eq") else "is_set"
            raise QueryError(
                f"{what} lists only None, {len(values)} times; use .{method}()"
            )
        case "text":
            if of not in (str, object):
                message = f"{what} needs a member declared str, not {of.__name__}"
                raise QueryError(message)
            if all(value is None for value in values):
                raise QueryError(f"{what} needs at least one string")
            of = str
        case "one":
            if len(values) != 1:
                # Cube would use the first one only [source: firstParameter()].
                raise QueryError(f"{what} takes exactly one value, got {len(values)}")
            if isinstance(check_value(values[0], of, what), bool):
                raise QueryError(f"{what}: booleans are not ordered; use .eq(...)")
        case _:
            pass
    return tuple(v if v is None else check_value(v, of, what) for v in values)


def _check_moments(
    member: Member[Any], takes: str, values: tuple[Any, ...], what: str
) -> tuple[Value, ...]:
    """Return the days and instants of an operator for times."""
    if member.type is not datetime:
        message = f"{what} compares times; declare TimeDimension({member.name!r})"
        raise QueryError(message)
    if len(values) == 1 and (words := relative_words(values[0])):
        check_range(words, what)
        return (words,)
    count, expected = (2, "start and end") if takes == "range" else (1, "one value")
    if len(values) != count:
        raise QueryError(f"{what} takes {expected}, got {len(values)} values")
    moments = tuple(check_moment(value, what) for value in values)
    check_ordered(moments, what)
    if takes == "day" and isinstance(moments[0], datetime):
        message = f"{what} takes a date, got a datetime; use .in_range(start, end)"
        raise QueryError(message)
    return moments


@attrs.frozen(repr=False)
class Group(Filter):
    """Filters of which all (``"and"``) or at least one (``"or"``) must hold.

    Raises:
        QueryError: no filters, or measures and dimensions in one group: Cube restricts
            dimensions before it aggregates and measures afterwards.
    """

    operator: Literal["and", "or"]
    filters: tuple[Filter, ...]

    def __attrs_post_init__(self) -> None:
        if self.operator not in ("and", "or"):
            message = f'operator must be "and" or "or", got {shown(self.operator)}'
            raise QueryError(message)
        given = check_list(self.filters, f"{self.operator!r} group")
        if not given:
            raise QueryError(f"{self.operator!r} group needs at least one filter")
        # (a & b) & c is a & b & c.
        flat: list[Filter] = []
        for filter_ in given:
            check_filter(filter_, self.operator)
            if isinstance(filter_, Group) and filter_.operator == self.operator:
                flat += filter_.filters
            else:
                flat.append(filter_)
        object.__setattr__(self, "filters", tuple(flat))
        kinds = {condition.kind: condition for condition in self.conditions()}
        if len(kinds) > 1:
            names = " and ".join(kinds[kind].member.name for kind in sorted(kinds))
            raise QueryError(
                f"a group cannot mix dimensions and measures: {names}; put filters on "
                "dimensions into where= and filters on measures into having="
            )

    def conditions(self) -> Iterator[Condition]:
        """Yield the conditions of all filters."""
        for filter_ in self.filters:
            yield from filter_.conditions()

    def to_wire(self, zone: tzinfo) -> dict[str, Any]:
        """Return the group as Cube's JSON; instants become wall clock of ``zone``."""
        return {self.operator: [filter_.to_wire(zone) for filter_ in self.filters]}

    def __repr__(self) -> str:
        if len(self.filters) == 1:
            return f"Group({self.operator!r}, {self.filters!r})"
        sign = " & " if self.operator == "and" else " | "
        return sign.join(
            f"({filter_!r})" if isinstance(filter_, Group) else repr(filter_)
            for filter_ in self.filters
        )


def check_filter(filter_: object, what: str) -> None:
    """Raise ``QueryError`` unless ``filter_`` is one."""
    match filter_:
        case Filter():
            return
        case bool():
            hint = " (== compares members and makes no filter)"
        case Member(kind="segment"):
            hint = "; put it into segments="
        case Member():
            hint = "; compare it with a value"
        case _:
            # Only a TimeSelection, which this module cannot import, has this method.
            hint = "; put it into time=" if hasattr(filter_, "over") else ""
    expected = "expected a filter such as member.eq(value)"
    raise QueryError(f"{what}: {expected}, got {shown(filter_)}{hint}")
