"""HTTP statuses and headers: errors, transient failures, ``Retry-After``.

Cube's statuses say little, over REST and WebSocket alike: a database error is a 400 like
a misspelt member, and a limit above the server's maximum is a 500 (seen on 0.35.81 and
1.7.43). So the message decides.
"""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final

from ortege_watch import _json as codec
from ortege_watch._http.conversation import Response
from ortege_watch.errors import (
    ApiError,
    AuthenticationError,
    DecodeError,
    QueryRejected,
    RateLimited,
)
from ortege_watch.tokens import Secrets, redact

TRANSIENT: Final = frozenset({429, 502, 503, 504})
"""The statuses after which the same request is tried again."""

_LIMIT_EXCEEDED: Final = "The query limit has been exceeded"
"""The message of a status 500 that only another query can change."""

_SCOPE_MISSING: Final = "API scope is missing"
"""The message of a status 403 that says nothing against the token."""

_SECONDS: Final = re.compile(r"\d+(\.\d+)?", re.ASCII)


REDIRECTED: Final = (
    "redirects are not followed: check the url; use the new address only if you trust"
    " it"
)
"""The advice in errors: the other address would get the token or a signed request."""


def is_unauthorized(status: int, message: str) -> bool:
    """Return whether a server refuses the token, and not the request."""
    return status == 401 or (status == 403 and _SCOPE_MISSING not in message)


def api_error(
    message: str,
    *,
    status: int,
    code: str | None = None,
    request_id: str | None = None,
) -> ApiError:
    """Return the error for an error response of a Cube server.

    - 401 and 403 are an :class:`AuthenticationError`, except for a missing API scope;
    - 429 is :class:`RateLimited`;
    - every other 4xx is :class:`QueryRejected`, and so is the exceeded limit;
    - everything else is a plain :class:`ApiError`.
    """
    details: dict[str, Any] = {"status": status, "code": code, "request_id": request_id}
    if is_unauthorized(status, message):
        return AuthenticationError(message, **details)
    if status == 429:
        return RateLimited(message, **details)
    if 400 <= status < 500 or _LIMIT_EXCEEDED in message:
        return QueryRejected(message, **details)
    return ApiError(message, **details)


def is_transient(error: ApiError) -> bool:
    """Return whether the same query may succeed later.

    Cube's own validation writes plain sentences; an error of the database begins with
    ``Error:``, with status 400 or 500, and may be gone at the next refresh.
    """
    if not isinstance(error, QueryRejected):
        return not isinstance(error, AuthenticationError)
    return error.message.startswith("Error:") and _LIMIT_EXCEEDED not in error.message


def server_error(content: bytes) -> tuple[str | None, str | None]:
    """Return a server's own message and error type, or ``None`` twice."""
    try:
        body = codec.loads(content)
    except DecodeError:
        return None, None
    match body:
        case {"error": str(message), "type": str(code)}:
            return message, code
        case {"error": str(message)}:
            return message, None
        case _:
            return None, None


def redirect_target(response: Response, secrets: Secrets) -> str | None:
    """Return where a response redirects to, without the query; ``None`` if nowhere.

    The secrets are removed from it.
    """
    location = response.headers.get("location", "")
    if 300 <= response.status < 400 and location:
        return redact(location.split("?", maxsplit=1)[0], secrets)
    return None


def retry_after(response: Response) -> float | None:
    """Return the seconds of ``Retry-After``, or ``None`` without a valid one.

    It is at most a day, and :func:`respected` limits it further.

    A date is compared with the server's own ``Date``, and only without that with this
    machine's clock: the two clocks may differ.
    """
    value = response.headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(value):
        return at_most_a_day(float(value))
    until = http_date(value)
    if until is None:
        return None
    since = http_date(response.headers.get("date", "")) or response.received_at
    return at_most_a_day(max(0.0, until - since))


def at_most_a_day(seconds: float) -> float:
    """Return what a server asked to wait, limited: time.sleep() refuses 1e10 seconds."""
    return min(seconds, 86_400.0)


def http_date(text: str) -> float | None:
    """Return the date of a header in unix seconds, or ``None`` if it is invalid."""
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:  # "-0000": in UTC, says RFC 5322
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (ValueError, OverflowError):
        return None
