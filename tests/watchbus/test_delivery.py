"""When frames are sent and sent again, and when the channel reconnects."""

from __future__ import annotations

from collections import Counter
from operator import itemgetter

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from ortege_watch import InvalidArgument, Reconnect, TransportError
from ortege_watch.watchbus import WatchBusError
from ortege_watch.watchbus.channel import parse_address, refused_upgrade
from ortege_watch.watchbus.frames import AnswerFrame, PendingFrame, PendingFrames
from ortege_watch.watchbus.requests import server_ahead
from ortege_watch.watchbus.wire import ResultCode, error_answer, ok_answer

FAILED = error_answer(ResultCode.SERVER_ERROR, "an alert was not handled")
LOST = TransportError("the connection was lost")
EXPIRED = error_answer(ResultCode.SIGNATURE_ERROR, "timestamp is expired")


def handled(key: str, body: bytes = ok_answer()) -> AnswerFrame:
    return AnswerFrame(key, 200, msgspec.Raw(body))


def failed(key: str, status: int = 500) -> AnswerFrame:
    return AnswerFrame(key, status, msgspec.Raw(FAILED))


def pending(*keys: str, **limits: int) -> tuple[PendingFrames, dict]:
    frames = PendingFrames(Reconnect(), **limits)
    return frames, {key: frames.add(key, f"text of {key}") for key in keys}


def texts(*keys: str) -> list[str]:
    return [f"text of {key}" for key in keys]


# ---------------------------------------------------------------------- frames
def test_each_frame_is_sent_once_and_in_order():
    frames, _ = pending("1", "2")
    assert frames.next_at() is None
    assert frames.due(0) == texts("1", "2")
    assert frames.due(0) == []
    assert frames.next_at() is None
    frames.add("3", "text of 3")
    assert frames.due(0) == texts("3")


def test_frames_without_an_answer_are_sent_again_on_a_new_connection():
    frames, each = pending("1", "2", "3")
    frames.due(0)
    assert not frames.on_answer(handled("2"), 0, 0)
    assert each["2"].is_resolved
    assert each["2"].error is None
    frames.connection_lost(LOST, 0, 0)
    assert frames.due(0) == texts("1")  # alone, for it may be the cause
    frames.on_answer(handled("1"), 0, 0)
    assert frames.due(0) == texts("3")
    assert len(frames) == 1


def test_the_time_of_a_frame_begins_when_those_before_it_were_answered():
    frames, each = pending("1", "2", "3")
    assert frames.awaited() is None
    frames.due(5)
    assert frames.awaited() == (each["1"], 5)
    frames.on_answer(handled("2"), 6, 0)
    assert frames.awaited() == (each["1"], 5)  # others are answered, it is not
    frames.on_answer(handled("1"), 7, 0)
    assert frames.awaited() == (each["3"], 7)
    frames.connection_lost(LOST, 8, 0)
    assert frames.awaited() is None
    frames.due(9)
    assert frames.awaited() == (each["3"], 9)


def test_the_late_answer_to_a_frame_that_was_dropped_counts():
    frames, each = pending("1", "2")
    frames.due(5)
    frames.drop("1")
    assert frames.awaited() == (each["2"], 5)
    frames.on_answer(handled("1"), 50, 0)
    assert frames.awaited() == (each["2"], 50)


def answer_all(frames, *keys, without=()):
    """Send what is due, and acknowledge it, until nothing is; return what was sent."""
    sent = []
    while due := frames.due(0):
        sent.append([text.removeprefix("text of ") for text in due])
        for key in sent[-1]:
            if key not in without:
                frames.on_answer(handled(key), 0, 0)
    return sent


def test_frames_are_sent_alone_at_first_after_a_lost_connection():
    frames, _ = pending(*"abcdefgh", limit=4)
    assert frames.due(0) == texts(*"abcd")
    frames.connection_lost(LOST, 0, 0)
    assert answer_all(frames) == [["a"], ["b", "c"], ["d", "e", "f", "g"], ["h"]]


