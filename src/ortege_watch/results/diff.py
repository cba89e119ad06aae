"""What has changed between two snapshots.

Cube sends whole results, never differences. Rows are compared by their key, which is
all columns that are no measures, and then by their values, whatever form these were
sent in. Several rows may have one key; the order of rows means nothing.

Texts are compared first, because most rows are the same byte for byte. That only
saves work: what it leaves over is compared by values, with the same outcome as if all
rows had been.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from decimal import Decimal
from itertools import repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import attrs
import msgspec

from ortege_watch.results.decode import (
    Cells,
    Layout,
    canonical,
    first_shape,
    is_verbatim,
    sort_key,
)
from ortege_watch.results.result import ChangedRow, Keys, Row, snapshot_of

if TYPE_CHECKING:
    from ortege_watch.results import Result
    from ortege_watch.results.decode import Shape
    from ortege_watch.results.result import Snapshot

__all__ = ["Difference", "Window", "difference", "find_windows", "is_flat"]

# -------------------- Where the JSON texts of two snapshots differ, found without reading their rows.
#
# Most pushes change a few rows of thousands. Both texts are compared from their
# beginning, in chunks; where they differ, rows are skipped on either side until they
# agree again: a row was changed in place, or some were inserted or removed.
#
# Rows end where ``},{"`` stands, and a value may hold such text as well. So what is
# found is a guess: the caller must read every piece, strictly. If all pieces are rows of
# the expected shape, no piece began inside of a value: within a string, the quote of
# ``{"`` would end that string, and what follows it would have to be the name of a column.
# Outside of strings, ``},{`` stands between rows alone if no value is a list.


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


_WORTH_IT: Final = 8192
"""Bytes; below, reading all rows is cheaper than searching for those that differ."""


@attrs.frozen
class Difference:
    """The rows by which two snapshots differ; false if there are none.

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
    """Find the rows that were added, changed or removed.

    Rows that are the same byte for byte are not looked at; values that cannot be read
    stand for themselves, and say so when somebody asks for them.

    Args:
        before: the older snapshot; ``None`` if there is none, so that all is new.
        after: the newer one.

    Raises:
        DecodeError: the rows of either cannot be read at all, see ``read_rows``.
    """
    if before is None:
        return Difference(added=tuple(after))
    old, new = snapshot_of(before), snapshot_of(after)
    new.follow(old)
    if old.part.data == new.part.data:
        new.adopt(old)
        return Difference()
    found = _by_text(old, new) if len(old.raw) >= _WORTH_IT else None
    return _by_values(_all_rows(old), _all_rows(new), new) if found is None else found


@attrs.frozen
class _Rows:
    """Rows to be compared; their keys where they are known and no two are alike."""

    layout: Layout
    cells: Sequence[Cells]
    keys: Keys | None = None


def _all_rows(snapshot: Snapshot) -> _Rows:
    layout, cells = snapshot.open()
    return _Rows(layout, cells, snapshot.keys)


def _by_text(before: Snapshot, after: Snapshot) -> Difference | None:
    """Compare the rows that differ as text; ``None`` if all rows must be compared."""
    if not (_is_searchable(before.raw) and _is_searchable(after.raw)):
        return None
    shape = before.shape or first_shape(before.raw)
    if shape is None or not shape.is_plain:
        return None
    if before.flat is None:
        before.flat = is_flat(before.raw)
    windows = find_windows(before.raw, after.raw) if before.flat else None
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
    return _by_values(
        _Rows(before.lay_out(shape), old), _Rows(after.lay_out(shape), new)
    )


def _is_searchable(raw: memoryview) -> bool:
    return bytes(raw[:2]) == b"[{"


def _read(pieces: Iterable[bytes], shape: Shape) -> list[Cells] | None:
    """Read each piece by itself: two halves of rows would make a whole one."""
    found: list[Cells] = []
    for piece in pieces:
        rows = shape.decode(b"[" + piece + b"]")
        if rows is None:
            return None
        found += rows
    return found


def _by_values(
    before: _Rows, after: _Rows, snapshot: Snapshot | None = None
) -> Difference:
    """Compare all rows that are given; ``snapshot`` is to remember the newer keys."""
    if before.layout is not after.layout:
        return _by_meaning(before, after)
    try:
        return _as_sent(before, after, snapshot)
    except TypeError:
        # A value that is a list or an object cannot be looked up.
        return _by_meaning(before, after)


