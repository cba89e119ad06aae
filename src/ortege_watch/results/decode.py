"""From the JSON text of rows to typed values: cells, readers and layouts.

A row is decoded into a tuple, its cells: one value for each column, as it was sent. In
the default form a row is an object, and some servers write its keys in another order in
every row; there the columns are sorted. In the compact and the columnar form they have
the order of the table.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from copy import deepcopy
from datetime import UTC, datetime, tzinfo
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from functools import lru_cache, partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast
from zoneinfo import ZoneInfo

import msgspec
from msgspec.structs import astuple

from ortege_watch import _json as codec
from ortege_watch._checks import shown
from ortege_watch.errors import DecodeError, InvalidArgument

if TYPE_CHECKING:
    from ortege_watch.query import Member, Query, TimeSelection

Columns: TypeAlias = tuple[str, ...]
"""The names of the columns of rows."""

Cells: TypeAlias = tuple[Any, ...]
"""The values of a row, in the order of its columns."""

Kind: TypeAlias = type[Any] | None
"""The type of a column; ``None`` if nobody declares it, and values stay as sent."""

Reader: TypeAlias = Callable[[Any], Any]
"""Reads one value that is not NULL; raises ``ValueError`` with the reason."""

_EXAMINED: Final = 1 << 14
_PIECE: Final = 1 << 16
"""Bytes of rows that are decoded at a time to check them."""

_MAX_DIGITS: Final = 4300
"""Python refuses to read longer integers from text: that takes quadratic time."""

_MAX_PLACES: Final = 256

_TIME: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}"
_is_integer = re.compile(r"-?[0-9]{1,4300}").fullmatch
_is_time = re.compile(
    rf"{_TIME}(?:\.[0-9]{{1,6}}0*)?(?P<zone>Z|[+-][0-9]{{2}}:[0-9]{{2}})?"
).fullmatch
_DIGITS_TO_ZERO: Final = str.maketrans("123456789", "000000000")


class Form(NamedTuple):
    """How rows are written, apart from their values.

    Attributes:
        columns: the columns of every row.
        head: the text before the first row.
        between: what separates two rows, with the brackets of both.
        tail: the text after the last row.
    """

    columns: Columns
    head: bytes
    between: bytes
    tail: bytes

    def read(self, rows: bytes | memoryview) -> list[Cells] | None:
        """Decode a JSON list of rows; ``None`` unless all have exactly these columns."""
        is_compact = self.tail == _COMPACT_TAIL
        try:
            if is_compact:
                return _array_decoder(len(self.columns)).decode(rows)
            cells = list(map(astuple, _object_decoder(self.columns).decode(rows)))
        except codec.UNREADABLE:
            return None
        _check_some_keys(rows, len(self.columns))
        return cells

    def read_piece(self, piece: bytes) -> list[Cells] | None:
        """Decode rows that were cut out of a text; ``None`` if that is not possible.

        That is so, too, if what separates rows stands anywhere else: in a string, or in
        a value that is a list or an object. It is counted, and white space between rows,
        which no server writes, would be a separator that is not.
        """
        cells = self.read(b"[%b]" % piece)
        if cells is None or piece.count(self.between) != max(len(cells) - 1, 0):
            return None
        return None if len(cells) > 1 and _has_space_between_rows(piece) else cells


_COMPACT_TAIL: Final = b"]}"
_has_space_between_rows = re.compile(rb"[\]}](?:\s+,\s*|,\s+)[\[{]").search
_match_compact_head = re.compile(rb'\{"members":\[[^\]]*\],"dataset":\[').match


def form_of(data: memoryview) -> Form | None:
    """Return how rows are written; ``None`` if that is not easily seen."""
    start = data[:_EXAMINED]
    match = _match_compact_head(start)
    form = _compact_form(match[0]) if match else _objects_form(bytes(start))
    return form if form and bytes(data[-len(form.tail) :]) == form.tail else None


@lru_cache(maxsize=64)
def _compact_form(head: bytes) -> Form | None:
    members = head[len(b'{"members":') : -len(b',"dataset":[')]
    try:
        columns = _members.decode(members)
    except codec.UNREADABLE:
        return None
    if not columns or len(set(columns)) < len(columns):
        return None
    return Form(columns, head, b"],[", _COMPACT_TAIL)


def _objects_form(start: bytes) -> Form | None:
    """Return the form of a list of objects; its columns are the keys of the first one."""
    if not start.startswith(b"["):
        return None
    try:
        first, _ = _first_row(start.decode(errors="replace"), 1)
    except codec.UNREADABLE:
        return None
    if not isinstance(first, dict):
        return None
    return Form(tuple(sorted(first)), b"[", b"},{", b"]")


# Digits of any length stay strings: only the keys are used.
_first_row: Final = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode


def read_rows(data: memoryview) -> tuple[Columns, list[Cells]]:
    """Decode the JSON text of rows in any form: default, compact or columnar.

    A row that lacks a column has ``msgspec.UNSET`` there. Another form, a row that is not
    an object, a repeated key and a wrong length are a ``DecodeError``.
    """
    form = form_of(data)
    if form is not None:
        rows = data[len(form.head) - 1 : len(data) - len(form.tail) + 1]
        cells = form.read(rows)
        if cells is not None:
            return form.columns, cells
    first = bytes(data[:1])
    if first == b"[":
        return _read_objects(bytes(data))
    if first == b"{":
        return _read_table(data)
    problem = "rows must be a list of objects or a table"
    raise DecodeError(problem, excerpt=codec.excerpt(bytes(data[:_EXAMINED])))


def check_rows(data: memoryview) -> tuple[Form, int] | None:
    """Decode rows in pieces, of which none is kept; return their form and their number.

    ``None`` means that the rows must be decoded together, or that what separates them
    stands anywhere else, too.

    Each piece begins with a row. It is cut where the next one seems to begin; as it can be
    decoded, it ends with a row, and so the next piece begins with one.
    """
    form = form_of(data)
    if form is None:
        return None
    start, end, length = len(form.head), len(data) - len(form.tail), 0
    while start < end:
        piece = bytes(data[start : min(start + _PIECE, end)])
        if start + _PIECE < end:
            piece = piece[: piece.rfind(form.between) + 1]
        cells = form.read_piece(piece)
        if not cells:
            return None
        length += len(cells)
        start += len(piece) + 1
    return form, length


@lru_cache(maxsize=64)
def _array_decoder(length: int) -> msgspec.json.Decoder[list[Cells]]:
    """Return the decoder of lists with so many values each."""
    of_rows: Any = list[tuple[(Any,) * length]]  # type: ignore[misc]
    return msgspec.json.Decoder(of_rows, float_hook=Decimal)


@lru_cache(maxsize=64)
def _object_decoder(columns: Columns) -> msgspec.json.Decoder[Any]:
    """Return the decoder of objects with these keys; building one takes about 50 µs.

    A structure is decoded about twice as fast as a dictionary. msgspec supports no names
    with quotes, backslashes or control characters: these are a ``ValueError``.
    """
    fields: list[Any] = [
        (f"c{i}", Any, msgspec.field(name=name)) for i, name in enumerate(columns)
    ]
    cells: Any = msgspec.defstruct(
        "Cells", fields, gc=False, forbid_unknown_fields=True
    )
    of_rows: Any = list[cells]
    return msgspec.json.Decoder(of_rows, float_hook=Decimal)


def _read_objects(data: bytes) -> tuple[Columns, list[Cells]]:
    """Decode objects that differ in their keys, or whose first one is not easily read."""
    rows = codec.loads(data)
    keys: set[str] = set()
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            problem = f"row {i} is not an object"
            raise DecodeError(problem, excerpt=codec.excerpt(repr(row)))
        keys.update(row)
    _check_keys(data)
    columns = tuple(sorted(keys))
    return columns, [
        tuple([row.get(name, msgspec.UNSET) for name in columns]) for row in rows
    ]


def _check_some_keys(rows: bytes | memoryview, length: int) -> None:
    """Raise a DecodeError if an object has a key twice; all have so many other keys.

    Only the first 16 kB are checked: all rows have the keys of the query, and counting
    takes time.
    """
    start = bytes(rows[:_EXAMINED])
    if len(rows) > _EXAMINED:
        start = start[: start.rfind(b'{"')]
    # Other colons after quotes belong to repeated keys, or are within a value.
    if start.count(b'":') != start.count(b'{"') * length:
        _check_keys(bytes(rows))


def _check_keys(data: bytes) -> None:
    """Raise a DecodeError if a row has a key twice."""
    if repeated := codec.repeated_keys(data.decode()):
        names = codec.excerpt(", ".join(repeated))
        raise DecodeError(f"a row has {names} more than once")


class _Table(msgspec.Struct):
    """Rows in the compact form, as ``dataset``, or in the columnar, as ``columns``."""

    members: Columns
    dataset: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    columns: list[list[Any]] | msgspec.UnsetType = msgspec.UNSET


_members = msgspec.json.Decoder(Columns)
_table = msgspec.json.Decoder(_Table, float_hook=Decimal)


def _read_table(data: memoryview) -> tuple[Columns, list[Cells]]:
    """Decode the columnar form, or a table whose text is unusual or invalid."""
    try:
        table = _table.decode(data)
        members, columns = table.members, table.columns
        if table.dataset is not msgspec.UNSET:
            # Rows of a table without columns are not decoded: they could be millions.
            cells = _array_decoder(len(members) or 1).decode(table.dataset)
            if cells and not members:
                raise ValueError("it has rows, but no columns")
        elif columns is msgspec.UNSET:
            raise ValueError("it needs dataset or columns")
        elif len(columns) != len(members):
            raise ValueError(f"expected {len(members)} columns, got {len(columns)}")
        elif len(set(map(len, columns))) > 1:
            raise ValueError("its columns have different lengths")
        else:
            cells = list(zip(*columns, strict=True))
        if len(set(members)) < len(members):
            raise ValueError("it has a column twice")
    except codec.UNREADABLE as error:
        problem = f"invalid table of rows ({error})"
        raise DecodeError(problem, excerpt=codec.excerpt(bytes(data))) from error
    return members, cells


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
        if kind is int and _are_digits(values):
            return list(map(int, values))
        if kind is Decimal and _are_digits(values, apart_from=b".-"):
            try:
                return list(map(Decimal, values))
            except ArithmeticError:
                pass
        if kind is datetime and zone is UTC and _are_times(values):
            zoned = "+00:00\n".join([*values, ""]).split("\n")
            return list(map(datetime.fromisoformat, zoned[:-1]))
    read = reader(kind, zone)
    return [None if value is None and nullable else read(value) for value in values]


def _are_digits(values: Iterable[str], *, apart_from: bytes = b"") -> bool:
    return "".join(values).encode().translate(None, apart_from).isdigit()


def _are_times(values: Sequence[str]) -> bool:
    """Return whether all have the form ``YYYY-MM-DDTHH:MM:SS.mmm``, as Cube writes."""
    pattern = "0000-00-00T00:00:00.000\n" * len(values)
    return "\n".join([*values, ""]).translate(_DIGITS_TO_ZERO) == pattern


def canonical(value: Any, kind: Kind, zone: tzinfo) -> Hashable:
    """Return a value for comparisons that does not depend on the form it was sent in.

    ``"1.0"``, ``1`` and ``1.0`` are one number, and a time is its instant. A value that
    cannot be read is compared as it was sent, so that comparing rows raises nothing.
    A number is never equal to a boolean or a string. See :func:`hashed` for its hash.
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
        return cast("Hashable", hashed(value))
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
            flat.append(hashed(item))
    return tuple(flat)


