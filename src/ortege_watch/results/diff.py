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
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from decimal import Decimal
from functools import partial, reduce
from itertools import compress, count
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from ortege_watch.results.decode import (
    ANY_WRITING,
    NUMBER_WRITING,
    NUMBERS,
    Cells,
    Layout,
    check_rows,
    form_of,
    hashed,
    sort_key,
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
from ortege_watch.results.windows import read_windows

if TYPE_CHECKING:
    from ortege_watch.results import Result

_LARGE: Final = 8192
"""Bytes; comparing smaller snapshots as text takes longer than reading all rows."""

_MANY: Final = 16
"""After one row of so many has changed, the next texts will not have much in common."""


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
    sides = old.compared(), new.compared()
    found = _by_values(*(sides if is_large else _without_ends(*sides)))
    new.has_changed = is_large and len(found.changed) > len(after) // _MANY
    return found


def _without_ends(before: Table, after: Table) -> tuple[Table, Table]:
    """Leave out the rows at both ends that are the same, if these are most rows."""
    was, now = before.cells, after.cells
    size = min(len(was), len(now))
    start = next(compress(count(), map(operator.ne, was, now)), size)
    ends = map(operator.ne, reversed(was), reversed(now))
    end = min(next(compress(count(), ends), size), size - start)
    if before.layout is not after.layout or 2 * (start + end) <= size:
        return before, after
    old, new = was[start : len(was) - end], now[start : len(now) - end]
    return Table(before.layout, old), Table(after.layout, new)


def _by_text(before: Snapshot, after: Snapshot) -> Difference | None:
    """Compare the rows that differ as text; ``None`` if all rows must be compared."""
    layout, length = before.layout, before.length
    text, other_text = memoryview(before.part.data), memoryview(after.part.data)
    form = before.form or form_of(text)
    windows = form and read_windows(text, other_text, form)
    if form is None or windows is None or layout is None or length is None:
        return None
    if before.form is None and check_rows(text) is None:
        return None
    before.form = form  # it is compared again if no row differs by value
    old, new = windows
    after.form, after.checked, after.length = form, True, length - len(old) + len(new)
    return _by_values(Table(layout, old), Table(after.lay_out(form.columns), new))


Values: TypeAlias = tuple[Hashable, ...]


def _by_values(before: Table, after: Table) -> Difference:
    """Compare rows by their keys, and then by their measures."""
    was, now, layout = before.cells, after.cells, after.layout
    same_layout = before.layout is layout
    if not was or not now:
        return _difference(before, after, added=range(len(now)), removed=was)
    if same_layout and len(was) == len(now) == 1:
        old, new = was[0], now[0]
        if layout.get_key(old) == layout.get_key(new):
            differ = _differ(before, after, layout.measures)
            return _difference(before, after, [], [0] * differ(old, new), was)
    names, measures = layout.keys, layout.measures
    if not same_layout:
        names = tuple(sorted({*before.layout.keys, *names}))
        others = {*before.layout.kinds, *layout.kinds}.difference(names)
        measures = tuple(sorted(others))
    if same_layout and measures and after.has_keys_of(before):
        as_sent, added, removed = True, list[int](), list[Cells]()
        columns = [
            map(operator.ne, before.column(name), after.column(name))
            for name in measures
        ]
        changed = list(compress(count(), reduce(partial(map, operator.or_), columns)))
        olds = [was[place] for place in changed]
    else:
        as_sent = same_layout and _are_alike(before, after, names)
        old_keys = _keys(before, names, as_sent=as_sent)
        new_keys = _keys(after, names, as_sent=as_sent)
        by_key, kept = dict(zip(old_keys, was, strict=True)), set(new_keys)
        unique = len(by_key) == len(was), len(kept) == len(now)
        if as_sent:
            before.unique_keys, after.unique_keys = unique
        if unique != (True, True):
            return _by_groups(before, after, old_keys, new_keys, measures)
        removed = [row for key, row in by_key.items() if key not in kept]
        found = list(map(by_key.get, new_keys))
        added = [place for place, old in enumerate(found) if old is None]
        # Rows that were sent alike are equal, if their columns are the same.
        pairs = [
            (place, old)
            for place, (old, new) in enumerate(zip(found, now, strict=True))
            if old is not None and (old != new or not same_layout)
        ]
        changed, olds = [place for place, _ in pairs], [old for _, old in pairs]
    if not (as_sent and _are_alike(before, after, measures)):
        differ = _differ(before, after, measures)
        unequal = list(map(differ, olds, map(now.__getitem__, changed)))
        changed, olds = list(compress(changed, unequal)), list(compress(olds, unequal))
    return _difference(before, after, added, changed, olds, removed)


def _are_alike(before: Table, after: Table, names: Iterable[str]) -> bool:
    """Return whether values of these columns are equal only if they were sent alike."""
    for name in names:
        old, new = before.writing(name), after.writing(name)
        if None in {old, new} or (old != new and ANY_WRITING not in {old, new}):
            return False
    return True


def _keys(side: Table, names: Sequence[str], *, as_sent: bool) -> list[Hashable]:
    """Return the key of each row, as it was sent or, for comparisons, as it is meant."""
    columns: list[Iterable[Hashable]] = []
    for name in names:
        if not as_sent:
            columns.append([_canonical(side.layout, name, row) for row in side.cells])
        elif side.writing(name) == NUMBER_WRITING:
            columns.append(map(hashed, side.column(name)))
        else:
            columns.append(side.column(name))
    if len(columns) == 1:
        return list(columns[0])
    return list(zip(*columns, strict=True)) if columns else [()] * len(side.cells)


def _canonical(layout: Layout, name: str, row: Cells) -> Hashable:
    """Return a value for comparisons; ``UNSET`` if the rows do not have the column."""
    return layout.canonical(name, row) if name in layout.kinds else msgspec.UNSET


def _differ(
    before: Table, after: Table, names: Iterable[str]
) -> Callable[[Cells, Cells], bool]:
    """Return a function that tells whether two rows have different values there."""
    one, other = before.layout, after.layout

    def differ(old: Cells, new: Cells) -> bool:
        for name in names:
            if one is other:
                place, kind = one.places[name], one.kinds[name]
                old_value, new_value = old[place], new[place]
                if old_value == new_value:
                    continue
                if kind in NUMBERS and _are_unequal(old_value, new_value):
                    return True
            if _canonical(one, name, old) != _canonical(other, name, new):
                return True
        return False

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
    added: Sequence[int] = (),
    changed: Sequence[int] = (),
    olds: Sequence[Cells] = (),
    removed: Sequence[Cells] = (),
) -> Difference:
    """Return the rows at some places of the newer side, and rows of the older side."""
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


