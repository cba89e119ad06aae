"""Sessions there and back: the same plans, to the last byte."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, strategies as st

from liquidation_bot.engine import (
    Limits,
    Plan,
    PositionsRead,
    PricesSeen,
    StateRead,
    Tick,
    canonical,
)
from liquidation_bot.model import FileError, Position, Price
from liquidation_bot.record import Recorder, Session, replay
from liquidation_bot.rules.zest_v1 import ReserveState, StateV1


def session(world, **changes):
    given = {
        "market": world.market,
        "limits": Limits(wallet_cap=10**13, min_profit=0),
        "cool_down": 100,
        "cool_downs": {"SP9": 5},
        "caveats": ("ünverified",),
        "liquidator": world.bob,
    }
    return Session(**{**given, **changes})


def recorded(path, session, inputs):
    """Record a session as the bot does; return its plans as written."""
    engine, plans = session.engine(), []
    with Recorder(path, session) as record:
        for given in inputs:
            record(given)
            plans += [
                canonical(session.document(decision))
                for decision in engine.handle(given)
                if isinstance(decision, Plan)
            ]
    return plans


def story(world):
    """Return the inputs of a session with three plans."""
    return [
        PricesSeen(world.now, tuple(world.prices().values())),
        PositionsRead(world.now, (world.danger(), world.danger(who=world.bob))),
        PositionsRead(world.now + 1, (world.danger(),)),
        Tick(world.now + 100),
        PricesSeen(
            world.now + 101,
            (world.price(world.sbtc, 10**38, at=world.now + 101, confidence=3),),
        ),
    ]


def test_a_replay_makes_the_same_plans_to_the_byte(tmp_path, world):
    path = tmp_path / "session"
    plans = recorded(path, session(world), story(world))
    assert len(plans) == 4
    assert [canonical(plan) for plan in replay(path)] == plans


def test_the_protocols_state_is_part_of_a_session(tmp_path, world):
    path = tmp_path / "session"
    state = StateV1(reserves={world.ststx: ReserveState(liquidity=7)})
    inputs = [StateRead(world.now, state), *story(world)]
    assert recorded(path, session(world), inputs) == list(replay(path)) == []


def test_settings_decide_in_a_replay_as_they_did(tmp_path, world):
    path = tmp_path / "session"
    running = {world.alice: world.now + 50}
    plans = recorded(path, session(world, cool_downs=running), story(world))
    assert len(plans) == 3
    assert [canonical(plan) for plan in replay(path)] == plans
    strict = session(world, limits=Limits(min_profit=10**20))
    other = tmp_path / "other"
    assert recorded(other, strict, story(world)) == list(replay(other)) == []


@given(st.data())
def test_any_session_is_replayed(tmp_path_factory, world, data):
    path = tmp_path_factory.mktemp("sessions") / "session"
    steps = data.draw(
        st.lists(
            st.tuples(st.integers(0, 60), st.integers(1, 120), st.integers(0, 12_000)),
            max_size=12,
        )
    )
    now, inputs = world.now, story(world)[:1]
    for seconds, price, supplied in steps:
        now += seconds
        moved = world.price(world.ststx, price * 10**6, at=now - price)
        held = (world.ststx, supplied * 10**6, 0), (world.aeusdc, 0, 5 * 10**9)
        inputs += [
            PricesSeen(now, (moved,)),
            PositionsRead(now, (world.position(*held),)),
            Tick(now),
        ]
    plans = recorded(path, session(world), inputs)
    assert [canonical(plan) for plan in replay(path)] == plans


def test_a_record_goes_on_after_a_restart(tmp_path, world):
    """Each run has its own limits and starts with the cool-downs of the last one."""
    path = tmp_path / "session"
    plans = recorded(path, session(world), story(world))
    running = {world.alice: world.now + 500}
    again = session(world, cool_downs=running, liquidator=None)
    plans += recorded(path, again, story(world))
    plans += recorded(path, again, story(world))
    assert len(plans) == 4 + 2 + 2
    assert [canonical(plan) for plan in replay(path)] == plans
    lines = path.read_bytes().splitlines()
    assert [b'"record"' in line for line in lines].count(True) == 3


def test_a_line_that_was_cut_off_is_replaced_by_the_next_session(tmp_path, world):
    path = tmp_path / "session"
    plans = recorded(path, session(world), story(world))
    with path.open("ab") as file:
        file.write(b'{"type": "Tick", "a')
    plans += recorded(path, session(world), story(world))
    assert [canonical(plan) for plan in replay(path)] == plans
    assert b'"a{' not in path.read_bytes()


@pytest.mark.parametrize("content", ["my notes", "my notes\n", '{"type":"Tick"}\n'])
def test_a_file_that_is_not_a_record_is_left_alone(tmp_path, world, content):
    path = tmp_path / "notes"
    path.write_text(content)
    with pytest.raises(FileError, match="not a record; name another file"):
        Recorder(path, session(world))
    assert path.read_text() == content


def test_two_bots_do_not_write_into_one_record(tmp_path, world):
    path = tmp_path / "session"
    with (
        Recorder(path, session(world)),
        pytest.raises(FileError, match="another bot writes to it"),
    ):
        Recorder(path, session(world))
    recorded(path, session(world), story(world))  # the first has ended


@pytest.mark.parametrize("lacking", ["protocol", "message_fee"])
def test_a_record_of_another_version_says_what_to_do(tmp_path, world, lacking):
    path = tmp_path / "record"
    recorded(path, session(world), story(world))
    text = path.read_text(encoding="utf-8")
    assert lacking in text
    path.write_text(text.replace(f"\\n{lacking} = ", "\\nolder = "), encoding="utf-8")
    with pytest.raises(
        FileError, match=r"line 1: .*the version of the bot that wrote it"
    ):
        list(replay(path))


def test_a_record_that_cannot_be_opened(tmp_path, world):
    with pytest.raises(FileError, match="cannot open the record"):
        Recorder(tmp_path, session(world))


def test_each_line_is_there_before_it_is_handled(tmp_path, world):
    path = tmp_path / "session"
    with Recorder(path, session(world)) as record:
        record(Tick(7))
        lines = path.read_text().splitlines()
    assert json.loads(lines[0])["record"] == 1
    assert json.loads(lines[1]) == {"type": "Tick", "at": 7}


def test_a_line_that_was_cut_off_ends_the_replay(tmp_path, world):
    path = tmp_path / "session"
    plans = recorded(path, session(world), story(world)[:2])
    assert len(plans) == 2
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert list(replay(path)) == []
    path.write_bytes(whole + b'{"type": "Tick", "a')
    assert [canonical(plan) for plan in replay(path)] == plans


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("{}\n", "line 1"),
        ("[]\n", "line 1"),
        ("no JSON\n", "line 1"),
        ('{"record": 2}\n', "expected version 1"),
        ('{"record": 1, "market": ""}\n', "line 1"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path, content, message):
    path = tmp_path / "session"
    path.write_text(content)
    with pytest.raises(FileError, match=message):
        list(replay(path))


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "[]",
        '{"type": "Tick"}',
        '{"type": "Tick", "at": 1.5}',
        '{"type": "Tick", "at": 1, "more": 1}',
        '{"type": "Other", "at": 1}',
        '{"type": "PricesSeen", "at": 1, "prices": [{"asset": "a"}]}',
        '{"type": "PositionsRead", "at": 1, "positions": [{}]}',
        '{"type": "PositionsRead", "at": 1, "positions": [{"holdings": [1]}]}',
    ],
)
def test_lines_that_are_no_input_are_named(tmp_path, world, line):
    path = tmp_path / "session"
    recorded(path, session(world), [])
    with path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(FileError, match="line 2"):
        list(replay(path))


def test_a_record_that_is_not_there(tmp_path):
    with pytest.raises(FileError, match="cannot read the record"):
        list(replay(tmp_path / "none"))


def test_positions_and_prices_come_back(world):
    position = world.danger()
    assert msgspec.json.decode(msgspec.json.encode(position), type=Position) == position
    price = world.price(world.ststx, 10**38, confidence=0)
    assert msgspec.json.decode(msgspec.json.encode(price), type=Price) == price
