"""The decision: a plan, or a reason not to have one. Pure: no clock, no I/O."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping

import attrs

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
    """Say why there is no plan."""

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


@attrs.frozen(kw_only=True)
class Limits:
    """Say which liquidations are worth a plan. Dollars have eight decimals.

    Attributes:
        min_profit: dollars that must be left after everything below.
        allow_unprofitable: plan also what loses money.
        transaction_fee: dollars that the call is expected to cost.
        slippage_bps: the part of what is seized that selling it may lose, in
            hundredths of a percent; also how much less the call may bring.
        wallet_cap: dollars that one call may pay; None for no cap.
        margin: how far below the threshold a health factor must be.
        clock_skew: seconds that a price's time may lie ahead.
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
    """Say that a borrower is left alone, and why.

    Attributes:
        borrower: the address.
        reason: the kind of reason, to count.
        detail: the same in words.
        health: the health factor, eight decimals; None where it cannot be known.
    """

    borrower: str
    reason: Reason
    detail: str
    health: int | None = None


@attrs.frozen(kw_only=True)
class Plan:
    """Hold one liquidation that is worth it. Dollars have eight decimals.

    Attributes:
        borrower: the address.
        made_at: unix seconds.
        health: the health factor.
        debt: the reserve that is paid.
        collateral: the reserve that is seized.
        requested: debt tokens that the call offers to pay.
        sizing: what it then moves.
        paid_usd: what is paid.
        gained_usd: what is gained, after slippage.
        profit_usd: ``gained_usd`` without ``paid_usd`` and the transaction's fee.
        least: collateral tokens that must leave the vault, else the call must fail.
        prices: of the two assets.
        position: what it was computed from.
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
        """Value the most that the call can take out of the wallet."""
        return usd(self.requested, self.debt.decimals, self.prices[0].price)


class _Refused(Exception):
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
        position: what the borrower has.
        prices: the newest price of each asset, by the token's contract.
        market: the protocol's parameters.
        limits: what is worth a plan.
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
    """A holding that matters, with its reserve and its price."""

    holding: Holding
    reserve: Reserve
    price: Price

    @property
    def counts(self) -> bool:
        return _counts(self.holding, self.reserve)


def _counts(holding: Holding, reserve: Reserve) -> bool:
    """Tell whether a holding is collateral."""
    return bool(holding.supplied and holding.as_collateral and reserve.collateral)


def _holdings(case: _Case) -> list[tuple[Holding, Reserve]]:
    """Give debts and collaterals; what is only supplied does not matter."""
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
                    f"the market file has no parameters of {reserve.symbol}",
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
            what = "no price" if price is None else "a price of 0"
            raise _Refused(Reason.NO_PRICE, f"there is {what} of {reserve.symbol}")
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
    age, most = case.now - price.at, case.market.max_price_age
    if age > most or age < -case.limits.clock_skew:
        when = f"{age} s old" if age >= 0 else f"{-age} s ahead of the clock"
        raise _Refused(
            Reason.STALE_PRICE, f"the price of {symbol} is {when}, {most} s are taken"
        )
    widest = case.market.max_confidence_bps * price.price
    if price.confidence is not None and price.confidence * 10_000 > widest:
        raise _Refused(
            Reason.WIDE_PRICE,
            f"the price of {symbol} is {shown(price.price, 8)} give or take "
            f"{shown(price.confidence, 8)}",
        )


def _check_health(case: _Case, factor: int) -> None:
    threshold = case.market.health_threshold
    if abs(factor - threshold) < case.limits.margin:
        raise _Refused(
            Reason.TOO_CLOSE, f"health {shown(factor, 8, 4)} is at the threshold"
        )
    if factor >= threshold:
        words = "owes next to nothing" if factor == MAX else shown(factor, 8, 4)
        raise _Refused(Reason.HEALTHY, f"health {words}")


def _plans(case: _Case, factor: int, priced: list[_Priced]) -> Iterator[Plan]:
    """Size every pair of a debt and a collateral."""
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
        close_factor=paying.close_factor,
        bonus=taking.bonus_in(case.position.e_mode),
        fee_bps=taking.fee_bps,
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
    most = liquidation_limit(owed, reserve.decimals, reserve.close_factor)
    if limits.wallet_cap is None:
        return most
    one = int(10**reserve.decimals)
    return min(most, limits.wallet_cap * one // debt.price.price)


def _best(plans: list[Plan], limits: Limits) -> Plan:
    """Choose the pair that earns most; the registry's order breaks a tie."""
    sized = [plan for plan in plans if plan.sizing.paid and plan.sizing.to_liquidator]
    if not sized:
        if limits.wallet_cap is not None and not any(plan.requested for plan in plans):
            raise _Refused(Reason.OVER_CAP, "the wallet's cap leaves nothing to pay")
        raise _Refused(Reason.TOO_SMALL, "rounds to nothing")
    best = max(sized, key=lambda plan: plan.profit_usd)
    if best.profit_usd < limits.min_profit and not limits.allow_unprofitable:
        raise _Refused(
            Reason.UNPROFITABLE,
            f"would earn {shown(best.profit_usd, 8, 2)} USD, "
            f"at least {shown(limits.min_profit, 8, 2)} are wanted",
        )
    return best
