"""Positions and prices from a node, which a fake transport plays."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections import deque
from itertools import pairwise

import httpx
import msgspec
import pytest

from liquidation_bot.bot import Reader
from liquidation_bot.chain import Node, NodePrices, NodeSource
from liquidation_bot.market import PROTOCOLS, Market, MarketError, Percentage
from liquidation_bot.model import Holding, SourceError, UsageError
from liquidation_bot.rules import MarketCheck
from liquidation_bot.rules.zest_v1 import Fixed, Ratio, ReserveState, StateV1
from liquidation_bot.stacks import (
    Call,
    Err,
    Int,
    Ok,
    Principal,
    Some,
    UInt,
    c32_encode,
    deserialize,
    serialize,
)

ZERO = "SP000000000000000000002Q6VF78"
DATA, READER, MODES, PYTH = (
    f"{ZERO}.{name}" for name in ("data", "read", "mode", "pyth")
)
FEED = "ab" * 32
CONFIDENCE, WHEN = UInt(50_000), UInt(1_800_000_000)


class Chain:
    """Answer read-only calls from a table, and remember them."""

    def __init__(self):
        self.answers = {}
        self.calls = []
        self.broken = self.info = None

    def say(self, contract, function, *arguments, result):
        self.answers[contract, function, arguments] = result

    def __call__(self, request):
        if self.broken is not None:
            return self.broken(request)
        if request.url.path == "/v2/info":
            return httpx.Response(200, json=self.info)
        _, _, _, _, address, name, function = request.url.path.split("/")
        body = json.loads(request.content)
        arguments = tuple(
            deserialize(bytes.fromhex(each[2:])) for each in body["arguments"]
        )
        key = (f"{address}.{name}", function, arguments)
        self.calls.append(key)
        if key not in self.answers:
            return httpx.Response(200, json={"okay": False, "cause": "Unchecked"})
        result = f"0x{serialize(self.answers[key]).hex()}"
        return httpx.Response(200, json={"okay": True, "result": result})


@pytest.fixture
def chain():
    return Chain()


class Time:
    """A clock that moves when somebody sleeps."""

    def __init__(self):
        self.seconds = 1000.0

    def now(self):
        return self.seconds

    async def sleep(self, seconds):
        self.seconds += seconds
        await asyncio.sleep(0)


@pytest.fixture
def time():
    return Time()


def open_node(handler, time, **more):
    return Node(
        "https://node",
        transport=httpx.MockTransport(handler),
        now=time.now,
        sleep=time.sleep,
        **more,
    )


@pytest.fixture
async def node(chain, time):
    async with open_node(chain, time) as node:
        yield node


@pytest.fixture(scope="session")
def on_chain(world):
    """Return the market with the contracts that a node is called for."""
    reserves = tuple(
        msgspec.structs.replace(each, feed=FEED, e_mode=1, e_mode_threshold=1)
        if index < 2
        else each
        for index, each in enumerate(world.market.reserves)
    )
    names = {"data": DATA, "reader": READER, "e_mode": MODES, "pyth": PYTH}
    return msgspec.structs.replace(world.market, node=names, reserves=reserves)


def alice_has(chain, world, *, supplied=(), borrowed=()):
    """Prepare the answer with a borrower's assets."""
    lists = {
        "assets-supplied": tuple(map(Principal, supplied)),
        "assets-borrowed": tuple(map(Principal, borrowed)),
    }
    who = Principal(world.alice)
    chain.say(DATA, "get-user-assets-read", who, result=Some(lists))
    chain.say(MODES, "get-user-e-mode-read", who, result=None)


def reserve_data(chain, world, asset, *, principal=0, collateral=True):
    """Prepare the answer with her data in a reserve."""
    data = {
        "principal-borrow-balance": UInt(principal),
        "use-as-collateral": collateral,
    }
    args = (Principal(world.alice), Principal(asset))
    chain.say(DATA, "get-user-reserve-data-read", *args, result=Some(data))


def balance(chain, world, reserve, amount):
    """Prepare the answer with her balance."""
    who = Principal(world.alice)
    chain.say(reserve.z_token, "get-balance", who, result=Ok(UInt(amount)))


