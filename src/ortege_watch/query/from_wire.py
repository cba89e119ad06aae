"""Queries read from Cube's JSON, in every form that servers accept.

JSON has the names of members, not their kinds or types: members are declared ``object``.
A filter restricts a measure if the query selects that measure, or if its neighbours in
a group restrict one; otherwise a dimension.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, TypeVar, cast
from zoneinfo import ZoneInfo

import attrs

from ortege_watch._checks import shown
from ortege_watch.errors import QueryError
from ortege_watch.query.filters import OPERATORS, Condition, Filter, Group
from ortege_watch.query.members import (
    Dimension,
    Measure,
    Order,
    Segment,
    TimeDimension,
    TimeSelection,
    columns_of,
    orders_by,
)
from ortege_watch.query.values import (
    Range,
    check_flag,
    check_list,
    check_range,
    check_value,
    check_zone,
    day_of,
    parse_moment,
    relative_words,
    value_to_wire,
    zone_names,
)

_LOGGER: Final = logging.getLogger("ortege_watch.query")
T = TypeVar("T")

_SYNONYMS = {"in": "equals", "notIn": "notEquals"}
# Servers refuse JSON numbers that are larger.
_SAFE = 2**53
# Nobody writes deeper groups; they would exhaust the stack.
_DEEPEST = 50
_KEYS = frozenset(
    [
        *("measures", "dimensions", "segments", "timeDimensions", "filters", "order"),
        *("limit", "offset", "total", "timezone", "ungrouped", "responseFormat"),
        *("cache", "cacheMode", "joinHints", "renewQuery"),
    ]
)
_TIME_KEYS = frozenset({"dimension", "granularity", "dateRange", "compareDateRange"})
_LEAF_KEYS = frozenset({"member", "dimension", "operator", "values"})
_ADVICE = {
    "subqueryJoins": "only Cube's SQL API accepts it",
    "maskedMembers": "every server refuses it",
    "queryType": "it goes beside the query, and the client sends it",
    "requestId": "it goes beside the query, and the client sends it",
    "rowLimit": "it is part of responses; use limit",
}


class QueryReader:
    """A query in Cube's JSON; a ``QueryError`` has the path of what is refused."""

    def __init__(self, wire: Any) -> None:
        self.wire = wire = _mapping(wire, "query", _KEYS)
        for key, value in wire.items():
            if value is None:
                raise QueryError(f"{key} must not be null; omit the key")
        # Reading the rest depends on the time zone and the members.
        self.zone = _zone(wire.get("timezone", "UTC"))
        self.measures = self.each("measures", lambda name: Measure(name, object))
        self.time = [
            self.selection(_mapping(item, path, _TIME_KEYS), path)
            for path, item in _items(wire.get("timeDimensions", []), "timeDimensions")
        ]
        # A column that a time selection also has is sent once.
        grouped = {item.name for item in self.time if item.granularity is not None}
        listed = self.each("dimensions", _undeclared)
        self.dimensions = [item for item in listed if item.name not in grouped]

    def query(self) -> dict[str, Any]:
        """Return the arguments of ``Query``."""
        where, having = self.filters()
        return {
            "measures": self.measures,
            "dimensions": self.dimensions,
            "time": self.time,
            "segments": self.each("segments", Segment),
            "where": where,
            "having": having,
            "order": self.orders(),
            "limit": self.number("limit"),
            "offset": self.number("offset") or 0,
            "total": self.flag("total"),
            "timezone": self.zone.key,
            "ungrouped": self.flag("ungrouped"),
            "cache": self.cache(),
            "response_format": self.wire.get("responseFormat"),
            "join_hints": self.wire.get("joinHints", ()),
        }

    def each(self, key: str, make: Callable[[str], T]) -> list[T]:
        """Return what ``make`` returns for each item of a list of names."""
        made: list[T] = []
        for path, name in _items(self.wire.get(key, []), key):
            with _at(path):
                made.append(make(name))
        return made

    def selection(self, item: Mapping[str, Any], path: str) -> TimeSelection:
        """Read a time selection; ``compareDateRange`` wins, as on servers."""
        with _at(f"{path}.dimension"):
            dimension = TimeDimension(item.get("dimension"))  # type: ignore[arg-type]
        with _at(f"{path}.granularity"):
            selection = TimeSelection(dimension, granularity=item.get("granularity"))
        if "compareDateRange" in item:
            here = f"{path}.compareDateRange"
            listed = _items(item["compareDateRange"], here)
            ranges = [self.range(value, at) for at, value in listed]
            with _at(here):
                selection = selection.compare(ranges)
        elif "dateRange" in item:
            here = f"{path}.dateRange"
            selection = selection.over(self.range(item["dateRange"], here))
        with _at(path):
            selection.to_wire(self.zone)
        return selection

    def range(self, value: Any, path: str) -> Range:
        """Read words, or a list of one or two moments."""
        value = day_of(value)
        if not isinstance(value, str):
            value = self.moments(value, path, drop_offset=True)
            value = value * 2 if len(value) == 1 else value
        return check_range(value, path)

    def moments(
        self, values: Any, path: str, *, drop_offset: bool = False
    ) -> list[date]:
        """Read days and times."""
        return [
            parse_moment(item, self.zone, at, drop_offset=drop_offset)
            for at, item in _items(values, path)
        ]

    def filters(self) -> tuple[list[Filter], list[Filter]]:
        """Read ``filters`` into those on dimensions and those on measures.

        ``to_wire`` writes them in this order; so what follows a filter on a measure,
        and is not a known dimension, is read as a measure.
        """
        measures = {item.name for item in self.measures}
        dimensions = {item.name for item in self.dimensions}
        dimensions |= {item.dimension.name for item in self.time}
        where: list[Filter] = []
        having: list[Filter] = []
        for path, item in _items(self.wire.get("filters", []), "filters"):
            found = self.filter(item, path)
            leaves = list(found.conditions())
            names = {leaf.member.name for leaf in leaves}
            known = names & dimensions
            measured = names & measures
            measured |= {x.member.name for x in leaves if x.operator == "measureFilter"}
            if measured and known:
                raise QueryError(
                    f"{path}: a group cannot mix dimensions and measures: "
                    f"{min(known)} is a dimension, {min(measured)} a measure"
                )
            if measured or (having and not known):
                having.append(_on_measures(found))
            else:
                where.append(found)
        return where, having

    def filter(self, item: Any, path: str, depth: int = 0) -> Filter:
        """Read a condition or a group; servers ignore an empty one [seen: 0.35.81]."""
        if isinstance(item, Mapping) and not item.keys().isdisjoint(("or", "and")):
            if len(item) > 1 or depth == _DEEPEST:
                hint = f'"or" or "and" must be the only key, at most {_DEEPEST} deep'
                raise QueryError(f"{path}: {hint}")
            [(operator, members)] = item.items()
            here = f"{path}.{operator}"
            read = [self.filter(x, at, depth + 1) for at, x in _items(members, here)]
            if not read:
                raise QueryError(f"{here} must not be empty")
            return Group(operator, tuple(read))
        leaf = _mapping(item, path, _LEAF_KEYS)
        if len(leaf.keys() & {"member", "dimension"}) != 1:
            raise QueryError(f'{path}: expected exactly one member, under "member"')
        return self.condition(leaf, path)

    def condition(self, leaf: Mapping[str, Any], path: str) -> Condition:
        """Read one condition."""
        name = leaf.get("operator")
        if isinstance(name, str):
            name = _SYNONYMS.get(name, name)
        if not isinstance(name, str) or name not in OPERATORS:
            known = ", ".join([*OPERATORS, *_SYNONYMS])
            message = f"{path}.operator must be one of {known}, got {shown(name)}"
            raise QueryError(message)
        operator = OPERATORS[name]
        key = "member" if "member" in leaf else "dimension"
        with _at(f"{path}.{key}"):
            member = (TimeDimension if operator.dated else _undeclared)(leaf[key])
        here = f"{path}.values"
        if operator.takes != "none" and "values" not in leaf:
            raise QueryError(f"{here} is missing")
        values: list[Any] = []
        if operator.dated:
            name, values = self.dated(name, leaf["values"], here)
        elif operator.takes != "none":
            values = [
                # As on servers: every value but null becomes a string.
                None
                if item is None
                else value_to_wire(check_value(_exact(item), object, at))
                for at, item in _items(leaf["values"], here)
            ]
        with _at(here):
            condition = Condition(member, name, tuple(values))
            condition.to_wire(self.zone)
        return condition

    def dated(self, operator: str, value: Any, path: str) -> tuple[str, list[Any]]:
        """Read words, or two moments for a range, or one.

        With one value Cube 0.35.81 reads a range, or ``onTheDate``, as up to today
        [seen]; 1.7.43 reads it as the whole day. ``onTheDate`` with two is a range on
        every server.
        """
        texts = list(check_list(value, path))
        ranged = OPERATORS[operator].takes in {"range", "day"}
        if len(texts) == 1:
            if words := relative_words(texts[0]):
                return operator, [words]
            texts = [day_of(texts[0])] if ranged else texts
        moments = self.moments(texts, path)
        match operator, moments:
            case "inDateRange" | "notInDateRange", [day]:
                return operator, [day, day]
            case "onTheDate", [start, end]:
                same = start == end and not isinstance(start, datetime)
                return ("onTheDate", [start]) if same else ("inDateRange", [start, end])
            case _:
                return operator, moments

    def orders(self) -> list[Order]:
        """Read ``order``: pairs, or an object. Of repetitions the first one counts.

        Servers ignore a member that is not selected [seen: 0.35.81, 1.7.43].
        """
        columns = columns_of((*self.measures, *self.dimensions), self.time)
        value = self.wire.get("order", [])
        pairs = list(value.items()) if isinstance(value, Mapping) else value
        orders: dict[str, Order] = {}
        for path, pair in _items(pairs, "order"):
            match pair:
                case [str() as name, direction]:
                    with _at(f"order.{name}"):
                        order = Order(columns.get(name) or _undeclared(name), direction)
                    if orders_by(order.name, columns):
                        orders.setdefault(order.name, order)
                    else:
                        _LOGGER.warning(
                            "order by %s dropped: it is not selected, so servers ignore it",
                            name,
                        )
                case _:
                    expected = '[member, "asc"] or [member, "desc"]'
                    raise QueryError(f"{path} must be {expected}, got {shown(pair)}")
        return list(orders.values())

    def number(self, key: str) -> int | None:
        """Read an integer, which older servers also accept as a string."""
        match self.wire.get(key):
            case str() as text if text.isascii() and text.isdigit() and len(text) < 10:
                return int(text)
            case value:
                return cast("int | None", _exact(value))

    def flag(self, key: str) -> bool:
        """Read a boolean, which servers also accept as a string."""
        value = self.wire.get(key, False)
        if isinstance(value, str) and value.lower() in {"true", "false"}:
            return value.lower() == "true"
        return check_flag(value, key)

    def cache(self) -> str | None:
        """Read the cache mode, or ``renewQuery`` of servers before 1.5.10."""
        mode = self.wire.get("cache", self.wire.get("cacheMode"))
        if mode is None and self.flag("renewQuery"):
            return "no-cache"
        return cast("str | None", mode)


