"""A checked query, made definite: defaults filled in, ranges resolved."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, Final
from zoneinfo import ZoneInfo

import attrs

from ortege_watch.testing._cube import Refusal
from ortege_watch.testing._cube import dates as _dates

# -------------------- The form of a query, checked as a Cube server checks it, sentence for sentence.
#
# An opinion of its own: nothing here is shared with the library's ``Query``. Sentences
# were seen on Cube 0.35.81 (see tests/data/frames); where 1.7.43 is known to differ, the
# generation decides.


_ID: Final = re.compile(r"[a-zA-Z0-9_]+\.[a-zA-Z0-9_]+\Z")
_ID_SHOWN: Final = "/^[a-zA-Z0-9_]+\\.[a-zA-Z0-9_]+$/"
_DIMENSION: Final = re.compile(r"[a-zA-Z0-9_]+\.[a-zA-Z0-9_]+(\.[a-zA-Z0-9_]+)?\Z")
_DIMENSION_CLASSIC: Final = re.compile(
    r"[a-zA-Z0-9_]+\.[a-zA-Z0-9_]+(\.(second|minute|hour|day|week|month|year))?\Z"
)
_DIMENSION_SHOWN: Final = (
    "/^[a-zA-Z0-9_]+\\.[a-zA-Z0-9_]+(\\.(second|minute|hour|day|week|month|year))?$/"
)
_ORDERED: Final = re.compile(r"[a-zA-Z0-9_]+(\.[a-zA-Z0-9_]+){0,2}\Z")
OPERATORS: Final = frozenset(
    (
        *("equals", "notEquals", "in", "notIn", "gt", "gte", "lt", "lte"),
        *("contains", "notContains", "startsWith", "notStartsWith"),
        *("endsWith", "notEndsWith", "set", "notSet", "inDateRange"),
        *("notInDateRange", "onTheDate", "beforeDate", "beforeOrOnDate"),
        *("afterDate", "afterOrOnDate", "measureFilter"),
    )
)
VALUELESS: Final = frozenset({"set", "notSet", "measureFilter"})
_CACHE_MODES: Final = (
    "stale-if-slow",
    "stale-while-revalidate",
    "must-revalidate",
    "no-cache",
)
_VAGUE: Final = "does not match any of the allowed types"
_EMPTY: Final = (
    "Query should contain either measures, dimensions or timeDimensions with "
    "granularities in order to be valid"
)

_Check = Callable[[Any, str], object]


def check(query: Any, *, classic: bool) -> None:
    """Refuse what Cube's schema refuses; the first problem in its order of keys."""
    if not isinstance(query, dict):
        raise Refusal.format('"value" must be of type object')
    for key in ("measures", "dimensions"):
        if isinstance(query.get(key), str):
            raise Refusal.internal("TypeError: array?.some is not a function")
    schema = _CLASSIC if classic else _STRICT
    for key, check_value in schema.items():
        if key in query:
            check_value(query[key], key)
    for key in query:
        if key not in schema:
            raise Refusal.format(f'"{key}" is not allowed')
    if query.get("maskedMembers") is not None:
        raise Refusal("maskedMembers cannot be provided in the query")
    granular = any(t.get("granularity") for t in query.get("timeDimensions") or ())
    if not (query.get("measures") or query.get("dimensions") or granular):
        raise Refusal(_EMPTY)


def cache_mode(value: Any) -> None:
    """Refuse a cache mode that is none."""
    _CACHE(value, "cacheMode")


def _array(value: Any, label: str) -> list[Any]:
    if not isinstance(value, list):
        raise Refusal.format(f'"{label}" must be an array')
    return value


def _one_of(*allowed: str) -> _Check:
    def check_value(value: Any, label: str) -> None:
        if value not in allowed:
            raise Refusal.format(f'"{label}" must be one of [{", ".join(allowed)}]')

    return check_value


