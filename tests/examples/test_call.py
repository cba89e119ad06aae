"""Plans as JSON: the ten arguments, the post-conditions, and no number that loses."""

from __future__ import annotations

import json

import attrs
import msgspec
import pytest

from liquidation_bot.engine import canonical, decide, document
from liquidation_bot.rules import LIQUIDATOR, rules_of
from liquidation_bot.stacks import Principal, UInt, deserialize


@pytest.fixture
def plan(world):
    return decide(world.case(world.danger(), world.prices()), world.rules)


def written(plan, world, **more):
    given = {"caveats": ["beware"], "liquidator": None, **more}
    return document(plan, world.market, world.rules, **given)


def test_the_ten_arguments_in_their_order(plan, world):
    call = written(plan, world)["call"]
    market = world.market
    assert call["contract"] == market.contracts.liquidation
    assert call["function"] == "liquidation-call"
    arguments = {each["name"]: each for each in call["arguments"]}
    assert list(arguments) == [
        "assets",
        "collateral-lp",
        "collateral-to-liquidate",
        "debt-asset",
        "collateral-oracle",
        "debt-oracle",
        "liquidated-user",
        "debt-amount",
        "to-receive-atoken",
        "price-feed-bytes",
    ]
    values = {
        name: deserialize(bytes.fromhex(each["hex"][2:]))
        for name, each in arguments.items()
    }
    ststx, aeusdc, _ = market.reserves
    assert values["assets"] == tuple(
        {
            "asset": Principal(each.asset),
            "lp-token": Principal(each.z_token),
            "oracle": Principal(each.oracle),
        }
        for each in market.reserves
    )
    assert values["collateral-lp"] == Principal(ststx.z_token)
    assert values["collateral-to-liquidate"] == Principal(ststx.asset)
    assert values["debt-asset"] == Principal(aeusdc.asset)
    assert values["collateral-oracle"] == Principal(ststx.oracle)
    assert values["debt-oracle"] == Principal(aeusdc.oracle)
    assert values["liquidated-user"] == Principal(world.alice)
    assert values["debt-amount"] == UInt(2_500_000_000)
    assert values["to-receive-atoken"] is False
    assert values["price-feed-bytes"] is None
    assert arguments["debt-amount"]["repr"] == "u2500000000"
    assert arguments["liquidated-user"]["repr"] == f"'{world.alice}"


def test_deny_mode_allows_the_transfers_and_the_fee_of_a_price_message(plan, world):
    call = written(plan, world, liquidator=world.bob)["call"]
    ststx, aeusdc, _ = world.market.reserves
    assert call["post_condition_mode"] == "deny"
    assert call["post_conditions"] == [
        {
            "type": "ft-postcondition",
            "address": world.bob,
            "condition": "lte",
            "amount": "2500000000",
            "asset": aeusdc.moves,
        },
        {
            "type": "stx-postcondition",
            "address": world.bob,
            "condition": "lte",
            "amount": "10",
        },
        {
            "type": "ft-postcondition",
            "address": world.market.contracts.vault,
            "condition": "gte",
            "amount": str(3_928_571_428 * 99 // 100),
            "asset": ststx.moves,
        },
        {
            "type": "ft-postcondition",
            "address": world.alice,
            "condition": "lte",
            # The z-tokens gain interest between reading and execution.
            "amount": "11000000001",
            "asset": ststx.z_moves,
        },
    ]


def test_without_an_address_there_is_a_placeholder(plan, world):
    [first, *_] = written(plan, world)["call"]["post_conditions"]
    assert first["address"] == LIQUIDATOR


def test_stx_that_pays_the_debt_and_the_fee_has_one_condition(plan, world):
    debt = msgspec.structs.replace(plan.debt, moves="")
    paid = attrs.evolve(plan.offer.debt, reserve=debt)
    stx = attrs.evolve(plan, offer=attrs.evolve(plan.offer, debt=paid))
    # The chain compares each condition with the sum of all STX that the address sends.
    first, *others = written(stx, world, liquidator=world.bob)["call"][
        "post_conditions"
    ]
    assert first == {
        "type": "stx-postcondition",
        "address": world.bob,
        "condition": "lte",
        "amount": "2500000010",
    }
    assert [each["type"] for each in others] == ["ft-postcondition"] * 2


def test_a_market_without_a_fee_allows_no_stx(plan, world):
    rules = msgspec.structs.replace(world.market.rules, message_fee=0)
    market = msgspec.structs.replace(world.market, rules=rules)
    given = {"caveats": [], "liquidator": None}
    call = document(plan, market, rules_of(market), **given)["call"]
    assert {each["type"] for each in call["post_conditions"]} == {"ft-postcondition"}


def test_the_plan_says_what_the_signer_may_insert_and_how_long_it_holds(plan, world):
    found = written(plan, world)
    assert found["call"]["complete"] is True
    assert "10 micro-STX" in found["call"]["signer_inserts"]["price-feed-bytes"]
    assert found["valid_until"] == world.now + 300
    assert [(each["asset"], each["age"]) for each in found["prices"]] == [
        ("stSTX", 0),
        ("aeUSDC", 0),
    ]


def test_it_says_what_it_is_and_what_is_not_known(plan, world):
    found = written(plan, world)
    assert found["what"] == "a plan: nothing was signed, nothing was sent"
    assert found["unverified"] == [*world.market.unverified, "beware"]
    assert found["market"]["as_of"] == "2026-11-22"
    assert found["usd"]["profit"] == "197.65000009"
    assert found["health"] == "0.98"


def test_no_number_in_it_can_lose_a_digit(plan, world):
    def numbers(value):
        if isinstance(value, dict):
            return [n for each in value.values() for n in numbers(each)]
        if isinstance(value, list):
            return [n for each in value for n in numbers(each)]
        return [value] if type(value) in {int, float} else []

    found = written(plan, world)
    assert json.loads(canonical(found)) == found
    assert all(type(n) is int and n < 2**53 for n in numbers(found))


def test_the_id_is_of_the_content(plan, world):
    assert written(plan, world) == written(plan, world)
    others = [
        attrs.evolve(plan, made_at=plan.made_at + 1),
        attrs.evolve(plan, borrower=world.bob),
    ]
    ids = {written(each, world)["id"] for each in [plan, *others]}
    assert len(ids) == 3
    assert all(len(each) == 16 for each in ids)
