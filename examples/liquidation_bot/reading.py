"""Reading positions: whom, when, and again where it failed or may have been too early.

What an event tells may reach the source of positions later than the event reaches the
bot (a cube is refreshed on a schedule of its own), so whoever moved is read twice: at
once, and after a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from liquidation_bot.engine import PositionsRead
from liquidation_bot.model import PositionSource, SourceError

__all__ = ["Reader"]

_CHUNK = 200


class Reader:
    """Read positions, one chunk at a time, and remember who is still to be read.

    Args:
        source: where.
        now: unix seconds.
        take: takes what was read.
        trouble: takes a sentence where reading failed; it is tried again.
        settle: seconds after which whoever moved is read once more.
    """

    def __init__(
        self,
        source: PositionSource,
        *,
        now: Callable[[], int],
        take: Callable[[PositionsRead], Awaitable[None]],
        trouble: Callable[[str], object],
        settle: int,
    ) -> None:
        self._source = source
        self._now = now
        self._take = take
        self._trouble = trouble
        self._settle = settle
        self._unread: set[str] = set()
        self._moved: dict[str, int] = {}
        # An answer must not be overtaken by an older one.
        self._one_at_a_time = asyncio.Lock()

    async def read(self, borrowers: Iterable[str]) -> None:
        """Read these and whoever could not be read before."""
        self._unread.update(borrowers)
        await self.tend()

    async def moved(self, borrowers: Iterable[str]) -> None:
        """Read these now, and once more when the source has surely settled."""
        addresses = list(borrowers)
        due = self._now() + self._settle
        self._moved.update((address, due) for address in addresses)
        await self.read(addresses)

    async def tend(self) -> None:
        """Read whoever is due; others may read between two chunks."""
        self._unread.update(
            address for address, due in self._moved.items() if due <= self._now()
        )
        wanted = sorted(self._unread)
        for start in range(0, len(wanted), _CHUNK):
            if not await self._chunk(wanted[start : start + _CHUNK]):
                return

    async def _chunk(self, wanted: list[str]) -> bool:
        async with self._one_at_a_time:
            chunk = [address for address in wanted if address in self._unread]
            if not chunk:
                return True
            at = self._now()
            try:
                positions = await self._source.positions(chunk, at)
            except SourceError as error:
                left = len(self._unread)
                self._trouble(f"{error}; {left} addresses stay unread for now")
                return False
            self._unread.difference_update(chunk)
            for address in chunk:
                if self._moved.get(address, at + 1) <= at:
                    del self._moved[address]
            await self._take(PositionsRead(at, tuple(positions)))
        return True
