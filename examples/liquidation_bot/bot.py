"""The bot: reads, watches, lets the engine decide, and hands plans on.

One subscription says who moved, another one what assets cost; everything is read again
now and then all the same, for what no event tells.
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
    Tick,
)
from liquidation_bot.model import PositionSource, PriceSource, SourceError, shown
from liquidation_bot.ortege import OrtegePrices, events_query, moved
from liquidation_bot.reading import Reader
from ortege_watch import (
    AsyncCubeClient,
    ConnectionState,
    Reconnect,
    Update,
)

if TYPE_CHECKING:
    from liquidation_bot.bus import Announcer, Listener
    from liquidation_bot.execution import Outbox
    from liquidation_bot.record import Session

__all__ = ["Bot", "MembersMissing", "Settings"]

_MOST_LINES = 10
_NAMES = 5


class MembersMissing(Exception):
    """Report that the server lacks members that the bot needs.

    Attributes:
        names: the members.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        super().__init__(
            "the server has no " + ", ".join(names) + ": see its /meta, "
            "or read positions and prices elsewhere (--positions, --prices)"
        )


@attrs.frozen(kw_only=True)
class Settings:
    """Say how the bot runs. Times in seconds.

    Attributes:
        most_borrowers: how many are loaded at the start.
        window: how far back events and prices are subscribed to.
        resync: how often everybody is read again.
        poll_prices: how often prices that cannot be watched are read.
        settle: when whoever moved is read once more.
        tend: how often it is looked whether something of all that is due.
        once: look once and end.
        reconnect: how the subscription comes back after an outage.
    """

    most_borrowers: int = 5_000
    window: int = 3600
    resync: int = 300
    poll_prices: int = 30
    settle: int = 60
    tend: int = 10
    once: bool = False
    reconnect: Reconnect = attrs.field(factory=Reconnect)


