"""The program as it is run: sources, exit codes, signals, kill -9, records."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import httpx
import msgspec
import pytest

from liquidation_bot import cli, demo
from liquidation_bot.alerts import CHAIN_ID, ENTITY_TYPE, entity_of
from liquidation_bot.model import FileError
from liquidation_bot.stacks import Ok, Principal, Some, UInt, deserialize, serialize
from ortege_watch.testing import FakeCube, Table
from ortege_watch.watchbus import AlertChannel, AlertInfo, Credentials, RequestVerifier

EXAMPLES = Path(__file__).parents[2] / "examples"


def environment(fake, **more):
    ours = ("ORTEGE_", "ALERTS_", "STACKS_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    server = {"ORTEGE_URL": fake.url, "ORTEGE_TOKEN": fake.token()}
    return {**env, **server, **more}


def program(*arguments):
    has_none = {"--replay", "--settle"} & set(arguments)
    market = [] if has_none else ["--market", str(demo.MARKET)]
    return [sys.executable, "-m", "liquidation_bot", *market, *arguments]


def run(fake, *arguments, **env):
    """Run the bot to its end."""
    return subprocess.run(
        program(*map(str, arguments)),
        cwd=EXAMPLES,
        env=environment(fake, **env),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def start(fake, *arguments, **env):
    """Start the bot; its log comes through stderr as JSON lines."""
    return subprocess.Popen(
        program("--log", "json", *map(str, arguments)),
        cwd=EXAMPLES,
        env=environment(fake, **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def hear(bot, kind, word=""):
    """Read the log until a note of a kind comes."""
    for line in bot.stderr:
        note = json.loads(line)
        if note["kind"] == kind and word in note["text"]:
            return note
    raise AssertionError(f"the bot ended without saying {kind} {word}")


@pytest.fixture
def fake():
    with FakeCube() as cube:
        yield cube


@pytest.fixture
def danger(fake, world):
    put_danger(fake, world)


def put_danger(fake, world):
    """Insert an unsafe position into the server, with new prices."""
    ststx, aeusdc, _ = world.market.reserves
    now = datetime.now(UTC)
    table = fake.tables["stacks_dapp_zest_positions_net"]
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
    prices = fake.tables["stacks_oracle_prices"]
    for token, dollars in {"stSTX": "0.7", "aeUSDC": "1"}.items():
        prices.insert({"token": token, "price": Decimal(dollars), "tx_date": now})


def event(fake, world, who, function="borrow"):
    fake.tables["stacks_contract_events"].insert(
        {
            "contract_id": world.market.contracts.watched[0],
            "function_name": function,
            "sender_address": who,
            "asset_amount": 1,
            "tx_date": datetime.now(UTC),
        }
    )


@pytest.mark.usefixtures("danger")
def test_once_writes_plans_to_stdout_and_the_log_to_stderr(fake, world):
    done = run(fake, "--once", "--liquidator", world.bob)
    assert done.returncode == 0, done.stderr
    asked = [each.json for each in fake.requests if each.path.endswith("/load")]
    assert {each.get("cache") for each in asked} == {"no-cache"}
    [plan] = [json.loads(line) for line in done.stdout.splitlines()]
    assert plan["borrower"] == world.alice
    assert plan["call"]["post_conditions"][0]["address"] == world.bob
    assert "not verified" in done.stderr
    assert re.search(r"plan +SPAZ…S6AK health 0.9800", done.stderr)
    assert fake.token() not in done.stderr + done.stdout


def at_a_terminal(fake, stdout, *arguments):
    """Run the bot with a terminal as stderr; return the exit code and what it shows.

    Without ``stdout`` the terminal is stdout, too.
    """
    near, far = pty.openpty()
    try:
        with subprocess.Popen(
            program(*arguments),
            cwd=EXAMPLES,
            env=environment(fake, TERM="xterm", COLUMNS="120"),
            stdin=far,
            stdout=far if stdout is None else stdout,
            stderr=far,
        ) as bot:
            os.close(far)
            shown = b""
            with contextlib.suppress(OSError):  # EIO: the bot has closed its end
                while part := os.read(near, 65536):
                    shown += part
            return bot.wait(60), shown.decode()
    finally:
        os.close(near)


@pytest.mark.usefixtures("danger")
def test_plans_reach_a_file_while_the_table_is_on_the_terminal(fake, world, tmp_path):
    pytest.importorskip("rich")
    path = tmp_path / "plans.jsonl"
    with path.open("wb") as file:
        code, shown = at_a_terminal(fake, file, "--once")
    assert code == 0, shown
    [plan] = [json.loads(line) for line in path.read_text().splitlines()]
    assert plan["borrower"] == world.alice
    assert "╇" in shown  # the table
    assert plan["id"] not in shown


@pytest.mark.usefixtures("danger")
def test_plans_reach_a_pipe_while_the_table_is_on_the_terminal(fake, world):
    pytest.importorskip("rich")
    near, far = os.pipe()
    with os.fdopen(near, "rb") as pipe:
        with os.fdopen(far, "wb") as stdout:
            code, shown = at_a_terminal(fake, stdout, "--once", "--log", "table")
        assert code == 0, shown
        assert json.loads(pipe.read())["borrower"] == world.alice


@pytest.mark.usefixtures("danger")
def test_plans_are_above_the_table_if_both_are_on_the_terminal(fake, world):
    pytest.importorskip("rich")
    code, shown = at_a_terminal(fake, None, "--once")
    assert code == 0, shown
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\s", "", shown)  # it is wrapped
    assert text.index(f'"borrower":"{world.alice}"') < text.rindex("╇")


@pytest.mark.usefixtures("danger")
def test_plans_are_files_where_a_directory_is_named(fake, tmp_path):
    done = run(fake, "--once", "--plans", tmp_path / "plans")
    assert done.stdout == ""
    [path] = (tmp_path / "plans").iterdir()
    assert path.stem == json.loads(path.read_text())["id"]


@pytest.mark.usefixtures("danger")
@pytest.mark.parametrize(
    ("options", "plans"),
    [
        (["--min-profit", "198"], 0),
        (["--min-profit", "197.65"], 1),
        (["--transaction-fee", "300"], 0),
        (["--transaction-fee", "300", "--allow-unprofitable"], 1),
        (["--slippage-bps", "900"], 0),
        (["--wallet-cap", "5"], 0),
        (["--margin", "0.021"], 0),
    ],
)
def test_limits_are_those_of_the_command_line(fake, options, plans):
    done = run(fake, "--once", *options)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == plans


@pytest.mark.usefixtures("danger")
@pytest.mark.parametrize(("which", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signals_end_it_cleanly(fake, which, code):
    with start(fake) as bot:
        hear(bot, "link", "watching")
        bot.send_signal(which)
        assert bot.wait(10) == code
        assert "Traceback" not in bot.stderr.read()
    fake.wait_until(lambda: fake.connections == 0)


@pytest.mark.usefixtures("danger")
def test_after_kill_9_nobody_gets_a_second_plan(fake, world, tmp_path):
    state = tmp_path / "state.json"
    with start(fake, "--state", state) as bot:
        hear(bot, "plan")
        bot.kill()
    with start(fake, "--state", state) as bot:
        hear(bot, "link", "watching")
        event(fake, world, world.alice)
        hear(bot, "event", "changed")
        bot.terminate()
        assert bot.wait(10) == 0
        assert bot.stdout.read() == ""
    assert [each["step"] for each in steps(state)] == ["written"]


@pytest.mark.usefixtures("danger")
def test_a_replay_of_a_record_gives_the_same_bytes(fake, world, tmp_path):
    record = tmp_path / "session"
    with start(fake, "--record", record, "--cool-down", 1, "--resync", 1) as bot:
        hear(bot, "plan")
        hear(bot, "link", "watching")
        event(fake, world, world.alice)
        hear(bot, "plan")
        bot.terminate()
        live = bot.stdout.read()
        assert bot.wait(10) == 0
    assert len(live.splitlines()) >= 2
    again = run(fake, "--replay", record)
    assert (again.returncode, again.stdout) == (0, live)


@pytest.mark.usefixtures("danger")
def test_a_record_of_two_runs_gives_the_bytes_of_both(fake, tmp_path):
    record, live = tmp_path / "session", ""
    for _ in range(2):
        done = run(fake, "--once", "--record", record)
        assert done.returncode == 0, done.stderr
        live += done.stdout
    assert len(live.splitlines()) == 2
    again = run(fake, "--replay", record)
    assert (again.returncode, again.stdout) == (0, live)


def test_members_that_the_server_lacks_are_named(fake):
    fake.tables["stacks_oracle_prices"] = Table(
        "stacks_oracle_prices", dimensions={"token": "string"}
    )
    done = run(fake, "--once")
    assert done.returncode == 2
    assert "stacks_oracle_prices.price, stacks_oracle_prices.tx_date" in done.stderr


def test_members_that_are_not_asked_for_may_lack(fake, tmp_path, world):
    del fake.tables["stacks_oracle_prices"]
    del fake.tables["stacks_dapp_zest_positions_net"]
    positions = tmp_path / "positions.json"
    position = msgspec.to_builtins(world.danger())
    positions.write_text(json.dumps([position]))
    now = int(datetime.now(UTC).timestamp())
    fresh = [msgspec.structs.replace(each, at=now) for each in world.prices().values()]
    prices = tmp_path / "prices.json"
    prices.write_text(json.dumps([msgspec.to_builtins(each) for each in fresh]))
    borrowers = tmp_path / "borrowers"
    borrowers.write_text(f"# ours\n\n{world.alice}  # Alice\n{world.alice}\n")
    files = ["--positions", positions, "--prices", prices, "--borrowers", borrowers]
    done = run(fake, "--once", *files)
    assert done.returncode == 0, done.stderr
    [plan] = [json.loads(line) for line in done.stdout.splitlines()]
    assert any("from a file" in doubt for doubt in plan["unverified"])


class Node(BaseHTTPRequestHandler):
    """A node with one borrower: a table of answers."""

    answers: ClassVar = {}
    keys: ClassVar = set()

    def do_POST(self):
        self.keys.add(self.headers.get("x-api-key"))
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        function = self.path.rpartition("/")[2]
        arguments = [deserialize(bytes.fromhex(each[2:])) for each in body["arguments"]]
        last = arguments[-1] if arguments else None
        result = f"0x{serialize(self.answers[function, last]).hex()}"
        answer = json.dumps({"okay": True, "result": result}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass


@pytest.fixture
def node(world):
    """Serve the derived vectors' position, and prices, as contracts say them."""
    alice, feed = Principal(world.alice), bytes(32)
    ststx, aeusdc = Principal(world.ststx), Principal(world.aeusdc)
    now = UInt(int(datetime.now(UTC).timestamp()))
    used = {"assets-supplied": (ststx,), "assets-borrowed": (aeusdc,)}

    def data(principal):
        return Some(
            {"principal-borrow-balance": UInt(principal), "use-as-collateral": True}
        )

    Node.answers = {
        ("get-user-assets-read", alice): Some(used),
        ("get-user-reserve-data-read", ststx): data(0),
        ("get-user-reserve-data-read", aeusdc): data(1),
        ("get-user-borrow-balance", aeusdc): {
            "compounded-balance": UInt(5_000_000_000)
        },
        ("get-balance", alice): Ok(UInt(10_000_000_000)),
        ("get-price", feed): Ok(
            {"price": 35, "expo": -2, "conf": UInt(0), "publish-time": now}
        ),
    }
    rules, vault = world.market.rules, Principal(world.market.contracts.vault)
    reserves = {Principal(each.asset): each for each in world.market.reserves}
    Node.answers |= {
        ("get-assets-read", None): tuple(reserves),
        ("get-reserve-vault-read", None): vault,
        ("get-health-factor-liquidation-threshold-read", None): UInt(
            rules.health_threshold
        ),
        ("get-balance", vault): Ok(UInt(10**15)),
        ("get-stale-price-threshold", None): UInt(rules.max_price_age),
    }
    for asset, each in reserves.items():
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
        }
        factor, fee = Some(UInt(each.close_factor)), Some(UInt(each.fee_bps))
        Node.answers |= {
            ("get-reserve-state-read", asset): Some(state),
            ("get-liquidation-close-factor-percent-read", asset): factor,
            ("get-origination-fee-prc-read", asset): fee,
        }
    server = ThreadingHTTPServer(("127.0.0.1", 0), Node)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def on_chain(tmp_path):
    """Write the demonstration's market with the contracts that a node has."""
    zero = "SP000000000000000000002Q6VF78"
    text = demo.MARKET.read_text()
    names = "".join(f'{key} = "{zero}.{key}"\n' for key in ("data", "reader", "pyth"))
    text = text.replace("[units]", f"[node]\n{names}\n[units]")
    text = text.replace("fee_bps = 1000\n", f'fee_bps = 1000\nfeed = "{"00" * 32}"\n')
    market = tmp_path / "market.toml"
    market.write_text(text)
    return market


