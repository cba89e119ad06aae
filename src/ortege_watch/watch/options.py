"""The options of a subscription: dialect, transport and time limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypedDict

import attrs

from ortege_watch._checks import (
    check_callable,
    check_choice,
    check_int,
    check_kind,
    check_seconds,
)
from ortege_watch._http.conversation import Backoff, check_names
from ortege_watch.errors import OrtegeWatchError, QueryError
from ortege_watch.query import Query
from ortege_watch.watch.states import ConnectionState

Dialect = Literal["cube", "ortege"]
Transport = Literal["auto", "websocket", "rest"]

_CHECK_EVERY: Final = 1.0
"""Seconds after which a session looks again whether it may try."""


@attrs.frozen(kw_only=True)
class Reconnect:
    """How a subscription reconnects after an outage.

    Attributes:
        base: nominal length of the first delay, in seconds; doubled after each failure,
            and each delay is drawn between half and the whole.
        cap: nominal length of the longest delay, in seconds.
        attempts: failed attempts in a row that end the subscription with the last error;
            1 ends it at the first one, ``None``, the default, sets no limit. Several
            sockets that fail together, and a round of polling, count as one.
        healthy_after: seconds that a connection must live past its handshake before
            the delays start from ``base`` again. An open socket alone proves nothing.

    The defaults are 1 s, 60 s, no limit and 10 s. A longer ``Retry-After`` of the server
    is respected, up to 300 s.

    Raises:
        InvalidArgument: a value is out of range.
    """

    base: float = 1.0
    cap: float = 60.0
    attempts: int | None = None
    healthy_after: float = 10.0

    def __attrs_post_init__(self) -> None:
        Backoff(self.base, self.cap)  # checks them
        if self.attempts is not None:
            check_int("attempts", self.attempts, "a positive int, or None")
        check_seconds("healthy_after", self.healthy_after, or_zero=True)


class FailureCount:
    """The failures in a row of something that is tried again, and the delays.

    Attributes:
        count: the failures in a row.
    """

    def __init__(self, reconnect: Reconnect, count: int = 0) -> None:
        self.count = count
        self._reconnect = reconnect
        self._backoff = Backoff(reconnect.base, reconnect.cap)

    @property
    def exhausted(self) -> bool:
        """Whether there were as many failures as ``attempts`` allows."""
        attempts = self._reconnect.attempts
        return attempts is not None and self.count >= attempts

    def next_delay(
        self, jitter: float, retry_after: float | None = None, *, doubled: bool = False
    ) -> float:
        """Count a failure, and return the seconds before the next attempt."""
        delay = self._backoff.delay(self.count + doubled, jitter, retry_after)
        self.count += 1
        return delay

    def connection_lost(self, lived: float) -> None:
        """Start again from ``base`` if a connection has lived long enough."""
        if lived >= self._reconnect.healthy_after:
            self.count = 0


class SharedFailures(FailureCount):
    """The failures in a row of a subscription, shared by its sessions.

    After a failure one session at a time tries again, the one that has waited longest.
    The others follow when its connection has lasted ``healthy_after`` seconds, or when
    a poll has succeeded: several sockets cost a server that drops connections hardly
    more attempts than one.

    Attributes:
        count: failed attempts in a row; those of several sessions at once count as one.
        worked: whether a connection or a poll has ever succeeded.
        error: the latest failure, until a connection or a poll succeeds.
    """

    def __init__(self, reconnect: Reconnect) -> None:
        super().__init__(reconnect)
        self.worked = False
        self.error: OrtegeWatchError | None = None
        self._next_at = 0.0
        self._queue: list[object] = []  # sessions that failed; the first one is next
        self._trying = False  # whether the first one tries again now
        self._healthy_at: float | None = None  # when its connection proves something

    def succeeded(self) -> None:
        """Note that a connection or a poll works."""
        self.worked, self.error = True, None

    def failed(
        self,
        session: object,
        now: float,
        jitter: float,
        retry_after: float | None = None,
    ) -> float | None:
        """Return when to try again; ``None`` after ``attempts`` failures."""
        is_new = not self._queue or (self._trying and self._queue[0] is session)
        self.left(session)
        self._queue.append(session)
        if is_new:
            several = len(self._queue) > 1
            delay = self.next_delay(jitter, retry_after, doubled=several)
            if self.exhausted:
                return None
            self._next_at = now + delay
        return self._next_at

    def try_at(self, session: object, now: float) -> float:
        """Return when a session may try: ``now``, or when to call this again."""
        if self._healthy_at is not None and self._healthy_at <= now:
            self.reset()
        if self.count == 0:
            return now
        if session not in self._queue:
            self._queue.append(session)
        if session is not self._queue[0]:
            return max(self._next_at, now + _CHECK_EVERY)
        if now < self._next_at:
            return self._next_at
        self._trying = True
        return now

    def connected(self, session: object, now: float) -> None:
        """Note that a socket can be used, which proves something if it lasts."""
        if self._trying and self._queue[0] is session:
            self._healthy_at = now + self._reconnect.healthy_after

    def session_lost(self, session: object, lived: float) -> None:
        """Start again from ``base`` if a connection has lived long enough."""
        is_next = not self._queue or self._queue[0] is session
        if is_next and lived >= self._reconnect.healthy_after:
            self.reset()

    def left(self, session: object) -> None:
        """Forget a session, which has ended."""
        if session in self._queue:
            if self._queue[0] is session:
                self._trying, self._healthy_at = False, None
            self._queue.remove(session)

    def restart(self) -> None:
        """Forget all sessions, because others replace them."""
        self._queue.clear()
        self._trying, self._healthy_at = False, None

    def reset(self) -> None:
        """Start again from ``base``; every session may try."""
        self.count = 0
        self.restart()


@attrs.frozen(kw_only=True)
class Settings:
    """The transport of a subscription and its time limits, in seconds."""

    reconnect: Reconnect = Reconnect()
    transport: Transport = "auto"
    token_within: float = 30.0  # for the token function
    connect_within: float = 20.0  # for opening the socket, TLS included
    handshake_within: float = 10.0  # for the response to a token
    # Silence before a ping. A slow query of any client delays the tick of the whole
    # server, so this must exceed the server's continueWaitTimeout and tick together
    # (10 s and 5 s on 1.7.43).
    stale_after: float = 60.0
    pong_within: float = 10.0  # for the response to a ping
    # A server silently drops a subscription that it could not process for four minutes.
    resend_every: float = 50.0
    # The pause between two polls over REST, and before an answer that could not be
    # decoded is asked for again; later pauses are longer.
    poll_every: float = 5.0
    # Before the expiry of a token; at most a quarter of the remaining time.
    renew_before: float = 60.0
    # For a snapshot that is older than the last one: the first answer after a reconnect
    # may be from an old cache (seen on 0.35.81 and 1.7.43), for as long as the refresh
    # key of the cube (10 s by default on PostgreSQL), a tick and an answer may take.
    hold_stale_for: float = 30.0


class WatchOptions(TypedDict, total=False):
    """Keyword arguments of ``watch()``.

    Attributes:
        dialect: ``"cube"`` is the protocol of every Cube server, ``"ortege"`` that of
            the tutorial. ``"auto"``, the default, starts with what worked last with the
            server (at first ``"cube"``) and tries the other one where the server does
            not understand it.
        transport: ``"websocket"``, ``"rest"`` (polling), or ``"auto"``, the default: a
            WebSocket, and polling where the server refuses it.
        reconnect: the delays after an outage; ``Reconnect()`` by default.
        stale_after: seconds of silence after which the connection is tested, and closed
            if the server does not respond; 60 by default. Cube sends a frame every 5 s.
        hold_stale_for: seconds for which a snapshot is held that is older than the last
            delivered one (a cache of another server, or from before a reconnect); 0
            delivers it at once; 30 by default. Cover the refresh key of the cube and a
            tick: 130 for two minutes, the default of BigQuery, Snowflake and Presto.
        poll_every: seconds between two rounds of polling, and before an answer that could
            not be decoded is asked for again for the first time; 5 by default.
        on_state: called with each new :class:`ConnectionState`: on the event loop or, with
            :class:`CubeClient`, in the thread of the subscription.
        on_error: called with transient errors (:class:`ApiError`,
            :class:`DecodeError`); without it each is raised from the iteration, once.
    """

    dialect: Literal["auto", "cube", "ortege"]
    transport: Transport
    reconnect: Reconnect
    stale_after: float
    hold_stale_for: float
    poll_every: float
    on_state: Callable[[ConnectionState], object]
    on_error: Callable[[OrtegeWatchError], object]


def check_queries(queries: Sequence[object]) -> None:
    """Raise a QueryError for queries that cannot be watched."""
    if not queries:
        raise QueryError("watch() needs at least one query")
    for query in queries:
        if not isinstance(query, Query):
            kind = type(query).__name__
            raise QueryError(f"watch() takes Query objects, got {kind}")
        if query.cache is not None:
            raise QueryError(
                f"cache={query.cache!r} has no effect on a subscription, which the"
                " server refreshes by itself; remove it"
            )
        if query.compares:
            raise QueryError(
                "watch() takes queries with one date range; use .over(range) instead of"
                " .compare([...])"
            )


def settings_of(options: WatchOptions) -> Settings:
    """Check the options of ``watch()``, and return their time limits and transport."""
    check_names(options, WatchOptions)
    choices = {
        "dialect": ("auto", "cube", "ortege"),
        "transport": ("auto", "websocket", "rest"),
    }
    for name, allowed in choices.items():
        check_choice(name, options.get(name, "auto"), allowed)
    reconnect: object = options.get("reconnect", Reconnect())
    check_kind("reconnect", reconnect, Reconnect)
    for name, argument in {"on_state": "state", "on_error": "error"}.items():
        callback: object = options.get(name)
        if callback is not None:
            check_callable(name, callback, argument, awaited=False)
    for name in ("stale_after", "poll_every"):
        check_seconds(name, options.get(name, 1.0))
    check_seconds("hold_stale_for", options.get("hold_stale_for", 0.0), or_zero=True)
    given: dict[str, Any] = {
        field.name: options[field.name]  # type: ignore[literal-required]
        for field in attrs.fields(Settings)
        if field.name in options
    }
    return Settings(**given)
