"""The publishers of alerts: one for tasks, one for threads, over the same flow."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Final, Unpack

import anyio
from anyio import to_thread

from ortege_watch._http.conversation import Limits
from ortege_watch._http.driver import AsyncClock, AsyncHttp, Clock, Http
from ortege_watch.watchbus.client import AsyncBusClient, BusClient
from ortege_watch.watchbus.models import AlertInfo
from ortege_watch.watchbus.outbox import Outbox
from ortege_watch.watchbus.requests import ALERT_PATH, BusConfig, BusOptions, Progress
from ortege_watch.watchbus.sending import PublishResult, prepare_alerts, send_queued
from ortege_watch.watchbus.signing import Credentials


class AsyncAlertPublisher(AsyncBusClient):
    """A sender of alerts to the watch-bus, for tasks of asyncio or trio.

    Without an outbox, an error of :meth:`publish` has the unsent alerts. With one, alerts
    are first written to a file, where they stay until the bus acknowledges them; see
    :class:`Outbox` for the guarantees. Nothing is sent in the background: what could not
    be sent is sent by the next :meth:`publish` or :meth:`flush`, so call that one from
    time to time.

    An alert that the bus rejects as invalid delays no others: a rejected request is
    halved until the alert is alone. A request whose response is lost is sent again, so
    that the bus may get an alert twice, with the same dedupe key.

    Args:
        url: the bus, such as ``https://bus.example.com``, with or without ``path``.
        credentials: the app id and the secret that the bus knows.
        outbox: an :class:`Outbox`, or the path of one, which is then closed with this
            publisher; ``None`` for no outbox.
        path: the endpoint's path.
        http: your own ``httpx.AsyncClient`` or transport, without ``params``; its
            timeouts are replaced by those here, and it is not closed with this client.
        clock: what reads the time and sleeps; for tests.
        options: see :class:`BusOptions`.

    Attributes:
        outbox: the outbox, or ``None``.

    Raises:
        InvalidArgument: an argument cannot be used.
        OrtegeWatchError: the outbox cannot be opened.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        *,
        outbox: Outbox | str | Path | None = None,
        path: str = ALERT_PATH,
        http: AsyncHttp | None = None,
        clock: AsyncClock | None = None,
        **options: Unpack[BusOptions],
    ) -> None:
        config = BusConfig.parse(url, credentials, path, **options)
        self._endpoint: Final = config.endpoint(path)
        super().__init__(config, http, clock)
        self.outbox: Final = _open(outbox)
        self._owns_outbox: Final = self.outbox is not outbox
        self._sending: Final = nullcontext() if outbox is None else anyio.Lock()

    async def aclose(self) -> None:
        """Close the connections, and the outbox if it was opened here."""
        await super().aclose()
        if self.outbox is not None and self._owns_outbox:
            await to_thread.run_sync(self.outbox.close)

    async def publish(
        self,
        alerts: Iterable[AlertInfo],
        *,
        progress: Progress | None = None,
        **limits: Unpack[Limits],
    ) -> PublishResult:
        """Send alerts, in order; alerts with the same dedupe key are sent once.

        With an outbox, alerts that are queued are sent first, and a failed request is
        not an error: the result has it. Once the alerts were written they stay queued
        until they are sent, also if this call is cancelled or the process is killed.

        Args:
            alerts: at least one.
            progress: called after each request.
            limits: see :class:`Limits`; they hold for each request.

        Raises:
            InvalidArgument: an alert cannot be sent; none was sent or accepted.
            OutboxFull: the outbox has no room; none was accepted.
            OrtegeWatchError: the outbox cannot be used, or without an outbox: a request
                failed as listed at :class:`AsyncWatchBusClient`. The ``unsent`` alerts in
                :attr:`OrtegeWatchError.published` can be published again.
        """
        config = self._begin(limits, progress)
        items = prepare_alerts(alerts, config.credentials.app_id, config.style)
        if self.outbox is not None:
            await to_thread.run_sync(self.outbox.accept, items)
        async with self._sending:
            return await self._driver.arun(
                send_queued(config, self._endpoint, self.outbox, items, progress)
            )

    async def flush(
        self, *, progress: Progress | None = None, **limits: Unpack[Limits]
    ) -> PublishResult:
        """Send the queued alerts, unless another process is sending them.

        Raises:
            OrtegeWatchError: a request failed, or the outbox cannot be used; see
                :attr:`OrtegeWatchError.published`.
        """
        config = self._begin(limits, progress)
        async with self._sending:
            return await self._driver.arun(
                send_queued(config, self._endpoint, self.outbox, (), progress)
            )


