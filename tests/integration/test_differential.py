"""Random queries to a real server and to FakeCube; see ``differential/``.

A failing series is repeated with ``python -m tests.integration.differential --seed SEED
--queries 100``, one query of it with ``--first NUMBER --queries 1``.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter

import httpx
import pytest
from differential.comparison import KNOWN, comparison, different
from differential.generator import CUBE, Generator

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


def ask(url, token, path, query):
    for _ in range(20):  # "Continue wait" comes after a second
        response = httpx.request(
            "GET" if query is None else "POST",
            f"{url}/{path}",
            json=None if query is None else {"query": query, "queryType": "multi"},
            headers={"Authorization": token},
            trust_env=False,
        )
        body = response.json()
        if not isinstance(body, dict) or body.get("error") != "Continue wait":
            return response.status_code, body
    raise TimeoutError(path)


TIMES = [{"dimension": f"{CUBE}.tx_date", "granularity": "day", "dateRange": "today"}]
REGULAR = {
    "measures": [f"{CUBE}.count", f"{CUBE}.avg_amount"],
    "dimensions": [f"{CUBE}.contract_id"],
    "timeDimensions": TIMES,
    "filters": [{"member": f"{CUBE}.amount", "operator": "gt", "values": ["0"]}],
    "segments": [f"{CUBE}.borrows"],
}
SECOND = {
    "measures": [f"{CUBE}.max_block"],
    "dimensions": [f"{CUBE}.asset_id"],
    "timeDimensions": TIMES,
}
COMPARED = {
    "measures": [f"{CUBE}.count"],
    "timeDimensions": [
        {"dimension": f"{CUBE}.tx_date", "compareDateRange": ["today", "yesterday"]}
    ],
}
QUERIES_OF_SHAPES = {
    "regular": REGULAR,
    "ordered": {**REGULAR, "order": {f"{CUBE}.count": "desc"}},
    "without a time": {"dimensions": [f"{CUBE}.id", f"{CUBE}.amount"]},
    "only a measure": {"measures": [f"{CUBE}.count"]},
    "a database error": {
        "measures": [f"{CUBE}.count"],
        "filters": [{"member": f"{CUBE}.amount", "operator": "gt", "values": ["x"]}],
    },
    "blending": [{"measures": [f"{CUBE}.count"], "timeDimensions": TIMES}, SECOND],
    "blending without dimensions": [
        {"measures": [f"{CUBE}.count"], "timeDimensions": TIMES}
    ],
    "compared": COMPARED,
    "unknown": {"measures": [f"{CUBE}.nope"]},
}
# What the fake leaves out, or cannot know.
TRANSFORMED = frozenset({"transformedQueries", "canUseTransformedQuery"})
UNKNOWABLE = frozenset(
    {"data", "lastRefreshTime", "stack", "sql", "cacheKeyQueries", "memberNames"}
)


def comparable(value):
    """Leave out values that the fake cannot know, but not their keys."""
    if isinstance(value, list):
        return [comparable(each) for each in value]
    if not isinstance(value, dict):
        return value
    result = {}
    for key, each in value.items():
        if key in UNKNOWABLE and not (key == "sql" and isinstance(each, dict)):
            result[key] = ...
        elif key in TRANSFORMED:
            several = each if isinstance(each, list) else [each]
            result[key] = [
                {k: v for k, v in one.items() if k in SHOWN} for one in several
            ]
        else:
            result[key] = comparable(each)
    return result


def unlike(real, fake, path=""):
    """Return where two JSON values differ."""
    if isinstance(real, dict) and isinstance(fake, dict):
        return [
            line
            for key in sorted(real.keys() | fake.keys())
            for line in unlike(real.get(key), fake.get(key), f"{path}.{key}")
        ]
    if isinstance(real, list) and isinstance(fake, list) and len(real) == len(fake):
        return [
            line
            for number, pair in enumerate(zip(real, fake, strict=True))
            for line in unlike(*pair, f"{path}[{number}]")
        ]
    return [] if real == fake else [f"{path}: {real!r} and {fake!r}"]


SHOWN = (
    *("sortedDimensions", "sortedTimeDimensions", "timeDimensions"),
    *("measures", "leafMeasures"),
)


@pytest.mark.parametrize("query", QUERIES_OF_SHAPES.values(), ids=QUERIES_OF_SHAPES)
@pytest.mark.parametrize("path", ["load", "dry-run", "sql"])
def test_the_shape_of_an_answer(cube, compared, path, query):
    real, fake = (ask(*server, path, query) for server in compared.servers.values())
    assert fake[0] == real[0]
    assert unlike(comparable(real[1]), comparable(fake[1])) == []


def test_the_shape_of_meta(compared):
    described = []
    for server in compared.servers.values():
        status, body = ask(*server, "meta", None)
        assert status == 200
        (found,) = [one for one in body.pop("cubes") if one["name"] == CUBE]
        described.append((body, found))
    (real_body, real), (fake_body, fake) = described
    assert fake_body == real_body
    for kind in ("measures", "dimensions"):
        shown = {one["name"]: one for one in real.pop(kind)}
        for one in fake.pop(kind):
            assert unlike(shown[one["name"]], one) == []
    assert unlike(real, fake) == []
