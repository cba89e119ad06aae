"""The state machine by transcripts: what happened, and what it does about it."""

from __future__ import annotations

import base64
import json
import logging
import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from msgspec import structs

from ortege_watch import _json as codec
from ortege_watch._http.statuses import api_error
from ortege_watch.errors import (
    ApiError,
    AuthenticationError,
    DecodeError,
    OrtegeWatchError,
    QueryRejected,
    RateLimited,
    SubscriptionLost,
    TransportError,
)
from ortege_watch.query.added_keys import AddedKeys
from ortege_watch.watch import frames
from ortege_watch.watch.options import Reconnect, Settings, SharedFailures
from ortege_watch.watch.session import DialectChoice, Session
from ortege_watch.watch.states import (
    AskingToken,
    AskToken,
    Authorizing,
    Closed,
    Connecting,
    ConnectionState,
    DeadlinePassed,
    Deliver,
    Disconnect,
    Dropped,
    Effect,
    Event,
    Fail,
    Finish,
    Live,
    Open,
    Opened,
    OpenFailed,
    Ping,
    Poll,
    Polled,
    PollFailed,
    Polling,
    Pong,
    Received,
    Send,
    SwitchDialect,
    TokenFailed,
    TokenReady,
    Unreadable,
    Waiting,
)

COMPACT = {"responseFormat": "compact"}
FORM_REFUSED = 'Invalid query format: "responseFormat" is not allowed'
COUNT = {"measures": ["events.count"]}
SUM = {"measures": ["events.asset_amount"], "dimensions": ["events.sender_address"]}


def jwt(**claims) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode())
    return f"x.{payload.decode().rstrip('=')}.x"


class Script:
    """A session, a clock that stands still until moved, and what was done."""

    def __init__(
        self,
        queries=None,
        *,
        dialect="cube",
        may_switch=True,
        confirmed=False,
        previous_error=None,
        settings=None,
        jitter=lambda: 0.0,
        failures=0,
        added_keys=None,
        **options,
    ):
        self.now = 1000.0
        self.choice = DialectChoice(dialect, may_switch, confirmed, previous_error)
        self.failures = SharedFailures((settings or Settings()).reconnect)
        self.failures.count = failures
        self.session = Session(
            queries or {"1": COUNT},
            server="cube.example",
            choice=self.choice,
            settings=settings or Settings(),
            added_keys=added_keys or AddedKeys(),
            failures=self.failures,
            jitter=jitter,
            new_id=lambda: "an-id",
            advice=lambda: "pass a function",
            now=self.now,
            **options,
        )

    @property
    def state(self):
        return self.session.state

    def on(self, event: Event) -> list[Effect]:
        return self.session.handle(event, self.now)

    def wait(self, seconds: float = 0.0) -> list[Effect]:
        """Move the clock, or let it come to the deadline; then say so."""
        deadline = self.session.state.until
        assert deadline is not None
        self.now = self.now + seconds if seconds else max(self.now, deadline)
        return self.on(DeadlinePassed())

    def receive(self, frame: frames.Frame) -> list[Effect]:
        return self.on(Received(frame))

    def go_live(self, token: str = "t", expires_at: float | None = None) -> None:
        assert self.wait() == [AskToken()]
        assert self.on(TokenReady(token, expires_at)) == [Open(token)]
        self.on(Opened())
        if self.session.dialect == "cube":
            self.receive(frames.Handshake())
        assert isinstance(self.state, Live)


def answer(rows: str = "[]", *, key: str | None = "1", at: str | None = None):
    part = {"data": json.loads(rows), "lastRefreshTime": at}
    body = codec.decode_body(codec.dumps({"results": [part]}).encode())
    return frames.Answer(key, body, 200)


def refusal(message: str, status: int = 400, key: str | None = "1"):
    body = codec.decode_body(codec.dumps({"error": message}).encode())
    return frames.Answer(key, body, status)


def sent(effects: list[Effect]) -> list[dict]:
    return [json.loads(e.text) for e in effects if isinstance(e, Send)]


def kinds(effects: list[Effect]) -> list[type]:
    return [type(effect) for effect in effects]


def part(rows: str = "[]", at: str | None = None):
    return answer(rows, at=at).body.parts[0]


GONE = Dropped(1006, TransportError("gone"))
INVALID = frames.FrameError(403, "Invalid token")


# ------------------------------------------------------------------ the way to live


def test_token_socket_authorisation_then_every_query():
    script = Script({"1": COUNT, "2": SUM})
    assert script.session.state.connection is ConnectionState.WAITING
    assert script.wait() == [AskToken()]
    assert script.on(TokenReady("jwt")) == [Open("jwt")]
    assert script.session.state.connection is ConnectionState.CONNECTING
    assert sent(script.on(Opened())) == [{"authorization": "jwt"}]
    subscribed = sent(script.receive(frames.Handshake()))
    assert subscribed == [
        {
            "messageId": key,
            "requestId": "an-id",
            "method": "subscribe",
            "params": {"query": {**query, **COMPACT}, "queryType": "multi"},
        }
        for key, query in (("1", COUNT), ("2", SUM))
    ]
    assert script.session.state.connection is ConnectionState.LIVE
    assert script.choice.confirmed


def test_the_first_delay_is_kept():
    script = Script(delay=3.0)
    assert script.session.state.until == script.now + 3.0
    script.now += 2.9
    assert script.on(DeadlinePassed()) == []


def test_a_token_is_in_no_repr():
    script = Script()
    script.wait()
    effects = script.on(TokenReady("s3cret"))
    shown = repr([effects, script.state, TokenReady("s3cret")])
    shown += repr(script.on(Opened())) + repr(script.state)
    script.receive(frames.Handshake())
    shown += repr(script.state) + repr(script.session) + repr(script.choice)
    assert "s3cret" not in shown


@pytest.mark.parametrize(
    ("prepare", "event", "words"),
    [
        ([], DeadlinePassed(), "the token function did not return within 30 s"),
        ([TokenReady("t")], OpenFailed(TransportError("no route")), "no route"),
        ([TokenReady("t")], OpenFailed(TransportError("busy"), 503), "busy"),
        (
            [TokenReady("t")],
            DeadlinePassed(),
            "no answer to the WebSocket upgrade within 20 s",
        ),
        ([TokenReady("t"), Opened()], GONE, "gone"),
        (
            [TokenReady("t"), Opened(), Received(INVALID)],
            TokenFailed(OrtegeWatchError("no luck")),
            "no luck",
        ),
        ([TokenReady("t"), Opened(), Received(frames.Handshake())], GONE, "gone"),
    ],
)
def test_every_outage_on_the_way_is_logged_and_tried_again(
    prepare, event, words, caplog
):
    script = Script()
    script.wait()
    for step in prepare:
        script.on(step)
    if isinstance(event, DeadlinePassed):
        script.now = script.session.state.until
    script.on(event)
    log = caplog.records[-1]
    assert (log.name, log.levelno) == ("ortege_watch.watch", logging.WARNING)
    assert log.message.startswith("cube.example: ")
    assert words in log.message
    assert "next attempt in 0.5 s" in log.message
    assert script.state == Waiting(script.now + 0.5)
    assert script.wait() == [AskToken()]


def test_a_provider_that_fails_at_first_ends_it_and_later_is_tried_again():
    error = OrtegeWatchError("the provider failed")
    script = Script()
    script.wait()
    assert script.on(TokenFailed(error)) == [Disconnect(), Finish(error)]

    script = Script()
    script.go_live()
    script.on(GONE)
    script.wait()
    assert script.on(TokenFailed(error)) == []
    assert isinstance(script.state, Waiting)


