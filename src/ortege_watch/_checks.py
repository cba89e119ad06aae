"""Checks of arguments: an invalid one is an ``InvalidArgument`` that names it."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar, cast

from ortege_watch import _json as codec
from ortege_watch.errors import InvalidArgument, OrtegeWatchError

T = TypeVar("T")

_LONGEST_SECONDS: Final = 1e6
"""More than the longest timeout that sockets accept on every platform."""


def shown(value: object, length: int = 200) -> str:
    """Return the ``repr`` of a value for an error message, cut at a length."""
    try:
        return codec.excerpt(repr(value), length)
    # Python refuses to print integers above 4300 digits, and what is nested too deeply.
    except (ValueError, RecursionError):
        return f"<{type(value).__name__} too large to print>"


def check_text(name: str, value: object) -> None:
    """Raise :class:`InvalidArgument` unless the value is a non-empty string."""
    if not isinstance(value, str) or not value:
        raise InvalidArgument(f"{name} must be a non-empty string, got {shown(value)}")


def check_match(
    name: str, value: object, pattern: re.Pattern[str], expected: str
) -> None:
    """Raise :class:`InvalidArgument` unless the value is a string of a form."""
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise InvalidArgument(f"{name} must be {expected}, got {shown(value)}")


def check_int(
    name: str,
    value: object,
    expected: str = "a positive int",
    *,
    first: int = 1,
    last: float = math.inf,
) -> None:
    """Raise :class:`InvalidArgument` unless the value is an int in the range."""
    if type(value) is bool or not (isinstance(value, int) and first <= value <= last):
        raise InvalidArgument(f"{name} must be {expected}, got {shown(value)}")


def check_list(
    name: str, values: object, kind: type[T], *, or_empty: bool = False
) -> tuple[T, ...]:
    """Return the values of an iterable; raise :class:`InvalidArgument` if it is empty."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidArgument(
            f"{name} must be an iterable of {kind.__name__}, got {shown(values)}"
        )
    found = tuple(cast("Iterable[T]", values))
    for i, value in enumerate(found):
        if not isinstance(value, kind):
            check_kind(f"{name}[{i}]", value, kind)
    if not (found or or_empty):
        raise InvalidArgument(f"{name} is empty: pass at least one {kind.__name__}")
    return found


def check_kind(name: str, value: object, kind: Any, expected: str = "") -> None:
    """Raise :class:`InvalidArgument` unless the value is of a class, or of a union."""
    if not isinstance(value, kind):
        rule = expected or f"of type {kind.__name__}"
        # Not its repr, which might show a secret.
        raise InvalidArgument(f"{name} must be {rule}, got {type(value).__name__}")


def check_seconds(name: str, value: object, *, or_zero: bool = False) -> None:
    """Raise :class:`InvalidArgument` unless the value is a time in seconds."""
    is_number = isinstance(value, int | float) and 0 <= value <= _LONGEST_SECONDS
    if not is_number or type(value) is bool or not (value or or_zero):
        least = "0 or more" if or_zero else "greater than 0"
        rule = f"{least} and at most a million seconds"
        raise InvalidArgument(f"{name} must be {rule}, got {shown(value)}")


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise :class:`InvalidArgument` unless the value is one of these."""
    allowed = tuple(choices)
    if value not in allowed:
        listed = ", ".join(map(repr, allowed))
        raise InvalidArgument(f"{name} must be one of {listed}, got {shown(value)}")


def check_methods(
    name: str,
    value: object,
    methods: Mapping[str, Sequence[str]],
    expected: str,
    *,
    awaited: Collection[str] | None = None,
) -> None:
    """Raise :class:`InvalidArgument` unless the value is an object with these methods.

    ``methods`` has the names of the arguments with which each is called. ``awaited`` are
    the async ones among them; the others are plain. Without it, each may be either.
    """
    rule = f"{name} must be {expected}"
    if isinstance(value, type):
        raise InvalidArgument(
            f"{rule}, got the class {value.__name__}: create an object of it"
        )
    missing = [each for each in methods if not callable(getattr(value, each, None))]
    if missing:
        got = f"{type(value).__name__} without {', '.join(missing)}"
        raise InvalidArgument(f"{rule}, got {got}")
    for each, arguments in methods.items():
        is_awaited = None if awaited is None else each in awaited
        method = getattr(value, each)
        check_callable(f"{name}.{each}", method, *arguments, awaited=is_awaited)


def check_clock(clock: object, *, sleep: Literal["plain", "async"] | None) -> None:
    """Raise :class:`InvalidArgument` unless a given clock has what is called of it.

    That is a plain ``now()``, and with ``sleep`` also a ``sleep()`` of that kind.
    """
    if clock is None:
        return
    methods: dict[str, Sequence[str]] = {"now": ()}
    if sleep:
        methods["sleep"] = ("seconds",)
    expected = f"an object with {' and '.join(f'{each}()' for each in methods)}"
    awaited = ("sleep",) if sleep == "async" else ()
    check_methods("clock", clock, methods, expected, awaited=awaited)


def close_coroutine(result: object) -> bool:
    """Close a coroutine that is not awaited, of which Python would warn.

    Return whether the result was one.
    """
    if inspect.iscoroutine(result):
        result.close()
        return True
    return False


def bad_result(call: str, expected: str, result: object) -> OrtegeWatchError:
    """Return the error for what a function of the application has returned."""
    close_coroutine(result)
    return OrtegeWatchError(f"{call} must return {expected}, got {shown(result)}")


def not_copyable(value: object) -> TypeError:
    """Return the error of an object that is pickled or copied."""
    name = type(value).__name__
    return TypeError(f"{name} cannot be pickled or copied; create one in each process")


def is_async(function: object) -> bool:
    """Return whether a function, or an object that can be called, is an async one."""
    call = getattr(type(function), "__call__", None)  # noqa: B004 - an object's
    return any(map(inspect.iscoroutinefunction, (function, call)))


def check_callable(
    name: str, value: object, *arguments: str, awaited: bool | None = None
) -> None:
    """Raise :class:`InvalidArgument` unless the value can be called with arguments.

    ``arguments`` are their names, for the message; they are passed by position.
    ``awaited`` is whether the result is awaited; without it, it may be either.
    """
    call = f"{name}({', '.join(arguments)})"
    if not callable(value):
        raise InvalidArgument(f"{name} must be callable, got {shown(value)}")
    if awaited is False and is_async(value):
        raise InvalidArgument(
            f"{name} must be a plain function, got an async one: define it with 'def'"
        )
    # What decorates an async function often is a plain one that returns its coroutine.
    if awaited and not (is_async(value) or is_async(inspect.unwrap(value))):
        raise InvalidArgument(
            f"{name} must be async, got a plain function: define it with 'async def'"
        )
    try:
        # Not what a decorator wraps: that may get further arguments from it.
        signature = inspect.signature(value, follow_wrapped=False)
    except (TypeError, ValueError):  # some functions that are written in C
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        got = f"{getattr(value, '__name__', type(value).__name__)}{signature}"
        problem = f"{name} must be callable as {call}, got {got}: {error}"
        raise InvalidArgument(problem) from None
