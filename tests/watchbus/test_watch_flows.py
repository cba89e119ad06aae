from __future__ import annotations

import json
from itertools import pairwise

import pytest
from driving import CUT, Play, entity, error, link, success
from hypothesis import given, strategies as st

from ortege_watch import InvalidArgument
from ortege_watch.errors import (
    DecodeError,
    OrtegeWatchError,
    RateLimited,
    TransportError,
)
from ortege_watch.watchbus import EntityInfo, WatchPaths, WireStyle
from ortege_watch.watchbus.client import Pages, Provider
from ortege_watch.watchbus.models import Subscription, SubscriptionPage, WatchEvent
from ortege_watch.watchbus.wire import subscription_page_data


def provider(on, paths=None):
    return Provider(on, paths or WatchPaths())


def subscribe(entities, progress=None, **options):
    on = link(**options)
    at = provider(on)
    return at.watch(on, at.subscribe, entities, progress)


def took(*entities):
    return success(
        {
            "watch_result": [
                {
                    "entity": each.entity,
                    "chain_id": str(each.chain_id),
                    "entity_type": each.entity_type,
                    "event_code": each.event_code,
                }
                for each in entities
            ]
        }
    )


def echo(request):
    return success({"watch_result": json.loads(request.content)["entity_list"]})


ONE, TWO, THREE, FOUR = map(entity, range(1, 5))


def test_the_request_is_compared_with_the_response():
    server = Play([took(ONE, THREE, FOUR)])
    result = server.run(subscribe([ONE, TWO, THREE]))
    assert result.succeeded == (ONE, THREE)
    assert result.missing == (TWO,)
    assert result.unexpected == (FOUR,)
    assert result.unanswered == ()


def test_addresses_in_the_response_stand_for_their_own_request(caplog):
    """The second batch asks for another event at the same address, and gets nothing."""
    other = entity(1, "risk_function_call")
    server = Play(
        [
            success({"watch_result": [ONE.entity.upper(), FOUR.entity]}),
            success({"watch_result": None}),
        ]
    )
    result = server.run(subscribe([ONE, TWO, other], batch_size=2))
    assert result.succeeded == (ONE,)
    assert result.missing == (TWO, other)
    assert result.unexpected == (FOUR.entity,)
    assert caplog.text == ""


def test_an_address_that_stands_for_several_events_is_warned_about(caplog):
    other = entity(1, "risk_function_call")
    server = Play([success({"watch_result": [ONE.entity]})])
    result = server.run(subscribe([ONE, TWO, other]))
    assert result.succeeded == (ONE, other)
    assert (
        "https://bus.example.com answers with addresses alone; each stands for all"
        " entities of the request that have it" in caplog.text
    )


def test_the_body_of_a_subscription():
    server = Play([echo])
    server.run(subscribe([ONE]))
    assert server.requests[0].url == "https://bus.example.com/api/watch/subscribe"
    assert server.bodies == [
        {
            "entity_list": [
                {
                    "entity": ONE.entity,
                    "chain_id": "56",
                    "entity_type": "ERC20",
                    "event_code": "big_amount_txn",
                }
            ]
        }
    ]


def test_the_other_documented_form():
    server = Play([took(ONE)])
    style = WireStyle(chain_id_as_int=True, bare_lists=True)
    server.run(subscribe([ONE], style=style))
    [[sent]] = server.bodies
    assert sent["chain_id"] == 56


def test_paths_can_be_chosen():
    on = link("https://host/gw")
    mine = WatchPaths(subscribe="/a", unsubscribe="/b", subscriptions="/c", events="/d")
    asked = provider(on, mine)
    server = Play([echo, echo, success([])])
    server.run(asked.watch(on, asked.subscribe, [ONE], None))
    server.run(asked.watch(on, asked.unsubscribe, [ONE], None))
    server.run(asked.events(on))
    assert [each.url for each in server.requests] == [
        *("https://host/gw/a", "https://host/gw/b", "https://host/gw/d"),
    ]


def test_a_missing_path_has_no_fallback():
    server = Play([error(status=404)])
    with pytest.raises(OrtegeWatchError):
        server.run(subscribe([ONE]))
    assert len(server.requests) == 1


