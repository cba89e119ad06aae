"""The WebSocket side of FakeCube beyond the captured conversations."""

from __future__ import annotations

import json
import socket

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from ortege_watch.testing import FakeCube, Table

COUNT = {"measures": ["stacks_contract_events.count"]}
HEARTBEAT = '{"messageProcessedId"'


def events():
    """A cube that counts events."""
    return Table(
        "stacks_contract_events",
        measures={"asset_amount": "sum", "count": "count"},
        dimensions={"contract_id": "string", "tx_date": "time"},
    )


def fake(generation="strict", **more):
    return FakeCube(generation, tables=[events()], tick=more.pop("tick", 60), **more)


async def call(ws, frame):
    await ws.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))
    return json.loads(await ws.recv())


async def authorized(cube):
    ws = await connect(cube.ws_url)
    assert await call(ws, {"authorization": cube.token()}) == {"handshake": True}
    return ws


def subscribe(message_id="1", query=COUNT, **more):
    params = {"query": query, "queryType": "multi"}
    return {"messageId": message_id, "method": "subscribe", "params": params, **more}


def rows(frame):
    return [result["data"] for result in frame["message"]["results"]]


REJECTED = (
    "method: Invalid discriminator value. Expected 'load' | 'sql' | 'dry-run' | 'meta' "
    "| 'subscribe' | 'unsubscribe'"
)
IN = "TypeError: Cannot use 'in' operator to search for 'authorization' in"
UUID = "6b6d5c0e-2f1e-4c53-9d0a-1d1c7b6d7f11"


@pytest.mark.parametrize(
    ("frame", "status", "error"),
    [
        ("{", 400, "Unexpected end of JSON input"),
        ("nonsense", 400, "Unexpected token 'n', \"nonsense\" is not valid JSON"),
        ("NaN", 400, "NaN"),
        ("null", 500, f"{IN} null"),
        ("5", 500, f"{IN} 5"),
        ("true", 500, f"{IN} true"),
        ('"text"', 500, f"{IN} text"),
        ("[]", 400, "Invalid input: expected object, received array"),
        ({}, 400, REJECTED),
        ({"method": ["load"]}, 400, REJECTED),
        (
            {"authorization": None},
            400,
            "authorization: Invalid input: expected string, received null",
        ),
        ({"authorization": "x", "a": 1, "b": 2}, 400, 'Unrecognized keys: "a", "b"'),
        ({"authorization": ""}, 403, "Authorization header isn't set"),
        ({"authorization": "Bearer x"}, 403, "Invalid token"),
        ({"unsubscribe": None}, 400, "unsubscribe: Invalid input"),
        (
            subscribe(UUID),
            400,
            "messageId: Too big: expected string to have <=16 characters",
        ),
        (subscribe(None), 400, "messageId: Invalid input"),
        (
            subscribe(requestId=None),
            400,
            "requestId: Invalid input: expected string, received null",
        ),
        (
            subscribe(requestId=1),
            400,
            "requestId: Invalid input: expected string, received number",
        ),
        (
            subscribe(requestId="x" * 65),
            400,
            "requestId: Too big: expected string to have <=64 characters",
        ),
        (subscribe(extra=1), 400, 'Unrecognized key: "extra"'),
        (
            subscribe() | {"params": None},
            400,
            "params: Invalid input: expected object, received null",
        ),
        (
            subscribe() | {"params": []},
            400,
            "params: Invalid input: expected object, received array",
        ),
        (
            subscribe() | {"params": True},
            400,
            "params: Invalid input: expected object, received boolean",
        ),
        (
            subscribe() | {"params": "x"},
            400,
            "params: Invalid input: expected object, received string",
        ),
        (
            {"messageId": 1, "method": "load"},
            400,
            "params: Invalid input: expected object, received undefined",
        ),
        (
            subscribe() | {"params": {"signal": {}}},
            400,
            'params: Unrecognized key: "signal"',
        ),
        (
            subscribe() | {"params": {"queryType": {}}},
            400,
            "params.queryType: Invalid input: expected string, received object",
        ),
    ],
)
async def test_the_schema_of_strict_servers(frame, status, error):
    async with fake() as cube, connect(cube.ws_url) as ws:
        answer = await call(ws, frame)
        assert (answer["status"], answer["message"]) == (status, {"error": error})
        if isinstance(frame, dict) and "messageId" in frame:
            assert answer["messageId"] == frame["messageId"]
        assert await call(ws, {"authorization": cube.token()}) == {"handshake": True}


