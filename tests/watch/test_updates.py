"""The promises of a subscription, kept over real sockets on loopback."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
from contextlib import AsyncExitStack
from decimal import Decimal

import pytest
from watching import EVENTS, FUNCTIONS, QUERY, Events, States, senders, watching
from websockets.asyncio.server import serve

from ortege_watch import (
    ApiError,
    AsyncCubeClient,
    AuthenticationError,
    CubeClient,
    DecodeError,
    InvalidArgument,
    Measure,
    OrtegeWatchError,
    Query,
    QueryRejected,
    SubscriptionLost,
    TimeDimension,
)
from ortege_watch.testing import FakeCube

pytestmark = pytest.mark.anyio

NOPE = Query(measures=[Measure("nope.count")])
COMPARED = Query(
    measures=[Events.amount],
    time=[TimeDimension(f"{EVENTS}.tx_date").compare(["today", "yesterday"])],
)


# --------------------------------------------------------------------- 1: envelope


@pytest.mark.parametrize("generation", ["strict", "classic"])
async def test_one_envelope_that_every_cube_accepts(generation):
    cube = FakeCube(generation)
    async with watching(QUERY, FUNCTIONS, cube=cube) as watch:
        await watch.next()
        await watch.next()
        hello, *subscribed = cube.frames
    assert hello == {"authorization": cube.token()}
    assert [frame["messageId"] for frame in subscribed] == ["1", "2"]
    for frame in subscribed:
        assert frame.keys() == {"messageId", "requestId", "method", "params"}
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4.*", frame["requestId"])
        assert frame["params"].keys() == {"query", "queryType"}
        assert frame["params"]["queryType"] == "multi"


# --------------------------------------------------------------------- 2: dialects


@pytest.mark.parametrize("on_unknown_frame", ["error", "silence"])
async def test_auto_finds_the_tutorial_dialect(on_unknown_frame, clock):
    cube = FakeCube("tutorial", on_unknown_frame=on_unknown_frame)
    async with watching(QUERY, FUNCTIONS, cube=cube, clock=clock) as watch:
        if on_unknown_frame == "silence":
            await cube.wait_until_async(lambda: cube.frames)
            await clock.advance(10)
        first, second = await watch.next(), await watch.next()
        assert {first.query, second.query} == {QUERY, FUNCTIONS}
        assert cube.connections == 2  # one socket a query
        watch.insert("SP1")
        update = await watch.next()
        assert senders(update.added or []) == ["SP1"] or update.query is FUNCTIONS
        seen = len(cube.attempts)
        # What worked is remembered by the client: no second search.
        async with watch.client.watch(QUERY) as again:
            async with asyncio.timeout(10):
                assert (await anext(again)).first
        assert len(cube.attempts) == seen + 1
    tutorial = [frame for frame in cube.frames if "queryType" in frame]
    assert all(frame["queryType"] == "subscribe" for frame in tutorial)


@pytest.mark.parametrize(
    ("dialect", "generation"), [("ortege", "classic"), ("ortege", "strict")]
)
async def test_a_pinned_dialect_that_is_not_spoken_is_an_error(dialect, generation):
    async with watching(cube=FakeCube(generation), dialect=dialect) as watch:
        with pytest.raises(SubscriptionLost, match="does not speak the 'ortege'"):
            await watch.next()
        with pytest.raises(StopAsyncIteration):
            await watch.next()
        assert watch.updates.state == "closed"


async def test_if_neither_dialect_is_spoken_the_error_names_both():
    async def refuse(socket) -> None:
        async for message in socket:
            said = "no queries here" if "queryType" in message else "no greetings here"
            answer = {"message": {"error": said}, "status": 400}
            await socket.send(json.dumps(answer))

    async with serve(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = AsyncCubeClient(f"http://127.0.0.1:{port}", "token")
        async with client, client.watch(QUERY) as updates:
            with pytest.raises(SubscriptionLost) as caught:
                async with asyncio.timeout(10):
                    await anext(updates)
    assert "no greetings here" in str(caught.value)
    assert "no queries here" in str(caught.value)


@pytest.mark.parametrize("remembered", [True, False])
async def test_in_the_tutorial_dialect_a_query_is_refused_alone(remembered):
    """A gateway's errors carry no id there: the socket says whose they are."""
    good = json.dumps({"data": []})
    bad = json.dumps({"error": "Cube 'nope' not found", "status": 400})
    answered = asyncio.Event()

    async def gateway(socket) -> None:
        async for message in socket:
            if "authorization" in message:
                await socket.send(json.dumps({"error": "what?", "status": 400}))
            elif "nope" in message:
                async with asyncio.timeout(10):
                    await answered.wait()
                await socket.send(bad)
            else:
                await socket.send(good)
                answered.set()

    async with serve(gateway, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = AsyncCubeClient(f"http://127.0.0.1:{port}", "token")
        dialect = "ortege" if remembered else "auto"
        async with client, client.watch(QUERY, NOPE, dialect=dialect) as updates:
            async with asyncio.timeout(10):
                assert (await anext(updates)).query is QUERY
                with pytest.raises(
                    OrtegeWatchError, match="'nope' not found"
                ) as caught:
                    await anext(updates)
            assert caught.value.query is NOPE
            assert updates.state == "live"


@pytest.mark.parametrize("refused", [True, False])
async def test_in_the_tutorial_dialect_a_dropped_query_is_tried_again(refused, clock):
    async def gateway(socket) -> None:
        async for message in socket:
            if "authorization" in message:
                await socket.send(json.dumps({"error": "what?", "status": 400}))
            elif "function_name" in message and len(dropped) < 3:
                dropped.append(message)
                return
            elif "function_name" in message and refused:
                await socket.send(json.dumps({"error": "not found", "status": 400}))
            else:
                await socket.send(json.dumps({"data": []}))

    dropped: list[str] = []
    async with serve(gateway, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = AsyncCubeClient(f"http://127.0.0.1:{port}", "token", clock=clock)
        async with client, client.watch(QUERY, FUNCTIONS) as updates:
            async with asyncio.timeout(10):
                assert (await anext(updates)).query is QUERY
                second = asyncio.create_task(anext(updates))
                while not second.done():
                    await asyncio.sleep(0)
                    if clock.sleepers and clock.sleepers[0] < 10:
                        await clock.advance(clock.sleepers[0])
                if refused:
                    with pytest.raises(QueryRejected) as caught:
                        await second
                    assert caught.value.query is FUNCTIONS
                else:
                    assert (await second).query is FUNCTIONS
            assert len(dropped) == 3


async def test_a_hiccup_at_the_first_greeting_does_not_cost_the_dialect(clock):
    async def hiccuping(socket) -> None:
        async for message in socket:
            frame = json.loads(message)
            if "authorization" in frame and not greeted:
                greeted.append(frame)
                answer = {"message": {"error": "Error: busy"}, "status": 500}
            elif "authorization" in frame:
                answer = {"handshake": True}
            elif "messageId" in frame:
                body = {"results": [{"data": []}]}
                answer = {"messageId": frame["messageId"], "message": body}
            else:
                error = {"error": "messageId is required"}
                answer = {"message": error, "status": 400}
            await socket.send(json.dumps(answer))

    greeted: list[object] = []
    async with serve(hiccuping, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = AsyncCubeClient(f"http://127.0.0.1:{port}", "token", clock=clock)
        states = States()
        watch = client.watch(QUERY, FUNCTIONS, on_state=states)
        async with client, watch as updates, asyncio.timeout(10):
            first = asyncio.create_task(anext(updates))
            while not first.done():
                await asyncio.sleep(0)
                if clock.sleepers and clock.sleepers[0] < 5:
                    await clock.advance(clock.sleepers[0])
            assert {(await first).query, (await anext(updates)).query} == {
                QUERY,
                FUNCTIONS,
            }
            assert updates.state == "live"


# ------------------------------------------------------------------- 3: transports


async def test_where_websockets_are_off_the_updates_are_the_same(caplog):
    cube = FakeCube(websockets=False)
    with caplog.at_level(logging.WARNING, "ortege_watch.watch"):
        async with watching(cube=cube) as watch:
            first = await watch.next()
            assert first.first
            assert watch.updates.state == "polling"
            assert watch.updates.last_seen is not None
    said = [r.message for r in caplog.records if "disabled or blocked" in r.message]
    assert len(said) == 1
    assert cube.token() not in caplog.text


async def test_polling_asks_every_few_seconds(clock):
    cube = FakeCube(websockets=False)
    async with watching(cube=cube, clock=clock) as watch:
        assert not (await watch.next()).added
        watch.insert("SP1")
        await clock.wait_for_sleepers(1)
        await clock.advance(5)
        assert senders((await watch.next()).added) == ["SP1"]


async def test_rest_can_be_pinned():
    async with watching(transport="rest") as watch:
        assert (await watch.next()).first
        assert watch.cube.attempts == []


async def test_websockets_can_be_pinned():
    async with watching(
        cube=FakeCube(websockets=False), transport="websocket"
    ) as watch:
        with pytest.raises(SubscriptionLost, match=r"disabled or blocked.*HTTP"):
            await watch.next()


# --------------------------------------------------------------------- 4: back-off


async def test_a_server_that_accepts_and_drops_is_not_hammered(clock):
    cube = FakeCube(clock=clock)
    cube.accept_and_drop()
    async with watching(cube=cube, clock=clock) as watch:
        times = 0
        while clock.now() <= 60:
            times += 1
            await watch.states.reach("waiting", times=times)
            await watch.wait_out(clock)
        within = [at for at in cube.attempts if at - cube.attempts[0] < 60]
        assert 2 <= len(within) <= 10


async def test_clients_that_fail_together_do_not_come_back_together(clock):
    cube = FakeCube()
    async with watching(cube=cube, clock=clock) as watch:
        await watch.next()
        others = [watch.client.watch(QUERY) for _ in range(4)]
        async with AsyncExitStack() as stack:
            for updates in others:
                await stack.enter_async_context(updates)
                await anext(updates)
            cube.down()
            while len(clock.sleepers) < 5 or clock.sleepers[4] > 1.0:
                await asyncio.sleep(0)
            assert all(0.5 <= delay <= 1.0 for delay in clock.sleepers[:5])
            assert len(set(clock.sleepers[:5])) == 5


async def test_a_refused_connection_is_tried_again_for_ever(clock):
    cube = FakeCube()
    async with watching(cube=cube, clock=clock) as watch:
        await watch.next()
        cube.down()
        for times in range(1, 15):
            await watch.states.reach("waiting", times=times)
            await watch.wait_out(clock)
        cube.up()
        watch.insert("SP1")
        await watch.states.reach("waiting", times=15)
        await watch.wait_out(clock)
        assert senders((await watch.next()).added) == ["SP1"]


# ---------------------------------------------------------------------- 5: silence


async def test_silence_is_noticed(clock):
    cube = FakeCube(clock=clock)
    async with watching(cube=cube, clock=clock, stale_after=20.0) as watch:
        await watch.next()
        cube.silence()
        watch.insert("SP1")
        await clock.wait_for_sleepers(1)
        await clock.advance(20)
        await clock.wait_for_sleepers(1)
        await clock.advance(10)
        await watch.states.reach("waiting")
        cube.speak()
        await clock.advance(1)
        update = await watch.next()
        assert senders(update.added) == ["SP1"]
        assert update.resumed


async def test_a_connection_may_be_lost_while_a_ping_is_out(clock):
    cube = FakeCube(clock=clock)
    async with watching(cube=cube, clock=clock, stale_after=20.0) as watch:
        await watch.next()
        cube.silence()
        await clock.wait_for_sleepers(1)
        await clock.advance(20)
        cube.drop()
        await watch.states.reach("waiting")
        cube.speak()
        watch.insert("SP1")
        await clock.advance(1)
        assert senders((await watch.next()).added) == ["SP1"]


async def test_queries_are_sent_again_every_minute(clock):
    cube = FakeCube()
    async with watching(cube=cube, clock=clock) as watch:
        await watch.next()
        for count in (2, 3, 4):
            await clock.advance(50)
            await cube.wait_until_async(
                lambda count=count: (
                    sum("method" in frame for frame in cube.frames) == count
                )
            )


# ---------------------------------------------------------------------- 6: outages


@pytest.mark.parametrize(
    "outage", ["drop", "restart", "close", "garbage", "forget_and_drop"]
)
@pytest.mark.parametrize("generation", ["strict", "classic"])
async def test_rows_of_an_outage_arrive_once(outage, generation, clock):
    cube = FakeCube(generation)
    async with watching(QUERY, FUNCTIONS, cube=cube, clock=clock) as watch:
        watch.insert("SP1")
        while not senders((update := await watch.next()).added) == ["SP1"]:
            assert update.query is FUNCTIONS or not update.added
        if outage == "garbage":
            cube.garbage(b"\x00\xff not a frame")
        elif outage == "forget_and_drop":
            cube.forget()
            cube.drop()
        else:
            getattr(cube, outage)()
        await watch.states.reach("waiting")
        watch.insert("SP2", function="supply")
        await clock.advance(1)
        added = {QUERY: [], FUNCTIONS: []}
        while not (added[QUERY] and added[FUNCTIONS]):
            update = await watch.next()
            added[update.query] += update.added
        watch.insert("SP3", function="supply")
        while "SP3" not in senders(added[QUERY]):
            update = await watch.next()
            added[update.query] += update.added
        assert senders(added[QUERY]) == ["SP2", "SP3"]


async def test_an_update_says_that_it_spans_an_outage(clock):
    async with watching(clock=clock) as watch:
        first = await watch.next()
        assert (first.first, first.resumed) == (True, False)
        watch.cube.drop()
        await watch.states.reach("waiting")
        watch.insert("SP1")
        await clock.advance(1)
        update = await watch.next()
        assert (update.first, update.resumed) == (False, True)
        watch.insert("SP2")
        assert not (await watch.next()).resumed


# -------------------------------------------------------------------- 7: snapshots


@pytest.mark.parametrize("transport", ["websocket", "rest"])
async def test_upserted_has_new_and_changed_rows_in_the_order_of_the_result(transport):
    def in_order(rows):
        return [row[Events.sender] for row in rows]

    query = Query(
        measures=[Events.amount],
        dimensions=[Events.sender],
        order=[Events.amount.desc()],
    )
    async with watching(query, transport=transport, poll_every=0.01) as watch:
        watch.insert("SP2", amount=20)
        while True:
            first = await watch.next()
            if in_order(first.result) == ["SP2"]:
                break
        assert in_order(first.upserted) == in_order(first.added) == ["SP2"]
        rows = [("SP1", 10), ("SP2", 5), ("SP3", 30)]
        watch.cube.tables[EVENTS].insert(
            {"sender_address": sender, "asset_amount": Decimal(amount)}
            for sender, amount in rows
        )
        update = await watch.next()
        assert in_order(update.upserted) == ["SP3", "SP2", "SP1"]
        assert in_order(update.upserted) == in_order(update.result)
        assert in_order(update.added) == ["SP3", "SP1"]
        [changed] = update.changed
        assert (changed[Events.amount], changed.before[Events.amount]) == (25, 20)
        watch.insert("SP1", amount=1)
        update = await watch.next()
        assert (in_order(update.upserted), update.added) == (["SP1"], ())


async def test_updates_are_differences_of_snapshots():
    async with watching() as watch:
        first = await watch.next()
        assert (list(first.added), list(first.result)) == ([], [])
        watch.insert("SP1", "SP2")
        update = await watch.next()
        assert senders(update.added) == ["SP1", "SP2"]
        assert not update.changed
        assert not update.removed
        assert update.received_at.tzinfo is not None
        watch.insert("SP1", amount=5)
        update = await watch.next()
        [changed] = update.changed
        assert changed[Events.sender] == "SP1"
        assert (changed.before[Events.amount], changed[Events.amount]) == (1, 6)
        watch.cube.tables[EVENTS].replace([])
        update = await watch.next()
        assert senders(update.removed) == ["SP1", "SP2"]
        assert len(update.result) == 0


async def test_equal_snapshots_are_not_delivered():
    async with watching(cube=FakeCube("classic")) as watch:
        await watch.next()
        for _ in range(3):
            watch.cube.refresh()  # this generation pushes the same rows again
        watch.insert("SP1")
        assert senders((await watch.next()).added) == ["SP1"]


async def test_a_result_at_its_limit_says_so_once(caplog):
    with caplog.at_level(logging.WARNING, "ortege_watch.watch"):
        async with watching(QUERY.limit_to(2)) as watch:
            assert not (await watch.next()).truncated
            watch.insert("SP1", "SP2")
            assert (await watch.next()).truncated
            watch.insert("SP1")
            assert (await watch.next()).truncated
    assert sum("limit of 2 rows" in r.message for r in caplog.records) == 1


# --------------------------------------------------------------- 8: slow consumers


async def test_a_slow_loop_gets_the_newest_snapshot_and_every_row_of_it():
    cube = FakeCube(tick=0.02)
    async with watching(cube=cube) as watch:
        await watch.next()
        for count in range(50):  # the loop body takes its time meanwhile
            watch.insert(f"SP{count}")
        await watch.hear(0.5)
        update = await watch.next()
        assert len(update.added) == 50
        watch.insert("SP")
        assert senders((await watch.next()).added) == ["SP"]


async def test_the_socket_lives_while_the_loop_body_works():
    cube = FakeCube(tick=0.02)
    async with watching(cube=cube, stale_after=0.2) as watch:
        async for _ in watch.updates:
            await watch.hear(0.5)
            break
        assert len(cube.attempts) == 1
        watch.insert("SP1")
        assert senders((await watch.next()).added) == ["SP1"]


# ----------------------------------------------------------------------- 9: tokens


async def test_the_provider_is_asked_at_every_connect(clock):
    cube = FakeCube()
    asked = []

    async def provider() -> str:
        asked.append(cube.token(number=len(asked)))
        return asked[-1]

    async with watching(cube=cube, token=provider, clock=clock) as watch:
        await watch.next()
        cube.drop()
        await watch.states.reach("waiting")
        await clock.advance(1)
        await watch.states.reach("live", times=2)
    hellos = [f["authorization"] for f in cube.frames if "authorization" in f]
    assert hellos == asked
    assert len(asked) == 2


async def test_a_token_is_renewed_on_the_live_socket(clock):
    cube = FakeCube()
    asked = []

    def provider() -> str:
        asked.append(cube.token(expires_in=40, number=len(asked)))
        return asked[-1]

    async with watching(cube=cube, token=provider, clock=clock) as watch:
        await watch.next()
        await clock.wait_for_sleepers(1)
        await clock.advance(31)
        await cube.wait_until_async(
            lambda: cube.frames[-1] == {"authorization": asked[-1]}
        )
        assert len(asked) == 2
        assert len(cube.attempts) == 1
        watch.insert("SP1")
        assert senders((await watch.next()).added) == ["SP1"]


async def test_a_refused_token_is_asked_for_once_more():
    cube = FakeCube()
    asked = []

    async def provider() -> str:
        asked.append(1)
        return cube.token(number=1) if len(asked) > 1 else cube.token(expires_in=-5)

    async with watching(cube=cube, token=provider) as watch:
        assert (await watch.next()).first
        assert len(cube.attempts) == 1
    assert len(asked) == 2


@pytest.mark.parametrize("websockets", [True, False])
async def test_a_token_refused_twice_ends_it(websockets, caplog):
    cube = FakeCube(websockets=websockets)
    with caplog.at_level(logging.DEBUG):
        async with watching(cube=cube, token="s3cret.s3cret.s3cret") as watch:
            with pytest.raises(AuthenticationError, match="Invalid token") as caught:
                await watch.next()
    assert caught.value.status == 403
    assert "s3cret" not in repr(caught.value) + caplog.text


async def test_a_provider_that_fails_at_once_says_so():
    def provider() -> str:
        raise ValueError("boom")

    async with watching(token=provider) as watch:
        with pytest.raises(OrtegeWatchError, match="token function failed: ValueError"):
            await watch.next()


# ----------------------------------------------------------------------- 10: errors


async def test_a_refused_query_ends_alone_with_the_servers_sentence():
    async with watching(QUERY, NOPE) as watch:
        assert (await watch.next()).first
        with pytest.raises(QueryRejected) as caught:
            await watch.next()
        assert caught.value.query is NOPE
        assert caught.value.message == "Cube 'nope' not found for path 'nope.count'"
        watch.insert("SP1")
        assert senders((await watch.next()).added) == ["SP1"]
        cube = watch.cube
        await cube.wait_until_async(lambda: len(cube.subscriptions) == 1)


async def test_when_every_query_is_refused_the_iteration_ends():
    async with watching(NOPE) as watch:
        with pytest.raises(QueryRejected):
            await watch.next()
        with pytest.raises(StopAsyncIteration):
            await watch.next()


async def test_a_passing_error_is_raised_once_and_the_iteration_goes_on():
    async with watching() as watch:
        await watch.next()
        watch.cube.fail_query("Error: the database is gone")
        with pytest.raises(ApiError, match="the database is gone") as caught:
            await watch.next()
        assert caught.value.query is QUERY
        watch.cube.heal()
        watch.insert("SP1")
        assert senders((await watch.next()).added) == ["SP1"]


async def test_a_passing_error_can_go_to_a_callback():
    errors: list[OrtegeWatchError] = []
    failed = asyncio.Event()

    def on_error(error: OrtegeWatchError) -> None:
        errors.append(error)
        failed.set()

    async with watching(on_error=on_error) as watch:
        await watch.next()
        watch.cube.fail_query("Error: the database is gone")
        async with asyncio.timeout(10):
            await failed.wait()
        watch.cube.heal()
        watch.insert("SP1")
        assert senders((await watch.next()).added) == ["SP1"]
    assert [type(error) for error in errors] == [QueryRejected]


async def test_continue_wait_is_never_shown():
    cube = FakeCube()
    cube.continue_wait(2)
    async with watching(cube=cube) as watch:
        assert (await watch.next()).first


async def test_a_snapshot_with_unreadable_rows_is_one_error():
    async with watching() as watch:
        await watch.next()
        frame = {
            "messageId": "1",
            "message": {"results": [{"data": [1, 2]}]},
            "status": 200,
        }
        watch.cube.garbage(json.dumps(frame), text=True)
        with pytest.raises(DecodeError) as caught:
            await watch.next()
        assert caught.value.query is QUERY
        watch.insert("SP1")
        assert senders((await watch.next()).added) == ["SP1"]


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (b"\x00\x01\x02", False),
        (b"{}", False),
        ("null", True),
        ("<html>", True),
        ('{"half":', True),
        ('{"messageId":"99","message":{},"status":200}', True),
        ('{"messageProcessedId":"99"}', True),
    ],
)
async def test_garbage_costs_one_line_and_a_reconnect(frame, text, clock, caplog):
    with caplog.at_level(logging.WARNING, "ortege_watch.watch"):
        async with watching(clock=clock) as watch:
            await watch.next()
            watch.cube.garbage(frame, text=text)
            await watch.states.reach("waiting")
            lines = [r for r in caplog.records if r.name == "ortege_watch.watch"]
            assert len(lines) == 1
            watch.insert("SP1")
            await clock.advance(1)
            assert senders((await watch.next()).added) == ["SP1"]


async def test_a_frame_in_pieces_is_one_frame():
    async with watching() as watch:
        await watch.next()
        watch.cube.fragment(7)
        watch.insert("SP1", "SP2")
        assert senders((await watch.next()).added) == ["SP1", "SP2"]


async def test_a_frame_of_sixty_mebibytes_is_taken_or_refused_with_advice(clock):
    async with watching(clock=clock) as watch:
        await watch.next()
        watch.cube.big_frame(60 * 2**20)  # it is none of ours, but it is read
        await watch.states.reach("waiting")
        await clock.advance(1)
        await watch.states.reach("live", times=2)
    cube = FakeCube()
    with cube:
        client = AsyncCubeClient(cube.url, cube.token(), max_size=2**20)
        async with client, client.watch(QUERY) as updates:
            await anext(updates)
            cube.big_frame(2 * 2**20)
            with pytest.raises(SubscriptionLost, match="max_size"):
                async with asyncio.timeout(10):
                    await anext(updates)


# ---------------------------------------------------------------------- 11: leaving


async def test_leaving_closes_everything():
    tasks = asyncio.all_tasks()
    cube = FakeCube()
    async with watching(QUERY, FUNCTIONS, cube=cube) as watch:
        async for _ in watch.updates:
            break
        await watch.updates.aclose()
        await cube.wait_until_async(lambda: cube.connections == 0)
        assert asyncio.all_tasks() == tasks
        assert watch.updates.state == "closed"
        assert [update async for update in watch.updates] == []


async def test_leaving_by_an_exception_closes_everything():
    tasks = asyncio.all_tasks()
    with pytest.raises(ZeroDivisionError):
        async with watching() as watch:
            await watch.next()
            raise ZeroDivisionError
    assert asyncio.all_tasks() == tasks


async def test_cancellation_closes_everything_and_is_not_swallowed():
    tasks = asyncio.all_tasks()
    entered = asyncio.Event()

    async def bot() -> None:
        async with watching() as watch:
            async for _ in watch.updates:
                entered.set()

    task = asyncio.create_task(bot())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == tasks


@pytest.mark.parametrize("silent", [True, False])
async def test_leaving_does_not_wait_for_a_server_that_is_gone(silent):
    cube = FakeCube()
    tasks = asyncio.all_tasks()
    async with watching(cube=cube) as watch:
        await watch.next()
        if silent:
            cube.silence()
        else:
            cube.down()
    assert asyncio.all_tasks() == tasks


# ------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("queries", "options", "words"),
    [
        ((), {}, "at least one query"),
        (({"measures": ["a.b"]},), {}, "got dict"),
        ((Query(measures=[Events.amount], cache="no-cache"),), {}, "no-cache"),
        ((QUERY,), {"dialect": "klingon"}, "klingon"),
        ((QUERY,), {"transport": "pigeon"}, "pigeon"),
        ((QUERY,), {"stale_after": 0}, "stale_after"),
        ((QUERY,), {"poll_every": "soon"}, "poll_every"),
        ((COMPARED,), {}, "one date range"),
    ],
)
async def test_bad_arguments_are_refused_before_anything_is_opened(
    queries, options, words
):
    client = AsyncCubeClient("http://127.0.0.1:9", "token")
    with pytest.raises(InvalidArgument, match=words):
        client.watch(*queries, **options)


