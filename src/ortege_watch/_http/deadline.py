"""What this library changes about the sockets of httpx: it wraps its network backends.

Blocking sockets get a deadline and an end. The timeouts of httpx count from the last
byte, so that a peer that sends one from time to time holds a call up for ever: here no
operation lasts longer than what is left of the deadline of the call in this thread. And
closing a client of httpx does not wake the threads that are using its sockets.

Connections of this library's own also send a request at once and read larger pieces.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar
from weakref import WeakSet

from ortege_watch._http.token_source import call_in_thread

T = TypeVar("T")

_PIECE: Final = 4096
"""Bytes that are written under one timeout, or a slow reader would renew it."""

_JOINED: Final = 4096
"""Bytes: writes of httpcore are joined up to the end of a request, or to so many.

It writes the head, the body and an empty end. Each would be a system call, and in a task
a turn of the event loop.
"""

_CHUNK: Final = 256 * 1024
"""Bytes that are read at once; httpx asks for 64 kB, and asyncio has up to 256 kB."""

Deadline: TypeAlias = tuple[Callable[[], float], float]
"""A clock, and the time by it at which the call in this thread ends."""

DEADLINE: Final[ContextVar[Deadline | None]] = ContextVar("deadline", default=None)
"""Limits all operations in this thread."""


class DeadlinePassed(Exception):
    """The deadline of the call in this thread has passed, or its client is closed."""


class Sockets:
    """The open sockets of a client; ``closing`` is done when the client is closed."""

    def __init__(self, closing: Future[None]) -> None:
        self.closing: Final = closing
        self._lock = threading.Lock()
        self._open = WeakSet[socket.socket]()
        closing.add_done_callback(self._shut_down)

    def add(self, each: socket.socket | None) -> None:
        """Add a socket; a backend of tests has none."""
        if each is not None:
            with self._lock:
                self._open.add(each)
            if self.closing.done():
                self._shut_down(self.closing)

    def _shut_down(self, _: object) -> None:
        """End what threads are doing with the sockets."""
        with self._lock:
            for each in self._open:
                with suppress(OSError):
                    # The method of an SSLSocket would let a thread send in plain text.
                    socket.socket.shutdown(each, socket.SHUT_RDWR)

    def until_closed(self, work: Callable[[], T], name: str, within: float | None) -> T:
        """Return the result of what only a thread of its own can leave."""
        future = call_in_thread(work, name)
        ends: list[Future[Any]] = [future, self.closing]
        wait(ends, within, FIRST_COMPLETED)
        if not future.done():
            raise DeadlinePassed
        return future.result()


def _limit(timeout: float | None) -> float | None:
    """Return the timeout, or what is left of the deadline if that is less."""
    deadline = DEADLINE.get()
    if deadline is None:
        return timeout
    now, end = deadline
    left = end - now()
    if left <= 0:
        raise DeadlinePassed
    return left if timeout is None else min(timeout, left)


def guard(http: Any, sockets: Sockets, *, is_ours: bool = False) -> None:
    """Let an httpx.Client, its proxies included, or a transport respect both.

    A transport that has no connection pool of httpcore is left alone. One that is ours
    speaks HTTP/1.1 only, so its requests need not be sent write by write.
    """
    # None of these has a public name. They are in every httpx from 0.27 to 0.28.
    own = getattr(http, "_transport", http)
    for transport in (own, *getattr(http, "_mounts", {}).values()):
        pool = getattr(transport, "_pool", None)
        backend = getattr(pool, "_network_backend", None)
        if backend is not None and not isinstance(backend, _Backend):
            vars(pool)["_network_backend"] = _Backend(backend, sockets, is_ours)


def send_at_once(transport: Any) -> None:
    """Let an async transport of ours, which speaks HTTP/1.1 only, join its writes."""
    pool = transport._pool  # noqa: SLF001 - as in guard()
    pool._network_backend = _AsyncBackend(pool._network_backend)  # noqa: SLF001


class _AsyncBackend:
    """An async network backend of httpcore."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.sleep = inner.sleep

    async def connect_tcp(self, *address: Any, **options: Any) -> _AsyncStream:
        return _AsyncStream(await self._inner.connect_tcp(*address, **options))


