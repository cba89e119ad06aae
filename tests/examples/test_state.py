"""The state file: a journal that survives, or is refused; it is never half."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given, strategies as st

from liquidation_bot.model import FileError, UsageError
from liquidation_bot.record import Entry, Journal, Ledger, Step, write_atomically

TESTS = Path(__file__).parent
EXAMPLES = TESTS.parents[1] / "examples"
OLD = (
    b'{"version":2,"ledger":{"plans":3,"cool_downs":{"SP1":9},"spent":7,"handed":["x"],'
    b'"unsettled":{"x":{"step":"handed over","at":1,"id":"x","borrower":"SP1","usd":7}}'
    b"}}\n"
)
HELD = Entry("handed over", 1, "x", "SP1", usd=7)


def entry(step, name="a", who="SP1", **more):
    return Entry(step, 1, name, who, **more)


HANDED = entry("handed over", until=50, usd=10)


@pytest.mark.parametrize(
    ("steps", "ledger"),
    [
        ([], Ledger()),
        ([entry("written", until=5)], Ledger(plans=1, cool_downs={"SP1": 5})),
        ([entry("planned")], Ledger(plans=1)),
        ([entry("planned"), entry("dropped")], Ledger(plans=1)),
        (
            [HANDED],
            Ledger(spent=10, cool_downs={"SP1": 50}, handed={"a"}, open={"a": HANDED}),
        ),
        (
            [HANDED, entry("done", until=50)],
            Ledger(spent=10, cool_downs={"SP1": 50}, handed={"a"}),
        ),
        (
            [HANDED, entry("not sent", until=20)],
            Ledger(spent=0, cool_downs={"SP1": 20}, handed={"a"}, failures={"SP1": 1}),
        ),
        (
            [HANDED, entry("failed", until=90)],
            Ledger(
                spent=10,
                cool_downs={"SP1": 90},
                handed={"a"},
                failures={"SP1": 1},
                unsettled={"a": HANDED},
            ),
        ),
        (
            [HANDED, entry("unknown")],
            Ledger(
                spent=10,
                cool_downs={"SP1": 50},
                handed={"a"},
                failures={"SP1": 1},
                unsettled={"a": HANDED},
            ),
        ),
        (
            [HANDED, entry("unknown"), entry("not sent")],
            Ledger(spent=0, cool_downs={"SP1": 50}, handed={"a"}, failures={"SP1": 1}),
        ),
        (
            [HANDED, entry("failed", until=90), entry("sent")],
            Ledger(spent=10, cool_downs={"SP1": 90}, handed={"a"}, failures={"SP1": 1}),
        ),
        (
            [
                HANDED,
                entry("failed", until=60),
                entry("handed over", "b", until=70, usd=1),
                entry("not sent", "b", until=80),
            ],
            Ledger(
                spent=10,
                cool_downs={"SP1": 80},
                handed={"a", "b"},
                failures={"SP1": 2},
                unsettled={"a": HANDED},
            ),
        ),
        (
            [
                HANDED,
                entry("failed", until=60),
                entry("handed over", "b", until=70, usd=1),
                entry("done", "b", until=70),
            ],
            Ledger(
                spent=11,
                cool_downs={"SP1": 70},
                handed={"a", "b"},
                unsettled={"a": HANDED},
            ),
        ),
    ],
)
def test_the_ledger_is_the_sum_of_the_steps(steps, ledger):
    found = Ledger()
    for each in steps:
        found.apply(each)
    assert found == ledger


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([HANDED, HANDED], "plan 'a' is handed over twice"),
        ([HANDED, entry("done"), HANDED], "plan 'a' is handed over twice"),
        ([entry("done")], "plan 'a' was not handed over before"),
        ([HANDED, entry("done", "b")], "plan 'b' was not handed over before"),
        ([HANDED, entry("done"), entry("unknown")], "plan 'a' was not handed over"),
        ([HANDED, entry("done"), entry("not sent")], "plan 'a' was not handed over"),
        (
            [HANDED, entry("failed"), entry("sent"), entry("not sent")],
            "plan 'a' was not handed over",
        ),
    ],
)
def test_steps_that_cannot_follow_are_refused(tmp_path, steps, message):
    found = Ledger()
    with pytest.raises(ValueError, match=message):
        for each in steps:
            found.apply(each)
    path = tmp_path / "state"
    lines = [
        json.dumps(
            {"step": each.step, "at": 1, "id": each.id, "borrower": each.borrower}
        )
        for each in steps
    ]
    path.write_bytes(OLD + "".join(f"{each}\n" for each in lines).encode())
    with (
        pytest.raises(FileError, match=f"line {len(steps) + 1}: {message}"),
        Journal.opened(path),
    ):
        pass


def test_only_cool_downs_that_run_are_for_a_new_session():
    assert Ledger(cool_downs={"SP1": 9, "SP2": 10}).running(9) == {"SP2": 10}


def test_there_and_back(tmp_path):
    path = tmp_path / "deep" / "state"
    with Journal.opened(path) as journal:
        journal.append(HANDED)
        ledger = journal.ledger
    with Journal.opened(path) as journal:
        assert (
            journal.ledger == ledger == Ledger(0, {"SP1": 50}, 10, {"a"}, {"a": HANDED})
        )
        assert journal.notice == ""
    assert len(path.read_bytes().splitlines()) == 2


def test_without_a_file_nothing_is_kept():
    with Journal.opened(None) as journal:
        journal.append(HANDED)
        assert journal.ledger.spent == 10


@pytest.mark.parametrize("content", [OLD, OLD.rstrip()])
def test_a_first_line_with_a_sum_is_continued(tmp_path, content):
    path = tmp_path / "state"
    path.write_bytes(content)
    with Journal.opened(path) as journal:
        assert journal.ledger == Ledger(3, {"SP1": 9}, 7, {"x"}, {}, {"x": HELD})
        journal.append(entry("planned"))
        journal.append(entry("not sent", "x"))
    with Journal.opened(path) as journal:
        assert journal.ledger == Ledger(4, {"SP1": 9}, 0, {"x"})
    assert path.read_bytes().startswith(OLD)


def long_file(path, spare):
    """Write a state file that lacks so many bytes until it is shortened."""
    steps = b""
    for number in range(10**9):
        lines = b"".join(
            msgspec.json.encode(entry(step, f"p{number}", f"SP{number % 99}", **more))
            + b"\n"
            for step, more in [
                ("planned", {}),
                ("handed over", {"until": number, "usd": 3}),
                (("done", "failed", "not sent")[number % 3], {"text": "x" * 900}),
            ]
        )
        if len(steps) + len(lines) > 2**20 - spare:
            break
        steps += lines
    path.write_bytes(OLD + steps)
    return number


def test_a_long_file_is_shortened_at_the_start_and_nothing_of_it_is_lost(tmp_path):
    path = tmp_path / "state"
    path.symlink_to(tmp_path / "disk")  # as on a volume
    count = long_file(path, -5000)
    before = path.read_bytes()
    with Journal.opened(path) as journal:
        ledger = journal.ledger
        assert ledger.plans == count + 3
        assert ledger.spent == 7 + 3 * (count - count // 3)
        assert len(ledger.unsettled) == 1 + (count + 1) // 3
        assert len(ledger.cool_downs) == 100 - 1
        assert journal.notice == ""
        with pytest.raises(ValueError, match="twice"):
            ledger.apply(entry("handed over", "p0"))
        journal.append(HANDED)
    assert len(path.read_bytes().splitlines()) == 2
    assert path.is_symlink()
    assert (tmp_path / "disk.old").read_bytes() == before
    with Journal.opened(path) as journal:
        assert journal.ledger == ledger
        assert set(journal.ledger.open) == {"a"}
    assert (tmp_path / "disk.old").read_bytes() == before


SHORTENING = """
import sys
from pathlib import Path
examples, state = sys.argv[1:]
sys.path[:0] = [examples]
from liquidation_bot.record import Journal
print("ready", flush=True)
with Journal.opened(Path(state)):
    print("done", flush=True)