@pytest.fixture
def alice(chain, world, on_chain):
    ststx, aeusdc, _ = on_chain.reserves
    alice_has(chain, world, supplied=[world.ststx], borrowed=[world.aeusdc])
    reserve_data(chain, world, world.ststx)
    reserve_data(chain, world, world.aeusdc, principal=4_900_000_000, collateral=False)
    balance(chain, world, ststx, 10_000_000_000)
    balance(chain, world, aeusdc, 0)
    args = (Principal(world.alice), Principal(world.aeusdc))
    owed = {"principal-balance": UInt(1), "compounded-balance": UInt(5_000_000_000)}
    chain.say(READER, "get-user-borrow-balance", *args, result=owed)


@pytest.mark.usefixtures("alice")
async def test_a_position_with_interest_flags_and_balances(world, node, on_chain):
    [found] = await NodeSource(node, on_chain).positions([world.alice], world.now)
    assert found == msgspec.structs.replace(
        world.position(
            Holding(asset=world.aeusdc, borrowed=5_000_000_000, as_collateral=False),
            Holding(asset=world.ststx, supplied=10_000_000_000),
        )
    )


@pytest.mark.usefixtures("alice")
async def test_her_e_mode(world, chain, node, on_chain):
    who = Principal(world.alice)
    chain.say(MODES, "get-user-e-mode-read", who, result=Some(b"\x01"))
    [found] = await NodeSource(node, on_chain).positions([world.alice], 0)
    assert found.e_mode == 1
    without = msgspec.structs.replace(on_chain, node={"data": DATA, "reader": READER})
    [found] = await NodeSource(node, without).positions([world.alice], 0)
    assert found.e_mode == 0


async def test_somebody_the_protocol_does_not_know(world, chain, node, on_chain):
    who = Principal(world.alice)
    chain.say(DATA, "get-user-assets-read", who, result=None)
    [found] = await NodeSource(node, on_chain).positions([world.alice], world.now)
    assert found == world.position()
    assert len(chain.calls) == 1


async def test_of_somebody_without_a_debt_nothing_more_is_read(
    world, chain, node, on_chain
):
    alice_has(chain, world, supplied=[world.ststx, world.aeusdc])
    [found] = await NodeSource(node, on_chain).positions([world.alice], world.now)
    assert found == world.position()
    assert len(chain.calls) == 1


@pytest.mark.usefixtures("alice")
async def test_what_the_position_does_not_touch_is_not_asked_for(
    world, chain, node, on_chain
):
    """No balance of what is not used as collateral, no e-mode where no asset has one."""
    await NodeSource(node, on_chain).positions([world.alice], world.now)
    assert sorted(function for _, function, _ in chain.calls) == [
        "get-balance",
        "get-user-assets-read",
        "get-user-borrow-balance",
        "get-user-e-mode-read",
        "get-user-reserve-data-read",
        "get-user-reserve-data-read",
    ]
    chain.calls.clear()
    plain = [msgspec.structs.replace(each, e_mode=0) for each in on_chain.reserves]
    without = msgspec.structs.replace(on_chain, reserves=tuple(plain))
    await NodeSource(node, without).positions([world.alice], world.now)
    assert len(chain.calls) == 5


async def test_an_asset_that_the_market_file_does_not_know(
    world, chain, node, on_chain
):
    other = f"{ZERO}.other"
    alice_has(chain, world, supplied=[other], borrowed=[other])
    reserve_data(chain, world, other)
    [found] = await NodeSource(node, on_chain).positions([world.alice], 0)
    assert found.holdings == (Holding(asset=other),)
    reserve_data(chain, world, other, collateral=False)
    [found] = await NodeSource(node, on_chain).positions([world.alice], 0)
    assert found.holdings == ()
    args = (Principal(world.alice), Principal(other))
    chain.say(DATA, "get-user-reserve-data-read", *args, result=None)
    [found] = await NodeSource(node, on_chain).positions([world.alice], 0)
    assert found.holdings == ()


def broken(response):
    """Return a handler that always answers or fails like this."""

    def answer(request):
        if isinstance(response, Exception):
            raise response
        return response

    return answer


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(503, text="<html>"),
        httpx.Response(429),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, content=b"[" * 100_000),
        httpx.Response(200, json={"okay": False, "cause": "Unchecked(NoSuchContract)"}),
        httpx.Response(200, json={"okay": "true", "result": "0x09"}),
        httpx.Response(200, json={"okay": True}),
        httpx.Response(200, json={"okay": True, "result": "0xzz"}),
        httpx.Response(200, json={"okay": True, "result": "0x0901"}),
        httpx.ConnectError("no route"),
        httpx.ReadTimeout(""),
    ],
    ids=str,
)
async def test_whatever_the_node_does_is_a_source_error(
    world, chain, node, on_chain, response
):
    chain.broken = broken(response)
    with pytest.raises(SourceError, match="cannot call"):
        await NodeSource(node, on_chain).positions([world.alice], 0)
    with pytest.raises(SourceError, match="cannot call"):
        await NodePrices(node, on_chain).prices()


