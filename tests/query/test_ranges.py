"""Ranges: words, days, instants."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from ortege_watch.errors import QueryError
from ortege_watch.query import TimeDimension
from ortege_watch.query.values import (
    check_range,
    parse_moment,
    range_to_wire,
)

UNITS = ["second", "minute", "hour", "day", "week", "month", "quarter", "year"]
MAY_1 = date(2024, 5, 1)
MAY_2 = date(2024, 5, 2)
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
UTC_ZONE = ZoneInfo("UTC")
TOKYO = ZoneInfo("Asia/Tokyo")


@pytest.mark.parametrize(
    "words",
    [
        "today",
        "yesterday",
        "tomorrow",
        *(f"{which} {unit}" for which in ("this", "last", "next") for unit in UNITS),
        *(f"{which} 2 {unit}s" for which in ("last", "next") for unit in UNITS),
        "last 1 day",
        "last 1440 minutes",
        "from 7 days ago to now",
        "from now to 2 weeks from now",
        "from 2 days from now to 1 month from now",
        "from 2024-05-01 to now",
        "from 2024-05-01 to 2024-05-01",
        "from 90 seconds ago to 1 second ago",
    ],
)
def test_takes_the_words_that_every_server_reads_alike(words):
    assert check_range(words, "x") == words
    assert range_to_wire(words, TOKYO, "x") == words


def test_case_and_spaces_do_not_matter():
    assert check_range("  Last 7\t DAYS ", "x") == "last 7 days"


def test_a_day_in_words_is_that_day():
    assert check_range("2024-05-01", "x") == (MAY_1, MAY_1)


@pytest.mark.parametrize(
    "words",
    [
        "",
        "June 2024",
        "2024",
        "2024-05",
        "2024-05-01T10:00:00",
        "gibberish",
        "now",
        "this weekend",
        "last week or so",
        "this 2 days",
        "last -1 days",
        "last 07 days",
        "last ٣ days",
        "last two days",
        "last 7 fortnights",
        "7 days ago",
        "from last week to today",
        "from yesterday to now",
        "from 2024-05-01T10:00:00 to now",
        "from now",
        "last 7 days\n; drop",
        "monday",
    ],
)
def test_refuses_words_that_a_server_would_guess_at(words):
    with pytest.raises(QueryError, match=r'^seen: expected "today", .*, got '):
        check_range(words, "seen")


def test_refuses_days_that_do_not_exist():
    for words in ("2023-02-29", "from 2024-13-01 to now"):
        with pytest.raises(QueryError, match="is not a valid date"):
            check_range(words, "x")


def test_words_may_not_end_before_they_start():
    with pytest.raises(
        QueryError, match="ends before it starts: 2024-05-02 to 2024-05-01"
    ):
        check_range("from 2024-05-02 to 2024-05-01", "x")


@pytest.mark.parametrize(
    "words",
    [
        "from now to 2 hours ago",
        "from now to 1 second ago",
        "from now to 1 year ago",
        "from 1 hour ago to 2 hours ago",
        "from 1 days ago to 3 days ago",
        "from 13 days ago to 2 weeks ago",
        "from 20 months ago to 21 months ago",
        "from 11 months ago to 1 year ago",
        "from 1 day from now to now",
        "from 2 weeks from now to 13 days from now",
        "from 5 minutes ago to 2 days ago",
        "from 1 hour ago to 1 day ago",
        "from 27 days ago to 1 month ago",
        "from 32 days from now to 1 month from now",
        "from 1 month from now to 600 hours from now",
    ],
)
def test_words_relative_to_now_may_not_end_before_they_start(words):
    with pytest.raises(
        QueryError,
        match=f"^x: range ends before it starts: '{words}'; the earlier point is first$",
    ):
        check_range(f" {words.upper()}", "x")


@pytest.mark.parametrize(
    "words",
    [
        "from now to now",
        "from 2 hours ago to 120 minutes ago",
        "from 7 days ago to 1 week ago",
        "from 1 year ago to 12 months ago",
        "from 1 day ago to 24 hours ago",
        # It depends on the day, or on whether clocks have been set back.
        "from 23 hours ago to 1 day ago",
        "from 30 days ago to 1 month ago",
        "from 1 year ago to 366 days ago",
        "from 1 month from now to 29 days from now",
        "from 2124-05-01 to now",
        "from now to 2024-05-01",
    ],
)
def test_words_that_may_be_in_order_are_taken(words):
    assert check_range(words, "x") == words


def test_takes_a_day_and_pairs():
    assert check_range(MAY_1, "x") == (MAY_1, MAY_1)
    assert check_range((MAY_1, MAY_2), "x") == (MAY_1, MAY_2)
    assert check_range([MAY_1, NOON], "x") == (MAY_1, NOON)
    assert check_range((NOON, NOON), "x") == (NOON, NOON)


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (NOON, r"or a pair \(start, end\) .*, got datetime"),
        ((MAY_2, MAY_1), "ends before it starts"),
        ((NOON, NOON - timedelta(microseconds=1)), "ends before it starts"),
        (("yesterday", "today"), r'.over\("last 7 days"\)'),
        (("2024-05-01", "2024-05-02"), r"; use date\(2024, 5, 1\)$"),
        ((NOON, NOON.replace(tzinfo=None)), "naive"),
        ((MAY_1,), "or a pair .*, got"),
        ((MAY_1, MAY_1, MAY_2), "or a pair .*, got"),
        ((), "or a pair .*, got"),
        (None, "or a pair .*, got"),
        (7, "or a pair .*, got"),
    ],
)
def test_refuses_other_ranges(value, advice):
    with pytest.raises(QueryError, match=advice):
        check_range(value, "x")


@pytest.mark.parametrize(
    ("pair", "texts"),
    [
        ((MAY_1, MAY_2), ["2024-05-01", "2024-05-02"]),
        ((MAY_1, NOON), ["2024-05-01", "2024-05-01T21:00:00.000"]),
        ((NOON, MAY_1), ["2024-05-01T21:00:00.000", "2024-05-01"]),
        (
            (NOON + timedelta(microseconds=1), NOON + timedelta(microseconds=1)),
            ["2024-05-01T21:00:00.000", "2024-05-01T21:00:00.001"],
        ),
    ],
)
def test_spells_days_as_days_and_instants_as_wall_clock(pair, texts):
    assert range_to_wire(pair, TOKYO, "x") == texts


def test_a_range_to_be_left_out_is_rounded_inwards():
    start = NOON + timedelta(microseconds=1)
    pair = (start, start + timedelta(milliseconds=2))
    assert range_to_wire(pair, UTC_ZONE, "x", inward=True) == [
        "2024-05-01T12:00:00.001",
        "2024-05-01T12:00:00.002",
    ]


@pytest.mark.parametrize(
    "pair",
    [
        (datetime(2024, 5, 1, 15, tzinfo=UTC), MAY_1),
        (MAY_2, datetime(2024, 5, 1, 14, 59, tzinfo=UTC)),
    ],
)
def test_a_day_and_an_instant_are_compared_in_the_zone(pair):
    with pytest.raises(QueryError, match="ends before it starts: 2024-05-02"):
        range_to_wire(pair, TOKYO, "x")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-05-01", MAY_1),
        ("2024-05-01T12:00", datetime(2024, 5, 1, 12, tzinfo=TOKYO)),
        ("2024-05-01 12:00:00", datetime(2024, 5, 1, 12, tzinfo=TOKYO)),
        ("2024-05-01T12:00:00.5", datetime(2024, 5, 1, 12, 0, 0, 500000, TOKYO)),
        ("2024-05-01T12:00:00.123456", datetime(2024, 5, 1, 12, 0, 0, 123456, TOKYO)),
        ("2024-05-01T12:00:00.000Z", NOON),
        ("2024-05-01T14:00:00+02:00", NOON),
        ("2024-05-01T14:00:00+0200", NOON),
        ("2024-05-01T14:00:00+02", NOON),
    ],
)
def test_reads_moments(text, moment):
    read = parse_moment(text, TOKYO, "x")
    assert read == moment
    assert not isinstance(read, datetime) or read.tzinfo is UTC


def test_drops_an_offset_into_utc_as_servers_do():
    text = "2024-05-01T14:00:00+02:00"
    moment = datetime(2024, 5, 1, 12, tzinfo=TOKYO)
    assert parse_moment(text, TOKYO, "x", drop_offset=True) == moment


@pytest.mark.parametrize(
    "text", ["yesterday", "last 7 days", "", "2024", "1e3", 5, None]
)
def test_refuses_other_moments(text):
    with pytest.raises(QueryError, match=r"expected YYYY-MM-DD or .*, got"):
        parse_moment(text, TOKYO, "x")


@pytest.mark.parametrize(
    "text",
    [
        "2024-02-30",
        "0000-01-01",
        "2024-05-01T24:00:00",
        "2024-05-01T12:60",
        "0001-01-01T00:00:00+14:00",
        "0001-01-01T00:00:00",
    ],
)
def test_refuses_dates_that_do_not_exist(text):
    with pytest.raises(QueryError, match=r"not a valid date|outside the years"):
        parse_moment(text, TOKYO, "x")


def test_pairs_are_compared_as_instants():
    new_york = ZoneInfo("America/New_York")
    first = datetime(2024, 11, 3, 1, 50, tzinfo=new_york)
    second = datetime(2024, 11, 3, 1, 10, fold=1, tzinfo=new_york)
    assert check_range((first, second), "x") == (
        first.astimezone(UTC),
        second.astimezone(UTC),
    )


@pytest.mark.parametrize(
    ("microsecond", "sent"),
    [(999999, "999"), (999001, "999"), (999000, "999"), (998001, "999"), (1, "001")],
)
def test_the_end_of_a_second_does_not_reach_the_next_one(microsecond, sent):
    end = datetime(2024, 5, 1, 23, 59, 59, microsecond, tzinfo=UTC)
    expected = f"2024-05-01T23:59:59.{sent}"
    seen = TimeDimension("calls.seen")
    start = datetime.combine(end, time.min, tzinfo=UTC)
    assert seen.over((start, end)).to_wire(UTC)["dateRange"][1] == expected
    assert seen.in_range(start, end).to_wire(UTC)["values"][1] == expected
    assert seen.on_or_before(end).to_wire(UTC)["values"] == [expected]


def test_rows_before_an_instant_include_its_last_millisecond():
    moment = datetime(2024, 5, 1, 23, 59, 59, 999500, tzinfo=UTC)
    [sent] = TimeDimension("calls.seen").before(moment).to_wire(UTC)["values"]
    assert sent == "2024-05-02T00:00:00.000"


@pytest.mark.parametrize("words", ["last 0 days", "Next  00 weeks"])
def test_a_range_without_a_day_is_named_as_empty(words):
    message = f"{words!r} is empty: n must be at least 1"
    with pytest.raises(QueryError, match=message):
        TimeDimension("calls.seen").over(words)
