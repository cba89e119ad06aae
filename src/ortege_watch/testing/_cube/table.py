"""Tables that a fake server answers from, and those that Ortege is known to have."""

from __future__ import annotations

import re
import threading
from collections import UserDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, Literal, TypeAlias, cast, overload

import attrs

from ortege_watch._checks import shown
from ortege_watch.errors import InvalidArgument
from ortege_watch.testing._cube import dates

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


# One object for all, because NaN equals itself in PostgreSQL: sets and dicts compare
# by identity first.
_NAN: Final = Decimal("NaN")


@attrs.frozen
class Aggregate:
    """How a measure is computed: a function, and the column that it runs over."""

    function: str
    column: str | None


class Table:
    """The rows of one cube of a fake server.

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
            generation require it in ungrouped queries.
        drill_members: for a measure, the members that its annotation lists.
        granularities: for a time dimension, the granularities that the cube defines, by
            name: ``{"interval": "1 year", "offset": "3 months"}``, as in Cube's models;
            the keys are ``interval``, ``title``, and ``offset`` or ``origin``.
        rows: the first rows, as for :meth:`insert`.

    Raises:
        InvalidArgument: a measure, a dimension, a granularity or a row is not valid.
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
        granularities: Mapping[str, Mapping[str, Mapping[str, str]]] | None = None,
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
                raise InvalidArgument(
                    f"type of dimension {dimension!r} must be one of "
                    f"{', '.join(_TYPES)}, got {kind!r}"
                )
            self._types[dimension] = kind
        self.granularities = {
            time: {
                name: self._granularity(time, name, each) for name, each in some.items()
            }
            for time, some in (granularities or {}).items()
        }
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []
        self._rows: list[dict[str, Cell]] = self._all_checked(rows)

    def __repr__(self) -> str:
        return f"<Table {self.name!r} with {len(self._rows)} rows>"

    def _granularity(
        self, time: str, name: str, keys: Mapping[str, str]
    ) -> dates.Granularity:
        if self.dimensions.get(time) != "time":
            raise InvalidArgument(
                f"granularities need a dimension of type time, got {time!r}"
            )
        if re.fullmatch(r"[_a-zA-Z]\w*", name, re.ASCII) is None or name in dates.UNITS:
            raise InvalidArgument(
                f"name of a granularity must be an identifier and none of "
                f"{', '.join(dates.UNITS)}, got {name!r}"
            )
        unknown = keys.keys() - {"interval", "offset", "origin", "title"}
        if unknown or "interval" not in keys:
            raise InvalidArgument(
                f"granularity {name!r} must have the key 'interval', and may have "
                f"'offset', 'origin' and 'title', got {', '.join(map(repr, keys))}"
            )
        return dates.Granularity(name=name, **keys)

    @property
    def rows(self) -> list[Row]:
        """The rows at this moment, in the order in which they were inserted."""
        # Rows are replaced, never changed in place: a shallow copy stays as it is.
        with self._lock:
            return list(self._rows)

    # Overloads, not a union: else checkers take a dict of mixed values for a
    # dict[str, object].
    @overload
    def insert(self, rows: Row) -> None: ...
    @overload
    def insert(self, rows: Iterable[Row]) -> None: ...
    def insert(self, rows: Row | Iterable[Row]) -> None:
        """Add one row or several.

        Missing columns are NULL. Numbers are int or Decimal; a Decimal keeps its digits
        (``Decimal("1000.500000")`` is sent as ``"1000.500000"``). Times are aware
        datetimes, or ISO strings, which are UTC unless they name a zone.

        Raises:
            InvalidArgument: a column is unknown, or a value has the wrong type. No row
                is added then.
        """
        several = [cast("Row", rows)] if isinstance(rows, Mapping) else rows
        checked = self._all_checked(several)
        with self._lock:
            self._rows.extend(checked)
        self._notify()

    def update(
        self,
        where: Mapping[str, Cell] | Callable[[Row], bool],
        changes: Row | Callable[[Row], Row],
    ) -> int:
        """Change the rows that match and return their number.

        Args:
            where: a condition on a row, or the values that its columns must have.
            changes: the new values, or a function from the row to them.

        Raises:
            InvalidArgument: a column is unknown, or a value has the wrong type.
        """
        matches = self._condition(where)
        count = 0
        with self._lock:
            rows = list(self._rows)
            for index, row in enumerate(rows):
                if matches(row):
                    new = changes(row) if callable(changes) else changes
                    rows[index] = self._checked({**row, **new})
                    count += 1
            self._rows = rows
        self._notify()
        return count

    def delete(self, where: Mapping[str, Cell] | Callable[[Row], bool]) -> int:
        """Remove the rows that match and return their number; see :meth:`update`."""
        matches = self._condition(where)
        with self._lock:
            before = len(self._rows)
            self._rows = [row for row in self._rows if not matches(row)]
            count = before - len(self._rows)
        self._notify()
        return count

    def replace(self, rows: Iterable[Row]) -> None:
        """Replace all rows."""
        checked = self._all_checked(rows)
        with self._lock:
            self._rows = checked
        self._notify()

    def _notify(self) -> None:
        # Without the lock: a listener takes the server's own lock.
        for listener in tuple(self._listeners):
            listener()

    def _all_checked(self, rows: Iterable[Row]) -> list[dict[str, Cell]]:
        if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
            raise InvalidArgument(
                f"rows of {self.name} must be a sequence of mappings, got {shown(rows)}"
            )
        return [self._checked(row) for row in rows]

    def _check_columns(self, row: Row) -> None:
        unknown = row.keys() - self._types.keys()
        if unknown:
            raise InvalidArgument(
                f"unknown column {min(unknown)!r} of {self.name}: "
                f"the columns are {', '.join(self._types)}"
            )

    def _condition(
        self, where: Mapping[str, Cell] | Callable[[Row], bool]
    ) -> Callable[[Row], bool]:
        if callable(where):
            return where
        wanted = dict(where)
        self._check_columns(wanted)
        return lambda row: all(row[column] == value for column, value in wanted.items())

    def _checked(self, row: Row) -> dict[str, Cell]:
        if not isinstance(row, Mapping):
            raise InvalidArgument(
                f"a row of {self.name} must be a mapping of its columns "
                f"{', '.join(self._types)}, got {shown(row)}"
            )
        self._check_columns(row)
        return {
            column: self._cell(column, kind, row.get(column))
            for column, kind in self._types.items()
        }

    def _cell(self, column: str, kind: str, value: Cell) -> Cell:
        if isinstance(value, Decimal) and value.is_nan() and kind in {"number", "any"}:
            return _NAN
        if value is None or kind == "any":
            return value
        path = f"{self.name}.{column}"
        if kind == "time" and isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                raise InvalidArgument(
                    f"{path} must be an ISO 8601 date or time, got {value!r}"
                ) from None
            value = value if value.tzinfo else value.replace(tzinfo=UTC)
        is_bool = isinstance(value, bool) and kind == "number"
        if is_bool or not isinstance(value, _TYPES[kind]):
            advice = "; use int or Decimal" if isinstance(value, float) else ""
            raise InvalidArgument(f"{path} must be a {kind}, got {value!r}{advice}")
        if isinstance(value, datetime):
            if value.tzinfo is None:
                raise InvalidArgument(f"{path} must have a time zone, got {value!r}")
            return value.astimezone(UTC)
        return value


def _aggregate(name: str, spec: str) -> Aggregate:
    match = _SPEC.match(spec)
    if match is None or match[1] not in _AGGREGATES:
        raise InvalidArgument(
            f"measure {name!r} must be one of {', '.join(_AGGREGATES)}, "
            f"or such as 'sum(column)', got {spec!r}"
        )
    function, column = match[1], match[2]
    if column is None and function != "count":
        column = name
    return Aggregate(function, column)


class UnknownTable(InvalidArgument, KeyError):
    """A name that no table has; a KeyError, too, so that ``get()`` works."""

    def __str__(self) -> str:  # that of KeyError quotes the message
        return str(self.args[0])


class Tables(UserDict[str, Table]):
    """The known tables and further ones, by name."""

    def __init__(self, tables: Iterable[Table]) -> None:
        self._listener: Callable[[], None] = lambda: None
        if not isinstance(tables, Iterable):
            raise InvalidArgument(f"tables must be Tables, got {shown(tables)}")
        super().__init__()
        for table in (*known_tables(), *tables):
            if not isinstance(table, Table):
                raise InvalidArgument(f"tables must be Tables, got {shown(table)}")
            self[table.name] = table

    def _changed(self) -> None:
        self._listener()

    def _forget(self, table: Table) -> None:
        table._listeners.remove(self._changed)  # noqa: SLF001 - same module

    def __missing__(self, name: object) -> Table:
        raise UnknownTable(
            f"unknown table {shown(name)}: the tables are {', '.join(self)}"
        )

    def __setitem__(self, name: str, table: Table) -> None:
        if not isinstance(table, Table):
            raise InvalidArgument(
                f"tables[{shown(name)}] must be a Table, got {shown(table)}"
            )
        if name != table.name:
            raise InvalidArgument(
                f"name must be the table's name {table.name!r}, got {name!r}"
            )
        if name in self:
            self._forget(self[name])
        table._listeners.append(self._changed)  # noqa: SLF001 - same module
        super().__setitem__(name, table)
        self._changed()

    def __delitem__(self, name: str) -> None:
        self._forget(self[name])  # raises an error that lists the names
        super().__delitem__(name)
        self._changed()

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self.data))  # other threads may change the tables


def on_change(tables: Tables, listener: Callable[[], None]) -> None:
    """Call a function after every change of a table, and of what tables there are."""
    tables._listener = listener  # noqa: SLF001 - same module


# Measures of the known tables that are not sums, and dimensions that are not strings.
_FUNCTIONS: Final = {"count": "count", "price": "max", "avg_price": "avg"}
_KINDS: Final[dict[str, DimensionType]] = {
    "tx_date": "time",
    "timedate": "time",
    "asset_price": "number",
    "decimals": "number",
}
_KNOWN: Final = {
    "stacks_contract_events": (
        "asset_amount",
        "contract_id function_name sender_address tx_date",
    ),
    "stacks_contract_calls": (
        "fee asset_amount",
        (
            "contract_id function_name event_type tx_date sender_address "
            "asset_event_type asset_id asset_recipient"
        ),
    ),
    "stacks_dapp_zest_positions": (
        "adjusted_amount",
        "sender_address asset_id tx_type asset_price",
    ),
    "stacks_dapp_zest_positions_net": (
        (
            "total_supply total_supply_usd total_borrow total_borrow_usd "
            "total_repaid total_repaid_usd"
        ),
        "lender_address asset_id",
    ),
    "stacks_oracle_prices": ("price", "token tx_date"),
    "stacks_tokens": ("", "name symbol decimals contract_id"),
    "prices": ("avg_price", "symbol timedate"),
}


def known_tables() -> list[Table]:
    """Return new tables without rows, with the cubes and members that Ortege has.

    The names are those in public use; types and aggregates are a guess that fits them.
    """
    return [
        Table(
            name,
            measures={each: _FUNCTIONS.get(each, "sum") for each in measures.split()},
            dimensions={
                each: _KINDS.get(each, "string") for each in dimensions.split()
            },
        )
        for name, (measures, dimensions) in _KNOWN.items()
    ]
