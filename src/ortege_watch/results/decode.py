"""The columns of a result, and its rows as cells: values as they were sent.

A row is read into a small msgspec structure that is made for its columns, about twice
as fast as into a dictionary. Cells know no order of columns: some servers write the
keys of every row in an order of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from copy import deepcopy
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from functools import lru_cache, partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast
from zoneinfo import ZoneInfo

import msgspec

from ortege_watch import _json as codec
from ortege_watch.errors import DecodeError, InvalidArgument

if TYPE_CHECKING:
    from ortege_watch.query import Member, Query, TimeSelection

__all__ = [
    "Cells",
    "Kind",
    "Layout",
    "Place",
    "Reader",
    "Shape",
    "annotated",
    "annotated_measures",
    "canonical",
    "declared",
    "first_shape",
    "frozen",
    "is_verbatim",
    "lay_out",
    "read_column",
    "read_rows",
    "reader",
    "row_at",
    "shape_of",
    "sort_key",
    "unreadable",
    "zone_of",
]

Cells: TypeAlias = Any
"""An instance of ``Shape.cells``: one attribute for each column."""

_LOOKED_AT: Final = 1 << 16
_EMPTY: Final = len("[]")
_TRIES: Final = 8


class Shape:
    """Know a set of columns, and read rows that have exactly these.

    Attributes:
        columns: their names, sorted.
        attributes: for each of them, the attribute of the cells.
        cells: the class of the cells.
        shortest: no row in the default form has fewer bytes.
        is_plain: no column's name begins like what stands between strings in JSON.
    """

    __slots__ = (
        "_decoder",
        "attributes",
        "cells",
        "columns",
        "is_plain",
        "shortest",
    )

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.columns = columns
        self.attributes = {name: f"c{i}" for i, name in enumerate(columns)}
        # Around each name at least two quotes, a colon, a digit and a comma.
        self.shortest = max(2, 1 + sum(len(name) + 5 for name in columns))
        self.is_plain = bool(columns) and all(
            name[:1].isalnum() or name[:1] == "_" for name in columns
        )
        self._decoder: msgspec.json.Decoder[Any] | None = None
        try:
            self.cells = _cells(
                [
                    (attribute, Any, msgspec.field(name=column))
                    for column, attribute in self.attributes.items()
                ]
            )
            of_cells: Any = list[self.cells]  # type: ignore[name-defined]
            self._decoder = msgspec.json.Decoder(of_cells, float_hook=Decimal)
        except ValueError:
            # msgspec reads no names with quotes, backslashes or control characters.
            self.cells = _cells([(name, Any) for name in self.attributes.values()])

    def decode(self, data: bytes) -> list[Cells] | None:
        """Read a JSON list of rows; ``None`` if these are not all of this shape.

        Raises:
            DecodeError: a row has a key twice.
        """
        if self._decoder is None:
            return None
        try:
            rows: list[Cells] = self._decoder.decode(data)
        except codec.UNREADABLE:
            return None
        if not self._has_all_keys_once(data):
            _check_keys(data)
        return rows

    def _has_all_keys_once(self, data: bytes) -> bool:
        """Return whether every key occurs once; ``False`` means that it must be checked.

        A key that stands twice in its row is one colon too many; so is a colon after a
        quote inside of a value. Keys come from the query, so that one row has what all
        have: no more than the first 64 kB are counted, for counting all would take as
        long as reading them.
        """
        if len(data) > _LOOKED_AT:
            data = data[: data.rfind(b'},{"', 0, _LOOKED_AT) + 1]
        rows = data.count(b'},{"') + (len(data) > _EMPTY)
        return data.count(b'":') == rows * len(self.columns)


def _cells(fields: list[Any]) -> type[msgspec.Struct]:
    return msgspec.defstruct("Cells", fields, gc=False, forbid_unknown_fields=True)


@lru_cache(maxsize=256)
def shape_of(columns: tuple[str, ...]) -> Shape:
    """Return the shape of sorted columns, cached: building one takes about 50 µs."""
    return Shape(columns)


def read_rows(
    data: memoryview, likely: Shape | None = None
) -> tuple[Shape, list[Cells]]:
    """Read rows in whichever response form they are: default, compact or columnar.

    Args:
        data: JSON text.
        likely: the columns that are expected.

    Raises:
        DecodeError: the data has another form, a row is not an object or has a
            key twice, a compact row or a column has not the length it must have.
    """
    text = bytes(data)
    start = text[:1]
    if start == b"{":
        return _read_table(text)
    if start != b"[":
        problem = "an answer's rows are a list of objects, or an object with a table"
        raise DecodeError(problem, excerpt=codec.excerpt(text))
    rows = likely.decode(text) if likely else None
    if likely is not None and rows:
        return likely, rows
    shape = first_shape(data)
    rows = shape.decode(text) if shape else None
    if shape is None or rows is None:
        return _read_unlike(text)
    return shape, rows


def first_shape(data: memoryview) -> Shape | None:
    """Read the columns of the first row alone; ``None`` if that is not easily done."""
    start = bytes(data[:_LOOKED_AT])
    end = 0
    for _ in range(_TRIES):
        end = start.find(b"}", end) + 1
        if not end:
            break
        try:
            # What begins a list and is whole is its first row: a brace inside of a
            # value cuts the row off within that value.
            row = codec.loads(start[1:end])
        except DecodeError:
            continue
        return shape_of(tuple(sorted(row))) if isinstance(row, dict) else None
    return None


def _read_unlike(data: bytes) -> tuple[Shape, list[Cells]]:
    """Read rows that are unlike each other, or unlike what ``Shape.decode`` takes.

    A column that a row does not have is ``msgspec.UNSET`` in its cells.
    """
    rows = codec.loads(data)
    columns: set[str] = set()
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            problem = f"row {i} is not an object"
            raise DecodeError(problem, excerpt=codec.excerpt(repr(row)))
        columns.update(row)
    _check_keys(data)
    shape = shape_of(tuple(sorted(columns)))
    cells = shape.cells
    return shape, [
        cells(*[row.get(name, msgspec.UNSET) for name in shape.columns]) for row in rows
    ]


def _check_keys(data: bytes) -> None:
    """Raise a DecodeError if a row has a key twice."""
    json.loads(data, object_pairs_hook=_unique, parse_int=str, parse_float=str)


def _unique(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        problem = f"a row has {', '.join(twice)} more than once"
        raise DecodeError(problem)


class _Table(msgspec.Struct):
    """The compact form has ``dataset``, the columnar form ``columns``."""

    members: list[str]
    dataset: list[list[Any]] | None = None
    columns: list[list[Any]] | None = None


_table = msgspec.json.Decoder(_Table, float_hook=Decimal)


def _read_table(data: bytes) -> tuple[Shape, list[Cells]]:
    try:
        table = _table.decode(data)
    except codec.UNREADABLE as error:
        problem = f"a table of rows cannot be read ({error})"
        raise DecodeError(problem, excerpt=codec.excerpt(data)) from error
    members = table.members
    if len(set(members)) < len(members):
        problem = f"a table of rows names a column twice: {', '.join(members)}"
        raise DecodeError(problem)
    if table.dataset is not None:
        rows: Sequence[Sequence[Any]] = table.dataset
        _check_lengths("row", rows, len(members))
    elif table.columns is not None:
        columns = table.columns
        if len(columns) != len(members):
            problem = f"{len(members)} columns are named, but {len(columns)} are there"
            raise DecodeError(problem)
        _check_lengths("column", columns, len(columns[0]) if columns else 0)
        rows = list(zip(*columns, strict=True))
    else:
        problem = "a table of rows has neither dataset nor columns"
        raise DecodeError(problem, excerpt=codec.excerpt(data))
    shape = shape_of(tuple(sorted(members)))
    places = [members.index(name) for name in shape.columns]
    return shape, [shape.cells(*[row[place] for place in places]) for row in rows]


def _check_lengths(what: str, lists: Sequence[Sequence[Any]], length: int) -> None:
    for i, items in enumerate(lists):
        if len(items) != length:
            problem = f"{what} {i} has {len(items)} values instead of {length}"
            raise DecodeError(problem)


# One value of a result: from what servers send to what a member is declared as.
#
# Servers send numbers as strings, as JSON integers and, from the native pipeline of Cube
# 1.2 on, as ``1.0``; times without a zone; booleans as ``true``, and through some drivers
# as ``"1"`` or ``1``. Python's own constructors take far more than that (``"1_000"``,
# ``" 5"``, digits of other scripts), so nothing reaches them unchecked.


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
    """Return whether all have the form ``YYYY-MM-DDTHH:MM:SS.mmm``, as Cube writes."""
    pattern = "0000-00-00T00:00:00.000\n" * len(values)
    return "\n".join([*values, ""]).translate(_DIGITS_TO_ZERO) == pattern


@lru_cache(maxsize=64)
def _are_alike(decimals: int | None) -> Callable[[str], re.Match[str] | None]:
    """Match lines of numbers with so many decimals, each in its only form."""
    rest = "" if decimals is None else rf"\.[0-9]{{{decimals}}}"
    return re.compile(rf"(?:(?:0|-?[1-9][0-9]*+){rest}\n)*+").fullmatch


def zone_of(name: str) -> tzinfo:
    """Return the zone of times that carry none.

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
    message = "is not a decimal number"
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
    message = "is not a whole number of at most 4300 digits"
    raise ValueError(message)


