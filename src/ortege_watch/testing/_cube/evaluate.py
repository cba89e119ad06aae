"""Evaluation of a plan over tables, as PostgreSQL does under Cube's SQL."""

from __future__ import annotations

import operator as op
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation, localcontext
from functools import partial
from typing import Any, Final
from zoneinfo import ZoneInfo

import attrs

from ortege_watch.testing._cube import Refusal, dates
from ortege_watch.testing._cube.query import Plan, compact
from ortege_watch.testing._cube.table import Aggregate, Row, Table

Condition = Callable[[Any], bool]
_Group = Sequence[Row]

# The pattern of LIKE around the value of a text operator.
_LIKE: Final = {"contains": "%{}%", "startsWith": "{}%", "endsWith": "%{}"}
_LIKE_PART: Final = re.compile(r"\\(.?)|(%)|(_)|(.)", re.DOTALL)
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
_SIGNS: Final = {
    "notInDateRange": "<",
    "beforeDate": "<",
    "beforeOrOnDate": "<=",
    "afterDate": ">",
}
_SQL_TYPES: Final = {
    "string": "text",
    "bigint": "bigint",
    "number": "numeric",
    "boolean": "boolean",
    "time": "timestamp with time zone",
}
_UTC: Final = ZoneInfo("UTC")
_FINEST: Final = (
    *("second", "minute", "hour", "day", "week", "month", "quarter", "year"),
)


def condition(
    operator: str, values: Sequence[str | None], kind: str, plan: Plan
) -> Condition:
    """Build the condition of one filter; a Refusal is what the database would say."""
    if operator in {"set", "notSet"}:
        return lambda value: (value is not None) == (operator == "set")
    if operator == "measureFilter":
        return _dropped
    if operator in _EQUAL:
        return _equality(operator, values, kind)
    stem = operator.removeprefix("not")
    stem = stem[0].lower() + stem[1:]
    if stem in _LIKE:
        return _likeness(stem, values, kind, plan, negated=stem != operator)
    if "Date" in operator:
        sign = _SIGNS.get(operator, ">=")
        if kind != "time":
            raise Refusal.database(
                f"operator does not exist: {_SQL_TYPES[kind]} {sign} "
                "timestamp with time zone"
            )
        if stem in {"inDateRange", "onTheDate"}:
            return _within(values, plan, negated=stem != operator)
        bound: Any = _moment(values[0], plan.zone)
    else:
        first = next((value for value in values if value is not None), None)
        if first is None:
            raise Refusal.internal("Error: Expected one parameter but nothing found")
        bound = _read(first, kind)
    compare, bound = _COMPARE[operator], _comparable(bound)
    return lambda value: value is not None and compare(_comparable(value), bound)


def _syntax(near: str) -> Refusal:
    return Refusal.database(f'syntax error at or near "{near}"')


def _dropped(_: Any) -> bool:
    """Stand for a filter that Cube leaves out."""
    return True


class Small(int):
    """A whole number that the driver of PostgreSQL reads as a number (int4)."""


def _equality(operator: str, values: Sequence[str | None], kind: str) -> Condition:
    wanted = {_comparable(_read(v, kind)) for v in values if v is not None}
    null = None in values
    is_list = len(values) > 1 or operator in {"in", "notIn"}
    if is_list and not wanted:
        raise _syntax(")")  # IN ()
    if _EQUAL[operator]:
        # Without NULL among the values, NULL rows are returned as well.
        return lambda value: (
            not null if value is None else _comparable(value) not in wanted
        )
    return lambda value: null if value is None else _comparable(value) in wanted


def _comparable(value: Any) -> Any:
    """Return a value whose comparisons are those of PostgreSQL.

    There NaN equals itself and is greater than every other number, infinity included.
    """
    if isinstance(value, Decimal):
        return (value.is_nan(), Decimal() if value.is_nan() else value)
    return (False, value)


def _likeness(
    operator: str, values: Sequence[str | None], kind: str, plan: Plan, *, negated: bool
) -> Condition:
    texts = [value for value in values if value is not None]
    null = None in values
    if not texts and not negated:
        raise _syntax("OR")
    if not texts:
        return _dropped
    if kind != "string":
        sign = "!~~*" if negated else "~~*"
        raise Refusal.database(
            f"operator does not exist: {_SQL_TYPES[kind]} {sign} text"
        )
    # 0.35.81 escapes "_" and "%" for "contains" only, and a backslash never [seen].
    special = r"[\\_%]"
    if plan.classic:
        special = "[_%]" if operator == "contains" else r"\b\B"
    likes = [
        _like(_LIKE[operator].format(re.sub(special, r"\\\g<0>", text)))
        for text in texts
    ]

    def matches(value: Any) -> bool:
        if value is None:
            return null != negated
        return any(like(value) for like in likes) != negated

    return matches


