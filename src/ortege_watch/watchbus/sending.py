"""The flow that sends alerts from a queue, in memory or on disk, and its results.

Pure. Alerts are queued as the bytes that are sent, so that every process that sends one
later sends what was accepted.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Final, ParamSpec, Protocol, TypeVar, cast

import msgspec
from attrs import Factory, field, frozen, mutable

from ortege_watch._checks import check_int, check_list, check_seconds
from ortege_watch._http.conversation import (
    LONGEST_RETRY_AFTER,
    Backoff,
    Conversation,
    Retry,
    Work,
    next_attempt,
    respected,
)
from ortege_watch.errors import (
    ApiError,
    DeadlineExceeded,
    OrtegeWatchError,
    TransportError,
    WatchBusError,
    printable,
)
from ortege_watch.watchbus.models import (
    AlertInfo,
    dedupe_keys,
    read_alerts,
    shown_alert,
)
from ortege_watch.watchbus.requests import (
    BusConfig,
    Endpoint,
    Progress,
    is_misconfigured,
    is_of_server,
    is_rejection,
    report_progress,
    signed_exchange,
)
from ortege_watch.watchbus.wire import WireStyle, alerts_body, encode_each

T = TypeVar("T")
P = ParamSpec("P")

logger: Final = logging.getLogger("ortege_watch.watchbus")

DELAYS: Final = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0, 7200.0, 14_400.0, 28_800.0)
"""Seconds after the first failed attempt of an alert, after the second, and so on."""

LONGEST_DOUBT: Final = 600.0
"""Seconds until an alert whose failure may be the server's is sent again, at most."""

STREAK: Final = 3
"""So many alerts that fail alone, in a row and the same way, are the server's failure."""


_PARTS: Final = 4
"""In so many parts a batch that fails is sent again."""


@frozen
class DeadLetter:
    """An alert that will not be sent again, and the reason.

    Attributes:
        alert: the alert.
        reason: the bus's message.
        code: the result code; ``None`` where the response had none.
        status: the HTTP status.
        attempts: how many failures counted, 1 for one that was rejected at once.
        time: when it was given up, in unix seconds; ``None`` without an outbox.
        key: the alert's dedupe key.
    """

    alert: AlertInfo
    reason: str
    code: str | None
    status: int | None
    attempts: int = 1
    time: float | None = None
    key: str = field(default="", eq=False, repr=False)


@frozen
class PublishResult:
    """What became of alerts.

    Attributes:
        sent: those that the bus acknowledged, in order; with an outbox, this includes
            alerts that were queued before, and last those of this call that another
            sender has sent.
        dead: those that were given up: the bus rejected them, or, with an outbox, they
            have failed too often, also while another sender sent them. They are not
            sent again.
        unsent: those of this call that were not sent. With an outbox they stay queued;
            without one this is the only place that has them.
        error: why the last alert that failed was not sent; ``None`` if none is left.
    """

    sent: tuple[AlertInfo, ...] = ()
    dead: tuple[DeadLetter, ...] = ()
    unsent: tuple[AlertInfo, ...] = ()
    error: OrtegeWatchError | None = None


@frozen(kw_only=True)
class Redelivery:
    """When an alert that failed is sent again, and when it is given up."""

    max_attempts: int = 10
    max_age: float = 7 * 86_400.0  # seconds

    def __attrs_post_init__(self) -> None:
        check_int("max_attempts", self.max_attempts)
        check_seconds("max_age", self.max_age)

    def resolve(self, results: BatchResults, now: float) -> Resolution:
        """Count the failures of a batch, and decide what becomes of its alerts."""
        done = Resolution(results.sent, results.undecided)
        for queued, rejection in results.rejected:
            queued.attempts += 1
            done.give_up(queued, rejection, now)
        for i, (queued, error) in enumerate(results.failed):
            is_suspect = i < results.suspects
            retry = self._retry(queued, error, now, is_suspect=is_suspect)
            if retry is None:
                done.give_up(queued, error, now)
            else:
                done.failed.append(retry)
        return done

    def _retry(
        self,
        queued: QueuedAlert,
        error: OrtegeWatchError,
        now: float,
        *,
        is_suspect: bool,
    ) -> FailedAlert | None:
        """Count a failure, and return when the alert is sent again, if it is.

        The failure is an attempt only if another alert was acknowledged since the one
        before: otherwise the server may be down.
        """
        is_attempt = queued.is_suspect
        queued.failures += 1
        if is_attempt:
            queued.attempts += 1
            if is_rejection(error) or queued.attempts >= self.max_attempts:
                return None
            nominal = DELAYS[min(queued.attempts, len(DELAYS)) - 1]
            what = f"failed attempt {queued.attempts} of {self.max_attempts}"
        else:
            nominal = DELAYS[min(queued.failures, len(DELAYS)) - 1]
            nominal = min(nominal, LONGEST_DOUBT)
            if is_of_server(error):
                nominal = 0.0  # others go first anyway
            what = "failed, perhaps with all others"
        if now - queued.accepted_at >= self.max_age:
            return None
        wait = _asked_wait(error)
        delay = max(nominal, wait)
        least = delay if is_attempt else wait
        not_before = now + least if least else 0.0
        at = not_before if is_suspect else now + delay
        queued.is_suspect = is_suspect
        return FailedAlert(
            queued,
            error,
            f"{what}; next in {at - now:.0f} s" if at else SENT_AGAIN,
            at,
            not_before,
        )


