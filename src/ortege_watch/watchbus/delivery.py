"""What an alert channel still has to deliver, and when it dials again. Pure.

A parcel is a frame with its id. It stays until the receiver has acknowledged it or has
refused it for good, and is sent again on every new connection, under the same id and in
the order in which it was given.
"""

from __future__ import annotations

import math
from typing import Final

from attrs import define, frozen

from ortege_watch.cube.endpoint import split_url
from ortege_watch.cube.verdicts import http_date
from ortege_watch.errors import (
    DecodeError,
    OrtegeWatchError,
    SignatureReason,
    TransportError,
    WatchBusError,
)
from ortege_watch.subscription.backoff import Backoff
from ortege_watch.subscription.settings import Reconnect
from ortege_watch.watchbus.envelope import REFUSALS, read_answer
from ortege_watch.watchbus.frames import AnswerFrame
from ortege_watch.watchbus.signing import request_line

__all__ = [
    "Delivery",
    "Redial",
    "Setback",
    "Settled",
    "address_of",
    "refused_upgrade",
    "server_ahead",
]

_PASSING: Final = frozenset({408, 425, 429})
_EXPIRED: Final = REFUSALS[SignatureReason.EXPIRED][2]
_EXAMPLE: Final = "give its address, such as wss://alerts.example.com/alerts/ws"


@frozen
class Settled:
    """Tell that a parcel is done with.

    Attributes:
        id: the parcel's.
        error: why the receiver will not have it; ``None`` if it has handled it.
    """

    id: str
    error: OrtegeWatchError | None = None


@define
class _Parcel:
    text: str
    sent: bool = False
    refusals: int = 0
    not_before: float = -math.inf


class Delivery:
    """Hold the parcels, in order.

    Args:
        retry: the delays before a parcel that was not handled is sent again, and how
            often that is done.
    """

    def __init__(self, retry: Reconnect) -> None:
        self._parcels: dict[str, _Parcel] = {}
        self._backoff = Backoff(base=retry.base, cap=retry.cap)
        self._attempts = math.inf if retry.attempts is None else retry.attempts

    def __len__(self) -> int:
        return len(self._parcels)

    def add(self, key: str, text: str) -> None:
        """Take a parcel; it is due at once."""
        self._parcels[key] = _Parcel(text)

    def drop(self, key: str) -> None:
        """Forget a parcel, if it is there: nobody waits for it any more."""
        self._parcels.pop(key, None)

    def due(self, now: float) -> list[str]:
        """List the frames to send now, and expect each to be sent."""
        found = [
            parcel
            for parcel in self._parcels.values()
            if not parcel.sent and parcel.not_before <= now
        ]
        for parcel in found:
            parcel.sent = True
        return [parcel.text for parcel in found]

    def next_at(self) -> float | None:
        """Tell when the next parcel is due that is being held back."""
        held = (each.not_before for each in self._parcels.values() if not each.sent)
        return min(held, default=None)

    def lost(self) -> None:
        """Note that the connection is gone: what has no answer is sent again."""
        for parcel in self._parcels.values():
            parcel.sent = False

    def answered(self, answer: AnswerFrame, now: float, draw: float) -> Settled | None:
        """Take an answer.

        Args:
            answer: what came.
            now: monotonic seconds.
            draw: a random number, 0 <= draw < 1.

        Returns:
            What is settled by it; ``None`` where the parcel is held back and sent
            again, and where nobody waits for it any more.
        """
        parcel = self._parcels.get(answer.id)
        if parcel is None:
            return None
        try:
            read_answer(answer.body, answer.status)
        except (DecodeError, WatchBusError) as error:
            if not _passing(answer.status) or parcel.refusals >= self._attempts:
                return Settled(answer.id, error)
            delay = self._backoff.delay(parcel.refusals, draw)
            parcel.refusals += 1
            parcel.not_before = now + delay
            parcel.sent = False
            return None
        return Settled(answer.id)

    def too_large(self) -> Settled | None:
        """Give up the largest frame that is under way: the receiver takes none so big.

        The close code says that some frame was, and not which.
        """
        sent = {key: each for key, each in self._parcels.items() if each.sent}
        if not sent:
            return None
        key = max(sent, key=lambda key: len(sent[key].text))
        problem = "the receiver takes no frame of this size; send fewer alerts at once"
        return Settled(key, WatchBusError(problem, status=413))


def _passing(status: int) -> bool:
    return status >= 500 or status in _PASSING


@frozen
class Setback:
    """Say how to go on after a failure.

    Attributes:
        delay: seconds until the next attempt.
        gives_up: whether those who wait are to be told of the failure.
    """

    delay: float
    gives_up: bool


class Redial:
    """Count failures in a row; only a connection that held begins anew."""

    def __init__(self, retry: Reconnect) -> None:
        self._retry = retry
        self._backoff = Backoff(base=retry.base, cap=retry.cap)
        self._failures = 0
        self._since: float | None = None

    def opened(self, now: float) -> None:
        """Note that a connection stands; that alone proves nothing."""
        self._since = now

    def failed(self, now: float, draw: float) -> Setback:
        """Take the end of a connection, or an attempt that came to none.

        Args:
            now: monotonic seconds.
            draw: a random number, 0 <= draw < 1.
        """
        since, self._since = self._since, None
        if since is not None and now - since >= self._retry.healthy_after:
            self._failures = 0
        delay = self._backoff.delay(self._failures, draw)
        attempts = self._retry.attempts
        gives_up = attempts is not None and self._failures >= attempts
        self._failures = 0 if gives_up else self._failures + 1
        return Setback(delay, gives_up)


def refused_upgrade(status: int, body: bytes) -> tuple[OrtegeWatchError, bool]:
    """Read the answer to a handshake that was not accepted.

    Returns:
        The error, and whether another attempt would come to the same: true for bad
        credentials and a wrong path, false for a server that is not well.
    """
    try:
        read_answer(body, status)
    except WatchBusError as error:
        return error, not _passing(status)
    except DecodeError as error:
        failure = _no_channel(status)
        failure.__cause__ = error
        return failure, True
    return _no_channel(status), True


def _no_channel(status: int) -> TransportError:
    problem = f"HTTP status {status} was the answer to the upgrade: no alert channel"
    return TransportError(problem)


def server_ahead(error: OrtegeWatchError, date: str | None, now: float) -> float | None:
    """Tell how far the server's clock is ahead, where it calls ours expired.

    Args:
        error: what :func:`refused_upgrade` made of its answer.
        date: the answer's Date header.
        now: unix seconds by our clock.

    Returns:
        Seconds, negative if it is behind; ``None`` where that is not the trouble, or
        where it cannot be told.
    """
    if not isinstance(error, WatchBusError) or error.reason != _EXPIRED:
        return None
    moment = http_date(date or "")
    # The header has whole seconds: on average it is half a second late.
    return None if moment is None else moment + 0.5 - now


def address_of(url: str) -> tuple[str, str]:
    """Read a channel's address; ``http`` and ``https`` stand for ``ws`` and ``wss``.

    Returns:
        The address of the WebSocket, and its path: what the handshake signs.

    Raises:
        QueryError: this is no such address, or its path cannot be signed.
    """
    parts = split_url(url, _EXAMPLE, "sign with credentials")
    path = parts.path or "/"
    request_line("GET", path)
    scheme = "wss" if parts.scheme in {"https", "wss"} else "ws"
    return f"{scheme}://{parts.netloc}{path}", path
