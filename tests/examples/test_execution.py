"""From a plan to its execution: order, deciding again, holds, limits, results."""

from __future__ import annotations

import asyncio
import json
import sys
from decimal import Decimal
from types import SimpleNamespace

import msgspec
import pytest

from liquidation_bot.engine import CoolDown, Limits, Plan, PositionsRead, PricesSeen
from liquidation_bot.execution import (
    Dispatcher,
    DryRunExecutor,
    ExecutorError,
    Guard,
    Hooks,
    NotSent,
    back_off,
    in_order,
    load,
)
from liquidation_bot.record import Entry, Journal, Session
from ortege_watch.testing import ManualClock

PLAN = {"id": "0123456789abcdef", "borrower": "SP1"}
ONE = 10**8


async def test_the_dry_run_writes_a_file_for_each_plan(tmp_path):
    directory = tmp_path / "plans"
    done = await DryRunExecutor(directory).execute(PLAN)
    path = directory / "0123456789abcdef.json"
    assert done == f"dry run, written to {path}"
    assert json.loads(path.read_text()) == PLAN


async def test_or_a_line():
    lines = []
    assert await DryRunExecutor(None, lines.append).execute(PLAN) == "dry run"
    assert [json.loads(line) for line in lines] == [PLAN]


async def test_or_nothing():
    assert await DryRunExecutor(None).execute(PLAN) == "dry run"


@pytest.fixture
def my_module(tmp_path, monkeypatch):
    """Create a module with executors on the import path."""
    (tmp_path / "my_executors.py").write_text(
        "class Mine:\n"
        "    async def execute(self, plan):\n"
        "        return 'done'\n"
        "class Rich(Mine):\n"
        "    async def balance(self, asset):\n"
        "        return 1\n"
        "class Other:\n"
        "    pass\n"
        "class Needy(Mine):\n"
        "    def __init__(self, key):\n"
        "        pass\n"
        "class Raising(Mine):\n"
        "    def __init__(self):\n"
        "        raise KeyError('no key')\n"
        "class Synchronous:\n"
        "    def execute(self, plan):\n"
        "        return 'done'\n"
        "class HalfSynchronous(Mine):\n"
        "    def balance(self, asset):\n"
        "        return 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("my_executors", None)


@pytest.mark.usefixtures("my_module")
@pytest.mark.parametrize("name", ["Mine", "Rich"])
async def test_one_of_your_own_is_loaded_by_its_name(name):
    assert await load(f"my_executors:{name}").execute(PLAN) == "done"


@pytest.mark.usefixtures("my_module")
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "must be module:name, got ''"),
        ("my_executors", "must be module:name"),
        ("my_executors:", "must be module:name"),
        (":Mine", "must be module:name"),
        ("my_executors:Nothing", "AttributeError: module 'my_executors' has no"),
        ("my_executors:Needy", "cannot load the executor 'my_executors:Needy': Type"),
        ("my_executors:Needy", "missing 1 required positional argument"),
        ("my_executors:Raising", "KeyError at my_executors.py:"),
        ("no_such_module:Mine", "ModuleNotFoundError"),
        ("my_executors:Other", "must have 'async def execute', got None"),
        ("my_executors:Synchronous", "must have 'async def execute', got <bound"),
        ("my_executors:HalfSynchronous", "must have 'async def balance', got <bound"),
    ],
)
def test_what_is_no_executor_is_refused(path, message):
    with pytest.raises(ExecutorError) as raised:
        load(path)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("plans", "order"),
    [
        ([], []),
        ([(1, 0, "a"), (3, 0, "b"), (2, 0, "c")], "bca"),
        ([(1, 5, "new"), (1, 4, "old")], ["old", "new"]),
        ([(-3, 0, "a"), (-1, 0, "b")], "ba"),
        ([(1, 0, "c"), (1, 0, "a"), (1, 0, "b")], "abc"),
    ],
)
def test_the_most_profitable_plan_is_first(plans, order):
    queued = [
        (SimpleNamespace(profit_usd=profit, made_at=at, borrower=name), {"id": name})
        for profit, at, name in plans
    ]
    assert [document["id"] for _, document in in_order(queued)] == list(order)


@pytest.mark.parametrize(
    ("first", "failures", "seconds"),
    [
        (60, 1, 60),
        (60, 2, 120),
        (60, 4, 480),
        (60, 10, 6 * 3600),
        (60, 10**9, 6 * 3600),
        (1800, 2, 3600),
        (100_000, 1, 100_000),  # a longer cool-down is its own bound
        (100_000, 2, 100_000),
    ],
)
def test_the_delay_after_failures_doubles_and_is_bounded(first, failures, seconds):
    assert back_off(first, failures) == seconds


