"""Seeded conversations to measure with: what a server sends, answer by answer."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal

CUBE = "stacks_contract_events"
AMOUNT = f"{CUBE}.asset_amount"
SENDER = f"{CUBE}.sender_address"
DIMENSIONS = [
    f"{CUBE}.contract_id",
    f"{CUBE}.function_name",
    SENDER,
    f"{CUBE}.tx_date",
]
LIMIT = 50_000
QUERY = {"measures": [AMOUNT], "dimensions": DIMENSIONS, "limit": LIMIT}

Case = Literal["few", "none", "all"]
"""How many rows differ from the answer before: 0.1 % (at least one), none, or all."""

Form = Literal["default", "compact"]
"""What a query asks for as its ``responseFormat``."""


def form_of(request: str) -> Form:
    """Return the form of the answer to a request, which is JSON."""
    wanted = '"responseFormat":"compact"'
    return "compact" if wanted in request.replace(" ", "") else "default"


def asks_for_one(request: str) -> bool:
    """Return whether a query, which is JSON, has a limit of one row."""
    return re.search(r'"limit": ?1[,}]', request) is not None


def refreshed_at(step: int) -> datetime:
    """Return the refresh time of the answer of a step, which tells answers apart."""
    return datetime(2026, 11, 22, 6, tzinfo=UTC) + timedelta(seconds=step)


def step_of(refreshed: datetime) -> int:
    """Return the step of the answer with a refresh time."""
    return int((refreshed - refreshed_at(0)).total_seconds())


def _row(number: int, amount: int, form: Form) -> str:
    """Write one row: about 345 bytes in the default form, 170 in the compact form."""
    values = [
        "SP2VCQJGH7PHP2DJK7Z0V48AGBHQAW3R3ZW1QF4N.borrow",
        ("supply", "borrow", "withdraw")[number % 3],
        f"SP{number:08d}0XZJ2QKRYH2DT7GVQ3F1S9A4E5B6C8",
        f"2026-11-{number % 28 + 1:02d}T10:{number % 60:02d}:00.000",
        f"{amount}.500000",
    ]
    if form == "compact":
        return "[" + ",".join(f'"{value}"' for value in values) + "]"
    names = [*DIMENSIONS, AMOUNT]
    pairs = [f'"{name}":"{value}"' for name, value in zip(names, values, strict=True)]
    return "{" + ",".join(pairs) + "}"


def answers(
    rows: int, case: Case, count: int, form: Form, *, seed: int = 7
) -> Iterator[str]:
    """Generate the answers to a query; the last one always differs from the others."""
    members = json.dumps([*DIMENSIONS, AMOUNT], separators=(",", ":"))
    start, end = "[", "]"
    if form == "compact":
        start, end = f'{{"members":{members},"dataset":[', "]}"
    query = QUERY | ({"responseFormat": form} if form == "compact" else {})
    head = (
        '{"queryType":"regularQuery","results":[{"query":'
        f"{json.dumps(query, separators=(',', ':'))},"
        '"lastRefreshTime":"%s.000Z","annotation":{"measures":{},"dimensions":{},'
        f'"segments":{{}},"timeDimensions":{{}}}},"dataSource":"default","data":{start}'
    )
    tail = f'{end}}}],"slowQuery":false}}'
    generator = random.Random(seed)
    amounts = [generator.randrange(1, 10**9) for _ in range(rows)]
    texts = [_row(number, amount, form) for number, amount in enumerate(amounts)]
    for step in range(count):
        if step and (case != "none" or step == count - 1):
            if case == "all":
                changed = list(range(rows))
            else:
                changed = generator.sample(range(rows), max(1, rows // 1000))
            for number in changed:
                amounts[number] += 1
                texts[number] = _row(number, amounts[number], form)
        time = refreshed_at(step).strftime("%Y-%m-%dT%H:%M:%S")
        yield head % time + ",".join(texts) + tail


def frame(answer: str) -> str:
    """Return the frame that pushes an answer to the query with the message id "1"."""
    return f'{{"messageId":"1","message":{answer},"status":200}}'


def tutorial_frame(answer: str) -> str:
    """Return the frame with the rows of an answer that the tutorial expects."""
    start, end = answer.index('"data":['), answer.rindex("]}],")
    return "{" + answer[start : end + 1] + "}"
