"""Plans as alerts, and alerts as reasons to read a position again.

An alert names its entity as 20 bytes in hex on a numbered chain, which suits chains with
such addresses. A Stacks address is a version and a hash of 20 bytes, in c32check. The
mapping between the two is **this example's own convention**, which every receiver of
its alerts has to know:

- The entity is ``0x`` and the hash; for a contract, the hash of its issuer. The whole
  address is among the values.
- The chain is 5757, the coin type of Stacks in SLIP-0044. Stacks' own chain id, 1,
  would be read as Ethereum's.
- The entity type is ``StacksPrincipal``, which the watch-bus does not know.

Sending and receiving run beside the bot, which never waits for either.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeAlias, TypeVar

import attrs

from liquidation_bot.display import Kind, short
from liquidation_bot.model import exact
from liquidation_bot.stacks import c32_decode, c32_encode
from ortege_watch import InvalidArgument, OrtegeWatchError
from ortege_watch.watchbus import (
    AlertChannel,
    AlertInfo,
    AsyncAlertPublisher,
    Credentials,
    EventValues,
    PublishResult,
    RequestVerifier,
    serve_alert_channel,
)

if TYPE_CHECKING:
    from liquidation_bot.engine import Plan

__all__ = [
    "CHAIN_ID",
    "ENTITY_TYPE",
    "AlertSink",
    "Announcer",
    "BackgroundSender",
    "Ignored",
    "LiquidationPlan",
    "ListenAddress",
    "Listener",
    "beside",
    "borrowers_of",
    "credentials",
    "entity_of",
    "is_round",
    "open_sink",
    "plan_alert",
    "serve",
]

CHAIN_ID: Final = 5757
ENTITY_TYPE: Final = "StacksPrincipal"

_VERSIONS: Final = (22, 20, 26, 21)  # SP, SM, ST and SN
_ENTITY: Final = re.compile(r"0x[0-9a-fA-F]{40}")
_QUEUE_SIZE: Final = 1000
_BATCH_SIZE: Final = 100
_MAX_NAMES: Final = 5

T = TypeVar("T")
Say: TypeAlias = Callable[[Kind, str], object]


class LiquidationPlan(EventValues, code="liquidation_plan"):
    """A plan; amounts are exact, in whole tokens and in dollars."""

    plan_id: str
    borrower: str
    standing: str
    debt_asset: str
    pays: Decimal
    collateral_asset: str
    gets: Decimal
    profit_usd: Decimal


class Ignored(Exception):
    """Raised when an alert does not concern the bot; the message says what it is about."""


def entity_of(principal: str) -> str:
    """Return the entity of an address, or of a contract's address.

    Raises:
        ClarityError: the address is invalid.
    """
    _, payload = c32_decode(principal.partition(".")[0])
    return f"0x{payload.hex()}"


def plan_alert(plan: Plan, plan_id: str) -> AlertInfo:
    """Return a plan, and the ``id`` of its document, as an alert about its borrower.

    Raises:
        ClarityError: the borrower's address is invalid.
    """
    return AlertInfo(
        entity=entity_of(plan.borrower),
        chain_id=CHAIN_ID,
        entity_type=ENTITY_TYPE,
        event_code="liquidation_plan",
        timestamp=plan.made_at,
        event_values=LiquidationPlan(
            plan_id=plan_id,
            borrower=plan.borrower,
            standing=plan.standing.text,
            debt_asset=plan.debt.symbol,
            pays=exact(plan.offer.paid, plan.debt.decimals),
            collateral_asset=plan.collateral.symbol,
            gets=exact(plan.offer.received, plan.collateral.decimals),
            profit_usd=exact(plan.profit_usd, 8),
        ),
    )


def borrowers_of(alert: AlertInfo, known: Iterable[str]) -> list[str]:
    """Return the known borrowers that an alert is about.

    Its event code and values do not matter: an alert is only a reason to read a
    position again, and nothing in it is trusted.

    Raises:
        Ignored: it is about none of them.
    """
    ours = alert.entity_type.casefold() == ENTITY_TYPE.casefold()
    if not ours or alert.chain_id != CHAIN_ID or not _ENTITY.fullmatch(alert.entity):
        raise Ignored("another kind of entity")
    payload = bytes.fromhex(alert.entity[2:])
    addresses = {c32_encode(version, payload) for version in _VERSIONS}
    found = [who for who in known if who.partition(".")[0].upper() in addresses]
    if not found:
        raise Ignored("an unknown borrower")
    return found


def credentials(prefix: str, environ: Mapping[str, str]) -> Credentials:
    """Read ``<prefix>_APP_ID`` and ``<prefix>_SECRET``, never given as options.

    Raises:
        InvalidArgument: one of them is missing or invalid.
    """
    names = [f"{prefix}_APP_ID", f"{prefix}_SECRET"]
    missing = [name for name in names if not environ.get(name)]
    if missing:
        raise InvalidArgument(f"set {' and '.join(missing)} in the environment")
    return Credentials(*(environ[name] for name in names))


class AlertSink(Protocol):
    """Where alerts go; an ``AsyncAlertPublisher`` is one."""

    def publish(self, alerts: Iterable[AlertInfo], /) -> Awaitable[PublishResult]:
        """Send alerts, or raise OrtegeWatchError; only an outbox keeps the unsent ones."""
        ...

    async def flush(self) -> PublishResult:
        """Send the queued alerts, or raise OrtegeWatchError."""
        ...


@attrs.frozen
class _WithoutOutbox:
    """A sink that has nothing to flush."""

    publish: Callable[[Iterable[AlertInfo]], Awaitable[PublishResult]]

    async def flush(self) -> PublishResult:
        return PublishResult()


async def _send_over(
    channel: AlertChannel, alerts: Iterable[AlertInfo], /
) -> PublishResult:
    sent = tuple(alerts)
    await channel.send(sent)
    return PublishResult(sent=sent)


@asynccontextmanager
async def open_sink(
    url: str, signer: Credentials, outbox: Path | None = None
) -> AsyncIterator[AlertSink]:
    """Open a channel to a ``ws`` or ``wss`` URL, or a publisher that POSTs to others.

    An outbox, a file, keeps alerts until they are sent; only for POST.

    Raises:
        InvalidArgument: the URL is invalid.
        OrtegeWatchError: the outbox cannot be opened.
    """
    if url.startswith(("ws:", "wss:")):
        async with AlertChannel(url, signer) as channel:
            yield _WithoutOutbox(partial(_send_over, channel))
    else:
        async with AsyncAlertPublisher(url, signer, outbox=outbox) as publisher:
            yield publisher if outbox else _WithoutOutbox(publisher.publish)


@asynccontextmanager
async def beside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run tasks inside the block; raise at its end what a bug in them raised."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


async def _batch(queue: asyncio.Queue[T], most: int) -> list[T]:
    """Wait for an item; return it with those behind it."""
    items = [await queue.get()]
    while len(items) < most and not queue.empty():
        items.append(queue.get_nowait())
    return items


class BackgroundSender(Generic[T]):
    """A bounded queue and a task that empties it; neither delays nor stops the bot.

    Args:
        what: names the items in messages.
        size: how many items the queue holds.
        batch: how many items are sent together at most.
        linger: seconds for the remaining items after the bot has ended by itself.

    Attributes:
        counts: how many items were sent, and how many were not.
    """

    def __init__(self, what: str, *, size: int, batch: int, linger: float) -> None:
        self._what = what
        self._batch = batch
        self._linger = linger
        self._queue = asyncio.Queue[T](size)
        self._in_flight = self._dropped = 0
        self._say: Say = lambda _kind, _text: None
        self.counts = Counter[str]()

    def put(self, item: T) -> None:
        """Queue an item; if the queue is full, say so and count it as not sent."""
        try:
            self._queue.put_nowait(item)
        except asyncio.QueueFull:
            self.counts["not sent"] += 1
            self._dropped += 1
            if is_round(self._dropped):
                full = f"the queue of {self._what} is full"
                self._say("trouble", f"{full}: {self._dropped} dropped so far")

    @asynccontextmanager
    async def running(self, say: Say) -> AsyncIterator[None]:
        """Send inside the block, and up to ``linger`` seconds after it."""
        self._say = say
        try:
            async with beside(self._run(), self._run_beside()):
                yield
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._queue.join(), self._linger)
        finally:
            self.counts["not sent"] += self._queue.qsize() + self._in_flight
            if count := self.counts["not sent"]:
                say("trouble", f"{self._what} not sent: {count}")

    async def _run(self) -> None:
        while True:
            items = await _batch(self._queue, self._batch)
            self._in_flight = len(items)
            await self._send(items)
            self._in_flight = 0
            for _ in items:
                self._queue.task_done()

    async def _send(self, items: list[T]) -> None:
        """Send a batch; count and report what fails."""
        raise NotImplementedError

    async def _run_beside(self) -> None:
        """Do what else is to be done while it runs."""


class Announcer(BackgroundSender[AlertInfo]):
    """A background sender of plans as alerts; its errors never stop the bot.

    Args:
        sink: where alerts go.
        sleep: sleeps that many seconds.
        every: seconds between two attempts to send queued alerts.
        linger: seconds for the remaining alerts after the bot has ended by itself.

    Attributes:
        counts: how many alerts were sent, refused and not sent.
    """

    def __init__(
        self,
        sink: AlertSink,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        every: float = 60.0,
        linger: float = 10.0,
    ) -> None:
        super().__init__("alerts", size=_QUEUE_SIZE, batch=_BATCH_SIZE, linger=linger)
        self._sink = sink
        self._sleep = sleep
        self._every = every

    def announce(self, plan: Plan, plan_id: str) -> None:
        """Queue a plan."""
        self.put(plan_alert(plan, plan_id))

    async def _send(self, items: list[AlertInfo]) -> None:
        try:
            self._count(await self._sink.publish(items))
        except OrtegeWatchError as error:
            done = self._count(error.published or PublishResult())
            left = max(len(items) - done, 0)
            self.counts["not sent"] += left
            self._say("trouble", f"{left} alerts not sent: {error}")

    async def _run_beside(self) -> None:
        while True:
            try:
                self._count(await self._sink.flush())
            except OrtegeWatchError as error:
                self._count(error.published or PublishResult())
                self._say("trouble", f"alerts stay queued: {error}")
            await self._sleep(self._every)

    def _count(self, result: PublishResult) -> int:
        """Count a result; the library logs what was queued or rejected."""
        self.counts["sent"] += len(result.sent)
        self.counts["refused"] += len(result.dead)
        if result.sent:
            names = [
                f"{each.event_code} about {short(str(each.event_values['borrower']))}"
                for each in result.sent
            ]
            self._say("alert", f"{_few(names)}: sent")
        return len(result.sent) + len(result.dead)


class Listener:
    """A receiver of alerts that has the positions they are about read again.

    :meth:`take` is a handler for ``serve_alert_channel`` and for ``alert_app``. While
    its queue is full it waits, and the sender with it.

    Attributes:
        counts: how many alerts concerned the bot, and how many did not, by reason.
    """

    def __init__(self) -> None:
        self._queue = asyncio.Queue[AlertInfo](_QUEUE_SIZE)
        self.counts = Counter[str]()

    async def take(self, alert: AlertInfo) -> None:
        """Queue an alert; call it on the bot's event loop."""
        await self._queue.put(alert)

    async def run(
        self,
        known: Iterable[str],
        read: Callable[[Sequence[str], str], Awaitable[None]],
        say: Say,
    ) -> None:
        """Have ``known`` borrowers, iterated anew for each alert, read until cancelled.

        ``read`` gets their addresses, and why; ``say`` each tenfold count of skipped ones.
        """
        while True:
            concerned: dict[str, str] = {}
            for alert in await _batch(self._queue, _BATCH_SIZE):
                try:
                    found = borrowers_of(alert, known)
                except Ignored as reason:
                    self._skip(str(reason), say)
                    continue
                self.counts["about a borrower"] += 1
                concerned.update(dict.fromkeys(found, alert.event_code))
            if concerned:
                names = [
                    f"{_printable(code)} about {short(who)}"
                    for who, code in concerned.items()
                ]
                await read(list(concerned), f"{_few(names)}: reading again")

    def _skip(self, reason: str, say: Say) -> None:
        self.counts[reason] += 1
        if is_round(count := self.counts[reason]):
            say("alert", f"skipped, {count} so far: it is about {reason}")


def is_round(count: int) -> bool:
    """Return whether a count is 1, 10, 100, ...: not every time is worth a line."""
    return str(count).rstrip("0") == "1"


def _few(names: Sequence[str]) -> str:
    left = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {left} more" if left > 0 else "")


def _printable(code: str) -> str:
    """Escape and shorten a sender's string for a terminal."""
    return ascii(code)[1:-1][:40]


@attrs.frozen
class ListenAddress:
    """Where alerts are received; port 0 lets the system choose, senders sign the path."""

    host: str
    port: int
    path: str


@asynccontextmanager
async def serve(
    address: ListenAddress, sender: Credentials, listener: Listener
) -> AsyncIterator[str]:
    """Receive alerts over WebSocket inside the block; yield the channel's URL.

    Raises:
        InvalidArgument: the path is invalid.
        OrtegeWatchError: the address is not available.
    """
    verifier = RequestVerifier(
        {sender.app_id: [sender.secret]}, path=address.path, method="GET"
    )
    async with serve_alert_channel(
        verifier, listener.take, host=address.host, port=address.port
    ) as server:
        yield server.url
