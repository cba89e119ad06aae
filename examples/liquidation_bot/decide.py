"""The decision about one borrower: a plan, or the reason against one. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping

import attrs
import msgspec

from liquidation_bot.market import Market, Reserve
from liquidation_bot.model import Holding, Position, Price, shown
from liquidation_bot.zest import (
    MAX,
    ONE,
    Sizing,
    health_factor,
    liquidation_limit,
    size_liquidation,
    usd,
)

__all__ = ["Limits", "Plan", "Reason", "Skip", "decide"]


class Reason(enum.StrEnum):
    """The reasons against a plan."""

    NO_DEBT = "no debt"
    UNKNOWN_ASSET = "unknown asset"
    NO_COLLATERAL = "no collateral"
    NO_PRICE = "no price"
    STALE_PRICE = "stale price"
    WIDE_PRICE = "wide price"
    HEALTHY = "healthy"
    TOO_CLOSE = "too close to call"
    OVER_CAP = "wallet cap"
    TOO_SMALL = "too small"
    UNPROFITABLE = "unprofitable"
    COOLING_DOWN = "planned already"


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which liquidations are worth a plan. Dollars have eight decimals.

    Attributes:
        min_profit: dollars that must be left after fee and slippage.
        allow_unprofitable: make plans that lose money, too.
        transaction_fee: dollars that the call is expected to cost.
        slippage_bps: the expected loss when the collateral is sold, in hundredths of a
            percent; also how much less collateral the call may yield.
        wallet_cap: dollars that one call may pay; None for no cap.
        margin: how far below the threshold a health factor must be.
        clock_skew: seconds that the time of a price may be in the future.
    """

    min_profit: int = ONE
    allow_unprofitable: bool = False
    transaction_fee: int = ONE // 10
    slippage_bps: int = 100
    wallet_cap: int | None = None
    margin: int = ONE // 1000
    clock_skew: int = 60


@attrs.frozen(kw_only=True)
class Skip:
    """The decision not to make a plan.

    Attributes:
        borrower: the address.
        reason: the kind of reason, for counting.
        detail: the reason in words.
        health: the health factor, eight decimals; None if it is not known.
    """

    borrower: str
    reason: Reason
    detail: str
    health: int | None = None


@attrs.frozen(kw_only=True)
class Plan:
    """A liquidation that is worth it. Dollars have eight decimals.

    Attributes:
        borrower: the address.
        made_at: unix seconds.
        health: the health factor, eight decimals.
        debt: the reserve whose debt is paid.
        collateral: the reserve that is seized.
        requested: debt tokens that the call offers to pay.
        sizing: the amounts that the call moves.
        paid_usd: the value of the payment.
        gained_usd: the value of the collateral, after slippage.
        profit_usd: ``gained_usd`` less ``paid_usd`` and the transaction fee.
        least: collateral tokens that must leave the vault, or the call fails.
        prices: of debt and collateral.
        position: the position that the plan was computed from.
    """

    borrower: str
    made_at: int
    health: int
    debt: Reserve
    collateral: Reserve
    requested: int
    sizing: Sizing
    paid_usd: int
    gained_usd: int
    profit_usd: int
    least: int
    prices: tuple[Price, Price]
    position: Position

    @property
    def most_paid_usd(self) -> int:
        """The most dollars that the call can take out of the wallet."""
        return usd(self.requested, self.debt.decimals, self.prices[0].price)


