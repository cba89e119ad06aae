"""One question and its answer: tokens, retries, "Continue wait" and the deadline."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar, assert_never

from attrs import field, frozen, mutable

from ortege_watch._http.conversation import (
    Conversation,
    GetToken,
    Pace,
    Request,
    Response,
    Retry,
    check_limits,
)
from ortege_watch._http.verdicts import (
    Done,
    Passing,
    StillRunning,
    Unauthorized,
    Verdict,
    judge,
)
from ortege_watch.errors import OrtegeWatchError

__all__ = ["Call", "Retry", "Server", "exchange"]

T = TypeVar("T")

_QUICK_WAITS: Final = 10
"""So often in a row "Continue wait" is answered at once, however soon it came."""

_SLOW_WAIT: Final = 1.0
"""Seconds: after that, a server that does not hold requests is asked this seldom."""


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
        check_limits(self.timeout, self.deadline)

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
        pace=Pace(
            now=call.started,
            deadline=call.deadline,
            retry=call.retry,
            until=call.until,
        ),
    ).run()


@mutable(kw_only=True)
class _Exchange(Generic[T]):
    call: Call
    method: str
    url: str
    content: bytes | None
    decode: Callable[[bytes], T]
    pace: Pace
    token: str = field(default="", repr=False)
    renewed: bool = False
    waits: int = 0

    def run(self) -> Conversation[T]:
        yield from self._get_token()
        while True:
            asked_at = self.pace.now
            verdict = yield from self._attempt()
            match verdict:
                case Done(value):
                    return value
                case StillRunning():
                    yield from self._ask_again(asked_at)
                case Unauthorized(error):
                    yield from self._renew_token(error)
                case Passing(error, retry_after):
                    yield from self.pace.back_off(error, retry_after)
                case _:
                    assert_never(verdict)

    def _attempt(self) -> Conversation[Verdict[T]]:
        call, left = self.call, self.pace.left
        request_id = f"{call.request_id}-span-{next(call.spans)}"
        answer = yield Request(
            method=self.method,
            url=self.url,
            headers=self._headers(request_id),
            content=self.content,
            timeout=call.timeout if left is None else min(call.timeout, left),
            limit=left,
        )
        self.pace.note(answer)
        outcome = answer.outcome
        if isinstance(outcome, Response):
            return judge(outcome, self.decode, token=self.token, request_id=request_id)
        assert outcome is not None  # noqa: S101 - a driver's mistake, not a server's
        if outcome.expired or self.pace.now >= call.until:
            raise self.pace.late() from outcome.error
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
        self.pace.note(answer)
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
        self.pace.failures = 0
        self.pace.still = "; the server is still working on the query"
        self.waits += 1
        pause = asked_at + _SLOW_WAIT - self.pace.now
        if self.waits > _QUICK_WAITS and pause > 0:
            yield from self.pace.pause(pause)
