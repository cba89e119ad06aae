"""Handling alerts: each once, whether it arrives over HTTP or a channel."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import signal
import threading
import traceback
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Final, Literal, TypeAlias, TypeVar

import anyio
import sniffio
from attrs import define, field, frozen

from ortege_watch._checks import (
    bad_result,
    check_callable,
    check_kind,
    check_methods,
    check_seconds,
    close_coroutine,
    is_async,
    shown,
)
from ortege_watch._http.token_source import is_cancellation
from ortege_watch.errors import (
    DecodeError,
    InvalidArgument,
    OrtegeWatchError,
    SignatureError,
    printable,
)
from ortege_watch.watchbus.handled import (
    Claim,
    HandledStore,
    MemoryHandled,
    SQLiteHandled,
)
from ortege_watch.watchbus.models import AlertInfo, shown_alert
from ortege_watch.watchbus.signing import Headers, is_field, signature_headers
from ortege_watch.watchbus.threads import Overdue, in_thread
from ortege_watch.watchbus.verifier import RequestVerifier
from ortege_watch.watchbus.wire import ResultCode, error_answer, ok_answer

logger: Final = logging.getLogger("ortege_watch.watchbus")

T = TypeVar("T")

AlertHandler: TypeAlias = Callable[[AlertInfo], object]
"""A function, plain or async, that takes one alert.

