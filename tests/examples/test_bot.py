"""The bot on a fake server: what it reads when, and what it does about trouble."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from liquidation_bot.alerts import (
    CHAIN_ID,
    ENTITY_TYPE,
    Announcer,
    Listener,
    entity_of,
)
from liquidation_bot.bot import Bot, Incomplete, Settings
from liquidation_bot.engine import Limits, Plan, Reason, StateRead
from liquidation_bot.execution import Dispatcher, Guard
from liquidation_bot.model import SourceError, UsageError
from liquidation_bot.record import Journal, Session
from liquidation_bot.rules import MarketCheck
from liquidation_bot.rules.zest_v1 import ReserveState, StateV1
from liquidation_bot.sources import (
    FixturePositions,
    FixturePrices,
    OrtegePositions,
    OrtegePrices,
    members,
)
from ortege_watch import (
    ApiError,
    AsyncCubeClient,
    AuthenticationError,
    QueryError,
    Reconnect,
    Retry,
    TransportError,
)
from ortege_watch.testing import FakeCube, ManualClock, Table
from ortege_watch.watchbus import AlertInfo, PublishResult


class Heard:
    """A display and an executor that a test can wait for."""

    def __init__(self):
        self.notes, self.plans, self.more = [], [], asyncio.Event()

    def show(self, note, engine, /):
        self.notes.append(note)
        self.more.set()

    def close(self):
        pass

    async def execute(self, plan):
        self.plans.append(plan)
        return "taken"

    async def until(self, condition):
        """Wait for a condition on what was heard."""
        async with asyncio.timeout(5):
            while not condition():
                self.more.clear()
                await self.more.wait()

    async def hear(self, kind, *words, count=1):
        """Wait for notes of a kind with these words."""

        def found():
            return [
                note
                for note in self.notes
                if note.kind == kind and all(word in note.text for word in words)
            ]

        await self.until(lambda: len(found()) >= count)
        return found()[-1]


class Broken:
    """A source that fails a given number of times."""

    caveats, chunk = (), 200

    def __init__(self, positions, times, heard):
        self.source, self.times, self.asked = positions, times, []
        self.heard = heard

    async def positions(self, borrowers, at):
        self.asked.append(list(borrowers))
        self.heard.more.set()
        if self.times:
            self.times -= 1
            raise SourceError("not now")
        return await self.source.positions(borrowers, at)

    async def prices(self):
        raise SourceError("no prices now")


class Stage:
    """Set up a bot whose every part a test may replace."""

    def __init__(self, world, fake, client, clock):
        self.world, self.fake, self.client = world, fake, client
        self.clock, self.heard, self.journal = clock, Heard(), Journal()
        self.positions = FixturePositions()
        self.prices = FixturePrices(world.prices(ststx=80_000_000).values())
        self.first, self.limits, self.cool_downs = [], Limits(), {}
        self.given, self.guard = [], None
        self.announcer, self.listener, self.chain = None, None, None
        self.more = {}

    def now(self):
        return self.world.now + int(self.clock.now())

    async def borrowers(self, most):
        return self.first[:most]

    def put(self, *positions, listed=True):
        """Set positions; those that are listed are loaded at the start."""
        for each in positions:
            self.positions.by_borrower[each.borrower] = each
            self.first += [each.borrower] if listed else []

    async def passing(self, condition):
        """Let time pass until a condition holds; answers take no virtual time."""
        async with asyncio.timeout(5):
            while not condition():
                await self.clock.advance(10)
                await asyncio.sleep(0.001)

    def event(self, function, who):
        self.fake.tables["stacks_contract_events"].insert(
            {
                "contract_id": self.world.market.contracts.watched[0],
                "function_name": function,
                "sender_address": who,
                "asset_amount": 1,
                "tx_date": datetime.fromtimestamp(self.now(), UTC),
            }
        )

    def bot(self, **changes):
        settings = {"reconnect": Reconnect(base=0.01, cap=0.01), **changes}
        self.bot_of_now = Bot(
            cube=self.client,
            session=Session(
                market=self.world.market,
                limits=self.limits,
                cool_down=1000,
                cool_downs=self.cool_downs,
                caveats=(),
                liquidator=None,
            ),
            positions=self.positions,
            prices=self.prices,
            borrowers=self.borrowers,
            members=members(positions=False, prices=False),
            dispatcher=Dispatcher(self.heard, journal=self.journal, guard=self.guard),
            display=self.heard,
            settings=Settings(**settings),
            now=self.now,
            sleep=self.clock.sleep,
            record=self.given.append,
            announcer=self.announcer,
            state=self.chain,
            listener=self.listener,
            **self.more,
        )
        return self.bot_of_now

    @asynccontextmanager
    async def running(self, **changes):
        """Run the bot until the test is done with it; it is live and has read."""
        bot = self.bot(**changes)
        task = asyncio.create_task(bot.run())
        try:
            await self.heard.hear("link", "watching")
            await self.clock.wait_for_sleepers()
            yield bot
            if task.done():
                await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def stage(world):
    clock = ManualClock()
    async with (
        FakeCube(now=lambda: world.now + clock.now()) as fake,
        AsyncCubeClient(fake.url, fake.token(), retry=Retry(attempts=1)) as client,
    ):
        yield Stage(world, fake, client, clock)


async def test_once_looks_and_ends(stage, world):
    stage.put(world.danger())
    stage.prices = FixturePrices(world.prices().values())
    await stage.bot(once=True).run()
    assert [plan["borrower"] for plan in stage.heard.plans] == [world.alice]
    assert stage.fake.attempts == []


async def test_missing_members_are_named_before_anything_else(stage):
    events = stage.fake.tables["stacks_contract_events"]
    stage.fake.tables["stacks_contract_events"] = Table(
        events.name,
        measures={"count": "count"},
        dimensions={"contract_id": "string", "function_name": "string"},
    )
    with pytest.raises(UsageError) as raised:
        await stage.bot().run()
    assert (
        "the server lacks stacks_contract_events.asset_amount, "
        "stacks_contract_events.sender_address, stacks_contract_events.tx_date: see"
    ) in str(raised.value)
    assert stage.heard.notes == []


async def test_a_server_that_is_away_at_the_start_is_asked_again(stage):
    stage.fake.down()
    task = asyncio.create_task(stage.bot().run())
    try:
        for pause in (10, 20):
            await stage.heard.hear("trouble", "127.0.0.1", f"again in {pause} s")
            await stage.clock.advance(pause)
        note = await stage.heard.hear("trouble", "again in 40 s")
        assert note.sight.failed == ["the server's members"]
        stage.fake.up()
        stage.fake.error(502, "<html>Bad Gateway</html>")
        await stage.clock.advance(40)
        await stage.heard.hear("trouble", "502", "again in 80 s")
        stage.fake.error(400, {"error": "Error: the database is not there"})
        await stage.clock.advance(80)
        await stage.heard.hear("trouble", "not there", "again in 160 s")
        await stage.clock.advance(160)
        note = await stage.heard.hear("link", "watching")
        assert note.sight.failed == []
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_server_that_is_away_ends_a_single_look(stage):
    stage.fake.down()
    with pytest.raises(TransportError, match=r"127\.0\.0\.1"):
        await stage.bot(once=True).run()


async def test_a_token_that_is_refused_at_the_start_ends_the_bot(stage):
    stage.fake.require("another key")
    with pytest.raises(AuthenticationError):
        await stage.bot().run()


async def test_a_wrong_url_ends_the_bot(stage):
    stage.fake.error(404, {"error": "Not Found"})
    with pytest.raises(ApiError, match="404"):
        await stage.bot().run()


async def test_what_is_assumed_about_the_cubes_is_checked_first(stage):
    async def doubts(meta):
        assert "stacks_contract_events.tx_date" in meta
        return ["how a price is aggregated"]

    stage.more = {"assumed": doubts}
    await stage.bot(once=True).run()
    texts = [note.text for note in stage.heard.notes if note.kind == "start"]
    assert "not verified: how a price is aggregated" in texts

    async def wrong(meta):
        raise UsageError("a sum of prices")

    stage.more, stage.heard.notes = {"assumed": wrong}, []
    with pytest.raises(UsageError, match="a sum of prices"):
        await stage.bot(once=True).run()
    assert stage.heard.notes == []

    async def away(meta):
        raise SourceError("not now")

    stage.more = {"assumed": away}
    await stage.bot(once=True).run()
    await stage.heard.hear("start", "not verified: what is assumed", "not now")


class File:
    """A market file that a test compares with a chain of its own."""

    def __init__(self):
        self.wrong, self.missing, self.fail, self.asked = (), (), 0, 0

    async def compare(self):
        self.asked += 1
        if self.fail:
            self.fail -= 1
            raise SourceError("no chain now")
        return MarketCheck(self.wrong, self.missing)


@pytest.fixture
def file(stage, world):
    """Return the market file of a bot that would make a plan."""
    file = File()
    stage.more = {"compare": file.compare}
    stage.put(world.danger())
    stage.prices = FixturePrices(world.prices().values())
    return file


async def test_a_market_file_that_agrees_with_the_chain_lets_plans_leave(stage, file):
    file.missing = ("stSTX bonus",)
    await stage.bot(once=True).run()
    assert len(stage.heard.plans) == 1
    await stage.heard.hear("start", "not in the market file: stSTX bonus")


async def test_a_market_file_that_is_wrong_lets_no_plan_leave(stage, file):
    file.wrong = ("stSTX oracle: the chain has 'a, the file 'b",)
    with pytest.raises(Incomplete, match="a market file that agrees with the chain"):
        await stage.bot(once=True).run()
    assert stage.heard.plans == []
    await stage.heard.hear("trouble", "the market file is wrong: stSTX oracle")
    await stage.heard.hear("trouble", "watch only, no plan leaves the bot: 1 lines")
    await stage.heard.hear("trouble", "pay 2,500.00 aeUSDC", "not sent")
    assert "watch only: 1 lines" in stage.heard.notes[-1].sight.link
    assert not any(note.kind == "plan" for note in stage.heard.notes)


async def test_a_plan_of_before_the_comparison_is_executed_after_it(
    stage, file, tmp_path
):
    stage.guard, file.fail = Guard(10**12, tmp_path / "kill"), 1
    async with stage.running(resync=10_000):
        await stage.heard.hear("execute", "held back: not compared with the chain")
        assert stage.heard.plans == []
        await stage.clock.advance(60)
        await stage.heard.hear("execute", "done: taken")
    assert len(stage.heard.plans) == 1


async def test_without_an_answer_it_watches_only_and_asks_again(stage, file):
    file.fail = 1
    async with stage.running():
        await stage.heard.hear("trouble", "watch only", "no chain now")
        assert stage.heard.plans == []
        await stage.heard.hear("trouble", "pay 2,500.00 aeUSDC", "not sent")
        await stage.clock.advance(60)
        await stage.heard.until(lambda: file.asked == 2)
        # What was not sent starts no cool-down.
        await stage.heard.hear("plan", "pay 2,500.00 aeUSDC")
        assert len(stage.heard.plans) == 1
        await stage.clock.advance(100)
        assert file.asked == 2
        assert "watch only" not in stage.heard.notes[-1].sight.link


async def test_at_the_start_it_says_what_is_not_verified(stage):
    await stage.bot(once=True).run()
    texts = [note.text for note in stage.heard.notes if note.kind == "start"]
    assert "invented" in texts[0]
    assert "not verified: everything: this market is invented" in texts


@pytest.mark.parametrize(
    "function",
    [
        "supply",
        "borrow",
        "withdraw",
        "set-e-mode",
        "set-user-use-reserve-as-collateral",
    ],
)
async def test_an_event_makes_it_read_that_address_again(stage, world, function):
    stage.put(world.danger())
    stage.positions = Broken(stage.positions, 0, stage.heard)
    async with stage.running() as bot:
        stage.event(function, world.bob)
        await stage.heard.hear("event", "BWB7 changed")
        await stage.heard.until(lambda: stage.positions.asked[-1] == [world.bob])
        assert set(bot.engine.positions) == {world.alice}


@pytest.mark.parametrize("function", ["repay", "liquidation-call"])
async def test_where_the_sender_may_be_another_everybody_is_read(
    stage, world, function
):
    stage.put(world.danger())
    stage.positions = Broken(stage.positions, 0, stage.heard)
    async with stage.running():
        stage.event(function, world.bob)
        await stage.heard.until(lambda: stage.positions.asked[-1] == [world.bob])
        await stage.clock.advance(10)
        await stage.heard.until(lambda: stage.positions.asked[-1] == [world.alice])
        await stage.clock.advance(60)  # both once more, the known one first
        both = [world.alice, world.bob]
        await stage.heard.until(lambda: stage.positions.asked[-1] == both)


async def test_an_event_without_a_change_of_position_plans_nothing(stage, world):
    """An event says that somebody moved; it never makes a plan by itself."""
    stage.put(world.danger())
    async with stage.running() as bot:
        stage.event("liquidation-call", world.alice)
        await stage.heard.hear("event", "S6AK changed")
        await stage.clock.advance(1)
        assert bot.engine.plans == 0


async def test_a_new_borrower_is_found_by_its_event(stage, world):
    stage.prices = FixturePrices(world.prices().values())
    async with stage.running():
        stage.put(world.danger(), listed=False)
        stage.event("borrow", world.alice)
        await stage.heard.hear("plan", "S6AK")
    assert len(stage.heard.plans) == 1


async def test_a_resync_finds_what_no_event_told(stage, world):
    stage.put(world.position((world.ststx, 10**10, 0), (world.aeusdc, 0, 10**9)))
    stage.prices = FixturePrices(world.prices().values())
    async with stage.running(resync=60, check=1):
        stage.put(world.danger())  # interest, say
        await stage.clock.advance(59)
        assert stage.heard.plans == []
        await stage.clock.advance(1)
        await stage.heard.hear("plan", "S6AK")


async def test_a_resync_reads_prices_and_notices_their_age(stage, world):
    stage.put(world.danger())
    async with stage.running(resync=200) as bot:
        await stage.clock.advance(360)
        assert bot.engine.decisions[world.alice].reason == Reason.HEALTHY
        await stage.clock.advance(40)
        await stage.heard.hear("skip", "stale price")


async def test_what_cannot_be_read_is_tried_again_soon(stage, world):
    stage.put(world.danger())
    stage.prices = FixturePrices(world.prices().values())
    stage.positions = Broken(stage.positions, 2, stage.heard)
    async with stage.running(resync=300, check=10):
        await stage.heard.hear("trouble", "not now; 1 addresses to be retried")
        await stage.clock.advance(19)
        assert stage.heard.plans == []
        await stage.clock.advance(1)
        await stage.heard.hear("plan", "S6AK")
    assert stage.positions.asked == [[world.alice]] * 3


async def test_whoever_moved_is_read_again_when_the_source_has_settled(stage, world):
    """A cube may know of an event before another one knows of the new position."""
    stage.prices = FixturePrices(world.prices().values())
    async with stage.running(reread_after=60, check=10, resync=10_000):
        stage.event("borrow", world.alice)
        await stage.heard.hear("event", "S6AK changed")
        stage.put(world.danger())
        await stage.clock.advance(50)
        assert stage.heard.plans == []
        await stage.clock.advance(10)
        await stage.heard.hear("plan", "S6AK")


async def test_prices_that_cannot_be_watched_are_polled(stage, world):
    stage.put(world.danger())
    async with stage.running(poll_prices=30, check=10, resync=10_000):
        fresh = world.prices(at=world.now + 20).values()
        stage.prices.by_asset = {each.asset: each for each in fresh}
        await stage.clock.advance(20)
        assert stage.heard.plans == []
        await stage.clock.advance(10)
        await stage.heard.hear("plan", "S6AK")


class Chain:
    """A source of the protocol's state that a test sets."""

    caveats = ()

    def __init__(self, *states):
        self.states = list(states)

    async def state(self, at):
        found = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if found is None:
            raise SourceError("no state now")
        return found


