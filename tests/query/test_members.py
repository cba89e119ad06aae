"""The methods of measures and dimensions, one by one."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from ortege_watch.errors import QueryError
from ortege_watch.query import Dimension, Measure, Order, Segment, TimeDimension

NAIVE = datetime(2024, 5, 1)  # noqa: DTZ001
ZONE = ZoneInfo("Asia/Tokyo")

fee = Measure("calls.fee")
count = Measure("calls.count", int)
sender = Dimension("calls.sender")
height = Dimension("calls.height", int)
success = Dimension("calls.success", bool)
seen = Dimension("calls.seen", datetime)
anything = Dimension("calls.anything", object)


@pytest.mark.parametrize(
    ("condition", "operator", "values"),
    [
        (sender.eq("SP1"), "equals", ["SP1"]),
        (sender.eq(""), "equals", [""]),
        (sender.ne("SP1"), "notEquals", ["SP1"]),
        (sender.in_(["SP1", "SP2"]), "equals", ["SP1", "SP2"]),
        (sender.in_(["SP1", None]), "equals", ["SP1", None]),
        (sender.in_([None]), "equals", [None]),
        (sender.in_(s for s in ("b", "a")), "equals", ["b", "a"]),
        (sender.in_({"b", "a", "c"}), "equals", ["a", "b", "c"]),
        (sender.not_in(("SP1", None)), "notEquals", ["SP1", None]),
        (sender.contains("pox"), "contains", ["pox"]),
        (sender.contains("pox", "alex"), "contains", ["pox", "alex"]),
        (sender.not_contains("pox", None), "notContains", ["pox", None]),
        (sender.starts_with("SP"), "startsWith", ["SP"]),
        (sender.not_starts_with("SP"), "notStartsWith", ["SP"]),
        (sender.ends_with("swap"), "endsWith", ["swap"]),
        (sender.not_ends_with("swap"), "notEndsWith", ["swap"]),
        (sender.gt("SP1"), "gt", ["SP1"]),
        (height.gt(150050), "gt", ["150050"]),
        (height.gte(150050), "gte", ["150050"]),
        (height.lt(150050), "lt", ["150050"]),
        (height.lte(150050), "lte", ["150050"]),
        (height.in_([1, 2]), "equals", ["1", "2"]),
        (fee.gt(5), "gt", ["5"]),
        (fee.lte(Decimal("1E-7")), "lte", ["0.0000001"]),
        (fee.eq(Decimal("42.125")), "equals", ["42.125"]),
        (fee.in_([1, Decimal("2.50")]), "equals", ["1", "2.50"]),
        (count.ne(0), "notEquals", ["0"]),
        (success.eq(True), "equals", ["true"]),
        (success.in_([False, None]), "equals", ["false", None]),
        # Only the date operators convert from the query's zone.
        (
            seen.gt(datetime(2024, 5, 1, 9, tzinfo=timezone(timedelta(hours=9)))),
            "gt",
            ["2024-05-01T00:00:00.000"],
        ),
        (anything.in_(["a", 5, True]), "equals", ["a", "5", "true"]),
        (anything.contains("a"), "contains", ["a"]),
        (anything.lt(5), "lt", ["5"]),
        (sender.is_set(), "set", None),
        (fee.is_not_set(), "notSet", None),
    ],
)
def test_each_method_makes_its_operator(condition, operator, values):
    wire = {"member": condition.member.name, "operator": operator}
    if values is not None:
        wire["values"] = values
    assert condition.to_wire(ZONE) == wire


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (
            lambda: sender.eq(None),
            r"calls.sender.eq: .*for NULL use .* .is_not_set\(\)",
        ),
        (lambda: sender.ne(None), r"calls.sender.ne: .*for NULL use .is_set\(\)"),
        (lambda: sender.gt(None), "for NULL"),
        (lambda: sender.eq(["a", "b"]), r"use .in_\(\[...\]\)"),
        (
            lambda: sender.eq(5),
            "expected str, got 5 of type int; convert it, or declare the member int",
        ),
        (
            lambda: sender.in_("SP1"),
            "calls.sender.in_ takes a list of values, got 'SP1'",
        ),
        (lambda: sender.in_(b"SP1"), "takes a list of values, got"),
        (lambda: sender.not_in({"a": 1}), "takes a list of values, got"),
        (lambda: sender.in_(5), "takes a list of values, got"),
        (
            lambda: sender.in_([]),
            "^calls.sender.in_: the list is empty, so no row can match; skip the query$",
        ),
        (
            lambda: sender.not_in(x for x in ()),
            "^calls.sender.not_in: the list is empty and excludes nothing; omit the ",
        ),
        (lambda: sender.ne({"a"}), r"; for several values use .not_in\(\[...\]\)$"),
        (lambda: sender.gt(["a"]), r"^calls.sender.gt: .* of type list$"),
        (
            lambda: sender.contains(*[]),
            "calls.sender.contains needs at least one string",
        ),
        (
            lambda: sender.contains(None),
            "calls.sender.contains needs at least one string",
        ),
        (
            lambda: sender.contains(["a", "b"]),
            r"expected str, got \['a', 'b'\] of type list; use contains\(\"a\", \"b\"\)$",
        ),
        (lambda: sender.not_ends_with(["a"]), r'; use not_ends_with\("a", "b"\)$'),
        (
            lambda: height.contains("5"),
            "contains needs a member declared str, not int",
        ),
        (lambda: anything.contains(5), "expected str, got 5 of type int"),
        (lambda: success.gt(True), "booleans are not ordered"),
        (lambda: anything.gt(True), "booleans are not ordered"),
        (lambda: fee.gt(0.5), r'float 0.5 is not exact; use Decimal\("0.5"\)'),
        (
            lambda: fee.in_([1, 0.5]),
            r'^calls.fee.in_: float 0.5 is not exact; use Decimal\("0.5"\)',
        ),
        (lambda: height.eq(True), "declare the member bool"),
        (lambda: seen.eq(NAIVE), "naive"),
    ],
)
def test_refuses_other_values_with_advice(make, advice):
    with pytest.raises(QueryError, match=advice):
        make()


def test_equality_of_members_makes_no_filter():
    assert (sender == "SP1") is False
    assert (sender == Dimension("calls.sender")) is True


def test_orders_by_what_has_a_column():
    assert fee.asc() == Order(fee, "asc") == Order(fee)
    assert sender.desc() == Order(sender, "desc")
    assert repr(sender.desc()) == "Dimension('calls.sender').desc()"
    assert TimeDimension("a.b").by("day").asc().name == "a.b"
    for thing in (Segment("a.b"), "a.b", sender.eq("x")):
        with pytest.raises(QueryError, match="has no column to order by"):
            Order(thing)
    with pytest.raises(
        QueryError, match='direction must be "asc" or "desc", got \'none\''
    ):
        Order(fee, "none")
