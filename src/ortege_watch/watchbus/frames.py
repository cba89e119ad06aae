"""The frames of the alert channel, and those that the receiver has not yet answered.

A frame is the body of an alert POST with an id, and its answer is the response to that
POST (status, envelope, ``Retry-After``) with the same id, both as JSON in text frames::

    frame:  {"id": "5f3c...", "body": {"alert_info_list": [...]}}
    answer: {"id": "5f3c...", "status": 200, "body": {"status": "OK", "code": "000000000", ...}}
    answer: {"id": "5f3c...", "status": 503, "body": {...}, "retry_after": 30.0}
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Annotated, Final, TypeAlias, TypeVar

import msgspec
from attrs import define, evolve, field

from ortege_watch import _json as codec
from ortege_watch._http.statuses import TRANSIENT, at_most_a_day
from ortege_watch.errors import (
    DecodeError,
    OrtegeWatchError,
    TransportError,
    WatchBusError,
)
from ortege_watch.watch.options import FailureCount, Reconnect
from ortege_watch.watchbus.models import AlertInfo
from ortege_watch.watchbus.requests import read_acknowledgement
from ortege_watch.watchbus.sending import BatchSize
from ortege_watch.watchbus.wire import UnreadableAnswer

OVERHEAD: Final = 256
"""The most bytes of a frame of alerts beyond its body."""

_ONCE: Final = Reconnect(attempts=1)

_Id: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
_Status: TypeAlias = Annotated[int, msgspec.Meta(ge=100, lt=600)]
_Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]


class AlertFrame(msgspec.Struct, frozen=True):
    """A frame of alerts; a frame that is sent again keeps its id."""

    id: _Id
    body: msgspec.Raw


class AnswerFrame(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to the frame with the same id."""

    id: _Id
    status: _Status
    body: msgspec.Raw
    retry_after: _Seconds | None = None  # as in the header Retry-After


F = TypeVar("F", AlertFrame, AnswerFrame)


def encode_frame(frame: AlertFrame | AnswerFrame) -> str:
    """Return the JSON of a frame; its body is copied as it is."""
    return msgspec.json.encode(frame).decode()


def decode_frame(kind: type[F], data: bytes) -> F:
    """Return a frame, or raise a DecodeError; the contents of its body are not checked."""
    try:
        return msgspec.json.decode(data, type=kind)
    except codec.UNREADABLE as error:
        problem = f"invalid {kind.__name__} ({error})"
        raise DecodeError(problem, excerpt=codec.excerpt(data)) from error


@define(eq=False)
class PendingFrame:
    """A frame that the receiver has neither acknowledged nor rejected."""

    id: str
    text: str
    failures: FailureCount  # of its alerts
    is_repeated: bool = True  # also over another connection
    alerts: Sequence[AlertInfo] = ()  # for log lines
    on_resolved: Callable[[], object] | None = None
    is_resolved: bool = field(default=False, init=False)
    error: OrtegeWatchError | None = None
    """Once resolved: why the receiver did not handle it; ``None`` if it did."""
    was_sent: bool = False
    """Whether the receiver may have seen it: only then may the error be of its alerts."""
    sent_at: float = 0.0
    lost_after: int | None = None
    """After how many acknowledgements a connection was lost with this frame alone."""

    @property
    def given_up(self) -> str:
        """What an error says after several attempts."""
        attempts = self.failures.count
        return f" (given up after {attempts} attempts)" if attempts > 1 else ""

    def resolve(self, error: OrtegeWatchError | None = None) -> None:
        """Set the outcome."""
        self.error, self.is_resolved = error, True
        if self.on_resolved is not None:
            self.on_resolved()