async def test_an_unknown_argument_is_a_type_error():
    client = AsyncCubeClient("http://127.0.0.1:9", "token")
    with pytest.raises(TypeError, match="'stale_afer': did you mean 'stale_after'"):
        client.watch(QUERY, stale_afer=3)
    with pytest.raises(TypeError, match="'timeout': expected one of 'dialect', 'tra"):
        client.watch(QUERY, timeout=3)


async def test_a_subscription_is_entered_once_and_before_it_is_iterated():
    client = AsyncCubeClient("http://127.0.0.1:9", "token")
    updates = client.watch(QUERY)
    with pytest.raises(InvalidArgument, match="async with"):
        await anext(updates)
    async with updates:
        pass
    with pytest.raises(InvalidArgument, match="again"):
        await updates.__aenter__()
    with pytest.raises(StopAsyncIteration):
        await anext(updates)
    assert "token" not in repr(updates)


@pytest.mark.parametrize("which", ["on_state", "on_error"])
async def test_a_callback_that_fails_ends_it_loudly(which):
    def callback(_) -> None:
        raise RuntimeError("my own bug")

    with FakeCube() as cube:
        client = AsyncCubeClient(cube.url, cube.token())
        async with client, client.watch(QUERY, **{which: callback}) as updates:
            cube.fail_query("Error: the database is gone")
            with pytest.raises(
                OrtegeWatchError, match=f"callback {which} failed: Runtime"
            ) as caught:
                async with asyncio.timeout(10):
                    await anext(updates)
            assert isinstance(caught.value.__cause__, RuntimeError)
            assert updates.state == "closed"


