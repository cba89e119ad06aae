"""Zest V2's arithmetic equals the contracts' on the real Clarity VM, to the last digit."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from liquidation_bot.model import Price
from liquidation_bot.rules import zest_v2 as v2
from liquidation_bot.rules.zest_v2 import (
    BPS,
    IDX,
    Account,
    Asset,
    ContractError,
    Group,
    MarketPauses,
    Oracle,
    StateV2 as State,
    Vault,
    VaultPauses,
)

VECTORS = json.loads(
    (Path(__file__).parents[1] / "data/zest_v2_clarity_vm.json").read_text("utf-8")
)
NOW = 1_800_000_000
BTC, USDC, STX = v2.FEEDS
DIA = "0d00000008555344682f555344"


def contract(number):
    """Return an invented address for an asset's id."""
    return f"SP000000000000000000002Q6VF78.asset-{number}"


ASSETS = tuple(
    Asset(
        id=int(number),
        addr=contract(number),
        decimals=decimals,
        oracle=Oracle(
            type=int(base == 3),
            ident=(BTC, STX, USDC, DIA)[base],
            callcode=None if callcode is None else int(callcode, 16),
            max_staleness=120,
        ),
    )
    for number, (_, decimals, base, callcode) in VECTORS["assets"].items()
)


def price(dollars, at=NOW):
    """Return a feed's price."""
    return Price(asset="", price=dollars, at=at)


def group(mask, exponent, penalty_min, penalty_max, _borrow, partial, full):
    """Return a risk group in the vectors' order."""
    return Group(
        mask=int(mask),
        liq_curve_exp=exponent,
        liq_penalty_min=penalty_min,
        liq_penalty_max=penalty_max,
        ltv_liq_partial=partial,
        ltv_liq_full=full,
    )


GROUPS = tuple(group(*each) for _, *each in VECTORS["egroups"])


def outcome(function):
    """Return what a function returns, or the code that it fails with."""
    try:
        return function()
    except ContractError as error:
        return error.code


# ------------------------------------------------------------------ helper functions


def ok(value):
    """Return a response, as the vectors write it."""
    return {"ok": value}


def parameters(ltv, partial, full, least, most, exponent, debt):
    part = v2.curve(v2.factor(ltv, partial, full), exponent)
    return {
        "liq-pct-scaled": part,
        "liq-penalty": v2.bound(part, least, most),
        "max-debt-usd": v2.mul_div(part, debt, BPS),
    }


def final(dollars, take, want, pc, dc, pd, dd, penalty):
    dollars, amount = v2.final_amounts(dollars, take, want, pc, dc, pd, dd, penalty)
    return {"debt-final": amount, "debt-final-usd": dollars}


def found(mask):
    """Return the number of the group of a mask."""
    state = State(read_at=NOW, market="", groups=GROUPS)
    got = outcome(lambda: GROUPS.index(state.group(mask)))
    return None if got == "u720007" else got


HELPERS = {
    "mul-div-down": v2.mul_div,
    "mul-div-up": lambda x, y, z: v2.mul_div(x, y, z, up=True),
    "div-up": lambda x, y: v2.mul_div(x, 1, y, up=True),
    "mul-bps-down": lambda x, y: v2.mul_div(x, y, BPS),
    "div-bps-down": lambda x, y: v2.mul_div(x, BPS, y),
    "normalize": lambda value, decimals, up: v2.usd(value, decimals, 1, up=up),
    "normalize-pyth": lambda price, exponent: ok(v2.pyth_price(price, exponent)),
    "check-confidence": lambda price, confidence: ok(
        v2.check_confidence(price, confidence, 1000) is None
    ),
    "calc-liq-factor": v2.factor,
    "calc-liq-factor-exp": v2.curve,
    "calc-liq-factor-bound": v2.bound,
    "calc-liq-debt-repay": lambda debt, part: v2.mul_div(part, debt, BPS),
    "calc-liq-collateral-repay": lambda debt, penalty: v2.mul_div(
        debt, BPS + penalty, BPS
    ),
    "calc-liq-debt-repay-real": lambda worth, penalty: v2.mul_div(
        worth, BPS, BPS + penalty
    ),
    "calc-liquidation-params": parameters,
    "is-healthy": lambda collateral, debt, ltv: (
        debt == 0 or v2.mul_div(debt, BPS, 1) <= v2.mul_div(collateral, ltv, 1)
    ),
    "calc-final-liquidation-amounts": final,
    "user-safe-mask": lambda mask, enabled: sum(
        1 << each for each in v2.priced(mask, enabled)
    ),
    "calc-utilization": v2.utilization,
    "calc-multiplier-delta": lambda rate, seconds, up: v2.multiplier(
        rate, seconds, up=up
    ),
    "calc-index-next": lambda index, growth: v2.mul_div(index, growth, IDX),
    "calc-cumulative-debt": v2.debt_of,
    "calc-liquidity-rate": v2.liquidity_rate,
    "interpolate-rate": v2.interest_rate,
    "find": found,
}


