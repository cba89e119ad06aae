"""JSON with exact numbers, and the strict converter from JSON values to classes.

An integer of any size is an ``int``, every other number a ``Decimal``; no number passes
through a binary float. The rows of a response stay JSON text (``msgspec.Raw``) until
they are read: creating Python objects is what takes the time.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal, TypeVar, cast, get_args, get_origin

import attrs
import cattrs
import msgspec
from cattrs.cols import list_structure_factory, mapping_structure_factory
from cattrs.gen import make_dict_structure_fn

from ortege_watch.errors import DecodeError, InvalidArgument, printable

T = TypeVar("T")

UNREADABLE: Final = (
    msgspec.MsgspecError,
    ValueError,
    ArithmeticError,
    RecursionError,
)
"""What decoding raises. msgspec's errors are ``ValueError``s only since 0.21, as bad
UTF-8 is; a number like ``1e99999999999999999999`` overflows even ``Decimal``, and nesting may be deep."""

is_number: Final = re.compile(
    r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
).fullmatch
"""Return a match if a string is a decimal number; ``Decimal`` itself also accepts
``"1_000"``, ``" 5"``, ``"NaN"`` and the digits of every script."""

_NO_DATA: Final = (msgspec.Raw(), msgspec.Raw(b"null"))


class ResultPart(msgspec.Struct, gc=False):
    """One entry of ``results``, or a whole response without such a list.

    Unknown keys are ignored; Cube 1.x omits keys that are null on 0.35.81. A missing
    key is empty text, a null one the text ``null``: msgspec has no ``Raw | None``.

    Attributes:
        data: the rows as JSON text, in any response form.
        lastRefreshTime: when the server computed the rows, ISO 8601 in UTC.
        total: the number of rows without limit and offset, if the query asked for it.
        annotation: titles and types of the members, as JSON text.
        query: the query as the server normalised it, as JSON text.
    """

    data: msgspec.Raw = msgspec.Raw()
    lastRefreshTime: str | None = None  # noqa: N815 - the wire's name
    total: int | None = None
    annotation: msgspec.Raw = msgspec.Raw()
    query: msgspec.Raw = msgspec.Raw()


class Body(ResultPart, gc=False):
    """A Cube response: a REST body, or the ``message`` of a WebSocket frame.

    Attributes:
        error: the server's message; also ``"Continue wait"``, which is not an error.
        type: the server's error type, such as ``"UserError"``.
        queryType: ``"regularQuery"``, ``"compareDateRangeQuery"`` or
            ``"blendingQuery"`` in a response to ``queryType: "multi"``.
        results: one entry for each query or date range, in such a response.
    """

    error: str | None = None
    type: str | None = None
    queryType: str | None = None  # noqa: N815 - the wire's name
    results: list[ResultPart] | None = None

    @property
    def parts(self) -> list[ResultPart]:
        """The results, whichever shape the response has; empty for an error."""
        if self.results is not None:
            return self.results
        return [] if self.data in _NO_DATA else [self]


_json = msgspec.json.Decoder(float_hook=Decimal)
_body = msgspec.json.Decoder(Body)
encode: Final = msgspec.json.Encoder(decimal_format="number").encode
"""Encode JSON values that this library built itself; :func:`dumps` checks others."""
_sorted: Final = msgspec.json.Encoder(decimal_format="number", order="deterministic")
encode_sorted: Final = _sorted.encode
"""Encode like :data:`encode`, and sort the keys of dicts, but not the fields of structs."""
encode_lines: Final = _sorted.encode_lines
"""Encode each of several values on a line of its own, as :data:`encode_sorted` does."""


def excerpt(data: bytes | bytearray | str, length: int = 200) -> str:
    """Return the first characters in printable form, for an error message."""
    if not isinstance(data, str):
        # A UTF-8 character has at most four bytes.
        data = bytes(data[: 4 * length + 4]).decode("utf-8", "replace")
    return printable(data, length)


def described(error: BaseException) -> str:
    """Return the beginning of an error's message, or its class if it has none."""
    return excerpt(str(error)) or type(error).__name__


def loads(data: bytes | str) -> Any:
    """Decode JSON with exact numbers; what is not JSON is a ``DecodeError``."""
    try:
        return _json.decode(data)
    except UNREADABLE as error:
        raise DecodeError(f"invalid JSON ({error})", excerpt=excerpt(data)) from error


