"""A result: a sequence of rows that stay JSON text until somebody looks at them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import count, repeat
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ortege_watch import codec
from ortege_watch.errors import DecodeError
from ortege_watch.results.into import convert
from ortege_watch.results.rows import Row
from ortege_watch.results.snapshot import Snapshot
from ortege_watch.results.values import read_time

if TYPE_CHECKING:
    from ortege_watch.codec import ResultPart
    from ortege_watch.query import Query

__all__ = ["Result", "snapshot_of"]

T = TypeVar("T")


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
            QueryError: a field fits no column or several, or is a ``float``.
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
