from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import example, given, strategies as st

from ortege_watch.errors import DecodeError
from ortege_watch.results import decode as values

BERLIN = ZoneInfo("Europe/Berlin")
KINDS = [Decimal, int, str, bool, datetime]


def read(value, kind, zone=UTC):
    return values.reader(kind, zone)(value)


@pytest.mark.parametrize(
    ("kind", "sent", "value"),
    [
        (Decimal, "5", Decimal(5)),
        (Decimal, "1000.500000", Decimal("1000.500000")),
        (Decimal, "9007199254740993.000001", Decimal("9007199254740993.000001")),
        (Decimal, "-0.5", Decimal("-0.5")),
        (Decimal, "1e-7", Decimal("1e-7")),
        (Decimal, ".5", Decimal("0.5")),
        (Decimal, 2**64 + 1, Decimal(2**64 + 1)),
        (Decimal, Decimal("1.0"), Decimal("1.0")),
        (int, "5", 5),
        (int, "-5", -5),
        (int, "5.000", 5),
        (int, "1.0", 1),
        (int, "1e3", 1000),
        (int, Decimal("1.0"), 1),
        (int, 2**64 + 1, 2**64 + 1),
        (int, "18446744073709551617.000000", 2**64 + 1),
        (str, "", ""),
        (str, " é ", " é "),
        (bool, True, True),
        (bool, "false", False),
        (bool, "1", True),
        (bool, 0, False),
        (bool, Decimal("1.0"), True),
        (None, "5", "5"),
        (None, Decimal("1.0"), Decimal("1.0")),
        (None, {"a": [1]}, {"a": [1]}),
    ],
)
def test_values_are_read_exactly(kind, sent, value):
    got = read(sent, kind)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        *(
            (kind, sent)
            for kind in (Decimal, int)
            for sent in (
                "",
                " 5",
                "5 ",
                "5\n",
                "1_000",
                "+5",
                "\N{ARABIC-INDIC DIGIT FIVE}",
                "NaN",
                "Infinity",
                "0x10",
                "1.2.3",
                ".",
                "-",
                "five",
                "1e99999999999999999999",
                True,
                [1],
                {},
                1.5,
            )
        ),
        (int, "1.5"),
        (int, Decimal("1.5")),
        (int, "1e-7"),
        (int, "9" * 5000),
        (int, "1e999999999"),
        (str, 5),
        (str, True),
        (str, Decimal(1)),
        (str, ["a"]),
        (bool, "yes"),
        (bool, "True"),
        (bool, 2),
        (bool, []),
        (datetime, "2026-11-22"),
        (datetime, "2026-11-22 06:03:11"),
        (datetime, "2026-W47-7T06:03:11"),
        (datetime, "20261122T060311"),
        (datetime, "2026-11-22T06:03:11.405 "),
        (datetime, "2026-02-30T00:00:00.000"),
        (datetime, "2026-11-22T24:00:01.000"),
        (datetime, "0000-01-01T00:00:00.000"),
        (datetime, "0001-01-01T00:00:00+12:00"),
        (datetime, "٢٠٢٦-11-22T06:03:11.405"),
        (datetime, 1763791391),
    ],
)
def test_other_values_are_refused(kind, sent):
    with pytest.raises(ValueError, match=r"^(is not an? |has more than)"):
        read(sent, kind)


@pytest.mark.parametrize(
    ("sent", "advice"),
    [(5, "int or Decimal"), (True, "bool"), (Decimal("1.5"), "Decimal")],
)
def test_a_value_that_is_no_text_says_what_to_declare(sent, advice):
    with pytest.raises(ValueError, match=f"declare the member as {advice}$"):
        read(sent, str)


@pytest.mark.parametrize(
    ("sent", "zone", "value"),
    [
        ("2026-07-01T12:00:00.000", UTC, "2026-07-01T12:00:00+00:00"),
        ("2026-07-01T12:00:00.000", BERLIN, "2026-07-01T12:00:00+02:00"),
        ("2026-07-01T12:00:00", UTC, "2026-07-01T12:00:00+00:00"),
        ("2026-07-01T12:00:00.123456000", UTC, "2026-07-01T12:00:00.123456+00:00"),
        ("2026-07-01T12:00:00Z", BERLIN, "2026-07-01T14:00:00+02:00"),
        ("2026-07-01T12:00:00.5+05:30", UTC, "2026-07-01T06:30:00.500000+00:00"),
    ],
)
def test_times_are_aware_in_the_zone_of_the_query(sent, zone, value):
    got = read(sent, datetime, zone)
    assert got.isoformat() == value
    assert got.tzinfo is zone


def test_what_is_as_sent_cannot_change_the_row():
    sent = {"a": [1]}
    read(sent, None)["a"].append(2)
    assert sent == {"a": [1]}


def test_zones():
    assert values.zone_of("UTC") is UTC
    assert values.zone_of("Europe/Berlin") is BERLIN
    for name in ("Nowhere/At_All", "../etc", ""):
        with pytest.raises(DecodeError, match="unknown time zone"):
            values.zone_of(name)


sent = (
    st.none()
    | st.sampled_from(
        ["1", "1.0", "01", "-1", "-0", "1.", ".", "1.2.3", "1\n2", "", "x"]
    )
    | st.sampled_from(["true", "2026-07-01T12:00:00.000", "2026-99-01T12:00:00.000"])
    | st.sampled_from(
        [
            "2026-07-01T12:00:00Z",
            "2026-07-01T12:00:00.000\n",
            "\N{ARABIC-INDIC DIGIT FIVE}",
            "²",
        ]
    )
    | st.sampled_from([1, 0, 7, True, False, Decimal("1.0"), Decimal("1.5")])
)
columns = st.lists(sent, max_size=4) | st.lists(
    st.integers(0, 99).map(str) | st.decimals(0, 9, places=2).map(str), max_size=4
)
zones = st.sampled_from([UTC, BERLIN])


