"""What every WebSocket of this library has in common, whoever speaks over it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from websockets.asyncio.client import ClientConnection, connect

__all__ = ["CLOSE_WITHIN", "SILENT", "Dial", "close"]

SILENT: Final = logging.Logger("websockets")  # noqa: LOG001 - nobody may enable it
"""At level DEBUG websockets logs headers and frames: tokens and signatures."""
SILENT.disabled = True

CLOSE_WITHIN: Final = 1.0
"""Seconds that a polite close may take before the socket is cut."""


class Dial(connect):
    """Open a socket without following redirects.

    They would take a token along, and the host is no part of what is signed.
    """

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Hand the redirect to the caller, as the refusal that it is."""
        return exc


async def close(connection: ClientConnection) -> None:
    """Close politely, and cut the connection if the peer does not answer."""
    try:
        with contextlib.suppress(TimeoutError):
            # The library's own time limit does not count while the peer reads nothing.
            async with asyncio.timeout(CLOSE_WITHIN):
                await connection.close()
    finally:  # also where this is cancelled
        connection.transport.abort()
        await connection.wait_closed()
