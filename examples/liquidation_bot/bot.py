"""The bot: reads, watches, lets the engine decide, and passes plans on.

One subscription reports whose position changed, another one prices. Every position is
also read again at an interval, because interest and some changes have no event.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import attrs

from liquidation_bot.decide import Plan, Reason, Skip
from liquidation_bot.display import Display, Kind, Note, library_log, short
from liquidation_bot.engine import (
    Decision,
    Engine,
    Input,
    PricesSeen,
    StateRead,
    StateSource,
    Tick,
)
from liquidation_bot.model import (
    PositionSource,
    PriceSource,
    SourceError,
    UsageError,
    shown,
)
from liquidation_bot.reading import Reader
from liquidation_bot.sources import OrtegePrices, changed, events_query
from ortege_watch import (
    AsyncCubeClient,
    ConnectionState,
    Reconnect,
    Update,
)

if TYPE_CHECKING:
    from liquidation_bot.alerts import Announcer, Listener
    from liquidation_bot.execution import Outbox
    from liquidation_bot.record import Session

__all__ = ["Bot", "MembersMissing", "Settings"]

_MAX_LINES = 10
_MAX_NAMES = 5


class MembersMissing(UsageError):
    """Raised when the server lacks members that the bot needs.

    Attributes:
        names: the members.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        super().__init__(
            f"the server lacks {', '.join(names)}: see its /meta, or use other sources "
            "(--positions, --prices)"
        )


@attrs.frozen(kw_only=True)
class Settings:
    """How the bot runs. Times are in seconds.

    Attributes:
        most_borrowers: how many borrowers are loaded at the start.
        window: how far back the subscriptions to events and prices reach.
        resync: the interval for reading all positions again.
        poll_prices: the interval for reading prices that cannot be watched.
        poll_state: the interval for reading the protocol's state.
        reread_after: when a position that changed is read once more.
        check: the interval for checking what is due.
        once: decide about everybody once, then end.
        reconnect: how the subscription is opened again after an outage.
    """

    most_borrowers: int = 5_000
    window: int = 3600
    resync: int = 300
    poll_prices: int = 30
    poll_state: int = 120
    reread_after: int = 60
    check: int = 10
    once: bool = False
    reconnect: Reconnect = attrs.field(factory=Reconnect)


