"""The oracle accepts what happened, and finds each kind of error."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from injection.oracle import History, Recorder
from injection.servers import AMOUNT, KEY, rows_of

from ortege_watch import Update, _json as codec
from ortege_watch.results import Result
from ortege_watch.results.diff import difference

QUERY = rows_of("SPX")


class Feed:
    """Makes the updates of a watch out of snapshots, as a watch does."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._last: Result | None = None
        self.recorder = Recorder(KEY, AMOUNT)

    def result(self, state: dict[str, int]) -> Result:
        rows = [{KEY.name: k, AMOUNT.name: str(v)} for k, v in state.items()]
        body = json.dumps({"data": rows}).encode()
        return Result(codec.decode_body(body).parts[0], QUERY)

    def update(self, *, first: bool, **changes) -> None:
        empty = {"added": (), "changed": (), "removed": ()}
        plain = {"resumed": False, "stale": False, **empty}
        now = datetime(2026, 11, 26, tzinfo=UTC)
        self.recorder.take(
            Update(query=QUERY, first=first, received_at=now, **{**plain, **changes})
        )

    def show(self, **state: int) -> None:
        """Deliver a snapshot with its true differences."""
        result, last = self.result(state), self._last
        found = difference(last, result)
        self._last = result
        self.update(
            first=last is None,
            result=result,
            added=found.added,
            changed=found.changed,
            removed=found.removed,
        )

    def verdict(self):
        return self.recorder.judge(self._history)


@pytest.fixture
def feed() -> Feed:
    """A table with the versions: a; a b; a b*; b*; b* c; a b* c."""
    history = History()
    history.insert({"a": Decimal(1)})
    history.insert({"b": Decimal(2)})
    history.update("b", Decimal(3))
    history.delete(["a"])
    history.insert({"c": Decimal(4)})
    history.insert({"a": Decimal(1)})
    assert history.written == {"inserted": 4, "updated": 1, "deleted": 1}
    return Feed(history)


def test_every_version_in_turn_is_right(feed):
    feed.show(a=1)
    feed.show(a=1, b=2)
    feed.show(a=1, b=3)
    feed.show(b=3)
    feed.show(b=3, c=4)
    feed.show(a=1, b=3, c=4)
    assert not feed.verdict()


def test_versions_may_be_skipped(feed):
    feed.show()
    feed.show(a=1, b=2)
    feed.show(a=1, b=3, c=4)
    assert not feed.verdict()


def test_a_watch_without_updates_is_wrong(feed):
    verdict = feed.verdict()
    assert verdict.wrong == ["there was no update"]
    assert verdict.lost == ["a", "b", "c"]


def test_rows_are_lost_or_outdated(feed):
    feed.show(a=1, b=2)
    verdict = feed.verdict()
    assert (verdict.lost, verdict.extra) == (["b", "c"], [])
    assert (verdict.twice, verdict.ghosts, verdict.wrong) == ([], [], [])


def test_a_row_that_is_gone_is_extra():
    history = History()
    history.insert({"a": Decimal(1), "b": Decimal(2)})
    history.delete(["b"])
    feed = Feed(history)
    feed.show(a=1, b=2)
    assert feed.verdict().extra == ["b"]


def test_a_row_that_was_removed_and_added_without_a_deletion_is_a_ghost(feed):
    feed.show(a=1, b=2)
    feed.show(a=1)
    feed.show(a=1, b=3)
    feed.show(a=1, b=3, c=4)
    verdict = feed.verdict()
    assert verdict.ghosts == ["b"]
    assert verdict.twice == ["b"]
    assert verdict.wrong == ["update 1 shows an older version"]


def test_one_deletion_does_not_excuse_two_removals(feed):
    feed.show(a=1, b=3)
    feed.show(b=3)
    feed.show(a=1, b=3)
    feed.show(b=3)
    feed.show(a=1, b=3, c=4)
    verdict = feed.verdict()
    assert verdict.ghosts == ["a"]
    assert verdict.twice == ["a"]


def test_all_rows_added_again_after_an_outage_are_twice(feed):
    feed.show(a=1, b=3)
    result = feed.result({"a": 1, "b": 3, "c": 4})
    feed.update(first=False, resumed=True, result=result, added=tuple(result))
    verdict = feed.verdict()
    assert verdict.twice == ["a", "b"]
    assert verdict.lost == []


def test_a_second_first_update_is_wrong(feed):
    feed.show(a=1)
    result = feed.result({"a": 1, "b": 3, "c": 4})
    feed.update(first=True, result=result, added=tuple(result)[1:])
    assert feed.verdict().wrong == ["update 1 has first=True"]


def test_differences_that_do_not_lead_to_the_result_are_wrong(feed):
    feed.show(a=1)
    feed.update(first=False, result=feed.result({"a": 1, "b": 3, "c": 4}))
    verdict = feed.verdict()
    assert verdict.wrong == ["update 1 does not lead to its own result"]
    assert verdict.lost == ["b", "c"]


def test_the_removal_of_a_row_that_is_not_there_is_wrong(feed):
    feed.show()
    final = feed.result({"a": 1, "b": 3, "c": 4})
    other = feed.result({"z": 1})
    feed.update(first=False, result=final, added=tuple(final), removed=tuple(other))
    assert feed.verdict().wrong == ["z was removed, but was not there"]


def test_a_mixture_of_two_versions_is_wrong(feed):
    feed.show(a=1, c=4)
    feed.show(a=1, b=3, c=4)
    assert feed.verdict().wrong == ["update 0 shows no version of the table"]


def test_an_older_version_after_a_newer_one_is_wrong(feed):
    feed.show(a=1, b=3)
    feed.show(a=1, b=2)
    feed.show(a=1, b=3, c=4)
    verdict = feed.verdict()
    assert verdict.wrong == ["update 1 shows an older version"]
    assert (verdict.lost, verdict.ghosts, verdict.twice) == ([], [], [])
