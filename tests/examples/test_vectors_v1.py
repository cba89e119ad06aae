"""The arithmetic of Zest V1 against results of the real Clarity VM, to the last digit."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest

from liquidation_bot.rules import zest_v1

VECTORS = json.loads(
    (Path(__file__).parents[1] / "data" / "zest_clarity_vm.json").read_text("utf-8")
)
MATH = {
    "mul": (zest_v1.mul, 500),
    "div": (zest_v1.div, 500),
    "mul-to-fixed-precision": (zest_v1.usd, 500),
    "mul-perc": (zest_v1.mul_perc, 499),
    "div-precision-with-factor": (zest_v1.div_perc, 499),
    "get-y-from-x": (zest_v1.y_from_x, 474),
}


def test_no_vector_is_left_out():
    assert set(VECTORS) == {"source", "fields", "size", "health", *MATH}
    assert sum(len(VECTORS[name]) for name in MATH) == 2_972
    assert len(VECTORS["size"]) + len(VECTORS["health"]) == 1_200


@pytest.mark.parametrize("name", MATH)
def test_every_function_of_the_contracts_library(name):
    function, count = MATH[name]
    assert len(VECTORS[name]) == count
    for *arguments, result in VECTORS[name]:
        assert function(*arguments) == result, arguments


def test_every_size_of_a_liquidation():
    names = ["close_factor", "bonus", "fee_bps", "requested"]
    for *arguments, result in VECTORS["size"]:
        debt, collateral = arguments[:3], arguments[3:6]
        given = dict(zip(names, arguments[6:], strict=True))
        sizing = zest_v1.size_liquidation(debt, collateral, **given)
        assert list(attrs.astuple(sizing)) == result, arguments


def test_every_health_factor():
    for collaterals, debts, result in VECTORS["health"]:
        weighted = [(each[:3], each[3]) for each in collaterals]
        assert zest_v1.health_factor(weighted, debts) == result, (collaterals, debts)
