"""Servers and proxies on loopback that do what a test says, with and without TLS.

Each has an event loop in a thread of its own, so that a test may block.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Awaitable, Callable
from typing import Self

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """A server that calls ``talk(reader, writer)`` for each connection.

    Attributes:
        attempts: how many connections were accepted, before any TLS handshake.
        served: how many of them came to ``talk``.
        open: how many of them are in it now.
    """

    def __init__(
        self, talk: Talk, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> None:
        self._address = host
        self.attempts = self.served = self.open = 0
        self.port = 0
        self._talk = talk
        self._tls = tls
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))

    @property
    def host(self) -> str:
        """The host and port, as messages show them."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The address, without TLS."""
        return f"http://{self.host}"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    async def _main(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = await loop.create_server(
            self._accept, self._address, 0, ssl=self._tls, backlog=100
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()

    def _accept(self) -> asyncio.StreamReaderProtocol:
        self.attempts += 1
        reader = asyncio.StreamReader()
        return asyncio.StreamReaderProtocol(reader, self._serve)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.served += 1
        self.open += 1
        try:
            await self._talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has left, or the test is over
        finally:
            self.open -= 1
            writer.transport.abort()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """Read an HTTP request, with its body; return its head.

    What is not read when a socket is closed makes the client lose the answer.
    """
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            await reader.readexactly(int(line.split(b":")[1]))
    return head


async def close(writer: asyncio.StreamWriter) -> None:
    """Close a connection after everything was sent."""
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read until the client leaves, and say nothing."""
    while await reader.read(65536):
        pass


def handshaking(tls: ssl.SSLContext) -> Talk:
    """Refuse handshakes with an alert, as servers do; asyncio only resets them."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = tls.wrap_bio(received, to_send, server_side=True)
        while True:
            try:
                session.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                writer.write(to_send.read())
                writer.write_eof()
                await silent(reader, writer)
                return
            writer.write(to_send.read())
            data = await reader.read(65536)
            if not data:
                return
            received.write(data)

    return talk


def relay(port: int) -> Talk:
    """Pass everything on to a server on loopback."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward = await asyncio.open_connection("127.0.0.1", port)
        await _join((reader, writer), onward)

    return talk


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _join(one: Stream, other: Stream) -> None:
    """Copy in both directions until one of the two sides ends."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    copies = [
        asyncio.ensure_future(copy(one[0], other[1])),
        asyncio.ensure_future(copy(other[0], one[1])),
    ]
    try:
        await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        for _, writer in (one, other):
            writer.close()  # after what is still buffered
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), 1)
    finally:
        for each in copies:
            each.cancel()
        await asyncio.gather(*copies, return_exceptions=True)
        for _, writer in (one, other):
            writer.transport.abort()


class ConnectProxy(Peer):
    """An HTTP proxy for ``CONNECT``.

    Args:
        answer: what is sent instead of opening the tunnel; ``None`` says nothing.

    Attributes:
        asked: the head of each request.
    """

    def __init__(self, answer: bytes | None = b"") -> None:
        super().__init__(self._tunnel)
        self.answer = answer
        self.asked: list[str] = []

    async def _tunnel(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head)
        if self.answer is None:
            await silent(reader, writer)
        elif self.answer:
            writer.write(self.answer)
            await writer.drain()
            writer.close()
        else:
            host, _, port = head.split()[1].rpartition(":")
            onward = await asyncio.open_connection(host.strip("[]"), int(port))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await _join((reader, writer), onward)