async def test_the_protocols_state_is_read_first_and_again(stage, world):
    stage.put(world.danger())
    stage.prices = FixturePrices(world.prices().values())
    frozen = StateV1(reserves={world.ststx: ReserveState(frozen=True)})
    stage.chain = Chain(frozen, None, StateV1())
    async with stage.running(poll_state=30, check=10, resync=10_000):
        await stage.heard.hear("skip", "paused: the reserve of stSTX is frozen")
        await stage.clock.advance(20)
        assert len(stage.chain.states) == 2
        await stage.clock.advance(10)
        await stage.heard.hear("trouble", "no state now")
        assert stage.heard.plans == []
        await stage.clock.advance(30)
        await stage.heard.hear("plan", "S6AK")
    read = [each for each in stage.given if isinstance(each, StateRead)]
    assert read == [
        StateRead(world.now, frozen),
        StateRead(world.now + 60, StateV1()),
    ]


async def test_a_failing_executor_is_shown_and_survived(stage, world):
    async def execute(plan):
        raise RuntimeError("no key")

    stage.put(world.danger(), world.danger(who=world.bob))
    stage.prices = FixturePrices(world.prices().values())
    stage.heard.execute = execute
    await stage.bot(once=True).run()
    await stage.heard.hear("plan", "failed with RuntimeError at test_bot.py:", count=2)


