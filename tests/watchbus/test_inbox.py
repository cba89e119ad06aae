"""Each alert is handled once, and duplicates get the result of the first."""

from __future__ import annotations

import asyncio
import threading

import anyio
import pytest
from channels import Gate, Inbox, alert

from ortege_watch import InvalidArgument
from ortege_watch.watchbus import AlertInbox

pytestmark = pytest.mark.anyio


async def test_the_oldest_alerts_are_forgotten():
    inbox, taken = AlertInbox(limit=3), Inbox()
    for number in (1, 2, 1, 3, 4):
        assert await inbox.handle(alert(number), "app", taken)
    known = [n for n in range(1, 5) if alert(n).dedupe_key("app") in inbox]
    assert (taken, known) == ([1, 2, 3, 4], [2, 3, 4])
    assert await inbox.handle(alert(1), "app", taken)
    assert taken == [1, 2, 3, 4, 1]


async def test_two_transfers_of_one_transaction_are_both_handled():
    inbox, amounts = AlertInbox(), []

    def handler(alert):
        amounts.append(alert.event_values["current_value"])

    for amount in ("10", "20", "10"):
        assert await inbox.handle(alert(1, current_value=amount), "app", handler)
    assert amounts == ["10", "20"]


async def test_a_duplicate_of_one_that_fails_has_failed_and_can_be_retried():
    gate, inbox = Gate(), AlertInbox()

    async def fail(alert):
        await gate(alert)
        raise RuntimeError("not now")

    tasks = [asyncio.create_task(inbox.handle(alert(1), "app", fail))]
    await gate.entered.reach(1)
    tasks += [
        asyncio.create_task(inbox.handle(alert(1), "app", gate)) for _ in range(2)
    ]
    await anyio.wait_all_tasks_blocked()
    gate.let_on.set()
    assert await asyncio.gather(*tasks) == [False] * 3
    assert gate.entered == [1]
    assert await inbox.handle(alert(1), "app", gate)
    assert gate.entered == [1, 1]


@pytest.mark.parametrize("cancels", [1, 2])
async def test_a_call_in_a_thread_counts_although_it_is_cancelled(cancels):
    calls, entered, let_on = [], threading.Event(), threading.Event()

    def handler(alert):
        calls.append(alert)
        entered.set()
        assert let_on.wait(10)

    inbox = AlertInbox()
    first = asyncio.create_task(inbox.handle(alert(1), "app", handler))
    await asyncio.to_thread(entered.wait, 10)
    second = asyncio.create_task(inbox.handle(alert(1), "app", handler))
    for _ in range(cancels):
        first.cancel()
        await anyio.wait_all_tasks_blocked()
    assert not first.done()
    let_on.set()
    assert await second
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await inbox.handle(alert(1), "app", handler)
    assert len(calls) == 1


async def test_a_duplicate_of_one_that_is_cancelled_has_failed_and_can_be_retried():
    gate, inbox = Gate(), AlertInbox()
    first = asyncio.create_task(inbox.handle(alert(1), "app", gate))
    await gate.entered.reach(1)
    second = asyncio.create_task(inbox.handle(alert(1), "app", gate))
    await anyio.wait_all_tasks_blocked()
    first.cancel()
    assert await second is False
    assert first.cancelled()
    gate.let_on.set()
    assert await inbox.handle(alert(1), "app", gate)
    assert gate.entered == [1, 1]


async def test_other_alerts_and_other_apps_do_not_wait():
    gate, inbox, taken = Gate(), AlertInbox(), Inbox()
    first = asyncio.create_task(inbox.handle(alert(1), "app", gate))
    await gate.entered.reach(1)
    assert await inbox.handle(alert(2), "app", taken)
    assert await inbox.handle(alert(1), "another", taken)
    assert taken == [2, 1]
    gate.let_on.set()
    assert await first


@pytest.mark.parametrize("limit", [0, -1])
def test_an_inbox_keeps_at_least_one_key(limit):
    with pytest.raises(InvalidArgument, match=f"a positive int, got {limit}"):
        AlertInbox(limit=limit)
