"""What an error answer means; sentences are those of real servers."""

from __future__ import annotations

import pytest

from ortege_watch._http.statuses import api_error, is_transient, is_unauthorized
from ortege_watch.errors import (
    ApiError,
    AuthenticationError,
    QueryRejected,
    RateLimited,
)


@pytest.mark.parametrize(
    ("status", "message", "kind", "passes"),
    [
        (403, "Invalid token", AuthenticationError, False),
        (403, "Authorization header isn't set", AuthenticationError, False),
        (403, "Not authorized", AuthenticationError, False),
        (401, "Unauthorized", AuthenticationError, False),
        (403, "API scope is missing: data", QueryRejected, False),
        (429, "Too many requests", RateLimited, True),
        (400, "Cube 'nope' not found for path 'nope.count'", QueryRejected, False),
        (400, 'Invalid query format: "limit" must be …', QueryRejected, False),
        (400, 'Error: relation "x" does not exist', QueryRejected, True),
        (400, "Query param is required", QueryRejected, False),
        (500, "Error: The query limit has been exceeded.", QueryRejected, False),
        (500, "Error: Unknown timezone: PST", ApiError, True),
        (500, "TypeError: array?.some is not a function", ApiError, True),
        (502, "Bad gateway", ApiError, True),
    ],
)
def test_the_sentence_decides(status, message, kind, passes):
    error = api_error(message, status=status, code="UserError", request_id="r-1")
    assert type(error) is kind
    assert is_transient(error) is passes
    assert (error.status, error.message) == (status, message)
    assert (error.code, error.request_id) == ("UserError", "r-1")
    assert is_unauthorized(status, message) is (kind is AuthenticationError)
    assert str(error) == f"{message} (status {status}, request r-1)"


def test_429_is_a_rate_limit():
    assert isinstance(api_error("slow down", status=429), RateLimited)
