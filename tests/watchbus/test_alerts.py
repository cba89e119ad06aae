"""Alerts are read whatever their spelling, and refused where they contradict."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import pickle
from collections.abc import Sequence
from decimal import Decimal
from itertools import product

import pytest
from hypothesis import given, strategies as st
from signed import ADDRESS, APP_ID, TX_HASH, alert_body, alert_object

from ortege_watch import DecodeError, InvalidArgument
from ortege_watch.watchbus import (
    AlertInfo,
    Alerts,
    BigAmountTxnUsd,
    EventValues,
    WireStyle,
    read_alerts,
)
from ortege_watch.watchbus.wire import encode_alerts


def decoded(**changes: object) -> AlertInfo:
    [alert] = read_alerts(alert_body(alert_object(**changes)))
    return alert


def refused(body: bytes) -> list[str]:
    with pytest.raises(DecodeError) as caught:
        read_alerts(body)
    return list(caught.value.problems)


def test_a_documented_alert_is_read():
    alert = decoded()
    assert alert.entity == ADDRESS
    assert alert.chain_id == 56
    assert alert.entity_type == "ERC20"
    assert alert.event_code == "big_amount_txn_usd"
    assert alert.timestamp == 1_699_999_990
    assert not alert.timestamp_was_milliseconds
    assert isinstance(alert.event_values, BigAmountTxnUsd)
    assert str(alert.event_values.current_value) == "123456.789000000000000001"
    assert alert.raw == alert_object()


def test_the_list_may_come_alone_and_may_be_empty():
    [alert] = read_alerts(json.dumps([alert_object()]).encode())
    assert alert == decoded()
    assert read_alerts(b"[]") == []
    assert read_alerts(b'{"alert_info_list": []}') == []
    assert read_alerts(b' { "alert_info_list" : [ ] , "more": 1 } ') == []


def test_the_list_may_be_json_text():
    listed = json.dumps([alert_object()])
    for document in ({"alert_info_list": listed}, listed):
        [alert] = read_alerts(json.dumps(document).encode())
        assert alert == decoded()
        assert alert.raw == alert_object()


def test_alerts_keep_their_order():
    objects = [alert_object(timestamp=n) for n in (3, 1, 2)]
    assert [each.timestamp for each in read_alerts(alert_body(*objects))] == [3, 1, 2]


# What the page contradicts itself in, and how it is taken.
TAKEN = {
    "chain id as int": ({"chain_id": 56}, {"chain_id": 56}),
    "chain id with zeros": ({"chain_id": "056"}, {"chain_id": 56}),
    "largest chain id": ({"chain_id": str(2**256 - 1)}, {"chain_id": 2**256 - 1}),
    "chain id zero": ({"chain_id": 0}, {"chain_id": 0}),
    "address": (
        {"watch_entity": ..., "address": ADDRESS},
        {"entity": ADDRESS},
    ),
    "entity": ({"watch_entity": ..., "entity": ADDRESS}, {"entity": ADDRESS}),
    "null is absent": (
        {"watch_entity": None, "address": ADDRESS},
        {"entity": ADDRESS},
    ),
    "two names agree": ({"address": ADDRESS.lower()}, {"entity": ADDRESS}),
    "no EVM address": ({"watch_entity": "SP3FBR2"}, {"entity": "SP3FBR2"}),
    "entity_type": (
        {"watch_entity_type": ..., "entity_type": "UNIVERSAL"},
        {"entity_type": "UNIVERSAL"},
    ),
    "two types agree": (
        {"watch_entity_type": "Universal", "entity_type": "UNIVERSAL"},
        {"entity_type": "Universal"},
    ),
    "unknown type": ({"watch_entity_type": "DAO"}, {"entity_type": "DAO"}),
    "event_code": (
        {"watch_event_code": ..., "event_code": "risk_function_call"},
        {"event_code": "risk_function_call"},
    ),
    "unknown code": ({"watch_event_code": "tomorrow"}, {"event_code": "tomorrow"}),
    "timestamp as text": ({"timestamp": "1700000000"}, {"timestamp": 1_700_000_000}),
    "milliseconds": (
        {"timestamp": 1_700_000_000_999},
        {"timestamp": 1_700_000_000, "timestamp_was_milliseconds": True},
    ),
    "milliseconds as text": (
        {"timestamp": "1700000000999"},
        {"timestamp": 1_700_000_000, "timestamp_was_milliseconds": True},
    ),
    "no values": ({"event_values": ...}, {"event_values": {}}),
    "null values": ({"event_values": None}, {"event_values": {}}),
    "other values": (
        {"event_values": {"a": [1, {"b": None}], "c": True}},
        {"event_values": {"a": [1, {"b": None}], "c": True}},
    ),
    "values as text": (
        {"event_values": '{"a": "1", "b": 0.1}'},
        {"event_values": {"a": "1", "b": Decimal("0.1")}},
    ),
    "more fields": ({"severity": "high", "raw": {"x": 1}}, {"entity": ADDRESS}),
    "quotes in values": (
        {"event_values": {"comment": 'say "so"'}},
        {"event_values": {"comment": 'say "so"'}},
    ),
}


@pytest.mark.parametrize(("changes", "fields"), TAKEN.values(), ids=TAKEN)
def test_what_has_one_clear_meaning_is_taken_and_kept_raw(changes, fields):
    alert = decoded(**changes)
    for name, value in fields.items():
        assert getattr(alert, name) == value
    assert alert.raw == alert_object(**changes)
    assert alert.timestamp_was_milliseconds == fields.get(
        "timestamp_was_milliseconds", False
    )


REFUSED = {
    "chain id bool": ({"chain_id": True}, "chain_id"),
    "chain id float": ({"chain_id": 56.0}, "chain_id"),
    "chain id text of a float": ({"chain_id": "56.0"}, "chain_id"),
    "chain id exponent": ({"chain_id": "1e3"}, "chain_id"),
    "chain id negative": ({"chain_id": -56}, "chain_id"),
    "chain id negative text": ({"chain_id": "-56"}, "chain_id"),
    "chain id too large": ({"chain_id": 2**256}, "chain_id"),
    "chain id foreign digits": ({"chain_id": "\u0665\u0666"}, "chain_id"),
    "chain id empty": ({"chain_id": ""}, "chain_id"),
    "chain id missing": ({"chain_id": ...}, "chain_id"),
    "two entities": ({"address": "0x" + "0" * 40}, "watch_entity"),
    "two entities elsewhere": (
        {"watch_entity": ..., "address": "0xa", "entity": "0xb"},
        "address",
    ),
    "entity of another type": ({"entity": 5}, "watch_entity"),
    "entity empty": ({"watch_entity": ""}, "watch_entity"),
    "entity missing": ({"watch_entity": ...}, "watch_entity"),
    "two codes": ({"event_code": "other"}, "watch_event_code"),
    "code missing": ({"watch_event_code": ...}, "watch_event_code"),
    "two types": ({"entity_type": "ERC721"}, "watch_entity_type"),
    "type missing": ({"watch_entity_type": ...}, "watch_entity_type"),
    "timestamp bool": ({"timestamp": True}, "timestamp"),
    "timestamp fraction": ({"timestamp": 1.5}, "timestamp"),
    "timestamp negative": ({"timestamp": -1}, "timestamp"),
    "timestamp of 12 digits": ({"timestamp": 170_000_000_000}, "timestamp"),
    "timestamp of 14 digits": ({"timestamp": 17_000_000_000_000}, "timestamp"),
    "timestamp missing": ({"timestamp": ...}, "timestamp"),
    "timestamp as date": ({"timestamp": "2023-11-14"}, "timestamp"),
    "values as list": ({"event_values": []}, "event_values"),
    "values as text of a list": ({"event_values": "[]"}, "event_values"),
    "values as other text": ({"event_values": "{"}, "event_values"),
    "values as text with a key twice": (
        {"event_values": '{"a": 1, "a": 2}'},
        "event_values",
    ),
}


@pytest.mark.parametrize(("changes", "field"), REFUSED.values(), ids=REFUSED)
def test_what_contradicts_or_is_missing_is_refused_with_its_path(changes, field):
    good, bad = alert_object(), alert_object(**changes)
    [problem] = refused(alert_body(good, bad))
    assert problem.startswith(f"$.alert_info_list[1].{field}: ")
    [problem] = refused(json.dumps([bad]).encode())
    assert problem.startswith(f"$[0].{field}: ")


def test_all_problems_are_told_at_once():
    body = alert_body(alert_object(chain_id=..., timestamp=...), {})
    assert [problem.partition(":")[0] for problem in refused(body)] == [
        "$.alert_info_list[0].chain_id",
        "$.alert_info_list[0].timestamp",
        "$.alert_info_list[1].watch_entity",
        "$.alert_info_list[1].chain_id",
        "$.alert_info_list[1].watch_entity_type",
        "$.alert_info_list[1].watch_event_code",
        "$.alert_info_list[1].timestamp",
    ]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"", "invalid JSON"),
        (b"{", "invalid JSON"),
        (b"\xff", "invalid JSON"),
        (b'"\\ud800"', "invalid JSON"),
        (b"9" * 10_000, "invalid JSON"),
        (b"5", "$: expected a list, got 5"),
        (b"null", "$: missing, expected a list"),
        (b"{}", "$.alert_info_list: missing, expected a list"),
        (b'{"alert_info_list": {}}', "$.alert_info_list: expected a list, got {}"),
        (b"[5]", "$[0]: expected an object, got 5"),
        (b'"text"', "$: expected a list, got 'text'"),
        (b'{"alert_info_list": "{}"}', "$.alert_info_list: expected a list, got {}"),
        (b'"[5]"', "$[0]: expected an object, got 5"),
        (b'["{}"]', "$[0]: expected an object, got '{}'"),
    ],
)
def test_another_document_is_refused(body, path):
    assert refused(body)[0].startswith(path)


def test_a_key_that_is_there_twice_is_refused_wherever_it_is():
    body = alert_body().decode()
    for old, new, path in (
        ('"chain_id": "56"', '"chain_id": "56", "chain_id": "1"', "chain_id"),
        ('"timestamp"', '"timestamp": 5, "timestamp"', "timestamp"),
        ('"chain_id"', '"chain_id": "1", "\\u0063hain_id"', "chain_id"),
        ('"tx_hash"', '"tx_hash": "0x", "tx_hash"', "event_values.tx_hash"),
        ('"tx_hash"', '"tx_hash"  : "0x", "tx_hash"', "event_values.tx_hash"),
        ('"tx_hash"', '"tx_hash": ":\\"", "tx_hash"', "event_values.tx_hash"),
    ):
        twice = body.replace(old, new, 1)
        [problem] = refused(twice.encode())
        assert problem.startswith(f"$.alert_info_list[0].{path}: the key is repeated")
    same = body.replace('"chain_id": "56"', '"chain_id": "56", "chain_id": "56"')
    assert read_alerts(same.encode()) == [decoded()]
    two_lists = body[:-1] + ', "alert_info_list": []}'
    assert refused(two_lists.encode()) == [
        "$.alert_info_list: the key is repeated with another value"
    ]


texts = st.sampled_from(
    ["", "56", "056", "56.0", "1e3", "x", '"', ":", '":', "\\", "\u0665", "9" * 80]
)
scalars = st.one_of(
    texts,
    st.integers(-(2**70), 2**70),
    st.sampled_from([0.5, 56.0, 1e30, None, True, 1_700_000_000_000]),
)
names = st.sampled_from(
    [
        *(*alert_object(), "address", "entity", "event_code", "entity_type"),
        *("raw", "_raw", "app_id", "_app_id", "more"),
    ]
)
documents = st.dictionaries(
    names,
    scalars | st.dictionaries(texts, scalars, max_size=3),
    max_size=4,
)


@given(
    changes=st.lists(documents, max_size=2),
    bare=st.booleans(),
    separators=st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : ")]),
    ascii_only=st.booleans(),
)
def test_the_short_way_comes_to_the_result_of_the_long_one(
    changes, bare, separators, ascii_only
):
    objects = [alert_object(**each) for each in changes]
    document = objects if bare else {"alert_info_list": objects}
    body = json.dumps(document, separators=separators, ensure_ascii=ascii_only).encode()

    def result(body):
        try:
            alerts = read_alerts(body, "app")
        except DecodeError as error:
            return error.problems
        fields = (*AlertInfo.__match_args__, "raw", "app_id")
        return [
            (*(getattr(each, name) for name in fields), each.to_wire())
            for each in alerts
        ]

    # One alert with an unknown field is enough for all of them to take the long way.
    objects.append(alert_object(unknown_field=1))
    longer = json.dumps(document, separators=separators, ensure_ascii=ascii_only)
    expected = result(longer.encode())
    if isinstance(expected, list):
        expected.pop()
    assert result(body) == expected


def test_the_short_way_is_taken_for_documented_alerts():
    link = alert_object(event_values={"comment": "see https://example.com: 1"})
    said = alert_object(event_values={"comment": 'he said "no"'})
    for objects, separators in product(
        ([alert_object()] * 2, [alert_object(), link], [alert_object(), said]),
        ((",", ":"), (", ", ": "), (" , ", " : ")),
    ):
        document = {"alert_info_list": objects}
        body = json.dumps(document, separators=separators).encode()
        assert all(kept_raw(each) is None for each in read_alerts(body))
    [slow] = read_alerts(alert_body(alert_object(unknown_field=1)))
    assert kept_raw(slow) == slow.raw


def kept_raw(alert):
    """Return the raw alert that an alert has; only the long way keeps it."""
    return alert.__reduce__()[1][6]


@pytest.mark.parametrize(("changes", "fields"), TAKEN.values(), ids=TAKEN)
def test_from_wire_reads_one_object_in_any_spelling(changes, fields):
    wire = json.loads(json.dumps(alert_object(**changes)))
    alert = AlertInfo.from_wire(wire)
    assert alert == decoded(**changes)
    assert alert.raw == wire
    assert alert.app_id is None


@pytest.mark.parametrize(("changes", "field"), REFUSED.values(), ids=REFUSED)
def test_from_wire_refuses_what_a_body_may_not_have(changes, field):
    with pytest.raises(DecodeError) as caught:
        AlertInfo.from_wire(alert_object(**changes))
    assert field in caught.value.problems[0]


def test_from_wire_keeps_a_copy_and_refuses_floats():
    wire = alert_object()
    alert = AlertInfo.from_wire(wire)
    wire["event_values"]["tx_hash"] = wire["chain_id"] = "1"
    assert alert == decoded()
    assert alert.raw == alert_object()
    inexact = alert_object(event_values={"current_value": 0.5})
    with pytest.raises(DecodeError, match=r"event_values\.current_value: .*Decimal"):
        AlertInfo.from_wire(inexact)
    with pytest.raises(InvalidArgument, match="wire must be a mapping"):
        AlertInfo.from_wire([alert_object()])


def test_to_wire_is_the_documented_form():
    values = {"amount": Decimal("1E+3"), "n": 5, "comment": None, "more": [1, None]}
    alert = AlertInfo(ADDRESS, 56, "erc20", "own", 5, values)
    assert alert.to_wire() == {
        "watch_entity": ADDRESS,
        "chain_id": "56",
        "watch_entity_type": "ERC20",
        "watch_event_code": "own",
        "timestamp": 5,
        "event_values": {"amount": "1000", "n": "5", "more": [1, None]},
    }
    assert decoded().to_wire() == alert_object()
    again = AlertInfo.from_wire(alert.to_wire())
    assert again.dedupe_key("app") == alert.dedupe_key("app")
    spelt = decoded(watch_entity=..., address=ADDRESS, chain_id="056", more=1)
    assert spelt.to_wire() == alert_object()


VALUES = alert_object()["event_values"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"watch_entity_type": "erc20"},
        {"watch_entity_type": "of tomorrow"},
        {"chain_id": "056"},
        {"event_values": {**VALUES, "block_number": 1, "more": [True]}},
    ],
)
def test_what_is_sent_is_to_wire(changes):
    alert = decoded(**changes)
    assert json.loads(encode_alerts([alert])) == {"alert_info_list": [alert.to_wire()]}


@pytest.mark.parametrize("changes", [{}, {"chain_id": 56}])
def test_alerts_know_the_app_that_sent_them(changes):
    [alert] = read_alerts(alert_body(alert_object(**changes)), "app")
    [unknown] = read_alerts(alert_body(alert_object(**changes)))
    assert (alert.app_id, unknown.app_id, OWN.app_id) == ("app", None, None)
    assert alert == unknown
    assert hash(alert) == hash(unknown)
    assert alert.to_wire() == unknown.to_wire()
    for again in (copy.copy(alert), copy.deepcopy(alert), _pickled(alert)):
        assert again.app_id == "app"
    with pytest.raises(AttributeError):
        alert.app_id = "other"


def _pickled(value):
    return pickle.loads(pickle.dumps(value))


def test_the_alerts_of_a_request_are_a_sequence_with_its_app():
    alerts = Alerts([OWN, OWN], "app")
    assert (len(alerts), alerts[1], alerts[:1]) == (2, OWN, (OWN,))
    assert alerts == (OWN, OWN)
    assert isinstance(alerts, Sequence)
    assert repr(Alerts([], "app")) == "Alerts([], app_id='app')"
    for again in (copy.copy(alerts), copy.deepcopy(alerts), _pickled(alerts)):
        assert (again, again.app_id, type(again)) == (alerts, "app", Alerts)
    with pytest.raises(AttributeError):
        alerts.app_id = "other"
    with pytest.raises(TypeError):
        alerts[0] = OWN


@pytest.mark.parametrize("body", ["[]", None, bytearray(b"[]"), [alert_object()]])
def test_only_bytes_are_read(body):
    with pytest.raises(InvalidArgument, match="body must be the bytes that arrived"):
        read_alerts(body)


OWN = AlertInfo(
    entity=ADDRESS,
    chain_id=56,
    entity_type="ERC20",
    event_code="big_amount_txn_usd",
    timestamp=1_699_999_990,
    event_values=alert_object()["event_values"],
)


@pytest.mark.parametrize(
    "value",
    [
        None,
        0,
        -1,
        10**60,
        Decimal("1.50"),
        Decimal("1E+5"),
        True,
        "1",
        [None],
        {"a": 1},
    ],
)
def test_an_alert_is_equal_to_what_its_wire_form_is_read_as(value):
    own = AlertInfo(f"0x{1:040x}", 56, "ERC20", "x", 5, {"value": value})
    read = AlertInfo.from_wire(own.to_wire())
    assert own == read
    assert hash(own) == hash(read)
    assert own.dedupe_key("app") == read.dedupe_key("app")


@pytest.mark.parametrize(
    ("one", "other"), [(1, True), (Decimal("1.5"), Decimal("1.50"))]
)
def test_alerts_that_are_sent_with_other_values_differ(one, other):
    first, second = (
        AlertInfo(f"0x{1:040x}", 56, "ERC20", "x", 5, {"value": value})
        for value in (one, other)
    )
    assert first != second
    assert first.dedupe_key("app") != second.dedupe_key("app")


def test_an_own_alert_is_equal_to_the_same_one_that_came():
    came = decoded()
    assert came == OWN
    assert (came != OWN) is False
    assert hash(came) == hash(OWN)
    assert OWN.raw == alert_object()
    assert decoded(watch_entity=ADDRESS.lower(), watch_entity_type="erc20") == OWN
    assert decoded(event_values={}) != OWN
    assert decoded(chain_id="1") != OWN
    assert alert_object() != OWN
    given = AlertInfo(ADDRESS, 56, "ERC20", "x", 5, EventValues(a="b"), {"any": "raw"})
    assert given.raw == {"any": "raw"}
    assert given.event_values == {"a": "b"}
    assert AlertInfo(ADDRESS, 56, "ERC20", "x", 5).event_values == {}


def test_an_alert_matches_patterns_and_is_copied():
    match decoded():
        case AlertInfo(entity, 56, event_values=BigAmountTxnUsd(tx_hash=tx_hash)):
            assert (entity, tx_hash) == (ADDRESS, TX_HASH)
        case other:
            pytest.fail(f"{other!r} is no such alert")
    for alert in (decoded(), decoded(chain_id=56), OWN):
        assert copy.deepcopy(alert) == alert
        again = pickle.loads(pickle.dumps(alert))
        assert again == alert
        assert again.raw == alert.raw


def test_the_private_fields_of_an_alert_are_not_read():
    for changes in ({"_app_id": "other"}, {"_raw": {"x": "y"}}, {"_app_id": None}):
        [alert] = read_alerts(alert_body(alert_object(**changes)), "app")
        assert (alert.app_id, alert.raw) == ("app", alert_object(**changes))
        assert alert == decoded()


def test_the_class_says_how_it_is_called():
    names = [*AlertInfo.__match_args__, "raw"]
    assert list(inspect.signature(AlertInfo).parameters) == names
    with pytest.raises(TypeError, match="event_code"):
        AlertInfo(ADDRESS, 56, "ERC20")


def test_an_alert_that_was_received_can_be_sent():
    [received] = read_alerts(alert_body(), "app")
    assert encode_alerts([received, OWN]) == encode_alerts([OWN, OWN])
    assert received.app_id == "app"


def test_an_alert_shows_its_fields_and_does_not_change():
    shown = repr(decoded())
    assert shown.startswith(f"AlertInfo(entity='{ADDRESS}', chain_id=56, ")
    assert "event_values=BigAmountTxnUsd({'cmc_slug': 'tether'" in shown
    for name in (*AlertInfo.__match_args__, "raw", "more"):
        with pytest.raises(AttributeError):
            setattr(OWN, name, 5)
    OWN.raw["chain_id"] = "1"
    assert OWN.chain_id == 56


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("entity", ""),
        ("entity", 5),
        ("chain_id", "0x38"),
        ("chain_id", True),
        ("chain_id", -1),
        pytest.param("chain_id", 10**5000, id="huge chain id"),
        ("entity_type", None),
        ("event_code", ""),
        ("timestamp", 1_700_000_000_000),
        pytest.param("timestamp", 10**5000, id="huge timestamp"),
        ("timestamp", 1.5),
        ("timestamp", True),
        ("timestamp", -1),
        ("event_values", [("a", "b")]),
        ("event_values", "text"),
    ],
)
def test_an_own_alert_with_a_wrong_field_is_refused(field, value):
    values = (ADDRESS, 56, "ERC20", "x", 5, {})
    fields = dict(zip(AlertInfo.__match_args__, values, strict=True))
    with pytest.raises(InvalidArgument) as caught:
        AlertInfo(**{**fields, field: value})
    assert str(caught.value).startswith(f"{field} must be ")


def test_values_of_another_code_are_refused():
    """An amount in dollars would be sent as one in tokens."""
    fields = {"block_number": 1, "tx_hash": "0x1", "current_value": 5}
    usd = BigAmountTxnUsd(fields, cmc_slug="tether")
    with pytest.raises(InvalidArgument) as caught:
        AlertInfo(ADDRESS, 56, "ERC20", "big_amount_txn", 5, usd)
    assert str(caught.value).startswith(
        "event_code must be 'big_amount_txn_usd' with BigAmountTxnUsd, got"
    )
    for code, values in (
        ("big_amount_txn_usd", usd),
        ("big_amount_txn", EventValues(fields)),
        ("big_amount_txn", dict(usd)),
    ):
        sent = AlertInfo(ADDRESS, 56, "ERC20", code, 5, values)
        assert dict(sent.event_values) == dict(values)


def test_the_dedupe_key_is_stable():
    # Written down: it must be the same in every process, release and machine.
    key = "7db74b7a02281bbc1384a387ce6611b187197cab20dd6a5609786ad6920b9f32"
    assert decoded().dedupe_key(APP_ID) == OWN.dedupe_key(APP_ID) == key


def test_the_dedupe_key_can_be_computed_without_this_library():
    document = {
        "app_id": APP_ID,
        "chain_id": "56",
        "watch_entity": ADDRESS.lower(),
        "watch_event_code": OWN.event_code,
        "timestamp": OWN.timestamp,
        "event_values": dict(sorted(VALUES.items())),
    }
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    assert OWN.dedupe_key(APP_ID) == hashlib.sha256(text.encode()).hexdigest()


def test_the_dedupe_key_of_nested_values_can_be_computed_without_this_library():
    """Numbers and nulls in nested values are not changed, and names are in order."""
    values = {
        "amount": 7,
        "absent": None,
        "more": {"z": [1, None, {"b": "\x1f\n", "a": "é/"}], "null": None, "a": 2},
    }
    listed = (
        r'{"amount":"7","more":{"a":2,"null":null,'
        r'"z":[1,null,{"a":"é/","b":"\u001f\n"}]}}'
    )
    start = (
        f'{{"app_id":"{APP_ID}","chain_id":"56","watch_entity":"{ADDRESS.lower()}",'
        f'"watch_event_code":"new_code","timestamp":{OWN.timestamp},"event_values":'
    )
    key = hashlib.sha256(f"{start}{listed}}}".encode()).hexdigest()
    alert = AlertInfo(ADDRESS, 56, "ERC20", "new_code", OWN.timestamp, values)
    assert alert.dedupe_key(APP_ID) == key
    [received] = read_alerts(encode_alerts([alert]))
    assert received.dedupe_key(APP_ID) == key


@pytest.mark.parametrize("values", [{"q": "1"}, {"q": 1}, {"q": "1", "l": [{"a": 1}]}])
def test_a_change_of_raw_changes_nothing_else(values):
    wire = {**OWN.to_wire(), "watch_event_code": "new_code", "event_values": values}
    body = json.dumps([wire]).encode()
    for alert in (AlertInfo.from_wire(wire), *read_alerts(body)):
        before, key = alert.to_wire(), alert.dedupe_key("app")
        raw = alert.raw
        raw["event_values"]["q"] = "2"
        raw["event_values"].get("l", []).append(5)
        raw["timestamp"] = 0
        assert alert.raw == wire
        assert alert.to_wire() == before
        assert alert.dedupe_key("app") == key


def change(values):
    """Change everything in the values of an alert that can be changed."""
    values["l"][0]["a"].append("c")
    values["l"].append("d")
    values["o"]["p"] = "e"


NESTED = {"q": "1", "l": [{"a": ["b"]}], "o": {"p": {}}}


def nested_wire():
    wire = {**OWN.to_wire(), "watch_event_code": "x", "event_values": NESTED}
    return copy.deepcopy(wire)


@pytest.mark.parametrize(
    "make",
    [
        AlertInfo.from_wire,
        lambda wire: read_alerts(json.dumps([wire]).encode())[0],
        lambda wire: AlertInfo(
            *(wire["watch_entity"], 56, wire["watch_entity_type"], "x"),
            *(wire["timestamp"], wire["event_values"], wire),
        ),
    ],
)
def test_lists_and_objects_among_the_values_of_an_alert_cannot_be_changed(make):
    wire = nested_wire()
    alert = make(wire)
    key = alert.dedupe_key("app")
    change(wire["event_values"])
    change(alert.event_values)
    change(dict(alert.event_values.items()))
    change(alert.to_wire()["event_values"])
    assert alert.event_values == NESTED
    assert alert.to_wire() == alert.raw == nested_wire()
    assert alert.dedupe_key("app") == key


def test_values_that_were_not_sent_yet_cannot_be_changed_either():
    given = copy.deepcopy(NESTED)
    values = EventValues(given)
    change(given)
    change(values)
    assert values == NESTED


def test_values_that_contain_themselves_are_refused():
    endless = []
    endless.append(endless)
    for make in (lambda: EventValues(q=endless), lambda: alert_with(q=endless)):
        with pytest.raises(InvalidArgument, match="nested too deeply"):
            make()


def alert_with(**values):
    return AlertInfo(ADDRESS, 56, "ERC20", "x", OWN.timestamp, values)


@pytest.mark.parametrize(
    "changes",
    [
        {"watch_entity": ADDRESS.lower()},
        {"watch_entity": ..., "address": ADDRESS.upper()},
        {"chain_id": 56},
        {"chain_id": "056"},
        {"watch_entity_type": "ERC721"},
        {"timestamp": 1_699_999_990_123},
        {"event_values": dict(reversed(VALUES.items()))},
        {"event_values": {**VALUES, "comment": None}},
        {"event_values": {**VALUES, "block_number": int(VALUES["block_number"])}},
        {"more": "fields"},
    ],
)
def test_dedupe_key_of_the_same_alert_is_the_same(changes):
    assert decoded(**changes).dedupe_key(APP_ID) == decoded().dedupe_key(APP_ID)


@pytest.mark.parametrize(
    "changes",
    [
        {"watch_entity": "0x" + "0" * 40},
        {"chain_id": "1"},
        {"watch_event_code": "big_amount_txn"},
        {"timestamp": 1_699_999_991},
        {"event_values": {**VALUES, "tx_hash": "0x"}},
        {"event_values": {**VALUES, "current_value": "123456.789"}},
        {"event_values": {**VALUES, "comment": "second transfer"}},
        {"event_values": {**VALUES, "log_index": 1}},
        {"event_values": {}},
        {"event_values": {"last_value": "1"}},
    ],
)
def test_dedupe_key_of_another_alert_is_another(changes):
    assert decoded(**changes).dedupe_key(APP_ID) != decoded().dedupe_key(APP_ID)
    assert decoded().dedupe_key(APP_ID) != decoded().dedupe_key("other")


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.decimals(allow_nan=False, allow_infinity=False)
        | st.text("ab", max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3)
        ),
        max_leaves=10,
    ).map(lambda value: {"value": value, "tx_hash": TX_HASH}),
    st.booleans(),
)
def test_dedupe_key_of_sender_and_receiver_is_the_same(values, as_int):
    """Whatever the values are, their order and the style that they are sent in."""
    own = AlertInfo(ADDRESS, 56, "ERC20", "own", 5, values)
    style = WireStyle(chain_id_as_int=as_int, bare_lists=as_int)
    [received] = read_alerts(encode_alerts([own], style))
    assert received.dedupe_key("app") == own.dedupe_key("app")
    turned = AlertInfo(ADDRESS, 56, "ERC20", "own", 5, _turned(values))
    assert turned.dedupe_key("app") == own.dedupe_key("app")


@pytest.mark.parametrize(
    "value", [0.5, pytest.param(10**5000, id="huge"), Decimal("NaN"), [0.5], "\ud800"]
)
def test_values_without_an_exact_form_in_json_have_no_dedupe_key(value):
    alert = AlertInfo(ADDRESS, 56, "ERC20", "own", 5, {"value": value})
    for act in (lambda: alert.dedupe_key("app"), lambda: encode_alerts([alert])):
        with pytest.raises(InvalidArgument, match=r"^alert"):
            act()


def _turned(value):
    """Return a value whose mappings, also inner ones, have the opposite order."""
    if isinstance(value, dict):
        return {name: _turned(each) for name, each in reversed(value.items())}
    return [_turned(each) for each in value] if isinstance(value, list) else value


def test_a_received_alert_knows_the_sender_of_its_key():
    [received] = read_alerts(alert_body(), APP_ID)
    assert received.dedupe_key() == received.dedupe_key(APP_ID)
    assert received.dedupe_key("other") != received.dedupe_key()
    with pytest.raises(InvalidArgument, match="has no app_id: pass that of its sender"):
        OWN.dedupe_key()


def test_a_wrong_argument_is_an_error_of_the_class_that_was_called():
    with pytest.raises(TypeError, match=r"AlertInfo.*unexpected keyword.*'chain'"):
        AlertInfo(chain=56)