def test_positions_and_prices_of_a_node(fake, world, tmp_path, node, on_chain):
    (tmp_path / "borrowers").write_text(world.alice)
    for table in ("stacks_oracle_prices", "stacks_dapp_zest_positions_net"):
        del fake.tables[table]
    sources = ["--positions", "node", "--prices", "node", "--node", node]
    sources += ["--borrowers", tmp_path / "borrowers", "--market", on_chain]
    sources += ["--node-calls-per-minute", "5000"]
    done = run(fake, "--once", *sources, STACKS_API_KEY="key-123")
    assert done.returncode == 0, done.stderr
    assert Node.keys == {"key-123"}
    assert "key-123" not in done.stderr + done.stdout
    # All at one price: 10,000 of each, thresholds 0.7 and (aeUSDC's) 0.9, owed 5,000.
    assert "nearest to liquidation: SPAZ…S6AK health 3.2000" in done.stderr


def test_the_market_file_is_compared_with_the_chain(fake, node, on_chain, world):
    check = ["--check-market", "--node", node, "--market", on_chain]
    done = run(fake, *check, ORTEGE_URL="", ORTEGE_TOKEN="")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("demo: 0 wrong, 0 missing\n")
    Node.answers["get-reserve-vault-read", None] = Principal(world.bob)
    done = run(fake, *check, ORTEGE_URL="", ORTEGE_TOKEN="")
    assert done.returncode == 1
    wrong = f"wrong: the market get-reserve-vault-read: the chain has '{world.bob}, the"
    assert done.stdout.startswith(wrong)
    del Node.answers["get-reserve-vault-read", None]
    done = run(fake, *check)
    assert done.returncode == 1
    assert "get-reserve-vault-read at" in done.stderr


