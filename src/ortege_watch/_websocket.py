"""Client WebSockets: open one, close one, and report failures without secrets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl as tls
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Final, NoReturn, cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.exceptions import (
    ConnectionClosed,
    InvalidMessage,
    InvalidStatus,
    WebSocketException,
)
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from ortege_watch._http.driver import (
    is_bad_certificate,
    proxy_for,
    ssl_context,
    through_proxy,
    tls_advice,
    user_agent,
)
from ortege_watch.errors import OrtegeWatchError, TransportError
from ortege_watch.tokens import Secrets, redact, safe_cause

if TYPE_CHECKING:
    from websockets.protocol import Event

SILENT: Final = logging.Logger("websockets")  # noqa: LOG001 - nobody may enable it
"""At level DEBUG websockets logs headers and frames: tokens and signatures."""
SILENT.disabled = True

CLOSE_TIMEOUT: Final = 1.0
"""Seconds that the closing handshake may take before the connection is aborted."""

_MAX_RESPONSE: Final = 32 * 1024
"""Bytes of a response to the upgrade, body included. websockets 17.4 would read 1 MiB,
and copies what it has for each chunk: chunks of a byte take it 20 s of CPU [seen]."""

_MAX_WAITING: Final = 1
"""Frames after which reading pauses: each may have ``max_size`` bytes."""

_LARGE: Final = 16 * 1024
"""Bytes from which a frame is received into memory of its own."""

_RECEIVED: Final = 64 * 1024
"""Bytes to receive at a time, apart from large frames."""

_MESSAGES: Final = (Opcode.TEXT, Opcode.BINARY)

_BODY_HEADERS: Final = re.compile(
    rb"\r\n(content-length:[ \t]*\d+|transfer-encoding:[ \t]*chunked)[ \t]*(?=\r\n)",
    re.IGNORECASE,
)


class NoRedirectConnect(connect):
    """A ``connect`` that follows no redirects.

    A redirect would send the token to another host; signatures do not cover the host.
    """

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Return the redirect as the :class:`InvalidStatus` that it is."""
        return exc


class _FrameReader(StreamReader):
    """A reader that receives a large frame into memory of exactly its size.

    websockets 17.4 appends what arrives to a buffer, which then has room to grow, and
    copies the frame from it: twice the memory of a frame, and more with the previous
    frame in the way [seen]. At most ``max_size`` bytes are reserved.
    """

    rest: memoryview | None = None  # where the next bytes of a large frame go

    def read_exact(self, n: int) -> Generator[None, None, bytearray]:
        """Read a given number of bytes."""
        return self._read_frame(n) if n >= _LARGE else super().read_exact(n)

    def _read_frame(self, size: int) -> Generator[None, None, bytearray]:
        start = len(self.buffer)
        if start >= size:  # copy what follows the frame instead of the frame
            frame, self.buffer = self.buffer, self.buffer[size:]
            del frame[size:]
            return frame
        frame = bytearray(size)
        frame[:start] = self.buffer
        self.buffer = bytearray()
        self.rest = memoryview(frame)[start:]
        try:
            while self.rest:
                if self.eof:
                    got = size - len(self.rest)
                    raise EOFError(f"stream ends after {got} bytes, expected {size}")
                yield
        finally:
            self.rest = None
        return frame

    def feed_data(self, data: bytes | bytearray) -> None:
        """Take what arrived."""
        if self.rest:
            part = data[: len(self.rest)]
            self.rest[: len(part)] = part
            self.rest = self.rest[len(part) :]
            data = data[len(part) :]
        super().feed_data(data)


