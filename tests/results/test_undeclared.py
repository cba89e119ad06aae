"""Rows of a query that names its members but not their types."""

from __future__ import annotations

import contextlib
from decimal import Decimal

import pytest

from ortege_watch import DecodeError, Query, Result, _json as codec

WIRE = {"measures": ["e.amount"], "dimensions": ["e.sender", "e.open"]}
ROW = {"e.amount": "1000.500000", "e.sender": "SP1", "e.open": True}
ANNOTATION = {
    "measures": {"e.amount": {"type": "number"}},
    "dimensions": {"e.sender": {"type": "string"}, "e.open": {"type": "boolean"}},
}


def result(**more: object) -> Result:
    body = codec.decode_body(codec.dumps({"data": [ROW], **more}).encode())
    return Result(body.parts[0], Query.from_wire(WIRE))


def test_the_annotation_gives_the_types():
    its = result(annotation=ANNOTATION)
    measure = its.query.measures[0]
    assert its[0][measure] == its[0]["e.amount"] == Decimal("1000.5")
    assert its[0].as_dict() == {
        "e.sender": "SP1",
        "e.open": True,
        "e.amount": Decimal("1000.5"),
    }


@pytest.mark.parametrize("name", ROW)
def test_without_an_annotation_values_stay_as_they_came(name):
    assert result()[0][name] == ROW[name]


def test_a_value_that_is_nested_deeply_is_read_or_refused():
    for depth in range(600, 1000):
        cell = "[" * depth + "]" * depth
        data = f'{{"data": [{{"a.b": {cell}}}, {{"a.c": "x"}}]}}'
        with contextlib.suppress(DecodeError):
            list(Result(codec.decode_body(data.encode()).parts[0]))
