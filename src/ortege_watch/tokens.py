"""Token sources, and when a token expires."""

from __future__ import annotations

import base64
import binascii
import inspect
import math
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import TypeAlias

from ortege_watch import _json as codec
from ortege_watch.errors import DecodeError, InvalidArgument, OrtegeWatchError

TokenLike: TypeAlias = "str | Callable[[], str] | Callable[[], Awaitable[str]]"
"""A token: a string, a function or an async function that returns one."""

_SCHEME = re.compile(r"bearer(\s+|$)", re.IGNORECASE)
_UNFIT = re.compile(r"[^\x21-\x7e]")  # a header carries visible ASCII in one word


class TokenSource:
    """The source of the tokens of requests and connections.

    A function is called each time, on the caller's thread (on the event loop, for an
    async client). No repr and no error message shows the token.
    """

    __slots__ = ("_ask", "_fixed", "is_fixed")

    def __init__(self, source: TokenLike) -> None:
        """Check a string, a function or an async function.

        Raises:
            InvalidArgument: the string is not a token, or the source is something else.
        """
        self.is_fixed = not callable(source)
        """Whether asking again gives the same token."""
        self._ask: Callable[[], str | Awaitable[str]] | None = None
        self._fixed = ""
        if callable(source):
            self._ask = source
        else:
            self._fixed = _clean(source, InvalidArgument)

    def __repr__(self) -> str:
        return "TokenSource(...)"

    def get(self) -> str:
        """Return the token, without a leading ``Bearer``.

        Raises:
            OrtegeWatchError: the function failed, did not return a token, or is async; its
                exception is on ``__cause__``.
        """
        if self._ask is None:
            return self._fixed
        with _calling_token_function():
            answer: object = self._ask()
        if inspect.isawaitable(answer):
            if inspect.iscoroutine(answer):
                answer.close()  # or Python warns that nobody awaited it
            raise OrtegeWatchError(
                "the token function is async, but this client is not: use a plain"
                " function, or AsyncCubeClient"
            )
        return _clean(answer, OrtegeWatchError)

    async def aget(self) -> str:
        """Return the token, without a leading ``Bearer``; await an async function.

        Raises:
            OrtegeWatchError: the function failed or did not return a token; its exception is
                on ``__cause__``.
        """
        if self._ask is None:
            return self._fixed
        with _calling_token_function():
            answer: object = self._ask()
            if inspect.isawaitable(answer):
                answer = await answer
        return _clean(answer, OrtegeWatchError)


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


@contextmanager
def _calling_token_function() -> Iterator[None]:
    try:
        yield
    except OrtegeWatchError:
        raise
    except Exception as error:
        # Its text is left out: it may quote the request that fetched the token.
        name = type(error).__name__
        raise OrtegeWatchError(f"the token function failed: {name}") from error


def _clean(given: object, refuse: type[OrtegeWatchError]) -> str:
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