"""


def test_kill_9_while_a_file_is_shortened_loses_nothing(tmp_path):
    path, chance, killed = tmp_path / "state", random.Random(7), 0
    long_file(path, -5000)
    before = path.read_bytes()
    with Journal.opened(tmp_path / "state") as journal:
        ledger = journal.ledger
    for _ in range(10):
        path.write_bytes(before)
        command = [sys.executable, "-c", SHORTENING, str(EXAMPLES), str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout.readline() == b"ready\n"
            with suppress(subprocess.TimeoutExpired):
                child.wait(chance.uniform(0, 0.03))
            child.kill()
            killed += child.stdout.readline() != b"done\n"
        with Journal.opened(path) as journal:
            assert journal.ledger == ledger
    assert killed


def test_a_file_that_grows_is_shortened_while_it_is_used(tmp_path):
    path = tmp_path / "state"
    count = long_file(path, 200)
    with Journal.opened(path) as journal:
        for number in range(60):
            journal.append(entry("planned", f"q{number}"))
        ledger = journal.ledger
        assert ledger.plans == count + 63
    lines = path.read_bytes().splitlines()
    assert 2 < len(lines) < 61
    with Journal.opened(path) as journal:
        assert journal.ledger == ledger


def test_what_cannot_be_shortened_stays_and_is_reported(tmp_path):
    path = tmp_path / "state"
    long_file(path, -5000)
    before = path.read_bytes()
    (tmp_path / "state.old").mkdir()
    with Journal.opened(path) as journal:
        assert "cannot shorten the state file" in journal.notice
        journal.append(HANDED)
    assert path.read_bytes().startswith(before)
    assert len(path.read_bytes().splitlines()) == len(before.splitlines()) + 1


def test_a_file_that_was_deleted_takes_no_step(tmp_path):
    path = tmp_path / "state"
    with Journal.opened(path) as journal:
        path.unlink()
        with pytest.raises(OSError, match="no plan leaves without it: it was deleted"):
            journal.append(HANDED)
        assert journal.ledger == Ledger()


STEPS = st.sampled_from(get_args(Step))


@given(
    st.lists(
        st.builds(
            Entry,
            STEPS,
            st.integers(0, 9),
            st.sampled_from("abc"),
            st.sampled_from(["SP1", "SP2"]),
            st.integers(0, 9),
            st.integers(0, 10**30),
        ),
        max_size=30,
    )
)
def test_a_sum_that_was_written_is_the_sum(steps):
    ledger = Ledger()
    for each in steps:
        with suppress(ValueError):
            ledger.apply(each)
    again = msgspec.json.decode(msgspec.json.encode(ledger), type=Ledger)
    assert again == ledger
    assert again.spent >= 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        b'{"version": 1, "plans": 0, "cool_downs": {}, "spent": 0}',
        b'{"version": 1, "ledger": {}}',
        b'{"version": 2}',
        b'{"ledger": {}}',
        b'{"version": 2, "ledger": {"cool_downs": []}}',
        b'{"version": 2, "ledger": {"plans": true}}',
        b'{"version": 2, "ledger": {"cool_downs": {"SP1": 1.5}}}',
        b'{"version": 2, "ledger": {"spent": -1}}',
        b'{"version": 2, "ledger": {"spend": 1}}',
        OLD + b"{}\n",
        OLD + b'{"step":"unheard of","at":1,"id":"a","borrower":"SP1"}\n',
        OLD + b'{"step":"planned","at":1,"id":"a","borrower":"SP1","x":1}\n',
        OLD + b"half a line\n" + OLD,
        OLD + b"\n",
    ],
)
def test_what_is_no_state_is_refused(tmp_path, content):
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with (
        pytest.raises(FileError, match="delete it to start with an empty state"),
        Journal.opened(path),
    ):
        pass
    assert path.read_bytes() == content


def test_a_directory_is_no_state(tmp_path):
    with pytest.raises(FileError), Journal.opened(tmp_path):
        pass


def test_an_incomplete_last_line_is_removed_and_reported(tmp_path):
    path = tmp_path / "state"
    with Journal.opened(path) as journal:
        journal.append(HANDED)
        journal.append(entry("done"))
    whole = path.read_bytes()
    second = whole.index(b"\n", len(whole) // 2) + 1
    for length in range(second, len(whole)):
        path.write_bytes(whole[:length])
        with Journal.opened(path) as journal:
            assert set(journal.ledger.open) == {"a"}
            assert bool(journal.notice) == (length > second)
            journal.append(entry("done"))
        assert path.read_bytes() == whole


def test_a_second_bot_is_refused(tmp_path):
    path = tmp_path / "state"
    with (
        Journal.opened(path),
        pytest.raises(UsageError, match="used by another bot: stop that one"),
        Journal.opened(path),
    ):
        pass
    with Journal.opened(path):
        pass


@pytest.mark.parametrize("how", ["link", "hard link", "lock deleted"])
def test_a_second_bot_is_refused_under_every_name(tmp_path, how):
    path, other = tmp_path / "state", tmp_path / "state2"
    with Journal.opened(path) as journal:
        if how == "link":
            other.symlink_to(path)
        elif how == "hard link":
            other.hardlink_to(path)
        else:
            (tmp_path / "state.lock").unlink()
            other = path
        with (
            pytest.raises(UsageError, match="used by another bot: stop that one"),
            Journal.opened(other),
        ):
            pass
        journal.append(HANDED)
    with Journal.opened(path) as journal:
        assert set(journal.ledger.open) == {"a"}


@pytest.mark.parametrize("broken", ["write", "fsync"])
def test_what_is_not_on_the_disk_does_not_count(tmp_path, monkeypatch, broken):
    path = tmp_path / "state"
    with Journal.opened(path) as journal:
        before = path.read_bytes()
        write = os.write
        if broken == "write":  # a full disk takes a part
            monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:9]))
        else:
            monkeypatch.setattr(os, "fsync", lambda file: os.close(-1))
        with pytest.raises(OSError, match="cannot write the state file"):
            journal.append(HANDED)
        monkeypatch.undo()
        assert journal.ledger == Ledger()
        assert path.read_bytes() == before
        journal.append(HANDED)
    with Journal.opened(path) as journal:
        assert journal.ledger.spent == 10


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "state.json"
    write_atomically(path, "before")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "after \ud800")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


# Every start makes the same plans with the same ids, and no cool-down protects them. Each
# step is a line, and waits for a byte. A start is a fork: what is imported is there.
EXECUTING = """
import asyncio, os, sys
from pathlib import Path
examples, tests, state, calls = sys.argv[1:]
sys.path[:0] = [examples, tests]
from conftest import World
from liquidation_bot import demo
from liquidation_bot.engine import Limits, Plan
from liquidation_bot.engine import CoolDown, PositionsRead, PricesSeen
from liquidation_bot.execution import Dispatcher, Guard, Hooks
from liquidation_bot.market import Market
from liquidation_bot.record import Journal, Session

