from __future__ import annotations

import json
from collections import Counter

import msgspec
import pytest
from hypothesis import example, given, settings, strategies as st

from ortege_watch import Dimension, Measure, Query, Result
from ortege_watch._json import ResultPart
from ortege_watch.results import diff
from ortege_watch.results.decode import Form
from ortege_watch.results.windows import find_windows

FORMS = ["default", "compact"]
HEAD = b'{"members":["e.key","e.value"],"dataset":['
COLUMNS = ("e.key", "e.value")
WRITTEN = {
    "default": Form(COLUMNS, b"[", b"},{", b"]"),
    "compact": Form(COLUMNS, HEAD, b"],[", b"]}"),
}
form_of_rows = pytest.mark.parametrize("form", FORMS)


def rows(n, value="1"):
    return [{"e.key": f"SP{i:038}", "e.value": value} for i in range(n)]


def piece(rows, form="default", separators=(",", ":")):
    """Write rows without what stands around them."""
    if form == "compact":
        rows = [list(each.values()) for each in rows]
    return json.dumps(rows, separators=separators).encode()[1:-1]


def text(rows, form="default", separators=(",", ":")):
    head, tail = (HEAD, b"]}") if form == "compact" else (b"[", b"]")
    return head + piece(rows, form, separators) + tail


def windows(before, after, form="default"):
    return find_windows(memoryview(before), memoryview(after), WRITTEN[form])


@form_of_rows
def test_texts_that_differ_everywhere_are_given_up_early(form):
    for separators in ((",", ":"), (", ", ": ")):
        one = text(rows(1000), form, separators)
        other = text(rows(1000, "2"), form, separators)
        assert windows(one, other, form) is None


@form_of_rows
def test_the_same_text_has_no_windows(form):
    for n in (0, 100):
        assert windows(text(rows(n), form), text(rows(n), form), form) == []


@form_of_rows
def test_a_window_is_a_row_that_differs(form):
    after = rows(100)
    after[50]["e.value"] = "2"
    (window,) = windows(text(rows(100), form), text(after, form), form)
    assert window == (piece(rows(100)[50:51], form), piece(after[50:51], form))


@form_of_rows
@pytest.mark.parametrize("n", [1, 3, 30, 300])
@pytest.mark.parametrize("place", [0, 50, 99])
def test_rows_may_come_and_go(form, n, place):
    after = [*rows(100)[:place], *rows(n, "new"), *rows(100)[place:]]
    before, after = text(rows(100), form), text(after, form)
    ((old, now),) = windows(before, after, form)
    assert now.count(b"SP") == old.count(b"SP") + n
    assert old.count(b"SP") <= 2
    assert windows(after, before, form) == [(now, old)]


@form_of_rows
def test_the_end_may_move(form):
    # The last row stands in the window as well: its end is found with what follows.
    ((old, new),) = windows(text(rows(100), form), text(rows(102), form), form)
    assert (old, new) == (piece(rows(100)[99:], form), piece(rows(102)[99:], form))
    assert windows(text([], form), text(rows(2), form), form) == [
        (b"", piece(rows(2), form))
    ]


@pytest.mark.parametrize("change", [(b"e.key", b"e.kez"), (b"]}", b"]} ")])
def test_other_text_around_the_rows_is_given_up(change):
    before = text(rows(100), "compact")
    assert windows(before, before.replace(*change), "compact") is None


@given(
    st.sampled_from(FORMS),
    st.integers(0, 60),
    st.integers(0, 60),
    st.sets(st.integers(0, 59), max_size=4),
)
def test_what_is_in_no_window_is_in_both_texts(form, start, end, places):
    before, after = rows(60), rows(60)
    for place in places:
        after[place]["e.value"] = "2"
    after = after[start:end]
    found = windows(text(before, form), text(after, form), form)
    if found is not None:
        rest = [json.loads(b"[" + piece(each, form) + b"]") for each in (before, after)]
        for old, new in found:
            for side, part in zip(rest, (old, new), strict=True):
                for row in json.loads(b"[" + part + b"]"):
                    side.remove(row)
        assert rest[0] == rest[1]


# Text that a server may send, made to mislead: what separates rows stands in strings,
# so that the text from within a string on reads as rows, too.

FRAGMENTS = [
    "],[",
    "},{",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "\\",
    '"',
    "a",
    "1",
    " ",
    "\n",
    "é",
]
strings = st.lists(st.sampled_from(FRAGMENTS), max_size=6).map("".join)
atoms = strings | st.none() | st.integers(0, 2) | st.booleans()
values = st.one_of(
    strings,
    atoms,
    st.recursive(
        atoms,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(strings, inner, max_size=2)
        ),
        max_leaves=4,
    ),
)
NAMES = ("e.a", "e.b", "e.c")
QUERY = Query(
    dimensions=[Dimension("e.a"), Dimension("e.b")], measures=[Measure("e.c")]
)


@st.composite
def pairs(draw):
    """Return the rows of two snapshots that have much in common."""
    kinds = [draw(st.sampled_from([strings, atoms, values])) for _ in NAMES]
    row = st.tuples(*kinds)
    pool = draw(st.lists(row, min_size=1, max_size=8))
    of_pool = st.lists(st.sampled_from(pool), max_size=12)
    before = draw(of_pool)
    start, end = sorted(draw(st.tuples(*[st.integers(0, len(before))] * 2)))
    return before, [*before[:start], *draw(of_pool), *before[end:]]


def result(rows, form, dumps):
    objects = [dict(zip(NAMES, row, strict=True)) for row in rows]
    if form == "compact":
        members, dataset = json.dumps(NAMES), dumps([list(row) for row in rows])
        data = f'{{"members":{members},"dataset":{dataset}}}'
    else:
        data = dumps(objects)
    part = ResultPart(data=msgspec.Raw(data.encode()))
    return Result(part, QUERY)


def counted(found):
    old_rows = [row.before for row in found.changed]
    sides = found.added, found.changed, found.removed, old_rows
    return [Counter(side) for side in sides]


WRITERS = {
    "dense": lambda rows: json.dumps(rows, separators=(",", ":"), ensure_ascii=False),
    "ascii": lambda rows: json.dumps(rows, separators=(",", ":")),
    "spaced": json.dumps,
    "indented": lambda rows: json.dumps(rows, indent=1),
}


@settings(max_examples=1000)
@example(([('],["', ",1],[", "x")], [("", "", "")]), "compact", "dense", "dense")
@example(([("a", '"],["', '"')], [("a", '"],["', "")]), "compact", "dense", "dense")
@example(([(None, 1, None)] * 2, [(None, 1, None)]), "compact", "dense", "dense")
@given(pairs(), st.sampled_from(FORMS), *[st.sampled_from(list(WRITERS))] * 2)
def test_comparing_text_finds_what_comparing_values_finds(pair, form, how, other_how):
    dumps = WRITERS[how], WRITERS[other_how]
    one, other = (
        result(rows, form, write) for rows, write in zip(pair, dumps, strict=True)
    )
    before, after = one._snapshot, other._snapshot
    before.open()
    found = diff._by_text(before, after)
    if found is None:
        return
    assert after.cells is None
    assert len(other) == len(pair[1])
    assert bytes(after.part.data).count(after.form.between) == max(len(pair[1]) - 1, 0)
    expected = diff._by_values(before.compared(), after.compared())
    assert counted(found) == counted(expected)
