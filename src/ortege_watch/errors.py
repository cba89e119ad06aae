"""Every error that this library raises.

::

    OrtegeWatchError
    ├── InvalidArgument (ValueError)   an argument that cannot be used
    │   └── QueryError                 an invalid query, member or filter value
    ├── DecodeError                    bytes or values that cannot be decoded
    ├── TransportError                 no response: unreachable, TLS, connection lost
    ├── DeadlineExceeded               the deadline of a call passed
    ├── SubscriptionLost               a subscription that cannot continue
    ├── ApiError                       an error response
    │   ├── AuthenticationError        the token was refused
    │   ├── RateLimited                too many requests
    │   ├── QueryRejected              the server refused the query
    │   └── WatchBusError              the watch-bus or a provider refused a request
    ├── SignatureError                 a signed request that was not accepted
    └── OutboxFull                     the outbox has no room for more alerts

No exception of httpx, websockets, msgspec or cattrs reaches a caller; where one was the
cause, it is on ``__cause__``. Messages contain no token and no secret; ``str(error)`` is
one line, of which texts have 2,000 characters at most. Every error can be pickled and
copied.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final, TypeVar

__all__ = [
    "ApiError",
    "AuthenticationError",
    "DeadlineExceeded",
    "DecodeError",
    "InvalidArgument",
    "OrtegeWatchError",
    "OutboxFull",
    "QueryError",
    "QueryRejected",
    "RateLimited",
    "SignatureError",
    "SignatureReason",
    "SubscriptionLost",
    "TransportError",
    "WatchBusError",
]

E = TypeVar("E", bound="OrtegeWatchError")


# Also one whose end is cut off. Its first two parts are JSON objects, and "eyJ" is the
# Base64 form of '{"'.
_JWT: Final = re.compile(r"eyJ[\w-]+\.eyJ[\w-]*(?:\.[\w-]*)?", re.ASCII)


def printable(text: str, length: int = 2000) -> str:
    """Return a text that a peer may have written as one line, cut at a length.

    Line breaks and control characters become spaces: no peer writes log lines of its
    own. A JWT becomes ``<token>``: a server may repeat one that the reader does not know.
    """
    if len(text) > length:
        text = text[:length] + "…"
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return _JWT.sub("<token>", text)


class OrtegeWatchError(Exception):
    """Base class of all errors of this library.

    Attributes:
        host: the server that it is about (host and port), or an empty string.
        query: the :class:`~ortege_watch.Query` that failed, where the error belongs to
            one; otherwise ``None``.
        watched: the :class:`~ortege_watch.watchbus.WatchResult` of what ``subscribe()``
            or ``unsubscribe()`` had done before it failed; otherwise ``None``.
        published: the :class:`~ortege_watch.watchbus.PublishResult` of what
            ``publish()`` or ``flush()`` had done before it failed; otherwise ``None``.
    """

    host: str = ""
    query: Any = None
    watched: Any = None
    published: Any = None

    @property
    def text(self) -> str:
        """``str(error)`` without the host, for a line that names it anyway."""
        return self._text()

    def _text(self) -> str:
        return printable(super().__str__())

    def __str__(self) -> str:
        return f"{self.host}: {self.text}" if self.host else self.text

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException's own calls the class with `args`, which fails for every
        # __init__ with keyword-only arguments.
        return _restore, (type(self), self.args), self.__dict__


def _restore(kind: type[E], args: tuple[Any, ...]) -> E:
    """Return an error without calling its ``__init__``; its attributes follow."""
    error = kind.__new__(kind, *args)
    error.args = args
    return error


class InvalidArgument(OrtegeWatchError, ValueError):
    """Raised when an argument cannot be used: a URL, a path, a limit, a secret.

    Nothing was sent. The message names the argument, its value and the rule.
    """


class QueryError(InvalidArgument):
    """Raised when a query, a member or a filter value is invalid.

    Nothing was sent. The message names the path or the member, and what to do instead.
    """


class DecodeError(OrtegeWatchError):
    """Raised when bytes or values cannot be decoded.

    Attributes:
        problems: one sentence per problem, with its path (member and row, or JSON path).
        excerpt: the first characters of the input; empty where they would not help.
    """

    def __init__(self, *problems: str, excerpt: str = "") -> None:
        self.problems: Sequence[str] = problems
        self.excerpt = excerpt
        super().__init__(*problems)

    def _text(self) -> str:
        text = "; ".join(self.problems) or "cannot be decoded"
        return printable(f"{text}: {self.excerpt!r}" if self.excerpt else text)


class TransportError(OrtegeWatchError):
    """Raised when no response arrived: unreachable host, TLS, connection lost.

    Attributes:
        unsent: the request was certainly not sent: no connection was opened.
    """

    unsent: bool = False


class DeadlineExceeded(OrtegeWatchError):
    """Raised when the deadline of a call passed before there was a response."""


class SubscriptionLost(OrtegeWatchError):
    """Raised when a subscription cannot continue, and reconnecting would not help.

    For instance, the server understands none of the dialects, or sends a frame that is
    larger than ``max_size``.
    """


class ApiError(OrtegeWatchError):
    """Raised when the server answered with an error.

    Attributes:
        message: the server's own message, as it is; in ``str(error)`` its line breaks
            and control characters are spaces, and a JWT is ``<token>``.
        status: the HTTP status (over a WebSocket, the frame's ``status``).
        code: the server's own error type, such as ``"UserError"``, or ``None``.
        request_id: the id that the request was sent with, as the server logs it, or
            ``None``.
        retry_after: seconds that the server asked to wait, at most a day, or ``None``.
        from_proxy: whether the response is not Cube's, but that of a proxy or a gateway
            before it, such as an HTML page.
    """

    retry_after: float | None = None
    from_proxy: bool = False

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        request_id: str | None = None,
    ) -> None:
        self.message = message
        self.status = status
        self.code = code
        self.request_id = request_id
        super().__init__(message)

    def _text(self) -> str:
        request = f", request {self.request_id}" if self.request_id else ""
        message = printable(self.message) or "no reason given"
        return f"{message} (status {self.status}{request})"


class AuthenticationError(ApiError):
    """Raised when the server refused the token, and the next one of the function too.

    Cube answers 403 ``Invalid token`` for an invalid and for an expired token alike.

    Attributes:
        advice: what to do about a token that was used again after it was refused, such
            as a fixed string; the end of ``str(error)``. Otherwise empty.
    """

    advice: str = ""

    def _text(self) -> str:
        return f"{super()._text()}; {self.advice}" if self.advice else super()._text()


class RateLimited(ApiError):
    """Raised when the server answered 429 to the last retry, too.

    Attributes:
        retry_after: seconds that the server asked to wait, at most a day, or ``None``.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 429,
        code: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, status=status, code=code, request_id=request_id)
        self.retry_after = retry_after


