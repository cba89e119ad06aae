"""Measure the Cube half and print ratios: ``python tests/benchmarks [--quick]``.

CPU time of the process of a program, on the same answers over loopback; medians and
quartiles of the ratios of each round. The baseline runs twice in every round; a round
where its two times are not within 0.85 to 1.15 of each other does not count. A program
that saw other rows than the others ends the run. Tables are printed as Markdown.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from command_line import check_installed, parser as command_line, positive, rounds_of
from comparing import check_same
from memory import MEMORY
from peers import PYPI, Missing, from_pypi, javascript
from processes import HERE, Failed, LoadServer, Program, PushServer, loader, receiver
from receiving import CASES, JAVASCRIPT, RECEIVING, TUTORIAL
from rest import REST
from startup import START
from tables import Plan, Record

TABLES = {
    each.name: each for each in (RECEIVING, JAVASCRIPT, TUTORIAL, MEMORY, REST, START)
}


# The programs that are compared run in this Python; docs/speed.md has the same command.
NEEDED = ("ortege_watch", "orjson", "websocket")
INSTALL = "pip install -e . orjson websocket-client"


def check(*, offline: bool) -> None:
    """Check that all programs see the same rows; nothing is timed."""
    receivers = {name: receiver(name) for name in ("floor", "library", "tutorial")}
    loaders = {
        name: loader(name)
        for name in ("floor", "floor_async", "library", "library_async")
    }
    with tempfile.TemporaryDirectory() as folder:
        if not offline:
            try:
                receivers["javascript"] = javascript(Path(folder))
            except Missing as error:
                print(f"skipped: {error}")
            for name, requirement in PYPI.items():
                try:
                    loaders[name] = from_pypi(name, Path(folder))
                except Missing as error:
                    print(f"skipped: {requirement}: {error}")
        for case, name in CASES.items():
            with PushServer.start(50, case, 6, 0.05) as server:
                _check(f"pushes, {name} changed", server.run, receivers)
        with LoadServer.start(50, 2) as server:
            _check("loads", server.run, loaders)


def _check(what: str, run, programs: dict[str, Program]) -> None:
    outcomes = {name: run(program) for name, program in programs.items()}
    check_same(outcomes)
    some = outcomes["library"]
    print(f"{what}: {some.rows} rows, sum {some.sum}, seen by {', '.join(outcomes)}")


def _kept(records: Iterator[Record], kept: list[Record]) -> Iterator[Record]:
    for record in records:
        kept.append(record)
        yield record


def _figures(path: Path) -> dict[str, list[Record]]:
    figures = json.loads(path.read_text("utf-8"))
    if not isinstance(figures, dict) or figures.keys() - TABLES.keys():
        raise ValueError(f"expected an object with keys of {', '.join(TABLES)}")
    return figures


def _about(plan: Plan) -> str:
    """Say what was run, on which Python and which commit, where git knows it."""
    try:
        command = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        commit = f"commit {done.stdout.strip()}"
    except (OSError, subprocess.CalledProcessError):
        commit = "no git commit"
    quick = "with --quick: small sizes, " if plan.quick else ""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    rounds = f"{plan.rounds} round{'s' * (plan.rounds != 1)}"
    return f"Measured {quick}{rounds}, {python}, {commit}"


def _options() -> argparse.Namespace:
    """Read the command line, and refuse what would fail only later."""
    parser = command_line(__doc__, rounds=5)
    parser.add_argument("tables", nargs="*", help=f"only some of {', '.join(TABLES)}")
    parser.add_argument(
        "--sleep", type=positive, help="seconds that a loop sleeps (3 or 30)"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to a file")
    parser.add_argument("--show", type=Path, help="print the figures of such a file")
    parser.add_argument("--check", action="store_true", help="compare rows, not times")
    parser.add_argument("--offline", action="store_true", help="check without peers")
    options = parser.parse_args()
    if unknown := set(options.tables) - set(TABLES):
        parser.error(f"unknown tables: {', '.join(sorted(unknown))}")
    options.figures = {}
    if options.show:
        try:
            options.figures = _figures(options.show)
        except (OSError, ValueError) as error:
            parser.error(f"--show: cannot read {options.show}: {error}")
    if options.json:
        try:
            options.json.open("a", encoding="utf-8").close()
        except OSError as error:
            parser.error(f"--json: cannot write {options.json}: {error}")
    return options


def main() -> None:
    """Print every ratio beside its goal."""
    options = _options()
    figures: dict[str, list[Record]] = options.figures
    if not options.show:
        check_installed(INSTALL, *NEEDED)
    if options.check:
        check(offline=options.offline)
        return
    plan = Plan(
        quick=options.quick,
        rounds=rounds_of(options),
        sleep=options.sleep or (3 if options.quick else 30),
    )
    if not options.show:
        print(_about(plan), flush=True)
    for name, table in TABLES.items():
        if options.tables and name not in options.tables:
            continue
        records = figures.setdefault(name, [])
        shown = records if options.show else _kept(table.measure(plan), records)
        for line in table.lines(shown):
            print(line, flush=True)
        if options.json:
            options.json.write_text(json.dumps(figures, indent=1), "utf-8")


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        raise SystemExit(f"error: {error}") from None
