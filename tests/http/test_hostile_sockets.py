"""WebSocket servers that close, stop or send bombs: the subscription goes on.

The first connection is a hostile one; the next ones reach a server that works.
"""

from __future__ import annotations

import asyncio
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from loopback import Peer, Talk, close, relay, silent
from peers import HANDSHAKE, frame, upgrade
from watching import QUERY

from ortege_watch import (
    AsyncCubeClient,
    DecodeError,
    Reconnect,
    SubscriptionLost,
    TransportError,
)
from ortege_watch.testing import FakeCube, ManualClock
from ortege_watch.watchbus import AlertChannel, AlertInfo, Credentials, WatchBusError

pytestmark = pytest.mark.anyio

FAST = Reconnect(base=0.001, cap=0.002)
MAX_SIZE = 1_000_000
VALUES = {"block_number": 1, "tx_hash": "0x" + "1" * 64, "current_value": "1"}
ALERT = AlertInfo(
    "0x" + "ab" * 20, 56, "ERC20", "big_amount_txn", 1_700_000_000, VALUES
)


def at_first(talk: Talk, port: int) -> Talk:
    """Talk on the first connection, and pass the later ones on."""
    seen = []

    async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(1)
        await (talk if len(seen) == 1 else relay(port))(reader, writer)

    return both


@asynccontextmanager
async def watching(talk: Talk, **options: Any) -> AsyncIterator[tuple[Any, Peer]]:
    """Watch a server whose first connection is a hostile one."""
    clock = options.pop("clock", None)
    options = {"reconnect": FAST, **options}
    with FakeCube() as cube, Peer(at_first(talk, cube.port)) as server:
        client = AsyncCubeClient(
            f"http://{server.host}", cube.token(), clock=clock, max_size=MAX_SIZE
        )
        async with (
            asyncio.timeout(30),
            client,
            client.watch(QUERY, **options) as updates,
        ):
            yield updates, server


def sending(*chunks: bytes, then: str = "silence") -> Talk:
    """Accept the upgrade, send bytes, and say nothing more, or close, or reset."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(upgrade(await reader.readuntil(b"\r\n\r\n")))
        for chunk in chunks:
            writer.write(chunk)
        await writer.drain()
        if then == "silence":
            await silent(reader, writer)
        elif then == "close":
            writer.close()
            await writer.wait_closed()

    return talk


READY = frame(HANDSHAKE)


def closing(code: int) -> bytes:
    return frame(code.to_bytes(2, "big") + b"bye", opcode=8)


# --------------------------------------------------------------------------- closing

CODES = [
    *(0, 999, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1010, 1011, 1012),
    *(1013, 1014, 1015, 1016, 2999, 3000, 3999, 4000, 4401, 4403, 4999, 5000, 65535),
]
ENDS = {str(code): (closing(code), "close") for code in CODES} | {
    "no code": (frame(b"", opcode=8), "close"),
    "left open": (closing(1000), "silence"),
    "left open after an invalid code": (closing(999), "silence"),
    "end of file": (b"", "close"),
    "reset": (b"", "reset"),
    "end in a frame": (frame(b"x" * 1000)[:500], "close"),
}
stages = pytest.mark.parametrize("ready", [b"", READY], ids=["at first", "live"])


# A peer that leaves the TCP connection open has a second.
@stages
@pytest.mark.parametrize("name", ENDS)
async def test_a_connection_that_ends_is_followed_by_another(name, ready):
    data, then = ENDS[name]
    async with watching(sending(ready, data, then=then)) as (updates, server):
        assert (await anext(updates)).first
        assert updates.state == "live"
        assert server.attempts == 2


async def test_a_peer_that_closes_and_keeps_the_connection_open_is_left():
    """While nothing is sent, websockets waits for the peer without a limit."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(upgrade(await reader.readuntil(b"\r\n\r\n")) + READY)
        for _ in ("the token", "the query"):
            await read_frame(reader)
        writer.write(closing(1001))
        await silent(reader, writer)

    async with watching(talk) as (updates, server):
        assert (await anext(updates)).first
        assert server.attempts == 2


# ------------------------------------------------------------------ refused upgrades


