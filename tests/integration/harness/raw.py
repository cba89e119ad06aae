"""Cube's protocol without the library: to see what the server itself says."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import ClientConnection, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from harness.cube_server import CubeServer


class RawSocket:
    """Sends and receives frames as JSON."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def send(self, frame: object) -> None:
        """Send a frame."""
        await self._connection.send(json.dumps(frame))

    async def receive(self) -> dict[str, Any]:
        """Return the next frame, whatever it is."""
        frame: dict[str, Any] = json.loads(await self._connection.recv())
        return frame

    async def authorize(self, token: str) -> None:
        """Shake hands."""
        await self.send({"authorization": token})
        frame = await self.receive()
        assert frame == {"handshake": True}, frame

    async def subscribe(self, query: object) -> None:
        """Subscribe to a query under the id "1"."""
        params = {"query": query, "queryType": "multi"}
        await self.send({"messageId": "1", "method": "subscribe", "params": params})

    async def receive_rows(self) -> list[dict[str, Any]]:
        """Pass over heartbeats until a result comes, and return its rows."""
        while True:
            frame = await self.receive()
            if "message" in frame:
                assert (frame["messageId"], frame["status"]) == ("1", 200), frame
                rows: list[dict[str, Any]] = frame["message"]["results"][0]["data"]
                return rows


@asynccontextmanager
async def raw_socket(cube: CubeServer) -> AsyncIterator[RawSocket]:
    """Open a socket where the library opens it."""
    url = cube.url.replace("http", "ws") + "/load/"
    async with connect(url, proxy=None) as connection:
        yield RawSocket(connection)
