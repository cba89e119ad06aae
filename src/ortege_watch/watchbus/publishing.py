"""The conversations of an alert publisher, with an outbox and without one.

Pure: the outbox is somebody else's, and is called by the driver alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar

from ortege_watch._http.conversation import Conversation, Work
from ortege_watch.errors import OrtegeWatchError
from ortege_watch.watchbus.client import Progress
from ortege_watch.watchbus.posting import (
    Delivered,
    PublishResult,
    Tally,
    Turn,
    Waiting,
    deliver,
    prepare,
)
from ortege_watch.watchbus.requests import BusConfig, check_batch_size
from ortege_watch.watchbus.wire import WireStyle

__all__ = ["Desk", "Queue", "Store"]

T = TypeVar("T")

logger: Final = logging.getLogger("ortege_watch.watchbus")


class Queue(Protocol):
    """Hold alerts in order until they are settled."""

    def __len__(self) -> int: ...

    def first(self, limit: int, /) -> Sequence[Waiting]:
        """Return the alerts whose turn it is."""
        ...

    def settle(self, delivered: Delivered, /) -> None:
        """Forget what was sent and what was refused."""
        ...


class Store(Queue, Protocol):
    """Hold alerts for longer than a call, for several senders."""

    def accept(self, alerts: Sequence[Waiting], /) -> None:
        """Take alerts, all or none."""
        ...

    def still(self, alerts: Iterable[Waiting], /) -> list[Waiting]:
        """Return those of the alerts that wait."""
        ...

    def begin_sending(self, turn: Turn, /) -> bool:
        """Become the one who sends; tell whether nobody else is."""
        ...

    def end_sending(self, turn: Turn, /) -> None:
        """Let others send, if this turn was taken; it cannot be taken after this."""
        ...


class _Given:
    """Hold the alerts of one call."""

    def __init__(self, alerts: Iterable[Waiting]) -> None:
        self.left = {each.number: each for each in alerts}

    def __len__(self) -> int:
        return len(self.left)

    def first(self, limit: int) -> list[Waiting]:
        return list(self.left.values())[:limit]

    def settle(self, delivered: Delivered) -> None:
        for each in (*delivered.sent, *(one for one, _ in delivered.rejected)):
            del self.left[each.number]


class Desk:
    """Begin the conversations of one publisher.

    Args:
        link: the bus, the credentials and the limits.
        path: of the endpoint.
        style: the form of what is sent.
        batch_size: alerts in a request, at most.

    Raises:
        QueryError: one of them cannot be used.
    """

    def __init__(
        self, link: BusConfig, path: str, style: WireStyle, batch_size: int
    ) -> None:
        check_batch_size(batch_size)
        self._target: Final = link.endpoint("path", path)
        self._app_id: Final = link.credentials.app_id
        self._style: Final = style
        self._batch_size: Final = batch_size
        self.outbox: Store | None = None
        """Where alerts wait; ``None`` where they do not."""

    def prepare(self, alerts: Iterable[object]) -> list[Waiting]:
        """Write alerts as they are sent."""
        return prepare(alerts, self._app_id, self._style)

    def accept(self, alerts: Sequence[Waiting]) -> Conversation[None]:
        """Write alerts to the outbox, if there is one."""
        if self.outbox is not None:
            yield Work(partial(self.outbox.accept, alerts))

    def publish(
        self, link: BusConfig, alerts: Sequence[Waiting], progress: Progress | None
    ) -> Conversation[PublishResult]:
        """Send alerts that were accepted, and what waits before them."""
        tally = Tally()
        if self.outbox is None:
            given = _Given(alerts)
            yield from self._send(link, given, progress, tally)
            return _or_raise(tally, given.left.values())
        yield from self._empty(link, self.outbox, progress, tally)
        unsent = yield Work(partial(self.outbox.still, alerts))
        if tally.error is not None:
            logger.warning("%d alerts wait: %s", len(unsent.value), tally.error)
        return tally.result(unsent.value)

    def flush(
        self, link: BusConfig, progress: Progress | None
    ) -> Conversation[PublishResult]:
        """Send what waits."""
        tally = Tally()
        if self.outbox is not None:
            yield from self._empty(link, self.outbox, progress, tally)
        return _or_raise(tally)

    def _empty(
        self, link: BusConfig, outbox: Store, progress: Progress | None, tally: Tally
    ) -> Conversation[None]:
        # Whoever accepts alerts while another one sends leaves them to that one, who
        # therefore looks once more after letting others send.
        while tally.error is None and (yield Work(outbox.__len__)).value:
            turn = Turn()
            try:
                if not (yield Work(partial(outbox.begin_sending, turn))).value:
                    return
                yield from self._send(link, outbox, progress, tally)
            finally:
                outbox.end_sending(turn)  # no disk is waited for, and it must be done

    def _send(
        self, link: BusConfig, queue: Queue, progress: Progress | None, tally: Tally
    ) -> Conversation[None]:
        while tally.error is None:
            batch = yield from _do(queue, partial(queue.first, self._batch_size))
            if not batch:
                return
            delivered = yield from deliver(
                link, self._target, batch, bare=self._style.bare_lists
            )
            yield from _do(queue, partial(queue.settle, delivered))
            for each in tally.add(delivered):
                code = each.alert.event_code
                logger.warning("the bus refuses an alert, %s: %s", code, each.reason)
            if progress is not None:
                left = yield from _do(queue, queue.__len__)
                progress(tally.done, tally.done + left)


def _do(queue: Queue, call: Callable[[], T]) -> Conversation[T]:
    if isinstance(queue, _Given):
        return call()
    value: T = (yield Work(call)).value
    return value


def _or_raise(tally: Tally, unsent: Iterable[Waiting] = ()) -> PublishResult:
    result = tally.result(unsent)
    error: OrtegeWatchError | None = tally.error
    if error is not None:
        error.published = result
        raise error
    return result
