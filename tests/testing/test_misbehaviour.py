"""Each fault has its effect, and ends."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import time

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    InvalidStatus,
)

from ortege_watch.testing import FakeCube, Table

COUNT = {"measures": ["stacks_contract_events.count"]}


def events():
    """A cube that counts events."""
    return Table(
        "stacks_contract_events",
        measures={"asset_amount": "sum", "count": "count"},
        dimensions={"contract_id": "string", "tx_date": "time"},
    )


@pytest.fixture
def cube():
    with FakeCube(tables=[events()], tick=60) as cube:
        yield cube


async def authorized(cube):
    ws = await connect(cube.ws_url)
    await ws.send(json.dumps({"authorization": cube.token()}))
    assert await ws.recv() == '{"handshake":true}'
    return ws


async def subscribed(cube):
    ws = await authorized(cube)
    params = {"query": COUNT, "queryType": "multi"}
    frame = {"messageId": "1", "method": "subscribe", "params": params}
    await ws.send(json.dumps(frame))
    await ws.recv()
    await ws.recv()
    return ws


def get(cube, **more):
    params = {"query": json.dumps(COUNT)}
    headers = {"authorization": cube.token()}
    return httpx.get(
        f"{cube.url}/load", params=params, headers=headers, **more, verify=False
    )


@pytest.mark.parametrize("reset", [False, True])
async def test_drop(cube, reset):
    async with await subscribed(cube) as ws:
        cube.drop(reset=reset)
        assert (cube.connections, cube.sockets, cube.subscriptions) == (0, 0, [])
        with pytest.raises(ConnectionClosedError):
            await ws.recv()
        assert ws.close_code == 1006
    await (await authorized(cube)).close()
    assert len(cube.attempts) == 2


@pytest.mark.parametrize("reset", [False, True])
def test_drop_with_reset_sends_a_tcp_reset(cube, reset):
    with socket.create_connection(("127.0.0.1", cube.port)) as raw:
        cube.wait_until(lambda: cube.sockets == 1)
        cube.drop(reset=reset)
        if reset:
            with pytest.raises(ConnectionResetError):
                raw.recv(1)
        else:
            assert raw.recv(1) == b""


async def test_close(cube):
    async with await authorized(cube) as ws:
        cube.close(1012, "again later")
        with pytest.raises(ConnectionClosed):
            await ws.recv()
        assert (ws.close_code, ws.close_reason) == (1012, "again later")
    await cube.wait_until_async(lambda: cube.connections == cube.sockets == 0)
    cube.close()  # without a connection


async def test_down_and_up(cube):
    ws = await authorized(cube)
    url = cube.url
    cube.down()
    with pytest.raises(OSError):
        await connect(cube.ws_url)
    cube.down()
    cube.up()
    cube.up()
    assert cube.url == url
    await (await authorized(cube)).close()
    await ws.close()


async def test_restart(cube):
    async with await subscribed(cube) as ws:
        cube.restart()
        assert cube.subscriptions == []
        with pytest.raises(ConnectionClosedError):
            await ws.recv()
    assert get(cube).status_code == 200


async def test_forget(cube):
    async with await subscribed(cube) as ws:
        cube.forget()
        assert (cube.connections, cube.subscriptions) == (1, [])
        await ws.ping()


async def test_silence(cube):
    async with await subscribed(cube) as ws:
        cube.silence()
        cube.tables["stacks_contract_events"].insert({})
        pong = await ws.ping()
        await ws.send(json.dumps({"unsubscribe": "1"}))
        await cube.wait_until_async(lambda: not cube.subscriptions)
        asking = asyncio.create_task(connect(cube.ws_url).__aenter__())
        await cube.wait_until_async(lambda: len(cube.attempts) == 2)
        assert not pong.done()
        assert not asking.done()
        assert "silent" not in repr(cube)
        cube.speak()
        await pong
        await (await asking).close()


async def test_a_client_that_closes_during_a_silence(cube):
    ws = await authorized(cube)
    cube.silence()
    ws.close_timeout = 0.01
    await ws.close()
    await cube.wait_until_async(lambda: cube.sockets == 0)
    cube.speak()


async def test_a_silence_with_a_duration(cube):
    async with await authorized(cube) as ws:
        cube.silence()
        cube.silence(60)
        cube.silence(0.01)
        await (await ws.ping())


async def test_after_a_silence_a_subscription_gets_the_newest_rows(cube):
    async with await subscribed(cube) as ws:
        cube.silence()
        for _ in range(3):
            looks = itertools.count()
            seen = lambda looks=looks: next(looks)  # noqa: E731 - at the second look
            ticking = asyncio.create_task(cube.wait_until_async(seen))
            await asyncio.sleep(0)
            cube.tables["stacks_contract_events"].insert({})
            await ticking
        cube.speak()
        (result,) = json.loads(await ws.recv())["message"]["results"]
        assert result["data"] == [{COUNT["measures"][0]: "3"}]
        assert await ws.recv() == '{"messageProcessedId":"1"}'


async def test_slow(cube):
    async with await authorized(cube) as ws:
        cube.slow(0.05)
        began = time.monotonic()
        await ws.send("nonsense")
        await ws.recv()
        assert time.monotonic() - began >= 0.05
        cube.slow(0)
        began = time.monotonic()
        assert get(cube).status_code == 200


async def test_a_slow_answer_to_a_client_that_has_closed(cube):
    cube.slow(0.02)
    with pytest.raises(httpx.ReadTimeout):
        get(cube, timeout=0.001)
    await cube.wait_until_async(lambda: cube.sockets == 0)
    cube.slow(0.01)
    async with connect(cube.ws_url):
        pass


@pytest.mark.parametrize("after", ["upgrade", "handshake"])
async def test_accept_and_drop(cube, after):
    cube.accept_and_drop(after=after)
    for _ in range(2):
        async with connect(cube.ws_url) as ws:
            if after == "handshake":
                await ws.send(json.dumps({"authorization": cube.token()}))
                assert await ws.recv() == '{"handshake":true}'
            with pytest.raises(ConnectionClosedError):
                await ws.recv()
    cube.accept_and_drop(False)
    await (await authorized(cube)).close()


@pytest.mark.parametrize("status", [401, 502, 599])
async def test_refuse(cube, status):
    cube.refuse(status, times=2)
    assert get(cube).status_code == status
    with pytest.raises(InvalidStatus) as caught:
        await connect(cube.ws_url)
    assert caught.value.response.status_code == status
    assert caught.value.response.headers["content-type"] == "text/html; charset=utf-8"
    await (await authorized(cube)).close()
    cube.refuse(status)
    assert [get(cube).status_code for _ in range(3)] == [status] * 3
    cube.heal()
    assert get(cube).status_code == 200
    cube.refuse(status, times=0)
    assert get(cube).status_code == 200


async def test_a_refusal_has_headers_also_where_an_upgrade_is_refused(cube):
    cube.refuse(503, headers={"Retry-After": "9"}, times=2)
    with pytest.raises(InvalidStatus) as caught:
        await connect(cube.ws_url)
    assert caught.value.response.headers["Retry-After"] == "9"
    assert get(cube).headers["Retry-After"] == "9"


async def test_refuse_handshake(cube):
    cube.refuse_handshake(times=1)
    async with connect(cube.ws_url) as ws:
        for expected in (
            {"message": {"error": "Invalid token"}, "status": 403},
            {"handshake": True},
        ):
            await ws.send(json.dumps({"authorization": cube.token()}))
            assert json.loads(await ws.recv()) == expected


def test_error(cube):
    cube.error(429, {"error": "slow down"}, headers={"Retry-After": "2"})
    cube.error(200, '{"half', times=2)
    cube.error(504, b"")
    cube.error(204)
    limited = get(cube)
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "2")
    assert limited.json() == {"error": "slow down"}
    assert [get(cube).text for _ in range(2)] == ['{"half'] * 2
    assert (get(cube).status_code, get(cube).status_code) == (504, 204)
    assert get(cube).status_code == 200
    cube.error(503, "<html>", times=None, headers={"Content-Type": "text/plain"})
    assert {get(cube).headers["content-type"] for _ in range(3)} == {"text/plain"}
    cube.heal()
    assert get(cube).status_code == 200


def test_head_is_answered_without_a_body(cube):
    assert httpx.head(f"{cube.url}/load", verify=False).status_code == 404


def test_cut(cube):
    cube.cut()
    with pytest.raises(httpx.RemoteProtocolError):
        get(cube)
    assert get(cube).status_code == 200


async def test_continue_wait(cube):
    cube.continue_wait(2)
    for _ in range(2):
        answer = get(cube)
        assert (answer.status_code, answer.text) == (200, '{"error":"Continue wait"}')
    assert get(cube).json()["data"]
    async with await authorized(cube) as ws:
        cube.continue_wait()
        frame = {"messageId": "1", "method": "load", "params": {"query": COUNT}}
        await ws.send(json.dumps(frame))
        waiting = '{"messageId":"1","message":{"error":"Continue wait"},"status":200}'
        assert await ws.recv() == waiting


async def test_continue_wait_for_a_subscription():
    with FakeCube(tables=[events()], tick=0.02) as cube:
        async with await subscribed(cube) as ws:
            cube.continue_wait()
            frames = []
            while not frames or "results" not in frames[-1]["message"]:
                frame = json.loads(await ws.recv())
                frames += [frame] if "message" in frame else []
            assert frames[0]["message"] == {"error": "Continue wait"}


def test_fail_query(cube):
    cube.fail_query("Error: gone", status=500, times=1)
    answer = get(cube)
    assert (answer.status_code, answer.json()) == (500, {"error": "Error: gone"})
    assert get(cube).status_code == 200
    cube.fail_query()
    assert [get(cube).status_code for _ in range(2)] == [400, 400]


async def test_garbage(cube):
    async with connect(cube.ws_url) as ws:
        await cube.wait_until_async(lambda: cube.connections)
        cube.garbage("{")
        cube.garbage(b"\x00{")
        cube.garbage("")
        assert [await ws.recv() for _ in range(3)] == ["{", b"\x00{", ""]
        cube.garbage(b"\xff", text=True)
        with pytest.raises(ConnectionClosedError):
            await ws.recv()
        assert ws.close_code == 1006
        assert ws.protocol.close_sent.code == 1007


async def test_big_frame(cube):
    async with connect(cube.ws_url, max_size=2_000_000) as ws:
        await cube.wait_until_async(lambda: cube.connections)
        cube.big_frame(2_000_000)
        assert len(await ws.recv()) == 2_000_000
        cube.big_frame(2_000_001)
        with pytest.raises(ConnectionClosedError):
            await ws.recv()
        assert ws.protocol.close_sent.code == 1009


async def test_fragment(cube):
    cube.tables["stacks_contract_events"].insert({"contract_id": "Ωλ"})
    async with await authorized(cube) as ws:
        cube.fragment(50)
        query = {"dimensions": ["stacks_contract_events.contract_id"]}
        frame = {"messageId": "1", "method": "load", "params": {"query": query}}
        await ws.send(json.dumps(frame))
        pieces = [piece async for piece in ws.recv_streaming(decode=False)]
        assert len(pieces) > 10
        data = json.loads(b"".join(pieces))["message"]["data"]
        assert data == [{"stacks_contract_events.contract_id": "Ωλ"}]
        cube.heal()
        await ws.recv()
        cube.garbage("x" * 1000)
        assert len([piece async for piece in ws.recv_streaming()]) == 1


async def test_messages_in_fragments_are_received(cube):
    async with connect(cube.ws_url) as ws:
        await ws.send(["non", "sen", "se"])
        await ws.recv()
        await ws.send([b"{", b"}"])
        await ws.recv()
        assert cube.frames == ["nonsense", {}]
