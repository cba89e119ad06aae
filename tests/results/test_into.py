from __future__ import annotations

import dataclasses
import enum
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, NewType

import attrs
import msgspec
import pytest

from ortege_watch._json import ResultPart
from ortege_watch.errors import DecodeError, InvalidArgument
from ortege_watch.query import Dimension, Measure, Query, TimeDimension
from ortege_watch.results import Result

AMOUNT = Measure("e.amount", Decimal)
AT = TimeDimension("e.at")
QUERY = Query(
    measures=[AMOUNT, Measure("e.count", int)],
    dimensions=[Dimension("e.sender"), Dimension("e.active", bool)],
    time=[AT.by("day")],
)
ROW = {
    "e.amount": "1000.500000",
    "e.count": 5,
    "e.sender": "SP1",
    "e.active": True,
    "e.at.day": "2026-11-22T00:00:00.000",
    "e.at": "2026-11-22T00:00:00.000",
}
DAY = datetime(2026, 11, 22, tzinfo=UTC)
Sender = NewType("Sender", str)


# However many rows there are, the outcome must be the same.
@pytest.fixture(params=[1, 9], ids=["one", "many"])
def n(request):
    return request.param


def result(rows, query=QUERY):
    data = msgspec.Raw(json.dumps(rows).encode())
    return Result(ResultPart(data=data), query)


def made(cls, n, **values):
    changed = {f"e.{name}": value for name, value in values.items()}
    return result([ROW] * (n - 1) + [ROW | changed]).into(cls)[-1]


@attrs.frozen(kw_only=True)
class Frozen:
    amount: Decimal
    sender: str
    active: bool
    at: datetime
    count: int = 7
    note: str = "none"
    nothing: int | None = None


@attrs.define
class Mutable:
    sender: str
    count: int


@dataclasses.dataclass(frozen=True)
class Plain:
    sender: str
    count: int
    note: list[int] = dataclasses.field(default_factory=list)
    other: int = 3
    computed: int = dataclasses.field(default=0, init=False)


def test_rows_go_into_attrs_classes_and_dataclasses(n):
    assert made(Frozen, n) == Frozen(
        amount=Decimal("1000.500000"), sender="SP1", active=True, at=DAY, count=5
    )
    assert made(Mutable, n) == Mutable("SP1", 5)
    assert made(Plain, n) == Plain("SP1", 5)
    assert len(result([ROW] * n).into(Frozen)) == n


def test_no_rows_make_no_instances():
    assert result([]).into(Frozen) == []


@attrs.frozen
class Named:
    who: str = attrs.field(metadata={"column": "e.sender"})
    much: Decimal = attrs.field(metadata={"column": AMOUNT})
    day: datetime = attrs.field(metadata={"column": AT.by("day")})
    e_count: int
    at_day: datetime


def test_fields_name_their_columns(n):
    assert made(Named, n) == Named("SP1", Decimal("1000.500000"), DAY, 5, DAY)


@attrs.frozen
class Nullable:
    amount: Decimal | None
    sender: str | None
    count: int | None


def test_null_is_none_where_that_is_allowed(n):
    assert made(Nullable, n, amount=None, count="3.0") == Nullable(None, "SP1", 3)
    assert made(Nullable, n, sender="null") == Nullable(
        Decimal("1000.500000"), "null", 5
    )


class Side(enum.Enum):
    ONE = "SP1"


@attrs.frozen
class Structured:
    sender: Side
    active: Any
    amount: object
    count: int | None


@attrs.frozen
class NewTyped:
    sender: Sender
    active: Side | None = None


