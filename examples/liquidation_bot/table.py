"""A live table of borrowers by health, for terminals; needs ``rich``."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from liquidation_bot.decide import Plan
from liquidation_bot.display import short
from liquidation_bot.model import shown
from liquidation_bot.zest import MAX, ONE

if TYPE_CHECKING:
    from liquidation_bot.display import Note
    from liquidation_bot.engine import Decision, Engine

__all__ = ["LiveTable"]

_ROWS = 12
_NOTES = 6


class LiveTable:
    """Show borrowers, prices, the connection and the last notes.

    Args:
        console: where; by default the terminal.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._live = Live(console=console, auto_refresh=False)
        self._notes: deque[Note] = deque(maxlen=_NOTES)
        self._plans: deque[Note] = deque(maxlen=_NOTES)
        self._link = "not connected yet"
        self._live.start()

    def show(self, note: Note, engine: Engine, /) -> None:
        """Take a note and draw everything anew."""
        if note.kind == "story":
            self._live.console.print(Text(f"\n{note.text}", style="bold"))
        elif note.kind == "link":
            self._link = note.text
        (self._plans if note.kind == "plan" else self._notes).append(note)
        self._live.update(self.draw(engine, note.at), refresh=True)

    def close(self) -> None:
        """Leave the last picture on the terminal."""
        self._live.stop()

    def draw(self, engine: Engine, now: int) -> RenderableType:
        """Draw what was shown last, as of a time in unix seconds."""
        lines = [*self._plans, *(n for n in self._notes if n.kind != "story")]
        return Group(
            Text(f"{engine.market.name} | {self._link}", style="cyan"),
            Text(_prices(engine, now)),
            _borrowers(engine),
            *(Text(_line(note), style=_STYLES.get(note.kind, "")) for note in lines),
        )


_STYLES = {"plan": "bold green", "trouble": "red", "skip": "yellow", "alert": "blue"}


def _prices(engine: Engine, now: int) -> str:
    return "   ".join(
        f"{reserve.symbol} {shown(price.price, 8)} ({max(now - price.at, 0)} s old)"
        for reserve in engine.market.reserves
        if (price := engine.prices.get(reserve.asset)) is not None
    )


def _borrowers(engine: Engine) -> Table:
    table = Table(expand=True)
    for title in ("borrower", "health", "owes", "has", "decision"):
        table.add_column(title, no_wrap=title != "decision")
    ranked = sorted(engine.decisions.items(), key=lambda item: _rank(item[1]))
    for borrower, decision in ranked[:_ROWS]:
        health = decision.health
        table.add_row(
            short(borrower),
            "?" if health is None else _health(health),
            _amounts(engine, borrower, owed=True),
            _amounts(engine, borrower, owed=False),
            "plan" if isinstance(decision, Plan) else decision.reason,
            style=_style(health),
        )
    if len(ranked) > _ROWS:
        table.caption = f"and {len(ranked) - _ROWS} healthier ones"
    return table


def _rank(decision: Decision) -> int:
    return MAX if decision.health is None else decision.health


def _health(health: int) -> str:
    return "-" if health == MAX else shown(health, 8, 4)


def _style(health: int | None) -> str:
    if health is None:
        return "dim"
    return "red" if health < ONE else "yellow" if health < ONE * 11 // 10 else ""


def _amounts(engine: Engine, borrower: str, *, owed: bool) -> str:
    position, found = engine.positions.get(borrower), list[str]()
    for holding in position.holdings if position else ():
        amount = holding.borrowed if owed else holding.supplied
        reserve = engine.market.reserve(holding.asset)
        if amount and reserve:
            found.append(f"{shown(amount, reserve.decimals, 2)} {reserve.symbol}")
    return ", ".join(found)


def _line(note: Note) -> str:
    time = datetime.fromtimestamp(note.at, UTC).strftime("%H:%M:%S")
    return f"{time}  {note.kind:<8} {note.text}"
