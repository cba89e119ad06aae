"""Stacks: Clarity values, principals, and calls of contracts, as data.

Follows SIP-005 (serialization of Clarity values; addresses in c32check), as far as the
bot needs it. Bytes that cannot be read are an error, never a guess.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from types import NoneType
from typing import Any, Final, TypeAlias, TypeVar

import attrs
import msgspec

__all__ = [
    "BURN_HEIGHT",
    "Call",
    "ClarityError",
    "Err",
    "Int",
    "Name",
    "Ok",
    "Principal",
    "Some",
    "Steps",
    "UInt",
    "Value",
    "ask",
    "c32_decode",
    "c32_encode",
    "check_principal",
    "convert",
    "deserialize",
    "represent",
    "serialize",
]


_K = TypeVar("_K")
_T = TypeVar("_T")


class ClarityError(ValueError):
    """Raised for an invalid Clarity value or principal."""


@attrs.frozen
class UInt:
    """An unsigned 128-bit integer; a plain ``int`` is Clarity's signed one."""

    value: int


@attrs.frozen
class Principal:
    """An account or a contract: ``SP...`` or ``SP....contract``."""

    text: str


@attrs.frozen
class Some:
    """An optional with a value; the empty optional is ``None``."""

    value: Value


@attrs.frozen
class Ok:
    """A successful response."""

    value: Value


@attrs.frozen
class Err:
    """An error response."""

    value: Value


@attrs.frozen
class Name:
    """An ASCII string; a plain ``str`` is Clarity's UTF-8 string."""

    text: str


Value: TypeAlias = (
    int
    | UInt
    | bytes
    | bool
    | Principal
    | Some
    | Ok
    | Err
    | Name
    | str
    | Sequence["Value"]
    | Mapping[str, "Value"]
    | None
)

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_SAME: Final = str.maketrans("OLI", "011")
_TO_PYTHON: Final = str.maketrans(_ALPHABET, "0123456789ABCDEFGHIJKLMNOPQRSTUV")
_CONTRACT: Final = re.compile(r"[a-zA-Z](?:[a-zA-Z0-9]|[-_]){0,127}")


def c32_encode(version: int, payload: bytes) -> str:
    """Encode a version (0 to 31) and 20 bytes as an address.

    Raises:
        ClarityError: the version or the length is out of range.
    """
    if not 0 <= version < 32:
        raise ClarityError(f"version must be between 0 and 31, got {version}")
    if len(payload) != 20:
        raise ClarityError(f"payload must be 20 bytes, got {len(payload)}")
    data = payload + _checksum(version, payload)
    number, digits = int.from_bytes(data), ""
    while number:
        number, digit = divmod(number, 32)
        digits = _ALPHABET[digit] + digits
    zeros = len(data) - len(data.lstrip(b"\0"))
    return f"S{_ALPHABET[version]}{'0' * zeros}{digits}"


def c32_decode(address: str) -> tuple[int, bytes]:
    """Decode an address into its version and its 20 bytes.

    Raises:
        ClarityError: the address is invalid or its checksum is wrong.
    """
    text = address.upper().translate(_SAME)
    if not text.startswith("S") or len(text) < 3 or set(text) - set(_ALPHABET):
        raise ClarityError(f"invalid Stacks address {address!r}")
    version, digits = _ALPHABET.index(text[1]), text[2:]
    number = int(digits.translate(_TO_PYTHON), 32)
    zeros = len(digits) - len(digits.lstrip("0"))
    data = b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8)
    payload, checksum = data[:-4], data[-4:]
    if len(payload) != 20 or checksum != _checksum(version, payload):
        raise ClarityError(
            f"invalid Stacks address {address!r}: wrong checksum or length"
        )
    return version, payload


def _checksum(version: int, payload: bytes) -> bytes:
    once = hashlib.sha256(bytes([version]) + payload).digest()
    return hashlib.sha256(once).digest()[:4]


