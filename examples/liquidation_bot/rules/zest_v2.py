"""Zest Protocol V2, by the public text of its market v0-8: values, sizes, refusals, call.

A position can be liquidated from a loan-to-value (LTV) on that its risk group sets. All
numbers are integers, rounded and limited to 128 bits where the contracts do it. Amounts
are in a token's smallest unit; dollars and prices have eight decimals, indexes twelve
(``IDX`` is 1.0); percentages are basis points (``BPS`` is 100 %).

The market stores no price: each call brings one signed message, which the signer adds.
The bot uses the prices of its sources, converted as the market converts the message's.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import attrs
import msgspec

from liquidation_bot.market import Contract, Market, Reserve
from liquidation_bot.model import Amount, Holding, Position, Price, shown
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
    Call,
    Err,
    Principal,
    Steps,
    UInt,
    ask,
    convert,
    deserialize,
)

if TYPE_CHECKING:
    from liquidation_bot.engine import Plan

BPS: Final = 10_000
IDX: Final = 10**12
IMPLEMENTED: Final = "v0-8-market"
"""The name of the market contract whose rules these are."""

FEEDS: Final = {
    "e62df6c8b4a85fe1a67db44dc12de5db330f7ac66b72dc658afedf0f4a415b43": 1,
    "eaa020c61cc479712813461ce153894a96a6c00b21ed0cfc2798d1f9a9e9c94a": 7,
    "ec7a775f46379b5e943c3526b1c8d54cd49749176b0b98e02dde68d1bd335c17": 45,
}
"""Pyth Lazer's feeds (BTC, USDC, STX), by their identifier in the registry of assets."""

_MAX: Final = 2**128 - 1
_YEAR: Final = 31_536_000
_FUTURE: Final = 60  # seconds that the time of a price may be ahead of the block's
_STATE_AGE: Final = 600  # seconds after which pauses and the market are read again
# By how much the LTV may fall before a call pays less than it offers: it would then seize
# less than its minimum, and fail. An allowance of the bot, not of the protocol.
_MOVE_BPS: Final = 10
_DEBT: Final = 64  # a mask has a bit for each collateral and, 64 higher, for each debt
_STSTX, _ZSTSTX, _STBTC = 0, 3, 7  # callcodes
_LENT_BY: Final = {1: 0, 2: 2, _ZSTSTX: 4, 4: 6, 5: 8, 6: 10}  # a callcode's vault
SHARES: Final = {1: 0, 3: 2, 5: 4, 7: 6, 9: 8, 11: 10, 13: 12}  # a share's vault

_REFUSALS: Final = {
    "u600006": (Reason.NO_DEBT, "the account has no position"),
    "u720007": (Reason.UNKNOWN_ASSET, "no risk group has all assets of the position"),
    "u710007": (Reason.UNKNOWN_ASSET, "the registry does not have the token"),
    "u400015": (Reason.NO_PRICE, "a price is missing, 0, too old or too wide"),
    "u400018": (Reason.HEALTHY, "the LTV is below the threshold"),
    "u400016": (Reason.PAUSED, "liquidations are paused or in their grace period"),
    "u400002": (Reason.TOO_SMALL, "there is nothing to pay"),
    "u400008": (Reason.TOO_SMALL, "there is nothing to pay or to seize"),
    "u600002": (Reason.PAUSED, "the market vault is paused"),
    "u80": (Reason.PAUSED, "repaying is paused"),  # u80x006, of vault x
}
_UNUSABLE: Final = Reason.UNKNOWN_ASSET, "an asset or its price is not usable"
_BY_OTHERS: Final = frozenset(
    {"repay", "liquidate", "liquidate-redeem", "liquidate-multi-with-feeds"}
)
_BY_BORROWER: Final = (
    "borrow",
    "collateral-add",
    "collateral-remove",
    "collateral-remove-redeem",
    "supply-collateral-add",
)


class ContractError(Refused):
    """The failure of a call: an error code such as ``u400018``, or an abort's name."""

    def __init__(self, code: str) -> None:
        reason, words = _REFUSALS.get(code) or _REFUSALS.get(code[:3], _UNUSABLE)
        super().__init__(reason, f"the call would fail with {code}: {words}")
        self.code = code


