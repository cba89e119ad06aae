"""What must survive the bot's end, however sudden: plans made, and cool-downs.

A small file that is replaced as a whole: after ``kill -9`` it holds either the state
before or the one after. It is written before a plan leaves the bot, so that a plan is
lost rather than made twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import attrs

__all__ = ["State", "StateError", "write_atomically"]


class StateError(ValueError):
    """Refuse a state file that cannot be read; the message says what to do."""


@attrs.frozen(kw_only=True)
class State:
    """Hold what survives.

    Attributes:
        plans: how many were ever made.
        cool_downs: until when a borrower gets no other plan, in unix seconds.
        spent: dollars that executed plans may have paid, eight decimals.
    """

    plans: int = 0
    cool_downs: Mapping[str, int] = attrs.field(factory=dict)
    spent: int = 0

    @classmethod
    def load(cls, path: Path) -> State:
        """Read the file; a fresh state where there is none.

        Raises:
            StateError: it is there and is no state.
        """
        try:
            found = json.loads(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError) as error:
            raise _unreadable(path, str(error)) from None
        if not isinstance(found, dict):
            raise _unreadable(path, "it is no JSON object")
        return cls._read(path, cast("dict[str, Any]", found))

    @classmethod
    def _read(cls, path: Path, found: dict[str, Any]) -> State:
        cool_downs = found.get("cool_downs")
        numbers = [found.get("version"), found.get("plans"), found.get("spent")]
        if isinstance(cool_downs, dict):
            numbers.extend(cast("dict[str, Any]", cool_downs).values())
        if found.get("version") != 1 or not isinstance(cool_downs, dict):
            raise _unreadable(path, "it is no state of this version")
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise _unreadable(path, "its numbers are none")
        return cls(
            plans=found["plans"],
            cool_downs=dict(cast("dict[str, int]", cool_downs)),
            spent=found["spent"],
        )

    def save(self, path: Path) -> None:
        """Replace the file as a whole, and make sure that it is on the disk."""
        value = {
            "version": 1,
            "plans": self.plans,
            "cool_downs": dict(self.cool_downs),
            "spent": self.spent,
        }
        write_atomically(path, json.dumps(value) + "\n")


def _unreadable(path: Path, why: str) -> StateError:
    return StateError(
        f"cannot read the state in {path}: {why}. Without it plans could be made "
        "twice; look at it, and delete it to start afresh"
    )


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that others see all of it or none, also after a crash."""
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
