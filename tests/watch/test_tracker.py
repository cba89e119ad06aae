"""What reaches the caller, whatever the connection does."""

from __future__ import annotations

from hypothesis import given, strategies as st

from ortege_watch import _json as codec
from ortege_watch._http.statuses import api_error
from ortege_watch.errors import DecodeError
from ortege_watch.query.added_keys import AddedKeys
from ortege_watch.watch.states import Deliver, Fail
from ortege_watch.watch.tracker import QueryTracker

SHORT, LONG = {"measures": ["a.b"]}, {"measures": ["a.b"], "limit": 5}


def part(at: str | None = None):
    body = {"results": [{"data": [], "lastRefreshTime": at}]}
    return codec.decode_body(codec.dumps(body).encode()).parts[0]


def tracker(**queries):
    return QueryTracker(
        queries or {"1": SHORT, "2": LONG}, added_keys=AddedKeys(), hold_stale_for=15.0
    )


def test_the_largest_query_is_the_longest_text():
    assert tracker().largest() == "2"


def test_an_ended_query_is_silent_and_stays_known():
    its = tracker()
    error = api_error("'x' not found for path 'y.x'", status=400)
    assert its.on_api_error("1", error) == [Fail("1", error, final=True)]
    assert its.on_api_error("1", error) == []
    assert its.on_snapshot("1", part(), 0.0) == []
    assert its.open == {"2": LONG}
    assert its.ids == {"1", "2"}


def test_a_passing_error_may_become_a_final_one():
    its = tracker()
    passing = DecodeError("x")
    assert len(its.on_error("1", passing, final=False)) == 1
    assert its.on_error("1", passing, final=False) == []
    assert len(its.on_error("1", passing, final=True)) == 1


def test_nothing_is_held_at_first():
    assert tracker().release_at is None
    assert tracker().release(1e9) == []


def test_a_query_that_ends_releases_nothing():
    its = tracker()
    its.on_snapshot("1", part("2026-11-22T06:00:09.000Z"), 0.0)
    its.on_snapshot("1", part("2026-11-22T06:00:01.000Z"), 1.0)
    assert its.release_at == 16.0
    its.on_error("1", DecodeError("x"), final=True)
    assert its.release_at is None
    assert its.release(20.0) == []


times = st.integers(0, 9).map(lambda n: f"2026-11-22T06:00:0{n}.000Z")


@given(st.lists(st.tuples(times, st.floats(0, 14)), min_size=1))
def test_an_older_snapshot_never_follows_a_newer_one_within_the_hold(arrivals):
    its, now, newest = (
        QueryTracker({"1": SHORT}, added_keys=AddedKeys(), hold_stale_for=15.0),
        0.0,
        "",
    )
    held_since = None
    for at, after in arrivals:
        now += after
        delivered = its.on_snapshot("1", part(at), now)
        if delivered:
            assert at >= newest or now - held_since >= 15.0
            newest, held_since = at, None
            assert its.release_at is None
        else:
            held_since = now if held_since is None else held_since
            assert at < newest
            assert its.release_at == held_since + 15.0
    if its.release_at is not None:
        [late] = its.release(its.release_at)
        assert isinstance(late, Deliver)


@given(st.lists(times, min_size=2))
def test_a_server_without_times_is_always_believed(arrivals):
    its = QueryTracker({"1": SHORT}, added_keys=AddedKeys(), hold_stale_for=15.0)
    for _ in arrivals:
        assert its.on_snapshot("1", part(None), 0.0)