def test_a_frame_with_which_connections_are_lost_stops_no_others():
    frames, each = pending(*"abcd", max_attempts=2)
    frames.due(0)
    frames.on_answer(handled("a"), 0, 0)
    frames.connection_lost(LOST, 0, 0)
    assert frames.due(0) == texts("b")
    frames.connection_lost(LOST, 0, 0)  # alone: perhaps because of it
    assert answer_all(frames, without="b") == [["c"], ["d"], ["b"]]
    frames.connection_lost(LOST, 0, 0.5)  # an attempt: others were acknowledged
    assert frames.due(0) == []
    assert frames.next_at() == 0.75
    for _ in range(5):  # but these are not
        assert frames.due(1) == texts("b")
        frames.connection_lost(LOST, 1, 0)
    assert frames.due(1) == texts("b")
    frames.add("e", "text of e")
    assert frames.due(1) == []  # "b" is sent alone
    frames.connection_lost(LOST, 1, 0)
    assert frames.due(1) == texts("e")
    frames.on_answer(handled("e"), 1, 0)
    assert frames.due(1) == texts("b")
    frames.connection_lost(LOST, 1, 0)
    assert each["b"].is_resolved
    assert str(each["b"].error) == f"{LOST} (given up after 2 attempts)"
    assert len(frames) == 0


def test_an_outage_costs_a_frame_no_attempts():
    frames, each = pending("a", max_attempts=1)
    for _ in range(20):
        assert frames.due(0) == texts("a")
        frames.connection_lost(LOST, 0, 0)
    assert not each["a"].is_resolved


def test_a_frame_that_is_sent_once_fails_with_its_connection():
    frames, each = pending("1")
    once = frames.add("2", "text of 2", retry=False)
    later = frames.add("3", "text of 3", retry=False)
    frames.due(0)
    frames.on_answer(handled("3"), 0, 0)
    frames.connection_lost(LOST, 0, 0)
    assert (once.error, once.was_sent, later.error) == (LOST, True, None)
    assert not each["1"].is_resolved
    assert frames.due(0) == texts("1")


def test_a_dropped_frame_is_not_sent_again():
    frames, each = pending("1", "2")
    frames.due(0)
    frames.drop("1")
    frames.drop("1")
    frames.connection_lost(LOST, 0, 0)
    assert frames.due(0) == texts("2")
    assert not frames.on_answer(handled("1"), 0, 0)
    assert not each["1"].is_resolved


@pytest.mark.parametrize("status", [429, 500, 502, 503, 599])
def test_frames_that_were_not_handled_are_sent_again_with_back_off(status):
    frames, each = pending("1", "2")
    frames.due(0)
    now = 0.0
    for delay in (1, 2, 4, 8, 16, 32, 60, 60):
        assert frames.on_answer(failed("1", status), now, 0.999999999)
        assert frames.next_at() == pytest.approx(now + delay)
        assert frames.due(now + delay * 0.99) == []
        now += delay
        assert frames.due(now) == texts("1")
        assert frames.next_at() is None
    assert not frames.on_answer(handled("1"), now, 0)
    assert each["1"].is_resolved
    assert each["1"].error is None


def test_a_delayed_frame_does_not_delay_the_others():
    frames, _ = pending("1", "2", "3")
    frames.due(0)
    frames.on_answer(failed("1"), 0, 0)
    frames.on_answer(failed("3"), 0.2, 0)
    frames.add("4", "text of 4")
    assert frames.due(0.2) == texts("4")
    assert frames.next_at() == 0.5
    assert frames.due(0.7) == texts("1", "3")


def test_a_new_connection_does_not_shorten_a_delay():
    frames, _ = pending("1")
    frames.due(0)
    frames.on_answer(failed("1"), 10, 0)
    frames.connection_lost(LOST, 0, 0)
    assert frames.due(10.4) == []
    assert frames.due(10.5) == texts("1")


@pytest.mark.parametrize("status", [200, 302, 400, 404, 413])
def test_a_frame_that_is_refused_for_good_is_resolved(status):
    frames, each = pending("1")
    frames.due(0)
    assert not frames.on_answer(failed("1", status), 0, 0)
    assert each["1"].is_resolved
    assert isinstance(each["1"].error, WatchBusError)
    assert each["1"].error.reason == "an alert was not handled"
    assert len(frames) == 0


@pytest.mark.parametrize("body", [b"[]", b'{"success":true}', b"null"])
def test_a_success_without_an_error_code_is_an_acknowledgement(body):
    frames, each = pending("1")
    frames.due(0)
    assert not frames.on_answer(handled("1", body), 0, 0)
    assert each["1"].is_resolved
    assert each["1"].error is None


def test_an_answer_that_cannot_be_decoded_is_no_acknowledgement():
    frames, each = pending("1")
    frames.due(0)
    assert frames.on_answer(handled("1", b'{"code":"0","code":"1"}'), 0, 0)
    assert not each["1"].is_resolved
    assert frames.due(60) == texts("1")


