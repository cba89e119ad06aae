"""Conditions and groups as values."""

from __future__ import annotations

import copy
import datetime  # noqa: ICN001
import pickle
import zoneinfo
from decimal import Decimal

import pytest

from ortege_watch.errors import QueryError
from ortege_watch.query import (
    Condition,
    Dimension,
    Filter,
    Group,
    Measure,
    Segment,
    TimeDimension,
)
from ortege_watch.query.filters import OPERATORS

ZONE = zoneinfo.ZoneInfo("UTC")
NAMES = {
    "Condition": Condition,
    "Decimal": Decimal,
    "Dimension": Dimension,
    "Group": Group,
    "Measure": Measure,
    "TimeDimension": TimeDimension,
    "datetime": datetime,
    "zoneinfo": zoneinfo,
}

fee = Measure("calls.fee")
sender = Dimension("calls.sender")
height = Dimension("calls.height", int)
seen = TimeDimension("calls.seen")
day = datetime.date(2024, 5, 1)
noon = datetime.datetime(2024, 5, 1, 12, tzinfo=ZONE)

a, b, c = sender.eq("a"), sender.ne("b"), height.gt(5)


def names(found):
    return [leaf.to_wire(ZONE) for leaf in found.conditions()]


def test_every_operator_has_a_method_but_the_internal_one():
    without = {name for name, operator in OPERATORS.items() if not operator.method}
    assert without == {"measureFilter"}
    for name in OPERATORS.keys() - without:
        method = OPERATORS[name].method
        assert any(hasattr(member, method) for member in (fee, sender, seen))


def test_groups_are_written_as_they_are_read():
    assert (a & b | c).to_wire(ZONE) == {
        "or": [{"and": [a.to_wire(ZONE), b.to_wire(ZONE)]}, c.to_wire(ZONE)]
    }
    assert ((a | b) & c).to_wire(ZONE) == {
        "and": [{"or": [a.to_wire(ZONE), b.to_wire(ZONE)]}, c.to_wire(ZONE)]
    }


def test_groups_of_one_operator_are_flat():
    assert (a & b) & c == a & (b & c) == Group("and", (a, b, c))
    assert (a | b) | c == a | (b | c) == Group("or", (a, b, c))
    assert list((a & b | c).conditions()) == [a, b, c]


def test_filters_are_equal_by_structure():
    assert sender.eq("a") == a
    assert hash(sender.eq("a")) == hash(a)
    assert len({a, b, c, a & b, b & a, a | b, sender.eq("a") & b}) == 6
    assert sender.in_(["a"]) == a
    assert pickle.loads(pickle.dumps(a & b)) == copy.deepcopy(a & b) == a & b


@pytest.mark.parametrize("use", [bool, lambda f: f and 1, lambda f: not f])
@pytest.mark.parametrize("filter_", [a, a | b])
def test_filters_have_no_truth_value(filter_, use):
    with pytest.raises(QueryError, match=r"no truth value; join filters with & and \|"):
        use(filter_)


@pytest.mark.parametrize(
    ("negate", "message"),
    [
        (lambda f: ~f, "~ is not supported by"),
        (lambda f: not f, "instead of not"),
    ],
)
@pytest.mark.parametrize("filter_", [a, a | b])
def test_what_a_filter_is_negated_with_is_named(filter_, negate, message):
    with pytest.raises(
        QueryError, match=rf"{message}.* ne\(\), not_in\(\) or is_not_set"
    ):
        negate(filter_)


@pytest.mark.parametrize("other", [True, None, "a", sender])
def test_only_filters_are_joined(other):
    for join in (lambda: a & other, lambda: a | other):
        with pytest.raises(
            QueryError, match=r"expected a filter such as member.eq\(value\), got"
        ):
            join()


def test_a_group_takes_no_measures_and_dimensions_together():
    for join in (lambda: a & fee.gt(5), lambda: (a | b) | (fee.gt(5) & fee.lt(7))):
        with pytest.raises(
            QueryError, match=r"cannot mix .*: calls.sender and calls.fee; .*having="
        ):
            join()
    assert (a & b).kind == "dimension"
    assert (fee.gt(5) | fee.is_not_set()).kind == "measure"


def test_a_group_has_an_operator_and_filters():
    with pytest.raises(QueryError, match="'or' group needs at least one filter"):
        Group("or", ())
    with pytest.raises(QueryError, match='operator must be "and" or "or", got \'xor\''):
        Group("xor", (a,))


