"""One signed question and its answer: attempts, the clock's correction, the deadline.

Every attempt has a new timestamp and a new nonce, for a request that comes twice is a
replay. What may have been done already is not asked again unless it does no harm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, assert_never

from attrs import field, mutable

from ortege_watch._http.conversation import (
    Answer,
    Conversation,
    Failure,
    GetStamp,
    Pace,
    Request,
)
from ortege_watch.watchbus.link import Link, Target
from ortege_watch.watchbus.signing import (
    CONTENT_TYPE,
    SIGNATURE_HEADERS,
    canonical,
    digest,
)
from ortege_watch.watchbus.verdicts import Done, Expired, Refused, judge

__all__ = ["exchange"]

T = TypeVar("T")

_APP_ID, _TIMESTAMP, _NONCE, _SIGNATURE = SIGNATURE_HEADERS


def exchange(
    link: Link,
    target: Target,
    body: bytes,
    decode: Callable[[Any], T],
    *,
    repeatable: bool,
) -> Conversation[T]:
    """Ask until there is an answer, a refusal, or no time left.

    Args:
        link: the server, the credentials and the limits.
        target: the endpoint.
        body: what is signed and sent, byte for byte.
        decode: reads the ``data`` of a success; raises :class:`DecodeError`.
        repeatable: what was done already may be done again. If not, only what the
            server certainly has not done is asked once more: no connection, a rate
            limit, 503, an expired timestamp.

    Raises:
        WatchBusError: the server says no.
        RateLimited: it does so because of too many requests, also after the retries.
        DeadlineExceeded: the deadline left no time for (another) attempt.
        DecodeError: a success that cannot be read.
        TransportError: no answer came, also after the retries.
    """
    stamp = yield GetStamp()
    pace = Pace(
        now=stamp.now,
        deadline=link.deadline,
        retry=link.retry,
        until=stamp.now + (math.inf if link.deadline is None else link.deadline),
    )
    asking = _Asking(link=link, pace=pace, repeatable=repeatable)
    while True:
        answer = yield asking.request(target, body, stamp)
        pace.note(answer)
        outcome = answer.outcome
        assert outcome is not None  # noqa: S101 - a driver's mistake, not a server's
        if isinstance(outcome, Failure):
            yield from asking.fail(outcome)
        else:
            verdict = judge(outcome, decode)
            match verdict:
                case Done(value):
                    return value
                case Expired():
                    asking.correct(verdict)
                case Refused():
                    yield from asking.refuse(verdict)
                case _:
                    assert_never(verdict)
        stamp = yield GetStamp()
        pace.now = stamp.now


@mutable(kw_only=True)
class _Asking:
    link: Link
    pace: Pace
    repeatable: bool
    before: float | None = field(default=None, init=False)
    """The correction of the clock that was in force before this conversation's."""

    def request(self, target: Target, body: bytes, stamp: Answer) -> Request:
        link, left = self.link, self.pace.left
        app_id = link.credentials.app_id
        timestamp = str(max(0, int((stamp.unix + link.skew.seconds) * 1000)))
        message = canonical(app_id, timestamp, stamp.nonce, target.line, body)
        return Request(
            method="POST",
            url=target.url,
            headers={
                "Accept": "application/json",
                "Content-Type": CONTENT_TYPE,
                _APP_ID: app_id,
                _TIMESTAMP: timestamp,
                _NONCE: stamp.nonce,
                _SIGNATURE: digest(link.key, message),
            },
            content=body,
            timeout=link.timeout if left is None else min(link.timeout, left),
            limit=left,
        )

    def fail(self, failure: Failure) -> Conversation[None]:
        if failure.expired or self.pace.now >= self.pace.until:
            raise self.pace.late() from failure.error
        if not failure.retry or not (self.repeatable or failure.unsent):
            raise failure.error
        yield from self.pace.back_off(failure.error, None)

    def refuse(self, refused: Refused) -> Conversation[None]:
        if not refused.passing or not (self.repeatable or refused.untouched):
            raise refused.error
        yield from self.pace.back_off(refused.error, refused.retry_after)

    def correct(self, expired: Expired) -> None:
        """Go by the server's clock from now on; once, or it is not the clock."""
        skew = self.link.skew
        if self.before is not None:
            skew.seconds = self.before
            raise expired.error
        self.before = skew.seconds
        skew.seconds = expired.ahead
