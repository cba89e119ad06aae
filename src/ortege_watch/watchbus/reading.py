"""Reading the watch-bus's JSON: tolerant of spellings, strict about contradictions.

The specification contradicts itself in names and types. A value with one clear meaning
is read. Where two spellings of one field differ, or an object has a key twice with
different values, the result is an error with the path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Any, Final, Generic, TypeVar, cast

from attrs import frozen

from ortege_watch import _json as codec
from ortege_watch._checks import shown
from ortege_watch.errors import DecodeError

T = TypeVar("T")

_INTEGER: Final = re.compile(r"-?[0-9]{1,1000}")
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,4})?")
ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")
_MAX_PROBLEMS: Final = 20
_MAX_DEPTH: Final = 100  # deeper JSON can be read, but not be shown or written
_MAX_COMPARED: Final = 10_000  # lists and objects, where a key is repeated
LARGEST: Final = 2**256 - 1
"""The largest chain id, count or index: the largest integer of the EVM."""

_FIRST_MILLISECONDS: Final = 10**12  # 13 digits: a time after September 2001
_LAST_MILLISECONDS: Final = 10**13 - 1
LAST_SECONDS: Final = 10**11 - 1  # the year 5138


@frozen
class Kind(Generic[T]):
    """A kind of JSON value."""

    # returns the value in its Python type; None if it is of another kind
    read: Callable[[object], T | None]
    expected: str  # the description of the kind in error messages
    default: T  # replaces an invalid value until the problems are raised
    pattern: re.Pattern[str] | None = None  # of a string of the kind; None for any


def _string(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _unpacked(value: object) -> object:
    """Return a list or an object that was sent as JSON text; other values unchanged.

    The specification's type for lists is "JSON List", which some read as text.
    """
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        with suppress(DecodeError):
            return read_json(value.encode())
    return value


def _strings(value: object) -> tuple[str, ...] | None:
    value = _unpacked(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(cast("list[str]", value))
    return None


def _object(value: object) -> dict[str, Any] | None:
    value = _unpacked(value)
    return value if isinstance(value, dict) else None


def _integer(value: object) -> int | None:
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _count(value: object) -> int | None:
    number = _integer(value)
    return number if number is not None and 0 <= number <= LARGEST else None


def _number(value: object) -> Decimal | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int) or (isinstance(value, str) and _NUMBER.fullmatch(value)):
        return Decimal(value)
    return value if isinstance(value, Decimal) and value.is_finite() else None


def _seconds(value: object) -> int | None:
    """Return a time in seconds; 13 digits are milliseconds."""
    if isinstance(value, Decimal) and 0 <= value <= _LAST_MILLISECONDS:
        value = int(value) if value == int(value) else value
    time = _integer(value)
    if time is None or time < 0:
        return None
    if time <= LAST_SECONDS:
        return time
    return time // 1000 if _FIRST_MILLISECONDS <= time <= _LAST_MILLISECONDS else None


STRING: Final = Kind(_string, "a string", "")
TEXT: Final = Kind(_text, "a non-empty string", "?")
STRINGS: Final[Kind[tuple[str, ...]]] = Kind(_strings, "a list of strings", ())
OBJECT: Final[Kind[Mapping[str, Any]]] = Kind(_object, "an object", {})
INTEGER: Final = Kind(_integer, "an integer", 0, _INTEGER)
COUNT: Final = Kind(_count, "a non-negative integer", 0)
NUMBER: Final = Kind(_number, "a number", Decimal(), _NUMBER)
SECONDS: Final = Kind(_seconds, "a time in unix seconds", 0)


class Problems:
    """The problems of one document, each with its path."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found: list[str] = []

    @property
    def full(self) -> bool:
        """Whether no more problems are kept."""
        return len(self.found) >= _MAX_PROBLEMS

    def add(self, path: str, sentence: str) -> None:
        """Add a problem; only the first twenty are kept."""
        if not self.full:
            self.found.append(f"{codec.excerpt(path)}: {sentence}")

    def entries(
        self, value: object, path: str, *, or_text: bool = False
    ) -> Iterator[Entry]:
        """Yield the entries of a list of objects, until there are too many problems."""
        value = _unpacked(value)
        if not isinstance(value, list):
            got = f"expected a list, got {shown(value)}"
            self.add(path, "missing, expected a list" if value is None else got)
            return
        for i, item in enumerate(cast("list[object]", value)):
            if self.full:
                return
            yield Entry(item, f"{path}[{i}]", self, or_text=or_text)

    def refuse(self, excerpt: str = "") -> None:
        """Raise :class:`DecodeError` if there is a problem."""
        if self.found:
            raise DecodeError(*self.found, excerpt=excerpt)