async def test_without_prices_it_goes_on_and_says_so(stage, world):
    stage.put(world.danger())
    stage.prices = Broken(None, 0, stage.heard)
    async with stage.running():
        await stage.heard.hear("trouble", "no prices now")
        await stage.heard.hear("skip", "no price")


def failing(stage, times):
    """Let the list of borrowers fail that often; return when it was asked for."""
    asked, list_borrowers = [], stage.borrowers

    async def borrowers(most):
        asked.append(int(stage.clock.now()))
        if len(asked) <= times:
            raise SourceError("no list now")
        return await list_borrowers(most)

    stage.borrowers = borrowers
    return asked


async def test_a_list_of_borrowers_that_failed_is_asked_for_until_it_is_there(
    stage, world
):
    stage.put(world.danger())
    stage.prices = FixturePrices(world.prices().values())
    asked = failing(stage, 4)
    async with stage.running(check=10, resync=60, silent_after=10_000) as bot:
        await stage.heard.hear("trouble", "no list now", "read again in 10 s")
        assert bot.engine.positions == {}
        await stage.clock.advance(10)
        words = (
            "0 borrowers known, 0 addresses unread; ",
            "cannot read the list of borrowers",
        )
        await stage.heard.hear("status", *words)
        await stage.clock.advance(109)
        assert stage.heard.plans == []
        await stage.clock.advance(1)
        await stage.heard.hear("plan", "S6AK")
        await stage.heard.hear("start", "1 borrowers owe something")
    assert asked == [0, 10, 30, 60, 120]  # the delay doubles; a resync asks anyway


