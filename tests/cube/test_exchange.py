from __future__ import annotations

import contextlib
import json
import math

import pytest
from hypothesis import given, strategies as st

from ortege_watch import _json as codec
from ortege_watch._http.conversation import (
    Failure,
    GetToken,
    Pause,
    Request,
    Response,
    Retry,
    TimeBudget,
)
from ortege_watch._http.token_source import TokenSource
from ortege_watch.cube.calls import Call
from ortege_watch.errors import (
    ApiError,
    AuthenticationError,
    DeadlineExceeded,
    DecodeError,
    InvalidArgument,
    OrtegeWatchError,
    RateLimited,
    TransportError,
)
from ortege_watch.tokens import Secrets

DONE = Response(status=200, content=b'{"done":true}')
WAIT = Response(status=200, content=b'{"error":"Continue wait"}')
REFUSED = Response(status=403, content=b'{"error":"Invalid token"}')
BUSY = Response(status=503)
CUT = Failure(error=TransportError("cut off"), retry=True)


def read(content):
    value = codec.loads(content)
    if value != {"done": True}:
        raise DecodeError("not done")
    return value


def ask(**settings):
    known = {"api": "https://host/cubejs-api/v1", **KNOWN}
    known["started"] = settings.pop("started", 0.0)
    budget = TimeBudget(**settings)
    return Call(**known, budget=budget).ask("POST", "/load", read, b"{}")


TOKENS = TokenSource("unused")
KNOWN = {"request_id": "7d2b", "started": 0.0, "tokens": TOKENS}


def test_a_question_is_sent_with_a_token_and_an_id(play):
    server = play([DONE])
    assert server.run(ask()) == {"done": True}
    assert server.effects == [
        GetToken(TOKENS),
        Request(
            method="POST",
            url="https://host/cubejs-api/v1/load",
            headers={
                "accept": "application/json",
                "authorization": "Bearer token-1",
                "content-type": "application/json",
                "x-request-id": "7d2b-span-1",
            },
            secrets=Secrets(["token-1"]),
            content=b"{}",
            timeout=30.0,
            limit=300.0,
        ),
    ]


def test_a_token_that_is_known_is_not_asked_for(play):
    server = play([DONE])
    call = Call(api="https://host", **KNOWN, token="known-token", budget=TimeBudget())
    assert server.run(call.ask("GET", "/meta", read)) == {"done": True}
    assert [type(each) for each in server.effects] == [Request]
    assert server.requests[0].headers["authorization"] == "Bearer known-token"
    assert server.requests[0].secrets == Secrets(["known-token"])
    assert "known-token" not in repr((call, server.effects))


@pytest.mark.parametrize(("tokens", "requests"), [(["new"], 2), (["known"], 1)])
def test_a_known_token_that_is_refused_is_asked_for_once(play, tokens, requests):
    server = play([REFUSED] * 9, tokens=tokens)
    call = Call(api="https://host", **KNOWN, token="known", budget=TimeBudget())
    with pytest.raises(AuthenticationError, match="Invalid token"):
        server.run(call.ask("GET", "/meta", read))
    assert (len(server.requests), server.asked_tokens) == (requests, 1)


def test_a_question_without_a_body_has_no_content_type(play):
    server = play([DONE])
    call = Call(api="https://host", **KNOWN, budget=TimeBudget())
    server.run(call.ask("GET", "/meta", read))
    assert server.requests[0].content is None
    assert "content-type" not in server.requests[0].headers


def test_nothing_shows_the_token(play):
    server = play([DONE])
    server.run(ask())
    assert "token-1" not in repr(server.effects)


def test_continue_wait_is_asked_again_at_once_under_one_id(play):
    server = play([WAIT, WAIT, WAIT, DONE], takes=5.0)
    assert server.run(ask()) == {"done": True}
    assert server.pauses == []
    assert server.asked_tokens == 1
    assert [each.headers["x-request-id"] for each in server.requests] == [
        f"7d2b-span-{n}" for n in (1, 2, 3, 4)
    ]
    assert [each.limit for each in server.requests] == [300.0, 295.0, 290.0, 285.0]
    assert len({each.content for each in server.requests}) == 1


def test_a_server_that_does_not_hold_requests_is_not_hammered(play):
    server = play([*[WAIT] * 15, DONE], takes=0.25)
    server.run(ask())
    assert server.pauses == [0.75] * 5


def test_continue_wait_ends_with_the_deadline(play):
    server = play([WAIT] * 100, takes=5.0)
    with pytest.raises(DeadlineExceeded, match=r"within 12\.0 s; .* still working"):
        server.run(ask(deadline=12.0))
    assert server.now == 15.0
    assert [each.timeout for each in server.requests] == [12.0, 7.0, 2.0]


