"""A TCP proxy on loopback that injects the faults of a schedule."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from injection import decisions
from injection.schedule import Entry, Fault

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from concurrent.futures import Future

T = TypeVar("T")
LOOPBACK = "127.0.0.1"
_CHUNK = 65536
# What a peer may take to close its direction after the other one was closed.
_LINGER_SECONDS = 2.0
_RESET = struct.pack("ii", 1, 0)
_ON_ACCEPT = (
    Fault.CLOSE_EARLY,
    Fault.GARBAGE,
    Fault.UNAVAILABLE,
    Fault.SILENCE,
)


class LoopThread:
    """A thread with an event loop, for proxies."""

    def __enter__(self) -> Self:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self.loop.run_forever, name="proxies", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and return its result."""
        return self.start(work).result()


class Proxy:
    """Forwards connections to a server and runs the faults of a schedule.

    Args:
        thread: the running thread for its tasks.
        server: the port on loopback to forward to.
        seed: of the decisions about single chunks.

    Attributes:
        port: the port that it listens on.
        effects: how often each fault changed, delayed or ended a connection.
    """

    def __init__(self, thread: LoopThread, server: int, seed: int | str = 0) -> None:
        self.effects: Counter[Fault] = Counter()
        self.port = 0
        self._thread = thread
        self._server = server
        self._seed = seed
        self._marker: bytes | None = None
        self._spoiled = threading.Event()
        self._active: list[Entry] = []
        self._links: set[_Link] = set()
        self._accepted = 0
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._schedules: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.run(self._listen())
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.run(self._close())

    @property
    def connections(self) -> int:
        """The number of connections that are not closed."""
        return len(self._links)

    @property
    def accepted(self) -> int:
        """The number of connections so far."""
        return self._accepted

    @property
    def active(self) -> list[Entry]:
        """The faults that last now."""
        return self._active

    def run(self, schedule: Sequence[Entry]) -> Future[None]:
        """Start a schedule; the future is done when its last fault has ended."""
        return self._thread.start(self._run(schedule))

    def begin(self, entry: Entry) -> None:
        """Let a fault begin now, whatever its time."""
        self._thread.run(self._begin(entry))

    def finish(self, entry: Entry) -> None:
        """Let a fault end that has begun."""
        self._thread.run(self._finish(entry))

    def spoil(self, marker: str) -> None:
        """Corrupt the next frame or body for a client with this string, and no other.

        It is short, so it is expected within one chunk.
        """
        self._spoiled.clear()
        self._marker = marker.encode()

    @property
    def has_spoiled(self) -> bool:
        """Whether that has happened."""
        return self._spoiled.is_set()

    def pass_on(self, data: bytes) -> bytes:
        """Return what is forwarded to a client for these bytes."""
        if self._marker is None or self._spoiled.is_set():
            return data
        spoiled = decisions.spoiled(data, self._marker)
        if spoiled is None:
            return data
        self._spoiled.set()
        self.effects[Fault.CORRUPT] += 1
        return spoiled

    def wait_idle(self, seconds: float) -> bool:
        """Wait until no connection is left; return whether that came true in time."""

        async def idle() -> bool:
            try:
                async with asyncio.timeout(seconds):
                    while self._tasks:
                        await asyncio.wait(set(self._tasks))
            except TimeoutError:
                return not self._tasks
            return True

        return self._thread.run(idle())

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(
                self._accept, LOOPBACK, self.port
            )
            self.port = self._listener.sockets[0].getsockname()[1]

    async def _unlisten(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    async def _close(self) -> None:
        for schedule in self._schedules:
            schedule.cancel()
        if self._schedules:
            await asyncio.wait(set(self._schedules))
        await self._unlisten()
        for link in tuple(self._links):
            link.end(reset=True)
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self, schedule: Sequence[Entry]) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._schedules.add(task)
        task.add_done_callback(self._schedules.discard)
        started = self._thread.loop.time()

        async def run(entry: Entry) -> None:
            await asyncio.sleep(started + entry.at - self._thread.loop.time())
            await self._begin(entry)
            await asyncio.sleep(entry.duration)
            await self._finish(entry)

        async with asyncio.TaskGroup() as tasks:
            for entry in schedule:
                tasks.create_task(run(entry))

    async def _begin(self, entry: Entry) -> None:
        self._active.append(entry)
        if entry.fault is Fault.DOWN:
            await self._unlisten()
        for link in tuple(self._links):
            link.begin(entry)

    async def _finish(self, entry: Entry) -> None:
        self._active.remove(entry)
        down = any(other.fault is Fault.DOWN for other in self._active)
        if entry.fault is Fault.DOWN and not down:
            await self._listen()
        for link in tuple(self._links):
            link.finish(entry)

    async def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._accepted += 1
        link = _Link(self, reader, writer, f"{self._seed}/{self._accepted}")
        self._links.add(link)
        try:
            await link.serve(self._server)
        except OSError:
            link.end(reset=True)
        finally:
            link.end(reset=False)
            self._links.discard(link)


