"""No number becomes a binary float, whichever way it leaves a result."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given, strategies as st

from ortege_watch import Dimension, InvalidArgument, Measure, Query, Result
from ortege_watch._json import ResultPart, loads
from ortege_watch.cube.calls import DryRun, Sql
from ortege_watch.cube.meta import Meta
from ortege_watch.results.diff import difference

QUERY = Query(measures=[Measure("e.n")], dimensions=[Dimension("e.d", int)])

# JSON text and its exact value.
numbers = st.one_of(
    st.integers(-(10**60), 10**60).map(str),
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
    st.from_regex(r"-?(0|[1-9][0-9]{0,40})\.[0-9]{1,40}", fullmatch=True),
    st.from_regex(r"-?[1-9][0-9]{0,5}[eE][+-]?[0-9]{1,3}", fullmatch=True),
)
strings = numbers.map('"{}"'.format)
leaves = st.one_of(numbers, strings, st.sampled_from(["true", "false", "null", '"a"']))
documents = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda each: f"[{','.join(each)}]")
        | st.lists(inner, max_size=3).map(
            lambda each: "{" + ",".join(f'"k{i}":{x}' for i, x in enumerate(each)) + "}"
        )
    ),
    max_leaves=6,
)


def floats(value: Any) -> list[float]:
    """Return the floats in a value, at any depth."""
    match value:
        case float():
            return [value]
        case dict():
            return [each for item in value.items() for each in floats(item)]
        case list() | tuple() | set() | frozenset():
            return [each for item in value for each in floats(item)]
        case _:
            return []


@attrs.frozen
class Untyped:
    n: Any
    d: object


def result(rows: str, asked: Query | None, annotation: str = "{}") -> Result:
    part = ResultPart(
        data=msgspec.Raw(rows.encode()), annotation=msgspec.Raw(annotation.encode())
    )
    return Result(part, asked)


def forms(n: str, d: str) -> list[str]:
    return [
        f'[{{"e.n":{n},"e.d":{d}}}]',
        f'[{{"e.n":{n},"e.d":{d}}},{{}}]',
        f'{{"members":["e.n","e.d"],"dataset":[[{n},{d}]]}}',
        f'{{"members":["e.n","e.d"],"columns":[[{n}],[{d}]]}}',
    ]


@given(documents, documents)
def test_no_value_of_a_row_is_a_float(n, d):
    for rows in forms(n, d):
        row = result(rows, None)[0]
        (changed,) = difference(None, result(rows, None)).added[:1]
        found = [
            dict(row),
            row.as_dict(),
            list(row.values()),
            row.get("e.n"),
            row["e.d"],
            attrs.asdict(row.into(Untyped)),
            attrs.asdict(result(rows, None)[0].into(Untyped)),
            dict(changed),
        ]
        assert floats(found) == []
        assert hash(row) == hash(result(rows, None)[0])


@given(numbers, st.sampled_from(['"{}"', "{}"]))
def test_an_amount_keeps_every_digit(number, form):
    sent = form.format(number)
    for rows in forms(sent, "1"):
        row = result(rows, QUERY)[0]
        assert row[Measure("e.n")] == dict(row)["e.n"] == Decimal(number)
        assert type(row["e.n"]) is Decimal
        assert str(Decimal(number))[:90] in repr(row)


@given(documents)
def test_nothing_beside_the_rows_has_a_float(json):
    text = f'{{"x":{json}}}'.encode()
    assert floats(loads(text)) == []
    assert floats(dict(result("[]", None, text.decode()).annotation)) == []
    sql = Sql.read(b'{"sql":{"sql":["SELECT 1",[%s]]}}' % json.encode())
    assert floats([sql.params, sql.raw]) == []
    dry = DryRun.read(b'{"queryType":"a","normalizedQueries":[%s]}' % text)
    assert floats([dry.queries, dry.raw]) == []
    meta = Meta.read(b'{"cubes":[{"name":"e","meta":%s}]}' % text)
    assert floats(meta.cube("e").meta) == []


@pytest.mark.parametrize(
    "kind", [float, float | None, list[float], dict[str, float], Decimal | float]
)
@pytest.mark.parametrize("sent", ["1.5", '"1.5"', "[1.5]", '{"a":1.5}'])
def test_no_field_can_be_a_float(kind, sent):
    made = attrs.make_class("Made", {"n": attrs.field(type=kind)}, frozen=True)
    for rows in forms(sent, "1"):
        with pytest.raises(InvalidArgument, match=r"Made\.n: .*float is not exact"):
            result(rows, QUERY)[:1][0].into(made)


@attrs.frozen
class Timed:
    n: Decimal
    elapsed: float = 0.5


def test_a_float_that_takes_no_column_is_the_callers_own():
    assert result('[{"e.n":"1"}]', QUERY).into(Timed) == [Timed(Decimal(1))]
