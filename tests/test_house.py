"""The architecture: every module has a layer, is pure or a shell, and has no cycle."""

from __future__ import annotations

import ast
import graphlib
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
CONTRACTS = {
    each["id"]: each
    for each in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"][
        "importlinter"
    ]["contracts"]
}
# What may do I/O, read a clock or draw random numbers.
SHELLS = {
    "ortege_watch._http.deadline",
    "ortege_watch._http.driver",
    "ortege_watch._http.token_source",
    "ortege_watch._sqlite",
    "ortege_watch._websocket",
    "ortege_watch.cube.client",
    "ortege_watch.testing",
    "ortege_watch.watch.runner",
    "ortege_watch.watch.updates",
    "ortege_watch.watchbus.asgi",
    "ortege_watch.watchbus.channel",
    "ortege_watch.watchbus.client",
    "ortege_watch.watchbus.handled",
    "ortege_watch.watchbus.inbox",
    "ortege_watch.watchbus.outbox",
    "ortege_watch.watchbus.provider",
    "ortege_watch.watchbus.publisher",
    "ortege_watch.watchbus.subscribers",
    "ortege_watch.watchbus.receiving",
    "ortege_watch.watchbus.threads",
    "ortege_watch.watchbus.verifier",
    "ortege_watch.watchbus.view",
}
# Names of other modules, for type checkers and on their first use: no imports.
NAMESPACES = {"ortege_watch", "ortege_watch.watchbus"}


def name_of(path: Path) -> str:
    """Return the dotted name of a module."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


FILES = {name_of(path): path for path in sorted(SOURCE.rglob("*.py"))}
CODE = [
    name
    for name, path in FILES.items()
    if name not in NAMESPACES
    and (path.name != "__init__.py" or "import" in path.read_text("utf-8"))
]


def is_within(module: str, packages: set[str]) -> bool:
    """Return whether the module is one of the packages or a part of one."""
    parts = module.split(".")
    return any(".".join(parts[: n + 1]) in packages for n in range(1, len(parts)))


def imports_of(module: str) -> set[str]:
    """Return the modules of the package that a module imports anywhere in its file.

    Imports for type checkers and imports inside functions count, too.
    """
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                found.add(submodule if submodule in FILES else node.module or "")
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & set(FILES)


def first_cycle(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules of one cycle, or an empty list."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_modules_import_each_other_in_one_direction() -> None:
    graph = {
        name: set() if name in NAMESPACES else imports_of(name) - {name}
        for name in FILES
    }
    assert first_cycle(graph) == []


def test_a_cycle_of_type_checking_imports_would_be_found() -> None:
    assert set(first_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}
    # from ortege_watch.cube.flows, only used by type checkers and inside functions
    assert "ortege_watch.watch.updates" in imports_of("ortege_watch.cube.client")


def test_packages_import_each_other_in_one_direction() -> None:
    def package(module: str) -> str:
        return ".".join(module.split(".")[:2])

    graph: dict[str, set[str]] = {}
    for name in set(FILES) - NAMESPACES:
        others = {package(each) for each in imports_of(name)} - {"ortege_watch"}
        graph.setdefault(package(name), set()).update(others - {package(name)})
    assert first_cycle(graph) == []


def test_every_module_has_a_layer() -> None:
    layers = {
        name.strip(" ()")
        for layer in CONTRACTS["layers"]["layers"]
        for name in layer.split("|")
    }
    assert [name for name in CODE if not is_within(name, layers)] == []


def test_every_module_is_pure_or_a_known_shell() -> None:
    pure = set(CONTRACTS["pure"]["source_modules"])
    assert pure & SHELLS == set()
    assert [name for name in CODE if not is_within(name, pure | SHELLS)] == []
    assert (pure | SHELLS) - set(FILES) == set()


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_at_most_1000_lines(name: str) -> None:
    assert len(FILES[name].read_text("utf-8").splitlines()) <= 1000
