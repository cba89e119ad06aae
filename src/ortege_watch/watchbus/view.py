"""Receiving alerts in a plain function, such as a view of Flask or Django."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from attrs import frozen

from ortege_watch._checks import is_async
from ortege_watch.errors import InvalidArgument
from ortege_watch.watchbus.asgi import warn_of_workers
from ortege_watch.watchbus.handled import Claim, HandledStore
from ortege_watch.watchbus.inbox import (
    ACKNOWLEDGE,
    CLAIM_EVERY,
    CLAIM_WITHIN,
    FAILED,
    AlertOutcome,
    answer_of,
    check_method,
    check_receiver,
    claim_alert,
    error_response,
    handled_store,
    is_of_signal,
    logger,
    outcome_after,
    outcome_before,
    outcome_of,
    outcome_without,
    shown_request,
    store_outcome,
)
from ortege_watch.watchbus.models import AlertInfo, shown_alert
from ortege_watch.watchbus.signing import CONTENT_TYPE, Headers
from ortege_watch.watchbus.verifier import RequestVerifier

_ENDING: Final = (SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError)
_NO_TARGET: Final = "(unknown path: pass target= to the view)"


class ViewAnswer(NamedTuple):
    """The response to a request, in the order in which Flask takes it from a view.

    Attributes:
        body: JSON.
        status: the HTTP status.
        headers: the content type, and ``Retry-After`` where there is one.
    """

    body: bytes
    status: int
    headers: dict[str, str]


def alert_view(
    verifier: RequestVerifier,
    handler: Callable[[AlertInfo], object],
    *,
    handled: HandledStore | None = None,
) -> AlertView:
    """Return a function that receives alerts, for a view of Flask, Django or the like.

    It is to plain functions what :func:`alert_app` is to ASGI: it verifies a request,
    calls the handler with each alert that was not handled before, and returns the
    response: ``view(headers, body, target=path) -> ViewAnswer``. It may be called in any
    thread.

    Args:
        verifier: accepts the requests. Several workers need a shared store of nonces,
            such as :class:`SQLiteNonces`.
        handler: a plain function, called with each alert in the thread of the view. It
            may raise :class:`RejectAlert` and :class:`RetryAlert`. If it raises
            ``SystemExit``, it has failed for this alert. The view raises the exception of
            a signal handler, such as Ctrl-C, and exceptions that other libraries derive
            from ``BaseException``, such as a timeout of gevent; the alert is retried.
        handled: remembers what became of alerts; by default a :class:`MemoryHandled`, of
            this process alone. Several workers need :class:`SQLiteHandled`.

    Raises:
        InvalidArgument: an argument cannot be used.
    """
    check_receiver(verifier, handler, None)
    check_method(verifier)
    if is_async(handler):
        raise InvalidArgument("handler must be a plain function; use alert_app instead")
    store = handled_store(handled)
    warn_of_workers(verifier.nonces, store)
    return AlertView(verifier, handler, store)


@frozen(eq=False, repr=False)
class AlertView:
    """What :func:`alert_view` returns."""

    _verifier: RequestVerifier
    _handler: Callable[[AlertInfo], object]
    _handled: HandledStore

    def __repr__(self) -> str:
        return f"AlertView({self._verifier!r})"

    def __call__(
        self, headers: Headers, body: bytes, *, target: str | bytes | None = None
    ) -> ViewAnswer:
        """Receive the alerts of a request, and return the response.

        Args:
            headers: a mapping or pairs, of strings or of bytes, in any case.
            body: the bytes as they arrived, not decoded.
            target: the whole path of the request, with its query if it has one. Without
                it, a request to another path than the verifier's is refused as one
                whose signature is wrong, and the log cannot say why.
        """
        try:
            alerts = self._verifier.alerts(headers, body, target=target)
        except Exception as error:  # noqa: BLE001 - it is logged
            path = target.decode("latin-1") if isinstance(target, bytes) else target
            shown = _NO_TARGET if path is None else str(path)
            named = shown_request(headers, self._verifier.method, shown)
            answer = error_response(error, named)
        else:
            answer = answer_of([self._handle(each, alerts.app_id) for each in alerts])
        fields = {"Content-Type": CONTENT_TYPE}
        if answer.retry_after is not None:
            fields["Retry-After"] = str(math.ceil(answer.retry_after))
        return ViewAnswer(answer.body, answer.status, fields)

    def _handle(self, alert: AlertInfo, app_id: str) -> AlertOutcome:
        key = alert.dedupe_key(app_id)
        name = shown_alert(alert, key, app_id)
        try:
            claim = self._claim(app_id, key)
            if claim.state != "claimed":
                return outcome_before(claim, name)
            outcome = FAILED
            try:
                outcome = self._call(alert, name)
            finally:  # also where the worker is to end
                store_outcome(self._handled, app_id, key, outcome)
        except Exception as error:  # noqa: BLE001 - it is logged
            return outcome_without(self._handled, error, name)
        return outcome

    def _call(self, alert: AlertInfo, name: str) -> AlertOutcome:
        try:
            outcome = outcome_of(self._handler(alert), name)
        except BaseException as error:
            if not _is_failure(error):
                raise
            return outcome_after(error, name)
        if outcome is ACKNOWLEDGE:
            logger.debug("alert handled: %s", name)
        return outcome

    def _claim(self, app_id: str, key: str) -> Claim:
        deadline = time.monotonic() + CLAIM_WITHIN
        while True:
            claim = claim_alert(self._handled, app_id, key)
            if claim.state != "busy" or time.monotonic() >= deadline:
                return claim
            time.sleep(CLAIM_EVERY)


def _is_failure(error: BaseException) -> bool:
    """Return whether an error is one of the handler, and not to end the worker."""
    if isinstance(error, BaseExceptionGroup):
        group: BaseExceptionGroup[BaseException] = error
        return all(map(_is_failure, group.exceptions))
    is_ending = isinstance(error, _ENDING) and not is_of_signal(error)
    return is_ending or isinstance(error, Exception)
