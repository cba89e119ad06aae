"""Options and queries are checked before a connection is opened."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from ortege_watch import InvalidArgument, Reconnect, Retry
from ortege_watch.watch.options import (
    FailureCount,
    Settings,
    check_queries,
    settings_of,
)


async def asynchronous(_) -> None:
    """A callback that would never be awaited."""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dialect": "klingon"}, "klingon"),
        ({"transport": "pigeon"}, "pigeon"),
        ({"stale_after": 0}, "stale_after"),
        ({"stale_after": math.inf}, "stale_after"),
        ({"poll_every": "soon"}, "poll_every"),
        ({"poll_every": 0}, "poll_every"),
        ({"hold_stale_for": -1}, "hold_stale_for"),
        ({"hold_stale_for": math.nan}, "hold_stale_for"),
        ({"hold_stale_for": "15"}, "hold_stale_for"),
        ({"reconnect": Retry()}, "of type Reconnect, got Retry"),
        ({"on_state": 5}, "on_state must be callable, got 5"),
        ({"on_error": "x"}, "on_error must be callable, got 'x'"),
        ({"on_state": asynchronous}, "on_state must be a plain function"),
        ({"on_error": asynchronous}, "on_error must be a plain function"),
    ],
)
def test_an_invalid_option_is_refused(options, words):
    with pytest.raises(InvalidArgument, match=words):
        settings_of(options)


def test_options_are_optional():
    assert settings_of({}) == Settings()
    reconnect = Reconnect(attempts=3)
    options = {"reconnect": reconnect, "on_state": print, "poll_every": 2.0}
    assert settings_of(options) == Settings(reconnect=reconnect, poll_every=2.0)


@pytest.mark.parametrize(
    "arguments",
    [
        {"base": 0},
        {"base": 2.0, "cap": 1.0},
        {"cap": math.inf},
        {"attempts": 0},
        {"attempts": -1},
        {"healthy_after": -1.0},
        {"healthy_after": math.nan},
    ],
)
def test_an_invalid_back_off_is_refused(arguments):
    with pytest.raises(InvalidArgument):
        Reconnect(**arguments)


def test_zero_holds_nothing():
    assert settings_of({"hold_stale_for": 0}).hold_stale_for == 0


def test_a_reconnect_may_give_up_at_once_or_never():
    assert Reconnect(attempts=1).attempts == 1
    assert Reconnect().attempts is None


def test_delays_double_until_a_connection_has_lasted():
    failures = FailureCount(Reconnect(base=1, cap=60, healthy_after=10))
    assert [failures.next_delay(0) for _ in range(4)] == [0.5, 1, 2, 4]
    failures.connection_lost(9.9)  # an open socket proves nothing
    assert failures.next_delay(0) == 8
    failures.connection_lost(10)
    assert [failures.next_delay(0) for _ in range(2)] == [0.5, 1]
    assert not failures.exhausted


@given(st.lists(st.floats(0, 9.9), max_size=40), st.floats(0, 1, exclude_max=True))
def test_back_off_grows_while_the_server_accepts_and_drops(lives, jitter):
    failures, now, attempts = FailureCount(Reconnect()), 0.0, 0
    for life in lives:
        attempts += now < 60
        failures.connection_lost(life)
        now += life + failures.next_delay(jitter)
    assert attempts <= 10


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_so_many_failures_exhaust_the_attempts(attempts):
    failures = FailureCount(Reconnect(attempts=attempts))
    for _ in range(attempts):
        assert not failures.exhausted
        failures.next_delay(0)
    assert failures.exhausted


def test_queries_are_checked():
    with pytest.raises(InvalidArgument, match="needs at least one query"):
        check_queries([])
    with pytest.raises(InvalidArgument, match="got str"):
        check_queries(["a.b"])