def read_text(value: Any) -> str:
    """Read a string; numbers and booleans are refused."""
    if type(value) is str:
        return value
    likely = {bool: "bool", int: "int or Decimal", Decimal: "Decimal"}.get(type(value))
    message = (
        f"is not a string; declare the member as {likely}"
        if likely
        else "is not a string"
    )
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
    message = "is not a boolean"
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
    message = "is not a time of the form YYYY-MM-DDTHH:MM:SS.mmm"
    raise ValueError(message)


def read_as_sent(value: Any) -> Any:
    """Return a value as it was sent, where no type is declared."""
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
    """Return the function that reads a value as ``kind``."""
    return _time_reader(zone) if kind is datetime else _READERS[kind]


def read_column(
    values: list[Any], kind: Kind, zone: tzinfo, *, nullable: bool = True
) -> list[Any]:
    """Read a whole column, ``None`` where it is NULL.

    The usual forms are checked and converted all at once; any other value sends the
    column through the reader for one value.

    Raises:
        ValueError: a value is missing, cannot be read, or is NULL in a column that is
            not ``nullable``; the caller looks for it one by one.
    """
    kinds = set(map(type, values))
    if kinds <= {kind}:
        return values
    if msgspec.UnsetType in kinds or (type(None) in kinds and not nullable):
        message = "is missing or NULL"
        raise ValueError(message)
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
    """Return what represents a value in comparisons, whatever form it was sent in.

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
    """Return a hashable value for any JSON value."""
    if isinstance(value, dict):
        entries = cast("dict[str, Any]", value)
        return frozenset((key, frozen(entry)) for key, entry in entries.items())
    if isinstance(value, list):
        return tuple(frozen(item) for item in value)
    return cast("Hashable", value)


def is_verbatim(values: Sequence[Any], kind: Kind, zone: tzinfo) -> bool:
    """Return whether values of a column are equal only if their text is equal.

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
    """Return the error for a value that cannot be read."""
    shown = codec.excerpt(repr(value))
    return DecodeError(f"{column} in {row_at(index)} {reason}: {shown}")


