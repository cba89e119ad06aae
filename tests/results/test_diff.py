from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from decimal import Decimal
from operator import attrgetter

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from ortege_watch._json import ResultPart
from ortege_watch.errors import DecodeError
from ortege_watch.query import Dimension, Measure, Query, TimeDimension
from ortege_watch.results import Result, diff
from ortege_watch.results.diff import Difference, difference

AMOUNT = Measure("e.amount", Decimal)
COUNT = Measure("e.count", int)
SENDER = Dimension("e.sender")
HEIGHT = Dimension("e.height", int)
QUERY = Query(measures=[AMOUNT, COUNT], dimensions=[SENDER, HEIGHT])
NAMES = ("e.sender", "e.height", "e.amount", "e.count")
KEYS, MEASURES = NAMES[:2], NAMES[2:]
snapshot_of = attrgetter("_snapshot")


def result(data, query=QUERY, form="default", **more):
    if not isinstance(data, bytes):
        data = written(data, form)
    return Result(ResultPart(data=msgspec.Raw(data), **more), query)


def written(rows, form):
    """Write rows, which are objects, in the default or the compact form."""
    if form == "compact":
        cells = [list(each.values()) for each in rows]
        rows = {"members": list(rows[0]), "dataset": cells}
    return json.dumps(rows, separators=(",", ":")).encode()


def row(sender, height=1, amount="1.0", count="1"):
    return dict(zip(NAMES, (sender, height, amount, count), strict=True))


def many(n, **more):
    return [row(f"SP{i:038}", str(i), **more) for i in range(n)]


def senders(rows):
    return [each[SENDER] for each in rows]


# A snapshot as the model sees it: rows of values. How they are sent varies.

adversarial = st.sampled_from(
    [
        "},{",
        '},{"e.sender":"',
        '{"e.sender":"a","e.height":1,"e.amount":1,"e.count":1}',
        '"},{"',
        "[",
        ":[",
        '":',
        "],[",
        '],["',
        '["a","1","1","1"],["b","1","1","1"]',
        '"],["',
        ",1],[",
        "\\",
        '\\"',
        "é\u2028\U0001f600",
        "",
        "1.0",
    ]
)
texts = st.none() | st.sampled_from("abc") | adversarial | st.text(max_size=4)
heights = st.none() | st.integers(0, 3)
amounts = st.none() | st.decimals(-3, 3, places=1) | st.integers(-3, 3).map(Decimal)
counts = st.none() | st.integers(-2, 2)
rows = st.tuples(texts, heights, amounts, counts)
forms = st.randoms(use_true_random=False)
edits = st.lists(
    st.tuples(
        st.sampled_from(["change", "insert", "remove", "append", "move"]),
        st.integers(0, 10**6),
        rows,
    ),
    max_size=6,
)


def edited(before, changes):
    after = list(before)
    for what, place, new in changes:
        at = place % (len(after) + 1)
        if what == "insert":
            after.insert(at, new)
        elif what == "append":
            after.append(new)
        elif at < len(after):
            old = after.pop(at)
            if what == "change":
                after.insert(at, (*old[:2], *new[2:]))
            elif what == "move":
                after.append(old)
    return after


def number(value, random, vary):
    """Write a number in one of its forms."""
    if not vary:
        return f'"{value}"'
    sign, digits = ("-", str(value)[1:]) if value < 0 else ("", str(value))
    longer = digits + ("0" if "." in digits else ".0")
    text = sign + random.choice([digits, longer])
    return random.choice([text, f'"{text}"', f'"{sign}0{digits}"'])