def number(value):
    """Return a vector's value with numbers instead of strings."""
    if isinstance(value, str):
        return int(value)
    if isinstance(value, list):
        return [number(each) for each in value]
    return (
        {key: number(each) for key, each in value.items()}
        if isinstance(value, dict)
        else value
    )


def expected(result):
    """Return a vector's result, or the code of its failure."""
    if isinstance(result, dict) and "runtime_error" in result:
        return result["runtime_error"]
    if isinstance(result, dict) and "err" in result:
        return f"u{result['err']}"
    return number(result)


@pytest.mark.parametrize("name", sorted(HELPERS))
def test_helpers_return_what_the_contracts_return(name):
    cases = [case for case in VECTORS["math"] if case[1] == name]
    wrong = [
        (arguments, result, got)
        for _, _, arguments, result in cases
        if (got := outcome(lambda args=arguments: HELPERS[name](*number(args))))
        != expected(result)
    ]
    assert cases
    assert not wrong[:3]


def test_every_vector_is_checked():
    assert len(VECTORS["math"]) == 1724
    assert {case[1] for case in VECTORS["math"]} == set(HELPERS)
    assert (len(VECTORS["liquidation"]), len(VECTORS["gates"])) == (817, 28)


# ----------------------------------------------------------------- liquidation calls


def still(index, lindex):
    """Return a vault whose indexes are known at the moment of the call."""
    return Vault(
        index=index,
        lindex=lindex,
        last_update=NOW,
        pauses=VaultPauses(accrue=True, repay=False),
    )


def run(case):
    """Call the pure function as the contract was called."""
    prices, ratios = number(case["prices"]), number(case["ratios"])
    account = Account(dict(number(case["collateral"])), dict(number(case["debt"])))
    state = State(
        read_at=NOW,
        market="",
        enabled=2**128 - 1,
        assets=ASSETS,
        groups=(group(account.mask, *case["egroup"]),),
        vaults={
            int(each): still(*number(indexes))
            for each, indexes in case["indexes"].items()
        },
        dia={DIA: price(prices[3])},
        ststx=ratios[0],
        stbtc=ratios[1],
        haircut=ratios[2],
    )
    quotes = dict(zip((1, 45, 7), map(price, prices), strict=False))
    pair = contract(case["debt_asset"]), contract(case["collateral_asset"])
    amounts = int(case["debt_amount"]), int(case["min_collateral"])
    result = v2.liquidate(state, account, quotes, NOW, pair, *amounts)
    book = v2.value(state, account, quotes, NOW)
    return {
        "debt": result.paid,
        "collateral": result.seized,
        "collateral_usd": book.collateral,
        "debt_usd": book.debt,
        "penalty_bps": result.penalty,
        "debt_repaid_usd": result.dollars,
        "collateral_price": result.price,
        "socialized": result.socialized,
    }


def test_liquidations_move_what_the_contract_moves():
    wrong = []
    for case in VECTORS["liquidation"]:
        result = case["result"]
        want = f"u{result['error']}" if "error" in result else number(result)
        got = outcome(lambda case=case: run(case))
        if got != want:
            wrong.append((case, got))
    assert not wrong[:3]
    assert sum("error" not in case["result"] for case in VECTORS["liquidation"]) == 467


# ---------------------------------------------------------------------- single calls

# The vectors have only the results of these calls; prices and amounts are chosen so that
# the same results follow: one share of sBTC, 55000 USDCx of debt, BTC at 69810 USD.
ZSBTC, USDCX, ZSTX, SBTC, USDH = (contract(each) for each in (3, 6, 1, 2, 8))
ENABLED = sum(1 << each for each in (1, 2, 3, 5, 7, 9, 11, 13))
PRICES = {1: 69_810 * 10**8, 7: 10**8, 45: 20_000_000}


