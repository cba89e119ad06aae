"""Queries, which are checked when they are built."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Literal, Protocol, TypeAlias, get_args
from zoneinfo import ZoneInfo

import attrs

from ortege_watch import _json as codec
from ortege_watch._checks import shown
from ortege_watch.errors import InvalidArgument, QueryError
from ortege_watch.query.filters import (
    OPERATORS,
    Condition,
    Filter,
    Member,
    check_filter,
)
from ortege_watch.query.from_wire import QueryReader
from ortege_watch.query.members import (
    Dimension,
    Measure,
    Order,
    Segment,
    Selected,
    TimeDimension,
    TimeSelection,
    columns_of,
    is_comparison,
    orders_by,
)
from ortege_watch.query.values import (
    UNITS,
    check_flag,
    check_list,
    check_text,
    check_zone,
)

# The default of CUBEJS_DB_QUERY_LIMIT; above it servers answer 500.
MAX_LIMIT = 50_000

_LONGEST_REPR = 2_000

CacheMode: TypeAlias = Literal[
    "stale-if-slow", "stale-while-revalidate", "must-revalidate", "no-cache"
]
"""How a server uses its cache; see ``Query.cache``."""
ResponseFormat: TypeAlias = Literal["default", "compact", "columnar"]
"""How a server writes the rows; see ``Query.response_format``."""

_Dimension: TypeAlias = Dimension[Any] | TimeDimension

# Names of arguments that differ from the keys of Cube's JSON.
_KEYS = {
    "time": "timeDimensions",
    "join_hints": "joinHints",
    "response_format": "responseFormat",
}

_KINDS: dict[str, type[Any] | tuple[type[Any], ...]] = {
    "measures": Measure,
    "dimensions": (Dimension, TimeDimension),
    "time": TimeSelection,
    "segments": Segment,
    "where= or having": Filter,
    "order": Order,
}


# What the items of an argument are called, and an example.
_EXPECTED = {
    "measures": ("member", 'Measure("cube.total")'),
    "dimensions": ("member", 'Dimension("cube.name") or TimeDimension("cube.time")'),
    "time": ("time selection", 'TimeDimension("cube.time").by("day")'),
    "segments": ("segment", 'Segment("cube.name")'),
    "where": ("filter", ""),
    "having": ("filter", ""),
    "order": ("order", ""),
}


def _items(value: Any, slot: str) -> tuple[Any, ...]:
    """Return the items of a list; one alone is a list of one."""
    # A bool is what == makes of a member, which check_filter() explains.
    alone = isinstance(value, Member | TimeSelection | Filter | Order | bool)
    if alone:
        return (value,)
    name, _ = _EXPECTED[slot]
    article = "an" if slot == "order" else "a"
    return check_list(value, slot, f"{article} {name} or a list of {name}s")


def _members(value: Any, slot: str) -> tuple[Any, ...]:
    """Return the items of a slot without repetitions; refuse contradictions.

    Ranges of one time dimension do not contradict: like filters, all must hold [seen].
    """
    found: dict[Any, Any] = {}
    for item in _items(value, slot):
        if not isinstance(item, _KINDS[slot]):
            raise QueryError(f"{slot}: {_misplaced(item, slot)}")
        first = found.setdefault(item if slot == "time" else item.name, item)
        if first != item:
            message = f"{slot}: {item.name} is listed twice, as {first} and {item}"
            raise QueryError(message)
    return tuple(found.values())


def _misplaced(item: Any, slot: str) -> str:
    if slot == "order":
        return f"expected member.asc() or member.desc(), got {shown(item)}"
    if slot == "time" and isinstance(item, TimeDimension):
        return f'{shown(item)} needs .by("day") or .over("today") here'
    for home, kinds in _KINDS.items():
        if isinstance(item, kinds):
            return f"{shown(item)} belongs in {home}="
    name, example = _EXPECTED[slot]
    return f"expected {name}s such as {example}, got {shown(item)}"


def _filters(value: Any, slot: str, kind: str, other: str) -> tuple[Filter, ...]:
    filters = _items(value, slot)
    for item in filters:
        check_filter(item, slot)
        if item.kind != kind:
            raise QueryError(
                f"{slot}: {shown(item)} restricts a {item.kind}; put it into {other}="
            )
    return filters


def _count(value: Any, slot: str, most: int | None = None) -> int:
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if not is_int or value < 0 or (most is not None and value > most):
        allowed = "of at least 0" if most is None else f"between 0 and {most}"
        raise QueryError(f"{slot} must be an integer {allowed}, got {shown(value)}")
    return int(value)


def _choice(value: Any, slot: str, choices: Any) -> Any:
    allowed = get_args(choices)
    if value is not None and value not in allowed:
        listed = ", ".join(map(repr, allowed))
        raise QueryError(f"{slot} must be one of {listed}, got {shown(value)}")
    return value


def _join_hints(value: Any) -> tuple[tuple[str, ...], ...]:
    paths: list[tuple[str, ...]] = []
    for i, path in enumerate(check_list(value, "join_hints")):
        what = f"join_hints[{i}]"
        paths.append(tuple(check_text(cube, what) for cube in check_list(path, what)))
    return tuple(paths)


def summary(wire: Mapping[str, Any]) -> str:
    """Return the first members of a query in its wire form, in brackets, for log lines."""
    times = [
        ".".join(filter(None, (each["dimension"], each.get("granularity"))))
        for each in wire.get("timeDimensions", ())
    ]
    names = [*wire.get("measures", ()), *wire.get("dimensions", ()), *times]
    more = [f"+{len(names) - 3}"] if len(names) > 3 else []
    return f"[{', '.join(names[:3] + more)}]"


def _as_selection(name: str) -> str:
    """Return what to write instead of ``cube.time.day``; empty for another name."""
    base, _, unit = name.rpartition(".")
    is_time = "." in base and unit in UNITS
    return f'TimeDimension("{base}").by("{unit}")' if is_time else ""


class _Found(Protocol):
    """What ``Query.validate`` reads of a ``MemberMeta``."""

    @property
    def kind(self) -> str: ...
    @property
    def public(self) -> bool: ...
    @property
    def granularity_names(self) -> Collection[str]: ...


class _Meta(Protocol):
    """What ``Query.validate`` asks a ``Meta``, which this package cannot import."""

    def member(self, name: str) -> _Found: ...


def _problems(member: Member[Any], meta: _Meta, *, sure: bool) -> Iterator[str]:
    """Yield what is wrong with a member; ``sure``: its kind is declared."""
    name = member.name
    try:
        found = meta.member(name)
    except InvalidArgument as error:
        # Servers read cube.time.day among the dimensions as a granularity.
        time, _, granularity = name.rpartition(".")
        with suppress(InvalidArgument):
            if granularity in meta.member(time).granularity_names:
                return
        yield str(error)
        return
    if not found.public:
        yield f"{name} is not public"
    if sure and found.kind != member.kind:
        yield f"{name} is a {found.kind}, not a {member.kind}"
    elif isinstance(member, TimeDimension) and not found.granularity_names:
        yield f"{name} is not a dimension of time"


@attrs.frozen(init=False, repr=False)
class Query:
    """Measures, grouped by dimensions and time, restricted by filters.

    Lists are stored as tuples; one member or filter alone is a list of one. A member
    that is listed twice counts once.

    Attributes:
        measures: what to aggregate.
        dimensions: what to group by.
        time: time dimensions, grouped by a granularity or restricted to a range; several
            ranges of one must all hold.
        segments: filters that the cube defines.
        where: filters on dimensions; all must hold.
        having: filters on measures, applied after aggregating; all must hold.
        order: what to order by; empty: the server's order (time, else the first
            measure descending, else the first dimension).
        limit: the largest number of rows, 0 to 50,000; ``None``: the server's default,
            10,000.
        offset: rows to skip.
        total: count the rows without limit and offset (a second query to the server).
        timezone: the IANA time zone of days and times, UTC by default; a ``ZoneInfo`` is
            stored as its name.
        ungrouped: rows without aggregating; Cube 0.35 needs the cube's primary key
            among the dimensions.
        cache: how the server uses its cache; supported by REST from Cube 1.5.10 on. On
            1.7.43 ``"must-revalidate"`` returns an outdated result once more, and only
            ``"no-cache"`` is new at once; on 0.35.81 both are new as soon as the cube's
            refresh key has changed [seen].
        response_format: ``"default"`` rows, ``"compact"`` (0.35 and later) or
            ``"columnar"`` (1.6.62 and later). By default :meth:`CubeClient.load` and
            :meth:`CubeClient.watch` ask for compact rows, if the server knows them.
        join_hints: paths of cubes for joins; Cube 1.3.40 and later, refused by 0.35.

    Raises:
        QueryError: anything that a server refuses or silently ignores.
    """

    measures: tuple[Measure[Any], ...] = ()
    dimensions: tuple[_Dimension, ...] = ()
    time: tuple[TimeSelection, ...] = ()
    segments: tuple[Segment, ...] = ()
    where: tuple[Filter, ...] = ()
    having: tuple[Filter, ...] = ()
    order: tuple[Order, ...] = ()
    limit: int | None = None
    offset: int = 0
    total: bool = False
    timezone: str = "UTC"
    ungrouped: bool = False
    cache: CacheMode | None = None
    response_format: ResponseFormat | None = None
    join_hints: tuple[tuple[str, ...], ...] = ()

    def __init__(
        self,
        *,
        measures: Sequence[Measure[Any]] | Measure[Any] = (),
        dimensions: Sequence[_Dimension] | _Dimension = (),
        time: Sequence[TimeSelection] | TimeSelection = (),
        segments: Sequence[Segment] | Segment = (),
        where: Sequence[Filter] | Filter = (),
        having: Sequence[Filter] | Filter = (),
        order: Sequence[Order] | Order = (),
        limit: int | None = None,
        offset: int = 0,
        total: bool = False,
        timezone: str | ZoneInfo = "UTC",
        ungrouped: bool = False,
        cache: CacheMode | None = None,
        response_format: ResponseFormat | None = None,
        join_hints: Sequence[Sequence[str]] = (),
    ) -> None:
        values = {
            "measures": _members(measures, "measures"),
            "dimensions": _members(dimensions, "dimensions"),
            "time": _members(time, "time"),
            "segments": _members(segments, "segments"),
            "where": _filters(where, "where", "dimension", "having"),
            "having": _filters(having, "having", "measure", "where"),
            "order": _members(order, "order"),
            "limit": None if limit is None else _count(limit, "limit", MAX_LIMIT),
            "offset": _count(offset, "offset"),
            "total": check_flag(total, "total"),
            "timezone": check_zone(timezone).key,
            "ungrouped": check_flag(ungrouped, "ungrouped"),
            "cache": _choice(cache, "cache", CacheMode),
            "response_format": _choice(
                response_format, "response_format", ResponseFormat
            ),
            "join_hints": _join_hints(join_hints),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        """Refuse arguments that contradict each other."""
        if not self.columns:
            raise QueryError(
                "the query selects nothing; pass measures=[...], dimensions=[...] or "
                'time=[time_dimension.by("day")]'
            )
        both = {x.name for x in self.measures} & {x.name for x in self.dimensions}
        if both:
            raise QueryError(f"dimensions: {min(both)} is also listed in measures")
        if sum(map(is_comparison, self.time)) > 1:
            message = "time: only one time selection of a query can .compare(ranges)"
            raise QueryError(message)
        if self.ungrouped and self.having:
            raise QueryError(
                "ungrouped=True excludes filters on measures (having=); use where= on a "
                "dimension instead"
            )
        times = [item for item in self.dimensions if item.type is datetime]
        if times and self.timezone != "UTC":
            # 0.35.81 answers in UTC, 1.7.43 in the zone [seen]; no response says which.
            raise QueryError(
                f"dimensions: servers before 1.1.4 do not convert {times[0].name} to "
                f'timezone="{self.timezone}"; use time=[{times[0].name.rpartition(".")[2]}'
                '.by("second")], or timezone="UTC"'
            )
        if any(selection.granularity is None for selection in self.time):
            self._check_names_beside_a_range()
        for order in self.order:
            self._check_order(order)
        # Some errors depend on the time zone, such as a range that ends too early.
        self.to_wire()

    def _check_names_beside_a_range(self) -> None:
        """Refuse what 0.35.81 orders by another column: it sends these names last [seen]."""
        for item in self.dimensions:
            if selection := _as_selection(item.name):
                raise QueryError(
                    f"dimensions: {item.name} is ordered wrongly by Cube 0.35 beside a "
                    f"range in time; use {selection}"
                )

    def _check_order(self, order: Order) -> None:
        columns = self.columns
        if not orders_by(order.name, columns):
            raise QueryError(
                f"order: {order.name} is not selected, and a server would ignore it; "
                "add it to measures, dimensions or time (with .by)"
            )
        if selection := _as_selection(order.name):
            # 0.35.81 refuses it, 1.7.43 counts columns without the dimensions [seen].
            raise QueryError(
                f"order: servers refuse {order.name}, or order by another column; use "
                f"{selection}.{order.direction}()"
            )
        if readings := self._readings(order.name):
            raise QueryError(
                f"order: servers differ in whether {order.name} is "
                f"{' or '.join(readings)}; select only one of them"
            )
        target, member = columns.get(order.name), order.member
        if target and isinstance(member, TimeSelection) and target.name != member.name:
            raise QueryError(
                f"order: servers read {order.name} as {target.name}; order by that"
            )

    def _readings(self, name: str) -> tuple[str, str] | None:
        """Return the columns that two servers order by for one name, if they differ.

        Of several granularities 0.35.81 takes the first one and 1.7.43 the finest one;
        instead of an exact time 1.7.43 takes a granularity [seen].
        """
        names = (
            *(item.name for item in self.time if item.granularity),
            *(item.name for item in self.dimensions),
        )
        units = [n.rpartition(".")[2] for n in names if n.rpartition(".")[0] == name]
        if not units:
            return None
        if name in names:
            return "the exact time", f"{name}.{units[0]}"
        other = [unit for unit in units[1:] if unit not in UNITS]
        if units[0] not in UNITS:
            other = units[1:]
        elif not other and units[0] != "week":
            # The order of any other one fits all that are longer.
            other = ["week"] if min(units, key=UNITS.index) == "week" else []
        return (f"{name}.{units[0]}", f"{name}.{other[0]}") if other else None

    @property
    def columns(self) -> dict[str, Selected]:
        """The columns of the result, and the members that declare them.

        A time selection has two: ``cube.member.day`` and ``cube.member``, unless the
        latter is a dimension of the query; of several granularities the first has it.
        """
        return columns_of((*self.measures, *self.dimensions), self.time)

    @property
    def members(self) -> tuple[Member[Any], ...]:
        """Every member that the query uses, once, in order of appearance.

        These are the measures, the dimensions, the time dimensions of ``time``, the
        segments, and the members of ``where`` and ``having``. ``order`` adds none,
        because a query orders by what it selects. A member that is declared with two
        types appears with both.
        """
        members = [
            *self.measures,
            *self.dimensions,
            *(selection.dimension for selection in self.time),
            *self.segments,
            *(condition.member for condition in self._conditions()),
        ]
        return tuple(dict.fromkeys(members))

    def _conditions(self) -> Iterator[Condition]:
        for item in self.where + self.having:
            yield from item.conditions()

    @property
    def compares(self) -> bool:
        """Whether the query has several results, one for each compared range."""
        return any(map(is_comparison, self.time))

    def validate(self, meta: _Meta) -> list[str]:
        """Return what is wrong with the members of the query, one string each.

        Empty if a server with this ``Meta`` has all of them: each name is known, public,
        and a measure, dimension, time or segment as declared, and its granularity exists.
        An unknown name comes with the nearest ones. Values and types are not compared.

        Raises:
            InvalidArgument: ``meta`` is not a ``Meta``.
        """
        if not callable(getattr(meta, "member", None)):
            expected = "meta must be a Meta, the result of cube.meta()"
            raise InvalidArgument(f"{expected}, got {shown(meta)}")
        selected = {*self.measures, *self.dimensions, *self.segments}
        problems: list[str] = []
        for member in self.members:
            # from_wire() cannot know what a filter restricts.
            sure = member in selected or member.type is not object
            problems += _problems(member, meta, sure=sure)
        for selection in self.time:
            with suppress(InvalidArgument):
                names = meta.member(selection.dimension.name).granularity_names
                if names and selection.granularity not in (None, *names):
                    listed = ", ".join(names)
                    problems.append(
                        f"{selection.name}: granularity must be one of {listed}"
                    )
        return problems

    def filter(self, *filters: Filter) -> Query:
        """Return a query with more filters; those on measures go to ``having``."""
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
        """Return a query with this order instead of its own."""
        return attrs.evolve(self, order=orders)

    def to_wire(self) -> dict[str, Any]:
        """Return the query as Cube's JSON, without keys that have no effect.

        ``cache`` is left out: where it goes depends on the protocol. The time zone is
        included if it is not UTC or if something depends on it: a server's default can
        be another one (``CUBEJS_DEFAULT_TIMEZONE``).
        """
        zone = ZoneInfo(self.timezone)
        wire: dict[str, Any] = {
            "measures": [item.name for item in self.measures],
            "dimensions": [item.name for item in self.dimensions],
            # 0.35.81 counts a range before a granularity as a column of ORDER BY [seen].
            "timeDimensions": [
                item.to_wire(zone)
                for item in sorted(self.time, key=lambda item: item.granularity is None)
            ],
            "segments": [item.name for item in self.segments],
            "filters": [item.to_wire(zone) for item in self.where + self.having],
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
        if (
            self.timezone != "UTC"
            or self.time
            or any(OPERATORS[each.operator].dated for each in self._conditions())
        ):
            wire["timezone"] = self.timezone
        return wire

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Query:
        """Return the query that Cube's JSON means, in any form that a server accepts.

        Legacy forms are supported: filters under ``dimension``, an order as an object,
        numbers as values, empty lists, ``renewQuery``. Member types are not part of the
        JSON, so members are declared ``object``.

        Raises:
            QueryError: with the path of what is refused, such as ``filters[0].values``.
        """
        arguments = QueryReader(wire).query()
        try:
            return cls(**arguments)
        except QueryError as error:
            message = re.sub(
                r"^\w+", lambda name: _KEYS.get(name[0], name[0]), str(error)
            )
            raise QueryError(message) from error

    def __repr__(self) -> str:
        arguments = [
            f"{field.name}={list(value) if isinstance(value, tuple) else value!r}"
            for field in attrs.fields(Query)
            if (value := getattr(self, field.name)) != field.default
        ]
        # A filter may have thousands of values.
        return codec.excerpt(f"Query({', '.join(arguments)})", _LONGEST_REPR)