class Executor:
    """An executor that a test scripts."""

    def __init__(self):
        self.plans, self.errors, self.free = [], [], None

    async def execute(self, plan):
        self.plans.append(plan)
        if self.free is not None:
            await self.free.wait()
        if self.errors:
            raise self.errors.pop(0)
        return "taken"


class Stage:
    """A dispatcher and an engine, without the bot around them."""

    def __init__(self, world, tmp_path):
        self.world, self.clock = world, ManualClock()
        self.executor, self.said = Executor(), []
        self.limits, self.cap, self.kill = Limits(), 10**6 * ONE, tmp_path / "kill"
        self.state, self.doubt = tmp_path / "state", ""
        self.engine = self.dispatcher = self.journal = None

    def now(self):
        return self.world.now + int(self.clock.now())

    async def cool_down(self, borrower, until):
        self.engine.handle(CoolDown(self.now(), borrower, until))

    async def __aenter__(self):
        self.session = Session(
            market=self.world.market,
            limits=self.limits,
            cool_down=1800,
            cool_downs={},
            caveats=(),
            liquidator=None,
        )
        self.engine = self.session.engine()
        self.opened = Journal.opened(self.state)
        self.journal = self.opened.__enter__()
        self.dispatcher = Dispatcher(
            self.executor,
            journal=self.journal,
            guard=Guard(self.cap, self.kill, within=60),
        )
        hooks = Hooks(
            engine=self.engine,
            document=self.session.document,
            cool_down=self.cool_down,
            say=lambda kind, text, **data: self.said.append(f"{kind}: {text}"),
            doubt=lambda: self.doubt,
            now=self.now,
            sleep=self.clock.sleep,
        )
        self.task = asyncio.create_task(self.dispatcher.run(hooks))
        self.prices()
        return self

    async def __aexit__(self, *error):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.opened.__exit__(None, None, None)

    def prices(self, **prices):
        found = self.world.prices(at=self.now(), **prices).values()
        return self.engine.handle(PricesSeen(self.now(), tuple(found)))

    async def offer(self, *positions):
        """Have the engine decide, and offer its plans."""
        for plan in self.engine.handle(PositionsRead(self.now(), positions)):
            assert isinstance(plan, Plan), plan
            until = self.engine.cool_downs[plan.borrower]
            done = await self.dispatcher.offer(plan, self.session.document(plan), until)
            assert done == "queued"

    async def drained(self):
        async with asyncio.timeout(5):
            await self.dispatcher.drained()

    async def until(self, condition):
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0)

    def steps(self):
        lines = self.state.read_text().splitlines()[1:]
        return [json.loads(line)["step"] for line in lines]

    def size(self, factor, number=None):
        """Return the dangerous position, several times as large, of that borrower."""
        world = self.world
        return world.position(
            (world.ststx, factor * 10**10, 0),
            (world.aeusdc, 0, factor * 5 * 10**9),
            who=world.borrower(number or factor),
        )

    def order(self):
        """Return the numbers of the borrowers whose plans reached the executor."""
        numbers = {self.world.borrower(n): n for n in range(10)}
        return [numbers[plan["borrower"]] for plan in self.executor.plans]

    def renew(self):
        """Set new prices, without a plan."""
        self.engine.positions.clear()
        assert self.prices() == []


@pytest.fixture
def stage(world, tmp_path):
    return Stage(world, tmp_path)


async def test_a_plan_goes_through_the_queue_and_the_journal(stage, world):
    async with stage:
        await stage.offer(world.danger())
        assert stage.executor.plans == []  # nothing happens inside offer()
        await stage.drained()
        [plan] = stage.executor.plans
        assert stage.steps() == ["planned", "handed over", "done"]
        ledger = stage.journal.ledger
        assert ledger.handed == {plan["id"]}
        assert ledger.spent == 2500 * ONE
        assert stage.engine.cool_downs == {world.alice: world.now + 1800}
        assert stage.said == [f"execute: SPAZ…S6AK plan {plan['id']} done: taken"]


async def test_the_journal_says_handed_over_before_the_executor_is_called(stage, world):
    seen = []

    async def execute(plan):
        seen.extend(stage.steps())
        return "taken"

    stage.executor.execute = execute
    async with stage:
        await stage.offer(world.danger())
        await stage.drained()
    assert seen == ["planned", "handed over"]


