from __future__ import annotations

import json

from hypothesis import given, strategies as st

from ortege_watch.results.diff import find_windows, is_flat


def rows(n, value="1"):
    return [{"e.key": f"SP{i:038}", "e.value": value} for i in range(n)]


def text(rows, separators=(",", ":")):
    return json.dumps(rows, separators=separators).encode()


def windows(before, after):
    return find_windows(memoryview(before), memoryview(after))


@given(st.lists(st.sampled_from(["[", ":", " ", "a", "],["]), max_size=20).map("".join))
def test_a_text_is_flat_if_no_bracket_may_open_a_value(text):
    data = b"[" + text.encode() + b"]"
    assert is_flat(memoryview(data)) == (":[" not in text and " [" not in text)


def test_only_a_bracket_after_a_colon_or_space_opens_a_value():
    for before in b":", b" ", b"\t", b"\r", b"\n":
        data = b"[" + b"x" * 70_000 + before + b"[]"
        assert not is_flat(memoryview(data))
        assert is_flat(memoryview(data.replace(before, b"-")))


def test_texts_that_differ_everywhere_are_given_up_early():
    for separators in ((",", ":"), (", ", ": ")):
        one, other = text(rows(1000), separators), text(rows(1000, "2"), separators)
        assert windows(one, other) is None


def test_the_same_text_has_no_windows():
    assert windows(text(rows(100)), text(rows(100))) == []
    assert windows(b"[]", b"[]") == []


def test_a_window_is_a_row_that_differs():
    after = rows(100)
    after[50]["e.value"] = "2"
    (window,) = windows(text(rows(100)), text(after))
    assert window == (text(rows(100)[50]), text(after[50]))


def test_a_window_may_be_empty_on_one_side():
    more = rows(3, "new")
    after = [*rows(100)[:50], *more, *rows(100)[50:]]
    new = text(more)[1:-1]
    assert windows(text(rows(100)), text(after)) == [(b"", new)]
    assert windows(text(after), text(rows(100))) == [(new, b"")]


def test_the_end_may_move():
    # The last row stands in the window as well: its end is found with what follows.
    ((old, new),) = windows(text(rows(100)), text(rows(102)))
    assert (old, new) == (text(rows(100)[99]), text(rows(102)[99:])[1:-1])
    assert windows(b"[]", text(rows(2))) == [(b"", text(rows(2))[1:-1])]


@given(st.integers(0, 60), st.integers(0, 60), st.sets(st.integers(0, 59), max_size=4))
def test_what_is_in_no_window_is_in_both_texts(start, end, places):
    before, after = rows(60), rows(60)
    for place in places:
        after[place]["e.value"] = "2"
    after = after[start:end]
    found = windows(text(before), text(after))
    if found is not None:
        rest = [json.loads(text(each)) for each in (before, after)]
        for old, new in found:
            for side, piece in zip(rest, (old, new), strict=True):
                for row in json.loads(b"[" + piece + b"]"):
                    side.remove(row)
        assert rest[0] == rest[1]