class Bot:
    """The bot; it runs until it is cancelled.

    Args:
        cube: the client for events, and for the sources that use it.
        session: the market, and everything else that decides.
        positions: the source of positions.
        prices: the source of prices; Ortege's are also watched.
        borrowers: returns at most that many addresses to start with.
        members: the members that the server must have.
        outbox: receives the plans.
        display: shows what happens.
        settings: how to run.
        now: returns unix seconds.
        sleep: sleeps that many seconds.
        record: called with every input, for a replay.
        announcer: sends plans as alerts.
        listener: receives alerts, which are reasons to read a position again.
        state: the source of the protocol's state; None if it is not read.
    """

    def __init__(
        self,
        *,
        cube: AsyncCubeClient,
        session: Session,
        positions: PositionSource,
        prices: PriceSource,
        borrowers: Callable[[int], Awaitable[Sequence[str]]],
        members: Sequence[str],
        outbox: Outbox,
        display: Display,
        settings: Settings,
        now: Callable[[], int],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        record: Callable[[Input], object] | None = None,
        announcer: Announcer | None = None,
        listener: Listener | None = None,
        state: StateSource | None = None,
    ) -> None:
        self._cube = cube
        self._session = session
        self._engine = session.engine()
        self._prices = prices
        self._borrowers = borrowers
        self._members = members
        self._outbox = outbox
        self._display = display
        self._settings = settings
        self._now = now
        self._sleep = sleep
        self._record = record
        self._announcer = announcer
        self._listener = listener
        self._state = state
        self._lock = asyncio.Lock()
        self._reader = Reader(
            positions,
            now=now,
            on_read=self._handle,
            on_error=lambda text: self._say("trouble", text),
            reread_after=settings.reread_after,
        )

    @property
    def engine(self) -> Engine:
        """The engine, for reading its state."""
        return self._engine

    async def run(self) -> None:
        """Decide about everybody, then stay subscribed.

        Raises:
            MembersMissing: the server lacks members.
            OrtegeWatchError: a request failed, or the subscription cannot continue.
        """
        async with AsyncExitStack() as stack:
            stack.enter_context(library_log(lambda text: self._say("link", text)))
            await self._check_server()
            if self._announcer is not None:
                await stack.enter_async_context(self._announcer.running(self._say))
            self._introduce()
            await self._load()
            if not self._settings.once:
                await self._stay()

    async def _stay(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._run_due())
                tasks.create_task(self._watch())
                if self._listener is not None:
                    known = self._engine.positions
                    tasks.create_task(
                        self._listener.run(known, self._on_alerts, self._say)
                    )
        except ExceptionGroup as group:
            error = group.exceptions[0]
            raise error from error.__cause__

    async def _check_server(self) -> None:
        meta = await self._cube.meta()
        missing = [name for name in self._members if name not in meta]
        if missing:
            raise MembersMissing(missing)

    def _introduce(self) -> None:
        market = self._engine.market
        self._say(
            "start",
            f"{market.name}, {len(market.reserves)} reserves as of {market.as_of} "
            f"(source: {market.source})",
        )
        for doubt in market.unverified:
            self._say("start", f"not verified: {doubt}")

    async def _load(self) -> None:
        """Read prices and the positions of all borrowers for the first time."""
        await self._read_state()
        await self._read_prices()
        try:
            found = await self._borrowers(self._settings.most_borrowers)
        except SourceError as error:
            self._say("trouble", str(error))
            return
        if len(found) >= self._settings.most_borrowers:
            self._say(
                "trouble",
                f"there may be more than {len(found)} borrowers; the others are unknown "
                "until they have an event (--most-borrowers)",
            )
        await self._reader.read(found)
        self._say("start", self._overview())

    def _overview(self) -> str:
        """Return how many borrowers owe something, and who is nearest to liquidation."""
        known = [
            (each.standing.headroom, borrower, each.standing.text)
            for borrower, each in self._engine.decisions.items()
            if each.standing is not None
        ]
        nearest = [f"{short(who)} {text}" for _, who, text in sorted(known)]
        return f"{len(self._engine.positions)} borrowers owe something" + (
            f"; nearest to liquidation: {', '.join(nearest[:3])}" if nearest else ""
        )

    async def _watch(self) -> None:
        """Stay subscribed."""
        # The start of the window is fixed in the query, so each window needs a new one.
        while True:
            opened = self._now()
            since = datetime.fromtimestamp(opened, UTC) - timedelta(
                seconds=self._settings.window
            )
            events = events_query(self._engine.rules.watched, since)
            queries = [events]
            if isinstance(self._prices, OrtegePrices):
                queries.append(self._prices.query(since))
            async with self._cube.watch(
                *queries,
                reconnect=self._settings.reconnect,
                on_state=self._on_state,
                on_error=lambda error: self._say("trouble", str(error)),
            ) as updates:
                async for update in updates:
                    if update.query == events:
                        await self._on_events(update)
                    elif isinstance(self._prices, OrtegePrices):
                        prices = tuple(self._prices.read(update.result))
                        await self._handle(PricesSeen(self._now(), prices))
                    if self._now() - opened >= self._settings.window:
                        break

    async def _on_events(self, update: Update) -> None:
        addresses, everybody = changed(update, self._engine.rules.watched)
        if update.first:
            hours = self._settings.window / 3600
            self._say(
                "link",
                f"watching; {len(addresses)} addresses had events in the last {hours:g} h",
            )
        elif addresses:
            names = ", ".join(short(each) for each in addresses[:_MAX_NAMES])
            left = len(addresses) - _MAX_NAMES
            more = f" and {left} more" if left > 0 else ""
            after = " during the outage" if update.resumed else ""
            self._say("event", f"{names}{more} changed{after}: reading again")
        others = self._engine.positions if everybody else ()
        await self._reader.changed({*addresses, *others})
        if not update.first:
            self._say_standing("event", addresses)

    async def _on_alerts(self, addresses: Sequence[str], why: str) -> None:
        self._say("alert", why)
        await self._reader.changed(addresses)
        self._say_standing("alert", addresses)

    def _say_standing(self, kind: Kind, addresses: Sequence[str]) -> None:
        decisions = self._engine.decisions
        known = [(who, decisions.get(who)) for who in addresses[:_MAX_NAMES]]
        words = [
            f"{short(who)} {each.standing.text}"
            for who, each in known
            if each is not None and each.standing is not None
        ]
        if words:
            self._say(kind, f"now: {', '.join(words)}")

    async def _run_due(self) -> None:
        """Read what is due by time: prices and interest have no events."""
        watched = isinstance(self._prices, OrtegePrices)
        last_resync = last_prices = last_state = self._now()
        while True:
            await self._sleep(self._settings.check)
            now = self._now()
            if now - last_state >= self._settings.poll_state:
                last_state = now
                await self._read_state()
            if now - last_resync >= self._settings.resync:
                last_resync = last_prices = now
                await self._read_prices()
                await self._handle(Tick(now))
                await self._reader.read(self._engine.positions)
            elif not watched and now - last_prices >= self._settings.poll_prices:
                last_prices = now
                await self._read_prices()
            await self._reader.run_due()

    def _on_state(self, state: ConnectionState) -> None:
        self._say("link", f"subscription {state}", state=str(state))

    async def _read_state(self) -> None:
        if self._state is None:
            return
        try:
            state = await self._state.state(self._now())
        except SourceError as error:
            self._say("trouble", str(error))
            return
        await self._handle(StateRead(self._now(), state))

    async def _read_prices(self) -> None:
        try:
            prices = await self._prices.prices()
        except SourceError as error:
            self._say("trouble", str(error))
            return
        await self._handle(PricesSeen(self._now(), tuple(prices)))

    async def _handle(self, given: Input) -> None:
        async with self._lock:
            if self._record is not None:
                self._record(given)
            before = dict(self._engine.decisions)
            prices = self._engine.prices_in_words()
            decisions = self._engine.handle(given)
            if (words := self._engine.prices_in_words()) != prices:
                self._say("prices", words)
            for decision in decisions:
                if isinstance(decision, Plan):
                    await self._send(decision)
            skips = [each for each in decisions if isinstance(each, Skip)]
            self._say_skips([each for each in skips if _is_news(each, before)])

    def _say_skips(self, skips: Sequence[Skip]) -> None:
        """Show each skip with its reason; many at once only as counts."""
        if len(skips) > _MAX_LINES:
            counts = Counter(each.reason for each in skips).most_common()
            words = ", ".join(f"{reason} {count}" for reason, count in counts)
            self._say("skip", f"{len(skips)} borrowers: {words}")
            return
        for skip in skips:
            self._say(
                "skip",
                f"{short(skip.borrower)} {skip.reason}: {skip.detail}",
                borrower=skip.borrower,
                reason=str(skip.reason),
            )

    async def _send(self, plan: Plan) -> None:
        document = self._session.document(plan)
        until = self._engine.cool_downs[plan.borrower]
        done = await self._outbox.send(plan, document, until=until)
        self._say("plan", f"{in_words(plan)} ({done})", plan=document)
        if self._announcer is not None:
            self._announcer.announce(plan, document["id"])

    def _say(self, kind: Kind, text: str, **data: Any) -> None:
        self._display.show(Note(kind, self._now(), text, data), self._engine)


def in_words(plan: Plan) -> str:
    """Return a plan as a sentence."""
    paid = shown(plan.offer.paid, plan.debt.decimals, 2)
    gets = shown(plan.offer.received, plan.collateral.decimals, 2)
    return (
        f"{short(plan.borrower)} {plan.standing.text}: pay {paid} "
        f"{plan.debt.symbol}, get {gets} {plan.collateral.symbol}, "
        f"expect {shown(plan.profit_usd, 8, 2)} USD"
    )


def _is_news(skip: Skip, decisions: Mapping[str, Decision]) -> bool:
    """Return whether a skip is worth a line: a new reason, or a new borrower at risk."""
    before = decisions.get(skip.borrower)
    if before is None:
        return skip.reason not in (Reason.HEALTHY, Reason.NO_DEBT)
    return isinstance(before, Plan) or before.reason != skip.reason
