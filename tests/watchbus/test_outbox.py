from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from driving import alert
from hypothesis import given
from hypothesis import strategies as st

from ortege_watch import InvalidArgument, OrtegeWatchError
from ortege_watch.watchbus import (
    Outbox,
    OutboxFull,
    RejectedAlert,
    SQLiteNonces,
    WatchBusError,
    WireStyle,
)
from ortege_watch.watchbus.posting import Delivered, Turn, prepare

STYLE = WireStyle()


def ready(*numbers):
    return prepare([alert(number) for number in numbers], "app", STYLE)


def numbers(box):
    return [int(each.event_values["block_number"]) for each in box.waiting()]


def sent(*items):
    return Delivered(tuple(items), (), None)


def refused(*items, reason="too old"):
    error = WatchBusError("no", code="000099", reason=reason, status=200)
    return Delivered((), tuple((each, error) for each in items), None)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "alerts.sqlite3"


@pytest.fixture
def box(path):
    with Outbox(path) as box:
        yield box


def test_alerts_wait_in_order_across_restarts(path):
    with Outbox(path) as box:
        box.accept(ready(3, 1))
        box.accept(ready(2))
        assert len(box) == 3
    with Outbox(str(path)) as box:
        assert numbers(box) == [3, 1, 2]
        assert [each.alert for each in box.first(2)] == box.waiting()[:2]


def test_what_was_sent_is_forgotten(box):
    items = ready(1, 2, 3)
    box.accept(items)
    first, second, third = box.first(9)
    box.settle(sent(first, third))
    assert box.first(9) == [second]
    assert [each.key for each in box.still(items)] == [second.key]


def test_what_waits_already_is_not_taken_twice(box):
    box.accept(ready(1, 2))
    box.accept(ready(2, 3))
    assert numbers(box) == [1, 2, 3]


def test_what_was_sent_may_be_published_again(box):
    box.accept(ready(1))
    box.settle(sent(*box.first(1)))
    box.accept(ready(1))
    assert numbers(box) == [1]


def test_what_was_refused_is_set_aside_with_its_reason(path):
    with Outbox(path) as box:
        box.accept(ready(1, 2))
        box.settle(refused(box.first(1)[0]))
        assert numbers(box) == [2]
    with Outbox(path) as box:
        [found] = box.rejected()
        assert (found.reason, found.code, found.status) == ("too old", "000099", 200)
        assert found.alert.event_values["block_number"] == "1"
        assert isinstance(found, RejectedAlert)


def test_what_was_set_aside_can_be_sent_again(box):
    box.accept(ready(1, 2, 3))
    box.settle(refused(*box.first(2)))
    assert box.requeue() == 2
    assert numbers(box) == [3, 1, 2]
    assert box.rejected() == []


def test_what_was_set_aside_can_be_forgotten(box):
    box.accept(ready(1, 2))
    box.settle(refused(*box.first(2)))
    assert box.discard_rejected() == 2
    assert box.rejected() == []
    assert len(box) == 0


def test_what_is_published_again_is_not_set_aside_any_more(box):
    box.accept(ready(1))
    box.settle(refused(*box.first(1)))
    box.accept(ready(1))
    assert box.rejected() == []
    box.settle(refused(*box.first(1), reason="still too old"))
    assert [each.reason for each in box.rejected()] == ["still too old"]


def test_a_full_outbox_takes_all_or_none(path):
    with Outbox(path, limit=3) as box:
        box.accept(ready(1, 2))
        with pytest.raises(OutboxFull, match="3 alerts wait"):
            box.accept(ready(3, 4))
        assert numbers(box) == [1, 2]
        box.accept(ready(2, 3))
        assert numbers(box) == [1, 2, 3]


def test_what_is_set_aside_is_bounded_too(path):
    with Outbox(path, limit=3) as box:
        for number in range(5):
            box.accept(ready(number))
            box.settle(refused(*box.first(1), reason=str(number)))
        assert [each.reason for each in box.rejected()] == ["2", "3", "4"]


def test_there_may_be_no_room_for_what_was_set_aside(path):
    with Outbox(path, limit=2) as box:
        box.accept(ready(1))
        box.settle(refused(*box.first(1)))
        box.accept(ready(2, 3))
        with pytest.raises(OutboxFull):
            box.requeue()
        assert len(box.rejected()) == 1
        assert numbers(box) == [2, 3]


@pytest.mark.parametrize("path", ["", ":memory:", "file::memory:?cache=shared"])
def test_what_forgets_is_no_outbox(path):
    with pytest.raises(InvalidArgument, match="path"):
        Outbox(path)


