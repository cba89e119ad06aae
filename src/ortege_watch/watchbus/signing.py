"""Signing requests of the watch-bus, and checking signatures.

The signed text is ``appid;timestamp;nonce;METHOD;path;body``, the signature the lower-
case hex form of its HMAC-SHA256 under the UTF-8 bytes of the secret (AvengerDAO,
"Authorization"). With an empty body the text ends in ``;``, as in the official samples.

The scheme is ambiguous: ``path=/p`` with the query ``q=1`` and the body ``X``, ``path=/p``
with the body ``q=1;X``, and ``path=/p;q=1`` with the body ``X`` share one signature. So
no field but the body may contain a ``;``, a query is refused, and the body is JSON or
empty: then one signature stands for one request.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, TypeAlias

from attrs import field, frozen

from ortege_watch import _json as codec
from ortege_watch._checks import check_int, check_kind, check_match, shown
from ortege_watch.errors import (
    DecodeError,
    InvalidArgument,
    SignatureError,
    SignatureReason,
)
from ortege_watch.tokens import Concealed

CONTENT_TYPE: Final = "application/json;charset=UTF-8"

SIGNATURE_HEADERS: Final = (
    "X-Signature-appid",
    "X-Signature-timestamp",
    "X-Signature-nonce",
    "X-Signature-signature",
)
"""The four headers of a signed request, in the specification's spelling."""

_FIELD: Final = re.compile(r"[!-:<-~]+")  # visible ASCII without ";"
_NO_FIELD: Final = re.compile(r"[^!-:<-~]")
_METHOD: Final = re.compile(r"[A-Z]+")
_PATH: Final = re.compile(r"/[!\"$-:<->@-~]*")  # ... and without "?" and "#"

_DASHED: Final = re.compile(r"\w{8}(?:-\w{4}){3}-\w{12}", re.ASCII)  # str(uuid4())

Key: TypeAlias = hmac.HMAC
"""A secret that is ready for signing; its ``repr`` does not show the secret."""


def is_field(text: object) -> bool:
    """Return whether the text can precede the body: visible ASCII without ``;``."""
    return isinstance(text, str) and _FIELD.fullmatch(text) is not None


def check_app_id(app_id: Concealed) -> None:
    """Raise :class:`InvalidArgument` unless the app id can be sent as a header."""
    if not is_field(app_id.value):
        rule = "app_id must be visible ASCII characters without ';'"
        # Not its value, which is a secret where the two are swapped.
        got = "''" if app_id.value == "" else type(app_id.value).__name__
        if isinstance(app_id.value, str) and app_id.value:
            found = _NO_FIELD.search(app_id.value)
            assert found is not None  # noqa: S101 - it is no field
            got = f"one with {found[0]!r} at index {found.start()}"
        raise InvalidArgument(f"{rule}, got {got}")


@frozen
class Credentials:
    """The app id and the secret that sign requests.

    Neither ``repr`` nor any error contains the secret, nor do the frames of a traceback.

    Attributes:
        app_id: the id under which the other side knows the secret.
        secret: used as its UTF-8 bytes, even if it looks like hex digits. Use one
            secret for each direction: the host is not signed.

    Raises:
        InvalidArgument: the id or the secret cannot be used.
    """

    app_id: str
    secret: str = field(repr=False)

    def __init__(self, app_id: str, secret: str) -> None:
        # The two may be swapped, and a traceback shows what a frame has.
        name, given = Concealed(app_id), Concealed(secret)
        del app_id, secret
        object.__setattr__(self, "app_id", "")  # for the repr, until it is checked
        check_app_id(name)
        prepare(given)
        object.__setattr__(self, "app_id", name.value)
        object.__setattr__(self, "secret", given.value)


def check_credentials(given: Concealed) -> Credentials:
    """Return the argument ``credentials``, or raise :class:`InvalidArgument`.

    What is given in its place may be the secret, which no frame has as a local variable.
    """
    if not isinstance(given.value, Credentials):
        got = type(given.value).__name__
        rule = "credentials must be Credentials(app_id, secret)"
        raise InvalidArgument(f"{rule}, got {got}")
    return given.value