@pytest.mark.usefixtures("danger")
def test_no_plan_leaves_while_the_market_file_is_wrong(fake, node, on_chain, world):
    options = ["--once", "--node", node, "--market", on_chain]
    done = run(fake, *options)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    Node.answers["get-reserve-vault-read", None] = Principal(world.bob)
    done = run(fake, *options)
    assert (done.returncode, done.stdout) == (3, "")
    assert "watch only, no plan leaves the bot: 1 lines" in done.stderr


@pytest.mark.parametrize("option", ["--positions", "--prices", "--borrowers"])
def test_a_file_that_cannot_be_read_is_wrong_use(fake, tmp_path, option):
    done = run(fake, "--once", option, tmp_path / "none")
    assert done.returncode == 2
    assert "cannot read" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("danger")
def test_once_without_an_answer_about_positions_ends_with_code_3(fake, tmp_path):
    fake.fail_query("Error: no positions today", status=400, times=2)
    done = run(fake, "--once")
    assert done.returncode == 3, done.stderr
    assert "could not read prices" in done.stderr


def test_a_refused_token_is_a_failure(fake):
    done = run(fake, "--once", ORTEGE_TOKEN="wrong-token")
    assert done.returncode == 1
    assert "Invalid token" in done.stderr
    assert "wrong-token" not in done.stderr


