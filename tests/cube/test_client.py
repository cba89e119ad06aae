from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from datetime import UTC, date, datetime
from decimal import Decimal

import httpx
import pytest

from ortege_watch import Reconnect, Retry
from ortege_watch.cube.client import AsyncCubeClient, CubeClient
from ortege_watch.errors import (
    ApiError,
    AuthenticationError,
    DeadlineExceeded,
    DecodeError,
    InvalidArgument,
    OrtegeWatchError,
    QueryRejected,
    RateLimited,
    TransportError,
)
from ortege_watch.query import Dimension, Measure, Query, TimeDimension
from ortege_watch.testing import FakeCube, Table

count = Measure("stacks_contract_events.count", int)
amount = Measure("stacks_contract_events.asset_amount", Decimal)
sender = Dimension("stacks_contract_events.sender_address", str)
at = TimeDimension("stacks_contract_events.tx_date")
QUERY = Query(measures=[amount], dimensions=[sender], order=[sender.asc()])
MAY = (date(2024, 5, 1), date(2024, 5, 31))
JUNE = (date(2024, 6, 1), date(2024, 6, 30))


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

    def __init__(self, *, sync, cube):
        self.sync = sync
        self.cube = cube
        self.clock = Clock() if sync else AsyncClock()

    def open(self, **settings):
        settings = {
            "url": self.cube.url,
            "token": self.cube.token(),
            "clock": self.clock,
        } | settings
        self.client = (CubeClient if self.sync else AsyncCubeClient)(**settings)
        return self

    async def __call__(self, name, *args, **limits):
        method = getattr(self.client, name)
        if self.sync:
            return await asyncio.to_thread(method, *args, **limits)
        return await method(*args, **limits)

    async def close(self):
        await self("close" if self.sync else "aclose")


@pytest.fixture(params=["strict", "classic"])
def cube(request):
    events = Table(
        "stacks_contract_events",
        measures={"asset_amount": "sum", "count": "count"},
        dimensions={"sender_address": "string", "tx_date": "time"},
    )
    with FakeCube(request.param, tables=[events]) as cube:
        events.insert(
            [
                {
                    "sender_address": f"SP{number}",
                    "asset_amount": Decimal("1000.500000") * number,
                    "tx_date": datetime(2024, 4 + number, 7, tzinfo=UTC),
                }
                for number in (1, 2)
            ]
        )
        yield cube


@pytest.fixture(params=[True, False], ids=["sync", "async"])
async def ask(request, cube):
    asker = Asker(sync=request.param, cube=cube).open()
    yield asker
    await asker.close()


# ------------------------------------------------------------ against either generation


async def test_load(ask):
    result = await ask("load", QUERY)
    assert [row[sender] for row in result] == ["SP1", "SP2"]
    assert [row[amount] for row in result] == [Decimal("1000.5"), Decimal(2001)]
    assert result.refreshed_at is not None


async def test_load_raw(ask):
    result = await ask("load_raw", QUERY.to_wire())
    assert result[0]["stacks_contract_events.sender_address"] == "SP1"


async def test_compare(ask):
    query = Query(measures=[count], time=[at.by("month").compare([MAY, JUNE])])
    may, june = await ask("compare", query)
    assert [row[count] for row in may] == [1]
    assert [row[count] for row in june] == [1]


async def test_blend(ask):
    monthly = Query(measures=[count], time=[at.by("month").over((MAY[0], JUNE[1]))])
    others = Query(
        measures=[Measure("stacks_oracle_prices.price", Decimal)],
        time=[TimeDimension("stacks_oracle_prices.tx_date").by("month")],
    )
    events, prices = await ask("blend", monthly, others)
    assert [row[count] for row in events] == [1, 1]
    assert len(prices) == 0


async def test_sql_and_dry_run(ask):
    sql = await ask("sql", QUERY)
    assert "select" in sql.statement.lower()
    run = await ask("dry_run", QUERY)
    assert run.query_type == "regularQuery"
    assert run.queries[0]["measures"] == ["stacks_contract_events.asset_amount"]


async def test_meta(ask):
    meta = await ask("meta")
    assert meta.member("stacks_contract_events.tx_date").type == "time"
    assert "stacks_oracle_prices" in meta


async def test_past_the_cache(ask, cube):
    query = Query(measures=[count], cache="no-cache")
    for _ in range(3):
        assert [row[count] for row in await ask("load", query)] == [2]
    assert len(cube.requests) == (4 if cube.generation == "strict" else 3)


async def test_a_refused_query_names_itself(ask, cube):
    with pytest.raises(QueryRejected) as caught:
        await ask("load", Query(measures=[Measure("nope.count", int)]))
    assert caught.value.query is not None
    assert caught.value.request_id.endswith("-span-1")
    assert len(cube.requests) == 1