If it returns, the alert is acknowledged; not if it returns an exception in place of raising
it. If it raises :class:`RejectAlert`, the alert is rejected for good; after any other
exception the sender retries it.
"""

_LONGEST_APP_ID: Final = 100  # in log lines
_CANCEL_WITHIN: Final = 1.0  # seconds that an async handler has after its cancellation
_LEFT_AT_ONCE: Final = 100  # handlers that are running after their limit

CLAIM_WITHIN: Final = 2.0
"""Seconds to wait for another process that is handling the same alert."""

CLAIM_EVERY: Final = 0.05
"""Seconds between two looks at what it does."""


class RejectAlert(Exception):
    """Raised by a handler to reject an alert for good; the sender does not retry it.

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
    """Raised by a handler that cannot handle an alert now: the sender retries it.

    The sender gets the status 503 with ``Retry-After``.

    Args:
        after: the time after which to retry it, in seconds or as a ``timedelta``; at
            least 0. Of it, senders of this library respect at most 300 s: an outbox
            sends the alert again after that, or after its own delay if that is longer.
            An alert that shared a request with others is sent again sooner: the sender
            splits the request at once, to delay only the alerts that failed.
            For more time, let the handler store the alert and return.
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

    def __str__(self) -> str:
        return f"to be retried in {self.after:g} s: {self.reason}"


@frozen
class AlertOutcome:
    """What became of an alert.

    Attributes:
        action: ``"acknowledge"``: it was handled, now or before. ``"retry"``: it was
            not, and is to be retried. ``"reject"``: it is not to be retried.
        reason: why not, for the sender.
        retry_after: the seconds after which to retry it; ``None`` if the handler
            failed.
    """

    action: Literal["acknowledge", "retry", "reject"]
    reason: str = ""
    retry_after: float | None = None


ACKNOWLEDGE: Final = AlertOutcome("acknowledge")
FAILED: Final = AlertOutcome("retry", "an alert was not handled")
_BUSY: Final = AlertOutcome("retry", "another process is handling the alert", 1.0)
_NO_STORE: Final = AlertOutcome("retry", "try again", 5.0)


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
        handle_within: seconds in which the handler must return for an alert; then the
            alert is retried. An async handler is cancelled, and has a second to end; a
            plain one goes on in its thread. The alert is not handled again before it has
            returned. The ``claim_for`` of a :class:`SQLiteHandled` must be longer.

    Raises:
        InvalidArgument: an argument cannot be used.
    """

    def __init__(
        self, handled: HandledStore | None = None, *, handle_within: float = 60.0
    ) -> None:
        check_seconds("handle_within", handle_within)
        self._handle_within = handle_within
        self.handled: Final = handled_store(handled)
        claim_for = (
            handled.claim_for if isinstance(handled, SQLiteHandled) else math.inf
        )
        if claim_for <= handle_within:
            raise InvalidArgument(
                f"claim_for={claim_for:g} of the SQLiteHandled must be longer than"
                f" handle_within={handle_within:g}: another process would handle an alert"
                " again while its handler is running"
            )
        self._running: dict[str, _Call] = {}

    def __repr__(self) -> str:
        return f"AlertInbox({self.handled!r})"

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
            if running.is_left:
                problem = "the handler is still running after its limit, alert to be retried: %s"
                logger.warning(problem, running.name)
            else:
                logger.debug("duplicate, was being handled: %s", running.name)
            return running.outcome
        call = _Call(shown_alert(alert, key, app_id))
        if sum(each.is_left for each in self._running.values()) >= _LEFT_AT_ONCE:
            problem = "%d calls of the handler are running after their limit: retry %s"
            logger.error(problem, _LEFT_AT_ONCE, call.name)
            return _NO_STORE
        self._running[key] = call
        try:
            claim = await self._claim(app_id, key)
            if claim.state == "claimed":
                late = partial(self._late, app_id, key)
                try:
                    await call.run(handler, alert, self._handle_within, late)
                finally:  # a call that is cancelled may have returned in its thread
                    if call.is_left and call.left is not None:
                        ended = self._release_later(call.left, late)
                        call.releasing = asyncio.create_task(ended)
                    elif not call.is_left:
                        await self._resolve(app_id, key, call)
            else:
                call.outcome = outcome_before(claim, call.name)
        except Exception as error:  # noqa: BLE001 - it is logged
            call.outcome = outcome_without(self.handled, error, call.name)
        finally:  # also where this is cancelled
            if not call.is_left:
                del self._running[key]
            call.finished.set()
        return call.outcome

    async def _claim(self, app_id: str, key: str) -> Claim:
        deadline = anyio.current_time() + CLAIM_WITHIN
        while True:
            try:
                claim = await self._stored(claim_alert, self.handled, app_id, key)
            except anyio.get_cancelled_exc_class():  # it may be claimed all the same
                with anyio.CancelScope(shield=True):
                    await self._stored(store_outcome, self.handled, app_id, key, FAILED)
                raise
            if claim.state != "busy" or anyio.current_time() >= deadline:
                return claim
            await anyio.sleep(CLAIM_EVERY)

    async def _resolve(self, app_id: str, key: str, call: _Call) -> None:
        outcome = call.outcome
        call.outcome = FAILED  # until it is stored
        with anyio.CancelScope(shield=True):
            await self._stored(store_outcome, self.handled, app_id, key, outcome)
        call.outcome = outcome

    async def _release_later(
        self, left: asyncio.Task[Any], late: Callable[[AlertOutcome], None]
    ) -> None:
        """Release the claim once an async handler that was cancelled has ended."""
        await asyncio.wait([left])
        await self._stored(late, FAILED)

    def _late(self, app_id: str, key: str, outcome: AlertOutcome) -> None:
        """Store the outcome of a call that was left, and has returned."""
        name = self._running[key].name
        try:
            store_outcome(self.handled, app_id, key, outcome)
            logger.warning("the handler has returned after its limit: %s", name)
        except Exception as error:  # noqa: BLE001 - it is logged
            outcome_without(self.handled, error, name)
        finally:
            del self._running[key]

    async def _stored(self, function: Callable[..., T], *arguments: object) -> T:
        """Call the store, in a thread if it may block."""
        if isinstance(self.handled, MemoryHandled):
            return function(*arguments)
        return await in_thread(function, *arguments)


def handled_store(handled: HandledStore | None) -> HandledStore:
    """Return the store, or one in memory; refuse what is not a store."""
    if handled is None:
        return MemoryHandled()
    methods = {
        "claim": ("app_id", "key"),
        "resolve": ("app_id", "key", "reason"),
        "release": ("app_id", "key"),
    }
    expected = "a HandledStore, such as SQLiteHandled(path)"
    check_methods("handled", handled, methods, expected, awaited=())
    return handled


