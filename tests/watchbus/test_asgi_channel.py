"""An alert channel inside an ASGI application, over real servers and without one."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from channels import (
    CREDENTIALS,
    PATH,
    Gate,
    Inbox,
    alert,
    ask,
    dial,
    number_of,
    signed,
    verifier,
)
from fastapi import FastAPI
from signed import APP_ID, SECRET
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ortege_watch.watchbus import (
    AlertChannel,
    AlertInbox,
    Credentials,
    RejectAlert,
    RequestVerifier,
    WatchBusError,
    alert_app,
)

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def served(app: object, **settings: object) -> AsyncIterator[str]:
    """Serve an application on loopback; give the URL of its channel."""
    listener = socket.create_server(("127.0.0.1", 0))
    options = {"lifespan": "off", "ws": "websockets-sansio", "log_config": None}
    server = uvicorn.Server(uvicorn.Config(app, **{**options, **settings}))
    task = asyncio.create_task(server.serve([listener]))
    try:
        async with asyncio.timeout(30):
            yield f"ws://127.0.0.1:{listener.getsockname()[1]}{PATH}"
    finally:
        server.should_exit = True
        await task
        listener.close()


def plain(app: object) -> object:
    return app


def by_route(app: object) -> object:
    return Starlette(routes=[WebSocketRoute(PATH, app)])


def by_mount(app: object) -> object:
    return Starlette(routes=[Mount("/alerts", app)])


def by_fastapi_mount(app: object) -> object:
    outer = FastAPI()
    outer.mount("/alerts", app)
    return outer


@pytest.mark.parametrize("mounted", [plain, by_route, by_mount, by_fastapi_mount])
async def test_alerts_arrive_over_a_channel_of_an_application(mounted):
    inbox = Inbox()
    app = mounted(alert_app(verifier(), inbox, channel=True))
    async with served(app) as url, AlertChannel(url, CREDENTIALS) as channel:
        await channel.send([alert(0), alert(1)])
        await asyncio.gather(*(channel.send([alert(n)]) for n in range(2, 50)))
    assert inbox == list(range(50))


async def test_an_application_has_no_channel_unless_asked():
    async with served(alert_app(verifier(), Inbox())) as url:
        with pytest.raises(InvalidStatus):
            await dial(url)


async def test_a_refused_handshake_has_the_envelope():
    app = alert_app(verifier(), Inbox(), channel=True)
    wrong = Credentials(APP_ID, "another secret")
    async with served(app) as url:
        async with AlertChannel(url, wrong) as channel:
            with pytest.raises(WatchBusError) as caught:
                await channel.send([alert(1)])
        assert (caught.value.status, caught.value.reason) == (401, "invalid signature")
        with pytest.raises(InvalidStatus) as refused:
            await dial(url + "/other", signed(path=PATH + "/other"))
        assert refused.value.response.status_code == 404


async def test_a_rejected_alert_is_final_and_stops_no_others():
    inbox = Inbox()

    async def handler(each):
        if number_of(each) == 1:
            raise RejectAlert("unknown chain")
        await inbox(each)

    app = alert_app(verifier(), handler, channel=True)
    async with served(app) as url, AlertChannel(url, CREDENTIALS) as channel:
        with pytest.raises(WatchBusError, match="unknown chain"):
            await channel.send([alert(1)])
        await channel.send([alert(2)])
    assert inbox == [2]


async def test_a_frame_above_the_limit_and_an_invalid_one_close_the_connection():
    app = alert_app(verifier(max_body=1000), Inbox(), channel=True)
    async with served(app) as url:
        for text, code in (("x" * 1257, 1009), ("hello", 1007)):
            async with dial(url) as connection:
                await connection.send(text)
                with pytest.raises(ConnectionClosed) as caught:
                    await connection.recv()
                assert caught.value.rcvd.code == code


async def test_a_connection_ends_when_its_secret_is_revoked():
    secrets = {APP_ID: [SECRET]}
    guard = RequestVerifier(secrets.get, path=PATH)
    app = alert_app(guard, Inbox(), channel=True)
    async with served(app) as url, dial(url) as connection:
        assert (await ask(connection, alert(1)))["status"] == 200
        secrets.clear()
        await connection.send(json.dumps({"id": "2", "body": [dict(alert(2).raw)]}))
        with pytest.raises(ConnectionClosed) as caught:
            await connection.recv()
        assert caught.value.rcvd.code == 1008


async def test_a_channel_and_posts_share_the_inbox():
    gate, inbox = Gate(), AlertInbox()
    app = alert_app(verifier(), gate, inbox=inbox, channel=True)
    async with served(app) as url, AlertChannel(url, CREDENTIALS) as channel:
        sending = asyncio.create_task(channel.send([alert(1)]))
        await gate.entered.reach(1)
        again = asyncio.create_task(inbox.handle(alert(1), APP_ID, gate))
        gate.let_on.set()
        await sending
        assert (await again).action == "acknowledge"
    assert gate.entered == [1]


# ------------------------------------------------------------------ without a server
async def call(app: object, scope: dict[str, object], *messages: object) -> list:
    waiting, sent = list(messages), []

    async def receive() -> object:
        return waiting.pop(0)

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    await app({"type": "websocket", "path": PATH, **scope}, receive, send)
    assert waiting == []
    return sent


def headers_of(**changes: object) -> list[tuple[bytes, bytes]]:
    return [(n.lower().encode(), v.encode()) for n, v in signed(**changes).items()]


async def test_frames_may_be_text_or_bytes():
    inbox = Inbox()
    app = alert_app(verifier(), inbox, channel=True)
    frames = [json.dumps({"id": "1", "body": [dict(alert(n).raw)]}) for n in (1, 2)]
    accepted, *answers = await call(
        app,
        {"headers": headers_of()},
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": frames[0]},
        {"type": "websocket.receive", "bytes": frames[1].encode(), "text": None},
        {"type": "websocket.disconnect", "code": 1001},
    )
    assert accepted == {"type": "websocket.accept"}
    assert [json.loads(each["text"])["status"] for each in answers] == [200, 200]
    assert inbox == [1, 2]


async def test_a_server_that_cannot_send_a_response_closes_the_handshake():
    app = alert_app(verifier(), Inbox(), channel=True)
    scope = {"headers": headers_of(secret="another")}
    [closed] = await call(app, scope, {"type": "websocket.connect"})
    assert closed["type"] == "websocket.close"


async def test_a_lost_connection_is_no_error(caplog):
    async def send(message: dict[str, object]) -> None:
        if message["type"] == "websocket.send":
            raise BrokenPipeError

    frame = json.dumps({"id": "1", "body": [dict(alert(1).raw)]})
    messages = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": frame},
    ]

    async def receive() -> object:
        return messages.pop(0)

    app = alert_app(verifier(), Inbox(), channel=True)
    scope = {"type": "websocket", "path": PATH, "headers": headers_of()}
    await app(scope, receive, send)
    assert "ERROR" not in caplog.text
