"""The program: reads the command line, builds the parts, runs them, returns an exit code."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import signal
import sys
import time
from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import Any, Final, TextIO
from urllib.parse import urlsplit

import attrs
import msgspec

from liquidation_bot import alerts, demo, execution, monitor, sources
from liquidation_bot.backtest import Backtest, with_prices, with_settings
from liquidation_bot.bot import Bot, Incomplete, Settings
from liquidation_bot.chain import Node, NodePrices, NodeSource
from liquidation_bot.display import Display, Note, one_line, open_display
from liquidation_bot.engine import Input, Limits
from liquidation_bot.market import Market
from liquidation_bot.model import (
    FileError,
    PositionSource,
    PriceSource,
    SourceError,
    UsageError,
    fixed_exactly,
)
from liquidation_bot.record import (
    Journal,
    Recorder,
    Session,
    Step,
    read_record,
    replay,
)
from liquidation_bot.stacks import ClarityError, check_principal
from ortege_watch import AsyncCubeClient, InvalidArgument, OrtegeWatchError

__all__ = ["main", "parse", "read_borrowers"]

OK: Final = 0
FAILED: Final = 1
WRONG_USE: Final = 2
INCOMPLETE: Final = 3
INTERRUPTED: Final = 130

_ABOUT: Final = """\
Watch borrowers of Zest Protocol, V1 or V2 as the market file says, and write a plan for
each profitable liquidation. No transaction is signed or sent. ORTEGE_URL and ORTEGE_TOKEN
name the server; --demo needs neither.

Without a mode (--demo, --once, ...) it watches until it is stopped. Options are for
watching and --once; [also MODE], [not MODE] and [only MODE] name the exceptions."""

_EXITS: Final = """\
exit codes: 0 ended as requested (also on SIGTERM), 1 failed, or --check-market found a wrong
line, 2 wrong use (options, environment, a file, or members that the server lacks), 3 --once
could not read all prices, positions, borrowers and state (its plans are valid), or the
market file does not agree with the chain, 130 on SIGINT (Ctrl-C)"""

_MARKET: Final = Path(__file__).parent / "markets" / "zest-v1.toml"
# Seconds for reading each of the seven chapters; the demo ends within 20 s.
_PAUSE: Final = 2.0
_write_to_stdout = partial(print, flush=True)
_MAX_DOLLARS: Final = 10**15
_MAX_COUNT: Final = 50_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bot; return the exit code."""
    chosen = parse(arguments)
    try:
        return _chosen(chosen)
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:  # Python would try again at its end, and change the code
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _chosen(chosen: argparse.Namespace) -> int:
    try:
        if chosen.replay is not None:
            return asyncio.run(_replay(chosen))
        if chosen.backtest is not None:
            return asyncio.run(_backtest(chosen))
        if chosen.settle is not None:
            return _settle(chosen)
        if chosen.check_market:
            return asyncio.run(_check_market(chosen))
        if chosen.demo:
            return _run(chosen, sys.stdout, lambda display: _demo(chosen, display))
        _check_environment()
        return _run(chosen, sys.stderr, lambda display: _live(chosen, display))
    except (UsageError, InvalidArgument) as error:
        return _failed(WRONG_USE, error)
    except Incomplete as error:
        return _failed(INCOMPLETE, error)
    except (OrtegeWatchError, SourceError, demo.StoryBroken, OSError) as error:
        return _failed(FAILED, error)


def _failed(code: int, error: Exception) -> int:
    with suppress(OSError):  # nobody reads it
        print(f"liquidation_bot: {one_line(str(error))}", file=sys.stderr)
    return code


