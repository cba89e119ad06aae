from __future__ import annotations

import json
from decimal import Decimal

import msgspec
import pytest

from ortege_watch.errors import DecodeError
from ortege_watch.results.decode import OBJECTS, first_columns, read_rows

UNSET = msgspec.UNSET


def rows_of(data, *likely):
    if not isinstance(data, bytes):
        data = json.dumps(data, separators=(",", ":")).encode()
    columns, rows, head = read_rows(memoryview(data), *likely)
    assert data.startswith(head)
    cells = [dict(zip(columns, row, strict=True)) for row in rows]
    return columns, cells


def head_of(data, *likely):
    return read_rows(memoryview(data), *likely).head


ROWS = [{"b": "1", "a": None}, {"a": True, "b": 2}]


@pytest.mark.parametrize(
    "data",
    [
        ROWS,
        json.dumps(ROWS, indent=2).encode(),
        {"members": ["b", "a"], "dataset": [["1", None], [2, True]]},
        {"members": ["b", "a"], "columns": [["1", 2], [None, True]]},
    ],
)
def test_every_response_form_gives_the_same_rows(data):
    columns, cells = rows_of(data)
    assert sorted(columns) == ["a", "b"]
    assert cells == [{"a": None, "b": "1"}, {"a": True, "b": 2}]


@pytest.mark.parametrize(
    ("data", "columns", "n"),
    [
        ([], (), 0),
        ([{}], (), 1),
        ({"members": [], "dataset": []}, (), 0),
        ({"members": [], "dataset": [[], []]}, (), 2),
        ({"members": [], "columns": []}, (), 0),
        ({"members": ["a"], "dataset": []}, ("a",), 0),
        ({"members": ["a"], "columns": [[]]}, ("a",), 0),
    ],
)
def test_there_may_be_no_rows(data, columns, n):
    found, cells = rows_of(data)
    assert (found, len(cells)) == (columns, n)


def test_numbers_are_exact():
    data = b'[{"a":18446744073709551617,"b":0.1,"c":1.0,"d":1e400}]'
    (cells,) = rows_of(data)[1]
    assert cells["a"] == 2**64 + 1
    assert cells["b"] == Decimal("0.1")
    assert str(cells["c"]) == "1.0"
    assert cells["d"] == Decimal("1e400")


def test_rows_may_lack_columns_that_others_have():
    columns, cells = rows_of([{"a": 1}, {"b": 2, "a": None}])
    assert columns == ("a", "b")
    assert cells == [{"a": 1, "b": UNSET}, {"a": None, "b": 2}]


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "", ",", "é"])
def test_columns_may_have_any_name(name):
    assert rows_of([{name: 1}, {name: 2}]) == ((name,), [{name: 1}, {name: 2}])


@pytest.mark.parametrize("value", ['"},{"', '":', "}", "\\", "}" * 20, 'x"},{"a":"y'])
def test_values_may_look_like_json(value):
    assert rows_of([{"a": value}, {"a": value}])[1] == [{"a": value}, {"a": value}]


def test_escapes_are_read():
    assert rows_of(b'[{"\\u0061":"\\u00e9\\ud83d\\ude00"}]')[1] == [
        {"a": "é\U0001f600"}
    ]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "list of objects"),
        (b"null", "list of objects"),
        (b'"[]"', "list of objects"),
        (b"[", "invalid JSON"),
        (b"[1]", "row 0 is not an object"),
        (b'[{"a":1},[1]]', "row 1 is not an object"),
        (b'[{"a":1},null]', "row 1 is not an object"),
        (b'[{"a":1,"a":2}]', "a row has a more than once"),
        (b'[{"a":1},{"a":1,"a":1}]', "a row has a more than once"),
        (b'[{"a":1},{"b":1,"b":1}]', "a row has b more than once"),
        (b'[{"a":"\\ud800"}]', "invalid JSON"),
        (b'[{"a":"\xff"}]', "invalid JSON"),
        (b'[{"a":' + b"9" * 5000 + b"}]", "invalid JSON"),
        (b'[{"a":NaN}]', "invalid JSON"),
        (b'[{"a":1e99999999999999999999}]', "invalid JSON"),
        (b"{}", "invalid table of rows"),
        (b'{"members":["a"]}', "it needs dataset or columns"),
        (b'{"members":["a"],"dataset":[[1],5]}', "invalid table of rows"),
        (b'{"members":["a"],"dataset":[[1],[1,2]]}', r"`array` of length 1.*\$\[1\]"),
        (b'{"members":["a","b"],"dataset":[[1]]}', r"`array` of length 2.*\$\[0\]"),
        (b'{"members":["a","a"],"dataset":[[1,2]]}', "it has a column twice"),
        (b'{"members":["a","b"],"columns":[[1]]}', "expected 2 columns, got 1"),
        (
            b'{"members":["a","b"],"columns":[[1],[]]}',
            "argument 2 is shorter",
        ),
        (b'{"members":["a"],"dataset":[["\\ud800"]]}', "invalid table of rows"),
        (
            b'{"members":["a"],"dataset":[[' + b"9" * 5000 + b"]]}",
            "invalid table of rows",
        ),
    ],
)
def test_what_are_no_rows_is_a_decode_error(data, problem):
    with pytest.raises(DecodeError, match=problem):
        rows_of(data)


