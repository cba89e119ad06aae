"""What remembers the nonces of accepted requests, so that none is accepted twice."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from ortege_watch.errors import OrtegeWatchError, SignatureError, SignatureReason

__all__ = ["MemoryNonces", "NonceStore", "SQLiteNonces"]

_FIRST_SWEEP: Final = 1000
_PAUSE: Final = 10.0  # seconds between two looks at a whole file


class NonceStore(Protocol):
    """Remember nonces; implement this to share them between machines."""

    def record(self, nonce: str, now: float, until: float) -> bool:
        """Remember a nonce, and tell whether it was new, in one atomic step.

        It is called after the signature proved good, from any thread.

        Args:
            nonce: the app id, a ``;`` and the nonce.
            now: unix seconds by the verifier's clock.
            until: when it may be forgotten, in the same seconds.

        Raises:
            SignatureError: with ``NONCES_FULL`` where there is no room left. To forget
                a nonce early would let a replay through.
        """
        ...


class MemoryNonces:
    """Remember nonces in this process.

    Args:
        limit: how many at most. With the default tolerance a nonce is kept for ten
            minutes, so the default is enough for 166 requests a second. One takes
            about 200 bytes.
    """

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self._kept: dict[str, tuple[float]] = {}
        self._lock = threading.Lock()
        self._sweep_size = min(_FIRST_SWEEP, limit)
        self._next_sweep = float("-inf")

    def record(self, nonce: str, now: float, until: float) -> bool:
        """Remember a nonce, and tell whether it was new."""
        if len(self._kept) >= self._sweep_size:
            self._sweep(now)
        # One step, also between threads: only the first one's entry is kept.
        entry = (until,)
        return self._kept.setdefault(nonce, entry) is entry

    def __len__(self) -> int:
        return len(self._kept)

    def _sweep(self, now: float) -> None:
        with self._lock:
            # At most once a second, also when the store is full and the clock jumps.
            if not self._next_sweep - 1 <= now < self._next_sweep:
                self._next_sweep = now + 1
                for nonce, (until,) in list(self._kept.items()):
                    if until < now:
                        del self._kept[nonce]
                size = max(2 * len(self._kept), _FIRST_SWEEP)
                self._sweep_size = min(size, self._limit)
            if len(self._kept) >= self._limit:
                raise _full(self._limit)


class SQLiteNonces:
    """Remember nonces in an SQLite file, across restarts and between processes.

    Close it, or use it as a context manager.

    Args:
        path: the file; it is made if there is none.
        limit: how many at most, and what comes in ten seconds.

    Raises:
        OrtegeWatchError: the file cannot be used; also in :meth:`record`.
    """

    def __init__(self, path: str | Path, limit: int = 1_000_000) -> None:
        self._path = path
        self._limit = limit
        self._lock = threading.Lock()
        self._next_sweep = float("-inf")
        self._full = False
        with self._errors():
            self._db = sqlite3.connect(
                path, timeout=10, isolation_level=None, check_same_thread=False
            )
            # A killed process loses nothing; a lost power supply the last moments.
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS nonces"
                " (nonce TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID"
            )
            self._db.execute("CREATE INDEX IF NOT EXISTS untils ON nonces (until)")

    def record(self, nonce: str, now: float, until: float) -> bool:
        """Remember a nonce, and tell whether it was new."""
        with self._lock, self._errors():
            if not self._next_sweep - _PAUSE <= now < self._next_sweep:
                self._sweep(now)
            if self._full:
                raise _full(self._limit)
            done = self._db.execute(
                "INSERT INTO nonces VALUES (?, ?) ON CONFLICT DO NOTHING",
                (nonce, until),
            )
            return done.rowcount == 1

    def close(self) -> None:
        """Close the file."""
        with self._lock, self._errors():
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _sweep(self, now: float) -> None:
        self._next_sweep = now + _PAUSE
        self._db.execute("DELETE FROM nonces WHERE until < ?", (now,))
        [kept] = self._db.execute("SELECT count(*) FROM nonces").fetchone()
        self._full = kept >= self._limit

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            problem = f"the nonces in {str(self._path)!r} cannot be used: {error}"
            raise OrtegeWatchError(problem) from error


def _full(limit: int) -> SignatureError:
    return SignatureError(
        SignatureReason.NONCES_FULL,
        f"{limit} nonces are remembered and none may be forgotten yet; give the store"
        " a higher limit if this is no attack",
    )
