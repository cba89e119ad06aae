from __future__ import annotations

import json
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from ortege_watch.errors import DecodeError
from ortege_watch.results.decode import check_rows, form_of, read_rows

UNSET = msgspec.UNSET


def rows_of(data):
    if not isinstance(data, bytes):
        data = json.dumps(data, separators=(",", ":")).encode()
    columns, rows = read_rows(memoryview(data))
    cells = [dict(zip(columns, row, strict=True)) for row in rows]
    return columns, cells


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
        (b'{"members":[],"dataset":[[],[]]}', "invalid table of rows"),
        (b'{"members":[],"dataset":[[5],[6]]}', "it has rows, but no columns"),
        (b'{"members":["a"],"dataset":[[1],5]}', "invalid table of rows"),
        (b'{"members":["a"],"dataset":[[1],[1,2]]}', r"`array` of length 1.*\$\[1\]"),
        (b'{"members":["a","b"],"dataset":[[1]]}', r"`array` of length 2.*\$\[0\]"),
        (b'{"members":["a","a"],"dataset":[[1,2]]}', "it has a column twice"),
        (b'{"members":["a","b"],"columns":[[1]]}', "expected 2 columns, got 1"),
        (
            b'{"members":["a","b"],"columns":[[1],[]]}',
            "its columns have different lengths",
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


COMPACT = b'{"members":["a","b"],"dataset":['


@pytest.mark.parametrize(
    ("data", "head"),
    [
        (b'[{"a":1},{"a":2}]', b"["),
        (b'[{"a":1},{"b":2}]', b"["),
        (b"[]", None),
        (COMPACT + b"[1,2]]}", COMPACT),
        (COMPACT + b"]}", COMPACT),
        (COMPACT + b' [1,"]]}"] ] }', None),
        (COMPACT + b"[1,2]]} ", None),
        (COMPACT + b'[1,2]],"extra":[[1,2]]}', COMPACT),
        (COMPACT.replace(b",", b", ", 1) + b"]}", COMPACT.replace(b",", b", ", 1)),
        (COMPACT.replace(b":", b": ", 1) + b"]}", None),
        (b'{"dataset":[[1]],"members":["a"]}', None),
        (b'{"members":["a]"],"dataset":[[1]]}', None),
        (b'{"members":["a","dataset":["],"dataset":[[1,2]]}', None),
        (b'{"members":["a"],"columns":[[1]]}', None),
    ],
)
def test_the_head_is_what_precedes_rows_as_servers_write_them(data, head):
    form = form_of(memoryview(data))
    assert (form and form.head) == head


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (COMPACT + b' [1,"]]}"] ] }', [{"a": 1, "b": "]]}"}]),
        (COMPACT + b'[1,2]],"extra":[[1,2]]}', [{"a": 1, "b": 2}]),
        (COMPACT + b'[1,2]],"members":["c","d"]}', [{"c": 1, "d": 2}]),
        (COMPACT + b'[1,2]],"dataset":[[3,4]]}', [{"a": 3, "b": 4}]),
    ],
)
def test_tables_as_no_server_writes_them_are_read(data, rows):
    assert rows_of(data)[1] == rows
    assert check_rows(memoryview(data)) is None


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


def test_a_row_longer_than_what_is_looked_at_is_read():
    rows = [{"a": "x" * (1 << 17)}, {"a": "y"}]
    assert rows_of(rows)[1] == rows


FORMS = ["default", "compact"]
COLUMNS = ("e.a", "e.b")


def text(rows, form="compact"):
    """Write rows in a response form as servers write it."""
    if form == "compact":
        rows = {"members": COLUMNS, "dataset": rows}
    else:
        rows = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    return json.dumps(rows, separators=(",", ":")).encode()


def many(n=5000):
    return [[f"SP{i:038}", i] for i in range(n)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1, 5000])
def test_rows_are_checked_in_pieces(form, size):
    data = text(many(size), form)
    columns, cells = read_rows(memoryview(data))
    form, length = check_rows(memoryview(data))
    assert (form.columns, length) == (columns, len(cells))


def test_no_rows_are_a_piece_without_rows():
    assert check_rows(memoryview(text([])))[1] == 0


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"{}",
        b"null",
        text(many()).replace(b'"members"', b' "members"'),
        text(many()) + b" ",
        text(many())[:-1] + b',"dataset":[]}',
        text(many(), "default") + b" ",
        text([["x" * (1 << 17), 1], *many()]),
        text([*many(), ["a", [[1], [2]]]]),
        text([*many(), ["],[", 1]]),
        text([*many(), ["},{", 1]], "default"),
        text([*many(), [[{}, {}], 1]], "default"),
        text(many(), "default")[:-1] + b',{"e.a":1}]',
        b'[{"e.a":1,"e.b":2},{"e.b":1}]',
        json.dumps(
            [{"e.a": "x" * 65_000}, {"e.b": "y" * 1000}], separators=(",", ":")
        ).encode(),
        b'{"members":["a","a"],"dataset":[[1,2]]}',
        b'{"members":["\\x"],"dataset":[[1]]}',
        b'{"members":["a"],"columns":[[1]]}',
    ],
    ids=lambda data: f"{data[:20]}…{data[-20:]}",
)
def test_other_texts_are_not_checked_in_pieces(data):
    assert check_rows(memoryview(data)) is None


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [b"1]", b'"\\ud800"', b"9" * 5000])
def test_a_value_that_cannot_be_read_is_found_in_the_last_piece(form, bad):
    data = text([*many(), ["last", 1]], form)
    at = data.rindex(b"1")
    data = data[:at] + bad + data[at + 1 :]
    assert check_rows(memoryview(data)) is None
    with pytest.raises(DecodeError):
        read_rows(memoryview(data))


BORDER = 1 << 16


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(FORMS),
    st.lists(
        st.sampled_from(
            [
                '],["a"',
                '"],["',
                '",1],["',
                "},{",
                '"},{"e.a":"',
                "]}",
                "\\",
                '"',
                "é",
                [1],
            ]
        ),
        max_size=8,
    ),
    st.integers(BORDER - 300, BORDER + 100),
)
def test_values_around_the_border_of_a_piece_may_look_like_rows(form, values, size):
    rows = [[value, 1] for value in values]
    rows = [["x" * (size - 2000), 0], ["y" * 1000, 0], *rows, *many(3000)]
    data = memoryview(text(rows, form))
    found, whole = check_rows(data), read_rows(data)
    between = "],[" if form == "compact" else "},{"
    if any(isinstance(value, str) and between in value for value in values):
        assert found is None
    elif found is not None:
        assert (found[0].columns, found[1]) == (whole[0], len(rows))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("space", [" ,", ", ", "\n,\t"])
def test_space_between_rows_is_no_separator_for_one_in_a_string(form, space):
    between = b"],[" if form == "compact" else b"},{"
    data = text([[between.decode(), 1], ["a", 2]], form)
    place = data.rindex(between)
    data = data[: place + 1] + space.encode() + data[place + 2 :]
    assert data.count(between) == 1
    assert len(read_rows(memoryview(data))[1]) == 2
    assert check_rows(memoryview(data)) is None
