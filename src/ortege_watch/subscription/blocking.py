"""The subscription for threads and scripts.

The asyncio one runs in a thread of its own (anyio's blocking portal): there is no
second implementation, and the socket is read and kept alive however long the loop body
takes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack
from datetime import datetime
from types import TracebackType
from typing import Self

from anyio.from_thread import BlockingPortal, start_blocking_portal

from ortege_watch.errors import QueryError
from ortege_watch.subscription.states import ConnectionState
from ortege_watch.subscription.updates import AsyncUpdates, Update

__all__ = ["Updates"]


class Updates:
    """Iterate over the updates of one or more queries; see :class:`AsyncUpdates`.

    Enter it with ``with``. Callbacks (``on_state``, ``on_error``) and the token
    provider are called in the subscription's own thread.
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
        try:
            return self._portal.call(self._updates.__anext__)
        except StopAsyncIteration:
            raise StopIteration from None
