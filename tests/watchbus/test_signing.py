"""Signatures: the published ones, and what has none."""

from __future__ import annotations

import hashlib
import hmac
import re
import traceback

import pytest
from hypothesis import given, strategies as st
from signed import APP_ID, SECRET, VECTORS

from ortege_watch import InvalidArgument
from ortege_watch.watchbus import (
    AlertChannel,
    AlertPublisher,
    AsyncAlertPublisher,
    AsyncWatchBusClient,
    Credentials,
    RequestVerifier,
    WatchBusClient,
    provider_app,
    sign,
    signed_headers,
    signing,
)

CREDENTIALS = Credentials(APP_ID, SECRET)
GOOD = {
    "method": "POST",
    "path": "/api/v1/watch/alert",
    "body": b"{}",
    "timestamp": 1657246234465,
    "nonce": "791f398e93f14b3e98f916703f777f44",
}


def signed(**changes: object) -> str:
    given = {**GOOD, **changes}
    return sign(
        CREDENTIALS,
        given.pop("method"),
        given.pop("path"),
        given.pop("body"),
        **given,
    )


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_vector_is_signed_and_recognised(vector):
    credentials = Credentials(vector["app_id"], vector["secret"])
    body = vector["body"].encode()
    made = sign(
        credentials,
        vector["method"],
        vector["path"],
        body,
        timestamp=vector["timestamp"],
        nonce=vector["nonce"],
    )
    assert made == vector["signature"]

    line = signing.request_line(vector["method"], vector["path"])
    message = signing.canonical(
        vector["app_id"], str(vector["timestamp"]), vector["nonce"], line, body
    )
    keys = [signing.prepare(vector["secret"])]
    assert signing.matches(keys, message, vector["signature"])
    assert not signing.matches(keys, message + b" ", vector["signature"])


def test_the_headers_carry_the_names_of_the_page_and_what_was_signed():
    headers = signing.signed_headers(
        CREDENTIALS, "POST", "/p", b"", timestamp=1_700_000_000_000, nonce="n"
    )
    assert headers == {
        "Content-Type": "application/json;charset=UTF-8",
        "X-Signature-appid": APP_ID,
        "X-Signature-timestamp": "1700000000000",
        "X-Signature-nonce": "n",
        "X-Signature-signature": sign(
            CREDENTIALS, "POST", "/p", b"", timestamp=1_700_000_000_000, nonce="n"
        ),
    }


def test_a_timestamp_in_seconds_is_refused():
    with pytest.raises(InvalidArgument, match="an int of unix milliseconds, got 17"):
        sign(CREDENTIALS, "POST", "/p", b"", timestamp=1_700_000_000, nonce="n")


@given(
    secret=st.text(st.characters(exclude_categories=["Cs"]), max_size=100).filter(
        lambda secret: secret and secret == secret.strip()
    ),
    message=st.binary(max_size=300),
)
def test_prepared_keys_sign_as_hmac_does(secret, message):
    expected = hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
    key = signing.prepare(secret)
    assert signing.digest(key, message) == expected
    assert signing.digest(key, message) == expected  # a key can be used again
    assert signing.matches([key], message, expected)


@pytest.mark.parametrize("length", [63, 64, 65, 1000])
def test_secrets_around_the_block_size_sign_as_hmac_does(length):
    secret = "k" * length
    expected = hmac.new(secret.encode(), b"text", hashlib.sha256).hexdigest()
    assert signing.digest(signing.prepare(secret), b"text") == expected


def test_all_keys_are_tried_whichever_fits():
    tried = []

    class Noted:
        """A key that notes each use."""

        def __init__(self, secret):
            self.secret = secret

        def copy(self):
            tried.append(self.secret)
            return signing.prepare(self.secret)

    keys = [Noted(name) for name in ("old", "new", "next")]
    for name in ("old", "new", "next"):
        tried.clear()
        signature = signing.digest(signing.prepare(name), b"message")
        assert signing.matches(keys, b"message", signature)
        assert tried == ["old", "new", "next"]
    assert not signing.matches(keys, b"another", signature)
    assert not signing.matches([], b"message", signature)


@pytest.mark.parametrize(
    "signature",
    ["", "0", "é" * 64, "\ud800" * 64, "g" * 64, "0" * 63, "0" * 65, "0" * 10_000],
)
def test_a_malformed_signature_matches_nothing(signature):
    assert not signing.matches([signing.prepare(SECRET)], b"message", signature)


def test_a_signature_in_capitals_is_none():
    key = signing.prepare(SECRET)
    assert not signing.matches(
        [key], b"message", signing.digest(key, b"message").upper()
    )


def test_the_three_requests_that_shared_a_signature_cannot_be_signed():
    signed(path="/p", body=b'{"X":1}')
    with pytest.raises(InvalidArgument, match="query"):
        signed(path="/p?q=1", body=b'{"X":1}')
    with pytest.raises(InvalidArgument, match="';'"):
        signed(path="/p;q=1", body=b'{"X":1}')
    with pytest.raises(InvalidArgument, match="must be JSON or empty"):
        signed(path="/p", body=b'q=1;{"X":1}')


