"""Polling over REST: every failure is an outage, or is reported once, and it goes on."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from peers import peer
from watching import EVENTS, QUERY, Events, senders

from ortege_watch import (
    AsyncCubeClient,
    AuthenticationError,
    DecodeError,
    OrtegeWatchError,
    QueryRejected,
    Reconnect,
    TransportError,
)
from ortege_watch.testing import FakeCube

pytestmark = pytest.mark.anyio


def answer(body: str, status: int = 200, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "Connection: close", "", body]).encode()


def rows(*senders: str, at: str | None = None) -> bytes:
    data = [{Events.sender.name: s, Events.amount.name: "1"} for s in senders]
    part = {"data": data, "lastRefreshTime": at}
    return answer(json.dumps({"results": [part]}))


PAGE = "<html>come back later</html>"
DROP = b""


class Polls:
    """A server that answers with one response after another, the last one for ever."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.times: list[float] = []
        self.updates = None

    def switch(self, *answers: bytes) -> None:
        self.answers = list(answers)

    async def next(self):
        async with asyncio.timeout(10):
            return await anext(self.updates)

    async def after(self, clock, polls: int) -> None:
        """Move the clock until the server has got so many requests more."""
        until = len(self.times) + polls
        async with asyncio.timeout(10):
            while len(self.times) < until:
                await clock.wait_for_sleepers(1)
                await clock.advance(clock.sleepers[0])
                await asyncio.sleep(0.01)


@asynccontextmanager
async def polling(server: Polls, clock, *queries, client=None, **options):
    async def talk(request, reader, writer) -> None:
        server.times.append(clock.now())
        more = len(server.answers) > 1
        writer.write(server.answers.pop(0) if more else server.answers[0])
        await writer.drain()

    async with peer(talk) as url:
        cube = AsyncCubeClient(url, "a.token", clock=clock, **(client or {}))
        watch = cube.watch(*(queries or (QUERY,)), transport="rest", **options)
        async with cube, watch as server.updates:
            yield server


async def test_the_start_of_polling_and_its_recovery_are_logged(clock, caplog):
    caplog.set_level(logging.INFO, "ortege_watch.watch")
    async with polling(Polls(rows("SP1")), clock, *FIVE[:2]) as server:
        await server.next()
        for _ in range(2):
            server.switch(DROP)
            await server.after(clock, 4)
            server.switch(rows("SP1"))
            await server.after(clock, 4)
        await server.after(clock, 4)
    said = [
        record.message.split(": ", maxsplit=1)[1]
        for record in caplog.records
        if record.name == "ortege_watch.watch" and record.levelname == "INFO"
    ]
    name = f"[{EVENTS}.asset_amount, {EVENTS}.sender_address]"
    assert said == [
        f"polling query 1 {name}, query 2 {name} every 5 s",
        "polling works again",
        "polling works again",
        "closed",
    ]


FIVE = [QUERY.limit_to(number) for number in range(1, 6)]


async def test_attempts_are_rounds_and_not_queries(clock):
    only = Reconnect(attempts=5)
    async with polling(Polls(DROP), clock, *FIVE, reconnect=only) as server:
        ended = asyncio.create_task(server.next())
        while not ended.done():
            if clock.sleepers:
                await clock.advance(clock.sleepers[0])
            await asyncio.sleep(0.01)
        with pytest.raises(TransportError):
            await ended
    assert len(server.times) == 25
    assert server.times[-1] < 40


@pytest.mark.parametrize("queries", [1, 5])
async def test_a_server_that_drops_is_polled_seldom(queries, clock):
    async with polling(Polls(DROP), clock, *FIVE[:queries]) as server:
        while clock.now() < 60:
            await clock.wait_for_sleepers(1)
            await clock.advance(clock.sleepers[0])
            await asyncio.sleep(0.02)
    assert len({at for at in server.times if at < 60}) <= 10
    assert len([at for at in server.times if at < 60]) <= 10 * queries


BROKEN = {
    "a page": (answer(PAGE), DecodeError),
    "no results": (answer('{"results": []}'), DecodeError),
    "too large": (answer(json.dumps({"results": ["x" * 5000]})), DecodeError),
    "a page with 404": (answer(PAGE, 404), OrtegeWatchError),
    "a page with 500": (answer(PAGE, 500), OrtegeWatchError),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("callback", [False, True])
async def test_an_unusable_response_is_reported_once(case, callback, clock, caplog):
    broken, kind = BROKEN[case]
    errors = []
    options = {"on_error": errors.append} if callback else {}
    server = Polls(broken)
    async with polling(server, clock, client={"max_size": 2000}, **options) as server:
        if callback:
            waiting = asyncio.create_task(server.next())
            while not errors:
                await asyncio.sleep(0.01)
        else:
            with pytest.raises(kind) as caught:
                await server.next()
            errors.append(caught.value)
            waiting = asyncio.create_task(server.next())
        await server.after(clock, 5)
        gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
        assert gaps[-1] > 5.0  # with back-off
        server.switch(rows("SP1"))
        await server.after(clock, 1)
        assert senders((await waiting).added) == ["SP1"]
    assert [type(error) for error in errors] == [type(errors[0])]
    assert isinstance(errors[0], kind)
    assert errors[0].query is QUERY
    assert "query 1 [stacks_contract_events.asset_amount" in caplog.text


@pytest.mark.parametrize("status", [401, 403])
async def test_a_proxys_page_is_an_outage_once_polling_has_worked(
    status, clock, caplog
):
    async with polling(Polls(rows("SP1")), clock) as server:
        assert (await server.next()).first
        server.switch(answer(PAGE, status))
        await server.after(clock, 6)
        server.switch(rows("SP1", "SP2"))
        await server.after(clock, 1)
        update = await server.next()
        assert senders(update.added) == ["SP2"]
        assert update.resumed
    assert "come back later" in caplog.text


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (rows("SP1"), answer('{"error": "Invalid token"}', 403)),
        (answer(PAGE, 403), answer(PAGE, 403)),
    ],
)
async def test_a_refused_token_ends_polling(first, then, clock):
    async with polling(Polls(first), clock) as server:
        if first != then:
            await server.next()
            server.switch(then)
            await server.after(clock, 2)  # the token function is called again, once
        with pytest.raises(AuthenticationError):
            await server.next()


