"""Executors: the dry run, a guard before all others, and loading one's own."""

from __future__ import annotations

import json
import sys

import pytest

from liquidation_bot.execution import DryRunExecutor, ExecutorError, Guard, load

PLAN = {"id": "0123456789abcdef", "borrower": "SP1"}


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


@pytest.mark.parametrize(
    ("most", "spent", "held"), [(10, 90, False), (11, 90, True), (1, 200, True)]
)
def test_the_cap_is_for_all_plans_together(tmp_path, most, spent, held):
    one = 10**8
    guard = Guard(100 * one, tmp_path / "kill")
    refusal = guard.refusal(most * one, spent * one)
    assert (refusal is not None) == held
    if held:
        assert "of the cap is left" in refusal


def test_the_kill_file_stops_everything(tmp_path):
    guard = Guard(10**20, tmp_path / "kill")
    assert guard.refusal(1, 0) is None
    guard.kill_file.touch()
    assert "kill exists" in guard.refusal(1, 0)
    guard.kill_file.unlink()
    assert guard.refusal(1, 0) is None


@pytest.fixture
def my_module(tmp_path, monkeypatch):
    """Create a module with executors on the import path."""
    (tmp_path / "my_executors.py").write_text(
        "class Mine:\n"
        "    async def execute(self, plan):\n"
        "        return 'done'\n"
        "class Other:\n"
        "    pass\n"
        "class Needy(Mine):\n"
        "    def __init__(self, key):\n"
        "        pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("my_executors", None)


@pytest.mark.usefixtures("my_module")
async def test_one_of_your_own_is_loaded_by_its_name():
    assert await load("my_executors:Mine").execute(PLAN) == "done"


@pytest.mark.usefixtures("my_module")
@pytest.mark.parametrize(
    "path",
    [
        "",
        "my_executors",
        "my_executors:",
        ":Mine",
        "my_executors:Nothing",
        "my_executors:Other",
        "my_executors:Needy",
        "no_such_module:Mine",
    ],
)
def test_what_is_no_executor_is_refused(path):
    with pytest.raises(ExecutorError):
        load(path)
