"""The quick bot, against a fake server: its verdicts, and what must not end it."""

from __future__ import annotations

import ast
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from ortege_watch import CubeClient, OrtegeWatchError
from ortege_watch.testing import FakeCube

EXAMPLES = Path(__file__).parents[2] / "examples"
SECONDS = 20
STSTX, AEUSDC = (
    "SP4SZE494VC2YC5JYG7AYFQ44F5Q4PYV7DVMDPBG.ststx-token::ststx",
    "SP3Y2ZSH8P7D50B0VBTSX11S7XSG24M1VB9YFQA4K.token-aeusdc::aeUSDC",
)
HELPER = "SP2VCQJGH7PHP2DJK7Z0V48AGBHQAW3R3ZW1QF4N.borrow-helper-v9-9"


@pytest.fixture
def quick_bot(monkeypatch):
    import quick_bot

    monkeypatch.setattr(quick_bot, "PAUSE", 0.05)
    monkeypatch.setattr(quick_bot, "EVERY", 3600)
    return quick_bot


class World:
    """A fake server with a market, and a bot in a thread."""

    def __init__(self, fake, quick_bot):
        self.fake = fake
        self.quick_bot = quick_bot
        self.lines = queue.Queue()
        self.cube = CubeClient(fake.url, fake.token())
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            for line in self.quick_bot.verdicts(self.cube):
                self.lines.put(line)
        except OrtegeWatchError as error:
            self.lines.put(error)

    def stop(self):
        self.cube.close()
        if self.thread.ident:
            self.thread.join(SECONDS)
            assert not self.thread.is_alive()

    def starts(self):
        self.thread.start()
        self.fake.wait_until(lambda: len(self.fake.subscriptions) == 2)

    def says(self):
        """Return the next line of the bot."""
        return self.lines.get(timeout=SECONDS)

    def price(self, *, age=0, **dollars):
        at = datetime.now(UTC) - timedelta(seconds=age)
        self.fake.tables["stacks_oracle_prices"].insert(
            {
                "token": name,
                "price": None if text is None else Decimal(text),
                "tx_date": at,
            }
            for name, text in dollars.items()
        )

    def holds(self, who, asset, **amounts):
        self.fake.tables["stacks_dapp_zest_positions_net"].insert(
            {"lender_address": who, "asset_id": asset}
            | {name: Decimal(text) for name, text in amounts.items()}
        )

    def event(self, who, function="borrow", contract=HELPER, amount=1, age=0):
        self.fake.tables["stacks_contract_events"].insert(
            {
                "contract_id": contract,
                "function_name": function,
                "sender_address": who,
                "asset_amount": amount,
                "tx_date": datetime.now(UTC) - timedelta(seconds=age),
            }
        )

    def borrows(self, who, *, supply="10", debt="10", age=0):
        """Give a borrower a position, which is unsafe by default, and an event."""
        self.holds(who, STSTX, total_supply=supply)
        self.holds(who, AEUSDC, total_borrow=debt)
        self.event(who, age=age)


@pytest.fixture
def world(quick_bot):
    with FakeCube() as fake:
        world = World(fake, quick_bot)
        world.price(stSTX="1", aeUSDC="1", age=1)
        try:
            yield world
        finally:
            world.stop()


