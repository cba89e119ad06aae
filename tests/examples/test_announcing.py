"""Alerts beside the bot: what becomes of them, and that no trouble with them stops it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import httpx
import pytest

from liquidation_bot import alerts
from liquidation_bot.alerts import CHAIN_ID, ENTITY_TYPE, entity_of
from liquidation_bot.engine import decide
from ortege_watch import InvalidArgument, OrtegeWatchError, TransportError
from ortege_watch.testing import ManualClock
from ortege_watch.watchbus import (
    AlertChannel,
    AlertInfo,
    AsyncAlertPublisher,
    Credentials,
    DeadLetter,
    PublishResult,
    RequestVerifier,
    alert_app,
    serve_alert_channel,
)

OURS = Credentials("bot", "what we sign with")
THEIRS = Credentials("monitor", "what they sign with")


class Heard:
    """Collect what is said, and wait for it."""

    def __init__(self):
        self.said, self.more = [], asyncio.Event()

    def say(self, kind, text):
        self.said.append((kind, text))
        self.more.set()

    async def hear(self, kind, *words):
        async with asyncio.timeout(5):
            while not any(
                kind == each and all(word in text for word in words)
                for each, text in self.said
            ):
                self.more.clear()
                await self.more.wait()


class Sink:
    """A sink with prepared answers: results, errors, or functions that return one."""

    def __init__(self, *answers):
        self.answers, self.given = list(answers), []
        self.flushes, self.open = [], asyncio.Event()
        self.open.set()

    async def publish(self, alerts, /):
        await self.open.wait()
        self.given.append(list(alerts))
        answer = self.answers.pop(0) if self.answers else PublishResult(sent=alerts)
        if callable(answer):
            answer = answer(alerts)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def flush(self):
        answer = self.flushes.pop(0) if self.flushes else PublishResult()
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def plan(world):
    return decide(world.case(world.danger(), world.prices()), world.rules)


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def clock():
    return ManualClock()


def announcer(sink, clock, **more):
    return alerts.Announcer(sink, sleep=clock.sleep, **more)


async def test_what_is_announced_is_sent_before_the_end(plan, heard, clock, world):
    sink = Sink()
    announcer_ = announcer(sink, clock)
    async with announcer_.running(heard.say):
        announcer_.announce(plan, "1")
    [[alert]] = sink.given
    assert alert.event_values.borrower == world.alice
    assert heard.said == [("alert", "liquidation_plan about SPAZ…S6AK: sent")]
    assert announcer_.counts == {"sent": 1, "refused": 0, "not sent": 0}


async def test_announcing_waits_for_nobody(plan, heard, clock):
    sink = Sink()
    sink.open.clear()
    announcer_ = announcer(sink, clock)
    async with announcer_.running(heard.say):
        for number in range(8):
            announcer_.announce(plan, str(number))
        assert sink.given == []
        sink.open.set()
    assert sum(map(len, sink.given)) == 8
    assert "and 3 more" in heard.said[-1][1]


async def test_an_error_is_told_and_counted_and_the_next_one_is_sent(
    plan, heard, clock
):
    sink = Sink(TransportError("no route"))
    announcer_ = announcer(sink, clock)
    async with announcer_.running(heard.say):
        announcer_.announce(plan, "1")
        await heard.hear("trouble", "1 alerts not sent: no route")
        announcer_.announce(plan, "2")
        await heard.hear("alert", "sent")
    assert announcer_.counts == {"sent": 1, "refused": 0, "not sent": 1}
    assert heard.said[-1] == ("trouble", "alerts not sent: 1")


async def test_what_was_done_before_an_error_counts(plan, heard, clock):
    def partly(alerts):
        error = TransportError("no route")
        refused = DeadLetter(alerts[1], "never", None, 400)
        error.published = PublishResult(sent=(alerts[0],), dead=(refused,))
        return error

    announcer_ = announcer(Sink(partly), clock)
    async with announcer_.running(heard.say):
        for number in range(3):
            announcer_.announce(plan, str(number))
    assert ("trouble", "1 alerts not sent: no route") in heard.said
    assert announcer_.counts == {"sent": 1, "refused": 1, "not sent": 1}


async def test_what_waits_is_sent_at_the_start_and_every_minute(heard, clock):
    sink = Sink()
    sink.flushes = [PublishResult(), OrtegeWatchError("away"), PublishResult()]
    announcer_ = announcer(sink, clock, every=60)
    async with announcer_.running(heard.say):
        await clock.wait_for_sleepers()
        assert len(sink.flushes) == 2
        await clock.advance(59)
        assert len(sink.flushes) == 2
        await clock.advance(1)
        await heard.hear("trouble", "alerts stay queued: away")
        await clock.wait_for_sleepers()
        await clock.advance(60)
        assert sink.flushes == []


async def test_cancelled_it_ends_at_once_and_says_what_is_left(plan, heard, clock):
    sink = Sink()
    sink.open.clear()
    announcer_ = announcer(sink, clock, linger=1e6)

    async def bot():
        async with announcer_.running(heard.say):
            announcer_.announce(plan, "1")
            await asyncio.sleep(0)
            announcer_.announce(plan, "2")
            await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(bot())
    await clock.wait_for_sleepers()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert heard.said == [("trouble", "alerts not sent: 2")]


async def test_it_does_not_linger_for_ever(plan, heard, clock):
    sink = Sink()
    sink.open.clear()
    announcer_ = announcer(sink, clock, linger=0)
    async with announcer_.running(heard.say):
        announcer_.announce(plan, "1")
    assert announcer_.counts["not sent"] == 1


async def test_when_a_thousand_wait_no_more_are_taken(plan, heard, clock):
    sink = Sink()
    sink.open.clear()
    announcer_ = announcer(sink, clock, linger=0)
    async with announcer_.running(heard.say):
        for number in range(1001):
            announcer_.announce(plan, str(number))
        assert announcer_.counts["not sent"] == 1
    assert heard.said == [
        ("trouble", "the queue of alerts is full: 1 dropped so far"),
        ("trouble", "alerts not sent: 1001"),
    ]


async def test_a_defect_does_not_stay_hidden(plan, heard, clock):
    announcer_ = announcer(Sink(ZeroDivisionError()), clock, linger=0.01)
    with pytest.raises(ZeroDivisionError):
        async with announcer_.running(heard.say):
            announcer_.announce(plan, "1")


async def test_the_way_over_a_channel(plan, heard, clock):
    taken = []
    verifier = RequestVerifier({OURS.app_id: [OURS.secret]}, path="/x", method="GET")
    async with (
        serve_alert_channel(verifier, taken.append) as server,
        alerts.open_sink(server.url, OURS) as sink,
    ):
        announcer_ = announcer(sink, clock)
        async with announcer_.running(heard.say):
            announcer_.announce(plan, "1")
    assert [each.event_values["plan_id"] for each in taken] == ["1"]


async def test_a_channel_that_is_refused_is_told(plan, heard, clock):
    verifier = RequestVerifier({OURS.app_id: ["another"]}, path="/x", method="GET")
    async with (
        serve_alert_channel(verifier, print) as server,
        alerts.open_sink(server.url, OURS) as sink,
    ):
        announcer_ = announcer(sink, clock)
        async with announcer_.running(heard.say):
            announcer_.announce(plan, "1")
            await heard.hear("trouble", "1 alerts not sent", "signature")
    assert OURS.secret not in str(heard.said)


async def test_the_way_by_post_keeps_alerts_in_the_outbox(plan, heard, clock, tmp_path):
    box = tmp_path / "outbox"
    nowhere = "http://127.0.0.1:1"
    async with AsyncAlertPublisher(
        nowhere, OURS, outbox=box, deadline=0.001
    ) as publisher:
        announcer_ = announcer(publisher, clock)
        async with announcer_.running(heard.say):
            announcer_.announce(plan, "1")
    assert announcer_.counts == {"sent": 0, "refused": 0, "not sent": 0}
    taken = []
    verifier = RequestVerifier({OURS.app_id: [OURS.secret]}, path="/api/v1/watch/alert")
    app = httpx.ASGITransport(alert_app(verifier, taken.append))
    async with AsyncAlertPublisher(nowhere, OURS, outbox=box, http=app) as publisher:
        announcer_ = announcer(publisher, clock)
        async with announcer_.running(heard.say):  # the first thing that it does
            await heard.hear("alert", "SPAZ…S6AK: sent")
    assert [each.event_values["plan_id"] for each in taken] == ["1"]


async def test_the_way_by_post_needs_no_outbox(plan, heard, clock):
    async with (
        alerts.open_sink("http://127.0.0.1:1", OURS) as sink,
        announcer(sink, clock).running(heard.say),
    ):
        await clock.wait_for_sleepers()
    assert heard.said == []


@pytest.mark.parametrize("url", ["ftp://x", "ws:", "http://", "nonsense"])
async def test_an_address_that_cannot_be_used_is_refused(url):
    with pytest.raises(InvalidArgument):
        async with alerts.open_sink(url, OURS):
            pass


def about(who, code="moved", at=0):
    return AlertInfo(entity_of(who), CHAIN_ID, ENTITY_TYPE, code, at)


class Reading:
    """The bot as a listener sees it: it records what it has to read."""

    def __init__(self):
        self.read, self.more = [], asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, addresses, why):
        self.read.append((addresses, why))
        self.more.set()
        await self.open.wait()

    async def until(self, count):
        async with asyncio.timeout(5):
            while len(self.read) < count:
                self.more.clear()
                await self.more.wait()


@asynccontextmanager
async def listening(known, heard):
    listener, reading = alerts.Listener(), Reading()
    task = asyncio.create_task(listener.run(known, reading, heard.say))
    try:
        yield listener, reading
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_alert_about_a_borrower_is_a_reason_to_read(heard, world):
    async with listening([world.alice, world.bob], heard) as (listener, reading):
        await listener.take(about(world.bob, "liquidation_plan"))
        await reading.until(1)
    why = "liquidation_plan about SP3V…BWB7: reading again"
    assert reading.read == [([world.bob], why)]
    assert listener.counts == {"about a borrower": 1}


async def test_borrowers_are_looked_up_when_the_alert_is_looked_at(heard, world):
    known = {}
    async with listening(known, heard) as (listener, reading):
        known[world.bob] = None
        await listener.take(about(world.bob))
        await reading.until(1)


async def test_many_alerts_are_one_reading_for_each_borrower(heard, world):
    async with listening([world.alice, world.bob], heard) as (listener, reading):
        reading.open.clear()
        await listener.take(about(world.alice))
        await reading.until(1)
        for number in range(50):
            await listener.take(about(world.bob, f"code_{number}"))
        reading.open.set()
        await reading.until(2)
    assert [addresses for addresses, _ in reading.read] == [[world.alice], [world.bob]]


async def test_what_does_not_concern_it_is_counted_and_told_now_and_then(heard, world):
    token = AlertInfo(f"0x{'c0' * 20}", 56, "ERC20", "big_amount_txn", 0)
    async with listening([world.alice], heard) as (listener, reading):
        for _ in range(11):
            await listener.take(token)
        await listener.take(about(world.bob))
        await listener.take(about(world.alice))
        await reading.until(1)
    assert listener.counts == {
        "another kind of entity": 11,
        "an unknown borrower": 1,
        "about a borrower": 1,
    }
    assert heard.said == [
        ("alert", "skipped, 1 so far: it is about another kind of entity"),
        ("alert", "skipped, 10 so far: it is about another kind of entity"),
        ("alert", "skipped, 1 so far: it is about an unknown borrower"),
    ]


async def test_another_ones_words_do_no_harm_to_a_terminal(heard, world):
    async with listening([world.alice], heard) as (listener, reading):
        await listener.take(about(world.alice, "\x1b[2J\n" + "x" * 99))
        await reading.until(1)
    [(_, why)] = reading.read
    assert why.isprintable()
    assert len(why) < 80


async def test_a_sender_waits_while_too_many_alerts_wait(heard, world):
    async with listening([world.alice], heard) as (listener, reading):
        reading.open.clear()
        await listener.take(about(world.alice))
        await reading.until(1)
        for number in range(1000):
            await listener.take(about(world.alice, at=number))
        late = asyncio.create_task(listener.take(about(world.alice, at=1000)))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not late.done()
        reading.open.set()
        await late


async def test_alerts_come_over_a_channel_and_by_post(heard, world):
    place = alerts.ListenAddress("127.0.0.1", 0, "/alerts")
    path = "/api/v1/watch/alert"
    verifier = RequestVerifier({THEIRS.app_id: [THEIRS.secret]}, path=path)
    async with listening([world.alice, world.bob], heard) as (listener, reading):
        async with (
            alerts.serve(place, THEIRS, listener) as url,
            AlertChannel(url, THEIRS) as channel,
        ):
            assert url.endswith("/alerts")
            await channel.send([about(world.alice)])
        await reading.until(1)
        app = httpx.ASGITransport(alert_app(verifier, listener.take))
        async with AsyncAlertPublisher("http://bot", THEIRS, http=app) as publisher:
            await publisher.publish([about(world.bob)])
        await reading.until(2)
    assert [addresses for addresses, _ in reading.read] == [[world.alice], [world.bob]]


def test_credentials_come_from_the_environment():
    environ = {"ALERTS_TO_APP_ID": "bot", "ALERTS_TO_SECRET": "s3cret"}
    assert alerts.credentials("ALERTS_TO", environ) == Credentials("bot", "s3cret")


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({}, "set X_APP_ID and X_SECRET in"),
        ({"X_SECRET": "s3cret"}, "set X_APP_ID in"),
        ({"X_APP_ID": "bot", "X_SECRET": ""}, "set X_SECRET in"),
        ({"X_APP_ID": "a;b", "X_SECRET": "s3cret"}, "app_id must be visible"),
    ],
)
def test_what_is_missing_is_named_and_no_secret_is(environ, named):
    with pytest.raises(InvalidArgument, match=named) as raised:
        alerts.credentials("X", environ)
    assert "s3cret" not in str(raised.value)
