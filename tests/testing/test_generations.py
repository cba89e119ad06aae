"""What 0.35.81 and 1.7.43 do differently, or in a way that nobody expects.

Each fact was seen on the real servers, over PostgreSQL.
"""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from ortege_watch.testing import Table
from ortege_watch.testing._cube.gateway import Gateway

NOW = 1795326430.0  # 2026-11-22T05:47:10Z, a Sunday
NAMES = ("a_b", "axb", "a%b", "a\\b", "b_", "_a", None)


def table(rows) -> Table:
    return Table(
        "t",
        measures={
            "count": "count",
            "names": "count_distinct(name)",
            "mean": "avg(score)",
            "total": "sum(score)",
        },
        dimensions={
            "n": "number",
            "name": "string",
            "score": "number",
            "at": "time",
        },
        primary_key="n",
        rows=rows,
    )


def ask(generation, query, rows, query_type=None):
    gateway = Gateway(
        generation=generation,
        tables={"t": table(rows)},
        secret="s",
        now=lambda: NOW,
    )
    answer = gateway.answer("load", {"query": query, "queryType": query_type})
    if answer.status != 200:
        return answer.status, answer.body["error"]
    return json.loads(bytes(answer.body["data"]), parse_float=str)


def kept(generation, one, rows):
    """The numbers of the rows that pass a filter."""
    query = {"dimensions": ["t.n"], "filters": [one], "order": {"t.n": "asc"}}
    data = ask(generation, query, rows)
    return [int(row["t.n"]) for row in data] if isinstance(data, list) else data


def leaf(member, operator, *values):
    return {"member": f"t.{member}", "operator": operator, "values": list(values)}


def by(*units, **more):
    times = [{"dimension": "t.at", "granularity": unit, **more} for unit in units]
    return {"timeDimensions": times}


@pytest.mark.parametrize(
    ("operator", "value", "classic", "strict"),
    [
        ("contains", "_", [1, 5, 6], [1, 5, 6]),
        ("contains", "%", [3], [3]),
        # 0.35.81 takes the backslash for an escape: "a" and the escaped "b".
        ("contains", "a\\b", [], [4]),
        ("startsWith", "_", [1, 2, 3, 4, 5, 6], [6]),
        ("startsWith", "a_b", [1, 2, 3, 4], [1]),
        ("startsWith", "a\\_", [1], []),
        ("notStartsWith", "%", [7], [1, 2, 3, 4, 5, 6, 7]),
        ("endsWith", "_", [1, 2, 3, 4, 5, 6], [5]),
        ("endsWith", "%b", [1, 2, 3, 4], [3]),
        ("notEndsWith", "_b", [5, 6, 7], [2, 3, 4, 5, 6, 7]),
        (
            "endsWith",
            "\\",
            (400, "Error: LIKE pattern must not end with escape character"),
            [],
        ),
    ],
)
def test_wildcards_in_text_operators(operator, value, classic, strict):
    rows = [{"n": n, "name": name} for n, name in enumerate(NAMES, 1)]
    one = leaf("name", operator, value)
    assert kept("classic", one, rows) == classic
    assert kept("strict", one, rows) == strict


def test_a_dangling_backslash_fails_only_where_the_text_matches_until_there():
    rows = [{"n": 1, "name": "xyz"}, {"n": 2, "name": ""}, {"n": 3, "name": None}]
    assert kept("classic", leaf("name", "endsWith", "a\\"), rows) == []


@pytest.mark.parametrize("operator", ["inDateRange", "onTheDate"])
def test_a_range_of_one_value(operator):
    days = ("2024-04-30", "2024-05-01", "2026-11-22T23:00", "2026-11-23")
    rows = [{"n": n, "at": day} for n, day in enumerate(days, 1)]
    one = leaf("at", operator, "2024-05-01")
    assert kept("classic", one, rows) == [2, 3]  # until the end of today
    assert kept("strict", one, rows) == [2]  # that day
    negated = leaf("at", "notInDateRange", "2024-05-01")
    assert kept("classic", negated, rows) == [1, 4]
    assert kept("strict", negated, rows) == [1, 3, 4]


def test_the_zone_of_a_time_among_dimensions():
    rows = [{"n": 1, "at": "2024-05-01T22:30:00Z"}]
    query = {"dimensions": ["t.at"], "timezone": "Europe/Berlin"}
    assert ask("classic", query, rows) == [{"t.at": "2024-05-01T22:30:00.000"}]
    assert ask("strict", query, rows) == [{"t.at": "2024-05-02T00:30:00.000"}]


