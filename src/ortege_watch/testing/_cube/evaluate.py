"""Evaluation of a plan over tables, as PostgreSQL does under Cube's SQL."""

from __future__ import annotations

import operator as op
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation, localcontext
from typing import Any, Final
from zoneinfo import ZoneInfo

import attrs

from ortege_watch.testing._cube import Refusal, dates
from ortege_watch.testing._cube.query import Plan, compact
from ortege_watch.testing._cube.table import Aggregate, Row, Table

Condition = Callable[[Any], bool]
_Group = Sequence[Row]

_TEXT: Final[dict[str, Callable[[str, str], bool]]] = {
    "contains": lambda text, part: part in text,
    "startsWith": str.startswith,
    "endsWith": str.endswith,
}
_COMPARE: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "gt": op.gt,
    "gte": op.ge,
    "lt": op.lt,
    "lte": op.le,
    "beforeDate": op.lt,
    "beforeOrOnDate": op.le,
    "afterDate": op.gt,
    "afterOrOnDate": op.ge,
}
_EQUAL: Final = {"equals": False, "in": False, "notEquals": True, "notIn": True}


def condition(
    operator: str, values: Sequence[str | None], kind: str, zone: ZoneInfo
) -> Condition:
    """Build the condition of one filter; a Refusal is what the database would say."""
    if operator in {"set", "notSet"}:
        return lambda value: (value is not None) == (operator == "set")
    if operator == "measureFilter":
        return _always
    if operator in _EQUAL:
        return _equality(values, kind, zone, negated=_EQUAL[operator])
    stem = operator.removeprefix("not")
    stem = stem[0].lower() + stem[1:]
    if stem in _TEXT:
        return _likeness(_TEXT[stem], values, negated=stem != operator)
    if "Date" in operator and kind != "time":
        raise Refusal.database(
            "operator does not exist: text >= timestamp with time zone"
        )
    if stem in {"inDateRange", "onTheDate"}:
        return _within(values, zone, negated=stem != operator)
    if "Date" in operator:
        bound: Any = _moment(values[0], zone)
    else:
        bound = _read(values[0], kind, zone)
    compare = _COMPARE[operator]
    return lambda value: (
        value is not None and bound is not None and compare(value, bound)
    )


def _always(_: Any) -> bool:
    return True


def _equality(
    values: Sequence[str | None], kind: str, zone: ZoneInfo, *, negated: bool
) -> Condition:
    wanted = {_read(v, kind, zone) for v in values if v is not None}
    null = None in values
    if negated:
        # Without NULL among the values, NULL rows are returned as well.
        return lambda value: not null if value is None else value not in wanted
    return lambda value: null if value is None else value in wanted


def _likeness(
    like: Callable[[str, str], bool], values: Sequence[str | None], *, negated: bool
) -> Condition:
    parts = [v.lower() for v in values if v is not None]

    def matches(value: Any) -> bool:
        if value is None:
            return negated
        return any(like(str(value).lower(), part) for part in parts) != negated

    return matches


def _within(
    values: Sequence[str | None], zone: ZoneInfo, *, negated: bool
) -> Condition:
    begin = _moment(values[0], zone)
    if len(values) < 2:
        # Servers that do not resolve a single value ignore the filter.
        return _always
    end = _moment(values[1], zone, end=True)
    return lambda value: value is not None and (begin <= value <= end) != negated


def _moment(text: str | None, zone: ZoneInfo, *, end: bool = False) -> datetime:
    return dates.instant(dates.absolute(text or "", end=end), zone)


def _read(text: str | None, kind: str, zone: ZoneInfo) -> Any:
    """Read a value as the database casts it to the member's type."""
    if text is None:
        return None
    problem = f'invalid input syntax for type {{}}: "{text}"'
    match kind:
        case "number":
            try:
                return Decimal(text)
            except InvalidOperation:
                raise Refusal.database(problem.format("numeric")) from None
        case "boolean":
            if text.lower() not in {"true", "false"}:
                raise Refusal.database(problem.format("boolean"))
            return text.lower() == "true"
        case "time":
            return _moment(text, zone)
        case _:
            return text


@attrs.frozen(kw_only=True)
class Evaluated:
    """The answer to one plan, with values in Python's types."""

    members: list[str]
    rows: list[list[Any]]
    total: int | None


@attrs.frozen(kw_only=True)
class _Column:
    """A column that rows are grouped by."""

    member: str
    labels: tuple[str, ...]
    read: Callable[[Row], Any]


def member_kind(tables: Mapping[str, Table], path: str) -> tuple[Table, str, str]:
    """Return a member's table, its name, and "measure" or a dimension's type.

    Raises:
        Refusal: with the compiler's message for an unknown cube or member.
    """
    cube, name = path.split(".", 1)
    table = tables.get(cube)
    if table is None:
        raise Refusal.user(f"Cube '{cube}' not found for path '{path}'")
    if name in table.measures:
        return table, name, "measure"
    if name in table.dimensions:
        return table, name, table.dimensions[name]
    raise _unknown(path)


