"""The one retry loop: authentication, attempts, "Continue wait" and the deadline.

It knows neither Cube nor the watch-bus: how a request is authenticated and how a
response is judged are its two parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeAlias, TypeVar, assert_never

from attrs import frozen

from ortege_watch._http.conversation import (
    Attempts,
    Conversation,
    Failure,
    Headers,
    Request,
    Response,
)
from ortege_watch.errors import OrtegeWatchError
from ortege_watch.tokens import Secrets

T = TypeVar("T")

_QUICK_WAITS: Final = 10
"""So many times in a row, :class:`AskAgain` is followed at once."""

_SLOW_WAIT: Final = 1.0
"""Seconds between two requests after that, if the server does not hold them."""


@frozen
class Done(Generic[T]):
    """The result of the call."""

    value: T


@frozen
class AskAgain:
    """The server is still working: the same request is sent again at once."""


@frozen
class Reauthenticate:
    """The token or the timestamp was refused."""

    error: OrtegeWatchError
    clock_ahead: float | None = None  # seconds, where the timestamp was refused


@frozen
class TryLater:
    """The server, or the network, fails for now."""

    error: OrtegeWatchError
    retry_after: float | None = None  # seconds that the server asked to wait
    is_safe_to_retry: bool = False  # the server has not carried out the request


Verdict: TypeAlias = Done[T] | AskAgain | Reauthenticate | TryLater
Judge: TypeAlias = Callable[[Response], Verdict[T]]


class Authentication(Protocol):
    """How requests are authenticated: with a bearer token, or with a signature.

    Attributes:
        secrets: what the server knows of the latest attempt, and no error may show.
    """

    secrets: Secrets

    def headers(
        self, content: bytes | None, attempts: Attempts
    ) -> Conversation[Headers]:
        """Return all headers of the next attempt."""
        ...

    def on_refused(
        self, verdict: Reauthenticate, attempts: Attempts
    ) -> Conversation[None]:
        """Prepare another attempt, or raise the verdict's error."""
        ...


def exchange(
    method: str,
    url: str,
    judge: Judge[T],
    *,
    content: bytes | None = None,
    authentication: Authentication,
    attempts: Attempts,
    is_repeatable: bool = True,
) -> Conversation[T]:
    """Send a request until there is a result, a final error, or no time left.

    ``judge`` raises errors that no retry can change. A request that is not
    ``is_repeatable`` is sent again only where the server certainly has not carried it
    out.

    Raises:
        ApiError: the server refused, or the retries are used up.
        AuthenticationError: the token was refused, and the next one too.
        DeadlineExceeded: no time was left for another attempt.
        DecodeError: a successful response that cannot be decoded.
        TransportError: no response, also after the retries.
    """
    attempts.failures = waits = 0
    attempts.context = ""
    attempts.method, attempts.url = method, url
    while True:
        asked_at = attempts.now
        headers = yield from authentication.headers(content, attempts)
        left = attempts.left
        if not left:
            raise attempts.deadline_exceeded()
        budget = attempts.budget
        reply = yield Request(
            method=method,
            url=url,
            headers=headers,
            secrets=authentication.secrets,
            content=content,
            timeout=min(budget.timeout, left),
            limit=None if left == math.inf else left,
        )
        attempts.update(reply)
        outcome = reply.outcome
        try:
            if isinstance(outcome, Response):
                verdict = judge(outcome)
            else:
                verdict = _judge_failure(outcome, attempts)
        except OrtegeWatchError as final:
            final.host = attempts.host
            raise
        match verdict:
            case Done(value):
                return value
            case AskAgain():
                # At once, for the server itself holds each request for seconds.
                attempts.failures = 0
                attempts.context = "; the server is still working on the query"
                waits += 1
                attempts.logger.debug("%s: Continue wait", attempts.request)
                pause = asked_at + _SLOW_WAIT - attempts.now
                if waits > _QUICK_WAITS and pause > 0:
                    yield from attempts.pause(pause)
            case Reauthenticate(error):
                error.host = attempts.host
                attempts.logger.debug("%s: %s", attempts.request, error.text)
                yield from authentication.on_refused(verdict, attempts)
            case TryLater(error, retry_after, is_safe_to_retry):
                error.host = attempts.host
                if not (is_repeatable or is_safe_to_retry):
                    raise error
                yield from attempts.back_off(error, retry_after)
            case _:
                assert_never(verdict)


def _judge_failure(failure: Failure | None, attempts: Attempts) -> TryLater:
    assert failure is not None  # noqa: S101 - a driver's mistake, not a server's
    if failure.expired or not attempts.left:
        raise attempts.deadline_exceeded() from failure.error
    if not failure.retry:
        raise failure.error
    return TryLater(failure.error, is_safe_to_retry=failure.unsent)