def test_attempts_may_be_limited():
    script = Script(settings=Settings(reconnect=Reconnect(attempts=2)))
    error = TransportError("no route")
    script.wait()
    script.on(TokenReady("t"))
    assert script.on(OpenFailed(error)) == []
    script.wait()
    script.on(TokenReady("t"))
    assert script.on(OpenFailed(error)) == [Disconnect(), Finish(error)]
    assert script.session.state.connection is ConnectionState.CLOSED


# ------------------------------------------------------------------ the form of rows


def forms(effects: list[Effect]) -> dict[str, str | None]:
    """Return in which form each query was sent, by message id."""
    asked = [each for each in sent(effects) if "unsubscribe" not in each]
    queries = {each["messageId"]: each["params"]["query"] for each in asked}
    return {key: query.get("responseFormat") for key, query in queries.items()}


def unsubscribed(effects: list[Effect]) -> list[str]:
    return [each["unsubscribe"] for each in sent(effects) if "unsubscribe" in each]


def renewed(key: str, times: int = 1) -> str:
    """Return the message id of a query that was sent without a key."""
    return f"{times}{int(key):06}"


def test_a_query_that_names_a_form_is_sent_as_it_is():
    script = Script({"1": COUNT | {"responseFormat": "default"}, "2": SUM})
    script.go_live()
    assert forms(script.wait(50.0)) == {"1": "default", "2": "compact"}


def test_a_server_that_refuses_the_form_is_sent_every_query_without_it(caplog):
    script = Script({"1": COUNT, "2": SUM})
    script.go_live()
    caplog.set_level(logging.INFO)
    script.now += 20.0
    resent = script.receive(refusal(FORM_REFUSED, key="2"))
    assert unsubscribed(resent) == ["1", "2"]
    assert forms(resent) == {renewed("1"): None, renewed("2"): None}
    said = "the server does not know 'responseFormat' in a query"
    assert caplog.messages[-1] == (
        f"cube.example: {said}; sending the queries without it"
    )
    [deliver] = script.receive(answer(key=renewed("1")))
    assert deliver.message_id == "1"
    assert script.state.resend_at == script.now + 50.0
    script.now += 50.0
    again = script.on(DeadlinePassed())
    assert forms(again) == {renewed("1"): None, renewed("2"): None}
    assert unsubscribed(again) == []


def test_no_other_session_of_the_client_asks_for_a_refused_form():
    known = AddedKeys()
    first, second = Script(added_keys=known), Script(added_keys=known)
    second.go_live()
    first.go_live()
    assert forms(first.receive(refusal(FORM_REFUSED))) == {renewed("1"): None}
    assert forms(second.wait(50.0)) == {renewed("1"): None}
    late = second.receive(refusal(FORM_REFUSED))  # of what it sent before
    assert sent(late) == [{"unsubscribe": "1"}]
    third = Script(added_keys=known)
    third.wait()
    third.on(TokenReady("t"))
    third.on(Opened())
    assert forms(third.receive(frames.Handshake())) == {"1": None}
    [fail, _] = third.receive(refusal(FORM_REFUSED))[:2]
    assert isinstance(fail, Fail)


def test_refusals_of_the_first_frame_may_arrive_late_and_in_any_number():
    script = Script({"1": COUNT, "2": SUM})
    script.go_live()
    script.receive(refusal(FORM_REFUSED))
    for key in ("1", "2", "1", "1", "2"):
        late = [refusal(FORM_REFUSED, key=key), answer(key=key)]
        for frame in late:  # it is not delivered, or reported
            assert sent(script.receive(frame)) == [{"unsubscribe": key}]
        assert script.receive(frames.Processed(key)) == []
        assert script.on(Unreadable(DecodeError("x"), key)) == []
    assert script.state.ask_at is None
    assert kinds(script.receive(answer(key=renewed("2")))) == [Deliver]


def test_a_refusal_of_the_query_without_the_form_is_reported():
    script = Script({"1": COUNT, "2": SUM})
    script.go_live()
    script.receive(refusal(FORM_REFUSED))
    [fail, unsubscribe] = script.receive(refusal(FORM_REFUSED, key=renewed("1")))
    assert (fail.message_id, fail.final) == ("1", True)
    assert json.loads(unsubscribe.text) == {"unsubscribe": renewed("1")}
    assert script.receive(refusal(FORM_REFUSED, key=renewed("1"))) == []  # it has ended
    assert kinds(script.receive(answer(key=renewed("2")))) == [Deliver]


@pytest.mark.parametrize(
    "key", ["3", renewed("3"), renewed("1", 2), "x", "-1", "9" * 30]
)
def test_an_id_that_no_query_had_costs_the_socket(key):
    script = Script({"1": COUNT, "2": SUM})
    script.go_live()
    script.receive(refusal(FORM_REFUSED))
    assert script.receive(answer(key=key)) == [Disconnect()]


def test_an_unreadable_answer_is_asked_for_by_its_new_id():
    script = Script({"1": COUNT, "2": SUM})
    script.go_live()
    script.receive(refusal(FORM_REFUSED))
    [fail] = script.on(Unreadable(DecodeError("x"), renewed("2")))
    assert fail.message_id == "2"
    asked = script.wait()
    assert unsubscribed(asked) == list(forms(asked)) == [renewed("2")]


def test_a_query_with_a_new_id_is_not_asked_again_for_what_had_the_old_one():
    script = Script({"1": COUNT, "2": SUM})
    script.go_live()
    script.on(Unreadable(DecodeError("x"), "2"))
    script.receive(refusal(FORM_REFUSED))  # both are sent again
    assert script.state.ask_at is None


def test_a_new_socket_knows_nothing_of_the_form_of_the_last_one():
    known = AddedKeys()
    script, other = Script(added_keys=known), Script(added_keys=known)
    for each in (script, other):
        each.go_live()
    other.receive(refusal(FORM_REFUSED))
    for each in (script, other):
        each.on(GONE)
        each.go_live()
        assert isinstance(each.receive(refusal(FORM_REFUSED))[0], Fail)


def test_the_form_that_the_caller_names_is_refused_for_good():
    script = Script({"1": COUNT | {"responseFormat": "columnar"}, "2": SUM})
    script.go_live()
    [fail, _] = script.receive(refusal(FORM_REFUSED))
    assert (fail.message_id, fail.final) == ("1", True)
    assert forms(script.wait(50.0)) == {"2": "compact"}


def test_other_errors_say_nothing_of_the_form():
    script = Script({"1": COUNT, "2": SUM})
    script.go_live()
    for error, status in (
        (FORM_REFUSED, 500),
        ('Invalid query format: "order" is not allowed', 400),
    ):
        assert isinstance(script.receive(refusal(error, status))[0], Fail)
    assert forms(script.wait(50.0)) == {"2": "compact"}


# ----------------------------------------------------------------------- back-off


def test_delays_double_while_sessions_do_not_hold():
    script = Script()
    delays = []
    for _ in range(9):
        script.go_live()
        script.now += 9.9
        script.on(GONE)
        delays.append(script.session.state.until - script.now)
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_delays_are_drawn():
    draws = iter([0.0, 0.5, 0.75])
    script = Script(jitter=lambda: next(draws))
    delays = []
    for _ in range(3):
        script.go_live()
        script.on(GONE)
        delays.append(script.session.state.until - script.now)
    assert delays == [0.5, 1.5, 3.5]


