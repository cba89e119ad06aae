"""The receiver of an alert channel, over real sockets on loopback."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time

import anyio
import httpx
import pytest
from channels import (
    PATH,
    WITHIN,
    Gate,
    Inbox,
    alert,
    answer,
    ask,
    dial,
    signed,
    verifier,
)
from signed import APP_ID, SECRET, headers_for
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ortege_watch import OrtegeWatchError
from ortege_watch.watchbus import (
    AlertInbox,
    AlertInfo,
    MemoryHandled,
    RejectAlert,
    RequestVerifier,
    RetryAlert,
    SQLiteNonces,
    alert_app,
    serve_alert_channel,
)
from ortege_watch.watchbus.wire import encode_alerts

pytestmark = pytest.mark.anyio


async def refusal_of(url: str, headers: dict[str, str]) -> tuple[int, dict]:
    with pytest.raises(InvalidStatus) as caught:
        await dial(url, headers)
    answer = caught.value.response
    assert answer.headers["Content-Type"] == "application/json;charset=UTF-8"
    return answer.status_code, json.loads(answer.body)


async def close_code(connection) -> int:
    async with asyncio.timeout(WITHIN):
        await connection.wait_closed()
    return connection.close_code


# ---------------------------------------------------------------------- handshakes
def milliseconds(seconds: float) -> int:
    return int((time.time() + seconds) * 1000)


REFUSED = {
    "another secret": (lambda: signed(secret="no"), 401, "000005", "invalid signature"),
    "unknown app": (lambda: signed(app_id="me"), 401, "000003", "invalid appid"),
    "a POST": (lambda: signed(method="POST"), 401, "000005", "invalid signature"),
    "another path": (lambda: signed(path="/x"), 401, "000005", "invalid signature"),
    "too old": (
        lambda: signed(timestamp=milliseconds(-301)),
        401,
        "000005",
        "timestamp is expired",
    ),
    "too early": (
        lambda: signed(timestamp=milliseconds(301)),
        401,
        "000005",
        "timestamp is expired",
    ),
    "no time": (
        lambda: signed(timestamp="now"),
        401,
        "000005",
        "timestamp has illegal",
    ),
    "a short nonce": (lambda: signed(nonce="1"), 401, "000005", "nonce is illegal"),
    "unsigned": (dict, 401, "000004", "headers can not be null or empty"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_refused_handshake_is_answered_with_the_reason(name):
    headers, status, code, reason = REFUSED[name]
    async with serve_alert_channel(verifier(), Inbox()) as server:
        told = await refusal_of(server.url, headers())
    envelope = {"status": "ERROR", "code": code, "data": None, "error_data": reason}
    assert told == (status, envelope)


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/elsewhere", 404, "not found"),
        (PATH + "/", 404, "not found"),
        (PATH + "?a=1", 400, "a query cannot be signed"),
    ],
)
async def test_only_the_path_of_the_channel_is_served(path, status, reason):
    async with serve_alert_channel(verifier(), Inbox()) as server:
        url = server.url.replace(PATH, path)
        told, envelope = await refusal_of(url, signed())
    assert (told, envelope["error_data"]) == (status, reason)


async def test_a_handshake_cannot_be_replayed():
    headers = signed()
    async with (
        serve_alert_channel(verifier(), Inbox()) as server,
        dial(server.url, headers),
    ):
        status, envelope = await refusal_of(server.url, headers)
    assert (status, envelope["error_data"]) == (401, "replay request")


async def test_nonces_in_a_file_survive_a_restart_of_the_channel(tmp_path):
    headers = signed()
    with SQLiteNonces(tmp_path / "nonces.db") as nonces:
        async with (
            serve_alert_channel(verifier(nonces=nonces), Inbox()) as server,
            dial(server.url, headers) as connection,
        ):
            assert (await ask(connection, alert(1)))["status"] == 200
    with SQLiteNonces(tmp_path / "nonces.db") as nonces:
        async with serve_alert_channel(verifier(nonces=nonces), Inbox()) as server:
            status, envelope = await refusal_of(server.url, headers)
    assert (status, envelope["error_data"]) == (401, "replay request")


async def test_a_handshake_is_refused_when_the_nonce_store_fails(caplog):
    class Broken:
        def record(self, app_id, nonce, now, until):
            raise RuntimeError("the disk is full")

    async with serve_alert_channel(verifier(nonces=Broken()), Inbox()) as server:
        status, envelope = await refusal_of(server.url, signed())
    assert (status, envelope["error_data"]) == (503, "try again")
    assert "the disk is full" in caplog.text


async def test_a_request_that_is_not_a_handshake_does_no_harm(caplog):
    async with serve_alert_channel(verifier(), Inbox()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(WITHIN):
            await reader.read()
        writer.close()
        async with dial(server.url) as connection:  # and nothing is broken
            assert (await ask(connection, alert(1)))["status"] == 200


# -------------------------------------------------------------------------- frames
async def test_a_frame_is_answered_when_its_alerts_are_handled():
    gate = Gate()
    async with (
        serve_alert_channel(verifier(), gate) as server,
        dial(server.url) as connection,
    ):
        asking = asyncio.create_task(ask(connection, alert(1), alert(2), key="k"))
        await gate.entered.reach(1)
        assert not asking.done()
        gate.let_on.set()
        assert await asking == {
            "id": "k",
            "status": 200,
            "body": {"status": "OK", "code": "000000000", "data": None},
        }
    assert gate.done == [1, 2]


@pytest.mark.parametrize(
    "garbage",
    ["", "hello", "[]", "{}", '{"id": "1"}', '{"id": 1, "body": []}', b"\xff\xfe"],
)
async def test_an_invalid_frame_closes_the_connection(garbage):
    inbox = Inbox()
    async with (
        serve_alert_channel(verifier(), inbox) as server,
        dial(server.url) as other,
    ):
        async with dial(server.url) as connection:
            await connection.send(garbage)
            assert await close_code(connection) == 1007
        assert (await ask(other, alert(1)))["status"] == 200


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("null", "$: missing, expected a list"),
        ("[5]", "$[0]: expected an object"),
        ('{"alert_info_list": [{}]}', "$.alert_info_list[0].watch_entity"),
        (
            '{"alert_info_list": [], "alert_info_list": [5]}',
            "the key is repeated with another value",
        ),
    ],
)
async def test_alerts_that_cannot_be_decoded_are_refused_for_good(body, problem):
    async with (
        serve_alert_channel(verifier(), Inbox()) as server,
        dial(server.url) as connection,
    ):
        await connection.send(f'{{"id": "1", "body": {body}}}')
        told = await answer(connection)
        assert told["status"] == 400
        assert problem in told["body"]["error_data"]
        assert (await ask(connection, alert(1)))["status"] == 200


async def test_a_frame_may_be_binary_and_in_the_examples_form():
    inbox = Inbox()
    body = json.dumps([dict(alert(1).raw)])
    async with (
        serve_alert_channel(verifier(), inbox) as server,
        dial(server.url) as connection,
    ):
        await connection.send(f'{{"id": "1", "body": {body}}}'.encode())
        assert (await answer(connection))["status"] == 200
    assert inbox == [1]


async def test_a_frame_above_the_limit_closes_the_connection():
    async with (
        serve_alert_channel(verifier(max_body=1000), Inbox()) as server,
        dial(server.url) as connection,
    ):
        await connection.send("x" * 1257)
        assert await close_code(connection) == 1009


# ------------------------------------------------------------------------ handling
async def test_only_failed_alerts_are_handled_again(caplog):
    inbox = Inbox()

    async def handler(alert):
        await inbox(alert)
        if len(inbox) == 2:
            raise ValueError("not this one")

    async with (
        serve_alert_channel(verifier(), handler) as server,
        dial(server.url) as connection,
    ):
        told = await ask(connection, *(alert(n) for n in range(3)))
        assert told["status"] == 500
        assert told["body"]["error_data"] == "an alert was not handled"
        told = await ask(connection, *(alert(n) for n in range(3)))
        assert told["status"] == 200
    assert inbox == [0, 1, 2, 1]
    assert "not this one" in caplog.text


async def test_a_duplicate_waits_for_the_call_that_another_connection_started():
    gate = Gate()
    async with serve_alert_channel(verifier(), gate) as server:
        async with dial(server.url) as first:
            lost = asyncio.create_task(ask(first, alert(1)))
            await gate.entered.reach(1)
        async with dial(server.url) as second:
            asking = asyncio.create_task(ask(second, alert(1)))
            await (await second.ping())
            gate.let_on.set()
            assert (await asking)["status"] == 200
        with pytest.raises(ConnectionClosed):
            await lost
    assert gate.entered == gate.done == [1]


async def test_the_same_event_from_two_apps_is_two_alerts():
    inbox = Inbox()
    guard = RequestVerifier({APP_ID: [SECRET], "other": ["its own"]}, path=PATH)
    async with serve_alert_channel(guard, inbox) as server:
        for headers in (signed(), signed(app_id="other", secret="its own")):
            async with dial(server.url, headers) as connection:
                await ask(connection, alert(1))
    assert inbox == [1, 1]


async def test_a_plain_function_runs_in_a_worker_thread():
    threads = []

    def handler(alert):
        threads.append(threading.current_thread())

    async with (
        serve_alert_channel(verifier(), handler) as server,
        dial(server.url) as connection,
    ):
        assert (await ask(connection, alert(1)))["status"] == 200
    assert threads[0] is not threading.current_thread()


async def test_a_plain_function_may_return_an_awaitable():
    inbox = Inbox()

    def handler(alert):
        return inbox(alert)

    async with (
        serve_alert_channel(verifier(), handler) as server,
        dial(server.url) as connection,
    ):
        assert (await ask(connection, alert(1)))["status"] == 200
    assert inbox == [1]


async def test_an_object_with_an_async_call_runs_on_the_event_loop():
    class Handler:
        async def __call__(self, alert):
            assert threading.current_thread() is threading.main_thread()

    class Plain:
        def __call__(self, alert):
            assert threading.current_thread() is not threading.main_thread()

    for handler in (Handler(), Plain()):
        async with (
            serve_alert_channel(verifier(), handler) as server,
            dial(server.url) as connection,
        ):
            assert (await ask(connection, alert(1)))["status"] == 200


async def test_an_inbox_can_use_an_existing_store():
    taken, handled = Inbox(), MemoryHandled()
    handled.resolve(APP_ID, alert(1).dedupe_key(APP_ID), None)
    async with (
        serve_alert_channel(verifier(), taken, inbox=AlertInbox(handled)) as server,
        dial(server.url) as connection,
    ):
        assert (await ask(connection, alert(1), alert(2)))["status"] == 200
    assert taken == [2]
    assert handled.claim(APP_ID, alert(2).dedupe_key(APP_ID)).state == "handled"


@pytest.mark.parametrize("first", ["HTTP", "WebSocket"])
async def test_an_alert_over_http_and_websocket_at_once_is_handled_once(first):
    gate, inbox, guard = Gate(), AlertInbox(), verifier(method="POST")
    app = alert_app(guard, gate, inbox=inbox)
    async with (
        serve_alert_channel(guard, gate, inbox=inbox) as server,
        dial(server.url) as connection,
        httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client,
    ):

        async def over_http() -> int:
            return (await post(client, alert(1))).status_code

        async def over_websocket() -> int:
            return (await ask(connection, alert(1)))["status"]

        ways = [over_http, over_websocket]
        if first == "WebSocket":
            ways.reverse()
        tasks = [asyncio.create_task(ways[0]())]
        await gate.entered.reach(1)
        tasks.append(asyncio.create_task(ways[1]()))
        await anyio.wait_all_tasks_blocked()
        await (await connection.ping())  # what was sent has arrived
        assert not any(task.done() for task in tasks)
        gate.let_on.set()
        assert await asyncio.gather(*tasks) == [200, 200]
    assert gate.entered == gate.done == [1]


async def test_closing_a_channel_does_not_cancel_calls_of_an_app():
    gate, inbox, guard = Gate(), AlertInbox(), verifier(method="POST")
    app = alert_app(guard, gate, inbox=inbox)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        async with serve_alert_channel(guard, gate, inbox=inbox, close_within=0):
            posting = asyncio.create_task(post(client, alert(1)))
            await gate.entered.reach(1)
        gate.let_on.set()
        assert (await posting).status_code == 200
    assert gate.done == [1]


async def post(client: httpx.AsyncClient, *alerts: AlertInfo) -> httpx.Response:
    body = encode_alerts(alerts)
    stamp = milliseconds(0)
    headers = headers_for(body, method="POST", path=PATH, timestamp=stamp)
    return await client.post("http://bus" + PATH, content=body, headers=headers)


async def test_a_slow_handler_keeps_the_connection_alive():
    gate = Gate()
    async with (
        serve_alert_channel(verifier(), gate) as server,
        dial(server.url) as connection,
    ):
        for n in range(20):
            await connection.send(
                json.dumps({"id": str(n), "body": [dict(alert(n).raw)]})
            )
        await gate.entered.reach(1)
        async with asyncio.timeout(WITHIN):
            await (await connection.ping())
        gate.let_on.set()
        told = [await answer(connection) for _ in range(20)]
    assert [each["id"] for each in told] == [str(n) for n in range(20)]
    assert gate.done == list(range(20))


async def test_a_sender_that_answers_no_ping_is_dropped():
    async with serve_alert_channel(verifier(), Inbox(), ping_every=0.05) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        lines = [f"{name}: {value}" for name, value in signed().items()]
        upgrade = ["Upgrade: websocket", "Connection: Upgrade"]
        key = ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + "A" * 22 + "=="]
        head = [f"GET {PATH} HTTP/1.1", "Host: x", *upgrade, *key, *lines]
        writer.write("\r\n".join([*head, "", ""]).encode())
        async with asyncio.timeout(WITHIN):
            said = await reader.read()  # until it hangs up
        writer.close()
    assert said.startswith(b"HTTP/1.1 101 ")


# ------------------------------------------------------------------------- revoked
async def test_a_connection_ends_at_the_next_frame_when_its_secret_is_revoked(caplog):
    secrets, inbox = {APP_ID: [SECRET, "another"]}, Inbox()
    guard = RequestVerifier(secrets.get, path=PATH)
    async with (
        serve_alert_channel(guard, inbox) as server,
        dial(server.url) as connection,
        dial(server.url, signed(secret="another")) as other,
    ):
        assert (await ask(connection, alert(1)))["status"] == 200
        secrets[APP_ID] = ["another"]
        await connection.send(json.dumps({"id": "2", "body": [dict(alert(2).raw)]}))
        assert await close_code(connection) == 1008
        assert (await ask(other, alert(3)))["status"] == 200
        secrets.clear()
        await other.send(json.dumps({"id": "4", "body": [dict(alert(4).raw)]}))
        assert await close_code(other) == 1008
        with pytest.raises(InvalidStatus):
            await dial(server.url)
    assert inbox == [1, 3]
    assert f"of app {APP_ID}: the secret has been revoked" in caplog.text


async def test_an_idle_connection_ends_when_its_secret_is_revoked():
    secrets = {APP_ID: [SECRET]}
    guard = RequestVerifier(secrets.get, path=PATH)
    async with (
        serve_alert_channel(guard, Inbox(), ping_every=0.05) as server,
        dial(server.url) as connection,
    ):
        assert (await ask(connection, alert(1)))["status"] == 200
        secrets.clear()
        assert await close_code(connection) == 1008


async def test_a_connection_whose_secret_cannot_be_checked_is_closed(caplog):
    secrets, inbox = {APP_ID: [SECRET]}, Inbox()

    def look_up(app_id):
        if not secrets:
            raise RuntimeError("the database is away")
        return secrets[app_id]

    guard = RequestVerifier(look_up, path=PATH)
    async with (
        serve_alert_channel(guard, inbox) as server,
        dial(server.url) as connection,
    ):
        assert (await ask(connection, alert(1)))["status"] == 200
        secrets.clear()
        await connection.send(json.dumps({"id": "2", "body": [dict(alert(2).raw)]}))
        assert await close_code(connection) == 1013
    assert inbox == [1]
    assert "the database is away" in caplog.text


# --------------------------------------------------------------- outcomes in answers
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RejectAlert("unknown chain"), (422, "unknown chain", None)),
        (RetryAlert(30), (503, "try again later", 30)),
    ],
)
async def test_what_a_handler_raises_is_in_the_answer(error, expected):
    async def handler(alert):
        assert alert.app_id == APP_ID
        raise error

    async with (
        serve_alert_channel(verifier(), handler) as server,
        dial(server.url) as connection,
    ):
        told = await ask(connection, alert(1))
    reason = told["body"]["error_data"]
    assert (told["status"], reason, told.get("retry_after")) == expected


# ------------------------------------------------------------------------- closing
async def test_closing_waits_for_a_running_call_and_acknowledges_it():
    gate = Gate()
    async with asyncio.timeout(WITHIN):
        leaving = asyncio.Event()

        async def serving():
            async with serve_alert_channel(verifier(), gate) as server:
                urls.append(server.url)
                ready.set()
                await leaving.wait()

        urls, ready = [], asyncio.Event()
        task = asyncio.create_task(serving())
        await ready.wait()
        async with dial(urls[0]) as busy, dial(urls[0]) as idle:
            asking = asyncio.create_task(ask(busy, alert(1)))
            await gate.entered.reach(1)
            await busy.send(json.dumps({"id": "2", "body": [dict(alert(2).raw)]}))
            leaving.set()
            assert await close_code(idle) == 1001
            with pytest.raises(OSError):
                await dial(urls[0])
            assert not task.done()
            gate.let_on.set()
            assert (await asking)["status"] == 200
            assert await close_code(busy) == 1001
        await task
    assert gate.done == [1]  # the second one is sent again to whoever comes next


async def test_closing_cancels_a_call_that_takes_too_long(caplog):
    entered, cancelled = Inbox(), Inbox()

    async def handler(alert):
        await entered(alert)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await cancelled(alert)
            raise

    before = asyncio.all_tasks()
    async with asyncio.timeout(WITHIN):
        async with serve_alert_channel(
            verifier(), handler, close_within=0.05
        ) as server:
            connection = await dial(server.url)
            await connection.send(json.dumps({"id": "1", "body": [dict(alert(1).raw)]}))
            await entered.reach(1)
        await connection.close()
    assert cancelled == [1]
    assert "more than 0.05 s" in caplog.text
    assert asyncio.all_tasks() == before


async def test_closing_waits_for_a_call_in_a_thread(caplog):
    entered, release, done = asyncio.Event(), threading.Event(), []
    loop = asyncio.get_running_loop()

    def handler(alert):
        loop.call_soon_threadsafe(entered.set)
        release.wait(WITHIN)
        done.append(alert)

    async def serving():
        async with (
            serve_alert_channel(verifier(), handler, close_within=0) as server,
            dial(server.url) as connection,
        ):
            frame = {"id": "1", "body": [dict(alert(1).raw)]}
            await connection.send(json.dumps(frame))
            await entered.wait()

    async with asyncio.timeout(WITHIN):
        task = asyncio.create_task(serving())
        while "cancelling it" not in caplog.text:
            await asyncio.sleep(0)
        await anyio.wait_all_tasks_blocked()
        assert not task.done()
        release.set()
        await task
    assert len(done) == 1


async def test_cancellation_while_serving_leaves_no_task():
    gate = Gate()
    ready, urls = asyncio.Event(), []

    async def serving():
        async with serve_alert_channel(verifier(), gate, close_within=0.05) as server:
            urls.append(server.url)
            ready.set()
            await asyncio.Event().wait()

    before = asyncio.all_tasks()
    async with asyncio.timeout(WITHIN):
        task = asyncio.create_task(serving())
        await ready.wait()
        connection = await dial(urls[0])
        asking = asyncio.create_task(ask(connection, alert(1)))
        await gate.entered.reach(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait([asking])
        asking.exception()
        await connection.close()
    assert asyncio.all_tasks() == before
    assert gate.done == []


# ----------------------------------------------------------------------- arguments
@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_the_method_of_the_verifier_does_not_matter(method):
    async with (
        serve_alert_channel(verifier(method=method), Inbox()) as server,
        dial(server.url) as connection,
    ):
        assert (await ask(connection, alert(1)))["status"] == 200


async def test_a_port_that_is_taken_is_an_error_of_this_library():
    async with serve_alert_channel(verifier(), Inbox()) as server:
        with pytest.raises(OrtegeWatchError, match=str(server.port)) as caught:
            async with serve_alert_channel(verifier(), Inbox(), port=server.port):
                pass
    assert isinstance(caught.value.__cause__, OSError)


async def test_the_url_reflects_tls_and_ipv6():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    async with serve_alert_channel(verifier(), Inbox(), ssl=context) as server:
        assert server.url == f"wss://127.0.0.1:{server.port}{PATH}"
    try:
        async with serve_alert_channel(verifier(), Inbox(), host="::1") as server:
            assert server.url == f"ws://[::1]:{server.port}{PATH}"
    except OrtegeWatchError:
        pytest.skip("this machine has no IPv6")


@pytest.mark.parametrize("host", ["\x00", "\ud800", "a" * 64 + ".example"])
async def test_a_host_that_cannot_exist_cannot_be_listened_on(host):
    with pytest.raises(OrtegeWatchError, match="cannot listen on"):
        async with serve_alert_channel(verifier(), Inbox(), host=host):
            pass
