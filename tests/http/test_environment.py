"""Proxies from the environment, the user agent, and the warning of plain http."""

from __future__ import annotations

import asyncio
import itertools
import logging
from contextlib import asynccontextmanager, suppress

import httpx
import pytest

import ortege_watch
from ortege_watch import AsyncCubeClient, CubeClient, InvalidArgument, Measure, Query
from ortege_watch.testing import FakeCube, FakeProvider
from ortege_watch.watchbus import WatchBusClient

QUERY = Query(measures=[Measure("stacks_contract_events.count")])
AGENT = f"ortege-watch/{ortege_watch.__version__}"
NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def forward(reader, writer):
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def proxy_to(port):
    """Run a proxy that reaches one server, whatever it is asked for."""
    asked = []

    async def talk(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.split(b" ")[0].decode())
        onward, there = await asyncio.open_connection("127.0.0.1", port)
        if head.startswith(b"CONNECT"):
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            there.write(head)
        await asyncio.gather(forward(reader, there), forward(onward, writer))

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


@pytest.mark.parametrize("variable", ["ALL_PROXY", "all_proxy", "HTTP_PROXY"])
@pytest.mark.parametrize("scheme", ["http://", ""])
async def test_requests_and_subscriptions_take_the_same_proxy(
    variable, scheme, monkeypatch
):
    with FakeCube() as cube:
        async with proxy_to(cube.port) as (proxy, asked):
            if variable == "HTTP_PROXY":
                monkeypatch.delenv("REQUEST_METHOD", raising=False)
            monkeypatch.setenv(variable, scheme + proxy)
            url = f"http://cube.invalid:{cube.port}"
            async with (
                asyncio.timeout(20),
                AsyncCubeClient(url, cube.token()) as client,
            ):
                await client.load(QUERY)
                async with client.watch(QUERY) as updates:
                    await anext(updates)
            assert asked == ["POST", "CONNECT"]


async def test_hosts_of_no_proxy_are_reached_directly(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FakeCube() as cube:
        async with (
            asyncio.timeout(20),
            AsyncCubeClient(cube.url, cube.token()) as client,
        ):
            await client.load(QUERY)
            async with client.watch(QUERY) as updates:
                await anext(updates)


BAD = {
    "http://user:s3cret@proxy:x": "expected a URL such as http://",
    "http://user:s3cret@proxy:99999": "expected a URL such as http://",
    "http://user:s3cret@proxy:0": "expected a host and a port",
    "http://user:s3cret@": "expected a host and a port",
    "http://[::1": "expected a URL such as http://",
    "gopher://user:s3cret@proxy": "expected a URL such as http://",
    "socks5://127.0.0.1:9": "SOCKS needs the packages socksio and python_socks",
}


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY", "http_proxy"])
@pytest.mark.parametrize("kind", [CubeClient, AsyncCubeClient])
def test_a_bad_proxy_is_named(kind, variable, value, monkeypatch):
    monkeypatch.setenv(variable, value)
    with pytest.raises(
        InvalidArgument, match=f"variable {variable} is not a"
    ) as caught:
        kind("https://cube.example.com", "token")
    assert BAD[value] in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_bad_proxy_is_named_by_watch_where_requests_need_none(monkeypatch):
    http = httpx.AsyncClient()
    client = AsyncCubeClient("https://cube.example.com", "token", http=http)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:x")
    with pytest.raises(InvalidArgument, match="HTTPS_PROXY"):
        client.watch(QUERY)


def test_every_request_names_the_library_and_its_version():
    with FakeCube() as cube, CubeClient(cube.url, cube.token()) as client:
        client.load(QUERY)
        with client.watch(QUERY) as updates:
            next(updates)
        assert {each.headers["user-agent"] for each in cube.requests} == {AGENT}
        assert len(cube.requests) >= 1
    with FakeProvider() as provider:
        with WatchBusClient(provider.url, provider.credentials) as client:
            client.events()
        assert provider.requests[0].headers["user-agent"] == AGENT


async def test_a_websocket_names_the_library_and_its_version():
    agents = []

    async def talk(reader, writer):
        agents.append((await reader.readuntil(b"\r\n\r\n")).decode().lower())
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with (
            AsyncCubeClient(f"http://127.0.0.1:{port}", "token") as client,
            client.watch(QUERY) as updates,
            asyncio.timeout(10),
        ):
            while not agents:
                await asyncio.sleep(0)
            assert updates.state is not None
    assert f"user-agent: {AGENT}\r\n" in agents[0]


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_a_token_over_plain_http_is_warned_about_once(scheme, caplog):
    host = f"plain-{next(NUMBERS)}.example.com:8080"
    for kind in (CubeClient, AsyncCubeClient):
        kind(f"{scheme}://{host}", "token")
    [line] = caplog.records
    assert (line.name, line.levelno) == ("ortege_watch.cube", logging.WARNING)
    assert line.getMessage() == (
        f"{host}: tokens are sent unencrypted over http; use https"
    )


@pytest.mark.parametrize(
    "url",
    [
        "https://cube.example.com",
        "wss://cube.example.com",
        "http://localhost:4000",
        "http://cube.localhost",
        "http://127.0.0.2:4000",
        "http://[::1]:4000",
    ],
)
def test_a_token_that_nobody_can_read_is_not_warned_about(url, caplog):
    CubeClient(url, "token")
    assert caplog.records == []