def claim_alert(handled: HandledStore, app_id: str, key: str) -> Claim:
    """Claim an alert; what is not a :class:`Claim` is an error of the store."""
    claim: object = handled.claim(app_id, key)
    if not isinstance(claim, Claim):
        raise bad_result("claim()", "a Claim", claim)
    return claim


async def handle_all(
    inbox: AlertInbox, alerts: Sequence[AlertInfo], app_id: str, handler: AlertHandler
) -> InboxAnswer:
    """Handle alerts one after the other; return the answer to the sender."""
    return answer_of([await inbox.handle(each, app_id, handler) for each in alerts])


def store_outcome(
    handled: HandledStore, app_id: str, key: str, outcome: AlertOutcome
) -> None:
    """Store what became of a claimed alert."""
    store: Callable[[], object]
    if outcome.action == "retry":
        name, store = "release()", partial(handled.release, app_id, key)
    else:
        reason = outcome.reason if outcome.action == "reject" else None
        name, store = "resolve()", partial(handled.resolve, app_id, key, reason)
    if inspect.isawaitable(result := store()):
        raise bad_result(name, "None", result)


def outcome_before(claim: Claim, name: str) -> AlertOutcome:
    """Return what became of an alert that the caller must not handle."""
    match claim.state:
        case "handled":
            logger.debug("duplicate, handled before: %s", name)
            return ACKNOWLEDGE
        case "rejected":
            logger.debug("duplicate, rejected before: %s", name)
            return AlertOutcome("reject", claim.reason)
        case "busy":
            logger.info("another process is handling the alert: %s", name)
            return _BUSY
        case state:
            expected = "'claimed', 'busy', 'handled' or 'rejected'"
            raise OrtegeWatchError(
                f"the state of a Claim must be {expected}, got {shown(state)}"
            )


def outcome_of(result: object, name: str) -> AlertOutcome:
    """Return what becomes of an alert whose handler has returned.

    A result that must not be thrown away is a failure, and is logged.
    """
    if inspect.isawaitable(result):
        close_coroutine(result)
        advice = "await it in an async handler, and use alert_app"
    elif isinstance(result, BaseException) or (
        isinstance(result, type) and issubclass(result, BaseException)
    ):
        advice = "raise it"
    else:
        return ACKNOWLEDGE
    problem = "the handler failed: %s: it returned %s, so the alert is not handled: %s"
    kind = result if isinstance(result, type) else type(result)
    logger.error(problem, name, kind.__name__, advice)
    return FAILED


def outcome_after(error: BaseException, name: str) -> AlertOutcome:
    """Log what a handler has raised, and return what becomes of the alert."""
    if isinstance(error, RejectAlert):
        outcome = AlertOutcome("reject", printable(error.reason))
        logger.warning("alert rejected: %s: %s", name, outcome.reason)
        return outcome
    if isinstance(error, RetryAlert):
        problem = "alert to be retried in %g s: %s: %s"
        logger.info(problem, error.after, name, printable(error.reason))
        return AlertOutcome("retry", error.reason, error.after)
    logger.error("the handler failed: %s", name, exc_info=error)
    return FAILED


def outcome_without(handled: HandledStore, error: Exception, name: str) -> AlertOutcome:
    """Log that the store has failed, and return what becomes of the alert."""
    problem = "the store of handled alerts (%s) failed, alert to be retried: %s"
    logger.error(problem, type(handled).__name__, name, exc_info=error)
    return _NO_STORE


def answer_of(outcomes: Iterable[AlertOutcome]) -> InboxAnswer:
    """Return the answer to alerts that arrived together."""
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


