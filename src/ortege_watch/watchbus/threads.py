"""Calls of the application's functions in threads, and of its ``secrets`` with limits."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Final, Generic, TypeVar

import anyio
import sniffio
from anyio import to_thread
from attrs import field, frozen

from ortege_watch._http.token_source import call_in_thread
from ortege_watch.errors import OrtegeWatchError

T = TypeVar("T")

SECRETS_WITHIN: Final = 10.0
"""Seconds in which a function of secrets must return; then the request is refused."""

SECRETS_AT_ONCE: Final = 100
"""The most calls of a function of secrets that run at once, each for another app."""


class Overdue(Exception):
    """Raised when the time of a call in a thread is over; it may go on there."""


@frozen(eq=False)
class Outcome(Generic[T]):
    """What a call in a thread has returned or raised.

    An error is handed over as a value. If a thread of anyio raises it, anyio keeps it in
    frames that the error keeps in turn. Only a full garbage collection frees such a
    cycle, and with it all that the frames have, such as the body of a request.
    """

    _results: tuple[T, ...]
    _error: BaseException | None = None
    _traceback: TracebackType | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        """Keep the traceback: several callers may raise the error."""
        if self._error is not None:
            object.__setattr__(self, "_traceback", self._error.__traceback__)

    def get(self) -> T:
        """Return the result, or raise the error."""
        error, trace = self._error, self._traceback
        if error is None:
            [result] = self._results
            return result
        try:
            raise error.with_traceback(trace)
        finally:
            del self, error, trace  # its traceback has this frame


def in_worker(function: Callable[..., T], *arguments: object) -> Outcome[T]:
    """Call a function of the application in a worker thread.

    What its outcome raises is an :class:`Exception`: asyncio takes a ``CancelledError``
    for its own, and ends the program after a ``SystemExit`` or ``KeyboardInterrupt``.
    """
    try:
        return Outcome((function(*arguments),))
    except Exception as error:  # noqa: BLE001 - raised by whoever waits
        return Outcome((), error)
    except BaseException as error:  # noqa: BLE001 - as above
        return Outcome((), as_exception(error))


def as_exception(error: BaseException) -> RuntimeError:
    """Return an :class:`Exception` in place of an error that would end a program."""
    made = RuntimeError(f"it raised {type(error).__name__}")
    made.__cause__ = error
    return made


async def in_thread(
    function: Callable[..., T], *arguments: object, deadline: float = math.inf
) -> T:
    """Call a function in a thread, and wait for it even where this is cancelled.

    After a ``Task.cancel()`` of asyncio, anyio does not wait for the thread.

    Raises:
        Overdue: the deadline has passed.
    """
    call = partial(in_worker, function, *arguments)
    if sniffio.current_async_library() != "asyncio":
        with anyio.CancelScope(shield=True, deadline=deadline):
            return (await to_thread.run_sync(call, abandon_on_cancel=True)).get()
        raise Overdue
    task = asyncio.ensure_future(to_thread.run_sync(call))
    cancelled = False
    with anyio.CancelScope(shield=True):
        while not task.done():
            left = deadline - anyio.current_time()
            if left <= 0:
                task.cancel()  # the thread is left, its place is free
                break
            try:
                await asyncio.wait([task], timeout=None if left == math.inf else left)
            except asyncio.CancelledError:
                cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    if not task.done():
        raise Overdue
    try:
        return task.result().get()
    finally:
        del task  # it has the error, whose traceback has this frame


async def run_verifier(
    may_block: bool, check: Callable[..., T], *arguments: object
) -> T:
    """Call a method of a verifier; in a thread if it may block."""
    if may_block:
        return (await to_thread.run_sync(in_worker, check, *arguments)).get()
    return check(*arguments)


class LimitedCalls(Generic[T]):
    """Calls of a function of the app id, in threads of its own and limited in time.

    While a call for an app is running, there is no second one: who asks meanwhile gets
    its result, too. So a function that hangs for one app takes one thread, and neither
    other apps nor the end of the program wait for it.

    Args:
        function: the function.
        name: what errors call it.
        within: seconds in which it must return.
        at_once: the most calls that run at once, each for another app.
    """

    def __init__(
        self,
        function: Callable[[str], T],
        name: str,
        within: float = SECRETS_WITHIN,
        at_once: int = SECRETS_AT_ONCE,
    ) -> None:
        self._function = function
        self._name = name
        self._within = within
        self._at_once = at_once
        self._lock = threading.Lock()
        self._running: dict[str, tuple[Future[Outcome[T]], float]] = {}

    async def get(self, app_id: str) -> T:
        """Return the result for an app, or raise the error of the function.

        Raises:
            OrtegeWatchError: it has not returned in time, or too many calls are running.
        """
        future, until = self._join(app_id)
        await _until_done(future, until - time.monotonic())
        try:
            if future.done():
                return future.result().get()
        finally:
            del future  # it may have the error, whose traceback has this frame
        raise OrtegeWatchError(
            f"{self._name}({app_id!r}) took more than {self._within:g} s: set a time limit"
            " for what it calls"
        )

    def _join(self, app_id: str) -> tuple[Future[Outcome[T]], float]:
        """Return the call that is running for an app, or start one; and its end."""
        with self._lock:
            if (found := self._running.get(app_id)) is not None:
                return found
            if len(self._running) >= self._at_once:
                raise OrtegeWatchError(
                    f"{self._at_once} calls of {self._name}() are running: it is too"
                    " slow"
                )
            call = partial(self._call, app_id)
            until = time.monotonic() + self._within
            started = call_in_thread(call, f"{self._name} worker"), until
            # The thread may have ended, but it waits for the lock before it removes this.
            self._running[app_id] = started
            return started

    def _call(self, app_id: str) -> Outcome[T]:
        try:
            return in_worker(self._function, app_id)
        finally:
            with self._lock:
                del self._running[app_id]


async def _until_done(future: Future[T], within: float) -> None:
    """Wait until a call in a thread is done or the time is over."""
    if within <= 0 or future.done():
        return
    if sniffio.current_async_library() == "asyncio":
        # Not wrap_future(), after whose cancellation others could not wait any more.
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def wake(_: object) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(done.set)

        future.add_done_callback(wake)
        with anyio.move_on_after(within):
            await done.wait()
    else:
        with anyio.move_on_after(within):
            await to_thread.run_sync(
                partial(wait, [future], within), abandon_on_cancel=True
            )
