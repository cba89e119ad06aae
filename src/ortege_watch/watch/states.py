"""The states, events and effects of a session, the state machine of one subscription.

All are frozen, and each kind is a closed union, so that a type checker proves that
``session.py`` handles every one. Times are monotonic seconds. A state carries its own
deadline, ``until``; when it passes, the runner reports :class:`DeadlinePassed`.

What is made for every frame is a ``Struct``: attrs takes three to five times as long to
make a frozen object.
"""

from __future__ import annotations

import enum
from typing import ClassVar

import attrs
import msgspec
from msgspec.structs import replace

from ortege_watch._json import ResultPart
from ortege_watch.errors import OrtegeWatchError
from ortege_watch.watch.frames import Frame


class ConnectionState(enum.StrEnum):
    """How a subscription is connected.

    ``connecting`` covers the token, the socket and the handshake; ``live`` is a socket
    on which every query is subscribed; ``polling`` repeats the queries over REST;
    ``waiting`` is a back-off delay; ``closed`` is final.
    """

    CONNECTING = "connecting"
    LIVE = "live"
    POLLING = "polling"
    WAITING = "waiting"
    CLOSED = "closed"


# States


@attrs.frozen
class Waiting:
    """No socket; the next attempt starts at ``until``."""

    connection: ClassVar = ConnectionState.WAITING
    until: float


@attrs.frozen
class AskingToken:
    """The token function was called; no socket is open yet."""

    connection: ClassVar = ConnectionState.CONNECTING
    until: float


@attrs.frozen
class Connecting:
    """A socket is being opened, TLS and upgrade included."""

    connection: ClassVar = ConnectionState.CONNECTING
    token: str = attrs.field(repr=False)
    expires_at: float | None
    until: float


@attrs.frozen
class Authorizing:
    """The token was sent, the handshake has not arrived. Cube's dialect only."""

    connection: ClassVar = ConnectionState.CONNECTING
    token: str = attrs.field(repr=False)
    expires_at: float | None
    until: float


class Live(msgspec.Struct, frozen=True):
    """Every query is subscribed on an open socket.

    Attributes:
        token: the token that the server accepted last.
        silent_at: when the socket counts as silent and a ping is sent.
        since: when the server confirmed the dialect (by the handshake, or by the first
            answer in the tutorial's dialect); ``None`` before.
        lost_at: when answered pings no longer make up for missing frames.
        pong_by: when an unanswered ping counts as a lost connection.
        resend_at: when every query is sent again; ``None`` in the tutorial's dialect.
        confirm_by: when the other dialect is tried, unless this one is confirmed.
        renew_at: when the token function is called for the next token.
        handshake_by: when an unanswered authentication counts as a lost connection.
        release_at: when a held snapshot is delivered although it looks outdated.
        ask_at: when the answers that could not be decoded are asked for again.
    """

    token: str
    silent_at: float
    since: float | None = None
    lost_at: float | None = None
    pong_by: float | None = None
    resend_at: float | None = None
    confirm_by: float | None = None
    renew_at: float | None = None
    handshake_by: float | None = None
    release_at: float | None = None
    ask_at: float | None = None

    def __repr__(self) -> str:
        shown = [name for name in self.__struct_fields__ if name != "token"]
        return f"Live({', '.join(f'{name}={getattr(self, name)}' for name in shown)})"

    def after_frame(self, now: float, stale_after: float) -> Live:
        """Return this state after a frame: no silence, no ping in flight."""
        silent_at = now + stale_after
        lost_at = None if self.lost_at is None else silent_at + stale_after
        return replace(self, silent_at=silent_at, lost_at=lost_at, pong_by=None)

    @property
    def connection(self) -> ConnectionState:
        """``connecting`` until the dialect is confirmed."""
        unconfirmed = self.since is None
        return ConnectionState.CONNECTING if unconfirmed else ConnectionState.LIVE

    @property
    def until(self) -> float:
        """The earliest of all deadlines."""
        deadline = self.silent_at if self.pong_by is None else self.pong_by
        for other in (
            self.lost_at,
            self.resend_at,
            self.confirm_by,
            self.renew_at,
            self.handshake_by,
            self.release_at,
            self.ask_at,
        ):
            if other is not None and other < deadline:
                deadline = other
        return deadline


