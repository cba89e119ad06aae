"""Alerts out: one publisher for tasks, one for threads, over the same flow."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Final, Self, Unpack

import anyio
from anyio import to_thread

from ortege_watch._http.conversation import DEADLINE, TIMEOUT, Limits, Retry
from ortege_watch._http.driver import (
    DEFAULT_MAX_SIZE,
    AsyncClock,
    AsyncHttp,
    AsyncHttpDriver,
    Clock,
    Http,
    HttpDriver,
)
from ortege_watch.watchbus.client import refuse_params
from ortege_watch.watchbus.models import AlertInfo
from ortege_watch.watchbus.outbox import Outbox
from ortege_watch.watchbus.requests import ALERT_PATH, BusConfig, Progress
from ortege_watch.watchbus.sending import AlertSender, PublishResult, prepare
from ortege_watch.watchbus.signing import Credentials
from ortege_watch.watchbus.wire import WireStyle

__all__ = ["AlertPublisher", "AsyncAlertPublisher"]

_STYLE: Final = WireStyle()


def _open(outbox: Outbox | str | Path | None) -> Outbox | None:
    return outbox if isinstance(outbox, Outbox | None) else Outbox(outbox)


class AsyncAlertPublisher:
    """Send alerts to the watch-bus, from tasks of asyncio or trio.

    Without an outbox :meth:`publish` sends, and what it could not send is the caller's
    again. With one it first writes the alerts to a file, where they stay until the bus
    has taken them: see :class:`Outbox` for what is promised. Nothing happens in the
    background: what could not be sent waits for the next :meth:`publish` or
    :meth:`flush`, so call that one now and then.

    An alert that the bus refuses as invalid holds up no other: the request is halved
    until it is alone, and it is set aside with the bus's reason.

    Args:
        url: the bus, such as ``https://www.avengerdao.org``, with or without the path.
        credentials: the app id and the secret that the bus knows.
        outbox: an :class:`Outbox`, or the path of one, which is then closed with this
            publisher; ``None`` for none.
        path: of the endpoint.
        timeout: seconds that the bus may be silent.
        deadline: seconds that a request may take with all its attempts; ``None`` for no
            limit.
        retry: how often a request is tried. The bus may get an alert twice (with the
            same dedupe key): one whose answer was lost is sent again.
        http: your own ``httpx.AsyncClient`` or transport, without ``params`` of its
            own; its limits on time are replaced by these here, and it is not closed
            with this publisher.
        clock: what tells the time for pauses and deadlines, and sleeps; for tests.
        max_size: bytes that an answer may have, decompressed.
        batch_size: alerts in a request, at most.
        style: which of the page's two forms is sent.

    Raises:
        QueryError: an argument that cannot be used.
        OrtegeWatchError: the outbox cannot be opened.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        *,
        outbox: Outbox | str | Path | None = None,
        path: str = ALERT_PATH,
        timeout: float = TIMEOUT,
        deadline: float | None = DEADLINE,
        retry: Retry | None = None,
        http: AsyncHttp | None = None,
        clock: AsyncClock | None = None,
        max_size: int = DEFAULT_MAX_SIZE,
        batch_size: int = 100,
        style: WireStyle = _STYLE,
    ) -> None:
        self._link = BusConfig.parse(
            url, credentials, path=path, timeout=timeout, deadline=deadline, retry=retry
        )
        refuse_params(http)
        self._driver = AsyncHttpDriver(http=http, clock=clock, max_size=max_size)
        self._owns_outbox = not isinstance(outbox, Outbox | None)
        self._sender = AlertSender(self._link, path, style, batch_size)
        self._style = style
        self._sender.outbox = self._outbox = _open(outbox)
        self._turn = nullcontext() if outbox is None else anyio.Lock()

    def __repr__(self) -> str:
        return f"AsyncAlertPublisher({self._link.root!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, and the outbox if it was opened here."""
        await self._driver.aclose()
        if self._outbox is not None and self._owns_outbox:
            await to_thread.run_sync(self._outbox.close)

    @property
    def outbox(self) -> Outbox | None:
        """The outbox, to list what waits and what was set aside."""
        return self._outbox

    async def publish(
        self,
        alerts: Iterable[AlertInfo],
        *,
        progress: Progress | None = None,
        **limits: Unpack[Limits],
    ) -> PublishResult:
        """Send alerts, in order; two with one dedupe key are the same alert.

        With an outbox: what waits there goes first, and if all of it cannot be sent
        now, that is no error: the result says so. Once this returns, or is cancelled or
        killed after the alerts were written, they are kept until they were sent.

        Args:
            alerts: at least one.
            progress: called after each request with the number of alerts that are done
                and that of all.
            limits: see :class:`Limits`; they are for each request.

        Raises:
            QueryError: an alert that cannot be sent; none was sent or accepted.
            OutboxFull: there is no room; none was accepted.
            OrtegeWatchError: the outbox cannot be used. Without an outbox: as
                :class:`AsyncWatchBusClient` lists them, with
                :attr:`OrtegeWatchError.published`, whose ``unsent`` can be published
                again.
        """
        link = self._link.override(limits)
        items = prepare(alerts, link.credentials.app_id, self._style)
        if self._outbox is not None:
            await to_thread.run_sync(self._outbox.accept, items)
        async with self._turn:
            return await self._driver.arun(self._sender.send(link, items, progress))

    async def flush(
        self, *, progress: Progress | None = None, **limits: Unpack[Limits]
    ) -> PublishResult:
        """Send what waits in the outbox; what another process is sending, it sends.

        Raises:
            OrtegeWatchError: not all could be sent: as with :meth:`publish` without an
                outbox.
        """
        link = self._link.override(limits)
        async with self._turn:
            return await self._driver.arun(self._sender.send(link, (), progress))


