"""Decides whether a watch saw what happened to a table, and only that."""

from __future__ import annotations

import itertools
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ortege_watch import Dimension, Measure, Row, Update

State = dict[str, Decimal]
"""The amount of each row by its key."""


class History:
    """All versions of a table that one writer at a time has made.

    A version is noted before it is written, so that no watch can see an unknown one.
    """

    def __init__(self) -> None:
        self._versions: list[State] = [{}]
        self.written: Counter[str] = Counter()
        """Rows by the kind of the change."""

    @property
    def state(self) -> State:
        """The newest version."""
        return dict(self._versions[-1])

    @property
    def versions(self) -> list[State]:
        """All versions, from the empty table on."""
        return list(self._versions)

    def insert(self, rows: Mapping[str, Decimal]) -> None:
        """Note rows with new keys."""
        assert not rows.keys() & self._versions[-1].keys()
        self._note({**self._versions[-1], **rows}, "inserted", len(rows))

    def update(self, key: str, amount: Decimal) -> None:
        """Note a new amount."""
        assert key in self._versions[-1]
        self._note({**self._versions[-1], key: amount}, "updated", 1)

    def delete(self, keys: Iterable[str]) -> None:
        """Note that rows are gone."""
        gone = set(keys)
        assert gone <= self._versions[-1].keys()
        left = {k: v for k, v in self._versions[-1].items() if k not in gone}
        self._note(left, "deleted", len(gone))

    def _note(self, state: State, kind: str, count: int) -> None:
        self._versions.append(state)
        self.written[kind] += count


@attrs.define
class Verdict:
    """What went wrong with one watch; empty if nothing did.

    Attributes:
        lost: rows of the table that the watch does not have, or has with an old amount.
        extra: rows that the watch has and the table has not.
        twice: rows that were added while they were there, or more often than inserted.
        ghosts: rows that were removed and added again without a deletion.
        wrong: other contradictions, each in a sentence.
    """

    lost: list[str] = attrs.field(factory=list)
    extra: list[str] = attrs.field(factory=list)
    twice: list[str] = attrs.field(factory=list)
    ghosts: list[str] = attrs.field(factory=list)
    wrong: list[str] = attrs.field(factory=list)

    def __bool__(self) -> bool:
        return any(attrs.astuple(self))


class Recorder:
    """Takes the updates of one query of a watch, and rebuilds the table from them.

    Args:
        key: the member that identifies a row.
        amount: its measure.
    """

    def __init__(self, key: Dimension[str], amount: Measure[Decimal]) -> None:
        self._key = key
        self._amount = amount
        self.state: State = {}
        self.results: list[State] = []
        self.updates = self.resumed = 0
        self._added: Counter[str] = Counter()
        self._twice: set[str] = set()
        self._wrong: list[str] = []

    def take(self, update: Update) -> None:
        """Apply an update."""
        number = self.updates
        self.updates += 1
        self.resumed += update.resumed
        if update.first != (number == 0):
            self._wrong.append(f"update {number} has first={update.first}")
        for row in update.removed:
            if self.state.pop(row[self._key], None) is None:
                self._wrong.append(f"{row[self._key]} was removed, but was not there")
        for row in update.changed:
            key, before = self._entry(row)[0], self._entry(row.before)
            if self.state.get(key) != before[1]:
                self._wrong.append(
                    f"{key} was changed from {before[1]}, not its amount"
                )
            self.state[key] = self._entry(row)[1]
        for row in update.added:
            key, amount = self._entry(row)
            self._added[key] += 1
            if key in self.state:
                self._twice.add(key)
            self.state[key] = amount
        result = dict(map(self._entry, update.result))
        if self.state != result:
            self._wrong.append(f"update {number} does not lead to its own result")
        self.results.append(result)

    def judge(self, history: History) -> Verdict:
        """Compare what was taken with what happened.

        Each result must be a version of the table, and none older than the one before.
        Between two results a row may have been deleted and inserted again.
        """
        versions, final = history.versions, history.state
        verdict = Verdict(wrong=list(self._wrong))
        verdict.lost = sorted(k for k, v in final.items() if self.state.get(k) != v)
        verdict.extra = sorted(self.state.keys() - final.keys())
        inserted = _insertions(versions)
        too_often = {k for k, n in self._added.items() if n > inserted[k]}
        verdict.twice = sorted(too_often | self._twice)
        if not self.updates:
            verdict.wrong.append("there was no update")
        place = 0
        for number, result in enumerate(self.results):
            found = next(
                (n for n in range(place, len(versions)) if versions[n] == result), None
            )
            if found is None:
                older = result in versions[:place]
                what = "an older version" if older else "no version of the table"
                verdict.wrong.append(f"update {number} shows {what}")
            else:
                place = found
        verdict.ghosts = self._ghosts(versions)
        return verdict

    def _ghosts(self, versions: list[State]) -> list[str]:
        """Return rows that were removed more often than the table's deletions."""
        deleted = _insertions(versions[::-1])
        for key in versions[-1]:
            deleted[key] -= 1  # reversed, the newest version is an insertion
        removed: Counter[str] = Counter()
        before: State = {}
        for result in self.results:
            removed.update(before.keys() - result.keys())
            before = result
        return sorted(key for key, count in removed.items() if count > deleted[key])

    def _entry(self, row: Row) -> tuple[str, Decimal]:
        return row[self._key], row[self._amount]


def _insertions(versions: list[State]) -> Counter[str]:
    """Count for each key how often it appears in a version and not in the one before."""
    counts: Counter[str] = Counter(versions[0].keys())
    for before, after in itertools.pairwise(versions):
        counts.update(after.keys() - before.keys())
    return counts
