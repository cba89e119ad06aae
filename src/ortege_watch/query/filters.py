"""Filters: conditions on members, and groups of them.

Conditions come from the methods of members, such as ``Events.fee.gt(5)``; ``&`` and
``|`` group them. Filters are compared by structure and have no truth value.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from datetime import date, datetime, tzinfo
from typing import Any, Literal

import attrs

from ortege_watch.errors import QueryError
from ortege_watch.query.base import Member
from ortege_watch.query.values import (
    Value,
    check_moment,
    check_ordered,
    check_value,
    day_end,
    pair_to_wire,
    plain,
    shown,
    wall_clock,
)

__all__ = ["METHODS", "OPERATORS", "Condition", "Filter", "Group", "check_filter"]

# What each operator takes, as documented by Cube ("Query format" of the REST API).
OPERATORS: dict[str, str] = {
    "equals": "list",
    "notEquals": "list",
    "contains": "text",
    "notContains": "text",
    "startsWith": "text",
    "notStartsWith": "text",
    "endsWith": "text",
    "notEndsWith": "text",
    "gt": "one",
    "gte": "one",
    "lt": "one",
    "lte": "one",
    "set": "none",
    "notSet": "none",
    "measureFilter": "none",
    "inDateRange": "range",
    "notInDateRange": "range",
    "onTheDate": "day",
    "beforeDate": "moment",
    "beforeOrOnDate": "moment",
    "afterDate": "moment",
    "afterOrOnDate": "moment",
}

# The method of a member that makes a condition with the operator.
METHODS: dict[str, str] = {
    "equals": "eq",
    "notEquals": "ne",
    "contains": "contains",
    "notContains": "not_contains",
    "startsWith": "starts_with",
    "notStartsWith": "not_starts_with",
    "endsWith": "ends_with",
    "notEndsWith": "not_ends_with",
    "gt": "gt",
    "gte": "gte",
    "lt": "lt",
    "lte": "lte",
    "set": "is_set",
    "notSet": "is_not_set",
    "inDateRange": "in_range",
    "notInDateRange": "not_in_range",
    "onTheDate": "on",
    "beforeDate": "before",
    "beforeOrOnDate": "on_or_before",
    "afterDate": "after",
    "afterOrOnDate": "on_or_after",
}


class Filter(ABC):
    """Be a condition or a group of conditions; ``&`` and ``|`` join two.

    There is no ``bool()``: ``and``, ``or``, ``not`` and ``if`` would silently drop one
    side, so they raise ``QueryError``.
    """

    __slots__ = ()

    def __and__(self, other: Filter) -> Group:
        return Group("and", (self, other))

    def __or__(self, other: Filter) -> Group:
        return Group("or", (self, other))

    def __bool__(self) -> bool:
        raise QueryError(
            f"{self!r} has no truth value; join filters with & and |, in parentheses, "
            "or list them: the filters of a list must all hold"
        )

    @property
    def kind(self) -> str:
        """Say what is restricted: ``"dimension"`` or ``"measure"``."""
        return next(self.conditions()).member.kind

    @abstractmethod
    def conditions(self) -> Iterator[Condition]:
        """Walk through the conditions, however deep."""

    @abstractmethod
    def to_wire(self, zone: tzinfo) -> dict[str, Any]:
        """Spell the filter in Cube's JSON; instants become wall clock of ``zone``."""


@attrs.frozen(repr=False)
class Condition(Filter):
    """Compare a member by one of Cube's operators; members' methods make these.

    Attributes:
        member: the measure, dimension or time dimension.
        operator: Cube's name, such as ``"equals"``.
        values: what it is compared with; ``None`` is NULL.

    Raises:
        QueryError: an unknown operator, a wrong number of values, a wrong type.
    """

    member: Member[Any]
    operator: str
    values: tuple[Value, ...] = ()

    def __attrs_post_init__(self) -> None:
        if getattr(self.member, "kind", "segment") == "segment":
            message = (
                f"{shown(self.member)} cannot be compared; segments go into segments="
            )
            raise QueryError(message)
        if self.operator not in list(OPERATORS):
            known = ", ".join(OPERATORS)
            message = (
                f"{self.member.name}: no operator {shown(self.operator)}; use {known}"
            )
            raise QueryError(message)
        if not isinstance(self.values, tuple):
            raise QueryError(f"{self._what}: give the values as a tuple")
        check = _CHECKS[OPERATORS[self.operator]]
        checked = check(self.member, self.values, self._what)
        object.__setattr__(self, "values", checked)

    @property
    def _what(self) -> str:
        method = METHODS.get(self.operator, self.operator)
        return f"{self.member.name}.{method}"

    @property
    def dated(self) -> bool:
        """Say whether the values are read in the query's time zone."""
        return OPERATORS[self.operator] in {"range", "day", "moment"}

    def conditions(self) -> Iterator[Condition]:
        """Yield the condition itself."""
        yield self

    def to_wire(self, zone: tzinfo) -> dict[str, Any]:
        """Spell the condition in Cube's JSON; instants become wall clock of ``zone``.

        A day means the whole day with every operator. Ranges and days always carry two
        values: with one, Cube 0.35.81 drops the filter without a word [seen]. Cube's
        older planner takes a lone day for its 00:00, so ``beforeOrOnDate`` and
        ``afterDate`` name the day's last millisecond. Instants finer than a
        millisecond are rounded so that no row is lost.
        """
        leaf: dict[str, Any] = {"member": self.member.name, "operator": self.operator}
        if self.dated:
            leaf["values"] = self._moments(zone)
        elif self.values:
            leaf["values"] = [plain(value) for value in self.values]
        return leaf

    def _moments(self, zone: tzinfo) -> list[str]:
        match self.values:
            case [date() as start, date() as end]:
                inward = self.operator == "notInDateRange"
                pair = (start, end)
                return pair_to_wire(pair, zone, self._what, inward=inward)
            case [datetime() as moment]:
                up = self.operator in {"beforeDate", "beforeOrOnDate"}
                return [wall_clock(moment, zone, self._what, up=up)]
            case [date() as day] if self.operator == "onTheDate":
                return [day.isoformat(), day.isoformat()]
            case [date() as day] if self.operator in {"beforeOrOnDate", "afterDate"}:
                return [day_end(day)]
            case values:
                return [str(value) for value in values]

    def __repr__(self) -> str:
        if not hasattr(self.member, METHODS.get(self.operator, "")):
            call = (self.member, self.operator, self.values)
            return f"Condition({', '.join(map(repr, call))})"
        if OPERATORS[self.operator] == "list" and (
            len(self.values) > 1 or self.values == (None,)
        ):
            method = "in_" if self.operator == "equals" else "not_in"
            return f"{self.member!r}.{method}({list(self.values)!r})"
        values = ", ".join(map(repr, self.values))
        return f"{self.member!r}.{METHODS[self.operator]}({values})"


