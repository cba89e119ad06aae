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
from itertools import compress, count
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import msgspec

from ortege_watch.results.decode import (
    ANY_FORM,
    NUMBERS,
    OBJECTS,
    Cells,
    Layout,
    are_flat,
    canonical,
    read_list,
    sort_key,
    tail_of,
)
from ortege_watch.results.result import (
    NO_ROWS,
    ChangedRow,
    Row,
    Rows,
    Snapshot,
    Table,
    rows_of,
)

if TYPE_CHECKING:
    from ortege_watch.results import Result

T = TypeVar("T")

Window: TypeAlias = tuple[bytes, bytes]
"""Rows of one text and the rows of the other in their place, separated by commas."""

_LARGE: Final = 8192
"""Bytes; comparing smaller snapshots as text takes longer than reading all rows."""

_MANY: Final = 16
"""After one row of so many has changed, the next texts will not have much in common."""

_FEW: Final = 2
"""Checking the forms of columns takes longer than comparing so few values."""

_FIRST_CHUNK: Final = 1 << 10
_LARGEST_CHUNK: Final = 1 << 18
# The number of bytes that may differ in place, apart from a share of the text; a window
# that only adds or removes rows costs the price.
_ALLOWED: Final = 2048
_PRICE: Final = 128
# After so many consecutive rows that differ, a row is searched for so far ahead.
_REACH: Final = {0: 1 << 12, 3: 1 << 14, 15: 1 << 16}


class Difference(msgspec.Struct, frozen=True):
    """The rows that differ between two snapshots; false if nothing differs.

    Attributes:
        added: rows with a new key, in the order of the newer snapshot.
        changed: rows with new measures, in the order of the newer snapshot.
        removed: rows whose key is gone, in the order of the older snapshot.
    """

    added: Rows[Row] = NO_ROWS
    changed: Rows[ChangedRow] = NO_ROWS
    removed: Rows[Row] = NO_ROWS

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)


def difference(before: Result | None, after: Result) -> Difference:
    """Return the rows that were added, changed or removed since ``before``.

    All rows are added if ``before`` is ``None``. Values that cannot be read are compared
    as they were sent. Rows that cannot be read at all are a ``DecodeError``.
    """
    new = after._snapshot  # noqa: SLF001 - texts and cells
    if before is None:
        return Difference(added=new.rows())
    old = before._snapshot  # noqa: SLF001
    if not old.checked:
        old.check()
    new.follow(old)
    if old.part.data == new.part.data:
        new.adopt(old)
        return Difference()
    is_large = memoryview(old.part.data).nbytes >= _LARGE
    if is_large and not old.has_changed:
        found = _by_text(old, new)
        if found is not None:
            return found
    found = _by_values(old.compared(), new.compared())
    if is_large:
        new.has_changed = len(found.changed) > len(after) // _MANY
    return found


# Comparing texts. Both are compared in chunks from the first row on; where they differ,
# rows are skipped on either side until they agree again: a row was changed in place, or
# some were inserted or removed.
#
# The older text is known to be nothing but rows between its head and its tail, and the
# newer one is valid JSON with the same head and tail. So both are read alike as long as
# they are the same, and after rows of either that are skipped, they are read alike again.
#
# What separates rows may also stand in a string, so every separator must be proven. In
# JSON, only a comma, a bracket, a brace, a colon or white space follows the quote that
# ends a string. If the quote after a separator is followed by anything else, it begins a
# string, so what precedes it is outside of strings. Likewise, only a bracket, a brace, a
# colon, a comma or white space precedes the quote that begins a string, and a backslash
# one that is part of it. If the quote before a separator is preceded by anything else,
# it ends a string. Outside of strings, ``},{`` and ``],[`` separate items of a list, and
# these are rows if no value is a list or an object. A separator that is not proven only
# makes a window larger.


