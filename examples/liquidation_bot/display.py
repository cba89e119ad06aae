"""What the bot shows: lines, JSON lines, or a live table, which needs ``rich``."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, Final, Literal, Protocol, TextIO, TypeAlias

import attrs

from liquidation_bot.decide import Plan
from liquidation_bot.model import UsageError, shown

if TYPE_CHECKING or importlib.util.find_spec("rich") is not None:
    from rich.console import Console, Group, RenderableType
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

if TYPE_CHECKING:
    from liquidation_bot.engine import Engine
    from liquidation_bot.rules import Standing

__all__ = [
    "Display",
    "JsonLines",
    "Kind",
    "Lines",
    "LiveTable",
    "Note",
    "Picture",
    "library_log",
    "open_display",
    "short",
]

Kind: TypeAlias = Literal[
    "story", "start", "link", "prices", "event", "skip", "plan", "alert", "trouble"
]

_ROWS: Final = 12
_NOTES: Final = 6
_NEAR: Final = 10**7  # 10 % of health or LTV
_STYLES: Final = {
    "plan": "bold green",
    "trouble": "red",
    "skip": "yellow",
    "alert": "blue",
}
_FONTS: Final = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


@attrs.frozen
class Note:
    """One thing that happened.

    Attributes:
        kind: its category.
        at: unix seconds.
        text: one sentence for people.
        data: the same for programs.
    """

    kind: Kind
    at: int
    text: str
    data: Mapping[str, Any] = attrs.field(factory=dict)

    def line(self) -> str:
        """Return time, kind and text in columns."""
        time = datetime.fromtimestamp(self.at, UTC).strftime("%H:%M:%S")
        return f"{time}  {self.kind:<8} {self.text}"


class Display(Protocol):
    """Something that shows notes."""

    def show(self, note: Note, engine: Engine, /) -> None:
        """Show a note and, if it can, the engine's current state."""
        ...

    def close(self) -> None:
        """Restore the terminal."""
        ...


class Lines:
    """A display with one line for each note."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def show(self, note: Note, _engine: Engine, /) -> None:
        """Write the line; a chapter of a story stands apart."""
        story = note.kind == "story"
        self._write(f"\n{note.text}" if story else f"  {note.line()}")

    def close(self) -> None:
        """Do nothing."""


class JsonLines:
    """A display with one JSON object for each note."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def show(self, note: Note, _engine: Engine, /) -> None:
        """Write the object."""
        time = datetime.fromtimestamp(note.at, UTC).isoformat()
        line = {"at": time, "kind": note.kind, "text": note.text, **note.data}
        self._write(json.dumps(line, ensure_ascii=False))

    def close(self) -> None:
        """Do nothing."""


