"""Both clients against the fake provider, over real sockets."""

from __future__ import annotations

import asyncio
import inspect
from datetime import UTC, datetime
from decimal import Decimal

import httpx
import pytest
import respx
from driving import entity

from ortege_watch import (
    DeadlineExceeded,
    DecodeError,
    InvalidArgument,
    OrtegeWatchError,
    RateLimited,
    Retry,
    TransportError,
)
from ortege_watch.testing import FakeProvider
from ortege_watch.watchbus import (
    AsyncWatchBusClient,
    Credentials,
    EntityInfo,
    WatchBusClient,
    WatchBusError,
    WatchPaths,
    WireStyle,
)

ONE, TWO, THREE = map(entity, (1, 2, 3))


class Clock:
    def __init__(self):
        self.time = 0.0
        self.slept = []

    def now(self):
        return self.time

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.time += seconds


class AsyncClock(Clock):
    async def sleep(self, seconds):
        super().sleep(seconds)


class Asker:
    """Call either client the same way, so that one test speaks for both."""

    def __init__(self, provider, *, sync):
        self.provider = provider
        self.sync = sync
        self.clock = Clock() if sync else AsyncClock()
        self.clients = []

    def open(self, url=None, credentials=None, **settings):
        kind = WatchBusClient if self.sync else AsyncWatchBusClient
        self.client = kind(
            url or self.provider.url,
            credentials or self.provider.credentials,
            **{"clock": self.clock} | settings,
        )
        self.clients.append(self.client)
        return self

    async def __call__(self, name, *args, **options):
        method = getattr(self.client, name)
        if self.sync:
            return await asyncio.to_thread(method, *args, **options)
        return await method(*args, **options)

    async def all(self, *args, **options):
        found = self.client.subscriptions(*args, **options)
        if self.sync:
            return await asyncio.to_thread(list, found)
        return [each async for each in found]

    async def close(self):
        for each in self.clients:
            self.client = each
            await self("close" if self.sync else "aclose")


@pytest.fixture
def provider():
    with FakeProvider() as provider:
        yield provider


@pytest.fixture(params=[True, False], ids=["sync", "async"])
async def ask(request, provider):
    asker = Asker(provider, sync=request.param).open()
    yield asker
    await asker.close()


async def test_subscribe_and_unsubscribe(ask, provider):
    result = await ask("subscribe", [ONE, TWO])
    assert result.succeeded == (ONE, TWO)
    assert (result.missing, result.unexpected, result.unanswered) == ((), (), ())
    assert provider.watched == [ONE, TWO]
    result = await ask("unsubscribe", iter([TWO, THREE]))
    assert (result.succeeded, result.missing) == ((TWO,), (THREE,))
    assert provider.watched == [ONE]


@pytest.mark.parametrize("as_int", [False, True])
@pytest.mark.parametrize("bare", [False, True])
async def test_both_documented_forms(ask, provider, as_int, bare):
    style = WireStyle(chain_id_as_int=as_int, bare_lists=bare)
    ask.open(style=style)
    assert (await ask("subscribe", [ONE])).succeeded == (ONE,)


async def test_an_entity_that_is_not_in_the_response_failed(ask, provider):
    provider.reject(TWO)
    provider.answer_unasked(THREE)
    result = await ask("subscribe", [ONE, TWO])
    assert (result.succeeded, result.missing) == ((ONE,), (TWO,))
    assert result.unexpected == (THREE,)


async def test_many_at_once(ask, provider):
    seen = []
    ask.open(batch_size=40)
    entities = [entity(number) for number in range(100)]
    result = await ask("subscribe", entities, progress=lambda *told: seen.append(told))
    assert result.succeeded == tuple(entities)
    assert seen == [(40, 100), (80, 100), (100, 100)]
    assert len(provider.requests) == 3


async def test_a_failure_in_the_middle_loses_nothing(ask, provider):
    ask.open(batch_size=2)
    entities = [entity(number) for number in range(6)]

    def cut_next(_done, _total):
        provider.cut()

    with pytest.raises(TransportError) as caught:
        await ask("subscribe", entities, progress=cut_next)
    done = caught.value.watched
    assert done.succeeded == tuple(entities[:2])
    assert done.unanswered == tuple(entities[2:])
    assert provider.watched == entities[:4]  # the answer was lost, the request was not
    provider.heal()
    again = await ask("subscribe", done.unanswered)
    assert again.succeeded == done.unanswered
    assert provider.watched == entities


async def test_all_subscriptions(ask, provider):
    provider.watch(*map(entity, range(120)))
    found = await ask.all()
    assert [each.entity for each in found] == [entity(n).entity for n in range(120)]
    assert len(provider.requests) == 3


async def test_subscriptions_of_some(ask, provider):
    provider.watch(ONE, TWO, THREE, entity(1, "big_amount_txn_usd"))
    found = await ask.all([ONE.entity, THREE.entity.upper().replace("X", "x")])
    assert [each.entity for each in found] == [ONE.entity, THREE.entity]
    codes = [each.event_code for each in found[0].events]
    assert codes == ["big_amount_txn", "big_amount_txn_usd"]