@pytest.mark.parametrize("generation", ["classic", "strict"])
def test_an_exact_time_next_to_a_granularity_keeps_its_name(generation):
    rows = [{"n": 1, "at": "2024-05-01T22:30:00Z"}]
    query = {"dimensions": ["t.at"], **by("day")}
    assert ask(generation, query, rows) == [
        {"t.at": "2024-05-01T22:30:00.000", "t.at.day": "2024-05-01T00:00:00.000"}
    ]


def test_the_time_without_a_granularity_and_the_order_of_columns():
    rows = [{"n": 1, "at": "2024-05-01T22:30:00Z"}]
    query = {"measures": ["t.count"], **by("hour", "year"), "responseFormat": "compact"}
    hour, year = "2024-05-01T22:00:00.000", "2024-01-01T00:00:00.000"
    assert ask("classic", query, rows) == {
        "members": ["t.at.hour", "t.at", "t.at.year", "t.count"],
        "dataset": [[hour, year, year, "1"]],
    }
    assert ask("strict", query, rows) == {
        "members": ["t.at.hour", "t.at.year", "t.count", "t.at"],
        "dataset": [[hour, year, "1", hour]],
    }


def test_which_column_of_a_time_the_order_means():
    days = ("2024-05-02", "2024-05-01", "2024-06-01")
    rows = [{"n": n, "at": day} for n, day in enumerate(days, 1)]
    query = {"dimensions": ["t.n"], **by("year", "day"), "order": {"t.at": "desc"}}

    def numbers(generation, **more):
        return [row["t.n"] for row in ask(generation, {**query, **more}, rows)]

    assert numbers("classic") == ["1", "2", "3"]  # all in one year
    assert numbers("strict") == ["3", "1", "2"]  # the finest granularity
    exact = {"dimensions": ["t.n", "t.at"], **by("year")}
    assert numbers("classic", **exact) == ["3", "1", "2"]
    assert numbers("strict", **exact) == ["1", "2", "3"]
    # 1.7.43 counts the granular columns from the first column of all: t.n here.
    for direction, found in (("asc", ["1", "2", "3"]), ("desc", ["3", "2", "1"])):
        assert numbers("strict", order={"t.at.year": direction}) == found
    assert numbers("strict", order={"t.at.week": "desc"}) == ["1", "2", "3"]
    assert numbers("classic", order={"t.at.year": "desc"}) == ["1", "2", "3"]


@pytest.mark.parametrize("generation", ["classic", "strict"])
def test_compact_answers_without_rows_have_no_members(generation):
    query = {"dimensions": ["t.n"], "responseFormat": "compact"}
    assert ask(generation, query, []) == {"members": [], "dataset": []}


@pytest.mark.parametrize(
    ("scores", "mean"),
    [
        (["1000.500000"], "1000.5000000000000000"),
        (["1.000000"], "1.00000000000000000000"),
        (["1", "2"], "1.5000000000000000"),
        (["0.000001"], "0.000001000000000000000000"),
        (["9007199254740993.000000"], "9007199254740993.000000"),
        (["1000000.000000", "2"], "500001.000000000000"),
        (["0"], "0.00000000000000000000"),
        (["1", "1", "0"], "0.66666666666666666667"),
        (["-3.500000"], "-3.5000000000000000"),
    ],
)
def test_the_digits_of_an_average(scores, mean):
    rows = [{"n": n, "score": Decimal(s)} for n, s in enumerate(scores)]
    (row,) = ask("strict", {"measures": ["t.mean"]}, rows)
    assert row["t.mean"] == mean


def test_measures_of_ungrouped_queries():
    rows = [{"n": 1, "name": None, "score": Decimal("1.50")}]
    names = ["t.count", "t.names", "t.mean", "t.total"]
    query = {"measures": names, "dimensions": ["t.n"], "ungrouped": True}
    plain = {"t.n": "1", "t.names": None, "t.mean": "1.50", "t.total": "1.50"}
    assert ask("classic", query, rows) == [{**plain, "t.count": 1}]
    assert ask("strict", query, rows) == [{**plain, "t.count": "1.0"}]  # a JSON number
    refused = (400, "Measure filters aren't allowed in ungrouped query")
    query["filters"] = [leaf("count", "gt", 1)]
    assert ask("classic", query, rows) == ask("strict", query, rows) == refused


