"""What a client is told once, and what it may be told for one call."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ortege_watch.cube.endpoint import Endpoint
from ortege_watch.cube.exchange import Call, Retry, Server
from ortege_watch.cube.pacing import DEADLINE, TIMEOUT, Limits
from ortege_watch.errors import QueryError
from ortege_watch.tokens import TokenLike, TokenSource

if TYPE_CHECKING:
    from ortege_watch.subscription.settings import Dialect

__all__ = ["DEADLINE", "TIMEOUT", "Limits", "Settings"]


class Settings:
    """Hold what both clients need besides a way to send."""

    def __init__(
        self,
        url: str | None,
        token: TokenLike | None,
        *,
        timeout: float,
        deadline: float | None,
        retry: Retry | None,
    ) -> None:
        given = url if url is not None else os.environ.get("ORTEGE_URL", "")
        if not given:
            raise QueryError(
                "no server: give url=, or set the environment variable ORTEGE_URL"
            )
        self.endpoint = Endpoint.parse(given)
        self.tokens = TokenSource(
            token if token is not None else os.environ.get("ORTEGE_TOKEN", "")
        )
        self.timeout = timeout
        self.deadline = deadline
        self.retry = retry or Retry()
        self.server = Server()
        self.dialect: Dialect | None = None
        """The WebSocket dialect that worked last with this server."""
        self.call("", 0.0, {})  # refuses limits that are none

    def call(self, request_id: str, now: float, limits: Limits) -> Call:
        """Begin a conversation."""
        unknown = limits.keys() - Limits.__annotations__
        if unknown:
            names = ", ".join(sorted(unknown))
            raise TypeError(f"unexpected arguments: {names}")
        return Call(
            api=self.endpoint.api,
            request_id=request_id,
            started=now,
            timeout=limits.get("timeout", self.timeout),
            deadline=limits.get("deadline", self.deadline),
            retry=self.retry,
            server=self.server,
        )
