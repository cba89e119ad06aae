"""JSON with one clear meaning is read; what contradicts itself is not."""

from __future__ import annotations

import contextlib
import sys
import time
import tracemalloc
from decimal import Decimal

import pytest

from ortege_watch import DecodeError, _json as codec
from ortege_watch._checks import shown
from ortege_watch.watchbus.reading import (
    COUNT,
    INTEGER,
    NUMBER,
    OBJECT,
    SECONDS,
    STRING,
    STRINGS,
    TEXT,
    Entry,
    Problems,
    read_json,
    read_list,
)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (5, 5),
        ("5", 5),
        ("-5", -5),
        ("007", 7),
        (2**70, 2**70),
        (str(2**70), 2**70),
        (True, None),
        (5.0, None),
        (Decimal(5), None),
        ("5.0", None),
        ("+5", None),
        (" 5", None),
        ("5_0", None),
        ("\u0665", None),
        ("", None),
        ("9" * 1001, None),
        (None, None),
        ([5], None),
    ],
)
def test_integers(value, read):
    found = INTEGER.read(value)
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (5, "5"),
        ("5", "5"),
        ("-0.005", "-0.005"),
        ("1.10", "1.10"),
        ("1e-18", "1E-18"),
        (Decimal("1.10"), "1.10"),
        ("123456789012345678901234567890.123", "123456789012345678901234567890.123"),
        (True, None),
        (0.1, None),
        ("NaN", None),
        ("Infinity", None),
        (Decimal("NaN"), None),
        ("1e99999", None),
        ("1_000", None),
        ("\u0665", None),
        (".5", None),
        ("5%", None),
        ("", None),
        (None, None),
    ],
)
def test_numbers(value, read):
    found = NUMBER.read(value)
    assert (found if found is None else str(found)) == read


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (0, 0),
        (1_700_000_000, 1_700_000_000),
        ("1700000000", 1_700_000_000),
        (Decimal("1.7E9"), 1_700_000_000),
        (99_999_999_999, 99_999_999_999),
        (100_000_000_000, None),
        (999_999_999_999, None),
        (1_000_000_000_000, 1_000_000_000),
        ("1700000000999", 1_700_000_000),
        (9_999_999_999_999, 9_999_999_999),
        (10_000_000_000_000, None),
        (Decimal("1e400"), None),
        (Decimal("0.5"), None),
        (-1, None),
        (Decimal(-1), None),
        (True, None),
        ("soon", None),
        (None, None),
    ],
)
def test_times_in_seconds_or_13_digits_of_milliseconds(value, read):
    assert SECONDS.read(value) == read


def test_what_is_shown_is_short_and_printable():
    assert shown("a\nb") == "'a\\nb'"
    assert len(shown("x" * 10_000)) < 250
    assert len(shown(list(range(10_000)))) < 250
    assert shown(None) == "None"
    assert shown(10**5000) == "<int too large to print>"
    assert shown([10**5000]) == "<list too large to print>"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a": 1, "a": 1}', {"a": 1}),
        (b'{"a": [{"b": 1.10, "b": 1.10}]}', {"a": [{"b": Decimal("1.10")}]}),
        (b'{"a": {"x": 1, "y": 2}, "a": {"x": 1, "y": 2}}', {"a": {"x": 1, "y": 2}}),
        (b"5", 5),
        (b'"%b"' % (b"[" * 101), "[" * 101),
    ],
)
def test_a_key_may_be_there_twice_if_it_says_the_same(text, value):
    assert read_json(text) == value


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (b'{"a": 1, "a": 2}', "$.a"),
        (b'{"a": 1, "\\u0061": 2}', "$.a"),
        (b'{"a": 1, "a": null}', "$.a"),
        (b'{"a": true, "a": 1}', "$.a"),
        (b'[0, {"a": {"b": [1, {"c": "x", "c": "y"}]}}]', "$[1].a.b[1].c"),
        (b'{"a": {"b": 1}, "a": {"b": 2}}', "$.a"),
    ],
)
def test_a_key_that_is_there_twice_and_differs_is_refused(text, path):
    with pytest.raises(DecodeError) as caught:
        read_json(text)
    assert list(caught.value.problems) == [
        f"{path}: the key is repeated with another value"
    ]