def _check_environment() -> None:
    names = ("ORTEGE_URL", "ORTEGE_TOKEN")
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise UsageError(
            f"set {' and '.join(missing)} in the environment, or try --demo, which "
            "needs no account"
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


def _serve_address(text: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text if ':' in text else f':{text}'}")
        host, port, path = parts.hostname, parts.port, parts.path
    except ValueError:
        host = port = path = None
    if port is None or path:
        raise argparse.ArgumentTypeError(
            f"must be like 127.0.0.1:9100 (port 0: any), got {text!r}"
        )
    return host or "127.0.0.1", port


def _time_range(text: str) -> tuple[datetime, datetime]:
    try:
        start, end = (
            each if each.tzinfo else each.replace(tzinfo=UTC)
            for each in map(datetime.fromisoformat, text.split(".."))
        )
    except ValueError:
        start = end = datetime.now(UTC)
    if start >= end:
        raise argparse.ArgumentTypeError(
            f"must be like 2026-11-01..2026-11-08T12:00, got {text!r}"
        )
    return start, end


def _result(text: str) -> tuple[str, Step]:
    plan, _, result = text.partition("=")
    if not plan or result not in ("sent", "not-sent"):
        raise argparse.ArgumentTypeError(
            f"must be the id of a plan, and =sent or =not-sent, got {text!r}"
        )
    return plan, "sent" if result == "sent" else "not sent"


def _address(text: str) -> str:
    try:
        check_principal(text)
    except ClarityError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


_RUN: Final = ("", "--once")
_WATCH: Final = ("",)
_SHOWN: Final = ("", "--once", "--demo")
_DECIDE: Final = (*_RUN, "--backtest")
_PLANS: Final = (*_SHOWN, "--replay")
_BACKTEST: Final = ("--backtest",)
_SETTLE: Final = ("--settle",)
_MODES: Final = (*_PLANS, *_BACKTEST, *_SETTLE, "--check-market")
_CHAIN: Final = (*_RUN, "--check-market")
_MARKETS: Final = (*_DECIDE, "--check-market")
_LIMITS: Final = tuple(each.name for each in msgspec.structs.fields(Limits))


@attrs.frozen
class _Option:
    """An option, and the modes that use it; the others refuse it.

    Attributes:
        usage: its name, and what stands for its value.
        about: the help.
        read: converts its value, or lists the values; None for a flag.
        default: its value as it would be given; None without one.
        modes: those that use it; "" watches.
        repeats: whether it can be given more than once; the value is then a list.
    """

    usage: str
    about: str
    read: Callable[[str], Any] | tuple[str, ...] | None = str
    default: str | None = None
    modes: Sequence[str] = _RUN
    repeats: bool = False

    @property
    def name(self) -> str:
        return self.usage.partition(" ")[0]

    @property
    def key(self) -> str:
        return self.name.removeprefix("--").replace("-", "_")

    def value(self) -> Any:
        """Return the value that it has without being given."""
        if self.default is None:
            return [] if self.repeats else False if self.read is None else None
        return self.read(self.default) if callable(self.read) else self.default

    def for_argparse(self) -> dict[str, Any]:
        """Return the arguments of ``add_argument``; no default tells what is given."""
        notes = "" if self.default is None else f" (default {self.default})"
        lacking = [f"not {each}" for each in _RUN[1:] if each not in self.modes]
        more = [f"also {each}" for each in self.modes if each not in _RUN]
        if "" not in self.modes:
            lacking, more = [], [f"only {each}" for each in self.modes]
        notes += "".join(f" [{each}]" for each in (*lacking, *more))
        common = {"default": argparse.SUPPRESS, "help": self.about + notes}
        if self.read is None:
            return {**common, "action": "store_true"}
        values = {"type": self.read} if callable(self.read) else {"choices": self.read}
        if self.repeats:
            common["action"] = "append"
        return {**common, **values, "metavar": self.usage.partition(" ")[2]}


_OPTIONS: Final[Mapping[str, Sequence[_Option]]] = {
    "sources (the API key for the node: STACKS_API_KEY)": [
        _Option(
            "--market FILE", "default: Zest V1's, unverified", Path, None, _MARKETS
        ),
        _Option("--positions ortege|node|FILE", "their source", default="ortege"),
        _Option("--prices ortege|node|FILE", "their source", default="ortege"),
        _Option("--node URL", "also checks the market", modes=_CHAIN),
        _Option("--node-calls-per-minute N", "default 500", _count, modes=_CHAIN),
        _Option("--borrowers FILE", "addresses; default: asked from Ortege", Path),
        _Option("--most-borrowers N", "how many are followed", _count, "5000"),
    ],
    "what is worth a plan (exact dollars)": [
        _Option("--min-profit USD", "after fees and slippage", _dollars, "1", _DECIDE),
        _Option("--allow-unprofitable", "plans at a loss, too", None, None, _DECIDE),
        _Option("--transaction-fee USD", "of the call", _dollars, "0.1", _DECIDE),
        _Option("--slippage-bps N", "when selling", _basis_points, "100", _DECIDE),
        _Option("--wallet-cap USD", "most for one call", _dollars, None, _DECIDE),
        _Option("--margin HEALTH", "to the threshold", _dollars, "0.001", _DECIDE),
    ],
    "operation (times in seconds)": [
        _Option("--cool-down S", "between a borrower's plans", _count, "1800", _DECIDE),
        _Option("--resync S", "between readings of all", _count, "300", _WATCH),
        _Option("--window S", "of events and prices", _count, "3600", _WATCH),
        _Option(
            "--status S", "between lines about what is seen", _count, "600", _WATCH
        ),
        _Option(
            "--silent-after S",
            "age of a price that is asked for",
            _count,
            "600",
            _WATCH,
        ),
        _Option("--liquidator ADDRESS", "for post-conditions", _address),
        _Option("--plans DIRECTORY", "a JSON file for each plan", Path, None, _PLANS),
        _Option(
            "--state FILE",
            "keeps every step of a plan across restarts",
            Path,
            None,
            (*_RUN, *_SETTLE),
        ),
        _Option("--record FILE", "appends the inputs, for --replay", Path),
        _Option(
            "--log auto|table|lines|json",
            "auto: a table on a terminal with rich installed, else lines",
            ("auto", "table", "lines", "json"),
            "auto",
            _SHOWN,
        ),
    ],
    "alerts (credentials: ALERTS_TO_APP_ID and ALERTS_TO_SECRET, "
    "ALERTS_FROM_APP_ID and ALERTS_FROM_SECRET)": [
        _Option(
            "--alerts-to URL", "for plans: http(s):// (POST) or ws(s):// (channel)"
        ),
        _Option("--outbox FILE", "keeps alerts until they are sent by POST", Path),
        _Option(
            "--alerts-from HOST:PORT/PATH",
            "receive alerts over WebSocket: each is a reason to read a position again",
            _listen_address,
            modes=_WATCH,
        ),
    ],
    "observation (the URL of a webhook is a secret: ORTEGE_BOT_WEBHOOK or a file hide it "
    "from others on this machine)": [
        _Option(
            "--metrics HOST:PORT",
            "serve /metrics and /health; without a host on 127.0.0.1",
            _serve_address,
            modes=_WATCH,
        ),
        _Option("--webhook URL", "gets plans, and problems that last", repeats=True),
        _Option("--webhook-file FILE", "URLs of webhooks, one a line", Path),
        _Option(
            "--webhook-format slack|json",
            "slack+https://… is Slack's in any case",
            ("slack", "json"),
            "json",
        ),
    ],
    "backtests (limits that are not given stay as recorded)": [
        _Option("--backtest-delay S", "until later prices", _count, "60", _BACKTEST),
        _Option(
            "--backtest-prices FROM..TO",
            "Ortege's prices of that time instead, such as 2026-11-01..2026-11-08",
            _time_range,
            None,
            _BACKTEST,
        ),
        _Option("--plot FILE", "a picture of the report, SVG", Path, None, _BACKTEST),
    ],
    "execution (by your own code; none is shipped)": [
        _Option("--execute MODULE:NAME", "called to create an executor"),
        _Option("--cap USD", "for all executed plans of the state file", _dollars),
        _Option("--kill-file FILE", "while it exists, nothing is executed", Path),
        _Option("--execute-within S", "limit of each call; default 60", _count),
    ],
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; end the program with code 2 on a mistake."""
    parser = argparse.ArgumentParser(
        prog="liquidation_bot",
        description=_ABOUT,
        epilog=_EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    modes, flag = parser.add_mutually_exclusive_group().add_argument, "store_true"
    modes("--demo", action=flag, help="run on a made-up market, then end")
    modes("--once", action=flag, help="check everybody once, then end")
    modes(
        "--replay", type=Path, metavar="FILE", help="make the plans of a record again"
    )
    about = "report what other limits would have done on records"
    modes("--backtest", type=Path, nargs="+", metavar="FILE", help=about)
    about = "say what became of plans with an unknown result, or list them"
    modes(
        "--settle", type=_result, nargs="*", metavar="ID=sent|ID=not-sent", help=about
    )
    modes("--check-market", action=flag, help="compare the market file with the chain")
    for title, options in _OPTIONS.items():
        group = parser.add_argument_group(title)
        for option in options:
            group.add_argument(option.name, **option.for_argparse())
    chosen, unknown = parser.parse_known_args(arguments)
    if unknown:  # a value may be the URL of a webhook
        names = [each.partition("=")[0] for each in unknown if each.startswith("-")]
        parser.error(f"unrecognized arguments: {', '.join(names) or 'a value'}")
    chosen.given = frozenset(vars(chosen))
    mode = next(
        each
        for each in reversed(_MODES)
        if not each or getattr(chosen, each[2:].replace("-", "_")) not in (None, False)
    )
    for option in itertools.chain(*_OPTIONS.values()):
        if not hasattr(chosen, option.key):
            setattr(chosen, option.key, option.value())
        elif mode not in option.modes:
            parser.error(
                f"{option.name} is not for {mode or 'watching'}, which does not use it"
            )
    for mistake in _mistakes(chosen):
        parser.error(mistake)
    return chosen


def _mistakes(chosen: argparse.Namespace) -> Iterator[str]:
    """Yield what options lack, or exclude."""
    reads_node = "node" in (chosen.positions, chosen.prices)
    needed = (chosen.cap, chosen.kill_file, chosen.state)
    if chosen.execute and None in needed:
        yield "--execute needs --cap, --kill-file and --state"
    more = (chosen.cap, chosen.kill_file, chosen.execute_within)
    if not chosen.execute and any(each is not None for each in more):
        yield "--cap, --kill-file and --execute-within need --execute"
    if chosen.execute and chosen.plans:
        yield "--plans is not for --execute, which passes plans to your executor"
    if reads_node and not chosen.node:
        yield "--positions node and --prices node need --node URL"
    if chosen.settle is not None and not chosen.state:
        yield "--settle needs --state FILE"
    if chosen.check_market and not chosen.node:
        yield "--check-market needs --node URL"
    if chosen.node_calls_per_minute and not chosen.node:
        yield "--node-calls-per-minute needs --node URL"
    if chosen.outbox and not (chosen.alerts_to or "").startswith("http"):
        yield "--outbox needs --alerts-to with an http(s) URL"


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
        pause=_PAUSE if at_a_terminal else 0.0,
    )


async def _replay(chosen: argparse.Namespace) -> int:
    executor = execution.DryRunExecutor(chosen.plans, _write_to_stdout)
    for plan in replay(chosen.replay):
        await executor.execute(plan)
    return OK


def _settle(chosen: argparse.Namespace) -> int:
    if not chosen.state.is_file():
        raise UsageError(f"there is no state file {str(chosen.state)!r}")
    with Journal.opened(chosen.state) as journal:
        for line in execution.settle(journal, dict(chosen.settle), _now()):
            print(line)
    return OK


async def _backtest(chosen: argparse.Namespace) -> int:
    items: Iterable[Session | Input] = with_settings(
        itertools.chain.from_iterable(map(read_record, chosen.backtest)),
        limits={name: vars(chosen)[name] for name in _LIMITS if name in chosen.given},
        market=Market.load(chosen.market) if chosen.market else None,
        cool_down=chosen.cool_down if "cool_down" in chosen.given else None,
    )
    if chosen.backtest_prices:
        _check_environment()
        items = [*items]
        market = [each for each in items if isinstance(each, Session)][-1].market
        async with AsyncCubeClient() as cube:
            prices = sources.OrtegePrices(cube, market)
            history = await prices.history(*chosen.backtest_prices)
        items = with_prices(items, history)
    report = Backtest.of(items, chosen.backtest_delay)
    for line in report.lines():
        print(line)
    if chosen.plot:
        chosen.plot.write_text(report.svg(), encoding="utf-8")
    return OK


async def _live(chosen: argparse.Namespace, display: Display) -> None:
    market = Market.load(chosen.market or _MARKET)
    async with AsyncExitStack() as stack:
        journal = stack.enter_context(Journal.opened(chosen.state))
        cube = await stack.enter_async_context(AsyncCubeClient())
        node = chain = None
        if chosen.node:
            node = await stack.enter_async_context(_node(chosen))
            chain = NodeSource(node, market)
        positions, prices = _sources(chosen, cube, node, chain, market)
        session = Session(
            market=market,
            limits=_limits(chosen),
            cool_down=chosen.cool_down,
            cool_downs=journal.ledger.running(_now()),
            caveats=(*positions.caveats, *prices.caveats),
            liquidator=chosen.liquidator,
        )
        borrowers = _borrowers(chosen, chain)
        members = sources.members(
            positions=chosen.positions == "ortege" or borrowers is None,
            prices=chosen.prices == "ortege",
        )
        record = None
        if chosen.record:
            record = stack.enter_context(Recorder(chosen.record, session))
        dispatcher = _dispatcher(chosen, journal)
        display = await _observed(chosen, stack, display, session, dispatcher)
        announcer, listener = await _alerts(chosen, stack, display, session)
        bot = Bot(
            cube=cube,
            session=session,
            positions=positions,
            prices=prices,
            borrowers=borrowers or sources.OrtegePositions(cube, market).borrowers,
            members=members,
            dispatcher=dispatcher,
            display=display,
            settings=Settings(
                most_borrowers=chosen.most_borrowers,
                window=chosen.window,
                resync=chosen.resync,
                status=chosen.status,
                silent_after=chosen.silent_after,
                once=chosen.once,
            ),
            now=_now,
            record=record,
            announcer=announcer,
            listener=listener,
            assumed=partial(sources.check_cubes, cube, market=market, names=members),
            state=chain,
            compare=chain.compare if chain else None,
        )
        await bot.run()


async def _observed(
    chosen: argparse.Namespace,
    stack: AsyncExitStack,
    display: Display,
    session: Session,
    dispatcher: execution.Dispatcher,
) -> Display:
    """Return the display, or one around it that serves metrics and posts to webhooks."""
    urls = [*chosen.webhook, *os.environ.get("ORTEGE_BOT_WEBHOOK", "").split()]
    if chosen.webhook_file:
        try:
            urls += chosen.webhook_file.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(f"cannot read the webhooks: {error}") from None
    if not urls and chosen.metrics is None:
        return display
    opening = monitor.open_webhooks(urls, slack=chosen.webhook_format == "slack")
    webhooks = await stack.enter_async_context(opening)
    observed = monitor.Monitor(
        display=display,
        now=_now,
        webhooks=webhooks,
        patience=chosen.silent_after,
        queued=dispatcher.queued,
    )
    await stack.enter_async_context(observed.running())
    if chosen.metrics is not None:
        host, port = chosen.metrics
        serving = monitor.serve(host, port, observed)
        url = await stack.enter_async_context(serving)
        text = f"serving {url}/metrics and {url}/health"
        observed.show(Note("start", _now(), text), session.engine())
    return observed


def _now() -> int:
    return int(time.time())


def _node(chosen: argparse.Namespace) -> Node:
    budget, key = chosen.node_calls_per_minute, os.environ.get("STACKS_API_KEY")
    return Node(chosen.node, calls_per_minute=budget or 500, key=key)


async def _check_market(chosen: argparse.Namespace) -> int:
    """Print what the market file says otherwise than the chain, and what it leaves out."""
    async with _node(chosen) as node:
        market = Market.load(chosen.market or _MARKET)
        found = await NodeSource(node, market).compare()
    for kind in ("wrong", "missing"):
        for text in getattr(found, kind):
            print(f"{kind}: {text}")
    print(f"{market.name}: {len(found.wrong)} wrong, {len(found.missing)} missing")
    return FAILED if found.wrong else OK


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
        note = Note("start", _now(), f"receiving alerts at {where}")
        display.show(note, session.engine())
    return announcer, listener


def _limits(chosen: argparse.Namespace) -> Limits:
    names = [name for name in Limits.__struct_fields__ if hasattr(chosen, name)]
    return Limits(**{name: getattr(chosen, name) for name in names})


def _dispatcher(chosen: argparse.Namespace, journal: Journal) -> execution.Dispatcher:
    if not chosen.execute:
        dry_run = execution.DryRunExecutor(chosen.plans, _write_to_stdout)
        return execution.Dispatcher(dry_run, journal=journal)
    guard = execution.Guard(chosen.cap, chosen.kill_file, chosen.execute_within or 60)
    executor = execution.load(chosen.execute)
    return execution.Dispatcher(executor, journal=journal, guard=guard)


def _sources(
    chosen: argparse.Namespace,
    cube: AsyncCubeClient,
    node: Node | None,
    chain: PositionSource | None,
    market: Market,
) -> tuple[PositionSource, PriceSource]:
    positions = chain
    if chosen.positions == "ortege":
        positions = sources.OrtegePositions(cube, market)
    elif chosen.positions != "node" or positions is None:
        positions = sources.FixturePositions.load(Path(chosen.positions))
    if chosen.prices == "ortege":
        return positions, sources.OrtegePrices(cube, market)
    if chosen.prices == "node" and node is not None:  # not all market files allow it
        return positions, NodePrices(node, market)
    return positions, sources.FixturePrices.load(Path(chosen.prices))


def _borrowers(
    chosen: argparse.Namespace, chain: NodeSource | None
) -> Callable[[int], Awaitable[Sequence[str]]] | None:
    """Return what lists the borrowers; None if Ortege does."""
    if chosen.borrowers is None:
        if chosen.positions == "node" and chain is not None and chain.lists_borrowers:
            return chain.borrowers
        return None
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
