"""Granularities that the cube defines; the expected values are those of 1.7.43 [seen]."""

from __future__ import annotations

from datetime import datetime

import pytest

from ortege_watch import CubeClient, InvalidArgument, Measure, Query, TimeDimension
from ortege_watch.testing import FakeCube, Table

GRANULARITIES = {
    "fiscal": {"interval": "1 year", "offset": "3 months", "title": "Fiscal year"},
    "from_sunday": {"interval": "1 week", "offset": "-1 day"},
    "twelve_days": {"interval": "12 days", "origin": "2024-05-02 06:00"},
    "from_utc": {"interval": "12 days", "origin": "2024-05-02T06:00Z"},
    "five_quarters": {"interval": "1 year 3 months", "origin": "2020-02"},
    "odd_year": {"interval": "1 year", "origin": "2024-05-02"},
    "later_half": {"interval": "6 months", "offset": "1 month 2 days"},
    "two_years": {"interval": "2 years", "origin": "2023"},
    "two_quarters": {"interval": "2 quarters"},
}
COUNT = Measure("t.count", int)
AT = TimeDimension("t.at")


def table(*times, granularities=GRANULARITIES):
    return Table(
        "t",
        measures={"count": "count"},
        dimensions={"at": "time", "other": "time", "name": "string"},
        granularities={"at": granularities},
        rows=[{"at": each} for each in times],
    )


def load(query, *times, generation="strict"):
    with (
        FakeCube(generation, tables=[table(*times)]) as fake,
        CubeClient(fake.url, fake.token()) as cube,
    ):
        return cube.load(query)


@pytest.mark.parametrize(
    ("granularity", "time", "begin"),
    [
        ("fiscal", "2024-03-31T23:59:59.999", "2023-04-01"),
        ("fiscal", "2024-04-01", "2024-04-01"),
        ("from_sunday", "2024-05-04T23:59", "2024-04-28"),
        ("from_sunday", "2024-05-05", "2024-05-05"),
        ("twelve_days", "2024-05-02T05:59", "2024-04-20T06:00"),
        ("twelve_days", "2024-05-02T06:00", "2024-05-02T06:00"),
        ("five_quarters", "2024-05-01", "2023-11-01"),
        # PostgreSQL divides by 365.25 and 30 days and so is three days early.
        ("five_quarters", "2023-10-28T18:00", "2023-11-01"),
        ("five_quarters", "2023-10-28T17:59", "2022-08-01"),
        # The origin of an interval of one unit has no effect.
        ("odd_year", "2024-05-02", "2024-01-01"),
        ("two_years", "2024-05-02", "2023-01-01"),
    ],
)
def test_the_interval_of_a_time(granularity, time, begin):
    by = AT.by(granularity)
    (row,) = load(Query(measures=[COUNT], time=[by]), time)
    assert row[by].replace(tzinfo=None) == datetime.fromisoformat(begin)


@pytest.mark.parametrize(
    ("granularity", "begin"),
    [
        ("fiscal", "2024-04-01"),
        ("twelve_days", "2024-03-27T06:00"),
        ("from_utc", "2024-03-27T11:30"),
    ],
)
def test_intervals_begin_in_the_zone_of_the_query(granularity, begin):
    by = AT.by(granularity)
    query = Query(measures=[COUNT], time=[by], timezone="Asia/Kolkata")
    (row,) = load(query, "2024-03-31T20:00Z")
    assert row[by].replace(tzinfo=None) == datetime.fromisoformat(begin)


def test_without_an_origin_intervals_begin_with_the_year_of_the_server():
    year = datetime.now().astimezone().year
    for granularity, begin in (
        ("later_half", f"{year - 1}-08-03"),
        ("two_quarters", f"{year}-01-01"),
    ):
        by = AT.by(granularity)
        (row,) = load(Query(measures=[COUNT], time=[by]), f"{year}-02-01")
        assert row[by].replace(tzinfo=None) == datetime.fromisoformat(begin)


def test_meta_lists_them_and_queries_are_compared_with_it():
    good = Query(time=[AT.by("fiscal"), AT.by("day")])
    bad = Query(time=[AT.by("lunar"), TimeDimension("t.other").by("fiscal")])
    with (
        FakeCube(tables=[table()]) as fake,
        CubeClient(fake.url, fake.token()) as cube,
    ):
        meta = cube.meta()
    found = meta.member("t.at").granularities
    assert [each.name for each in found] == list(GRANULARITIES)
    assert found[0].title == "Fiscal year"
    assert (found[1].title, found[1].interval) == ("From Sunday", "1 week")
    assert good.validate(meta) == []
    assert len(bad.validate(meta)) == 2


def ask(fake, path, query=None):
    import httpx

    headers = {"Authorization": fake.token()}
    with httpx.Client(base_url=fake.url, headers=headers, trust_env=False) as http:
        answer = http.post(path, json={"query": query}) if query else http.get(path)
        return answer.json()