@pytest.mark.parametrize(
    ("frame", "status", "error"),
    [
        ("{", 500, "SyntaxError: Unexpected end of JSON input"),
        ("5", 400, "messageId is required"),
        ("[]", 400, "messageId is required"),
        (b'{"messageId":"1"}', 400, "messageId is required"),
        ({"messageId": 0}, 400, "messageId is required"),
        ({"authorization": ""}, 400, "messageId is required"),
        ({"messageId": UUID, "extra": 1}, 403, "Not authorized"),
    ],
)
async def test_the_frames_of_classic_servers(frame, status, error):
    async with fake("classic") as cube, connect(cube.ws_url) as ws:
        answer = await call(ws, frame)
        assert (answer["status"], answer["message"]["error"]) == (status, error)


@pytest.mark.parametrize(
    ("frame", "status", "error"),
    [
        ({"messageId": [1]}, 400, "method is required"),
        ({"messageId": True, "method": "nope"}, 400, "Unsupported method: nope"),
        ({"messageId": 7, "method": "load"}, 400, "Query param is required"),
        (
            {"messageId": "1", "method": "unsubscribe"},
            500,
            "TypeError: this.apiGateway[method] is not a function",
        ),
    ],
)
async def test_classic_servers_echo_the_id_unchanged(frame, status, error):
    async with fake("classic") as cube, await authorized(cube) as ws:
        answer = await call(ws, frame)
        assert answer["messageId"] == frame["messageId"]
        assert (answer["status"], answer["message"]["error"]) == (status, error)


async def test_strict_servers_echo_the_id_as_a_string_and_accept_binary_frames():
    async with fake() as cube, await authorized(cube) as ws:
        for message_id in (0, -1, "x"):
            frame = {
                "messageId": message_id,
                "method": "load",
                "params": {"query": COUNT},
            }
            answer = await call(ws, json.dumps(frame).encode())
            assert list(answer) == ["messageId", "status", "message"]
            assert answer["message"]["data"] == [{COUNT["measures"][0]: "0"}]
            assert answer["messageId"] == str(message_id)
            done = json.loads(await ws.recv())
            assert done == {"messageProcessedId": str(message_id)}


@pytest.mark.parametrize("generation", ["strict", "classic"])
async def test_every_method(generation):
    async with fake(generation) as cube, await authorized(cube) as ws:
        for method in ("sql", "dry-run"):
            frame = {"messageId": "1", "method": method, "params": {"query": COUNT}}
            answer = await call(ws, frame)
            assert list(answer) == ["messageId", "message", "status"]
            assert answer["status"] == 200
            assert (await ws.recv()).startswith(HEARTBEAT)
        answer = await call(ws, {"messageId": "2", "method": "meta"})
        assert answer["message"]["cubes"]


async def test_the_null_frame_crashes_a_classic_server():
    async with (
        fake("classic") as cube,
        connect(cube.ws_url) as other,
        connect(cube.ws_url) as ws,
    ):
        await ws.send("null")
        for one in (ws, other):
            with pytest.raises(ConnectionClosedError):
                await one.recv()
            assert one.close_code == 1006


@pytest.mark.parametrize("generation", ["strict", "classic"])
async def test_changes_are_pushed(generation):
    async with fake(generation) as cube, await authorized(cube) as ws:
        table = cube.tables["stacks_contract_events"]
        first = await call(ws, subscribe())
        assert rows(first) == [[{COUNT["measures"][0]: "0"}]]
        assert (await ws.recv()).startswith(HEARTBEAT)
        table.insert({})
        changed = json.loads(await ws.recv())
        assert rows(changed) == [[{COUNT["measures"][0]: "1"}]]
        assert (await ws.recv()).startswith(HEARTBEAT)
        cube.refresh()
        answer = await ws.recv()
        if generation == "classic":
            assert rows(json.loads(answer)) == rows(changed)
            answer = await ws.recv()
        assert answer.startswith(HEARTBEAT)


async def test_two_changes_within_a_millisecond_are_two():
    cube = fake("classic", now=lambda: 1_000_000.0)
    async with cube, await authorized(cube) as ws:
        first = await call(ws, subscribe())
        await ws.recv()
        cube.refresh()
        second = json.loads(await ws.recv())
        assert rows(first) == rows(second)
        assert first != second


