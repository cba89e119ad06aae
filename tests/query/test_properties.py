"""What holds for every query that can be built."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timezone
from decimal import Decimal
from types import SimpleNamespace
from typing import get_args

import attrs
from hypothesis import given, strategies as st

from ortege_watch import query as language
from ortege_watch.errors import QueryError
from ortege_watch.query import (
    Condition,
    Dimension,
    Group,
    Measure,
    Query,
    Segment,
    TimeDimension,
)
from ortege_watch.query.members import Order
from ortege_watch.query.query import MAX_LIMIT, CacheMode, ResponseFormat

WORDS = ["today", "last 7 days", "this month", "from 7 days ago to now", "2024-05-01"]
ZONES = ["UTC", "America/New_York", "Asia/Kolkata", "Europe/Berlin"]

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
integers = st.integers(-(10**20), 10**20)
decimals = st.decimals(allow_nan=False, allow_infinity=False, places=3)
days = st.dates(date(1970, 1, 1), date(2100, 1, 1))
instants = st.datetimes(
    datetime.fromisoformat("1970-01-01"),
    datetime.fromisoformat("2100-01-01"),
    timezones=st.just(UTC),
)
moments = days | instants


def several(items, least=0):
    # None may be repeated only beside a value.
    lists = st.lists(items, min_size=least, max_size=3)
    return lists.filter(
        lambda found: len(found) < 2 or any(v is not None for v in found)
    )


def names(prefix):
    return st.sampled_from([f"cube.{prefix}{i}" for i in range(4)])


def compared(member, values):
    methods = [
        *(
            values.map(getattr(member, m))
            for m in ("eq", "ne", "gt", "gte", "lt", "lte")
        ),
        *(several(values | st.none(), 1).map(m) for m in (member.in_, member.not_in)),
        st.builds(member.is_set),
        st.builds(member.is_not_set),
    ]
    return st.one_of(methods)


def searched(member):
    methods = ("contains", "not_contains", "starts_with", "ends_with", "not_ends_with")
    return st.sampled_from(methods).flatmap(
        lambda m: several(text, 1).map(lambda texts: getattr(member, m)(*texts))
    )


def dated(member):
    ordered = st.tuples(moments, moments).map(
        lambda pair: sorted(pair, key=lambda m: (m.year, m.month, m.day))
    )

    def ranged(method):
        def make(pair):
            try:
                return method(*pair)
            except QueryError:
                return member.is_set()

        return make

    single = ("before", "on_or_before", "after", "on_or_after")
    return st.one_of(
        *(moments.map(getattr(member, m)) for m in single),
        ordered.map(ranged(member.in_range)),
        ordered.map(ranged(member.not_in_range)),
        days.map(member.on),
    )


def grouped(leaves):
    return st.recursive(
        leaves,
        lambda inner: st.builds(
            Group, st.sampled_from(["and", "or"]), several(inner, 1).map(tuple)
        ),
        max_leaves=4,
    )


where = grouped(
    st.one_of(
        names("text").flatmap(lambda n: compared(Dimension(n), text)),
        names("text").flatmap(lambda n: searched(Dimension(n))),
        names("number").flatmap(lambda n: compared(Dimension(n, int), integers)),
        names("time").flatmap(lambda n: dated(TimeDimension(n))),
    )
)
having = grouped(
    st.one_of(
        names("measure").flatmap(lambda n: compared(Measure(n), decimals | integers)),
        names("measure").map(lambda n: Condition(Measure(n), "measureFilter")),
    )
)
selections = st.builds(
    lambda name, granularity, words: TimeDimension(name).by(granularity).over(words),
    names("time"),
    st.sampled_from(["day", "month", "custom"]),
    st.sampled_from(WORDS) | days,
)


@st.composite
def queries(draw):
    measures = [Measure(n) for n in draw(several(names("measure"), 1))]
    dimensions = [Dimension(n) for n in draw(several(names("text")))]
    time = draw(st.lists(selections, max_size=2, unique_by=lambda s: s.dimension))
    members = draw(
        st.permutations(list(dict.fromkeys([*measures, *dimensions, *time])))
    )
    directions = draw(st.lists(st.sampled_from(["asc", "desc"]), max_size=3))
    settings = {
        "segments": several(names("segment").map(Segment)),
        "where": several(where),
        "having": several(having),
        "limit": st.none() | st.integers(0, MAX_LIMIT),
        "offset": st.integers(0, 10**9),
        "total": st.booleans(),
        "timezone": st.sampled_from(ZONES),
        "ungrouped": st.booleans(),
        "cache": st.none() | st.sampled_from(get_args(CacheMode)),
        "response_format": st.none() | st.sampled_from(get_args(ResponseFormat)),
        "join_hints": several(several(text)),
    }
    arguments = {
        "measures": measures,
        "dimensions": dimensions,
        "time": time,
        "order": [Order(*item) for item in zip(members, directions, strict=False)],
        **{name: draw(values) for name, values in settings.items()},
    }
    try:
        return Query(**arguments)
    except QueryError:
        # An instant in the second of two equal hours, a range that is none in the zone.
        return Query(**{**arguments, "where": [], "having": []})


@given(queries())
def test_what_is_written_is_read_and_written_alike(query):
    wire = query.to_wire()
    assert json.loads(json.dumps(wire)) == wire
    again = Query.from_wire(wire)
    assert again.to_wire() == wire
    assert again.columns.keys() == query.columns.keys()
    written = {member.name for member in query.members}
    assert {member.name for member in again.members} == written
    assert len(again.where) + len(again.having) == len(query.where) + len(query.having)


@given(queries())
def test_a_query_shows_python_that_makes_it(query):
    space = {
        **vars(language),
        "Decimal": Decimal,
        "datetime": SimpleNamespace(datetime=datetime, date=date, timezone=timezone),
    }
    for each in (query, Query.from_wire(query.to_wire())):
        again = eval(repr(each), space)
        assert again == each
        assert hash(again) == hash(each)


@given(queries())
def test_filters_refine_and_nothing_else(query):
    bare = attrs.evolve(query, where=[], having=[])
    assert bare.filter(*query.where, *query.having) == query


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.decimals()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["a.b", "a.b.day", "equals", "inDateRange", "asc", "2024-05-01"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "measures",
                    "dimensions",
                    "segments",
                    "timeDimensions",
                    "filters",
                    "order",
                    "limit",
                    "offset",
                    "total",
                    "timezone",
                    "ungrouped",
                    "responseFormat",
                    "cache",
                    "cacheMode",
                    "joinHints",
                    "renewQuery",
                    "member",
                    "dimension",
                    "operator",
                    "values",
                    "or",
                    "and",
                    "granularity",
                    "dateRange",
                    "compareDateRange",
                    "a.b",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_no_json_raises_anything_but_a_query_error(value):
    for wire in (
        value,
        {"measures": value},
        {"measures": ["a.b"], "filters": value},
        {"measures": ["a.b"], "timeDimensions": [value], "order": value},
        {"measures": ["a.b"], "filters": [{"member": "a.b", "operator": "gt", "values": value}]},
        {"measures": ["a.b"], "limit": value, "joinHints": value, "total": value},
    ):  # fmt: skip
        try:
            query = Query.from_wire(wire)
        except QueryError:
            continue
        assert Query.from_wire(query.to_wire()).to_wire() == query.to_wire()
