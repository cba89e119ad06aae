"""Rows as instances of the user's own attrs class or dataclass.

Rows are converted column by column. Where a value does not fit, they are converted
again one by one, so that the error names the row and the column.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from itertools import count, repeat
from typing import TYPE_CHECKING, Any, Final, TypeVar, Union, cast

import attrs
import msgspec

from ortege_watch import _json as codec
from ortege_watch._checks import shown
from ortege_watch.errors import DecodeError, InvalidArgument
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

T = TypeVar("T")

_UNTYPED: Final = frozenset({Any, object})

_READ_HERE: Final = _UNTYPED | {Decimal, int, str, bool, datetime}
"""Types of fields that are read as columns are; cattrs structures all others."""


@attrs.frozen
class _Source:
    """A field of the class, and the column that its values come from."""

    argument: str  # the field's name as an argument of the class
    type: Any  # the field's annotation, without | None
    nullable: bool
    column: str
    place: int  # of the column's values in the cells
    kind: Kind  # the type that the column is read as


def convert(
    layout: Layout, cells: Sequence[Cells], cls: type[T], index: int = 0
) -> list[T]:
    """Return each row as an instance of an attrs class or a dataclass.

    ``index`` is the number of the first row in error messages; -1 if it is not known.
    A class that does not fit the columns is an ``InvalidArgument``, a value that does
    not fit its field a ``DecodeError``.
    """
    if not _has_fields(cls):
        raise _unusable(cls)
    if not cells:
        return []
    sources, positional = _match(layout, cast("Any", cls))
    instances = _by_column(sources, layout, cells, cls, positional=positional)
    if instances is not None:
        return instances
    places = repeat(-1) if index < 0 else count(index)
    return [
        _by_row(sources, layout, row, cls, place)
        for row, place in zip(cells, places, strict=False)
    ]


def _by_column(
    sources: Sequence[_Source],
    layout: Layout,
    cells: Sequence[Cells],
    cls: type[T],
    *,
    positional: bool,
) -> list[T] | None:
    """Convert all rows; return ``None`` if that fails for any of them."""
    try:
        columns = [
            _read(source, layout.column(source.column, cells), layout)
            for source in sources
        ]
        if positional:
            instances = list(map(cls, *columns))
        else:
            names = [source.argument for source in sources]
            rows = zip(*columns, strict=True)
            instances = [cls(**dict(zip(names, row, strict=False))) for row in rows]
    except Exception:  # noqa: BLE001 - the class may raise anything
        return None
    # map() ends early if the class raises StopIteration.
    return instances if len(instances) == len(cells) else None


def _read(source: _Source, values: list[Any], layout: Layout) -> list[Any]:
    if source.type in _READ_HERE:
        return read_column(values, source.kind, layout.zone, nullable=source.nullable)
    return [_value(source, layout, value, -1) for value in values]


def _by_row(
    sources: Sequence[_Source], layout: Layout, cells: Cells, cls: type[T], index: int
) -> T:
    arguments = {
        source.argument: _value(source, layout, cells[source.place], index)
        for source in sources
    }
    try:
        return cls(**arguments)
    except Exception as error:
        problem = f"cannot create {cls.__name__} from {row_at(index)}: {codec.described(error)}"
        raise DecodeError(problem) from error


def _value(source: _Source, layout: Layout, value: Any, index: int) -> Any:
    if value is msgspec.UNSET:
        raise DecodeError(f"unknown column {shown(source.column)} in {row_at(index)}")
    if value is None:
        if source.nullable:
            return None
        reason = f"is NULL; annotate {source.argument} with `| None`"
        raise unreadable(source.column, None, index, reason)
    try:
        if source.type in _READ_HERE:
            return reader(source.kind, layout.zone)(value)
        return codec.structure(source.type, read_as_sent(value))
    except ValueError as error:
        raise unreadable(source.column, value, index, str(error)) from error
    except DecodeError as error:
        problem = error.problems[0].removesuffix(" @ $")
        reason = f"does not fit {source.argument} ({problem})"
        raise unreadable(source.column, value, index, reason) from error


@lru_cache(maxsize=256)
def _match(layout: Layout, cls: Any) -> tuple[tuple[_Source, ...], bool]:
    """Return the fields that have a column, and whether they can be positional."""
    list_fields: Any = attrs.fields if attrs.has(cls) else dataclasses.fields
    try:
        hints = typing.get_type_hints(cls)
    except NameError as error:
        problem = f"the annotations of {cls.__name__} cannot be resolved ({error})"
        raise InvalidArgument(problem) from error
    sources = [
        _source(field, hints.get(field.name, Any), layout, cls)
        for field in list_fields(cls)
        if field.init
    ]
    found = tuple(source for source in sources if source is not None)
    return found, _is_positional(cls, [source.argument for source in found])


def _is_positional(cls: Any, names: Sequence[str]) -> bool:
    """Return whether the names are the first arguments of a class, in this order."""
    try:
        parameters = inspect.signature(cls).parameters.values()
    except (TypeError, ValueError):  # such as a subclass of a class written in C
        return False
    first = [
        parameter.name
        for parameter in parameters
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    return first[: len(names)] == names


def _source(
    field: Any, annotation: Any, layout: Layout, cls: type[Any]
) -> _Source | None:
    """Find the column of a field; return ``None`` to leave the field to its default."""
    of_type, nullable = _without_none(annotation)
    where = f"{cls.__name__}.{field.name}"
    argument: str = getattr(field, "alias", field.name)
    named = field.metadata.get("column")
    columns = layout.kinds
    if named is not None:
        found = [name for name in columns if name == getattr(named, "name", named)]
    else:
        found = [name for name in columns if argument in _field_names(name)]
    advice = 'name one in the metadata of the field, {"column": ...}'
    if len(found) > 1:
        listed = codec.excerpt(", ".join(found))
        problem = f"{where} matches several columns: {listed}; {advice}"
        raise InvalidArgument(problem)
    if found:
        (column,) = found
        kind = columns[column] if of_type in _UNTYPED else of_type
        if of_type not in _READ_HERE:
            codec.check_type(of_type, where)
        return _Source(argument, of_type, nullable, column, layout.places[column], kind)
    # Only a field of a dataclass has a factory apart from its default.
    factory = getattr(field, "default_factory", dataclasses.MISSING)
    default = field.default
    if default is attrs.NOTHING or default is factory is dataclasses.MISSING:
        listed = codec.excerpt(", ".join(columns))
        problem = f"{where} matches none of the columns {listed}; {advice}"
        if named is not None:
            asked = shown(getattr(named, "name", named))
            problem = (
                f"the metadata of {where} names the column {asked}, but the columns are"
                f" {listed}; correct the name"
            )
        problem += ", or add a default"
        raise InvalidArgument(problem)
    return None


def _field_names(column: str) -> set[str]:
    """Return the names of fields that a column fits: ``e.day.month``, ``day_month``."""
    member = column.partition(".")[2] or column
    return {column, column.replace(".", "_"), member.replace(".", "_")}


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """Return an annotation without ``| None``, and whether that was part of it."""
    if annotation in _UNTYPED:
        return annotation, True
    if typing.get_origin(annotation) not in {Union, types.UnionType}:
        return annotation, False
    choices = typing.get_args(annotation)
    rest = [choice for choice in choices if choice is not types.NoneType]
    nullable = len(rest) < len(choices)
    return (rest[0] if len(rest) == 1 else annotation), nullable


def _has_fields(cls: object) -> bool:
    return isinstance(cls, type) and (attrs.has(cls) or dataclasses.is_dataclass(cls))


def _unusable(cls: object) -> InvalidArgument:
    kind, advice = typing.get_origin(cls) or cls, ""
    if not isinstance(kind, type):
        advice = "; pass the class, not an instance" * _has_fields(type(cls))
    elif issubclass(kind, Mapping):
        advice = "; use dict(row)"
    problem = f"cls must be an attrs class or a dataclass, got {shown(cls)}{advice}"
    return InvalidArgument(problem)
