from __future__ import annotations

import json
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
from ortege_watch.errors import DecodeError, QueryError

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


def test_what_is_missing_is_named_with_what_is_spelt_alike():
    meta = Meta.read(BODY)
    with pytest.raises(QueryError, match="did you mean 'stacks_contract_events'"):
        meta.cube("stacks_contract_event")
    with pytest.raises(
        QueryError, match=r"did you mean 'stacks_contract_events\.count"
    ):
        meta.member("stacks_contract_events.counts")
    with pytest.raises(QueryError, match=r"the server has no cube 'x'$"):
        meta.cube("x")


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
