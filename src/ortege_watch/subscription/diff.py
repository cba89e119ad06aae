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

from ortege_watch.results.result import snapshot_of
from ortege_watch.results.rows import ChangedRow, Row
from ortege_watch.results.shapes import first_shape
from ortege_watch.results.values import canonical, is_verbatim, sort_key
from ortege_watch.subscription.windows import find_windows, is_flat

if TYPE_CHECKING:
    from ortege_watch.results import Result
    from ortege_watch.results.layout import Layout
    from ortege_watch.results.shapes import Cells, Shape
    from ortege_watch.results.snapshot import Snapshot

__all__ = ["Difference", "difference"]

_WORTH_IT: Final = 8192
"""Bytes; below, reading all rows is cheaper than searching for those that differ."""

Side: TypeAlias = "tuple[Layout, Sequence[Cells]]"


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
    if old.part.data == new.part.data:
        new.adopt(old)
        return Difference()
    found = _by_text(old, new) if len(old.raw) >= _WORTH_IT else None
    return _by_values(old.open(), new.open()) if found is None else found


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
    return _by_values((before.lay_out(shape), old), (after.lay_out(shape), new))


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


def _by_values(before: Side, after: Side) -> Difference:
    """Compare all rows that are given."""
    if before[0] is not after[0]:
        return _by_meaning(before, after)
    layout = after[0]
    try:
        return _as_sent(layout, before[1], after[1])
    except TypeError:
        # A value that is a list or an object cannot be looked up.
        return _by_meaning(before, after)


def _as_sent(layout: Layout, old: Sequence[Cells], new: Sequence[Cells]) -> Difference:
    """Compare rows of one layout, at first by their values as they were sent.

    Raises:
        TypeError: a value is not hashable.
    """
    key_of = _getter(layout, layout.keys)
    old_keys, new_keys = list(map(key_of, old)), list(map(key_of, new))
    gone = dict(zip(old_keys, old, strict=True))
    if len(gone) < len(old) or len(set(new_keys)) < len(new):
        return _by_meaning(*_without_common(layout, old, new))
    added: list[Cells] = []
    pairs: list[tuple[Cells, Cells]] = []
    for key, row in zip(new_keys, new, strict=True):
        was = gone.pop(key, None)
        if was is None:
            added.append(row)
        elif was != row:
            pairs.append((was, row))
    removed = list(gone.values())
    left = [*added, *removed, *(row for _, row in pairs)]
    if not all(_is_verbatim(layout, name, left) for name in layout.keys):
        # Keys that were sent differently may mean the same.
        return _by_meaning(*_without_common(layout, old, new))
    differ = _comparison(layout)
    return Difference(
        added=tuple(map(Row, repeat(layout), added)),
        changed=tuple(
            [_changed(layout, was, row) for was, row in pairs if differ(was, row)]
        ),
        removed=tuple(map(Row, repeat(layout), removed)),
    )


def _changed(layout: Layout, was: Cells, row: Cells) -> ChangedRow:
    return ChangedRow(layout, row, before=Row(layout, was))


def _getter(layout: Layout, names: Iterable[str]) -> Callable[[Cells], Hashable]:
    attributes = [layout.shape.attributes[name] for name in names]
    return attrgetter(*attributes) if attributes else lambda _: None


def _is_verbatim(layout: Layout, name: str, rows: Sequence[Cells]) -> bool:
    kind = layout.kinds[name]
    if kind is str or kind is None:
        return True
    column = list(map(_getter(layout, [name]), rows))
    return is_verbatim(column, kind, layout.zone)


def _without_common(
    layout: Layout, old: Sequence[Cells], new: Sequence[Cells]
) -> tuple[Side, Side]:
    """Leave out pairs of rows that were sent alike."""
    whole = _getter(layout, layout.shape.columns)
    common = Counter(map(whole, old)) & Counter(map(whole, new))

    def rest(rows: Sequence[Cells]) -> Side:
        left = common.copy()
        found: list[Cells] = []
        for row in rows:
            values = whole(row)
            if left[values]:
                left[values] -= 1
            else:
                found.append(row)
        return layout, found

    return rest(old), rest(new)


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
    """Tell whether two texts differ as numbers; ``False`` may mean anything.

    ``Decimal`` takes more than servers may send, but texts that it takes for different
    numbers are not the same one to anybody.
    """
    try:
        return type(one) is type(other) is str and Decimal(one) != Decimal(other)
    except ArithmeticError:
        return False


def _by_meaning(before: Side, after: Side) -> Difference:
    """Compare rows by what their values mean, with several rows to a key.

    Rows of one key that are equal cancel each other; what is left is paired in order of
    the values, because nothing says which row has become which.
    """
    layouts = before[0], after[0]
    keys = sorted({*layouts[0].keys, *layouts[1].keys})
    columns = {*layouts[0].kinds, *layouts[1].kinds}
    values = sorted(columns.difference(keys))
    old, new = _by_key(before, keys, values), _by_key(after, keys, values)
    added: list[int] = []
    changed: list[tuple[int, int]] = []
    removed: list[int] = []
    for key in {**old, **new}:
        olds, news = old.get(key, []), new.get(key, [])
        common = Counter(row for row, _ in olds) & Counter(row for row, _ in news)
        gone, come = _rest(olds, common), _rest(news, common)
        both = min(len(gone), len(come))
        changed += zip(come[:both], gone[:both], strict=True)
        removed += gone[both:]
        added += come[both:]

    def old_row(place: int) -> Row:
        return Row(layouts[0], before[1][place])

    return Difference(
        added=tuple([Row(layouts[1], after[1][place]) for place in sorted(added)]),
        changed=tuple(
            [
                ChangedRow(layouts[1], after[1][place], before=old_row(was))
                for place, was in sorted(changed)
            ]
        ),
        removed=tuple([old_row(place) for place in sorted(removed)]),
    )


Values: TypeAlias = "tuple[Hashable, ...]"
Keyed: TypeAlias = "dict[Values, list[tuple[Values, int]]]"


def _by_key(side: Side, keys: Sequence[str], values: Sequence[str]) -> Keyed:
    """Give the values and the places of the rows of each key."""
    found: Keyed = {}
    rows = zip(_meanings(side, keys), _meanings(side, values), strict=True)
    for place, (key, row) in enumerate(rows):
        found.setdefault(key, []).append((row, place))
    return found


def _meanings(side: Side, names: Sequence[str]) -> list[Values]:
    """Give what the named columns mean; rows may lack some."""
    layout, rows = side
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