class QueryRejected(ApiError):
    """Raised when the server refused a query; the message is the server's."""


class WatchBusError(ApiError):
    """Raised when the watch-bus or a provider answered with an error.

    Attributes:
        code: the result code as a string, such as ``"000005"``, or ``None``. Do not
            compare codes as numbers: ``00001`` of a related system differs from
            ``000001``.
        reason: the text of the answer, such as ``"timestamp is expired"``, or ``None``.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(message, status=status, code=code)
        self.reason = reason

    def _text(self) -> str:
        return printable(self.message)


class SignatureReason(StrEnum):
    """The reason why a signed request was not accepted; equal to its string value."""

    MISSING_HEADER = "missing_header"
    MALFORMED_HEADER = "malformed_header"
    MALFORMED_TIMESTAMP = "malformed_timestamp"
    EXPIRED = "expired"
    IN_THE_FUTURE = "in_the_future"
    MALFORMED_NONCE = "malformed_nonce"
    UNKNOWN_APP = "unknown_app"
    APP_EXPIRED = "app_expired"
    APP_OVER_LIMIT = "app_over_limit"
    BAD_SIGNATURE = "bad_signature"
    REPLAY = "replay"
    BODY_TOO_LARGE = "body_too_large"
    QUERY_PRESENT = "query_present"
    OTHER_PATH = "other_path"
    NONCES_FULL = "nonces_full"


_HEADERS: Final = "headers can not be null or empty"


class SignatureError(OrtegeWatchError):
    """Raised when a signed request was not accepted.

    The message contains no part of a secret or a signature. A view of a framework
    answers the request with :attr:`status` and :attr:`body`.

    Attributes:
        reason: the rule that the request breaks.
        delta: for ``EXPIRED`` and ``IN_THE_FUTURE``, the age of the request in seconds
            by the verifier's clock (negative: in the future); otherwise ``None``.
    """

    def __init__(
        self, reason: SignatureReason, message: str, *, delta: float | None = None
    ) -> None:
        self.reason = reason
        self.delta = delta
        super().__init__(message)

    @property
    def status(self) -> int:
        """The HTTP status of the response to the request."""
        return _REFUSALS[self.reason][0]

    @property
    def body(self) -> bytes:
        """The body of the response: the specification's envelope, as JSON."""
        _, code, text = _REFUSALS[self.reason]
        envelope = '{"status":"ERROR","code":"%s","data":null,"error_data":"%s"}'
        return (envelope % (code, text)).encode()


# Codes and texts are the documented ones, where there is one; a body that is too large and
# another path have none, so they are server errors. The HTTP statuses are undocumented.
_REFUSALS: Final = {
    SignatureReason.MISSING_HEADER: (401, "000004", _HEADERS),
    SignatureReason.MALFORMED_HEADER: (401, "000004", _HEADERS),
    SignatureReason.MALFORMED_TIMESTAMP: (401, "000005", "timestamp has illegal"),
    SignatureReason.EXPIRED: (401, "000005", "timestamp is expired"),
    SignatureReason.IN_THE_FUTURE: (401, "000005", "timestamp is expired"),
    SignatureReason.MALFORMED_NONCE: (401, "000005", "nonce is illegal"),
    SignatureReason.UNKNOWN_APP: (401, "000003", "invalid appid"),
    SignatureReason.APP_EXPIRED: (401, "000005", "appid has expired"),
    SignatureReason.APP_OVER_LIMIT: (429, "000005", "app is out of count limit"),
    SignatureReason.BAD_SIGNATURE: (401, "000005", "invalid signature"),
    SignatureReason.REPLAY: (401, "000005", "replay request"),
    SignatureReason.BODY_TOO_LARGE: (413, "000001", "body too large"),
    SignatureReason.QUERY_PRESENT: (400, "000005", "a query cannot be signed"),
    SignatureReason.OTHER_PATH: (404, "000001", "not found"),
    SignatureReason.NONCES_FULL: (429, "000002", "too many requests"),
}


class OutboxFull(OrtegeWatchError):
    """Raised when the outbox has no room; none of the call's alerts was accepted."""
