"""The network side of the fakes: one port, in a thread with a loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from http.client import responses
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast
from urllib.parse import parse_qsl, urlsplit

import attrs
import h11
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from ortege_watch.testing._messages import HttpRequest, HttpResponse

if TYPE_CHECKING:
    from websockets.http11 import Request as Handshake

    from ortege_watch.testing._faults import Faults

# -------------------- One connection to a fake: HTTP until it is upgraded, then WebSocket.


# SO_LINGER on with a time of zero: closing sends a reset.
_RESET = struct.pack("ii", 1, 0)
# At level DEBUG websockets logs headers and frames: both may carry a real token.
_SILENT = logging.getLogger("ortege_watch.testing.websockets")
_SILENT.disabled = True
# Seconds that a client has to answer a close frame.
_LEAVING = 5.0
_DATA = frozenset({Opcode.TEXT, Opcode.BINARY, Opcode.CONT})


class Application(Protocol):
    """Say what the server asks of what it serves; every call is in its thread."""

    faults: Faults
    max_frame: int

    def request(self, request: HttpRequest) -> HttpResponse:
        """Answer a request that is no upgrade."""
        ...

    def upgrade(self, request: HttpRequest) -> HttpResponse | None:
        """Let a WebSocket open (None), or answer something else."""
        ...

    def opened(self, connection: Connection) -> None:
        """Take note of a WebSocket that has opened."""
        ...

    def message(self, connection: Connection, data: str | bytes) -> None:
        """Take a message."""
        ...

    def closed(self, connection: Connection) -> None:
        """Take note of a connection that has ended."""
        ...

    def tick(self) -> None:
        """Do what is due: at every interval, and when woken."""
        ...

    def changed(self) -> None:
        """Take note, under the lock, that something has happened."""
        ...

    def failed(self, error: Exception) -> None:
        """Take note of a defect of the fake itself."""
        ...

    def time(self) -> float:
        """Tell the time of the log."""
        ...


class Connection(asyncio.Protocol):
    """Serve one TCP connection: HTTP, until it is upgraded."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.application = server.application
        self.websocket: ServerProtocol | None = None
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=2**20)
        self._request: h11.Request | None = None
        self._content = bytearray()
        self._held: list[bytes | None] = []
        self._parts: list[bytes] = []
        self._binary = False
        self._transport: asyncio.Transport | None = None

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        with self._guarded():
            self.server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        with self._guarded():
            if self.websocket is None:
                self._http.receive_data(data)
                self._next_request()
            else:
                self._feed(self.websocket, data)

    def eof_received(self) -> bool:
        """Let the transport close itself."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """End."""
        self._transport = None
        with self._guarded():
            self.server.connections.discard(self)
            self.application.closed(self)

    # What the application calls

    @property
    def is_open(self) -> bool:
        """Whether a WebSocket is open here, as far as this side knows."""
        return (
            self.websocket is not None
            and self.websocket.state is State.OPEN
            and self._transport is not None
            and not self._transport.is_closing()
        )

    def send(self, data: bytes, *, binary: bool = False) -> None:
        """Send a message, in as many frames as the faults ask for."""
        if self.websocket is None or not self.is_open:
            return
        count = max(1, self.application.faults.fragments)
        size = max(1, -(-len(data) // count))
        pieces = [data[i : i + size] for i in range(0, len(data), size)] or [b""]
        first, rest = pieces[0], pieces[1:]
        begin = self.websocket.send_binary if binary else self.websocket.send_text
        begin(first, fin=not rest)
        for index, piece in enumerate(rest, 1):
            self.websocket.send_continuation(piece, fin=index == len(rest))
        self._flush(self.websocket, torn=count > 1)

    def close(self, code: int, reason: str) -> None:
        """Send a close frame."""
        if self.websocket is not None and self.is_open:
            self.websocket.send_close(code, reason)
            self._flush(self.websocket)

    def drop(self, *, reset: bool = False) -> None:
        """End the TCP connection, without a close frame."""
        if self._transport is None:
            return
        if reset:
            raw = self._transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        # What was written has gone to the kernel, or finds no reader anyway.
        self._transport.abort()

    def release(self) -> None:
        """Send what a silence held back."""
        held, self._held = self._held, []
        for data in held:
            self._write(data)

    def later(self, action: Callable[[], None]) -> None:
        """Run an answer, late where the faults say so."""
        delay = self.application.faults.delay

        def run() -> None:
            if self._transport is not None:
                with self._guarded():
                    action()

        if delay > 0:
            self.server.loop.call_later(delay, run)
        else:
            run()

    # HTTP

    def _next_request(self) -> None:
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError:
                self.drop()
                return
            if isinstance(event, h11.Request):
                self._request, self._content = event, bytearray()
            elif isinstance(event, h11.Data):
                self._content += event.data
            elif isinstance(event, h11.EndOfMessage) and self._request is not None:
                self._dispatch(self._request)
                return
            else:  # more bytes are needed, or the client has gone
                return

    def _dispatch(self, event: h11.Request) -> None:
        target = urlsplit(event.target.decode("latin-1"))
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in event.headers}
        upgrade = headers.get("upgrade", "").lower() == "websocket"
        request = HttpRequest(
            method=event.method.decode("latin-1"),
            path=target.path,
            params=dict(parse_qsl(target.query, keep_blank_values=True)),
            headers=headers,
            content=bytes(self._content),
            upgrade=upgrade,
            at=self.application.time(),
        )
        if upgrade:
            response = self.application.upgrade(request)
            if response is None:
                self.later(lambda: self._accept(event))
                return
        else:
            response = self.application.request(request)
        self.later(lambda: self._respond(response))

    def _respond(self, response: HttpResponse) -> None:
        body, cut = response.body, self.application.faults.take_cut()
        headers = {"content-length": str(len(body)), **response.headers}
        start = h11.Response(
            status_code=response.status,
            headers=list(headers.items()),
            reason=responses.get(response.status, "").encode(),
        )
        bodiless = response.status in {204, 304}
        if bodiless or (self._request and self._request.method == b"HEAD"):
            body = b""
        self._write(self._http.send(start) or b"")
        if cut:
            self._write(body[: len(body) // 2])
            self.drop()
            return
        self._write(self._http.send(h11.Data(data=body)) or b"")
        self._write(self._http.send(h11.EndOfMessage()) or b"")
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self._next_request()
        else:
            self._write(None)

    # WebSocket

    def _accept(self, event: h11.Request) -> None:
        websocket = ServerProtocol(max_size=self.application.max_frame, logger=_SILENT)
        self.websocket = websocket
        lines = [b"GET %b HTTP/1.1" % event.target]
        lines += [b"%b: %b" % (name, value) for name, value in event.headers]
        trailing = self._http.trailing_data[0]
        websocket.receive_data(b"\r\n".join(lines) + b"\r\n\r\n")
        for handshake in websocket.events_received():
            answer = websocket.accept(cast("Handshake", handshake))
            websocket.send_response(answer)
        self._flush(websocket)
        if self.is_open:
            self.application.opened(self)
        if trailing and self._transport is not None:
            self._feed(websocket, trailing)

    def _feed(self, websocket: ServerProtocol, data: bytes) -> None:
        websocket.receive_data(data)
        frames = cast("list[Frame]", websocket.events_received())
        self._flush(websocket)
        for frame in frames:
            if frame.opcode in _DATA:
                self._part(frame)
        if websocket.close_expected() and self._transport is not None:
            # A client that does not answer the close frame is not waited for long.
            self.server.loop.call_later(_LEAVING, self.drop)

    def _part(self, frame: Frame) -> None:
        if frame.opcode is not Opcode.CONT:
            self._parts, self._binary = [], frame.opcode is Opcode.BINARY
        self._parts.append(bytes(frame.data))
        if frame.fin:
            data = b"".join(self._parts)
            text = data if self._binary else data.decode(errors="replace")
            self.application.message(self, text)

    def _flush(self, websocket: ServerProtocol, *, torn: bool = False) -> None:
        for data in websocket.data_to_send():
            if not data:
                self._write(None)
            elif torn:
                # The header in two, so that no read ends where a frame does.
                for piece in (data[:1], data[1:5], data[5:]):
                    self._write(piece)
            else:
                self._write(data)

    # Writing

    def _write(self, data: bytes | None) -> None:
        """Write bytes, or end the connection (None), once it may be heard."""
        if self._transport is None or self._transport.is_closing():
            return
        if self.application.faults.silent:
            self._held.append(data)
        elif data:
            self._transport.write(data)
        elif data is None and self.websocket is not None:
            # To close with bytes unread would reset: the close frame might be lost.
            with contextlib.suppress(OSError):  # the peer has reset it already
                self._transport.write_eof()
        elif data is None:
            self._transport.close()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        with self.server.lock:
            try:
                yield
            except Exception as error:  # noqa: BLE001 - kept for the test to see
                self.application.failed(error)
                self.drop()
            finally:
                self.application.changed()


T = TypeVar("T")
# Turns of the loop in which a connection accepted last of all may still turn up.
_STRAGGLERS = 3


@attrs.define(eq=False)
class Server:
    """Run the event loop in a thread; commands come from any other thread.

    Attributes:
        lock: held whenever anything of the application is read or changed.
        interval: seconds between two ticks, unless woken.
    """

    application: Application
    lock: threading.RLock
    interval: float
    port: int = 0
    connections: set[Connection] = attrs.field(factory=set)
    _thread: threading.Thread | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _listener: asyncio.Server | None = None
    _stop: asyncio.Event = attrs.field(factory=asyncio.Event)
    _wake: asyncio.Event = attrs.field(factory=asyncio.Event)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that runs in the thread."""
        if self._loop is None:
            raise RuntimeError("the fake server does not run; use it in a with block")
        return self._loop

    @property
    def running(self) -> bool:
        """Whether the thread serves."""
        return self._thread is not None

    def start(self) -> None:
        """Start the thread and listen; returns when connections can be made.

        Raises:
            OSError: the port cannot be had.
        """
        started = threading.Event()
        failures: list[BaseException] = []
        self._stop, self._wake = asyncio.Event(), asyncio.Event()

        def run() -> None:
            try:
                asyncio.run(self._main(started))
            except BaseException as error:  # noqa: BLE001 - raised in start()
                failures.append(error)
                started.set()

        self._thread = threading.Thread(target=run, name="fake-server", daemon=True)
        self._thread.start()
        started.wait()
        if failures:
            self._thread.join()
            self._thread = None
            raise failures[0]

    def stop(self) -> None:
        """End every connection, the loop and the thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self.loop.call_soon_threadsafe(self._stop.set)
            thread.join()
            self._loop = None

    async def _main(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        await self.listen()
        ticking = asyncio.create_task(self._ticks())
        started.set()
        try:
            await self._stop.wait()
        finally:
            ticking.cancel()
            await asyncio.gather(ticking, return_exceptions=True)
            await self.unlisten()
            for _ in range(_STRAGGLERS):
                await self.end_connections()

    async def _ticks(self) -> None:
        while True:
            # Not wait_for(): on 3.11 it swallows a cancellation that meets a wake-up.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.interval):
                    await self._wake.wait()
            self._wake.clear()
            with self.lock:
                try:
                    self.application.tick()
                except Exception as error:  # noqa: BLE001 - kept for the test to see
                    self.application.failed(error)
                finally:
                    self.application.changed()

    async def listen(self) -> None:
        """Open the listener; the first time this settles the port."""
        if self._listener is None:
            self._listener = await self.loop.create_server(
                lambda: Connection(self), "127.0.0.1", self.port
            )
            self.port = self._listener.sockets[0].getsockname()[1]

    async def unlisten(self) -> None:
        """Close the listener."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    async def end_connections(self, *, reset: bool = False) -> None:
        """Drop every connection; when this returns they are gone."""
        for connection in tuple(self.connections):
            connection.drop(reset=reset)
        await asyncio.sleep(0)  # the turn in which the loop takes leave of them

    def wake(self) -> None:
        """Let a tick happen at once; from any thread."""
        with contextlib.suppress(RuntimeError):  # it does not run
            self.loop.call_soon_threadsafe(self._wake.set)

    def run(self, action: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in the loop and wait for it; from any other thread."""
        loop = self.loop
        return asyncio.run_coroutine_threadsafe(action(), loop).result()

    def call(self, action: Callable[[], T]) -> T:
        """Run a function in the loop, under the lock, and wait for it."""

        async def call() -> T:
            with self.lock:
                try:
                    return action()
                finally:
                    self.application.changed()

        return self.run(call)
