"""Which values a filter takes, and how Cube's JSON spells them.

Everything that Cube compares with travels as a string. Numbers are written in plain
decimal notation, times as wall clock of the query's zone with milliseconds.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

from ortege_watch.errors import QueryError

__all__ = [
    "TYPES",
    "Range",
    "Scalar",
    "Value",
    "check_instant",
    "check_moment",
    "check_range",
    "check_text",
    "check_value",
    "check_zone",
    "day_end",
    "parse_moment",
    "plain",
    "range_to_wire",
    "relative",
    "shown",
    "wall_clock",
]

Scalar: TypeAlias = str | int | Decimal | bool | datetime
# A date is a value of the date operators only.
Value: TypeAlias = Scalar | date | None

# object: not declared, any value; results are read as the server's annotation says.
TYPES: tuple[type, ...] = (Decimal, int, str, bool, datetime, object)


_MOST_DIGITS = 4000


def shown(value: object) -> str:
    """Show a value in an error: shortly, and whatever it is."""
    try:
        text = repr(value)
    except ValueError:
        # An int of more than 4300 digits.
        text = f"a very long {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}…"


def check_text(text: str, what: str) -> str:
    """Return ``text`` as a plain ``str``; refuse what UTF-8 cannot carry.

    Raises:
        QueryError: ``text`` holds half of a surrogate pair.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        message = f"{what}: {shown(text)} holds a lone surrogate; give text that UTF-8 can say"
        raise QueryError(message) from None
    return str.__str__(text)


def check_value(value: Any, declared: builtins.type, what: str) -> Scalar:
    """Return ``value`` in its plain type where a member declared so may take it.

    Instants are returned in UTC. ``Decimal`` members take ``int`` as well. A ``float`` is refused everywhere.

    Args:
        value: what the caller compares with.
        declared: the member's Python type, one of ``TYPES``.
        what: the member and the method, for the message.

    Raises:
        QueryError: the value has another type, is not finite, is a naive datetime.
    """
    match value:
        case float():
            raise QueryError(
                f"{what}: {shown(value)} is a binary float, which is not exact; "
                f'write Decimal("{float.__repr__(value)}")'
            )
        case bool() if declared in {bool, object}:
            return value
        case str() if declared in {str, object}:
            return check_text(value, what)
        case int() if declared in {int, Decimal, object} and not isinstance(
            value, bool
        ):
            return _check_digits(int(value), what)
        case Decimal() if declared in {Decimal, object}:
            return _check_decimal(value, what)
        case datetime() if declared in {datetime, object}:
            return check_instant(value, what)
        case _:
            raise QueryError(
                f"{what}: {shown(value)} is of type {type(value).__name__}, but the member "
                f"is declared {declared.__name__}; {_advice(value, declared)}"
            )


def check_moment(value: Any, what: str) -> date:
    """Return a ``date`` (a whole day) or a ``datetime`` in UTC (an instant).

    Raises:
        QueryError: anything else, with advice for strings and naive datetimes.
    """
    match value:
        case datetime():
            return check_instant(value, what)
        case date():
            return value
        case str():
            raise QueryError(
                f"{what}: {shown(value)} is text; write date(2024, 5, 1) or an aware "
                "datetime. Relative words belong into a time selection: "
                '.over("last 7 days")'
            )
        case _:
            raise QueryError(
                f"{what}: {shown(value)} is of type {type(value).__name__}; "
                "give a date or an aware datetime"
            )


def check_instant(value: datetime, what: str) -> datetime:
    """Return an aware ``datetime`` in UTC.

    In other zones two instants of one wall time would be equal, or unequal to both.

    Raises:
        QueryError: it is naive, or out of the calendar in UTC.
    """
    if value.utcoffset() is None:
        raise QueryError(
            f"{what}: {shown(value)} is naive; give it a zone, such as "
            "tzinfo=timezone.utc"
        )
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise _beyond(value, what) from None


