"""The bot's memory and its reactions: inputs in, decisions out. Pure.

The same inputs give the same decisions, so a recorded session can be replayed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, assert_never

import attrs
import msgspec

from liquidation_bot.decide import Limits, Plan, Reason, Skip, decide
from liquidation_bot.model import Position, Price, shown
from liquidation_bot.rules import Case, ChainState, rules_of
from liquidation_bot.rules.zest_v1 import StateV1
from liquidation_bot.rules.zest_v2 import StateV2

if TYPE_CHECKING:
    from liquidation_bot.market import Market

__all__ = [
    "CoolDown",
    "Decision",
    "Engine",
    "Input",
    "PositionsRead",
    "PricesSeen",
    "StateRead",
    "StateSource",
    "Tick",
]

Decision: TypeAlias = Plan | Skip

State: TypeAlias = StateV1 | StateV2
"""A protocol's state; a union with one struct for each protocol."""


class _Input(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """What the engine is told.

    Attributes:
        at: unix seconds.
    """

    at: int


class PositionsRead(_Input, frozen=True):
    """Positions that were just read; each of their borrowers is decided about."""

    positions: tuple[Position, ...]


class PricesSeen(_Input, frozen=True):
    """Prices; every holder of an asset whose price changed is decided about.

    Attributes:
        prices: in any order; old prices may be among them.
    """

    prices: tuple[Price, ...]


class StateRead(_Input, frozen=True):
    """The protocol's state on the chain; every borrower is decided about."""

    state: State


class Tick(_Input, frozen=True):
    """The passing of time; every borrower is decided about."""


class CoolDown(_Input, frozen=True):
    """What became of a plan: its borrower gets no other until a time, in unix seconds."""

    borrower: str
    until: int


Input: TypeAlias = PositionsRead | PricesSeen | StateRead | Tick | CoolDown


class StateSource(Protocol):
    """A source of the protocol's state."""

    @property
    def caveats(self) -> Sequence[str]:
        """What the state leaves out; repeated in every plan."""
        ...

    async def state(self, at: int) -> State:
        """Read the state.

        Raises:
            SourceError: it cannot be read now.
        """
        ...


class Engine:
    """The current positions and prices, and the decisions about them.

    Attributes:
        market: the protocol's parameters.
        rules: the protocol's rules in this market.
        limits: which liquidations are worth a plan.
        cool_down: seconds after a plan in which its borrower gets no other.
        positions: of every borrower that has debt, by address.
        prices: the newest published price of each asset.
        state: the protocol's state on the chain; None if it was never read.
        cool_downs: until when a borrower gets no other plan, in unix seconds.
        decisions: the last decision about each borrower.
        skipped: how often each reason was given.
        plans: how many plans were made.
    """

    def __init__(
        self,
        market: Market,
        limits: Limits,
        *,
        cool_down: int,
        cool_downs: Mapping[str, int] | None = None,
    ) -> None:
        self.market = market
        self.rules = rules_of(market)
        self.limits = limits
        self.cool_down = cool_down
        self.positions: dict[str, Position] = {}
        self.prices: dict[str, Price] = {}
        self.state: ChainState | None = None
        self.cool_downs = dict(cool_downs or {})
        self.decisions: dict[str, Decision] = {}
        self.skipped: Counter[Reason] = Counter()
        self.plans = 0

    def handle(self, given: Input) -> list[Decision]:
        """Apply an input, and return one decision for each borrower concerned."""
        match given:
            case PositionsRead(at, positions):
                return [self._read(position, at) for position in positions]
            case PricesSeen(at, prices):
                moved = {price.asset for price in prices if self._newer(price, at)}
                return self._look(self._holders(moved), at)
            case StateRead(at, state):
                self.state = state
                return self._look(self.positions.values(), at)
            case Tick(at):
                self.cool_downs = {
                    borrower: until
                    for borrower, until in self.cool_downs.items()
                    if until > at
                }
                return self._look(self.positions.values(), at)
            case CoolDown(_, borrower, until):
                self.cool_downs[borrower] = until
                return []
            case _:
                assert_never(given)

    def again(
        self,
        borrower: str,
        at: int,
        limits: Limits | None = None,
        wallet: Mapping[str, int] | None = None,
    ) -> Decision:
        """Decide about a borrower without regard to cool-downs; remember nothing."""
        position = self.positions.get(borrower) or Position(
            borrower=borrower, holdings=(), read_at=at
        )
        case = attrs.evolve(self.case(position, at), wallet=wallet or {})
        return decide(attrs.evolve(case, limits=limits or self.limits), self.rules)

    def case(self, position: Position, at: int) -> Case:
        """Return a position with what is known now."""
        return Case(
            position=position,
            prices=self.prices,
            limits=self.limits,
            now=at,
            state=self.state,
        )

    def prices_in_words(self, now: int | None = None) -> str:
        """Return the prices for people, in the registry's order.

        Args:
            now: unix seconds, to say also how old they are, and which are missing.
        """
        words: list[str] = []
        for reserve in self.market.reserves:
            price = self.prices.get(reserve.asset)
            if price is not None:
                age = "" if now is None else f" ({max(now - price.at, 0)} s old)"
                words.append(f"{reserve.symbol} {shown(price.price, 8)}{age}")
            elif now is not None:
                words.append(f"{reserve.symbol} none")
        return ", ".join(words)

    def rank(self, borrower: str) -> tuple[bool, int, str]:
        """Return what orders borrowers by their headroom; those without one are last."""
        decision = self.decisions.get(borrower)
        standing = None if decision is None else decision.standing
        return standing is None, 0 if standing is None else standing.headroom, borrower

    def nearest(self) -> list[str]:
        """Return the borrowers that were decided about, nearest to liquidation first."""
        return sorted(self.decisions, key=self.rank)

    def price_times(self) -> dict[str, int]:
        """Return when each known price was published, by symbol."""
        known = [each for each in self.market.reserves if each.asset in self.prices]
        return {each.symbol: self.prices[each.asset].at for each in known}

    def symbols_in_use(self) -> set[str]:
        """Return the symbols of the assets on whose price a known position depends."""
        used = {a for p in self.positions.values() for a in self.rules.price_assets(p)}
        return {each.symbol for each in self.market.reserves if each.asset in used}

    def _newer(self, price: Price, at: int) -> bool:
        """Store a price unless a newer one is known; return whether it is a change."""
        known = self.prices.get(price.asset)
        # A price whose time is in the future is replaced, or it would stay for ever.
        if known is not None and price.at < known.at <= at:
            return False
        self.prices[price.asset] = price
        return price != known

    def _holders(self, assets: set[str]) -> list[Position]:
        return [
            each
            for each in self.positions.values()
            if self.rules.price_assets(each) & assets
        ]

    def _read(self, position: Position, at: int) -> Decision:
        if position.has_debt:
            self.positions[position.borrower] = position
        else:
            self.positions.pop(position.borrower, None)
        decision = self._decide(position, at)
        if not position.has_debt:
            self.decisions.pop(position.borrower, None)
        return decision

    def _look(self, positions: Iterable[Position], at: int) -> list[Decision]:
        return [self._decide(position, at) for position in list(positions)]

    def _decide(self, position: Position, at: int) -> Decision:
        decision: Decision = decide(self.case(position, at), self.rules)
        if isinstance(decision, Plan):
            until = self.cool_downs.get(position.borrower, 0)
            if until > at:
                decision = Skip(
                    borrower=position.borrower,
                    reason=Reason.COOLING_DOWN,
                    detail=f"the last plan is recent, wait {until - at} s for another",
                    standing=decision.standing,
                )
            else:
                self.cool_downs[position.borrower] = at + self.cool_down
                self.plans += 1
        if isinstance(decision, Skip):
            self.skipped[decision.reason] += 1
        self.decisions[position.borrower] = decision
        return decision
