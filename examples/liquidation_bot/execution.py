"""From a plan to its execution: the state on disk, the guard, the executor.

The state survives every end of the bot: the file is replaced as a whole, so ``kill -9``
leaves the old state or the new one. It is written before a plan leaves the bot, so a
plan may be lost but is never made twice. The shipped executor only writes plans down:
nothing signs or sends a transaction.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import attrs
import msgspec

from liquidation_bot.model import Amount, FileError, UsageError, load_json, shown

if TYPE_CHECKING:
    from liquidation_bot.decide import Plan

__all__ = [
    "DryRunExecutor",
    "Executor",
    "ExecutorError",
    "Guard",
    "Outbox",
    "State",
    "load",
    "write_atomically",
]


class State(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What survives a restart. A file must hold every key.

    Attributes:
        version: of the file.
        plans: how many plans were ever made.
        cool_downs: until when a borrower gets no other plan, in unix seconds.
        spent: dollars that executed plans may have paid, eight decimals.
    """

    version: Literal[1]
    plans: Amount
    cool_downs: dict[str, Amount]
    spent: Amount

    @classmethod
    def empty(cls) -> State:
        """Return the state before the first plan."""
        return cls(version=1, plans=0, cool_downs={}, spent=0)

    @classmethod
    def load(cls, path: Path) -> State:
        """Read the file; without a file, return the empty state.

        Raises:
            FileError: the file cannot be read or is invalid.
        """
        if not path.exists():
            return cls.empty()
        try:
            return load_json(path, cls)
        except FileError as error:
            raise FileError(
                f"{error}. Without this state plans could be made twice: check the "
                "file, and delete it to start with an empty state"
            ) from None

    def save(self, path: Path) -> None:
        """Replace the file as a whole and sync it to the disk."""
        write_atomically(path, msgspec.json.encode(self).decode() + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that readers see all of it or nothing, even after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class ExecutorError(UsageError):
    """Raised when an executor cannot be loaded."""


class Executor(Protocol):
    """Something that handles plans."""

    async def execute(self, plan: Mapping[str, Any]) -> str:
        """Handle a plan in the form that ``decide.document`` returns.

        Returns:
            What was done with it, in a few words for the log.
        """
        ...


@attrs.frozen
class Guard:
    """The conditions under which plans may be executed.

    Attributes:
        cap: dollars with eight decimals that all executed plans together may pay.
        kill_file: while a file of this name exists, nothing is executed.
    """

    cap: int
    kill_file: Path

    def refusal(self, most: int, spent: int) -> str | None:
        """Return why a plan must not be executed, or None if it may.

        Args:
            most: dollars that the plan may pay.
            spent: dollars that earlier plans may have paid.
        """
        if self.kill_file.exists():
            return f"the kill file {self.kill_file} exists"
        if spent + most > self.cap:
            left = shown(max(self.cap - spent, 0), 8, 2)
            return (
                f"the plan may pay {shown(most, 8, 2)} USD, {left} of the cap is left"
            )
        return None


def load(path: str) -> Executor:
    """Import ``module:name``, call it, and return the executor.

    Raises:
        ExecutorError: it cannot be imported or called, or has no ``execute`` method.
    """
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise ExecutorError(f"executor must be module:name, got {path!r}")
    try:
        executor = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError, TypeError) as error:
        raise ExecutorError(f"cannot load the executor {path!r}: {error}") from error
    if not callable(getattr(executor, "execute", None)):
        raise ExecutorError(f"executor {path!r} has no execute method")
    return cast("Executor", executor)


class DryRunExecutor:
    """An executor that writes each plan as a JSON file, or as a line.

    Args:
        directory: of the files ``<id>.json``; created when first needed.
        write: called with the line if ``directory`` is None.
    """

    def __init__(
        self, directory: Path | None, write: Callable[[str], object] | None = None
    ) -> None:
        self._directory = directory
        self._write = write

    async def execute(self, plan: Mapping[str, Any]) -> str:
        """Write the plan."""
        if self._directory is None:
            if self._write is not None:
                self._write(json.dumps(plan, ensure_ascii=False))
            return "dry run"
        path = self._directory / f"{plan['id']}.json"
        write_atomically(path, json.dumps(plan, ensure_ascii=False, indent=2) + "\n")
        return f"dry run, written to {path}"


class Outbox:
    """The way out for plans: each is passed to the executor at most once.

    Args:
        executor: receives the plans.
        guard: may hold a plan back; None if the executor only writes.
        state: from the last run.
        save: persists the state; called before a plan leaves.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        guard: Guard | None = None,
        state: State | None = None,
        save: Callable[[State], object],
    ) -> None:
        self._executor = executor
        self._guard = guard
        self._state = state or State.empty()
        self._save = save

    async def send(self, plan: Plan, document: Mapping[str, Any], *, until: int) -> str:
        """Pass a plan to the executor, and return what was done with it.

        Args:
            plan: the plan.
            document: the plan as JSON values.
            until: when its borrower may get another plan, in unix seconds.
        """
        most = plan.most_paid_usd
        held = self._guard.refusal(most, self._state.spent) if self._guard else None
        spends = most if self._guard is not None and held is None else 0
        self._note(plan, until, spends)
        if held is not None:
            return f"held back: {held}"
        try:
            return await self._executor.execute(document)
        except Exception as error:  # noqa: BLE001 - the executor is the user's code
            return f"the executor failed with {type(error).__name__}: {error}"

    def _note(self, plan: Plan, until: int, spends: int) -> None:
        # Only cool-downs of plans that have left are kept: others from the same input
        # would be lost as plans if the bot stopped now.
        running = {
            borrower: end
            for borrower, end in self._state.cool_downs.items()
            if end > plan.made_at
        }
        self._state = msgspec.structs.replace(
            self._state,
            plans=self._state.plans + 1,
            cool_downs={**running, plan.borrower: until},
            spent=self._state.spent + spends,
        )
        self._save(self._state)
