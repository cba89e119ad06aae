"""What a session knows of its queries, whatever its connection does.

Pure. It decides what reaches the caller: each snapshot, never an older one after a
newer one, and each error of a query once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ortege_watch._http.statuses import is_transient
from ortege_watch._json import ResultPart, dumps
from ortege_watch.errors import ApiError, OrtegeWatchError
from ortege_watch.watch.states import Deliver, Fail

__all__ = ["Book"]


@attrs.define
class _Entry:
    query: Mapping[str, Any]
    fresh: bool = True
    """Nothing has come since the last connect."""
    delivered: bool = False
    failing: bool = False
    unauthorized: bool = False
    """The token was refused for it, and nothing good has come since."""
    newest: str = ""
    """The latest ``lastRefreshTime`` (ISO 8601 in UTC) that was delivered."""
    held: ResultPart | None = None
    held_until: float | None = None


class Book:
    """Keep the queries of one session by message id.

    Args:
        queries: wire queries by message id.
        hold_stale_for: seconds to hold back a snapshot older than the last one.
    """

    def __init__(
        self, queries: Mapping[str, Mapping[str, Any]], *, hold_stale_for: float
    ) -> None:
        self._entries = {key: _Entry(query) for key, query in queries.items()}
        self._hold_stale_for = hold_stale_for
        self.ids = frozenset(queries)
        """All ids that were ever sent; a late frame may still name an ended one."""

    @property
    def open(self) -> dict[str, Mapping[str, Any]]:
        """Give the queries that have not ended."""
        return {key: entry.query for key, entry in self._entries.items()}

    def largest(self) -> str:
        """Give the id of the query with the longest text."""
        return max(self._entries, key=lambda key: len(dumps(self._entries[key].query)))

    def reconnected(self) -> None:
        """Note that what comes next comes over a new connection."""
        for entry in self._entries.values():
            entry.fresh = True

    def snapshot(self, key: str, part: ResultPart, now: float) -> list[Deliver]:
        """Take a snapshot; hold it back if it is older than the last one.

        Its age is its ``lastRefreshTime``. A server that goes on with old times (its
        clock was set back) is believed after ``hold_stale_for``.
        """
        entry = self._entries.get(key)
        if entry is None:  # a late frame of a query that has ended
            return []
        refreshed = part.lastRefreshTime or ""
        if entry.delivered and refreshed and refreshed < entry.newest:
            if entry.held_until is None:
                entry.held_until = now + self._hold_stale_for
            if now < entry.held_until:
                entry.held = part
                return []
        resumed = entry.fresh and entry.delivered
        entry.fresh = entry.failing = entry.unauthorized = False
        entry.delivered = True
        entry.newest = refreshed
        entry.held = entry.held_until = None
        return [Deliver(key, part, resumed)]

    @property
    def release_at(self) -> float | None:
        """Give the time at which the first held snapshot is believed."""
        times = [e.held_until for e in self._entries.values() if e.held is not None]
        return min((time for time in times if time is not None), default=None)

    def release(self, now: float) -> list[Deliver]:
        """Deliver what was held back and was not replaced in time."""
        return [
            deliver
            for key, entry in self._entries.items()
            if entry.held is not None
            for deliver in self.snapshot(key, entry.held, now)
        ]

    def api_error(self, key: str, error: ApiError) -> list[Fail]:
        """Take the server's error for a query; one that cannot pass ends the query."""
        return self.fail(key, error, final=not is_transient(error))

    def is_unauthorized_again(self, key: str) -> bool:
        """Note that the token is refused for a query; tell if that is not the first."""
        entry = self._entries.get(key)
        if entry is None:  # a late frame of a query that has ended
            return True
        again, entry.unauthorized = entry.unauthorized, True
        return again

    def fail(self, key: str, error: OrtegeWatchError, *, final: bool) -> list[Fail]:
        """Take an error of one query, and give it out once.

        The server says it again on every tick (seen on 0.35.81 and 1.7.43), until the
        query is good again or is unsubscribed.
        """
        entry = self._entries.get(key)
        if entry is None or (entry.failing and not final):
            return []
        entry.failing = True
        if final:
            del self._entries[key]
        return [Fail(key, error, final)]