def _separator(ends: bytes, begins: bytes) -> re.Pattern[bytes]:
    """Match what proves to be between two rows."""
    literal = ends + b"," + begins
    return re.compile(
        literal + rb'(?:(?="[^,:\]}\s])|(?<=[^,:\[{\\\s]"' + literal + rb"))"
    )


_OBJECTS_SEPARATOR: Final = _separator(rb"\}", rb"\{")
_ARRAYS_SEPARATOR: Final = _separator(rb"\]", rb"\[")


def _by_text(before: Snapshot, after: Snapshot) -> Difference | None:
    """Compare the rows that differ as text; ``None`` if all rows must be compared."""
    head, layout = before.head, before.layout
    if layout is None or not head:
        return None
    windows = find_windows(
        memoryview(before.part.data), memoryview(after.part.data), head
    )
    if windows is None or not before.is_flat():
        return None
    columns = layout.columns
    old = read_list(_joined(window[0] for window in windows), head, columns)
    new = read_list(_joined(window[1] for window in windows), head, columns)
    # In a list of a new row, a separator may be proven that is within that row.
    if old is None or new is None or not are_flat(new):
        return None
    after.head, after.checked, after.flat = head, True, True
    assert before.length is not None  # noqa: S101 - for the type checkers
    after.length = before.length - len(old) + len(new)
    return _by_values(Table(layout, old), Table(after.lay_out(columns), new))


def _joined(pieces: Iterable[bytes]) -> bytes:
    return b"[" + b",".join(filter(None, pieces)) + b"]"


def find_windows(
    before: memoryview, after: memoryview, head: bytes
) -> list[Window] | None:
    """Return the rows that differ between two texts of rows, and possibly more.

    The rest is the same in both, in the same order. ``None`` means that they begin or end
    in different ways, or that so much differs that reading all rows takes less time.
    """
    start, tail = len(head), tail_of(head)
    ends = bytes(before[-len(tail) :]), bytes(after[-len(tail) :])
    if bytes(after[:start]) != head or ends != (tail, tail):
        return None
    return _Search(before, after, head).run()


class _Search:
    """A position in two texts: ``i`` and ``j`` are at the same row in both."""

    __slots__ = (
        "after",
        "before",
        "end",
        "found",
        "i",
        "j",
        "other_end",
        "separator",
        "spent",
    )

    def __init__(self, before: memoryview, after: memoryview, head: bytes) -> None:
        self.before = before
        self.after = after
        self.end = len(before) - len(tail_of(head))
        self.other_end = len(after) - len(tail_of(head))
        self.separator = _OBJECTS_SEPARATOR if head == OBJECTS else _ARRAYS_SEPARATOR
        self.i = self.j = len(head)
        self.found: list[Window] = []
        self.spent = 0

    def run(self) -> list[Window] | None:
        streak = 0
        while True:
            same = self._common()
            i, j = self.i + same, self.j + same
            if i == self.end and j == self.other_end:
                return self.found
            start = self._row_start(i)
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
        done, size, growth = 0, _FIRST_CHUNK, 4
        while done < most:
            size = min(size, most - done)
            here, there = self.i + done, self.j + done
            one = self.before[here : here + size]
            other = self.after[there : there + size]
            if msgspec.Raw(one) == msgspec.Raw(other):
                done += size
                size = min(growth * size, _LARGEST_CHUNK)
            elif size <= _FIRST_CHUNK:
                differing = int.from_bytes(one, "big") ^ int.from_bytes(other, "big")
                return done + size - (differing.bit_length() + 7) // 8
            else:
                size, growth = size // 4, 1
        return most

    def _step(self, i: int, j: int, streak: int) -> bool:
        """Skip rows that differ up to ``i`` and ``j``; ``False`` at the end of both."""
        row_end = self._row_end(self.before, i, self.end)
        other_row_end = self._row_end(self.after, j, self.other_end)
        last, other_last = row_end == self.end, other_row_end == self.other_end
        if not last and not other_last and self._agree(row_end + 1, other_row_end + 1):
            return self._skip(row_end, other_row_end)
        if reach := _REACH.get(streak):
            row = bytes(self.before[self.i : row_end])
            inserted = self._find(row, self.after, other_row_end, reach)
            if inserted:
                return self._skip(self.i - 1, inserted - 1)
            row = bytes(self.after[self.j : other_row_end])
            removed = self._find(row, self.before, row_end, reach)
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

    def _row_start(self, end: int) -> int:
        """Return the start of the last row before ``end``, where both are the same."""
        size = _FIRST_CHUNK
        while True:
            low = max(self.i, end - size)
            # The proof may need the two bytes that follow.
            found = 0
            for match in self.separator.finditer(
                self.before, low, min(end + 2, self.end)
            ):
                if match.end() <= end:
                    found = match.end() - 1
            if found or low == self.i:
                return found or low
            size *= 4

    def _row_end(self, data: memoryview, begin: int, end: int) -> int:
        """Return the first end of a row after ``begin``; the last row ends at ``end``."""
        match = self.separator.search(data, begin, end)
        return match.start() + 1 if match else end

    def _find(self, row: bytes, data: memoryview, end: int, reach: int) -> int:
        """Return where a row follows ``end`` within reach; 0 if it does not."""
        found = bytes(data[end : end + reach]).find(row)
        if found > 0 and self.separator.match(data, end + found - 2):
            return end + found
        return 0


