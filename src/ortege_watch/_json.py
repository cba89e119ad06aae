"""JSON in and out, exactly, and the one strict structurer of values into classes.

Numbers are exact in both directions: an integer of any size is an ``int``, every other
number a ``Decimal``; no number is a binary float on the way. Rows are the exception in
time, not in kind: an answer's ``data`` stays JSON text (``msgspec.Raw``) until somebody
looks at it, because what is not created is what is won.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal, TypeVar, cast, get_args, get_origin

import attrs
import cattrs
import msgspec
from cattrs.cols import list_structure_factory, mapping_structure_factory
from cattrs.gen import make_dict_structure_fn

from ortege_watch.errors import DecodeError, QueryError

__all__ = [
    "UNREADABLE",
    "Body",
    "ResultPart",
    "converter",
    "decode_body",
    "dumps",
    "excerpt",
    "is_number",
    "loads",
    "structure",
]

T = TypeVar("T")

is_number: Final = re.compile(
    r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
).fullmatch
"""Tell whether text is a decimal number; ``Decimal`` itself also takes ``"1_000"``,
``" 5"``, ``"NaN"`` and the digits of every script."""

_EXCERPT_LENGTH: Final = 200

UNREADABLE: Final = (ValueError, ArithmeticError, RecursionError)
"""What decoding raises: msgspec's errors and bad UTF-8 are ``ValueError``s, a number
like ``1e99999999999999999999`` overflows even ``Decimal``, and nesting may be deep."""


_NO_DATA: Final = (msgspec.Raw(), msgspec.Raw(b"null"))


class ResultPart(msgspec.Struct, gc=False):
    """One entry of ``results``, or the whole of an answer that has no such list.

    Unknown keys are ignored; Cube 1.x drops keys that are null on 0.35.81. A key that
    is absent is empty text, one that is null the text ``null``: msgspec knows no
    ``Raw | None``.

    Attributes:
        data: the rows as JSON text, in whichever response form; empty if there are
            none.
        lastRefreshTime: when the server computed the rows, ISO 8601 in UTC.
        total: the number of rows without limit and offset, where it was asked for.
        annotation: titles and types of the members, as JSON text; empty without.
        query: the query as the server normalised it, as JSON text; empty without.
    """

    data: msgspec.Raw = msgspec.Raw()
    lastRefreshTime: str | None = None  # noqa: N815 - the wire's name
    total: int | None = None
    annotation: msgspec.Raw = msgspec.Raw()
    query: msgspec.Raw = msgspec.Raw()


class Body(ResultPart, gc=False):
    """A Cube answer: a REST body, or what a WebSocket frame has under ``message``.

    Attributes:
        error: the server's sentence; also ``"Continue wait"``, which is no error.
        type: the server's error type, such as ``"UserError"``.
        queryType: ``"regularQuery"``, ``"compareDateRangeQuery"`` or
            ``"blendingQuery"`` in an answer to ``queryType: "multi"``.
        results: one entry for each query or date range, in such an answer.
    """

    error: str | None = None
    type: str | None = None
    queryType: str | None = None  # noqa: N815 - the wire's name
    results: list[ResultPart] | None = None

    @property
    def parts(self) -> list[ResultPart]:
        """List the results, whichever shape the answer has; none in an error."""
        if self.results is not None:
            return self.results
        return [] if self.data in _NO_DATA else [self]


_json = msgspec.json.Decoder(float_hook=Decimal)
_body = msgspec.json.Decoder(Body)
_encoder = msgspec.json.Encoder(decimal_format="number")
encode: Final = _encoder.encode
"""Write JSON values that this library built itself; :func:`dumps` checks others."""


def excerpt(data: bytes | str) -> str:
    """Give the first 200 characters in printable form, for an error message."""
    if isinstance(data, str):
        text = data[: _EXCERPT_LENGTH + 1]
    else:
        # Four bytes are the longest UTF-8 character.
        text = bytes(data[: 4 * _EXCERPT_LENGTH + 4]).decode("utf-8", "replace")
    shown = "".join(
        character if character.isprintable() else " "
        for character in text[:_EXCERPT_LENGTH]
    )
    return shown + "…" if len(text) > _EXCERPT_LENGTH else shown


def loads(data: bytes | str) -> Any:
    """Read JSON with exact numbers: ``int`` of any size, else ``Decimal``.

    Raises:
        DecodeError: the data is no JSON, or holds a number or a nesting that is beyond
            what can be represented.
    """
    try:
        return _json.decode(data)
    except UNREADABLE as error:
        problem = f"this is no JSON that can be read ({error})"
        raise DecodeError(problem, excerpt=excerpt(data)) from error


def decode_body(data: bytes) -> Body:
    """Read a Cube answer; its rows are checked to be JSON and stay text.

    Raises:
        DecodeError: anything else, such as HTML, half an answer, ``null`` or a number.
    """
    try:
        return _body.decode(data)
    except UNREADABLE as error:
        problem = f"this is no answer of a Cube server ({error})"
        raise DecodeError(problem, excerpt=excerpt(data)) from error


def dumps(value: object) -> str:
    """Write compact JSON with exact numbers; a ``Decimal`` becomes a JSON number.

    Raises:
        QueryError: the value holds something that JSON has no exact form for; the
            message gives its path.
    """
    try:
        return _encoder.encode(_plain(value, "$")).decode()
    except QueryError:
        raise
    except UNREADABLE as error:
        problem = f"this value cannot be written as JSON ({error})"
        raise QueryError(problem) from error


def _plain(value: object, path: str) -> object:
    """Copy a value into what the encoder writes exactly, or refuse it."""
    match value:
        case None | bool() | int() | str():
            return value
        case Decimal() if value.is_finite():
            return value
        case Mapping():
            entries = cast("Mapping[object, object]", value)
            return {
                _key(key, path): _plain(entry, f"{path}.{key}")
                for key, entry in entries.items()
            }
        case list() | tuple():
            items = cast("list[object]", value)
            return [_plain(item, f"{path}[{i}]") for i, item in enumerate(items)]
        case float():
            advice = "; use a Decimal, which is exact"
        case _:
            advice = "; use None, bool, int, Decimal, str, lists and dicts"
    problem = f"{path}: {value!r} has no exact form in JSON{advice}"
    raise QueryError(problem)


def _key(key: object, path: str) -> str:
    if isinstance(key, str):
        return key
    problem = f"{path}: the key {key!r} must be a string"
    raise QueryError(problem)


def structure(cls: type[T], value: Any) -> T:
    """Make an instance of ``cls`` out of JSON values, strictly.

    Nothing is guessed: ``None`` is no text, ``"false"`` no boolean, ``1.9`` no integer,
    text no list. Unknown keys are ignored, so that servers may add some.

    Raises:
        DecodeError: one problem for each value that does not fit, with its path.
    """
    try:
        return converter.structure(value, cls)
    except Exception as error:
        problems = cattrs.transform_error(error, format_exception=_problem)
        raise DecodeError(*problems) from error


def _problem(error: BaseException, _type: object) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return str(error) or type(error).__name__


def _unfit(value: object, expected: str) -> TypeError:
    return TypeError(f"{excerpt(repr(value))} is no {expected}")


def _exactly(cls: type[Any], expected: str) -> Callable[[Any, Any], Any]:
    def structure_exactly(value: Any, _: Any) -> Any:
        if type(value) is not cls:
            raise _unfit(value, expected)
        return value

    return structure_exactly


def _structure_decimal(value: Any, _: Any) -> Decimal:
    if type(value) in {int, Decimal} or (type(value) is str and is_number(value)):
        with contextlib.suppress(ArithmeticError):
            return Decimal(value)
    raise _unfit(value, "decimal number")


def _structure_datetime(value: Any, _: Any) -> datetime:
    if type(value) is str:
        with contextlib.suppress(ValueError):
            moment = datetime.fromisoformat(value)
            if moment.utcoffset() is not None:
                return moment
    raise _unfit(value, "time with a zone, as ISO 8601 writes it")


def _structure_float(value: Any, _: Any) -> float:
    problem = f"{excerpt(repr(value))} is for a float, which is not exact; use Decimal"
    raise TypeError(problem)


def _structure_literal(value: Any, of: Any) -> Any:
    # Compared with their types: True is 1 to Python.
    if (type(value), value) not in [(type(arg), arg) for arg in get_args(of)]:
        allowed = ", ".join(map(repr, get_args(of)))
        problem = f"{excerpt(repr(value))} is none of {allowed}"
        raise TypeError(problem)
    return value


_LISTS: Final[dict[Any, Callable[[Any], Any]]] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    Sequence: list,
}


def _list_hook(cls: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    """Make the hook of a list, a set, or a tuple of one type."""
    make = _LISTS[get_origin(cls) or cls]
    item, *more = get_args(cls) or (Any,)
    if make is tuple and more not in ([...], []):
        problem = f"{cls} cannot be read; write a class or tuple[..., ...]"
        raise TypeError(problem)
    of_items: Any = list[item]  # type: ignore[valid-type]
    structure_items = list_structure_factory(of_items, converter)

    def structure_list(value: Any, _: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise _unfit(value, "list")
        return make(structure_items(value, of_items))

    return structure_list


def _object_hook(make: Any) -> Any:
    """Make the factory of hooks for classes or dictionaries."""

    def hook(cls: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
        structure_object = make(cls, converter)

        def structure_mapping(value: Any, _: Any) -> Any:
            if not isinstance(value, Mapping):
                raise _unfit(value, "object")
            return structure_object(value, cls)

        return structure_mapping

    return hook


def _is_attrs_class(cls: Any) -> bool:
    origin: Any = get_origin(cls)
    return attrs.has(origin or cls)


def _strict_converter() -> cattrs.Converter:
    """Make a cattrs converter that guesses nothing; by default it is permissive."""
    strict = cattrs.Converter()
    exact = {str: "text", int: "whole number", bool: "boolean", bytes: "JSON value"}
    for cls, expected in exact.items():
        strict.register_structure_hook(cls, _exactly(cls, expected))
    strict.register_structure_hook(Decimal, _structure_decimal)
    strict.register_structure_hook(datetime, _structure_datetime)
    strict.register_structure_hook(float, _structure_float)

    def has_origin(*origins: Any) -> Callable[[Any], bool]:
        return lambda cls: (get_origin(cls) or cls) in origins

    strict.register_structure_hook_func(has_origin(Literal), _structure_literal)
    strict.register_structure_hook_factory(has_origin(*_LISTS), _list_hook)
    strict.register_structure_hook_factory(
        has_origin(dict, Mapping), _object_hook(mapping_structure_factory)
    )
    strict.register_structure_hook_factory(
        _is_attrs_class, _object_hook(make_dict_structure_fn)
    )
    return strict


converter: Final = _strict_converter()
"""The one converter from JSON values into classes; see ``structure``."""