def sent(rows, random, vary, form="default"):
    """Write rows in a response form, each in another way if ``vary``."""
    cells = [[cell(value, random, vary) for value in values] for values in rows]
    glue = random.choice([",", ",\n "]) if vary else ","
    members = json.dumps(NAMES, separators=(",", ":"))
    if form == "compact":
        arrays = [f"[{','.join(each)}]" for each in cells]
        return f'{{"members":{members},"dataset":[{glue.join(arrays)}]}}'.encode()
    if form == "columnar":
        columns = list(zip(*cells, strict=True)) if cells else [()] * len(NAMES)
        arrays = [f"[{','.join(each)}]" for each in columns]
        return f'{{"members":{members},"columns":[{glue.join(arrays)}]}}'.encode()
    objects = [object_of(each, random, vary) for each in cells]
    return f"[{glue.join(objects)}]".encode()


def cell(value, random, vary):
    if value is None:
        return "null"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=not vary or random.random() < 0.5)
    return number(value, random, vary)


def object_of(cells, random, vary):
    entries = []
    for name, text in zip(NAMES, cells, strict=True):
        space = random.choice(["", "", " "]) if vary else ""
        key = json.dumps(name)
        if vary and random.random() < 0.1:
            key = key.replace("e", "\\u0065")
        entries.append(f"{key}:{space}{text}")
    if vary and random.random() < 0.5:
        random.shuffle(entries)
    return "{" + ",".join(entries) + "}"


def expected(before, after):
    """Count what was added, changed and removed, and name the rows on either side."""
    olds, news = Counter(before), Counter(after)
    olds, news = olds - news, news - olds
    counts = [0, 0, 0]
    for key in {each[:2] for each in [*olds, *news]}:
        old = sum(n for each, n in olds.items() if each[:2] == key)
        new = sum(n for each, n in news.items() if each[:2] == key)
        both = min(old, new)
        counts = [counts[0] + new - both, counts[1] + both, counts[2] + old - both]
    return counts, olds, news


def values(each):
    return tuple(each.as_dict()[name] for name in NAMES)


def check(before, after, found):
    counts, olds, news = expected(before, after)
    assert [len(found.added), len(found.changed), len(found.removed)] == counts
    assert Counter(map(values, (*found.added, *found.changed))) == news
    old_rows = (*found.removed, *(each.before for each in found.changed))
    assert Counter(map(values, old_rows)) == olds
    for each in found.changed:
        assert values(each)[:2] == values(each.before)[:2]
    assert bool(found) == (Counter(before) != Counter(after))


bases = st.lists(rows, max_size=12)
snapshots = bases.flatmap(
    lambda base: st.tuples(st.just(base), edits.map(lambda each: edited(base, each)))
)


response_forms = st.sampled_from(["default", "compact", "columnar"])


@settings(max_examples=200)
@given(snapshots, forms, st.booleans(), response_forms, response_forms)
def test_differences_are_those_of_the_values(pair, random, vary, form, other_form):
    before, after = pair

    def old():
        return result(sent(before, random, vary, form))

    def new():
        return result(sent(after, random, vary, other_form))

    one, other = old(), new()
    check(before, after, difference(one, other))
    # The keys of the older snapshot are known by now.
    again = old()
    check(after, before, difference(other, again))
    if not vary:
        check(before, after, difference(again, new()))


@settings(max_examples=300)
@given(snapshots, forms, st.booleans(), st.sampled_from(["default", "compact"]))
def test_differences_of_texts_are_those_of_the_values(pair, random, vary, form):
    before, after = pair
    one = result(sent(before, random, vary, form))
    other = result(sent(after, random, vary, form))
    found = by_text(one, other)
    assert (found is None) is (snapshot_of(other).length is None)
    if found is not None:
        check(before, after, found)
        assert len(other) == len(after)
        assert snapshot_of(other).cells is None


def by_text(one, other):
    snapshot_of(one).open()
    return diff._by_text(snapshot_of(one), snapshot_of(other))


def by_values(one, other):
    """Compare all rows."""
    return diff._by_values(*(snapshot_of(each).compared() for each in (one, other)))


def test_without_a_snapshot_before_all_is_new():
    found = difference(None, result([row("a"), row("b")]))
    assert senders(found.added) == ["a", "b"]
    assert (found.changed, found.removed) == ((), ())
    assert not difference(None, result([]))


