"""Rows, results, and the snapshots that both are read from."""

from __future__ import annotations

import operator
from collections.abc import (
    Hashable,
    ItemsView,
    Iterator,
    KeysView,
    Mapping,
    Sequence,
    ValuesView,
)
from datetime import UTC, datetime
from itertools import count, repeat
from typing import Any, Final, TypeVar, overload

import attrs
import msgspec
from msgspec.structs import astuple

from ortege_watch import _json as codec
from ortege_watch._checks import shown
from ortege_watch._json import ResultPart
from ortege_watch.errors import DecodeError, InvalidArgument
from ortege_watch.query import Member, Query, TimeSelection
from ortege_watch.results.decode import (
    Cells,
    Layout,
    Shape,
    canonical,
    first_shape,
    lay_out,
    read_object,
    read_rows,
    read_time,
    unreadable,
)
from ortege_watch.results.into import convert

T = TypeVar("T")
D = TypeVar("D")

DEFAULT_LIMIT: Final = 10_000
"""Cube's limit for queries without one: CUBEJS_DB_QUERY_DEFAULT_LIMIT."""

# What fits into a log line; hashes and amounts are not cut.
_LONGEST_VALUE: Final = 100
_LONGEST_ROW: Final = 500
_ROWS_SHOWN: Final = 3


