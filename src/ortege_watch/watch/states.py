"""The words of the subscription's state machine: its states, events and effects.

All are frozen, and each kind is a closed union, so that a type checker proves that
``session.py`` handles every one. Times are monotonic seconds. A state carries its own
deadline: when ``until`` passes, the shell says :class:`DeadlinePassed`.
"""

from __future__ import annotations

import enum

import attrs

from ortege_watch._json import ResultPart
from ortege_watch.errors import OrtegeWatchError
from ortege_watch.watch.frames import Frame

__all__ = [
    "AskToken",
    "AskingToken",
    "Authorizing",
    "Closed",
    "Connecting",
    "ConnectionState",
    "DeadlinePassed",
    "Deliver",
    "Disconnect",
    "Dropped",
    "Effect",
    "Event",
    "Fail",
    "Finish",
    "Live",
    "Log",
    "Open",
    "OpenFailed",
    "Opened",
    "Ping",
    "Poll",
    "PollFailed",
    "Polled",
    "Polling",
    "Pong",
    "Received",
    "Send",
    "State",
    "SwitchDialect",
    "TokenFailed",
    "TokenReady",
    "Unreadable",
    "Waiting",
]


class ConnectionState(enum.StrEnum):
    """Tell how a subscription is connected.

    ``connecting`` covers the token, the socket and the handshake; ``live`` is a socket
    that took every query; ``polling`` asks over REST; ``waiting`` sits out a back-off
    delay; ``closed`` is final.
    """

    CONNECTING = "connecting"
    LIVE = "live"
    POLLING = "polling"
    WAITING = "waiting"
    CLOSED = "closed"


# ------------------------------------------------------------------------- states


@attrs.frozen
class Waiting:
    """No socket; the next attempt starts when ``until`` passes."""

    until: float


@attrs.frozen
class AskingToken:
    """The token provider has been asked, before any socket is opened."""

    until: float


@attrs.frozen
class Connecting:
    """A socket is being opened, TLS and upgrade included."""

    token: str = attrs.field(repr=False)
    expires_at: float | None
    until: float


@attrs.frozen
class Authorizing:
    """The token is sent, the handshake is awaited. Cube's dialect only."""

    token: str = attrs.field(repr=False)
    expires_at: float | None
    until: float


@attrs.frozen
class Live:
    """Every query is subscribed on an open socket.

    Attributes:
        token: the token that the server took last.
        since: when the server proved that it understands us (the handshake, or the
            first answer in the tutorial's dialect); ``None`` before.
        silent_at: when the socket counts as silent and a ping is sent.
        pong_by: when an unanswered ping counts as a lost connection.
        lost_at: when answered pings no longer make up for missing frames.
        resend_at: when every query is sent again; ``None`` in the tutorial's dialect.
        prove_by: when the other dialect is tried, if nothing was understood by then.
        renew_at: when the provider is asked for the token after this one.
        handshake_by: when an unanswered re-authorisation counts as a lost connection.
        release_at: when a snapshot that looked outdated is believed.
    """

    token: str = attrs.field(repr=False)
    silent_at: float
    since: float | None = None
    lost_at: float | None = None
    pong_by: float | None = None
    resend_at: float | None = None
    prove_by: float | None = None
    renew_at: float | None = None
    handshake_by: float | None = None
    release_at: float | None = None

    def heard(self, silent_at: float, lost_at: float | None) -> Live:
        """Return this state after a frame.

        Written out, because it happens at every frame, and ``attrs.evolve`` was a third
        of what the machine does with one.
        """
        return Live(
            self.token,
            silent_at,
            self.since,
            lost_at,
            None,
            self.resend_at,
            self.prove_by,
            self.renew_at,
            self.handshake_by,
            self.release_at,
        )

    @property
    def until(self) -> float:
        """Give the earliest of all deadlines."""
        deadline = self.silent_at if self.pong_by is None else self.pong_by
        for other in (
            self.lost_at,
            self.resend_at,
            self.prove_by,
            self.renew_at,
            self.handshake_by,
            self.release_at,
        ):
            if other is not None and other < deadline:
                deadline = other
        return deadline


