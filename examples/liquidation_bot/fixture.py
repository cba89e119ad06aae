"""Positions and prices from a file, or set by hand: for tests and for trying out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs

from liquidation_bot.model import FileError, Position, Price
from liquidation_bot.record import position_from, price_from

__all__ = ["FixturePositions", "FixturePrices"]

T = TypeVar("T")


class FixturePositions:
    """Give the positions that were set."""

    caveats: Sequence[str] = ("positions are out of a file, not from the chain",)

    def __init__(self, positions: Iterable[Position] = ()) -> None:
        self.by_borrower = {each.borrower: each for each in positions}

    @classmethod
    def load(cls, path: Path) -> FixturePositions:
        """Read a JSON list of positions, as a record of a session has them.

        Raises:
            FileError: it is none.
        """
        return cls(_load(path, position_from))

    async def positions(self, borrowers: Sequence[str], at: int) -> Sequence[Position]:
        """Give their positions, as if read now."""
        nothing = Position(borrower="", holdings=(), read_at=at)
        return [
            attrs.evolve(
                self.by_borrower.get(borrower, nothing), borrower=borrower, read_at=at
            )
            for borrower in borrowers
        ]


class FixturePrices:
    """Give the prices that were set."""

    caveats: Sequence[str] = ("prices are out of a file, not from an oracle",)

    def __init__(self, prices: Iterable[Price] = ()) -> None:
        self.by_asset = {each.asset: each for each in prices}

    @classmethod
    def load(cls, path: Path) -> FixturePrices:
        """Read a JSON list of prices, as a record of a session has them.

        Raises:
            FileError: it is none.
        """
        return cls(_load(path, price_from))

    async def prices(self) -> Sequence[Price]:
        """Give them."""
        return list(self.by_asset.values())


def _load(path: Path, read: Callable[[Any], T]) -> list[T]:
    try:
        return [read(each) for each in json.loads(path.read_bytes())]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"cannot read {path}: {error}") from None