def state(**changes):
    """Return the state at the initialisation."""
    vaults = {each: still(IDX, IDX) for each in (0, 2, 4, 6, 8, 10, 12)}
    base = State(
        read_at=NOW,
        market="",
        enabled=ENABLED,
        assets=ASSETS,
        groups=GROUPS,
        vaults=vaults,
        dia={DIA: price(10**8)},
    )
    return msgspec.structs.replace(base, **changes)


def vault(**changes):
    """Return the vaults, that of USDCx changed."""
    known = state().vaults
    return {**known, 6: msgspec.structs.replace(known[6], **changes)}


def account(collateral=None, debt=55_000_000_000):
    """Return a position of zsBTC and USDCx."""
    return Account(collateral or {3: 10**8}, {6: debt})


def call(where=None, who=None, *, pay=USDCX, seize=ZSBTC, amount=10**6, **more):
    """Return what a call moves, or why it fails, as the vectors write it."""
    age = more.pop("age", 0)
    feeds = more.pop("feeds", {n: price(p, NOW - age) for n, p in PRICES.items()})
    try:
        moved = v2.liquidate(
            where or state(), who or account(), feeds, NOW, (pay, seize), amount, **more
        )
    except ContractError as error:
        return f"(err {error.code})" if error.code[0] == "u" else f"abort: {error.code}"
    return f"(ok {{ collateral: u{moved.seized}, debt: u{moved.paid} }})"


def redeem(seize):
    """Return the result of ``liquidate-redeem``: shares are burnt for what they lend."""
    asset = state().asset(seize)
    if asset.id not in v2.SHARES:
        return "(err u400009)"
    result = call(amount=2 * 10**6, seize=seize)
    seized, paid = (result.split("u")[each] for each in (1, 2))
    return f"(ok {{ debt: u{paid[:7]}, underlying: u{seized[:4]} }})"


def both(first, second):
    """Return the result of ``liquidate-multi-with-feeds``: one failure fails all."""
    failed = [each for each in (first, second) if each.startswith("(err")]
    return failed[0] if failed else f"(ok (list {first} {second}))"


LARGE = {"amount": 10**27, "least": 10**20}
GATES = {
    "healthy position": lambda: call(who=account(debt=40_000_000_000)),
    "price-feeds none": lambda: call(feeds={}),
    "account without a position": lambda: call(who=Account({}, {})),
    "debt token of an asset that is neither held nor owed by the borrower": lambda: (
        call(pay=USDH)
    ),
    "token not in the registry": lambda: call(pay=contract(99)),
    "debt-amount 2^128-1": lambda: call(amount=2**128 - 1),
    "debt-amount 10^27 with min-collateral 10^20": lambda: call(**LARGE),
    "collateral token the borrower does not hold, priced without a vault index (sBTC)": lambda: (
        call(seize=SBTC)
    ),
    "collateral share token the borrower does not hold, vault not accrued in this call (zSTX)": lambda: (
        call(seize=ZSTX)
    ),
    "called through another contract": lambda: call(known={"u400025"}),
    "message 121 s old, limit 120 s": lambda: call(age=121),
    "message 120 s old, limit 120 s, min-collateral 10^20": lambda: call(
        age=120, **LARGE
    ),
    # The borrower is no argument of the arithmetic.
    "the borrower liquidates himself": call,
    "pause-liquidation set": lambda: call(state(paused=True)),
    "within the global grace period after unpausing": lambda: call(
        state(grace_end=NOW + 1)
    ),
    "grace period of the debt asset": lambda: call(
        state(vaults=vault(grace_end=NOW + 1))
    ),
    "grace period of the collateral asset only": lambda: call(
        state(
            vaults={
                **vault(),
                2: Vault(index=IDX, lindex=IDX, last_update=NOW, grace_end=NOW + 1),
            }
        )
    ),
    "repay paused in the debt vault (USDC)": lambda: call(
        state(vaults=vault(pauses=VaultPauses(accrue=True, repay=True)))
    ),
    "collateral-remove paused in the market vault": lambda: call(
        state(pauses=MarketPauses(collateral_remove=True, debt_remove=False))
    ),
    "caller without debt tokens": lambda: call(known={"u1"}),
    # The receiver is no argument of the arithmetic.
    "collateral-receiver given": lambda: call(amount=2 * 10**6),
    "liquidate-redeem, share token": lambda: redeem(ZSBTC),
    "liquidate-redeem, not a share token": lambda: redeem(SBTC),
    "liquidate-multi-with-feeds, two good entries": lambda: both(
        call(), call(amount=2 * 10**6)
    ),
    "liquidate-multi-with-feeds, one good and one healthy entry": lambda: both(
        call(), call(who=account(debt=40_000_000_000))
    ),
    "borrow and liquidate in one block": lambda: (
        f"(ok true) | {call(known={'u400024'})}"
    ),
    "message older than the last one accepted for that feed": lambda: call(
        state(accepted={1: NOW + 1})
    ),
    "the only collateral was disabled in the registry (its value counts 0, LTV reads 10000)": lambda: (
        call(
            state(enabled=ENABLED ^ 0b10),
            Account({1: 10**9}, {6: 10**8}),
            seize=ZSTX,
            amount=10**8,
        )
    ),
}