def _as_sent(before: _Rows, after: _Rows, snapshot: Snapshot | None) -> Difference:
    """Compare rows of one layout, at first by their values as they were sent.

    Raises:
        TypeError: a value is not hashable.
    """
    layout = after.layout
    keys = list(map(_getter(layout, layout.keys), after.cells))
    added: list[Cells] = []
    removed: list[Cells] = []
    were: list[Cells] = []
    pairs: list[Cells] = []
    if before.keys is not None and before.keys.values == keys:
        # The same rows in the same order: no key need be looked up.
        known = before.keys
        if known.is_verbatim is None:
            known.is_verbatim = _are_verbatim(layout, layout.keys, before.cells)
        for was, row in zip(before.cells, after.cells, strict=True):
            if was != row:
                were.append(was)
                pairs.append(row)
    else:
        known = Keys(keys)
        old = _by_sent_key(before)
        if len(old) < len(before.cells) or len(set(keys)) < len(keys):
            return _by_meaning(*_without_common(before, after))
        for key, row in zip(keys, after.cells, strict=True):
            was = old.pop(key, None)
            if was is None:
                added.append(row)
            elif was != row:
                were.append(was)
                pairs.append(row)
        removed += old.values()
    if snapshot is not None:
        snapshot.keys = known
    left = added + removed + pairs
    if not (known.is_verbatim or _are_verbatim(layout, layout.keys, left)):
        # Keys that were sent differently may mean the same.
        return _by_meaning(*_without_common(before, after))
    places = _changed_places(layout, were, pairs)
    return Difference(
        added=_rows(layout, added),
        changed=_changed(
            layout,
            [pairs[place] for place in places],
            _rows(layout, [were[place] for place in places]),
        ),
        removed=_rows(layout, removed),
    )


def _changed_places(
    layout: Layout, old: Sequence[Cells], new: Sequence[Cells]
) -> Iterable[int]:
    """Tell which pairs of rows differ that have one key and were sent differently."""
    measures = layout.kinds.keys() - set(layout.keys)
    if _are_verbatim(layout, measures, [*old, *new]):
        return range(len(new))
    differ = _comparison(layout)
    pairs = enumerate(zip(old, new, strict=True))
    return [place for place, (was, row) in pairs if differ(was, row)]


def _changed(
    layout: Layout, cells: Iterable[Cells], were: Iterable[Row]
) -> tuple[ChangedRow, ...]:
    return tuple(map(ChangedRow, repeat(layout), cells, repeat(-1), were))


def _rows(layout: Layout, cells: Iterable[Cells]) -> tuple[Row, ...]:
    return tuple(map(Row, repeat(layout), cells, repeat(-1)))


def _getter(layout: Layout, names: Iterable[str]) -> Callable[[Cells], Hashable]:
    attributes = [layout.shape.attributes[name] for name in names]
    return attrgetter(*attributes) if attributes else lambda _: None


def _by_sent_key(rows: _Rows) -> dict[Hashable, Cells]:
    """Give rows by their keys as they were sent; of several with one key, the last."""
    layout = rows.layout
    if rows.keys is not None:
        return dict(zip(rows.keys.values, rows.cells, strict=True))
    return dict(
        zip(map(_getter(layout, layout.keys), rows.cells), rows.cells, strict=True)
    )


def _are_verbatim(layout: Layout, names: Iterable[str], rows: Sequence[Cells]) -> bool:
    """Tell whether values of these columns are equal only if they were sent alike."""
    for name in names:
        kind = layout.kinds[name]
        if kind is not str and kind is not None:
            column = list(map(_getter(layout, [name]), rows))
            if not is_verbatim(column, kind, layout.zone):
                return False
    return True


def _without_common(before: _Rows, after: _Rows) -> tuple[_Rows, _Rows]:
    """Leave out pairs of rows that were sent alike."""
    layout = after.layout
    whole = _getter(layout, layout.shape.columns)
    common = Counter(map(whole, before.cells)) & Counter(map(whole, after.cells))

    def rest(rows: Sequence[Cells]) -> _Rows:
        left = common.copy()
        found: list[Cells] = []
        for row in rows:
            values = whole(row)
            if left[values]:
                left[values] -= 1
            else:
                found.append(row)
        return _Rows(layout, found)

    return rest(before.cells), rest(after.cells)


