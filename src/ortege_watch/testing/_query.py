"""A checked query, made definite: defaults filled in, ranges resolved."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import attrs

from ortege_watch.testing import _dates
from ortege_watch.testing._refusal import Refusal
from ortege_watch.testing._schema import VALUELESS, cache_mode, check, compact

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
    order = _order(query.get("order"))
    wire = _normalized(query, cache=cache, settings=settings)
    if order is not None:
        wire["order"] = [{"id": m, "desc": way == "desc"} for m, way in order]
    wire["filters"] = [
        _filter(one, where, now, classic=settings.classic)
        for one in query.get("filters") or ()
    ]
    names = [d for d in query.get("dimensions") or () if d.count(".") == 1]
    wire["dimensions"] = names
    wire["timeDimensions"] = [_time(t, where, now) for t in times] + [
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


def _order(order: Any) -> tuple[tuple[str, str], ...] | None:
    if order is None:
        return None
    pairs = order.items() if isinstance(order, dict) else order
    return tuple((pair[0], pair[1]) for pair in pairs)


def _time(one: dict[str, Any], where: ZoneInfo, now: datetime) -> dict[str, Any]:
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