def test_rows_are_added_changed_and_removed():
    before = result([row("a"), row("b"), row("c")])
    after = result([row("d"), row("b", amount="2"), row("a")])
    found = difference(before, after)
    assert senders(found.added) == ["d"]
    assert senders(found.removed) == ["c"]
    (changed,) = found.changed
    assert (changed[SENDER], changed[AMOUNT], changed.before[AMOUNT]) == ("b", 2, 1)
    assert isinstance(found, Difference)
    assert found


def test_the_same_text_is_no_difference_and_is_not_read_again():
    before, after = result([row("a")]), result([row("a")])
    assert len(before) == 1
    assert difference(before, after) == Difference()
    assert snapshot_of(after).cells is snapshot_of(before).cells


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"e.amount": "1.0"}, {"e.amount": 1}),
        ({"e.amount": "1.0"}, {"e.amount": "1.00"}),
        ({"e.height": "1"}, {"e.height": 1}),
        ({"e.height": "1"}, {"e.height": "1.0"}),
        ({"e.amount": "junk"}, {"e.amount": "junk"}),
        ({"e.amount": "nan", "e.count": "1"}, {"e.amount": "nan", "e.count": "1.0"}),
        ({"e.amount": None}, {"e.amount": None}),
        ({"e.sender": None}, {"e.sender": None}),
        ({"e.sender": {"a": [1, {"b": 2}]}}, {"e.sender": {"a": [1, {"b": 2}]}}),
    ],
)
def test_equal_values_are_equal_however_they_are_sent(one, other):
    before, after = result([row("a") | one]), result([row("a") | other, row("b")])
    found = difference(before, after)
    assert senders(found.added) == ["b"]
    assert (found.changed, found.removed) == ((), ())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1.0", "1.1"),
        ("1", None),
        (None, "0"),
        ("nan", "NaN"),
        ("five", "six"),
        ("1_0", "10"),
        ("9007199254740992", "9007199254740993"),
        (10**400, 10**400 + 1),
        ([1], [2]),
        ({"a": 1}, [["a", 1]]),
    ],
)
def test_other_values_are_a_change(one, other):
    before, after = result([row("a", amount=one)]), result([row("a", amount=other)])
    (changed,) = difference(before, after).changed
    assert changed["e.sender"] == changed.before["e.sender"] == "a"


def test_duplicate_keys_are_a_multiset():
    before = result([row("a", amount="1"), row("a", amount="2"), row("b")])
    after = result([row("a", amount="3"), row("b"), row("a", amount="1"), row("b")])
    found = difference(before, after)
    assert senders(found.added) == ["b"]
    assert [(each.before[AMOUNT], each[AMOUNT]) for each in found.changed] == [(2, 3)]
    assert found.removed == ()


def test_keys_that_were_sent_differently_within_a_snapshot_are_one_key():
    base = [row("a", "1", amount="1"), row("a", "1.0", amount="2")]
    swapped = [row("a", "1", amount="2"), row("a", "1.0", amount="1")]
    one, other, last = result(base), result([*base, row("b")]), result(base[::-1])
    assert senders(difference(one, other).added) == ["b"]
    assert not difference(other, result([*swapped, row("b")]))
    assert senders(difference(other, last).removed) == ["b"]
    again = result(swapped)
    assert not difference(result(base), again)
    assert not difference(last, result(swapped[::-1]))


def test_times_with_a_zone_are_compared_as_instants():
    at = TimeDimension("e.at")
    query = Query(measures=[COUNT], time=[at.by("hour")], timezone="Europe/Berlin")

    def at_time(text):
        return result([{"e.at.hour": text, "e.at": text, "e.count": "1"}], query)

    berlin = at_time("2026-07-01T12:00:00.000")
    assert not difference(berlin, at_time("2026-07-01T10:00:00Z"))
    assert difference(berlin, at_time("2026-07-01T12:00:00Z")).added


