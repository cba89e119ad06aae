"""Results and rows cross processes: they pickle, copy and stay equal."""

from __future__ import annotations

import copy
import json
import multiprocessing
import pickle
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given, strategies as st

from ortege_watch import (
    ChangedRow,
    DecodeError,
    Dimension,
    Measure,
    Query,
    QueryError,
    Result,
    TimeDimension,
)
from ortege_watch._json import ResultPart
from ortege_watch.results.diff import difference

AMOUNT = Measure("e.amount", Decimal)
COUNT = Measure("e.count", int)
SENDER = Dimension("e.sender")
ACTIVE = Dimension("e.active", bool)
DAY = TimeDimension("e.at").by("day")
QUERY = Query(
    measures=[AMOUNT, COUNT],
    dimensions=[SENDER, ACTIVE],
    time=[DAY],
    timezone="America/New_York",
)
ROW = {
    "e.amount": "9007199254740993.000001",
    "e.count": "5.0",
    "e.sender": "SP1",
    "e.active": "true",
    "e.at.day": "2026-11-22T00:00:00.000",
    "e.at": "2026-11-22T00:00:00.000",
}


def unpickled(value, protocol=pickle.HIGHEST_PROTOCOL):
    return pickle.loads(pickle.dumps(value, protocol))


WAYS = [
    unpickled,
    lambda value: unpickled(value, 2),
    copy.copy,
    copy.deepcopy,
    lambda value: copy.deepcopy([value])[0],
]


def result(rows, asked: Query | None = QUERY, **more) -> Result:
    data = rows if isinstance(rows, bytes) else json.dumps(rows).encode()
    return Result(ResultPart(data=msgspec.Raw(data), **more), asked)


def read(row):
    """Return a value of each type, as its member declares it."""
    return row.get(AMOUNT), row.get(COUNT), row.get(SENDER), row.get(DAY)


@pytest.mark.parametrize("way", WAYS)
def test_a_row_keeps_its_types(way):
    (row,) = result([ROW])
    again = way(row)
    assert again == row
    assert hash(again) == hash(row)
    assert read(again) == read(row)
    assert again[DAY].isoformat() == "2026-11-22T00:00:00-05:00"
    assert type(again["e.count"]) is int
    assert again[ACTIVE] is True
    assert repr(again) == repr(row)


@pytest.mark.parametrize("way", WAYS)
def test_a_row_keeps_its_place_for_errors(way):
    row = way(result([ROW, ROW | {"e.count": "many"}])[1])
    with pytest.raises(DecodeError, match=r"e\.count in row 1 is not a whole number"):
        row[COUNT]


@pytest.mark.parametrize("way", WAYS)
def test_rows_without_a_column_or_with_strange_names_do_too(way):
    name = 'quoted"\\name'
    for row in result([{"a": {"b": [1]}}, {"a": None, name: 1}], None):
        again = way(row)
        assert again == row
        assert again.as_dict() == row.as_dict()
        assert (name in again) is (name in row)


@pytest.mark.parametrize("way", WAYS)
def test_a_changed_row_keeps_the_row_before(way):
    (row,) = difference(result([ROW]), result([ROW | {"e.count": 6}])).changed
    again = way(row)
    assert type(again) is ChangedRow
    assert again == row
    assert (again[COUNT], again.before[COUNT]) == (6, 5)


