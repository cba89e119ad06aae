"""Queries read from Cube's JSON."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from ortege_watch.errors import QueryError
from ortege_watch.query import Dimension, Measure, Query, TimeDimension


def leaf(operator, *values, member="stories.category"):
    return {"member": member, "operator": operator, "values": list(values)}


def read(**wire):
    return Query.from_wire({"measures": ["stories.count"], **wire})


def filters(*given, **more):
    return read(filters=list(given), **more).to_wire()["filters"]


# The shapes of queries that Cube's documentation shows ("Query format", "Queries").
DOCUMENTED = [
    {
        "measures": ["stories.count"],
        "dimensions": ["stories.category"],
        "filters": [leaf("equals", "No", member="stories.is_draft")],
        "timeDimensions": [
            {
                "dimension": "stories.time",
                "dateRange": ["2015-01-01", "2015-12-31"],
                "granularity": "month",
            }
        ],
        "limit": 100,
        "offset": 50,
        "order": {"stories.time": "asc", "stories.count": "desc"},
        "timezone": "America/Los_Angeles",
    },
    {
        "measures": ["stories.count"],
        "dimensions": ["stories.time.month"],
        "order": [["stories.time", "asc"], ["stories.count", "asc"]],
    },
    {
        "dimensions": ["visitors.source"],
        "filters": [
            {
                "or": [
                    leaf("equals", "some", member="visitors.source"),
                    {
                        "and": [
                            leaf("equals", "other", member="visitors.source"),
                            leaf("equals", "0", member="visitors.cards"),
                        ]
                    },
                ]
            }
        ],
    },
    {
        "measures": ["stories.count"],
        "timeDimensions": [
            {
                "dimension": "stories.time",
                "compareDateRange": ["this week", ["2020-05-21", "2020-05-28"]],
                "granularity": "month",
            }
        ],
    },
    {
        "measures": ["stories.count"],
        "timeDimensions": [
            {
                "dimension": "stories.time",
                "dateRange": "last week",
                "granularity": "day",
            }
        ],
    },
    {
        "dimensions": ["stories.category"],
        "segments": ["stories.popular"],
        "ungrouped": True,
        "total": True,
        "responseFormat": "compact",
        "cache": "stale-while-revalidate",
        "joinHints": [["stories", "authors"]],
    },
    {
        "dimensions": ["orders.status"],
        "filters": [{"member": "orders.count", "operator": "measureFilter"}],
    },
    *(
        {
            "measures": ["stories.count"],
            "timeDimensions": [{"dimension": "stories.time", "dateRange": words}],
        }
        for words in (
            "today",
            "last quarter",
            "last 360 days",
            "next month",
            "last 6 months",
            "from 7 days ago to now",
            "from now to 2 weeks from now",
        )
    ),
]


@pytest.mark.parametrize("wire", DOCUMENTED)
def test_reads_what_the_documentation_shows(wire):
    query = Query.from_wire(wire)
    assert Query.from_wire(query.to_wire()).to_wire() == query.to_wire()


def test_keeps_what_it_reads():
    wire = {
        "measures": ["stories.count"],
        "dimensions": ["stories.category"],
        "timeDimensions": [
            {
                "dimension": "stories.time",
                "granularity": "month",
                "dateRange": ["2015-01-01", "2015-12-31T10:00:00.000"],
            }
        ],
        "segments": ["stories.popular"],
        "filters": [
            leaf("equals", "No", None),
            {"or": [leaf("set"), {"and": [leaf("contains", "a"), leaf("gt", "5")]}]},
            leaf("gte", "5.50", member="stories.count"),
        ],
        "order": [["stories.time", "asc"], ["stories.count", "desc"]],
        "limit": 100,
        "offset": 50,
        "total": True,
        "timezone": "America/Los_Angeles",
        "responseFormat": "columnar",
        "joinHints": [["stories", "authors"]],
    }
    del wire["filters"][1]["or"][0]["values"]
    assert Query.from_wire(wire).to_wire() == wire


def test_members_are_not_declared():
    query = read(dimensions=["stories.category"])
    assert query.measures == (Measure("stories.count", object),)
    assert query.dimensions == (Dimension("stories.category", object),)


def test_members_that_stand_twice_count_once():
    query = read(
        measures=["a.b", "a.b"],
        dimensions=["a.c", "a.c", "a.t.day", "a.t.day"],
        timeDimensions=[{"dimension": "a.t", "granularity": "day"}] * 2,
        order=[["a.b", "asc"], ["a.b", "desc"], ["a.t.day", "asc"], ["a.t", "desc"]],
    )
    assert query.to_wire() == {
        "measures": ["a.b"],
        "dimensions": ["a.c"],
        "timeDimensions": [{"dimension": "a.t", "granularity": "day"}],
        "order": [["a.b", "asc"], ["a.t", "asc"]],
        "timezone": "UTC",
    }


@pytest.mark.parametrize("name", ["a.t.month", "orders.customer.city", "a.b.c.d"])
def test_a_third_segment_is_part_of_the_name(name):
    wire = {"dimensions": [name, "a.s"], "order": [[name.rpartition(".")[0], "desc"]]}
    query = Query.from_wire(wire)
    assert query.dimensions == (Dimension(name, object), Dimension("a.s", object))
    assert query.time == ()
    assert query.to_wire() == wire


def test_an_order_by_something_else_is_dropped_with_a_warning(caplog):
    ranged = {"dimension": "a.t", "dateRange": "today"}
    order = {"a.t": "asc", "a.other": "asc", "stories.count": "desc"}
    query = read(order=order, timeDimensions=[ranged])
    assert query.to_wire()["order"] == [["stories.count", "desc"]]
    for record, name in zip(caplog.records, ["a.t", "a.other"], strict=True):
        assert record.levelname == "WARNING"
        assert record.getMessage() == (
            f"order by {name} dropped: it is not selected, so servers ignore it"
        )


def test_ranges_of_one_time_dimension_are_all_sent():
    ranges = [["2024-05-01", "2024-05-02"], "last 7 days"]
    time = [{"dimension": "a.t", "dateRange": each} for each in ranges]
    daily = [{"dimension": "a.t", "granularity": "day", **each} for each in time]
    for selections in (time, daily):
        assert read(timeDimensions=selections).to_wire()["timeDimensions"] == selections


def test_members_of_three_segments_are_read_everywhere():
    name = "orders.customer.created_at"
    wire = {
        "measures": ["orders.customer.count"],
        "dimensions": ["orders.customer.city"],
        "timeDimensions": [{"dimension": name, "granularity": "day"}],
        "segments": ["orders.customer.active"],
        "filters": [
            leaf("equals", "a", member="orders.customer.city"),
            leaf("gt", "5", member="orders.customer.count"),
        ],
        "order": [["orders.customer.count", "asc"], [name, "asc"]],
        "timezone": "UTC",
    }
    query = Query.from_wire(wire)
    assert query.to_wire() == wire
    assert list(query.columns) == [
        "orders.customer.count",
        "orders.customer.city",
        f"{name}.day",
        name,
    ]


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (leaf("in", "a"), leaf("equals", "a")),
        (leaf("notIn", "a", None), leaf("notEquals", "a", None)),
        (leaf("equals", 5, True, Decimal("42.50"), None, ""), leaf("equals", "5", "true", "42.50", None, "")),
        # As JavaScript prints numbers, but never with an exponent.
        (leaf("equals", 10.5, 10.0, 0.1, 1e-7), leaf("equals", "10.5", "10", "0.1", "0.0000001")),
        (leaf("gt", Decimal("150050.0")), leaf("gt", "150050")),
        (leaf("inDateRange", "Last  7 days"), leaf("inDateRange", "last 7 days")),
        (leaf("notInDateRange", "this year"), leaf("notInDateRange", "this year")),
        (leaf("onTheDate", "today"), leaf("onTheDate", "today")),
        (leaf("beforeDate", "this month"), leaf("beforeDate", "this month")),
        (leaf("afterOrOnDate", "from 2 days ago to now"), leaf("afterOrOnDate", "from 2 days ago to now")),
        (
            leaf("inDateRange", "2024-05-01T22:30:00Z"),
            leaf("inDateRange", "2024-05-01", "2024-05-01"),
        ),
        (leaf("onTheDate", "2024-05-01T22:30"), leaf("onTheDate", "2024-05-01", "2024-05-01")),
        (
            {"dimension": "stories.category", "operator": "equals", "values": [10]},
            leaf("equals", "10"),
        ),
        (leaf("set", "ignored"), {"member": "stories.category", "operator": "set"}),
        (
            {"member": "stories.category", "operator": "notSet", "values": "ignored"},
            {"member": "stories.category", "operator": "notSet"},
        ),
        (
            {"member": "stories.count", "operator": "measureFilter"},
            {"member": "stories.count", "operator": "measureFilter"},
        ),
        (leaf("notContains", "a", None), leaf("notContains", "a", None)),
        (leaf("inDateRange", "2024-05-01"), leaf("inDateRange", "2024-05-01", "2024-05-01")),
        (
            leaf("notInDateRange", "2024-05-01"),
            leaf("notInDateRange", "2024-05-01", "2024-05-01"),
        ),
        (leaf("onTheDate", "2024-05-01"), leaf("onTheDate", "2024-05-01", "2024-05-01")),
        (
            leaf("onTheDate", "2024-05-01", "2024-05-01"),
            leaf("onTheDate", "2024-05-01", "2024-05-01"),
        ),
        (
            leaf("onTheDate", "2024-05-01", "2024-05-02"),
            leaf("inDateRange", "2024-05-01", "2024-05-02"),
        ),
        (leaf("beforeDate", "2024-05-01"), leaf("beforeDate", "2024-05-01")),
        (leaf("beforeOrOnDate", "2024-05-01"), leaf("beforeOrOnDate", "2024-05-01T23:59:59.999")),
        (leaf("afterDate", "2024-05-01"), leaf("afterDate", "2024-05-01T23:59:59.999")),
        (leaf("afterOrOnDate", "2024-05-01 10:00"), leaf("afterOrOnDate", "2024-05-01T10:00:00.000")),
        (
            leaf("afterDate", "2024-05-01T10:00:00Z"),
            leaf("afterDate", "2024-05-01T19:00:00.000"),
        ),
        ({"or": [leaf("set")]}, {"or": [{"member": "stories.category", "operator": "set"}]}),
        (
            {"and": [{"and": [leaf("gt", "1"), leaf("gt", "2")]}, leaf("gt", "3")]},
            {"and": [leaf("gt", "1"), leaf("gt", "2"), leaf("gt", "3")]},
        ),
    ],
)  # fmt: skip
def test_reads_every_form_of_a_filter(given, sent):
    assert filters(given, timezone="Asia/Tokyo") == [sent]


def test_a_filter_on_a_measure_of_the_query_is_a_filter_on_a_measure():
    on_measure = leaf("gt", "5", member="stories.count")
    other = leaf("lt", "9", member="stories.other")
    unknown = leaf("equals", "a")
    date_of_measure = leaf("afterDate", "2024-05-01", member="stories.count")
    query = read(filters=[unknown, on_measure])
    assert [f.kind for f in (*query.where, *query.having)] == ["dimension", "measure"]
    # Neighbours in a group, and whatever follows, are measures as well.
    query = read(filters=[{"or": [other, on_measure]}, unknown, date_of_measure])
    assert query.where == ()
    assert len(query.having) == 3
    # A known dimension is none, and is moved to the front.
    known = leaf("set", member="stories.time")
    query = read(
        filters=[on_measure, known, other],
        timeDimensions=[{"dimension": "stories.time"}],
    )
    assert [f.member.name for f in query.where] == ["stories.time"]
    assert [f.member.name for f in query.having] == ["stories.count", "stories.other"]


def test_a_group_of_a_measure_and_a_dimension_is_refused():
    group = {"or": [leaf("gt", "5", member="stories.count"), leaf("set")]}
    with pytest.raises(QueryError, match=r"filters\[1\]: .*category is a dimension"):
        read(filters=[leaf("set"), group], dimensions=["stories.category"])


def test_moments_are_wall_clock_of_the_zone():
    query = read(
        filters=[leaf("beforeDate", "2024-05-01T10:00:00.000")], timezone="Asia/Tokyo"
    )
    assert query.where == (
        TimeDimension("stories.category").before(datetime(2024, 5, 1, 1, tzinfo=UTC)),
    )


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("LAST 7 days", "last 7 days"),
        ("2024-05-01", ["2024-05-01", "2024-05-01"]),
        ("from 1 quarter ago to now", "from 1 quarter ago to now"),
        # A time alone is its day, as written; in a list it is an instant.
        ("2024-05-01T22:30:00Z", ["2024-05-01", "2024-05-01"]),
        (["2024-05-01T10:00"], ["2024-05-01T10:00:00.000"] * 2),
        (
            ["2024-05", "2024-06"],
            ["2024-05-01T00:00:00.000", "2024-06-01T00:00:00.000"],
        ),
        (["2024-05"], ["2024-05-01T00:00:00.000"] * 2),
        (["2024-05-01"], ["2024-05-01", "2024-05-01"]),
        (["2024-05-01", "2024-05-02"], ["2024-05-01", "2024-05-02"]),
        (
            ["2024-05-01T10:00", "2024-05-01T12:00:00.5"],
            ["2024-05-01T10:00:00.000", "2024-05-01T12:00:00.500"],
        ),
        # As servers do: the clock of UTC, read in the query's zone.
        (
            ["2024-05-01T10:00:00+02:00", "2024-05-01T12:00:00Z"],
            ["2024-05-01T08:00:00.000", "2024-05-01T12:00:00.000"],
        ),
        # Clocks were set forward at two.
        (
            ["2024-03-10T02:30:00.000", "2024-03-10"],
            ["2024-03-10T03:30:00.000", "2024-03-10"],
        ),
    ],
)
def test_reads_every_form_of_a_range(given, sent):
    zone = "America/New_York"
    selection = {"dimension": "a.t", "granularity": None, "dateRange": given}
    [wire] = read(timeDimensions=[selection], timezone=zone).to_wire()["timeDimensions"]
    assert wire == {"dimension": "a.t", "dateRange": sent}
    compared = {"dimension": "a.t", "compareDateRange": [given], "dateRange": "today"}
    [wire] = read(timeDimensions=[compared], timezone=zone).to_wire()["timeDimensions"]
    assert wire == {"dimension": "a.t", "compareDateRange": [sent]}


@pytest.mark.parametrize(
    ("order", "sent"),
    [
        ({"stories.count": "asc", "a.t": "desc"}, [["stories.count", "asc"], ["a.t", "desc"]]),
        ([["a.t", "asc"]], [["a.t", "asc"]]),
        ([("a.t.day", "desc")], [["a.t", "desc"]]),
    ],
)  # fmt: skip
def test_reads_every_form_of_an_order(order, sent):
    time = [{"dimension": "a.t", "granularity": "day"}]
    assert read(timeDimensions=time, order=order).to_wire()["order"] == sent


@pytest.mark.parametrize("order", [{}, [], ()])
def test_no_order_is_the_servers_order(order):
    assert read(order=order).order == ()


@pytest.mark.parametrize(
    ("more", "name", "value"),
    [
        ({"limit": "10"}, "limit", 10),
        ({"limit": Decimal("10.0")}, "limit", 10),
        ({"limit": 10.0}, "limit", 10),
        ({"offset": 7.0}, "offset", 7),
        ({"timezone": ""}, "timezone", "UTC"),
        ({"limit": 0}, "limit", 0),
        ({"offset": "0"}, "offset", 0),
        ({"offset": 7}, "offset", 7),
        ({"total": "true"}, "total", True),
        ({"total": "False"}, "total", False),
        ({"ungrouped": True}, "ungrouped", True),
        ({"timezone": "america/los_ANGELES"}, "timezone", "America/Los_Angeles"),
        ({"cache": "no-cache"}, "cache", "no-cache"),
        ({"cacheMode": "must-revalidate"}, "cache", "must-revalidate"),
        ({"cacheMode": "no-cache", "cache": "stale-if-slow"}, "cache", "stale-if-slow"),
        ({"renewQuery": True}, "cache", "no-cache"),
        ({"renewQuery": False}, "cache", None),
        ({"renewQuery": True, "cache": "stale-if-slow"}, "cache", "stale-if-slow"),
        ({"responseFormat": "default"}, "response_format", "default"),
        ({"joinHints": [["a", "b"]]}, "join_hints", (("a", "b"),)),
    ],
)
def test_reads_every_form_of_a_setting(more, name, value):
    found = getattr(read(**more), name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        ('{"measures": []}', 'query must be an object, got \'{"measures": '),
        (b"{}", "query must be an object, got b'{}'"),
        ([{"measures": ["a.b"]}], r"query must be an object, got \[{'measures'"),
        (None, "query must be an object, got None"),
        (5, "query must be an object, got 5"),
        ({}, "the query selects nothing"),
        (
            {"measures": ["a.b"], "foo": 1},
            "query: unknown key 'foo'; use cache, cacheMode",
        ),
        (
            {"queryType": "multi"},
            "query: unknown key 'queryType'; it goes beside the query",
        ),
        (
            {"subqueryJoins": []},
            "query: unknown key 'subqueryJoins'; only Cube's SQL API",
        ),
        (
            {"maskedMembers": []},
            "query: unknown key 'maskedMembers'; every server refuses it",
        ),
        ({"rowLimit": 5}, "query: unknown key 'rowLimit'; .* use limit"),
        ({5: 5}, "query: unknown key 5; use"),
        ({"measures": None}, "measures must not be null; omit the key"),
        ({"measures": "a.b"}, "measures must be a list, got 'a.b'"),
        (
            {"measures": ["a.b", "a-b.c"]},
            r"measures\[1\]: invalid Measure name 'a-b.c'",
        ),
        ({"measures": [5]}, r"measures\[0\]: .*, got 5"),
        ({"dimensions": [["a.b"]]}, r"dimensions\[0\]: "),
        ({"dimensions": ["a.b."]}, r"dimensions\[0\]: invalid Dimension name"),
        ({"dimensions": ["a..b"]}, r"dimensions\[0\]: invalid Dimension name"),
        (
            {"measures": ["a.b"], "dimensions": ["a.b"]},
            "dimensions: a.b is also listed in measures",
        ),
        ({"measures": ["a.b"], "segments": {"a": 1}}, "segments must be a list"),
        ({"timezone": "PST"}, "timezone must be an IANA name .*, got 'PST'"),
        ({"timezone": "europe/berlim"}, "unknown timezone .* 'Europe/Berlin'"),
        ({"timezone": 5}, "timezone must be .*, got 5"),
        ({"timezone": ["UTC"]}, r"timezone must be .*, got \['UTC'\]"),
    ],
)
def test_refuses_with_the_path(wire, message):
    with pytest.raises(QueryError, match=f"^{message}"):
        Query.from_wire(wire)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"limit": 50001}, "limit must be .* 50000, got 50001"),
        ({"limit": "x"}, "limit must be an integer"),
        ({"limit": "1" * 10}, "limit must be an integer"),
        ({"limit": "\u0661"}, "limit must be an integer"),
        ({"limit": 1.5}, "limit must be an integer"),
        ({"limit": float("inf")}, "limit must be an integer"),
        ({"limit": Decimal("1E+999999")}, "limit must be an integer"),
        ({"limit": Decimal("-1E+1000000")}, "limit must be an integer"),
        ({"limit": Decimal("1.5")}, "limit must be an integer"),
        ({"limit": Decimal("NaN")}, "limit must be an integer"),
        ({"limit": True}, "limit must be an integer"),
        ({"offset": -1}, "offset must be an integer"),
        ({"total": "yes"}, "total must be True or False, got 'yes'"),
        ({"ungrouped": 1}, "ungrouped must be True or False, got 1"),
        ({"renewQuery": "no"}, "renewQuery must be True or False, got 'no'"),
        ({"cache": "x"}, "cache must be one of .*, got 'x'"),
        ({"cache": ["no-cache"]}, "cache must be one of"),
        ({"responseFormat": "x"}, "responseFormat must be one of .*, got 'x'"),
        ({"joinHints": [5]}, r"joinHints\[0\] must be a list, got 5"),
        ({"order": "a.b"}, "order must be a list"),
        ({"order": [["stories.count"]]}, r"order\[0\] must be \[member"),
        ({"order": [[5, "asc"]]}, r"order\[0\] must be \[member"),
        (
            {"order": {"stories.count": "none"}},
            "order.stories.count: direction must be",
        ),
        ({"order": {5: "asc"}}, r"order\[0\] must be \[member, .*, got \(5, 'asc'\)"),
        ({"timeDimensions": {}}, "timeDimensions must be a list"),
        ({"timeDimensions": ["a.t"]}, r"timeDimensions\[0\] must be an object"),
        ({"timeDimensions": [{}]}, r"timeDimensions\[0\].dimension: "),
        (
            {"timeDimensions": [{"dimension": "a.t", "x": 1}]},
            r"timeDimensions\[0\]: unknown key 'x'",
        ),
        (
            {"timeDimensions": [{"dimension": "a.t", "granularity": ""}]},
            r"timeDimensions\[0\].granularity: .*, got ''",
        ),
        (
            {"timeDimensions": [{"dimension": "a.t", "granularity": ["day"]}]},
            r"timeDimensions\[0\].granularity: ",
        ),
        (
            {"timeDimensions": [{"dimension": "a.t", "dateRange": ["today"]}]},
            r"timeDimensions\[0\].dateRange\[0\]: .*, got 'today'.*last 7 days",
        ),
        (
            {"timeDimensions": [{"dimension": "a.t", "dateRange": []}]},
            r"timeDimensions\[0\].dateRange: expected .* or a pair",
        ),
        (
            {"timeDimensions": [{"dimension": "a.t", "dateRange": ["2024-05-01"] * 3}]},
            r"timeDimensions\[0\].dateRange: expected .* or a pair",
        ),
        (
            {"timeDimensions": [{"dimension": "a.t", "compareDateRange": []}]},
            r"timeDimensions\[0\].compareDateRange: .*at least one range",
        ),
        (
            {"timeDimensions": [{"dimension": "a.t", "compareDateRange": ["June"]}]},
            r"timeDimensions\[0\].compareDateRange\[0\]: expected .*, got 'June'",
        ),
        (
            {
                "timeDimensions": [
                    {
                        "dimension": "a.t",
                        "dateRange": ["2024-05-01T10:00", "2024-04-30"],
                    }
                ]
            },
            r"timeDimensions\[0\]: a.t.over: range ends before it starts",
        ),
        (
            {
                "timeDimensions": [
                    {"dimension": "a.t", "compareDateRange": ["today"]},
                    {"dimension": "a.u", "compareDateRange": ["today"]},
                ]
            },
            "timeDimensions: only one",
        ),
        ({"filters": [5]}, r"filters\[0\] must be an object, got 5"),
        ({"filters": [{}]}, r"filters\[0\]: expected exactly one member"),
        (
            {"filters": [{**leaf("set"), "dimension": "a.b"}]},
            r"filters\[0\]: expected exactly one member",
        ),
        (
            {"filters": [{**leaf("set"), "x": 1}]},
            r"filters\[0\]: unknown key 'x'; use dimension, member",
        ),
        (
            {"filters": [leaf("like", "a")]},
            r"filters\[0\].operator must be one of .*, got 'like'",
        ),
        ({"filters": [leaf(["equals"], "a")]}, r"filters\[0\].operator must"),
        ({"filters": [leaf("equals", "a", member="a")]}, r"filters\[0\].member: "),
        (
            {"filters": [{"dimension": 5, "operator": "set"}]},
            r"filters\[0\].dimension: ",
        ),
        ({"filters": [{**leaf("equals"), "values": "a"}]}, r"filters\[0\].values must"),
        ({"filters": [leaf("equals")]}, r"filters\[0\].values: .*at least one value"),
        *(
            (
                {"filters": [{"member": "a.b", "operator": operator}]},
                r"filters\[0\].values is missing$",
            )
            for operator in ("equals", "contains", "gt", "afterDate")
        ),
        ({"filters": [{"or": []}]}, r"filters\[0\].or must not be empty"),
        (
            {"filters": [{"or": [leaf("set"), {"and": []}]}]},
            r"filters\[0\].or\[1\].and must not be empty",
        ),
        (
            {"filters": [leaf("equals", float("nan"))]},
            r"filters\[0\].values\[0\]: .*NaN.* is not finite",
        ),
        ({"filters": [leaf("equals", "a", {})]}, r"filters\[0\].values\[1\]: "),
        ({"filters": [leaf("equals", "\ud800")]}, r"filters\[0\].values\[0\]: .*UTF-8"),
        ({"filters": [leaf("gt", 1, 2)]}, r"filters\[0\].values: .*exactly one value"),
        ({"filters": [leaf("gt", None)]}, r"filters\[0\].values: .*for NULL"),
        ({"filters": [leaf("contains", None)]}, r"filters\[0\].values: .*one string"),
        (
            {"filters": [leaf("inDateRange", "last week", "today")]},
            r"filters\[0\].values\[0\]: .*, got 'last week'; .*\"last 7 days\"",
        ),
        (
            {"filters": [leaf("before", "June 2024")]},
            r"filters\[0\].operator must be one of .*, got 'before'",
        ),
        (
            {"filters": [leaf("beforeDate", "June 2024")]},
            r"filters\[0\].values\[0\]: expected .*, got 'June 2024'",
        ),
        (
            {"filters": [leaf("onTheDate", "from 2024-05-02 to 2024-05-01")]},
            r"filters\[0\].values: .*ends before it starts",
        ),
        (
            {"filters": [leaf("afterDate", 5)]},
            r"filters\[0\].values\[0\]: expected YYYY-MM-DD.*, got 5",
        ),
        (
            {"filters": [leaf("afterDate", None)]},
            r"filters\[0\].values\[0\]: .*, got None",
        ),
        (
            {"filters": [leaf("onTheDate")]},
            r"filters\[0\].values: .*one value, got 0 values",
        ),
        (
            {"filters": [leaf("inDateRange", *["2024-05-01"] * 3)]},
            r"filters\[0\].values: .*start and end, got 3 values",
        ),
        (
            {"filters": [leaf("inDateRange", "2024-05-01T10:00", "2024-04-30")]},
            r"filters\[0\].values: .*ends before it starts",
        ),
        (
            {"filters": [{"or": [leaf("set")], "and": []}]},
            r"filters\[0\]: \"or\" or \"and\" must be the only key",
        ),
        (
            {"filters": [{"or": [leaf("set")], "member": "a.b"}]},
            r"filters\[0\]: \"or\"",
        ),
        ({"filters": [{"or": leaf("set")}]}, r"filters\[0\].or must be a list"),
        (
            {"filters": [{"or": [{"and": [leaf("set"), leaf("like")]}]}]},
            r"filters\[0\].or\[0\].and\[1\].operator must be .*, got 'like'",
        ),
    ],
)
def test_refuses_parts_with_the_path(more, message):
    with pytest.raises(QueryError, match=f"^{message}"):
        read(**more)


def nested(depth):
    found = leaf("set")
    for level in range(depth):
        found = {("or", "and")[level % 2]: [found]}
    return found


def test_groups_may_be_deep_but_not_bottomless():
    assert filters(nested(50))
    with pytest.raises(QueryError, match="at most 50 deep"):
        read(filters=[nested(51)])
    with pytest.raises(QueryError, match="at most 50 deep"):
        read(filters=[nested(5000)])


@pytest.mark.parametrize("depth", [400, 900, 990, 5000])
@pytest.mark.parametrize("place", ["measures", "filters", "timeDimensions"])
def test_values_that_are_nested_deeply_are_refused(place, depth):
    value = []
    for _ in range(depth):
        value = [value]
    for found in (value, [value], [{"member": "a.b", "values": value}]):
        with pytest.raises(QueryError):
            read(**{place: found})


def test_the_second_of_two_equal_wall_times_is_read_as_the_first():
    wire = leaf("beforeDate", "2024-11-03T01:30:00.000")
    query = read(filters=[wire], timezone="America/New_York")
    assert query.to_wire()["filters"] == [wire]
    [condition] = query.where
    [moment] = condition.values
    assert moment == datetime(2024, 11, 3, 5, 30, tzinfo=UTC)


def test_a_day_is_read_as_a_day():
    query = read(filters=[leaf("afterOrOnDate", "2024-05-01")])
    [condition] = query.where
    assert condition.values == (date(2024, 5, 1),)
    assert query.timezone == "UTC"


@pytest.mark.parametrize("sign", ["", "-"])
def test_a_number_beyond_the_decimal_context_is_refused(sign):
    huge = Decimal(f"{sign}1E+1000000")
    compared = {"member": "stories.count", "operator": "gt", "values": [huge]}
    with pytest.raises(QueryError, match="has more than 4000 digits"):
        Query.from_wire({"measures": ["stories.count"], "filters": [compared]})
