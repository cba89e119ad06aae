from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given, strategies as st

from ortege_watch._json import ResultPart
from ortege_watch.errors import DecodeError, InvalidArgument
from ortege_watch.query import Dimension, Measure, Query, Segment, TimeDimension
from ortege_watch.results import ChangedRow, Result, Row
from ortege_watch.results.diff import difference

AMOUNT = Measure("e.amount", Decimal)
COUNT = Measure("e.count", int)
SENDER = Dimension("e.sender")
ACTIVE = Dimension("e.active", bool)
AT = TimeDimension("e.at")
QUERY = Query(
    measures=[AMOUNT, COUNT], dimensions=[SENDER, ACTIVE], time=[AT.by("day")]
)
ROW = {
    "e.amount": "1000.500000",
    "e.count": "5.0",
    "e.sender": "SP1",
    "e.active": "true",
    "e.at.day": "2026-11-22T00:00:00.000",
    "e.at": "2026-11-22T00:00:00.000",
}
DAY = datetime(2026, 11, 22, tzinfo=UTC)


def result(rows, query: Query | None = QUERY, **more: Any) -> Result:
    data = msgspec.Raw(json.dumps(rows).encode())
    return Result(ResultPart(data=data, **more), query)


def row(query: Query | None = QUERY, **values: Any) -> Row:
    changed = {f"e.{name}": value for name, value in values.items()}
    return result([ROW | changed], query)[0]


def test_values_have_the_type_of_their_member():
    each = row()
    assert each[AMOUNT] == Decimal("1000.500000")
    assert type(each[COUNT]) is int
    assert each[SENDER] == "SP1"
    assert each[ACTIVE] is True
    assert each[AT.by("day")] == each[AT] == DAY


def test_names_are_read_as_the_query_declares_them():
    assert row().as_dict() == {
        "e.sender": "SP1",
        "e.active": True,
        "e.at.day": DAY,
        "e.at": DAY,
        "e.amount": Decimal("1000.500000"),
        "e.count": 5,
    }
    assert row()["e.count"] == 5


def test_rows_show_columns_in_the_order_of_the_query():
    names = ["e.sender", "e.active", "e.at.day", "e.at", "e.amount", "e.count"]
    assert list(row().as_dict()) == names


def test_a_member_is_read_as_it_is_declared_itself():
    assert type(row()[Measure("e.count", Decimal)]) is Decimal
    assert row()[Dimension("e.count", str)] == "5.0"


def test_the_zone_of_the_query_counts():
    query = Query(time=[AT.by("day")], timezone="America/New_York")
    assert row(query)[AT].isoformat() == "2026-11-22T00:00:00-05:00"


def test_a_range_of_time_is_no_column_of_its_own():
    each = result([{"e.at": None}], Query(measures=[COUNT], time=[AT.over("today")]))[0]
    assert each.as_dict() == {"e.at": None}


def test_members_may_be_made_anew_for_each_access():
    each = row()
    assert {each[Measure("e.count", int)] for _ in range(600)} == {5}


def test_null_is_none_only_where_it_is_asked_for():
    each = row(amount=None, at=None)
    assert each.get(AMOUNT) is None
    assert each.get(AMOUNT, 0) == 0
    assert each.get(COUNT) == each.get(COUNT, 7) == 5
    assert each.get(AT, DAY) == each.get(AT.by("day")) == DAY
    assert each.get("e.amount", "none") == "none"
    assert each.as_dict()["e.amount"] is None
    with pytest.raises(DecodeError, match=r"e.amount in row 0 is NULL; row.get\(m"):
        each[AMOUNT]


@pytest.mark.parametrize("column", ["e.other", Measure("e.other"), Segment("e.big")])
def test_a_missing_column_lists_those_there_are(column):
    for read in (row().__getitem__, row().get):
        with pytest.raises(
            DecodeError, match=r"unknown column 'e\..*: the columns are e.sender,"
        ):
            read(column)
    assert column not in row()
    assert "e.amount" in row()
    assert AMOUNT in row()