@define(eq=False)
class _Call:
    """A call of a handler, for the duplicates that wait for it."""

    name: str  # of the alert, in log lines
    finished: anyio.Event = field(factory=anyio.Event)
    outcome: AlertOutcome = FAILED
    is_left: bool = False  # it is still running, in its thread or task
    left: asyncio.Task[BaseException | None] | None = None
    releasing: asyncio.Task[None] | None = None  # once that has ended
    _lock: threading.Lock = field(factory=threading.Lock)
    _in_thread: bool = False
    _expired: bool = False
    _is_cut_off: bool = False  # and so to be retried, whatever it returns

    async def run(
        self,
        handler: AlertHandler,
        alert: AlertInfo,
        within: float,
        late: Callable[[AlertOutcome], None],
    ) -> None:
        """Call the handler, a plain function in a thread, and keep the outcome.

        One that is left in its thread calls ``late`` with it.
        """
        try:
            await self._run(handler, alert, anyio.current_time() + within, late)
        except Overdue:
            problem = "the handler took more than %g s, alert to be retried: %s"
            logger.error(problem, within, self.name)  # noqa: TRY400 - no traceback
            if self.is_left and self.left is not None:
                problem = "the handler is running although it was cancelled: %s: let it"
                problem += " re-raise CancelledError, which `except:` catches"
                logger.error(problem, self.name)  # noqa: TRY400 - no traceback
        except BaseException as error:
            if not is_failure(error):
                raise
            self.outcome = outcome_after(error, self.name)
        if self.outcome is ACKNOWLEDGE:
            logger.debug("alert handled: %s", self.name)

    async def _run(
        self,
        handler: AlertHandler,
        alert: AlertInfo,
        deadline: float,
        late: Callable[[AlertOutcome], None],
    ) -> None:
        if is_async(handler):
            result = handler(alert)
        else:
            try:
                result = await in_thread(
                    self._call, handler, alert, late, deadline=deadline
                )
            finally:  # also where this is cancelled
                with self._lock:
                    self._expired = True
                    self.is_left = self._in_thread
        if inspect.isawaitable(result):
            try:
                await self._finish(self._await(result), deadline)
            finally:
                if not self.is_left:  # or it may not have begun
                    close_coroutine(result)

    async def _finish(
        self, work: Coroutine[Any, Any, BaseException | None], deadline: float
    ) -> None:
        """Wait for an async handler, and cancel it at the deadline.

        It may go on all the same. On trio this waits for it; on asyncio it runs in a
        task of its own, which is left then.
        """
        error: BaseException | None = None
        if sniffio.current_async_library() != "asyncio":
            with anyio.CancelScope(deadline=deadline) as scope:
                error = await work
            self._is_cut_off = scope.cancel_called
        else:
            error = await self._finish_task(asyncio.create_task(work), deadline)
        if self._is_cut_off:
            self.outcome = FAILED
            raise Overdue
        if error is not None:
            raise error

    async def _finish_task(
        self, task: asyncio.Task[BaseException | None], deadline: float
    ) -> BaseException | None:
        try:
            left = max(0.0, deadline - anyio.current_time())
            await asyncio.wait([task], timeout=left)
        finally:  # also where this is cancelled
            self._is_cut_off = not task.done()
            if self._is_cut_off:
                task.cancel()
                self.left, self.is_left = task, True
                with anyio.CancelScope(shield=True):
                    await asyncio.wait([task], timeout=_CANCEL_WITHIN)
                self.is_left = not task.done()
        return None if self._is_cut_off else task.result()

    async def _await(self, result: object) -> BaseException | None:
        """Await a handler; return what must be raised by who waits for it."""
        try:
            while inspect.isawaitable(result):  # an async one may forget an await
                result = await result
            outcome = outcome_of(result, self.name)
        except BaseException as error:
            if not is_failure(error):
                if self.is_left and not isinstance(error, asyncio.CancelledError):
                    raise  # nobody waits
                return error
            outcome = outcome_after(error, self.name)
        if not self._is_cut_off:
            self.outcome = outcome
        return None

    def _call(
        self,
        handler: AlertHandler,
        alert: AlertInfo,
        late: Callable[[AlertOutcome], None],
    ) -> object:
        """Call a plain handler, in a thread."""
        with self._lock:
            if self._expired:  # no thread was free in time
                return None
            self._in_thread = True
        result, outcome = None, FAILED
        try:
            result = handler(alert)
            if not inspect.isawaitable(result):
                outcome = outcome_of(result, self.name)
        except BaseException as error:  # noqa: BLE001 - it is logged
            outcome = outcome_after(error, self.name)
        with self._lock:
            self._in_thread = False
            if not self._expired:
                self.outcome = outcome
        if self.is_left:
            late(outcome)
        return result