def mul_div(x: int, y: int, z: int, *, up: bool = False) -> int:
    """Return ``x * y / z``, rounded down or up, if the product fits into a uint."""
    if min(x, y, z) < 0:
        raise ContractError("ArithmeticUnderflow")
    if x * y > _MAX:
        raise ContractError("ArithmeticOverflow")
    if z == 0:
        raise ContractError("DivisionByZero")
    return (x * y + (z - 1 if up else 0)) // z


def usd(amount: int, decimals: int, price: int, *, up: bool = False) -> int:
    """Return the value of an amount in dollars."""
    return mul_div(amount, price, int(10**decimals), up=up)


def tokens(dollars: int, decimals: int, price: int, *, up: bool = False) -> int:
    """Return the amount that has that value."""
    return mul_div(dollars, int(10**decimals), price, up=up)


def pyth_price(price: int, exponent: int) -> int:
    """Return a price of Pyth, which has any exponent, with eight decimals."""
    shift = exponent + 8
    if price <= 0 or abs(shift) > 18:
        raise ContractError("u400012")
    return price * int(10**shift) if shift > 0 else price // int(10**-shift)


def check_confidence(price: int, confidence: int, ratio: int) -> None:
    """Raise the refusal of a price whose confidence is too wide."""
    if confidence > mul_div(price, ratio, BPS):
        raise ContractError("u400017")


def factor(ltv: int, partial: int, full: int) -> int:
    """Return how far an LTV is on the way from the partial to the full threshold."""
    return min(BPS, mul_div(ltv - partial, BPS, full - partial))


def curve(linear: int, exponent: int) -> int:
    """Return the part of the debt that a call may pay, from the result of `factor`."""
    if exponent < BPS:
        return math.isqrt(linear * BPS)
    power = exponent // BPS
    return int(linear**power) // int(BPS ** (power - 1))


def bound(part: int, least: int, most: int) -> int:
    """Return the liquidator's gain, which grows with the result of `curve`."""
    return min(most, least + mul_div(part, most - least, BPS))


def priced(mask: int, enabled: int) -> list[int]:
    """Return the ids whose prices the LTV needs: enabled collateral, and every debt."""
    bits = (mask & enabled & ((1 << _DEBT) - 1)) | (mask >> _DEBT)
    return [each for each in range(_DEBT) if bits >> each & 1]


def utilization(available: int, debt: int) -> int:
    """Return the part of a vault's assets that is lent."""
    return mul_div(debt, BPS, debt + available) if debt + available else 0


def interest_rate(used: int, utils: Sequence[int], rates: Sequence[int]) -> int:
    """Return the yearly rate for a utilization, on the line through the points."""
    points = list(zip(utils, rates, strict=False))
    for (x, y), (util, rate) in itertools.pairwise(points):
        if x <= used < util:
            return y + mul_div(used - x, rate - y, util - x)
    return points[0][1] if used < points[0][0] else points[-1][1]


def multiplier(rate: int, seconds: int, *, up: bool) -> int:
    """Return the growth of an index in a time."""
    return IDX + mul_div(rate, seconds * IDX, _YEAR * BPS, up=up)


def liquidity_rate(rate: int, used: int, fee: int) -> int:
    """Return the yearly rate of the suppliers, after the protocol's fee."""
    return mul_div(mul_div(rate, used, BPS), BPS - fee, BPS)


def debt_of(scaled: int, index: int) -> int:
    """Return a debt with its interest."""
    return mul_div(scaled, index, IDX, up=True)