def test_without_a_query_the_annotation_names_the_measures():
    annotation = msgspec.Raw(b'{"measures":{"e.amount":{"type":"number"}}}')
    before = result([{"e.sender": "a", "e.amount": "1"}], None, annotation=annotation)
    after = result([{"e.sender": "a", "e.amount": "2"}], None, annotation=annotation)
    (changed,) = difference(before, after).changed
    assert (changed["e.amount"], changed.before["e.amount"]) == (2, 1)


def test_with_neither_all_columns_are_the_key():
    before, after = result([{"a": 1}], None), result([{"a": 2}], None)
    found = difference(before, after)
    assert [each["a"] for each in found.added] == [2]
    assert [each["a"] for each in found.removed] == [1]


def test_without_dimensions_there_is_one_row_and_one_key():
    query = Query(measures=[COUNT])
    before, after = result([{"e.count": "5"}], query), result([{"e.count": "6"}], query)
    (changed,) = difference(before, after).changed
    assert (changed[COUNT], changed.before[COUNT]) == (6, 5)


def test_without_measures_rows_only_come_and_go():
    query = Query(dimensions=[SENDER])
    before = result([{"e.sender": "a"}, {"e.sender": "b"}, {"e.sender": "b"}], query)
    after = result([{"e.sender": "b"}, {"e.sender": "c"}], query)
    found = difference(before, after)
    assert senders(found.added) == ["c"]
    assert sorted(senders(found.removed)) == ["a", "b"]
    assert difference(result([], query), result([], query)) == Difference()


def test_columns_may_come_and_go():
    before = result([{"e.sender": "a"}, {"e.sender": "b", "x": 1}], None)
    after = result([{"e.sender": "a"}, {"e.sender": "b", "y": 1}], None)
    found = difference(before, after)
    assert [each.as_dict() for each in found.added] == [{"e.sender": "b", "y": 1}]
    assert [each.as_dict() for each in found.removed] == [{"e.sender": "b", "x": 1}]


@pytest.mark.parametrize("data", [b"5", b'[{"e.sender":"a"},5]', b"[", b""])
def test_rows_that_cannot_be_read_are_a_decode_error(data):
    with pytest.raises(DecodeError):
        difference(result([row("a")]), result(data))
    with pytest.raises(DecodeError):
        difference(result(data), result([row("a")]))


def searched(before, after):
    """Compare as texts, with the same outcome as by values, in both forms."""
    for form in ("default", "compact"):
        one, other = result(before, form=form), result(after, form=form)
        found = difference(one, other)
        assert snapshot_of(other).cells is None
        expected = by_values(one, other)
        assert found == expected
        assert [each.before for each in found.changed] == [
            each.before for each in expected.changed
        ]
    return found


BASE = many(400)
MORE = [row(f"new {i}") for i in range(100)]


def test_rows_changed_in_place_are_found_in_the_text():
    after = [dict(each) for each in BASE]
    for place in (0, 1, 200, 399):
        after[place]["e.amount"] = "2.0"
    found = searched(BASE, after)
    assert [each["e.height"] for each in found.changed] == [0, 1, 200, 399]
    assert {each[AMOUNT] for each in found.changed} == {2}


@pytest.mark.parametrize("place", [0, 1, 200, 399, 400])
@pytest.mark.parametrize("n", [1, 100])
def test_rows_that_come_and_go_are_found_in_the_text(place, n):
    after = [*BASE[:place], *MORE[:n], *BASE[place:]]
    names = [f"new {i}" for i in range(n)]
    assert senders(searched(BASE, after).added) == names
    assert senders(searched(after, BASE).removed) == names


def test_the_newest_rows_of_a_limited_result_move_it():
    found = searched(BASE, [*MORE[:5], *BASE[:-5]])
    assert len(found.added) == len(found.removed) == 5


def test_a_snapshot_that_is_compared_several_times_is_checked_once():
    before = result(BASE)
    assert len(before) == 400  # its rows were read, and not in pieces
    assert snapshot_of(before).form is None
    assert not difference(before, result(BASE[1::-1] + BASE[2:]))
    assert snapshot_of(before).form is not None


