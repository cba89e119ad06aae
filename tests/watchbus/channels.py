"""Helpers for the tests of the alert channel: alerts, handlers, a scripted receiver."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

from signed import APP_ID, SECRET, headers_for
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from ortege_watch.watchbus import AlertInfo, Credentials, RequestVerifier
from ortege_watch.watchbus.wire import encode_alerts, ok_answer

PATH = "/alerts/ws"
CREDENTIALS = Credentials(APP_ID, SECRET)
WITHIN = 10.0
"""Seconds after which a test fails."""


def alert(number: int, **values: object) -> AlertInfo:
    values = {"block_number": number, "tx_hash": f"0x{number:064x}", **values}
    values.setdefault("current_value", "1")
    entity = "0x" + "ab" * 20
    return AlertInfo(entity, 56, "ERC20", "big_amount_txn", 1_700_000_000, values)


def number_of(alert: AlertInfo) -> int:
    return int(alert.event_values["block_number"])


def verifier(**options: object) -> RequestVerifier:
    return RequestVerifier({APP_ID: [SECRET]}, path=PATH, **options)


class Inbox(list):
    """A handler that stores the numbers of the alerts; tests can wait for a count."""

    def __init__(self) -> None:
        super().__init__()
        self._came = asyncio.Event()

    async def __call__(self, alert: AlertInfo) -> None:
        self.take(number_of(alert))

    def take(self, item: object) -> None:
        self.append(item)
        self._came.set()

    async def reach(self, count: int) -> None:
        async with asyncio.timeout(WITHIN):
            while len(self) < count:
                self._came.clear()
                await self._came.wait()


class Gate:
    """An async handler that records its calls and blocks until ``let_on`` is set."""

    def __init__(self) -> None:
        self.entered = Inbox()
        self.done = Inbox()
        self.let_on = asyncio.Event()

    async def __call__(self, alert: AlertInfo) -> None:
        await self.entered(alert)
        await self.let_on.wait()
        await self.done(alert)


# --------------------------------------------------------------- a scripted receiver
class Script:
    """A receiver that records frames and does what the test says.

    Attributes:
        frames: everything that came: the connection's number and the frame.
        headers: those of each upgrade.
        refusals: what to answer the next upgrades with: status, body, headers.
        play: called with each frame; what it returns is sent.
    """

    def __init__(self, play: Callable[[dict], object] | None = None) -> None:
        self.frames = Inbox()
        self.headers: list = []
        self.connections: list[ServerConnection] = []
        self.refusals: list[tuple[int, bytes, dict[str, str]]] = []
        self.play = play or acknowledge
        self.url = ""
        self.gone = Inbox()

    async def _serve(self, connection: ServerConnection) -> None:
        self.connections.append(connection)
        number = len(self.connections)
        try:
            async for text in connection:
                frame = json.loads(text)
                self.frames.take((number, frame))
                said = self.play(frame)
                if said is Drop:
                    connection.transport.abort()
                elif said is not None:
                    await connection.send(said)
        finally:
            self.gone.take(number)

    def _admit(self, connection: ServerConnection, request):
        self.headers.append(request.headers)
        if not self.refusals:
            return None
        status, body, headers = self.refusals.pop(0)
        response = connection.respond(HTTPStatus(status), body.decode())
        for name, value in headers.items():
            if name in response.headers:
                del response.headers[name]
            response.headers[name] = value
        return response

    def numbers(self, connection: int) -> list[int]:
        """Return the numbers of the alerts that arrived over a connection, in order."""
        return [
            int(each["event_values"]["block_number"])
            for number, frame in self.frames
            if number == connection
            for each in frame["body"]["alert_info_list"]
        ]


class Drop:
    """Returned by ``play`` to drop the connection instead of answering."""


def acknowledge(frame: dict) -> str:
    return answer_to(frame, 200, ok_answer())


def answer_to(frame: dict, status: int, body: bytes) -> str:
    return json.dumps({"id": frame["id"], "status": status, "body": json.loads(body)})


@asynccontextmanager
async def scripted(play=None, *, port: int = 0, **options) -> AsyncIterator[Script]:
    script = Script(play)
    async with serve(
        script._serve, "127.0.0.1", port, process_request=script._admit, **options
    ) as server:
        port = server.sockets[0].getsockname()[1]
        script.url = f"ws://127.0.0.1:{port}{PATH}"
        yield script


# ------------------------------------------------------- a sender without the library
def dial(url: str, headers: dict[str, str] | None = None, **options) -> connect:
    """Open a channel; the handshake is signed unless other headers are given."""
    headers = signed() if headers is None else headers
    return connect(url, additional_headers=headers, compression=None, **options)


def signed(**changes: object) -> dict[str, str]:
    changes.setdefault("timestamp", int(time.time() * 1000))
    return headers_for(b"", **{"method": "GET", "path": PATH, **changes})


async def ask(connection: ClientConnection, *alerts: AlertInfo, key: str = "1") -> dict:
    """Send a frame and return its answer."""
    body = encode_alerts(alerts).decode()
    await connection.send(f'{{"id": "{key}", "body": {body}}}')
    return await answer(connection)


async def answer(connection: ClientConnection) -> dict:
    async with asyncio.timeout(WITHIN):
        return json.loads(await connection.recv())
