"""SQLite files that several processes open, perhaps at the same moment."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from typing import Final, Self

from ortege_watch._checks import check_kind, shown
from ortege_watch.errors import InvalidArgument, OrtegeWatchError

_WAIT: Final = 10.0
"""Seconds that a statement waits for other processes that use the file."""

_PAUSE: Final = 0.01
"""Seconds between two attempts to switch a file to its write-ahead log."""


class Guard:
    """A lock that turns SQLite's errors into this library's.

    ``name`` is what an error calls the file, such as ``the outbox 'alerts.db'``.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        self._lock.release()
        if isinstance(error, sqlite3.Error):
            raise OrtegeWatchError(f"cannot use {self._name}: {error}") from error


class DatabaseFile:
    """Base class of stores in an SQLite file, which several processes may share.

    ``kind`` is its name in errors, such as ``the outbox``. If ``synchronous`` is
    ``FULL``, a power failure loses nothing; if it is ``NORMAL``, the last moments. A
    killed process loses nothing with either.
    """

    def __init__(
        self, path: str | Path, kind: str, schema: str, *, synchronous: str
    ) -> None:
        check_kind(f"path of {kind}", path, str | Path, "a string or a Path")
        if not str(path) or ":memory:" in str(path) or "\0" in str(path):
            rule = f"path of {kind} must name a file that persists"
            raise InvalidArgument(f"{rule}, got {shown(path)}")
        self._guard = Guard(f"{kind} {str(path)!r}")
        with self._guard:
            self._db = connect(path)
            _use_wal(self._db)
            self._db.execute(f"PRAGMA synchronous = {synchronous}")
            self._db.executescript(schema)

    def close(self) -> None:
        """Close the file."""
        with self._guard:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def connect(path: str | Path, *, wait: float = _WAIT) -> sqlite3.Connection:
    """Open a file; a statement waits up to ``wait`` seconds for other processes."""
    return sqlite3.connect(
        path, timeout=wait, isolation_level=None, check_same_thread=False
    )


def _use_wal(db: sqlite3.Connection) -> None:
    """Switch a file to its write-ahead log, which stays on.

    The switch needs the file alone, and SQLite does not wait for that: while another
    process opens the same new file, it fails at once with "database is locked".
    """
    deadline = time.monotonic() + _WAIT
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= deadline:
                raise
            time.sleep(_PAUSE)
        else:
            return
