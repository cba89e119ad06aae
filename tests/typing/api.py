"""Correct use as type checkers see it: both must find nothing wrong here."""

from __future__ import annotations

from typing import assert_type

from ortege_watch import ApiError, DecodeError, RateLimited, __version__


def errors_carry_data(api: ApiError, limit: RateLimited, decode: DecodeError) -> None:
    assert_type(api.status, int)
    assert_type(api.code, str | None)
    assert_type(limit.retry_after, float | None)
    assert_type(decode.excerpt, str)
    assert_type(__version__, str)
