"""Sessions, and the steps of plans, as files.

A session is recorded as one JSON object a line. Its first line holds everything that
decides (the market file, the limits, ...), so a replay needs only the record, and makes
the same plans to the last byte. A file may hold several sessions, one after another: each
run of the bot appends its own.

A state file is a journal. Each step of a plan is one JSON line, which is on the disk
before the step is taken: after ``kill -9``, a plan that may have reached the executor is
never handed over again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias

import msgspec

from liquidation_bot.engine import Engine, Input, Limits, Plan, document
from liquidation_bot.market import Market
from liquidation_bot.model import Amount, FileError, UsageError
from liquidation_bot.rules import rules_of

__all__ = [
    "Entry",
    "Journal",
    "Ledger",
    "Recorder",
    "Session",
    "Step",
    "read_record",
    "replay",
    "write_atomically",
]

_VERSION: Final = 1
_MOST_GROWTH: Final = 2**20  # bytes of steps after which a state file is shortened
_FIRST: Final = b'{"record":'  # how the first line of a session begins

Step: TypeAlias = Literal[
    "written",
    "planned",
    "dropped",
    "handed over",
    "done",
    "not sent",
    "failed",
    "unknown",
    "sent",
]


class _Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limits: Limits
    cool_down: int
    cool_downs: Mapping[str, int]
    caveats: tuple[str, ...]
    liquidator: str | None


class Session(_Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that decides, apart from the inputs.

    Attributes:
        market: the market.
        limits: which liquidations are worth a plan.
        cool_down: seconds after a plan in which its borrower gets no other.
        cool_downs: the cool-downs at the start: until when, in unix seconds.
        caveats: what the sources leave out.
        liquidator: the address in post-conditions; None leaves a placeholder.
    """

    market: Market

    def engine(self) -> Engine:
        """Return an engine in the state of the start."""
        return Engine(
            self.market,
            self.limits,
            cool_down=self.cool_down,
            cool_downs=self.cool_downs,
        )

    def document(self, plan: Plan) -> dict[str, Any]:
        """Return a plan as JSON values."""
        return document(
            plan,
            self.market,
            rules_of(self.market),
            caveats=self.caveats,
            liquidator=self.liquidator,
        )


class Recorder:
    """A file to which each input of a session is appended before it is handled.

    Raises:
        FileError: the file cannot be opened, is not a record, or is in use.
    """

    def __init__(self, path: Path, session: Session) -> None:
        try:
            self._file = path.open("a+b")
        except OSError as error:
            raise FileError(f"cannot open the record {path}: {error}") from None
        try:
            self._cut(path)
        except BaseException:
            self._file.close()
            raise
        first = {"record": _VERSION, **msgspec.structs.asdict(session)}
        self._write({**first, "market": session.market.text})

    def _cut(self, path: Path) -> None:
        """Check the file, and cut off a line that ``kill -9`` left incomplete."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileError(
                f"cannot append to the record {path}: another bot writes to it; stop "
                "that one or name another file"
            ) from None
        self._file.seek(0)
        end = 0
        for number, line in enumerate(self._file):
            if number == 0 and not line.startswith(_FIRST):
                raise FileError(
                    f"cannot append to {path}: it is not a record; name another file"
                )
            end += len(line) if line.endswith(b"\n") else 0
        self._file.truncate(end)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def __call__(self, given: Input) -> None:
        """Append one input."""
        self._write(given)

    def _write(self, line: Mapping[str, Any] | Input) -> None:
        self._file.write(msgspec.json.encode(line) + b"\n")
        self._file.flush()


def read_record(path: Path) -> Iterator[Session | Input]:
    """Yield each session of a record, followed by its inputs.

    A truncated last line, as after ``kill -9``, ends the record.

    Raises:
        FileError: the file cannot be read, or a line is invalid.
    """
    number = 0
    try:
        with path.open("rb") as file:
            while (line := file.readline()).endswith(b"\n"):
                number += 1
                if number == 1 or line.startswith(_FIRST):
                    yield _session(line)
                else:
                    yield msgspec.json.decode(line, type=Input)
    except OSError as error:
        raise FileError(f"cannot read the record {path}: {error}") from None
    except ValueError as error:
        raise FileError(f"{path}, line {number}: invalid record: {error}") from None
    if number == 0:
        raise FileError(f"cannot read the record {path}: the file is empty")


def replay(path: Path) -> Iterator[dict[str, Any]]:
    """Pass each recorded session to a new engine, and yield each plan as JSON values.

    Raises:
        FileError: the file cannot be read, or a line is invalid.
    """
    current: tuple[Session, Engine] | None = None
    for each in read_record(path):
        if isinstance(each, Session):
            current = each, each.engine()
            continue
        assert current is not None  # noqa: S101 - for the type checkers
        session, engine = current
        for decision in engine.handle(each):
            if isinstance(decision, Plan):
                yield session.document(decision)


def _session(line: bytes) -> Session:
    found = msgspec.json.decode(line, type=dict[str, Any])
    version = found.pop("record", None)
    if version != _VERSION:
        raise ValueError(f"expected version {_VERSION} of a record, got {version!r}")
    try:
        market = Market.read(str(found.pop("market", "")))
    except UsageError as error:
        raise ValueError(
            f"{error}. It is the market in the record: replay it with the version of the "
            "bot that wrote it"
        ) from None
    settings = msgspec.convert(found, _Settings)
    return Session(market=market, **msgspec.structs.asdict(settings))


class Entry(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A step of a plan: one line of a state file. Times are in unix seconds."""

    step: Step
    at: int
    id: str
    borrower: str
    until: Amount = 0  # when the borrower may get another plan
    usd: Amount = 0  # the most that the plan may pay, eight decimals
    text: str = ""


