"""The import path of the examples, and a small market for decisions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))


@pytest.fixture(scope="session")
def market():
    """Return the demonstration's market: stSTX, aeUSDC, sBTC."""
    from liquidation_bot import demo
    from liquidation_bot.market import Market

    return Market.load(demo.MARKET)


class World:
    """Build positions and prices in a few words."""

    now = 1_800_000_000
    files = EXAMPLES / "liquidation_bot" / "markets"
    alice = "SPAZ0AWR4XF9F2K6PB1YTESJY00Z1KAFHBC4S6AK"
    bob = "SP3VGRTTC0XNGZ2HNE3REXHC82VJYNGV66BEMBWB7"

    def __init__(self, market):
        from liquidation_bot.rules import rules_of

        self.market = market
        self.rules = rules_of(market)
        self.ststx, self.aeusdc, self.sbtc = (each.asset for each in market.reserves)

    def position(self, *holdings, who=None, e_mode=0):
        """Return a position of ``(asset, supplied, borrowed)`` or of holdings."""
        from liquidation_bot.model import Holding, Position

        made = [
            each
            if isinstance(each, Holding)
            else Holding(asset=each[0], supplied=each[1], borrowed=each[2])
            for each in holdings
        ]
        return Position(
            borrower=who or self.alice,
            holdings=tuple(made),
            read_at=self.now,
            e_mode=e_mode,
        )

    def case(self, position, prices, limits=None, **more):
        """Return a case of now."""
        from liquidation_bot.engine import Limits
        from liquidation_bot.rules import Case

        return Case(
            position=position,
            prices=prices,
            limits=limits or Limits(),
            now=self.now,
            **more,
        )

    def borrower(self, number):
        """Return one of 256 addresses."""
        from liquidation_bot.stacks import c32_encode

        return c32_encode(22, bytes([number]) * 20)

    def danger(self, who=None):
        """Return the position of the derived vectors: health 0.98 at 0.70."""
        return self.position(
            (self.ststx, 10_000_000_000, 0), (self.aeusdc, 0, 5_000_000_000), who=who
        )

    def price(self, asset, price, *, at=None, confidence=None):
        """Return a price with eight decimals."""
        from liquidation_bot.model import Price

        when = self.now if at is None else at
        return Price(asset=asset, price=price, at=when, confidence=confidence)

    def prices(self, ststx=70_000_000, aeusdc=100_000_000, sbtc=6 * 10**12, **more):
        """Return the three prices."""
        found = {self.ststx: ststx, self.aeusdc: aeusdc, self.sbtc: sbtc}
        return {
            asset: self.price(asset, price, **more) for asset, price in found.items()
        }


@pytest.fixture(scope="session")
def world(market):
    """Return a builder of positions and prices in the demonstration's market."""
    return World(market)