@pytest.mark.usefixtures("alice")
@pytest.mark.parametrize(
    ("function", "result"),
    [
        ("get-user-assets-read", UInt(1)),
        ("get-user-assets-read", Some(UInt(1))),
        ("get-user-assets-read", Some({"assets-supplied": UInt(1)})),
        (
            "get-user-assets-read",
            Some({"assets-supplied": (UInt(1),), "assets-borrowed": ()}),
        ),
        ("get-user-e-mode-read", Some(b"\x01\x02")),
        ("get-user-e-mode-read", Some(UInt(1))),
    ],
    ids=str,
)
async def test_answers_of_another_shape_are_refused(
    world, chain, node, on_chain, function, result
):
    contract = MODES if "e-mode" in function else DATA
    chain.say(contract, function, Principal(world.alice), result=result)
    with pytest.raises(SourceError, match="cannot read the position"):
        await NodeSource(node, on_chain).positions([world.alice], 0)


@pytest.mark.usefixtures("alice")
@pytest.mark.parametrize("result", [Err(UInt(1)), Ok(5), Ok(True)], ids=str)
async def test_balances_of_another_shape_are_refused(
    world, chain, node, on_chain, result
):
    who = Principal(world.alice)
    chain.say(on_chain.reserves[0].z_token, "get-balance", who, result=result)
    with pytest.raises(SourceError, match="cannot read the position"):
        await NodeSource(node, on_chain).positions([world.alice], 0)


def feed(price, expo, conf=CONFIDENCE, at=WHEN):
    return {"price": price, "expo": expo, "conf": conf, "publish-time": at}


@pytest.mark.parametrize(
    ("price", "expo", "expected"),
    [(70_000_000, -8, 70_000_000), (7, -1, 70_000_000), (7 * 10**9, -10, 70_000_000)],
)
async def test_prices_have_eight_decimals_a_time_and_a_confidence(
    world, chain, node, on_chain, price, expo, expected
):
    said = Ok(feed(price, expo))
    chain.say(PYTH, "get-price", bytes.fromhex(FEED), result=said)
    found = await NodePrices(node, on_chain).prices()
    assert [each.asset for each in found] == [world.ststx, world.aeusdc]
    assert {each.price for each in found} == {expected}
    assert {each.at for each in found} == {1_800_000_000}
    assert found[0].confidence == {-8: 50_000, -1: 50_000 * 10**7, -10: 500}[expo]
    assert len(chain.calls) == 1  # one feed, two reserves


@pytest.mark.parametrize(
    "result",
    [
        Err(UInt(404)),
        Ok(UInt(1)),
        Ok({"price": 1}),
        Ok(feed(-1, -8)),
        Ok(feed(1, -60)),
        Ok(feed(UInt(1), -8)),
        Ok(feed(True, -8)),
        Ok(feed(1, -8, conf=1)),
        Ok(feed(1, -8, at=None)),
    ],
    ids=str,
)
async def test_prices_of_another_shape_are_refused(chain, node, on_chain, result):
    chain.say(PYTH, "get-price", bytes.fromhex(FEED), result=result)
    with pytest.raises(SourceError, match="cannot read the feed"):
        await NodePrices(node, on_chain).prices()


async def test_what_the_market_file_lacks_is_named(node, world, on_chain):
    with pytest.raises(MarketError, match=r"market.node.data is missing"):
        NodeSource(node, world.market)
    with pytest.raises(
        MarketError, match=r"market.node.pyth is missing: .*--prices ortege"
    ):
        NodePrices(node, world.market)
    without = msgspec.structs.replace(world.market, node={"pyth": PYTH})
    with pytest.raises(MarketError, match="at least one reserve needs a feed"):
        NodePrices(node, without)


class Limited:
    """A node that answers 429 beyond its limit of calls within a minute."""

    def __init__(self, chain, time, limit):
        self.chain, self.time, self.limit = chain, time, limit
        self.answered, self.refused = deque(), 0

    def __call__(self, request):
        now = self.time.now()
        while self.answered and self.answered[0] <= now - 60:
            self.answered.popleft()
        if len(self.answered) >= self.limit:
            self.refused += 1
            wait = math.ceil(self.answered[0] + 60 - now)
            return httpx.Response(429, headers={"retry-after": str(wait)})
        self.answered.append(now)
        return self.chain(request)


