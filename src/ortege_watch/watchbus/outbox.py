"""The outbox: alerts that are to be sent, in an SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import starmap
from pathlib import Path
from typing import Final

from ortege_watch._checks import check_int
from ortege_watch._sqlite import DatabaseFile, Guard, connect
from ortege_watch.errors import OutboxFull
from ortege_watch.watchbus.models import AlertInfo, read_alerts
from ortege_watch.watchbus.sending import (
    BatchResults,
    QueuedAlert,
    RejectedAlert,
    SendLease,
)

_VERSION: Final = 1
"""The version of the schema, which every change of it raises."""

_SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS waiting (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL UNIQUE,
        data BLOB NOT NULL
    );
    CREATE TABLE IF NOT EXISTS rejected (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL UNIQUE,
        data BLOB NOT NULL,
        reason TEXT NOT NULL,
        code TEXT,
        status INTEGER
    );
"""

_COUNT: Final = "SELECT count(*) FROM waiting"


class Outbox(DatabaseFile):
    """A queue of alerts on disk, which keeps them until the bus acknowledges them.

    An alert that was accepted survives a crash and a power failure. Alerts are sent in
    the order in which they were accepted, **at least once**: an alert whose response is
    lost is sent again, and the receiver recognises it by its dedupe key. Several
    processes and publishers may share a file: all accept alerts, one at a time sends.
    The file must be on a local disk, and must not be open during a fork.

    Alerts that the bus rejects for good are moved to a list of their own, with the
    reason, and delay no others.

    Close the outbox, or use it as a context manager.

    Args:
        path: the file; it is created if it does not exist. A second, empty file with
            the ending ``-sender`` is created beside it, which the sender locks.
        limit: the most alerts that may be queued, and the most rejected ones that are
            kept (the oldest are deleted).

    Raises:
        InvalidArgument: ``path`` is not a file's, or ``limit`` is not positive.
        OrtegeWatchError: the file cannot be used; every method raises it, too.
    """

    on_disk: bool = True

    def __init__(self, path: str | Path, *, limit: int = 100_000) -> None:
        check_int("limit", limit)
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

    def waiting(self) -> list[AlertInfo]:
        """Return the queued alerts, in order."""
        with self._guard:
            return [each.alert for each in self._first(self.limit)]

    def rejected(self) -> list[RejectedAlert]:
        """Return the rejected alerts with the bus's reasons, oldest first."""
        with self._guard:
            rows = self._db.execute(
                "SELECT data, reason, code, status FROM rejected ORDER BY number"
            ).fetchall()
        return [RejectedAlert(read_alerts(data)[0], *why) for data, *why in rows]

    def requeue(self) -> int:
        """Queue the rejected alerts again, after all others, and return their number.

        Raises:
            OutboxFull: they do not fit.
        """
        with self._guard, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            rows = self._db.execute(
                "SELECT key, data FROM rejected ORDER BY number"
            ).fetchall()
            self._add(rows)
            self._db.execute("DELETE FROM rejected")
            return len(rows)

    def discard_rejected(self) -> int:
        """Delete the rejected alerts, and return their number."""
        with self._guard:
            return self._db.execute("DELETE FROM rejected").rowcount

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
        rows = [(each.key, each.data) for each in alerts]
        with self._guard, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._add(rows)
            self._db.executemany(
                "DELETE FROM rejected WHERE key = ?", [row[:1] for row in rows]
            )

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

    def resolve(self, results: BatchResults, limit: int) -> list[QueuedAlert]:
        """Remove the alerts that were sent or rejected, and return the next ones."""
        keys = [(each.key,) for each in results.resolved]
        with self._guard, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("DELETE FROM waiting WHERE key = ?", keys)
            if results.rejected:
                self._db.executemany(
                    "INSERT OR REPLACE INTO rejected (key, data, reason, code, status)"
                    " VALUES (?, ?, ?, ?, ?)",
                    [
                        (each.key, each.data, why.reason, why.code, why.status)
                        for each, why in results.rejected
                    ],
                )
                self._db.execute(
                    "DELETE FROM rejected WHERE number <="
                    " (SELECT max(number) FROM rejected) - ?",
                    (self.limit,),
                )
        with self._guard:
            self._give_back()
            return self._first(limit)

    def end_sending(self, lease: SendLease) -> None:
        """Release the lease, whether it was taken or not."""
        with self._lease_guard:
            lease.released = True
            if self._lease is lease:
                self._lease = None
                self._sender.execute("ROLLBACK")

    def still_queued(self, alerts: Iterable[QueuedAlert]) -> list[QueuedAlert]:
        """Return those of the alerts that are queued."""
        query = "SELECT 1 FROM waiting WHERE key = ?"
        with self._guard:
            return [x for x in alerts if self._db.execute(query, (x.key,)).fetchone()]

    def _add(self, rows: Sequence[tuple[str, bytes]]) -> None:
        self._db.executemany(
            "INSERT INTO waiting (key, data) VALUES (?, ?) ON CONFLICT DO NOTHING", rows
        )
        [count] = self._db.execute(_COUNT).fetchone()
        if count > self.limit:
            raise OutboxFull(
                f"the outbox {str(self.path)!r} may hold {self.limit} alerts, and would"
                f" hold {count}: none of these {len(rows)} was accepted"
            )

    def _first(self, limit: int) -> list[QueuedAlert]:
        rows = self._db.execute(
            "SELECT key, data FROM waiting ORDER BY number LIMIT ?", (limit,)
        )
        return list(starmap(QueuedAlert, rows))
