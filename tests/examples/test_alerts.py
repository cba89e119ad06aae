"""Plans as alerts: exact values, the example's own entities, and whom an alert is about."""

from __future__ import annotations

from decimal import Decimal

import attrs
import pytest
from hypothesis import given, strategies as st

from liquidation_bot.alerts import (
    CHAIN_ID,
    ENTITY_TYPE,
    Ignored,
    LiquidationPlan,
    borrowers_of,
    entity_of,
    plan_alert,
)
from liquidation_bot.engine import decide
from liquidation_bot.model import exact
from liquidation_bot.stacks import ClarityError, c32_encode
from ortege_watch.watchbus import AlertInfo, Credentials, RequestVerifier, sign

# The hash that the Stacks namespace of CAIP-10 gives as an example, and its address.
HASH = "0xa46ff88886c2ef9762d970b4d2c63678835bd39d"
ADDRESS = "SP2J6ZY48GV1EZ5V2V5RB9MP66SW86PYKKNRV9EJ7"


@pytest.fixture
def plan(world):
    return decide(world.case(world.danger(), world.prices()), world.rules)


def alert(entity=HASH, *, chain_id=CHAIN_ID, entity_type=ENTITY_TYPE):
    return AlertInfo(entity, chain_id, entity_type, "moved", 0)


@pytest.mark.parametrize("principal", [ADDRESS, f"{ADDRESS}.vault", ADDRESS.lower()])
def test_the_entity_is_the_hash(principal):
    assert entity_of(principal) == HASH


@pytest.mark.parametrize("text", ["", "me", ADDRESS[:-1], HASH])
def test_what_is_no_address_has_no_entity(text):
    with pytest.raises(ClarityError):
        entity_of(text)


@given(st.sampled_from([22, 20, 26, 21]), st.binary(min_size=20, max_size=20))
def test_an_entity_leads_back_to_its_address(version, payload):
    address = c32_encode(version, payload)
    other = c32_encode(version, bytes(byte ^ 1 for byte in payload))
    found = borrowers_of(alert(entity_of(address)), [other, address])
    assert found == [address]


def test_a_plan_says_all_in_exact_numbers(plan, world):
    made = plan_alert(plan, "0123")
    values = made.event_values
    assert isinstance(values, LiquidationPlan)
    assert (made.entity, made.chain_id) == (entity_of(world.alice), CHAIN_ID)
    assert (made.event_code, made.timestamp) == ("liquidation_plan", world.now)
    assert list(values.problems()) == []
    assert dict(values) == {
        "plan_id": "0123",
        "borrower": world.alice,
        "standing": "health 0.9800",
        "debt_asset": "aeUSDC",
        "pays": Decimal(2500),
        "collateral_asset": "stSTX",
        "gets": Decimal("3892.857143"),
        "profit_usd": Decimal("197.65000009"),
    }


def test_a_plan_survives_the_way(plan):
    """What is signed, sent and read again is the same to the last digit."""
    huge = attrs.evolve(plan.offer, paid=2**127 + 1)
    made = plan_alert(attrs.evolve(plan, offer=huge), "0123")
    from ortege_watch.watchbus.wire import encode_alerts

    body, nonce, path = encode_alerts([made]), "0" * 32, "/a"
    signer = Credentials("bot", "secret")
    now = 1_700_000_000
    signature = sign(signer, "POST", path, body, timestamp=now * 1000, nonce=nonce)
    headers = {
        "appid": "bot",
        "timestamp": f"{now}000",
        "nonce": nonce,
        "signature": signature,
    }
    verifier = RequestVerifier({"bot": ["secret"]}, path=path, clock=lambda: float(now))
    [read] = verifier.alerts(
        {f"X-Signature-{name}": value for name, value in headers.items()}, body
    )
    assert read.event_values.pays == Decimal("170141183460469231731687303715884.105729")
    assert read.event_values.profit_usd == made.event_values.profit_usd


@pytest.mark.parametrize(
    ("value", "places", "expected"),
    [(1, 8, "0.00000001"), (-15, 1, "-1.5"), (2**128, 6, f"{2**128}E-6"), (7, 0, "7")],
)
def test_exact(value, places, expected):
    assert exact(value, places) == Decimal(expected)
    assert exact(value, places).as_tuple().exponent == -places


@pytest.mark.parametrize(
    "about",
    [
        alert(entity_type="ERC20"),
        alert(chain_id=1),
        alert(ADDRESS),
        alert(HASH[:-1]),
        alert(HASH.replace("0x", "1x")),
    ],
)
def test_other_entities_are_ignored(about):
    with pytest.raises(Ignored, match="another kind of entity"):
        borrowers_of(about, [ADDRESS])


def test_unknown_addresses_are_ignored(world):
    with pytest.raises(Ignored, match="an unknown borrower"):
        borrowers_of(alert(), [world.alice, world.bob, "nonsense"])


@pytest.mark.parametrize(
    "about",
    [alert(HASH.upper().replace("X", "x")), alert(entity_type="stacksprincipal")],
)
def test_case_does_not_matter(about):
    assert borrowers_of(about, [ADDRESS]) == [ADDRESS]


def test_all_that_the_hash_may_stand_for_is_named(world):
    contract = f"{ADDRESS}.vault"
    testnet = c32_encode(26, bytes.fromhex(HASH[2:]))
    known = [contract, world.alice, ADDRESS, testnet]
    assert borrowers_of(alert(), known) == [contract, ADDRESS, testnet]
