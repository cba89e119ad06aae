"""Positions and prices from Ortege (a fake server) and from files."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from liquidation_bot import demo, sources
from liquidation_bot.market import Market, MarketError, Units
from liquidation_bot.model import FileError, Holding, Position, SourceError, UsageError
from liquidation_bot.sources import (
    ASSUMED,
    FixturePositions,
    FixturePrices,
    OrtegePositions,
    OrtegePrices,
    changed,
    check_cubes,
    events_query,
    members,
)
from ortege_watch import AsyncCubeClient, Retry
from ortege_watch.testing import FakeCube, Table

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture(params=["strict", "classic"])
async def fake(request):
    async with FakeCube(request.param, now=NOW.timestamp) as cube:
        yield cube


@pytest.fixture
async def client(fake):
    async with AsyncCubeClient(
        fake.url, fake.token(), retry=Retry(attempts=1)
    ) as client:
        yield client


def held(world, who, asset, supply="0", borrow="0", repaid="0"):
    """Return a row of the positions' cube."""
    ids = {each.asset: each.asset_ids[0] for each in world.market.reserves}
    return {
        "lender_address": who,
        "asset_id": ids.get(asset, asset),
        "total_supply": None if supply is None else Decimal(supply),
        "total_borrow": None if borrow is None else Decimal(borrow),
        "total_repaid": None if repaid is None else Decimal(repaid),
    }


@pytest.mark.parametrize("odd", ["NaN", "Infinity", "-Infinity", "4e32"])
async def test_an_amount_that_is_no_number_is_one_borrowers_problem(
    world, fake, client, odd
):
    table = fake.tables["stacks_dapp_zest_positions_net"]
    table.insert(held(world, world.alice, world.ststx, supply="1"))
    table.insert(held(world, world.alice, world.aeusdc, borrow=odd))
    table.insert(held(world, world.alice, world.sbtc, supply="1"))
    table.insert(held(world, world.bob, world.aeusdc, borrow="1"))
    source = OrtegePositions(client, world.market)
    with pytest.raises(SourceError, match="1 positions are not readable") as raised:
        await source.positions([world.alice, world.bob], 5)
    [read] = raised.value.read
    assert read.borrower == world.bob
    assert "total_borrow" in str(raised.value) or "128 bits" in str(raised.value)


async def test_an_asset_with_rows_under_several_names_is_one_holding(
    world, fake, client
):
    market = msgspec.structs.replace(
        world.market,
        reserves=tuple(
            msgspec.structs.replace(each, asset_ids=(*each.asset_ids, each.symbol))
            for each in world.market.reserves
        ),
    )
    table = fake.tables["stacks_dapp_zest_positions_net"]
    whole = 10**25  # more digits than a decimal context keeps
    table.insert(
        held(world, world.alice, "aeUSDC", supply="1", borrow=f"{whole}.000001")
    )
    table.insert(held(world, world.alice, world.aeusdc, supply="2", repaid=f"{whole}"))
    [position] = await OrtegePositions(client, market).positions([world.alice], 5)
    assert position.holdings == (
        Holding(asset=world.aeusdc, supplied=3_000_000, borrowed=1),
    )


async def test_a_price_that_is_no_number_is_left_out(world, fake, client):
    prices = fake.tables["stacks_oracle_prices"]
    for token, price in [("stSTX", "NaN"), ("aeUSDC", "1"), ("sBTC", "4e30")]:
        at = NOW - timedelta(seconds=9)
        prices.insert({"token": token, "price": Decimal(price), "tx_date": at})
    with pytest.raises(SourceError, match="2 rows are left out, such as") as raised:
        await OrtegePrices(client, world.market).prices()
    assert [each.asset for each in raised.value.read] == [world.aeusdc]


async def test_positions_in_tokens_become_smallest_units(world, fake, client):
    table = fake.tables["stacks_dapp_zest_positions_net"]
    table.insert(held(world, world.alice, world.ststx, supply="10000.1234569"))
    table.insert(held(world, world.alice, world.aeusdc, borrow="5000", repaid="0.5"))
    table.insert(held(world, world.bob, world.sbtc, supply="1"))
    found = await OrtegePositions(client, world.market).positions(
        [world.alice, world.bob, "SP0"], world.now
    )
    assert list(found) == [
        Position(
            borrower=world.alice,
            holdings=(
                Holding(asset=world.aeusdc, borrowed=4_999_500_000),
                Holding(asset=world.ststx, supplied=10_000_123_456),
            ),
            read_at=world.now,
        ),
        Position(
            borrower=world.bob,
            holdings=(Holding(asset=world.sbtc, supplied=10**8),),
            read_at=world.now,
        ),
        Position(borrower="SP0", holdings=(), read_at=world.now),
    ]


