"""The benchmark compares like with like, and says what it could not measure."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from comparing import compare, quartiles
from frames import AMOUNT, answers, form_of, frame, tutorial_frame
from processes import Failed, Outcome, Program, PushServer, receiver
from tables import Table, at_least, at_most, count, itself, median, spread

HERE = Path(__file__).parent
PROGRAMS = {"floor": Program(("floor",)), "library": Program(("library",))}


def outcome(cpu: float, *, updates: int = 2, total: int = 7) -> Outcome:
    seen = [(step, 0.0) for step in range(updates)]
    return Outcome(cpu=cpu, faults=0, seen=seen, rows=1, sum=Decimal(total))


def replay(*outcomes: Outcome):
    """Return a ``run`` with these outcomes: floor, library, and floor again."""
    left: Iterator[Outcome] = iter(outcomes)
    return lambda program: next(left)


def benchmark(
    *arguments: str,
    script: str = "",
    python: tuple[str, ...] = (sys.executable,),
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*python, str(HERE / script), *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=os.environ | environment,
    )


def test_a_ratio_is_to_the_mean_of_the_baselines_two_runs():
    run = replay(outcome(1.0), outcome(0.5), outcome(1.1))
    result = compare(PROGRAMS, run, 1)
    assert result.ratios("library") == [2 * 0.5 / (1.0 + 1.1)]
    assert result.itself == [1.1]
    assert not result.disturbed


@pytest.mark.parametrize("again", [0.84, 1.16])
def test_a_disturbed_round_is_repeated(again):
    disturbed = (outcome(1.0), outcome(9.0), outcome(again))
    run = replay(*disturbed, outcome(1.0), outcome(0.5), outcome(1.0))
    result = compare(PROGRAMS, run, 1)
    assert result.ratios("library") == [0.5]
    assert not result.disturbed


def test_if_all_rounds_are_disturbed_they_count_and_the_result_says_so():
    run = replay(*(outcome(1.0), outcome(0.6), outcome(2.0)) * 3)
    result = compare(PROGRAMS, run, 1)
    assert result.ratios("library") == pytest.approx([0.4] * 3)
    assert result.disturbed


def test_a_round_in_which_updates_became_one_never_counts():
    late = (outcome(1.0), outcome(0.1, updates=1), outcome(1.0))
    run = replay(*late, outcome(1.0), outcome(0.5), outcome(1.0))
    assert compare(PROGRAMS, run, 1, updates=2).ratios("library") == [0.5]
    with pytest.raises(Failed, match="2 updates were due"):
        compare(PROGRAMS, replay(*late * 3), 1, updates=2)


def test_programs_that_saw_other_amounts_are_not_compared():
    run = replay(outcome(1.0), outcome(1.0, total=8), outcome(1.0))
    with pytest.raises(Failed, match="not the same rows"):
        compare(PROGRAMS, run, 1)


def test_quartiles_of_one_value_are_that_value():
    assert quartiles([2.0]) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("case", ["few", "none", "all"])
def test_both_forms_and_the_tutorials_have_the_same_rows(case):
    texts = zip(
        answers(20, case, 4, "default"), answers(20, case, 4, "compact"), strict=True
    )
    for default, compact in texts:
        message = json.loads(frame(default))["message"]
        rows = message["results"][0]["data"]
        table = json.loads(compact)["results"][0]["data"]
        assert [
            dict(zip(table["members"], row, strict=True)) for row in table["dataset"]
        ] == rows
        assert json.loads(tutorial_frame(default)) == {"data": rows}
        assert len(rows) == 20
        assert Decimal(rows[0][AMOUNT]) > 0


@pytest.mark.parametrize(("case", "changed"), [("few", 2), ("none", 0), ("all", 2_000)])
def test_as_many_rows_change_as_a_case_says(case, changed):
    first, second, _ = (
        json.loads(answer)["results"][0]["data"]
        for answer in answers(2_000, case, 3, "default")
    )
    assert (
        sum(row != before for row, before in zip(second, first, strict=True)) == changed
    )


def test_a_query_is_answered_in_the_form_it_asks_for():
    assert form_of('{"query": {"responseFormat": "compact"}}') == "compact"
    assert form_of('{"query":{"responseFormat":"compact"}}') == "compact"
    assert form_of('{"query":{"responseFormat":"default"}}') == "default"
    assert form_of('{"query":{}}') == "default"


def test_tables_are_markdown_and_mark_missed_goals_and_disturbed_runs():
    columns = {
        "rows": count("rows"),
        "ratio": median,
        "quartiles": spread,
        "goal": at_most,
        "other goal": at_least,
        "itself": itself,
    }
    table = Table("name", "Caption.", columns, lambda plan: iter(()))
    records = [
        {"rows": 1_000, "ratio": [0.3, 0.5, 0.51], "goal": 0.5, "itself": 1.0, "disturbed": False},
        {"rows": 1, "ratio": [20.4, 99.6, 120], "goal": 0.5, "itself": 0.7, "disturbed": True},
        {"skipped": "no node"},
    ]  # fmt: skip
    assert list(table.lines(records)) == [
        "\nCaption.\n",
        "| rows | ratio | quartiles | goal | other goal | itself |",
        "|---|---|---|---|---|---|",
        "| 1,000 | 0.50 | 0.30 to 0.51 | ≤ 0.5 | ≥ 0.5 | 1.00 |",
        "| 1 | 100 | 20 to 120 | ≤ 0.5 (missed) | ≥ 0.5 | 0.70 (disturbed) |",
        "| skipped: no node |",
    ]


def test_figures_of_a_file_are_printed_without_measuring(tmp_path):
    figures = {"start": [{"what": "import", "ratio": [0.1, 0.2, 0.3], "goal": 0.05}]}
    file = tmp_path / "figures.json"
    file.write_text(json.dumps(figures), "utf-8")
    done = benchmark("start", "--show", str(file))
    assert done.returncode == 0, done.stderr
    assert "| import | 0.20 | 0.10 to 0.30 | ≤ 0.05 (missed) |" in done.stdout


def test_every_program_of_ours_sees_the_same_rows():
    done = benchmark("--check", "--offline")
    assert done.returncode == 0, done.stderr
    assert [line.rpartition(", seen by ")[2] for line in done.stdout.splitlines()] == [
        *["floor, library, tutorial"] * 3,
        "floor, floor_async, library, library_async",
    ]


def test_clients_that_cannot_be_installed_are_skipped_with_the_reason():
    no_registry = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "",
        "PIP_CONFIG_FILE": os.devnull,
    }
    done = benchmark("--check", PATH="", **no_registry)
    assert done.returncode == 0, done.stderr
    skipped = [line for line in done.stdout.splitlines() if "skipped" in line]
    assert skipped[0] == "skipped: node and npm are not on the PATH"
    assert skipped[1].startswith(
        "skipped: cubejs-client-python==1.0.1: python failed: ERROR"
    )
    assert skipped[2].startswith(
        "skipped: cube-http-client==0.6.1: python failed: ERROR"
    )


def test_the_error_of_a_receiver_ends_the_run():
    with (
        PushServer.start(1, "few", 1, 0.01) as server,
        pytest.raises(
            Failed, match=r"^receivers.py nobody: (?s:.*)invalid choice: 'nobody'"
        ),
    ):
        server.run(receiver("nobody"))


def test_the_error_of_a_receiver_that_was_connected_ends_the_run():
    script = (
        "import socket, sys\n"
        "socket.create_connection(('127.0.0.1', int(sys.argv[1]))).close()\n"
        "raise SystemExit('lost')"
    )
    with (
        PushServer.start(1, "few", 1, 0.01) as server,
        pytest.raises(Failed, match="lost"),
    ):
        server.run(Program((sys.executable, "-c", script)))


def test_what_is_missing_is_said_at_the_start_with_the_command_of_the_docs():
    # Without site-packages.
    done = benchmark(python=(sys.executable, "-S"))
    assert done.returncode == 1
    command = "pip install -e . orjson websocket-client"
    assert done.stderr == (
        f"error: cannot import ortege_watch, orjson, websocket; run: {command}\n"
    )
    assert command in (HERE.parents[1] / "docs" / "speed.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "-1"], "argument --rounds: must be at least 1, got -1"),
        (["--rounds", "0"], "argument --rounds: must be at least 1, got 0"),
        (["--sleep", "0"], "argument --sleep: must be at least 1, got 0"),
        (["--show", "/nope.json"], "--show: cannot read /nope.json: [Errno 2]"),
        (["--show", __file__], f"--show: cannot read {__file__}: Extra data"),
        (["start", "--json", "/nope/a"], "--json: cannot write /nope/a: [Errno 2]"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused_before_anything_is_measured(
    arguments, message
):
    done = benchmark(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert "Traceback" not in done.stderr


SCRIPTS = ("signed_calls.py", "publishing.py", "verifying.py")


@pytest.mark.parametrize(
    ("script", "last"),
    [
        ("signed_calls.py", "AsyncAlertPublisher"),
        ("publishing.py", "publish() with an outbox"),
        ("verifying.py", "standardwebhooks"),
    ],
)
def test_a_script_takes_the_options_of_the_benchmark(script, last):
    done = benchmark("--quick", "--rounds", "1", script=script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].strip().startswith(last)


def test_a_script_says_which_package_is_missing(tmp_path):
    hidden = "import sys; sys.modules.update(orjson=None, standardwebhooks=None)"
    (tmp_path / "sitecustomize.py").write_text(hidden, "ascii")
    done = benchmark(script="verifying.py", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    command = "pip install -e . orjson standardwebhooks"
    assert done.stderr == (
        f"error: cannot import orjson, standardwebhooks; run: {command}\n"
    )


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--rounds=0", "argument --rounds: must be at least 1, got 0"),
        ("--fast", "unrecognized arguments: --fast"),
    ],
)
def test_a_script_refuses_what_it_does_not_know(script, argument, message):
    done = benchmark(argument, script=script)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_a_misspelt_option_of_the_call_counts_is_refused():
    done = benchmark("--verbos", "--quik", script="calls.py")
    assert done.returncode == 2
    assert "unrecognized arguments: --quik" in done.stderr


def test_the_output_says_what_was_run():
    done = benchmark("start", "--quick", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[0]
    assert re.fullmatch(
        r"Measured with --quick: small sizes, 1 rounds?, \w+ 3[.]\d+[.]\d+, .*commit.*",
        first,
    )


def test_what_the_last_answer_needs_can_be_left_out():
    # The first of the two never counts, so nothing is left.
    with PushServer.start(50_000, "none", 2, 0.01) as server:
        library = receiver("library")
        whole, without = server.run(library), server.run(library, "--without-last")
    assert without.content == whole.content
    assert 0 < without.cpu < whole.cpu


def test_a_loop_that_sleeps_and_the_peak_of_the_memory_are_measured():
    with PushServer.start(100, "few", 20, 0.1) as server:
        slept = server.run(receiver("sleeper"), count=1)
    assert slept.missed >= 5
    with PushServer.start(5_000, "few", 4, 0.1) as server:
        for name in ("floor", "library"):
            peak = server.run(receiver(name), "--memory")
            assert peak.rows == 5_000
            assert peak.peak >= peak.first_peak > 0
