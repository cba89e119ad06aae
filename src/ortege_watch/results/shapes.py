"""The columns of a result, and its rows as cells: values as they were sent.

A row is read into a small msgspec structure that is made for its columns, about twice
as fast as into a dictionary. Cells know no order of columns: some servers write the
keys of every row in an order of their own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, TypeAlias

import msgspec

from ortege_watch import codec
from ortege_watch.errors import DecodeError

__all__ = ["Cells", "Shape", "first_shape", "read_rows", "shape_of"]

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
        """Tell whether no key stands twice; ``False`` if that must be looked at.

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
    """Give the shape of sorted columns; making one takes some 50 µs."""
    return Shape(columns)


def read_rows(
    data: memoryview, likely: Shape | None = None
) -> tuple[Shape, list[Cells]]:
    """Read rows in whichever response form they are: default, compact or columnar.

    Args:
        data: JSON text.
        likely: the columns that are expected.

    Raises:
        DecodeError: the data is in none of these forms, a row is no object or has a
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
            problem = f"row {i} is no object"
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