class LiveTable:
    """A table of borrowers, nearest to liquidation first, with prices, the connection and the last notes.

    Args:
        console: where to draw; the terminal by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console()
        self._live = Live(
            console=console,
            auto_refresh=False,
            # What is printed elsewhere, such as the plans in a file, must get there.
            redirect_stdout=_same_file(sys.stdout, console.file),
            redirect_stderr=_same_file(sys.stderr, console.file),
        )
        self._notes: deque[Note] = deque(maxlen=_NOTES)
        self._plans: deque[Note] = deque(maxlen=_NOTES)
        self._link = "not connected yet"
        self._live.start()

    def show(self, note: Note, engine: Engine, /) -> None:
        """Add a note and redraw the table."""
        if note.kind == "story":
            self._live.console.print(Text(f"\n{note.text}", style="bold"))
        elif note.kind == "link":
            self._link = note.text
        (self._plans if note.kind == "plan" else self._notes).append(note)
        self._live.update(self.draw(engine, note.at), refresh=True)

    def close(self) -> None:
        """Stop, and leave the last table on the terminal."""
        self._live.stop()

    def draw(self, engine: Engine, now: int) -> RenderableType:
        """Return the table as of a time in unix seconds."""
        notes = [*self._plans, *(each for each in self._notes if each.kind != "story")]
        return Group(
            Text(f"{engine.market.name} | {self._link}", style="cyan"),
            Text(_prices(engine, now)),
            _borrowers(engine),
            *(Text(each.line(), style=_STYLES.get(each.kind, "")) for each in notes),
        )


def _same_file(one: IO[str], other: IO[str]) -> bool:
    """Return whether two streams write to one file, such as the same terminal."""
    try:
        return os.path.sameopenfile(one.fileno(), other.fileno())
    except (OSError, ValueError):  # a stream in memory, or a closed one
        return False


class Picture:
    """A display that keeps the table of the last alert, for the documentation."""

    def __init__(self) -> None:
        self._table = LiveTable(Console(file=io.StringIO()))
        self._last: RenderableType = ""

    def show(self, note: Note, engine: Engine, /) -> None:
        """Add a note to the table."""
        self._table.show(note, engine)
        if note.kind == "alert":
            self._last = self._table.draw(engine, note.at)

    def close(self) -> None:
        """Stop the table."""
        self._table.close()

    def svg(self, title: str) -> str:
        """Return the table as SVG that loads no fonts from elsewhere."""
        paper = Console(record=True, width=120, file=io.StringIO())
        paper.print(self._last)
        return _FONTS.sub("", paper.export_svg(title=title, unique_id="demo"))


def _prices(engine: Engine, now: int) -> str:
    return "   ".join(
        f"{reserve.symbol} {shown(price.price, 8)} ({max(now - price.at, 0)} s old)"
        for reserve in engine.market.reserves
        if (price := engine.prices.get(reserve.asset)) is not None
    )


def _borrowers(engine: Engine) -> Table:
    table = Table(expand=True)
    for title in ("borrower", "standing", "owes", "has", "decision"):
        table.add_column(title, no_wrap=title != "decision")
    ranked = sorted(engine.decisions.items(), key=lambda item: _rank(item[1].standing))
    for borrower, decision in ranked[:_ROWS]:
        table.add_row(
            short(borrower),
            "?" if decision.standing is None else decision.standing.text,
            _amounts(engine, borrower, owed=True),
            _amounts(engine, borrower, owed=False),
            "plan" if isinstance(decision, Plan) else decision.reason,
            style=_style(decision.standing),
        )
    if len(ranked) > _ROWS:
        table.caption = f"and {len(ranked) - _ROWS} farther from liquidation"
    return table


def _rank(standing: Standing | None) -> tuple[bool, int]:
    return (standing is None, 0 if standing is None else standing.headroom)


def _style(standing: Standing | None) -> str:
    if standing is None:
        return "dim"
    headroom = standing.headroom
    return "red" if headroom < 0 else "yellow" if headroom < _NEAR else ""


def _amounts(engine: Engine, borrower: str, *, owed: bool) -> str:
    position, found = engine.positions.get(borrower), list[str]()
    for holding in position.holdings if position else ():
        amount = holding.borrowed if owed else holding.supplied
        reserve = engine.market.reserve(holding.asset)
        if amount and reserve:
            found.append(f"{shown(amount, reserve.decimals, 2)} {reserve.symbol}")
    return ", ".join(found)


def open_display(kind: str, log: TextIO) -> Display:
    """Open a display: ``auto``, ``table``, ``lines`` or ``json``.

    Raises:
        UsageError: a table needs ``rich``.
    """
    rich = importlib.util.find_spec("rich") is not None
    if kind == "auto":
        kind = "table" if rich and log.isatty() else "lines"
    if kind == "table":
        if not rich:
            raise UsageError("--log table needs rich: pip install rich")
        return LiveTable(Console(file=log))

    def write(line: str) -> None:
        print(line, file=log, flush=True)

    return JsonLines(write) if kind == "json" else Lines(write)


@contextmanager
def library_log(show: Callable[[str], object]) -> Iterator[None]:
    """Pass the library's warnings to ``show`` inside the block."""

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
    """Shorten an address for people to its first and last four characters."""
    return address if len(address) <= 12 else f"{address[:4]}…{address[-4:]}"
