"""The network side of the fakes: one port, in a thread with a loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import attrs

from ortege_watch.testing._connection import Application, Connection

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