def nested(depth: int, start: bytes = b"[", end: bytes = b"]") -> bytes:
    return start * depth + b"1" + end * depth


@pytest.mark.parametrize(("start", "end"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_has_an_end(start, end):
    assert read_json(nested(100, start, end))
    for depth in (101, 300, 500, 800, 900, 950, 1000, 5000, 100_000):
        with pytest.raises(DecodeError, match=r"nested|invalid JSON"):
            read_json(nested(depth, start, end))
        twice = nested(depth, start, end)
        with pytest.raises(DecodeError, match=r"nested|invalid JSON"):
            read_json(b'{"a":' + twice + b',"a":' + twice + b"}")


@pytest.mark.parametrize("last", [b"1", b'{"a":1,"a":2}'])
def test_many_values_below_long_keys_take_little_memory(last):
    start = b'{"%b":' % (b"k" * 200)
    items = b"[" + b"[[]]," * 5000 + last + b"]"
    document = start * 90 + items + b"}" * 90
    tracemalloc.start()
    try:
        with contextlib.suppress(DecodeError):
            read_json(document)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000


def test_problems_are_gathered_but_not_without_end():
    problems = Problems()
    paths = []
    for entry in problems.entries([{}] * 30, "$.list"):
        entry.required(TEXT, "name")
        paths.append(entry.path)
    assert paths == [f"$.list[{number}]" for number in range(20)]
    with pytest.raises(DecodeError) as caught:
        problems.refuse("excerpt")
    assert len(caught.value.problems) == 20
    assert caught.value.problems[0] == (
        "$.list[0].name: missing, expected a non-empty string"
    )
    assert caught.value.excerpt == "excerpt"
    Problems().refuse()


def test_what_should_be_an_object_or_a_list_says_so():
    problems = Problems()
    assert list(problems.entries({"a": 1}, "$.list")) == []
    assert Entry(5, "$.entry", problems).raw == {}
    assert problems.found == [
        "$.list: expected a list, got {'a': 1}",
        "$.entry: expected an object, got 5",
    ]


def read_entry(raw: object) -> tuple[Entry, list[str]]:
    problems = Problems()
    return Entry(raw, "$", problems), problems.found


def test_a_list_stands_alone_or_under_its_key():
    def read(entry: Entry) -> int:
        return entry.required(COUNT, "n")

    assert read_list([{"n": 1}, {"n": "2"}], "list", read) == [1, 2]
    assert read_list({"list": [{"n": 1}]}, "list", read) == [1]
    assert read_list([{"n": 1}], None, read) == [1]
    for value, key, problem in (
        ({"list": [{}]}, "list", "$.list[0].n: missing"),
        ([{"n": 1}, {}], "list", "$[1].n: missing"),
        ({"other": []}, "list", "$.list: missing, expected a list"),
        ({"list": []}, None, "$: expected a list, got {'list': []}"),
    ):
        with pytest.raises(DecodeError) as caught:
            read_list(value, key, read, excerpt="the start")
        assert caught.value.problems[0].startswith(problem)
        assert caught.value.excerpt == "the start"


def test_a_field_is_found_under_any_of_its_names():
    entry, found = read_entry({"b": "x", "c": None})
    assert entry.required(TEXT, "a", "b", "c") == "x"
    assert entry.optional(TEXT, "a", "b") == "x"
    assert entry.optional(TEXT, "a", "c") is None
    assert found == []


def test_two_names_agree_by_meaning_or_not_at_all():
    entry, found = read_entry({"a": "0xAB", "b": "0xab", "c": 5, "d": True, "e": 1})
    assert entry.required(TEXT, "a", "b", fold=str.lower) == "0xAB"
    assert found == []
    entry.required(TEXT, "a", "b")
    entry.required(TEXT, "a", "c")
    entry.required(COUNT, "e", "d")
    assert found == [
        "$.a: '0xAB' differs from '0xab' in b",
        "$.a: '0xAB' differs from 5 in c",
        "$.e: 1 differs from True in d",
    ]


@pytest.mark.parametrize(
    ("kind", "raw", "problem"),
    [
        (TEXT, {}, "missing, expected a non-empty string"),
        (TEXT, {"x": ""}, "expected a non-empty string, got ''"),
        (TEXT, {"x": 5}, "expected a non-empty string, got 5"),
        (STRING, {"x": 5}, "expected a string, got 5"),
        (STRINGS, {"x": ["a", 5]}, "expected a list of strings, got ['a', 5]"),
        (STRINGS, {"x": "a"}, "expected a list of strings, got 'a'"),
        (COUNT, {"x": True}, "expected a non-negative integer, got True"),
        (COUNT, {"x": -1}, "expected a non-negative integer, got -1"),
        (COUNT, {"x": Decimal("5.0")}, "got Decimal('5.0')"),
        (COUNT, {"x": 2**256}, "expected a non-negative integer, got 1157920"),
        (COUNT, {}, "missing, expected a non-negative integer"),
        (SECONDS, {"x": "soon"}, "expected a time in unix seconds, got 'soon'"),
        (SECONDS, {}, "missing, expected a time in unix seconds"),
        (OBJECT, {"x": [1]}, "expected an object, got [1]"),
    ],
)
def test_a_field_of_another_kind_is_a_problem_with_its_path(kind, raw, problem):
    entry, found = read_entry(raw)
    assert entry.required(kind, "x") == kind.default
    [only] = found
    assert only.startswith("$.x: ")
    assert problem in only


def test_fields_are_read():
    entry, found = read_entry(
        {"n": "5", "t": 1_700_000_000_123, "m": {"a": 1}, "s": "", "l": ["a", ""]}
    )
    assert entry.required(COUNT, "n") == 5
    assert entry.required(SECONDS, "t") == 1_700_000_000
    assert entry.required(OBJECT, "m") == {"a": 1}
    assert entry.required(STRING, "s") == ""
    assert entry.optional(STRINGS, "l") == ("a", "")
    assert entry.optional(OBJECT, "absent") is None
    assert found == []


def test_reading_ends_when_there_are_too_many_problems():
    read = []

    def refuse(entry: Entry) -> None:
        read.append(entry)
        entry.wrong("x", "is wrong")

    with pytest.raises(DecodeError) as caught:
        read_list([{}] * 1000, None, refuse)
    assert len(caught.value.problems) == len(read) == 20


def test_only_twenty_problems_of_one_object_are_kept():
    problems = Problems()
    entry = Entry({}, "$", problems)
    for number in range(30):
        entry.wrong(f"x{number}", "is wrong")
    assert [each.split(":")[0] for each in problems.found] == [
        f"$.x{number}" for number in range(20)
    ]


# --------------------------------------------------------------- work
def steps(work, data):
    """Return how many lines of Python run."""
    count = 0

    def trace(_frame, event, _argument):
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with contextlib.suppress(DecodeError):
            work(data)
    finally:
        sys.settrace(before)
    return count


def test_many_objects_are_not_walked_through_for_paths():
    data = b"[" + b"{}," * 2_000 + b"{}]"
    assert steps(read_json, data) < 2 * steps(codec.repeated_keys, data.decode())


def test_one_repeated_key_among_many_takes_no_quadratic_time():
    def cost(size):
        keys = b",".join(b'"k%d":1' % number for number in range(size))
        document = b"{" + keys + b',"k1":1}'
        taken = []
        for _ in range(3):
            begin = time.thread_time()
            read_json(document)
            taken.append(time.thread_time() - begin)
        return min(taken)

    # Linear time is 8 times as much, quadratic time 64 times.
    assert cost(16_000) < 25 * cost(2_000)


def test_a_large_document_with_a_repeated_key_is_refused_at_once():
    end = b'{"a":1,"a":1}]'
    with pytest.raises(DecodeError, match=r"\$: the key 'a' is repeated"):
        read_json(b"[" + b"{}," * 10_000 + end)
    assert len(read_json(b"[" + b"{}," * 9_990 + end)) == 9_991


def test_there_are_no_more_than_twenty_contradictions():
    with pytest.raises(DecodeError) as caught:
        read_json(b"[" + b",".join([b'{"a":1,"a":2}'] * 30) + b"]")
    assert len(caught.value.problems) == 20
