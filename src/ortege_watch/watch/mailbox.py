"""Updates, and the mailbox that makes them: latest-only, so a slow loop costs no memory.

Per query at most one undelivered snapshot, the newest, is kept. It is compared with the
last delivered one when the caller asks for the next update.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

import attrs
import msgspec

from ortege_watch._json import ResultPart
from ortege_watch.errors import OrtegeWatchError
from ortege_watch.query import Query
from ortege_watch.query.query import summary
from ortege_watch.results import ChangedRow, Result, Row
from ortege_watch.results.diff import difference
from ortege_watch.results.result import Rows, in_order
from ortege_watch.watch.session import LOGGER
from ortege_watch.watch.tracker import query_name

_LONGEST_REPR: Final = 200
"""Characters of the repr of an update."""


@attrs.frozen(kw_only=True, repr=False)
class Update:
    """The difference between two snapshots of one query's result.

    Snapshots, not an event log: Cube sends the whole result each time, and an update is
    the difference between the last delivered snapshot and the newest. Rows are compared
    by their key, all columns except the measures.

    Attributes:
        query: the query, as it was passed to ``watch()``.
        result: the whole snapshot.
        added: rows with a new key; in the first update, all rows.
        changed: rows with a known key and new measures; ``before`` is the old row.
        removed: rows whose key has left the result.
        first: this is the first snapshot of the query.
        resumed: this is the first snapshot after an outage, so its difference spans it. One
            that is equal is not delivered, and then no update is marked.
        stale: the server refreshed this snapshot before the last delivered one, and sent
            no newer one for ``hold_stale_for`` seconds. Rows missing from it may be
            ``removed``, and ``added`` again later.
        received_at: when the snapshot arrived, by this machine's clock, in UTC.
    """

    query: Query
    result: Result
    added: Rows[Row]
    changed: Rows[ChangedRow]
    removed: Rows[Row]
    first: bool
    resumed: bool
    stale: bool
    received_at: datetime

    @property
    def upserted(self) -> Rows[Row]:
        """The rows with a new key or new measures, in the order of the result.

        These are the rows to react to: a second event with the key of an earlier one is
        in ``changed``. ``added`` alone is right only where a key cannot occur twice.
        """
        if not self.changed:
            return self.added
        if not self.added:
            return self.changed
        return in_order(self.added, self.changed)

    @property
    def truncated(self) -> bool:
        """Whether the result is at its row limit, so that rows may be missing."""
        return self.result.truncated

    def __repr__(self) -> str:
        kind = "first " * self.first + "resumed " * self.resumed
        rows = {"added": self.added, "changed": self.changed, "removed": self.removed}
        counts = " ".join(f"{name}={len(some)}" for name, some in rows.items())
        shown = f"<Update {kind}{counts} rows={len(self.result)} query "
        name, room = summary(self.query.to_wire()), _LONGEST_REPR - len(shown) - 1
        return f"{shown}{name if len(name) <= room else f'{name[: room - 2]}…]'}>"


class _Snapshot(msgspec.Struct, frozen=True):
    part: ResultPart
    resumed: bool
    received_at: datetime


@attrs.define
class _Slot:
    query: Query
    last: Result | None = None  # that was delivered
    last_part: ResultPart | None = None  # its undecoded form
    error: OrtegeWatchError | None = None  # the latest transient one, also once raised
    refreshed: str = ""  # the lastRefreshTime of the latest snapshot that was taken
    failing: bool = False  # an error was logged, and no success since
    unreadable: bool = False  # the latest snapshot could not be decoded
    warned: bool = False  # the row limit was logged


class Mailbox:
    """What a subscription has received and the caller has not yet taken.

    Args:
        queries: the queries; the first one has the message id "1".
        server: its host, for log lines.
        on_error: receives transient errors; without it, :meth:`take` raises them.
    """

    def __init__(
        self,
        queries: Sequence[Query],
        on_error: Callable[[OrtegeWatchError], object] | None,
        *,
        server: str,
    ) -> None:
        self._server = server
        self._slots: Final = {
            str(number): _Slot(query) for number, query in enumerate(queries, 1)
        }
        self._on_error = on_error
        self._newest: dict[str, _Snapshot] = {}
        self._ready: deque[str | BaseException] = deque()
        self.open: Final = {key: slot.query for key, slot in self._slots.items()}
        """The queries that have not ended, by message id."""

    def put(
        self, message_id: str, part: ResultPart, *, resumed: bool, received_at: datetime
    ) -> bool:
        """Keep a snapshot in place of an older one that was not taken.

        Return whether :meth:`take` has something to look at.
        """
        slot = self._slots[message_id]
        if slot.failing and not slot.unreadable:
            self._log_success(message_id, slot)
        if (older := self._newest.get(message_id)) is not None:
            resumed = resumed or older.resumed
            if slot.error in self._ready:  # that error came before this snapshot
                self._ready.remove(message_id)
        elif (
            (last := slot.last_part) is not None
            and not slot.unreadable  # else _compare() notes that the query works again
            # The reader of frames returns rows that it knows as the same object.
            and (part.data is last.data or part.data == last.data)
        ):
            slot.refreshed = part.lastRefreshTime or ""
            return False  # nothing has changed
        if message_id not in self._ready:
            self._ready.append(message_id)
        self._newest[message_id] = _Snapshot(part, resumed, received_at)
        return True

    def put_error(
        self, message_id: str, error: OrtegeWatchError, *, final: bool
    ) -> None:
        """Keep an error of one query; a transient one replaces the one before it."""
        slot = self._slots[message_id]
        error.query, error.host = slot.query, self._server
        if final:
            self._log(logging.ERROR, message_id, f"failed for good: {error.text}")
        elif not slot.failing:
            slot.failing = True
            self._log(logging.WARNING, message_id, f"failed for now: {error.text}")
        if final:
            self.open.pop(message_id, None)
        elif self._on_error is not None:
            self._on_error(error)
            return
        else:
            if slot.error is not None and slot.error in self._ready:
                self._ready.remove(slot.error)
            slot.error = error
        self._ready.append(error)

    def _log_success(self, message_id: str, slot: _Slot) -> None:
        slot.failing = False
        self._log(logging.INFO, message_id, "works again")

    def _log(self, level: int, message_id: str, text: str) -> None:
        name = query_name(message_id, self._slots[message_id].query.to_wire())
        LOGGER.log(level, "%s: %s: %s", self._server, name, text)

    def put_end(self, error: BaseException) -> None:
        """Keep what ends the subscription: an error, or a caller's ``SystemExit``."""
        self._ready.append(error)

    def clear(self) -> BaseException | None:
        """Discard what was not taken; return a ``SystemExit`` or the like, to be raised."""
        discarded = list(self._ready)
        self._ready.clear()
        for each in discarded:
            if not isinstance(each, str | Exception):
                return each
        return None

    def take(self) -> Update | None:
        """Return the next update, or ``None`` if nothing is new.

        Raises:
            OrtegeWatchError: the next thing is an error.
            BaseException: a callback raised it, ``SystemExit`` for instance.
        """
        while self._ready:
            ready = self._ready.popleft()
            if isinstance(ready, BaseException):
                raise ready
            update = self._compare(ready, self._slots[ready])
            if update is not None:
                return update
        return None

    def _compare(self, message_id: str, slot: _Slot) -> Update | None:
        """Compare the newest snapshot with the last delivered one.

        Whatever fails, fails before the snapshot counts as delivered.
        """
        snapshot = self._newest.pop(message_id)
        result, last = Result(snapshot.part, slot.query), slot.last
        try:
            changes = difference(last, result)
            truncated = result.truncated
        except OrtegeWatchError as error:
            if not slot.unreadable:
                slot.unreadable = True
                self.put_error(message_id, error, final=False)
            return None
        if slot.unreadable:
            slot.unreadable = False
            self._log_success(message_id, slot)
        refreshed = snapshot.part.lastRefreshTime or ""
        stale = bool(refreshed) and refreshed < slot.refreshed
        slot.refreshed = refreshed
        if last is not None and not changes:
            return None
        if stale:
            text = "no newer snapshot: delivering an older one (update.stale)"
            self._log(logging.WARNING, message_id, text)
        slot.last, slot.last_part = result, snapshot.part
        is_top = slot.query.limit is not None and slot.query.order
        if truncated and not is_top and not slot.warned:
            slot.warned = True
            limit = result._snapshot.row_limit()  # noqa: SLF001 - the result may be longer
            problem = (
                f"the result has reached its limit of {limit} rows, and rows"
                " beyond it are missing: narrow the query, or raise its limit"
            )
            self._log(logging.WARNING, message_id, problem)
        return Update(
            query=slot.query,
            result=result,
            added=changes.added,
            changed=changes.changed,
            removed=changes.removed,
            first=last is None,
            resumed=snapshot.resumed,
            stale=stale,
            received_at=snapshot.received_at,
        )