@frozen
class FailedAlert:
    """An alert that failed and is sent again.

    Attributes:
        queued: the alert.
        error: the failure.
        note: what failed and when the next attempt is, for the log.
        at: when it is sent again, in unix seconds; 0 for at once.
        not_before: the same, once another alert was acknowledged.
    """

    queued: QueuedAlert
    error: OrtegeWatchError
    note: str = "failed"
    at: float = 0.0
    not_before: float = 0.0


@mutable
class Resolution:
    """What becomes of the alerts of a batch.

    Attributes:
        sent: those that are done.
        undecided: those that failed together with others, and stay queued.
        given_up: those that are not sent again.
        dead: the dead letters of these, in the same order.
        failed: those that stay queued.
    """

    sent: Sequence[QueuedAlert]
    undecided: Sequence[QueuedAlert] = ()
    given_up: list[QueuedAlert] = field(factory=list)
    dead: list[DeadLetter] = field(factory=list)
    failed: list[FailedAlert] = field(factory=list)

    @property
    def gone(self) -> list[QueuedAlert]:
        """The alerts that leave the queue."""
        return [*self.sent, *self.given_up]

    def give_up(
        self, queued: QueuedAlert, error: OrtegeWatchError, time: float | None = None
    ) -> None:
        """Add an alert that is not sent again."""
        self.given_up.append(queued)
        self.dead.append(queued.dead_letter(error, time))


def _asked_wait(error: OrtegeWatchError) -> float:
    """Return the seconds that a server asked to wait; 0 if it did not."""
    return respected(error.retry_after if isinstance(error, ApiError) else None)


def read_data(data: bytes) -> AlertInfo:
    """Return the alert that queued bytes are."""
    return read_alerts(b"[%b]" % data)[0]


class QueuedAlert(msgspec.Struct, eq=False, gc=False):  # a batch has many
    """An alert that is to be sent."""

    key: str  # its dedupe key, as the receiver computes it
    data: bytes  # the alert as JSON
    attempts: int = 0  # failures that count
    accepted_at: float = 0.0  # unix seconds
    failures: int = 0
    # another alert was acknowledged since this one has failed
    is_suspect: bool = False
    given: AlertInfo | None = None
    number: int = 0  # in the order of an outbox

    def __eq__(self, other: object) -> bool:
        mine = self.key, self.data
        return isinstance(other, QueuedAlert) and mine == (other.key, other.data)

    __ne__ = object.__ne__  # that of msgspec compares identities
    __hash__ = None  # type: ignore[assignment]

    @property
    def alert(self) -> AlertInfo:
        """The alert; the object that was given, where that was in this process."""
        return self.given or read_data(self.data)

    def dead_letter(
        self, error: OrtegeWatchError, time: float | None = None
    ) -> DeadLetter:
        """Return the alert as one that is given up."""
        reason = code = status = None
        if isinstance(error, WatchBusError):
            reason, code, status = error.reason, error.code, error.status
        return DeadLetter(
            self.alert,
            reason or error.text,
            code,
            status,
            max(1, self.attempts),
            time,
            self.key,
        )


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
    rejected: list[tuple[QueuedAlert, WatchBusError]] = field(factory=list)
    # they failed, alone, and may succeed later
    failed: list[tuple[QueuedAlert, OrtegeWatchError]] = field(factory=list)
    # so many of these, from the first, failed before another alert was acknowledged
    suspects: int = 0
    # they failed together with others, and were not sent alone
    undecided: list[QueuedAlert] = field(factory=list)
    # why nothing more was sent; None if everything was
    error: OrtegeWatchError | None = None

    def add_sent(self, alerts: Iterable[QueuedAlert]) -> None:
        """Add alerts that the bus acknowledged."""
        self.sent += alerts
        self.suspects = len(self.failed)

    def add_failure(self, queued: QueuedAlert, error: OrtegeWatchError) -> bool:
        """Add an alert that failed alone; return whether it was rejected for good.

        A rejection without an envelope may be the page of a proxy, so it is not final.
        """
        if is_rejection(error) and error.code is not None:
            self.rejected.append((queued, error))
            return True
        if self.sent and queued.failures:
            queued.is_suspect = True  # these were acknowledged since it has failed
        self.failed.append((queued, error))
        return False


