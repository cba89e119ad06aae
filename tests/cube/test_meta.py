from __future__ import annotations

import json
import re
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given, strategies as st

from ortege_watch.cube.meta import (
    CubeMeta,
    DimensionMeta,
    MeasureMeta,
    Meta,
    SegmentMeta,
)
from ortege_watch.errors import DecodeError, InvalidArgument, QueryError
from ortege_watch.query import Dimension, Measure, Query, Segment, TimeDimension

# As Cube 1.7.43 lists a cube, shortened; 0.35.81 has fewer keys.
EVENTS = {
    "name": "stacks_contract_events",
    "type": "cube",
    "title": "Stacks Contract Events",
    "isVisible": True,
    "public": True,
    "description": None,
    "measures": [
        {
            "name": "stacks_contract_events.count",
            "title": "Stacks Contract Events Count",
            "shortTitle": "Count",
            "cumulativeTotal": False,
            "cumulative": False,
            "type": "number",
            "aggType": "count",
            "drillMembers": ["stacks_contract_events.contract_id"],
            "drillMembersGrouped": {"measures": [], "dimensions": []},
            "meta": {"weight": 1.5},
            "isVisible": True,
            "public": False,
        }
    ],
    "dimensions": [
        {
            "name": "stacks_contract_events.contract_id",
            "title": "Stacks Contract Events Contract Id",
            "type": "string",
            "shortTitle": "Contract Id",
            "suggestFilterValues": True,
            "primaryKey": True,
        },
        {"name": "stacks_contract_events.tx_date", "type": "time"},
    ],
    "segments": [{"name": "stacks_contract_events.loud", "title": "Loud"}],
    "hierarchies": [],
}
BODY = json.dumps({"cubes": [EVENTS], "compilerId": "x"}).encode()


def test_a_cube_has_its_members():
    cube = Meta.read(BODY).cube("stacks_contract_events")
    assert isinstance(cube, CubeMeta)
    assert (cube.type, cube.public, cube.description) == ("cube", True, None)
    assert [member.name for member in cube.members] == [
        "stacks_contract_events.count",
        "stacks_contract_events.contract_id",
        "stacks_contract_events.tx_date",
        "stacks_contract_events.loud",
    ]


def test_members_are_typed():
    meta = Meta.read(BODY)
    measure = meta.member("stacks_contract_events.count")
    assert isinstance(measure, MeasureMeta)
    assert (measure.type, measure.agg_type, measure.public) == (
        "number",
        "count",
        False,
    )
    assert measure.short_title == "Count"
    assert measure.drill_members == ("stacks_contract_events.contract_id",)
    dimension = meta.member("stacks_contract_events.contract_id")
    assert isinstance(dimension, DimensionMeta)
    assert (dimension.type, dimension.primary_key) == ("string", True)
    assert isinstance(meta.member("stacks_contract_events.loud"), SegmentMeta)


def test_numbers_in_a_modellers_data_are_exact():
    measure = Meta.read(BODY).member("stacks_contract_events.count")
    assert measure.meta == {"weight": Decimal("1.5")}


def test_cubes_and_members_are_contained():
    meta = Meta.read(BODY)
    assert "stacks_contract_events" in meta
    assert "stacks_contract_events.loud" in meta
    assert "stacks_contract_events.loudest" not in meta
    assert 5 not in meta


def test_members_are_contained_by_their_name():
    meta = Meta.read(BODY)
    assert Measure("stacks_contract_events.count") in meta
    assert TimeDimension("stacks_contract_events.tx_date") in meta
    assert Segment("stacks_contract_events.loud") in meta
    assert Measure("stacks_contract_events.counts") not in meta


def test_a_cube_is_shown_by_the_numbers_of_its_members():
    cube = Meta.read(BODY).cube("stacks_contract_events")
    shown = "<CubeMeta 'stacks_contract_events' measures=1 dimensions=2 segments=1>"
    assert repr(cube) == shown


@pytest.mark.parametrize("data", [{}, None, 5])
def test_only_bytes_are_read(data):
    with pytest.raises(InvalidArgument, match="data must be bytes, got"):
        Meta.read(data)


def test_what_is_missing_is_named_with_what_is_spelt_alike():
    meta = Meta.read(BODY)
    for find, name, advice in (
        (meta.cube, "stacks_contract_event", "did you mean 'stacks_contract_events'?"),
        (meta.cube, "x", "the cubes are stacks_contract_events"),
        (
            meta.member,
            "stacks_contract_events.counts",
            "did you mean 'stacks_contract_events.count'",
        ),
        (
            meta.member,
            "stacks_contract_events.price",
            "the members are stacks_contract_events.count, ",
        ),
        (meta.member, "stacks_contract_calls.fee", "the members are stacks_contract_"),
        (
            meta.member,
            "stacks_contract_event.count",
            "did you mean 'stacks_contract_events.count'?",
        ),
        (Meta.read(b'{"cubes":[]}').cube, "x", "the cubes are (none)"),
    ):
        with pytest.raises(InvalidArgument) as raised:
            find(name)
        assert not isinstance(raised.value, QueryError)
        assert str(raised.value).startswith(f"unknown {find.__name__} {name!r}: ")
        assert advice in str(raised.value)
    with pytest.raises(InvalidArgument, match="name must be a non-empty string, got 5"):
        meta.cube(5)


