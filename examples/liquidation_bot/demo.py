"""The demonstration: a made-up market on servers of its own, from loss to plan.

The bot is the same as ever; only its servers, its market and its clock are made up. The
story waits for what the bot says, so it fails if the bot does not do what it tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Final

import attrs

from liquidation_bot import bus
from liquidation_bot.alerts import CHAIN_ID, ENTITY_TYPE, LiquidationPlan, entity_of
from liquidation_bot.bot import Bot, Settings
from liquidation_bot.decide import Limits
from liquidation_bot.display import Display, Note, short
from liquidation_bot.engine import Engine
from liquidation_bot.execution import DryRunExecutor, Executor, Outbox
from liquidation_bot.market import Market
from liquidation_bot.ortege import OrtegePositions, OrtegePrices, members
from liquidation_bot.record import Session
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

__all__ = ["MARKET", "StoryBroken", "run"]

MARKET: Final = Path(__file__).parent / "markets" / "demo.toml"

ALICE: Final = "SPAZ0AWR4XF9F2K6PB1YTESJY00Z1KAFHBC4S6AK"
BOB: Final = "SP3VGRTTC0XNGZ2HNE3REXHC82VJYNGV66BEMBWB7"
CAROL: Final = "SPS3HK8H59555WZVXFFPN2VQGC7MGFHEF029831C"
LIQUIDATOR: Final = "SP2YDZST3GTH0W4DNKBH10WAZNAM0MS4VSJRCG7NR"

_BEGIN: Final = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
_PATIENCE: Final = 10.0
_TO: Final = Credentials("demo-bot", "made up, for what the bot sends")
_FROM: Final = Credentials("demo-monitor", "made up, for what it is sent")


class StoryBroken(Exception):
    """Report that the bot did not do what the story tells."""


class _Clock:
    """Be a clock that the story moves; it is noon when it begins."""

    def __init__(self) -> None:
        self._seconds = int(_BEGIN.timestamp())

    def now(self) -> int:
        return self._seconds

    def moment(self) -> datetime:
        return datetime.fromtimestamp(self._seconds, UTC)

    def pass_by(self, seconds: int) -> None:
        self._seconds += seconds


class _Listener:
    """Show what the bot shows, and let the story wait for it."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._notes: list[Note] = []
        self._more = asyncio.Event()
        self._heard = 0

    def show(self, note: Note, engine: Engine, /) -> None:
        self._notes.append(note)
        self._display.show(note, engine)
        self._more.set()

    def close(self) -> None:
        self._display.close()

    async def hear(self, kind: str, *words: str) -> None:
        """Wait for the next note of a kind with all these words in it."""
        try:
            async with asyncio.timeout(_PATIENCE):
                while not self._found(kind, words):
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise StoryBroken(
                f"the bot did not say {kind}: {', '.join(words)}"
            ) from None

    def _found(self, kind: str, words: Sequence[str]) -> bool:
        for place in range(self._heard, len(self._notes)):
            note = self._notes[place]
            if note.kind == kind and all(word in note.text for word in words):
                self._heard = place + 1
                return True
        return False

    def count(self, kind: str) -> int:
        return sum(note.kind == kind for note in self._notes)


@attrs.frozen(kw_only=True)
class _Alerts:
    """What alerts the story has.

    Attributes:
        announcer: of the bot.
        listener: of the bot.
        taken: by somebody whom the bot sends alerts to.
        monitor: somebody who sends the bot alerts.
    """

    announcer: bus.Announcer
    listener: bus.Listener
    taken: list[AlertInfo]
    monitor: AlertChannel

    @classmethod
    @asynccontextmanager
    async def opened(cls) -> AsyncIterator[_Alerts]:
        """Serve a channel for each direction, on loopback."""
        taken, listener = list[AlertInfo](), bus.Listener()
        verifier = RequestVerifier({_TO.app_id: [_TO.secret]}, path="/", method="GET")
        here = bus.Place("127.0.0.1", 0, "/alerts")
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            somebody = await enter(serve_alert_channel(verifier, taken.append))
            yield cls(
                announcer=bus.Announcer(await enter(bus.open_way(somebody.url, _TO))),
                listener=listener,
                taken=taken,
                monitor=await enter(
                    AlertChannel(await enter(bus.serve(here, _FROM, listener)), _FROM)
                ),
            )


