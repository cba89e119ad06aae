"""Positions and prices from a node, which a fake transport plays."""

from __future__ import annotations

import json

import httpx
import msgspec
import pytest

from liquidation_bot.market import MarketError
from liquidation_bot.model import Holding, SourceError
from liquidation_bot.sources import NodePositions, NodePrices
from liquidation_bot.stacks import (
    Err,
    Node,
    Ok,
    Principal,
    Some,
    UInt,
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
        self.broken = None

    def say(self, contract, function, *arguments, result):
        self.answers[contract, function, arguments] = result

    def __call__(self, request):
        if self.broken is not None:
            return self.broken(request)
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


@pytest.fixture
async def node(chain):
    async with Node("http://node", transport=httpx.MockTransport(chain)) as node:
        yield node


@pytest.fixture(scope="session")
def on_chain(world):
    """Return the market with the contracts that a node is called for."""
    reserves = tuple(
        msgspec.structs.replace(each, feed=FEED) if index < 2 else each
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
    [found] = await NodePositions(node, on_chain).positions([world.alice], world.now)
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
    [found] = await NodePositions(node, on_chain).positions([world.alice], 0)
    assert found.e_mode == 1
    without = msgspec.structs.replace(on_chain, node={"data": DATA, "reader": READER})
    [found] = await NodePositions(node, without).positions([world.alice], 0)
    assert found.e_mode == 0


async def test_somebody_the_protocol_does_not_know(world, chain, node, on_chain):
    who = Principal(world.alice)
    chain.say(DATA, "get-user-assets-read", who, result=None)
    chain.say(MODES, "get-user-e-mode-read", who, result=None)
    [found] = await NodePositions(node, on_chain).positions([world.alice], world.now)
    assert found == world.position()
    assert len(chain.calls) == 2


async def test_an_asset_that_the_market_file_does_not_know(
    world, chain, node, on_chain
):
    other = f"{ZERO}.other"
    alice_has(chain, world, supplied=[other], borrowed=[])
    reserve_data(chain, world, other)
    [found] = await NodePositions(node, on_chain).positions([world.alice], 0)
    assert found.holdings == (Holding(asset=other),)
    args = (Principal(world.alice), Principal(other))
    chain.say(DATA, "get-user-reserve-data-read", *args, result=None)
    [found] = await NodePositions(node, on_chain).positions([world.alice], 0)
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
        await NodePositions(node, on_chain).positions([world.alice], 0)
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
        await NodePositions(node, on_chain).positions([world.alice], 0)


@pytest.mark.usefixtures("alice")
@pytest.mark.parametrize("result", [Err(UInt(1)), Ok(5), Ok(True)], ids=str)
async def test_balances_of_another_shape_are_refused(
    world, chain, node, on_chain, result
):
    who = Principal(world.alice)
    chain.say(on_chain.reserves[0].z_token, "get-balance", who, result=result)
    with pytest.raises(SourceError, match="cannot read the position"):
        await NodePositions(node, on_chain).positions([world.alice], 0)


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
        NodePositions(node, world.market)
    with pytest.raises(MarketError, match=r"market.node.pyth is missing"):
        NodePrices(node, world.market)
    without = msgspec.structs.replace(world.market, node={"pyth": PYTH})
    with pytest.raises(MarketError, match="at least one reserve needs a feed"):
        NodePrices(node, without)
