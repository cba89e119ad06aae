"""What a result is made of, below its rows: text, then columns, then cells."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import attrs

from ortege_watch import codec
from ortege_watch.results.layout import (
    Layout,
    annotated,
    annotated_measures,
    declared,
    lay_out,
)
from ortege_watch.results.shapes import Cells, Shape, first_shape, read_rows

if TYPE_CHECKING:
    from ortege_watch.codec import ResultPart
    from ortege_watch.query import Query

__all__ = ["DEFAULT_LIMIT", "Keys", "Snapshot"]

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
        return _entries(self.part.annotation)

    @cached_property
    def normalized(self) -> Mapping[str, Any]:
        """What the server made of the query, or nothing."""
        return _entries(self.part.query)

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


def _entries(data: Any) -> dict[str, Any]:
    value = codec.loads(bytes(data) or b"null")
    return value if isinstance(value, dict) else {}
