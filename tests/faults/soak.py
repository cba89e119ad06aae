"""Watch a real server for long: ``python -m tests.faults.soak --minutes 60``.

The last lines are the figures; the exit status is 1 if something grew or went wrong.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from injection.real import real_server
from injection.soak import run


def main() -> int:
    """Run it and print what was measured."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.soak", description=__doc__
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--server", choices=("classic", "strict"), default="classic")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)
    with real_server(chosen.server) as server:
        report = run(server, 60 * chosen.minutes)
    print(f"{chosen.server}\n{report}")
    return bool(report.failures)


if __name__ == "__main__":
    sys.exit(main())