async def test_ready(ask, cube):
    assert await ask("ready") is True
    assert "authorization" not in cube.requests[-1].headers
    cube.down()
    assert await ask("ready") is False


# ------------------------------------------------------------------------- what passes


async def test_continue_wait_is_never_shown(ask, cube):
    cube.continue_wait(3)
    assert len(await ask("load", QUERY)) == 2
    assert len(cube.requests) == 4
    assert ask.clock.slept == []
    ids = [each.headers["x-request-id"] for each in cube.requests]
    assert [each.rpartition("-")[2] for each in ids] == ["1", "2", "3", "4"]
    assert len({each.split("-span-")[0] for each in ids}) == 1


async def test_a_connection_cut_within_an_answer_is_retried(ask, cube):
    cube.cut(2)
    assert len(await ask("load", QUERY)) == 2
    assert len(cube.requests) == 3
    first, second = ask.clock.slept
    assert 0.25 <= first <= 0.5 <= second <= 1.0


async def test_a_proxys_page_is_retried_and_at_last_shown(ask, cube):
    cube.refuse(502)
    with pytest.raises(ApiError, match="not a Cube server's response: '<") as caught:
        await ask("load", QUERY)
    assert caught.value.status == 502
    assert len(cube.requests) == 4


async def test_retry_after_is_kept_to(ask, cube):
    cube.error(429, "slow down", headers={"Retry-After": "7"}, times=2)
    assert len(await ask("load", QUERY)) == 2
    assert ask.clock.slept == [7.0, 7.0]


async def test_too_many_requests(ask, cube):
    cube.error(429, "slow down", headers={"Retry-After": "7"}, times=None)
    with pytest.raises(RateLimited) as caught:
        await ask("load", QUERY)
    assert caught.value.retry_after == 7


async def test_the_deadline_of_one_call(ask, cube):
    cube.error(503, headers={"Retry-After": "7"}, times=None)
    with pytest.raises(
        DeadlineExceeded, match=r"5 s leaves no time for a retry: .*503"
    ):
        await ask("load", QUERY, deadline=5)
    assert len(cube.requests) == 1


async def test_the_timeout_of_one_call(ask, cube):
    ask.open(retry=Retry(attempts=1))
    cube.silence()
    with pytest.raises(TransportError, match=r"silent for 0\.05 s"):
        await ask("load", QUERY, timeout=0.05)
    await ask.close()


@pytest.mark.parametrize("body", [b"", b"<html>login</html>", b'{"results":['])
async def test_an_unreadable_answer(ask, cube, body):
    cube.error(200, body)
    with pytest.raises(DecodeError):
        await ask("load", QUERY)


async def test_a_server_that_is_gone(ask, cube):
    cube.down()
    with pytest.raises(TransportError, match=r"127\.0\.0\.1"):
        await ask("load", QUERY)
    assert len(ask.clock.slept) == 3


# -------------------------------------------------------------------------- the token


async def test_a_provider_is_asked_again_when_its_token_is_refused(ask, cube):
    tokens = iter(["stale", cube.token()])
    ask.open(token=lambda: next(tokens))
    assert len(await ask("load", QUERY)) == 2
    await ask.close()


async def test_a_refused_token(ask, cube):
    ask.open(token="Bearer wrong")
    with pytest.raises(AuthenticationError, match="Invalid token"):
        await ask("load", QUERY)
    assert len(cube.requests) == 1
    await ask.close()


async def test_an_async_provider(cube):
    async def provider():
        return cube.token()

    async with AsyncCubeClient(cube.url, provider) as client:
        assert len(await client.load(QUERY)) == 2
    with (
        CubeClient(cube.url, provider) as client,
        pytest.raises(OrtegeWatchError, match="or AsyncCubeClient"),
    ):
        client.load(QUERY)


async def test_no_text_holds_the_token(ask, cube, caplog):
    token = cube.token()
    caplog.set_level(logging.DEBUG)
    await ask("load", QUERY)
    cube.error(500, f"Authorization: Bearer {token}")
    with pytest.raises(ApiError) as caught:
        await ask("load", QUERY)
    for text in (str(caught.value), repr(caught.value), repr(ask.client), caplog.text):
        assert token not in text


# ------------------------------------------------------------------------ the settings


@pytest.fixture(params=[CubeClient, AsyncCubeClient])
def kind(request):
    return request.param


def test_the_environment_has_the_defaults(kind, monkeypatch):
    monkeypatch.setenv("ORTEGE_URL", "https://cube.example.com")
    monkeypatch.setenv("ORTEGE_TOKEN", "Bearer secret")
    assert repr(kind()) == f"{kind.__name__}('https://cube.example.com/cubejs-api/v1')"


