"""FakeWatchBus by POST, and by WebSocket with the library's channel."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from itertools import count

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ortege_watch import Reconnect
from ortege_watch.testing import FakeWatchBus
from ortege_watch.watchbus import (
    AlertChannel,
    AlertInfo,
    AlertPublisher,
    Credentials,
    RequestVerifier,
    WatchBusError,
    alert_app,
)

_serial = count(1)
SOON = Reconnect(base=0.001, cap=0.01)
CHANNEL = "/alerts/ws"
PATH = "/api/v1/watch/alert"


@pytest.fixture
def bus():
    with FakeWatchBus() as bus:
        yield bus


def alert(number, **changes):
    return {
        "watch_entity": f"0x{number:040x}",
        "chain_id": "56",
        "watch_entity_type": "ERC20",
        "watch_event_code": "x",
        "timestamp": 1_700_000_000,
        "event_values": {"tx_hash": str(number)},
        **changes,
    }


def signed(credentials, method, path, content=b""):
    timestamp, nonce = str(int(time.time() * 1000)), f"{next(_serial):032x}"
    start = f"{credentials.app_id};{timestamp};{nonce};{method};{path};"
    signature = hmac.new(
        credentials.secret.encode(), start.encode() + content, hashlib.sha256
    ).hexdigest()
    return {
        "X-Signature-appid": credentials.app_id,
        "X-Signature-timestamp": timestamp,
        "X-Signature-nonce": nonce,
        "X-Signature-signature": signature,
    }


def post(bus, *alerts, bare=False, path=PATH):
    body = list(alerts) if bare else {"alert_info_list": list(alerts)}
    return post_body(bus, json.dumps(body).encode(), path=path)


def post_body(bus, content, *, credentials=None, path=PATH):
    headers = signed(credentials or bus.credentials, "POST", path, content)
    with httpx.Client(trust_env=False) as client:
        return client.post(bus.url + path, content=content, headers=headers)


def entities(alerts):
    return [int(each.entity, 16) for each in alerts]


@pytest.mark.parametrize("bare", [False, True])
def test_accepted_alerts_are_kept(bus, bare):
    answer = post(bus, alert(1), alert(2), bare=bare)
    assert answer.json() == {"status": "OK", "code": "000000000", "data": None}
    assert entities(bus.alerts) == [1, 2]
    assert bus.alerts[0].event_values["tx_hash"] == "1"


def test_a_repeated_alert_is_one_alert_and_two_deliveries(bus):
    post(bus, alert(1))
    post(bus, alert(2), alert(1))
    assert entities(bus.alerts) == [1, 2]
    assert [entities(each) for each in bus.deliveries] == [[1], [2, 1]]


def test_an_invalid_alert_is_refused(bus):
    assert post(bus, {"chain_id": 1}).status_code == 400
    assert bus.deliveries == []


def test_one_rejected_alert_refuses_the_whole_request(bus):
    bus.reject_alerts(
        lambda each: each.entity.endswith("2"), "too old", status=200, code="000099"
    )
    answer = post(bus, alert(1), alert(2))
    assert (answer.status_code, answer.json()["code"]) == (200, "000099")
    assert answer.json()["error_data"] == "too old"
    post(bus, alert(1))
    assert entities(bus.alerts) == [1]
    bus.heal()
    post(bus, alert(2))
    assert entities(bus.alerts) == [1, 2]


def test_an_alert_with_a_lost_answer_is_kept(bus):
    bus.cut()
    with pytest.raises(httpx.TransportError):
        post(bus, alert(1))
    assert entities(bus.alerts) == [1]


def test_alerts_answered_on_command_are_not_kept(bus):
    bus.rate_limit()
    assert post(bus, alert(1)).status_code == 429
    bus.refuse(503, times=1)
    assert post(bus, alert(1)).status_code == 503
    assert bus.alerts == []


def test_the_path_can_be_chosen():
    with FakeWatchBus(path="/alerts") as bus:
        assert post(bus, alert(1), path="/alerts").status_code == 200
        assert post(bus, alert(1)).status_code == 404


async def receiver_s_answer(content, credentials):
    """Return what an app that receives alerts answers to the same request."""
    app = alert_app(RequestVerifier({"fake-app": ["s"]}, path=PATH), lambda _: None)
    url, headers = "http://bus", signed(credentials, "POST", PATH, content)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        return await client.post(url + PATH, content=content, headers=headers)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("app_id", "secret", "size", "status"),
    [
        ("fake-app", "s", 2**20, 400),  # read: it is not a list of alerts
        ("fake-app", "s", 2**20 + 1, 413),
        ("fake-app", "wrong", 2**20 + 1, 413),
        ("unknown", "s", 2**20 + 1, 401),
    ],
)
async def test_a_large_body_is_answered_as_by_a_receiver(app_id, secret, size, status):
    credentials, content = Credentials(app_id, secret), b"1".rjust(size)
    with FakeWatchBus(secret="s") as bus:
        answer = post_body(bus, content, credentials=credentials)
        assert post(bus, alert(1)).status_code == 200
    real = await receiver_s_answer(content, credentials)
    assert answer.status_code == real.status_code == status
    assert {**answer.json(), "error_data": ""} == {**real.json(), "error_data": ""}
    if status != 400:
        assert answer.json()["error_data"] == real.json()["error_data"]


def test_a_publisher_splits_what_is_too_large():
    large = AlertInfo("0x" + "1" * 40, 56, "ERC20", "x", 1, {"note": "x" * 1_000})
    with (
        FakeWatchBus(max_body=1_000) as bus,
        AlertPublisher(bus.url, bus.credentials) as publisher,
    ):
        result = publisher.publish([*map(info, range(9)), large])
    assert [each.alert for each in result.dead] == [large]
    assert entities(bus.alerts) == list(range(9))


# By WebSocket


def info(number):
    """Make the alert that ``alert(number)`` is on the wire."""
    values = {"tx_hash": str(number)}
    return AlertInfo(f"0x{number:040x}", 56, "ERC20", "x", 1_700_000_000, values)


def channel_to(bus, **options):
    return AlertChannel(bus.ws_url, bus.credentials, reconnect=SOON, **options)


def dial(bus, headers=None, path=CHANNEL):
    headers = signed(bus.credentials, "GET", path) if headers is None else headers
    url = bus.ws_url.replace(CHANNEL, path)
    return connect(url, additional_headers=headers, proxy=None)


def frame(key, *alerts):
    return json.dumps({"id": key, "body": {"alert_info_list": list(alerts)}})


@pytest.mark.anyio
async def test_a_frame_is_answered_with_its_id(bus):
    async with dial(bus) as socket:
        await socket.send(frame("one", alert(1), alert(2)))
        answer = json.loads(await socket.recv())
        await socket.send(frame("two", {"chain_id": 1}).encode())
        refused = json.loads(await socket.recv())
    envelope = {"status": "OK", "code": "000000000", "data": None}
    assert answer == {"id": "one", "status": 200, "body": envelope}
    assert (refused["id"], refused["status"]) == ("two", 400)
    assert [entities(each) for each in bus.deliveries] == [[1, 2]]


@pytest.mark.anyio
@pytest.mark.parametrize("text", ["hello", '{"id": "1"}', b"\xff"])
async def test_an_unreadable_frame_closes_the_connection(bus, text):
    async with dial(bus) as socket:
        await socket.send(text)
        with pytest.raises(ConnectionClosed) as caught:
            await socket.recv()
    assert caught.value.rcvd.code == 1007
    assert bus.deliveries == []


@pytest.mark.anyio
async def test_a_handshake_is_accepted_once_and_at_one_path(bus):
    headers = signed(bus.credentials, "GET", CHANNEL)
    async with dial(bus, headers):
        pass
    elsewhere = signed(bus.credentials, "GET", "/elsewhere")
    for path, given, status, reason in [
        (CHANNEL, headers, 401, b"replay request"),
        (CHANNEL, {}, 401, b"headers can not be null or empty"),
        (CHANNEL, elsewhere, 401, b"invalid signature"),
        (CHANNEL, signed(bus.credentials, "POST", CHANNEL), 401, b"invalid signature"),
        ("/elsewhere", elsewhere, 404, b"404"),
    ]:
        with pytest.raises(InvalidStatus) as caught:
            await dial(bus, given, path)
        assert caught.value.response.status_code == status
        assert reason in caught.value.response.body


@pytest.mark.anyio
async def test_a_channel_delivers_and_is_acknowledged(bus):
    async with channel_to(bus) as channel:
        await channel.send([info(1), info(2)])
        assert entities(bus.alerts) == [1, 2]
        await asyncio.gather(*(channel.send([info(n)]) for n in range(3, 30)))
    assert entities(bus.alerts) == list(range(1, 30))
    assert [each.upgrade for each in bus.requests] == [True]


@pytest.mark.anyio
async def test_alerts_by_post_and_by_channel_are_the_same(bus):
    async with channel_to(bus) as channel:
        await channel.send([info(1)])
    post(bus, alert(1), alert(2))
    assert entities(bus.alerts) == [1, 2]
    assert [entities(each) for each in bus.deliveries] == [[1], [1, 2]]


@pytest.mark.anyio
async def test_an_unacknowledged_frame_is_sent_again_after_a_drop(bus):
    async with channel_to(bus) as channel:
        await channel.send([info(1)])
        bus.silence()
        sending = asyncio.create_task(channel.send([info(2)]))
        await bus.wait_until_async(lambda: len(bus.deliveries) == 2)
        assert not sending.done()
        bus.drop()
        bus.speak()
        await sending
    assert entities(bus.alerts) == [1, 2]
    assert [entities(each) for each in bus.deliveries] == [[1], [2], [2]]


@pytest.mark.anyio
async def test_a_cut_loses_the_answer_to_a_frame(bus):
    async with channel_to(bus) as channel:
        bus.cut()
        await channel.send([info(1)])
    assert entities(bus.alerts) == [1]
    assert len(bus.deliveries) == 2
    assert len(bus.requests) == 2


@pytest.mark.anyio
async def test_a_channel_reconnects_after_a_restart(bus):
    async with channel_to(bus) as channel:
        await channel.send([info(1)])
        bus.restart()
        await channel.send([info(2)])
    assert [entities(each) for each in bus.deliveries] == [[1], [2]]


@pytest.mark.anyio
async def test_a_wrong_secret_is_refused(bus):
    wrong = Credentials(bus.credentials.app_id, "wrong")
    async with AlertChannel(bus.ws_url, wrong, reconnect=SOON) as channel:
        with pytest.raises(WatchBusError) as caught:
            await channel.send([info(1)])
    assert caught.value.reason == "invalid signature"
    assert (caught.value.status, caught.value.code) == (401, "000005")
    assert bus.alerts == []


@pytest.mark.anyio
async def test_a_channel_uses_the_servers_clock(bus):
    bus.skew(-3600)
    async with channel_to(bus) as channel:
        await channel.send([info(1)])
    assert len(bus.requests) == 2
    assert entities(bus.alerts) == [1]


@pytest.mark.anyio
async def test_a_rejected_alert_is_an_error_and_the_channel_stays_usable(bus):
    bus.reject_alerts(lambda each: each.entity.endswith("2"), "too old", code="000099")
    async with channel_to(bus) as channel:
        with pytest.raises(WatchBusError) as caught:
            await channel.send([info(1), info(2)])
        assert (caught.value.code, caught.value.reason) == ("000099", "too old")
        await channel.send([info(3)])
        assert entities(bus.alerts) == [3]
        bus.heal()
        await channel.send([info(2)])
    assert entities(bus.alerts) == [3, 2]
    assert len(bus.requests) == 1


@pytest.mark.anyio
@pytest.mark.parametrize(
    "misbehave",
    [
        lambda bus: bus.fail(status=500, times=2),
        lambda bus: bus.rate_limit(),
        lambda bus: bus.error(502, "<html>bad gateway</html>"),
        lambda bus: bus.error(503, b"\xff"),
    ],
)
async def test_a_frame_answered_with_a_temporary_error_is_sent_again(bus, misbehave):
    misbehave(bus)
    async with channel_to(bus) as channel:
        await channel.send([info(1)])
    assert [entities(each) for each in bus.deliveries] == [[1]]
    assert len(bus.requests) == 1  # over the same connection
    post(bus, alert(2))
    assert entities(bus.alerts) == [1, 2]  # and the fault is used up


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["fail", "contradict"])
async def test_an_error_in_an_answer_to_a_frame_is_final(bus, name):
    getattr(bus, name)()
    async with channel_to(bus) as channel:
        with pytest.raises(WatchBusError) as caught:
            await channel.send([info(1)])
    assert caught.value.code == "000001"
    assert bus.alerts == []


@pytest.mark.anyio
async def test_a_handshake_can_be_refused_on_command(bus):
    bus.refuse(503, times=2)
    async with channel_to(bus) as channel:
        await channel.send([info(1)])
    assert len(bus.requests) == 3
    assert entities(bus.alerts) == [1]


@pytest.mark.anyio
async def test_a_frame_that_is_too_large_is_refused(bus):
    large = AlertInfo("0x" + "1" * 40, 56, "ERC20", "x", 1, {"note": "x" * 1_100_000})
    async with channel_to(bus, max_body=2**21) as channel:
        with pytest.raises(WatchBusError) as caught:
            await channel.send([large])
        await channel.send([info(1)])
    assert caught.value.status == 413
    assert entities(bus.alerts) == [1]


@pytest.mark.anyio
async def test_the_largest_frame_can_be_chosen():
    async with FakeWatchBus(max_body=1_000) as bus, channel_to(bus) as channel:
        with pytest.raises(WatchBusError) as caught:
            await channel.send([info(number) for number in range(10)])
        await channel.send([info(1)])
    assert caught.value.status == 413
    assert entities(bus.alerts) == [1]


@pytest.mark.anyio
async def test_the_path_of_the_channel_can_be_chosen():
    async with FakeWatchBus(channel_path="/ws") as bus:
        assert bus.ws_url == f"ws://127.0.0.1:{bus.port}/ws"
        async with channel_to(bus) as channel:
            await channel.send([info(1)])
        assert entities(bus.alerts) == [1]
