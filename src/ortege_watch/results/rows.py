"""One row of a result: cells as they were sent, read as their columns are declared."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec

from ortege_watch.errors import DecodeError
from ortege_watch.results.into import convert
from ortege_watch.results.layout import Layout
from ortege_watch.results.shapes import Cells
from ortege_watch.results.values import Reader, canonical, unreadable

if TYPE_CHECKING:
    from ortege_watch.query import Member, TimeSelection

__all__ = ["ChangedRow", "Row", "rows_into"]

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
