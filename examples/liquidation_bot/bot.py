"""The bot: reads, watches, lets the engine decide, and passes plans on.

One subscription reports whose position changed, another one prices. Every position is
also read again at an interval, because interest and some changes have no event, and so
is the list of borrowers. What fails is tried again; what is silent is asked.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import attrs

from liquidation_bot.alerts import Announcer, Listener
from liquidation_bot.display import Display, Kind, Note, Sight, library_log, short
from liquidation_bot.engine import (
    CoolDown,
    Decision,
    Engine,
    Input,
    Plan,
    PositionsRead,
    PricesSeen,
    Reason,
    Skip,
    StateRead,
    StateSource,
    Tick,
)
from liquidation_bot.execution import Dispatcher, Hooks
from liquidation_bot.model import (
    PositionSource,
    PriceSource,
    SourceError,
    UsageError,
    shown,
)
from liquidation_bot.record import Session
from liquidation_bot.rules import MarketCheck
from liquidation_bot.sources import OrtegePrices, changed, events_query, newest_event
from ortege_watch import (
    ApiError,
    AsyncCubeClient,
    AsyncUpdates,
    ConnectionState,
    DeadlineExceeded,
    DecodeError,
    Meta,
    OrtegeWatchError,
    Reconnect,
    TransportError,
    Update,
)

__all__ = ["Bot", "Incomplete", "Reader", "Settings"]

_MAX_LINES: Final = 10
_MAX_NAMES: Final = 5
# Seconds between lines about what is seen, while positions are unread.
_PROGRESS: Final = 60
# Seconds until the chain is asked again for what it could not tell.
_RETRY: Final = 30
# Seconds between readings of all listed addresses, also of those without debt.
_EVERYBODY: Final = 3600


class Incomplete(Exception):
    """Raised at the end of ``once`` if the bot could not read everything."""


def _least_of(given: Settings) -> int:
    return min(10, given.resync, given.status, given.silent_after, given.window)


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
        check: the interval for checking what is due; default: 10, or the least of those
            that the user sets if that is less.
        status: the interval for saying what the bot sees.
        silent_after: how old a price may be before it is asked for.
        once: decide about everybody once, then end.
        reconnect: how the subscription is opened again after an outage.
    """

    most_borrowers: int = 5_000
    window: int = 3600
    resync: int = 300
    poll_prices: int = 30
    poll_state: int = 120
    reread_after: int = 60
    status: int = 600
    silent_after: int = 600
    once: bool = False
    check: int = attrs.field(default=attrs.Factory(_least_of, takes_self=True))
    reconnect: Reconnect = attrs.field(factory=Reconnect)