async def test_a_resync_finds_new_borrowers_without_an_event(stage, world):
    stage.put(world.position((world.aeusdc, 10, 0), who="SPnodebt"))
    stage.prices = FixturePrices(world.prices().values())
    stage.positions = Broken(stage.positions, 0, stage.heard)
    async with stage.running(resync=60) as bot:
        stage.positions.source.by_borrower[world.alice] = world.danger()
        stage.first.append(world.alice)
        await stage.clock.advance(50)
        assert bot.engine.positions == {}
        await stage.clock.advance(10)
        await stage.heard.hear("plan", "S6AK")
        await stage.heard.hear("start", "1 borrowers owe something")
    # Whoever has no debt is not read again each time.
    assert stage.positions.asked == [["SPnodebt"], [world.alice]]


async def test_a_failing_list_takes_no_borrower_away(stage, world):
    stage.put(world.danger())
    stage.positions = Broken(stage.positions, 0, stage.heard)
    async with stage.running(resync=60, check=10):
        asked = failing(stage, 1)
        stage.bot_of_now.borrowers = stage.borrowers
        await stage.clock.advance(60)
        await stage.heard.hear("trouble", "no list now")
        assert stage.positions.asked == [[world.alice]] * 2
        await stage.clock.advance(10)
        assert asked == [60, 70]


async def test_those_without_debt_are_read_again_each_hour(stage, world):
    stage.put(world.position((world.aeusdc, 10, 0)))
    async with stage.running(resync=600, check=600, window=10_000) as bot:
        stage.put(world.danger(), listed=False)
        await stage.clock.advance(3000)
        assert bot.engine.positions == {}
        await stage.clock.advance(600)
        assert set(bot.engine.positions) == {world.alice}


async def test_a_slow_source_of_positions_does_not_keep_it_from_watching(stage, world):
    """Reading hundreds of borrowers from a node takes minutes."""
    gate = asyncio.Event()

    class Slow(Broken):
        async def positions(self, borrowers, at):
            if self.asked:
                await gate.wait()
            return await super().positions(borrowers, at)

    stage.put(*(world.danger(who=f"SP{number:03}") for number in range(201)))
    stage.positions = Slow(stage.positions, 0, stage.heard)
    async with stage.running() as bot:
        assert len(bot.engine.positions) == 200
        await stage.clock.advance(10)
        await stage.heard.hear(
            "status", "200 borrowers known up to 10 s old, 1 of 201 addresses unread"
        )
        fresh = world.prices(ststx=79_000_000, at=world.now + 30).values()
        stage.prices.by_asset = {each.asset: each for each in fresh}
        await stage.clock.advance(20)
        await stage.heard.hear("prices", "stSTX 0.79")
        gate.set()
        await stage.heard.hear("start", "201 borrowers owe something")


async def test_it_says_each_minute_how_many_positions_are_unread(stage, world):
    stage.put(world.danger(), world.danger(who=world.bob))
    stage.positions = Broken(stage.positions, 20, stage.heard)
    async with stage.running(check=10, resync=1000, status=1000):
        await stage.clock.advance(129)
        said = [note for note in stage.heard.notes if note.kind == "status"]
        assert [note.sight.unread for note in said] == [2, 2]
        await stage.clock.advance(101)
        said = [note for note in stage.heard.notes if note.kind == "status"]
        assert [note.sight.unread for note in said] == [2, 2, 2, 2]
        await stage.clock.advance(760)
        said = [note for note in stage.heard.notes if note.kind == "status"]
        assert [note.sight.unread for note in said] == [2, 2, 2, 2, 0]


async def test_it_watches_after_the_first_positions(stage, world):
    """What the window says about borrowers has something to be compared with."""
    gate = asyncio.Event()

    class Slow(Broken):
        async def positions(self, borrowers, at):
            found = await super().positions(borrowers, at)
            await gate.wait()
            return found

    stage.put(world.danger())
    stage.positions = Slow(stage.positions, 0, stage.heard)
    running = asyncio.create_task(stage.bot().run())
    await stage.heard.until(lambda: stage.positions.asked)
    await stage.clock.advance(0)
    assert not any(note.kind == "link" for note in stage.heard.notes)
    gate.set()
    await stage.heard.hear("link", "watching")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_prices_that_were_read_though_others_failed_are_kept(stage, world):
    class Partly(Broken):
        async def prices(self):
            raise SourceError("one failed", list(world.prices().values())[:2])

    stage.put(world.danger())
    stage.prices = Partly(None, 0, stage.heard)
    async with stage.running():
        await stage.heard.hear("trouble", "one failed")
        await stage.heard.hear("plan", "S6AK")


async def test_those_nearest_to_the_threshold_are_read_first(stage, world):
    stage.put(
        world.position(
            (world.ststx, 3 * 10**10, 0), (world.aeusdc, 0, 10**9), who=world.bob
        ),
        world.danger(),
    )
    stage.positions = Broken(stage.positions, 0, stage.heard)
    async with stage.running(resync=60):
        assert stage.positions.asked == [[world.bob, world.alice]]
        await stage.clock.advance(60)
        assert stage.positions.asked[1:] == [[world.alice, world.bob]]


