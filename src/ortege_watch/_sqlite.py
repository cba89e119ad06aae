"""SQLite files that several processes open, perhaps at the same moment."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn, Self

from ortege_watch._checks import check_kind, not_copyable, shown
from ortege_watch.errors import InvalidArgument, OrtegeWatchError

_WAIT: Final = 10.0
"""Seconds that a statement waits for other processes that use the file."""

_MEMORY: Final = ":memory:"

_PAUSE: Final = 0.01
"""Seconds between two attempts to switch a file to its write-ahead log."""


_INCREMENTAL: Final = 2
"""The value of ``auto_vacuum`` for files whose free pages are returned on request."""

_SPARE: Final = 256
"""Free pages that a file keeps for what is written next."""

FULL: Final = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE}
)
"""The errors for a disk that is full, and for a quota or a limit that is reached."""

_ADVICE: Final = {
    **dict.fromkeys(FULL, "; make room on its disk"),
    sqlite3.SQLITE_CANTOPEN: "; create its folder, or allow this process to write there",
    sqlite3.SQLITE_NOTADB: "; use another path",
}
"""What to do, by the code of SQLite's error."""


class Guard:
    """A lock that turns SQLite's errors into this library's.

    It refuses a process that was forked after the file was opened: SQLite's locks are
    not the child's, and the lock may be held by a thread that is not in the child.

    ``name`` is what an error calls the file, such as ``the outbox 'alerts.db'``.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._process = os.getpid()

    @property
    def is_forked(self) -> bool:
        """Whether this process was forked from the one that opened the file."""
        return self._process != os.getpid()

    def __enter__(self) -> None:
        if self._process != os.getpid():  # as is_forked, without a call
            raise OrtegeWatchError(
                f"cannot use {self._name}: it was opened before this process was forked;"
                " open it again"
            )
        self._lock.acquire()

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        self._lock.release()
        if isinstance(error, sqlite3.Error):
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
            problem = f"cannot use {self._name}: {error}{_ADVICE.get(code, '')}"
            raise OrtegeWatchError(problem) from error


class DatabaseFile:
    """Base class of stores in an SQLite file, which several processes may share.

    ``kind`` is its name in errors, such as ``the outbox``. If ``synchronous`` is
    ``FULL``, a power failure loses nothing; if it is ``NORMAL``, the last moments. A
    killed process loses nothing with either. A file with a ``version`` is refused if it
    has another one; stores without a version may share a file. One that may be in
    memory is there if the path is ``None``.
    """

    def __init__(
        self,
        path: str | Path | None,
        kind: str,
        schema: str,
        *,
        synchronous: str,
        version: int | None = None,
        may_be_in_memory: bool = False,
    ) -> None:
        if path is not None or not may_be_in_memory:
            _check_path(path, f"path of {kind}")
        self._path = _MEMORY if path is None else str(path)
        self._guard = Guard(f"{kind} {str(path)!r}")
        with self._guard:
            self._db = connect(_MEMORY if path is None else path)
            try:
                # Only before anything is written, and that includes the next line. To set it
                # again writes a page, for which a full disk has no room.
                [vacuum] = self._db.execute("PRAGMA auto_vacuum").fetchone()
                if vacuum != _INCREMENTAL:
                    self._db.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")
                use_wal(self._db)
                # Some systems overwrite what is deleted, which writes pages twice.
                self._db.execute("PRAGMA secure_delete = OFF")
                self._db.execute(f"PRAGMA synchronous = {synchronous}")
                self._db.execute("PRAGMA journal_size_limit = 1048576")
                with self._db:
                    self._db.execute("BEGIN IMMEDIATE")
                    self._check_version(version, f"{kind} {str(path)!r}")
                    for statement in schema.split(";"):
                        self._db.execute(statement)
            except BaseException:
                self._db.close()
                raise

    def _check_version(self, version: int | None, name: str) -> None:
        [found] = self._db.execute("PRAGMA user_version").fetchone()
        if version is None and found == 0:
            return
        if version is None:
            problem = f"{name} is a file of another kind: use another path"
            raise OrtegeWatchError(problem)
        [tables] = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if found == 0 and tables == 0:  # a new file
            self._db.execute(f"PRAGMA user_version = {version}")
        elif found == 0:
            problem = f"{name} is a file of another kind: use another path"
            raise OrtegeWatchError(problem)
        elif found != version:
            raise OrtegeWatchError(
                f"{name} has schema version {found}, and this release reads version"
                f" {version}: open it with the release that wrote it, or use a new file"
            )

    def _give_back(self) -> None:
        """Return free pages to the file system, some at a time; outside a transaction."""
        [free] = self._db.execute("PRAGMA freelist_count").fetchone()
        if free > _SPARE:
            # Not execute(), which would free one page only.
            self._db.executescript(f"PRAGMA incremental_vacuum({_SPARE})")

    def __reduce__(self) -> NoReturn:
        raise not_copyable(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._path!r})"

    def close(self) -> None:
        """Close the file; does nothing in a process that was forked meanwhile."""
        if self._guard.is_forked:
            return
        with self._guard:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _check_path(path: object, name: str) -> None:
    """Raise :class:`InvalidArgument` unless a path may be that of a file."""
    check_kind(name, path, str | Path, "a string or a Path")
    text = str(path)
    # Many builds of SQLite read "file:x?mode=memory" as a URI, and keep it in memory.
    is_uri = text.startswith("file:")
    if not text or is_uri or _MEMORY in text or "\0" in text:
        advice = "; pass a path, not a URI" if is_uri else ""
        rule = f"{name} must name a file that persists"
        raise InvalidArgument(f"{rule}, got {shown(text)}{advice}")
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        problem = f"{name} cannot be encoded: {error}"
        raise InvalidArgument(problem) from error
    with suppress(OSError):  # SQLite says why it cannot open it
        if Path(text).is_dir():
            rule = f"{name} must name a file"
            raise InvalidArgument(f"{rule}, got the directory {shown(text)}")


def connect(path: str | Path, *, wait: float = _WAIT) -> sqlite3.Connection:
    """Open a file; a statement waits up to ``wait`` seconds for other processes."""
    return sqlite3.connect(
        path, timeout=wait, isolation_level=None, check_same_thread=False
    )


def use_wal(db: sqlite3.Connection) -> None:
    """Switch a file to its write-ahead log, which stays on.

    The switch needs the file alone, and SQLite does not wait for that: while another
    process opens the same new file, it fails at once with "database is locked". So may
    the first query, which creates what the log needs on the disk.
    """
    deadline = time.monotonic() + _WAIT
    while True:
        try:
            # Written only once the result is read to its end; on a full disk, it is not.
            db.execute("PRAGMA journal_mode = WAL").fetchall()
            db.execute("SELECT 1 FROM sqlite_master").fetchall()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= deadline:
                raise
            time.sleep(_PAUSE)
        else:
            return
