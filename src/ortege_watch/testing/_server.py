"""What all fakes have in common: HTTP and WebSocket on one port, records, and faults.

A :class:`Server` runs an event loop in a thread and serves :class:`Connection` objects; a
:class:`Fake` is what a test holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from http.client import responses
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    Literal,
    Protocol,
    Self,
    TypeAlias,
    TypeVar,
    cast,
)
from urllib.parse import parse_qsl, urlsplit

import attrs
import h11
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from ortege_watch._checks import check_clock, check_int, check_seconds
from ortege_watch.testing._messages import HttpRequest, HttpResponse, page, response

if TYPE_CHECKING:
    from websockets.http11 import Request as Handshake

# SO_LINGER on with a time of zero: closing sends a reset.
_RESET: Final = struct.pack("ii", 1, 0)
# At level DEBUG websockets logs headers and frames: both may contain a real token.
_SILENT = logging.getLogger("ortege_watch.testing.websockets")
_SILENT.disabled = True
# Seconds that a client has to answer a close frame.
_CLOSE_TIMEOUT: Final = 5.0
_DATA: Final = frozenset({Opcode.TEXT, Opcode.BINARY, Opcode.CONT})
# Iterations of the loop in which the last accepted connections may still appear.
_FINAL_ITERATIONS: Final = 3

T = TypeVar("T")
Moment: TypeAlias = Literal["upgrade", "handshake"]
Kind: TypeAlias = Literal["refusal", "answer", "cut", "handshake", "query", "wait"]


class HasNow(Protocol):
    """A clock with ``now()`` in seconds."""

    def now(self) -> float:
        """Return the time in seconds."""
        ...


@attrs.define
class _Fault:
    value: Any
    left: int | None  # None: until heal()


@attrs.define
class Faults:
    """The faults in force; any thread sets them, each in one atomic step."""

    silent: bool = False  # nothing is sent; it is held back instead
    delay: float = 0.0  # seconds by which every answer is late
    drop_after: Moment | None = None  # connections are dropped after this point
    age: float = 0.0  # seconds by which a result is older than it would be
    fragments: int = 1  # the number of frames that a message is cut into
    # by kind, the faults that are used up
    queues: dict[Kind, list[_Fault]] = attrs.field(factory=dict)

    def set(self, kind: Kind, value: Any, times: int | None) -> None:
        """Replace the faults of a kind by one."""
        self.queues[kind] = [_Fault(value, _checked(times))]

    def add(self, kind: Kind, value: Any, times: int | None) -> None:
        """Append a fault to those of its kind."""
        self.queues.setdefault(kind, []).append(_Fault(value, _checked(times)))

    def take(self, kind: Kind) -> Any:
        """Use the first fault of a kind once; return its value, or None without one."""
        queue = self.queues.get(kind, [])
        while queue and queue[0].left is not None and queue[0].left <= 0:
            del queue[0]
        if not queue:
            return None
        fault = queue[0]
        if fault.left is not None:
            fault.left -= 1
        return fault.value

    def clear(self) -> None:
        """End every fault."""
        fresh = Faults()
        for name in attrs.fields_dict(Faults):
            setattr(self, name, getattr(fresh, name))


def _checked(times: int | None) -> int | None:
    if times is not None:
        check_int("times", times, "an int of 0 or more", first=0)
    return times


def check_status(status: object) -> None:
    """Raise :class:`InvalidArgument` unless an answer may have this status."""
    check_int("status", status, "between 200 and 599", first=200, last=599)


class Connection(asyncio.Protocol):
    """One TCP connection: HTTP until it is upgraded, then WebSocket."""

    def __init__(self, server: Server) -> None:
        self.server = server
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
        self._transport = cast("asyncio.Transport", transport)
        with self.server.guarded(self):
            self.server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        with self.server.guarded(self):
            if self.websocket is None:
                self._http.receive_data(data)
                self._next_request()
            else:
                self._feed(self.websocket, data)

    def eof_received(self) -> bool:
        return False  # the transport closes itself

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._transport = None
        with self.server.guarded(self):
            self.server.connections.discard(self)
            self.server.closed(self)

    # What a server calls

    @property
    def is_open(self) -> bool:
        """Whether a WebSocket is open, as far as this side knows."""
        return (
            self.websocket is not None
            and self.websocket.state is State.OPEN
            and self._transport is not None
            and not self._transport.is_closing()
        )

    def send(self, data: bytes, *, binary: bool = False) -> None:
        """Send a message, cut into the number of frames that is set."""
        if self.websocket is None or not self.is_open:
            return
        count = max(1, self.server.faults.fragments)
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
        # Written data is in the kernel already, or the peer has stopped reading.
        self._transport.abort()

    def release(self) -> None:
        """Send what was held back."""
        held, self._held = self._held, []
        for data in held:
            self._write(data)

    def later(self, action: Callable[[], None]) -> None:
        """Run an action, after the delay that is set."""
        delay = self.server.faults.delay

        def run() -> None:
            if self._transport is not None:
                with self.server.guarded(self):
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
            else:  # incomplete, or the client has closed
                return

    def _dispatch(self, event: h11.Request) -> None:
        target = urlsplit(event.target.decode("latin-1"))
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in event.headers}
        request = HttpRequest(
            method=event.method.decode("latin-1"),
            path=target.path,
            params=dict(parse_qsl(target.query, keep_blank_values=True)),
            headers=headers,
            content=bytes(self._content),
            upgrade=headers.get("upgrade", "").lower() == "websocket",
            at=self.server.time(),
        )
        answer = self.server.handle(request)
        if answer is None:
            self.later(lambda: self._accept(event))
        else:
            self.later(lambda: self._respond(answer))

    def _respond(self, response: HttpResponse) -> None:
        body, cut = response.body, self.server.faults.take("cut")
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
        websocket = ServerProtocol(max_size=self.server.max_frame, logger=_SILENT)
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
            self.server.opened(self)
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
            self.server.loop.call_later(_CLOSE_TIMEOUT, self.drop)

    def _part(self, frame: Frame) -> None:
        if frame.opcode is not Opcode.CONT:
            self._parts, self._binary = [], frame.opcode is Opcode.BINARY
        self._parts.append(bytes(frame.data))
        if frame.fin:
            data = b"".join(self._parts)
            text = data if self._binary else data.decode(errors="replace")
            self.server.message(self, text)

    def _flush(self, websocket: ServerProtocol, *, torn: bool = False) -> None:
        for data in websocket.data_to_send():
            if not data:
                self._write(None)
            elif torn:
                # Cut inside the header too, so that no read ends with a frame.
                for piece in (data[:1], data[1:5], data[5:]):
                    self._write(piece)
            else:
                self._write(data)

    # Writing

    def _write(self, data: bytes | None) -> None:
        """Write bytes, or end the connection (None); in a silence, hold it back."""
        if self._transport is None or self._transport.is_closing():
            return
        if self.server.faults.silent:
            self._held.append(data)
        elif data:
            self._transport.write(data)
        elif data is None and self.websocket is not None:
            # Closing with unread bytes sends a reset, and may lose the close frame.
            with contextlib.suppress(OSError):  # the peer has reset it already
                self._transport.write_eof()
        elif data is None:
            self._transport.close()


class Server:
    """A server in a thread; a subclass decides what it answers.

    The methods from :meth:`respond` to :meth:`tick` are called in that thread, with
    ``lock`` held. Commands come from other threads. ``tick`` are the seconds between
    two calls of :meth:`tick`, unless woken; a port of 0 is any free one.
    """

    max_frame: int = 2**20

    def __init__(self, clock: HasNow | None, tick: float, port: int) -> None:
        check_seconds("tick", tick)
        check_int("port", port, "between 0 and 65535", first=0, last=65535)
        check_clock(clock, sleep=None)
        self.lock = threading.RLock()
        self.happened = threading.Condition(self.lock)  # notified after every event
        self.watchers: list[Callable[[], None]] = []
        self.faults = Faults()
        self.requests: list[HttpRequest] = []
        self.failures: list[Exception] = []  # of the fake itself
        self.connections: set[Connection] = set()
        self.time = time.monotonic if clock is None else clock.now
        self.port = port
        self._interval = tick
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: asyncio.Server | None = None
        # Set by start()
        self._thread: threading.Thread
        self._ticking: asyncio.Task[None]
        self._wake: asyncio.Event

    # What a subclass decides

    def respond(self, request: HttpRequest) -> HttpResponse:
        """Answer a request."""
        raise NotImplementedError

    def upgrade(self, request: HttpRequest) -> HttpResponse | None:
        """Answer a request for a WebSocket; None opens it."""
        return self.respond(request)

    def opened(self, connection: Connection) -> None:
        """Note that a WebSocket has opened."""

    def message(self, connection: Connection, data: str | bytes) -> None:
        """Handle a message."""

    def closed(self, connection: Connection) -> None:
        """Note that a connection has ended."""

    def tick(self) -> None:
        """Do what is due."""

    # What connections call

    def handle(self, request: HttpRequest) -> HttpResponse | None:
        """Record a request and answer it; None opens a WebSocket."""
        self.requests.append(request)
        refusal: HttpResponse | None = self.faults.take("refusal")
        if refusal is not None:
            return refusal
        return self.upgrade(request) if request.upgrade else self.respond(request)

    @contextlib.contextmanager
    def guarded(self, connection: Connection | None = None) -> Iterator[None]:
        """Hold the lock; keep an exception for the test, and drop the connection."""
        with self.lock:
            try:
                yield
            except Exception as error:  # noqa: BLE001 - raised in Fake.stop()
                self.failures.append(error)
                if connection is not None:
                    connection.drop()
            finally:
                self.changed()

    def changed(self) -> None:
        """Notify who waits for a condition."""
        self.happened.notify_all()
        for watch in self.watchers:
            watch()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the thread."""
        if self._loop is None:
            raise RuntimeError("the fake server is not running: use it in a with block")
        return self._loop

    @property
    def running(self) -> bool:
        """Whether the thread runs."""
        return self._loop is not None

    def start(self) -> None:
        """Start the thread and listen.

        Raises:
            OSError: the port is taken.
            RuntimeError: it is running.
        """
        if self.running:
            raise RuntimeError("the fake server is already running")
        self._loop, self._wake = asyncio.new_event_loop(), asyncio.Event()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="fake-server", daemon=True
        )
        self._thread.start()
        try:
            self.run(self._open)
        except BaseException:
            self._end(self._loop)
            raise

    def stop(self) -> None:
        """End every connection, the loop and the thread."""
        if self._loop is not None:
            self.run(self._close)
            self._end(self._loop)

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        loop.close()
        self._loop = None

    async def _open(self) -> None:
        await self.listen()
        self._ticking = asyncio.create_task(self._ticks())

    async def _close(self) -> None:
        self._ticking.cancel()
        await asyncio.gather(self._ticking, return_exceptions=True)
        await self.unlisten()
        for _ in range(_FINAL_ITERATIONS):
            await self.end_connections()

    async def _ticks(self) -> None:
        while True:
            # Not wait_for(): on 3.11 it swallows a cancellation that meets a wake-up.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._wake.wait()
            self._wake.clear()
            with self.guarded():
                self.tick()

    async def listen(self) -> None:
        """Open the listener; the first time this decides the port."""
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
        await asyncio.sleep(0)  # in this iteration the loop calls connection_lost()

    def wake(self) -> None:
        """Cause a tick now."""
        with contextlib.suppress(RuntimeError):  # not running
            self.loop.call_soon_threadsafe(self._wake.set)

    def run(self, action: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in the loop and return its result."""
        loop = self.loop  # before the coroutine is made, which nothing would await
        return asyncio.run_coroutine_threadsafe(action(), loop).result()

    def call(self, action: Callable[[], T]) -> T:
        """Call a function in the loop, under the lock, and return its result."""

        async def call() -> T:
            with self.lock:
                try:
                    return action()
                finally:
                    self.changed()

        return self.run(call)


ServerT = TypeVar("ServerT", bound=Server)


class Fake(Generic[ServerT]):
    """A server on loopback for tests; the base class of the fakes.

    Every method may be called from any thread. A fault without an end of its own lasts
    until :meth:`heal`.
    """

    def __init__(self, server: ServerT) -> None:
        self._server = server
        self._speaking: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start to serve; ``with`` and ``async with`` do this.

        Raises:
            OSError: the port is taken.
            RuntimeError: it is running.
        """
        self._server.start()

    def stop(self) -> None:
        """End every connection, the event loop and the thread.

        Raises:
            RuntimeError: the fake itself has failed; the cause says where.
        """
        self._server.stop()
        if self._server.failures:
            raise RuntimeError("the fake server failed") from self._server.failures[0]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        if any(error):
            # An exception of the test is not replaced by one of the fake.
            self._server.failures.clear()
        self.stop()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *error: object) -> None:
        self.__exit__(*error)

    @property
    def port(self) -> int:
        """The port, which stays the same after :meth:`restart`."""
        return self._server.port

    @property
    def requests(self) -> list[HttpRequest]:
        """Every HTTP request, upgrades included: method, path, headers, json ..."""
        with self._server.lock:
            return list(self._server.requests)

    @property
    def sockets(self) -> int:
        """The number of open TCP connections, WebSockets and idle HTTP alike."""
        return len(self._server.connections)

    def wait_until(
        self, predicate: Callable[[], object], *, timeout: float = 5.0
    ) -> None:
        """Wait until a condition on this server is true.

        It is evaluated after every event on the server, and only then.

        Args:
            predicate: such as ``lambda: cube.subscriptions``.
            timeout: seconds before giving up.

        Raises:
            TimeoutError: the condition did not become true in time.
        """
        happened = self._server.happened
        with happened:
            if not happened.wait_for(lambda: bool(predicate()), timeout):
                raise TimeoutError(f"not within {timeout} s: {self!r}")

    async def wait_until_async(
        self, predicate: Callable[[], object], *, timeout: float = 5.0
    ) -> None:
        """Wait as :meth:`wait_until` does, without blocking the event loop."""
        loop, seen = asyncio.get_running_loop(), asyncio.Event()
        server = self._server

        def watch() -> None:
            loop.call_soon_threadsafe(seen.set)

        def is_true() -> bool:
            with server.lock:
                return bool(predicate())

        with server.lock:
            server.watchers.append(watch)
        try:
            async with asyncio.timeout(timeout):
                while not is_true():
                    await seen.wait()
                    seen.clear()
        except TimeoutError:
            raise TimeoutError(f"not within {timeout} s: {self!r}") from None
        finally:
            with server.lock:
                server.watchers.remove(watch)

    # Misbehaviour

    def drop(self, *, reset: bool = False) -> None:
        """End every TCP connection without a close frame, as a crashing server does.

        Args:
            reset: send a TCP reset instead of closing normally.
        """
        self._server.run(lambda: self._server.end_connections(reset=reset))

    def down(self) -> None:
        """Stop listening and drop every connection: connecting is refused."""
        self._server.run(self._server.unlisten)
        self.drop()

    def up(self) -> None:
        """Listen again, on the same port."""
        self._server.run(self._server.listen)

    def restart(self) -> None:
        """Go down and up again: every connection and subscription is lost."""
        self.down()
        self.up()

    def silence(self, seconds: float | None = None) -> None:
        """Accept connections and read, but send nothing: no answer, tick or pong.

        The output is held back until :meth:`speak`; subscriptions are not run until
        then, and once after it.

        Args:
            seconds: speak again after this time; None: until :meth:`speak`.
        """
        if seconds is not None:
            check_seconds("seconds", seconds, or_zero=True)

        def silence() -> None:
            self._server.faults.silent = True
            if self._speaking is not None:
                self._speaking.cancel()
            if seconds is not None:
                loop = self._server.loop
                self._speaking = loop.call_later(seconds, self._speak)

        self._server.call(silence)

    def speak(self) -> None:
        """End a silence: send what was held back."""
        self._server.call(self._speak)

    def _speak(self) -> None:
        with self._server.guarded():
            self._server.faults.silent = False
            for connection in tuple(self._server.connections):
                connection.release()
        self._server.wake()

    def slow(self, seconds: float) -> None:
        """Delay every answer by this many seconds; 0 ends it."""
        check_seconds("seconds", seconds, or_zero=True)
        self._server.faults.delay = seconds

    def refuse(
        self,
        status: int = 503,
        *,
        headers: Mapping[str, str] | None = None,
        times: int | None = None,
    ) -> None:
        """Answer upgrades and requests with a status and an HTML page.

        Args:
            status: such as 401, 404, 502 or 503.
            headers: such as ``{"Retry-After": "2"}``.
            times: how often; None: until :meth:`heal`.
        """
        check_status(status)
        self._server.faults.set("refusal", page(status, headers), times)

    def error(
        self,
        status: int,
        body: bytes | str | Mapping[str, Any] = b"",
        *,
        headers: Mapping[str, str] | None = None,
        times: int | None = 1,
    ) -> None:
        """Answer HTTP requests with this, good or bad; several calls make a queue.

        Upgrades to WebSocket are not answered with it; for these use :meth:`refuse`.

        Args:
            status: of the answer.
            body: bytes or a string, sent as they are (HTML, half a JSON), or a mapping,
                which is sent as JSON.
            headers: such as ``{"Retry-After": "2"}``.
            times: how many requests get it before the next in the queue; None: all.
        """
        check_status(status)
        content = dict(body) if isinstance(body, Mapping) else body
        answer = response(status, content, headers)
        self._server.faults.add("answer", answer, times)

    def cut(self, times: int = 1) -> None:
        """Send half of the body of the next HTTP answers, then end the connection."""
        self._server.faults.set("cut", value=True, times=times)

    def heal(self) -> None:
        """End every misbehaviour."""

        def heal() -> None:
            self._speak()
            self._server.faults.clear()

        self._server.call(heal)
