"""What the bot's pages name must exist: tests, files, messages."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
BOT = ROOT / "examples/liquidation_bot"
LIBRARY = ROOT / "src/ortege_watch/watch/runner.py"  # its warnings are in the log, too


def test_every_proof_is_a_test():
    readme = (BOT / "README.md").read_text(encoding="utf-8")
    proofs = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", readme)
    assert len(proofs) > 10
    for path, name in proofs:
        code = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^(async )?def {name or 'test_'}", code, re.MULTILINE), name


def test_the_map_has_every_file():
    readme = (BOT / "README.md").read_text(encoding="utf-8")
    _, _, table = readme.partition("| file | contents |")
    named = re.findall(r"`([\w/]+\.py)`", table.partition("\n\n")[0])
    files = [str(path.relative_to(BOT)) for path in BOT.rglob("*.py")]
    assert sorted(named) == sorted(set(files) - {"__init__.py"})


def test_every_message_that_an_operator_looks_for_is_one():
    page = (BOT / "OPERATING.md").read_text(encoding="utf-8")
    first = [
        line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `")
    ]
    messages = [each for cell in first for each in re.findall(r"`([^`]+)`", cell)]
    assert len(messages) > 15
    code = "".join(
        path.read_text(encoding="utf-8") for path in [*BOT.rglob("*.py"), LIBRARY]
    )
    code = re.sub(r'"\s*f?"', "", code)  # of a string in several lines
    for message in messages:
        assert message in code, message
