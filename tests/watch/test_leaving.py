"""Promise 11 under attack: whatever goes on, leaving leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from peers import HANDSHAKE, frame, peer, saying, upgrade
from watching import EVENTS, QUERY, Events, senders, watching

from ortege_watch import (
    AsyncCubeClient,
    CubeClient,
    Measure,
    OrtegeWatchError,
    Query,
    QueryRejected,
    SubscriptionLost,
)
from ortege_watch.testing import FakeCube
from ortege_watch.watch import updates as updates_module

pytestmark = pytest.mark.anyio


async def turns(count: int) -> None:
    """Let the event loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


async def bot(cube: FakeCube, ready: asyncio.Event, options: dict) -> None:
    async def token() -> str:
        await turns(1)
        return cube.token()

    async with (
        AsyncCubeClient(cube.url, token) as client,
        client.watch(QUERY, **options) as updates,
    ):
        async for _ in updates:
            ready.set()


@pytest.mark.parametrize("transport", ["auto", "rest"])
@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_anywhere_and_again_while_closing(transport, times):
    before = asyncio.all_tasks()
    with FakeCube() as cube:
        for count in range(60):
            ready = asyncio.Event()
            task = asyncio.create_task(bot(cube, ready, {"transport": transport}))
            if count >= 40:
                await ready.wait()
            await turns(count % 40)
            for _ in range(times):
                task.cancel()
                await turns(count % 3)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert asyncio.all_tasks() == before
        await cube.wait_until_async(lambda: cube.connections == 0)


async def test_a_peer_that_reads_nothing_holds_nobody_up():
    async def talk(request, reader, writer) -> None:
        writer.write(upgrade(request) + frame(HANDSHAKE))
        await asyncio.Event().wait()  # the stream's buffer fills, then both sockets'

    before = asyncio.all_tasks()
    many = ["x" * 1000 + str(number) for number in range(20_000)]
    large = Query(measures=[Events.amount], where=[Events.sender.in_(many)])
    async with peer(talk) as url, AsyncCubeClient(url, "token") as client:
        live = asyncio.Event()

        def on_state(state) -> None:
            if state == "live":
                live.set()

        async with asyncio.timeout(20), client.watch(large, on_state=on_state):
            await live.wait()
            await turns(10)
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize(
    "talk",
    [
        saying(b"HTTP/1.1 101 Swi", upgraded=False),
        saying(b"", upgraded=True),
        saying(frame(HANDSHAKE)[:5]),
    ],
    ids=["half a response", "no handshake", "half a frame"],
)
async def test_leaving_in_the_middle_of_something(talk):
    before = asyncio.all_tasks()
    async with peer(talk) as url, AsyncCubeClient(url, "token") as client:
        async with client.watch(QUERY) as updates:
            await turns(50)
            assert updates.state == "connecting"
        assert updates.state == "closed"
    assert asyncio.all_tasks() == before


async def test_leaving_while_the_token_provider_hangs():
    asked = asyncio.Event()

    async def provider() -> str:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    before = asyncio.all_tasks()
    client = AsyncCubeClient("http://127.0.0.1:9", provider)
    async with client, client.watch(QUERY):
        await asked.wait()
    assert asyncio.all_tasks() == before


async def test_leaving_while_a_poll_hangs():
    async def talk(request, reader, writer) -> None:
        asked.set()
        await asyncio.Event().wait()

    asked = asyncio.Event()
    before = asyncio.all_tasks()
    async with peer(talk) as url:
        client = AsyncCubeClient(url, "token")
        async with client, client.watch(QUERY, transport="rest"):
            await asked.wait()
    assert asyncio.all_tasks() == before


async def test_a_cancellation_while_leaving_is_heard_at_once():
    before = asyncio.all_tasks()
    async with (
        peer(saying(frame(HANDSHAKE))) as url,  # it would not answer a close frame
        AsyncCubeClient(url, "token") as client,
        client.watch(QUERY) as updates,
    ):
        while updates.state != "live":
            await asyncio.sleep(0)
        leaving = asyncio.create_task(updates.aclose())
        await turns(10)
        assert not leaving.done()
        leaving.cancel()
        await turns(20)
        assert leaving.cancelled()
    assert asyncio.all_tasks() == before


