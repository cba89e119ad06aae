"""Every Python block of the README and of the documentation runs."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from pathlib import Path

import pytest
from sybil import Example, Sybil
from sybil.parsers.myst import CodeBlockParser

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    path
    for path in [*ROOT.glob("README.md"), *sorted(ROOT.glob("docs/**/*.md"))]
    if "_build" not in path.parts
]


class Evaluator:
    """Run a block; ``await`` and ``async with`` may stand at its top level."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self.runner = runner

    def __call__(self, example: Example) -> None:
        line = example.line + example.parsed.line_offset
        code = compile(
            "\n" * line + example.parsed,
            example.path,
            "exec",
            flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
            dont_inherit=True,
        )
        result = eval(code, example.namespace)
        if inspect.iscoroutine(result):
            self.runner.run(result)


def run_blocks(page: Path, namespace: dict[str, object]) -> int:
    """Run the page's blocks in order, in one namespace and one event loop."""
    with asyncio.Runner() as runner:
        parser = CodeBlockParser("python", Evaluator(runner))
        document = Sybil([parser]).parse(page)
        document.namespace.update(namespace)
        examples = list(document.examples())
        for example in examples:
            example.evaluate()
    return len(examples)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_the_page_runs(page: Path) -> None:
    text = page.read_text("utf-8")
    assert not re.search(r"```+\s*\{?(py|pycon|python3|Python)\b", text)
    count = run_blocks(page, {"__name__": "__main__"})
    assert count >= len(re.findall(r"^\s*```+\s*python", text, re.MULTILINE))


def test_blocks_share_names_and_may_await(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nimport asyncio\nvalues = []\n```\n"
        "```python\nawait asyncio.sleep(0)\nvalues.append(1)\n```\n"
        "```python\nassert values == [1]\nout.extend(values)\n```\n"
    )
    out: list[int] = []
    assert run_blocks(page, {"out": out}) == 3
    assert out == [1]


def test_a_block_that_fails_names_its_place(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Some text.\n\n```python\nfine = 1\nassert fine == 2\n```\n")
    with pytest.raises(AssertionError) as caught:
        run_blocks(page, {})
    last = caught.traceback[-1]
    assert (Path(last.path), last.lineno + 1) == (page, 5)
