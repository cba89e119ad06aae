"""The subscription for threads and scripts.

The asyncio one runs in a thread of its own (anyio's blocking portal): there is no
second implementation, and the socket is read and kept alive however long the loop body
takes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, ExitStack
from datetime import datetime
from types import TracebackType
from typing import Final, Self, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from ortege_watch.errors import QueryError
from ortege_watch.subscription.states import ConnectionState
from ortege_watch.subscription.updates import AsyncUpdates, Update

__all__ = ["Updates", "in_thread"]

T = TypeVar("T")

_LOOK_UP_EVERY: Final = 1.0
"""Seconds: on Windows, Ctrl-C does not end a wait that has no time limit."""


async def in_thread(call: Callable[[], T]) -> T:
    """Call what may block, in a thread that nobody has to wait for."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            future.set_exception(error)

    threading.Thread(target=work, name="token provider", daemon=True).start()
    return await asyncio.wrap_future(future)


class Updates:
    """Iterate over the updates of one or more queries; see :class:`AsyncUpdates`.

    Enter it with ``with``. Callbacks (``on_state``, ``on_error``) are called in the
    subscription's own thread.
    """

    def __init__(
        self,
        updates: AsyncUpdates,
        *,
        aclose: Callable[[], Awaitable[None]],
    ) -> None:
        self._updates = updates
        self._aclose = aclose
        self._portal: BlockingPortal | None = None
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._next: Future[Update] | None = None

    def __repr__(self) -> str:
        return f"<Updates {self._updates.state}>"

    @property
    def state(self) -> ConnectionState:
        """Tell how the subscription is connected right now."""
        return self._updates.state

    @property
    def last_seen(self) -> datetime | None:
        """Give the time of the last frame of any kind, in UTC; ``None`` before."""
        return self._updates.last_seen

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal())
            stack.callback(portal.call, self._aclose)
            entered: AbstractContextManager[AsyncUpdates] = (
                portal.wrap_async_context_manager(self._updates)
            )
            stack.enter_context(entered)
            self._stack = stack.pop_all()
        self._portal = portal
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._portal = None
        self._stack.__exit__(kind, error, traceback)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Update:
        """Wait for the next update; see :meth:`AsyncUpdates.__anext__`."""
        if self._portal is None:
            message = "enter it first: with cube.watch(query) as updates"
            raise QueryError(message)
        with self._lock:
            # Kept over an interruption (Ctrl-C, a signal): its update must not be lost.
            if self._next is None:
                self._next = self._portal.start_task_soon(self._updates.__anext__)
            while not wait([self._next], timeout=_LOOK_UP_EVERY).done:
                pass
            update, self._next = self._next, None
            try:
                return update.result()
            except StopAsyncIteration:
                raise StopIteration from None