def test_a_row_may_lack_a_column_that_others_have():
    first, second = result([{"e.sender": "a"}, {"e.sender": "b", "e.count": 1}])
    with pytest.raises(DecodeError, match=r"'e.count': the columns are e.sender$"):
        first[COUNT]
    assert "e.count" not in first
    assert first.as_dict() == {"e.sender": "a"}
    assert second[COUNT] == 1


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("count", "1.5", "e.count in row 1 is not a whole number"),
        ("amount", "NaN", "e.amount in row 1 is not a finite number; exclude it in"),
        ("amount", "1_000", "e.amount in row 1 is not a decimal number"),
        ("sender", 5, "declare the member as int or Decimal: 5"),
        ("active", "yes", "e.active in row 1 is not a boolean: 'yes'"),
        ("at", "yesterday", "e.at in row 1 is not a time"),
        ("count", "9" * 5000, "e.count in row 1 has more than 4300 digits"),
        ("count", "1.5", "e.count in row 1 is not a whole number: '1.5'"),
        ("count", "A", "e.count in row 1 is not a whole number: 'A'"),
    ],
)
def test_other_values_are_an_error_with_their_place(column, value, problem):
    each = result([ROW, ROW | {f"e.{column}": value}])[1]
    for read in (lambda: each[f"e.{column}"], each.as_dict):
        with pytest.raises(DecodeError, match=problem) as raised:
            read()
        assert isinstance(raised.value.__cause__, ValueError)


@pytest.mark.parametrize("column", [0, None, 1.5, ROW])
def test_what_is_no_column_is_refused_with_advice(column):
    with pytest.raises(InvalidArgument, match="column must be a member or a name"):
        row()[column]


def test_a_row_is_a_mapping_of_its_columns():
    each = row(amount=None)
    names = ["e.sender", "e.active", "e.at.day", "e.at", "e.amount", "e.count"]
    assert list(each) == list(each.keys()) == names
    assert list(reversed(each)) == names[::-1]
    assert len(each) == 6
    assert dict(each) == {**each} == each.as_dict()
    assert list(each.values()) == ["SP1", True, DAY, DAY, None, 5]
    assert list(each.items()) == list(zip(names, each.values(), strict=True))
    assert each.keys() & {"e.amount", "e.other"} == {"e.amount"}
    assert "e.other" not in each
    assert 5 not in each


def test_a_row_that_lacks_a_column_does_not_list_it():
    first, second = result([{"e.sender": "a"}, {"e.sender": "b", "e.count": 1}])
    assert (len(first), len(second)) == (1, 2)
    assert dict(first) == {"e.sender": "a"}
    assert dict(second) == {"e.sender": "b", "e.count": 1}
    assert list(first.keys()) == list(first) == ["e.sender"]


def test_null_is_none_by_name_and_an_error_by_member():
    each = row(count=None)
    assert each["e.count"] is None
    with pytest.raises(DecodeError, match=r"is NULL; row.get\(member\) returns None"):
        each[COUNT]


@pytest.mark.parametrize("name", ["values", "items", "as_dict"])
def test_a_value_that_cannot_be_read_is_an_error_of_every_view(name):
    with pytest.raises(DecodeError, match="is not a whole number: 'many'"):
        getattr(row(count="many"), name)()
    assert "e.count" in row(count="many")


def test_the_message_for_null_shows_no_value():
    with pytest.raises(DecodeError) as raised:
        row(count=None)[COUNT]
    expected = "e.count in row 0 is NULL; row.get(member) returns None for it"
    assert str(raised.value) == expected


def test_rows_are_equal_by_value():
    one, other = row(amount="1.0", count="1"), row(amount=1, count="1.000")
    assert one == other
    assert not one != other  # noqa: SIM202 - it is another method
    assert hash(one) == hash(other)
    assert (one == 5) is False
    assert (one != 5) is True
    assert one != row(amount="1.1", count="1")
    assert one != {"e.amount": 1}
    assert len({one, other, row()}) == 2
    assert row(amount="junk") == row(amount="junk")
    assert row(None) == row(None)


def test_rows_are_immutable():
    each = row()
    for name in ("_cells", "other"):
        with pytest.raises(AttributeError):
            setattr(each, name, 1)