@attrs.define(eq=False)
class Reader:
    """A reader of positions in chunks, which remembers the addresses still to be read.

    A change may reach the source of positions after its event reaches the bot, because
    a cube is refreshed on its own schedule. So a position that changed is read twice: at
    once, and after a delay.

    Attributes:
        source: of the positions.
        now: returns unix seconds.
        on_read: called with the positions of a chunk.
        on_error: called with a message when reading failed; it is retried.
        reread_after: seconds after which a position that changed is read once more.
        rank: orders the addresses; the least are read first.
        unread: the addresses whose position has yet to be read.
    """

    source: PositionSource
    now: Callable[[], int]
    on_read: Callable[[PositionsRead], Awaitable[None]]
    on_error: Callable[[str], object]
    reread_after: int
    rank: Callable[[str], tuple[bool, int, str]] = lambda address: (True, 0, address)
    unread: set[str] = attrs.field(factory=set, init=False)
    _most: int = attrs.field(default=0, init=False)
    _reread: dict[str, int] = attrs.field(factory=dict, init=False)
    # An older response must not replace a newer one.
    _lock: asyncio.Lock = attrs.field(factory=asyncio.Lock, init=False)

    def progress(self) -> tuple[int, int]:
        """Return how many addresses are unread, and how many were since none was."""
        left = len(self.unread)
        self._most = max(self._most, left) if left else 0
        return left, self._most

    async def changed(self, borrowers: Iterable[str]) -> None:
        """Read these addresses now, and once more after ``reread_after`` seconds."""
        addresses = set(borrowers)
        self.later(addresses)
        await self._read(addresses)

    def later(self, borrowers: Iterable[str]) -> None:
        """Have these addresses read by ``run_due``, and once more after the delay."""
        addresses = set(borrowers)
        self.unread |= addresses
        due = self.now() + self.reread_after
        self._reread.update((address, due) for address in addresses)

    async def run_due(self) -> None:
        """Read every address that is due; other calls may read between two chunks."""
        self.unread.update(
            address for address, due in self._reread.items() if due <= self.now()
        )
        await self._read(self.unread)

    async def _read(self, addresses: Iterable[str]) -> None:
        wanted, size = sorted(addresses, key=self.rank), self.source.chunk
        for start in range(0, len(wanted), size):
            if not await self._chunk(wanted[start : start + size]):
                return

    async def _chunk(self, wanted: Sequence[str]) -> bool:
        """Read a chunk; return False if the others would probably fail, too."""
        async with self._lock:
            self.progress()  # none of these is forgotten in the second number
            chunk = [address for address in wanted if address in self.unread]
            if not chunk:
                return True
            at, trouble = self.now(), ""
            try:
                positions = await self.source.positions(chunk, at)
            except SourceError as error:
                positions, trouble = error.read, f"{error}; "
            found = {each.borrower for each in positions}
            self.unread -= found
            for address in found:
                if self._reread.get(address, at + 1) <= at:
                    del self._reread[address]
            if positions:
                await self.on_read(PositionsRead(at, tuple(positions)))
            if len(found) < len(chunk):
                self.on_error(f"{trouble}{len(self.unread)} addresses to be retried")
        return bool(found)