async def test_the_market_says_what_amounts_are_counted_in(world, fake, client):
    table = fake.tables["stacks_dapp_zest_positions_net"]
    table.insert(held(world, world.alice, world.ststx, supply="7", borrow=None))
    market = msgspec.structs.replace(world.market, units=Units(amounts="smallest"))
    [found] = await OrtegePositions(client, market).positions([world.alice], 0)
    assert found.holdings == (Holding(asset=world.ststx, supplied=7),)


async def test_more_repaid_than_borrowed_is_no_debt(world, fake, client):
    table = fake.tables["stacks_dapp_zest_positions_net"]
    table.insert(
        held(world, world.alice, world.ststx, supply=None, borrow="5", repaid="6")
    )
    table.insert(held(world, world.alice, world.aeusdc, supply="-1"))
    [found] = await OrtegePositions(client, world.market).positions([world.alice], 0)
    assert found.holdings == ()


async def test_an_unknown_asset_is_kept_as_something(world, fake, client):
    table = fake.tables["stacks_dapp_zest_positions_net"]
    table.insert(held(world, world.alice, "SP1.new::new", supply="0.001"))
    [found] = await OrtegePositions(client, world.market).positions([world.alice], 0)
    assert found.holdings == (Holding(asset="SP1.new::new", supplied=1),)


async def test_an_asset_that_is_null_is_kept_as_something(world, fake, client):
    table = fake.tables["stacks_dapp_zest_positions_net"]
    table.insert(held(world, world.alice, world.ststx, borrow="1") | {"asset_id": None})
    [found] = await OrtegePositions(client, world.market).positions([world.alice], 0)
    assert found.holdings == (Holding(asset="NULL", borrowed=1),)


async def test_truncated_positions_are_an_error(world, fake, client):
    """A debt may be among the rows that are missing."""
    table = fake.tables["stacks_dapp_zest_positions_net"]
    table.insert(held(world, world.alice, world.ststx, supply="10"))
    table.insert(held(world, world.alice, world.aeusdc, borrow="5"))
    few = OrtegePositions(client, world.market, max_rows=2)
    with pytest.raises(SourceError, match="truncated at 2 rows"):
        await few.positions([world.alice], 0)
    enough = OrtegePositions(client, world.market, max_rows=3)
    [found] = await enough.positions([world.alice], 0)
    assert found.has_debt


async def test_many_addresses_are_asked_a_hundred_at_once(world, fake, client):
    table = fake.tables["stacks_dapp_zest_positions_net"]
    addresses = [f"SP{number}" for number in range(450)]
    table.insert([held(world, who, world.sbtc, borrow="1") for who in addresses])
    found = await OrtegePositions(client, world.market).positions(addresses, 0)
    assert [each.borrower for each in found] == addresses
    assert all(each.has_debt for each in found)
    asked = {
        tuple(request.json["query"]["filters"][0]["values"])
        for request in fake.requests
    }
    assert sorted(map(len, asked)) == [50, 100, 100, 100, 100]


async def test_borrowers_are_those_who_borrowed_most_and_not_all(world, fake, client):
    table = fake.tables["stacks_dapp_zest_positions_net"]
    for number in range(5):
        table.insert(held(world, f"SP{number}", world.sbtc, borrow=str(number)))
    source = OrtegePositions(client, world.market)
    assert await source.borrowers(3) == ["SP4", "SP3", "SP2"]
    assert await source.borrowers(10) == ["SP4", "SP3", "SP2", "SP1"]


async def test_what_cannot_be_asked_now_is_a_source_error(world, fake, client):
    fake.refuse(503)
    positions = OrtegePositions(client, world.market)
    with pytest.raises(SourceError, match="cannot read positions from Ortege"):
        await positions.positions([world.alice], 0)
    with pytest.raises(SourceError, match="cannot read positions from Ortege"):
        await positions.borrowers(1)
    with pytest.raises(SourceError, match="cannot read prices from Ortege"):
        await OrtegePrices(client, world.market).prices()