_EXACT: Final = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN, clamp=0)
"""A context in which removing the zeros at the end of a number rounds nothing."""

NUMBERS: Final = frozenset({int, Decimal})


def hashed(value: Any) -> Any:
    """Return the canonical bytes of a number, and anything else as it is.

    Python randomises the hashes of strings and bytes, but not those of numbers: with
    numbers whose hashes are the same, anybody who can put them on a chain could make a
    dict compare each with all others. JSON has no bytes, so they mean nothing else.
    """
    if type(value) not in NUMBERS:
        return value
    number = _EXACT.normalize(value)
    return str(number).encode() if number else b"0"


ANY_WRITING: Final = "any"
"""That of a column that has no value apart from NULL."""

NUMBER_WRITING: Final = "number"
"""That of a column of numbers in JSON: keys need :func:`hashed` ones."""


def writing_of(values: Sequence[Any], kind: Kind, zone: tzinfo) -> Hashable:
    """Return how the values of a column are written: alike, or ``None``.

    Values that are written alike are equal only if they are the same.
    """
    kinds = set(map(type, values)) - _NULL
    if not kinds:
        return ANY_WRITING
    if kinds <= NUMBERS:
        return NUMBER_WRITING
    if kinds == {bool}:
        return "boolean"
    if kinds != {str} or kind is bool:
        return None
    if kind in {None, str}:
        return "text"
    texts = (
        values if None not in values else [each for each in values if each is not None]
    )
    if kind is datetime:
        # In other zones two wall clock times may be one instant.
        return "time" if zone is UTC and _are_times(texts) else None
    _, point, decimals = texts[0].partition(".")
    length = len(decimals) if point else -1
    return length if _are_alike(length)("\n".join([*texts, ""])) else None


