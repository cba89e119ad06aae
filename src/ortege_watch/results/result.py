"""A result: a sequence of rows that stay JSON text until somebody looks at them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from itertools import count, groupby, repeat
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

import attrs
import msgspec

from ortege_watch import _json as codec
from ortege_watch.errors import DecodeError
from ortege_watch.results.decode import (
    Cells,
    Layout,
    Reader,
    Shape,
    annotated,
    annotated_measures,
    canonical,
    declared,
    first_shape,
    lay_out,
    read_rows,
    read_time,
    unreadable,
)
from ortege_watch.results.into import convert

if TYPE_CHECKING:
    from ortege_watch._json import ResultPart
    from ortege_watch.query import Member, Query, TimeSelection
    from ortege_watch.results.decode import Shape

__all__ = [
    "DEFAULT_LIMIT",
    "ChangedRow",
    "Keys",
    "Result",
    "Row",
    "Snapshot",
    "rows_into",
    "snapshot_of",
]

# -------------------- One row of a result: cells as they were sent, read as their columns are declared.


T = TypeVar("T")
D = TypeVar("D")


class Row(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One row of a result; ``row[member]`` is of the member's type.

    Values are read when they are asked for. Rows are equal when their values are,
    whatever form these were sent in (``"1.0"`` or ``1``), and hashable.
    """

    _layout: Layout
    _cells: Cells
    # Its place in the result, for error messages; -1 where that is not known.
    _index: int

    @overload
    def __getitem__(self, column: Member[T]) -> T: ...
    @overload
    def __getitem__(self, column: TimeSelection) -> datetime: ...
    @overload
    def __getitem__(self, column: str) -> Any: ...
    def __getitem__(self, column: str | Member[Any] | TimeSelection) -> Any:
        """Give the value of a column.

        Args:
            column: a member or a time selection, which knows its type, or the name of
                a column; that is read as the query declares it, else as the server's
                annotation says.

        Raises:
            DecodeError: the value is NULL, there is no such column, or what the server
                sent is not of the type.
        """
        name, attribute, read = self._layout.find(column)
        value = getattr(self._cells, attribute)
        if value is not None and value is not msgspec.UNSET:
            try:
                return read(value)
            except ValueError as error:
                raise unreadable(name, value, self._index, str(error)) from error
        self._read(name, attribute, read)  # says so if it is absent
        reason = "is NULL; row.get(member) gives None for it"
        raise unreadable(name, None, self._index, reason)

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
        """Give the value of a column, or ``default`` where it is NULL.

        Raises:
            DecodeError: there is no such column, or what the server sent is not of the
                type; a misspelt name is no NULL.
        """
        value = self._read(*self._layout.find(column))
        return default if value is None else value

    def as_dict(self) -> dict[str, Any]:
        """Give all values under the names of their columns, ``None`` where NULL.

        Raises:
            DecodeError: what the server sent is not of the type that was declared.
        """
        find = self._layout.find
        return {name: self._read(*find(name)) for name in self._columns()}

    def into(self, cls: type[T]) -> T:
        """Give the row as an instance of your own class, see ``Result.into``."""
        return convert(self._layout, [self._cells], cls, self._index)[0]

    def _columns(self) -> list[str]:
        attributes = self._layout.shape.attributes
        return [
            name
            for name in self._layout.kinds
            if getattr(self._cells, attributes[name]) is not msgspec.UNSET
        ]

    def _read(self, name: str, attribute: str, read: Reader) -> Any:
        value = getattr(self._cells, attribute)
        if value is None:
            return None
        if value is msgspec.UNSET:
            raise self._layout.missing(name, self._columns())
        try:
            return read(value)
        except ValueError as error:
            raise unreadable(name, value, self._index, str(error)) from error

    def _canonical(self) -> dict[str, Hashable]:
        layout = self._layout
        return {
            name: canonical(
                getattr(self._cells, layout.shape.attributes[name]),
                layout.kinds[name],
                layout.zone,
            )
            for name in self._columns()
        }

    def __contains__(self, column: object) -> bool:
        return getattr(column, "name", column) in self._columns()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Row):
            return NotImplemented
        return self._canonical() == other._canonical()

    def __ne__(self, other: object) -> bool:
        # Python would derive it, but msgspec brings its own, which knows no __eq__.
        return not self == other

    def __hash__(self) -> int:
        return hash(frozenset(self._canonical().items()))

    def __repr__(self) -> str:
        shown = {}
        for name in self._columns():
            attribute = self._layout.shape.attributes[name]
            try:
                shown[name] = self._read(*self._layout.find(name))
            except DecodeError:
                shown[name] = getattr(self._cells, attribute)
        return f"{type(self).__name__}({shown!r})"


