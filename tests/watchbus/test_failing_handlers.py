"""Handlers that fail under load, over HTTP and over a channel, from outbox to handler."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

import httpx
import pytest
from channels import CREDENTIALS, PATH, alert, number_of, verifier
from serving import served

from ortege_watch import Reconnect, Retry
from ortege_watch.watchbus import (
    AlertChannel,
    AsyncAlertPublisher,
    Outbox,
    RejectAlert,
    alert_app,
    read_alerts,
    serve_alert_channel,
)
from ortege_watch.watchbus.wire import ResultCode, error_answer, ok_answer

pytestmark = pytest.mark.anyio


class Times:
    """Unix seconds, which the test lets pass quickly: alerts are soon sent again."""

    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Hasty:
    """A clock whose pauses are short, so that an outbox is looked at often."""

    now = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 50)


@pytest.fixture
def times() -> Times:
    return Times()


@asynccontextmanager
async def over_http(handler, outbox) -> AsyncIterator[Callable]:
    retry = Retry(attempts=1, base=0.001, cap=0.002)
    with served(alert_app(verifier(), handler)) as client:
        async with (
            AsyncAlertPublisher(
                str(client.base_url), CREDENTIALS, outbox=outbox, path=PATH, retry=retry
            ) as publisher,
            asyncio.TaskGroup() as tasks,
        ):
            sending = tasks.create_task(publisher.run(poll_every=0.01))
            yield publisher.enqueue
            sending.cancel()


@asynccontextmanager
async def over_a_channel(handler, outbox) -> AsyncIterator[Callable]:
    retry = Reconnect(base=0.001, cap=0.002)
    async with (
        serve_alert_channel(verifier(), handler) as server,
        AlertChannel(
            server.url,
            CREDENTIALS,
            outbox=outbox,
            reconnect=retry,
            clock=Hasty(),
            ping_every=5000,
            pong_within=5000,
        ) as channel,
    ):
        yield channel.enqueue


async def until_empty(outbox: Outbox, times: Times) -> None:
    async with asyncio.timeout(60):
        while len(outbox):
            times.now += 10
            await asyncio.sleep(0.005)


connections = pytest.mark.parametrize("connected", [over_http, over_a_channel])


@connections
async def test_alerts_are_handled_once_though_a_tenth_of_the_calls_fail(
    connected, tmp_path, times
):
    random, taken, failures = Random(7), [], []

    async def handler(each) -> None:
        if random.random() < 0.1:
            failures.append(number_of(each))
            raise RuntimeError("not now")
        taken.append(number_of(each))

    with Outbox(tmp_path / "outbox.db", now=times) as outbox:
        async with connected(handler, outbox) as enqueue:
            lists = [
                [alert(first + n) for n in range(10)] for first in range(0, 500, 10)
            ]
            await asyncio.gather(*map(enqueue, lists))
            await until_empty(outbox, times)
            await enqueue([alert(500)])  # it still works
            await until_empty(outbox, times)
        assert outbox.dead == []
    assert sorted(taken) == list(range(501))
    assert len(failures) > 20


@connections
@pytest.mark.parametrize(
    ("error", "reason", "attempts"),
    [
        (ValueError("oops"), "an alert was not handled", 3),
        (RejectAlert("unknown token"), "unknown token", 1),
    ],
)
async def test_of_many_alerts_one_that_always_fails_becomes_a_dead_letter(
    connected, tmp_path, times, error, reason, attempts
):
    taken = []

    async def handler(each) -> None:
        if number_of(each) == 123:
            raise error
        taken.append(number_of(each))

    with Outbox(tmp_path / "outbox.db", max_attempts=3, now=times) as outbox:
        async with connected(handler, outbox) as enqueue:
            await enqueue([alert(n) for n in range(250)])
            async with asyncio.timeout(60):
                while not outbox.dead:  # an attempt counts if others are sent
                    await enqueue([alert(1000 + len(taken))])
                    times.now += 10
                    await asyncio.sleep(0.005)
            await until_empty(outbox, times)
        [dead] = outbox.dead
    assert sorted(n for n in taken if n < 1000) == [n for n in range(250) if n != 123]
    assert number_of(dead.alert) == 123
    assert (dead.reason, dead.attempts) == (reason, attempts)


class BusyClock:
    """A clock that moves with each look at it, and over each pause."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        self.time += 0.01
        return self.time

    def unix(self) -> float:
        return 1_700_000_000 + self.now()

    async def sleep(self, seconds: float) -> None:
        self.time += seconds
        await asyncio.sleep(0)


class FailingBus(httpx.AsyncBaseTransport):
    """A bus that fails on the alerts whose numbers are odd, and takes the others."""

    def __init__(self, clock: BusyClock, status: int, **headers: str) -> None:
        self.clock, self.status, self.headers = clock, status, headers
        self.taken: dict[int, float] = {}  # when each alert was, by its number

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.clock.time += 0.01
        numbers = [number_of(each) for each in read_alerts(await request.aread())]
        if any(number % 2 for number in numbers):
            body = error_answer(ResultCode.SERVER_ERROR, "an alert was not handled")
            return httpx.Response(self.status, headers=self.headers, content=body)
        self.taken |= dict.fromkeys(numbers, self.clock.time)
        return httpx.Response(200, content=ok_answer())


@pytest.mark.parametrize(
    ("status", "headers"), [(500, {}), (503, {"Retry-After": "30"})]
)
async def test_many_alerts_that_always_fail_stop_no_others(tmp_path, status, headers):
    clock = BusyClock()
    bus = FailingBus(clock, status, **headers)
    bad = [alert(2 * n + 1) for n in range(300)]
    good = [alert(2 * n) for n in range(30)]
    options = {"http": bus, "clock": clock, "path": PATH}
    with Outbox(tmp_path / "outbox.db", max_attempts=3, now=clock.unix) as outbox:
        async with (
            AsyncAlertPublisher(
                "http://bus", CREDENTIALS, outbox=outbox, **options
            ) as publisher,
            asyncio.TaskGroup() as tasks,
        ):
            await publisher.enqueue([*bad, *good])
            sending = tasks.create_task(publisher.run(poll_every=0.0001))
            async with asyncio.timeout(60):
                while len(bus.taken) < len(good) and clock.time < 600:
                    await asyncio.sleep(0)
                in_time, later = len(bus.taken), 1000
                while in_time == len(good) and len(outbox.dead) < len(bad):
                    begun = clock.time
                    await publisher.enqueue([alert(later)])  # so that failures count
                    while later not in bus.taken:
                        await asyncio.sleep(0)
                    assert bus.taken[later] - begun < 60
                    later += 2
                while in_time == len(good) and len(outbox):
                    await asyncio.sleep(0)
            sending.cancel()
        assert in_time == len(good)
        assert {each.attempts for each in outbox.dead} == {3}
