"""The signer of plans: what it signs is what the plan says, to the byte.

Plans come from the bot's own code, keys are thrown away. The signed transactions are read
by the small decoder below (SIP-005), not by the library that wrote them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from attrs import frozen
from harness.machine import available
from harness.node_modules import find_node, node_modules

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from liquidation_bot.engine import Plan, document
from liquidation_bot.market import Market
from liquidation_bot.model import Holding, Position
from liquidation_bot.rules import LIQUIDATOR, Offer, Quote, Standing, rules_of
from liquidation_bot.stacks import Some, c32_encode, serialize

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SIGNER, MARKETS = EXAMPLES / "signer", EXAMPLES / "liquidation_bot" / "markets"
KEY = "5e" * 32 + "01"  # thrown away
SENDER = "SP3BBD9B6FX4A5W6J9X4PA5A2VG3HKER1S7EVPFEM"
OTHER = "SP3VGRTTC0XNGZ2HNE3REXHC82VJYNGV66BEMBWB7"
BORROWER = "SPAZ0AWR4XF9F2K6PB1YTESJY00Z1KAFHBC4S6AK"
MESSAGE = bytes(range(256)) * 8
NONCE, FEE = 2**40 + 7, 3001
SECONDS = 60
CODES = {1: "eq", 2: "gt", 3: "gte", 4: "lt", 5: "lte"}
# Loaded before the script: every connection and every look-up fails.
NO_NETWORK = """
const fail = () => { throw new Error('the network was used'); };
require('node:net').Socket.prototype.connect = fail;
require('node:dns').lookup = fail;
"""


@frozen
class Transaction:
    """A signed contract call, decoded."""

    version: int
    chain_id: int
    signer: str
    nonce: int
    fee: int
    mode: int
    conditions: list[dict[str, str]]
    contract: str
    function: str
    arguments: bytes


class Reader:
    def __init__(self, data):
        self.data = data

    def take(self, count):
        assert len(self.data) >= count
        part, self.data = self.data[:count], self.data[count:]
        return part

    def number(self, size):
        return int.from_bytes(self.take(size))

    def name(self):
        return self.take(self.number(1)).decode("ascii")

    def address(self):
        return c32_encode(self.number(1), self.take(20))

    def condition(self):
        kind, principal = self.number(1), self.number(1)
        found = {"type": {0: "stx-postcondition", 1: "ft-postcondition"}[kind]}
        found["address"] = self.address()
        assert principal in (2, 3)
        if principal == 3:
            found["address"] += f".{self.name()}"
        if kind == 1:
            found["asset"] = f"{self.address()}.{self.name()}::{self.name()}"
        found["condition"] = CODES[self.number(1)]
        found["amount"] = str(self.number(8))
        return found


def decoded(text):
    """Decode a contract call that is signed with one key."""
    reader = Reader(bytes.fromhex(text.removeprefix("0x")))
    version, chain_id = reader.number(1), reader.number(4)
    assert reader.number(1) == 4  # standard authorization
    assert reader.number(1) == 0  # one public key
    signer = c32_encode(22, reader.take(20))  # a single key on mainnet
    nonce, fee = reader.number(8), reader.number(8)
    reader.take(1 + 65)  # the key's encoding and the signature
    assert reader.number(1) == 3  # any anchor
    mode = reader.number(1)
    conditions = [reader.condition() for _ in range(reader.number(4))]
    assert reader.number(1) == 2  # a contract call
    return Transaction(
        version=version,
        chain_id=chain_id,
        signer=signer,
        nonce=nonce,
        fee=fee,
        mode=mode,
        conditions=conditions,
        contract=f"{reader.address()}.{reader.name()}",
        function=reader.name(),
        arguments=reader.data,
    )


def planned(file, debt, collateral, *, message_fee=None, **facts):
    """Return a plan of the market in a file, in the form that the bot writes it."""
    text = (MARKETS / file).read_text(encoding="utf-8")
    if message_fee is not None:
        text = re.sub(r"message_fee = \d+", f"message_fee = {message_fee}", text)
    market = Market.read(text)
    symbols = {each.symbol: each for each in market.reserves}
    paying, taking = symbols[debt], symbols[collateral]
    now = int(time.time())
    offer = Offer(
        debt=Quote(reserve=paying, price=1, source=None),
        collateral=Quote(reserve=taking, price=1, source=None),
        requested=2_500_000_000,
        paid=2_499_999_999,
        seized=3_928_571_428,
        received=3_892_857_143,
        facts={},
    )
    held = Holding(asset=taking.asset, supplied=10_000_000_000)
    plan = Plan(
        borrower=BORROWER,
        made_at=now,
        valid_until=now + 600,
        standing=Standing(value=0, text="", headroom=-1, facts=facts, quotes={}),
        offer=offer,
        gained_usd=1,
        profit_usd=1,
        least=3_889_285_713,
        position=Position(borrower=BORROWER, holdings=(held,), read_at=now),
    )
    return document(plan, market, rules_of(market), caveats=[], liquidator=SENDER)


def filled(plan, value):
    """Return the plan with a price message."""
    [argument] = [
        each
        for each in plan["call"]["arguments"]
        if each["name"] in plan["call"]["signer_inserts"]
    ]
    assert argument["hex"] == "0x09"
    argument["hex"] = f"0x{serialize(value).hex()}"
    return plan


def v2(debt, collateral, *, feeds="none", message_fee=None):
    """Return a plan for Zest V2, with a price message if it needs one."""
    plan = planned(
        "zest-v2.toml", debt, collateral, message_fee=message_fee, price_feeds=feeds
    )
    return plan if feeds == "none" else filled(plan, Some([MESSAGE]))


PLANS = {
    "v1": lambda: planned("demo.toml", "aeUSDC", "stSTX"),
    "v1 message": lambda: filled(
        planned("demo.toml", "aeUSDC", "stSTX", message_fee=2), Some(MESSAGE)
    ),
    "v1 real names": lambda: planned("zest-v1.toml", "aeUSDC", "stSTX"),
    "v1 stx debt": lambda: planned("zest-v1.toml", "wSTX", "stSTX", message_fee=2),
    "v2 share": lambda: v2("USDCx", "zsBTC"),
    "v2 plain collateral": lambda: v2("USDh", "sBTC"),
    "v2 stx debt": lambda: v2("wSTX", "zUSDC", message_fee=3),
    "v2 stx debt, no fee": lambda: v2("wSTX", "sBTC"),
    "v2 message": lambda: v2("USDCx", "zsBTC", feeds="1 (at most 120 s old)"),
}


@pytest.fixture(scope="session")
def node(pytestconfig):
    """Return a function that runs a script with the signer's packages."""
    with available(pytestconfig):
        program, packages = find_node(), node_modules(SIGNER, "signer")

    def run(*arguments, cwd=None, **env):
        return subprocess.run(
            [program, *arguments],
            cwd=cwd,
            env={"PATH": os.environ["PATH"], "NODE_PATH": str(packages), **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    return run


@pytest.fixture
def sign(node, tmp_path):
    """Return a function that signs a plan without a network."""
    guard, path = tmp_path / "guard.js", tmp_path / "plan.json"

    def run(plan, *arguments, key=KEY, before=""):
        guard.write_text(NO_NETWORK + before, encoding="utf-8")
        path.write_text(plan if isinstance(plan, str) else json.dumps(plan), "utf-8")
        env = {} if key is None else {"STACKS_PRIVATE_KEY": key}
        given = arguments or ("--nonce", str(NONCE), "--fee", str(FEE))
        return node("--require", guard, SIGNER / "sign.js", path, *given, **env)

    return run


def check(done, plan):
    """Assert that exactly the call of the plan was signed."""
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["plan"] == plan["id"]
    assert printed["sender"] == SENDER
    call, signed = plan["call"], decoded(printed["transaction"])
    assert (signed.version, signed.chain_id) == (0x00, 1)  # mainnet
    assert (signed.signer, signed.nonce, signed.fee) == (SENDER, NONCE, FEE)
    assert (signed.contract, signed.function) == (call["contract"], call["function"])
    values = [bytes.fromhex(each["hex"][2:]) for each in call["arguments"]]
    assert signed.arguments == len(values).to_bytes(4) + b"".join(values)
    assert signed.mode == 2  # deny
    assert signed.conditions == call["post_conditions"]
    assert KEY[:64] not in done.stdout + done.stderr


@pytest.mark.parametrize("kind", PLANS)
def test_it_signs_the_plan_as_it_is(sign, kind):
    plan = PLANS[kind]()
    check(sign(plan), plan)


def test_the_readme_shows_how_a_price_message_is_filled_in(node, sign, tmp_path):
    text = (SIGNER / "README.md").read_text("utf-8")
    [script] = re.findall(r"^```js\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    plan = planned("zest-v2.toml", "USDCx", "zsBTC", price_feeds="1")
    (tmp_path / "plan.json").write_text(json.dumps(plan), "utf-8")
    (tmp_path / "message.bin").write_bytes(MESSAGE)
    (tmp_path / "fill.js").write_text(script, "utf-8")
    done = node("fill.js", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "plan.json").read_text("utf-8"))
    assert found == filled(plan, Some([MESSAGE]))
    check(sign(found), found)


def test_a_plan_that_needs_a_price_message_is_refused_without_it(sign):
    plan = planned("zest-v2.toml", "USDCx", "zsBTC", price_feeds="1, 7")
    done = sign(plan)
    assert done.returncode == 2
    assert done.stdout == ""
    assert 'argument "price-feeds" is not filled, it needs (some (list' in done.stderr


def test_other_nonces_and_fees_are_other_transactions(sign):
    plan = PLANS["v1"]()
    ids = {
        json.loads(sign(plan, "--nonce", nonce, "--fee", fee).stdout)["txid"]
        for nonce, fee in [("0", "0"), ("0", "1"), ("1", "0")]
    }
    assert len(ids) == 3


def top(**values):
    return lambda plan: plan.update(values)


def call(**values):
    return lambda plan: plan["call"].update(values)


def last_argument(**values):
    return lambda plan: plan["call"]["arguments"][-1].update(values)


def first_condition(**values):
    return lambda plan: plan["call"]["post_conditions"][0].update(values)


def of_another(plan):
    for each in plan["call"]["post_conditions"]:
        if each["address"] == SENDER:
            each["address"] = OTHER


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (top(valid_until=1_700_000_000), "valid until 1700000000"),
        (top(valid_until=None), "valid_until must be seconds, got null"),
        (top(call=None), "not a plan"),
        (call(arguments=None), "not a plan"),
        (call(post_condition_mode="allow"), 'must be "deny", got "allow"'),
        (first_condition(address=LIQUIDATOR), "--liquidator ADDRESS"),
        (of_another, "for another liquidator"),
        (first_condition(condition="sent"), 'unknown condition: "sent"'),
        (first_condition(type="nft-postcondition"), "unknown type"),
        (first_condition(amount="-1"), 'invalid amount: "-1"'),
        (first_condition(amount=str(2**64)), "invalid amount"),
        (first_condition(asset="SP1.x"), 'invalid asset: "SP1.x"'),
        (call(complete=False), "is not filled, it needs none relies on the prices"),
        (call(complete=False, signer_inserts={}), "does not say what is missing"),
        (call(complete=None), "complete must be true or false, got null"),
        (last_argument(hex="<the price message>"), '"price-feed-bytes" is not filled'),
        (last_argument(hex=None), "is not filled: hex is null"),
        (last_argument(hex="0xff"), '"price-feed-bytes" is no Clarity value'),
        (last_argument(hex="0x0909"), "has bytes after its Clarity value"),
    ],
)
def test_it_refuses(sign, change, reason):
    plan = PLANS["v1"]()
    change(plan)
    done = sign(plan)
    assert done.returncode == 2
    assert done.stdout == ""
    assert reason in done.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--nonce", "1"], "--fee must be a whole number, got nothing"),
        (["--nonce", "-1", "--fee", "1"], "nonce"),
        (["--nonce", "1.5", "--fee", "1"], '--nonce must be a whole number, got "1.5"'),
        (["another.json", "--nonce", "1", "--fee", "1"], "expected one plan"),
        (["--nonce", "1", "--fee", "1", "--send"], "--send"),
    ],
)
def test_wrong_use_is_told(sign, arguments, reason):
    done = sign(PLANS["v1"](), *arguments)
    assert done.returncode == 2
    assert reason in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("key", [None, "", "secret words", KEY[:-2] + "02"])