async def test_leaving_from_another_task_ends_the_iteration():
    with FakeCube() as cube:
        async with AsyncCubeClient(cube.url, cube.token()) as client:
            async with client.watch(QUERY) as updates:
                assert (await anext(updates)).first
                waiting = asyncio.create_task(anext(updates, None))
                await turns(3)
                await asyncio.gather(updates.aclose(), updates.aclose())
                assert await waiting is None
            await updates.aclose()


async def test_an_outage_leaves_no_task_behind(clock):
    cube = FakeCube()
    async with watching(cube=cube, clock=clock) as watch:
        await watch.next()
        before = len(asyncio.all_tasks())
        for times in range(1, 4):
            cube.drop()
            await watch.states.reach("waiting", times=times)
            await watch.wait_out(clock)
            await watch.states.reach("live", times=times + 1)
            async with asyncio.timeout(10):
                while len(asyncio.all_tasks()) > before:
                    await asyncio.sleep(0)


async def test_two_tasks_may_wait_for_updates():
    with FakeCube() as cube:
        client = AsyncCubeClient(cube.url, cube.token())
        async with client, client.watch(QUERY) as updates:
            assert (await anext(updates)).first
            both = [asyncio.create_task(anext(updates)) for _ in range(2)]
            await turns(3)
            for number in range(2):
                cube.tables[EVENTS].insert(event(f"SP{number}"))
                async with asyncio.timeout(10):
                    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                    while sum(task.done() for task in both) <= number:
                        await asyncio.sleep(0)
            added = [senders((await task).added) for task in both]
            assert sorted(added) == [["SP0"], ["SP1"]]


def event(sender: str) -> dict:
    return {"sender_address": sender, "function_name": "x", "asset_amount": 3}


async def test_a_callback_that_fails_at_once_opens_nothing():
    def on_state(_) -> None:
        raise RuntimeError("my own bug")

    with FakeCube() as cube:
        client = AsyncCubeClient(cube.url, cube.token())
        before = asyncio.all_tasks()
        async with client, client.watch(QUERY, on_state=on_state) as updates:
            assert asyncio.all_tasks() == before
            with pytest.raises(OrtegeWatchError, match="RuntimeError"):
                await anext(updates)
        assert cube.attempts == []


def test_without_asyncio_it_says_so():
    client = AsyncCubeClient("http://127.0.0.1:9", "token")
    entering = client.watch(QUERY).__aenter__()
    with pytest.raises(OrtegeWatchError, match="needs asyncio"):
        entering.send(None)  # as another event loop would


# ------------------------------------------------------------------------- threads


def functions_of(thread: int) -> set[str]:
    """Return the names of the functions in which a thread is."""
    frame, names = sys._current_frames()[thread], set()
    while frame is not None:
        names.add(frame.f_code.co_name)
        frame = frame.f_back
    return names


def interrupt_the_wait() -> threading.Thread:
    """Press Ctrl-C as soon as the main thread waits for an update."""
    main = threading.get_ident()

    def press() -> None:
        while "__next__" not in functions_of(main):
            pass
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupted_wait_loses_no_update():
    with (
        FakeCube() as cube,
        CubeClient(cube.url, cube.token()) as client,
        client.watch(QUERY) as updates,
    ):
        assert next(updates).first
        for number in range(3):
            interrupt = interrupt_the_wait()
            with pytest.raises(KeyboardInterrupt):
                next(updates)
            interrupt.join()
            cube.tables[EVENTS].insert(event(f"SP{number}"))
            assert senders(next(updates).added) == [f"SP{number}"]


@contextmanager
def interrupt_at(number: int, kinds: set[str]) -> Iterator[None]:
    """Raise KeyboardInterrupt at an event of the interpreter in the code of iterators.

    ``line`` is the beginning of a line, ``c_return`` the end of a call of a function in
    C: signals arrive there. At the first events no update has arrived.
    """
    left, code_of = number, updates_module.__file__

    def trace(frame, kind, _):
        nonlocal left
        if frame.f_code.co_filename == code_of and kind in kinds:
            left -= 1
            if not left:
                raise KeyboardInterrupt
        return trace

    set_trace, before = (
        (sys.settrace, sys.gettrace())
        if "line" in kinds
        else (sys.setprofile, sys.getprofile())
    )
    # Python drops what is raised in a finaliser, such as that of an iterator of before.
    gc.disable()
    set_trace(trace)
    try:
        yield
    finally:
        set_trace(before)
        gc.enable()


