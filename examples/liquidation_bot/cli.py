"""The command line."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence

from liquidation_bot import demo
from liquidation_bot.display import Display, JsonLines, Lines

__all__ = ["main"]

OK, FAILED, WRONG_USE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bot; return the exit code."""
    options = _parser().parse_args(arguments)
    display: Display = (JsonLines if options.log == "json" else Lines)(_print)
    if options.demo:
        return _demo(display)
    missing = [n for n in ("ORTEGE_URL", "ORTEGE_TOKEN") if not os.environ.get(n)]
    if missing:
        print(f"Set {' and '.join(missing)}, or try --demo.", file=sys.stderr)
        return WRONG_USE
    return OK


def _demo(display: Display) -> int:
    try:
        asyncio.run(demo.run(display))
    except demo.StoryBroken as error:
        print(f"The demonstration failed: {error}", file=sys.stderr)
        return FAILED
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="liquidation_bot")
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--log", choices=["lines", "json"], default="lines")
    return parser


def _print(line: str) -> None:
    print(line, flush=True)