def _identifier(value: Any, label: str, pattern: re.Pattern[str], shown: str) -> None:
    if not isinstance(value, str):
        raise Refusal.format(f'"{label}" must be a string')
    if not value:
        raise Refusal.format(f'"{label}" is not allowed to be empty')
    if not pattern.match(value):
        raise Refusal.format(
            f'"{label}" with value "{value}" fails to match the required pattern: '
            f"{shown}"
        )


def _names(value: Any, label: str, *, classic: bool) -> None:
    dimensions = label == "dimensions"
    pattern = _ID
    if dimensions:
        pattern = _DIMENSION_CLASSIC if classic else _DIMENSION
    shown = _DIMENSION_SHOWN if dimensions else _ID_SHOWN
    for index, name in enumerate(_array(value, label)):
        if classic:
            _identifier(name, f"{label}[{index}]", pattern, shown)
        elif not (isinstance(name, str) and pattern.match(name)):
            # Newer servers take member expressions here as well.
            raise Refusal.format(f'"{label}[{index}]" {_VAGUE}')


def _filters(value: Any, label: str) -> None:
    for index, one in enumerate(_array(value, label)):
        if not _is_filter(one):
            raise Refusal.format(f'"{label}[{index}]" {_VAGUE}')


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
        and _ID.match(name) is not None
        and isinstance(one.get("operator"), str)
        and one["operator"] in OPERATORS
        and isinstance(values, list)
        and all(v is None or isinstance(v, str | int | Decimal) for v in values)
    )


def _times(value: Any, label: str, *, classic: bool) -> None:
    for index, one in enumerate(_array(value, label)):
        _time(one, f"{label}[{index}]", classic)


def _time(one: Any, label: str, classic: bool) -> None:
    if not isinstance(one, dict):
        raise Refusal.format(f'"{label}" must be of type object')
    if "dimension" not in one:
        raise Refusal.format(f'"{label}.dimension" is required')
    _identifier(one["dimension"], f"{label}.dimension", _ID, _ID_SHOWN)
    if "granularity" in one:
        _granularity(one["granularity"], f"{label}.granularity", classic)
    if "dateRange" in one:
        _date_range(one["dateRange"], f"{label}.dateRange")
    if "compareDateRange" in one:
        _array(one["compareDateRange"], f"{label}.compareDateRange")
    for key in one:
        if key not in {"dimension", "granularity", "dateRange", "compareDateRange"}:
            raise Refusal.format(f'"{label}.{key}" is not allowed')


def _granularity(value: Any, label: str, classic: bool) -> None:
    if classic:
        if value is not None and value not in _dates.GRANULARITIES:
            allowed = ", ".join((*_dates.GRANULARITIES, "null"))
            raise Refusal.format(f'"{label}" must be one of [{allowed}]')
    elif not isinstance(value, str):
        raise Refusal.format(f'"{label}" must be a string')
    elif not value:
        raise Refusal.format(f'"{label}" is not allowed to be empty')


def _date_range(value: Any, label: str) -> None:
    if isinstance(value, list):
        if not value:
            raise Refusal.format(f'"{label}" must contain at least 1 items')
        if len(value) > 2:
            raise Refusal.format(
                f'"{label}" must contain less than or equal to 2 items'
            )
        for index, end in enumerate(value):
            if not isinstance(end, str):
                raise Refusal.format(f'"{label}[{index}]" must be a string')
    elif not isinstance(value, str):
        raise Refusal.format(f'"{label}" must be one of [array, string]')
    elif not value:
        raise Refusal.format(f'"{label}" is not allowed to be empty')


def _order(value: Any, label: str, *, classic: bool) -> None:
    direction = _one_of("asc", "desc")
    if isinstance(value, dict):
        for member, way in value.items():
            if not (_ID if classic else _ORDERED).match(member):
                raise Refusal.format(f'"{label}.{member}" is not allowed')
            direction(way, f"{label}.{member}")
    elif isinstance(value, list):
        for index, pair in enumerate(value):
            if not isinstance(pair, list):
                raise Refusal.format(f'"{label}[{index}]" must be an array')
            if len(pair) < 2:
                raise Refusal.format(
                    f'"{label}[{index}]" must contain at least 2 items'
                )
            _identifier(pair[0], f"{label}[{index}][0]", _ORDERED, _ID_SHOWN)
            direction(pair[1], f"{label}[{index}][1]")
    else:
        raise Refusal.format(f'"{label}" must be one of [object, array]')


