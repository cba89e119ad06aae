"""The sender of an alert channel, over real sockets on loopback."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
import traceback
from email.utils import formatdate

import anyio
import pytest
from channels import (
    CREDENTIALS,
    WITHIN,
    Drop,
    Gate,
    Inbox,
    acknowledge,
    alert,
    answer_to,
    number_of,
    scripted,
    verifier,
)
from signed import SECRET

from ortege_watch import InvalidArgument, OrtegeWatchError, Reconnect, TransportError
from ortege_watch.testing import ManualClock
from ortege_watch.watchbus import (
    AlertChannel,
    AlertInbox,
    Credentials,
    RequestVerifier,
    WatchBusError,
    WireStyle,
    serve_alert_channel,
)
from ortege_watch.watchbus.wire import ResultCode, error_answer

pytestmark = pytest.mark.anyio

FAILED = error_answer(ResultCode.SERVER_ERROR, "an alert was not handled")
NEVER = Reconnect(attempts=1)
NO_PING = 1e6
_UNHEARD = logging.Logger("unheard")  # noqa: LOG001 - the peer's own lines


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def channel_to(target, **options) -> AlertChannel:
    options.setdefault("ping_every", NO_PING)
    return AlertChannel(target.url, CREDENTIALS, **options)


async def delay_of(clock: ManualClock) -> float:
    """Wait until the channel lets time pass before it does something again."""
    async with asyncio.timeout(WITHIN):
        while not clock.sleepers or clock.sleepers[0] > 60:
            await asyncio.sleep(0.001)
    return clock.sleepers[0]


async def pass_delay(clock: ManualClock) -> float:
    delay = await delay_of(clock)
    await clock.advance(delay)
    return delay


async def asleep(clock: ManualClock, seconds: float) -> None:
    """Wait until that is the next thing that the channel waits for."""
    async with asyncio.timeout(WITHIN):
        while not clock.sleepers or clock.sleepers[0] != seconds:
            await asyncio.sleep(0.001)


def all_others() -> set[asyncio.Task[object]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


# -------------------------------------------------------------------- sending
async def test_alerts_arrive_in_the_order_in_which_they_were_sent():
    inbox = Inbox()
    async with (
        asyncio.timeout(WITHIN),
        serve_alert_channel(verifier(), inbox) as server,
        channel_to(server) as channel,
    ):
        await channel.send([alert(0), alert(1)])
        await asyncio.gather(*(channel.send([alert(n)]) for n in range(2, 100)))
        assert inbox == list(range(100))


async def test_send_returns_when_the_alerts_are_handled():
    gate = Gate()
    async with (
        asyncio.timeout(WITHIN),
        serve_alert_channel(verifier(), gate) as server,
        channel_to(server) as channel,
    ):
        sending = asyncio.create_task(channel.send([alert(1)]))
        await gate.entered.reach(1)
        assert not sending.done()
        gate.let_on.set()
        await sending
        assert gate.done == [1]


async def test_alerts_may_be_sent_while_the_connection_is_blocked():
    async with (
        asyncio.timeout(WITHIN),
        scripted() as script,
        channel_to(script) as channel,
    ):
        await channel.send([alert(1)])
        script.connections[0].transport.pause_reading()
        large = alert(2, comment="x" * 900_000)
        sending = [asyncio.create_task(channel.send([large])) for _ in range(10)]
        await anyio.wait_all_tasks_blocked()
        sending.append(asyncio.create_task(channel.send([alert(3)])))
        await anyio.wait_all_tasks_blocked()
        script.connections[0].transport.resume_reading()
        await asyncio.gather(*sending)
    assert script.numbers(1) == [1, *[2] * 10, 3]


async def test_a_style_changes_the_form_of_what_is_sent():
    async with asyncio.timeout(WITHIN), scripted() as script:
        style = WireStyle(chain_id_as_int=True, bare_lists=True)
        async with channel_to(script, style=style) as channel:
            await channel.send([alert(1)])
    [(_, frame)] = script.frames
    assert frame["body"][0]["chain_id"] == 56


@pytest.mark.parametrize(
    ("alerts", "problem"),
    [([], "alerts is empty"), ([alert(1), alert(2)], "send fewer at once")],
)
async def test_alerts_that_cannot_be_sent_are_refused_at_once(alerts, problem):
    async with scripted() as script, channel_to(script, max_body=300) as channel:
        with pytest.raises(InvalidArgument, match=problem):
            await channel.send(alerts)
    assert script.frames == []


async def test_max_pending_limits_the_frames_without_an_answer():
    async with (
        asyncio.timeout(WITHIN),
        scripted(lambda frame: None) as script,
        channel_to(script, max_pending=2) as channel,
    ):
        sending = [asyncio.create_task(channel.send([alert(n)])) for n in range(3)]
        await script.frames.reach(2)
        await (await script.connections[0].ping())  # whatever was sent has come
        assert script.numbers(1) == [0, 1]
        await script.connections[0].send(acknowledge(script.frames[1][1]))
        await script.frames.reach(3)
        assert script.numbers(1) == [0, 1, 2]
        assert [task.done() for task in sending] == [False, True, False]
        for n in (0, 2):
            await script.connections[0].send(acknowledge(script.frames[n][1]))
        await asyncio.gather(*sending)


# ------------------------------------------------------------------------- outages
async def test_unacknowledged_frames_are_sent_again_in_order(clock):
    def play(frame):
        text = str(frame)
        if "'block_number': '1'" in text:
            return acknowledge(frame)
        return Drop if "'block_number': '3'" in text else None

    async with (
        asyncio.timeout(WITHIN),
        scripted(play) as script,
        channel_to(script, clock=clock) as channel,
    ):
        sending = [asyncio.create_task(channel.send([alert(n)])) for n in range(4)]
        await script.gone.reach(1)
        script.play = acknowledge
        await pass_delay(clock)
        await asyncio.gather(*sending)
    assert script.numbers(1) == [0, 1, 2, 3]
    assert script.numbers(2) == [0, 2, 3]
    ids = {frame["id"] for _, frame in script.frames}
    assert len(ids) == 4


async def test_no_alert_is_lost_when_the_receiver_restarts():
    taken, inbox = Inbox(), AlertInbox()
    retry = Reconnect(base=0.01, cap=0.02)
    nonces = verifier()  # both have the same

    async def some(alert):
        await taken(alert)
        if len(taken) == 20:
            raise RuntimeError("not now")

    async with asyncio.timeout(WITHIN):
        async with serve_alert_channel(nonces, some, inbox=inbox) as server:
            channel = channel_to(server, reconnect=retry, max_pending=8)
            await channel.__aenter__()
            sending = [asyncio.create_task(channel.send([alert(n)])) for n in range(50)]
            await taken.reach(20)
        assert sum(task.done() for task in sending) < 50
        port = server.port
        async with serve_alert_channel(nonces, some, inbox=inbox, port=port):
            await asyncio.gather(*sending)
        await channel.__aexit__(None, None, None)
    # The one that failed came twice, each of the others once.
    assert sorted(taken) == sorted([*range(50), taken[19]])


async def test_alerts_are_sent_when_the_receiver_has_started(clock):
    async with scripted() as script:
        port = int(script.url.split(":")[2].split("/")[0])
    async with asyncio.timeout(WITHIN), channel_to(script, clock=clock) as channel:
        sending = asyncio.create_task(channel.send([alert(1)]))
        for whole in (1, 2, 4, 8, 16, 32, 60, 60):
            assert whole / 2 <= await pass_delay(clock) <= whole
        await delay_of(clock)
        async with scripted(port=port) as script:
            await clock.advance(60)
            await sending
    assert script.numbers(1) == [1]


async def test_back_off_grows_while_the_receiver_accepts_and_drops(clock):
    async with (
        asyncio.timeout(WITHIN),
        scripted(lambda frame: Drop) as script,
        channel_to(script, clock=clock) as channel,
    ):
        sending = asyncio.create_task(channel.send([alert(1)]))
        times = []
        while not times or times[-1] < 60:
            await script.gone.reach(len(times) + 1)
            times.append(clock.now())
            await pass_delay(clock)
        assert 2 <= sum(at < 60 for at in times) <= 10
        sending.cancel()


async def test_every_handshake_has_its_own_nonce(clock):
    async with (
        asyncio.timeout(WITHIN),
        scripted(lambda frame: Drop) as script,
        channel_to(script, clock=clock) as channel,
    ):
        sending = asyncio.create_task(channel.send([alert(1)]))
        await script.gone.reach(1)
        script.play = acknowledge
        await pass_delay(clock)
        await sending
    assert len({each["X-Signature-nonce"] for each in script.headers}) == 2


async def test_attempts_limit_how_often_the_channel_connects(clock, caplog):
    async with scripted() as script:
        pass
    retry = Reconnect(attempts=2)
    options = {"reconnect": retry, "clock": clock}
    async with asyncio.timeout(WITHIN), channel_to(script, **options) as channel:
        sending = asyncio.create_task(channel.send([alert(1)]))
        await pass_delay(clock)
        with pytest.raises(TransportError, match="cannot connect") as caught:
            await sending
        assert isinstance(caught.value.__cause__, OSError)
        # It connects again only when there is something to send.
        await clock.advance(1000)
        assert clock.sleepers == ()
        again = asyncio.create_task(channel.send([alert(2)]))
        await pass_delay(clock)
        with pytest.raises(TransportError):
            await again
    # Two attempts for each send(): the count starts again.
    assert caplog.text.count("next attempt in") == 4


async def test_an_upgrade_that_is_never_answered_times_out():
    async def nothing(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_server(nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with (
        asyncio.timeout(WITHIN),
        server,
        AlertChannel(
            f"ws://127.0.0.1:{port}/", CREDENTIALS, reconnect=NEVER, connect_within=0.05
        ) as channel,
    ):
        with pytest.raises(TransportError, match="timed out"):
            await channel.send([alert(1)])


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 401 No\r\nContent-Length: 999999999\r\n\r\n",
        b"HTTP/1.1 401 No\r\nContent-Length: 3\r\n\r\n{\xff}",
        b"HTTP/1.1 503 No\r\nX: \xff\xfe\r\n\r\n",
        b"HTTP/1.1 302 There\r\n\r\n",
        b"HTTP/1.1 " + b"9" * 5000 + b"\r\n\r\n",
    ],
)
async def test_every_invalid_answer_to_the_upgrade_is_an_error_of_this_library(said):
    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"ws://127.0.0.1:{port}/"
    async with (
        asyncio.timeout(WITHIN),
        server,
        AlertChannel(url, CREDENTIALS, reconnect=NEVER) as channel,
    ):
        with pytest.raises((TransportError, WatchBusError)):
            await channel.send([alert(1)])


async def test_errors_do_not_show_secrets_that_the_receiver_repeats():
    async def repeat(reader, writer):
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        signature = request.split("X-Signature-signature: ")[1].split("\r\n")[0]
        signatures.append(signature)
        answer = f"HTTP/1.1 101 OK\r\nConnection: {SECRET}/{signature}\r\n\r\n"
        writer.write(answer.encode())
        writer.close()

    signatures = []
    server = await asyncio.start_server(repeat, "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with (
        asyncio.timeout(WITHIN),
        server,
        AlertChannel(url, CREDENTIALS, reconnect=NEVER) as channel,
    ):
        with pytest.raises(TransportError, match="<secret>/<secret>") as caught:
            await channel.send([alert(1)])
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown
    assert signatures[0] not in shown


def test_an_unusable_proxy_is_an_error_at_creation(monkeypatch):
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:9")
    with pytest.raises(InvalidArgument, match="environment variable http_proxy"):
        AlertChannel("ws://alerts.invalid/", CREDENTIALS)


async def test_an_answer_that_is_too_large_causes_a_reconnect(clock):
    async with (
        asyncio.timeout(WITHIN),
        scripted(lambda frame: "x" * (2**20 + 1)) as script,
        channel_to(script, clock=clock) as channel,
    ):
        sending = asyncio.create_task(channel.send([alert(1)]))
        await script.gone.reach(1)
        script.play = acknowledge
        await pass_delay(clock)
        await sending
    assert script.numbers(2) == [1]


async def test_a_ping_without_an_answer_causes_a_reconnect(clock):
    async with (
        asyncio.timeout(WITHIN),
        scripted(lambda frame: None, ping_interval=None) as script,
        channel_to(script, clock=clock, ping_every=20, pong_within=10) as channel,
    ):
        sending = asyncio.create_task(channel.send([alert(1)]))
        await script.frames.reach(1)
        for _ in range(3):
            await asleep(clock, 20)
            await clock.advance(20)  # a ping, and its answer
        await asleep(clock, 20)
        assert len(script.connections) == 1
        script.connections[0].transport.pause_reading()
        await clock.advance(20)
        await asleep(clock, 10)
        await clock.advance(10)
        script.play = acknowledge
        assert await pass_delay(clock) <= 1  # it had held
        script.connections[0].transport.abort()
        await sending
    assert script.numbers(2) == [1]


async def test_a_receiver_that_reads_nothing_causes_a_reconnect(clock):
    async with (
        asyncio.timeout(WITHIN),
        scripted(lambda frame: None) as script,
        channel_to(script, clock=clock, ping_every=20, pong_within=10) as channel,
    ):
        sending = [asyncio.create_task(channel.send([alert(0)]))]
        await script.frames.reach(1)
        script.connections[0].transport.pause_reading()
        large = alert(1, comment="x" * 900_000)
        sending += [asyncio.create_task(channel.send([large])) for _ in range(15)]
        await asleep(clock, 20)
        await clock.advance(20)
        await asleep(clock, 10)
        await clock.advance(10)
        script.play = acknowledge
        await pass_delay(clock)
        script.connections[0].transport.abort()
        await asyncio.gather(*sending)


@pytest.mark.parametrize("garbage", ["", "{", "[]", '{"id": 1}', b"\xff\x00"])
async def test_answers_that_cannot_be_decoded_cause_a_reconnect(clock, garbage):
    async with (
        asyncio.timeout(WITHIN),
        scripted(lambda frame: garbage) as script,
        channel_to(script, clock=clock) as channel,
    ):
        sending = asyncio.create_task(channel.send([alert(1)]))
        await script.gone.reach(1)
        script.play = acknowledge
        await pass_delay(clock)
        await sending
    assert script.numbers(2) == [1]


async def test_an_answer_to_an_unknown_frame_is_ignored():
    async with (
        asyncio.timeout(WITHIN),
        scripted() as script,
        channel_to(script) as channel,
    ):
        await channel.send([alert(1)])
        script.frames[0][1]["id"] = "of nobody"
        await script.connections[0].send(acknowledge(script.frames[0][1]))
        await channel.send([alert(2)])
    assert script.numbers(1) == [1, 2]


# ------------------------------------------------------------------------ refusals
async def test_alerts_that_were_not_handled_are_sent_again_after_a_delay(clock):
    async with (
        asyncio.timeout(WITHIN),
        scripted(lambda frame: answer_to(frame, 500, FAILED)) as script,
        channel_to(script, clock=clock) as channel,
    ):
        sending = asyncio.create_task(channel.send([alert(1)]))
        for whole in (1, 2, 4):
            sent = len(script.frames)
            assert whole / 2 <= await pass_delay(clock) <= whole
            await script.frames.reach(sent + 1)
        await delay_of(clock)
        script.play = acknowledge
        # Other frames do not wait for it.
        await channel.send([alert(2)])
        await clock.advance(8)
        await sending
    assert script.numbers(1) == [1, 1, 1, 1, 2, 1]
    assert len({frame["id"] for _, frame in script.frames}) == 2


async def test_attempts_limit_how_often_alerts_are_sent_again(clock):
    play = lambda frame: answer_to(frame, 500, FAILED)  # noqa: E731
    async with (
        asyncio.timeout(WITHIN),
        scripted(play) as script,
        channel_to(script, max_attempts=3, clock=clock) as channel,
    ):
        sending = asyncio.create_task(channel.send([alert(1)]))
        for whole in (1, 2):
            assert whole / 2 <= await pass_delay(clock) <= whole
        with pytest.raises(WatchBusError) as caught:
            await sending
    assert script.numbers(1) == [1, 1, 1]
    assert caught.value.status == 500
    assert caught.value.reason == "an alert was not handled"
    host = script.url.split("/")[2]
    assert str(caught.value).startswith(f"{host}: ")
    assert str(caught.value).endswith("was not handled (given up after 3 attempts)")


async def test_frames_that_always_fail_stop_no_others(clock):
    def play(frame):
        number = int(
            frame["body"]["alert_info_list"][0]["event_values"]["block_number"]
        )
        return answer_to(frame, 500, FAILED) if number < 20 else acknowledge(frame)

    async with (
        asyncio.timeout(WITHIN),
        scripted(play) as script,
        channel_to(script, clock=clock) as channel,
    ):
        failing = [asyncio.create_task(channel.send([alert(n)])) for n in range(20)]
        await script.frames.reach(20)  # more than max_pending
        await asyncio.gather(*(channel.send([alert(n)]) for n in range(20, 60)))
        assert not any(task.done() for task in failing)
        while not all(task.done() for task in failing):
            await clock.advance(60)
        errors = await asyncio.gather(*failing, return_exceptions=True)
    assert {error.status for error in errors} == {500}
    numbers = script.numbers(1)
    assert [numbers.count(n) for n in range(60)] == [10] * 20 + [1] * 40


def asking_to_wait(seconds, status):
    """Answer each frame with a failure and a retry_after."""

    def play(frame):
        answer = json.loads(answer_to(frame, status, FAILED))
        return json.dumps({**answer, "retry_after": seconds})

    return play


async def test_a_retry_that_the_receiver_asks_for_has_its_delay(clock):
    async with (
        asyncio.timeout(WITHIN),
        scripted(asking_to_wait(45, 503)) as script,
        channel_to(script, clock=clock) as channel,
    ):
        sending = asyncio.create_task(channel.send([alert(1)]))
        await script.frames.reach(1)
        script.play = acknowledge
        assert await pass_delay(clock) == 45
        await sending
    assert script.numbers(1) == [1, 1]


async def test_the_wait_in_an_error_is_at_most_a_day(clock):
    async with (
        asyncio.timeout(WITHIN),
        scripted(asking_to_wait(1e300, 400)) as script,
        channel_to(script, clock=clock) as channel,
    ):
        with pytest.raises(WatchBusError) as caught:
            await channel.send([alert(1)])
    assert caught.value.retry_after == 86_400


async def test_a_handler_that_fails_now_and_then_ends_no_channel():
    rng, failed, taken = random.Random(7), set(), Inbox()

    async def handler(alert):
        number = number_of(alert)
        if number not in failed and rng.random() < 0.1:
            failed.add(number)
            raise RuntimeError("not now")
        await taken(alert)

    retry = Reconnect(base=0.001, cap=0.002)
    async with (
        asyncio.timeout(60),
        serve_alert_channel(verifier(), handler) as server,
        channel_to(server, reconnect=retry) as channel,
    ):
        await asyncio.gather(*(channel.send([alert(n)]) for n in range(2000)))
    assert sorted(taken) == list(range(2000))
    assert len(failed) > 100


async def test_alerts_that_the_receiver_cannot_decode_are_not_sent_again():
    async with (
        asyncio.timeout(WITHIN),
        scripted(lambda frame: answer_to(frame, 400, FAILED)) as script,
        channel_to(script) as channel,
    ):
        with pytest.raises(WatchBusError):
            await channel.send([alert(1)])
        script.play = acknowledge
        await channel.send([alert(2)])
    assert script.numbers(1) == [1, 2]


async def test_a_frame_that_is_too_large_fails_and_the_others_arrive(clock):
    inbox, small = Inbox(), verifier(max_body=2000)
    async with (
        asyncio.timeout(WITHIN),
        serve_alert_channel(small, inbox) as server,
        channel_to(server, clock=clock) as channel,
    ):
        large = asyncio.create_task(channel.send([alert(n) for n in range(20)]))
        other = asyncio.create_task(channel.send([alert(99)]))
        with pytest.raises(WatchBusError, match="send fewer alerts at once") as caught:
            await large
        assert caught.value.status == 413
        await pass_delay(clock)
        await other
    assert inbox == [99]


async def test_every_pending_send_fails_when_the_credentials_are_refused(clock):
    wrong = Credentials(CREDENTIALS.app_id, "another secret")
    async with (
        asyncio.timeout(WITHIN),
        serve_alert_channel(verifier(), Inbox()) as server,
        AlertChannel(server.url, wrong, clock=clock) as channel,
    ):
        sending = [channel.send([alert(n)]) for n in range(2)]
        told = await asyncio.gather(*sending, return_exceptions=True)
        assert [type(each) for each in told] == [WatchBusError] * 2
        assert told[0] is not told[1]
        assert (told[0].code, told[0].status) == ("000005", 401)
        assert told[0].reason == "invalid signature"
        # The next one waits for the back-off.
        again = asyncio.create_task(channel.send([alert(3)]))
        await delay_of(clock)
        assert not again.done()
        await clock.advance(1)
        with pytest.raises(WatchBusError):
            await again


async def test_a_transient_refusal_of_the_handshake_is_retried(clock):
    async with asyncio.timeout(WITHIN), scripted() as script:
        script.refusals = [(503, FAILED, {}), (502, b"<html>", {}), (429, FAILED, {})]
        async with channel_to(script, clock=clock) as channel:
            sending = asyncio.create_task(channel.send([alert(1)]))
            for seen in (1, 2, 3):
                await delay_of(clock)
                assert len(script.headers) == seen
                await pass_delay(clock)
            await sending


async def test_a_redirect_is_not_followed():
    async with asyncio.timeout(WITHIN), scripted() as script, scripted() as other:
        script.refusals = [(301, b"over there", {"Location": other.url})] * 9
        async with channel_to(script) as channel:
            with pytest.raises(WatchBusError) as caught:
                await channel.send([alert(1)])
        assert caught.value.status == 301
        assert f"redirected to {other.url}" in str(caught.value)
        assert "only if you trust it" in str(caught.value)
        assert other.headers == []


async def test_the_clock_is_corrected_once_if_the_signature_expired(clock):
    expired = error_answer(ResultCode.SIGNATURE_ERROR, "timestamp is expired")
    date = {"Date": formatdate(time.time() + 1000, usegmt=True)}
    async with asyncio.timeout(WITHIN), scripted() as script:
        script.refusals = [(401, expired, date)] * 9
        async with channel_to(script, clock=clock) as channel:
            sending = asyncio.create_task(channel.send([alert(1)]))
            await pass_delay(clock)
            with pytest.raises(WatchBusError) as caught:
                await sending
        assert caught.value.reason == "timestamp is expired"
    first, second = (int(each["X-Signature-timestamp"]) for each in script.headers)
    assert abs(second - first - 1_000_000) < 10_000


async def test_tls_that_fails_is_a_transport_error():
    async with asyncio.timeout(WITHIN), scripted() as script:
        url = script.url.replace("ws://", "wss://")
        async with AlertChannel(url, CREDENTIALS, reconnect=NEVER) as channel:
            with pytest.raises(TransportError, match="cannot connect"):
                await channel.send([alert(1)])


# ------------------------------------------------------------------------- closing
async def test_alerts_whose_call_was_cancelled_are_not_sent_again(clock):
    async with (
        asyncio.timeout(WITHIN),
        scripted(lambda frame: None) as script,
        channel_to(script, clock=clock) as channel,
    ):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await channel.send([alert(1)])
        script.play = lambda frame: Drop
        sending = asyncio.create_task(channel.send([alert(2)]))
        await script.gone.reach(1)
        script.play = acknowledge
        await pass_delay(clock)
        await sending
    assert script.numbers(2) == [2]


@pytest.mark.parametrize("when", ["connected", "waiting", "at once"])
async def test_closing_the_channel_ends_everything_and_fails_pending_sends(when):
    before = all_others()
    async with asyncio.timeout(WITHIN):
        async with scripted(lambda frame: None) as script:
            serving = all_others()
            async with channel_to(script, max_pending=1) as channel:
                if when == "waiting":
                    script.play = lambda frame: Drop
                if when != "at once":
                    sending = [
                        asyncio.create_task(channel.send([alert(n)])) for n in (1, 2)
                    ]
                    await script.frames.reach(1)
                if when == "waiting":
                    await script.gone.reach(1)
            if when != "at once":
                told = await asyncio.gather(*sending, return_exceptions=True)
                problem = "the alert channel is closed"
                assert [each.text for each in told] == [problem] * 2
                await script.gone.reach(1)
            while all_others() - serving:  # the server's own notice
                await asyncio.sleep(0)
            with pytest.raises(OrtegeWatchError, match="is closed"):
                await channel.send([alert(3)])
    assert all_others() == before


async def test_cancellation_propagates_and_leaves_no_task():
    entered = asyncio.Event()

    async def work(url):
        async with AlertChannel(url, CREDENTIALS) as channel:
            entered.set()
            await channel.send([alert(1)])

    async with asyncio.timeout(WITHIN), scripted(lambda frame: None) as script:
        serving = all_others()
        task = asyncio.create_task(work(script.url))
        await entered.wait()
        await script.frames.reach(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await script.gone.reach(1)
        while all_others() - serving:
            await asyncio.sleep(0)


async def test_a_channel_must_be_entered_and_only_once():
    channel = AlertChannel("ws://127.0.0.1:9/", CREDENTIALS)
    with pytest.raises(OrtegeWatchError, match="async with"):
        await channel.send([alert(1)])
    await channel.__aexit__(None, None, None)
    async with channel:
        with pytest.raises(OrtegeWatchError, match="only once"):
            await channel.__aenter__()


async def test_an_unexpected_exception_is_reported_by_send():
    class Broken:
        now = staticmethod(time.monotonic)

        async def sleep(self, seconds):
            raise RuntimeError("broken")

    async with scripted() as script:
        pass
    async with asyncio.timeout(WITHIN), channel_to(script, clock=Broken()) as channel:
        with pytest.raises(OrtegeWatchError, match="unexpectedly") as caught:
            await channel.send([alert(1)])
        assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize(
    ("options", "problem"), [({"max_pending": 0}, "max_pending"), ({"url": "x"}, "url")]
)
async def test_arguments_are_checked(options, problem):
    with pytest.raises(InvalidArgument, match=f"{problem}|must be an address"):
        AlertChannel(options.pop("url", "ws://h/"), CREDENTIALS, **options)


@pytest.mark.parametrize(
    ("alerts", "more"),
    [([alert(1)], ""), ([alert(1), alert(2), alert(3)], " and 2 more")],
)
async def test_alerts_that_were_not_handled_are_logged_with_the_next_attempt(
    alerts, more, caplog
):
    caplog.set_level(logging.INFO)
    answers = [503, 200]

    def play(frame):
        return answer_to(frame, answers.pop(0), FAILED if answers else b"{}")

    async with (
        scripted(play) as script,
        channel_to(script, reconnect=Reconnect(base=0.01)) as channel,
    ):
        await channel.send(iter(alerts))
    [line] = [each for each in caplog.messages if "not handled" in each]
    sender = f"{script.url.split('/')[2]}/alerts/ws, app {CREDENTIALS.app_id}"
    key = alerts[0].dedupe_key(CREDENTIALS.app_id)[:12]
    name = f"{alerts[0].event_code} at {alerts[0].entity} on chain 56 ({key}){more}"
    problem = f"{sender}: alert {name} not handled (status 503); next attempt in 0.0"
    assert line.startswith(problem)


async def test_its_repr_has_the_address_and_no_secret():
    channel = AlertChannel("wss://alerts.example.com/ws", CREDENTIALS)
    assert repr(channel) == "AlertChannel('wss://alerts.example.com/ws')"
    assert repr(AlertChannel.__new__(AlertChannel)) == "AlertChannel('')"


async def test_no_log_line_shows_a_secret_or_a_signature(caplog):
    caplog.set_level(logging.DEBUG)
    for name in ("websockets", "websockets.client", "websockets.server"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    async with asyncio.timeout(WITHIN):
        async with (
            serve_alert_channel(verifier(), Inbox()) as server,
            channel_to(server) as channel,
        ):
            await channel.send([alert(1)])
        async with scripted(logger=_UNHEARD) as script, channel_to(script) as channel:
            await channel.send([alert(1)])
    assert SECRET not in caplog.text
    assert script.headers[0]["X-Signature-signature"] not in caplog.text
    assert "x-signature" not in caplog.text.lower()
    assert SECRET not in repr(vars(channel))


async def test_alerts_that_make_the_receiver_close_the_connection_stop_no_others():
    def play(frame):
        [wire] = frame["body"]["alert_info_list"]
        is_poison = wire["event_values"]["block_number"] == "3"
        return Drop if is_poison else acknowledge(frame)

    quick = Reconnect(base=0.01, cap=0.02)
    async with (
        scripted(play) as script,
        AlertChannel(
            script.url, CREDENTIALS, reconnect=quick, max_attempts=1
        ) as channel,
        asyncio.timeout(WITHIN),
    ):
        sending = {n: asyncio.create_task(channel.send([alert(n)])) for n in range(40)}
        poison = sending.pop(3)
        await asyncio.gather(*sending.values())
        with pytest.raises(TransportError, match="the connection was lost"):
            await poison
        assert len(script.connections) < 6


def test_without_asyncio_a_channel_says_so():
    opening = AlertChannel("ws://127.0.0.1:9/", Credentials("app", SECRET)).__aenter__()
    with pytest.raises(OrtegeWatchError, match="AlertChannel needs asyncio; elsewhere"):
        opening.send(None)  # as another event loop would


def test_without_asyncio_a_server_of_channels_says_so():
    verifier = RequestVerifier({"app": [SECRET]}, path="/")
    opening = serve_alert_channel(verifier, print).__aenter__()
    with pytest.raises(
        OrtegeWatchError, match="needs asyncio; elsewhere, use alert_app"
    ):
        opening.send(None)