class PendingFrames:
    """The frames to send, in order; each until it is resolved.

    At most ``limit`` are without an answer; a frame whose alerts failed is not one of
    them until it is sent again, after a delay. So frames that fail do not stop others.
    A new connection sends the frames without an answer again, except those that are
    sent once.

    One frame may be why the receiver dies. So after a connection was lost, frames are
    sent alone at first, and each answer doubles how many may be without one. A frame
    that loses a connection alone goes behind the others, and is sent alone from then on;
    if it does so again after others were acknowledged, it has failed.
    """

    def __init__(
        self, reconnect: Reconnect, limit: int = 16, max_attempts: int = 10
    ) -> None:
        self._window = BatchSize(limit)  # how many may be without an answer
        self._acknowledged = 0  # frames
        self._retries = evolve(reconnect, attempts=max_attempts)
        self._frames: dict[str, PendingFrame] = {}
        # A frame that was dropped stays in these two until its turn comes.
        self._queue = deque[PendingFrame]()
        self._delayed: list[tuple[float, int, PendingFrame]] = []  # a heap, by time
        self._count = count()
        self._sent: dict[str, PendingFrame] = {}  # without an answer
        self._begun_at = 0.0  # when the receiver may have begun with the first of these

    def __len__(self) -> int:
        return len(self._frames)

    def add(
        self,
        frame_id: str,
        text: str,
        alerts: Sequence[AlertInfo] = (),
        *,
        retry: bool = True,
        on_resolved: Callable[[], object] | None = None,
    ) -> PendingFrame:
        """Add a frame, to be sent in its turn; without ``retry``, only once."""
        retries = self._retries if retry else _ONCE
        frame = PendingFrame(
            frame_id, text, FailureCount(retries), retry, alerts, on_resolved
        )
        self._frames[frame_id] = frame
        self._queue.append(frame)
        return frame

    def alerts_of(self, frame_id: str) -> Sequence[AlertInfo]:
        """Return the alerts of a frame that is not resolved."""
        return self._frames[frame_id].alerts

    def drop(self, frame_id: str) -> None:
        """Remove a frame, if it is still there."""
        self._frames.pop(frame_id, None)
        self._sent.pop(frame_id, None)

    def due(self, now: float) -> list[str]:
        """Return the frames to send now; they count as sent."""
        while self._delayed and self._delayed[0][0] <= now:
            self._queue.append(heapq.heappop(self._delayed)[2])
        frames: list[PendingFrame] = []
        while self._queue:
            frame = self._queue[0]
            if frame.id in self._frames:
                if not self._has_room(frame):
                    break
                self._sent[frame.id] = frame
                frame.was_sent, frame.sent_at = True, now
                frames.append(frame)
            self._queue.popleft()
        return [frame.text for frame in frames]

    def _has_room(self, frame: PendingFrame) -> bool:
        if not self._sent:
            return True
        suspects = (x.lost_after is not None for x in (frame, *self._sent.values()))
        return len(self._sent) < self._window.size and not any(suspects)

    def next_at(self) -> float | None:
        """Return when a frame is due again, or ``None`` if none is delayed."""
        return self._delayed[0][0] if self._delayed else None

    def awaited(self) -> tuple[PendingFrame, float] | None:
        """Return the frame that is to be answered first, and since when.

        A receiver handles the frames of a connection one after the other, so that time
        counts for one of them only: from when it was sent, or the one before it was
        answered.
        """
        for frame in self._sent.values():
            return frame, max(frame.sent_at, self._begun_at)
        return None

    def connection_lost(
        self, error: OrtegeWatchError, now: float, jitter: float
    ) -> None:
        """Send the frames without an answer again, or resolve them with the error."""
        lost = list(self._sent.values())
        is_alone = len(lost) == 1 and self._window.is_reduced
        if lost:
            self._window.on_failure()
        for frame in lost:
            if not frame.is_repeated:
                self.drop(frame.id)
                frame.resolve(error)
            elif is_alone:
                self._blame(frame, error, now, jitter)
        if not is_alone:
            self._queue.extendleft(reversed(self._sent.values()))
        self._sent.clear()

    def _blame(
        self, frame: PendingFrame, error: OrtegeWatchError, now: float, jitter: float
    ) -> None:
        """Send a frame with which a connection was lost later, or give it up.

        It has failed only if others were acknowledged since the last time: otherwise
        every connection may be lost.
        """
        before, frame.lost_after = frame.lost_after, self._acknowledged
        if before in {None, self._acknowledged}:
            self._queue.append(frame)
        elif self._retry(frame, now, jitter) is None:
            given_up = TransportError(error.text + frame.given_up)
            given_up.__cause__ = error.__cause__
            self._frames.pop(frame.id).resolve(given_up)

    def _retry(
        self,
        frame: PendingFrame,
        now: float,
        jitter: float,
        retry_after: float | None = None,
    ) -> float | None:
        """Count a failure, and return the delay; ``None`` if there were too many."""
        delay = frame.failures.next_delay(jitter, retry_after)
        if frame.failures.exhausted:
            return None
        heapq.heappush(self._delayed, (now + delay, next(self._count), frame))
        return delay

    def on_answer(self, answer: AnswerFrame, now: float, jitter: float) -> float | None:
        """Resolve the frame of an answer, or return in how many seconds it is sent again."""
        # A frame that was dropped was before all others, or nobody knows.
        if answer.id not in self._sent or answer.id == next(iter(self._sent)):
            self._begun_at = now
        frame = self._sent.pop(answer.id, None)
        if frame is None:
            return None
        self._window.on_success(self._window.size)
        failure: OrtegeWatchError | None = None
        try:
            read_acknowledgement(bytes(answer.body), answer.status)
        except (DecodeError, WatchBusError) as error:
            if isinstance(error, WatchBusError):
                asked = answer.retry_after
                error.retry_after = None if asked is None else at_most_a_day(asked)
            is_unreadable = isinstance(error, UnreadableAnswer)
            if is_unreadable or is_transient(answer.status):
                delay = self._retry(frame, now, jitter, answer.retry_after)
                if delay is not None:
                    return delay
                if isinstance(error, WatchBusError):
                    error.message += frame.given_up
            failure = error
        else:
            self._acknowledged += 1
        self._frames.pop(answer.id).resolve(failure)
        return None

    def on_too_large(self) -> None:
        """Resolve the largest frame that was sent: the receiver refuses its size."""
        # The close code does not say which frame was too large.
        if self._sent:
            largest = max(self._sent, key=lambda key: len(self._sent[key].text))
            problem = "too large for the receiver: send fewer alerts at once"
            frame = self._frames[largest]
            self.drop(largest)
            frame.resolve(WatchBusError(problem, status=413))

    def fail(self, error: OrtegeWatchError) -> None:
        """Resolve every frame with an error."""
        for frame in self._frames.values():
            frame.was_sent = False  # no frame is to blame
            frame.resolve(error)
        for frames in (self._frames, self._sent, self._queue, self._delayed):
            frames.clear()


def is_transient(status: int) -> bool:
    """Return whether to retry; a 500 is what a handler that raised is answered with."""
    return status >= 500 or status in TRANSIENT
