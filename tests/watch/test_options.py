"""What no subscription can go by is refused before anything is opened."""

from __future__ import annotations

import math

import pytest

from ortege_watch import InvalidArgument, Reconnect, Retry
from ortege_watch.watch.options import check_options, check_queries


async def asynchronous(_) -> None:
    """Be what nobody would await."""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dialect": "klingon"}, "klingon"),
        ({"transport": "pigeon"}, "pigeon"),
        ({"stale_after": 0}, "stale_after"),
        ({"stale_after": math.inf}, "stale_after"),
        ({"poll_every": "soon"}, "poll_every"),
        ({"reconnect": Retry()}, "a Reconnect, got Retry"),
        ({"on_state": asynchronous}, "on_state must be a plain function"),
        ({"on_error": asynchronous}, "on_error must be a plain function"),
    ],
)
def test_an_option_that_is_none_is_refused(options, words):
    with pytest.raises(InvalidArgument, match=words):
        check_options(options)


def test_options_may_be_absent_or_good():
    check_options({})
    check_options({"reconnect": Reconnect(), "on_state": print, "dialect": "auto"})


@pytest.mark.parametrize(
    "arguments",
    [
        {"base": 0},
        {"base": 2.0, "cap": 1.0},
        {"cap": math.inf},
        {"attempts": -1},
        {"healthy_after": -1.0},
        {"healthy_after": math.nan},
    ],
)
def test_a_back_off_that_is_none_is_refused(arguments):
    with pytest.raises(InvalidArgument):
        Reconnect(**arguments)


def test_a_reconnect_may_give_up_at_once_or_never():
    assert Reconnect(attempts=0).attempts == 0
    assert Reconnect().attempts is None


def test_queries_are_checked():
    with pytest.raises(InvalidArgument, match="needs at least one query"):
        check_queries([])
    with pytest.raises(InvalidArgument, match="got str"):
        check_queries(["a.b"])
