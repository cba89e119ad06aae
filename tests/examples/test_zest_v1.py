"""The arithmetic, by the protocol's own vectors and by its properties."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, strategies as st

from liquidation_bot.rules.zest_v1 import (
    MAX,
    ONE,
    Sizing,
    div,
    div_perc,
    health_factor,
    mul,
    mul_perc,
    size_liquidation,
    usd,
    y_from_x,
)

BTC = 40_000 * ONE


def liquidation(**changes):
    """Size the liquidation of the derived vectors, with changes."""
    given = {
        "debt": 5_000_000_000,
        "debt_decimals": 6,
        "debt_price": ONE,
        "collateral": 10_000_000_000,
        "collateral_decimals": 6,
        "collateral_price": 70_000_000,
        "close_factor": ONE // 2,
        "bonus": ONE // 10,
        "fee_bps": 0,
        "requested": 5_000_000_000,
    }
    return sized({**given, **changes})


def sized(given):
    """Size a liquidation from numbers with names."""
    rest = dict(given)
    debt, collateral = (
        tuple(rest.pop(f"{side}{part}") for part in ("", "_decimals", "_price"))
        for side in ("debt", "collateral")
    )
    return size_liquidation(debt, collateral, **rest)


def health(collaterals, debts):
    """Return the health factor of (amount, decimals, price, threshold), and debts."""
    return health_factor([(each[:3], each[3]) for each in collaterals], debts)


@pytest.mark.parametrize(
    ("amount", "decimals", "price", "expected"),
    [
        (10**8, 8, BTC, BTC),
        (123, 8, BTC, 4_920_000),
        (1_234_567, 6, ONE, 123_456_700),
        (2_222_333, 6, ONE // 2, 111_116_650),
        (0, 6, ONE, 0),
        (1, 8, ONE // 2, 1),  # half is rounded up
        (1, 8, ONE // 2 - 1, 0),
        (10**18, 18, 3 * ONE, 3 * ONE),
        (10**10 - 1, 18, ONE, 0),  # what eight decimals do not show is cut off
    ],
)
def test_usd(amount, decimals, price, expected):
    assert usd(amount, decimals, price) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((10**8, 8, 6, BTC, 2 * ONE), 20_000_000_000),
        ((123_456_789, 8, 6, BTC, 2 * ONE), 24_691_357_800),
        ((5_000_000, 6, 6, ONE, ONE), 5_000_000),
        ((1_000_000, 6, 8, ONE, BTC), 2_500),
        ((10**18, 18, 6, 2 * ONE, ONE), 2_000_000),
        ((0, 8, 6, BTC, ONE), 0),
        ((1, 8, 6, ONE, ONE), 0),
    ],
)
def test_y_from_x(arguments, expected):
    assert y_from_x(*arguments) == expected


@pytest.mark.parametrize(
    ("amount", "decimals", "percentage", "expected"),
    [
        (20_000_000_000, 6, 105_000_000, 21_000_000_000),
        (24_691_357_800, 6, 105_000_000, 25_925_925_690),
        (1, 8, ONE // 2, 1),
        (1, 6, ONE // 2, 0),  # rounded at eight decimals, then cut off to six
        (1, 6, 99_499_999, 0),
        (1, 6, 99_500_000, 1),
        (10**18, 18, ONE // 4, 25 * 10**16),
        (1, 18, ONE // 2, 1),
        (0, 6, ONE, 0),
    ],
)
def test_mul_perc(amount, decimals, percentage, expected):
    assert mul_perc(amount, decimals, percentage) == expected


@pytest.mark.parametrize(
    ("amount", "decimals", "percentage", "expected"),
    [
        (21_000_000_000, 6, 105_000_000, 20_000_000_000),
        (1, 8, 2 * ONE, 1),
        (1, 8, 3 * ONE, 0),
        (25 * 10**16, 18, ONE // 4, 10**18),
        (0, 6, ONE, 0),
    ],
)
def test_div_perc(amount, decimals, percentage, expected):
    assert div_perc(amount, decimals, percentage) == expected


@pytest.mark.parametrize(
    ("x", "y", "product", "quotient"),
    [
        (ONE, ONE, ONE, ONE),
        (3, ONE // 2, 2, 6),  # 1.5 is rounded up
        (1, ONE // 2 - 1, 0, 2),
        (0, ONE, 0, 0),
        (2 * ONE, 3 * ONE, 6 * ONE, 66_666_667),
    ],
)
def test_mul_and_div_round_half_up(x, y, product, quotient):
    assert mul(x, y) == product
    assert div(x, y) == quotient


@pytest.mark.parametrize(
    ("collaterals", "debts", "expected"),
    [
        # The protocol's near miss: not liquidatable.
        ([(64_062_720_320, 8, ONE, 90_000_000)], [(57_600_000_100, 8, ONE)], 100098000),
        (
            [(10_000_000_000, 6, 80_000_000, 70_000_000)],
            [(5_000_000_000, 6, ONE)],
            112_000_000,
        ),
        (
            [(10_000_000_000, 6, 70_000_000, 70_000_000)],
            [(5_000_000_000, 6, ONE)],
            98_000_000,
        ),
        ([], [], MAX),
        ([(10**8, 8, ONE, ONE)], [], MAX),
        ([(10**8, 8, ONE, ONE)], [(0, 6, ONE)], MAX),
        ([(10**8, 8, ONE, ONE)], [(1, 18, ONE)], MAX),  # worth nothing in dollars
        ([], [(10**6, 6, ONE)], 0),
        ([(0, 8, ONE, ONE)], [(10**6, 6, ONE)], 0),
        ([(10**8, 8, 0, ONE)], [(10**6, 6, ONE)], 0),
        # Thresholds are weighted by value.
        (
            [(10**8, 8, ONE, 50_000_000), (3 * 10**6, 6, ONE, 90_000_000)],
            [(10**6, 6, ONE), (10**8, 8, ONE)],
            160_000_000,
        ),
    ],
)
def test_health_factor(collaterals, debts, expected):
    assert health(collaterals, debts) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Sizing(2_500_000_000, 3_928_571_428, 357_142_857, 0, 3_928_571_428)),
        (
            {"fee_bps": 1000},
            Sizing(2_500_000_000, 3_928_571_428, 357_142_857, 35_714_285, 3892857143),
        ),
        (
            {"collateral": 3_000_000_000},
            Sizing(1_909_090_911, 3_000_000_000, 272_727_270, 0, 3_000_000_000),
        ),
        # All that there is, to the last unit, is not more than there is.
        (
            {"collateral": 3_928_571_428},
            Sizing(2_500_000_000, 3_928_571_428, 357_142_857, 0, 3_928_571_428),
        ),
        (
            {"requested": 1_000_000},
            Sizing(1_000_000, 1_571_428, 142_857, 0, 1_571_428),
        ),
        ({"debt": 0}, Sizing(0, 0, 0, 0, 0)),
        ({"requested": 0}, Sizing(0, 0, 0, 0, 0)),
        ({"collateral": 0}, Sizing(0, 0, 0, 0, 0)),
        ({"bonus": 0}, Sizing(2_500_000_000, 3_571_428_571, 0, 0, 3_571_428_571)),
        (
            {"fee_bps": 10_000},
            Sizing(2500000000, 3928571428, 357142857, 357142857, 3571428571),
        ),
    ],
)
def test_sizes(changes, expected):
    assert liquidation(**changes) == expected


@pytest.mark.parametrize("wrong", [1.0, True, "1", None])
@pytest.mark.parametrize(
    "name", ["debt", "collateral", "bonus", "requested", "fee_bps", "debt_price"]
)
def test_what_is_no_int_is_refused(name, wrong):
    with pytest.raises(TypeError, match=f"must be an int, got {type(wrong).__name__}"):
        liquidation(**{name: wrong})


@pytest.mark.parametrize(
    "name",
    ["debt", "collateral", "bonus", "requested", "fee_bps", "close_factor"],
)
def test_negative_numbers_are_refused(name):
    with pytest.raises(ValueError, match="negative"):
        liquidation(**{name: -1})


@pytest.mark.parametrize("name", ["debt_price", "collateral_price"])
def test_a_price_of_zero_is_refused_as_the_contract_would_abort(name):
    with pytest.raises(ValueError, match="prices must be positive"):
        liquidation(**{name: 0})


def test_a_fee_above_all_is_refused():
    with pytest.raises(ValueError, match="at most 10000"):
        liquidation(fee_bps=10_001)


@pytest.mark.parametrize(
    "collateral", [(1.0, 8, ONE, ONE), (1, 8, ONE, True), (1, 8, ONE, 0.7)]
)
def test_health_takes_ints_only(collateral):
    with pytest.raises(TypeError):
        health([collateral], [(1, 8, ONE)])


amounts = st.integers(0, 10**16)
prices = st.integers(1, 10**14)
decimals = st.integers(0, 18)
shares = st.integers(0, ONE)


@st.composite
def liquidations(draw):
    return {
        "debt": draw(amounts),
        "debt_decimals": draw(decimals),
        "debt_price": draw(prices),
        "collateral": draw(amounts),
        "collateral_decimals": draw(decimals),
        "collateral_price": draw(prices),
        "close_factor": draw(shares),
        "bonus": draw(shares),
        "fee_bps": draw(st.integers(0, 10_000)),
        "requested": draw(amounts),
    }


@given(liquidations())
def test_never_seizes_more_than_there_is_nor_pays_more_than_is_asked(given):
    sizing = sized(given)
    assert 0 <= sizing.seized <= given["collateral"]
    assert 0 <= sizing.fee <= sizing.bonus or sizing.bonus == 0
    assert sizing.seized - sizing.fee == sizing.to_liquidator
    assert all(
        type(value) is int
        for value in (sizing.paid, sizing.seized, sizing.bonus, sizing.fee)
    )


@given(liquidations())
def test_full_sizing_pays_what_is_asked_within_the_close_factor(given):
    sizing = sized(given)
    if sizing.seized < given["collateral"]:
        most = mul_perc(given["debt"], given["debt_decimals"], given["close_factor"])
        assert sizing.paid == min(given["requested"], most)


borrowers = st.lists(st.tuples(amounts, decimals, prices, shares), max_size=4)
debts = st.lists(st.tuples(amounts, decimals, prices), max_size=4)


@given(borrowers, debts)
def test_health_is_the_quotient_within_rounding(collaterals, owed):
    factor = health(collaterals, owed)
    assert type(factor) is int
    value = sum(usd(*each) for each in owed)
    if value == 0:
        assert factor == MAX
        return
    total = sum(usd(*each[:3]) for each in collaterals)
    exact = sum(Fraction(usd(a, d, p) * t, ONE) for a, d, p, t in collaterals)
    # Rounded once for each collateral, then in the average, in the product, at the end.
    error = Fraction(len(collaterals) + 2) + Fraction(total, ONE)
    assert abs(Fraction(factor, ONE) - exact / value) <= error / value + Fraction(
        1, ONE
    )


@given(liquidations(), shares, st.integers(0, 10**12))
def test_health_never_falls_when_collateral_gains(given, threshold, gain):
    amount, places = given["collateral"], given["collateral_decimals"]
    debt = (given["debt"], given["debt_decimals"], given["debt_price"])

    def factor(price):
        return health([(amount, places, price, threshold)], [debt])

    price = given["collateral_price"]
    # The average is rounded anew for each price: by a unit of 10^-8 of the total.
    slack = usd(amount, places, price + gain) // max(usd(*debt), 1)
    assert factor(price + gain) >= factor(price) - slack - 1


@given(st.tuples(amounts, decimals, prices, shares), st.integers(1, 10**16), amounts)
def test_health_never_gains_when_debt_does(collateral, owed, more):
    def factor(price):
        return health([collateral], [(owed, 6, price)])

    assert factor(ONE + more) <= factor(ONE)


@given(st.integers(0, 10**20), decimals, prices)
def test_value_never_falls_with_the_price(amount, places, price):
    assert usd(amount, places, price) <= usd(amount, places, price + 1)