class ChangedRow(Row, frozen=True, eq=False, gc=False):
    """A row whose measures have changed; it has the new values.

    Attributes:
        before: the row as it was.
    """

    before: Row


def rows_into(rows: Iterable[Row], cls: type[T]) -> list[T]:
    """Give rows as instances of your own class, see ``Result.into``.

    Much faster than row by row.
    """
    found: list[T] = []
    for layout, group in groupby(rows, attrgetter("_layout")):
        found += convert(layout, list(map(attrgetter("_cells"), group)), cls, -1)
    return found


# -------------------- What a result is made of, below its rows: text, then columns, then cells.


DEFAULT_LIMIT: Final = 10_000
"""How many rows Cube gives where nobody says: CUBEJS_DB_QUERY_DEFAULT_LIMIT."""


@attrs.define
class Keys:
    """The keys of rows as they were sent, in the order of the rows, no two alike.

    Attributes:
        values: one for each row.
        is_verbatim: whether no two mean the same either, ``"1"`` and ``"1.0"`` for
            example; ``None`` until somebody looked.
    """

    values: list[Any]
    is_verbatim: bool | None = None


class Snapshot:
    """One answer, read as far as anybody needed; ``Result`` is what users see of it.

    Attributes:
        part: the answer.
        query: the query that it answers, where it is known.
        raw: the rows as JSON text.
        shape: the columns; ``None`` until they are known.
        cells: the rows; ``None`` until they are read.
        length: the number of rows; ``None`` until it is known.
        flat: whether no value holds a list; ``None`` until somebody looked.
        known: what the columns hold, or most likely do before the rows are read.
        keys: the keys of the rows, if no two are alike; ``None`` if some are, or until
            somebody looked.
    """

    def __init__(self, part: ResultPart, query: Query | None) -> None:
        self.part = part
        self.query = query
        self.raw = memoryview(part.data)
        self.shape: Shape | None = None
        self.cells: list[Cells] | None = None
        self.length: int | None = None
        self.flat: bool | None = None
        self.keys: Keys | None = None
        self.known: Layout | None = None

    def read(self) -> tuple[Shape, list[Cells]]:
        """Read all rows, if that has not been done.

        Raises:
            DecodeError: see ``read_rows``.
        """
        if self.shape is None or self.cells is None:
            likely = self.known.shape if self.known else None
            self.shape, self.cells = read_rows(self.raw, likely)
            self.length = len(self.cells)
        return self.shape, self.cells

    def follow(self, other: Snapshot) -> None:
        """Expect the columns of an earlier answer to the same query."""
        if self.query is other.query and self.part.annotation == other.part.annotation:
            self.known = self.known or other.known

    def adopt(self, other: Snapshot) -> None:
        """Take over what is known of a snapshot with the same text."""
        self.shape, self.cells, self.length = other.shape, other.cells, other.length
        self.flat = other.flat

    def open(self) -> tuple[Layout, list[Cells]]:
        """Read all rows, and tell what their columns hold."""
        shape, cells = self.read()
        return self.lay_out(shape), cells

    @cached_property
    def annotation(self) -> Mapping[str, Any]:
        """What the server says of the members, or nothing."""
        return _parsed(self.part.annotation)

    @cached_property
    def normalized(self) -> Mapping[str, Any]:
        """What the server made of the query, or nothing."""
        return _parsed(self.part.query)

    @cached_property
    def limit(self) -> int:
        """How many rows the answer may have."""
        if self.query is not None and self.query.limit is not None:
            return self.query.limit
        limit = self.normalized.get("limit", self.normalized.get("rowLimit"))
        return limit if isinstance(limit, int) else DEFAULT_LIMIT

    def most(self) -> int:
        """Tell how many rows there are at most, from the length of the text."""
        if self.length is not None:
            return self.length
        shape = self.shape or first_shape(self.raw)
        return len(self.raw) // (shape.shortest + 1 if shape else 3)

    def lay_out(self, shape: Shape) -> Layout:
        """Tell what columns hold, as the query declares them, else as annotated."""
        if self.known is None or self.known.shape is not shape:
            self.known, self.keys = self._new_layout(shape), None
        return self.known

    def _new_layout(self, shape: Shape) -> Layout:
        query = self.query
        kinds = {} if query is None else declared(query)
        if not kinds.keys() >= shape.attributes.keys():
            kinds = annotated(self.annotation) | kinds
        if query is None:
            # A query in Cube's JSON form may be in another zone than UTC.
            zone = self.normalized.get("timezone") or "UTC"
            measures = annotated_measures(self.annotation)
            return lay_out(shape, kinds, measures, str(zone))
        measures = [member.name for member in query.measures]
        return lay_out(shape, kinds, measures, query.timezone)


