"""Queries as a Cube server checks them and completes them.

Nothing here is shared with the library's ``Query``. The messages are Cube's own: seen on
0.35.81 (``tests/data/frames``) and, where it is known to differ, on 1.7.43.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NoReturn
from zoneinfo import ZoneInfo

import attrs

from ortege_watch.testing._cube import Refusal, dates

_WORD: Final = "[a-zA-Z0-9_]+"
_ID: Final = rf"{_WORD}\.{_WORD}"
_DIMENSION: Final = rf"{_ID}(\.{_WORD})?"
_DIMENSION_CLASSIC: Final = rf"{_ID}(\.(second|minute|hour|day|week|month|year))?"
_ORDERED: Final = rf"{_WORD}(\.{_WORD}){{0,2}}"
_OPERATORS: Final = frozenset(
    (
        *("equals", "notEquals", "in", "notIn", "gt", "gte", "lt", "lte"),
        *("contains", "notContains", "startsWith", "notStartsWith"),
        *("endsWith", "notEndsWith", "set", "notSet", "inDateRange"),
        *("notInDateRange", "onTheDate", "beforeDate", "beforeOrOnDate"),
        *("afterDate", "afterOrOnDate", "measureFilter"),
    )
)
_VALUELESS: Final = frozenset({"set", "notSet", "measureFilter"})
_RANGES: Final = frozenset({"inDateRange", "notInDateRange", "onTheDate"})
# The end of a relative range that an operator compares with.
_ENDS: Final = {
    "beforeDate": 0,
    "afterOrOnDate": 0,
    "beforeOrOnDate": 1,
    "afterDate": 1,
}
_KINDS: Final = ("measures", "dimensions")
_VAGUE: Final = "does not match any of the allowed types"
_EMPTY: Final = (
    "Query should contain either measures, dimensions or timeDimensions with "
    "granularities in order to be valid"
)
_UNSUPPORTED: Final = (
    "'{}' query type is not supported by the client.Please update the client."
)

_Check = Callable[[Any, str], object]


def compact(value: Any) -> str:
    """Return JSON as error messages quote it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)


@attrs.frozen(kw_only=True)
class Plan:
    """One query, ready to be evaluated."""

    wire: dict[str, Any]  # the normalized query as the answer repeats it
    zone: ZoneInfo
    classic: bool
    today: str  # in the zone, as YYYY-MM-DD
    # pairs of member and "asc"/"desc"; None for the default order
    order: tuple[tuple[str, str], ...] | None
    compared: str | None = None  # what rows contain as compareDateRange
    # the granularity in the name time.<granularity> of a column
    blended: str | None = None
    relative: bool = False  # whether time alone can change the answer


@attrs.frozen(kw_only=True)
class Request:
    """What one ``query`` parameter asks: one plan, or several."""

    type: str
    plans: tuple[Plan, ...]
    format: str

    def pivot(self, *, native: bool) -> dict[str, Any]:
        """Return the pivotQuery of the answer.

        Args:
            native: as 1.7.43 makes it for results. Else, as in JavaScript, it is the
                first query itself, which changes.
        """
        wires = [plan.wire for plan in self.plans]
        pivot = dict(wires[0]) if native else wires[0]
        if self.type == "blendingQuery":
            members: dict[str, Any] = {
                key: list(dict.fromkeys(name for w in wires for name in w.get(key, ())))
                for key in _KINDS
            }
            if native:
                members = {key: names for key, names in members.items() if names}
                first = wires[0].items()
                members = {k: v for k, v in first if k not in _KINDS} | members
            pivot = members
            granularity = self.plans[0].blended
            pivot["timeDimensions"] = [
                {"dimension": "time", "granularity": granularity}
            ]
        elif self.type == "compareDateRangeQuery":
            pivot["dimensions"] = ["compareDateRange", *pivot["dimensions"]]
        pivot["queryType"] = self.type
        return pivot


