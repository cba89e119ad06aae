"""Where tokens come from, cleaned, and never shown."""

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
from ortege_watch.errors import DecodeError, OrtegeWatchError, QueryError

__all__ = ["TokenLike", "TokenSource", "expiry"]

TokenLike: TypeAlias = "str | Callable[[], str] | Callable[[], Awaitable[str]]"
"""What a user may give as a token: a string, a function, an async function."""

_SCHEME = re.compile(r"bearer(\s+|$)", re.IGNORECASE)
_UNFIT = re.compile(r"[^\x21-\x7e]")  # a header carries visible ASCII in one word


class TokenSource:
    """Give the token that a request or a connection needs.

    A function is asked each time, so it can renew the token and keep its own cache. It
    is called on the caller's thread (on the event loop, for an async client): one that
    blocks belongs in an async function.

    Nothing here shows the token: no repr, no error message, no attribute.
    """

    __slots__ = ("_ask", "is_fixed")

    def __init__(self, source: TokenLike) -> None:
        """Take a string, a function or an async function.

        Raises:
            QueryError: the string is no token, or the source is something else.
        """
        self.is_fixed = not callable(source)
        """Whether asking again gives the same token."""
        if callable(source):
            self._ask: Callable[[], str | Awaitable[str]] = source
            return
        token = _clean(source, QueryError)
        self._ask = lambda: token

    def __repr__(self) -> str:
        return "TokenSource(...)"

    def get(self) -> str:
        """Return the token, without a leading ``Bearer``.

        Raises:
            OrtegeWatchError: the function failed, gave no token, or is asynchronous;
                what it raised is on ``__cause__``.
        """
        answer = self._call()
        if inspect.isawaitable(answer):
            if inspect.iscoroutine(answer):
                answer.close()  # or Python warns that nobody awaited it
            raise OrtegeWatchError(
                "the token provider is asynchronous and this client is not: give it"
                " a plain function, or use AsyncCubeClient"
            )
        return _clean(answer, OrtegeWatchError)

    async def aget(self) -> str:
        """Return the token, without a leading ``Bearer``; await an async function.

        Raises:
            OrtegeWatchError: the function failed or gave no token; what it raised is on
                ``__cause__``.
        """
        answer = self._call()
        if inspect.isawaitable(answer):
            with _provider():
                answer = await answer
        return _clean(answer, OrtegeWatchError)

    def _call(self) -> object:
        with _provider():
            return self._ask()


def expiry(token: str) -> float | None:
    """Return when a JWT expires, in unix seconds.

    Returns:
        ``exp`` of its payload; ``None`` for a token that is no JWT, has no ``exp``, or
        one that is no finite number. The signature is not looked at.
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
def _provider() -> Iterator[None]:
    try:
        yield
    except OrtegeWatchError:
        raise
    except Exception as error:
        # Its text is left out: it may quote the request that fetched the token.
        name = type(error).__name__
        raise OrtegeWatchError(f"the token provider failed: {name}") from error


def _clean(given: object, refuse: type[OrtegeWatchError]) -> str:
    if not isinstance(given, str):
        raise refuse(
            f"a token is a string or a function that returns one, not"
            f" {type(given).__name__}"
        )
    token = given.strip()
    if scheme := _SCHEME.match(token):
        token = token[scheme.end() :]
    if not token:
        raise refuse(
            "the token is empty: give token=, or set the environment variable"
            " ORTEGE_TOKEN"
        )
    if unfit := _UNFIT.search(token):
        raise refuse(
            f"the token holds U+{ord(unfit[0]):04X} at position {unfit.start()}, which"
            " no header can carry: give the JWT alone, in one word"
        )
    return token
