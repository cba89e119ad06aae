"""The program: reads the command line, builds the parts, runs them, returns an exit code."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final, TextIO
from urllib.parse import urlsplit

from liquidation_bot import alerts, demo, execution, sources
from liquidation_bot.bot import Bot, Settings
from liquidation_bot.decide import Limits
from liquidation_bot.display import Display, Note, open_display
from liquidation_bot.market import Market
from liquidation_bot.model import (
    FileError,
    PositionSource,
    PriceSource,
    SourceError,
    UsageError,
    fixed_exactly,
)
from liquidation_bot.record import Recorder, Session, replay
from liquidation_bot.stacks import ClarityError, Node, check_principal
from liquidation_bot.zest import ONE
from ortege_watch import AsyncCubeClient, InvalidArgument, OrtegeWatchError

__all__ = ["main", "parse", "read_borrowers"]

OK: Final = 0
FAILED: Final = 1
WRONG_USE: Final = 2
INTERRUPTED: Final = 130

_ABOUT: Final = """\
Watch borrowers of Zest Protocol V1 and write a plan for each profitable liquidation. No
transaction is signed or sent. ORTEGE_URL and ORTEGE_TOKEN name the server; --demo needs
neither."""

_EXITS: Final = """\
exit codes: 0 ended as requested (also on SIGTERM), 1 failed, 2 wrong use (options,
environment, a file, or members that the server lacks), 130 on SIGINT (Ctrl-C)"""

_MARKET: Final = Path(__file__).parent / "markets" / "zest-v1.toml"
_MAX_DOLLARS: Final = 10**15
_MAX_COUNT: Final = 50_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bot; return the exit code."""
    chosen = parse(arguments)
    try:
        if chosen.replay is not None:
            return asyncio.run(_replay(chosen))
        if chosen.demo:
            return _run(chosen, sys.stdout, lambda display: _demo(chosen, display))
        _check_environment()
        return _run(chosen, sys.stderr, lambda display: _live(chosen, display))
    except (UsageError, InvalidArgument) as error:
        return _failed(WRONG_USE, error)
    except (OrtegeWatchError, SourceError, demo.StoryBroken, OSError) as error:
        return _failed(FAILED, error)


def _failed(code: int, error: Exception) -> int:
    print(f"liquidation_bot: {error}", file=sys.stderr)
    return code


