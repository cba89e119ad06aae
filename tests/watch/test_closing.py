"""Closing: by other threads and tasks, by signals, with the client, and by nobody."""

from __future__ import annotations

import asyncio
import copy as copy_module
import gc
import pickle
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from watching import EVENTS, QUERY, senders

from ortege_watch import (
    AsyncCubeClient,
    CubeClient,
    DeadlineExceeded,
    InvalidArgument,
    Measure,
    OrtegeWatchError,
    Query,
    QueryRejected,
    SubscriptionLost,
    TransportError,
)
from ortege_watch.testing import FakeCube

pytestmark = pytest.mark.anyio
transports = pytest.mark.parametrize("transport", ["websocket", "rest"])
both = pytest.mark.parametrize("sync", [True, False], ids=["threads", "tasks"])


@pytest.fixture
def cube() -> Iterator[FakeCube]:
    with FakeCube() as fake:
        yield fake


@pytest.fixture
def client(cube) -> Iterator[CubeClient]:
    with CubeClient(cube.url, cube.token()) as client:
        yield client


def insert(cube: FakeCube, *names: str) -> None:
    for name in names:
        row = {"sender_address": name, "function_name": "x", "asset_amount": 3}
        cube.tables[EVENTS].insert(row)


class Iteration(threading.Thread):
    """A thread that iterates, and what it got in the end."""

    def __init__(self, updates):
        super().__init__(daemon=True)
        self.updates = updates
        self.first = threading.Event()
        self.end = "running"
        self.start()

    def run(self) -> None:
        try:
            for _ in self.updates:
                self.first.set()
        except BaseException as error:  # noqa: BLE001
            self.end = repr(error)
        else:
            self.end = "ended"

    def wait(self) -> str:
        self.join(10)
        return self.end


# ------------------------------------------------------------------------ threads


@transports
def test_closing_in_another_thread_ends_the_loop(cube, client, transport):
    with client.watch(QUERY, transport=transport) as updates:
        iterations = [Iteration(updates) for _ in range(2)]
        cube.wait_until(lambda: any(each.first.is_set() for each in iterations))
        updates.close()
        assert [each.wait() for each in iterations] == ["ended", "ended"]
        assert list(updates) == []
        assert updates.state == "closed"


def test_closing_while_updates_arrive_ends_the_loop(cube, client):
    stopped = threading.Event()

    def feed() -> None:
        number = 0
        while not stopped.is_set():
            insert(cube, f"SP{number}")
            number = (number + 1) % 50

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        for _ in range(10):
            with client.watch(QUERY) as updates:
                iteration = Iteration(updates)
                assert iteration.first.wait(10)
                updates.close()
                assert iteration.wait() == "ended"
    finally:
        stopped.set()
        feeder.join()


def test_closing_at_once_and_again(client):
    updates = client.watch(QUERY)
    updates.close()
    updates.close()
    assert updates.state == "closed"
    assert list(updates) == []
    with pytest.raises(InvalidArgument, match=r"is closed; call watch\(\) again"):
        updates.__enter__()
    with client.watch(QUERY) as updates:
        closing = [threading.Thread(target=updates.close) for _ in range(3)]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join(10)
        assert not any(thread.is_alive() for thread in closing)
        assert list(updates) == []


def test_a_subscription_is_entered_once(client):
    with client.watch(QUERY) as updates:
        with pytest.raises(InvalidArgument, match="only once"):
            updates.__enter__()
        assert next(updates).first


def test_a_signal_handler_may_close(client):
    main = threading.get_ident()
    before = signal.signal(signal.SIGUSR1, lambda *_: updates.close())
    try:
        with client.watch(QUERY) as updates:
            assert next(updates).first
            sender = threading.Thread(
                target=press_when_waiting, args=(main, signal.SIGUSR1)
            )
            sender.start()
            assert list(updates) == []
            sender.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def press_when_waiting(thread: int, number: int) -> None:
    """Send a signal to a thread as soon as it waits for an update."""
    while "__next__" not in functions_of(thread):
        pass
    signal.pthread_kill(thread, number)