async def test_the_newest_price_of_each_token(world, fake, client):
    def row(token, price, minutes):
        return {
            "token": token,
            "price": None if price is None else Decimal(price),
            "tx_date": NOW - timedelta(minutes=minutes),
        }

    fake.tables["stacks_oracle_prices"].insert(
        [
            row("stSTX", "0.9", 5),
            row("stSTX", "0.700000019", 1),
            row("stSTX", None, 0),
            row("aeUSDC", "7", 24 * 60 + 1),  # outside the window
            row("sBTC", "60000", 24 * 60 + 1),
            row("aeUSDC", "1", 3),
            row("other", "5", 0),
        ]
    )
    source = OrtegePrices(client, world.market)
    unix = int(NOW.timestamp())
    expected = [
        world.price(world.aeusdc, 10**8, at=unix - 180),
        world.price(world.ststx, 70_000_001, at=unix - 60),
    ]
    assert await source.prices() == expected
    since = source.query(NOW - timedelta(minutes=2))
    assert source.read(await client.load(since)) == expected[1:]


async def test_positions_that_ortege_does_not_have_are_refused(client):
    market = Market.load(demo.MARKET.parent / "zest-v2.toml")
    with pytest.raises(MarketError, match="no asset_ids: use --positions node"):
        OrtegePositions(client, market)


async def test_prices_that_follow_from_others_are_not_asked_for(fake, client):
    market = Market.load(demo.MARKET.parent / "zest-v2.toml")
    at = NOW - timedelta(minutes=1)
    fake.tables["stacks_oracle_prices"].insert(
        {"token": token, "price": Decimal("0.2"), "tx_date": at}
        for token in ("", "STX")
    )
    found = await OrtegePrices(client, market).prices()
    assert [each.asset for each in found] == [market.reserves[0].asset]


async def test_nothing_that_a_decision_follows_from_is_asked_from_the_cache(
    world, fake, client
):
    positions, prices = (
        OrtegePositions(client, world.market),
        OrtegePrices(client, world.market),
    )
    await prices.prices()
    await positions.borrowers(10)
    await positions.positions([world.alice], 0)
    asked = [each for each in fake.requests if each.path.endswith("/load")]
    assert len(asked) >= 3
    assert {each.json.get("cache") for each in asked} == {"no-cache"}


async def test_prices_can_be_watched(world, client):
    """A subscription takes no cache mode."""
    query = OrtegePrices(client, world.market).query(NOW - timedelta(hours=1))
    async with client.watch(query) as updates:
        assert (await anext(updates)).first


def event(market, function, who, *, minutes=1, contract=None):
    return {
        "contract_id": contract or market.contracts.watched[0],
        "function_name": function,
        "sender_address": who,
        "asset_amount": 1,
        "tx_date": NOW - timedelta(minutes=minutes),
    }


async def test_events_of_all_seven_functions_within_the_window(world, fake, client):
    events = fake.tables["stacks_contract_events"]
    events.insert(
        [
            event(world.market, each, f"SP{n}")
            for n, each in enumerate(world.rules.watched.functions)
        ]
    )
    events.insert(event(world.market, "transfer", "SPx"))
    events.insert(event(world.market, "supply", "SPx", contract="SP1.other"))
    events.insert(event(world.market, "supply", "SPx", minutes=61))
    query = events_query(world.rules.watched, NOW - timedelta(hours=1))
    async with client.watch(query) as updates:
        update = await anext(updates)
        addresses, everybody = changed(update, world.rules.watched)
        assert addresses == [f"SP{n}" for n in range(7)]
        assert not everybody  # the first snapshot: everybody was just read
        events.insert(event(world.market, "borrow", "SP9"))
        assert changed(await anext(updates), world.rules.watched) == (["SP9"], False)


@pytest.mark.parametrize("function", ["repay", "liquidation-call"])
async def test_of_some_events_the_sender_is_not_the_borrower(
    world, fake, client, function
):
    query = events_query(world.rules.watched, NOW - timedelta(hours=1))
    async with client.watch(query) as updates:
        await anext(updates)
        events = fake.tables["stacks_contract_events"]
        events.insert(event(world.market, function, "SPz"))
        assert changed(await anext(updates), world.rules.watched) == (["SPz"], True)


async def test_rows_beyond_the_limit_are_unseen_so_everybody_is_read(
    world, fake, client
):
    events = fake.tables["stacks_contract_events"]
    events.insert(event(world.market, "supply", "SP1"))
    query = events_query(world.rules.watched, NOW - timedelta(hours=1)).limit_to(1)
    async with client.watch(query) as updates:
        assert changed(await anext(updates), world.rules.watched) == (["SP1"], True)


