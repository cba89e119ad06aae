"""The bot's README names tests as proofs: they must exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_proof_is_a_test():
    readme = (ROOT / "examples/liquidation_bot/README.md").read_text(encoding="utf-8")
    proofs = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", readme)
    assert len(proofs) > 10
    for path, name in proofs:
        code = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^(async )?def {name or 'test_'}", code, re.MULTILINE), name