def check_principal(text: str) -> None:
    """Check that a string is an address or ``address.contract``.

    Raises:
        ClarityError: it is neither.
    """
    address, dot, contract = text.partition(".")
    c32_decode(address)
    if dot and not _CONTRACT.fullmatch(contract):
        raise ClarityError(f"invalid contract name {contract!r}")


def serialize(value: Value) -> bytes:
    """Return the consensus bytes of a value.

    Raises:
        ClarityError: a number does not fit into 128 bits, or a name is invalid.
    """
    prefix = _prefix(value)
    return bytes([prefix]) + _KINDS[prefix][0](value)


def deserialize(data: bytes) -> Value:
    """Read one value from consensus bytes.

    Raises:
        ClarityError: the bytes are truncated, invalid, or longer than the value.
    """
    reader = _Reader(data)
    value = reader.value()
    if reader.left:
        raise ClarityError(f"{reader.left} bytes follow the value")
    return value


def represent(value: Value) -> str:
    """Return a value as Clarity source, for people and for signers that accept it."""
    return _KINDS[_prefix(value)][2](value)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._depth = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise ClarityError("truncated value")
        self._at += count
        return self._data[self._at - count : self._at]

    def length(self) -> int:
        return int.from_bytes(self.take(4))

    def text(self, encoding: str, length: int | None = None) -> str:
        data = self.take(self.length() if length is None else length)
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            raise ClarityError(f"{data!r} is not {encoding}") from None

    def number(self, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(16), signed=signed)

    def name(self) -> str:
        return self.text("ASCII", self.take(1)[0])

    def address(self) -> str:
        version = self.take(1)[0]
        return c32_encode(version, self.take(20))

    def contract(self) -> str:
        return f"{self.address()}.{self.name()}"

    def value(self) -> Value:
        if self._depth > _DEEPEST:
            raise ClarityError("the value is nested too deeply")
        prefix = self.take(1)[0]
        if prefix not in _KINDS:
            raise ClarityError(f"unknown type prefix 0x{prefix:02x}")
        self._depth += 1
        value = _KINDS[prefix][1](self)
        self._depth -= 1
        return value


def _number(number: int, *, signed: bool = False) -> bytes:
    try:
        return number.to_bytes(16, signed=signed)
    except OverflowError:
        raise ClarityError(f"{number} does not fit into 128 bits") from None


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(4) + data


def _short(name: str) -> bytes:
    data = _ascii(name)
    if not 1 <= len(data) <= 128:
        raise ClarityError(f"a name must have 1 to 128 characters, got {name!r}")
    return bytes([len(data)]) + data


def _ascii(text: str) -> bytes:
    try:
        return text.encode("ascii")
    except UnicodeEncodeError:
        raise ClarityError(f"{text!r} is not ASCII") from None


def _principal(value: Principal) -> bytes:
    check_principal(value.text)
    address, _, contract = value.text.partition(".")
    version, payload = c32_decode(address)
    return bytes([version]) + payload + (_short(contract) if contract else b"")


def _pairs(value: Mapping[str, Value]) -> bytes:
    pairs = [_short(key) + serialize(value[key]) for key in sorted(value)]
    return len(pairs).to_bytes(4) + b"".join(pairs)


def _show_pairs(value: Mapping[str, Value]) -> str:
    pairs = [f"({key} {represent(value[key])})" for key in sorted(value)]
    return f"({' '.join(['tuple', *pairs])})"


_Kind: TypeAlias = tuple[
    Callable[[Any], bytes], Callable[[_Reader], Value], Callable[[Any], str]
]
"""How values with one type prefix are written, read and shown."""


def _constant(value: bool | None, source: str) -> _Kind:
    return lambda _: b"", lambda _: value, lambda _: source


def _wrapper(wrap: Callable[[Value], Ok | Err | Some], word: str) -> _Kind:
    return (
        lambda v: serialize(v.value),
        lambda r: wrap(r.value()),
        lambda v: f"({word} {represent(v.value)})",
    )