def test_other_types_are_structured(n):
    assert made(Structured, n) == Structured(Side.ONE, True, Decimal("1000.500000"), 5)
    assert made(Structured, n, active=None).active is None
    rows = [ROW | {"e.active": active} for active in ("SP1", None)] * n
    made_ = [NewTyped(Sender("SP1"), Side.ONE), NewTyped(Sender("SP1"))] * n
    assert result(rows).into(NewTyped) == made_
    with pytest.raises(DecodeError, match=r"e.sender in row \d does not fit sender \("):
        made(Structured, n, sender="x")
    with pytest.raises(DecodeError, match=r"is NULL; annotate sender with `.*`$"):
        made(Structured, n, sender=None)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("amount", "1_0", "e.amount in row {} is not a decimal number: '1_0'"),
        (
            "amount",
            "\N{ARABIC-INDIC DIGIT FIVE}",
            "e.amount in row {} is not a decimal number",
        ),
        ("amount", "1.2.3", "e.amount in row {} is not a decimal number"),
        ("amount", None, "e.amount in row {} is NULL; annotate amount with `| None`"),
        ("count", "1.5", "e.count in row {} is not a whole number"),
        ("sender", 5, "e.sender in row {} is not a string"),
        ("active", "no", "e.active in row {} is not a boolean: 'no'"),
        ("at", "2026-02-30T00:00:00.000", "e.at in row {} is not a time"),
    ],
)
def test_what_does_not_fit_is_an_error_with_its_place(n, name, value, problem):
    with pytest.raises(DecodeError) as raised:
        made(Frozen, n, **{name: value})
    assert problem.format(n - 1) in str(raised.value)


@pytest.mark.parametrize("value", ["5", "5.0", 5, "05"])
def test_every_form_of_a_number_is_read(n, value):
    made_ = made(Frozen, n, count=value, amount=value)
    assert (made_.count, made_.amount) == (5, 5)
    assert type(made_.count) is int
    assert type(made_.amount) is Decimal


def above_zero(instance, attribute, value):
    if value <= 0:
        message = "must be positive"
        raise ValueError(message)


def surely(instance, attribute, value):
    assert value < 100


@attrs.frozen
class Validated:
    count: int = attrs.field(validator=[above_zero, surely])


def test_validators_of_the_class_run(n):
    assert made(Validated, n) == Validated(5)
    with pytest.raises(
        DecodeError, match=r"cannot create Validated from row \d: must be"
    ) as raised:
        made(Validated, n, count=-1)
    assert isinstance(raised.value.__cause__, ValueError)
    with pytest.raises(DecodeError, match="cannot create Validated from"):
        made(Validated, n, count=100)


@attrs.frozen
class Converted:
    count: int = attrs.field(converter=lambda value: value * 2)


@attrs.frozen
class Private:
    _count: int


@attrs.frozen
class Derived:
    count: int
    twice: int = attrs.field(init=False)
    thrice: int = attrs.Factory(lambda self: self.count * 3, takes_self=True)

    def __attrs_post_init__(self):
        object.__setattr__(self, "twice", self.count * 2)


@attrs.frozen
class PreInit:
    count: int

    def __attrs_pre_init__(self):
        pass


@attrs.frozen(cache_hash=True)
class Cached:
    count: int


@attrs.define
class Own:
    count: int

    def __init__(self, count):
        self.__attrs_init__(count + 1)


class Inherited(Mutable):
    def __init__(self, **more):
        super().__init__(**more)


@attrs.frozen
class New:
    count: int

    def __new__(cls, *_, **__):
        return super().__new__(cls)


def test_classes_are_made_as_they_want_to_be(n):
    assert made(Converted, n).count == 10
    assert made(Private, n) == Private(5)
    derived = made(Derived, n)
    assert (derived.twice, derived.thrice) == (10, 15)
    assert made(PreInit, n) == PreInit(5)
    assert hash(made(Cached, n)) == hash(Cached(5))
    assert made(Own, n).count == 6
    assert type(made(Inherited, n)) is Inherited
    assert made(New, n) == New(5)


@attrs.define(init=False)
class Swapped:
    sender: str
    count: int

    def __init__(self, count, sender):
        self.sender, self.count = sender, count


@attrs.frozen
class Gap:
    sender: str
    note: str = "none"
    count: int = 0


@dataclasses.dataclass
class KeywordOnly:
    sender: str = dataclasses.field(kw_only=True)
    count: int


@dataclasses.dataclass(init=False)
class WithoutSignature(dict):
    sender: str
    count: int


def test_arguments_are_passed_to_the_fields_that_they_belong_to(n):
    made_ = made(Swapped, n)
    assert (made_.sender, made_.count) == ("SP1", 5)
    assert made(Gap, n) == Gap("SP1", count=5)
    assert made(KeywordOnly, n) == KeywordOnly(5, sender="SP1")
    assert made(WithoutSignature, n) == {"sender": "SP1", "count": 5}


