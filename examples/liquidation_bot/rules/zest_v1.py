"""Zest Protocol V1: its arithmetic, its parameters, its refusals and its contract call.

All numbers are integers, rounded where and as the public contracts round (release of
2025-06-19), so the results equal theirs to the last digit. Amounts are in a token's
smallest unit; prices and percentages have eight decimals (``ONE`` is 1.00 USD, or
100 %). Clarity aborts if a product exceeds 2^128 - 1; these functions do not.

The order of refusals is that of ``pool-borrow`` and ``liquidation-manager-v2-1`` in the
public repository: a frozen reserve (the collateral's first), prices (u6001, u6003), no
collateral (u90001), healthy (u90000), not used as collateral (u90003), grace period of
the collateral (u90007, skipped for bad debt), no debt (u90008), liquidity of the
collateral's reserve (u90005). A reserve that is not active is refused like a frozen one:
older versions do, the newest public one does not.

Zest V2 liquidates on LTV instead of a health factor and has rules of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import attrs
import msgspec

from liquidation_bot.market import (
    BasisPoints,
    Contract,
    Contracts,
    Market,
    Percentage,
    Reserve,
    Seconds,
    Table,
    Token,
)
from liquidation_bot.model import Amount, Holding, Position, shown
from liquidation_bot.rules import (
    Case,
    ChainReader,
    ChainState,
    Offer,
    Quote,
    Reason,
    Refused,
    Standing,
    Watched,
    condition,
    contract_call,
    payment,
)
from liquidation_bot.stacks import (
    BURN_HEIGHT,
    Call,
    ClarityError,
    Principal,
    Some,
    Steps,
    UInt,
    Value,
    ask,
    represent,
)

if TYPE_CHECKING:
    from liquidation_bot.engine import Plan

ONE: Final = 10**8
"""1.00 dollar or 100 %: fixed point with eight decimals."""

MAX: Final = 2**128 - 1
"""The health factor without debt: Clarity's largest uint."""

_PLACES: Final = 8

# The borrower's z-tokens gain interest between reading and execution, and sums from
# events leave out all interest since the deposit. The contract never burns more than the
# borrower has, so a wide condition costs nobody anything, and a tight one makes the call
# fail: ten percent is some years of a supplier's interest.
_BURN_MARGIN_BPS: Final = 1_000

_FUNCTIONS: Final = (
    "supply",
    "borrow",
    "withdraw",
    "repay",
    "liquidation-call",
    "set-e-mode",
    "set-user-use-reserve-as-collateral",
)
_BY_OTHERS: Final = frozenset({"repay", "liquidation-call"})

_NO_E_MODE: Final = bytes(1)

Sized: TypeAlias = tuple[int, int, int]
"""(amount in the smallest unit, decimals, price)"""


def _whole(*values: object) -> None:
    """Raise for what Clarity's uint cannot hold: floats, booleans, negative numbers."""
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool):
            kind = type(value).__name__
            raise TypeError(f"amounts and prices must be an int, got {kind} {value!r}")
        if value < 0:
            raise ValueError(f"amounts and prices must not be negative, got {value}")


def _ten(exponent: int) -> int:
    """Return ten to a power that is not negative."""
    return int(10**exponent)  # type checkers take the power of two ints for Any


