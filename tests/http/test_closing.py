"""What happens to the running calls of a client that is closed."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from loopback import Peer, silent
from watching import QUERY

from ortege_watch import AsyncCubeClient, CubeClient, OrtegeWatchError, Retry

pytestmark = pytest.mark.anyio

SLOW = Retry(attempts=3, base=20.0)
WITHIN = 5.0


async def busy(reader, writer) -> None:
    await reader.readuntil(b"\r\n\r\n")
    head = b"HTTP/1.1 503 X\r\nConnection: close\r\nContent-Length: 0\r\n"
    writer.write(head + b"Retry-After: 12\r\n\r\n")
    await writer.drain()
    writer.close()


async def until(condition) -> None:
    async with asyncio.timeout(WITHIN):
        while not condition():
            await asyncio.sleep(0.001)


async def check_closed(caplog, running, close) -> None:
    lines = len(caplog.records)
    started = time.monotonic()
    await close()
    with pytest.raises(OrtegeWatchError, match="the client is closed"):
        await running
    assert time.monotonic() - started < WITHIN
    assert not any("next attempt" in each.message for each in caplog.records[lines:])


@pytest.mark.parametrize("talk", [busy, silent])
async def test_the_calls_of_tasks_end_at_once(talk, caplog):
    with Peer(talk) as peer:
        client = AsyncCubeClient(f"http://{peer.host}", "token", retry=SLOW)
        running = asyncio.create_task(client.load(QUERY))
        await until(
            lambda: peer.served and (talk is silent or "next attempt" in caplog.text)
        )
        await check_closed(caplog, running, client.aclose)


async def test_an_async_token_function_ends_at_once(caplog):
    asked = asyncio.Event()

    async def hang() -> str:
        asked.set()
        await asyncio.sleep(60)
        return "token"

    client = AsyncCubeClient("http://127.0.0.1:9", hang)
    running = asyncio.create_task(client.load(QUERY))
    await asked.wait()
    await check_closed(caplog, running, client.aclose)


async def test_the_pause_of_a_thread_ends_at_once(caplog):
    with Peer(busy) as peer:
        client = CubeClient(f"http://{peer.host}", "token", retry=SLOW)
        running = asyncio.create_task(asyncio.to_thread(client.load, QUERY))
        await until(lambda: "next attempt" in caplog.text)
        await check_closed(caplog, running, lambda: asyncio.to_thread(client.close))
        assert peer.served == 1


async def test_the_token_function_of_a_thread_ends_at_once(caplog):
    asked, leave = threading.Event(), threading.Event()

    def hang() -> str:
        asked.set()
        leave.wait(60)
        return "token"

    client = CubeClient("http://127.0.0.1:9", hang)
    running = asyncio.create_task(asyncio.to_thread(client.load, QUERY))
    await until(asked.is_set)
    try:
        await check_closed(caplog, running, lambda: asyncio.to_thread(client.close))
    finally:
        leave.set()


async def test_a_silent_server_is_asked_only_once(caplog):
    with Peer(silent) as peer:
        client = CubeClient(f"http://{peer.host}", "token", retry=SLOW, timeout=0.5)
        running = asyncio.create_task(asyncio.to_thread(client.load, QUERY))
        await until(lambda: peer.served)
        await check_closed(caplog, running, lambda: asyncio.to_thread(client.close))
        assert peer.served == 1
