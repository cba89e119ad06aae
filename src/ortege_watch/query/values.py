"""Which values a filter takes, and how Cube's JSON spells them.

Everything that Cube compares with travels as a string. Numbers are written in plain
decimal notation, times as wall clock of the query's zone with milliseconds.
"""

from __future__ import annotations

import builtins
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any, TypeAlias

from ortege_watch.errors import QueryError

__all__ = [
    "TYPES",
    "Scalar",
    "Value",
    "check_instant",
    "check_moment",
    "check_text",
    "check_value",
    "day_end",
    "plain",
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
