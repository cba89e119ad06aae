"""Alerts in a view of a framework that has no event loop."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from email.utils import formatdate

import httpx
import pytest
from channels import alert
from signed import APP_ID, PATH, SECRET, alert_body, alert_object, headers_for

from ortege_watch import InvalidArgument, Retry
from ortege_watch.watchbus import (
    AlertPublisher,
    Credentials,
    MemoryHandled,
    RejectAlert,
    RequestVerifier,
    RetryAlert,
    SQLiteHandled,
    alert_view,
)

BODY = alert_body()


def verifier(**changes):
    return RequestVerifier({APP_ID: [SECRET]}, **{"path": PATH, **changes})


def ask(view, body=BODY, target=PATH, **changes):
    """Send a signed request; give the status, the reason, and when to retry."""
    headers = headers_for(body, **{"timestamp": int(time.time() * 1000), **changes})
    answer = view(headers, body, target=target)
    assert answer == (answer.body, answer.status, answer.headers)  # as Flask takes it
    assert answer.headers["Content-Type"] == "application/json;charset=UTF-8"
    content = json.loads(answer.body)
    return answer.status, content.get("error_data"), answer.headers.get("Retry-After")


OK = (200, None, None)


@pytest.fixture
def alerts():
    return []


def test_each_alert_is_handled_once(alerts):
    view = alert_view(verifier(), alerts.append)
    body = alert_body(alert_object(timestamp=1), alert_object(timestamp=2))
    for _ in range(2):
        assert ask(view, body) == OK
    assert [each.timestamp for each in alerts] == [1, 2]
    assert {each.app_id for each in alerts} == {APP_ID}


def raising(error):
    def handler(alert):
        if alert.timestamp in error:
            raise error[alert.timestamp]

    return handler


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({1: RejectAlert("unknown chain")}, (422, "unknown chain", None)),
        ({1: RetryAlert(timedelta(seconds=2.5))}, (503, "try again later", "3")),
        ({1: ValueError("a bug")}, (500, "an alert was not handled", None)),
        (
            {1: RejectAlert("no"), 2: RetryAlert(7, "no database")},
            (503, "no database", "7"),
        ),
    ],
)
def test_what_the_handler_raises_decides_the_response(error, expected, caplog):
    view = alert_view(verifier(), raising(error))
    body = alert_body(*[alert_object(timestamp=n) for n in (1, 2, 3)])
    assert ask(view, body) == expected
    assert "big_amount_txn_usd" in caplog.text
    handled = error.copy()
    error.clear()  # what was rejected stays so, what failed is handled now
    is_rejected = any(isinstance(each, RejectAlert) for each in handled.values())
    assert ask(view, body)[0] == (422 if is_rejected else 200)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"secret": "other"}, (401, "invalid signature", None)),
        ({"app_id": "other"}, (401, "invalid appid", None)),
        ({"timestamp": 1}, (401, "timestamp is expired", None)),
        ({"body": b"7"}, (400, "$: expected a list, got 7", None)),
        ({"body": b"[%s]" % (b" " * 2**20)}, (413, "body too large", None)),
    ],
)
def test_a_refused_request_has_the_documented_answer(changes, expected, alerts, caplog):
    assert ask(alert_view(verifier(), alerts.append), **changes) == expected
    assert f"app {changes.get('app_id', APP_ID)!r}, POST {PATH}: " in caplog.text
    assert SECRET not in caplog.text
    assert alerts == []


@pytest.mark.parametrize("target", ["/alerts", b"/alerts"])
def test_another_path_is_refused_and_logged_if_the_view_says_which(
    target, alerts, caplog
):
    answer = ask(alert_view(verifier(), alerts.append), target=target)
    assert answer == (404, "not found", None)
    expected = f"POST /alerts: the path of the request is '/alerts'; path= is '{PATH}'"
    assert expected in caplog.text


def test_a_view_that_does_not_say_the_path_is_told_to(alerts, caplog):
    """The path of the verifier may be another than that of the request."""
    view = alert_view(verifier(path="/other"), alerts.append)
    assert ask(view, target=None) == (401, "invalid signature", None)
    assert "POST (unknown path: pass target= to the view): " in caplog.text
    assert "/other" not in caplog.text


class Away(MemoryHandled):
    def resolve(self, app_id, key, reason):
        raise OSError("the disk is full")


class Hidden(MemoryHandled):
    def resolve(self, app_id, key, reason):
        return later(self)


class NoNonces:
    def record(self, app_id, nonce, now, until):
        raise OSError("the disk is full")


@pytest.mark.parametrize(
    ("given", "stores", "named"),
    [
        ({}, {"handled": Away()}, "the store of handled alerts (Away) failed"),
        ({"nonces": NoNonces()}, {}, "could not be verified: app '13cc"),
    ],
)
def test_a_store_that_fails_asks_for_a_retry(given, stores, named, alerts, caplog):
    view = alert_view(verifier(**given), alerts.append, **stores)
    assert ask(view) == (503, "try again", "5")
    assert named in caplog.text
    assert "the disk is full" in caplog.text


def test_a_store_that_hides_an_async_method_fails(alerts, caplog):
    assert ask(alert_view(verifier(), alerts.append, handled=Hidden()))[0] == 503
    assert "resolve() must return None, got <coroutine" in caplog.text


def test_workers_share_what_was_handled(tmp_path):
    """The second gets the alert while the first handles it, and waits."""
    entered, let_on, calls = threading.Event(), threading.Event(), []

    def slow(alert):
        entered.set()
        assert let_on.wait(10)
        calls.append("first")

    file = tmp_path / "received.db"
    with SQLiteHandled(file) as one, SQLiteHandled(file) as two:
        first = alert_view(verifier(), slow, handled=one)
        second = alert_view(verifier(), calls.append, handled=two)
        answers = []
        thread = threading.Thread(target=lambda: answers.append(ask(first)))
        thread.start()
        assert entered.wait(10)
        threading.Timer(0.1, let_on.set).start()
        assert ask(second) == OK
        thread.join(10)
    assert (answers, calls) == ([OK], ["first"])


def test_another_worker_that_takes_long_is_not_waited_for(alerts, tmp_path):
    with SQLiteHandled(tmp_path / "received.db") as handled:
        [key] = [each.dedupe_key(APP_ID) for each in verifier().alerts(*now())]
        handled.claim("app", key)
        expected = (503, "another process is handling the alert", "1")
        view = alert_view(verifier(), alerts.append, handled=handled)
        assert ask(view) == expected
    assert alerts == []


def now():
    return headers_for(BODY, timestamp=int(time.time() * 1000)), BODY


class Timeout(BaseException):
    """As that of gevent, which is raised in whatever the handler does."""


def stop(number, frame):
    raise SystemExit(number)


def interrupted():
    signal.raise_signal(signal.SIGINT)


def stopped():
    signal.raise_signal(signal.SIGTERM)


def timed_out():
    raise Timeout


@pytest.mark.parametrize(
    ("end", "error"),
    [(interrupted, KeyboardInterrupt), (stopped, SystemExit), (timed_out, Timeout)],
)
def test_a_worker_that_ends_in_the_handler_gives_its_claim_up(end, error, alerts):
    handled = MemoryHandled()
    before = signal.signal(signal.SIGTERM, stop)  # as servers do
    try:
        with pytest.raises(error):
            ask(alert_view(verifier(), lambda _: end(), handled=handled))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ask(alert_view(verifier(), alerts.append, handled=handled)) == OK
    assert len(alerts) == 1


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        GeneratorExit(),
        asyncio.CancelledError(),
        BaseExceptionGroup("two", [SystemExit(3), OSError()]),
    ],
)
def test_a_handler_that_exits_has_failed_for_one_alert(error, alerts, caplog):
    def handler(alert):
        if alert.timestamp == 1:
            raise error
        alerts.append(alert)

    body = alert_body(alert_object(timestamp=1), alert_object(timestamp=2))
    view = alert_view(verifier(), handler)
    assert ask(view, body) == (500, "an alert was not handled", None)
    assert [each.timestamp for each in alerts] == [2]
    [logged] = filter(None, (each.exc_info for each in caplog.records))
    assert logged[1] is error


def test_an_interrupt_that_is_raised_in_a_thread_is_a_failure():
    def handler(alert):
        raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(ask, alert_view(verifier(), handler)).result(10)
    assert answer == (500, "an alert was not handled", None)


async def later(alert):
    pass


class Later:
    async def __call__(self, alert):
        pass


@pytest.mark.parametrize("handler", [later, Later(), None])
def test_a_handler_that_needs_an_event_loop_is_refused(handler):
    with pytest.raises(InvalidArgument, match="handler must be"):
        alert_view(verifier(), handler)


@pytest.mark.parametrize(
    ("result", "problem"),
    [
        (
            lambda: later(None),
            "it returned coroutine, so the alert is not handled: await",
        ),
        (
            lambda: RejectAlert("no"),
            "it returned RejectAlert, so the alert is not handled",
        ),
    ],
)
def test_what_a_handler_must_not_return_is_a_failure(result, problem, alerts, caplog):
    results = [result()]
    handled = MemoryHandled()
    view = alert_view(verifier(), lambda _: results.pop(), handled=handled)
    assert ask(view) == (500, "an alert was not handled", None)
    assert problem in caplog.text
    assert ask(alert_view(verifier(), alerts.append, handled=handled)) == OK
    assert len(alerts) == 1


def test_a_view_has_no_limit_that_a_claim_must_outlast(alerts, tmp_path):
    with SQLiteHandled(tmp_path / "received.db", claim_for=5) as handled:
        assert ask(alert_view(verifier(), alerts.append, handled=handled)) == OK


def test_a_sender_whose_clock_is_off_corrects_it_by_the_answer(alerts):
    def ahead():
        return time.time() + 600

    view = alert_view(verifier(clock=ahead), alerts.append)

    def flask(request):
        body, status, headers = view(request.headers, request.content)
        headers["Date"] = formatdate(ahead(), usegmt=True)
        return httpx.Response(status, content=body, headers=headers)

    with AlertPublisher(
        "https://bus.example.com",
        Credentials(APP_ID, SECRET),
        http=httpx.MockTransport(flask),
        retry=Retry(attempts=2),
    ) as publisher:
        assert len(publisher.publish([alert(1)]).sent) == 1
    assert len(alerts) == 1
