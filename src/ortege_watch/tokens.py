"""Tokens: what is one, and when it expires."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import TypeAlias

from ortege_watch import _json as codec
from ortege_watch.errors import DecodeError, OrtegeWatchError

TokenLike: TypeAlias = "str | Callable[[], str] | Callable[[], Awaitable[str]]"
"""A token: a string, a function or an async function that returns one."""

_SCHEME = re.compile(r"bearer(\s+|$)", re.IGNORECASE)
_UNFIT = re.compile(r"[^\x21-\x7e]")  # a header carries visible ASCII in one word


def expiry(token: str) -> float | None:
    """Return when a JWT expires, in unix seconds.

    Returns:
        ``exp`` of its payload; ``None`` for a token that is not a JWT, or has no finite
        number as ``exp``. The signature is not verified.
    """
    try:
        _, payload, _ = token.split(".")
        claims = codec.loads(base64.urlsafe_b64decode(payload + "=" * 3))
    except (ValueError, binascii.Error, DecodeError):
        return None
    exp = claims.get("exp") if isinstance(claims, dict) else None
    if isinstance(exp, bool) or not isinstance(exp, int | Decimal):
        return None
    try:
        seconds = float(exp)
    except OverflowError:  # an integer beyond any clock: it never expires
        return None
    return seconds if math.isfinite(seconds) else None


def clean(given: object, refuse: type[OrtegeWatchError]) -> str:
    """Return a token without a leading ``Bearer``; raise ``refuse`` for anything else."""
    if not isinstance(given, str):
        raise refuse(
            "token must be a string or a function that returns one, got"
            f" {type(given).__name__}"
        )
    token = given.strip()
    if scheme := _SCHEME.match(token):
        token = token[scheme.end() :]
    if not token:
        raise refuse("the token is empty: pass token=... or set ORTEGE_TOKEN")
    if unfit := _UNFIT.search(token):
        raise refuse(
            f"the token contains U+{ord(unfit[0]):04X} at position {unfit.start()}:"
            " expected a JWT, visible ASCII without spaces"
        )
    return token
