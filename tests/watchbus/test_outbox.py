from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from driving import alert
from hypothesis import given, strategies as st

from ortege_watch import InvalidArgument, OrtegeWatchError
from ortege_watch.watchbus import (
    DeadLetter,
    Outbox,
    OutboxFull,
    SQLiteNonces,
    WatchBusError,
    WireStyle,
)
from ortege_watch.watchbus.outbox import queue_of
from ortege_watch.watchbus.sending import BatchResults, SendLease, prepare_alerts

STYLE = WireStyle()


def ready(*numbers):
    return prepare_alerts([alert(number) for number in numbers], "app", STYLE)


def numbers(box):
    return [int(each.alert.event_values["block_number"]) for each in box.waiting()]


def first(box, limit):
    """Return the alerts that are sent next, as a sender gets them."""
    lease = SendLease()
    batch = queue_of(box).begin_sending(lease, limit)
    queue_of(box).end_sending(lease)
    return batch


def take(box, lease=None):
    """Return whether the lease could be taken."""
    return queue_of(box).begin_sending(lease or SendLease(), 1) is not None


def sent(*items):
    return BatchResults(sent=list(items))


def why(reason="too old", status=200, retry_after=None):
    error = WatchBusError(reason, code="000099", reason=reason, status=status)
    error.retry_after = retry_after
    return error


def rejected(*items, reason="too old"):
    return BatchResults(rejected=[(each, why(reason)) for each in items])


def failed(*items, **details):
    return BatchResults(failed=[(each, why(status=500, **details)) for each in items])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "alerts.sqlite3"


@pytest.fixture
def box(path):
    with Outbox(path) as box:
        yield box


def test_alerts_stay_queued_in_order_across_restarts(path):
    with Outbox(path) as box:
        queue_of(box).accept(ready(3, 1))
        queue_of(box).accept(ready(2))
        assert len(box) == 3
    with Outbox(str(path)) as box:
        assert numbers(box) == [3, 1, 2]
        assert [each.alert for each in first(box, 2)] == [
            each.alert for each in box.waiting()
        ][:2]


def test_sent_alerts_are_removed_and_the_next_are_returned(box):
    items = ready(1, 2, 3)
    queue_of(box).accept(items)
    one, two, three = first(box, 9)
    following, done = queue_of(box).resolve(sent(one, three), 9)
    assert (following, done.dead) == ([two], [])
    assert first(box, 9) == [two]
    assert queue_of(box).look_up(items) == ([items[1]], [])


def test_of_many_alerts_each_is_queued_once_and_in_order(box):
    queue_of(box).accept(ready(*range(20, 30)))
    queue_of(box).accept(ready(*range(137)))
    assert numbers(box) == [*range(20, 30), *range(20), *range(30, 137)]


def test_the_limit_counts_alerts_and_not_their_numbers(path):
    with Outbox(path, limit=3) as box:
        queue_of(box).accept(ready(1, 2, 3))
        queue_of(box).resolve(sent(first(box, 3)[1]), 9)
        queue_of(box).accept(ready(4))
        assert numbers(box) == [1, 3, 4]
        with pytest.raises(OutboxFull, match="would hold 4"):
            queue_of(box).accept(ready(5))


def test_a_queued_alert_is_not_queued_twice(box):
    queue_of(box).accept(ready(1, 2))
    queue_of(box).accept(ready(2, 3))
    assert numbers(box) == [1, 2, 3]


def test_a_sent_alert_may_be_accepted_again(box):
    queue_of(box).accept(ready(1))
    queue_of(box).resolve(sent(*first(box, 1)), 9)
    queue_of(box).accept(ready(1))
    assert numbers(box) == [1]


def test_a_rejected_alert_is_kept_with_its_reason(path):
    with Outbox(path) as box:
        queue_of(box).accept(ready(1, 2))
        queue_of(box).resolve(rejected(first(box, 1)[0]), 9)
        assert numbers(box) == [2]
    with Outbox(path) as box:
        [found] = box.dead
        assert (found.reason, found.code, found.status) == ("too old", "000099", 200)
        assert found.alert.event_values["block_number"] == "1"
        assert isinstance(found, DeadLetter)


