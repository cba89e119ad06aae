"""Token functions that hang: every call is bounded, and starts one thread at most."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import re
import threading
import time
from functools import partial

import pytest

from ortege_watch import (
    AsyncCubeClient,
    CubeClient,
    DeadlineExceeded,
    Measure,
    OrtegeWatchError,
    Query,
    Retry,
)
from ortege_watch._http.conversation import Failure, GetToken, Reply, TimeBudget
from ortege_watch.cube.calls import Call, meta
from ortege_watch.errors import TransportError
from ortege_watch.testing import FakeCube

QUERY = Query(measures=[Measure("stacks_contract_events.count")])


class Provider:
    """A token function that hangs until it is released."""

    def __init__(self, token="token"):
        self.token = token
        self.calls = 0
        self.release = threading.Event()
        self.called = threading.Event()

    def __call__(self):
        self.calls += 1
        self.called.set()
        self.release.wait(5)
        return self.token


@pytest.fixture
def provider():
    provider = Provider()
    yield provider
    provider.release.set()


def test_a_hanging_function_does_not_outlive_the_deadline(provider):
    with (
        CubeClient("http://127.0.0.1:9", provider) as client,
        pytest.raises(DeadlineExceeded, match="token function has not returned"),
    ):
        client.load(QUERY, deadline=0.1)


async def test_a_hanging_async_function_does_not_outlive_the_deadline():
    cancelled = []

    async def provider():
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async with AsyncCubeClient("http://127.0.0.1:9", provider) as client:
        with pytest.raises(DeadlineExceeded, match="token function has not returned"):
            await client.load(QUERY, deadline=0.1)
    assert cancelled == [True]


@pytest.mark.parametrize(
    ("deadline", "within", "error", "text"),
    [
        (None, 30, TransportError, "token function did not return within 30 s"),
        (300, 30, TransportError, "token function did not return within 30 s"),
        (2, 2, DeadlineExceeded, "no response within 2 s; the token function"),
    ],
)
def test_a_token_function_has_half_a_minute(deadline, within, error, text):
    call = Call(
        api="https://host/v1",
        request_id="1",
        started=0.0,
        budget=TimeBudget(deadline=deadline),
        tokens=None,
    )
    conversation = meta(call)
    assert next(conversation) == GetToken(None, within)
    late = TransportError(f"the token function did not return within {within} s")
    with pytest.raises(error, match=text):
        conversation.send(Reply(now=within, outcome=Failure(error=late)))


def test_a_hanging_function_costs_one_thread(provider):
    with FakeCube() as cube, CubeClient(cube.url, provider) as client:
        provider.token = cube.token()
        for _ in range(3):
            with pytest.raises(DeadlineExceeded):
                client.meta(deadline=0.05)
        threads = [t for t in threading.enumerate() if t.name == "token function"]
        assert (provider.calls, len(threads), threads[0].daemon) == (1, 1, True)
        provider.release.set()
        client.meta()  # joins that call, or starts the next one
        client.meta()
        assert provider.calls > 1


def test_a_hanging_function_of_a_watch_costs_one_thread(provider):
    states = []
    with (
        CubeClient("http://127.0.0.1:9", provider) as client,
        client.watch(QUERY, on_state=states.append),
        client.watch(QUERY, on_state=states.append),
    ):
        assert provider.called.wait(5)
        with pytest.raises(DeadlineExceeded):
            client.load(QUERY, deadline=0.05)
        until = time.monotonic() + 5
        while len(states) < 2 and time.monotonic() < until:
            provider.called.wait(0.01)
        threads = [t for t in threading.enumerate() if t.name == "token function"]
        assert len(threads) == provider.calls == 1


def test_a_function_sees_the_context_of_its_caller():
    user = contextvars.ContextVar("user")
    seen = []

    def provider():
        seen.append(user.get())
        return "token"

    user.set("alice")
    retry = Retry(attempts=1)
    with (
        CubeClient("http://127.0.0.1:9", provider, retry=retry) as client,
        pytest.raises(TransportError),
    ):
        client.meta()
    assert set(seen) == {"alice"}


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_an_exit_in_the_function_reaches_the_caller(kind):
    def provider():
        raise kind

    with CubeClient("http://127.0.0.1:9", provider) as client, pytest.raises(kind):
        client.load(QUERY, deadline=5)


async def refreshed_by_a_task_that_was_cancelled():
    task = asyncio.ensure_future(asyncio.sleep(60))
    task.cancel()
    await task
    return "a.token"


async def test_a_cancellation_that_comes_from_the_function_is_its_failure():
    with FakeCube() as cube:
        client = AsyncCubeClient(cube.url, refreshed_by_a_task_that_was_cancelled)
        async with asyncio.timeout(10), client, client.watch(QUERY) as updates:
            with pytest.raises(OrtegeWatchError, match="token function was cancelled"):
                await client.load(QUERY)
            with pytest.raises(OrtegeWatchError, match="token function was cancelled"):
                await anext(updates)


def test_a_cancellation_in_a_plain_function_is_its_failure():
    def cancelled():
        raise asyncio.CancelledError

    with (
        CubeClient("http://127.0.0.1:9", cancelled) as client,
        pytest.raises(OrtegeWatchError, match="token function was cancelled"),
    ):
        client.load(QUERY)


# -------------------------------------------------------------------- where it failed


def in_the_vault():
    json.loads("{not json: s3cret}")  # fails in the standard library


async def async_vault():
    in_the_vault()


class Bare:
    def __call__(self):
        raise ValueError("s3cret")


def line_of(function, text: str) -> int:
    lines, first = inspect.getsourcelines(function)
    return first + next(n for n, line in enumerate(lines) if text in line)


PLACES = {
    "own": (in_the_vault, "JSONDecodeError", line_of(in_the_vault, "json.loads")),
    "async": (async_vault, "JSONDecodeError", line_of(in_the_vault, "json.loads")),
    "object": (Bare(), "ValueError", line_of(Bare, "raise")),
}


@pytest.mark.parametrize(
    ("case", "sync"),
    [
        (case, sync)
        for case in PLACES
        for sync in (True, False)
        if case != "async" or not sync
    ],
)
@pytest.mark.anyio
async def test_a_failure_names_the_type_and_the_line_but_no_text(case, sync):
    function, kind, line = PLACES[case]
    where = f"the token function failed: {kind} at test_token_source.py:{line}"
    with FakeCube() as cube, pytest.raises(OrtegeWatchError) as caught:
        if sync:
            CubeClient(cube.url, function).load(QUERY)
        else:
            await AsyncCubeClient(cube.url, function).load(QUERY)
    assert caught.value.text == where


def used_up() -> str:
    return next(iter(()))


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("transport", ["load", "rest", "auto"])
@pytest.mark.anyio
async def test_a_function_without_a_further_token_fails_at_once(transport, sync):
    async def fail() -> None:
        async with AsyncCubeClient("http://127.0.0.1:9", used_up) as client:
            if transport == "load":
                await client.load(QUERY)
            async with client.watch(QUERY, transport=transport) as updates:
                await anext(updates)

    def fail_in_thread() -> None:
        with CubeClient("http://127.0.0.1:9", used_up) as client:
            if transport == "load":
                client.load(QUERY)
            with client.watch(QUERY, transport=transport) as updates:
                updates.next(timeout=5)

    with pytest.raises(OrtegeWatchError) as caught:
        if sync:
            fail_in_thread()
        else:
            async with asyncio.timeout(5):
                await fail()
    line = line_of(used_up, "next")
    where = f"StopIteration at test_token_source.py:{line}"
    assert caught.value.text == f"the token function failed: {where}"
    assert type(caught.value.__cause__) is StopIteration


def test_a_failure_in_a_library_that_was_passed_names_the_library():
    with FakeCube() as cube, pytest.raises(OrtegeWatchError) as caught:
        CubeClient(cube.url, partial(json.loads, "{")).load(QUERY)
    assert re.fullmatch(
        r"the token function failed: JSONDecodeError at __init__\.py:\d+",
        caught.value.text,
    )


def test_a_failure_without_a_line_has_none():
    with FakeCube() as cube, pytest.raises(OrtegeWatchError) as caught:
        CubeClient(cube.url, partial(int, "x")).load(QUERY)
    assert caught.value.text == "the token function failed: ValueError"
