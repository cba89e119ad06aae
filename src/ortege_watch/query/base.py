"""What all members of cubes have: a checked name, and the Python type of values."""

from __future__ import annotations

import builtins
import re
from datetime import date
from typing import Any, ClassVar, Generic, TypeVar

import attrs

from ortege_watch.errors import QueryError
from ortege_watch.query.values import TYPES, check_text, shown

__all__ = ["Member"]

T = TypeVar("T")

_NAME = re.compile(r"[a-zA-Z0-9_]+\.[a-zA-Z0-9_]+")


@attrs.frozen(init=False, repr=False)
class Member(Generic[T]):
    """Name a member of a cube and the Python type of its values.

    Attributes:
        name: ``cube.member``, of ASCII letters, digits and underscores.
        type: ``Decimal``, ``int``, ``str``, ``bool`` or ``datetime``; ``object`` where
            it is not known: values are then read as the server's annotation says.

    Raises:
        QueryError: a malformed name, a type that cannot be read exactly.
    """

    # "dimension", "measure" or "segment"
    kind: ClassVar[str]

    name: str
    type: builtins.type[T]

    def _set(self, name: str, type: builtins.type[Any]) -> None:
        _check_name(name, self.__class__.__name__)
        if type not in TYPES:
            raise QueryError(f"{name}: {_type_advice(type)}")
        # Plain str: a subclass would not be equal in JSON.
        object.__setattr__(self, "name", str.__str__(name))
        object.__setattr__(self, "type", type)


def _check_name(name: Any, kind: str) -> None:
    if not isinstance(name, str):
        raise QueryError(
            f'a {kind} is named by a string "cube.member", not {shown(name)}'
        )
    if not _NAME.fullmatch(name):
        check_text(name, kind)
        hint = "write cube.member, of ASCII letters, digits and underscores"
        if name.count(".") == 2:
            hint = "a granularity is selected by TimeDimension(...).by(...)"
        raise QueryError(f"{kind} {shown(name)}: malformed name; {hint}")


def _type_advice(type: Any) -> str:
    if type is float:
        return "float is not exact; declare Decimal"
    if type is date:
        return "Cube knows no days, only times; declare datetime or a TimeDimension"
    known = ", ".join(allowed.__name__ for allowed in TYPES)
    return f"{shown(type)} is no type of a member; declare one of {known}"
