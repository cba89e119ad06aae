"""Metrics, health and webhooks: exact formats, odd clients, secrets, and no delay."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from contextlib import asynccontextmanager

import httpx
import pytest

from liquidation_bot import monitor as monitoring
from liquidation_bot.display import Note, Sight
from liquidation_bot.engine import Engine, Limits, PositionsRead, PricesSeen
from liquidation_bot.model import UsageError
from liquidation_bot.monitor import Monitor, Webhook, open_webhooks, serve
from ortege_watch.testing import ManualClock

SECRET = "T0/B0/s3cret"
HOOK = f"https://hooks.example/services/{SECRET}"


class Heard:
    """A display that a test can wait for."""

    def __init__(self):
        self.notes, self.more = [], asyncio.Event()

    def show(self, note, engine, /):
        self.notes.append(note)
        self.more.set()

    def close(self):
        pass

    def say(self, kind, text):
        self.show(Note(kind, 0, text), None)

    async def hear(self, *words):
        async with asyncio.timeout(5):
            while not any(
                all(word in note.text for word in words) for note in self.notes
            ):
                self.more.clear()
                await self.more.wait()


class Server:
    """A webhook's server with prepared answers: statuses, responses or errors."""

    def __init__(self, *answers):
        self.answers, self.bodies, self.more = list(answers), [], asyncio.Event()

    def __call__(self, request):
        self.bodies.append(json.loads(request.content))
        self.more.set()
        answer = self.answers.pop(0) if self.answers else 200
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(answer)

    async def until(self, count):
        async with asyncio.timeout(5):
            while len(self.bodies) < count:
                self.more.clear()
                await self.more.wait()


def sight(**changes):
    given = {
        "borrowers": 1,
        "unread": 0,
        "most_unread": 9,
        "positions": 5,
        "prices": {"stSTX": 7, "sBTC": None},
        "data": 3,
        "link": "subscription live",
    }
    return Sight(**{**given, **changes})


class Stage:
    """A monitor with a clock, an engine that has decided, and notes for it."""

    def __init__(self, world, **more):
        self.at, self.heard = world.now, Heard()
        self.engine = Engine(world.market, Limits(), cool_down=100)
        self.engine.handle(PricesSeen(self.at, tuple(world.prices().values())))
        self.engine.handle(PositionsRead(self.at, (world.danger(),)))
        self.monitor = Monitor(display=self.heard, now=lambda: self.at, **more)

    def note(self, kind="tick", text="", **data):
        seen = data.pop("sight", None) or sight()
        self.monitor.show(Note(kind, self.at, text, data, seen), self.engine)

    def live(self):
        self.note("link", "subscription live", state="live")
        return self


@pytest.fixture
def stage(world):
    return Stage(world)


# Prometheus' text format, version 0.0.4, as its documentation describes it.
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = re.compile(
    rf"({NAME})(?:\{{((?:[a-zA-Z_][a-zA-Z0-9_]*=\"(?:[^\"\\\n]|\\[\\\"n])*\",?)*)\}})? (-?\d+)"
)


def parse(text):
    """Return the value of each sample; refuse what the format does not allow."""
    assert text.endswith("\n")
    types, found, helped, current = {}, {}, set(), None
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            _, _, name, about = line.split(" ", 3)
            assert re.fullmatch(NAME, name)
            assert about
            assert name not in helped
            helped.add(name)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name in helped
            assert name not in types
            assert kind in {"counter", "gauge"}
            assert (kind == "counter") == name.endswith("_total")
            types[name], current = kind, name
        else:
            sample = SAMPLE.fullmatch(line)
            assert sample, f"not a sample: {line!r}"
            name, labels, value = sample.groups()
            assert name == current, "the samples of a metric must follow its type"
            assert (name, labels) not in found
            assert types[name] == "gauge" or int(value) >= 0
            found[name, labels] = int(value)
    return {
        f"{name}{{{labels}}}" if labels else name: v
        for (name, labels), v in found.items()
    }


def test_metrics_are_valid_and_exact(stage):
    stage.live()
    stage.note("trouble", "one")
    stage.note("link", "", state="waiting")
    stage.note("execute", "", result="done")
    stage.note("trouble", "", result="failed")
    stage.note("link", "", state="live", sight=sight(unread=4, borrowers=9))
    stage.monitor.queued = lambda: 2
    stage.at += 10
    found = parse(stage.monitor.metrics())
    expected = {
        "connected": 1,
        "reconnects_total": 1,
        "errors_total": 2,
        "queued_plans": 2,
        'executor_results_total{result="done"}': 1,
        'executor_results_total{result="failed"}': 1,
        "plans_total": 1,
        'borrowers{state="known"}': 9,
        'borrowers{state="unread"}': 4,
        'price_age_seconds{asset="stSTX"}': 17,
        "data_age_seconds": 13,
    }
    assert found == {
        f"liquidation_bot_{name}": value for name, value in expected.items()
    }