@attrs.frozen
class Polling:
    """WebSockets are off at this server: every query is repeated over REST.

    Attributes:
        until: when the next round begins.
        pending: the ids of the queries that have no response yet.
        outage: why a query of this round failed; ``None`` once another one succeeded.
        succeeded: whether a query of this round has succeeded.
    """

    connection: ClassVar = ConnectionState.POLLING
    until: float
    pending: frozenset[str]
    outage: OrtegeWatchError | None = None
    succeeded: bool = False

    def after_response(self, message_id: str) -> Polling:
        """Return this state after the server has answered a query."""
        return Polling(self.until, self.pending - {message_id}, succeeded=True)


@attrs.frozen
class Closed:
    """Final; ``error`` is the reason, unless the caller closed it."""

    connection: ClassVar = ConnectionState.CLOSED
    error: OrtegeWatchError | None = None

    @property
    def until(self) -> None:
        """No deadline."""
        return


State = Waiting | AskingToken | Connecting | Authorizing | Live | Polling | Closed


# Events


@attrs.frozen
class DeadlinePassed:
    """The deadline of the state has passed."""


@attrs.frozen
class TokenReady:
    """The token function returned; ``expires_at`` is monotonic, if the token has one."""

    token: str = attrs.field(repr=False)
    expires_at: float | None = None


@attrs.frozen
class TokenFailed:
    """The token function raised."""

    error: OrtegeWatchError


@attrs.frozen
class Opened:
    """The socket is open."""


@attrs.frozen
class OpenFailed:
    """The socket did not open.

    Attributes:
        error: the reason.
        status: the HTTP status with which the upgrade was refused, if it was.
        message: the message of a Cube server that refused it; ``None`` if it was a
            proxy before it.
        permanent: only another configuration helps: the certificate was refused, or
            the address redirects.
        retry_after: seconds that the server asked to wait.
    """

    error: OrtegeWatchError
    status: int | None = None
    message: str | None = None
    permanent: bool = False
    retry_after: float | None = None


class Received(msgspec.Struct, frozen=True):
    """A frame arrived."""

    frame: Frame


@attrs.frozen
class Unreadable:
    """A frame arrived that cannot be decoded; ``message_id`` if it names a query."""

    error: OrtegeWatchError
    message_id: str | None = None


@attrs.frozen
class Pong:
    """A ping was answered."""


@attrs.frozen
class Dropped:
    """The connection was lost.

    ``code`` is the peer's close code, or 1006 without one; ``max_size`` is the limit in
    bytes if this side closed it, because a frame exceeded that.
    """

    code: int
    error: OrtegeWatchError
    max_size: int | None = None


@attrs.frozen
class Polled:
    """A query succeeded over REST."""

    message_id: str
    part: ResultPart


@attrs.frozen
class PollFailed:
    """A query failed over REST; ``permanent`` as in :class:`OpenFailed`."""

    message_id: str
    error: OrtegeWatchError
    permanent: bool = False


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


# Effects


@attrs.frozen
class AskToken:
    """Call the token function; report TokenReady or TokenFailed."""


@attrs.frozen
class Open:
    """Open a socket; report Opened or OpenFailed."""

    token: str = attrs.field(repr=False)


@attrs.frozen
class Send:
    """Send a text frame."""

    text: str = attrs.field(repr=False)


@attrs.frozen
class Ping:
    """Send a ping; report Pong."""


@attrs.frozen
class Disconnect:
    """Close the socket, also one that is still opening; report nothing."""


@attrs.frozen
class Poll:
    """Send one query over REST; report Polled or PollFailed."""

    message_id: str


class Deliver(msgspec.Struct, frozen=True):
    """Give a snapshot to the caller; ``resumed`` marks the first after an outage."""

    message_id: str
    part: ResultPart
    resumed: bool


@attrs.frozen
class Fail:
    """Give an error of one query to the caller; ``final`` ends that query."""

    message_id: str
    error: OrtegeWatchError
    final: bool


@attrs.frozen
class SwitchDialect:
    """Replace all sessions by new ones in the dialect that is chosen now.

    They start after ``delay`` seconds. The tutorial's dialect needs one session per
    query.
    """

    delay: float


@attrs.frozen
class Finish:
    """End the session; with an ``error``, the whole subscription."""

    error: OrtegeWatchError | None


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
)
