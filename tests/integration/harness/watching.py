"""What the tests of subscriptions share: the query they watch, and how they count."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from harness.members import Events

from ortege_watch import Query

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.ledger import Ledger

    from ortege_watch import Row, Update


def rows_of(ledger: Ledger) -> Query:
    """Return the query for every row of a ledger and what each of them moves."""
    return Query(
        measures=[Events.asset_amount],
        dimensions=[Events.tx_hash],
        where=[Events.contract_id.eq(ledger.contract_id)],
    )


def hashes(rows: Iterable[Row]) -> list[str]:
    """Return which rows these are, in order."""
    return sorted(row[Events.tx_hash] for row in rows)


class Arrivals:
    """Count how often each row has arrived as ``added``.

    Attributes:
        counts: by ``tx_hash``.
        resumed: updates that were the first after an outage.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.resumed = 0

    def take(self, update: Update) -> None:
        """Count an update of rows that are only ever inserted."""
        assert update.changed == ()
        assert update.removed == ()
        self.counts.update(hashes(update.added))
        self.resumed += update.resumed

    def have(self, expected: Iterable[str]) -> bool:
        """Tell whether all of these have arrived, at least once."""
        return self.counts.keys() >= set(expected)
