"""What the bot shows: lines, JSON lines, or a live table, which needs ``rich``."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, Final, Literal, Protocol, TextIO, TypeAlias

import attrs

from liquidation_bot.engine import Plan
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
    "Kind",
    "Lines",
    "LiveTable",
    "Note",
    "Sight",
    "library_log",
    "one_line",
    "open_display",
    "short",
]

# A tick is no news: the display may show again how old everything is.
_Plain: TypeAlias = Literal["story", "start", "status", "link", "prices", "event"]
Kind: TypeAlias = (
    _Plain | Literal["skip", "plan", "execute", "alert", "trouble", "tick"]
)

# They are shown elsewhere than among the last notes.
_UNLISTED: Final = ("story", "status", "tick")
_ROWS: Final = 12
_NOTES: Final = 6
_NEAR: Final = 10**7  # 10 % of health or LTV
_STYLES: Final = {
    "plan": "bold green",
    "execute": "bold green",
    "trouble": "red",
    "skip": "yellow",
    "alert": "blue",
}


@attrs.frozen(kw_only=True)
class Sight:
    """What the bot sees. Ages are in seconds, None before the first.

    Attributes:
        borrowers: how many are known to owe something.
        unread: how many addresses are yet to be read.
        most_unread: how many were at most since none was.
        positions: the age of the oldest position.
        prices: the age of each price, by symbol.
        data: the age of the newest answer or update.
        link: how the bot is connected.
        failed: what could not be read when it was last tried.
    """

    borrowers: int
    unread: int
    most_unread: int
    positions: int | None
    prices: Mapping[str, int | None]
    data: int | None
    link: str
    failed: Sequence[str] = ()

    def text(self) -> str:
        """Return the same for people, without the prices."""
        old = "" if self.positions is None else f" up to {_age(self.positions)}"
        unread = f"{self.unread} of {self.most_unread}" if self.unread else "0"
        trouble = f"; cannot read {', '.join(self.failed)}" if self.failed else ""
        return (
            f"{self.borrowers} borrowers known{old}, {unread} addresses unread; "
            f"last data {_age(self.data)}; {self.link}{trouble}"
        )


def _age(seconds: int | None) -> str:
    return "none" if seconds is None else f"{max(seconds, 0)} s old"


def one_line(text: str) -> str:
    """Return a text without line breaks and control characters.

    Names of tokens and addresses are whatever somebody has put on the chain.
    """
    return "".join(each if each.isprintable() else " " for each in text)


@attrs.frozen
class Note:
    """One thing that happened.

    Attributes:
        kind: its category.
        at: unix seconds.
        text: one sentence for people.
        data: the same for programs.
        sight: what the bot saw at that time.
    """

    kind: Kind
    at: int
    text: str
    data: Mapping[str, Any] = attrs.field(factory=dict)
    sight: Sight | None = None

    def line(self) -> str:
        """Return time, kind and text in columns; a chapter of a story stands apart."""
        if self.kind == "story":
            return f"\n{self.text}"
        time = datetime.fromtimestamp(self.at, UTC).strftime("%H:%M:%S")
        return f"  {time}  {self.kind:<8} {one_line(self.text)}"

    def json(self) -> str:
        """Return a JSON object."""
        time = datetime.fromtimestamp(self.at, UTC).isoformat()
        text = one_line(self.text)
        line = {"at": time, "kind": self.kind, "text": text, **self.data}
        return json.dumps(line, ensure_ascii=False)


class Display(Protocol):
    """Something that shows notes."""

    def show(self, note: Note, engine: Engine, /) -> None:
        """Show a note and, if it can, the engine's current state."""
        ...

    def close(self) -> None:
        """Restore the terminal."""
        ...


class Lines:
    """A display with one line for each note.

    Args:
        write: writes a line.
        form: makes it: ``Note.line`` or ``Note.json``.
    """

    def __init__(
        self, write: Callable[[str], object], form: Callable[[Note], str] = Note.line
    ) -> None:
        self._write = write
        self._form = form

    def show(self, note: Note, _engine: Engine, /) -> None:
        """Write the line, unless nobody reads the log any more: the bot goes on."""
        if note.kind != "tick":
            with contextlib.suppress(OSError):
                self._write(self._form(note))

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
        self._sight = "not connected yet"
        self._live.start()

    def show(self, note: Note, engine: Engine, /) -> None:
        """Add a note and redraw the table."""
        if note.kind == "story":
            self._live.console.print(Text(f"\n{note.text}", style="bold"))
        if note.sight is not None:
            self._sight = note.sight.text()
        if note.kind not in _UNLISTED:
            is_plan = note.kind in ("plan", "execute")
            (self._plans if is_plan else self._notes).append(note)
        with contextlib.suppress(OSError):
            self._live.update(self.draw(engine, note.at), refresh=True)

    def close(self) -> None:
        """Stop, and leave the last table on the terminal."""
        with contextlib.suppress(OSError):
            self._live.stop()

    def draw(self, engine: Engine, now: int) -> RenderableType:
        """Return the table as of a time in unix seconds."""
        notes = [*self._plans, *self._notes]
        return Group(
            Text(f"{engine.market.name} | {self._sight}", style="cyan"),
            Text(engine.prices_in_words(now)),
            _borrowers(engine),
            *(Text(each.line(), style=_STYLES.get(each.kind, "")) for each in notes),
        )


def _same_file(one: IO[str], other: IO[str]) -> bool:
    """Return whether two streams write to one file, such as the same terminal."""
    try:
        return os.path.sameopenfile(one.fileno(), other.fileno())
    except (OSError, ValueError):  # a stream in memory, or a closed one
        return False


def _borrowers(engine: Engine) -> Table:
    table = Table(expand=True)
    for title in ("borrower", "standing", "owes", "has", "decision"):
        table.add_column(title, no_wrap=title != "decision")
    ranked = engine.nearest()
    for borrower in ranked[:_ROWS]:
        decision = engine.decisions[borrower]
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
    write = functools.partial(print, file=log, flush=True)
    return Lines(write, Note.json if kind == "json" else Note.line)


@contextlib.contextmanager
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
