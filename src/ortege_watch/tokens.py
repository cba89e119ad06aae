"""Tokens: what is one, when it expires, and how messages are kept free of it."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, AnyStr, Final, TypeAlias

from ortege_watch import _json as codec
from ortege_watch.errors import DecodeError, OrtegeWatchError

TokenLike: TypeAlias = "str | Callable[[], str] | Callable[[], Awaitable[str]]"
"""A token: a string, a function or an async function that returns one."""

_SCHEME = re.compile(r"bearer(\s+|$)", re.IGNORECASE)
_UNFIT = re.compile(r"[^\x21-\x7e]")  # a header carries visible ASCII in one word


SHORTEST_SECRET: Final = 8
"""Characters: whatever is shorter is not removed, for words would be cut to pieces."""


class Secrets(tuple[str, ...]):
    """What no message may show, its own repr included."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} secrets>"


class Concealed:
    """An argument that is or may be a token, as a traceback may show it."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value: Final = value

    def __repr__(self) -> str:
        return "<concealed>"


def redact(text: AnyStr, secrets: Iterable[str]) -> AnyStr:
    """Return a message or a body with ``<secret>`` in the place of every secret."""
    for secret in secrets:
        if len(secret) >= SHORTEST_SECRET:
            # As it is, as it stands within a repr, and as JSON of PHP has it.
            for form in {secret, repr(secret)[1:-1], secret.replace("/", r"\/")}:
                if isinstance(text, str):
                    text = text.replace(form, "<secret>")
                else:
                    text = text.replace(form.encode(), b"<secret>")
    return text


def safe_cause(
    error: BaseException | None, secrets: Iterable[str]
) -> BaseException | None:
    """Return an error that may be shown as a cause, or ``None`` if it shows a secret.

    It and its own causes lose their frames, whose variables are headers and requests.
    """
    secrets = Secrets(secrets)
    chain: list[BaseException] = []
    following: list[BaseException | None] = [error]
    while following:
        link = following.pop()
        if link is None or link in chain:
            continue
        text = f"{link} {link!r}"
        if redact(text, secrets) != text:
            return None
        chain.append(link.with_traceback(None))
        following += [link.__cause__, link.__context__]
        if isinstance(link, BaseExceptionGroup):
            following += link.exceptions
    return error


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


def timestamp(seconds: float) -> str:
    """Return unix seconds in ISO 8601, in UTC; unchanged if beyond the year 9999."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def clean(given: object, refuse: type[OrtegeWatchError]) -> str:
    """Return a token without a leading ``Bearer``; raise ``refuse`` for anything else.

    An ``InvalidArgument`` is about an argument, other errors about a token function.
    """
    token, problem = _examine(given, is_returned=refuse is OrtegeWatchError)
    del given  # a traceback shows what a frame has
    if problem:
        raise refuse(problem)
    return token


def _examine(given: object, *, is_returned: bool) -> tuple[str, str]:
    """Return a token, or an empty string and what is wrong."""
    returned = "the token function returned"
    if not isinstance(given, str):
        kind = type(given).__name__
        if is_returned:
            what = "None" if given is None else f"an object of type {kind}"
            return "", f"{returned} {what}, expected a str: return a JWT"
        return "", f"token must be a string or a function that returns one, got {kind}"
    token = given.strip()
    if scheme := _SCHEME.match(token):
        token = token[scheme.end() :]
    if not token:
        if is_returned:
            return "", f"{returned} an empty string: return a JWT"
        return "", "the token is empty: pass token=... or set ORTEGE_TOKEN"
    if unfit := _UNFIT.search(token):
        what = f"{returned} a string with" if is_returned else "the token contains"
        return "", (
            f"{what} U+{ord(unfit[0]):04X} at position {unfit.start()}:"
            " expected a JWT, visible ASCII without spaces"
        )
    return token, ""
