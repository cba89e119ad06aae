"""Clarity values and principals in the form that a Stacks node reads and writes.

Follows SIP-005 (serialization of Clarity values; addresses in c32check), as far as the
bot needs it. Bytes that cannot be read are an error, never a guess.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import attrs

__all__ = [
    "ClarityError",
    "Err",
    "Name",
    "Ok",
    "Principal",
    "Some",
    "UInt",
    "Value",
    "c32_decode",
    "c32_encode",
    "check_principal",
    "deserialize",
    "represent",
    "serialize",
]


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
    number = 0
    for digit in digits:
        number = number * 32 + _ALPHABET.index(digit)
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


_INT, _UINT, _BUFFER, _TRUE, _FALSE, _STANDARD, _CONTRACT_PRINCIPAL = range(7)
_OK, _ERR, _NONE, _SOME, _LIST, _TUPLE, _ASCII, _UTF8 = range(7, 15)
_DEEPEST: Final = 32


def serialize(value: Value) -> bytes:  # noqa: C901, PLR0911, PLR0912 - by kind
    """Return the consensus bytes of a value.

    Raises:
        ClarityError: a number does not fit into 128 bits, or a name is invalid.
    """
    match value:
        case None:
            return bytes([_NONE])
        case bool():
            return bytes([_TRUE if value else _FALSE])
        case int():
            return bytes([_INT]) + _number(value, signed=True)
        case UInt(number):
            return bytes([_UINT]) + _number(number, signed=False)
        case bytes():
            return bytes([_BUFFER]) + _sized(value)
        case Principal(text):
            return _principal(text)
        case Some(inner):
            return bytes([_SOME]) + serialize(inner)
        case Ok(inner):
            return bytes([_OK]) + serialize(inner)
        case Err(inner):
            return bytes([_ERR]) + serialize(inner)
        case Name(text):
            return bytes([_ASCII]) + _sized(_ascii(text))
        case str():
            return bytes([_UTF8]) + _sized(value.encode())
        case Mapping():
            parts = [_short(key) + serialize(value[key]) for key in sorted(value)]
            return bytes([_TUPLE]) + len(parts).to_bytes(4) + b"".join(parts)
        case Sequence():
            items = [serialize(each) for each in value]
            return bytes([_LIST]) + len(items).to_bytes(4) + b"".join(items)


def _number(number: int, *, signed: bool) -> bytes:
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


def _principal(text: str) -> bytes:
    check_principal(text)
    address, _, contract = text.partition(".")
    version, payload = c32_decode(address)
    if contract:
        return bytes([_CONTRACT_PRINCIPAL, version]) + payload + _short(contract)
    return bytes([_STANDARD, version]) + payload


def deserialize(data: bytes) -> Value:
    """Read one value from consensus bytes.

    Raises:
        ClarityError: the bytes are truncated, invalid, or longer than the value.
    """
    reader = _Reader(data)
    value = reader.value(0)
    if reader.left:
        raise ClarityError(f"{reader.left} bytes follow the value")
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

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

    def name(self) -> str:
        return self.ascii(self.take(self.take(1)[0]))

    def ascii(self, data: bytes) -> str:
        try:
            return data.decode("ascii")
        except UnicodeDecodeError:
            raise ClarityError(f"{data!r} is not ASCII") from None

    def address(self) -> str:
        version = self.take(1)[0]
        return c32_encode(version, self.take(20))

    def value(self, depth: int) -> Value:  # noqa: C901, PLR0911, PLR0912 - by kind
        if depth > _DEEPEST:
            raise ClarityError("the value is nested too deeply")
        kind = self.take(1)[0]
        match kind:
            case 0 | 1:
                number = int.from_bytes(self.take(16), signed=kind == _INT)
                return number if kind == _INT else UInt(number)
            case 2:
                return self.take(self.length())
            case 3 | 4:
                return kind == _TRUE
            case 5:
                return Principal(self.address())
            case 6:
                return Principal(f"{self.address()}.{self.name()}")
            case 7:
                return Ok(self.value(depth + 1))
            case 8:
                return Err(self.value(depth + 1))
            case 9:
                return None
            case 10:
                return Some(self.value(depth + 1))
            case 11:
                return tuple(self.value(depth + 1) for _ in range(self.length()))
            case 12:
                return {
                    self.name(): self.value(depth + 1) for _ in range(self.length())
                }
            case 13:
                return Name(self.ascii(self.take(self.length())))
            case 14:
                return self.text(self.take(self.length()))
            case _:
                raise ClarityError(f"unknown type prefix 0x{kind:02x}")

    def text(self, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise ClarityError(f"{data!r} is not UTF-8") from None


def represent(value: Value) -> str:  # noqa: C901, PLR0911, PLR0912 - by kind
    """Return a value as Clarity source, for people and for signers that accept it."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case UInt(number):
            return f"u{number}"
        case bytes():
            return f"0x{value.hex()}"
        case Principal(text):
            return f"'{text}"
        case Some(inner):
            return f"(some {represent(inner)})"
        case Ok(inner):
            return f"(ok {represent(inner)})"
        case Err(inner):
            return f"(err {represent(inner)})"
        case Name(text):
            return f'"{text}"'
        case str():
            return f'u"{value}"'
        case Mapping():
            pairs = [f"({key} {represent(value[key])})" for key in sorted(value)]
            return f"(tuple {' '.join(pairs)})"
        case Sequence():
            return f"(list {' '.join(represent(each) for each in value)})".replace(
                "(list )", "(list)"
            )