class _AsyncStream:
    """An async network stream of httpcore; drivers limit its time."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._unsent = b""
        self.aclose = inner.aclose
        self.get_extra_info = inner.get_extra_info

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._unsent:
            await self.write(b"", timeout)
        data: bytes = await self._inner.read(max(max_bytes, _CHUNK), timeout)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        data = self._unsent = self._unsent + buffer
        if len(data) >= _JOINED or not buffer:
            self._unsent = b""
            await self._inner.write(data, timeout)

    async def start_tls(self, *context: Any, **options: Any) -> _AsyncStream:
        return _AsyncStream(await self._inner.start_tls(*context, **options))


class _Backend:
    """A network backend of httpcore."""

    def __init__(self, inner: Any, sockets: Sockets, is_ours: bool) -> None:
        self._inner = inner
        self._sockets = sockets
        self._is_ours = is_ours

    def _stream(self, inner: Any) -> _Stream:
        return _Stream(inner, self._sockets, self._is_ours)

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, **options: Any
    ) -> _Stream:
        error: Exception | None = None
        for address in self._addresses(host, port):
            connect = partial(
                self._connect, address, port, timeout=_limit(timeout), **options
            )
            try:
                return self._sockets.until_closed(connect, "connection", None)
            except DeadlinePassed:
                raise
            except Exception as failure:  # noqa: BLE001 - the last one is raised
                error = failure
        assert error is not None  # noqa: S101 - there is at least one address
        raise error

    def _connect(self, *address: Any, **options: Any) -> _Stream:
        stream = self._stream(self._inner.connect_tcp(*address, **options))
        if self._sockets.closing.done():  # nobody waits for it any more
            stream.close()
        return stream

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, **options: Any
    ) -> _Stream:
        limit = _limit(timeout)
        stream = self._inner.connect_unix_socket(path, limit, **options)
        return self._stream(stream)

    def _addresses(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host, or the host where it cannot be resolved here."""
        try:
            ipaddress.ip_address(host)
        except ValueError:
            pass
        else:
            return [host]
        left = _limit(None)
        if left is None:
            return [host]

        def resolve() -> list[str]:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(str(address[0]) for *_, address in found))

        try:
            # In a thread, because nothing else limits the time of a resolver.
            return self._sockets.until_closed(resolve, "name resolution", left) or [
                host
            ]
        except (OSError, UnicodeError):  # the backend raises the error of its own
            return [host]

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(_limit(seconds))


class _Stream:
    """A network stream of httpcore."""

    def __init__(self, inner: Any, sockets: Sockets, is_ours: bool) -> None:
        self._inner = inner
        self._sockets = sockets
        self._is_ours = is_ours
        self._unsent = b""
        self.close = inner.close
        self.get_extra_info = inner.get_extra_info
        found = inner.get_extra_info("socket")
        sockets.add(found)
        # Not that of TLS, whose bytes are others; a backend of tests has none.
        self._plain: socket.socket | None = (
            found if type(found) is socket.socket else None
        )

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._unsent:
            self.write(b"", timeout)
        most = max(max_bytes, _CHUNK) if self._is_ours else max_bytes
        data: bytes = self._inner.read(most, _limit(timeout))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        data = self._unsent + buffer
        if self._is_ours and buffer and len(data) < _JOINED:
            self._unsent = data
            return
        self._unsent = b""
        _limit(timeout)
        for start in range(self._send_at_once(data), len(data), _PIECE):
            self._inner.write(data[start : start + _PIECE], _limit(timeout))

    def _send_at_once(self, buffer: bytes) -> int:
        """Send what the system takes without waiting, and return the number of bytes.

        That is nearly always all of it. An error is left to the write that follows.
        """
        if self._plain is None:
            return 0
        try:
            self._plain.settimeout(0.0)
            return self._plain.send(buffer)
        except OSError:
            return 0

    def start_tls(
        self,
        ssl_context: Any,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> _Stream:
        limit = _limit(timeout)
        plain = self.get_extra_info("socket")
        if plain is None:
            inner = self._inner.start_tls(ssl_context, server_hostname, limit)
        else:
            # The handshake takes the socket over: another handle can shut it down.
            with socket.fromfd(plain.fileno(), plain.family, plain.type) as handle:
                self._sockets.add(handle)
                inner = self._inner.start_tls(ssl_context, server_hostname, limit)
        return _Stream(inner, self._sockets, self._is_ours)