class _Refused(Exception):
    """Ends a decision with a reason."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def decide(
    position: Position,
    prices: Mapping[str, Price],
    market: Market,
    limits: Limits,
    *,
    now: int,
) -> Plan | Skip:
    """Decide about one borrower.

    Args:
        position: of the borrower.
        prices: the newest price of each asset, by the token's contract.
        market: the protocol's parameters.
        limits: which liquidations are worth a plan.
        now: unix seconds.
    """
    case = _Case(position, market, limits, now)
    factor: int | None = None
    try:
        held = _holdings(case)
        priced = _priced(held, prices)
        factor = _health(case, priced)
        for each in priced:
            _check_price(case, each)
        _check_health(case, factor)
        return _best(list(_plans(case, factor, priced)), limits)
    except _Refused as refused:
        return Skip(
            borrower=position.borrower,
            reason=refused.reason,
            detail=refused.detail,
            health=factor,
        )


@attrs.frozen
class _Case:
    position: Position
    market: Market
    limits: Limits
    now: int


@attrs.frozen
class _Priced:
    """A debt or collateral with its reserve and its price."""

    holding: Holding
    reserve: Reserve
    price: Price

    @property
    def counts(self) -> bool:
        return _counts(self.holding, self.reserve)


def _counts(holding: Holding, reserve: Reserve) -> bool:
    """Return whether a holding is collateral."""
    return bool(holding.supplied and holding.as_collateral and reserve.collateral)


def _holdings(case: _Case) -> list[tuple[Holding, Reserve]]:
    """Return debts and collaterals, without what is only supplied."""
    if not case.position.has_debt:
        raise _Refused(Reason.NO_DEBT, "owes nothing")
    found: list[tuple[Holding, Reserve]] = []
    for holding in case.position.holdings:
        reserve = case.market.reserve(holding.asset)
        if reserve is None:
            raise _Refused(
                Reason.UNKNOWN_ASSET, f"the market file has no reserve {holding.asset}"
            )
        if holding.borrowed or _counts(holding, reserve):
            debt, seized = bool(holding.borrowed), _counts(holding, reserve)
            if debt > reserve.payable or seized > reserve.seizable:
                raise _Refused(
                    Reason.UNKNOWN_ASSET,
                    f"the market file lacks parameters of {reserve.symbol}",
                )
            found.append((holding, reserve))
    if not any(_counts(holding, reserve) for holding, reserve in found):
        raise _Refused(Reason.NO_COLLATERAL, "has nothing that could be seized")
    return found


def _priced(
    held: list[tuple[Holding, Reserve]], prices: Mapping[str, Price]
) -> list[_Priced]:
    found: list[_Priced] = []
    for holding, reserve in held:
        price = prices.get(holding.asset)
        if price is None or price.price == 0:
            symbol = reserve.symbol
            detail = f"no price of {symbol}" if price is None else f"{symbol} costs 0"
            raise _Refused(Reason.NO_PRICE, detail)
        found.append(_Priced(holding, reserve, price))
    return found


def _health(case: _Case, priced: list[_Priced]) -> int:
    return health_factor(
        [
            (
                each.holding.supplied,
                each.reserve.decimals,
                each.price.price,
                each.reserve.threshold_in(case.position.e_mode),
            )
            for each in priced
            if each.counts
        ],
        [
            (each.holding.borrowed, each.reserve.decimals, each.price.price)
            for each in priced
        ],
    )


def _check_price(case: _Case, priced: _Priced) -> None:
    price, symbol = priced.price, priced.reserve.symbol
    age, most = case.now - price.at, case.market.rules.max_price_age
    if age > most or age < -case.limits.clock_skew:
        when = (
            f"{age} s old, at most {most} s are allowed"
            if age >= 0
            else f"{-age} s in the future"
        )
        raise _Refused(Reason.STALE_PRICE, f"the price of {symbol} is {when}")
    widest = case.market.rules.max_confidence_bps * price.price
    if price.confidence is not None and price.confidence * 10_000 > widest:
        raise _Refused(
            Reason.WIDE_PRICE,
            f"the price of {symbol} is {shown(price.price, 8)} ± "
            f"{shown(price.confidence, 8)}",
        )


def _check_health(case: _Case, factor: int) -> None:
    threshold = case.market.rules.health_threshold
    if abs(factor - threshold) < case.limits.margin:
        raise _Refused(
            Reason.TOO_CLOSE,
            f"health {shown(factor, 8, 4)} is too close to the threshold",
        )
    if factor >= threshold:
        detail = f"health {shown(factor, 8, 4)}"
        if factor == MAX:
            detail = "the debt is worth less than the smallest fraction of a dollar"
        raise _Refused(Reason.HEALTHY, detail)


def _plans(case: _Case, factor: int, priced: list[_Priced]) -> Iterator[Plan]:
    """Yield the plan for each pair of a debt and a collateral."""
    for debt in priced:
        for seized in priced:
            if debt.holding.borrowed and seized.counts:
                yield _plan(case, factor, debt, seized)


def _plan(case: _Case, factor: int, debt: _Priced, seized: _Priced) -> Plan:
    limits, paying, taking = case.limits, debt.reserve, seized.reserve
    requested = _requested(debt, limits)
    sizing = size_liquidation(
        debt=debt.holding.borrowed,
        debt_decimals=paying.decimals,
        debt_price=debt.price.price,
        collateral=seized.holding.supplied,
        collateral_decimals=taking.decimals,
        collateral_price=seized.price.price,
        close_factor=paying.close_factor or 0,
        bonus=taking.bonus_in(case.position.e_mode),
        fee_bps=taking.fee_bps or 0,
        requested=requested,
    )
    kept = 10_000 - limits.slippage_bps
    paid = usd(sizing.paid, paying.decimals, debt.price.price)
    worth = usd(sizing.to_liquidator, taking.decimals, seized.price.price)
    gained = worth * kept // 10_000
    return Plan(
        borrower=case.position.borrower,
        made_at=case.now,
        health=factor,
        debt=paying,
        collateral=taking,
        requested=requested,
        sizing=sizing,
        paid_usd=paid,
        gained_usd=gained,
        profit_usd=gained - paid - limits.transaction_fee,
        least=sizing.seized * kept // 10_000,
        prices=(debt.price, seized.price),
        position=case.position,
    )


def _requested(debt: _Priced, limits: Limits) -> int:
    owed, reserve = debt.holding.borrowed, debt.reserve
    most = liquidation_limit(owed, reserve.decimals, reserve.close_factor or 0)
    if limits.wallet_cap is None:
        return most
    one = int(10**reserve.decimals)
    return min(most, limits.wallet_cap * one // debt.price.price)


def _best(plans: list[Plan], limits: Limits) -> Plan:
    """Return the most profitable plan; of equal ones, the first in registry order."""
    sized = [plan for plan in plans if plan.sizing.paid and plan.sizing.to_liquidator]
    if not sized:
        if limits.wallet_cap is not None and not any(plan.requested for plan in plans):
            raise _Refused(Reason.OVER_CAP, "the wallet cap leaves nothing to pay")
        raise _Refused(Reason.TOO_SMALL, "the amounts round to 0")
    best = max(sized, key=lambda plan: plan.profit_usd)
    if best.profit_usd < limits.min_profit and not limits.allow_unprofitable:
        raise _Refused(
            Reason.UNPROFITABLE,
            f"the profit would be {shown(best.profit_usd, 8, 2)} USD, "
            f"at least {shown(limits.min_profit, 8, 2)} is required",
        )
    return best