@pytest.mark.parametrize("status", [200, 302, 404, 422, 429, 500, 503])
def test_an_envelope_of_success_has_precedence_over_the_status(status):
    frames, each = pending("1")
    frames.due(0)
    answer = AnswerFrame("1", status, msgspec.Raw(ok_answer()))
    assert not frames.on_answer(answer, 0, 0)
    assert each["1"].is_resolved
    assert each["1"].error is None


def test_a_success_that_contradicts_itself_is_an_error():
    frames, each = pending("1")
    frames.due(0)
    assert not frames.on_answer(handled("1", FAILED), 0, 0)
    assert each["1"].is_resolved
    assert isinstance(each["1"].error, WatchBusError)


@pytest.mark.parametrize("attempts", [1, 2, 4])
def test_attempts_limit_how_often_a_frame_is_sent(attempts):
    frames, each = pending("1", max_attempts=attempts)
    for _ in range(attempts - 1):
        frames.due(1e9)
        assert frames.on_answer(failed("1"), 0, 0)
    frames.due(1e9)
    assert not frames.on_answer(failed("1"), 0, 0)
    assert isinstance(each["1"].error, WatchBusError)


def test_the_largest_sent_frame_is_the_one_that_is_too_large():
    frames, each = pending("1", "22", "333")
    frames.on_too_large()
    assert len(frames) == 3
    frames.due(0)
    frames.add("4444", "text of 4444")
    frames.on_too_large()
    assert [key for key in each if each[key].is_resolved] == ["333"]
    assert isinstance(each["333"].error, WatchBusError)
    assert each["333"].error.status == 413
    assert len(frames) == 3


def test_a_failure_resolves_only_pending_frames():
    frames, each = pending("1", "2")
    frames.due(0)
    frames.on_answer(handled("1"), 0, 0)
    error = TransportError("no")
    frames.fail(error)
    assert (each["1"].error, each["2"].error) == (None, error)
    assert each["2"].is_resolved
    assert len(frames) == 0


class Deliveries(RuleBasedStateMachine):
    """Compare with a plain account of what was sent, answered, delayed and lost."""

    LIMIT = 3
    ATTEMPTS = 3

    def __init__(self):
        super().__init__()
        self.frames = PendingFrames(Reconnect(), self.LIMIT, self.ATTEMPTS)
        self.now = 0.0
        self.given: dict[str, PendingFrame] = {}  # not resolved
        self.failures: Counter[str] = Counter()
        self.size, self.is_reduced = self.LIMIT, False
        self.acknowledged = 0
        self.lost_after: dict[str, int] = {}  # frames that lost a connection alone
        self.queue: list[str] = []
        self.sent: list[str] = []
        self.delayed: list[tuple[float, str]] = []  # in the order of their failures

    @rule(key=st.uuids().map(str))
    def add(self, key):
        self.given[key] = self.frames.add(key, f"text of {key}")
        self.queue.append(key)

    @rule(seconds=st.floats(0, 3))
    def send(self, seconds):
        self.now += seconds
        due = [each for each in self.delayed if each[0] <= self.now]
        self.delayed = [each for each in self.delayed if each not in due]
        self.queue += [key for _, key in sorted(due, key=itemgetter(0))]
        expected = []
        while self.queue and self.has_room(self.queue[0]):
            expected.append(self.queue.pop(0))
            self.sent.append(expected[-1])
        assert self.frames.due(self.now) == texts(*expected)

    def has_room(self, key):
        is_suspect = not self.lost_after.keys().isdisjoint({key, *self.sent})
        return not self.sent or (len(self.sent) < self.size and not is_suspect)

    def answered(self, key):
        self.sent.remove(key)
        self.size = min(2 * self.size, self.LIMIT)
        self.is_reduced = self.is_reduced and self.size < self.LIMIT

    @precondition(lambda self: self.sent)
    @rule()
    def lose(self):
        self.frames.connection_lost(LOST, self.now, 0.5)
        if len(self.sent) == 1 and self.is_reduced:
            self.lose_alone(self.sent[0])
        else:
            self.queue = self.sent + self.queue
        self.sent = []
        self.size, self.is_reduced = 1, True

    def lose_alone(self, key):
        before = self.lost_after.get(key)
        self.lost_after[key] = self.acknowledged
        if before in {None, self.acknowledged}:
            self.queue.append(key)
            return
        self.failures[key] += 1
        if self.failures[key] < self.ATTEMPTS:
            delay = 0.75 * 2 ** (self.failures[key] - 1)
            self.delayed.append((self.now + delay, key))
        else:
            assert isinstance(self.given.pop(key).error, TransportError)

    @precondition(lambda self: not self.sent)
    @rule()
    def lose_an_idle_connection(self):
        self.frames.connection_lost(LOST, self.now, 0.5)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def acknowledge(self, data):
        key = data.draw(st.sampled_from(self.sent))
        assert not self.frames.on_answer(handled(key), self.now, 0)
        self.answered(key)
        self.acknowledged += 1
        assert self.given.pop(key).error is None

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def fail(self, data):
        key = data.draw(st.sampled_from(self.sent))
        self.failures[key] += 1
        is_retried = self.failures[key] < self.ATTEMPTS
        retried_in = self.frames.on_answer(failed(key), self.now, 0.5)
        self.answered(key)
        assert (retried_in is not None) is is_retried
        if is_retried:
            delay = 0.75 * 2 ** (self.failures[key] - 1)
            assert retried_in == delay
            self.delayed.append((self.now + delay, key))
        else:
            assert isinstance(self.given.pop(key).error, WatchBusError)

    @precondition(lambda self: self.given)
    @rule(data=st.data())
    def drop(self, data):
        key = data.draw(st.sampled_from(list(self.given)))
        self.frames.drop(key)
        del self.given[key]
        self.queue = [each for each in self.queue if each != key]
        self.sent = [each for each in self.sent if each != key]
        self.delayed = [each for each in self.delayed if each[1] != key]

    @rule(key=st.uuids().map(str))
    def ignore_an_answer_to_another_frame(self, key):
        assert not self.frames.on_answer(failed(key), self.now, 0.5)

    @invariant()
    def nothing_is_lost(self):
        assert len(self.frames) == len(self.given)
        assert len(self.given) == len(self.queue) + len(self.sent) + len(self.delayed)
        assert not any(frame.is_resolved for frame in self.given.values())