@pytest.mark.parametrize(
    ("member", "operator", "values", "advice"),
    [
        (
            sender,
            "like",
            ("a",),
            "calls.sender: operator must be one of equals.*'like'",
        ),
        (sender, ["equals"], ("a",), r"operator must be .*, got \['equals'\]"),
        (sender, "equals", "abc", "calls.sender.eq: values must be a tuple, got 'abc'"),
        (sender, "equals", (), "calls.sender.eq needs at least one value"),
        (
            sender,
            "equals",
            (None, None),
            r"calls.sender.eq lists only None, 2 times; use .is_not_set\(\)",
        ),
        (height, "notEquals", (None,) * 3, r"only None, 3 times; use .is_set\(\)"),
        (height, "gt", (None,), "calls.height.gt"),
        (height, "lte", (None,), "calls.height.lte"),
        (sender, "contains", (None,), "needs at least one string"),
        (sender, "notStartsWith", (None, None), "needs at least one string"),
        (height, "gt", (1, 2), "calls.height.gt takes exactly one value, got 2"),
        (height, "lte", (), "takes exactly one value, got 0"),
        (sender, "set", ("a",), "calls.sender.is_set takes no values, got 1"),
        (fee, "measureFilter", (1,), "calls.fee.measureFilter takes no values, got 1"),
        (seen, "inDateRange", (day,), "takes start and end, got 1 values"),
        (seen, "beforeDate", (day, day), "takes one value, got 2 values"),
        (sender, "beforeDate", (day,), r"declare TimeDimension\('calls.sender'\)"),
        (
            Segment("a.b"),
            "set",
            (),
            r"must be a measure or dimension, got Segment\('a.b'\)",
        ),
        (
            "calls.sender",
            "equals",
            ("a",),
            "must be a measure or dimension, got 'calls.sender'",
        ),
    ],
)
def test_refuses_conditions_that_say_something_else(member, operator, values, advice):
    with pytest.raises(QueryError, match=advice):
        Condition(member, operator, values)


def test_a_measure_of_time_may_be_compared_with_time():
    last = Condition(Measure("calls.last", datetime.datetime), "afterDate", (day,))
    assert last.kind == "measure"
    assert last.to_wire(ZONE)["values"] == ["2024-05-01T23:59:59.999"]


FILTERS: list[Filter] = [
    a,
    sender.in_(["a", None]),
    sender.in_([None]),
    sender.not_in(["a", "b"]),
    sender.not_in([None]),
    sender.contains("a", None),
    sender.is_set(),
    fee.gt(Decimal("0.1")),
    fee.in_([1, 2]),
    height.lte(-5),
    seen.in_range(day, noon),
    seen.not_in_range(day, day),
    seen.on(day),
    seen.after(noon),
    seen.is_not_set(),
    a & b & c,
    (a | b) & (b | c) & a,
    a & b | c,
    Group("or", (a,)),
    Group("or", (a,)) & b,
    Condition(fee, "measureFilter"),
    Condition(Measure("calls.last", datetime.datetime), "afterDate", (noon,)),
    Condition(Measure("calls.word", str), "contains", ("a", None)),
    Condition(seen, "equals", (noon,)),
]


@pytest.mark.parametrize("filter_", FILTERS, ids=repr)
def test_a_filter_shows_python_that_makes_it(filter_):
    assert eval(repr(filter_), NAMES) == filter_


def test_a_filter_is_easy_to_read():
    text = "(Dimension('calls.sender').eq('a') | Dimension('calls.height', int).gt(5))"
    assert repr((a | c) & b) == f"{text} & Dimension('calls.sender').ne('b')"
    assert repr(sender.not_in(["a", None])) == (
        "Dimension('calls.sender').not_in(['a', None])"
    )


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda: Measure("a.m").gt(float("nan")), "a.m.gt: nan is not finite"),
        (lambda: Measure("a.m").eq(float("-inf")), "a.m.eq: -inf is not finite"),
        (lambda: Measure("a.m").in_([1, 2.5]), r'in_: float 2.5 .*Decimal\("2.5"\)'),
        (lambda: Measure("a.m").in_({1: 2}), "in_ takes a list of values, got {1: 2}"),
        (lambda: Dimension("a.d").eq({"a": 1}), "eq: expected str, got {'a': 1}"),
        (
            lambda: Dimension("a.d", object).eq({"a": 1}),
            "a.d.eq: expected a string, number, boolean or datetime, got {'a': 1}",
        ),
        (lambda: Dimension("a.d").contains(1.5), "contains: float 1.5 is not exact"),
        (lambda: Group("and", 1.5), "'and' group must be a list, got 1.5"),
        (lambda: Group("and", {"a": 1}), "'and' group must be a list, got {'a': 1}"),
        (lambda: Group("or", [{"a": 1}]), "or: expected a filter .*, got {'a': 1}"),
    ],
)
def test_refuses_what_type_checkers_do_not_see(make, advice):
    with pytest.raises(QueryError, match=advice):
        make()
