from __future__ import annotations

import json
from enum import StrEnum

import pytest
from driving import CUT, Play, alert, error, link, said, success
from hypothesis import given, strategies as st

from ortege_watch import (
    DeadlineExceeded,
    InvalidArgument,
    OrtegeWatchError,
    RateLimited,
    Retry,
)
from ortege_watch._http.conversation import Work
from ortege_watch.errors import DecodeError, TransportError
from ortege_watch.watchbus import (
    AlertInfo,
    DeadLetter,
    PublishResult,
    WatchBusError,
    WireStyle,
)
from ortege_watch.watchbus.models import read_alerts
from ortege_watch.watchbus.sending import (
    BatchResults,
    MemoryQueue,
    QueuedAlert,
    Sender,
    SendingPace,
    prepare_alerts,
)
from ortege_watch.watchbus.wire import encode_alerts

PLAIN = WireStyle()


def ready(*alerts, style=PLAIN):
    return prepare_alerts(alerts, "app", style)


@pytest.mark.parametrize("as_int", [False, True])
@pytest.mark.parametrize("bare", [False, True])
def test_a_body_put_together_is_the_body_written_at_once(as_int, bare):
    style = WireStyle(chain_id_as_int=as_int, bare_lists=bare)
    alerts = [alert(1), alert(2), alert(3)]
    server, _ = send(ready(*alerts, style=style), [success()], style=style)
    assert server.requests[0].content == encode_alerts(alerts, style)


values = st.text(max_size=5) | st.integers() | st.none() | st.booleans()
values |= st.decimals(allow_nan=False, allow_infinity=False)


@given(st.dictionaries(st.text(max_size=5), values, max_size=4))
def test_the_key_is_the_receiver_s(more):
    """Numbers become strings on the way."""
    plain = alert(1, **{"amount": 3, **more})
    [waiting] = ready(plain)
    server, _ = send([waiting], [success()])
    [arrived] = read_alerts(server.requests[0].content)
    assert waiting.key == arrived.dedupe_key("app")


def test_an_enum_among_the_strings_is_sent_as_its_value():
    class Code(StrEnum):
        TRANSFER = "big_amount_txn"

    plain = alert(1)
    given = AlertInfo(
        *(plain.entity, 56, "ERC20", Code.TRANSFER, plain.timestamp), plain.event_values
    )
    assert ready(given) == ready(plain)


def test_an_alert_that_utf_8_cannot_encode_is_refused():
    with pytest.raises(InvalidArgument, match=r"alerts\[0\]"):
        ready(alert(1, comment="\ud800"))


def test_the_same_alert_twice_goes_out_once():
    first, other = alert(1), alert(2)
    assert [each.alert for each in ready(first, other, alert(1))] == [first, other]


def test_two_transfers_of_one_transaction_are_both_sent():
    transfers = [alert(1, log_index=1), alert(1, log_index=2)]
    assert [each.alert for each in ready(*transfers)] == transfers


def test_a_queued_alert_is_the_given_one_or_is_decoded():
    given = alert(1)
    [queued] = ready(given)
    assert queued.alert is given
    other = decoded(queued)
    assert other == queued
    assert other.alert.dedupe_key("app") == queued.key


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ([], "alerts is empty"),
        ("x", "alerts must be an iterable of AlertInfo, got 'x'"),
        (b"x", "must be an iterable"),
        (None, "must be an iterable"),
        (alert(1), "must be an iterable"),
        ([alert(1), {}], r"alerts\[1\] must be of type AlertInfo, got dict"),
        (
            [alert(1), AlertInfo("0x1", 56, "ERC20", "x", 1)],
            r"alerts\[1\]\.entity must be an address, .* got '0x1'$",
        ),
        (
            [alert(1, comment=1.5)],
            r"alerts\[0\]\.event_values\.comment: .* a string, got 1.5",
        ),
    ],
)
def test_invalid_alerts_are_refused(given, advice):
    with pytest.raises(InvalidArgument, match=advice):
        prepare_alerts(given, "app", PLAIN)


def send(batch, outcomes, **options):
    on = link(**options)
    server = Play(outcomes)
    return server, server.run(sender(on).deliver(batch))


def sender(config, **details):
    endpoint = config.endpoint("/api/v1/watch/alert")
    return Sender(config=config, endpoint=endpoint, **details)