def test_counts_are_compared_with_whole_numbers_only():
    query = {"measures": ["t.count"], "filters": [leaf("count", "gt", "0.5")]}
    refused = (400, 'Error: invalid input syntax for type bigint: "0.5"')
    assert ask("strict", query, []) == refused
    query["filters"] = [leaf("count", "gte", "0")]
    assert ask("strict", query, []) == [{"t.count": "0"}]


def test_a_date_operator_on_a_measure():
    query = {"measures": ["t.total"], "filters": [leaf("total", "afterDate", "2024")]}
    assert ask("classic", query, []) == (
        500,
        "TypeError: Cannot read properties of null (reading 'split')",
    )
    query["filters"] = [leaf("total", "afterDate", "2024-05-01")]
    assert ask("strict", query, []) == (
        400,
        "Error: operator does not exist: numeric > timestamp with time zone",
    )


@pytest.mark.parametrize("generation", ["classic", "strict"])
@pytest.mark.parametrize(
    ("query", "error"),
    [
        ({"measures": 5}, "array?.some is not a function"),
        ({"measures": {}}, "array?.some is not a function"),
        ({"segments": ""}, "array?.some is not a function"),
        (
            {"timeDimensions": "x"},
            "(query.timeDimensions || []).forEach is not a function",
        ),
        (
            {"timeDimensions": [None]},
            "Cannot read properties of null (reading 'compareDateRange')",
        ),
    ],
)
def test_queries_that_break_the_code_before_the_check(generation, query, error):
    asked = {"measures": ["t.count"], **query}
    assert ask(generation, asked, []) == (500, f"TypeError: {error}")


@pytest.mark.parametrize("generation", ["classic", "strict"])
def test_ranges_into_the_future(generation):
    days = ("2026-11-21", "2026-11-22", "2026-11-25T23:00", "2026-11-26")
    rows = [{"n": n, "at": day} for n, day in enumerate(days, 1)]
    time = {"dimension": "t.at", "dateRange": "from now to 3 days from now"}
    query = {"dimensions": ["t.n"], "timeDimensions": [time], "order": {"t.n": "asc"}}
    assert [row["t.n"] for row in ask(generation, query, rows)] == ["2", "3"]
    time["dateRange"] = "from 2026-11-22 to 2 hours from now"
    # A day without an hour is its noon, where an hour is named.
    assert ask(generation, query, rows) == []


def call(generation, method, query):
    gateway = Gateway(
        generation=generation, tables={"t": table([])}, secret="s", now=lambda: NOW
    )
    fields = {"query": query, "queryType": "multi"}
    answer = gateway.answer(method, fields)
    return answer.status, answer.body


BLENDED = [
    {"measures": ["t.count"], **by("day")},
    {"measures": ["t.total"], **by("day"), "limit": 5},
]
TIME = [{"dimension": "time", "granularity": "day"}]


def test_the_pivot_query_of_blending():
    short = {"measures": ["t.count", "t.total"], "dimensions": []}
    short |= {"timeDimensions": TIME, "queryType": "blendingQuery"}
    assert call("classic", "load", BLENDED)[1]["pivotQuery"] == short
    assert call("strict", "dry-run", BLENDED)[1]["pivotQuery"] == short
    del short["dimensions"]
    assert call("strict", "load", BLENDED)[1]["pivotQuery"] == {
        **short,
        "cacheMode": "stale-if-slow",
        "timezone": "UTC",
        "filters": [],
        "limit": 10000,
        "rowLimit": 10000,
    }


def test_the_first_query_of_a_comparison_is_changed_by_its_pivot_query():
    time = {"dimension": "t.at", "compareDateRange": ["today", "yesterday"]}
    query = {"measures": ["t.count"], "timeDimensions": [time]}
    for generation, method, changed in (
        ("classic", "load", ["compareDateRange"]),
        ("classic", "dry-run", ["compareDateRange"]),
        ("strict", "load", []),
        ("strict", "dry-run", ["compareDateRange"]),
    ):
        _, body = call(generation, method, query)
        wires = body.get("normalizedQueries") or [r["query"] for r in body["results"]]
        assert [wire["dimensions"] for wire in wires] == [changed, []]
        assert body["pivotQuery"]["dimensions"] == ["compareDateRange"]


