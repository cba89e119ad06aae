"""What both clients ask over REST, from a real server."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import anyio
import pytest
from harness.members import Calls, Events, Slow
from harness.tokens import jwt
from harness.waiting import wait_until

from ortege_watch import (
    ApiError,
    AsyncCubeClient,
    AuthenticationError,
    CubeClient,
    DeadlineExceeded,
    Measure,
    Query,
    QueryRejected,
    Retry,
    TransportError,
)

COUNT = Query(measures=[Calls.count])


def ask_sync(server, method, *args, token=None, options=None, **limits):
    client = CubeClient(server.url, token or server.token(), **(options or {}))
    with client:
        return getattr(client, method)(*args, **limits)


def ask_async(server, method, *args, token=None, options=None, **limits):
    async def ask():
        client = AsyncCubeClient(server.url, token or server.token(), **(options or {}))
        async with client:
            return await getattr(client, method)(*args, **limits)

    return anyio.run(ask)


@pytest.fixture(params=[ask_sync, ask_async], ids=["CubeClient", "AsyncCubeClient"])
def ask(request):
    return request.param


def test_is_ready(ask, cube):
    assert ask(cube, "ready") is True


def test_values_are_exact_and_typed(ask, cube):
    query = Query(
        measures=[
            Calls.asset_amount,
            Calls.avg_amount,
            Calls.count,
            Calls.max_block,
            Calls.senders,
        ],
        dimensions=[
            Calls.tx_hash,
            Calls.function_name,
            Calls.amount,
            Calls.block_height,
            Calls.success,
            Calls.tx_date,
        ],
        where=[Calls.tx_hash.eq("0x03")],
    )
    result = ask(cube, "load", query)
    [row] = result
    assert row[Calls.tx_hash] == "0x03"
    assert row[Calls.amount] == Decimal("9007199254740993.000000")
    assert row[Calls.asset_amount] == Decimal("9007199254740993.000000")
    assert row[Calls.avg_amount] == 9007199254740993
    assert (row[Calls.count], row[Calls.senders]) == (1, 1)
    assert row[Calls.block_height] == row[Calls.max_block] == 150020
    assert row[Calls.success] is True
    assert row[Calls.tx_date] == datetime(2024, 5, 1, 12, 30, 0, 123000, tzinfo=UTC)
    age = datetime.now(UTC) - result.refreshed_at
    assert timedelta() <= age < timedelta(minutes=1)


def test_null_is_none(ask, cube):
    query = Query(
        dimensions=[Calls.function_name, Calls.success, Calls.amount],
        where=[Calls.tx_hash.eq("0x0c")],
    )
    [row] = ask(cube, "load", query)
    assert [row.get(member) for member in query.dimensions] == [None, None, None]


def test_an_untyped_query_takes_the_server_s_types(ask, cube):
    name = "stacks_contract_calls"
    raw = {
        "dimensions": [f"{name}.amount", f"{name}.success", f"{name}.tx_date"],
        "filters": [
            {"dimension": f"{name}.tx_hash", "operator": "equals", "values": ["0x02"]}
        ],
    }
    [row] = ask(cube, "load_raw", raw)
    assert row.as_dict() == {
        f"{name}.amount": Decimal("42.125000"),
        f"{name}.success": True,
        f"{name}.tx_date": datetime(2024, 5, 1, tzinfo=UTC),
    }


def test_order_limit_and_offset(ask, cube, postgres):
    rows = postgres.rows(
        "SELECT id FROM stacks_contract_calls ORDER BY block_height DESC "
        "LIMIT 3 OFFSET 2"
    )
    query = Query(
        dimensions=[Calls.id, Calls.block_height],
        order=[Calls.block_height.desc()],
        limit=3,
        offset=2,
    )
    result = ask(cube, "load", query)
    assert [row[Calls.id] for row in result] == [int(value) for [value] in rows]
    assert result.truncated


def test_the_total_counts_what_the_limit_cuts_off(ask, cube, postgres):
    total = postgres.scalar("SELECT count(*) FROM stacks_contract_calls")
    for offset in (0, 2):
        query = Query(dimensions=[Calls.id], limit=3, offset=offset, total=True)
        result = ask(cube, "load", query)
        assert len(result) == 3
        assert result.total == int(total)


def test_no_total_where_none_was_asked_for(ask, cube):
    result = ask(cube, "load", COUNT)
    assert result.total is None
    assert not result.truncated


@pytest.mark.parametrize("response_format", ["default", "compact", "columnar"])
def test_every_form_of_rows_is_read_alike(ask, cube, generation, response_format):
    dimensions = [Calls.id, Calls.amount, Calls.success, Calls.tx_date]
    order = [Calls.id.asc()]
    plain = ask(cube, "load", Query(dimensions=dimensions, order=order))
    query = Query(dimensions=dimensions, order=order, response_format=response_format)
    if generation.classic and response_format == "columnar":
        # 0.35.81 does not know it.
        words = r"must be one of \[default, compact\]"
        with pytest.raises(QueryRejected, match=words):
            ask(cube, "load", query)
        return
    same = ask(cube, "load", query)
    assert len(plain) > 10
    assert list(same) == list(plain)
    assert bytes(plain.raw).startswith(b'{"members":')  # it was asked for


def test_ungrouped_rows(ask, cube, postgres):
    query = Query(dimensions=[Calls.id, Calls.contract_id], ungrouped=True)
    total = postgres.scalar("SELECT count(*) FROM stacks_contract_calls")
    assert len(ask(cube, "load", query)) == int(total)


def test_ungrouped_rows_without_the_primary_key(ask, cube, generation, postgres):
    query = Query(dimensions=[Calls.contract_id], ungrouped=True)
    if generation.classic:
        # 0.35.81 wants the primary key among the dimensions.
        with pytest.raises(QueryRejected, match="requires primary keys"):
            ask(cube, "load", query)
    else:
        total = postgres.scalar("SELECT count(*) FROM stacks_contract_calls")
        assert len(ask(cube, "load", query)) == int(total)


def test_join_hints(ask, cube, generation):
    query = Query(
        measures=[Calls.count],
        join_hints=[["stacks_contract_calls", "stacks_contract_calls"]],
    )
    if generation.classic:
        with pytest.raises(QueryRejected, match='"joinHints" is not allowed'):
            ask(cube, "load", query)
    else:
        [row] = ask(cube, "load", query)
        assert row[Calls.count] > 10


@pytest.mark.parametrize(
    "cache",
    ["stale-if-slow", "stale-while-revalidate", "must-revalidate", "no-cache"],
)
def test_every_cache_mode_is_taken(ask, cube, postgres, cache):
    [row] = ask(cube, "load", Query(measures=[Calls.count], cache=cache))
    total = postgres.scalar("SELECT count(*) FROM stacks_contract_calls")
    assert row[Calls.count] == int(total)


@pytest.mark.parametrize("cache", ["must-revalidate", "no-cache"])
def test_past_the_cache_is_what_was_just_inserted(
    ask, cube, generation, ledger, postgres, cache
):
    query = Query(
        measures=[Events.count],
        where=[Events.contract_id.eq(ledger.contract_id)],
        cache=cache,
    )
    [row] = ask(cube, "load", query)
    assert row[Events.count] == 0
    ledger.insert()
    # A server looks at the cube's refresh key once a second at most. After that second
    # the default cache mode returns the old rows once more.
    now = "SELECT extract(epoch FROM clock_timestamp())"
    later = float(postgres.scalar(now)) + 1.2
    wait_until(
        lambda: float(postgres.scalar(now)) > later, seconds=10, what="a second passes"
    )
    counts = [one[Events.count] for one in ask(cube, "load", query)]
    if cache == "must-revalidate" and not generation.classic:
        # 1.7.43 compares with the refresh key that it has, and renews that one in the
        # background: it returns the old rows once more, as the default mode does, unless
        # it has renewed the key by then.
        assert counts in ([0], [1])

        def renewed():
            [one] = ask(cube, "load", query)
            return one[Events.count] == 1

        wait_until(renewed, seconds=20, what="the refresh key is renewed")
    else:
        assert counts == [1]


def test_compares_date_ranges(ask, cube, postgres):
    days = [date(2024, 5, 1), date(2024, 5, 2)]
    selection = Calls.tx_date.compare([(day, day) for day in days])
    results = ask(cube, "compare", Query(measures=[Calls.count], time=[selection]))
    expected = [
        postgres.scalar(
            "SELECT count(*) FROM stacks_contract_calls "
            f"WHERE (tx_date AT TIME ZONE 'UTC')::date = '{day}'"
        )
        for day in days
    ]
    assert [row[Calls.count] for [row] in results] == [int(n) for n in expected]
    assert len(set(expected)) == 2


def test_blends_queries(ask, cube, postgres):
    selection = Calls.tx_date.by("month").over((date(2024, 5, 1), date(2024, 6, 30)))
    queries = [
        Query(measures=[Calls.count], time=[selection]),
        Query(measures=[Calls.max_block], time=[selection]),
    ]
    counts, blocks = ask(cube, "blend", *queries)
    rows = postgres.rows(
        "SELECT count(*), max(block_height) FROM stacks_contract_calls "
        "WHERE tx_date >= '2024-05-01Z' AND tx_date < '2024-07-01Z' "
        "GROUP BY date_trunc('month', tx_date AT TIME ZONE 'UTC') ORDER BY 2"
    )
    found = [
        [str(count[Calls.count]), str(block[Calls.max_block])]
        for count, block in zip(counts, blocks, strict=True)
    ]
    assert found == rows


def test_shows_the_sql_that_postgresql_runs(ask, cube, postgres):
    query = Query(measures=[Calls.count], where=[Calls.amount.gt(7)])
    sql = ask(cube, "sql", query)
    assert sql.params == ("7",)
    value = postgres.scalar(sql.statement.replace("$1", "7"))
    [row] = ask(cube, "load", query)
    assert int(value) == row[Calls.count]


def test_validates_without_running(ask, cube):
    query = Query(measures=[Calls.count], limit=3)
    answer = ask(cube, "dry_run", query)
    assert answer.query_type == "regularQuery"
    [normalised] = answer.queries
    assert normalised["measures"] == ["stacks_contract_calls.count"]
    assert normalised["limit"] == 3


def test_dry_run_of_a_comparison(ask, cube):
    days = [(date(2024, 5, 1), date(2024, 5, 1)), (date(2024, 5, 2), date(2024, 5, 2))]
    query = Query(measures=[Calls.count], time=[Calls.tx_date.compare(days)])
    answer = ask(cube, "dry_run", query)
    assert answer.query_type == "compareDateRangeQuery"
    assert len(answer.queries) == 2


def test_lists_the_cubes(ask, cube):
    meta = ask(cube, "meta")
    assert [each.name for each in meta.cubes] == [
        "stacks_contract_events",
        "stacks_contract_calls",
        "random_events",
        "slow_events",
        "stacks_dapp_zest_positions_net",
        "stacks_oracle_prices",
    ]
    calls = meta.cube("stacks_contract_calls")
    assert meta.member("stacks_contract_calls.asset_amount").agg_type == "sum"
    assert {member.name: member.type for member in calls.dimensions} == {
        "stacks_contract_calls.id": "number",
        "stacks_contract_calls.tx_hash": "string",
        "stacks_contract_calls.contract_id": "string",
        "stacks_contract_calls.function_name": "string",
        "stacks_contract_calls.sender_address": "string",
        "stacks_contract_calls.asset_id": "string",
        "stacks_contract_calls.amount": "number",
        "stacks_contract_calls.block_height": "number",
        "stacks_contract_calls.success": "boolean",
        "stacks_contract_calls.tx_date": "time",
        "stacks_contract_calls.settled_at": "time",
    }
    assert [segment.name for segment in calls.segments] == [
        "stacks_contract_calls.borrows"
    ]


def test_continue_wait_is_never_shown(ask, cube):
    # Its own limit, so that no other test's answer is in the cache.
    limit = 100 if ask is ask_sync else 101
    started = time.monotonic()
    [row] = ask(cube, "load", Query(measures=[Slow.count], limit=limit))
    assert row[Slow.count] == 1
    assert time.monotonic() - started > 1.5


def test_a_deadline_ends_the_waiting(ask, cube):
    limit = 102 if ask is ask_sync else 103
    query = Query(measures=[Slow.count], limit=limit)
    with pytest.raises(DeadlineExceeded):
        ask(cube, "load", query, deadline=1.2)


def test_a_bearer_prefix_is_stripped_and_functions_are_asked(ask, cube):
    asked = []

    def provider():
        asked.append(True)
        return f"Bearer {cube.token()}"

    assert len(ask(cube, "load", COUNT, token=provider)) == 1
    assert asked == [True]


def test_a_refused_token_is_asked_for_once_more(ask, cube):
    tokens = iter([cube.token(exp=1), cube.token()])
    assert len(ask(cube, "load", COUNT, token=lambda: next(tokens))) == 1


@pytest.mark.parametrize(
    "bad",
    ["nonsense", jwt("another secret"), pytest.param(None, id="expired")],
    ids=lambda value: "token" if value else "expired",
)
def test_a_bad_token_is_an_authentication_error(ask, cube, bad):
    token = bad or cube.token(exp=1)
    with pytest.raises(AuthenticationError, match="Invalid token") as refusal:
        ask(cube, "load", COUNT, token=token)
    assert refusal.value.status == 403
    assert token not in repr(refusal.value) + str(refusal.value)


@pytest.mark.parametrize("method", ["load", "sql", "dry_run"])
def test_the_server_s_sentence_is_shown(ask, cube, method):
    query = Query(measures=[Measure("nope.count")])
    with pytest.raises(QueryRejected) as refusal:
        ask(cube, method, query)
    assert refusal.value.message == "Cube 'nope' not found for path 'nope.count'"
    assert refusal.value.status == 400
    assert refusal.value.code == "UserError"
    assert refusal.value.query == query


def test_a_database_error_is_an_api_error(ask, cube):
    raw = {
        "measures": ["stacks_contract_calls.count"],
        "filters": [
            {
                "member": "stacks_contract_calls.amount",
                "operator": "gt",
                "values": ["abc"],
            }
        ],
    }
    with pytest.raises(ApiError, match="invalid input syntax for type numeric"):
        ask(cube, "load_raw", raw)


def test_no_server_is_a_transport_error(ask, cube):
    cube.kill()
    options = {"retry": Retry(attempts=1)}
    with pytest.raises(TransportError):
        ask(cube, "load", COUNT, options=options)
    assert ask(cube, "ready", options=options) is False
