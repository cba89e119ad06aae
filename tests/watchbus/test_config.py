from __future__ import annotations

import httpx
import pytest
from driving import CREDENTIALS, alert
from hypothesis import given, strategies as st

from ortege_watch import DecodeError, InvalidArgument
from ortege_watch.watchbus import (
    AlertPublisher,
    Credentials,
    WatchBusClient,
    WatchPaths,
)
from ortege_watch.watchbus.requests import ALERT_PATH, BusConfig


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("https://bus.example.com", "https://bus.example.com"),
        ("https://bus.example.com/", "https://bus.example.com"),
        ("HTTPS://bus.example.com//", "https://bus.example.com"),
        ("https://bus.example.com/api/v1/watch/alert", "https://bus.example.com"),
        (
            "https://bus.example.com/gw/api/v1/watch/alert/",
            "https://bus.example.com/gw",
        ),
        ("http://[::1]:8000/gw", "http://[::1]:8000/gw"),
        ("wss://bus.example.com", "https://bus.example.com"),
    ],
)
def test_every_form_of_a_url(url, root):
    link = BusConfig.parse(url, CREDENTIALS, path=ALERT_PATH)
    assert link.root == root
    target = link.endpoint(ALERT_PATH)
    assert target.url == root + ALERT_PATH
    prefix = root.removeprefix("https://bus.example.com").removeprefix(
        "http://[::1]:8000"
    )
    assert target.line == f"POST;{prefix}{ALERT_PATH};"


def test_without_a_known_path_the_whole_is_a_prefix():
    link = BusConfig.parse("https://host/api/watch", CREDENTIALS)
    assert link.prefix == "/api/watch"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "provider.example.com",
        "ftp://host",
        "https://",
        "https://host?x=1",
        "https://host#x",
        "https://user:password@host",
        "https://host/a;b",
        "https://host/a b",
        "https://host/a/../b",
        "https://host/%zz",
        None,
    ],
)
def test_an_invalid_url_is_refused(url):
    with pytest.raises(InvalidArgument) as caught:
        BusConfig.parse(url, CREDENTIALS)
    assert "password" not in str(caught.value) or "credentials" in str(caught.value)


def test_a_password_in_a_url_is_not_shown():
    with pytest.raises(InvalidArgument, match="pass credentials, which sign") as caught:
        BusConfig.parse("https://user:hush@host", CREDENTIALS)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("given", [None, "app", ("app", "hush"), object()])
def test_invalid_credentials_are_refused_without_being_shown(given):
    with pytest.raises(
        InvalidArgument, match=r"Credentials\(app_id, secret\)"
    ) as caught:
        BusConfig.parse("https://host", given)
    assert "hush" not in str(caught.value)


def test_a_secret_in_the_place_of_the_app_id_is_not_shown():
    with pytest.raises(InvalidArgument, match="app_id must be visible") as caught:
        Credentials("hush; hush", "app")
    assert "hush" not in str(caught.value)


def test_the_secret_is_not_in_the_repr():
    link = BusConfig.parse("https://host", Credentials("app", "hush"))
    assert "hush" not in repr(link)


@pytest.mark.parametrize(
    "limits",
    [{"timeout": 0}, {"timeout": None}, {"deadline": -1}, {"timeout": float("nan")}],
)
def test_invalid_limits_are_refused(limits):
    with pytest.raises(
        InvalidArgument, match="greater than 0 and at most a million seconds"
    ):
        BusConfig.parse("https://host", CREDENTIALS, **limits)
    with pytest.raises(
        InvalidArgument, match="greater than 0 and at most a million seconds"
    ):
        BusConfig.parse("https://host", CREDENTIALS).override(limits)


def test_limits_of_one_call():
    link = BusConfig.parse("https://host", CREDENTIALS, timeout=5)
    assert link.override({}) is link
    other = link.override({"deadline": None})
    assert (other.budget.timeout, other.budget.deadline) == (5, None)
    assert other.skew is link.skew
    with pytest.raises(TypeError, match="timeuot"):
        link.override({"timeuot": 3})


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "10", None])
def test_an_invalid_batch_size_is_refused(size):
    with pytest.raises(InvalidArgument, match="batch_size"):
        BusConfig.parse("https://host", CREDENTIALS, batch_size=size)


def test_an_unknown_option_is_refused():
    with pytest.raises(
        TypeError, match="unexpected argument 'timeuot': did you mean 'timeout'"
    ):
        BusConfig.parse("https://host", CREDENTIALS, timeuot=3)


@pytest.mark.parametrize(
    "path",
    [
        *("", "api", "/", "//", "/a//b", "/a?b=1", "/a#b", "/a;b", "/a b", "/ä"),
        *("/./a", "/a/..", "/%2", "/%2f", '/"', "/<", "/{", "/`", "/a\\b", "/^", None),
    ],
)
def test_a_path_that_would_be_sent_in_another_form_is_refused(path):
    with pytest.raises(InvalidArgument, match=r"^path must be a path"):
        BusConfig.parse("https://host", CREDENTIALS).endpoint(path)
    with pytest.raises(InvalidArgument, match=r"^events must be a path"):
        WatchPaths(events=path)


@given(
    st.one_of(
        st.text(max_size=20),
        st.from_regex(r"(/[ -~]{1,5}){1,4}/?", fullmatch=True),
        st.from_regex(
            r"(/([a-z.~!$&'()*+,=:@-]|%[0-9A-F]{2}){1,5}){1,4}/?", fullmatch=True
        ),
    )
)
def test_a_valid_path_is_sent_as_it_is_signed(path):
    link = BusConfig.parse("https://host.example/gw", CREDENTIALS)
    try:
        target = link.endpoint(path)
    except InvalidArgument:
        return
    sent = httpx.Request("POST", target.url).url.raw_path.decode("ascii")
    assert target.line == f"POST;{sent};"


def test_the_documented_paths():
    assert WatchPaths() == WatchPaths(
        subscribe="/api/watch/subscribe",
        unsubscribe="/api/v1/watch/unsubscribe",
        subscriptions="/api/watch/subscriptions/list",
        events="/api/watch/event/list",
    )


MIB = 1024 * 1024


def ask(kind, size, **options):
    """Publish or list events; the response is an envelope of so many bytes."""
    content = b'{"status":"OK","code":"000000000","data":[]}'.ljust(size)
    http = httpx.MockTransport(lambda _: httpx.Response(200, content=content))
    with kind("https://bus.example.com", CREDENTIALS, http=http, **options) as client:
        if isinstance(client, AlertPublisher):
            client.publish([alert(1)])
        else:
            client.events()


@pytest.mark.parametrize(
    ("kind", "most"), [(AlertPublisher, MIB), (WatchBusClient, 4 * MIB)]
)
def test_responses_have_a_size_that_is_enough_for_the_bus(kind, most):
    ask(kind, most)
    with pytest.raises(DecodeError, match=rf"exceeds max_size \({most} bytes\)"):
        ask(kind, most + 1)
    ask(kind, most + 1, max_size=most + 1)
