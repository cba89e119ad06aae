"""The iterators that ``watch()`` returns, for tasks and for threads."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import sys
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context
from datetime import datetime
from queue import Empty, SimpleQueue
from typing import Any, Final, NoReturn, Self, TypeAlias, TypeVar, TypeVarTuple
from weakref import WeakSet

from ortege_watch._checks import check_seconds, not_copyable
from ortege_watch._http.token_source import WAIT_AT_MOST, call_in_thread
from ortege_watch._websocket import running_loop
from ortege_watch.errors import (
    DeadlineExceeded,
    InvalidArgument,
    OrtegeWatchError,
    SubscriptionLost,
)
from ortege_watch.watch.mailbox import Update
from ortege_watch.watch.runner import Subscription
from ortege_watch.watch.session import LOGGER
from ortege_watch.watch.states import ConnectionState

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_CLOSE_WITHIN: Final = 5.0
"""Seconds that ``close()`` waits for the thread, which a callback may be blocking."""

_USED: Final = "a subscription can be entered only once; call watch() again"
_ENDED: Final = "the subscription has ended; call watch() again"
_CLOSED: Final = "the subscription is closed; call watch() again"
_FORKED: Final = (
    "the subscription was entered before this process was forked; create a client here"
    " and call watch() again"
)


class AsyncUpdates:
    """An iterator over the updates of one or more queries, made by ``watch()``.

    Enter it with ``async with``: that opens the connection, and leaving closes every
    task and socket. Iterating again after an exception continues where it stopped.

    An iteration ends when the subscription or its client is closed, and when every
    query has been refused for good. Several tasks may iterate: each update goes to one.
    """

    # Where it was entered: the event loop, and the id of the process.
    _loop: asyncio.AbstractEventLoop | None = None
    _pid = 0

    def __init__(self, subscription: Subscription) -> None:
        self._subscription: Final = subscription
        self._closed = False

    def __repr__(self) -> str:
        return f"{_shown(self)}, {self.state}>"

    def __reduce__(self) -> NoReturn:
        raise not_copyable(self)

    @property
    def state(self) -> ConnectionState:
        """How the subscription is connected now."""
        return ConnectionState.CLOSED if self._closed else self._subscription.state

    @property
    def last_seen(self) -> datetime | None:
        """When the last frame of any kind arrived, in UTC; ``None`` before."""
        return self._subscription.last_seen

    async def __aenter__(self) -> Self:
        if self._loop is not None or self._closed:
            raise InvalidArgument(_CLOSED if self._closed else _USED)
        self._loop = running_loop("watch()", "CubeClient in a thread")
        self._pid = os.getpid()
        self._subscription.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the subscription; an iteration ends, updates not yet taken are lost."""
        if self._begin_to_close():
            await self._subscription.aclose()

    def _begin_to_close(self) -> bool:
        """End the iteration; return whether there is something to close."""
        self._closed = True
        if not self._is_open_here():
            return False
        self._check_loop()
        self._subscription.end()
        return True

    def __del__(self) -> None:
        if self._is_open_here() and not self._subscription.finished:
            assert self._loop is not None  # noqa: S101 - for the type checkers
            with contextlib.suppress(RuntimeError):  # the loop was closed just now
                self._loop.call_soon_threadsafe(self._subscription.end)
            _warn_unclosed(self)

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
        subscription = self._subscription
        if self._loop is None and not self._closed:
            raise InvalidArgument(
                "use 'async with cube.watch(query) as updates' before iterating"
            )
        self._check_loop()
        while (update := subscription.mailbox.take()) is None:
            if self._closed or subscription.finished:
                raise StopAsyncIteration
            subscription.arrived.clear()
            await subscription.arrived.wait()
        return update

    def _is_open_here(self) -> bool:
        loop = self._loop
        return loop is not None and not loop.is_closed() and self._pid == os.getpid()

    def _check_loop(self) -> None:
        if self._loop is None:
            return
        if self._pid != os.getpid():
            raise OrtegeWatchError(_FORKED)
        if self._loop is not asyncio.get_running_loop():
            raise OrtegeWatchError(
                "the subscription was entered in another event loop; use it there"
            )


