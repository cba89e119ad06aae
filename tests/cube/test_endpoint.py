from __future__ import annotations

import contextlib
import copy
import pickle

import pytest
from hypothesis import given, strategies as st

from ortege_watch import AsyncCubeClient, CubeClient
from ortege_watch.cube.client import Endpoint
from ortege_watch.errors import InvalidArgument

TOKEN = f"eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjE3MDB9.{'c2lnbmF0' * 5}"


@pytest.mark.parametrize(
    "url",
    [
        "https://cube.example.com",
        "https://cube.example.com/",
        "https://cube.example.com/cubejs-api",
        "https://cube.example.com/cubejs-api/",
        "https://cube.example.com/cubejs-api/v1",
        "https://cube.example.com/cubejs-api/v1//",
        "https://cube.example.com/cubejs-api/v1/load",
        "https://cube.example.com/cubejs-api/v1/load/",
        "wss://cube.example.com/cubejs-api/v1/load/",
        "wss://cube.example.com",
        "HTTPS://cube.example.com",
        "  https://cube.example.com/cubejs-api/v1\n",
    ],
)
def test_every_form_means_the_same_server(url):
    assert Endpoint.parse(url) == Endpoint(
        api="https://cube.example.com/cubejs-api/v1",
        root="https://cube.example.com",
        socket="wss://cube.example.com/cubejs-api/v1/load/",
        host="cube.example.com",
    )


@pytest.mark.parametrize(
    ("url", "api", "root", "socket"),
    [
        (
            "ws://localhost:4000/",
            "http://localhost:4000/cubejs-api/v1",
            "http://localhost:4000",
            "ws://localhost:4000/cubejs-api/v1/load/",
        ),
        (
            "http://[::1]:4000/data",
            "http://[::1]:4000/data/cubejs-api/v1",
            "http://[::1]:4000/data",
            "ws://[::1]:4000/data/cubejs-api/v1/load/",
        ),
        (
            "https://example.com/own-base/v1",
            "https://example.com/own-base/v1",
            "https://example.com",
            "wss://example.com/own-base/v1/load/",
        ),
    ],
)
def test_prefixes_and_other_base_paths_are_kept(url, api, root, socket):
    endpoint = Endpoint.parse(url)
    assert (endpoint.api, endpoint.root, endpoint.socket) == (api, root, socket)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "invalid url"),
        ("cube.example.com", "invalid url"),
        ("ftp://cube.example.com", "invalid url"),
        ("https://", "invalid url"),
        ("https:///cubejs-api", "invalid url"),
        ("https://cube example.com", "invalid url"),
        ("https://cube.example.com:0", "invalid url"),
        ("https://cube.example.com:99999", "invalid url"),
        ("https://cube.example.com:port", "invalid url"),
        ("https://[::1", "invalid url"),
        ("https://" + "a" * 64 + ".com", "invalid url"),
        ("https://cube..com", "invalid url"),
        ("https://cube.example.com?token=x", "remove the query and the fragment"),
        ("https://cube.example.com#x", "remove the query and the fragment"),
        ("https://me:pass@cube.example.com", "CubeClient\\(url, token"),
        (None, "got NoneType"),
    ],
)
def test_what_is_no_address_is_refused(url, reason):
    with pytest.raises(InvalidArgument, match=reason) as caught:
        Endpoint.parse(url)
    assert "pass@" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        TOKEN,
        f"Bearer {TOKEN}",
        f" {TOKEN}\n",
        TOKEN.split(".")[2],
        "0f" * 16,
        "a b " * 64,
        f"me:{TOKEN}@cube.example.com",
        f"https://me:{TOKEN}/x@cube.example.com",
        f"https://cube.example.com?token={TOKEN}",
        f"https://cube.example.com#{TOKEN}",
    ],
)
def test_a_token_in_the_place_of_the_url_is_not_shown(url, monkeypatch):
    for create in (CubeClient, AsyncCubeClient):
        with pytest.raises(InvalidArgument) as caught:
            create(url, "a")
        shown = f"{caught.value} {caught.value.__cause__} {caught.value.__context__}"
        assert not any(part in shown for part in [url, *TOKEN.split(".")])
    monkeypatch.setenv("ORTEGE_URL", url)
    with pytest.raises(InvalidArgument) as caught:
        CubeClient(token="a")
    assert url not in str(caught.value)


def test_swapped_arguments_are_named():
    with pytest.raises(InvalidArgument) as caught:
        CubeClient(TOKEN, "https://cube.example.com")
    assert str(caught.value) == ("url looks like a token: pass CubeClient(url, token)")


@given(st.text() | st.text().map("https://".__add__))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(InvalidArgument):
        assert Endpoint.parse(text).api.endswith("/v1")


@pytest.mark.parametrize("kind", [CubeClient, AsyncCubeClient])
@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_client_is_neither_pickled_nor_copied(kind, duplicate):
    client = kind("https://cube.example.com", "token")
    with pytest.raises(TypeError, match=f"{kind.__name__} cannot be pickled or copied"):
        duplicate(client)
