"""How alerts go out: what is sent together, what is set aside, what is told of it.

Pure. Alerts wait as the bytes that they are sent as, so that what was accepted once is
sent as it was, by whatever process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from attrs import field, frozen, mutable

from ortege_watch._http.conversation import Conversation
from ortege_watch.errors import (
    InvalidArgument,
    OrtegeWatchError,
    QueryError,
    WatchBusError,
)
from ortege_watch.watchbus.fields import shown
from ortege_watch.watchbus.models import AlertInfo, decode_alerts
from ortege_watch.watchbus.requests import (
    BusConfig,
    Endpoint,
    is_rejection,
    signed_exchange,
)
from ortege_watch.watchbus.wire import WireStyle, encode_alerts

__all__ = [
    "Delivered",
    "PublishResult",
    "RejectedAlert",
    "Tally",
    "Turn",
    "Waiting",
    "body_of",
    "deliver",
    "prepare",
    "rejection",
]

_FIRST: Final = "alert_info_list[0]"


@frozen
class RejectedAlert:
    """Name an alert that the bus refuses for what it is, and why.

    Attributes:
        alert: the alert.
        reason: the bus's words.
        code: the result code; ``None`` where the answer had none.
        status: the HTTP status.
    """

    alert: AlertInfo
    reason: str
    code: str | None
    status: int | None


@frozen
class PublishResult:
    """Tell what became of alerts.

    Attributes:
        sent: the bus has taken them, in this order; with an outbox, older ones too.
        rejected: the bus refuses them for good; nobody sends them again.
        unsent: of the alerts given, those that were not sent. With an outbox they wait
            there; without one they are in no other place than here.
        error: why it ended before all were sent; ``None`` if nothing went wrong.
    """

    sent: tuple[AlertInfo, ...] = ()
    rejected: tuple[RejectedAlert, ...] = ()
    unsent: tuple[AlertInfo, ...] = ()
    error: OrtegeWatchError | None = None


@frozen
class Waiting:
    """Hold an alert that waits to be sent.

    Attributes:
        number: its place in the order.
        key: its dedupe key, the same as the receiver's.
        data: a list of one, as JSON.
    """

    number: int
    key: str
    data: bytes
    _given: AlertInfo | None = field(default=None, eq=False, repr=False)

    @property
    def alert(self) -> AlertInfo:
        """The alert: the one that was given, where that was in this process."""
        return self._given or decode_alerts(self.data)[0]


@frozen
class Delivered:
    """Tell what became of a batch.

    Attributes:
        sent: the bus has taken them.
        rejected: it refuses them for good.
        error: why the rest waits; ``None`` if there is no rest.
    """

    sent: tuple[Waiting, ...]
    rejected: tuple[tuple[Waiting, WatchBusError], ...]
    error: OrtegeWatchError | None


def prepare(alerts: object, app_id: str, style: WireStyle) -> list[Waiting]:
    """Write alerts as they are sent; two of one dedupe key are the same alert.

    Raises:
        QueryError: this is no list of alerts, or one cannot be sent; the message has
            its path.
    """
    if isinstance(alerts, str | bytes) or not isinstance(alerts, Iterable):
        raise QueryError(f"alerts: give a list of AlertInfo, not {shown(alerts)}")
    style = WireStyle(chain_id_as_int=style.chain_id_as_int, bare_lists=True)
    found: dict[str, Waiting] = {}
    for i, alert in enumerate(alerts):
        if not isinstance(alert, AlertInfo):
            raise QueryError(f"alerts[{i}]: {shown(alert)} is no AlertInfo")
        try:
            data = encode_alerts([alert], style)
        except InvalidArgument as error:
            problem = str(error).removeprefix(_FIRST)
            colon = "" if problem.startswith(".") else ": "
            raise QueryError(f"alerts[{i}]{colon}{problem}") from error
        # Of what arrives: numbers have become text on the way.
        key = decode_alerts(data)[0].dedupe_key(app_id)
        found.setdefault(key, Waiting(i, key, data, alert))
    if not found:
        raise QueryError("alerts: there is nothing to send; give at least one")
    return list(found.values())


def body_of(batch: Sequence[Waiting], *, bare: bool) -> bytes:
    """Write the body of a request, without writing an alert again."""
    listed = b"[%b]" % b",".join(each.data[1:-1] for each in batch)
    return listed if bare else b'{"alert_info_list":%b}' % listed


def deliver(
    link: BusConfig, target: Endpoint, batch: Sequence[Waiting], *, bare: bool
) -> Conversation[Delivered]:
    """Send a batch, in order; what is refused is halved until one alert is to blame.

    It raises nothing: an error is part of what it returns. Nothing is sent after an
    alert that could neither be sent nor was refused.
    """
    waiting = [tuple(batch)]
    sent: list[Waiting] = []
    rejected: list[tuple[Waiting, WatchBusError]] = []
    stopped: OrtegeWatchError | None = None
    while waiting and stopped is None:
        part = waiting.pop()
        try:
            yield from signed_exchange(
                link, target, body_of(part, bare=bare), _whatever, is_repeatable=True
            )
            sent += part
        except OrtegeWatchError as error:
            if not isinstance(error, WatchBusError) or not is_rejection(error):
                stopped = error
            elif len(part) == 1:
                rejected.append((part[0], error))
            else:
                half = len(part) // 2
                waiting += [part[half:], part[:half]]
    return Delivered(tuple(sent), tuple(rejected), stopped)


def _whatever(_data: object) -> None:
    """Take any answer to an alert: the page documents none."""


@mutable(eq=False)
class Turn:
    """Be one turn at sending from an outbox.

    Attributes:
        over: it was given away, and cannot be taken any more. A function that takes it
            may run in a thread for a while after the task that asked for it is gone.
    """

    over: bool = False


@mutable
class Tally:
    """Gather what became of several batches."""

    sent: list[Waiting] = field(factory=list)
    rejected: list[RejectedAlert] = field(factory=list)
    error: OrtegeWatchError | None = None

    @property
    def done(self) -> int:
        """How many alerts need nothing more."""
        return len(self.sent) + len(self.rejected)

    def add(self, delivered: Delivered) -> list[RejectedAlert]:
        """Count a batch in; return what of it was refused."""
        refused = [rejection(each, error) for each, error in delivered.rejected]
        self.sent += delivered.sent
        self.rejected += refused
        self.error = delivered.error
        return refused

    def result(self, unsent: Iterable[Waiting] = ()) -> PublishResult:
        """Tell it all."""
        return PublishResult(
            sent=tuple(each.alert for each in self.sent),
            rejected=tuple(self.rejected),
            unsent=tuple(each.alert for each in unsent),
            error=self.error,
        )


def rejection(waiting: Waiting, error: WatchBusError) -> RejectedAlert:
    """Say why an alert is set aside."""
    reason = error.reason or str(error)
    return RejectedAlert(waiting.alert, reason, error.code, error.status)