@attrs.frozen(kw_only=True)
class _World:
    """What the story plays on."""

    cube: FakeCube
    clock: _Clock
    listener: _Listener
    engine: Engine
    market: Market
    alerts: _Alerts
    pause: float

    async def tell(self, text: str) -> None:
        """Begin a chapter, after a pause to read the one before."""
        await asyncio.sleep(self.pause)
        self.listener.show(Note("story", self.clock.now(), text), self.engine)

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
                "contract_id": self.market.contracts.watched[0],
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
    """Tell the story.

    Args:
        display: shows it.
        executor: takes the plan; by default it is only shown.
        limits: what is worth a plan.
        pause: seconds before each chapter, for readers.

    Raises:
        StoryBroken: the bot did not do what the story tells.
    """
    market, clock, listener = Market.load(MARKET), _Clock(), _Listener(display)
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
            outbox=Outbox(executor or DryRunExecutor(None), save=lambda _: None),
            display=listener,
            # The story has its own time: nothing is read again because of the clock.
            settings=Settings(reconnect=Reconnect(base=0.5, cap=1.0), tend=3600),
            members=members(positions=True, prices=True),
            now=clock.now,
            announcer=alerts.announcer,
            listener=alerts.listener,
        )
        world = _World(
            cube=fake,
            clock=clock,
            listener=listener,
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
    await world.listener.hear("prices", "stSTX 0.8")
    await world.listener.hear("link", "watching")
    await _event(world)
    await _price_drop(world)
    await _outage(world)
    await _stale_price(world)
    await _alerts(world)


async def _sum_up(world: _World) -> None:
    plans, skipped = world.listener.count("plan"), world.engine.skipped
    if plans != 1:
        raise StoryBroken(f"there are {plans} plans, not one")
    counts = ", ".join(f"{reason} {count}" for reason, count in skipped.most_common())
    await world.tell(
        f"The end: one plan; no transaction was signed or sent. Skipped: {counts}.\n"
        "   Servers, market and addresses were made up; see README.md beside the bot."
    )


async def _event(world: _World) -> None:
    world.clock.pass_by(20)
    await world.tell(
        "2. An event. Bob borrows 150 aeUSDC more. The row only says that he moved: "
        "his position is read again."
    )
    world.holds(BOB, "aeUSDC", borrow="150")
    world.event(BOB, "borrow", "150")
    await world.listener.hear("event", "moved")
    await world.listener.hear("event", "health is now", "1.0465")


async def _price_drop(world: _World) -> None:
    world.clock.pass_by(40)
    await world.tell(
        "3. A price drop. stSTX falls to 0.70. No event of the protocol tells that; "
        "the price does,\n   and everybody who holds stSTX is looked at again."
    )
    world.price(stSTX="0.70")
    await world.listener.hear("prices", "stSTX 0.7")
    await world.listener.hear("plan", "health 0.98", "pay 2,500.00 aeUSDC")
    await world.listener.hear("alert", "liquidation_plan", "sent")


async def _outage(world: _World) -> None:
    world.clock.pass_by(30)
    await world.tell(
        "4. An outage. The server goes away; meanwhile Alice borrows 10 more, and Carol\n"
        f"   ({short(CAROL)}) appears. The bot catches up, and Alice gets no second plan."
    )
    world.cube.down()
    await world.listener.hear("link", "waiting")
    world.holds(ALICE, "aeUSDC", borrow="10")
    world.event(ALICE, "borrow", "10")
    world.holds(CAROL, "stSTX", supply="3000")
    world.holds(CAROL, "aeUSDC", borrow="500")
    world.event(CAROL, "borrow", "500")
    world.clock.pass_by(60)
    world.cube.up()
    await world.listener.hear("link", "live")
    await world.listener.hear("event", "moved during the outage")
    await world.listener.hear("skip", "planned already")
    await world.listener.hear("event", "health is now")


async def _stale_price(world: _World) -> None:
    world.clock.pass_by(600)
    await world.tell(
        "5. A stale price. Ten minutes later stSTX and aeUSDC have new prices, and sBTC "
        "has none.\n   Bob may be in danger or not: on an old price nothing is decided."
    )
    world.price(stSTX="0.71", aeUSDC="1")
    await world.listener.hear("skip", "stale price", "sBTC")


async def _alerts(world: _World) -> None:
    world.clock.pass_by(20)
    [alert] = world.alerts.taken
    values = alert.event_values
    if not isinstance(values, LiquidationPlan) or values.borrower != ALICE:
        raise StoryBroken(f"another alert arrived: {alert}")
    await world.tell(
        f"6. Alerts. The plan went out as a signed {alert.event_code}, too; whoever "
        "took it\n"
        f"   reads: pays {values.pays} {values.debt_asset}, profit {values.profit_usd} "
        "USD. Now two come in: one about\n"
        "   a token elsewhere, and one about Carol, whose event never came. They are "
        "reasons to look."
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
    await world.listener.hear("alert", "skipped", "another kind of entity")
    await world.listener.hear("alert", "position_changed", "reading again")
    await world.listener.hear("alert", "health is now", "1.2425")