def row_at(index: int) -> str:
    """Return how error messages name a row; -1 is a row of unknown position."""
    return f"row {index}" if index >= 0 else "a row"


# What the columns of a result hold: types, zone, and which columns are keys.


# A "string" of an annotation may be a number or even an object through some drivers.
_ANNOTATED: Final[dict[Any, Kind]] = {
    "number": Decimal,
    "time": datetime,
    "boolean": bool,
}

Place: TypeAlias = tuple[str, str, Reader]
"""A column's name, its attribute in the cells, and what reads its values."""

_MOST_PLACES: Final = 256


def _no_key(_: Cells) -> None:
    """Return the key of the only row of a result that has only measures."""


class Layout:
    """The types of the columns of a shape; rows of many results share it.

    Attributes:
        shape: the columns themselves.
        kinds: the type of each column, in the order in which rows show them.
        keys: all columns except the measures, sorted; together they identify a row.
        measures: the other columns.
        zone: the zone of times that carry none.
        getters: for each column, a function that returns its value in a row's cells.
        get_key: a function that returns the values of all keys.
    """

    __slots__ = (
        "_places",
        "get_key",
        "getters",
        "keys",
        "kinds",
        "measures",
        "shape",
        "zone",
    )

    def __init__(
        self,
        shape: Shape,
        kinds: Iterable[tuple[str, Kind]],
        keys: tuple[str, ...],
        zone: tzinfo,
    ) -> None:
        self.shape = shape
        self.kinds = dict(kinds)
        self.keys = keys
        self.measures = tuple([name for name in self.kinds if name not in keys])
        self.zone = zone
        attributes = shape.attributes
        self.getters: dict[str, Callable[[Cells], Any]] = {
            name: attrgetter(attributes[name]) for name in self.kinds
        }
        self.get_key: Callable[[Cells], Any] = (
            attrgetter(*[attributes[name] for name in keys]) if keys else _no_key
        )
        self._places: dict[int, tuple[object, Place]] = {}

    def find(self, column: str | Member[Any] | TimeSelection) -> Place:
        """Return a column's name, its attribute in the cells, and its reader.

        A loop over rows asks for the same few objects again and again: they are known
        by identity, and kept, so that no other object takes their place.

        Raises:
            InvalidArgument: the argument is neither a name nor a member.
            DecodeError: the column does not exist; the message lists the columns.
        """
        known = self._places.get(id(column))
        if known is not None:
            return known[1]
        place = self._find(column)
        if len(self._places) >= _MOST_PLACES:  # members made anew for each access
            self._places.clear()
        self._places[id(column)] = column, place
        return place

    def _find(self, column: str | Member[Any] | TimeSelection) -> Place:
        """Return a column's name, its attribute in the cells, and its reader.

        A member is read as it is declared itself, a name as the query declares it.
        """
        if isinstance(column, str):
            name: str = column
            kind: Kind = self.kinds.get(column)
        else:
            try:
                name, kind = column.name, column.type
            except AttributeError:
                problem = f"column must be a member or a name, got {column!r}"
                raise InvalidArgument(problem) from None
            if kind is object:  # undeclared: out of Query.from_wire
                kind = self.kinds.get(name)
        if name not in self.kinds:
            raise self.missing(name, self.kinds)
        return name, self.shape.attributes[name], reader(kind, self.zone)

    def missing(self, name: str, columns: Iterable[str]) -> DecodeError:
        """Return the error for a column that a row does not have."""
        there = ", ".join(columns) or "none"
        return DecodeError(f"unknown column {name!r}: the columns are {there}")


