"""Both protocols against their formulas, written down a second time with fractions.

Nothing here is shared with the rules: ``down``, ``up`` and ``half`` round exact numbers
where the contracts round.
"""

from __future__ import annotations

import math
from fractions import Fraction

import msgspec
from hypothesis import assume, example, given, settings, strategies as st

from liquidation_bot.engine import Limits, Plan, Reason, decide
from liquidation_bot.market import Market
from liquidation_bot.model import Price
from liquidation_bot.rules import rules_of, zest_v2 as v2
from liquidation_bot.rules.zest_v1 import MAX, health_factor, size_liquidation

E8, E12, BPS = 10**8, 10**12, 10_000
down, up = math.floor, math.ceil


def half(exact):
    """Round half up."""
    return math.floor(exact + Fraction(1, 2))


# ------------------------------------------------------------------------ Zest V1


def percent(amount, decimals, factor):
    """Multiply tokens by a factor, at eight decimals or at the token's if it has more."""
    places = max(decimals, 8)
    fine = amount * 10 ** (places - decimals)
    return down(Fraction(half(Fraction(fine) * factor), 10 ** (places - decimals)))


def converted(x, dx, dy, px, py):
    """Return the amount of y that is worth as much as x."""
    if dx > dy:
        worth = percent(x, dx, Fraction(px, E8))
        return down(Fraction(percent(worth, dx, Fraction(E8, py)), 10 ** (dx - dy)))
    worth = percent(x * 10 ** (dy - dx), dy, Fraction(px, E8))
    return percent(worth, dy, Fraction(E8, py))


def dollars(amount, decimals, price):
    return half(Fraction(down(Fraction(amount, 10**decimals) * E8) * price, E8))


def v1_health(collaterals, debts):
    worth = [(dollars(*each), threshold) for each, threshold in collaterals]
    total, owed = (
        sum(value for value, _ in worth),
        sum(dollars(*each) for each in debts),
    )
    if not owed:
        return MAX
    weighted = sum(half(Fraction(value * threshold, E8)) for value, threshold in worth)
    average = half(Fraction(weighted * E8, total)) if total else 0
    return half(Fraction(half(Fraction(total * average, E8)) * E8, owed))


def v1_sizes(debt, collateral, close_factor, bonus, fee_bps, requested):
    """Return what is paid, seized, gained, and kept by the protocol."""
    (owed, dd, pd), (have, dc, pc) = debt, collateral
    paid = min(requested, percent(owed, dd, Fraction(close_factor, E8)))
    base = converted(paid, dd, dc, pd, pc)
    seized = percent(base, dc, 1 + Fraction(bonus, E8))
    gain = seized - base
    if seized > have:
        inverse = Fraction(half(Fraction(E8) / (1 + Fraction(bonus, E8))), E8)
        seized, gain = have, percent(have, dc, 1 - inverse)
        paid = percent(converted(have, dc, dd, pc, pd), dd, inverse)
    return paid, seized, gain, down(Fraction(fee_bps * gain, BPS))


amounts = st.integers(0, 3) | st.integers(0, 10**16)
prices = st.integers(1, 10**14)
decimals = st.sampled_from([0, 6, 8, 12, 18])
shares = st.sampled_from([0, 1, E8]) | st.integers(0, E8)
sized = st.tuples(amounts, decimals, prices)


@given(st.lists(st.tuples(sized, shares), max_size=4), st.lists(sized, max_size=4))
def test_the_health_factor_is_that_of_the_formula(collaterals, debts):
    assert health_factor(collaterals, debts) == v1_health(collaterals, debts)