def test_rejected_alerts_can_be_queued_again(box):
    queue_of(box).accept(ready(1, 2, 3))
    queue_of(box).resolve(rejected(*first(box, 2)), 9)
    assert box.requeue() == 2
    assert numbers(box) == [3, 1, 2]
    assert box.dead == []


def test_rejected_alerts_can_be_deleted(box):
    queue_of(box).accept(ready(1, 2))
    queue_of(box).resolve(rejected(*first(box, 2)), 9)
    assert box.forget() == 2
    assert box.dead == []
    assert len(box) == 0


def test_an_alert_that_is_accepted_again_is_not_rejected_any_more(box):
    queue_of(box).accept(ready(1))
    queue_of(box).resolve(rejected(*first(box, 1)), 9)
    queue_of(box).accept(ready(1))
    assert box.dead == []
    queue_of(box).resolve(rejected(*first(box, 1), reason="still too old"), 9)
    assert [each.reason for each in box.dead] == ["still too old"]


def test_a_full_outbox_takes_all_or_none(path):
    with Outbox(path, limit=3) as box:
        queue_of(box).accept(ready(1, 2))
        with pytest.raises(OutboxFull, match="may hold 3 alerts"):
            queue_of(box).accept(ready(3, 4))
        assert numbers(box) == [1, 2]
        queue_of(box).accept(ready(2, 3))
        assert numbers(box) == [1, 2, 3]


def test_the_number_of_rejected_alerts_is_limited(path):
    with Outbox(path, limit=3) as box:
        for number in range(5):
            queue_of(box).accept(ready(number))
            queue_of(box).resolve(rejected(*first(box, 1), reason=str(number)), 9)
        assert [each.reason for each in box.dead] == ["2", "3", "4"]


def test_rejected_alerts_need_room_to_be_queued_again(path):
    with Outbox(path, limit=2) as box:
        queue_of(box).accept(ready(1))
        queue_of(box).resolve(rejected(*first(box, 1)), 9)
        queue_of(box).accept(ready(2, 3))
        with pytest.raises(OutboxFull):
            box.requeue()
        assert len(box.dead) == 1
        assert numbers(box) == [2, 3]


def test_an_old_dead_letter_is_not_deleted_because_of_gaps_in_the_numbers(path):
    """A dead letter that dies again has a new number."""
    with Outbox(path, limit=3) as box:
        for number in (0, 1, 2, 2, 2, 2):
            queue_of(box).accept(ready(number))
            # As by a sender that has not seen that it was accepted again.
            queue_of(box).resolve(rejected(*ready(number)), 9)
        assert len(box.dead) == 3


def test_deleting_the_oldest_dead_letters_is_logged(path, caplog):
    with Outbox(path, limit=2) as box:
        for number in range(3):
            queue_of(box).accept(ready(number))
            queue_of(box).resolve(rejected(*first(box, 1)), 9)
    assert "more than 2 dead letters: the oldest 1 were deleted" in caplog.text


def test_some_dead_letters_can_be_queued_again_or_deleted(box):
    queue_of(box).accept(ready(1, 2, 3))
    queue_of(box).resolve(rejected(*first(box, 3)), 9)
    one, two, _ = box.dead
    assert box.requeue([two]) == 1
    assert numbers(box) == [2]
    assert box.forget([one, two]) == 1
    assert [numbered(each) for each in box.dead] == [3]
    assert (box.requeue([]), box.forget([])) == (0, 0)


def numbered(letter):
    return int(letter.alert.event_values["block_number"])


@pytest.fixture
def timed(path, clock):
    with Outbox(path, now=clock, max_attempts=4, max_age=1000.0) as box:
        yield box


