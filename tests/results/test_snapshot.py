"""What is known of a result whose query was sent in Cube's JSON form."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from ortege_watch import DecodeError, Result, _json as codec

HOUR = "e.at.hour"
ANNOTATION = {"timeDimensions": {HOUR: {"type": "time"}}}


def first_hour(**query):
    body = {
        "data": [{HOUR: "2024-05-02T07:00:00.000"}],
        "annotation": ANNOTATION,
        "query": query,
    }
    return Result(codec.decode_body(codec.dumps(body).encode()).parts[0])[0][HOUR]


def test_times_are_of_the_zone_that_the_query_named():
    found = first_hour(timezone="Asia/Tokyo")
    assert found == datetime(2024, 5, 1, 22, tzinfo=UTC)
    assert found.tzinfo == ZoneInfo("Asia/Tokyo")


@pytest.mark.parametrize("query", [{}, {"timezone": ""}, {"timezone": "UTC"}])
def test_they_are_of_utc_where_it_named_none(query):
    assert first_hour(**query) == datetime(2024, 5, 2, 7, tzinfo=UTC)


def test_an_unknown_zone_is_a_decode_error():
    with pytest.raises(DecodeError, match="unknown time zone 'Mars/Olympus'; if it"):
        first_hour(timezone="Mars/Olympus")
