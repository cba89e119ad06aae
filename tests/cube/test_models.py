from __future__ import annotations

from decimal import Decimal

import pytest

from ortege_watch import _json as codec
from ortege_watch.cube.calls import DryRun, Sql
from ortege_watch.errors import DecodeError


def written(answer):
    return codec.dumps(answer).encode()


def test_sql_is_a_statement_and_its_values():
    answer = {"sql": {"sql": ["SELECT $1", ["a", Decimal("1.5")]], "order": {}}}
    sql = Sql.read(written(answer))
    assert (sql.statement, sql.params) == ("SELECT $1", ("a", Decimal("1.5")))
    assert sql.raw == answer


def test_a_dry_run_gives_the_normalised_queries():
    answer = {"queryType": "regularQuery", "normalizedQueries": [{"limit": 10000}]}
    run = DryRun.read(written(answer))
    assert (run.query_type, run.queries) == ("regularQuery", ({"limit": 10000},))
    assert run.raw == answer


@pytest.mark.parametrize(
    "answer",
    [None, 5, [], {}, {"sql": {"sql": "SELECT 1"}}, {"sql": {"sql": ["SELECT 1"]}}],
)
def test_another_answer_is_no_sql(answer):
    with pytest.raises(DecodeError, match="/sql has no statement"):
        Sql.read(written(answer))


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {"queryType": "regularQuery"},
        {"queryType": "regularQuery", "normalizedQueries": ["limit"]},
        {"queryType": 1, "normalizedQueries": []},
    ],
)
def test_another_answer_is_no_dry_run(answer):
    with pytest.raises(DecodeError, match="/dry-run has no list"):
        DryRun.read(written(answer))


def test_reprs_leave_out_the_whole_response():
    statement = {"sql": {"sql": ["SELECT 1", []], "external": "left out"}}
    assert repr(Sql.read(written(statement))) == "Sql(statement='SELECT 1', params=())"
    run = {"queryType": "regularQuery", "normalizedQueries": [{}], "pivotQuery": {}}
    shown = "DryRun(query_type='regularQuery', queries=({},))"
    assert repr(DryRun.read(written(run))) == shown