def _check_environment() -> None:
    names = ("ORTEGE_URL", "ORTEGE_TOKEN")
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise UsageError(
            f"set {' and '.join(missing)} in the environment, or try --demo, which "
            "needs no account"
        )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; end the program with code 2 on a mistake."""
    parser = argparse.ArgumentParser(
        prog="liquidation_bot",
        description=_ABOUT,
        epilog=_EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_modes(parser)
    _add_sources(parser)
    _add_limits(parser)
    _add_operation(parser)
    _add_alerts(parser)
    _add_execution(parser)
    chosen = parser.parse_args(arguments)
    if chosen.execute and (chosen.cap is None or chosen.kill_file is None):
        parser.error("--execute needs --cap and --kill-file")
    if chosen.execute and (chosen.demo or chosen.replay):
        parser.error("--execute is not for --demo or --replay")
    if "node" in (chosen.positions, chosen.prices) and not chosen.node:
        parser.error("--positions node and --prices node need --node URL")
    if chosen.market is not None and (chosen.demo or chosen.replay):
        parser.error("--market is not for --demo or --replay, which have their own")
    if (chosen.alerts_to or chosen.alerts_from) and (chosen.demo or chosen.replay):
        parser.error("--alerts-to and --alerts-from are not for --demo or --replay")
    if chosen.alerts_from and chosen.once:
        parser.error("--alerts-from is not for --once, which does not wait for alerts")
    if chosen.outbox and not (chosen.alerts_to or "").startswith("http"):
        parser.error("--outbox needs --alerts-to with an http(s) URL")
    chosen.market = chosen.market or _MARKET
    return chosen


def _add_modes(parser: argparse.ArgumentParser) -> None:
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument(
        "--demo", action="store_true", help="run on a made-up market, then end"
    )
    modes.add_argument(
        "--once", action="store_true", help="check everybody once, then end"
    )
    modes.add_argument(
        "--replay", type=Path, metavar="FILE", help="make the plans of a record again"
    )


def _add_sources(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sources")
    group.add_argument(
        "--market",
        type=Path,
        metavar="FILE",
        help="the market file (default: the shipped one for Zest V1, unverified)",
    )
    group.add_argument(
        "--positions",
        default="ortege",
        metavar="ortege|node|FILE",
        help="read positions from Ortege's cubes, a Stacks node, or a JSON file",
    )
    group.add_argument(
        "--prices",
        default="ortege",
        metavar="ortege|node|FILE",
        help="read prices from the same choice of sources",
    )
    group.add_argument("--node", metavar="URL", help="the Stacks node's API")
    group.add_argument(
        "--borrowers",
        type=Path,
        metavar="FILE",
        help="addresses to start with, one a line (default: asked from Ortege)",
    )
    group.add_argument("--most-borrowers", type=_count, default=5_000, metavar="N")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is worth a plan (exact dollars)")
    group.add_argument("--min-profit", type=_dollars, default=ONE, metavar="USD")
    group.add_argument(
        "--allow-unprofitable",
        action="store_true",
        help="make plans that lose money, too",
    )
    group.add_argument(
        "--transaction-fee", type=_dollars, default=ONE // 10, metavar="USD"
    )
    group.add_argument(
        "--slippage-bps",
        type=_basis_points,
        default=100,
        metavar="N",
        help="expected loss when the collateral is sold, hundredths of a percent",
    )
    group.add_argument(
        "--wallet-cap", type=_dollars, metavar="USD", help="the most one call may pay"
    )
    group.add_argument(
        "--margin",
        type=_dollars,
        default=ONE // 1000,
        metavar="HEALTH",
        help="minimum distance from the threshold (default 0.001)",
    )


def _add_operation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("operation (times in seconds)")
    group.add_argument("--cool-down", type=_count, default=1_800, metavar="S")
    group.add_argument("--resync", type=_count, default=300, metavar="S")
    group.add_argument("--window", type=_count, default=3_600, metavar="S")
    group.add_argument(
        "--liquidator", type=_address, metavar="ADDRESS", help="for post-conditions"
    )
    group.add_argument(
        "--plans", type=Path, metavar="DIRECTORY", help="one JSON file for each plan"
    )
    group.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help="keeps cool-downs across restarts (default: nothing is kept)",
    )
    group.add_argument("--record", type=Path, metavar="FILE", help="for --replay")
    group.add_argument(
        "--log",
        choices=["auto", "table", "lines", "json"],
        default="auto",
        help="auto: a table on a terminal with rich installed, else lines",
    )


def _add_alerts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "alerts (credentials: ALERTS_TO_APP_ID and ALERTS_TO_SECRET, "
        "ALERTS_FROM_APP_ID and ALERTS_FROM_SECRET)"
    )
    group.add_argument(
        "--alerts-to",
        metavar="URL",
        help="send each plan as an alert: POST to http(s)://, a channel to ws(s)://",
    )
    group.add_argument(
        "--outbox",
        type=Path,
        metavar="FILE",
        help="keeps alerts until they are sent (only for POST)",
    )
    group.add_argument(
        "--alerts-from",
        type=_listen_address,
        metavar="HOST:PORT/PATH",
        help="receive alerts over WebSocket: an alert about a borrower is a reason to "
        "read the position again",
    )


def _add_execution(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("execution (by your own code; none is shipped)")
    group.add_argument(
        "--execute", metavar="MODULE:NAME", help="called to create an executor"
    )
    group.add_argument(
        "--cap",
        type=_dollars,
        metavar="USD",
        help="for all executed plans together, of this run or of the state file",
    )
    group.add_argument(
        "--kill-file",
        type=Path,
        metavar="FILE",
        help="while this file exists, nothing is executed",
    )


def _dollars(text: str) -> int:
    try:
        return fixed_exactly(Decimal(text), _MAX_DOLLARS)
    except InvalidOperation:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _whole(text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(
            f"must be a whole number between {least} and {most}, got {text!r}"
        )
    return int(text)


def _count(text: str) -> int:
    return _whole(text, 1, _MAX_COUNT)


def _basis_points(text: str) -> int:
    return _whole(text, 0, 10_000)


def _listen_address(text: str) -> alerts.ListenAddress:
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}, got {text!r}") from None
    if not parts.hostname or port is None or parts.path in ("", "/"):
        raise argparse.ArgumentTypeError(
            f"must be like 127.0.0.1:8700/alerts (port 0: any), got {text!r}"
        )
    return alerts.ListenAddress(parts.hostname, port, parts.path)


def _address(text: str) -> str:
    try:
        check_principal(text)
    except ClarityError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _run(
    chosen: argparse.Namespace,
    log: TextIO,
    work: Callable[[Display], Coroutine[Any, Any, None]],
) -> int:
    display = open_display(chosen.log, log)
    try:
        return asyncio.run(_until_signal(work(display)))
    finally:
        display.close()


async def _until_signal(work: Coroutine[Any, Any, None]) -> int:
    """Run until the work ends or a signal arrives; either way everything is closed."""
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


async def _demo(chosen: argparse.Namespace, display: Display) -> None:
    at_a_terminal = sys.stdout.isatty() and chosen.log != "json"
    await demo.run(
        display,
        executor=execution.DryRunExecutor(chosen.plans),
        # People need time to read each chapter, a pipe does not.
        pause=2.0 if at_a_terminal else 0.0,
    )


async def _replay(chosen: argparse.Namespace) -> int:
    executor = execution.DryRunExecutor(chosen.plans, _plan_to_stdout)
    for plan in replay(chosen.replay):
        await executor.execute(plan)
    return OK


def _plan_to_stdout(line: str) -> None:
    print(line, flush=True)


async def _live(chosen: argparse.Namespace, display: Display) -> None:
    market = Market.load(chosen.market)
    state = execution.State.empty()
    if chosen.state:
        state = execution.State.load(chosen.state)
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
            members=sources.members(
                positions=chosen.positions == "ortege" or chosen.borrowers is None,
                prices=chosen.prices == "ortege",
            ),
            outbox=_outbox(chosen, state),
            display=display,
            settings=Settings(
                most_borrowers=chosen.most_borrowers,
                window=chosen.window,
                resync=chosen.resync,
                once=chosen.once,
            ),
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
) -> tuple[alerts.Announcer | None, alerts.Listener | None]:
    """Open the connections for alerts, for as long as the stack is open."""
    announcer = listener = signer = None
    if chosen.alerts_to:
        signer = alerts.credentials("ALERTS_TO", os.environ)
        sink = alerts.open_sink(chosen.alerts_to, signer, chosen.outbox)
        announcer = alerts.Announcer(await stack.enter_async_context(sink))
    if chosen.alerts_from:
        sender = alerts.credentials("ALERTS_FROM", os.environ)
        if signer is not None and signer.secret == sender.secret:
            raise UsageError(
                "ALERTS_FROM_SECRET must differ from ALERTS_TO_SECRET: otherwise what "
                "the bot sends could be sent back to it"
            )
        listener = alerts.Listener()
        serving = alerts.serve(chosen.alerts_from, sender, listener)
        where = await stack.enter_async_context(serving)
        note = Note("start", int(time.time()), f"receiving alerts at {where}")
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


def _outbox(chosen: argparse.Namespace, state: execution.State) -> execution.Outbox:
    path: Path | None = chosen.state

    def save(new: execution.State) -> None:
        if path is not None:
            new.save(path)

    if not chosen.execute:
        dry_run = execution.DryRunExecutor(chosen.plans, _plan_to_stdout)
        return execution.Outbox(dry_run, state=state, save=save)
    guard = execution.Guard(chosen.cap, chosen.kill_file)
    executor = execution.load(chosen.execute)
    return execution.Outbox(executor, guard=guard, state=state, save=save)


def _positions(
    chosen: argparse.Namespace,
    cube: AsyncCubeClient,
    node: Node | None,
    market: Market,
) -> PositionSource:
    if chosen.positions == "ortege":
        return sources.OrtegePositions(cube, market)
    if chosen.positions == "node" and node is not None:
        return sources.NodePositions(node, market)
    return sources.FixturePositions.load(Path(chosen.positions))


def _prices(
    chosen: argparse.Namespace,
    cube: AsyncCubeClient,
    node: Node | None,
    market: Market,
) -> PriceSource:
    if chosen.prices == "ortege":
        return sources.OrtegePrices(cube, market)
    if chosen.prices == "node" and node is not None:
        return sources.NodePrices(node, market)
    return sources.FixturePrices.load(Path(chosen.prices))


def _borrowers(
    chosen: argparse.Namespace, cube: AsyncCubeClient, market: Market
) -> Callable[[int], Awaitable[Sequence[str]]]:
    if chosen.borrowers is None:
        return sources.OrtegePositions(cube, market).borrowers
    listed = read_borrowers(chosen.borrowers)

    async def first(most: int) -> Sequence[str]:
        return listed[:most]

    return first


def read_borrowers(path: Path) -> list[str]:
    """Read addresses, one a line; the rest of a line after # is a comment.

    Raises:
        FileError: the file cannot be read, or an address is invalid.
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
