from __future__ import annotations

import contextlib
import math

import pytest
from driving import (
    BAD_CERTIFICATE,
    CREDENTIALS,
    CUT,
    EXPIRED,
    NOW,
    UNREACHED,
    Play,
    error,
    link,
    said,
    success,
)
from hypothesis import given, strategies as st
from signed import signature_of

from ortege_watch import Retry
from ortege_watch._http.conversation import Failure, GetStamp, Request
from ortege_watch.errors import (
    DeadlineExceeded,
    DecodeError,
    OrtegeWatchError,
    RateLimited,
    TransportError,
    WatchBusError,
)
from ortege_watch.tokens import Secrets
from ortege_watch.watchbus.requests import signed_exchange

BODY = b'{"entity_list":[]}'
GMT = "Tue, 14 Nov 2023 22:13:20 GMT"  # NOW
HTML = b"<html>502 Bad Gateway</html>"


def ask(*, is_repeatable=True, on=None, body=BODY, **settings):
    on = on or link(**settings)
    target = on.endpoint("/api/watch/subscribe")
    return signed_exchange(
        on, target, body, lambda data: data, is_repeatable=is_repeatable
    )


def stamp_of(request):
    return (
        int(request.headers["X-Signature-timestamp"]),
        request.headers["X-Signature-nonce"],
    )


def test_a_request_is_signed_as_it_is_sent():
    server = Play([success(["done"])])
    assert server.run(ask()) == ["done"]
    [stamp, request] = server.effects
    assert stamp == GetStamp()
    nonce = "0" * 31 + "1"
    start = f"app;1700000000000;{nonce};POST;/api/watch/subscribe;".encode()
    signature = signature_of(start + BODY, CREDENTIALS.secret)
    assert request == Request(
        method="POST",
        url="https://bus.example.com/api/watch/subscribe",
        headers={
            "Accept": "application/json",
            "Content-Type": "application/json;charset=UTF-8",
            "X-Signature-appid": "app",
            "X-Signature-timestamp": "1700000000000",
            "X-Signature-nonce": nonce,
            "X-Signature-signature": signature,
        },
        secrets=Secrets([signature, CREDENTIALS.secret]),
        content=BODY,
        timeout=30.0,
        limit=300.0,
    )


def test_the_path_before_the_endpoints_is_signed_too():
    server = Play([success()])
    server.run(ask(url="https://host/gw"))
    [request] = server.requests
    start = f"app;{int(NOW * 1000)};{'1':0>32};POST;/gw/api/watch/subscribe;".encode()
    given = request.headers["X-Signature-signature"]
    assert given == signature_of(start + BODY, CREDENTIALS.secret)


def test_the_secret_is_not_shown():
    server = Play([CUT, success()])
    server.run(ask())
    assert CREDENTIALS.secret not in repr(server.effects)


@pytest.mark.parametrize(
    "passing",
    [
        CUT,
        UNREACHED,
        error("000001", status=500),
        error("000002", status=429),
        said(HTML, status=502),
        said(HTML, status=503),
        said(HTML, status=504),
    ],
)
def test_every_attempt_has_its_own_stamp_and_pauses_grow(passing):
    server = Play([passing, passing, passing, success()], takes=0.125, draw=0.5)
    server.run(ask())
    stamps = [stamp_of(request) for request in server.requests]
    assert len({nonce for _, nonce in stamps}) == 4
    times = [time for time, _ in stamps]
    assert times == sorted(set(times))
    signatures = {each.headers["X-Signature-signature"] for each in server.requests}
    assert len(signatures) == 4
    assert {each.content for each in server.requests} == {BODY}
    assert server.pauses == [0.375, 0.75, 1.5]


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (CUT, TransportError),
        (error("000001", status=500), WatchBusError),
        (error("000002", status=429), RateLimited),
        (said(HTML, status=503), WatchBusError),
    ],
)
def test_after_the_last_attempt_the_error_is_raised(outcome, kind):
    server = Play([outcome] * 4)
    with pytest.raises(kind):
        server.run(ask())
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (BAD_CERTIFICATE, TransportError),
        (error("000001", status=400), WatchBusError),
        (error("000003", "invalid appid", status=401), WatchBusError),
        (error("000005", "invalid signature", status=401), WatchBusError),
        (error("000005", "replay request", status=401), WatchBusError),
        (said({"status": "OK", "code": "000001"}), WatchBusError),
        (said(b"", status=307, location="https://other"), WatchBusError),
        (said(HTML), DecodeError),
        (said(HTML, status=404), WatchBusError),
    ],
)
def test_a_permanent_error_is_not_retried(outcome, kind):
    server = Play([outcome])
    with pytest.raises(kind):
        server.run(ask())
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "outcome", [CUT, error("000001", status=500), said(HTML, status=502)]
)
def test_a_request_that_may_have_been_carried_out_is_not_repeated(outcome):
    server = Play([outcome])
    with pytest.raises(OrtegeWatchError):
        server.run(ask(is_repeatable=False))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "outcome",
    [UNREACHED, error("000002"), error("000002", status=429), said(HTML, status=503)],
)
def test_a_request_that_was_certainly_not_carried_out_is_repeated(outcome):
    server = Play([outcome, success("done")])
    assert server.run(ask(is_repeatable=False)) == "done"


def test_retry_after_is_respected():
    server = Play([error("000002", retry_after="7"), success()])
    server.run(ask())
    assert server.pauses == [7.0]


def test_a_retry_after_of_hours_is_five_minutes(caplog):
    server = Play([error("000002", retry_after="3601"), success()])
    server.run(ask(deadline=None))
    assert server.pauses == [300.0]
    [line] = caplog.records
    assert line.name == "ortege_watch.watchbus"
    assert "asked to wait 3601 s; next attempt in 300 s" in line.getMessage()


