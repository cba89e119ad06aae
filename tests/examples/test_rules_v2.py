"""Plans for Zest V2: the standing of a position, the call, and what is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from liquidation_bot.engine import (
    Limits,
    Plan,
    PositionsRead,
    PricesSeen,
    StateRead,
    canonical,
    decide,
    document,
)
from liquidation_bot.market import Market, MarketError
from liquidation_bot.model import Holding, Position, Price
from liquidation_bot.record import Recorder, Session, replay
from liquidation_bot.rules import Case, Reason, rules_of
from liquidation_bot.rules.zest_v2 import (
    FEEDS,
    IDX,
    Account,
    Asset,
    Group,
    MarketPauses,
    Oracle,
    StateV2,
    Vault,
    VaultPauses,
    liquidate,
)

FILE = Path(__file__).parents[2] / "examples/liquidation_bot/markets/zest-v2.toml"
NOW = 1_800_000_000
WHO = "SPAZ0AWR4XF9F2K6PB1YTESJY00Z1KAFHBC4S6AK"
BTC, USDC, STX = FEEDS
LIMITS = Limits(transaction_fee=0, slippage_bps=0)


@pytest.fixture(scope="module")
def market():
    """Return the shipped market."""
    return Market.load(FILE)


class Chain:
    """The market's state with sBTC's and USDCx's vaults, and a position of Alice."""

    def __init__(self, market):
        self.market = market
        self.rules = rules_of(market)
        self.asset = {each.symbol: each.asset for each in market.reserves}
        feeds = {"zsBTC": (BTC, 2), "USDCx": (USDC, None), "sBTC": (BTC, None)}
        assets = [
            Asset(
                id=number,
                addr=reserve.asset,
                decimals=reserve.decimals,
                oracle=Oracle(
                    type=0,
                    ident=feeds.get(reserve.symbol, (STX, None))[0],
                    callcode=feeds.get(reserve.symbol, (STX, None))[1],
                    max_staleness=120,
                ),
            )
            for number, reserve in enumerate(market.reserves)
        ]
        group = Group(
            mask=0b1100 | 1 << 64 + 6,
            liq_curve_exp=10_000,
            liq_penalty_min=750,
            liq_penalty_max=1000,
            ltv_liq_partial=7000,
            ltv_liq_full=7500,
        )
        vault = Vault(index=IDX, lindex=IDX, last_update=NOW)
        self.state = StateV2(
            read_at=NOW,
            market=market.contract,
            enabled=0b1000,
            assets=tuple(assets),
            groups=(group,),
            vaults={2: vault, 6: vault},
        )
        self.prices = {
            self.asset[symbol]: Price(asset=self.asset[symbol], price=price, at=NOW - 5)
            for symbol, price in {"sBTC": 60_000 * 10**8, "USDCx": 10**8}.items()
        }

    def position(self, debt=43_000_000_000, collateral=10**8):
        """Return one share of sBTC, and a debt."""
        held = {"zsBTC": (collateral, 0), "USDCx": (0, debt)}
        return Position(
            borrower=WHO,
            holdings=tuple(
                Holding(asset=self.asset[symbol], supplied=some, borrowed=owed)
                for symbol, (some, owed) in held.items()
                if some or owed
            ),
            read_at=NOW,
        )

    def decide(self, position=None, limits=LIMITS, now=NOW, **changes):
        """Return the decision, with changes of the state."""
        state = msgspec.structs.replace(self.state, **changes)
        who = position or self.position()
        return decide(self.case(who, limits, now=now, state=state), self.rules)

    def case(self, position, limits=LIMITS, **more):
        return Case(
            position=position, prices=self.prices, limits=limits, **{"now": NOW, **more}
        )


@pytest.fixture
def chain(market):
    return Chain(market)


def test_a_plan_pays_the_part_that_the_curve_allows(chain):
    plan = chain.decide()
    # LTV 71.66 %: 166 of the 500 basis points between the thresholds, for a penalty of
    # 7.50 % and 33.2 % of 2.50 %. The call pays 31.6 % of the debt, as if the LTV were
    # 71.58 %, so that it still passes if that falls by a tenth of a percent.
    assert isinstance(plan, Plan)
    assert plan.standing.text == "LTV 71.66 %"
    assert plan.standing.headroom == -1_660_000
    assert (plan.offer.paid, plan.offer.facts["penalty_bps"]) == (13_588_000_000, "833")
    assert (
        plan.offer.seized
        == 13_588_000_000 * 10_833 // 10_000 * 10**8 // 10**6 // 60_000
    )
    assert plan.offer.requested == plan.offer.paid
    assert plan.valid_until == NOW - 5 + 120