@pytest.mark.usefixtures("danger")
def test_execution_by_code_of_ones_own(fake, tmp_path):
    (tmp_path / "mine.py").write_text(
        "class Mine:\n"
        "    async def execute(self, plan):\n"
        "        print('executed', plan['id'])\n"
        "        return 'signed by me'\n"
    )
    common = ["--once", "--execute", "mine:Mine", "--state", tmp_path / "state"]
    common += ["--kill-file", tmp_path / "kill", "--cool-down", 1]
    done = run(fake, *common, "--cap", 3000, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("executed ")
    assert "signed by me" in done.stderr
    planned, handed, done = steps(tmp_path / "state")
    assert handed["usd"] == 2500 * 10**8
    assert done["text"] == "signed by me"
    assert planned["id"] == handed["id"] == done["id"]


def test_a_log_that_nobody_reads_ends_nothing(fake, world):
    with start(fake) as bot:
        hear(bot, "link", "watching")
        bot.stderr.close()
        put_danger(fake, world)
        event(fake, world, world.alice)
        assert json.loads(bot.stdout.readline())["borrower"]
        bot.terminate()
        assert bot.wait(10) == 0


def test_plans_that_nobody_reads_end_the_bot_with_a_code(fake, world):
    with start(fake) as bot:
        hear(bot, "link", "watching")
        bot.stdout.close()
        put_danger(fake, world)
        event(fake, world, world.alice)
        assert "cannot write plan" in bot.stderr.read()
        assert bot.wait(10) == 1


@pytest.fixture
def executor(fake, danger, tmp_path):
    """Return a function that runs or starts the bot with an executor."""
    state = tmp_path / "state"

    def go(how, body, *options, state=state, method="async def"):
        (tmp_path / "mine.py").write_text(
            f"import asyncio, pathlib\n"
            f"calls = pathlib.Path({str(tmp_path / 'calls')!r})\n"
            f"class Mine:\n"
            f"    {method} execute(self, plan):\n"
            f"        with calls.open('a') as file:\n"
            f"            file.write(plan['id'] + '\\n')\n"
            f"        {body}\n"
        )
        common = ["--execute", "mine:Mine", "--kill-file", tmp_path / "kill"]
        common += ["--state", state] if state else []
        env = {"PYTHONPATH": str(tmp_path)}
        return how(fake, *common, "--cap", 10_000, *options, **env)

    (tmp_path / "calls").touch()
    return go


def test_execution_needs_a_state(executor, tmp_path):
    done = executor(run, "return 'ok'", "--once", state=None)
    assert done.returncode == 2
    assert "--execute needs --cap, --kill-file and --state" in done.stderr
    assert (tmp_path / "calls").read_text() == ""


def test_a_hold_starts_no_cool_down(executor, tmp_path):
    (tmp_path / "kill").touch()
    done = executor(run, "return 'ok'", "--once")
    assert "held back: the kill file" in done.stderr
    (tmp_path / "kill").unlink()
    done = executor(run, "return 'ok'", "--once")
    assert done.returncode == 0
    assert len((tmp_path / "calls").read_text().split()) == 1


def test_a_synchronous_executor_is_refused_at_the_start(executor, tmp_path):
    done = executor(run, "return 'ok'", "--once", method="def")
    assert done.returncode == 2
    assert "must have 'async def execute'" in done.stderr
    assert (tmp_path / "calls").read_text() == ""


def test_an_executor_that_hangs_does_not_stop_the_bot(executor, tmp_path):
    options = ["--once", "--execute-within", 1]
    done = executor(run, "await asyncio.Event().wait()", *options)
    assert done.returncode == 0
    assert "failed: TimeoutError: no result within 1 s" in done.stderr


def test_a_second_bot_with_the_same_state_is_refused(executor, fake, tmp_path):
    with executor(start, "return 'ok'") as bot:
        hear(bot, "execute", "done: ok")
        for second in (
            executor(run, "return 'ok'", "--once"),
            run(fake, "--once", "--state", tmp_path / "state"),
        ):
            assert second.returncode == 2
            assert "is used by another bot: stop that one" in second.stderr
        bot.terminate()
        assert bot.wait(10) == 0
    assert len((tmp_path / "calls").read_text().split()) == 1


def test_after_kill_9_within_a_call_the_result_is_unknown(executor, tmp_path):
    with executor(start, "await asyncio.Event().wait()") as bot:
        hear(bot, "plan", "queued")
        while not (tmp_path / "calls").read_text():
            assert bot.poll() is None
        bot.kill()
    called = (tmp_path / "calls").read_text().strip()
    done = executor(run, "return 'ok'", "--once")
    assert f"plan {called} was handed over at" in done.stderr
    assert "result unknown: check the chain" in done.stderr
    assert (tmp_path / "calls").read_text().split() == [called]
    done = executor(run, "return 'ok'", "--once")
    assert "result unknown" not in done.stderr


def test_an_unknown_result_is_settled_by_the_operator(executor, fake, tmp_path):
    state = tmp_path / "state"

    def settle(*results):
        return run(fake, "--settle", *results, "--state", state)

    assert "there is no state file" in settle().stderr
    done = executor(run, "raise ValueError('s3cret')", "--once")
    assert "2,500.00 USD count as spent (see --settle)" in done.stderr
    assert "s3cret" not in done.stderr + state.read_text()
    done = settle()
    assert done.returncode == 0
    assert (
        "result unknown, 2,500.00 USD\n1 unknown; 2,500.00 USD are spent" in done.stdout
    )
    [plan] = [line.partition(":")[0] for line in done.stdout.splitlines()[:-1]]
    for wrong in ("none=sent", f"{plan}=maybe", plan):
        done = settle(f"{plan}=sent", wrong)
        assert done.returncode == 2
        assert wrong.partition("=")[0] in done.stderr
    done = settle(f"{plan}=not-sent")
    assert (done.returncode, done.stdout) == (0, "0 unknown; 0.00 USD are spent\n")
    assert settle(f"{plan}=sent").returncode == 2


def test_what_became_of_a_plan_is_not_said_while_the_bot_runs(executor, fake, tmp_path):
    with executor(start, "await asyncio.Event().wait()") as bot:
        hear(bot, "plan", "queued")
        done = run(fake, "--settle", "--state", tmp_path / "state")
        assert done.returncode == 2
        assert "is used by another bot" in done.stderr
        bot.kill()
    while not (tmp_path / "calls").read_text():
        pytest.fail("it was not called")
    done = run(fake, "--settle", "--state", tmp_path / "state")
    assert "1 unknown; 2,500.00 USD are spent" in done.stdout


def test_an_executor_that_blocks_the_bot_is_named(executor, tmp_path):
    body = "import time; time.sleep(3.2); return 'late'"
    done = executor(run, body, "--once", "--execute-within", 1)
    assert done.returncode == 0
    assert (
        "the executor blocks the event loop" in done.stderr.partition("it did for")[0]
    )
    assert "it did for up to" in done.stderr
    assert "done: late" in done.stderr


def test_a_signal_lets_a_call_end(executor, tmp_path):
    slow = f"while not pathlib.Path({str(tmp_path / 'go')!r}).exists():\n"
    slow += "            await asyncio.sleep(0.01)\n        return 'in time'"
    with executor(start, slow) as bot:
        hear(bot, "link", "watching")
        bot.terminate()
        hear(bot, "execute", "ending after the result")
        (tmp_path / "go").touch()
        hear(bot, "execute", "done: in time")
        assert bot.wait(10) == 0
    assert [each["step"] for each in steps(tmp_path / "state")][-1] == "done"


def steps(state):
    """Return the steps of plans in a state file."""
    return [json.loads(line) for line in state.read_text().splitlines()[1:]]


ALERTS = {
    "ALERTS_TO_APP_ID": "bot",
    "ALERTS_TO_SECRET": "what-we-sign-with",
    "ALERTS_FROM_APP_ID": "monitor",
    "ALERTS_FROM_SECRET": "what-they-sign-with",
}


class Bus(BaseHTTPRequestHandler):
    """Accept alerts with a valid signature."""

    taken: ClassVar = []
    is_away: ClassVar = False
    verifier = RequestVerifier(
        {"bot": ["what-we-sign-with"]}, path="/api/v1/watch/alert"
    )

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.is_away:
            self.close_connection = True
            return
        self.taken += self.verifier.alerts(self.headers.items(), body)
        answer = b'{"status": "OK", "code": "000000000", "data": null}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass


@pytest.fixture
def alert_bus():
    """Serve a bus on loopback."""
    Bus.taken = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bus)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("danger")
