"""Positions and prices from a file, or set by hand: for tests and for trying out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from liquidation_bot.model import Position, Price

__all__ = ["FixturePositions", "FixturePrices"]


class FixturePositions:
    """Give the positions that were set."""

    caveats: Sequence[str] = ("positions are invented",)

    def __init__(self, positions: Iterable[Position] = ()) -> None:
        self.by_borrower = {each.borrower: each for each in positions}

    async def borrowers(self, most: int) -> Sequence[str]:
        """Name those that have debt."""
        owing = [each.borrower for each in self.by_borrower.values() if each.has_debt]
        return owing[:most]

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

    caveats: Sequence[str] = ("prices are invented",)

    def __init__(self, prices: Iterable[Price] = ()) -> None:
        self.by_asset = {each.asset: each for each in prices}

    async def prices(self) -> Sequence[Price]:
        """Give them."""
        return list(self.by_asset.values())
