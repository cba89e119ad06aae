"""Servers that no library would make: raw bytes on loopback."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

HANDSHAKE = b'{"handshake":true}'
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3

Talk = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def upgrade(request: bytes) -> bytes:
    """Answer an upgrade request with 101."""
    name = b"sec-websocket-key:"
    lines = request.split(b"\r\n")
    key = next(line for line in lines if line.lower().startswith(name))
    digest = hashlib.sha1(key[len(name) :].strip() + _GUID).digest()
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Accept: "
        + base64.b64encode(digest)
        + b"\r\n\r\n"
    )


def frame(payload: bytes, *, opcode: int = 1, flags: int = 0x80) -> bytes:
    """Write one frame, unmasked, whether that is allowed or not."""
    size = len(payload)
    if size < 126:
        length = bytes([size])
    elif size < 65536:
        length = bytes([126]) + size.to_bytes(2, "big")
    else:
        length = bytes([127]) + size.to_bytes(8, "big")
    return bytes([flags | opcode]) + length + payload


@asynccontextmanager
async def peer(talk: Talk) -> AsyncIterator[str]:
    """Serve connections with ``talk(request, reader, writer)``; give the URL."""
    tasks = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            await talk(await reader.readuntil(b"\r\n\r\n"), reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(asyncio.current_task())
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        left = list(tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left)


def saying(*chunks: bytes, upgraded: bool = True) -> Talk:
    """Send these bytes, read whatever comes, and leave the connection open."""

    async def talk(
        request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if upgraded:
            writer.write(upgrade(request))
        for chunk in chunks:
            writer.write(chunk)
        while await reader.read(65536):
            pass

    return talk
