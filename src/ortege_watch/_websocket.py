"""Client WebSockets: open one, close one, and report failures without secrets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl as tls
from collections.abc import Iterable, Mapping
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from ortege_watch._http.driver import (
    is_bad_certificate,
    proxy_for,
    ssl_context,
    through_proxy,
    tls_advice,
    user_agent,
)
from ortege_watch.errors import TransportError
from ortege_watch.tokens import Secrets, redact, safe_cause

SILENT: Final = logging.Logger("websockets")  # noqa: LOG001 - nobody may enable it
"""At level DEBUG websockets logs headers and frames: tokens and signatures."""
SILENT.disabled = True

CLOSE_TIMEOUT: Final = 1.0
"""Seconds that the closing handshake may take before the connection is aborted."""


class NoRedirectConnect(connect):
    """A ``connect`` that follows no redirects.

    A redirect would send the token to another host; signatures do not cover the host.
    """

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Return the redirect as the :class:`InvalidStatus` that it is."""
        return exc


class _Connection(ClientConnection):
    """A connection whose opening fails with the reason, and which ends in time."""

    _ends = False

    def data_received(self, data: bytes) -> None:
        """Read, and abort a connection that the peer should close, and does not."""
        super().data_received(data)
        # websockets 17.4 limits that only while something is being sent.
        if not self._ends and self.protocol.close_expected():
            self._ends = True
            self.loop.call_later(CLOSE_TIMEOUT, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the loss."""
        # In a proxy's tunnel, TLS may fail before the connection is made: websockets
        # 17.4 would fail here, and raises that error anyway.
        if hasattr(self, "recv_messages"):
            super().connection_lost(exc)
            failure = self.protocol.handshake_exc
            if failure is not None and exc is not None:
                failure.__cause__ = exc  # such as an alert of TLS 1.3


async def open_websocket(
    url: str,
    headers: Mapping[str, str],
    *,
    secrets: Iterable[str],
    ssl: tls.SSLContext | None = None,
    open_timeout: float | None = None,
    max_size: int = 1024 * 1024,
) -> ClientConnection:
    """Open a connection that sends no pings of its own.

    ``secrets`` are removed from error messages. ``open_timeout`` is in seconds and
    includes TLS and the upgrade. ``max_size`` limits the bytes of a received message.

    Raises:
        InvalidStatus: the server refused the upgrade, or redirected it.
        TransportError: every other failure.
    """
    context = (ssl or ssl_context()) if url.startswith("wss:") else None
    try:
        return await NoRedirectConnect(
            url,
            logger=SILENT,
            additional_headers=headers,
            ssl=context,
            compression=None,  # Cube offers none, and it costs CPU
            max_size=max_size,
            open_timeout=open_timeout,
            ping_interval=None,
            close_timeout=CLOSE_TIMEOUT,
            create_connection=_Connection,
            user_agent_header=user_agent(),
            proxy=proxy_for(url),
        )
    except InvalidStatus:
        raise
    # ImportError: the environment names a SOCKS proxy, which needs another package.
    except (OSError, WebSocketException, ValueError, ImportError) as error:
        host = url.split("/")[2] + through_proxy(url)
        what = str(error) or type(error).__name__
        problem = f"cannot connect to {host}: {what}"
        if is_bad_certificate(error):
            problem = f"certificate of {host} refused: {what}"
        failure = transport_error(problem + tls_advice(error), error, secrets)
    del headers, secrets  # a traceback shows what a frame has
    raise failure


def transport_error(
    message: str, cause: Exception, secrets: Iterable[str]
) -> TransportError:
    """Return an error with the secrets removed from its message."""
    secrets = Secrets(secrets)
    error = TransportError(redact(message, secrets))
    error.__cause__ = safe_cause(cause, secrets)
    return error


async def close(connection: ClientConnection) -> None:
    """Close a connection, and abort it if the peer does not take part in time."""
    try:
        with contextlib.suppress(TimeoutError):
            # websockets' own close_timeout does not count while the peer reads nothing.
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await connection.close()
    finally:  # also where this is cancelled
        connection.transport.abort()
        await connection.wait_closed()
