"""Reading: chunks, what is tried again, and that no answer is overtaken."""

from __future__ import annotations

import asyncio

import pytest

from liquidation_bot.bot import Reader
from liquidation_bot.model import Position, SourceError


class Source:
    """Answer when told to, or fail."""

    caveats, chunk = (), 200

    def __init__(self):
        self.asked, self.fail, self.gate, self.partly = [], 0, None, ()

    async def positions(self, borrowers, at):
        self.asked.append(list(borrowers))
        if self.gate is not None:
            await self.gate.wait()
        if self.fail:
            self.fail -= 1
            raise SourceError("not now", self.partly and self.found(borrowers[1:], at))
        return self.found(borrowers, at)

    def found(self, borrowers, at):
        return [Position(borrower=who, holdings=(), read_at=at) for who in borrowers]


class Stage:
    def __init__(self):
        self.source, self.time = Source(), 1000
        self.taken, self.troubles = [], []
        self.reader = Reader(
            self.source,
            now=lambda: self.time,
            on_read=self.take,
            on_error=self.troubles.append,
            reread_after=60,
        )

    async def take(self, given):
        self.taken.append(given)

    async def read(self, borrowers):
        self.reader.unread.update(borrowers)
        await self.reader.run_due()


@pytest.fixture
def stage():
    return Stage()


async def test_nobody_is_asked_for_nothing(stage):
    await stage.read([])
    await stage.reader.run_due()
    assert stage.source.asked == []


async def test_many_are_read_in_chunks(stage):
    everybody = [f"SP{number:04}" for number in range(450)]
    await stage.read(reversed(everybody))
    assert [len(chunk) for chunk in stage.source.asked] == [200, 200, 50]
    assert [p.borrower for given in stage.taken for p in given.positions] == everybody


async def test_what_failed_stays_on_the_list(stage):
    stage.source.fail = 1
    await stage.read(["SP1"])
    assert stage.troubles == ["not now; 1 addresses to be retried"]
    await stage.read(["SP2"])
    assert stage.source.asked == [["SP1"], ["SP1", "SP2"]]
    await stage.reader.run_due()
    assert len(stage.source.asked) == 2


async def test_what_was_read_though_a_part_failed_is_kept(stage):
    stage.source.fail, stage.source.partly = 1, True
    await stage.read([f"SP{number:03}" for number in range(250)])
    assert stage.troubles == ["not now; 51 addresses to be retried"]
    assert len(stage.source.asked) == 2
    assert stage.reader.unread == {"SP000"}
    await stage.reader.run_due()
    assert stage.source.asked[2] == ["SP000"]
    assert stage.reader.unread == set()


async def test_a_failing_chunk_stops_the_round(stage):
    stage.source.fail = 1
    await stage.read([f"SP{number:04}" for number in range(450)])
    assert len(stage.source.asked) == 1
    await stage.reader.run_due()
    assert len(stage.source.asked) == 4


async def test_whoever_moved_is_read_twice(stage):
    await stage.reader.changed(["SP1"])
    stage.time += 59
    await stage.reader.run_due()
    assert stage.source.asked == [["SP1"]]
    stage.time += 1
    await stage.reader.run_due()
    await stage.reader.run_due()
    assert stage.source.asked == [["SP1"], ["SP1"]]


async def test_whoever_moved_does_not_wait_for_the_others(stage):
    """Many addresses may be unread, and reading them from a node takes minutes."""
    stage.reader.unread.update(["SP1", "SP2"])
    await stage.reader.changed(["SP3"])
    assert stage.source.asked == [["SP3"]]
    assert stage.reader.unread == {"SP1", "SP2"}


async def test_the_second_time_counts_from_the_last_move(stage):
    await stage.reader.changed(["SP1"])
    stage.time += 30
    await stage.reader.changed(["SP1"])
    stage.time += 30
    await stage.reader.run_due()
    assert len(stage.source.asked) == 2
    stage.time += 30
    await stage.reader.run_due()
    assert len(stage.source.asked) == 3


async def test_two_readings_never_overlap(stage):
    stage.source.gate = asyncio.Event()
    first = asyncio.create_task(stage.read(["SP1"]))
    second = asyncio.create_task(stage.read(["SP1", "SP2"]))
    while not stage.source.asked:
        await asyncio.sleep(0)
    assert stage.source.asked == [["SP1"]]
    stage.source.gate.set()
    await asyncio.gather(first, second)
    # The first has read SP1 for the second.
    assert stage.source.asked == [["SP1"], ["SP2"]]


async def test_a_move_during_a_reading_is_read_again_when_settled(stage):
    stage.source.gate = asyncio.Event()
    first = asyncio.create_task(stage.read(["SP1"]))
    while not stage.source.asked:
        await asyncio.sleep(0)
    second = asyncio.create_task(stage.reader.changed(["SP1"]))
    await asyncio.sleep(0)
    stage.source.gate.set()
    await asyncio.gather(first, second)
    stage.time += 60
    await stage.reader.run_due()
    assert stage.source.asked == [["SP1"], ["SP1"]]