def mul(x: int, y: int) -> int:
    """Multiply two numbers of eight decimals, rounded half up."""
    return (x * y + ONE // 2) // ONE


def div(x: int, y: int) -> int:
    """Divide two numbers of eight decimals, rounded half up."""
    return (x * ONE + y // 2) // y


def usd(amount: int, decimals: int, price: int) -> int:
    """Return the value of an amount at a price of one whole token, in dollars."""
    if decimals > _PLACES:
        return mul(amount // _ten(decimals - _PLACES), price)
    return mul(amount * _ten(_PLACES - decimals), price)


def mul_perc(amount: int, decimals: int, percentage: int) -> int:
    """Multiply a token amount by a percentage (or a price) with eight decimals."""
    if decimals > _PLACES:
        one = _ten(decimals)
        return (amount * percentage * _ten(decimals - _PLACES) + one // 2) // one
    shift = _ten(_PLACES - decimals)
    return (amount * shift * percentage + ONE // 2) // ONE // shift


def div_perc(amount: int, decimals: int, percentage: int) -> int:
    """Divide a token amount by a percentage (or a price) with eight decimals."""
    if decimals > _PLACES:
        by = percentage * _ten(decimals - _PLACES)
        return (amount * _ten(decimals) + by // 2) // by
    shift = _ten(_PLACES - decimals)
    return (amount * shift * ONE + percentage // 2) // percentage // shift


def y_from_x(x: int, dx: int, dy: int, px: int, py: int) -> int:
    """Convert an amount of token x to an amount of token y of the same value.

    ``dx`` and ``dy`` are the decimals of the tokens, ``px`` and ``py`` their prices.
    """
    if dx > dy:
        return div_perc(mul_perc(x, dx, px), dx, py) // _ten(dx - dy)
    return div_perc(mul_perc(x * _ten(dy - dx), dy, px), dy, py)


def health_factor(
    collaterals: Iterable[tuple[Sized, int]], debts: Iterable[Sized]
) -> int:
    """Return a borrower's health factor; below the threshold it can be liquidated.

    It is ``MAX`` without debt, and 0 without collateral. Each collateral has its
    liquidation threshold, that of the borrower's e-mode; debts include interest.
    """
    total = weighted = owed = 0
    for collateral, threshold in collaterals:
        _whole(*collateral, threshold)
        value = usd(*collateral)
        total += value
        weighted += mul(value, threshold)
    for debt in debts:
        _whole(*debt)
        owed += usd(*debt)
    if owed == 0:
        return MAX
    average = div(weighted, total) if total else 0
    return div(mul(total, average), owed)


@attrs.frozen
class Sizing:
    """The amounts of one liquidation, in the smallest units of its two tokens.

    Attributes:
        paid: debt tokens that the liquidator pays.
        seized: collateral tokens that the borrower loses.
        bonus: the part of ``seized`` that exceeds the value of ``paid``.
        fee: the part of ``bonus`` that the protocol keeps.
        to_liquidator: ``seized`` less ``fee``.
    """

    paid: int
    seized: int
    bonus: int
    fee: int
    to_liquidator: int


def size_liquidation(
    debt: Sized,
    collateral: Sized,
    *,
    close_factor: int,
    bonus: int,
    fee_bps: int,
    requested: int,
) -> Sizing:
    """Return the amounts of a liquidation, computed as the contract does.

    The close factor is that of the debt asset; bonus and fee are of the collateral.

    Raises:
        ValueError: a price is 0, or a number is out of its range.
        TypeError: a number is not an int.
    """
    _whole(*debt, *collateral, close_factor, bonus, fee_bps, requested)
    (owed, dd, pd), (have, dc, pc) = debt, collateral
    if not pd or not pc:
        raise ValueError("prices must be positive: the contract divides by them")
    if fee_bps > 10_000:
        raise ValueError(f"fee_bps must be at most 10000 (100 %), got {fee_bps}")
    paid = min(requested, mul_perc(owed, dd, close_factor))
    base = y_from_x(paid, dd, dc, pd, pc)
    seized = mul_perc(base, dc, ONE + bonus)
    extra = seized - base
    if seized > have:
        seized, inverse = have, div(ONE, ONE + bonus)
        paid = mul_perc(y_from_x(have, dc, dd, pc, pd), dd, inverse)
        extra = mul_perc(have, dc, ONE - inverse)
    fee = fee_bps * extra // 10_000
    return Sizing(paid, seized, extra, fee, seized - fee)


class _Pricing(Table, frozen=True, tag=str.lower, tag_field="kind"):
    """How an oracle's contract computes a price."""


class Pyth(_Pricing, frozen=True):
    """An oracle whose price is the published price of the asset itself."""


class Fixed(_Pricing, frozen=True):
    """An oracle that returns a constant, as those of several stablecoins do.

    Attributes:
        price: dollars of one whole token.
    """

    price: Percentage

    def __post_init__(self) -> None:
        """Check that the price is positive."""
        if self.price == 0:
            raise ValueError("price must be positive: the contracts divide by it")


class Ratio(_Pricing, frozen=True):
    """An oracle that multiplies the price of another asset, as that of stSTX does.

    Attributes:
        base: the symbol of the other asset, whose oracle is of the kind ``pyth``.
        ratio: base tokens of one token; None if it changes and is read from the chain.
    """

    base: str
    ratio: Percentage | None = None


class ReserveV1(Reserve, frozen=True, kw_only=True):
    """One reserve of the market.

    A call must name every reserve, so a reserve is listed even if its parameters are
    not known. Nothing is decided about debts in a reserve without ``close_factor``, nor
    about collateral in one without ``threshold``, ``bonus`` and ``fee_bps``.

    Attributes:
        z_token: the contract of the supplier's token.
        z_moves: the token that is burnt when collateral is seized.
        oracle: the price oracle's contract.
        pricing: how that contract computes the price.
        threshold: the liquidation threshold.
        bonus: the liquidation bonus.
        close_factor: the part of a debt that one call may pay.
        fee_bps: the protocol's part of the bonus, in hundredths of a percent.
        collateral: whether the asset can be collateral.
        e_mode: the e-mode that the asset belongs to; 0 without one.
        e_mode_threshold: the threshold in that e-mode.
        e_mode_bonus: the bonus in that e-mode.
    """

    z_token: Contract
    z_moves: Token
    oracle: Contract
    pricing: Pyth | Fixed | Ratio = Pyth()
    threshold: Percentage | None = None
    bonus: Percentage | None = None
    close_factor: Percentage | None = None
    fee_bps: BasisPoints | None = None
    collateral: bool = True
    e_mode: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0
    e_mode_threshold: Percentage = Percentage(0)
    e_mode_bonus: Percentage = Percentage(0)

    def __post_init__(self) -> None:
        """Check the contracts, and that no parameter of collateral is missing."""
        super().__post_init__()
        names = ("threshold", "bonus", "fee_bps")
        missing = [name for name in names if getattr(self, name) is None]
        if missing and len(missing) < len(names):
            raise ValueError(f"{missing[0]} is missing: set {', '.join(names)} or none")
        if self.e_mode and not self.e_mode_threshold:
            raise ValueError(
                "e_mode_threshold is missing: reserves with an e_mode need it"
            )

    @property
    def payable(self) -> bool:
        """Whether the parameters of debts are known."""
        return self.close_factor is not None

    @property
    def seizable(self) -> bool:
        """Whether the parameters of collateral are known."""
        return self.threshold is not None

    def counts(self, holding: Holding) -> bool:
        """Return whether a holding in this reserve is collateral."""
        return bool(holding.supplied and holding.as_collateral and self.collateral)

    def threshold_in(self, e_mode: int) -> int:
        """Return the threshold for a borrower in that e-mode."""
        return self.e_mode_threshold if self._covers(e_mode) else self.threshold or 0

    def bonus_in(self, e_mode: int) -> int:
        """Return the bonus for a borrower in that e-mode."""
        return self.e_mode_bonus if self._covers(e_mode) else self.bonus or 0

    def _covers(self, e_mode: int) -> bool:
        # Like get-e-mode-config, whatever became of the e-mode: disabling one only keeps
        # others from entering it.
        return e_mode != 0 and e_mode == self.e_mode


class Called(Table, frozen=True, kw_only=True):
    """The protocol's contracts.

    Attributes:
        liquidation: the contract that has ``liquidation-call``.
        watched: the contracts whose events report that a position changed.
        vault: the sender of the collateral that is seized.
    """

    liquidation: Contract
    watched: Contracts
    vault: Contract


class Parameters(Table, frozen=True, kw_only=True):
    """The protocol's limits.

    Attributes:
        health_threshold: a position with a lower health factor can be liquidated.
        max_price_age: the age in seconds from which the oracle refuses a price.
        max_confidence_bps: the confidence from which it does, in hundredths of a percent.
        message_fee: the most micro-STX that a price message in the call costs.
    """

    health_threshold: Percentage
    max_price_age: Seconds
    max_confidence_bps: BasisPoints
    message_fee: Amount


class MarketV1(Market, frozen=True, kw_only=True):
    """A market of Zest V1.

    Attributes:
        contracts: the protocol's contracts.
        rules: the protocol's limits.
    """

    reserves: Annotated[tuple[ReserveV1, ...], msgspec.Meta(min_length=1)]
    contracts: Called
    rules: Parameters

    def __post_init__(self) -> None:
        """Check the bases of ratios, too."""
        super().__post_init__()
        pyth = {each.symbol for each in self.reserves if isinstance(each.pricing, Pyth)}
        for each in self.reserves:
            if isinstance(each.pricing, Ratio) and each.pricing.base not in pyth:
                raise ValueError(
                    f"base of {each.symbol} must be the symbol of a reserve whose "
                    f"pricing is of the kind 'pyth', got {each.pricing.base!r}"
                )


class ReserveState(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """What a reserve allows now.

    Attributes:
        liquidity: tokens that can leave the reserve; None if not known.
        active: whether the reserve is active.
        frozen: whether it is frozen.
        grace: whether its grace period after a freeze has not ended.
    """

    liquidity: Amount | None = None
    active: bool = True
    frozen: bool = False
    grace: bool = False


class StateV1(
    ChainState, frozen=True, kw_only=True, tag="zest-v1", tag_field="protocol"
):
    """The state of Zest V1.

    Attributes:
        reserves: by the token's contract; a missing one allows everything.
        ratios: base tokens of one token, eight decimals, by the token's contract.
    """

    reserves: dict[str, ReserveState] = msgspec.field(default_factory=dict)
    ratios: dict[str, Amount] = msgspec.field(default_factory=dict)


class ZestV1:
    """The rules of Zest V1 in one market."""

    def __init__(self, market: MarketV1) -> None:
        self._market = market
        self._reserves = {each.asset: each for each in market.reserves}
        self._symbols = {each.symbol: each for each in market.reserves}

    @property
    def watched(self) -> Watched:
        """The helper contracts' functions that change a position."""
        return Watched(self._market.contracts.watched, _FUNCTIONS, _BY_OTHERS)

    def price_assets(self, position: Position) -> set[str]:
        """Return the assets whose published prices the position depends on."""
        found = set[str]()
        for asset in position.assets:
            reserve = self._reserves.get(asset)
            pricing = reserve.pricing if reserve is not None else Pyth()
            if isinstance(pricing, Ratio):
                found.add(self._symbols[pricing.base].asset)
            elif isinstance(pricing, Pyth):
                found.add(asset)
        return found

    def standing(self, case: Case) -> Standing:
        """Return the health factor and its distance to the threshold."""
        quotes = self._quotes(case)
        health = health_factor(
            self._collaterals(case, quotes), self._debts(case, quotes)
        )
        return Standing(
            value=health,
            text=f"health {shown(health, 8, 4)}" if health < MAX else "debt worth 0",
            headroom=health - self._market.rules.health_threshold,
            facts={"health": shown(health, 8)},
            quotes=quotes,
        )

    def offer(
        self, case: Case, standing: Standing, debt: Holding, collateral: Holding
    ) -> Offer:
        """Return the liquidation of a pair, if no gate of the contract is closed."""
        paying, taking = (self._reserves[each.asset] for each in (debt, collateral))
        known = _state(case).reserves
        for reserve in (taking, paying):
            found = known.get(reserve.asset, ReserveState())
            if found.frozen or not found.active:
                why = "is frozen" if found.active else "is not active"
                detail = f"the reserve of {reserve.symbol} {why}"
                raise Refused(Reason.PAUSED, detail)
        if not taking.counts(collateral):
            detail = f"{taking.symbol} is not used as collateral"
            raise Refused(Reason.NO_COLLATERAL, detail)
        allowed = known.get(taking.asset, ReserveState())
        if allowed.grace and not self._is_bad_debt(case, standing.quotes):
            detail = f"{taking.symbol} is in its grace period after a freeze"
            raise Refused(Reason.GRACE, detail)
        pays, takes = standing.quotes[debt.asset], standing.quotes[collateral.asset]
        factor = paying.close_factor or 0
        limit = mul_perc(debt.borrowed, paying.decimals, factor)

        def size(supplied: int, requested: int) -> Sizing:
            return size_liquidation(
                (debt.borrowed, paying.decimals, pays.price),
                (supplied, taking.decimals, takes.price),
                close_factor=factor,
                bonus=taking.bonus_in(case.position.e_mode),
                fee_bps=taking.fee_bps or 0,
                requested=requested,
            )

        requested = case.affordable(pays, limit)
        sizing = size(collateral.supplied, requested)
        liquidity = allowed.liquidity
        if liquidity is not None and liquidity < sizing.seized:
            paid = min(size(liquidity, requested).paid, requested)
            requested = max(paid - paid // 10**7 - 1, 0)  # more than all roundings
            sizing = size(collateral.supplied, requested)
            if not sizing.paid or liquidity < sizing.seized:
                has = f"{shown(liquidity, taking.decimals)} {taking.symbol}"
                raise Refused(Reason.ILLIQUID, f"the reserve has {has}")
        if not sizing.paid or not sizing.to_liquidator:
            raise Refused(Reason.TOO_SMALL, "the amounts round to 0")
        return Offer(
            debt=pays,
            collateral=takes,
            requested=requested,
            paid=sizing.paid,
            seized=sizing.seized,
            received=sizing.to_liquidator,
            facts={"bonus": str(sizing.bonus), "fee": str(sizing.fee)},
        )

    def call(self, plan: Plan, liquidator: str) -> dict[str, Any]:
        """Return the call of ``liquidation-call`` with its ten arguments.

        The function has no argument for the minimum of collateral: a post-condition in
        deny mode is the only guard against slippage.
        """
        market, offer = self._market, plan.offer
        fee, max_age = market.rules.message_fee, market.rules.max_price_age
        paying, taking = (
            self._reserves[each.asset] for each in (plan.debt, plan.collateral)
        )
        supplied = next(
            each.supplied
            for each in plan.position.holdings
            if each.asset == taking.asset
        )
        burnt = supplied + supplied * _BURN_MARGIN_BPS // 10_000 + 1
        # If the collateral is the limit, rounding may make the payment larger.
        most = max(offer.requested, offer.paid)
        reserves: list[Value] = [
            {
                "asset": Principal(each.asset),
                "lp-token": Principal(each.z_token),
                "oracle": Principal(each.oracle),
            }
            for each in market.reserves
        ]
        return contract_call(
            market.contracts.liquidation,
            "liquidation-call",
            [
                ("assets", reserves),
                ("collateral-lp", Principal(taking.z_token)),
                ("collateral-to-liquidate", Principal(taking.asset)),
                ("debt-asset", Principal(paying.asset)),
                ("collateral-oracle", Principal(taking.oracle)),
                ("debt-oracle", Principal(paying.oracle)),
                ("liquidated-user", Principal(plan.borrower)),
                ("debt-amount", UInt(offer.requested)),
                ("to-receive-atoken", False),
                ("price-feed-bytes", None),
            ],
            conditions=[
                *payment(liquidator, plan.debt, most, fee),
                condition(market.contracts.vault, taking.moves, "gte", plan.least),
                condition(plan.borrower, taking.z_moves, "lte", burnt),
            ],
            inserts={
                "price-feed-bytes": "none relies on the prices on the chain, which must "
                f"be less than {max_age} s old; a Pyth message with new prices, as (some "
                "bytes), costs the sender its fee: the post-conditions allow "
                f"{fee} micro-STX"
            },
            complete=True,
        )

    def _quotes(self, case: Case) -> dict[str, Quote]:
        """Return the prices that the contract reads, if the position can be valued.

        It reads those of debts and of what the borrower uses as collateral, also where
        the reserve is none; not those of what is only supplied.
        """
        read: list[ReserveV1] = []
        seizable = False
        for each in case.position.holdings:
            reserve = self._reserves.get(each.asset)
            if reserve is None:
                detail = f"the market file has no reserve {each.asset}"
                raise Refused(Reason.UNKNOWN_ASSET, detail)
            debt, counts = bool(each.borrowed), reserve.counts(each)
            if debt > reserve.payable or counts > reserve.seizable:
                detail = f"the market file lacks parameters of {reserve.symbol}"
                raise Refused(Reason.UNKNOWN_ASSET, detail)
            seizable |= counts
            if debt or (each.supplied and each.as_collateral):
                read.append(reserve)
        if not seizable:
            raise Refused(Reason.NO_COLLATERAL, "has nothing that could be seized")
        return {each.asset: self._quote(case, each) for each in read}

    def _collaterals(
        self, case: Case, quotes: Mapping[str, Quote]
    ) -> list[tuple[Sized, int]]:
        """Return what counts as collateral, and its liquidation threshold."""
        return [
            (
                (each.supplied, reserve.decimals, quotes[each.asset].price),
                reserve.threshold_in(case.position.e_mode),
            )
            for each in case.position.holdings
            if (reserve := self._reserves[each.asset]).counts(each)
        ]

    def _debts(self, case: Case, quotes: Mapping[str, Quote]) -> list[Sized]:
        return [
            (
                each.borrowed,
                self._reserves[each.asset].decimals,
                quotes[each.asset].price,
            )
            for each in case.position.holdings
            if each.borrowed
        ]

    def _is_bad_debt(self, case: Case, quotes: Mapping[str, Quote]) -> bool:
        """Return whether all collateral is worth less than the debts."""
        total = sum(usd(*each) for each, _ in self._collaterals(case, quotes))
        return sum(usd(*each) for each in self._debts(case, quotes)) > total

    def _quote(self, case: Case, reserve: ReserveV1) -> Quote:
        """Return the price that the reserve's oracle contract would return."""
        pricing, rules = reserve.pricing, self._market.rules
        base, ratio = reserve, ONE
        if isinstance(pricing, Fixed):
            return Quote(reserve=reserve, price=pricing.price, source=None)
        if isinstance(pricing, Ratio):
            base, ratio = self._symbols[pricing.base], _ratio(case, reserve, pricing)
        source = case.prices.get(base.asset)
        if source is None:
            raise Refused(Reason.NO_PRICE, f"no price of {base.symbol}")
        if (price := source.price * ratio // ONE) == 0:
            raise Refused(Reason.NO_PRICE, f"{reserve.symbol} costs 0")
        # The oracle refuses unless div(confidence, price) is less than its limit.
        widest = rules.max_confidence_bps * 10_000 * source.price - source.price // 2
        return Quote(
            reserve=reserve,
            price=price,
            source=source,
            max_age=rules.max_price_age - 1,
            max_confidence=(widest - 1) // ONE,
        )


def _state(case: Case) -> StateV1:
    """Return what is known of the state; a state that was not read allows everything."""
    return case.state if isinstance(case.state, StateV1) else StateV1()


def _ratio(case: Case, reserve: ReserveV1, pricing: Ratio) -> int:
    ratio = _state(case).ratios.get(reserve.asset, pricing.ratio)
    if ratio is None:
        detail = (
            f"no ratio of {reserve.symbol} to {pricing.base}: it is read from a node"
        )
        raise Refused(Reason.NO_PRICE, detail)
    return ratio


class _Listed(msgspec.Struct, rename="kebab"):
    assets_supplied: tuple[str, ...]
    assets_borrowed: tuple[str, ...]


class _InReserve(msgspec.Struct, rename="kebab"):
    principal_borrow_balance: int
    use_as_collateral: bool


class _Owed(msgspec.Struct, rename="kebab"):
    compounded_balance: int


class _Flags(msgspec.Struct, rename="kebab"):
    oracle: str
    accrued_to_treasury: int
    is_active: bool
    is_frozen: bool


class ReaderV1(ChainReader):
    """What is read from Zest V1's contracts; the functions are those of the public ones.

    Nothing more is read of somebody without a debt, no balance of what is not used as
    collateral, no e-mode if no asset in the position has one.

    ``[node]`` in the market file names the contracts ``data`` and ``reader``, for
    markets with e-modes ``e_mode`` and ``e_mode_bonus``, and ``grace``, if the grace
    periods after a freeze shall be known.
    """

    def __init__(self, market: MarketV1) -> None:
        self._market = market
        self._data, self._reader = market.role("data"), market.role("reader")
        self._reserves = {each.asset: each for each in market.reserves}
        self._symbols = {each.symbol: each for each in market.reserves}

    def position(self, borrower: str, at: int) -> Steps[Position]:
        """Return a position with interest, if the address owes anything."""
        who, holdings, e_mode = Principal(borrower), list[Holding](), 0
        (listed,) = yield [
            Call(self._data, "get-user-assets-read", (who,), _Listed | None)
        ]
        if listed is not None and listed.assets_borrowed:
            assets = sorted({*listed.assets_supplied, *listed.assets_borrowed})
            holdings = yield from self._holdings(who, assets)
            e_mode = yield from self._e_mode(who, holdings)
        held = tuple(holdings)
        return Position(borrower=borrower, holdings=held, read_at=at, e_mode=e_mode)

    def _holdings(self, who: Principal, assets: Sequence[str]) -> Steps[list[Holding]]:
        said = yield from _each(
            assets, self._data, "get-user-reserve-data-read", _InReserve | None, who
        )
        known = {asset: data for asset, data in said.items() if data is not None}
        owing = [
            asset for asset, data in known.items() if data.principal_borrow_balance
        ]
        debts = yield from _each(
            owing, self._reader, "get-user-borrow-balance", _Owed, who
        )
        owed = {asset: debt.compounded_balance for asset, debt in debts.items()}
        supplied: dict[str, int] = yield from ask(
            {
                asset: Call(self._reserves[asset].z_token, "get-balance", (who,), int)
                for asset, data in known.items()
                if data.use_as_collateral and asset in self._reserves
            }
        )
        return [
            Holding(
                asset=asset,
                supplied=supplied.get(asset, 0),
                borrowed=owed.get(asset, 0),
                as_collateral=data.use_as_collateral,
            )
            for asset, data in known.items()
            if data.use_as_collateral or owed.get(asset)
        ]

    def _e_mode(self, who: Principal, holdings: Sequence[Holding]) -> Steps[int]:
        contract = self._market.node.get("e_mode")
        reserves = [self._reserves.get(each.asset) for each in holdings]
        if contract is None or not any(each and each.e_mode for each in reserves):
            return 0
        (mode,) = yield [Call(contract, "get-user-e-mode-read", (who,))]
        match mode:
            case None:
                return 0
            case Some(bytes(flag)) if len(flag) == 1:
                return flag[0]
            case _:
                raise ClarityError(f"e-mode must be one byte, got {mode!r}")

    def state(self, at: int) -> Steps[StateV1]:
        """Return what each reserve allows, and the ratios in prices."""
        del at  # the contracts have no times but heights
        flags = yield from _each(
            self._reserves, self._data, "get-reserve-state-read", _Flags
        )
        vault = Principal(self._market.contracts.vault)
        held: dict[str, int] = yield from ask(
            {
                asset: Call(asset, "get-balance", (vault,), int)
                for asset, reserve in self._reserves.items()
                if reserve.seizable
            }
        )
        # The pool does not pay out what it owes to the treasury.
        liquidity = {
            asset: max(has - flags[asset].accrued_to_treasury, 0)
            for asset, has in held.items()
        }
        graces = yield from self._graces(list(held))
        ratios = yield from self._ratios(flags)
        return StateV1(
            reserves={
                asset: ReserveState(
                    liquidity=liquidity.get(asset),
                    active=each.is_active,
                    frozen=each.is_frozen,
                    grace=asset in graces,
                )
                for asset, each in flags.items()
            },
            ratios=ratios,
        )

    def _ratios(self, flags: Mapping[str, _Flags]) -> Steps[dict[str, int]]:
        bases = {
            asset: self._symbols[each.pricing.base].asset
            for asset, each in self._reserves.items()
            if isinstance(each.pricing, Ratio) and each.pricing.ratio is None
        }
        price: dict[tuple[str, str], int] = yield from ask(
            {
                (asset, each): Call(
                    flags[asset].oracle, "get-price", (Principal(each),), int
                )
                for asset, base in bases.items()
                for each in (asset, base)
            }
        )
        # The oracle truncates price * ratio; the ratio has six decimals.
        return {
            asset: -(-price[asset, asset] * 10**6 // max(price[asset, base], 1)) * 100
            for asset, base in bases.items()
        }

    def _graces(self, assets: Collection[str]) -> Steps[set[str]]:
        """Return the assets whose grace period after a freeze has not ended."""
        if (contract := self._market.node.get("grace")) is None:
            return set()

        enabled = yield from _each(
            assets, contract, "get-grace-period-enabled-read", bool | None
        )
        # Without a setting the contract refuses every liquidation.
        assets = [each for each in assets if enabled[each] is not False]
        function = "get-freeze-end-block-read"
        ends = yield from _each(assets, contract, function, int | None)
        function = "get-grace-period-time-read"
        periods = yield from _each(assets, contract, function, int | None)
        timed = [each for each in assets if None not in (ends[each], periods[each])]
        (height,) = (yield [BURN_HEIGHT]) if timed else (0,)
        return {
            each
            for each in assets
            if each not in timed or height - ends[each] <= periods[each]
        }

    def differences(self) -> Steps[list[tuple[str, str, str | None]]]:
        """Compare everything but token names and watched contracts."""
        found: list[tuple[str, str, str | None]] = []
        checks = list(self._checks())
        answers = yield from ask({call: call for _, call, _, _ in checks})
        for what, call, key, expected in checks:
            answer = answers[call]
            answer = answer.value if isinstance(answer, Some) else answer
            if key:
                answer = answer.get(key) if isinstance(answer, Mapping) else None
            if answer != expected and (answer is not None or expected != _NO_E_MODE):
                filed = None if expected is None else represent(expected)
                place = f"{what} {key or call.function}"
                found.append((place, represent(answer), filed))
        return found

    def _checks(self) -> Iterator[tuple[str, Call, str, Value]]:
        """Yield a place, a call, a key of its value ("" for all), and what it should be."""
        market, data = self._market, self._data

        def check(
            what: str, contract: str, name: str, expected: Value, *arguments: Value
        ) -> tuple[str, Call, str, Value]:
            name, _, key = name.partition(" ")
            call = Call(contract, f"get-{name}", arguments, may_fail=True)
            return what, call, key, expected

        threshold = UInt(market.rules.health_threshold)
        assets = tuple(Principal(each.asset) for each in market.reserves)
        limit = "health-factor-liquidation-threshold-read"
        vault, modes = Principal(market.contracts.vault), market.node.get("e_mode")
        yield check("the market", data, "assets-read", assets)
        yield check("the market", data, limit, threshold)
        yield check("the market", data, "reserve-vault-read", vault)
        for each in market.reserves:
            what, asset = each.symbol, Principal(each.asset)
            said: Mapping[str, Value] = {
                "reserve-state-read decimals": UInt(each.decimals),
                "reserve-state-read oracle": Principal(each.oracle),
                "reserve-state-read a-token-address": Principal(each.z_token),
                "reserve-state-read liquidation-threshold": _known(each.threshold),
                "reserve-state-read liquidation-bonus": _known(each.bonus),
                "reserve-state-read usage-as-collateral-enabled": each.collateral,
                "liquidation-close-factor-percent-read": _known(each.close_factor),
                "origination-fee-prc-read": _known(each.fee_bps),
            }
            for name, expected in said.items():
                yield check(what, data, name, expected, asset)
            if isinstance(each.pricing, Fixed):
                yield check(what, each.oracle, "price", UInt(each.pricing.price))
            flag = bytes([each.e_mode])
            if modes is not None:
                yield check(what, modes, "asset-e-mode-type-read", flag, asset)
            if modes is not None and each.e_mode:
                name = "e-mode-type-config-read liquidation-threshold"
                yield check(what, modes, name, UInt(each.e_mode_threshold), flag)
                name, other = (
                    "liquidation-bonus-e-mode-read",
                    market.role("e_mode_bonus"),
                )
                yield check(what, other, name, UInt(each.e_mode_bonus), asset)
        for oracle in {each.oracle for each in market.reserves if each.feed}:
            age = UInt(market.rules.max_price_age)
            yield check(oracle, oracle, "stale-price-threshold", age)


def _each(
    assets: Iterable[str], contract: str, function: str, kind: Any, *who: Principal
) -> Steps[dict[str, Any]]:
    """Call a function once for each asset."""
    return ask(
        {
            each: Call(contract, function, (*who, Principal(each)), kind)
            for each in assets
        }
    )


def _known(value: int | None) -> UInt | None:
    return None if value is None else UInt(value)


MARKET: Final = MarketV1
RULES: Final = ZestV1
READER: Final = ReaderV1