_NULL: Final = frozenset({type(None)})


@lru_cache(maxsize=64)
def _are_alike(decimals: int) -> Callable[[str], re.Match[str] | None]:
    """Match lines of numbers with so many decimals, each in its only form."""
    rest = "" if decimals < 0 else rf"\.[0-9]{{{decimals}}}"
    return re.compile(rf"(?:(?:0|-?[1-9][0-9]*+){rest}\n)*+").fullmatch


def sort_key(value: Hashable) -> tuple[int, Any]:
    """Return a key that sorts canonical values of different types."""
    if isinstance(value, str):
        return (1, value)
    if isinstance(value, bytes):
        return (2, Decimal(value.decode()))
    return (3, repr(value))


def unreadable(column: str, value: object, index: int, reason: str) -> DecodeError:
    """Return the error for a value that cannot be read."""
    sent = "" if value is None else f": {shown(value)}"
    name = codec.excerpt(column)
    return DecodeError(f"{name} in {row_at(index)} {reason}{sent}")


def row_at(index: int) -> str:
    """Return the name of a row in error messages; -1 is a row of unknown position."""
    return f"row {index}" if index >= 0 else "a row"


class Place(NamedTuple):
    """Where a value is, and how it is read."""

    name: str
    place: int  # in the cells
    kind: Kind
    read: Reader