def test_the_call_has_seven_arguments_and_leaves_the_message_to_the_signer(chain):
    plan = chain.decide(limits=msgspec.structs.replace(LIMITS, slippage_bps=100))
    made = document(plan, chain.market, chain.rules, caveats=[], liquidator=None)
    call = made["call"]
    arguments = {each["name"]: each["repr"] for each in call["arguments"]}
    assert call["contract"].endswith(".v0-8-market")
    assert arguments == {
        "borrower": f"'{WHO}",
        "collateral-ft": f"'{chain.asset['zsBTC']}",
        "debt-ft": f"'{chain.asset['USDCx']}",
        "debt-amount": "u13588000000",
        "min-collateral-expected": f"u{plan.least}",
        "collateral-receiver": "none",
        "price-feeds": "none",
    }
    assert call["complete"] is False
    feeds = "1 (at most 120 s old), 7 (at most 120 s old)"
    assert made["price_feeds"] == feeds
    assert feeds in call["signer_inserts"]["price-feeds"]
    assert made["prices"][0]["age"] == 5


def test_the_conditions_allow_the_two_transfers_alone(chain):
    plan = chain.decide()
    call = chain.rules.call(plan, WHO)
    assert call["post_conditions"] == [
        {
            "type": "ft-postcondition",
            "address": WHO,
            "condition": "lte",
            "amount": "13588000000",
            "asset": f"{chain.asset['USDCx']}::usdcx-token",
        },
        {
            "type": "ft-postcondition",
            "address": chain.market.vault,
            "condition": "gte",
            "amount": str(plan.least),
            "asset": f"{chain.asset['zsBTC']}::zft",
        },
    ]


def test_a_price_message_that_costs_something_is_allowed(chain):
    paid = msgspec.structs.replace(chain.market, message_fee=7)
    call = rules_of(paid).call(chain.decide(), WHO)
    assert {
        "type": "stx-postcondition",
        "address": WHO,
        "condition": "lte",
        "amount": "7",
    } in call["post_conditions"]


def test_nothing_is_planned_unless_the_market_in_force_has_its_rules_here(chain):
    other = "SP1A27KFY4XERQCCRCARCYD1CC5N7M6688BSYADJ7.v0-9-market"
    skip = chain.decide(market=other)
    assert skip.reason is Reason.OTHER_MARKET
    assert other in skip.detail


def test_nothing_is_planned_without_the_state_or_with_an_old_one(chain):
    unread = decide(chain.case(chain.position()), chain.rules)
    assert unread.reason is chain.decide(read_at=NOW - 601).reason is Reason.NO_STATE
    assert isinstance(chain.decide(read_at=NOW - 600), Plan)


def test_a_market_file_names_a_market_whose_rules_are_implemented(market):
    text = market.text.replace('v0-8-market"', 'v0-9-market"')
    with pytest.raises(MarketError, match="contract must be v0-8-market"):
        Market.read(text)


def test_at_the_threshold_the_refusal_of_the_call_is_named(chain):
    skip = chain.decide(
        chain.position(debt=42_000_000_000), msgspec.structs.replace(LIMITS, margin=0)
    )
    assert skip.reason is Reason.HEALTHY
    assert skip.detail == "LTV 70.00 %, at which a call fails with u400008"


@pytest.mark.parametrize(
    ("changes", "reason", "code"),
    [
        ({"paused": True}, Reason.PAUSED, "u400016"),
        ({"grace_end": NOW + 1}, Reason.PAUSED, "u400016"),
        (
            {"pauses": MarketPauses(collateral_remove=True, debt_remove=False)},
            Reason.PAUSED,
            "u600002",
        ),
        ({"groups": ()}, Reason.UNKNOWN_ASSET, "u720007"),
        ({"assets": ()}, Reason.UNKNOWN_ASSET, "u710007"),
    ],
)
def test_a_call_that_would_fail_is_not_planned(chain, changes, reason, code):
    skip = chain.decide(**changes)
    assert (skip.reason, code in skip.detail) == (reason, True)