def _count(value: Any, label: str, *, classic: bool) -> None:
    if classic and isinstance(value, str) and re.fullmatch(r"-?\d+", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise Refusal.format(f'"{label}" must be a number')
    if value != int(value):
        raise Refusal.format(f'"{label}" must be an integer')
    if value < 0:
        raise Refusal.format(f'"{label}" must be greater than or equal to 0')


def _boolean(value: Any, label: str) -> None:
    if not isinstance(value, bool) and value not in {"true", "false"}:
        raise Refusal.format(f'"{label}" must be a boolean')


def _timezone(value: Any, label: str, *, classic: bool) -> None:
    if classic and value == "":
        raise Refusal.format(f'"{label}" is not allowed to be empty')
    if not isinstance(value, str):
        raise Refusal.format(f'"{label}" must be a string')
    if not classic and value and _dates.zone(value) is None:
        raise Refusal.format(f'"{label}" must be a valid IANA time zone, got "{value}"')


def _hints(value: Any, label: str) -> None:
    for index, hint in enumerate(_array(value, label)):
        for place, cube in enumerate(_array(hint, f"{label}[{index}]")):
            if not isinstance(cube, str):
                raise Refusal.format(f'"{label}[{index}][{place}]" must be a string')


def _schema(*, classic: bool) -> dict[str, _Check]:
    """Name the keys of a query and their checks, in the order of Cube's schema."""
    names, count = partial(_names, classic=classic), partial(_count, classic=classic)
    shared: dict[str, _Check] = {
        "measures": names,
        "dimensions": names,
        "filters": _filters,
        "timeDimensions": partial(_times, classic=classic),
        "order": partial(_order, classic=classic),
        "segments": names,
        "timezone": partial(_timezone, classic=classic),
        "limit": count,
        "offset": count,
        "total": _boolean,
    }
    if classic:
        return {
            **shared,
            "renewQuery": _boolean,
            "ungrouped": _boolean,
            "responseFormat": _one_of("default", "compact"),
        }
    return {
        **shared,
        "cacheMode": _CACHE,
        "cache": _CACHE,
        "ungrouped": _boolean,
        "responseFormat": _one_of("default", "compact", "columnar"),
        "subqueryJoins": _array,
        "joinHints": _hints,
        "maskedMembers": _array,
    }


_CACHE: Final = _one_of(*_CACHE_MODES)
_CLASSIC: Final = _schema(classic=True)
_STRICT: Final = _schema(classic=False)


def compact(value: Any) -> str:
    """Write JSON as the sentences quote it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)


_RANGES: Final = frozenset({"inDateRange", "notInDateRange", "onTheDate"})
_UNSUPPORTED: Final = (
    "'{}' query type is not supported by the client.Please update the client."
)


@attrs.frozen(kw_only=True)
class Settings:
    """Hold what the server's configuration decides about queries.

    Attributes:
        classic: whether the rules are those of 0.35, else those of 1.7.
        default_limit: rows where the query names no limit.
        max_limit: above it a query is refused with status 500.
    """

    classic: bool
    default_limit: int = 10_000
    max_limit: int = 50_000


@attrs.frozen(kw_only=True)
class Plan:
    """Hold one query ready to be evaluated.

    Attributes:
        wire: the normalized query as the answer repeats it.
        where: the query's time zone.
        order: pairs of member and "asc"/"desc"; None for the default order.
        compared: what rows carry as ``compareDateRange``.
        blended: the granularity under whose name rows carry ``time.<granularity>``.
        relative: whether time alone can change the answer.
    """

    wire: dict[str, Any]
    where: ZoneInfo
    order: tuple[tuple[str, str], ...] | None
    compared: str | None = None
    blended: str | None = None
    relative: bool = False


@attrs.frozen(kw_only=True)
class Request:
    """Hold what one ``query`` parameter asks: one plan, or several at once."""

    type: str
    plans: tuple[Plan, ...]
    format: str

    def pivot(self) -> dict[str, Any]:
        """Write the pivotQuery of the answer."""
        wires = [plan.wire for plan in self.plans]
        if self.type == "blendingQuery":
            pivot: dict[str, Any] = {
                key: list(dict.fromkeys(name for w in wires for name in w.get(key, ())))
                for key in ("measures", "dimensions")
            }
            granularity = self.plans[0].blended
            pivot["timeDimensions"] = [
                {"dimension": "time", "granularity": granularity}
            ]
        else:
            pivot = dict(wires[0])
            if self.type == "compareDateRangeQuery":
                pivot["dimensions"] = ["compareDateRange", *pivot["dimensions"]]
        return {**pivot, "queryType": self.type}


def request(
    query: Any,
    *,
    query_type: Any,
    cache: Any,
    now: datetime,
    settings: Settings,
) -> Request:
    """Check a decoded ``query`` parameter and make it definite.

    Raises:
        Refusal: with Cube's sentence.
    """
    blending = isinstance(query, list)
    queries: list[Any] = query if blending else [query]
    plans = [
        plan
        for one in queries
        for plan in _plans(one, cache=cache, now=now, settings=settings)
    ]
    kind = "regularQuery"
    if blending:
        kind = "blendingQuery"
        plans = _blended(plans)
    elif any("compareDateRange" in t for t in query.get("timeDimensions") or ()):
        kind = "compareDateRangeQuery"
    if kind != "regularQuery" and query_type is None:
        raise Refusal(_UNSUPPORTED.format(kind))
    if settings.classic:
        for plan in plans:
            plan.wire["queryType"] = kind
    shape = "default" if blending else query.get("responseFormat", "default")
    return Request(type=kind, plans=tuple(plans), format=shape)


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


def _plans(query: Any, *, cache: Any, now: datetime, settings: Settings) -> list[Plan]:
    check(query, classic=settings.classic)
    if cache is not None and not settings.classic:
        cache_mode(cache)
    limit = query.get("limit")
    if not isinstance(limit, str) and limit is not None and limit > settings.max_limit:
        raise Refusal.internal("Error: The query limit has been exceeded.")
    times = query.get("timeDimensions") or []
    compared = [t for t in times if "compareDateRange" in t]
    if not compared:
        return [_plan(query, times, cache=cache, now=now, settings=settings)]
    if len(compared) > 1:
        raise Refusal("compareDateRange can only exist for one timeDimension")
    plans: list[Plan] = []
    for one in compared[0]["compareDateRange"]:
        ranged = [
            {
                **{k: v for k, v in t.items() if k != "compareDateRange"},
                "dateRange": one,
            }
            if t is compared[0]
            else t
            for t in times
        ]
        plan = _plan(query, ranged, cache=cache, now=now, settings=settings)
        index = times.index(compared[0])
        begin, end = plan.wire["timeDimensions"][index]["dateRange"]
        plans.append(attrs.evolve(plan, compared=f"{begin} - {end}"))
    return plans


def _plan(
    query: Mapping[str, Any],
    times: list[dict[str, Any]],
    *,
    cache: Any,
    now: datetime,
    settings: Settings,
) -> Plan:
    name = query.get("timezone") or "UTC"
    where = _dates.zone(name)
    if where is None:
        # The older servers look at the zone only where a time needs it.
        if times:
            raise Refusal.internal(f"Error: Unknown timezone: {name}")
        where = ZoneInfo("UTC")
    order = _plan_order(query.get("order"))
    wire = _normalized(query, cache=cache, settings=settings)
    if order is not None:
        wire["order"] = [{"id": m, "desc": way == "desc"} for m, way in order]
    wire["filters"] = [
        _filter(one, where, now, classic=settings.classic)
        for one in query.get("filters") or ()
    ]
    names = [d for d in query.get("dimensions") or () if d.count(".") == 1]
    wire["dimensions"] = names
    wire["timeDimensions"] = [_plan_time(t, where, now) for t in times] + [
        dict(zip(("dimension", "granularity"), d.rsplit(".", 1), strict=True))
        for d in query.get("dimensions") or ()
        if d.count(".") == 2
    ]
    wire["rowLimit"] = wire["limit"]
    relative = any(isinstance(t.get("dateRange"), str) for t in times)
    if not settings.classic:
        relative = relative or _any_relative(query.get("filters") or ())
    return Plan(wire=wire, where=where, order=order, relative=relative)


def _normalized(
    query: Mapping[str, Any], *, cache: Any, settings: Settings
) -> dict[str, Any]:
    """Copy the query and add what Cube adds, in the order in which it adds it."""
    wire = dict(query)
    limit = query.get("limit")
    limit = settings.default_limit if not isinstance(limit, int) else limit
    if settings.classic:
        wire["limit"] = limit
        wire["timezone"] = query.get("timezone") or "UTC"
    else:
        wire["cacheMode"] = cache or query.get("cache") or "stale-if-slow"
        wire.pop("cache", None)
        wire["timezone"] = query.get("timezone") or "UTC"
        wire["limit"] = limit
    if not settings.classic:
        zone = _dates.zone(wire["timezone"])
        wire["timezone"] = zone.key if zone else "UTC"
    return wire


def _plan_order(order: Any) -> tuple[tuple[str, str], ...] | None:
    if order is None:
        return None
    pairs = order.items() if isinstance(order, dict) else order
    return tuple((pair[0], pair[1]) for pair in pairs)


def _plan_time(one: dict[str, Any], where: ZoneInfo, now: datetime) -> dict[str, Any]:
    if one.get("dateRange") is None:
        return dict(one)
    return {**one, "dateRange": _dates.date_range(one["dateRange"], where, now)}


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def _filter(
    one: dict[str, Any], where: ZoneInfo, now: datetime, *, classic: bool
) -> dict[str, Any]:
    for group in ("or", "and"):
        if group in one:
            return {
                group: [_filter(c, where, now, classic=classic) for c in one[group]]
            }
    if not one.get("values") and one["operator"] not in VALUELESS:
        raise Refusal(f"Values required for filter: {compact(one)}")
    result = {k: v for k, v in one.items() if k != "dimension"}
    if "values" in one:
        result["values"] = [_text(value) for value in one["values"]]
    if "dimension" in one:
        result["member"] = one["dimension"]
    return result if classic else _resolved(result, where, now)


def _resolved(one: dict[str, Any], where: ZoneInfo, now: datetime) -> dict[str, Any]:
    """Resolve relative dates in a filter, as servers from 1.7 on do."""
    operator, values = one["operator"], one.get("values") or []
    if operator in _RANGES and len(values) > 1:
        if any(v is not None and not _dates.is_absolute(v) for v in values):
            raise Refusal(
                "Relative-date strings are only supported when `values` has a single "
                f"element for operator `{operator}`. Pass an absolute two-element "
                "[start, end] pair, or a single relative string like "
                f'["last 2 weeks"]. Got: {compact(values)}'
            )
        return one
    if len(values) != 1 or values[0] is None:
        return one
    if operator in _RANGES:
        return {**one, "values": _dates.date_range(values[0], where, now)}
    end = {"beforeDate": 0, "afterOrOnDate": 0, "beforeOrOnDate": 1, "afterDate": 1}
    if operator in end and not _dates.is_absolute(values[0]):
        chosen = _dates.date_range(values[0], where, now)[end[operator]]
        return {**one, "values": [chosen]}
    return one


def _any_relative(filters: Any) -> bool:
    for one in filters:
        if _any_relative(one.get("or") or one.get("and") or ()):
            return True
        dated = "Date" in one.get("operator", "")
        values = one.get("values") or ()
        if dated and any(
            v is not None and not _dates.is_absolute(str(v)) for v in values
        ):
            return True
    return False
