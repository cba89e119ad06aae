"""Stores of the alerts that were handled or rejected, in memory or in a file."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, Protocol

from attrs import frozen

from ortege_watch._checks import check_callable, check_int, check_seconds
from ortege_watch._sqlite import DatabaseFile

_DAY: Final = 86_400.0
_SWEEP_EVERY: Final = 60.0  # seconds
_SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS handled (
        key TEXT PRIMARY KEY,
        owner TEXT,  -- who is handling it, or NULL
        reason TEXT,  -- why it was rejected, or NULL
        until REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS handled_until ON handled (until);
"""


@frozen
class Claim:
    """The answer of a store to the question who handles an alert.

    Attributes:
        state: ``"claimed"``: the caller handles it. ``"busy"``: somebody else is
            handling it. ``"handled"`` and ``"rejected"``: that has happened before.
        reason: why it was rejected.
    """

    state: Literal["claimed", "busy", "handled", "rejected"]
    reason: str = ""


class HandledStore(Protocol):
    """The interface of stores of handled alerts; implement it to share them.

    Its methods are called from any thread. ``app_id`` is the app that sent the alert, so
    that a store can limit what it keeps for each; ``key`` is the alert's dedupe key, which
    covers the app id. They are plain methods; async ones are refused.
    """

    def claim(self, app_id: str, key: str, /) -> Claim:
        """Claim an alert unless it was handled or is claimed, in one atomic step.

        A claim must end by itself some time after its process was killed.
        """
        ...

    def resolve(self, app_id: str, key: str, reason: str | None, /) -> None:
        """Store that a claimed alert was handled, or rejected with a reason."""
        ...

    def release(self, app_id: str, key: str, /) -> None:
        """Give up a claim: the alert was not handled, and may be claimed again."""
        ...


class MemoryHandled:
    """A store of handled alerts in the memory of this process.

    Args:
        limit: how many alerts of one app to remember, the newest. One that was dropped
            is handled again if it arrives again. One takes about 200 bytes.

    Raises:
        InvalidArgument: ``limit`` is not positive.
    """

    def __init__(self, limit: int = 100_000) -> None:
        check_int("limit", limit)
        self._limit = limit
        # Not a dict, of which each deletion of the first key takes longer than the last.
        self._resolved: defaultdict[str, OrderedDict[str, str | None]]
        self._resolved = defaultdict(OrderedDict)
        self._claimed: set[str] = set()
        self._lock = threading.Lock()

    def claim(self, app_id: str, key: str) -> Claim:
        """Claim an alert unless it was handled or is claimed."""
        with self._lock:
            if key in (resolved := self._resolved[app_id]):
                return _resolved(resolved[key])
            if key in self._claimed:
                return Claim("busy")
            self._claimed.add(key)
            return Claim("claimed")

    def resolve(self, app_id: str, key: str, reason: str | None) -> None:
        """Store that a claimed alert was handled, or rejected with a reason."""
        with self._lock:
            self._claimed.discard(key)
            resolved = self._resolved[app_id]
            resolved[key] = reason
            if len(resolved) > self._limit:
                resolved.popitem(last=False)

    def release(self, app_id: str, key: str) -> None:
        """Give up a claim."""
        del app_id  # the key covers it
        with self._lock:
            self._claimed.discard(key)


class SQLiteHandled(DatabaseFile):
    """A store of handled alerts in an SQLite file, shared by processes.

    It survives restarts, and of several processes that get the same alert one handles
    it. The file may be that of :class:`SQLiteNonces`. Close it, or use it as a context
    manager.

    Args:
        path: the file; it is created if it does not exist.
        max_age: seconds for which an alert is remembered; 10 days by default. Senders of
            this library give an alert up after 7 days.
        claim_for: the most seconds that a handler takes, more than ``handle_within`` of
            the :class:`AlertInbox`. While one process handles an alert, the others do
            not; if it is killed, they may after this time.
        clock: returns unix seconds.

    Raises:
        InvalidArgument: an argument cannot be used.
        OrtegeWatchError: the file cannot be used; also from the methods.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        max_age: float = 10 * _DAY,
        claim_for: float = 300.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_seconds("max_age", max_age)
        check_seconds("claim_for", claim_for)
        check_callable("clock", clock, awaited=False)
        super().__init__(
            path, "the file of handled alerts", _SCHEMA, synchronous="NORMAL"
        )
        self._max_age = max_age
        self.claim_for: Final = claim_for
        self._clock = clock
        self._owner = secrets.token_hex(16)
        self._next_sweep = float("-inf")

    def claim(self, app_id: str, key: str) -> Claim:
        """Claim an alert unless it was handled or is claimed."""
        del app_id  # the key covers it
        now = self._clock()
        with self._guard:
            claimed = self._db.execute(
                "INSERT INTO handled VALUES (?, ?, NULL, ?) ON CONFLICT DO UPDATE"
                " SET owner = excluded.owner, reason = NULL, until = excluded.until"
                " WHERE handled.until <= ?",
                (key, self._owner, now + self.claim_for, now),
            )
            if claimed.rowcount == 1:
                return Claim("claimed")
            found = self._db.execute(
                "SELECT owner, reason FROM handled WHERE key = ?", (key,)
            ).fetchone()
        if found is None or found[0] is not None:  # or it was released meanwhile
            return Claim("busy")
        return _resolved(found[1])

    def resolve(self, app_id: str, key: str, reason: str | None) -> None:
        """Store that a claimed alert was handled, or rejected with a reason."""
        del app_id  # the key covers it
        now = self._clock()
        with self._guard:
            self._db.execute(
                "INSERT OR REPLACE INTO handled VALUES (?, NULL, ?, ?)",
                (key, reason, now + self._max_age),
            )
            if not self._next_sweep - _SWEEP_EVERY <= now < self._next_sweep:
                self._next_sweep = now + _SWEEP_EVERY
                self._db.execute("DELETE FROM handled WHERE until <= ?", (now,))

    def release(self, app_id: str, key: str) -> None:
        """Give up a claim, unless it has ended by itself."""
        del app_id  # the key covers it
        with self._guard:
            self._db.execute(
                "DELETE FROM handled WHERE key = ? AND owner = ?", (key, self._owner)
            )

    def forget_rejected(self) -> int:
        """Forget the alerts that were rejected, and return their number.

        They are handled if they are sent again, such as after a mistake in the handler
        was corrected and the sender has queued its dead letters again.
        """
        with self._guard:
            query = "DELETE FROM handled WHERE reason IS NOT NULL"
            return self._db.execute(query).rowcount

    def __len__(self) -> int:
        with self._guard:
            [count] = self._db.execute("SELECT count(*) FROM handled").fetchone()
            return int(count)


def _resolved(reason: str | None) -> Claim:
    return Claim("handled") if reason is None else Claim("rejected", reason)