def _by_values(before: Table, after: Table) -> Difference:
    """Compare rows."""
    layout = after.layout
    if before.layout is layout and len(after.cells) > 1:
        before, after = _without_ends(before, after)
    was, now = before.cells, after.cells
    if not was or not now:
        return _difference(before, after, range(len(now)), [], [], was)
    if before.layout is not layout:
        return _by_meaning(before, after)
    if len(was) == len(now) == 1 and layout.get_key(was[0]) == layout.get_key(now[0]):
        changed = [0] if _differ(layout, was, now)[0] else []
        return _difference(before, after, [], changed, was, [])
    try:
        return _as_sent(before, after)
    except TypeError:  # values that are lists or objects are not hashable
        return _by_meaning(before, after)


def _without_ends(before: Table, after: Table) -> tuple[Table, Table]:
    """Leave out the rows at both ends that were sent alike, if these are most rows.

    What is known of all rows is not known of the rest.
    """
    was, now = before.cells, after.cells
    size = min(len(was), len(now))
    start = next(compress(count(), map(operator.ne, was, now)), size)
    ends = map(operator.ne, reversed(was), reversed(now))
    end = min(next(compress(count(), ends), size), size - start)
    if 2 * (start + end) <= size:
        return before, after
    layout, old_end, new_end = after.layout, len(was) - end, len(now) - end
    return Table(layout, was[start:old_end]), Table(layout, now[start:new_end])


def _as_sent(before: Table, after: Table) -> Difference:
    """Compare rows of one layout as they were sent; TypeError if that is impossible."""
    layout = after.layout
    was: Sequence[Any] = before.cells
    added: list[int] = []
    removed: list[Cells] = []
    if after.has_keys_of(before):
        # No key need be looked up. With one measure, the rest of the rows is the same.
        whole = len(layout.measures) != 1
        old, new = (
            side.cells if whole else side.column(layout.measures[0])
            for side in (before, after)
        )
        differ = list(map(operator.ne, old, new))
    else:
        keys = list(after.hashable_keys())
        by_key = dict(zip(before.hashable_keys(), was, strict=True))
        kept = set(keys)
        before.is_unique = len(by_key) == len(was)
        after.is_unique = len(kept) == len(keys)
        if not (before.is_unique and after.is_unique):
            return _by_meaning(*_without_common(before, after))
        was = list(map(by_key.get, keys))  # None for a row that is new
        removed = [row for key, row in by_key.items() if key not in kept]
        differ = list(map(operator.ne, was, after.cells))
        added = [place for place, row in enumerate(was) if row is None]
        for place in added:
            differ[place] = False
    changed = list(compress(count(), differ))
    olds: list[Cells] = list(compress(was, differ))
    several = len(added) + len(changed) + len(removed) > 1
    if several and not _are_verbatim(before, after, layout.keys):
        # Keys that were sent differently may mean the same.
        return _by_meaning(*_without_common(before, after))
    if len(changed) <= _FEW or not _are_verbatim(before, after, layout.measures):
        unequal = _differ(layout, olds, list(compress(after.cells, differ)))
        olds = list(compress(olds, unequal))
        changed = list(compress(changed, unequal))
    return _difference(before, after, added, changed, olds, removed)