def owes(chain, world, market, who):
    """Prepare all answers about a borrower with stSTX and a debt in aeUSDC."""
    ststx, aeusdc, _ = market.reserves
    user, assets = Principal(who), [Principal(ststx.asset), Principal(aeusdc.asset)]
    used = {"assets-supplied": (assets[0],), "assets-borrowed": (assets[1],)}
    chain.say(DATA, "get-user-assets-read", user, result=Some(used))
    for asset, owed in zip(assets, (0, 1), strict=True):
        data = {"principal-borrow-balance": UInt(owed), "use-as-collateral": not owed}
        chain.say(DATA, "get-user-reserve-data-read", user, asset, result=Some(data))
    balance = {"compounded-balance": UInt(5)}
    chain.say(READER, "get-user-borrow-balance", user, assets[1], result=balance)
    chain.say(ststx.z_token, "get-balance", user, result=Ok(UInt(7)))
    chain.say(MODES, "get-user-e-mode-read", user, result=None)


@pytest.mark.parametrize("budget", [500, 5_000])
async def test_300_borrowers_under_500_calls_a_minute_are_read_in_5_minutes(
    world, chain, time, on_chain, budget
):
    """Also by a bot that was told a budget above what the node allows."""
    everybody = [c32_encode(22, number.to_bytes(20)) for number in range(300)]
    for who in everybody:
        owes(chain, world, on_chain, who)
    limited = Limited(chain, time, 500)
    async with open_node(limited, time, calls_per_minute=budget) as node:
        source, found = NodeSource(node, on_chain), []
        start = time.now()
        for first in range(0, 300, source.chunk):
            found += await source.positions(everybody[first : first + source.chunk], 0)
    assert [each.borrower for each in found] == everybody
    assert all(each.has_debt for each in found)
    assert len(chain.calls) == 1800
    assert time.now() - start <= 300
    assert (limited.refused > 0) == (budget > 500)


