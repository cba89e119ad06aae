"""How a subscription behaves: its dialect, its transport and its time limits."""

from __future__ import annotations

from typing import Literal

import attrs

__all__ = ["Dialect", "Reconnect", "Settings", "Transport"]

Dialect = Literal["cube", "ortege"]
Transport = Literal["auto", "websocket", "rest"]


@attrs.frozen(kw_only=True)
class Reconnect:
    """Say how a subscription comes back after an outage.

    Attributes:
        base: seconds of the first delay; doubled after each failure, and each delay is
            drawn between half and the whole.
        cap: seconds that no delay exceeds.
        attempts: failures in a row after which to give up; ``None`` for never.
        healthy_after: seconds that a connection must live past its handshake before
            the delays start from ``base`` again. An open socket alone proves nothing.
    """

    base: float = 1.0
    cap: float = 60.0
    attempts: int | None = None
    healthy_after: float = 10.0


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