def _undeclared(name: str) -> Dimension[object]:
    return Dimension(name, object)


def _exact(value: Any) -> Any:
    """Return a JSON number as servers print it: without binary digits, 10.0 as 10."""
    number = Decimal(float.__repr__(value)) if isinstance(value, float) else value
    if (
        isinstance(number, Decimal)
        and number.is_finite()
        # Not abs(), which raises Overflow where the context allows no such exponent.
        and -_SAFE < number < _SAFE
        and number == number.to_integral_value()
    ):
        return int(number)
    return number


def _on_measures(found: Filter) -> Filter:
    if isinstance(found, Group):
        return Group(found.operator, tuple(map(_on_measures, found.filters)))
    [leaf] = found.conditions()
    return attrs.evolve(leaf, member=Measure(leaf.member.name, leaf.member.type))


def _zone(name: Any) -> ZoneInfo:
    """Return a time zone; servers ignore the case of its name, and 1.7 takes "" as UTC."""
    try:
        return check_zone(name if name != "" else "UTC")
    except QueryError:
        if (
            not isinstance(name, str)
            or (known := zone_names().get(name.lower())) is None
        ):
            raise
        return check_zone(known)


def _items(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the paths and the items of a JSON list."""
    for i, item in enumerate(check_list(value, path)):
        yield f"{path}[{i}]", item


def _mapping(value: Any, path: str, keys: frozenset[str]) -> Mapping[str, Any]:
    """Return a JSON object; refuse other keys."""
    if not isinstance(value, Mapping):
        raise QueryError(f"{path} must be an object, got {shown(value)}")
    for key in value:
        if key not in keys:
            advice = _ADVICE.get(key, f"use {', '.join(sorted(keys))}")
            raise QueryError(f"{path}: unknown key {shown(key)}; {advice}")
    return cast("Mapping[str, Any]", value)


@contextmanager
def _at(path: str) -> Iterator[None]:
    """Put the path before the message of a ``QueryError``."""
    try:
        yield
    except QueryError as error:
        raise QueryError(f"{path}: {error}") from error
