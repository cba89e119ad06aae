"""What is delivered, when it is sent again, and when the channel dials."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
)

from ortege_watch import DecodeError, InvalidArgument, Reconnect, TransportError
from ortege_watch.watchbus import WatchBusError
from ortege_watch.watchbus.channel import (
    AnswerFrame,
    Delivery,
    Redial,
    Setback,
    Settled,
    address_of,
    refused_upgrade,
    server_ahead,
)
from ortege_watch.watchbus.wire import ResultCode, error_answer, ok_answer

FAILED = error_answer(ResultCode.SERVER_ERROR, "an alert was not handled")
EXPIRED = error_answer(ResultCode.SIGNATURE_ERROR, "timestamp is expired")


def handled(key: str) -> AnswerFrame:
    return AnswerFrame(key, 200, ok_answer())


def failed(key: str, status: int = 500) -> AnswerFrame:
    return AnswerFrame(key, status, FAILED)


def delivery(*keys: str, **retry: object) -> Delivery:
    made = Delivery(Reconnect(**retry))
    for key in keys:
        made.add(key, f"text of {key}")
    return made


def texts(*keys: str) -> list[str]:
    return [f"text of {key}" for key in keys]


# ---------------------------------------------------------------------- delivery
def test_each_parcel_is_sent_once_and_in_order():
    made = delivery("1", "2")
    assert made.due(0) == texts("1", "2")
    assert made.due(0) == []
    made.add("3", "text of 3")
    assert made.due(0) == texts("3")


def test_after_a_loss_what_has_no_answer_is_sent_again_in_order():
    made = delivery("1", "2", "3")
    made.due(0)
    assert made.answered(handled("2"), 0, 0) == Settled("2")
    made.drop("2")
    made.lost()
    assert made.due(0) == texts("1", "3")
    assert len(made) == 2


def test_what_nobody_waits_for_is_not_sent_again():
    made = delivery("1", "2")
    made.due(0)
    made.drop("1")
    made.drop("1")
    made.lost()
    assert made.due(0) == texts("2")
    assert made.answered(handled("1"), 0, 0) is None


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503, 599])
def test_what_was_not_handled_is_sent_again_with_back_off(status):
    made = delivery("1", "2")
    made.due(0)
    now = 0.0
    for delay in (1, 2, 4, 8, 16, 32, 60, 60):
        assert made.answered(failed("1", status), now, 0.999999999) is None
        assert made.next_at() == pytest.approx(now + delay)
        assert made.due(now + delay * 0.99) == []
        now += delay
        assert made.due(now) == texts("1")
        assert made.next_at() is None
    assert made.answered(handled("1"), now, 0) == Settled("1")


def test_what_is_held_back_does_not_hold_up_the_others():
    made = delivery("1", "2", "3")
    made.due(0)
    made.answered(failed("1"), 0, 0)
    made.answered(failed("3"), 0.2, 0)
    made.add("4", "text of 4")
    assert made.due(0.2) == texts("4")
    assert made.next_at() == 0.5
    assert made.due(0.7) == texts("1", "3")


def test_a_new_connection_does_not_shorten_a_delay():
    made = delivery("1")
    made.due(0)
    made.answered(failed("1"), 10, 0)
    made.lost()
    assert made.due(10.4) == []
    assert made.due(10.5) == texts("1")


@pytest.mark.parametrize("status", [200, 302, 400, 404, 413])
def test_what_the_receiver_will_never_have_is_settled(status):
    made = delivery("1")
    made.due(0)
    settled = made.answered(failed("1", status), 0, 0)
    assert settled is not None
    assert isinstance(settled.error, WatchBusError)
    assert settled.error.reason == "an alert was not handled"


def test_an_acknowledgement_that_is_none_is_an_error():
    made = delivery("1")
    made.due(0)
    settled = made.answered(AnswerFrame("1", 200, b"[]"), 0, 0)
    assert settled is not None
    assert isinstance(settled.error, DecodeError)


@pytest.mark.parametrize("attempts", [0, 1, 3])
def test_attempts_bound_how_often_a_parcel_is_sent_again(attempts):
    made = delivery("1", attempts=attempts)
    for _ in range(attempts):
        made.due(1e9)
        assert made.answered(failed("1"), 0, 0) is None
    made.due(1e9)
    settled = made.answered(failed("1"), 0, 0)
    assert settled is not None
    assert isinstance(settled.error, WatchBusError)


def test_a_frame_that_is_too_large_is_the_largest_under_way():
    made = delivery("1", "22", "333")
    assert made.too_large() is None
    made.due(0)
    made.add("4444", "text of 4444")
    settled = made.too_large()
    assert settled is not None
    assert settled.id == "333"
    assert isinstance(settled.error, WatchBusError)
    assert settled.error.status == 413


class Deliveries(RuleBasedStateMachine):
    """Compare with a plain account of what was sent, answered and lost."""

    keys = Bundle("keys")

    def __init__(self):
        super().__init__()
        self.delivery = delivery()
        self.now = 0.0
        self.given: list[str] = []  # in order, not settled
        self.under_way: set[str] = set()
        self.held: dict[str, float] = {}

    @rule(target=keys, key=st.uuids().map(str))
    def add(self, key):
        self.delivery.add(key, f"text of {key}")
        self.given.append(key)
        return key

    @rule(seconds=st.floats(0, 100))
    def send(self, seconds):
        self.now += seconds
        expected = [
            key
            for key in self.given
            if key not in self.under_way and self.held.get(key, 0) <= self.now
        ]
        assert self.delivery.due(self.now) == texts(*expected)
        self.under_way.update(expected)

    @rule()
    def lose(self):
        self.delivery.lost()
        self.under_way.clear()

    @rule(key=consumes(keys))
    def settle(self, key):
        assert self.delivery.answered(handled(key), self.now, 0) == Settled(key)
        self.delivery.drop(key)
        self.given.remove(key)
        self.under_way.discard(key)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def refuse(self, data):
        key = data.draw(st.sampled_from(sorted(self.under_way)))
        assert self.delivery.answered(failed(key), self.now, 0.5) is None
        self.under_way.discard(key)
        at = self.delivery.next_at()
        assert at is not None
        # Which of the held ones it is, its own delay tells.
        probe = self.delivery._parcels[key].not_before
        assert self.now + 0.5 <= probe <= self.now + 60
        self.held[key] = probe

    @invariant()
    def nothing_is_lost(self):
        assert len(self.delivery) == len(self.given)


TestDeliveries = Deliveries.TestCase


# ------------------------------------------------------------------------ redial
def test_delays_double_until_a_connection_has_held():
    redial = Redial(Reconnect(base=1, cap=60, healthy_after=10))
    assert [redial.failed(0, 0).delay for _ in range(4)] == [0.5, 1, 2, 4]
    redial.opened(100)  # an open socket proves nothing
    assert redial.failed(109.9, 0).delay == 8
    redial.opened(200)
    assert redial.failed(210, 0).delay == 0.5
    # What held once does not count for the attempts after it.
    assert redial.failed(1000, 0).delay == 1


@given(st.lists(st.floats(0, 9.9), max_size=40), st.floats(0, 1, exclude_max=True))
def test_a_receiver_that_accepts_and_drops_is_not_hammered(lives, draw):
    redial, now, attempts = Redial(Reconnect()), 0.0, 0
    for life in lives:
        attempts += now < 60
        redial.opened(now)
        now += life
        setback = redial.failed(now, draw)
        assert not setback.gives_up
        now += setback.delay
    assert attempts <= 10


def test_it_gives_up_after_so_many_failures_and_counts_anew():
    redial = Redial(Reconnect(attempts=2))
    told = [redial.failed(0, 0) for _ in range(6)]
    assert [each.gives_up for each in told] == [False, False, True] * 2
    assert told[3] == Setback(0.5, gives_up=False)


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
def test_a_refused_upgrade_says_why_and_whether_to_try_again(status, body, kind, final):
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
        (EXPIRED, None, None),
        (EXPIRED, "yesterday", None),
        (EXPIRED, "Sun, 22 Nov 99999 12:00:00 GMT", None),
        (FAILED, DATE, None),
    ],
)
def test_the_date_of_a_refusal_tells_how_wrong_the_clock_is(body, date, ahead):
    error, _ = refused_upgrade(401, body)
    assert server_ahead(error, date, NOON - 90) == ahead


def test_what_is_no_refusal_tells_no_time():
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
def test_the_path_of_an_address_is_what_is_signed(url, address, path):
    assert address_of(url) == (address, path)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("ftp://alerts.example.com/", "invalid url"),
        ("alerts.example.com/x", "the scheme must be"),
        (None, "a string such as .* got NoneType"),
        ("ws://me:secret@host/", "pass credentials, which sign"),
        ("ws://host/?q=1", "remove the query and the fragment"),
        ("ws://host/a;b", "invalid path '/a;b'"),
        ("ws://host/é", "invalid path '/é'"),
    ],
)
def test_what_is_no_address_is_refused(url, problem):
    with pytest.raises(InvalidArgument, match=problem) as caught:
        address_of(url)
    assert "secret" not in str(caught.value)