class _Link:
    """One connection of a client, and the one to the server behind it."""

    def __init__(
        self,
        proxy: Proxy,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        seed: str,
    ) -> None:
        self._proxy = proxy
        self._client = (reader, writer)
        self._writers = [writer]
        self._seed = seed
        self._open = asyncio.Event()
        self._open.set()
        self._stalled_by: Entry | None = None
        self._half_closed: asyncio.StreamWriter | None = None
        self._ended = asyncio.Event()

    # Faults

    def begin(self, entry: Entry) -> None:
        """Let a fault begin on this open connection."""
        match entry.fault:
            case Fault.DROP | Fault.DOWN:
                self._count(entry.fault)
                self.end(reset=False)
            case Fault.RESET:
                self._count(entry.fault)
                self.end(reset=True)
            case Fault.HALF_CLOSE:
                self._count(entry.fault)
                side = self._writers[entry.seed % len(self._writers)]
                if not side.is_closing() and self._half_closed is None:
                    self._half_closed = side
                    with contextlib.suppress(OSError):
                        side.write_eof()
            case Fault.STALL:
                self._stall(entry)
            case fault if fault in _ON_ACCEPT:
                self.end(reset=True)  # else nobody would connect
            case _:
                pass

    def finish(self, entry: Entry) -> None:
        """Let a fault end on this connection."""
        if self._stalled_by is not entry:
            return
        match entry.ending:
            case "resume":
                self._stalled_by = None
                self._open.set()
            case "reset":
                self.end(reset=True)
            case "never":
                pass

    def end(self, *, reset: bool) -> None:
        """Close both connections at once; a second call does nothing."""
        if self._ended.is_set():
            return
        self._ended.set()
        for writer in self._writers:
            if reset:
                peer = writer.get_extra_info("socket")
                with contextlib.suppress(OSError):
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()
            else:
                writer.close()

    def _stall(self, entry: Entry) -> None:
        if self._stalled_by is None:
            self._count(entry.fault)
            self._stalled_by = entry
            self._open.clear()

    def _count(self, fault: Fault) -> None:
        self._proxy.effects[fault] += 1

    # Forwarding

    async def serve(self, server: int) -> None:
        """Forward until the connection has ended."""
        early = await self._unless_ended(self._on_accept())
        if early is None:
            return
        # Not cancelled by an end: a connection could be made and forgotten.
        reader, writer = await asyncio.open_connection(LOOPBACK, server)
        self._writers.append(writer)
        if self._ended.is_set():
            writer.transport.abort()
            return
        writer.write(early)
        await self._unless_ended(self._forward(reader, writer))

    async def _unless_ended(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Return the result of a coroutine, or ``None`` if this link ends before."""
        ended = asyncio.create_task(self._ended.wait())
        task = asyncio.create_task(work)
        try:
            await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (task, ended):
                each.cancel()
            await asyncio.gather(task, ended, return_exceptions=True)
        return None if task.cancelled() else task.result()

    async def _on_accept(self) -> bytes | None:
        """Return what the client has sent while it got no answer.

        ``None`` if the proxy has answered, and nothing is to be forwarded.
        """
        reader, writer = self._client
        for entry in self._proxy.active:
            if entry.fault not in _ON_ACCEPT:
                continue
            self._count(entry.fault)
            if entry.fault is not Fault.SILENCE:
                await self._misbehave(entry, reader, writer)
                return None
            self._stalled_by = entry
            self._open.clear()
            return await self._until_open("up", reader)
        return b""

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        up = asyncio.create_task(self._pump("up", self._client[0], writer))
        down = asyncio.create_task(self._pump("down", reader, self._client[1]))
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({up, down}, timeout=_LINGER_SECONDS)
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)

    async def _misbehave(
        self, entry: Entry, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        match entry.fault:
            case Fault.GARBAGE:
                writer.write(decisions.garbage(entry.seed + self._proxy.accepted))
            case Fault.UNAVAILABLE:
                with contextlib.suppress(asyncio.IncompleteReadError):
                    await reader.readuntil(b"\r\n\r\n")
                writer.write(decisions.unavailable(entry.seed + self._proxy.accepted))
            case _:
                pass
        with contextlib.suppress(ConnectionError):
            await writer.drain()

    async def _until_open(
        self, direction: Literal["up", "down"], reader: asyncio.StreamReader
    ) -> bytes:
        """Wait while the connection is stalled; return what a client sends meanwhile.

        A client that closes its end meanwhile is gone, and so is the connection.
        """
        data = b""
        while not self._open.is_set():
            if direction == "down":
                await self._open.wait()
                continue
            reading = asyncio.ensure_future(reader.read(_CHUNK))
            opened = asyncio.ensure_future(self._open.wait())
            both = {reading, opened}
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in both:
                    each.cancel()
                await asyncio.gather(*both, return_exceptions=True)
            if not reading.cancelled():
                more = reading.result()
                if not more:
                    self.end(reset=True)
                    return data
                data += more
        return data

    async def _pump(
        self,
        direction: Literal["up", "down"],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        flow = decisions.Flow(direction, f"{self._seed}/{direction}")
        backlog = b""
        try:
            while True:
                await asyncio.sleep(flow.before_read(self._proxy.active))
                data = backlog or await reader.read(_CHUNK)
                if not data:
                    break
                if direction == "down":
                    data = self._proxy.pass_on(data)
                backlog = await self._until_open(direction, reader)
                for step in flow.decide(data, self._proxy.active):
                    match step:
                        case decisions.Pause(seconds):
                            await asyncio.sleep(seconds)
                        case decisions.Write(piece):
                            backlog += await self._until_open(direction, reader)
                            if writer is not self._half_closed:
                                writer.write(piece)
                                await writer.drain()
                        case decisions.End(reset):
                            self.end(reset=reset)
                            return
            if not writer.is_closing() and writer is not self._half_closed:
                writer.write_eof()
        except ConnectionError:
            self.end(reset=True)
        finally:
            self._proxy.effects.update(flow.done)