async def test_an_identical_subscription_on_a_live_socket_gets_no_data():
    async with fake() as cube, await authorized(cube) as ws:
        await call(ws, subscribe())
        await ws.recv()
        assert await call(ws, subscribe()) == {"messageProcessedId": "1"}
        other = {"dimensions": ["stacks_contract_events.contract_id"]}
        answer = await call(ws, subscribe(query=other))
        assert rows(answer) == [[]]
        assert cube.subscriptions == [other]


@pytest.mark.parametrize("generation", ["classic", "strict"])
async def test_a_query_that_is_unsubscribed_and_subscribed_again_gets_its_data(
    generation,
):
    async with fake(generation) as cube, await authorized(cube) as ws:
        first = await call(ws, subscribe())
        await ws.recv()
        for _ in range(2):
            await ws.send('{"unsubscribe":"1"}')
            again = await call(ws, subscribe())
            assert rows(again) == rows(first)
            assert (await ws.recv()).startswith(HEARTBEAT)


async def test_with_push_tick_changes_are_sent_at_the_tick():
    async with (
        FakeCube(tables=[events()], tick=0.05, push="tick") as cube,
        await authorized(cube) as ws,
    ):
        await call(ws, subscribe())
        await ws.recv()
        cube.tables["stacks_contract_events"].insert({})
        while (frame := await ws.recv()).startswith(HEARTBEAT):
            pass
        assert rows(json.loads(frame)) == [[{COUNT["measures"][0]: "1"}]]


async def test_time_alone_changes_the_answer_to_a_relative_range():
    now = [1_700_000_000.0]
    time = {"dimension": "stacks_contract_events.tx_date", "dateRange": "today"}
    leaf = {
        "member": "stacks_contract_events.tx_date",
        "operator": "afterOrOnDate",
        "values": ["today"],
    }
    async with fake(now=lambda: now[0], tick=0.02) as cube:
        cube.tables["stacks_contract_events"].insert({"tx_date": "2023-11-15T05:00"})
        async with await authorized(cube) as ws:
            await call(ws, subscribe("1", {**COUNT, "timeDimensions": [time]}))
            later = {**COUNT, "filters": [{"and": [leaf]}], "timezone": "Asia/Tokyo"}
            await call(ws, subscribe("2", later))
            now[0] += 24 * 3600
            seen = {}
            while seen != {"1": "1", "2": "0"}:
                frame = json.loads(await ws.recv())
                if "message" in frame:
                    ((row,),) = rows(frame)
                    seen[frame["messageId"]] = row[COUNT["measures"][0]]


async def test_a_failing_subscription_gets_its_error_at_every_tick():
    async with fake(tick=0.02) as cube, await authorized(cube) as ws:
        cube.fail_query("Error: no disk", status=400)
        for _ in range(3):
            frame = (
                await call(ws, subscribe()) if _ == 0 else json.loads(await ws.recv())
            )
            assert frame["message"] == {"error": "Error: no disk"}
            assert (await ws.recv()).startswith(HEARTBEAT)
        cube.heal()
        while "results" not in frame.get("message", {}):
            frame = json.loads(await ws.recv())
        assert rows(frame) == [[{COUNT["measures"][0]: "0"}]]


async def test_unsubscribing():
    async with fake() as cube, await authorized(cube) as ws:
        await call(ws, subscribe("1"))
        await ws.recv()
        await ws.send('{"unsubscribe":"7"}')
        await ws.send('{"unsubscribe":"1"}')
        await cube.wait_until_async(lambda: not cube.subscriptions)
        assert await call(ws, {"authorization": cube.token()}) == {"handshake": True}


async def test_a_failed_authorization_keeps_the_previous_one():
    async with fake() as cube, await authorized(cube) as ws:
        assert (await call(ws, {"authorization": "x"}))["status"] == 403
        assert (await call(ws, subscribe()))["status"] == 200


async def test_closing_ends_connection_and_subscriptions():
    async with fake() as cube:
        async with await authorized(cube) as ws:
            await call(ws, subscribe())
            assert (cube.connections, cube.subscriptions) == (1, [COUNT])
        await cube.wait_until_async(lambda: cube.connections == 0)
        assert cube.subscriptions == []
        assert cube.frames == [{"authorization": cube.token()}, subscribe()]