def test_delays_restart_after_a_session_that_held():
    script = Script()
    for _ in range(5):
        script.go_live()
        script.on(GONE)
    script.go_live()
    script.now += 10.0
    script.on(GONE)
    assert script.session.state.until - script.now == 0.5


def test_a_server_that_accepts_and_drops_is_not_hammered():
    script = Script()
    start, attempts = script.now, 0
    while script.now - start < 60:
        script.go_live()
        attempts += 1
        script.on(GONE)
        script.now = script.session.state.until
    assert attempts <= 10


# ------------------------------------------------------------------------- tokens


def test_a_refused_token_is_asked_for_once_more_on_the_same_socket():
    script = Script()
    script.wait()
    script.on(TokenReady("old"))
    script.on(Opened())
    assert script.receive(INVALID) == [AskToken()]
    assert sent(script.on(TokenReady("new"))) == [{"authorization": "new"}]
    script.receive(frames.Handshake())
    assert isinstance(script.state, Live)


@pytest.mark.parametrize("second", ["old", "new"])
def test_a_second_refusal_is_final(second):
    script = Script()
    script.wait()
    script.on(TokenReady("old"))
    script.on(Opened())
    script.receive(INVALID)
    effects = script.on(TokenReady(second))
    if second == "new":
        effects = script.receive(INVALID)
    assert kinds(effects) == [Disconnect, Finish]
    assert isinstance(effects[1].error, AuthenticationError)
    assert effects[1].error.message == "Invalid token"
    assert effects[1].error.advice == ("pass a function" if second == "old" else "")


@pytest.mark.parametrize("second", ["old", "new"])
def test_an_upgrade_may_refuse_the_token_too(second):
    script = Script()
    script.wait()
    script.on(TokenReady("old"))
    assert script.on(OpenFailed(TransportError("HTTP 401"), 401)) == [AskToken()]
    assert isinstance(script.state, AskingToken)
    effects = script.on(TokenReady(second))
    if second == "new":
        assert effects == [Open("new")]
        effects = script.on(OpenFailed(TransportError("HTTP 401"), 401))
    assert isinstance(effects[-1].error, AuthenticationError)


def test_a_token_is_renewed_on_the_live_socket_before_it_expires(caplog):
    caplog.set_level("INFO", "ortege_watch.watch")
    script = Script()
    script.go_live("one", expires_at=script.now + 400)
    while not (effects := script.wait()) == [AskToken()]:
        script.receive(frames.Processed("1"))
        assert not [s for s in sent(effects) if "authorization" in s]
    assert script.now == 1000 + 340
    assert sent(script.on(TokenReady("two", script.now + 400))) == [
        {"authorization": "two"}
    ]
    assert caplog.messages[-1] == "cube.example: authenticating with a new token"
    assert script.receive(frames.Handshake()) == []
    assert script.state.handshake_by is None
    assert script.state.token == "two"


def test_a_short_token_is_renewed_after_three_quarters():
    script = Script()
    script.go_live("one", expires_at=script.now + 40)
    assert script.wait() == [AskToken()]
    assert script.now == 1000 + 30


@pytest.mark.parametrize(("left", "wait"), [(2.0, 1.5), (0.5, 1.0), (-5.0, 10.0)])
def test_a_token_that_is_nearly_over_does_not_make_it_hammer(left, wait):
    script = Script()
    script.go_live("one", expires_at=script.now + left)
    assert script.state.renew_at == script.now + wait


def test_a_provider_without_a_newer_token_is_asked_again_later():
    script = Script()
    script.go_live("one", expires_at=script.now + 40)
    script.wait()
    assert script.on(TokenReady("one", 1040.0)) == []
    assert script.wait() == [AskToken()]
    assert script.on(TokenFailed(OrtegeWatchError("down"))) == []
    assert isinstance(script.state, Live)
    assert script.wait() == [AskToken()]


def test_a_renewed_token_that_is_refused_is_asked_for_once_more():
    script = Script()
    script.go_live("one", expires_at=script.now + 40)
    script.wait()
    script.on(TokenReady("two", 1080.0))
    assert script.receive(INVALID) == [AskToken()]
    assert sent(script.on(TokenReady("three", 1080.0))) == [{"authorization": "three"}]
    effects = script.receive(INVALID)
    assert isinstance(effects[-1].error, AuthenticationError)


@pytest.mark.parametrize("answer_of", ["handshake", "upgrade", "live socket"])
@pytest.mark.parametrize("third", ["one", "two"])
def test_a_provider_that_repeats_a_refused_token_is_called_after_a_delay(
    answer_of, third
):
    script = Script()
    script.go_live("one")
    if answer_of != "live socket":
        script.on(GONE)
        script.wait()
        script.on(TokenReady("one"))
    if answer_of == "upgrade":
        script.on(OpenFailed(TransportError("HTTP 401"), 401, message="jwt expired"))
    else:
        script.on(Opened())
        script.receive(INVALID)
    assert script.on(TokenReady("one")) == [Disconnect()]
    assert isinstance(script.state, Waiting)
    assert script.wait() == [AskToken()]
    assert script.on(TokenReady(third)) == [Open(third)]
    script.on(Opened())
    effects = script.receive(INVALID)  # the second refusal in a row
    assert isinstance(effects[-1].error, AuthenticationError)


def warnings(caplog) -> list[str]:
    return [each.message for each in caplog.records if each.levelname == "WARNING"]


def test_a_provider_that_returns_expired_tokens_is_warned_about_once(caplog):
    good, expired, other = (jwt(exp=at) for at in (1_800_000_000, 1_000, 2_000))
    script = Script()
    script.go_live(good, expires_at=script.now + 5)
    for token in (expired, other, expired):
        while AskToken() not in script.wait():
            script.receive(frames.Processed("1"))
        assert script.on(TokenReady(token, script.now - 60)) == []  # not sent
        assert script.state.token == good
    [line] = warnings(caplog)
    assert line == (
        "cube.example: the token function returned a token that expired at"
        " 1970-01-01T00:16:40+00:00; expected a newer one"
    )


def test_a_provider_that_repeats_its_token_is_warned_about_once(caplog):
    token = jwt(exp=1_800_000_000)
    script = Script()
    until = script.now + 5
    script.go_live(token, expires_at=until)
    for calls in range(1, 6):
        while AskToken() not in script.wait():
            script.receive(frames.Processed("1"))
        script.on(TokenReady(token, until))
        assert len(warnings(caplog)) == (calls > 1)
    assert "a token that expires at 2027-01-15T08:00:00+00:00; expected" in caplog.text


def test_an_expired_token_at_connect_is_warned_about_and_tried(caplog):
    # the clock of this machine may be wrong
    script = Script()
    script.go_live(jwt(exp=-1e300), expires_at=script.now - 1e300)
    assert "a token that expired at -1e+300; expected" in caplog.text
    assert isinstance(script.state, Live)


def test_a_provider_that_fails_after_a_refusal_costs_the_socket():
    script = Script()
    script.go_live("one")
    script.receive(INVALID)
    assert script.on(TokenFailed(OrtegeWatchError("down"))) == [Disconnect()]
    assert isinstance(script.state, Waiting)


def test_a_provider_that_hangs_after_a_refusal_is_no_other_dialect(caplog):
    script = Script()
    script.wait()
    script.on(TokenReady("old"))
    script.on(Opened())
    assert script.receive(INVALID) == [AskToken()]
    script.now = script.session.state.until
    script.on(DeadlinePassed())
    assert "the token function did not return within 30 s" in caplog.text
    assert isinstance(script.state, Waiting)