def _unknown(path: str) -> Refusal:
    return Refusal.user(f"'{_name(path)}' not found for path '{path}'")


def _name(path: str) -> str:
    return path.split(".", 1)[1]


def evaluate(plan: Plan, tables: Mapping[str, Table], *, classic: bool) -> Evaluated:
    """Answer a plan.

    Raises:
        Refusal: a member is unknown or of the wrong kind, or the database would fail.
    """
    scope = _Scope(plan, tables, classic=classic)
    rows = [row for row in scope.table.rows if all(c(row) for c in scope.conditions)]
    with localcontext(prec=1000):
        lines = scope.lines(rows)
    lines = scope.ordered(lines)
    offset = int(plan.wire.get("offset") or 0)
    page = lines[offset : offset + plan.wire["limit"]]
    members, picked = scope.shape()
    values = [[line[i] for i in picked] for line in page]
    if plan.compared is not None:
        members = [*members, "compareDateRange"]
        values = [[*line, plan.compared] for line in values]
    if plan.blended is not None:
        source = members.index(f"{scope.times[0]}.{plan.blended}")
        members = [*members, f"time.{plan.blended}"]
        values = [[*line, line[source]] for line in values]
    total = len(lines) if plan.wire.get("total") else None
    return Evaluated(members=members, rows=values, total=total)


