"""Where the JSON texts of two snapshots differ, found without reading their rows.

Most pushes change a few rows of thousands. Both texts are compared from their
beginning, in chunks; where they differ, rows are skipped on either side until they
agree again: a row was changed in place, or some were inserted or removed.

Rows end where ``},{"`` stands, and a value may hold such text as well. So what is
found is a guess: the caller must read every piece, strictly. If all pieces are rows of
the expected shape, no piece began inside of a value: within a string, the quote of
``{"`` would end that string, and what follows it would have to be the name of a column.
Outside of strings, ``},{`` stands between rows alone if no value is a list.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

__all__ = ["Window", "find_windows", "is_flat"]

Window: TypeAlias = tuple[bytes, bytes]
"""Rows of the one text and those of the other in their place, separated by commas."""

_FIRST_CHUNK: Final = 1 << 10
_LARGEST_CHUNK: Final = 1 << 18
_REACH: Final = 1 << 16
# How many bytes may differ in place, apart from a share of the text; a window that only
# adds or removes rows counts as so many.
_ALLOWED: Final = 2048
_PRICE: Final = 128
# How many rows in a row must differ for rows to be looked for further on.
_SEARCHED: Final = frozenset({0, 3, 15})


def is_flat(data: memoryview) -> bool:
    """Tell whether no value in rows is a list; ``False`` if one only looks like it."""
    begin = 1
    while begin < len(data):
        chunk = bytes(data[begin - 1 : begin + _REACH])
        found = chunk.find(b"[", 1)
        while found > 0:
            if chunk[found - 1] in b": \t\r\n":
                return False
            found = chunk.find(b"[", found + 1)
        begin += _REACH
    return True


def find_windows(before: memoryview, after: memoryview) -> list[Window] | None:
    """Find the rows that differ between two lists of rows, or some more.

    Args:
        before: the JSON text of a list of objects, from bracket to bracket.
        after: another one.

    Returns:
        Pieces of both texts; what is not in them is the same in both, in the same
        order. ``None`` if so much differs that reading all rows is cheaper.
    """
    return _Search(before, after).run()


class _Search:
    """Walk through two texts at once; ``i`` and ``j`` are at the same row in both."""

    __slots__ = ("after", "before", "end", "found", "i", "j", "other_end", "spent")

    def __init__(self, before: memoryview, after: memoryview) -> None:
        self.before = before
        self.after = after
        self.end = len(before) - 1
        self.other_end = len(after) - 1
        self.i = self.j = 1
        self.found: list[Window] = []
        self.spent = 0

    def run(self) -> list[Window] | None:
        streak = 0
        while True:
            same = self._common()
            i, j = self.i + same, self.j + same
            if i == self.end and j == self.other_end:
                return self.found
            start = _row_start(self.before, self.i, i)
            streak = streak + 1 if start == self.i and self.found else 0
            self.j += start - self.i
            self.i = start
            more = self._step(max(i - 2, start), max(j - 2, self.j), streak)
            if self.spent > len(self.before) // 64 + self.i // 16 + _ALLOWED:
                return None
            if not more:
                return self.found

    def _common(self) -> int:
        """Count the bytes that are the same from here on."""
        most = min(self.end - self.i, self.other_end - self.j)
        done, size = 0, _FIRST_CHUNK
        while done < most:
            size = min(size, most - done)
            here, there = self.i + done, self.j + done
            one = self.before[here : here + size]
            other = self.after[there : there + size]
            if msgspec.Raw(one) == msgspec.Raw(other):
                done += size
                size = min(4 * size, _LARGEST_CHUNK)
            elif size <= _FIRST_CHUNK:
                return done + _first_difference(one, other)
            else:
                size //= 8
        return most

    def _step(self, i: int, j: int, streak: int) -> bool:
        """Pass the rows that differ; ``False`` at the end of both texts.

        Args:
            i: where to look for the end of the row in ``before``.
            j: the same in ``after``.
            streak: how many rows before this one differed.
        """
        row_end = _row_end(self.before, i, self.end)
        other_row_end = _row_end(self.after, j, self.other_end)
        last, other_last = row_end == self.end, other_row_end == self.other_end
        if not last and not other_last and self._agree(row_end + 1, other_row_end + 1):
            return self._pass(row_end, other_row_end)
        if streak in _SEARCHED:
            inserted = _find(self.before[self.i : row_end], self.after, other_row_end)
            if inserted:
                return self._pass(self.i - 1, inserted - 1)
            removed = _find(self.after[self.j : other_row_end], self.before, row_end)
            if removed:
                return self._pass(removed - 1, self.j - 1)
        if last or other_last:
            return self._pass(self.end, self.other_end)
        return self._pass(row_end, other_row_end)

    def _agree(self, i: int, j: int) -> bool:
        """Tell whether what follows is the same, for about the length of a row."""
        size = min(i - self.i, self.end - i, self.other_end - j)
        one, other = self.before[i : i + size], self.after[j : j + size]
        return msgspec.Raw(one) == msgspec.Raw(other)

    def _pass(self, i: int, j: int) -> bool:
        """Note what ends at ``i`` and ``j``, and go on behind the commas there."""
        window = bytes(self.before[self.i : i]), bytes(self.after[self.j : j])
        self.found.append(window)
        self.spent += _PRICE + 2 * min(len(window[0]), len(window[1]))
        self.i, self.j = i + 1, j + 1
        return i < self.end


def _first_difference(one: memoryview, other: memoryview) -> int:
    differing = int.from_bytes(one, "big") ^ int.from_bytes(other, "big")
    return len(one) - (differing.bit_length() + 7) // 8


def _row_start(data: memoryview, begin: int, end: int) -> int:
    """Find the last beginning of a row before ``end``; rows begin at ``begin``."""
    size = _FIRST_CHUNK
    while True:
        low = max(begin, end - size)
        found = bytes(data[low:end]).rfind(b"},{")
        if found >= 0:
            return low + found + 2
        if low == begin:
            return begin
        size *= 4


def _row_end(data: memoryview, begin: int, end: int) -> int:
    """Find the first end of a row from ``begin`` on; the last row ends at ``end``."""
    size = _FIRST_CHUNK
    while True:
        found = bytes(data[begin : min(begin + size, end)]).find(b'},{"')
        if found >= 0:
            return begin + found + 1
        if begin + size >= end:
            return end
        size *= 4


def _find(row: memoryview, data: memoryview, end: int) -> int:
    """Find a row among those behind ``end``, not too far away; 0 if it is not there."""
    found = bytes(data[end : end + _REACH]).find(row)
    return end + found if found > 0 else 0