def test_a_batch_is_one_request():
    batch = ready(alert(1), alert(2))
    server, delivered = send(batch, [success()])
    assert delivered == BatchResults(sent=batch)
    [request] = server.requests
    assert request.url == "https://bus.example.com/api/v1/watch/alert"
    assert read_alerts(request.content) == [each.alert for each in map(decoded, batch)]


def decoded(queued):
    return QueuedAlert(queued.key, queued.data)


def test_two_equal_queued_alerts_do_not_differ():
    [one], [same], [other] = ready(alert(1)), ready(alert(1)), ready(alert(2))
    assert one == same
    assert (one != same) is False
    assert one != other


def test_a_success_may_have_any_data():
    _, delivered = send(ready(alert(1)), [success({"whatever": [1]})])
    assert delivered.error is None


@pytest.mark.parametrize(
    "answer",
    [
        said(b""),
        said(b"OK"),
        said(b"[]"),
        said(b"null"),
        said({"success": True}),
        said({"status": "accepted"}),
        said({"status": "RECEIVED"}),
        said({"code": 0, "status": "success"}),
        said({"code": "0", "status": "success"}),
        said({"code": 200, "message": "taken"}),
        said({"code": "200"}),
        said({"code": None, "status": 1}),
        said(b"", status=202),
        said(b"", status=204),
        success(status=500),  # the envelope has precedence
    ],
)
def test_a_success_without_an_error_code_acknowledges(answer):
    batch = ready(alert(1), alert(2))
    _, delivered = send(batch, [answer])
    assert delivered == BatchResults(sent=batch)


@pytest.mark.parametrize(
    "answer",
    [
        said({"success": False, "message": "no"}),
        said({"status": "ERROR", "message": "no"}),
        said({"status": "FAIL"}),
        said({"status": "Failed", "message": "no"}),
        said({"status": "error", "code": 0}),
        said({"code": 400}),
        said({"code": 200, "status": "ERROR"}),
        said({"status": "OK", "code": "000001"}),
    ],
)
def test_a_success_that_says_it_failed_acknowledges_nothing(answer):
    _, delivered = send(ready(alert(1)), [answer])
    assert delivered.sent == []


@pytest.mark.parametrize(
    ("outcomes", "kind"),
    [
        ([CUT] * 4, TransportError),
        ([error("000002")] * 4, RateLimited),
        ([said(b"<html>")], DecodeError),
    ],
)
def test_an_error_that_is_not_a_rejection_stops_the_batch(outcomes, kind):
    _, delivered = send(ready(alert(1), alert(2)), outcomes)
    assert (delivered.sent, delivered.rejected, delivered.failed) == ([], [], [])
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
    assert delivered.sent == [batch[n] for n in received]
    to_blame = sorted(poison & set(range(count)))
    assert [each for each, _ in delivered.rejected] == [batch[n] for n in to_blame]
    assert delivered.error is None


def test_one_among_many_costs_few_requests():
    received = []
    batch = ready(*map(alert, range(64)))
    server, _ = send(batch, iter(lambda: bus({40}, received), None))
    # The whole, and four parts of the part that fails, three times.
    assert len(server.requests) == 13
    failed = [
        each for each in server.bodies if 40 in map(block, each["alert_info_list"])
    ]
    assert len(failed) == 4  # so often is a handler called that fails


def block(wire):
    return int(wire["event_values"]["block_number"])


@given(st.integers(1, 12), st.sets(st.integers(0, 11)), st.integers(0, 40))
def test_nothing_is_sent_after_an_alert_that_failed(count, poison, until):
    received = []
    good = [bus(poison, received)] * until
    batch = ready(*map(alert, range(count)))
    _, delivered = send(batch, [*good, *[CUT] * 4])
    resolved = [*delivered.sent, *(each for each, _ in delivered.rejected)]
    assert sorted(resolved, key=batch.index) == batch[: len(resolved)]
    assert (delivered.error is None) == (len(resolved) == count)


def test_the_reason_of_a_rejection_is_the_bus_s_message():
    batch = ready(alert(1))
    _, delivered = send(batch, [error("000099", "too old", status=200)])
    [(queued, why)] = delivered.rejected
    letter = queued.dead_letter(why, 7.0)
    assert letter == DeadLetter(batch[0].alert, "too old", "000099", 200, 1, 7.0)
    assert letter.key == batch[0].key


def test_a_response_without_a_message_is_the_reason():
    batch = ready(alert(1))
    _, delivered = send(batch, [said(b"<html>no</html>", status=422)])
    [(queued, why)] = delivered.failed  # a proxy may answer every alert so
    reason = queued.dead_letter(why)
    assert "422" in reason.reason
    assert "no" in reason.reason
    assert reason.code is None


