"""Loading over REST: the library, bare httpx, and other clients from PyPI."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from comparing import compare, quartiles
from peers import PYPI, Missing, from_pypi
from processes import LoadServer, loader
from tables import Plan, Record, Table, at_most, count, itself, median, spread, text

LOADS = {10: 200, 1_000: 60, 10_000: 12}
GOAL = 1.1


def measure(plan: Plan) -> Iterator[Record]:
    sync = {name: loader(name) for name in ("floor", "library")}
    asynchronous = {name: loader(f"{name}_async") for name in sync}
    with tempfile.TemporaryDirectory() as folder:
        for name, requirement in PYPI.items():
            if plan.quick:
                yield {"skipped": f"{requirement}: not with --quick"}
                continue
            try:
                sync[requirement] = from_pypi(name, Path(folder))
            except Missing as error:
                yield {"skipped": f"{requirement}: {error}"}
        for rows, loads in LOADS.items():
            if plan.quick and rows != 1_000:
                continue
            with LoadServer.start(rows, loads) as server:
                for kind, programs in {"sync": sync, "async": asynchronous}.items():
                    result = compare(programs, server.run, plan.rounds)
                    for name in list(programs)[1:]:
                        is_ours = name == "library"
                        yield {
                            "rows": rows,
                            "client": f"`load()`, {kind}" if is_ours else name,
                            "ratio": quartiles(result.ratios(name)),
                            "goal": GOAL if is_ours else None,
                            "itself": statistics.median(result.itself),
                            "disturbed": result.disturbed,
                        }


REST = Table(
    "rest",
    "A client, to httpx, orjson.loads and float(): CPU time.",
    {
        "rows": count("rows"),
        "client": text("client"),
        "ratio": median,
        "quartiles": spread,
        "goal": at_most,
        "baseline to itself": itself,
    },
    measure,
)
