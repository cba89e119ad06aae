"""Both publishers against the fake watch-bus, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import inspect
import threading
import time

import anyio
import httpx
import pytest
from driving import alert

from ortege_watch import (
    DeadlineExceeded,
    DecodeError,
    InvalidArgument,
    OrtegeWatchError,
    RateLimited,
    Retry,
    TransportError,
)
from ortege_watch.testing import FakeWatchBus
from ortege_watch.watchbus import (
    AlertPublisher,
    AsyncAlertPublisher,
    Credentials,
    Outbox,
    OutboxFull,
    PublishResult,
    WatchBusError,
    WireStyle,
)
from ortege_watch.watchbus.models import read_alerts
from ortege_watch.watchbus.outbox import queue_of
from ortege_watch.watchbus.sending import prepare_alerts

ALERTS = [alert(number) for number in range(5)]
ONCE = Retry(attempts=1)


class Asker:
    """Call either publisher the same way, so that one test speaks for both."""

    def __init__(self, bus, *, sync):
        self.bus = bus
        self.sync = sync
        self.clients = []

    def open(self, url=None, credentials=None, **settings):
        kind = AlertPublisher if self.sync else AsyncAlertPublisher
        self.client = kind(
            url or self.bus.url, credentials or self.bus.credentials, **settings
        )
        self.clients.append(self.client)
        return self

    async def __call__(self, name, *args, **options):
        method = getattr(self.client, name)
        if self.sync:
            return await asyncio.to_thread(method, *args, **options)
        return await method(*args, **options)

    async def close(self):
        for each in self.clients:
            self.client = each
            await self("close" if self.sync else "aclose")


@pytest.fixture
def bus():
    with FakeWatchBus() as bus:
        yield bus


@pytest.fixture(params=[True, False], ids=["sync", "async"])
async def ask(request, bus):
    asker = Asker(bus, sync=request.param)
    yield asker
    await asker.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "alerts.sqlite3"


def numbers(alerts):
    return [int(each.event_values["block_number"]) for each in alerts]


async def test_publish(ask, bus):
    result = await ask.open()("publish", ALERTS)
    assert result == PublishResult(sent=tuple(ALERTS))
    assert numbers(bus.alerts) == [0, 1, 2, 3, 4]
    assert len(bus.requests) == 1
    assert ask.client.outbox is None


@pytest.mark.parametrize("suffix", ["", "/", "/api/v1/watch/alert"])
async def test_a_url_with_and_without_the_path(ask, bus, suffix):
    await ask.open(bus.url + suffix)("publish", ALERTS[:1])
    assert bus.requests[0].path == "/api/v1/watch/alert"


async def test_another_path_and_form(ask):
    with FakeWatchBus(path="/gw/alerts") as bus:
        style = WireStyle(chain_id_as_int=True, bare_lists=True)
        ask.open(f"{bus.url}/gw", path="/alerts", style=style)
        await ask("publish", ALERTS[:1])
        assert numbers(bus.alerts) == [0]
        assert bus.requests[0].json[0]["chain_id"] == 56


async def test_the_bytes_that_are_signed_are_the_bytes_that_are_sent(ask, bus):
    ask.open()
    bus.fail(status=500)
    await ask("publish", [alert(1, comment='"ö" \\ \u2028')])
    assert len(bus.requests) == 2
    for request in bus.requests:
        head = [
            request.headers[f"x-signature-{name}"]
            for name in ("appid", "timestamp", "nonce")
        ]
        message = ";".join([*head, "POST", "/api/v1/watch/alert", ""]).encode()
        signature = hmac.new(
            bus.credentials.secret.encode(), message + request.content, hashlib.sha256
        ).hexdigest()
        assert request.headers["x-signature-signature"] == signature
    assert bus.requests[0].content == bus.requests[1].content


async def test_batches_and_progress(ask, bus):
    seen = []
    ask.open(batch_size=2)
    await ask("publish", ALERTS, progress=lambda *told: seen.append(told))
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert [numbers(each) for each in bus.deliveries] == [[0, 1], [2, 3], [4]]


async def test_after_a_lost_response_the_alert_is_sent_again_with_the_same_key(
    ask, bus
):
    ask.open()
    bus.cut()
    assert numbers((await ask("publish", ALERTS[:1])).sent) == [0]
    assert len(bus.deliveries) == 2
    assert numbers(bus.alerts) == [0]


async def test_unsent_alerts_are_returned_to_the_caller(ask, bus):
    ask.open(batch_size=2, retry=ONCE)

    def end(done, _total):
        bus.rate_limit(times=None)

    with pytest.raises(RateLimited) as caught:
        await ask("publish", ALERTS, progress=end)
    done = caught.value.published
    assert (numbers(done.sent), numbers(done.unsent)) == ([0, 1], [2, 3, 4])
    bus.heal()
    await ask("publish", done.unsent)
    assert numbers(bus.alerts) == [0, 1, 2, 3, 4]


async def test_rejected_alerts_are_in_the_result(ask, bus):
    bus.reject_alerts(lambda each: each == bus_form(ALERTS[2]), "too old")
    result = await ask.open()("publish", ALERTS)
    assert numbers(result.sent) == [0, 1, 3, 4]
    [rejected] = result.dead
    assert rejected.alert is ALERTS[2]
    assert (rejected.reason, rejected.code, rejected.status) == (
        "too old",
        "000001",
        400,
    )


def bus_form(given):
    values = {name: str(value) for name, value in given.event_values.items()}
    return type(given)(
        given.entity,
        given.chain_id,
        given.entity_type,
        given.event_code,
        given.timestamp,
        values,
    )


async def test_a_wrong_secret_rejects_no_alert(ask):
    ask.open(credentials=Credentials("fake-app", "hush"))
    with pytest.raises(WatchBusError) as caught:
        await ask("publish", ALERTS)
    assert caught.value.reason == "invalid signature"
    assert caught.value.published.unsent == tuple(ALERTS)
    assert "hush" not in str(caught.value)


async def test_a_bus_that_is_unreachable(ask, bus, path):
    ask.open(outbox=path, retry=ONCE)
    bus.down()
    result = await ask("publish", ALERTS[:3])
    assert result.unsent == tuple(ALERTS[:3])
    assert isinstance(result.error, TransportError)
    with pytest.raises(TransportError) as caught:
        await ask("flush")
    assert caught.value.published.sent == ()
    bus.up()
    result = await ask("publish", ALERTS[3:])
    assert numbers(result.sent) == [0, 1, 2, 3, 4]
    assert (result.unsent, result.error) == ((), None)
    assert numbers(bus.alerts) == [0, 1, 2, 3, 4]
    assert len(ask.client.outbox) == 0


async def test_another_publisher_sends_the_queued_alerts_of_the_first(ask, bus, path):
    bus.down()
    ask.open(outbox=str(path), retry=ONCE)
    await ask("publish", ALERTS)
    await ask("close" if ask.sync else "aclose")
    bus.up()
    ask.open(outbox=path, batch_size=2)
    seen = []
    result = await ask("flush", progress=lambda *told: seen.append(told))
    assert numbers(result.sent) == [0, 1, 2, 3, 4]
    assert seen == [(2, 5), (4, 5), (5, 5)]


async def test_rejected_alerts_are_listed_in_the_outbox(ask, bus, path, caplog):
    bus.reject_alerts(
        lambda each: each.event_values["block_number"] == "1", "too old", code="000099"
    )
    ask.open(outbox=path)
    result = await ask("publish", ALERTS)
    assert numbers(result.sent) == [0, 2, 3, 4]
    box = ask.client.outbox
    assert [each.reason for each in box.dead] == ["too old"]
    assert "too old" in caplog.text
    asked = len(bus.requests)
    await ask("flush")
    assert len(bus.requests) == asked
    bus.heal()
    box.requeue()
    await ask("flush")
    assert numbers(bus.alerts) == [0, 2, 3, 4, 1]


async def test_with_invalid_credentials_alerts_stay_queued(ask, bus, path):
    ask.open(credentials=Credentials("nobody", "hush"), outbox=path)
    with pytest.raises(WatchBusError) as caught:
        await ask("publish", ALERTS)
    assert caught.value.code == "000003"
    assert caught.value.published.unsent == tuple(ALERTS)
    assert len(ask.client.outbox) == 5
    assert ask.client.outbox.dead == []


async def test_a_full_outbox_accepts_nothing(ask, bus, path):
    bus.down()
    with Outbox(path, limit=3) as box:
        ask.open(outbox=box, retry=ONCE)
        await ask("publish", ALERTS[:2])
        with pytest.raises(OutboxFull):
            await ask("publish", ALERTS[2:])
        assert numbers([each.alert for each in box.waiting()]) == [0, 1]


async def test_an_alert_that_cannot_be_sent_is_not_accepted(ask, path):
    ask.open(outbox=path)
    with pytest.raises(InvalidArgument):
        await ask("publish", [*ALERTS, "x"])
    assert len(ask.client.outbox) == 0


async def test_the_caller_s_outbox_stays_open(ask, bus, path):
    with Outbox(path) as box:
        ask.open(outbox=box)
        await ask("publish", ALERTS)
        await ask.close()
        ask.clients.clear()
        assert len(box) == 0


async def test_concurrent_calls_send_everything_once(ask, bus, path):
    ask.open(outbox=path)

    async def one(number):
        result = await ask("publish", [alert(number)])
        assert result.unsent == ()
        assert number in numbers(result.sent)

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(one, number)
    assert sorted(numbers(bus.alerts)) == list(range(20))
    assert sum(map(len, bus.deliveries)) == 20


async def test_a_cancelled_call_keeps_its_alerts(bus, path):
    bus.silence()
    async with AsyncAlertPublisher(bus.url, bus.credentials, outbox=path) as publisher:
        task = asyncio.create_task(publisher.publish(ALERTS))
        await bus.wait_until_async(lambda: bus.requests)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        bus.speak()
        result = await publisher.flush()
        assert numbers(result.sent) == [0, 1, 2, 3, 4]
    assert numbers(bus.alerts) == [0, 1, 2, 3, 4]


async def test_the_event_loop_is_not_blocked_by_the_transaction_of_another_process(
    bus, path
):
    with Outbox(path) as other:
        async with AsyncAlertPublisher(
            bus.url, bus.credentials, outbox=path
        ) as publisher:
            queue_of(other)._db.execute("BEGIN IMMEDIATE")
            task = asyncio.create_task(publisher.publish(ALERTS))
            turns = asyncio.Event()
            asyncio.get_running_loop().call_later(0.01, turns.set)
            await asyncio.wait_for(turns.wait(), 5)
            assert not task.done()
            queue_of(other)._db.execute("ROLLBACK")
            assert numbers((await task).sent) == [0, 1, 2, 3, 4]


def test_threads_share_a_publisher(bus, path):
    with AlertPublisher(bus.url, bus.credentials, outbox=path) as publisher:
        threads = [
            threading.Thread(target=publisher.publish, args=([alert(number)],))
            for number in range(10)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(numbers(bus.alerts)) == list(range(10))
    assert sum(map(len, bus.deliveries)) == 10


@pytest.fixture
def other_bus():
    with FakeWatchBus(app_id="other-app") as bus:
        yield bus


@pytest.mark.parametrize("differs", ["app", "host", "path"])
async def test_one_file_is_for_one_app_and_one_bus(ask, bus, path, differs):
    ask.open(outbox=path)
    await ask("enqueue", ALERTS[:1])
    first = ask.client
    url, credentials, options = bus.url, bus.credentials, {}
    if differs == "app":
        credentials = Credentials("other-app", "hush")
    elif differs == "host":
        url = "https://bus.example.com"
    else:
        options["path"] = "/alerts"
    with Outbox(path) as shared:
        for outbox in (path, shared):
            with pytest.raises(InvalidArgument) as caught:
                ask.open(url, credentials, outbox=outbox, **options)
            problem = str(caught.value)
            assert (
                f"{str(path)!r} cannot be used for app {credentials.app_id!r} at"
                in problem
            )
            assert f"it has 1 alerts of app 'fake-app' at {bus.url[7:]}/api/" in problem
            assert "use one file for each app and receiver" in problem
        assert len(shared) == 1  # it stays open
    ask.client = first
    await ask("publish", ALERTS[1:])
    assert numbers(bus.alerts) == [0, 1, 2, 3, 4]
    ask.open(outbox=path)  # the same again
    await ask("publish", [alert(5)])


async def test_the_alerts_of_a_bus_that_moves_can_be_sent_to_it(
    ask, bus, other_bus, path, caplog
):
    ask.open(outbox=path)
    await ask("enqueue", ALERTS)
    await ask.close()
    with Outbox(path) as outbox:
        outbox.forget_bus()
        assert f"is not for app 'fake-app' at {bus.url[7:]}/api" in caplog.text
        assert "any more: 5 queued alerts wait for the next" in caplog.text
        outbox.forget_bus()
        ask.open(other_bus.url, other_bus.credentials, outbox=outbox)
        with pytest.raises(InvalidArgument, match="needs an outbox that no publisher"):
            outbox.forget_bus()
        await ask("flush")
        await ask("publish", [alert(5)])
    assert (numbers(bus.alerts), numbers(other_bus.alerts)) == ([], [*range(6)])


async def test_a_program_for_the_old_bus_sends_nothing_to_it(ask, bus, other_bus, path):
    ask.open(outbox=path)
    await ask("publish", ALERTS[:1])
    await ask("enqueue", ALERTS[1:2])
    old = ask.client
    with Outbox(path) as outbox:
        outbox.forget_bus()
    for call, problem in (
        (("enqueue", ALERTS[2:3]), "forget_bus.. was called; restart"),
        (("flush",), "forget_bus.. was called; restart"),
        (None, None),
        (("enqueue", ALERTS[2:3]), "it has 1 alerts of app 'other-app'"),
        (("publish", ALERTS[2:3]), "it has 1 alerts of app 'other-app'"),
        (("flush",), "it has 1 alerts of app 'other-app'"),
    ):
        if call is None:
            ask.open(other_bus.url, other_bus.credentials, outbox=path)
        else:
            ask.client = old
            with pytest.raises(OrtegeWatchError, match=problem):
                await ask(*call)
    ask.client = ask.clients[-1]
    await ask("flush")
    assert (numbers(bus.alerts), numbers(other_bus.alerts)) == ([0], [1])


async def test_one_object_serves_one_app_whatever_the_file_says(ask, other_bus, path):
    with Outbox(path) as shared, Outbox(path) as another:
        ask.open(outbox=shared)
        another.forget_bus()
        other = other_bus.url, other_bus.credentials
        with pytest.raises(InvalidArgument, match=r"forget_bus.. was called"):
            ask.open(*other, outbox=shared)
        ask.open(*other, outbox=path)
        with pytest.raises(InvalidArgument, match="used by a publisher of another app"):
            ask.open(*other, outbox=shared)


async def test_closing_says_what_nobody_tried_to_send(ask, bus, path, caplog):
    ask.open(outbox=path)
    await ask("enqueue", ALERTS)
    for _ in range(2):
        await ask("close" if ask.sync else "aclose")
    [line] = [each for each in caplog.messages if "closed before it sent" in each]
    assert f"5 alerts stay queued in Outbox({str(path)!r})" in line
    assert line.startswith(bus.url.removeprefix("http://"))
    caplog.clear()
    bus.down()
    with Outbox(path) as outbox:
        ask.open(outbox=outbox, retry=ONCE)
        await ask("publish", [alert(5)])
        await ask("close" if ask.sync else "aclose")
        assert len(outbox) == 6
    ask.open(outbox=path)
    ask.client.outbox.close()  # it cannot be read then
    await ask("close" if ask.sync else "aclose")
    assert "closed before it sent" not in caplog.text


async def test_a_plain_publisher_does_not_block_an_event_loop(bus, path):
    with AlertPublisher(bus.url, bus.credentials, outbox=path) as publisher:
        with pytest.raises(OrtegeWatchError, match="use an AsyncAlertPublisher, or"):
            publisher.run()
        sending = asyncio.create_task(asyncio.to_thread(publisher.run))
        publisher.enqueue(ALERTS)
        await bus.wait_until_async(lambda: len(bus.alerts) == 5)
    await sending


@pytest.mark.parametrize("kind", [AlertPublisher, AsyncAlertPublisher])
def test_invalid_arguments_of_the_constructors(kind, path):
    good = Credentials("app", "hush")
    own = httpx.Client if kind is AlertPublisher else httpx.AsyncClient
    for url, credentials, settings in [
        ("bus", good, {}),
        ("https://host", ("app", "hush"), {}),
        ("https://host", good, {"batch_size": 0, "outbox": path}),
        ("https://host", good, {"path": "alert", "outbox": path}),
        ("https://host", good, {"deadline": 0, "outbox": path}),
        ("https://host", good, {"http": own(params={"a": "1"}), "outbox": path}),
        ("https://host", good, {"outbox": ":memory:"}),
    ]:
        with pytest.raises(InvalidArgument) as caught:
            kind(url, credentials, **settings)
        assert "hush" not in str(caught.value)
    assert not path.exists()
    assert "hush" not in repr(kind("https://host", good))


def test_both_publishers_have_the_same_methods_and_arguments():
    def shape(kind):
        return {
            name: [
                (each.name, each.kind, each.default)
                for each in inspect.signature(method).parameters.values()
            ]
            for name, method in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    sync, other = shape(AlertPublisher), shape(AsyncAlertPublisher)
    other["close"] = other.pop("aclose")
    assert sync == other


def is_block(*blocks):
    return lambda each: int(each.event_values["block_number"]) in blocks


async def drain(ask):
    """Flush until nothing is due; errors are part of it."""
    for _ in range(10):
        try:
            result = await ask("flush")
        except OrtegeWatchError as error:
            result = error.published
        if not (result.sent or result.dead):
            return


async def test_an_alert_that_always_fails_stops_no_others(ask, bus, path):
    bus.reject_alerts(is_block(2, 100), "handler failed", status=500)
    ask.open(outbox=path, retry=ONCE, batch_size=50)
    await ask("publish", list(map(alert, range(250))))
    await drain(ask)
    assert numbers(bus.alerts) == [n for n in range(250) if n not in {2, 100}]
    assert numbers([each.alert for each in ask.client.outbox.waiting()]) == [2, 100]


async def test_without_an_outbox_too(ask, bus):
    bus.reject_alerts(is_block(2), "handler failed", status=500)
    ask.open(retry=ONCE)
    with pytest.raises(WatchBusError, match="handler failed") as caught:
        await ask("publish", ALERTS)
    assert numbers(bus.alerts) == [0, 1, 3, 4]
    assert caught.value.published.unsent == (ALERTS[2],)
    assert numbers(caught.value.published.sent) == [0, 1, 3, 4]


@pytest.mark.parametrize("status", [301, 307, 404, 401, 405, 410])
async def test_a_misconfiguration_is_an_error_with_an_outbox_too(
    ask, bus, path, status
):
    if status < 400:
        bus.redirect("https://other.example.com/", status=status, times=None)
    else:
        bus.error(status, times=None)
    ask.open(outbox=path)
    for name, *alerts in (("publish", ALERTS), ("flush",)):
        with pytest.raises(WatchBusError) as caught:
            await ask(name, *alerts)
        assert caught.value.status == status
        assert caught.value.published.sent == ()
    waiting = [each.alert for each in ask.client.outbox.waiting()]
    assert sorted(numbers(waiting)) == [0, 1, 2, 3, 4]
    bus.heal()
    await ask("flush")
    assert sorted(numbers(bus.alerts)) == [0, 1, 2, 3, 4]


async def test_a_web_page_is_a_misconfiguration(ask, bus, path):
    bus.error(200, "<html>Welcome</html>", times=None)
    ask.open(outbox=path)
    with pytest.raises(DecodeError, match="Welcome"):
        await ask("publish", ALERTS)
    assert len(ask.client.outbox) == 5


@pytest.mark.parametrize("with_outbox", [True, False])
async def test_a_call_has_one_deadline(ask, bus, path, with_outbox):
    bus.silence()
    ask.open(outbox=path if with_outbox else None, batch_size=1)
    begin = time.monotonic()
    with contextlib.suppress(DeadlineExceeded):
        await ask("publish", ALERTS, deadline=0.3)
    if with_outbox:
        with contextlib.suppress(DeadlineExceeded):
            await ask("flush", deadline=0.3)
    assert time.monotonic() - begin < 5
    assert numbers(alerts_of(bus.requests)) == [0] * len(bus.requests)


async def test_a_deadline_includes_the_wait_for_other_calls(ask, bus, path):
    bus.silence()
    ask.open(outbox=path)

    async def other():
        with contextlib.suppress(OrtegeWatchError):
            await ask("publish", ALERTS[:1], deadline=8)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        await bus.wait_until_async(lambda: bus.requests)
        begin = time.monotonic()
        result = await ask("publish", ALERTS[1:], deadline=0.2)
        assert time.monotonic() - begin < 4
        assert result.unsent == tuple(ALERTS[1:])
        bus.speak()
    assert numbers(bus.alerts)[:1] == [0]


def alerts_of(requests):
    return [each for sent in requests for each in read_alerts(sent.content)]


async def test_enqueue_does_not_use_the_network(ask, bus, path):
    ask.open(outbox=path)
    await ask("enqueue", ALERTS[:3])
    await ask("enqueue", ALERTS[2:])
    assert bus.requests == []
    assert numbers([each.alert for each in ask.client.outbox.waiting()]) == [
        0,
        1,
        2,
        3,
        4,
    ]
    await ask("flush")
    assert numbers(bus.alerts) == [0, 1, 2, 3, 4]


async def test_flush_needs_an_outbox(ask, bus):
    ask.open(retry=Retry(attempts=1))
    bus.refuse(503)
    with pytest.raises(OrtegeWatchError) as caught:
        await ask("publish", ALERTS)
    assert caught.value.published.unsent == tuple(ALERTS)
    bus.heal()
    with pytest.raises(
        InvalidArgument, match=r"flush\(\) needs an outbox: pass outbox="
    ):
        await ask("flush")


async def test_a_progress_that_returns_a_coroutine_is_logged(ask, bus, caplog):
    async def tell(percent):
        raise AssertionError

    ask.open()
    await ask("publish", ALERTS, progress=lambda done, of: tell(100 * done // of))
    assert numbers(bus.alerts) == [0, 1, 2, 3, 4]
    assert "progress is async and was not awaited" in caplog.text


async def test_enqueue_needs_an_outbox_and_alerts_that_can_be_sent(ask, path):
    with pytest.raises(InvalidArgument, match="needs an outbox"):
        await ask.open()("enqueue", ALERTS)
    with pytest.raises(InvalidArgument, match="alerts"):
        await ask.open(outbox=path)("enqueue", [])


class Running:
    """``run()`` of a publisher, beside the test."""

    def __init__(self, ask, **options):
        self.ask = ask
        self.options = {"poll_every": 0.02} | options

    async def __aenter__(self):
        self.task = asyncio.create_task(self.ask("run", **self.options))
        return self

    async def __aexit__(self, *error):
        await self.ask.close()
        self.ask.clients.clear()
        await asyncio.wait_for(self.task, 10)  # it raises nothing


QUICK = Retry(attempts=1, base=0.01, cap=0.02)


async def test_run_sends_what_is_and_what_becomes_queued(ask, bus, path):
    ask.open(outbox=path, retry=QUICK)
    await ask("enqueue", ALERTS[:2])
    async with Running(ask, poll_every=60):
        await bus.wait_until_async(lambda: len(bus.alerts) == 2)
        await ask("enqueue", ALERTS[2:3])  # wakes it up
        await bus.wait_until_async(lambda: len(bus.alerts) == 3)


async def test_run_sends_what_another_process_queues(ask, bus, path):
    ask.open(outbox=path, retry=QUICK)
    async with Running(ask):
        with Outbox(path) as other:
            queue_of(other).accept(prepare_alerts(ALERTS, "fake-app", WireStyle()))
        await bus.wait_until_async(lambda: len(bus.alerts) == 5)


async def test_run_survives_outages_and_misconfigurations(ask, bus, path, caplog):
    ask.open(outbox=path, retry=QUICK)
    bus.down()
    async with Running(ask):
        await ask("enqueue", ALERTS[:1])
        await until(lambda: caplog.text.count("cannot connect") >= 3)
        bus.up()
        await bus.wait_until_async(lambda: len(bus.alerts) == 1)
        bus.error(404, times=None)
        await ask("enqueue", ALERTS[1:])
        await until(lambda: "cannot send: HTTP status 404" in caplog.text)
        record, *_ = [each for each in caplog.records if each.levelname == "ERROR"]
        assert "next attempt in" in record.getMessage()
        assert bus.url.removeprefix("http://") in record.getMessage()
        bus.heal()
        await bus.wait_until_async(lambda: len(bus.alerts) == 5)


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_run_survives_an_outbox_that_cannot_be_written(ask, bus, path, caplog):
    ask.open(outbox=path, retry=QUICK)
    await ask("enqueue", ALERTS)
    box = ask.client.outbox
    queue_of(box)._db.execute("PRAGMA query_only = ON")
    async with Running(ask):
        await until(lambda: caplog.text.count("cannot use the outbox") >= 2)
        queue_of(box)._db.execute("PRAGMA query_only = OFF")
        await until(lambda: not len(box))
    assert numbers(alerts_of(bus.requests)) == [0, 1, 2, 3, 4]


async def test_alerts_that_cannot_be_removed_are_sent_once_and_others_go(
    ask, bus, path
):
    ask.open(outbox=path, batch_size=2)
    await ask("enqueue", ALERTS)
    box = ask.client.outbox
    queue_of(box)._db.execute("PRAGMA query_only = ON")
    sent = []
    for _ in range(5):
        with pytest.raises(OrtegeWatchError, match="cannot use the outbox") as caught:
            await ask("flush")
        sent.append(numbers(caught.value.published.sent))
    assert sent == [[0, 1], [2, 3], [4], [], []]
    assert len(box) == 5
    queue_of(box)._db.execute("PRAGMA query_only = OFF")
    assert (await ask("flush")).sent == ()
    assert len(box) == 0
    assert numbers(alerts_of(bus.requests)) == [0, 1, 2, 3, 4]


async def test_an_alert_that_is_queued_anew_is_sent_although_it_could_not_be_removed(
    ask, bus, path
):
    ask.open(outbox=path)
    await ask("enqueue", ALERTS[:2])
    queue_of(ask.client.outbox)._db.execute("PRAGMA query_only = ON")
    with pytest.raises(OrtegeWatchError, match="cannot use the outbox"):
        await ask("flush")
    with AlertPublisher(bus.url, bus.credentials, outbox=path) as other:
        other.flush()  # it does not know that they were acknowledged
        other.enqueue(ALERTS[:1])
    queue_of(ask.client.outbox)._db.execute("PRAGMA query_only = OFF")
    assert numbers((await ask("flush")).sent) == [0]
    assert numbers(alerts_of(bus.requests)) == [0, 1, 0, 1, 0]


async def test_flush_says_what_was_sent_before_the_outbox_failed(ask, bus, path):
    ask.open(outbox=path)
    await ask("enqueue", ALERTS)
    queue_of(ask.client.outbox)._db.execute("PRAGMA query_only = ON")
    with pytest.raises(OrtegeWatchError, match="cannot use the outbox") as caught:
        await ask("flush")
    assert numbers(caught.value.published.sent) == [0, 1, 2, 3, 4]


async def test_run_ends_if_the_publisher_was_closed_before_it_began(bus, path):
    async with AsyncAlertPublisher(bus.url, bus.credentials, outbox=path) as publisher:
        sending = asyncio.create_task(publisher.run())
    await sending
    with AlertPublisher(bus.url, bus.credentials, outbox=path) as closed:
        pass
    closed.run()
    with pytest.raises(OrtegeWatchError, match="closed"):
        closed.enqueue(ALERTS)


async def test_run_needs_an_outbox_and_is_ended_by_cancelling(bus, path):
    async with AsyncAlertPublisher(bus.url, bus.credentials) as publisher:
        with pytest.raises(InvalidArgument, match="needs an outbox"):
            await publisher.run()
    async with AsyncAlertPublisher(bus.url, bus.credentials, outbox=path) as publisher:
        with anyio.move_on_after(0.2) as scope:
            await publisher.run()
        assert scope.cancelled_caught
        assert numbers((await publisher.publish(ALERTS[:1])).sent) == [0]