@pytest.mark.parametrize(("case", "result"), VECTORS["gates"])
def test_single_calls_end_as_in_the_contract(case, result):
    assert GATES[case]() == result


def test_each_price_of_a_position_needs_a_feed():
    mask = Account({1: 1, 3: 1}, {6: 1, 8: 1}).mask
    every, debts = v2.priced(mask, ENABLED), v2.priced(mask, 0)
    assert v2.required_feeds(state(), every) == {1: 120, 7: 120, 45: 120}
    assert v2.required_feeds(state(), debts) == {7: 120}


def test_the_first_refusal_in_the_contract_s_order_is_named():
    wrong = state(
        paused=True,
        pauses=MarketPauses(collateral_remove=True, debt_remove=False),
        vaults=vault(pauses=VaultPauses(accrue=True, repay=True)),
    )
    order = ["u400016", "u803006", "u600002", "u1"]
    known = {"u1"}
    assert call(wrong, known=known) == f"(err {order[0]})"
    wrong = msgspec.structs.replace(wrong, paused=False)
    assert call(wrong, known=known) == f"(err {order[1]})"
    wrong = msgspec.structs.replace(wrong, vaults=vault())
    assert call(wrong, known=known) == f"(err {order[2]})"
    assert call(known=known) == f"(err {order[3]})"


def test_indexes_are_rolled_forward_from_the_last_accrual():
    lent = Vault(
        index=IDX,
        lindex=IDX,
        last_update=NOW,
        principal=6_000_000,
        available=4_000_000,
        utils=(0, 5000, 10_000),
        rates=(0, 500, 1000),
        fee=1000,
    )
    year = NOW + 31_536_000
    assert lent.indexes(NOW) == lent.indexes(NOW - 5) == (IDX, IDX)
    # 60 % is lent at 6 %; suppliers get 60 % of that, less a tenth: 324 basis points
    assert lent.indexes(year) == (IDX * 106 // 100, IDX * 10_324 // 10_000)
    paused = msgspec.structs.replace(lent, pauses=VaultPauses(accrue=True, repay=False))
    assert paused.indexes(year) == (IDX, IDX)


def test_stbtc_has_a_ratio_within_limits_and_a_haircut():
    held = Account({13: 10**8}, {6: 1})

    def worth(**changes):
        feeds = {n: price(p) for n, p in PRICES.items()}
        book = v2.value(state(**changes), held, feeds, NOW)
        return book.prices[13]

    assert worth(stbtc=10**8 * 3 // 2, haircut=100) == PRICES[1] * 3 // 2 * 99 // 100
    assert worth(stbtc=2 * 10**8) == 2 * PRICES[1] == 4 * worth(stbtc=10**8 // 2)
    for ratio in (10**8 // 2 - 1, 2 * 10**8 + 1):
        assert outcome(lambda ratio=ratio: worth(stbtc=ratio)) == "u400015"


@pytest.mark.parametrize(("enabled", "socialized"), [(ENABLED, True), (1 << 3, False)])
def test_disabled_collateral_keeps_the_rest_of_the_debt(enabled, socialized):
    held = Account({3: 100, 1: 1}, {6: 10**6})
    wide = msgspec.structs.replace(GROUPS[3], mask=2**128 - 1)
    feeds = {n: price(p) for n, p in PRICES.items()}
    moved = v2.liquidate(
        state(enabled=enabled, groups=(wide,)),
        held,
        feeds,
        NOW,
        (USDCX, ZSBTC),
        10**6,
    )
    assert (moved.seized, moved.socialized) == (100, socialized)
