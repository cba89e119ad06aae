"""Handling alerts: each once, whether it arrives over HTTP or a channel."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Container, Sequence
from typing import Final, Protocol, TypeAlias, TypeVar

import anyio
import sniffio
from anyio import to_thread
from attrs import define, field

from ortege_watch._checks import check_callable, check_int, check_kind
from ortege_watch.errors import DecodeError, SignatureError
from ortege_watch.watchbus.models import AlertInfo
from ortege_watch.watchbus.signing import Headers
from ortege_watch.watchbus.verifier import MemoryNonces, RequestVerifier
from ortege_watch.watchbus.wire import ResultCode, error_answer, ok_answer, refusal

logger: Final = logging.getLogger("ortege_watch.watchbus")

T = TypeVar("T")

AlertHandler: TypeAlias = Callable[[AlertInfo], object]
"""A function, plain or async, that takes one alert."""


class HandledAlerts(Container[object], Protocol):
    """The dedupe keys of handled alerts; a ``set`` works, but grows without limit."""

    def add(self, key: str, /) -> None:
        """Add a key; called when the handler has returned."""
        ...


class AlertInbox:
    """The alerts that were handled or are being handled; each is handled once.

    Share one between :func:`alert_app` and :func:`serve_alert_channel` to have each
    alert handled once, whether it arrives over HTTP, WebSocket or both at the same
    time. All users of an inbox must run on the same event loop.

    Args:
        handled: the dedupe keys (:meth:`AlertInfo.dedupe_key`) of handled alerts, used
            on the event loop. Pass one that is stored in a file to keep them across
            restarts; the default is the last ``limit`` keys in memory.
        limit: how many keys to keep in memory. An alert whose key was dropped is
            handled again if it arrives again.

    Raises:
        InvalidArgument: ``limit`` is not positive.
    """

    def __init__(
        self, handled: HandledAlerts | None = None, *, limit: int = 100_000
    ) -> None:
        check_int("limit", limit)
        self._handled = handled
        self._limit = limit
        self._recent: dict[str, None] = {}
        self._running: dict[str, _Call] = {}

    def __contains__(self, key: object) -> bool:
        return key in (self._recent if self._handled is None else self._handled)

    async def handle(
        self, alert: AlertInfo, app_id: str, handler: AlertHandler
    ) -> bool:
        """Call the handler with an alert, unless the alert was handled before.

        While another call handles the same alert, wait for it and return its result.

        Args:
            alert: the alert.
            app_id: the id of the app that sent it.
            handler: a plain function runs in a worker thread, an async one on the
                event loop.

        Returns:
            Whether the alert is handled. An exception of the handler is logged.
        """
        key = alert.dedupe_key(app_id)
        if (running := self._running.get(key)) is not None:
            await running.finished.wait()
            return running.handled
        call = self._running[key] = _Call()
        try:
            if key in self:
                call.handled = True
                return True
            try:
                await call.run(handler, alert)
            finally:  # a call that is cancelled may have returned in its thread
                if call.returned:
                    self._add(key)
                    call.handled = True
        except Exception:
            problem = "the handler failed: %s at %s, from app %s"
            logger.exception(problem, alert.event_code, alert.entity, app_id)
        finally:  # also where this is cancelled
            del self._running[key]
            call.finished.set()
        return call.handled

    async def answer(
        self, alerts: Sequence[AlertInfo], app_id: str, handler: AlertHandler
    ) -> tuple[int, bytes]:
        """Handle alerts one after the other, as :meth:`handle`.

        Returns:
            The HTTP status and the body of the response to the sender.
        """
        handled = [await self.handle(each, app_id, handler) for each in alerts]
        if all(handled):
            return 200, ok_answer()
        return 500, error_answer(ResultCode.SERVER_ERROR, "an alert was not handled")

    def _add(self, key: str) -> None:
        if self._handled is not None:
            self._handled.add(key)
            return
        self._recent[key] = None
        if len(self._recent) > self._limit:
            del self._recent[next(iter(self._recent))]


@define(eq=False)
class _Call:
    """A call of a handler, for the duplicates that wait for it."""

    finished: anyio.Event = field(factory=anyio.Event)
    returned: bool = False
    handled: bool = False

    async def run(self, handler: AlertHandler, alert: AlertInfo) -> None:
        """Call the handler and wait for it, a plain function in a thread."""
        call = getattr(type(handler), "__call__", None)  # noqa: B004 - an object's
        if any(map(inspect.iscoroutinefunction, (handler, call))):
            result = handler(alert)
        else:
            result = await _in_thread(self._run, handler, alert)
        if inspect.isawaitable(result):
            await result
        self.returned = True

    def _run(self, handler: AlertHandler, alert: AlertInfo) -> object:
        result = handler(alert)
        self.returned = not inspect.isawaitable(result)
        return result


async def _in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Call a function in a thread, and wait for it even where this is cancelled.

    After a ``Task.cancel()`` of asyncio, anyio does not wait for the thread.
    """
    if sniffio.current_async_library() != "asyncio":
        return await to_thread.run_sync(function, *arguments)
    task = asyncio.ensure_future(to_thread.run_sync(function, *arguments))
    cancelled = False
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                cancelled = True
    if cancelled:
        raise asyncio.CancelledError from task.exception()
    return task.result()


async def run_verifier(
    verifier: RequestVerifier,
    check: Callable[[Headers, bytes], T],
    headers: Headers,
    body: bytes,
) -> T:
    """Call a method of the verifier; in a thread if its store of nonces may block."""
    if isinstance(verifier.nonces, MemoryNonces):
        return check(headers, body)
    return await to_thread.run_sync(check, headers, body)


def error_response(error: Exception) -> tuple[int, bytes]:
    """Log why a request was not accepted; return the status and the body to answer."""
    if isinstance(error, SignatureError):
        logger.warning("request refused: %s", error)
        return refusal(error)
    if isinstance(error, DecodeError):
        logger.warning("signed request cannot be decoded: %s", error)
        return 400, error_answer(ResultCode.SERVER_ERROR, "; ".join(error.problems))
    logger.error("request could not be verified", exc_info=error)
    return 503, error_answer(ResultCode.SERVER_ERROR, "try again")


def check_receiver(verifier: object, handler: object, inbox: object) -> None:
    """Raise :class:`InvalidArgument` unless alerts can be received with them."""
    check_kind("verifier", verifier, RequestVerifier)
    check_callable("handler", handler)
    check_kind("inbox", inbox, AlertInbox | None, "an AlertInbox")
