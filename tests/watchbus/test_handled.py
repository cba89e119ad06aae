"""Handled alerts in a file: one of several processes handles an alert."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import anyio
import pytest
from channels import Gate, Inbox, alert
from forks import Log, handle
from signed import APP_ID

from ortege_watch import InvalidArgument, OrtegeWatchError
from ortege_watch.watchbus import (
    AlertInbox,
    AlertOutcome,
    Claim,
    MemoryHandled,
    RejectAlert,
    RetryAlert,
    SQLiteHandled,
    SQLiteNonces,
)

pytestmark = pytest.mark.anyio

DONE = AlertOutcome("acknowledge")


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "handled.db"


def test_eight_processes_handle_each_alert_once(path, tmp_path, forks):
    log = Log(tmp_path / "log")
    processes = [forks.start(handle, path, log.path, 100) for _ in range(8)]
    for process in processes:
        forks.wait(process)
    assert sorted(log.numbers("handled")) == list(range(100))


async def test_an_alert_of_a_killed_process_is_handled_by_another(
    path, tmp_path, forks
):
    log = Log(tmp_path / "log")
    process = forks.start(handle, path, log.path, 1, "hang")
    log.reach(1)
    clock = Clock()
    clock.now = time.time()
    forks.kill(process)
    with SQLiteHandled(path, clock=clock) as handled:
        key = alert(0).dedupe_key(APP_ID)
        assert handled.claim("app", key) == Claim("busy")
        clock.now += 301
        taken = Inbox()
        assert await AlertInbox(handled).handle(alert(0), APP_ID, taken) == DONE
        assert taken == [0]


async def test_a_duplicate_waits_for_the_process_that_is_handling_the_alert(path):
    gate = Gate()
    with SQLiteHandled(path) as one, SQLiteHandled(path) as other:
        first = asyncio.create_task(AlertInbox(one).handle(alert(1), "app", gate))
        await gate.entered.reach(1)
        second = asyncio.create_task(AlertInbox(other).handle(alert(1), "app", gate))
        assert await asyncio.wait([second], timeout=0.2) == (set(), {second})
        gate.let_on.set()
        assert await first == await second == DONE
    assert gate.entered == [1]


async def test_a_duplicate_of_one_that_takes_long_is_to_be_sent_again(path):
    class Busy(MemoryHandled):
        calls = 0

        def claim(self, app_id, key):
            self.calls += 1
            return Claim("busy")

    busy = Busy()
    inbox, taken = AlertInbox(busy), Inbox()
    handling = asyncio.create_task(inbox.handle(alert(1), "app", taken))
    with anyio.fail_after(30):
        outcome = await handling
    problem = "another process is handling the alert"
    assert outcome == AlertOutcome("retry", problem, 1)
    assert taken == []
    assert busy.calls > 10


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (RejectAlert("bad"), AlertOutcome("reject", "bad")),
        (RetryAlert(5), AlertOutcome("retry", "try again later", 5)),
        (ValueError(), AlertOutcome("retry", "an alert was not handled")),
    ],
)
async def test_other_processes_know_what_became_of_an_alert(path, error, outcome):
    async def handler(alert):
        raise error

    taken = Inbox()
    with SQLiteHandled(path) as one, SQLiteHandled(path) as other:
        assert await AlertInbox(one).handle(alert(1), "app", handler) == outcome
        again = await AlertInbox(other).handle(alert(1), "app", taken)
    rejected = outcome.action == "reject"
    assert again == (outcome if rejected else DONE)
    assert taken == ([] if rejected else [1])


async def test_a_cancelled_call_gives_up_its_claim(path):
    gate = Gate()
    with SQLiteHandled(path) as one, SQLiteHandled(path) as other:
        task = asyncio.create_task(AlertInbox(one).handle(alert(1), "app", gate))
        await gate.entered.reach(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert other.claim("app", alert(1).dedupe_key("app")) == Claim("claimed")


async def test_a_call_that_is_cancelled_while_it_claims_gives_up_its_claim():
    entered, let_on, released = asyncio.Event(), asyncio.Event(), []
    loop = asyncio.get_running_loop()

    class Slow:
        def claim(self, app_id, key):
            loop.call_soon_threadsafe(entered.set)
            asyncio.run_coroutine_threadsafe(let_on.wait(), loop).result(10)
            return Claim("claimed")

        def resolve(self, app_id, key, reason): ...

        def release(self, app_id, key):
            released.append(key)

    taken = Inbox()
    task = asyncio.create_task(AlertInbox(Slow()).handle(alert(1), "app", taken))
    await entered.wait()
    task.cancel()
    let_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (taken, released) == ([], [alert(1).dedupe_key("app")])


def test_alerts_are_remembered_for_their_age_and_no_longer(path):
    clock = Clock()
    with SQLiteHandled(path, max_age=1000, clock=clock) as handled:
        for n in range(10):
            assert handled.claim("app", str(n)) == Claim("claimed")
            handled.resolve("app", str(n), None)
        clock.now += 999
        assert handled.claim("app", "3") == Claim("handled")
        clock.now += 2
        assert handled.claim("app", "3") == Claim("claimed")
        handled.resolve("app", "3", None)
        assert len(handled) == 1  # the others are deleted


def test_a_claim_that_has_ended_is_not_given_up_by_its_first_owner(path):
    clock = Clock()
    with (
        SQLiteHandled(path, clock=clock) as one,
        SQLiteHandled(path, clock=clock) as other,
    ):
        assert one.claim("app", "a") == Claim("claimed")
        clock.now += 301
        assert other.claim("app", "a") == Claim("claimed")
        one.release("app", "a")
        assert one.claim("app", "a") == Claim("busy")
        other.release("app", "a")
        assert one.claim("app", "a") == Claim("claimed")


def test_one_file_holds_nonces_and_handled_alerts(path):
    for new in (True, False):
        with SQLiteNonces(path) as nonces, SQLiteHandled(path) as handled:
            assert nonces.record("app", "n", time.time(), time.time() + 600) == new
            expected = Claim("claimed") if new else Claim("handled")
            assert handled.claim("app", "a") == expected
            handled.resolve("app", "a", None)


def test_arguments_are_checked(path):
    for options in ({"max_age": 0}, {"claim_for": -1}, {"clock": 5}):
        with pytest.raises(InvalidArgument, match=next(iter(options))):
            SQLiteHandled(path, **options)
    with pytest.raises(InvalidArgument, match="must name a file"):
        SQLiteHandled(":memory:")
    with pytest.raises(OrtegeWatchError, match="the file of handled alerts"):
        SQLiteHandled(path / "no" / "such")
    handled = SQLiteHandled(path)
    handled.close()
    for call in (
        lambda: handled.claim("app", "a"),
        lambda: handled.release("app", "a"),
    ):
        with pytest.raises(OrtegeWatchError, match="cannot use the file of handled"):
            call()


def test_a_store_in_memory_claims_too():
    handled = MemoryHandled()
    assert handled.claim("app", "a") == Claim("claimed")
    assert handled.claim("app", "a") == Claim("busy")
    handled.release("app", "a")
    assert handled.claim("app", "a") == Claim("claimed")
    handled.resolve("app", "a", "bad")
    assert handled.claim("app", "a") == Claim("rejected", "bad")


async def test_rejected_alerts_can_be_forgotten_and_are_then_handled(path):
    taken = []

    def reject(alert):
        raise RejectAlert("a mistake")

    with SQLiteHandled(path) as handled:
        inbox = AlertInbox(handled)
        for number, handler in ((1, taken.append), (2, reject), (3, reject)):
            await inbox.handle(alert(number), "app", handler)
        for number in (1, 2, 3):
            await inbox.handle(alert(number), "app", taken.append)
        assert len(taken) == 1
        assert handled.forget_rejected() == 2
        assert handled.forget_rejected() == 0
        for number in (1, 2, 3):
            outcome = await inbox.handle(alert(number), "app", taken.append)
            assert outcome == AlertOutcome("acknowledge")
        assert len(taken) == 3