def test_skips_are_counted_by_reason(stage, world):
    stage.engine.handle(PositionsRead(stage.at, (world.danger(),)))
    stage.live()
    found = parse(stage.monitor.metrics())
    assert found['liquidation_bot_skips_total{reason="planned already"}'] == 1


def test_metrics_are_valid_before_anything_was_seen(world):
    found = parse(Monitor(display=Heard(), now=lambda: 0).metrics())
    assert found["liquidation_bot_connected"] == 0


def test_labels_are_escaped(stage):
    stage.live().note("execute", "", result='a"b\\c\nd')
    found = parse(stage.monitor.metrics())
    assert r'liquidation_bot_executor_results_total{result="a\"b\\c\nd"}' in found


@pytest.mark.parametrize(
    "text",
    [
        "a 1",
        "# TYPE a gauge\na 1\n",
        "# HELP a b\n# TYPE a counter\na 1\n",
        '# HELP a b\n# TYPE a gauge\na{x="1} 1\n',
        "# HELP a b\n# TYPE a gauge\na 1\na 1\n",
        "# HELP a b\n# TYPE a gauge\na one\n",
    ],
)
def test_the_parser_of_this_test_is_strict(text):
    with pytest.raises(AssertionError):
        parse(text)


def problems(stage):
    return stage.monitor.problems()


def test_a_bot_that_sees_everything_is_healthy(stage):
    assert problems(stage) == {"start": "the bot has not seen anything yet"}
    assert problems(stage.live()) == {}


def test_what_makes_it_unhealthy(stage, world):
    stage.note("link", "", state="waiting")
    assert problems(stage) == {"connection": "the subscription is waiting"}
    stage.note("link", "", state="polling")
    assert problems(stage) == {}
    stage.at += 597
    assert problems(stage) == {}
    stage.at += 100
    assert problems(stage) == {"data": "nothing new for 700 s"}
    stage.note()
    stage.at += 600
    stage.note(sight=sight(unread=2))
    assert problems(stage) == {}
    stage.at += 1
    stage.note(sight=sight(unread=2))
    assert problems(stage) == {"positions": "2 positions are unread"}
    stage.note()
    for _ in range(2):
        stage.note("trouble", f"the key is {SECRET}", result="failed")
    assert problems(stage) == {"executor": "2 failures in a row, see the log"}
    stage.note("execute", "", result="done")
    assert problems(stage) == {}
    stage.engine.handle(PositionsRead(stage.at, (world.danger(),)))
    [(name, text)] = problems(stage).items()
    assert name == "prices"
    assert "1298 s old" in text


@asynccontextmanager
async def served(monitor):
    async with serve("127.0.0.1", 0, monitor) as url:
        yield httpx.URL(url)


async def raw(url, sent, *, half=False):
    """Send bytes, and return the whole answer; b"" if the connection was closed."""
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        writer.write(sent)
        async with asyncio.timeout(5):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_it_is_served(stage):
    async with served(stage.live().monitor) as url, httpx.AsyncClient() as http:
        metrics = await http.get(url.join("/metrics?x=1"))
        health = await http.get(url.join("/health"))
        stage.note("link", "", state="closed")
        ill = await http.get(url.join("/health"))
        other = await http.get(url.join("/"))
        posted = await http.post(url.join("/health"), content=b"x")
    assert metrics.status_code == 200
    assert metrics.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert parse(metrics.text)["liquidation_bot_connected"] == 1
    assert (health.status_code, health.json()) == (200, {"problems": {}})
    assert health.headers["Content-Type"] == "application/json"
    assert ill.status_code == 503
    assert ill.json() == {"problems": {"connection": "the subscription is closed"}}
    assert other.status_code == 404
    assert posted.status_code == 405
    assert posted.headers["Allow"] == "GET"
    codes = dict(stage.monitor.responses)
    assert codes == {"200": 2, "503": 1, "404": 1, "405": 1}


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\r\n\r\n", b"400"),
        (b"hello\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/2.0\r\n\r\n", b"400"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"\xff\xfe \x00 HTTP/1.1\r\n\r\n", b"405"),
        (b"GET  /metrics HTTP/1.1\r\n\r\n", b"400"),
        (b"GET http://x/metrics HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /health/../metrics HTTP/1.1\r\n\r\n", b"404"),
    ],
)
async def test_garbage_is_refused(stage, sent, status):
    async with served(stage.monitor) as url:
        assert (await raw(url, sent)).startswith(b"HTTP/1.1 " + status)