async def test_positions_that_the_source_leaves_out_are_read_again(stage, world):
    class Forgetful(Broken):
        async def positions(self, borrowers, at):
            found = await super().positions(borrowers, at)
            return found[1:] if len(self.asked) == 1 else found

    stage.put(world.danger(), world.danger(who=world.bob))
    stage.positions = Forgetful(stage.positions, 0, stage.heard)
    async with stage.running(check=10):
        await stage.heard.hear("trouble", "1 addresses to be retried")
        await stage.clock.advance(10)
        assert stage.positions.asked[1:] == [[world.bob]]


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ("positions", "1 positions"),
        ("prices", "prices"),
        ("borrowers", "the list of borrowers"),
    ],
)
async def test_once_fails_if_it_could_not_read_all(stage, world, broken, named):
    stage.put(world.danger())
    if broken == "borrowers":
        failing(stage, 1)
    else:
        setattr(stage, broken, Broken(stage.positions, 1, stage.heard))
    with pytest.raises(Incomplete, match=f"could not read {named}$"):
        await stage.bot(once=True).run()


async def test_an_interval_of_less_than_ten_seconds_is_kept(stage, world):
    stage.put(world.danger())
    stage.positions = Broken(stage.positions, 0, stage.heard)
    async with stage.running(status=3, resync=3):
        await stage.clock.advance(12)
        await stage.clock.wait_for_sleepers()
        said = [note.at for note in stage.heard.notes if note.kind == "status"]
        assert [at - world.now for at in said] == [3, 6, 9, 12]
        assert len(stage.positions.asked) == 5


async def test_it_says_what_it_sees(stage, world):
    stage.put(world.danger(), world.danger(who=world.bob))
    stage.prices.by_asset.pop(world.sbtc)
    async with stage.running(check=10, resync=100, status=100):
        await stage.clock.advance(10)
        first = await stage.heard.hear(
            "status", "2 borrowers known up to 10 s old, 0 addresses unread"
        )
        stage.positions = Broken(stage.positions, 10, stage.heard)
        stage.bot_of_now._reader.source = stage.positions
        await stage.clock.advance(99)
        assert stage.heard.notes.count(first) == 1
        await stage.clock.advance(1)
        note = await stage.heard.hear("status", "2 of 2 addresses unread", count=1)
    assert first.data["prices"] == {"stSTX": 10, "aeUSDC": 10, "sBTC": None}
    assert "stSTX 0.8 (110 s old)" in note.text
    assert "sBTC none" in note.text
    assert "2 borrowers known up to 110 s old" in note.text
    assert "subscription live" in note.text
    assert "last data 20 s old" in note.text
    assert note.sight.unread == 2
    ticks = [each.at for each in stage.heard.notes if each.kind == "tick"]
    assert ticks == [world.now + each for each in range(0, 111, 10)]


async def test_a_bounded_load_says_that_there_may_be_more(stage, world):
    stage.put(world.danger(), world.danger(who=world.bob))
    async with stage.running(most_borrowers=1) as bot:
        await stage.heard.hear("trouble", "more than 1 borrowers")
        assert list(bot.engine.positions) == [world.alice]


async def test_an_outage_is_caught_up_with_and_makes_no_second_plan(stage, world):
    stage.put(world.danger())
    stage.prices = FixturePrices(world.prices().values())
    async with stage.running():
        assert len(stage.heard.plans) == 1
        stage.fake.down()
        await stage.heard.hear("link", "waiting")
        stage.put(world.danger(who=world.bob), listed=False)
        stage.event("borrow", world.alice)
        stage.event("borrow", world.bob)
        stage.fake.up()
        await stage.heard.hear("event", "changed during the outage")
        await stage.heard.hear("plan", "BWB7")
        await stage.heard.hear("skip", "S6AK planned already")
    assert [plan["borrower"] for plan in stage.heard.plans] == [world.alice, world.bob]


async def test_a_passing_error_of_the_server_is_shown_and_survived(stage, world):
    stage.prices = FixturePrices(world.prices().values())
    async with stage.running():
        stage.fake.fail_query("Error: no database", status=500)
        await stage.heard.hear("trouble", "no database")
        stage.fake.heal()
        stage.put(world.danger(), listed=False)
        stage.event("borrow", world.alice)
        await stage.heard.hear("plan", "S6AK")


async def test_a_refused_token_ends_it(stage):
    stage.fake.require("another secret")
    with pytest.raises(AuthenticationError):
        await stage.bot().run()


async def test_the_window_is_opened_anew_and_nothing_is_planned_twice(stage, world):
    stage.put(world.danger())
    stage.prices = FixturePrices(world.prices().values())
    async with stage.running(window=100, resync=10_000):
        await stage.clock.advance(100)
        stage.event("borrow", world.alice)
        await stage.fake.wait_until_async(lambda: len(stage.fake.attempts) == 2)
        await stage.heard.hear("link", "watching", count=2)
        stage.event("borrow", world.bob)
        await stage.heard.hear("event", "BWB7", "changed")
    starts = [query["filters"][-1]["values"] for query in subscribed(stage.fake)]
    assert starts == [["2027-01-15T07:58:20.000"], ["2027-01-15T08:00:00.000"]]
    assert len(stage.heard.plans) == 1


def subscribed(fake):
    """Return the queries that were subscribed to."""
    calls = [frame for frame in fake.frames if frame.get("method") == "subscribe"]
    return [frame["params"]["query"] for frame in calls]


async def test_a_plan_is_in_the_journal_before_it_leaves(stage, world):
    stage.put(world.danger())
    stage.prices = FixturePrices(world.prices().values())
    seen = []

    async def execute(plan):
        seen.append(dict(stage.journal.ledger.cool_downs))
        return "taken"

    stage.heard.execute = execute
    await stage.bot(once=True).run()
    assert seen == [{world.alice: world.now + 1000}]


