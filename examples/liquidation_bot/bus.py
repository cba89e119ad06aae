"""Alerts out and in: beside the bot, which waits for neither.

What is sent is what the bot has found; what comes is a reason to read a position again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import attrs

from liquidation_bot.alerts import Ignored, borrowers_of, plan_alert
from liquidation_bot.display import Kind, short
from ortege_watch import InvalidArgument, OrtegeWatchError
from ortege_watch.watchbus import (
    AlertChannel,
    AlertInfo,
    AsyncAlertPublisher,
    Credentials,
    PublishResult,
    RequestVerifier,
    serve_alert_channel,
)

if TYPE_CHECKING:
    from liquidation_bot.decide import Plan

__all__ = ["Announcer", "Listener", "Place", "Way", "credentials", "open_way", "serve"]

_WAITING: Final = 1000
_BATCH: Final = 100
_NAMES: Final = 5

Say: TypeAlias = Callable[[Kind, str], object]


def credentials(prefix: str, environ: Mapping[str, str]) -> Credentials:
    """Read an app id and a secret from the environment: they are no options.

    Args:
        prefix: ``ALERTS_TO`` or ``ALERTS_FROM``.
        environ: ``<prefix>_APP_ID`` and ``<prefix>_SECRET`` of it are read.

    Raises:
        InvalidArgument: one is not there or cannot be used.
    """
    names = [f"{prefix}_APP_ID", f"{prefix}_SECRET"]
    missing = [name for name in names if not environ.get(name)]
    if missing:
        raise InvalidArgument(f"set {' and '.join(missing)} in the environment")
    return Credentials(*(environ[name] for name in names))


# ------------------------------------------------------------------------------- out


class Way(Protocol):
    """Send alerts somewhere; an ``AsyncAlertPublisher`` is one."""

    async def publish(self, alerts: Iterable[AlertInfo], /) -> PublishResult:
        """Send them; what is among the unsent waits, and is sent later.

        Raises:
            OrtegeWatchError: some were not sent, and do not wait.
        """
        ...

    async def flush(self) -> PublishResult:
        """Send what waits.

        Raises:
            OrtegeWatchError: not now.
        """
        ...


@attrs.frozen
class _Channel:
    channel: AlertChannel

    async def publish(self, alerts: Iterable[AlertInfo], /) -> PublishResult:
        sent = tuple(alerts)
        await self.channel.send(sent)
        return PublishResult(sent=sent)

    async def flush(self) -> PublishResult:
        return PublishResult()


@asynccontextmanager
async def open_way(
    url: str, signer: Credentials, outbox: Path | None = None
) -> AsyncIterator[Way]:
    """Open the way to an address: ``ws`` and ``wss`` are a channel, all else is POST.

    Args:
        url: where alerts go.
        signer: what they are signed with.
        outbox: a file where alerts wait until they are sent; for POST alone.

    Raises:
        InvalidArgument: the address cannot be used.
        OrtegeWatchError: the outbox cannot be used.
    """
    if url.startswith(("ws:", "wss:")):
        async with AlertChannel(url, signer) as channel:
            yield _Channel(channel)
    else:
        async with AsyncAlertPublisher(url, signer, outbox=outbox) as publisher:
            yield publisher


class Announcer:
    """Send each plan as an alert, in the background; no trouble with it stops the bot.

    Attributes:
        counts: how many alerts were sent, refused and not sent.

    Args:
        way: where alerts go.
        sleep: waits that many seconds.
        every: seconds between two attempts to send what waits.
        linger: seconds that alerts may still take when the bot has ended by itself.
    """

    def __init__(
        self,
        way: Way,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        every: float = 60.0,
        linger: float = 10.0,
    ) -> None:
        self._way = way
        self._sleep = sleep
        self._every = every
        self._linger = linger
        self._queue = asyncio.Queue[AlertInfo](_WAITING)
        self._under_way = 0
        self.counts = Counter[str]()

    def announce(self, plan: Plan, plan_id: str) -> None:
        """Send a plan soon; while a thousand others wait for that, it is not sent."""
        try:
            self._queue.put_nowait(plan_alert(plan, plan_id))
        except asyncio.QueueFull:
            self.counts["not sent"] += 1

    @asynccontextmanager
    async def running(self, say: Say) -> AsyncIterator[None]:
        """Send while this lasts, and a little longer unless it is cancelled."""
        tasks = [
            asyncio.create_task(self._send(say)),
            asyncio.create_task(self._flush(say)),
        ]
        try:
            yield
            joined = asyncio.create_task(self._queue.join())
            tasks.append(joined)
            await asyncio.wait([joined], timeout=self._linger)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self.counts["not sent"] += self._queue.qsize() + self._under_way
            if count := self.counts["not sent"]:
                say("trouble", f"alerts that were not sent: {count}")
        for task in tasks:
            if not task.cancelled():
                task.result()  # a defect does not stay hidden

    async def _send(self, say: Say) -> None:
        while True:
            alerts = [await self._queue.get()]
            while len(alerts) < _BATCH and not self._queue.empty():
                alerts.append(self._queue.get_nowait())
            self._under_way = len(alerts)
            try:
                self._count(await self._way.publish(alerts), say)
            except OrtegeWatchError as error:
                done = self._count(error.published or PublishResult(), say)
                left = max(len(alerts) - done, 0)
                self.counts["not sent"] += left
                say("trouble", f"{left} alerts are not sent: {error}")
            self._under_way = 0
            for _ in alerts:
                self._queue.task_done()

    async def _flush(self, say: Say) -> None:
        while True:
            try:
                self._count(await self._way.flush(), say)
            except OrtegeWatchError as error:
                self._count(error.published or PublishResult(), say)
                say("trouble", f"alerts wait: {error}")
            await self._sleep(self._every)

    def _count(self, result: PublishResult, say: Say) -> int:
        """Count what is done; what waits or is refused the library's log tells."""
        self.counts["sent"] += len(result.sent)
        self.counts["refused"] += len(result.rejected)
        if result.sent:
            say("alert", f"{_named(result.sent)}: sent")
        return len(result.sent) + len(result.rejected)