class _RepeatedKeys(ValueError):
    pass


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        counts = Counter(names)
        raise _RepeatedKeys(*sorted(name for name in counts if counts[name] > 1))


# Digits of any length stay strings: they are not computed with.
_check_keys: Final = json.JSONDecoder(
    object_pairs_hook=_refuse_repeated, parse_int=str, parse_float=str
).decode


def repeated_keys(document: str) -> Sequence[str]:
    """Return the repeated keys of the first object in valid JSON that has some.

    msgspec silently keeps the last value of a repeated key. JSON that is nested too
    deeply to be checked is a ``DecodeError``.
    """
    try:
        _check_keys(document)
    except _RepeatedKeys as repeated:
        return repeated.args
    except RecursionError as error:
        problem = "the JSON is nested too deeply"
        raise DecodeError(problem, excerpt=excerpt(document)) from error
    return ()


def decode_body(data: bytes | bytearray) -> Body:
    """Decode a Cube response; its rows are checked to be JSON and stay text.

    Anything else, such as HTML, ``null`` or half a response, is a ``DecodeError``.
    """
    try:
        return _body.decode(data)
    except UNREADABLE as error:
        problem = f"not a Cube server's response ({error})"
        raise DecodeError(problem, excerpt=excerpt(data)) from error


def dumps(value: object, path: str = "$") -> str:
    """Return what :func:`dump_bytes` returns as a string."""
    return dump_bytes(value, path).decode()


def dump_bytes(
    value: object, path: str = "$", *, sort_keys: bool = False, is_exact: bool = False
) -> bytes:
    """Encode a value as compact JSON with exact numbers; a ``Decimal`` is a number.

    What JSON cannot represent exactly is an ``InvalidArgument`` with its path, which
    begins with ``path``. A value that ``is_exact`` has nothing else, and is checked
    only if it cannot be encoded, as with a subclass of ``str``.
    """
    encoder = encode_sorted if sort_keys else encode
    if is_exact:
        try:
            return encoder(value)
        except (TypeError, *UNREADABLE):
            pass
    try:
        return encoder(_exact(value, path))
    except InvalidArgument:
        raise
    except UNREADABLE as error:
        problem = f"{path} cannot be written as JSON: {error}"
        raise InvalidArgument(problem) from error


_STRINGS: Final = frozenset({str})
_ATOMS: Final = frozenset({str, int, bool, type(None)})


def has_strings(fields: Mapping[str, Any]) -> bool:
    """Return whether an object has nothing but strings."""
    keys, values = map(type, fields), map(type, fields.values())
    return _STRINGS.issuperset(keys) and _STRINGS.issuperset(values)


def _exact(value: object, path: str) -> object:
    """Return a copy of types that the encoder writes exactly.

    Atoms take no call of their own; a comprehension would be one in Python 3.11.
    """
    match value:
        case None | bool():
            return value
        case str():
            return str.__str__(value)
        case int():
            return int(value)
        case Decimal() if value.is_finite():
            return Decimal(value)
        case dict() | Mapping():
            entries: dict[str, object] = {}
            for key, entry in cast("Mapping[object, object]", value).items():
                if not isinstance(key, str):
                    raise InvalidArgument(f"{path}: keys must be strings, got {key!r}")
                atom = type(entry) in _ATOMS
                entries[key] = entry if atom else _exact(entry, f"{path}.{key}")
            return entries
        case list() | tuple():
            items = list[object](value)
            for i, item in enumerate(items):
                if type(item) not in _ATOMS:
                    items[i] = _exact(item, f"{path}[{i}]")
            return items
        case float():
            advice = "use Decimal, which is exact"
        case _:
            advice = "use None, bool, int, str, list, dict or a finite Decimal"
    raise InvalidArgument(f"{path}: cannot write {value!r} as JSON; {advice}")


def structure(cls: type[T], value: Any) -> T:
    """Return an instance of ``cls`` built from JSON values, without conversions.

    ``None`` is not a string, ``"false"`` not a boolean, ``1.9`` not an integer. Unknown
    keys are ignored. A ``DecodeError`` lists every value that does not fit, by path.
    """
    try:
        return _converter.structure(value, cls)
    except Exception as error:
        problems = cattrs.transform_error(error, format_exception=_problem)
        raise DecodeError(*problems) from error


