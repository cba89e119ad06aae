"""A deadline for every read and write of a blocking HTTP client.

The timeouts of httpx count from the last byte, so that a peer that sends one from time
to time holds a call up for ever. This wraps the network backend of its connection pools:
no operation lasts longer than what is left of the deadline of the call in this thread.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from concurrent.futures import wait
from contextvars import ContextVar
from typing import Any, Final, TypeAlias

from ortege_watch._http.token_source import call_in_thread

_PIECE: Final = 4096
"""Bytes that are written under one timeout, or a slow reader would renew it."""

Deadline: TypeAlias = tuple[Callable[[], float], float]
"""A clock, and the time by it at which the call in this thread ends."""

DEADLINE: Final[ContextVar[Deadline | None]] = ContextVar("deadline", default=None)
"""Limits all operations in this thread."""


class DeadlinePassed(Exception):
    """The deadline of the call in this thread has passed."""


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


def guard(client: Any) -> None:
    """Let an httpx.Client, its proxies included, respect the deadline.

    A transport that has no connection pool of httpcore is left alone.
    """
    # None of these has a public name. They are in every httpx from 0.27 to 0.28.
    for transport in (client._transport, *client._mounts.values()):  # noqa: SLF001
        pool = getattr(transport, "_pool", None)
        backend = getattr(pool, "_network_backend", None)
        if backend is not None and not isinstance(backend, _Backend):
            vars(pool)["_network_backend"] = _Backend(backend)


class _Backend:
    """A network backend of httpcore."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, **options: Any
    ) -> _Stream:
        error: Exception | None = None
        for address in _addresses(host, port):
            limit = _limit(timeout)
            try:
                stream = self._inner.connect_tcp(address, port, limit, **options)
            except Exception as failure:  # noqa: BLE001 - the last one is raised
                error = failure
            else:
                return _Stream(stream)
        assert error is not None  # noqa: S101 - there is at least one address
        raise error

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, **options: Any
    ) -> _Stream:
        limit = _limit(timeout)
        return _Stream(self._inner.connect_unix_socket(path, limit, **options))

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(_limit(seconds))


class _Stream:
    """A network stream of httpcore."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.close = inner.close
        self.get_extra_info = inner.get_extra_info

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data: bytes = self._inner.read(max_bytes, _limit(timeout))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _PIECE):
            self._inner.write(buffer[start : start + _PIECE], _limit(timeout))

    def start_tls(
        self,
        ssl_context: Any,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> _Stream:
        limit = _limit(timeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, limit))


def _addresses(host: str, port: int) -> list[str]:
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

    # In a thread, because nothing else limits the time of a resolver.
    resolved = call_in_thread(resolve, "name resolution")
    if not wait([resolved], left).done:
        raise DeadlinePassed
    try:
        return resolved.result() or [host]
    except (OSError, UnicodeError):  # the backend raises the error of its own
        return [host]
