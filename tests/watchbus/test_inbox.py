"""Each alert is handled once, and duplicates get the outcome of the first."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import pickle
import signal
import threading
from contextlib import suppress
from datetime import timedelta
from functools import partial

import anyio
import anyio.lowlevel
import pytest
from channels import Gate, Inbox, alert

from ortege_watch import InvalidArgument, OrtegeWatchError
from ortege_watch.watchbus import (
    AlertInbox,
    AlertOutcome,
    Claim,
    MemoryHandled,
    RejectAlert,
    RetryAlert,
    SQLiteHandled,
)
from ortege_watch.watchbus.inbox import handle_all

pytestmark = pytest.mark.anyio

DONE = AlertOutcome("acknowledge")
FAILED = AlertOutcome("retry", "an alert was not handled")


async def test_the_oldest_alerts_are_forgotten():
    inbox, taken = AlertInbox(MemoryHandled(limit=3)), Inbox()
    for number in (1, 2, 1, 3, 4):
        assert await inbox.handle(alert(number), "app", taken) == DONE
    assert taken == [1, 2, 3, 4]
    for number in (2, 3, 4, 1):
        assert await inbox.handle(alert(number), "app", taken) == DONE
    assert taken == [1, 2, 3, 4, 1]


async def test_each_app_has_a_limit_of_its_own():
    inbox, taken = AlertInbox(MemoryHandled(limit=3)), Inbox()
    assert await inbox.handle(alert(1), "quiet", taken) == DONE
    for number in range(2, 9):
        assert await inbox.handle(alert(number), "busy", taken) == DONE
    assert await inbox.handle(alert(1), "quiet", taken) == DONE
    assert taken == [1, 2, 3, 4, 5, 6, 7, 8]


async def test_two_transfers_of_one_transaction_are_both_handled():
    inbox, amounts = AlertInbox(), []

    def handler(alert):
        amounts.append(alert.event_values["current_value"])

    for amount in ("10", "20", "10"):
        assert await inbox.handle(alert(1, current_value=amount), "app", handler)
    assert amounts == ["10", "20"]


async def test_a_duplicate_of_one_that_fails_has_failed_and_can_be_retried():
    gate, inbox = Gate(), AlertInbox()

    async def fail(alert):
        await gate(alert)
        raise RuntimeError("not now")

    tasks = [asyncio.create_task(inbox.handle(alert(1), "app", fail))]
    await gate.entered.reach(1)
    tasks += [
        asyncio.create_task(inbox.handle(alert(1), "app", gate)) for _ in range(2)
    ]
    await anyio.wait_all_tasks_blocked()
    gate.let_on.set()
    assert await asyncio.gather(*tasks) == [FAILED] * 3
    assert gate.entered == [1]
    assert await inbox.handle(alert(1), "app", gate) == DONE
    assert gate.entered == [1, 1]


@pytest.mark.parametrize("cancels", [1, 2])
async def test_a_call_in_a_thread_counts_although_it_is_cancelled(cancels):
    calls, entered, let_on = [], threading.Event(), threading.Event()

    def handler(alert):
        calls.append(alert)
        entered.set()
        assert let_on.wait(10)

    inbox = AlertInbox()
    first = asyncio.create_task(inbox.handle(alert(1), "app", handler))
    await asyncio.to_thread(entered.wait, 10)
    second = asyncio.create_task(inbox.handle(alert(1), "app", handler))
    for _ in range(cancels):
        first.cancel()
        await anyio.wait_all_tasks_blocked()
    assert not first.done()
    let_on.set()
    assert await second == DONE
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await inbox.handle(alert(1), "app", handler) == DONE
    assert len(calls) == 1


async def test_a_duplicate_of_one_that_is_cancelled_has_failed_and_can_be_retried():
    gate, inbox = Gate(), AlertInbox()
    first = asyncio.create_task(inbox.handle(alert(1), "app", gate))
    await gate.entered.reach(1)
    second = asyncio.create_task(inbox.handle(alert(1), "app", gate))
    await anyio.wait_all_tasks_blocked()
    first.cancel()
    assert await second == FAILED
    assert first.cancelled()
    gate.let_on.set()
    assert await inbox.handle(alert(1), "app", gate) == DONE
    assert gate.entered == [1, 1]


async def test_other_alerts_and_other_apps_do_not_wait():
    gate, inbox, taken = Gate(), AlertInbox(), Inbox()
    first = asyncio.create_task(inbox.handle(alert(1), "app", gate))
    await gate.entered.reach(1)
    assert await inbox.handle(alert(2), "app", taken) == DONE
    assert await inbox.handle(alert(1), "another", taken) == DONE
    assert taken == [2, 1]
    gate.let_on.set()
    assert await first == DONE


@pytest.mark.parametrize("limit", [0, -1])
def test_a_store_keeps_at_least_one_key(limit):
    with pytest.raises(InvalidArgument, match=f"a positive int, got {limit}"):
        MemoryHandled(limit=limit)


def test_an_inbox_needs_a_store():
    with pytest.raises(
        InvalidArgument,
        match=r"a HandledStore, .* set without claim, res",
    ):
        AlertInbox(set())


# --------------------------------------------------------------- reject and retry
class Raising:
    """A handler that raises an error for the alerts that have one, by number."""

    def __init__(self, **errors: BaseException) -> None:
        self.errors = {int(name[1:]): error for name, error in errors.items()}
        self.called = Inbox()

    async def __call__(self, alert) -> None:
        await self.called(alert)
        error = self.errors.get(self.called[-1])
        if error is not None:
            raise error


async def answer(inbox, handler, *numbers) -> tuple[int, str | None, float | None]:
    told = await handle_all(inbox, [alert(n) for n in numbers], "app", handler)
    body = json.loads(told.body)
    assert (told.status == 200) == (body["status"] == "OK")
    assert body["code"] == ("000000000" if told.status == 200 else "000001")
    return told.status, body.get("error_data"), told.retry_after


async def test_a_rejected_alert_is_rejected_for_good(caplog):
    handler, inbox = Raising(_2=RejectAlert("unknown chain")), AlertInbox()
    assert await answer(inbox, handler, 1, 2, 3) == (422, "unknown chain", None)
    assert handler.called == [1, 2, 3]  # one that is rejected stops no other
    # The sender sends parts of the batch to find it: its handler is not called again.
    assert await answer(inbox, handler, 1) == (200, None, None)
    assert await answer(inbox, handler, 2, 3) == (422, "unknown chain", None)
    assert await answer(inbox, handler, 2) == (422, "unknown chain", None)
    assert handler.called == [1, 2, 3]
    [line] = [r for r in caplog.records if r.levelno >= logging.WARNING]
    key = alert(2).dedupe_key("app")[:12]  # as the sender's log names it
    text = "alert rejected: big_amount_txn at 0x" + "ab" * 20
    text += f" on chain 56 ({key}), from app app: unknown chain"
    assert line.getMessage() == text


async def test_a_retry_has_the_longest_delay(caplog):
    handler = Raising(_1=RetryAlert(after=2.5), _3=RetryAlert(30, "no database"))
    inbox = AlertInbox()
    told = await answer(inbox, handler, 1, 2, 3)
    assert told == (503, "try again later; no database", 30)
    handler.errors.clear()
    assert await answer(inbox, handler, 1, 2, 3) == (200, None, None)
    assert handler.called == [1, 2, 3, 1, 3]
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_rejections_are_reported_when_nothing_is_to_be_retried():
    errors = {"_1": RejectAlert("bad"), "_2": RetryAlert(5), "_3": ValueError("oops")}
    handler, inbox = Raising(**errors), AlertInbox()
    assert (await answer(inbox, handler, 1, 2, 3))[0] == 500
    del handler.errors[3]
    assert await answer(inbox, handler, 1, 2, 3) == (503, "try again later", 5)
    del handler.errors[2]
    assert await answer(inbox, handler, 1, 2, 3) == (422, "bad", None)
    assert handler.called == [1, 2, 3, 2, 3, 2]


async def test_a_plain_handler_may_reject():
    def handler(alert):
        raise RejectAlert("from a thread")

    assert await answer(AlertInbox(), handler, 1) == (422, "from a thread", None)


@pytest.mark.parametrize("plain", [False, True])
async def test_a_handler_that_raises_cancelled_error_has_failed(plain, caplog):
    async def awaiting(alert):
        task = asyncio.create_task(asyncio.Event().wait())
        task.cancel()
        await task

    def raising(alert):
        raise asyncio.CancelledError

    inbox, handler = AlertInbox(), raising if plain else awaiting
    assert await inbox.handle(alert(1), "app", handler) == FAILED
    assert "the handler failed" in caplog.text
    assert await inbox.handle(alert(1), "app", Inbox()) == DONE


def test_a_retry_is_shown_as_a_sentence():
    assert str(RetryAlert(60)) == "to be retried in 60 s: try again later"


@pytest.mark.parametrize(
    "error", [RejectAlert("no"), RetryAlert(5), RetryAlert(0, "later")]
)
def test_what_a_handler_raises_survives_pickle_and_copy(error):
    assert not isinstance(error, OrtegeWatchError)
    for each in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(each) is type(error)
        assert (each.args, vars(each)) == (error.args, vars(error))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: RetryAlert(after=-1), "after must be 0 or more"),
        (lambda: RetryAlert("30"), "after must be 0 or more"),
        (lambda: RetryAlert(timedelta(seconds=-1)), "after must be 0 or more"),
    ],
)
def test_arguments_of_what_a_handler_raises_are_checked(make, problem):
    with pytest.raises(InvalidArgument, match=problem):
        make()


def raising(make):
    def handler(alert):
        raise make()

    return handler


@pytest.mark.parametrize(
    ("make", "outcome"),
    [
        (lambda: RejectAlert(""), AlertOutcome("reject", "rejected")),
        (RejectAlert, AlertOutcome("reject", "rejected")),
        (lambda: RejectAlert(KeyError("x")), AlertOutcome("reject", "'x'")),
        (
            lambda: RetryAlert(timedelta(minutes=2)),
            AlertOutcome("retry", "try again later", 120),
        ),
        (lambda: RetryAlert(1, ""), AlertOutcome("retry", "try again later", 1)),
        (lambda: RetryAlert(1, OSError("away")), AlertOutcome("retry", "away", 1)),
    ],
)
async def test_a_reason_may_be_anything(make, outcome):
    assert await AlertInbox().handle(alert(1), "app", raising(make)) == outcome


# --------------------------------------------------------------- the limit of time
def hanging(entered, let_on, outcome=None):
    def handler(alert):
        entered.set()
        assert let_on.wait(10)
        if outcome is not None:
            raise outcome

    return handler


async def test_an_async_handler_that_hangs_is_cancelled_and_the_alert_retried(caplog):
    gate, inbox = Gate(), AlertInbox(handle_within=0.05)
    with anyio.fail_after(10):
        assert await inbox.handle(alert(1), "app", gate) == FAILED
    assert "the handler took more than 0.05 s, alert to be retried: " in caplog.text
    assert await inbox.handle(alert(1), "app", Inbox()) == DONE


async def test_a_handler_that_was_cut_off_is_not_acknowledged_though_it_returns():
    async def handler(alert):
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    store = MemoryHandled()
    inbox = AlertInbox(store, handle_within=0.05)
    with anyio.fail_after(10):
        assert await inbox.handle(alert(1), "app", handler) == FAILED
    assert await inbox.handle(alert(1), "app", Inbox()) == DONE


@pytest.mark.parametrize("error", [None, RejectAlert("no"), KeyError()])
async def test_an_async_handler_that_survives_its_cancellation_is_left(caplog, error):
    let_on, calls = asyncio.Event(), Inbox()

    async def handler(alert):
        await calls(alert)
        while not let_on.is_set():
            with suppress(asyncio.CancelledError):
                await let_on.wait()
        if error is not None:
            raise error

    store = MemoryHandled()
    inbox = AlertInbox(store, handle_within=0.05)
    with anyio.fail_after(10):
        assert await inbox.handle(alert(1), "app", handler) == FAILED
        assert "the handler is running although it was cancelled" in caplog.text
        assert await inbox.handle(alert(1), "app", handler) == FAILED  # not called
        assert calls == [1]
        assert await inbox.handle(alert(2), "app", Inbox()) == DONE
        let_on.set()
        while "has returned after its limit" not in caplog.text:
            await asyncio.sleep(0.001)
        # It was cut off, so that what it did does not count.
        assert await inbox.handle(alert(1), "app", Inbox()) == DONE


async def test_an_alert_whose_handler_was_cut_off_is_retried_while_its_claim_is_released():
    let_on, releasing, let_release = asyncio.Event(), asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    async def handler(alert):
        while not let_on.is_set():
            with suppress(asyncio.CancelledError):
                await let_on.wait()

    class Store:  # not a MemoryHandled, so that it is called in threads
        def __init__(self):
            self.memory = MemoryHandled()
            self.claim, self.resolve = self.memory.claim, self.memory.resolve

        def release(self, app_id, key):
            loop.call_soon_threadsafe(releasing.set)
            assert let_release.wait(10)
            self.memory.release(app_id, key)

    inbox = AlertInbox(Store(), handle_within=0.01)
    with anyio.fail_after(10):
        assert await inbox.handle(alert(1), "app", handler) == FAILED
        let_on.set()  # the handler returns as if all was well, but it was cut off
        await releasing.wait()
        assert await inbox.handle(alert(1), "app", Inbox()) == FAILED
        let_release.set()
        while await inbox.handle(alert(1), "app", Inbox()) != DONE:
            await asyncio.sleep(0.001)


async def test_the_handlers_that_are_left_are_limited(caplog):
    let_on = asyncio.Event()

    async def handler(alert):
        while not let_on.is_set():
            with suppress(asyncio.CancelledError):
                await let_on.wait()

    inbox, taken = AlertInbox(handle_within=0.01), Inbox()
    with anyio.fail_after(20):
        handling = [inbox.handle(alert(n), "app", handler) for n in range(100)]
        assert set(await asyncio.gather(*handling)) == {FAILED}
        outcome = await inbox.handle(alert(100), "app", taken)
        assert (outcome, taken) == (AlertOutcome("retry", "try again", 5.0), [])
        assert "100 calls of the handler are running after their limit" in caplog.text
        let_on.set()
        while caplog.text.count("has returned after its limit") < 100:
            await asyncio.sleep(0.001)
        assert await inbox.handle(alert(100), "app", taken) == DONE


async def test_a_request_that_is_cancelled_cancels_its_handler():
    gate, ended = Gate(), []

    async def handler(alert):
        try:
            await gate(alert)
        finally:
            ended.append(alert)

    inbox = AlertInbox()
    task = asyncio.create_task(inbox.handle(alert(1), "app", handler))
    with anyio.fail_after(10):
        await gate.entered.reach(1)
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()
    assert ended == [alert(1)]
    assert await inbox.handle(alert(1), "app", Inbox()) == DONE


async def test_the_other_alerts_of_a_request_are_handled_although_one_hangs():
    taken, inbox = Inbox(), AlertInbox(handle_within=0.05)

    async def handler(alert):
        await taken(alert)
        if taken == [1]:
            await asyncio.Event().wait()

    with anyio.fail_after(10):
        answer = await handle_all(inbox, [alert(1), alert(2)], "app", handler)
    assert (answer.status, taken) == (500, [1, 2])


@pytest.mark.parametrize("late", [None, RejectAlert("no"), KeyError(), SystemExit()])
async def test_a_plain_handler_that_hangs_is_not_called_again_before_it_has_returned(
    caplog, late
):
    entered, let_on = threading.Event(), threading.Event()
    store = MemoryHandled()
    inbox, taken = AlertInbox(store, handle_within=0.05), Inbox()
    with anyio.fail_after(10):
        handler = hanging(entered, let_on, late)
        assert await inbox.handle(alert(1), "app", handler) == FAILED
        assert "the handler took more than 0.05 s" in caplog.text
        assert await inbox.handle(alert(1), "app", taken) == FAILED
        assert "the handler is still running after its limit, alert" in caplog.text
        assert store.claim("app", alert(1).dedupe_key("app")).state == "busy"
        assert await inbox.handle(alert(2), "app", taken) == DONE
        let_on.set()
        while "has returned after its limit" not in caplog.text:
            await anyio.lowlevel.checkpoint()
        outcome = await inbox.handle(alert(1), "app", taken)
    if isinstance(late, RejectAlert):
        assert (outcome, taken) == (AlertOutcome("reject", "no"), [2])
    else:
        assert (outcome, taken) == (DONE, [2] if late is None else [2, 1])


async def test_a_store_that_fails_for_a_late_call_is_logged(caplog):
    class Store(MemoryHandled):
        def resolve(self, app_id, key, reason):
            raise OSError("the disk is full")

    entered, let_on = threading.Event(), threading.Event()
    inbox = AlertInbox(Store(), handle_within=0.05)
    handler = hanging(entered, let_on)
    with anyio.fail_after(10):
        assert await inbox.handle(alert(1), "app", handler) == FAILED
        let_on.set()
        while "the store of handled alerts" not in caplog.text:
            await anyio.lowlevel.checkpoint()


async def test_a_handler_for_which_there_is_no_thread_in_time_is_not_called():
    inbox, taken = AlertInbox(handle_within=0.05), Inbox()
    limiter = anyio.to_thread.current_default_thread_limiter()
    total, limiter.total_tokens = limiter.total_tokens, 1
    try:
        async with limiter:
            with anyio.fail_after(10):
                handled = await inbox.handle(
                    alert(1), "app", lambda each: taken.take(1)
                )
    finally:
        limiter.total_tokens = total
    assert (handled, taken) == (FAILED, [])
    assert await inbox.handle(alert(1), "app", taken) == DONE


async def test_a_cancelled_call_leaves_a_thread_that_does_not_return():
    entered, let_on = threading.Event(), threading.Event()
    inbox = AlertInbox(handle_within=0.2)
    handler = hanging(entered, let_on)
    task = asyncio.create_task(inbox.handle(alert(1), "app", handler))
    await asyncio.to_thread(entered.wait, 10)
    task.cancel()
    await asyncio.wait([task], timeout=10)
    assert task.cancelled()
    assert await inbox.handle(alert(1), "app", handler) == FAILED
    let_on.set()


@pytest.mark.parametrize("within", [0, -1, None, "60"])
def test_the_limit_of_a_handler_is_a_time(within):
    with pytest.raises(InvalidArgument, match="handle_within must be greater than 0"):
        AlertInbox(handle_within=within)


# --------------------------------------------------------------- orders to end
@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize(
    "error",
    [SystemExit(3), BaseExceptionGroup("two", [SystemExit(3), OSError()])],
)
async def test_a_handler_that_exits_has_failed(caplog, plain, error):
    def handler(alert):
        raise error

    async def awaiting(alert):
        handler(alert)

    inbox = AlertInbox()
    use = handler if plain else awaiting
    assert await inbox.handle(alert(1), "app", use) == FAILED
    assert caplog.records[-1].exc_info[1] is error
    assert await inbox.handle(alert(1), "app", Inbox()) == DONE


async def test_an_interrupt_in_a_thread_is_a_failure_of_the_handler(caplog):
    inbox = AlertInbox()
    handler = raising(KeyboardInterrupt)
    assert await inbox.handle(alert(1), "app", handler) == FAILED
    assert "the handler failed" in caplog.text


class Stop(BaseException):
    """An error that is not an Exception."""


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        GeneratorExit(),
        Stop(),
        BaseExceptionGroup("", [KeyboardInterrupt(), OSError()]),
    ],
)
def test_other_errors_of_an_async_handler_are_failures_of_one_alert(caplog, error):
    handled = []

    async def handler(alert):
        if alert == alerts[0]:
            raise error
        handled.append(alert)

    alerts = [alert(1), alert(2)]
    inbox = AlertInbox()
    answer = asyncio.run(handle_all(inbox, alerts, "app", handler))
    assert answer.status == 500
    assert handled == alerts[1:]
    assert caplog.records[-2].exc_info[1] is error


def interrupted(times):
    """Return a handler that runs while Ctrl-C is pressed."""

    async def handler(alert):
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        await anyio.lowlevel.checkpoint()

    return handler


@pytest.mark.parametrize(
    "times", [1, 2]
)  # the first one cancels, the second interrupts
def test_ctrl_c_while_an_async_handler_is_running_ends_the_program(times):
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(AlertInbox().handle(alert(1), "app", interrupted(times)))


def test_ctrl_c_in_a_loop_without_a_handler_of_signals_ends_the_program():
    loop = asyncio.new_event_loop()
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(AlertInbox().handle(alert(1), "app", interrupted(1)))
    loop.close()


def test_an_exit_by_the_handler_of_a_signal_ends_the_program():
    def leave(number, frame):
        raise SystemExit(number)

    before = signal.signal(signal.SIGTERM, leave)

    async def handler(alert):
        signal.raise_signal(signal.SIGTERM)

    try:
        with pytest.raises(SystemExit):
            asyncio.run(AlertInbox().handle(alert(1), "app", handler))
    finally:
        signal.signal(signal.SIGTERM, before)


HELPED = []


@pytest.fixture
def helped():
    HELPED.clear()
    return HELPED


async def helper(alert):
    HELPED.append(alert)


async def hands_over(alert):
    return helper(alert)  # without await


async def hands_over_twice(alert):
    return hands_over(alert)


@pytest.mark.parametrize("handler", [hands_over, hands_over_twice, partial(hands_over)])
async def test_what_a_handler_hands_over_to_is_awaited(handler, helped):
    assert await AlertInbox().handle(alert(1), "app", handler) == DONE
    assert len(helped) == 1


async def test_an_alert_is_handled_when_what_its_handler_returned_has_ended():
    gate = Gate()

    async def hasty(alert):
        return gate(alert)

    async def failing(alert):
        raise ValueError("a bug")

    inbox = AlertInbox()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(inbox.handle(alert(1), "app", hasty))
        await gate.entered.reach(1)
        assert not task.done()
        gate.let_on.set()
    assert (task.result(), gate.done) == (DONE, [1])
    result = await inbox.handle(alert(2), "app", partial(failing))
    assert result == FAILED


def gives(result):
    async def asynchronous(_alert):
        return result

    return [lambda _alert: result, asynchronous]


@pytest.mark.parametrize(
    "result", [RejectAlert("chain 56 only"), RetryAlert(5), RejectAlert, ValueError()]
)
@pytest.mark.parametrize("kind", [0, 1])
async def test_an_exception_that_is_returned_does_not_acknowledge(result, kind, caplog):
    inbox = AlertInbox()
    assert await inbox.handle(alert(1), "app", gives(result)[kind]) == FAILED
    [line] = [each for each in caplog.messages if "handler failed" in each]
    name = (result if isinstance(result, type) else type(result)).__name__
    assert f"it returned {name}, so the alert is not handled: raise it" in line
    assert await inbox.handle(alert(1), "app", gives(5)[kind]) == DONE


class AsyncStore(MemoryHandled):
    async def resolve(self, app_id, key, reason):
        raise NotImplementedError


class OddStore(MemoryHandled):
    def __init__(self, claim):
        super().__init__()
        self.claim = lambda _app_id, _key: claim()


def test_an_async_store_is_refused():
    with pytest.raises(InvalidArgument, match=r"handled\.resolve must be a plain func"):
        AlertInbox(AsyncStore())


@pytest.mark.parametrize(
    ("claim", "problem"),
    [
        (lambda: None, "claim() must return a Claim, got None"),
        (lambda: "claimed", "claim() must return a Claim, got 'claimed'"),
        (lambda: helper(None), "claim() must return a Claim, got <coroutine"),
        (lambda: Claim("done"), "the state of a Claim must be 'claimed', 'busy',"),
    ],
)
async def test_an_answer_that_is_not_a_stores_is_a_failure_that_says_so(
    claim, problem, caplog
):
    taken = Inbox()
    outcome = await AlertInbox(OddStore(claim)).handle(alert(1), "app", taken)
    assert (outcome, taken) == (AlertOutcome("retry", "try again", 5.0), [])
    assert "the store of handled alerts (OddStore) failed" in caplog.text
    assert problem in caplog.text


@pytest.mark.parametrize(
    ("handler", "method"), [(lambda _: None, "resolve"), (raising(OSError), "release")]
)
async def test_a_store_that_hides_an_async_method_fails(handler, method, caplog):
    """Such as behind a decorator; what it should do is not done."""
    store = MemoryHandled()
    setattr(store, method, lambda *arguments: helper(None))
    outcome = await AlertInbox(store).handle(alert(1), "app", handler)
    assert outcome == AlertOutcome("retry", "try again", 5.0)
    assert f"{method}() must return None, got <coroutine" in caplog.text


@pytest.mark.parametrize(("claim_for", "within"), [(1, 60), (60, 60), (5, 10)])
def test_a_claim_must_last_longer_than_the_handler(claim_for, within, tmp_path):
    with SQLiteHandled(tmp_path / "handled.db", claim_for=claim_for) as handled:
        expected = f"claim_for={claim_for} of the SQLiteHandled must be longer"
        with pytest.raises(InvalidArgument, match=expected):
            AlertInbox(handled, handle_within=within)
        AlertInbox(handled, handle_within=claim_for - 0.5)