def test_the_deadline_ends_the_attempts():
    server = Play([error("000002")] * 9, takes=2.0)
    with pytest.raises(DeadlineExceeded, match=r"5\.0 s leaves no time .*000002"):
        server.run(ask(deadline=5.0, retry=Retry(attempts=9)))
    assert [each.limit for each in server.requests] == [5.0, 2.75, 0.25]
    assert [each.timeout for each in server.requests] == [5.0, 2.75, 0.25]


def test_the_deadline_ends_a_request():
    server = Play([EXPIRED])
    with pytest.raises(DeadlineExceeded) as caught:
        server.run(ask())
    assert caught.value.__cause__ is EXPIRED.error


def test_without_a_deadline_a_request_has_no_limit():
    server = Play([success()])
    server.run(ask(deadline=None))
    assert server.requests[0].limit is None
    assert server.requests[0].timeout == 30.0


def expired(date=GMT, received_at=NOW - 900.0):
    return error(
        "000005", "timestamp is expired", status=401, date=date, received_at=received_at
    )


def test_an_expired_timestamp_corrects_the_clock_from_the_date(caplog):
    on = link()
    server = Play([expired(), success()], unix=NOW - 900.0)
    server.run(ask(on=on, is_repeatable=False))
    line = "our clock is 900 s behind bus.example.com: synchronise it"
    assert line in caplog.messages
    assert [stamp_of(each)[0] for each in server.requests] == [
        1_699_999_100_000,
        1_700_000_000_500,
    ]
    assert server.pauses == []
    assert on.skew.seconds == 900.5


def test_the_next_call_uses_the_corrected_clock():
    on = link()
    Play([expired(), success()], unix=NOW - 900.0).run(ask(on=on))
    server = Play([success()], unix=NOW - 800.0)
    server.run(ask(on=on))
    assert stamp_of(server.requests[0])[0] == 1_700_000_100_500


def test_the_clock_is_corrected_once_and_a_useless_correction_is_undone():
    on = link()
    on.skew.seconds = 3.0
    server = Play([expired(), expired()])
    with pytest.raises(WatchBusError, match="timestamp is expired"):
        server.run(ask(on=on))
    assert len(server.requests) == 2
    assert on.skew.seconds == 3.0


def test_a_correction_that_was_right_can_be_corrected_by_a_later_call():
    on = link()
    Play([expired(), success()]).run(ask(on=on))
    later = expired(received_at=NOW)  # somebody has set this machine's clock
    Play([later, success()]).run(ask(on=on))
    assert on.skew.seconds == 0.5


def test_a_clock_that_is_ahead_is_logged_as_that(caplog):
    Play([expired(received_at=NOW + 90.0), success()]).run(ask())
    line = "our clock is 90 s ahead of bus.example.com: synchronise it"
    assert line in caplog.messages


def test_a_server_clock_before_1970_gets_a_timestamp_of_0():
    server = Play([expired("Thu, 01 Jan 1960 00:00:00 GMT"), success()])
    server.run(ask())
    assert stamp_of(server.requests[1])[0] == 0


codes = st.sampled_from(["000001", "000002", "000003", "000005", "000099", "0", ""])
reasons = st.sampled_from([None, "timestamp is expired", "invalid signature"])
statuses = st.sampled_from([200, 204, 302, 400, 401, 404, 413, 429, 500, 502, 503])
bodies = st.one_of(
    st.binary(max_size=30),
    st.sampled_from([HTML, b"null", b"[]", b"{}", b'{"status":"OK"}']),
)
responses = st.one_of(
    st.builds(error, codes, reasons, statuses, date=st.sampled_from([GMT, "", "x"])),
    st.builds(said, bodies, status=statuses, retry_after=st.sampled_from(["", "2"])),
    st.just(success("done")),
    st.sampled_from([CUT, UNREACHED, BAD_CERTIFICATE, EXPIRED]),
)


@given(
    st.lists(responses, max_size=12),
    st.booleans(),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([0.0, 1.0, 40.0]),
    st.integers(1, 5),
)
def test_every_exchange_ends_with_a_result_or_an_error_of_this_library(
    outcomes, is_repeatable, draw, takes, attempts
):
    def script():
        yield from outcomes
        while True:
            yield CUT

    server = Play(script(), draw=draw, takes=takes)
    retry = Retry(attempts=attempts)
    failure = None
    try:
        server.run(ask(is_repeatable=is_repeatable, retry=retry))
    except OrtegeWatchError as caught:
        failure = caught
    assert CREDENTIALS.secret not in repr(failure)
    # One more than the attempts is the one after the clock's correction.
    assert 1 <= len(server.requests) <= attempts + 1
    nonces = [stamp_of(each)[1] for each in server.requests]
    assert len(set(nonces)) == len(nonces)
    assert server.now < math.inf


@given(st.lists(responses, max_size=8))
def test_a_request_that_is_not_repeatable_is_carried_out_once(outcomes):
    """A server that does what it is asked, whatever it answers then."""
    done = 0
    harmless = {"000002"}

    def act(outcome):
        def answer(_request):
            nonlocal done
            unsent = isinstance(outcome, Failure) and outcome.unsent
            refuses = not isinstance(outcome, Failure) and (
                outcome.status in {429, 503}
                or any(code.encode() in outcome.content for code in harmless)
                or b"timestamp is expired" in outcome.content
            )
            if not (unsent or refuses):
                done += 1
            return outcome

        return answer

    server = Play(map(act, [*outcomes, success("done")]))
    with contextlib.suppress(OrtegeWatchError):
        server.run(ask(is_repeatable=False, retry=Retry(attempts=20)))
    assert done <= 1