def test_a_failed_alert_is_sent_again_later_and_delays_no_others(timed, clock):
    queue_of(timed).accept(ready(1, 2))
    one, two = first(timed, 9)
    following, done = queue_of(timed).resolve(failed(one), 9)
    assert (following, done.dead) == ([two], [])
    assert queue_of(timed).is_due()
    queue_of(timed).resolve(sent(two), 9)
    [one] = first(timed, 9)  # at once: the server works
    queue_of(timed).resolve(failed(one), 9)
    assert (first(timed, 9), queue_of(timed).is_due()) == ([], False)
    assert (len(timed), numbers(timed)) == (1, [1])
    clock.now += 4.9
    assert not queue_of(timed).is_due()
    clock.now += 0.2
    assert queue_of(timed).is_due()
    [again] = first(timed, 9)
    assert (again, again.attempts) == (one, 1)


def test_a_retry_after_makes_the_delay_longer_but_not_endless(timed, clock):
    queue_of(timed).accept(ready(1))
    queue_of(timed).resolve(failed(*first(timed, 1), retry_after=9999.0), 9)
    clock.now += 299.0
    assert not queue_of(timed).is_due()
    clock.now += 2.0
    assert queue_of(timed).is_due()


def fail_until_dead(box, clock, step):
    for attempts in range(1, 20):
        queue_of(box).accept(ready(1000 + attempts))
        queue_of(box).resolve(sent(*first(box, 1)), 9)  # what has failed is behind it
        [alert] = first(box, 1)
        _, done = queue_of(box).resolve(failed(alert), 9)
        if done.dead:
            return attempts
        clock.now += step
    return None


def test_after_its_last_attempt_an_alert_is_a_dead_letter(path, timed, clock):
    queue_of(timed).accept(ready(1, 2))
    queue_of(timed).resolve(sent(first(timed, 2)[1]), 9)
    queue_of(timed).resolve(failed(*first(timed, 1)), 9)
    clock.now += 6
    assert fail_until_dead(timed, clock, 200.0) == 4
    assert len(timed) == 0
    timed.close()
    with Outbox(path) as box:
        [letter] = box.dead
        assert (letter.reason, letter.code, letter.status) == ("too old", "000099", 500)
        assert (letter.attempts, letter.time) == (4, clock.now)
        assert box.requeue() == 1
        assert first(box, 1)[0].attempts == 0


def test_an_alert_that_fails_at_its_last_age_is_a_dead_letter(timed, clock):
    queue_of(timed).accept(ready(1))
    clock.now += 999.0
    assert queue_of(timed).resolve(failed(*first(timed, 1)), 9)[1].dead == []
    clock.now += 6.0
    assert len(queue_of(timed).resolve(failed(*first(timed, 1)), 9)[1].dead) == 1


def test_age_alone_gives_no_alert_up(timed, clock):
    """In an outage, nothing fails but the server."""
    queue_of(timed).accept(ready(1))
    clock.now += 1e6
    assert first(timed, 1)


def test_a_clock_that_is_set_back_delays_no_alert_for_long(timed, clock):
    queue_of(timed).accept(ready(1))
    queue_of(timed).resolve(failed(*first(timed, 1)), 9)
    clock.now -= 10 * 86_400
    assert queue_of(timed).is_due()


@pytest.mark.parametrize(
    "settings",
    [{"max_attempts": 0}, {"max_attempts": 1.5}, {"max_age": 0}, {"max_age": "1"}],
)
def test_an_invalid_redelivery_is_refused(path, settings):
    [name] = settings
    with pytest.raises(InvalidArgument, match=f"^{name} must be"):
        Outbox(path, **settings)
    assert not path.exists()


@pytest.mark.parametrize("path", ["", ":memory:", "file::memory:?cache=shared"])
def test_an_outbox_in_memory_is_refused(path):
    with pytest.raises(InvalidArgument, match="path"):
        Outbox(path)


@pytest.mark.parametrize("limit", [0, -1, True, 2.0, None])
def test_an_invalid_limit_is_refused(path, limit):
    with pytest.raises(InvalidArgument, match="limit"):
        Outbox(path, limit=limit)
    assert not path.exists()


