"""Every reason to leave a borrower alone, and the plan where there is none."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import example, given, strategies as st

from liquidation_bot.engine import Limits, Plan, Reason, Skip, decide
from liquidation_bot.model import Holding
from liquidation_bot.rules import rules_of
from liquidation_bot.rules.zest_v1 import (
    MAX,
    ONE,
    Fixed,
    Ratio,
    ReserveState,
    StateV1,
    div,
)


def decided(
    world, position=None, prices=None, limits=None, state=None, wallet=None, **changes
):
    """Decide about the vectors' position, with changes to the market."""
    case = world.case(
        position or world.danger(),
        world.prices() if prices is None else prices,
        limits,
        state=state,
        wallet=wallet or {},
    )
    return decide(case, rules_of(msgspec.structs.replace(world.market, **changes)))


def test_the_derived_vector_is_a_plan(world):
    plan = decided(world)
    assert isinstance(plan, Plan)
    assert plan.borrower == world.alice
    assert plan.standing.value == 98_000_000
    offer = plan.offer
    assert (offer.requested, offer.paid) == (2_500_000_000, 2_500_000_000)
    assert (offer.seized, offer.received) == (3_928_571_428, 3_892_857_143)
    assert offer.facts == {"bonus": "357142857", "fee": "35714285"}
    assert plan.paid_usd == 2_500 * ONE
    # 3892.857143 stSTX at 0.70, less one percent for selling it
    assert plan.gained_usd == 272_500_000_010 * 99 // 100
    assert plan.profit_usd == plan.gained_usd - plan.paid_usd - ONE // 10
    assert plan.least == 3_928_571_428 * 99 // 100
    assert plan.most_paid_usd == 2_500 * ONE


def reserve(world, index, **changes):
    """Return the market's reserves with one of them changed."""
    reserves = list(world.market.reserves)
    reserves[index] = msgspec.structs.replace(reserves[index], **changes)
    return tuple(reserves)


def test_nobody_without_debt(world):
    skip = decided(world, world.position((world.ststx, 10**10, 0)))
    assert (skip.reason, skip.standing) == (Reason.NO_DEBT, None)
    assert decided(world, world.position()).reason == Reason.NO_DEBT


@pytest.mark.parametrize(
    "collateral", [(), (("supplied", 0),), (("as_collateral", False),)]
)
def test_nobody_without_collateral(world, collateral):
    fields = {"supplied": 10**10, **dict(collateral)}
    position = world.position(
        Holding(asset=world.ststx, **fields), (world.aeusdc, 0, 10**9)
    )
    assert decided(world, position).reason == (
        Reason.NO_COLLATERAL if collateral else Reason.HEALTHY
    )


def test_a_reserve_that_may_be_no_collateral_is_none(world):
    skip = decided(world, reserves=reserve(world, 0, collateral=False))
    assert skip.reason == Reason.NO_COLLATERAL


def test_assets_without_a_reserve_are_not_guessed(world):
    position = world.position(
        *world.danger().holdings, Holding(asset="SP1.new", supplied=1)
    )
    skip = decided(world, position)
    assert skip.reason == Reason.UNKNOWN_ASSET
    assert "SP1.new" in skip.detail


OF_DEBTS = {"close_factor": None}
OF_COLLATERAL = {"threshold": None, "bonus": None, "fee_bps": None}


@pytest.mark.parametrize(
    ("index", "needed", "unneeded"),
    [(0, OF_COLLATERAL, OF_DEBTS), (1, OF_DEBTS, OF_COLLATERAL)],
)
def test_reserves_without_parameters_are_not_guessed(world, index, needed, unneeded):
    skip = decided(world, reserves=reserve(world, index, **needed))
    assert skip.reason == Reason.UNKNOWN_ASSET
    assert isinstance(decided(world, reserves=reserve(world, index, **unneeded)), Plan)


def test_an_asset_that_is_twice_in_a_position_is_not_counted_twice(world):
    position = world.position(*world.danger().holdings, (world.aeusdc, 0, 1))
    skip = decided(world, position, prices=world.prices(ststx=80_000_000))
    assert (skip.reason, skip.standing) == (Reason.UNKNOWN_ASSET, None)
    assert "twice" in skip.detail


