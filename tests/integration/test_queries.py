"""What servers make of queries, and that the library's queries mean what they say."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo

import httpx
import pytest
from harness.members import Calls, Events

from ortege_watch import (
    ApiError,
    CubeClient,
    Dimension,
    Measure,
    Query,
    QueryRejected,
    TimeDimension,
)

CUBE = "stacks_contract_calls"
QUOTED = 'SP9.naïve_"quote\'s"-100%'


@pytest.fixture
def client(cube):
    with CubeClient(cube.url, cube.token()) as client:
        yield client


def test_a_range_before_a_granularity_does_not_change_the_order(client):
    days = Calls.settled_at.by("day")
    query = Query(
        measures=[Calls.count],
        time=[Calls.tx_date.over((date(2024, 5, 1), date(2024, 12, 31))), days],
        order=[Calls.settled_at.desc()],
        limit=2,
    )
    found = [row[days].date() for row in client.load(query)]
    assert found == [date(2025, 1, 1), date(2024, 6, 16)]


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_a_time_by_the_second_is_in_the_zone_of_the_query(client, zone):
    exact = Calls.tx_date.by("second")
    where = [Calls.tx_hash.eq("0x03")]
    [row] = client.load(Query(time=[exact], where=where, timezone=zone))
    assert row[exact] == datetime(2024, 5, 1, 12, 30, tzinfo=UTC)
    assert row[exact].tzinfo == ZoneInfo(zone)
    [row] = client.load(Query(dimensions=[Calls.tx_date], where=where))
    assert row[Calls.tx_date] == datetime(2024, 5, 1, 12, 30, 0, 123000, tzinfo=UTC)


def test_a_day_that_ends_with_its_last_microsecond_excludes_midnight(client):
    # One row of the table is at midnight of May 2, one at the last millisecond before.
    day = date(2024, 5, 1)
    start = datetime.combine(day, time.min, tzinfo=UTC)
    end = datetime.combine(day, time.max, tzinfo=UTC)
    for query in (
        Query(dimensions=[Calls.tx_hash], time=[Calls.tx_date.over((start, end))]),
        Query(dimensions=[Calls.tx_hash], where=[Calls.tx_date.in_range(start, end)]),
    ):
        found = {row[Calls.tx_hash] for row in client.load(query)}
        assert found == {"0x02", "0x03", "0x04"}


def count(client, **wire):
    """Return what the server counts for a query in Cube's JSON."""
    query = Query.from_wire({"measures": [f"{CUBE}.count"], **wire})
    return client.load(query)[0][Calls.count]


def in_time(*ranges):
    return [{"dimension": f"{CUBE}.tx_date", "dateRange": each} for each in ranges]


def on(member, operator, *values):
    leaf = {"member": f"{CUBE}.{member}", "operator": operator, "values": list(values)}
    return {"filters": [leaf]}


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        (on("amount", "gt", 10.5), 5),
        (on("block_height", "gt", 150050.0), 7),
        ({"limit": 10.0, "offset": 0.0}, 13),
        ({"order": {f"{CUBE}.amount": "asc"}}, 13),
        ({"timeDimensions": in_time("from 1 quarter ago to now")}, 0),
        ({"timeDimensions": in_time(["2024-05", "2024-06"])}, 8),
        ({"timeDimensions": in_time("2024-05-01T12:30:00.123")}, 3),
        ({"timeDimensions": in_time(["2024-05-01T12:30:00.123"])}, 1),
        (
            {
                "timeDimensions": in_time(
                    ["2024-05-01", "2024-05-02"], ["2024-05-02", "2024-05-31"]
                )
            },
            2,
        ),
        ({"timezone": "", "timeDimensions": in_time("2024-05-01")}, 3),
    ],
    ids=str,
)
def test_a_foreign_query_means_what_it_means_to_the_server(client, wire, expected):
    assert count(client, **wire) == expected


@pytest.mark.parametrize(
    ("operator", "words", "expected"),
    [
        ("inDateRange", "last 7 days", 0),
        ("notInDateRange", "this year", 13),
        ("onTheDate", "this month", 0),
        ("beforeDate", "today", 13),
        ("beforeOrOnDate", "last month", 13),
        ("afterDate", "last 7 days", 0),
        ("afterOrOnDate", "from 2 days ago to now", 0),
    ],
)
def test_relative_words_in_a_filter_need_a_newer_server(
    client, generation, operator, words, expected
):
    wire = on("tx_date", operator, words)
    if generation.classic:
        with pytest.raises(ApiError, match="Invalid date"):
            count(client, **wire)
    else:
        assert count(client, **wire) == expected


def test_a_granularity_in_the_name_of_a_dimension(client):
    name = f"{CUBE}.tx_date.month"
    wire = {
        "measures": [f"{CUBE}.count"],
        "dimensions": [name],
        "order": {f"{CUBE}.tx_date": "desc"},
        "limit": 2,
    }
    for form in ("default", "compact"):
        rows = client.load(Query.from_wire({**wire, "responseFormat": form}))
        found = [row[Dimension(name, datetime)] for row in rows]
        assert found == [datetime(2025, month, 1, tzinfo=UTC) for month in (2, 1)]


def test_a_query_is_compared_with_the_members_of_the_server(client):
    meta = client.meta()
    good = Query(
        measures=[Calls.count],
        dimensions=[Calls.contract_id],
        time=[Calls.tx_date.by("day")],
        segments=[Calls.borrows],
    )
    assert good.validate(meta) == []
    bad = Query(
        measures=[Measure(f"{CUBE}.cuont"), Measure(f"{CUBE}.contract_id")],
        time=[
            Calls.tx_date.by("fiscal_year"),
            TimeDimension(f"{CUBE}.asset_id").by("day"),
        ],
    )
    problems = bad.validate(meta)
    assert len(problems) == 4
    assert f"'{CUBE}.count'" in problems[0]
    for problem in problems[1:]:
        assert problem.startswith(CUBE)