async def test_what_arrives_meanwhile_is_ordered_by_profit(stage, world):
    stage.executor.free = asyncio.Event()
    async with stage:
        await stage.offer(stage.size(1))
        await stage.until(lambda: stage.executor.plans)
        await stage.offer(*(stage.size(n) for n in (2, 4, 3)))
        stage.executor.free.set()
        await stage.drained()
    assert stage.order() == [1, 4, 3, 2]


async def test_the_document_is_the_planned_one_while_nothing_has_changed(stage, world):
    async with stage:
        stage.kill.touch()
        await stage.offer(world.danger())
        await stage.drained()
        planned = stage.session.document(stage.engine.decisions[world.alice])
        await stage.clock.advance(5)
        stage.kill.unlink()
        stage.dispatcher.retry()
        await stage.drained()
        assert stage.executor.plans == [planned]


async def test_amounts_and_prices_are_those_of_the_hand_over(stage, world):
    async with stage:
        stage.kill.touch()
        await stage.offer(world.danger())
        await stage.drained()
        await stage.clock.advance(5)
        stage.prices(ststx=69_000_000)
        stage.kill.unlink()
        stage.dispatcher.retry()
        await stage.drained()
        [plan] = stage.executor.plans
        assert plan["health"] == "0.966"
        assert plan["made_at"] == world.now + 5


async def test_a_plan_that_is_no_longer_valid_is_made_anew(stage, world):
    async with stage:
        stage.kill.touch()
        await stage.offer(world.danger())
        await stage.drained()
        until = stage.engine.decisions[world.alice].valid_until
        await stage.clock.advance(until + 1 - stage.now())
        stage.kill.unlink()
        stage.dispatcher.retry()
        await stage.drained()
        [plan] = stage.executor.plans
        assert plan["made_at"] == until + 1 <= plan["valid_until"]


async def test_a_plan_that_no_longer_holds_is_dropped(stage, world):
    async with stage:
        await stage.offer(world.danger())
        stage.prices(ststx=90_000_000)
        await stage.drained()
        assert stage.executor.plans == []
        assert stage.steps() == ["planned", "dropped"]
        assert stage.said == ["execute: SPAZ…S6AK dropped: healthy: health 1.2600"]
        # It starts no cool-down: the next fall makes the next plan.
        await stage.clock.advance(1)
        assert isinstance(stage.prices()[0], Plan)


async def test_a_plan_whose_price_is_too_old_is_dropped(stage, world):
    async with stage:
        stage.kill.touch()
        await stage.offer(world.danger())
        await stage.drained()
        await stage.clock.advance(world.market.rules.max_price_age + 1)
        stage.kill.unlink()
        stage.dispatcher.retry()
        await stage.drained()
        assert stage.executor.plans == []
        assert "dropped: stale price" in stage.said[-1]


async def test_a_borrower_without_debt_is_dropped(stage, world):
    async with stage:
        await stage.offer(world.danger())
        stage.engine.handle(
            PositionsRead(stage.now(), (world.position(who=world.alice),))
        )
        await stage.drained()
        assert stage.said == ["execute: SPAZ…S6AK dropped: no debt: owes nothing"]


@pytest.mark.parametrize(
    ("cap", "paid"), [(2_500, 2_500), (1_000, 1_000), (20, 20), (10, None), (0, None)]
)
async def test_amounts_are_sized_down_to_the_cap(stage, world, cap, paid):
    stage.cap = cap * ONE
    async with stage:
        await stage.offer(world.danger())
        await stage.drained()
        if paid is None:
            assert stage.executor.plans == []
            assert f"held back: {cap}.00 USD of the cap" in stage.said[0]
            assert stage.journal.ledger.cool_downs == {}
        else:
            [plan] = stage.executor.plans
            assert plan["pays"]["amount"] == str(paid * 10**6)
            assert stage.journal.ledger.spent == paid * ONE


async def test_the_cap_is_for_all_plans_together(stage, world):
    stage.cap = 6_000 * ONE
    async with stage:
        await stage.offer(*(stage.size(1, n) for n in (1, 2, 3, 4)))
        await stage.drained()
        amounts = [plan["pays"]["shown"] for plan in stage.executor.plans]
        assert amounts == ["2,500", "2,500", "1,000"]
        assert stage.journal.ledger.spent == stage.cap
        assert "held back: 0.00 USD of the cap" in stage.said[-1]
    # And across restarts.
    async with stage:
        await stage.offer(stage.size(1, 5))
        await stage.drained()
        assert len(stage.executor.plans) == 3


