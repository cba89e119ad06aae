"""ManualClock moves only on command, and wakes the sleepers that are due."""

from __future__ import annotations

import asyncio
import threading

import pytest

from ortege_watch.testing import ManualClock


async def test_sleepers_wake_in_order_each_at_its_own_deadline():
    clock = ManualClock(100)
    woken = []

    async def sleep(seconds):
        await clock.sleep(seconds)
        woken.append((seconds, clock.now()))

    async with asyncio.TaskGroup() as tasks:
        for seconds in (3, 1, 2):
            tasks.create_task(sleep(seconds))
        await clock.wait_for_sleepers(3)
        assert clock.sleepers == (1, 2, 3)
        await clock.advance(2.5)
        assert woken == [(1, 101), (2, 102)]
        assert (clock.now(), clock.sleepers) == (102.5, (0.5,))
        await clock.advance(0.5)
    assert woken[-1] == (3, 103)


async def test_a_task_that_sleeps_again_is_woken_again():
    clock = ManualClock()
    beats = []

    async def beat():
        while True:
            await clock.sleep(1)
            beats.append(clock.now())

    task = asyncio.create_task(beat())
    await clock.wait_for_sleepers()
    await clock.advance(3.5)
    assert beats == [1, 2, 3]
    task.cancel()
    await clock.advance(0)
    assert clock.sleepers == ()


@pytest.mark.parametrize("seconds", [0, -1])
async def test_sleeping_for_zero_seconds_only_lets_other_tasks_run(seconds):
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep(60))
    await clock.sleep(seconds)
    assert clock.sleepers == (60,)
    task.cancel()


async def test_a_cancelled_sleeper_is_forgotten():
    clock = ManualClock()
    tasks = [asyncio.create_task(clock.sleep(n)) for n in (1, 2, 3)]
    await clock.wait_for_sleepers(3)
    tasks[0].cancel()
    await asyncio.wait([tasks[0]])
    assert clock.sleepers == (2, 3)
    clock.jump(5)
    await asyncio.gather(*tasks[1:])
    assert clock.now() == 5


async def test_the_other_sleepers_wake_in_order_after_a_cancellation():
    clock = ManualClock()
    tasks = [asyncio.create_task(clock.sleep(n)) for n in (1, 4, 2, 5, 6, 3)]
    await clock.wait_for_sleepers(6)
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    await clock.advance(3)
    assert [task.done() for task in tasks[1:]] == [False, True, False, False, True]
    await clock.advance(3)
    await asyncio.gather(*tasks[1:])


async def test_wait_for_sleepers_times_out():
    clock = ManualClock()
    with pytest.raises(TimeoutError, match=r"0 tasks sleep after 0\.01 s, not 2"):
        await clock.wait_for_sleepers(2, timeout=0.01)


def test_another_thread_may_move_the_clock():
    clock = ManualClock()
    asleep = threading.Event()
    times = []

    async def main():
        task = asyncio.create_task(clock.sleep(60))
        await clock.wait_for_sleepers()
        asleep.set()
        await task
        times.append(clock.now())

    thread = threading.Thread(target=asyncio.run, args=[main()])
    thread.start()
    assert asleep.wait(5)
    clock.jump(60)
    thread.join()
    assert times == [60]
