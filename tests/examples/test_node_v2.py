"""Zest V2's positions and state from a node, which a fake transport plays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import msgspec
import pytest

from liquidation_bot.chain import Node, NodeSource
from liquidation_bot.engine import (
    Engine,
    Limits,
    Plan,
    PositionsRead,
    PricesSeen,
    StateRead,
)
from liquidation_bot.market import Market, MarketError
from liquidation_bot.model import Holding, Price, SourceError
from liquidation_bot.rules import MarketCheck, Reason
from liquidation_bot.rules.zest_v2 import (
    FEEDS,
    IDX,
    Asset,
    Group,
    MarketPauses,
    Oracle,
    StateV2,
    Vault,
    VaultPauses,
)
from liquidation_bot.stacks import (
    Err,
    Name,
    Ok,
    Principal,
    Some,
    UInt,
    deserialize,
    serialize,
)
from ortege_watch.testing import FakeCube

pytestmark = pytest.mark.anyio
FILE = Path(__file__).parents[2] / "examples/liquidation_bot/markets/zest-v2.toml"
NOW = 1_800_000_000
ALICE = "SPAZ0AWR4XF9F2K6PB1YTESJY00Z1KAFHBC4S6AK"
BOB = "SP3VGRTTC0XNGZ2HNE3REXHC82VJYNGV66BEMBWB7"
BTC, USDC, STX = FEEDS
DIA = serialize(Name("USDh/USD")).hex()
ALL = UInt(2**64 - 1)


class Chain:
    """Answer read-only calls from a table, and remember them."""

    def __init__(self):
        self.answers = {}
        self.calls = []

    def say(self, contract, function, *arguments, result):
        self.answers[contract, function, arguments] = result

    def __call__(self, request):
        *_, address, name, function = request.url.path.split("/")
        arguments = tuple(
            deserialize(bytes.fromhex(each[2:]))
            for each in json.loads(request.content)["arguments"]
        )
        key = (f"{address}.{name}", function, arguments)
        self.calls.append(key)
        if key not in self.answers:
            return httpx.Response(200, json={"okay": False, "cause": f"no {key}"})
        result = f"0x{serialize(self.answers[key]).hex()}"
        return httpx.Response(200, json={"okay": True, "result": result})


@pytest.fixture(scope="module")
def market():
    return Market.load(FILE)


@pytest.fixture
def expected(market):
    """Return the state that the scripted node has: wSTX, zSTX, sBTC, zsBTC, USDh."""
    oracles = ((0, STX, 0), (0, STX, 1), (0, BTC, None), (0, BTC, 2), (1, DIA, None))
    reserves = [*market.reserves[:4], market.reserves[8]]
    vault = Vault(
        index=IDX + 5,
        lindex=IDX + 3,
        last_update=NOW - 60,
        principal=600,
        available=400,
        utils=(0, 5000, 10_000),
        rates=(0, 500, 1000),
        fee=1000,
        pauses=VaultPauses(accrue=False, repay=True),
        grace_end=NOW - 1,
    )
    return StateV2(
        read_at=NOW,
        market=market.contract,
        enabled=0b1010,
        assets=tuple(
            Asset(
                id=number,
                addr=reserve.asset,
                decimals=reserve.decimals,
                oracle=Oracle(
                    type=kind, ident=ident, callcode=code, max_staleness=120 + number
                ),
            )
            for number, (reserve, (kind, ident, code)) in enumerate(
                zip(reserves, oracles, strict=True)
            )
        ),
        groups=tuple(
            Group(
                mask=mask,
                liq_curve_exp=20_000,
                liq_penalty_min=750,
                liq_penalty_max=1000,
                ltv_liq_partial=7000 + mask,
                ltv_liq_full=7500,
            )
            for mask in (1, 2)
        ),
        vaults={0: vault, 2: vault},
        dia={DIA: Price(asset=reserves[4].asset, price=99_000_000, at=NOW - 9)},
        ststx=1_100_000,
        stbtc=100_000_001,
        haircut=50,
        max_confidence=900,
        paused=True,
        grace_end=NOW - 2,
        pauses=MarketPauses(collateral_remove=False, debt_remove=True),
    )


@pytest.fixture
def chain(market, expected):
    """Return a node that answers as the contracts would in that state."""
    chain, names = Chain(), market.node

    def two(number):
        return number.to_bytes(2)

    def numbers(values):
        return Ok(tuple(map(UInt, values)))

    chain.say(market.vault, "get-impl", result=Principal(market.contract))
    states = {"collateral-add", "collateral-remove", "debt-add", "debt-remove"}
    pauses = {each: each == "debt-remove" for each in states}
    chain.say(market.vault, "get-pause-states", result=Ok(pauses))
    chain.say(names["assets"], "get-bitmap", result=UInt(expected.enabled))
    chain.say(names["assets"], "get-nonce", result=Ok(UInt(5)))
    for each in expected.assets:
        code = each.oracle.callcode
        entry = {
            "id": UInt(each.id),
            "addr": Principal(each.addr),
            "decimals": UInt(each.decimals),
            "oracle": {
                "type": bytes([each.oracle.type]),
                "ident": bytes.fromhex(each.oracle.ident),
                "callcode": None if code is None else Some(bytes([code])),
                "max-staleness": UInt(each.oracle.max_staleness),
            },
            "collateral": True,
            "debt": False,
        }
        chain.say(names["assets"], "get-status", UInt(each.id), result=Ok(entry))
    chain.say(names["groups"], "get-nonce", result=Ok(UInt(2)))
    for number, each in enumerate(expected.groups):
        entry = {
            "id": bytes([number]),
            "MASK": UInt(each.mask),
            "BORROW-DISABLED-MASK": UInt(0),
            "LIQ-CURVE-EXP": two(each.liq_curve_exp),
            "LIQ-PENALTY-MIN": two(each.liq_penalty_min),
            "LIQ-PENALTY-MAX": two(each.liq_penalty_max),
            "LTV-BORROW": two(6000),
            "LTV-LIQ-PARTIAL": two(each.ltv_liq_partial),
            "LTV-LIQ-FULL": two(each.ltv_liq_full),
        }
        chain.say(names["groups"], "lookup", UInt(number), result=entry)
    for lent, share in ((0, 1), (2, 3)):
        vault, contract = expected.vaults[lent], expected.assets[share].addr
        kinds = ("deposit", "redeem", "borrow", "repay", "accrue", "flashloan")
        answers = {
            "get-index": Ok(UInt(vault.index)),
            "get-liquidity-index": Ok(UInt(vault.lindex)),
            "get-last-update": Ok(UInt(vault.last_update)),
            "get-principal-scaled": Ok(UInt(vault.principal)),
            "get-available-assets": UInt(vault.available),
            "get-points-util": numbers(vault.utils),
            "get-points-rate": numbers(vault.rates),
            "get-fee-reserve": Ok(UInt(vault.fee)),
            "get-pause-states": Ok({each: each == "repay" for each in kinds}),
        }
        for function, result in answers.items():
            chain.say(contract, function, result=result)
        chain.say(
            market.contract,
            "get-liquidation-grace-period-asset",
            UInt(lent),
            result=Ok(UInt(vault.grace_end)),
        )
    dia = {"value": UInt(99_000_000), "timestamp": UInt(NOW * 1000 - 8001)}
    chain.say(names["dia"], "get-value", Name("USDh/USD"), result=Ok(dia))
    chain.say(names["ststx"], "get-stx-per-ststx", result=UInt(expected.ststx))
    chain.say(names["stbtc"], "get-sbtc-per-stbtc", result=UInt(expected.stbtc))
    one = {
        "get-stbtc-haircut-bps": UInt(50),
        "get-max-confidence-ratio": Ok(UInt(900)),
        "get-pause-liquidation": Ok(True),
        "get-liquidation-grace-end": Ok(UInt(NOW - 2)),
    }
    for function, result in one.items():
        chain.say(market.contract, function, result=result)
    return chain


@pytest.fixture
async def source(chain, market):
    async with Node(
        "http://node", transport=httpx.MockTransport(chain), calls_per_minute=10**6
    ) as node:
        yield NodeSource(node, market)


async def test_the_state_is_read_as_the_contracts_have_it(source, expected):
    assert await source.state(NOW) == expected


async def test_indexes_are_read_as_stored_and_rolled_forward(source, chain):
    state = await source.state(NOW)
    assert state.vaults[0].indexes(NOW)[0] > IDX + 5
    asked = {function for _, function, _ in chain.calls}
    assert not asked & {"get-cached-indexes", "get-next-index"}


async def test_of_another_market_only_its_name_is_read(source, chain, market):
    other = market.contract.replace("v0-8", "v0-9")
    chain.say(market.vault, "get-impl", result=Principal(other))
    assert await source.state(NOW) == StateV2(read_at=NOW, market=other)
    assert len(chain.calls) == 1


def holds(chain, market, who, *, collateral=(), debt=()):
    """Prepare a position."""
    position = {
        "id": UInt(7),
        "account": Principal(who),
        "mask": UInt(0),
        "last-update": UInt(NOW),
        "last-borrow-block": UInt(5),
        "collateral": tuple(
            {"aid": UInt(aid), "amount": UInt(amount)} for aid, amount in collateral
        ),
        "debt": tuple(
            {"aid": UInt(aid), "scaled": UInt(scaled)} for aid, scaled in debt
        ),
    }
    args = (Principal(who), ALL)
    chain.say(market.vault, "get-position", *args, result=Ok(position))


async def test_a_position_has_collateral_and_scaled_debt_by_token(
    source, chain, market, expected
):
    holds(chain, market, ALICE, collateral=[(3, 70), (1, 5)], debt=[(2, 9), (3, 1)])
    [position] = await source.positions([ALICE], NOW)
    tokens = {each.id: each.addr for each in expected.assets}
    assert (position.borrower, position.read_at) == (ALICE, NOW)
    assert position.holdings == (
        Holding(asset=tokens[1], supplied=5, borrowed=0),
        Holding(asset=tokens[2], supplied=0, borrowed=9),
        Holding(asset=tokens[3], supplied=70, borrowed=1),
    )


async def test_an_account_without_a_position_has_no_holdings(source, chain, market):
    args = (Principal(ALICE), ALL)
    chain.say(market.vault, "get-position", *args, result=Err(UInt(600006)))
    [position] = await source.positions([ALICE], NOW)
    assert position.holdings == ()


async def test_an_asset_that_is_not_registered_keeps_its_number(source, chain, market):
    holds(chain, market, ALICE, debt=[(77, 9)])
    [position] = await source.positions([ALICE], NOW)
    assert position.holdings[0].asset == "asset 77"


async def test_a_position_that_fails_does_not_lose_the_others(source, chain, market):
    holds(chain, market, ALICE, debt=[(2, 9)])
    with pytest.raises(SourceError, match="1 of 2 positions not read") as caught:
        await source.positions([ALICE, BOB], NOW)
    assert [each.borrower for each in caught.value.read] == [ALICE]


async def test_the_newest_accounts_with_debt_are_the_borrowers(source, chain, market):
    chain.say(market.vault, "get-nr", result=UInt(3))
    for number, (who, mask) in enumerate([(BOB, 1 << 64), (ALICE, 1 << 66), (BOB, 2)]):
        entry = {"id": UInt(number), "account": Principal(who), "mask": UInt(mask)}
        chain.say(market.vault, "lookup", UInt(number), result=entry)
    assert await source.borrowers(2) == [ALICE]


@pytest.mark.parametrize(
    "answer", [Err(UInt(1)), Ok(True), Ok(Name("five")), Ok({"a": UInt(1)})]
)
async def test_an_unexpected_answer_names_the_function(source, chain, market, answer):
    chain.say(market.node["assets"], "get-nonce", result=answer)
    with pytest.raises(SourceError, match="v0-assets get-nonce"):
        await source.state(NOW)


async def test_a_field_that_is_missing_is_named(source, chain, market):
    chain.say(market.vault, "get-pause-states", result=Ok({"collateral-add": True}))
    with pytest.raises(SourceError, match="collateral-remove"):
        await source.state(NOW)


async def test_a_file_is_compared_with_the_market_in_force_and_the_registry(
    source, chain, market
):
    reserves = market.reserves[:4]
    like = msgspec.structs.replace(market, reserves=(*reserves, market.reserves[8]))
    node = source._node
    assert await NodeSource(node, like).compare() == MarketCheck((), ())
    fewer = await NodeSource(
        node, msgspec.structs.replace(like, reserves=reserves)
    ).compare()
    assert (fewer.wrong, len(fewer.missing)) == ((), 1)
    found = await NodeSource(node, market).compare()
    assert "the chain has nothing, the file SP1A27" in found.wrong[-1]
    other = market.contract.replace("v0-8", "v0-9")
    chain.say(market.vault, "get-impl", result=Principal(other))
    [wrong] = (await NodeSource(node, like).compare()).wrong
    assert other in wrong
    assert market.contract in wrong


async def test_the_market_file_names_the_contracts(market):
    node = Node("http://node", transport=httpx.MockTransport(Chain()))
    with pytest.raises(MarketError, match="dia is missing"):
        NodeSource(
            node,
            msgspec.structs.replace(
                market, node={k: v for k, v in market.node.items() if k != "dia"}
            ),
        )


@pytest.fixture
def danger(chain, market):
    """Let Alice be liquidated: a share of sBTC, and a debt in STX."""
    off = dict.fromkeys(("accrue", "repay", "collateral-remove", "debt-remove"), False)
    for share in (1, 3):
        contract = market.reserves[share].asset
        chain.say(contract, "get-pause-states", result=Ok(off))
        end = (UInt(share - 1),)
        grace = "get-liquidation-grace-period-asset"
        chain.say(market.contract, grace, *end, result=Ok(UInt(0)))
    chain.say(market.vault, "get-pause-states", result=Ok(off))
    chain.say(market.contract, "get-pause-liquidation", result=Ok(False))
    chain.say(market.contract, "get-liquidation-grace-end", result=Ok(UInt(0)))
    lookup = (market.node["groups"], "lookup", (UInt(0),))
    chain.answers[lookup] |= {
        "MASK": UInt(2**80 - 1),
        "LIQ-CURVE-EXP": (10_000).to_bytes(2),
        "LTV-LIQ-PARTIAL": (7000).to_bytes(2),
    }
    holds(chain, market, ALICE, collateral=[(3, 10**8)], debt=[(0, 215_000 * 10**6)])
    return {market.reserves[0].asset: 20_000_000, market.reserves[2].asset: 6 * 10**12}


async def test_a_position_on_the_chain_becomes_a_plan(source, chain, market, danger):
    """From the node's answers to the call, the debt in STX."""
    engine = Engine(market, Limits(slippage_bps=0), cool_down=60)
    engine.handle(StateRead(NOW, await source.state(NOW)))
    seen = [Price(asset=each, price=price, at=NOW) for each, price in danger.items()]
    engine.handle(PricesSeen(NOW, tuple(seen)))
    found = await source.positions([ALICE], NOW)
    [plan] = engine.handle(PositionsRead(NOW, tuple(found)))
    assert isinstance(plan, Plan)
    # The scripted registry gives wSTX the callcode of stSTX, whose ratio is 1.1.
    assert plan.standing.text == "LTV 78.83 %"
    assert engine.rules.call(plan, BOB)["post_conditions"][0] == {
        "type": "stx-postcondition",
        "address": BOB,
        "condition": "lte",
        "amount": str(plan.offer.requested),
    }
    # The market is replaced.
    chain.say(market.vault, "get-impl", result=Principal(f"{BOB}.v0-9-market"))
    [skip] = engine.handle(StateRead(NOW + 99, await source.state(NOW + 99)))
    assert skip.reason is Reason.OTHER_MARKET