@pytest.mark.parametrize(("has", "paid"), [(10**12, "2,500"), (7 * 10**8, "700")])
async def test_amounts_are_sized_down_to_the_wallet(stage, world, has, paid):
    asked = []

    async def balance(asset):
        asked.append(asset)
        return has

    stage.executor.balance = balance
    async with stage:
        await stage.offer(world.danger())
        await stage.drained()
        [plan] = stage.executor.plans
    assert plan["pays"]["shown"] == paid
    assert asked == [world.aeusdc]


async def test_an_empty_wallet_pays_with_another_token_or_holds(stage, world):
    balances = {world.aeusdc: 0, world.sbtc: 0}

    async def balance(asset):
        return balances[asset]

    stage.executor.balance = balance
    both = world.position(
        (world.ststx, 10**10, 0),
        (world.aeusdc, 0, 4 * 10**9),
        (world.sbtc, 0, 1_700_000),
    )
    async with stage:
        await stage.offer(both)
        await stage.drained()
        assert stage.executor.plans == []
        assert "held back" in stage.said[-1]
        assert "wallet cap" in stage.said[-1]
        balances[world.sbtc] = 10**8
        stage.dispatcher.retry()
        await stage.drained()
        [plan] = stage.executor.plans
        assert plan["pays"]["asset"] == "sBTC"


async def test_a_balance_that_cannot_be_read_holds(stage, world):
    async def balance(asset):
        raise RuntimeError("no node")

    stage.executor.balance = balance
    async with stage:
        await stage.offer(world.danger())
        await stage.drained()
        assert stage.executor.plans == []
        assert "cannot read the balance" in stage.said[0]
        assert "RuntimeError at test_execution.py:" in stage.said[0]
        assert stage.steps() == ["planned"]


@pytest.mark.parametrize("has", [None, "5", 70.5, Decimal(70), True, -1])
async def test_a_balance_that_is_no_amount_holds(stage, world, has):
    async def balance(asset):
        return has

    stage.executor.balance = balance
    async with stage:
        await stage.offer(world.danger())
        await stage.drained()
        assert stage.executor.plans == []
        kind = "a negative int" if has == -1 else type(has).__name__
        assert f"balance must be an int from 0 on, got {kind}" in stage.said[0]
        assert stage.dispatcher.queued() == 1


async def test_a_doubt_about_the_market_holds(stage, world):
    stage.doubt = "the market file differs from the chain"
    async with stage:
        await stage.offer(world.danger())
        await stage.drained()
        assert stage.executor.plans == []
        assert stage.said == [f"execute: SPAZ…S6AK held back: {stage.doubt}"]
        assert stage.dispatcher.queued() == 1
        stage.doubt = ""
        stage.dispatcher.retry()
        await stage.drained()
        assert len(stage.executor.plans) == 1
        assert stage.dispatcher.queued() == 0


async def test_what_was_not_sent_does_not_count_and_backs_off(stage, world):
    stage.executor.errors = [NotSent("too late"), NotSent("too late"), NotSent("too")]
    async with stage:
        for seconds in (60, 120, 240):
            await stage.offer(world.danger())
            await stage.drained()
            assert "not sent: NotSent: too" in stage.said[-1]
            assert f"no other plan for {seconds} s" in stage.said[-1]
            assert stage.journal.ledger.spent == 0
            assert stage.engine.cool_downs[world.alice] == stage.now() + seconds
            await stage.clock.advance(seconds)
            stage.renew()
        assert len(stage.executor.plans) == 3


async def test_other_failures_count_as_spent_and_back_off_from_the_cool_down(
    stage, world
):
    stage.executor.errors = [RuntimeError("lost"), RuntimeError("lost")]
    async with stage:
        for seconds in (1800, 3600):
            stage.renew()
            await stage.offer(world.danger())
            await stage.drained()
            assert "trouble: " in stage.said[-1]
            assert "failed: RuntimeError at test_execution.py:" in stage.said[-1]
            assert stage.engine.cool_downs[world.alice] == stage.now() + seconds
            await stage.clock.advance(seconds)
        assert stage.journal.ledger.spent == 5000 * ONE
        stage.executor.errors, stage.executor.free = [], None
        stage.renew()
        await stage.offer(world.danger())
        await stage.drained()
        assert stage.journal.ledger.failures == {}


