"""From the JSON text of rows to typed values: shapes, cells, readers and layouts.

A row is decoded into a small msgspec structure that is created for its columns, its
cells: about twice as fast as into a dictionary. A cell is a value as it was sent. Some
servers send the keys of every row in a different order, so columns have no order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from copy import deepcopy
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from functools import lru_cache, partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast
from zoneinfo import ZoneInfo

import msgspec

from ortege_watch import _json as codec
from ortege_watch._checks import shown
from ortege_watch.errors import DecodeError, InvalidArgument

if TYPE_CHECKING:
    from ortege_watch.query import Member, Query, TimeSelection

Cells: TypeAlias = Any
"""An instance of ``Shape.cells``: one attribute for each column."""

Kind: TypeAlias = type[Any] | None
"""The type of a column; ``None`` if nobody declares it, and values stay as sent."""

Reader: TypeAlias = Callable[[Any], Any]
"""Reads one value that is not NULL; raises ``ValueError`` with the reason."""

Place: TypeAlias = tuple[str, str, Reader]
"""The name of a column, its attribute in the cells, and the reader of its values."""

_EXAMINED: Final = 1 << 16
_TRIES: Final = 8
_MAX_DIGITS: Final = 4300
"""Python refuses to read longer integers from text: that takes quadratic time."""

_MAX_PLACES: Final = 256

_TIME: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}"
_is_integer = re.compile(r"-?[0-9]{1,4300}").fullmatch
_is_time = re.compile(
    rf"{_TIME}(?:\.[0-9]{{1,6}}0*)?(?P<zone>Z|[+-][0-9]{{2}}:[0-9]{{2}})?"
).fullmatch
_DIGITS_TO_ZERO: Final = str.maketrans("123456789", "000000000")


class Shape:
    """A sorted set of columns, and the decoder of rows that have exactly these."""

    __slots__ = ("_decoder", "attributes", "cells", "columns", "is_plain", "shortest")

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.columns = columns
        self.attributes = {name: f"c{i}" for i, name in enumerate(columns)}  # of cells
        # The least bytes of a row in the default form. Around each name are at least
        # two quotes, a colon, a digit and a comma.
        self.shortest = max(2, 1 + sum(len(name) + 5 for name in columns))
        # No name begins with a character that may follow a string in JSON.
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
            # msgspec supports no names with quotes, backslashes or control characters.
            self.cells = _cells([(name, Any) for name in self.attributes.values()])

    def decode(self, data: bytes) -> list[Cells] | None:
        """Decode a JSON list of rows; return ``None`` if not all have this shape.

        A repeated key is a ``DecodeError``; only the first 64 kB are checked, because all
        rows have the same keys, those of the query, and counting takes time.
        """
        if self._decoder is None:
            return None
        try:
            rows: list[Cells] = self._decoder.decode(data)
        except codec.UNREADABLE:
            return None
        start = data
        if len(data) > _EXAMINED:
            start = data[: data.rfind(b'},{"', 0, _EXAMINED) + 1]
        count = start.count(b'},{"') + (len(start) > len("[]"))
        # Other colons after quotes belong to repeated keys, or are within a value.
        if start.count(b'":') != count * len(self.columns):
            _check_keys(data)
        return rows

    def __reduce__(self) -> tuple[Any, ...]:
        return shape_of, (self.columns,)


def _cells(fields: list[Any]) -> type[msgspec.Struct]:
    return msgspec.defstruct("Cells", fields, gc=False, forbid_unknown_fields=True)


@lru_cache(maxsize=256)
def shape_of(columns: tuple[str, ...]) -> Shape:
    """Return the shape of sorted columns; building one takes about 50 µs."""
    return Shape(columns)


def read_rows(
    data: memoryview, expected: Shape | None = None
) -> tuple[Shape, list[Cells]]:
    """Decode the JSON text of rows in any form: default, compact or columnar.

    ``expected`` has the columns that the rows probably have. Another form, a row that
    is not an object, a repeated key and a wrong length are a ``DecodeError``.
    """
    text = bytes(data)
    if text[:1] == b"{":
        return _read_table(text)
    if text[:1] != b"[":
        problem = "rows must be a list of objects or a table"
        raise DecodeError(problem, excerpt=codec.excerpt(text))
    rows = expected.decode(text) if expected else None
    if expected is not None and rows:
        return expected, rows
    shape = first_shape(data)
    rows = shape.decode(text) if shape else None
    if shape is None or rows is None:
        return _read_unlike(text)
    return shape, rows


def first_shape(data: memoryview) -> Shape | None:
    """Return the columns of the first row; ``None`` if they are not easily found."""
    start = bytes(data[:_EXAMINED])
    end = 0
    for _ in range(_TRIES):
        end = start.find(b"}", end) + 1
        if not end:
            break
        try:
            # Valid JSON at the start of the list is the whole first row: a brace
            # within a value cuts the row off within that value.
            row = codec.loads(start[1:end])
        except DecodeError:
            continue
        return shape_of(tuple(sorted(row))) if isinstance(row, dict) else None
    return None


def _read_unlike(data: bytes) -> tuple[Shape, list[Cells]]:
    """Decode rows that differ in their columns, or that ``Shape.decode`` rejects.

    A column that a row lacks is ``msgspec.UNSET`` in its cells.
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
    if repeated := codec.repeated_keys(data.decode()):
        names = codec.excerpt(", ".join(repeated))
        raise DecodeError(f"a row has {names} more than once")


