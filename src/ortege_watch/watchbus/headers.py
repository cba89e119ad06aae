"""Find the four signature headers in whatever a framework calls headers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, TypeAlias

from ortege_watch.errors import SignatureError, SignatureReason
from ortege_watch.watchbus.signing import SIGNATURE_HEADERS

__all__ = ["Headers", "signature_headers"]

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
