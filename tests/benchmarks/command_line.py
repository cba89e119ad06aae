"""The options that the benchmark and its scripts have in common."""

from __future__ import annotations

import argparse
from importlib.util import find_spec

QUICK_ROUNDS = 1


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def parser(description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """Return a parser of ``--quick`` and ``--rounds``.

    Args:
        description: the docstring of the script.
        rounds: how many rounds it runs without these options.
    """
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--quick", action="store_true", help="one round, small sizes")
    made.add_argument(
        "--rounds",
        type=positive,
        help=f"of each comparison ({rounds}, with --quick {QUICK_ROUNDS})",
    )
    made.set_defaults(usual_rounds=rounds)
    return made


def check_installed(command: str, *modules: str) -> None:
    """End the program if modules are missing, with the command that installs them."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise SystemExit(f"error: cannot import {', '.join(missing)}; run: {command}")


def rounds_of(options: argparse.Namespace) -> int:
    """Return how many rounds to run."""
    return options.rounds or (QUICK_ROUNDS if options.quick else options.usual_rounds)
