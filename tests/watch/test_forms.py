"""The form in which rows are asked for, and that it changes no result."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, date, datetime
from decimal import Decimal

import attrs
import pytest

from ortege_watch import (
    AsyncCubeClient,
    CubeClient,
    Dimension,
    Measure,
    Query,
    QueryRejected,
    Reconnect,
    TimeDimension,
)
from ortege_watch.testing import FakeCube, Table

pytestmark = pytest.mark.anyio

SERVERS = [
    *(("strict", True), ("strict", False)),
    *(("classic", True), ("classic", False)),
]
OLD_FORMS = ("default", "compact")
NOW = 1795326430.0
FIRST, THIRD = date(2024, 5, 1), date(2024, 5, 3)


class Trades:
    count = Measure("trades.count", int)
    volume = Measure("trades.volume", Decimal)
    asset = Dimension("trades.asset", str)
    settled = Dimension("trades.settled", bool)
    at = TimeDimension("trades.at")


ROWS = [
    {"asset": "STX", "settled": True, "volume": Decimal("9007199254740993.000001")},
    {"asset": "BTC", "settled": False, "volume": None, "at": "2024-05-01T22:30:00Z"},
    {"asset": None, "settled": None, "volume": 7, "at": "2024-05-02T23:30:00Z"},
]
DAILY = Query(
    measures=[Trades.count, Trades.volume],
    dimensions=[Trades.asset, Trades.settled],
    time=[Trades.at.by("day")],
    order=[Trades.volume.asc()],
    limit=2,
    total=True,
)
NONE_FOUND = Query(
    measures=[Trades.volume],
    dimensions=[Trades.asset],
    where=[Trades.asset.eq("none")],
)


def trades(generation: str, **options) -> FakeCube:
    kinds = {"asset": "string", "settled": "boolean", "at": "time"}
    measures = {"count": "count", "volume": "sum"}
    table = Table("trades", measures=measures, dimensions=kinds, rows=ROWS)
    return FakeCube(generation, tables=[table], now=lambda: NOW, tick=0.05, **options)


def in_form(query: Query, form: str | None) -> Query:
    return attrs.evolve(query, response_format=form)


def seen(result) -> object:
    """Return everything that a caller can see of a result, but ``raw``."""
    rows = [{name: row[name] for name in sorted(row)} for row in result]
    typed = [[row.get(member) for member in result.query.members] for row in result]
    more = (result.truncated, result.total, result.refreshed_at, result.annotation)
    return rows, typed, more, len(result)


def forms_over_http(cube: FakeCube) -> list[str | None]:
    bodies = [
        json.loads(request.content) for request in cube.requests if request.content
    ]
    return [body["query"].get("responseFormat") for body in bodies]


def forms_over_websocket(cube: FakeCube) -> list[str | None]:
    return [
        frame["params"]["query"].get("responseFormat")
        for frame in cube.frames
        if "method" in frame
    ]


# ------------------------------------------------------------- the results are alike


@pytest.mark.parametrize("query", [DAILY, NONE_FOUND])
@pytest.mark.parametrize(("generation", "compact"), SERVERS)
def test_load_returns_the_same_from_every_form(generation, compact, query):
    with (
        trades(generation, compact=compact) as cube,
        trades(generation) as known,
        CubeClient(cube.url, cube.token()) as client,
        CubeClient(known.url, known.token()) as other,
    ):
        result = client.load(query)
        columnar = ("columnar",) if generation == "strict" else ()
        loaded = [other.load(in_form(query, f)) for f in (*OLD_FORMS, *columnar)]
        now = result.refreshed_at
    assert now == datetime.fromtimestamp(NOW, UTC)
    assert all(seen(one) == seen(result) for one in loaded)
    assert bytes(result.raw)[:1] == (b"{" if compact else b"[")
    if query is DAILY:
        assert (result.truncated, result.total, len(result)) == (True, 3, 2)
        assert {row.get(Trades.asset) for row in result} == {None, "STX"}


async def differences(cube: FakeCube, query: Query, **options) -> list[object]:
    """Return what a caller sees of a subscription while rows come, change and go."""
    table, said = cube.tables["trades"], []
    async with (
        AsyncCubeClient(cube.url, cube.token()) as client,
        client.watch(query, poll_every=0.05, **options) as updates,
    ):
        for change in (
            lambda: None,
            lambda: table.insert(
                {"asset": "ETH", "settled": None, "volume": None, "at": "2024-05-03"}
            ),
            lambda: table.insert({"asset": None, "volume": 5, "at": "2024-05-02"}),
            lambda: table.delete({"asset": "BTC"}),
        ):
            change()
            async with asyncio.timeout(10):
                update = await anext(updates)
            said.append(
                [
                    *(list(map(dict, update.added)), list(map(dict, update.removed))),
                    [(dict(row), dict(row.before)) for row in update.changed],
                    *(update.first, update.resumed, update.stale, update.truncated),
                    *(seen(update.result)[:2], update.result.total),
                ]
            )
    return said


@pytest.mark.parametrize("transport", ["websocket", "rest"])
@pytest.mark.parametrize(("generation", "compact"), SERVERS)
async def test_updates_are_the_same_from_every_form(generation, compact, transport):
    query = attrs.evolve(DAILY, limit=10)
    with trades(generation, compact=compact) as cube:
        said = await differences(cube, query, transport=transport)
    for form in OLD_FORMS:
        with trades(generation) as cube:
            named = in_form(query, form)
            assert await differences(cube, named, transport=transport) == said


def test_blended_and_compared_rows_stay_in_the_default_form():
    with trades("strict") as cube, CubeClient(cube.url, cube.token()) as client:
        time = Trades.at.by("day").over((FIRST, THIRD))
        one = Query(measures=[Trades.count], time=[time])
        two = Query(measures=[Trades.volume], time=[time])
        counts, _ = client.blend(one, two)
        days = [(FIRST, FIRST), (THIRD, THIRD)]
        both = Query(measures=[Trades.count], time=[Trades.at.compare(days)])
        assert [row[Trades.count] for row in counts if row[Trades.count]] == [1, 1]
        assert len(client.compare(both)) == 2
        assert b"responseFormat" not in b"".join(r.content for r in cube.requests)


# ------------------------------------------------------------------- what is asked


def test_a_server_is_asked_for_compact_rows():
    with trades("classic") as cube, CubeClient(cube.url, cube.token()) as client:
        client.load(DAILY)
        with client.watch(DAILY) as updates:
            next(updates)
            assert [each["responseFormat"] for each in cube.subscriptions] == [
                "compact"
            ]
        assert forms_over_http(cube) == ["compact"]


@pytest.mark.parametrize("generation", ["strict", "classic"])
def test_what_a_server_refused_is_not_asked_of_it_again(generation, caplog):
    with (
        trades(generation, compact=False) as cube,
        CubeClient(cube.url, cube.token()) as client,
    ):
        with client.watch(DAILY, NONE_FOUND) as updates:
            assert {next(updates).query, next(updates).query} == {DAILY, NONE_FOUND}
        assert forms_over_websocket(cube) == ["compact", "compact", None, None]
        with client.watch(DAILY) as updates:
            next(updates)
        with client.watch(DAILY, transport="rest") as updates:
            next(updates)
        client.load(DAILY)
        assert forms_over_websocket(cube)[4:] == [None]
        assert set(forms_over_http(cube)) == {None}
        said = [line for line in caplog.messages if "responseFormat" in line]
        assert said[0].startswith(f"127.0.0.1:{cube.port}: the server does not know")
        assert [
            each.levelname for each in caplog.records if each.message == said[0]
        ] == ["INFO"]


def test_what_was_refused_over_rest_is_not_asked_of_it_over_a_websocket():
    with (
        trades("classic", compact=False) as cube,
        CubeClient(cube.url, cube.token()) as client,
    ):
        client.load(DAILY)
        client.load(DAILY)
        with client.watch(DAILY) as updates:
            next(updates)
        assert forms_over_http(cube) == ["compact", None, None]
        assert forms_over_websocket(cube) == [None]


def test_an_older_server_takes_over():
    query = attrs.evolve(DAILY, limit=10)
    with (
        trades("strict") as first,
        CubeClient(first.url, first.token()) as client,
        client.watch(query, reconnect=Reconnect(base=0.01)) as updates,
    ):
        assert len(next(updates).added) == 3
        first.down()
        with trades("classic", compact=False, port=first.port) as second:
            second.wait_until(lambda: forms_over_websocket(second) == ["compact", None])
            second.tables["trades"].insert({"asset": "ETH", "volume": 1})
            update = updates.next(timeout=10)
    assert [row[Trades.asset] for row in update.added] == ["ETH"]
    assert (update.changed, update.removed) == ((), ())


@pytest.mark.parametrize("transport", ["websocket", "rest"])
def test_the_form_of_the_caller_is_refused_to_the_caller(transport):
    query = in_form(DAILY, "compact")
    with (
        trades("strict", compact=False) as cube,
        CubeClient(cube.url, cube.token()) as client,
        pytest.raises(QueryRejected, match='"responseFormat" is not allowed'),
        client.watch(query, transport=transport) as updates,
    ):
        next(updates)
    with (
        trades("strict", compact=False) as cube,
        CubeClient(cube.url, cube.token()) as client,
        pytest.raises(QueryRejected, match='"responseFormat" is not allowed'),
    ):
        client.load(query)


def test_the_tutorials_dialect_has_no_forms():
    with trades("tutorial") as cube, CubeClient(cube.url, cube.token()) as client:
        with client.watch(DAILY, dialect="ortege") as updates:
            assert len(next(updates).result) == 2
        assert ["responseFormat" in frame["query"] for frame in cube.frames] == [False]