def is_failure(error: BaseException) -> bool:
    """Return whether an error of a handler must not end the task or the program.

    A cancellation of the task must, as must an error that a signal has caused.
    """
    if isinstance(error, BaseExceptionGroup):
        group: BaseExceptionGroup[BaseException] = error
        return all(map(is_failure, group.exceptions))
    if isinstance(error, anyio.get_cancelled_exc_class()):
        return not is_cancellation(error)  # it awaited something that was cancelled
    return isinstance(error, Exception) or not is_of_signal(error)


def is_of_signal(error: BaseException) -> bool:
    """Return whether the handler of a signal has raised an error, or may have."""
    if threading.current_thread() is not threading.main_thread():
        return False  # signals are handled in the main thread
    if isinstance(error, KeyboardInterrupt):
        handler = signal.getsignal(signal.SIGINT)
        if handler is signal.default_int_handler:  # it leaves no trace
            return True
    handlers = map(signal.getsignal, signal.valid_signals())
    functions = [getattr(each, "func", each) for each in handlers]
    codes = [getattr(each, "__code__", None) for each in functions]
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code in codes for frame, _ in frames)


def error_response(error: Exception, request: str) -> InboxAnswer:
    """Log why a request was not accepted; return the answer.

    ``request`` is what the log line calls it, such as :func:`shown_request`.
    """
    if isinstance(error, SignatureError):
        logger.warning("request refused: %s: %s", request, error)
        return InboxAnswer(error.status, error.body)
    if isinstance(error, DecodeError):
        logger.warning("signed request cannot be decoded: %s: %s", request, error)
        problems = "; ".join(error.problems)
        return InboxAnswer(400, error_answer(ResultCode.SERVER_ERROR, problems))
    problem = "request could not be verified: %s: %s"
    logger.error(problem, request, printable(str(error)), exc_info=error)
    body = error_answer(ResultCode.SERVER_ERROR, "try again")
    return InboxAnswer(503, body, _NO_STORE.retry_after)


def shown_request(headers: Headers, method: str, path: str, peer: object = None) -> str:
    """Return what a log line calls a request, of which nothing may be verified.

    ``peer`` is the address that has sent it, as ASGI and sockets have it: a list or
    tuple that begins with the host, if it is known.
    """
    line = f"{method} {printable(path, 200)}"
    if isinstance(peer, list | tuple) and peer and peer[0]:
        line += f" from {printable(str(peer[0]), 100)}"
    try:
        app_id = signature_headers(headers)[0]
    except SignatureError:
        return line
    is_safe = len(app_id) <= _LONGEST_APP_ID and is_field(app_id)
    return f"app {app_id!r}, {line}" if is_safe else f"an invalid app id, {line}"


def check_receiver(verifier: object, handler: object, inbox: object) -> None:
    """Raise :class:`InvalidArgument` unless alerts can be received with them."""
    check_kind("verifier", verifier, RequestVerifier)
    check_callable("handler", handler, "alert")
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        rule = "handler must be a function that returns"
        raise InvalidArgument(f"{rule}, got a generator function: remove its yield")
    check_kind("inbox", inbox, AlertInbox | None, "an AlertInbox")


def check_method(verifier: RequestVerifier) -> None:
    """Raise :class:`InvalidArgument` unless the verifier accepts POSTs, as alerts are."""
    if verifier.method != "POST":
        rule = "verifier must be one for POST, with which alerts are sent"
        advice = "leave method= out"
        raise InvalidArgument(f"{rule}, got one for {verifier.method}: {advice}")