class Connection(ClientConnection, asyncio.BufferedProtocol):
    """A connection whose opening fails with the reason, and which ends in time.

    asyncio receives into memory that this names: a large frame is not copied, and no
    memory of another size is taken for each of its parts, which would leave gaps between
    frames. An event loop that does not support it calls ``data_received()`` alone.
    """

    _buffer = memoryview(b"")  # for what is no large frame
    _ends = False
    _opening = b""  # what was received of the response to the upgrade
    _on_message: Callable[[bytes | bytearray], object] | None = None
    _queued = 0  # messages that recv() has not returned, incomplete ones included
    _failure: Exception | None = None  # what on_message raised

    async def read(self, on_message: Callable[[bytes | bytearray], object]) -> NoReturn:
        """Call a function with each message until the connection is closed.

        A message in one frame is passed on at once, without the queue of ``recv()``: the
        task switch of each ``recv()`` costs as much as a small message itself.

        Raises:
            ConnectionClosed: the connection is closed.
            Exception: ``on_message`` raised it; the connection is aborted.
        """
        self._on_message = on_message
        try:
            while True:
                message = await self.recv(decode=False)
                self._queued -= 1
                on_message(message)
        except ConnectionClosed:
            if self._failure is not None:
                raise self._failure from None
            raise
        finally:
            self._on_message = None

    def process_event(self, event: Event) -> None:
        """Pass a message in one frame to :meth:`read`, unless others are before it.

        A version of websockets that does not call this leaves all to ``recv()``.
        """
        if isinstance(event, Frame) and event.opcode in _MESSAGES:
            if self._failure is not None:
                return
            if self._on_message is not None and event.fin and not self._queued:
                data = event.data  # of the frame alone, so it need not be copied
                try:
                    self._on_message(
                        bytes(data) if isinstance(data, memoryview) else data
                    )
                except Exception as error:  # noqa: BLE001 - read() raises it
                    self._failure = error
                    self.transport.abort()
                return
            self._queued += 1
        super().process_event(event)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the memory to receive into: the rest of a large frame, if there is one."""
        del sizehint
        if not self._buffer:  # in a proxy's tunnel, this is called before all others
            self._buffer = memoryview(bytearray(_RECEIVED))
        return getattr(self.protocol.reader, "rest", None) or self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Read what was received there."""
        reader = self.protocol.reader
        if isinstance(reader, _FrameReader) and reader.rest:
            reader.rest = reader.rest[nbytes:]
            if not reader.rest:
                self.data_received(b"")
            return
        data = self._buffer[:nbytes]
        if self.response is None:
            self.data_received(bytes(data))
        else:
            self.data_received(cast("bytes", data))

    def data_received(self, data: bytes) -> None:
        """Read, and abort a connection that the peer should close, and does not."""
        if self.response is None:
            room = _MAX_RESPONSE - len(self._opening)
            start, data = data[:room], data[room:]
            self._opening += start
            super().data_received(start)
            if self.response is not None:
                self._opening = b""
                if type(self.protocol.reader) is StreamReader:
                    self.protocol.reader.__class__ = _FrameReader
            elif data or self.protocol.handshake_exc is not None:
                self.transport.abort()
                return
        super().data_received(data)
        # websockets 17.4 limits that only while something is being sent.
        if not self._ends and self.protocol.close_expected():
            self._ends = True
            self.loop.call_later(CLOSE_TIMEOUT, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the loss."""
        # In a proxy's tunnel, TLS may fail before the connection is made: websockets
        # 17.4 would fail here, and raises that error anyway.
        if hasattr(self, "recv_messages"):
            super().connection_lost(exc)
            failure = self.protocol.handshake_exc
            if isinstance(failure, InvalidMessage) and (refusal := self._refusal()):
                self.protocol.handshake_exc = refusal
            elif failure is not None and exc is not None:
                failure.__cause__ = exc  # such as an alert of TLS 1.3

    def _refusal(self) -> InvalidStatus | None:
        """Return the refusal of an upgrade whose body is too long or cut, without it."""
        head, complete, _ = self._opening.partition(b"\r\n\r\n")
        if not complete:
            return None
        parser = ClientProtocol(self.protocol.uri, logger=SILENT)
        head = _BODY_HEADERS.sub(b"", head + b"\r\n")
        parser.receive_data(head + b"Content-Length: 0\r\n\r\n")
        failure = parser.handshake_exc
        return failure if isinstance(failure, InvalidStatus) else None


def running_loop(what: str, instead: str) -> asyncio.AbstractEventLoop:
    """Return the event loop of asyncio; elsewhere, say what to use instead."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError as error:
        problem = f"{what} needs asyncio; elsewhere, use {instead}"
        raise OrtegeWatchError(problem) from error


async def open_websocket(
    url: str,
    headers: Mapping[str, str],
    *,
    secrets: Iterable[str],
    ssl: tls.SSLContext | None = None,
    open_timeout: float | None = None,
    max_size: int = 1024 * 1024,
) -> Connection:
    """Open a connection that sends no pings of its own.

    ``secrets`` are removed from error messages. ``open_timeout`` is in seconds and
    includes TLS and the upgrade. ``max_size`` limits the bytes of a received message;
    a few of this size are in memory at once, at most.

    Raises:
        InvalidStatus: the server refused the upgrade, or redirected it.
        TransportError: every other failure.
    """
    context = (ssl or ssl_context()) if url.startswith("wss:") else None
    try:
        connection = await NoRedirectConnect(
            url,
            logger=SILENT,
            additional_headers=headers,
            ssl=context,
            compression=None,  # Cube offers none, and it costs CPU
            max_size=max_size,
            max_queue=_MAX_WAITING,
            open_timeout=open_timeout,
            ping_interval=None,
            close_timeout=CLOSE_TIMEOUT,
            create_connection=Connection,
            user_agent_header=user_agent(),
            proxy=proxy_for(url),
        )
        return cast("Connection", connection)
    except InvalidStatus:
        raise
    # ImportError: the environment names a SOCKS proxy, which needs another package.
    except (OSError, WebSocketException, ValueError, ImportError) as error:
        through = through_proxy(url)
        what = str(error) or type(error).__name__
        problem = f"cannot connect{through}: {what}"
        if is_bad_certificate(error):
            problem = f"certificate{through} refused: {what}"
        failure = transport_error(problem + tls_advice(error, url), error, secrets)
        failure.host = url.split("/")[2]
    del headers, secrets  # a traceback shows what a frame has
    raise failure


def transport_error(
    message: str, cause: Exception, secrets: Iterable[str]
) -> TransportError:
    """Return an error with the secrets removed from its message."""
    secrets = Secrets(secrets)
    error = TransportError(redact(message, secrets))
    error.__cause__ = safe_cause(cause, secrets)
    return error


async def close(connection: ClientConnection) -> None:
    """Close a connection, and abort it if the peer does not take part in time."""
    try:
        with contextlib.suppress(TimeoutError):
            # websockets' own close_timeout does not count while the peer reads nothing.
            async with asyncio.timeout(CLOSE_TIMEOUT), asyncio.TaskGroup() as tasks:
                # The peer's close frame is behind what it sent before.
                tasks.create_task(_discard(connection))
                await connection.close()
    finally:  # also where this is cancelled
        connection.transport.abort()
        await connection.wait_closed()


async def _discard(connection: ClientConnection) -> None:
    """Read and forget every frame until the connection is closed."""
    # AssertionError: the rest of a message that had too many fragments.
    with contextlib.suppress(ConnectionClosed, AssertionError):
        while True:
            await connection.recv(decode=False)
