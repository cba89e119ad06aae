"""A query: what to ask, checked when it is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeVar
from zoneinfo import ZoneInfo

import attrs

from ortege_watch.errors import QueryError
from ortege_watch.query.filters import Filter, check_filter
from ortege_watch.query.from_wire import read_query
from ortege_watch.query.members import (
    Dimension,
    Measure,
    Order,
    Segment,
    TimeDimension,
    TimeSelection,
)
from ortege_watch.query.values import check_text, check_zone, shown

__all__ = [
    "CACHE_MODES",
    "MAX_LIMIT",
    "RESPONSE_FORMATS",
    "Query",
    "Selected",
]

# CUBEJS_DB_QUERY_LIMIT of a server that leaves it alone; above it answers 500.
MAX_LIMIT = 50_000
CACHE_MODES = (
    "stale-if-slow",
    "stale-while-revalidate",
    "must-revalidate",
    "no-cache",
)
RESPONSE_FORMATS = ("default", "compact", "columnar")

Selected: TypeAlias = Measure[Any] | Dimension[Any] | TimeDimension | TimeSelection

T = TypeVar("T")


def _items(value: Any, slot: str) -> tuple[Any, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise QueryError(
            f"{slot}: takes a list; write {slot}=[...], not {shown(value)}"
        )
    return tuple(value)


def _members(value: Any, slot: str, *kinds: type[Any]) -> tuple[Any, ...]:
    """Check the members of a slot; drop repetitions, refuse contradictions."""
    found: dict[str, Any] = {}
    for item in _items(value, slot):
        if not isinstance(item, kinds):
            raise QueryError(f"{slot}: {_misplaced(item, slot)}")
        first = found.setdefault(item.name, item)
        if first != item:
            raise QueryError(
                f"{slot}: {item.name} is there twice, as {first} and {item}"
            )
    return tuple(found.values())


def _misplaced(item: Any, slot: str) -> str:
    match item:
        case Measure():
            home = "measures="
        case Dimension() | TimeDimension():
            home = "dimensions="
            if slot == "time" and isinstance(item, TimeDimension):
                return f'{shown(item)} selects nothing here; add .by("day") or .over("today")'
        case TimeSelection():
            home = "time="
        case Segment():
            home = "segments="
        case Filter():
            home = "where= or having="
        case str():
            return f'{shown(item)} is a string; declare the member, such as Measure("{item}")'
        case _:
            return f"{shown(item)} is no member of a cube"
    return f"{shown(item)} belongs into {home}"


def _measures(value: Sequence[Measure[Any]]) -> tuple[Measure[Any], ...]:
    return _members(value, "measures", Measure)


def _dimensions(
    value: Sequence[Dimension[Any] | TimeDimension],
) -> tuple[Dimension[Any] | TimeDimension, ...]:
    return _members(value, "dimensions", Dimension, TimeDimension)


def _time(value: Sequence[TimeSelection]) -> tuple[TimeSelection, ...]:
    return _members(value, "time", TimeSelection)


def _segments(value: Sequence[Segment]) -> tuple[Segment, ...]:
    return _members(value, "segments", Segment)


def _filters(value: Any, slot: str, kind: str, other: str) -> tuple[Filter, ...]:
    filters = _items(value, slot)
    for item in filters:
        check_filter(item, slot)
        if item.kind != kind:
            raise QueryError(
                f"{slot}: {shown(item)} restricts a {item.kind}; put it into {other}="
            )
    return filters


def _where(value: Sequence[Filter]) -> tuple[Filter, ...]:
    return _filters(value, "where", "dimension", "having")


def _having(value: Sequence[Filter]) -> tuple[Filter, ...]:
    return _filters(value, "having", "measure", "where")


def _order(value: Sequence[Order]) -> tuple[Order, ...]:
    orders = _items(value, "order")
    for item in orders:
        if not isinstance(item, Order):
            message = f"order: {shown(item)} is no order; write member.asc() or .desc()"
            raise QueryError(message)
    names = [item.name for item in orders]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise QueryError(f"order: {', '.join(repeated)} is there twice")
    return orders


def _count(value: Any, slot: str, most: int | None = None) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        message = f"{slot}: give a whole number from 0 on, not {shown(value)}"
        raise QueryError(message)
    if most is not None and value > most:
        raise QueryError(
            f"{slot}: {shown(value)} is more than the {most} rows that a server gives at "
            "once; ask for pages with limit and offset"
        )
    return int(value)


def _limit(value: int | None) -> int | None:
    return None if value is None else _count(value, "limit", MAX_LIMIT)


def _offset(value: int) -> int:
    return _count(value, "offset")


def _flag(value: Any, slot: str) -> bool:
    if not isinstance(value, bool):
        raise QueryError(f"{slot}: give True or False, not {shown(value)}")
    return value


def _total(value: bool) -> bool:
    return _flag(value, "total")


def _ungrouped(value: bool) -> bool:
    return _flag(value, "ungrouped")


def _choice(value: str | None, slot: str, choices: Sequence[str]) -> str | None:
    if value is not None and value not in choices:
        raise QueryError(f"{slot}: {shown(value)} is none of {', '.join(choices)}")
    return value


def _cache(value: str | None) -> str | None:
    return _choice(value, "cache", CACHE_MODES)


def _response_format(value: str | None) -> str | None:
    return _choice(value, "response_format", RESPONSE_FORMATS)


def _join_hints(value: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    hints = tuple(_items(hint, "join_hints") for hint in _items(value, "join_hints"))
    for hint in hints:
        for cube in hint:
            if not isinstance(cube, str):
                raise QueryError(f"join_hints: {shown(cube)} is no name of a cube")
            check_text(cube, "join_hints")
    return hints


def _timezone(value: str) -> str:
    return check_zone(value).key


@attrs.frozen(kw_only=True, repr=False)
class Query:
    """Ask for measures, grouped by dimensions and time, restricted by filters.

    Lists are stored as tuples. A member that is named twice counts once.

    Attributes:
        measures: what to aggregate.
        dimensions: what to group by.
        time: time dimensions, grouped by a granularity or restricted to a range.
        segments: filters that the cube defines.
        where: filters on dimensions; all must hold.
        having: filters on measures, applied after aggregating; all must hold.
        order: what to order by; empty: the server's order (time, else the first
            measure descending, else the first dimension).
        limit: rows at most, 0 to 50,000; ``None``: the server's default, 10,000.
        offset: rows to skip.
        total: count the rows without limit and offset (a second query to the server).
        timezone: the IANA zone of days and times, UTC unless given.
        ungrouped: rows without aggregating; on Cube 0.35 the cube's primary key must
            be among the dimensions.
        cache: how the server's cache is used; honoured by REST from Cube 1.5.10 on.
        response_format: ``"compact"`` (0.35 and later) or ``"columnar"`` (1.6.62 and
            later) rows.
        join_hints: paths of cubes that joins take; Cube 1.3.40 and later, refused by
            0.35.

    Raises:
        QueryError: anything that a server refuses or silently ignores.
    """

    measures: tuple[Measure[Any], ...] = attrs.field(default=(), converter=_measures)
    dimensions: tuple[Dimension[Any] | TimeDimension, ...] = attrs.field(
        default=(), converter=_dimensions
    )
    time: tuple[TimeSelection, ...] = attrs.field(default=(), converter=_time)
    segments: tuple[Segment, ...] = attrs.field(default=(), converter=_segments)
    where: tuple[Filter, ...] = attrs.field(default=(), converter=_where)
    having: tuple[Filter, ...] = attrs.field(default=(), converter=_having)
    order: tuple[Order, ...] = attrs.field(default=(), converter=_order)
    limit: int | None = attrs.field(default=None, converter=_limit)
    offset: int = attrs.field(default=0, converter=_offset)
    total: bool = attrs.field(default=False, converter=_total)
    timezone: str = attrs.field(default="UTC", converter=_timezone)
    ungrouped: bool = attrs.field(default=False, converter=_ungrouped)
    cache: str | None = attrs.field(default=None, converter=_cache)
    response_format: str | None = attrs.field(default=None, converter=_response_format)
    join_hints: tuple[tuple[str, ...], ...] = attrs.field(
        default=(), converter=_join_hints
    )

    def __attrs_post_init__(self) -> None:
        columns = self.columns
        if not columns:
            raise QueryError(
                "the query asks for nothing; give measures=[...], dimensions=[...] or "
                'time=[time_dimension.by("day")]'
            )
        names = [item.name for item in (*self.measures, *self.dimensions)]
        if both := sorted({name for name in names if names.count(name) > 1}):
            raise QueryError(
                f"dimensions: {both[0]} is a measure as well; name it once"
            )
        if sum(selection.compared is not None for selection in self.time) > 1:
            message = "time: only one time selection of a query can .compare(ranges)"
            raise QueryError(message)
        for order in self.order:
            self._check_order(order)
        # What depends on the zone, such as a range that ends before it starts, shows
        # only when it is written out.
        self.to_wire()

    def _check_order(self, order: Order) -> None:
        target = self.columns.get(order.name)
        if target is None:
            raise QueryError(
                f"order: {order.name} is not asked for, and a server would ignore it; "
                "add it to measures, dimensions or time (with .by)"
            )
        if isinstance(order.member, TimeSelection) and (
            not isinstance(target, TimeSelection) or target.name != order.member.name
        ):
            raise QueryError(
                f"order: a server takes {order.name} for {target.name}; order by that"
            )

    @property
    def columns(self) -> dict[str, Selected]:
        """Map the columns of the result to the members that declare them.

        A time selection has two: ``cube.member.day`` and ``cube.member``, unless the
        latter is a dimension of the query; of several granularities the first has it.
        """
        columns: dict[str, Selected] = {item.name: item for item in self.measures}
        columns.update((item.name, item) for item in self.dimensions)
        for selection in self.time:
            if selection.granularity is not None:
                columns[selection.name] = selection
                columns.setdefault(selection.dimension.name, selection)
        return columns

    @property
    def measure_names(self) -> tuple[str, ...]:
        """Name the measures, in order."""
        return tuple(item.name for item in self.measures)

    @property
    def zone(self) -> ZoneInfo:
        """Give the zone of the days and times of the query and of its result."""
        return ZoneInfo(self.timezone)

    @property
    def compares(self) -> bool:
        """Say whether the query has several results, one for each compared range."""
        return any(selection.compared is not None for selection in self.time)

    def filter(self, *filters: Filter) -> Query:
        """Return a query that is restricted further; measures go to ``having``."""
        for item in filters:
            check_filter(item, "filter")
        return attrs.evolve(
            self,
            where=self.where + tuple(f for f in filters if f.kind == "dimension"),
            having=self.having + tuple(f for f in filters if f.kind == "measure"),
        )

    def limit_to(self, limit: int | None) -> Query:
        """Return a query of at most ``limit`` rows; ``None``: the server's default."""
        return attrs.evolve(self, limit=limit)

    def order_by(self, *orders: Order) -> Query:
        """Return a query with this order in place of its own."""
        return attrs.evolve(self, order=orders)

    def to_wire(self) -> dict[str, Any]:
        """Give the query as Cube's JSON, with nothing in it that says nothing.

        ``cache`` is left out: where it goes depends on the protocol. The time zone is
        named where it is not UTC or where something depends on it: a server's default
        can be another one (``CUBEJS_DEFAULT_TIMEZONE``).
        """
        zone = self.zone
        filters = self.where + self.having
        wire: dict[str, Any] = {
            "measures": [item.name for item in self.measures],
            "dimensions": [item.name for item in self.dimensions],
            "timeDimensions": [item.to_wire(zone) for item in self.time],
            "segments": [item.name for item in self.segments],
            "filters": [item.to_wire(zone) for item in filters],
            "order": [[item.name, item.direction] for item in self.order],
            "offset": self.offset,
            "total": self.total,
            "ungrouped": self.ungrouped,
            "responseFormat": self.response_format,
            "joinHints": [list(hint) for hint in self.join_hints],
        }
        wire = {key: value for key, value in wire.items() if value}
        if self.limit is not None:
            wire["limit"] = self.limit
        dated = any(leaf.dated for item in filters for leaf in item.conditions())
        if self.timezone != "UTC" or self.time or dated:
            wire["timezone"] = self.timezone
        return wire

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Query:
        """Read a query from Cube's JSON, in any form that a server takes.

        Legacy forms are understood, too: filters under ``dimension``, an order as an
        object, numbers as values, empty lists, ``renewQuery``. Member types are not
        part of JSON: measures are read as ``Decimal``, dimensions as ``str``.

        Raises:
            QueryError: with the path of what is refused, such as ``filters[0].values``.
        """
        return read_query(wire, cls)

    def __repr__(self) -> str:
        shown = [
            f"{field.name}={list(value) if isinstance(value, tuple) else value!r}"
            for field in attrs.fields(Query)
            if (value := getattr(self, field.name)) != field.default
        ]
        return f"Query({', '.join(shown)})"