def test_a_server_of_many_cubes_does_not_fill_the_message():
    body = json.dumps({"cubes": [{"name": f"cube_{i}"} for i in range(1000)]})
    with pytest.raises(InvalidArgument) as raised:
        Meta.read(body.encode()).cube("zzz" * 1000)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"name": 5}, r"\$\.cubes\[0\]\.name"),
        ({"public": "false"}, r"\$\.cubes\[0\]\.public"),
        ({"measures": "count"}, r"\$\.cubes\[0\]\.measures"),
        ({"dimensions": [{"name": "a.b"}]}, r"type.*\$\.cubes\[0\]\.dimensions\[0\]"),
        ({"segments": [{"name": None}]}, r"\$\.cubes\[0\]\.segments\[0\]\.name"),
    ],
)
def test_types_are_strict_and_problems_have_a_path(change, path):
    with pytest.raises(DecodeError, match=path):
        Meta.read(json.dumps({"cubes": [EVENTS | change]}).encode())


def test_an_answer_of_nothing_has_no_cubes():
    assert Meta.read(b'{"cubes":[]}').cubes == ()


@given(st.binary())
def test_any_bytes_are_read_or_refused(data):
    with pytest.raises(DecodeError):
        Meta.read(data)


EXCHANGE = {
    "name": "orders",
    "measures": [
        {"name": "orders.count", "type": "number"},
        {"name": "orders.customer.count", "type": "number"},
    ],
    "dimensions": [
        {"name": "orders.city", "type": "string"},
        {"name": "orders.secret", "type": "string", "public": False},
        {"name": "orders.customer.city", "type": "string"},
        {
            "name": "orders.customer.created_at",
            "type": "time",
            "granularities": [
                {"name": "fiscal_year", "title": "F", "interval": "1 year"}
            ],
        },
        {"name": "orders.at", "type": "time"},
    ],
    "segments": [{"name": "orders.open"}],
}
ORDERS = Meta.read(json.dumps({"cubes": [EXCHANGE]}).encode())
created = TimeDimension("orders.customer.created_at")


@pytest.mark.parametrize(
    "query",
    [
        Query(
            measures=[Measure("orders.count"), Measure("orders.customer.count", int)],
            dimensions=[Dimension("orders.customer.city"), TimeDimension("orders.at")],
            time=[created.by("fiscal_year"), created.by("day"), created.over("today")],
            segments=[Segment("orders.open")],
            where=[Dimension("orders.city").eq("a") | created.after(date(2024, 5, 1))],
            having=[Measure("orders.count").gt(5)],
        ),
        # What a filter restricts is not part of the JSON, and a server does not need it.
        Query.from_wire(
            {
                "dimensions": [
                    "orders.at.day",
                    "orders.customer.created_at.fiscal_year",
                ],
                "filters": [
                    {"member": "orders.count", "operator": "gt", "values": ["5"]}
                ],
            }
        ),
    ],
    ids=["built", "from_wire"],
)
def test_a_query_of_known_members_has_no_problems(query):
    assert query.validate(ORDERS) == []


@pytest.mark.parametrize(
    ("arguments", "problems"),
    [
        (
            {"measures": [Measure("orders.counts")]},
            ["'orders.counts': .*'orders.count'"],
        ),
        (
            {
                "measures": [Measure("orders.count"), Measure("orders.city")],
                "dimensions": [Dimension("orders.custumer.city"), Dimension("x.y")],
                "where": [Dimension("orders.open").eq("a")],
            },
            [
                "orders.city is a dimension, not a measure$",
                "'orders.custumer.city': did you mean 'orders.customer.city'",
                "unknown member 'x.y'",
                "orders.open is a segment, not a dimension$",
            ],
        ),
        (
            {"dimensions": [Dimension("orders.count", object)]},
            ["orders.count is a measure, not a dimension$"],
        ),
        (
            {"dimensions": [Dimension("orders.secret")]},
            ["orders.secret is not public$"],
        ),
        (
            {"time": [TimeDimension("orders.city").by("day")]},
            ["orders.city is not a dimension of time$"],
        ),
        (
            {"time": [TimeDimension("orders.at").by("fiscal_year")]},
            ["orders.at.fiscal_year: granularity must be one of second, minute, "],
        ),
        ({"time": [TimeDimension("orders.when").by("decade")]}, ["'orders.when'"]),
        (
            {"dimensions": [Dimension("orders.at.fiscal_year", object)]},
            ["unknown member 'orders.at.fiscal_year'"],
        ),
        (
            {"dimensions": [Dimension("orders.city.day", object)]},
            ["unknown member 'orders.city.day'"],
        ),
    ],
)
def test_names_every_member_that_a_server_does_not_have(arguments, problems):
    found = Query(**arguments).validate(ORDERS)
    assert len(found) == len(problems)
    for text, pattern in zip(found, problems, strict=True):
        assert re.search(pattern, text)


def test_a_dimension_lists_its_granularities():
    dimension = ORDERS.member("orders.customer.created_at")
    assert isinstance(dimension, DimensionMeta)
    assert dimension.granularities[0].interval == "1 year"
    assert dimension.granularity_names[0] == "second"
    assert dimension.granularity_names[-1] == "fiscal_year"
    assert ORDERS.member("orders.city").granularity_names == ()
    assert ORDERS.member("orders.count").granularity_names == ()
