"""The query language on a small table, newer servers first."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from ortege_watch.testing import Table
from ortege_watch.testing._cube.gateway import Gateway

NOW = 1795326430.0  # 2026-11-22T05:47:10Z, a Sunday
ROWS = [
    {
        "n": 1,
        "name": "Ann",
        "score": Decimal("1.50"),
        "ok": True,
        "at": "2024-05-01T10:00",
    },
    {"n": 2, "name": "bob", "score": Decimal("2.25"), "ok": False, "at": "2024-05-02"},
    {"n": 3, "name": "Anton", "score": None, "ok": True, "at": "2024-05-03T23:30"},
    {"n": 4, "name": None, "score": Decimal(10), "ok": None, "at": None},
]


def gateway(generation="strict", rows=ROWS, **more) -> Gateway:
    table = Table(
        "t",
        measures={
            "count": "count",
            "named": "count(name)",
            "names": "count_distinct(name)",
            "total": "sum(score)",
            "mean": "avg(score)",
            "low": "min(score)",
            "high": "max(score)",
        },
        dimensions={
            "n": "number",
            "name": "string",
            "score": "number",
            "ok": "boolean",
            "at": "time",
        },
        primary_key="n",
        rows=rows,
    )
    return Gateway(
        generation=generation,
        tables={"t": table},
        secret="s",
        now=lambda: NOW,
        **more,
    )


def ask(query, *, generation="strict", query_type=None, rows=ROWS):
    answer = gateway(generation, rows).answer(
        "load", {"query": query, "queryType": query_type}
    )
    if answer.status != 200:
        return answer.status, answer.body["error"]
    if query_type == "multi":
        return [json.loads(bytes(r["data"])) for r in answer.body["results"]]
    return json.loads(bytes(answer.body["data"]))


def kept(*filters, **more):
    """The numbers of the rows that pass."""
    data = ask({"dimensions": ["t.n"], "filters": list(filters), **more})
    return [int(row["t.n"]) for row in data] if isinstance(data, list) else data


def leaf(member, operator, *values):
    return {"member": f"t.{member}", "operator": operator, "values": list(values)}


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (leaf("name", "equals", "Ann"), [1]),
        (leaf("name", "equals", "Ann", None), [1, 4]),
        (leaf("name", "equals", None), [4]),
        (leaf("name", "notEquals", "Ann"), [2, 3, 4]),
        (leaf("name", "notEquals", "Ann", None), [2, 3]),
        (leaf("name", "in", "Ann", "bob"), [1, 2]),
        (leaf("name", "notIn", "Ann", "bob"), [3, 4]),
        (leaf("name", "contains", "N", "ob"), [1, 2, 3]),
        (leaf("name", "notContains", "N", "x"), [2, 4]),
        (leaf("name", "startsWith", "an"), [1, 3]),
        (leaf("name", "notStartsWith", "an"), [2, 4]),
        (leaf("name", "endsWith", "N"), [1, 3]),
        (leaf("name", "notEndsWith", "N", "B"), [4]),
        (leaf("name", "set"), [1, 2, 3]),
        (leaf("name", "notSet"), [4]),
        (leaf("name", "gt", "Ann"), [2, 3]),
        (leaf("score", "equals", "1.5"), [1]),
        (leaf("score", "gt", "1.5", "99"), [2, 4]),
        (leaf("score", "gte", Decimal("1.5")), [1, 2, 4]),
        (leaf("score", "lt", 10), [1, 2]),
        (leaf("score", "lte", "10.0"), [1, 2, 4]),
        (leaf("score", "gt", None, 2), [2, 4]),
        (
            leaf("score", "gt", None),
            (500, "Error: Expected one parameter but nothing found"),
        ),
        (leaf("ok", "equals", True), [1, 3]),
        (leaf("ok", "equals", "false"), [2]),
        (leaf("ok", "notEquals", "TRUE"), [2, 4]),
        (leaf("at", "equals", "2024-05-02"), [2]),
        (leaf("at", "inDateRange", "2024-05-01", "2024-05-02"), [1, 2]),
        (leaf("at", "inDateRange", "2024-05-01"), [1]),
        (
            leaf("at", "inDateRange", "2024-05-01T10:00:00Z", "2024-05-01T10:00:00Z"),
            [1],
        ),
        (leaf("at", "notInDateRange", "2024-05-01", "2024-05-02"), [3]),
        (leaf("at", "onTheDate", "2024-05-03"), [3]),
        (leaf("at", "onTheDate", "from 2024-05-02 to 2024-05-03"), [2, 3]),
        (
            leaf("at", "inDateRange", None),
            (
                400,
                'Error: invalid input syntax for type timestamp with time zone: "Invalid date"',
            ),
        ),
        (leaf("at", "beforeDate", "2024-05-02"), [1]),
        (leaf("at", "beforeOrOnDate", "2024-05-02"), [1, 2]),
        (leaf("at", "afterDate", "2024-05-02"), [3]),
        (leaf("at", "afterOrOnDate", "2024-05-02"), [2, 3]),
        (leaf("at", "beforeDate", "today"), [1, 2, 3]),
        (leaf("at", "afterDate", "yesterday"), []),
        (leaf("n", "measureFilter"), (500, "Error: Path can't be undefined")),
        (leaf("name", "in", None), (400, 'Error: syntax error at or near ")"')),
        (
            leaf("name", "equals", None, None),
            (400, 'Error: syntax error at or near ")"'),
        ),
        (leaf("name", "contains", None), (400, 'Error: syntax error at or near "OR"')),
        (leaf("name", "contains", "b", None), [2, 4]),
        (leaf("name", "notContains", "b", None), [1, 3]),
        (leaf("name", "notContains", None), [1, 2, 3, 4]),
        ({"or": [leaf("n", "equals", 2), leaf("name", "notContains", None)]}, [2]),
        (
            leaf("n", "notStartsWith", "1"),
            (400, "Error: operator does not exist: numeric !~~* text"),
        ),
        (
            {
                "or": [
                    leaf("n", "equals", 1),
                    {"and": [leaf("n", "gt", 2), leaf("n", "lt", 4)]},
                ]
            },
            [1, 3],
        ),
        ({"or": []}, [1, 2, 3, 4]),
        ({"and": [leaf("n", "gt", 3), {"or": []}]}, [4]),
        ({"and": [{"or": []}]}, [1, 2, 3, 4]),
        (
            leaf("score", "gt", "x"),
            (400, 'Error: invalid input syntax for type numeric: "x"'),
        ),
        (
            leaf("ok", "equals", "x"),
            (400, 'Error: invalid input syntax for type boolean: "x"'),
        ),
        (
            leaf("at", "beforeDate", "2024-13-01"),
            (400, "Can't parse date: '2024-13-01'"),
        ),
        (
            leaf("name", "beforeDate", "2024-05-01"),
            (400, "Error: operator does not exist: text < timestamp with time zone"),
        ),
        (
            leaf("name", "gt"),
            (
                400,
                'Values required for filter: {"member":"t.name","operator":"gt","values":[]}',
            ),
        ),
        (leaf("nope", "set"), (400, "'nope' not found for path 't.nope'")),
        (
            {**leaf("name", "set"), "member": "u.name"},
            (400, "Cube 'u' not found for path 'u.name'"),
        ),
    ],
)
def test_operators(one, expected):
    assert kept(one, order={"t.n": "asc"}) == expected


def test_relative_dates_in_a_pair_are_refused():
    status, error = kept(leaf("at", "inDateRange", "yesterday", "today"))
    assert status == 400
    assert error.endswith('Got: ["yesterday","today"]')
    assert error.startswith(
        "Relative-date strings are only supported when `values` has"
    )


def test_filters_on_measures_are_applied_to_groups():
    query = {"measures": ["t.count"], "dimensions": ["t.ok"]}
    having = leaf("count", "gt", "1")
    assert ask({**query, "filters": [having]}) == [{"t.ok": True, "t.count": "2"}]
    several = {"or": [leaf("total", "gte", 10), leaf("low", "equals", "2.25")]}
    assert {r["t.ok"] for r in ask({**query, "filters": [several]})} == {None, False}
    mixed = {"or": [having, leaf("n", "gt", "1")]}
    _status, error = ask({**query, "filters": [mixed]})
    assert error.startswith("You cannot use dimension and measure in same condition: {")


def test_aggregates_are_exact():
    measures = ["count", "named", "names", "total", "mean", "low", "high"]
    query = {"measures": [f"t.{name}" for name in measures]}
    assert list(ask(query)[0].values()) == [
        "4",
        "3",
        "3",
        "13.75",
        "4.5833333333333333",
        "1.50",
        "10",
    ]
    assert list(ask(query, rows=[])[0].values()) == ["0", "0", "0", *[None] * 4]
    large = [{"score": Decimal("9" * 40 + ".1")}, {"score": Decimal("0.02")}]
    assert ask({"measures": ["t.total"]}, rows=large) == [{"t.total": "9" * 40 + ".12"}]


def test_nulls_are_ordered_as_postgresql_does():
    query = {"dimensions": ["t.score"]}
    ordered = [ask({**query, "order": {"t.score": way}}) for way in ("asc", "desc")]
    assert [[row["t.score"] for row in data] for data in ordered] == [
        ["1.50", "2.25", "10", None],
        [None, "10", "2.25", "1.50"],
    ]


NAN = [
    {"n": 1, "name": "a", "score": Decimal("Infinity")},
    {"n": 2, "name": "b", "score": Decimal("NaN")},
    {"n": 3, "name": "c", "score": Decimal(5)},
    {"n": 4, "name": "d", "score": None},
    {"n": 5, "name": "e", "score": Decimal("-NaN")},
]


@pytest.mark.parametrize("generation", ["strict", "classic"])
@pytest.mark.parametrize("way", ["asc", "desc"])
def test_nan_is_ordered_above_all_numbers(generation, way):
    query = {"measures": ["t.total"], "dimensions": ["t.name"]}
    rows = ask(
        {**query, "order": {"t.total": way}}, generation=generation, rows=NAN[:4]
    )
    expected = ["c", "a", "b", "d"]
    assert [r["t.name"] for r in rows] == expected[:: 1 if way == "asc" else -1]


@pytest.mark.parametrize("generation", ["strict", "classic"])
@pytest.mark.parametrize(
    ("operator", "value", "expected"),
    [
        ("lt", "1000000", {"c"}),
        ("lte", "NaN", {"a", "b", "c", "e"}),
        ("gt", "5", {"a", "b", "e"}),
        ("gt", "Infinity", {"b", "e"}),
        ("gte", "NaN", {"b", "e"}),
        ("equals", "NaN", {"b", "e"}),
        ("notEquals", "NaN", {"a", "c", "d"}),
        ("equals", "5", {"c"}),
    ],
)
def test_nan_is_compared_as_postgresql_does(generation, operator, value, expected):
    for member in ("total", "score"):
        query = {"measures": ["t.total"], "dimensions": ["t.name"]}
        query["filters"] = [leaf(member, operator, value)]
        rows = ask(query, generation=generation, rows=NAN)
        assert {r["t.name"] for r in rows} == expected


def test_nan_in_aggregates_and_groups():
    measures = ["t.total", "t.mean", "t.low", "t.high"]
    assert list(ask({"measures": measures}, rows=NAN)[0].values()) == [
        *("NaN", "NaN", "5", "NaN"),
    ]
    infinite = [{"score": Decimal("Infinity")}, {"score": Decimal("-Infinity")}]
    assert ask({"measures": ["t.total", "t.mean"]}, rows=infinite) == [
        {"t.total": "NaN", "t.mean": "NaN"}
    ]
    query = {"measures": ["t.count"], "dimensions": ["t.score"]}
    groups = ask({**query, "order": {"t.score": "asc"}}, rows=NAN)
    assert [tuple(r.values()) for r in groups] == [
        *(("5", "1"), ("Infinity", "1"), ("NaN", "2"), (None, "1")),
    ]


def test_order_by_several():
    query = {"dimensions": ["t.ok", "t.n"], "order": [["t.ok", "desc"], ["t.n", "asc"]]}
    assert [row["t.n"] for row in ask(query)] == ["4", "1", "3", "2"]


def test_the_default_order():
    time = {"dimension": "t.at", "granularity": "day"}
    by_time = ask({"measures": ["t.count"], "timeDimensions": [time]})
    assert [row["t.at.day"] for row in by_time] == [
        "2024-05-01T00:00:00.000",
        "2024-05-02T00:00:00.000",
        "2024-05-03T00:00:00.000",
        None,
    ]
    by_measure = ask({"measures": ["t.high"], "dimensions": ["t.n"]})
    assert [row["t.n"] for row in by_measure] == ["3", "4", "2", "1"]


def test_days_of_a_zone_with_daylight_saving_time():
    rows = [
        {"at": "2024-03-31T00:30Z"},
        {"at": "2024-03-30T23:30Z"},
        {"at": "2024-03-31T22:30Z"},
    ]
    rows = [{"at": row["at"].replace("Z", "+00:00")} for row in rows]
    time = {"dimension": "t.at", "granularity": "day", "dateRange": "2024-03-31"}
    query = {
        "measures": ["t.count"],
        "timeDimensions": [time],
        "timezone": "europe/berlin",
    }
    assert ask(query, rows=rows) == [
        {
            "t.at.day": "2024-03-31T00:00:00.000",
            "t.at": "2024-03-31T00:00:00.000",
            "t.count": "2",
        }
    ]


@pytest.mark.parametrize(
    ("unit", "begin"),
    [
        ("second", "2024-05-15T10:20:30"),
        ("minute", "2024-05-15T10:20:00"),
        ("hour", "2024-05-15T10:00:00"),
        ("day", "2024-05-15T00:00:00"),
        ("week", "2024-05-13T00:00:00"),
        ("month", "2024-05-01T00:00:00"),
        ("quarter", "2024-04-01T00:00:00"),
        ("year", "2024-01-01T00:00:00"),
    ],
)
def test_granularities(unit, begin):
    query = {"timeDimensions": [{"dimension": "t.at", "granularity": unit}]}
    (row,) = ask(query, rows=[{"at": "2024-05-15T10:20:30.456"}])
    assert row[f"t.at.{unit}"] == f"{begin}.000"
    assert ask(
        {"dimensions": [f"t.at.{unit}"]}, rows=[{"at": "2024-05-15T10:20:30.456"}]
    ) == [row]


@pytest.mark.parametrize(
    ("phrase", "begin", "end"),
    [
        ("This Hour", "2026-11-22T05:00:00.000", "2026-11-22T05:59:59.999"),
        ("next month", "2026-12-01T00:00:00.000", "2026-12-31T23:59:59.999"),
        ("last year", "2025-01-01T00:00:00.000", "2025-12-31T23:59:59.999"),
        ("last 9 months", "2026-02-01T00:00:00.000", "2026-10-31T23:59:59.999"),
        ("next 2 quarters", "2027-01-01T00:00:00.000", "2027-06-30T23:59:59.999"),
        ("last 1440 minutes", "2026-11-21T05:47:00.000", "2026-11-22T05:46:59.999"),
        (
            "from yesterday to tomorrow",
            "2026-11-21T00:00:00.000",
            "2026-11-21T23:59:59.999",
        ),
        (
            "from 3 hours ago to now",
            "2026-11-22T02:00:00.000",
            "2026-11-22T05:59:59.999",
        ),
        (
            "from 2 days ago to 1 day ago",
            "2026-11-20T00:00:00.000",
            "2026-11-21T23:59:59.999",
        ),
        ("2024-05-01T10:20:30", "2024-05-01T00:00:00.000", "2024-05-01T23:59:59.999"),
        ("now", "2026-11-22T00:00:00.000", "2026-11-22T23:59:59.999"),
    ],
)
def test_relative_ranges(phrase, begin, end):
    time = {"dimension": "t.at", "dateRange": phrase}
    query = {"measures": ["t.count"], "timeDimensions": [time]}
    answer = gateway().answer("load", {"query": query})
    assert answer.body["query"]["timeDimensions"][0]["dateRange"] == [begin, end]
    assert answer.passing


def test_an_unreadable_range_is_refused():
    time = {"dimension": "t.at", "dateRange": "Gibberish"}
    query = {"measures": ["t.count"], "timeDimensions": [time]}
    assert ask(query) == (400, "Can't parse date: 'gibberish'")
    ranged = {**time, "dateRange": ["gibberish"]}
    status, error = ask({**query, "timeDimensions": [ranged]})
    assert (status, error[-14:]) == (400, '"Invalid date"')


def test_ungrouped():
    query = {
        "measures": ["t.total", "t.count"],
        "dimensions": ["t.ok"],
        "ungrouped": True,
    }
    assert len(ask(query)) == 4
    assert ask(query, rows=[]) == []
    with_key = {**query, "dimensions": ["t.n"]}
    assert len(ask(with_key, generation="classic")) == 4
    _status, error = ask(query, generation="classic")
    assert error.startswith("Ungrouped query requires primary keys to be present in")


def time(**more):
    return {"measures": ["t.count"], "timeDimensions": [{"dimension": "t.at", **more}]}


@pytest.mark.parametrize(
    ("query", "error"),
    [
        (
            [time(granularity="day"), time(granularity="month")],
            "Data blending query granularities must match",
        ),
        ([time(), time()], "Data blending query without granularity is not supported"),
        (
            time(granularity="fortnight"),
            'Granularity "fortnight" does not exist in dimension t.at',
        ),
        (
            {"dimensions": ["t.n.day"]},
            'Granularity "day" does not exist in dimension t.n',
        ),
        (
            {
                "measures": ["t.count"],
                "timeDimensions": [{"dimension": "t.at", "compareDateRange": ["today"]}]
                * 2,
            },
            "compareDateRange can only exist for one timeDimension",
        ),
        ({"measures": ["t.n"]}, "'n' not found for path 't.n'"),
        ({"dimensions": ["t.count"]}, "'count' not found for path 't.count'"),
        (
            {"measures": ["t.count"], "segments": ["u.x"]},
            "Cube 'u' not found for path 'u.x'",
        ),
        (
            {"measures": ["t.count"], "maskedMembers": []},
            "maskedMembers cannot be provided in the query",
        ),
    ],
)
def test_queries_of_valid_form_that_are_refused(query, error):
    assert ask(query, query_type="multi") == (400, error)


def test_comparing_keeps_other_time_dimensions():
    query = {
        "measures": ["t.count"],
        "timeDimensions": [
            {"dimension": "t.at", "dateRange": ["2024-05-01", "2024-05-03"]},
            {"dimension": "t.at", "compareDateRange": ["2024-05-01", ["2024-05-02"]]},
        ],
    }
    first, second = ask(query, query_type="multi")
    assert (
        first[0]["compareDateRange"]
        == "2024-05-01T00:00:00.000 - 2024-05-01T23:59:59.999"
    )
    assert second[0]["t.count"] == "1"


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ([5], '"value" must be of type object'),
        (
            {"dimensions": ["t"]},
            (
                '"dimensions[0]" with value "t" fails to match the required pattern: '
                r"/^[a-zA-Z0-9_]+\.[a-zA-Z0-9_]+(\.[a-zA-Z0-9_]+)?$/"
            ),
        ),
        ({"measures": [5]}, '"measures[0]" must be one of [string, object]'),
        (
            {"measures": [{}]},
            '"measures[0]" does not match any of the allowed types',
        ),
        ({"filters": {}}, '"filters" must be an array'),
        ({"filters": [5]}, '"filters[0]" does not match any of the allowed types'),
        (
            {"filters": [{"or": 5}]},
            '"filters[0]" does not match any of the allowed types',
        ),
        (
            {"filters": [{"x": 1}]},
            '"filters[0]" does not match any of the allowed types',
        ),
        ({"timeDimensions": [5]}, '"timeDimensions[0]" must be of type object'),
        ({"timeDimensions": [{}]}, '"timeDimensions[0].dimension" is required'),
        (
            {"timeDimensions": [{"dimension": 5}]},
            '"timeDimensions[0].dimension" must be a string',
        ),
        (
            {"timeDimensions": [{"dimension": ""}]},
            '"timeDimensions[0].dimension" is not allowed to be empty',
        ),
        (time(granularity=None), '"timeDimensions[0].granularity" must be a string'),
        (
            time(granularity=""),
            '"timeDimensions[0].granularity" is not allowed to be empty',
        ),
        (
            time(dateRange=["a", "b", "c"]),
            '"timeDimensions[0].dateRange" must contain less than or equal to 2 items',
        ),
        (time(dateRange=[5]), '"timeDimensions[0].dateRange[0]" must be a string'),
        (
            time(dateRange=""),
            '"timeDimensions[0].dateRange" is not allowed to be empty',
        ),
        (
            time(compareDateRange="today"),
            '"timeDimensions[0].compareDateRange" must be an array',
        ),
        (time(extra=1), '"timeDimensions[0].extra" is not allowed'),
        ({"order": {"a b": "asc"}}, '"order.a b" is not allowed'),
        ({"order": [["t.n"]]}, '"order[0]" must contain at least 2 items'),
        ({"order": [["t.n", "asc", "x"]]}, '"order[0]" must contain at most 2 items'),
        ({"order": [[5, "asc"]]}, '"order[0][0]" must be a string'),
        ({"order": [["t.n", "up"]]}, '"order[0][1]" must be one of [asc, desc]'),
        ({"limit": True}, '"limit" must be a number'),
        ({"offset": Decimal("1.5")}, '"offset" must be an integer'),
        ({"total": "yes"}, '"total" must be a boolean'),
        ({"timezone": 5}, '"timezone" must be a string'),
        ({"joinHints": ["a"]}, '"joinHints[0]" must be an array'),
        ({"joinHints": [[5]]}, '"joinHints[0][0]" must be a string'),
    ],
)
def test_the_form_of_a_query(query, problem):
    assert ask(query) == (400, f"Invalid query format: {problem}")


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ({"measures": [5]}, '"measures[0]" must be one of [string, object]'),
        ({"measures": [""]}, '"measures[0]" is not allowed to be empty'),
        (
            {"dimensions": ["t.at.fortnight"]},
            '"dimensions[0]" with value "t.at.fortnight" fails',
        ),
        ({"timezone": ""}, '"timezone" is not allowed to be empty'),
        ({"renewQuery": 1}, '"renewQuery" must be a boolean'),
    ],
)
def test_the_form_of_a_query_on_older_servers(query, problem):
    status, error = ask(query, generation="classic")
    assert status == 400
    assert error.startswith(f"Invalid query format: {problem}")


def test_older_servers_accept_and_ignore_a_limit_in_a_string():
    query = {"dimensions": ["t.n"], "limit": "1", "offset": "1"}
    assert len(ask(query, generation="classic")) == 3


def test_older_servers_read_the_zone_only_with_a_time_dimension():
    query = {"measures": ["t.count"], "timezone": "PST"}
    assert ask(query, generation="classic") == [{"t.count": "4"}]
    timed = {**time(granularity="day"), "timezone": "PST"}
    assert ask(timed, generation="classic") == (500, "Error: Unknown timezone: PST")
