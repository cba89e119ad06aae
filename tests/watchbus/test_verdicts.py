from __future__ import annotations

import pytest
from driving import OK, error, said, success

from ortege_watch._http.exchange import Done, Reauthenticate, TryLater
from ortege_watch.errors import (
    DecodeError,
    RateLimited,
    SignatureError,
    SignatureReason,
    TransportError,
    WatchBusError,
)
from ortege_watch.tokens import Secrets
from ortege_watch.watchbus import requests
from ortege_watch.watchbus.requests import (
    is_misconfigured,
    is_of_server,
    is_rejection,
)
from ortege_watch.watchbus.wire import Contradiction

GMT = "Tue, 14 Nov 2023 22:13:20 GMT"  # 1,700,000,000
HTML = b"<html>502 Bad Gateway</html>"


def judge(response, decode):
    return requests.judge(response, decode, Secrets())


def same(data):
    return data


def test_a_success():
    assert judge(success([1]), same) == Done([1])


@pytest.mark.parametrize("status", [200, 302, 404, 422, 429, 500, 503])
def test_the_envelope_has_precedence_over_the_status(status):
    assert judge(success("x", status=status), same) == Done("x")
    assert judge(success(status=status), None) == Done(None)


@pytest.mark.parametrize(
    "response", [said(HTML), said(b""), said(b"[]"), said({"data": 1}), said(b"{")]
)
def test_a_success_that_cannot_be_decoded(response):
    with pytest.raises(DecodeError):
        judge(response, same)


def test_data_that_the_decoder_refuses():
    def refuse(_data):
        raise DecodeError("$.data: no")

    with pytest.raises(DecodeError):
        judge(success(), refuse)


def final(response):
    """Return the error that no retry can change."""
    with pytest.raises(WatchBusError) as caught:
        judge(response, same)
    return caught.value


@pytest.mark.parametrize(
    ("response", "is_transient", "is_safe_to_retry"),
    [
        (error("000001"), True, False),
        (error("000001", status=500), True, False),
        (error("000001", status=503), True, True),
        (error("000001", status=400), False, False),
        (error("000001", status=404), False, False),
        (error("000003", "invalid appid", status=401), False, False),
        (error("000004", status=401), False, False),
        (error("000005", "invalid signature", status=401), False, False),
        (error("000005", "appid has expired"), False, False),
        (error("000005", "timestamp is expired"), False, False),  # and no Date
        (error("000005", "timestamp is expired", date="soon"), False, False),
        (error("000005"), False, False),
        (error("00001"), False, False),  # a sibling system's
        (error("123456"), False, False),
        (said({"status": "OK", "code": "000001"}), False, False),
        (said({"status": "OK", "code": "000002"}), False, False),
        (said({"status": "ERROR", "code": OK}), False, False),
        (said(HTML, status=502), True, False),
        (said(HTML, status=503), True, True),
        (said(HTML, status=504), True, False),
        (said(HTML, status=500), False, False),
        (said(HTML, status=404), False, False),
        (said(b"", status=401), False, False),
    ],
)
def test_transient_errors_are_retried(response, is_transient, is_safe_to_retry):
    if is_transient:
        found = judge(response, same)
        assert isinstance(found, TryLater)
        assert found.is_safe_to_retry is is_safe_to_retry
        error = found.error
    else:
        error = final(response)
    assert type(error) in {WatchBusError, Contradiction}
    assert error.status == response.status


@pytest.mark.parametrize(
    ("response", "code"),
    [
        (error("000002", "rate limit", retry_after="7"), "000002"),
        (error("000002", "rate limit", status=429, retry_after="7"), "000002"),
        (said(HTML, status=429, retry_after="7"), None),
        (said({"status": "ERROR", "code": 2}, retry_after="7"), "000002"),
    ],
)
def test_too_many_requests(response, code):
    found = judge(response, same)
    assert isinstance(found, TryLater)
    assert (found.is_safe_to_retry, found.retry_after) == (True, 7.0)
    assert isinstance(found.error, RateLimited)
    assert (found.error.code, found.error.retry_after) == (code, 7.0)
    assert isinstance(found.error.__cause__, WatchBusError)


def test_the_reason_is_kept():
    found = final(error("000005", "invalid signature", status=401))
    assert (found.code, found.reason) == ("000005", "invalid signature")
    assert "invalid signature" in str(found)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_names_its_target_without_the_query(status):
    found = final(said(b"", status=status, location="https://other/x?key=hush"))
    assert "https://other/x" in str(found)
    assert "only if you trust it" in str(found)
    assert "hush" not in str(found)


def test_a_redirect_without_a_target():
    assert "HTTP status 302" in str(final(said(b"", status=302)))


