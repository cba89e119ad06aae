"""The demonstration: the bot on a made-up market, with fake servers and a fake clock.

The bot itself is the real one. The story waits for the bot's notes, so it fails if the
bot does not do what the story tells. Run as a program, this module prints the last table
as SVG: ``python -m liquidation_bot.demo > ../docs/demo.svg``.
"""

from __future__ import annotations

import asyncio
import importlib.util
import io
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from liquidation_bot.alerts import (
    CHAIN_ID,
    ENTITY_TYPE,
    Announcer,
    LiquidationPlan,
    ListenAddress,
    Listener,
    entity_of,
    open_sink,
    serve,
)
from liquidation_bot.bot import Bot, Settings
from liquidation_bot.display import Display, LiveTable, Note, short
from liquidation_bot.engine import Engine, Limits
from liquidation_bot.execution import Dispatcher, DryRunExecutor, Executor
from liquidation_bot.market import Market
from liquidation_bot.record import Session
from liquidation_bot.sources import OrtegePositions, OrtegePrices, members
from ortege_watch import AsyncCubeClient, Reconnect
from ortege_watch.testing import FakeCube
from ortege_watch.watchbus import (
    AlertChannel,
    AlertInfo,
    BigAmountTxn,
    Credentials,
    RequestVerifier,
    serve_alert_channel,
)

if TYPE_CHECKING or importlib.util.find_spec("rich") is not None:
    from rich.console import Console, RenderableType

__all__ = ["MARKET", "Picture", "StoryBroken", "draw", "run"]

MARKET: Final = Path(__file__).parent / "markets" / "demo.toml"

ALICE: Final = "SPAZ0AWR4XF9F2K6PB1YTESJY00Z1KAFHBC4S6AK"
BOB: Final = "SP3VGRTTC0XNGZ2HNE3REXHC82VJYNGV66BEMBWB7"
CAROL: Final = "SPS3HK8H59555WZVXFFPN2VQGC7MGFHEF029831C"
LIQUIDATOR: Final = "SP2YDZST3GTH0W4DNKBH10WAZNAM0MS4VSJRCG7NR"

_START: Final = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
_TIMEOUT: Final = 10.0
_FONTS: Final = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
_TO: Final = Credentials("demo-bot", "made up, for alerts from the bot")
_FROM: Final = Credentials("demo-monitor", "made up, for alerts to the bot")


class StoryBroken(Exception):
    """Raised when the bot did not do what the story tells."""


class _Clock:
    """A clock that only the story moves."""

    def __init__(self) -> None:
        self._seconds = int(_START.timestamp())

    def now(self) -> int:
        return self._seconds

    def moment(self) -> datetime:
        return datetime.fromtimestamp(self._seconds, UTC)

    def advance(self, seconds: int) -> None:
        self._seconds += seconds