class Ledger(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The sum of a state file. Pure.

    Attributes:
        plans: how many plans were made.
        cool_downs: until when a borrower gets no other plan, in unix seconds.
        spent: dollars that plans may have paid, eight decimals.
        handed: the ids of the plans that were handed over.
        open: those that have no result.
        unsettled: those of which nobody knows if they were sent; they count as spent.
        failures: how often in a row the plans of a borrower have failed.
    """

    plans: Amount = 0
    cool_downs: dict[str, Amount] = msgspec.field(default_factory=dict)
    spent: Amount = 0
    handed: set[str] = msgspec.field(default_factory=set)
    open: dict[str, Entry] = msgspec.field(default_factory=dict)
    unsettled: dict[str, Entry] = msgspec.field(default_factory=dict)
    failures: dict[str, Amount] = msgspec.field(default_factory=dict)

    def apply(self, entry: Entry) -> None:
        """Add a step.

        Raises:
            ValueError: it cannot follow the steps before it.
        """
        match entry.step:
            case "written" | "planned":
                self.plans += 1
            case "dropped":
                pass
            case "handed over":
                if entry.id in self.handed:
                    raise ValueError(f"plan {entry.id!r} is handed over twice")
                self.handed.add(entry.id)
                self.open[entry.id] = entry
                self.spent += entry.usd
            case "sent" | "not sent" if entry.id in self.unsettled:
                settled = self.unsettled.pop(entry.id)
                self.spent -= settled.usd if entry.step == "not sent" else 0
            case _:
                if (begun := self.open.pop(entry.id, None)) is None:
                    raise ValueError(f"plan {entry.id!r} was not handed over before")
                self.spent -= begun.usd if entry.step == "not sent" else 0
                failures = self.failures.pop(entry.borrower, 0)
                if entry.step != "done":
                    self.failures[entry.borrower] = failures + 1
                if entry.step in ("failed", "unknown"):
                    self.unsettled[entry.id] = begun
        if entry.until:
            self.cool_downs[entry.borrower] = entry.until

    def running(self, now: int) -> dict[str, int]:
        """Return the cool-downs that have not ended."""
        return {who: until for who, until in self.cool_downs.items() if until > now}


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line of a state file."""

    version: Literal[2]
    ledger: Ledger


class Journal:
    """A state file that is open and locked; without a file, only its ledger.

    The first line is a ledger, the others are the steps since. A file that has grown by a
    megabyte is replaced by one with the sum in its first line; what it was stays beside
    it as ``FILE.old``.

    Attributes:
        ledger: the sum of its lines.
        notice: what was repaired when the file was opened, or an empty string.
    """

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.notice = ""
        self._path: Path | None = None
        self._file, self._size, self._most = -1, 0, _MOST_GROWTH

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path | None) -> Iterator[Journal]:
        """Lock and read a file, which is created if it is missing.

        Raises:
            UsageError: another bot uses it.
            FileError: it cannot be read or is invalid.
        """
        journal = cls()
        with contextlib.ExitStack() as stack:
            try:
                if path is not None:
                    journal._open(path, stack)
            except BlockingIOError:
                raise UsageError(
                    f"the state file {str(path)!r} is used by another bot: stop that "
                    "one, or name another file with --state"
                ) from None
            except (OSError, ValueError) as error:
                raise FileError(
                    f"cannot use the state file {str(path)!r}: {error}. Without it plans "
                    "could be executed twice: check the file, and delete it to start "
                    "with an empty state"
                ) from None
            yield journal

    def _open(self, path: Path, stack: contextlib.ExitStack) -> None:
        path = path.resolve()  # a link stays one, and leads to the same lock
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = stack.enter_context(path.with_name(f"{path.name}.lock").open("a"))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        stack.callback(self._close)
        if not path.exists():
            self._write(path)
        self._use(path)
        first, *lines = path.read_bytes().splitlines(keepends=True) or [b""]
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()  # the step that the line was for was not taken
            self.notice = f"removed the last line of {path}, which was incomplete"
        self.ledger = msgspec.json.decode(first, type=_State).ledger
        for number, line in enumerate(lines, 2):
            try:
                self.ledger.apply(msgspec.json.decode(line, type=Entry))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
        self._most = len(first) + _MOST_GROWTH
        os.ftruncate(self._file, len(first) + sum(map(len, lines)))
        if not first.endswith(b"\n"):
            os.write(self._file, b"\n")
        self._size = os.fstat(self._file).st_size
        self._shorten()

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _write(self, path: Path) -> None:
        """Write a file that has only its first line."""
        line = msgspec.json.encode(_State(version=2, ledger=self.ledger)).decode()
        write_atomically(path, line + "\n")

    def _use(self, path: Path) -> None:
        """Append to a file from now on; the lock beside it may be deleted, or not found."""
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        self._close()
        self._path, self._file = path, file
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._size = os.fstat(file).st_size

    def _shorten(self) -> None:
        """Replace a file that has grown by one with the sum in its first line."""
        if (path := self._path) is None or self._size <= self._most:
            return
        old = path.with_name(f"{path.name}.old")
        try:
            old.unlink(missing_ok=True)
            old.hardlink_to(path)  # the file itself is there at any time
            self._write(path)
        except OSError as error:  # it is only long
            self._most = self._size + _MOST_GROWTH
            self.notice = f"cannot shorten the state file {str(path)!r}: {error}"
            return
        self._use(path)  # the steps after a failure would go to the old file
        self._most = self._size + _MOST_GROWTH

    def append(self, entry: Entry) -> None:
        """Write a line to the disk, and add it to the ledger.

        Raises:
            OSError: it cannot be written; then it is not in the ledger either.
        """
        if self._path is not None:
            line = msgspec.json.encode(entry) + b"\n"
            try:
                written = os.write(self._file, line)
                os.fsync(self._file)
                problem = "the disk is full" if written < len(line) else ""
                if not os.fstat(self._file).st_nlink:
                    problem = "it was deleted"
            except OSError as error:
                problem = str(error)
            if problem:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, self._size)
                raise OSError(
                    f"cannot write the state file {str(self._path)!r}, and no plan "
                    f"leaves without it: {problem}"
                )
            self._size += len(line)
        self.ledger.apply(entry)
        self._shorten()


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that readers see all of it or nothing, even after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