TestDeliveries = Deliveries.TestCase


# ----------------------------------------------------------------------- upgrade
@pytest.mark.parametrize(
    ("status", "body", "kind", "final"),
    [
        (401, EXPIRED, WatchBusError, True),
        (404, b"<html>no</html>", WatchBusError, True),
        (301, b"", WatchBusError, True),
        (429, FAILED, WatchBusError, False),
        (502, b"<html>bad gateway</html>", WatchBusError, False),
        (503, FAILED, WatchBusError, False),
        (200, ok_answer(), TransportError, True),
        (200, b"<html>hello</html>", TransportError, True),
    ],
)
def test_a_refused_upgrade_has_a_reason_and_may_be_final(status, body, kind, final):
    error, is_final = refused_upgrade(status, body)
    assert type(error) is kind
    assert is_final is final
    assert str(status) in str(error) or error.status == status


DATE = "Sun, 22 Nov 2026 12:00:00 GMT"
NOON = 1_795_348_800.0


@pytest.mark.parametrize(
    ("body", "date", "ahead"),
    [
        (EXPIRED, DATE, 90.5),
        (EXPIRED, "", None),
        (EXPIRED, "yesterday", None),
        (EXPIRED, "Sun, 22 Nov 99999 12:00:00 GMT", None),
        (FAILED, DATE, None),
    ],
)
def test_the_date_of_a_refusal_gives_the_offset_of_the_clock(body, date, ahead):
    error, _ = refused_upgrade(401, body)
    assert server_ahead(error, date, NOON - 90) == ahead


def test_other_errors_give_no_offset_of_the_clock():
    assert server_ahead(TransportError("no"), DATE, NOON) is None


# ----------------------------------------------------------------------- address
@pytest.mark.parametrize(
    ("url", "address", "path"),
    [
        ("ws://localhost:80/alerts/ws", "ws://localhost:80/alerts/ws", "/alerts/ws"),
        ("http://localhost/a/", "ws://localhost/a/", "/a/"),
        ("https://alerts.example.com", "wss://alerts.example.com/", "/"),
        (" wss://[::1]:1/a%20b ", "wss://[::1]:1/a%20b", "/a%20b"),
    ],
)
def test_an_address_gives_the_url_and_the_path_to_sign(url, address, path):
    assert parse_address(url) == (address, path)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("ftp://alerts.example.com/", "invalid url"),
        ("alerts.example.com/x", "the scheme must be"),
        (None, "a string such as .* got NoneType"),
        ("ws://me:secret@host/", "pass credentials, which sign"),
        ("ws://host/?q=1", "remove the query and the fragment"),
        ("ws://host/a;b", "path must be .*, got '/a;b'"),
        ("ws://host/é", "path must be .*, got '/é'"),
    ],
)
def test_an_invalid_address_is_refused(url, problem):
    with pytest.raises(InvalidArgument, match=problem) as caught:
        parse_address(url)
    assert "secret" not in str(caught.value)