world = World(Market.load(demo.MARKET))
session = Session(market=world.market, limits=Limits(), cool_down=0, cool_downs={},
                  caveats=(), liquidator=None)
engine = session.engine()

def step(*words):
    os.write(1, (" ".join(words) + "\\n").encode())  # a line is never half
    os.read(0, 1)

class Executor:
    async def execute(self, plan):
        with open(calls, "a") as file:
            file.write(plan["id"] + "\\n")
            file.flush()
            os.fsync(file.fileno())
        step("called")
        await asyncio.sleep(0)
        return "ok"

class Told(Journal):
    def append(self, entry):
        step("before", entry.step)
        super().append(entry)
        step("after", entry.step)

async def cool_down(borrower, until):
    engine.handle(CoolDown(world.now, borrower, until))

async def main():
    engine.handle(PricesSeen(world.now, tuple(world.prices().values())))
    positions = [
        world.position((world.ststx, 10**10 * n, 0), (world.aeusdc, 0, 5 * 10**9 * n),
                       who=world.borrower(n))
        for n in range(1, 31)
    ]
    with Told.opened(Path(state)) as journal:
        dispatcher = Dispatcher(Executor(), journal=journal,
                                guard=Guard(10**18, Path(state + ".kill")))
        hooks = Hooks(engine=engine, document=session.document, cool_down=cool_down,
                      say=lambda kind, text, **data: step(kind, text), doubt=str, now=lambda: world.now,
                      sleep=asyncio.sleep)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(dispatcher.run(hooks))
            for plan in engine.handle(PositionsRead(world.now, tuple(positions))):
                assert isinstance(plan, Plan)
                await dispatcher.offer(plan, session.document(plan), 0)
            await dispatcher.drained()
            running.cancel()
    step("end")