def _like(pattern: str) -> Callable[[str], bool]:
    """Translate a pattern of SQL's ILIKE; a backslash escapes."""
    dangling = False

    def part(match: re.Match[str]) -> str:
        nonlocal dangling
        escaped, many, one, plain = match.groups()
        dangling = dangling or escaped == ""
        return ".*" if many else "." if one else re.escape(escaped or plain or "")

    regex = re.compile(_LIKE_PART.sub(part, pattern.lower()), re.DOTALL)

    def matches(value: str) -> bool:
        # PostgreSQL notices it only where the text matches until there.
        if dangling and value and regex.match(value.lower()):
            raise Refusal.database("LIKE pattern must not end with escape character")
        return not dangling and regex.fullmatch(value.lower()) is not None

    return matches


def _within(values: Sequence[str | None], plan: Plan, *, negated: bool) -> Condition:
    begin = _moment(values[0], plan.zone)
    # 0.35.81 does not resolve a single value: the range ends with today [seen].
    last = values[1] if len(values) > 1 else plan.today
    end = _moment(last, plan.zone, end=True)
    return lambda value: value is not None and (begin <= value <= end) != negated


def _moment(text: str | None, zone: ZoneInfo, *, end: bool = False) -> datetime:
    return dates.instant(dates.absolute(text or "", end=end), zone)


def _read(text: str, kind: str) -> Any:
    """Read a value as the database casts it to the member's type."""
    problem = f'invalid input syntax for type {{}}: "{text}"'
    match kind:
        case "bigint":
            if re.fullmatch(r"\s*[+-]?\d+\s*", text) is None:
                raise Refusal.database(problem.format("bigint"))
            return int(text)
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
            return _moment(text, _UTC)
        case _:
            return text


@attrs.frozen(kw_only=True)
class Evaluated:
    """The answer to one plan, with values in Python's types."""

    members: list[str]
    rows: list[list[Any]]
    total: int | None
    order: dict[str, str]  # the query's, or Cube's default


@attrs.frozen(kw_only=True)
class _Column:
    """A column that rows are grouped by."""

    member: str
    labels: tuple[str, ...]
    read: Callable[[Row], Any]
    unit: str = ""
    level: str = ""  # the unit that a granularity of the cube is compared by

    def finer_than(self, other: _Column) -> bool:
        """Return whether this column's unit is shorter, or the same."""
        return _length(self.unit) <= _length(other.unit)


def _length(unit: str) -> int:
    # Those that the cube defines come last.
    return _FINEST.index(unit) if unit in _FINEST else len(_FINEST)


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


def evaluate(plan: Plan, tables: Mapping[str, Table], *, run: bool) -> Evaluated:
    """Answer a plan; without ``run``, only compile it, without the database.

    Raises:
        Refusal: a member is unknown or of the wrong kind, or the database would fail.
    """
    scope = _Scope(plan, tables)
    order = dict(scope.order())
    if not run:
        return Evaluated(members=[], rows=[], total=None, order=order)
    if scope.failures:
        raise scope.failures[0]
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
    return Evaluated(members=members, rows=values, total=total, order=order)