@pytest.mark.parametrize("which", ["on_state", "on_error"])
async def test_a_callback_that_returns_a_coroutine_ends_it_loudly(which):
    async def alarm(text) -> None:
        raise AssertionError

    with FakeCube() as cube:
        client = AsyncCubeClient(cube.url, cube.token())
        options = {which: lambda about: alarm(str(about))}
        async with client, client.watch(QUERY, **options) as updates:
            cube.fail_query("Error: the database is gone")
            async with asyncio.timeout(10):
                with pytest.raises(
                    OrtegeWatchError, match=f"callback {which} is async and was not"
                ):
                    await anext(updates)
            assert updates.state == "closed"


async def test_a_failure_that_no_one_expects_ends_it_loudly():
    class Bug(BaseException):
        """Be more than an Exception, as SystemExit is."""

    def on_state(state) -> None:
        if state == "live":
            raise Bug("s3cret")

    with FakeCube() as cube:
        client = AsyncCubeClient(cube.url, cube.token())
        async with client, client.watch(QUERY, on_state=on_state) as updates:
            with pytest.raises(Bug):
                async with asyncio.timeout(10):
                    while True:
                        await anext(updates)
            assert updates.state == "closed"
        await cube.wait_until_async(lambda: cube.connections == 0)


# ------------------------------------------------------------------------- threads