def test_entities_are_sent_in_batches_with_progress():
    seen = []
    entities = [entity(number) for number in range(7)]
    server = Play([echo, echo, echo])
    result = server.run(
        subscribe(entities, lambda *told: seen.append(told), batch_size=3)
    )
    assert [len(each["entity_list"]) for each in server.bodies] == [3, 3, 1]
    assert result.succeeded == tuple(entities)
    assert seen == [(3, 7), (6, 7), (7, 7)]


@pytest.mark.parametrize(
    ("outcome", "kind"), [(CUT, TransportError), (error("000002"), RateLimited)]
)
def test_an_error_has_what_succeeded_before_it(outcome, kind):
    entities = [entity(number) for number in range(6)]
    first = took(entities[0], FOUR)
    server = Play([first, *[outcome] * 4])
    with pytest.raises(kind) as caught:
        server.run(subscribe(entities, batch_size=2))
    done = caught.value.watched
    assert done.succeeded == (entities[0],)
    assert done.missing == (entities[1],)
    assert done.unexpected == (FOUR,)
    assert done.unanswered == tuple(entities[2:])


@given(
    st.integers(1, 12),
    st.integers(1, 5),
    st.lists(st.sampled_from(["all", "none", "cut", "limit"]), max_size=30),
)
def test_every_entity_is_accounted_for_once(count, size, answers):
    """And none of those that a lost answer may have applied is asked for again."""
    entities = tuple(entity(number) for number in range(count))
    applied = []

    def play(answer):
        def outcome(request):
            asked = json.loads(request.content)["entity_list"]
            if answer == "limit":
                return error("000002")
            applied.extend(each["entity"] for each in asked)
            return {"all": echo(request), "none": took(), "cut": CUT}[answer]

        return outcome

    server = Play(map(play, [*answers, *["all"] * 40]))
    try:
        result = server.run(subscribe(entities, batch_size=size))
    except OrtegeWatchError as failure:
        result = failure.watched
        assert result.unanswered
    told = (*result.succeeded, *result.missing, *result.unanswered)
    assert sorted(told, key=entities.index) == list(entities)
    assert len(set(applied)) == len(applied)
    assert result.unexpected == ()


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ([], "entities is empty: pass at least one EntityInfo"),
        ((), "entities is empty"),
        ("0x", "entities must be an iterable of EntityInfo, got '0x'"),
        (b"0x", "must be an iterable"),
        (None, "must be an iterable"),
        (ONE, "must be an iterable"),
        ([ONE, "0x"], r"entities\[1\] must be of type EntityInfo, got str"),
        ([ONE, TWO, ONE], r"entities\[2\] repeats entities\[0\]"),
        ([ONE, EntityInfo("0x1", 56, "ERC20", "x")], r"entities\[1\]\.entity"),
    ],
)
def test_invalid_entities_are_refused_before_anything_is_sent(given, advice):
    with pytest.raises(InvalidArgument, match=advice) as caught:
        Play([]).run(subscribe(given))
    assert isinstance(caught.value, ValueError)


def test_entities_are_compared_without_case():
    low = EntityInfo("0x" + "ab" * 20, 56, "ERC20", "x")
    high = EntityInfo("0x" + "AB" * 20, 56, "erc20", "x")
    with pytest.raises(InvalidArgument, match=r"entities\[1\] repeats entities\[0\]"):
        Play([]).run(subscribe([low, high]))


def test_an_invalid_entity_in_a_later_batch_is_refused_before_the_first_is_sent():
    bad = EntityInfo("0x1", 56, "ERC20", "x")
    with pytest.raises(InvalidArgument, match=r"entities\[1\]\.entity"):
        Play([]).run(subscribe([ONE, bad], batch_size=1))


def entries(*numbers):
    return tuple(
        Subscription(f"0x{number:040x}", (WatchEvent(f"w{number}", "x"),))
        for number in numbers
    )


def page(*numbers, total=5, size=2):
    return SubscriptionPage(entries(*numbers), 1, size, total)


def pages_of(entities=None, size=2, batch_size=100):
    on = link(batch_size=batch_size)
    return Pages(provider(on), on, entities, size)