_layout = lru_cache(maxsize=256)(Layout)


def lay_out(
    shape: Shape, kinds: Mapping[str, Kind], measures: Iterable[str], timezone: str
) -> Layout:
    """Return the layout of a shape, the same one for the same arguments.

    Args:
        shape: the columns that are there.
        kinds: what columns are declared as, in the order in which rows show them;
            may name more columns, and fewer: those come last.
        measures: the columns that are not part of a row's key.
        timezone: what times without a zone are meant in, an IANA name.

    Raises:
        DecodeError: this machine does not know the time zone.
    """
    there = [(name, kind) for name, kind in kinds.items() if name in shape.attributes]
    rest = [(name, _implied(name)) for name in shape.columns if name not in kinds]
    values = frozenset(measures)
    keys = tuple([name for name in shape.columns if name not in values])
    return _layout(shape, (*there, *rest), keys, zone_of(timezone))


def _implied(name: str) -> Kind:
    """Return the type of a column without a declaration, such as a blended time."""
    return datetime if name.startswith("time.") else None


def declared(query: Query) -> dict[str, Kind]:
    """List the columns that a query asks for, with their declared types.

    A member that came out of ``Query.from_wire`` has none: it is left to the server's
    annotation.
    """
    kinds: dict[str, Kind] = {member.name: member.type for member in query.dimensions}
    for selection in query.time:
        kinds[selection.name] = datetime
        # Deprecated, but servers of both generations still send it.
        kinds[selection.dimension.name] = datetime
    kinds.update((member.name, member.type) for member in query.measures)
    return {name: kind for name, kind in kinds.items() if kind is not object}


def annotated(annotation: Mapping[str, Any]) -> dict[str, Kind]:
    """List the columns that a server's annotation describes, with their types."""
    return {
        name: _ANNOTATED.get(entry.get("type"))
        for kind in ("dimensions", "timeDimensions", "measures")
        for name, entry in _entries(annotation, kind)
    }


def annotated_measures(annotation: Mapping[str, Any]) -> list[str]:
    """List the columns that a server's annotation calls measures."""
    return [name for name, _ in _entries(annotation, "measures")]


def _entries(annotation: Mapping[str, Any], kind: str) -> list[tuple[str, Any]]:
    entries = annotation.get(kind)
    if not isinstance(entries, dict):
        return []
    return [(name, entry) for name, entry in entries.items() if isinstance(entry, dict)]
