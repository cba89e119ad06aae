"""The program: puts the parts together, runs them, and ends with a clean exit code."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, TextIO

from liquidation_bot import bus, demo, execution, options, ortege
from liquidation_bot.bot import Bot, MembersMissing, Settings
from liquidation_bot.clarity import ClarityError, check_principal
from liquidation_bot.decide import Limits
from liquidation_bot.display import Display, JsonLines, Lines, Note
from liquidation_bot.market import Market
from liquidation_bot.model import (
    FileError,
    PositionSource,
    PriceSource,
    SourceError,
    UsageError,
)
from liquidation_bot.node import Node, NodePositions, NodePrices
from liquidation_bot.record import (
    FixturePositions,
    FixturePrices,
    Recorder,
    Session,
    replay,
)
from ortege_watch import AsyncCubeClient, InvalidArgument, OrtegeWatchError

__all__ = ["main"]

OK: Final = 0
FAILED: Final = 1
WRONG_USE: Final = 2
INTERRUPTED: Final = 130

_USE: Final = (UsageError, MembersMissing, InvalidArgument)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bot; return the exit code."""
    chosen = options.parse(arguments)
    try:
        if chosen.replay is not None:
            return asyncio.run(_replay(chosen))
        if chosen.demo:
            return _run(chosen, sys.stdout, lambda display: _demo(chosen, display))
        if not _have_server():
            return WRONG_USE
        return _run(chosen, sys.stderr, lambda display: _live(chosen, display))
    except _USE as error:
        return _failed(WRONG_USE, error)
    except (OrtegeWatchError, SourceError, demo.StoryBroken, OSError) as error:
        return _failed(FAILED, error)


def _failed(code: int, error: Exception) -> int:
    print(f"liquidation_bot: {error}", file=sys.stderr)
    return code


def _have_server() -> bool:
    missing = [
        name for name in ("ORTEGE_URL", "ORTEGE_TOKEN") if not os.environ.get(name)
    ]
    if missing:
        print(
            f"liquidation_bot: set {' and '.join(missing)} in the environment, or try "
            "--demo, which needs no account",
            file=sys.stderr,
        )
    return not missing


# ------------------------------------------------------------------------- signals


def _run(
    chosen: argparse.Namespace,
    log: TextIO,
    work: Callable[[Display], Coroutine[Any, Any, None]],
) -> int:
    display = _display(chosen.log, log)
    try:
        return asyncio.run(_until_signal(work(display)))
    finally:
        display.close()


async def _until_signal(work: Coroutine[Any, Any, None]) -> int:
    """Run until it ends or a signal comes; everything is closed in either case."""
    task = asyncio.ensure_future(work)
    received: list[signal.Signals] = []

    def stop(which: signal.Signals) -> None:
        received.append(which)
        task.cancel()

    loop = asyncio.get_running_loop()
    for which in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(which, stop, which)
    try:
        await task
    except asyncio.CancelledError:
        if not received:
            raise
    return INTERRUPTED if signal.SIGINT in received else OK


def _display(kind: str, log: TextIO) -> Display:
    if kind == "auto":
        rich = importlib.util.find_spec("rich") is not None
        kind = "table" if rich and log.isatty() else "lines"
    if kind == "table":
        if importlib.util.find_spec("rich") is None:
            raise execution.ExecutorError("--log table needs rich: pip install rich")
        from rich.console import Console  # noqa: PLC0415 - optional

        from liquidation_bot.table import LiveTable  # noqa: PLC0415 - needs rich

        return LiveTable(Console(file=log))

    def write(line: str) -> None:
        print(line, file=log, flush=True)

    return JsonLines(write) if kind == "json" else Lines(write)


# --------------------------------------------------------------------------- modes


async def _demo(chosen: argparse.Namespace, display: Display) -> None:
    at_a_terminal = sys.stdout.isatty() and chosen.log != "json"
    await demo.run(
        display,
        executor=execution.DryRunExecutor(chosen.plans),
        # A reader needs time for each chapter, a pipe none.
        pause=2.0 if at_a_terminal else 0.0,
    )


async def _replay(chosen: argparse.Namespace) -> int:
    again = execution.DryRunExecutor(chosen.plans, _plan_to_stdout)
    for plan in replay(chosen.replay):
        await again.execute(plan)
    return OK


def _plan_to_stdout(line: str) -> None:
    print(line, flush=True)


