from __future__ import annotations

import json
import weakref
from datetime import UTC, datetime
from decimal import Decimal
from operator import attrgetter

import msgspec
import pytest

from ortege_watch._json import ResultPart, decode_body
from ortege_watch.errors import DecodeError, InvalidArgument
from ortege_watch.query import Dimension, Measure, Query, TimeDimension
from ortege_watch.results import Result, Row
from ortege_watch.results.diff import difference
from ortege_watch.results.result import DEFAULT_LIMIT

COUNT = Measure("e.count", int)
SEEN = TimeDimension("e.at")
QUERY = Query(measures=[COUNT])
snapshot_of = attrgetter("_snapshot")


def result(rows, asked=QUERY, **more):
    data = rows if isinstance(rows, bytes) else json.dumps(rows).encode()
    return Result(ResultPart(data=msgspec.Raw(data), **more), asked)


def counted(n):
    return [{"e.count": str(i)} for i in range(n)]


def test_a_result_is_a_sequence_of_rows():
    rows = result(counted(5))
    assert len(rows) == 5
    assert [row[COUNT] for row in rows] == [0, 1, 2, 3, 4]
    assert [row[COUNT] for row in reversed(rows)] == [4, 3, 2, 1, 0]
    assert rows[-1][COUNT] == 4
    assert [row[COUNT] for row in rows[1:-1:2]] == [1, 3]
    assert rows[9:] == ()
    assert isinstance(rows[0], Row)
    assert rows[2] in rows
    assert rows.index(rows[2]) == 2
    assert rows
    assert not result([])
    for place in (5, -6):
        with pytest.raises(IndexError) as raised:
            rows[place]
        assert str(raised.value) == f"row index {place} out of range (5 rows)"


@pytest.mark.parametrize(
    ("index", "problem"),
    [
        ("x", "index the row, not the result: result[0]['x']"),
        (COUNT, "the result: result[0][Measure('e.count', int)]"),
        (SEEN.by("day"), "the result: result[0][TimeDimension('e.at').by('day')]"),
        (1.5, "row index must be an integer or a slice, got 1.5"),
        (None, "row index must be an integer or a slice, got None"),
        (slice("a"), "an integer or a slice, got slice(None, 'a', None)"),
    ],
)
def test_other_indices_are_refused_with_advice(index, problem):
    with pytest.raises(InvalidArgument) as raised:
        result(counted(2))[index]
    assert str(raised.value).endswith(problem)


def test_a_result_may_be_referred_to_weakly_and_not_be_changed():
    rows = result(counted(1))
    assert weakref.ref(rows)() is rows
    for name in ("query", "total", "truncated", "other"):
        with pytest.raises(AttributeError):
            setattr(rows, name, 1)


def test_rows_are_read_when_they_are_needed():
    rows = result(counted(5))
    assert not rows.truncated
    assert rows.query is QUERY
    assert snapshot_of(rows).cells is None
    assert rows[0] == rows[0]
    cells = snapshot_of(rows).cells
    assert len(rows) == 5
    assert snapshot_of(rows).cells is cells


def test_errors_come_when_rows_are_needed():
    rows = result(b"[5]")
    assert rows.total is None
    for read in (len, list, lambda each: each[0], lambda each: each.into(int)):
        with pytest.raises(DecodeError, match="row 0 is not an object"):
            read(rows)


def test_raw_is_what_the_server_sent():
    assert bytes(result(b'[ {"e.count":1} ]').raw) == b'[ {"e.count":1} ]'
    assert result([]).raw.readonly


@pytest.mark.parametrize(
    ("said", "time"),
    [
        (None, None),
        ("2026-11-22T06:03:11.405Z", datetime(2026, 11, 22, 6, 3, 11, 405000, UTC)),
        ("2026-11-22T06:03:11.405", datetime(2026, 11, 22, 6, 3, 11, 405000, UTC)),
        ("2026-11-22T08:03:11+02:00", datetime(2026, 11, 22, 6, 3, 11, 0, UTC)),
    ],
)
def test_refreshed_at_is_aware(said, time):
    refreshed_at = result([], lastRefreshTime=said).refreshed_at
    assert refreshed_at == time
    assert time is None or refreshed_at.tzinfo is UTC


