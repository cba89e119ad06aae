"""The iterators that ``watch()`` returns, for tasks and for threads."""

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

from ortege_watch.errors import InvalidArgument, OrtegeWatchError
from ortege_watch.watch.mailbox import Update
from ortege_watch.watch.runner import Subscription
from ortege_watch.watch.states import ConnectionState

T = TypeVar("T")

_WAIT_AT_MOST: Final = 1.0
"""Seconds: on Windows, Ctrl-C does not end a wait that has no time limit."""


class AsyncUpdates:
    """An iterator over the updates of one or more queries, made by ``watch()``.

    Enter it with ``async with``: that opens the connection, and leaving closes every
    task and socket. Iterating again after an exception continues where it stopped.

    An iteration ends by itself only when every query has been refused for good.
    """

    def __init__(self, subscription: Subscription) -> None:
        self._subscription: Final = subscription
        self._entered = False

    def __repr__(self) -> str:
        return f"<AsyncUpdates {self.state}>"

    @property
    def state(self) -> ConnectionState:
        """How the subscription is connected now."""
        return self._subscription.state

    @property
    def last_seen(self) -> datetime | None:
        """When the last frame of any kind arrived, in UTC; ``None`` before."""
        return self._subscription.last_seen

    async def __aenter__(self) -> Self:
        if self._entered:
            raise InvalidArgument(
                "a subscription can be entered only once; call watch() again"
            )
        _require_asyncio()
        self._entered = True
        self._subscription.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the subscription; an iteration ends, updates not yet taken are lost."""
        await self._subscription.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Update:
        """Wait for the next update.

        Raises:
            QueryRejected: the server refuses the query ``error.query`` for good; the
                other queries go on.
            ApiError, DecodeError: a query fails for now; raised once, and the query
                goes on. Not raised where ``on_error`` receives them.
            AuthenticationError, SubscriptionLost: the subscription has ended.
        """
        if not self._entered:
            raise InvalidArgument(
                "use 'async with cube.watch(query) as updates' before iterating"
            )
        subscription = self._subscription
        while (update := subscription.mailbox.take()) is None:
            if subscription.finished:
                raise StopAsyncIteration
            subscription.arrived.clear()
            await subscription.arrived.wait()
        return update


def _require_asyncio() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError as error:
        problem = "watch() needs asyncio; elsewhere, use CubeClient in a thread"
        raise OrtegeWatchError(problem) from error


class Updates:
    """An iterator over the updates of one or more queries, made by ``watch()``.

    Enter it with ``with``: that starts a thread, which opens the connection, keeps it
    alive and calls ``on_state`` and ``on_error``; leaving closes all of it. Iterating
    again after an exception continues where it stopped.

    An iteration ends by itself only when every query has been refused for good.
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
        """How the subscription is connected now."""
        return self._updates.state

    @property
    def last_seen(self) -> datetime | None:
        """When the last frame of any kind arrived, in UTC; ``None`` before."""
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
        """Wait for the next update.

        Raises:
            QueryRejected: the server refuses the query ``error.query`` for good; the
                other queries go on.
            ApiError, DecodeError: a query fails for now; raised once, and the query
                goes on. Not raised where ``on_error`` receives them.
            AuthenticationError, SubscriptionLost: the subscription has ended.
        """
        if self._portal is None:
            if self.state is ConnectionState.CLOSED:
                raise StopIteration
            raise InvalidArgument(
                "use 'with cube.watch(query) as updates' before iterating"
            )
        with self._lock:
            # Kept after an interruption (Ctrl-C, a signal), so that no update is lost.
            if self._next is None:
                self._next = self._portal.start_task_soon(self._updates.__anext__)
            while not wait([self._next], timeout=_WAIT_AT_MOST).done:
                pass
            update, self._next = self._next, None
            try:
                return update.result()
            except StopAsyncIteration:
                raise StopIteration from None
