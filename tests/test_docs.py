"""Every Python block of the README and of the documentation runs as it stands.

A page starts in an empty namespace and brings its own fake server. Only the pages that
tell the reader to set ``ORTEGE_URL`` and ``ORTEGE_TOKEN`` find a server there.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from sybil import Example, Sybil
from sybil.parsers.myst import CodeBlockParser

import ortege_watch
from ortege_watch import errors, testing, watchbus
from ortege_watch.testing import FakeCube

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    path
    for path in [*ROOT.glob("README.md"), *sorted(ROOT.glob("docs/**/*.md"))]
    if "_build" not in path.parts
]

NAMES_ITS_SERVER = {ROOT / "README.md", ROOT / "docs" / "index.md"}


@pytest.fixture
def no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a page in an empty directory, without a server's address.

    The environment is restored afterwards.
    """
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    os.environ.pop("ORTEGE_URL", None)
    os.environ.pop("ORTEGE_TOKEN", None)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def server(no_server: None) -> Iterator[FakeCube]:
    """Name a server in the environment, with a sum that is NULL and one that is NaN."""
    with FakeCube() as fake:
        row = {"function_name": "supply", "tx_date": datetime.now(UTC)}
        nan = {"sender_address": "SP1", "asset_amount": Decimal("NaN")}
        fake.tables["stacks_contract_events"].insert([row, row | nan])
        os.environ["ORTEGE_URL"] = fake.url
        os.environ["ORTEGE_TOKEN"] = fake.token()
        yield fake


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