def plain(value: Value) -> str | None:
    """Spell a value for an operator that hands it to the database as it is.

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
    """Spell a UTC instant as ``YYYY-MM-DDTHH:MM:SS.mmm`` on the clocks of ``zone``.

    Cube compares milliseconds; finer parts are rounded up or down as the caller says.
    Where clocks are set back, an hour is shown twice and Cube means the first; an
    instant in the second cannot be said in that zone and is refused.

    Raises:
        QueryError: the second of two equal wall times, or a year beyond 1 to 9999.
    """
    try:
        if finer := moment.microsecond % 1000:
            moment += timedelta(microseconds=1000 * up - finer)
        local = moment.astimezone(zone)
    except OverflowError:
        raise _beyond(moment, what) from None
    if local.fold:
        raise QueryError(
            f"{what}: clocks in {zone} show {local:%Y-%m-%d %H:%M} twice and Cube means "
            'the first; ask with timezone="UTC"'
        )
    return local.replace(tzinfo=None).isoformat(timespec="milliseconds")


def day_end(day: date) -> str:
    """Spell the last millisecond of a day."""
    return f"{day.isoformat()}T23:59:59.999"


def _beyond(value: datetime, what: str) -> QueryError:
    return QueryError(f"{what}: {value!r} is beyond the years that can be said")


def _check_digits(value: int, what: str) -> int:
    if value.bit_length() > 3 * _MOST_DIGITS:
        raise QueryError(f"{what}: an int of {value.bit_length()} bits is too long")
    return value


def _check_decimal(value: Decimal, what: str) -> Decimal:
    # Written out, a large exponent would be as many zeros.
    if not value.is_finite() or abs(value.adjusted()) > _MOST_DIGITS:
        raise QueryError(f"{what}: {value} is no number that can be compared with")
    return value


def _advice(value: Any, declared: builtins.type) -> str:
    if value is None:
        return "for NULL use .is_set() or .is_not_set()"
    if isinstance(value, list | tuple | set | frozenset):
        return "for several values use .in_([...])"
    if type(value) in TYPES:
        return f"give {declared.__name__}, or declare the member {type(value).__name__}"
    return f"give {declared.__name__}"


# -------------------- Ranges of time: relative words, days and instants.
#
# A range is either words that the server resolves ("last 7 days") or a pair of moments,
# both ends included. A day in a pair is the whole day in the query's zone.


Range: TypeAlias = str | tuple[date, date]

_UNIT = "(?:second|minute|hour|day|week|month|quarter|year)"
_COUNT = "[1-9][0-9]{0,6}"
# Quarters are left out: the server's parser of such points is not known to take them.
_AGO = f"{_COUNT} (?:second|minute|hour|day|week|month|year)s? (?:ago|from now)"
_POINT = f"(now|{_AGO}|[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})"
_RELATIVE = re.compile(
    f"today|yesterday|tomorrow|(?:this|last|next) {_UNIT}"
    f"|(?:last|next) {_COUNT} {_UNIT}s?|from {_POINT} to {_POINT}"
)
_DAY = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOMENT = re.compile(
    _DAY.pattern + r"([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?"
    "(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)?"
)
_FORMS = (
    '"today", "yesterday", "tomorrow", "this|last|next <unit>", '
    '"last|next <n> <units>", "from <n> <units> ago to now", a day "2024-05-01", '
    "or a pair of dates"
)


def relative(text: str, what: str) -> Range:
    """Check words for a range against the grammar that every Cube reads alike.

    ``today``, ``yesterday``, ``tomorrow``; ``this|last|next`` and a unit; ``last|next N``
    and a unit; ``from X to Y`` with ``now``, ``N units ago``, ``N units from now`` or a
    day; a day alone, which becomes a pair. Units run from second to year, weeks start
    on Monday, and ``last N`` excludes the unit that is running. Case and spaces do not
    matter. ``from X to Y`` covers whole days unless it names hours, minutes or seconds.

    Raises:
        QueryError: any other words. Cube hands them to a parser that guesses: ``June
            2024`` is only its first day, ``from last week to today`` only the week.
    """
    words = " ".join(text.lower().split())
    if _DAY.fullmatch(words):
        day = _parse(words, what)
        return (day, day)
    match = _RELATIVE.fullmatch(words)
    if not match:
        hint = f"{what}: {shown(text)} is no range that Cube reads reliably; write {_FORMS}"
        raise QueryError(hint)
    points = [_parse(p, what) for p in match.groups() if p and _DAY.fullmatch(p)]
    check_ordered(points, what)
    return words


def check_range(value: Any, what: str) -> Range:
    """Return a range: words, or a pair; a single day becomes a pair.

    Raises:
        QueryError: a range that ends before it starts, a single instant, strings in a
            pair, anything that is no range.
    """
    match value:
        case str():
            return relative(value, what)
        case datetime():
            message = f"{what}: an instant is no range; give (start, end)"
            raise QueryError(message)
        case date():
            return (value, value)
        case [start, end]:
            pair = (check_moment(start, what), check_moment(end, what))
            check_ordered(pair, what)
            return pair
        case _:
            message = f"{what}: {shown(value)} is no range; write {_FORMS}"
            raise QueryError(message)


def check_ordered(moments: Sequence[date], what: str) -> None:
    """Refuse a pair that ends before it starts.

    A day beside an instant is compared later, when the query's zone is known.
    """
    match moments:
        case [datetime() as start, datetime() as end]:
            wrong = start > end
        case [datetime(), _] | [_, datetime()]:
            wrong = False
        case [start, end]:
            wrong = start > end
        case _:
            wrong = False
    if wrong:
        message = f"{what}: ends before it starts; swap {moments[0]} and {moments[1]}"
        raise QueryError(message)


def range_to_wire(value: Range, zone: tzinfo, what: str) -> str | list[str]:
    """Spell a range; parts finer than a millisecond widen it.

    A start is rounded down and an end up: no row of the range is lost, and rows less
    than a millisecond beyond it may come along.
    """
    return value if isinstance(value, str) else pair_to_wire(value, zone, what)


def pair_to_wire(
    pair: tuple[date, date], zone: tzinfo, what: str, *, inward: bool = False
) -> list[str]:
    """Spell both ends: days as days, instants as wall clock, outwards or inwards."""
    ends = [
        wall_clock(moment, zone, what, up=up) if isinstance(moment, datetime) else None
        for moment, up in zip(pair, (inward, not inward), strict=True)
    ]
    texts = [end or moment.isoformat() for end, moment in zip(ends, pair, strict=True)]
    if (ends[0] or texts[0]) > (ends[1] or day_end(pair[1])):
        message = f"{what}: ends before it starts: {texts[0]} to {texts[1]}"
        raise QueryError(message)
    return texts


def parse_moment(
    text: Any, zone: tzinfo, what: str, *, drop_offset: bool = False
) -> date:
    """Read a day or a time of Cube's JSON; without an offset it is wall clock of zone.

    Args:
        text: ``YYYY-MM-DD``, or with ``THH:MM[:SS[.ffffff]]`` and an optional offset.
        zone: the query's zone.
        what: where the text stands, for the message.
        drop_offset: read a time with an offset as Cube reads a ``dateRange``: its UTC
            clock becomes wall clock of the query's zone (seen on Cube 0.35.81).

    Raises:
        QueryError: anything else, relative words above all.
    """
    if not isinstance(text, str) or not _MOMENT.fullmatch(text):
        raise QueryError(
            f"{what}: {shown(text)} is no date; write YYYY-MM-DD or "
            'YYYY-MM-DDTHH:MM:SS.mmm. Relative words such as "last 7 days" stand alone '
            'as a dateRange: .over("last 7 days")'
        )
    moment = _parse(text, what)
    if isinstance(moment, datetime):
        if drop_offset and moment.tzinfo is not None:
            moment = check_instant(moment, what).replace(tzinfo=None)
        return check_instant(
            moment if moment.tzinfo else moment.replace(tzinfo=zone), what
        )
    return moment


def _parse(text: str, what: str) -> date:
    kind = date if _DAY.fullmatch(text) else datetime
    try:
        return kind.fromisoformat(text)
    except ValueError:
        raise QueryError(f"{what}: {shown(text)} is on no calendar") from None


def check_zone(value: Any) -> ZoneInfo:
    """Return the IANA time zone of this name.

    Raises:
        QueryError: another name; servers refuse abbreviations and offsets.
    """
    # ZoneInfo knows more than servers do: files that are no zone of IANA.
    known = isinstance(value, str) and value not in {"localtime", "Factory", ""}
    if known and not value.startswith(("posix/", "right/")):
        try:
            return ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            pass
    raise QueryError(
        f"timezone: {shown(value)} is no IANA time zone; write a name such as "
        '"America/Los_Angeles", "Etc/GMT-5" or "UTC" (abbreviations and offsets are '
        "refused by servers, and case matters)"
    )
