"""Sign requests of the watch-bus, and tell whether a signature is right.

The signed text is ``appid;timestamp;nonce;METHOD;path;body``, the signature the lower-
case hex form of its HMAC-SHA256 under the UTF-8 bytes of the secret (AvengerDAO,
"Authorization"). With an empty body the text ends in ``;`` (as the samples do it).

The scheme has a hole: ``path=/p`` with the query ``q=1`` and the body ``X``, ``path=/p``
with the body ``q=1;X``, and ``path=/p;q=1`` with the body ``X`` share one signature. So
no field but the body may hold a ``;``, a query is refused, and the body is JSON or
empty: then one signature stands for one request.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from hmac import compare_digest
from operator import itemgetter
from typing import Any, Final, Protocol, TypeAlias

from attrs import Attribute, field, frozen

from ortege_watch import _json as codec
from ortege_watch.errors import (
    DecodeError,
    InvalidArgument,
    QueryError,
    SignatureError,
    SignatureReason,
)
from ortege_watch.watchbus.fields import shown

__all__ = [
    "CONTENT_TYPE",
    "SIGNATURE_HEADERS",
    "Credentials",
    "Headers",
    "Key",
    "canonical",
    "digest",
    "is_field",
    "matches",
    "prepare",
    "request_line",
    "sign",
    "signature_headers",
    "signed_headers",
]

CONTENT_TYPE: Final = "application/json;charset=UTF-8"

SIGNATURE_HEADERS: Final = (
    "X-Signature-appid",
    "X-Signature-timestamp",
    "X-Signature-nonce",
    "X-Signature-signature",
)
"""The four headers of a signed request, as the page spells them."""

_FIELD: Final = re.compile(r"[!-:<-~]+")  # visible ASCII without ";"
_METHOD: Final = re.compile(r"[A-Z]+")
_PATH: Final = re.compile(r"/[!\"$-:<->@-~]*")  # ... and without "?" and "#"
_BLOCK: Final = hashlib.sha256().block_size


class _Hash(Protocol):
    def copy(self) -> _Hash: ...
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...
    def hexdigest(self) -> str: ...


Key: TypeAlias = tuple[Callable[[], _Hash], Callable[[], _Hash]]
"""A secret made ready for signing; it shows nothing of the secret."""


def is_field(text: object) -> bool:
    """Tell whether the text can stand before the body: visible ASCII without ``;``."""
    return isinstance(text, str) and _FIELD.fullmatch(text) is not None


def _check_app_id(_instance: object, _attribute: Attribute[str], app_id: str) -> None:
    if not is_field(app_id):
        raise QueryError(
            f"app_id: {app_id!r} is no app id: give visible ASCII characters without"
            " spaces and ';'"
        )


def _check_secret(_instance: object, _attribute: Attribute[str], secret: str) -> None:
    prepare(secret)


@frozen
class Credentials:
    """Hold what a caller signs with. The secret is in no repr and in no error.

    Attributes:
        app_id: the id that the other side knows the secret by.
        secret: used as its UTF-8 bytes, also where it looks like hex digits. Use one
            secret for each direction: the host is not signed.

    Raises:
        QueryError: the id or the secret cannot be used.
    """

    app_id: str = field(validator=_check_app_id)
    secret: str = field(repr=False, validator=_check_secret)


def prepare(secret: object) -> Key:
    """Do the part of HMAC-SHA256 that depends on the secret alone (RFC 2104).

    A request is verified in half the time of a fresh HMAC object.

    Raises:
        QueryError: it is no text, is empty, or has no UTF-8 form.
    """
    if not isinstance(secret, str) or not secret:
        raise QueryError("secret: give the text of the secret, and not an empty one")
    try:
        key = secret.encode()
    except UnicodeEncodeError:
        # The original error quotes the secret.
        raise QueryError("secret: it holds a character without UTF-8 form") from None
    if len(key) > _BLOCK:
        key = hashlib.sha256(key).digest()
    key = key.ljust(_BLOCK, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key))
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in key))
    return inner.copy, outer.copy


def digest(key: Key, message: bytes) -> str:
    """Compute the signature of a canonical message."""
    inner, outer = key[0](), key[1]()
    inner.update(message)
    outer.update(inner.digest())
    return outer.hexdigest()


def matches(keys: Iterable[Key], message: bytes, signature: str) -> bool:
    """Tell whether one of the keys made the signature; try all of them, always.

    Each comparison takes the same time wherever the two differ. A signature that is
    not lower-case hex matches nothing.
    """
    if not signature.isascii():
        return False
    good = False
    for inner, outer in keys:  # as in digest(), without a call for each
        first, last = inner(), outer()
        first.update(message)
        last.update(first.digest())
        good |= compare_digest(last.hexdigest(), signature)
    return good


def request_line(method: str, path: str) -> str:
    """Return the part of the message that tells what is asked, checked.

    Raises:
        InvalidArgument: the method or the path cannot be signed: it has a query or a
            ``;``, or is not percent-encoded.
    """
    if _METHOD.fullmatch(method) is None:
        raise InvalidArgument(
            f"method must be an HTTP method in capitals, got {method!r}"
        )
    if _PATH.fullmatch(path) is None:
        raise InvalidArgument(
            f"invalid path {path!r}: a path that is signed must begin with '/', be"
            " percent-encoded and have neither a query nor a ';'"
        )
    return f"{method};{path};"


def canonical(app_id: str, timestamp: str, nonce: str, line: str, body: bytes) -> bytes:
    """Join what is signed; ``line`` comes from :func:`request_line`."""
    return f"{app_id};{timestamp};{nonce};{line}".encode() + body


def sign(
    credentials: Credentials,
    method: str,
    path: str,
    body: bytes,
    *,
    timestamp: int,
    nonce: str,
) -> str:
    """Sign a request.

    The caller sends exactly these bytes as the body, and takes a new timestamp and
    nonce for every attempt: a request that is sent twice is a replay.

    Args:
        credentials: whose signature it is.
        method: in capitals, such as ``"POST"``.
        path: the whole path that the server sees, without host and query.
        body: the bytes that are sent: JSON, or empty.
        timestamp: unix milliseconds.
        nonce: a new uuid4 in hex, 32 characters; other visible ASCII without ``;`` is
            signed as well.

    Returns:
        64 lower-case hex digits.

    Raises:
        QueryError: one of them cannot be signed without ambiguity.
    """
    line = request_line(method, path)
    if type(timestamp) is not int or timestamp < 0:
        raise QueryError(
            f"timestamp: {shown(timestamp)} is no int of unix milliseconds"
        )
    if not is_field(nonce):
        raise QueryError(f"nonce: {nonce!r} is none: give uuid.uuid4().hex")
    if not isinstance(body, bytes):
        raise QueryError("body: sign the bytes that are sent, not text or an object")
    if body:
        try:
            codec.loads(body)
        except DecodeError as error:
            raise QueryError(f"body: only JSON can be signed: {error}") from error
    message = canonical(credentials.app_id, str(timestamp), nonce, line, body)
    return digest(prepare(credentials.secret), message)


def signed_headers(
    credentials: Credentials,
    method: str,
    path: str,
    body: bytes,
    *,
    timestamp: int,
    nonce: str,
) -> dict[str, str]:
    """Return the headers of a signed request; arguments and errors as :func:`sign`."""
    signature = sign(credentials, method, path, body, timestamp=timestamp, nonce=nonce)
    values = (credentials.app_id, str(timestamp), nonce, signature)
    headers = dict(zip(SIGNATURE_HEADERS, values, strict=True))
    return {"Content-Type": CONTENT_TYPE, **headers}


# -------------------- Find the four signature headers in whatever a framework calls headers.


Headers: TypeAlias = (
    Mapping[str, str]
    | Mapping[bytes, bytes]
    | Iterable[tuple[str, str]]
    | Iterable[tuple[bytes, bytes]]
)
"""A mapping, or pairs as in an ASGI scope; of text or of bytes, in any case."""

Fields: TypeAlias = tuple[str, str, str, str]

_NAMES: Final = tuple(name.lower() for name in SIGNATURE_HEADERS)


def signature_headers(headers: Headers) -> Fields:
    """Return the app id, timestamp, nonce and signature, as text of Latin-1 bytes.

    Raises:
        SignatureError: one is missing or empty, is there twice and differs, or is
            neither text nor bytes.
    """
    if type(headers) is dict:
        pick = _layout(tuple(headers))
        if pick is not None:
            fields = pick(headers)
            try:
                "".join(fields)  # a TypeError unless all are str
            except TypeError:
                return _search(headers)
            if "" not in fields:
                return fields
    return _search(headers)


@lru_cache(maxsize=256)
def _layout(names: tuple[object, ...]) -> Callable[[Mapping[Any, Any]], Fields] | None:
    """Find the headers by their names: a sender's are the same in each request.

    Returns:
        What picks the four; ``None`` where one is missing, or is there twice.
    """
    folded = [_text(name).lower() for name in names]
    if any(folded.count(name) != 1 for name in _NAMES):
        return None
    return itemgetter(*[names[folded.index(name)] for name in _NAMES])


def _search(headers: Headers) -> Fields:
    found: dict[str, str] = {}
    for name, value in _pairs(headers):
        folded = _text(name).lower()
        if folded in _NAMES:
            text = _text(value)
            if found.setdefault(folded, text) != text:
                raise _malformed(f"the header {folded} is there twice, and differs")
            if not isinstance(value, str | bytes):
                raise _malformed(f"the header {folded} is neither text nor bytes")
    for name in _NAMES:
        if not found.get(name):
            problem = f"the header {name} is missing or empty"
            raise SignatureError(SignatureReason.MISSING_HEADER, problem)
    app_id, timestamp, nonce, signature = map(found.__getitem__, _NAMES)
    return app_id, timestamp, nonce, signature


def _pairs(headers: Headers) -> list[tuple[object, object]]:
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    try:
        return [(name, value) for name, value in pairs]
    except (TypeError, ValueError) as error:
        raise _malformed("the headers are neither a mapping nor pairs") from error


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else ""


def _malformed(problem: str) -> SignatureError:
    return SignatureError(SignatureReason.MALFORMED_HEADER, problem)
