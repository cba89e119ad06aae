"""The form of a query, checked as a Cube server checks it, sentence for sentence.

An opinion of its own: nothing here is shared with the library's ``Query``. Sentences
were seen on Cube 0.35.81 (see tests/data/frames); where 1.7.43 is known to differ, the
generation decides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any, Final

from ortege_watch.testing import _dates
from ortege_watch.testing._refusal import Refusal

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
