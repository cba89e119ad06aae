"""The subscriptions of a provider: in a file, of several apps, threads and processes."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from decimal import Decimal

import pytest

from ortege_watch import InvalidArgument, OrtegeWatchError
from ortege_watch.watchbus import (
    EntityInfo,
    PageRequest,
    SQLiteProvider,
    Subscriber,
    SupportedEvent,
)
from ortege_watch.watchbus.wire import decode_supported_events

TOKEN = "0x" + "ab" * 20
EVENTS = [
    SupportedEvent("big_amount_txn", ("ERC20", "ERC721")),
    SupportedEvent("Risk_Function_Call", ("UNIVERSAL",)),
]


def entity(number, event_code="big_amount_txn", entity_type="ERC20", chain_id=56):
    return EntityInfo(f"0x{number:040x}", chain_id, entity_type, event_code)


@pytest.fixture
def provider(tmp_path):
    with SQLiteProvider(tmp_path / "provider.db", EVENTS) as provider:
        yield provider


def listed(provider, app_id="bus", addresses=None, **page):
    """Return the watch ids and codes of each address."""
    found = provider.subscriptions(app_id, addresses, PageRequest(**page))
    return {
        each.entity: [(event.watch_id, event.event_code) for event in each.events]
        for each in found.subscriptions
    }


def test_subscriptions_belong_to_an_app(provider):
    one, two = entity(1), entity(2)
    assert provider.subscribe("bus", [one, two]) == [one, two]
    assert provider.subscribe("other", [one]) == [one]
    assert listed(provider) == {
        one.entity: [("watch-1", "big_amount_txn")],
        two.entity: [("watch-2", "big_amount_txn")],
    }
    assert provider.unsubscribe("other", [one, two]) == [one]
    assert listed(provider, "other") == {}
    assert len(listed(provider)) == 2


def test_what_is_not_supported_is_not_accepted(provider):
    good = [
        entity(1, "BIG_AMOUNT_TXN", "erc20"),
        entity(1, "risk_function_call", "Universal"),
    ]
    bad = [entity(1, "risk_function_call", "ERC20"), entity(1, "trust_score_decrease")]
    assert provider.subscribe("bus", [*bad, *good]) == good
    [subscriber] = provider.matching(good[0].entity, 56, "BIG_AMOUNT_TXN")
    assert subscriber.entity == entity(1)
    # Alerts need the provider's spelling of the code.
    [subscriber] = provider.matching(good[1].entity, 56, "risk_function_call")
    assert subscriber.entity.event_code == "Risk_Function_Call"
    assert provider.events() == EVENTS


def test_to_subscribe_again_changes_nothing(provider):
    first = EntityInfo("0x" + "ab" * 20, 56, "ERC20", "big_amount_txn")
    again = EntityInfo("0x" + "AB" * 20, 56, "erc20", "Big_Amount_Txn")
    assert provider.subscribe("bus", [first, again]) == [first, again]
    assert provider.subscribe("bus", [again]) == [again]
    assert listed(provider) == {first.entity: [("watch-1", "big_amount_txn")]}
    assert provider.unsubscribe("bus", [again, first]) == [again]


def test_a_watch_id_is_never_given_twice(tmp_path):
    path, seen = tmp_path / "provider.db", []
    for number in range(4):
        with SQLiteProvider(path, EVENTS) as provider:
            provider.subscribe("bus", [entity(number)])
            [[(watch_id, _)]] = listed(provider).values()
            seen.append(watch_id)
            provider.unsubscribe("bus", [entity(number)])
    assert len(set(seen)) == 4


def test_who_has_subscribed(provider):
    watched = EntityInfo("0x" + "aB" * 20, 2**256 - 1, "ERC20", "big_amount_txn")
    as_nft = EntityInfo(watched.entity, watched.chain_id, "ERC721", "big_amount_txn")
    provider.subscribe("one", [watched, entity(2)])
    provider.subscribe("two", [as_nft])
    asked = (watched.chain_id, "big_amount_txn")
    for address in (watched.entity, watched.entity.lower()):
        assert provider.matching(address, *asked) == [
            Subscriber("one", watched, "watch-1"),
            Subscriber("two", as_nft, "watch-3"),
        ]
    assert provider.matching(entity(2).entity, 1, "big_amount_txn") == []
    assert provider.matching(watched.entity, 1, "big_amount_txn") == []
    assert [each.watch_id for each in provider.subscribers()] == [
        "watch-1",
        "watch-2",
        "watch-3",
    ]
    assert provider.remove_app("one") == 2
    assert [x.app_id for x in provider.matching(watched.entity, *asked)] == ["two"]


def test_pages_group_by_address(provider):
    spelled = "0x" + "Ab" * 20
    provider.subscribe(
        "bus",
        [
            EntityInfo(spelled, 56, "ERC20", "big_amount_txn"),
            entity(2),
            EntityInfo(spelled.lower(), 56, "Universal", "risk_function_call"),
            entity(3),
        ],
    )
    page = provider.subscriptions("bus", None, PageRequest(page_size=2))
    assert (page.page_index, page.page_size, page.total) == (1, 2, 3)
    assert list(listed(provider, page_size=2)) == [spelled, entity(2).entity]
    assert list(listed(provider, page_size=2, page_index=2)) == [entity(3).entity]
    assert len(listed(provider)[spelled]) == 2
    found = provider.subscriptions("bus", [spelled.upper(), "0x"], PageRequest())
    assert (found.total, found.subscriptions[0].entity) == (1, spelled)


def test_pages_beyond_the_end_are_empty(provider):
    provider.subscribe("bus", [entity(1)])
    for index in (2, 2**62, 2**200):
        page = provider.subscriptions("bus", None, PageRequest(page_index=index))
        assert (page.subscriptions, page.total) == ((), 1)


def test_an_app_has_a_bounded_number_of_subscriptions(tmp_path):
    with SQLiteProvider(tmp_path / "provider.db", EVENTS, limit=2) as provider:
        three = [entity(n) for n in range(3)]
        assert provider.subscribe("bus", three) == three[:2]
        assert provider.subscribe("bus", [three[2], three[0]]) == [three[0]]
        assert provider.subscribe("other", three) == three[:2]
        provider.unsubscribe("bus", three[:1])
        assert provider.subscribe("bus", three) == three[:2]


def test_subscriptions_of_an_event_that_is_no_longer_supported_stay(tmp_path):
    path, old = tmp_path / "provider.db", entity(1, "risk_function_call", "UNIVERSAL")
    with SQLiteProvider(path, EVENTS) as provider:
        provider.subscribe("bus", [old])
    with SQLiteProvider(path, EVENTS[:1]) as provider:
        assert provider.subscribe("bus", [old]) == []
        assert len(listed(provider)) == 1
        assert provider.unsubscribe("bus", [old]) == [old]


def test_threads_share_a_provider(provider):
    def work(number):
        entities = [entity(n) for n in range(20)]
        accepted = provider.subscribe("bus", entities)
        provider.subscribe(f"app-{number}", entities[:3])
        provider.matching(entities[0].entity, 56, "big_amount_txn")
        return accepted == entities

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(16)))
    assert len(listed(provider)) == 20
    assert len(provider.matching(entity(0).entity, 56, "big_amount_txn")) == 17


def test_a_write_that_waits_for_another_process_delays_no_reader(tmp_path):
    path = tmp_path / "provider.db"
    with (
        SQLiteProvider(path, EVENTS) as provider,
        closing(sqlite3.connect(path, isolation_level=None)) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        provider.subscribe("bus", [entity(1)])
        other.execute("BEGIN IMMEDIATE")
        writing = pool.submit(provider.subscribe, "bus", [entity(2)])
        start = time.monotonic()
        while time.monotonic() < start + 0.5:
            found = provider.matching(entity(1).entity, 56, "big_amount_txn")
            assert len(found) == len(provider.subscribers()) == 1
        assert time.monotonic() < start + 5
        assert not writing.done()
        other.execute("ROLLBACK")
        assert writing.result(10) == [entity(2)]
        assert len(provider.subscribers()) == 2


SUBSCRIBE = """
import sys
from ortege_watch.watchbus import EntityInfo, SQLiteProvider, SupportedEvent
events = [SupportedEvent("x", ("ERC20",))]
with SQLiteProvider(sys.argv[1], events) as provider:
    for number in range(25):
        entity = EntityInfo(f"0x{number:040x}", 56, "ERC20", "x")
        assert provider.subscribe("shared", [entity]) == [entity]
        assert provider.subscribe(sys.argv[2], [entity]) == [entity]
