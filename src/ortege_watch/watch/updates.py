"""What ``watch()`` gives: an iterator of updates, for tasks and for threads.

The latest-only mailbox is here: per query at most one undelivered snapshot, the
newest, is kept, and it is compared with the last delivered one when the caller comes
for it. So a slow loop costs no memory, and no row is lost that the newest snapshot has.
"""

from __future__ import annotations

import asyncio
import random
import threading
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import attrs
from anyio.from_thread import BlockingPortal, start_blocking_portal

from ortege_watch._json import ResultPart
from ortege_watch.errors import OrtegeWatchError, QueryError, SubscriptionLost
from ortege_watch.query import Query
from ortege_watch.results import ChangedRow, Result, Row
from ortege_watch.results.diff import difference
from ortege_watch.watch.options import (
    Dialect,
    Reconnect,
    Settings,
    WatchOptions,
    check_options,
    check_queries,
)
from ortege_watch.watch.runner import LOGGER, Link, Target
from ortege_watch.watch.session import Session
from ortege_watch.watch.states import ConnectionState, SwitchDialect

__all__ = ["AsyncUpdates", "Update", "Updates", "WatchOptions", "in_thread", "watch"]

T = TypeVar("T")

_DEFAULTS: Final = Settings()


def watch(
    queries: Sequence[Query],
    options: WatchOptions,
    *,
    target: Target,
    remembered: Dialect | None,
    remember: Callable[[Dialect], object],
) -> AsyncUpdates:
    """Make the iterator for ``watch()`` of either client.

    Args:
        queries: what to subscribe to.
        options: how.
        target: where.
        remembered: the dialect that worked last with this server.
        remember: takes the dialect that works.
    """
    check_queries(queries)
    check_options(options)
    dialect = options.get("dialect", "auto")
    settings = Settings(
        reconnect=options.get("reconnect", Reconnect()),
        transport=options.get("transport", "auto"),
        stale_after=options.get("stale_after", _DEFAULTS.stale_after),
        poll_every=options.get("poll_every", _DEFAULTS.poll_every),
    )
    return AsyncUpdates(
        queries,
        target=target,
        settings=settings,
        dialect=(remembered or "cube") if dialect == "auto" else dialect,
        may_switch=dialect == "auto",
        on_state=options.get("on_state"),
        on_error=options.get("on_error"),
        remember=remember,
    )


@attrs.frozen(kw_only=True, eq=False)
class Update:
    """The difference between two snapshots of one query's result.

    Snapshots, not an event log: Cube sends the whole result each time, and an update is
    the difference between the last delivered snapshot and the newest. Rows are compared
    by their key, all columns except the measures.

    Attributes:
        query: the query, as it was passed to ``watch()``.
        result: the whole snapshot.
        added: rows with a new key; in the first update, all rows.
        changed: rows with a known key and new measures; ``before`` is the old row.
        removed: rows whose key is no longer in the result.
        first: this is the first snapshot of the query.
        resumed: this is the first snapshot after an outage, so its difference spans it.
        received_at: when the snapshot arrived, by this machine's clock, in UTC.
    """

    query: Query
    result: Result
    added: Sequence[Row]
    changed: Sequence[ChangedRow]
    removed: Sequence[Row]
    first: bool
    resumed: bool
    received_at: datetime

    @property
    def upserted(self) -> Sequence[Row]:
        """The rows with a new key or new measures, in the order of the result.

        These are the rows to react to: a second event with the key of an earlier one is
        in ``changed``. ``added`` alone is right only where a key cannot occur twice.
        """
        if not self.changed:
            return self.added
        if not self.added:
            return self.changed
        places = {row: place for place, row in enumerate(self.result)}
        return sorted([*self.added, *self.changed], key=places.__getitem__)

    @property
    def truncated(self) -> bool:
        """Whether the result is at its row limit, so that rows may be missing."""
        return self.result.truncated


@attrs.define
class _Pending:
    part: ResultPart
    resumed: bool
    received_at: datetime


@attrs.define
class _Channel:
    """One query on its way to the caller."""

    query: Query
    wire: Mapping[str, Any]
    pending: _Pending | None = None
    error: OrtegeWatchError | None = None
    """The latest error that may pass, also after it was delivered."""
    last: Result | None = None
    """What was delivered last."""
    seen: ResultPart | None = None
    """The same, as it came."""
    unreadable: bool = False
    warned: bool = False
    ended: bool = False


