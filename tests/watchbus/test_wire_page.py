"""Every JSON fragment of the page about the specification does what its column says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import attrs
import pytest
from signed import ADDRESS

from ortege_watch import OrtegeWatchError
from ortege_watch.watchbus import (
    AlertInfo,
    EntityInfo,
    Subscription,
    SubscriptionPage,
    SupportedEvent,
    WatchEvent,
    WatchResult,
    WireStyle,
    read_alerts,
    wire,
)

PAGE = Path(__file__).parents[2] / "docs" / "watchbus-wire.md"
ENTITY = EntityInfo(ADDRESS, 56, "Universal", "price_fall")
VALUES = {"amount": Decimal("1.5"), "block_number": 7}
ALERT = AlertInfo(ADDRESS, 56, "ERC20", "price_fall", 1_700_000_000, VALUES)
OTHER_STYLE = WireStyle(chain_id_as_int=True, bare_lists=True)


@attrs.frozen
class Row:
    table: str
    name: str
    send: list[str]
    take: list[str]
    refuse: list[str]


def rows() -> Iterator[Row]:
    for section in PAGE.read_text("utf-8").split("\n## ")[1:]:
        table = section.partition("\n")[0]
        for line in re.findall(r"^\| (.+) \|$", section, re.MULTILINE)[1:]:
            name, _, *columns = re.split(r" \| ?", line)
            if len(columns) == 3:
                yield Row(table, name.strip("`"), *map(fragments, columns))


def fragments(column: str) -> list[str]:
    spans = re.findall(r"`([^`]+)`", column)
    return [each for each in spans if each[0] in '"{[' or each in {"TEXT", "null"}]


def written(fragment: str, listed: object) -> str:
    """Put the real values into a fragment."""
    text = re.sub(r"\bTEXT\b", lambda _: json.dumps(json.dumps([listed])), fragment)
    text = re.sub(r"\b(ENTITY|ALERT)\b", lambda _: json.dumps(listed), text)
    return text.replace("0x…", ADDRESS)


def fields(known: dict[str, object], name: str, fragment: str) -> bytes:
    """Write an object with a fragment in place of one field."""
    rest = {key: value for key, value in known.items() if key != name}
    return f"[{{{json.dumps(rest)[1:-1]}, {written(fragment, None)}}}]".encode()


def meaning(alerts: list[AlertInfo]) -> object:
    """Two alerts are the same if a receiver takes the second as a resend."""
    return [(each.dedupe_key("app"), each.entity_type.casefold()) for each in alerts]


def entities(body: bytes) -> object:
    return wire.decode_entities(body)


def alerts(body: bytes) -> object:
    return meaning(read_alerts(body))


def data(read: Callable[[object], object]) -> Callable[[bytes], object]:
    """Read data of a response, which arrives in an envelope."""
    return lambda body: read(wire.read_answer(b'{"code": 0, "data": %b}' % body, 200))


def watch_result(answered: object) -> object:
    return WatchResult.compare([ENTITY], wire.decode_watch_result(answered))


SUBSCRIPTIONS = SubscriptionPage(
    (Subscription(ADDRESS, (WatchEvent("7", "price_fall"),)),), 1, 50, 1
)
EVENT = SupportedEvent("price_fall", ("ERC20",), Decimal("0.005"))
[ENTITY_WIRE] = wire.entities_to_wire([ENTITY])

# By the first column: how a document is read, and the documents that are sent.
DOCUMENTS: dict[str, tuple[Callable[[bytes], object], list[object], object]] = {
    "subscribe, unsubscribe": (
        entities,
        [
            wire.encode_entities(wire.entities_to_wire([ENTITY], style), style)
            for style in (WireStyle(), WireStyle(bare_lists=True))
        ],
        ENTITY_WIRE,
    ),
    "alert": (
        alerts,
        [
            wire.encode_alerts([ALERT], style)
            for style in (WireStyle(), WireStyle(bare_lists=True))
        ],
        ALERT.to_wire(),
    ),
    "subscriptions/list": (
        wire.decode_page_request,
        [wire.encode_page_request([ADDRESS])],
        ADDRESS,
    ),
    "event/list": (wire.read_answer, [], None),
    "success": (lambda body: wire.read_answer(body, 200), [wire.ok_answer()], None),
    "watch_result": (
        data(watch_result),
        [wire.watch_result_data([ENTITY])],
        ENTITY_WIRE,
    ),
    "responses subscriptions/list": (
        data(wire.decode_subscription_page),
        [wire.subscription_page_data(SUBSCRIPTIONS)],
        None,
    ),
    "responses event/list": (
        data(wire.decode_supported_events),
        [wire.supported_events_data([EVENT])],
        None,
    ),
}

ALL = list(rows())


def by_fields(row: Row) -> bool:
    return row.table in {"An entity", "An alert"}


def document_of(row: Row) -> tuple[Callable[[bytes], object], list[object], object]:
    return DOCUMENTS.get(f"{row.table.lower()} {row.name}") or DOCUMENTS[row.name]


def test_the_page_has_every_field_and_message():
    found = {(row.table, row.name) for row in ALL}
    for table, known in (("An entity", ENTITY_WIRE), ("An alert", ALERT.to_wire())):
        assert {(table, name) for name in known} <= found
    named = {row.name for row in ALL if not by_fields(row)}
    assert named == {key.removeprefix("responses ") for key in DOCUMENTS}
    assert sum(len(row.take) + len(row.refuse) for row in ALL) > 80


@pytest.mark.parametrize(
    "row", [row for row in ALL if by_fields(row)], ids=lambda row: row.name
)
def test_fields_are_sent_taken_and_refused_as_the_page_says(row):
    if row.table == "An entity":
        read, known = entities, ENTITY_WIRE
        other = wire.entities_to_wire([ENTITY], OTHER_STYLE)[0]
    else:
        read, known = alerts, ALERT.to_wire()
        other = json.loads(wire.encode_alerts([ALERT], OTHER_STYLE))[0]
    for fragment in row.send:
        sent = json.loads(f"{{{written(fragment, None)}}}")[row.name]
        assert sent in (known[row.name], other[row.name])
    expected = read(json.dumps([known]).encode())
    for fragment in (*row.send, *row.take):
        assert read(fields(known, row.name, fragment)) == expected, fragment
    for fragment in row.refuse:
        with pytest.raises(OrtegeWatchError):
            read(fields(known, row.name, fragment))


@pytest.mark.parametrize(
    "row",
    [row for row in ALL if not by_fields(row)],
    ids=lambda row: f"{row.table} {row.name}",
)
def test_documents_are_sent_taken_and_refused_as_the_page_says(row):
    read, sent, listed = document_of(row)
    as_json = [json.loads(x) if isinstance(x, bytes) else x for x in sent]
    assert [json.loads(written(each, listed)) for each in row.send] == as_json
    for fragment in row.take:
        body = written(fragment, listed).encode()
        expected = read(json.dumps(as_json[0]).encode())
        assert read(body) == expected, fragment
    for fragment in row.refuse:
        with pytest.raises(OrtegeWatchError):
            read(written(fragment, listed).encode())