class _Scope:
    """The members of one plan, found in the tables."""

    def __init__(self, plan: Plan, tables: Mapping[str, Table]) -> None:
        self.plan = plan
        self.tables = tables
        self.failures: list[Refusal] = []  # of the database, after those of Cube
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
                within = condition("inDateRange", one["dateRange"], "time", plan)
                self.conditions.append(self._stored(one["dimension"], within))
        measured = [self._is_measured(one) for one in wire["filters"]]
        if wire.get("ungrouped"):
            self._check_ungrouped(measured)
        for one, is_measure in zip(wire["filters"], measured, strict=True):
            self._add_filter(one, is_measure=is_measure)

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
        for path in [*wire.get("segments", ()), *members_in(wire["filters"])]:
            cube = path.split(".", 1)[0]
            if cube not in self.tables:
                raise Refusal.user(f"Cube '{cube}' not found for path '{path}'")
            found[cube] = self.tables[cube]
        if len(found) > 1:
            first, second = list(found)[:2]
            raise Refusal.user(f"Can't find join path to join '{first}', '{second}'")
        return next(iter(found.values()))

    def _plain(self, path: str) -> _Column:
        _, name, kind = member_kind(self.tables, path)
        read: Callable[[Row], Any] = op.itemgetter(name)
        if kind == "time" and not self.plan.classic:
            # 0.35.81 leaves it in UTC [seen].
            read = self._wall(name)
        return _Column(member=path, labels=(path,), read=read)

    def _wall(
        self, name: str, floor: Callable[[datetime], datetime] | None = None
    ) -> Callable[[Row], Any]:
        """Return a function from a row to a time in the query's zone."""

        def read(row: Row) -> datetime | None:
            value = row[name]
            if not isinstance(value, datetime):
                return None
            wall = value.astimezone(self.plan.zone).replace(tzinfo=None)
            return wall if floor is None else floor(wall)

        return read

    def _granular(self, path: str, unit: str) -> _Column:
        table, name, kind = member_kind(self.tables, path)
        custom = table.granularities.get(name, {}).get(unit)
        if kind != "time" or (custom is None and unit not in dates.UNITS):
            raise Refusal.user(
                f'Granularity "{unit}" does not exist in dimension {path}'
            )
        labels = (f"{path}.{unit}", path)
        zone, year = self.plan.zone, int(self.plan.today[:4])

        def floor(wall: datetime) -> datetime:
            if custom is None:
                return dates.floor(wall, unit)
            return custom.floor(wall, zone, year)

        return _Column(
            member=path,
            labels=labels,
            read=self._wall(name, floor),
            unit=unit,
            level=unit if custom is None else custom.level(zone, year),
        )

    def _segment(self, path: str) -> Callable[[Row], bool]:
        if _name(path) not in self.table.segments:
            raise _unknown(path)
        return self.table.segments[_name(path)]

    def _check_ungrouped(self, measured: list[bool]) -> None:
        key = self.table.primary_key
        path = f"{self.table.name}.{key}"
        if self.plan.classic and path not in self.plan.wire["dimensions"]:
            raise Refusal.user(
                "Ungrouped query requires primary keys to be present in dimensions: "
                f"'{path}'. Pass allowUngroupedWithoutPrimaryKey option to disable "
                "this check."
            )
        if any(measured):
            raise Refusal.user("Measure filters aren't allowed in ungrouped query")

    def _is_measured(self, one: dict[str, Any]) -> bool:
        kinds = {member_kind(self.tables, p)[2] == "measure" for p in members_in([one])}
        if len(kinds) > 1:
            raise Refusal.user(
                "You cannot use dimension and measure in same condition: "
                f"{compact(one)}"
            )
        return kinds == {True}

    def _add_filter(self, one: dict[str, Any], *, is_measure: bool) -> None:
        if is_measure:
            self.having.append(self._combined(one, self._measured))
        else:
            self.conditions.append(self._combined(one, self._stored))

    def _combined(
        self,
        one: dict[str, Any],
        leaf: Callable[[str, Condition], Callable[[Any], bool]],
    ) -> Callable[[Any], bool]:
        for group, join in (("or", any), ("and", all)):
            if group in one:
                children = [self._combined(child, leaf) for child in one[group]]
                children = [child for child in children if child is not _dropped]
                if not children:
                    return _dropped
                return lambda row, c=children, j=join: j(  # type: ignore[misc]
                    child(row) for child in c
                )
        path = one["member"]
        table, name, kind = member_kind(self.tables, path)
        if kind != "measure" and one["operator"] == "measureFilter":
            raise Refusal.internal("Error: Path can't be undefined")
        if kind == "measure" and "Date" in one["operator"] and self.plan.classic:
            raise Refusal.internal(
                "TypeError: Cannot read properties of null (reading 'split')"
            )
        if kind == "measure":
            counts = table.measures[name].function in {"count", "count_distinct"}
            kind = "bigint" if counts else "number"
        values = one.get("values") or ()
        try:
            holds = condition(one["operator"], values, kind, self.plan)
        except Refusal as refusal:
            if not refusal.is_of_database:
                raise
            self.failures.append(refusal)
            holds = _dropped
        return leaf(path, holds)

    def _stored(self, path: str, holds: Condition) -> Callable[[Row], bool]:
        name = _name(path)
        return _dropped if holds is _dropped else lambda row: holds(row[name])

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
        if ungrouped:
            return [
                [*key[1:], *(_single(a, row) for a in aggregates)]
                for key, (row,) in groups.items()
            ]
        return [
            [*key, *(_aggregated(a, g) for a in aggregates)]
            for key, g in groups.items()
            if all(holds(g) for holds in self.having)
        ]

    def ordered(self, lines: list[list[Any]]) -> list[list[Any]]:
        """Sort by the query's order or by Cube's default; NULLs as PostgreSQL does."""
        for member, direction in reversed(self.order()):
            index = self._index(member)
            if index is None:
                continue  # Cube ignores it
            lines = sorted(
                lines,
                key=lambda line, i=index: (  # type: ignore[misc]
                    line[i] is None,
                    0 if line[i] is None else _comparable(line[i]),
                ),
                reverse=direction == "desc",
            )
        return lines

    def _index(self, member: str) -> int | None:
        """Return the column that a name in the order means."""
        granular = [c for c in self.columns if c.unit]
        if member.count(".") == 2:
            # 1.7.43 counts from the first column, also where dimensions precede.
            labels = [] if self.plan.classic else [c.labels[0] for c in granular]
            return labels.index(member) if member in labels else None
        found = [i for i, c in enumerate(self.columns) if c.member == member]
        if self.plan.classic:
            # 0.35.81 counts a time without a granularity as a column [seen].
            names = [*self.plan.wire["dimensions"], *self.times]
            found = [i for i, name in enumerate(names) if name == member]
        elif any(self.columns[i].unit for i in found):
            # 1.7.43 takes the finest granularity [seen].
            found = [i for i in found if self.columns[i].unit]
            found.sort(key=lambda i: _FINEST.index(self.columns[i].level))
        if found and found[0] >= len(self.columns) + len(self.measures):
            raise Refusal.database(
                f"ORDER BY position {found[0] + 1} is not in select list"
            )
        if found:
            return found[0]
        if member in self.measures:
            return len(self.columns) + self.measures.index(member)
        return None

    def order(self) -> Sequence[tuple[str, str]]:
        """Return the query's order, or Cube's default."""
        if self.plan.order is not None:
            return self.plan.order
        granular = [t for t in self.plan.wire["timeDimensions"] if t.get("granularity")]
        plain = self.plan.wire["dimensions"]
        if granular:
            return [(granular[0]["dimension"], "asc")]
        if self.measures and plain:
            return [(self.measures[0], "desc")]
        return [(plain[0], "asc")] if plain else []

    def shape(self) -> tuple[list[str], list[int]]:
        """Return the names of the answer's columns and their positions in a line.

        A time dimension with a granularity has two columns.
        """
        labelled: dict[str, int] = {}
        bare: dict[str, int] = {}
        for index, column in enumerate(self.columns):
            name, *without_unit = column.labels
            labelled[name] = index
            # The exact time of the same name wins.
            for label in without_unit:
                if label in self.plan.wire["dimensions"]:
                    continue
                if self.plan.classic:
                    labelled[label] = index
                elif label not in bare or column.finer_than(self.columns[bare[label]]):
                    bare[label] = index
        measured = enumerate(self.measures, len(self.columns))
        labelled.update((measure, index) for index, measure in measured)
        labelled.update(bare)
        return list(labelled), list(labelled.values())