class Oracle(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """Where a price is from, and how many seconds it may be old."""

    type: int
    ident: str
    callcode: int | None
    max_staleness: int

    @property
    def dia(self) -> bool:
        """Whether the price is DIA's, instead of Pyth's."""
        return self.type == 1


class Asset(msgspec.Struct, frozen=True, kw_only=True):
    """An asset as the registry has it; its id is its bit in masks."""

    id: int
    addr: str
    decimals: int
    oracle: Oracle


class Group(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename=lambda name: name.upper().replace("_", "-"),
):
    """A risk group: the parameters of positions whose assets are all in its mask."""

    mask: int
    liq_curve_exp: int
    liq_penalty_min: int
    liq_penalty_max: int
    ltv_liq_partial: int
    ltv_liq_full: int


Points = Annotated[tuple[int, ...], msgspec.Meta(min_length=1)]


class VaultPauses(msgspec.Struct, frozen=True, kw_only=True):
    """What is paused in a vault."""

    accrue: bool
    repay: bool


class MarketPauses(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """What is paused in the market vault."""

    collateral_remove: bool
    debt_remove: bool


class Vault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A vault: the indexes of debts and shares at a time, and what makes them grow.

    ``principal`` is all debt, scaled; ``available`` is not lent; ``utils`` and ``rates``
    are the points of the curve of interest; ``fee`` is the protocol's part of it.
    """

    index: int
    lindex: int
    last_update: int
    principal: int = 0
    available: int = 0
    utils: Points = (0,)
    rates: Points = (0,)
    fee: int = 0
    pauses: VaultPauses = VaultPauses(accrue=False, repay=False)
    grace_end: int = 0

    def indexes(self, now: int) -> tuple[int, int]:
        """Return both indexes, rolled forward to a time."""
        seconds = now - self.last_update
        if self.pauses.accrue or seconds <= 0:
            return self.index, self.lindex
        used = utilization(self.available, debt_of(self.principal, self.index))
        rate = interest_rate(used, self.utils, self.rates)
        earned = liquidity_rate(rate, used, self.fee)
        return (
            mul_div(self.index, multiplier(rate, seconds, up=True), IDX),
            mul_div(self.lindex, multiplier(earned, seconds, up=False), IDX),
        )


class StateV2(
    ChainState, frozen=True, kw_only=True, tag="zest-v2", tag_field="protocol"
):
    """The state of Zest V2.

    Attributes:
        market: the contract that may change positions, ``v0-market-vault.get-impl``.
        enabled: the registry's bitmap.
        groups: the risk groups, in the order of their registration.
        vaults: by the id of the asset that they lend.
        dia: DIA's prices by identifier.
        accepted: when the newest message that the market accepted was made, by feed. It
            is not read from the chain: the signer's message is newer.
        ststx: STX for one stSTX, six decimals.
        stbtc: sBTC for one stBTC, eight decimals.
        haircut: what is taken off stBTC's price.
        grace_end: until when nobody can be liquidated, in unix seconds.
        pauses: of the market vault.
    """

    read_at: int
    market: str
    enabled: int = 0
    assets: tuple[Asset, ...] = ()
    groups: tuple[Group, ...] = ()
    vaults: dict[int, Vault] = msgspec.field(default_factory=dict)
    dia: dict[str, Price] = msgspec.field(default_factory=dict)
    accepted: dict[int, int] = msgspec.field(default_factory=dict)
    ststx: int = 10**6
    stbtc: int = 10**8
    haircut: int = 0
    max_confidence: int = 1000
    paused: bool = False
    grace_end: int = 0
    pauses: MarketPauses = MarketPauses(collateral_remove=False, debt_remove=False)

    def asset(self, contract: str) -> Asset:
        """Return an asset, found by its token."""
        for each in self.assets:
            if each.addr == contract:
                return each
        raise ContractError("u710007")

    def group(self, mask: int) -> Group:
        """Return the smallest risk group that has all assets of a mask."""
        fitting = [each for each in self.groups if each.mask & mask == mask]
        if not fitting:
            raise ContractError("u720007")
        return min(fitting, key=lambda each: each.mask.bit_count())


@attrs.frozen
class Account:
    """A position: collateral and scaled debts by the asset's id, without zeros."""

    collateral: dict[int, int]
    debt: dict[int, int]

    @property
    def mask(self) -> int:
        """The bits of its assets, also of disabled collateral."""
        debts = (_DEBT + each for each in self.debt)
        return sum(1 << each for each in [*self.collateral, *debts])


@attrs.frozen
class Book:
    """A valued position: prices by asset id, indexes by vault, and dollars.

    ``collateral`` is without what is disabled.
    """

    prices: Mapping[int, int]
    indexes: Mapping[int, tuple[int, int]]
    collateral: int
    debt: int

    @property
    def ltv(self) -> int:
        """The loan-to-value."""
        if self.collateral:
            return mul_div(self.debt, BPS, self.collateral)
        return BPS if self.debt else 0


def final_price(
    state: StateV2,
    asset: Asset,
    feeds: Mapping[int, Price],
    indexes: Mapping[int, tuple[int, int]],
    now: int | None,
) -> int:
    """Return the price that the market derives from a feed; without ``now`` at any age."""
    feed = FEEDS.get(asset.oracle.ident, 0)
    source = state.dia.get(asset.oracle.ident) if asset.oracle.dia else feeds.get(feed)
    if source is None or source.price == 0:
        raise ContractError("u400013" if asset.oracle.dia else "u400012")
    if not asset.oracle.dia and now is not None:
        check_confidence(source.price, source.confidence or 0, state.max_confidence)
    price, code = source.price, asset.oracle.callcode
    if code in {_STSTX, _ZSTSTX}:
        price = mul_div(price, state.ststx, 10**6)
    if code == _STBTC:
        if not 10**8 <= 2 * state.stbtc <= 4 * 10**8:
            raise ContractError("u400020")
        price = mul_div(price, mul_div(state.stbtc, BPS - state.haircut, BPS), 10**8)
    elif code is not None and code != _STSTX:
        vault = _LENT_BY.get(code, -1)
        if vault not in indexes:
            raise ContractError("u400011")
        price = mul_div(price, indexes[vault][1], IDX)
    late = now is not None and (
        not -_FUTURE <= now - source.at <= asset.oracle.max_staleness
        or source.at < state.accepted.get(feed, 0)
    )
    if late or price == 0:
        raise ContractError("u400014")
    return price


def value(
    state: StateV2,
    account: Account,
    feeds: Mapping[int, Price],
    now: int,
    *,
    strict: bool = True,
) -> Book:
    """Value a position, at prices of any age and confidence unless ``strict``.

    Raises:
        ContractError: a price is missing or refused.
    """
    shares = {SHARES[each] for each in account.collateral if each in SHARES}
    if not shares | account.debt.keys() <= state.vaults.keys():
        raise ContractError("UnwrapFailure")
    indexes = {
        each: state.vaults[each].indexes(now) for each in shares | account.debt.keys()
    }
    assets = {each.id: each for each in state.assets}
    prices: dict[int, int] = {}
    for each in priced(account.mask, state.enabled):
        try:
            prices[each] = final_price(
                state, assets[each], feeds, indexes, now if strict else None
            )
        except ContractError as error:
            raise ContractError("u400015") from error
    collateral = debt = 0
    for each, amount in account.collateral.items():
        if state.enabled >> each & 1:
            collateral += usd(amount, assets[each].decimals, prices[each])
    for each, scaled in account.debt.items():
        owed = debt_of(scaled, indexes[each][0])
        debt += usd(owed, assets[each].decimals, prices[each], up=True)
    return Book(prices, indexes, collateral, debt)


def final_amounts(
    dollars: int, take: int, want: int, pc: int, dc: int, pd: int, dd: int, penalty: int
) -> tuple[int, int]:
    """Return the dollars and the tokens that are paid: fewer if collateral is short.

    ``p`` are prices, ``d`` decimals: of the collateral (``c``) and of the debt (``d``).
    """
    if take < want:
        dollars = mul_div(usd(take, dc, pc), BPS, BPS + penalty)
    return dollars, tokens(dollars, dd, pd)


@attrs.frozen(kw_only=True)
class Outcome:
    """What a call moves, and at which penalty, which the liquidator gains.

    ``dollars`` is the value of the debt that is paid, ``price`` that of the collateral;
    ``socialized`` says whether the suppliers bear the rest of the debt.
    """

    paid: int
    seized: int
    dollars: int
    penalty: int
    price: int
    socialized: bool


def liquidate(
    state: StateV2,
    account: Account,
    feeds: Mapping[int, Price],
    now: int,
    pair: tuple[str, str],
    amount: int,
    least: int = 0,
    known: Collection[str] = (),
) -> Outcome:
    """Return what a call moves.

    It pays at most ``amount`` of the first token of the pair, and seizes at least
    ``least`` of the second one. ``known`` are refusals whose cause is not in the other
    arguments: ``u400024`` (the position borrowed in the same block), ``u400025`` (not
    called by a plain wallet), ``u1`` (the wallet has too little).

    Raises:
        ContractError: the call fails; the first reason in the contract's order.
    """
    if not account.mask:
        raise ContractError("u600006")
    group = state.group(account.mask)
    taken, owed = state.asset(pair[1]), state.asset(pair[0])
    book = value(state, account, feeds, now)
    if "u400024" in known or book.ltv < group.ltv_liq_partial:
        raise ContractError("u400024" if "u400024" in known else "u400018")
    linear = factor(book.ltv, group.ltv_liq_partial, group.ltv_liq_full)
    part = curve(linear, group.liq_curve_exp)
    penalty = bound(part, group.liq_penalty_min, group.liq_penalty_max)
    if owed.id not in book.prices:
        raise ContractError("UnwrapFailure")
    pd, dd, dc = book.prices[owed.id], owed.decimals, taken.decimals
    dollars = min(usd(amount, dd, pd), mul_div(part, book.debt, BPS))
    pc = book.prices.get(taken.id)
    pc = pc or final_price(state, taken, feeds, book.indexes, now)
    have = account.collateral.get(taken.id, 0)
    want = tokens(mul_div(dollars, BPS + penalty, BPS), dc, pc)
    take = min(want, have)
    dollars, repaid = final_amounts(dollars, take, want, pc, dc, pd, dd, penalty)
    if owed.id not in book.indexes:
        raise ContractError("UnwrapFailure")
    index, borrowed = book.indexes[owed.id][0], account.debt.get(owed.id, 0)
    scaled = mul_div(repaid, IDX, index)
    removed = min(scaled, borrowed)
    seized = mul_div(take, removed, scaled) if removed < scaled else take

    def repays(worth: int) -> bool:
        """Return whether collateral of that value can repay a unit of the debt."""
        rest = mul_div(max(worth, 0), BPS, BPS + group.liq_penalty_max)
        return mul_div(tokens(rest, dd, pd), IDX, index) > 0

    if not repays(usd(have - seized, dc, pc)):
        seized = have
    paid, vault = debt_of(removed, index), state.vaults[owed.id]
    refusals = {
        "u400016": state.paused or now < max(state.grace_end, vault.grace_end),
        "u400025": "u400025" in known,
        "u400002": amount == 0,
        "u400008": paid == 0 or seized == 0,
        "u400019": seized < least,
        f"u80{owed.id // 2}006": vault.pauses.repay,
        "u600002": state.pauses.collateral_remove or state.pauses.debt_remove,
        "u1": "u1" in known,
    }
    for code, refused in refusals.items():
        if refused:
            raise ContractError(code)
    held = account.collateral
    enabled = all(state.enabled >> each & 1 for each in held)
    gone = seized == have and (
        len(held) == 1 or (enabled and not repays(book.collateral - usd(have, dc, pc)))
    )
    return Outcome(
        paid=paid,
        seized=seized,
        dollars=dollars,
        penalty=penalty,
        price=pc,
        socialized=gone and (len(account.debt) > 1 or removed < borrowed),
    )


def required_feeds(state: StateV2, ids: Collection[int]) -> dict[int, int]:
    """Return the feeds that the message needs for the prices of those assets.

    The values are the seconds that their prices may be old.
    """
    ages = dict[int, int]()
    for asset in state.assets:
        if asset.id in ids and not asset.oracle.dia:
            feed, age = FEEDS.get(asset.oracle.ident, 0), asset.oracle.max_staleness
            ages[feed] = min(age, ages.get(feed, age))
    return ages


class MarketV2(Market, frozen=True, kw_only=True):
    """A market of Zest V2.

    Attributes:
        contract: the market that a plan calls.
        vault: the market vault, which has the positions.
        message_fee: the most micro-STX that the price message of a call costs.
    """

    contract: Contract
    vault: Contract
    message_fee: Amount

    def __post_init__(self) -> None:
        """Check the contracts, too."""
        super().__post_init__()
        if self.contract.partition(".")[2] != IMPLEMENTED:
            raise ValueError(
                f"contract must be {IMPLEMENTED}, got {self.contract!r}: the rules of "
                "others are not implemented"
            )


class ZestV2:
    """The rules of Zest V2 in one market.

    In a `Holding`, ``supplied`` is collateral in the market vault, and ``borrowed`` is
    the scaled debt.
    """

    def __init__(self, market: MarketV2) -> None:
        self._market = market
        self._sources: dict[str, str] = {}
        for each in market.reserves:
            if each.feed:
                self._sources.setdefault(each.feed, each.asset)

    @property
    def watched(self) -> Watched:
        """The events of the market vault, by the function that was called."""
        return Watched(
            contracts=(self._market.vault,),
            functions=(*_BY_BORROWER, *sorted(_BY_OTHERS)),
            by_others=_BY_OTHERS,
        )

    def price_assets(self, position: Position) -> set[str]:
        """Return the assets whose published prices the position depends on."""
        reserves = (self._market.reserve(each) for each in position.assets)
        return {self._sources[each.feed] for each in reserves if each and each.feed}

    def standing(self, case: Case) -> Standing:
        """Return the LTV and its distance to the threshold of the risk group."""
        state, account, feeds = self._read(case)
        group = state.group(account.mask)
        book = value(state, account, feeds, case.now, strict=False)
        prices = dict(book.prices)
        assets = {each.id: each for each in state.assets}
        for each in account.collateral:
            if each not in prices:  # disabled collateral: worth 0, but it can be seized
                with contextlib.suppress(ContractError):
                    prices[each] = final_price(
                        state, assets[each], feeds, book.indexes, case.now
                    )
        ages = required_feeds(state, prices).items()
        needed = ", ".join(f"{feed} (at most {age} s old)" for feed, age in ages)
        fails = ", at which a call fails with u400008" * (
            book.ltv == group.ltv_liq_partial
        )
        return Standing(
            value=book.ltv,
            text=f"LTV {shown(book.ltv, 2, 2)} %{fails}",
            headroom=(group.ltv_liq_partial - book.ltv) * 10**4,
            facts={
                "ltv_bps": str(book.ltv),
                "liquidated_from_bps": str(group.ltv_liq_partial),
                "price_feeds": needed or "none",
            },
            quotes={
                assets[each].addr: self._quote(state, feeds, assets[each], price)
                for each, price in prices.items()
            },
        )

    def offer(
        self, case: Case, standing: Standing, debt: Holding, collateral: Holding
    ) -> Offer:
        """Return what a call moves that pays what is allowed at a slightly lower LTV."""
        state, account, feeds = self._read(case)
        group = state.group(account.mask)
        lower = standing.value * (BPS - _MOVE_BPS) // BPS
        if lower < group.ltv_liq_partial:
            detail = f"{standing.text}: a move of 0.1 % makes the position healthy"
            raise Refused(Reason.TOO_CLOSE, detail)
        linear = factor(lower, group.ltv_liq_partial, group.ltv_liq_full)
        book = value(state, account, feeds, case.now, strict=False)
        cap = mul_div(curve(linear, group.liq_curve_exp), book.debt, BPS)
        pays = standing.quotes[debt.asset]
        index, _ = book.indexes[state.asset(debt.asset).id]
        most = case.affordable(pays, debt_of(debt.borrowed, index))
        pair = debt.asset, collateral.asset
        # Offer what is paid now: if the LTV is worse later, a larger offer pays more.
        dollars = liquidate(state, account, feeds, case.now, pair, most).dollars
        dollars, decimals = min(dollars, cap), pays.reserve.decimals
        requested = min(most, tokens(dollars, decimals, pays.price, up=True))
        outcome = liquidate(state, account, feeds, case.now, pair, requested)
        return Offer(
            debt=pays,
            collateral=standing.quotes[collateral.asset],
            requested=requested,
            paid=outcome.paid,
            seized=outcome.seized,
            received=outcome.seized,
            facts={"penalty_bps": str(outcome.penalty)},
        )

    def call(self, plan: Plan, liquidator: str) -> dict[str, Any]:
        """Return the call of ``liquidate`` with its seven arguments."""
        offer, market = plan.offer, self._market
        feeds = plan.standing.facts["price_feeds"]
        message = (
            "(some (list message)) with one signed message of Pyth Lazer: evm format, "
            "channel 3 or 4, with price, exponent, confidence, publisher count and "
            f"update time of the feeds {feeds}; its fee is paid by the sender, and the "
            f"post-conditions allow {market.message_fee} micro-STX"
        )
        return contract_call(
            market.contract,
            "liquidate",
            [
                ("borrower", Principal(plan.borrower)),
                ("collateral-ft", Principal(plan.collateral.asset)),
                ("debt-ft", Principal(plan.debt.asset)),
                ("debt-amount", UInt(offer.requested)),
                ("min-collateral-expected", UInt(plan.least)),
                ("collateral-receiver", None),
                ("price-feeds", None),
            ],
            conditions=[
                *payment(liquidator, plan.debt, offer.requested, market.message_fee),
                condition(market.vault, plan.collateral.moves, "gte", plan.least),
            ],
            inserts={"price-feeds": message} if feeds != "none" else {},
            complete=feeds == "none",
        )

    def _read(self, case: Case) -> tuple[StateV2, Account, Mapping[int, Price]]:
        """Return state, position and feeds, if the state on the chain can be used."""
        state, market = case.state, self._market
        if not isinstance(state, StateV2) or case.now - state.read_at > _STATE_AGE:
            raise Refused(
                Reason.NO_STATE,
                f"the state of {market.name} was not read within {_STATE_AGE} s: use "
                "--positions node --node URL",
            )
        if state.market != market.contract:
            raise Refused(
                Reason.OTHER_MARKET,
                f"the market in force is {state.market}: only the rules of "
                f"{market.contract} are implemented",
            )
        account = Account({}, {})
        for each in case.position.holdings:
            asset, reserve = state.asset(each.asset), market.reserve(each.asset)
            if reserve is None or reserve.decimals != asset.decimals:
                raise Refused(
                    Reason.UNKNOWN_ASSET,
                    f"the market file has no reserve {each.asset} with "
                    f"{asset.decimals} decimals",
                )
            if each.supplied:
                account.collateral[asset.id] = each.supplied
            if each.borrowed:
                account.debt[asset.id] = each.borrowed
        if not account.collateral:
            raise Refused(Reason.NO_COLLATERAL, "has nothing that could be seized")
        feeds = {
            FEEDS.get(feed, 0): case.prices[asset]
            for feed, asset in self._sources.items()
            if asset in case.prices
        }
        return state, account, feeds

    def _quote(
        self, state: StateV2, feeds: Mapping[int, Price], asset: Asset, price: int
    ) -> Quote:
        """Return a price with the limits of what it was computed from."""
        oracle, widest = asset.oracle, None
        source = state.dia[oracle.ident] if oracle.dia else feeds[FEEDS[oracle.ident]]
        if not oracle.dia:
            widest = mul_div(source.price, state.max_confidence, BPS)
        return Quote(
            reserve=cast("Reserve", self._market.reserve(asset.addr)),
            price=price,
            source=source,
            max_age=oracle.max_staleness,
            max_confidence=widest,
        )


class _Account(msgspec.Struct):
    account: str
    mask: int


class _Collateral(msgspec.Struct):
    aid: int
    amount: int


class _Debt(msgspec.Struct):
    aid: int
    scaled: int


class _Obligation(msgspec.Struct):
    collateral: tuple[_Collateral, ...] = ()
    debt: tuple[_Debt, ...] = ()


class _Dia(msgspec.Struct):
    value: int
    timestamp: int


# As stored, not `get-next-index`: the roll-forward starts from there.
_OF_VAULT: Final = {
    "index": "get-index",
    "lindex": "get-liquidity-index",
    "last_update": "get-last-update",
    "principal": "get-principal-scaled",
    "available": "get-available-assets",
    "utils": "get-points-util",
    "rates": "get-points-rate",
    "fee": "get-fee-reserve",
    "pauses": "get-pause-states",
}


class ReaderV2(ChainReader):
    """What is read from Zest V2's contracts.

    The state takes about 120 calls, a position takes one. ``[node]`` in the market file
    names the contracts ``assets``, ``groups``, ``ststx``, ``stbtc`` and ``dia``.
    """

    caveats = (
        *ChainReader.caveats,
        "interest is computed up to the decision; the call adds it up to its block",
    )
    lists_borrowers = True

    def __init__(self, market: MarketV2) -> None:
        self._market = market
        keys = ("assets", "groups", "ststx", "stbtc", "dia")
        self._names = {key: market.role(key) for key in keys}
        self._tokens: dict[int, str] = {}

    def prepare(self) -> Steps[None]:
        """Read the registry of assets, whose numbers positions have."""
        if not self._tokens:
            yield from self._registry()

    def borrowers(self, most: int) -> Steps[list[str]]:
        """Return the accounts with debt among the newest ones of that number."""
        vault = self._market.vault
        (count,) = yield [Call(vault, "get-nr", kind=int)]
        newest = range(max(0, count - most), count)
        found = yield _numbered(vault, "lookup", newest, _Account)
        return [each.account for each in found if each.mask >> _DEBT]

    def position(self, borrower: str, at: int) -> Steps[Position]:
        """Return collateral and scaled debts."""
        args = (Principal(borrower), UInt(2**64 - 1))
        (answer,) = yield [Call(self._market.vault, "get-position", args)]
        found = _Obligation()
        if answer != Err(UInt(600006)):
            found = convert(answer, _Obligation)
        supplied = {each.aid: each.amount for each in found.collateral}
        borrowed = {each.aid: each.scaled for each in found.debt}
        holdings = tuple(
            Holding(
                asset=self._tokens.get(asset, f"asset {asset}"),
                supplied=supplied.get(asset, 0),
                borrowed=borrowed.get(asset, 0),
            )
            for asset in sorted({*supplied, *borrowed})
        )
        return Position(borrower=borrower, holdings=holdings, read_at=at)

    def state(self, at: int) -> Steps[StateV2]:
        """Return the protocol's state; of a market without rules only its name."""
        names, vault = self._names, self._market.vault
        (market,) = yield [Call(vault, "get-impl", kind=str)]
        if market != self._market.contract:
            return StateV2(read_at=at, market=market)
        calls = {
            "enabled": Call(names["assets"], "get-bitmap", kind=int),
            "ststx": Call(names["ststx"], "get-stx-per-ststx", kind=int),
            "stbtc": Call(names["stbtc"], "get-sbtc-per-stbtc", kind=int),
            "haircut": Call(market, "get-stbtc-haircut-bps", kind=int),
            "max_confidence": Call(market, "get-max-confidence-ratio", kind=int),
            "paused": Call(market, "get-pause-liquidation", kind=bool),
            "grace_end": Call(market, "get-liquidation-grace-end", kind=int),
            "pauses": Call(vault, "get-pause-states", kind=MarketPauses),
        }
        values = yield from ask(calls)
        assets = yield from self._registry()
        (count,) = yield [Call(names["groups"], "get-nonce", kind=int)]
        groups = yield _numbered(names["groups"], "lookup", range(count), Group)
        return StateV2(
            read_at=at,
            market=market,
            assets=tuple(assets),
            groups=tuple(groups),
            vaults=(yield from self._vaults(assets)),
            dia=(yield from self._dia(assets)),
            **values,
        )

    def differences(self) -> Steps[list[tuple[str, str, str | None]]]:
        """Compare the market in force, and the tokens and decimals of the registry."""
        market = self._market
        (impl,) = yield [Call(market.vault, "get-impl", kind=str)]
        assets = yield from self._registry()
        chain = [f"market {impl}"]
        chain += [f"{each.addr} with {each.decimals} decimals" for each in assets]
        filed = [f"market {market.contract}"]
        filed += [
            f"{each.asset} with {each.decimals} decimals" for each in market.reserves
        ]
        pairs = enumerate(itertools.zip_longest(chain, filed))
        return [
            (f"asset {number - 1}" if number else "the market", has or "nothing", says)
            for number, (has, says) in pairs
            if has != says
        ]

    def _registry(self) -> Steps[list[Asset]]:
        contract = self._names["assets"]
        (count,) = yield [Call(contract, "get-nonce", kind=int)]
        assets = yield _numbered(contract, "get-status", range(count), Asset)
        self._tokens = {each.id: each.addr for each in assets}
        return list(assets)

    def _vaults(self, assets: Sequence[Asset]) -> Steps[dict[int, Vault]]:
        lent = {SHARES[each.id]: each.addr for each in assets if each.id in SHARES}
        kinds = {each.name: each.type for each in msgspec.structs.fields(Vault)}
        found = yield from ask(
            {
                (asset, name): Call(vault, function, kind=kinds[name])
                for asset, vault in lent.items()
                for name, function in _OF_VAULT.items()
            }
        )
        function, market = "get-liquidation-grace-period-asset", self._market.contract
        ends = yield _numbered(market, function, lent, int)
        return {
            asset: Vault(
                grace_end=end, **{name: found[asset, name] for name in _OF_VAULT}
            )
            for asset, end in zip(lent, ends, strict=True)
        }

    def _dia(self, assets: Sequence[Asset]) -> Steps[dict[str, Price]]:
        dia = self._names["dia"]
        priced = {each.oracle.ident: each.addr for each in assets if each.oracle.dia}
        names = {ident: deserialize(bytes.fromhex(ident)) for ident in priced}
        values: dict[str, _Dia] = yield from ask(
            {ident: Call(dia, "get-value", (names[ident],), _Dia) for ident in priced}
        )
        return {
            ident: Price(
                asset=priced[ident], price=each.value, at=each.timestamp // 1000
            )
            for ident, each in values.items()
        }


def _numbered(
    contract: str, function: str, numbers: Iterable[int], kind: Any
) -> list[Call]:
    return [Call(contract, function, (UInt(each),), kind) for each in numbers]


MARKET: Final = MarketV2
RULES: Final = ZestV2
READER: Final = ReaderV2