def test_plans_go_out_as_alerts(fake, world, alert_bus):
    done = run(fake, "--once", "--alerts-to", alert_bus, **ALERTS)
    assert done.returncode == 0, done.stderr
    [plan] = [json.loads(line) for line in done.stdout.splitlines()]
    [alert] = Bus.taken
    assert alert.entity == entity_of(world.alice)
    assert alert.event_values.plan_id == plan["id"]
    assert alert.event_values.pays == 2500
    assert "liquidation_plan about SPAZ…S6AK: sent" in done.stderr
    assert "sign-with" not in done.stderr + done.stdout


@pytest.mark.usefixtures("danger")
def test_alerts_wait_in_the_outbox_for_a_bus_that_is_away(
    fake, alert_bus, tmp_path, monkeypatch
):
    box = ["--outbox", tmp_path / "outbox"]
    monkeypatch.setattr(Bus, "is_away", True)
    with start(fake, "--alerts-to", alert_bus, *box, **ALERTS) as bot:
        hear(bot, "link", "unsent alerts stay in Outbox(")
        bot.terminate()
        assert bot.wait(10) == 0
    assert Bus.taken == []
    monkeypatch.setattr(Bus, "is_away", False)
    limit = ["--min-profit", 1000]  # no plan this time
    with start(fake, *limit, "--alerts-to", alert_bus, *box, **ALERTS) as bot:
        hear(bot, "alert", "liquidation_plan about SPAZ…S6AK: sent")
        bot.terminate()
        assert bot.wait(10) == 0
    assert len(Bus.taken) == 1


