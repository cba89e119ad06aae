"""Messages are read in order and at once, whether they come in one frame or in many."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from peers import frame, peer, upgrade
from websockets.exceptions import ConnectionClosed

from ortege_watch._websocket import Connection, close, open_websocket

pytestmark = pytest.mark.anyio

CLOSING = frame((1000).to_bytes(2, "big"), opcode=8)


def fragments(*payloads: bytes, between: bytes = b"") -> bytes:
    first, *middle, last = payloads
    pieces = [frame(first, flags=0)]
    pieces += [frame(piece, opcode=0, flags=0) for piece in middle]
    pieces += [frame(last, opcode=0)]
    return between.join(pieces)


@asynccontextmanager
async def opened(*chunks: bytes) -> AsyncIterator[Connection]:
    async def talk(
        request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(upgrade(request))
        await reader.read(100)
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
        if CLOSING in chunks[-1]:
            writer.write_eof()
        while await reader.read(100) != b"":
            pass

    async with asyncio.timeout(20), peer(talk) as url:
        connection = await open_websocket(url.replace("http", "ws"), {}, secrets=[])
        await connection.send("ready")
        try:
            yield connection
        finally:
            await close(connection)


@pytest.mark.parametrize(
    "data",
    [
        frame(b"1") + frame(b"2", opcode=2) + frame(b"3"),
        fragments(b"1", b"") + frame(b"2") + frame(b"3"),
        frame(b"1") + fragments(b"", b"2", b"") + frame(b"3"),
        fragments(b"1", b"") + fragments(b"2", b"") + fragments(b"", b"3"),
        frame(b"1") + frame(b"2") + fragments(b"3", b"", between=frame(b"", opcode=9)),
    ],
    ids=["whole", "fragments first", "fragments between", "all fragments", "a ping"],
)
@pytest.mark.parametrize("pieces", [1, 2, 100])
async def test_messages_are_read_in_the_order_they_were_sent(data, pieces):
    size = len(data) // pieces + 1
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    read: list[Any] = []
    async with opened(*chunks, CLOSING) as connection:
        with pytest.raises(ConnectionClosed):
            await connection.read(read.append)
    assert read == [b"1", b"2", b"3"]


LARGE = [bytes([65 + number]) * (1 << 14 + number) for number in range(4)]


@pytest.mark.parametrize("size", [1 << 20, 50_000, 1 << 14, 4_099, 1_001])
async def test_large_messages_are_read_whole_however_they_arrive(size):
    between = frame(b"small") + frame(b"", opcode=9) + fragments(LARGE[0], b"", b"end")
    data = b"".join(frame(message) + between for message in LARGE)
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    read: list[Any] = []
    async with opened(*chunks, CLOSING) as connection:
        with pytest.raises(ConnectionClosed):
            await connection.read(read.append)
    assert read[::3] == LARGE
    assert read[1::3] == [b"small"] * 4
    assert read[2::3] == [LARGE[0] + b"end"] * 4


async def test_a_connection_that_ends_within_a_large_message_is_reported():
    read: list[Any] = []
    async with opened(frame(b"1") + frame(LARGE[3])[:-1]) as connection:
        reading = asyncio.ensure_future(connection.read(read.append))
        while not read:
            await asyncio.sleep(0)
        connection.eof_received()
        connection.transport.abort()
        with pytest.raises(ConnectionClosed) as error:
            await reading
    assert error.value.rcvd is None
    assert read == [b"1"]


async def test_a_large_message_is_received_into_its_own_memory():
    # Memory of another size for each part would leave gaps between messages.
    read: list[Any] = []
    async with opened(frame(b"x" * 1_000_000)) as connection:
        tracemalloc.start()
        try:
            reading = asyncio.ensure_future(connection.read(read.append))
            while not read:
                await asyncio.sleep(0)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        reading.cancel()
    assert [len(message) for message in read] == [1_000_000]
    assert 1_000_000 < peak < 1_130_000  # asyncio would take 262,144 for a part


async def test_a_message_needs_its_own_memory_once():
    data = frame(b"x" * 1_000_000)
    chunks = [data[i : i + 50_000] for i in range(0, len(data), 50_000)]
    read: list[Any] = []
    async with opened(b"") as connection:
        reading = asyncio.ensure_future(connection.read(read.append))
        await asyncio.sleep(0)
        tracemalloc.start()
        try:
            for chunk in chunks:
                connection.data_received(chunk)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        reading.cancel()
    assert [len(message) for message in read] == [1_000_000]
    assert 1_000_000 < peak < 1_200_000


async def test_messages_that_came_before_are_read_first():
    read: list[Any] = []
    data = frame(b"1") + frame(b"2") + fragments(b"", b"3")
    async with opened(data + CLOSING) as connection:
        await connection.wait_closed()
        with pytest.raises(ConnectionClosed):
            await connection.read(read.append)
    assert read == [b"1", b"2", b"3"]


@pytest.mark.parametrize(
    "data", [frame(b"1"), fragments(b"1", b"")], ids=["whole", "fragments"]
)
async def test_what_a_message_raises_ends_the_reading(data):
    read = []

    def on_message(message: bytes | bytearray) -> None:
        read.append(message)
        raise LookupError(message)

    async with opened(data + frame(b"2")) as connection:
        with pytest.raises(LookupError):
            await connection.read(on_message)
    assert read == [b"1"]
