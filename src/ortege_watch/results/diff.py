"""The rows that differ between two snapshots.

Cube sends whole results, never differences. Rows are compared by their key, which is
all columns except the measures, and then by their values, in whatever form these were
sent. Several rows may have the same key; the order of rows is ignored.

Large snapshots are compared as text first, because most of their rows are the same byte
for byte. The rows around the differences are then compared by values, with the same
outcome as a comparison of all rows.
"""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from decimal import Decimal
from itertools import compress, repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import attrs
import msgspec
from msgspec.structs import astuple

from ortege_watch.results.decode import (
    Cells,
    Layout,
    canonical,
    first_shape,
    is_verbatim,
    sort_key,
)
from ortege_watch.results.result import ChangedRow, Keys, Row, Snapshot

if TYPE_CHECKING:
    from ortege_watch.results import Result
    from ortege_watch.results.decode import Shape

T = TypeVar("T")

Window: TypeAlias = tuple[bytes, bytes]
"""Rows of one text and the rows of the other in their place, separated by commas."""

_LARGE: Final = 8192
"""Bytes; comparing smaller snapshots as text takes longer than reading all rows."""

_FIRST_CHUNK: Final = 1 << 10
_LARGEST_CHUNK: Final = 1 << 18
_REACH: Final = 1 << 16
_LIST: Final = re.compile(rb"\[(?<=[: \t\r\n]\[)")
# The number of bytes that may differ in place, apart from a share of the text; a window
# that only adds or removes rows costs the price.
_ALLOWED: Final = 2048
_PRICE: Final = 128
# After this many consecutive rows that differ, rows are searched for further on.
_SEARCHED: Final = frozenset({0, 3, 15})


@attrs.frozen
class Difference:
    """The rows that differ between two snapshots; false if nothing differs.

    Attributes:
        added: rows with a new key, in the order of the newer snapshot.
        changed: rows with new measures, in the order of the newer snapshot.
        removed: rows whose key is gone, in the order of the older snapshot.
    """

    added: tuple[Row, ...] = ()
    changed: tuple[ChangedRow, ...] = ()
    removed: tuple[Row, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)


def difference(before: Result | None, after: Result) -> Difference:
    """Return the rows that were added, changed or removed since ``before``.

    All rows are added if ``before`` is ``None``. Values that cannot be read are compared
    as they were sent. Rows that cannot be read at all are a ``DecodeError``.
    """
    if before is None:
        return Difference(added=tuple(after))
    old, new = before._snapshot, after._snapshot  # noqa: SLF001 - texts and cells
    new.follow(old)
    if old.part.data == new.part.data:
        new.adopt(old)
        return Difference()
    found = _by_text(old, new) if memoryview(old.part.data).nbytes >= _LARGE else None
    if found is not None:
        return found
    old_rows = _Rows(*old.open(), old.keys)
    return _by_values(old_rows, _Rows(*new.open()), new)


# Comparing texts. Both are compared in chunks from the start; where they differ, rows
# are skipped on either side until they agree again: a row was changed in place, or some
# were inserted or removed.
#
# Rows are separated by ``},{"``, but a value may contain the same characters. So the
# result is a guess, and the caller must read every piece strictly. If all pieces are rows
# of the expected shape, no piece began within a value: within a string, the quote of
# ``{"`` would end that string, and the name of a column would have to follow. Outside of
# strings, ``},{`` only separates rows, provided that no value is a list.


def _by_text(before: Snapshot, after: Snapshot) -> Difference | None:
    """Compare the rows that differ as text; ``None`` if all rows must be compared."""
    old_text, new_text = memoryview(before.part.data), memoryview(after.part.data)
    if not bytes(old_text[:2]) == bytes(new_text[:2]) == b"[{":
        return None
    shape = before.layout.shape if before.layout else first_shape(old_text)
    if shape is None or not shape.is_plain:
        return None
    if before.flat is None:
        before.flat = is_flat(old_text)
    windows = find_windows(old_text, new_text) if before.flat else None
    if windows is None:
        return None
    old = _read([window[0] for window in windows], shape)
    new = _read([window[1] for window in windows], shape)
    if old is None or new is None:
        return None
    after.flat = (
        all(is_flat(memoryview(b"[" + window[1])) for window in windows) or None
    )
    if before.length is not None:
        after.length = before.length - len(old) + len(new)
    old_rows = _Rows(before.lay_out(shape), old)
    return _by_values(old_rows, _Rows(after.lay_out(shape), new))


def is_flat(data: memoryview) -> bool:
    """Return whether no value in rows is a list; ``False`` if one may be."""
    return _LIST.search(data) is None


def _read(pieces: Iterable[bytes], shape: Shape) -> list[Cells] | None:
    """Read each piece by itself: two halves of rows would form a whole one."""
    found: list[Cells] = []
    for piece in pieces:
        rows = shape.decode(b"[" + piece + b"]")
        if rows is None:
            return None
        found += rows
    return found


def find_windows(before: memoryview, after: memoryview) -> list[Window] | None:
    """Return the rows that differ between two JSON lists of objects, and possibly more.

    The rest is the same in both, in the same order. ``None`` means that so much differs
    that reading all rows takes less time.
    """
    return _Search(before, after).run()