while byte := os.read(0, 1):
    if byte != b"s":
        continue  # a killed one has not read it
    if (pid := os.fork()) == 0:
        os.write(1, f"{os.getpid()}\\n".encode())
        asyncio.run(main())
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.write(1, f"exit {code}\\n".encode())
"""


def test_after_kill_9_no_plan_reaches_the_executor_twice(tmp_path):
    state, calls = tmp_path / "state", tmp_path / "calls"
    chance = random.Random(7)
    command = [sys.executable, "-c", EXECUTING, str(EXAMPLES), str(TESTS)]
    reports, killed, code = 0, 0, -signal.SIGKILL
    with subprocess.Popen(
        [*command, str(state), str(calls)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as nursery:

        def line(answer=b""):
            nursery.stdin.write(answer)
            found = nursery.stdout.readline().decode()
            assert found.endswith("\n"), f"it ended with {nursery.wait(9)}: {found!r}"
            return found.rstrip()

        while code == -signal.SIGKILL:
            pid = int(line(b"s"))
            # Planning takes 60 lines; then each plan takes five.
            for _ in range(chance.randrange(61, 73) if killed < 40 else 10**6):
                found = line()
                reports += "result unknown" in found
                if found.startswith("exit"):
                    break
                nursery.stdin.write(b"a")
            else:
                os.kill(pid, signal.SIGKILL)
                killed += 1
                while not (found := line()).startswith("exit"):
                    pass
            code = int(found.removeprefix("exit"))
            with Journal.opened(state):
                pass  # it is always readable
        nursery.stdin.close()
    assert code == 0
    called = calls.read_text().split()
    assert max(Counter(called).values()) == 1
    handed = json_lines(state, "handed over")
    unknown = json_lines(state, "unknown")
    assert killed >= 20
    assert len(handed) == 30 == len({each["borrower"] for each in handed})
    assert set(called) <= {each["id"] for each in handed}
    # What has no result was reported, twice if the report was not in the journal yet.
    assert reports >= len(unknown) > 0
    finished = {each["id"] for each in json_lines(state, "done")}
    assert {each["id"] for each in handed} - finished == {
        each["id"] for each in unknown
    }


def json_lines(path, step):
    found = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    return [each for each in found if each["step"] == step]
