"""Subscriptions to a real server that stays up."""

from __future__ import annotations

import sys
import time
from decimal import Decimal
from pathlib import Path

import pytest
from harness.cube_server import TICK_SECONDS
from harness.ledger import Ledger
from harness.members import Events, Slow
from harness.raw import raw_socket
from harness.waiting import await_until
from harness.watching import Arrivals, hashes, rows_of

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))  # for injection/

from injection.proxy import LoopThread, Proxy

from ortege_watch import (
    AsyncCubeClient,
    AuthenticationError,
    CubeClient,
    DecodeError,
    Measure,
    Query,
    QueryRejected,
)

NOPE = Query(measures=[Measure("nope.count")])


@pytest.fixture
async def client(cube):
    async with AsyncCubeClient(cube.url, cube.token()) as client:
        yield client


async def test_rows_are_added_changed_and_removed(client, ledger):
    [first] = ledger.insert("1.5")
    async with client.watch(rows_of(ledger)) as updates:
        update = await anext(updates)
        assert (update.first, update.resumed, update.truncated) == (True, False, False)
        assert hashes(update.added) == hashes(update.result) == [first]
        assert bytes(update.result.raw).startswith(b'{"members":')
        [second, third] = ledger.insert("2", count=2)
        update = await anext(updates)
        assert not update.first
        assert hashes(update.added) == [second, third]
        assert hashes(update.result) == [first, second, third]
        assert (update.changed, update.removed) == ((), ())
        ledger.set_amount(first, "9007199254740993")
        update = await anext(updates)
        [row] = update.changed
        assert row[Events.tx_hash] == first
        assert row[Events.asset_amount] == Decimal(9007199254740993)
        assert row.before[Events.asset_amount] == Decimal("1.5")
        assert (update.added, update.removed) == ((), ())
        ledger.delete(second)
        update = await anext(updates)
        assert hashes(update.removed) == [second]
        assert (update.added, update.changed) == ((), ())
        assert updates.state == "live"


async def test_equal_snapshots_are_not_delivered(client, cube, generation, ledger):
    query = rows_of(ledger)
    ledger.insert()
    async with client.watch(query) as updates, raw_socket(cube) as socket:
        await anext(updates)
        await socket.authorize(cube.token())
        await socket.subscribe(query.to_wire())
        pushed = [await socket.receive_rows()]
        if generation.classic:
            # 0.35.81 sends after each refresh, once a second, equal rows too.
            pushed += [await socket.receive_rows() for _ in range(3)]
        else:
            # 1.7.43 sends equal rows once: here is nothing but the ticks of 4 seconds.
            for _ in range(round(4 / TICK_SECONDS)):
                assert await socket.receive() == {"messageProcessedId": "1"}
        [inserted] = ledger.insert()
        update = await anext(updates)
    assert pushed == [pushed[0]] * len(pushed)
    assert hashes(update.added) == [inserted]


async def test_a_query_that_is_unsubscribed_and_subscribed_again_gets_its_data(
    cube, generation, ledger
):
    query = rows_of(ledger).to_wire()
    ledger.insert()
    async with raw_socket(cube) as socket:
        await socket.authorize(cube.token())
        await socket.subscribe(query)
        rows = await socket.receive_rows()
        assert len(rows) == 1
        if not generation.classic:  # the classic one pushes equal rows at each refresh
            await socket.subscribe(query)
            for _ in range(3):
                assert await socket.receive() == {"messageProcessedId": "1"}
        for _ in range(3):
            await socket.send({"unsubscribe": "1"})
            await socket.subscribe(query)
            assert await socket.receive_rows() == rows


async def test_an_update_whose_answer_was_corrupted_arrives(cube, ledger):
    errors, query = [], rows_of(ledger)
    port = cube.host.rpartition(":")[2]
    with LoopThread() as thread, Proxy(thread, int(port)) as proxy:
        url = cube.url.replace(port, str(proxy.port))
        async with (
            AsyncCubeClient(url, cube.token()) as client,
            client.watch(query, on_error=errors.append, poll_every=0.5) as updates,
        ):
            assert (await anext(updates)).first
            proxy.spoil("0x00000001")
            [inserted] = ledger.insert()
            update = await anext(updates)
            assert (hashes(update.added), update.resumed) == ([inserted], False)
            assert (proxy.has_spoiled, updates.state) == (True, "live")
    [error] = errors
    assert isinstance(error, DecodeError)
    assert error.query == query


async def test_several_queries_have_their_own_updates(client, ledger):
    everything = rows_of(ledger)
    large = everything.filter(Events.function_name.eq("borrow"))
    async with client.watch(everything, large) as updates:
        first = {(await anext(updates)).query for _ in range(2)}
        assert first == {everything, large}
        [small] = ledger.insert(function_name="supply")
        update = await anext(updates)
        assert (update.query, hashes(update.added)) == (everything, [small])
        [borrowed] = ledger.insert(function_name="borrow")
        found = {}
        while len(found) < 2:
            update = await anext(updates)
            found[update.query] = hashes(update.added)
        assert found == {everything: [borrowed], large: [borrowed]}


async def test_a_slow_query_s_continue_wait_is_never_shown(client):
    async with client.watch(Query(measures=[Slow.count], limit=200)) as updates:
        [row] = (await anext(updates)).result
        assert row[Slow.count] == 1


async def test_a_result_at_its_limit_says_so(client, ledger, caplog):
    ledger.insert(count=3)
    async with client.watch(rows_of(ledger).limit_to(2)) as updates:
        update = await anext(updates)
    assert update.truncated
    assert len(update.result) == 2
    [warning] = [
        record for record in caplog.records if "reached its limit" in record.message
    ]
    assert "limit of 2 rows" in warning.getMessage()