def test_the_same_for_threads():
    before = set(threading.enumerate())
    with FakeCube() as cube:
        with CubeClient(cube.url, cube.token()) as client, client.watch(QUERY) as ups:
            assert next(ups).first
            assert ups.state == "live"
            assert ups.last_seen is not None
            cube.tables[EVENTS].insert(
                {"sender_address": "SP1", "function_name": "x", "asset_amount": 3}
            )
            for update in ups:
                assert senders(update.added) == ["SP1"]
                break
            cube.drop()
            cube.wait_until(lambda: len(cube.attempts) == 2, timeout=10)
            cube.tables[EVENTS].insert(
                {"sender_address": "SP2", "function_name": "x", "asset_amount": 3}
            )
            assert senders(next(ups).added) == ["SP2"]
        cube.wait_until(lambda: cube.connections == 0)
    assert set(threading.enumerate()) == before


def test_threads_see_the_end_and_the_errors():
    with FakeCube() as cube, CubeClient(cube.url, cube.token()) as client:
        updates = client.watch(NOPE)
        with pytest.raises(InvalidArgument, match=r"with cube\.watch"):
            next(updates)
        with updates:
            with pytest.raises(QueryRejected):
                next(updates)
            assert list(updates) == []


def test_threads_hear_of_a_provider_that_fails():
    def provider() -> str:
        raise ValueError("s3cret")

    client = CubeClient("http://127.0.0.1:9", provider)
    with client, client.watch(QUERY) as updates:
        with pytest.raises(OrtegeWatchError, match="failed: ValueError") as caught:
            next(updates)
        assert "s3cret" not in str(caught.value)
        assert list(updates) == []


def test_leaving_in_a_thread_by_an_exception_closes_everything():
    before = set(threading.enumerate())
    with (
        pytest.raises(ZeroDivisionError),
        FakeCube() as cube,
        CubeClient(cube.url, cube.token()) as client,
        client.watch(QUERY) as updates,
    ):
        next(updates)
        raise ZeroDivisionError
    assert set(threading.enumerate()) == before


def test_editors_complete_only_what_users_need():
    updates = AsyncCubeClient("http://127.0.0.1:9", "token").watch(QUERY)
    public = {name for name in dir(updates) if not name.startswith("_")}
    assert public == {"aclose", "last_seen", "state"}
    blocking = CubeClient("http://127.0.0.1:9", "token").watch(QUERY)
    public = {name for name in dir(blocking) if not name.startswith("_")}
    assert public == {"close", "last_seen", "next", "state"}
