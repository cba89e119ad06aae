"""The server itself, without the library: what the other tests stand on is there."""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager

import httpx
import pytest
from harness.cube_server import TICK_SECONDS, CubeServer
from harness.tokens import jwt
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

COUNT = {"measures": ["stacks_contract_calls.count"]}


def load(cube: CubeServer, query: object, token: str | None = None) -> httpx.Response:
    return httpx.post(
        f"{cube.url}/load",
        json={"query": query, "queryType": "multi"},
        headers={"Authorization": f"Bearer {token or cube.token()}"},
        timeout=30,
        trust_env=False,
    )


@asynccontextmanager
async def socket(cube: CubeServer):
    async with connect(cube.url.replace("http", "ws") + "/load/", proxy=None) as ws:
        yield ws


async def send(ws, frame):
    await ws.send(json.dumps(frame))


async def receive(ws):
    return json.loads(await ws.recv())


async def receive_count(ws, message_id: str) -> str:
    """Pass over heartbeats until a result comes, and return its one value."""
    while True:
        frame = await receive(ws)
        if "message" in frame:
            assert frame["messageId"] == message_id
            assert frame["status"] == 200
            [row] = frame["message"]["results"][0]["data"]
            [value] = row.values()
            return value


def test_ready_and_loads_what_sql_counts(cube, postgres):
    assert httpx.get(f"{cube.host}/readyz", trust_env=False).json() == {
        "health": "HEALTH"
    }
    [row] = load(cube, COUNT).json()["results"][0]["data"]
    expected = postgres.scalar("SELECT count(*) FROM stacks_contract_calls")
    assert int(expected) > 10
    assert row == {"stacks_contract_calls.count": expected}


@pytest.mark.parametrize(
    "token",
    [
        "nonsense",
        jwt("another secret", exp=4102444800),
        jwt("an integration test's secret, known to everybody", exp=1),
    ],
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


async def test_pushes_what_is_inserted(cube, events):
    query = {
        "measures": ["stacks_contract_events.count"],
        "filters": [
            {
                "member": "stacks_contract_events.contract_id",
                "operator": "equals",
                "values": [events.contract_id],
            }
        ],
    }
    async with socket(cube) as ws:
        await send(ws, {"authorization": cube.token()})
        assert await receive(ws) == {"handshake": True}
        params = {"query": query, "queryType": "multi"}
        await send(ws, {"messageId": "1", "method": "subscribe", "params": params})
        assert await receive_count(ws, "1") == "0"
        assert await receive(ws) == {"messageProcessedId": "1"}
        started = time.monotonic()
        events.insert()
        while await receive_count(ws, "1") != "1":
            pass
        # A second of refresh key and two ticks, on a machine that may be busy.
        assert time.monotonic() - started < 10 + 2 * TICK_SECONDS


async def test_refuses_a_bad_token_on_a_socket_that_stays_open(cube):
    async with socket(cube) as ws:
        await send(ws, {"authorization": "nonsense"})
        frame = await receive(ws)
        assert frame["status"] == 403
        assert frame["message"]["error"] == "Invalid token"
        await send(ws, {"authorization": cube.token()})
        assert await receive(ws) == {"handshake": True}


async def test_is_killed_and_comes_back_at_the_same_address(cube):
    async with socket(cube) as ws:
        await send(ws, {"authorization": cube.token()})
        assert await receive(ws) == {"handshake": True}
        cube.kill()
        with pytest.raises(ConnectionClosedError):
            await ws.recv()
    with pytest.raises(httpx.ConnectError):
        load(cube, COUNT)
    cube.start()
    assert load(cube, COUNT).status_code == 200


async def test_a_server_without_websockets_answers_the_upgrade_as_http(rest_only_cube):
    assert load(rest_only_cube, COUNT).status_code == 200
    with pytest.raises(InvalidStatus) as refusal:
        async with socket(rest_only_cube):
            pass
    assert refusal.value.response.status_code == 403
