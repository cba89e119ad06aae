"""One value of a result: from what servers send to what a member is declared as.

Servers send numbers as strings, as JSON integers and, from the native pipeline of Cube
1.2 on, as ``1.0``; times without a zone; booleans as ``true``, and through some drivers
as ``"1"`` or ``1``. Python's own constructors take far more than that (``"1_000"``,
``" 5"``, digits of other scripts), so nothing reaches them unchecked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from copy import deepcopy
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from functools import lru_cache, partial
from typing import Any, Final, TypeAlias, cast
from zoneinfo import ZoneInfo

import msgspec

from ortege_watch import codec
from ortege_watch.errors import DecodeError

__all__ = [
    "Kind",
    "Reader",
    "canonical",
    "frozen",
    "is_verbatim",
    "read_column",
    "reader",
    "row_at",
    "sort_key",
    "unreadable",
    "zone_of",
]

Kind: TypeAlias = type[Any] | None
"""What a column is declared as; ``None`` where nobody says, and values stay as sent."""

Reader: TypeAlias = Callable[[Any], Any]
"""Reads one value that is not NULL; raises ``ValueError`` with the reason."""

_MOST_DIGITS: Final = 4300
"""Python refuses to read longer integers from text: that takes quadratic time."""

_TIME: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}"

_is_integer = re.compile(r"-?[0-9]{1,4300}").fullmatch
_is_time = re.compile(
    rf"{_TIME}(?:\.[0-9]{{1,6}}0*)?(?P<zone>Z|[+-][0-9]{{2}}:[0-9]{{2}})?"
).fullmatch

_DIGITS_TO_ZERO: Final = str.maketrans("123456789", "000000000")


def _are_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _are_times(values: Sequence[str]) -> bool:
    """Tell whether all are ``YYYY-MM-DDTHH:MM:SS.mmm``, as Cube writes times."""
    pattern = "0000-00-00T00:00:00.000\n" * len(values)
    return "\n".join([*values, ""]).translate(_DIGITS_TO_ZERO) == pattern


@lru_cache(maxsize=64)
def _are_alike(decimals: int | None) -> Callable[[str], re.Match[str] | None]:
    """Match lines of numbers with so many decimals, each in its only form."""
    rest = "" if decimals is None else rf"\.[0-9]{{{decimals}}}"
    return re.compile(rf"(?:(?:0|-?[1-9][0-9]*+){rest}\n)*+").fullmatch


def zone_of(name: str) -> tzinfo:
    """Give the zone that times without one are meant in.

    Raises:
        DecodeError: this machine knows no such zone.
    """
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        problem = f"this machine knows no time zone {name!r}; `pip install tzdata`?"
        raise DecodeError(problem) from error


def read_decimal(value: Any) -> Decimal:
    """Read a number exactly."""
    kind = type(value)
    if kind is Decimal:
        return cast("Decimal", value)
    if kind is int or (kind is str and codec.is_number(value)):
        try:
            return Decimal(value)
        except ArithmeticError:
            pass
    message = "is no decimal number"
    raise ValueError(message)


def read_int(value: Any) -> int:
    """Read a whole number exactly, also from ``1.0``."""
    kind = type(value)
    if kind is int:
        return cast("int", value)
    if kind is str and _is_integer(value):
        return int(value)
    number = read_decimal(value)
    if number.adjusted() < _MOST_DIGITS:
        whole = int(number)
        if whole == number:
            return whole
    message = "is no whole number of at most 4300 digits"
    raise ValueError(message)


def read_text(value: Any) -> str:
    """Read text; a number or a boolean is no text."""
    if type(value) is str:
        return value
    likely = {bool: "bool", int: "int or Decimal", Decimal: "Decimal"}.get(type(value))
    message = f"is no text; declare the member as {likely}" if likely else "is no text"
    raise ValueError(message)


_BOOLEANS: Final[dict[str, bool]] = {
    "true": True,
    "false": False,
    "1": True,
    "0": False,
}


def read_bool(value: Any) -> bool:
    """Read a boolean, also from ``"true"``, ``"1"``, ``1``, ``1.0`` and the like."""
    if type(value) is str:
        if value in _BOOLEANS:
            return _BOOLEANS[value]
    elif type(value) in {bool, int, Decimal} and value in {0, 1}:
        return bool(value)
    message = "is no boolean"
    raise ValueError(message)


def read_time(value: Any, zone: tzinfo) -> datetime:
    """Read a time, in the given zone unless it carries its own; aware in either case.

    A time with a zone of its own is converted to the given one.
    """
    match = _is_time(value) if type(value) is str else None
    if match:
        try:
            moment = datetime.fromisoformat(value)
            if match["zone"]:
                return moment.astimezone(zone)
            return moment.replace(tzinfo=zone)
        except (ValueError, OverflowError):
            pass
    message = "is no time as YYYY-MM-DDTHH:MM:SS.mmm"
    raise ValueError(message)


def read_as_sent(value: Any) -> Any:
    """Give a value as it was sent; nobody declared what it should be."""
    return deepcopy(value) if type(value) in {dict, list} else value


_READERS: Final[dict[Kind, Reader]] = {
    Decimal: read_decimal,
    int: read_int,
    str: read_text,
    bool: read_bool,
    None: read_as_sent,
}


@lru_cache(maxsize=64)
def _time_reader(zone: tzinfo) -> Reader:
    return partial(read_time, zone=zone)


def reader(kind: Kind, zone: tzinfo) -> Reader:
    """Give the function that reads a value as ``kind``."""
    return _time_reader(zone) if kind is datetime else _READERS[kind]


def read_column(values: list[Any], kind: Kind, zone: tzinfo) -> list[Any]:
    """Read a whole column, ``None`` where it is NULL.

    The usual forms are checked and converted all at once; any other value sends the
    column through the reader for one value.

    Raises:
        ValueError: a value cannot be read; the caller looks for it one by one.
    """
    kinds = set(map(type, values))
    if kinds <= {kind}:
        return values
    if kinds == {str}:
        # One look at all the characters is much cheaper than one at each value.
        if kind is int and _are_digits("".join(values)):
            return list(map(int, values))
        if kind is Decimal and _are_digits("".join(values).replace(".", "")):
            try:
                return list(map(Decimal, values))
            except ArithmeticError:
                pass
        if kind is datetime and zone is UTC and _are_times(values):
            zoned = "+00:00\n".join([*values, ""]).split("\n")
            return list(map(datetime.fromisoformat, zoned[:-1]))
    read = reader(kind, zone)
    return [None if value is None else read(value) for value in values]


def canonical(value: Any, kind: Kind, zone: tzinfo) -> Hashable:
    """Give what stands for a value in comparisons, whatever form it was sent in.

    ``"1.0"``, ``1`` and ``1.0`` are one number, a time is its instant. What cannot be
    read as declared stands for itself: comparing rows raises nothing.
    """
    if value is None or value is msgspec.UNSET:
        return cast("Hashable", value)
    try:
        read = reader(kind, zone)(value)
        return frozen(read.astimezone(UTC) if kind is datetime else read)
    except (ValueError, OverflowError):
        return frozen(value)


def frozen(value: Any) -> Hashable:
    """Give a hashable stand-in for any JSON value."""
    if isinstance(value, dict):
        entries = cast("dict[str, Any]", value)
        return frozenset((key, frozen(entry)) for key, entry in entries.items())
    if isinstance(value, list):
        return tuple(frozen(item) for item in value)
    return cast("Hashable", value)


def is_verbatim(values: Sequence[Any], kind: Kind, zone: tzinfo) -> bool:
    """Tell whether values of a column are equal only if they were sent alike.

    ``False`` means that nobody looked closely enough to know.
    """
    kinds = set(map(type, values))
    if kind in {None, str} or str not in kinds:
        return True
    if kind is bool or kinds - {str, type(None)}:
        return False
    texts = values
    if len(kinds) > 1:
        texts = [value for value in values if value is not None]
    if kind is datetime:
        # In other zones two wall clock times may be one instant.
        return zone is UTC and _are_times(texts)
    _, point, decimals = next(iter(texts), "").partition(".")
    alike = _are_alike(len(decimals) if point else None)
    return alike("\n".join([*texts, ""])) is not None


def sort_key(value: Hashable) -> tuple[int, Any]:
    """Order canonical values of whatever types, so that a choice among them is one."""
    if isinstance(value, str):
        return (1, value)
    if isinstance(value, int | Decimal):
        return (2, value)
    return (3, repr(value))


def unreadable(column: str, value: object, index: int, reason: str) -> DecodeError:
    """Say which value of which row cannot be read, and why."""
    shown = codec.excerpt(repr(value))
    return DecodeError(f"{column} in {row_at(index)} {reason}: {shown}")


def row_at(index: int) -> str:
    """Name a row in an error message; -1 is a row whose place is not known."""
    return f"row {index}" if index >= 0 else "a row"