def until(condition):
    """Wait for a condition that has no event."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.01)


# As a program


def program(*arguments, **env):
    return subprocess.Popen(
        [sys.executable, "quick_bot.py", *arguments],
        cwd=EXAMPLES,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("ORTEGE_")},
            **env,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_demonstration_ends_by_itself():
    with program("--demo") as process:
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    assert out.splitlines()[-1] == "SP-ALICE can be liquidated: health 0.98"
    assert "Traceback" not in err


@pytest.mark.parametrize("generation", ["strict", "classic", "tutorial"])
def test_it_runs_on_the_server_of_the_environment(generation, quick_bot):
    with FakeCube(generation) as fake:
        world = World(fake, quick_bot)
        world.price(stSTX="1", aeUSDC="1")
        world.borrows("SP1", debt="6")
        env = {"ORTEGE_URL": fake.url, "ORTEGE_TOKEN": fake.token()}
        with program(**env) as process:
            guard = threading.Timer(SECONDS, process.kill)
            guard.start()
            try:
                fake.wait_until(lambda: len(fake.subscriptions) == 2, timeout=SECONDS)
                world.price(stSTX="0.8")
                # A line, though the output is a pipe and the bot goes on.
                first = process.stdout.readline()
                assert first == "SP1 can be liquidated: health 0.93\n"
                assert process.poll() is None
            finally:
                guard.cancel()
                process.kill()


def test_without_a_server_it_says_which_variable_is_missing():
    with program() as process:
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "set ORTEGE_URL" in err


def test_an_option_that_it_does_not_know_is_refused():
    with program("--dmeo", ORTEGE_URL="http://127.0.0.1:9") as process:
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    assert "--dmeo" in err


def test_it_uses_only_public_names():
    tree = ast.parse((EXAMPLES / "quick_bot.py").read_text("utf-8"))
    found = {
        node.module: [alias.name for alias in node.names]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        if node.module.startswith("ortege_watch")
    }
    assert set(found) == {"ortege_watch", "ortege_watch.testing"}
    import ortege_watch

    assert set(found["ortege_watch"]) <= set(ortege_watch.__all__)


# Its verdicts


def test_a_price_that_falls_is_enough(world):
    world.borrows("SP-SAFE", debt="1")
    world.borrows("SP1", debt="6")
    world.starts()
    world.price(stSTX="0.8")
    assert world.says() == "SP1 can be liquidated: health 0.93"
    world.price(stSTX="1")
    assert world.says() == "SP1 safe"
    assert world.lines.empty()


def test_a_position_that_moved_is_read_again(world):
    world.borrows("SP1", debt="6")
    world.starts()
    world.borrows("SP1", supply="0", debt="4")
    assert world.says() == "SP1 can be liquidated: health 0.70"


def test_equal_to_the_threshold_is_safe(world):
    world.borrows("SP1", supply="10", debt="7")
    world.borrows("SP2", supply="10", debt="7.000001")
    world.starts()
    assert world.says() == "SP2 can be liquidated: health 0.99"
    assert world.lines.empty()


@pytest.mark.parametrize("unknown", ["SP-X.token::x", None])
def test_an_unknown_asset_is_refused_and_not_counted_as_zero(world, unknown):
    world.borrows("SP-DEBT", debt="1")
    world.holds("SP-DEBT", unknown, total_borrow="0.5")
    world.borrows("SP-HAS", debt="10")
    world.holds("SP-HAS", unknown, total_supply="1000")
    world.starts()
    expected = f"undecided: {unknown} is unknown or has no fresh price"
    assert {world.says(), world.says()} == {
        f"SP-DEBT {expected}",
        f"SP-HAS {expected}",
    }


def test_nothing_of_an_unknown_asset_is_no_obstacle(world):
    world.holds("SP1", "SP-X.token::x", total_supply="0")
    world.holds("SP1", "SP-X.token::x", total_borrow="3", total_repaid="3.01")
    world.borrows("SP1")
    world.starts()
    assert world.says() == "SP1 can be liquidated: health 0.70"


def test_what_is_repaid_too_much_pays_no_other_debt(world):
    world.holds("SP1", STSTX, total_borrow="100", total_repaid="110")
    world.borrows("SP1")
    world.starts()
    assert world.says() == "SP1 can be liquidated: health 0.70"


def test_no_verdict_on_a_price_that_is_old(world, quick_bot):
    world.fake.tables["stacks_oracle_prices"].replace([])
    world.price(stSTX="1", age=600)
    world.price(aeUSDC="1")
    world.borrows("SP1")
    world.starts()
    assert world.says() == f"SP1 undecided: {STSTX} is unknown or has no fresh price"
    world.price(stSTX="0.5")
    assert world.says() == "SP1 can be liquidated: health 0.35"


def test_a_price_grows_old_while_nothing_comes(world, quick_bot, monkeypatch):
    world.borrows("SP1")
    world.starts()
    assert world.says() == "SP1 can be liquidated: health 0.70"
    monkeypatch.setattr(quick_bot, "MAX_PRICE_AGE", timedelta(seconds=1))
    assert world.says().startswith("SP1 undecided: ")


def test_no_verdict_before_the_first_price(world, caplog):
    caplog.set_level(logging.INFO, "quick_bot")
    world.fake.tables["stacks_oracle_prices"].replace([])
    world.borrows("SP1")
    world.starts()
    until(lambda: "; prices: none" in caplog.text)
    world.price(stSTX="1", aeUSDC="1")
    assert world.says() == "SP1 can be liquidated: health 0.70"


def test_an_older_price_that_comes_later_changes_nothing(world):
    world.borrows("SP1", debt="6")
    world.starts()
    world.price(stSTX="0.1", age=100)
    world.borrows("SP2")
    assert world.says() == "SP2 can be liquidated: health 0.70"


@pytest.mark.parametrize("bad", [None, "NaN"])
def test_a_price_that_is_no_number_is_left_out_with_a_line(world, caplog, bad):
    world.starts()
    world.price(stSTX=bad)
    world.borrows("SP1")
    assert world.says() == "SP1 can be liquidated: health 0.70"
    # The events may come before the prices, and the verdict with them.
    until(lambda: "a row is left out: stacks_oracle_prices.price" in caplog.text)


@pytest.mark.parametrize("bad", ["0", "-1"])
def test_no_verdict_on_a_price_that_is_not_positive(world, bad):
    world.price(stSTX=bad)
    world.borrows("SP1")
    world.starts()
    assert "undecided" in world.says()


def test_an_amount_that_is_no_number_is_one_borrowers_problem(world):
    world.borrows("SP1", debt="NaN")
    world.borrows("SP2")
    world.starts()
    lines = sorted([world.says(), world.says()])
    assert "SP1 undecided: stacks_dapp_zest_positions_net.total_borrow" in lines[0]
    assert lines[1] == "SP2 can be liquidated: health 0.70"


def test_an_event_without_a_sender_is_left_out_with_a_line(world, caplog):
    world.event(None)
    world.borrows("SP1")
    world.starts()
    assert world.says() == "SP1 can be liquidated: health 0.70"
    assert "a row is left out: stacks_contract_events.sender_address" in caplog.text


def test_other_contracts_and_functions_are_not_read(world):
    world.holds("SP1", AEUSDC, total_borrow="1")
    world.event("SP1", contract="SP1.other-borrow-helper-v1")
    world.event("SP1", function="transfer")
    world.borrows("SP2")
    world.starts()
    assert world.says() == "SP2 can be liquidated: health 0.70"
    assert world.lines.empty()


# What must not end it


def test_a_read_that_failed_is_retried_while_nothing_changes(world, caplog):
    world.borrows("SP1")
    world.fake.error(400, {"error": "Error: the database is not there"}, times=2)
    world.starts()
    assert world.says() == "SP1 can be liquidated: health 0.70"
    assert caplog.text.count("1 positions are read again: ") == 2


def test_no_verdict_on_a_position_that_moved_and_cannot_be_read(
    world, quick_bot, monkeypatch, caplog
):
    monkeypatch.setattr(quick_bot, "PAUSE", 3600)  # nothing is read but after an update
    world.borrows("SP0", supply="0")
    world.borrows("SP1", debt="6")
    world.borrows("SP2", debt="6")
    world.starts()
    assert world.says() == "SP0 can be liquidated: health 0.00"  # all three are read
    world.fake.error(400, {"error": "Error: the database is not there"}, times=None)
    world.event("SP1")
    until(lambda: "1 positions are read again: " in caplog.text)
    world.price(stSTX="0.8")
    assert world.says() == "SP2 can be liquidated: health 0.93"
    assert world.lines.empty()
    world.fake.heal()
    world.price(stSTX="0.79")
    assert world.says() == "SP1 can be liquidated: health 0.92"


def test_others_are_read_when_one_read_fails(world, quick_bot, monkeypatch, caplog):
    monkeypatch.setattr(quick_bot, "BATCH", 1)
    monkeypatch.setattr(quick_bot, "POSITIONS", quick_bot.POSITIONS.limit_to(3))
    for token in range(3):
        world.holds("SP1", f"SP-X.token{token}", total_supply="1")
    world.event("SP1")  # the newest, so it is read first
    world.borrows("SP2", age=1)
    world.starts()
    assert world.says() == "SP2 can be liquidated: health 0.70"
    until(lambda: "SP1 has too many rows, raise the limit" in caplog.text)


def test_a_batch_with_too_many_rows_is_read_in_halves(world, quick_bot, monkeypatch):
    monkeypatch.setattr(quick_bot, "POSITIONS", quick_bot.POSITIONS.limit_to(3))
    for who in ("SP1", "SP2", "SP3"):
        world.borrows(who)
    world.starts()
    assert {world.says().split()[0] for _ in range(3)} == {"SP1", "SP2", "SP3"}


def test_a_routine_reading_that_fails_keeps_no_verdict_back(
    world, quick_bot, monkeypatch, caplog
):
    monkeypatch.setattr(quick_bot, "EVERY", 0)
    world.borrows("SP1")
    world.starts()
    assert world.says() == "SP1 can be liquidated: health 0.70"
    world.fake.error(400, {"error": "Error: the database is not there"}, times=None)
    until(lambda: "1 positions are read again: " in caplog.text)
    world.price(stSTX="0.5")
    assert world.says() == "SP1 can be liquidated: health 0.35"


def test_more_borrowers_than_one_query_reads(world, quick_bot):
    for number in range(2 * quick_bot.BATCH + 1):
        world.borrows(f"SP{number}")
    world.starts()
    lines = {world.says() for _ in range(2 * quick_bot.BATCH + 1)}
    assert len(lines) == 2 * quick_bot.BATCH + 1
    assert all(line.endswith("can be liquidated: health 0.70") for line in lines)


def test_an_outage_ends_nothing_and_repeats_nothing(world):
    world.borrows("SP1")
    world.starts()
    assert world.says() == "SP1 can be liquidated: health 0.70"
    world.fake.down()
    world.borrows("SP2", debt="6")
    world.price(stSTX="0.8")
    world.fake.up()
    lines = {world.says(), world.says()}
    assert lines == {
        "SP1 can be liquidated: health 0.56",
        "SP2 can be liquidated: health 0.93",
    }
    assert world.lines.empty()


def test_a_subscription_that_fails_for_now_ends_nothing(world, caplog):
    world.borrows("SP1")
    world.starts()
    assert world.says() == "SP1 can be liquidated: health 0.70"
    world.fake.fail_query()
    until(lambda: "the database is not there" in caplog.text)
    world.fake.heal()
    world.borrows("SP2")
    assert world.says() == "SP2 can be liquidated: health 0.70"


def test_a_token_that_is_refused_ends_it_with_an_error(world):
    world.fake.require("another key")
    world.thread.start()
    assert type(world.says()).__name__ == "AuthenticationError"


def test_rows_that_are_missing_are_told(world, quick_bot, monkeypatch, caplog):
    monkeypatch.setattr(quick_bot, "EVENTS", quick_bot.EVENTS.limit_to(2))
    for who in ("SP1", "SP2", "SP3"):
        world.borrows(who)
    world.starts()
    # The newest are in the result.
    lines = {world.says(), world.says()}
    assert {line.split()[0] for line in lines} == {"SP2", "SP3"}
    assert "rows are missing, shorten the window: <Update first" in caplog.text


def test_it_tells_what_it_sees_when_it_sees_nothing(world, caplog):
    caplog.set_level(logging.INFO, "quick_bot")
    world.fake.tables["stacks_oracle_prices"].replace([])
    world.starts()
    until(lambda: "live, 0 borrowers, 0 unread; prices: none" in caplog.text)


def test_everybody_is_read_again_without_an_event(world, quick_bot, monkeypatch):
    monkeypatch.setattr(quick_bot, "EVERY", 0.05)
    world.borrows("SP0", supply="0")
    world.borrows("SP1", debt="6")
    world.starts()
    assert world.says() == "SP0 can be liquidated: health 0.00"  # both are read
    world.holds("SP1", AEUSDC, total_borrow="4")
    assert world.says() == "SP1 can be liquidated: health 0.70"


def test_the_windows_move(quick_bot):
    ahead = [-timedelta(days=3).total_seconds()]
    with FakeCube(now=lambda: time.time() + ahead[0]) as fake:
        world = World(fake, quick_bot)
        try:
            world.starts()
            ahead[0] = 0
            world.price(stSTX="1", aeUSDC="1")
            world.borrows("SP1")
            assert world.says() == "SP1 can be liquidated: health 0.70"
        finally:
            world.stop()


def test_positions_are_not_read_from_a_cache(world):
    world.borrows("SP1")
    world.starts()
    world.says()
    loads = [each for each in world.fake.requests if not each.upgrade]
    assert loads
    assert {(each.json or each.params)["cache"] for each in loads} == {"no-cache"}


def test_every_query_is_ordered(quick_bot):
    for query in (quick_bot.EVENTS, quick_bot.PRICES, quick_bot.POSITIONS):
        assert query.order