class Entry:
    """One JSON object whose fields are read.

    A field that is missing or invalid becomes a problem, and reading continues with the
    default of its kind: the caller ends with :meth:`Problems.refuse`. ``raw`` is the
    object as it was received; empty if it was something else. With ``or_text``, it may
    be a string, which is ``text``.
    """

    __slots__ = ("path", "problems", "raw", "text")

    def __init__(
        self, value: object, path: str, problems: Problems, *, or_text: bool = False
    ) -> None:
        self.path = path
        self.problems = problems
        self.raw: dict[str, Any] = value if isinstance(value, dict) else {}
        self.text = _text(value) if or_text else None
        if not isinstance(value, dict) and self.text is None:
            problems.add(path, f"expected an object, got {shown(value)}")

    def wrong(self, name: str, sentence: str) -> None:
        """Add a problem with a field."""
        self.problems.add(f"{self.path}.{name}", sentence)

    def entries(self, name: str) -> Iterator[Entry]:
        """Yield the entries of a field that is a list of objects."""
        return self.problems.entries(self.raw.get(name), f"{self.path}.{name}")

    def optional(
        self, kind: Kind[T], *names: str, fold: Callable[[str], str] = str
    ) -> T | None:
        """Return the value of a field, or ``None`` if it is absent or ``null``.

        ``names`` are its spellings, the documented one first. The values of several
        must be equal after ``fold``.
        """
        name, value = "", None
        for each in names:
            another = self.raw.get(each)
            if value is None:
                name, value = each, another
            elif another is not None and _folded(value, fold) != _folded(another, fold):
                problem = f"{shown(value)} differs from {shown(another)} in {each}"
                self.wrong(name, problem)
        if value is None:
            return None
        found = kind.read(value)
        if found is None:
            self.wrong(name, f"expected {kind.expected}, got {shown(value)}")
            return kind.default
        return found

    def required(
        self, kind: Kind[T], *names: str, fold: Callable[[str], str] = str
    ) -> T:
        """Return the value of a field as :meth:`optional` does; it must be there."""
        found = self.optional(kind, *names, fold=fold)
        if found is None:
            self.wrong(names[0], f"missing, expected {kind.expected}")
            return kind.default
        return found


def _folded(value: object, fold: Callable[[str], str]) -> object:
    return fold(value) if isinstance(value, str) else (type(value), value)


def read_list(
    value: object,
    key: str | None,
    read: Callable[[Entry], T],
    path: str = "$",
    excerpt: str = "",
    *,
    or_text: bool = False,
) -> list[T]:
    """Read a list of objects; with a ``key``, an object may have it under the key.

    The list, and the object around it, may be JSON text. With ``or_text``, an entry may
    be a string.
    """
    value = _unpacked(value)
    if key is not None and isinstance(value, dict):
        value, path = value.get(key), f"{path}.{key}"
    problems = Problems()
    found = [read(entry) for entry in problems.entries(value, path, or_text=or_text)]
    problems.refuse(excerpt)
    return found


def read_json(data: bytes) -> Any:
    """Read JSON with exact numbers.

    Raises:
        DecodeError: it is not JSON, is nested more than 100 levels deep, or has an
            object with one key twice and different values; the problems have the paths.
    """
    value = codec.loads(data)
    brackets = data.count(b"{") + data.count(b"[")
    if brackets > _MAX_DEPTH:
        _check_depth(value, data)
    if repeated := codec.repeated_keys(data.decode()):
        if brackets > _MAX_COMPARED:
            problem = f"$: the key {shown(repeated[0])} is repeated"
            raise DecodeError(problem, excerpt=codec.excerpt(data))
        try:
            problems = _contradictions(json.loads(data, **_PAIRS))
        except RecursionError as error:
            raise _too_deep(data) from error
        problems.refuse(codec.excerpt(data))
    return value


def _check_depth(document: object, data: bytes) -> None:
    level = [document]
    for _ in range(_MAX_DEPTH):
        inner: list[object] = []
        for each in level:
            if isinstance(each, dict):
                inner += filter(_is_nested, cast("dict[str, object]", each).values())
            elif isinstance(each, list):
                inner += filter(_is_nested, cast("list[object]", each))
        level = inner
        if not level:
            return
    raise _too_deep(data)


def _is_nested(value: object) -> bool:
    return isinstance(value, dict | list) and bool(value)


def _too_deep(data: bytes) -> DecodeError:
    problem = f"the JSON is nested more than {_MAX_DEPTH} levels deep"
    return DecodeError(problem, excerpt=codec.excerpt(data))


class _Pairs(list[tuple[str, Any]]):
    """The keys and values of an object in order, repeated keys included."""


# Digits of any length stay strings: they are compared, not computed with.
_PAIRS: Final[Mapping[str, Any]] = {
    "object_pairs_hook": _Pairs,
    "parse_int": str,
    "parse_float": str,
}


@frozen
class _Nested:
    """An object or a list in a document; its path is written only where it is needed."""

    value: list[Any]
    name: str = "$"
    parent: _Nested | None = None

    def path(self) -> str:
        names: list[str] = []
        each: _Nested | None = self
        while each is not None:
            names.append(each.name)
            each = each.parent
        return "".join(reversed(names))


def _contradictions(document: object) -> Problems:
    problems = Problems()
    stack = [_Nested(document)] if isinstance(document, list) else []
    while stack and not problems.full:
        outer = stack.pop()
        if not isinstance(outer.value, _Pairs):
            for i, entry in enumerate(outer.value):
                if isinstance(entry, list):
                    stack.append(_Nested(entry, f"[{i}]", outer))
            continue
        seen: dict[str, object] = {}
        for key, entry in outer.value:
            name = f".{codec.excerpt(key)}"
            if seen.setdefault(key, entry) != entry:
                path = outer.path() + name
                problems.add(path, "the key is repeated with another value")
            if isinstance(entry, list):
                stack.append(_Nested(entry, name, outer))
    return problems