def _named(alerts: Sequence[AlertInfo]) -> str:
    return _few(
        [
            f"{each.event_code} about {short(str(each.event_values['borrower']))}"
            for each in alerts
        ]
    )


def _few(names: Sequence[str]) -> str:
    left = len(names) - _NAMES
    return ", ".join(names[:_NAMES]) + (f" and {left} more" if left > 0 else "")


def _plain(code: str) -> str:
    """Make another's word fit for a terminal."""
    return ascii(code)[1:-1][:40]


# -------------------------------------------------------------------------------- in


class Listener:
    """Take alerts, and have the borrowers that they are about read again.

    :meth:`take` is a handler for ``serve_alert_channel`` and for ``alert_app``. It
    waits while a thousand alerts wait to be looked at, and so does the sender.

    Attributes:
        counts: how many alerts concerned the bot, and how many did not, by reason.
    """

    def __init__(self) -> None:
        self._queue = asyncio.Queue[AlertInfo](_WAITING)
        self.counts = Counter[str]()

    async def take(self, alert: AlertInfo) -> None:
        """Take an alert, from the event loop that the bot runs on."""
        await self._queue.put(alert)

    async def run(
        self,
        known: Iterable[str],
        read: Callable[[Sequence[str], str], Awaitable[None]],
        say: Say,
    ) -> None:
        """Have borrowers read until cancelled.

        Args:
            known: the borrowers, as they are when an alert is looked at.
            read: reads them; the text says why.
            say: told about alerts that are skipped: the first, the tenth, and so on.
        """
        while True:
            concerned: dict[str, str] = {}
            self._look(await self._queue.get(), known, concerned, say)
            for _ in range(min(self._queue.qsize(), _BATCH)):
                self._look(self._queue.get_nowait(), known, concerned, say)
            if concerned:
                await read(list(concerned), _told(concerned))

    def _look(
        self,
        alert: AlertInfo,
        known: Iterable[str],
        concerned: dict[str, str],
        say: Say,
    ) -> None:
        try:
            found = borrowers_of(alert, known)
        except Ignored as why:
            self.counts[str(why)] += 1
            count = self.counts[str(why)]
            if str(count).rstrip("0") == "1":
                say("alert", f"skipped, {count} so far: it is about {why}")
            return
        self.counts["about a borrower"] += 1
        concerned.update(dict.fromkeys(found, alert.event_code))


def _told(concerned: Mapping[str, str]) -> str:
    names = [f"{_plain(code)} about {short(who)}" for who, code in concerned.items()]
    return f"{_few(names)}: reading again"


@attrs.frozen
class Place:
    """Say where alerts are taken.

    Attributes:
        host: the address to listen on.
        port: 0 lets the system choose.
        path: what senders sign.
    """

    host: str
    port: int
    path: str


@asynccontextmanager
async def serve(
    place: Place, sender: Credentials, listener: Listener
) -> AsyncIterator[str]:
    """Take alerts over WebSocket while this lasts; give the channel's address.

    Raises:
        InvalidArgument: the path cannot be signed.
        OrtegeWatchError: the address cannot be listened on.
    """
    verifier = RequestVerifier(
        {sender.app_id: [sender.secret]}, path=place.path, method="GET"
    )
    async with serve_alert_channel(
        verifier, listener.take, host=place.host, port=place.port
    ) as server:
        yield server.url