@attrs.frozen(kw_only=True)
class Planner:
    """The checks and defaults of one generation of Cube, for one call."""

    classic: bool  # whether the rules are those of 0.35, else those of 1.7
    default_limit: int  # the number of rows where a query has no limit
    max_limit: int  # a higher limit is refused with status 500
    now: datetime  # the time, for relative dates
    cache: Any  # the cache parameter of the call
    compact: bool = True  # whether responseFormat is known

    def request(self, query: Any, query_type: Any) -> Request:
        """Check a decoded ``query`` parameter and complete it.

        Raises:
            Refusal: with Cube's message.
        """
        blending = isinstance(query, list)
        queries: list[Any] = query if blending else [query]
        plans = [plan for one in queries for plan in self._plans(one)]
        kind = "regularQuery"
        if blending:
            kind = "blendingQuery"
            plans = _blended(plans)
        elif any("compareDateRange" in t for t in query.get("timeDimensions") or ()):
            kind = "compareDateRangeQuery"
        if kind != "regularQuery" and query_type is None:
            raise Refusal(_UNSUPPORTED.format(kind))
        shape = "default" if blending else query.get("responseFormat", "default")
        return Request(type=kind, plans=tuple(plans), format=shape)

    def _plans(self, query: Any) -> list[Plan]:
        _SCHEMAS[self.classic, self.compact].check(query)
        if self.cache is not None and not self.classic:
            _cache(self.cache, "cacheMode")
        limit = query.get("limit")
        if isinstance(limit, int | Decimal) and limit > self.max_limit:
            raise Refusal.internal("Error: The query limit has been exceeded.")
        times = query.get("timeDimensions") or []
        compared = [i for i, t in enumerate(times) if "compareDateRange" in t]
        if not compared:
            return [self._plan(query, times)]
        if len(compared) > 1:
            raise Refusal("compareDateRange can only exist for one timeDimension")
        (index,) = compared
        plain = dict(times[index])
        plans: list[Plan] = []
        for span in plain.pop("compareDateRange"):
            ranged = list(times)
            ranged[index] = {**plain, "dateRange": span}
            plan = self._plan(query, ranged)
            begin, end = plan.wire["timeDimensions"][index]["dateRange"]
            plans.append(attrs.evolve(plan, compared=f"{begin} - {end}"))
        return plans

    def _plan(self, query: Mapping[str, Any], times: list[dict[str, Any]]) -> Plan:
        name = query.get("timezone") or "UTC"
        zone = dates.zone(name)
        if zone is None:
            # The older servers read the zone only where a time needs it.
            if times:
                raise Refusal.internal(f"Error: Unknown timezone: {name}")
            zone = ZoneInfo("UTC")
        wire = self._normalized(query, name if self.classic else zone.key)
        order: Any = query.get("order")
        if order is not None:
            pairs = order.items() if isinstance(order, dict) else order
            order = tuple((pair[0], pair[1]) for pair in pairs)
            wire["order"] = [{"id": m, "desc": how == "desc"} for m, how in order]
        filters = query.get("filters") or ()
        wire["filters"] = [self._filter(one, zone) for one in filters]
        dimensions = query.get("dimensions") or ()
        wire["dimensions"] = [d for d in dimensions if d.count(".") == 1]
        wire["timeDimensions"] = [self._time(one, zone) for one in times] + [
            dict(zip(("dimension", "granularity"), d.rsplit(".", 1), strict=True))
            for d in dimensions
            if d.count(".") == 2
        ]
        wire["rowLimit"] = wire["limit"]
        relative = any(isinstance(t.get("dateRange"), str) for t in times) or (
            not self.classic and _any_relative(filters)
        )
        return Plan(
            wire=wire,
            zone=zone,
            classic=self.classic,
            today=f"{self.now.astimezone(zone):%Y-%m-%d}",
            order=order,
            relative=relative,
        )

    def _normalized(self, query: Mapping[str, Any], timezone: str) -> dict[str, Any]:
        """Copy the query and add what Cube adds, in the order in which it adds it."""
        limit = query.get("limit")
        limit = limit if isinstance(limit, int) else self.default_limit
        if self.classic:
            return {**query, "limit": limit, "timezone": timezone}
        mode = self.cache or query.get("cache") or "stale-if-slow"
        wire = {**query, "cacheMode": mode, "timezone": timezone, "limit": limit}
        wire.pop("cache", None)
        return wire

    def _time(self, one: dict[str, Any], zone: ZoneInfo) -> dict[str, Any]:
        if one.get("dateRange") is None:
            return dict(one)
        return {**one, "dateRange": dates.date_range(one["dateRange"], zone, self.now)}

    def _filter(self, one: dict[str, Any], zone: ZoneInfo) -> dict[str, Any]:
        for group in ("or", "and"):
            if group in one:
                return {group: [self._filter(child, zone) for child in one[group]]}
        if not one.get("values") and one["operator"] not in _VALUELESS:
            raise Refusal(f"Values required for filter: {compact(one)}")
        result = {k: v for k, v in one.items() if k != "dimension"}
        if "values" in one:
            result["values"] = [_text(value) for value in one["values"]]
        if "dimension" in one:
            result["member"] = one["dimension"]
        if not self.classic and result.get("values"):
            result["values"] = self._resolved(
                result["operator"], result["values"], zone
            )
        return result

    def _resolved(
        self, operator: str, values: list[str | None], zone: ZoneInfo
    ) -> list[str | None]:
        """Resolve the relative dates of a filter, as servers from 1.7 on do."""
        if operator in _RANGES and len(values) > 1:
            if any(v is not None and not dates.is_absolute(v) for v in values):
                raise Refusal(
                    "Relative-date strings are only supported when `values` has a "
                    f"single element for operator `{operator}`. Pass an absolute "
                    "two-element [start, end] pair, or a single relative string like "
                    f'["last 2 weeks"]. Got: {compact(values)}'
                )
            return values
        if len(values) != 1 or values[0] is None:
            return values
        if operator in _RANGES:
            return [*dates.date_range(values[0], zone, self.now)]
        if operator in _ENDS and not dates.is_absolute(values[0]):
            return [dates.date_range(values[0], zone, self.now)[_ENDS[operator]]]
        return values


