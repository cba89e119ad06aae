from __future__ import annotations

import json

import pytest
from driving import CUT, Play, alert, error, link, said, success
from hypothesis import given
from hypothesis import strategies as st

from ortege_watch import InvalidArgument, RateLimited
from ortege_watch.errors import DecodeError, TransportError
from ortege_watch.watchbus import AlertInfo, RejectedAlert, WireStyle
from ortege_watch.watchbus.models import decode_alerts
from ortege_watch.watchbus.posting import (
    Tally,
    Waiting,
    body_of,
    deliver,
    prepare,
    rejection,
)
from ortege_watch.watchbus.wire import encode_alerts

PLAIN = WireStyle()


def ready(*alerts, style=PLAIN):
    return prepare(alerts, "app", style)


@pytest.mark.parametrize("as_int", [False, True])
@pytest.mark.parametrize("bare", [False, True])
def test_a_body_put_together_is_the_body_written_at_once(as_int, bare):
    style = WireStyle(chain_id_as_int=as_int, bare_lists=bare)
    alerts = [alert(1), alert(2), alert(3)]
    body = body_of(ready(*alerts, style=style), bare=bare)
    assert body == encode_alerts(alerts, style)


def test_the_key_is_the_receiver_s():
    """Numbers become text on the way; without a hash the values are in the key."""
    plain = alert(1, tx_hash="", amount=3)
    [waiting] = ready(plain)
    [arrived] = decode_alerts(body_of([waiting], bare=False))
    assert waiting.key == arrived.dedupe_key("app")


def test_the_same_alert_twice_goes_out_once():
    first, other = alert(1), alert(2)
    assert [each.alert for each in ready(first, other, alert(1))] == [first, other]


def test_what_waits_knows_its_alert_in_this_process_and_in_another_one():
    given = alert(1)
    [waiting] = ready(given)
    assert waiting.alert is given
    other = Waiting(waiting.number, waiting.key, waiting.data)
    assert other == waiting
    assert other.alert.dedupe_key("app") == waiting.key


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ([], "nothing to send"),
        ("x", "give a list"),
        (b"x", "give a list"),
        (None, "give a list"),
        (alert(1), "give a list"),
        ([alert(1), {}], r"alerts\[1\]"),
        (
            [alert(1), AlertInfo("0x1", 56, "ERC20", "x", 1)],
            r"alerts\[1\]\.entity: 0x1 is",
        ),
        ([alert(1, comment=1.5)], r"alerts\[0\]\.event_values\.comment: .*not text"),
    ],
)
def test_what_cannot_be_sent_is_refused(given, advice):
    with pytest.raises(InvalidArgument, match=advice):
        prepare(given, "app", PLAIN)


# ---------------------------------------------------------------------------- sending
def send(batch, outcomes, *, bare=False):
    on = link()
    server = Play(outcomes)
    target = on.endpoint("path", "/api/v1/watch/alert")
    return server, server.run(deliver(on, target, batch, bare=bare))


def test_a_batch_is_one_request():
    batch = ready(alert(1), alert(2))
    server, delivered = send(batch, [success()])
    assert delivered.sent == tuple(batch)
    assert (delivered.rejected, delivered.error) == ((), None)
    [request] = server.requests
    assert request.url == "https://bus.example.com/api/v1/watch/alert"
    assert decode_alerts(request.content) == [each.alert for each in map(fresh, batch)]


def fresh(waiting):
    return Waiting(waiting.number, waiting.key, waiting.data)


def test_an_answer_of_any_form_is_a_success():
    _, delivered = send(ready(alert(1)), [success({"whatever": [1]})])
    assert delivered.error is None


@pytest.mark.parametrize(
    ("outcomes", "kind"),
    [
        ([CUT] * 4, TransportError),
        ([error("000002")] * 4, RateLimited),
        ([said(b"<html>")], DecodeError),
    ],
)
def test_what_cannot_be_sent_now_stays_where_it_is(outcomes, kind):
    _, delivered = send(ready(alert(1), alert(2)), outcomes)
    assert (delivered.sent, delivered.rejected) == ((), ())
    assert isinstance(delivered.error, kind)


def bus(poison, received, *, code="000001", status=400):
    """Refuse every request that holds a poisoned alert."""

    def answer(request):
        alerts = json.loads(request.content)["alert_info_list"]
        blocks = [int(each["event_values"]["block_number"]) for each in alerts]
        if poison & set(blocks):
            return error(code, "illegal alert", status=status)
        received.extend(blocks)
        return success()

    return answer


@given(st.integers(1, 30), st.sets(st.integers(0, 29)))
def test_only_those_to_blame_are_rejected_and_order_is_kept(count, poison):
    received = []
    batch = ready(*map(alert, range(count)))
    _, delivered = send(batch, iter(lambda: bus(poison, received), None))
    assert received == [n for n in range(count) if n not in poison]
    assert [each.number for each in delivered.sent] == received
    rejected = [each.number for each, _ in delivered.rejected]
    assert rejected == sorted(poison & set(range(count)))
    assert delivered.error is None


def test_one_among_many_costs_few_requests():
    received = []
    batch = ready(*map(alert, range(64)))
    server, _ = send(batch, iter(lambda: bus({40}, received), None))
    assert len(server.requests) == 13  # the whole, and two for each halving


@given(st.integers(1, 12), st.sets(st.integers(0, 11)), st.integers(0, 40))
def test_nothing_is_sent_after_what_could_not_be(count, poison, until):
    received = []
    good = [bus(poison, received)] * until
    batch = ready(*map(alert, range(count)))
    _, delivered = send(batch, [*good, *[CUT] * 4])
    settled = {each.number for each in delivered.sent}
    settled |= {each.number for each, _ in delivered.rejected}
    assert settled == set(range(len(settled)))
    assert (delivered.error is None) == (len(settled) == count)


def test_why_an_alert_is_set_aside():
    batch = ready(alert(1))
    _, delivered = send(batch, [error("000099", "too old", status=200)])
    [(waiting, failure)] = delivered.rejected
    told = rejection(waiting, failure)
    assert told == RejectedAlert(batch[0].alert, "too old", "000099", 200)


def test_an_answer_without_a_reason_is_the_reason():
    batch = ready(alert(1))
    _, delivered = send(batch, [said(b"<html>no</html>", status=422)])
    told = rejection(*delivered.rejected[0])
    assert "422" in told.reason
    assert "no" in told.reason
    assert told.code is None


def test_several_batches_are_gathered():
    tally = Tally()
    first, second, third = ready(alert(1), alert(2), alert(3))
    _, delivered = send([first], [success()])
    assert tally.add(delivered) == []
    _, delivered = send([second], [error(status=400)])
    assert [each.alert for each in tally.add(delivered)] == [second.alert]
    assert tally.done == 2
    _, delivered = send([third], [CUT] * 4)
    tally.add(delivered)
    result = tally.result([third])
    assert result.sent == (first.alert,)
    assert [each.alert for each in result.rejected] == [second.alert]
    assert result.unsent == (third.alert,)
    assert isinstance(result.error, TransportError)
