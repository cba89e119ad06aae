"""Token sources: calls of token functions, bounded in time, for threads and for tasks."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio

from ortege_watch._checks import close_coroutine
from ortege_watch._http.conversation import TOKEN_TIMEOUT, TokenTimeout
from ortege_watch.errors import InvalidArgument, OrtegeWatchError
from ortege_watch.tokens import (
    Concealed,
    TokenLike,
    clean,
    expiry,
    timestamp,
)

T = TypeVar("T")

_HERE: Final = f"{Path(__file__).parents[1]}{os.sep}"
"""The folder of this library."""

WAIT_AT_MOST: Final = 1.0
"""Seconds: on Windows, Ctrl-C does not end a wait that has no time limit."""


class TokenSource:
    """The source of the tokens of requests and connections.

    A function is called for each request, on the event loop of the caller, or with
    ``in_thread`` in a daemon thread, with a copy of the caller's context variables. No
    second thread is started while the function is still running there: later requests
    get its result, too. No repr and no error message shows the token.
    """

    __slots__ = ("_ask", "_in_thread", "_lock", "_running", "fixed")

    def __init__(self, source: TokenLike, *, in_thread: bool = False) -> None:
        """Check a string, a function or an async function.

        Raises:
            InvalidArgument: the string is not a token, or the source is something else.
        """
        self.fixed = ""
        """The token that asking always gives; an empty string for a function."""
        self._ask: Callable[[], str | Awaitable[str]] | None = None
        self._in_thread = in_thread
        self._lock = threading.Lock()
        self._running: Future[object] | None = None  # the last call in a thread
        if callable(source):
            self._ask = source
        else:
            given = Concealed(source)
            del source
            self.fixed = clean(given.value, InvalidArgument)

    def __repr__(self) -> str:
        return "TokenSource(...)"

    def get(
        self, within: float = TOKEN_TIMEOUT, closing: Future[None] | None = None
    ) -> str:
        """Return the token, without a leading ``Bearer``; wait so many seconds.

        The result of ``closing`` ends the wait, too.

        Raises:
            OrtegeWatchError: the function failed, did not return a token, or is async; its
                exception is on ``__cause__``.
            TokenTimeout: the function is still running.
        """
        if self._ask is None:
            return self.fixed
        end = time.monotonic() + within
        with _calling_token_function():
            running = self._join(self._ask)
            ends: list[Future[Any]] = [running, *([closing] if closing else [])]
            while not running.done():
                left = end - time.monotonic()
                if left <= 0 or (closing is not None and closing.done()):
                    raise TokenTimeout(within)
                wait(ends, min(WAIT_AT_MOST, left), FIRST_COMPLETED)
            return clean(running.result(), OrtegeWatchError)

    async def aget(self, within: float = TOKEN_TIMEOUT) -> str:
        """Return the token, without a leading ``Bearer``; await an async function.

        Raises:
            OrtegeWatchError: the function failed or did not return a token; its exception is
                on ``__cause__``.
            TokenTimeout: the function has not returned after so many seconds; an async
                one was cancelled.
        """
        if self._ask is None:
            return self.fixed
        with _calling_token_function(), anyio.move_on_after(within):
            # In no variable, because a traceback shows those.
            return clean(
                await (
                    asyncio.wrap_future(self._join(self._ask))
                    if self._in_thread
                    else _call_here(self._ask)
                ),
                OrtegeWatchError,
            )
        raise TokenTimeout(within)

    def advice(self, now: float) -> str:
        """Return what to do if the same token comes again after it was refused.

        ``now`` is in unix seconds.
        """
        if self._ask is not None:
            return "the token function returned the same token again"
        until, when = expiry(self.fixed), ""
        if until is not None and until <= now:
            when = f" that expired at {timestamp(until)}"
        return (
            f"the token is a fixed string{when}: pass a function that returns a new one"
        )

    def _join(self, ask: Callable[[], object]) -> Future[object]:
        """Return the call that is running in a thread, or start one."""
        with self._lock:
            if self._running is not None and not self._running.done():
                return self._running
            self._running = call_in_thread(partial(_call, ask), "token function")
            return self._running


async def _call_here(ask: Callable[[], object]) -> object:
    # Inside the coroutine, at whose end a StopIteration would become another error.
    with _calling_token_function():
        answer = ask()
        return await answer if inspect.isawaitable(answer) else answer


def _call(ask: Callable[[], object]) -> object:
    # In the thread: a future of asyncio takes no StopIteration, and is never done.
    with _calling_token_function():
        answer = ask()
    if inspect.isawaitable(answer):
        close_coroutine(answer)
        raise OrtegeWatchError(
            "the token function is async, but this client is not: use a plain"
            " function, or AsyncCubeClient"
        )
    return answer


def call_in_thread(call: Callable[[], T], name: str) -> Future[T]:
    """Call a function in a daemon thread, which never delays an exit.

    It has a copy of the context variables, and nobody who waits can cancel it.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def work() -> None:
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            future.set_exception(error)
        else:
            future.set_result(result)

    context = copy_context()
    threading.Thread(target=context.run, args=(work,), name=name, daemon=True).start()
    return future


@contextmanager
def _calling_token_function() -> Iterator[None]:
    try:
        yield
    except OrtegeWatchError:
        raise
    except asyncio.CancelledError as error:
        if is_cancellation(error):
            raise
        # Nobody has cancelled the caller: the function awaited what was cancelled.
        raise OrtegeWatchError("the token function was cancelled") from error
    except Exception as error:
        # Its text is left out: it may quote the request that fetched the token.
        what = type_and_place(error)
        raise OrtegeWatchError(f"the token function failed: {what}") from error


def type_and_place(error: BaseException) -> str:
    """Return the type of an error of a caller's function, and the line that raised it.

    The line is the innermost one that is not in a library, such as ``KeyError at
    vault.py:31``. The text of the error is left out: it may quote a secret.
    """
    files = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    callers = [each for each in files if not each[0].startswith(_library_folders())]
    if not callers:  # the function is a library's own
        while any(name.startswith(_HERE) for name, _ in files):
            del files[0]
        callers = files[:1]
    kind = type(error).__name__
    if not callers:  # it has no line: a function in C
        return kind
    name, line = callers[-1]
    return f"{kind} at {Path(name).name}:{line}"


@functools.cache
def _library_folders() -> tuple[str, ...]:
    import sysconfig  # noqa: PLC0415 - slow, and only for an error

    paths = sysconfig.get_paths()
    keys = ("stdlib", "platstdlib", "purelib", "platlib")
    return _HERE, "<frozen ", *{f"{paths[key]}{os.sep}" for key in keys}


def is_cancellation(error: BaseException) -> bool:
    """Return whether somebody has cancelled the current task, which such an error ends.

    Otherwise a caller's function has awaited something that was cancelled; trio has no
    such errors.
    """
    if not isinstance(error, asyncio.CancelledError):
        return True
    try:
        task = asyncio.current_task()
    except RuntimeError:  # in a thread
        return False
    return task is not None and task.cancelling() > 0
