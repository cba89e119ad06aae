"""Rows into a class of the user's own: attrs, frozen or not, or a plain dataclass.

Rows are read column by column, and the instances are made by msgspec where it can do
that exactly as the class itself would: that is several times as fast as calling it.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from itertools import count, repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeVar, Union, cast

import attrs
import msgspec

from ortege_watch import _json as codec
from ortege_watch.errors import DecodeError, QueryError
from ortege_watch.results.decode import (
    Kind,
    read_as_sent,
    read_column,
    reader,
    row_at,
    unreadable,
)

if TYPE_CHECKING:
    from ortege_watch.results.decode import Cells, Layout

__all__ = ["convert"]

T = TypeVar("T")

_WORTH_IT: Final = 4
"""Rows; fewer are read one by one."""

_READ_BY_US: Final = frozenset({Decimal, int, str, bool, datetime})

_UNTYPED: Final = frozenset({Any, object})


@attrs.frozen
class _Field:
    """One field of the class.

    Attributes:
        argument: what ``__init__`` calls it.
        type: what it is annotated with, without ``| None``.
        nullable: whether ``None`` is allowed.
        required: whether there is no default.
        column: the column that its metadata names, if it does.
    """

    argument: str
    type: Any
    nullable: bool
    required: bool
    column: str | None


@attrs.frozen
class _Target:
    """A class, and how its instances are made.

    Attributes:
        fields: what ``__init__`` takes.
        direct: whether msgspec makes the same instances as ``__init__``.
    """

    fields: tuple[_Field, ...]
    direct: bool


@attrs.frozen
class _Source:
    """Where the values of one field come from, and what they are read as."""

    field: _Field
    column: str
    attribute: str
    kind: Kind


@attrs.frozen
class _Plan:
    """A class, matched with a layout.

    Attributes:
        record: a structure with the fields of the class, from which msgspec makes
            instances; ``None`` if the class must be called.
    """

    sources: tuple[_Source, ...]
    record: Callable[..., Any] | None


def convert(
    layout: Layout, cells: Sequence[Cells], cls: type[T], index: int = 0
) -> list[T]:
    """Make an instance of ``cls`` out of each row.

    Args:
        layout: what the columns hold.
        cells: the rows.
        cls: the class.
        index: the number of the first row, for error messages; -1 if they have none.

    Raises:
        QueryError: the class cannot take such rows, whatever their values are.
        DecodeError: a value does not fit its field.
    """
    if not isinstance(cls, type):
        raise _no_class(cls)
    if not cells:
        return []
    plan = _plan(layout, cast("Any", cls))
    if len(cells) >= _WORTH_IT:
        made = _at_once(plan, layout, cells, cls)
        if made is not None:
            return made
    places = repeat(-1) if index < 0 else count(index)
    return [
        _one(plan, layout, row, cls, place)
        for row, place in zip(cells, places, strict=False)
    ]


def _at_once(
    plan: _Plan, layout: Layout, cells: Sequence[Cells], cls: type[T]
) -> list[T] | None:
    """Make all instances; ``None`` if there is a value that must be looked at."""
    if plan.record is None:
        return None
    columns: list[list[Any]] = []
    for source in plan.sources:
        values = list(map(attrgetter(source.attribute), cells))
        try:
            columns.append(read_column(values, source.kind, layout.zone))
        except ValueError:
            return None
    records = list(map(plan.record, *columns))
    of_cls: Any = list[cls]  # type: ignore[valid-type]
    try:
        return cast("list[T]", msgspec.convert(records, of_cls, from_attributes=True))
    except Exception:  # noqa: BLE001 - the class's own validators run in there
        return None


def _one(plan: _Plan, layout: Layout, cells: Cells, cls: type[T], index: int) -> T:
    arguments = {
        source.field.argument: _value(source, layout, cells, index)
        for source in plan.sources
    }
    try:
        return cls(**arguments)
    except Exception as error:
        problem = f"{cls.__name__} refuses {row_at(index)}: {error}"
        raise DecodeError(problem) from error


def _value(source: _Source, layout: Layout, cells: Cells, index: int) -> Any:
    value = getattr(cells, source.attribute)
    field = source.field
    if value is msgspec.UNSET:
        problem = f"unknown column {source.column!r} in {row_at(index)}"
        raise DecodeError(problem)
    if value is None:
        if field.nullable:
            return None
        reason = f"is NULL; annotate {field.argument} with `| None`"
        raise unreadable(source.column, None, index, reason)
    try:
        if field.type in _READ_BY_US or field.type in _UNTYPED:
            return reader(source.kind, layout.zone)(value)
        return codec.structure(field.type, read_as_sent(value))
    except ValueError as error:
        raise unreadable(source.column, value, index, str(error)) from error
    except DecodeError as error:
        problem = error.problems[0].removesuffix(" @ $")
        reason = f"does not fit {field.argument} ({problem})"
        raise unreadable(source.column, value, index, reason) from error


@lru_cache(maxsize=256)
def _plan(layout: Layout, cls: Any) -> _Plan:
    target = _target(cls)
    sources = tuple(
        source
        for field in target.fields
        if (source := _source(field, layout, cls)) is not None
    )
    types = {source.field.type for source in sources}
    if not target.direct or not types <= _READ_BY_US:
        return _Plan(sources, None)
    fields: Any = [(source.field.argument, Any) for source in sources]
    return _Plan(sources, msgspec.defstruct("Record", fields, gc=False))


def _source(field: _Field, layout: Layout, cls: type[Any]) -> _Source | None:
    """Find the column of a field; ``None`` to leave the field to its default."""
    columns = layout.kinds
    if field.column is not None:
        found = [field.column] if field.column in columns else []
    else:
        found = [name for name in columns if field.argument in _names(name)]
    where = f"{cls.__name__}.{field.argument}"
    if len(found) > 1:
        problem = (
            f"{where} may be {' or '.join(found)}; name the column in the field's "
            'metadata, {"column": ...}'
        )
        raise QueryError(problem)
    if not found:
        if not field.required:
            return None
        problem = (
            f"{where} has no column: the columns are {', '.join(columns)}. Name one in the "
            'field\'s metadata, {"column": ...}, or give the field a default'
        )
        raise QueryError(problem)
    (column,) = found
    kind = columns[column] if field.type in _UNTYPED else field.type
    return _Source(field, column, layout.shape.attributes[column], kind)


def _names(column: str) -> set[str]:
    """List the fields that a column fits: ``cube.day.month`` fits ``day_month``."""
    member = column.partition(".")[2] or column
    return {column, column.replace(".", "_"), member.replace(".", "_")}


@lru_cache(maxsize=256)
def _target(cls: Any) -> _Target:
    of_attrs: bool = attrs.has(cls)
    if not of_attrs and not hasattr(cls, "__dataclass_fields__"):
        raise _no_class(cls)
    try:
        hints = typing.get_type_hints(cls)
    except NameError as error:
        problem = f"the annotations of {cls.__name__} cannot be resolved ({error})"
        raise QueryError(problem) from error
    list_fields: Any = attrs.fields if of_attrs else dataclasses.fields
    fields = tuple(
        _field(attribute, hints.get(attribute.name, Any), cls)
        for attribute in list_fields(cls)
        if attribute.init
    )
    return _Target(fields, of_attrs and _is_plain(cls))


def _no_class(cls: object) -> QueryError:
    problem = f"rows go into an attrs class or a dataclass; {cls!r} is neither"
    return QueryError(problem)


def _field(attribute: Any, annotation: Any, cls: type[Any]) -> _Field:
    of_type, nullable = _without_none(annotation)
    if of_type is float:
        problem = f"{cls.__name__}.{attribute.name}: float is not exact; use Decimal"
        raise QueryError(problem)
    # A field of attrs has no factory apart from its default.
    factory = getattr(attribute, "default_factory", dataclasses.MISSING)
    default = attribute.default
    required = default is attrs.NOTHING or default is factory is dataclasses.MISSING
    column = attribute.metadata.get("column")
    return _Field(
        argument=getattr(attribute, "alias", attribute.name),
        type=of_type,
        nullable=nullable,
        required=required,
        column=getattr(column, "name", column),
    )


def _without_none(annotation: Any) -> tuple[Any, bool]:
    if annotation in _UNTYPED:
        return annotation, True
    if typing.get_origin(annotation) not in {Union, types.UnionType}:
        return annotation, False
    choices = typing.get_args(annotation)
    rest = [choice for choice in choices if choice is not types.NoneType]
    nullable = len(rest) < len(choices)
    return (rest[0] if len(rest) == 1 else annotation), nullable


def _is_plain(cls: type[Any]) -> bool:
    """Tell whether ``__init__`` does nothing that msgspec would leave out."""
    init = vars(cls).get("__init__")
    code = getattr(init, "__code__", None)
    if code is None or not code.co_filename.startswith("<attrs generated"):
        return False
    new: Any = cls.__new__
    return (
        "_attrs_cached_hash" not in {*code.co_names, *code.co_consts}
        and not hasattr(cls, "__attrs_pre_init__")
        and new is object.__new__
        and all(map(_is_plain_attribute, attrs.fields(cls)))
    )


def _is_plain_attribute(attribute: attrs.Attribute[Any]) -> bool:
    default: Any = attribute.default
    return (
        attribute.init
        and attribute.converter is None
        and attribute.alias == attribute.name
        and not getattr(default, "takes_self", False)
    )
