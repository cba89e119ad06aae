"""The four headers are found in whatever a framework calls headers."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
import pytest
from hypothesis import given, strategies as st

from ortege_watch.watchbus import SignatureError, SignatureReason
from ortege_watch.watchbus.signing import signature_headers

FIELDS = ("app", "1700", "nonce", "ab12")
HEADERS = {
    "Content-Type": "application/json",
    "X-Signature-appid": "app",
    "X-Signature-timestamp": "1700",
    "X-Signature-nonce": "nonce",
    "X-Signature-signature": "ab12",
}
BYTES = {name.encode(): value.encode() for name, value in HEADERS.items()}


class Frozen(Mapping[str, str]):
    """A mapping that is no dict, as most frameworks have one."""

    def __getitem__(self, name):
        return HEADERS[name]

    def __iter__(self):
        return iter(HEADERS)

    def __len__(self):
        return len(HEADERS)


@pytest.mark.parametrize(
    "headers",
    [
        HEADERS,
        BYTES,
        {name.lower(): value for name, value in HEADERS.items()},
        {name.upper(): value for name, value in HEADERS.items()},
        {name: value.encode() for name, value in HEADERS.items()},
        {name.encode(): value for name, value in HEADERS.items()},
        list(HEADERS.items()),
        list(BYTES.items()),
        iter(BYTES.items()),
        tuple((name.lower(), value) for name, value in BYTES.items()),
        [*HEADERS.items(), *HEADERS.items()],
        {**HEADERS, "x-signature-nonce": "nonce"},
        {**HEADERS, 5: 6, None: None},
        {**HEADERS, "X-Signature": "another", "X-Signature-Nonces": "another"},
        httpx.Headers(HEADERS),
        Frozen(),
    ],
)
def test_every_form_of_headers_is_read(headers):
    assert signature_headers(headers) == FIELDS


@pytest.mark.parametrize("name", list(HEADERS)[1:])
@pytest.mark.parametrize("form", [dict, lambda headers: list(headers.items())])
def test_a_missing_or_empty_header_is_named(name, form):
    for headers in (
        {**HEADERS, name: ""},
        {other: value for other, value in HEADERS.items() if other != name},
    ):
        with pytest.raises(SignatureError, match=name.lower()) as caught:
            signature_headers(form(headers))
        assert caught.value.reason == SignatureReason.MISSING_HEADER


@pytest.mark.parametrize(
    "headers",
    [
        {**HEADERS, "x-signature-nonce": "other"},
        [*HEADERS.items(), ("X-SIGNATURE-NONCE", "other")],
        [("x-signature-nonce", "other"), *HEADERS.items()],
        [*BYTES.items(), (b"X-Signature-Nonce", b"other")],
        {**HEADERS, "X-Signature-nonce": ["nonce"]},
        {**HEADERS, "X-Signature-nonce": None},
        {**HEADERS, "X-Signature-nonce": 5},
        [*HEADERS.items(), ("x-signature-nonce", None)],
    ],
)
def test_headers_that_contradict_each_other_or_are_no_text_are_refused(headers):
    with pytest.raises(SignatureError, match="x-signature-nonce") as caught:
        signature_headers(headers)
    assert caught.value.reason == SignatureReason.MALFORMED_HEADER


@pytest.mark.parametrize("headers", [None, 5, [5], [("a",)], ["name"], [("a", 1, 2)]])
def test_what_is_neither_a_mapping_nor_pairs_is_refused(headers):
    with pytest.raises(SignatureError, match="must be a mapping or pairs") as caught:
        signature_headers(headers)
    assert caught.value.reason == SignatureReason.MALFORMED_HEADER


names = st.sampled_from([*HEADERS, *BYTES, "x-signature-nonce", "other", b"other", 5])
values = st.sampled_from(["app", b"app", "1700", "nonce", b"nonce", "", None, 5, "é"])


@given(st.lists(st.tuples(names, values), max_size=8))
def test_a_dict_and_its_pairs_are_read_alike(pairs):
    mapping = {**HEADERS, **dict(pairs)}

    def result(headers):
        try:
            return signature_headers(headers)
        except SignatureError as error:
            return error.reason

    expected = result(iter(mapping.items()))
    assert result(mapping) == result(list(mapping.items())) == expected
    assert result(mapping) == expected  # its names are known now


SCOPE = [(name.lower(), value) for name, value in BYTES.items()]
scope_names = st.sampled_from(
    [
        *(name for name, _ in SCOPE),
        *(b"X-Signature-Appid", b"host", b"", b"\xc9", "host", b"\n"),
    ]
)
scope_values = st.sampled_from([b"other", b"", b"a\nb", b"\xe9", "app", None, ["app"]])


@pytest.mark.parametrize("name", [name for name, _ in SCOPE[1:]])
def test_a_scope_with_a_repeated_or_empty_header_is_refused(name):
    assert signature_headers(SCOPE) == FIELDS
    assert signature_headers([*SCOPE, (b"host", b"a"), (b"host", b"b")]) == FIELDS
    for scope, reason in (
        ([*SCOPE, (name, b"other")], SignatureReason.MALFORMED_HEADER),
        ([(name, b"other"), *SCOPE], SignatureReason.MALFORMED_HEADER),
        ([*SCOPE, (name.upper(), b"other")], SignatureReason.MALFORMED_HEADER),
        (list({**dict(SCOPE), name: b""}.items()), SignatureReason.MISSING_HEADER),
    ):
        with pytest.raises(SignatureError, match=name.decode()) as caught:
            signature_headers(scope)
        assert caught.value.reason == reason


@given(
    st.lists(st.tuples(scope_names, scope_values), max_size=4),
    st.lists(st.sampled_from(range(5)), max_size=2),
)
def test_the_headers_of_an_asgi_scope_are_read_as_others_are(more, absent):
    pairs = [each for i, each in enumerate(SCOPE) if i not in absent] + more

    def result(headers):
        try:
            return signature_headers(headers)
        except SignatureError as error:
            return error.reason, str(error)

    assert result(pairs) == result(iter(pairs)) == result(tuple(pairs))
