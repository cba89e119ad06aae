"""What a failure says: about one alert, or about the server."""

from __future__ import annotations

import json
import socket

import pytest
from driving import CREDENTIALS, Play, alert, error, link, said, success

from ortege_watch import (
    InvalidArgument,
    OrtegeWatchError,
    Retry,
    TransportError,
)
from ortege_watch.watchbus import AsyncAlertPublisher, Outbox, WireStyle
from ortege_watch.watchbus.outbox import queue_of
from ortege_watch.watchbus.sending import BatchSize, Sender, prepare_alerts

PAGE = said(b"<html>no</html>", status=400)
FAILED = error("000001", "an alert was not handled", status=500)


@pytest.fixture
def box(tmp_path, clock):
    with Outbox(tmp_path / "outbox.db", max_attempts=2, now=clock) as box:
        yield box


def send(outbox, answer, alerts=(), batches=None, **options):
    """Send what is due to a bus that answers ``answer``, or what it returns."""
    config = link(retry=Retry(attempts=1), **options)
    endpoint = config.endpoint("/api/v1/watch/alert")
    server = Play(iter(lambda: answer, None))
    queued = prepare_alerts(alerts, "app", WireStyle()) if alerts else ()
    sender = Sender(
        config=config, endpoint=endpoint, outbox=queue_of(outbox), alerts=queued
    )
    sender.batches = batches or sender.batches
    try:
        return server, server.run(sender.run())
    except OrtegeWatchError as caught:
        return server, caught.published


def accept(outbox, *numbers):
    queue_of(outbox).accept(prepare_alerts(map(alert, numbers), "app", WireStyle()))


def bus(poison, answer):
    def play(request):
        alerts = json.loads(request.content)["alert_info_list"]
        numbers = {int(each["event_values"]["block_number"]) for each in alerts}
        return answer if poison & numbers else success()

    return play


@pytest.mark.parametrize("status", [400, 409, 413, 422, 500])
@pytest.mark.parametrize("count", [1, 2, 8])
def test_a_web_page_for_every_alert_makes_none_a_dead_letter(box, clock, status, count):
    accept(box, *range(count))
    page = said(b"<html>no</html>", status=status)
    for _ in range(20):
        server, _ = send(box, page)
        assert len(server.requests) <= 3 * 4
        clock.now += 8 * 3600 // 10
    assert (len(box), box.dead) == (count, [])
    assert {each.attempts for each in box.waiting()} == {0}


@pytest.mark.parametrize("count", [1, 2, 8])
def test_an_outage_costs_no_attempts_and_its_end_makes_alerts_due(box, clock, count):
    accept(box, *range(count))
    for _ in range(20):
        send(box, FAILED)
        clock.now += 3600
    assert box.dead == []
    send(box, FAILED)
    assert {each.attempts for each in box.waiting()} == {0}
    accept(box, 99)
    _, result = send(box, success())
    assert len(result.sent) == count + 1
    assert len(box) == 0


def test_an_outage_that_has_ended_delays_no_alert_by_more_than_ten_minutes(box, clock):
    accept(box, 1)
    for _ in range(20):
        send(box, FAILED)
        clock.now += 601
    _, result = send(box, success())
    assert len(result.sent) == 1


@pytest.mark.parametrize("answer", [FAILED, said(b"oops", status=500)])
def test_an_alert_that_fails_while_others_are_sent_is_given_up(box, clock, answer):
    accept(box, 0, 1, 2, 3)
    server = bus({1}, answer)
    _, result = send(box, server)
    assert [each.attempts for each in box.waiting()] == [1]  # after a second failure
    assert result.error is not None
    assert len(result.sent) == 3
    clock.now += 6
    accept(box, 4)
    send(box, server)
    [letter] = box.dead
    assert letter.attempts == 2
    assert len(box) == 0


