"""The members of the tests' cubes, as a user of the library writes them."""

from __future__ import annotations

from decimal import Decimal

from ortege_watch import Dimension, Measure, Segment, TimeDimension


class Calls:
    """What ``cube/tables.sql`` holds; it never changes."""

    count = Measure("stacks_contract_calls.count", int)
    asset_amount = Measure("stacks_contract_calls.asset_amount", Decimal)
    avg_amount = Measure("stacks_contract_calls.avg_amount", Decimal)
    max_block = Measure("stacks_contract_calls.max_block", int)
    senders = Measure("stacks_contract_calls.senders", int)
    id = Dimension("stacks_contract_calls.id", int)
    tx_hash = Dimension("stacks_contract_calls.tx_hash", str)
    contract_id = Dimension("stacks_contract_calls.contract_id", str)
    function_name = Dimension("stacks_contract_calls.function_name", str)
    sender_address = Dimension("stacks_contract_calls.sender_address", str)
    asset_id = Dimension("stacks_contract_calls.asset_id", str)
    amount = Dimension("stacks_contract_calls.amount", Decimal)
    block_height = Dimension("stacks_contract_calls.block_height", int)
    success = Dimension("stacks_contract_calls.success", bool)
    tx_date = TimeDimension("stacks_contract_calls.tx_date")
    settled_at = TimeDimension("stacks_contract_calls.settled_at")
    borrows = Segment("stacks_contract_calls.borrows")


class Events:
    """What the live tests write to."""

    count = Measure("stacks_contract_events.count", int)
    asset_amount = Measure("stacks_contract_events.asset_amount", Decimal)
    max_block = Measure("stacks_contract_events.max_block", int)
    tx_hash = Dimension("stacks_contract_events.tx_hash", str)
    contract_id = Dimension("stacks_contract_events.contract_id", str)
    function_name = Dimension("stacks_contract_events.function_name", str)
    sender_address = Dimension("stacks_contract_events.sender_address", str)
    tx_date = TimeDimension("stacks_contract_events.tx_date")


class Slow:
    """Takes two seconds; Cube is told to let nobody wait longer than one."""

    count = Measure("slow_events.count", int)
