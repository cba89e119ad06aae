"""The command line's options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from liquidation_bot.bus import Place
from liquidation_bot.clarity import ClarityError, check_principal
from liquidation_bot.model import fixed
from liquidation_bot.zest import ONE

__all__ = ["parse"]

_ABOUT: Final = """\
Watch borrowers of Zest Protocol V1 and write a plan for each liquidation that pays.
No transaction is signed, and none is sent. The server is named by ORTEGE_URL and
ORTEGE_TOKEN; --demo needs neither."""

_EXITS: Final = """\
exit codes: 0 it ended as asked (also on SIGTERM), 1 it failed, 2 wrong use (options,
environment, a file, or the server lacks what is needed), 130 on SIGINT (Ctrl-C)"""

_MARKET: Final = Path(__file__).parent / "markets" / "zest-v1.toml"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; ends the program with code 2 on a mistake."""
    parser = argparse.ArgumentParser(
        prog="liquidation_bot",
        description=_ABOUT,
        epilog=_EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _modes(parser)
    _sources(parser)
    _limits(parser)
    _operation(parser)
    _alerts(parser)
    _execution(parser)
    options = parser.parse_args(arguments)
    _check(parser, options)
    return options


def _modes(parser: argparse.ArgumentParser) -> None:
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument(
        "--demo", action="store_true", help="show it on a made-up market, then end"
    )
    modes.add_argument("--once", action="store_true", help="look once, then end")
    modes.add_argument(
        "--replay", type=Path, metavar="FILE", help="make a record's plans again"
    )


def _sources(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where things are read")
    group.add_argument(
        "--market",
        type=Path,
        default=_MARKET,
        metavar="FILE",
        help="the market file (default: the one for Zest V1 beside the bot, unverified)",
    )
    group.add_argument(
        "--positions",
        default="ortege",
        metavar="ortege|node|FILE",
        help="positions from Ortege's cubes, a Stacks node, or a file of JSON",
    )
    group.add_argument(
        "--prices",
        default="ortege",
        metavar="ortege|node|FILE",
        help="prices likewise",
    )
    group.add_argument("--node", metavar="URL", help="the Stacks node's API")
    group.add_argument(
        "--borrowers",
        type=Path,
        metavar="FILE",
        help="addresses to begin with, one a line (default: asked from Ortege)",
    )
    group.add_argument("--most-borrowers", type=_count, default=5_000, metavar="N")


def _limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is worth a plan (dollars, exact)")
    group.add_argument("--min-profit", type=_dollars, default=ONE, metavar="USD")
    group.add_argument(
        "--allow-unprofitable",
        action="store_true",
        help="plan also what loses money",
    )
    group.add_argument(
        "--transaction-fee", type=_dollars, default=ONE // 10, metavar="USD"
    )
    group.add_argument(
        "--slippage-bps",
        type=_basis_points,
        default=100,
        metavar="N",
        help="what selling the collateral may lose, hundredths of a percent",
    )
    group.add_argument(
        "--wallet-cap", type=_dollars, metavar="USD", help="the most one call may pay"
    )
    group.add_argument(
        "--margin",
        type=_dollars,
        default=ONE // 1000,
        metavar="HEALTH",
        help="how near the threshold is too close to call (default 0.001)",
    )


def _operation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("operation (seconds)")
    group.add_argument("--cool-down", type=_count, default=1_800, metavar="S")
    group.add_argument("--resync", type=_count, default=300, metavar="S")
    group.add_argument("--window", type=_count, default=3_600, metavar="S")
    group.add_argument(
        "--liquidator", type=_address, metavar="ADDRESS", help="for post-conditions"
    )
    group.add_argument(
        "--plans", type=Path, metavar="DIRECTORY", help="a file of JSON for each plan"
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
        help="auto: a table where the terminal is one and rich is installed",
    )


def _alerts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "alerts (their credentials: ALERTS_TO_APP_ID and ALERTS_TO_SECRET, "
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
        help="alerts wait there until they are sent (POST alone)",
    )
    group.add_argument(
        "--alerts-from",
        type=_place,
        metavar="HOST:PORT/PATH",
        help="take alerts over WebSocket: an alert about a borrower is a reason to "
        "read the position again",
    )


def _execution(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("execution (by code of yours; none is shipped)")
    group.add_argument("--execute", metavar="MODULE:NAME", help="makes an executor")
    group.add_argument(
        "--cap",
        type=_dollars,
        metavar="USD",
        help="all executed plans together, of this run or of the state file",
    )
    group.add_argument(
        "--kill-file",
        type=Path,
        metavar="FILE",
        help="while it is there, nothing is executed",
    )


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.execute and (options.cap is None or options.kill_file is None):
        parser.error("--execute needs --cap and --kill-file")
    if options.execute and (options.demo or options.replay):
        parser.error("--execute is not for --demo or --replay")
    if "node" in (options.positions, options.prices) and not options.node:
        parser.error("--positions node and --prices node need --node URL")
    sends = options.alerts_to or options.alerts_from
    if sends and (options.demo or options.replay):
        parser.error("--alerts-to and --alerts-from are not for --demo or --replay")
    if options.alerts_from and options.once:
        parser.error("--alerts-from is not for --once, which waits for nothing")
    if options.outbox and not (options.alerts_to or "").startswith("http"):
        parser.error("--outbox needs --alerts-to with an address of http(s)")


def _dollars(text: str) -> int:
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not number.is_finite() or number < 0 or number > 10**15:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 10^15")
    value = fixed(number, 8)
    if Decimal(value).scaleb(-8) != number:
        raise argparse.ArgumentTypeError(f"{text} has more than eight decimals")
    return value


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) <= 50_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _basis_points(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) > 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 10000")
    return int(text)


def _place(text: str) -> Place:
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    if not parts.hostname or port is None or parts.path in ("", "/"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not like 127.0.0.1:8700/alerts (port 0: any)"
        )
    return Place(parts.hostname, port, parts.path)


def _address(text: str) -> str:
    try:
        check_principal(text)
    except ClarityError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text
