"""The outbox: alerts that are to be sent, in an SQLite file."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from itertools import chain, compress, starmap
from operator import ne
from pathlib import Path
from typing import Any, Final, NoReturn, Self, TypeVar

from attrs import frozen

from ortege_watch._checks import check_callable, check_int, check_list, not_copyable
from ortege_watch._sqlite import FULL, DatabaseFile, Guard, connect, use_wal
from ortege_watch.errors import InvalidArgument, OrtegeWatchError, OutboxFull
from ortege_watch.watchbus.models import AlertInfo
from ortege_watch.watchbus.sending import (
    DELAYS,
    BatchResults,
    DeadLetter,
    QueuedAlert,
    Redelivery,
    Resolution,
    SendLease,
    read_data,
)

T = TypeVar("T")

_LOGGER: Final = logging.getLogger("ortege_watch.watchbus")

_VERSION: Final = 2
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
        passes INTEGER NOT NULL DEFAULT 0,
        next_attempt_at REAL NOT NULL DEFAULT 0,
        not_before REAL NOT NULL DEFAULT 0
    );
    CREATE INDEX IF NOT EXISTS sending_order ON waiting (passes, number);
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
    );
    CREATE TABLE IF NOT EXISTS bus (app_id TEXT NOT NULL, address TEXT NOT NULL)
"""

_ROOM: Final = 8 * 1024 * 1024
"""Bytes that must be free on the disk: SQLite needs some to remove what was sent."""

_MOST_KNOWN: Final = 1000
"""Alerts that are kept in memory between the call that accepts them and their sending."""

_COUNT: Final = "SELECT count(*) FROM waiting"
_ENDS: Final = """
    SELECT (SELECT min(number) FROM waiting), (SELECT max(number) FROM waiting)
"""

# An alert whose next attempt is further away was scheduled before the clock was set back.
_DUE: Final = "next_attempt_at NOT BETWEEN ? AND ? + 30000"
assert max(DELAYS) < 30_000  # noqa: S101 - seconds; a rule for who changes them

# An alert passes once for each batch that failed with it. Those with fewer passes go
# first, so that those that always fail stop no others, however many they are.
_NEXT: Final = f"""
    SELECT key, data, attempts, accepted_at, failures, is_suspect, NULL, number
    FROM waiting WHERE {_DUE} ORDER BY passes, number LIMIT ?
"""  # noqa: S608 - no input

_WAITING: Final = f"""
    SELECT data, attempts, next_attempt_at, {_DUE} FROM waiting ORDER BY number
"""  # noqa: S608 - no input

_ADD: Final = """
    INSERT INTO waiting (key, data, accepted_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING
"""
_TOGETHER: Final = 50
"""Alerts that one statement adds, which takes less time than one statement for each."""
_ADD_MANY: Final = _ADD.replace("(?, ?, ?)", ", ".join(["(?, ?, ?)"] * _TOGETHER))

_BUS: Final = "SELECT app_id, address FROM bus"
_USE: Final = """
    INSERT INTO bus (app_id, address) SELECT ?, ? WHERE NOT EXISTS (SELECT 1 FROM bus)
"""

_AGAIN: Final = """
    UPDATE waiting SET attempts = ?, failures = ?, is_suspect = ?, next_attempt_at = ?,
    not_before = ?, passes = passes + 1 WHERE number = ?
"""
_IS_QUEUED: Final = "SELECT 1 FROM waiting WHERE key = ?"
_LETTERS: Final = "SELECT data, reason, code, status, attempts, time, key FROM dead"
_DEAD_OF: Final = f"{_LETTERS} WHERE key = ?"
_LATER: Final = "UPDATE waiting SET passes = passes + 1 WHERE number = ?"
_DEAD: Final = """
    INSERT OR REPLACE INTO dead (key, data, reason, code, status, attempts, time)
    VALUES (?, ?, ?, ?, ?, ?, ?)
"""

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