def test_an_alert_alone_counts_an_attempt_only_once_others_were_sent(box, clock):
    server = bus({1}, FAILED)
    accept(box, 0, 1)
    send(box, server)
    accept(box, 2)  # so that the next failure counts
    send(box, server)
    for _ in range(20):
        clock.now += 3600
        send(box, server)
    assert [each.attempts for each in box.waiting()] == [1]
    accept(box, 3)
    send(box, server)
    assert len(box.dead) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"<html>no</html>",
        b'{"status": "ERROR", "code": "000001", "error_data": "\xff"}',
        b'{"status": "ERROR", "co',
    ],
)
@pytest.mark.parametrize("status", [400, 409, 413, 422])
@pytest.mark.parametrize("is_stored", [True, False])
def test_a_rejection_without_a_readable_envelope_counts_if_others_are_sent(
    box, body, status, is_stored
):
    page = said(body, status=status)
    alerts = [alert(n) for n in range(8)]
    server = bus({0, 3, 6}, page)
    if is_stored:
        accept(box, *range(8))
        _, result = send(box, server)
        assert len(box.dead) == 3
    else:
        _, result = send(None, server, alerts)
        assert result.unsent == ()
    assert [int(x.alert.event_values["block_number"]) for x in result.dead] == [0, 3, 6]
    assert len(result.sent) == 5
    assert result.error is None


@pytest.mark.parametrize("count", [1, 2, 8])
def test_without_an_outbox_a_web_page_for_every_alert_leaves_them_unsent(count):
    alerts = [alert(n) for n in range(count)]
    _, result = send(None, PAGE, alerts)
    assert result.unsent == tuple(alerts)
    assert (result.dead, result.sent) == ((), ())


def test_without_an_outbox_an_alert_of_an_earlier_batch_is_sent_again():
    alerts = [alert(n) for n in range(4)]
    server, result = send(None, bus({1}, PAGE), alerts, batch_size=2)
    assert len(server.requests) == 5  # of two, of one twice, of two, of one
    assert [each.alert for each in result.dead] == [alerts[1]]
    assert (result.unsent, result.error) == ((), None)


def test_an_alert_whose_failures_do_not_count_is_given_up_for_its_age(box, clock):
    accept(box, 1)
    clock.now += 7 * 86_400
    send(box, FAILED)
    [letter] = box.dead
    assert letter.attempts == 1


def test_what_the_receiver_asks_for_is_respected_also_after_a_success(box, clock):
    later = error("000001", "busy", status=503, retry_after="200")
    accept(box, 1, 2)
    send(box, bus({1}, later))
    clock.now += 199
    accept(box, 3)
    server, _ = send(box, success())
    assert len(server.requests) == 1
    [waiting] = box.waiting()
    assert (waiting.attempts, waiting.next_attempt) == (0, clock.now + 1)
    clock.now += 2
    send(box, success())
    assert len(box) == 0


@pytest.mark.parametrize("name", ["requeue", "forget"])
@pytest.mark.parametrize(
    ("letters", "problem"),
    [
        (["x"], r"letters\[0\] must be of type DeadLetter, got str"),
        ([alert(1)], r"letters\[0\] must be of type DeadLetter, got AlertInfo"),
        ("x", "letters must be an iterable of DeadLetter, got 'x'"),
        (5, "letters must be an iterable of DeadLetter, got 5"),
    ],
)
def test_only_dead_letters_can_be_queued_again_or_forgotten(
    box, name, letters, problem
):
    with pytest.raises(InvalidArgument, match=problem):
        getattr(box, name)(letters)


@pytest.mark.parametrize("status", [401, 404, 405])
def test_a_wrong_setting_is_reported_with_the_path(box, status):
    accept(box, 1)
    _, result = send(box, said(b"<html>no</html>", status=status))
    assert str(result.error).endswith("(POST /api/v1/watch/alert)")


LOOKS_WRONG = [
    error("000001", "unknown entity", status=404),
    error("000007", status=404),
    said({"detail": "unknown entity"}, status=404),
    said(b"", status=405),
    said(b"", status=410),
    error("000001", status=401),
    error("000003", "invalid appid", status=401),
    said(b"<html>blocked</html>"),
    said(b"", status=302, location="https://waf.example.com/blocked"),
]


