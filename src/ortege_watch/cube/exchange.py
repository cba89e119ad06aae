"""One question and its answer: tokens, retries, "Continue wait" and the deadline."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar, assert_never

from attrs import field, frozen, mutable

from ortege_watch.cube.effects import (
    Answer,
    Conversation,
    GetToken,
    Pause,
    Request,
    Response,
)
from ortege_watch.cube.verdicts import (
    Done,
    Passing,
    StillRunning,
    Unauthorized,
    Verdict,
    judge,
)
from ortege_watch.errors import DeadlineExceeded, OrtegeWatchError, QueryError
from ortege_watch.subscription.backoff import Backoff

__all__ = ["Call", "Retry", "Server", "exchange"]

T = TypeVar("T")

_LONGEST_SECONDS: Final = 1e6
"""More than any socket's timeout can be, everywhere."""

_LONGEST_RETRY_AFTER: Final = 3600.0
"""Seconds: a server that asks for more is not waited for."""

_QUICK_WAITS: Final = 10
"""So often in a row "Continue wait" is answered at once, however soon it came."""

_SLOW_WAIT: Final = 1.0
"""Seconds: after that, a server that does not hold requests is asked this seldom."""


@frozen(kw_only=True)
class Retry:
    """Say how often a REST request is tried, and how long the pauses are.

    Connection failures and the statuses 429, 502, 503 and 504 are retried. Each pause
    is drawn between half and the whole of ``base``, ``2 * base``, ``4 * base`` ... up
    to ``cap``; a longer ``Retry-After`` is kept to, up to an hour.

    Attributes:
        attempts: tries in a row, the first included; 1 retries nothing.
        base: seconds.
        cap: seconds.
    """

    attempts: int = 4
    base: float = 0.5
    cap: float = 20.0

    def __attrs_post_init__(self) -> None:
        if self.attempts < 1:
            raise QueryError(f"attempts={self.attempts!r}: give 1 or more")
        Backoff(self.base, self.cap)  # refuses what is no back-off

    def delay(self, failures: int, draw: float) -> float:
        """Return the pause, in seconds, after so many failures in a row."""
        return Backoff(self.base, self.cap).delay(failures - 1, draw)


@mutable
class Server:
    """Remember what one server turned out to be like.

    Attributes:
        takes_renew_query: it did not refuse ``renewQuery`` so far.
    """

    takes_renew_query: bool = True


@frozen(kw_only=True)
class Call:
    """Hold what one conversation needs besides its question.

    Attributes:
        api: the URL that paths are appended to, ``https://host/cubejs-api/v1``.
        request_id: a uuid4; each attempt sends it with ``-span-1``, ``-span-2`` ...
        started: monotonic seconds.
        timeout: seconds that the server may be silent.
        deadline: seconds for the whole conversation; ``None`` for no limit.
    """

    api: str
    request_id: str
    started: float
    timeout: float = 30.0
    deadline: float | None = 300.0
    retry: Retry = field(factory=Retry)
    server: Server = field(factory=Server)
    spans: Iterator[int] = field(factory=lambda: itertools.count(1), init=False)

    def __attrs_post_init__(self) -> None:
        for name, seconds in (("timeout", self.timeout), ("deadline", self.deadline)):
            if seconds is None and name == "deadline":
                continue
            if seconds is None or not 0 < seconds <= _LONGEST_SECONDS:
                raise QueryError(
                    f"{name}={seconds!r}: give seconds, more than 0 and at most a million"
                )

    @property
    def until(self) -> float:
        """The end of the conversation, in monotonic seconds."""
        return self.started + (math.inf if self.deadline is None else self.deadline)