_DEEPEST: Final = 32
_KINDS: Final[Mapping[int, _Kind]] = {
    0: (lambda v: _number(v, signed=True), lambda r: r.number(signed=True), str),
    1: (
        lambda v: _number(v.value),
        lambda r: UInt(r.number()),
        lambda v: f"u{v.value}",
    ),
    2: (_sized, lambda r: r.take(r.length()), lambda v: f"0x{v.hex()}"),
    3: _constant(True, "true"),
    4: _constant(False, "false"),
    5: (_principal, lambda r: Principal(r.address()), lambda v: f"'{v.text}"),
    6: (_principal, lambda r: Principal(r.contract()), lambda v: f"'{v.text}"),
    7: _wrapper(Ok, "ok"),
    8: _wrapper(Err, "err"),
    9: _constant(None, "none"),
    10: _wrapper(Some, "some"),
    11: (
        lambda v: len(v).to_bytes(4) + b"".join(map(serialize, v)),
        lambda r: tuple(r.value() for _ in range(r.length())),
        lambda v: f"({' '.join(['list', *map(represent, v)])})",
    ),
    12: (
        _pairs,
        lambda r: {r.name(): r.value() for _ in range(r.length())},
        _show_pairs,
    ),
    13: (
        lambda v: _sized(_ascii(v.text)),
        lambda r: Name(r.text("ASCII")),
        lambda v: f'"{v.text}"',
    ),
    14: (lambda v: _sized(v.encode()), lambda r: r.text("UTF-8"), lambda v: f'u"{v}"'),
}
_TYPES: Final[tuple[type, ...]] = (
    *(int, UInt, bytes, bool, bool, Principal, Principal, Ok, Err),
    *(NoneType, Some, tuple, dict, Name, str),
)


def _prefix(value: Value) -> int:
    if isinstance(value, Mapping):
        return 12
    first = _TYPES.index(type(value)) if type(value) in _TYPES else 11
    return first + (
        value is False or (isinstance(value, Principal) and "." in value.text)
    )


@attrs.frozen
class Int:
    """A signed integer in what `convert` returns, where an ``int`` is not negative."""

    value: int


def convert(value: Value, kind: Any) -> Any:
    """Return a value as a type, strictly, without ``(ok ...)`` and ``(some ...)``.

    Buffers of one or two bytes become numbers, longer ones hex.

    Raises:
        ClarityError: the value is ``(err ...)`` or does not fit the type.
    """
    try:
        return msgspec.convert(_plain(value), kind)
    except msgspec.ValidationError as error:
        raise ClarityError(str(error)) from None


def _plain(value: Value) -> object:
    match value:
        case Ok(inner) | Some(inner):
            return _plain(inner)
        case Err():
            raise ClarityError(f"expected (ok ...), got {represent(value)}")
        case UInt(plain) | Principal(plain) | Name(plain):
            return plain
        case bool() | str() | None:
            return value
        case int():
            return Int(value)
        case bytes():
            return value.hex() if len(value) > 2 else int.from_bytes(value)
        case Mapping():
            return {key: _plain(each) for key, each in value.items()}
        case _:
            return tuple(map(_plain, value))


@attrs.frozen
class Call:
    """A call of a read-only function.

    Attributes:
        contract: the contract.
        function: its function.
        arguments: its arguments.
        kind: what `convert` makes of the value; None leaves it as it is.
        may_fail: whether the text of a refusal is a value, a `Name`.
    """

    contract: str
    function: str
    arguments: tuple[Value, ...] = ()
    kind: Any = None
    may_fail: bool = False


BURN_HEIGHT: Final = Call("", "")
"""Asks for the height of the Bitcoin chain, which is not a contract's to tell."""

Steps: TypeAlias = Generator[Sequence[Call], Sequence[Any], _T]
"""What reads from a node without knowing one: it yields calls, and is sent their values."""


def ask(calls: Mapping[_K, Call]) -> Steps[dict[_K, Any]]:
    """Return the values of calls by the same keys."""
    values = yield list(calls.values())
    return dict(zip(calls, values, strict=True))