async def test_a_provider_with_smaller_pages_than_asked_for(ask):
    with FakeProvider(page_size=7) as provider:
        provider.watch(*map(entity, range(20)))
        ask.open(provider.url)
        ask.open(provider.url, provider.credentials)
        assert len(await ask.all(page_size=10)) == 20


async def test_no_subscriptions(ask):
    assert await ask.all() == []


async def test_a_provider_that_ignores_page_index(ask, provider):
    provider.watch(*map(entity, range(120)))
    provider.repeat_page()
    with pytest.raises(DecodeError, match="page 2 repeats page 1"):
        await ask.all()


async def test_pages_are_requested_when_the_loop_needs_them(provider):
    provider.watch(*map(entity, range(120)))
    with WatchBusClient(provider.url, provider.credentials) as client:
        found = client.subscriptions()
        assert provider.requests == []
        next(found)
        assert len(provider.requests) == 1


async def test_bad_arguments_are_refused_before_the_loop(ask):
    with pytest.raises(InvalidArgument):
        ask.client.subscriptions(page_size=51)
    with pytest.raises(InvalidArgument):
        ask.client.subscriptions([])


async def test_one_page(ask, provider):
    provider.watch(ONE, TWO, THREE)
    page = await ask("subscriptions_page", page_index=2, page_size=2)
    assert [each.entity for each in page.subscriptions] == [THREE.entity]
    assert (page.page_index, page.page_size, page.total) == (2, 2, 3)
    with pytest.raises(InvalidArgument):
        await ask("subscriptions_page", [])


async def test_events(ask):
    events = await ask("events")
    assert events[0].event_code == "big_amount_txn"
    assert events[0].mini_threshold == Decimal(1000)


async def test_other_paths(ask, provider):
    paths = WatchPaths(
        subscribe="/api/v1/watch/subscribe", events="/api/v1/watch/event/list"
    )
    ask.open(paths=paths)
    await ask("subscribe", [ONE])
    await ask("events")
    assert [each.path for each in provider.requests] == [
        "/api/v1/watch/subscribe",
        "/api/v1/watch/event/list",
    ]


async def test_a_missing_path_has_no_fallback(ask, provider):
    ask.open(paths=WatchPaths(events="/api/v2/watch/event/list"))
    with pytest.raises(WatchBusError) as caught:
        await ask("events")
    assert caught.value.status == 404
    assert len(provider.requests) == 1


async def test_a_wrong_secret(ask, provider):
    ask.open(credentials=Credentials("fake-app", "not-the-secret"))
    with pytest.raises(WatchBusError) as caught:
        await ask("events")
    assert (caught.value.code, caught.value.reason) == ("000005", "invalid signature")
    assert "not-the-secret" not in str(caught.value)


async def test_too_many_requests(ask, provider):
    provider.rate_limit(3, times=2)
    await ask("subscribe", [ONE])
    assert ask.clock.slept == [3.0, 3.0]
    provider.rate_limit(times=4)
    with pytest.raises(RateLimited) as caught:
        await ask("events")
    assert (caught.value.code, caught.value.status) == ("000002", 429)


@pytest.mark.parametrize("seconds", [-3600, 3600])
async def test_a_wrong_clock_is_corrected_once(ask, provider, seconds):
    provider.skew(seconds)
    assert (await ask("subscribe", [ONE])).succeeded == (ONE,)
    assert len(provider.requests) == 2
    await ask("events")
    assert len(provider.requests) == 3
    assert ask.clock.slept == []


async def test_a_provider_that_refuses_every_timestamp(ask, provider):
    provider.fail("000005", "timestamp is expired", status=401, times=None)
    with pytest.raises(WatchBusError, match="timestamp is expired"):
        await ask("events")
    assert len(provider.requests) == 2


async def test_every_attempt_has_its_own_signature(ask, provider):
    provider.fail(status=500, times=3)
    await ask("events")
    stamps = [each.headers["x-signature-nonce"] for each in provider.requests]
    signatures = [each.headers["x-signature-signature"] for each in provider.requests]
    assert len(set(stamps)) == len(set(signatures)) == 4


@pytest.mark.parametrize("own", [False, True])
async def test_no_redirect_is_followed(ask, provider, own):
    with FakeProvider() as other:
        provider.redirect(f"{other.url}/api/watch/event/list")
        kind = httpx.Client if ask.sync else httpx.AsyncClient
        http = kind(follow_redirects=True, trust_env=False) if own else None
        ask.open(http=http)
        with pytest.raises(WatchBusError, match=f"redirected to {other.url}"):
            await ask("events")
        assert other.requests == []
        assert len(provider.requests) == 1
    if own:
        await (http.aclose() if isinstance(http, httpx.AsyncClient) else done(http))


async def done(http):
    http.close()


