"""Queries read from Cube's JSON, in every form that servers take.

JSON has the names of members, not their kinds or types: members are read as ``object``.
A filter restricts a measure where the query asks for that measure, or where its
neighbours in a group do; otherwise a dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from typing import Any, TypeVar, cast
from zoneinfo import ZoneInfo, available_timezones

import attrs

from ortege_watch.errors import QueryError
from ortege_watch.query.filters import OPERATORS, Condition, Filter, Group
from ortege_watch.query.members import (
    Dimension,
    Measure,
    Order,
    Orderable,
    Segment,
    TimeDimension,
    TimeSelection,
)
from ortege_watch.query.values import (
    Range,
    check_range,
    check_value,
    check_zone,
    parse_moment,
    plain,
    shown,
)

__all__ = ["read_query"]

T = TypeVar("T")
Q = TypeVar("Q")

_SYNONYMS = {"in": "equals", "notIn": "notEquals"}
# Deeper groups are no query that anybody wrote; they would exhaust the stack.
_DEEPEST = 50
_SLOTS = {
    "time": "timeDimensions",
    "join_hints": "joinHints",
    "response_format": "responseFormat",
}
_KEYS = frozenset(
    [
        "measures",
        "dimensions",
        "segments",
        "timeDimensions",
        "filters",
        "order",
        "limit",
        "offset",
        "total",
        "timezone",
        "ungrouped",
        "responseFormat",
        "cache",
        "cacheMode",
        "joinHints",
        "renewQuery",
    ]
)
_TIME_KEYS = frozenset({"dimension", "granularity", "dateRange", "compareDateRange"})
_LEAF_KEYS = frozenset({"member", "dimension", "operator", "values"})
_REFUSED = {
    "subqueryJoins": "is taken by Cube's SQL API alone",
    "maskedMembers": "is refused by every server",
    "queryType": "stands beside the query, not in it; the client sends it",
    "requestId": "stands beside the query, not in it; the client sends it",
    "rowLimit": "is what servers answer; ask with limit",
}


def read_query(wire: Any, make: Callable[..., Q]) -> Q:
    """Read a query; see ``Query.from_wire``.

    Args:
        wire: the query in Cube's JSON form.
        make: :class:`Query`, which imports this module.

    Raises:
        QueryError: with the path of what is refused.
    """
    match wire:
        case str() | bytes():
            raise QueryError("query: this is JSON text; parse it first")
        case [*_]:
            raise QueryError("query: a list of queries is a blend; read each of them")
        case _:
            return _Reader(_mapping(wire, "query", _KEYS)).query(make)


class _Reader:
    """Read one query: its zone and its members are what the rest is read by."""

    def __init__(self, wire: Mapping[str, Any]) -> None:
        self.wire = wire
        for key, value in wire.items():
            if value is None:
                raise QueryError(f"{key}: null is refused; leave the key out")
        with _at("timezone"):
            self.zone = _zone(wire.get("timezone", "UTC"))

    def query(self, make: Callable[..., Q]) -> Q:
        """Read the whole query."""
        self.measures = self.each("measures", lambda name: Measure(name, object))
        self.time = [
            self.selection(_mapping(item, path, _TIME_KEYS), path)
            for path, item in _list(
                self.wire.get("timeDimensions", []), "timeDimensions"
            )
        ]
        self.dimensions: list[Dimension[object]] = []
        for item in self.each("dimensions", _dimension):
            if isinstance(item, Dimension):
                self.dimensions.append(item)
            elif all(selection.name != item.name for selection in self.time):
                self.time.append(item)
        where, having = self.filters()
        try:
            return make(
                measures=self.measures,
                dimensions=self.dimensions,
                time=self.time,
                segments=self.each("segments", Segment),
                where=where,
                having=having,
                order=self.orders(),
                limit=self.number("limit"),
                offset=self.number("offset") or 0,
                total=self.flag("total"),
                timezone=self.zone.key,
                ungrouped=self.flag("ungrouped"),
                cache=self.cache(),
                response_format=self.wire.get("responseFormat"),
                join_hints=self.wire.get("joinHints", ()),
            )
        except QueryError as error:
            slot, colon, text = str(error).partition(":")
            raise QueryError(_SLOTS.get(slot, slot) + colon + text) from error

    def each(self, key: str, make: Callable[[str], T]) -> list[T]:
        """Make something of each item of a list of names."""
        made: list[T] = []
        for path, name in _list(self.wire.get(key, []), key):
            with _at(path):
                made.append(make(name))
        return made

    def selection(self, item: Mapping[str, Any], path: str) -> TimeSelection:
        """Read a time selection.

        Of ``dateRange`` and ``compareDateRange`` together servers take the latter.
        """
        with _at(f"{path}.dimension"):
            dimension = TimeDimension(item.get("dimension"))  # type: ignore[arg-type]
        with _at(f"{path}.granularity"):
            selection = TimeSelection(dimension, granularity=item.get("granularity"))
        if "compareDateRange" in item:
            here = f"{path}.compareDateRange"
            ranges = [
                self.range(r, at) for at, r in _list(item["compareDateRange"], here)
            ]
            with _at(here):
                selection = selection.compare(cast("list[Any]", ranges))
        elif "dateRange" in item:
            selection = selection.over(
                self.range(item["dateRange"], f"{path}.dateRange")
            )
        with _at(path):
            selection.to_wire(self.zone)
        return selection

    def range(self, value: Any, path: str) -> Range:
        """Read words, or a list of one or two moments."""
        if isinstance(value, str):
            return check_range(value, path)
        moments = self.moments(value, path, drop_offset=True)
        return check_range(moments * 2 if len(moments) == 1 else moments, path)

    def moments(
        self, values: Any, path: str, *, drop_offset: bool = False
    ) -> list[date]:
        """Read days and times."""
        return [
            parse_moment(item, self.zone, at, drop_offset=drop_offset)
            for at, item in _list(values, path)
        ]

    def filters(self) -> tuple[list[Filter], list[Filter]]:
        """Read ``filters`` into those on dimensions and those on measures.

        ``to_wire`` writes them in this order; so what stands behind a filter on a
        measure, and is not known to be a dimension, is taken for a measure.
        """
        measures = {item.name for item in self.measures}
        dimensions = {item.name for item in self.dimensions}
        dimensions |= {item.dimension.name for item in self.time}
        where: list[Filter] = []
        having: list[Filter] = []
        for path, item in _list(self.wire.get("filters", []), "filters"):
            found = self.filter(item, path)
            if found is None:
                continue
            leaves = list(found.conditions())
            names = {leaf.member.name for leaf in leaves}
            known = names & dimensions
            measured = names & measures
            measured |= {x.member.name for x in leaves if x.operator == "measureFilter"}
            if measured and known:
                raise QueryError(
                    f"{path}: a group takes dimensions or measures, not both: "
                    f"{min(known)} is a dimension, {min(measured)} a measure"
                )
            if measured or (having and not known):
                having.append(_on_measures(found))
            else:
                where.append(found)
        return where, having

    def filter(self, item: Any, path: str, depth: int = 0) -> Filter | None:
        """Read a condition or a group; ``None`` where a group is empty.

        Servers take a group of nothing, ``or`` as well, for no restriction
        [seen on Cube 0.35.81].
        """
        if isinstance(item, Mapping) and not item.keys().isdisjoint(("or", "and")):
            if len(item) > 1 or depth == _DEEPEST:
                hint = f'give "or" or "and", nothing beside, at most {_DEEPEST} deep'
                raise QueryError(f"{path}: {hint}")
            [(operator, members)] = item.items()
            here = f"{path}.{operator}"
            read = [self.filter(x, at, depth + 1) for at, x in _list(members, here)]
            found = tuple(member for member in read if member is not None)
            return Group(operator, found) if found else None
        leaf = _mapping(item, path, _LEAF_KEYS)
        if len(leaf.keys() & {"member", "dimension"}) != 1:
            raise QueryError(f'{path}: name one member, under "member"')
        return self.condition(leaf, path)

    def condition(self, leaf: Mapping[str, Any], path: str) -> Condition:
        """Read one condition."""
        operator = leaf.get("operator")
        if not isinstance(operator, str) or operator not in {*OPERATORS, *_SYNONYMS}:
            known = ", ".join([*OPERATORS, *_SYNONYMS])
            raise QueryError(f"{path}.operator: {shown(operator)} is none of {known}")
        operator = _SYNONYMS.get(operator, operator)
        takes = OPERATORS[operator]
        dated = takes in {"range", "day", "moment"}
        key = "member" if "member" in leaf else "dimension"
        with _at(f"{path}.{key}"):
            member = (TimeDimension if dated else _undeclared)(leaf[key])
        here = f"{path}.values"
        values: list[Any] = []
        if dated:
            values = self.moments(leaf.get("values", []), here)
            operator, values = _days(operator, values, here)
        elif takes != "none":
            values = [
                _scalar(item, at) for at, item in _list(leaf.get("values", []), here)
            ]
        with _at(here):
            condition = Condition(member, operator, tuple(values))
            condition.to_wire(self.zone)
        return condition

    def orders(self) -> list[Order]:
        """Read ``order``: pairs, or an object. Of repetitions the first one counts."""
        members: dict[str, Orderable] = {}
        for item in (*self.measures, *self.dimensions):
            members[item.name] = item
        for selection in self.time:
            if selection.granularity is not None:
                members.setdefault(selection.dimension.name, selection)
                members[selection.name] = selection
        value = self.wire.get("order", [])
        pairs = value.items() if isinstance(value, Mapping) else _pairs(value)
        orders: dict[str, Order] = {}
        for name, direction in pairs:
            with _at(f"order.{name}"):
                if name not in members:
                    raise QueryError("is not asked for, and a server would ignore it")
                order = Order(members[name], cast("Any", direction))
                orders.setdefault(order.name, order)
        return list(orders.values())

    def number(self, key: str) -> int | None:
        """Read a whole number, which older servers also took as text."""
        match self.wire.get(key):
            case str() as text if text.isascii() and text.isdigit() and len(text) < 10:
                return int(text)
            case Decimal() as number if number.is_finite() and number % 1 == 0:
                return int(number)
            case value:
                return cast("int | None", value)

    def flag(self, key: str) -> bool:
        """Read true or false, which servers also take as text."""
        value = self.wire.get(key, False)
        if isinstance(value, str) and value.lower() in {"true", "false"}:
            return value.lower() == "true"
        if not isinstance(value, bool):
            raise QueryError(f"{key}: give true or false, not {shown(value)}")
        return value

    def cache(self) -> str | None:
        """Read the cache mode; ``renewQuery`` is how servers before 1.5.10 said it."""
        mode = self.wire.get("cache", self.wire.get("cacheMode"))
        if mode is None and self.flag("renewQuery"):
            return "no-cache"
        return cast("str | None", mode)


def _undeclared(name: str) -> Dimension[object]:
    return Dimension(name, object)


def _dimension(name: Any) -> Dimension[object] | TimeSelection:
    if isinstance(name, str) and name.count(".") == 2:
        base, _, granularity = name.rpartition(".")
        return TimeDimension(base).by(granularity)
    return _undeclared(name)


def _on_measures(found: Filter) -> Filter:
    if isinstance(found, Group):
        return Group(found.operator, tuple(map(_on_measures, found.filters)))
    [leaf] = found.conditions()
    return attrs.evolve(leaf, member=Measure(leaf.member.name, leaf.member.type))


def _days(operator: str, values: list[Any], path: str) -> tuple[str, list[Any]]:
    """Give ranges two moments and ``onTheDate`` one day, whatever they came with.

    With one value Cube 0.35.81 drops either without a word [seen]; newer servers take
    it for the whole day. ``onTheDate`` with two is a range to every server.
    """
    match operator, values:
        case "inDateRange" | "notInDateRange" | "onTheDate", [datetime()]:
            raise QueryError(f"{path}: one instant is no range; give two")
        case "inDateRange" | "notInDateRange", [day]:
            return operator, [day, day]
        case "onTheDate", [start, end]:
            same = start == end and not isinstance(start, datetime)
            return ("onTheDate", [start]) if same else ("inDateRange", values)
        case _:
            return operator, values


def _scalar(value: Any, path: str) -> str | None:
    """Spell a value as servers do: they turn all of them into text, but for null."""
    return None if value is None else plain(check_value(value, object, path))


def _zone(name: Any) -> ZoneInfo:
    """Find a zone in whichever case its name is written, as servers do."""
    try:
        return check_zone(name)
    except QueryError:
        if not isinstance(name, str) or (known := _zones().get(name.lower())) is None:
            raise
        return check_zone(known)


@cache
def _zones() -> dict[str, str]:
    return {name.lower(): name for name in available_timezones()}


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    for path, item in _list(value, "order"):
        match item:
            case [str() as name, direction]:
                yield name, direction
            case _:
                raise QueryError(f'{path}: give [member, "asc"] or [member, "desc"]')


def _list(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the items of a JSON list with their paths."""
    if not isinstance(value, list | tuple):
        raise QueryError(f"{path}: give a list, not {shown(value)}")
    for i, item in enumerate(cast("Iterable[Any]", value)):
        yield f"{path}[{i}]", item


def _mapping(value: Any, path: str, keys: frozenset[str]) -> Mapping[str, Any]:
    """Return a JSON object that has no other keys."""
    if not isinstance(value, Mapping):
        raise QueryError(f"{path}: give an object, not {shown(value)}")
    for key in value:
        if key not in keys:
            hint = _REFUSED.get(key, f"is none of {', '.join(sorted(keys))}")
            raise QueryError(f"{path}: {shown(key)} {hint}")
    return cast("Mapping[str, Any]", value)


@contextmanager
def _at(path: str) -> Iterator[None]:
    """Put the path before the errors of what the block makes."""
    try:
        yield
    except QueryError as error:
        raise QueryError(f"{path}: {error}") from error
