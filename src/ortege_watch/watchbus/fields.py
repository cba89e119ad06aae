"""Read the watch-bus's JSON: tolerant of its spellings, never of a contradiction.

The page that documents the bus contradicts itself in names and types. Whatever has one
clear meaning is read; where two spellings of one thing differ, or a key is there twice
with different values, the answer is an error with its path and no guess.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final, cast

from ortege_watch import _json as codec
from ortege_watch.errors import DecodeError

__all__ = [
    "LARGEST",
    "Entry",
    "Problems",
    "integer",
    "number",
    "read_json",
    "seconds",
    "shown",
]

_INTEGER: Final = re.compile(r"-?[0-9]{1,1000}")
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,4})?")
_MANY: Final = 20
_DEEPEST: Final = 100  # what is deeper could be read, and then not be shown or written
LARGEST: Final = 2**256
"""What no chain id, count or index reaches: the EVM's own integers end below it."""

_FIRST_MILLISECONDS: Final = 10**12  # 13 digits: a time after September 2001
_LAST_MILLISECONDS: Final = 10**13 - 1
_LAST_SECONDS: Final = 10**11 - 1  # the year 5138


def shown(value: object) -> str:
    """Show a value in an error message, at most some 200 characters of it."""
    if isinstance(value, int) and value.bit_length() > 1000:
        return "a very large integer"  # Python refuses to print some
    return codec.excerpt(value if isinstance(value, str) else repr(value))


def integer(value: object) -> int | None:
    """Read an int or a string of digits; ``None`` for everything else."""
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def number(value: object) -> Decimal | None:
    """Read an int, a ``Decimal`` or text, exactly; ``None`` for everything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int) or (isinstance(value, str) and _NUMBER.fullmatch(value)):
        return Decimal(value)
    return value if isinstance(value, Decimal) and value.is_finite() else None


def seconds(value: object) -> tuple[int, bool] | None:
    """Read a time in unix seconds; 13 digits are milliseconds.

    Returns:
        The seconds, and whether they were given in milliseconds; ``None`` for what is
        neither.
    """
    if isinstance(value, Decimal) and 0 <= value <= _LAST_MILLISECONDS:
        value = int(value) if value == int(value) else value
    time = integer(value)
    if time is None or time < 0:
        return None
    if time <= _LAST_SECONDS:
        return time, False
    if _FIRST_MILLISECONDS <= time <= _LAST_MILLISECONDS:
        return time // 1000, True
    return None


class Problems:
    """Gather what is wrong with one document, each with its path."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, path: str, sentence: str) -> None:
        """Note a problem; the first twenty are enough to see what is wrong."""
        if len(self.found) < _MANY:
            self.found.append(f"{shown(path)}: {sentence}")

    def entries(self, value: object, path: str) -> list[Entry]:
        """Read a list of objects."""
        if not isinstance(value, list):
            self.add(path, f"a list is expected, not {shown(value)}")
            return []
        items = cast("list[object]", value)
        return [Entry(item, f"{path}[{i}]", self) for i, item in enumerate(items)]

    def refuse(self, excerpt: str = "") -> None:
        """Raise what was gathered.

        Raises:
            DecodeError: there is at least one problem.
        """
        if self.found:
            raise DecodeError(*self.found, excerpt=excerpt)


