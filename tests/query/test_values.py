"""Values of filters, and their form in JSON."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum, StrEnum
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, strategies as st

from ortege_watch.errors import QueryError
from ortege_watch.query.values import (
    check_moment,
    check_text,
    check_value,
    day_end,
    value_to_wire,
    wall_clock,
)

NAIVE = datetime(2024, 5, 1)  # noqa: DTZ001
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
NEW_YORK = ZoneInfo("America/New_York")


class Chain(StrEnum):
    STACKS = "stacks"


class Height(IntEnum):
    GENESIS = 0


@pytest.mark.parametrize(
    ("value", "declared"),
    [
        ("text", str),
        ("", str),
        (5, int),
        (-(10**40), int),
        (5, Decimal),
        (Decimal("0.1"), Decimal),
        (True, bool),
        (NOON, datetime),
        ("text", object),
        (5, object),
        (False, object),
        (Decimal(7), object),
        (NOON, object),
    ],
)
def test_takes_values_of_the_declared_type(value, declared):
    checked = check_value(value, declared, "a.b.eq")
    assert checked == value
    assert type(checked) is type(value)


def test_takes_enumerations_for_their_values():
    assert type(check_value(Chain.STACKS, str, "a.b.eq")) is str
    assert value_to_wire(check_value(Height.GENESIS, int, "a.b.eq")) == "0"


@pytest.mark.parametrize(
    ("value", "declared", "advice"),
    [
        (0.1, Decimal, r'float 0.1 is not exact; use Decimal\("0.1"\)'),
        (1.0, int, r"float 1\.0 is not exact"),
        (float("nan"), object, "nan is not finite"),
        (
            5,
            str,
            "expected str, got 5 of type int; convert it, or declare the member int",
        ),
        ("5", int, "expected int, got '5' of type str; convert it, or declare .* str"),
        (True, int, "expected int, got True of type bool; .* declare the member bool"),
        (True, Decimal, "expected Decimal, got True"),
        (1, bool, "expected bool, got 1"),
        (Decimal(5), int, "declare the member Decimal"),
        (None, str, r"use .is_set\(\) or .is_not_set\(\)"),
        (["a", "b"], str, r"; for several values use .in_\(\[...\]\)$"),
        (b"a", str, "got b'a' of type bytes"),
        (date(2024, 5, 1), datetime, "expected datetime, got .* of type date$"),
        (Decimal("NaN"), Decimal, r"Decimal\(\'NaN\'\) is not finite$"),
        (Decimal("sNaN"), object, "is not finite$"),
        (Decimal("-Infinity"), Decimal, "is not finite$"),
        (Decimal("1E+999999"), Decimal, r"E\+999999'\) has more than 4000 digits$"),
        (Decimal("1E-999999"), Decimal, "has more than 4000 digits$"),
        pytest.param(1 << 20000, int, "int is longer than 12000 bits", id="long"),
        pytest.param(
            1 << 20000, str, "got <int too large to print> of type int", id="longer"
        ),
        (NAIVE, datetime, "naive; add tzinfo=timezone.utc"),
        ("a\udfff", str, "lone surrogate"),
    ],
)
def test_refuses_other_values_with_advice(value, declared, advice):
    with pytest.raises(QueryError, match=advice) as caught:
        check_value(value, declared, "a.b.eq")
    assert str(caught.value).startswith("a.b.eq: ")


def test_the_longest_numbers_can_be_written():
    digits = value_to_wire(check_value(Decimal("1E-4000"), Decimal, ""))
    assert digits is not None
    assert len(digits) == 4002
    assert value_to_wire(check_value((1 << 12000) - 1, int, ""))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        ("", ""),
        ("日本語 💱 'quoted'", "日本語 💱 'quoted'"),
        (True, "true"),
        (False, "false"),
        (-5, "-5"),
        (9007199254740993, "9007199254740993"),
        (Decimal("1000.500"), "1000.500"),
        (Decimal("1E-7"), "0.0000001"),
        (Decimal("1E+21"), "1000000000000000000000"),
        (NOON, "2024-05-01T12:00:00.000"),
        (NOON.replace(microsecond=5), "2024-05-01T12:00:00.000005"),
    ],
)
def test_writes_values(value, text):
    assert value_to_wire(value) == text


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_numbers_are_written_exactly_and_without_exponent(number):
    text = value_to_wire(number)
    assert text is not None
    assert Decimal(text) == number
    assert "E" not in text


@given(st.text())
def test_strings_that_can_be_encoded_are_accepted(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        with pytest.raises(QueryError):
            check_text(text, "x")
    else:
        assert check_text(text, "x") == text


def test_a_moment_is_a_day_or_an_instant_kept_in_utc():
    assert check_moment(NOON.astimezone(NEW_YORK), "x") == NOON
    kept = check_value(NOON.astimezone(NEW_YORK), datetime, "x")
    assert isinstance(kept, datetime)
    assert kept.tzinfo is UTC
    assert check_moment(date(2024, 5, 1), "x") == date(2024, 5, 1)


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ("yesterday", r'.over\("last 7 days"\)'),
        (
            "2024-05-01",
            r"expected a date or an aware datetime, got '2024-05-01'; use date\(2024, 5, 1\)$",
        ),
        (NAIVE, "naive"),
        (1714521600, "or an aware datetime, got"),
        (None, "or an aware datetime, got"),
    ],
)
def test_other_moments_are_refused_with_advice(value, advice):
    with pytest.raises(QueryError, match=advice):
        check_moment(value, "x")


@pytest.mark.parametrize(
    ("moment", "down", "up"),
    [
        (NOON, "08:00:00.000", "08:00:00.000"),
        (NOON.replace(microsecond=123000), "08:00:00.123", "08:00:00.123"),
        (NOON.replace(microsecond=123001), "08:00:00.123", "08:00:00.124"),
        (NOON.replace(microsecond=999999), "08:00:00.999", "08:00:01.000"),
        (
            datetime(2024, 5, 1, 21, tzinfo=timezone(timedelta(hours=9))),
            "08:00:00.000",
            "08:00:00.000",
        ),
    ],
)
def test_instants_are_wall_clock_of_the_zone_in_milliseconds(moment, down, up):
    day = "2024-05-01T"
    assert wall_clock(moment.astimezone(UTC), NEW_YORK, "x", up=False) == day + down
    assert wall_clock(moment.astimezone(UTC), NEW_YORK, "x", up=True) == day + up


@given(st.datetimes(timezones=st.just(UTC)), st.booleans())
def test_rounding_goes_less_than_a_millisecond_in_its_direction(moment, up):
    text = wall_clock(moment.astimezone(UTC), ZoneInfo("UTC"), "x", up=up)
    off = datetime.fromisoformat(text + "+00:00") - moment
    least = timedelta() if up else timedelta(milliseconds=-1, microseconds=1)
    most = timedelta(milliseconds=1, microseconds=-1) if up else timedelta()
    assert least <= off <= most


def test_the_first_of_two_equal_wall_times_is_meant_and_the_second_refused():
    first = datetime(2024, 11, 3, 5, 30, tzinfo=UTC)
    assert wall_clock(first, NEW_YORK, "x", up=False) == "2024-11-03T01:30:00.000"
    with pytest.raises(QueryError, match=r'01:30 occurs twice in .*timezone="UTC"'):
        wall_clock(first + timedelta(hours=1), NEW_YORK, "x", up=False)


def test_a_wall_time_that_clocks_skip_is_the_one_that_they_show():
    skipped = datetime(2024, 3, 10, 2, 30, tzinfo=NEW_YORK)
    assert (
        wall_clock(check_moment(skipped, "x"), NEW_YORK, "x", up=False)
        == "2024-03-10T03:30:00.000"
    )


@pytest.mark.parametrize(
    ("moment", "zone"),
    [
        (datetime.max.replace(tzinfo=UTC), ZoneInfo("UTC")),
        (datetime.min.replace(tzinfo=UTC), NEW_YORK),
    ],
)
def test_the_ends_of_the_calendar_are_refused(moment, zone):
    with pytest.raises(QueryError, match="outside the years 1 to 9999"):
        wall_clock(moment, zone, "x", up=True)
    with pytest.raises(QueryError, match="outside the years 1 to 9999"):
        check_moment(datetime.min.replace(tzinfo=timezone(timedelta(hours=9))), "x")


def test_a_day_ends_with_its_last_millisecond():
    assert day_end(date(999, 5, 1)) == "0999-05-01T23:59:59.999"