def members_in(filters: Iterable[dict[str, Any]]) -> Iterable[str]:
    """Yield the members of filters, groups included."""
    for one in filters:
        if "member" in one:
            yield one["member"]
        yield from members_in(one.get("or") or one.get("and") or ())


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


def _single(aggregate: Aggregate, row: Row) -> Any:
    """Return a measure of an ungrouped query."""
    if aggregate.function not in {"count", "count_distinct"}:
        return row[aggregate.column or ""]
    counted = aggregate.column is None or row[aggregate.column] is not None
    return Small(1) if counted else None


def _sum(values: list[Any]) -> Any:
    # Infinity and -infinity have no sum: NaN, as in PostgreSQL.
    with localcontext() as context:
        context.traps[InvalidOperation] = False
        return sum(values)


def _average(values: list[Any]) -> Decimal:
    # PostgreSQL divides with at least sixteen significant digits, counted in groups of
    # four, and with the places of the operands.
    total = Decimal(_sum(values))
    if not total.is_finite():
        return total
    (weight, first), (by_weight, by_first) = _leading(total), _leading(len(values))
    groups = weight - by_weight - (first <= by_first)
    places = max(16 - 4 * groups, -int(total.as_tuple().exponent), 0)
    mean = total / len(values)
    return mean.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_UP)


def _leading(number: Decimal | int) -> tuple[int, int]:
    """Return the position of the first group of four digits and its value."""
    number = abs(Decimal(number))
    if not number:
        return 0, 0
    weight = number.adjusted() // 4
    return weight, int(number.scaleb(-4 * weight))


_AGGREGATES: Final[dict[str, Callable[[list[Any]], Any]]] = {
    "sum": _sum,
    "min": partial(min, key=_comparable),
    "max": partial(max, key=_comparable),
    "avg": _average,
}
