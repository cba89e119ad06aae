"""How a subscription behaves: its dialect, its transport and its time limits."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Literal, TypedDict

import attrs

from ortege_watch._http.conversation import Backoff
from ortege_watch.errors import OrtegeWatchError, QueryError
from ortege_watch.query import Query
from ortege_watch.watch.states import ConnectionState

__all__ = [
    "Dialect",
    "Reconnect",
    "Settings",
    "Transport",
    "WatchOptions",
    "check_options",
    "check_queries",
]

Dialect = Literal["cube", "ortege"]
Transport = Literal["auto", "websocket", "rest"]


@attrs.frozen(kw_only=True)
class Reconnect:
    """Say how a subscription comes back after an outage.

    Attributes:
        base: seconds of the first delay; doubled after each failure, and each delay is
            drawn between half and the whole.
        cap: seconds that no delay exceeds.
        attempts: how often in a row to try again before giving up; ``None`` for ever.
        healthy_after: seconds that a connection must live past its handshake before
            the delays start from ``base`` again. An open socket alone proves nothing.
    """

    base: float = 1.0
    cap: float = 60.0
    attempts: int | None = None
    healthy_after: float = 10.0

    def __attrs_post_init__(self) -> None:
        Backoff(self.base, self.cap)  # refuses what is no back-off
        if self.attempts is not None and self.attempts < 0:
            raise QueryError(f"attempts={self.attempts!r}: give 0 or more, or None")
        if not 0 <= self.healthy_after < math.inf:
            raise QueryError(f"healthy_after={self.healthy_after!r}: give seconds")


@attrs.frozen(kw_only=True)
class Settings:
    """Hold every time limit of a session, in seconds.

    Attributes:
        reconnect: the back-off between attempts.
        transport: ``"auto"`` polls over REST where WebSockets are off.
        token_within: how long the token provider may take.
        connect_within: how long the socket may take to open, TLS included.
        handshake_within: how long the answer to a token may take.
        stale_after: silence after which a ping is sent. A slow query of anybody holds
            up the whole server's tick, so it must exceed the server's
            ``continueWaitTimeout`` and tick together (10 s and 5 s on 1.7.43).
        pong_within: how long the answer to a ping may take.
        resend_every: how often every query is sent again; a server drops a
            subscription silently that it could not process for four minutes.
        poll_every: the pause between two rounds over REST.
        renew_before: how long before its expiry a token is replaced, at most; a
            quarter of what is left, where that is less.
        hold_stale_for: how long a snapshot that is older than the last one is held
            back, in case a newer one comes. The first answer after a reconnect may be
            out of an old cache (seen on 0.35.81 and 1.7.43).
    """

    reconnect: Reconnect = Reconnect()
    transport: Transport = "auto"
    token_within: float = 30.0
    connect_within: float = 20.0
    handshake_within: float = 10.0
    stale_after: float = 60.0
    pong_within: float = 10.0
    resend_every: float = 50.0
    poll_every: float = 5.0
    renew_before: float = 60.0
    hold_stale_for: float = 15.0


class WatchOptions(TypedDict, total=False):
    """Say how ``watch()`` subscribes.

    Attributes:
        dialect: ``"cube"`` is the protocol of every Cube server, ``"ortege"`` the one
            of the tutorial. ``"auto"`` begins with what worked last, at first with
            Cube's, and tries the other one where it is not understood.
        transport: ``"websocket"``, ``"rest"`` (polling), or ``"auto"``: a WebSocket,
            and polling where the server refuses it.
        retry: how to come back after an outage.
        stale_after: seconds of silence after which the connection is tested, and given
            up if it is dead. Cube speaks every 5 s.
        poll_every: seconds between two rounds of questions where it polls.
        on_state: called with each new :class:`ConnectionState`, on the event loop.
        on_error: takes errors that may pass (:class:`ApiError`, :class:`DecodeError`);
            without it they are raised out of the iteration, once each.
    """

    dialect: Literal["auto", "cube", "ortege"]
    transport: Transport
    retry: Reconnect
    stale_after: float
    poll_every: float
    on_state: Callable[[ConnectionState], object]
    on_error: Callable[[OrtegeWatchError], object]


def check_queries(queries: Sequence[object]) -> None:
    """Refuse what cannot be subscribed to, before anything is opened.

    Raises:
        QueryError: no query, no :class:`Query`, one that compares date ranges, or one
            with a cache mode.
    """
    if not queries:
        raise QueryError("watch() needs a query")
    for query in queries:
        if not isinstance(query, Query):
            kind = type(query).__name__
            raise QueryError(f"watch() takes queries, not {kind}: build a Query")
        if query.cache is not None:
            raise QueryError(
                f"cache={query.cache!r} has no effect on a subscription, which the "
                "server refreshes by itself: leave it out"
            )
        if query.compares:
            raise QueryError("a subscription has one date range: use .over(range)")


def check_options(options: WatchOptions) -> None:
    """Refuse what no subscription can go by, before anything is opened.

    Raises:
        QueryError: an option that is none.
        TypeError: an unknown option.
    """
    if unknown := options.keys() - WatchOptions.__annotations__:
        names = ", ".join(sorted(unknown))
        raise TypeError(f"watch() got unexpected arguments: {names}")
    dialect = options.get("dialect", "auto")
    if dialect not in {"auto", "cube", "ortege"}:
        raise QueryError(f'dialect {dialect!r}: give "auto", "cube" or "ortege"')
    transport = options.get("transport", "auto")
    if transport not in {"auto", "websocket", "rest"}:
        raise QueryError(f'transport {transport!r}: give "auto", "websocket" or "rest"')
    retry: object = options.get("retry", Reconnect())
    if not isinstance(retry, Reconnect):
        kind = type(retry).__name__
        raise QueryError(f"retry of watch() is a Reconnect, not {kind}")
    for name in ("on_state", "on_error"):
        if inspect.iscoroutinefunction(options.get(name)):
            raise QueryError(f"{name} is called, not awaited: give a plain function")
    for name in ("stale_after", "poll_every"):
        seconds = options.get(name, 1.0)
        if not (isinstance(seconds, int | float) and 0 < seconds < math.inf):
            raise QueryError(f"{name} {seconds!r}: give a number of seconds")