async def test_an_event_without_a_sender_may_be_about_anybody(world, fake, client):
    query = events_query(world.rules.watched, NOW - timedelta(hours=1))
    async with client.watch(query) as updates:
        await anext(updates)
        fake.tables["stacks_contract_events"].insert(
            [event(world.market, "supply", None), event(world.market, "supply", "SP1")]
        )
        assert changed(await anext(updates), world.rules.watched) == (["SP1"], True)


def test_the_members_that_are_needed():
    events = members(positions=False, prices=False)
    assert len(events) == 5
    assert all(name.startswith("stacks_contract_events.") for name in events)
    assert len(members(positions=True, prices=False)) == 10
    assert len(members(positions=True, prices=True)) == 13


async def test_a_server_with_all_members_lacks_none(fake, client):
    meta = await client.meta()
    assert all(name in meta for name in members(positions=True, prices=True))


async def test_positions_are_read_as_if_now(tmp_path, world):
    path = tmp_path / "positions"
    path.write_text(json.dumps([msgspec.to_builtins(world.danger())]))
    source = FixturePositions.load(path)
    assert await source.positions([world.alice, world.bob], 7) == [
        msgspec.structs.replace(world.danger(), read_at=7),
        Position(borrower=world.bob, holdings=(), read_at=7),
    ]


async def test_prices_of_a_file(tmp_path, world):
    path = tmp_path / "prices"
    prices = list(world.prices().values())
    path.write_text(json.dumps([msgspec.to_builtins(each) for each in prices]))
    assert await FixturePrices.load(path).prices() == prices


@pytest.mark.parametrize(
    "content", [None, "", "{}x", "[1]", "5", '[{"borrower": "SP1"}]', "[{}]"]
)
def test_files_that_are_none_are_refused(tmp_path, content):
    path = tmp_path / "file"
    if content is not None:
        path.write_text(content)
    for source in (FixturePositions, FixturePrices):
        with pytest.raises(FileError, match="cannot read"):
            source.load(path)


@pytest.mark.parametrize("amount", ['"5"', "5.0", "true", "-5", "null"])
def test_amounts_are_whole_numbers_that_are_not_negative(tmp_path, amount):
    path = tmp_path / "file"
    position = """[{"borrower": "SP1", "read_at": 1,
        "holdings": [{"asset": "SP1.a", "borrowed": AMOUNT}]}]"""
    price = '[{"asset": "SP1.a", "at": 1, "price": AMOUNT}]'
    for source, text in ((FixturePositions, position), (FixturePrices, price)):
        path.write_text(text.replace("AMOUNT", "5"))
        source.load(path)
        path.write_text(text.replace("AMOUNT", amount))
        with pytest.raises(FileError, match=r"Expected `int`.*(borrowed|price)"):
            source.load(path)


def test_a_misspelled_key_does_not_become_a_debt_of_0(tmp_path):
    path = tmp_path / "file"
    path.write_text(
        """[{"borrower": "SP1", "read_at": 1,
        "holdings": [{"asset": "SP1.a", "borowed": 5}]}]"""
    )
    with pytest.raises(FileError, match="unknown field `borowed`"):
        FixturePositions.load(path)


def test_every_member_has_an_assumption_and_the_readme_repeats_it():
    every = members(positions=True, prices=True)
    assert sorted(ASSUMED) == sorted(every)
    readme = (Path(sources.__file__).parent / "README.md").read_text("utf-8")
    assert [
        name for name in every if f"| `{name}` | {ASSUMED[name]} |" not in readme
    ] == []


class Assumed:
    """Check the cubes of a fake server whose tables a test has changed."""

    def __init__(self, world, fake, client):
        self.market, self.fake, self.client = world.market, fake, client
        self.reserves = world.market.reserves

    def price(self, token, price, minutes=1):
        at = NOW - timedelta(minutes=minutes)
        row = {"token": token, "price": Decimal(price), "tx_date": at}
        self.fake.tables["stacks_oracle_prices"].insert(row)

    def prices(self):
        for each in self.reserves:
            self.price(each.price_token, "1.5")

    def aggregate(self, cube, member, function):
        table = self.fake.tables[cube]
        measures = dict.fromkeys(table.measures, "sum") | {"price": "max"}
        measures = {name: measures[name] for name in table.measures}
        self.fake.tables[cube] = Table(
            cube,
            measures=measures | {member: function},
            dimensions=table.dimensions,
            rows=table.rows,
        )

    async def check(self, **units):
        market = msgspec.structs.replace(self.market, units=Units(**units or TOKENS))
        names = members(positions=True, prices=True)
        meta = await self.client.meta()
        return await check_cubes(self.client, meta, market, names)


