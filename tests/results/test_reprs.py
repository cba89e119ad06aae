"""What rows, results and queries show in a console or a log line: short and useful."""

from __future__ import annotations

import json
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given, strategies as st

from ortege_watch import Dimension, Measure, Query, Result
from ortege_watch._json import ResultPart
from ortege_watch.cube.meta import Meta

AMOUNT = Measure("e.amount")
SENDER = Dimension("e.sender")
QUERY = Query(measures=[AMOUNT], dimensions=[SENDER])
SENT = "2026-11-22T06:03:11.405Z"


def result(rows, asked: Query | None = QUERY, **more) -> Result:
    data = rows if isinstance(rows, bytes) else json.dumps(rows).encode()
    return Result(ResultPart(data=msgspec.Raw(data), **more), asked)


def rows(count: int) -> list[dict[str, str]]:
    return [{"e.sender": f"SP{i}", "e.amount": "1.50"} for i in range(count)]


def test_a_result_shows_its_shape_and_first_rows():
    row = "Row({'e.sender': 'SP0', 'e.amount': Decimal('1.50')})"
    shown = f"<Result rows=1 columns=2 refreshed_at={SENT} [{row}]>"
    assert repr(result(rows(1), lastRefreshTime=SENT)) == shown
    assert repr(result(rows(1))) == f"<Result rows=1 columns=2 [{row}]>"
    assert repr(result([])) == "<Result rows=0 columns=0 []>"
    many = repr(result(rows(50_000)))
    assert many.startswith(f"<Result rows=50000 columns=2 [{row}, Row(")
    assert many.endswith("'SP2', 'e.amount': Decimal('1.50')}), …]>")
    assert len(many) < 300


def test_a_result_that_cannot_be_read_says_so():
    assert repr(result(b"[5]")) == "<Result: row 0 is not an object: '5'>"
    assert len(repr(result(b'"' + 10_000 * b"x" + b'"'))) < 400


def test_a_row_of_many_columns_shows_the_first():
    (row,) = result([{f"e.column_{i:03}": "x" for i in range(100)}], None)
    shown = repr(row)
    assert shown.startswith("Row({'e.column_000': 'x', 'e.column_001': 'x', ")
    assert shown.endswith(" … 74 more})")


def test_a_long_value_is_cut_and_an_amount_or_a_hash_is_not():
    hashed = "0x" + "ab" * 32
    amount = Decimal("123456789012345678901234567890.123456789")
    (row,) = result([{"e.sender": hashed, "e.amount": str(amount)}])
    assert repr(row) == f"Row({{'e.sender': '{hashed}', 'e.amount': {amount!r}}})"
    (row,) = result([{"e.sender": "x" * 10_000, "e.amount": "1"}])
    assert "xxx…, 'e.amount': Decimal('1')" in repr(row)
    assert len(repr(row)) < 200


long = st.builds(str.__mul__, st.text(max_size=5), st.integers(0, 200))
values = st.none() | st.integers() | long | st.lists(long, max_size=3)


@given(st.lists(st.dictionaries(long, values, max_size=20), max_size=5))
def test_whatever_a_server_sends_is_shown_in_short(sent):
    for asked in (QUERY, None):
        received = result(sent, asked, lastRefreshTime="x" * 1000)
        assert len(repr(received)) < 2500
        assert all(len(repr(row)) < 600 for row in received)


@pytest.mark.parametrize("count", [1, 10_000])
def test_a_query_with_many_values_is_cut(count):
    query = QUERY.filter(SENDER.in_([f"SP{i}" for i in range(count)]))
    shown = repr(query)
    assert shown.startswith("Query(measures=[Measure('e.amount')], dimensions=[")
    assert len(shown) < 2100
    assert shown.endswith("…" if count > 1 else ")")


def test_meta_shows_the_names_of_its_cubes():
    cubes = [{"name": f"cube_{i}"} for i in range(1000)]
    assert repr(Meta.read(json.dumps({"cubes": cubes[:2]}).encode())) == (
        "<Meta cubes=2 [cube_0, cube_1]>"
    )
    assert len(repr(Meta.read(json.dumps({"cubes": cubes}).encode()))) < 300