class Bot:
    """Run until cancelled.

    Args:
        cube: asked for events, and by the sources for more.
        session: the market, and what decides.
        positions: where positions are read.
        prices: where prices are read; Ortege's are watched as well.
        borrowers: names at most that many addresses to begin with.
        members: what the server must have.
        outbox: takes the plans.
        display: shows what happens.
        settings: how to run.
        now: unix seconds.
        sleep: waits that many seconds.
        record: takes every input, for a replay.
        announcer: sends plans as alerts.
        listener: takes alerts: reasons to read a position again.
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
        self._one_at_a_time = asyncio.Lock()
        self._reader = Reader(
            positions,
            now=now,
            take=self._take,
            trouble=lambda text: self._say("trouble", text),
            settle=settings.settle,
        )

    @property
    def engine(self) -> Engine:
        """Give the engine, to look at."""
        return self._engine

    async def run(self) -> None:
        """Look at everybody, then stay subscribed.

        Raises:
            MembersMissing: the server lacks members.
            OrtegeWatchError: the server cannot be asked, or nothing more will come.
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
                tasks.create_task(self._tend())
                tasks.create_task(self._watch())
                if self._listener is not None:
                    known = self._engine.positions
                    tasks.create_task(
                        self._listener.run(known, self._alerted, self._say)
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

    # ------------------------------------------------------------------- what comes

    async def _load(self) -> None:
        """Read prices and everybody who owes: the first look."""
        await self._read_prices()
        try:
            found = await self._borrowers(self._settings.most_borrowers)
        except SourceError as error:
            self._say("trouble", str(error))
            return
        if len(found) >= self._settings.most_borrowers:
            self._say(
                "trouble",
                f"there may be more than {len(found)} borrowers; the rest is unseen "
                "until it moves (--most-borrowers)",
            )
        await self._reader.read(found)
        self._say("start", self._overview())

    def _overview(self) -> str:
        """Say how many owe something, and who is nearest to the threshold."""
        known = [
            (each.health, borrower)
            for borrower, each in self._engine.decisions.items()
            if each.health is not None
        ]
        lowest = [f"{short(who)} {shown(value, 8, 4)}" for value, who in sorted(known)]
        return f"{len(self._engine.positions)} borrowers owe something" + (
            f"; the lowest health: {', '.join(lowest[:3])}" if lowest else ""
        )

    async def _watch(self) -> None:
        """Stay subscribed; begin anew now and then, for a window has a fixed start."""
        while True:
            opened = self._now()
            since = datetime.fromtimestamp(opened, UTC) - timedelta(
                seconds=self._settings.window
            )
            events = events_query(self._engine.market, since)
            queries = [events]
            if isinstance(self._prices, OrtegePrices):
                queries.append(self._prices.query(since))
            async with self._cube.watch(
                *queries,
                reconnect=self._settings.reconnect,
                on_state=self._link,
                on_error=lambda error: self._say("trouble", str(error)),
            ) as updates:
                async for update in updates:
                    if update.query == events:
                        await self._events(update)
                    elif isinstance(self._prices, OrtegePrices):
                        await self._take(
                            PricesSeen(
                                self._now(), tuple(self._prices.read(update.result))
                            )
                        )
                    if self._now() - opened >= self._settings.window:
                        break

    async def _events(self, update: Update) -> None:
        addresses, everybody = moved(update)
        if update.first:
            hours = self._settings.window / 3600
            self._say(
                "link",
                f"watching; in the last {hours:g} h {len(addresses)} addresses moved",
            )
        elif addresses:
            names = ", ".join(short(each) for each in addresses[:_NAMES])
            left = len(addresses) - _NAMES
            more = f" and {left} more" if left > 0 else ""
            after = " during the outage" if update.resumed else ""
            self._say("event", f"{names}{more} moved{after}: reading again")
        others = self._engine.positions if everybody else ()
        await self._reader.moved({*addresses, *others})
        if not update.first:
            self._tell_health("event", addresses)

    async def _alerted(self, addresses: Sequence[str], why: str) -> None:
        self._say("alert", why)
        await self._reader.moved(addresses)
        self._tell_health("alert", addresses)

    def _tell_health(self, kind: Kind, addresses: Sequence[str]) -> None:
        decisions = self._engine.decisions
        known = [(who, decisions.get(who)) for who in addresses[:_NAMES]]
        words = [
            f"{short(who)} {shown(each.health, 8, 4)}"
            for who, each in known
            if each is not None and each.health is not None
        ]
        if words:
            self._say(kind, f"health is now: {', '.join(words)}")

    async def _tend(self) -> None:
        """Do what time asks for: prices and interest emit no event."""
        watched = isinstance(self._prices, OrtegePrices)
        everybody = prices = self._now()
        while True:
            await self._sleep(self._settings.tend)
            now = self._now()
            if now - everybody >= self._settings.resync:
                everybody = prices = now
                await self._read_prices()
                await self._take(Tick(now))
                await self._reader.read(self._engine.positions)
            elif not watched and now - prices >= self._settings.poll_prices:
                prices = now
                await self._read_prices()
            await self._reader.tend()

    def _link(self, state: ConnectionState) -> None:
        self._say("link", f"subscription {state}", state=str(state))

    async def _read_prices(self) -> None:
        try:
            prices = await self._prices.prices()
        except SourceError as error:
            self._say("trouble", str(error))
            return
        await self._take(PricesSeen(self._now(), tuple(prices)))

    # ------------------------------------------------------------------ what follows

    async def _take(self, given: Input) -> None:
        async with self._one_at_a_time:
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
            self._skipped(
                [
                    each
                    for each in decisions
                    if isinstance(each, Skip) and _is_news(each, before)
                ]
            )

    def _skipped(self, skips: Sequence[Skip]) -> None:
        """Say whom it leaves alone and why; many at once only by their reasons."""
        if len(skips) > _MOST_LINES:
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
    """Write a plan for people."""
    paid = shown(plan.sizing.paid, plan.debt.decimals, 2)
    gets = shown(plan.sizing.to_liquidator, plan.collateral.decimals, 2)
    return (
        f"{short(plan.borrower)} health {shown(plan.health, 8, 4)}: pay {paid} "
        f"{plan.debt.symbol}, get {gets} {plan.collateral.symbol}, "
        f"expect {shown(plan.profit_usd, 8, 2)} USD"
    )


def _is_news(skip: Skip, decisions: Mapping[str, Decision]) -> bool:
    """Tell whether a reason is worth a line: it has changed, or somebody is new."""
    before = decisions.get(skip.borrower)
    if before is None:
        return skip.reason not in (Reason.HEALTHY, Reason.NO_DEBT)
    return isinstance(before, Plan) or before.reason != skip.reason