class Store(MemoryQueue):
    """An outbox in memory, which another sender may have the lease of."""

    on_disk = True

    def __init__(self, *, busy=False, gives_up=False):
        super().__init__([])
        self.busy = busy
        self.gives_up = gives_up
        self.sending = False
        self.when_released = None

    def accept(self, alerts):
        for each in alerts:
            self._alerts.setdefault(each.key, decoded(each))

    def begin_sending(self, lease, limit):
        assert not self.sending
        self.sending = not self.busy
        return super().begin_sending(lease, limit) if self.sending else None

    def is_due(self):
        return bool(self._first(1)) and not self.busy

    def resolve(self, results, limit):
        if self.gives_up:
            results = BatchResults(results.sent, results.rejected + results.failed)
        return super().resolve(results, limit)

    def end_sending(self, lease):
        lease.released = True
        self.sending = False
        if self.when_released is not None:
            self.when_released()


def publish(store=None, items=(), progress=None, started=None, **options):
    """Return the conversation of publish(), or of flush() without items."""
    return sender(
        link(**options), outbox=store, alerts=items, progress=progress, started=started
    ).run()


ALERTS = [alert(number) for number in range(5)]


def test_without_an_outbox_alerts_are_sent_in_batches_and_nothing_blocks():
    server = Play([success()] * 3)
    seen = []
    result = server.run(
        publish(None, ready(*ALERTS), lambda *each: seen.append(each), batch_size=2)
    )
    assert result.sent == tuple(ALERTS)
    assert result.unsent == ()
    assert len(server.requests) == 3
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert not any(
        isinstance(effect, Work) and effect.may_block for effect in server.effects
    )


def test_without_an_outbox_an_error_has_what_was_sent_and_what_was_not():
    server = Play([success(), *[CUT] * 4])
    with pytest.raises(TransportError) as caught:
        server.run(publish(None, ready(*ALERTS), batch_size=2))
    result = caught.value.published
    assert result.sent == tuple(ALERTS[:2])
    assert result.unsent == tuple(ALERTS[2:])
    assert result.error is caught.value


def test_without_an_outbox_a_flush_does_nothing():
    assert Play([]).run(publish()).sent == ()


def test_the_form_of_the_body_is_the_style_s():
    server = Play([success()])
    style = WireStyle(bare_lists=True)
    server.run(publish(None, ready(*ALERTS[:1]), style=style))
    assert isinstance(server.bodies[0], list)


def accepted(store, alerts):
    items = ready(*alerts)
    store.accept(items)
    return items


def test_queued_alerts_are_sent_first():
    store = Store()
    accepted(store, ALERTS[:3])
    seen = []
    server = Play([success()] * 3)
    items = accepted(store, ALERTS[3:])
    result = server.run(
        publish(store, items, lambda *each: seen.append(each), batch_size=2)
    )
    assert list(map(numbered, result.sent)) == [0, 1, 2, 3, 4]
    assert result.sent[3:] == tuple(ALERTS[3:])  # the given objects, not decoded ones
    assert result.sent[3] is ALERTS[3]
    assert (result.unsent, result.error) == ((), None)
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert not store.sending


def numbered(alert):
    return int(alert.event_values["block_number"])


def test_an_alert_with_the_key_of_a_queued_one_is_not_reported_as_sent():
    """Only the queued one is sent, and is in the result as it was accepted."""
    store = Store()
    older = alert(1)
    where = older.entity, 56, "ERC721", older.event_code, older.timestamp
    newer = AlertInfo(*where, older.event_values)
    accepted(store, [older])
    items = accepted(store, [newer])
    result = Play([success()]).run(publish(store, items))
    assert [each.entity_type for each in result.sent] == [older.entity_type]


def test_unsent_alerts_stay_queued_and_that_is_not_an_error(caplog):
    store = Store()
    items = accepted(store, ALERTS)
    server = Play([success(), *[CUT] * 4])
    result = server.run(publish(store, items, batch_size=2))
    assert result.sent == tuple(ALERTS[:2])
    assert result.unsent == tuple(ALERTS[2:])
    assert isinstance(result.error, TransportError)
    assert not store.sending
    assert "bus.example.com, app app: unsent alerts stay in " in caplog.text


