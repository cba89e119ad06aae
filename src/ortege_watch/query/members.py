"""Members of cubes: measures, dimensions, time dimensions, segments.

Members are values: frozen, hashable, equal when name and type are. Their methods make
filters, orders and time selections; ``==`` never does.
"""

from __future__ import annotations

import builtins
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, TypeVar, overload

import attrs

from ortege_watch.errors import QueryError
from ortege_watch.query.base import Member
from ortege_watch.query.filters import Condition
from ortege_watch.query.values import shown

__all__ = [
    "Column",
    "Dimension",
    "Measure",
    "Order",
    "Orderable",
    "Segment",
]

T = TypeVar("T")


class Orderable(ABC):
    """Be something that rows may be ordered by."""

    __slots__ = ()

    @property
    @abstractmethod
    def order_name(self) -> str:
        """Name what Cube is told to order by."""

    def asc(self) -> Order:
        """Order rows by this, smallest or earliest first."""
        return Order(self)

    def desc(self) -> Order:
        """Order rows by this, largest or latest first."""
        return Order(self, "desc")


@attrs.frozen(repr=False)
class Order:
    """Order rows by a member of the query; ``.asc()`` and ``.desc()`` make these.

    Raises:
        QueryError: something that has no column, a direction that is neither.
    """

    member: Orderable
    direction: Literal["asc", "desc"] = "asc"

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.member, Orderable):
            raise QueryError(f"{shown(self.member)} has no column to order by")
        if self.direction not in ("asc", "desc"):
            raise QueryError(
                f'the direction is "asc" or "desc", not {shown(self.direction)}'
            )

    @property
    def name(self) -> str:
        """Name what Cube orders by: the dimension, also for a time selection."""
        return self.member.order_name

    def __repr__(self) -> str:
        return f"{self.member!r}.{self.direction}()"


class Column(Member[T], Orderable):
    """Be a member that has a column: it may be NULL, and rows may be ordered by it."""

    __slots__ = ()

    @property
    def order_name(self) -> str:
        """Name the member."""
        return self.name

    def is_set(self) -> Condition:
        """Keep rows where the member is not NULL."""
        return Condition(self, "set")

    def is_not_set(self) -> Condition:
        """Keep rows where the member is NULL."""
        return Condition(self, "notSet")


class _Compared(Column[T]):
    """Be a measure or a dimension that is compared with values of its type.

    Members declared ``Decimal`` take ``int`` as well. No ``float`` is taken anywhere.
    """

    __slots__ = ()

    @overload
    def eq(self: _Compared[Decimal], value: Decimal | int) -> Condition: ...
    @overload
    def eq(self, value: T) -> Condition: ...
    def eq(self, value: Any) -> Condition:
        """Keep rows where the member equals ``value``; for NULL use ``is_not_set``."""
        return Condition(self, "equals", (_present(self, "eq", value),))

    @overload
    def ne(self: _Compared[Decimal], value: Decimal | int) -> Condition: ...
    @overload
    def ne(self, value: T) -> Condition: ...
    def ne(self, value: Any) -> Condition:
        """Keep rows where the member differs from ``value``, NULL among them."""
        return Condition(self, "notEquals", (_present(self, "ne", value),))

    @overload
    def in_(
        self: _Compared[Decimal], values: Iterable[Decimal | int | None]
    ) -> Condition: ...
    @overload
    def in_(self, values: Iterable[T | None]) -> Condition: ...
    def in_(self, values: Iterable[Any]) -> Condition:
        """Keep rows where the member is one of ``values``; ``None`` means NULL."""
        return Condition(self, "equals", _several(self, "in_", values))

    @overload
    def not_in(
        self: _Compared[Decimal], values: Iterable[Decimal | int | None]
    ) -> Condition: ...
    @overload
    def not_in(self, values: Iterable[T | None]) -> Condition: ...
    def not_in(self, values: Iterable[Any]) -> Condition:
        """Keep rows where the member is none of ``values``.

        NULL is kept unless ``None`` is among the values (source: Cube's schema
        compiler adds ``OR ... IS NULL``).
        """
        return Condition(self, "notEquals", _several(self, "not_in", values))

    @overload
    def gt(self: _Compared[Decimal], value: Decimal | int) -> Condition: ...
    @overload
    def gt(self, value: T) -> Condition: ...
    def gt(self, value: Any) -> Condition:
        """Keep rows where the member is greater than ``value``."""
        return Condition(self, "gt", (value,))

    @overload
    def gte(self: _Compared[Decimal], value: Decimal | int) -> Condition: ...
    @overload
    def gte(self, value: T) -> Condition: ...
    def gte(self, value: Any) -> Condition:
        """Keep rows where the member is ``value`` or greater."""
        return Condition(self, "gte", (value,))

    @overload
    def lt(self: _Compared[Decimal], value: Decimal | int) -> Condition: ...
    @overload
    def lt(self, value: T) -> Condition: ...
    def lt(self, value: Any) -> Condition:
        """Keep rows where the member is less than ``value``."""
        return Condition(self, "lt", (value,))

    @overload
    def lte(self: _Compared[Decimal], value: Decimal | int) -> Condition: ...
    @overload
    def lte(self, value: T) -> Condition: ...
    def lte(self, value: Any) -> Condition:
        """Keep rows where the member is ``value`` or less."""
        return Condition(self, "lte", (value,))


