"""Proxies from the environment, the user agent, and the warning of plain http."""

from __future__ import annotations

import asyncio
import itertools
import logging
import shutil
import socket
import ssl
import subprocess
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
import trustme
from loopback import Peer, relay

import ortege_watch
from ortege_watch import (
    AsyncCubeClient,
    CubeClient,
    InvalidArgument,
    Measure,
    OrtegeWatchError,
    Query,
    Reconnect,
    Retry,
)
from ortege_watch.testing import FakeCube, FakeProvider
from ortege_watch.watchbus import (
    AlertChannel,
    AsyncWatchBusClient,
    Credentials,
    WatchBusClient,
)

QUERY = Query(measures=[Measure("stacks_contract_events.asset_amount")])
AGENT = f"ortege-watch/{ortege_watch.__version__}"
NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


SIGNED = Credentials("app", "secret")
CLIENTS = {
    "CubeClient": lambda **o: CubeClient("https://h.example.com", "token", **o),
    "AsyncCubeClient": lambda **o: AsyncCubeClient(
        "https://h.example.com", "token", **o
    ),
    "WatchBusClient": lambda **o: WatchBusClient("https://h.example.com", SIGNED, **o),
    "AsyncWatchBusClient": lambda **o: AsyncWatchBusClient(
        "https://h.example.com", SIGNED, **o
    ),
    "AlertChannel": lambda **o: AlertChannel("wss://h.example.com", SIGNED, **o),
}


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


async def load_and_watch(url, token):
    async with asyncio.timeout(20), AsyncCubeClient(url, token) as client:
        await client.load(QUERY)
        async with client.watch(QUERY) as updates:
            await anext(updates)


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
            await load_and_watch(url, cube.token())
            assert asked == ["POST", "CONNECT"]


async def test_hosts_of_no_proxy_are_reached_directly(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FakeCube() as cube:
        await load_and_watch(cube.url, cube.token())


@pytest.mark.parametrize("no_proxy", ["::1", "[::1]:{}"])
async def test_an_address_of_ipv6_is_reached_directly(no_proxy, monkeypatch):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("needs the loopback address of IPv6")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with FakeCube() as cube, Peer(relay(cube.port), host="::1") as server:
        monkeypatch.setenv("NO_PROXY", no_proxy.format(server.port))
        await load_and_watch(f"http://[::1]:{server.port}", cube.token())


BAD = {
    "http://user:s3cret@proxy:x": "expected a URL such as http://",
    "http://user:s3cret@proxy:99999": "expected a URL such as http://",
    "http://user:s3cret@proxy:0": "expected a host and a port",
    "http://user:s3cret@": "expected a host and a port",
    "http://[::1": "expected a URL such as http://",
    "gopher://user:s3cret@proxy": "expected a URL such as http://",
    "foo bar": "expected a URL such as http://",
    "foo,bar:3128": "expected a URL such as http://",
    "http://user:s3cret@pro xy:3128": "expected a URL such as http://",
    "*": "expected a URL such as http://",
    "socks5://127.0.0.1:9": "SOCKS needs the packages socksio and python_socks",
}


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY", "http_proxy"])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_bad_proxy_is_named(client, variable, value, monkeypatch):
    monkeypatch.setenv(variable, value)
    with pytest.raises(
        InvalidArgument, match=f"variable {variable} is not a"
    ) as caught:
        CLIENTS[client]()
    assert BAD[value] in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_bad_proxy_is_named_by_watch_where_requests_need_none(monkeypatch):
    http = httpx.AsyncClient()
    client = AsyncCubeClient("https://cube.example.com", "token", http=http)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:x")
    with pytest.raises(InvalidArgument, match="HTTPS_PROXY"):
        client.watch(QUERY)


@pytest.mark.parametrize(
    "host", ["cube.example.com:x", "cube.example.com:", "http://h"]
)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_bad_no_proxy_is_named(client, host, monkeypatch):
    monkeypatch.setenv("NO_PROXY", f"localhost, {host}")
    with pytest.raises(InvalidArgument) as caught:
        CLIENTS[client]()
    assert str(caught.value) == (
        "the environment variable NO_PROXY is not a list of hosts without a proxy:"
        f" expected a host, perhaps with a port, in place of {host!r},"
        f" got 'localhost, {host}'"
    )


def test_semicolons_in_no_proxy_are_refused(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "localhost;b")
    problem = "NO_PROXY is not a list .* separate them by commas, got 'localhost;b'"
    with pytest.raises(InvalidArgument, match=problem):
        AsyncCubeClient("http://h", "token")


@pytest.mark.parametrize("value", ["*", "localhost, .example.com,::1,10.0.0.0/8,h:80"])
def test_a_usual_no_proxy_is_accepted(value, monkeypatch):
    monkeypatch.setenv("NO_PROXY", value)
    for client in CLIENTS.values():
        client()


async def call(client):
    await client.load(QUERY)


async def watch(client):
    once = Reconnect(attempts=1)
    async with client.watch(QUERY, transport="websocket", reconnect=once) as updates:
        await anext(updates)


async def poll(client):
    once = Reconnect(attempts=1)
    async with client.watch(QUERY, transport="rest", reconnect=once) as updates:
        await anext(updates)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("use", [call, watch, poll])
async def test_a_failure_names_the_proxy_without_its_password(use, scheme, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "http://user:s3cret-word@127.0.0.1:1/")
    url = f"{scheme}://cube.invalid:4000"
    async with (
        asyncio.timeout(20),
        AsyncCubeClient(url, "token", retry=Retry(attempts=1)) as client,
    ):
        with pytest.raises(OrtegeWatchError) as caught:
            await use(client)
    text = str(caught.value)
    assert "cube.invalid:4000" in text
    assert text.count("through the proxy 127.0.0.1:1:") == 1
    assert "s3cret" not in text


def test_a_failure_in_a_thread_names_the_proxy(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "127.0.0.1:1")
    once = Retry(attempts=1)
    with (
        CubeClient("http://cube.invalid:4000", "token", retry=once) as client,
        pytest.raises(OrtegeWatchError, match=r"through the proxy 127\.0\.0\.1:1:"),
    ):
        client.load(QUERY)


async def test_a_failure_of_your_own_client_names_no_proxy(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "127.0.0.1:1")
    async with httpx.AsyncClient(trust_env=False) as http:
        once = Retry(attempts=1)
        client = AsyncCubeClient("http://127.0.0.1:1", "token", http=http, retry=once)
        with pytest.raises(OrtegeWatchError) as caught:
            await client.load(QUERY)
    assert "proxy" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["http://user@{}", "http://user:word@{}/path"])