def test_a_flush_that_cannot_send_everything_raises():
    store = Store()
    accepted(store, ALERTS)
    with pytest.raises(TransportError) as caught:
        Play([success(), *[CUT] * 4]).run(publish(store, batch_size=2))
    assert list(map(numbered, caught.value.published.sent)) == [0, 1]
    result = Play([success()] * 2).run(publish(store, batch_size=2))
    assert list(map(numbered, result.sent)) == [2, 3, 4]
    assert len(store) == 0


def test_a_rejected_alert_delays_no_others_and_is_logged(caplog):
    store = Store()
    items = accepted(store, ALERTS[:1])
    server = Play([error("000099", "too old\nforged")])
    result = server.run(publish(store, items))
    assert [each.reason for each in result.dead] == ["too old\nforged"]
    assert (result.unsent, result.error) == ((), None)
    assert "bus.example.com, app app: alert big_amount_txn at 0x0" in caplog.text
    assert "too old forged" in caplog.text
    assert len(store) == 0


def failing(poison, received, **answer):
    """Fail every request that holds a poisoned alert."""

    def respond(request):
        alerts = json.loads(request.content)["alert_info_list"]
        blocks = [int(each["event_values"]["block_number"]) for each in alerts]
        if poison & set(blocks):
            return error(reason="handler failed", **({"status": 500} | answer))
        received.extend(blocks)
        return success()

    return iter(lambda: respond, None)


def test_a_batch_that_fails_is_sent_again_before_its_parts_are():
    """A handler that fails now and then has handled most of the batch."""
    batch = ready(*ALERTS)
    server, results = send(batch, [error(status=500), success()])
    assert results == BatchResults(sent=batch)
    assert [len(each["alert_info_list"]) for each in server.bodies] == [5, 5]


@given(st.integers(1, 30), st.sets(st.integers(0, 29), max_size=2))
def test_an_alert_that_always_fails_is_found_and_the_others_are_sent(count, poison):
    poison &= set(range(count))
    received = []
    batch = ready(*map(alert, range(count)))
    server = Play(failing(poison, received))
    results = server.run(sender(link(), outbox=Store()).deliver(batch))
    assert received == [n for n in range(count) if n not in poison]
    assert [each for each, _ in results.failed] == [batch[n] for n in sorted(poison)]
    assert results.error is None
    # Only the whole batch is sent again; its parts are not.
    assert len(server.pauses) == (3 if poison else 0)


def test_three_alerts_that_fail_in_a_row_are_the_server_s_failure():
    received = []
    batch = ready(*map(alert, range(20)))
    server = Play(failing(set(range(20)), received))
    results = server.run(sender(link(), outbox=Store()).deliver(batch))
    assert [each for each, _ in results.failed] == batch[:3]
    assert results.error is results.failed[-1][1]
    assert results.undecided == batch[3:]
    assert len(server.requests) < 15


def test_failures_of_several_kinds_are_not_the_server_s():
    batch = ready(*map(alert, range(4)))
    statuses = {0: 500, 1: 501, 2: 500, 3: 501}

    def respond(request):
        alerts = json.loads(request.content)["alert_info_list"]
        number = int(alerts[0]["event_values"]["block_number"])
        return error(status=statuses[number])

    server = Play(iter(lambda: respond, None))
    results = server.run(sender(link(), outbox=Store()).deliver(batch))
    assert len(results.failed) == 4
    assert results.error is None


@pytest.mark.parametrize("count", [1, 5])
def test_an_alert_that_asks_to_wait_delays_no_others(count):
    received = []
    batch = ready(*map(alert, range(count)))
    server = Play(failing({0}, received, status=503, retry_after="30"))
    results = server.run(sender(link(), outbox=Store()).deliver(batch))
    assert received == list(range(1, count))
    assert server.pauses == []
    [(queued, why)] = results.failed
    assert (queued, why.retry_after) == (batch[0], 30.0)


def test_without_an_outbox_the_alert_itself_is_retried():
    server = Play([error(status=503, retry_after="30"), success()])
    result = server.run(publish(None, ready(*ALERTS[:1])))
    assert result.sent == tuple(ALERTS[:1])
    assert server.pauses == [30.0]


def test_without_an_outbox_an_alert_that_fails_stops_no_others():
    received = []
    server = Play(failing({2}, received))
    with pytest.raises(WatchBusError, match="handler failed") as caught:
        server.run(publish(None, ready(*ALERTS), batch_size=2))
    assert received == [0, 1, 3, 4]
    result = caught.value.published
    assert list(map(numbered, result.sent)) == [0, 1, 3, 4]
    assert (result.unsent, result.error) == ((ALERTS[2],), caught.value)