@attrs.frozen(repr=False)
class Group(Filter):
    """Hold filters of which all (``and``) or at least one (``or``) must hold.

    Raises:
        QueryError: no filters, or measures and dimensions in one group: Cube restricts
            dimensions before and measures after it aggregates.
    """

    operator: Literal["and", "or"]
    filters: tuple[Filter, ...]

    def __attrs_post_init__(self) -> None:
        if self.operator not in ("and", "or"):
            message = f'a group is "and" or "or", not {shown(self.operator)}'
            raise QueryError(message)
        if not self.filters:
            message = f'an empty "{self.operator}" group says nothing; leave it out'
            raise QueryError(message)
        # (a & b) & c is a & b & c.
        flat: list[Filter] = []
        for filter_ in self.filters:
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
                f"{names}: a group takes dimensions or measures, not both; put filters "
                "on dimensions into where= and filters on measures into having="
            )

    def conditions(self) -> Iterator[Condition]:
        """Walk through the conditions of all filters."""
        for filter_ in self.filters:
            yield from filter_.conditions()

    def to_wire(self, zone: tzinfo) -> dict[str, Any]:
        """Spell the group in Cube's JSON; instants become wall clock of ``zone``."""
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
    """Refuse what is no filter.

    Raises:
        QueryError: ``filter_`` is something else, such as the ``bool`` of ``==``.
    """
    if not isinstance(filter_, Filter):
        raise QueryError(
            f"{what}: {shown(filter_)} is no filter; write member.eq(value) and the like "
            "(== compares members and makes no filter)"
        )


def _list(member: Member[Any], values: tuple[Any, ...], what: str) -> tuple[Value, ...]:
    if not values:
        message = f"{what}: an empty list matches nothing; leave the filter out"
        raise QueryError(message)
    return tuple(
        None if value is None else check_value(value, member.type, what)
        for value in values
    )


def _text(member: Member[Any], values: tuple[Any, ...], what: str) -> tuple[Value, ...]:
    if member.type not in (str, object):
        raise QueryError(
            f"{what}: only text is searched; the member is declared "
            f"{member.type.__name__}"
        )
    if not any(value is not None for value in values):
        raise QueryError(f"{what}: give at least one text")
    return tuple(v if v is None else check_value(v, str, what) for v in values)


def _one(member: Member[Any], values: tuple[Any, ...], what: str) -> tuple[Value, ...]:
    if len(values) != 1:
        # Cube would use the first and forget the others [source: firstParameter()].
        raise QueryError(f"{what}: takes exactly one value, not {len(values)}")
    value = check_value(values[0], member.type, what)
    if isinstance(value, bool):
        raise QueryError(f"{what}: true and false have no order; use .eq(...)")
    return (value,)


def _none(_: Member[Any], values: tuple[Any, ...], what: str) -> tuple[Value, ...]:
    if values:
        raise QueryError(f"{what}: takes no values")
    return ()


def _moments(
    count: int, member: Member[Any], values: tuple[Any, ...], what: str
) -> tuple[date, ...]:
    if member.type is not datetime:
        raise QueryError(f"{what}: is for time; use TimeDimension({member.name!r})")
    if len(values) != count:
        raise QueryError(
            f"{what}: takes {count} value{'s' * (count > 1)}, not {len(values)}"
        )
    return tuple(check_moment(value, what) for value in values)


def _range(
    member: Member[Any], values: tuple[Any, ...], what: str
) -> tuple[Value, ...]:
    moments = _moments(2, member, values, what)
    check_ordered(moments, what)
    return moments


def _moment(
    member: Member[Any], values: tuple[Any, ...], what: str
) -> tuple[Value, ...]:
    return _moments(1, member, values, what)


def _day(member: Member[Any], values: tuple[Any, ...], what: str) -> tuple[Value, ...]:
    moments = _moments(1, member, values, what)
    if isinstance(moments[0], datetime):
        raise QueryError(f"{what}: takes a day; for instants use .in_range(start, end)")
    return moments


_CHECKS: dict[str, Callable[[Member[Any], tuple[Any, ...], str], tuple[Value, ...]]] = {
    "list": _list,
    "text": _text,
    "one": _one,
    "none": _none,
    "range": _range,
    "moment": _moment,
    "day": _day,
}
