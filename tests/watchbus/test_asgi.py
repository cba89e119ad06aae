"""The application receives alerts over real sockets, alone and mounted."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial

import anyio
import httpx
import pytest
from attrs import evolve
from channels import Gate
from driving import UnixClock
from fastapi import FastAPI
from serving import served
from signed import APP_ID, PATH, SECRET, alert_body, alert_object, headers_for
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from ortege_watch import OrtegeWatchError
from ortege_watch.watchbus import (
    AlertInbox,
    AlertInfo,
    MemoryHandled,
    RejectAlert,
    RequestVerifier,
    RetryAlert,
    SQLiteHandled,
    SQLiteNonces,
    alert_app,
)

BODY = alert_body()


def verifier(**changes: object) -> RequestVerifier:
    return RequestVerifier({APP_ID: [SECRET]}, **{"path": PATH, **changes})


def now_headers(body: bytes = BODY, **changes: object) -> dict[str, str]:
    return headers_for(body, **{"timestamp": int(time.time() * 1000), **changes})


def post(client: httpx.Client, body: bytes = BODY, **changes: object) -> httpx.Response:
    """Send a signed request."""
    path = changes.pop("path", PATH)
    headers = now_headers(body, **changes)
    return client.post(path, content=body, headers=headers)


def envelope(answer: httpx.Response) -> tuple[int, str, str, str | None]:
    """Take an answer apart; it is always the documented envelope."""
    assert answer.headers["content-type"] == "application/json;charset=UTF-8"
    content = answer.json()
    assert content["data"] is None
    reason = content.get("error_data")
    return answer.status_code, content["status"], content["code"], reason


OK = (200, "OK", "000000000", None)


@pytest.fixture
def alerts() -> list[AlertInfo]:
    return []


def test_a_plain_handler_gets_each_alert(alerts):
    threads = set()

    def handler(alert: AlertInfo) -> None:
        threads.add(threading.current_thread().name)
        alerts.append(alert)

    objects = [alert_object(timestamp=n) for n in (3, 1, 2)]
    with served(alert_app(verifier(), handler)) as client:
        assert envelope(post(client, alert_body(*objects))) == OK
    assert [alert.raw for alert in alerts] == objects
    assert all("worker" in name for name in threads)  # not on the event loop


def test_an_async_handler_is_awaited(alerts):
    async def handler(alert: AlertInfo) -> None:
        await anyio.lowlevel.checkpoint()
        alerts.append(alert)

    class Handler:
        async def __call__(self, alert: AlertInfo) -> None:
            await handler(alert)

    for each in (handler, partial(handler), Handler()):
        with served(alert_app(verifier(), each)) as client:
            assert envelope(post(client)) == OK
    assert len(alerts) == 3


# ---------------------------------------------------------------------------- mounted
def by_starlette_mount(app: object) -> object:
    return Starlette(routes=[Mount("/api/v1", app=app)])


def by_starlette_route(app: object) -> object:
    return Starlette(routes=[Route(PATH, app)])


def by_nested_mounts(app: object) -> object:
    inner = Starlette(routes=[Mount("/v1", app=app)])
    return Starlette(routes=[Mount("/api", app=inner)])


def by_fastapi_mount(app: object) -> object:
    outer = FastAPI()
    outer.mount("/api", app)
    return outer


def by_fastapi_route(app: object) -> object:
    outer = FastAPI()
    outer.add_route(PATH, app, methods=["POST"])
    return outer


@pytest.mark.parametrize(
    "mounted",
    [
        by_starlette_mount,
        by_starlette_route,
        by_nested_mounts,
        by_fastapi_mount,
        by_fastapi_route,
    ],
)
def test_a_mounted_app_verifies_the_whole_path(mounted, alerts):
    with served(mounted(alert_app(verifier(), alerts.append))) as client:
        assert envelope(post(client)) == OK
        assert post(client, path="/api/v1/watch/other").status_code == 404
        assert client.post("/watch/alert", content=BODY).status_code == 404
    assert len(alerts) == 1


def test_a_mount_at_the_whole_path_is_redirected_by_the_framework(alerts):
    app = alert_app(verifier(), alerts.append)
    outer = FastAPI()
    outer.mount(PATH, app)
    for mounted in (Starlette(routes=[Mount(PATH, app)]), outer):
        with served(mounted) as client:
            assert post(client).status_code == 307  # as the docs say


def test_another_path_is_logged_with_the_one_that_is_expected(alerts, caplog):
    with served(alert_app(verifier(), alerts.append)) as client:
        assert post(client, path="/api/alert").status_code == 404
    problem = "the path of the request is '/api/alert'; path= is '/api/v1/watch/alert'"
    assert f"request refused: app {APP_ID!r}, POST /api/alert from " in caplog.text
    assert f": {problem}" in caplog.text


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({"app_id": "a stranger\nERROR"}, "an invalid app id, POST"),
        ({"app_id": "x" * 101}, "an invalid app id, POST"),
        ({"app_id": "stranger"}, "app 'stranger', POST"),
        ({"secret": "other"}, f"app {APP_ID!r}, POST"),
    ],
)
async def test_a_refused_request_is_logged_with_app_and_path(headers, named, caplog):
    signed = now_headers(**headers)
    pairs = [(k.lower().encode(), v.encode()) for k, v in signed.items()]
    app = alert_app(verifier(), print)
    # As behind a mount that removes its prefix from the path.
    mounted = scope_of(headers=pairs, path="/alert", root_path="/api/v1/watch")
    await call(app, mounted, request())
    assert f"request refused: {named} {PATH}: " in caplog.text
    if "secret" in headers:
        assert "a proxy may have changed the path or the body" in caplog.text


async def test_a_websocket_without_a_channel_is_logged(caplog):
    app = alert_app(verifier(), print)
    sent = await call(app, scope_of(type="websocket"))
    assert sent == [{"type": "websocket.close", "code": 1008}]
    assert "WebSocket refused: pass channel=True to alert_app" in caplog.text


async def test_debug_lines_tell_what_became_of_alerts(caplog):
    caplog.set_level(logging.DEBUG, "ortege_watch")
    app = alert_app(verifier(), lambda alert: None)
    with served(app) as client:
        for line in ("alert handled: ", "duplicate, handled before: "):
            assert envelope(post(client)) == OK
            assert line + "big_amount_txn_usd at 0x" in caplog.text


@pytest.mark.parametrize(
    ("client", "shown"),
    [(("203.0.113.7", 4711), " from 203.0.113.7: "), (None, ": "), (("", 0), ": ")],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_refused_request_is_logged_with_the_address_that_sent_it(
    client, shown, kind, caplog
):
    scope = scope_of(path="/other", type=kind, client=client)
    messages = [request()] if kind == "http" else []
    await call(alert_app(verifier(), print), scope, *messages)
    method = "POST" if kind == "http" else "WebSocket"
    line = f"app '{APP_ID}', {method} /other{shown}"
    assert line in caplog.text or caplog.text.rstrip().endswith(line[:-2])


def test_a_prefix_that_a_proxy_removes_is_set_as_root_path(alerts):
    app = alert_app(verifier(), alerts.append)
    with served(app, root_path="/api/v1") as client:
        headers = now_headers()
        answer = client.post("/watch/alert", content=BODY, headers=headers)
        assert envelope(answer) == OK
    assert len(alerts) == 1


# ---------------------------------------------------------------------------- refused
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"timestamp": 1}, (401, "ERROR", "000005", "timestamp is expired")),
        ({"timestamp": "soon"}, (401, "ERROR", "000005", "timestamp has illegal")),
        ({"nonce": "nonce"}, (401, "ERROR", "000005", "nonce is illegal")),
        ({"app_id": "nobody"}, (401, "ERROR", "000003", "invalid appid")),
        ({"secret": "another"}, (401, "ERROR", "000005", "invalid signature")),
    ],
)
def test_a_refused_request_has_the_documented_answer(changes, expected, alerts):
    with served(alert_app(verifier(), alerts.append)) as client:
        assert envelope(post(client, **changes)) == expected
    assert alerts == []


def test_requests_of_another_kind_are_answered_with_the_envelope(alerts):
    with served(alert_app(verifier(max_body=10_000), alerts.append)) as client:
        unsigned = client.post(PATH, content=BODY)
        assert envelope(unsigned)[:3] == (401, "ERROR", "000004")
        answer = client.get(PATH)
        assert envelope(answer)[:3] == (405, "ERROR", "000001")
        assert answer.headers["allow"] == "POST"
        assert envelope(client.get("/elsewhere"))[0] == 404
        assert envelope(post(client, path="/elsewhere"))[0] == 404
        assert envelope(post(client, path=PATH + "?a=1"))[:3] == (
            400,
            "ERROR",
            "000005",
        )
        assert envelope(post(client, b"x" * 10_001))[:3] == (413, "ERROR", "000001")
        assert envelope(post(client)) == OK  # and it goes on
    assert len(alerts) == 1


def test_an_endless_body_is_not_buffered(alerts):
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b"x" * 1000

    with served(alert_app(verifier(max_body=10_000), alerts.append)) as client:
        # The server answers and closes; whether the answer is read is up to the client.
        with contextlib.suppress(httpx.TransportError):
            answer = client.post(PATH, content=chunks(), headers=now_headers())
            assert answer.status_code == 413
        assert sent > 10
        assert envelope(post(client)) == OK


def test_a_signed_body_that_cannot_be_decoded_is_answered_with_the_path(alerts):
    body = alert_body(alert_object(chain_id=True))
    with served(alert_app(verifier(), alerts.append)) as client:
        status, _, code, reason = envelope(post(client, body))
        assert (status, code) == (400, "000001")
        assert reason.startswith("$.alert_info_list[0].chain_id: ")
        assert envelope(post(client, b""))[0] == 400
    assert alerts == []


def test_a_replay_is_refused(alerts):
    with served(alert_app(verifier(), alerts.append)) as client:
        headers = now_headers()
        assert envelope(client.post(PATH, content=BODY, headers=headers)) == OK
        again = client.post(PATH, content=BODY, headers=headers)
        assert envelope(again) == (401, "ERROR", "000005", "replay request")


# ----------------------------------------------------------------------- handled once
def test_only_failed_alerts_are_handled_again_over_http(caplog):
    failing, called = {2}, []

    def handler(alert: AlertInfo) -> None:
        called.append(alert.timestamp)
        if alert.timestamp in failing:
            raise RuntimeError("the database is away")

    body = alert_body(*(alert_object(timestamp=n) for n in (1, 2, 3)))
    with served(alert_app(verifier(), handler)) as client:
        assert envelope(post(client, body))[:3] == (500, "ERROR", "000001")
        assert called == [1, 2, 3]  # one that fails holds up no other
        assert "the database is away" in caplog.text
        assert envelope(post(client, body))[0] == 500
        assert called == [1, 2, 3, 2]
        failing.clear()
        assert envelope(post(client, body)) == OK
        assert envelope(post(client, body)) == OK
        assert called == [1, 2, 3, 2, 2]
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("error", "expected", "retry_after"),
    [
        (RejectAlert("unknown chain"), (422, "unknown chain"), None),
        (RetryAlert(after=2.5), (503, "try again later"), "3"),
        (ValueError(), (500, "an alert was not handled"), None),
    ],
)
def test_what_a_handler_raises_decides_the_response(error, expected, retry_after):
    def handler(alert: AlertInfo) -> None:
        assert alert.app_id == APP_ID
        raise error

    with served(alert_app(verifier(), handler)) as client:
        answer = post(client)
    status, word, code, reason = envelope(answer)
    assert ((status, reason), word, code) == (expected, "ERROR", "000001")
    assert answer.headers.get("retry-after") == retry_after


async def test_a_duplicate_waits_for_the_request_that_is_handling_the_alert():
    gate = Gate()
    app = alert_app(verifier(), gate)
    first = asyncio.create_task(call(app, scope_of(), request()))
    await gate.entered.reach(1)
    second = asyncio.create_task(call(app, scope_of(), request()))
    await anyio.wait_all_tasks_blocked()
    assert not second.done()
    gate.let_on.set()
    for start, _ in (await first, await second):
        assert start["status"] == 200
    assert len(gate.done) == 1


def test_handled_alerts_can_be_kept_across_restarts(alerts):
    handled = MemoryHandled()
    for _ in range(2):  # the program starts twice
        app = alert_app(verifier(), alerts.append, inbox=AlertInbox(handled))
        with served(app) as client:
            assert envelope(post(client)) == OK
    assert len(alerts) == 1
    assert handled.claim(APP_ID, alerts[0].dedupe_key(APP_ID)).state == "handled"


def test_an_alert_whose_key_cannot_be_stored_is_to_be_retried(alerts, caplog):
    class Away(MemoryHandled):
        def resolve(self, app_id: str, key: str, reason: str | None) -> None:
            raise OSError("the disk is full")

    app = alert_app(verifier(), alerts.append, inbox=AlertInbox(Away()))
    with served(app) as client:
        answer = post(client)
    assert envelope(answer) == (503, "ERROR", "000001", "try again")
    assert answer.headers["retry-after"] == "5"
    assert "the store of handled alerts (Away) failed" in caplog.text


# ----------------------------------------------------------------------------- nonces
async def test_a_broken_store_of_nonces_is_answered_with_the_envelope(alerts, caplog):
    class Broken:
        def record(self, app_id, nonce, now, until):
            raise RuntimeError("the disk is full")

    app = alert_app(verifier(nonces=Broken()), alerts.append)
    start, body = await call(app, scope_of(), request())
    assert start["status"] == 503
    assert json.loads(body["body"])["error_data"] == "try again"
    assert "the disk is full" in caplog.text
    assert alerts == []


# ---------------------------------------------------------------------------- secrets
def test_secrets_from_a_function_are_looked_up_in_a_thread(alerts, caplog):
    apps, threads = {}, set()

    def find(app_id: str) -> list[str] | None:
        threads.add(threading.current_thread().name)
        return apps[app_id] and [apps[app_id]]

    made = RequestVerifier(find, path=PATH)
    with served(alert_app(made, alerts.append)) as client:
        assert envelope(post(client))[0] == 503
        assert "KeyError" in caplog.text
        apps[APP_ID] = None
        assert envelope(post(client))[2:] == ("000003", "invalid appid")
        apps[APP_ID] = SECRET
        assert envelope(post(client)) == OK
    assert len(alerts) == 1
    assert all("worker" in name for name in threads)


async def test_secrets_that_hang_for_one_app_delay_no_other(alerts):
    release = threading.Event()

    def find(app_id: str) -> list[str]:
        if app_id == "hangs":
            assert release.wait(60)
        return [SECRET]

    app = alert_app(RequestVerifier(find, path=PATH), alerts.append)
    headers = now_headers(app_id="hangs").items()
    listed = [(name.lower().encode(), value.encode()) for name, value in headers]
    stuck = [Upload(app, scope_of(headers=listed)) for _ in range(200)]
    async with anyio.create_task_group() as tasks:
        for each in stuck:
            each.arrive(BODY, more=False)
            tasks.start_soon(each.run)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(20):
            start, _ = await call(app, scope_of(), request())
        assert start["status"] == 200
        release.set()
    # Only one of them: the others are replays.
    assert sorted(each.status for each in stuck) == [200] + [401] * 199


def test_nonces_in_a_file_hold_after_a_restart(tmp_path, alerts):
    headers = now_headers()
    for expected in (200, 401):
        with SQLiteNonces(tmp_path / "nonces.sqlite") as nonces:
            app = alert_app(verifier(nonces=nonces), alerts.append)
            with served(app) as client:
                answer = client.post(PATH, content=BODY, headers=headers)
                assert answer.status_code == expected


def test_without_its_nonce_store_it_refuses_and_asks_for_a_retry(
    tmp_path, alerts, caplog
):
    nonces = SQLiteNonces(tmp_path / "nonces.sqlite")
    nonces.close()
    with served(alert_app(verifier(nonces=nonces), alerts.append)) as client:
        assert envelope(post(client)) == (503, "ERROR", "000001", "try again")
    assert alerts == []
    assert "closed database" in caplog.text


# ------------------------------------------------------------------ without a server
Serve = Callable[..., list[dict[str, object]]]


async def call(app: object, scope: dict[str, object], *messages: object) -> list:
    """Call an application as a server would; give what it sent."""
    waiting, sent = list(messages), []

    async def receive() -> object:
        return waiting.pop(0)

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    assert waiting == []
    return sent


def scope_of(**changes: object) -> dict[str, object]:
    headers = [(n.lower().encode(), v.encode()) for n, v in now_headers().items()]
    scope = {"type": "http", "method": "POST", "path": PATH, "headers": headers}
    return {**scope, **changes}


def request(body: bytes = BODY) -> dict[str, object]:
    return {"type": "http.request", "body": body, "more_body": False}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"root_path": "/api", "path": PATH, "query_string": b""},
        {"root_path": "/api", "path": "/v1/watch/alert"},  # the prefix is cut off
        {"path": "/cut", "raw_path": PATH.encode()},
        {"raw_path": None},
    ],
)
async def test_the_path_is_found_however_a_framework_gives_it(changes, alerts):
    app = alert_app(verifier(), alerts.append)
    start, _ = await call(app, scope_of(**changes), request())
    assert start["status"] == 200
    assert len(alerts) == 1


PIECE = 256 * 1024


async def peak_of(app: object, scope: dict[str, object], count: int) -> tuple:
    """Send a body in pieces; give the answer, the peak of memory, and what was read."""
    read, sent = 0, []

    async def receive() -> object:
        nonlocal read
        read += 1
        return {
            "type": "http.request",
            "body": bytes(PIECE),
            "more_body": read < count,
        }

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    tracemalloc.start()
    await app(scope, receive, send)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return sent[0], peak, read


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"X-Signature-signature": None}, 401),
        ({"X-Signature-appid": "nobody"}, 401),
        ({"X-Signature-timestamp": "1"}, 401),
        ({"X-Signature-nonce": "nonce"}, 401),
        ({"Content-Length": str(40 * PIECE)}, 413),
    ],
)
async def test_a_request_that_its_headers_refuse_is_drained_and_not_stored(
    changes, status, alerts
):
    headers = {**now_headers(), **changes}
    listed = [(n.lower().encode(), v.encode()) for n, v in headers.items() if v]
    app = alert_app(verifier(max_body=30 * PIECE), alerts.append)
    start, peak, read = await peak_of(app, scope_of(headers=listed), 20)
    assert start["status"] == status
    assert read == 20  # a client that has sent everything reads the response
    assert peak < 10 * PIECE
    assert (b"connection", b"close") not in start["headers"]


@pytest.mark.parametrize("changes", [{"method": "GET"}, {"path": "/elsewhere"}])
async def test_a_request_of_another_kind_is_drained_and_not_stored(changes, alerts):
    app = alert_app(verifier(max_body=30 * PIECE), alerts.append)
    start, peak, read = await peak_of(app, scope_of(**changes), 20)
    assert start["status"] in {404, 405}
    assert (read, peak < 10 * PIECE) == (20, True)


@pytest.mark.parametrize(("version", "closed"), [("1.1", True), ("2", False)])
async def test_an_endless_body_is_drained_up_to_a_limit(version, closed, alerts):
    app = alert_app(verifier(max_body=PIECE), alerts.append)
    scope = scope_of(http_version=version)
    start, peak, read = await peak_of(app, scope, 1_000_000)
    assert start["status"] == 413
    assert read * PIECE < 20 * 1024 * 1024
    assert peak < 10 * PIECE
    assert ((b"connection", b"close") in start["headers"]) == closed


@pytest.mark.parametrize(
    ("changes", "status"), [({}, 408), ({"path": "/elsewhere"}, 404)]
)
async def test_a_body_must_arrive_in_time(changes, status, alerts, caplog):
    sent, pieces = [], [{"type": "http.request", "body": b"[", "more_body": True}]

    async def receive() -> object:
        return pieces.pop() if pieces else await anyio.sleep_forever()

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    app = alert_app(verifier(), alerts.append, read_within=0.05)
    with anyio.fail_after(10):
        await app(scope_of(**changes), receive, send)
    assert sent[0]["status"] == status
    assert (b"connection", b"close") in sent[0]["headers"]
    assert json.loads(sent[1]["body"])["status"] == "ERROR"
    assert "refused" in caplog.text


async def test_a_request_that_becomes_too_old_while_its_body_arrives_is_refused(alerts):
    sent, clock = [], UnixClock()

    async def receive() -> object:
        clock.now += 301
        return request()

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    headers = headers_for(BODY, timestamp=int(clock.now * 1000))
    listed = [(name.encode(), value.encode()) for name, value in headers.items()]
    app = alert_app(verifier(clock=clock), alerts.append)
    await app(scope_of(headers=listed), receive, send)
    assert sent[0]["status"] == 401
    assert json.loads(sent[1]["body"])["error_data"] == "timestamp is expired"
    assert alerts == []


def test_the_secrets_of_a_request_are_found_once(alerts):
    asked = []

    def find(app_id: str) -> list[str]:
        asked.append(app_id)
        return [SECRET]

    made = RequestVerifier(find, path=PATH)
    with served(alert_app(made, alerts.append)) as client:
        assert envelope(post(client)) == OK
        assert asked == [APP_ID]
        assert envelope(post(client, secret="another"))[0] == 401
    assert asked == [APP_ID, APP_ID]
    assert len(alerts) == 1


class Upload:
    """A request whose body arrives when the test says so."""

    def __init__(self, app: object, scope: dict[str, object]) -> None:
        self.reads = 0
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._pieces: asyncio.Queue[object] = asyncio.Queue()
        self._call = partial(app, scope, self._receive, self._answer)

    async def run(self) -> None:
        await self._call()

    def arrive(self, body: bytes, *, more: bool) -> None:
        message = {"type": "http.request", "body": body, "more_body": more}
        self._pieces.put_nowait(message)

    async def _receive(self) -> object:
        self.reads += 1
        return await self._pieces.get()

    async def _answer(self, message: dict[str, object]) -> None:
        if "status" in message:
            self.status, self.headers = message["status"], message["headers"]


LARGE = alert_body(*[alert_object(timestamp=n) for n in range(500)])
HALF = len(LARGE) // 2


@pytest.mark.parametrize("says_length", [False, True])
async def test_few_large_bodies_are_in_memory_at_once_and_small_ones_do_not_wait(
    says_length, alerts
):
    waiting = 0 if says_length else 1
    app = alert_app(verifier(), alerts.append, large_bodies=2)
    uploads = []
    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            given = now_headers(LARGE)
            if says_length:
                given["Content-Length"] = str(len(LARGE))
            headers = [(n.lower().encode(), v.encode()) for n, v in given.items()]
            uploads.append(each := Upload(app, scope_of(headers=headers)))
            for piece in (LARGE[:HALF], LARGE[HALF : HALF + 1]):
                each.arrive(piece, more=True)
            tasks.start_soon(each.run)
        await anyio.wait_all_tasks_blocked()
        assert [each.reads for each in uploads] == [3] * 2 + [waiting] * 8
        start, _ = await call(app, scope_of(), request())
        assert start["status"] == 200
        uploads[0].arrive(LARGE[HALF + 1 :], more=False)
        with anyio.fail_after(20):
            while uploads[0].status == 0 or uploads[2].reads < 3:
                await anyio.wait_all_tasks_blocked()
        assert [each.reads for each in uploads[1:]] == [3] * 2 + [waiting] * 7
        for each in uploads[1:]:
            each.arrive(LARGE[HALF + 1 :], more=False)
    assert [each.status for each in uploads] == [200] * 10
    assert len(alerts) == 501


async def test_a_large_body_that_waits_for_too_long_is_to_be_sent_again(alerts, caplog):
    app = alert_app(verifier(), alerts.append, large_bodies=1)
    headers = [(n.encode(), v.encode()) for n, v in now_headers(LARGE).items()]
    first = Upload(app, scope_of(headers=headers))
    # It shares the places, and only its time passes.
    hasty = Upload(evolve(app, read_within=0.01), scope_of())
    async with anyio.create_task_group() as tasks:
        first.arrive(LARGE[:HALF], more=True)
        tasks.start_soon(first.run)
        await anyio.wait_all_tasks_blocked()
        hasty.arrive(LARGE, more=True)
        hasty.arrive(b"", more=False)
        with anyio.fail_after(20):
            await hasty.run()
        first.arrive(LARGE[HALF:], more=False)
    assert (first.status, hasty.status) == (200, 503)
    assert (b"retry-after", b"5") in hasty.headers
    assert "too many large requests at once" in caplog.text


async def test_a_body_that_stops_to_arrive_is_to_be_sent_again(alerts, caplog):
    app = alert_app(verifier(), alerts.append, read_within=0.01)
    upload = Upload(app, scope_of())
    upload.arrive(LARGE[:HALF], more=True)
    with anyio.fail_after(20):
        await upload.run()
    assert upload.status == 408
    assert "the body did not arrive in time" in caplog.text


def failing_handler(alert: AlertInfo) -> None:
    raise RuntimeError


async def failing_later(alert: AlertInfo) -> None:
    raise RuntimeError


@pytest.mark.parametrize("secret", [SECRET, "another"])
@pytest.mark.parametrize("handler", [failing_handler, failing_later])
@pytest.mark.parametrize("secrets", [{APP_ID: [SECRET]}, lambda _: [SECRET]])
async def test_the_memory_of_a_refused_request_is_free_without_a_garbage_collection(
    secret, handler, secrets, tmp_path, caplog
):
    caplog.set_level(logging.CRITICAL)  # it keeps the tracebacks, which have frames
    size = 200 * 1024
    values = {"comment": "x" * size}
    with (
        SQLiteNonces(tmp_path / "nonces.sqlite") as nonces,
        SQLiteHandled(tmp_path / "handled.sqlite") as handled,
    ):
        made = RequestVerifier(secrets, path=PATH, nonces=nonces)
        app = alert_app(made, handler, inbox=AlertInbox(handled))

        async def send_one(number: int) -> int:
            body = alert_body(alert_object(timestamp=number, event_values=values))
            headers = now_headers(body, secret=secret).items()
            listed = [(name.lower().encode(), v.encode()) for name, v in headers]
            start, _ = await call(app, scope_of(headers=listed), request(body))
            return start["status"]

        expected = 500 if secret == SECRET else 401
        assert await send_one(0) == expected  # what is made once
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            assert [await send_one(n) for n in range(1, 11)] == [expected] * 10
            kept = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
            gc.enable()
    assert kept < 5 * size  # a thread may still have the last one; it was 20


async def test_a_client_that_disconnects_gives_its_place_to_the_next(alerts):
    app = alert_app(verifier(), alerts.append, large_bodies=1)
    pieces = [{"type": "http.request", "body": LARGE[:HALF], "more_body": True}]
    for _ in range(3):
        assert await call(app, scope_of(), *pieces, {"type": "http.disconnect"}) == []


async def test_connections_without_the_secret_cost_little_memory(alerts):
    """Each sends nearly all of a body with a known app id."""
    app = alert_app(verifier(), alerts.append)
    body = bytes(64 * 1024)
    uploads = [Upload(app, scope_of()) for _ in range(200)]
    tracemalloc.start()
    async with anyio.create_task_group() as tasks:
        for each in uploads:
            for _ in range(15):
                each.arrive(body, more=True)
            tasks.start_soon(each.run)
        await anyio.wait_all_tasks_blocked()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        tasks.cancel_scope.cancel()
    assert peak < 64 * 1024 * 1024  # 16 MiB, and 128 KiB of each: it was 190 MiB


async def test_the_pieces_of_a_body_are_joined(alerts):
    app = alert_app(verifier(), alerts.append)
    pieces = [{"type": "http.request", "body": BODY[:50], "more_body": True}]
    start, _ = await call(
        app, scope_of(), *pieces, {"type": "http.request", "body": BODY[50:]}
    )
    assert start["status"] == 200


async def test_a_client_that_disconnects_before_the_end_of_the_body_is_ignored(
    alerts, caplog
):
    app = alert_app(verifier(), alerts.append)
    messages = [{"type": "http.request", "body": BODY, "more_body": True}]
    sent = await call(app, scope_of(), *messages, {"type": "http.disconnect"})
    assert sent == []
    assert alerts == []
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


async def test_a_client_that_disconnects_before_the_response_is_not_an_error(alerts):
    async def receive() -> object:
        return request()

    async def send(_: object) -> None:
        raise BrokenPipeError

    await alert_app(verifier(), alerts.append)(scope_of(), receive, send)
    assert len(alerts) == 1


async def test_lifespan_websocket_and_unknown_asgi_connections():
    app = alert_app(verifier(), print)
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    assert await call(app, {"type": "lifespan"}, *messages) == [
        {"type": "lifespan.startup.complete"},
        {"type": "lifespan.shutdown.complete"},
    ]
    [closed] = await call(app, scope_of(type="websocket"))
    assert closed["type"] == "websocket.close"
    with pytest.raises(OrtegeWatchError, match="'telegraph'"):
        await call(app, {"type": "telegraph"})


async def test_an_alert_whose_handler_was_cancelled_is_handled_again(alerts):
    async def handler(alert: AlertInfo) -> None:
        alerts.append(alert)
        if len(alerts) == 1:
            await anyio.sleep_forever()

    app = alert_app(verifier(), handler)
    with anyio.move_on_after(0.01) as scope:
        await call(app, scope_of(), request())
    assert scope.cancelled_caught
    start, body = await call(app, scope_of(), request())
    assert start["status"] == 200
    assert json.loads(body["body"])["status"] == "OK"
    assert len(alerts) == 2