def test_a_file_that_cannot_be_used(tmp_path):
    with pytest.raises(OrtegeWatchError, match="cannot use the outbox") as caught:
        Outbox(tmp_path / "nowhere" / "alerts.sqlite3")
    assert isinstance(caught.value.__cause__, sqlite3.Error)
    assert str(caught.value).endswith(
        "; create its folder, or allow this process to write there"
    )
    other = tmp_path / "text"
    other.write_text("this is no database, but a text of some length" * 9)
    with pytest.raises(OrtegeWatchError, match="cannot use the outbox") as caught:
        Outbox(other)
    assert str(caught.value).endswith("; use another path")


def test_a_closed_outbox(box):
    box.close()
    for use in (
        box.__len__,
        box.waiting,
        lambda: box.dead,
        box.forget,
        queue_of(box).is_due,
        box.requeue,
        lambda: queue_of(box).begin_sending(SendLease(), 1),
        lambda: queue_of(box).accept(ready(1)),
    ):
        with pytest.raises(OrtegeWatchError, match="cannot use the outbox"):
            use()


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_file_that_was_deleted_accepts_nothing(path, tmp_path, is_replaced):
    """What is written to it would be lost when the last process closes it."""
    with Outbox(path) as box:
        queue_of(box).accept(ready(1, 2))
        queue_of(box).resolve(rejected(first(box, 1)[0]), 9)
        for each in path.parent.glob(f"{path.name}*"):
            each.unlink()
        if is_replaced:
            Outbox(path).close()
        with pytest.raises(
            OrtegeWatchError, match=r"deleted or replaced.*none of these 1"
        ):
            queue_of(box).accept(ready(3))
        with pytest.raises(
            OrtegeWatchError, match=r"deleted or replaced.*open the outbox again"
        ):
            box.requeue()
        assert (numbers(box), len(box.dead)) == ([2], 1)  # they can still be sent
        with Outbox(path) as other:
            queue_of(other).accept(ready(3))
            assert numbers(other) == [3]


@pytest.mark.parametrize("is_link", [False, True])
@pytest.mark.parametrize("deleted", [["-wal"], ["-shm"], ["-wal", "-shm"]])
def test_a_file_beside_the_outbox_that_was_deleted_accepts_nothing(
    path, tmp_path, deleted, is_link
):
    """SQLite writes to the deleted one, and nobody reads it after a kill."""
    used = path
    if is_link:
        (tmp_path / "links").mkdir()
        used = tmp_path / "links" / "outbox.db"
        used.symlink_to(path)
    with Outbox(used) as box:
        queue_of(box).accept(ready(1))
        for ending in deleted:
            path.with_name(path.name + ending).unlink()
        problem = rf"{deleted[0]}' was deleted or replaced.*none of these 1.*open"
        with pytest.raises(OrtegeWatchError, match=problem):
            queue_of(box).accept(ready(2))
        assert numbers(box) == [1]
    with Outbox(used) as again:  # closing it has kept what was accepted before
        assert numbers(again) == [1]
        queue_of(again).accept(ready(2))
        assert numbers(again) == [1, 2]