class Layout:
    """The types of columns; rows of many results share it.

    ``kinds`` has the columns in the order in which rows show them, and ``places`` where
    their values are in the cells. The ``keys``, all columns except the measures,
    identify a row together. The ``zone`` is that of times that carry none.
    """

    def __init__(
        self,
        columns: Columns,
        kinds: Iterable[tuple[str, Kind]],
        keys: tuple[str, ...],
        zone: tzinfo,
    ) -> None:
        self.columns = columns
        self.places = {name: place for place, name in enumerate(columns)}
        self.kinds = dict(kinds)
        self.keys = keys
        self.measures = tuple([name for name in self.kinds if name not in keys])
        self.zone = zone
        self.get_key: Callable[[Cells], Any] = (
            itemgetter(*[self.places[name] for name in keys]) if keys else _no_key
        )
        self._found: dict[int, tuple[object, Place]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        kinds = tuple(self.kinds.items())
        return layout_of, (self.columns, kinds, self.keys, self.zone)

    def column(self, name: str, cells: Iterable[Cells]) -> list[Any]:
        """Return the values of a column as they were sent."""
        return list(map(itemgetter(self.places[name]), cells))

    def canonical(self, name: str, cells: Cells) -> Hashable:
        """Return a value of a row for comparisons, see :func:`canonical`."""
        return canonical(cells[self.places[name]], self.kinds[name], self.zone)

    def find(self, column: str | Member[Any] | TimeSelection) -> Place:
        """Return the place of a column.

        A member is read as it is declared itself, a name as the query declares it.

        Raises:
            InvalidArgument: the argument is neither a name nor a member.
            DecodeError: the column does not exist; the message lists the columns.
        """
        # A loop over rows uses the same few objects for each row. They are found by
        # identity, and kept, so that their ids are not reused.
        known = self._found.get(id(column))
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
        place = Place(name, self.places[name], kind, reader(kind, self.zone))
        if len(self._found) >= _MAX_PLACES:  # members are created for each access
            self._found.clear()
        self._found[id(column)] = column, place
        return place

    def missing(self, name: str, columns: Iterable[str]) -> DecodeError:
        """Return the error for a column that a row does not have."""
        listed = codec.excerpt(", ".join(columns)) or "(none)"
        return DecodeError(f"unknown column {shown(name)}: the columns are {listed}")


def _no_key(_: Cells) -> None:
    """Return the key of the only row of a result that has only measures."""


@lru_cache(maxsize=256)
def layout_of(
    columns: Columns,
    kinds: tuple[tuple[str, Kind], ...],
    keys: tuple[str, ...],
    zone: tzinfo,
) -> Layout:
    """Return the layout of columns; the same arguments give the same object."""
    return Layout(columns, kinds, keys, zone)


def lay_out(columns: Columns, part: codec.ResultPart, query: Query | None) -> Layout:
    """Return the types of columns: as the query declares them, else as annotated.

    The same types are the same object. An unknown time zone and an invalid annotation
    are a ``DecodeError``.
    """
    kinds = {} if query is None else _declared(query)
    is_complete = kinds.keys() >= set(columns)
    annotation = {} if is_complete else read_object(part.annotation)
    annotated, measures = _annotated(annotation)
    if query is None:
        # A query in Cube's JSON form may be in another zone than UTC.
        zone = str(read_object(part.query).get("timezone") or "UTC")
    else:
        zone = query.timezone
        measures = {member.name for member in query.measures}
    kinds = annotated | kinds
    typed = [(name, kinds[name]) for name in kinds if name in columns]
    # A column without a declaration may still be a time: that of a blended result.
    typed += [
        (name, datetime if name.startswith("time.") else None)
        for name in columns
        if name not in kinds
    ]
    keys = tuple([name for name in columns if name not in measures])
    return layout_of(columns, tuple(typed), keys, zone_of(zone))


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
