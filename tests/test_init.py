"""The two public namespaces: cheap to import, and complete."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

import ortege_watch
import ortege_watch.watchbus

NAMESPACES = [ortege_watch, ortege_watch.watchbus]
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


@pytest.mark.parametrize(
    ("namespace", "name"),
    [(each, name) for each in NAMESPACES for name in each.__all__],
)
def test_every_public_name_can_be_imported_and_is_listed(
    namespace: ModuleType, name: str
) -> None:
    assert getattr(namespace, name) is not None
    assert name in dir(namespace)


def test_the_version_is_the_installed_one() -> None:
    assert ortege_watch.__version__ == version("ortege-watch")


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_an_unknown_name_is_an_attribute_error(namespace: ModuleType) -> None:
    with pytest.raises(AttributeError, match=rf"'{namespace.__name__}' .* 'Qeury'"):
        namespace.Qeury


def test_the_watch_bus_has_a_namespace_of_its_own() -> None:
    assert set(ortege_watch.__all__) & set(ortege_watch.watchbus.__all__) == set()
    with pytest.raises(ImportError):
        exec("from ortege_watch import AlertInfo")


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_type_checkers_see_the_same_names_as_the_table(namespace: ModuleType) -> None:
    tree = ast.parse(Path(namespace.__file__).read_text("utf-8"))
    imported = {
        alias.asname or alias.name: (node.module or "").removeprefix("ortege_watch.")
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == namespace._HOMES
    assert set(namespace.__all__) - {"__version__"} == set(imported)
    assert namespace.__all__ == sorted(namespace.__all__)


ATTRIBUTES = {
    "Row": "as_dict get into items keys values",
    "ChangedRow": "as_dict before get into items keys values",
    "Result": "annotation count index into query raw refreshed_at total truncated",
    "Update": (
        "added changed first query received_at removed result resumed stale truncated"
        " upserted"
    ),
    "Query": (
        "cache columns compares dimensions filter from_wire having join_hints limit"
        " limit_to measures members offset order order_by response_format segments time"
        " timezone to_wire total ungrouped validate where"
    ),
    "Condition": "conditions kind member operator to_wire values",
    "TimeSelection": (
        "asc by compare desc dimension granularity name over range to_wire type"
    ),
    "Meta": "cube cubes member read",
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_editor_completes_what_the_docs_list_and_nothing_else(name: str) -> None:
    kind = getattr(ortege_watch, name)
    public = {each for each in dir(kind) if not each.startswith("_")}
    assert public == {*ATTRIBUTES[name].split()}
    docs = DOOR.parents[2] / "docs"
    pages = "".join(page.read_text("utf-8") for page in docs.glob("*.md"))
    described = pages + "".join(each.__doc__ or "" for each in kind.__mro__)
    for each in public - {"count", "index"}:  # of every sequence
        assert each in described, each