def take(pages, found):
    """Return the entries that a page gives, and the body of its request."""
    server = Play([success(subscription_page_data(found))])
    return server.run(pages.next()), server.bodies[0]


def test_all_pages_until_the_total():
    pages = pages_of()
    seen = []
    for found in (page(1, 2), page(3, 4), page(5)):
        assert pages
        taken, asked = take(pages, found)
        assert taken == found.subscriptions
        seen.append(asked)
    assert not pages
    assert seen == [{"page_index": index, "page_size": 2} for index in (1, 2, 3)]


def test_an_empty_page_is_the_last_one():
    pages = pages_of()
    take(pages, page(1, 2, total=100))
    assert pages
    assert take(pages, page(total=100))[0] == ()
    assert not pages


def test_a_short_page_is_not_the_last_one_if_the_total_is_larger():
    pages = pages_of(size=50)
    take(pages, page(1, 2, total=3, size=2))
    assert pages
    take(pages, page(3, total=3, size=2))
    assert not pages


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_repeated_page_is_an_error(turns):
    pages = pages_of()
    for number in range(turns):
        take(pages, page(number, total=100))
    with pytest.raises(DecodeError, match=f"page {turns + 1} repeats page 1"):
        take(pages, page(0, total=100))


def test_addresses_are_sent_in_batches():
    addresses = [entity(number).entity for number in range(5)]
    pages = pages_of(addresses, 50, batch_size=2)
    asked = []
    while pages:
        asked.append(take(pages, page(len(asked), total=1))[1])
    assert [each["entity_list"] for each in asked] == [
        *(addresses[:2], addresses[2:4], addresses[4:]),
    ]
    assert {each["page_index"] for each in asked} == {1}


@given(
    st.lists(st.lists(st.integers(0, 6), max_size=4), max_size=30), st.integers(0, 60)
)
def test_paging_ends(answers, total):
    pages = pages_of(size=4)
    asked = []
    try:
        for numbers in answers:
            if not pages:
                break
            asked.append(take(pages, page(*numbers, total=total))[1]["page_index"])
    except DecodeError:
        seen = [tuple(each) for each in answers]
        assert any(a == b for a, b in pairwise(seen)) or len(set(seen)) < len(seen)
    # Each page that leads to another one is new and not empty.
    assert asked == list(range(1, len(asked) + 1))
    assert len(asked) <= len({tuple(each) for each in answers}) + 1


@pytest.mark.parametrize(
    ("entities", "size", "advice"),
    [
        ([], 50, "entities is empty"),
        ("0x", 50, "must be an iterable of str, got '0x'"),
        ([56], 50, r"entities\[0\] must be of type str, got int"),
        (["0x1"], 50, r"entities\[0\]"),
        ([ONE.entity, ONE.entity.upper().replace("X", "x")], 50, "repeats"),
        (None, 51, "page_size"),
        (None, 0, "page_size"),
        (None, True, "page_size"),
    ],
)
def test_invalid_arguments_of_a_list_are_refused(entities, size, advice):
    with pytest.raises(InvalidArgument, match=advice):
        pages_of(entities, size)


def test_one_page():
    on = link()
    data = {"subscription_list": [], "page_index": "3", "page_size": 20, "total": 0}
    server = Play([CUT, success(data)])
    found = server.run(provider(on).page(on, [ONE.entity], 3, 20))
    assert found == SubscriptionPage((), 3, 20, 0)
    assert server.bodies[1] == {
        "entity_list": [ONE.entity],
        "page_index": 3,
        "page_size": 20,
    }


def test_all_subscriptions_are_requested_without_a_list():
    on = link()
    data = {"subscription_list": [], "page_index": 1, "page_size": 50, "total": 0}
    server = Play([success(data)])
    server.run(provider(on).page(on, None, 1, 50))
    assert server.bodies == [{"page_index": 1, "page_size": 50}]


def test_events_are_requested_with_an_empty_body():
    on = link()
    server = Play([success([{"event_code": "x", "support_entity_type_list": ["EOA"]}])])
    [event] = server.run(provider(on).events(on))
    assert (event.event_code, event.entity_types) == ("x", ("EOA",))
    assert server.requests[0].content == b""