async def aclose_all(watches: Sequence[AsyncUpdates]) -> None:
    """Close several subscriptions at the same time."""
    for updates in watches:
        updates._begin_to_close()  # noqa: SLF001
    async with contextlib.AsyncExitStack() as stack:
        for updates in watches:
            stack.push_async_callback(updates.aclose)


class Updates:
    """An iterator over the updates of one or more queries, made by ``watch()``.

    Enter it with ``with``: that starts a thread, which opens the connection, keeps it
    alive and calls ``on_state`` and ``on_error``; leaving closes all of it. Iterating
    again after an exception continues where it stopped.

    An iteration ends when the subscription or its client is closed, and when every
    query has been refused for good. Several threads may iterate: each update goes to
    one.
    """

    _worker: _Worker | None = None

    def __init__(
        self,
        updates: AsyncUpdates,
        *,
        aclose: Callable[[], Awaitable[None]],
        server: str,
    ) -> None:
        self._updates = updates
        self._aclose = aclose
        self._server = server
        self._closed = False

    def __repr__(self) -> str:
        return f"{_shown(self)}, {self.state}>"

    def __reduce__(self) -> NoReturn:
        raise not_copyable(self)

    @property
    def state(self) -> ConnectionState:
        """How the subscription is connected now."""
        return ConnectionState.CLOSED if self._closed else self._updates.state

    @property
    def last_seen(self) -> datetime | None:
        """When the last frame of any kind arrived, in UTC; ``None`` before."""
        return self._updates.last_seen

    def __enter__(self) -> Self:
        if self._worker is not None or self._closed:
            raise InvalidArgument(_CLOSED if self._closed else _USED)
        _entered.add(self)
        worker = _Worker(self._updates, self._aclose, self._server)
        self._worker = worker
        worker.start()
        if self._closed:  # by another thread, meanwhile
            worker.stop()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the subscription; an iteration ends, updates not yet taken are lost.

        Any thread may call it, a signal handler or a callback too, and more than once.
        It waits until the thread of the subscription has ended, at most 5 seconds. In a
        process that was forked it does nothing.
        """
        worker = self._begin_to_close()
        if worker is not None:
            worker.join()

    def _begin_to_close(self) -> _Worker | None:
        self._closed = True
        worker = self._worker
        if worker is None or worker.pid != os.getpid():
            return None
        worker.stop()
        return worker

    def _is_open_here(self) -> bool:
        worker, is_open = self._worker, self.state is not ConnectionState.CLOSED
        return is_open and worker is not None and worker.pid == os.getpid()

    def __del__(self) -> None:
        is_open = self._is_open_here()
        self._begin_to_close()
        # At the end of the interpreter _warn_at_exit() has done it: a warning imports
        # modules, and the thread, stopped by now, may hold the lock of an import.
        if is_open and not sys.is_finalizing():
            _warn_unclosed(self)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Update:
        """Wait for the next update; :meth:`next` has a time limit.

        Raises:
            QueryRejected: the server refuses the query ``error.query`` for good; the
                other queries go on.
            ApiError, DecodeError: a query fails for now; raised once, and the query
                goes on. Not raised where ``on_error`` receives them.
            AuthenticationError, SubscriptionLost: the subscription has ended.
        """
        return self._take(None, StopIteration)

    def next(self, timeout: float | None = None) -> Update:
        """Wait for the next update, at most ``timeout`` seconds; by default, no limit.

        It raises the same errors as an iteration, and:

        Raises:
            DeadlineExceeded: no update has arrived; the next call gets it.
            SubscriptionLost: the subscription is closed, or every query has been
                refused for good.
            InvalidArgument: ``timeout`` is not greater than 0.
        """
        if timeout is not None:
            check_seconds("timeout", timeout)
        return self._take(timeout, self._lost)

    def _take(self, timeout: float | None, ended: Callable[[], Exception]) -> Update:
        worker = self._worker
        if worker is not None:
            return worker.take(timeout, ended)
        if self._closed:
            raise ended()
        raise InvalidArgument(
            "use 'with cube.watch(query) as updates' before iterating"
        )

    def _lost(self) -> SubscriptionLost:
        return SubscriptionLost(_CLOSED if self._closed else _ENDED)


def close_all(watches: Sequence[Updates]) -> None:
    """Close several subscriptions at the same time."""
    for updates in watches:
        updates._begin_to_close()  # noqa: SLF001
    with contextlib.ExitStack() as stack:
        for updates in watches:
            stack.callback(updates.close)


def _shown(updates: AsyncUpdates | Updates) -> str:
    """Return the beginning of a repr."""
    inner = updates._updates if isinstance(updates, Updates) else updates  # noqa: SLF001
    about = inner._subscription.about  # noqa: SLF001
    return f"<{type(updates).__name__} of {about}"


def _warn_unclosed(updates: AsyncUpdates | Updates) -> None:
    problem = f"unclosed {_shown(updates)}>: close it, or use 'with'"
    warnings.warn(problem, ResourceWarning, stacklevel=3, source=updates)


_entered: Final[WeakSet[Updates]] = WeakSet()


@atexit.register
def _warn_at_exit() -> None:
    for updates in list(_entered):
        if updates._is_open_here():  # noqa: SLF001
            _warn_unclosed(updates)


class _EventLoop(asyncio.SelectorEventLoop):
    """An event loop that resolves host names in daemon threads.

    The interpreter would wait for asyncio's own threads when it exits, however long the
    resolver takes, and they are not available after the end of the main thread.
    """

    def run_in_executor(
        self,
        executor: Any,  # noqa: ARG002 - asyncio's signature
        func: Callable[[*Ts], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        return asyncio.wrap_future(call_in_thread(lambda: func(*args), "host name"))


_Call: TypeAlias = SimpleQueue[None]
"""A call of ``take()``; something in the queue ends its wait."""


class _Answer:
    """What a call of ``take()`` returns or raises: one call, the first to claim it."""

    def __init__(self, value: Update | BaseException) -> None:
        self.value = value
        self._claims: list[_Call] = []

    def claim(self, call: _Call) -> bool:
        """Try to give the answer to a call; return whether the call has got it."""
        self._claims.append(call)
        return self.owner is call

    @property
    def owner(self) -> _Call | None:
        """The call that has the answer."""
        return next(iter(self._claims), None)

    def get(self) -> Update:
        """Return the update, or raise the error."""
        if isinstance(self.value, BaseException):
            try:
                raise self.value
            finally:
                del self  # or the traceback would refer to itself
        return self.value


class _Worker:
    """The thread of a subscription, with its event loop.

    It does not refer to :class:`Updates`, which can be garbage-collected while it runs.
    No lock is held anywhere, so that a signal handler may call anything here. Ctrl-C
    may interrupt a call at any point: what it claimed is on record, and is given back.
    """

    def __init__(
        self, updates: AsyncUpdates, aclose: Callable[[], Awaitable[None]], server: str
    ) -> None:
        self.pid: Final = os.getpid()
        self._updates = updates
        self._aclose = aclose
        self._server = server
        # Each operation on these two lists is atomic.
        self._calls: list[_Call] = []  # that have not returned
        self._answers: list[_Answer] = []  # that no call has returned
        self._asked = asyncio.Event()  # set when a call may need another answer
        self._ended = False  # no answer is added any more
        self._loop = _EventLoop()
        self._task: asyncio.Task[None] | None = None
        # The interpreter does not wait for a daemon thread when it exits.
        self._thread = threading.Thread(
            target=copy_context().run,
            args=(self._run,),
            name="subscription",
            daemon=True,
        )

    def start(self) -> None:
        try:
            self._thread.start()
        except RuntimeError as error:
            self._loop.close()
            problem = f"cannot start the thread of the subscription: {error}"
            raise OrtegeWatchError(problem) from error
        except BaseException:  # Ctrl-C, perhaps before it was started
            if self._thread not in threading.enumerate():
                self._loop.close()
            raise

    def stop(self) -> None:
        """Begin to close."""
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._cancel)

    def join(self) -> None:
        """Wait for the end; raise what a callback raised to end the program."""
        if self._thread.ident in {None, threading.get_ident()}:
            return  # an interrupted start(): the thread ends by itself
        self._thread.join(_CLOSE_WITHIN)
        if self._thread.is_alive():
            LOGGER.warning(
                "%s: the thread of the subscription has not ended within %s s: does a"
                " callback block?",
                self._server,
                _CLOSE_WITHIN,
            )
        self._end()
        discard = _Call()
        discarded = [each.value for each in tuple(self._answers) if each.claim(discard)]
        for value in discarded:
            if not isinstance(value, Update | Exception):
                raise value

    def take(self, timeout: float | None, ended: Callable[[], Exception]) -> Update:
        """Return the next update, or raise ``ended()`` at the end."""
        if self.pid != os.getpid():
            raise OrtegeWatchError(_FORKED)
        if threading.current_thread() is self._thread:
            raise InvalidArgument("updates cannot be taken in a callback")
        call, answer = _Call(), None
        end = None if timeout is None else time.monotonic() + timeout
        try:
            self._calls.append(call)
            while True:
                has_ended = self._ended  # before the answers: none is added later
                for answer in tuple(self._answers):
                    if answer.claim(call):
                        # In this order, see _is_asked().
                        self._calls.remove(call)
                        self._answers.remove(answer)
                        return answer.get()
                if has_ended:
                    break
                with contextlib.suppress(RuntimeError):  # the loop is closed already
                    self._loop.call_soon_threadsafe(self._asked.set)
                left = WAIT_AT_MOST if end is None else end - time.monotonic()
                if left <= 0:
                    break
                with contextlib.suppress(Empty):
                    call.get(timeout=min(WAIT_AT_MOST, left))
            self._calls.remove(call)
        except BaseException as error:
            # Python handles signals when a function is called or returns. So Ctrl-C
            # cannot replace the answer's own error here.
            if answer is None or error is not answer.value:
                self._give_back(answer, call)
            del answer  # or the traceback of its error would refer to itself
            raise
        if has_ended:
            raise ended()
        outage = self._updates._subscription.outage  # noqa: SLF001
        raise self._late(timeout, outage) from outage

    def _late(
        self, timeout: float | None, outage: OrtegeWatchError | None
    ) -> DeadlineExceeded:
        problem = f"no update within {timeout} s"
        if outage is not None:
            problem += f"; {self._updates.state} after: {outage.text}"
        error = DeadlineExceeded(problem)
        error.host = self._server
        return error

    def _give_back(self, answer: _Answer | None, call: _Call) -> None:
        """Leave the answer of an interrupted call to the next one."""
        if answer is not None and answer.owner is call:
            self._answers.insert(0, _Answer(answer.value))
            with contextlib.suppress(ValueError):
                self._answers.remove(answer)
        with contextlib.suppress(ValueError):
            self._calls.remove(call)
        self._wake()

    def _wake(self) -> None:
        for call in tuple(self._calls):
            call.put(None)

    def _is_asked(self) -> bool:
        """Return whether a call waits that has no answer yet.

        A call leaves its list after its claim and before the answer does. So the
        answers are looked at first.
        """
        answers = tuple(self._answers)
        calls = tuple(self._calls)
        owners = {each.owner for each in answers}
        return None not in owners and not owners.issuperset(calls)

    def _run(self) -> None:
        try:
            self._task = self._loop.create_task(self._serve())
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._task)
        finally:
            # A socket whose opening was cancelled is closed in the next iterations.
            for _ in range(5):
                self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()
            self._end()

    def _answer(self, value: Update | BaseException) -> None:
        self._answers.append(_Answer(value))
        self._wake()

    def _end(self) -> None:
        self._ended = True
        self._wake()

    def _cancel(self) -> None:
        task, self._task = self._task, None
        if task is not None:  # only once: a second time would abort the closing
            task.cancel()

    async def _serve(self) -> None:
        try:
            async with self._updates:
                while await self._asked.wait():
                    self._asked.clear()
                    if not self._is_asked():
                        continue
                    try:
                        self._answer(await anext(self._updates))
                    except (StopAsyncIteration, asyncio.CancelledError):
                        return
                    except BaseException as error:  # noqa: BLE001 - raised in take()
                        self._answer(error)
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised in take() or join()
            self._answer(error)
        finally:
            await self._aclose()
