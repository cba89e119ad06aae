"""The liquidation bot as a process, against a real server; both are killed with SIGKILL.

The bot runs as its users run it: from the command line, with a state file, a record and
an executor of its own. The executor appends each plan to a file, which is therefore what
has left the bot. A replay of the record must make the same plans, to the last byte.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pytest
from harness.ledger import quoted
from harness.waiting import wait_until

from ortege_watch import CubeClient, Dimension, Measure, Query

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MARKET = EXAMPLES / "liquidation_bot" / "markets" / "demo.toml"
SECONDS = 60
ALICE = "SPAZ0AWR4XF9F2K6PB1YTESJY00Z1KAFHBC4S6AK"
BOB = "SP3VGRTTC0XNGZ2HNE3REXHC82VJYNGV66BEMBWB7"
CAROL = "SPS3HK8H59555WZVXFFPN2VQGC7MGFHEF029831C"
UNKNOWN_ASSET = "SP11NASAYJ9A1FBMR3NR95C63QS3S99RJZRWFBPHY.unknown-demo::unknown"

EXECUTOR = """
import asyncio
import json
from pathlib import Path


class Executor:
    async def execute(self, plan):
        with Path("plans").open("a", encoding="utf-8") as file:
            file.write(json.dumps(plan, ensure_ascii=False) + "\\n")
        if Path("hang").exists():
            await asyncio.Event().wait()
        return "written down"
