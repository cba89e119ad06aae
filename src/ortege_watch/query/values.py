"""Values of filters and ranges of time: which are accepted, and their form in JSON.

Cube compares strings. Numbers are written in decimal notation, times as wall clock of
the query's time zone, with milliseconds.
"""

from __future__ import annotations

import builtins
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from difflib import get_close_matches
from functools import cache
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo, available_timezones

from ortege_watch._checks import shown
from ortege_watch.errors import QueryError

Scalar: TypeAlias = str | int | Decimal | bool | datetime
# Only the date operators take a date.
Value: TypeAlias = Scalar | date | None
Range: TypeAlias = str | tuple[date, date]
"""Words that the server resolves, such as ``last 7 days``, or a pair, both ends included.
A ``date`` is the whole day in the query's time zone, an aware ``datetime`` an instant."""
RangeLike: TypeAlias = Range | date
"""A range as an argument; a ``date`` alone is that day."""

# object: not declared; results are read as the server's annotation says.
TYPES: tuple[type, ...] = (Decimal, int, str, bool, datetime, object)

UNITS = ("second", "minute", "hour", "day", "week", "month", "quarter", "year")
_MOST_DIGITS = 4000


def check_list(value: Any, what: str, expected: str = "a list") -> tuple[Any, ...]:
    """Return the items of a sequence that is not a string."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise QueryError(f"{what} must be {expected}, got {shown(value)}")
    return tuple(value)


def check_flag(value: Any, what: str) -> bool:
    """Return a boolean; refuse everything else."""
    if not isinstance(value, bool):
        raise QueryError(f"{what} must be True or False, got {shown(value)}")
    return value


def check_text(text: Any, what: str) -> str:
    """Return a string as a plain ``str``; refuse half of a surrogate pair."""
    if not isinstance(text, str):
        raise QueryError(f"{what} must be a string, got {shown(text)}")
    try:
        text.encode()
    except UnicodeEncodeError:
        message = f"{what}: {shown(text)} contains a lone surrogate, which UTF-8 cannot encode"
        raise QueryError(message) from None
    return str.__str__(text)


def check_value(value: Any, declared: builtins.type, what: str) -> Scalar:
    """Return ``value`` as its base type if a member declared so accepts it.

    Instants are returned in UTC. ``Decimal`` members accept ``int`` as well. ``what``
    names the member and the method in the message.
    """
    match value:
        case float():
            number = float.__repr__(value)
            if not math.isfinite(value):
                raise QueryError(f"{what}: {number} is not finite")
            raise QueryError(
                f'{what}: float {number} is not exact; use Decimal("{number}")'
            )
        case bool() if declared in {bool, object}:
            return value
        case str() if declared in {str, object}:
            return check_text(value, what)
        case int() if declared in {int, Decimal, object} and type(value) is not bool:
            if value.bit_length() > 3 * _MOST_DIGITS:
                raise QueryError(f"{what}: int is longer than {3 * _MOST_DIGITS} bits")
            return int(value)
        case Decimal() if declared in {Decimal, object}:
            if not value.is_finite():
                raise QueryError(f"{what}: {shown(value)} is not finite")
            # A large exponent would be written out as zeros.
            if abs(value.adjusted()) > _MOST_DIGITS:
                message = f"{what}: {shown(value)} has more than {_MOST_DIGITS} digits"
                raise QueryError(message)
            return value
        case datetime() if declared in {datetime, object}:
            return _in_utc(value, what)
        case _:
            expected = declared.__name__
            if declared is object:
                expected = "a string, number, boolean or datetime"
            raise QueryError(
                f"{what}: expected {expected}, got {shown(value)} of type "
                f"{type(value).__name__}{_advice(value, what)}"
            )


def _advice(value: Any, what: str) -> str:
    if value is None:
        return "; for NULL use .is_set() or .is_not_set()"
    if isinstance(value, list | tuple | set | frozenset):
        method = what.rpartition(".")[2]
        if method.endswith(("contains", "with")):
            return f'; use {method}("a", "b")'
        several = {"eq": "in_", "ne": "not_in"}.get(method)
        return f"; for several values use .{several}([...])" if several else ""
    if type(value) in TYPES:
        return f"; convert it, or declare the member {type(value).__name__}"
    return ""


def check_moment(value: Any, what: str) -> date:
    """Return a ``date`` (a whole day) or a ``datetime`` in UTC (an instant)."""
    match value:
        case datetime():
            return _in_utc(value, what)
        case date():
            return value
        case str() if _DAY.fullmatch(value):
            year, month, day = map(int, value.split("-"))
            hint = f"; use date({year}, {month}, {day})"
        case str() if not _DAY.match(value):
            hint = '; relative ranges go into .over("last 7 days")'
        case _:
            hint = ""
    expected = "expected a date or an aware datetime"
    raise QueryError(f"{what}: {expected}, got {shown(value)}{hint}")


def _in_utc(value: datetime, what: str) -> datetime:
    """Return an aware datetime in UTC.

    In other zones two instants of one wall time would be equal, or unequal to both.
    """
    if value.utcoffset() is None:
        message = f"{what}: {shown(value)} is naive; add tzinfo=timezone.utc or another"
        raise QueryError(message)
    return _convert(value, UTC, what)


def _convert(
    value: datetime, zone: tzinfo, what: str, plus: timedelta = timedelta()
) -> datetime:
    try:
        # A sum, also with zero, loses the fold.
        return (value + plus if plus else value).astimezone(zone)
    except OverflowError:
        message = f"{what}: {shown(value)} is outside the years 1 to 9999"
        raise QueryError(message) from None


def value_to_wire(value: Value) -> str | None:
    """Return a value as an operator sends it that does not depend on the time zone.

    An instant is written in UTC whatever the query's zone: only the date operators
    convert from that zone (source: Cube's schema compiler, ``BaseFilter``).
    """
    match value:
        case None | str():
            return value
        case bool():
            return "true" if value else "false"
        case Decimal():
            return format(value, "f")
        case datetime():
            exact = "microseconds" if value.microsecond % 1000 else "milliseconds"
            return value.replace(tzinfo=None).isoformat(timespec=exact)
        case _:
            return str(value)


def wall_clock(moment: datetime, zone: tzinfo, what: str, *, up: bool) -> str:
    """Return a UTC instant as ``YYYY-MM-DDTHH:MM:SS.mmm`` on the clocks of ``zone``.

    Cube compares milliseconds; finer parts are rounded up or down. Where clocks are set
    back, an hour occurs twice and Cube means the first; the second is refused.
    """
    finer = moment.microsecond % 1000
    rounding = timedelta(microseconds=1000 * up - finer if finer else 0)
    local = _convert(moment, zone, what, rounding)
    if local.fold:
        raise QueryError(
            f"{what}: {local:%Y-%m-%d %H:%M} occurs twice in {zone} and Cube uses the "
            'first; query with timezone="UTC"'
        )
    return local.replace(tzinfo=None).isoformat(timespec="milliseconds")


def inclusive_end(moment: datetime) -> datetime:
    """Return an end that is not rounded up to the next second.

    ``time.max`` means the last row of a day, not the first one of the next day.
    """
    return moment.replace(microsecond=min(moment.microsecond, 999_000))


def day_end(day: date) -> str:
    """Return the last millisecond of a day."""
    return f"{day.isoformat()}T23:59:59.999"


_UNIT = f"(?:{'|'.join(UNITS)})"
_COUNT = "[1-9][0-9]{0,6}"
_AGO = f"{_COUNT} {_UNIT}s? (?:ago|from now)"
_POINT = f"(?:now|{_AGO}|[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})"
_RELATIVE = re.compile(
    f"today|yesterday|tomorrow|(?:this|last|next) {_UNIT}"
    f"|(?:last|next) {_COUNT} {_UNIT}s?|from {_POINT} to {_POINT}"
)
_AGO_PARTS = re.compile(f"({_COUNT}) ({_UNIT})s? (ago|from now)")
# Seconds, days and months: units of one kind are multiples of each other.
_LENGTHS = {
    "second": ("seconds", 1),
    "minute": ("seconds", 60),
    "hour": ("seconds", 3600),
    "day": ("days", 1),
    "week": ("days", 7),
    "month": ("months", 1),
    "quarter": ("months", 3),
    "year": ("months", 12),
}
_DAY_SECONDS = 86_400
# More than clocks are set back or forward between the two points.
_CLOCK_CHANGE = 4 * 3600
_EMPTY = re.compile(f" *(?:last|next) +0+ +{_UNIT}s? *", re.IGNORECASE)
_MONTH = re.compile("[0-9]{4}-[0-9]{2}")
_DAY = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOMENT = re.compile(
    _DAY.pattern + r"([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?"
    "(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)?"
)
_FORMS = (
    '"today", "yesterday", "tomorrow", "this|last|next <unit>", '
    '"last|next <n> <units>", "from <point> to <point>" (a point is "now", '
    '"<n> <units> ago", "<n> <units> from now" or a day), a day "2024-05-01", '
    "or a pair (start, end) of dates or aware datetimes"
)


def relative_words(value: Any) -> str | None:
    """Return a relative range in its usual form; ``None`` for anything else."""
    if not isinstance(value, str):
        return None
    words = " ".join(value.lower().split())
    return words if _RELATIVE.fullmatch(words) else None


def day_of(value: Any) -> Any:
    """Return the day of a time that stands for a range: servers read it so [seen]."""
    is_moment = isinstance(value, str) and _MOMENT.fullmatch(value)
    return value[:10] if is_moment else value


def check_range(value: Any, what: str = "range") -> Range:
    """Return a range: words in their usual form, or a pair; a day becomes a pair.

    Case and spaces do not matter. Cube passes other words to a parser that guesses:
    ``June 2024`` is only its first day, ``from last week to today`` only the week.
    """
    match value:
        case str():
            if _DAY.fullmatch(value.strip()):
                return check_range(_parse(value.strip(), what), what)
            if words := relative_words(value):
                check_ordered([_parse(x, what) for x in _DAY.findall(words)], what)
                if _ends_before_start(words):
                    message = f"range ends before it starts: {words!r}"
                    raise QueryError(f"{what}: {message}; the earlier point is first")
                return words
            if _EMPTY.fullmatch(value):
                message = f"{what}: {shown(value)} is empty: n must be at least 1"
                raise QueryError(message)
        case date() if not isinstance(value, datetime):
            return (value, value)
        case [start, end]:
            pair = (check_moment(start, what), check_moment(end, what))
            check_ordered(pair, what)
            return pair
        case _:
            pass
    raise QueryError(f"{what}: expected {_FORMS}, got {shown(value)}")


def check_ordered(moments: Sequence[date], what: str) -> None:
    """Refuse a pair that ends before it starts."""
    # range_to_wire(), which knows the time zone, compares a day and an instant.
    if len({isinstance(moment, datetime) for moment in moments}) == 1:
        start, end = moments[0], moments[-1]
        if start > end:
            raise QueryError(f"{what}: range ends before it starts: {start} to {end}")


def _ends_before_start(words: str) -> bool:
    """Return whether two points that are relative to now are certainly in this order."""
    start, _, end = words.removeprefix("from ").partition(" to ")
    points = _distance(start), _distance(end)
    match points:
        case [(kind, first), (other, last)] if kind == other or not first or not last:
            return first > last
        case [(_, _) as first, (_, _) as last]:
            return _seconds(first)[0] > _seconds(last)[1]
        case _:  # a day, or not two points
            return False


def _distance(point: str) -> tuple[str, int] | None:
    """Return how far a point is from now, and in what; negative in the past."""
    if point == "now":
        return "seconds", 0
    parts = _AGO_PARTS.fullmatch(point)
    if parts is None:
        return None
    kind, length = _LENGTHS[parts[2]]
    return kind, int(parts[1]) * length * (-1 if parts[3] == "ago" else 1)


def _seconds(distance: tuple[str, int]) -> tuple[int, int]:
    """Return the least and the greatest number of seconds that a distance can be."""
    kind, count = distance
    if kind == "seconds":
        return count, count
    days = sorted((28 * count, 31 * count)) if kind == "months" else (count, count)
    low, high = (_DAY_SECONDS * each for each in days)
    return low - _CLOCK_CHANGE, high + _CLOCK_CHANGE


def range_to_wire(
    value: Range, zone: tzinfo, what: str, *, inward: bool = False
) -> str | list[str]:
    """Return words as they are, days as days, and instants as wall clock of ``zone``.

    A start is rounded down to a millisecond and an end up, within its second, so that
    no row of the range is lost; with ``inward`` the other way round, for a range that is
    excluded.
    """
    if isinstance(value, str):
        return value
    first, last = value
    if isinstance(last, datetime):
        last = inclusive_end(last)
    ends = [
        wall_clock(moment, zone, what, up=up) if isinstance(moment, datetime) else None
        for moment, up in ((first, inward), (last, not inward))
    ]
    start, end = (x or day.isoformat() for x, day in zip(ends, value, strict=True))
    if start > (ends[1] or day_end(last)):
        raise QueryError(f"{what}: range ends before it starts: {start} to {end}")
    return [start, end]


def parse_moment(
    text: Any, zone: tzinfo, what: str, *, drop_offset: bool = False
) -> date:
    """Return a day, or the UTC instant of a time; without an offset it is of ``zone``.

    With ``drop_offset``, a time with an offset is read as Cube reads a ``dateRange``:
    its UTC clock becomes wall clock of the query's time zone, and a month is its first
    instant (seen on 0.35.81 and 1.7.43).
    """
    if drop_offset and isinstance(text, str) and _MONTH.fullmatch(text):
        text += "-01T00:00"
    if not isinstance(text, str) or not _MOMENT.fullmatch(text):
        raise QueryError(
            f"{what}: expected YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS.mmm, got {shown(text)}; "
            'relative ranges such as "last 7 days" go alone into dateRange'
        )
    moment = _parse(text, what)
    if not isinstance(moment, datetime):
        return moment
    if drop_offset and moment.tzinfo is not None:
        moment = _in_utc(moment, what).replace(tzinfo=None)
    return _in_utc(moment if moment.tzinfo else moment.replace(tzinfo=zone), what)


def _parse(text: str, what: str) -> date:
    kind = date if _DAY.fullmatch(text) else datetime
    try:
        return kind.fromisoformat(text)
    except ValueError:
        raise QueryError(f"{what}: {shown(text)} is not a valid date") from None


# ZoneInfo also finds files that are not IANA time zones.
_OTHER_FILES = {"localtime", "Factory", ""}


@cache
def zone_names() -> dict[str, str]:
    """Return the names of all IANA time zones by their lower case."""
    return {name.lower(): name for name in available_timezones() - _OTHER_FILES}


def check_zone(value: Any) -> ZoneInfo:
    """Return the IANA time zone of this name, or of a ``ZoneInfo``."""
    if isinstance(value, ZoneInfo) and value.key:  # one from a file may have no name
        value = value.key
    if isinstance(value, str):
        if value not in _OTHER_FILES and not value.startswith(("posix/", "right/")):
            with suppress(KeyError, ValueError, OSError):
                return ZoneInfo(value)
        names = zone_names()
        for near in get_close_matches(value.lower(), names, n=1, cutoff=0.88):
            message = f"unknown timezone {shown(value)}: did you mean {names[near]!r}?"
            raise QueryError(message)
    expected = "an IANA name such as 'America/Los_Angeles', 'Etc/GMT-5' or 'UTC'"
    raise QueryError(f"timezone must be {expected}, got {shown(value)}")
