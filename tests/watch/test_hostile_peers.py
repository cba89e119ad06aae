"""Peers that send garbage, and words that hold the token: nothing ends, nothing leaks."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback

import pytest
from peers import HANDSHAKE, frame, peer, saying
from watching import FUNCTIONS, QUERY, States

from ortege_watch import (
    AsyncCubeClient,
    AuthenticationError,
    DecodeError,
    OrtegeWatchError,
    Reconnect,
    SubscriptionLost,
)
from ortege_watch.testing import FakeCube, ManualClock

pytestmark = pytest.mark.anyio

TOKEN = "s3cret.s3cret.s3cret"


def closing(code: int, reason: bytes = b"") -> bytes:
    return frame(code.to_bytes(2, "big") + reason, opcode=8)


async def watched(talk, **options) -> tuple[list[str], OrtegeWatchError | None]:
    """Watch until the subscription waits for its next attempt, or ends."""
    states = States()
    async with peer(talk) as url, AsyncCubeClient(url, TOKEN) as client:
        watch = client.watch(QUERY, on_state=states, **options)
        async with asyncio.timeout(20), watch as updates:
            waiting = asyncio.create_task(states.reach("waiting"))
            iterating = asyncio.create_task(anext(updates))
            await asyncio.wait(
                [waiting, iterating], return_when=asyncio.FIRST_COMPLETED
            )
            waiting.cancel()
            if not iterating.done():
                iterating.cancel()
                return list(states), None
            error = iterating.exception()
            assert isinstance(error, OrtegeWatchError)
            return list(states), error


def ending(data: bytes):
    async def talk(request, reader, writer) -> None:
        writer.write(data)
        await writer.drain()

    return talk


# ------------------------------------------------------------------------- garbage


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\x01 garbage\r\n\r\n",
        b"HTTP/1.1 101 Swi",
        b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
    ],
)
async def test_garbage_instead_of_an_upgrade_is_an_outage(data):
    states, error = await watched(ending(data))
    assert (states[-1], error) == ("waiting", None)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff\xff",
        frame(b"{}", flags=0x80 | 0x40),
        frame(b"{}", opcode=5),
        frame(b"{}", opcode=0),
        frame(b"x" * 200, opcode=9),
        frame(b"\xff\xfe"),
        frame(b"x", opcode=8),
        closing(1000),
        closing(1001),
        closing(1008, b"policy"),
        closing(1011),
        closing(4401, b"who are you"),
        closing(999),
        frame(b"null"),
        frame(b"5"),
        frame(b""),
        frame(b"[" * 100_000),
        frame(b'{"messageId":"1","status":null,"message":{"data":[]}}'),
        frame(b'{"messageId":true,"message":[],"status":"x"}'),
    ],
)
async def test_garbage_on_a_live_socket_is_an_outage(data):
    states, error = await watched(saying(frame(HANDSHAKE), data))
    assert (states, error) == (["connecting", "live", "waiting"], None)


@pytest.mark.parametrize(
    "message",
    [
        b'{"data":[{"a.b":"\\ud800"}]}',  # what JSON.stringify makes of half a character
        b'{"data":[{"a.b":"\xff"}]}',
        b'{"data":[{"a.b":' + b"[" * 5000 + b"]" * 5000 + b"}]}",
        b'{"error":"\\ud800"},"status":400',
        b'{"data":[',
    ],
)
async def test_an_unreadable_answer_is_an_error_of_its_query_alone(message, caplog):
    unreadable = frame(b'{"messageId":"1","message":' + message + b"}")
    good = frame(b'{"messageId":"2","message":{"data":[{"a.b":"x"}]}}')
    states, errors = States(), []
    talk = saying(frame(HANDSHAKE), unreadable, unreadable, good)
    async with peer(talk) as url, AsyncCubeClient(url, TOKEN) as client:
        watch = client.watch(QUERY, FUNCTIONS, on_state=states, on_error=errors.append)
        async with asyncio.timeout(20), watch as updates:
            update = await anext(updates)
    assert update.query == FUNCTIONS
    [error] = errors
    assert isinstance(error, DecodeError)
    assert error.query == QUERY
    assert f"{url.removeprefix('http://')}: query 1 [" in caplog.text
    assert states == ["connecting", "live", "closed"]


async def test_a_server_that_refuses_the_size_of_a_query_ends_that_query():
    _, error = await watched(saying(frame(HANDSHAKE), closing(1009)))
    assert error is not None
    assert "1009" in str(error)
    assert error.query == QUERY


# ------------------------------------------------------------------------- secrets


def refusal(message: str, status: int, **more) -> bytes:
    answer = {"message": {"error": message}, "status": status, **more}
    return frame(json.dumps(answer).encode())


@pytest.mark.parametrize(
    "data",
    [
        (refusal(f"Invalid token: {TOKEN}", 403),),
        (refusal(f"no {TOKEN}", 400),),
        (frame(HANDSHAKE), refusal(f"bad {TOKEN}", 403, messageId="1")),
        (frame(HANDSHAKE), refusal(f"no member {TOKEN}", 400, messageId="1")),
        (frame(HANDSHAKE), refusal(f"Error: {TOKEN}", 500, messageId="1")),
        (frame(HANDSHAKE), frame(b"x" * 190 + TOKEN.encode())),
        (frame(HANDSHAKE), closing(4401, b"expired: " + TOKEN.encode())),
    ],
)
@pytest.mark.parametrize("dialect", ["cube", "ortege"])
async def test_a_server_that_repeats_the_token_does_not_spread_it(
    data, dialect, caplog
):
    with caplog.at_level(logging.DEBUG):
        once = Reconnect(attempts=1)
        _, error = await watched(saying(*data), dialect=dialect, reconnect=once)
    assert error is not None
    shown = caplog.text + "".join(traceback.format_exception(error))
    assert "s3cret" not in shown


async def test_an_upgrade_that_repeats_the_token_does_not_spread_it(caplog):
    answer = (
        f"HTTP/1.1 101 X\r\nUpgrade: {TOKEN}\r\nConnection: {TOKEN}\r\n"
        f"X-Token: {TOKEN}\r\n\r\n"
    )
    with caplog.at_level(logging.DEBUG):
        states, _ = await watched(ending(answer.encode()))
    assert states[-1] == "waiting"
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("websockets", [True, False])
async def test_no_logger_shows_a_token_at_any_level(websockets, caplog):
    asyncio.get_running_loop().set_debug(True)
    asyncio.get_running_loop().slow_callback_duration = 0.0
    cube = FakeCube(websockets=websockets)
    tokens = []

    async def provider() -> str:
        tokens.append(cube.token(number=len(tokens)))
        return tokens[-1]

    with caplog.at_level(logging.DEBUG, ""), cube:
        client = AsyncCubeClient(cube.url, provider)
        async with client, client.watch(QUERY) as updates:
            assert (await anext(updates)).first
            await client.load(QUERY)
            shown = repr([client, updates, vars(updates), vars(client)])
    assert caplog.records
    assert tokens
    for token in tokens:
        assert token.split(".")[2] not in caplog.text + shown


async def test_a_redirect_is_not_followed_and_takes_no_token_along():
    visited = []

    async def elsewhere(request, reader, writer) -> None:
        visited.append(request)

    async with peer(elsewhere) as target:
        answer = f"HTTP/1.1 307 X\r\nLocation: {target}/x\r\nContent-Length: 0\r\n\r\n"
        states, error = await watched(ending(answer.encode()))
        assert states[-1] == "closed"
        assert f"redirected to {target}/x; " in str(error)
        assert str(error).endswith("use the new address only if you trust it")
    assert visited == []


# -------------------------------------------------------------------- environments


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "nonsense"])
@pytest.mark.parametrize("transport", ["auto", "rest"])
async def test_a_proxy_that_is_of_no_use_is_an_outage(
    proxy, transport, monkeypatch, caplog
):
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, proxy)
    monkeypatch.setenv("no_proxy", "")
    clock, states = ManualClock(), States()
    client = AsyncCubeClient("http://cube.invalid", TOKEN, clock=clock)
    options = {"transport": transport, "on_state": states}
    async with client, client.watch(QUERY, **options) as updates:
        async with asyncio.timeout(20):
            while "next attempt in" not in caplog.text:
                await asyncio.sleep(0)
                if transport == "rest" and clock.sleepers:
                    await clock.advance(clock.sleepers[0])
        assert updates.state in {"waiting", "polling"}


async def test_a_host_that_nobody_knows_is_an_outage():
    states = States()
    client = AsyncCubeClient("http://no-such-host.invalid", TOKEN)
    async with client, client.watch(QUERY, on_state=states):
        await states.reach("waiting")


async def test_a_server_without_tls_is_an_outage_for_wss():
    async def talk(reader, writer) -> None:
        writer.write(b"HTTP/1.1 400 Speak TLS\r\n\r\n")
        await reader.read(1)
        writer.close()

    states = States()
    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = AsyncCubeClient(f"https://127.0.0.1:{port}", TOKEN)
        async with client, client.watch(QUERY, on_state=states):
            await states.reach("waiting")


# --------------------------------------------------------------------- refusals


async def test_a_token_that_is_refused_for_the_query_ends_it(caplog):
    forbidden = refusal("Not authorized", 403, messageId="1")
    async with peer(saying(frame(HANDSHAKE), forbidden)) as url:
        client = AsyncCubeClient(url, TOKEN)
        async with client, client.watch(QUERY) as updates:
            async with asyncio.timeout(20):
                with pytest.raises(AuthenticationError, match="Not authorized"):
                    await anext(updates)
                with pytest.raises(StopAsyncIteration):
                    await anext(updates)


async def test_a_frame_beyond_the_limit_is_one_error():
    async with peer(saying(frame(HANDSHAKE), frame(b"x" * 5000))) as url:
        client = AsyncCubeClient(url, TOKEN, max_size=1000)
        async with client, client.watch(QUERY) as updates:
            with pytest.raises(SubscriptionLost, match="max_size") as caught:
                await anext(updates)
            assert "(1000 bytes): narrow or limit query 1 [" in str(caught.value)
            assert caught.value.query == QUERY
            assert await anext(updates, None) is None
