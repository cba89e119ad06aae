"""The decision about one borrower: a plan, or the reason against one. Pure.

What a protocol allows, and at which size, is asked from its rules.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from liquidation_bot.model import Position, Price, shown
from liquidation_bot.rules import (
    LIQUIDATOR,
    Case,
    ChainState,
    Offer,
    Quote,
    Reason,
    Refused,
    Rules,
    Standing,
)
from liquidation_bot.stacks import represent, serialize

if TYPE_CHECKING:
    from liquidation_bot.market import Market, Reserve

__all__ = ["Limits", "Plan", "Reason", "Skip", "canonical", "decide", "document"]

_ONE = 10**8


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which liquidations are worth a plan. Dollars have eight decimals.

    Attributes:
        min_profit: dollars that must be left after fee and slippage.
        allow_unprofitable: make plans that lose money, too.
        transaction_fee: dollars that the call is expected to cost.
        slippage_bps: the expected loss when the collateral is sold, in hundredths of a
            percent; also how much less collateral the call may yield.
        wallet_cap: dollars that one call may pay; None for no cap.
        margin: how far beyond the threshold a position must be; eight decimals of the
            health factor or of the LTV.
        clock_skew: seconds that the time of a price may be in the future.
        valid_for: seconds after which a plan is not executed any more.
    """

    min_profit: int = _ONE
    allow_unprofitable: bool = False
    transaction_fee: int = _ONE // 10
    slippage_bps: int = 100
    wallet_cap: int | None = None
    margin: int = _ONE // 1000
    clock_skew: int = 60
    valid_for: int = 300


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


def decide(
    position: Position,
    prices: Mapping[str, Price],
    rules: Rules,
    limits: Limits,
    *,
    now: int,
    state: ChainState | None = None,
    wallet: Mapping[str, int] | None = None,
) -> Plan | Skip:
    """Decide about one borrower.

    Args:
        position: of the borrower.
        prices: the newest published price of each asset, by the token's contract.
        rules: of the market's protocol.
        limits: which liquidations are worth a plan.
        now: unix seconds.
        state: the protocol's state on the chain; None if it was not read.
        wallet: amounts that the wallet has, by the token's contract; assets that are
            missing here are not limited.
    """
    case = Case(
        position=position,
        prices=prices,
        state=state,
        now=now,
        cap=limits.wallet_cap,
        wallet=wallet or {},
    )
    standing: Standing | None = None
    try:
        _check_position(position)
        standing = rules.standing(case)
        _check_standing(standing, now, limits)
        return _best(case, standing, rules, limits)
    except Refused as refused:
        return Skip(
            borrower=position.borrower,
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


def _check_standing(standing: Standing, now: int, limits: Limits) -> None:
    for quote in standing.quotes.values():
        _check_price(quote, now, limits)
    if abs(standing.headroom) < limits.margin:
        detail = f"{standing.text} is too close to the threshold"
        raise Refused(Reason.TOO_CLOSE, detail)
    if standing.headroom >= 0:
        raise Refused(Reason.HEALTHY, standing.text)


def _check_price(quote: Quote, now: int, limits: Limits) -> None:
    source, symbol = quote.source, quote.reserve.symbol
    if source is None:
        return
    age = now - source.at
    if age > quote.max_age or age < -limits.clock_skew:
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


def _best(case: Case, standing: Standing, rules: Rules, limits: Limits) -> Plan:
    """Return the most profitable plan; of equal ones, the first in registry order.

    Raises:
        Refused: no plan is worth it, or the contract would refuse every pair of a debt
            and a supply. Of several refusals, that which came nearest to a plan.
    """
    plans: list[Plan] = []
    refusals: list[Refused] = []
    for each in _offers(case, standing, rules):
        if isinstance(each, Offer):
            plans.append(_plan(case, standing, each, limits))
        else:
            refusals.append(each)
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


def _offers(case: Case, standing: Standing, rules: Rules) -> Iterator[Offer | Refused]:
    held = case.position.holdings
    for debt in (each for each in held if each.borrowed):
        for collateral in (each for each in held if each.supplied):
            try:
                yield rules.offer(case, standing, debt, collateral)
            except Refused as refused:
                yield refused


def _plan(case: Case, standing: Standing, offer: Offer, limits: Limits) -> Plan:
    kept = 10_000 - limits.slippage_bps
    gained = offer.collateral.usd(offer.received) * kept // 10_000
    paid = offer.debt.usd(offer.paid, up=True)
    quotes = standing.quotes.values()
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
        "call": _call(plan, rules, liquidator or LIQUIDATOR),
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


def _call(plan: Plan, rules: Rules, liquidator: str) -> dict[str, Any]:
    call = rules.call(plan, liquidator)
    return {
        "contract": call.contract,
        "function": call.function,
        "arguments": [
            {
                "name": name,
                "repr": represent(value),
                "hex": f"0x{serialize(value).hex()}",
            }
            for name, value in call.arguments
        ],
        "complete": call.complete,
        "signer_inserts": dict(call.inserts),
        "post_condition_mode": "deny",
        "post_conditions": list(call.conditions),
    }


def canonical(document: dict[str, Any]) -> str:
    """Return compact JSON, the form that is compared and hashed."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))