class _Scope:
    """The members of one plan, found in the tables."""

    def __init__(
        self, plan: Plan, tables: Mapping[str, Table], *, classic: bool
    ) -> None:
        self.plan = plan
        self.tables = tables
        wire = plan.wire
        self.measures: list[str] = list(wire.get("measures") or ())
        self.times = [t["dimension"] for t in wire["timeDimensions"]]
        self.table = self._only_table()
        self.columns = [self._plain(path) for path in wire["dimensions"]]
        self.columns += [
            self._granular(t["dimension"], t["granularity"])
            for t in wire["timeDimensions"]
            if t.get("granularity")
        ]
        self.conditions = [self._segment(path) for path in wire.get("segments") or ()]
        self.having: list[Callable[[_Group], bool]] = []
        for one in wire["timeDimensions"]:
            if one.get("dateRange"):
                within = condition("inDateRange", one["dateRange"], "time", plan.zone)
                self.conditions.append(self._stored(one["dimension"], within))
        for one in wire["filters"]:
            self._add_filter(one)
        if wire.get("ungrouped") and classic:
            self._need_primary_key()

    def _only_table(self) -> Table:
        wire = self.plan.wire
        found: dict[str, Table] = {}
        dimensions = [*wire["dimensions"], *self.times]
        for paths, is_measure in ((self.measures, True), (dimensions, False)):
            for path in paths:
                table, _, kind = member_kind(self.tables, path)
                if (kind == "measure") != is_measure:
                    raise _unknown(path)
                found[table.name] = table
        for path in [*wire.get("segments", ()), *_members(wire["filters"])]:
            cube = path.split(".", 1)[0]
            if cube not in self.tables:
                raise Refusal.user(f"Cube '{cube}' not found for path '{path}'")
            found[cube] = self.tables[cube]
        if len(found) > 1:
            first, second = list(found)[:2]
            raise Refusal.user(f"Can't find join path to join '{first}', '{second}'")
        return next(iter(found.values()))

    def _plain(self, path: str) -> _Column:
        return _Column(member=path, labels=(path,), read=op.itemgetter(_name(path)))

    def _granular(self, path: str, unit: str) -> _Column:
        _, name, kind = member_kind(self.tables, path)
        if kind != "time" or unit not in dates.UNITS:
            raise Refusal.user(
                f'Granularity "{unit}" does not exist in dimension {path}'
            )

        def read(row: Row) -> datetime | None:
            value = row[name]
            if not isinstance(value, datetime):
                return None
            wall = value.astimezone(self.plan.zone).replace(tzinfo=None)
            return dates.floor(wall, unit)

        return _Column(member=path, labels=(f"{path}.{unit}", path), read=read)

    def _segment(self, path: str) -> Callable[[Row], bool]:
        if _name(path) not in self.table.segments:
            raise _unknown(path)
        return self.table.segments[_name(path)]

    def _need_primary_key(self) -> None:
        key = self.table.primary_key
        path = f"{self.table.name}.{key}"
        if key is None or path not in self.plan.wire["dimensions"]:
            raise Refusal.user(
                "Ungrouped query requires primary keys to be present in dimensions: "
                f"'{path}'. Pass allowUngroupedWithoutPrimaryKey option to disable "
                "this check."
            )

    def _add_filter(self, one: dict[str, Any]) -> None:
        kinds = {member_kind(self.tables, p)[2] == "measure" for p in _members([one])}
        if len(kinds) > 1:
            raise Refusal.user(
                "You cannot use dimension and measure in same condition: "
                f"{compact(one)}"
            )
        if kinds == {True}:
            self.having.append(self._combined(one, self._measured))
        elif kinds:
            self.conditions.append(self._combined(one, self._stored))

    def _combined(
        self,
        one: dict[str, Any],
        leaf: Callable[[str, Condition], Callable[[Any], bool]],
    ) -> Callable[[Any], bool]:
        for group, join in (("or", any), ("and", all)):
            if group in one:
                children = [self._combined(child, leaf) for child in one[group]]
                if not children:
                    return _always
                return lambda row, c=children, j=join: j(  # type: ignore[misc]
                    child(row) for child in c
                )
        path = one["member"]
        kind = member_kind(self.tables, path)[2]
        kind = "number" if kind == "measure" else kind
        values = one.get("values") or ()
        return leaf(path, condition(one["operator"], values, kind, self.plan.zone))

    def _stored(self, path: str, holds: Condition) -> Callable[[Row], bool]:
        name = _name(path)
        return lambda row: holds(row[name])

    def _measured(self, path: str, holds: Condition) -> Callable[[_Group], bool]:
        aggregate = self.table.measures[_name(path)]
        return lambda group: holds(_aggregated(aggregate, group))

    def lines(self, rows: list[Row]) -> list[list[Any]]:
        """Group the rows and compute the measures: columns first, then measures."""
        groups: dict[tuple[Any, ...], list[Row]] = {}
        ungrouped = bool(self.plan.wire.get("ungrouped"))
        for number, row in enumerate(rows):
            key = tuple(column.read(row) for column in self.columns)
            groups.setdefault((number, *key) if ungrouped else key, []).append(row)
        if not groups and not self.columns and not ungrouped:
            groups[()] = []
        aggregates = [self.table.measures[_name(m)] for m in self.measures]
        return [
            [*(key[1:] if ungrouped else key), *(_aggregated(a, g) for a in aggregates)]
            for key, g in groups.items()
            if all(holds(g) for holds in self.having)
        ]

    def ordered(self, lines: list[list[Any]]) -> list[list[Any]]:
        """Sort by the query's order or by Cube's default; NULLs as PostgreSQL does."""
        names = [*(column.member for column in self.columns), *self.measures]
        for member, direction in reversed(self._order()):
            if member not in names:
                continue  # Cube ignores it
            index = names.index(member)
            lines = sorted(
                lines,
                key=lambda line, i=index: (  # type: ignore[misc]
                    line[i] is None,
                    0 if line[i] is None else line[i],
                ),
                reverse=direction == "desc",
            )
        return lines

    def _order(self) -> Sequence[tuple[str, str]]:
        if self.plan.order is not None:
            return self.plan.order
        granular = [t for t in self.plan.wire["timeDimensions"] if t.get("granularity")]
        if granular:
            return [(granular[0]["dimension"], "asc")]
        if self.measures:
            return [(self.measures[0], "desc")]
        return [(self.columns[0].member, "asc")] if self.columns else []

    def shape(self) -> tuple[list[str], list[int]]:
        """Return the names of the answer's columns and their positions in a line.

        A time dimension with a granularity has two columns.
        """
        labelled: dict[str, int] = {}
        for index, column in enumerate(self.columns):
            labelled.update(dict.fromkeys(column.labels, index))
        measured = enumerate(self.measures, len(self.columns))
        labelled.update((measure, index) for index, measure in measured)
        return list(labelled), list(labelled.values())


def _members(filters: Iterable[dict[str, Any]]) -> Iterable[str]:
    for one in filters:
        if "member" in one:
            yield one["member"]
        yield from _members(one.get("or") or one.get("and") or ())


def _aggregated(aggregate: Aggregate, group: _Group) -> Any:
    if aggregate.column is None:
        return len(group)
    column: list[Any] = [row[aggregate.column] for row in group]
    values = [value for value in column if value is not None]
    if aggregate.function == "count":
        return len(values)
    if aggregate.function == "count_distinct":
        return len(set(values))
    return _AGGREGATES[aggregate.function](values) if values else None


def _average(values: list[Any]) -> Decimal:
    # PostgreSQL's avg() of whole numbers shows sixteen places.
    mean = Decimal(sum(values)) / len(values)
    return mean.quantize(Decimal(1).scaleb(-16), rounding=ROUND_HALF_UP)


_AGGREGATES: Final[dict[str, Callable[[list[Any]], Any]]] = {
    "sum": sum,
    "min": min,
    "max": max,
    "avg": _average,
}
