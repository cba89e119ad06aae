"""Refused upgrades, certificates, outdated snapshots and log lines, from end to end."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
import ssl
import time

import pytest
import trustme
from peers import peer, saying
from test_polling import PAGE, answer
from watching import EVENTS, QUERY, Events, senders, watching

from ortege_watch import (
    AsyncCubeClient,
    AuthenticationError,
    OrtegeWatchError,
    QueryRejected,
    Reconnect,
    TransportError,
)
from ortege_watch.testing import FakeCube

pytestmark = pytest.mark.anyio


def lines(caplog) -> list[str]:
    return [
        f"{record.levelname} {record.message}"
        for record in caplog.records
        if record.name == "ortege_watch.watch"
    ]


# ---------------------------------------------------------------- refused upgrades


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("86400", "", 300.0),
        ("42", "", 42.0),
        ("Thu, 26 Nov 2026 06:01:30 GMT", "Thu, 26 Nov 2026 06:00:00 GMT", 90.0),
    ],
)
async def test_retry_after_of_a_refused_upgrade_is_respected(
    status, value, date, seconds, clock, caplog
):
    headers = {"Retry_After": value} | ({"Date": date} if date else {})
    attempts = []

    async def talk(request, reader, writer) -> None:
        attempts.append(clock.now())
        writer.write(answer("", status, **headers))
        await writer.drain()

    async with peer(talk) as url:
        client = AsyncCubeClient(url, "a.token", clock=clock)
        async with client, client.watch(QUERY) as updates:
            await move(clock, updates, lambda: len(attempts) == 2)
    assert attempts[1] - attempts[0] == seconds
    said = "86400" if value == "86400" else f"{seconds:.0f}"
    assert f"asked to wait {said} s; next attempt in {seconds:g} s" in caplog.text


class Proxy:
    """Forwards connections to ``target``; refuses upgrades while there is none."""

    def __init__(self, target: FakeCube | None, refusal: bytes = b"") -> None:
        self.target = target
        self.refusal = refusal
        self.refused = 0

    async def __call__(self, request, reader, writer) -> None:
        if self.target is None:
            self.refused += 1
            writer.write(self.refusal)
            await writer.drain()
            return
        host, port = self.target.url.split("/")[2].split(":")
        inner_reader, inner_writer = await asyncio.open_connection(host, int(port))
        inner_writer.write(request)

        async def copy(source, target) -> None:
            while data := await source.read(65536):
                target.write(data)
            target.close()

        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))


async def move(clock, updates, until) -> None:
    """Move the clock from one sleeper to the next, until something is true.

    A socket that is being opened gets a second of real time before the clock moves on.
    """
    connecting = 0
    async with asyncio.timeout(30):
        while not until():
            connecting = connecting + 1 if updates.state == "connecting" else 0
            if clock.sleepers and connecting % 100 == 0:
                await clock.advance(clock.sleepers[0])
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_proxys_page_instead_of_an_upgrade_is_an_outage_later(status, clock):
    with FakeCube() as cube:
        proxy = Proxy(cube, answer(PAGE, status))
        async with peer(proxy) as url:
            client = AsyncCubeClient(url, cube.token(), clock=clock)
            async with client, client.watch(QUERY) as updates:
                assert (await anext(updates)).first
                proxy.target = None
                cube.close()
                await move(clock, updates, lambda: proxy.refused == 8)
                assert updates.state == "waiting"
                proxy.target = cube
                await move(clock, updates, lambda: updates.state == "live")


async def test_a_proxys_401_at_first_ends_it():
    async with peer(saying(answer(PAGE, 401), upgraded=False)) as url:
        client = AsyncCubeClient(url, "a.token")
        async with asyncio.timeout(10), client, client.watch(QUERY) as updates:
            with pytest.raises(AuthenticationError):
                await anext(updates)


# -------------------------------------------------------------------- certificates


@pytest.mark.parametrize("transport", ["websocket", "rest"])
async def test_a_refused_certificate_ends_it_at_first(transport):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    async def talk(reader, writer) -> None:
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        client = AsyncCubeClient(f"https://127.0.0.1:{port}", "a.token")
        watch = client.watch(QUERY, transport=transport)
        async with asyncio.timeout(10), client, watch as updates:
            with pytest.raises(TransportError) as caught:
                await anext(updates)
            with pytest.raises(StopAsyncIteration):
                await anext(updates)
    assert str(caught.value).startswith(f"127.0.0.1:{port}: certificate refused: ")
    assert "pass ssl=" in str(caught.value)


# --------------------------------------------------------------- outdated snapshots


def replica(*senders: str, behind: float) -> FakeCube:
    """Make one of two servers of a database, whose cache is so many seconds old."""
    cube = FakeCube(now=lambda: 1_800_000_000.0 - behind)
    cube.tables[EVENTS].insert(
        {"sender_address": sender, "asset_amount": 1} for sender in senders
    )
    return cube


@pytest.mark.parametrize("hold", [0, 12, 30])
async def test_after_a_failover_an_outdated_snapshot_is_held_and_then_marked(
    hold, clock
):
    fresh = replica("SP1", "SP2", behind=0.0)
    stale = replica("SP1", behind=60.0)
    with fresh, stale:
        proxy = Proxy(fresh)
        async with peer(proxy) as url:
            client = AsyncCubeClient(url, fresh.token(), clock=clock)
            watch = client.watch(QUERY, hold_stale_for=hold)
            async with client, watch as updates:
                assert not (await anext(updates)).stale
                proxy.target = stale
                fresh.close()
                waiting = asyncio.create_task(anext(updates))
                start = clock.now()
                await move(clock, updates, waiting.done)
                update = await waiting
    assert senders(update.removed) == ["SP2"]
    assert update.stale
    assert hold <= clock.now() - start <= hold + 25.0  # it moves while sockets open


async def test_a_row_is_not_removed_while_a_newer_snapshot_may_come(clock):
    fresh = replica("SP1", "SP2", behind=0.0)
    stale = replica("SP1", behind=60.0)
    with fresh, stale:
        proxy = Proxy(fresh)
        async with peer(proxy) as url:
            client = AsyncCubeClient(url, fresh.token(), clock=clock)
            async with client, client.watch(QUERY) as updates:
                assert len((await anext(updates)).added) == 2
                proxy.target = stale
                fresh.close()
                waiting = asyncio.create_task(anext(updates))
                seen = updates.last_seen
                await move(clock, updates, lambda: updates.last_seen > seen)
                fresh.tables[EVENTS].insert(
                    {"sender_address": "SP3", "asset_amount": 1}
                )
                proxy.target = fresh
                stale.close()
                await move(clock, updates, waiting.done)
                update = await waiting
    assert (senders(update.added), list(update.removed)) == (["SP3"], [])
    assert not update.stale


# ------------------------------------------------------------------------ log lines


async def test_the_story_of_a_connection_names_host_and_queries(caplog):
    caplog.set_level(logging.DEBUG, "ortege_watch.watch")
    cube = FakeCube()
    cube.continue_wait()
    queries = [QUERY.limit_to(number) for number in range(1, 8)]
    async with watching(*queries, cube=cube, reconnect=Reconnect(base=0.1)) as watch:
        for _ in queries:
            await watch.next()
        cube.close()
        await watch.states.reach("live", times=2)
    host = cube.url.split("/")[2]
    said = lines(caplog)
    name = (
        "[stacks_contract_events.asset_amount, stacks_contract_events.sender_address]"
    )
    first = f"INFO {host}: live, subscribed to query 1 {name}, query 2 {name}, "
    assert said[0] == f"DEBUG {host}: connecting"
    assert said[1].startswith(first)
    assert said[1].endswith(" and 2 more")
    assert f"DEBUG {host}: query 1 {name}: still running (Continue wait)" in said
    (lost,) = [line for line in said if "next attempt" in line]
    assert lost.startswith(f"WARNING {host}: the connection was lost")
    assert sum(line.startswith(first) for line in said) == 2


@pytest.mark.parametrize("transport", ["websocket", "rest"])
async def test_a_fixed_token_that_expires_is_warned_about_once(transport, caplog):
    cube = FakeCube()
    token = cube.token(expires_in=3600)
    reconnect = Reconnect(base=0.05)
    async with watching(
        cube=cube, token=token, transport=transport, reconnect=reconnect
    ) as watch:
        await watch.next()
        if transport == "websocket":
            cube.close()
            await watch.states.reach("live", times=2)
    (line,) = [line for line in lines(caplog) if "fixed string" in line]
    assert line.startswith(f"WARNING {cube.url.split('/')[2]}: the token is a fixed")
    assert time.strftime("%Y-", time.gmtime(time.time() + 3600)) in line
    assert token not in caplog.text


async def test_one_warning_about_a_token_is_enough_for_many_subscriptions(caplog):
    cube = FakeCube()
    token = cube.token(expires_in=3600)
    async with watching(cube=cube, token=token) as watch:
        await watch.next()
        async with watch.client.watch(QUERY.limit_to(1)) as another:
            await anext(another)
    assert caplog.text.count("fixed string") == 1


async def test_a_fixed_token_that_has_expired_is_said_to_have(caplog):
    cube = FakeCube()
    with pytest.raises(AuthenticationError):
        async with watching(cube=cube, token=cube.token(expires_in=-9)) as watch:
            await watch.next()
    assert "the token is a fixed string and expired at" in caplog.text


@pytest.mark.parametrize("expires", [None, 1e18])
async def test_a_token_that_does_not_expire_is_not_warned_about(expires, caplog):
    cube = FakeCube()
    async with watching(cube=cube, token=cube.token(expires_in=expires)) as watch:
        await watch.next()
    assert "fixed string" not in caplog.text


async def test_a_token_function_is_not_warned_about(caplog):
    cube = FakeCube()
    async with watching(cube=cube, token=lambda: cube.token(expires_in=3600)) as watch:
        assert (await watch.next()).query.measures == (Events.amount,)
    assert "fixed string" not in caplog.text


@pytest.mark.parametrize("transport", ["websocket", "rest"])
@pytest.mark.parametrize("callback", [False, True])
async def test_a_query_that_fails_is_logged_once(transport, callback, caplog):
    caplog.set_level(logging.INFO, "ortege_watch.watch")
    errors = []
    cube = FakeCube(tick=0.02)
    options = {"transport": transport, "poll_every": 0.02}
    options["reconnect"] = Reconnect(base=0.02, cap=0.02)
    if callback:
        options["on_error"] = errors.append
    async with watching(QUERY.limit_to(9), cube=cube, **options) as watch:
        await watch.next()
        for number in range(2):
            seen = len(cube.requests)
            cube.fail_query()
            if not callback:
                with pytest.raises(QueryRejected):
                    await watch.next()
            if transport == "rest":
                await asyncio.to_thread(
                    cube.wait_until, lambda n=seen: len(cube.requests) > n + 3
                )
            async with asyncio.timeout(10):
                while callback and len(errors) <= number:
                    await asyncio.sleep(0.01)
            cube.heal()
            watch.insert(f"SP{number}")
            await watch.next()
        cube.fail_query("'x' not found for path 'y.x'")
        with pytest.raises(QueryRejected):
            await watch.next()
    name = f"{cube.url.split('/')[2]}: query 1 [{EVENTS}.asset_amount, "
    said = [
        re.sub(", request [^)]*", "", line.split("]: ")[1])
        for line in lines(caplog)
        if f" {name}" in line and "still failing" not in line
    ]
    kinds = [
        line.split()[0]
        for line in lines(caplog)
        if "]: " in line and "still failing" not in line  # of each round of polls
    ]
    problem = "Error: the database is not there (status 400)"
    episode = [f"failed for now: {problem}", "works again"]
    refusal = "failed for good: 'x' not found for path 'y.x' (status 400)"
    assert said == [*episode, *episode, refusal]
    assert kinds == ["WARNING", "INFO", "WARNING", "INFO", "ERROR"]


@pytest.mark.parametrize("generation", ["strict", "classic"])
@pytest.mark.parametrize("transport", ["websocket", "rest"])
async def test_an_outdated_snapshot_is_logged(generation, transport, caplog):
    caplog.set_level(logging.DEBUG, "ortege_watch.watch")
    cube = FakeCube(generation, tick=0.02)
    hold = {"hold_stale_for": 0.2, "poll_every": 0.02}
    async with watching(cube=cube, transport=transport, **hold) as watch:
        assert not (await watch.next()).stale
        cube.serve_old(60)
        watch.insert("SP1")
        assert (await watch.next()).stale
        cube.heal()
        watch.insert("SP2")
        assert not (await watch.next()).stale
    said = [line for line in lines(caplog) if "snapshot" in line]
    name = f"{cube.url.split('/')[2]}: query 1 [{EVENTS}.asset_amount, {EVENTS}."
    assert [line.split(f" {name}sender_address]: ") for line in said] == [
        ["INFO", "older snapshot held for up to 0.2 s"],
        ["WARNING", "no newer snapshot: delivering an older one (update.stale)"],
    ]


# ------------------------------------------------------------------------- the end


@pytest.mark.parametrize("attempts", [1, 3])
@pytest.mark.parametrize("transport", ["websocket", "rest"])
async def test_the_end_says_how_many_attempts_failed(
    transport, attempts, clock, caplog
):
    asked = []

    async def talk(request, reader, writer) -> None:
        asked.append(request)

    async with peer(talk) as url:
        client = AsyncCubeClient(url, "a.token", clock=clock)
        only = Reconnect(attempts=attempts)
        async with (
            client,
            client.watch(QUERY, transport=transport, reconnect=only) as updates,
        ):
            await move(clock, updates, lambda: updates.state == "closed")
            with pytest.raises(TransportError):
                await anext(updates)
    assert len(asked) == attempts
    *retries, end = [line for line in lines(caplog) if line[0] in "WE"]
    assert len(retries) == attempts - 1
    said = {1: "1 failed attempt", 3: "3 failed attempts in a row"}[attempts]
    assert re.fullmatch(
        rf"ERROR {url[7:]}: the subscription has ended after {said}: [^:]*(: .*)?", end
    )
    assert end.count(url[7:]) == 1


# ------------------------------------------------------------- a refused token


def jwt(expires_at: int) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": expires_at}).encode())
    return f"eyJh.{claims.decode().rstrip('=')}.signature"


FIXED = "the token is a fixed string{}: pass a function that returns a new one"
THEN = " that expired at 2001-09-09T01:46:40+00:00"
TOKENS = {
    "fixed": ("a.fixed.token", FIXED.format("")),
    "expired": (jwt(1_000_000_000), FIXED.format(THEN)),
    "valid": (jwt(9_999_999_999), FIXED.format("")),
    "function": (lambda: "a.token", "the token function returned the same token again"),
}


@pytest.mark.parametrize("transport", ["websocket", "rest"])
@pytest.mark.parametrize("case", TOKENS)
async def test_a_refused_token_has_the_servers_reason_and_what_to_do(case, transport):
    token, advice = TOKENS[case]
    said = answer('{"error": "jwt expired"}', 401)
    async with peer(saying(said, upgraded=False)) as url:
        client = AsyncCubeClient(url, token)
        async with (
            asyncio.timeout(10),
            client,
            client.watch(QUERY, transport=transport) as updates,
        ):
            with pytest.raises(AuthenticationError) as caught:
                await anext(updates)
    assert caught.value.message == "jwt expired"
    assert re.fullmatch(
        rf"jwt expired \(status 401(, request [^ ]+)?\); {re.escape(advice)}",
        caught.value.text,
    )


async def test_a_token_that_the_handshake_refuses_has_the_same_advice():
    async with watching(token="a.fixed.token") as watch:
        with pytest.raises(AuthenticationError) as caught:
            await watch.next()
    assert caught.value.text == f"Invalid token (status 403); {FIXED.format('')}"


@pytest.mark.parametrize("status", [401, 503])
async def test_a_refused_upgrade_quotes_the_page(status, clock, caplog):
    page = f"<html><title>{'blocked ' * 40}"
    async with peer(saying(answer(page, status), upgraded=False)) as url:
        client = AsyncCubeClient(url, "a.token", clock=clock)
        only = Reconnect(attempts=1)
        async with client, client.watch(QUERY, reconnect=only) as updates:
            with pytest.raises(OrtegeWatchError) as caught:
                await anext(updates)
    said = f"refused the WebSocket with HTTP {status}: '{page[:200]}…'"
    assert said in caught.value.text
    assert "fixed string" not in caught.value.text
    assert said in caplog.text


# ------------------------------------------------------------------------ log lines


async def test_the_log_says_what_it_does(caplog):
    with FakeCube() as cube:
        for token in (cube.token, cube.token()):
            client = AsyncCubeClient(cube.url, token)
            caplog.set_level(logging.DEBUG, "ortege_watch.watch")
            caplog.clear()
            async with client, client.watch(QUERY) as updates:
                await anext(updates)
            said = [line.partition(": ")[2].split(",")[0] for line in lines(caplog)]
            calls = ["calling the token function"] if callable(token) else []
            assert said == [*calls, "connecting", "live", "closed"]
    levels = [each.levelname for each in caplog.records if "watch" in each.name]
    assert levels == ["DEBUG", "INFO", "INFO"]


async def test_a_poll_that_fails_again_does_not_repeat_the_text(clock, caplog):
    asked = []

    async def talk(request, reader, writer) -> None:
        asked.append(request)
        writer.write(answer(PAGE, 200))
        await writer.drain()

    async with peer(talk) as url:
        client = AsyncCubeClient(url, "a.token", clock=clock)
        async with client, client.watch(QUERY, transport="rest") as updates:
            await move(clock, updates, lambda: len(asked) == 4)
    said = [line for line in lines(caplog) if line.startswith("WARNING")]
    assert sum(PAGE[:20] in line for line in said) == 1
    assert all("still failing; next attempt in" in line for line in said[1:])
    assert len(said) >= 3
