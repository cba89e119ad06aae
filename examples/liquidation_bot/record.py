"""Sessions as files.

A session is recorded as one JSON object a line. Its first line holds everything that
decides (the market file, the limits, ...), so a replay needs only the record, and makes
the same plans to the last byte. A file may hold several sessions, one after another: each
run of the bot appends its own.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from liquidation_bot.decide import Limits, Plan, document
from liquidation_bot.engine import Engine, Input
from liquidation_bot.market import Market
from liquidation_bot.model import FileError
from liquidation_bot.rules import rules_of

__all__ = [
    "Recorder",
    "Session",
    "read_record",
    "replay",
]

_VERSION: Final = 1
_FIRST: Final = b'{"record":'  # how the first line of a session begins


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
    market = Market.read(str(found.pop("market", "")))
    settings = msgspec.convert(found, _Settings)
    return Session(market=market, **msgspec.structs.asdict(settings))