def functions_of(thread: int) -> set[str]:
    frame, names = sys._current_frames()[thread], set()
    while frame is not None:
        names.add(frame.f_code.co_name)
        frame = frame.f_back
    return names


def test_a_callback_may_close_but_not_take_updates(client):
    refused = []

    def on_state(state) -> None:
        if state == "live":
            try:
                next(updates)
            except InvalidArgument as error:
                refused.append(str(error))
            updates.close()

    updates = client.watch(QUERY, on_state=on_state)
    with updates:
        assert list(updates) == []
    assert refused == ["updates cannot be taken in a callback"]


def test_a_callback_that_blocks_does_not_hold_up_closing(cube, client, caplog):
    blocked, release = threading.Event(), threading.Event()

    def on_state(state) -> None:
        if state == "live":
            blocked.set()
            release.wait(30)

    with client.watch(QUERY, on_state=on_state) as updates:
        iteration = Iteration(updates)
        assert blocked.wait(10)
        updates.close()
        assert iteration.wait() == "ended"
        assert not release.is_set()
        release.set()
    host = cube.url.split("/")[2]
    assert f"{host}: the thread of the subscription has not ended within" in caplog.text


def test_next_has_a_time_limit_and_loses_nothing(cube, client):
    with client.watch(QUERY) as updates:
        assert updates.next(timeout=10).first
        with pytest.raises(DeadlineExceeded, match=r": no update within 0\.01 s$"):
            updates.next(timeout=0.01)
        insert(cube, "SP1")
        assert senders(updates.next().added) == ["SP1"]
        for timeout in (0, -1, "1", True):
            with pytest.raises(InvalidArgument, match="timeout must be greater than 0"):
                updates.next(timeout=timeout)
        insert(cube, "SP2")
        assert senders(next(updates).added) == ["SP2"]
    with pytest.raises(SubscriptionLost, match="is closed; call watch"):
        updates.next(timeout=1)
    with pytest.raises(InvalidArgument, match="before iterating"):
        client.watch(QUERY).next(timeout=1)


# ---------------------------------------------------------------- with the client


@transports
def test_closing_the_client_ends_its_subscriptions(cube, transport):
    client = CubeClient(cube.url, cube.token())
    unused = client.watch(QUERY)
    with client.watch(QUERY, transport=transport) as updates:
        iteration = Iteration(updates)
        assert iteration.first.wait(10)
        client.close()
        assert iteration.wait() == "ended"
        assert list(updates) == []
        assert updates.state == "closed"
    cube.wait_until(lambda: cube.connections == 0)
    with pytest.raises(InvalidArgument, match="is closed"):
        unused.__enter__()


@transports
async def test_closing_the_client_ends_its_subscriptions_in_tasks(cube, transport):
    before = asyncio.all_tasks()
    client = AsyncCubeClient(cube.url, cube.token())
    unused = client.watch(QUERY)
    async with (
        client.watch(QUERY, transport=transport) as updates,
        client.watch(QUERY) as other,
    ):
        assert (await anext(updates)).first
        waiting = asyncio.create_task(anext(updates, "ended"))
        await asyncio.sleep(0)
        await client.aclose()
        async with asyncio.timeout(10):
            assert await waiting == "ended"
        assert updates.state == other.state == "closed"
        assert [update async for update in other] == []
        assert asyncio.all_tasks() == before
    with pytest.raises(InvalidArgument, match="is closed"):
        await unused.__aenter__()
    assert [update async for update in unused] == []


