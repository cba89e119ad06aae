"""What happens to a plan. What is shipped writes it down: nothing signs or sends."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import attrs

from liquidation_bot.model import shown
from liquidation_bot.state import write_atomically

__all__ = ["DryRunExecutor", "Executor", "ExecutorError", "Guard", "load"]


class ExecutorError(ValueError):
    """Refuse an executor that cannot be found or is none."""


class Executor(Protocol):
    """Do something with a plan."""

    async def execute(self, plan: Mapping[str, Any]) -> str:
        """Take a plan as ``call.document`` makes it.

        Returns:
            What was done with it, in a few words for the log.
        """
        ...


@attrs.frozen
class Guard:
    """Hold plans back that must not be executed.

    Attributes:
        cap: dollars of eight decimals that all executed plans together may pay.
        kill_file: while there is a file of this name, nothing is executed.
    """

    cap: int
    kill_file: Path

    def refusal(self, most: int, spent: int) -> str | None:
        """Say why a plan is held back; None where it may go.

        Args:
            most: dollars that the plan may pay.
            spent: dollars that plans before it may have paid.
        """
        if self.kill_file.exists():
            return f"{self.kill_file} is there"
        if spent + most > self.cap:
            left = shown(max(self.cap - spent, 0), 8, 2)
            return f"{left} USD are left of the cap, {shown(most, 8, 2)} may be paid"
        return None


def load(path: str) -> Executor:
    """Make an executor of your own, named ``module:name``; the name is called.

    Raises:
        ExecutorError: there is none, or what it makes cannot execute.
    """
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise ExecutorError(f"name the executor as module:name, not {path!r}")
    try:
        executor = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError, TypeError) as error:
        raise ExecutorError(f"cannot make the executor {path}: {error}") from error
    if not callable(getattr(executor, "execute", None)):
        raise ExecutorError(f"{path} makes something without an execute method")
    return cast("Executor", executor)


class DryRunExecutor:
    """Write each plan as one JSON file, or as a line where there is no directory.

    Args:
        directory: where the files go, ``<id>.json`` each; made when first needed.
        write: takes the line where ``directory`` is None.
    """

    def __init__(
        self, directory: Path | None, write: Callable[[str], object] | None = None
    ) -> None:
        self._directory = directory
        self._write = write

    async def execute(self, plan: Mapping[str, Any]) -> str:
        """Write it."""
        if self._directory is None:
            if self._write is not None:
                self._write(json.dumps(plan, ensure_ascii=False))
            return "dry run"
        path = self._directory / f"{plan['id']}.json"
        write_atomically(path, json.dumps(plan, ensure_ascii=False, indent=2) + "\n")
        return f"dry run, written to {path}"