class OutboxQueue(DatabaseFile):
    """The file of an :class:`Outbox`, as publishers and channels use it."""

    on_disk: bool = True

    def __init__(
        self,
        path: str | Path,
        limit: int,
        redelivery: Redelivery,
        now: Callable[[], float],
    ) -> None:
        self._limit = limit
        self._redelivery = redelivery
        self.now = now
        super().__init__(
            path, "the outbox", _SCHEMA, synchronous="FULL", version=_VERSION
        )
        # Absolute, as SQLite's own: the working directory may change.
        self._folder = Path(path).absolute().parent
        found = os.path.realpath(path)  # the others are beside it, not beside a link
        self._files = os.path.abspath(path), f"{found}-wal", f"{found}-shm"  # noqa: PTH100
        self._identities = _identities(self._files)
        self._bus: tuple[str, str] | None = None  # the app id and the address
        self._bus_since: int | None = None
        # The first alerts of the file that are due, if this process has them in memory.
        # Another one deletes them only while it has the lease, so that they are known
        # until then; and it has not had it if nobody else has written to the file.
        self._known: list[QueuedAlert] = []
        self._known_since = 0
        # Alerts that were acknowledged and could not be removed, by their keys, with the
        # time at which they were accepted: this process does not send them again.
        self._unremoved: dict[str, float] = {}
        # A lock of its own: releasing the lease must not wait for a transaction.
        self._lease_guard = Guard(f"the outbox {str(path)!r}")
        self._lease: SendLease | None = None
        with ExitStack() as opened:
            opened.callback(super().close)
            with self._guard:
                # Like the limit of the log's size: so it is written over, and not cut off.
                self._db.execute("PRAGMA wal_autocheckpoint = 256")
            with self._lease_guard:
                sender = connect(f"{path}-sender", wait=0.0)
                self._sender = opened.enter_context(closing(sender))
                use_wal(sender)  # to lock it takes little time then
            opened.pop_all()

    def __repr__(self) -> str:
        return f"Outbox({self._path!r})"

    def __len__(self) -> int:
        """Return the number of queued alerts."""
        with self._guard:
            [count] = self._db.execute(_COUNT).fetchone()
            return int(count)

    def backlog(self) -> str:
        """Return how many alerts are in which file, for a log line."""
        try:
            return f"{len(self)} alerts in {self!r}"
        except OrtegeWatchError:  # it is why they are not sent
            return repr(self)

    def close(self) -> None:
        """Close the files; a sender loses its lease."""
        super().close()
        if not self._guard.is_forked:
            with self._lease_guard:
                self._lease = None
                self._sender.close()

    def read(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        """Return the rows of a query."""
        with self._guard:
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Run a transaction, which ends with the block, or is rolled back by an error."""
        with self._guard, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield self._db

    def accept(self, alerts: Sequence[QueuedAlert]) -> None:
        """Queue alerts, all or none; one that is queued already is not queued twice.

        Raises:
            OutboxFull: they do not fit.
        """
        now = self.now()
        rows: list[tuple[str, bytes, float]] = []
        size = 0
        for each in alerts:
            rows.append((each.key, each.data, now))
            size += len(each.data)
        self._check_disk(size)
        with self._guard:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                changes = self._check_bus()
                first, are_all = self.add(rows)
                self.forget(rows)
            if are_all and now > 0 and len(alerts) <= _MOST_KNOWN:
                for number, queued in enumerate(alerts, first):
                    queued.accepted_at, queued.number = now, number
                self._known, self._known_since = list(alerts), changes

    def _check_disk(self, size: int) -> None:
        """Raise :class:`OutboxFull` while what was sent can still be removed."""
        try:
            free = shutil.disk_usage(self._folder).free
        except OSError:
            return  # writing fails, too, and says more
        # Alerts are written to the log, and then to the file with an index.
        if free < _ROOM + 3 * size:
            with self._guard:  # while the file can still grow
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")
            raise OutboxFull(
                f"the disk of the outbox {self._path!r} has only {free} bytes left: none"
                " of these alerts was accepted; make room on it"
            )

    def use_for(self, app_id: str, address: str) -> None:
        """Use the file for the alerts of one app to one receiver; refuse that of another.

        Raises:
            InvalidArgument: it is used for another.
        """
        bus = app_id, address
        is_ours = self._bus in {None, bus}  # publishers may share this object
        with self._guard:
            if is_ours and self._db.execute(_BUS).fetchone() is None:
                with self._db:
                    self._db.execute("BEGIN IMMEDIATE")
                    self._db.execute(_USE, bus)
            problem = self._problem_of(bus)
        if not (problem or is_ours):
            problem = (
                f"the outbox {self._path!r} is used by a publisher of another app or"
                " receiver: close that, and open the outbox again"
            )
        if problem:
            raise InvalidArgument(problem)
        self._bus = bus

    def _problem_of(self, bus: tuple[str, str]) -> str:
        """Return why the file cannot be used for this app and address, or an empty string."""
        found = self._db.execute(_BUS).fetchone()
        if found == bus:
            return ""
        problem = f"the outbox {self._path!r} cannot be used for app {_shown(*bus)}"
        if found is None:
            return f"{problem} any more: forget_bus() was called; restart the program"
        [count] = self._db.execute(_COUNT).fetchone()
        return (
            f"{problem}: it has {count} alerts of app {_shown(*found)}; use one file for"
            " each app and receiver, or call Outbox.forget_bus() if they have moved"
        )

    def _check_bus(self) -> int:
        """Raise if the file is used for another app by now; return :meth:`_changes`."""
        changes = self._changes()
        if self._bus is not None and changes != self._bus_since:
            if problem := self._problem_of(self._bus):
                raise OrtegeWatchError(problem)
            self._bus_since = changes
        return changes

    def forget_bus(self) -> None:
        """Let the next publisher or channel decide for whom the file is."""
        if self._bus is not None:
            raise InvalidArgument(
                "forget_bus() needs an outbox that no publisher uses: close the"
                f" publisher, and call Outbox({self._path!r}).forget_bus()"
            )
        with self.write() as db:
            found = db.execute(_BUS).fetchone()
            [count] = db.execute(_COUNT).fetchone()
            db.execute("DELETE FROM bus")
        if found is not None:
            problem = (
                "%r is not for app %s any more: %d queued alerts wait for the next"
            )
            _LOGGER.warning(problem, self, _shown(*found), count)

    def _changes(self) -> int:
        """Return a number that changes when another connection writes to the file."""
        [changes] = self._db.execute("PRAGMA data_version").fetchone()
        return int(changes)

    def add(self, rows: Sequence[tuple[str, bytes, float]]) -> tuple[int, bool]:
        """Add alerts; return the first number in use, and whether they are all there are.

        This is for a transaction.

        Raises:
            OrtegeWatchError: a file was deleted, and what is added would be lost.
            OutboxFull: they do not fit.
        """
        self._known = []
        found = _identities(self._files)
        if found != self._identities:
            gone = next(compress(self._files, map(ne, found, self._identities)))
            raise OrtegeWatchError(
                f"the file {gone!r} was deleted or replaced while the outbox was open:"
                f" none of these {len(rows)} alerts was accepted; close and open the"
                " outbox again, such as by a restart"
            )
        rest = len(rows) % _TOGETHER
        added = self._db.executemany(_ADD, rows[:rest]).rowcount if rest else 0
        for start in range(rest, len(rows), _TOGETHER):
            values = list(chain.from_iterable(rows[start : start + _TOGETHER]))
            added += self._db.execute(_ADD_MANY, values).rowcount
        first, last = self._db.execute(_ENDS).fetchone()
        span = last - first + 1
        if span > self._limit:  # numbers have gaps, so that there may be fewer
            [count] = self._db.execute(_COUNT).fetchone()
            if count > self._limit:
                raise OutboxFull(
                    f"the outbox {self._path!r} may hold {self._limit} alerts, and would"
                    f" hold {count}: none of these {len(rows)} was accepted"
                )
        return first, added == len(rows) == span

    def forget(self, rows: Iterable[Sequence[object]]) -> None:
        """Delete the dead letters whose keys begin the rows; this is for a transaction."""
        if self._db.execute("SELECT 1 FROM dead LIMIT 1").fetchone():
            keys = [row[:1] for row in rows]
            self._db.executemany("DELETE FROM dead WHERE key = ?", keys)

    def begin_sending(self, lease: SendLease, limit: int) -> list[QueuedAlert] | None:
        """Take the lease and return the first alerts; ``None`` if another has it.

        The lock is the operating system's: it ends with the process, even after a kill.
        """
        with self._lease_guard:
            if lease.released or self._lease is not None:
                return None
            try:
                self._sender.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                    return None
                raise
            self._lease = lease
        with self._guard:
            if self._check_bus() != self._known_since:
                self._known = []
            batch = self._first(limit)
            if self._unremoved and not batch:
                self._remove_done(Resolution(()))
            return batch

    def resolve(
        self, results: BatchResults, limit: int
    ) -> tuple[list[QueuedAlert], Resolution]:
        """Remove what was sent or given up; return the next alerts, and what was done."""
        done = self._redelivery.resolve(results, self.now())
        with self._guard:
            known, self._known = self._known, []
            forgotten = self._remove_done(done)
            if not (done.failed or done.undecided):
                gone = {each.number for each in done.gone}
                self._known = [each for each in known if each.number not in gone]
            batch = self._first(limit)
        if forgotten:
            problem = "%r has more than %d dead letters: the oldest %d were deleted"
            _LOGGER.warning(problem, self, self._limit, forgotten)
        return batch, done

    def _remove_done(self, done: Resolution) -> int:
        """Write what becomes of a batch; return how many dead letters were deleted."""
        try:
            # A power failure may undo this: then alerts are sent again.
            self._db.execute("PRAGMA synchronous = NORMAL")
            forgotten = self._with_room(partial(self._apply, done))
            self._unremoved.clear()
            self._with_room(self._give_back)
        except sqlite3.Error:
            self._unremoved |= {each.key: each.accepted_at for each in done.sent}
            raise
        finally:
            self._db.execute("PRAGMA synchronous = FULL")
        return forgotten

    def _with_room(self, write: Callable[[], T]) -> T:
        """Call what needs room in the log, of which a full disk has only the present."""
        try:
            return write()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode not in FULL:
                raise
            # Once its pages are in the file, the log is written over.
            self._db.execute("PRAGMA wal_checkpoint(RESTART)")
            return write()

    def _apply(self, done: Resolution) -> int:
        """Do it in a transaction."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            if self._unremoved:
                query = "DELETE FROM waiting WHERE key = ? AND accepted_at = ?"
                self._db.executemany(query, list(self._unremoved.items()))
            is_empty = self._remove({each.number for each in done.gone})
            if done.sent and not is_empty:
                self._db.execute(_SUSPECT)
            if done.failed:
                rows = [
                    (
                        *(each.queued.attempts, each.queued.failures),
                        *(each.queued.is_suspect, each.at, each.not_before),
                        each.queued.number,
                    )
                    for each in done.failed
                ]
                self._db.executemany(_AGAIN, rows)
            if done.undecided:
                numbers = [(each.number,) for each in done.undecided]
                self._db.executemany(_LATER, numbers)
            return self._keep_dead(done) if done.dead else 0

    def _remove(self, numbers: set[int]) -> bool:
        """Delete alerts; return whether they were all there are.

        Only who has the lease deletes alerts.
        """
        if not numbers:
            return False
        first, last = min(numbers), max(numbers)
        if last - first + 1 > len(numbers):
            rows = [(number,) for number in sorted(numbers)]
            self._db.executemany("DELETE FROM waiting WHERE number = ?", rows)
        elif self._db.execute(_ENDS).fetchone() == (first, last):
            self._db.execute("DELETE FROM waiting")  # without a look at each
            return True
        else:
            ends = (first, last)
            self._db.execute("DELETE FROM waiting WHERE number BETWEEN ? AND ?", ends)
        return False

    def _keep_dead(self, done: Resolution) -> int:
        """Keep dead letters; return how many of the oldest had to be deleted."""
        self._db.executemany(
            _DEAD,
            [
                (
                    *(letter.key, queued.data, letter.reason, letter.code),
                    *(letter.status, letter.attempts, letter.time),
                )
                for queued, letter in zip(done.given_up, done.dead, strict=True)
            ],
        )
        # By their order, not by their numbers, which have gaps.
        return self._db.execute(
            "DELETE FROM dead WHERE number <= (SELECT number FROM dead"
            " ORDER BY number DESC LIMIT 1 OFFSET ?)",
            (self._limit,),
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

    def look_up(
        self, alerts: Iterable[QueuedAlert]
    ) -> tuple[list[QueuedAlert], list[DeadLetter]]:
        """Return those of the alerts that are queued, and the dead letters of others.

        The rest was acknowledged.
        """
        queued: list[QueuedAlert] = []
        dead: list[DeadLetter] = []
        with self._guard:
            # One transaction: meanwhile a dead letter may be queued again.
            self._db.execute("BEGIN")
            with self._db:
                for each in alerts:
                    if self._db.execute(_IS_QUEUED, (each.key,)).fetchone():
                        queued.append(each)
                    elif found := self._db.execute(_DEAD_OF, (each.key,)).fetchone():
                        dead.append(DeadLetter(each.alert, *found[1:]))
        return queued, dead

    def _first(self, limit: int) -> list[QueuedAlert]:
        if self._known:
            return self._known[:limit]
        now, more = self.now(), len(self._unremoved)
        rows = self._db.execute(_NEXT, (now, now, limit + more))
        found = list(starmap(QueuedAlert, rows))
        if more:
            skipped = self._unremoved
            found = [x for x in found if skipped.get(x.key) != x.accepted_at]
        return found[:limit]


class Outbox:
    """A queue of alerts on disk, which keeps them until the bus acknowledges them.

    An alert that was accepted survives a crash and a power failure. Alerts are sent in
    the order in which they were accepted, those that have failed after those that have
    not, **at least once**: an alert whose response is lost is sent again, and so may be
    those that were sent right before a power failure; the receiver recognises them by
    their dedupe keys. The file must be on a local disk, and be opened after a fork, not
    before.

    **A file is for one app and one receiver**: the first publisher or channel that uses it
    decides which, and one with another app id or another address is refused. Several
    processes and publishers of that app may share it: all accept alerts, one at a time
    sends.

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
        path: the file; it is created if it does not exist. A second file with the
            ending ``-sender`` is created beside it, which the sender locks. At least
            8 MiB must be free on the disk to accept alerts.
        limit: the most alerts that may be queued, and the most dead letters that are
            kept (the oldest are deleted, with a warning).
        max_attempts: how often an alert may fail while others are acknowledged.
        max_age: the age in seconds at which a failed alert is given up.
        now: returns unix seconds; for tests.

    Raises:
        InvalidArgument: ``path`` is not a file's, or a limit is not positive.
        OrtegeWatchError: the file cannot be used; every method raises it, too.
    """

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
        check_callable("now", now, awaited=False)
        redelivery = Redelivery(max_attempts=max_attempts, max_age=max_age)
        self._queue = OutboxQueue(path, limit, redelivery, now)
        self.path: Final = Path(path)
        self.limit: Final = limit

    def __reduce__(self) -> NoReturn:
        raise not_copyable(self)

    def __repr__(self) -> str:
        return repr(self._queue)

    def __len__(self) -> int:
        """Return the number of queued alerts."""
        return len(self._queue)

    def __bool__(self) -> bool:
        """Return ``True``, also without queued alerts."""
        return True

    def waiting(self) -> list[WaitingAlert]:
        """Return the queued alerts as accepted, also those that are sent again later."""
        now = self._queue.now()
        return [
            WaitingAlert(read_data(data), attempts, None if is_due else at)
            for data, attempts, at, is_due in self._queue.read(_WAITING, (now, now))
        ]

    def retry_now(self) -> int:
        """Make all queued alerts due, and return the number of those that were not."""
        now = self._queue.now()
        with self._queue.write() as db:
            return db.execute(_RETRY_NOW, (now, now)).rowcount

    def forget_bus(self) -> None:
        """Let the next publisher or channel decide for which app and receiver the file is.

        It then sends the queued alerts, and the dead letters if they are queued again.
        For a receiver that has another address from now on, or an app with another id.
        Programs that still use the file for the old one accept and send nothing more.

        Raises:
            InvalidArgument: a publisher or channel has used this object: call it on
                another ``Outbox(path)``.
        """
        self._queue.forget_bus()

    @property
    def dead(self) -> list[DeadLetter]:
        """The dead letters, oldest first."""
        rows = self._queue.read(f"{_LETTERS} ORDER BY number")
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
        with self._queue.write() as db:
            rows = db.execute("SELECT key, data FROM dead ORDER BY number")
            taken = [row for row in rows if wanted is None or row[0] in wanted]
            if is_queued and taken:
                now = self._queue.now()
                self._queue.add([(*row, now) for row in taken])
            self._queue.forget(taken)
        return len(taken)

    def close(self) -> None:
        """Close the files; a sender loses its lease."""
        self._queue.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_outbox(
    outbox: Outbox | str | Path | None, app_id: str, address: str
) -> Outbox | None:
    """Return the outbox of a publisher or a channel, for the alerts of its app.

    Raises:
        InvalidArgument: it is used for another app or another address.
        OrtegeWatchError: it cannot be opened.
    """
    if outbox is None:
        return None
    opened = outbox if isinstance(outbox, Outbox) else Outbox(outbox)
    with ExitStack() as undo:
        if opened is not outbox:
            undo.callback(opened.close)
        opened._queue.use_for(app_id, address)  # noqa: SLF001 - same module
        undo.pop_all()
    return opened


def _identities(files: Iterable[str]) -> list[tuple[int, int] | None]:
    """Return the device and the inode of each file; ``None`` if it does not exist."""
    found: list[tuple[int, int] | None] = []
    for file in files:
        try:
            stat = os.stat(file)  # noqa: PTH116 - twice as fast, for each enqueue()
        except FileNotFoundError:
            found.append(None)
        else:
            found.append((stat.st_dev, stat.st_ino))
    return found


def _shown(app_id: str, address: str) -> str:
    return f"{app_id!r} at {address}"


def queue_of(outbox: Outbox | None) -> OutboxQueue | None:
    """Return what a publisher uses of an outbox."""
    return None if outbox is None else outbox._queue  # noqa: SLF001 - same module