class AlertPublisher(BusClient):
    """A sender of alerts to the watch-bus, for threads and scripts; threads may share it.

    Without an outbox, an error of :meth:`publish` has the unsent alerts. With one, alerts
    are first written to a file, where they stay until the bus acknowledges them; see
    :class:`Outbox` for the guarantees. Nothing is sent in the background: what could not
    be sent is sent by the next :meth:`publish` or :meth:`flush`, so call that one from
    time to time.

    An alert that the bus rejects as invalid delays no others: a rejected request is
    halved until the alert is alone. A request whose response is lost is sent again, so
    that the bus may get an alert twice, with the same dedupe key.

    Args:
        url: the bus, such as ``https://bus.example.com``, with or without ``path``.
        credentials: the app id and the secret that the bus knows.
        outbox: an :class:`Outbox`, or the path of one, which is then closed with this
            publisher; ``None`` for no outbox.
        path: the endpoint's path.
        http: your own ``httpx.Client`` or transport, without ``params``; its timeouts
            are replaced by those here, and it is not closed with this client.
        clock: what reads the time and sleeps; for tests.
        options: see :class:`BusOptions`.

    Attributes:
        outbox: the outbox, or ``None``.

    Raises:
        InvalidArgument: an argument cannot be used.
        OrtegeWatchError: the outbox cannot be opened.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        *,
        outbox: Outbox | str | Path | None = None,
        path: str = ALERT_PATH,
        http: Http | None = None,
        clock: Clock | None = None,
        **options: Unpack[BusOptions],
    ) -> None:
        config = BusConfig.parse(url, credentials, path, **options)
        self._endpoint: Final = config.endpoint(path)
        super().__init__(config, http, clock)
        self.outbox: Final = _open(outbox)
        self._owns_outbox: Final = self.outbox is not outbox
        self._sending: Final = nullcontext() if outbox is None else threading.Lock()

    def close(self) -> None:
        """Close the connections, and the outbox if it was opened here."""
        super().close()
        if self.outbox is not None and self._owns_outbox:
            self.outbox.close()

    def publish(
        self,
        alerts: Iterable[AlertInfo],
        *,
        progress: Progress | None = None,
        **limits: Unpack[Limits],
    ) -> PublishResult:
        """Send alerts, in order; alerts with the same dedupe key are sent once.

        With an outbox, alerts that are queued are sent first, and a failed request is
        not an error: the result has it. Once the alerts were written they stay queued
        until they are sent, also if the process is killed.

        Args:
            alerts: at least one.
            progress: called after each request.
            limits: see :class:`Limits`; they hold for each request.

        Raises:
            InvalidArgument: an alert cannot be sent; none was sent or accepted.
            OutboxFull: the outbox has no room; none was accepted.
            OrtegeWatchError: the outbox cannot be used, or without an outbox: a request
                failed as listed at :class:`WatchBusClient`. The ``unsent`` alerts in
                :attr:`OrtegeWatchError.published` can be published again.
        """
        config = self._begin(limits, progress)
        items = prepare_alerts(alerts, config.credentials.app_id, config.style)
        if self.outbox is not None:
            self.outbox.accept(items)
        with self._sending:
            return self._driver.run(
                send_queued(config, self._endpoint, self.outbox, items, progress)
            )

    def flush(
        self, *, progress: Progress | None = None, **limits: Unpack[Limits]
    ) -> PublishResult:
        """Send the queued alerts, unless another process is sending them.

        Raises:
            OrtegeWatchError: a request failed, or the outbox cannot be used; see
                :attr:`OrtegeWatchError.published`.
        """
        config = self._begin(limits, progress)
        with self._sending:
            return self._driver.run(
                send_queued(config, self._endpoint, self.outbox, (), progress)
            )


def _open(outbox: Outbox | str | Path | None) -> Outbox | None:
    return outbox if isinstance(outbox, Outbox | None) else Outbox(outbox)