"""


class Chain:
    """The tables that the server reads: events, positions and prices.

    The prices are such that 10,000 stSTX are collateral for up to 5,600 aeUSDC, and for
    4,900 when stSTX costs 0.70.
    """

    def __init__(self, database):
        self._database = database
        market = tomllib.loads(MARKET.read_text(encoding="utf-8"))
        self._contract = market["contracts"]["watched"][0]
        self._asset_ids = {
            each["symbol"]: each["asset_ids"][0] for each in market["reserves"]
        }
        database.execute(
            "TRUNCATE stacks_dapp_zest_positions_net, stacks_oracle_prices;"
            f"DELETE FROM stacks_contract_events WHERE contract_id = "
            f"{quoted(self._contract)}"
        )
        for token, dollars in (("stSTX", "0.80"), ("aeUSDC", "1"), ("sBTC", "60000")):
            self.price(token, dollars)

    def price(self, token, dollars):
        """Publish a price now."""
        self._database.execute(
            f"INSERT INTO stacks_oracle_prices VALUES ({quoted(token)}, {dollars}, now())"
        )

    def lose_prices(self, token):
        """Set every price of a token to NULL."""
        self._database.execute(
            f"UPDATE stacks_oracle_prices SET price = NULL WHERE token = {quoted(token)}"
        )

    def double_prices(self):
        """Have two rows for each token and time."""
        self._database.execute(
            "INSERT INTO stacks_oracle_prices SELECT * FROM stacks_oracle_prices"
        )

    def position(self, who, *, owes, **supplied):
        """Replace a position by this debt in aeUSDC and these supplies."""
        rows = [
            ("aeUSDC", 0, owes),
            *((name, each, 0) for name, each in supplied.items()),
        ]
        values = ", ".join(
            f"({quoted(who)}, {quoted(self._asset_ids.get(name, name))}, {has}, {debt}, 0)"
            for name, has, debt in rows
        )
        self._database.execute(
            "BEGIN;"
            f"DELETE FROM stacks_dapp_zest_positions_net "
            f"WHERE lender_address = {quoted(who)};"
            f"INSERT INTO stacks_dapp_zest_positions_net VALUES {values};"
            "COMMIT"
        )

    def event(self, who):
        """Publish an event of a sender, which may be None."""
        sender = "NULL" if who is None else quoted(who)
        self._database.execute(
            "INSERT INTO stacks_contract_events (tx_hash, contract_id, function_name, "
            "sender_address, asset_id, amount, block_height, tx_date) VALUES ('0x01', "
            f"{quoted(self._contract)}, 'borrow', {sender}, 'aeUSDC', 1, 1, now())"
        )


class Bot:
    """The bot's process, in a folder that holds its state over restarts."""

    def __init__(self, folder, cube, *options):
        self._folder = folder
        self._cube = cube
        self._options = options
        self._runs = 0
        self._heard = 0
        self._process = None
        (folder / "story_executor.py").write_text(EXECUTOR, encoding="utf-8")

    @property
    def log(self):
        """The notes of this run go here, one JSON object a line."""
        return self._folder / f"log-{self._runs}"

    def start(self):
        """Start the process."""
        self._runs += 1
        self._heard = 0
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command(
                    *("--market", MARKET, "--log", "json"),
                    *("--state", "state", "--record", "record"),
                    *("--execute", "story_executor:Executor"),
                    *("--cap", "1000000", "--kill-file", "stop"),
                    *self._options,
                ),
                cwd=self._folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def kill(self):
        """Kill exactly this process (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def run(self, code=0):
        """Run the process until it ends with a code, and return its log."""
        self.start()
        return self._end(code)

    def stop(self):
        """End the process as an operator does (SIGTERM)."""
        self._process.terminate()
        self._end(0)

    def wait_for(self, kind, *words):
        """Wait for the next note of a kind that contains all these words."""
        self._wait(lambda: self._hears(kind, words), f"the bot notes {kind} {words}")

    def wait_for_plans(self, *borrowers):
        """Wait until as many plans have left; they must be for these borrowers."""
        self._wait(
            lambda: len(self.plans()) >= len(borrowers),
            f"the bot plans for {borrowers}",
        )
        assert self.planned() == list(borrowers)

    def plans(self):
        """Return every plan that has left the bot, in this run or an earlier one."""
        path = self._folder / "plans"
        *lines, _ = (path.read_text(encoding="utf-8") if path.exists() else "").split(
            "\n"
        )
        return [json.loads(line) for line in lines]

    def planned(self):
        """Return whom they were for."""
        return [plan["borrower"] for plan in self.plans()]

    def hanging(self):
        """Let the executor never return, whatever it is given inside the block."""
        return self._while_exists("hang")

    def stopped(self):
        """Stop all execution inside the block, with the kill file."""
        return self._while_exists("stop")

    @contextmanager
    def _while_exists(self, name):
        (self._folder / name).touch()
        try:
            yield
        finally:
            (self._folder / name).unlink()

    def notes(self):
        """Return the notes of this run; everything that it writes must be one."""
        *lines, _ = self.log.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines]

    def replayed(self):
        """Return what a replay of all runs prints."""
        return subprocess.run(
            self._command("--replay", "record"),
            cwd=self._folder,
            env=self._environment(),
            capture_output=True,
            timeout=SECONDS,
            check=True,
        ).stdout

    def sent(self):
        """Return what the executor has written."""
        return (self._folder / "plans").read_bytes()

    def _command(self, *options):
        return [sys.executable, "-m", "liquidation_bot", *map(str, options)]

    def _environment(self):
        ours = ("ORTEGE_", "ALERTS_")
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith(ours)},
            "PYTHONPATH": f"{EXAMPLES}{os.pathsep}{self._folder}",
            "ORTEGE_URL": self._cube.url,
            "ORTEGE_TOKEN": self._cube.token(),
        }

    def _end(self, code):
        ended, log = self._process.wait(SECONDS), self.log.read_text(encoding="utf-8")
        assert ended == code, log
        self._process = None
        return log

    def _hears(self, kind, words):
        notes = self.notes()
        for number in range(self._heard, len(notes)):
            note = notes[number]
            if note["kind"] == kind and all(word in note["text"] for word in words):
                self._heard = number + 1
                return True
        return False

    def _wait(self, condition, what):
        def happened():
            code = self._process.poll()
            assert code is None, f"the bot ended with {code}:\n{self.log.read_text()}"
            return condition()

        try:
            wait_until(happened, seconds=SECONDS, what=what)
        except TimeoutError as error:
            raise AssertionError(
                f"{error}; its notes:\n{self.log.read_text()}"
            ) from None


@pytest.fixture
def chain(postgres, cube):
    """Nobody has a position; stSTX costs 0.80, aeUSDC 1 and sBTC 60,000."""
    chain = Chain(postgres)
    price = Measure("stacks_oracle_prices.price", Decimal)
    query = Query(
        measures=[price],
        dimensions=[Dimension("stacks_oracle_prices.token")],
        cache="no-cache",
    )
    # 0.35.81 knows of them once it has seen another refresh key of the cube. Until then
    # it has the prices of the test before.
    with CubeClient(cube.url, cube.token) as client:
        expected = [Decimal(1), Decimal("0.80"), Decimal(60000)]
        wait_until(
            lambda: (
                sorted(row[price] for row in client.load(query)) == sorted(expected)
            ),
            seconds=SECONDS,
            what="the server has the first prices",
        )
    return chain


@pytest.fixture
def bots(cube, tmp_path):
    """Return a function that makes a bot; it is killed in the end."""
    made = []

    def make(*options):
        made.append(Bot(tmp_path, cube, *options))
        return made[-1]

    yield make
    for each in made:
        each.kill()


def test_no_kill_loses_a_plan_or_makes_two(cube, chain, bots):
    chain.position(ALICE, stSTX=10_000, owes=5_000)
    chain.position(BOB, sBTC="0.05", owes=2_000)
    bot = bots()
    bot.start()
    bot.wait_for("link", "watching")

    # An event: the position is read again.
    chain.position(BOB, sBTC="0.05", owes=2_150)
    chain.event(BOB)
    bot.wait_for("event", "1.0465")
    assert bot.plans() == []

    # A price drop, which has no event. The kill file holds the plan back, not more.
    with bot.stopped():
        chain.price("stSTX", "0.70")
        bot.wait_for("execute", "held back: the kill file stop exists")
        assert bot.plans() == []
    bot.wait_for_plans(ALICE)

    # The server is killed. What happens meanwhile is caught up with, without a second plan.
    cube.kill()
    chain.position(ALICE, stSTX=10_000, owes=5_010)
    chain.position(CAROL, stSTX=10_000, owes=4_000)
    chain.event(ALICE)
    chain.event(CAROL)
    cube.start()
    bot.wait_for("event", "0.9780", "1.2250")
    assert bot.planned() == [ALICE]

    # The bot is killed. The next one keeps the cool-down, and plans for whoever is new.
    bot.kill()
    chain.position(BOB, sBTC="0.05", owes=2_600)
    chain.event(BOB)
    with bot.hanging():
        bot.start()
        bot.wait_for_plans(ALICE, BOB)
        # Both are killed while the executor has the plan: it does not get it again.
        bot.kill()
    cube.kill()
    chain.position(CAROL, stSTX=10_000, owes=4_950)
    chain.event(CAROL)
    cube.start()
    bot.start()
    bot.wait_for("trouble", bot.plans()[-1]["id"], "result unknown")
    bot.wait_for("link", "watching")
    bot.wait_for_plans(ALICE, BOB, CAROL)
    bot.stop()
    assert bot.planned() == [ALICE, BOB, CAROL]
    assert len({plan["id"] for plan in bot.plans()}) == 3
    assert bot.replayed() == bot.sent()


def test_a_start_decides_on_current_prices_whatever_the_server_has_cached(
    generation, chain, bots
):
    chain.position(ALICE, stSTX=10_000, owes=5_000)
    bot = bots("--once")
    bot.run()
    assert bot.plans() == []
    chain.price("stSTX", "0.70")
    bot.run()
    while generation.classic and not bot.plans():
        # 0.35.81 knows of the new price once it has seen another refresh key of the cube,
        # which changes every second here.
        bot.run()
    assert bot.planned() == [ALICE]


def test_a_borrower_beyond_the_limit_is_found_by_an_event(chain, bots):
    chain.position(ALICE, stSTX=10_000, owes=5_000)
    chain.position(BOB, sBTC="0.05", owes=2_000)
    chain.position(CAROL, stSTX=1_000, owes=600)
    bot = bots("--most-borrowers", "2")
    bot.start()
    bot.wait_for("link", "watching")
    assert any("more than 2 borrowers" in note["text"] for note in bot.notes())
    assert bot.plans() == []
    chain.event(CAROL)
    bot.wait_for_plans(CAROL)
    bot.stop()


def test_odd_rows_make_no_plan_and_hide_none(chain, bots):
    chain.position(ALICE, stSTX=10_000, owes=5_000)
    chain.position(BOB, sBTC="0.05", owes=2_000)
    # Without the unknown collateral it could be liquidated.
    chain.position(CAROL, stSTX=1_000, owes=600, **{UNKNOWN_ASSET: 1})
    bot = bots()
    bot.start()
    bot.wait_for("link", "watching")
    [refused] = [note for note in bot.notes() if note.get("borrower") == CAROL]
    assert refused["reason"] == "unknown asset"
    assert UNKNOWN_ASSET in refused["text"]

    # The last price stays in use; NULL is not 0.
    chain.lose_prices("stSTX")
    chain.price("sBTC", "59000")
    bot.wait_for("prices", "stSTX 0.8,", "sBTC 59,000")
    assert not [note for note in bot.notes() if note.get("borrower") == ALICE]

    # Anybody may be the sender, so everybody is read.
    chain.position(BOB, sBTC="0.05", owes=2_500)
    chain.event(None)
    bot.wait_for_plans(BOB)

    chain.price("stSTX", "0.70")
    bot.wait_for_plans(BOB, ALICE)
    bot.stop()
    assert bot.replayed() == bot.sent()


def test_two_prices_of_one_time_are_noticed_at_the_start(chain, bots):
    chain.double_prices()
    assert "has several prices at" in bots().run(code=2)