def test_a_provider_that_hangs_on_a_renewal_is_asked_again():
    script = Script(settings=Settings(resend_every=1000.0))
    script.go_live("one", expires_at=script.now + 40)
    assert script.wait() == [AskToken()]
    assert script.wait() == [AskToken()]
    assert script.now == 1030 + 30
    assert sent(script.on(TokenReady("two"))) == [{"authorization": "two"}]
    script.receive(frames.Handshake())
    assert script.state.renew_at is None


def test_a_token_that_is_refused_for_a_query_twice_ends_that_query():
    script = Script({"1": COUNT, "2": SUM})
    script.go_live()
    forbidden = refusal("Forbidden for this cube", 403)
    script.receive(answer())
    assert script.receive(forbidden) == [Disconnect()]
    script.go_live()
    script.receive(answer())  # it was well again
    assert script.receive(forbidden) == [Disconnect()]
    script.go_live()
    effects = script.receive(forbidden)
    assert kinds(effects) == [Fail, Send]
    assert isinstance(effects[0].error, AuthenticationError)
    assert (effects[0].message_id, effects[0].final) == ("1", True)
    assert script.receive(forbidden) == []  # one frame in flight may follow
    assert kinds(script.receive(answer(key="2"))) == [Deliver]


@pytest.mark.parametrize("second", ["old", "new"])
def test_the_tutorial_dialect_takes_another_token_on_another_socket(second):
    script = Script(dialect="ortege")
    script.go_live("old")
    assert script.receive(INVALID) == [Disconnect()]
    assert script.wait() == [AskToken()]
    effects = script.on(TokenReady(second))
    if second == "new":
        assert effects == [Open("new")]
        assert [list(frame) for frame in sent(script.on(Opened()))] == [
            ["queryType", "query", "requestId"]
        ]
        effects = script.receive(INVALID)
    assert isinstance(effects[-1].error, AuthenticationError)


def test_a_renewal_without_an_answer_costs_the_socket():
    script = Script()
    script.go_live("one", expires_at=script.now + 40)
    script.wait()
    script.on(TokenReady("two", 2000.0))
    assert script.wait() == [Disconnect()]
    assert isinstance(script.state, Waiting)


# ------------------------------------------------------------------------ silence


def test_silence_is_pinged_and_then_given_up(caplog):
    script = Script(settings=Settings(resend_every=1000.0))
    script.go_live()
    assert script.wait() == [Ping()]
    assert script.now == 1060
    assert script.wait() == [Disconnect()]
    assert script.now == 1070
    assert "no response to a ping" in caplog.text


def test_a_pong_is_life_for_a_while():
    script = Script(settings=Settings(resend_every=1000.0))
    script.go_live()
    script.wait()
    assert script.on(Pong()) == []
    assert script.wait() == [Disconnect()]  # 120 s without a frame
    assert script.now == 1120


@pytest.mark.parametrize(
    "frame", [frames.Processed("1"), frames.Handshake(), answer(), refusal("Error: x")]
)
def test_any_frame_is_life(frame):
    script = Script(settings=Settings(resend_every=1000.0))
    script.go_live()
    script.wait()
    script.receive(frame)
    assert script.state.pong_by is None
    assert script.session.state.until == script.now + 60


def test_every_query_is_sent_again_within_a_minute():
    script = Script({"1": COUNT, "2": SUM})
    script.go_live()
    for _ in range(3):
        before = script.now
        effects = script.wait()
        assert script.now - before <= 60
        assert [frame["messageId"] for frame in sent(effects)] == ["1", "2"]
        script.receive(frames.Processed("1"))


# ---------------------------------------------------------------- snapshots, errors


def test_snapshots_are_delivered_and_marked_after_an_outage():
    script = Script()
    script.go_live()
    [first] = script.receive(answer('[{"a": "1"}]'))
    assert first == Deliver("1", first.part, resumed=False)
    [again] = script.receive(answer())
    assert not again.resumed
    script.on(GONE)
    script.go_live()
    [resumed] = script.receive(answer())
    assert resumed.resumed
    [after] = script.receive(answer())
    assert not after.resumed


def test_continue_wait_is_never_shown():
    script = Script()
    script.go_live()
    assert script.receive(refusal("Continue wait", 200)) == []
    assert isinstance(script.state, Live)


def test_an_older_snapshot_waits_for_a_newer_one():
    script = Script()
    script.go_live()
    script.receive(answer("[1]", at="2026-11-22T06:00:09.000Z"))
    assert script.receive(answer("[0]", at="2026-11-22T06:00:01.000Z")) == []
    [newer] = script.receive(answer("[2]", at="2026-11-22T06:00:10.000Z"))
    assert bytes(newer.part.data) == b"[2]"
    assert script.state.release_at is None


def test_an_older_snapshot_is_believed_in_the_end():
    script = Script(settings=Settings(hold_stale_for=15.0))
    script.go_live()
    script.receive(answer("[1]", at="2026-11-22T06:00:09.000Z"))
    script.receive(answer("[0]", at="2026-11-22T06:00:01.000Z"))
    [late] = script.wait()
    assert script.now == 1015
    assert bytes(late.part.data) == b"[0]"
    [next_one] = script.receive(answer("[3]", at="2026-11-22T06:00:02.000Z"))
    assert bytes(next_one.part.data) == b"[3]"


def test_what_was_held_on_one_connection_is_not_delivered_on_the_next():
    script = Script(settings=Settings(hold_stale_for=15.0))
    script.go_live()
    script.receive(answer("[1]", at="2026-11-22T06:00:09.000Z"))
    assert script.receive(answer("[0]", at="2026-11-22T06:00:01.000Z")) == []
    script.on(GONE)
    script.now += 30.0  # the time of the held snapshot has passed
    script.go_live()
    assert script.state.release_at is None
    assert script.receive(answer("[0]", at="2026-11-22T06:00:01.000Z")) == []
    assert script.state.release_at == script.now + 15.0  # held on this one anew


def test_a_validation_error_ends_its_query_once_and_not_the_others():
    script = Script({"1": COUNT, "2": SUM})
    script.go_live()
    effects = script.receive(refusal("Cube 'nope' not found for path 'nope.count'"))
    assert kinds(effects) == [Fail, Send]
    assert effects[0].final
    assert isinstance(effects[0].error, QueryRejected)
    assert sent(effects) == [{"unsubscribe": "1"}]
    assert script.receive(refusal("Cube 'nope' not found")) == []
    assert script.receive(answer()) == []  # one frame in flight may follow
    assert kinds(script.receive(answer(key="2"))) == [Deliver]
    effects = script.receive(refusal("'x' not found for path 'y.x'", key="2"))
    assert effects[-2:] == [Disconnect(), Finish(None)]


def test_a_passing_error_is_said_once_until_the_query_is_well_again():
    script = Script()
    script.go_live()
    database = refusal("Error: the connection to the database was lost")
    [failure] = script.receive(database)
    assert isinstance(failure.error, ApiError)
    assert not failure.final
    assert script.receive(database) == []
    assert kinds(script.receive(answer())) == [Deliver]
    assert kinds(script.receive(database)) == [Fail]


def test_an_error_without_a_sentence_is_an_error():
    script = Script()
    script.go_live()
    body = codec.decode_body(b"{}")
    [failure] = script.receive(frames.Answer("1", body, 500))
    assert failure.error.status == 500