class _Table(msgspec.Struct):
    """Rows in the compact form, as ``dataset``, or in the columnar, as ``columns``."""

    members: list[str]
    dataset: list[list[Any]] | None = None
    columns: list[list[Any]] | None = None


_table = msgspec.json.Decoder(_Table, float_hook=Decimal)


def _read_table(data: bytes) -> tuple[Shape, list[Cells]]:
    try:
        table = _table.decode(data)
    except codec.UNREADABLE as error:
        problem = f"invalid table of rows ({error})"
        raise DecodeError(problem, excerpt=codec.excerpt(data)) from error
    members = table.members
    if len(set(members)) < len(members):
        names = codec.excerpt(", ".join(members))
        raise DecodeError(f"a table of rows has a column twice: {names}")
    if table.dataset is not None:
        rows: Sequence[Sequence[Any]] = table.dataset
        _check_lengths("row", rows, len(members))
    elif table.columns is not None:
        columns = table.columns
        if len(columns) != len(members):
            raise DecodeError(f"expected {len(members)} columns, got {len(columns)}")
        _check_lengths("column", columns, len(columns[0]) if columns else 0)
        rows = list(zip(*columns, strict=True))
    else:
        problem = "a table of rows needs dataset or columns"
        raise DecodeError(problem, excerpt=codec.excerpt(data))
    shape = shape_of(tuple(sorted(members)))
    places = [members.index(name) for name in shape.columns]
    return shape, [shape.cells(*[row[place] for place in places]) for row in rows]


def _check_lengths(what: str, lists: Sequence[Sequence[Any]], length: int) -> None:
    for i, items in enumerate(lists):
        if len(items) != length:
            raise DecodeError(f"{what} {i} has {len(items)} values, expected {length}")


# Servers send numbers as strings, as JSON integers and, from the native pipeline of Cube
# 1.2 on, as ``1.0``; times without a zone; booleans as ``true`` and, through some drivers,
# as ``"1"`` or ``1``. Python's own constructors accept much more (``"1_000"``, ``" 5"``,
# digits of other scripts), so every value is checked first.


def read_decimal(value: Any, wanted: str = "a decimal number") -> Decimal:
    """Read a number exactly."""
    kind = type(value)
    if kind is Decimal:
        return cast("Decimal", value)
    if kind is int or (kind is str and codec.is_number(value)):
        try:
            return Decimal(value)
        except ArithmeticError:
            pass
    if kind is str and value.strip("+-").lower() in {"nan", "inf", "infinity"}:
        advice = "exclude it in the query, or declare the member or field as str"
        raise ValueError(f"is not a finite number; {advice}")
    raise ValueError(f"is not {wanted}")


def read_int(value: Any) -> int:
    """Read a whole number exactly, also from ``1.0``."""
    kind = type(value)
    if kind is int:
        return cast("int", value)
    if kind is str and _is_integer(value):
        return int(value)
    number = read_decimal(value, "a whole number")
    if number.adjusted() >= _MAX_DIGITS:
        raise ValueError(f"has more than {_MAX_DIGITS} digits")
    whole = int(number)
    if whole != number:
        raise ValueError("is not a whole number")
    return whole


def read_text(value: Any) -> str:
    """Read a string; numbers and booleans are rejected."""
    if type(value) is str:
        return value
    likely = {bool: "bool", int: "int or Decimal", Decimal: "Decimal"}.get(type(value))
    advice = f"; declare the member as {likely}" if likely else ""
    raise ValueError(f"is not a string{advice}")


_BOOLEANS: Final = {"true": True, "false": False, "1": True, "0": False}


def read_bool(value: Any) -> bool:
    """Read a boolean, also from ``"true"``, ``"1"``, ``1``, ``1.0`` and the like."""
    if type(value) is str:
        if value in _BOOLEANS:
            return _BOOLEANS[value]
    elif type(value) in {bool, int, Decimal} and value in {0, 1}:
        return bool(value)
    raise ValueError("is not a boolean")


