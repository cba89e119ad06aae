"""The demonstration, as CI and newcomers run it."""

from __future__ import annotations

import asyncio
import html
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from liquidation_bot import cli

EXAMPLES = Path(__file__).parents[2] / "examples"
DOCS = EXAMPLES.parent / "docs"


def run(*arguments, cwd=EXAMPLES, **env):
    """Run Python with a clean environment of ours."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ORTEGE_")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**kept, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "cwd"),
    [
        (["-m", "liquidation_bot", "--demo"], EXAMPLES),
        (["examples/liquidation_bot", "--demo"], EXAMPLES.parent),
    ],
)
def test_the_demo_tells_its_story_and_ends(arguments, cwd):
    started = time.monotonic()
    done = run(*arguments, cwd=cwd)
    took = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    told = done.stdout
    pauses = len(re.findall(r"^(?:\d\.|The end)", told, re.MULTILINE))
    assert pauses == 7
    assert took + pauses * cli._PAUSE < 20  # on a terminal
    chapters = [
        "1. The market",
        "2. An event",
        "3. A price drop",
        "health 0.9800: pay 2,500.00 aeUSDC, get 3,892.85 stSTX",
        "liquidation_plan about SPAZ…S6AK: sent",
        "4. An outage",
        "changed during the outage",
        "planned already",
        "5. A stale price",
        "stale price",
        "6. Alerts",
        "another kind of entity",
        "position_changed about SPS3…831C: reading again",
        "The end: one plan",
    ]
    places = [told.index(chapter) for chapter in chapters]
    assert places == sorted(places)
    assert len(re.findall(r"^  [0-9:]{8}  plan ", told, re.MULTILINE)) == 1


def told(text):
    """Return the lines without what differs in each run: the delay and the port."""
    text = re.sub(r"next attempt in [\d.]+ s", "…", text)
    return re.sub(r"127\.0\.0\.1:\d+", "…", text).strip("\n").splitlines()


def test_the_page_shows_what_the_demo_prints():
    done = run("-m", "liquidation_bot", "--demo")
    page = (DOCS / "demo.md").read_text("utf-8")
    [block] = re.findall(r"^```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert told(block) == told(done.stdout)


def test_the_picture_on_the_page_is_that_of_the_demo():
    pytest.importorskip("rich")
    from liquidation_bot import demo

    def words(svg):
        return html.unescape(re.sub(r"<[^>]*>", " ", svg)).split()

    drawn = asyncio.run(demo.draw())
    kept = (DOCS / "demo.svg").read_text("utf-8")
    assert words(drawn) == words(kept)
    assert "@font-face" not in kept
    assert len(kept) < 100_000


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({}, ["ORTEGE_URL", "ORTEGE_TOKEN"]),
        ({"ORTEGE_URL": "http://127.0.0.1:1"}, ["ORTEGE_TOKEN"]),
        ({"ORTEGE_TOKEN": "secret-token"}, ["ORTEGE_URL"]),
    ],
)
def test_without_a_server_it_says_what_to_set(env, named):
    done = run("-m", "liquidation_bot", **env)
    assert done.returncode == 2
    assert all(name in done.stderr for name in named)
    assert "--demo" in done.stderr
    assert "secret-token" not in done.stderr + done.stdout