@pytest.mark.parametrize("count", [0, 2])
def test_an_answer_of_another_shape_is_said_once(count):
    script = Script()
    script.go_live()
    results = [{"data": []}] * count
    body = codec.decode_body(codec.dumps({"results": results}).encode())
    [failure] = script.receive(frames.Answer("1", body, 200))
    assert isinstance(failure.error, DecodeError)
    assert str(count) in str(failure.error)
    assert script.receive(frames.Answer("1", body, 200)) == []


def test_a_server_that_forgot_the_token_is_connected_anew():
    script = Script()
    script.go_live()
    assert script.receive(refusal("Not authorized", 403)) == [Disconnect()]
    assert isinstance(script.state, Waiting)


def test_a_missing_scope_ends_the_query():
    script = Script()
    script.go_live()
    effects = script.receive(refusal("API scope is missing: data", 403))
    assert isinstance(effects[0].error, QueryRejected)
    assert effects[0].final


@pytest.mark.parametrize(
    "event",
    [
        Unreadable(DecodeError("garbage")),
        Received(answer(key="99")),
        Received(answer(key=None)),
        Received(frames.Processed("99")),
        Received(frames.FrameError(500, "TypeError: oh")),
    ],
)
def test_what_cannot_be_understood_costs_the_socket_and_nothing_else(event):
    script = Script()
    script.go_live()
    assert script.on(event) == [Disconnect()]
    script.go_live()
    assert kinds(script.receive(answer())) == [Deliver]


def test_an_unreadable_answer_is_an_error_of_its_query_and_keeps_the_socket():
    script = Script({"1": COUNT, "2": SUM})
    script.go_live()
    error = DecodeError("cannot decode a frame")
    assert script.on(Unreadable(error, "1")) == [Fail("1", error, final=False)]
    assert script.on(Unreadable(DecodeError("again"), "1")) == []  # reported once
    assert kinds(script.receive(answer(key="2"))) == [Deliver]
    assert asked_again(script.wait()) == ["1"]  # by the timer, not at once
    assert kinds(script.receive(answer(key="1"))) == [Deliver]
    assert kinds(script.on(Unreadable(error, "1"))) == [Fail]


def asked_again(effects: list[Effect]) -> list[str]:
    """Return the queries that are unsubscribed and subscribed again, and nothing else."""
    asked = sent(effects)
    before, after = asked[::2], asked[1::2]
    keys = [frame["messageId"] for frame in after]
    assert before == [{"unsubscribe": key} for key in keys]
    assert {frame["method"] for frame in after} <= {"subscribe"}
    assert len(asked) == len(effects) == 2 * len(keys)
    return keys


def unread(*keys: str, queries: int = 3) -> Script:
    """Return a live session with answers that could not be decoded."""
    script = Script({str(number): COUNT for number in range(1, queries + 1)})
    script.go_live()
    script.now += 10.0
    for key in keys:
        script.on(Unreadable(DecodeError("x"), key))
    return script


def test_an_unreadable_answer_is_asked_for_again_until_it_can_be_decoded():
    script = unread("3", "2")
    # The server believes that it has sent the result.
    for pause in (5.0, 10.0):
        script.receive(frames.Processed("3"))
        script.now += pause / 2
        assert script.on(DeadlinePassed()) == []
        script.now += pause / 2
        assert asked_again(script.on(DeadlinePassed())) == ["2", "3"]
    assert kinds(script.receive(answer(key="3"))) == [Deliver]
    assert asked_again(script.wait()) == ["2"]
    assert kinds(script.receive(answer(key="2"))) == [Deliver]
    assert script.state.ask_at is None
    script.on(Unreadable(DecodeError("x"), "2"))
    assert asked_again(script.wait()) == ["2"]


@pytest.mark.parametrize(
    ("poll_every", "pauses"),
    [(5.0, [5, 10, 20, 40, 60, 60]), (0.5, [0.5, 1, 2, 4]), (90.0, [90, 90])],
)
def test_the_pauses_grow_to_a_minute(poll_every, pauses):
    settings = Settings(poll_every=poll_every, resend_every=1e9, stale_after=1e9)
    script = Script(settings=settings)
    script.go_live()
    script.now += 10.0
    for _ in range(2):
        script.on(Unreadable(DecodeError("x"), "1"))
        for pause in pauses:
            assert script.state.until == pytest.approx(script.now + pause)
            assert asked_again(script.wait()) == ["1"]
        script.receive(answer())
        assert script.state.ask_at is None


def test_another_query_does_not_wait_for_the_pause_of_the_first_one():
    script = unread("1")
    for _ in range(2):
        assert asked_again(script.wait()) == ["1"]
    script.now += 1.0
    script.on(Unreadable(DecodeError("x"), "2"))
    assert script.state.ask_at == script.now + Settings().poll_every
    assert asked_again(script.wait()) == ["1", "2"]


def test_a_late_unreadable_answer_is_asked_for_again_too():
    script = unread("1")
    assert asked_again(script.wait()) == ["1"]
    assert script.on(Unreadable(DecodeError("late"), "1")) == []
    assert kinds(script.receive(answer())) == [Deliver]
    script.on(Unreadable(DecodeError("later"), "1"))  # may have been newer
    assert asked_again(script.wait()) == ["1"]


ASKED = [["1"], ["1"]]


@pytest.mark.parametrize(
    ("event", "asked"),
    [
        (Received(answer()), None),
        (Received(frames.Answer("1", codec.decode_body(b'{"results":[]}'), 200)), None),
        (Received(answer(key="2")), ASKED),
        (Received(frames.Processed("1")), ASKED),
        # The server may have kept what it sent, or has not subscribed.
        (Received(refusal("Error: timeout", 500)), ASKED),
        (Received(refusal("Continue wait", 200)), ASKED),
        # The query has ended.
        (Received(refusal("'x' not found for path 'y.x'")), [[]]),
        (Unreadable(DecodeError("again"), "1"), ASKED),
        (TokenReady("new", 2000.0), ASKED),
        (Pong(), ASKED),
    ],
)
def test_only_a_result_ends_the_asking_or_the_end_of_the_query(event, asked):
    script = unread("1", queries=2)
    script.on(event)
    script.receive(frames.Handshake())
    assert (script.state.ask_at is None) is (asked is None)
    assert [asked_again(script.wait()) for _ in asked or []] == (asked or [])


def test_an_ended_query_is_not_asked_for_again():
    script = unread(queries=2)
    script.receive(refusal("'x' not found for path 'y.x'"))
    assert script.on(Unreadable(DecodeError("late"), "1")) == []
    assert script.receive(answer()) == []
    assert script.state.ask_at is None


def test_after_a_reconnect_nothing_is_left_to_be_asked_for_again():
    script = unread("1", queries=1)
    script.on(GONE)
    script.go_live()
    assert script.state.ask_at is None
    script.on(Unreadable(DecodeError("x"), "1"))
    script.on(GONE)
    script.go_live()
    script.receive(answer())
    assert [each["method"] for each in sent(script.wait(50.0))] == ["subscribe"]


def test_a_held_snapshot_that_is_released_does_not_end_the_asking():
    hold = Settings(hold_stale_for=1.0)
    script = Script(settings=hold)
    script.go_live()
    script.receive(answer(at="2026-11-22T06:00:09.000Z"))
    script.receive(answer("[1]", at="2026-11-22T06:00:01.000Z"))
    script.on(Unreadable(DecodeError("x"), "1"))
    assert kinds(script.wait()) == [Deliver]
    assert asked_again(script.wait()) == ["1"]