@pytest.mark.usefixtures("no_server")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_the_page_runs(
    page: Path, request: pytest.FixtureRequest
) -> None:
    if page in NAMES_ITS_SERVER:
        request.getfixturevalue("server")
    text = page.read_text("utf-8")
    assert not re.search(r"```+\s*\{?(py|pycon|python3|Python)\b", text)
    count = run_blocks(page, {"__name__": "__main__"})
    assert count >= len(re.findall(r"^\s*```+\s*python", text, re.MULTILINE))


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/index.md",
        "docs/quickstart.md",
        "docs/bot.md",
        "docs/subscriptions.md",
        "examples/tutorial.py",
    ],
)
def test_a_page_about_summed_events_says_which_ones_are_not_noticed(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    assert re.search(
        r"not change (the|such a) sum[^#]*cancel\s+out,[^#]*delivery\.md", text
    )


def test_the_blocks_of_the_testing_page_are_a_file_of_tests(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "testing.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    files = {"test_bot.py": "\n\n".join(blocks), "test_first_block.py": blocks[0]}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-c", os.devnull]
    done = subprocess.run(
        [*command, *files], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    passed = len(re.findall(r"def test_", "".join(blocks))) + 1
    assert f"{passed} passed" in done.stdout


def test_the_blocks_of_the_bot_page_are_the_quick_bot() -> None:
    text = (ROOT / "docs" / "bot.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    code = (ROOT / "examples" / "quick_bot.py").read_text("utf-8")
    code = code[code.index("import argparse") : code.index('if __name__ == "__main__"')]
    parts = [each for each in blocks if each.strip() in code and each != "demo()\n"]
    # In their order, all of them, and nothing else but the tests of the page.
    joined = "\n".join("\n".join(parts).split())
    assert joined == "\n".join(code.split())
    assert len(parts) == 6


def test_the_bot_of_the_quickstart_is_a_file_that_survives_nan(
    server: FakeCube, tmp_path: Path
) -> None:
    text = (ROOT / "docs" / "quickstart.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    [whole] = [block for block in blocks if "def main" in block]
    path = tmp_path / "bot.py"
    path.write_text(whole + "\n\nasyncio.run(main())\n")
    pool = re.search(r'^POOL = "(.*)"$', whole, re.MULTILINE)
    assert pool
    table = server.tables["stacks_contract_events"]

    def happen() -> None:
        """Insert two events at once, the unreadable one before the other."""
        row = {"function_name": "borrow", "contract_id": pool[1]}
        table.insert(
            row | {"asset_amount": amount, "sender_address": sender, "tx_date": at}
            for amount, sender in [(Decimal("NaN"), "SP-A"), (Decimal("12.5"), "SP-B")]
            for at in [datetime.now(UTC)]
        )

    output = tmp_path / "output.txt"
    with (
        output.open("w") as file,
        subprocess.Popen(
            [sys.executable, "-u", str(path)], stdout=file, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            server.wait_until(lambda: server.subscriptions, timeout=20)
            for _ in range(40):  # the first update, whichever it is, is left out
                happen()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.25)
                if "SP-B" in output.read_text():
                    break
            assert process.poll() is None, output.read_text()
        finally:
            process.kill()
    assert "SP-B 12.5\n" in output.read_text()
    assert "a row is left out: " in output.read_text()


def test_the_reference_lists_every_public_name() -> None:
    page = (ROOT / "docs" / "reference.md").read_text("utf-8")
    found = re.findall(r"^\.\. (?:auto\w+|data):: ([\w.]+)", page, re.MULTILINE)
    # Names with a dot are what a public name gives, such as the members of Meta.
    public = [name for name in found if "." not in name]
    names = [*ortege_watch.__all__, *watchbus.__all__, *testing.__all__]
    assert sorted(public) == sorted(names)


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


@pytest.mark.usefixtures("server")
def test_a_block_finds_the_server_of_the_environment(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\n"
        "from ortege_watch import AsyncCubeClient, Dimension, Query\n"
        'function = Dimension("stacks_contract_events.function_name")\n'
        "async with AsyncCubeClient() as cube:\n"
        "    result = await cube.load(Query(dimensions=[function]))\n"
        'assert [row[function] for row in result] == ["supply"]\n'
        "```\n"
    )
    assert run_blocks(page, {}) == 1


@pytest.mark.usefixtures("no_server")
def test_a_block_without_a_server_of_its_own_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nfrom ortege_watch import CubeClient\nCubeClient()\n```\n"
    )
    with pytest.raises(errors.InvalidArgument, match="ORTEGE_URL"):
        run_blocks(page, {})


def test_a_block_that_fails_names_its_place(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Some text.\n\n```python\nfine = 1\nassert fine == 2\n```\n")
    with pytest.raises(AssertionError) as caught:
        run_blocks(page, {})
    last = caught.traceback[-1]
    assert (Path(last.path), last.lineno + 1) == (page, 5)


def drawn_tree(text: str) -> dict[str, str]:
    """Return each error's base class as a drawn tree shows it."""
    bases: dict[str, str] = {}
    path: list[str] = []
    for line in text.splitlines():
        if match := re.match(r"^([│├└─\s]*)([A-Z]\w+)", line):
            depth = len(match[1].expandtabs()) // 4
            path[depth:] = [match[2]]
            bases[match[2]] = path[depth - 1] if depth else "Exception"
    return bases


def test_the_error_trees_show_the_classes() -> None:
    classes = {
        name: kind.__base__.__name__
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.OrtegeWatchError)
    }
    page = (ROOT / "docs" / "errors.md").read_text("utf-8")
    assert drawn_tree(page.split("```text\n")[1].split("```")[0]) == classes
    docstring = inspect.cleandoc(errors.__doc__ or "")
    drawn = docstring.split("::\n\n")[1].split("\n\n")[0]
    assert drawn_tree(inspect.cleandoc("\n" + drawn)) == classes


def test_contributing_lists_every_package_and_what_is_pure() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    rows = re.findall(r"^\| `([\w/.]+)` \| [^|]+ \| ([^|]+) \|$", text, re.MULTILINE)
    house = {name: purity for name, purity in rows if "`" not in name}
    source = ROOT / "src" / "ortege_watch"
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    [pure] = [
        set(each["source_modules"])
        for each in contracts["tool"]["importlinter"]["contracts"]
        if each["id"] == "pure"
    ]

    def is_pure(path: Path) -> bool:
        name = ".".join(path.relative_to(source.parent).with_suffix("").parts)
        return any(name == each or name.startswith(each + ".") for each in pure)

    expected = {}
    for path in sorted(source.iterdir()):
        if path.suffix == ".py" and path.name != "__init__.py":
            expected[path.name] = "yes" if is_pure(path) else "no"
        elif any(path.rglob("*.py")):  # not the bytecode of a package that is gone
            files = [each for each in path.rglob("*.py") if each.name != "__init__.py"]
            shells = sorted(each.name for each in files if not is_pure(each))
            if not shells:
                expected[path.name + "/"] = "yes"
            elif len(shells) == len(files):
                expected[path.name + "/"] = "no"
            else:
                listed = ", ".join(f"`{name}`" for name in shells)
                expected[path.name + "/"] = f"all but {listed}"
    assert house == expected
