"""The package's door: it opens at once, and behind it is everything it promises."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import ortege_watch

DOOR = Path(ortege_watch.__file__)
HEAVY = {
    *("attr", "attrs", "cattr", "cattrs", "h11", "httpcore", "httpx", "msgspec"),
    *("anyio", "sniffio", "websockets"),
    *("asyncio", "decimal", "json", "logging", "socket", "ssl", "typing_extensions"),
}


def modules_after(statement: str) -> set[str]:
    """Run the statement in a bare interpreter; answer what it loaded."""
    program = (
        "import sys\n"
        f"sys.path[:0] = {[str(DOOR.parent.parent), *sys.path]!r}\n"
        f"before = set(sys.modules)\n{statement}\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("COVERAGE")
    }
    # -S: nothing that is installed adds modules of its own at start-up.
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        capture_output=True,
        check=True,
        env=environment,
        text=True,
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_the_package_alone() -> None:
    loaded = modules_after("import ortege_watch")
    assert "ortege_watch" in loaded
    assert {name for name in loaded if name.startswith("ortege_watch.")} == set()
    assert loaded & HEAVY == set()


def test_a_name_loads_its_own_module() -> None:
    loaded = modules_after("from ortege_watch import QueryError")
    assert "ortege_watch.errors" in loaded
    assert loaded & {"httpx", "websockets", "msgspec", "cattrs"} == set()


@pytest.mark.parametrize("name", ortege_watch.__all__)
def test_every_public_name_is_there_and_listed(name: str) -> None:
    assert getattr(ortege_watch, name) is not None
    assert name in dir(ortege_watch)


def test_the_version_is_the_one_that_is_installed() -> None:
    assert ortege_watch.__version__ == version("ortege-watch")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"'ortege_watch' .* 'Qeury'"):
        ortege_watch.Qeury


def test_type_checkers_and_the_table_are_told_the_same() -> None:
    tree = ast.parse(DOOR.read_text("utf-8"))
    told = {
        alias.asname or alias.name: (node.module or "").removeprefix("ortege_watch.")
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert told == ortege_watch._HOMES
    assert sorted(ortege_watch.__all__) == sorted([*told, "__version__"])
