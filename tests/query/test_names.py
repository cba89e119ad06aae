"""Members: names, types, identity."""

from __future__ import annotations

import copy
import pickle
from datetime import date, datetime
from decimal import Decimal

import attrs
import pytest

from ortege_watch.errors import QueryError
from ortege_watch.query import Dimension, Measure, Segment, TimeDimension

KINDS = [Measure, Dimension, TimeDimension, Segment]


@pytest.mark.parametrize("kind", KINDS)
def test_keeps_its_name(kind):
    assert kind("cube_1.Member2").name == "cube_1.Member2"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    [
        "",
        "count",
        ".count",
        "cube.",
        "my-cube.count",
        "cube.count ",
        "cube.count\n",
        "cube. count",
        "cübe.count",
        "cube.\u0661",
        "cube.count;drop",
    ],
)
def test_refuses_a_malformed_name(kind, name):
    with pytest.raises(QueryError, match="ASCII letters, digits and underscores"):
        kind(name)


@pytest.mark.parametrize("kind", [Measure, Dimension, TimeDimension, Segment])
@pytest.mark.parametrize("name", ["orders.customer.count", "a.b.c.d", "_.1.A_2"])
def test_takes_names_with_join_aliases(kind, name):
    assert kind(name).name == name


def test_refuses_a_name_that_is_not_a_string():
    with pytest.raises(QueryError, match=r"Measure name must be a string, got 5"):
        Measure(5)
    with pytest.raises(QueryError, match="surrogate"):
        Measure("cube.\ud800")


@pytest.mark.parametrize("kind", [Measure, Dimension])
def test_takes_the_types_that_are_exact(kind):
    for of in (Decimal, int, str, bool, datetime, object):
        assert kind("cube.x", of).type is of


def test_has_a_default_type():
    assert Measure("cube.x").type is Decimal
    assert Dimension("cube.x").type is str
    assert TimeDimension("cube.x").type is datetime
    assert Segment("cube.x").type is bool


@pytest.mark.parametrize(
    ("of", "advice"),
    [
        (float, "not exact; declare Decimal"),
        (date, "declare datetime or a TimeDimension"),
        (
            list,
            "must be one of Decimal, int, str, bool, datetime, object, got <class 'list'>",
        ),
        ("int", "cube.x: type must be one of .*, got 'int'"),
        (None, "type must be one of .*, got None"),
    ],
)
def test_refuses_other_types_with_advice(of, advice):
    with pytest.raises(QueryError, match=advice):
        Measure("cube.x", of)


def test_members_are_equal_by_kind_name_and_type():
    assert Measure("cube.x") == Measure("cube.x", Decimal)
    assert hash(Measure("cube.x")) == hash(Measure("cube.x", Decimal))
    different = [
        Measure("cube.x"),
        Measure("cube.x", int),
        Measure("cube.y"),
        Dimension("cube.x"),
        TimeDimension("cube.x"),
        Segment("cube.x"),
    ]
    assert len(set(different)) == len(different)
    assert (Dimension("cube.x") == "cube.x") is False


@pytest.mark.parametrize(
    ("member", "text"),
    [
        (Measure("a.b"), "Measure('a.b')"),
        (Measure("a.b", int), "Measure('a.b', int)"),
        (Dimension("a.b"), "Dimension('a.b')"),
        (Dimension("a.b", datetime), "Dimension('a.b', datetime.datetime)"),
        (TimeDimension("a.b"), "TimeDimension('a.b')"),
        (Segment("a.b"), "Segment('a.b')"),
    ],
)
def test_a_member_shows_how_it_is_written(member, text):
    assert repr(member) == text


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_frozen_and_can_be_copied(kind):
    member = kind("a.b")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        member.name = "c.d"
    assert pickle.loads(pickle.dumps(member)) == copy.copy(member) == member
