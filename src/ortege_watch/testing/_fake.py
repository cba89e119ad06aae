"""What all fake servers have in common: their life, their records, waiting for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ortege_watch.testing._misbehaviour import CoreT, NetworkMisbehaviour

if TYPE_CHECKING:
    from ortege_watch.testing._messages import HttpRequest

__all__ = ["Fake"]


class Fake(NetworkMisbehaviour[CoreT]):
    """Serve on loopback, in a thread of its own; a base for the fakes."""

    # Life

    def start(self) -> None:
        """Begin to serve; ``with`` and ``async with`` do this.

        Raises:
            OSError: the port is taken.
        """
        self._server.start()

    def stop(self) -> None:
        """End every connection, the event loop and the thread.

        Raises:
            RuntimeError: the fake itself has failed meanwhile; the cause says where.
        """
        self._server.stop()
        if self._core.failures:
            raise RuntimeError("the fake server failed") from self._core.failures[0]

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop; an error of the test itself is not hidden by one of the fake."""
        if error is not None:
            self._core.failures.clear()
        self.stop()

    async def __aenter__(self) -> Self:
        """Start."""
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.__exit__(kind, error, trace)

    @property
    def port(self) -> int:
        """The port that it listens on; the same for the whole of its life."""
        return self._server.port

    @property
    def requests(self) -> list[HttpRequest]:
        """Every HTTP request, upgrades included: method, path, headers, json ..."""
        with self._core.lock:
            return list(self._core.requests)

    @property
    def sockets(self) -> int:
        """How many TCP connections are open, WebSockets and idle HTTP alike."""
        return len(self._server.connections)

    def wait_until(
        self, predicate: Callable[[], object], *, timeout: float = 5.0
    ) -> None:
        """Wait until a condition on this server holds; nothing is polled.

        It is looked at whenever the server sees or does something, never between.

        Args:
            predicate: such as ``lambda: cube.subscriptions``.
            timeout: seconds before giving up.

        Raises:
            TimeoutError: it did not come to hold in time.
        """
        with self._core.happened:
            if not self._core.happened.wait_for(lambda: bool(predicate()), timeout):
                raise TimeoutError(f"not within {timeout} s: {self!r}")

    async def wait_until_async(
        self, predicate: Callable[[], object], *, timeout: float = 5.0
    ) -> None:
        """Wait as :meth:`wait_until` does, without holding up the event loop."""
        loop, seen = asyncio.get_running_loop(), asyncio.Event()

        def watch() -> None:
            loop.call_soon_threadsafe(seen.set)

        with self._core.lock:
            self._core.watchers.append(watch)
        try:
            async with asyncio.timeout(timeout):
                while not self._holds(predicate):
                    await seen.wait()
                    seen.clear()
        except TimeoutError:
            raise TimeoutError(f"not within {timeout} s: {self!r}") from None
        finally:
            with self._core.lock:
                self._core.watchers.remove(watch)

    def _holds(self, predicate: Callable[[], object]) -> bool:
        with self._core.lock:
            return bool(predicate())