def exchange(
    call: Call,
    method: str,
    path: str,
    decode: Callable[[bytes], T],
    *,
    content: bytes | None = None,
) -> Conversation[T]:
    """Ask until there is an answer, a refusal, or no time left.

    Args:
        call: ids, limits and the server.
        method: ``"GET"`` or ``"POST"``.
        path: what follows :attr:`Call.api`, such as ``"/load"``.
        decode: reads the body of a 2xx; raises :class:`DecodeError`.
        content: the body, JSON.

    Raises:
        ApiError: the server refuses, or the retries are used up.
        AuthenticationError: the token is refused, and so is the next one.
        DeadlineExceeded: the deadline left no time for (another) attempt.
        DecodeError: a 2xx that cannot be read.
        TransportError: no answer came, also after the retries.
    """
    return _Exchange(
        call=call,
        method=method,
        url=call.api + path,
        content=content,
        decode=decode,
        now=call.started,
    ).run()


@mutable(kw_only=True)
class _Exchange(Generic[T]):
    call: Call
    method: str
    url: str
    content: bytes | None
    decode: Callable[[bytes], T]
    now: float
    draw: float = 0.0
    token: str = field(default="", repr=False)
    renewed: bool = False
    failures: int = 0
    waits: int = 0

    def run(self) -> Conversation[T]:
        yield from self._get_token()
        while True:
            asked_at = self.now
            verdict = yield from self._attempt()
            match verdict:
                case Done(value):
                    return value
                case StillRunning():
                    yield from self._ask_again(asked_at)
                case Unauthorized(error):
                    yield from self._renew_token(error)
                case Passing() as passing:
                    yield from self._back_off(passing)
                case _:
                    assert_never(verdict)

    def _attempt(self) -> Conversation[Verdict[T]]:
        call = self.call
        left = call.until - self.now
        if left <= 0:
            raise self._late()
        request_id = f"{call.request_id}-span-{next(call.spans)}"
        answer = yield Request(
            method=self.method,
            url=self.url,
            headers=self._headers(request_id),
            content=self.content,
            timeout=min(call.timeout, left),
            limit=None if math.isinf(left) else left,
        )
        self._note(answer)
        outcome = answer.outcome
        if isinstance(outcome, Response):
            return judge(outcome, self.decode, token=self.token, request_id=request_id)
        assert outcome is not None  # noqa: S101 - a driver's mistake, not a server's
        if outcome.expired or self.now >= call.until:
            raise self._late() from outcome.error
        if not outcome.retry:
            raise outcome.error
        return Passing(outcome.error, None)

    def _headers(self, request_id: str) -> dict[str, str]:
        headers = {
            "accept": "application/json",
            "authorization": f"Bearer {self.token}",
            "x-request-id": request_id,
        }
        if self.content is not None:
            headers["content-type"] = "application/json"
        return headers

    def _get_token(self) -> Conversation[None]:
        answer = yield GetToken()
        self._note(answer)
        self.token = answer.token

    def _renew_token(self, error: OrtegeWatchError) -> Conversation[None]:
        """Ask for another token, once."""
        refused = self.token
        if not self.renewed:
            self.renewed = True
            yield from self._get_token()
        if self.token == refused:
            raise error

    def _ask_again(self, asked_at: float) -> Conversation[None]:
        """Go on at once, for the server holds each request for seconds by itself."""
        self.failures = 0
        self.waits += 1
        pause = asked_at + _SLOW_WAIT - self.now
        if self.waits > _QUICK_WAITS and pause > 0:
            yield from self._pause(pause)

    def _back_off(self, passing: Passing) -> Conversation[None]:
        self.failures += 1
        asked = passing.retry_after or 0.0
        if self.failures >= self.call.retry.attempts or asked > _LONGEST_RETRY_AFTER:
            raise passing.error
        pause = max(self.call.retry.delay(self.failures, self.draw), asked)
        yield from self._pause(pause, passing.error)

    def _pause(
        self, seconds: float, cause: OrtegeWatchError | None = None
    ) -> Conversation[None]:
        if self.now + seconds >= self.call.until:
            raise self._late() from cause
        self._note((yield Pause(seconds)))

    def _note(self, answer: Answer) -> None:
        self.now = answer.now
        self.draw = answer.draw

    def _late(self) -> DeadlineExceeded:
        still = "; the server is still working on the query" if self.waits else ""
        return DeadlineExceeded(f"no answer within {self.call.deadline} s{still}")