@pytest.fixture
def served(chain):
    """Serve the scripted node over HTTP."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = chain(httpx.Request("POST", f"http://x{self.path}", content=body))
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_program_lists_borrowers_on_the_chain_and_plans(
    chain, market, danger, served, tmp_path
):
    chain.say(market.vault, "get-nr", result=UInt(1))
    account = {"id": UInt(0), "account": Principal(ALICE), "mask": UInt(1 << 64)}
    chain.say(market.vault, "lookup", UInt(0), result=account)
    head, *reserves = market.text.split("[[reserves]]")
    registered = "[[reserves]]".join([head, *reserves[:4], reserves[8]])
    (tmp_path / "market.toml").write_text(registered)
    at = int(time.time())
    prices = [
        {"asset": each, "price": price, "at": at} for each, price in danger.items()
    ]
    (tmp_path / "prices.json").write_text(json.dumps(prices))
    options = ["--once", "--market", tmp_path / "market.toml", "--positions", "node"]
    options += ["--prices", tmp_path / "prices.json", "--node", served]
    options += ["--node-calls-per-minute", "100000"]
    with FakeCube() as cube:
        del cube.tables["stacks_dapp_zest_positions_net"]  # of V1
        env = {**os.environ, "ORTEGE_URL": cube.url, "ORTEGE_TOKEN": cube.token()}
        done = subprocess.run(
            [sys.executable, "-m", "liquidation_bot", *map(str, options)],
            cwd=FILE.parents[2],
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    [plan] = [json.loads(line) for line in done.stdout.splitlines()]
    assert (plan["borrower"], plan["ltv_bps"]) == (ALICE, "7883")
    assert plan["call"]["complete"] is False
    assert plan["price_feeds"] == "45 (at most 120 s old), 1 (at most 123 s old)"