def test_an_e_mode_without_its_threshold_is_no_threshold_of_zero(world):
    with pytest.raises(ValueError, match="e_mode_threshold is missing"):
        reserve(world, 0, e_mode=1)


def test_the_contract_reads_the_price_of_what_is_no_collateral_any_more(world):
    used = world.position(*world.danger().holdings, (world.sbtc, 5, 0))
    prices = world.prices()
    prices[world.sbtc] = world.price(world.sbtc, 1, at=0)
    disabled = reserve(world, 2, collateral=False)
    assert decided(world, used, prices, reserves=disabled).reason == Reason.STALE_PRICE
    fresh = decided(world, used, reserves=disabled)
    assert fresh.standing.value == 98_000_000


def test_prices_that_are_not_there(world):
    prices = world.prices()
    del prices[world.aeusdc]
    skip = decided(world, prices=prices)
    assert (skip.reason, skip.standing) == (Reason.NO_PRICE, None)
    assert "aeUSDC" in skip.detail
    assert decided(world, prices=world.prices(ststx=0)).reason == Reason.NO_PRICE


@pytest.mark.parametrize(
    ("age", "stale"), [(0, False), (359, False), (360, True), (-60, False), (-61, True)]
)
def test_old_prices_and_prices_from_the_future(world, age, stale):
    prices = world.prices()
    prices[world.ststx] = world.price(world.ststx, 70_000_000, at=world.now - age)
    decision = decided(world, prices=prices)
    if stale:
        assert decision.reason == Reason.STALE_PRICE
        assert decision.standing.value == 98_000_000  # for people to see, not to act on
    else:
        assert isinstance(decision, Plan)


@pytest.mark.parametrize(
    ("confidence", "wide"),
    [(None, False), (0, False), (3_499_999, False), (3_500_000, True)],
)
def test_prices_that_are_too_uncertain(world, confidence, wide):
    prices = world.prices()
    prices[world.ststx] = world.price(world.ststx, 70_000_000, confidence=confidence)
    decision = decided(world, prices=prices)  # five percent are not taken
    assert isinstance(decision, Skip) == wide
    if wide:
        assert decision.reason == Reason.WIDE_PRICE