@example(["1", "1.2.3"], Decimal, UTC, True)
@example(["1", "1.2"], Decimal, UTC, True)
@example(["1", ""], int, UTC, True)
@example(["1", "20"], int, UTC, True)
@example(["2026-07-01T12:00:00.000"], datetime, UTC, True)
@example(["2026-07-01T12:00:00.000"], datetime, BERLIN, True)
@example(["1\n2"], int, UTC, True)
@example(["2026-07-01T12:00:00.000\n2026-07-01T12:00:00.000"], datetime, UTC, True)
@example(["1", None], int, UTC, True)
@example(["1", None], int, UTC, False)
@given(columns, st.sampled_from(KINDS), zones, st.booleans())
def test_a_column_is_read_as_its_values_are(column, kind, zone, nullable):
    def read_all():
        return values.read_column(list(column), kind, zone, nullable=nullable)

    try:
        one_by_one = [
            None if nullable and value is None else read(value, kind, zone)
            for value in column
        ]
    except ValueError:
        with pytest.raises(ValueError):
            read_all()
    else:
        got = read_all()
        assert got == one_by_one
        assert list(map(type, got)) == list(map(type, one_by_one))


@given(columns, st.sampled_from([*KINDS, None]), zones)
def test_verbatim_columns_hold_no_two_forms_of_a_value(column, kind, zone):
    meanings = {}
    if values.writing_of(column, kind, zone) is not None:
        for value in column:
            meaning = values.canonical(value, kind, zone)
            assert meanings.setdefault(meaning, value) == value


@given(columns, columns, st.sampled_from([*KINDS, None]), zones)
def test_columns_of_one_form_hold_no_two_forms_of_a_value(one, other, kind, zone):
    form, other_form = (values.writing_of(each, kind, zone) for each in (one, other))
    alike = form == other_form or values.ANY_WRITING in {form, other_form}
    if alike and None not in {form, other_form}:
        assert values.writing_of([*one, *other], kind, zone) is not None


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (["5", "-7", None, "0"], int),
        (["5", "12"], Decimal),
        ([None, "0.50", "-12.25"], Decimal),
        ([5, Decimal("1.5")], Decimal),
        (["2026-07-01T12:00:00.000", None], datetime),
        (["a", None], str),
        (["a", ""], None),
        ([True, None], bool),
    ],
)
def test_the_usual_columns_are_verbatim(column, kind):
    assert values.writing_of(column, kind, UTC) is not None


@pytest.mark.parametrize(
    ("column", "kind", "zone"),
    [
        (["5", "05"], int, UTC),
        (["0", "-0"], int, UTC),
        (["1.5", "1.50"], Decimal, UTC),
        (["1.5", "1"], Decimal, UTC),
        (["0.0", "-0.0"], Decimal, UTC),
        (["5", 5], int, UTC),
        (["true"], bool, UTC),
        ([True, 1], bool, UTC),
        (["a", 5], str, UTC),
        ([True, 1], None, UTC),
        ([[1]], None, UTC),
        (["2026-07-01T12:00:00Z"], datetime, UTC),
        (["2026-07-01T12:00:00.000"], datetime, BERLIN),
    ],
)
def test_columns_with_several_forms_are_not(column, kind, zone):
    assert values.writing_of(column, kind, zone) is None


@pytest.mark.parametrize(
    ("kind", "alike"),
    [
        (Decimal, ["1", "1.0", 1, Decimal("1.00"), "01", "1e0"]),
        (int, ["10", "10.0", 10, "1e1"]),
        (bool, ["true", True, 1, "1", Decimal("1.0")]),
        (datetime, ["2026-07-01T12:00:00.000", "2026-07-01T10:00:00Z"]),
        (None, [{"a": [1], "b": 2}, {"b": 2, "a": [1]}]),
    ],
)
def test_forms_of_one_value_are_equal(kind, alike):
    assert len({values.canonical(value, kind, BERLIN) for value in alike}) == 1


@pytest.mark.parametrize("kind", [*KINDS, None])
def test_what_cannot_be_read_stands_for_itself(kind):
    for value in (None, msgspec.UNSET, "junk", "1_0"):
        assert values.canonical(value, kind, UTC) == value
    nested = [[1, {"a": 2}], [[1], {"a": 2}], [1, {"b": 2}], {"a": [1]}, [[]], []]
    assert len({values.canonical(value, kind, UTC) for value in nested}) == len(nested)
    same = [values.canonical([{"a": 2, "b": [3]}], kind, UTC) for _ in range(2)]
    assert same[0] == same[1]
    early = "0001-01-01T00:00:00.000"
    assert values.canonical(early, datetime, timezone(timedelta(hours=9))) == early


@given(st.lists(st.none() | st.text() | st.integers() | st.datetimes() | st.booleans()))
def test_canonical_values_have_one_order(some):
    backwards = some[::-1]
    keys = sorted(map(values.sort_key, some))
    assert sorted(map(values.sort_key, backwards)) == keys


def test_an_error_names_the_column_the_row_and_the_value():
    error = values.unreadable("e.count", "x" * 500, 7, "is not a whole number")
    assert str(error).startswith("e.count in row 7 is not a whole number: 'xxx")
    assert len(str(error)) < 300
    assert "in a row is" in str(values.unreadable("e.count", 1, -1, "is not a string"))