def read_time(value: Any, zone: tzinfo) -> datetime:
    """Read a time as an aware datetime in the given zone, from its own if it has one."""
    match = _is_time(value) if type(value) is str else None
    if match:
        try:
            moment = datetime.fromisoformat(value)
            if match["zone"]:
                return moment.astimezone(zone)
            return moment.replace(tzinfo=zone)
        except (ValueError, OverflowError):
            pass
    raise ValueError("is not a time of the form YYYY-MM-DDTHH:MM:SS.mmm")


def read_as_sent(value: Any) -> Any:
    """Return a value of a column without a type as it was sent."""
    if value is None or value is msgspec.UNSET:
        raise ValueError("is missing or NULL")
    return deepcopy(value) if type(value) in {dict, list} else value


_READERS: Final[dict[Kind, Reader]] = {
    Decimal: read_decimal,
    int: read_int,
    str: read_text,
    bool: read_bool,
    None: read_as_sent,
}


def reader(kind: Kind, zone: tzinfo) -> Reader:
    """Return the function that reads a value as ``kind``."""
    return partial(read_time, zone=zone) if kind is datetime else _READERS[kind]


def read_column(
    values: list[Any], kind: Kind, zone: tzinfo, *, nullable: bool
) -> list[Any]:
    """Read all values of a column, ``None`` where it is NULL.

    The usual forms are checked and converted together. If a value has another form, all
    are read one by one, with a ``ValueError`` for one that is missing, cannot be read,
    or is NULL in a column that is not ``nullable``.
    """
    kinds = set(map(type, values))
    if kinds <= {kind}:
        return values
    if kinds == {str}:
        # Checking the characters of all values together is faster than value by value.
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
    return [None if value is None and nullable else read(value) for value in values]


def _are_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _are_times(values: Sequence[str]) -> bool:
    """Return whether all have the form ``YYYY-MM-DDTHH:MM:SS.mmm``, as Cube writes."""
    pattern = "0000-00-00T00:00:00.000\n" * len(values)
    return "\n".join([*values, ""]).translate(_DIGITS_TO_ZERO) == pattern


def canonical(value: Any, kind: Kind, zone: tzinfo) -> Hashable:
    """Return a value for comparisons that does not depend on the form it was sent in.

    ``"1.0"``, ``1`` and ``1.0`` are one number, and a time is its instant. A value that
    cannot be read is compared as it was sent, so that comparing rows raises nothing.
    """
    if value is None or value is msgspec.UNSET:
        return cast("Hashable", value)
    try:
        read = reader(kind, zone)(value)
        return _frozen(read.astimezone(UTC) if kind is datetime else read)
    except (ValueError, OverflowError):
        return _frozen(value)


def _frozen(value: Any) -> Hashable:
    """Return a hashable copy of a JSON value, flat, so that it may be nested deeply."""
    if not isinstance(value, dict | list):
        return cast("Hashable", value)
    flat: list[Hashable] = []
    left: list[Any] = [value]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            entries = cast("dict[str, Any]", item)
            names = sorted(entries)
            flat.append((dict, *names))
            left += [entries[name] for name in names]
        elif isinstance(item, list):
            flat.append((list, len(item)))
            left += item
        else:
            flat.append(item)
    return tuple(flat)