async def test_one_refusal_of_a_good_token_does_not_end_polling(clock, caplog):
    async with polling(Polls(rows("SP1")), clock) as server:
        assert (await server.next()).first
        server.switch(answer('{"error": "Invalid token"}', 403), rows("SP1", "SP2"))
        await server.after(clock, 2)
        assert senders((await server.next()).added) == ["SP2"]
    assert "Invalid token (status 403" in caplog.text


async def test_polling_backs_off_while_the_database_fails(clock, caplog):
    gone = answer('{"error": "Error: the database is gone"}', 400)
    async with polling(Polls(rows("SP1")), clock) as server:
        assert (await server.next()).first
        server.switch(gone)
        await server.after(clock, 8)
        with pytest.raises(QueryRejected, match="the database is gone"):
            await server.next()
        pauses = [b - a for a, b in pairwise(server.times)]
        assert pauses[-1] >= 30
        server.switch(rows("SP1", "SP2"))
        await server.after(clock, 1)
        assert senders((await server.next()).added) == ["SP2"]
    assert "polling works again" in caplog.text


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("value", "seconds"), [("86400", 300.0), ("42", 42.0)])
async def test_retry_after_is_respected_up_to_five_minutes(
    status, value, seconds, clock, caplog
):
    busy = answer("", status, Retry_After=value)
    async with polling(Polls(busy), clock) as server:
        await server.after(clock, 2)
        assert server.times[1] - server.times[0] == seconds
    assert f"asked to wait {value} s; next attempt in {seconds:g} s" in caplog.text
    assert "query 1 [" in caplog.text


async def test_a_token_function_that_hangs_once_costs_one_poll(caplog):
    hangs = [False, True]

    async def token() -> str:
        if hangs and hangs.pop(0):
            await asyncio.Event().wait()
        return cube.token()

    cube = FakeCube(websockets=False)
    with cube:
        client = AsyncCubeClient(cube.url, token, deadline=0.3)
        watch = client.watch(
            QUERY, transport="rest", poll_every=0.05, reconnect=Reconnect(base=0.05)
        )
        async with asyncio.timeout(10), client, watch as updates:
            assert (await anext(updates)).first
            for number in range(3):
                cube.tables[EVENTS].insert(
                    {"sender_address": f"SP{number}", "asset_amount": 1}
                )
                assert senders((await anext(updates)).added) == [f"SP{number}"]
    assert not hangs
    assert "next attempt in" in caplog.text


async def test_a_response_that_never_comes_costs_one_poll(clock, caplog):
    silent = asyncio.Event()
    answers = [rows("SP1"), None, rows("SP1", "SP2")]

    async def talk(request, reader, writer) -> None:
        response = answers.pop(0) if len(answers) > 1 else answers[0]
        if response is None:
            await silent.wait()
        writer.write(response)
        await writer.drain()

    async with peer(talk) as url:
        client = AsyncCubeClient(url, "a.token", timeout=0.2)
        watch = client.watch(
            QUERY, transport="rest", poll_every=0.05, reconnect=Reconnect(base=0.05)
        )
        async with asyncio.timeout(10), client, watch as updates:
            assert (await anext(updates)).first
            assert senders((await anext(updates)).added) == ["SP2"]
    assert "was silent for 0.2 s" in caplog.text


async def test_an_older_snapshot_is_held_while_polling_too(clock):
    new, old = "2026-11-22T06:00:09.000Z", "2026-11-22T06:00:01.000Z"
    server = Polls(rows("SP1", at=new))
    async with polling(server, clock, hold_stale_for=12.0) as server:
        assert not (await server.next()).stale
        server.switch(rows(at=old))
        waiting = asyncio.create_task(server.next())
        await server.after(clock, 3)
        assert not waiting.done()  # held for 10 s
        await server.after(clock, 1)
        update = await waiting
        assert senders(update.removed) == ["SP1"]
        assert update.stale


async def test_a_redirect_ends_polling_at_first_and_is_an_outage_later(clock):
    moved = answer("", 302, Location="https://elsewhere.example/")
    async with polling(Polls(moved), clock) as server:
        with pytest.raises(
            OrtegeWatchError, match=r"elsewhere\.example.*check the url"
        ):
            await server.next()
        with pytest.raises(StopAsyncIteration):
            await server.next()
    async with polling(Polls(rows("SP1")), clock) as server:
        assert (await server.next()).first
        server.switch(moved)
        await server.after(clock, 1)
        with pytest.raises(OrtegeWatchError, match="redirected"):
            await server.next()
        server.switch(rows("SP2"))
        await server.after(clock, 1)
        assert senders((await server.next()).added) == ["SP2"]


async def test_a_failure_of_one_query_does_not_delay_the_others(clock, caplog):
    with caplog.at_level(logging.WARNING, "ortege_watch.watch"):
        async with polling(Polls(rows("SP1"), DROP), clock, *FIVE[:2]) as server:
            await server.next()
            server.switch(rows("SP1"))
            await server.after(clock, 2)
    assert len({round(at) for at in server.times}) == 2
    assert max(server.times) == 5.0