class _Watcher:
    """A display that passes notes on, and lets the story wait for them."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._notes: list[Note] = []
        self._more = asyncio.Event()
        self._seen = 0

    def show(self, note: Note, engine: Engine, /) -> None:
        self._notes.append(note)
        self._display.show(note, engine)
        self._more.set()

    def close(self) -> None:
        self._display.close()

    async def wait_for(self, kind: str, *words: str) -> None:
        """Wait for the next note of a kind that contains all these words."""
        try:
            async with asyncio.timeout(_TIMEOUT):
                while not self._found(kind, words):
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise StoryBroken(
                f"no {kind!r} note with {', '.join(words)!r} within {_TIMEOUT:g} s"
            ) from None

    def _found(self, kind: str, words: Sequence[str]) -> bool:
        for index in range(self._seen, len(self._notes)):
            note = self._notes[index]
            if note.kind == kind and all(word in note.text for word in words):
                self._seen = index + 1
                return True
        return False

    def count(self, kind: str) -> int:
        return sum(note.kind == kind for note in self._notes)


class Picture:
    """A display that keeps the table of the last alert, for the documentation."""

    def __init__(self) -> None:
        self._table = LiveTable(Console(file=io.StringIO()))
        self._last: RenderableType = ""

    def show(self, note: Note, engine: Engine, /) -> None:
        """Add a note to the table."""
        self._table.show(note, engine)
        if note.kind == "alert":
            self._last = self._table.draw(engine, note.at)

    def close(self) -> None:
        """Stop the table."""
        self._table.close()

    def svg(self, title: str) -> str:
        """Return the table as SVG that loads no fonts from elsewhere."""
        paper = Console(record=True, width=120, file=io.StringIO())
        paper.print(self._last)
        return _FONTS.sub("", paper.export_svg(title=title, unique_id="demo"))


@attrs.frozen(kw_only=True)
class _Alerts:
    """Both directions of alerts, over channels on loopback.

    Attributes:
        announcer: of the bot.
        listener: of the bot.
        received: the alerts that the bot has sent.
        monitor: sends alerts to the bot.
    """

    announcer: Announcer
    listener: Listener
    received: list[AlertInfo]
    monitor: AlertChannel

    @classmethod
    @asynccontextmanager
    async def opened(cls) -> AsyncIterator[_Alerts]:
        """Serve a channel for each direction."""
        received, listener = list[AlertInfo](), Listener()
        verifier = RequestVerifier({_TO.app_id: [_TO.secret]}, path="/", method="GET")
        address = ListenAddress("127.0.0.1", 0, "/alerts")
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            receiver = await enter(serve_alert_channel(verifier, received.append))
            bot_url = await enter(serve(address, _FROM, listener))
            yield cls(
                announcer=Announcer(await enter(open_sink(receiver.url, _TO))),
                listener=listener,
                received=received,
                monitor=await enter(AlertChannel(bot_url, _FROM)),
            )


@attrs.frozen(kw_only=True)
class _World:
    """Everything that the story changes or waits for."""

    cube: FakeCube
    clock: _Clock
    watcher: _Watcher
    engine: Engine
    market: Market
    alerts: _Alerts
    pause: float

    async def tell(self, text: str) -> None:
        """Begin a chapter, after a pause for reading the last one."""
        await asyncio.sleep(self.pause)
        self.watcher.show(Note("story", self.clock.now(), text), self.engine)

    def price(self, **dollars: str) -> None:
        self.cube.tables["stacks_oracle_prices"].insert(
            {
                "token": symbol,
                "price": Decimal(price),
                "tx_date": self.clock.moment(),
            }
            for symbol, price in dollars.items()
        )

    def holds(
        self, who: str, symbol: str, *, supply: str = "0", borrow: str = "0"
    ) -> None:
        self.cube.tables["stacks_dapp_zest_positions_net"].insert(
            {
                "lender_address": who,
                "asset_id": self._asset_id(symbol),
                "total_supply": Decimal(supply),
                "total_borrow": Decimal(borrow),
                "total_repaid": Decimal(0),
            }
        )

    def event(self, who: str, function: str, amount: str) -> None:
        self.cube.tables["stacks_contract_events"].insert(
            {
                "contract_id": self.engine.rules.watched.contracts[0],
                "function_name": function,
                "sender_address": who,
                "asset_amount": Decimal(amount),
                "tx_date": self.clock.moment(),
            }
        )

    def _asset_id(self, symbol: str) -> str:
        return next(
            each.asset_ids[0] for each in self.market.reserves if each.symbol == symbol
        )


async def run(
    display: Display,
    *,
    executor: Executor | None = None,
    limits: Limits | None = None,
    pause: float = 0.0,
) -> None:
    """Play the demonstration.

    Args:
        display: shows it.
        executor: handles the plan; by default the plan is only shown.
        limits: which liquidations are worth a plan.
        pause: seconds before each chapter, for reading.

    Raises:
        StoryBroken: the bot did not do what the story tells.
    """
    market, clock, watcher = Market.load(MARKET), _Clock(), _Watcher(display)
    session = Session(
        market=market,
        limits=limits or Limits(),
        cool_down=3600,
        cool_downs={},
        caveats=(*OrtegePositions.caveats, *OrtegePrices.caveats),
        liquidator=LIQUIDATOR,
    )
    async with (
        FakeCube(now=lambda: float(clock.now())) as fake,
        AsyncCubeClient(fake.url, fake.token()) as cube,
        _Alerts.opened() as alerts,
    ):
        positions = OrtegePositions(cube, market)
        bot = Bot(
            cube=cube,
            session=session,
            positions=positions,
            prices=OrtegePrices(cube, market),
            borrowers=positions.borrowers,
            dispatcher=Dispatcher(executor or DryRunExecutor(None)),
            display=watcher,
            # The story moves the clock: nothing must be read again because of real time.
            settings=Settings(reconnect=Reconnect(base=0.5, cap=1.0), check=3600),
            members=members(positions=True, prices=True),
            now=clock.now,
            announcer=alerts.announcer,
            listener=alerts.listener,
        )
        world = _World(
            cube=fake,
            clock=clock,
            watcher=watcher,
            engine=bot.engine,
            market=market,
            alerts=alerts,
            pause=pause,
        )
        _open_the_market(world)
        running = asyncio.create_task(bot.run())
        telling = asyncio.create_task(_tell(world))
        try:
            await asyncio.wait([running, telling], return_when="FIRST_COMPLETED")
            if running.done():
                await running
            await telling
        finally:
            for task in (running, telling):
                task.cancel()
            await asyncio.gather(running, telling, return_exceptions=True)
        await _sum_up(world)


async def draw() -> str:
    """Play the demonstration; return the table of its last alert as SVG.

    Raises:
        StoryBroken: the bot did not do what the story tells.
    """
    picture = Picture()
    try:
        await run(picture)
    finally:
        picture.close()
    return picture.svg("python -m liquidation_bot --demo")


def _open_the_market(world: _World) -> None:
    world.price(stSTX="0.80", aeUSDC="1", sBTC="60000")
    world.holds(ALICE, "stSTX", supply="10000")
    world.holds(ALICE, "aeUSDC", borrow="5000")
    world.holds(BOB, "sBTC", supply="0.05")
    world.holds(BOB, "aeUSDC", borrow="2000")


async def _tell(world: _World) -> None:
    await world.tell(
        f"1. The market. Alice ({short(ALICE)}) has 10,000 stSTX and owes 5,000 aeUSDC,\n"
        f"   Bob ({short(BOB)}) has 0.05 sBTC and owes 2,000 aeUSDC. Nobody is in "
        "danger: health is above 1."
    )
    await world.watcher.wait_for("prices", "stSTX 0.8")
    await world.watcher.wait_for("link", "watching")
    await _event(world)
    await _price_drop(world)
    await _outage(world)
    await _stale_price(world)
    await _alerts(world)


async def _sum_up(world: _World) -> None:
    plans, skipped = world.watcher.count("plan"), world.engine.skipped
    if plans != 1:
        raise StoryBroken(f"expected one plan, got {plans}")
    counts = ", ".join(f"{reason} {count}" for reason, count in skipped.most_common())
    await world.tell(
        f"The end: one plan; no transaction was signed or sent. Skipped: {counts}.\n"
        "   Servers, market and addresses are made up; see the README of the bot."
    )


async def _event(world: _World) -> None:
    world.clock.advance(20)
    await world.tell(
        "2. An event. Bob borrows 150 aeUSDC more. The event only says that something "
        "changed: his position is read again."
    )
    world.holds(BOB, "aeUSDC", borrow="150")
    world.event(BOB, "borrow", "150")
    await world.watcher.wait_for("event", "reading again")
    await world.watcher.wait_for("event", "now: ", "1.0465")


async def _price_drop(world: _World) -> None:
    world.clock.advance(40)
    await world.tell(
        "3. A price drop. stSTX falls to 0.70. The protocol emits no event for that; "
        "the price is enough\n   to check everybody who holds stSTX again."
    )
    world.price(stSTX="0.70")
    await world.watcher.wait_for("prices", "stSTX 0.7")
    await world.watcher.wait_for("plan", "health 0.98", "pay 2,500.00 aeUSDC")
    await world.watcher.wait_for("alert", "liquidation_plan", "sent")


async def _outage(world: _World) -> None:
    world.clock.advance(30)
    await world.tell(
        "4. An outage. The server goes down; meanwhile Alice borrows 10 more, and Carol\n"
        f"   ({short(CAROL)}) appears. The bot catches up, and makes no second plan for "
        "Alice."
    )
    world.cube.down()
    await world.watcher.wait_for("link", "waiting")
    world.holds(ALICE, "aeUSDC", borrow="10")
    world.event(ALICE, "borrow", "10")
    world.holds(CAROL, "stSTX", supply="3000")
    world.holds(CAROL, "aeUSDC", borrow="500")
    world.event(CAROL, "borrow", "500")
    world.clock.advance(60)
    world.cube.up()
    await world.watcher.wait_for("link", "live")
    await world.watcher.wait_for("event", "during the outage")
    await world.watcher.wait_for("skip", "planned already")
    await world.watcher.wait_for("event", "now: ")


async def _stale_price(world: _World) -> None:
    world.clock.advance(600)
    await world.tell(
        "5. A stale price. Ten minutes later stSTX and aeUSDC have new prices, and sBTC "
        "does not.\n   Bob may be in danger or not: nothing is decided on an old price."
    )
    world.price(stSTX="0.71", aeUSDC="1")
    await world.watcher.wait_for("skip", "stale price", "sBTC")


async def _alerts(world: _World) -> None:
    world.clock.advance(20)
    [alert] = world.alerts.received
    values = alert.event_values
    if not isinstance(values, LiquidationPlan) or values.borrower != ALICE:
        raise StoryBroken(f"expected an alert about Alice, got {alert}")
    await world.tell(
        f"6. Alerts. The plan was also sent as a signed {alert.event_code}. Its receiver "
        "reads:\n"
        f"   pays {values.pays} {values.debt_asset}, profit {values.profit_usd} USD. Now "
        "two alerts arrive: one about a token\n"
        "   on another chain, and one about Carol, whose event is missing. Only the "
        "second is a reason to read."
    )
    world.holds(CAROL, "aeUSDC", borrow="700")
    now, token = world.clock.now(), f"0x{'c0' * 20}"
    big = BigAmountTxn(block_number=1, tx_hash="0x01", current_value=Decimal(5000))
    carol = entity_of(CAROL)
    await world.alerts.monitor.send(
        [
            AlertInfo(token, 56, "ERC20", "big_amount_txn", now, big),
            AlertInfo(carol, CHAIN_ID, ENTITY_TYPE, "position_changed", now),
        ]
    )
    await world.watcher.wait_for("alert", "skipped", "another kind of entity")
    await world.watcher.wait_for("alert", "position_changed", "reading again")
    await world.watcher.wait_for("alert", "now: ", "1.2425")


if __name__ == "__main__":
    if importlib.util.find_spec("rich") is None:
        sys.exit("the picture needs rich: pip install rich")
    sys.stdout.write(asyncio.run(draw()) + "\n")