def check_type(cls: Any, what: str) -> None:
    """Raise an ``InvalidArgument`` unless :func:`structure` supports a type."""
    if _has_float(cls):
        raise InvalidArgument(f"{what}: float is not exact; use Decimal")
    try:
        _converter.get_structure_hook(cls)
    except Exception as error:
        known = "Decimal, int, str, bool, datetime, an enum, a Literal, a list, a dict"
        problem = f"{what}: {error}; use {known} or an attrs class"
        raise InvalidArgument(problem) from error


def _has_float(cls: Any) -> bool:
    return cls is float or any(map(_has_float, get_args(cls)))


def _problem(error: BaseException, _type: object) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return described(error)


def _unfit(value: object, expected: str) -> TypeError:
    return TypeError(f"expected {expected}, got {excerpt(repr(value))}")


_EXACT = {str: "a string", int: "an integer", bool: "a boolean", bytes: "bytes"}


def _structure_exactly(value: Any, cls: Any) -> Any:
    if type(value) is not cls:
        raise _unfit(value, _EXACT[cls])
    return value


def _structure_decimal(value: Any, _: Any) -> Decimal:
    if type(value) in {int, Decimal} or (type(value) is str and is_number(value)):
        with contextlib.suppress(ArithmeticError):
            return Decimal(value)
    raise _unfit(value, "a decimal number")


def _structure_datetime(value: Any, _: Any) -> datetime:
    if type(value) is str:
        with contextlib.suppress(ValueError):
            moment = datetime.fromisoformat(value)
            if moment.utcoffset() is not None:
                return moment
    raise _unfit(value, "an ISO 8601 time with a UTC offset")


def _structure_float(value: Any, _: Any) -> float:
    raise TypeError(f"float is not exact; declare Decimal for {excerpt(repr(value))}")


def _structure_literal(value: Any, of: Any) -> Any:
    # Types are compared as well, because True == 1.
    if (type(value), value) not in [(type(arg), arg) for arg in get_args(of)]:
        raise _unfit(value, f"one of {', '.join(map(repr, get_args(of)))}")
    return value


_LISTS: Final = (list, tuple, set, frozenset, Sequence)


def _list_factory(cls: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    """Return the hook for a list, a set, or a tuple of one type."""
    make: Any = list if _origin(cls) is Sequence else _origin(cls)
    item, *more = get_args(cls) or (Any,)
    if make is tuple and more not in ([...], []):
        raise TypeError(f"unsupported type {cls}")
    of_items: Any = list[item]  # type: ignore[valid-type]
    structure_items = list_structure_factory(of_items, converter)

    def structure_list(value: Any, _: Any) -> Any:
        return make(structure_items(value, of_items))

    return structure_list


def _shaped(shape: Any, expected: str, make: Any) -> Any:
    """Return a factory of hooks that also check the shape of the whole value."""

    def factory(cls: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
        structure_parts = make(cls, converter)

        def hook(value: Any, _: Any) -> Any:
            if not isinstance(value, shape):
                raise _unfit(value, expected)
            return structure_parts(value, cls)

        return hook

    return factory


def _origin(cls: Any) -> Any:
    return get_origin(cls) or cls


def _unsupported(cls: Any) -> Callable[[Any, Any], Any]:
    raise TypeError(f"unsupported type {getattr(cls, '__name__', cls)}")


_converter: Final = cattrs.Converter(structure_fallback_factory=_unsupported)
for _cls in _EXACT:
    _converter.register_structure_hook(_cls, _structure_exactly)
_converter.register_structure_hook(Decimal, _structure_decimal)
_converter.register_structure_hook(datetime, _structure_datetime)
_converter.register_structure_hook(float, _structure_float)
_converter.register_structure_hook_func(
    lambda cls: _origin(cls) is Literal, _structure_literal
)
_converter.register_structure_hook_factory(
    lambda cls: _origin(cls) in _LISTS,
    _shaped((list, tuple), "a list", _list_factory),
)
_converter.register_structure_hook_factory(
    lambda cls: _origin(cls) in (dict, Mapping),
    _shaped(Mapping, "an object", mapping_structure_factory),
)
_converter.register_structure_hook_factory(
    lambda cls: attrs.has(_origin(cls)),
    _shaped(Mapping, "an object", make_dict_structure_fn),
)
