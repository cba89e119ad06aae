"""Tables that a fake server answers from."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, Literal, TypeAlias, cast, overload

import attrs

__all__ = ["Aggregate", "Cell", "DimensionType", "Row", "Table"]

Cell: TypeAlias = str | int | bool | Decimal | datetime | None
Row: TypeAlias = Mapping[str, Cell]
DimensionType: TypeAlias = Literal["string", "number", "boolean", "time"]

_AGGREGATES: Final = ("count_distinct", "count", "sum", "avg", "min", "max")
_SPEC: Final = re.compile(r"(\w+)(?:\((\w+)\))?\Z")
_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "number": (int, Decimal),
    "boolean": (bool,),
    "time": (datetime,),
}


@attrs.frozen
class Aggregate:
    """Say how a measure is computed: its function and the column it runs over."""

    function: str
    column: str | None


class Table:
    """Hold the rows that one cube of a fake server answers from.

    Every method may be called from any thread; a server that serves the table sees the
    change at once::

        events = Table(
            "stacks_contract_events",
            measures={"asset_amount": "sum", "count": "count"},
            dimensions={"contract_id": "string", "tx_date": "time"},
        )
        events.insert({"contract_id": "SP1.pool", "asset_amount": Decimal("1.50"),
                       "tx_date": datetime.now(UTC)})

    Args:
        name: the cube's name; members are called ``name.member``.
        measures: how each measure is computed: ``"sum"``, ``"avg"``, ``"min"``,
            ``"max"``, ``"count_distinct"`` over the column of the measure's own name, or
            over another one as in ``"sum(amount)"``; ``"count"`` counts rows.
        dimensions: the type of each dimension: ``"string"``, ``"number"``,
            ``"boolean"`` or ``"time"``; its column has the same name.
        segments: named conditions on a row.
        primary_key: the dimension that identifies a row; servers of the classic
            generation ask for it in ungrouped queries.
        drill_members: for a measure, the members that its annotation lists.
        rows: the first rows, as for :meth:`insert`.

    Raises:
        ValueError: a measure or dimension is declared in a way that is not known.
    """

    def __init__(
        self,
        name: str,
        *,
        measures: Mapping[str, str] | None = None,
        dimensions: Mapping[str, DimensionType] | None = None,
        segments: Mapping[str, Callable[[Row], bool]] | None = None,
        primary_key: str | None = None,
        drill_members: Mapping[str, Sequence[str]] | None = None,
        rows: Iterable[Row] = (),
    ) -> None:
        self.name = name
        self.measures = {n: _aggregate(n, spec) for n, spec in (measures or {}).items()}
        self.dimensions: dict[str, DimensionType] = dict(dimensions or {})
        self.segments = dict(segments or {})
        self.primary_key = primary_key
        self.drill_members = {n: tuple(m) for n, m in (drill_members or {}).items()}
        self._types: dict[str, str] = {
            measure.column: "any" if measure.function == "count_distinct" else "number"
            for measure in self.measures.values()
            if measure.column is not None
        }
        for dimension, kind in self.dimensions.items():
            if kind not in _TYPES:
                raise ValueError(
                    f"dimension {dimension!r} has type {kind!r}; it must be one of "
                    f"{', '.join(_TYPES)}"
                )
            self._types[dimension] = kind
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []
        self._rows: list[dict[str, Cell]] = [self._checked(row) for row in rows]

    def __repr__(self) -> str:
        """Show the name and how many rows there are."""
        return f"<Table {self.name!r} with {len(self._rows)} rows>"

    @property
    def rows(self) -> list[Row]:
        """The rows at this moment, in the order in which they were inserted."""
        # Rows are replaced, never changed in place: a shallow copy stays as it is.
        with self._lock:
            return list(self._rows)

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call a function after every change; returns a function that ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # Overloads, not a union: else checkers take a dict of mixed values for a
    # dict[str, object].
    @overload
    def insert(self, rows: Row) -> None: ...
    @overload
    def insert(self, rows: Iterable[Row]) -> None: ...
    def insert(self, rows: Row | Iterable[Row]) -> None:
        """Add one row or several.

        Columns that a row leaves out are NULL. Numbers are int or Decimal; a Decimal
        keeps its digits (``Decimal("1000.500000")`` is answered as
        ``"1000.500000"``). Times are aware datetimes, or ISO text, which is read as
        UTC where it names no zone.

        Raises:
            ValueError: a column is unknown, or a value has the wrong type. No row is
                added then.
        """
        several = [cast("Row", rows)] if isinstance(rows, Mapping) else rows
        checked = [self._checked(row) for row in several]
        with self._lock:
            self._rows.extend(checked)
        self._tell()

    def update(
        self,
        where: Mapping[str, Cell] | Callable[[Row], bool],
        changes: Row | Callable[[Row], Row],
    ) -> int:
        """Change the rows that match and return how many did.

        Args:
            where: a condition on a row, or the values that its columns must have.
            changes: the new values, or a function from the row to them.
        """
        matches = _condition(where)
        count = 0
        with self._lock:
            rows = list(self._rows)
            for index, row in enumerate(rows):
                if matches(row):
                    new = changes(row) if callable(changes) else changes
                    rows[index] = self._checked({**row, **new})
                    count += 1
            self._rows = rows
        self._tell()
        return count

    def delete(self, where: Mapping[str, Cell] | Callable[[Row], bool]) -> int:
        """Remove the rows that match and return how many did; see :meth:`update`."""
        matches = _condition(where)
        with self._lock:
            before = len(self._rows)
            self._rows = [row for row in self._rows if not matches(row)]
            count = before - len(self._rows)
        self._tell()
        return count

    def replace(self, rows: Iterable[Row]) -> None:
        """Put these rows in the place of all the present ones."""
        checked = [self._checked(row) for row in rows]
        with self._lock:
            self._rows = checked
        self._tell()

    def _tell(self) -> None:
        # Outside the lock: a listener takes the server's own lock.
        for listener in tuple(self._listeners):
            listener()

    def _checked(self, row: Row) -> dict[str, Cell]:
        unknown = row.keys() - self._types.keys()
        if unknown:
            raise ValueError(
                f"{self.name} has no column {min(unknown)!r}; it has "
                f"{', '.join(self._types)}"
            )
        return {
            column: self._cell(column, kind, row.get(column))
            for column, kind in self._types.items()
        }

    def _cell(self, column: str, kind: str, value: Cell) -> Cell:
        if value is None or kind == "any":
            return value
        if kind == "time" and isinstance(value, str):
            value = datetime.fromisoformat(value)
            value = value if value.tzinfo else value.replace(tzinfo=UTC)
        wrong = not isinstance(value, _TYPES[kind]) or (
            kind == "number" and isinstance(value, bool)
        )
        if wrong:
            advice = "; give an int or a Decimal" if isinstance(value, float) else ""
            raise ValueError(
                f"{self.name}.{column} holds values of type {kind}, not {value!r}"
                f"{advice}"
            )
        if isinstance(value, datetime):
            if value.tzinfo is None:
                raise ValueError(
                    f"{self.name}.{column} needs a datetime with a time zone, "
                    f"not {value!r}"
                )
            return value.astimezone(UTC)
        return value


def _aggregate(name: str, spec: str) -> Aggregate:
    match = _SPEC.match(spec)
    if match is None or match[1] not in _AGGREGATES:
        raise ValueError(
            f"measure {name!r} is declared as {spec!r}; it must be one of "
            f"{', '.join(_AGGREGATES)}, or such as 'sum(column)'"
        )
    function, column = match[1], match[2]
    if column is None and function != "count":
        column = name
    return Aggregate(function, column)


def _condition(
    where: Mapping[str, Cell] | Callable[[Row], bool],
) -> Callable[[Row], bool]:
    if callable(where):
        return where
    wanted = dict(where)
    return lambda row: all(row.get(column) == value for column, value in wanted.items())
