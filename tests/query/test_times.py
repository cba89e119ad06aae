"""Time dimensions: filters on time, and selections."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from ortege_watch.errors import QueryError
from ortege_watch.query import Dimension, Query, TimeDimension, TimeSelection

NAIVE = datetime(2024, 5, 1)  # noqa: DTZ001
TOKYO = ZoneInfo("Asia/Tokyo")
UTC_ZONE = ZoneInfo("UTC")
seen = TimeDimension("calls.seen")
DAY = date(2024, 5, 1)
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
FINE = NOON + timedelta(microseconds=500)


@pytest.mark.parametrize(
    ("condition", "operator", "values"),
    [
        (
            seen.in_range(DAY, date(2024, 5, 2)),
            "inDateRange",
            ["2024-05-01", "2024-05-02"],
        ),
        (seen.in_range(DAY, DAY), "inDateRange", ["2024-05-01", "2024-05-01"]),
        (
            seen.in_range(FINE, FINE),
            "inDateRange",
            ["2024-05-01T21:00:00.000", "2024-05-01T21:00:00.001"],
        ),
        (seen.not_in_range(DAY, DAY), "notInDateRange", ["2024-05-01", "2024-05-01"]),
        (
            seen.not_in_range(FINE, FINE + timedelta(seconds=1)),
            "notInDateRange",
            ["2024-05-01T21:00:00.001", "2024-05-01T21:00:01.000"],
        ),
        (seen.on(DAY), "onTheDate", ["2024-05-01", "2024-05-01"]),
        (seen.before(DAY), "beforeDate", ["2024-05-01"]),
        (seen.before(NOON), "beforeDate", ["2024-05-01T21:00:00.000"]),
        (seen.before(FINE), "beforeDate", ["2024-05-01T21:00:00.001"]),
        (seen.on_or_before(DAY), "beforeOrOnDate", ["2024-05-01T23:59:59.999"]),
        (seen.on_or_before(FINE), "beforeOrOnDate", ["2024-05-01T21:00:00.001"]),
        (seen.after(DAY), "afterDate", ["2024-05-01T23:59:59.999"]),
        (seen.after(FINE), "afterDate", ["2024-05-01T21:00:00.000"]),
        (seen.on_or_after(DAY), "afterOrOnDate", ["2024-05-01"]),
        (seen.on_or_after(FINE), "afterOrOnDate", ["2024-05-01T21:00:00.000"]),
        (seen.is_set(), "set", None),
    ],
)
def test_each_method_makes_its_operator(condition, operator, values):
    wire = {"member": "calls.seen", "operator": operator}
    if values is not None:
        wire["values"] = values
    assert condition.to_wire(TOKYO) == wire


# What the older planner of Cube makes of the four, for a lone value: it compares with
# the very instant, and takes a day for its first one.
PLANNER = {
    "beforeDate": lambda row, value: row < value,
    "beforeOrOnDate": lambda row, value: row <= value,
    "afterDate": lambda row, value: row > value,
    "afterOrOnDate": lambda row, value: row >= value,
}


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        (seen.before(DAY), {"day before"}),
        (seen.on_or_before(DAY), {"day before", "start", "end"}),
        (seen.after(DAY), {"day after"}),
        (seen.on_or_after(DAY), {"start", "end", "day after"}),
    ],
)
def test_a_day_is_the_whole_day_to_the_older_planner(condition, kept):
    rows = {
        "day before": "2024-04-30T23:59:59.999",
        "start": "2024-05-01T00:00:00.000",
        "end": "2024-05-01T23:59:59.999",
        "day after": "2024-05-02T00:00:00.000",
    }
    wire = condition.to_wire(UTC_ZONE)
    [text] = wire["values"]
    value = datetime.fromisoformat(text)
    compare = PLANNER[wire["operator"]]
    found = {
        n for n, row in rows.items() if compare(datetime.fromisoformat(row), value)
    }
    assert found == kept


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (
            lambda: seen.in_range("2024-05-01", DAY),
            r"expected a date or .*, got '2024-05-01'; use date\(2024, 5, 1\)$",
        ),
        (lambda: seen.in_range(DAY, date(2024, 4, 30)), "ends before it starts"),
        (
            lambda: seen.on(NOON),
            r"takes a date, got a datetime; use .in_range\(start, end\)",
        ),
        (lambda: seen.on("today"), r'.over\("last 7 days"\)'),
        (lambda: seen.before(NAIVE), "naive"),
        (lambda: seen.after(None), "or an aware datetime, got None$"),
        (lambda: seen.after("2024-05-01T10:00"), "got '2024-05-01T10:00'$"),
    ],
)
def test_refuses_other_moments_with_advice(make, advice):
    with pytest.raises(QueryError, match=advice):
        make()


def test_a_range_within_a_millisecond_cannot_be_left_out():
    with pytest.raises(QueryError, match="ends before it starts"):
        seen.not_in_range(FINE, FINE).to_wire(UTC_ZONE)


@pytest.mark.parametrize(
    ("selection", "name", "wire"),
    [
        (seen.by("day"), "calls.seen.day", {"granularity": "day"}),
        (
            seen.by("fiscal_year"),
            "calls.seen.fiscal_year",
            {"granularity": "fiscal_year"},
        ),
        (seen.over("Last 7 days"), "calls.seen", {"dateRange": "last 7 days"}),
        (seen.over(DAY), "calls.seen", {"dateRange": ["2024-05-01", "2024-05-01"]}),
        (
            seen.by("day").over((DAY, NOON)),
            "calls.seen.day",
            {
                "granularity": "day",
                "dateRange": ["2024-05-01", "2024-05-01T21:00:00.000"],
            },
        ),
        (
            seen.over("today").by("hour"),
            "calls.seen.hour",
            {"granularity": "hour", "dateRange": "today"},
        ),
        (
            seen.compare(["this month", (DAY, DAY)]).by("day"),
            "calls.seen.day",
            {
                "granularity": "day",
                "compareDateRange": ["this month", ["2024-05-01", "2024-05-01"]],
            },
        ),
        (TimeSelection(seen), "calls.seen", {}),
    ],
)
def test_makes_selections(selection, name, wire):
    assert selection.name == name
    assert selection.type is datetime
    assert selection.to_wire(TOKYO) == {"dimension": "calls.seen", **wire}


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda: seen.by("Day"), "^unknown granularity 'Day': did you mean 'day'\\?$"),
        (lambda: seen.by("weeks"), "granularity 'weeks': did you mean 'week'\\?$"),
        (lambda: seen.by(""), "granularity must be one of second, minute, .* got ''"),
        (lambda: seen.by("x" * 129), "granularity must be one of second, minute"),
        (lambda: seen.by("a-b"), "granularity must be one of second, minute"),
        (lambda: seen.by(5), "granularity must be one of second, minute"),
        (
            lambda: seen.over("June 2024"),
            "^calls.seen.over: expected .*, got 'June 2024'",
        ),
        (
            lambda: seen.by("day").over(("2024-01-01", "2024-02-01")),
            r"^calls.seen.over: .*, got '2024-01-01'; use date\(2024, 1, 1\)$",
        ),
        (
            lambda: Query(time=[seen.by("day").over((NOON, DAY - timedelta(1)))]),
            "^calls.seen.over: range ends before it starts",
        ),
        (
            lambda: Query(time=[seen.by("day").compare([(NOON, DAY - timedelta(1))])]),
            "^calls.seen.compare: range ends before it starts",
        ),
        (lambda: seen.over(None), "^calls.seen.over: expected .*, got None$"),
        (lambda: seen.compare(None), "^calls.seen.compare must be a list, got None$"),
        (lambda: TimeSelection(seen, range=5), "^range: expected .*, got 5$"),
        (lambda: TimeSelection(seen, compared=5), "^compared must be a list, got 5$"),
        (lambda: seen.over(NOON), r"or a pair \(start, end\)"),
        (lambda: seen.over((NOON, DAY, DAY)), "or a pair .*, got"),
        (lambda: seen.compare("today"), "compare must be a list, got 'today'"),
        (lambda: seen.compare([]), "compare needs at least one range"),
        (lambda: seen.compare(5), "compare must be a list, got 5"),
        (
            lambda: seen.compare(["today", "June"]),
            r"^calls.seen.compare\[1\]: expected .*, got 'June'",
        ),
        (lambda: seen.over("today").compare(["today"]), "not both"),
        (lambda: seen.compare(["today"]).over("today"), "not both"),
        (
            lambda: TimeSelection(Dimension("calls.seen")),
            "dimension must be a TimeDimension, got Dimension",
        ),
    ],
)
def test_refuses_other_selections_with_advice(make, advice):
    with pytest.raises(QueryError, match=advice):
        make()


def test_granularities_of_a_cube_s_own_have_at_most_128_characters():
    assert seen.by("x" * 128).granularity == "x" * 128


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("eq", r"; use \.on\(...\)"),
        ("gt", r"; use \.after\(...\)"),
        ("lte", r"; use \.on_or_before\(...\)"),
        ("is_sett", ""),
    ],
)
def test_an_unknown_method_of_a_time_names_the_one_for_times(name, advice):
    with pytest.raises(
        AttributeError, match=f"^a TimeDimension has no '{name}'{advice}$"
    ):
        getattr(TimeDimension("calls.seen"), name)