def test_repaying_that_is_paused_is_named(chain):
    vaults = dict(chain.state.vaults)
    vaults[6] = msgspec.structs.replace(
        vaults[6], pauses=VaultPauses(accrue=False, repay=True)
    )
    assert "u803006: repaying is paused" in chain.decide(vaults=vaults).detail


def test_prices_that_the_call_would_refuse_are_named(chain):
    assert chain.decide(now=NOW + 116).reason is Reason.STALE_PRICE
    btc = chain.asset["sBTC"]
    chain.prices[btc] = msgspec.structs.replace(
        chain.prices[btc], confidence=6001 * 10**8
    )
    assert chain.decide().reason is Reason.WIDE_PRICE
    del chain.prices[btc]
    assert chain.decide().reason is Reason.NO_PRICE


def test_shares_follow_the_price_and_the_index_of_what_they_lend(chain):
    vaults = dict(chain.state.vaults)
    vaults[2] = msgspec.structs.replace(vaults[2], lindex=IDX * 11 // 10)
    standing = chain.decide(vaults=vaults).standing
    assert standing.text == "LTV 65.15 %"
    assert chain.rules.price_assets(chain.position()) == {
        chain.asset["sBTC"],
        chain.asset["USDCx"],
    }


def test_the_cap_limits_the_call(chain):
    capped = msgspec.structs.replace(LIMITS, wallet_cap=1000 * 10**8)
    assert chain.decide(limits=capped).offer.requested == 1000 * 10**6
    none = msgspec.structs.replace(LIMITS, wallet_cap=0)
    assert chain.decide(limits=none).reason is Reason.OVER_CAP


def test_a_token_with_other_decimals_is_refused(chain):
    assets = [
        msgspec.structs.replace(each, decimals=7) if each.id == 3 else each
        for each in chain.state.assets
    ]
    assert chain.decide(assets=tuple(assets)).reason is Reason.UNKNOWN_ASSET


def test_a_position_with_prices_on_the_chain_alone_needs_no_message(chain):
    ident = "0d00000008555344682f555344"
    dia = Oracle(type=1, ident=ident, callcode=None, max_staleness=1200)
    shares = Oracle(type=1, ident=ident, callcode=5, max_staleness=120)
    oracles = {8: dia, 9: shares}
    assets = tuple(
        msgspec.structs.replace(each, oracle=oracles.get(each.id, each.oracle))
        for each in chain.state.assets
    )
    usdh, share = (chain.market.reserves[each].asset for each in (8, 9))
    plan = chain.decide(
        Position(
            borrower=WHO,
            holdings=(
                Holding(asset=share, supplied=10**11),
                Holding(asset=usdh, borrowed=8 * 10**10),
            ),
            read_at=NOW,
        ),
        assets=assets,
        enabled=1 << 9,
        groups=(msgspec.structs.replace(chain.state.groups[0], mask=1 << 9 | 1 << 72),),
        vaults={8: Vault(index=IDX, lindex=IDX, last_update=NOW)},
        dia={ident: Price(asset=usdh, price=10**8, at=NOW - 100)},
    )
    assert isinstance(plan, Plan)
    call = chain.rules.call(plan, WHO)
    assert (call["complete"], call["signer_inserts"]) == (True, {})
    assert plan.valid_until == NOW + 20


def test_a_recorded_session_makes_the_same_plans_again(chain, tmp_path):
    session = Session(
        market=chain.market,
        limits=LIMITS,
        cool_down=60,
        cool_downs={},
        caveats=("none",),
        liquidator=None,
    )
    engine, path = session.engine(), tmp_path / "record"
    given = [
        PricesSeen(NOW, tuple(chain.prices.values())),
        PositionsRead(NOW, (chain.position(),)),
        StateRead(NOW, chain.state),
    ]
    made = []
    with Recorder(path, session) as record:
        for each in given:
            record(each)
            made += [plan for plan in engine.handle(each) if isinstance(plan, Plan)]
    assert len(made) == 1
    assert list(map(canonical, replay(path))) == [canonical(session.document(made[0]))]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"ltv_liq_full": 7000}, "DivisionByZero"),
        ({"ltv_liq_full": 6999, "liq_curve_exp": 5000}, "ArithmeticUnderflow"),
        ({"liq_penalty_max": 0}, "ArithmeticUnderflow"),
    ],
)
def test_a_group_that_the_contract_would_not_accept_ends_no_bot(chain, change, code):
    group = msgspec.structs.replace(chain.state.groups[0], **change)
    assert code in chain.decide(groups=(group,)).detail


