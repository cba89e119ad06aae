"""Random queries to a real server and to FakeCube; see ``differential/``.

A failing series is repeated with ``python -m tests.integration.differential --seed SEED
--queries 100``, one query of it with ``--first NUMBER --queries 1``.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter

import pytest
from differential.comparison import KNOWN, comparison, different
from differential.generator import Generator

QUERIES = 100
# CI compares the same queries each time.
SEED = 32 if os.environ.get("CI") else secrets.randbelow(10**6)


@pytest.fixture
def compared(cube, postgres):
    with comparison(cube, postgres) as found:
        yield found


def test_fake_cube_answers_as_the_real_server(compared):
    print(f"seed {SEED}")
    verdicts = [compared.compare(SEED, number) for number in range(QUERIES)]
    figures = Counter(verdict.kind for verdict in verdicts)
    print(figures)
    unknown = [str(verdict) for verdict in verdicts if verdict.is_unknown]
    assert not unknown, "\n".join(unknown)
    assert figures["equal rows"] > QUERIES / 2
    assert figures["equal refusal"] > QUERIES / 20
    # Most answers have rows, else equal answers prove little.
    full = [v for v in verdicts if v.real.status == 200 and v.real.body["data"]]
    assert len(full) > QUERIES / 4


def test_a_wrong_answer_is_noticed(compared, generation):
    """Change the fake's answers as a defect would: each change is a difference."""
    verdicts = [compared.compare(1, number) for number in range(30)]
    noticed = Counter()
    for verdict in verdicts:
        if verdict.real.status != 200 or not isinstance(
            verdict.real.body["data"], list
        ):
            continue
        for name, body in wrong(verdict.real.body):
            fake = type(verdict.real)(200, body, "")
            found = different(
                verdict.query, verdict.real, fake, classic=generation.classic
            )
            assert found, (name, verdict.query)
            noticed[name] += 1
    assert noticed.keys() == {"a row less", "another value", "another query"}


def wrong(body):
    """Yield wrong copies of a good answer, with their names."""
    yield "another query", {**body, "query": {**body["query"], "limit": -1}}
    if rows := body["data"]:
        yield "a row less", {**body, "data": rows[1:]}
        changed = {key: f"{value}0" for key, value in rows[0].items()}
        yield "another value", {**body, "data": [changed, *rows[1:]]}


def test_the_same_seed_gives_the_same_query():
    assert Generator(7, 1).query() == Generator(7, 1).query()
    assert Generator(7, 1).query() != Generator(7, 2).query()
    assert Generator(7, 1).query() != Generator(8, 1).query()


def test_each_known_difference_has_a_name_and_a_reason():
    assert len({one.name for one in KNOWN}) == len(KNOWN)
    assert all(one.reason for one in KNOWN)
