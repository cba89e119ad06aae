"""What holds for any Cube server: nothing here knows its cubes, nothing is written.

``ORTEGE_TEST_CUBE_URL`` and ``ORTEGE_TEST_CUBE_TOKEN`` name the server; without them it
is the tests' own.
"""

from __future__ import annotations

import pytest

from ortege_watch import (
    AsyncCubeClient,
    AuthenticationError,
    CubeClient,
    Dimension,
    Query,
    QueryRejected,
)

SECONDS = 120


@pytest.fixture
def client(target):
    with CubeClient(target.url, target.token, deadline=SECONDS) as client:
        yield client


@pytest.fixture
def query(client):
    """Ask for ten values of the first text that the server has."""
    for cube in client.meta().cubes:
        for member in cube.dimensions:
            if cube.public and member.public and member.type == "string":
                return Query(dimensions=[Dimension(member.name, str)], limit=10)
    pytest.skip("this server has no dimension of type string")


def test_meta_names_members_that_belong_to_their_cubes(client):
    meta = client.meta()
    assert meta.cubes
    for cube in meta.cubes:
        for member in cube.members:
            assert member.name.startswith(f"{cube.name}.")
            assert member.name in meta


def test_loads_rows_of_the_declared_type(client, query):
    [member] = query.dimensions
    result = client.load(query)
    assert len(result) <= 10
    assert all(isinstance(row.get(member), str | None) for row in result)
    assert result.refreshed_at is not None


def test_sql_and_dry_run_agree_with_the_query(client, query):
    [member] = query.dimensions
    [normalised] = client.dry_run(query).queries
    assert normalised["dimensions"] == [member.name]
    assert "SELECT" in client.sql(query).statement.upper()


def test_a_member_that_is_not_there_is_rejected(client):
    with pytest.raises(QueryRejected):
        client.load(Query(dimensions=[Dimension("no_such_cube.member")]))


def test_a_bad_token_is_refused(target):
    with (
        CubeClient(target.url, "nonsense", deadline=SECONDS) as client,
        pytest.raises(AuthenticationError),
    ):
        client.meta()


async def test_a_subscription_begins_with_what_load_gives(target, query):
    async with (
        AsyncCubeClient(target.url, target.token) as client,
        client.watch(query) as updates,
    ):
        update = await anext(updates)
    assert update.first
    assert len(update.result) <= 10
    assert list(update.added) == list(update.result)