def _comparison(layout: Layout) -> Callable[[Cells, Cells], bool]:
    """Make the function that tells whether two rows of one key differ."""
    measures = [
        (layout.shape.attributes[name], kind)
        for name, kind in layout.kinds.items()
        if name not in layout.keys
    ]
    zone = layout.zone

    def differ(was: Cells, row: Cells) -> bool:
        for attribute, kind in measures:
            one, other = getattr(was, attribute), getattr(row, attribute)
            if one != other and (
                (kind in _NUMBERS and _are_unequal(one, other))
                or canonical(one, kind, zone) != canonical(other, kind, zone)
            ):
                return True
        return False

    return differ


_NUMBERS: Final = frozenset({Decimal, int})


def _are_unequal(one: Any, other: Any) -> bool:
    """Tell whether two texts differ as numbers; ``False`` proves nothing.

    ``Decimal`` takes more than servers may send, but texts that it takes for different
    numbers are one number to nobody.
    """
    try:
        return type(one) is type(other) is str and Decimal(one) != Decimal(other)
    except ArithmeticError:
        return False


def _by_meaning(before: _Rows, after: _Rows) -> Difference:
    """Compare rows by what their values mean, with several rows to a key.

    Rows of one key that are equal cancel each other; what is left is paired in order of
    the values, because nothing says which row has become which.
    """
    keys = sorted({*before.layout.keys, *after.layout.keys})
    columns = {*before.layout.kinds, *after.layout.kinds}
    values = sorted(columns.difference(keys))
    old, new = _by_key(before, keys, values), _by_key(after, keys, values)
    added: list[int] = []
    changed: list[tuple[int, int]] = []
    removed: list[int] = []
    for key in {**old, **new}:
        olds, news = old.get(key, []), new.get(key, [])
        common = Counter(row for row, _ in olds) & Counter(row for row, _ in news)
        went, came = _rest(olds, common), _rest(news, common)
        both = min(len(went), len(came))
        changed += zip(came[:both], went[:both], strict=True)
        removed += went[both:]
        added += came[both:]

    were = [before.cells[place] for _, place in sorted(changed)]
    pairs = [after.cells[place] for place, _ in sorted(changed)]
    gone = [before.cells[place] for place in sorted(removed)]
    come = [after.cells[place] for place in sorted(added)]
    return Difference(
        added=_rows(after.layout, come),
        changed=_changed(after.layout, pairs, _rows(before.layout, were)),
        removed=_rows(before.layout, gone),
    )


Values: TypeAlias = "tuple[Hashable, ...]"
Keyed: TypeAlias = "dict[Values, list[tuple[Values, int]]]"


def _by_key(side: _Rows, keys: Sequence[str], values: Sequence[str]) -> Keyed:
    """Give the values and the places of the rows of each key."""
    found: Keyed = {}
    rows = zip(_meanings(side, keys), _meanings(side, values), strict=True)
    for place, (key, row) in enumerate(rows):
        found.setdefault(key, []).append((row, place))
    return found


def _meanings(side: _Rows, names: Sequence[str]) -> list[Values]:
    """Give what the named columns mean; rows may lack some."""
    layout, rows = side.layout, side.cells
    columns: list[list[Hashable]] = [
        [
            canonical(value, layout.kinds[name], layout.zone)
            for value in map(_getter(layout, [name]), rows)
        ]
        if name in layout.kinds
        else [msgspec.UNSET] * len(rows)
        for name in names
    ]
    return list(zip(*columns, strict=True)) if columns else [()] * len(rows)


def _rest(rows: list[tuple[Values, int]], common: Counter[Values]) -> list[int]:
    left = common.copy()
    rest: list[tuple[Values, int]] = []
    for row, place in rows:
        if left[row]:
            left[row] -= 1
        else:
            rest.append((row, place))
    rest.sort(key=lambda item: [sort_key(value) for value in item[0]])
    return [place for _, place in rest]