def test_a_call_still_passes_if_the_price_recovers_a_little(chain):
    """The curve then allows less, and a call that pays less seizes too little."""
    plan = chain.decide(limits=msgspec.structs.replace(LIMITS, slippage_bps=100))
    later = {
        1: Price(asset="", price=60_000 * 10**8 * 1001 // 1000, at=NOW),
        7: Price(asset="", price=10**8, at=NOW),
    }
    account = Account({3: 10**8}, {6: 43_000_000_000})
    pair = plan.debt.asset, plan.collateral.asset
    amounts = plan.offer.requested, plan.least
    moved = liquidate(chain.state, account, later, NOW, pair, *amounts)
    assert moved.paid == plan.offer.requested


def test_a_position_that_a_small_move_makes_healthy_is_not_worth_a_plan(chain):
    skip = chain.decide(
        chain.position(debt=42_040_000_000), msgspec.structs.replace(LIMITS, margin=0)
    )
    assert (skip.standing.text, skip.reason) == ("LTV 70.06 %", Reason.TOO_CLOSE)


def test_the_call_may_pay_what_it_offers_though_it_pays_less(chain):
    vaults = dict(chain.state.vaults)
    vaults[6] = msgspec.structs.replace(vaults[6], index=IDX * 10**6 // 3)
    plan = chain.decide(chain.position(debt=129_001), vaults=vaults)
    offer = plan.offer
    assert offer.paid < offer.requested
    assert plan.paid_usd < plan.most_paid_usd
    [sent, _] = chain.rules.call(plan, WHO)["post_conditions"]
    assert sent["amount"] == str(offer.requested)


@pytest.mark.parametrize(
    ("debt", "text", "code"),
    [
        (42_100_000_000, "LTV 70.16 %", "u400008"),
        # Here the curve allows a ten thousandth, and nothing after a small move.
        (42_310_000_000, "LTV 70.51 %", "u400002"),
    ],
)
def test_a_part_that_the_curve_rounds_to_nothing_is_too_small(chain, debt, text, code):
    steep = msgspec.structs.replace(chain.state.groups[0], liq_curve_exp=40_000)
    skip = chain.decide(chain.position(debt=debt), groups=(steep,))
    assert (skip.standing.text, skip.reason) == (text, Reason.TOO_SMALL)
    assert code in skip.detail


def disabled(chain, **feed):
    """Return a decision about disabled zSTX beside the share of sBTC."""
    zstx = chain.asset["zSTX"]
    held = chain.position().holdings
    if feed:
        stx = chain.asset["wSTX"]
        chain.prices[stx] = Price(asset=stx, **feed)
    group = msgspec.structs.replace(chain.state.groups[0], mask=0b1110 | 1 << 70)
    return chain.decide(
        msgspec.structs.replace(
            chain.position(), holdings=(*held, Holding(asset=zstx, supplied=10**12))
        ),
        groups=(group,),
        vaults={**chain.state.vaults, 0: chain.state.vaults[2]},
    )


def test_disabled_collateral_that_is_seized_needs_its_price_in_the_message(chain):
    few = chain.position(collateral=10).holdings[0]
    position = chain.position
    chain.position = lambda: msgspec.structs.replace(
        position(), holdings=(few, position().holdings[1])
    )
    plan = disabled(chain, price=10**8, at=NOW - 60)
    assert plan.collateral.symbol == "zSTX"
    assert plan.valid_until == NOW + 60
    assert "45 (at most 120 s old)" in plan.standing.facts["price_feeds"]


@pytest.mark.parametrize("feed", [{}, {"price": 0, "at": NOW}, {"price": 9, "at": 0}])
def test_disabled_collateral_without_a_price_hinders_no_other(chain, feed):
    plan = disabled(chain, **feed)
    assert plan.collateral.symbol == "zsBTC"
    assert "45" not in plan.standing.facts["price_feeds"]


def test_a_plan_ends_before_a_price_is_older_than_the_contract_accepts(chain):
    long = msgspec.structs.replace(LIMITS, valid_for=10**6)
    plan = chain.decide(limits=long, now=NOW + 115)
    assert (plan.made_at, plan.valid_until) == (NOW + 115, NOW + 115)
    assert chain.decide(limits=long, now=NOW + 116).reason is Reason.STALE_PRICE
