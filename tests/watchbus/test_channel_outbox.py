"""An alert channel that sends what is in an outbox."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from channels import (
    CREDENTIALS,
    WITHIN,
    Drop,
    Inbox,
    Script,
    acknowledge,
    alert,
    answer_to,
    number_of,
    scripted,
    verifier,
)

from ortege_watch import InvalidArgument, OrtegeWatchError, Reconnect
from ortege_watch.testing import ManualClock
from ortege_watch.watchbus import (
    AlertChannel,
    AlertInbox,
    Credentials,
    Outbox,
    RejectAlert,
    RetryAlert,
    serve_alert_channel,
)
from ortege_watch.watchbus.wire import ResultCode, error_answer

pytestmark = pytest.mark.anyio

QUICK = Reconnect(base=0.01, cap=0.02)


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path):
    return tmp_path / "outbox.db"


def sending(script: Script, outbox: Outbox) -> AlertChannel:
    return AlertChannel(script.url, CREDENTIALS, outbox=outbox, reconnect=QUICK)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN):
        while not condition():
            await asyncio.sleep(0.01)


async def test_enqueued_alerts_are_sent_and_leave_the_outbox(path):
    inbox = Inbox()
    async with (
        serve_alert_channel(verifier(), inbox) as server,
        AlertChannel(server.url, CREDENTIALS, outbox=path) as channel,
    ):
        await channel.enqueue([alert(n) for n in range(100)])
        await inbox.reach(100)
        await until(lambda: len(channel.outbox) == 0)
        await channel.enqueue([alert(100)])
        await channel.send([alert(101)])  # not through the outbox
        await inbox.reach(102)
    assert sorted(inbox) == list(range(102))
    with pytest.raises(OrtegeWatchError, match="closed"):
        len(channel.outbox)


async def test_alerts_survive_the_program_and_an_outage(path):
    async with scripted() as script:
        url = script.url  # nobody serves it from here on
    first = AlertChannel(url, CREDENTIALS, outbox=path, reconnect=QUICK)
    await first.enqueue([alert(0)])  # before it is opened
    async with first:
        await first.enqueue([alert(1), alert(2)])
    port = int(url.split(":")[2].split("/")[0])
    inbox = Inbox()
    with Outbox(path) as outbox:
        assert len(outbox) == 3
        async with (
            AlertChannel(url, CREDENTIALS, outbox=outbox, reconnect=QUICK) as channel,
            serve_alert_channel(verifier(), inbox, port=port),
        ):
            await inbox.reach(3)
            await until(lambda: len(outbox) == 0)
        assert channel.outbox is outbox
        assert len(outbox) == 0  # it is not closed with the channel
    assert inbox == [0, 1, 2]


async def test_alerts_that_fail_stop_no_others_and_become_dead_letters(path, caplog):
    clock, calls = Clock(), Inbox()

    async def handler(each):
        await calls(each)
        match number_of(each):
            case 1:
                raise RejectAlert("unknown chain")
            case 2:
                raise RetryAlert(after=200)
            case 3:
                raise ValueError("oops")

    with Outbox(path, max_attempts=2, now=clock) as outbox:
        async with (
            serve_alert_channel(verifier(), handler, inbox=AlertInbox()) as server,
            AlertChannel(server.url, CREDENTIALS, outbox=outbox) as channel,
        ):
            await channel.enqueue([alert(n) for n in range(6)])
            await until(lambda: len(outbox) == 2)
            assert sorted(set(calls)) == [0, 1, 2, 3, 4, 5]
            [dead] = outbox.dead
            assert (dead.reason, dead.status, dead.attempts) == (
                "unknown chain",
                422,
                1,
            )
            await calls.reach(7)
            assert calls[6] == 3  # at once, as others were acknowledged
            clock.now += 150  # the receiver has asked for 200 seconds
            number = 6
            async with asyncio.timeout(WITHIN):
                while len(outbox.dead) < 2:
                    await channel.enqueue([alert(number)])
                    await calls.reach(number)
                    clock.now += 10 * (3 not in calls[7:])
                    number += 1
                assert calls.count(2) == 1
                while len(outbox.dead) < 3:
                    clock.now += 100
                    await channel.enqueue([alert(number)])
                    number += 1
            await until(lambda: len(outbox) == 0)
            assert "moved to the dead letters: unknown chain" in caplog.text


async def test_a_receiver_that_fails_for_every_alert_is_given_a_pause(path, caplog):
    ready, calls = False, Inbox()

    async def handler(each):
        await calls(each)
        if not ready:
            raise ValueError("no database")

    with Outbox(path) as outbox:
        async with (
            serve_alert_channel(verifier(), handler) as server,
            AlertChannel(
                server.url, CREDENTIALS, outbox=outbox, reconnect=QUICK
            ) as channel,
        ):
            await channel.enqueue([alert(n) for n in range(3)])
            await until(lambda: "cannot send" in caplog.text)
            assert len(outbox) == 3  # to be sent again later
            ready = True
            await channel.enqueue([alert(3)])
            await until(lambda: len(outbox) == 0)  # the outage is over
        assert outbox.dead == []
    assert sorted(set(calls)) == [0, 1, 2, 3]


@pytest.mark.parametrize("status", [None, 401, 404, 405])
async def test_an_alert_on_which_a_receiver_breaks_down_stops_no_others(path, status):
    """After an outage alerts are sent alone at first, and so this one is found.

    With a status it looks as if a setting were wrong.
    """

    def play(frame):
        [wire] = frame["body"]["alert_info_list"]
        if wire["event_values"]["block_number"] != "3":
            return acknowledge(frame)
        body = error_answer(ResultCode.SERVER_ERROR, "no")
        return Drop if status is None else answer_to(frame, status, body)

    with Outbox(path, max_attempts=1) as outbox:
        async with scripted(play) as script, sending(script, outbox) as channel:
            await channel.enqueue([alert(n) for n in range(20)])
            await until(lambda: not len(outbox))
        assert [number_of(each.alert) for each in outbox.dead] == [3]


async def test_an_alert_that_is_never_answered_stops_no_others(path, caplog):
    """The receiver answers all others, and pings."""

    def play(frame):
        [wire] = frame["body"]["alert_info_list"]
        if wire["event_values"]["block_number"] != "3":
            return acknowledge(frame)
        return hung.append(frame)

    hung: list[object] = []
    clock = ManualClock()
    with Outbox(path, max_attempts=1) as outbox:
        async with (
            asyncio.timeout(WITHIN),
            scripted(play) as script,
            AlertChannel(
                script.url,
                CREDENTIALS,
                outbox=outbox,
                reconnect=QUICK,
                clock=clock,
                ping_every=1e6,
            ) as channel,
        ):
            await channel.enqueue([alert(n) for n in range(20)])
            await script.frames.reach(20)
            number = 20
            while not outbox.dead:
                if len(hung) > number - 20:  # another one is due with it each time
                    await channel.enqueue([alert(number)])
                    number += 1
                await clock.advance(10)
                await asyncio.sleep(0.001)
        assert [number_of(each.alert) for each in outbox.dead] == [3]
        assert "no answer within 120 s to alert big_amount_txn" in outbox.dead[0].reason
    lines = [line for line in caplog.messages if "no answer within 120 s" in line]
    assert f"{script.url[5:]}, app {CREDENTIALS.app_id}: closing" in lines[0]


async def test_wrong_credentials_cost_no_attempt(path):
    wrong, inbox = Credentials(CREDENTIALS.app_id, "another secret"), Inbox()
    with Outbox(path, max_attempts=1) as outbox:
        async with serve_alert_channel(verifier(), inbox) as server:
            async with AlertChannel(
                server.url, wrong, outbox=outbox, reconnect=QUICK
            ) as channel:
                await channel.enqueue([alert(1)])
                with pytest.raises(OrtegeWatchError, match="invalid signature"):
                    await channel.send([alert(2)])
            assert (len(outbox), outbox.dead) == (1, [])
            async with AlertChannel(server.url, CREDENTIALS, outbox=outbox):
                await inbox.reach(1)


@pytest.mark.parametrize("status", [400, 403, 409, 413, 422, 500, 503])
async def test_a_refused_handshake_costs_no_attempt_and_makes_no_dead_letter(
    path, status
):
    """It comes from a proxy, or from an application without the channel."""
    with Outbox(path, max_attempts=1) as outbox:
        async with scripted() as script:
            script.refusals += [(status, b"<html>no</html>", {})] * 4
            async with sending(script, outbox) as channel:
                await channel.enqueue([alert(n) for n in range(20)])
                await until(lambda: not (len(outbox) or script.refusals))
        assert outbox.dead == []
        assert sorted(script.numbers(1)) == list(range(20))


async def test_an_answer_that_cannot_be_decoded_costs_no_attempt(path):
    twice = '{"code": "000000000", "code": "000001"}'

    def play(frame):
        if len(script.frames) > 3:
            return acknowledge(frame)
        return f'{{"id": "{frame["id"]}", "status": 200, "body": {twice}}}'

    with Outbox(path, max_attempts=1) as outbox:
        async with scripted(play) as script, sending(script, outbox) as channel:
            await channel.enqueue([alert(1)])
            await until(lambda: not len(outbox))
        assert outbox.dead == []
        assert script.numbers(1) == [1] * 4


async def test_alerts_that_cannot_be_enqueued_are_refused():
    channel = AlertChannel("ws://alerts.invalid/", CREDENTIALS)
    assert channel.outbox is None
    with pytest.raises(InvalidArgument, match="needs an outbox: pass outbox="):
        await channel.enqueue([alert(1)])


async def test_an_alert_that_is_too_large_is_not_enqueued(path):
    url = "ws://alerts.invalid/"
    with Outbox(path) as outbox:
        channel = AlertChannel(url, CREDENTIALS, outbox=outbox, max_body=500)
        with pytest.raises(InvalidArgument, match="one alert is too large"):
            await channel.enqueue([alert(1), alert(2, comment="x" * 500)])
        with pytest.raises(InvalidArgument, match="alerts is empty"):
            await channel.enqueue([])
        assert len(outbox) == 0


async def test_a_setting_that_becomes_wrong_costs_no_attempts(path, caplog):
    is_wrong = False

    def play(frame):
        body = error_answer(ResultCode.SERVER_ERROR, "no")
        return answer_to(frame, 404, body) if is_wrong else acknowledge(frame)

    with Outbox(path, max_attempts=1) as outbox:
        async with scripted(play) as script, sending(script, outbox) as channel:
            await channel.enqueue([alert(0)])
            await until(lambda: not len(outbox))
            is_wrong = True
            await channel.enqueue([alert(n) for n in range(1, 6)])
            await until(lambda: caplog.text.count("cannot send") >= 3)
            assert (len(outbox), outbox.dead) == (5, [])
            assert {each.attempts for each in outbox.waiting()} == {0}
            is_wrong = False
            await until(lambda: not len(outbox))
        assert outbox.dead == []


async def test_the_outbox_of_another_receiver_is_refused(path):
    url = "wss://bus.example.com/alerts/ws"
    with Outbox(path) as outbox:
        await AlertChannel(url, CREDENTIALS, outbox=outbox).enqueue([alert(1)])
        for other, credentials in (
            ("wss://bus.example.com/ws", CREDENTIALS),
            (url, Credentials("other-app", "hush")),
        ):
            for given in (path, outbox):
                with pytest.raises(InvalidArgument, match="use one file for each app"):
                    AlertChannel(other, credentials, outbox=given)
        await AlertChannel(url, CREDENTIALS, outbox=path).enqueue([alert(2)])
        assert len(outbox) == 2