async def _live(chosen: argparse.Namespace, display: Display) -> None:
    market = Market.load(chosen.market)
    state = (
        execution.State.load(chosen.state) if chosen.state else execution.State.empty()
    )
    async with AsyncExitStack() as stack:
        cube = await stack.enter_async_context(AsyncCubeClient())
        node = None
        if chosen.node:
            node = await stack.enter_async_context(Node(chosen.node))
        positions = _positions(chosen, cube, node, market)
        prices = _prices(chosen, cube, node, market)
        session = Session(
            market=market,
            limits=_limits(chosen),
            cool_down=chosen.cool_down,
            cool_downs=state.cool_downs,
            caveats=(*positions.caveats, *prices.caveats),
            liquidator=chosen.liquidator,
        )
        record = None
        if chosen.record:
            record = stack.enter_context(Recorder(chosen.record, session))
        announcer, listener = await _alerts(chosen, stack, display, session)
        bot = Bot(
            cube=cube,
            session=session,
            positions=positions,
            prices=prices,
            borrowers=_borrowers(chosen, cube, market),
            members=ortege.members(
                positions=chosen.positions == "ortege" or chosen.borrowers is None,
                prices=chosen.prices == "ortege",
            ),
            outbox=_outbox(chosen, state),
            display=display,
            settings=_settings(chosen),
            now=lambda: int(time.time()),
            record=record,
            announcer=announcer,
            listener=listener,
        )
        await bot.run()


async def _alerts(
    chosen: argparse.Namespace,
    stack: AsyncExitStack,
    display: Display,
    session: Session,
) -> tuple[bus.Announcer | None, bus.Listener | None]:
    """Open the ways of alerts, for as long as the stack lasts."""
    announcer = listener = out = None
    if chosen.alerts_to:
        out = bus.credentials("ALERTS_TO", os.environ)
        way = bus.open_way(chosen.alerts_to, out, chosen.outbox)
        announcer = bus.Announcer(await stack.enter_async_context(way))
    if chosen.alerts_from:
        sender = bus.credentials("ALERTS_FROM", os.environ)
        if out is not None and out.secret == sender.secret:
            raise InvalidArgument(
                "ALERTS_FROM_SECRET is the secret that this bot signs with; what it "
                "sends could be sent back to it. Use one for each direction"
            )
        listener = bus.Listener()
        serving = bus.serve(chosen.alerts_from, sender, listener)
        where = await stack.enter_async_context(serving)
        note = Note("start", int(time.time()), f"alerts are taken at {where}")
        display.show(note, session.engine())
    return announcer, listener


def _limits(chosen: argparse.Namespace) -> Limits:
    return Limits(
        min_profit=chosen.min_profit,
        allow_unprofitable=chosen.allow_unprofitable,
        transaction_fee=chosen.transaction_fee,
        slippage_bps=chosen.slippage_bps,
        wallet_cap=chosen.wallet_cap,
        margin=chosen.margin,
    )


def _settings(chosen: argparse.Namespace) -> Settings:
    return Settings(
        most_borrowers=chosen.most_borrowers,
        window=chosen.window,
        resync=chosen.resync,
        once=chosen.once,
    )


def _outbox(chosen: argparse.Namespace, state: execution.State) -> execution.Outbox:
    path: Path | None = chosen.state

    def save(new: execution.State) -> None:
        if path is not None:
            new.save(path)

    if not chosen.execute:
        dry = execution.DryRunExecutor(chosen.plans, _plan_to_stdout)
        return execution.Outbox(dry, state=state, save=save)
    guard = execution.Guard(chosen.cap, chosen.kill_file)
    mine = execution.load(chosen.execute)
    return execution.Outbox(mine, guard=guard, state=state, save=save)


def _positions(
    chosen: argparse.Namespace,
    cube: AsyncCubeClient,
    node: Node | None,
    market: Market,
) -> PositionSource:
    if chosen.positions == "ortege":
        return ortege.OrtegePositions(cube, market)
    if chosen.positions == "node" and node is not None:
        return NodePositions(node, market)
    return FixturePositions.load(Path(chosen.positions))


def _prices(
    chosen: argparse.Namespace,
    cube: AsyncCubeClient,
    node: Node | None,
    market: Market,
) -> PriceSource:
    if chosen.prices == "ortege":
        return ortege.OrtegePrices(cube, market)
    if chosen.prices == "node" and node is not None:
        return NodePrices(node, market)
    return FixturePrices.load(Path(chosen.prices))


def _borrowers(
    chosen: argparse.Namespace, cube: AsyncCubeClient, market: Market
) -> Callable[[int], Awaitable[Sequence[str]]]:
    if chosen.borrowers is None:
        return ortege.OrtegePositions(cube, market).borrowers
    listed = read_borrowers(chosen.borrowers)

    async def first(most: int) -> Sequence[str]:
        return listed[:most]

    return first


def read_borrowers(path: Path) -> list[str]:
    """Read addresses, one a line; what follows a # is a comment.

    Raises:
        FileError: the file cannot be read, or a line is no address.
    """
    found: list[str] = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            if address := line.partition("#")[0].strip():
                check_principal(address)
                found.append(address)
    except (OSError, UnicodeDecodeError, ClarityError) as error:
        raise FileError(f"cannot read the borrowers in {path}: {error}") from None
    return list(dict.fromkeys(found))
