from __future__ import annotations

import pytest
from driving import CUT, Play, alert, error, link, success

from ortege_watch import InvalidArgument, TransportError
from ortege_watch._http.conversation import Work
from ortege_watch.watchbus import WireStyle
from ortege_watch.watchbus.publishing import Desk

PLAIN = WireStyle()


class Store:
    """An outbox in memory, which may be somebody else's for a while."""

    def __init__(self, *, busy=False):
        self.left = []
        self.busy = busy
        self.sending = False
        self.when_released = None

    def __len__(self):
        return len(self.left)

    def accept(self, alerts):
        keys = {each.key for each in self.left}
        self.left += [each for each in alerts if each.key not in keys]

    def still(self, alerts):
        keys = {each.key for each in self.left}
        return [each for each in alerts if each.key in keys]

    def first(self, limit):
        return self.left[:limit]

    def settle(self, delivered):
        gone = {each.key for each in delivered.sent}
        gone |= {each.key for each, _ in delivered.rejected}
        self.left = [each for each in self.left if each.key not in gone]

    def begin_sending(self, turn):
        assert not self.sending
        self.sending = not self.busy
        return self.sending

    def end_sending(self, turn):
        turn.over = True
        self.sending = False
        if self.when_released is not None:
            self.when_released()


def desk(store=None, batch_size=100, style=PLAIN):
    made = Desk(link(), "/api/v1/watch/alert", style, batch_size)
    made.outbox = store
    return made


ALERTS = [alert(number) for number in range(5)]


def test_a_batch_size_and_a_path_are_checked():
    with pytest.raises(InvalidArgument, match="batch_size"):
        desk(batch_size=0)
    with pytest.raises(InvalidArgument, match="path"):
        Desk(link(), "alert", PLAIN, 1)


# -------------------------------------------------------------------- without an outbox
def test_without_an_outbox_alerts_are_sent_in_batches_and_no_disk_is_asked():
    server = Play([success()] * 3)
    at = desk(batch_size=2)
    items = at.prepare(ALERTS)
    told = []
    result = server.run(at.publish(link(), items, lambda *each: told.append(each)))
    assert result.sent == tuple(ALERTS)
    assert result.unsent == ()
    assert len(server.requests) == 3
    assert told == [(2, 5), (4, 5), (5, 5)]
    assert not any(isinstance(effect, Work) for effect in server.effects)


def test_without_an_outbox_accepting_does_nothing():
    at = desk()
    Play([]).run(at.accept(at.prepare(ALERTS)))


def test_without_an_outbox_an_error_tells_what_was_sent_and_what_was_not():
    server = Play([success(), *[CUT] * 4])
    at = desk(batch_size=2)
    with pytest.raises(TransportError) as caught:
        server.run(at.publish(link(), at.prepare(ALERTS), None))
    result = caught.value.published
    assert result.sent == tuple(ALERTS[:2])
    assert result.unsent == tuple(ALERTS[2:])
    assert result.error is caught.value


def test_without_an_outbox_there_is_nothing_to_flush():
    assert Play([]).run(desk().flush(link(), None)).sent == ()


def test_the_form_of_the_body_is_the_style_s():
    server = Play([success()])
    at = desk(style=WireStyle(bare_lists=True))
    server.run(at.publish(link(), at.prepare(ALERTS[:1]), None))
    assert isinstance(server.bodies[0], list)


# ----------------------------------------------------------------------- with an outbox
def accepted(at, alerts):
    items = at.prepare(alerts)
    Play([]).run(at.accept(items))
    return items


def test_what_waits_goes_first():
    store = Store()
    at = desk(store, batch_size=2)
    accepted(at, ALERTS[:3])
    told = []
    server = Play([success()] * 3)
    items = accepted(at, ALERTS[3:])
    result = server.run(at.publish(link(), items, lambda *each: told.append(each)))
    assert result.sent == tuple(ALERTS)
    assert (result.unsent, result.error) == ((), None)
    assert told == [(2, 5), (4, 5), (5, 5)]
    assert not store.sending


def test_what_cannot_be_sent_waits_and_that_is_no_error(caplog):
    store = Store()
    at = desk(store, batch_size=2)
    items = accepted(at, ALERTS)
    result = Play([success(), *[CUT] * 4]).run(at.publish(link(), items, None))
    assert result.sent == tuple(ALERTS[:2])
    assert result.unsent == tuple(ALERTS[2:])
    assert isinstance(result.error, TransportError)
    assert not store.sending
    assert "3 alerts wait" in caplog.text


def test_a_flush_that_cannot_send_all_says_so():
    store = Store()
    at = desk(store, batch_size=2)
    accepted(at, ALERTS)
    with pytest.raises(TransportError) as caught:
        Play([success(), *[CUT] * 4]).run(at.flush(link(), None))
    assert caught.value.published.sent == tuple(ALERTS[:2])
    assert Play([success()] * 2).run(at.flush(link(), None)).sent == tuple(ALERTS[2:])
    assert len(store) == 0


def test_what_is_refused_holds_nothing_up_and_is_logged(caplog):
    store = Store()
    at = desk(store)
    items = accepted(at, ALERTS[:1])
    server = Play([error("000099", "too old")])
    result = server.run(at.publish(link(), items, None))
    assert [each.reason for each in result.rejected] == ["too old"]
    assert (result.unsent, result.error) == ((), None)
    assert "too old" in caplog.text
    assert len(store) == 0


def test_while_another_one_sends_alerts_are_left_to_that_one():
    store = Store(busy=True)
    at = desk(store)
    items = accepted(at, ALERTS)
    result = Play([]).run(at.publish(link(), items, None))
    assert (result.sent, result.unsent, result.error) == ((), tuple(ALERTS), None)


def test_what_was_left_to_this_one_at_the_last_moment_is_sent():
    store = Store()
    at = desk(store)
    items = accepted(at, ALERTS[:1])

    def leave_more():
        store.when_released = None
        accepted(at, ALERTS[1:])

    store.when_released = leave_more
    server = Play([success()] * 2)
    result = server.run(at.publish(link(), items, None))
    assert result.sent == tuple(ALERTS)


def test_leaving_while_the_turn_is_being_taken_gives_it_away():
    store = Store()
    at = desk(store)
    accepted(at, ALERTS)
    conversation = at.flush(link(), None)
    server = Play([])
    taking = conversation.send(server.answer(next(conversation)))
    assert taking.call()  # in a thread; the task that asked is cancelled meanwhile
    assert store.sending
    conversation.close()
    assert not store.sending


def test_leaving_in_the_middle_gives_the_turn_away():
    store = Store()
    at = desk(store)
    accepted(at, ALERTS)
    conversation = at.flush(link(), None)
    server = Play([])
    effect = next(conversation)
    while isinstance(effect, Work):
        effect = conversation.send(server.answer(effect))
    assert store.sending
    conversation.close()
    assert not store.sending
    assert len(store) == 5
