"""A provider, called by a client that was written from the specification alone."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import uuid
from decimal import Decimal
from itertools import product

import anyio
import pytest
from fastapi import FastAPI
from independent import APP_ID, SECRET, Client
from serving import served
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from ortege_watch import InvalidArgument
from ortege_watch.watchbus import (
    Credentials,
    EntityInfo,
    MemoryNonces,
    PageRequest,
    SQLiteNonces,
    SQLiteProvider,
    Subscription,
    SubscriptionPage,
    SupportedEvent,
    WatchBusClient,
    WatchEvent,
    WatchPaths,
    provider_app,
)

SECRETS = {APP_ID: [SECRET], "other": ["another secret"]}
EVENTS = [
    SupportedEvent("big_amount_txn", ("ERC20",), Decimal("0.005"), None, "much"),
    SupportedEvent("risk_function_call", ("ERC20", "UNIVERSAL")),
]


def entity(number, event_code="big_amount_txn", entity_type="ERC20", chain_id="56"):
    return {
        "entity": f"0x{number:040x}",
        "chain_id": chain_id,
        "entity_type": entity_type,
        "event_code": event_code,
    }


@pytest.fixture
def provider(tmp_path):
    with SQLiteProvider(tmp_path / "provider.db", EVENTS) as provider:
        yield provider


@pytest.fixture
def client(provider):
    with served(provider_app(SECRETS, provider)) as http:
        yield Client(str(http.base_url))


def test_the_secrets_of_a_request_are_found_once(provider):
    asked = []

    def find(app_id):
        asked.append(app_id)
        return SECRETS.get(app_id)

    with served(provider_app(find, provider)) as http:
        assert Client(str(http.base_url)).data("/api/watch/event/list")
    assert asked == [APP_ID]


both_prefixes = pytest.mark.parametrize("prefix", ["/api/watch", "/api/v1/watch"])


# ----------------------------------------------------------------- the four endpoints
@both_prefixes
def test_subscribe_list_and_unsubscribe(client, prefix):
    one, two, three = map(entity, (1, 2, 3))
    unsupported = entity(1, "trust_score_decrease")
    asked = [one, two, unsupported, three]
    data = client.data(f"{prefix}/subscribe", {"entity_list": asked})
    assert data == {"watch_result": [one, two, three]}
    data = client.data(f"{prefix}/unsubscribe", {"entity_list": [two, entity(9)]})
    assert data == {"watch_result": [two]}
    assert client.data(f"{prefix}/subscriptions/list") == {
        "subscription_list": [
            {
                "watch_entity": each["entity"],
                "watch_event_list": [
                    {"watch_id": watch_id, "event_code": "big_amount_txn"}
                ],
            }
            for each, watch_id in ((one, "watch-1"), (three, "watch-3"))
        ],
        "page_index": 1,
        "page_size": 50,
        "total": 2,
    }


@both_prefixes
def test_the_supported_events_are_listed(client, prefix):
    assert client.data(f"{prefix}/event/list") == [
        {
            "event_code": "big_amount_txn",
            "support_entity_type_list": ["ERC20"],
            "mini_threshold": "0.005",
            "event_description": "much",
        },
        {
            "event_code": "risk_function_call",
            "support_entity_type_list": ["ERC20", "UNIVERSAL"],
        },
    ]
    path = f"{prefix}/event/list"
    assert len(client.data(path, {})) == 2
    for body in ({"page_index": 1}, [], 0, "", False):
        assert client.error(path, body)[:2] == (400, "000001")


@pytest.mark.parametrize(
    "body",
    [
        {"entity_list": [entity(1)]},
        [entity(1)],
        [entity(1, chain_id=56)],
        [entity(1), entity(1, entity_type="erc20", chain_id=56)],
        [
            {
                "watch_entity": entity(1)["entity"],
                "chain_id": "56",
                "watch_entity_type": "Erc20",
                "watch_event_code": "big_amount_txn",
            }
        ],
    ],
)
def test_both_styles_are_taken_and_the_documented_one_is_sent(client, provider, body):
    data = client.data("/api/watch/subscribe", body)
    assert data == {"watch_result": [entity(1)]}
    assert len(provider.matching(entity(1)["entity"], 56, "big_amount_txn")) == 1


def test_an_entity_without_an_address_fails_alone(client, caplog):
    wrong = {**entity(1), "entity": "0x1"}
    data = client.data("/api/watch/subscribe", [wrong, entity(1)])
    assert data == {"watch_result": [entity(1)]}
    assert f"1 of 2 entities of app {APP_ID} fail" in caplog.text


def test_pages_have_at_most_50_entries(client):
    client.data("/api/watch/subscribe", [entity(n) for n in range(120)])
    path, seen = "/api/watch/subscriptions/list", []
    for index, size in ((1, 50), (2, 50), (3, 20), (4, 0)):
        data = client.data(path, {"page_index": index})
        assert (data["page_index"], data["page_size"]) == (index, 50)
        assert data["total"] == 120
        assert len(data["subscription_list"]) == size
        seen += [each["watch_entity"] for each in data["subscription_list"]]
    assert seen == [entity(n)["entity"] for n in range(120)]
    data = client.data(path, {"page_index": "2", "page_size": "7"})
    assert data["subscription_list"][0]["watch_entity"] == entity(7)["entity"]
    assert client.data(path, {"page_index": 2**256 - 1})["subscription_list"] == []
    for page in ({"page_size": 51}, {"page_index": 0}):
        assert client.error(path, page)[:2] == (400, "000001")
    some = {"entity_list": [entity(3)["entity"].upper(), "0x"]}
    assert client.data(path, some)["total"] == 1


def test_a_provider_may_have_smaller_pages(provider):
    with served(provider_app(SECRETS, provider, page_size=2)) as http:
        client = Client(str(http.base_url))
        client.data("/api/watch/subscribe", [entity(n) for n in range(5)])
        for page in ({}, {"page_size": 50}):
            data = client.data("/api/watch/subscriptions/list", page)
            assert (data["page_size"], len(data["subscription_list"])) == (2, 2)


def test_each_app_has_its_own_subscriptions(client, provider):
    other = Client(client.url, "other", "another secret")
    client.data("/api/watch/subscribe", [entity(1)])
    assert other.data("/api/watch/subscriptions/list")["total"] == 0
    assert other.data("/api/watch/unsubscribe", [entity(1)]) == {"watch_result": []}
    other.data("/api/watch/subscribe", [entity(1)])
    found = provider.matching(entity(1)["entity"], 56, "big_amount_txn")
    assert [each.app_id for each in found] == [APP_ID, "other"]


def test_the_client_of_the_library_is_served(provider):
    token = EntityInfo("0x" + "aB" * 20, 56, "ERC20", "big_amount_txn")
    with (
        served(provider_app(SECRETS, provider)) as http,
        WatchBusClient(str(http.base_url), Credentials(APP_ID, SECRET)) as client,
    ):
        assert client.subscribe([token]).succeeded == (token,)
        assert list(client.subscriptions([token.entity])) == [
            Subscription(token.entity, (WatchEvent("watch-1", "big_amount_txn"),))
        ]
        assert client.events() == EVENTS
        assert client.unsubscribe([token]).succeeded == (token,)


# ---------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"nonce": ""}, (401, "000004", "headers can not be null or empty")),
        ({"appid": "nobody"}, (401, "000003", "invalid appid")),
        ({"nonce": "short"}, (401, "000005", "nonce is illegal")),
        ({"timestamp": "soon"}, (401, "000005", "timestamp has illegal")),
        ({"timestamp": "1666255054045"}, (401, "000005", "timestamp is expired")),
        ({"signature": "00" * 32}, (401, "000005", "invalid signature")),
        ({"appid": "other"}, (401, "000005", "invalid signature")),
    ],
)
def test_a_refused_signature_has_the_documented_reason(
    client, provider, changes, expected
):
    for path in ("/api/watch/subscribe", "/api/v1/watch/unsubscribe"):
        assert client.error(path, [entity(1)], **changes) == expected
    assert provider.matching(entity(1)["entity"], 56, "big_amount_txn") == []


def test_a_nonce_is_accepted_once_by_all_endpoints(client):
    nonce = uuid.uuid4().hex
    body = json.dumps({"entity_list": [entity(1)]}).encode()
    subscribe = "/api/watch/subscribe"
    headers = client.headers(subscribe, body, nonce=nonce)
    assert client.send(subscribe, body, headers)[0] == 200
    assert client.send(subscribe, body, headers)[2]["error_data"] == "replay request"
    for path in ("/api/v1/watch/subscribe", "/api/watch/event/list"):
        expected = (401, "000005", "replay request")
        assert client.error(path, nonce=nonce) == expected


def test_a_signature_is_good_for_one_path(client, provider):
    body = json.dumps([entity(1)]).encode()
    headers = client.headers("/api/watch/unsubscribe", body)
    status, _, envelope = client.send("/api/watch/subscribe", body, headers)
    assert (status, envelope["error_data"]) == (401, "invalid signature")
    headers = client.headers("/api/watch/subscribe", body)
    for path in ("/api/v1/watch/subscribe", "/api/v2/watch/subscribe"):
        assert client.send(path, body, headers)[0] in {401, 404}
    assert provider.matching(entity(1)["entity"], 56, "big_amount_txn") == []


def test_other_requests_are_answered_with_the_envelope(client, caplog):
    assert client.error("/api/watch/elsewhere") == (404, "000001", "not found")
    assert "the provider has no endpoint at '/api/watch/elsewhere'" in caplog.text
    path = "/api/watch/event/list"
    status, headers, envelope = client.send(
        path, None, client.headers(path, b""), method="GET"
    )
    assert (status, headers["allow"], envelope["code"]) == (405, "POST", "000001")
    status, _, envelope = client.send(path + "?a=1", b"", client.headers(path, b""))
    assert (status, envelope["code"]) == (400, "000005")


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[", b'"x"', b"[1]", b'[{"entity":"0x"}]', b"\xff", b"[" * 999],
)
def test_a_body_that_is_no_list_of_entities_is_refused(client, body):
    path = "/api/watch/subscribe"
    status, _, envelope = client.send(path, body, client.headers(path, body))
    assert (status, envelope["code"], envelope["status"]) == (400, "000001", "ERROR")


def test_a_large_body_is_refused(provider):
    with served(provider_app(SECRETS, provider, max_body=100)) as http:
        client = Client(str(http.base_url))
        many = [entity(n) for n in range(10)]
        assert client.error("/api/watch/subscribe", many)[0] == 413


def test_apps_over_their_rate_are_refused(provider):
    left = {APP_ID: 1, "other": 100}

    def plain(app_id):
        left[app_id] -= 1
        return None if left[app_id] >= 0 else 2.5

    async def awaited(app_id):
        await anyio.lowlevel.checkpoint()
        return 0.5 if app_id == APP_ID else 0

    path = "/api/watch/event/list"
    with served(provider_app(SECRETS, provider, rate_limit=plain)) as http:
        client = Client(str(http.base_url))
        assert client.error(path, signature="00")[0] == 401  # it does not count
        client.data(path)
        status, headers, envelope = client.ask(path)
        assert (status, envelope["code"]) == (429, "000002")
        assert headers["retry-after"] == "3"
        Client(client.url, "other", "another secret").data(path)
    with served(provider_app(SECRETS, provider, rate_limit=awaited)) as http:
        status, headers, _ = Client(str(http.base_url)).ask(path)
        assert (status, headers["retry-after"]) == (429, "1")
        Client(str(http.base_url), "other", "another secret").data(path)

    class Limit:
        async def __call__(self, app_id):
            return await awaited(app_id)

    with served(provider_app(SECRETS, provider, rate_limit=Limit())) as http:
        assert Client(str(http.base_url)).ask(path)[0] == 429


# --------------------------------------------------------------- providers of your own
ONE = EntityInfo(entity(1)["entity"], 56, "ERC20", "x")


class Plain:
    """A provider without storage; notes what it is asked, and in which thread."""

    def __init__(self):
        self.asked, self.threads = [], set()

    def _note(self, *asked):
        self.asked.append(asked)
        self.threads.add(threading.current_thread().name)

    def subscribe(self, app_id, entities):
        self._note("subscribe", app_id, entities)
        return entities

    def unsubscribe(self, app_id, entities):
        self._note("unsubscribe", app_id, entities)
        return iter(())

    def subscriptions(self, app_id, addresses, page):
        self._note("subscriptions", app_id, addresses, page)
        return page.select([Subscription(ONE.entity, (WatchEvent("7", "x"),))])

    def events(self):
        self._note("events")
        return (SupportedEvent("x", ("EOA",)),)


class Async(Plain):
    async def subscribe(self, app_id, entities):
        return super().subscribe(app_id, entities)

    async def unsubscribe(self, app_id, entities):
        return super().unsubscribe(app_id, entities)

    async def subscriptions(self, app_id, addresses, page):
        return super().subscriptions(app_id, addresses, page)

    async def events(self):
        return super().events()


@pytest.mark.parametrize("kind", [Plain, Async])
def test_the_methods_of_a_provider_may_be_plain_or_async(kind):
    provider = kind()
    with served(provider_app(SECRETS, provider)) as http:
        client = Client(str(http.base_url))
        assert client.data("/api/watch/subscribe", [entity(1, "x")]) == {
            "watch_result": [entity(1, "x")]
        }
        assert client.data("/api/watch/unsubscribe", [entity(1, "x")]) == {
            "watch_result": []
        }
        data = client.data("/api/watch/subscriptions/list", {"page_size": 5})
        assert data["subscription_list"][0]["watch_event_list"][0]["watch_id"] == "7"
        assert client.data("/api/watch/event/list")[0]["event_code"] == "x"
        client.data("/api/watch/subscriptions/list", {"entity_list": ["0xA"]})
    assert provider.asked == [
        ("subscribe", APP_ID, (ONE,)),
        ("unsubscribe", APP_ID, (ONE,)),
        ("subscriptions", APP_ID, None, PageRequest(page_size=5)),
        ("events",),
        ("subscriptions", APP_ID, ("0xA",), PageRequest()),
    ]
    # A plain method may block, so it does not run on the event loop.
    on_workers = ["worker" in each for each in provider.threads]
    assert on_workers == [kind is Plain] * len(on_workers)


class Failing(Plain):
    def subscribe(self, app_id, entities):
        raise RuntimeError("password of the database: hunter2")

    async def unsubscribe(self, app_id, entities):
        raise KeyError("hunter2")

    def subscriptions(self, app_id, addresses, page):
        return SubscriptionPage

    def events(self):
        return 5


def test_errors_of_a_provider_are_logged_and_not_shown(caplog):
    with served(provider_app(SECRETS, Failing())) as http:
        client = Client(str(http.base_url))
        expected = (500, "000001", "unknown server error")
        for name, path, body in (
            ("subscribe", "/api/watch/subscribe", [entity(1)]),
            ("unsubscribe", "/api/watch/unsubscribe", [entity(1)]),
            ("subscriptions", "/api/watch/subscriptions/list", None),
            ("events", "/api/watch/event/list", None),
        ):
            caplog.clear()
            assert client.error(path, body) == expected
            [record] = [x for x in caplog.records if x.levelno >= logging.ERROR]
            assert f"{name} of app {APP_ID}" in record.getMessage()
            raised = name.endswith("subscribe")  # the others return nonsense
            assert (record.exc_info is not None) == raised
    assert SECRET not in caplog.text


class Cancelled(Plain):
    async def events(self):
        raise asyncio.CancelledError


def test_a_provider_that_awaits_what_was_cancelled_has_failed(caplog):
    with served(provider_app(SECRETS, Cancelled())) as http:
        client = Client(str(http.base_url))
        expected = (500, "000001", "unknown server error")
        assert client.error("/api/watch/event/list") == expected
    assert f"events of app {APP_ID}: provider.events() failed" in caplog.text


def test_a_provider_that_takes_too_long_has_failed(caplog):
    release = threading.Event()

    class Slow(Plain):
        async def events(self):
            await anyio.sleep_forever()

        def subscribe(self, app_id, entities):
            assert release.wait(60)
            return entities

    app = provider_app(SECRETS, Slow(), answer_within=0.05)
    with served(app) as http:
        client = Client(str(http.base_url))
        expected = (500, "000001", "unknown server error")
        assert client.error("/api/watch/event/list") == expected
        assert client.error("/api/watch/subscribe", [entity(1)]) == expected
        release.set()
        assert client.data("/api/watch/subscribe", [])["watch_result"] == []
    problem = "provider.{}() took more than 0.05 s"
    for name in ("events", "subscribe"):
        assert problem.format(name) in caplog.text
    assert "Traceback" not in caplog.text


async def test_a_request_that_is_cancelled_ends():
    started = anyio.Event()

    class Endless(Plain):
        async def events(self):
            started.set()
            await anyio.sleep_forever()

    path = "/api/watch/event/list"
    headers = Client("").headers(path, b"")
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
    }
    sent = []

    async def receive():
        return {"type": "http.request", "body": b""}

    async with anyio.create_task_group() as tasks:
        app = provider_app(SECRETS, Endless())
        tasks.start_soon(app, scope, receive, sent.append)
        await started.wait()
        tasks.cancel_scope.cancel()
    assert sent == []


def test_apps_come_and_go(provider):
    apps = {}
    with served(provider_app(apps.get, provider)) as http:
        client, path = Client(str(http.base_url)), "/api/watch/event/list"
        assert client.error(path) == (401, "000003", "invalid appid")
        apps[APP_ID] = ["an old secret", SECRET]
        assert len(client.data(path)) == 2
        del apps[APP_ID]
        assert client.error(path) == (401, "000003", "invalid appid")


def test_a_provider_with_a_closed_file_is_a_server_error(provider, client):
    provider.close()
    expected = (500, "000001", "unknown server error")
    assert client.error("/api/watch/subscribe", [entity(1)]) == expected


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"provider": Plain}, "got the class Plain: create an object of it"),
        (
            {"provider": object()},
            "provider must be a Provider, got object without subscribe",
        ),
        ({"page_size": 51}, "page_size must be an int from 1 to 50, got 51"),
        ({"paths": "/api"}, "paths must be of type WatchPaths, got str"),
        ({"rate_limit": 5}, "rate_limit must be callable, got 5"),
        ({"answer_within": 0}, "answer_within must be greater than 0"),
        ({"tolerance": 0}, "tolerance must be greater than 0"),
        ({"secrets": {}}, "secrets is empty"),
        (
            {"paths": WatchPaths(events="/api/v1/watch/subscribe")},
            "paths has '/api/watch/subscribe' for two endpoints",
        ),
    ],
)
def test_arguments_are_checked(arguments, problem):
    given = {"secrets": SECRETS, "provider": Plain(), **arguments}
    with pytest.raises(InvalidArgument, match=problem):
        provider_app(given.pop("secrets"), given.pop("provider"), **given)


# ------------------------------------------------------------------- where it is served
def by_mount(prefix):
    def mount(app):
        return Starlette(routes=[Mount(prefix, app=app)]), prefix

    return mount


def by_nested_mounts(app):
    inner = Starlette(routes=[Mount("/v2", app=app)])
    return Starlette(routes=[Mount("/bus", app=inner)]), "/bus/v2"


def by_fastapi(app):
    outer = FastAPI()
    outer.mount("/provider", app)
    return outer, "/provider"


def by_routes(app):
    return Starlette(routes=[Route("/{path:path}", app)]), ""


def by_part_of_the_path(app):
    return Starlette(routes=[Mount("/api", app=app)]), ""


def alone(app):
    return app, ""


@pytest.mark.parametrize(
    "mounted",
    [
        alone,
        by_mount("/provider"),
        by_mount("/api/watch"),
        by_nested_mounts,
        by_fastapi,
        by_routes,
        by_part_of_the_path,
    ],
)
def test_it_is_served_at_every_prefix(mounted, provider):
    app, prefix = mounted(provider_app(SECRETS, provider))
    with served(app) as http:
        client = Client(str(http.base_url))
        client.data(f"{prefix}/api/watch/subscribe", [entity(1)])
        assert client.data(f"{prefix}/api/v1/watch/subscriptions/list")["total"] == 1
        assert client.ask(f"{prefix}/api/watch/nothing")[0] == 404
        url = str(http.base_url).rstrip("/") + prefix
        with WatchBusClient(url, Credentials(APP_ID, SECRET)) as ours:
            assert len(list(ours.subscriptions())) == 1


def test_a_prefix_that_a_proxy_removes_is_set_as_root_path(provider):
    app = provider_app(SECRETS, provider)
    with served(app, root_path="/provider") as http:
        client = Client(str(http.base_url))
        headers = client.headers("/provider/api/watch/event/list", b"")
        assert client.send("/api/watch/event/list", b"", headers)[0] == 200


def test_a_prefix_with_parameters_cannot_make_a_signature_ambiguous(provider):
    app = provider_app(SECRETS, provider)
    with served(Starlette(routes=[Mount("/{tenant}", app=app)])) as http:
        client = Client(str(http.base_url))
        client.data("/acme/api/watch/event/list")
        headers = client.headers("/a;b/api/watch/event/list", b"")
        assert client.send("/a;b/api/watch/event/list", b"", headers)[0] == 404


def test_paths_of_your_own_have_one_spelling(provider):
    paths = WatchPaths(subscribe="/watch", events="/api/v1/watch/events")
    with served(provider_app(SECRETS, provider, paths=paths)) as http:
        client = Client(str(http.base_url))
        assert client.data("/watch", [entity(1)])["watch_result"] == [entity(1)]
        client.data("/api/watch/events")
        client.data("/api/v1/watch/events")
        client.data("/api/watch/unsubscribe", [])
        for path in ("/api/watch/subscribe", "/api/watch/event/list"):
            assert client.ask(path)[0] == 404


def test_the_clock_and_the_nonces_can_be_given(tmp_path, provider):
    now = [1_700_000_000.0]
    with SQLiteNonces(tmp_path / "nonces.db") as nonces:
        for store in (nonces, MemoryNonces()):
            app = provider_app(
                SECRETS, provider, nonces=store, clock=lambda: now[0], tolerance=10
            )
            with served(app) as http:
                client, path = Client(str(http.base_url)), "/api/watch/event/list"
                for second, status in ((0, 200), (10, 200), (11, 401), (-11, 401)):
                    timestamp = f"{int((now[0] + second) * 1000)}"
                    assert client.ask(path, timestamp=timestamp)[0] == status
                assert client.ask(path)[0] == 401


def test_many_clients_at_once(client, provider):
    failed = []

    def work(number):
        try:
            for n in range(10):
                client.data("/api/watch/subscribe", [entity(100 * number + n)])
                client.data("/api/watch/subscriptions/list")
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert failed == []
    assert client.data("/api/watch/subscriptions/list")["total"] == 80


@pytest.mark.parametrize(
    ("name", "result", "problem"),
    [
        ("subscribe", None, "must be an iterable of EntityInfo, got None"),
        ("subscribe", ["0xab"], "[0] must be of type EntityInfo, got str"),
        ("unsubscribe", "0xab", "must be an iterable of EntityInfo, got '0xab'"),
        ("subscriptions", [], "must be of type SubscriptionPage, got list"),
        ("events", ["x"], "[0] must be of type SupportedEvent, got str"),
    ],
)
def test_a_result_of_another_type_is_logged_in_one_line(name, result, problem, caplog):
    provider = Plain()
    setattr(provider, name, lambda *arguments: result)
    paths = {"subscriptions": "subscriptions/list", "events": "event/list"}
    with served(provider_app(SECRETS, provider)) as http:
        client = Client(str(http.base_url))
        body = {"entity_list": []} if name.endswith("subscribe") else None
        expected = (500, "000001", "unknown server error")
        path = f"/api/watch/{paths.get(name, name)}"
        assert client.error(path, *([body] if body else [])) == expected
    said = f"{name} of app {APP_ID}: the result of provider.{name}()"
    assert said in caplog.text
    assert problem in caplog.text
    assert "Traceback" not in caplog.text


def test_a_rate_limit_that_fails_is_logged_as_such(caplog):
    def broken(app_id):
        raise OSError("away")

    with served(provider_app(SECRETS, Plain(), rate_limit=broken)) as http:
        client = Client(str(http.base_url))
        assert client.error("/api/watch/event/list")[0] == 500
    assert f"events of app {APP_ID}: rate_limit failed" in caplog.text


def test_the_log_counts_what_an_app_subscribes_to(caplog):
    caplog.set_level(logging.INFO, "ortege_watch")
    entity = {"entity": "0x" + "ab" * 20, "chain_id": "56", "entity_type": "ERC20"}
    asked = [{**entity, "event_code": code} for code in ("big_amount_txn", "nope")]
    events = [SupportedEvent("big_amount_txn", ("ERC20",))]
    with (
        SQLiteProvider(None, events) as provider,
        served(provider_app(SECRETS, provider)) as http,
    ):
        client = Client(str(http.base_url))
        for name in ("subscribe", "unsubscribe"):
            client.data(f"/api/watch/{name}", {"entity_list": asked})
            assert f"{name} of app {APP_ID}: 1 of 2 entities" in caplog.text


# --------------------------------------------------------------- what must not end it
def raising(error):
    def function(*arguments):
        raise error

    return function


def raising_later(error):
    async def function(*arguments):
        raise error

    return function


ENDS = [
    asyncio.CancelledError(),
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
]
CASES = [
    *product(["events", "rate_limit"], [raising, raising_later], ENDS),
    *product(["secrets"], [raising], ENDS),
]


@pytest.mark.parametrize(("where", "make", "error"), CASES)
def test_no_error_of_the_application_leaves_it(caplog, make, error, where):
    provider, limit, secrets = Plain(), None, SECRETS
    if where == "events":
        provider.events = make(error)
    elif where == "rate_limit":
        limit = make(error)
    else:
        secrets = make(error)
    with served(provider_app(secrets, provider, rate_limit=limit)) as http:
        client = Client(str(http.base_url))
        status = client.error("/api/watch/event/list")[0]
        assert status == (503 if where == "secrets" else 500)
    assert type(error).__name__ in caplog.text


@pytest.mark.parametrize(
    "wait", [True, False, -5, 10**400, float("nan"), float("inf"), "3"]
)
def test_a_rate_limit_that_returns_something_else_has_failed(caplog, wait):
    app = provider_app(SECRETS, Plain(), rate_limit=lambda _: wait)
    with served(app) as http:
        client = Client(str(http.base_url))
        assert client.error("/api/watch/event/list")[0] == 500
    assert "the result of rate_limit() must be 0 or more" in caplog.text
    assert "Traceback" not in caplog.text
