"""The rows that differ between two texts of rows, found without reading the others.

Where the texts differ, rows are skipped on either side until they agree again: a row was
changed in place, or some were inserted or removed. What was skipped is a window.

What separates rows may stand in a string, too. The older text was checked: it has one
separator less than rows, so each of its separators is between two rows. Both texts have
the same head, and as long as they are the same, they are read alike. A window of the
newer text begins where a row begins. If it can be decoded on its own, it also ends where
a row ends, and then both texts are at the beginning of a row again. So the newer text is
valid JSON, and has its separators between rows only, if all its windows have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec

from ortege_watch.results.decode import Cells, Form

Window: TypeAlias = tuple[bytes, bytes]
"""Rows of one text and the rows of the other in their place, separated by commas."""

_REACHES: Final = (1 << 10, 1 << 13, 1 << 16)
"""Bytes in which the texts may agree again after a difference, one after the other."""

_FIRST_CHUNK: Final = 1 << 12
"""Bytes that are compared at first; as long as they are the same, more at a time."""

_LAST_CHUNK: Final = 64
"""Bytes that are compared as numbers, which shows the first one that differs."""

# The number of bytes that may differ, apart from a share of the text; a window costs the
# price, too.
_ALLOWED: Final = 2048
_PRICE: Final = 128


def read_windows(
    before: memoryview, after: memoryview, form: Form
) -> tuple[list[Cells], list[Cells]] | None:
    """Return the rows of both texts without most of those that are the same in both.

    The separators of ``before`` stand between its rows only. ``None`` means that all
    rows must be read.
    """
    windows = find_windows(before, after, form)
    if windows is None:
        return None
    olds: list[Cells] = []
    news: list[Cells] = []
    for window in windows:
        old, new = map(form.read_piece, window)
        if old is None or new is None:
            return None
        olds += old
        news += new
    return olds, news


def find_windows(
    before: memoryview, after: memoryview, form: Form
) -> list[Window] | None:
    """Return the rows that differ between two texts of rows, and possibly more.

    The rest is the same in both, in the same order. The separators of ``before`` stand
    between its rows only. ``None`` means that the texts begin or end in different ways,
    or that so much differs that reading all rows takes less time.
    """
    start, between = len(form.head), form.between
    end, other_end = (len(text) - len(form.tail) for text in (before, after))
    if bytes(after[:start]) != form.head or bytes(after[other_end:]) != form.tail:
        return None
    i = j = start
    found: list[Window] = []
    spent = 0
    while True:
        same = _common(before[i:end], after[j:other_end])
        if i + same == end and j + same == other_end:
            return found
        row = _last_row(before[i : i + same], between)
        i, j = i + row, j + row
        sizes = _until_they_agree(before[i:end], after[j:other_end], between)
        if sizes is None:
            return None
        spent += _PRICE + 2 * min(sizes)
        if spent > len(before) // 64 + i // 16 + _ALLOWED:
            return None
        size, other_size = sizes
        found.append((bytes(before[i : i + size]), bytes(after[j : j + other_size])))
        if i + size == end:
            return found
        i, j = i + size + 1, j + other_size + 1  # after the commas


def _common(one: memoryview, other: memoryview) -> int:
    """Count the bytes at the beginning that are the same."""
    most = min(len(one), len(other))
    done, size = 0, min(_FIRST_CHUNK, most)
    while done < most and _agree(one, other, done, size):
        done += size
        size = min(8 * size, most - done)
    # The first byte that differs, if there is one, is among the next ``size``.
    while size > _LAST_CHUNK:
        size = (size + 1) // 2
        if _agree(one, other, done, size):
            done += size
    end = min(done + size, most)
    numbers = [int.from_bytes(text[done:end], "big") for text in (one, other)]
    return end - ((numbers[0] ^ numbers[1]).bit_length() + 7) // 8


def _agree(one: memoryview, other: memoryview, start: int, size: int) -> bool:
    part = slice(start, start + size)
    return msgspec.Raw(one[part]) == msgspec.Raw(other[part])


def _last_row(text: memoryview, between: bytes) -> int:
    """Return where the last row in a text begins."""
    for reach in (*_REACHES, len(text)):
        low = max(0, len(text) - reach)
        found = bytes(text[low:]).rfind(between)
        if found >= 0:
            return low + found + len(between) - 1
    return 0


def _until_they_agree(
    one: memoryview, other: memoryview, between: bytes
) -> tuple[int, int] | None:
    """Return how many bytes to skip until a row is followed by the same row in both.

    Rows ahead are tried, each twice as far as the one before. If the texts end before
    they agree, all is skipped; ``None`` if they go on.
    """
    for reach in _REACHES:
        text, other_text = bytes(one[:reach]), bytes(other[:reach])
        rows, other_rows = text.split(between), other_text.split(between)
        ahead = 1
        while ahead < max(len(rows), len(other_rows)) - 1:
            if found := _find_row(rows, ahead, between, other_text):
                return found
            if found := _find_row(other_rows, ahead, between, text):
                return found[1], found[0]
            ahead *= 2
    shorter = min(len(one), len(other))
    return (len(one), len(other)) if shorter <= _REACHES[-1] else None


def _find_row(
    rows: Sequence[bytes], number: int, between: bytes, text: bytes
) -> tuple[int, int] | None:
    """Return how many bytes are before a row of one text and before the same in another.

    The last of the rows may be cut off, so it is not searched for.
    """
    if number >= len(rows) - 1:
        return None
    place = text.find(between + rows[number])
    return None if place < 0 else (len(between.join(rows[:number])) + 1, place + 1)