@pytest.mark.parametrize("key", [None, "1"])
def test_in_the_tutorial_dialect_an_unreadable_answer_costs_the_socket(key):
    script = Script(dialect="ortege")
    script.go_live()
    script.receive(answer(key=None))
    assert script.on(Unreadable(DecodeError("x"), key)) == [Disconnect()]
    script.go_live()
    assert kinds(script.receive(answer(key=None))) == [Deliver]


def test_an_unreadable_answer_is_a_sign_of_life():
    script = Script()
    script.go_live()
    script.now += 30
    silent_at = script.state.silent_at
    script.on(Unreadable(DecodeError("cannot decode a frame"), "1"))
    assert script.state.silent_at == silent_at + 30


def test_an_unreadable_answer_to_an_unknown_query_costs_the_socket():
    script = Script()
    script.go_live()
    assert script.on(Unreadable(DecodeError("x"), "99")) == [Disconnect()]


# ------------------------------------------------------------------ frames too big


def test_a_frame_beyond_our_limit_ends_it_with_advice():
    script = Script({"1": COUNT, "2": SUM})
    script.go_live()
    effects = script.on(Dropped(1006, TransportError("x"), max_size=1000))
    assert kinds(effects) == [Disconnect, Finish]
    assert isinstance(effects[-1].error, SubscriptionLost)
    assert effects[-1].error.text == (
        "the server sent a frame larger than max_size (1000 bytes): narrow or limit"
        " query 1 [events.count], query 2 [events.asset_amount, events.sender_address],"
        " or raise max_size"
    )


@pytest.mark.parametrize("dialect", ["cube", "ortege"])
@pytest.mark.parametrize("code", [1006, 1009])
def test_if_it_can_be_of_one_query_only_it_ends_that_query(code, dialect):
    script = Script(dialect=dialect, confirmed=True)
    script.go_live()
    effects = script.on(Dropped(code, TransportError("x"), max_size=1000))
    assert kinds(effects) == [Fail, Disconnect, Finish]
    assert isinstance(effects[0].error, SubscriptionLost)
    assert "(1000 bytes): narrow or limit query 1 [events.count], or" in str(
        effects[0].error
    )
    assert effects[0].final
    assert effects[-1] == Finish(None)  # the other sockets go on


def test_a_query_too_big_for_the_server_ends_alone():
    script = Script({"1": COUNT, "2": SUM})
    script.go_live()
    [failure] = script.on(Dropped(1009, TransportError("too big")))
    assert failure.message_id == "2"
    assert failure.error.status == 413
    assert isinstance(script.state, Waiting)
    script.go_live()
    effects = script.on(Dropped(1009, TransportError("too big")))
    assert effects[-1] == Finish(None)


# ----------------------------------------------------------------------- dialects


def tutorial_refusal(status: int = 400):
    return frames.FrameError(status, "messageId is required")


@pytest.mark.parametrize(
    "event",
    [
        Received(frames.FrameError(400, "what is an authorization?")),
        Received(answer()),
        Unreadable(DecodeError("hello?")),
        DeadlinePassed(),
    ],
)
def test_a_greeting_that_is_not_understood_leads_to_the_other_dialect(event):
    script = Script()
    script.wait()
    script.on(TokenReady("t"))
    script.on(Opened())
    if isinstance(event, DeadlinePassed):
        script.now = script.session.state.until
    effects = script.on(event)
    assert kinds(effects) == [Disconnect, SwitchDialect]
    assert effects[1].delay == 0.0
    assert script.failures.count == 0  # every session of the other dialect may start
    assert isinstance(script.state, Closed)


def test_two_drops_before_the_handshake_lead_to_the_other_dialect():
    script = Script()
    for expected in ([], [Disconnect, SwitchDialect]):
        script.wait()
        script.on(TokenReady("t"))
        script.on(Opened())
        effects = script.on(GONE)
        assert kinds(effects) == expected
    assert effects[1].delay > 0


def test_two_drops_after_the_tutorials_frame_lead_back():
    script = Script(
        dialect="ortege", previous_error=TransportError("silence"), failures=1
    )
    for expected in ([], [Disconnect, SwitchDialect]):
        script.go_live()
        effects = script.on(GONE)
        assert kinds(effects) == expected
    assert effects[1].delay > 0


def test_a_dialect_that_worked_is_kept():
    script = Script()
    script.go_live()
    script.on(GONE)
    script.wait()
    script.on(TokenReady("t"))
    script.on(Opened())
    assert script.receive(frames.FrameError(400, "what?")) == [Disconnect()]
    assert isinstance(script.state, Waiting)


def test_a_dialect_that_another_socket_confirmed_is_kept():
    script = Script(dialect="ortege")
    script.go_live()
    script.choice.confirmed = True  # by a session that shares the choice
    assert script.wait() == [Disconnect()]
    assert isinstance(script.state, Waiting)


def test_a_switch_is_decided_for_all_sessions():
    script = Script()
    script.wait()
    script.on(TokenReady("t"))
    script.on(Opened())
    script.receive(frames.FrameError(400, "what is an authorization?"))
    assert script.choice.dialect == "ortege"
    assert "what is an authorization?" in str(script.choice.previous_error)
    assert script.session.dialect == "cube"


def test_the_tutorial_dialect_sends_one_frame_with_legacy_filters():
    query = {
        "measures": ["e.amount"],
        "filters": [
            {"member": "e.id", "operator": "equals", "values": ["x"]},
            {"or": [{"member": "e.a", "operator": "set"}]},
        ],
    }
    script = Script({"1": query}, dialect="ortege")
    script.wait()
    assert script.on(TokenReady("t")) == [Open("t")]
    assert sent(script.on(Opened())) == [
        {
            "queryType": "subscribe",
            "query": {
                "measures": ["e.amount"],
                "filters": [
                    {"dimension": "e.id", "operator": "equals", "values": ["x"]},
                    {"or": [{"dimension": "e.a", "operator": "set"}]},
                ],
            },
            "requestId": "an-id",
        }
    ]
    assert script.session.state.connection is ConnectionState.CONNECTING
    assert kinds(script.receive(answer(key=None))) == [Deliver]
    assert script.session.state.connection is ConnectionState.LIVE
    script.now += 59
    assert script.on(DeadlinePassed()) == []  # it is not sent again
    script.now += 1
    assert script.on(DeadlinePassed()) == [Ping()]
    assert script.on(Pong()) == []
    assert script.state.lost_at is None  # this dialect has no heartbeat


@pytest.mark.parametrize("here", [True, False])
def test_an_error_in_the_tutorial_dialect_is_the_querys(here):
    script = Script(dialect="ortege", confirmed=not here)
    script.go_live()
    if here:
        script.receive(answer(key=None))
    passing = frames.FrameError(500, "Error: the database is gone")
    assert kinds(script.receive(passing)) == [Fail]
    assert script.receive(passing) == []
    assert script.session.state.connection is ConnectionState.LIVE
    assert kinds(script.receive(answer(key=None))) == [Deliver]
    effects = script.receive(frames.FrameError(400, "Invalid query format: x"))
    assert kinds(effects) == [Fail, Disconnect, Finish]  # nothing to unsubscribe from


def test_if_neither_dialect_is_understood_the_error_names_both():
    because = api_error("what is an authorization?", status=400)
    script = Script(dialect="ortege", previous_error=because, failures=1)
    script.go_live()
    effects = script.receive(tutorial_refusal())
    [finish] = [e for e in effects if isinstance(e, Finish)]
    assert isinstance(finish.error, SubscriptionLost)
    assert "what is an authorization?" in str(finish.error)
    assert "messageId is required" in str(finish.error)


