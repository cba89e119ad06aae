"""Subscriptions to a real server that is killed and comes back."""

from __future__ import annotations

import pytest
from anyio import to_thread
from harness.waiting import wait_until
from harness.watching import Arrivals, hashes, rows_of

from ortege_watch import AsyncCubeClient, CubeClient, Reconnect

# The default waits up to a minute after many failures, and the server is away for one
# second at a time.
SOON = Reconnect(base=0.1, cap=0.5)


async def restart(cube, ledger, *, count):
    """Kill the server, insert rows in its absence, and start it again."""
    await to_thread.run_sync(cube.kill)
    inserted = ledger.insert(count=count)
    await to_thread.run_sync(cube.start)
    return inserted


async def test_rows_of_an_outage_arrive_exactly_once(cube, ledger):
    before = ledger.insert(count=3)
    states = []
    async with (
        AsyncCubeClient(cube.url, cube.token) as client,
        client.watch(
            rows_of(ledger), reconnect=SOON, on_state=states.append
        ) as updates,
    ):
        update = await anext(updates)
        assert hashes(update.added) == before
        during = await restart(cube, ledger, count=5)
        update = await anext(updates)
        assert update.resumed
        assert not update.first
        assert hashes(update.added) == during
        assert (update.changed, update.removed) == ((), ())
        after = ledger.insert(count=2)
        update = await anext(updates)
        assert not update.resumed
        assert hashes(update.added) == after
    assert states[:2] == ["connecting", "live"]
    assert "waiting" in states
    assert states[-2:] == ["live", "closed"]


async def test_what_an_outage_changed_and_removed_arrives_too(cube, ledger):
    kept, changed, removed = ledger.insert("1", count=3)
    async with (
        AsyncCubeClient(cube.url, cube.token) as client,
        client.watch(rows_of(ledger), reconnect=SOON) as updates,
    ):
        await anext(updates)
        await to_thread.run_sync(cube.kill)
        ledger.set_amount(changed, "2")
        ledger.delete(removed)
        await to_thread.run_sync(cube.start)
        update = await anext(updates)
    assert update.resumed
    assert update.added == ()
    assert hashes(update.changed) == [changed]
    assert hashes(update.removed) == [removed]
    assert hashes(update.result) == [kept, changed]


async def test_ten_outages_lose_no_row_and_repeat_none(cube, ledger):
    arrivals = Arrivals()
    inserted = ledger.insert(count=2)
    async with (
        AsyncCubeClient(cube.url, cube.token) as client,
        client.watch(rows_of(ledger), reconnect=SOON) as updates,
    ):
        arrivals.take(await anext(updates))
        for number in range(10):
            inserted += ledger.insert()
            inserted += await restart(cube, ledger, count=3)
            inserted += ledger.insert()
            # Every third time the server dies before anything was heard of it.
            while number % 3 and not arrivals.have(inserted):
                arrivals.take(await anext(updates))
        while not arrivals.have(inserted):
            arrivals.take(await anext(updates))
        # A row that comes twice would come with this one at the latest.
        inserted += ledger.insert()
        while not arrivals.have(inserted):
            arrivals.take(await anext(updates))
    assert len(inserted) == 53
    assert arrivals.counts == dict.fromkeys(inserted, 1)
    assert arrivals.resumed >= 6


async def test_several_queries_are_all_live_again(cube, ledger):
    everything = rows_of(ledger)
    queries = [everything, everything.limit_to(100), everything.limit_to(200)]
    ledger.insert()
    async with (
        AsyncCubeClient(cube.url, cube.token) as client,
        client.watch(*queries, reconnect=SOON) as updates,
    ):
        assert {(await anext(updates)).query for _ in queries} == set(queries)
        during = await restart(cube, ledger, count=1)
        resumed = [await anext(updates) for _ in queries]
    assert {update.query for update in resumed} == set(queries)
    assert [hashes(update.added) for update in resumed] == [during] * 3


async def test_a_server_that_is_not_there_yet_is_waited_for(cube, ledger):
    [row] = ledger.insert()
    await to_thread.run_sync(cube.kill)
    states = []
    async with (
        AsyncCubeClient(cube.url, cube.token) as client,
        client.watch(
            rows_of(ledger), reconnect=SOON, on_state=states.append
        ) as updates,
    ):
        await to_thread.run_sync(cube.start)
        update = await anext(updates)
    assert update.first
    assert hashes(update.added) == [row]
    assert states[:2] == ["connecting", "waiting"]


@pytest.mark.parametrize("transport", ["websocket", "rest"])
def test_threads_are_spared_the_outage_as_well(cube, ledger, caplog, transport):
    def noticed():
        return any("next attempt in" in r.getMessage() for r in caplog.records)

    before = ledger.insert()
    with (
        CubeClient(cube.url, cube.token) as client,
        client.watch(
            rows_of(ledger), reconnect=SOON, transport=transport, poll_every=1
        ) as updates,
    ):
        assert hashes(next(updates).added) == before
        assert not noticed()
        cube.kill()
        during = ledger.insert(count=2)
        wait_until(noticed, seconds=60, what="the outage is noticed")
        cube.start()
        update = next(updates)
        assert hashes(update.added) == during
        assert update.resumed
