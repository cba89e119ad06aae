"""Draw the table as it is at the end of the demonstration, as SVG: needs ``rich``.

``python -m liquidation_bot.picture > ../docs/demo.svg``
"""

from __future__ import annotations

import asyncio
import io
import re
import sys

from rich.console import Console, RenderableType

from liquidation_bot import demo
from liquidation_bot.display import Note
from liquidation_bot.engine import Engine
from liquidation_bot.table import LiveTable

__all__ = ["draw"]

_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


class _Last:
    """Be a display that remembers the table of the last alert."""

    def __init__(self) -> None:
        self._table = LiveTable(Console(file=io.StringIO()))
        self.picture: RenderableType = ""

    def show(self, note: Note, engine: Engine, /) -> None:
        self._table.show(note, engine)
        if note.kind == "alert":
            self.picture = self._table.draw(engine, note.at)

    def close(self) -> None:
        self._table.close()


async def draw() -> str:
    """Play the demonstration; return the picture, which loads nothing from elsewhere.

    Raises:
        StoryBroken: the bot did not do what the story tells.
    """
    last = _Last()
    try:
        await demo.run(last)
    finally:
        last.close()
    paper = Console(record=True, width=120, file=io.StringIO())
    paper.print(last.picture)
    svg = paper.export_svg(title="python -m liquidation_bot --demo", unique_id="demo")
    return _FONTS.sub("", svg)


if __name__ == "__main__":
    sys.stdout.write(asyncio.run(draw()) + "\n")
