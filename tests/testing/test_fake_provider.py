"""FakeProvider, called with requests that the standard library has signed."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from email.utils import parsedate_to_datetime
from itertools import count

import httpx
import pytest

from ortege_watch import InvalidArgument
from ortege_watch.testing import FakeProvider, ManualClock
from ortege_watch.watchbus import EntityInfo, SupportedEvent

_serial = count(1)
ONE, TWO, THREE = (EntityInfo(f"0x{n:040x}", 56, "ERC20", "x") for n in (1, 2, 3))
both_prefixes = pytest.mark.parametrize("prefix", ["/api/watch", "/api/v1/watch"])


EVENTS = [SupportedEvent("x", ("ERC20",)), SupportedEvent("y", ("ERC20",))]


@pytest.fixture
def provider():
    with FakeProvider(events=EVENTS) as provider:
        yield provider


def wire(*entities):
    return [
        {
            "entity": each.entity,
            "chain_id": str(each.chain_id),
            "entity_type": each.entity_type,
            "event_code": each.event_code,
        }
        for each in entities
    ]


def signed(provider, path, body, **changes):
    credentials = provider.credentials
    parts = {
        "appid": credentials.app_id,
        "timestamp": str(int(time.time() * 1000)),
        "nonce": f"{next(_serial):032x}",
        "secret": credentials.secret,
        **changes,
    }
    secret = parts.pop("secret")
    start = f"{parts['appid']};{parts['timestamp']};{parts['nonce']};POST;{path};"
    parts.setdefault(
        "signature",
        hmac.new(secret.encode(), start.encode() + body, hashlib.sha256).hexdigest(),
    )
    return {f"X-Signature-{name}": value for name, value in parts.items()}


def ask(provider, path, body=None, *, query="", **changes):
    content = b"" if body is None else json.dumps(body).encode()
    headers = signed(provider, path, content, **changes)
    with httpx.Client(trust_env=False) as client:
        return client.post(
            provider.url + path + query, content=content, headers=headers
        )


@both_prefixes
def test_subscribe_and_unsubscribe(provider, prefix):
    answer = ask(provider, f"{prefix}/subscribe", {"entity_list": wire(ONE, TWO)})
    assert answer.json() == {
        "status": "OK",
        "code": "000000000",
        "data": {"watch_result": wire(ONE, TWO)},
    }
    assert provider.watched == [ONE, TWO]
    answer = ask(provider, f"{prefix}/unsubscribe", wire(TWO, THREE))
    assert answer.json()["data"] == {"watch_result": wire(TWO)}
    assert provider.watched == [ONE]


def test_a_body_that_is_too_large_is_refused():
    path, body = "/api/watch/subscribe", {"entity_list": wire(ONE)}
    size = len(json.dumps(body))
    for max_body, status in ((size, 200), (size - 1, 413)):
        with FakeProvider(events=EVENTS, max_body=max_body) as provider:
            answer = ask(provider, path, body)
            assert answer.status_code == status
            assert len(provider.watched) == (status == 200)
    assert answer.json() == {
        "status": "ERROR",
        "code": "000001",
        "data": None,
        "error_data": "body too large",
    }


@both_prefixes
def test_subscriptions_are_listed_in_pages(provider, prefix):
    provider.watch(ONE, TWO, THREE, EntityInfo(ONE.entity, 56, "ERC20", "y"))
    path = f"{prefix}/subscriptions/list"
    data = ask(provider, path, {"page_index": 2, "page_size": 2}).json()["data"]
    assert (data["page_index"], data["page_size"], data["total"]) == (2, 2, 3)
    assert [each["watch_entity"] for each in data["subscription_list"]] == [
        THREE.entity
    ]
    data = ask(provider, path, {"entity_list": [ONE.entity.upper()]}).json()["data"]
    [entry] = data["subscription_list"]
    assert entry["watch_event_list"] == [
        {"watch_id": "watch-1", "event_code": "x"},
        {"watch_id": "watch-4", "event_code": "y"},
    ]


@pytest.mark.parametrize("page", [{"page_index": 0}, {"page_size": 51}])
def test_a_page_outside_the_limits_is_refused(provider, page):
    assert ask(provider, "/api/watch/subscriptions/list", page).status_code == 400


@both_prefixes
def test_events_are_listed(prefix):
    with FakeProvider(events=[SupportedEvent("x", ("EOA",))]) as provider:
        answer = ask(provider, f"{prefix}/event/list")
    assert [each["event_code"] for each in answer.json()["data"]] == ["x"]


def test_a_request_for_events_with_a_body_is_refused(provider):
    path = "/api/watch/event/list"
    assert ask(provider, path, {"page_index": 1}).status_code == 400
    assert ask(provider, path, {}).status_code == 200


def test_the_documented_events_are_supported_by_default():
    documented = EntityInfo(ONE.entity, 56, "Universal", "abnormal_function_call")
    with FakeProvider() as provider:
        answer = ask(provider, "/api/watch/subscribe", wire(documented, ONE))
        assert answer.json()["data"] == {"watch_result": wire(documented)}
        listed = ask(provider, "/api/watch/event/list").json()["data"]
    assert len(listed) == 5
    with pytest.raises(InvalidArgument, match=r"entities must be of the events, got E"):
        provider.watch(documented, ONE)


def test_a_list_is_not_a_request_for_a_page(provider):
    answer = ask(provider, "/api/watch/subscriptions/list", [])
    assert answer.status_code == 400


@pytest.mark.parametrize("body", [None, {}, "x", [1], [{"entity": "0x"}]])
def test_a_body_without_a_list_of_entities_is_refused(provider, body):
    answer = ask(provider, "/api/watch/subscribe", body)
    assert answer.status_code == 400
    assert answer.json()["code"] == "000001"


@pytest.mark.parametrize(
    ("changes", "code", "reason"),
    [
        ({"nonce": ""}, "000004", "headers can not be null or empty"),
        ({"signature": ""}, "000004", "headers can not be null or empty"),
        ({"appid": "other"}, "000003", "invalid appid"),
        ({"timestamp": "soon"}, "000005", "timestamp has illegal"),
        ({"timestamp": "1666255054045"}, "000005", "timestamp is expired"),
        ({"secret": "other"}, "000005", "invalid signature"),
        ({"signature": "00" * 32}, "000005", "invalid signature"),
        ({"query": "?a=1"}, "000005", "invalid signature"),
    ],
)
def test_a_wrong_signature_is_refused(provider, changes, code, reason):
    answer = ask(provider, "/api/watch/event/list", **changes)
    assert answer.status_code == 401
    assert (answer.json()["code"], answer.json()["error_data"]) == (code, reason)


def test_a_nonce_is_accepted_once(provider):
    for code in ("000000000", "000005"):
        answer = ask(provider, "/api/watch/event/list", nonce="ab" * 16)
        assert answer.json()["code"] == code
    assert answer.json()["error_data"] == "replay request"


def test_other_paths_and_methods_are_not_found(provider):
    assert ask(provider, "/api/v2/watch/subscribe").status_code == 404
    answer = httpx.get(f"{provider.url}/api/watch/event/list", trust_env=False)
    assert answer.status_code == 404
    assert b"<html>" in answer.content


def test_the_date_header_shows_a_clock_that_is_wrong(provider):
    provider.skew(1000)
    answer = ask(provider, "/api/watch/event/list")
    assert answer.json()["error_data"] == "timestamp is expired"
    ahead = parsedate_to_datetime(answer.headers["date"]).timestamp() - time.time()
    assert 990 < ahead < 1001


def test_a_watch_id_is_never_given_twice(provider):
    path, seen = "/api/watch/subscriptions/list", []
    for subscribed, removed in (([ONE, TWO], [ONE]), ([ONE], [TWO]), ([TWO], [])):
        ask(provider, "/api/watch/subscribe", wire(*subscribed))
        for each in ask(provider, path).json()["data"]["subscription_list"]:
            [event] = each["watch_event_list"]
            seen.append((event["watch_id"], each["watch_entity"]))
        ask(provider, "/api/watch/unsubscribe", wire(*removed))
    ids = [watch_id for watch_id, _ in set(seen)]
    assert len(ids) == len(set(ids)) == 4


def test_rejected_and_unasked_entities(provider):
    provider.reject(TWO)
    provider.answer_unasked(THREE)
    answer = ask(provider, "/api/watch/subscribe", wire(ONE, TWO))
    assert answer.json()["data"] == {"watch_result": wire(ONE, THREE)}
    provider.heal()
    answer = ask(provider, "/api/watch/subscribe", wire(TWO))
    assert answer.json()["data"] == {"watch_result": wire(TWO)}


def test_a_page_can_be_repeated(provider):
    provider.watch(ONE, TWO, THREE)
    provider.repeat_page()
    pages = [
        ask(
            provider,
            "/api/watch/subscriptions/list",
            {"page_index": index, "page_size": 2},
        ).json()["data"]
        for index in (1, 2)
    ]
    assert pages[0] == pages[1]


def test_answers_on_command(provider):
    provider.rate_limit(2.5)
    provider.fail("000005", "app is out of count limit", status=401)
    provider.redirect("https://other.example.com")
    provider.contradict()
    seen = [ask(provider, "/api/watch/event/list") for _ in range(5)]
    assert [each.status_code for each in seen] == [429, 401, 307, 200, 200]
    assert seen[0].headers["retry-after"] == "2.5"
    assert seen[0].json()["code"] == "000002"
    assert seen[2].headers["location"] == "https://other.example.com"
    assert (seen[3].json()["status"], seen[3].json()["code"]) == ("OK", "000001")
    assert seen[4].json()["code"] == "000000000"
    assert len(provider.requests) == 5


def test_a_request_with_a_lost_answer_takes_effect(provider):
    provider.cut()
    with pytest.raises(httpx.TransportError):
        ask(provider, "/api/watch/subscribe", wire(ONE))
    assert provider.watched == [ONE]


async def test_requests_are_timed_with_the_given_clock():
    clock = ManualClock(start=7.0)
    async with FakeProvider(clock=clock) as provider:
        ask(provider, "/api/watch/event/list")
        await provider.wait_until_async(lambda: provider.requests)
        assert provider.requests[0].at == 7.0


def test_a_websocket_is_not_found(provider):
    headers = {"Upgrade": "websocket", "Connection": "Upgrade"}
    answer = httpx.get(f"{provider.url}/x", headers=headers, trust_env=False)
    assert answer.status_code == 404


def test_the_repr_shows_the_address(provider):
    assert provider.url in repr(provider)
    assert "not running" in repr(FakeProvider())