async def test_of_several_plans_only_those_that_are_out_have_a_cool_down(stage, world):
    """Whoever kills it between two plans gets the second one after a restart."""
    stage.put(world.danger(), world.danger(who=world.bob))
    stage.prices = FixturePrices(world.prices().values())
    seen = []

    async def execute(plan):
        seen.append(set(stage.journal.ledger.cool_downs))
        return "taken"

    stage.heard.execute = execute
    await stage.bot(once=True).run()
    assert seen == [{world.bob}, {world.alice, world.bob}]


async def test_many_skips_at_once_are_one_line(stage, world):
    stage.put(
        *(
            world.position((world.aeusdc, 0, 10**9), who=f"SP{number}")
            for number in range(11)
        )
    )
    await stage.bot(once=True).run()
    await stage.heard.hear("skip", "11 borrowers: no collateral 11")
    assert sum(note.kind == "skip" for note in stage.heard.notes) == 1


async def test_cool_downs_from_before_hold(stage, world):
    stage.put(world.danger())
    stage.prices = FixturePrices(world.prices().values())
    stage.cool_downs = {world.alice: world.now + 1}
    await stage.bot(once=True).run()
    assert stage.heard.plans == []


ONE = 10**8


@pytest.mark.parametrize("killed", [False, True])
async def test_a_guard_holds_plans_back(stage, world, tmp_path, killed):
    kill = tmp_path / "kill"
    if killed:
        kill.touch()
    stage.put(world.danger())
    stage.prices = FixturePrices(world.prices().values())
    stage.guard = Guard(2_500 * ONE, kill)
    await stage.bot(once=True).run()
    ledger = stage.journal.ledger
    assert ledger.plans == 1
    assert ledger.spent == (0 if killed else 2_500 * ONE)
    assert set(ledger.cool_downs) == (set() if killed else {world.alice})
    assert len(stage.heard.plans) == (0 if killed else 1)
    await stage.heard.hear("plan", "(queued)")
    await stage.heard.hear("execute", "held back" if killed else "done: taken")


async def test_a_plan_is_offered_again_when_the_hold_ends(stage, world, tmp_path):
    stage.guard = Guard(10**12, tmp_path / "kill")
    stage.guard.kill_file.touch()
    stage.put(world.danger())
    stage.prices = FixturePrices(world.prices().values())
    async with stage.running(check=10, resync=10_000):
        await stage.heard.hear("execute", "held back", "kill exists")
        await stage.clock.advance(30)
        assert stage.heard.plans == []
        held = [note for note in stage.heard.notes if "held back" in note.text]
        assert len(held) == 1  # not once for each try
        stage.guard.kill_file.unlink()
        await stage.clock.advance(10)
        await stage.heard.hear("execute", "done: taken")
    assert len(stage.heard.plans) == 1


async def test_it_decides_about_others_while_the_executor_is_busy(
    stage, world, tmp_path
):
    stage.guard, free = Guard(10**12, tmp_path / "kill"), asyncio.Event()

    async def execute(plan):
        stage.heard.plans.append(plan)
        await free.wait()
        return "taken"

    stage.heard.execute = execute
    stage.put(world.danger())
    stage.prices = FixturePrices(world.prices().values())
    async with stage.running(resync=10_000, check=10_000):
        await stage.heard.until(lambda: len(stage.heard.plans) == 1)
        stage.put(world.danger(who=world.bob), listed=False)
        stage.event("borrow", world.bob)
        await stage.heard.hear("plan", "BWB7", "(queued)")
        assert len(stage.heard.plans) == 1
        free.set()
        await stage.heard.hear("execute", "taken", count=2)


async def test_a_plan_that_no_longer_holds_is_dropped_and_a_replay_agrees(
    stage, world, tmp_path
):
    stage.guard, free = Guard(10**12, tmp_path / "kill"), asyncio.Event()

    async def execute(plan):
        stage.heard.plans.append(plan)
        await free.wait()
        return "taken"

    stage.heard.execute = execute
    stage.put(world.danger(), world.danger(who=world.bob))
    stage.prices = FixturePrices(world.prices().values())
    async with stage.running(resync=10_000, check=30) as bot:
        await stage.heard.until(lambda: len(stage.heard.plans) == 1)
        later = world.prices(ststx=90_000_000, at=world.now + 20).values()
        stage.prices.by_asset = {each.asset: each for each in later}
        await stage.clock.advance(30)
        free.set()
        note = await stage.heard.hear("execute", "dropped", "healthy: health 1.26")
        assert "S6AK" in note.text
        again = world.prices(at=world.now + 40).values()
        stage.prices.by_asset = {each.asset: each for each in again}
        await stage.clock.advance(30)
        await stage.heard.until(lambda: len(stage.heard.plans) == 2)
        await stage.heard.hear("execute", "taken", count=2)
    assert [each["borrower"] for each in stage.heard.plans] == [world.bob, world.alice]
    shown = [note.data["plan"] for note in stage.heard.notes if note.kind == "plan"]
    assert stage.heard.plans == [shown[0], shown[2]]  # to the last byte
    session = bot.session
    engine = session.engine()
    decisions = [each for one in stage.given for each in engine.handle(one)]
    plans = [session.document(each) for each in decisions if isinstance(each, Plan)]
    assert plans == shown


class Ways:
    """A sink that accepts alerts, or fails."""

    def __init__(self, error=None):
        self.error, self.alerts = error, []

    async def publish(self, alerts, /):
        self.alerts += alerts
        if self.error is not None:
            raise self.error
        return PublishResult(sent=tuple(alerts))

    async def flush(self):
        return PublishResult()


async def test_each_plan_goes_out_as_an_alert(stage, world):
    way = Ways()
    stage.announcer = Announcer(way)
    stage.put(world.danger(), world.danger(who=world.bob))
    stage.prices = FixturePrices(world.prices().values())
    await stage.bot(once=True).run()
    told = [each.event_values for each in way.alerts]
    assert [each["plan_id"] for each in told] == [
        each["id"] for each in stage.heard.plans
    ]
    await stage.heard.hear("alert", "S6AK", "sent")