def _blended(plans: list[Plan]) -> list[Plan]:
    granularities = {
        t["granularity"]
        for plan in plans
        for t in plan.wire["timeDimensions"][:1]
        if t.get("granularity")
    }
    if not granularities:
        raise Refusal("Data blending query without granularity is not supported")
    if len(granularities) > 1:
        raise Refusal("Data blending query granularities must match")
    (granularity,) = granularities
    return [attrs.evolve(plan, blended=granularity) for plan in plans]


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def _any_relative(filters: Any) -> bool:
    for one in filters:
        if _any_relative(one.get("or") or one.get("and") or ()):
            return True
        if "Date" in one.get("operator", ""):
            values = [v for v in one.get("values") or () if v is not None]
            if not all(dates.is_absolute(str(v)) for v in values):
                return True
    return False


# The form of a query


def _fail(label: str, problem: str) -> NoReturn:
    raise Refusal(f'Invalid query format: "{label}" {problem}')


class _Schema:
    """The form of a query; the first problem in the order of the keys is raised."""

    def __init__(self, *, classic: bool, compact: bool) -> None:
        self.classic = classic
        self.keys: dict[str, _Check] = {
            "measures": self._names,
            "dimensions": self._names,
            "filters": _filters,
            "timeDimensions": self._times,
            "order": self._order,
            "segments": self._names,
            "timezone": self._timezone,
            "limit": self._count,
            "offset": self._count,
            "total": _boolean,
        }
        if classic:
            self.keys |= {
                "renewQuery": _boolean,
                "ungrouped": _boolean,
                "responseFormat": _one_of("default", "compact"),
            }
        else:
            self.keys |= {
                "cacheMode": _cache,
                "cache": _cache,
                "ungrouped": _boolean,
                "responseFormat": _one_of("default", "compact", "columnar"),
                "subqueryJoins": _array,
                "joinHints": _hints,
                "maskedMembers": _array,
            }
        if not compact:
            del self.keys["responseFormat"]

    def check(self, query: Any) -> None:
        """Refuse what Cube's schema refuses."""
        if not isinstance(query, dict):
            _fail("value", "must be of type object")
        self._crash(query)
        for key, check in self.keys.items():
            if key in query:
                check(query[key], key)
        for key in query:
            if key not in self.keys:
                _fail(key, "is not allowed")
        if query.get("maskedMembers") is not None:
            raise Refusal("maskedMembers cannot be provided in the query")
        granular = any(t.get("granularity") for t in query.get("timeDimensions") or ())
        if not (query.get("measures") or query.get("dimensions") or granular):
            raise Refusal(_EMPTY)

    def _crash(self, query: dict[str, Any]) -> None:
        """Fail as the code does that runs before the schema."""
        times = query.get("timeDimensions") or []
        if not isinstance(times, list):
            raise Refusal.internal(
                "TypeError: (query.timeDimensions || []).forEach is not a function"
            )
        if None in times:
            raise Refusal.internal(
                "TypeError: Cannot read properties of null (reading 'compareDateRange')"
            )
        for key in ("measures", "dimensions", "segments"):
            if not isinstance(query.get(key), list | None):
                raise Refusal.internal("TypeError: array?.some is not a function")

    def _names(self, value: Any, label: str) -> None:
        pattern = _ID
        if label == "dimensions":
            pattern = _DIMENSION_CLASSIC if self.classic else _DIMENSION
        for index, name in enumerate(_array(value, label)):
            if isinstance(name, dict):
                _fail(f"{label}[{index}]", _VAGUE)  # a member expression is accepted
            if not isinstance(name, str):
                _fail(f"{label}[{index}]", "must be one of [string, object]")
            _identifier(name, f"{label}[{index}]", pattern)

    def _times(self, value: Any, label: str) -> None:
        for index, one in enumerate(_array(value, label)):
            self._time(one, f"{label}[{index}]")

    def _time(self, one: Any, label: str) -> None:
        if not isinstance(one, dict):
            _fail(label, "must be of type object")
        if "dimension" not in one:
            _fail(f"{label}.dimension", "is required")
        keys: dict[str, _Check] = {
            "dimension": _identifier,
            "granularity": self._granularity,
            "dateRange": _date_range,
            "compareDateRange": _array,
        }
        for key, check in keys.items():
            if key in one:
                check(one[key], f"{label}.{key}")
        for key in one:
            if key not in keys:
                _fail(f"{label}.{key}", "is not allowed")

    def _granularity(self, value: Any, label: str) -> None:
        if not self.classic:
            _string(value, label)
        elif value is not None and value not in dates.UNITS:
            allowed = ", ".join((*dates.UNITS, "null"))
            _fail(label, f"must be one of [{allowed}]")

    def _order(self, value: Any, label: str) -> None:
        if isinstance(value, dict):
            for member, direction in value.items():
                if not re.fullmatch(_ORDERED, member):
                    _fail(f"{label}.{member}", "is not allowed")
                _direction(direction, f"{label}.{member}")
        elif isinstance(value, list):
            for index, pair in enumerate(value):
                if len(_array(pair, f"{label}[{index}]")) < 2:
                    _fail(f"{label}[{index}]", "must contain at least 2 items")
                if len(pair) > 2:
                    _fail(f"{label}[{index}]", "must contain at most 2 items")
                _identifier(pair[0], f"{label}[{index}][0]", _ORDERED, shown=_ID)
                _direction(pair[1], f"{label}[{index}][1]")
        else:
            _fail(label, "must be one of [object, array]")

    def _count(self, value: Any, label: str) -> None:
        if self.classic and isinstance(value, str) and re.fullmatch(r"-?\d+", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            _fail(label, "must be a number")
        if value != int(value):
            _fail(label, "must be an integer")
        if value < 0:
            _fail(label, "must be greater than or equal to 0")

    def _timezone(self, value: Any, label: str) -> None:
        if self.classic:
            _string(value, label)
        elif not isinstance(value, str):
            _fail(label, "must be a string")
        elif value and dates.zone(value) is None:
            _fail(label, f'must be a valid IANA time zone, got "{value}"')


def _array(value: Any, label: str) -> list[Any]:
    if not isinstance(value, list):
        _fail(label, "must be an array")
    return value


def _one_of(*allowed: str) -> _Check:
    def check(value: Any, label: str) -> None:
        if value not in allowed:
            _fail(label, f"must be one of [{', '.join(allowed)}]")

    return check


def _string(value: Any, label: str) -> None:
    if not isinstance(value, str):
        _fail(label, "must be a string")
    if not value:
        _fail(label, "is not allowed to be empty")


def _boolean(value: Any, label: str) -> None:
    if not isinstance(value, bool) and value not in ("true", "false"):
        _fail(label, "must be a boolean")


def _identifier(
    value: Any, label: str, pattern: str = _ID, *, shown: str | None = None
) -> None:
    _string(value, label)
    if not re.fullmatch(pattern, value):
        _fail(
            label,
            f'with value "{value}" fails to match the required pattern: '
            f"/^{shown or pattern}$/",
        )


def _filters(value: Any, label: str) -> None:
    for index, one in enumerate(_array(value, label)):
        if not _is_filter(one):
            _fail(f"{label}[{index}]", _VAGUE)


def _is_filter(one: Any) -> bool:
    if not isinstance(one, dict):
        return False
    if "or" in one or "and" in one:
        if len(one) != 1:
            return False
        (children,) = one.values()
        return isinstance(children, list) and all(_is_filter(c) for c in children)
    if not one.keys() <= {"member", "dimension", "operator", "values"}:
        return False
    name = one.get("member", one.get("dimension"))
    values = one.get("values", [])
    return (
        ("member" in one) != ("dimension" in one)
        and isinstance(name, str)
        and re.fullmatch(_ID, name) is not None
        and isinstance(one.get("operator"), str)
        and one["operator"] in _OPERATORS
        and isinstance(values, list)
        and all(v is None or isinstance(v, str | int | Decimal) for v in values)
    )


def _date_range(value: Any, label: str) -> None:
    if isinstance(value, list):
        if not value:
            _fail(label, "must contain at least 1 items")
        if len(value) > 2:
            _fail(label, "must contain less than or equal to 2 items")
        for index, end in enumerate(value):
            if not isinstance(end, str):
                _fail(f"{label}[{index}]", "must be a string")
    elif not isinstance(value, str):
        _fail(label, "must be one of [array, string]")
    elif not value:
        _fail(label, "is not allowed to be empty")


def _hints(value: Any, label: str) -> None:
    for index, hint in enumerate(_array(value, label)):
        for position, cube in enumerate(_array(hint, f"{label}[{index}]")):
            if not isinstance(cube, str):
                _fail(f"{label}[{index}][{position}]", "must be a string")


_direction: Final = _one_of("asc", "desc")
_cache: Final = _one_of(
    "stale-if-slow", "stale-while-revalidate", "must-revalidate", "no-cache"
)
_SCHEMAS: Final = {
    (classic, compact): _Schema(classic=classic, compact=compact)
    for classic in (False, True)
    for compact in (False, True)
}
