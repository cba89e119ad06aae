"""A deadline for every read and write of a blocking HTTP client, and an end to them.

The timeouts of httpx count from the last byte, so that a peer that sends one from time
to time holds a call up for ever. This wraps the network backend of its connection pools:
no operation lasts longer than what is left of the deadline of the call in this thread.
And closing a client of httpx does not wake the threads that are using its sockets.
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


def guard(http: Any, sockets: Sockets) -> None:
    """Let an httpx.Client, its proxies included, or a transport respect both.

    A transport that has no connection pool of httpcore is left alone.
    """
    # None of these has a public name. They are in every httpx from 0.27 to 0.28.
    own = getattr(http, "_transport", http)
    for transport in (own, *getattr(http, "_mounts", {}).values()):
        pool = getattr(transport, "_pool", None)
        backend = getattr(pool, "_network_backend", None)
        if backend is not None and not isinstance(backend, _Backend):
            vars(pool)["_network_backend"] = _Backend(backend, sockets)


class _Backend:
    """A network backend of httpcore."""

    def __init__(self, inner: Any, sockets: Sockets) -> None:
        self._inner = inner
        self._sockets = sockets

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
        stream = _Stream(self._inner.connect_tcp(*address, **options), self._sockets)
        if self._sockets.closing.done():  # nobody waits for it any more
            stream.close()
        return stream

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, **options: Any
    ) -> _Stream:
        limit = _limit(timeout)
        stream = self._inner.connect_unix_socket(path, limit, **options)
        return _Stream(stream, self._sockets)

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

    def __init__(self, inner: Any, sockets: Sockets) -> None:
        self._inner = inner
        self._sockets = sockets
        self.close = inner.close
        self.get_extra_info = inner.get_extra_info
        found = inner.get_extra_info("socket")
        sockets.add(found)
        # Not that of TLS, whose bytes are others; a backend of tests has none.
        self._plain: socket.socket | None = (
            found if type(found) is socket.socket else None
        )

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data: bytes = self._inner.read(max_bytes, _limit(timeout))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        _limit(timeout)
        for start in range(self._send_at_once(buffer), len(buffer), _PIECE):
            self._inner.write(buffer[start : start + _PIECE], _limit(timeout))

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
        return _Stream(inner, self._sockets)