async def test_a_bad_token_ends_it(cube, ledger):
    token = cube.token(exp=1)
    async with (
        AsyncCubeClient(cube.url, token) as client,
        client.watch(rows_of(ledger)) as updates,
    ):
        with pytest.raises(AuthenticationError, match="Invalid token") as refusal:
            await anext(updates)
        with pytest.raises(StopAsyncIteration):
            await anext(updates)
    assert token not in repr(refusal.value) + str(refusal.value)


async def test_a_refused_token_is_asked_for_once_more(cube, ledger):
    tokens = iter([cube.token(exp=1), cube.token()])
    async with (
        AsyncCubeClient(cube.url, lambda: next(tokens)) as client,
        client.watch(rows_of(ledger)) as updates,
    ):
        assert (await anext(updates)).first


async def test_a_validation_error_ends_its_query_with_the_server_s_sentence(client):
    async with client.watch(NOPE) as updates:
        with pytest.raises(QueryRejected) as refusal:
            await anext(updates)
        with pytest.raises(StopAsyncIteration):
            await anext(updates)
    assert refusal.value.message == "Cube 'nope' not found for path 'nope.count'"
    assert refusal.value.query == NOPE


async def test_the_other_queries_go_on_after_a_validation_error(client, ledger):
    refusals, arrivals = [], Arrivals()
    async with client.watch(NOPE, rows_of(ledger)) as updates:
        while not (refusals and arrivals.have(["0x00000001"])):
            try:
                update = await anext(updates)
            except QueryRejected as error:
                refusals.append(error.query)
            else:
                if update.first:
                    ledger.insert()
                arrivals.take(update)
        # The server repeats its refusal on every tick; it must not be said again.
        ledger.insert()
        arrivals.take(await anext(updates))
    assert refusals == [NOPE]
    assert arrivals.counts == {"0x00000001": 1, "0x00000002": 1}


async def test_a_database_error_passes(client, ledger, postgres):
    errors = []
    async with client.watch(rows_of(ledger), on_error=errors.append) as updates:
        await anext(updates)
        with postgres.without("stacks_contract_events"):
            await await_until(lambda: errors, seconds=30, what="an error is reported")
        [inserted] = ledger.insert()
        update = await anext(updates)
    assert hashes(update.added) == [inserted]
    [error] = errors
    assert 'relation "stacks_contract_events" does not exist' in error.message


async def test_the_live_socket_takes_the_next_token_before_the_first_expires(
    cube, ledger, postgres
):
    # A server never looks again at the expiry of a live socket's token. So the second
    # token is for another contract: what is shown proves that the server has taken it.
    others = Ledger(postgres, f"{ledger.contract_id}, another")
    [ours] = ledger.insert()
    [theirs] = others.insert(count=2)[1:]
    asked, expires = [], time.time() + 9

    def provider():
        asked.append(time.time())
        if len(asked) == 1:
            return cube.token(exp=expires, contract=ledger.contract_id)
        return cube.token(contract=others.contract_id)

    states = []
    query = Query(measures=[Events.asset_amount], dimensions=[Events.tx_hash])
    async with (
        AsyncCubeClient(cube.url, provider) as client,
        client.watch(query, on_state=states.append) as updates,
    ):
        assert hashes((await anext(updates)).result) == [ours]
        update = await anext(updates)
        assert theirs in hashes(update.added)
        assert not update.resumed
        [inserted] = others.insert()
        assert hashes((await anext(updates)).added) == [inserted]
    assert len(asked) == 2
    assert asked[1] < expires - 1
    assert states == ["connecting", "live", "closed"]


async def test_polls_where_websockets_are_off(rest_only_cube, ledger, caplog):
    [changed, removed] = ledger.insert("1.5", count=2)
    server, tokens = rest_only_cube, []

    def provider():
        # Long expired when the next question is asked, three seconds later.
        tokens.append(server.token(exp=time.time() + 2))
        return tokens[-1]

    async with (
        AsyncCubeClient(server.url, provider) as client,
        client.watch(rows_of(ledger), poll_every=3) as updates,
    ):
        update = await anext(updates)
        assert update.first
        assert hashes(update.added) == [changed, removed]
        assert updates.state == "polling"
        ledger.set_amount(changed, "2")
        ledger.delete(removed)
        [added] = ledger.insert()
        update = await anext(updates)
    [row] = update.changed
    assert row.before[Events.asset_amount] == Decimal("1.5")
    assert hashes(update.added) == [added]
    assert hashes(update.removed) == [removed]
    said = [record.getMessage() for record in caplog.records]
    assert sum("polling over REST every" in sentence for sentence in said) == 1
    assert len(set(tokens)) > 1


def test_threads_get_the_same_updates(cube, ledger):
    [first] = ledger.insert("1.5")
    with (
        CubeClient(cube.url, cube.token()) as client,
        client.watch(rows_of(ledger)) as updates,
    ):
        update = next(updates)
        assert update.first
        assert hashes(update.added) == [first]
        [second] = ledger.insert()
        assert hashes(next(updates).added) == [second]
        ledger.set_amount(first, "2")
        [row] = next(updates).changed
        assert row.before[Events.asset_amount] == Decimal("1.5")
        assert updates.state == "live"


def test_threads_get_the_same_errors(cube):
    with (
        CubeClient(cube.url, cube.token()) as client,
        client.watch(NOPE) as updates,
        pytest.raises(QueryRejected, match="Cube 'nope' not found"),
    ):
        next(updates)
    with (
        CubeClient(cube.url, "nonsense") as client,
        client.watch(NOPE) as updates,
        pytest.raises(AuthenticationError),
    ):
        next(updates)