def test_the_working_directory_may_change(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Outbox("alerts.sqlite3") as box:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        queue_of(box).accept(ready(1))
        assert numbers(box) == [1]


def test_its_repr(box, path):
    assert repr(box) == f"Outbox({str(path)!r})"


def test_the_last_alert_is_on_the_disk_when_it_is_accepted(box):
    queue_of(box).accept(ready(1))
    queue_of(box).resolve(sent(*first(box, 1)), 9)  # which may wait for a later one
    assert queue_of(box)._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert queue_of(box)._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_one_sends_at_a_time_and_all_may_accept(path):
    mine, theirs = SendLease(), SendLease()
    with Outbox(path) as one, Outbox(path) as other:
        assert take(one, mine)
        assert not take(one)
        assert not take(other, theirs)
        queue_of(other).accept(ready(1))
        assert numbers(one) == [1]
        queue_of(one).end_sending(mine)
        assert take(other, theirs)
        assert not take(one)
        queue_of(other).end_sending(theirs)


def test_what_another_process_has_sent_meanwhile_is_not_sent_again(path):
    with Outbox(path) as one, Outbox(path) as other:
        queue_of(one).accept(ready(1, 2))
        queue_of(other).resolve(sent(*first(other, 1)), 9)
        [left] = first(one, 9)
        assert left.alert == alert(2)
        queue_of(one).resolve(sent(left), 9)
        assert len(other) == 0


def test_alerts_are_sent_in_order_whoever_accepts_more_meanwhile(path):
    """Those that were just accepted are in memory, the others are not."""
    lease = SendLease()
    with Outbox(path) as one, Outbox(path) as other:
        queue, order = queue_of(one), []
        queue.accept(ready(1, 2, 3))
        batch = queue.begin_sending(lease, 2)
        queue_of(other).accept(ready(4))
        queue.accept(ready(5, 1))
        while batch:
            order += [int(each.alert.event_values["block_number"]) for each in batch]
            batch, _ = queue.resolve(sent(*batch), 2)
        assert order == [1, 2, 3, 4, 5]
        assert len(one) == 0


def test_an_alert_that_fails_is_the_only_one_that_stays(box, clock):
    queue_of(box).accept(ready(1, 2, 3, 4))
    one, two, three, four = first(box, 9)
    results = BatchResults(sent=[one, three, four], failed=[(two, why(status=500))])
    queue_of(box).resolve(results, 9)
    assert numbers(box) == [2]


def test_completion_shows_what_is_for_users(box):
    assert {name for name in dir(box) if not name.startswith("_")} == {
        *("close", "dead", "forget", "forget_bus", "limit", "path", "requeue"),
        *("retry_now", "waiting"),
    }


def test_no_one_releases_the_lease_of_another(box):
    mine, other = SendLease(), SendLease()
    assert take(box, mine)
    queue_of(box).end_sending(other)
    assert not take(box)
    queue_of(box).end_sending(mine)
    assert take(box)


def test_a_released_lease_cannot_be_taken_late(box):
    late = SendLease()
    queue_of(box).end_sending(late)
    assert not take(box, late)
    assert take(box)


def test_closing_releases_the_lease(path):
    with Outbox(path) as one:
        assert take(one)
    with Outbox(path) as other:
        assert take(other)


def test_releasing_the_lease_does_not_wait_for_a_transaction(path):
    """An event loop releases it, while a thread may wait for another process."""
    lease = SendLease()
    with Outbox(path) as box:
        assert take(box, lease)
        releasing = threading.Thread(target=queue_of(box).end_sending, args=(lease,))
        with queue_of(box)._guard:
            releasing.start()
            releasing.join(timeout=10)
            assert not releasing.is_alive()
        assert take(box)


def test_threads_may_accept_at_once(path):
    with Outbox(path) as box, Outbox(path) as other:

        def work(box, start):
            for number in range(start, start + 20):
                queue_of(box).accept(ready(number))

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
            st.tuples(st.sampled_from(["sent", "rejected"]), st.integers(1, 4)),
            st.tuples(st.just("requeue"), st.none()),
            st.tuples(st.just("reopen"), st.none()),
        ),
        max_size=15,
    )
)
def test_no_alert_is_lost_and_none_is_there_twice(tmp_path_factory, steps):
    """As a list and a set, whatever happens in whatever order."""
    path = Path(tmp_path_factory.mktemp("outbox")) / "alerts.sqlite3"
    waiting, refused = [], []
    box = Outbox(path)
    for step, what in steps:
        match step:
            case "accept":
                queue_of(box).accept(ready(*what))
                refused = [each for each in refused if each not in what]
                waiting += [n for n in dict.fromkeys(what) if n not in waiting]
            case "sent":
                queue_of(box).resolve(sent(*first(box, what)), 9)
                waiting = waiting[what:]
            case "rejected":
                queue_of(box).resolve(rejected(*first(box, what)), 9)
                refused += waiting[:what]
                waiting = waiting[what:]
            case "requeue":
                box.requeue()
                waiting, refused = waiting + refused, []
            case "reopen":
                box.close()
                box = Outbox(path)
        assert numbers(box) == waiting
        found = [int(each.alert.event_values["block_number"]) for each in box.dead]
        assert found == refused
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