def prepare(secret: object, name: str = "secret") -> Key:
    """Return the HMAC-SHA256 of an empty text under a secret, which is checked.

    To copy it and add the text takes two thirds of the time of ``hmac.digest()``.
    """
    given = secret if isinstance(secret, Concealed) else Concealed(secret)
    del secret  # a traceback shows what a frame has
    if problem := _problem(given.value):
        raise InvalidArgument(f"{name} {problem}")
    return hmac.new(given.value.encode(), digestmod="sha256")


def _problem(secret: object) -> str:
    """Return what is wrong with a secret."""
    if not isinstance(secret, str) or not secret:
        # Not its value, which might be a secret of another type.
        got = "''" if isinstance(secret, str) else type(secret).__name__
        if secret is None:
            got = "None: is a variable of the environment not set?"
        return f"must be a non-empty string, got {got}"
    if secret != secret.strip():
        return "begins or ends with whitespace: strip() it"
    try:
        secret.encode()
    except UnicodeEncodeError:
        return "contains a lone surrogate and cannot be encoded as UTF-8"
    return ""


def digest(key: Key, message: bytes) -> str:
    """Return the signature of a message."""
    mac = key.copy()
    mac.update(message)
    return mac.hexdigest()


def matches(keys: Iterable[Key], message: bytes, signature: str) -> bool:
    """Return whether one of the keys made the signature; all are tried, in constant time."""
    if not signature.isascii():
        return False
    good = False
    for key in keys:
        mac = key.copy()  # as digest(), without a call
        mac.update(message)
        good |= hmac.compare_digest(mac.hexdigest(), signature)
    return good


def request_line(method: str, path: str) -> str:
    """Return the part of the message that has the method and the path, checked."""
    check_match("method", method, _METHOD, "an HTTP method in capitals")
    rule = "a path that begins with '/', percent-encoded, with neither a query nor ';'"
    check_match("path", path, _PATH, rule)
    return f"{method};{path};"


FIRST_TIMESTAMP: Final = 10**11
"""The least timestamp in milliseconds, in 1973: less is taken for seconds."""
LAST_TIMESTAMP: Final = 10**15 - 1
"""The largest one that a :class:`RequestVerifier` reads."""


def canonical(app_id: str, timestamp: str, nonce: str, line: str, body: bytes) -> bytes:
    """Return the message that is signed; ``line`` is from :func:`request_line`."""
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
    """Return the signature of a request.

    Send exactly these bytes as the body, and use a new timestamp and nonce for each
    attempt: the same request sent twice is a replay.

    Args:
        credentials: the app id and the secret.
        method: in capitals, such as ``"POST"``.
        path: the whole path that the server sees, without host and query.
        body: the bytes that are sent: JSON, or empty.
        timestamp: unix milliseconds.
        nonce: a new ``uuid4().hex``, 32 characters; ``str(uuid4())``, with dashes, is
            refused. Other visible ASCII without ``;`` can be signed, as the published
            example is, but verifiers refuse it by default.

    Returns:
        64 lower-case hex digits.

    Raises:
        InvalidArgument: an argument cannot be signed without ambiguity.
    """
    given = Concealed(credentials)
    del credentials  # a traceback shows what a frame has
    return _sign(check_credentials(given), method, path, body, timestamp, nonce)


def _sign(
    credentials: Credentials,
    method: str,
    path: str,
    body: bytes,
    timestamp: int,
    nonce: str,
) -> str:
    line = request_line(method, path)
    expected = "an int of unix milliseconds"
    check_int(
        "timestamp", timestamp, expected, first=FIRST_TIMESTAMP, last=LAST_TIMESTAMP
    )
    if not is_field(nonce) or _DASHED.fullmatch(nonce):
        raise InvalidArgument(f"invalid nonce {shown(nonce)}: pass uuid4().hex")
    check_kind("body", body, bytes, "the bytes that are sent")
    if body:
        try:
            codec.loads(body)
        except DecodeError as error:
            raise InvalidArgument(f"body must be JSON or empty: {error}") from error
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
    """Return the headers of a signed request: the content type and the signature's.

    Arguments and errors are those of :func:`sign`.
    """
    given = Concealed(credentials)
    del credentials
    signer = check_credentials(given)
    signature = _sign(signer, method, path, body, timestamp, nonce)
    return headers_of(signer.app_id, str(timestamp), nonce, signature)