@pytest.mark.parametrize(
    "reason",
    ["timestamp is expired", "Timestamp Expired", "the timestamp has expired."],
)
def test_an_expired_timestamp_has_the_difference_of_the_clocks(reason):
    response = error("000005", reason, date=GMT, received_at=1_699_999_900.0)
    found = judge(response, same)
    assert isinstance(found, Reauthenticate)
    assert found.clock_ahead == 100.5


@pytest.mark.parametrize(
    ("failure", "rejects"),
    [
        (WatchBusError("", status=400), True),
        (WatchBusError("", status=413), True),
        (WatchBusError("", status=422), True),
        (WatchBusError("", status=400, code="000001"), True),
        (WatchBusError("", status=200, code="000099"), True),
        (WatchBusError("", status=400, code="000099"), True),
        (WatchBusError("", status=200, code="000001"), False),
        (WatchBusError("", status=500, code="000001"), False),
        (WatchBusError("", status=404, code="000001"), False),
        (WatchBusError("", status=400, code="000005"), False),
        (WatchBusError("", status=400, code="000003"), False),
        (WatchBusError("", status=400, code="000004"), False),
        (WatchBusError("", status=400, code="000002"), False),
        (WatchBusError("", status=500, code="000099"), False),
        (WatchBusError("", status=403, code="000099"), False),
        (WatchBusError("", status=404), False),
        (WatchBusError("", status=401), False),
        (WatchBusError("", status=302), False),
        (WatchBusError("", status=500), False),
        (Contradiction("", status=400, code="000001"), False),
        (RateLimited("", status=429), False),
        (TransportError(""), False),
        (DecodeError(""), False),
    ],
)
def test_which_errors_reject_an_alert(failure, rejects):
    assert is_rejection(failure) is rejects


@pytest.mark.parametrize(
    ("failure", "of_server", "misconfigured"),
    [
        (WatchBusError("", status=301), True, True),
        (WatchBusError("", status=404), True, True),
        (WatchBusError("", status=404, code="000001"), True, True),
        (WatchBusError("", status=401, code="000099"), True, True),
        (WatchBusError("", status=401, code="000003"), True, True),
        (WatchBusError("", status=200, code="000004"), True, True),
        (WatchBusError("", status=401, code="000005"), True, True),
        (WatchBusError("", status=401, code="000005", reason="x"), True, True),
        (DecodeError(""), True, True),
        (
            WatchBusError("", status=401, code="000005", reason="replay request"),
            *(True, False),
        ),
        (
            WatchBusError(
                "", status=1, code="000005", reason="app is out of count limit"
            ),
            *(True, False),
        ),
        (WatchBusError("", status=503), True, False),
        (WatchBusError("", status=502), True, False),
        (WatchBusError("", status=408), True, False),
        (RateLimited("", status=429), True, False),
        (TransportError(""), True, False),
        (WatchBusError("", status=500), False, False),
        (WatchBusError("", status=501), False, False),
        (WatchBusError("", status=403), False, False),
        (WatchBusError("", status=503, code="000001"), False, False),
        (WatchBusError("", status=500, code="000099"), False, False),
        (WatchBusError("", status=200, code="000001"), False, False),
        (Contradiction("", status=500, code="000000000"), False, False),
    ],
)
def test_which_errors_concern_the_server_and_not_the_alerts(
    failure, of_server, misconfigured
):
    assert is_of_server(failure) is of_server
    assert is_misconfigured(failure) is misconfigured


@pytest.mark.parametrize(
    ("longest_wait", "wait", "is_final"),
    [(0, None, False), (0, "1", True), (30, "30", False), (-1, None, True)],
)
def test_an_error_envelope_may_ask_to_wait_too_long(longest_wait, wait, is_final):
    headers = {} if wait is None else {"retry_after": wait}
    given = error("000001", status=503, **headers), same, Secrets(), longest_wait
    if is_final:
        with pytest.raises(WatchBusError) as caught:
            requests.judge(*given)
        assert caught.value.retry_after == (None if wait is None else float(wait))
    else:
        assert isinstance(requests.judge(*given), TryLater)
    # Without an envelope it is a proxy, whatever the limit.
    page = said(HTML, status=503, **headers)
    assert isinstance(requests.judge(page, same, Secrets(), longest_wait), TryLater)


@pytest.mark.parametrize("reason", SignatureReason)
def test_our_own_receiver_rejects_alerts_only_for_their_size(
    reason,
):
    error = SignatureError(reason, "")
    status, body = error.status, error.body
    try:
        error = judge(said(body, status=status), same).error
    except WatchBusError as raised:
        error = raised
    too_large = reason is SignatureReason.BODY_TOO_LARGE
    assert is_rejection(error) is too_large