def refusing(status: int, body: bytes = b"<html>no</html>", *headers: str) -> Talk:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "", ""]

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write("\r\n".join(lines).encode() + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    return talk


@pytest.mark.parametrize("status", [200, 400, 403, 404])
async def test_an_upgrade_that_is_refused_as_off_leads_to_polling(status):
    async with watching(refusing(status)) as (updates, _):
        assert (await anext(updates)).first
        assert updates.state == "polling"


@pytest.mark.parametrize(
    "status",
    [
        *(204, 300, 304, 402, 405, 408, 410, 418, 426, 429, 451, 499),
        *(500, 501, 502, 503, 504, 511, 520, 530, 599, 600, 999),
    ],
)
async def test_an_upgrade_that_fails_is_tried_again(status):
    async with watching(refusing(status)) as (updates, server):
        assert (await anext(updates)).first
        assert updates.state == "live"
        assert server.attempts == 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_an_upgrade_that_is_redirected_is_not_followed(status):
    to = "Location: http://127.0.0.1:1/elsewhere?token=x"
    async with watching(refusing(status, b"", to)) as (updates, server):
        with pytest.raises(TransportError, match="redirected to http://127"):
            await anext(updates)
        assert server.attempts == 1


# ------------------------------------------------------------------------ half-open


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return the opcode and the payload of a masked frame."""
    first, length = await reader.readexactly(2)
    size = length & 0x7F
    if size == 126:
        size = int.from_bytes(await reader.readexactly(2), "big")
    mask = await reader.readexactly(4)
    data = await reader.readexactly(size)
    return first & 0x0F, bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))


async def pongs_only(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    writer.write(upgrade(await reader.readuntil(b"\r\n\r\n")) + READY)
    while True:
        opcode, data = await read_frame(reader)
        if opcode == 9:
            writer.write(frame(data, opcode=10))


async def half_a_head(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgra")
    await silent(reader, writer)


async def unread(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept, become live, and never read again."""
    writer.write(upgrade(await reader.readuntil(b"\r\n\r\n")) + READY)
    await asyncio.Event().wait()


# The seconds after which the next connection must have begun.
STALLS: dict[str, tuple[Talk, float]] = {
    "at once": (silent, 22),
    "in the upgrade": (half_a_head, 22),
    "before the handshake": (sending(), 12),
    "in the first frame": (sending(READY[:7]), 12),
    "live": (sending(READY), 75),
    "in a frame": (sending(READY, frame(b"x" * 1000)[:500]), 75),
    "in fragments": (sending(READY, frame(b"{", flags=0)), 75),
    "pongs alone": (pongs_only, 140),
    "reads nothing": (unread, 75),
}


@pytest.mark.parametrize("name", STALLS)
async def test_a_server_that_stops_is_left(name):
    talk, within = STALLS[name]
    clock = ManualClock()
    async with watching(talk, clock=clock, dialect="cube") as (updates, server):
        while not server.served or (within > 25 and updates.state != "live"):
            await asyncio.sleep(0.001)
        while server.attempts < 2:
            await clock.advance(0.5)
            await asyncio.sleep(0.001)  # pings and pongs are real
            assert clock.now() <= within
        assert (await anext(updates)).first


# ------------------------------------------------------------------------------ bombs


GARBAGE: dict[str, bytes] = {
    "nested lists": frame(b"[" * 100_000),
    "nested objects": frame(b'{"a":' * 100_000),
    "NaN": frame(b'{"messageId":"1","status":NaN}'),
    "900,000 digits": frame(b'{"messageId":"1","status":' + b"9" * 900_000 + b"}"),
    "a huge exponent": frame(b'{"messageId":"1","status":1e999999999,"message":{}}'),
    "no UTF-8": frame(b'{"messageId":"1\xff"}'),
    "an encoded surrogate": frame(b'{"messageId":"\xed\xa0\x80"}'),
    "binary": frame(bytes(range(256)), opcode=2),
    "a compressed frame": frame(b"{}", flags=0x80 | 0x40),
    "a masked frame": b"\x81\x82\x00\x00\x00\x00{}",
    "a continuation of nothing": frame(b"{}", opcode=0),
    "a frame within a fragment": frame(b"{", flags=0) + frame(b"{}"),
    "a ping of 126 bytes": frame(b"x" * 126, opcode=9),
    "a fragmented ping": frame(b"x", opcode=9, flags=0),
    "a reserved opcode": frame(b"", opcode=3),
    "an HTTP response": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b" " * 100,
}


@asynccontextmanager
async def measured(bound: int) -> AsyncIterator[None]:
    tracemalloc.start()
    started = time.process_time()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
        assert peak < bound, peak
        assert time.process_time() - started < 15
    finally:
        tracemalloc.stop()


NESTED = b'{"messageId":"1","message":' + b"[" * 90_000 + b"]" * 90_000 + b"}"


async def test_an_answer_that_is_nested_too_deeply_is_an_error_of_its_query():
    async with (
        measured(30 * MAX_SIZE),
        watching(sending(READY, frame(NESTED))) as (updates, server),
    ):
        with pytest.raises(DecodeError, match="cannot decode a frame"):
            await anext(updates)
        assert updates.state == "live"
        assert server.attempts == 1


@pytest.mark.parametrize("name", GARBAGE)
async def test_a_frame_that_cannot_be_read_is_an_outage(name):
    async with (
        measured(30 * MAX_SIZE),
        watching(sending(READY, GARBAGE[name])) as (updates, server),
    ):
        assert (await anext(updates)).first
        assert updates.state == "live"
        assert server.attempts == 2


@pytest.mark.parametrize(
    "data",
    [
        frame(b" " * (MAX_SIZE + 1)),
        b"\x81\x7f" + (2**63 - 1).to_bytes(8, "big"),
        frame(b" " * 600_000, flags=0) + frame(b" " * 600_000, opcode=0),
        frame(b"{", flags=0) + frame(b" ", opcode=0, flags=0) * 100_000,
    ],
    ids=["a frame", "a length", "fragments", "100,000 fragments"],
)
async def test_more_than_max_size_ends_the_subscription_with_advice(data, caplog):
    async with (
        measured(30 * MAX_SIZE),
        watching(sending(READY, data)) as (updates, _),
    ):
        with pytest.raises(SubscriptionLost, match="max_size"):
            await anext(updates)
    assert "unexpectedly" not in caplog.text


@pytest.mark.parametrize("opcode", [9, 10], ids=["pings", "pongs"])
async def test_a_flood_takes_bounded_memory(opcode):
    data = frame(b"x", opcode=opcode) * 20_000 + closing(1001)
    async with (
        measured(30 * MAX_SIZE),
        watching(sending(READY, data)) as (updates, server),
    ):
        assert (await anext(updates)).first
        assert server.attempts == 2


# ---------------------------------------------------------- refusals without an end


def endless(status: int, head: str, piece: bytes, sent: list[int]) -> Talk:
    """Refuse the upgrade with a body that does not end; count its bytes."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own = writer.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status} X\r\n{head}".encode())
        while True:
            writer.write(piece)
            await writer.drain()
            sent.append(len(piece))

    return talk


CHUNKED = "Transfer-Encoding: chunked\r\n\r\n"
BODIES: dict[str, tuple[str, bytes]] = {
    "chunks of a byte": (CHUNKED, b"1\r\nx\r\n" * 5000),
    "large chunks": (CHUNKED, b"7530\r\n" + b"x" * 30_000 + b"\r\n"),
    "a chunk that does not end": (CHUNKED + "fffff\r\n", b"x" * 30_000),
    "no length": ("\r\n", b"x" * 30_000),
    "a long length": ("Content-Length: 1000000\r\n\r\n", b"x" * 30_000),
    "a length beyond every limit": ("Content-Length: 10000000\r\n\r\n", b"x" * 30_000),
}
bodies = pytest.mark.parametrize("name", BODIES)


@bodies
async def test_the_body_of_a_refusal_is_not_read_to_its_end(name):
    sent: list[int] = []
    talk = endless(404, *BODIES[name], sent)
    async with measured(30 * MAX_SIZE), watching(talk) as (updates, _):
        assert (await anext(updates)).first
        assert updates.state == "polling"  # 404: WebSockets are off
    assert sum(sent) < 1_000_000


@bodies
async def test_the_body_of_a_refused_channel_is_not_read_to_its_end(name):
    sent: list[int] = []
    credentials = Credentials("app", "s3cret-s3cret-s3cret")
    with Peer(endless(403, *BODIES[name], sent)) as server:
        channel = AlertChannel(server.url + "/alerts/ws", credentials, reconnect=FAST)
        async with asyncio.timeout(20), channel:
            with pytest.raises(WatchBusError) as caught:
                await channel.send([ALERT])
    assert caught.value.status == 403
    assert sum(sent) < 1_000_000


CUT: dict[str, bytes] = {
    "a cut body": b"Content-Length: 100\r\n\r\n<html>",
    "a cut chunk": b"Transfer-Encoding: chunked\r\n\r\n64\r\n<html>",
    "with spaces": b"x: y\r\ncontent-length:\t 100 \r\nX: z\r\n\r\n<html>",
}


@pytest.mark.parametrize("name", CUT)
async def test_a_refusal_counts_whose_body_is_cut(name):
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 X\r\n" + CUT[name])
        await close(writer)

    async with watching(talk) as (updates, _):
        assert (await anext(updates)).first
        assert updates.state == "polling"


@pytest.mark.parametrize(
    "head",
    [b"", b"X: y\r\n", b"X: y", b"Content-Length: many\r\n\r\n"],
    ids=["status", "line", "header", "invalid length"],
)
async def test_a_refusal_whose_head_is_cut_or_invalid_is_an_outage(head):
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 X\r\n" + head)
        await close(writer)

    async with watching(talk) as (updates, server):
        assert (await anext(updates)).first
        assert updates.state == "live"
        assert server.attempts == 2


async def test_the_head_of_a_response_has_a_limit():
    """Such a response says nothing, and is an outage."""
    sent: list[int] = []
    talk = endless(404, "X: ", b"x" * 1000 + b"\r\nX: ", sent)
    async with watching(talk) as (updates, server):
        assert (await anext(updates)).first
        assert server.attempts == 2
    assert sum(sent) < 1_000_000


async def test_a_connection_that_closes_takes_no_more_frames():
    """Nobody wants the frames that arrive after our close frame."""
    large = frame(b" " * (MAX_SIZE - 1))
    sent: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(upgrade(head) + READY + frame(b"garbage"))
        while (await read_frame(reader))[0] != 8:
            pass
        for _ in range(40):
            writer.write(large)
            await writer.drain()
            sent.append(len(large))
        writer.write(closing(1000))
        await silent(reader, writer)

    async with measured(8 * MAX_SIZE), watching(talk) as (updates, server):
        assert (await anext(updates)).first
        while server.open > 1:
            await asyncio.sleep(0.001)
    assert len(sent) == 40