@pytest.mark.parametrize(
    ("field", "value", "advice"),
    [
        ("method", "post", "capitals"),
        ("method", "", "capitals"),
        ("method", "PO;ST", "capitals"),
        ("path", "", "must be a path that begins with '/'"),
        ("path", "api", "must be a path that begins with '/'"),
        ("path", "/a b", "percent-encoded"),
        ("path", "/é", "percent-encoded"),
        ("path", "/a#b", "query"),
        ("path", "/a\n", "percent-encoded"),
        ("nonce", "", "uuid"),
        ("nonce", "a;b", "uuid"),
        ("nonce", "a b", "uuid"),
        ("nonce", "791f398e-93f1-4b3e-98f9-16703f777f44", "uuid"),
        ("nonce", "é", "uuid"),
        ("nonce", None, "uuid"),
        ("timestamp", -1, "milliseconds"),
        ("timestamp", 1.5, "milliseconds"),
        ("timestamp", "1657246234465", "milliseconds"),
        ("timestamp", True, "milliseconds"),
        pytest.param("timestamp", -(10**5000), "milliseconds", id="huge"),
        ("body", "{}", "bytes"),
        ("body", {}, "bytes"),
        ("body", b"{", "must be JSON or empty"),
        ("body", b'{"a":1}\xff', "must be JSON or empty"),
        ("body", b" ", "must be JSON or empty"),
    ],
)
def test_what_is_ambiguous_or_wrong_is_not_signed(field, value, advice):
    with pytest.raises(InvalidArgument, match=re.escape(advice)) as caught:
        signed(**{field: value})
    assert field in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("app_id", ["", "a;b", "a b", "é", "\n", None, b"app"])
def test_an_app_id_that_no_header_carries_is_refused(app_id):
    with pytest.raises(InvalidArgument, match="app_id"):
        Credentials(app_id, SECRET)


@pytest.mark.parametrize("secret", ["", None, b"secret", 5, "hush-\ud800"])
def test_a_secret_that_cannot_be_used_is_refused_without_showing_it(secret):
    with pytest.raises(InvalidArgument, match="secret") as caught:
        Credentials(APP_ID, secret)
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_secret_is_never_shown():
    assert APP_ID in repr(CREDENTIALS)
    assert SECRET not in repr(CREDENTIALS) + str(CREDENTIALS)
    assert SECRET not in repr(signing.prepare(SECRET))


def test_a_secret_is_its_text_and_not_its_hex_digits():
    as_text = hmac.new(SECRET.encode(), b"m", hashlib.sha256).hexdigest()
    as_hex = hmac.new(bytes.fromhex(SECRET), b"m", hashlib.sha256).hexdigest()
    assert signing.digest(signing.prepare(SECRET), b"m") == as_text != as_hex


class Events:
    """A provider without subscriptions."""

    subscribe = unsubscribe = subscriptions = events = staticmethod(list)


HUSH = "hush-hush-0451"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Credentials("bad;id", HUSH),
        lambda: Credentials(f"{HUSH};", "app"),
        lambda: Credentials("app", f"{HUSH} "),
        lambda: Credentials("app", f"{HUSH}\ud800"),
        lambda: Credentials("app", HUSH.encode()),
        lambda: AlertPublisher("https://bus.invalid", HUSH),
        lambda: AsyncAlertPublisher("https://bus.invalid", HUSH),
        lambda: WatchBusClient("https://bus.invalid", HUSH),
        lambda: AsyncWatchBusClient("https://bus.invalid", HUSH),
        lambda: AlertChannel("wss://bus.invalid/ws", HUSH),
        lambda: sign(HUSH, "GET", "/", b"", timestamp=1, nonce="n"),
        lambda: signed_headers(HUSH, "GET", "/", b"", timestamp=1, nonce="n"),
        lambda: RequestVerifier({"a": [HUSH], "bad;id": [HUSH]}, path="/p"),
        lambda: RequestVerifier({f"{HUSH};": ["app"]}, path="/p"),
        lambda: RequestVerifier({"a": [HUSH, ""]}, path="/p"),
        lambda: RequestVerifier({"a": HUSH}, path="/p"),
        lambda: RequestVerifier({"a": [f"{HUSH}\ud800"]}, path="/p"),
        lambda: RequestVerifier(HUSH, path="/p"),
        lambda: RequestVerifier({"a": [HUSH]}, path="p?q"),
        lambda: RequestVerifier({"a": [HUSH]}, path="/p", tolerance=-1),
        lambda: RequestVerifier({"a": [HUSH]}, path="/p", nonces=5),
        lambda: provider_app({"a": [HUSH], "b": [""]}, Events()),
        lambda: provider_app({"a": [HUSH]}, Events(), answer_within=-1),
        lambda: provider_app({"a": [HUSH]}, None),
    ],
)
def test_no_frame_of_a_traceback_shows_a_secret(make):
    with pytest.raises(InvalidArgument) as caught:
        make()
    error = caught.value
    while error is not None:
        assert HUSH not in f"{error} {error!r} {vars(error)}"
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if "test_signing" not in frame.f_code.co_filename:
                for each in frame.f_locals.values():
                    assert HUSH not in repr(each), frame.f_code.co_name
        error = error.__cause__ or error.__context__