@example((10**7, 6, E8), (10**6, 6, E8), E8 // 2, E8, BPS, 10**7)  # bonus above supply
@example((1, 6, E8), (10**9, 6, E8), E8 // 2, E8 // 10, 0, 1)  # closes to 0
@given(sized, sized, shares, shares, st.integers(0, BPS), amounts)
def test_the_sizes_are_those_of_the_formula(
    debt, collateral, close_factor, bonus, fee_bps, requested
):
    given = {"close_factor": close_factor, "bonus": bonus, "fee_bps": fee_bps}
    sizing = size_liquidation(debt, collateral, **given, requested=requested)
    paid, seized, gain, fee = v1_sizes(debt, collateral, *given.values(), requested)
    assert (sizing.paid, sizing.seized, sizing.bonus) == (paid, seized, gain)
    assert (sizing.fee, sizing.to_liquidator) == (fee, seized - fee)


@given(
    supplied=amounts,
    borrowed=amounts,
    price=prices,
    mode=st.integers(0, 2),
    both=st.booleans(),
)
def test_plans_are_those_of_the_formulas(world, supplied, borrowed, price, mode, both):
    """An asset may be collateral and debt at the same time."""
    ststx, aeusdc, *others = world.market.reserves
    ststx = msgspec.structs.replace(
        ststx, e_mode=1, e_mode_threshold=90_000_000, e_mode_bonus=1, close_factor=E8
    )
    market = msgspec.structs.replace(world.market, reserves=(ststx, aeusdc, *others))
    threshold, bonus = (90_000_000, 1) if mode == 1 else (ststx.threshold, ststx.bonus)
    owed = ststx if both else aeusdc
    held = [(ststx.asset, supplied, borrowed if both else 0)]
    held += [] if both else [(aeusdc.asset, 0, borrowed)]
    limits = Limits(margin=0, allow_unprofitable=True, slippage_bps=0)
    position, seen = world.position(*held, e_mode=mode), world.prices(ststx=price)
    decision = decide(world.case(position, seen, limits), rules_of(market))
    collateral = supplied, ststx.decimals, price
    debt = borrowed, owed.decimals, price if both else E8
    if not borrowed or not supplied:
        assert decision.reason in {Reason.NO_DEBT, Reason.NO_COLLATERAL}
        return
    health = v1_health([(collateral, threshold)], [debt])
    assert decision.standing.value == health
    requested = percent(borrowed, owed.decimals, Fraction(owed.close_factor, E8))
    paid, seized, _, fee = v1_sizes(
        debt, collateral, owed.close_factor, bonus, ststx.fee_bps, requested
    )
    if health >= market.rules.health_threshold:
        assert decision.reason is Reason.HEALTHY
    elif not paid or not seized - fee:
        assert decision.reason is Reason.TOO_SMALL
    else:
        offer = decision.offer
        assert (offer.paid, offer.seized, offer.received) == (
            paid,
            seized,
            seized - fee,
        )
        assert decision.least == seized


# ------------------------------------------------------------------------ Zest V2


class Refusal(Exception):
    """The formulas allow no liquidation."""


def v2_ltv(collaterals, debts):
    """Return collateral and debt in dollars, and the LTV."""
    worth = sum(
        down(Fraction(amount * price, 10**dec)) for amount, dec, price in collaterals
    )
    owed = sum(
        up(Fraction(up(Fraction(scaled * index, E12)) * price, 10**dec))
        for scaled, dec, price, index in debts
    )
    if not worth:
        return worth, owed, BPS if owed else 0
    return worth, owed, down(Fraction(owed * BPS, worth))


def v2_part(ltv, group):
    """Return the part of the debt that may be paid, and the penalty."""
    span = group.ltv_liq_full - group.ltv_liq_partial
    part = min(BPS, down(Fraction((ltv - group.ltv_liq_partial) * BPS, span)))
    exponent = Fraction(group.liq_curve_exp, BPS)
    if exponent > 1:
        part = down(Fraction(part**exponent.numerator, BPS ** (exponent.numerator - 1)))
    elif exponent < 1:
        part = math.isqrt(part * BPS)
    least, most = group.liq_penalty_min, group.liq_penalty_max
    return part, min(most, least + down(Fraction(part * (most - least), BPS)))


def v2_moved(collateral, debt, group, whole_debt, ltv, offered):
    """Return what a call pays, seizes, and at which penalty."""
    (have, dc, pc), (scaled_debt, dd, pd, index) = collateral, debt
    if ltv < group.ltv_liq_partial:
        raise Refusal("u400018")
    part, penalty = v2_part(ltv, group)
    gain = Fraction(BPS + penalty, BPS)
    usd = min(
        down(Fraction(offered * pd, 10**dd)), down(Fraction(part * whole_debt, BPS))
    )
    want = down(Fraction(down(usd * gain) * 10**dc, pc))
    take = min(want, have)
    if take < want:
        usd = down(Fraction(down(Fraction(take * pc, 10**dc))) / gain)
    scaled = down(Fraction(down(Fraction(usd * 10**dd, pd)) * E12, index))
    removed = min(scaled, scaled_debt)
    seized = down(Fraction(take * removed, scaled)) if removed < scaled else take
    paid = up(Fraction(removed * index, E12))
    left = down(Fraction((have - seized) * pc, 10**dc))
    rest = down(Fraction(left * BPS, BPS + group.liq_penalty_max))
    if not down(Fraction(down(Fraction(rest * 10**dd, pd)) * E12, index)):
        seized = have
    if not offered:
        raise Refusal("u400002")
    if not paid or not seized:
        raise Refusal("u400008")
    return paid, seized, penalty


BTC, USDC, STX = v2.FEEDS
NOW = 1_800_000_000
CASES = st.fixed_dictionaries(
    {
        "have": st.integers(1, 3) | st.integers(1, 10**12),
        "scaled": st.integers(1, 3) | st.integers(1, 10**14),
        "other": st.none() | st.integers(1, 10**12),
        "index": st.just(E12) | st.integers(E12, 3 * E12),
        "pc": st.integers(1, 10**13),
        "pd": st.just(E8) | st.integers(1, 10**9),
        "exponent": st.sampled_from([5000, 10_000, 20_000, 30_000, 40_000]),
        "partial": st.integers(1, 9_000),
        "span": st.integers(1, 1_000),
        "penalties": st.tuples(st.integers(0, 1000), st.integers(0, 1000)),
        "offered": st.integers(0, 3) | st.integers(1, 10**15),
        "at": st.none() | st.integers(0, 1_200),
    }
)


LAST_UNITS = {
    "other": None,
    "at": None,
    "index": E12,
    "pc": E8,
    "pd": E8,
    "have": 3405,  # 105 are left, which is less than a unit of debt and its penalty
    "scaled": 80,
    "exponent": 10_000,
    "partial": 9000,
    "span": 1000,
    "penalties": (0, 1000),
    "offered": 30,
}


def placed(case):
    """Return a case with a price of the collateral for its LTV, if it names one.

    ``at`` is the distance of the LTV to the threshold.
    """
    if case["at"] is None:
        return case
    owed = case["scaled"] * case["index"] // E12 * case["pd"] // 10**6
    price = owed * BPS // (case["partial"] + case["at"]) * E8 // case["have"]
    assume(0 < price < 10**25)
    return {**case, "pc": price, "other": None}


def v2_state(case):
    """Return a state with one share, one debt, and one debt in the collateral's asset."""

    def asset(number, decimals, ident):
        oracle = v2.Oracle(type=0, ident=ident, callcode=None, max_staleness=120)
        address = f"SP000000000000000000002Q6VF78.asset-{number}"
        return v2.Asset(id=number, addr=address, decimals=decimals, oracle=oracle)

    group = v2.Group(
        mask=1 << 2 | 1 << 64 + 2 | 1 << 64 + 6,
        liq_curve_exp=case["exponent"],
        liq_penalty_min=min(case["penalties"]),
        liq_penalty_max=max(case["penalties"]),
        ltv_liq_partial=case["partial"],
        ltv_liq_full=case["partial"] + case["span"],
    )
    vault = v2.Vault(index=case["index"], lindex=E12, last_update=NOW)
    return v2.StateV2(
        read_at=NOW,
        market="",
        enabled=1 << 2,
        assets=(asset(2, 8, BTC), asset(6, 6, USDC)),
        groups=(group,),
        vaults={2: msgspec.structs.replace(vault, index=E12), 6: vault},
    )


@settings(max_examples=200)
@given(CASES)
def test_plans_for_v2_are_those_of_the_formulas(world, case):
    """The call pays what would also be allowed at an LTV that is 0.1 % lower."""
    case = placed(case)
    market = Market.load(world.files / "zest-v2.toml")
    sbtc, usdcx = (market.reserves[each].asset for each in (2, 6))
    state = v2_state(case)
    assets = zip(state.assets, (sbtc, usdcx), strict=True)
    state = msgspec.structs.replace(
        state,
        market=market.contract,
        assets=tuple(msgspec.structs.replace(each, addr=addr) for each, addr in assets),
    )
    prices = {
        sbtc: world.price(sbtc, case["pc"], at=NOW),
        usdcx: world.price(usdcx, case["pd"], at=NOW),
    }
    limits = Limits(margin=0, allow_unprofitable=True, slippage_bps=0)
    position = world.position((sbtc, case["have"], 0), (usdcx, 0, case["scaled"]))
    decision = decide(
        world.case(position, prices, limits, state=state), rules_of(market)
    )
    group, collateral = state.groups[0], (case["have"], 8, case["pc"])
    debt = case["scaled"], 6, case["pd"], case["index"]
    _, owed, ltv = v2_ltv([collateral], [debt])
    lower = ltv * 9_990 // BPS
    assert decision.standing.value == ltv
    if ltv <= group.ltv_liq_partial:
        assert decision.reason is Reason.HEALTHY
    elif lower < group.ltv_liq_partial:
        assert decision.reason is Reason.TOO_CLOSE
    elif isinstance(decision, Plan):
        offer = decision.offer
        moved = v2_moved(collateral, debt, group, owed, ltv, offer.requested)
        assert (offer.paid, offer.seized) == moved[:2]
        assert offer.received == decision.least == offer.seized
        assert int(offer.facts["penalty_bps"]) == moved[2]
        allowed = down(Fraction(v2_part(lower, group)[0] * owed, BPS))
        assert (offer.requested - 1) * case["pd"] < allowed * 10**6
    else:
        assert decision.reason is Reason.TOO_SMALL


@settings(max_examples=300)
@example(LAST_UNITS)
@given(CASES)
def test_a_call_moves_what_the_formulas_say(case):
    state = v2_state(case)
    group, (btc, usdc) = state.groups[0], state.assets
    case = placed(case)
    account = v2.Account({2: case["have"]}, {6: case["scaled"]})
    debts = [(case["scaled"], 6, case["pd"], case["index"])]
    if case["other"]:  # the collateral's asset is owed, too
        account.debt[2] = case["other"]
        debts.append((case["other"], 8, case["pc"], E12))
    feeds = {
        1: Price(asset="", price=case["pc"], at=NOW),
        7: Price(asset="", price=case["pd"], at=NOW),
    }
    collateral = case["have"], 8, case["pc"]
    _, owed, ltv = v2_ltv([collateral], debts)
    assert v2.value(state, account, feeds, NOW).ltv == ltv
    for number, debt in zip((6, 2), debts, strict=False):
        pair = (usdc if number == 6 else btc).addr, btc.addr
        try:
            moved = v2.liquidate(state, account, feeds, NOW, pair, case["offered"])
            found = moved.paid, moved.seized, moved.penalty
        except v2.ContractError as error:
            found = error.code
        try:
            expected = v2_moved(collateral, debt, group, owed, ltv, case["offered"])
        except Refusal as refusal:
            expected = str(refusal)
        assert found == expected
        if isinstance(found, tuple):
            assert found[0] <= case["offered"]
            assert found[1] <= case["have"]