"""


def test_processes_share_a_file(tmp_path):
    path = tmp_path / "provider.db"
    running = [
        subprocess.Popen([sys.executable, "-c", SUBSCRIBE, str(path), f"app-{n}"])
        for n in range(4)
    ]
    assert [each.wait(60) for each in running] == [0] * 4
    events = [SupportedEvent("x", ("ERC20",))]
    with SQLiteProvider(path, events) as provider:
        apps = ["shared", *(f"app-{n}" for n in range(4))]
        ids = [ids[0] for app in apps for ids in listed(provider, app).values()]
        assert len(ids) == len(set(ids)) == 125


KILLED = """
import sys
from itertools import count
from ortege_watch.watchbus import EntityInfo, SQLiteProvider, SupportedEvent
with SQLiteProvider(sys.argv[1], [SupportedEvent("big_amount_txn", ("ERC20",))]) as provider:
    for number in count():
        batch = [EntityInfo(f"0x{3 * number + n:040x}", 56, "ERC20", "big_amount_txn") for n in range(3)]
        assert provider.subscribe("bus", batch) == batch
        print(number, flush=True)
"""


@pytest.mark.parametrize("after", [1, 5, 20])
def test_what_was_accepted_survives_a_kill(tmp_path, after):
    path = tmp_path / "provider.db"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        for _ in range(after):
            assert process.stdout.readline()
        process.kill()
        accepted = 3 * (after + len(process.stdout.read().splitlines()))
    with SQLiteProvider(path, EVENTS) as provider:
        found = [int(each.entity.entity, 16) for each in provider.subscribers()]
    # Each call is stored as a whole; the last one may have had no time to say so.
    assert found in [list(range(accepted)), list(range(accepted + 3))]


def test_subscriptions_may_be_kept_in_memory():
    with SQLiteProvider(None, EVENTS) as provider:
        provider.subscribe("bus", [entity(1)])
        assert [each.entity for each in provider.subscribers()] == [entity(1)]


def test_a_file_of_another_release_is_refused(tmp_path):
    path = tmp_path / "provider.db"
    SQLiteProvider(path, EVENTS).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 7")
    with pytest.raises(OrtegeWatchError, match="has schema version 7"):
        SQLiteProvider(path, EVENTS)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"events": []}, "events is empty: pass at least one SupportedEvent"),
        ({"events": ["x"]}, r"events\[0\] must be of type SupportedEvent, got str"),
        (
            {"events": [*EVENTS, SupportedEvent("BIG_AMOUNT_TXN", ("ERC20",))]},
            "events must have each code once, got .*'BIG_AMOUNT_TXN'",
        ),
        ({"limit": 0}, "limit must be a positive int, got 0"),
        ({"path": 5}, "path of the provider's file must be a string or a Path"),
        ({"path": ":memory:"}, "path of the provider's file must name a file"),
    ],
)
def test_arguments_are_checked(tmp_path, arguments, problem):
    given = {"path": tmp_path / "provider.db", "events": EVENTS, **arguments}
    with pytest.raises(InvalidArgument, match=problem):
        SQLiteProvider(**given)


def test_a_closed_file_is_an_error_of_the_library(provider):
    provider.close()
    for call in (
        lambda: provider.subscribe("bus", [entity(1)]),
        lambda: provider.unsubscribe("bus", [entity(1)]),
        lambda: listed(provider),
        lambda: provider.matching(entity(1).entity, 56, "big_amount_txn"),
    ):
        with pytest.raises(OrtegeWatchError, match=r"cannot use the provider's file '"):
            call()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            ("ab", 56, "big_amount_txn"),
            "entity must be an address, 0x and 40 hex digits",
        ),
        ((None, 56, "big_amount_txn"), "entity must be a non-empty string, got None"),
        ((TOKEN, "0x38", "big_amount_txn"), "chain_id must be"),
        ((TOKEN, 56.0, "big_amount_txn"), "chain_id must be"),
        ((TOKEN, 56, "nope"), "a code of the provider's events, got 'nope'"),
        ((TOKEN, 56, ""), "event_code must be a non-empty string"),
    ],
)
def test_an_event_that_nobody_can_subscribe_to_is_refused(arguments, problem, provider):
    with pytest.raises(InvalidArgument, match=problem):
        provider.matching(*arguments)


def test_the_digits_of_a_chain_are_a_chain(provider):
    provider.subscribe("bus", [entity(1)])
    for chain in (56, "56", "056"):
        assert len(provider.matching(entity(1).entity, chain, "big_amount_txn")) == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("big_amount_txn", "ERC20"), r"got 'ERC20': write \('ERC20',\)"),
        (("big_amount_txn", ["ERC20"]), "must be a tuple of strings, got .'ERC20'."),
        (("big_amount_txn", ()), "entity_types is empty"),
        (("big_amount_txn", ("ERC20", "")), r"entity_types\[1\] must be a non-empty"),
        (("big_amount_txn", (20,)), r"entity_types\[0\] must be"),
        (("", ("ERC20",)), "event_code must be a non-empty string"),
        (("big_amount_txn", ("ERC20",), 1.5), "a finite Decimal or None, got 1.5"),
        (("big_amount_txn", ("ERC20",), Decimal("NaN")), "a finite Decimal or None"),
        (("big_amount_txn", ("ERC20",), True), "a finite Decimal or None, got True"),
        (
            ("big_amount_txn", ("ERC20",), None, 1.5),
            "trigger_frequency: cannot write 1.5 as JSON; use Decimal",
        ),
        (
            ("big_amount_txn", ("ERC20",), None, {"every": b"5"}),
            "trigger_frequency.every: cannot write b'5' as JSON",
        ),
        (("big_amount_txn", ("ERC20",), None, None, 5), "description must be a string"),
        (("\ud800", ("ERC20",)), "event_code cannot be written as JSON"),
        (("big_amount_txn", ("\ud800",)), r"entity_types.* cannot be written as JSON"),
    ],
)
def test_an_event_that_cannot_be_offered_is_refused(arguments, problem):
    with pytest.raises(InvalidArgument, match=problem):
        SupportedEvent(*arguments)


def test_an_event_of_another_provider_is_kept_as_it_is():
    data = [{"event_code": "big_amount_txn", "support_entity_type_list": []}]
    [event] = decode_supported_events(data)
    assert event.entity_types == ()


@pytest.mark.parametrize(
    ("app_id", "entities", "problem"),
    [
        ("a", [5], r"entities\[0\] must be of type EntityInfo, got int"),
        ("a", 5, "entities must be an iterable of EntityInfo, got 5"),
        ("\ud800", [], "app_id must be visible ASCII"),
        (5, [], "app_id must be visible ASCII characters without ';', got int"),
        ("a", [EntityInfo("\ud800", 56, "EOA", "c")], r"entities\[0\].entity must be"),
    ],
)
@pytest.mark.parametrize("method", ["subscribe", "unsubscribe"])
def test_what_cannot_be_stored_is_refused(method, app_id, entities, problem):
    events = [SupportedEvent("c", ("EOA",))]
    with (
        SQLiteProvider(None, events) as made,
        pytest.raises(InvalidArgument, match=problem),
    ):
        getattr(made, method)(app_id, entities)


def test_an_app_that_cannot_exist_cannot_be_removed():
    with (
        SQLiteProvider(None, [SupportedEvent("c", ("EOA",))]) as made,
        pytest.raises(InvalidArgument, match="app_id"),
    ):
        made.remove_app("\ud800")