@example(price=2 * 10**8, bps=1, moved=-1)  # exactly at the limit
@given(
    price=st.integers(1, 10**13), bps=st.integers(1, 10_000), moved=st.integers(-1, 1)
)
def test_the_widest_confidence_is_the_oracles(world, price, bps, moved):
    market = msgspec.structs.replace(
        world.market,
        rules=msgspec.structs.replace(world.market.rules, max_confidence_bps=bps),
    )
    widest = max(price * bps // 10_000 + moved, 0)
    prices = world.prices()
    prices[world.ststx] = world.price(world.ststx, price, confidence=widest)
    decision = decide(world.case(world.danger(), prices), rules_of(market))
    refused = div(widest, price) >= bps * 10_000
    assert (getattr(decision, "reason", None) == Reason.WIDE_PRICE) == refused


def test_a_stale_price_of_what_does_not_matter_does_not_matter(world):
    prices = world.prices()
    prices[world.sbtc] = world.price(world.sbtc, 1, at=0)
    idle = Holding(asset=world.sbtc, supplied=5, as_collateral=False)
    position = world.position(*world.danger().holdings, idle)
    assert isinstance(decided(world, position, prices), Plan)


def test_healthy(world):
    skip = decided(world, prices=world.prices(ststx=80_000_000))
    assert (skip.reason, skip.standing.value) == (Reason.HEALTHY, 112_000_000)


def test_debt_that_is_worth_nothing_is_healthy(world):
    position = world.position((world.ststx, 10**10, 0), (world.sbtc, 0, 1))
    skip = decided(world, position, world.prices(sbtc=1))
    assert (skip.reason, skip.standing.value) == (Reason.HEALTHY, MAX)


@pytest.mark.parametrize(
    ("threshold", "margin", "expected"),
    [
        (98_000_000, 0, Reason.HEALTHY),  # not below
        (98_000_001, 0, None),
        (98_000_001, 1, None),
        (98_000_001, 2, Reason.TOO_CLOSE),
        (97_999_999, 2, Reason.TOO_CLOSE),
        (97_999_998, 2, Reason.HEALTHY),
        (98_002_000, 2_000, None),
    ],
)
def test_near_the_threshold_it_is_too_close_to_call(world, threshold, margin, expected):
    rules = msgspec.structs.replace(world.market.rules, health_threshold=threshold)
    decision = decided(world, limits=Limits(margin=margin), rules=rules)
    assert getattr(decision, "reason", None) == expected


def test_the_wallets_cap_limits_what_is_paid(world):
    plan = decided(world, limits=Limits(wallet_cap=100 * ONE))
    assert plan.offer.requested == plan.offer.paid == 100_000_000
    assert plan.most_paid_usd == 100 * ONE
    assert decided(world, limits=Limits(wallet_cap=0)).reason == Reason.OVER_CAP


def test_dust_is_too_small(world):
    position = world.position((world.ststx, 10, 0), (world.aeusdc, 0, 10))
    decision = decided(
        world,
        position,
        limits=Limits(allow_unprofitable=True),
        reserves=reserve(world, 1, close_factor=0),
    )
    assert decision.reason == Reason.TOO_SMALL


def test_dust_is_too_small_whatever_the_cap(world):
    dust = world.position((world.ststx, 1, 0), (world.aeusdc, 0, 1))
    capped = decided(world, dust, limits=Limits(wallet_cap=100 * ONE))
    assert capped.reason == Reason.TOO_SMALL


def test_profit_is_what_is_left_after_everything(world):
    profit = decided(world).profit_usd
    assert isinstance(decided(world, limits=Limits(min_profit=profit)), Plan)
    skip = decided(world, limits=Limits(min_profit=profit + 1))
    assert skip.reason == Reason.UNPROFITABLE
    costly = Limits(transaction_fee=500 * ONE)
    assert decided(world, limits=costly).reason == Reason.UNPROFITABLE
    slippery = Limits(slippage_bps=1_000)
    assert decided(world, limits=slippery).reason == Reason.UNPROFITABLE


def test_what_loses_money_is_planned_only_when_told_to(world):
    limits = Limits(transaction_fee=500 * ONE, allow_unprofitable=True)
    plan = decided(world, limits=limits)
    assert isinstance(plan, Plan)
    assert plan.profit_usd < 0


def test_the_pair_that_earns_most_is_chosen(world):
    position = world.position(
        (world.ststx, 10_000_000_000, 0),  # bonus 10 %
        (world.sbtc, 10_000_000, 0),  # bonus 8 %, 6000 USD
        (world.aeusdc, 0, 9_600_000_000),
    )
    plan = decided(world, position)
    assert plan.collateral.symbol == "stSTX"
    better = reserve(world, 2, bonus=20_000_000)
    assert decided(world, position, reserves=better).collateral.symbol == "sBTC"


def test_of_two_debts_the_one_that_earns_most(world):
    position = world.position(
        (world.ststx, 10_000_000_000, 0),
        (world.aeusdc, 0, 1_000_000_000),
        (world.sbtc, 0, 7_000_000),
    )
    plan = decided(world, position)
    assert plan.debt.symbol == "sBTC"
    assert plan.standing.value < ONE


def test_e_mode_has_its_own_threshold_and_bonus(world):
    reserves = reserve(
        world, 0, e_mode=1, e_mode_threshold=85_000_000, e_mode_bonus=5_000_000
    )
    normal = decided(world, reserves=reserves)
    assert normal.offer.facts["bonus"] == "357142857"
    position = msgspec.structs.replace(world.danger(), e_mode=1)
    assert decided(world, position, reserves=reserves).reason == Reason.HEALTHY
    lower = decided(world, position, world.prices(ststx=55_000_000), reserves=reserves)
    assert lower.standing.value == 93_500_000
    assert int(lower.offer.facts["bonus"]) == 4_772_727_272 - 4_545_454_545
    assert lower.offer.seized == 4_772_727_272
    other = msgspec.structs.replace(position, e_mode=2)
    assert decided(world, other, reserves=reserves).standing.value == 98_000_000


def priced(world, index, pricing):
    """Return the market's reserves, one of them with another oracle."""
    return reserve(world, index, pricing=pricing)


def test_an_oracle_with_a_constant_needs_no_price_and_is_never_stale(world):
    prices = world.prices(aeusdc=70_000_000, at=world.now - 100)
    fixed = priced(world, 1, Fixed(price=ONE))
    plan = decided(world, prices=prices, reserves=fixed)
    assert plan.standing.value == 98_000_000  # by the published price it would be 1.4
    del prices[world.aeusdc]
    assert decided(world, prices=prices, reserves=fixed) == plan
    assert plan.valid_until == world.now - 100 + 359


def test_an_oracle_with_a_ratio_multiplies_the_price_of_its_base(world):
    ratio = priced(world, 0, Ratio(base="sBTC"))
    prices = world.prices(sbtc=63_636_364, confidence=1)
    del prices[world.ststx]
    skip = decided(world, prices=prices, reserves=ratio)
    assert skip.reason == Reason.NO_PRICE
    assert "no ratio of stSTX to sBTC" in skip.detail
    state = StateV1(ratios={world.ststx: 110_000_000})
    plan = decided(world, prices=prices, reserves=ratio, state=state)
    assert plan.standing.quotes[world.ststx].price == 63_636_364 * 1_100_000 // 10**6
    assert plan.standing.quotes[world.ststx].price == 70_000_000
    assert plan.standing.value == 98_000_000
    old = {**prices, world.sbtc: world.price(world.sbtc, 63_636_364, at=0)}
    skip = decided(world, prices=old, reserves=ratio, state=state)
    assert skip.reason == Reason.STALE_PRICE
    constant = priced(world, 0, Ratio(base="sBTC", ratio=110_000_000))
    same = decided(world, prices=prices, reserves=constant)
    assert same.profit_usd == plan.profit_usd


def test_a_plan_holds_as_long_as_its_oldest_price(world):
    prices = world.prices()
    prices[world.aeusdc] = world.price(world.aeusdc, ONE, at=world.now - 200)
    assert decided(world, prices=prices).valid_until == world.now + 159
    assert decided(world).valid_until == world.now + 300
    assert decided(world, limits=Limits(valid_for=10)).valid_until == world.now + 10


@pytest.mark.parametrize(
    ("index", "state", "reason", "words"),
    [
        (0, {"liquidity": 1}, Reason.ILLIQUID, "the reserve has 0.000001 stSTX"),
        (0, {"liquidity": 0}, Reason.ILLIQUID, "the reserve has 0 stSTX"),
        (0, {"liquidity": 3_928_571_428}, None, ""),
        (1, {"liquidity": 0}, None, ""),  # debt is paid into it
        (0, {"active": False}, Reason.PAUSED, "stSTX is not active"),
        (1, {"active": False}, Reason.PAUSED, "aeUSDC is not active"),
        (1, {"frozen": True}, Reason.PAUSED, "aeUSDC is frozen"),
        (0, {"grace": True}, Reason.GRACE, "stSTX is in its grace period"),
        (1, {"grace": True}, None, ""),  # only that of the collateral counts
        (2, {"active": False}, None, ""),
    ],
)
def test_what_the_contract_refuses_is_not_planned(world, index, state, reason, words):
    asset = world.market.reserves[index].asset
    given = StateV1(reserves={asset: ReserveState(**state)})
    decision = decided(world, state=given)
    assert getattr(decision, "reason", None) == reason
    assert words in getattr(decision, "detail", "")
    other = world.position((world.sbtc, 10_000_000, 0), *world.danger().holdings[1:])
    more = world.position(*world.danger().holdings, other.holdings[0])
    if reason and index == 0:  # another collateral is seized instead
        low = world.prices(sbtc=ONE)
        limits = Limits(allow_unprofitable=True)
        plan = decided(world, more, low, limits, state=given)
        assert plan.collateral.symbol == "sBTC"


@given(
    liquidity=st.integers(10**7, 10**13),
    more=st.integers(-10, 10**13),
    price=st.integers(10**5, 10**8),
    places=st.sampled_from([(6, 6), (8, 6), (6, 8)]),
)
def test_a_plan_takes_what_the_reserve_can_pay_out(
    world, liquidity, more, price, places
):
    reserves = [
        msgspec.structs.replace(each, decimals=decimals)
        for each, decimals in zip(world.market.reserves, (*places, 8), strict=True)
    ]
    known = StateV1(reserves={world.ststx: ReserveState(liquidity=liquidity)})

    def decision(supplied, state):
        held = (world.ststx, supplied, 0), (world.aeusdc, 0, 10**16)
        given = world.position(*held), world.prices(ststx=price)
        limits = Limits(allow_unprofitable=True)
        return decided(world, *given, limits, state, reserves=tuple(reserves))

    found = decision(liquidity + more, known)
    full = decision(min(liquidity + more, liquidity), None)
    assert 0 < found.offer.seized <= liquidity
    least = full.offer.paid - full.offer.paid // 10**7 - 1
    assert least <= found.offer.paid <= full.offer.paid + 1


def test_of_two_frozen_reserves_the_collaterals_is_named(world):
    frozen = ReserveState(frozen=True)
    state = StateV1(reserves={world.aeusdc: frozen, world.ststx: frozen})
    assert decided(world, state=state).detail == "the reserve of stSTX is frozen"


def test_bad_debt_has_no_grace_period(world):
    state = StateV1(reserves={world.ststx: ReserveState(grace=True)})
    prices = world.prices(ststx=49_999_999)  # the debt is worth more than everything
    assert isinstance(decided(world, prices=prices, state=state), Plan)
    even = decided(world, prices=world.prices(ststx=50_000_000), state=state)
    assert even.reason == Reason.GRACE


def test_the_wallet_limits_what_is_paid(world):
    plan = decided(world, wallet={world.aeusdc: 70_000_000, world.ststx: 0})
    assert plan.offer.requested == plan.offer.paid == 70_000_000
    assert decided(world, wallet={world.aeusdc: 0}).reason == Reason.OVER_CAP


def test_a_debt_that_the_wallet_cannot_pay_does_not_hide_another(world):
    position = world.position(
        (world.ststx, 10_000_000_000, 0),
        (world.aeusdc, 0, 1_000_000_000),
        (world.sbtc, 0, 7_000_000),
    )
    plan = decided(world, position, wallet={world.sbtc: 0})
    assert plan.debt.symbol == "aeUSDC"


def test_of_several_refusals_the_nearest_to_a_plan_is_named(world):
    idle = Holding(asset=world.sbtc, supplied=5, as_collateral=False)
    position = world.position(idle, *world.danger().holdings)
    state = StateV1(reserves={world.ststx: ReserveState(grace=True)})
    assert decided(world, position, state=state).reason == Reason.GRACE


amounts = st.integers(0, 10**14)


@given(
    supplied=amounts,
    borrowed=amounts,
    price=st.integers(0, 10**12),
    cap=st.none() | st.integers(0, 10**14),
    fee=st.integers(0, 10**10),
)
def test_no_plan_breaks_a_limit(world, supplied, borrowed, price, cap, fee):
    market = world.market
    limits = Limits(wallet_cap=cap, transaction_fee=fee)
    position = world.position((world.ststx, supplied, 0), (world.aeusdc, 0, borrowed))
    decision = decide(
        world.case(position, world.prices(ststx=price), limits), world.rules
    )
    if isinstance(decision, Skip):
        assert decision.detail
        return
    assert decision.standing.value <= market.rules.health_threshold - limits.margin
    assert decision.profit_usd >= limits.min_profit
    assert 0 < decision.offer.seized <= supplied
    assert 0 < decision.offer.requested <= borrowed
    assert cap is None or decision.most_paid_usd <= cap
    assert decision.least <= decision.offer.seized