class Entry:
    """Read the fields of one JSON object.

    A field that is missing or wrong becomes a problem, and the reader goes on with a
    stand-in: the caller ends with :meth:`Problems.refuse`.

    Attributes:
        raw: the object as it came; empty if it is none.
        path: where it stands, such as ``$.alert_info_list[0]``.
    """

    __slots__ = ("path", "problems", "raw")

    def __init__(self, value: object, path: str, problems: Problems) -> None:
        self.path = path
        self.problems = problems
        self.raw: dict[str, Any] = value if isinstance(value, dict) else {}
        if not isinstance(value, dict):
            problems.add(path, f"an object is expected, not {shown(value)}")

    def wrong(self, name: str, sentence: str) -> None:
        """Note a problem with a field."""
        self.problems.add(f"{self.path}.{name}", sentence)

    def pick(
        self, *names: str, same: Callable[[Any], object] = lambda value: value
    ) -> tuple[str, Any]:
        """Find a field under any of its names; ``null`` is as good as absent.

        Args:
            names: the spellings, the documented one first.
            same: two spellings agree if this gives the same for their values.

        Returns:
            The name that was found and its value; the first name and ``None``.
        """
        given = [name for name in names if self.raw.get(name) is not None]
        if not given:
            return names[0], None
        first = self.raw[given[0]]
        for other in given[1:]:
            if same(self.raw[other]) != same(first):
                said = f"{shown(first)}, but {other} is {shown(self.raw[other])}"
                self.wrong(given[0], f"it is {said}: they mean the same")
        return given[0], first

    def text(self, *names: str, same: Callable[[str], str] = lambda text: text) -> str:
        """Read a text that is not empty."""

        def folded(value: object) -> object:
            return same(value) if isinstance(value, str) else (type(value), value)

        name, value = self.pick(*names, same=folded)
        if isinstance(value, str) and value:
            return value
        self._expected(name, value, "a text")
        return "?"

    def count(self, name: str) -> int:
        """Read an int or a string of digits, not negative."""
        value = integer(self.raw.get(name))
        if value is not None and 0 <= value < LARGEST:
            return value
        expected = "an int or a string of digits, not negative,"
        self._expected(name, self.raw.get(name), expected)
        return 0

    def time(self, name: str) -> int:
        """Read a time in unix seconds (13 digits: milliseconds) as seconds."""
        found = seconds(self.raw.get(name))
        if found is not None:
            return found[0]
        self._expected(name, self.raw.get(name), "a time in unix seconds")
        return 0

    def mapping(self, name: str) -> dict[str, Any]:
        """Read an object; one that is absent is empty."""
        value = self.raw.get(name)
        if isinstance(value, dict):
            return value
        if value is not None:
            self._expected(name, value, "an object")
        return {}

    def _expected(self, name: str, value: object, what: str) -> None:
        if value is None:
            self.wrong(name, f"it is missing; {what} is expected")
        else:
            self.wrong(name, f"{what} is expected, not {shown(value)}")


def read_json(data: bytes) -> Any:
    """Read JSON with exact numbers; refuse a key that is there twice and differs.

    Raises:
        DecodeError: it is no JSON, is nested more than 100 levels deep, or contradicts
            itself; the problems have the paths.
    """
    value = codec.loads(data)
    if _is_plain(data):
        return value
    try:
        problems = _repeated(json.loads(data, **_PAIRS))
    except RecursionError as error:
        problem = "this JSON is nested too deeply"
        raise DecodeError(problem, excerpt=codec.excerpt(data)) from error
    problems.refuse(codec.excerpt(data))
    return value


class _KeyRepeated(ValueError):
    """Say that an object has a key twice."""


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) != len(pairs):
        raise _KeyRepeated


_check_keys: Final = json.JSONDecoder(
    object_pairs_hook=_once, parse_int=str, parse_float=str
).decode


def _is_plain(data: bytes) -> bool:
    """Tell quickly whether neither keys nor nesting need a closer look."""
    if data.count(b"{") + data.count(b"[") > _DEEPEST:
        return False
    try:
        _check_keys(data.decode())
    except _KeyRepeated:
        return False
    return True


class _Pairs(list[tuple[str, Any]]):
    """An object's keys and values in order, repeated ones too."""


_PAIRS: Final[Mapping[str, Any]] = {
    "object_pairs_hook": _Pairs,
    # Digits of any length: they are compared, not computed with.
    "parse_int": str,
    "parse_float": str,
}


def _repeated(document: object) -> Problems:
    problems = Problems()
    waiting: list[tuple[str, object, int]] = [("$", document, 0)]
    while waiting:
        path, value, depth = waiting.pop()
        inner: list[tuple[str, object]] = []
        if isinstance(value, _Pairs):
            seen: dict[str, object] = {}
            for key, entry in value:
                inner.append((f"{path}.{shown(key)}", entry))
                if seen.setdefault(key, entry) != entry:
                    problems.add(inner[-1][0], "it is there twice, and differs")
        elif isinstance(value, list):
            items = enumerate(cast("list[object]", value))
            inner = [(f"{path}[{i}]", item) for i, item in items]
        if inner and depth == _DEEPEST:
            problems.add(path, f"it is nested more than {_DEEPEST} levels deep")
            break
        waiting.extend((where, item, depth + 1) for where, item in inner)
    return problems
