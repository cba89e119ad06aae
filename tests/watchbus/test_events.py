"""Values of events: typed where the code is known, kept where it is not."""

from __future__ import annotations

import pickle
from decimal import Decimal
from typing import ClassVar, Optional

import pytest
from hypothesis import given, strategies as st

from ortege_watch import DecodeError, InvalidArgument
from ortege_watch.watchbus import (
    AbnormalFunctionCall,
    BigAmountTxn,
    BigAmountTxnPercent,
    BigAmountTxnUsd,
    EventValues,
    RiskFunctionCall,
    TrustScoreDecrease,
)
from ortege_watch.watchbus.events import kind_of

TRANSACTION = {"block_number": "22313123", "tx_hash": "0xab", "current_value": "1.10"}


# An own event code takes three lines.
class PriceDrop(EventValues, code="price_drop"):
    token: str
    drop_percent: Decimal


def test_an_own_code_is_typed_like_the_known_ones():
    values = kind_of("price_drop").view({"token": "STX", "drop_percent": "0.10"})
    assert isinstance(values, PriceDrop)
    assert values.token == "STX"
    assert values.drop_percent == Decimal("0.10")
    assert PriceDrop.code == "price_drop"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("big_amount_txn", BigAmountTxn),
        ("big_amount_txn_percent", BigAmountTxnPercent),
        ("big_amount_txn_usd", BigAmountTxnUsd),
        ("risk_function_call", RiskFunctionCall),
        ("abnormal_function_call", AbnormalFunctionCall),
        ("trust_score_decrease", TrustScoreDecrease),
        ("of_tomorrow", EventValues),
        ("", EventValues),
    ],
)
def test_a_code_has_its_class(code, kind):
    assert kind_of(code) is kind
    assert kind_of(code).code == (code if kind is not EventValues else None)


def test_amounts_are_exact_and_optional_fields_may_be_missing():
    values = BigAmountTxnUsd(TRANSACTION, cmc_slug="tether")
    assert values.block_number == 22313123
    assert values.tx_hash == "0xab"
    assert str(values.current_value) == "1.10"
    assert values.cmc_slug == "tether"
    assert values.comment is None
    assert BigAmountTxn(comment="so").comment == "so"


@pytest.mark.parametrize("kind", [RiskFunctionCall, AbnormalFunctionCall])
def test_the_value_of_a_function_call_is_its_signature(kind):
    values = kind(TRANSACTION, current_value="transfer(address,uint256)")
    assert values.current_value == "transfer(address,uint256)"


def test_a_trust_score_has_five_numbers():
    values = TrustScoreDecrease(
        last_value="90.5",
        last_ts="1700000000",
        current_value=80,
        delta_value=Decimal("-10.5"),
        delta_percent="-0.116022099447513812154696132596685082872928",
    )
    assert values.last_value == Decimal("90.5")
    assert values.last_ts == 1_700_000_000
    assert values.current_value == Decimal(80)
    assert values.delta_value == Decimal("-10.5")
    assert str(values.delta_percent) == values["delta_percent"]
    assert values.comment is None


def test_values_are_a_mapping_of_what_came():
    values = BigAmountTxn(TRANSACTION, extra=[1])
    assert dict(values) == {**TRANSACTION, "extra": [1]} == values
    assert values["extra"] == [1]
    assert values.get("absent") is None
    assert len(values) == 4
    assert values != BigAmountTxn(TRANSACTION)
    assert repr(EventValues(a="b")) == "EventValues({'a': 'b'})"
    assert pickle.loads(pickle.dumps(values)) == values
    with pytest.raises(KeyError):
        values["absent"]


