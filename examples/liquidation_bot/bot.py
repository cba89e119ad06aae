"""The bot: reads, watches, lets the engine decide, and hands plans on.

One subscription says who moved, another one what assets cost; everything is read again
now and then all the same, for what no event tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import attrs

from liquidation_bot.decide import Plan, Reason, Skip
from liquidation_bot.display import Display, Kind, Note, library_log, short
from liquidation_bot.engine import (
    Decision,
    Engine,
    Input,
    PositionsRead,
    PricesSeen,
    Tick,
)
from liquidation_bot.model import PositionSource, PriceSource, SourceError, shown
from liquidation_bot.ortege import OrtegePrices, events_query, moved
from liquidation_bot.state import State
from ortege_watch import (
    AsyncCubeClient,
    ConnectionState,
    Reconnect,
    Update,
)

if TYPE_CHECKING:
    from liquidation_bot.executor import Executor, Guard
    from liquidation_bot.record import Session

__all__ = ["Bot", "MembersMissing", "Settings"]


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
        retry_reading: how soon what could not be read is tried again.
        once: look once and end.
        reconnect: how the subscription comes back after an outage.
    """

    most_borrowers: int = 5_000
    window: int = 6 * 3600
    resync: float = 300.0
    retry_reading: float = 10.0
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
        executor: takes the plans.
        display: shows what happens.
        settings: how to run.
        now: unix seconds.
        sleep: waits that many seconds.
        save: keeps the state before a plan leaves.
        record: takes every input, for a replay.
        state: what survived from before.
        guard: may hold a plan back; None where the executor only writes.
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
        executor: Executor,
        display: Display,
        settings: Settings,
        now: Callable[[], int],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        save: Callable[[State], object] = lambda _: None,
        record: Callable[[Input], object] | None = None,
        state: State | None = None,
        guard: Guard | None = None,
    ) -> None:
        self._cube = cube
        self._session = session
        self._engine = session.engine()
        self._positions = positions
        self._prices = prices
        self._borrowers = borrowers
        self._members = members
        self._executor = executor
        self._display = display
        self._settings = settings
        self._now = now
        self._sleep = sleep
        self._save = save
        self._record = record
        self._state = state or State()
        self._guard = guard
        self._one_at_a_time = asyncio.Lock()
        self._unread: set[str] = set()

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
        with library_log(lambda text: self._say("link", text)):
            await self._check_server()
            self._introduce()
            await self._load()
            if not self._settings.once:
                await self._stay()

    async def _stay(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._resync())
                tasks.create_task(self._watch())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

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
        await self._read(found)
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
                retry=self._settings.reconnect,
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
            names = ", ".join(short(each) for each in addresses[:5])
            more = f" and {len(addresses) - 5} more" if len(addresses) > 5 else ""
            after = " during the outage" if update.resumed else ""
            self._say("event", f"{names}{more} moved{after}: reading again")
        if everybody:
            addresses = sorted({*addresses, *self._engine.positions})
        await self._read(addresses)

    async def _resync(self) -> None:
        """Read everybody again now and then: prices and interest emit no event."""
        rested = 0.0
        while True:
            pause = self._settings.resync - rested
            if self._unread:
                pause = min(pause, self._settings.retry_reading)
            await self._sleep(pause)
            rested += pause
            if rested < self._settings.resync:
                await self._read(sorted(self._unread))
                continue
            rested = 0.0
            await self._read_prices()
            await self._take(Tick(self._now()))
            await self._read(sorted({*self._engine.positions, *self._unread}))

    def _link(self, state: ConnectionState) -> None:
        self._say("link", f"subscription {state}", state=str(state))

    async def _read_prices(self) -> None:
        try:
            prices = await self._prices.prices()
        except SourceError as error:
            self._say("trouble", str(error))
            return
        await self._take(PricesSeen(self._now(), tuple(prices)))

    async def _read(self, borrowers: Iterable[str]) -> None:
        """Read positions; those that cannot be read now stay on the list."""
        self._unread.update(borrowers)
        wanted = sorted(self._unread)
        if not wanted:
            return
        try:
            positions = await self._positions.positions(wanted, self._now())
        except SourceError as error:
            self._say("trouble", f"{error}; {len(wanted)} addresses stay unread")
            return
        self._unread.difference_update(wanted)
        await self._take(PositionsRead(self._now(), tuple(positions)))

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
                await self._follow(decision, before.get(decision.borrower))

    async def _follow(self, decision: Decision, before: Decision | None) -> None:
        if isinstance(decision, Plan):
            await self._execute(decision)
        elif _is_news(decision, before):
            self._say(
                "skip",
                f"{short(decision.borrower)} {decision.reason}: {decision.detail}",
                borrower=decision.borrower,
                reason=str(decision.reason),
            )

    async def _execute(self, plan: Plan) -> None:
        document = self._session.document(plan)
        most = plan.most_paid_usd
        held = self._guard.refusal(most, self._state.spent) if self._guard else None
        spends = self._guard is not None and held is None
        self._state = attrs.evolve(
            self._state,
            plans=self._state.plans + 1,
            cool_downs=dict(self._engine.cool_downs),
            spent=self._state.spent + (most if spends else 0),
        )
        self._save(self._state)
        done = f"held back: {held}" if held else await self._executor.execute(document)
        self._say("plan", f"{in_words(plan)} ({done})", plan=document)

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


def _is_news(skip: Skip, before: Decision | None) -> bool:
    """Tell whether a reason is worth a line: it is new, or somebody is in danger."""
    if skip.reason in (Reason.HEALTHY, Reason.NO_DEBT):
        return before is not None and (
            isinstance(before, Plan) or before.reason != skip.reason
        )
    return not isinstance(before, Skip) or before.reason != skip.reason