@attrs.frozen
class Polling:
    """WebSockets are off here: every query is asked over REST, again and again.

    ``pending`` are the ids whose answer has not come yet.
    """

    until: float
    pending: frozenset[str]


@attrs.frozen
class Closed:
    """Final. ``error`` is why, where it was not the caller's wish."""

    error: OrtegeWatchError | None = None

    @property
    def until(self) -> None:
        """Have no deadline."""
        return


State = Waiting | AskingToken | Connecting | Authorizing | Live | Polling | Closed


# ------------------------------------------------------------------------- events


@attrs.frozen
class DeadlinePassed:
    """The deadline of the state passed."""


@attrs.frozen
class TokenReady:
    """The provider gave a token; ``expires_at`` is monotonic, where it says so."""

    token: str = attrs.field(repr=False)
    expires_at: float | None = None


@attrs.frozen
class TokenFailed:
    """The provider raised."""

    error: OrtegeWatchError


@attrs.frozen
class Opened:
    """The socket is open."""


@attrs.frozen
class OpenFailed:
    """The socket did not open; ``status`` is the HTTP status that the upgrade got."""

    error: OrtegeWatchError
    status: int | None = None


@attrs.frozen
class Received:
    """A frame came."""

    frame: Frame


@attrs.frozen
class Unreadable:
    """A frame came that cannot be read."""

    error: OrtegeWatchError


@attrs.frozen
class Pong:
    """A ping was answered."""


@attrs.frozen
class Dropped:
    """The socket is gone.

    ``code`` is the peer's close code (1006 where it said none); ``too_big`` says that
    we closed it, because a frame was larger than the client may take.
    """

    code: int
    error: OrtegeWatchError
    too_big: bool = False


@attrs.frozen
class Polled:
    """REST answered a query."""

    message_id: str
    part: ResultPart


@attrs.frozen
class PollFailed:
    """REST did not answer a query."""

    message_id: str
    error: OrtegeWatchError


Event = (
    DeadlinePassed
    | TokenReady
    | TokenFailed
    | Opened
    | OpenFailed
    | Received
    | Unreadable
    | Pong
    | Dropped
    | Polled
    | PollFailed
)


# ------------------------------------------------------------------------ effects


@attrs.frozen
class AskToken:
    """Ask the provider; answer with TokenReady or TokenFailed."""


@attrs.frozen
class Open:
    """Open a socket; answer with Opened or OpenFailed."""

    token: str = attrs.field(repr=False)


@attrs.frozen
class Send:
    """Send a text frame."""

    text: str = attrs.field(repr=False)


@attrs.frozen
class Ping:
    """Send a ping; answer with Pong."""


@attrs.frozen
class Disconnect:
    """Give the socket up, also one that is still opening; answer with nothing."""


@attrs.frozen
class Poll:
    """Ask one query over REST; answer with Polled or PollFailed."""

    message_id: str


@attrs.frozen
class Deliver:
    """Hand a snapshot to the caller; ``resumed`` marks the first after an outage."""

    message_id: str
    part: ResultPart
    resumed: bool


@attrs.frozen
class Fail:
    """Hand an error of one query to the caller; ``final`` ends that query."""

    message_id: str
    error: OrtegeWatchError
    final: bool


@attrs.frozen
class SwitchDialect:
    """Go on in the other dialect with new sessions, after ``delay`` seconds.

    The tutorial's dialect takes one session a query.
    """

    because: OrtegeWatchError
    failures: int
    delay: float


@attrs.frozen
class Finish:
    """Tell the caller that nothing more comes, and why."""

    error: OrtegeWatchError | None


@attrs.frozen
class Log:
    """Write a log line; it holds no secret."""

    level: int
    text: str


Effect = (
    AskToken
    | Open
    | Send
    | Ping
    | Disconnect
    | Poll
    | Deliver
    | Fail
    | SwitchDialect
    | Finish
    | Log
)
