from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given, strategies as st

from ortege_watch import _json as codec
from ortege_watch._http.conversation import Response
from ortege_watch._http.exchange import AskAgain, Done, Reauthenticate, TryLater
from ortege_watch._http.statuses import retry_after
from ortege_watch.cube.calls import judge
from ortege_watch.errors import (
    ApiError,
    AuthenticationError,
    DecodeError,
    OrtegeWatchError,
    QueryRejected,
    RateLimited,
)
from ortege_watch.tokens import Secrets

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9.c2VjcmV0"
HTML = b"<!DOCTYPE html>\n<html><body><pre>Cannot GET /x</pre></body></html>"


def read(content):
    """Take anything but an error for an answer."""
    value = codec.loads(content)
    if isinstance(value, dict) and "error" in value:
        raise DecodeError("an error")
    return value


def verdict(response, decode=read):
    return judge(response, decode, secrets=Secrets([TOKEN]), request_id="id-span-1")


def test_continue_wait_is_no_answer(answer):
    assert verdict(answer(200, {"error": "Continue wait"})) == AskAgain()


def test_an_answer_is_decoded(answer):
    assert verdict(answer(200, {"cubes": []})) == Done({"cubes": []})
    assert verdict(answer(200, [])) == Done([])


def test_an_answer_that_has_an_error_beside_is_an_answer(answer):
    value = {"sql": {}, "error": "Error: x"}
    assert verdict(answer(200, value), codec.loads) == Done(value)


@pytest.mark.parametrize(
    ("body", "excerpt"),
    [(HTML, "<!DOCTYPE html>"), (b'{"cubes":', '{"cubes":'), (b"\xff\xfe", "\ufffd")],
)
def test_what_cannot_be_read_is_shown(answer, body, excerpt):
    with pytest.raises(DecodeError) as caught:
        verdict(answer(200, body))
    assert caught.value.excerpt.startswith(excerpt)
    assert caught.value.problems
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("status", [200, 204])
@pytest.mark.parametrize("body", [b"", b" \r\n"])
def test_an_empty_answer_is_said_to_be_empty(answer, status, body):
    with pytest.raises(DecodeError, match="empty"):
        verdict(answer(status, body))


# What real servers answer (seen on 0.35.81 and 1.7.43), and what stands before them.
REFUSALS = [
    (400, {"error": 'Invalid query format: "limit" must be 0'}, QueryRejected),
    (400, {"type": "UserError", "error": "Cube 'nope' not found"}, QueryRejected),
    (500, {"error": "Error: The query limit has been exceeded."}, QueryRejected),
    (400, {"error": 'Error: relation "x" does not exist'}, QueryRejected),
    (500, {"error": "Error: Unknown timezone: PST"}, ApiError),
    (403, {"error": "API scope is missing: data"}, QueryRejected),
    (200, {"error": "Error: something else"}, ApiError),
    (404, HTML, ApiError),
    (500, b"", ApiError),
    (418, b"[]", ApiError),
    (400, {"error": 5}, ApiError),
]


@pytest.mark.parametrize(("status", "body", "kind"), REFUSALS)
def test_a_refusal_that_stays_is_raised(answer, status, body, kind):
    with pytest.raises(ApiError) as caught:
        verdict(answer(status, body))
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.request_id) == (status, "id-span-1")


def test_a_refusal_keeps_the_servers_words(answer):
    body = {"type": "UserError", "error": "Cube 'nope' not found", "stack": "at x"}
    with pytest.raises(QueryRejected) as caught:
        verdict(answer(400, body))
    assert caught.value.message == "Cube 'nope' not found"
    assert caught.value.code == "UserError"


def test_a_page_is_shown_in_part(answer):
    with pytest.raises(ApiError, match=r"Cannot GET /x.*status 404"):
        verdict(answer(404, HTML))


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, {"error": "Invalid token"}),
        (403, {"error": "Authorization header isn't set"}),
        (403, HTML),
        (401, b""),
        (401, {"message": "Unauthorized"}),
    ],
)
def test_a_refused_token_may_be_replaced(answer, status, body):
    judged = verdict(answer(status, body))
    assert isinstance(judged, Reauthenticate)
    assert isinstance(judged.error, AuthenticationError)