@pytest.mark.parametrize(
    ("where", "literally", "as_patterns"),
    [
        (Calls.contract_id.starts_with("SP2V_"), set(), {"SP2V.borrow-helper-v1-3"}),
        (Calls.contract_id.ends_with("00_"), set(), {QUOTED}),
        (Calls.contract_id.starts_with("%swap"), set(), {"SP1Y.arkadiko-swap"}),
        (Calls.contract_id.starts_with(r"SP9\.na"), set(), {QUOTED}),
        (Calls.contract_id.contains("00_"), set(), set()),
        (Calls.contract_id.contains(r"-\1"), set(), {QUOTED}),
        (
            Calls.contract_id.not_ends_with("_") & Calls.contract_id.starts_with("SP9"),
            {QUOTED},
            set(),
        ),
    ],
    ids=repr,
)
def test_older_servers_read_wildcards(
    client, generation, where, literally, as_patterns
):
    result = client.load(Query(dimensions=[Calls.contract_id], where=[where]))
    found = {row[Calls.contract_id] for row in result}
    assert found == (as_patterns if generation.classic else literally)


def test_a_number_that_a_count_cannot_hold_is_an_error_of_the_database(client):
    total = client.load(Query(measures=[Calls.count]))[0][Calls.count]
    for bound in (2**63 - 1, -(2**63)):
        client.load(Query(measures=[Calls.count], having=[Calls.count.gt(bound)]))
    with pytest.raises(QueryRejected, match="out of range for type bigint"):
        client.load(Query(measures=[Calls.count], having=[Calls.count.gt(2**63)]))
    some = Query(dimensions=[Calls.id], where=[Calls.amount.lt(2**63)])
    assert 0 < len(client.load(some)) < total


def test_filters_on_measures_need_groups(client):
    wire = {
        "dimensions": [Calls.id.name],
        "ungrouped": True,
        "filters": [{"member": Calls.count.name, "operator": "gt", "values": ["0"]}],
    }
    # JSON does not say that this is a measure.
    with pytest.raises(QueryRejected, match="Measure filters aren't allowed"):
        client.load(Query.from_wire(wire))


def test_the_hour_that_occurs_twice_is_one_group(client, ledger, postgres):
    for moment in ("2024-11-03 05:30Z", "2024-11-03 06:30Z"):
        [tx_hash] = ledger.insert()
        postgres.execute(
            f"UPDATE stacks_contract_events SET tx_date = '{moment}' "
            f"WHERE contract_id = '{ledger.contract_id}' AND tx_hash = '{tx_hash}'"
        )
    hours = Events.tx_date.by("hour")
    where = [Events.contract_id.eq(ledger.contract_id)]
    for zone, counts in (("America/New_York", [2]), ("UTC", [1, 1])):
        query = Query(measures=[Events.count], time=[hours], where=where, timezone=zone)
        result = client.load(query)
        assert [row[Events.count] for row in result] == counts
        first = result[0][hours].astimezone(UTC)
        assert first == datetime(2024, 11, 3, 5, tzinfo=UTC)


def ordered(client, column, **arguments):
    """Return whether the rows come in the order of a query's column."""
    query = Query(measures=[Calls.count], **arguments)
    found = [row[column] for row in client.load(query)]
    assert len(set(found)) > 2
    return found == sorted(found, reverse=query.order[0].direction == "desc")


@pytest.mark.parametrize("direction", ["asc", "desc"])
def test_rows_are_in_the_order_of_a_granularity(client, direction):
    month, day = Calls.tx_date.by("month"), Calls.tx_date.by("day")
    beside = [Calls.sender_address, Calls.contract_id]

    def order(selection):
        return [getattr(selection, direction)()]

    for times in ([month], [month, day], [month, Calls.settled_at.by("year")]):
        for dimensions in ([], beside):
            by_month = order(month)
            assert ordered(
                client, month, time=times, dimensions=dimensions, order=by_month
            )
    for dimensions in ([], beside):
        times = [day, month]
        assert ordered(client, day, time=times, dimensions=dimensions, order=order(day))
    exact = [*beside, Calls.tx_date]
    assert ordered(client, Calls.tx_date, dimensions=exact, order=order(Calls.tx_date))
    settled = Calls.settled_at.by("week")
    assert ordered(
        client, settled, time=[month, settled], dimensions=beside, order=order(settled)
    )


def in_order(cube, order, **wire):
    """Return the answer to an order in Cube's JSON."""
    query = {"measures": [f"{CUBE}.count"], "order": [[order, "asc"]], **wire}
    answer = httpx.post(
        f"{cube.url}/load",
        json={"query": query},
        headers={"Authorization": cube.token()},
        trust_env=False,
    )
    return answer.json()


def test_why_some_orders_are_refused(cube, generation):
    # A granularity in the name.
    named = f"{CUBE}.tx_date.month"
    dimensions = [f"{CUBE}.contract_id", named]
    answer = in_order(cube, named, dimensions=dimensions)
    if generation.classic:
        assert "fails to match the required pattern" in answer["error"]
    else:
        found = [row[named] for row in answer["data"]]
        assert found != sorted(found)
    # An exact time beside its granularity.
    exact = f"{CUBE}.tx_date"
    time = [{"dimension": exact, "granularity": "year"}]
    answer = in_order(cube, exact, dimensions=[exact], timeDimensions=time)
    found = [row[exact] for row in answer["data"]]
    assert (found == sorted(found)) == generation.classic