@pytest.mark.parametrize("url", [None, ""])
def test_a_missing_url_is_asked_for(kind, url):
    with pytest.raises(InvalidArgument, match="ORTEGE_URL"):
        kind(url, "token")


@pytest.mark.parametrize("token", [None, ""])
def test_a_missing_token_is_asked_for(kind, token):
    with pytest.raises(InvalidArgument, match="ORTEGE_TOKEN"):
        kind("https://cube.example.com", token)


@pytest.mark.parametrize("settings", [{"timeout": 0}, {"deadline": -1}])
def test_limits_are_checked_at_once(kind, settings):
    with pytest.raises(
        InvalidArgument, match="greater than 0 and at most a million seconds"
    ):
        kind("https://cube.example.com", "token", **settings)


@pytest.mark.parametrize("transport", ["rest", "websocket"])
def test_a_server_that_is_down_has_one_wording(transport):
    with FakeCube() as cube:
        address, token = cube.url.split("/")[2], cube.token()
    client = CubeClient(f"http://{address}", token, retry=Retry(attempts=1))
    problem = f"^{address}: cannot connect: "
    with pytest.raises(TransportError, match=problem):
        client.load(QUERY)
    reconnect = Reconnect(attempts=1)
    with (
        client.watch(QUERY, transport=transport, reconnect=reconnect) as updates,
        pytest.raises(TransportError, match=problem),
    ):
        next(updates)
    client.close()


async def test_an_unknown_argument_is_a_type_error(ask):
    with pytest.raises(
        TypeError, match="unexpected argument 'dedline': did you mean 'deadline'"
    ):
        await ask("load", QUERY, dedline=5)


async def test_no_deadline(ask, cube):
    cube.continue_wait(30)
    assert len(await ask("load", QUERY, deadline=None)) == 2


async def test_a_client_of_the_users_is_used_and_left_open(ask, cube):
    http = (httpx.Client if ask.sync else httpx.AsyncClient)(headers={"x-mine": "1"})
    ask.open(http=http)
    await ask("load", QUERY)
    await ask.close()
    assert cube.requests[-1].headers["x-mine"] == "1"
    assert not http.is_closed
    if ask.sync:
        http.close()
    else:
        await http.aclose()


async def test_a_closed_client_says_so(ask):
    await ask("load", QUERY)
    await ask.close()
    for method, *arguments in (
        ("load", QUERY),
        ("meta",),
        ("ready",),
        ("watch", QUERY),
    ):
        with pytest.raises(OrtegeWatchError, match="is closed; create a new") as caught:
            await ask(method, *arguments)
        assert type(caught.value) is OrtegeWatchError


def test_leaving_the_block_closes_every_connection(cube):
    with CubeClient(cube.url, cube.token()) as client:
        client.load(QUERY)
        assert cube.sockets == 1
    cube.wait_until(lambda: cube.sockets == 0)


async def test_leaving_the_async_block_closes_every_connection(cube):
    async with AsyncCubeClient(cube.url, cube.token()) as client:
        await asyncio.gather(*[client.load(QUERY) for _ in range(3)])
        assert cube.sockets == 3
    await cube.wait_until_async(lambda: cube.sockets == 0)


def test_threads_may_share_a_client(cube):
    lengths = []
    with CubeClient(cube.url, cube.token()) as client:
        threads = [
            threading.Thread(target=lambda: lengths.append(len(client.load(QUERY))))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert lengths == [2] * 8


# ------------------------------------------------------------------------------- parity


def public(kind):
    return {
        name: member
        for name, member in vars(kind).items()
        if not name.startswith("_") and inspect.isfunction(member)
    }


def test_both_clients_have_the_same_methods_and_arguments():
    ours, theirs = public(CubeClient), public(AsyncCubeClient)
    assert {name.removeprefix("a") for name in theirs} == set(ours)
    for name in ours.keys() & theirs.keys() - {"watch"}:
        assert inspect.signature(ours[name]) == inspect.signature(theirs[name])
        assert inspect.iscoroutinefunction(theirs[name])
        assert ours[name].__doc__ == theirs[name].__doc__
    init = [
        inspect.signature(kind).parameters for kind in (CubeClient, AsyncCubeClient)
    ]
    assert list(init[0]) == list(init[1])
    assert [each.default for each in init[0].values()] == [
        each.default for each in init[1].values()
    ]


@pytest.mark.parametrize("kind", [CubeClient, AsyncCubeClient])
def test_an_unknown_option_is_refused(kind):
    with pytest.raises(
        TypeError, match="unexpected argument 'time_out': did you mean 'timeout'"
    ):
        kind("https://cube.example", "token", time_out=5)
    with pytest.raises(
        TypeError,
        match=r"unexpected argument 'verify': expected one of .*'ssl'.*'http', 'clock'",
    ):
        kind("https://cube.example", "token", verify=False)
