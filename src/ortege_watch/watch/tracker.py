"""The queries of a session: which are open, what was delivered, what is held back.

It decides which snapshots reach the caller (never an older one after a newer one), and
that each error of a query is reported once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from ortege_watch._http.statuses import is_transient
from ortege_watch._json import ResultPart, dumps
from ortege_watch.errors import ApiError, OrtegeWatchError, QueryRejected
from ortege_watch.query.added_keys import AddedKeys
from ortege_watch.query.query import summary
from ortege_watch.watch.states import Deliver, Fail

_IDS: Final = 1_000_000
"""Each time that queries get new message ids, these are higher by so much."""

_SHOWN: Final = 5
"""So many queries of a session are named in one log line."""


def query_name(key: str, wire: Mapping[str, Any]) -> str:
    """Return a short name of a query, for log lines."""
    return f"query {key} {summary(wire)}"


@attrs.define
class _Entry:
    query: Mapping[str, Any]
    # the added keys of the frame that was sent last; None if none was on this socket
    added: Mapping[str, Any] | None = None
    unread: bool = False  # an answer could not be decoded, and none arrived since
    fresh: bool = True  # nothing has arrived since the last connect
    delivered: bool = False
    failing: bool = False
    unauthorized: bool = False  # the token was refused, and no snapshot arrived since
    newest: str = ""  # the latest lastRefreshTime (ISO 8601 in UTC) of a delivery
    held: ResultPart | None = None  # a snapshot older than the last delivered one
    held_until: float | None = None


class QueryTracker:
    """The queries of one session by message id."""

    def __init__(
        self,
        queries: Mapping[str, Mapping[str, Any]],
        *,
        added_keys: AddedKeys,
        hold_stale_for: float,
    ) -> None:
        self._entries = {key: _Entry(query) for key, query in queries.items()}
        self._added_keys = added_keys
        self._hold_stale_for = hold_stale_for
        self.ids = frozenset(queries)  # also of ended ones, which a late frame may name
        self.release_at: float | None = None  # of the first held snapshot
        # Message ids on this socket by query, and the reverse; queries get new ones.
        self._message_ids = {key: key for key in queries}
        self._keys = dict(self._message_ids)
        self._earlier_ids = set[str]()

    def __str__(self) -> str:
        shown = [self.name(key) for key in list(self._entries)[:_SHOWN]]
        more = len(self._entries) - len(shown)
        return ", ".join(shown) + (f" and {more} more" if more else "")

    def name(self, key: str) -> str:
        """Return a short name of a query, for log lines."""
        entry = self._entries.get(key)
        return query_name(key, entry.query) if entry else f"query {key}"

    @property
    def open(self) -> dict[str, Mapping[str, Any]]:
        """The queries that have not ended."""
        return {key: entry.query for key, entry in self._entries.items()}

    def largest(self) -> str:
        """Return the id of the query with the longest JSON."""
        return max(self._entries, key=lambda key: len(dumps(self._entries[key].query)))

    def message_id(self, key: str) -> str:
        """Return the message id of a query on this socket, for now."""
        return self._message_ids[key]

    def key_of(self, message_id: str) -> str | None:
        """Return the id of the query with this message id; ``None`` if it has another."""
        return self._keys.get(message_id)

    def was_id(self, message_id: str) -> bool:
        """Return whether a query had this message id on this socket before."""
        return message_id in self._earlier_ids

    def renew_ids(self) -> list[str]:
        """Return the ids to unsubscribe because queries are sent without a key from now on.

        Then every query has a new message id. The server repeats its refusal of the key
        on every tick, so that nothing else tells the refusals of the old frame, which
        may be under way still, from those of the new one.
        """
        if all(
            entry.added in (None, self._added_keys.for_query(entry.query))
            for entry in self._entries.values()
        ):
            return []
        old = self._message_ids
        self._earlier_ids.update(self._keys)
        self._use({key: str(int(old[key]) + _IDS) for key in old})
        return [old[key] for key in self._entries]

    def _use(self, message_ids: dict[str, str]) -> None:
        """Give queries ids that the server does not know yet.

        It will answer each, so nothing has to be asked for again.
        """
        self._message_ids = message_ids
        self._keys = {message_ids[key]: key for key in message_ids}
        for entry in self._entries.values():
            entry.unread = False

    def on_send(self, key: str) -> dict[str, Any]:
        """Return an open query as it is sent now, with added keys."""
        entry = self._entries[key]
        entry.added = self._added_keys.for_query(entry.query)
        return {**entry.query, **entry.added}

    def refused_key(self, key: str, error: ApiError) -> str | None:
        """Return which added key an error refuses: the query is to be sent without it."""
        entry = self._entries.get(key)
        if entry is None or not (entry.added and isinstance(error, QueryRejected)):
            return None
        return self._added_keys.refused_by(error, entry.added)

    def on_reconnect(self) -> None:
        """Mark every query as waiting for its first snapshot after an outage.

        What was held is dropped.
        """
        for entry in self._entries.values():
            entry.fresh, entry.added = True, None
            entry.held = entry.held_until = None
        self.release_at = None
        self._use({key: key for key in self.ids})
        self._earlier_ids.clear()

    def on_snapshot(self, key: str, part: ResultPart, now: float) -> list[Deliver]:
        """Return the snapshot to deliver, or nothing while an older one is held.

        Its age is its ``lastRefreshTime``. A server that continues with old times (its
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
                self._find_next_release()
                return []
        resumed = entry.fresh and entry.delivered
        entry.fresh = entry.failing = entry.unauthorized = False
        entry.delivered = True
        entry.newest = refreshed
        if entry.held_until is not None:
            entry.held = entry.held_until = None
            self._find_next_release()
        return [Deliver(key, part, resumed)]

    def holds_since(self, key: str, now: float) -> bool:
        """Return whether an older snapshot of a query is held, and has been since ``now``."""
        entry = self._entries.get(key)
        return (
            entry is not None
            and entry.held is not None
            and entry.held_until == now + self._hold_stale_for
        )

    def release(self, now: float) -> list[Deliver]:
        """Return the held snapshots whose time has passed."""
        return [
            deliver
            for key, entry in self._entries.items()
            if entry.held is not None
            for deliver in self.on_snapshot(key, entry.held, now)
        ]

    def _find_next_release(self) -> None:
        times = [e.held_until for e in self._entries.values() if e.held is not None]
        self.release_at = min((at for at in times if at is not None), default=None)

    def on_api_error(self, key: str, error: ApiError) -> list[Fail]:
        """Return the server's error for a query; a permanent one ends the query."""
        return self.on_error(key, error, final=not is_transient(error))

    def is_unauthorized_again(self, key: str) -> bool:
        """Note that the token is refused for a query; return whether it was before."""
        entry = self._entries.get(key)
        if entry is None:  # a late frame of a query that has ended
            return True
        again, entry.unauthorized = entry.unauthorized, True
        return again

    def on_unreadable(self, key: str, error: OrtegeWatchError) -> list[Fail]:
        """Note that an answer of a query could not be decoded; return its error."""
        if (entry := self._entries.get(key)) is not None:
            entry.unread = True
        return self.on_error(key, error, final=False)

    def on_readable(self, key: str) -> None:
        """Note that an answer with a result could be decoded."""
        if (entry := self._entries.get(key)) is not None:
            entry.unread = False

    @property
    def unread(self) -> list[str]:
        """The open queries whose latest answer could not be decoded."""
        return [key for key, entry in self._entries.items() if entry.unread]

    def on_error(self, key: str, error: OrtegeWatchError, *, final: bool) -> list[Fail]:
        """Return an error of one query, unless it was reported already.

        The server repeats it on every tick (seen on 0.35.81 and 1.7.43), until the
        query succeeds again or is unsubscribed.
        """
        entry = self._entries.get(key)
        if entry is None or (entry.failing and not final):
            return []
        entry.failing = True
        if final:
            del self._entries[key]
            if entry.held is not None:
                self._find_next_release()
        return [Fail(key, error, final)]