def test_without_a_deadline_waiting_goes_on(play):
    server = play([*[WAIT] * 1000, DONE], takes=5.0)
    assert server.run(ask(deadline=None)) == {"done": True}
    assert server.requests[-1].limit is None


@pytest.mark.parametrize("outcome", [BUSY, CUT, Response(status=429)])
def test_what_passes_is_retried_after_growing_pauses(play, outcome):
    server = play([outcome, outcome, outcome, DONE], draw=0.5)
    assert server.run(ask()) == {"done": True}
    assert server.pauses == [0.375, 0.75, 1.5]


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [(BUSY, ApiError), (CUT, TransportError), (Response(status=429), RateLimited)],
)
def test_after_the_last_attempt_its_error_is_raised(play, outcome, kind):
    server = play([outcome] * 9)
    with pytest.raises(kind):
        server.run(ask(retry=Retry(attempts=3)))
    assert len(server.requests) == 3
    assert len(server.pauses) == 2


def test_one_attempt_retries_nothing(play):
    server = play([BUSY] * 9)
    with pytest.raises(ApiError, match="503"):
        server.run(ask(retry=Retry(attempts=1)))
    assert (len(server.requests), server.pauses) == (1, [])


def test_attempts_are_counted_in_a_row(play):
    outcomes = [BUSY, BUSY, WAIT, BUSY, BUSY, WAIT, BUSY, BUSY, DONE]
    assert play(outcomes).run(ask(retry=Retry(attempts=3))) == {"done": True}


@pytest.mark.parametrize(
    ("retry_after", "pause"), [("7", 7.0), ("0", 0.25), ("0.1", 0.25), ("soon", 0.25)]
)
def test_retry_after_makes_a_pause_longer(play, answer, retry_after, pause):
    server = play([answer(503, retry_after=retry_after), DONE])
    server.run(ask())
    assert server.pauses == [pause]


def test_a_pause_beyond_the_deadline_is_not_begun(play, answer):
    server = play([answer(429, retry_after="60")] * 9)
    with pytest.raises(DeadlineExceeded) as caught:
        server.run(ask(deadline=60.0))
    assert server.pauses == []
    assert isinstance(caught.value.__cause__, RateLimited)
    assert caught.value.__cause__.retry_after == 60


@pytest.mark.parametrize("asked", ["3600", "86400", "9" * 10, "9" * 400])
def test_nothing_makes_a_pause_longer_than_five_minutes(play, answer, asked, caplog):
    server = play([answer(429, retry_after=asked), DONE])
    assert server.run(ask(deadline=None)) == {"done": True}
    assert server.pauses == [300]
    [line] = caplog.records
    assert line.name == "ortege_watch.cube"
    assert line.levelname == "WARNING"
    assert line.getMessage().startswith("host: POST /cubejs-api/v1/load: ")
    known = min(float(asked), 86_400)  # retry_after is at most a day
    assert f"asked to wait {known:.0f} s; next attempt in 300 s" in caplog.text


def test_the_last_failure_keeps_what_the_server_asked_for(play, answer):
    server = play([answer(429, retry_after="86400")] * 9)
    with pytest.raises(RateLimited) as caught:
        server.run(ask(deadline=None))
    assert server.pauses == [300] * 3
    assert caught.value.retry_after == 86400


def test_retries_and_continue_wait_are_logged(play, caplog):
    server = play([WAIT, REFUSED, CUT, DONE])
    server.run(ask())
    assert [(line.levelname, line.getMessage()) for line in caplog.records] == [
        ("DEBUG", "host: POST /cubejs-api/v1/load: Continue wait"),
        (
            "DEBUG",
            (
                "host: POST /cubejs-api/v1/load: Invalid token"
                " (status 403, request 7d2b-span-2)"
            ),
        ),
        (
            "WARNING",
            "host: POST /cubejs-api/v1/load: cut off; next attempt in 0.25 s",
        ),
    ]


@pytest.mark.parametrize("takes", [0.0, 400.0])
def test_an_attempt_that_the_deadline_ended_says_so(play, takes):
    failure = Failure(error=TransportError("slow"), retry=True, expired=not takes)
    server = play([failure] * 9, takes=takes)
    with pytest.raises(DeadlineExceeded) as caught:
        server.run(ask())
    assert caught.value.__cause__ is failure.error
    assert len(server.requests) == 1


def test_an_answer_after_the_deadline_is_still_an_answer(play):
    assert play([DONE], takes=400.0).run(ask()) == {"done": True}


def test_a_slow_token_provider_uses_up_the_deadline(play):
    conversation = ask(started=-301.0)
    with pytest.raises(DeadlineExceeded, match=r"within 300\.0 s$"):
        play([DONE]).run(conversation)


def test_what_cannot_pass_is_not_retried(play):
    failure = Failure(error=TransportError("bad certificate"))
    server = play([failure] * 9)
    with pytest.raises(TransportError) as caught:
        server.run(ask())
    assert caught.value is failure.error
    assert len(server.requests) == 1


