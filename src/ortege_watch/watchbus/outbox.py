"""Alerts that wait to be sent, in an SQLite file."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ortege_watch._sqlite import connect, use_wal
from ortege_watch.errors import OrtegeWatchError, OutboxFull, QueryError
from ortege_watch.watchbus.models import AlertInfo, decode_alerts
from ortege_watch.watchbus.posting import (
    Delivered,
    RejectedAlert,
    Turn,
    Waiting,
    rejection,
)

__all__ = ["Outbox"]

_WAIT: Final = 10.0
"""Seconds to wait for other processes that use the file."""

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


class Outbox:
    """Keep alerts on disk until the bus has taken them.

    What was accepted survives a crash and a loss of power, and is sent in the order in
    which it was accepted. It is sent **at least once**: an alert whose answer is lost
    is sent again, and the receiver knows it by its dedupe key. Of several processes
    (and publishers) with one file, only one sends at a time; all may accept. The file
    must be on a local disk, and not be opened before a fork.

    What the bus refuses for good is set aside, so that it holds up nothing.

    Close it, or use it as a context manager.

    Args:
        path: the file; it is made if there is none. Beside it there will be another
            with the ending ``-sender``, empty, which is locked by who sends.
        limit: how many alerts may wait, and how many may be set aside (of those the
            oldest are forgotten).

    Raises:
        QueryError: the path or the limit is none.
        OrtegeWatchError: the file cannot be used; also in all the methods.
    """

    def __init__(self, path: str | Path, *, limit: int = 100_000) -> None:
        if not str(path) or ":memory:" in str(path):
            raise QueryError(f"path: {str(path)!r} is no file, and forgets everything")
        if type(limit) is not int or limit < 1:
            raise QueryError(f"limit: {limit!r} is no number of alerts above 0")
        self.path: Final = Path(path)
        self.limit: Final = limit
        self._lock = threading.Lock()
        self._turn: Turn | None = None
        with self._errors():
            self._db = connect(self.path, wait=_WAIT)
            # The last alert is on the disk when accept() returns.
            use_wal(self._db, wait=_WAIT)
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)
            self._sender = connect(Path(f"{self.path}-sender"), wait=0.0)

    def __repr__(self) -> str:
        return f"Outbox({str(self.path)!r})"

    # ------------------------------------------------------------------- for its owner
    def __len__(self) -> int:
        """Count the alerts that wait to be sent."""
        with self._reading() as db:
            [count] = db.execute("SELECT count(*) FROM waiting").fetchone()
            return int(count)

    def waiting(self) -> list[AlertInfo]:
        """List the alerts that wait to be sent, in order."""
        return [each.alert for each in self.first(self.limit)]

    def rejected(self) -> list[RejectedAlert]:
        """List the alerts that are set aside, with the bus's reasons, oldest first."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT data, reason, code, status FROM rejected ORDER BY number"
            ).fetchall()
        return [RejectedAlert(decode_alerts(data)[0], *why) for data, *why in rows]

    def requeue(self) -> int:
        """Let the alerts that are set aside be sent again, after all others.

        Returns:
            How many there were.

        Raises:
            OutboxFull: there is no room for them.
        """
        with self._writing() as db:
            rows = db.execute(
                "SELECT key, data FROM rejected ORDER BY number"
            ).fetchall()
            self._add(db, rows)
            db.execute("DELETE FROM rejected")
            return len(rows)

    def discard_rejected(self) -> int:
        """Forget the alerts that are set aside; return how many there were."""
        with self._writing() as db:
            return db.execute("DELETE FROM rejected").rowcount

    def close(self) -> None:
        """Close the files."""
        with self._lock, self._errors():
            self._turn = None
            self._db.close()
            self._sender.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ for publishers
    def accept(self, alerts: Sequence[Waiting]) -> None:
        """Take alerts, all or none; one that waits already is not taken twice.

        Raises:
            OutboxFull: there is no room for them.
        """
        with self._writing() as db:
            self._add(db, [(each.key, each.data) for each in alerts])
            gone = [(each.key,) for each in alerts]
            db.executemany("DELETE FROM rejected WHERE key = ?", gone)

    def first(self, limit: int) -> list[Waiting]:
        """Return the alerts whose turn it is."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT number, key, data FROM waiting ORDER BY number LIMIT ?",
                (limit,),
            ).fetchall()
        return [Waiting(*row) for row in rows]

    def settle(self, delivered: Delivered) -> None:
        """Forget what was sent, and set aside what was refused."""
        gone = [*delivered.sent, *(each for each, _ in delivered.rejected)]
        reasons = [
            (each.key, each.data, why.reason, why.code, why.status)
            for each, error in delivered.rejected
            for why in [rejection(each, error)]
        ]
        with self._writing() as db:
            db.executemany(
                "DELETE FROM waiting WHERE number = ?", [(x.number,) for x in gone]
            )
            db.executemany(
                "INSERT OR REPLACE INTO rejected (key, data, reason, code, status)"
                " VALUES (?, ?, ?, ?, ?)",
                reasons,
            )
            db.execute(
                "DELETE FROM rejected WHERE number <="
                " (SELECT max(number) FROM rejected) - ?",
                (self.limit,),
            )

    def still(self, alerts: Iterable[Waiting]) -> list[Waiting]:
        """Return those of the alerts that wait."""
        query = "SELECT 1 FROM waiting WHERE key = ?"
        with self._reading() as db:
            return [x for x in alerts if db.execute(query, (x.key,)).fetchone()]

    def begin_sending(self, turn: Turn) -> bool:
        """Become the one who sends; tell whether nobody else is.

        The lock is the operating system's: it ends with the process, however that ends.
        """
        with self._lock, self._errors():
            if turn.over or self._turn is not None:
                return False
            try:
                self._sender.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                    return False
                raise
            self._turn = turn
            return True

    def end_sending(self, turn: Turn) -> None:
        """Let others send, if this turn was taken; it cannot be taken after this."""
        with self._lock, self._errors():
            turn.over = True
            if self._turn is turn:
                self._turn = None
                self._sender.execute("ROLLBACK")

    def _add(self, db: sqlite3.Connection, rows: Sequence[tuple[str, bytes]]) -> None:
        db.executemany(
            "INSERT INTO waiting (key, data) VALUES (?, ?) ON CONFLICT DO NOTHING", rows
        )
        [count] = db.execute("SELECT count(*) FROM waiting").fetchone()
        if count > self.limit:
            raise OutboxFull(
                f"{self.limit} alerts wait in {str(self.path)!r} at most, and these"
                f" {len(rows)} would make {count}: none of them is accepted"
            )

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._errors():
            yield self._db

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            problem = f"the outbox {str(self.path)!r} cannot be used: {error}"
            raise OrtegeWatchError(problem) from error