def test_all_rows_may_go():
    before, after = result(BASE), result([])
    assert len(difference(before, after).removed) == 400
    assert len(difference(after, before).added) == 400


def test_small_changes_read_no_unchanged_row():
    before, after = result(BASE), result([*BASE, row("z")])
    assert len(before) == 400
    assert senders(difference(before, after).added) == ["z"]
    assert snapshot_of(after).cells is None
    assert len(after) == 401
    assert not after.truncated


def test_large_changes_are_compared_by_values():
    after = [each | {"e.amount": "2"} for each in BASE]
    one, other = result(BASE), result(after)
    assert diff._by_text(snapshot_of(one), snapshot_of(other)) is None
    assert len(difference(one, other).changed) == 400
    # Now the keys are known, and in the same order.
    last = result([each | {"e.amount": "3"} for each in BASE])
    assert {each[AMOUNT] for each in difference(other, last).changed} == {3}
    assert not difference(last, result([each | {"e.amount": 3} for each in BASE]))
    assert not difference(last, result(bytes(last.raw) + b" "))
    assert not difference(last, result(b"[ " + bytes(last.raw)[1:]))


@pytest.mark.parametrize("form", ["default", "compact"])
@pytest.mark.parametrize(
    "value",
    [
        '},{"e.sender":"x',
        '"},{"',
        '},{"',
        "[",
        'a"},{"e.sender":"b',
        '\\"},{',
        "],[",
        '],["',
        '"],["',
        'x","1","1","1"],["y',
        '\\"],["',
        "\\],[",
    ],
)
def test_values_may_look_like_rows(value, form):
    before = [*BASE[:200], row(value), *BASE[200:]]
    after = [*BASE[:200], row(value, amount="7"), *BASE[201:]]
    one, other = result(before, form=form), result(after, form=form)
    found = difference(one, other)
    between = "},{" if form == "default" else "],["
    assert (snapshot_of(other).cells is None) is (between not in json.dumps(value))
    assert senders(found.changed) == [value]
    assert [each["e.height"] for each in found.removed] == [200]


@pytest.mark.parametrize("form", ["default", "compact"])
def test_lists_as_values_are_never_mistaken_for_rows(form):
    query = Query(dimensions=[Dimension("e.a")])
    inner = [{"e.a": str(i)} if form == "default" else [str(i)] for i in range(900)]
    before = [{"e.a": inner}]
    after = [{"e.a": [*inner[:450], inner[0], *inner[451:]]}]
    one, other = (result(each, query, form) for each in (before, after))
    found = difference(one, other)
    assert len(found.added) == len(found.removed) == 1


def test_a_list_in_a_new_row_hides_no_row_that_has_gone():
    """The list holds what looks like a row of the older text, in the same place."""
    query = Query(dimensions=[Dimension(f"e.{name}") for name in "abc"])
    names = [member.name for member in query.dimensions]

    def of(*rows):
        rest = [[f"rest {i}", "1", "z" * 100] for i in range(90)]
        rows = [dict(zip(names, each, strict=True)) for each in (*rows, *rest)]
        return result(rows, query, "compact")

    kept = ["q", "r", "s"]
    before = of(["a", "1", "x"], kept, ["y2", "2", "z"])
    after = of(["a", [["x0", "x1", "x2"], kept, ["y", "y", "y"]], "1"])
    found = difference(before, after)
    assert [each["e.a"] for each in found.removed] == ["a", "q", "y2"]
    assert len(found.added) == 1


@pytest.mark.parametrize("form", ["default", "compact"])
def test_values_that_hold_a_separator_are_compared_by_values(form):
    def of(*more):
        return result([*BASE, *more], form=form)

    first, second = row([[{"a": 1}, {}], []]), row([[{"a": 2}, {}], []])
    before, then, last, after = of(), of(first), of(second), of()
    assert len(difference(before, then).added) == 1
    assert snapshot_of(then).cells is not None
    assert len(difference(then, last).added) == 1
    assert snapshot_of(last).cells is not None
    assert len(difference(last, after).removed) == 1
    assert snapshot_of(after).cells is not None
    new = of(row("z"), row([{"a": [1]}]))
    assert len(difference(after, new).added) == 2
    assert snapshot_of(new).cells is None