async def test_closing_the_http_client_ends_polling_with_an_error(cube):
    mine = httpx.AsyncClient()
    async with (
        AsyncCubeClient(cube.url, cube.token(), http=mine) as client,
        client.watch(QUERY, transport="rest", poll_every=0.01) as updates,
    ):
        assert (await anext(updates)).first
        await mine.aclose()
        with pytest.raises(SubscriptionLost, match="passed as http= is closed"):
            async with asyncio.timeout(10):
                await anext(updates)
        assert updates.state == "closed"


# ---------------------------------------------------------- exits of the program


class Bot:
    """A program that iterates, over threads or over tasks."""

    def __init__(self, cube: FakeCube, *, sync: bool):
        self.cube = cube
        self.sync = sync

    def run(self, token: object, stop: Callable[[], bool] = bool, **options) -> None:
        """Take updates; end where the program ends."""
        if self.sync:
            with (
                CubeClient(self.cube.url, token) as client,
                client.watch(QUERY, **options) as updates,
            ):
                while not stop():
                    updates.next(timeout=10)
        else:
            asyncio.run(self._run(token, stop, options))

    async def _run(self, token, stop, options) -> None:
        async with (
            AsyncCubeClient(self.cube.url, token) as client,
            client.watch(QUERY, **options) as updates,
            asyncio.timeout(10),
        ):
            while not stop():
                await anext(updates)


def leave(*_) -> None:
    sys.exit("my own reason")


def interrupt(*_) -> None:
    raise KeyboardInterrupt


@both
@transports
@pytest.mark.parametrize("call", [leave, interrupt])
@pytest.mark.parametrize("where", ["on_state", "on_error", "token"])
def test_an_exit_in_a_callback_reaches_the_caller(cube, sync, transport, call, where):
    expected = SystemExit if call is leave else KeyboardInterrupt
    bot, before = Bot(cube, sync=sync), set(threading.enumerate())
    cube.fail_query("Error: the database is gone", times=1)
    with pytest.raises(expected) as caught:
        if where == "token":
            bot.run(call, transport=transport)
        else:
            bot.run(cube.token(), transport=transport, **{where: call})
    assert call is interrupt or caught.value.code == "my own reason"
    cube.wait_until(lambda: cube.connections == 0)
    assert [t for t in set(threading.enumerate()) - before if not t.daemon] == []


@both
def test_an_exit_while_leaving_is_not_swallowed(cube, sync):
    def on_state(state) -> None:
        if state == "closed":
            sys.exit(3)

    with pytest.raises(SystemExit) as caught:
        Bot(cube, sync=sync).run(cube.token(), lambda: True, on_state=on_state)
    assert caught.value.code == 3


@both
def test_an_error_in_a_callback_while_leaving_is_logged(cube, sync, caplog):
    def on_state(state) -> None:
        if state == "closed":
            raise ZeroDivisionError

    Bot(cube, sync=sync).run(cube.token(), lambda: True, on_state=on_state)
    assert (
        "ended and is not retried: the callback on_state failed: ZeroDivisionError"
        " at test_closing.py:" in caplog.text
    )


# --------------------------------------------------------------------- by nobody


DESCRIPTORS = Path("/proc/self/fd")
on_linux = pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="needs /proc")


def descriptors() -> int:
    return len(list(DESCRIPTORS.iterdir()))


