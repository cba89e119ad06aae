"""What errors about values say: bounded, without secrets, with what to do."""

from __future__ import annotations

import dataclasses
import json
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple, TypedDict

import attrs
import msgspec
import pytest
from hypothesis import given, strategies as st

from ortege_watch import (
    ApiError,
    DecodeError,
    Dimension,
    InvalidArgument,
    Measure,
    OrtegeWatchError,
    Query,
    Result,
)
from ortege_watch._json import ResultPart, excerpt

AMOUNT = Measure("e.amount")
QUERY = Query(measures=[AMOUNT], dimensions=[Dimension("e.sender")])
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjE3MDAwMDAwMDB9.c2lnbmF0dXJlLW9mLWE_dG9rZW4"


def result(rows: Any, asked: Query | None = QUERY) -> Result:
    data = rows if isinstance(rows, bytes) else json.dumps(rows).encode()
    return Result(ResultPart(data=msgspec.Raw(data)), asked)


@attrs.frozen
class Event:
    amount: Decimal


@attrs.frozen
class Sender:
    sender: str


class Kind(Enum):
    SUPPLY = "supply"


@attrs.frozen
class Kinded:
    sender: Kind


READS = {
    "member": lambda rows: rows[0][AMOUNT],
    "name": lambda rows: rows[0]["e.amount"],
    "get": lambda rows: rows[0].get(AMOUNT),
    "dict": lambda rows: dict(rows[0]),
    "into": lambda rows: rows.into(Event),
    "into, a row": lambda rows: rows[0].into(Event),
    "into, an enum": lambda rows: rows.into(Kinded),
    "other column": lambda rows: rows[0]["e.other"],
}


def message(read, rows: Any, asked: Query | None = QUERY) -> str:
    with pytest.raises(DecodeError) as raised:
        read(result(rows, asked))
    return str(raised.value)


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("long", ["x" * 10_000, ["x" * 10_000], {"x" * 10_000: 1}])
def test_a_long_value_is_cut(read, long):
    assert len(message(READS[read], [{"e.amount": long, "e.sender": long}])) < 500


@pytest.mark.parametrize("read", READS)
def test_a_token_in_a_value_is_not_shown(read):
    for echoed in (TOKEN, f"Bearer {TOKEN}", [TOKEN], "x" * 150 + " " + TOKEN):
        shown = message(READS[read], [{"e.amount": echoed, "e.sender": echoed}])
        assert TOKEN[:40] not in shown
        assert TOKEN[40:] not in shown


def test_a_token_in_the_place_of_rows_is_not_shown():
    for rows in (TOKEN, [TOKEN], {"members": TOKEN}, [{"a": 1}, TOKEN]):
        shown = message(len, rows)
        assert TOKEN[20:] not in shown
        assert "<token>" in shown


@given(st.text(max_size=250), st.sampled_from(["", " ", '"', ":"]))
def test_no_part_of_a_signature_is_shown_wherever_an_excerpt_ends(before, between):
    shown = excerpt(before + between + TOKEN)
    assert "ZXhwIjox" not in shown
    assert "c2lnbmF0dX" not in shown


@pytest.mark.parametrize("text", ["keyJob.runner.fast", "eyJ", "a.b.c", "money.Jar"])
def test_what_is_no_token_is_not_changed(text):
    assert excerpt(text) == text


def test_many_columns_are_cut():
    names = [f"e.column_{i:05}" for i in range(5000)]
    rows = [dict.fromkeys(names, 1)]
    assert len(message(lambda rows: rows[0]["e.other"], rows, None)) < 500
    twice = {"members": names * 2, "dataset": []}
    assert len(message(len, twice)) < 500
    pairs = ",".join(f'"{name}":1' for name in names * 2)
    assert len(message(len, f"[{{{pairs}}}]".encode())) < 500
    assert len(message(lambda rows: rows[0]["x" * 10_000], [{"a": 1}])) < 500
    with pytest.raises(InvalidArgument) as raised:
        result(rows, None).into(Event)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("sent", ["NaN", "Infinity", "-Infinity", "nan", "inf"])
@pytest.mark.parametrize("read", ["member", "name", "get", "into", "into, a row"])
def test_a_number_that_is_not_finite_says_what_to_do(sent, read):
    rows = [{"e.amount": sent, "e.sender": "a"}]
    assert message(READS[read], rows) == (
        "e.amount in row 0 is not a finite number; exclude it in the query, or declare"
        f" the member or field as str: {sent!r}"
    )
    assert result(rows)[0].get(Measure("e.amount", str)) == sent


@attrs.frozen
class Refusing:
    amount: Decimal

    def __attrs_post_init__(self) -> None:
        raise ValueError


@attrs.frozen
class Long(Refusing):
    def __attrs_post_init__(self) -> None:
        raise ValueError("x" * 10_000)


def test_an_error_of_the_class_without_a_message_is_named():
    rows = [{"e.amount": "1"}]
    shown = message(lambda rows: rows.into(Refusing), rows)
    assert shown == "cannot create Refusing from row 0: ValueError"
    assert len(message(lambda rows: rows.into(Long), rows)) < 500


class Tuple(NamedTuple):
    amount: Decimal


class Typed(TypedDict):
    amount: Decimal


class Struct(msgspec.Struct):
    amount: Decimal


@dataclasses.dataclass
class Data:
    amount: Decimal


@pytest.mark.parametrize(
    ("cls", "advice"),
    [
        (dict, "; use dict(row)"),
        (Typed, "; use dict(row)"),
        (dict[str, Any], "; use dict(row)"),
        (tuple, ""),
        (list, ""),
        (Tuple, ""),
        (Struct, ""),
        (int, ""),
        (Data(Decimal(1)), "; pass the class, not an instance"),
        (Event(Decimal(1)), "; pass the class, not an instance"),
        ("Event", ""),
        (None, ""),
    ],
)
@pytest.mark.parametrize("rows", [[{"e.amount": "1"}], []])
def test_another_class_is_refused_also_for_no_rows(cls, advice, rows):
    with pytest.raises(InvalidArgument) as raised:
        result(rows).into(cls)
    expected = f"cls must be an attrs class or a dataclass, got {cls!r}{advice}"
    assert str(raised.value) == expected


@pytest.mark.parametrize(
    "error",
    [
        ApiError("", status=500),
        ApiError("", status=500, code=None, request_id=None),
        DecodeError(),
    ],
)
def test_an_error_without_a_message_has_no_empty_part(error: OrtegeWatchError):
    shown = str(error)
    assert shown[0] not in " :("
    assert shown in {"no reason given (status 500)", "cannot be decoded"}
    assert "None" not in shown
    assert shown.strip(" :") == shown