async def test_an_executor_has_a_time_limit(stage, world):
    stage.executor.free = asyncio.Event()
    async with stage:
        await stage.offer(stage.size(2), stage.size(1))
        await stage.clock.wait_for_sleepers(1)
        assert stage.clock.sleepers == (60.0,)
        await stage.clock.advance(60)
        assert "failed: TimeoutError: no result within 60 s" in stage.said[0]
        stage.executor.free.set()
        await stage.drained()
        assert stage.order() == [2, 1]
        assert stage.journal.ledger.spent == 7_500 * ONE


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (SystemExit(0), "SystemExit"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (asyncio.CancelledError(), "CancelledError"),
        (BaseException("s3cret"), "BaseException"),
    ],
)
async def test_no_error_of_an_executor_ends_the_bot(stage, world, error, name):
    async def execute(plan):
        stage.executor.plans.append(plan)
        raise error

    stage.executor.execute = execute
    async with stage:
        await stage.offer(world.danger())
        await stage.drained()
        assert f"failed: RuntimeError: {name} in the executor" in stage.said[-1]
        assert stage.steps() == ["planned", "handed over", "failed"]
        assert not stage.task.done()


async def test_an_executor_that_ignores_its_end_stops_nobody(stage, world):
    ended = asyncio.Event()

    async def execute(plan):
        stage.executor.plans.append(plan)
        while not ended.is_set():
            try:
                await ended.wait()
            except asyncio.CancelledError:
                continue
        return "late"

    stage.executor.execute = execute
    async with stage:
        await stage.offer(world.danger())
        await stage.clock.wait_for_sleepers(1)
        await stage.clock.advance(60)
        await stage.drained()
        assert "no result within 60 s" in stage.said[-1]
        ended.set()


async def test_the_end_waits_for_the_result_of_a_call(stage, world):
    stage.executor.free = asyncio.Event()
    async with stage:
        await stage.offer(stage.size(2), stage.size(1))
        await stage.until(lambda: stage.executor.plans)
        stage.task.cancel()
        await stage.until(lambda: stage.said)
        assert "ending after the result of plan" in stage.said[0]
        stage.executor.free.set()
        with pytest.raises(asyncio.CancelledError):
            await stage.task
        # The other plan was not handed over.
        assert stage.steps() == ["planned", "planned", "handed over", "done"]


async def test_a_second_request_to_end_leaves_the_result_unknown(stage, world):
    stage.executor.free = asyncio.Event()
    async with stage:
        await stage.offer(world.danger())
        await stage.until(lambda: stage.executor.plans)
        stage.task.cancel()
        await stage.until(lambda: stage.said)
        stage.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stage.task
    async with stage:
        await stage.until(lambda: len(stage.said) > 1)
        assert "result unknown: check the chain" in stage.said[1]
        assert "2,500.00 USD" in stage.said[1]
        assert stage.steps() == ["planned", "handed over", "unknown"]
    stage.said.clear()
    async with stage:
        await stage.drained()
        assert stage.said == []


async def test_a_plan_that_was_handed_over_is_not_handed_over_again(stage, world):
    """Even if the same plan is made again, and its cool-down has ended."""
    async with stage:
        await stage.offer(world.danger())
        await stage.drained()
        stage.engine.cool_downs.clear()
        stage.journal.ledger.cool_downs.clear()
        await stage.offer(world.danger())
        await stage.drained()
        assert len(stage.executor.plans) == 1
        assert "dropped: another plan was handed over" in stage.said[-1]


async def test_a_cool_down_of_the_journal_holds_for_what_was_planned_before(
    stage, world
):
    async with stage:
        stage.journal.append(
            Entry("written", stage.now(), "x", world.alice, until=stage.now() + 9)
        )
        await stage.offer(world.danger())
        await stage.drained()
        assert stage.executor.plans == []
        assert "dropped: another plan was handed over, wait 9 s" in stage.said[-1]
        assert stage.engine.cool_downs[world.alice] == stage.now() + 9


async def test_a_state_that_cannot_be_written_ends_it_before_the_executor(
    stage, world, monkeypatch
):
    async with stage:
        await stage.offer(world.danger())
        monkeypatch.setattr(stage.journal, "append", broken)
        with pytest.raises(OSError, match="no room"):
            await stage.task
        assert stage.executor.plans == []


def broken(entry):
    raise OSError("no room")


def test_a_cool_down_is_an_input_that_a_record_keeps(world):
    given = CoolDown(5, world.alice, 9)
    encoded = msgspec.json.encode(given)
    assert json.loads(encoded)["type"] == "CoolDown"