def _by_groups(
    before: Table,
    after: Table,
    old_keys: Sequence[Hashable],
    new_keys: Sequence[Hashable],
    measures: Sequence[str],
) -> Difference:
    """Compare rows where several have the same key.

    Equal rows are left out. The other rows of a key are paired in the order of their
    values, because it is not known which row has become which.
    """
    old = _grouped(before, old_keys, measures)
    new = _grouped(after, new_keys, measures)
    added: list[int] = []
    changed: list[tuple[int, int]] = []
    removed: list[int] = []
    for key in {**old, **new}:
        olds, news = old.get(key, []), new.get(key, [])
        common = Counter(values for values, _ in olds)
        common &= Counter(values for values, _ in news)
        gone, come = _in_order(olds, common.copy()), _in_order(news, common)
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


Group: TypeAlias = list[tuple[Values, int]]
"""The values of measures, and the positions, of the rows that have one key."""


def _grouped(
    side: Table, keys: Iterable[Hashable], measures: Sequence[str]
) -> dict[Hashable, Group]:
    found: dict[Hashable, Group] = {}
    for place, (key, row) in enumerate(zip(keys, side.cells, strict=True)):
        values = tuple([_canonical(side.layout, name, row) for name in measures])
        found.setdefault(key, []).append((values, place))
    return found


def _in_order(group: Group, common: Counter[Values]) -> list[int]:
    """Return the positions of rows that are not common, in the order of their values."""
    rest: Group = []
    for values, place in group:
        if common[values]:
            common[values] -= 1
        else:
            rest.append((values, place))
    rest.sort(key=lambda row: [sort_key(value) for value in row[0]])
    return [place for _, place in rest]