@pytest.mark.parametrize("generation", ["classic", "strict"])
@pytest.mark.parametrize("method", ["dry-run", "sql"])
def test_a_dry_run_does_not_ask_the_database(generation, method):
    query = {"measures": ["t.count"], "filters": [leaf("score", "gt", "x")]}
    assert call(generation, "load", query)[0] == 400
    assert call(generation, method, query)[0] == 200
    query["filters"].append(leaf("score", "gt", None))
    # Cube itself fails before the database would.
    assert call(generation, method, query)[0] == 500
    assert call(generation, "load", query)[0] == 500


@pytest.mark.parametrize(
    ("query", "order"),
    [
        ({"measures": ["t.count"]}, {}),
        ({"measures": ["t.count"], "dimensions": ["t.n"]}, {"t.count": "desc"}),
        ({"dimensions": ["t.name", "t.n"]}, {"t.name": "asc"}),
        ({"measures": ["t.count"], **by("day")}, {"t.at": "asc"}),
        ({"measures": ["t.count"], "order": []}, {}),
    ],
)
def test_the_default_order(query, order):
    _, body = call("strict", "dry-run", query)
    assert body["queryOrder"] == [order]
    assert call("strict", "sql", query)[1]["sql"]["order"] == order


def test_what_sql_and_meta_have_in_each_generation():
    query = {"measures": ["t.count"], **by("day")}
    classic, strict = (call(g, "sql", query)[1] for g in ("classic", "strict"))
    assert strict == {**classic, "dataSource": "default"}
    assert classic["sql"]["aliasNameToMember"] == {
        "t__count": "t.count",
        "t__at_day": "t.at.day",
    }
    assert classic["sql"]["timeDimensionAlias"] == "t__at_day"
    classic, strict = (
        call(g, "meta", None)[1]["cubes"][0] for g in ("classic", "strict")
    )
    assert strict.keys() - classic.keys() == {"folders", "nestedFolders"}
    number = {"name": "number", "specifier": ",.2~f"}
    assert strict["measures"][0]["formatDescription"] == number
    assert "formatDescription" not in classic["measures"][0]


def test_titles():
    named = Table("my_cube", dimensions={"contract_id": "string", "seen_at": "time"})
    for generation, title in (("classic", "Contract Id"), ("strict", "Contract ID")):
        gateway = Gateway(
            generation=generation, tables={"my_cube": named}, secret="", now=lambda: NOW
        )
        (cube,) = gateway.answer("meta", {}).body["cubes"]
        first, second = cube["dimensions"]
        assert (first["title"], first["shortTitle"]) == (f"My Cube {title}", title)
        assert second["shortTitle"] == "Seen at"


@pytest.mark.parametrize(
    ("query", "classic"),
    [
        # The range of t.seen counts as a column: t.at means the next one.
        ({"dimensions": ["t.n"], "order": {"t.at": "desc"}}, ["2", "1"]),
        # After the last column there is none.
        (
            {"order": {"t.at": "desc"}, "measures": []},
            (400, "Error: ORDER BY position 2 is not in select list"),
        ),
    ],
)
def test_a_time_without_a_granularity_counts_as_a_column_on_0_35(query, classic):
    days = ("2024-05-01", "2024-05-02")
    seen = Table(
        "t",
        measures={"total": "sum(score)"},
        dimensions={"n": "number", "score": "number", "at": "time", "seen": "time"},
        rows=[
            {"n": n, "score": n, "at": day, "seen": day}
            for n, day in zip((1, 2), reversed(days), strict=True)
        ],
    )
    times = [{"dimension": "t.seen"}, {"dimension": "t.at", "granularity": "day"}]
    query = {"measures": ["t.total"], "timeDimensions": times, **query}
    found = []
    for generation in ("classic", "strict"):
        gateway = Gateway(
            generation=generation, tables={"t": seen}, secret="", now=lambda: NOW
        )
        answer = gateway.answer("load", {"query": query})
        if answer.status != 200:
            found.append((answer.status, answer.body["error"]))
            continue
        rows = json.loads(bytes(answer.body["data"]))
        found.append([row.get("t.n", row["t.at"][:10]) for row in rows])
    assert found[0] == classic
    assert found[1] in (["1", "2"], [*reversed(days)])
