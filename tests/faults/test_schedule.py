"""Schedules: repeatable, within their time, and of every fault."""

from __future__ import annotations

from injection.schedule import INSTANT, Fault, draw


def test_the_same_seed_gives_the_same_schedule():
    first, second = (draw(7, seconds=2, count=20, longest=0.5) for _ in range(2))
    assert first == second
    assert len(first) == 20
    assert draw(8, seconds=2, count=20, longest=0.5) != first


def test_every_fault_is_drawn_and_ends_in_time():
    entries = draw("all", seconds=2, count=500, longest=0.5)
    assert {entry.fault for entry in entries} == set(Fault)
    assert {entry.ending for entry in entries} == {"resume", "reset", "never"}
    for entry in entries:
        assert 0 <= entry.at <= entry.at + entry.duration <= 2
        assert (entry.duration == 0) == (entry.fault in INSTANT)
    assert [entry.at for entry in entries] == sorted(entry.at for entry in entries)


def test_only_what_is_allowed_is_drawn():
    entries = draw(
        1, seconds=1, count=50, longest=0.1, faults=[Fault.STALL], endings=["reset"]
    )
    assert {(entry.fault, entry.ending) for entry in entries} == {
        (Fault.STALL, "reset")
    }


def test_an_entry_is_one_line_of_a_report():
    [entry] = draw(1, seconds=1, count=1, longest=0.5, faults=[Fault.STALL])
    assert str(entry) == (
        f"{entry.at:.2f} s: stall for {entry.duration:.2f} s, then {entry.ending}"
    )
