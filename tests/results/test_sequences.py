"""Sequences of rows: those of an update and slices of a result."""

from __future__ import annotations

import copy
import json
import pickle
from decimal import Decimal

import attrs
import msgspec
import pytest

from ortege_watch import (
    ChangedRow,
    DecodeError,
    Dimension,
    InvalidArgument,
    Measure,
    Query,
    Result,
    Row,
    TimeDimension,
)
from ortege_watch._json import ResultPart
from ortege_watch.results.diff import difference
from ortege_watch.results.result import Rows, in_order

AMOUNT = Measure("e.amount", Decimal)
SENDER = Dimension("e.sender")
AT = TimeDimension("e.at")
NAMES = ["e.sender", "e.at", "e.amount"]
QUERY = Query(measures=[AMOUNT], dimensions=[SENDER], time=[AT.by("second")])
N = 600  # rows: more than are read together


def result(amounts, first=0):
    rows = [
        [f"SP{i}", f"2026-11-22T06:00:{i % 60:02}.000", amount]
        for i, amount in enumerate(amounts, first)
    ]
    table = {"members": NAMES, "dataset": rows}
    data = json.dumps(table, separators=(",", ":")).encode()
    return Result(ResultPart(data=msgspec.Raw(data)), QUERY)


BEFORE = result([f"{i}.0" for i in range(N)])
AFTER = result([f"{i}.5" for i in range(N)], first=300)
FOUND = difference(BEFORE, AFTER)
SEQUENCES = {
    "all": difference(None, BEFORE).added,
    "many": difference(None, result(["1.0"] * 2000)).added,
    "large rows": difference(None, result(["1." + "0" * 400] * 200)).added,
    "a slice": BEFORE[:],
    "every second": BEFORE[::2],
    "added": FOUND.added,
    "changed": FOUND.changed,
    "removed": FOUND.removed,
    "few": FOUND.changed[-7:],
    "none": BEFORE[N:],
}
each_sequence = pytest.mark.parametrize("name", SEQUENCES)


@each_sequence
def test_they_behave_as_a_tuple_of_the_same_rows(name):
    rows = SEQUENCES[name]
    same = tuple(rows)
    assert len(rows) == len(same)
    assert bool(rows) is bool(same)
    assert rows == same
    assert same == rows
    assert not rows != same  # noqa: SIM202 - it is another method
    assert hash(rows) == hash(same)
    assert rows != (*same, BEFORE[0])
    assert rows != list(same)
    assert list(rows) == [rows[i] for i in range(len(rows))]
    assert list(reversed(rows)) == list(same[::-1])
    for part in (slice(2, 5), slice(None, None, -3), slice(-300, None), slice(9, 2)):
        assert rows[part] == same[part]
    for each in rows[250:260]:
        assert each in rows
        assert same[rows.index(each)] == each


@each_sequence
def test_the_sum_with_any_sequence_of_rows_is_a_tuple(name):
    rows = SEQUENCES[name]
    few = BEFORE[:2]
    for other in (few, tuple(few), list(few), FOUND.changed[:2]):
        assert rows + other == (*rows, *other)
        assert other + rows == (*other, *rows)
        assert type(rows + other) is type(other + rows) is tuple
    for wrong in ("ab", 5, None):
        with pytest.raises(TypeError):
            rows + wrong
        with pytest.raises(TypeError):
            wrong + rows


@attrs.frozen
class Amounts:
    sender: str
    amount: Decimal | None


@each_sequence
def test_they_become_objects_of_a_class(name):
    rows = SEQUENCES[name]
    assert rows.into(Amounts) == [row.into(Amounts) for row in rows]


def test_an_error_of_such_an_object_names_the_row_of_the_result():
    amounts = ["1"] * 9
    amounts[6] = "many"
    rows = result(amounts)
    for some, place in ((rows[5:], "row 6"), (rows[::2], "a row")):
        with pytest.raises(DecodeError, match=f"e.amount in {place} is not a decimal"):
            some.into(Amounts)


def test_rows_that_are_none_are_of_the_same_type():
    for same in (difference(BEFORE, BEFORE), difference(None, result([]))):
        for none in (same.added, same.changed, same.removed):
            assert type(none) is Rows
            assert repr(none) == "<Rows rows=0 []>"
            assert none.into(Amounts) == []


