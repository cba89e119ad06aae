"""Peers that send a byte from time to time: the limit of a request ends them all."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time

import httpx
import pytest
from loopback import Peer

from ortege_watch import AsyncCubeClient, CubeClient, DeadlineExceeded, Measure, Query
from ortege_watch._http.conversation import Request
from ortege_watch._http.driver import HttpDriver
from ortege_watch.watchbus import Credentials, WatchBusClient

QUERY = Query(measures=[Measure("stacks_contract_events.count")])
CREDENTIALS = Credentials("app", "s3cret-key")
HEAD = b"HTTP/1.1 200 OK\r\n"


class Dripping(Peer):
    """A server that answers with its data, piece by piece, for up to three seconds."""

    def __init__(self, begin, piece, pause=0.02, reads=65536):
        super().__init__(self._drip)
        self.begin = begin
        self.piece = piece
        self.pause = pause
        self.reads = reads

    async def _drip(self, reader, writer):
        end = time.monotonic() + 3
        await reader.read(self.reads)
        writer.write(self.begin)
        while time.monotonic() < end:
            await asyncio.sleep(self.pause)
            if self.piece:
                writer.write(self.piece)
                await writer.drain()
            else:
                await reader.read(self.reads)


DRIPS = {
    "nothing": (b"", b"", 0.02),
    "status line": (b"HTTP/1.1 200 ", b"x", 0.02),
    "header": (HEAD + b"x-a: ", b"x", 0.02),
    "headers": (HEAD, b"x-a: b\r\n", 0.1),
    "100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02),
    "flood of 100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 20, 0.001),
    "gzip header": (
        HEAD + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x08" + bytes(6),
        b"x",
        0.02,
    ),
    "empty gzip blocks": (
        HEAD + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x00" + bytes(6),
        b"\x00\x00\x00\xff\xff",
        0.02,
    ),
    "chunk extension": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;x=",
        b"x",
        0.02,
    ),
    "trailer": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nx: ", b"x", 0.02),
    "body": (HEAD + b"\r\n", b" ", 0.02),
}
drips = pytest.mark.parametrize("drip", DRIPS)


@contextlib.contextmanager
def ends_in_time():
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"within 0\.3 s"):
        yield
    assert time.monotonic() - started < 2


@drips
def test_the_deadline_ends_a_call(drip):
    with (
        Dripping(*DRIPS[drip]) as server,
        CubeClient(server.url, "token") as client,
        ends_in_time(),
    ):
        client.load(QUERY, deadline=0.3)


@drips
async def test_the_deadline_ends_an_async_call(drip):
    with Dripping(*DRIPS[drip]) as server:
        async with AsyncCubeClient(server.url, "token") as client:
            with ends_in_time():
                await client.load(QUERY, deadline=0.3)


@pytest.mark.parametrize("drip", ["header", "100 Continue", "chunk extension"])
def test_the_deadline_ends_a_signed_call(drip):
    with (
        Dripping(*DRIPS[drip]) as server,
        WatchBusClient(server.url, CREDENTIALS) as client,
        ends_in_time(),
    ):
        client.events(deadline=0.3)


@pytest.mark.parametrize("url", ["http://cube.invalid", "https://cube.invalid"])
@pytest.mark.parametrize("drip", ["header", "100 Continue"])
def test_the_deadline_ends_a_call_over_the_users_client_and_proxy(drip, url):
    with (
        Dripping(*DRIPS[drip]) as server,
        httpx.Client(proxy=server.url) as http,
        CubeClient(url, "token", http=http) as client,
        ends_in_time(),
    ):
        client.load(QUERY, deadline=0.3)


def test_the_limit_ends_a_request_that_is_read_slowly():
    def conversation():
        return (
            yield Request(
                method="POST",
                url=server.url,
                headers={},
                content=bytes(32 * 2**20),
                timeout=5.0,
                limit=0.3,
            )
        )

    with (
        Dripping(b"", b"", 0.02, reads=1024) as server,
        contextlib.closing(HttpDriver()) as driver,
    ):
        started = time.monotonic()
        outcome = driver.run(conversation()).outcome
        assert outcome.expired
        assert time.monotonic() - started < 2


def test_a_host_with_several_addresses_is_reached():
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{"health": "HEALTH"}'
    with (
        Dripping(answer, b"", 0.02) as server,
        CubeClient(f"http://localhost:{server.port}", "token") as client,
    ):
        assert client.ready(deadline=5)


def test_a_host_that_does_not_exist_is_not_found_in_time():
    with CubeClient("http://cube.invalid", "token") as client:
        assert not client.ready(deadline=5)


def test_a_body_that_the_network_takes_in_parts_arrives_whole():
    body = random.Random(1).randbytes(8 * 2**20)
    arrived = []

    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        arrived.append(await reader.readexactly(len(body)))
        writer.write(HEAD + b"Content-Length: 0\r\n\r\n")

    def conversation():
        return (
            yield Request(
                method="POST", url=server.url, headers={}, content=body, timeout=5.0
            )
        )

    with Peer(talk) as server, contextlib.closing(HttpDriver()) as driver:
        assert driver.run(conversation()).outcome.status == 200
    assert arrived == [body]