@pytest.mark.parametrize(
    ("given", "field", "problem"),
    [
        ({}, "tx_hash", "BigAmountTxn.tx_hash is missing; use .get('tx_hash')"),
        ({"tx_hash": None}, "tx_hash", "BigAmountTxn.tx_hash is missing"),
        (
            {"block_nr": 1},
            "block_number",
            "BigAmountTxn.block_number is missing; is it the unknown field 'block_nr'?",
        ),
        ({1: "x", "block_" * 100: 1}, "block_number", "is missing; use .get('block_nu"),
        (
            {"tx_hash": "0x1"},
            "block_number",
            "is missing; use .get('block_number')",
        ),
        ({"tx_hash": 5}, "tx_hash", ": expected a string, got 5"),
        ({"block_number": "0x10"}, "block_number", "expected an integer, got '0x10'"),
        ({"block_number": "1.0"}, "block_number", "expected an integer, got '1.0'"),
        ({"block_number": True}, "block_number", "expected an integer, got True"),
        ({"block_number": "9" * 5000}, "block_number", "expected an integer, got '999"),
        ({"current_value": "much"}, "current_value", "expected a number, got 'much'"),
        (
            {"current_value": 1500.5},
            "current_value",
            "got 1500.5; use Decimal, which is",
        ),
        ({"current_value": "NaN"}, "current_value", "expected a number, got 'NaN'"),
        (
            {"current_value": "1e99999"},
            "current_value",
            "expected a number, got '1e99999'",
        ),
        ({"comment": 5}, "comment", ": expected a string, got 5"),
    ],
)
def test_a_field_that_cannot_be_read_says_so_when_asked(given, field, problem):
    values = BigAmountTxn(given)
    with pytest.raises(DecodeError) as caught:
        getattr(values, field)
    assert problem in caught.value.problems[0]
    assert len(str(caught.value)) < 400
    assert dict(values.problems())[field] == caught.value.problems[0]


TEXTS = st.sampled_from(["", "1", "-1", "1.5", "1e3", "1e99999", "\u0665", "NaN", "0x"])


@given(
    st.lists(
        st.dictionaries(st.sampled_from([*TRANSACTION, "comment", "more"]), TEXTS)
        | st.just(TRANSACTION)
    )
)
def test_strings_are_accepted_if_they_have_no_problems(listed):
    problems = [BigAmountTxn(each).problems() for each in listed]
    assert BigAmountTxn.accept(listed) is not any(map(any, problems))
    assert EventValues.accept(listed)


def test_strings_of_optional_fields_are_checked_where_they_are():
    class Fee(EventValues):
        fee: Decimal | None

    assert Fee.accept([{}, {"fee": "0.5"}])
    assert not Fee.accept([{"fee": "0.5"}, {"fee": "much"}])


def test_values_do_not_change():
    values = BigAmountTxn(TRANSACTION)
    with pytest.raises(AttributeError, match="block_number cannot be set"):
        values.block_number = 5


def test_fields_are_inherited_and_class_attributes_are_none():
    class Parent(EventValues):
        amount: Decimal
        unit: ClassVar[str] = "USD"
        _note: str = ""

    class Child(Parent):
        height: int
        label: Optional[str]  # noqa: UP045 - is an annotation as well

    values = Child(amount="1.5", height="7")
    assert (values.amount, values.height, values.label) == (Decimal("1.5"), 7, None)
    assert Child.unit == "USD"
    assert Child._note == ""
    assert dict(values.problems()) == {}
    assert Child.amount is Parent.amount


def test_a_class_that_is_made_twice_replaces_itself_but_no_other():
    def again():
        class Cell(EventValues, code="notebook_cell"):
            amount: Decimal

        return Cell

    first, second = again(), again()
    assert first is not second
    assert kind_of("notebook_cell") is second
    with pytest.raises(
        InvalidArgument, match=r"'price_drop' of .*Other is already used by PriceDrop"
    ):

        class Other(EventValues, code="price_drop"):
            token: str


def test_a_field_of_another_type_is_refused_when_the_class_is_made():
    with pytest.raises(InvalidArgument, match="str, int or Decimal"):

        class Floats(EventValues):
            amount: float

    with pytest.raises(InvalidArgument, match="str, int or Decimal"):

        class Either(EventValues):
            amount: int | str

    with pytest.raises(InvalidArgument, match=r"values\['items'\]"):

        class Shadow(EventValues):
            items: str

    with pytest.raises(InvalidArgument, match="run time"):

        class Absent(EventValues):
            amount: Fraction  # noqa: F821 - that it is not there is the test
