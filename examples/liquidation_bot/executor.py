"""What happens to a plan. What is shipped writes it down: nothing signs or sends."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from liquidation_bot.state import write_atomically

__all__ = ["DryRunExecutor", "Executor"]


class Executor(Protocol):
    """Do something with a plan."""

    async def execute(self, plan: Mapping[str, Any]) -> str:
        """Take a plan as ``call.document`` makes it.

        Returns:
            What was done with it, in a few words for the log.
        """
        ...


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