async def test_a_page_of_html(ask, provider):
    provider.error(200, "<html>Welcome</html>")
    with pytest.raises(DecodeError, match="Welcome"):
        await ask("events")
    provider.refuse(500, times=1)
    with pytest.raises(WatchBusError, match="500"):
        await ask("events")


async def test_a_response_that_contradicts_itself(ask, provider):
    provider.contradict()
    with pytest.raises(WatchBusError, match="contradicts itself") as caught:
        await ask("events")
    assert caught.value.code == "000001"


async def test_a_list_is_requested_again_after_a_lost_response(ask, provider):
    provider.cut()
    assert await ask("events")
    assert len(provider.requests) == 2


async def test_a_subscription_is_not_sent_again(ask, provider):
    provider.cut()
    with pytest.raises(TransportError) as caught:
        await ask("subscribe", [ONE])
    assert caught.value.watched.unanswered == (ONE,)
    assert len(provider.requests) == 1


async def test_a_subscription_is_retried_while_the_server_is_unreachable(ask, provider):
    provider.down()

    def come_back(seconds):
        provider.up()

    ask.clock.slept = Slept(come_back)
    assert (await ask("subscribe", [ONE])).succeeded == (ONE,)
    assert len(ask.clock.slept) == 1


class Slept(list):
    def __init__(self, act):
        self.act = act

    def append(self, seconds):
        super().append(seconds)
        self.act(seconds)


async def test_a_provider_that_stays_unreachable(ask, provider):
    provider.down()
    with pytest.raises(TransportError):
        await ask("events")
    assert len(ask.clock.slept) == 3
    provider.up()


async def test_a_silent_provider(provider):
    provider.silence()
    async with AsyncWatchBusClient(provider.url, provider.credentials) as client:
        with pytest.raises(DeadlineExceeded):
            await client.events(deadline=0.05)
    with (
        WatchBusClient(
            provider.url, provider.credentials, retry=Retry(attempts=1)
        ) as client,
        pytest.raises(TransportError, match="silent"),
    ):
        client.events(timeout=0.05)
    provider.speak()


async def test_a_call_on_a_closed_client(ask):
    await ask.close()
    with pytest.raises(OrtegeWatchError, match="the client is closed") as caught:
        await ask("events")
    assert type(caught.value) is OrtegeWatchError


async def test_unknown_arguments(ask):
    with pytest.raises(TypeError, match="timeuot"):
        await ask("events", timeuot=1)


@pytest.mark.parametrize("kind", [WatchBusClient, AsyncWatchBusClient])
def test_invalid_arguments_of_the_constructors(kind):
    good = Credentials("app", "hush")
    own = httpx.Client if kind is WatchBusClient else httpx.AsyncClient
    for url, credentials, settings in [
        ("provider", good, {}),
        ("https://host", "app:hush", {}),
        ("https://host", good, {"batch_size": 0}),
        ("https://host", good, {"timeout": 0}),
        ("https://host", good, {"paths": "/x"}),
        ("https://host", good, {"http": "https://proxy"}),
        ("https://host", good, {"http": own(params={"key": "1"})}),
    ]:
        with pytest.raises(InvalidArgument) as caught:
            kind(url, credentials, **settings)
        assert "hush" not in str(caught.value)
    assert "hush" not in repr(kind("https://host", good))


@respx.mock
async def test_a_user_s_client_changes_neither_the_body_nor_the_path():
    """A user's own client with habits of its own changes neither body nor path."""
    route = respx.post("https://host/gw/api/watch/subscribe").respond(
        json={"status": "OK", "code": "000000000", "data": []}
    )
    odd = EntityInfo("0x" + "Ab" * 20, 2**70, 'a "ö" type', "x")
    http = httpx.Client(base_url="https://other/", headers={"X-Habit": "1"})
    with (
        http,
        WatchBusClient("https://host/gw/", Credentials("a", "b"), http=http) as client,
    ):
        client.subscribe([odd])
    sent = route.calls.last.request
    assert sent.content.decode() == (
        '{"entity_list":[{"entity":"0xAbAbAbAbAbAbAbAbAbAbAbAbAbAbAbAbAbAbAbAb",'
        '"chain_id":"1180591620717411303424","entity_type":"a \\"ö\\" type",'
        '"event_code":"x"}]}'
    )
    assert sent.url.raw_path == b"/gw/api/watch/subscribe"
    assert sent.headers["content-type"] == "application/json;charset=UTF-8"
    assert (
        datetime.fromtimestamp(
            int(sent.headers["x-signature-timestamp"]) / 1000, UTC
        ).year
        >= 2024
    )


def test_both_clients_have_the_same_methods_and_arguments():
    def shape(kind):
        return {
            name: [
                (each.name, each.kind, each.default)
                for each in inspect.signature(method).parameters.values()
            ]
            for name, method in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    sync, other = shape(WatchBusClient), shape(AsyncWatchBusClient)
    other["close"] = other.pop("aclose")
    assert sync == other
