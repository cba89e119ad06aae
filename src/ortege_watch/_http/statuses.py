"""What an error answer of a Cube server means, over REST and WebSocket alike.

Cube's statuses say little: a database error is a 400 like a misspelt member, and a
limit above the server's maximum is a 500 (seen on 0.35.81 and 1.7.43). So the sentence
decides.
"""

from __future__ import annotations

from typing import Final

from ortege_watch.errors import (
    ApiError,
    AuthenticationError,
    QueryRejected,
    RateLimited,
)

__all__ = ["api_error", "is_unauthorized", "may_pass"]

_LIMIT_EXCEEDED: Final = "The query limit has been exceeded"
"""Said with status 500, although only another query can help."""

_SCOPE_MISSING: Final = "API scope is missing"
"""Said with status 403, although the token itself is fine."""


def is_unauthorized(status: int, message: str) -> bool:
    """Tell whether an answer refuses the token, and not what it asks for."""
    return status == 401 or (status == 403 and _SCOPE_MISSING not in message)


def api_error(
    message: str,
    *,
    status: int,
    code: str | None = None,
    request_id: str | None = None,
    retry_after: float | None = None,
) -> ApiError:
    """Give an error answer its class.

    - 401 and 403 are an :class:`AuthenticationError`, but for a missing API scope;
    - 429 is :class:`RateLimited`;
    - every other 4xx is :class:`QueryRejected`, and so is the exceeded limit;
    - what is left is a plain :class:`ApiError`.
    """
    if is_unauthorized(status, message):
        return AuthenticationError(
            message, status=status, code=code, request_id=request_id
        )
    if status == 429:
        return RateLimited(
            message,
            status=status,
            code=code,
            request_id=request_id,
            retry_after=retry_after,
        )
    if 400 <= status < 500 or _LIMIT_EXCEEDED in message:
        return QueryRejected(message, status=status, code=code, request_id=request_id)
    return ApiError(message, status=status, code=code, request_id=request_id)


def may_pass(error: ApiError) -> bool:
    """Tell whether the same query may get a better answer later.

    Cube's own validation writes plain sentences; an error of the database begins with
    ``Error:``, with status 400 or 500, and may be gone at the next tick.
    """
    if not isinstance(error, QueryRejected):
        return not isinstance(error, AuthenticationError)
    return error.message.startswith("Error:") and _LIMIT_EXCEEDED not in error.message