class AlertQueue(Protocol):
    """Alerts in the order in which they are sent, for one sender at a time.

    In an outbox, those that have failed come after those that have not.

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

    def resolve(
        self, results: BatchResults, limit: int, /
    ) -> tuple[Sequence[QueuedAlert], Resolution]:
        """Remove what was sent or given up; return the next alerts, and what was done."""
        ...

    def end_sending(self, lease: SendLease, /) -> None:
        """Release the lease, whether it was taken or not."""
        ...

    def is_due(self) -> bool:
        """Return whether an alert is to be sent now."""
        ...

    def look_up(
        self, alerts: Iterable[QueuedAlert], /
    ) -> tuple[list[QueuedAlert], list[DeadLetter]]:
        """Return those of the alerts that are queued, and the dead letters of others.

        The rest was acknowledged.
        """
        ...


class MemoryQueue:
    """The alerts of one call."""

    on_disk: bool = False

    def __init__(self, alerts: Iterable[QueuedAlert]) -> None:
        self._alerts = {each.key: each for each in alerts}
        self._failed = set[str]()
        self._doubtful: dict[str, QueuedAlert] = {}  # rejected, perhaps like all others

    def __len__(self) -> int:
        return len(self._alerts)

    def begin_sending(self, _lease: SendLease, limit: int) -> list[QueuedAlert]:
        """Return the first alerts."""
        return self._first(limit)

    def _first(self, limit: int) -> list[QueuedAlert]:
        due = (each for key, each in self._alerts.items() if key not in self._failed)
        return list(islice(due, limit))

    def resolve(
        self, results: BatchResults, limit: int
    ) -> tuple[list[QueuedAlert], Resolution]:
        """Remove what was sent or rejected; return the next alerts, and what was done."""
        done = Resolution(results.sent)
        for queued, rejection in results.rejected:
            done.give_up(queued, rejection)
        if results.sent:
            self._failed -= self._doubtful.keys()
            for queued in self._doubtful.values():
                queued.is_suspect = True
            self._doubtful.clear()
        for i, (queued, why) in enumerate(results.failed):
            if is_rejection(why) and queued.is_suspect:
                done.give_up(queued, why)
            elif is_rejection(why) and i < results.suspects:
                queued.is_suspect = True
                done.failed.append(FailedAlert(queued, why, SENT_AGAIN))
            else:
                done.failed.append(FailedAlert(queued, why))
                self._failed.add(queued.key)
                if is_rejection(why):
                    self._doubtful[queued.key] = queued
        for queued in done.gone:
            del self._alerts[queued.key]
        return self._first(limit), done

    def end_sending(self, _lease: SendLease) -> None:
        """Do nothing: the queue has no other sender."""

    def is_due(self) -> bool:
        """Return ``False``: nobody adds alerts."""
        return False

    def look_up(
        self, alerts: Iterable[QueuedAlert]
    ) -> tuple[list[QueuedAlert], list[DeadLetter]]:
        """Return the alerts that are in the queue, and no dead letters."""
        return [each for each in alerts if each.key in self._alerts], []


SENT_AGAIN: Final = "failed; sent again at once"
DEAD_LETTERS: Final = "; moved to the dead letters"


def prepare_alerts(alerts: object, app_id: str, style: WireStyle) -> list[QueuedAlert]:
    """Encode alerts; of several with one dedupe key, only the first is kept."""
    listed = check_list("alerts", alerts, AlertInfo)
    encoded = encode_each(listed, style)
    keys = dedupe_keys(listed, encoded, app_id)
    found: dict[str, QueuedAlert] = {}
    for key, data, alert in zip(keys, encoded, listed, strict=True):
        if key not in found:
            found[key] = QueuedAlert(key, data, given=alert)
    return list(found.values())


def _use(
    queue: AlertQueue, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> Conversation[T]:
    """Call a method of a queue; its error is raised here, and not in the driver."""
    if not queue.on_disk:
        return call(*args, **kwargs)

    def attempt() -> tuple[T | None, OrtegeWatchError | None]:
        try:
            return call(*args, **kwargs), None
        except OrtegeWatchError as error:
            return None, error

    value, error = (yield Work(attempt, queue.on_disk)).value
    if error is not None:
        raise error
    return cast("T", value)


@mutable
class BatchSize:
    """How many alerts the next batch has; it outlives the calls of a publisher.

    One alert may be why a server does not answer. So after a failure of the server
    alerts are sent alone at first, and each batch that succeeds doubles the size.

    Nor is a setting wrong because of one alert: what looks so is the server's failure only
    if no alert was acknowledged since the last one.
    """

    largest: int
    size: int = field(default=Factory(lambda self: self.largest, takes_self=True))
    is_reduced: bool = False
    """Whether the server has failed, and no full batch has succeeded since."""
    is_confirmed: bool = False
    """Whether an alert was acknowledged since the server has failed: settings are right."""

    @property
    def is_down(self) -> bool:
        """Whether the server has failed, and nothing was acknowledged since."""
        return self.is_reduced and not self.is_confirmed

    def on_success(self, count: int) -> None:
        """Note that alerts were acknowledged; a whole batch doubles a reduced size."""
        self.is_confirmed = True
        if self.is_reduced and count == self.size:
            self.size = min(2 * self.size, self.largest)
            self.is_reduced = self.size < self.largest

    def on_failure(self) -> None:
        """Begin with single alerts."""
        self.size, self.is_reduced, self.is_confirmed = 1, True, False

    def is_of_server(self, error: OrtegeWatchError) -> bool:
        """Return whether a failure is the server's, and not that of alerts."""
        is_excluded = self.is_confirmed and is_misconfigured(error)
        return is_of_server(error) and not is_excluded