def test_nested_too_deeply():
    with pytest.raises(DecodeError):
        rows_of(b'[{"a":' + b"[" * 5000 + b"]" * 5000 + b"}]")


def test_the_expected_columns_are_tried_first():
    likely = ("b", "a")
    assert rows_of(ROWS, likely)[0] == likely
    assert rows_of([{"c": 1}], likely) == (("c",), [{"c": 1}])
    assert rows_of([], likely) == ((), [])
    table = {"members": ["a", "b"], "dataset": [[None, "1"]]}
    head = b'{"members":["a","b"],"dataset":['
    assert rows_of(table, ("a", "b"), head) == (("a", "b"), [{"a": None, "b": "1"}])
    table["members"] = ["b", "a"]
    assert rows_of(table, ("a", "b"), head) == (("b", "a"), [{"a": "1", "b": None}])
    assert rows_of(ROWS, ("a", "b"), head)[0] == ("a", "b")
    assert rows_of(table, ("a", "b"), OBJECTS)[0] == ("b", "a")


COMPACT = b'{"members":["a","b"],"dataset":['


@pytest.mark.parametrize(
    ("data", "head"),
    [
        (b'[{"a":1},{"a":2}]', OBJECTS),
        (b'[{"a":1},{"b":2}]', b""),
        (b"[]", b""),
        (COMPACT + b"[1,2]]}", COMPACT),
        (COMPACT + b"]}", COMPACT),
        (COMPACT + b' [1,"]]}"] ] }', COMPACT),
        (COMPACT + b"[1,2]]} ", b""),
        (COMPACT + b'[1,2]],"extra":[[1,2]]}', b""),
        (COMPACT + b'[1,2]],"members":["c","d"]}', b""),
        (COMPACT + b'[1,2]],"dataset":[[3,4]]}', b""),
        (COMPACT.replace(b",", b", ", 1) + b"]}", COMPACT.replace(b",", b", ", 1)),
        (COMPACT.replace(b":", b": ", 1) + b"]}", b""),
        (b'{"dataset":[[1]],"members":["a"]}', b""),
        (b'{"members":["a]"],"dataset":[[1]]}', b""),
        (b'{"members":["a","dataset":["],"dataset":[[1,2]]}', None),
        (b'{"members":["a"],"columns":[[1]]}', b""),
    ],
)
def test_the_head_is_what_precedes_nothing_but_rows(data, head):
    if head is None:
        with pytest.raises(DecodeError):
            head_of(data)
    else:
        assert head_of(data) == head


def test_a_head_that_only_looks_like_one_is_a_name():
    # A head within a string, and the same head in another place.
    name = '],"dataset":[['
    data = json.dumps({"members": [name], "dataset": [[1]]}, separators=(",", ":"))
    assert rows_of(data.encode()) == ((name,), [{name: 1}])


def test_many_rows_are_read_alike():
    many = [{"a": f"{i}", "b": i} for i in range(5000)]
    assert rows_of(many)[1] == many
    colons = [each | {"a": f'":{i}'} for i, each in enumerate(many)]
    assert rows_of(colons)[1] == colons
    twice = b"[" + b",".join([b'{"a":1,"a":2}'] * 6000) + b"]"
    with pytest.raises(DecodeError, match="more than once"):
        rows_of(twice)


@pytest.mark.parametrize(
    ("data", "columns"),
    [
        (b'[{"b":1,"a":2},{"c":3}]', ("a", "b")),
        (b'[ {"a":"}}}"} ]', ("a",)),
        (b"[]", ()),
        (b"[5,{}]", ()),
        (b'[{"a":"' + b"}" * 20 + b'"}]', ()),
        (b'[{"a":"' + b"x" * (1 << 17) + b'"}]', ()),
    ],
)
def test_the_first_row_tells_the_columns(data, columns):
    assert first_columns(memoryview(data)) == columns


def test_a_row_longer_than_what_is_looked_at_is_read():
    rows = [{"a": "x" * (1 << 17)}, {"a": "y"}]
    assert rows_of(rows)[1] == rows
