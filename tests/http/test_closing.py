"""What happens to the running calls of a client that is closed."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time

import pytest
import trustme
from loopback import ConnectProxy, Peer, silent
from watching import QUERY

from ortege_watch import AsyncCubeClient, CubeClient, OrtegeWatchError, Retry
from ortege_watch.watchbus import Credentials, WatchBusClient

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


@pytest.fixture
def trusting(monkeypatch):
    """TLS settings of a client and of a server that trust each other."""
    for name in ("HTTPS_PROXY", "ALL_PROXY", "https_proxy", "all_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    authority = trustme.CA()
    client, server = (
        ssl.create_default_context(),
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH),
    )
    authority.configure_trust(client)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    return client, server


@pytest.mark.parametrize("kind", [CubeClient, WatchBusClient])
@pytest.mark.parametrize(
    "stalls", ["response", "response over TLS", "TLS handshake", "proxy"]
)
async def test_a_silent_server_holds_no_thread(
    kind, stalls, caplog, trusting, monkeypatch
):
    trust, certified = trusting
    peer = Peer(silent, certified if stalls == "response over TLS" else None)
    if stalls == "proxy":
        peer = ConnectProxy(None)
    with peer:
        if stalls == "proxy":
            monkeypatch.setenv("HTTPS_PROXY", peer.url)
        scheme = "http" if stalls == "response" else "https"
        url = f"{scheme}://{peer.host}"
        if kind is CubeClient:
            client = CubeClient(url, "token", timeout=30, ssl=trust)
            running = asyncio.create_task(asyncio.to_thread(client.load, QUERY))
        else:
            client = WatchBusClient(
                url, Credentials("app", "secret"), timeout=30, ssl=trust
            )
            running = asyncio.create_task(asyncio.to_thread(client.events))
        await until(lambda: peer.open)
        await check_closed(caplog, running, lambda: asyncio.to_thread(client.close))
        await until(lambda: not peer.open)


async def test_a_host_that_accepts_no_connection_holds_no_thread(caplog):
    # Once its queue is full, Linux drops what asks for another connection.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        queued = [socket.socket() for _ in range(4)]
        for each in queued:
            each.setblocking(False)
            each.connect_ex(address)
        client = CubeClient(f"http://127.0.0.1:{address[1]}", "token", timeout=30)
        running = asyncio.create_task(asyncio.to_thread(client.load, QUERY))
        await until(lambda: "connect_tcp.started" in caplog.text)
        await check_closed(caplog, running, lambda: asyncio.to_thread(client.close))
        for each in queued:
            each.close()
