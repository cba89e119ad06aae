"""Bodies and data of every endpoint, written as documented and read back."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given, strategies as st
from signed import ADDRESS, TX_HASH, alert_object

from ortege_watch import DecodeError, InvalidArgument
from ortege_watch.watchbus import (
    AlertInfo,
    BigAmountTxn,
    EntityInfo,
    EventValues,
    Subscription,
    SubscriptionPage,
    SupportedEvent,
    WatchEvent,
    WireStyle,
    wire as payloads,
)
from ortege_watch.watchbus.models import read_alerts
from ortege_watch.watchbus.wire import PageRequest

ENTITY = EntityInfo(ADDRESS, 56, "erc20", "big_amount_txn")
OTHER = "0x" + "1" * 40
WIRE = {
    "entity": ADDRESS,
    "chain_id": "56",
    "entity_type": "ERC20",
    "event_code": "big_amount_txn",
}
VALUES = {"block_number": "5", "tx_hash": TX_HASH, "current_value": "1.5"}


def alert(**changes: object) -> AlertInfo:
    fields = {
        "entity": ADDRESS,
        "chain_id": 56,
        "entity_type": "universal",
        "event_code": "big_amount_txn",
        "timestamp": 1_700_000_000,
        "event_values": VALUES,
    }
    return AlertInfo(**{**fields, **changes})


def entities_body(
    entities: list[EntityInfo], style: WireStyle = payloads.DOCUMENTED
) -> bytes:
    return payloads.encode_entities(payloads.entities_to_wire(entities, style), style)


def sent(*alerts: AlertInfo, **style: bool) -> object:
    return json.loads(payloads.encode_alerts(alerts, WireStyle(**style)))


# --------------------------------------------------------------------------- entities
def test_entities_are_sent_as_the_table_documents_them():
    assert json.loads(entities_body([ENTITY])) == {"entity_list": [WIRE]}


def test_the_other_form_of_the_page_is_a_switch():
    style = WireStyle(chain_id_as_int=True, bare_lists=True)
    numbered = {**WIRE, "chain_id": 56}
    assert json.loads(entities_body([ENTITY], style)) == [numbered]
    assert payloads.watch_result_data([ENTITY], style) == {"watch_result": [numbered]}
    assert sent(alert(), chain_id_as_int=True, bare_lists=True)[0]["chain_id"] == 56


@pytest.mark.parametrize(
    ("given", "spelt"),
    [
        ("erc20", "ERC20"),
        ("ERC4626", "ERC4626"),
        ("UNIVERSAL", "Universal"),
        ("unverified", "Unverified"),
        ("eoa", "EOA"),
        ("Dao", "Dao"),
    ],
)
def test_a_known_type_is_sent_in_the_documented_spelling(given, spelt):
    body = entities_body([EntityInfo(ADDRESS, 56, given, "x")])
    assert json.loads(body)["entity_list"][0]["entity_type"] == spelt


@pytest.mark.parametrize(
    "address", ["0x12", "12" * 20, "0x" + "g" * 40, ADDRESS + "\n"]
)
def test_only_addresses_are_sent(address):
    bad = EntityInfo(address, 56, "ERC20", "x")
    with pytest.raises(
        InvalidArgument, match=r"entities\[1\]\.entity must be an address"
    ):
        payloads.entities_to_wire([ENTITY, bad])
    with pytest.raises(InvalidArgument, match=r"entities\[0\]\.entity"):
        payloads.watch_result_data([bad])
    with pytest.raises(InvalidArgument, match=r"alerts\[0\]\.entity"):
        payloads.encode_alerts([alert(entity=address)])


@pytest.mark.parametrize(
    ("alerts", "problem"),
    [
        ([], "alerts is empty: pass at least one AlertInfo"),
        ([alert(), 5], r"alerts\[1\] must be of type AlertInfo, got int"),
        (alert(), "alerts must be an iterable of AlertInfo, got AlertInfo"),
    ],
)
def test_only_a_list_of_alerts_is_sent(alerts, problem):
    with pytest.raises(InvalidArgument, match=problem):
        payloads.encode_alerts(alerts)


def test_entities_are_read_in_both_forms_and_under_all_names():
    alias = {
        "address": ADDRESS,
        "chain_id": 56,
        "watch_entity_type": "ERC20",
        "watch_event_code": "big_amount_txn",
    }
    for body in ({"entity_list": [WIRE, alias]}, [WIRE, alias]):
        assert payloads.decode_entities(json.dumps(body).encode()) == [ENTITY, ENTITY]
    data = {"watch_result": [WIRE, alias]}
    assert payloads.decode_watch_result(data) == [ENTITY, ENTITY]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"watch_result": [ADDRESS, OTHER]}, [ADDRESS, OTHER]),
        ([ADDRESS], [ADDRESS]),
        ({"watch_result": [WIRE, OTHER]}, [ENTITY, OTHER]),
        ({"watch_result": None}, []),
        ({"watch_result": []}, []),
        ({"watch_result": json.dumps([WIRE, OTHER])}, [ENTITY, OTHER]),
    ],
)
def test_a_watch_result_is_read_in_every_form_it_may_have(data, expected):
    assert payloads.decode_watch_result(data) == expected


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({}, "$.data.watch_result: missing, expected a list"),
        ({"watch_result": ADDRESS}, "$.data.watch_result: expected a list, got '0x"),
        ({"watch_result": [5]}, "$.data.watch_result[0]: expected an object, got 5"),
        ({"watch_result": [""]}, "$.data.watch_result[0]: expected an object, got ''"),
    ],
)
def test_a_watch_result_of_another_form_is_a_problem(data, problem):
    with pytest.raises(DecodeError) as caught:
        payloads.decode_watch_result(data)
    assert caught.value.problems[0].startswith(problem)


def test_lists_may_be_json_text():
    text = json.dumps([WIRE])
    for document in ({"entity_list": text}, text):
        assert payloads.decode_entities(json.dumps(document).encode()) == [ENTITY]
    body = json.dumps({"entity_list": json.dumps([ADDRESS])}).encode()
    assert payloads.decode_page_request(body) == ((ADDRESS,), PageRequest())
    data = payloads.subscription_page_data(PAGE)
    for entry in data["subscription_list"]:
        entry["watch_event_list"] = json.dumps(entry["watch_event_list"])
    data["subscription_list"] = json.dumps(data["subscription_list"])
    assert payloads.decode_subscription_page(data) == PAGE
    listed = [{"event_code": "x", "support_entity_type_list": '["ERC20"]'}]
    for form in (listed, json.dumps(listed)):
        [event] = payloads.decode_supported_events(form)
        assert event.entity_types == ("ERC20",)


def test_problems_with_entities_have_their_path():
    with pytest.raises(DecodeError) as caught:
        payloads.decode_entities(json.dumps([WIRE, {**WIRE, "chain_id": 5.6}]).encode())
    assert caught.value.problems[0].startswith("$[1].chain_id: ")
    with pytest.raises(DecodeError) as caught:
        payloads.decode_watch_result({"watch_result": [{**WIRE, "address": OTHER}]})
    assert caught.value.problems[0].startswith("$.data.watch_result[0].entity: ")
    with pytest.raises(DecodeError, match=r"\$\.data: missing, expected a list"):
        payloads.decode_watch_result(None)
    with pytest.raises(DecodeError, match=r"\$\.entity_list: missing, expected a list"):
        payloads.decode_entities(b"{}")


addresses = st.text("0123456789abcdefABCDEF", min_size=40, max_size=40).map(
    "0x{}".format
)
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10)
entities = st.builds(EntityInfo, addresses, st.integers(0, 2**256 - 1), words, words)


@given(
    st.lists(entities, min_size=1, max_size=3),
    st.builds(WireStyle, chain_id_as_int=st.booleans(), bare_lists=st.booleans()),
)
def test_entities_that_are_sent_are_read_back(given, style):
    assert payloads.decode_entities(entities_body(given, style)) == given
    data = json.loads(json.dumps(payloads.watch_result_data(given, style)))
    assert payloads.decode_watch_result(data) == given


# ---------------------------------------------------------------------- subscriptions
def test_a_page_is_asked_for_from_one_and_without_a_list_for_all():
    assert json.loads(payloads.encode_page_request()) == {
        "page_index": 1,
        "page_size": 50,
    }
    assert json.loads(payloads.encode_page_request([ADDRESS], 3, 10)) == {
        "entity_list": [ADDRESS],
        "page_index": 3,
        "page_size": 10,
    }


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"entities": []}, "entities is empty: pass at least one str"),
        ({"entities": ADDRESS}, "entities must be an iterable of str, got '0x"),
        (
            {"entities": [ADDRESS, "0x1"]},
            r"entities\[1\] must be an address, .* got '0x1'$",
        ),
        ({"entities": [5]}, r"entities\[0\] must be of type str, got int$"),
        ({"page_index": 0}, "page_index must be a positive int, got 0$"),
        ({"page_index": "1"}, "page_index must be a positive int, got '1'$"),
        ({"page_index": True}, "page_index must be a positive int, got True$"),
        ({"page_size": 51}, "page_size must be an int from 1 to 50, got 51$"),
        ({"page_size": 0}, "page_size must be an int from 1 to 50, got 0$"),
    ],
)
def test_a_page_that_does_not_exist_is_not_asked_for(arguments, problem):
    with pytest.raises(InvalidArgument, match=problem):
        payloads.encode_page_request(**arguments)


@pytest.mark.parametrize(
    ("body", "request_"),
    [
        (b"", (None, PageRequest())),
        (b"{}", (None, PageRequest(page_index=1, page_size=50))),
        (b'{"entity_list": [], "page_index": null}', (None, PageRequest())),
        (
            b'{"page_index": "2", "page_size": 5}',
            (None, PageRequest(page_index=2, page_size=5)),
        ),
        (b'{"entity_list": ["0xa"]}', (("0xa",), PageRequest())),
    ],
)
def test_a_request_for_a_page_is_read(body, request_):
    assert payloads.decode_page_request(body) == request_


def test_a_page_has_at_most_the_entries_that_the_provider_allows():
    for body, size in ((b"", 7), (b'{"page_size": 50}', 7), (b'{"page_size": 3}', 3)):
        _, page = payloads.decode_page_request(body, 7)
        assert page.page_size == size


def test_a_page_is_cut_out_of_all_subscriptions():
    listed = [Subscription(f"0x{n:040x}", ()) for n in range(5)]
    page = PageRequest(page_index=2, page_size=3).select(listed)
    assert page == SubscriptionPage(tuple(listed[3:]), 2, 3, 5)
    past = PageRequest(page_index=2**200, page_size=3)
    assert past.select(listed) == SubscriptionPage((), 2**200, 3, 5)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"page_index": 0}', "$.page_index"),
        (b'{"page_index": true}', "$.page_index"),
        (b'{"page_size": 51}', "$.page_size"),
        (b'{"page_size": "many"}', "$.page_size"),
        (b'{"entity_list": "0xa"}', "$.entity_list"),
        (b'{"entity_list": [5]}', "$.entity_list"),
        (b"[]", "$"),
    ],
)
def test_a_request_for_no_page_is_refused(body, path):
    with pytest.raises(DecodeError) as caught:
        payloads.decode_page_request(body)
    assert caught.value.problems[0].startswith(f"{path}: ")


PAGE = SubscriptionPage(
    subscriptions=(
        Subscription(ADDRESS, (WatchEvent("7", "a"), WatchEvent("8", "b"))),
        Subscription(OTHER, ()),
    ),
    page_index=2,
    page_size=50,
    total=52,
)


def test_a_page_of_subscriptions_is_written_and_read_back():
    data = payloads.subscription_page_data(PAGE)
    read = payloads.decode_subscription_page(json.loads(json.dumps(data)))
    assert read == PAGE
    assert read.subscriptions[0].raw == data["subscription_list"][0]


def test_a_page_of_subscriptions_is_read_in_other_spellings():
    entry = {
        "address": ADDRESS,
        "watch_event_list": [{"watch_id": 7, "watch_event_code": "a"}],
    }
    data = {
        "subscription_list": [entry],
        "page_index": "1",
        "page_size": "50",
        "total": 1,
    }
    page = payloads.decode_subscription_page(data)
    assert page.subscriptions == (Subscription(ADDRESS, (WatchEvent("7", "a"),)),)
    assert (page.page_index, page.page_size, page.total) == (1, 50, 1)
    assert entry["watch_event_list"][0]["watch_id"] == 7  # raw stays raw


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"total": -1}, "$.data.total"),
        ({"total": None}, "$.data.total"),
        ({"subscription_list": None}, "$.data.subscription_list"),
        ({"subscription_list": [{}]}, "$.data.subscription_list[0].watch_event_list"),
        (
            {"subscription_list": [{"entity": "x", "watch_event_list": [{}]}]},
            "$.data.subscription_list[0].watch_event_list[0].watch_id",
        ),
        (
            {
                "subscription_list": [
                    {
                        "entity": "x",
                        "watch_event_list": [{"watch_id": True, "event_code": "a"}],
                    }
                ]
            },
            "$.data.subscription_list[0].watch_event_list[0].watch_id",
        ),
    ],
)
def test_problems_with_a_page_have_their_path(changes, path):
    data = {**payloads.subscription_page_data(PAGE), **changes}
    with pytest.raises(DecodeError) as caught:
        payloads.decode_subscription_page(data)
    assert caught.value.problems[0].startswith(f"{path}: ")


# ------------------------------------------------------------------- supported events
def test_supported_events_are_written_and_read_back():
    events = [
        SupportedEvent("big_amount_txn", ("ERC20",), Decimal("0.005"), "1h", "Big"),
        SupportedEvent("risk_function_call", ("ERC20", "UNIVERSAL")),
    ]
    data = json.loads(json.dumps(payloads.supported_events_data(events)))
    assert data[0]["mini_threshold"] == "0.005"
    assert data[1].keys() == {"event_code", "support_entity_type_list"}
    read = payloads.decode_supported_events(data)
    assert read == events
    assert [each.raw for each in read] == data


def test_a_threshold_may_be_a_number_and_other_fields_are_kept():
    entry = {
        "event_code": "x",
        "support_entity_type_list": [],
        "mini_threshold": Decimal("0.005"),
        "trigger_frequency": {"every": 5},
        "more": 1,
    }
    [event] = payloads.decode_supported_events([entry])
    assert event.mini_threshold == Decimal("0.005")
    assert event.trigger_frequency == {"every": 5}
    assert event.raw == entry


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"event_code": None}, "event_code"),
        ({"mini_threshold": "much"}, "mini_threshold"),
        ({"mini_threshold": True}, "mini_threshold"),
        ({"support_entity_type_list": "ERC20"}, "support_entity_type_list"),
        ({"support_entity_type_list": None}, "support_entity_type_list"),
        ({"event_description": 5}, "event_description"),
    ],
)
def test_problems_with_supported_events_have_their_path(changes, field):
    entry = {"event_code": "x", "support_entity_type_list": [], **changes}
    with pytest.raises(DecodeError) as caught:
        payloads.decode_supported_events([entry])
    assert caught.value.problems[0].startswith(f"$.data[0].{field}: ")


# ----------------------------------------------------------------------------- alerts
def test_an_alert_is_sent_as_documented():
    assert sent(alert()) == {
        "alert_info_list": [
            {
                "watch_entity": ADDRESS,
                "chain_id": "56",
                "watch_entity_type": "Universal",
                "watch_event_code": "big_amount_txn",
                "timestamp": 1_700_000_000,
                "event_values": VALUES,
            }
        ]
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "5"),
        (2**70, str(2**70)),
        (Decimal("1.10"), "1.10"),
        (Decimal("1E+20"), "100000000000000000000"),
        (Decimal("1E-18"), "0.000000000000000001"),
        (Decimal("1E+5000"), "1E+5000"),
        ("1.10", "1.10"),
    ],
)
def test_numbers_are_sent_as_text_exactly(value, text):
    values = {**VALUES, "current_value": value}
    [wire] = sent(alert(event_values=values))["alert_info_list"]
    assert wire["event_values"]["current_value"] == text
    [read] = read_alerts(payloads.encode_alerts([alert(event_values=values)]))
    assert read.event_values.current_value == Decimal(text)


def test_none_is_left_out_and_unknown_values_are_sent_as_they_are():
    values = {"comment": None, "list": [1, {"a": None}], "flag": True}
    [wire] = sent(alert(event_code="own", event_values=values))["alert_info_list"]
    assert wire["event_values"] == {"list": [1, {"a": None}], "flag": True}


@pytest.mark.parametrize(
    ("code", "values", "problem"),
    [
        ("big_amount_txn", {}, "event_values.block_number: .* is missing"),
        (
            "big_amount_txn",
            {**VALUES, "tx_hash": 5},
            "event_values.tx_hash: .* expected a string, got 5",
        ),
        ("big_amount_txn", {**VALUES, "current_value": 0.1}, "current_value"),
        ("big_amount_txn", {**VALUES, "current_value": "much"}, "current_value"),
        ("own", {"value": 0.1}, r"^alerts\[0\]\.event_values\.value: .* use Decimal"),
        ("own", {"value": Decimal("NaN")}, "as JSON; use None, bool"),
        ("own", {"value": object()}, "as JSON; use None, bool"),
        ("own", {"value": "\ud800"}, r"^alerts\[0\]\.event_values cannot be written"),
    ],
)
@pytest.mark.parametrize("spelling", ["ERC20", "erc20"])
def test_values_that_cannot_be_read_exactly_are_not_sent(
    code, values, problem, spelling
):
    fields = {"event_code": code, "event_values": values, "entity_type": spelling}
    with pytest.raises(InvalidArgument, match=problem):
        payloads.encode_alerts([alert(**fields)])


def test_an_alert_that_came_is_sent_on():
    [came] = read_alerts(json.dumps([alert_object(more=1)]).encode())
    assert read_alerts(payloads.encode_alerts([came])) == [came]


values = st.dictionaries(words, words | st.lists(words, max_size=2), max_size=3)
alerts = st.builds(
    AlertInfo,
    addresses,
    st.integers(0, 2**256 - 1),
    words,
    st.sampled_from(["own", "x"]),
    st.integers(0, 10**11 - 1),
    values | values.map(EventValues),
) | st.builds(
    lambda block, amount, more: alert(
        event_values=BigAmountTxn(
            more, block_number=str(block), tx_hash=TX_HASH, current_value=amount
        )
    ),
    st.integers(0),
    st.decimals(allow_nan=False, allow_infinity=False).map(
        lambda amount: format(amount, "f")
    ),
    values,
)


@given(
    st.lists(alerts, min_size=1, max_size=3),
    st.builds(WireStyle, chain_id_as_int=st.booleans(), bare_lists=st.booleans()),
)
def test_alerts_that_are_sent_are_read_back(given, style):
    assert read_alerts(payloads.encode_alerts(given, style)) == given
