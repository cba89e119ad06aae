"""No choice of numbers makes a dict of rows compare each with all others.

The hash of a number in Python is its remainder by ``2**61 - 1``, so that anybody can write
numbers whose hashes are the same. The hashes of strings and bytes differ in each process.
"""

from __future__ import annotations

import json
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given, strategies as st

from ortege_watch import _json as codec
from ortege_watch.query import Dimension, Measure, Query
from ortege_watch.results import Result, diff
from ortege_watch.results.diff import difference

N = 500
PRIME = 2**61 - 1
COLLIDING = [str(i * PRIME) for i in range(1, N + 1)]
SHORT = [str(Decimal(i * PRIME).scaleb(-6).normalize()) for i in range(1, N + 1)]
KEY, MEASURE, COUNT = "e.key", "e.measure", "e.count"


def test_the_numbers_collide():
    assert len(set(map(hash, map(int, COLLIDING)))) == 1
    assert len(set(map(hash, map(Decimal, SHORT)))) == 1


def query(kind: type):
    return Query(
        measures=[Measure(MEASURE, kind), Measure(COUNT, int)],
        dimensions=[Dimension(KEY, kind)],
    )


def result(kind: type, *rows: tuple[str, str, str]) -> Result:
    """Return rows of JSON values, as they are written."""
    written = ",".join(f"[{','.join(row)}]" for row in rows)
    members = json.dumps([KEY, MEASURE, COUNT])
    data = f'{{"members":{members},"dataset":[{written}]}}'.encode()
    return Result(codec.ResultPart(data=msgspec.Raw(data)), query(kind))


def number_of_hashes(values) -> int:
    return len(set(map(hash, values)))


as_number, as_string = "{}".format, '"{}"'.format


@pytest.mark.parametrize("numbers", [COLLIDING, SHORT])
@pytest.mark.parametrize("kind", [Decimal, int, str, object])
@pytest.mark.parametrize("form", [as_number, as_string, "[{}]".format])
@pytest.mark.parametrize("column", [0, 1])
def test_rows_with_such_numbers_have_hashes_of_their_own(kind, numbers, form, column):
    found = result(
        kind,
        *[
            (form(n), '"x"', "1") if column == 0 else ('"x"', form(n), "1")
            for n in numbers
        ],
    )
    assert number_of_hashes(found) == N


@pytest.mark.parametrize("numbers", [COLLIDING, SHORT])
@pytest.mark.parametrize("kind", [Decimal, int, str, object])
@pytest.mark.parametrize("form", [as_number, as_string])
def test_so_have_the_keys_by_which_rows_are_found(kind, numbers, form):
    table = result(kind, *[(form(n), '"1"', "1") for n in numbers])._snapshot.compared()
    as_sent = diff._are_alike(table, table, [KEY])
    assert number_of_hashes(diff._keys(table, [KEY], as_sent=as_sent)) == N


@pytest.mark.parametrize("kind", [Decimal, object])
@pytest.mark.parametrize("other", ["1.0", "1e0", "10e-1"])
def test_a_key_that_is_a_number_is_found_however_it_is_written(kind, other):
    before = result(kind, ("1", "5", "1"), ("2", "5", "1"), ("3", "5", "1"))
    after = result(kind, (other, "6", "1"), ("3", "5", "1"), ("4", "5", "1"))
    found = difference(before, after)
    assert [row[COUNT] for row in found.changed] == [1]
    assert [row[KEY] for row in found.added] == [4]
    assert [row[KEY] for row in found.removed] == [2]


decimals = st.decimals(allow_nan=False, allow_infinity=False) | st.builds(
    lambda digits, exponent: Decimal(digits).scaleb(exponent),
    st.integers(-(10**6), 10**6).map(lambda n: n * 100),
    st.integers(-8, 8),
)


@given(decimals | st.integers(), decimals | st.integers())
def test_rows_are_equal_exactly_if_their_numbers_are(one, other):
    rows = result(Decimal, (str(one), '"0"', "1"), (str(other), '"0"', "1"))
    assert (rows[0] == rows[1]) is (one == other)
    assert (hash(rows[0]) == hash(rows[1])) is (one == other)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("0", "-0", True),
        ("0", "0e-900", True),
        ("-0.00", "0", True),
        ("1" + "0" * 4000, "1e4000", True),
        ("1" + "0" * 5000 + ".0", "1e5000", True),
        ("1" + "0" * 5000 + ".1", "1e5000", False),
        ("0." + "3" * 60, "0." + "3" * 61, False),
        ("1e999999999", "10e999999998", True),
        ("1e999999999", "1e-999999999", False),
    ],
)
def test_no_digit_is_rounded_and_no_exponent_takes_long(one, other, equal):
    for form in (as_number, as_string):
        rows = result(Decimal, (form(one), '"0"', "1"), (form(other), '"0"', "1"))
        assert (rows[0] == rows[1]) is equal


@pytest.mark.parametrize("kind", [Decimal, int, str, object])
def test_true_is_not_one(kind):
    before, after = (
        result(kind, ('"x"', '"1"', "1")),
        result(kind, ('"x"', "true", "1")),
    )
    assert len(difference(before, after).changed) == 1
    rows = result(
        kind,
        ('"x"', "[1]", "1"),
        ('"x"', "[true]", "1"),
        ('"x"', "1", "1"),
        ('"x"', "true", "1"),
    )
    assert rows[0] != rows[1]
    assert rows[2] != rows[3]


def test_it_is_in_a_column_of_booleans():
    before, after = result(bool, ("true", "1", "1")), result(bool, ("1", "true", "1"))
    assert not difference(before, after)
