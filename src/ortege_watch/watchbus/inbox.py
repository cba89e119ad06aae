"""Handling alerts: each once, whether it arrives over HTTP or a channel."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final, Literal, TypeAlias, TypeVar

import anyio
import sniffio
from anyio import to_thread
from attrs import define, field, frozen

from ortege_watch._checks import check_callable, check_kind, check_seconds
from ortege_watch.errors import DecodeError, SignatureError, printable
from ortege_watch.watchbus.handled import Claim, HandledStore, MemoryHandled
from ortege_watch.watchbus.models import AlertInfo
from ortege_watch.watchbus.verifier import RequestVerifier
from ortege_watch.watchbus.wire import ResultCode, error_answer, ok_answer

logger: Final = logging.getLogger("ortege_watch.watchbus")

T = TypeVar("T")

AlertHandler: TypeAlias = Callable[[AlertInfo], object]
"""A function, plain or async, that takes one alert.

If it returns, the alert is acknowledged. If it raises :class:`RejectAlert`, the alert is
rejected for good; after any other exception the sender sends it again.
"""

_CLAIM_WITHIN: Final = 2.0
"""Seconds to wait for another process that is handling the same alert."""

_CLAIM_EVERY: Final = 0.05
"""Seconds between two looks at what it does."""


class RejectAlert(Exception):
    """Raised by a handler to reject an alert for good; it is not sent again.

    The sender gets the status 422 with the reason. It is not an
    :class:`~ortege_watch.OrtegeWatchError`, which handlers may catch.

    Args:
        reason: for the sender; its ``str()`` is sent, so it may be an exception.
    """

    def __init__(self, reason: object = "rejected") -> None:
        # An error here would be one of the handler, after which the alert is retried.
        self.reason: Final = str(reason) or "rejected"
        super().__init__(self.reason)


class RetryAlert(Exception):
    """Raised by a handler that cannot handle an alert now: the sender sends it again.

    The sender gets the status 503 with ``Retry-After``.

    Args:
        after: the time after which to send it again, in seconds or as a ``timedelta``;
            at least 0.
        reason: for the sender; its ``str()`` is sent, so it may be an exception.

    Raises:
        InvalidArgument: ``after`` is not a time.
    """

    def __init__(
        self, after: float | timedelta, reason: object = "try again later"
    ) -> None:
        seconds = after.total_seconds() if isinstance(after, timedelta) else after
        check_seconds("after", seconds, or_zero=True)
        self.after: Final = seconds
        self.reason: Final = str(reason) or "try again later"
        super().__init__(self.after, self.reason)


@frozen
class AlertOutcome:
    """What became of an alert.

    Attributes:
        action: ``"acknowledge"``: it was handled, now or before. ``"retry"``: it was
            not, and is to be sent again. ``"reject"``: it is not to be sent again.
        reason: why not, for the sender.
        retry_after: the seconds after which to send it again; ``None`` if the handler
            failed.
    """

    action: Literal["acknowledge", "retry", "reject"]
    reason: str = ""
    retry_after: float | None = None


_ACKNOWLEDGE: Final = AlertOutcome("acknowledge")
_FAILED: Final = AlertOutcome("retry", "an alert was not handled")
_BUSY: Final = AlertOutcome("retry", "another process is handling the alert", 1.0)


@frozen
class InboxAnswer:
    """The answer to alerts that arrived together: HTTP status, body, retry after."""

    status: int
    body: bytes
    retry_after: float | None = None


class AlertInbox:
    """The alerts that were handled or are being handled; each is handled once.

    Share one between :func:`alert_app` and :func:`serve_alert_channel` to have each
    alert handled once, whether it arrives over HTTP, WebSocket or both at the same
    time. All users of an inbox must run on the same event loop. Several processes have
    one inbox each, over the same :class:`SQLiteHandled`.

    Args:
        handled: remembers what became of alerts; by default a :class:`MemoryHandled`,
            of this process alone.

    Raises:
        InvalidArgument: ``handled`` is not a store.
    """

    def __init__(self, handled: HandledStore | None = None) -> None:
        self.handled: Final = MemoryHandled() if handled is None else handled
        for name in ("claim", "resolve", "release"):
            check_callable(f"handled.{name}", getattr(self.handled, name, None))
        self._running: dict[str, _Call] = {}

    async def handle(
        self, alert: AlertInfo, app_id: str, handler: AlertHandler
    ) -> AlertOutcome:
        """Call the handler with an alert, unless the alert was handled before.

        While another call handles the same alert, wait for it and return its outcome;
        up to two seconds if it is in another process.

        Args:
            alert: the alert.
            app_id: the id of the app that sent it.
            handler: a plain function runs in a worker thread, an async one on the
                event loop.

        Returns:
            What became of the alert. Exceptions of the handler and of the store are
            logged.
        """
        key = alert.dedupe_key(app_id)
        if (running := self._running.get(key)) is not None:
            await running.finished.wait()
            return running.outcome
        call = self._running[key] = _Call(f"{shown_alert(alert)}, from app {app_id}")
        try:
            claim = await self._claim(key)
            if claim.state == "claimed":
                try:
                    await call.run(handler, alert)
                finally:  # a call that is cancelled may have returned in its thread
                    await self._resolve(key, call)
            else:
                call.outcome = _outcome(claim)
        except Exception:
            logger.exception("alert not handled: %s", call.name)
            call.outcome = _FAILED
        finally:  # also where this is cancelled
            del self._running[key]
            call.finished.set()
        return call.outcome

    async def answer(
        self, alerts: Sequence[AlertInfo], app_id: str, handler: AlertHandler
    ) -> InboxAnswer:
        """Handle alerts one after the other, as :meth:`handle`.

        Returns:
            The response to the sender.
        """
        outcomes = [await self.handle(each, app_id, handler) for each in alerts]
        wrong = [each for each in outcomes if each.action != "acknowledge"]
        if not wrong:
            return InboxAnswer(200, ok_answer())
        retries = [each for each in wrong if each.action == "retry"]
        reasons = dict.fromkeys(each.reason for each in retries or wrong)
        body = error_answer(ResultCode.SERVER_ERROR, printable("; ".join(reasons)))
        if not retries:
            return InboxAnswer(422, body)
        delays = [each.retry_after for each in retries]
        if None in delays:
            return InboxAnswer(500, body)
        return InboxAnswer(503, body, max(filter(None, delays), default=0.0))

    async def _claim(self, key: str) -> Claim:
        deadline = anyio.current_time() + _CLAIM_WITHIN
        while True:
            try:
                claim = await self._stored(self.handled.claim, key)
            except anyio.get_cancelled_exc_class():  # it may be claimed all the same
                with anyio.CancelScope(shield=True):
                    await self._stored(self.handled.release, key)
                raise
            if claim.state != "busy" or anyio.current_time() >= deadline:
                return claim
            await anyio.sleep(_CLAIM_EVERY)

    async def _resolve(self, key: str, call: _Call) -> None:
        outcome = call.outcome
        call.outcome = _FAILED  # until it is stored
        with anyio.CancelScope(shield=True):
            if outcome.action == "retry":
                await self._stored(self.handled.release, key)
            else:
                reason = outcome.reason if outcome.action == "reject" else None
                await self._stored(self.handled.resolve, key, reason)
        call.outcome = outcome

    async def _stored(self, function: Callable[..., T], *arguments: object) -> T:
        """Call the store, in a thread if it may block."""
        if isinstance(self.handled, MemoryHandled):
            return function(*arguments)
        return await _in_thread(function, *arguments)


def _outcome(claim: Claim) -> AlertOutcome:
    match claim.state:
        case "handled":
            return _ACKNOWLEDGE
        case "rejected":
            return AlertOutcome("reject", claim.reason)
        case _:
            return _BUSY


def shown_alert(alert: AlertInfo) -> str:
    """Return what a log line calls an alert."""
    return f"{printable(alert.event_code, 100)} at {alert.entity}"


@define(eq=False)
class _Call:
    """A call of a handler, for the duplicates that wait for it."""

    name: str  # of the alert, in log lines
    finished: anyio.Event = field(factory=anyio.Event)
    outcome: AlertOutcome = _FAILED

    async def run(self, handler: AlertHandler, alert: AlertInfo) -> None:
        """Call the handler, a plain function in a thread, and keep the outcome."""
        try:
            await self._run(handler, alert)
        except RejectAlert as error:
            self.outcome = AlertOutcome("reject", printable(error.reason))
            logger.warning("alert rejected: %s: %s", self.name, self.outcome.reason)
        except RetryAlert as error:
            self.outcome = AlertOutcome("retry", error.reason, error.after)
            problem = "alert to be sent again in %g s: %s: %s"
            logger.info(problem, error.after, self.name, printable(error.reason))
        except Exception:
            logger.exception("the handler failed: %s", self.name)
        except anyio.get_cancelled_exc_class():
            if is_cancelled():
                raise
            # It awaited something that was cancelled.
            logger.exception("the handler failed: %s", self.name)

    async def _run(self, handler: AlertHandler, alert: AlertInfo) -> None:
        call = getattr(type(handler), "__call__", None)  # noqa: B004 - an object's
        if any(map(inspect.iscoroutinefunction, (handler, call))):
            result = handler(alert)
        else:
            result = await _in_thread(self._in_thread, handler, alert)
        if inspect.isawaitable(result):
            await result
        self.outcome = _ACKNOWLEDGE

    def _in_thread(self, handler: AlertHandler, alert: AlertInfo) -> object:
        result = handler(alert)
        if not inspect.isawaitable(result):
            self.outcome = _ACKNOWLEDGE
        return result


def is_cancelled() -> bool:
    """Return whether somebody has cancelled the current task."""
    if sniffio.current_async_library() != "asyncio":
        return True
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


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
    may_block: bool, check: Callable[..., T], *arguments: object
) -> T:
    """Call a method of a verifier; in a thread if it may block."""
    if may_block:
        return await to_thread.run_sync(check, *arguments)
    return check(*arguments)


def error_response(error: Exception) -> tuple[int, bytes]:
    """Log why a request was not accepted; return the status and the body to answer."""
    if isinstance(error, SignatureError):
        logger.warning("request refused: %s", error)
        return error.status, error.body
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