async def test_a_huge_request_is_not_kept(stage):
    async with served(stage.live().monitor) as url, httpx.AsyncClient() as http:
        answer = await raw(url, b"GET /metrics HTTP/1.1\r\nx: " + b"a" * 10**7)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 431")
        assert (await http.get(url.join("/health"))).status_code == 200


async def test_a_slow_client_is_cut_off(stage, monkeypatch):
    monkeypatch.setattr(monitoring, "_CLIENT_SECONDS", 0.05)
    async with served(stage.monitor) as url:
        assert await raw(url, b"GET /metrics HTTP/1.1\r\n") == b""
    assert stage.monitor.responses == {"none": 1}


async def test_a_client_that_goes_away_does_no_harm(stage):
    async with served(stage.live().monitor) as url, httpx.AsyncClient() as http:
        _, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(b"GET /me")
        writer.transport.abort()
        assert (await http.get(url.join("/health"))).status_code == 200


async def test_only_so_many_clients_at_a_time(stage, monkeypatch):
    monkeypatch.setattr(monitoring, "_MAX_CLIENTS", 2)
    async with served(stage.live().monitor) as url:
        idle = [await asyncio.open_connection(url.host, url.port) for _ in range(2)]
        assert (await raw(url, b"")).startswith(b"HTTP/1.1 503")
        for _, writer in idle:
            writer.transport.abort()
        async with asyncio.timeout(5), httpx.AsyncClient() as http:
            while (await http.get(url.join("/health"))).status_code != 200:
                pass


async def test_idle_clients_do_not_delay_the_end(stage):
    async with asyncio.timeout(2):  # far less than a client may take
        async with served(stage.monitor) as url:
            reader, writer = await asyncio.open_connection(url.host, url.port)
        assert await reader.read() == b""
    writer.close()
    assert stage.monitor.responses == {"none": 1}


async def test_an_address_in_use_is_a_mistake(stage):
    async with served(stage.monitor) as url:
        with pytest.raises(UsageError, match=f"127.0.0.1:{url.port}"):
            async with serve("127.0.0.1", url.port, stage.monitor):
                pass


@asynccontextmanager
async def hooked(server, heard, *, url=HOOK, clock=None, **more):
    clock = clock or ManualClock()
    async with httpx.AsyncClient(transport=httpx.MockTransport(server)) as http:
        webhook = Webhook(url, http, sleep=clock.sleep, **more)
        async with webhook.running(heard.say):
            yield webhook


async def test_a_plan_is_posted_with_its_document(stage):
    server, plan = Server(), {"id": "1"}
    async with hooked(server, stage.heard) as webhook:
        monitor = Monitor(display=stage.heard, now=lambda: 0, webhooks=[webhook])
        monitor.show(Note("plan", 0, "pay 1 <USD>", {"plan": plan}), stage.engine)
        await server.until(1)
    at = "1970-01-01T00:00:00+00:00"
    assert server.bodies == [
        {"event": "plan", "at": at, "text": "pay 1 <USD>", "plan": plan}
    ]
    assert webhook.counts == {"sent": 1, "not sent": 0}


@pytest.mark.parametrize(
    ("url", "slack"), [(f"slack+{HOOK}", False), (HOOK, True), (f"slack+{HOOK}", True)]
)
async def test_slack_gets_escaped_text(stage, url, slack):
    server = Server()
    async with hooked(server, stage.heard, url=url, slack=slack) as webhook:
        webhook.put({"text": "a < b & c > d", "plan": {}})
        await server.until(1)
    assert server.bodies == [{"text": "a &lt; b &amp; c &gt; d"}]


