"""The flow that sends alerts from a queue, in memory or on disk, and its results.

Pure. Alerts are queued as the bytes that are sent, so that every process that sends one
later sends what was accepted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Final, Protocol

from attrs import field, frozen, mutable

from ortege_watch._checks import check_list
from ortege_watch._http.conversation import Conversation, Work
from ortege_watch.errors import OrtegeWatchError, printable
from ortege_watch.watchbus.models import AlertInfo, read_alerts
from ortege_watch.watchbus.requests import (
    BusConfig,
    Endpoint,
    Progress,
    is_rejection,
    signed_exchange,
)
from ortege_watch.watchbus.wire import WireStyle, alerts_body, encode_alert

logger: Final = logging.getLogger("ortege_watch.watchbus")


@frozen
class RejectedAlert:
    """An alert that the bus rejected for its content, and the reason.

    Attributes:
        alert: the alert.
        reason: the bus's message.
        code: the result code; ``None`` where the response had none.
        status: the HTTP status.
    """

    alert: AlertInfo
    reason: str
    code: str | None
    status: int | None


@frozen
class PublishResult:
    """What became of alerts.

    Attributes:
        sent: those that the bus acknowledged, in order; with an outbox, this includes
            alerts that were queued before.
        rejected: those that the bus rejected for good; they are not sent again.
        unsent: those of this call that were not sent. With an outbox they stay queued;
            without one this is the only place that has them.
        error: why sending stopped before the end; ``None`` if it did not.
    """

    sent: tuple[AlertInfo, ...] = ()
    rejected: tuple[RejectedAlert, ...] = ()
    unsent: tuple[AlertInfo, ...] = ()
    error: OrtegeWatchError | None = None


@frozen
class QueuedAlert:
    """An alert that is to be sent."""

    key: str  # its dedupe key, as the receiver computes it
    data: bytes  # a list of this one alert, as JSON
    _given: AlertInfo | None = field(default=None, eq=False, repr=False)

    @property
    def alert(self) -> AlertInfo:
        """The alert; the object that was given, where that was in this process."""
        return self._given or read_alerts(self.data)[0]


@mutable(eq=False)
class SendLease:
    """The right to send from a queue, which one sender has at a time."""

    # It cannot be taken any more: a thread may try to take it after the task that
    # started the thread was cancelled.
    released: bool = False


@mutable
class BatchResults:
    """What became of one batch, or of several."""

    sent: list[QueuedAlert] = field(factory=list)  # the bus acknowledged them
    # the bus rejected them for good; each with the reason
    rejected: list[tuple[QueuedAlert, RejectedAlert]] = field(factory=list)
    # why nothing more was sent; None if everything was
    error: OrtegeWatchError | None = None

    @property
    def resolved(self) -> list[QueuedAlert]:
        """The alerts that leave the queue."""
        return [*self.sent, *(each for each, _ in self.rejected)]

    def add(self, batch: BatchResults) -> None:
        """Add the results of another batch."""
        self.sent += batch.sent
        self.rejected += batch.rejected
        self.error = batch.error


class AlertQueue(Protocol):
    """Alerts in the order in which they are sent, for one sender at a time.

    Attributes:
        on_disk: a call may have to wait for a disk, or for another process.
    """

    on_disk: bool

    def __len__(self) -> int: ...

    def begin_sending(
        self, lease: SendLease, limit: int, /
    ) -> Sequence[QueuedAlert] | None:
        """Take the lease and return the first alerts; ``None`` if another has it."""
        ...

    def resolve(self, results: BatchResults, limit: int, /) -> Sequence[QueuedAlert]:
        """Remove the alerts that were sent or rejected, and return the next ones."""
        ...

    def end_sending(self, lease: SendLease, /) -> None:
        """Release the lease, whether it was taken or not."""
        ...

    def still_queued(self, alerts: Iterable[QueuedAlert], /) -> list[QueuedAlert]:
        """Return those of the alerts that are in the queue."""
        ...


class MemoryQueue:
    """The alerts of one call."""

    on_disk: bool = False

    def __init__(self, alerts: Iterable[QueuedAlert]) -> None:
        self._alerts = {each.key: each for each in alerts}

    def __len__(self) -> int:
        return len(self._alerts)

    def begin_sending(self, _lease: SendLease, limit: int) -> list[QueuedAlert]:
        """Return the first alerts."""
        return list(islice(self._alerts.values(), limit))

    def resolve(self, results: BatchResults, limit: int) -> list[QueuedAlert]:
        """Remove the alerts that were sent or rejected, and return the next ones."""
        for each in results.resolved:
            del self._alerts[each.key]
        return list(islice(self._alerts.values(), limit))

    def end_sending(self, _lease: SendLease) -> None:
        """Do nothing: the queue has no other sender."""

    def still_queued(self, alerts: Iterable[QueuedAlert]) -> list[QueuedAlert]:
        """Return those of the alerts that are in the queue."""
        return [each for each in alerts if each.key in self._alerts]


def prepare_alerts(alerts: object, app_id: str, style: WireStyle) -> list[QueuedAlert]:
    """Encode alerts; of several with one dedupe key, only the first is kept."""
    found: dict[str, QueuedAlert] = {}
    for i, alert in enumerate(check_list("alerts", alerts, AlertInfo)):
        data = b"[%b]" % encode_alert(alert, f"alerts[{i}]", style)
        key = alert.dedupe_key(app_id)
        found.setdefault(key, QueuedAlert(key, data, alert))
    return list(found.values())


def deliver(
    config: BusConfig, endpoint: Endpoint, batch: Sequence[QueuedAlert]
) -> Conversation[BatchResults]:
    """Send a batch in order; halve a rejected request until one alert is to blame.

    No error is raised, it is part of the results. Nothing is sent after an alert that
    was neither acknowledged nor rejected.
    """
    results = BatchResults()
    parts = [batch]
    while parts and results.error is None:
        part = parts.pop()
        body = alerts_body([each.data[1:-1] for each in part], config.style)
        try:
            yield from signed_exchange(config, endpoint, body, None)
            results.sent += part
        except OrtegeWatchError as error:
            if not is_rejection(error):
                results.error = error
            elif len(part) == 1:
                [alert] = part
                reason = error.reason or str(error)
                why = RejectedAlert(alert.alert, reason, error.code, error.status)
                results.rejected.append((alert, why))
            else:
                half = len(part) // 2
                parts += [part[half:], part[:half]]
    return results


def send_queued(
    config: BusConfig,
    endpoint: Endpoint,
    outbox: AlertQueue | None,
    alerts: Sequence[QueuedAlert],
    progress: Progress | None,
) -> Conversation[PublishResult]:
    """Send what is queued, until nothing is left or a request fails.

    ``alerts`` are those of the call, which an outbox has accepted before; a flush has
    none. A failed request is an error without an outbox, and in a flush.
    """
    queue = MemoryQueue(alerts) if outbox is None else outbox
    size, on_disk = config.batch_size, queue.on_disk
    results = BatchResults()
    batch: Sequence[QueuedAlert] | None
    left = 1
    while left and results.error is None:
        lease = SendLease()
        try:
            begin = partial(queue.begin_sending, lease, size)
            batch = (yield Work(begin, on_disk)).value
            if batch is None:
                break
            while batch and results.error is None:
                done = yield from deliver(config, endpoint, batch)
                batch = (yield Work(partial(queue.resolve, done, size), on_disk)).value
                results.add(done)
                for _, each in done.rejected:
                    problem = "%s rejects an alert, %s: %s"
                    code = each.alert.event_code
                    reason = printable(each.reason)
                    logger.warning(problem, config.root, code, reason)
                if progress is not None:
                    count = len(results.resolved)
                    left = (yield Work(queue.__len__, on_disk)).value
                    progress(count, count + left)
        finally:
            queue.end_sending(lease)  # does not wait for a disk
        # Others who accepted alerts meanwhile have left them to this sender.
        left = (yield Work(queue.__len__, on_disk)).value
    unsent: Sequence[QueuedAlert] = ()
    if left:
        unsent = (yield Work(partial(queue.still_queued, alerts), on_disk)).value
    given = {each.data: each for each in alerts}
    result = PublishResult(
        sent=tuple([given.get(each.data, each).alert for each in results.sent]),
        rejected=tuple([why for _, why in results.rejected]),
        unsent=tuple([each.alert for each in unsent]),
        error=results.error,
    )
    if result.error is not None:
        if outbox is None or not alerts:
            result.error.published = result
            raise result.error
        problem = "%s: unsent alerts stay in the outbox: %d (%s)"
        logger.warning(problem, config.root, len(unsent), result.error)
    return result
