"""Sessions as files: what the engine was given, to be given again.

One JSON object a line. The first one holds the market file, the limits and whatever
else decides; so a replay needs nothing but the record, and makes the same plans to the
last byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import attrs

from liquidation_bot.call import document
from liquidation_bot.decide import Limits, Plan
from liquidation_bot.engine import Engine, Input, PositionsRead, PricesSeen, Tick
from liquidation_bot.market import Market
from liquidation_bot.model import Holding, Position, Price

__all__ = [
    "RecordError",
    "Recorder",
    "Session",
    "position_from",
    "price_from",
    "replay",
]

_VERSION = 1


class RecordError(ValueError):
    """Refuse a file that is no record; the message names the line."""


@attrs.frozen(kw_only=True)
class Session:
    """Hold what decides, beside the inputs.

    Attributes:
        market: the market.
        limits: what is worth a plan.
        cool_down: seconds in which a borrower gets no second plan.
        cool_downs: those that were running at the start.
        caveats: what the sources leave out.
        liquidator: the address in post-conditions.
    """

    market: Market
    limits: Limits
    cool_down: int
    cool_downs: Mapping[str, int]
    caveats: Sequence[str]
    liquidator: str | None

    def engine(self) -> Engine:
        """Make an engine as it was at the start."""
        return Engine(
            self.market,
            self.limits,
            cool_down=self.cool_down,
            cool_downs=self.cool_downs,
        )

    def document(self, plan: Plan) -> dict[str, Any]:
        """Write a plan as JSON values."""
        return document(
            plan, self.market, caveats=self.caveats, liquidator=self.liquidator
        )


class Recorder:
    """Write a session to a file, each input before it is handled."""

    def __init__(self, path: Path, session: Session) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._write(
            {
                "record": _VERSION,
                "market": session.market.text,
                "limits": attrs.asdict(session.limits),
                "cool_down": session.cool_down,
                "cool_downs": dict(session.cool_downs),
                "caveats": list(session.caveats),
                "liquidator": session.liquidator,
            }
        )

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
        """Write one input."""
        self._write({type(given).__name__: attrs.asdict(given)})

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()


def replay(path: Path) -> Iterator[dict[str, Any]]:
    """Give a recorded session to a fresh engine; yield each plan as JSON values.

    A last line that was cut off, as after ``kill -9``, ends the replay.

    Raises:
        RecordError: the file cannot be read, or is no record.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"cannot read the record {path}: {error}") from None
    session: Session | None = None
    engine: Engine | None = None
    for number, line in enumerate(lines[:-1], 1):
        try:
            found = json.loads(line)
            if session is None or engine is None:
                session = _session(found)
                engine = session.engine()
                continue
            decisions = engine.handle(_input(found))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(f"{path}, line {number}, is no record: {error}") from None
        for decision in decisions:
            if isinstance(decision, Plan):
                yield session.document(decision)
    if session is None:
        raise RecordError(f"{path} is empty")


def _session(found: Any) -> Session:
    if not isinstance(found, dict) or cast("dict[str, Any]", found)["record"] != 1:
        raise ValueError("the first line is none of a record of this version")
    return Session(
        market=Market.read(found["market"]),
        limits=Limits(**found["limits"]),
        cool_down=found["cool_down"],
        cool_downs=found["cool_downs"],
        caveats=tuple(found["caveats"]),
        liquidator=found["liquidator"],
    )


def _input(found: dict[str, Any]) -> Input:
    [(kind, value)] = found.items()
    match kind:
        case "PositionsRead":
            positions = tuple(map(position_from, value["positions"]))
            return PositionsRead(value["at"], positions)
        case "PricesSeen":
            return PricesSeen(value["at"], tuple(map(price_from, value["prices"])))
        case "Tick":
            return Tick(value["at"])
        case _:
            raise ValueError(f"there is no input {kind!r}")


def position_from(value: Mapping[str, Any]) -> Position:
    """Read a position from JSON values.

    Raises:
        KeyError, TypeError: it is none.
    """
    fields: dict[str, Any] = dict(value)
    fields["holdings"] = tuple(Holding(**each) for each in value["holdings"])
    return Position(**fields)


def price_from(value: Mapping[str, Any]) -> Price:
    """Read a price from JSON values.

    Raises:
        TypeError: it is none.
    """
    return Price(**value)