class AlertPublisher:
    """Send alerts to the watch-bus, from threads and scripts.

    All is as with :class:`AsyncAlertPublisher`, without ``await``; ``http`` is an
    ``httpx.Client`` or a transport for one. Threads may share a publisher.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        *,
        outbox: Outbox | str | Path | None = None,
        path: str = ALERT_PATH,
        timeout: float = TIMEOUT,
        deadline: float | None = DEADLINE,
        retry: Retry | None = None,
        http: Http | None = None,
        clock: Clock | None = None,
        max_size: int = DEFAULT_MAX_SIZE,
        batch_size: int = 100,
        style: WireStyle = _STYLE,
    ) -> None:
        self._link = BusConfig.parse(
            url, credentials, path=path, timeout=timeout, deadline=deadline, retry=retry
        )
        refuse_params(http)
        self._driver = HttpDriver(http=http, clock=clock, max_size=max_size)
        self._owns_outbox = not isinstance(outbox, Outbox | None)
        self._sender = AlertSender(self._link, path, style, batch_size)
        self._style = style
        self._sender.outbox = self._outbox = _open(outbox)
        self._turn = nullcontext() if outbox is None else threading.Lock()

    def __repr__(self) -> str:
        return f"AlertPublisher({self._link.root!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, and the outbox if it was opened here."""
        self._driver.close()
        if self._outbox is not None and self._owns_outbox:
            self._outbox.close()

    @property
    def outbox(self) -> Outbox | None:
        """The outbox, to list what waits and what was set aside."""
        return self._outbox

    def publish(
        self,
        alerts: Iterable[AlertInfo],
        *,
        progress: Progress | None = None,
        **limits: Unpack[Limits],
    ) -> PublishResult:
        """Send alerts, in order; see :meth:`AsyncAlertPublisher.publish`."""
        link = self._link.override(limits)
        items = prepare(alerts, link.credentials.app_id, self._style)
        if self._outbox is not None:
            self._outbox.accept(items)
        with self._turn:
            return self._driver.run(self._sender.send(link, items, progress))

    def flush(
        self, *, progress: Progress | None = None, **limits: Unpack[Limits]
    ) -> PublishResult:
        """Send what waits; see :meth:`AsyncAlertPublisher.flush`."""
        link = self._link.override(limits)
        with self._turn:
            return self._driver.run(self._sender.send(link, (), progress))