@dataclasses.dataclass
class Defaults:
    note: str = "none"


@dataclasses.dataclass
class Exhausted:
    count: int

    def __post_init__(self):
        if self.count == 7:
            next(iter(()))


def test_a_class_may_take_no_column(n):
    assert result([ROW] * n).into(Defaults) == [Defaults()] * n


def test_a_class_that_raises_stop_iteration_hides_no_row(n):
    assert made(Exhausted, n) == Exhausted(5)
    with pytest.raises(DecodeError, match=rf"cannot create Exhausted from row {n - 1}"):
        made(Exhausted, n, count=7)


@attrs.frozen
class Untyped:
    sender: Any


def test_a_field_without_a_type_lacks_no_column_silently(n):
    rows = [{"e.sender": "a", "e.count": 1}] * n + [{"e.count": 1}]
    with pytest.raises(DecodeError, match=rf"unknown column 'e.sender' in row {n}"):
        result(rows).into(Untyped)


@attrs.frozen
class Missing:
    other: str


@attrs.frozen
class Ambiguous:
    count: int


@attrs.frozen
class Float:
    amount: float | None


@attrs.frozen
class Misnamed:
    count: int = attrs.field(metadata={"column": "e.other"})


@attrs.frozen
class Unresolved:
    count: Nowhere  # noqa: F821


@pytest.mark.parametrize(
    ("cls", "problem"),
    [
        (Missing, "Missing.other matches none of the columns e.sender, .*metadata"),
        (
            Misnamed,
            r"the metadata of Misnamed\.count names the column 'e\.other', but the columns are e\.sender, .*; correct the name, or add a default",
        ),
        (Float, "Float.amount: float is not exact; use Decimal"),
        (Unresolved, "annotations of Unresolved cannot be resolved"),
        (int, "cls must be an attrs class or a dataclass, got <class 'int'>"),
        (Mutable("a", 1), r"a dataclass, got Mutable\("),
        (Plain("a", 1), r"a dataclass, got Plain\("),
    ],
)
def test_classes_that_cannot_take_such_rows_are_refused(n, cls, problem):
    with pytest.raises(InvalidArgument, match=problem):
        made(cls, n)


def test_an_ambiguous_field_names_the_candidates():
    rows = [{"a.count": 1, "b.count": 2}]
    with pytest.raises(
        InvalidArgument,
        match=r"Ambiguous.count matches several columns: a.count, b.count; name one",
    ):
        result(rows, None).into(Ambiguous)


def test_a_row_may_lack_a_column(n):
    rows = [{"e.sender": "a", "e.count": 1}] * n + [{"e.sender": "b"}]
    with pytest.raises(DecodeError, match=rf"unknown column 'e.count' in row {n}"):
        result(rows).into(Mutable)


@attrs.frozen
class Choice:
    sender: str | int | None


@attrs.frozen
class Dated:
    at: date | None


@attrs.frozen
class Dates:
    days: list[date]


@attrs.frozen
class Listed:
    sender: list[Dates]


@attrs.frozen
class Pair:
    sender: tuple[int, str]


@pytest.mark.parametrize(
    ("cls", "problem"),
    [
        (Dated, "Dated.at: unsupported type date"),
        (Listed, "Listed.sender: unsupported type date"),
        (Choice, "Choice.sender: unsupported type str | int | None"),
        (Pair, "Pair.sender: unsupported type tuple[int, str]"),
    ],
)
def test_a_field_of_another_type_is_refused_whatever_its_values_are(n, cls, problem):
    known = "Decimal, int, str, bool, datetime, an enum, a Literal, a list, a dict"
    for values in ({}, {"sender": None, "at": None}):
        with pytest.raises(InvalidArgument) as raised:
            made(cls, n, **values)
        assert str(raised.value) == f"{problem}; use {known} or an attrs class"


@attrs.frozen
class Several:
    sender: list[str]
    active: tuple[int, ...]


def test_lists_are_structured(n):
    lists = {"sender": ["a", "b"], "active": [1, 2]}
    found = result([ROW | {f"e.{name}": lists[name] for name in lists}] * n)
    assert found.into(Several) == [Several(["a", "b"], (1, 2))] * n