def test_an_outage_costs_no_attempts():
    for outcomes in (
        [said(b"<html>", status=503)] * 4,
        [said(b"", status=429)] * 4,
        [CUT] * 4,
    ):
        _, results = send(ready(*ALERTS), outcomes)
        assert (results.failed, results.rejected) == ([], [])
        assert results.error is not None


def test_a_call_has_one_deadline_for_all_its_requests():
    store = Store()
    items = accepted(store, ALERTS)
    server = Play(iter(success, None), takes=10)
    result = server.run(publish(store, items, started=0.0, batch_size=1, deadline=25))
    assert list(map(numbered, result.sent)) == [0, 1, 2]
    assert isinstance(result.error, DeadlineExceeded)
    assert [each.limit for each in server.requests] == [25, 15, 5]
    assert len(store) == 2


def test_a_background_sender_has_a_deadline_for_each_request():
    store = Store()
    accepted(store, ALERTS)
    server = Play(iter(success, None), takes=10)
    server.run(publish(store, batch_size=1, deadline=25))
    assert [each.limit for each in server.requests] == [25] * 5


def test_the_number_of_batches_may_be_limited():
    store = Store()
    accepted(store, ALERTS)
    call = sender(link(batch_size=1), outbox=store, max_batches=2)
    result = Play(iter(success, None)).run(call.run())
    assert list(map(numbered, result.sent)) == [0, 1]
    assert not store.sending


def test_an_alert_that_failed_is_logged_and_in_the_result(caplog):
    store = Store()
    items = accepted(store, ALERTS)
    result = Play(failing({1}, [])).run(publish(store, items))
    assert list(map(numbered, result.sent)) == [0, 2, 3, 4]
    assert result.unsent == (ALERTS[1],)
    assert isinstance(result.error, WatchBusError)
    where = f"{ALERTS[1].entity} on chain 56 ({ALERTS[1].dedupe_key('app')[:12]})"
    line = f"alert big_amount_txn at {where} failed: status ERROR, code"
    assert f"bus.example.com, app app: {line}" in caplog.text


def test_a_failed_alert_that_is_given_up_is_logged_once(caplog):
    store = Store(gives_up=True)
    items = accepted(store, ALERTS[:1])
    result = Play(failing({0}, [])).run(publish(store, items))
    [letter] = result.dead
    assert (numbered(letter.alert), letter.attempts) == (0, 1)
    assert "given up after attempt 1; moved to the dead letters: handler" in caplog.text
    assert ") failed" not in caplog.text


@pytest.mark.parametrize(
    "outcome",
    [
        said(b"", status=301),
        said(b"", status=404),
        error("000003", status=401),
        said(b"<html>"),
    ],
)
def test_a_misconfiguration_is_raised_and_alerts_stay_queued(outcome):
    store = Store()
    items = accepted(store, ALERTS)
    with pytest.raises(OrtegeWatchError) as caught:
        Play([outcome]).run(publish(store, items))
    assert caught.value.published.unsent == tuple(ALERTS)
    assert len(store) == 5
    assert not store.sending


def test_an_outbox_that_fails_is_an_error_with_what_was_sent():
    store = Store()
    items = accepted(store, ALERTS)
    broken = OrtegeWatchError("cannot use the outbox: database or disk is full")

    def fail(*_arguments):
        raise broken

    store.resolve = fail
    with pytest.raises(OrtegeWatchError) as caught:
        Play([success()]).run(publish(store, items))
    assert caught.value is broken
    assert caught.value.published.sent == tuple(ALERTS)
    assert not store.sending


# --------------------------------------------------------------------- in background
def test_a_pause_grows_while_acknowledged_alerts_cannot_be_removed():
    errors = [OrtegeWatchError("cannot use the outbox: it is full") for _ in range(4)]
    for each in errors:
        each.published = PublishResult(sent=(ALERTS[0],))
    assert pauses(*errors, base=1.0, cap=5.0) == pytest.approx([1, 2, 4, 5])


def pauses(*errors, **retry):
    pace = SendingPace("bus.example.com", Retry(**retry))
    return [pace.next(each, 0.999999999) for each in errors]


CUT_OFF = TransportError("cut off")
MISSING = WatchBusError("HTTP status 404", status=404)


