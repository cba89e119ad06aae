"""What the bot shows: lines, JSON lines, or (in ``table.py``) a live table."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import attrs

if TYPE_CHECKING:
    from liquidation_bot.engine import Engine

__all__ = ["Display", "JsonLines", "Kind", "Lines", "Note", "library_log", "short"]

Kind: TypeAlias = Literal[
    "story", "start", "link", "prices", "event", "skip", "plan", "alert", "trouble"
]


@attrs.frozen
class Note:
    """Say one thing that happened.

    Attributes:
        kind: what sort of thing.
        at: unix seconds.
        text: one sentence for people.
        data: the same for programs.
    """

    kind: Kind
    at: int
    text: str
    data: Mapping[str, Any] = attrs.field(factory=dict)


class Display(Protocol):
    """Show what happens."""

    def show(self, note: Note, engine: Engine, /) -> None:
        """Take a note, and the engine as it is now."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


class Lines:
    """Show one line for each note."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def show(self, note: Note, _engine: Engine, /) -> None:
        """Write the line; what a story tells stands out."""
        if note.kind == "story":
            self._write(f"\n{note.text}")
            return
        time = datetime.fromtimestamp(note.at, UTC).strftime("%H:%M:%S")
        self._write(f"  {time}  {note.kind:<8} {note.text}")

    def close(self) -> None:
        """Do nothing."""


class JsonLines:
    """Show one JSON object for each note."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def show(self, note: Note, _engine: Engine, /) -> None:
        """Write the object."""
        time = datetime.fromtimestamp(note.at, UTC).isoformat()
        line = {"at": time, "kind": note.kind, "text": note.text, **note.data}
        self._write(json.dumps(line, ensure_ascii=False))

    def close(self) -> None:
        """Do nothing."""


@contextmanager
def library_log(show: Callable[[str], object]) -> Iterator[None]:
    """Show what the library warns of, among everything else, while this lasts."""

    class Shown(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            show(record.getMessage())

    handler, logger = Shown(logging.WARNING), logging.getLogger("ortege_watch")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def short(address: str) -> str:
    """Shorten an address for people: its end tells it from others."""
    return address if len(address) <= 12 else f"{address[:4]}…{address[-4:]}"