@attrs.define(kw_only=True, eq=False, slots=False)
class Bot:
    """The bot; it runs until it is cancelled.

    Attributes:
        cube: the client for events, and for the sources that use it.
        session: the market, and everything else that decides.
        positions: the source of positions.
        prices: the source of prices; Ortege's are also watched.
        borrowers: returns at most that many addresses to follow.
        members: the members that the server must have.
        assumed: checks what is assumed about the cubes; returns what is not certain.
        compare: compares the market file with the chain; until they agree, no plan
            leaves the bot.
        dispatcher: receives the plans.
        display: shows what happens.
        settings: how to run.
        now: returns unix seconds.
        sleep: sleeps that many seconds.
        record: called with every input, for a replay.
        announcer: sends plans as alerts.
        listener: receives alerts, which are reasons to read a position again.
        state: the source of the protocol's state; None if it is not read.
        engine: the memory and the decisions.
    """

    cube: AsyncCubeClient
    session: Session
    positions: PositionSource
    prices: PriceSource
    borrowers: Callable[[int], Awaitable[Sequence[str]]]
    members: Sequence[str]
    dispatcher: Dispatcher
    display: Display
    settings: Settings
    now: Callable[[], int]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    record: Callable[[Input], object] | None = None
    announcer: Announcer | None = None
    listener: Listener | None = None
    state: StateSource | None = None
    assumed: Callable[[Meta], Awaitable[Sequence[str]]] | None = None
    compare: Callable[[], Awaitable[MarketCheck]] | None = None
    engine: Engine = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.engine = self.session.engine()
        self._reader = Reader(
            self.positions,
            now=self.now,
            on_read=self._handle,
            on_error=lambda text: self._say("trouble", text),
            reread_after=self.settings.reread_after,
            rank=self.engine.rank,
        )
        self._watches_prices = isinstance(self.prices, OrtegePrices)
        # When the newest prices were published, as far as the usual way has told.
        self._price_times = dict[str, int]()
        self._lock = asyncio.Lock()
        self._has_read = asyncio.Event()
        self._updates: AsyncUpdates | None = None
        self._unreadable = ""  # how many of the prices that are watched
        self._connection, self._link = "", "not connected yet"
        self._started = self._opened = self._events_at = self.now()
        # The newest event of the subscription, and of the server when it was asked.
        self._newest: datetime | None = None
        self._unseen: datetime | None = None
        self._last_data: int | None = None
        # When the next of each is due, in unix seconds; at once without an entry.
        self._due = {"status": self._started + self.settings.check}
        self._back_off = 0
        self._failed = set[str]()
        self._listed = set[str]()
        self._silent = set[str]()
        # Borrowers whose plan did not leave, and why; "" if plans may.
        self._withheld = set[str]()
        self._doubt = "" if self.compare is None else "not compared with the chain yet"

    async def run(self) -> None:
        """Decide about everybody, then stay subscribed.

        Raises:
            UsageError: the server lacks members.
            Incomplete: it was to look once, and could not read everything.
            OrtegeWatchError: a request failed for good, such as for a refused token, or
                the first one did and it was to look once.
        """
        async with AsyncExitStack() as stack:
            stack.enter_context(library_log(lambda text: self._say("link", text)))
            meta = await self._meta()
            if missing := [name for name in self.members if name not in meta]:
                raise UsageError(
                    f"the server lacks {', '.join(missing)}: see its /meta, or use other "
                    "sources (--positions, --prices)"
                )
            if self.announcer is not None:
                await stack.enter_async_context(self.announcer.running(self._say))
            self._introduce(await self._doubts(meta))
            await self._compare(self.now())
            await self._restate(self.now())
            await self._reprice(self.now())
            await self._work()

    async def _meta(self) -> Meta:
        """Ask what the server has until it answers; ``once`` asks once."""
        pause = self.settings.check
        while True:
            try:
                meta = await self.cube.meta()
            except (TransportError, DeadlineExceeded, ApiError) as error:
                if self.settings.once or not _may_heal(error):
                    raise
                self._failed.add("the server's members")
                self._say("trouble", f"{error}; asking again in {pause} s")
            else:
                self._failed.discard("the server's members")
                return meta
            await self.sleep(pause)
            pause = min(2 * pause, self.settings.resync)

    async def _once(self) -> None:
        await self._reread(self.now())
        await self.dispatcher.drained()
        self._say_status()
        if count := len(self._reader.unread):
            self._failed.add(f"{count} positions")
        if self._failed:
            raise Incomplete(f"could not read {', '.join(sorted(self._failed))}")

    async def _work(self) -> None:
        """Hand plans over beside everything else."""
        hooks = Hooks(
            engine=self.engine,
            document=self.session.document,
            cool_down=self._cool_down,
            say=self._say,
            doubt=lambda: self._doubt,
            now=self.now,
            sleep=self.sleep,
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                worker = tasks.create_task(self.dispatcher.run(hooks))
                if self.settings.once:
                    await self._once()
                    worker.cancel()
                    return
                again = self._compare, self._restate, self._reprice
                for work in (*again, self._reread, self._look, self._ask_for_events):
                    tasks.create_task(self._every(work))
                tasks.create_task(self._watch())
                if (listener := self.listener) is not None:
                    known = self.engine.positions
                    tasks.create_task(listener.run(known, self._on_alerts, self._say))
        except ExceptionGroup as group:
            error = group.exceptions[0]
            raise error from error.__cause__

    async def _every(self, work: Callable[[int], Awaitable[None]]) -> None:
        """Call work again and again; it finds out itself what is due."""
        while True:
            await work(self.now())
            await self.sleep(self.settings.check)

    def _is_due(self, what: str, now: int, every: int) -> bool:
        """Return whether something is due; if it is, set when it is due again."""
        if now < self._due.get(what, now):
            return False
        self._due[what] = now + every
        return True

    async def _doubts(self, meta: Meta) -> Sequence[str]:
        """Check what is assumed about the cubes; return what is not certain."""
        try:
            return [] if self.assumed is None else await self.assumed(meta)
        except (SourceError, DecodeError) as error:
            return [f"what is assumed about the cubes: {error}"]

    def _introduce(self, doubts: Sequence[str]) -> None:
        market = self.engine.market
        self._say(
            "start",
            f"{market.name}, {len(market.reserves)} reserves as of {market.as_of} "
            f"(source: {market.source})",
        )
        for doubt in (*market.unverified, *doubts):
            self._say("start", f"not verified: {doubt}")

    async def _restate(self, now: int) -> None:
        """Read the protocol's state where it is time to."""
        every = self.settings.poll_state
        if self.state is None or not self._is_due("state", now, every):
            return
        try:
            state = await self.state.state(self.now())
        except SourceError as error:
            self._failed.add("the protocol's state")
            self._due["state"] = now + _RETRY
            self._say("trouble", f"{error}; the state is read again in {_RETRY} s")
            return
        self._failed.discard("the protocol's state")
        await self._handle(StateRead(self.now(), state))

    async def _reprice(self, now: int) -> None:
        """Read prices where it is time to: they are polled, or watched and compared."""
        settings = self.settings
        every = settings.resync if self._watches_prices else settings.poll_prices
        if self._is_due("prices", now, every) and not await self._read_prices():
            self._due["prices"] = now + settings.poll_prices

    async def _compare(self, now: int) -> None:
        """Compare the market file with the chain, until there was an answer."""
        if self.compare is None or not self._is_due("compare", now, 2 * _RETRY):
            return
        try:
            found = await self.compare()
        except SourceError as error:
            self._failed.add("the market on the chain")
            self._say("trouble", f"watch only, until the market is compared: {error}")
            return
        self.compare, self._doubt = None, ""
        self._failed.discard("the market on the chain")
        for text in found.missing:
            self._say("start", f"not in the market file: {text}")
        for text in found.wrong:
            self._say("trouble", f"the market file is wrong: {text}")
        if found.wrong:
            self._failed.add("a market file that agrees with the chain")
            self._doubt = f"{len(found.wrong)} lines of the market file are wrong"
            self._say("trouble", f"watch only, no plan leaves the bot: {self._doubt}")
            return
        for borrower in sorted(self._withheld):
            await self._cool_down(borrower, now)
        if self._withheld:
            self._withheld.clear()
            await self._handle(Tick(now))

    async def _reread(self, now: int) -> None:
        """Read positions where it is time to: interest and some changes have no event."""
        if self._is_due("positions", now, self.settings.resync):
            self._due["borrowers"] = now
            if self.engine.positions:
                await self._handle(Tick(now))
            self._reader.unread.update(self.engine.positions)
        is_news = False
        if self._is_due("borrowers", now, self.settings.resync):
            is_news = await self._list_borrowers(now)
        await self._reader.run_due()
        if is_news:
            self._say("start", self._overview())
        self._has_read.set()

    async def _list_borrowers(self, now: int) -> bool:
        """Have new borrowers read; return whether there are any, or it is the first list."""
        settings, what = self.settings, "the list of borrowers"
        try:
            found = await self.borrowers(settings.most_borrowers)
        except SourceError as error:
            self._failed.add(what)
            self._back_off = min(2 * self._back_off or settings.check, settings.resync)
            self._due["borrowers"] = now + self._back_off
            self._say("trouble", f"{error}; {what} is read again in {self._back_off} s")
            return False
        self._failed.discard(what)
        self._back_off, new = 0, set(found) - self._listed
        self._listed |= new
        if new and len(found) >= settings.most_borrowers:
            self._say(
                "trouble",
                f"there may be more than {len(found)} borrowers; the others are unknown "
                "until they have an event (--most-borrowers)",
            )
        is_first = "everybody" not in self._due
        everybody = self._is_due("everybody", now, _EVERYBODY)
        self._reader.unread.update(self._listed if everybody else new)
        return is_first or bool(new)

    def _overview(self) -> str:
        """Return how many borrowers owe something, and who is nearest to liquidation."""
        words = self._standings(self.engine.nearest()[:3])
        return f"{len(self.engine.positions)} borrowers owe something" + (
            f"; nearest to liquidation: {words}" if words else ""
        )

    def _standings(self, addresses: Sequence[str]) -> str:
        decisions = self.engine.decisions
        return ", ".join(
            f"{short(who)} {each.standing.text}"
            for who in addresses
            if (each := decisions.get(who)) is not None and each.standing is not None
        )

    async def _watch(self) -> None:
        """Stay subscribed, with a new query for each window: its start is fixed."""
        await self._has_read.wait()
        while True:
            self._opened = self.now()
            since = datetime.fromtimestamp(self._opened, UTC) - timedelta(
                seconds=self.settings.window
            )
            events = events_query(self.engine.rules.watched, since)
            queries = [events]
            if isinstance(self.prices, OrtegePrices):
                queries.append(self.prices.query(since))
            async with self.cube.watch(
                *queries,
                reconnect=self.settings.reconnect,
                on_state=self._on_state,
                on_error=lambda error: self._say("trouble", str(error)),
            ) as self._updates:
                async for update in self._updates:  # until it is closed by _look
                    if update.query == events:
                        await self._on_events(update)
                    elif isinstance(self.prices, OrtegePrices):
                        await self._on_prices(self.prices, update)

    async def _on_prices(self, source: OrtegePrices, update: Update) -> None:
        count = ""
        try:
            prices = source.read(update.result)
        except SourceError as error:
            prices, (count, _, _) = list(error.read), str(error).partition(",")
            if count != self._unreadable:  # they are in the next results, too
                self._say("trouble", str(error))
        self._unreadable = count
        await self._handle(PricesSeen(self.now(), tuple(prices)))
        self._price_times = self.engine.price_times()

    async def _on_events(self, update: Update) -> None:
        self._last_data = self._events_at = self.now()
        self._newest = newest_event(update.result) or self._newest
        addresses, everybody = changed(update, self.engine.rules.watched)
        if update.first:
            hours = self.settings.window / 3600
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
        if everybody:  # in the background: that may take minutes
            self._reader.later(self.engine.positions)
        await self._reader.changed(addresses)
        if not update.first:
            self._say_standing("event", addresses)

    async def _on_alerts(self, addresses: Sequence[str], why: str) -> None:
        self._say("alert", why)
        await self._reader.changed(addresses)
        self._say_standing("alert", addresses)

    def _say_standing(self, kind: Kind, addresses: Sequence[str]) -> None:
        if words := self._standings(addresses[:_MAX_NAMES]):
            self._say(kind, f"now: {words}")

    async def _look(self, now: int) -> None:
        """Say what the bot sees; ask for prices that stopped; renew the subscription."""
        self._say("tick", "")
        self.dispatcher.retry()
        most = _PROGRESS if self._reader.unread else self.settings.status
        if self._is_due("status", now, min(most, self.settings.status)):
            self._say_status()
        await self._ask_what_is_silent(now)
        if now - self._opened >= self.settings.window:
            await self._open_another()

    async def _open_another(self) -> None:
        """End the subscription: another one begins, with a window up to now."""
        self._opened = self.now()
        if self._updates is not None:
            await self._updates.aclose()

    async def _has_missed(self, what: str) -> None:
        self._say(
            "trouble",
            f"the subscription missed {what}: opening another one, and reading all "
            "positions",
        )
        self._due["positions"] = self.now()
        await self._open_another()

    async def _ask_what_is_silent(self, now: int) -> None:
        """Read prices that stopped; the subscription may have missed some."""
        limit, times = self.settings.silent_after, self._price_times
        before = self._silent
        self._silent = {
            symbol
            for symbol in self.engine.symbols_in_use()
            if now - times.get(symbol, self._started) > limit
        }
        if again := before - self._silent:
            self._say("prices", f"new prices again: {', '.join(sorted(again))}")
        if self._silent - before:
            self._due["silent"] = now
        if not self._silent or not self._is_due("silent", now, limit):
            return
        names = ", ".join(sorted(self._silent))
        what = f"no new price of {names} for {limit} s, {self._link}"
        self._say("trouble", f"{what}: reading prices")
        if not await self._read_prices():
            return
        newer = self.engine.price_times()
        missed = {
            each for each in self._silent if newer.get(each, 0) > times.get(each, 0)
        }
        if not missed:
            self._say("trouble", f"the source has no newer price of {names} either")
        if not missed or self._connection != "live" or not self._watches_prices:
            return
        await self._has_missed(f"prices of {', '.join(sorted(missed))}")

    async def _ask_for_events(self, now: int) -> None:
        """Ask for the newest event if none came for long.

        The subscription may be a moment behind: an event is missed if it has not come
        until the server is asked again.
        """
        limit = self.settings.silent_after
        if self._connection != "live" or now - self._events_at <= limit:
            self._unseen = None
            return
        if not self._is_due("events", now, self.settings.reread_after):
            return
        since = datetime.fromtimestamp(now - self.settings.window, UTC)
        query = events_query(self.engine.rules.watched, since)
        try:
            found = await self.cube.load(attrs.evolve(query, limit=1, cache="no-cache"))
            newest, seen = newest_event(found), self._newest
        except OrtegeWatchError as error:
            self._say("trouble", f"cannot ask for events: {error}")
            return
        unseen, self._unseen = self._unseen, None
        if newest is None or (seen is not None and newest <= seen):
            self._due["events"] = now + limit
            return
        if unseen is None:
            self._unseen = newest
            return
        await self._has_missed("events")

    def _sight(self) -> Sight:
        now, known = self.now(), self.engine.positions.values()
        unread, most_unread = self._reader.progress()
        times = self.engine.price_times()
        return Sight(
            borrowers=len(known),
            unread=unread,
            most_unread=most_unread,
            positions=max((now - each.read_at for each in known), default=None),
            prices={
                each.symbol: now - times[each.symbol] if each.symbol in times else None
                for each in self.engine.market.reserves
            },
            data=None if self._last_data is None else now - self._last_data,
            link=(f"watch only: {self._doubt}; " if self._doubt else "") + self._link,
            failed=sorted(self._failed),
        )

    def _say_status(self) -> None:
        sight = self._sight()
        prices = self.engine.prices_in_words(self.now())
        self._say("status", f"{sight.text()}; prices {prices}", **attrs.asdict(sight))

    def _on_state(self, state: ConnectionState) -> None:
        self._unreadable = ""  # how many of the prices that are watched
        self._connection, self._link = str(state), f"subscription {state}"
        self._say("link", self._link, state=self._connection)

    async def _read_prices(self) -> bool:
        """Read prices; return whether they could be read."""
        try:
            prices = await self.prices.prices()
            self._failed.discard("prices")
        except SourceError as error:
            prices = error.read
            self._failed.add("prices")
            self._say("trouble", str(error))
        if prices:
            await self._handle(PricesSeen(self.now(), tuple(prices)))
        if not self._watches_prices:
            self._price_times = self.engine.price_times()
        return "prices" not in self._failed

    async def _handle(self, given: Input) -> None:
        async with self._lock:
            if not isinstance(given, Tick | CoolDown):
                self._last_data = given.at
            if self.record is not None:
                self.record(given)
            before = dict(self.engine.decisions)
            prices = self.engine.prices_in_words()
            decisions = self.engine.handle(given)
            if (words := self.engine.prices_in_words()) != prices:
                self._say("prices", words)
            for decision in decisions:
                if isinstance(decision, Plan):
                    await self._offer(decision)
            skips = [each for each in decisions if isinstance(each, Skip)]
            self._say_skips([each for each in skips if _is_news(each, before)])
        if isinstance(given, PositionsRead):
            self._has_read.set()

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

    async def _cool_down(self, borrower: str, until: int) -> None:
        await self._handle(CoolDown(self.now(), borrower, until))

    async def _offer(self, plan: Plan) -> None:
        document = self.session.document(plan)
        until = self.engine.cool_downs[plan.borrower]
        if self._doubt:
            self._say("trouble", f"{in_words(plan)}: not sent, {self._doubt}")
            if self.dispatcher.executes:  # it stays in the queue until then
                await self.dispatcher.offer(plan, document, until)
            else:
                self._withheld.add(plan.borrower)
            return
        done = await self.dispatcher.offer(plan, document, until)
        self._say("plan", f"{in_words(plan)} ({done})", plan=document)
        if self.announcer is not None:
            self.announcer.announce(plan, document["id"])

    def _say(self, kind: Kind, text: str, **data: Any) -> None:
        note = Note(kind, self.now(), text, data, self._sight())
        self.display.show(note, self.engine)


def _may_heal(error: OrtegeWatchError) -> bool:
    """Return whether the same request may succeed later; a wrong token or URL does not."""
    if not isinstance(error, ApiError) or error.from_proxy:
        return True
    return error.status not in (401, 403, 404)


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