@pytest.mark.parametrize(
    ("because", "status"),
    [(TransportError("silence"), 400), (api_error("what?", status=400), 500)],
)
def test_an_outage_is_no_verdict_about_a_dialect(because, status):
    script = Script(dialect="ortege", previous_error=because, failures=1)
    script.go_live()
    effects = script.receive(tutorial_refusal(status))
    assert kinds(effects) == [Disconnect, SwitchDialect]
    assert effects[1].delay > 0
    assert script.failures.count == 2


def test_silence_in_the_tutorial_dialect_leads_back():
    script = Script(
        dialect="ortege", previous_error=TransportError("silence"), failures=1
    )
    script.go_live()
    assert kinds(script.wait()) == [Disconnect, SwitchDialect]
    assert script.now == 1060


@pytest.mark.parametrize("dialect", ["cube", "ortege"])
def test_a_pinned_dialect_that_is_refused_is_final(dialect):
    script = Script(dialect=dialect, may_switch=False)
    script.wait()
    script.on(TokenReady("t"))
    script.on(Opened())
    effects = script.receive(tutorial_refusal())
    assert isinstance(effects[-1].error, SubscriptionLost)
    assert dialect in str(effects[-1].error)


def test_a_pinned_dialect_survives_an_outage():
    script = Script(may_switch=False)
    for event in (DeadlinePassed(), GONE, GONE, GONE):
        script.wait()
        script.on(TokenReady("t"))
        script.on(Opened())
        if isinstance(event, DeadlinePassed):
            script.now = script.session.state.until
        assert Finish not in kinds(script.on(event))
        assert isinstance(script.state, Waiting)


def test_a_pinned_tutorial_dialect_waits_for_ever():
    script = Script(dialect="ortege", may_switch=False)
    script.go_live()
    for _ in range(5):
        assert script.wait() == [Ping()]
        script.on(Pong())


# ------------------------------------------------------------------------ polling


def refuse_upgrade(script: Script, status: int = 403) -> list[Effect]:
    script.wait()
    script.on(TokenReady("t"))
    error = TransportError(f"HTTP {status}")
    message = None if status == 200 else "no upgrade"
    return script.on(OpenFailed(error, status, message=message))


@pytest.mark.parametrize("status", [200, 400, 403, 404])
def test_where_websockets_are_off_queries_are_polled(status):
    script = Script({"1": COUNT, "2": SUM})
    assert refuse_upgrade(script, status) == [Poll("1"), Poll("2")]
    assert script.session.state.connection is ConnectionState.POLLING
    assert kinds(script.on(Polled("1", part()))) == [Deliver]
    assert script.wait() == [Poll("1")]  # "2" is still on its way
    assert script.now == 1005
    script.on(Polled("1", part()))
    script.on(Polled("2", part()))
    assert script.wait() == [Poll("1"), Poll("2")]


def test_polling_is_logged_once(caplog):
    script = Script()
    script.wait()
    script.on(TokenReady("t"))
    script.on(OpenFailed(TransportError("HTTP 403"), 403))
    script.on(Polled("1", part()))
    script.wait()
    assert caplog.text.count("WebSockets are disabled or blocked") == 1


def test_a_websocket_only_subscription_says_what_is_wrong():
    script = Script(settings=Settings(transport="websocket"))
    effects = refuse_upgrade(script)
    assert isinstance(effects[-1].error, SubscriptionLost)
    assert "disabled or blocked" in str(effects[-1].error)


def test_rest_only_needs_no_socket():
    script = Script(settings=Settings(transport="rest"))
    assert script.wait() == [Poll("1")]


@pytest.mark.parametrize("transport", ["auto", "websocket"])
def test_a_server_that_restarts_is_not_taken_for_one_without_websockets(transport):
    script = Script(settings=Settings(transport=transport))
    script.go_live()
    script.on(GONE)
    for _ in range(4):
        assert refuse_upgrade(script) == []
    polls = refuse_upgrade(script)
    assert polls == ([Poll("1")] if transport == "auto" else [])


def test_rest_alone_never_tries_a_websocket():
    script = Script(settings=Settings(transport="rest"))
    for _ in range(400):
        assert script.wait() == [Poll("1")]
        script.on(Polled("1", part()))


def test_polling_goes_on_through_outages_with_back_off():
    script = Script()
    refuse_upgrade(script)
    error = TransportError("no route")
    delays = []
    for _ in range(7):
        script.on(PollFailed("1", error))
        delays.append(script.session.state.until - script.now)
        script.wait()
    assert delays == [5, 5, 5, 5, 8, 16, 30]
    [deliver] = script.on(Polled("1", part()))
    assert not deliver.resumed
    script.wait()
    script.on(PollFailed("1", error))
    script.wait()
    [deliver] = script.on(Polled("1", part()))
    assert deliver.resumed


def test_polling_honours_retry_after():
    script = Script()
    refuse_upgrade(script)
    script.on(PollFailed("1", RateLimited("slow down", retry_after=42.0)))
    assert script.session.state.until == script.now + 42
    script.wait()
    script.on(PollFailed("1", RateLimited("slow down")))
    assert script.session.state.until - script.now == 5


def test_polling_ends_with_the_token_the_query_or_the_attempts():
    script = Script()
    refuse_upgrade(script)
    error = AuthenticationError("Invalid token", status=403)
    assert script.on(PollFailed("1", error))[-1] == Finish(error)

    script = Script()
    refuse_upgrade(script)
    passing = api_error("Error: deadlock", status=400)
    assert script.on(PollFailed("1", passing)) == [Fail("1", passing, final=False)]
    assert script.on(PollFailed("1", passing)) == []
    rejected = api_error("'x' not found for path 'y.x'", status=400)
    effects = script.on(PollFailed("1", rejected))
    assert effects[0] == Fail("1", rejected, final=True)
    assert effects[-1] == Finish(None)

    script = Script(settings=Settings(reconnect=Reconnect(attempts=1)))
    refuse_upgrade(script)
    error = TransportError("no route")
    assert script.on(PollFailed("1", error))[-1] == Finish(error)


@pytest.mark.parametrize("status", [400, 500])
def test_a_round_in_which_every_query_fails_in_the_database_counts(status):
    error = api_error("Error: the database is gone", status=status)
    script = Script({"1": COUNT, "2": SUM})
    refuse_upgrade(script)
    delays = []
    for round_number in range(7):
        for key in "12":
            reported = [Fail(key, error, final=False)] if round_number == 0 else []
            assert script.on(PollFailed(key, error)) == reported
        delays.append(script.session.state.until - script.now)
        script.wait()
    assert delays == [5, 5, 5, 5, 8, 16, 30]
    script.on(PollFailed("1", error))
    script.on(Polled("2", part()))  # so the round has not failed
    assert script.failures.count == 0
    assert script.session.state.until - script.now == 5

    script = Script(settings=Settings(reconnect=Reconnect(attempts=3)))
    refuse_upgrade(script)
    for _ in range(2):
        script.on(PollFailed("1", error))
        script.wait()
    assert script.on(PollFailed("1", error))[-1] == Finish(error)


@pytest.mark.parametrize("first", ["1", "2"])
def test_a_query_that_is_refused_for_good_is_no_success_of_its_round(first):
    errors = {
        "1": api_error("'x' not found for path 'y.x'", status=400),
        "2": TransportError("no route"),
    }
    script = Script({"1": COUNT, "2": SUM})
    refuse_upgrade(script)
    for key in sorted(errors, reverse=first == "2"):
        script.on(PollFailed(key, errors[key]))
    assert script.failures.count == 1
    assert script.failures.error is errors["2"]
    assert script.wait() == [Poll("2")]