def _are_verbatim(before: Table, after: Table, names: tuple[str, ...]) -> bool:
    """Return whether values of these columns are equal only if they were sent alike."""
    olds, news = before.forms(names), after.forms(names)
    if None in olds or None in news:
        return False
    return olds == news or all(
        old == new or ANY_FORM in {old, new}
        for old, new in zip(olds, news, strict=True)
    )


def _differ(layout: Layout, olds: Sequence[Cells], news: Sequence[Cells]) -> list[bool]:
    """Return for each pair of rows with one key whether their values differ."""
    zone = layout.zone
    differ = [False] * len(olds)
    for name in layout.measures:
        place, kind = layout.places[name], layout.kinds[name]
        for pair, (old_row, new_row) in enumerate(zip(olds, news, strict=True)):
            old, new = old_row[place], new_row[place]
            if old != new and not differ[pair]:
                differ[pair] = (kind in NUMBERS and _are_unequal(old, new)) or (
                    canonical(old, kind, zone) != canonical(new, kind, zone)
                )
    return differ


def _are_unequal(one: Any, other: Any) -> bool:
    """Return whether two values are different numbers; ``False`` proves nothing.

    ``Decimal`` accepts more than servers may send, but strings that are different
    numbers to it are never the same number.
    """
    if type(one) in NUMBERS and type(other) in NUMBERS:
        return bool(one != other)
    try:
        return type(one) is type(other) is str and Decimal(one) != Decimal(other)
    except ArithmeticError:
        return False


def _difference(
    before: Table,
    after: Table,
    added: Sequence[int],
    changed: Sequence[int],
    olds: Sequence[Cells],
    removed: Sequence[Cells],
) -> Difference:
    """Return the rows at some places of the newer side, and of the older side."""
    layout, row_at = after.layout, after.cells.__getitem__
    new = updated = gone = NO_ROWS
    if added:
        new = rows_of(layout, list(map(row_at, added)), None, added)
    if changed:
        was = before.layout, olds
        updated = rows_of(layout, list(map(row_at, changed)), was, changed)
    if removed:
        gone = rows_of(before.layout, removed)
    return Difference(new, updated, gone)


Values: TypeAlias = "tuple[Hashable, ...]"
Keyed: TypeAlias = "dict[Values, list[tuple[Values, int]]]"


def _by_meaning(before: Table, after: Table) -> Difference:
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
    changed.sort()
    return _difference(
        before,
        after,
        sorted(added),
        [place for place, _ in changed],
        [before.cells[place] for _, place in changed],
        [before.cells[place] for place in sorted(removed)],
    )


def _by_key(side: Table, keys: Sequence[str], rest: Sequence[str]) -> Keyed:
    """Return the values and the positions of the rows of each key."""
    layout = side.layout

    def values(row: Cells, names: Sequence[str]) -> Values:
        return tuple(
            [
                layout.canonical(name, row) if name in layout.kinds else msgspec.UNSET
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


def _without_common(before: Table, after: Table) -> tuple[Table, Table]:
    """Leave out rows that were sent alike on both sides."""
    olds, news = _without_equal(
        *(
            list(zip(side.hashable_rows(), side.cells, strict=True))
            for side in (before, after)
        )
    )
    old_rows = Table(before.layout, [row for _, row in olds])
    return old_rows, Table(after.layout, [row for _, row in news])


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
