"""The provider of alerts, run as its README says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_demo_sends_alerts_to_who_has_subscribed():
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ORTEGE_")}
    done = subprocess.run(
        [sys.executable, "-m", "provider.demo"],
        cwd=EXAMPLES,
        env=kept,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if "INFO" not in line]
    assert told == [
        "the provider can watch for big_amount_txn",
        f"subscribed to 0x{'ab' * 20}",
        f"alert: 2500 USD in 0x{1:064x}",
        f"alert: 4000 USD in 0x{6:064x}",
    ]
    assert done.stderr.count("incomplete transfer: ") == 1
    assert "made up" not in done.stderr + done.stdout  # the secret
    assert "Traceback" not in done.stderr


def test_a_provider_has_less_than_100_lines():
    lines = (EXAMPLES / "provider" / "service.py").read_text("utf-8").splitlines()
    assert len(lines) < 100
