"""The decision about a borrower, and the memory that it is made from. Pure.

What a protocol allows, and at which size, is asked from its rules. The same inputs give
the same decisions, so a recorded session can be replayed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, assert_never

import attrs
import msgspec

from liquidation_bot.model import Position, Price, shown
from liquidation_bot.rules import (
    LIQUIDATOR,
    Case,
    ChainState,
    Limits,
    Offer,
    Quote,
    Reason,
    Refused,
    Rules,
    Standing,
    rules_of,
)
from liquidation_bot.rules.zest_v1 import StateV1
from liquidation_bot.rules.zest_v2 import StateV2

if TYPE_CHECKING:
    from liquidation_bot.market import Market, Reserve

__all__ = [
    "CoolDown",
    "Decision",
    "Engine",
    "Input",
    "Limits",
    "Plan",
    "PositionsRead",
    "PricesSeen",
    "Reason",
    "Skip",
    "StateRead",
    "StateSource",
    "Tick",
    "canonical",
    "decide",
    "document",
]


@attrs.frozen(kw_only=True)
class Skip:
    """The decision not to make a plan.

    Attributes:
        borrower: the address.
        reason: the kind of reason, for counting.
        detail: the reason in words.
        standing: how near the position is to its liquidation; None if it is not known.
    """

    borrower: str
    reason: Reason
    detail: str
    standing: Standing | None = None


@attrs.frozen(kw_only=True)
class Plan:
    """A liquidation that is worth it. Dollars have eight decimals.

    Attributes:
        borrower: the address.
        made_at: unix seconds.
        valid_until: the last second at which it may be executed, in unix seconds: the
            contract accepts every price of the plan until then.
        standing: how near the position is to its liquidation.
        offer: the amounts that the call moves.
        gained_usd: the value of the collateral, after slippage.
        profit_usd: ``gained_usd`` less the payment and the transaction fee.
        least: collateral tokens that must leave the vault, or the call fails.
        position: the position that the plan was computed from.
    """

    borrower: str
    made_at: int
    valid_until: int
    standing: Standing
    offer: Offer
    gained_usd: int
    profit_usd: int
    least: int
    position: Position

    @property
    def debt(self) -> Reserve:
        """The reserve whose debt is paid."""
        return self.offer.debt.reserve

    @property
    def collateral(self) -> Reserve:
        """The reserve that is seized."""
        return self.offer.collateral.reserve

    @property
    def paid_usd(self) -> int:
        """The value of what the call pays."""
        return self.offer.debt.usd(self.offer.paid, up=True)

    @property
    def most_paid_usd(self) -> int:
        """The most dollars that the call can take out of the wallet."""
        return self.offer.debt.usd(self.offer.requested, up=True)


def decide(case: Case, rules: Rules) -> Plan | Skip:
    """Decide about the borrower of a case by the rules of the market's protocol."""
    standing: Standing | None = None
    try:
        _check_position(case.position)
        standing = rules.standing(case)
        _check_standing(standing, case)
        return _best(case, standing, rules)
    except Refused as refused:
        return Skip(
            borrower=case.position.borrower,
            reason=refused.reason,
            detail=refused.detail,
            standing=standing,
        )


def _check_position(position: Position) -> None:
    if not position.has_debt:
        raise Refused(Reason.NO_DEBT, "owes nothing")
    if len(position.assets) < len(position.holdings):
        detail = "an asset is twice in the position: its amounts are not known"
        raise Refused(Reason.UNKNOWN_ASSET, detail)


def _check_standing(standing: Standing, case: Case) -> None:
    for quote in standing.quotes.values():
        _check_price(quote, case)
    if abs(standing.headroom) < case.limits.margin:
        detail = f"{standing.text} is too close to the threshold"
        raise Refused(Reason.TOO_CLOSE, detail)
    if standing.headroom >= 0:
        raise Refused(Reason.HEALTHY, standing.text)


def _check_price(quote: Quote, case: Case) -> None:
    source, symbol = quote.source, quote.reserve.symbol
    if source is None:
        return
    age = case.now - source.at
    if age > quote.max_age or age < -case.limits.clock_skew:
        when = (
            f"{age} s old, at most {quote.max_age} s are allowed"
            if age >= 0
            else f"{-age} s in the future"
        )
        raise Refused(Reason.STALE_PRICE, f"the price of {symbol} is {when}")
    confidence, widest = source.confidence, quote.max_confidence
    if confidence is not None and widest is not None and confidence > widest:
        raise Refused(
            Reason.WIDE_PRICE,
            f"the price of {symbol} is {shown(source.price, 8)} ± "
            f"{shown(confidence, 8)}, at most {shown(widest, 8)} is allowed",
        )


