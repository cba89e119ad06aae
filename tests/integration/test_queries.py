"""What servers make of queries, and that the library's queries mean what they say."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo

import pytest
from harness.members import Calls

from ortege_watch import CubeClient, Query


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
