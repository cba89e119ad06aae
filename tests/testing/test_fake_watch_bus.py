from __future__ import annotations

import hashlib
import hmac
import json
import time
from itertools import count

import httpx
import pytest

from ortege_watch.testing import FakeWatchBus

_serial = count(1)
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


def post(bus, *alerts, bare=False, path=PATH):
    body = list(alerts) if bare else {"alert_info_list": list(alerts)}
    content = json.dumps(body).encode()
    credentials = bus.credentials
    timestamp, nonce = str(int(time.time() * 1000)), f"{next(_serial):032x}"
    start = f"{credentials.app_id};{timestamp};{nonce};POST;{path};"
    signature = hmac.new(
        credentials.secret.encode(), start.encode() + content, hashlib.sha256
    ).hexdigest()
    headers = {
        "X-Signature-appid": credentials.app_id,
        "X-Signature-timestamp": timestamp,
        "X-Signature-nonce": nonce,
        "X-Signature-signature": signature,
    }
    with httpx.Client(trust_env=False) as client:
        return client.post(bus.url + path, content=content, headers=headers)


def entities(alerts):
    return [int(each.entity, 16) for each in alerts]


@pytest.mark.parametrize("bare", [False, True])
def test_it_keeps_what_it_takes(bus, bare):
    answer = post(bus, alert(1), alert(2), bare=bare)
    assert answer.json() == {"status": "OK", "code": "000000000", "data": None}
    assert entities(bus.alerts) == [1, 2]
    assert bus.alerts[0].event_values["tx_hash"] == "1"


def test_what_comes_twice_is_one_alert_and_two_deliveries(bus):
    post(bus, alert(1))
    post(bus, alert(2), alert(1))
    assert entities(bus.alerts) == [1, 2]
    assert [entities(each) for each in bus.deliveries] == [[1], [2, 1]]


def test_it_refuses_what_is_no_alert(bus):
    assert post(bus, {"chain_id": 1}).status_code == 400
    assert bus.deliveries == []


def test_a_request_with_an_alert_that_is_refused_is_refused_whole(bus):
    bus.reject_alerts(
        lambda each: each.entity.endswith("2"), "too old", status=200, code="000099"
    )
    answer = post(bus, alert(1), alert(2))
    assert (answer.status_code, answer.json()["code"]) == (200, "000099")
    assert answer.json()["message"] == "too old"
    post(bus, alert(1))
    assert entities(bus.alerts) == [1]
    bus.heal()
    post(bus, alert(2))
    assert entities(bus.alerts) == [1, 2]


def test_a_lost_answer_is_not_a_lost_alert(bus):
    bus.cut()
    with pytest.raises(httpx.TransportError):
        post(bus, alert(1))
    assert entities(bus.alerts) == [1]


def test_an_answer_on_command_takes_nothing(bus):
    bus.rate_limit()
    assert post(bus, alert(1)).status_code == 429
    bus.refuse(503, times=1)
    assert post(bus, alert(1)).status_code == 503
    assert bus.alerts == []


def test_its_path_is_the_test_s():
    with FakeWatchBus(path="/alerts") as bus:
        assert post(bus, alert(1), path="/alerts").status_code == 200
        assert post(bus, alert(1)).status_code == 404