def _best(case: Case, standing: Standing, rules: Rules) -> Plan:
    """Return the most profitable plan; of equal ones, the first in registry order.

    Raises:
        Refused: no plan is worth it, or the contract would refuse every pair of a debt
            and a supply. Of several refusals, that which came nearest to a plan.
    """
    plans, refusals, limits = list[Plan](), list[Refused](), case.limits
    for debt, collateral in itertools.product(case.position.holdings, repeat=2):
        if debt.borrowed and collateral.supplied:
            try:
                offer = rules.offer(case, standing, debt, collateral)
                plans.append(_plan(case, standing, offer))
            except Refused as refused:
                refusals.append(refused)
    if not plans:
        raise max(refusals, key=lambda refused: list(Reason).index(refused.reason))
    best = max(plans, key=lambda plan: plan.profit_usd)
    if best.profit_usd < limits.min_profit and not limits.allow_unprofitable:
        raise Refused(
            Reason.UNPROFITABLE,
            f"the profit would be {shown(best.profit_usd, 8, 2)} USD, "
            f"at least {shown(limits.min_profit, 8, 2)} is required",
        )
    return best


def _plan(case: Case, standing: Standing, offer: Offer) -> Plan:
    limits, quotes = case.limits, standing.quotes.values()
    kept = 10_000 - limits.slippage_bps
    gained = offer.collateral.usd(offer.received) * kept // 10_000
    paid = offer.debt.usd(offer.paid, up=True)
    return Plan(
        borrower=case.position.borrower,
        made_at=case.now,
        valid_until=min(
            case.now + limits.valid_for,
            *(each.source.at + each.max_age for each in quotes if each.source),
        ),
        standing=standing,
        offer=offer,
        gained_usd=gained,
        profit_usd=gained - paid - limits.transaction_fee,
        least=offer.seized * kept // 10_000,
        position=case.position,
    )


def document(
    plan: Plan,
    market: Market,
    rules: Rules,
    *,
    caveats: Sequence[str],
    liquidator: str | None,
) -> dict[str, Any]:
    """Return a plan as JSON values, for a signer.

    Amounts are strings, because many JSON readers round large numbers. Each argument of
    the call has its name, its Clarity source (``repr``) and its consensus bytes
    (``hex``).

    Args:
        plan: the plan.
        market: its market.
        rules: of the market's protocol.
        caveats: what the sources leave out.
        liquidator: the address that will sign; None leaves a placeholder.

    Returns:
        ``id`` (a hash of everything else), ``call``, and the numbers behind the plan.
    """
    offer, debt, collateral = plan.offer, plan.debt, plan.collateral
    body: dict[str, Any] = {
        "what": "a plan: nothing was signed, nothing was sent",
        "made_at": plan.made_at,
        "valid_until": plan.valid_until,
        "borrower": plan.borrower,
        "market": {"name": market.name, "as_of": market.as_of.isoformat()},
        **plan.standing.facts,
        "pays": {
            "asset": debt.symbol,
            "amount": str(offer.paid),
            "shown": shown(offer.paid, debt.decimals),
        },
        "seizes": {
            "asset": collateral.symbol,
            "amount": str(offer.seized),
            **offer.facts,
            "to_liquidator": str(offer.received),
            "shown": shown(offer.received, collateral.decimals),
        },
        "usd": {
            "paid": shown(plan.paid_usd, 8),
            "gained_after_slippage": shown(plan.gained_usd, 8),
            "profit": shown(plan.profit_usd, 8),
        },
        "prices": [
            _price(quote, plan.made_at) for quote in plan.standing.quotes.values()
        ],
        "call": rules.call(plan, liquidator or LIQUIDATOR),
        "unverified": [*market.unverified, *caveats],
    }
    return {"id": hashlib.sha256(canonical(body).encode()).hexdigest()[:16], **body}


def _price(quote: Quote, now: int) -> dict[str, Any]:
    at = quote.source.at if quote.source else None
    confidence = quote.source.confidence if quote.source else None
    return {
        "asset": quote.reserve.symbol,
        "price": shown(quote.price, 8),
        "at": at,
        "age": None if at is None else now - at,
        "confidence": None if confidence is None else shown(confidence, 8),
    }


def canonical(document: dict[str, Any]) -> str:
    """Return compact JSON, the form that is compared and hashed."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


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