FORMS = [
    [ROW, ROW],
    [],
    {"members": ["e.count"], "dataset": [["5"]]},
    {"members": ["e.count"], "columns": [["5"]]},
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rows", FORMS)
@pytest.mark.parametrize("decoded", [False, True])
def test_a_result_keeps_everything(way, rows, decoded):
    annotation = msgspec.Raw(b'{"measures":{"e.count":{"type":"number"}}}')
    first = result(
        rows,
        lastRefreshTime="2026-11-22T06:03:11.405Z",
        total=7,
        annotation=annotation,
        query=msgspec.Raw(b'{"limit":2}'),
    )
    if decoded:
        len(first)
    again = way(first)
    assert again == first
    assert hash(again) == hash(first)
    assert list(again) == list(first)
    assert [row[COUNT] for row in again] == [5] * len(first)
    assert again.query == QUERY
    assert again.raw == first.raw
    assert again.refreshed_at == datetime(2026, 11, 22, 6, 3, 11, 405000, UTC)
    assert (again.total, again.truncated) == (7, first.truncated)
    assert again.annotation == first.annotation
    assert repr(again) == repr(first)


@pytest.mark.parametrize("way", WAYS)
def test_a_result_that_cannot_be_read_can_be_copied(way):
    again = way(result(b"[5]"))
    assert again == result(b"[5]")
    with pytest.raises(DecodeError, match="row 0 is not an object"):
        len(again)


@pytest.mark.parametrize("way", WAYS)
def test_a_result_of_a_raw_query_keeps_its_annotation(way):
    annotation = msgspec.Raw(b'{"measures":{"e.count":{"type":"number"}}}')
    again = way(result([{"e.count": "5"}], None, annotation=annotation))
    assert again.query is None
    assert again[0]["e.count"] == Decimal(5)


def test_results_are_equal_if_their_rows_are():
    one = result([{"e.amount": "1.0"}, {"e.amount": "2"}], lastRefreshTime="x")
    same = result([{"e.amount": 1}, {"e.amount": "2.00"}])
    assert one == same
    assert not one != same  # noqa: SIM202 - it is another method
    assert hash(one) == hash(same)
    assert one != result([{"e.amount": "2"}, {"e.amount": "1.0"}])
    assert one != result([{"e.amount": "1.0"}])
    assert one != result([])
    assert result([]) == result([])
    assert one != list(one)
    # The same text, of other types: a name of a column decides here.
    text = [{"e.count": "1"}]
    assert result(text) != result(text, None)


def test_a_pickled_row_does_not_carry_the_result():
    rows = result([ROW | {"e.sender": f"SP{i}"} for i in range(1000)])
    assert len(pickle.dumps(rows[0])) < 1000


def test_pickled_rows_share_their_columns():
    rows = result([ROW | {"e.sender": f"SP{i}"} for i in range(1000)])
    assert len(pickle.dumps(list(rows))) < 1.2 * len(rows.raw)


@pytest.mark.parametrize("decoded", [False, True])
def test_a_pickled_result_carries_its_bytes_once(decoded):
    rows = result([ROW | {"e.sender": f"SP{i}"} for i in range(1000)])
    if decoded:
        list(rows)
        assert rows.truncated is False
    assert len(pickle.dumps(rows)) < len(rows.raw) + 3000


PROGRAM = """
import pickle, sys
rows, row, changed, error = pickle.load(sys.stdin.buffer)
assert [each["e.count"] for each in rows] == [5, 6], rows
assert row.get("e.count") == 5 and changed.before["e.count"] == 5
assert error.query == rows.query, error.query
assert type(error).__name__ == "DecodeError" and "not a whole number" in str(error)
sys.stdout.buffer.write(pickle.dumps((rows, row, changed)))
"""


@pytest.mark.parametrize("decoded", [False, True])
def test_another_interpreter_reads_them(decoded):
    rows = result([ROW, ROW | {"e.count": 6}])
    if decoded:
        len(rows)
    row = result([ROW])[0]
    (changed,) = difference(result([ROW]), result([ROW | {"e.count": 6}])).changed
    with pytest.raises(DecodeError) as raised:
        result([ROW | {"e.count": "x"}])[0][COUNT]
    raised.value.query = QUERY
    sent = pickle.dumps((rows, row, changed, raised.value))
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=sent,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr.decode()
    assert pickle.loads(answer.stdout) == (rows, row, changed)


def test_they_cross_a_process_pool():
    rows = result([ROW, ROW | {"e.count": "x"}])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        first = pool.apply_async(Result.__getitem__, (rows, 0)).get(timeout=60)
        assert first == rows[0]
        with pytest.raises(DecodeError, match=r"e\.count in row 1 is not a whole"):
            pool.apply_async(type(first).__getitem__, (rows[1], COUNT)).get(timeout=60)
        error = QueryError("bad")
        error.query = QUERY
        with pytest.raises(QueryError) as raised:
            pool.apply_async(exec, ("raise e", {"e": error})).get(timeout=60)
        assert raised.value.query == QUERY


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.decimals().map(str),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=5,
)
columns = st.sampled_from([*ROW, "x", 'y"z', "", "ß"])


@given(
    st.lists(st.dictionaries(columns, json_values, max_size=6), max_size=5),
    st.sampled_from([QUERY, None]),
    st.booleans(),
)
def test_whatever_a_server_sends_survives(rows, query, decoded):
    first = result(rows, query)
    if decoded:
        len(first)
    for way in (unpickled, copy.copy, copy.deepcopy):
        again = way(first)
        assert again == first
        for old, new in zip(first, again, strict=True):
            assert way(old) == old == new
            assert repr(way(old)) == repr(old) == repr(new)
