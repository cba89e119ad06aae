"""The decision about one borrower: a plan, or the reason against one. Pure.

What a protocol allows, and at which size, is asked from its rules.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from liquidation_bot.model import Position, shown
from liquidation_bot.rules import (
    LIQUIDATOR,
    Case,
    Limits,
    Offer,
    Quote,
    Reason,
    Refused,
    Rules,
    Standing,
)

if TYPE_CHECKING:
    from liquidation_bot.market import Market, Reserve

__all__ = ["Limits", "Plan", "Reason", "Skip", "canonical", "decide", "document"]


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
