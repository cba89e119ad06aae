"""What is shown: lines, JSON lines, a table; and what the library warns of."""

from __future__ import annotations

import io
import json
import logging

import attrs
import pytest

from liquidation_bot.display import (
    Lines,
    LiveTable,
    Note,
    Sight,
    library_log,
    short,
)
from liquidation_bot.engine import Engine, Limits, PositionsRead, PricesSeen

rich = pytest.importorskip("rich")
from rich.console import Console  # noqa: E402


@pytest.fixture
def engine(world):
    engine = Engine(world.market, Limits(), cool_down=60)
    engine.handle(PricesSeen(world.now, tuple(world.prices().values())))
    engine.handle(PositionsRead(world.now, (world.danger(),)))
    return engine


def test_lines(engine):
    lines = []
    display = Lines(lines.append)
    display.show(Note("story", 0, "1. Once"), engine)
    display.show(Note("plan", 3661, "a plan"), engine)
    display.show(Note("tick", 3671, ""), engine)
    display.close()
    assert lines == ["\n1. Once", "  01:01:01  plan     a plan"]


def test_json_lines(engine):
    lines = []
    display = Lines(lines.append, Note.json)
    display.show(Note("plan", 3661, "ä plan", {"plan": {"id": "1"}}), engine)
    display.show(Note("tick", 3671, ""), engine)
    display.close()
    assert len(lines) == 1
    assert json.loads(lines[0]) == {
        "at": "1970-01-01T01:01:01+00:00",
        "kind": "plan",
        "text": "ä plan",
        "plan": {"id": "1"},
    }


@pytest.mark.parametrize(
    ("address", "expected"), [("SP1", "SP1"), ("SPAZ0AWR4XF9F2K6PB1", "SPAZ…6PB1")]
)
def test_short(address, expected):
    assert short(address) == expected


def test_the_library_is_heard_while_it_lasts():
    heard, logger = [], logging.getLogger("ortege_watch.somewhere")
    with library_log(heard.append):
        logger.warning("lost %s", "it")
        logger.info("not this")
    logger.warning("nor this")
    assert heard == ["lost it"]


@pytest.mark.parametrize("form", [Note.line, Note.json])
def test_names_from_a_chain_write_no_lines_and_control_no_terminal(form):
    line = form(Note("skip", 0, "unknown asset a\x1b]0;x\x07\x9b2J\r\nb"))
    assert line.isprintable()
    assert "unknown asset a ]0;x  2J  b" in line


SIGHT = Sight(
    borrowers=12,
    unread=3,
    most_unread=8,
    positions=290,
    prices={"stSTX": 5, "aeUSDC": None},
    data=4,
    link="subscription live",
)


def drawn(engine, world, *notes):
    """Show notes in a table; give what is on the terminal at the end."""
    file = io.StringIO()
    console = Console(file=file, width=120, force_terminal=True, color_system=None)
    display = LiveTable(console)
    try:
        for kind, text in notes:
            display.show(Note(kind, world.now, text, sight=SIGHT), engine)
    finally:
        display.close()
    return file.getvalue()


def test_the_table_shows_borrowers_prices_connection_and_plans(engine, world):
    told = drawn(
        engine,
        world,
        ("story", "3. A price drop."),
        ("link", "subscription live"),
        ("plan", "one plan"),
        *[("event", f"number {n}") for n in range(20)],
    )
    last = told[told.rindex("a market made up") :]
    assert "12 borrowers known up to 290 s old, 3 of 8 addresses unread; last" in last
    assert "last data 4 s old; subscription live" in " ".join(last.split())
    assert "stSTX 0.7 (0 s old)" in last
    assert "SPAZ…S6AK" in last
    assert "0.9800" in last
    assert "5,000.00 aeUSDC" in last
    assert "10,000.00 stSTX" in last
    assert "one plan" in last  # plans outlive the notes around them
    assert "number 19" in last
    assert "number 1 " not in last
    assert "3. A price drop." in told


def test_the_table_ranks_by_health_and_counts_the_rest(engine, world):
    healthy = [
        world.position(
            (world.ststx, (number + 20) * 10**9, 0),
            (world.aeusdc, 0, 5 * 10**9),
            who=f"SP{number:030}",
        )
        for number in range(20)
    ]
    engine.handle(PositionsRead(world.now, tuple(healthy)))
    odd = world.position((world.aeusdc, 0, 1), ("SP1.x", 1, 0), who="SPodd")
    engine.handle(PositionsRead(world.now, (odd,)))
    told = drawn(engine, world, ("link", "subscription live"))
    assert "and 10 farther from liquidation" in told
    assert told.index("SPAZ…S6AK") < told.index("SP00…0000")


def test_the_table_gets_older_though_nothing_happens(engine, world):
    file = io.StringIO()
    display = LiveTable(Console(file=file, width=200, force_terminal=True))
    try:
        display.show(Note("event", world.now, "one", sight=SIGHT), engine)
        later = attrs.evolve(SIGHT, data=70)
        display.show(Note("tick", world.now + 66, "", sight=later), engine)
    finally:
        display.close()
    last = file.getvalue()[file.getvalue().rindex("a market made up") :]
    assert "stSTX 0.7 (66 s old)" in last
    assert "last data 70 s old" in last
    assert "tick" not in last


def test_an_empty_table_is_a_table(world):
    display = LiveTable(Console(file=io.StringIO(), record=True, width=200))
    engine = Engine(world.market, Limits(), cool_down=1)
    display.show(Note("start", world.now, "hello"), engine)
    display.close()
    told = display._live.console.export_text()
    assert "not connected yet" in told
    assert "stSTX none" in told
    assert "hello" in told