async def test_requests_and_subscriptions_accept_the_same_proxies(proxy, monkeypatch):
    with FakeCube() as cube:
        async with proxy_to(cube.port) as (address, asked):
            monkeypatch.setenv("ALL_PROXY", proxy.format(address))
            await load_and_watch(f"http://cube.invalid:{cube.port}", cube.token())
            assert asked == ["POST", "CONNECT"]


def authorities(name, path):
    """Make a value for a variable that cannot be used."""
    (path / "empty.pem").touch()
    (path / "empty").mkdir()
    (path / "unhashed").mkdir()
    trustme.CA().cert_pem.write_to_path(path / "unhashed" / "ca.pem")
    return path / name


BAD_AUTHORITIES = {
    ("SSL_CERT_FILE", "missing"): "in PEM format (No such file",
    ("SSL_CERT_FILE", "empty.pem"): "in PEM format ([X509",
    ("SSL_CERT_FILE", "empty"): "in PEM format (Is a directory",
    ("SSL_CERT_DIR", "missing"): "openssl rehash",
    ("SSL_CERT_DIR", "empty.pem"): "openssl rehash",
    ("SSL_CERT_DIR", "empty"): "openssl rehash",
    ("SSL_CERT_DIR", "unhashed"): "openssl rehash",
    ("SSL_CERT_DIR", "x" * 300): "openssl rehash (File name too long",
}


@pytest.mark.parametrize(("variable", "name"), BAD_AUTHORITIES)
@pytest.mark.parametrize("client", CLIENTS)
def test_bad_authorities_are_named(client, variable, name, tmp_path, monkeypatch):
    value = str(authorities(name, tmp_path))
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidArgument) as caught:
        CLIENTS[client]()
    text = str(caught.value)
    assert f"the environment variable {variable} is {value!r}" in text
    assert BAD_AUTHORITIES[variable, name] in text
    CLIENTS[client](ssl=ssl.create_default_context())  # which needs no variable


def test_bad_authorities_are_named_by_watch_where_requests_need_none(
    tmp_path, monkeypatch
):
    http = httpx.AsyncClient()
    client = AsyncCubeClient("https://cube.example.com", "token", http=http)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing"))
    with pytest.raises(InvalidArgument, match="SSL_CERT_FILE"):
        client.watch(QUERY)


def rehashed(path):
    if shutil.which("openssl") is None:
        pytest.skip("needs the command openssl")
    subprocess.run(["openssl", "rehash", str(path)], check=True, capture_output=True)
    return path


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
async def test_both_transports_trust_the_authorities_of_the_environment(
    variable, tmp_path, monkeypatch
):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    value = tmp_path / "ca.pem"
    if variable == "SSL_CERT_DIR":
        value = rehashed(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    monkeypatch.setenv(variable, str(value))
    with FakeCube() as cube, Peer(relay(cube.port), context) as server:
        await load_and_watch(f"https://{server.host}", cube.token())


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