def test_a_refresh_time_that_is_none_is_an_error():
    with pytest.raises(DecodeError, match=r"lastRefreshTime is not a time.*'soon'"):
        result([], lastRefreshTime="soon").refreshed_at


def test_total_and_annotation():
    annotation = msgspec.Raw(b'{"measures":{"e.count":{"title":"Count"}}}')
    rows = result([], total=7, annotation=annotation)
    assert rows.total == 7
    assert rows.annotation == {"measures": {"e.count": {"title": "Count"}}}
    assert result([]).annotation == {}
    assert result([], annotation=msgspec.Raw(b"null")).annotation == {}
    assert result([], annotation=msgspec.Raw(b"[1]")).annotation == {}


@pytest.mark.parametrize(
    ("limit", "said", "n", "truncated"),
    [
        (5, None, 5, True),
        (5, None, 4, False),
        (5, {"limit": 4}, 4, False),
        (None, {"limit": 5}, 5, True),
        (None, {"rowLimit": 5}, 5, True),
        (None, {"limit": 6, "rowLimit": 5}, 5, False),
        (None, {"limit": None}, 5, False),
        (None, {}, DEFAULT_LIMIT, True),
        (None, None, DEFAULT_LIMIT, True),
        (None, None, DEFAULT_LIMIT - 1, False),
        (0, None, 0, False),
        (1, None, 0, False),
    ],
)
def test_truncated_is_at_the_limit(limit, said, n, truncated):
    query = Query(measures=[COUNT], limit=limit)
    part = {} if said is None else {"query": msgspec.Raw(json.dumps(said).encode())}
    rows = result(counted(n), query, **part)
    assert rows.truncated is truncated
    assert len(rows) == n
    assert rows.truncated is truncated
    if limit is None:
        assert result(counted(n), None, **part).truncated is truncated


@pytest.mark.parametrize("form", ["dataset", "columns"])
def test_truncated_in_other_response_forms(form):
    query = Query(measures=[COUNT], limit=2)
    for n in (1, 2):
        table = [["1"] * n] if form == "columns" else [["1"]] * n
        rows = result({"members": ["e.count"], form: table}, query)
        assert rows.truncated is (n == 2)


@pytest.mark.parametrize(
    "body",
    [
        b'{"queryType":"regularQuery","results":[{"data":[{"e.count":"5"}]}]}',
        b'{"lastRefreshTime":null,"data":[{"e.count":"5"}]}',
        b'{"data":[{"e.count":5.0}]}',
        b'{"data":{"members":["e.count"],"dataset":[["5"]]}}',
        b'{"data":{"members":["e.count"],"columns":[["5"]]}}',
    ],
)
def test_every_shape_of_an_answer_gives_its_rows(body):
    (part,) = decode_body(body).parts
    (row,) = Result(part, QUERY)
    assert row[COUNT] == 5


def test_what_is_known_of_an_answer_is_expected_of_the_next():
    one, other = snapshot_of(result(counted(2))), snapshot_of(result(counted(3)))
    one.open()
    other.follow(one)
    assert other.layout is one.layout
    stranger = snapshot_of(result(counted(1), Query(dimensions=[Dimension("e.count")])))
    stranger.follow(one)
    assert stranger.layout is None
    assert other.open()[0] is one.open()[0]
    changed = snapshot_of(result([{"e.other": Decimal(1).to_eng_string()}]))
    changed.follow(one)
    assert changed.open()[0].columns == ("e.other",)


def test_a_new_limit_of_the_server_counts_from_then_on():
    five, six = (msgspec.Raw(b'{"limit":%d}' % limit) for limit in (5, 6))
    first = result(counted(5), query=five)
    second = result(counted(6), query=six)
    third = result(counted(5), query=six)
    assert first.truncated
    difference(first, second)
    assert second.truncated
    difference(second, third)
    assert not third.truncated


def test_the_same_text_with_other_types_is_read_as_these():
    annotations = (
        msgspec.Raw(b'{"measures":{"e.count":{"type":"%s"}}}' % each)
        for each in (b"string", b"number")
    )
    one, other = (result(counted(1), None, annotation=each) for each in annotations)
    assert one[0]["e.count"] == "0"
    difference(one, other)
    assert other[0]["e.count"] == Decimal(0)