class Measure(_Compared[T]):
    """Name a measure, ``Decimal`` unless another type is given.

    ``Measure("cube.total")`` is a ``Measure[Decimal]``.
    """

    __slots__ = ()
    kind = "measure"

    @overload
    def __init__(self: Measure[Decimal], name: str) -> None: ...
    @overload
    def __init__(self, name: str, type: builtins.type[T]) -> None: ...
    def __init__(self, name: str, type: builtins.type[Any] = Decimal) -> None:
        self._set(name, type)

    def __repr__(self) -> str:
        return _repr(self, Decimal)


class Dimension(_Compared[T]):
    """Name a dimension, ``str`` unless another type is given.

    ``Dimension("cube.sender")`` is a ``Dimension[str]``. Text is searched without
    regard to case; of several texts any may match. A dimension of time that is to be
    filtered or grouped by time is a ``TimeDimension``.
    """

    __slots__ = ()
    kind = "dimension"

    @overload
    def __init__(self: Dimension[str], name: str) -> None: ...
    @overload
    def __init__(self, name: str, type: builtins.type[T]) -> None: ...
    def __init__(self, name: str, type: builtins.type[Any] = str) -> None:
        self._set(name, type)

    def contains(self: Dimension[str], *texts: str | None) -> Condition:
        """Keep rows whose text contains any of ``texts``; ``None`` adds NULL."""
        return Condition(self, "contains", texts)

    def not_contains(self: Dimension[str], *texts: str | None) -> Condition:
        """Keep rows whose text contains none of ``texts``; ``None`` drops NULL."""
        return Condition(self, "notContains", texts)

    def starts_with(self: Dimension[str], *texts: str | None) -> Condition:
        """Keep rows whose text starts with any of ``texts``; ``None`` adds NULL."""
        return Condition(self, "startsWith", texts)

    def not_starts_with(self: Dimension[str], *texts: str | None) -> Condition:
        """Keep rows whose text starts with none of ``texts``; ``None`` drops NULL."""
        return Condition(self, "notStartsWith", texts)

    def ends_with(self: Dimension[str], *texts: str | None) -> Condition:
        """Keep rows whose text ends with any of ``texts``; ``None`` adds NULL."""
        return Condition(self, "endsWith", texts)

    def not_ends_with(self: Dimension[str], *texts: str | None) -> Condition:
        """Keep rows whose text ends with none of ``texts``; ``None`` drops NULL."""
        return Condition(self, "notEndsWith", texts)

    def __repr__(self) -> str:
        return _repr(self, str)


class Segment(Member[bool]):
    """Name a segment: a filter that the cube defines. It has no column."""

    __slots__ = ()
    kind = "segment"

    def __init__(self, name: str) -> None:
        self._set(name, bool)

    def __repr__(self) -> str:
        return f"Segment({self.name!r})"


def _present(member: Member[Any], method: str, value: Any) -> Any:
    if value is None:
        advice = "is_not_set" if method == "eq" else "is_set"
        raise QueryError(f"{member.name}.{method}: for NULL use .{advice}()")
    return value


def _several(member: Member[Any], method: str, values: Any) -> tuple[Any, ...]:
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise QueryError(
            f"{member.name}.{method}: give a list of values, not {shown(values)}"
        )
    # The order of a set of strings changes between runs; the wire form must not.
    return tuple(
        sorted(values, key=repr) if isinstance(values, AbstractSet) else values
    )


def _repr(member: Member[Any], default: builtins.type) -> str:
    kind = type(member).__name__
    if member.type is default:
        return f"{kind}({member.name!r})"
    of = "datetime.datetime" if member.type is datetime else member.type.__name__
    return f"{kind}({member.name!r}, {of})"
