"""Rows, results, and the snapshots that both are read from."""

from __future__ import annotations

import contextlib
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
from itertools import chain, repeat
from typing import Any, Final, TypeVar, cast, overload

import msgspec

from ortege_watch import _json as codec
from ortege_watch._checks import shown
from ortege_watch._json import ResultPart
from ortege_watch.errors import DecodeError, InvalidArgument
from ortege_watch.query import Member, Query, TimeSelection
from ortege_watch.results.decode import (
    Cells,
    Columns,
    Form,
    Kind,
    Layout,
    Place,
    check_rows,
    lay_out,
    layout_of,
    read_column,
    read_object,
    read_rows,
    read_time,
    unreadable,
    writing_of,
)
from ortege_watch.results.into import convert

T = TypeVar("T")
D = TypeVar("D")
R_co = TypeVar("R_co", bound="Row", covariant=True)

DEFAULT_LIMIT: Final = 10_000
"""Cube's limit for queries without one: CUBEJS_DB_QUERY_DEFAULT_LIMIT."""

# What fits into a log line; hashes and amounts are not cut.
_LONGEST_VALUE: Final = 100
_LONGEST_ROW: Final = 500
_ROWS_SHOWN: Final = 3

_TOGETHER: Final = 256
"""Rows whose columns are read together."""

_LARGE: Final = 1 << 16
"""Bytes; the rows of larger snapshots are not kept unless they are accessed."""

_MOST_KEPT: Final = 32
"""Columns that are found by identity: members may be made for each access."""