def test_a_row_shows_its_values_also_those_that_cannot_be_read():
    shown = repr(row(count="junk", active=None))
    assert shown.startswith("Row({'e.sender': 'SP1', 'e.active': None, 'e.at.day': ")
    assert shown.endswith("'e.amount': Decimal('1000.500000'), 'e.count': 'junk'})")


def test_a_changed_row_knows_how_it_was():
    one, other = result([ROW]), result([ROW | {"e.count": 6}])
    (each,) = difference(one, other).changed
    assert isinstance(each, ChangedRow)
    assert (each[COUNT], each.before[COUNT]) == (6, 5)
    assert each == other[0]
    assert hash(each) == hash(other[0])
    assert repr(each).startswith("ChangedRow({")
    with pytest.raises(DecodeError, match=r"e\.count in a row is NULL"):
        difference(one, result([ROW | {"e.count": None}])).changed[0][COUNT]


ANNOTATION = msgspec.Raw(
    json.dumps(
        {
            "measures": {"e.amount": {"type": "number"}},
            "dimensions": {
                "e.sender": {"type": "string"},
                "e.active": {"type": "boolean"},
                "e.count": {"title": "no type"},
                "e.broken": 5,
                "e.other": {"type": {"not": "a name"}},
            },
            "timeDimensions": {"e.at": {"type": "time"}, "e.at.day": {"type": "time"}},
            "segments": {},
        }
    ).encode()
)


def test_the_annotation_declares_what_the_query_does_not():
    (each,) = result([ROW], None, annotation=ANNOTATION)
    assert each.as_dict() == {
        "e.sender": "SP1",
        "e.active": True,
        "e.count": "5.0",
        "e.at": DAY,
        "e.at.day": DAY,
        "e.amount": Decimal("1000.500000"),
    }
    query = Query(measures=[Measure("e.amount", Decimal)])
    (each,) = result([ROW], query, annotation=ANNOTATION)
    assert each["e.active"] is True


@pytest.mark.parametrize("annotation", [b"", b"null", b"[]", b'{"measures":[]}'])
def test_without_any_declaration_values_are_as_sent(annotation):
    (each,) = result([ROW], None, annotation=msgspec.Raw(annotation))
    assert each.as_dict() == ROW
    assert each[AMOUNT] == Decimal("1000.500000")


def test_without_a_declaration_null_is_none_and_a_missing_column_an_error():
    first, second = result([{"a": None}, {"b": 1}], None)
    assert first.get("a") is None
    assert first["a"] is None
    for read in (second.__getitem__, second.get):
        with pytest.raises(DecodeError, match="unknown column 'a': the columns are b"):
            read("a")


def test_blended_and_compared_rows_have_columns_of_their_own():
    blended = {"time.day": "2026-11-22T00:00:00.000", "compareDateRange": "a - b"}
    (each,) = result([blended], None)
    assert each.as_dict() == {"time.day": DAY, "compareDateRange": "a - b"}


def test_an_unknown_time_zone_is_a_decode_error():
    query = Query(measures=[COUNT])
    object.__setattr__(query, "timezone", "Nowhere/At_All")
    with pytest.raises(DecodeError, match="unknown time zone"):
        row(query)


@attrs.frozen
class Event:
    sender: str
    amount: Decimal


def test_rows_go_into_classes():
    assert row().into(Event) == Event("SP1", Decimal("1000.500000"))


def test_errors_of_classes_know_the_row():
    rows = result([ROW, ROW | {"e.amount": "x"}])
    with pytest.raises(DecodeError, match=r"e\.amount in row 1 is"):
        rows[1].into(Event)
    with pytest.raises(DecodeError, match=r"e\.amount in a row is"):
        difference(result([]), rows).added[1].into(Event)


@given(
    st.lists(
        st.tuples(st.text(), st.none() | st.decimals(allow_nan=False, places=3)),
        max_size=5,
    )
)
def test_typed_values_survive_the_way(values):
    rows = [
        ROW | {"e.sender": sender, "e.amount": None if amount is None else str(amount)}
        for sender, amount in values
        if amount is None or amount.is_finite()
    ]
    got = [(each[SENDER], each.get(AMOUNT)) for each in result(rows)]
    assert got == [each for each in values if each[1] is None or each[1].is_finite()]