@mutable
class FailureStreak:
    """How many alerts in a row failed alone and in the same way."""

    _length: int = field(default=0, init=False)
    _latest: object = field(default=None, init=False)  # the error's class and codes

    def is_of_server(self, error: OrtegeWatchError) -> bool:
        """Count a failure, and return whether so many are the server's."""
        status, code = getattr(error, "status", None), getattr(error, "code", None)
        kind = (type(error), status, code)
        self._length = self._length + 1 if self._latest == kind else 1
        self._latest = kind
        return self._length >= STREAK

    def reset(self) -> None:
        """Begin again, as alerts were acknowledged."""
        self._length = 0


@mutable(kw_only=True)
class Sender:
    """A call that sends alerts, and what became of them so far.

    Attributes:
        config: the server, and the options of the requests.
        endpoint: the URL.
        outbox: the queue, if alerts stay in it after the call.
        alerts: those of the call, which an outbox has accepted before; a flush has none.
        progress: called after each batch.
        started: from when the deadline counts, in monotonic seconds; ``None``: from the
            beginning of each request.
        max_batches: the most batches to send.
        batches: their size.
    """

    config: BusConfig
    endpoint: Endpoint
    outbox: AlertQueue | None = None
    alerts: Sequence[QueuedAlert] = ()
    progress: Progress | None = None
    started: float | None = None
    max_batches: float = math.inf
    batches: BatchSize = field(
        default=Factory(lambda self: BatchSize(self.config.batch_size), takes_self=True)
    )

    _sent: list[QueuedAlert] = field(factory=list, init=False)
    _dead: list[DeadLetter] = field(factory=list, init=False)
    _error: OrtegeWatchError | None = field(default=None, init=False)  # ends the call
    # those of alerts that are neither sent nor given up, by key
    _failures: dict[str, OrtegeWatchError] = field(factory=dict, init=False)
    _streak: FailureStreak = field(factory=FailureStreak, init=False)

    def run(self) -> Conversation[PublishResult]:
        """Send what is due, until nothing is left or the server fails.

        A failure of the server is an error without an outbox and in a flush, and a
        misconfiguration always.
        """
        queue = MemoryQueue(self.alerts) if self.outbox is None else self.outbox
        try:
            yield from self._send_all(queue)
            left = {each.key: each for each in self.alerts}
            for queued in self._sent:
                left.pop(queued.key, None)
            for letter in self._dead:
                left.pop(letter.key, None)
            unsent: Iterable[QueuedAlert] = ()
            if left:
                unsent, dead = yield from _use(queue, queue.look_up, left.values())
                for queued in unsent:
                    del left[queued.key]
                for gone in left:  # another sender has sent it or given it up
                    self._failures.pop(gone, None)
                for letter in dead:
                    del left[letter.key]
                self._dead += dead
                self._sent += left.values()
        except OrtegeWatchError as error:  # the outbox cannot be used
            error.published = self._result(self.alerts)
            raise
        result = self._result(unsent)
        is_raised = self.outbox is None or self.batches.is_down
        why = result.error if is_raised else self._error
        if why is not None:
            if self.outbox is None or not self.alerts or is_misconfigured(why):
                why.published = result
                raise why
            problem = "%s: unsent alerts stay in %r: %d (%s)"
            unsent_count = len(result.unsent)
            sender = self.config.sender
            logger.warning(problem, sender, self.outbox, unsent_count, why.text)
        return result

    def _result(self, unsent: Iterable[QueuedAlert]) -> PublishResult:
        sent = [each.given for each in self._sent]
        if not all(sent):  # some were read from an outbox
            given = {each.data: each.given for each in self.alerts}
            sent = [x.given or given.get(x.data) or x.alert for x in self._sent]
        return PublishResult(
            sent=tuple(cast("list[AlertInfo]", sent)),
            dead=tuple(self._dead),
            unsent=tuple([each.alert for each in unsent]),
            error=self._error or next(reversed(self._failures.values()), None),
        )

    def _send_all(self, queue: AlertQueue) -> Conversation[None]:
        is_due = True
        while is_due and self._may_continue:
            lease = SendLease()
            size = self.batches.size
            try:
                batch = yield from _use(queue, queue.begin_sending, lease, size)
                if batch is None:
                    return
                while batch and self._may_continue:
                    batch = yield from self._send_batch(queue, batch)
            finally:
                queue.end_sending(lease)  # does not wait for a disk
            # Others who accepted alerts meanwhile have left them to this sender.
            is_due = yield from _use(queue, queue.is_due)

    @property
    def _may_continue(self) -> bool:
        return self._error is None and self.max_batches > 0

    def _send_batch(
        self, queue: AlertQueue, batch: Sequence[QueuedAlert]
    ) -> Conversation[Sequence[QueuedAlert]]:
        """Send a batch, and return the next one."""
        self.max_batches -= 1
        results = yield from self.deliver(batch)
        self._sent += results.sent
        if results.sent:
            logger.debug("%s: alerts sent: %d", self.config.sender, len(results.sent))
        self._error = results.error
        for queued, why in results.failed:
            self._failures.pop(queued.key, None)
            self._failures[queued.key] = why
        size = self.batches.size
        following, done = yield from _use(queue, queue.resolve, results, size)
        self._dead += done.dead
        if self._failures:
            for gone in done.gone:
                self._failures.pop(gone.key, None)
        moved = "" if self.outbox is None else DEAD_LETTERS
        log_failures(self.config.sender, done, moved)
        if self.progress is not None:
            count = len(self._sent) + len(self._dead)
            left = yield from _use(queue, queue.__len__)
            report_progress(self.progress, count, count + left)
        return following

    def deliver(self, batch: Sequence[QueuedAlert]) -> Conversation[BatchResults]:
        """Send a batch in order; quarter one that fails until one alert is to blame.

        Halving would take as many requests, and each request that fails calls the handler
        of the alert to blame once more.

        No error is raised, it is part of the results. Nothing is sent after an error
        that concerns the server.
        """
        results = BatchResults()
        parts = [batch]
        while parts and results.error is None:
            part = parts.pop()
            try:
                yield from self._post(part, is_whole=part is batch)
            except OrtegeWatchError as error:
                if self._ends_call(part, error):
                    results.error = error
                    self.batches.on_failure()
                    return results
                if len(part) > 1:
                    size = -(-len(part) // _PARTS)
                    starts = range(0, len(part), size)
                    parts += [part[i : i + size] for i in reversed(starts)]
                else:
                    self._add_failure(results, part[0], error)
            else:
                self._streak.reset()
                results.add_sent(part)
                self.batches.on_success(len(part))
        results.undecided = [each for part in reversed(parts) for each in part]
        return results

    def _ends_call(self, part: Sequence[QueuedAlert], error: OrtegeWatchError) -> bool:
        """Return whether a failure concerns the server, and not the alerts.

        That of a single alert after an outage may concern either: the next alert decides.
        """
        if not self.batches.is_of_server(error):
            return False
        is_late = isinstance(error, DeadlineExceeded) and self.started is not None
        causes = (error, error.__cause__)
        is_unsent = any(isinstance(x, TransportError) and x.unsent for x in causes)
        is_single = len(part) == 1 and self.batches.is_reduced
        return not is_single or is_late or is_unsent

    def _post(
        self, part: Sequence[QueuedAlert], *, is_whole: bool
    ) -> Conversation[None]:
        body = alerts_body([each.data for each in part], self.config.style)
        if len(part) == 1 and self.outbox is None:
            longest_wait = math.inf
        else:
            # To wait as long as one alert asks for would delay the others.
            longest_wait = 0.0 if is_whole else -1.0
        return signed_exchange(
            self.config,
            self.endpoint,
            body,
            None,
            longest_wait=longest_wait,
            started=self.started,
        )

    def _add_failure(
        self, results: BatchResults, queued: QueuedAlert, error: OrtegeWatchError
    ) -> None:
        """Add an alert that failed alone, and end the call if the server is to blame."""
        if results.add_failure(queued, error):
            return
        is_known = is_rejection(error) and queued.is_suspect
        if not is_known and self._streak.is_of_server(error):
            results.error = error
            if is_misconfigured(error):
                self.batches.on_failure()


def log_failures(sender: str, done: Resolution, moved: str) -> None:
    """Log each alert that failed or was given up; ``moved`` says where the latter are."""
    for each in done.dead:
        problem = "%s: alert %s given up after attempt %d%s: %s"
        name, reason = shown_alert(each.alert, each.key), printable(each.reason)
        logger.warning(problem, sender, name, each.attempts, moved, reason)
    for failed in done.failed:
        name = shown_alert(failed.queued.alert, failed.queued.key)
        problem = "%s: alert %s %s: %s"
        logger.warning(problem, sender, name, failed.note, failed.error.text)


@mutable
class SendingPace:
    """How long a background sender waits, and what it logs about failures."""

    sender: str  # its name in log lines
    retry: Retry
    _failures: int = field(default=0, init=False)
    _is_down: bool = field(
        default=False, init=False
    )  # nothing was sent since a failure

    def next(self, error: Exception, jitter: float, backlog: str = "") -> float:
        """Return the seconds until the next attempt after a failure, and log it.

        ``backlog`` says what is waiting for that.
        """
        published = getattr(error, "published", None)
        is_stored = type(error) is not OrtegeWatchError  # else the outbox has failed
        if published is not None and (published.sent or published.dead) and is_stored:
            self.reset(has_sent=bool(published.sent))
        self._is_down = True
        is_ours = isinstance(error, OrtegeWatchError)
        retry_after = None
        # What was asked for one alert does not hold up the others.
        if isinstance(error, ApiError) and is_of_server(error):
            retry_after = error.retry_after
        lasting = isinstance(error, OrtegeWatchError) and is_misconfigured(error)
        base, cap = self.retry.base, self.retry.cap
        if lasting:
            base, cap = cap, max(cap, LONGEST_RETRY_AFTER)
        delay = Backoff(base, cap).delay(self._failures, jitter, retry_after)
        self._failures += 1
        is_known = is_ours and not lasting and is_stored
        logger.log(
            logging.WARNING if is_known else logging.ERROR,
            "%s: cannot send: %s; %s%s",
            self.sender,
            error.text if isinstance(error, OrtegeWatchError) else repr(error),
            next_attempt(delay, retry_after),
            backlog and f"; {backlog}",
            exc_info=None if is_ours else error,
        )
        return delay

    def reset(self, *, has_sent: bool) -> None:
        """Begin with the shortest delay again; log the first success after failures."""
        self._failures = 0
        if has_sent and self._is_down:
            self._is_down = False
            logger.info("%s: alerts are sent again", self.sender)
