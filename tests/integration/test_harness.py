"""The server itself, without the library: what the other tests stand on is there."""

from __future__ import annotations

import time

import httpx
import pytest
from anyio import to_thread
from harness.cube_server import SECRET
from harness.raw import raw_socket
from harness.tokens import jwt
from websockets.exceptions import ConnectionClosedError, InvalidStatus

COUNT = {"measures": ["stacks_contract_calls.count"]}


def load(cube, query, token=None):
    return httpx.post(
        f"{cube.url}/load",
        json={"query": query, "queryType": "multi"},
        headers={"Authorization": f"Bearer {token or cube.token()}"},
        timeout=30,
        trust_env=False,
    )


def test_ready_and_loads_what_sql_counts(cube, postgres):
    health = httpx.get(f"{cube.host}/readyz", trust_env=False)
    assert health.json() == {"health": "HEALTH"}
    [row] = load(cube, COUNT).json()["results"][0]["data"]
    expected = postgres.scalar("SELECT count(*) FROM stacks_contract_calls")
    assert int(expected) > 10
    assert row == {"stacks_contract_calls.count": expected}


@pytest.mark.parametrize(
    "token",
    ["nonsense", jwt("another secret", exp=4102444800), jwt(SECRET, exp=1)],
    ids=["no JWT", "another secret", "expired"],
)
def test_refuses_a_bad_token(cube, token):
    answer = load(cube, COUNT, token)
    assert answer.status_code == 403
    assert answer.json() == {"error": "Invalid token"}


def test_asks_to_wait_for_a_slow_query(cube):
    query = {"measures": ["slow_events.count"], "limit": 11}
    answers = [load(cube, query).json()]
    while answers[-1].get("error") == "Continue wait":
        answers.append(load(cube, query).json())
    assert len(answers) > 1
    assert answers[-1]["results"][0]["data"] == [{"slow_events.count": "1"}]


async def test_pushes_what_is_inserted(cube, ledger):
    query = {
        "measures": ["stacks_contract_events.count"],
        "filters": [
            {
                "member": "stacks_contract_events.contract_id",
                "operator": "equals",
                "values": [ledger.contract_id],
            }
        ],
    }
    async with raw_socket(cube) as socket:
        await socket.authorize(cube.token())
        await socket.subscribe(query)
        assert await socket.receive_rows() == [{"stacks_contract_events.count": "0"}]
        assert await socket.receive() == {"messageProcessedId": "1"}
        started = time.monotonic()
        ledger.insert()
        while await socket.receive_rows() != [{"stacks_contract_events.count": "1"}]:
            pass
        # A second of refresh key and two ticks; the machine may be busy.
        assert time.monotonic() - started < 15


async def test_refuses_a_bad_token_on_a_socket_that_stays_open(cube):
    async with raw_socket(cube) as socket:
        await socket.send({"authorization": "nonsense"})
        frame = await socket.receive()
        assert frame["status"] == 403
        assert frame["message"]["error"] == "Invalid token"
        await socket.authorize(cube.token())


async def test_is_killed_and_comes_back_at_the_same_address(cube):
    async with raw_socket(cube) as socket:
        await socket.authorize(cube.token())
        await to_thread.run_sync(cube.kill)
        with pytest.raises(ConnectionClosedError):
            await socket.receive()
    with pytest.raises(httpx.ConnectError):
        load(cube, COUNT)
    await to_thread.run_sync(cube.start)
    assert load(cube, COUNT).status_code == 200


async def test_a_server_without_websockets_answers_the_upgrade_as_http(rest_only_cube):
    assert load(rest_only_cube, COUNT).status_code == 200
    with pytest.raises(InvalidStatus) as refusal:
        async with raw_socket(rest_only_cube):
            pass
    assert refusal.value.response.status_code == 403
