"""No file escapes the contracts in pyproject.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
CONTRACTS = {
    each["id"]: each
    for each in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"][
        "importlinter"
    ]["contracts"]
}
# What may do I/O, read a clock or roll dice.
SHELLS = {
    "ortege_watch._http.driver",
    "ortege_watch._websocket",
    "ortege_watch.cube.client",
    "ortege_watch.testing",
    "ortege_watch.watch.runner",
    "ortege_watch.watch.updates",
    "ortege_watch.watchbus.channel",
    "ortege_watch.watchbus.client",
    "ortege_watch.watchbus.inbox",
    "ortege_watch.watchbus.outbox",
    "ortege_watch.watchbus.publisher",
    "ortege_watch.watchbus.verifier",
}
# On their way into other files.
UNSORTED = {
    "ortege_watch.watchbus.exchange",
    "ortege_watch.watchbus.link",
    "ortege_watch.watchbus.publishing",
    "ortege_watch.watchbus.verdicts",
}
SHELLS |= UNSORTED


def modules() -> list[str]:
    """Name every module that has code; packages that only hold others have none."""
    return [
        ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(
            ".__init__"
        )
        for path in sorted(SOURCE.rglob("*.py"))
        if path.name != "__init__.py" or "import" in path.read_text("utf-8")
    ]


def within(module: str, packages: set[str]) -> bool:
    """Tell whether the module is one of the packages or lies in one."""
    parts = module.split(".")
    return any(".".join(parts[: n + 1]) in packages for n in range(1, len(parts)))


def test_every_file_has_its_layer() -> None:
    layers = {
        name.strip(" ()")
        for layer in CONTRACTS["layers"]["layers"]
        for name in layer.split("|")
    }
    assert [name for name in modules()[1:] if not within(name, layers)] == []


def test_every_file_is_pure_or_a_known_shell() -> None:
    pure = set(CONTRACTS["pure"]["source_modules"])
    assert pure & SHELLS == set()
    stray = [name for name in modules()[1:] if not within(name, pure | SHELLS)]
    assert stray == []