@each_sequence
def test_a_console_completes_only_what_is_of_use(name):
    rows = SEQUENCES[name]
    assert {each for each in dir(rows) if not each.startswith("_")} == {
        *("count", "index", "into"),
    }


@each_sequence
@pytest.mark.parametrize(
    "way", [lambda each: pickle.loads(pickle.dumps(each)), copy.copy, copy.deepcopy]
)
def test_they_pickle_and_copy(name, way):
    rows = SEQUENCES[name]
    for row in rows:
        row[AMOUNT], row[SENDER]
    again = way(rows)
    assert again == rows
    assert [row[AMOUNT] for row in again] == [row[AMOUNT] for row in rows]
    assert list(map(type, again)) == list(map(type, rows))


def test_changed_rows_know_how_each_of_them_was():
    assert [row[AMOUNT] - row.before[AMOUNT] for row in FOUND.changed] == [
        Decimal(i) + Decimal("0.5") - Decimal(i + 300) for i in range(300)
    ]
    for part in (FOUND.changed, FOUND.changed[5:9], [FOUND.changed[299]]):
        for row in part:
            assert isinstance(row, ChangedRow)
            assert row.before[SENDER] == row[SENDER]
            assert type(row.before) is Row
            assert row.before in BEFORE


def test_their_repr_is_short():
    assert repr(BEFORE[N:]) == "<Rows rows=0 []>"
    shown = repr(FOUND.changed)
    assert shown.startswith("<Rows rows=300 [ChangedRow({'e.sender': 'SP300', ")
    assert shown.endswith("}), …]>")
    assert len(shown) < 500


@pytest.mark.parametrize("index", ["e.amount", AMOUNT, None, 1.5])
def test_another_index_is_refused(index):
    with pytest.raises(InvalidArgument, match=r"row index|index the row"):
        FOUND.added[index]
    with pytest.raises(IndexError, match=r"row index 300 out of range \(300 rows\)"):
        FOUND.added[300]


def test_the_rows_of_two_are_put_in_the_order_of_the_result():
    before, after = result(["8", "9", "3"], first=1), result(["1", "2", "9", "3", "5"])
    found = difference(before, after)
    assert [row[SENDER] for row in found.added] == ["SP0", "SP4"]
    assert [row[SENDER] for row in found.changed] == ["SP1"]
    both = in_order(found.added, found.changed)
    assert [row[SENDER] for row in both] == ["SP0", "SP1", "SP4"]
    assert list(map(type, both)) == [Row, ChangedRow, Row]
    assert both[1].before == found.changed[0].before
    assert [type(both[i]) for i in range(3)] == [Row, ChangedRow, Row]
    assert pickle.loads(pickle.dumps(both)) == both[:] == both
    assert [row.sender for row in both.into(Amounts)] == ["SP0", "SP1", "SP4"]


@pytest.mark.parametrize("bad", [None, "many", "NaN", [1]])
def test_one_value_that_cannot_be_read_hides_no_other(bad):
    amounts = ["-1.5"] * N
    amounts[400] = bad
    rows = result(amounts)
    for some in (rows, rows[:], difference(None, rows).added, rows[390:410]):
        read = []
        for row in some:
            assert row[SENDER].startswith("SP")
            assert row[AT].year == 2026
            if row[SENDER] != "SP400":
                read.append(row[AMOUNT])
                continue
            with pytest.raises(DecodeError, match=r"e\.amount in row 400 is"):
                row[AMOUNT]
            if bad is None:
                assert row.get(AMOUNT, 7) == 7
                assert row["e.amount"] is None
        assert read == [Decimal("-1.5")] * (len(some) - 1)


def test_columns_may_be_made_for_each_access():
    for row in BEFORE[:300]:
        assert row[Measure("e.amount", Decimal)] == row[AMOUNT]
        assert row[Measure("e.amount", str)] == f"{row[AMOUNT]}"
        assert row[TimeDimension("e.at")] == row[AT] == row["e.at"]
    with pytest.raises(DecodeError, match=r"unknown column 'e\.other'"):
        [row["e.other"] for row in BEFORE]


def test_a_row_that_is_kept_keeps_few_others():
    for row in (BEFORE[5], list(BEFORE)[5], list(FOUND.changed)[5], FOUND.added[5]):
        assert len(row._rows.cells) <= 256