class Row(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One row of a result; ``row[member]`` has the member's type.

    By name it is a mapping of its columns: ``row["cube.member"]``, ``dict(row)``, with
    ``None`` for NULL. Values are read when they are accessed. Rows are equal if their
    values are, whether these were sent as ``"1.0"`` or as ``1``, and hashable.
    """

    _layout: Layout
    _cells: Cells
    # The position in the result, for error messages; -1 if it is not known.
    _index: int

    @overload
    def __getitem__(self, column: Member[T]) -> T: ...
    @overload
    def __getitem__(self, column: TimeSelection) -> datetime: ...
    @overload
    def __getitem__(self, column: str) -> Any: ...
    def __getitem__(self, column: str | Member[Any] | TimeSelection) -> Any:
        """Return the value of a column.

        Args:
            column: a member or a time selection, whose type the value is read as; or
                the name of a column, which is read as the query declares it, else as
                the server's annotation says.

        Returns:
            The value; ``None`` for NULL, but only by name.

        Raises:
            DecodeError: the value is NULL in the column of a member, or has another
                type, or the column does not exist.
        """
        name, attribute, read = self._layout.find(column)
        value = getattr(self._cells, attribute)
        try:
            return read(value)
        except ValueError as error:
            if value is None and isinstance(column, str):
                return None
            raise self._unreadable(name, value, error) from error

    @overload
    def get(self, column: Member[T], default: None = None) -> T | None: ...
    @overload
    def get(self, column: Member[T], default: D) -> T | D: ...
    @overload
    def get(self, column: TimeSelection, default: None = None) -> datetime | None: ...
    @overload
    def get(self, column: TimeSelection, default: D) -> datetime | D: ...
    @overload
    def get(self, column: str, default: Any = None) -> Any: ...
    def get(
        self, column: str | Member[Any] | TimeSelection, default: Any = None
    ) -> Any:
        """Return the value of a column, or ``default`` if it is NULL.

        Raises:
            DecodeError: the value has another type, or the column does not exist: a
                misspelt name does not return the default.
        """
        name, attribute, read = self._layout.find(column)
        value = getattr(self._cells, attribute)
        if value is None:
            return default
        try:
            return read(value)
        except ValueError as error:
            raise self._unreadable(name, value, error) from error

    def as_dict(self) -> dict[str, Any]:
        """Return all values by the names of their columns, ``None`` for NULL.

        Raises:
            DecodeError: a value is not of its declared type.
        """
        return {name: self.get(name) for name in self._columns()}

    def keys(self) -> KeysView[str]:
        """Return the names of the columns."""
        return dict.fromkeys(self._columns()).keys()

    def values(self) -> ValuesView[Any]:
        """Return all values, ``None`` for NULL; errors as in :meth:`as_dict`."""
        return self.as_dict().values()

    def items(self) -> ItemsView[str, Any]:
        """Return all names with their values, as :meth:`as_dict` reads them."""
        return self.as_dict().items()

    def into(self, cls: type[T]) -> T:
        """Return the row as an instance of your own class, see :meth:`Result.into`."""
        return convert(self._layout, [self._cells], cls, self._index)[0]

    def _columns(self) -> list[str]:
        """Return the columns that this row has: others may have more."""
        cells, getters = self._cells, self._layout.getters
        return [name for name in getters if getters[name](cells) is not msgspec.UNSET]

    def _unreadable(self, name: str, value: object, error: ValueError) -> DecodeError:
        if value is msgspec.UNSET:
            return self._layout.missing(name, self._columns())
        null = "is NULL; row.get(member) returns None for it"
        reason = null if value is None else str(error)
        return unreadable(name, value, self._index, reason)

    def _canonical(self) -> dict[str, Hashable]:
        layout, cells = self._layout, self._cells
        return {
            name: canonical(
                layout.getters[name](cells), layout.kinds[name], layout.zone
            )
            for name in self._columns()
        }

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns())

    def __len__(self) -> int:
        return len(self._columns())

    def __contains__(self, column: object) -> bool:
        return getattr(column, "name", column) in self._columns()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Row):
            return NotImplemented
        return self._canonical() == other._canonical()

    def __ne__(self, other: object) -> bool:
        # Python would derive it, but msgspec brings its own, which ignores __eq__.
        return not self == other

    def __hash__(self) -> int:
        return hash(frozenset(self._canonical().items()))

    def __reduce__(self) -> tuple[Any, ...]:
        # The class of the cells was created at run time, so it cannot be imported.
        layout, cells, *rest = astuple(self)
        return _row, (type(self), layout, astuple(cells), *rest)

    def __repr__(self) -> str:
        columns, entries, size = self._columns(), list[str](), 0
        for name in columns:
            try:
                value = self.get(name)
            except DecodeError:
                value = self._layout.getters[name](self._cells)
            entry = f"{shown(name, _LONGEST_VALUE)}: {shown(value, _LONGEST_VALUE)}"
            size += len(entry)
            if size > _LONGEST_ROW:
                entries.append(f"… {len(columns) - len(entries)} more")
                break
            entries.append(entry)
        return f"{type(self).__name__}({{{', '.join(entries)}}})"


class ChangedRow(Row, frozen=True, eq=False, gc=False):
    """A row whose measures have changed; it has the new values.

    Attributes:
        before: the row with the old values.
    """

    before: Row


def _row(kind: type[Row], layout: Layout, values: tuple[Any, ...], *rest: Any) -> Row:
    """Return a pickled row."""
    return kind(layout, layout.shape.cells(*values), *rest)


@attrs.define
class Keys:
    """The keys of the rows of a snapshot as they were sent, all different."""

    values: list[Any]  # one for each row, in their order
    # whether keys with the same meaning were sent alike, so not as "1" and "1.0"; None
    # if that has not been checked
    is_verbatim: bool | None = None


class Snapshot(msgspec.Struct, eq=False):
    """One answer, decoded as far as it was needed; the inside of a :class:`Result`."""

    part: ResultPart
    query: Query | None = None
    # the columns and their types, or what they are expected to be as long as cells is
    # None; None if nothing is known
    layout: Layout | None = None
    cells: list[Cells] | None = None  # None until they are read
    length: int | None = None  # the number of rows; None until it is known
    # the number of rows that the answer may have; None until it is needed
    limit: int | None = None
    # whether no value is a list; None if that has not been checked
    flat: bool | None = None
    # the keys of the rows; None if two are alike or nothing was compared
    keys: Keys | None = None

    def follow(self, other: Snapshot) -> None:
        """Expect the columns and the limit of an earlier answer to the same query."""
        if self.query is other.query:
            if self.layout is None and self.part.annotation == other.part.annotation:
                self.layout = other.layout
            if self.part.query == other.part.query:
                self.limit = other.limit

    def adopt(self, other: Snapshot) -> None:
        """Reuse what is known of a snapshot with the same text."""
        self.length, self.flat = other.length, other.flat
        if self.layout is other.layout:
            self.cells = other.cells

    def open(self) -> tuple[Layout, list[Cells]]:
        """Return the columns and all rows; the first call reads them, see ``read_rows``."""
        layout, cells = self.layout, self.cells
        if layout is None or cells is None:
            expected = None if layout is None else layout.shape
            shape, cells = read_rows(memoryview(self.part.data), expected)
            if layout is None or layout.shape is not shape:
                layout = self.lay_out(shape)
            self.cells, self.length = cells, len(cells)
        return layout, cells

    def lay_out(self, shape: Shape) -> Layout:
        """Return the types of columns; expect these as long as no row is read."""
        if self.layout is not None and self.layout.shape is shape:
            return self.layout
        layout = lay_out(shape, self.part, self.query)
        if self.cells is None:
            self.layout = layout
        return layout

    def row_limit(self) -> int:
        """Return the limit of the query, of the server's copy of it, or the default."""
        if self.limit is None:
            limit = None if self.query is None else self.query.limit
            if limit is None:
                normalized = read_object(self.part.query)
                limit = normalized.get("limit", normalized.get("rowLimit"))
            self.limit = limit if isinstance(limit, int) else DEFAULT_LIMIT
        return self.limit


class Result(Sequence[Row]):
    """The answer to one query: a sequence of rows, and what the server says of them.

    The rows are read together when the first one is needed, and each value when it is
    accessed. Both raise :class:`DecodeError` for what cannot be read.

    Results are equal if they have equal rows in the same order, and hashable.
    """

    __slots__ = ("__weakref__", "_snapshot")

    def __init__(self, part: ResultPart, query: Query | None = None) -> None:
        self._snapshot = Snapshot(part, query)

    @property
    def query(self) -> Query | None:
        """The query; ``None`` after :meth:`CubeClient.load_raw`."""
        return self._snapshot.query

    @property
    def raw(self) -> memoryview:
        """The rows as the server sent them: JSON in UTF-8, read-only.

        A list of objects, or one object with ``members`` and ``dataset`` or ``columns``.
        """
        return memoryview(self._snapshot.part.data)

    @property
    def refreshed_at(self) -> datetime | None:
        """When the server computed the rows, aware, in UTC; ``None`` if not sent.

        Raises:
            DecodeError: the server sent something else than a time.
        """
        sent = self._snapshot.part.lastRefreshTime
        if sent is None:
            return None
        try:
            return read_time(sent, UTC)
        except ValueError as error:
            problem = f"lastRefreshTime {error}"
            raise DecodeError(problem, excerpt=codec.excerpt(sent)) from error

    @property
    def total(self) -> int | None:
        """The number of rows without limit and offset, if the query asks for it."""
        return self._snapshot.part.total

    @property
    def annotation(self) -> Mapping[str, Any]:
        """Titles, types and formats of the members, as the server says; may be empty.

        Keys are ``measures``, ``dimensions``, ``segments`` and ``timeDimensions``.
        """
        return read_object(self._snapshot.part.annotation)

    @property
    def truncated(self) -> bool:
        """Whether the result has as many rows as its limit, so that some may be missing.

        The limit is the query's, else the one in the server's copy of the query, else
        Cube's default of 10,000 rows. A result with a limit of 0 is never truncated.
        """
        limit, length = self._snapshot.row_limit(), self._snapshot.length
        if length is None:
            # Rows need not be read if the text is too short for so many.
            shape = first_shape(self.raw)
            if len(self.raw) < limit * (shape.shortest + 1 if shape else 3):
                return False
            length = len(self)
        return 0 < limit <= length

    def into(self, cls: type[T]) -> list[T]:
        """Return the rows as instances of your own attrs class or dataclass.

        A field takes the column whose member has its name (``asset_amount`` is
        ``stacks_contract_events.asset_amount``; a time by day is ``tx_date`` or
        ``tx_date_day``), or whose full name it has, with underscores, or which its
        metadata names: ``{"column": member}``. Values are read as the field is
        annotated: ``Decimal``, ``int``, ``str``, ``bool``, ``datetime``, or anything
        that cattrs can structure, such as an enum; ``| None`` allows NULL. A field with
        a default needs no column.

        Raises:
            InvalidArgument: a field matches no column or several, or has another type.
            DecodeError: a value has another type than its field, is NULL, or is
                rejected by the class itself.
        """
        return convert(*self._snapshot.open(), cls)

    def __len__(self) -> int:
        length = self._snapshot.length
        return len(self._snapshot.open()[1]) if length is None else length

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        layout, cells = self._snapshot.open()
        try:
            places = range(len(cells))[index]
        except IndexError:
            problem = f"row index {index} out of range ({len(cells)} rows)"
            raise IndexError(problem) from None
        except TypeError:
            column: object = index
            problem = f"row index must be an integer or a slice, got {shown(index)}"
            if isinstance(column, str | Member | TimeSelection):
                problem = f"index the row, not the result: result[0][{shown(index)}]"
            raise InvalidArgument(problem) from None
        if isinstance(places, range):
            return tuple(Row(layout, cells[place], place) for place in places)
        return Row(layout, cells[places], places)

    def __iter__(self) -> Iterator[Row]:
        layout, cells = self._snapshot.open()
        return map(Row, repeat(layout), cells, count())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Result):
            return NotImplemented
        mine, theirs = self._snapshot, other._snapshot
        if (mine.part, mine.query) == (theirs.part, theirs.query):
            return True
        return len(self) == len(other) and all(map(operator.eq, self, other))

    def __hash__(self) -> int:
        return hash((len(self), *self[:1]))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._snapshot.part, self._snapshot.query)

    def __repr__(self) -> str:
        refreshed = self._snapshot.part.lastRefreshTime
        try:
            columns = len(self._snapshot.open()[0].kinds)
        except DecodeError as error:
            return f"<Result: {codec.excerpt(str(error))}>"
        rows = [repr(row) for row in self[:_ROWS_SHOWN]]
        if len(self) > _ROWS_SHOWN:
            rows.append("…")
        at = f" refreshed_at={codec.excerpt(refreshed, 40)}" if refreshed else ""
        return f"<Result rows={len(self)} columns={columns}{at} [{', '.join(rows)}]>"
