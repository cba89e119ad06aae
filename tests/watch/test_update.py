"""An update as a value: it pickles, copies, compares, and shows itself in short."""

from __future__ import annotations

import copy
import json
import pickle
from datetime import UTC, datetime
from decimal import Decimal

import attrs
import pytest
from watching import QUERY, Events

from ortege_watch import Dimension, Query, Update, _json as codec
from ortege_watch.watch.mailbox import Mailbox

NOW = datetime(2026, 11, 26, tzinfo=UTC)


def updates(*snapshots: dict[str, int], resumed: bool = False) -> list[Update]:
    """Return the update of each snapshot of amounts by sender."""
    box = Mailbox([QUERY], None, server="cube.example")
    taken = []
    for amounts in snapshots:
        data = [
            {Events.sender.name: sender, Events.amount.name: str(amount)}
            for sender, amount in amounts.items()
        ]
        (part,) = codec.decode_body(json.dumps({"data": data}).encode()).parts
        box.put("1", part, resumed=resumed and bool(taken), received_at=NOW)
        taken.append(box.take())
    return taken


EVERY_KIND = {
    "first": updates({"a": 1, "b": 2})[0],
    "empty": updates({})[0],
    "later": updates({"a": 1, "b": 2}, {"a": 3, "c": 4})[1],
    "resumed": updates({"a": 1}, {}, resumed=True)[1],
}


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize(
    "way", [lambda each: pickle.loads(pickle.dumps(each)), copy.copy, copy.deepcopy]
)
def test_an_update_can_be_pickled_and_copied(kind, way):
    update = EVERY_KIND[kind]
    again = way(update)
    assert again == update
    assert hash(again) == hash(update)
    assert again.upserted == update.upserted
    assert [row[Events.amount] for row in again.upserted] == [
        row[Events.amount] for row in update.upserted
    ]
    assert [row.before for row in again.changed] == [
        row.before for row in update.changed
    ]
    assert (again.truncated, again.query) == (update.truncated, QUERY)
    assert (again.first, again.resumed) == (update.first, update.resumed)
    assert again.received_at == NOW
    assert repr(again) == repr(update)


def test_rows_of_a_pickled_update_are_typed():
    update = pickle.loads(pickle.dumps(EVERY_KIND["later"]))
    (changed,) = update.changed
    assert changed[Events.amount] == Decimal(3)
    assert changed.before[Events.amount] == Decimal(1)
    assert [row[Events.sender] for row in update.added] == ["c"]
    assert [row[Events.sender] for row in update.removed] == ["b"]


def test_different_updates_are_not_equal():
    values = list(EVERY_KIND.values())
    assert [values.index(each) for each in values] == [0, 1, 2, 3]


def test_an_update_of_everything_is_pickled_in_about_twice_its_bytes():
    (update,) = updates({f"SP{number:030}": number for number in range(1000)})
    assert len(pickle.dumps(update)) < 2 * len(update.result.raw)


def test_an_update_shows_its_counts_and_its_result():
    update = EVERY_KIND["later"]
    assert repr(update) == (
        "<Update added=1 changed=1 removed=1 rows=2 query"
        f" [{QUERY.measures[0].name}, {QUERY.dimensions[0].name}]>"
    )
    assert repr(EVERY_KIND["first"]).startswith("<Update first added=2 changed=0 rem")
    assert repr(EVERY_KIND["resumed"]).startswith("<Update resumed added=0 changed=0 ")
    (large,) = updates({f"SP{number}": number for number in range(5000)})
    assert len(repr(large)) <= 200
    wide = Query(dimensions=[Dimension(f"events.{n}{'x' * 90}") for n in "abcd"])
    assert len(repr(attrs.evolve(large, query=wide))) == 200