@pytest.mark.parametrize("answer", LOOKS_WRONG)
@pytest.mark.parametrize("poison", [0, 20, 59])
def test_one_alert_that_makes_a_setting_look_wrong_stops_no_others(
    box, clock, answer, poison
):
    accept(box, *range(60))
    server, batches = bus({poison}, answer), BatchSize(5)
    for _ in range(5):
        send(box, server, batches=batches)
    assert [each.alert for each in box.waiting()] == [alert(poison)]
    for number in range(100, 103):
        clock.now += 6
        accept(box, number)
        send(box, server, batches=batches)
    assert len(box) == 0
    [letter] = box.dead
    assert (letter.alert, letter.attempts) == (alert(poison), 2)


@pytest.mark.parametrize("answer", LOOKS_WRONG)
def test_without_an_outbox_such_an_alert_stops_no_others_either(answer):
    alerts = [alert(n) for n in range(60)]
    _, result = send(None, bus({20}, answer), alerts, batches=BatchSize(5))
    assert result.unsent == (alert(20),)
    assert len(result.sent) == 59


@pytest.mark.parametrize("answer", LOOKS_WRONG)
@pytest.mark.parametrize("count", [1, 2, 8])
def test_a_setting_that_becomes_wrong_costs_no_attempts(box, clock, answer, count):
    batches = BatchSize(100)
    accept(box, 99)
    send(box, success(), batches=batches)
    accept(box, *range(count))
    for _ in range(20):
        server, result = send(box, answer, batches=batches)
        assert 1 <= len(server.requests) <= 8
        assert isinstance(result.error, OrtegeWatchError)
        clock.now += 3600
    assert {each.attempts for each in box.waiting()} == {0}
    assert (len(box), box.dead) == (count, [])
    send(box, success(), batches=batches)
    assert len(box) == 0


@pytest.mark.anyio
async def test_a_task_is_told_why_it_cannot_connect():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    url = f"http://localhost:{port}"  # two addresses, perhaps
    once = Retry(attempts=1)
    async with AsyncAlertPublisher(url, CREDENTIALS, retry=once) as publisher:
        with pytest.raises(TransportError, match=r"cannot connect: .*Errno"):
            await publisher.publish([alert(1)])


def test_a_call_says_what_became_of_alerts_that_another_has_sent(box):
    accept(box, 0, 1, 2, 3)  # by the call; another sender is faster
    unknown = error("000001", "unknown entity", status=422)
    rejecting, failing = bus({1}, unknown), bus({2}, FAILED)

    def both(request):
        rejected, failed = rejecting(request), failing(request)
        return failed if failed is FAILED else rejected

    _, others = send(box, both)
    server, result = send(box, success(), map(alert, range(4)))
    assert server.requests == []
    assert result.sent == others.sent == (alert(0), alert(3))
    assert result.dead == tuple(box.dead)
    assert [each.alert for each in result.dead] == [alert(1)]
    assert result.unsent == (alert(2),)


def test_queued_alerts_can_be_made_due(box, clock):
    accept(box, 1, 2)
    send(box, FAILED)
    assert [each.next_attempt for each in box.waiting()] == [clock.now + 5] * 2
    server, _ = send(box, success())
    assert server.requests == []
    assert box.retry_now() == 2
    assert [each.next_attempt for each in box.waiting()] == [None] * 2
    assert box.retry_now() == 0
    _, result = send(box, success())
    assert len(result.sent) == 2


def test_failures_are_logged_with_the_key_the_attempt_and_the_next_one(box, caplog):
    accept(box, 0, 1, 2)
    send(box, bus({1}, FAILED))
    [key] = [each.alert.dedupe_key("app") for each in box.waiting()]
    where = f"big_amount_txn at {alert(1).entity} on chain 56 ({key[:12]})"
    name = f"bus.example.com, app app: alert {where}"
    problem = "status ERROR, code 000001: an alert was not handled"
    assert f"{name} failed; sent again at once: {problem}" in caplog.messages
    assert f"{name} failed attempt 1 of 2; next in 5 s: {problem}" in caplog.messages
    caplog.clear()
    send(None, FAILED, [alert(1)])
