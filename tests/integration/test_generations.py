"""Where the two generations of Cube's protocol differ, as the servers themselves say.

The library's answers to these differences are tested beside what they are about; here
are the facts that its design relies on.
"""

from __future__ import annotations

import httpx
import pytest
from harness.raw import raw_socket
from harness.waiting import await_until
from websockets.exceptions import ConnectionClosed

COUNT = {"measures": ["stacks_contract_calls.count"]}
PARAMS = {"query": COUNT, "queryType": "multi"}


def load(cube, query):
    return httpx.post(
        f"{cube.url}/load",
        json={"query": query},
        headers={"Authorization": cube.token()},
        timeout=30,
        trust_env=False,
    )


def test_the_server_is_of_the_version_that_is_named(cube, generation):
    assert f"Cube {generation.version} is listening" in cube.log()


async def test_an_unknown_key_in_a_frame(cube, generation):
    frame = {"messageId": "1", "method": "load", "params": PARAMS, "unknown": 1}
    async with raw_socket(cube) as socket:
        await socket.authorize(cube.token())
        await socket.send(frame)
        answer = await socket.receive()
    if generation.classic:
        assert answer["status"] == 200
    else:
        assert answer["status"] == 400
        assert "Unrecognized key" in answer["message"]["error"]


@pytest.mark.parametrize("sent", ["1", 1])
async def test_the_id_of_an_answer(cube, generation, sent):
    async with raw_socket(cube) as socket:
        await socket.authorize(cube.token())
        await socket.send({"messageId": sent, "method": "load", "params": PARAMS})
        answer = await socket.receive()
    # 1.7.43 sends a number back as a string.
    assert answer["messageId"] == (sent if generation.classic else "1")
    assert type(answer["messageId"]) is (type(sent) if generation.classic else str)


async def test_a_frame_that_is_null(cube, generation):
    async with raw_socket(cube) as socket:
        await socket.send(None)
        if generation.classic:
            with pytest.raises(ConnectionClosed):
                await socket.receive()
            # The socket closes first, the process ends a moment later.
            await await_until(
                lambda: not cube.alive(), seconds=10, what="the server has died"
            )
        else:
            assert (await socket.receive())["status"] == 500
            assert cube.alive()


def test_renew_query(cube, generation):
    answer = load(cube, {**COUNT, "renewQuery": True})
    if generation.classic:
        assert answer.status_code == 200
    else:
        assert answer.status_code == 400
        assert '"renewQuery" is not allowed' in answer.json()["error"]


def test_a_range_of_one_value(cube, generation, postgres):
    member, day = "stacks_contract_calls.tx_date", "2024-05-01"
    ranged = {"member": member, "operator": "inDateRange", "values": [day]}
    answer = load(cube, {**COUNT, "filters": [ranged]})
    [row] = answer.json()["data"]
    # 1.7.43 reads it as that day; to 0.35.81 the range ends with today.
    comparison = ">=" if generation.classic else "="
    where = f"(tx_date AT TIME ZONE 'UTC')::date {comparison} '{day}'"
    count = postgres.scalar(f"SELECT count(*) FROM stacks_contract_calls WHERE {where}")
    assert row["stacks_contract_calls.count"] == count