def test_what_an_answer_says_of_them():
    defined = {"name": "fiscal", "title": "Fiscal year", "interval": "1 year"}
    defined["offset"] = "3 months"
    with FakeCube(tables=[table("2024-05-01")]) as fake:
        time = {"dimension": "t.at", "granularity": "fiscal"}
        answer = ask(fake, "/load", {"timeDimensions": [time]})
        times = answer["annotation"]["timeDimensions"]
        assert times["t.at.fiscal"]["granularity"] == defined
        assert "granularities" not in times["t.at"]
        assert answer["data"] == [
            dict.fromkeys(("t.at.fiscal", "t.at"), "2024-04-01T00:00:00.000")
        ]
        named = ask(fake, "/load", {"dimensions": ["t.at.fiscal"]})
        assert named["data"] == answer["data"]
        exact = ask(fake, "/load", {"dimensions": ["t.at"]})
        listed = exact["annotation"]["dimensions"]["t.at"]["granularities"]
        assert listed[0] == defined
        (dimension,) = [
            each
            for each in ask(fake, "/meta")["cubes"][-1]["dimensions"]
            if each["name"] == "t.at"
        ]
        assert dimension["granularities"] == listed


def test_older_servers_ignore_and_refuse_them():
    with FakeCube("classic", tables=[table("2024-05-01")]) as fake:
        assert "granularities" not in str(ask(fake, "/meta"))
        for query, problem in (
            (
                {"timeDimensions": [{"dimension": "t.at", "granularity": "fiscal"}]},
                '"timeDimensions[0].granularity" must be one of [quarter, day',
            ),
            ({"dimensions": ["t.at.fiscal"]}, '"dimensions[0]" with value'),
        ):
            error = ask(fake, "/load", query)["error"]
            assert error.startswith(f"Invalid query format: {problem}")


@pytest.mark.parametrize(
    ("granularity", "unit", "zone", "finest"),
    [
        ("odd_year", "week", "UTC", "odd_year"),  # its origin is a day
        ("odd_year", "day", "UTC", "day"),
        ("later_half", "week", "UTC", "later_half"),
        ("fiscal", "month", "UTC", "month"),
        ("fiscal", "quarter", "UTC", "fiscal"),
        ("from_sunday", "day", "UTC", "day"),
        ("twelve_days", "day", "UTC", "twelve_days"),
        ("twelve_days", "hour", "UTC", "hour"),
        ("twelve_days", "hour", "Asia/Kolkata", "twelve_days"),
        ("five_quarters", "month", "UTC", "month"),
        ("two_quarters", "month", "UTC", "month"),
        ("two_quarters", "year", "UTC", "two_quarters"),
        ("two_years", "year", "UTC", "year"),
        ("two_years", "day", "America/New_York", "two_years"),
    ],
)
def test_the_finest_of_two_orders_the_rows(granularity, unit, zone, finest):
    """Of two columns of one time, the order's is the one that 1.7.43 counts as finer."""
    times = [{"dimension": "t.at", "granularity": g} for g in (unit, granularity)]
    query = {"timeDimensions": times, "timezone": zone, "order": {"t.at": "desc"}}
    query["measures"] = ["t.count"]
    moments = [
        f"2024-{m:02}-{d:02}T{h:02}:07"
        for m in (4, 5)
        for d in (1, 2, 8, 9)
        for h in (1, 7)
    ]
    with FakeCube(tables=[table(*moments)]) as fake:
        rows = ask(fake, "/load", query)["data"]
    shown = [row[f"t.at.{finest}"] for row in rows]
    assert shown == sorted(shown, reverse=True)
    other = granularity if finest == unit else unit
    # The order of the other one is what the rows have left it.
    ties = [row[f"t.at.{other}"] for row in rows if row[f"t.at.{finest}"] == shown[0]]
    assert ties == sorted(ties)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({}, "granularity 'g' must have the key 'interval'"),
        ({"interval": "1 day", "sql": "x"}, "granularity 'g' must have the key"),
        ({"interval": "1 eon"}, "interval of granularity 'g' must be such as"),
        ({"interval": "-1 day"}, "interval .* must be such as .*, got '-1 day'"),
        ({"interval": "0 days"}, "interval .* must be such as"),
        ({"interval": "5 hours"}, "interval of granularity 'g' needs an origin"),
        ({"interval": "1 year 3 months"}, "needs an origin"),
        ({"interval": "2 weeks", "offset": "1 day"}, "needs an origin"),
        ({"interval": "1 day", "offset": "noon"}, "offset .* must be such as '-1 day'"),
        ({"interval": "1 day", "origin": "noon"}, "origin .* must be an ISO 8601 date"),
        (
            {"interval": "1 day", "origin": "2024-01-01", "offset": "1 hour"},
            "granularity 'g' must have offset or origin, not both",
        ),
    ],
)
def test_granularities_that_a_model_refuses(keys, problem):
    with pytest.raises(InvalidArgument, match=problem):
        table(granularities={"g": keys})


def test_names_and_dimensions_of_granularities():
    with pytest.raises(InvalidArgument, match=r"name of a granularity .*, got 'week'"):
        table(granularities={"week": {"interval": "1 week"}})
    with pytest.raises(InvalidArgument, match="need a dimension of type time, got 'x'"):
        Table("t", granularities={"x": {"g": {"interval": "1 week"}}})