def refused_again() -> AuthenticationError:
    """Return the error of a request whose token function gave the refused token again."""
    error = AuthenticationError("Invalid token", status=403)
    error.advice = "the token function returned the same token again"
    return error


def test_the_refused_token_again_is_asked_for_once_more_while_polling():
    script = Script({"1": COUNT, "2": SUM})
    refuse_upgrade(script)
    for _ in range(2):
        for key in "12":
            script.on(Polled(key, part()))
        script.wait()
        for key in "12":
            assert script.on(PollFailed(key, refused_again())) == []
        assert script.failures.count == 1
        assert script.wait() == [Poll("1"), Poll("2")]
    final = refused_again()
    assert script.on(PollFailed("2", final))[-1] == Finish(final)


@pytest.mark.parametrize("worked", [True, False])
def test_a_token_that_is_refused_at_first_or_after_another_ends_polling(worked):
    error = AuthenticationError("Invalid token", status=403) if worked else None
    error = error or refused_again()
    script = Script(settings=Settings(transport="rest"))
    script.wait()
    if worked:
        script.on(Polled("1", part()))
        script.wait()
    assert script.on(PollFailed("1", error)) == [Disconnect(), Finish(error)]


def test_a_403_of_one_query_ends_only_that_query_while_polling():
    script = Script({"1": COUNT, "2": SUM})
    refuse_upgrade(script)
    error = AuthenticationError("Forbidden for this cube", status=403)
    assert script.on(PollFailed("1", error)) == [Fail("1", error, final=True)]
    assert kinds(script.on(Polled("2", part()))) == [Deliver]
    assert script.wait() == [Poll("2")]
    effects = script.on(PollFailed("2", error))
    assert effects == [Fail("2", error, final=True), Disconnect(), Finish(None)]


def test_a_token_function_that_fails_at_the_first_poll_ends_it():
    error = OrtegeWatchError("the token function failed: ValueError")
    script = Script(settings=Settings(transport="rest"))
    script.wait()
    assert script.on(PollFailed("1", error)) == [Disconnect(), Finish(error)]
    script = Script(settings=Settings(transport="rest"))
    script.wait()
    script.on(Polled("1", part()))
    script.wait()
    assert script.on(PollFailed("1", error)) == []  # an outage
    assert isinstance(script.state, Polling)


def test_a_line_names_the_host_once(caplog):
    script = Script()
    script.wait()
    script.on(TokenReady("t"))
    error = TransportError("cannot connect: refused")
    error.host = "cube.example"
    script.on(OpenFailed(error))
    said = "cannot connect: refused; next attempt in 0.5 s"
    assert warnings(caplog) == [f"cube.example: {said}"]


def test_a_round_whose_other_queries_have_no_response_counts_at_its_end():
    script = Script({"1": COUNT, "2": SUM}, jitter=lambda: 0.5)
    refuse_upgrade(script)
    assert script.on(PollFailed("1", TransportError("no route"))) == []
    assert script.failures.count == 0
    assert script.wait() == []
    assert script.failures.count == 1
    assert script.state.until - script.now == 0.75
    assert script.wait() == [Poll("1")]  # "2" is still on its way
    script.on(PollFailed("2", TransportError("no route")))
    assert kinds(script.on(Polled("1", part()))) == [Deliver]
    assert script.failures.count == 0


def test_several_sessions_that_poll_try_one_at_a_time():
    script = Script(settings=Settings(transport="rest"))
    other = object()
    script.wait()
    script.failures.failed(other, script.now, 0.0)
    script.on(PollFailed("1", TransportError("no route")))
    assert script.wait() == []  # the other session is next
    assert script.failures.try_at(other, script.now) == script.now
    script.failures.reset()
    assert script.wait() == [Poll("1")]


def test_attempts_end_a_search_for_the_dialect():
    script = Script(
        settings=Settings(reconnect=Reconnect(attempts=2)),
        previous_error=TransportError("silence"),
        failures=1,
    )
    script.wait()
    script.on(TokenReady("t"))
    script.on(Opened())
    effects = script.receive(frames.FrameError(500, "what?"))
    assert kinds(effects) == [Disconnect, Finish]


def test_a_certificate_that_is_refused_later_is_an_outage():
    script = Script()
    script.go_live()
    script.on(GONE)
    script.wait()
    script.on(TokenReady("t"))
    refused = TransportError("certificate refused")
    assert script.on(OpenFailed(refused, permanent=True)) == []
    assert isinstance(script.state, Waiting)


# ------------------------------------------------------------------- every state


EVENTS: list[Event] = [
    DeadlinePassed(),
    TokenReady("t"),
    TokenFailed(TransportError("x")),
    Opened(),
    OpenFailed(TransportError("x")),
    Received(frames.Handshake()),
    Unreadable(DecodeError("x")),
    Unreadable(DecodeError("x"), "1"),
    Pong(),
    GONE,
    Polled("1", part()),
    PollFailed("1", TransportError("x")),
]


def live_session() -> Script:
    script = Script()
    script.go_live()
    return script


def reach(*events: Event) -> Script:
    script = Script()
    script.wait()
    for event in events:
        script.on(event)
    return script


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(
    "make",
    [
        Script,
        reach,
        lambda: reach(TokenReady("t")),
        lambda: reach(TokenReady("t"), Opened()),
        live_session,
        lambda: reach(TokenReady("t"), OpenFailed(TransportError("x"), 404)),
    ],
    ids=["waiting", "asking", "connecting", "authorizing", "live", "polling"],
)
def test_every_state_takes_every_event(make, event):
    script = make()
    before = script.state
    script.on(event)
    allowed = successors()[type(before).__name__] | {type(before).__name__}
    assert type(script.state).__name__ in allowed


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: type(e).__name__)
def test_closed_is_final(event):
    script = Script()
    script.wait()
    script.on(TokenFailed(TransportError("x")))
    closed = script.state
    assert isinstance(closed, Closed)
    assert script.session.state.until is None
    assert script.on(event) == []
    assert script.state is closed


def successors() -> dict[str, set[str]]:
    """Read the transitions out of the return types, which mypy holds the code to."""
    handlers = {
        Waiting: Session._waiting,
        AskingToken: Session._asking_token,
        Connecting: Session._connecting,
        Authorizing: Session._authorizing,
        Live: Session._live,
        Polling: Session._polling,
    }
    return {
        state.__name__: {
            each.__name__ for each in get_args(get_type_hints(handler)["return"])
        }
        - {state.__name__}
        for state, handler in handlers.items()
    }


def test_the_diagram_in_the_docs_is_the_machine():
    page = Path(__file__).parents[2] / "docs" / "subscriptions.md"
    drawn: dict[str, set[str]] = {}
    for before, after in re.findall(
        r"^\s*(\w+) --> (\w+)", page.read_text(), re.MULTILINE
    ):
        drawn.setdefault(before, set()).add(after)
    assert drawn == successors()


def test_a_frame_changes_what_counts_as_silence_and_nothing_else():
    values = {name: object() for name in Live.__struct_fields__}
    before = Live(**values)
    after = before.after_frame(7.0, 2.0)
    changed = {"silent_at": 9.0, "lost_at": 11.0, "pong_by": None}
    assert structs.asdict(after) == values | changed


def test_no_state_shows_its_token():
    assert "s3cret" not in repr(Live("s3cret", 1.0))
    assert "silent_at=1.0" in repr(Live("s3cret", 1.0))