class _Search:
    """A position in two texts: ``i`` and ``j`` are at the same row in both."""

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
        """Count the bytes from here on that are the same."""
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
                differing = int.from_bytes(one, "big") ^ int.from_bytes(other, "big")
                return done + size - (differing.bit_length() + 7) // 8
            else:
                size //= 8
        return most

    def _step(self, i: int, j: int, streak: int) -> bool:
        """Skip rows that differ up to ``i`` and ``j``; ``False`` at the end of both."""
        row_end = _row_end(self.before, i, self.end)
        other_row_end = _row_end(self.after, j, self.other_end)
        last, other_last = row_end == self.end, other_row_end == self.other_end
        if not last and not other_last and self._agree(row_end + 1, other_row_end + 1):
            return self._skip(row_end, other_row_end)
        if streak in _SEARCHED:
            inserted = _find(self.before[self.i : row_end], self.after, other_row_end)
            if inserted:
                return self._skip(self.i - 1, inserted - 1)
            removed = _find(self.after[self.j : other_row_end], self.before, row_end)
            if removed:
                return self._skip(removed - 1, self.j - 1)
        if last or other_last:
            return self._skip(self.end, self.other_end)
        return self._skip(row_end, other_row_end)

    def _agree(self, i: int, j: int) -> bool:
        """Return whether the texts agree for about the length of a row."""
        size = min(i - self.i, self.end - i, self.other_end - j)
        one, other = self.before[i : i + size], self.after[j : j + size]
        return msgspec.Raw(one) == msgspec.Raw(other)

    def _skip(self, i: int, j: int) -> bool:
        """Add a window that ends at ``i`` and ``j``, and continue after the commas."""
        window = bytes(self.before[self.i : i]), bytes(self.after[self.j : j])
        self.found.append(window)
        self.spent += _PRICE + 2 * min(len(window[0]), len(window[1]))
        self.i, self.j = i + 1, j + 1
        return i < self.end


def _row_start(data: memoryview, begin: int, end: int) -> int:
    """Return the start of the last row before ``end``; a row starts at ``begin``."""
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
    """Return the first end of a row after ``begin``; the last row ends at ``end``."""
    size = _FIRST_CHUNK
    while True:
        found = bytes(data[begin : min(begin + size, end)]).find(b'},{"')
        if found >= 0:
            return begin + found + 1
        if begin + size >= end:
            return end
        size *= 4


def _find(row: memoryview, data: memoryview, end: int) -> int:
    """Return where a row follows ``end`` within reach; 0 if it does not."""
    found = bytes(data[end : end + _REACH]).find(row)
    return end + found if found > 0 else 0


@attrs.frozen
class _Rows:
    """Rows of one side of a comparison, and their keys if these are known."""

    layout: Layout
    cells: Sequence[Cells]
    keys: Keys | None = None


def _by_values(
    before: _Rows, after: _Rows, snapshot: Snapshot | None = None
) -> Difference:
    """Compare rows; store the newer keys in ``snapshot`` for the next comparison."""
    if before.layout is not after.layout:
        return _by_meaning(before, after)
    try:
        return _as_sent(before, after, snapshot)
    except TypeError:  # values that are lists or objects are not hashable
        return _by_meaning(before, after)


def _as_sent(before: _Rows, after: _Rows, snapshot: Snapshot | None) -> Difference:
    """Compare rows of one layout as they were sent; TypeError if that is impossible."""
    layout = after.layout
    values = list(map(layout.get_key, after.cells))
    added: list[Cells] = []
    removed: list[Cells] = []
    olds: list[Cells] = []
    news: list[Cells] = []
    keys = before.keys
    if keys is not None and keys.values == values:
        # The same rows in the same order: no key need be looked up.
        if keys.is_verbatim is None:
            keys.is_verbatim = _are_verbatim(layout, layout.keys, before.cells)
        differ = list(map(operator.ne, before.cells, after.cells))
        olds += compress(before.cells, differ)
        news += compress(after.cells, differ)
    else:
        old_values = keys.values if keys else map(layout.get_key, before.cells)
        old = dict(zip(old_values, before.cells, strict=True))
        if len(old) < len(before.cells) or len(set(values)) < len(values):
            return _by_meaning(*_without_common(before, after))
        keys = Keys(values)
        for key, row in zip(values, after.cells, strict=True):
            was = old.pop(key, None)
            if was is None:
                added.append(row)
            elif was != row:
                olds.append(was)
                news.append(row)
        removed += old.values()
    if snapshot is not None:
        snapshot.keys = keys
    left = added + removed + news
    if not (keys.is_verbatim or _are_verbatim(layout, layout.keys, left)):
        # Keys that were sent differently may mean the same.
        return _by_meaning(*_without_common(before, after))
    if news and not _are_verbatim(layout, layout.measures, olds + news):
        differ = _differ(layout, olds, news)
        olds, news = list(compress(olds, differ)), list(compress(news, differ))
    return _difference(layout, layout, added, olds, news, removed)


