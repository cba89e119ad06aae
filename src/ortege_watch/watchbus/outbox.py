"""The outbox: alerts that are to be sent, in an SQLite file."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import starmap
from pathlib import Path
from typing import Final

from attrs import frozen

from ortege_watch._checks import check_int, check_list
from ortege_watch._sqlite import DatabaseFile, Guard, connect
from ortege_watch.errors import OrtegeWatchError, OutboxFull
from ortege_watch.watchbus.models import AlertInfo
from ortege_watch.watchbus.requests import is_of_server
from ortege_watch.watchbus.sending import (
    DELAYS,
    SENT_AGAIN,
    BatchResults,
    DeadLetter,
    QueuedAlert,
    Redelivery,
    SendLease,
    asked_wait,
    read_data,
)

_LOGGER: Final = logging.getLogger("ortege_watch.watchbus")

_VERSION: Final = 1
"""The version of the schema, which every change of it raises."""

_SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS waiting (
        number INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        data BLOB NOT NULL,
        accepted_at REAL NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        failures INTEGER NOT NULL DEFAULT 0,
        is_suspect INTEGER NOT NULL DEFAULT 0,
        next_attempt_at REAL NOT NULL DEFAULT 0,
        not_before REAL NOT NULL DEFAULT 0
    );
    CREATE INDEX IF NOT EXISTS doubtful ON waiting (number)
        WHERE failures > 0 AND is_suspect = 0;
    CREATE TABLE IF NOT EXISTS dead (
        number INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        data BLOB NOT NULL,
        reason TEXT NOT NULL,
        code TEXT,
        status INTEGER,
        attempts INTEGER NOT NULL,
        time REAL NOT NULL
    )
"""

_COUNT: Final = "SELECT count(*) FROM waiting"

# An alert whose next attempt is further away was scheduled before the clock was set back.
_DUE: Final = "next_attempt_at NOT BETWEEN ? AND ? + 30000"
assert max(DELAYS) < 30_000  # noqa: S101 - seconds; a rule for who changes them

_NEXT: Final = f"""
    SELECT key, data, attempts, accepted_at, failures, is_suspect FROM waiting
    WHERE {_DUE} ORDER BY number LIMIT ?
"""  # noqa: S608 - no input

_WAITING: Final = f"""
    SELECT data, attempts, next_attempt_at, {_DUE} FROM waiting ORDER BY number
"""  # noqa: S608 - no input

_RETRY_NOW: Final = f"""
    UPDATE waiting SET next_attempt_at = 0 WHERE NOT ({_DUE})
"""  # noqa: S608 - no input

# An alert was acknowledged: another that fails from now on is itself to blame. One that
# may have failed with all others is sent again at once.
_SUSPECT: Final = """
    UPDATE waiting SET is_suspect = 1, next_attempt_at = not_before
    WHERE failures > 0 AND is_suspect = 0
"""


@frozen
class WaitingAlert:
    """An alert in an outbox.

    Attributes:
        alert: the alert.
        attempts: how often it has failed while others were acknowledged.
        next_attempt: when it is sent again, in unix seconds; ``None``: it is due.
    """

    alert: AlertInfo
    attempts: int
    next_attempt: float | None


