"""State survives, or is refused; it is never half."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from liquidation_bot.execution import State, write_atomically
from liquidation_bot.model import FileError

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_there_and_back(tmp_path):
    path = tmp_path / "deep" / "state.json"
    state = State(version=1, plans=3, cool_downs={"SP1": 2**40}, spent=10**20)
    state.save(path)
    assert State.load(path) == state
    assert list(path.parent.iterdir()) == [path]


def test_without_a_file_it_is_fresh(tmp_path):
    assert State.load(tmp_path / "none") == State.empty()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        b'{"version": 2, "plans": 0, "cool_downs": {}, "spent": 0}',
        b'{"version": 1, "plans": 0, "cool_downs": [], "spent": 0}',
        b'{"version": 1, "plans": true, "cool_downs": {}, "spent": 0}',
        b'{"version": 1, "plans": 0, "cool_downs": {"SP1": 1.5}, "spent": 0}',
        b'{"version": 1, "plans": 0, "cool_downs": {}, "spent": -1}',
        b'{"version": 1, "plans": 0, "cool_downs": {}}',
    ],
)
def test_what_is_no_state_is_refused(tmp_path, content):
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with pytest.raises(FileError, match="delete it to start with an empty state"):
        State.load(path)
    assert path.read_bytes() == content


def test_a_directory_is_no_state(tmp_path):
    with pytest.raises(FileError):
        State.load(tmp_path)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "state.json"
    write_atomically(path, "before")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "after \ud800")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from liquidation_bot.execution import State
print("ready", flush=True)
number = 0
while True:
    number += 1
    cool_downs = {f"SP{n}": number for n in range(500)}
    state = State(version=1, plans=number, cool_downs=cool_downs, spent=0)
    state.save(Path(sys.argv[2]))
    if number == 5:
        print("go", flush=True)
"""


def test_kill_9_while_writing_leaves_a_whole_state(tmp_path):
    path = tmp_path / "state.json"
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(EXAMPLES), str(path)],
            stdout=subprocess.PIPE,
            text=True,
        ) as writer:
            assert writer.stdout.readline() == "ready\n"
            assert writer.stdout.readline() == "go\n"
            writer.send_signal(signal.SIGKILL)
        state = State.load(path)
        assert set(state.cool_downs.values()) == {state.plans}
        assert json.loads(path.read_text())["version"] == 1
