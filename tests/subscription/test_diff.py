from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ortege_watch.codec import ResultPart
from ortege_watch.errors import DecodeError
from ortege_watch.query import Dimension, Measure, Query, TimeDimension
from ortege_watch.results import Result
from ortege_watch.subscription import diff
from ortege_watch.subscription.diff import Difference, difference
from ortege_watch.subscription.windows import find_windows, is_flat

AMOUNT = Measure("e.amount", Decimal)
COUNT = Measure("e.count", int)
SENDER = Dimension("e.sender")
HEIGHT = Dimension("e.height", int)
QUERY = Query(measures=[AMOUNT, COUNT], dimensions=[SENDER, HEIGHT])
NAMES = ("e.sender", "e.height", "e.amount", "e.count")
KEYS, MEASURES = NAMES[:2], NAMES[2:]


def result(data, query=QUERY, **more):
    if not isinstance(data, bytes):
        data = json.dumps(data, separators=(",", ":")).encode()
    return Result(ResultPart(data=msgspec.Raw(data), **more), query)


def row(sender, height=1, amount="1.0", count="1"):
    return dict(zip(NAMES, (sender, height, amount, count), strict=True))


def many(n, **more):
    return [row(f"SP{i:038}", str(i), **more) for i in range(n)]


def senders(rows):
    return [each[SENDER] for each in rows]


# ------------------------------------------------------------------ the model
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
    forms = [f'"{value}"', f"{value}"]
    if vary:
        forms += [f'"{value}0"' if "." in str(value) else f'"{value}.0"', f'"0{value}"']
    form = random.choice(forms if vary else forms[:1])
    return form.replace("0-", "-0") if form != '"0-0.0"' else '"-0.0"'


def sent(rows, random, vary):
    """Write rows in the default form, each time in another way if ``vary``."""
    written = []
    for values in rows:
        cells = []
        for name, value in zip(NAMES, values, strict=True):
            if value is None:
                text = "null"
            elif isinstance(value, str):
                text = json.dumps(value, ensure_ascii=not vary or random.random() < 0.5)
            else:
                text = number(value, random, vary)
            space = random.choice(["", "", " "]) if vary else ""
            key = json.dumps(name)
            if vary and random.random() < 0.1:
                key = key.replace("e", "\\u0065")
            cells.append(f"{key}:{space}{text}")
        if vary and random.random() < 0.5:
            random.shuffle(cells)
        written.append("{" + ",".join(cells) + "}")
    glue = random.choice([",", ",\n "]) if vary else ","
    return ("[" + glue.join(written) + "]").encode()


def expected(before, after):
    """Count rows that were added, the new and the old ones of the changed, removed."""
    added, come, went, removed = Counter(), Counter(), Counter(), Counter()
    olds, news = Counter(before), Counter(after)
    olds, news = olds - news, news - olds
    keys = {each[:2] for each in [*olds, *news]}
    sizes = [0, 0, 0]
    for key in keys:
        old = Counter({each: n for each, n in olds.items() if each[:2] == key})
        new = Counter({each: n for each, n in news.items() if each[:2] == key})
        both = min(old.total(), new.total())
        sizes[0] += new.total() - both
        sizes[1] += both
        sizes[2] += old.total() - both
    del added, come, went, removed
    return sizes, olds, news


def values(each):
    return tuple(each.as_dict().get(name) for name in NAMES)


def check(before, after, found):
    sizes, olds, news = expected(before, after)
    got = [len(found.added), len(found.changed), len(found.removed)]
    assert got == sizes
    assert Counter(map(values, (*found.added, *found.changed))) == news
    old_rows = (*found.removed, *(each.before for each in found.changed))
    assert Counter(map(values, old_rows)) == olds
    for each in found.changed:
        assert values(each)[:2] == values(each.before)[:2]
    assert bool(found) == (before_counts(before) != before_counts(after))


def before_counts(rows):
    return Counter(rows)


@settings(max_examples=400)
@given(st.lists(rows, max_size=12), edits, forms, st.booleans(), st.booleans())
def test_differences_are_those_of_the_values(base, changes, random, vary, text):
    after = edited(base, changes)
    one, other = result(sent(base, random, vary)), result(sent(after, random, vary))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diff, "_WORTH_IT", 3 if text else 10**9)
        check(base, after, difference(one, other))