@pytest.mark.usefixtures("danger")
def test_an_alert_makes_it_look_and_a_replay_has_the_same_bytes(fake, world, tmp_path):
    record, taking = tmp_path / "session", ["--alerts-from", "127.0.0.1:0/alerts"]
    limits = ["--cool-down", 1, "--resync", 100_000]

    async def send(url):
        sender = Credentials("monitor", "what-they-sign-with")
        entity = entity_of(world.alice)
        async with asyncio.timeout(10), AlertChannel(url, sender) as channel:
            await channel.send([AlertInfo(entity, CHAIN_ID, ENTITY_TYPE, "moved", 1)])

    with start(fake, *taking, *limits, "--record", record, **ALERTS) as bot:
        url = hear(bot, "start", "receiving alerts at")["text"].rpartition(" ")[2]
        hear(bot, "link", "watching")
        asyncio.run(send(url))
        hear(bot, "alert", "moved about SPAZ…S6AK: reading again")
        hear(bot, "alert", "now: ")
        bot.terminate()
        live = bot.stdout.read()
        assert bot.wait(10) == 0
    again = run(fake, "--replay", record)
    assert (again.returncode, again.stdout) == (0, live)
    assert len(live.splitlines()) >= 1


@pytest.mark.parametrize(
    ("arguments", "lacks", "message"),
    [
        (["--alerts-to", "http://x"], ["ALERTS_TO_SECRET"], "set ALERTS_TO_SECRET"),
        (["--alerts-to", "http://x?secret=1"], [], "remove the query"),
        (
            ["--alerts-from", "127.0.0.1:0/a"],
            ["ALERTS_FROM_APP_ID", "ALERTS_FROM_SECRET"],
            "set ALERTS_FROM_APP_ID and ALERTS_FROM_SECRET",
        ),
        (["--alerts-from", "127.0.0.1:0/a;b"], [], "path"),
    ],
)
def test_alerts_without_what_they_need_are_wrong_use(fake, arguments, lacks, message):
    env = {name: value for name, value in ALERTS.items() if name not in lacks}
    done = run(fake, *arguments, **env)
    assert done.returncode == 2
    assert message in done.stderr
    assert "sign-with" not in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_that_is_taken_is_a_failure(fake, alert_bus):
    taken = alert_bus.removeprefix("http://")
    done = run(fake, "--alerts-from", f"{taken}/alerts", **ALERTS)
    assert done.returncode == 1
    assert "cannot listen on" in done.stderr


