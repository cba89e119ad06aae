"""The tutorial's script, run as it stands against a fake server."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from ortege_watch.testing import FakeCube

EXAMPLES = Path(__file__).parents[2] / "examples"
HELPER = "SP2VCQJGH7PHP2DJK7Z0V48AGBHQAW3R3ZW1QF4N.borrow-helper-v1-3"


AT = datetime.now(UTC).replace(microsecond=0)


def event(function, sender, contract=HELPER):
    return {
        "contract_id": contract,
        "function_name": function,
        "sender_address": sender,
        "asset_amount": 7,
        "tx_date": AT,
    }


@pytest.mark.parametrize("generation", ["strict", "classic", "tutorial"])
def test_it_prints_what_is_there_and_what_comes(generation, tmp_path):
    with FakeCube(generation) as cube:
        events = cube.tables["stacks_contract_events"]
        events.insert(event("supply", "SP1"))
        events.insert(event("repay", "SP2"))
        events.insert(event("borrow", "SP3", contract="SP1.other"))
        env = {**os.environ, "ORTEGE_URL": cube.url, "ORTEGE_TOKEN": cube.token()}
        log = tmp_path / "log.txt"
        with (
            log.open("w") as errors,
            subprocess.Popen(
                [sys.executable, "-u", "tutorial.py"],
                cwd=EXAMPLES,
                env=env,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            ) as program,
        ):
            try:
                assert program.stdout is not None
                first = program.stdout.readline()
                assert first == f"{AT} supply SP1 7\n"
                events.insert(event("borrow", "SP4"))
                assert " borrow SP4 7" in program.stdout.readline()
                events.insert(event("borrow", "SP4"))  # the same key once more
                assert " borrow SP4 14" in program.stdout.readline()
                events.insert(event("borrow", "SP5") | {"asset_amount": None})
                assert " borrow SP5 None" in program.stdout.readline()
                events.insert(event("borrow", "SP6") | {"asset_amount": Decimal("NaN")})
                events.insert(event("borrow", None))
                assert " borrow None 7" in program.stdout.readline()
                assert "skipped: stacks_contract_events.asset_amount" in log.read_text()
            finally:
                program.kill()