async def test_a_plan_that_is_held_back_is_a_finding_all_the_same(
    stage, world, tmp_path
):
    way = Ways()
    stage.announcer, stage.guard = Announcer(way), Guard(0, tmp_path / "kill")
    stage.put(world.danger())
    stage.prices = FixturePrices(world.prices().values())
    await stage.bot(once=True).run()
    assert stage.heard.plans == []
    assert len(way.alerts) == 1


async def test_alerts_that_cannot_be_sent_stop_nothing(stage, world):
    stage.announcer = Announcer(Ways(QueryError("no such chain")))
    stage.put(world.danger())
    stage.prices = FixturePrices(world.prices().values())
    async with stage.running():
        await stage.heard.hear("trouble", "1 alerts not sent: no such chain")
        stage.put(world.danger(who=world.bob), listed=False)
        stage.event("borrow", world.bob)
        await stage.heard.hear("plan", "BWB7")
    assert len(stage.heard.plans) == 2


async def test_an_alert_makes_it_read_at_once_and_when_the_source_has_settled(
    stage, world
):
    stage.listener = Listener()
    stage.put(world.danger())
    stage.positions = Broken(stage.positions, 0, stage.heard)
    alert = AlertInfo(entity_of(world.alice), CHAIN_ID, ENTITY_TYPE, "moved", 0)
    async with stage.running(reread_after=60, check=10, resync=10_000):
        await stage.listener.take(alert)
        await stage.heard.hear("alert", "moved about SPAZ…S6AK: reading again")
        await stage.heard.hear("alert", "now: SPAZ…S6AK health 1.1200")
        assert stage.positions.asked == [[world.alice]] * 2
        await stage.clock.advance(60)
        await stage.heard.until(lambda: len(stage.positions.asked) == 3)


async def test_an_alert_alone_plans_nothing(stage, world):
    """Whatever it claims, what counts is what the source of positions says."""
    stage.listener = Listener()
    stage.put(world.danger())
    values = {"borrower": world.alice, "standing": "health 0.1", "pays": "1000000"}
    entity = entity_of(world.alice)
    async with stage.running() as bot:
        await stage.listener.take(
            AlertInfo(entity, CHAIN_ID, ENTITY_TYPE, "liquidation_plan", 0, values)
        )
        await stage.heard.hear("alert", "now: SPAZ…S6AK health 1.1200")
        assert bot.engine.plans == 0


async def test_alerts_are_in_the_record_as_what_was_read(stage, world):
    stage.listener = Listener()
    stage.put(world.danger())
    entity = entity_of(world.alice)
    async with stage.running():
        before = len(stage.given)
        alert = AlertInfo(entity, CHAIN_ID, ENTITY_TYPE, "moved", 0)
        await stage.listener.take(alert)
        await stage.heard.hear("alert", "now: ")
    [read] = stage.given[before:]
    assert [each.borrower for each in read.positions] == [world.alice]


async def test_every_input_is_recorded_before_it_is_handled(stage, world):
    stage.put(world.danger())
    stage.prices = FixturePrices(world.prices().values())
    bot = stage.bot(once=True)
    await bot.run()
    again = Session(
        market=world.market,
        limits=Limits(),
        cool_down=1000,
        cool_downs={},
        caveats=(),
        liquidator=None,
    ).engine()
    decisions = [each for one in stage.given for each in again.handle(one)]
    assert [type(each) for each in decisions] == [Plan]
    assert decisions[0] == bot.engine.decisions[world.alice]


async def test_prices_of_ortege_are_watched(stage, world):
    """A price tick looks at every holder, without an event and without a resync."""
    rows = stage.fake.tables["stacks_oracle_prices"]

    def price(token, dollars):
        at = datetime.fromtimestamp(stage.now(), UTC)
        return {"token": token, "price": Decimal(dollars), "tx_date": at}

    rows.insert([price("stSTX", "0.8"), price("aeUSDC", "1")])
    stage.put(world.danger(), world.danger(who=world.bob))
    stage.prices = OrtegePrices(stage.client, world.market)
    async with stage.running():
        assert stage.heard.plans == []
        await stage.clock.advance(5)
        rows.insert(price("stSTX", "0.7"))
        await stage.heard.until(lambda: len(stage.heard.plans) == 2)
        assert {each["borrower"] for each in stage.heard.plans} == {
            world.alice,
            world.bob,
        }


class Watched:
    """Prices of Ortege, and a position on them."""

    def __init__(self, stage, world):
        self.stage = stage
        self.rows = stage.fake.tables["stacks_oracle_prices"]
        self.put(stSTX="0.8", aeUSDC="1", sBTC="60000")
        stage.put(world.danger())
        stage.prices = OrtegePrices(stage.client, world.market)

    def put(self, **dollars):
        at = datetime.fromtimestamp(self.stage.now(), UTC)
        self.rows.insert(
            {"token": token, "price": Decimal(price), "tx_date": at}
            for token, price in dollars.items()
        )

    async def forgotten(self):
        """Let the server forget the subscription; the connection stays."""
        fake = self.stage.fake
        await fake.wait_until_async(lambda: len(fake.subscriptions) == 2)
        fake.forget()


async def test_a_subscription_that_is_live_but_silent_is_replaced(stage, world):
    prices = Watched(stage, world)
    stage.positions = Broken(stage.positions, 0, stage.heard)
    async with stage.running(silent_after=300, check=10, resync=100_000):
        await prices.forgotten()
        await stage.clock.advance(200)
        prices.put(stSTX="0.7", aeUSDC="1")
        await stage.clock.advance(100)
        assert stage.heard.plans == []  # the server has forgotten the subscription
        await stage.clock.advance(10)
        words = "no new price of aeUSDC, stSTX for 300 s, subscription live"
        await stage.heard.hear("trouble", words)
        await stage.heard.hear("plan", "S6AK")
        await stage.heard.hear("trouble", "the subscription missed prices of aeUSDC")
        async with asyncio.timeout(5):  # no note tells that prices are the same
            while stage.bot_of_now._price_times["stSTX"] < world.now + 200:
                await asyncio.sleep(0)
        await stage.clock.advance(10)
        await stage.heard.hear("prices", "new prices again: aeUSDC, stSTX")
        assert len(stage.positions.asked) == 2  # events may have been missed, too
        prices.put(stSTX="0.69")
        await stage.heard.hear("prices", "stSTX 0.69")