def test_one_secret_for_both_directions_is_wrong_use(fake):
    ways = ["--alerts-to", "http://x", "--alerts-from", "127.0.0.1:0/a"]
    same = {**ALERTS, "ALERTS_FROM_SECRET": ALERTS["ALERTS_TO_SECRET"]}
    done = run(fake, *ways, **same)
    assert done.returncode == 2
    assert "must differ from ALERTS_TO_SECRET" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nonsense"], "unrecognized arguments"),
        (["--demo", "--once"], "not allowed with"),
        (["--execute", "a:b"], "--execute needs --cap, --kill-file and --state"),
        (["--execute", "a:b", "--cap", "1", "--state", "s"], "--execute needs"),
        (["--execute", "a:b", "--kill-file", "k", "--cap", "1"], "--execute needs"),
        (["--execute-within", "0"], "must be a whole number between 1 and"),
        (["--positions", "node"], "need --node"),
        (["--min-profit", "much"], "must be a number"),
        (["--min-profit", "-1"], "must be between"),
        (["--min-profit", "nan"], "must be between"),
        (["--min-profit", "0.000000001"], "at most eight decimals"),
        (["--slippage-bps", "10001"], "between 0 and 10000"),
        (["--cool-down", "0"], "must be a whole number between 1 and"),
        (["--resync", "1.5"], "must be a whole number between 1 and"),
        (["--liquidator", "me"], "invalid Stacks address"),
        (["--demo", "--alerts-to", "http://x"], "not for --demo"),
        (["--demo", "--market", "none.toml"], "--market is not for --demo"),
        (["--replay", "x", "--market", "none.toml"], "not for --replay"),
        (["--node-calls-per-minute", "5"], "needs --node URL"),
        (["--node-calls-per-minute", "0"], "between 1 and"),
        (["--cap", "1"], "need --execute"),
        (["--kill-file", "k"], "need --execute"),
        (
            [
                "--execute",
                "a:b",
                "--cap",
                "1",
                "--kill-file",
                "k",
                "--state",
                "s",
                "--plans",
                "d",
            ],
            "--plans is not for --execute",
        ),
        (["--check-market"], "--check-market needs --node"),
        (["--log", "loud"], "invalid choice: 'loud'"),
        (["--outbox", "x"], "--outbox needs"),
        (["--outbox", "x", "--alerts-to", "ws://x/"], "--outbox needs"),
        (["--alerts-from", "8700"], "must be like"),
        (["--alerts-from", "x:1"], "must be like"),
        (["--alerts-from", ":1/a"], "must be like"),
        (["--alerts-from", "x:99999/a"], "out of range"),
    ],
)
def test_wrong_options_end_with_code_2(capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        cli.parse(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


SHOWN = ["--log json"]
FILES = ["--plans d"]
DECIDE = [
    "--market f",
    "--min-profit 1",
    "--allow-unprofitable",
    "--transaction-fee 1",
    "--slippage-bps 1",
    "--wallet-cap 1",
    "--margin 1",
    "--cool-down 1",
]
RUN = [
    *SHOWN,
    *FILES,
    *DECIDE,
    "--positions f",
    "--prices f",
    "--borrowers f",
    "--most-borrowers 1",
    "--liquidator SPAZ0AWR4XF9F2K6PB1YTESJY00Z1KAFHBC4S6AK",
    "--state f",
    "--record f",
    "--alerts-to ws://x/",
    "--webhook https://x",
    "--webhook-file f",
    "--webhook-format slack",
    "--node http://x",
    "--node-calls-per-minute 5 --node http://x",
    "--outbox f --alerts-to http://x",
    "--execute a:b --cap 1 --kill-file f --state f",
    "--execute-within 5 --execute a:b --cap 1 --kill-file f --state f",
]
WATCH = [
    *RUN,
    "--resync 1",
    "--window 1",
    "--status 1",
    "--silent-after 1",
    "--alerts-from x:1/a",
    "--metrics :1",
]
BACKTEST = [
    "--backtest-delay 1",
    "--backtest-prices 2026-11-01..2026-11-02",
    "--plot f",
    *DECIDE,
]
CHECK = [
    "--market f",
    "--node http://x",
    "--node-calls-per-minute 5 --node http://x",
]
ALL = [*WATCH, *BACKTEST]


@pytest.mark.parametrize(
    ("mode", "used"),
    [
        ([], WATCH),
        (["--once"], RUN),
        (["--demo"], SHOWN + FILES),
        (["--replay", "f"], FILES),
        (["--backtest", "f"], BACKTEST),
        (["--check-market", "--node", "http://x"], CHECK),
    ],
    ids=["watch", "once", "demo", "replay", "backtest", "check-market"],
)
def test_a_mode_refuses_the_options_that_it_does_not_use(capsys, mode, used):
    """All options are here, so a new one has to be put into this list."""
    names = {each.split()[0] for each in ALL} | {"--cap", "--kill-file"}
    assert names == {each.name for each in itertools.chain(*cli._OPTIONS.values())}
    for option in ALL:
        arguments = [*mode, *option.split()]
        if option in used:
            assert cli.parse(arguments)
            continue
        with pytest.raises(SystemExit) as ended:
            cli.parse(arguments)
        assert ended.value.code == 2
        assert f"is not for {(mode or ['watching'])[0]}" in capsys.readouterr().err, (
            option
        )


def test_a_replay_of_nothing_ends_with_code_2(capsys, tmp_path):
    assert cli.main(["--replay", str(tmp_path / "none")]) == 2
    assert "cannot read the record" in capsys.readouterr().err


def test_help_names_the_exit_codes(capsys):
    with pytest.raises(SystemExit):
        cli.parse(["--help"])
    told = capsys.readouterr().out
    assert "exit codes" in told
    assert all(code in told for code in ("0 ended", "1 failed", "2 wrong", "3 --once"))
    assert "130" in told


@pytest.mark.parametrize("content", ["nobody", "\ud800"])
def test_a_list_of_borrowers_must_be_addresses(tmp_path, content):
    path = tmp_path / "borrowers"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(FileError, match="cannot read the borrowers"):
        cli.read_borrowers(path)


def test_the_default_market_is_the_one_for_zest_v1():
    assert cli.parse([]).market is None
    assert cli._MARKET.name == "zest-v1.toml"


def test_defaults_are_read_like_options():
    chosen = cli.parse([])
    assert (chosen.min_profit, chosen.margin) == (10**8, 10**5)
    assert (chosen.resync, chosen.allow_unprofitable, chosen.state) == (
        300,
        False,
        None,
    )


class Hook(BaseHTTPRequestHandler):
    """Take what is posted; the first post is too much."""

    taken: ClassVar = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.taken.append((self.path, body))
        self.send_response(200 if len(self.taken) > 1 else 429)
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def hook():
    Hook.taken.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/s3cret"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("danger")
def test_metrics_and_health_are_served(fake):
    with start(fake, "--metrics", "127.0.0.1:0") as bot:
        told = hear(bot, "start", "serving")["text"]
        url = re.search(r"(http://127\.0\.0\.1:\d+)/metrics", told)[1]
        hear(bot, "link", "watching")
        assert "\nliquidation_bot_plans_total 1\n" in httpx.get(f"{url}/metrics").text
        assert httpx.get(f"{url}/health").json() == {"problems": {}}
        fake.down()
        hear(bot, "link", "waiting")
        ill = httpx.get(f"{url}/health")
        assert ill.status_code == 503
        assert list(ill.json()["problems"]) == ["connection"]
        bot.send_signal(signal.SIGTERM)
        assert bot.wait(10) == 0
        assert fake.token() not in bot.stderr.read()


def test_what_an_executor_did_is_in_the_metrics(executor):
    with executor(start, "raise ValueError('s3cret')", "--metrics", ":0") as bot:
        told = hear(bot, "start", "serving")["text"]
        url = re.search(r"(http://127\.0\.0\.1:\d+)/metrics", told)[1]
        hear(bot, "trouble", "failed: ValueError")
        hear(bot, "link", "watching")
        failed = '\nliquidation_bot_executor_results_total{result="failed"} 1\n'
        assert failed in httpx.get(f"{url}/metrics").text
        ill = httpx.get(f"{url}/health")
        assert ill.status_code == 503
        assert ill.json() == {
            "problems": {"executor": "1 failures in a row, see the log"}
        }
        bot.send_signal(signal.SIGTERM)
        assert bot.wait(10) == 0


@pytest.mark.usefixtures("danger")
@pytest.mark.parametrize("how", ["option", "file", "environment"])
def test_a_plan_is_posted_to_a_webhook_whose_url_stays_secret(
    fake, hook, tmp_path, world, how
):
    secrets = tmp_path / "webhooks"
    secrets.write_text(f"slack+{hook}\n")
    options = {
        "option": ["--webhook", f"slack+{hook}"],
        "file": ["--webhook-file", secrets],
        "environment": ["--webhook-format", "slack"],
    }
    env = {"ORTEGE_BOT_WEBHOOK": hook} if how == "environment" else {}
    done = run(fake, "--once", *options[how], **env)
    assert done.returncode == 0, done.stderr
    [first, second] = Hook.taken
    assert first == second
    assert first[0] == "/s3cret"
    assert first[1]["text"].startswith("SPAZ…S6AK health 0.9800: pay 2,500.00 aeUSDC")
    assert "s3cret" not in done.stderr + done.stdout


def test_a_webhook_that_is_no_url_is_refused_without_showing_it(fake):
    done = run(fake, "--once", "--webhook", "htps://h/s3cret")
    assert done.returncode == 2
    assert "invalid webhook URL" in done.stderr
    assert "s3cret" not in done.stderr


def test_a_mistyped_option_is_named_without_its_value(capsys):
    with pytest.raises(SystemExit):
        cli.parse(["--webhok", "https://h/s3cret", "--webook=https://h/s3cret"])
    said = capsys.readouterr().err
    assert "unrecognized arguments: --webhok, --webook\n" in said
    assert "s3cret" not in said


@pytest.mark.parametrize("text", ["host", "host:", "host:x", ":65536", "::1"])
def test_an_invalid_address_of_metrics_is_refused(text):
    with pytest.raises(SystemExit):
        cli.parse(["--metrics", text])


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":9100", ("127.0.0.1", 9100)),
        ("9100", ("127.0.0.1", 9100)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("[::1]:9100", ("::1", 9100)),
    ],
)
def test_metrics_are_on_loopback_by_default(text, address):
    assert cli.parse(["--metrics", text]).metrics == address