def test_columns_named_like_punctuation_are_compared_by_values():
    rows = [{",": str(i)} for i in range(2000)]
    before, after = result(rows, None), result([*rows, {",": "x"}], None)
    assert [each[","] for each in difference(before, after).added] == ["x"]


@pytest.mark.parametrize("value", [1, None, True, "", [1], {"a": 1}])
@pytest.mark.parametrize("other", [1, None, "a"])
def test_values_of_every_type_are_compared_as_text(value, other):
    def rows(amount):
        made = [{"e.a": other, "e.b": str(i), "e.c": value} for i in range(1000)]
        made[500] |= {"e.b": amount}
        return result(made, None, "compact")

    before, after = rows("x"), rows("y")
    assert [each["e.b"] for each in difference(before, after).added] == ["y"]
    assert snapshot_of(after).cells is None


def test_a_row_with_other_columns_is_compared_by_values():
    odd = [*BASE[:200], row("odd") | {"e.more": "1"}, *BASE[200:]]
    before, after = result(odd), result([*odd, row("z")])
    assert senders(difference(before, after).added) == ["z"]
    assert snapshot_of(after).cells is not None
    assert after[200]["e.more"] == "1"
    assert "e.more" not in after[0]
    # It is found in a row that is new, too.
    last = result([*BASE, row("odd") | {"e.more": "1"}])
    assert senders(difference(result(BASE), last).added) == ["odd"]
    assert last[400]["e.more"] == "1"


@pytest.mark.parametrize("more", [b'["a"]', b'["a","1","1","1","1"]', b'{"a":1}', b"1"])
def test_a_new_row_of_another_length_is_an_error(more):
    before = result(BASE, form="compact")
    text = bytes(before.raw)[:-2] + b"," + more + b"]}"
    with pytest.raises(DecodeError):
        difference(before, result(text))


@pytest.mark.parametrize(
    "ending", [b'],"members":["a","b","c","d"]}', b'],"x":[["a"],["b"]]}', b"]} "]
)
def test_other_text_after_the_rows_is_compared_by_values(ending):
    before = result(BASE, form="compact")
    text = bytes(result([*BASE, row("z")], form="compact").raw)
    after = result(text.removesuffix(b"]}") + ending)
    found = difference(before, after)
    assert len(found.added) in {1, 401}
    assert snapshot_of(after).cells is not None
    assert len(difference(after, before).removed) in {1, 401}


def test_rows_longer_than_a_chunk_are_found():
    def long(tail):
        return [row("x" * 5000 + str(i) + "y" * 5000 + tail) for i in range(50)]

    before, after = long("a"), long("a")
    after[25] |= {"e.amount": "9"}
    assert len(searched(before, after).changed) == 1


@pytest.mark.parametrize("form", ["default", "compact"])
def test_the_rows_of_a_large_first_snapshot_are_not_kept_before_they_are_accessed(form):
    rows = many(20_000)
    first, second = result(rows, form=form), result([*rows, row("new")], form=form)
    size = first.raw.nbytes
    difference(None, result(rows[:1000], form=form))  # what is kept for these columns
    tracemalloc.start()
    try:
        found, later = difference(None, first), difference(first, second)
        assert found
        assert (len(found.added), len(first), len(later.added)) == (20_000, 20_000, 1)
        assert senders(later.added) == ["new"]
        assert first.truncated
        _, peak = tracemalloc.get_traced_memory()
        assert peak < size
        assert found.added[-1] == first[-1]
        assert senders(found.added[1:]) == [each["e.sender"] for each in rows[1:]]
        kept, _ = tracemalloc.get_traced_memory()
        assert kept > 2 * size
        assert found.added == first[:]
    finally:
        tracemalloc.stop()
