"""Reading positions: which, when, and again after a failure.

A change may reach the source of positions after its event reaches the bot, because a
cube is refreshed on its own schedule. So a position that changed is read twice: at once,
and after a delay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from liquidation_bot.engine import PositionsRead
from liquidation_bot.model import PositionSource, SourceError

__all__ = ["Reader"]

_CHUNK = 200


class Reader:
    """A reader of positions in chunks, which remembers the addresses still to be read.

    Args:
        source: of the positions.
        now: returns unix seconds.
        on_read: called with the positions of a chunk.
        on_error: called with a message when reading failed; it is retried.
        reread_after: seconds after which a position that changed is read once more.
    """

    def __init__(
        self,
        source: PositionSource,
        *,
        now: Callable[[], int],
        on_read: Callable[[PositionsRead], Awaitable[None]],
        on_error: Callable[[str], object],
        reread_after: int,
    ) -> None:
        self._source = source
        self._now = now
        self._on_read = on_read
        self._on_error = on_error
        self._reread_after = reread_after
        self._unread: set[str] = set()
        self._reread: dict[str, int] = {}
        # An older response must not replace a newer one.
        self._lock = asyncio.Lock()

    async def read(self, borrowers: Iterable[str]) -> None:
        """Read these addresses, and those that could not be read before."""
        self._unread.update(borrowers)
        await self.run_due()

    async def changed(self, borrowers: Iterable[str]) -> None:
        """Read these addresses now, and once more after ``reread_after`` seconds."""
        addresses = list(borrowers)
        due = self._now() + self._reread_after
        self._reread.update((address, due) for address in addresses)
        await self.read(addresses)

    async def run_due(self) -> None:
        """Read every address that is due; other calls may read between two chunks."""
        self._unread.update(
            address for address, due in self._reread.items() if due <= self._now()
        )
        wanted = sorted(self._unread)
        for start in range(0, len(wanted), _CHUNK):
            if not await self._chunk(wanted[start : start + _CHUNK]):
                return

    async def _chunk(self, wanted: list[str]) -> bool:
        async with self._lock:
            chunk = [address for address in wanted if address in self._unread]
            if not chunk:
                return True
            at = self._now()
            try:
                positions = await self._source.positions(chunk, at)
            except SourceError as error:
                self._on_error(f"{error}; {len(self._unread)} addresses to be retried")
                return False
            self._unread.difference_update(chunk)
            for address in chunk:
                if self._reread.get(address, at + 1) <= at:
                    del self._reread[address]
            await self._on_read(PositionsRead(at, tuple(positions)))
        return True