class Outbox(DatabaseFile):
    """A queue of alerts on disk, which keeps them until the bus acknowledges them.

    An alert that was accepted survives a crash and a power failure. Alerts are sent in
    the order in which they were accepted, **at least once**: an alert whose response is
    lost is sent again, and the receiver recognises it by its dedupe key. Several
    processes and publishers may share a file: all accept alerts, one at a time sends.
    The file must be on a local disk, and be opened after a fork, not before.

    An alert that fails alone delays no others. The failure counts as an attempt only if
    another alert was acknowledged since the one before: an outage costs no attempts.
    After a failure that does not count, the alert is sent again as soon as another was
    acknowledged, and otherwise after 5 s, 30 s, 2 min and then every 10 min. After an
    attempt it is sent again after 5 s, 30 s, 2 min, 10 min, 30 min, 1 h, 2 h, 4 h and then
    every 8 h. A ``Retry-After`` may make that up to 5 min longer.

    After ``max_attempts``, or if it fails at an age of ``max_age``, an alert becomes a
    dead letter; one that the bus rejects does at once.

    Close the outbox, or use it as a context manager.

    Args:
        path: the file; it is created if it does not exist. A second, empty file with
            the ending ``-sender`` is created beside it, which the sender locks.
        limit: the most alerts that may be queued, and the most dead letters that are
            kept (the oldest are deleted, with a warning).
        max_attempts: how often an alert may fail while others are acknowledged.
        max_age: the age in seconds at which a failed alert is given up.
        now: returns unix seconds; for tests.

    Raises:
        InvalidArgument: ``path`` is not a file's, or a limit is not positive.
        OrtegeWatchError: the file cannot be used; every method raises it, too.
    """

    on_disk: bool = True

    def __init__(
        self,
        path: str | Path,
        *,
        limit: int = 100_000,
        max_attempts: int = 10,
        max_age: float = 7 * 86_400.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        check_int("limit", limit)
        self._redelivery = Redelivery(max_attempts=max_attempts, max_age=max_age)
        self._now = now
        super().__init__(
            path, "the outbox", _SCHEMA, synchronous="FULL", version=_VERSION
        )
        self.path: Final = Path(path)
        self.limit: Final = limit
        # A lock of its own: releasing the lease must not wait for a transaction.
        self._lease_guard = Guard(f"the outbox {str(path)!r}")
        self._lease: SendLease | None = None
        with self._lease_guard:
            self._sender = connect(f"{path}-sender", wait=0.0)

    def __repr__(self) -> str:
        return f"Outbox({str(self.path)!r})"

    def __len__(self) -> int:
        """Return the number of queued alerts."""
        with self._guard:
            [count] = self._db.execute(_COUNT).fetchone()
            return int(count)

    def waiting(self) -> list[WaitingAlert]:
        """Return the queued alerts, in order, also those that are sent again later."""
        now = self._now()
        with self._guard:
            rows = self._db.execute(_WAITING, (now, now)).fetchall()
        return [
            WaitingAlert(read_data(data), attempts, None if is_due else at)
            for data, attempts, at, is_due in rows
        ]

    def retry_now(self) -> int:
        """Make all queued alerts due, and return the number of those that were not."""
        now = self._now()
        with self._guard, self._db:
            return self._db.execute(_RETRY_NOW, (now, now)).rowcount

    @property
    def dead(self) -> list[DeadLetter]:
        """The dead letters, oldest first."""
        with self._guard:
            rows = self._db.execute(
                "SELECT data, reason, code, status, attempts, time, key FROM dead"
                " ORDER BY number"
            ).fetchall()
        return [DeadLetter(read_data(data), *rest) for data, *rest in rows]

    def requeue(self, letters: Iterable[DeadLetter] | None = None) -> int:
        """Queue dead letters again, after all other alerts, and return their number.

        Args:
            letters: some of :attr:`dead`; ``None`` for all.

        Raises:
            InvalidArgument: ``letters`` is not an iterable of them.
            OutboxFull: they do not fit.
        """
        return self._take_dead(letters, is_queued=True)

    def forget(self, letters: Iterable[DeadLetter] | None = None) -> int:
        """Delete dead letters, and return their number.

        Args:
            letters: some of :attr:`dead`; ``None`` for all.

        Raises:
            InvalidArgument: ``letters`` is not an iterable of them.
        """
        return self._take_dead(letters, is_queued=False)

    def _take_dead(
        self, letters: Iterable[DeadLetter] | None, *, is_queued: bool
    ) -> int:
        wanted: set[str] | None = None
        if letters is not None:
            found = check_list("letters", letters, DeadLetter, or_empty=True)
            wanted = {each.key for each in found}
        with self._guard, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            rows = self._db.execute("SELECT key, data FROM dead ORDER BY number")
            taken = [row for row in rows if wanted is None or row[0] in wanted]
            if is_queued:
                now = self._now()
                self._add([(*row, now) for row in taken])
            self._forget(row[0] for row in taken)
        return len(taken)

    def close(self) -> None:
        """Close the files; a sender loses its lease."""
        super().close()
        if not self._guard.is_forked:
            with self._lease_guard:
                self._lease = None
                self._sender.close()

    # What follows is for publishers. `with self._db` commits, or rolls back.

    def accept(self, alerts: Sequence[QueuedAlert]) -> None:
        """Queue alerts, all or none; one that is queued already is not queued twice.

        Raises:
            OutboxFull: they do not fit.
        """
        now = self._now()
        rows = [(each.key, each.data, now) for each in alerts]
        with self._guard, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._add(rows)
            self._forget(each.key for each in alerts)

    def begin_sending(self, lease: SendLease, limit: int) -> list[QueuedAlert] | None:
        """Take the lease and return the first alerts; ``None`` if another has it.

        The lock is the operating system's: it ends with the process, even after a kill.
        """
        with self._lease_guard:
            if lease.released or self._lease is not None:
                return None
            try:
                self._sender.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                    return None
                raise
            self._lease = lease
        with self._guard:
            return self._first(limit)

    def resolve(
        self, results: BatchResults, limit: int
    ) -> tuple[list[QueuedAlert], list[DeadLetter]]:
        """Remove what was sent or given up; return the next alerts, and the latter."""
        now = self._now()
        given_up: list[tuple[QueuedAlert, OrtegeWatchError]] = [*results.rejected]
        for each, _ in given_up:
            each.attempts += 1
        again: list[tuple[object, ...]] = []
        for i, (each, why) in enumerate(results.failed):
            counts = each.is_suspect
            delay = self._redelivery.delay(each, why, now)
            if delay is None:
                given_up.append((each, why))
                continue
            wait = asked_wait(why)
            not_before = now + delay if counts else now + wait if wait else 0.0
            at = now + delay
            is_suspect = i < results.suspects
            if is_suspect:
                at = not_before
            each.note = f"{each.note}; next in {at - now:.0f} s" if at else SENT_AGAIN
            # Others go first if the server failed with this one, or with all of them.
            is_last = is_of_server(why) and not counts
            again.append(
                (
                    *(each.attempts, each.failures, is_suspect, at, not_before),
                    *(is_last, each.key),
                )
            )
        gone = [(each.key,) for each in results.sent]
        dead: list[DeadLetter] = []
        rows: list[tuple[object, ...]] = []
        for each, why in given_up:
            letter = each.dead_letter(why, now)
            dead.append(letter)
            rows.append(
                (
                    *(letter.key, each.data, letter.reason, letter.code),
                    *(letter.status, letter.attempts, letter.time),
                )
            )
            gone.append((letter.key,))
        forgotten = 0
        with self._guard:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany("DELETE FROM waiting WHERE key = ?", gone)
                if results.sent:
                    self._db.execute(_SUSPECT)
                if again:
                    self._db.executemany(
                        "UPDATE waiting SET attempts = ?, failures = ?, is_suspect = ?,"
                        " next_attempt_at = ?, not_before = ?, number = iif(?,"
                        " (SELECT max(number) + 1 FROM waiting), number) WHERE key = ?",
                        again,
                    )
                if rows:
                    forgotten = self._keep_dead(rows)
            self._give_back()
            batch = self._first(limit)
        if forgotten:
            problem = "%r has more than %d dead letters: the oldest %d were deleted"
            _LOGGER.warning(problem, self, self.limit, forgotten)
        return batch, dead

    def _keep_dead(self, rows: Sequence[tuple[object, ...]]) -> int:
        """Keep dead letters; return how many of the oldest had to be deleted."""
        self._db.executemany(
            "INSERT OR REPLACE INTO dead"
            " (key, data, reason, code, status, attempts, time)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
        # By their order, not by their numbers, which have gaps.
        return self._db.execute(
            "DELETE FROM dead WHERE number <= (SELECT number FROM dead"
            " ORDER BY number DESC LIMIT 1 OFFSET ?)",
            (self.limit,),
        ).rowcount

    def end_sending(self, lease: SendLease) -> None:
        """Release the lease, whether it was taken or not."""
        with self._lease_guard:
            lease.released = True
            if self._lease is lease:
                self._lease = None
                self._sender.execute("ROLLBACK")

    def is_due(self) -> bool:
        """Return whether an alert is to be sent now."""
        with self._guard:
            return bool(self._first(1))

    def still_queued(self, alerts: Iterable[QueuedAlert]) -> list[QueuedAlert]:
        """Return those of the alerts that are queued."""
        query = "SELECT 1 FROM waiting WHERE key = ?"
        with self._guard:
            return [x for x in alerts if self._db.execute(query, (x.key,)).fetchone()]

    def _add(self, rows: Sequence[tuple[str, bytes, float]]) -> None:
        self._db.executemany(
            "INSERT INTO waiting (key, data, accepted_at) VALUES (?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            rows,
        )
        [count] = self._db.execute(_COUNT).fetchone()
        if count > self.limit:
            raise OutboxFull(
                f"the outbox {str(self.path)!r} may hold {self.limit} alerts, and would"
                f" hold {count}: none of these {len(rows)} was accepted"
            )

    def _forget(self, keys: Iterable[str]) -> None:
        if self._db.execute("SELECT 1 FROM dead LIMIT 1").fetchone():
            rows = ((key,) for key in keys)
            self._db.executemany("DELETE FROM dead WHERE key = ?", rows)

    def _first(self, limit: int) -> list[QueuedAlert]:
        now = self._now()
        return list(starmap(QueuedAlert, self._db.execute(_NEXT, (now, now, limit))))
