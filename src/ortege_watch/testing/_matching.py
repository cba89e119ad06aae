"""The filter operators, as conditions on one value."""

from __future__ import annotations

import operator as op
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final
from zoneinfo import ZoneInfo

from ortege_watch.testing import _dates
from ortege_watch.testing._refusal import Refusal

Condition = Callable[[Any], bool]

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
_NUMBER: Final = "number"


def condition(
    operator: str, values: Sequence[str | None], kind: str, where: ZoneInfo
) -> Condition:
    """Build the condition of one filter.

    Args:
        operator: one that the schema lets through.
        values: as normalized: text or NULL.
        kind: the member's type.
        where: the query's time zone; dates without one are read in it.

    Raises:
        Refusal: the database would not take the values.
    """
    if operator in {"set", "notSet"}:
        return lambda value: (value is not None) == (operator == "set")
    if operator == "measureFilter":
        return _always
    if operator in _EQUAL:
        return _equality(values, kind, where, negated=_EQUAL[operator])
    stem = operator.removeprefix("not")
    stem = stem[0].lower() + stem[1:]
    if stem in _TEXT:
        return _likeness(_TEXT[stem], values, negated=stem != operator)
    if "Date" in operator:
        return _dated(operator, stem, values, kind, where)
    bound = _read(values[0], kind, where)
    compare = _COMPARE[operator]
    return lambda value: (
        value is not None and bound is not None and compare(value, bound)
    )


def _always(_: Any) -> bool:
    return True


def _equality(
    values: Sequence[str | None], kind: str, where: ZoneInfo, *, negated: bool
) -> Condition:
    wanted = {_read(v, kind, where) for v in values if v is not None}
    null = None in values
    if negated:
        # Without NULL among the values, NULL rows come back as well.
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


def _dated(
    operator: str,
    stem: str,
    values: Sequence[str | None],
    kind: str,
    where: ZoneInfo,
) -> Condition:
    if kind != "time":
        raise Refusal.database(
            "operator does not exist: text >= timestamp with time zone"
        )
    if stem in {"inDateRange", "onTheDate"}:
        begin = _moment(values[0], where, end=False)
        if len(values) < 2:
            # Servers that do not resolve a single value drop the filter in silence.
            return _always
        end = _moment(values[1], where, end=True)
        negated = stem != operator
        return lambda value: value is not None and (begin <= value <= end) != negated
    bound = _moment(values[0], where, end=False)
    compare = _COMPARE[operator]
    return lambda value: value is not None and compare(value, bound)


def _moment(text: str | None, where: ZoneInfo, *, end: bool) -> datetime:
    return _dates.instant(_dates.absolute(text or "", end=end), where)


def _read(text: str | None, kind: str, where: ZoneInfo) -> Any:
    """Read a value as the database casts it to the member's type."""
    if text is None:
        return None
    match kind:
        case "number":
            try:
                return Decimal(text)
            except InvalidOperation:
                raise Refusal.database(
                    f'invalid input syntax for type numeric: "{text}"'
                ) from None
        case "boolean":
            if text.lower() not in {"true", "false"}:
                raise Refusal.database(
                    f'invalid input syntax for type boolean: "{text}"'
                )
            return text.lower() == "true"
        case "time":
            return _moment(text, where, end=False)
        case _:
            return text