class AsyncUpdates:
    """Iterate over the updates of one or more queries; made by ``watch()``.

    Enter it with ``async with``: that opens the connection, and leaving closes every
    task and socket. Iterating again after an exception goes on where it stopped.

    An iteration ends by itself only when every query has been refused for good.
    """

    def __init__(
        self,
        queries: Sequence[Query],
        *,
        target: Target,
        settings: Settings,
        dialect: Dialect,
        may_switch: bool,
        on_state: Callable[[ConnectionState], object] | None,
        on_error: Callable[[OrtegeWatchError], object] | None,
        remember: Callable[[Dialect], object],
    ) -> None:
        self._channels: Final = {
            str(number): _Channel(query, query.to_wire())
            for number, query in enumerate(queries, 1)
        }
        self._settings = settings
        self._dialect: Dialect = dialect
        self._may_switch = may_switch
        self._on_state = on_state
        self._on_error = on_error
        self._remember = remember
        self._target = target
        self._links: list[Link] = []
        self._retired: list[Link] = []
        self._state = ConnectionState.CONNECTING
        self._shown: ConnectionState | None = None
        self._last_seen: datetime | None = None
        self._ready: deque[str | OrtegeWatchError] = deque()
        self._arrived = asyncio.Event()
        self._finished = False
        self._entered = False

    def __repr__(self) -> str:
        return f"<AsyncUpdates {self._state} ({len(self._channels)} queries)>"

    @property
    def state(self) -> ConnectionState:
        """Tell how the subscription is connected right now."""
        return self._state

    @property
    def last_seen(self) -> datetime | None:
        """Give the time of the last frame of any kind, in UTC; ``None`` before."""
        return self._last_seen

    # ------------------------------------------------------------------ the caller

    async def __aenter__(self) -> Self:
        if self._entered:
            message = "a subscription is entered once: call watch() again"
            raise QueryError(message)
        _refuse_other_loops()
        self._entered = True
        self._show(ConnectionState.CONNECTING)
        if not self._finished:  # by a callback that failed
            self._start(self._dialect, may_switch=self._may_switch)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the subscription; an iteration ends, whatever was still to come."""
        self._finish(None)
        self._ready.clear()
        try:
            await self._settled()
        except asyncio.CancelledError:  # there is no time for good manners
            for link in self._retired:
                link.cut()
            await self._settled()
            raise

    async def _settled(self) -> None:
        for link in self._retired:
            await link.settled()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Update:
        """Wait for the next update.

        Raises:
            QueryRejected: the server refuses a query for good; ``error.query`` is it.
                The other queries go on.
            ApiError, DecodeError: a query fails for now; said once, and it goes on.
                Not raised where ``on_error`` takes them.
            AuthenticationError, SubscriptionLost: nothing more will come.
        """
        if not self._entered:
            message = "enter it first: async with cube.watch(query) as updates"
            raise QueryError(message)
        while True:
            while self._ready:
                ready = self._ready.popleft()
                if isinstance(ready, OrtegeWatchError):
                    raise ready
                update = self._update(self._channels[ready])
                if update is not None:
                    return update
            if self._finished:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()

    def _update(self, channel: _Channel) -> Update | None:
        """Compare the newest snapshot with the last delivered one."""
        pending, channel.pending = channel.pending, None
        if pending is None:
            return None
        result, last = Result(pending.part, channel.query), channel.last
        try:
            changes = difference(last, result)
        except OrtegeWatchError as error:
            if not channel.unreadable:
                channel.unreadable = True
                self._report(channel, error)
            return None
        channel.unreadable = False
        if last is not None and not changes:
            return None
        channel.last, channel.seen = result, pending.part
        if result.truncated and not channel.warned:
            channel.warned = True
            LOGGER.warning(
                "a result is at its limit of %s rows, rows beyond it are unseen: narrow"
                " the query, or raise its limit",
                len(result),
            )
        return Update(
            query=channel.query,
            result=result,
            added=changes.added,
            changed=changes.changed,
            removed=changes.removed,
            first=last is None,
            resumed=pending.resumed,
            received_at=pending.received_at,
        )

    # ------------------------------------------------------- what the links report

    def deliver(self, message_id: str, part: ResultPart, *, resumed: bool) -> None:
        """Keep the newest snapshot."""
        channel = self._channels[message_id]
        if channel.pending is None:
            if channel.seen is not None and part.data == channel.seen.data:
                return  # nothing has changed: nobody need be woken, nothing kept
        else:
            resumed = resumed or channel.pending.resumed
            if channel.error in self._ready:  # which came before this snapshot
                self._ready.remove(message_id)
        if message_id not in self._ready:
            self._ready.append(message_id)
        channel.pending = _Pending(part, resumed, datetime.now(UTC))
        self._arrived.set()

    def fail(self, message_id: str, error: OrtegeWatchError, *, final: bool) -> None:
        """Pass on an error of one query."""
        channel = self._channels[message_id]
        if not final:
            self._report(channel, error)
            return
        channel.ended = True
        error.query = channel.query
        self._ready.append(error)
        self._arrived.set()

    def switch(self, link: Link, effect: SwitchDialect) -> None:
        """Start again in the other dialect, which takes one socket a query if ours."""
        self._retire(link)
        dialect = link.session.dialect
        if self._proven:  # the dialect is right, only this query got no answer yet
            self._link(dialect, link.queries, may_switch=False, after=effect)
            return
        for other in list(self._links):
            self._retire(other)
        other_dialect: Dialect = "ortege" if dialect == "cube" else "cube"
        self._start(other_dialect, may_switch=True, after=effect)

    def finish(self, link: Link, error: OrtegeWatchError | None) -> None:
        """End everything on an error, or once no link is left."""
        self._retire(link)
        if isinstance(error, SubscriptionLost) and self._proven:
            for message_id in link.queries:  # only one, and the others are well
                self.fail(message_id, error, final=True)
            return
        if error is not None or not self._links:
            self._finish(error)

    def heard(self) -> None:
        """Note the time."""
        self._last_seen = datetime.now(UTC)

    def changed(self, link: Link) -> None:
        """Tell the caller about a new connection state."""
        if link.session.proven:
            self._remember(link.session.dialect)
        states = {other.session.connection for other in self._links}
        for state in _WORST_FIRST:
            if state in states:
                self._show(state)
                return

    # ------------------------------------------------------------------- the links

    @property
    def _proven(self) -> bool:
        """Tell whether the server has understood the dialect on another link."""
        return any(link.session.proven for link in self._links)

    def _start(
        self, dialect: Dialect, *, may_switch: bool, after: SwitchDialect | None = None
    ) -> None:
        keys = [key for key, channel in self._channels.items() if not channel.ended]
        groups = [keys] if dialect == "cube" else [[key] for key in keys]
        for group in groups:
            self._link(dialect, group, may_switch=may_switch, after=after)

    def _link(
        self,
        dialect: Dialect,
        keys: Iterable[str],
        *,
        may_switch: bool,
        after: SwitchDialect | None,
    ) -> None:
        channels = {key: self._channels[key] for key in keys}
        session = Session(
            {key: channel.wire for key, channel in channels.items()},
            dialect=dialect,
            may_switch=may_switch,
            settings=self._settings,
            draw=random.random,
            new_id=lambda: str(uuid.uuid4()),
            now=self._target.clock.now(),
            delay=after.delay if after is not None else 0.0,
            failures=after.failures if after is not None else 0,
            because=after.because if after is not None else None,
            proven=self._proven,
        )
        queries = {key: channel.query for key, channel in channels.items()}
        link = Link(session, self._target, self, queries=queries)
        self._links.append(link)
        link.start()

    def _retire(self, link: Link) -> None:
        if link in self._links:
            self._links.remove(link)
            link.stop()
            self._retired = [each for each in self._retired if each.is_busy]
            self._retired.append(link)

    def _finish(self, error: OrtegeWatchError | None) -> None:
        for link in list(self._links):
            self._retire(link)
        if self._finished:
            return
        self._finished = True
        if error is not None:
            LOGGER.error("the subscription ended: %s", error)
            self._ready.append(error)
        self._arrived.set()
        self._show(ConnectionState.CLOSED)

    def _report(self, channel: _Channel, error: OrtegeWatchError) -> None:
        """Pass on an error that may pass; the newest replaces one not yet taken."""
        error.query = channel.query
        if self._on_error is not None:
            self._call(self._on_error, error)
            return
        if (older := channel.error) is not None and older in self._ready:
            self._ready.remove(older)
        channel.error = error
        self._ready.append(error)
        self._arrived.set()

    def _show(self, state: ConnectionState) -> None:
        if state is not self._shown:
            self._shown = self._state = state
            if self._on_state is not None:
                self._call(self._on_state, state)

    def _call(self, callback: Callable[[T], object], argument: T) -> None:
        """Call the caller's code; if it fails, the iteration ends and says so."""
        try:
            callback(argument)
        except Exception as error:  # noqa: BLE001 - theirs may raise anything
            self._on_state = self._on_error = None
            kind = type(error).__name__
            failure = OrtegeWatchError(f"a callback of the subscription failed: {kind}")
            failure.__cause__ = error
            self._finish(failure)


def _refuse_other_loops() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError as error:
        problem = "watch() needs asyncio: elsewhere, use CubeClient in a thread"
        raise OrtegeWatchError(problem) from error


_WORST_FIRST: Final = (
    ConnectionState.WAITING,
    ConnectionState.CONNECTING,
    ConnectionState.POLLING,
    ConnectionState.LIVE,
)


# -------------------- The subscription for threads and scripts.
#
# The asyncio one runs in a thread of its own (anyio's blocking portal): there is no
# second implementation, and the socket is read and kept alive however long the loop body
# takes.


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
