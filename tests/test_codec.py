from __future__ import annotations

import contextlib
from decimal import Decimal
from types import MappingProxyType

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ortege_watch import codec
from ortege_watch.errors import DecodeError, QueryError

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
    with pytest.raises(DecodeError, match="no JSON that can be read") as raised:
        codec.loads(data)
    assert raised.value.__cause__ is not None


def test_numbers_are_written_as_numbers():
    value = {"a": [Decimal("1.50"), Decimal("1E+5"), 10**30], "b": (True, None)}
    text = '{"a":[1.50,1E+5,1000000000000000000000000000000],"b":[true,null]}'
    assert codec.dumps(value) == text
    assert codec.dumps(MappingProxyType({"ä": "é"})) == '{"ä":"é"}'


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"a": [0.5]}, r"\$\.a\[0\]: 0\.5 .* use a Decimal"),
        (Decimal("NaN"), r"\$: Decimal\('NaN'\)"),
        ([Decimal("Infinity")], r"\$\[0\]"),
        ({"a": {1: 2}}, r"\$\.a: the key 1 must be a string"),
        ({"a": {2}}, r"\$\.a: \{2\} .* use None, bool"),
        (b"x", "has no exact form"),
        ("\ud800", "cannot be written as JSON"),
    ],
)
def test_what_has_no_exact_form_is_refused_with_its_path(value, problem):
    with pytest.raises(QueryError, match=problem):
        codec.dumps(value)


def test_integers_beyond_pythons_own_limit_are_refused():
    assert codec.loads("9" * 4300) == 10**4300 - 1
    with pytest.raises(QueryError, match="cannot be written as JSON"):
        codec.dumps(10**5000)


def test_deep_nesting_is_refused():
    value: object = []
    for _ in range(5000):
        value = [value]
    with pytest.raises(QueryError, match="cannot be written"):
        codec.dumps(value)


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
    with pytest.raises(DecodeError, match="no answer of a Cube server") as raised:
        codec.decode_body(data)
    assert raised.value.excerpt == codec.excerpt(data)
    assert not isinstance(raised.value, msgspec.MsgspecError)


@given(st.binary())
def test_no_bytes_get_another_error_out(data):
    for read in (codec.loads, codec.decode_body):
        with contextlib.suppress(DecodeError):
            read(data)