def test_what_is_not_a_key_is_refused_and_not_shown(sign, key):
    done = sign(PLANS["v1"](), key=key)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "STACKS_PRIVATE_KEY must have 64 hex digits" in done.stderr
    assert not key or key not in done.stderr


def test_the_key_is_in_no_error_of_the_library(sign):
    before = """
        const id = require.resolve('@stacks/transactions');
        const leak = ({ senderKey }) => { throw new Error(`bad ${senderKey}`); };
        const real = require(id);
        require.cache[id].exports = { ...real, makeContractCall: leak };
    """
    done = sign(PLANS["v1"](), before=before)
    assert done.returncode == 1
    assert done.stderr == "sign.js: unexpected error: bad <key>\n"


@pytest.mark.parametrize(
    "tampered",
    [
        "postConditions: given.postConditions.slice(1)",
        "postConditions: given.postConditions.slice(0, -1)",
        "postConditions: given.postConditions.map(each => ({ ...each, amount: '1' }))",
        "functionArgs: given.functionArgs.slice(1)",
    ],
)
def test_nothing_is_printed_if_the_transaction_differs_from_the_plan(sign, tampered):
    before = f"""
        const id = require.resolve('@stacks/transactions');
        const real = require(id);
        const makeContractCall = given =>
          real.makeContractCall({{ ...given, {tampered} }});
        require.cache[id].exports = {{ ...real, makeContractCall }};
    """
    done = sign(PLANS["v1"](), before=before)
    assert done.returncode == 2
    assert "the signed transaction differs from the plan" in done.stderr
    assert done.stdout == ""


def test_the_guard_of_these_tests_finds_a_connection(sign):
    done = sign(PLANS["v1"](), before="require('node:net').connect(9);")
    assert "the network was used" in done.stderr


def test_what_is_not_json_is_refused(sign):
    done = sign("{")
    assert done.returncode == 2
    assert "cannot read the plan" in done.stderr
