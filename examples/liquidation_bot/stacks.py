"""Stacks: Clarity values and principals as a node writes them, and calls to a node.

Follows SIP-005 (serialization of Clarity values; addresses in c32check), as far as the
bot needs it. Bytes that cannot be read are an error, never a guess.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from types import NoneType, TracebackType
from typing import Any, Final, Self, TypeAlias, TypeVar, cast

import attrs
import httpx
import msgspec

from liquidation_bot.model import SourceError, UsageError

__all__ = [
    "CallRefused",
    "ClarityError",
    "Err",
    "Name",
    "Node",
    "Ok",
    "Principal",
    "Some",
    "UInt",
    "Value",
    "c32_decode",
    "c32_encode",
    "check_principal",
    "deserialize",
    "fields",
    "integer",
    "ok",
    "principals",
    "represent",
    "serialize",
    "some",
    "uint",
]


_T = TypeVar("_T")


class ClarityError(ValueError):
    """Raised for an invalid Clarity value or principal."""


class CallRefused(SourceError):
    """Raised when a node answers that a call fails; it would fail again."""


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


def _as(value: Value, kind: type[_T], name: str) -> _T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ClarityError(f"expected {name}, got {value!r}")
    return value


def some(value: Value) -> Value:
    """Return what ``(some ...)`` contains, or raise ClarityError."""
    return _as(value, Some, "(some ...)").value


def ok(value: Value) -> Value:
    """Return what ``(ok ...)`` contains, or raise ClarityError."""
    return _as(value, Ok, "(ok ...)").value


def fields(value: Value) -> Mapping[str, Value]:
    """Return the fields of a tuple, or raise ClarityError."""
    return cast("Mapping[str, Value]", _as(value, dict, "a tuple"))


def uint(value: Value) -> int:
    """Return the number of a uint, or raise ClarityError."""
    return _as(value, UInt, "a uint").value


def integer(value: Value) -> int:
    """Return a signed integer, or raise ClarityError."""
    return _as(value, int, "an int")


def principals(value: Value) -> list[str]:
    """Return the principals of a list, or raise ClarityError."""
    listed = cast("tuple[Value, ...]", _as(value, tuple, "a list"))
    return [_as(each, Principal, "a principal").text for each in listed]


# A read-only call needs a sender, and accepts any: this is the burn address.
_SENDER: Final = "SP000000000000000000002Q6VF78"
_MAX_CONCURRENT: Final = 8
_RETRIES: Final = 4
_LONGEST_PAUSE: Final = 60.0
_LONGEST_CALL: Final = 150.0
# A RecursionError comes from JSON that is nested without end.
_FAILURES: Final = (
    *(httpx.HTTPError, TimeoutError, ValueError, TypeError),
    *(LookupError, RecursionError),
)
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class _Answer(msgspec.Struct):
    okay: bool
    result: str = ""
    cause: str = "no cause given"


class Node:
    """A client that calls read-only functions over HTTP, within a budget.

    Calls are sent at equal intervals. An answer 429 or 503 stops all calls for as long
    as its ``Retry-After`` says, a minute at most; then the call is repeated, four times
    and two and a half minutes at most.

    Args:
        url: of the node or of its API, such as ``https://api.hiro.so``.
        calls_per_minute: how many calls the node allows.
        key: sent as ``x-api-key``; it is in no log and no error.
        transport: replaces the network in tests.
        timeout: in seconds, for each request up to the end of its response.
        now: returns seconds.
        sleep: sleeps that many seconds.

    Raises:
        UsageError: the URL or the key cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        calls_per_minute: int = 500,
        key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        timeout: float = 20.0,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._host = _check_access(url, key)
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"x-api-key": key} if key else {},
            transport=transport,
            timeout=timeout,
        )
        self._timeout = timeout
        self._now = now
        self._sleep = sleep
        # A little more than needed: clocks and ways to the node differ.
        self._interval = 61 / calls_per_minute
        self._next = now()
        self._turn = asyncio.Lock()
        self._slots = asyncio.Semaphore(_MAX_CONCURRENT)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def call(self, contract: str, function: str, *arguments: Value) -> Value:
        """Call a read-only function and return its value.

        Raises:
            SourceError: the call failed, or its response cannot be read.
        """
        address, _, name = contract.partition(".")
        body = {
            "sender": _SENDER,
            "arguments": [f"0x{serialize(each).hex()}" for each in arguments],
        }
        path = f"/v2/contracts/call-read/{address}/{name}/{function}"
        try:
            answer = msgspec.convert(await self._ask("POST", path, body), _Answer)
            if answer.okay:
                return deserialize(bytes.fromhex(answer.result.removeprefix("0x")))
        except _FAILURES as error:
            raise self._failed(f"call {contract} {function}", error) from error
        cause = self._without_key(answer.cause)[:200]
        raise CallRefused(f"cannot call {contract} {function}: {cause}")

    async def burn_height(self) -> int:
        """Return the height of the Bitcoin chain, as the node knows it.

        Raises:
            SourceError: the request failed, or its response cannot be read.
        """
        try:
            info = await self._ask("GET", "/v2/info", None)
            return int(info["burn_block_height"])
        except _FAILURES as error:
            raise self._failed("read /v2/info", error) from error

    def _failed(self, what: str, error: Exception) -> SourceError:
        reason = self._without_key(str(error)) or type(error).__name__
        return SourceError(f"cannot {what} at {self._host}: {reason}")

    def _without_key(self, text: str) -> str:
        """Hide the key where a node repeats it."""
        key = self._http.headers.get("x-api-key")
        return text.replace(key, "[hidden]") if key else text

    async def _ask(self, method: str, path: str, body: object) -> Any:
        async with self._slots:
            response = await self._send(method, path, body)
            last = self._now() + _LONGEST_CALL
            for attempt in range(_RETRIES):
                if response.status_code not in (429, 503):
                    break
                pause = min(_retry_after(response, 2.0**attempt), _LONGEST_PAUSE)
                self._next = max(self._next, self._now() + pause)
                if self._next > last:
                    break
                response = await self._send(method, path, body)
        if response.status_code != 200:
            raise ValueError(f"HTTP status {response.status_code}")
        return response.json()

    async def _send(self, method: str, path: str, body: object) -> httpx.Response:
        async with self._turn:
            # A shorter wait than a millisecond might not move the clock.
            while (wait := self._next - self._now()) > 0.001:
                await self._sleep(wait)
            self._next = self._now() + self._interval
        async with asyncio.timeout(self._timeout):
            return await self._http.request(method, path, json=body)


def _check_access(url: str, key: str | None) -> str:
    """Return the host of a URL that a key may be sent to."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
        # A URL may contain a password, so it is not repeated.
        raise UsageError("the node's URL must be https://host, without a password")
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise UsageError("STACKS_API_KEY has spaces or other invalid characters")
    if key and parsed.scheme == "http" and parsed.host not in _LOOPBACK:
        raise UsageError("STACKS_API_KEY is sent only over https://")
    return parsed.host


def _retry_after(response: httpx.Response, otherwise: float) -> float:
    """Return for how many seconds the server does not want to be asked."""
    said = response.headers.get("retry-after", "")
    if said.isascii() and said.isdecimal():
        return float(said)
    try:
        until, at = map(parsedate_to_datetime, (said, response.headers.get("date", "")))
        return max((until - at).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return otherwise
