"""Wrong arguments are refused with an ``InvalidArgument`` that names them."""

from __future__ import annotations

import pytest

from ortege_watch import (
    AsyncCubeClient,
    CubeClient,
    InvalidArgument,
    Reconnect,
    Retry,
)
from ortege_watch.watchbus import (
    AlertPublisher,
    AsyncAlertPublisher,
    AsyncWatchBusClient,
    Credentials,
    WatchBusClient,
)

URL = "https://host.example.com"
GOOD = Credentials("app", "hush")
CUBE = [CubeClient, AsyncCubeClient]
BUS = [WatchBusClient, AsyncWatchBusClient, AlertPublisher, AsyncAlertPublisher]
SECONDS = "must be greater than 0 and at most a million seconds, got"


def new(kind, **options):
    return kind(URL, "token" if kind in CUBE else GOOD, **options)


@pytest.mark.parametrize("kind", CUBE + BUS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": "5"}, f"timeout {SECONDS} '5'"),
        ({"timeout": True}, f"timeout {SECONDS} True"),
        ({"deadline": "x"}, f"deadline {SECONDS} 'x'"),
        ({"retry": 3}, "retry must be of type Retry, got int"),
        ({"retry": 0}, "retry must be of type Retry, got int"),
        ({"retry": Reconnect()}, "retry must be of type Retry, got Reconnect"),
        ({"max_size": "1"}, "max_size must be a positive int, got '1'"),
        ({"max_size": 0}, "max_size must be a positive int, got 0"),
        ({"max_size": 1.5}, "max_size must be a positive int, got 1.5"),
    ],
)
def test_options_of_every_client(kind, options, message):
    with pytest.raises(InvalidArgument) as caught:
        new(kind, **options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"timeout": "5"}, f"timeout {SECONDS} '5'"),
        ({"deadline": "x"}, f"deadline {SECONDS} 'x'"),
    ],
)
def test_limits_of_a_call(limits, message):
    for call in (new(CubeClient).meta, new(WatchBusClient).events):
        with pytest.raises(InvalidArgument) as caught:
            call(**limits)
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Retry, {"attempts": "3"}, "attempts must be a positive int, got '3'"),
        (Retry, {"attempts": 1.5}, "attempts must be a positive int, got 1.5"),
        (Retry, {"base": "1"}, f"base {SECONDS} '1'"),
        (Retry, {"cap": 0}, f"cap {SECONDS} 0"),
        (Retry, {"cap": 0.1}, "cap must be at least base (0.5 s), got 0.1"),
        (Reconnect, {"cap": None}, f"cap {SECONDS} None"),
        (
            Reconnect,
            {"attempts": "3"},
            "attempts must be an int, 0 or more, or None, got '3'",
        ),
        (Reconnect, {"healthy_after": "1"}, f"healthy_after {SECONDS} '1'"),
    ],
)
def test_retries(kind, options, message):
    with pytest.raises(InvalidArgument) as caught:
        kind(**options)
    assert str(caught.value) == message
