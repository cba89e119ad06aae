"""Entities and what a provider says about them."""

from __future__ import annotations

import pytest

from ortege_watch import InvalidArgument
from ortege_watch.watchbus import AlertInfo, EntityInfo, WatchResult

ADDRESS = "0x312bc7EAAF93f1c60Dc5AfC115FcCDE161055fb0"
CHAIN_ID = "chain_id must be a non-negative int or its digits, such as 56, got "


def entity(address: str = ADDRESS, code: str = "big_amount_txn") -> EntityInfo:
    return EntityInfo(address, 56, "ERC20", code)


def test_an_entity_is_made_by_position_and_by_name():
    assert entity() == EntityInfo(
        entity=ADDRESS, chain_id=56, entity_type="ERC20", event_code="big_amount_txn"
    )


def test_a_chain_id_in_digits_is_stored_as_int():
    """Every example of the specification has it as a string."""
    assert EntityInfo(ADDRESS, "56", "ERC20", "big_amount_txn") == entity()
    assert EntityInfo(ADDRESS, "056", "ERC20", "big_amount_txn").chain_id == 56
    alert = AlertInfo(ADDRESS, "56", "ERC20", "x", 5)
    assert alert == AlertInfo(ADDRESS, 56, "ERC20", "x", 5)
    assert type(alert.chain_id) is int


def test_the_case_of_an_address_and_of_a_type_is_no_difference():
    other = EntityInfo(ADDRESS.lower(), 56, "erc20", "big_amount_txn")
    assert entity() == other
    assert hash(entity()) == hash(other)
    assert entity() != EntityInfo(ADDRESS, 1, "ERC20", "big_amount_txn")
    assert entity() != entity(code="BIG_AMOUNT_TXN")
    assert other.entity == ADDRESS.lower()
    assert other.entity_type == "erc20"


@pytest.mark.parametrize(
    ("position", "value", "problem"),
    [
        (0, "", "entity must be a non-empty string, got ''"),
        (0, None, "entity must be a non-empty string, got None"),
        (1, "0x38", f"{CHAIN_ID}'0x38'"),
        (1, " 56", f"{CHAIN_ID}' 56'"),
        (1, "-56", f"{CHAIN_ID}'-56'"),
        (1, "", f"{CHAIN_ID}''"),
        (1, None, f"{CHAIN_ID}None"),
        (1, True, f"{CHAIN_ID}True"),
        (1, -1, f"{CHAIN_ID}-1"),
        (1, 56.0, f"{CHAIN_ID}56.0"),
        (1, 2**256, f"{CHAIN_ID}1157920"),
        (2, "", "entity_type must be a non-empty string"),
        (3, 5, "event_code must be a non-empty string, got 5"),
    ],
)
def test_a_field_of_another_kind_is_refused(position, value, problem):
    fields: list[object] = [ADDRESS, 56, "ERC20", "big_amount_txn"]
    fields[position] = value
    with pytest.raises(InvalidArgument) as caught:
        EntityInfo(*fields)
    assert str(caught.value).startswith(problem)
    assert isinstance(caught.value, ValueError)


def test_a_result_tells_what_failed_and_what_nobody_asked_for():
    first, second, third = entity(), entity(code="b"), entity(code="c")
    echoed = EntityInfo(ADDRESS.lower(), 56, "erc20", "big_amount_txn")
    result = WatchResult.compare([first, second, first], [echoed, third, third])
    assert result.succeeded == (first,)
    assert result.succeeded[0].entity == ADDRESS  # as it was asked for
    assert result.missing == (second,)
    assert result.unexpected == (third,)
    assert WatchResult.compare([], []) == WatchResult((), (), ())


def test_a_bare_address_in_a_result_means_every_entity_that_was_asked_for_there():
    other = "0x" + "1" * 40
    first, second = entity(), entity(code="b")
    result = WatchResult.compare([first, entity(other), second], [ADDRESS.lower()])
    assert result.succeeded == (first, second)
    assert result.missing == (entity(other),)
    assert result.unexpected == ()
    result = WatchResult.compare([first, second], [other, first, other])
    assert result == WatchResult((first,), (second,), (other,))