def test_a_refused_token_is_replaced_once(play):
    server = play([REFUSED, DONE])
    assert server.run(ask()) == {"done": True}
    assert [each.headers["authorization"] for each in server.requests] == [
        "Bearer token-1",
        "Bearer token-2",
    ]


def test_two_refused_tokens_are_enough(play):
    server = play([REFUSED] * 9)
    with pytest.raises(AuthenticationError, match="Invalid token"):
        server.run(ask())
    assert (len(server.requests), server.asked_tokens) == (2, 2)


def test_the_same_token_is_not_tried_again(play):
    server = play([REFUSED] * 9, tokens=["one", "one"])
    with pytest.raises(AuthenticationError) as caught:
        server.run(ask())
    assert (len(server.requests), server.asked_tokens) == (1, 2)
    assert caught.value.advice.startswith("the token is a fixed string: pass")


def test_a_page_that_refuses_the_token_says_nothing_about_it(play, answer):
    server = play([answer(401, b"<html>log in")] * 9, tokens=["one", "one"])
    with pytest.raises(AuthenticationError) as caught:
        server.run(ask())
    assert caught.value.advice == ""


@pytest.mark.parametrize(
    "content", [b'{"error":"x"}', b'{"error":"API scope is missing: data"}']
)
@pytest.mark.parametrize("status", [400, 500])
def test_a_refused_query_is_not_sent_again(play, status, content):
    server = play([Response(status=status, content=content)] * 9)
    with pytest.raises(ApiError):
        server.run(ask())
    assert (len(server.requests), server.asked_tokens) == (1, 1)


def test_a_missing_scope_is_no_bad_token(play, answer):
    server = play([answer(403, {"error": "API scope is missing: data"})] * 9)
    with pytest.raises(ApiError) as caught:
        server.run(ask())
    assert not isinstance(caught.value, AuthenticationError)
    assert (len(server.requests), server.asked_tokens) == (1, 1)


outcomes = st.one_of(
    st.builds(
        Response,
        status=st.sampled_from([200, 200, 204, 302, 400, 401, 403, 404, 429, 500, 503]),
        headers=st.dictionaries(
            st.sampled_from(["retry-after", "date", "location"]),
            st.text(max_size=5) | st.integers(0, 10**12).map(str),
        ),
        content=st.binary(max_size=20)
        | st.sampled_from([WAIT.content, REFUSED.content, DONE.content, b"null"])
        | st.builds(lambda text: json.dumps({"error": text}).encode(), st.text()),
    ),
    st.builds(
        Failure,
        error=st.just(TransportError("x")),
        retry=st.booleans(),
        expired=st.booleans(),
    ),
    st.just(WAIT),
    st.just(BUSY),
)


@given(
    outcomes=st.lists(outcomes),
    takes=st.floats(0.0, 20.0),
    draw=st.floats(0, 1, exclude_max=True),
    attempts=st.integers(1, 5),
)
def test_every_conversation_ends_in_time(play, outcomes, takes, draw, attempts):
    # After the script, the server works on for ever.
    def script():
        yield from outcomes
        while True:
            yield WAIT

    server = play(script(), takes=takes, draw=draw)
    with contextlib.suppress(OrtegeWatchError):
        server.run(ask(deadline=100.0, retry=Retry(attempts=attempts)))
    assert server.now < 100.0 + takes + 1e-6
    assert all(0 < each.timeout <= 30.0 for each in server.requests)
    assert all(0 < each.limit <= 100.0 for each in server.requests)
    assert all(isinstance(each, Pause | Request | GetToken) for each in server.effects)
    assert server.asked_tokens <= 2
    # Ten quick waits in all are free, then one a second; failures are counted in a row.
    assert len(server.requests) <= (10 + 101) * attempts + 2


def waits(outcome):
    return isinstance(outcome, Response) and outcome.content == WAIT.content


@given(outcomes=st.lists(outcomes.filter(lambda outcome: not waits(outcome))))
def test_without_waiting_attempts_are_few(play, outcomes):
    server = play([*outcomes, *[BUSY] * 9])
    with contextlib.suppress(OrtegeWatchError):
        server.run(ask(deadline=None))
    assert len(server.requests) <= 5


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": math.nan},
        {"timeout": math.inf},
        {"timeout": None},
        {"deadline": 0},
        {"deadline": math.inf},
        {"deadline": 1e9},
    ],
)
def test_limits_are_seconds(settings):
    (name,) = settings
    with pytest.raises(InvalidArgument, match=f"{name} must be greater than 0"):
        TimeBudget(**settings)


@pytest.mark.parametrize("settings", [{"attempts": 0}, {"base": 0}, {"cap": 0.1}])
def test_a_retry_has_attempts_and_pauses(settings):
    with pytest.raises(InvalidArgument, match="must be"):
        Retry(**settings)