def _parsed(data: Any) -> dict[str, Any]:
    value = codec.loads(bytes(data) or b"null")
    return value if isinstance(value, dict) else {}


class Result(Sequence[Row]):
    """The answer to one query: a sequence of rows, and what is said about them.

    Rows are read when they are first needed, all of them at once; their values one by
    one, when they are asked for. Then a :class:`DecodeError` says what cannot be read.
    """

    __slots__ = ("__weakref__", "_snapshot")

    def __init__(self, part: ResultPart, query: Query | None = None) -> None:
        self._snapshot = Snapshot(part, query)

    @property
    def query(self) -> Query | None:
        """The query that this answers, where it is known."""
        return self._snapshot.query

    @property
    def raw(self) -> memoryview:
        """The rows as the server sent them: JSON in UTF-8, read-only."""
        return self._snapshot.raw

    @property
    def refreshed_at(self) -> datetime | None:
        """When the server computed the rows, aware, in UTC; ``None`` if it is silent.

        Raises:
            DecodeError: what the server says is no time.
        """
        said = self._snapshot.part.lastRefreshTime
        if said is None:
            return None
        try:
            return read_time(said, UTC)
        except ValueError as error:
            problem = f"lastRefreshTime {error}"
            raise DecodeError(problem, excerpt=codec.excerpt(said)) from error

    @property
    def total(self) -> int | None:
        """How many rows there are without limit and offset, if the query asks."""
        return self._snapshot.part.total

    @property
    def annotation(self) -> Mapping[str, Any]:
        """What the server says of the members: titles, types, formats; may be empty.

        Keys are ``measures``, ``dimensions``, ``segments`` and ``timeDimensions``.
        """
        return MappingProxyType(self._snapshot.annotation)

    @property
    def truncated(self) -> bool:
        """Whether there are as many rows as may be: more may be there, unseen.

        The limit is the query's, else the one that the server has put into its own
        copy of the query, else Cube's default of 10,000 rows. A limit of 0 asks for no
        rows, and hides none.
        """
        limit = self._snapshot.limit
        return 0 < limit <= self._snapshot.most() and limit <= len(self)

    def into(self, cls: type[T]) -> list[T]:
        """Give the rows as instances of your own attrs class or dataclass.

        A field takes the column whose member it is called after (``asset_amount`` is
        ``stacks_contract_events.asset_amount``; a time by day is ``tx_date`` or
        ``tx_date_day``), or whose full name it has, with underscores, or which its
        metadata names: ``{"column": member}``. Values are read as the field is
        annotated: ``Decimal``, ``int``, ``str``, ``bool``, ``datetime``, or what cattrs
        makes of one value, such as an enum; ``| None`` allows NULL. A field with a
        default may lack its column.

        Raises:
            InvalidArgument: a field fits no column or several, or is a ``float``.
            DecodeError: a value is not what its field is annotated with, is NULL, or
                the class itself refuses it.
        """
        return convert(*self._snapshot.open(), cls)

    def __len__(self) -> int:
        length = self._snapshot.length
        return len(self._snapshot.read()[1]) if length is None else length

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        layout, cells = self._snapshot.open()
        places = range(len(cells))[index]
        if isinstance(places, range):
            return tuple(Row(layout, cells[place], place) for place in places)
        return Row(layout, cells[places], places)

    def __iter__(self) -> Iterator[Row]:
        layout, cells = self._snapshot.open()
        return map(Row, repeat(layout), cells, count())

    def __repr__(self) -> str:
        length = self._snapshot.length
        rows = "rows not read yet" if length is None else f"{length} rows"
        return f"<Result: {rows}, refreshed at {self._snapshot.part.lastRefreshTime}>"


def snapshot_of(result: Result) -> Snapshot:
    """Give what is below the rows, for those who compare results."""
    return result._snapshot  # noqa: SLF001 - differences are found in text and cells