@pytest.mark.parametrize("kinds", [{"line"}, {"c_call", "c_return"}])
@pytest.mark.parametrize(
    "take", [next, lambda updates: updates.next(timeout=10)], ids=["iterate", "next"]
)
def test_an_interrupt_at_any_point_of_a_call_loses_and_repeats_nothing(kinds, take):
    with (
        FakeCube() as cube,
        CubeClient(cube.url, cube.token()) as client,
        client.watch(QUERY) as updates,
    ):
        assert next(updates).first
        for number in range(1, 1000):
            cube.tables[EVENTS].insert(event(f"SP{number}"))
            update = None
            try:
                with interrupt_at(number, kinds):
                    update = take(updates)
            except KeyboardInterrupt:
                assert senders(updates.next(timeout=10).added) == [f"SP{number}"]
            else:
                assert senders(update.added) == [f"SP{number}"]
                break
        assert number > 10


def test_an_interrupt_at_any_point_of_a_call_loses_and_repeats_no_error():
    refused = Query(measures=[Measure("nope.count")])
    with FakeCube() as cube, CubeClient(cube.url, cube.token()) as client:
        for number in range(1, 1000):
            with client.watch(refused) as updates:
                with (
                    pytest.raises((KeyboardInterrupt, QueryRejected)) as caught,
                    interrupt_at(number, {"c_call", "c_return"}),
                ):
                    updates.next(timeout=10)
                interrupted = caught.type is KeyboardInterrupt
                if interrupted:
                    with pytest.raises(QueryRejected):
                        updates.next(timeout=10)
                with pytest.raises(SubscriptionLost):
                    updates.next(timeout=10)
            if not interrupted:
                break
        assert number > 10


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_closes_everything():
    before = set(threading.enumerate())
    with FakeCube() as cube:
        with (
            pytest.raises(KeyboardInterrupt),
            CubeClient(cube.url, cube.token()) as client,
            client.watch(QUERY) as updates,
        ):
            assert next(updates).first
            interrupt = interrupt_the_wait()
            next(updates)
        interrupt.join()
        cube.wait_until(lambda: cube.connections == 0)
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("transport", ["auto", "rest"])
def test_a_provider_that_blocks_holds_nobody_up(transport):
    asked, release = threading.Event(), threading.Event()

    def provider() -> str:
        asked.set()
        release.wait(60)
        return "token"

    client = CubeClient("http://127.0.0.1:9", provider)
    with client, client.watch(QUERY, transport=transport) as updates:
        assert asked.wait(10)
        state = str(updates.state)
    assert not release.is_set()
    assert all(  # or the interpreter would wait for it in the end
        thread.daemon
        for thread in threading.enumerate()
        if thread.name == "token function"
    )
    assert state in {"connecting", "polling", "waiting"}
    release.set()


def test_threads_that_share_an_iterator_get_each_update_once():
    taken = []

    def take(updates) -> None:
        taken.append(senders(next(updates).added))

    with (
        FakeCube() as cube,
        CubeClient(cube.url, cube.token()) as client,
        client.watch(QUERY) as updates,
    ):
        assert next(updates).first
        threads = [threading.Thread(target=take, args=(updates,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for number in range(2):
            cube.tables[EVENTS].insert(event(f"SP{number}"))
            cube.wait_until(lambda number=number: len(taken) > number)
        for thread in threads:
            thread.join()
    assert sorted(taken) == [["SP0"], ["SP1"]]


def test_a_repr_names_the_server_and_says_how_it_is_connected():
    with FakeCube() as cube, CubeClient(cube.url, cube.token()) as client:
        server = cube.url.split("/")[2]
        with client.watch(QUERY) as updates:
            assert next(updates).first
            assert repr(updates) == f"<Updates of {server}, 1 query, live>"
        assert repr(updates) == f"<Updates of {server}, 1 query, closed>"


def test_a_repr_counts_the_queries():
    client = AsyncCubeClient("http://127.0.0.1:9", "s3cret")
    shown = repr(client.watch(QUERY, QUERY))
    assert shown == "<AsyncUpdates of 127.0.0.1:9, 2 queries, connecting>"