def test_a_background_sender_backs_off():
    assert pauses(*[CUT_OFF] * 7) == pytest.approx([0.5, 1, 2, 4, 8, 16, 20])
    assert pauses(*[MISSING] * 6) == pytest.approx([20, 40, 80, 160, 300, 300])
    assert pauses(*[MISSING] * 2, cap=999.0) == pytest.approx([999, 999])
    limited = RateLimited("", status=429, retry_after=100.0)
    assert pauses(limited) == [100.0]


def test_what_a_handler_asks_for_one_alert_does_not_hold_up_the_others():
    later = WatchBusError("try again later", status=503, code="000001")
    later.retry_after = 30.0
    assert pauses(later) == pytest.approx([0.5])


def test_what_was_sent_meanwhile_makes_the_next_pause_short():
    error = TransportError("cut off")
    pace = SendingPace("bus.example.com", Retry())
    assert [pace.next(error, 0.0) for _ in range(3)] == [0.25, 0.5, 1]
    error.published = PublishResult()
    assert pace.next(error, 0.0) == 2
    error.published = PublishResult(sent=tuple(ALERTS))
    assert pace.next(error, 0.0) == 0.25
    pace.reset(has_sent=False)
    assert pace.next(CUT_OFF, 0.0) == 0.25


def test_the_end_of_an_outage_is_logged_once(caplog):
    caplog.set_level("INFO")
    pace = SendingPace("bus.example.com", Retry())
    pace.reset(has_sent=True)
    pace.next(CUT_OFF, 0.0)
    pace.reset(has_sent=False)  # nothing was due
    assert "sent again" not in caplog.text
    pace.reset(has_sent=True)
    pace.reset(has_sent=True)
    assert caplog.messages[1:] == ["bus.example.com: alerts are sent again"]


def test_each_batch_that_was_sent_is_logged_for_debugging(caplog):
    caplog.set_level("DEBUG")
    Play([success()] * 3).run(publish(items=ready(*ALERTS), batch_size=2))
    lines = [line for line in caplog.messages if "alerts sent" in line]
    assert lines == [f"bus.example.com, app app: alerts sent: {n}" for n in (2, 2, 1)]


def test_what_waits_for_the_next_attempt_is_logged(caplog):
    SendingPace("host, app p", Retry()).next(CUT_OFF, 0.0, "3 alerts in Outbox('x')")
    [line] = caplog.messages
    assert line.startswith("host, app p: cannot send: cut off; next attempt in ")
    assert line.endswith("; 3 alerts in Outbox('x')")


@pytest.mark.parametrize(
    ("problem", "level", "text"),
    [
        (CUT_OFF, "WARNING", "bus.example.com: cannot send: cut off; next attempt in"),
        (MISSING, "ERROR", "cannot send: HTTP status 404; next attempt in 20 s"),
        (OrtegeWatchError("cannot use the outbox"), "ERROR", "cannot use the outbox"),
        (ValueError("a bug"), "ERROR", "cannot send: ValueError('a bug')"),
    ],
)
def test_why_nothing_is_sent_is_logged(caplog, problem, level, text):
    pauses(problem)
    [record] = caplog.records
    assert record.levelname == level
    assert text in record.getMessage()
    assert bool(record.exc_info) is isinstance(problem, ValueError)


def test_alerts_are_left_to_the_sender_that_has_the_lease():
    store = Store(busy=True)
    items = accepted(store, ALERTS)
    result = Play([]).run(publish(store, items))
    assert (result.sent, result.unsent, result.error) == ((), tuple(ALERTS), None)


def test_alerts_that_others_accepted_before_the_release_are_sent():
    store = Store()
    items = accepted(store, ALERTS[:1])

    def leave_more():
        store.when_released = None
        accepted(store, ALERTS[1:])

    store.when_released = leave_more
    server = Play([success()] * 2)
    result = server.run(publish(store, items))
    assert list(map(numbered, result.sent)) == [0, 1, 2, 3, 4]


def test_closing_while_the_lease_is_being_taken_releases_it():
    store = Store()
    accepted(store, ALERTS)
    conversation = publish(store)
    taking = next(conversation)
    # In a thread, while the task that started it is cancelled.
    assert taking.call()
    assert store.sending
    conversation.close()
    assert not store.sending


def test_closing_during_a_request_releases_the_lease():
    store = Store()
    accepted(store, ALERTS)
    conversation = publish(store)
    server = Play([])
    effect = next(conversation)
    while isinstance(effect, Work):
        effect = conversation.send(server.answer(effect))
    assert store.sending
    conversation.close()
    assert not store.sending
    assert len(store) == 5
