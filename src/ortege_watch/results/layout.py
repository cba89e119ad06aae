"""What the columns of a result hold: types, zone, and which columns are keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, tzinfo
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ortege_watch.errors import DecodeError, QueryError
from ortege_watch.results.values import Kind, Reader, reader, zone_of

if TYPE_CHECKING:
    from ortege_watch.query import Member, Query, TimeSelection
    from ortege_watch.results.shapes import Shape

__all__ = ["Layout", "annotated", "annotated_measures", "declared", "lay_out"]

# A "string" of an annotation may be a number or even an object through some drivers.
_ANNOTATED: Final[dict[Any, Kind]] = {
    "number": Decimal,
    "time": datetime,
    "boolean": bool,
}

Place: TypeAlias = tuple[str, str, Reader]
"""A column's name, its attribute in the cells, and what reads its values."""

_MOST_PLACES: Final = 256


class Layout:
    """Know how the columns of a shape are read; rows of many results share it.

    Attributes:
        shape: the columns themselves.
        kinds: what each column is declared as, in the order in which rows show them.
        keys: the columns that are no measures, sorted; together they identify a row.
        zone: what times without a zone are meant in.
    """

    __slots__ = ("_places", "keys", "kinds", "shape", "zone")

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
        self.zone = zone
        self._places: dict[int, tuple[object, Place]] = {}

    def find(self, column: str | Member[Any] | TimeSelection) -> Place:
        """Give a column's name, its attribute in the cells, and what reads its values.

        A loop over rows asks for the same few objects again and again: they are known
        by identity, and kept, so that no other object takes their place.

        Raises:
            QueryError: this is neither a name nor anything that has a column.
            DecodeError: there is no such column; the message lists those there are.
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
        """Give a column's name, its attribute in the cells, and what reads its values.

        A member is read as it is declared itself, a name as the query declares it.
        """
        if isinstance(column, str):
            name: str = column
            kind: Kind = self.kinds.get(column)
        else:
            try:
                name, kind = column.name, column.type
            except AttributeError:
                problem = (
                    f"a row takes a member or the name of a column, not {column!r}"
                )
                raise QueryError(problem) from None
            if kind is object:  # undeclared: out of Query.from_wire
                kind = self.kinds.get(name)
        if name not in self.kinds:
            raise self.missing(name, self.kinds)
        return name, self.shape.attributes[name], reader(kind, self.zone)

    def missing(self, name: str, columns: Iterable[str]) -> DecodeError:
        """Say that a row has no such column, and which ones it has."""
        there = ", ".join(columns) or "none"
        return DecodeError(f"there is no column {name!r}; there are: {there}")


_layout = lru_cache(maxsize=256)(Layout)


def lay_out(
    shape: Shape, kinds: Mapping[str, Kind], measures: Iterable[str], timezone: str
) -> Layout:
    """Give the layout of a shape, the same one for the same arguments.

    Args:
        shape: the columns that are there.
        kinds: what columns are declared as, in the order in which rows show them;
            may name more columns, and fewer: those come last.
        measures: the columns that are no part of a row's key.
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
    """Tell the type of a column that nobody declares: blended rows have their time."""
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
