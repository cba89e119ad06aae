"""mypy finds every mistake in typing/misuse.py, and no other."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MISUSE = ROOT / "tests/typing/misuse.py"


def found_by_mypy(path: Path) -> dict[int, str]:
    """Check the file as CI checks the rest; answer its errors by line."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", str(path)],
        capture_output=True,
        check=False,
        cwd=ROOT,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    errors: dict[int, str] = {}
    for line in done.stdout.splitlines():
        if match := re.match(r"(.+?):(\d+): error: (.*)", line):
            assert (ROOT / match[1]).samefile(path), line
            number = int(match[2])
            errors[number] = errors.get(number, "") + match[3]
    return errors


def test_mypy_finds_the_mistakes_and_nothing_else() -> None:
    found = found_by_mypy(MISUSE)
    expected = {
        number: line.rpartition("# E: ")[2].strip()
        for number, line in enumerate(MISUSE.read_text("utf-8").splitlines(), 1)
        if "  # E: " in line
    }
    assert expected
    assert found.keys() == expected.keys(), found
    for number, words in expected.items():
        assert words in found[number], f"line {number}: {found[number]}"