class Row(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One row of a result; ``row[member]`` has the member's type.

    By name it is a mapping of its columns: ``row["cube.member"]``, ``dict(row)``, with
    ``None`` for NULL. Values are read when they are accessed. Rows are equal if their
    values are, whether these were sent as ``"1.0"`` or as ``1``, and hashable.
    """

    _rows: _Block  # a few rows, among them this one
    _place: int

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
        rows = self._rows
        values = rows.read.get(id(column))
        if values is not None:
            return values[self._place]
        name, place, _, read = rows.find(column)
        value = rows.cells[self._place][place]
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
        rows = self._rows
        values = rows.read.get(id(column))
        if values is not None:
            return values[self._place]
        name, place, _, read = rows.find(column)
        value = rows.cells[self._place][place]
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
        rows, place = self._rows, self._place
        return convert(rows.layout, [self._cells], cls, rows.number(place))[0]

    @property
    def _cells(self) -> Cells:
        return self._rows.cells[self._place]

    def _columns(self) -> list[str]:
        """Return the columns that this row has: others may have more."""
        layout, cells = self._rows.layout, self._cells
        if msgspec.UNSET not in cells:
            return list(layout.kinds)
        places = layout.places
        return [
            name for name in layout.kinds if cells[places[name]] is not msgspec.UNSET
        ]

    def _unreadable(self, name: str, value: object, error: ValueError) -> DecodeError:
        if value is msgspec.UNSET:
            return self._rows.layout.missing(name, self._columns())
        null = "is NULL; row.get(member) returns None for it"
        reason = null if value is None else str(error)
        return unreadable(name, value, self._rows.number(self._place), reason)

    def _canonical(self) -> dict[str, Hashable]:
        layout, cells = self._rows.layout, self._cells
        return {name: layout.canonical(name, cells) for name in self._columns()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns())

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._columns())

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
        part = self._rows.part(slice(self._place, self._place + 1))
        return operator.getitem, (Rows(part), 0)

    def __repr__(self) -> str:
        columns, entries, size = self._columns(), list[str](), 0
        for name in columns:
            try:
                value = self.get(name)
            except DecodeError:
                value = self._cells[self._rows.layout.places[name]]
            entry = f"{shown(name, _LONGEST_VALUE)}: {shown(value, _LONGEST_VALUE)}"
            size += len(entry)
            if size > _LONGEST_ROW:
                entries.append(f"… {len(columns) - len(entries)} more")
                break
            entries.append(entry)
        return f"{type(self).__name__}({{{', '.join(entries)}}})"


class ChangedRow(Row, frozen=True, eq=False, gc=False):
    """A row whose measures have changed; it has the new values."""

    @property
    def before(self) -> Row:
        """The row with the old values."""
        assert self._rows.before is not None  # noqa: S101 - for the type checkers
        return Row(self._rows.before, self._place)


class _Block(msgspec.Struct, eq=False):
    """Rows that are not objects yet: what :class:`Rows` and each row refer to.

    Attributes:
        layout: the columns and their types.
        cells: the rows.
        numbers: their positions in the result, for error messages; ``None`` if these
            are not known.
        before: the same rows as they were, with ``None`` in place of one that is new;
            ``None`` if these are not changed rows.
        order: numbers that sort the rows of several sequences.
        read: the values of columns that were read together, by the id of the column.
    """

    layout: Layout
    cells: Sequence[Cells]
    numbers: Sequence[int] | None = None
    before: _Block | None = None
    order: Sequence[int] = ()
    read: dict[int, list[Any]] = {}
    _keep: list[object] = []  # the columns, so that no id is used again
    _columns: dict[tuple[int, Kind], list[Any] | None] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        fields = self.layout, self.cells, self.numbers, self.before, self.order
        return type(self), fields

    def number(self, place: int) -> int:
        """Return the position of a row in the result; -1 if it is not known."""
        return -1 if self.numbers is None else self.numbers[place]

    def find(self, column: str | Member[Any] | TimeSelection) -> Place:
        """Return the place of a column, and read the column of all rows if possible."""
        place = self.layout.find(column)
        if len(self.cells) == 1 or place.kind is None:
            return place
        if len(self._keep) < _MOST_KEPT:
            values = self._read(place)
            if values is not None:
                self._keep.append(column)
                self.read[id(column)] = values
        return place

    def _read(self, place: Place) -> list[Any] | None:
        """Read a column; ``None`` if a value is NULL or cannot be read."""
        key, layout = (place.place, place.kind), self.layout
        if key not in self._columns:
            sent = layout.column(place.name, self.cells)
            values = None
            with contextlib.suppress(ValueError):
                values = read_column(sent, place.kind, layout.zone, nullable=False)
            self._columns[key] = values
        return self._columns[key]

    def some(self, start: int, size: int = _TOGETHER) -> list[Any]:
        """Return some rows, whose columns are read together."""
        is_all = start == 0 and len(self.cells) <= size
        block = self if is_all else self.part(slice(start, start + size))
        kind: Any = Row
        if block.before is not None:
            kind = ChangedRow
            olds: Sequence[Any] = block.before.cells
            if None in olds:
                return [
                    (Row if old is None else kind)(block, place)
                    for place, old in enumerate(olds)
                ]
        return list(map(kind, repeat(block), range(len(block.cells))))

    def part(self, part: slice) -> _Block:
        """Return some of the rows."""
        return _Block(
            self.layout,
            self.cells[part],
            None if self.numbers is None else self.numbers[part],
            None if self.before is None else self.before.part(part),
            self.order[part],
        )


class Rows(Sequence[R_co]):
    """Rows that are made when they are accessed; equal to a tuple of the same rows.

    ``+`` with any sequence of rows gives a tuple.

    In an iteration, the values of a column are read together for a few rows: that takes
    a third of the time. A row keeps these few in memory, and not the whole sequence.
    """

    __slots__ = ("_block",)

    def __init__(self, block: _Block) -> None:
        self._block = block

    def into(self, cls: type[T]) -> list[T]:
        """Return the rows as instances of your own class, see :meth:`Result.into`."""
        block = self._block
        numbers, first = block.numbers, -1
        if isinstance(numbers, range) and numbers.step == 1:
            first = numbers.start
        return convert(block.layout, block.cells, cls, first)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._block,)

    def __len__(self) -> int:
        return len(self._block.cells)

    def __iter__(self) -> Iterator[R_co]:
        some, length = self._block.some, len(self)
        if length <= _TOGETHER:
            return iter(some(0))
        return chain.from_iterable(map(some, range(0, length, _TOGETHER)))

    @overload
    def __getitem__(self, index: int) -> R_co: ...
    @overload
    def __getitem__(self, index: slice) -> Rows[R_co]: ...
    def __getitem__(self, index: int | slice) -> R_co | Rows[R_co]:
        try:
            places = range(len(self))[index]
        except IndexError:
            problem = f"row index {index} out of range ({len(self)} rows)"
            raise IndexError(problem) from None
        except TypeError:
            column: object = index
            problem = f"row index must be an integer or a slice, got {shown(index)}"
            if isinstance(column, str | Member | TimeSelection):
                problem = f"index the row, not the result: result[0][{shown(index)}]"
            raise InvalidArgument(problem) from None
        if isinstance(places, int):
            row: R_co = self._block.some(places, 1)[0]
            return row
        return Rows(self._block.part(cast("slice", index)))

    def __add__(self, other: Sequence[Row]) -> tuple[Row, ...]:
        if not isinstance(cast("object", other), Rows | tuple | list):
            return NotImplemented
        return (*self, *other)

    def __radd__(self, other: Sequence[Row]) -> tuple[Row, ...]:
        if not isinstance(cast("object", other), Rows | tuple | list):
            return NotImplemented
        return (*other, *self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rows | tuple):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"<Rows rows={len(self)} [{_first(self)}]>"


def rows_of(
    layout: Layout,
    cells: Sequence[Cells],
    before: tuple[Layout, Sequence[Cells]] | None = None,
    order: Sequence[int] = (),
) -> Rows[Any]:
    """Return rows whose positions in the result are not known."""
    olds = None if before is None else _Block(*before)
    return Rows(_Block(layout, cells, None, olds, order))


NO_ROWS: Final[Rows[Any]] = Rows(_Block(layout_of((), (), (), UTC), ()))


def in_order(added: Rows[Row], changed: Rows[ChangedRow]) -> Rows[Row]:
    """Return the rows of both in the order of their result."""
    one, other = added._block, changed._block  # noqa: SLF001
    assert other.before is not None  # noqa: S101 - for the type checkers
    olds: Any = [*repeat(None, len(one.cells)), *other.before.cells]
    cells, order = [*one.cells, *other.cells], [*one.order, *other.order]
    places = sorted(range(len(cells)), key=order.__getitem__)
    return rows_of(
        one.layout,
        [cells[place] for place in places],
        (other.before.layout, [olds[place] for place in places]),
        [order[place] for place in places],
    )


def _first(rows: Sequence[Row]) -> str:
    shown_rows = [repr(row) for row in rows[:_ROWS_SHOWN]]
    return ", ".join(shown_rows + ["…"] * (len(rows) > _ROWS_SHOWN))


class Table(msgspec.Struct, eq=False):
    """Rows that are compared, and what a comparison found out about them.

    Attributes:
        layout: the columns and their types.
        cells: the rows.
        unique_keys: whether no two rows have the same key, as it was sent; ``None`` if
            that has not been checked.
    """

    layout: Layout
    cells: Sequence[Cells]
    unique_keys: bool | None = None
    _columns: dict[str, list[Any]] = {}
    _writings: dict[str, Hashable] = {}

    def column(self, name: str) -> list[Any]:
        """Return the values of a column as they were sent."""
        if name not in self._columns:
            self._columns[name] = self.layout.column(name, self.cells)
        return self._columns[name]

    def writing(self, name: str) -> Hashable:
        """Return how the values of a column are written, see :func:`writing_of`."""
        if name not in self._writings:
            kind, zone = self.layout.kinds[name], self.layout.zone
            self._writings[name] = writing_of(self.column(name), kind, zone)
        return self._writings[name]

    def has_keys_of(self, other: Table) -> bool:
        """Return whether the rows have the same keys in the same order, each once."""
        keys = self.layout.keys
        if not (
            other.unique_keys
            and len(self.cells) == len(other.cells)
            and all(self.column(name) == other.column(name) for name in keys)
        ):
            return False
        self.unique_keys = True
        self._writings.update((name, other.writing(name)) for name in keys)
        return True


class _LazyCells(Sequence[Cells]):
    """The rows of a checked snapshot, which are read when one of them is accessed."""

    __slots__ = ("_snapshot",)

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def __len__(self) -> int:
        assert self._snapshot.length is not None  # noqa: S101 - for the type checkers
        return self._snapshot.length

    def __getitem__(self, index: Any) -> Any:
        return self._snapshot.open()[1][index]

    def __iter__(self) -> Iterator[Cells]:
        return iter(self._snapshot.open()[1])

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (self._snapshot.open()[1],)


class Snapshot(msgspec.Struct, eq=False):
    """One answer, decoded as far as it was needed; the inside of a :class:`Result`."""

    part: ResultPart
    query: Query | None = None
    # the columns and their types; until the rows are checked, what is expected of them
    layout: Layout | None = None
    # how the rows are written, if these can be cut where two rows seem to be separated
    form: Form | None = None
    checked: bool = False  # whether all rows can be read
    cells: list[Cells] | None = None  # None until they are read
    length: int | None = None  # the number of rows; None until it is known
    # the number of rows that the answer may have; None until it is needed
    limit: int | None = None
    # whether many rows differed from the snapshot before
    has_changed: bool = False
    # the rows in a comparison; None if all were not compared
    table: Table | None = None

    def follow(self, other: Snapshot) -> None:
        """Expect the columns and the limit of an earlier answer to the same query."""
        if self.query is other.query:
            if self.layout is None and self.part.annotation == other.part.annotation:
                self.layout = other.layout
            if self.part.query == other.part.query:
                self.limit = other.limit

    def adopt(self, other: Snapshot) -> None:
        """Reuse what is known of a snapshot with the same text."""
        self.length, self.form = other.length, other.form
        if self.layout is other.layout:
            self.cells, self.checked = other.cells, other.checked

    def open(self) -> tuple[Layout, list[Cells]]:
        """Return the columns and all rows; the first call reads them, see ``read_rows``."""
        layout, cells = self.layout, self.cells
        if layout is None or cells is None:
            columns, cells = read_rows(memoryview(self.part.data))
            layout = self.lay_out(columns)
            self.cells, self.length, self.checked = cells, len(cells), True
        return layout, cells

    def check(self) -> None:
        """Make sure that all rows can be read, without keeping them if they are many."""
        if self.checked:
            return
        data = memoryview(self.part.data)
        found = check_rows(data) if data.nbytes >= _LARGE else None
        if found is None:
            self.open()
            return
        self.form, self.length = found
        self.lay_out(self.form.columns)
        self.checked = True

    def rows(self) -> Rows[Row]:
        """Return the rows, which are read when one of them is accessed."""
        self.check()
        assert self.layout is not None  # noqa: S101 - for the type checkers
        cells = _LazyCells(self) if self.cells is None else self.cells
        return Rows(_Block(self.layout, cells, range(len(cells))))

    def compared(self) -> Table:
        """Return all rows for a comparison."""
        if self.table is None or self.table.layout is not self.layout:
            self.table = Table(*self.open())
        return self.table

    def lay_out(self, columns: Columns) -> Layout:
        """Set and return the types of the columns."""
        if self.layout is None or self.layout.columns != columns:
            self.layout = lay_out(columns, self.part, self.query)
        return self.layout

    def row_limit(self) -> int:
        """Return the limit of the query, of the server's copy of it, or the default."""
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
        snapshot = self._snapshot
        limit = snapshot.row_limit() if snapshot.limit is None else snapshot.limit
        # Rows need not be read if the text is too short for so many.
        size = memoryview(snapshot.part.data).nbytes
        return 0 < limit <= size // 2 and limit <= len(self)

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
    def __getitem__(self, index: slice) -> Rows[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Rows[Row]:
        return self._rows()[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows())

    def _rows(self) -> Rows[Row]:
        layout, cells = self._snapshot.open()
        return Rows(_Block(layout, cells, range(len(cells))))

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
        at = f" refreshed_at={codec.excerpt(refreshed, 40)}" if refreshed else ""
        return f"<Result rows={len(self)} columns={columns}{at} [{_first(self)}]>"
