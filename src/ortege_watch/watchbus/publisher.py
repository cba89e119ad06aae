"""The publishers of alerts: one for tasks, one for threads, over the same flow."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from random import random
from typing import Final, Unpack

import anyio
from anyio import to_thread

from ortege_watch._checks import check_seconds
from ortege_watch._http.conversation import Limits
from ortege_watch._http.driver import AsyncClock, AsyncHttp, Clock, Http
from ortege_watch.errors import InvalidArgument, OrtegeWatchError
from ortege_watch.tokens import Concealed
from ortege_watch.watchbus.client import AsyncBusClient, BusCalls, BusClient
from ortege_watch.watchbus.models import AlertInfo
from ortege_watch.watchbus.outbox import Outbox, open_outbox, queue_of
from ortege_watch.watchbus.requests import (
    ALERT_PATH,
    MAX_ACKNOWLEDGEMENT,
    BusConfig,
    BusOptions,
    Endpoint,
    Progress,
)
from ortege_watch.watchbus.sending import (
    BatchSize,
    PublishResult,
    QueuedAlert,
    Sender,
    SendingPace,
    prepare_alerts,
)
from ortege_watch.watchbus.signing import Credentials

_LOGGER: Final = logging.getLogger("ortege_watch.watchbus")

_BATCHES: Final = 10
"""Batches after which ``run()`` forgets the results and releases the lease."""


class _Publishing(BusCalls):
    """What the publishers for tasks and those for threads share."""

    def _open(
        self, endpoint: Endpoint, batch_size: int, outbox: Outbox | str | Path | None
    ) -> None:
        self._endpoint = endpoint
        address = endpoint.url.partition("//")[2]
        self.outbox = open_outbox(outbox, self._config.credentials.app_id, address)
        self._owns_outbox = self.outbox is not outbox
        self._queue = queue_of(self.outbox)
        self._batches = BatchSize(batch_size)
        self._has_begun = False  # a call that sends

    def _sender(self, limits: Limits, progress: Progress | None = None) -> Sender:
        """Return a sender without alerts, whose deadline counts from now."""
        self._has_begun = True
        return Sender(
            config=self._begin(limits, progress),
            endpoint=self._endpoint,
            outbox=self._queue,
            progress=progress,
            started=self._driver.clock.now(),
            batches=self._batches,
        )

    def _background_sender(self) -> Sender:
        """Return a sender of a few batches, each request of which has a deadline."""
        self._has_begun = True
        return Sender(
            config=self._begin({}),
            endpoint=self._endpoint,
            outbox=self._queue,
            max_batches=_BATCHES,
            batches=self._batches,
        )

    def _pace(self) -> SendingPace:
        return SendingPace(self._config.sender, self._config.budget.retry)

    def _backlog(self) -> str:
        return "" if self._queue is None else self._queue.backlog()

    def _prepare(self, alerts: Iterable[AlertInfo]) -> list[QueuedAlert]:
        config = self._config
        return prepare_alerts(alerts, config.credentials.app_id, config.style)

    def _need_outbox(self, method: str) -> None:
        if self.outbox is None:
            problem = f"{method}() needs an outbox: pass outbox= to the publisher"
            raise InvalidArgument(problem)

    def _close_outbox(self) -> None:
        """Close the outbox if it was opened here; log what nobody has tried to send."""
        if self.outbox is None:
            return
        if not self._has_begun:
            self._has_begun = True  # it is logged once
            with suppress(OrtegeWatchError):  # it is closed, or cannot be read
                if count := len(self.outbox):
                    problem = (
                        "%s: the publisher was closed before it sent anything: %d alerts"
                        " stay queued in %r; run(), flush() or publish() sends them"
                    )
                    _LOGGER.warning(problem, self._config.sender, count, self.outbox)
        if self._owns_outbox:
            self.outbox.close()


class AsyncAlertPublisher(AsyncBusClient, _Publishing):
    """A sender of alerts to the watch-bus, for tasks of asyncio or trio.

    Without an outbox, an error of :meth:`publish` has the unsent alerts. With one, alerts
    are first written to a file, where they stay until the bus acknowledges them; see
    :class:`Outbox` for the guarantees. :meth:`enqueue` only writes, and :meth:`run` sends
    in the background. Without :meth:`run`, what could not be sent is sent by the next
    :meth:`publish` or :meth:`flush`.

    A request that fails is sent again in smaller ones, until the alert that makes it fail
    is alone, so that it delays no others. Every 2xx response without an error code acknowledges the alerts. A
    request whose response is lost is sent again, so that the bus may get an alert twice,
    with the same dedupe key.

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
        address, given = Concealed(url), Concealed(credentials)
        del url, credentials  # a traceback shows what a frame has
        options.setdefault("max_size", MAX_ACKNOWLEDGEMENT)
        config = BusConfig.parse(address, given, path, **options)
        endpoint = config.endpoint(path)
        super().__init__(config, http, clock)
        self._open(endpoint, config.batch_size, outbox)
        self._sending: Final = anyio.Lock()
        self._wake: anyio.Event | None = None  # set when alerts are written

    async def aclose(self) -> None:
        """Close the connections, and the outbox if it was opened here; end ``run()``."""
        await super().aclose()
        if self.outbox is not None:
            await to_thread.run_sync(self._close_outbox)

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
            progress: called after each batch.
            limits: see :class:`Limits`; the deadline is that of the whole call, without
                the wait of up to 10 s for an outbox that another process has locked.

        Raises:
            InvalidArgument: an alert cannot be sent; none was sent or accepted.
            OutboxFull: the outbox has no room; none was accepted.
            OrtegeWatchError: the outbox cannot be used; a setting is wrong, so that
                every request fails, such as with status 401 or 404; or, without an
                outbox, a request failed as listed at :class:`AsyncWatchBusClient`. See
                :attr:`OrtegeWatchError.published`.
        """
        sender = self._sender(limits, progress)
        sender.alerts = await self._accept(alerts)
        return await self._send(sender)

    async def enqueue(self, alerts: Iterable[AlertInfo]) -> None:
        """Write alerts to the outbox, and leave the sending to :meth:`run`.

        Args:
            alerts: at least one.

        Raises:
            InvalidArgument: an alert cannot be sent, or the publisher has no outbox.
            OutboxFull: the outbox has no room; none was accepted.
            OrtegeWatchError: the outbox cannot be used.
        """
        self._need_outbox("enqueue")
        self._driver.check_open()
        await self._accept(alerts)

    async def flush(
        self, *, progress: Progress | None = None, **limits: Unpack[Limits]
    ) -> PublishResult:
        """Send the queued alerts that are due, unless another process is sending them.

        Args:
            progress: called after each batch.
            limits: see :class:`Limits`; the deadline is that of the whole call, without
                the wait of up to 10 s for an outbox that another process has locked.

        Raises:
            InvalidArgument: the publisher has no outbox.
            OrtegeWatchError: a request failed, or the outbox cannot be used; see
                :attr:`OrtegeWatchError.published`.
        """
        self._need_outbox("flush")
        return await self._send(self._sender(limits, progress))

    async def run(self, *, poll_every: float = 1.0) -> None:
        """Send alerts as they become due, until this is cancelled or the publisher is closed.

        A task that begins after the closing ends at once, without an error.
        What :meth:`enqueue` of this publisher writes is sent at once. Every failure is
        logged and followed by another attempt, after a pause that grows: up to the
        ``cap`` of ``retry`` in an outage, and up to five minutes while a setting is
        wrong.

        Args:
            poll_every: seconds between two looks for alerts that other processes have
                written, and for those that are sent again.

        Raises:
            InvalidArgument: the publisher has no outbox.
        """
        self._need_outbox("run")
        check_seconds("poll_every", poll_every)
        if self._driver.is_closed:
            return
        self._driver.check_open()
        await self._driver.until_closed(self._run(poll_every))

    async def _run(self, poll_every: float) -> None:
        pace = self._pace()
        while True:
            self._wake = wake = anyio.Event()
            try:
                result = await self._send(self._background_sender())
            except Exception as error:  # noqa: BLE001 - it is logged
                if self._driver.is_closed:
                    return
                backlog = await to_thread.run_sync(self._backlog)
                jitter = random()  # noqa: S311 - guards nothing
                pause = pace.next(error, jitter, backlog)
                await self._driver.clock.sleep(pause)
            else:
                pace.reset(has_sent=bool(result.sent))
                if not result.sent:
                    with anyio.move_on_after(poll_every):
                        await wake.wait()

    async def _accept(self, alerts: Iterable[AlertInfo]) -> Sequence[QueuedAlert]:
        prepared = self._prepare(alerts)
        if self._queue is not None:
            await to_thread.run_sync(self._queue.accept, prepared)
            if self._wake is not None:
                self._wake.set()
        return prepared

    async def _send(self, sender: Sender) -> PublishResult:
        """Send after the other calls, but not after the deadline.

        The lease of the outbox still is with one sender only.
        """
        if self.outbox is None:
            return await self._driver.arun(sender.run())
        with anyio.move_on_after(sender.config.budget.deadline) as waiting:
            await self._sending.acquire()
        try:
            return await self._driver.arun(sender.run())
        finally:
            if not waiting.cancelled_caught:
                self._sending.release()


class AlertPublisher(BusClient, _Publishing):
    """A sender of alerts to the watch-bus, for threads and scripts; threads may share it.

    Without an outbox, an error of :meth:`publish` has the unsent alerts. With one, alerts
    are first written to a file, where they stay until the bus acknowledges them; see
    :class:`Outbox` for the guarantees. :meth:`enqueue` only writes, and :meth:`run` sends
    in the background. Without :meth:`run`, what could not be sent is sent by the next
    :meth:`publish` or :meth:`flush`.

    A request that fails is sent again in smaller ones, until the alert that makes it fail
    is alone, so that it delays no others. Every 2xx response without an error code acknowledges the alerts. A
    request whose response is lost is sent again, so that the bus may get an alert twice,
    with the same dedupe key.

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
        address, given = Concealed(url), Concealed(credentials)
        del url, credentials  # a traceback shows what a frame has
        options.setdefault("max_size", MAX_ACKNOWLEDGEMENT)
        config = BusConfig.parse(address, given, path, **options)
        endpoint = config.endpoint(path)
        super().__init__(config, http, clock)
        self._open(endpoint, config.batch_size, outbox)
        self._sending: Final = threading.Lock()
        self._wake: Final = threading.Event()  # set when alerts are written

    def close(self) -> None:
        """Close the connections, and the outbox if it was opened here; end ``run()``."""
        super().close()
        self._wake.set()
        self._close_outbox()

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
            progress: called after each batch.
            limits: see :class:`Limits`; the deadline is that of the whole call, without
                the wait of up to 10 s for an outbox that another process has locked.

        Raises:
            InvalidArgument: an alert cannot be sent; none was sent or accepted.
            OutboxFull: the outbox has no room; none was accepted.
            OrtegeWatchError: the outbox cannot be used; a setting is wrong, so that
                every request fails, such as with status 401 or 404; or, without an
                outbox, a request failed as listed at :class:`WatchBusClient`. See
                :attr:`OrtegeWatchError.published`.
        """
        sender = self._sender(limits, progress)
        sender.alerts = self._accept(alerts)
        return self._send(sender)

    def enqueue(self, alerts: Iterable[AlertInfo]) -> None:
        """Write alerts to the outbox, and leave the sending to :meth:`run`.

        Args:
            alerts: at least one.

        Raises:
            InvalidArgument: an alert cannot be sent, or the publisher has no outbox.
            OutboxFull: the outbox has no room; none was accepted.
            OrtegeWatchError: the outbox cannot be used.
        """
        self._need_outbox("enqueue")
        self._driver.check_open()
        self._accept(alerts)

    def flush(
        self, *, progress: Progress | None = None, **limits: Unpack[Limits]
    ) -> PublishResult:
        """Send the queued alerts that are due, unless another process is sending them.

        Args:
            progress: called after each batch.
            limits: see :class:`Limits`; the deadline is that of the whole call, without
                the wait of up to 10 s for an outbox that another process has locked.

        Raises:
            InvalidArgument: the publisher has no outbox.
            OrtegeWatchError: a request failed, or the outbox cannot be used; see
                :attr:`OrtegeWatchError.published`.
        """
        self._need_outbox("flush")
        return self._send(self._sender(limits, progress))

    def run(self, *, poll_every: float = 1.0) -> None:
        """Send alerts as they become due, until another thread closes the publisher.

        A thread that begins after the closing ends at once, without an error. It blocks
        its thread, so it refuses to run in that of an event loop.

        What :meth:`enqueue` of this publisher writes is sent at once. Every failure is
        logged and followed by another attempt, after a pause that grows: up to the
        ``cap`` of ``retry`` in an outage, and up to five minutes while a setting is
        wrong.

        Args:
            poll_every: seconds between two looks for alerts that other processes have
                written, and for those that are sent again.

        Raises:
            InvalidArgument: the publisher has no outbox.
            OrtegeWatchError: it is called in the thread of an event loop of asyncio.
        """
        self._need_outbox("run")
        check_seconds("poll_every", poll_every)
        if self._driver.is_closed:
            return
        self._driver.check_open()
        with suppress(RuntimeError):
            asyncio.get_running_loop()
            raise OrtegeWatchError(
                "run() of an AlertPublisher would block the event loop: use an"
                " AsyncAlertPublisher, or call it in a thread, such as by"
                " asyncio.to_thread(publisher.run)"
            )
        pace = self._pace()
        while not self._driver.is_closed:
            self._wake.clear()
            try:
                result = self._send(self._background_sender())
            except Exception as error:  # noqa: BLE001 - it is logged
                if self._driver.is_closed:
                    return
                jitter = random()  # noqa: S311 - guards nothing
                pause = pace.next(error, jitter, self._backlog())
                self._driver.clock.sleep(pause)
            else:
                pace.reset(has_sent=bool(result.sent))
                if not (result.sent or self._driver.is_closed):
                    self._wake.wait(poll_every)

    def _accept(self, alerts: Iterable[AlertInfo]) -> Sequence[QueuedAlert]:
        prepared = self._prepare(alerts)
        if self._queue is not None:
            self._queue.accept(prepared)
            self._wake.set()
        return prepared

    def _send(self, sender: Sender) -> PublishResult:
        """Send after the other calls, but not after the deadline.

        The lease of the outbox still is with one sender only.
        """
        if self.outbox is None:
            return self._driver.run(sender.run())
        limit = sender.config.budget.deadline
        is_ours = self._sending.acquire(timeout=-1 if limit is None else limit)
        try:
            return self._driver.run(sender.run())
        finally:
            if is_ours:
                self._sending.release()
