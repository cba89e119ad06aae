"""Every error that this library raises.

::

    OrtegeWatchError
    ├── InvalidArgument (a ValueError) an argument that cannot be used
    │   └── QueryError                 a query that no server should be sent
    ├── DecodeError                    bytes or values that cannot be read
    ├── TransportError                 no answer: unreachable, TLS, cut off
    ├── ApiError                       an answer that says no
    │   ├── AuthenticationError        the token is refused
    │   ├── RateLimited                too many requests
    │   └── QueryRejected              the server refuses this query
    ├── DeadlineExceeded               the caller's own time limit passed
    ├── SubscriptionLost               a subscription that cannot go on
    ├── SignatureError                 a signed request that is not accepted
    ├── WatchBusError                  the watch-bus or a provider says no
    └── OutboxFull                     no room for more alerts that wait to be sent

No exception of httpx, websockets, msgspec or cattrs reaches a caller; where one was
the cause, it is on ``__cause__``. No message holds a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ortege_watch.query import Query
    from ortege_watch.watchbus.models import WatchResult
    from ortege_watch.watchbus.posting import PublishResult

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


class OrtegeWatchError(Exception):
    """Be the root of every error of this library.

    Attributes:
        query: the query that the error belongs to, where it belongs to one; an error
            out of a subscription to several queries names the one that failed.
        watched: what ``subscribe()`` or ``unsubscribe()`` of a watch-bus client had
            done before it failed.
        published: what ``publish()`` or ``flush()`` of an alert publisher had done
            before it failed.
    """

    query: Query | None = None
    watched: WatchResult | None = None
    published: PublishResult | None = None


class InvalidArgument(OrtegeWatchError, ValueError):
    """Raised when an argument cannot be used: a URL, a path, a limit, a secret."""


class QueryError(InvalidArgument):
    """Raised when a query, a member or a filter value is invalid. Nothing was sent.

    The message names the path or the member, the reason, and what to do instead.
    """


class DecodeError(OrtegeWatchError):
    """Report bytes or values that cannot be read.

    Attributes:
        problems: one sentence each, with its path (member and row, or JSON path).
        excerpt: the beginning of what could not be read; empty where that would
            say nothing.
    """

    def __init__(self, *problems: str, excerpt: str = "") -> None:
        self.problems: Sequence[str] = problems
        self.excerpt = excerpt
        text = "; ".join(problems) or "cannot be read"
        super().__init__(f"{text}: {excerpt!r}" if excerpt else text)


class TransportError(OrtegeWatchError):
    """Report that no answer came: unreachable host, TLS failure, connection cut."""


class ApiError(OrtegeWatchError):
    """Report an answer that says no.

    Attributes:
        status: the HTTP status (over a WebSocket, the frame's ``status``).
        code: the server's own error type, such as ``"UserError"``; ``None`` without.
        request_id: the id that the request carried, to find it in the server's log.
        message: the server's sentence, as it came.
    """

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
        where = f"status {status}" + (f", request {request_id}" if request_id else "")
        super().__init__(f"{message} ({where})")


class AuthenticationError(ApiError):
    """Report a token that the server refuses, also after asking for another one.

    Cube answers 403 ``Invalid token`` to a bad and to an expired token alike.
    """


class RateLimited(ApiError):
    """Report 429 after the last retry.

    Attributes:
        retry_after: seconds that the server asks to wait; ``None`` if it did not say.
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
    """Report a query that the server refuses; the message is the server's sentence."""


class DeadlineExceeded(OrtegeWatchError):
    """Report that the overall time limit of a call passed before its answer came."""


class SubscriptionLost(OrtegeWatchError):
    """Report a subscription that cannot go on, and why.

    Raised where another attempt would fail the same way: no dialect is understood, or
    a frame is larger than the client may take.
    """


class SignatureReason(StrEnum):
    """Say why a signed request is not accepted; each is equal to its text."""

    MISSING_HEADER = "missing_header"
    MALFORMED_HEADER = "malformed_header"
    MALFORMED_TIMESTAMP = "malformed_timestamp"
    EXPIRED = "expired"
    IN_THE_FUTURE = "in_the_future"
    MALFORMED_NONCE = "malformed_nonce"
    UNKNOWN_APP = "unknown_app"
    BAD_SIGNATURE = "bad_signature"
    REPLAY = "replay"
    BODY_TOO_LARGE = "body_too_large"
    QUERY_PRESENT = "query_present"
    OTHER_PATH = "other_path"
    NONCES_FULL = "nonces_full"


class SignatureError(OrtegeWatchError):
    """Refuse a signed request. No part of a secret or a signature is in the message.

    Attributes:
        reason: which rule it breaks, for a program to look at.
        delta: for ``EXPIRED`` and ``IN_THE_FUTURE``, how many seconds the request is
            older than the verifier's clock (negative: younger); else ``None``.
    """

    def __init__(
        self, reason: SignatureReason, message: str, *, delta: float | None = None
    ) -> None:
        self.reason = reason
        self.delta = delta
        super().__init__(message)


class OutboxFull(OrtegeWatchError):
    """Refuse alerts because the outbox is full: the bus has been away for too long.

    None of the alerts of the call was accepted.
    """


class WatchBusError(OrtegeWatchError):
    """Report an answer of the watch-bus, or of a provider, that says no.

    Attributes:
        code: the result code as text, such as ``"000005"``; ``None`` where the answer
            has none. Never compare codes as numbers: a sibling system gives ``00001``
            another meaning than ``000001``.
        reason: the answer's own words, such as ``"timestamp is expired"``.
        status: the HTTP status; ``None`` outside HTTP.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        reason: str | None = None,
        status: int | None = None,
    ) -> None:
        self.code = code
        self.reason = reason
        self.status = status
        super().__init__(message)