@pytest.mark.parametrize("limit", [0, -1, True, 2.0, None])
def test_what_is_no_limit_is_refused(path, limit):
    with pytest.raises(InvalidArgument, match="limit"):
        Outbox(path, limit=limit)
    assert not path.exists()


def test_a_file_that_cannot_be_used(tmp_path):
    with pytest.raises(OrtegeWatchError, match="cannot be used") as caught:
        Outbox(tmp_path / "nowhere" / "alerts.sqlite3")
    assert isinstance(caught.value.__cause__, sqlite3.Error)
    other = tmp_path / "text"
    other.write_text("this is no database, but a text of some length" * 9)
    with pytest.raises(OrtegeWatchError, match="cannot be used"):
        Outbox(other)


def test_a_closed_outbox(box):
    box.close()
    for use in (
        box.__len__,
        box.waiting,
        box.rejected,
        box.requeue,
        lambda: box.begin_sending(Turn()),
        lambda: box.accept(ready(1)),
    ):
        with pytest.raises(OrtegeWatchError, match="cannot be used"):
            use()


def test_its_repr(box, path):
    assert repr(box) == f"Outbox({str(path)!r})"


def test_the_last_alert_is_on_the_disk_when_it_is_accepted(box):
    assert box._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert box._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# ---------------------------------------------------------------------- several senders
def test_one_sends_at_a_time_and_all_may_accept(path):
    mine, theirs = Turn(), Turn()
    with Outbox(path) as one, Outbox(path) as other:
        assert one.begin_sending(mine)
        assert not one.begin_sending(Turn())
        assert not other.begin_sending(theirs)
        other.accept(ready(1))
        assert numbers(one) == [1]
        one.end_sending(mine)
        assert other.begin_sending(theirs)
        assert not one.begin_sending(Turn())
        other.end_sending(theirs)


def test_nobody_gives_away_another_one_s_turn(box):
    mine, other = Turn(), Turn()
    assert box.begin_sending(mine)
    box.end_sending(other)
    assert not box.begin_sending(Turn())
    box.end_sending(mine)
    assert box.begin_sending(Turn())


def test_a_turn_that_was_given_away_is_not_taken_late(box):
    late = Turn()
    box.end_sending(late)
    assert not box.begin_sending(late)
    assert box.begin_sending(Turn())


def test_closing_gives_the_turn_away(path):
    with Outbox(path) as one:
        assert one.begin_sending(Turn())
    with Outbox(path) as other:
        assert other.begin_sending(Turn())


def test_threads_may_accept_at_once(path):
    with Outbox(path) as box, Outbox(path) as other:

        def work(box, start):
            for number in range(start, start + 20):
                box.accept(ready(number))

        threads = [
            threading.Thread(target=work, args=(each, start))
            for each, start in ((box, 0), (box, 100), (other, 200))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = numbers(other)
        assert len(found) == 60
        for start in (0, 100, 200):
            mine = [n for n in found if start <= n < start + 100]
            assert mine == sorted(mine)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("accept"), st.lists(st.integers(0, 9), min_size=1)),
            st.tuples(st.sampled_from(["sent", "refused"]), st.integers(1, 4)),
            st.tuples(st.just("requeue"), st.none()),
            st.tuples(st.just("reopen"), st.none()),
        ),
        max_size=15,
    )
)
def test_nothing_is_lost_and_nothing_is_there_twice(tmp_path_factory, steps):
    """As a list and a set, whatever happens in whatever order."""
    path = Path(tmp_path_factory.mktemp("outbox")) / "alerts.sqlite3"
    waiting, aside = [], []
    box = Outbox(path)
    for step, what in steps:
        match step:
            case "accept":
                box.accept(ready(*what))
                aside = [each for each in aside if each not in what]
                waiting += [n for n in dict.fromkeys(what) if n not in waiting]
            case "sent":
                box.settle(sent(*box.first(what)))
                waiting = waiting[what:]
            case "refused":
                box.settle(refused(*box.first(what)))
                aside += waiting[:what]
                waiting = waiting[what:]
            case "requeue":
                box.requeue()
                waiting, aside = waiting + aside, []
            case "reopen":
                box.close()
                box = Outbox(path)
        assert numbers(box) == waiting
        found = [
            int(each.alert.event_values["block_number"]) for each in box.rejected()
        ]
        assert found == aside
    box.close()


@pytest.mark.parametrize("kind", [Outbox, SQLiteNonces])
def test_one_new_file_may_be_opened_by_many_at_the_same_moment(tmp_path, kind):
    for number in range(40):
        together = threading.Barrier(8)

        def open_file(path=tmp_path / str(number), together=together):
            together.wait(timeout=30)
            return kind(path)

        with ThreadPoolExecutor(8) as pool:
            opening = [pool.submit(open_file) for _ in range(8)]
        for each in opening:
            each.result().close()