def is_verbatim(values: Sequence[Any], kind: Kind, zone: tzinfo) -> bool:
    """Return whether values of a column are equal only if they were sent alike.

    ``False`` means that they may be equal in other cases, too.
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


@lru_cache(maxsize=64)
def _are_alike(decimals: int | None) -> Callable[[str], re.Match[str] | None]:
    """Match lines of numbers with so many decimals, each in its only form."""
    rest = "" if decimals is None else rf"\.[0-9]{{{decimals}}}"
    return re.compile(rf"(?:(?:0|-?[1-9][0-9]*+){rest}\n)*+").fullmatch


def sort_key(value: Hashable) -> tuple[int, Any]:
    """Return a key that sorts canonical values of different types."""
    if isinstance(value, str):
        return (1, value)
    if isinstance(value, int | Decimal):
        return (2, value)
    return (3, repr(value))


def unreadable(column: str, value: object, index: int, reason: str) -> DecodeError:
    """Return the error for a value that cannot be read."""
    sent = "" if value is None else f": {shown(value)}"
    name = codec.excerpt(column)
    return DecodeError(f"{name} in {row_at(index)} {reason}{sent}")


def row_at(index: int) -> str:
    """Return the name of a row in error messages; -1 is a row of unknown position."""
    return f"row {index}" if index >= 0 else "a row"


class Layout:
    """The types of the columns of a shape; rows of many results share it.

    ``kinds`` has the columns in the order in which rows show them. The ``keys``, all
    columns except the measures, identify a row together. The ``zone`` is that of times
    that carry none; the getters return values of a row's cells.
    """

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

    def __reduce__(self) -> tuple[Any, ...]:
        columns = tuple(self.kinds.items())
        return layout_of, (self.shape, columns, self.keys, self.zone)

    def find(self, column: str | Member[Any] | TimeSelection) -> Place:
        """Return a column's name, its attribute in the cells, and its reader.

        A member is read as it is declared itself, a name as the query declares it.

        Raises:
            InvalidArgument: the argument is neither a name nor a member.
            DecodeError: the column does not exist; the message lists the columns.
        """
        # A loop over rows uses the same few objects for each row. They are found by
        # identity, and kept, so that their ids are not reused.
        known = self._places.get(id(column))
        if known is not None:
            return known[1]
        if isinstance(column, str):
            name: str = column
            kind: Kind = self.kinds.get(column)
        else:
            try:
                name, kind = column.name, column.type
            except AttributeError:
                problem = f"column must be a member or a name, got {shown(column)}"
                raise InvalidArgument(problem) from None
            if kind is object:  # undeclared: from Query.from_wire
                kind = self.kinds.get(name)
        if name not in self.kinds:
            raise self.missing(name, self.kinds)
        place = name, self.shape.attributes[name], reader(kind, self.zone)
        if len(self._places) >= _MAX_PLACES:  # members are created for each access
            self._places.clear()
        self._places[id(column)] = column, place
        return place

    def missing(self, name: str, columns: Iterable[str]) -> DecodeError:
        """Return the error for a column that a row does not have."""
        listed = codec.excerpt(", ".join(columns)) or "(none)"
        return DecodeError(f"unknown column {shown(name)}: the columns are {listed}")


def _no_key(_: Cells) -> None:
    """Return the key of the only row of a result that has only measures."""


@lru_cache(maxsize=256)
def layout_of(
    shape: Shape,
    kinds: tuple[tuple[str, Kind], ...],
    keys: tuple[str, ...],
    zone: tzinfo,
) -> Layout:
    """Return the layout of a shape; the same arguments give the same object."""
    return Layout(shape, kinds, keys, zone)


def lay_out(shape: Shape, part: codec.ResultPart, query: Query | None) -> Layout:
    """Return the types of columns: as the query declares them, else as annotated.

    The same types are the same object. An unknown time zone and an invalid annotation
    are a ``DecodeError``.
    """
    kinds = {} if query is None else _declared(query)
    is_complete = kinds.keys() >= shape.attributes.keys()
    annotation = {} if is_complete else read_object(part.annotation)
    annotated, measures = _annotated(annotation)
    if query is None:
        # A query in Cube's JSON form may be in another zone than UTC.
        zone = str(read_object(part.query).get("timezone") or "UTC")
    else:
        zone = query.timezone
        measures = {member.name for member in query.measures}
    kinds = annotated | kinds
    columns = [(name, kinds[name]) for name in kinds if name in shape.attributes]
    # A column without a declaration may still be a time: that of a blended result.
    columns += [
        (name, datetime if name.startswith("time.") else None)
        for name in shape.columns
        if name not in kinds
    ]
    keys = tuple([name for name in shape.columns if name not in measures])
    return layout_of(shape, tuple(columns), keys, zone_of(zone))


def zone_of(name: str) -> tzinfo:
    """Return a time zone; raise a DecodeError if this machine does not have it."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        problem = (
            f"unknown time zone {shown(name)}; if it exists, run `pip install tzdata`"
        )
        raise DecodeError(problem) from error


def _declared(query: Query) -> dict[str, Kind]:
    """Return the columns that a query asks for, with their declared types.

    A member from ``Query.from_wire`` has none, so the server's annotation is used.
    """
    kinds: dict[str, Kind] = {member.name: member.type for member in query.dimensions}
    for selection in query.time:
        kinds[selection.name] = datetime
        # Deprecated, but servers of both generations still send it.
        kinds[selection.dimension.name] = datetime
    kinds.update((member.name, member.type) for member in query.measures)
    return {name: kind for name, kind in kinds.items() if kind is not object}


# A "string" may be a number or even an object through some drivers.
_ANNOTATED: Final = {"number": Decimal, "time": datetime, "boolean": bool}


def _annotated(annotation: dict[str, Any]) -> tuple[dict[str, Kind], set[str]]:
    """Return the columns that an annotation describes, and which are measures."""
    kinds: dict[str, Kind] = {}
    measures: set[str] = set()
    for group in ("dimensions", "timeDimensions", "measures"):
        entries = annotation.get(group)
        for name, entry in entries.items() if isinstance(entries, dict) else ():
            if isinstance(entry, dict):
                kinds[name] = _ANNOTATED.get(str(entry.get("type")))
                if group == "measures":
                    measures.add(name)
    return kinds, measures


def read_object(data: msgspec.Raw) -> dict[str, Any]:
    """Decode a JSON object; anything else is empty."""
    value = codec.loads(bytes(data) or b"null")
    return value if isinstance(value, dict) else {}
