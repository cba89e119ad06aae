from __future__ import annotations

import contextlib
import enum
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Literal

import attrs
import msgspec
import pytest
from hypothesis import given, strategies as st

from ortege_watch import _json as codec
from ortege_watch.errors import DecodeError, InvalidArgument

exact = st.none() | st.booleans() | st.integers() | st.text()
exact |= st.decimals(allow_nan=False, allow_infinity=False)
values = st.recursive(
    exact,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def number_forms(value: object) -> object:
    """Give every number one form: JSON does not tell 1 from Decimal("1")."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, dict):
        return {key: number_forms(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [number_forms(item) for item in value]
    return Decimal(value)


@given(values)
def test_what_is_written_is_read_back_exactly(value):
    assert number_forms(codec.loads(codec.dumps(value))) == number_forms(value)


def test_every_error_of_msgspec_is_one_of_decoding():
    with pytest.raises(codec.UNREADABLE):
        raise msgspec.MsgspecError  # before msgspec 0.21, its errors are no ValueErrors


@given(values)
def test_text_and_bytes_read_alike(value):
    text = codec.dumps(value)
    assert codec.loads(text) == codec.loads(text.encode())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("18446744073709551617", 2**64 + 1),
        ("-18446744073709551617", -(2**64) - 1),
        ("1.10", Decimal("1.10")),
        ("1.0", Decimal("1.0")),
        ("1e400", Decimal("1e400")),
        ("9007199254740993.000001", Decimal("9007199254740993.000001")),
        ('"\\ud83d\\ude00"', "\U0001f600"),
    ],
)
def test_numbers_are_exact(text, value):
    read = codec.loads(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        b'{"a":',
        b"NaN",
        b"01",
        b"1e99999999999999999999",
        b"9" * 5000,
        b'"\\ud800"',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b"[" * 5000 + b"]" * 5000,
        "\ud800",
    ],
)
def test_what_is_no_json_is_a_decode_error(data):
    with pytest.raises(DecodeError, match="invalid JSON") as raised:
        codec.loads(data)
    assert raised.value.__cause__ is not None


def test_numbers_are_written_as_numbers():
    value = {"a": [Decimal("1.50"), Decimal("1E+5"), 10**30], "b": (True, None)}
    text = '{"a":[1.50,1E+5,1000000000000000000000000000000],"b":[true,null]}'
    assert codec.dumps(value) == text
    assert codec.dumps(MappingProxyType({"ä": "é"})) == '{"ä":"é"}'


class Chain(enum.StrEnum):
    STACKS = "stacks"


class Height(enum.IntEnum):
    GENESIS = 0


@pytest.mark.parametrize("kind", [str, int, Decimal])
def test_subclasses_are_written_as_their_base_class(kind):
    value = type("Other", (kind,), {})("5")
    assert codec.dumps([value]) == codec.dumps([kind("5")])
    assert codec.dumps({"a": value}) == codec.dumps({"a": kind("5")})


def test_enumerations_are_written_as_their_values():
    value = {Chain.STACKS: Chain.STACKS, "height": Height.GENESIS}
    assert codec.dumps(value) == '{"stacks":"stacks","height":0}'


def test_writing_strings_takes_one_call_for_each_container():
    calls = []

    def count(frame, event, _):
        if event == "call" and frame.f_code.co_filename == codec.__file__:
            calls.append(frame.f_code.co_name)

    value = {"data": [{"chain_id": "1", "entity_type": "ERC20", "id": None, "n": 5}]}
    sys.setprofile(count)
    try:
        codec.dump_bytes(value)
    finally:
        sys.setprofile(None)
    assert len(calls) == 4, calls


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (
            {"a": [0.5]},
            r"\$\.a\[0\]: cannot write 0\.5 as JSON; use Decimal, which is exact",
        ),
        (Decimal("NaN"), r"\$: cannot write Decimal\('NaN'\) .* a finite Decimal"),
        ([Decimal("Infinity")], r"\$\[0\]: cannot write"),
        ({"a": {1: 2}}, r"\$\.a: keys must be strings, got 1"),
        ({"a": {2}}, r"\$\.a: cannot write \{2\} as JSON; use None, bool"),
        (b"x", "cannot write b'x' as JSON"),
        ("\ud800", "cannot be written as JSON"),
    ],
)
def test_what_has_no_exact_form_is_refused_with_its_path(value, problem):
    with pytest.raises(InvalidArgument, match=problem):
        codec.dumps(value)


def test_integers_beyond_pythons_own_limit_are_refused():
    assert codec.loads("9" * 4300) == 10**4300 - 1
    with pytest.raises(InvalidArgument, match="cannot be written as JSON"):
        codec.dumps(10**5000)


def test_deep_nesting_is_refused():
    value: object = []
    for _ in range(5000):
        value = [value]
    with pytest.raises(InvalidArgument, match="cannot be written"):
        codec.dumps(value)
    cycle: list[object] = []
    cycle += [cycle, cycle]
    with pytest.raises(InvalidArgument, match="cannot be written"):
        codec.dumps(cycle)


def test_an_excerpt_is_short_and_printable():
    assert codec.excerpt("x" * 200) == "x" * 200
    assert codec.excerpt("x" * 201) == "x" * 200 + "…"
    assert codec.excerpt(b"a\r\n\x00\xffb") == "a   \N{REPLACEMENT CHARACTER}b"
    assert codec.excerpt("é" * 300) == codec.excerpt(("é" * 300).encode())
    assert codec.excerpt("\U0001f600" * 300) == "\U0001f600" * 200 + "…"


# What an answer's shapes are: spec'd by Cube's REST API, captured on 0.35.81 and 1.7.43.
MULTI = b"""{"queryType":"regularQuery","results":[{"query":{"limit":10},"data":[{"a":
"5"}],"lastRefreshTime":"2026-11-22T06:03:11.405Z","annotation":{"measures":{}},
"total":null,"external":false}],"pivotQuery":{},"slowQuery":false}"""
SINGLE = b'{"lastRefreshTime":"2026-11-22T06:03:11.405Z","total":7,"data":[],"new":1}'


def test_a_multi_answer_lists_its_results():
    body = codec.decode_body(MULTI)
    (part,) = body.parts
    assert body.queryType == "regularQuery"
    assert bytes(part.data) == b'[{"a":\n"5"}]'
    assert part.lastRefreshTime == "2026-11-22T06:03:11.405Z"
    assert part.total is None
    assert bytes(part.annotation) == b'{"measures":{}}'
    assert bytes(part.query) == b'{"limit":10}'


def test_a_single_answer_is_its_only_part():
    (part,) = codec.decode_body(SINGLE).parts
    assert (bytes(part.data), part.total) == (b"[]", 7)
    (part,) = codec.decode_body(b'{"data": [{"a":1}]}').parts
    assert bytes(part.data) == b'[{"a":1}]'
    assert part.lastRefreshTime is None
    assert (bytes(part.annotation), bytes(part.query)) == (b"", b"")


@pytest.mark.parametrize(
    ("data", "error", "kind"),
    [
        (b'{"error":"Continue wait"}', "Continue wait", None),
        (b'{"type":"UserError","error":"no","stack":"s"}', "no", "UserError"),
        (b"{}", None, None),
        (b'{"data":null,"results":null}', None, None),
        (b'{"results":[]}', None, None),
    ],
)
def test_an_answer_without_rows_has_no_parts(data, error, kind):
    body = codec.decode_body(data)
    assert (body.error, body.type, body.parts) == (error, kind, [])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"5",
        b"[]",
        b"<!DOCTYPE html><title>Error</title>",
        b'{"data":[{"a":1},',
        b'{"data":[1e]}',
        b'{"results":{}}',
        b'{"results":[5]}',
        b'{"error":"\xff"}',
        b'{"error":"\\ud800"}',
        b'{"data":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
def test_anything_else_is_a_decode_error_with_an_excerpt(data):
    with pytest.raises(DecodeError, match="not a Cube server's response") as raised:
        codec.decode_body(data)
    assert raised.value.excerpt == codec.excerpt(data)
    assert not isinstance(raised.value, msgspec.MsgspecError)


@given(st.binary())
def test_no_bytes_get_another_error_out(data):
    for read in (codec.loads, codec.decode_body):
        with contextlib.suppress(DecodeError):
            read(data)


class Level(enum.Enum):
    HIGH = "high"


@attrs.frozen
class Inner:
    x: int
    y: str | None = None


@attrs.frozen
class Outer:
    name: str
    inners: tuple[Inner, ...]
    flag: bool
    amount: Decimal
    named: Mapping[str, Inner]
    level: Level | None = None
    choice: Literal[1, "x"] = 1
    anything: Any = None
    at: datetime | None = None
    extra: dict[str, Any] = attrs.Factory(dict)
    tags: frozenset[str] = frozenset()
    inner: Inner | None = None
    items: list = attrs.Factory(list)


GOOD = {
    "name": "n",
    "inners": [{"x": 1, "unknown": 1}],
    "flag": True,
    "amount": "1.50",
    "named": {"a": {"x": 2}},
}


def test_values_are_structured():
    outer = codec.structure(
        Outer,
        GOOD
        | {
            "level": "high",
            "choice": "x",
            "anything": [1],
            "at": "2026-11-22T06:03:11.405Z",
            "extra": {"q": None},
            "tags": ["a"],
            "inner": {"x": 1, "y": "z"},
            "items": [1, "2"],
        },
    )
    assert outer == Outer(
        name="n",
        inners=(Inner(1),),
        flag=True,
        amount=Decimal("1.50"),
        named={"a": Inner(2)},
        level=Level.HIGH,
        choice="x",
        anything=[1],
        at=datetime(2026, 11, 22, 6, 3, 11, 405000, tzinfo=UTC),
        extra={"q": None},
        tags=frozenset({"a"}),
        inner=Inner(1, "z"),
        items=[1, "2"],
    )
    assert codec.structure(Outer, GOOD).level is None
    assert codec.structure(list[Inner], [{"x": 1}]) == [Inner(1)]
    assert codec.structure(Decimal, 5) == Decimal(5)
    assert codec.structure(Decimal, Decimal("0.1")) == Decimal("0.1")


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("name", None, "expected a string, got None @ $.name"),
        ("name", 5, "expected a string, got 5 @ $.name"),
        ("inners", "ab", "expected a list, got 'ab' @ $.inners"),
        ("inners", [{"x": "1"}], "expected an integer, got '1' @ $.inners[0].x"),
        (
            "inners",
            [{"x": 1}, {"x": True}],
            "expected an integer, got True @ $.inners[1].x",
        ),
        ("inners", [{}], "'x' is missing @ $.inners[0].x"),
        ("inners", [5], "expected an object, got 5 @ $.inners[0]"),
        ("flag", "false", "expected a boolean, got 'false' @ $.flag"),
        ("flag", 1, "expected a boolean, got 1 @ $.flag"),
        ("amount", "1_0", "expected a decimal number, got '1_0' @ $.amount"),
        ("amount", "NaN", "expected a decimal number, got 'NaN' @ $.amount"),
        ("amount", True, "expected a decimal number, got True @ $.amount"),
        (
            "amount",
            "1e99999999999999999999",
            "expected a decimal number, got '1e99999999999999999999' @ $.amount",
        ),
        ("named", [1], "expected an object, got [1] @ $.named"),
        ("named", {"a": 5}, "expected an object, got 5 @ $.named['a']"),
        ("level", "low", "'low' is not a valid Level @ $.level"),
        ("choice", True, "expected one of 1, 'x', got True @ $.choice"),
        ("choice", [], "expected one of 1, 'x', got [] @ $.choice"),
        (
            "at",
            "2026-11-22T06:03:11",
            "expected an ISO 8601 time with a UTC offset, got",
        ),
        ("at", "yesterday", "expected an ISO 8601 time with a UTC offset, got"),
        ("at", 5, "expected an ISO 8601 time with a UTC offset, got 5"),
        ("extra", 5, "expected an object, got 5 @ $.extra"),
        ("tags", "abc", "expected a list, got 'abc' @ $.tags"),
        ("inner", 5, "expected an object, got 5 @ $.inner"),
    ],
)
def test_structuring_guesses_nothing(name, value, problem):
    with pytest.raises(DecodeError) as raised:
        codec.structure(Outer, GOOD | {name: value})
    (said,) = raised.value.problems
    assert problem in said


def test_every_problem_is_reported():
    with pytest.raises(DecodeError) as raised:
        codec.structure(Outer, {"name": 5, "inners": [], "flag": "x", "named": {}})
    assert list(raised.value.problems) == [
        "expected a string, got 5 @ $.name",
        "expected a boolean, got 'x' @ $.flag",
        "'amount' is missing @ $.amount",
    ]


@attrs.frozen
class Refusing:
    x: int

    def __attrs_post_init__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("cls", "value", "problem"),
    [
        (Inner, None, "expected an object, got None @ $"),
        (float, 5, "float is not exact; declare Decimal for 5"),
        (bytes, 5, "expected bytes, got 5"),
        (tuple[int, str], [1, "a"], "unsupported type tuple[int, str]"),
        (str | int, 5, "unsupported type str | int"),
        (Refusing, {"x": 1}, "RuntimeError @ $"),
    ],
)
def test_what_cannot_be_structured_is_a_decode_error(cls, value, problem):
    with pytest.raises(DecodeError, match=re.escape(problem)):
        codec.structure(cls, value)


def test_repeated_keys_are_named():
    assert codec.repeated_keys('{"a": 1, "b": {"a": 1}}') == ()
    assert codec.repeated_keys('[{"a": 1}, {"b": 1, "c": 2, "b": 1, "c": 3}]') == (
        "b",
        "c",
    )
    assert codec.repeated_keys('{"a": ' + "9" * 5000 + ', "a": 1}') == ("a",)


def test_json_that_is_nested_too_deeply_is_a_decode_error():
    depth = 100_000
    with pytest.raises(DecodeError, match="nested too deeply"):
        codec.repeated_keys("[" * depth + "]" * depth)