@pytest.mark.parametrize("path", ["/", "/anything?x=1", "/cubejs-api/v1/load/"])
async def test_any_path_is_upgraded(path):
    async with fake() as cube, connect(f"ws://127.0.0.1:{cube.port}{path}") as ws:
        assert (await call(ws, {"authorization": "x"}))["status"] == 403


async def test_websockets_off():
    async with fake(websockets=False) as cube:
        header = {"Authorization": f"Bearer {cube.token()}"}
        root = f"ws://127.0.0.1:{cube.port}/"
        for url, headers, status, said in [
            (root, {}, 200, b"html"),
            (cube.ws_url, {}, 403, b"Authorization header isn't set"),
            (cube.ws_url, header, 400, b"Query param is required"),
        ]:
            with pytest.raises(InvalidStatus) as caught:
                await connect(url, additional_headers=headers)
            assert caught.value.response.status_code == status
            assert said in caught.value.response.body
        assert len(cube.attempts) == 3


async def test_frames_beyond_the_limit_close_with_1009():
    async with fake() as cube:
        ws = await connect(cube.ws_url)
        await ws.send(b"x" * 50_000_001)
        with pytest.raises(ConnectionClosedError):
            await ws.recv()
        assert ws.close_code == 1009


def upgrade(cube, key=b"dGhlIHNhbXBsZSBub25jZQ=="):
    return (
        b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: " + key + b"\r\n\r\n"
    )


def test_a_frame_in_the_same_packet_as_the_upgrade():
    frame = b"\x81\x82\x00\x00\x00\x00{}"
    with fake() as cube, socket.create_connection(("127.0.0.1", cube.port)) as raw:
        raw.sendall(upgrade(cube) + frame)
        cube.wait_until(lambda: cube.frames == [{}])


def test_an_invalid_upgrade_is_refused():
    with fake() as cube, socket.create_connection(("127.0.0.1", cube.port)) as raw:
        raw.sendall(upgrade(cube, key=b"short"))
        assert raw.makefile("rb").read().startswith(b"HTTP/1.1 400 Bad Request")
        assert cube.connections == 0


# The tutorial's dialect


def envelope(query=COUNT, request_id="a"):
    return {"queryType": "subscribe", "query": query, "requestId": request_id}


def bearer(token):
    return {"additional_headers": {"Authorization": f"Bearer {token}"}}


async def test_the_tutorials_gateway_reads_the_header():
    async with fake("tutorial") as cube:
        with pytest.raises(InvalidStatus) as caught:
            await connect(cube.ws_url, **bearer("x"))
        assert caught.value.response.status_code == 401
        assert json.loads(caught.value.response.body) == {"error": "Invalid token"}
        cube.refuse_handshake("not today", status=403, times=1)
        with pytest.raises(InvalidStatus) as caught:
            await connect(cube.ws_url, **bearer(cube.token()))
        assert json.loads(caught.value.response.body) == {"error": "not today"}


async def test_the_tutorials_gateway_answers_with_rows_alone():
    async with (
        fake("tutorial", tick=0.02) as cube,
        connect(cube.ws_url, **bearer(cube.token())) as ws,
    ):
        assert await call(ws, envelope()) == {"data": [{COUNT["measures"][0]: "0"}]}
        cube.refresh()
        cube.tables["stacks_contract_events"].insert({})
        assert json.loads(await ws.recv()) == {"data": [{COUNT["measures"][0]: "1"}]}
        assert cube.subscriptions == [COUNT]
        answer = await call(ws, envelope({"measures": ["a.b"]}))
        assert answer == {
            "type": "UserError",
            "error": "Cube 'a' not found for path 'a.b'",
            "status": 400,
        }


@pytest.mark.parametrize("frame", ["{", {"authorization": "x"}, subscribe()])
async def test_the_tutorials_gateway_does_not_know_cubes_frames(frame):
    async with (
        fake("tutorial") as cube,
        connect(cube.ws_url, **bearer(cube.token())) as ws,
    ):
        answer = await call(ws, frame)
        assert answer == {"error": "queryType must be 'subscribe'", "status": 400}
    async with (
        fake("tutorial", on_unknown_frame="silence") as cube,
        connect(cube.ws_url, **bearer(cube.token())) as ws,
    ):
        await ws.send(frame if isinstance(frame, str) else json.dumps(frame))
        assert list(await call(ws, envelope())) == ["data"]