async def test_events_that_a_live_subscription_misses_are_found(stage, world):
    """Prices are from elsewhere, and would not tell."""
    stage.positions = Broken(stage.positions, 0, stage.heard)
    async with stage.running(silent_after=300, check=10, resync=100_000):
        fake, read = stage.fake, stage.positions.asked
        await fake.wait_until_async(lambda: len(fake.subscriptions) == 1)
        fake.forget()
        stage.event("borrow", world.alice)
        await stage.clock.advance(310)
        await stage.clock.wait_for_sleepers()
        assert len(fake.attempts) == 1  # the subscription may only be late
        words = "the subscription missed events: opening another one"
        await stage.passing(lambda: any(words in n.text for n in stage.heard.notes))
        await stage.heard.until(lambda: [world.alice] in read)


async def test_a_quiet_market_is_no_silent_subscription(stage, world):
    stage.event("borrow", world.alice)
    async with stage.running(silent_after=300, check=10, window=100_000):
        fake = stage.fake
        before = len(fake.requests)
        await stage.passing(lambda: len(fake.requests) > before + 3)
        said = [note.text for note in stage.heard.notes if note.kind == "trouble"]
        assert not any("events" in text for text in said)
        assert len(fake.attempts) == 1


async def test_a_price_that_is_no_number_is_told_once_and_ends_nothing(stage, world):
    prices = Watched(stage, world)
    async with stage.running(check=10, resync=100_000):
        await stage.clock.advance(10)
        prices.put(sBTC="NaN")
        await stage.heard.hear("trouble", "1 rows are left out, such as stacks_oracle_")
        prices.put(stSTX="0.81")
        await stage.heard.hear("prices", "stSTX 0.81")
        await stage.clock.advance(10)
        prices.put(stSTX="0.7")
        await stage.heard.hear("plan", "S6AK")
        said = [note for note in stage.heard.notes if "left out" in note.text]
        assert len(said) == 1


async def test_a_regular_reading_of_prices_does_not_hide_a_silent_subscription(
    stage, world
):
    prices = Watched(stage, world)
    async with stage.running(silent_after=300, check=10, resync=100):
        await prices.forgotten()
        for number in (1, 2, 3):
            await stage.clock.advance(99)
            prices.put(stSTX=f"0.8{number}", aeUSDC="1")
            await stage.clock.advance(1)
            await stage.heard.hear("prices", f"stSTX 0.8{number}")
        await stage.clock.advance(10)
        await stage.heard.hear("trouble", "the subscription missed prices")


async def test_prices_that_stopped_at_their_source_are_said_to_have(stage, world):
    prices = Watched(stage, world)
    async with stage.running(silent_after=300, check=10, resync=100_000):
        await stage.clock.advance(200)
        prices.put(stSTX="0.82")
        await stage.heard.hear("prices", "stSTX 0.82")
        await stage.clock.advance(110)
        await stage.heard.hear("trouble", "no new price of aeUSDC for 300 s")
        await stage.heard.hear("trouble", "no newer price of aeUSDC either")
        prices.put(aeUSDC="1.01")
        await stage.heard.hear("prices", "aeUSDC 1.01")
        await stage.clock.advance(10)
        await stage.heard.hear("prices", "new prices again: aeUSDC")
        # sBTC is old, too, but nobody has it; and the connection is the first one.
        said = [note.text for note in stage.heard.notes if note.kind == "trouble"]
        assert not any("sBTC" in text for text in said)
        assert len(stage.fake.attempts) == 1


async def test_prices_that_are_polled_are_watched_over_too(stage, world):
    stage.put(world.danger())
    async with stage.running(silent_after=100, check=10, poll_prices=30):
        await stage.clock.advance(110)
        await stage.heard.hear("trouble", "no new price of aeUSDC, stSTX for 100 s")
        await stage.heard.hear("trouble", "no newer price of aeUSDC, stSTX either")
        await stage.clock.advance(90)
        said = [note for note in stage.heard.notes if "no new price" in note.text]
        assert len(said) == 1
        await stage.clock.advance(10)
        await stage.heard.hear("trouble", "no new price", count=2)


async def test_another_price_that_stops_is_asked_for_at_once(stage, world):
    stage.put(world.danger())
    fresh = world.price(world.ststx, 80_000_000, at=world.now + 50)
    stage.prices.by_asset[world.ststx] = fresh
    async with stage.running(silent_after=100, check=10, poll_prices=30):
        await stage.clock.advance(110)
        await stage.heard.hear("trouble", "no new price of aeUSDC for 100 s")
        await stage.clock.advance(50)
        await stage.heard.hear("trouble", "no new price of aeUSDC, stSTX for 100 s")


async def test_positions_of_ortege(stage, world):
    ststx, aeusdc, _ = world.market.reserves
    table = stage.fake.tables["stacks_dapp_zest_positions_net"]
    for reserve, supply, borrow in [(ststx, "10000", "0"), (aeusdc, "0", "5000")]:
        table.insert(
            {
                "lender_address": world.alice,
                "asset_id": reserve.asset_ids[0],
                "total_supply": Decimal(supply),
                "total_borrow": Decimal(borrow),
                "total_repaid": Decimal(0),
            }
        )
    stage.prices = FixturePrices(world.prices().values())
    stage.positions = OrtegePositions(stage.client, world.market)
    stage.borrowers = stage.positions.borrowers
    await stage.bot(once=True).run()
    [plan] = stage.heard.plans
    assert plan["pays"]["shown"] == "2,500"


async def test_nothing_is_left_behind_when_it_is_cancelled(stage, world):
    stage.put(world.danger())
    before = asyncio.all_tasks()
    async with stage.running():
        pass
    await stage.fake.wait_until_async(lambda: stage.fake.connections == 0)
    assert asyncio.all_tasks() == before