@pytest.mark.parametrize("body", [HTML, b"", {"error": "busy"}])
@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_passes_may_be_retried(answer, status, body):
    judged = verdict(answer(status, body, retry_after="7"))
    assert isinstance(judged, TryLater)
    assert judged.retry_after == 7
    assert isinstance(judged.error, ApiError)
    assert judged.error.status == status


def test_too_many_requests_say_when(answer):
    judged = verdict(answer(429, b"slow down", retry_after="7"))
    assert isinstance(judged.error, RateLimited)
    assert judged.error.retry_after == 7


def test_a_redirect_is_not_followed_and_says_where_to(answer):
    response = answer(302, b"", location=f"https://login.example.com/?t={TOKEN}")
    with pytest.raises(
        ApiError, match=r"https://login\.example\.com/; .* only if you trust it"
    ):
        verdict(response)
    with pytest.raises(ApiError, match="empty response"):
        verdict(answer(304))


@pytest.mark.parametrize("status", [200, 302, 403, 404, 503])
@pytest.mark.parametrize(
    "body",
    [
        f"<pre>authorization: Bearer {TOKEN}</pre>".encode(),
        ("x" * 190 + TOKEN).encode(),  # an excerpt would end within the token
        f'{{"error":"what is {TOKEN}?"}}'.encode(),
    ],
)
def test_an_echoed_token_is_cut_out(answer, status, body):
    response = answer(status, body, location=f"https://example.com/{TOKEN}")
    try:
        error = verdict(response).error
    except OrtegeWatchError as raised:
        error = raised
    assert TOKEN[:10] not in str(error)
    assert "<secret>" in str(error) or "xxx" in str(error)


NOON = 1_800_000_000.0


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 1.5 ", 1.5),
        (formatdate(NOON + 30, usegmt=True), 30.0),
        (formatdate(NOON + 30), 30.0),  # "-0000" instead of "GMT"
        (formatdate(NOON - 30, usegmt=True), 0.0),
        ("", None),
        ("-5", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("1e3", None),
        ("86401", 86400.0),  # time.sleep() fails for the following
        ("9999999999", 86400.0),
        ("9" * 400, 86400.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86400.0),
        ("٣", None),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        ("Mon, 99 Jan 2026 99:99:99 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(given, seconds):
    clocks = {"date": formatdate(NOON, usegmt=True), "retry-after": given}
    # This machine's clock is an hour wrong; the server's own counts.
    response = Response(status=503, headers=clocks, received_at=NOON + 3600)
    assert retry_after(response) == seconds


def test_without_the_servers_date_this_machines_clock_counts():
    headers = {"retry-after": formatdate(NOON + 30, usegmt=True), "date": "?"}
    response = Response(status=503, headers=headers, received_at=NOON + 10)
    assert retry_after(response) == 20


@given(st.text(), st.text())
def test_any_retry_after_is_a_wait_or_none(given_, date):
    response = Response(status=503, headers={"retry-after": given_, "date": date})
    seconds = retry_after(response)
    assert seconds is None or 0 <= seconds <= 86400


@given(
    status=st.integers(100, 599),
    content=st.binary() | st.sampled_from([b'{"error":5}', b"null", b'{"type":[]}']),
)
def test_any_response_gets_a_verdict_or_an_error_of_ours(status, content):
    response = Response(status=status, content=content)
    try:
        judged = verdict(response)
    except (ApiError, DecodeError):
        return
    assert isinstance(judged, Done | AskAgain | Reauthenticate | TryLater)


@pytest.mark.parametrize("status", [200, 400, 403, 503])
def test_a_token_that_the_server_repeats_is_in_no_part_of_an_error(status):
    content = b'{"error": "no s3cret-token", "type": "s3cret-token"}'
    response = Response(status=status, content=content)
    try:
        found = judge(
            response, read, secrets=Secrets(["s3cret-token"]), request_id="r"
        ).error
    except ApiError as error:
        found = error
    assert found.message == "no <secret>"
    assert found.code == "<secret>"