async def test_what_fails_is_retried_with_growing_delays(stage):
    answers = [503, httpx.ConnectError(HOOK), 429, 200]
    server, clock = Server(*answers), ManualClock()
    async with hooked(server, stage.heard, clock=clock) as webhook:
        webhook.put({"text": "x"})
        for number, seconds in enumerate([1, 2, 4], 1):
            await server.until(number)
            await clock.wait_for_sleepers()
            await clock.advance(seconds - 0.5)
            assert len(server.bodies) == number
            await clock.advance(0.5)
        await server.until(4)
    assert webhook.counts == {"sent": 1, "not sent": 0}


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("999999999999", 60), ("Fri, 27 Nov 2026 12:00:00 GMT", 60), ("0", 1)],
)
async def test_retry_after_is_obeyed_within_a_bound(stage, header, seconds):
    busy = httpx.Response(429, headers={"Retry-After": header})
    server, clock = Server(busy), ManualClock()
    async with hooked(server, stage.heard, clock=clock) as webhook:
        webhook.put({"text": "x"})
        await server.until(1)
        await clock.wait_for_sleepers()
        await clock.advance(seconds - 0.5)
        assert len(server.bodies) == 1
        await clock.advance(0.5)
        await server.until(2)


@pytest.mark.parametrize("answers", [[404], [302], [500] * 6])
async def test_what_cannot_be_posted_is_given_up_loudly(stage, answers):
    server, clock = Server(*answers), ManualClock()
    async with hooked(server, stage.heard, clock=clock) as webhook:
        webhook.put({"text": "x"})
        for number in range(1, len(answers)):
            await server.until(number)
            await clock.wait_for_sleepers()
            await clock.advance(2 ** (number - 1))
        await stage.heard.hear("a post to https://hooks.example is given up", "status")
        webhook.put({"text": "y"})
        await server.until(len(answers) + 1)
    assert server.bodies[-1] == {"text": "y"}
    assert webhook.counts == {"sent": 1, "not sent": 1}
    assert SECRET not in str(stage.heard.notes)


async def test_an_unreachable_server_does_not_delay_the_bot(stage):
    clock = ManualClock()
    server = Server(*[httpx.ConnectError("no route")] * 9)
    async with hooked(server, stage.heard, clock=clock, linger=0) as webhook:
        monitor = Monitor(display=stage.heard, now=lambda: 0, webhooks=[webhook])
        for number in range(250):
            monitor.show(Note("plan", 0, "", {"plan": {"id": number}}), stage.engine)
    said = [note.text for note in stage.heard.notes if note.kind == "trouble"]
    assert said == [
        "the queue of posts to https://hooks.example is full: 1 dropped so far",
        "the queue of posts to https://hooks.example is full: 10 dropped so far",
        "the queue of posts to https://hooks.example is full: 100 dropped so far",
        "posts to https://hooks.example not sent: 250",
    ]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        f"ftp://h/{SECRET}",
        f"https:///{SECRET}",
        f"https://h:x/{SECRET}",
    ],
)
async def test_an_invalid_url_is_refused_and_not_shown(url):
    with pytest.raises(UsageError, match="expected https://") as raised:
        async with open_webhooks([url], slack=False):
            pass
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None


async def test_the_url_is_in_no_log(stage, caplog):
    caplog.set_level(logging.DEBUG)
    async with serve("127.0.0.1", 0, stage.monitor) as url:
        secret, shown = f"{url}/{SECRET}", f"{url}/shown"
        async with open_webhooks([secret], slack=False) as [webhook]:
            async with webhook.running(stage.heard.say):
                webhook.put({"text": "x"})
                await stage.heard.hear("status 405")
            async with httpx.AsyncClient() as http:
                await http.get(shown)
        assert "shown" in caplog.text
        assert SECRET not in caplog.text + repr(webhook) + str(stage.heard.notes)


async def test_a_problem_that_lasts_is_posted_and_so_is_its_end(stage):
    server, clock = Server(), ManualClock()
    async with hooked(server, stage.heard) as webhook:
        monitor = Monitor(
            display=stage.heard,
            now=lambda: stage.at + int(clock.now()),
            webhooks=[webhook],
            lasts=120,
            patience=10_000,
        )
        stage.monitor = monitor
        async with monitor.running(clock.sleep):
            await clock.wait_for_sleepers()
            stage.live().note("link", "", state="waiting")
            await clock.advance(110)
            stage.note("link", "", state="live")
            await clock.advance(30)
            stage.note("link", "", state="waiting")
            await clock.advance(300)
            await server.until(1)
            stage.note("link", "", state="live")
            await clock.advance(30)
            await server.until(2)
    texts = [(body["event"], body["text"]) for body in server.bodies]
    assert texts == [
        ("problem", "for 120 s: the subscription is waiting"),
        ("problem ended", "ended: the subscription is waiting"),
    ]


async def test_a_defect_of_the_check_does_not_stay_hidden(stage):
    clock = ManualClock()
    stage.live().engine.decisions = None
    with pytest.raises(AttributeError):
        async with stage.monitor.running(clock.sleep):
            await clock.wait_for_sleepers()
            await clock.advance(10)