@contextmanager
def unclosed() -> Iterator[None]:
    """Expect one warning about a subscription that nobody closed."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        gc.collect()
    texts = [str(each.message) for each in caught]
    assert [
        text
        for text in texts
        if re.match(r"unclosed <(Async)?Updates of .*>: close it", text)
    ] == texts
    assert len(texts) == 1
    assert caught[0].category is ResourceWarning


@on_linux
@transports
def test_a_dropped_subscription_warns_and_is_cleaned_up(cube, client, transport):
    before = set(threading.enumerate())
    client.load(QUERY)
    client.watch(QUERY, transport=transport)  # never entered: nothing to clean up
    opened = descriptors()
    with unclosed():
        updates = client.watch(QUERY, transport=transport).__enter__()
        assert next(updates).first
        del updates
        gc.collect()
        cube.wait_until(lambda: set(threading.enumerate()) <= before)
        cube.wait_until(lambda: descriptors() <= opened)


@on_linux
async def test_a_dropped_subscription_warns_and_ends_its_tasks(cube):
    async with AsyncCubeClient(cube.url, cube.token()) as client:
        before, opened = asyncio.all_tasks(), descriptors()
        with unclosed():
            updates = await client.watch(QUERY).__aenter__()
            assert (await anext(updates)).first
            del updates
            gc.collect()
            async with asyncio.timeout(10):
                while asyncio.all_tasks() != before:
                    await asyncio.sleep(0)
        await cube.wait_until_async(lambda: descriptors() <= opened)


def test_a_subscription_is_used_in_one_event_loop(cube):
    async def enter():
        return await AsyncCubeClient(cube.url, cube.token()).watch(QUERY).__aenter__()

    async def use(updates) -> None:
        with pytest.raises(OrtegeWatchError, match="another event loop"):
            await anext(updates)
        await updates.aclose()  # its event loop has ended everything
        assert updates.state == "closed"

    asyncio.run(use(asyncio.run(enter())))


def test_an_interrupted_start_of_the_thread_hides_no_ctrl_c(client):
    """A thread that was not started cannot be joined."""

    def interrupt(frame, event, _) -> None:
        if frame.f_code is threading.Thread.start.__code__:
            sys.setprofile(None)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), client:
        updates = client.watch(QUERY)
        sys.setprofile(interrupt)
        with updates:
            pytest.fail("it was interrupted")


# ------------------------------------------------------------------- a wait's limit


@pytest.mark.parametrize("transport", ["websocket", "rest"])
def test_a_wait_that_is_too_long_says_why(transport):
    with FakeCube() as cube:
        url = cube.url
    host = url.removeprefix("http://").split("/")[0]
    with (
        CubeClient(url, "a.token") as client,
        client.watch(QUERY, transport=transport) as updates,
        pytest.raises(DeadlineExceeded) as caught,
    ):
        updates.next(timeout=0.3)
    state = "polling" if transport == "rest" else "waiting"
    words = f"no update within 0.3 s; {state} after: cannot connect: "
    assert str(caught.value).startswith(f"{host}: {words}")
    assert isinstance(caught.value.__cause__, TransportError)


def test_a_wait_that_is_too_long_on_a_live_connection_has_no_reason(cube, client):
    with client.watch(QUERY) as updates:
        assert updates.next(timeout=10).first
        cube.drop()
        cube.wait_until(lambda: len(cube.attempts) == 2)
        cube.wait_until(lambda: updates.state == "live")
        with pytest.raises(DeadlineExceeded) as caught:
            updates.next(timeout=0.1)
    assert caught.value.text == "no update within 0.1 s"
    assert caught.value.__cause__ is None


def test_the_end_of_a_wait_says_whether_it_was_closed(cube, client):
    refused = Query(measures=[Measure("nope.count")])
    with client.watch(QUERY) as updates, client.watch(refused) as ended:
        with pytest.raises(QueryRejected):
            ended.next(timeout=10)
        with pytest.raises(SubscriptionLost, match="subscription has ended; call"):
            ended.next(timeout=10)
        updates.close()
        with pytest.raises(SubscriptionLost, match="subscription is closed; call"):
            updates.next(timeout=10)


@both
def test_a_subscription_cannot_be_pickled_or_copied(sync, cube):
    kind = CubeClient if sync else AsyncCubeClient
    updates = kind(cube.url, cube.token()).watch(QUERY)
    problem = (
        f"{type(updates).__name__} cannot be pickled or copied; create one in each"
    )
    for copy in (pickle.dumps, copy_module.copy, copy_module.deepcopy):
        with pytest.raises(TypeError, match=problem):
            copy(updates)