TOKENS = {"amounts": "tokens"}
COUNT = "without a count it is not known if prices have several rows"


@pytest.fixture
def assumed(world, fake, client):
    return Assumed(world, fake, client)


async def test_cubes_as_assumed(assumed):
    assumed.prices()
    assert await assumed.check() == [COUNT]
    assumed.aggregate("stacks_oracle_prices", "count", "count")
    assert await assumed.check() == []


async def test_an_asset_without_a_price_is_a_doubt(assumed):
    assumed.price("stSTX", "0.8")
    doubts = await assumed.check()
    assert "Ortege has no price of aeUSDC in the last 24 hours" in doubts
    assert not any("stSTX" in doubt for doubt in doubts)


@pytest.mark.parametrize(
    ("cube", "member", "function"),
    [
        ("stacks_oracle_prices", "price", "sum"),
        ("stacks_dapp_zest_positions_net", "total_supply", "avg"),
        ("stacks_dapp_zest_positions_net", "total_borrow", "max"),
    ],
)
async def test_another_aggregation_is_refused(assumed, cube, member, function):
    assumed.prices()
    assumed.aggregate(cube, member, function)
    with pytest.raises(UsageError, match=f"{member} is aggregated as '{function}'"):
        await assumed.check()


async def test_an_aggregation_that_the_server_does_not_tell_is_a_doubt(
    assumed, client, monkeypatch
):
    assumed.prices()
    meta = await client.meta()
    prices = meta.cube("stacks_oracle_prices")
    [price] = prices.measures
    for kind in (None, "number"):
        told = msgspec.structs.replace(price, agg_type=kind)
        cube = msgspec.structs.replace(prices, measures=(told,))
        changed = msgspec.structs.replace(meta, cubes=(cube,))
        doubts = await check_cubes(
            client, changed, assumed.market, members(positions=False, prices=True)[5:]
        )
        told = "the server does not tell how stacks_oracle_prices.price is aggregated"
        assert doubts == sorted([told, COUNT])


@pytest.mark.parametrize("price", ["0", "-1"])
async def test_a_price_of_zero_keeps_no_bot_from_starting(assumed, price):
    assumed.price("stSTX", price)
    asset = assumed.market.reserves[0].asset
    assert f"the price of {asset} is zero" in await assumed.check()


@pytest.mark.parametrize("price", ["80000000", "0.0000001"])
async def test_prices_that_cannot_be_dollars_are_refused(assumed, price):
    assumed.price("stSTX", price)
    with pytest.raises(UsageError, match="not in dollars"):
        await assumed.check()


async def test_several_prices_at_one_time_are_refused(assumed):
    assumed.prices()
    assumed.aggregate("stacks_oracle_prices", "count", "count")
    assumed.price("another", "1")
    assumed.price("another", "2")
    assert await assumed.check() == []
    assumed.price("stSTX", "0.9", minutes=1)
    with pytest.raises(UsageError, match="'stSTX' has several prices at 2026-11-22"):
        await assumed.check()


async def test_amounts_in_other_units_are_refused(world, assumed):
    assumed.prices()
    table = assumed.fake.tables["stacks_dapp_zest_positions_net"]
    for number in range(19):
        table.insert(held(world, f"SP{number}", world.ststx, supply="5000000"))
    assert await assumed.check() == [COUNT]  # too few to tell
    table.insert(held(world, "SPx", world.ststx, supply="5000000"))
    with pytest.raises(UsageError, match=r"units\.amounts must be 'smallest'"):
        await assumed.check()
    assert await assumed.check(amounts="smallest") == [COUNT]
    table.insert(held(world, "SPy", world.ststx, supply="0.5"))
    with pytest.raises(UsageError, match=r"units\.amounts must be 'tokens'"):
        await assumed.check(amounts="smallest")
    assert await assumed.check() == [COUNT]


async def test_cubes_that_cannot_be_asked_now_are_a_source_error(assumed):
    meta = await assumed.client.meta()
    assumed.fake.refuse(503)
    with pytest.raises(SourceError, match="cannot read prices from Ortege"):
        await check_cubes(
            assumed.client, meta, assumed.market, members(positions=False, prices=True)
        )