def headers_of(*fields: str) -> dict[str, str]:
    """Return the headers of a request from its four :data:`Fields`."""
    headers = dict(zip(SIGNATURE_HEADERS, fields, strict=True))
    return {"Content-Type": CONTENT_TYPE, **headers}


Headers: TypeAlias = (
    Mapping[str, str]
    | Mapping[bytes, bytes]
    | Iterable[tuple[str, str]]
    | Iterable[tuple[bytes, bytes]]
)
"""A mapping, or pairs as in an ASGI scope; of strings or of bytes, in any case."""

Fields: TypeAlias = tuple[str, str, str, str]

_NAMES: Final = tuple(name.lower() for name in SIGNATURE_HEADERS)
_pick_bytes: Final = itemgetter(*[name.encode() for name in _NAMES])


def signature_headers(headers: Headers) -> Fields:
    """Return the app id, timestamp, nonce and signature; bytes are Latin-1.

    Raises:
        SignatureError: one is missing or empty, is repeated with another value, or is
            neither a string nor bytes.
    """
    if type(headers) is dict:
        pick = _picker(tuple(headers))
        if pick is not None:
            fields = pick(headers)
            try:
                "".join(fields)  # a TypeError unless all are str
            except TypeError:
                return _search(headers)
            if "" not in fields:
                return fields
    elif type(headers) is list:
        return _of_scope(headers) or _search(headers)
    return _search(headers)


def _of_scope(headers: list[tuple[bytes, bytes]]) -> Fields | None:
    """Return the four headers of an ASGI scope, where names are bytes in lower case.

    ``None`` if one is missing or empty, a name is repeated, or something is odd.
    """
    try:
        named = dict(headers)
        if len(named) < len(headers) or not b",".join(named).islower():
            return None
        text = b"\n".join(_pick_bytes(named)).decode("latin-1")
        app_id, timestamp, nonce, signature = text.split("\n")
    except (KeyError, TypeError, ValueError):
        return None
    if app_id and timestamp and nonce and signature:
        return app_id, timestamp, nonce, signature
    return None


@lru_cache(maxsize=256)
def _picker(names: tuple[object, ...]) -> Callable[[Mapping[Any, Any]], Fields] | None:
    """Return a function that picks the four headers from a dict with these names.

    ``None`` if one is missing or there twice. A sender's names are always the same.
    """
    folded = [_text(name).lower() for name in names]
    if any(folded.count(name) != 1 for name in _NAMES):
        return None
    return itemgetter(*[names[folded.index(name)] for name in _NAMES])


def _search(headers: Headers) -> Fields:
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    found: dict[str, str] = {}
    try:
        listed = [(_text(name).lower(), value) for name, value in pairs]
    except (TypeError, ValueError) as error:
        raise _malformed("the headers must be a mapping or pairs") from error
    for name, value in listed:
        if name in _NAMES:
            text = _text(value)
            if found.setdefault(name, text) != text:
                raise _malformed(f"the header {name} is repeated with another value")
            if not isinstance(value, str | bytes):
                raise _malformed(f"the header {name} is neither a string nor bytes")
    for name in _NAMES:
        if not found.get(name):
            problem = f"the header {name} is missing or empty"
            raise SignatureError(SignatureReason.MISSING_HEADER, problem)
    app_id, timestamp, nonce, signature = map(found.__getitem__, _NAMES)
    return app_id, timestamp, nonce, signature


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else ""


def _malformed(problem: str) -> SignatureError:
    return SignatureError(SignatureReason.MALFORMED_HEADER, problem)
