"""Seeded conversations to measure with: what a server sends, frame by frame."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal

CUBE = "stacks_contract_events"
Case = Literal["few", "none", "all"]
"""How many rows differ from the frame before: 0.1 % (at least one), none, or all."""

_HEAD = (
    '{"messageId":"1","message":{"queryType":"regularQuery","results":[{"query":'
    '{"measures":["stacks_contract_events.asset_amount"],"limit":50000},'
    '"lastRefreshTime":"%s.000Z","annotation":{"measures":{},'
    '"dimensions":{},"segments":{},"timeDimensions":{}},"dataSource":"default",'
    '"data":['
)
_TAIL = ']}],"slowQuery":false},"status":200}'


def refreshed_at(step: int) -> datetime:
    """Give the time that the frame of a step carries: it tells frames apart."""
    return datetime(2026, 11, 22, 6, tzinfo=UTC) + timedelta(seconds=step)


def _row(number: int, amount: int) -> str:
    """Write one row of about 345 bytes, as Cube's default form has it."""
    address = f"SP{number:08d}0XZJ2QKRYH2DT7GVQ3F1S9A4E5B6C8"
    function = ("supply", "borrow", "withdraw")[number % 3]
    day, minute = number % 28 + 1, number % 60
    return (
        f'{{"{CUBE}.contract_id":"SP2VCQJGH7PHP2DJK7Z0V48AGBHQAW3R3ZW1QF4N.borrow",'
        f'"{CUBE}.function_name":"{function}","{CUBE}.sender_address":"{address}",'
        f'"{CUBE}.tx_date":"2026-11-{day:02d}T10:{minute:02d}:00.000",'
        f'"{CUBE}.asset_amount":"{amount}.500000"}}'
    )


def conversation(rows: int, case: Case, count: int, *, seed: int = 7) -> Iterator[str]:
    """Give ``count`` frames; the last one always differs, so that its end is seen."""
    dice = random.Random(seed)
    amounts = [dice.randrange(1, 10**9) for _ in range(rows)]
    texts = [_row(number, amount) for number, amount in enumerate(amounts)]
    for step in range(count):
        last = step == count - 1
        if step and (case != "none" or last):
            if case == "all":
                changed = list(range(rows))
            else:
                changed = dice.sample(range(rows), max(1, rows // 1000))
            for number in changed:
                amounts[number] += 1
                texts[number] = _row(number, amounts[number])
        time = refreshed_at(step).strftime("%Y-%m-%dT%H:%M:%S")
        yield _HEAD % time + ",".join(texts) + _TAIL


def tutorial(frame: str) -> str:
    """Give the same rows as the tutorial expects them."""
    data = frame[frame.index('"data":[') : frame.index("]}],") + 1]
    return "{" + data + "}"