async def test_calls_are_sent_at_equal_intervals(chain, time):
    chain.say(DATA, "f", result=True)
    sent = []

    def handler(request):
        sent.append(time.now())
        return chain(request)

    async with open_node(handler, time, calls_per_minute=30) as node:
        await asyncio.gather(*(node.call(DATA, "f") for _ in range(20)))
    between = [after - before for before, after in pairwise(sent)]
    assert between == pytest.approx([2.0] * 19, rel=0.02)


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "3600"}, 60),
        ({"retry-after": "9" * 400}, 60),
        ({}, 1),
        ({"retry-after": "soon"}, 1),
        ({"retry-after": "-5"}, 1),
        (
            {
                "date": "Fri, 27 Nov 2026 12:00:00 GMT",
                "retry-after": "Fri, 27 Nov 2026 12:00:09 GMT",
            },
            9,
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_stops_all_calls_for_a_minute_at_most(
    chain, time, status, headers, pause
):
    chain.say(DATA, "f", result=True)
    sent = []

    def handler(request):
        sent.append(time.now())
        if len(sent) == 1:
            return httpx.Response(status, headers=headers)
        return chain(request)

    async with open_node(handler, time, calls_per_minute=60_000) as node:
        calls = [node.call(DATA, "f") for _ in range(3)]
        assert await asyncio.gather(*calls) == [True, True, True]
    assert len(sent) == 4
    waits = [at - sent[0] for at in sent[1:]]
    assert max(waits[0], 0) < pause + 0.1
    assert sum(wait >= pause for wait in waits) >= 2


@pytest.mark.parametrize("headers", [{}, {"retry-after": "60"}], ids=str)
async def test_a_busy_node_is_given_up_within_bounds(time, headers):
    sent = []

    def handler(request):
        sent.append(time.now())
        return httpx.Response(503, headers=headers)

    async with open_node(handler, time) as node:
        with pytest.raises(SourceError, match="at node: HTTP status 503"):
            await node.call(DATA, "f")
    assert 3 <= len(sent) <= 5
    assert time.now() - sent[0] <= 150


async def test_a_response_that_never_ends_is_given_up(time):
    async def handler(request):
        await asyncio.Event().wait()

    async with open_node(handler, time, timeout=0.01) as node:
        with pytest.raises(SourceError, match=r"cannot call .* TimeoutError"):
            await node.call(DATA, "f")


async def test_a_call_that_fails_loses_only_its_borrower(world, chain, node, on_chain):
    everybody = [c32_encode(22, number.to_bytes(20)) for number in range(3)]
    for who in everybody:
        owes(chain, world, on_chain, who)
    del chain.answers[DATA, "get-user-assets-read", (Principal(everybody[1]),)]
    with pytest.raises(SourceError, match="1 of 3 positions not read: ") as raised:
        await NodeSource(node, on_chain).positions(everybody, 0)
    assert [each.borrower for each in raised.value.read] == [everybody[0], everybody[2]]


async def test_after_a_failure_the_other_calls_of_a_step_are_not_sent(chain, node):
    """And what a signed integer, an error or a longer list is, is not guessed."""

    def steps(count, kind=int):
        return (yield [Call(DATA, "f", (UInt(each),), kind) for each in range(count)])

    with pytest.raises(SourceError, match="cannot call"):
        await node.run("it", steps(100))
    sent = len(chain.calls)
    assert sent < 10
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(chain.calls) == sent
    for value, kind in ((5, int), (UInt(5), Int), (Err(UInt(5)), int), (None, int)):
        chain.say(DATA, "f", UInt(0), result=value)
        with pytest.raises(SourceError, match=f"cannot read it: {DATA} f u0: "):
            await node.run("it", steps(1, kind))
    for value, kind, found in ((5, Int, Int(5)), (Some(Ok(UInt(5))), int, 5)):
        chain.say(DATA, "f", UInt(0), result=value)
        assert await node.run("it", steps(1, kind)) == [found]


THIRD = """
from liquidation_bot.market import Market
from liquidation_bot.model import Holding, Position
from liquidation_bot.rules import ChainReader
from liquidation_bot.stacks import Call, Principal


class Third(Market, frozen=True, kw_only=True):
    pass


class Reader(ChainReader):
    def __init__(self, market):
        self.market = market

    def position(self, borrower, at):
        data, asset = self.market.role("data"), self.market.reserves[0].asset
        (owed,) = yield [Call(data, "owed", (Principal(borrower),), int)]
        held = Holding(asset=asset, borrowed=owed)
        return Position(borrower=borrower, holdings=(held,), read_at=at)


MARKET, READER = Third, Reader
"""


async def test_a_third_protocol_is_one_file_and_one_market(
    world, chain, node, tmp_path, monkeypatch
):
    (tmp_path / "third_protocol.py").write_text(THIRD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(PROTOCOLS, "third", "third_protocol")
    market = Market.read(f"""
        protocol = "third"
        name = "third"
        source = "invented"
        as_of = 2026-01-01
        units = {{ amounts = "tokens" }}
        node = {{ data = "{DATA}" }}
        [[reserves]]
        symbol = "STX"
        asset = "{world.ststx}"
        moves = ""
        decimals = 6
        price_token = ""
        asset_ids = []
    """)
    chain.say(DATA, "owed", Principal(world.alice), result=UInt(7))
    source = NodeSource(node, market)
    assert not source.lists_borrowers
    owes = world.position(Holding(asset=world.ststx, borrowed=7))
    assert await source.positions([world.alice], world.now) == [owes]


async def test_a_feed_that_fails_loses_only_its_price(world, chain, node, on_chain):
    other, said = "cd" * 32, Ok(feed(7, -1))
    ststx, aeusdc, sbtc = on_chain.reserves
    market = msgspec.structs.replace(
        on_chain, reserves=(ststx, msgspec.structs.replace(aeusdc, feed=other), sbtc)
    )
    chain.say(PYTH, "get-price", bytes.fromhex(FEED), result=said)
    with pytest.raises(SourceError, match="1 of 2 price feeds not read: ") as raised:
        await NodePrices(node, market).prices()
    assert [each.asset for each in raised.value.read] == [world.ststx]


@pytest.mark.parametrize("status", [200, 400])
async def test_the_key_is_sent_and_never_shown(time, caplog, status):
    caplog.set_level(0)
    seen = []

    def handler(request):
        seen.append(request.headers.get("x-api-key"))
        return httpx.Response(status, json={"okay": False, "cause": "no k-123"})

    async with open_node(handler, time, key="k-123") as node:
        with pytest.raises(SourceError) as raised:
            await node.call(DATA, "f")
    assert seen == ["k-123"]
    shown = f"{raised.value} {raised.value!r} {node!r} {vars(node)!r} {caplog.text}"
    assert "k-123" not in shown


@pytest.mark.parametrize(
    ("url", "key", "message"),
    [
        ("node", None, "must be https://host"),
        ("ftp://user:pass-1@node", None, "must be https://host"),
        ("https://user:pass-1@node", None, "without a password"),
        ("https://", None, "must be https://host"),
        ("https://node:pass-1", None, "must be https://host"),
        ("https://node", "pass-1\n", "invalid characters"),
        ("https://node", "pass-1 ", "invalid characters"),
        ("http://node", "pass-1", "only over https://"),
    ],
)
def test_a_url_or_a_key_that_cannot_be_used(time, url, key, message):
    with pytest.raises(UsageError, match=message) as raised:
        Node(url, key=key)
    assert "pass-1" not in str(raised.value)


def is_as_the_file_says(chain, market):
    """Prepare what the chain says about a market, as its file has it."""
    chain.info = {"burn_block_height": 900_000}
    assets = tuple(Principal(each.asset) for each in market.reserves)
    chain.say(DATA, "get-assets-read", result=assets)
    limit = UInt(market.rules.health_threshold)
    chain.say(DATA, "get-health-factor-liquidation-threshold-read", result=limit)
    vault = Principal(market.contracts.vault)
    chain.say(DATA, "get-reserve-vault-read", result=vault)
    for each in market.reserves:
        asset = Principal(each.asset)
        state = {
            "decimals": UInt(each.decimals),
            "oracle": Principal(each.oracle),
            "a-token-address": Principal(each.z_token),
            "liquidation-threshold": UInt(each.threshold),
            "liquidation-bonus": UInt(each.bonus),
            "usage-as-collateral-enabled": True,
            "is-active": True,
            "is-frozen": False,
            "accrued-to-treasury": UInt(0),
            "base-ltv-as-collateral": UInt(1),
        }
        factor, fee = Some(UInt(each.close_factor)), Some(UInt(each.fee_bps))
        for name, result in {
            "reserve-state": Some(state),
            "liquidation-close-factor-percent": factor,
            "origination-fee-prc": fee,
        }.items():
            chain.say(DATA, f"get-{name}-read", asset, result=result)
        mode = Some(bytes([each.e_mode])) if each.e_mode else None
        chain.say(MODES, "get-asset-e-mode-type-read", asset, result=mode)
        chain.say(GRACE, "get-grace-period-enabled-read", asset, result=Some(False))
        chain.say(each.asset, "get-balance", vault, result=Ok(UInt(77)))
        chain.say(each.oracle, "get-stale-price-threshold", result=UInt(360))
        bonus = Some(UInt(each.e_mode_bonus))
        chain.say(BONUS, "get-liquidation-bonus-e-mode-read", asset, result=bonus)
        config = {"ltv": UInt(1), "liquidation-threshold": UInt(each.e_mode_threshold)}
        if each.e_mode:
            flag = bytes([each.e_mode])
            chain.say(MODES, "get-e-mode-type-config-read", flag, result=Some(config))


GRACE, BONUS = f"{ZERO}.grace", f"{ZERO}.bonus"


@pytest.fixture
def checked(chain, on_chain):
    """Return a market that the chain agrees with."""
    ststx, aeusdc, sbtc = on_chain.reserves
    half = Percentage(50_000_000)
    market = msgspec.structs.replace(
        on_chain,
        node={**on_chain.node, "grace": GRACE, "e_mode_bonus": BONUS},
        reserves=(
            msgspec.structs.replace(ststx, e_mode_threshold=half, e_mode_bonus=half),
            msgspec.structs.replace(aeusdc, e_mode=0),
            sbtc,
        ),
    )
    is_as_the_file_says(chain, market)
    return market


def change(chain, function, asset, value, key=None):
    """Let the chain say something else."""
    for called, result in chain.answers.items():
        if called[1] == function and (asset is None or called[2] == (asset,)):
            if key is not None:
                value = Some({**result.value, key: value})
            chain.answers[called] = value
            return
    raise AssertionError(function)


async def test_a_market_file_as_the_chain_has_it(node, checked):
    assert await NodeSource(node, checked).compare() == MarketCheck((), ())


@pytest.mark.parametrize(
    ("function", "key", "value", "says"),
    [
        ("get-assets-read", None, (), r"the market get-assets-read: .* \(list\), the"),
        ("get-reserve-vault-read", None, Principal(ZERO), f"the chain has '{ZERO}"),
        (
            "get-health-factor-liquidation-threshold-read",
            None,
            UInt(99_000_000),
            "the chain has u99000000, the file u100000000",
        ),
        ("get-reserve-state-read", "oracle", Principal(PYTH), "stSTX oracle: .*pyth"),
        ("get-reserve-state-read", "a-token-address", Principal(PYTH), "stSTX a-tok"),
        ("get-reserve-state-read", "decimals", UInt(8), "has u8, the file u6"),
        ("get-reserve-state-read", "liquidation-threshold", UInt(6), "liquidation-th"),
        ("get-reserve-state-read", "liquidation-bonus", UInt(6), "liquidation-bonus"),
        ("get-reserve-state-read", "usage-as-collateral-enabled", False, "has false"),
        ("get-liquidation-close-factor-percent-read", None, Some(UInt(1)), "close"),
        ("get-origination-fee-prc-read", None, None, "the chain has none, the file u"),
        ("get-asset-e-mode-type-read", None, None, "the chain has none, the file 0x01"),
        ("get-e-mode-type-config-read", "liquidation-threshold", UInt(1), "has u1,"),
        ("get-liquidation-bonus-e-mode-read", None, Some(UInt(1)), "bonus-e-mode"),
        ("get-stale-price-threshold", None, UInt(120), "has u120, the file u360"),
    ],
)
async def test_every_difference_to_the_chain_is_told(
    world, chain, node, checked, function, key, value, says
):
    no_asset = ("assets", "vault", "health", "e-mode-type-config", "stale")
    asset = None if any(word in function for word in no_asset) else world.ststx
    change(chain, function, asset and Principal(asset), value, key)
    found = await NodeSource(node, checked).compare()
    [text] = found.wrong
    assert re.search(says, text)
    assert found.missing == ()


async def test_a_contract_that_refuses_a_call_is_not_the_one_of_the_file(
    world, chain, node, checked
):
    """It would refuse again, so it is no reason to ask again."""
    del chain.answers[DATA, "get-origination-fee-prc-read", (Principal(world.sbtc),)]
    [text] = (await NodeSource(node, checked).compare()).wrong
    assert "cannot call" in text
    assert "Unchecked" in text


async def test_what_the_file_leaves_out_is_told_and_no_mismatch(chain, node, checked):
    first, *others = checked.reserves
    first = msgspec.structs.replace(first, threshold=None, bonus=None, fee_bps=None)
    without = msgspec.structs.replace(checked, reserves=(first, *others))
    found = await NodeSource(node, without).compare()
    assert found.wrong == ()
    assert len(found.missing) == 3
    assert found.missing[0].endswith("the chain has u70000000, the file nothing")


async def test_a_reserve_that_the_chain_does_not_have(world, chain, node, checked):
    change(chain, "get-reserve-state-read", Principal(world.ststx), None)
    assert len((await NodeSource(node, checked).compare()).wrong) == 6


async def test_constants_of_oracles_are_compared(world, chain, node, checked):
    first, *others = checked.reserves
    first = msgspec.structs.replace(first, pricing=Fixed(price=Percentage(10**8)))
    market = msgspec.structs.replace(checked, reserves=(first, *others))
    chain.say(first.oracle, "get-price", result=UInt(10**8))
    assert (await NodeSource(node, market).compare()).wrong == ()
    chain.say(first.oracle, "get-price", result=UInt(99_000_000))
    [text] = (await NodeSource(node, market).compare()).wrong
    assert "stSTX get-price: the chain has u99000000, the file u100000000" in text


async def test_a_check_that_lacks_an_answer_is_no_success(world, chain, node, checked):
    def lost(request):
        if request.url.path.endswith("get-reserve-vault-read"):
            raise httpx.ConnectError("no route")
        chain.broken = None
        try:
            return chain(request)
        finally:
            chain.broken = lost

    chain.broken = lost
    with pytest.raises(SourceError, match=r"cannot call \S+ get-reserve-vault"):
        await NodeSource(node, checked).compare()
    chain.broken = None
    without = msgspec.structs.replace(
        checked, node={"data": DATA, "reader": READER, "e_mode": MODES}
    )
    with pytest.raises(MarketError, match=r"market\.node\.e_mode_bonus is missing"):
        await NodeSource(node, without).compare()


async def test_the_state_of_the_reserves(world, chain, node, checked):
    source = NodeSource(node, checked)
    allowed = ReserveState(liquidity=77)
    assets = [each.asset for each in checked.reserves]
    assert await source.state(0) == StateV1(reserves=dict.fromkeys(assets, allowed))
    ststx = Principal(world.ststx)
    change(chain, "get-reserve-state-read", ststx, UInt(70), "accrued-to-treasury")
    owed = (await source.state(7)).reserves[world.ststx]
    assert owed.liquidity == 7  # the protocol's own part cannot be paid out
    change(chain, "get-reserve-state-read", ststx, UInt(78), "accrued-to-treasury")
    assert (await source.state(7)).reserves[world.ststx].liquidity == 0
    change(chain, "get-reserve-state-read", ststx, True, "is-frozen")
    change(chain, "get-reserve-state-read", ststx, False, "is-active")
    found = (await source.state(0)).reserves[world.ststx]
    assert (found.frozen, found.active) == (True, False)
    change(chain, "get-reserve-state-read", ststx, None)
    with pytest.raises(
        SourceError, match=f"the state of .* get-reserve-state-read '{world.ststx}"
    ):
        await source.state(0)


@pytest.mark.parametrize(
    ("enabled", "end", "period", "grace"),
    [
        (Some(False), None, None, False),
        (None, None, None, True),
        (Some(True), None, None, True),
        (Some(True), Some(UInt(899_999)), Some(UInt(1)), True),
        (Some(True), Some(UInt(899_998)), Some(UInt(1)), False),
    ],
)
async def test_the_grace_period_of_a_reserve(
    world, chain, node, checked, enabled, end, period, grace
):
    ststx = Principal(world.ststx)
    chain.say(GRACE, "get-grace-period-enabled-read", ststx, result=enabled)
    chain.say(GRACE, "get-freeze-end-block-read", ststx, result=end)
    chain.say(GRACE, "get-grace-period-time-read", ststx, result=period)
    if end is None:
        chain.info = None  # the height is asked for only if it matters
    state = await NodeSource(node, checked).state(0)
    assert state.reserves[world.ststx].grace is grace
    assert not state.reserves[world.sbtc].grace


@pytest.mark.parametrize("ratio", [1_000_000, 1_080_471, 1_234_567])
@pytest.mark.parametrize("price", [50_000_000, 123_456_789])
async def test_a_ratio_comes_from_the_oracle_that_the_chain_names(
    world, chain, node, checked, ratio, price
):
    first, second, third = checked.reserves
    first = msgspec.structs.replace(first, pricing=Ratio(base="sBTC"))
    market = msgspec.structs.replace(checked, reserves=(first, second, third))
    ststx, oracle = Principal(world.ststx), f"{ZERO}.newer"
    change(chain, "get-reserve-state-read", ststx, Principal(oracle), "oracle")
    chain.say(oracle, "get-price", Principal(world.sbtc), result=Ok(UInt(price)))
    own = Ok(UInt(price * ratio // 10**6))
    chain.say(oracle, "get-price", ststx, result=own)
    state = await NodeSource(node, market).state(0)
    assert state.ratios == {world.ststx: ratio * 100}


async def test_a_height_of_another_shape_is_refused(chain, node):
    for info in ([], {}, {"burn_block_height": None}, {"burn_block_height": "x"}):
        chain.info = info
        with pytest.raises(SourceError, match="cannot read /v2/info at node: "):
            await node.burn_height()


async def test_the_reader_loses_nobody_and_starts_with_the_nearest(
    world, chain, time, on_chain
):
    everybody = [c32_encode(22, number.to_bytes(20)) for number in range(300)]
    for who in everybody:
        owes(chain, world, on_chain, who)
    broken, said = set(everybody[5:300:40]), []
    assets = {who: (DATA, "get-user-assets-read", (Principal(who),)) for who in broken}
    kept = {who: chain.answers.pop(key) for who, key in assets.items()}
    found = []

    async def on_read(given):
        found.extend(each.borrower for each in given.positions)

    def rank(who):
        return False, -everybody.index(who), who

    async with open_node(Limited(chain, time, 500), time) as node:
        reader = Reader(
            source=NodeSource(node, on_chain),
            now=lambda: int(time.now()),
            on_read=on_read,
            on_error=said.append,
            reread_after=60,
            rank=rank,
        )
        reader.unread.update(everybody)
        start = time.now()
        await reader.run_due()
        assert time.now() - start <= 300
        assert reader.unread == broken
        assert found == [who for who in reversed(everybody) if who not in broken]
        assert len(said) == len(broken)
        assert said[0].startswith("1 of 10 positions not read: cannot call")
        chain.answers |= {assets[who]: kept[who] for who in broken}
        await reader.run_due()
    assert reader.unread == set()
    assert sorted(found) == sorted(everybody)