def _are_verbatim(layout: Layout, names: Iterable[str], rows: Sequence[Cells]) -> bool:
    """Return whether values of these columns are equal only if they were sent alike."""
    for name in names:
        kind = layout.kinds[name]
        if kind is not str and kind is not None:
            column = list(map(layout.getters[name], rows))
            if not is_verbatim(column, kind, layout.zone):
                return False
    return True


def _differ(layout: Layout, olds: list[Cells], news: list[Cells]) -> list[bool]:
    """Return for each pair of rows with one key whether their values differ."""
    zone = layout.zone
    differ = [False] * len(olds)
    for name in layout.measures:
        get, kind = layout.getters[name], layout.kinds[name]
        values = zip(map(get, olds), map(get, news), strict=True)
        for place, (old, new) in enumerate(values):
            if old != new and not differ[place]:
                differ[place] = (kind in _NUMBERS and _are_unequal(old, new)) or (
                    canonical(old, kind, zone) != canonical(new, kind, zone)
                )
    return differ


_NUMBERS: Final = frozenset({Decimal, int})


def _are_unequal(one: Any, other: Any) -> bool:
    """Return whether two strings are different numbers; ``False`` proves nothing.

    ``Decimal`` accepts more than servers may send, but strings that are different
    numbers to it are never the same number.
    """
    try:
        return type(one) is type(other) is str and Decimal(one) != Decimal(other)
    except ArithmeticError:
        return False


def _difference(
    before: Layout,
    after: Layout,
    added: Sequence[Cells],
    olds: Sequence[Cells],
    news: Sequence[Cells],
    removed: Sequence[Cells],
) -> Difference:
    index = repeat(-1)  # the positions are not known
    old_rows = map(Row, repeat(before), olds, index)
    return Difference(
        added=tuple(map(Row, repeat(after), added, index)),
        changed=tuple(map(ChangedRow, repeat(after), news, index, old_rows)),
        removed=tuple(map(Row, repeat(before), removed, index)),
    )


Values: TypeAlias = "tuple[Hashable, ...]"
Keyed: TypeAlias = "dict[Values, list[tuple[Values, int]]]"


def _by_meaning(before: _Rows, after: _Rows) -> Difference:
    """Compare rows by the meaning of their values, with several rows per key.

    Equal rows are left out. The other rows of a key are paired in the order of their
    values, because it is not known which row has become which.
    """
    names = sorted({*before.layout.keys, *after.layout.keys})
    rest = sorted({*before.layout.kinds, *after.layout.kinds}.difference(names))
    old, new = _by_key(before, names, rest), _by_key(after, names, rest)
    added: list[int] = []
    changed: list[tuple[int, int]] = []
    removed: list[int] = []
    for key in {**old, **new}:
        olds, news = _without_equal(old.get(key, []), new.get(key, []))
        gone, come = _in_order(olds), _in_order(news)
        both = min(len(gone), len(come))
        changed += zip(come[:both], gone[:both], strict=True)
        removed += gone[both:]
        added += come[both:]
    return _difference(
        before.layout,
        after.layout,
        [after.cells[place] for place in sorted(added)],
        [before.cells[place] for _, place in sorted(changed)],
        [after.cells[place] for place, _ in sorted(changed)],
        [before.cells[place] for place in sorted(removed)],
    )


def _by_key(side: _Rows, keys: Sequence[str], rest: Sequence[str]) -> Keyed:
    """Return the values and the positions of the rows of each key."""
    layout = side.layout

    def values(row: Cells, names: Sequence[str]) -> Values:
        return tuple(
            [
                canonical(layout.getters[name](row), layout.kinds[name], layout.zone)
                if name in layout.kinds
                else msgspec.UNSET
                for name in names
            ]
        )

    found: Keyed = {}
    for place, row in enumerate(side.cells):
        found.setdefault(values(row, keys), []).append((values(row, rest), place))
    return found


def _in_order(rows: list[tuple[Values, int]]) -> list[int]:
    """Return the positions of rows in the order of their values."""
    rows = sorted(rows, key=lambda row: [sort_key(value) for value in row[0]])
    return [place for _, place in rows]


def _without_common(before: _Rows, after: _Rows) -> tuple[_Rows, _Rows]:
    """Leave out rows that were sent alike on both sides."""
    olds = [(astuple(row), row) for row in before.cells]
    news = [(astuple(row), row) for row in after.cells]
    olds, news = _without_equal(olds, news)
    old_rows = _Rows(before.layout, [row for _, row in olds])
    return old_rows, _Rows(after.layout, [row for _, row in news])


Items: TypeAlias = "list[tuple[Values, T]]"


def _without_equal(olds: Items[T], news: Items[T]) -> tuple[Items[T], Items[T]]:
    """Leave out items with equal values, each as often as both sides have it."""
    common = Counter(map(itemgetter(0), olds)) & Counter(map(itemgetter(0), news))
    return _subtract(olds, common.copy()), _subtract(news, common)


def _subtract(items: Items[T], common: Counter[Values]) -> Items[T]:
    rest: Items[T] = []
    for item in items:
        if common[item[0]]:
            common[item[0]] -= 1
        else:
            rest.append(item)
    return rest
