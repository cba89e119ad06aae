"""Sessions as files.

A session is recorded as one JSON object a line. The first line holds everything that
decides (the market file, the limits, ...), so a replay needs only the record, and makes
the same plans to the last byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from liquidation_bot.call import document
from liquidation_bot.decide import Limits, Plan
from liquidation_bot.engine import Engine, Input
from liquidation_bot.market import Market
from liquidation_bot.model import FileError

__all__ = [
    "Recorder",
    "Session",
    "replay",
]

_VERSION: Final = 1


class Session(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
    limits: Limits
    cool_down: int
    cool_downs: Mapping[str, int]
    caveats: tuple[str, ...]
    liquidator: str | None

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
            plan, self.market, caveats=self.caveats, liquidator=self.liquidator
        )


class Recorder:
    """A file that receives each input of a session before it is handled."""

    def __init__(self, path: Path, session: Session) -> None:
        self._file = path.open("wb")
        first = {"record": _VERSION, **msgspec.structs.asdict(session)}
        self._write({**first, "market": session.market.text})

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


def replay(path: Path) -> Iterator[dict[str, Any]]:
    """Pass a recorded session to a new engine, and yield each plan as JSON values.

    A truncated last line, as after ``kill -9``, ends the replay.

    Raises:
        FileError: the file cannot be read, or a line is invalid.
    """
    try:
        first, *lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise FileError(f"cannot read the record {path}: {error}") from None
    except ValueError:
        raise FileError(f"cannot read the record {path}: the file is empty") from None
    number = 1
    try:
        session = _session(first)
        engine = session.engine()
        for number, line in enumerate(lines, 2):  # noqa: B007 - for the message
            for decision in engine.handle(msgspec.json.decode(line, type=Input)):
                if isinstance(decision, Plan):
                    yield session.document(decision)
    except ValueError as error:
        raise FileError(f"{path}, line {number}: invalid record: {error}") from None


def _session(line: bytes) -> Session:
    found = msgspec.json.decode(line, type=dict[str, Any])
    version = found.pop("record", None)
    if version != _VERSION:
        raise ValueError(f"expected version {_VERSION} of a record, got {version!r}")
    market = Market.read(str(found.get("market")))
    return msgspec.convert({**found, "market": market}, Session)
