"""The bodies and answers of each endpoint, in both directions.

What is sent has the names, types and spellings that the page documents, and nothing
else is let out; what is taken may have any of the spellings that the page uses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, cast

from attrs import frozen

from ortege_watch import _json as codec
from ortege_watch.errors import (
    DecodeError,
    QueryError,
    SignatureError,
    SignatureReason,
    WatchBusError,
)
from ortege_watch.watchbus.fields import Entry, Problems, number, read_json, shown
from ortege_watch.watchbus.models import (
    AlertInfo,
    EntityInfo,
    Subscription,
    SubscriptionPage,
    SupportedEvent,
    WatchEvent,
    decode_alerts,
)

__all__ = [
    "MAX_PAGE_SIZE",
    "REFUSALS",
    "Contradiction",
    "PageRequest",
    "ResultCode",
    "WireStyle",
    "decode_alerts",
    "decode_entities",
    "decode_page_request",
    "decode_subscription_page",
    "decode_supported_events",
    "decode_watch_result",
    "encode_alerts",
    "encode_entities",
    "encode_page_request",
    "error_answer",
    "ok_answer",
    "read_answer",
    "refusal",
    "subscription_page_data",
    "supported_events_data",
    "watch_result_data",
]

# -------------------- The envelope of every answer: ``{"status": ..., "code": ..., "data": ...}``.
#
# A code is text and is compared as text: ``000000000`` is success, errors have six digits.
# Which HTTP status goes with which code is documented nowhere; ours are in
# :data:`REFUSALS`. Where the text of an error stands is open as well: we read four places
# and write the first.


_REASONS: Final = ("error_data", "errorData", "message", "msg")


class ResultCode(StrEnum):
    """The documented result codes."""

    OK = "000000000"
    SERVER_ERROR = "000001"
    RATE_LIMIT = "000002"
    UNKNOWN_APP = "000003"
    HEADER_MISSING = "000004"
    SIGNATURE_ERROR = "000005"


class Contradiction(WatchBusError):
    """Report an answer whose status and code contradict each other."""


_BAD: Final = ResultCode.SIGNATURE_ERROR
_HEADERS: Final = "headers can not be null or empty"

REFUSALS: Final[Mapping[SignatureReason, tuple[int, ResultCode, str]]] = {
    SignatureReason.MISSING_HEADER: (401, ResultCode.HEADER_MISSING, _HEADERS),
    SignatureReason.MALFORMED_HEADER: (401, ResultCode.HEADER_MISSING, _HEADERS),
    SignatureReason.MALFORMED_TIMESTAMP: (401, _BAD, "timestamp has illegal"),
    SignatureReason.EXPIRED: (401, _BAD, "timestamp is expired"),
    SignatureReason.IN_THE_FUTURE: (401, _BAD, "timestamp is expired"),
    SignatureReason.MALFORMED_NONCE: (401, _BAD, "nonce is illegal"),
    SignatureReason.UNKNOWN_APP: (401, ResultCode.UNKNOWN_APP, "invalid appid"),
    SignatureReason.BAD_SIGNATURE: (401, _BAD, "invalid signature"),
    SignatureReason.REPLAY: (401, _BAD, "replay request"),
    SignatureReason.BODY_TOO_LARGE: (413, ResultCode.SERVER_ERROR, "body too large"),
    SignatureReason.QUERY_PRESENT: (400, _BAD, "a query cannot be signed"),
    SignatureReason.OTHER_PATH: (404, ResultCode.SERVER_ERROR, "not found"),
    SignatureReason.NONCES_FULL: (429, ResultCode.RATE_LIMIT, "too many requests"),
}
"""HTTP status, code and text of the answer to a request that is not accepted.

The codes are the documented ones, and so are the texts where the page has one; it has
no code for a body that is too large or for another path, so those are server errors.
"""


def ok_answer(data: object = None) -> bytes:
    """Write the answer to a request that succeeded.

    Raises:
        InvalidArgument: the data has no exact JSON form.
    """
    answer = {"status": "OK", "code": ResultCode.OK.value, "data": data}
    return codec.dumps(answer).encode()


def error_answer(code: ResultCode, reason: str) -> bytes:
    """Write the answer to a request that failed."""
    answer = {
        "status": "ERROR",
        "code": code.value,
        "data": None,
        _REASONS[0]: reason,
    }
    return codec.dumps(answer).encode()


def refusal(error: SignatureError) -> tuple[int, bytes]:
    """Return the HTTP status and the body that answer a refused request."""
    status, code, reason = REFUSALS[error.reason]
    return status, error_answer(code, reason)


def read_answer(body: bytes, status: int) -> Any:
    """Read an answer; an envelope decides, and the HTTP status where there is none.

    Args:
        body: the answer's bytes.
        status: the HTTP status that they came with.

    Returns:
        The ``data`` of a success.

    Raises:
        WatchBusError: the answer says no, or its status and code contradict each other.
        DecodeError: a success that is no envelope.
    """
    try:
        envelope = read_json(body)
    except DecodeError as error:
        if _fine(status):
            raise
        raise _http_error(status, body) from error
    match envelope:
        case {"code": code} if code is not None:
            return _judge(envelope, status)
        case {"status": str()}:
            return _judge(envelope, status)
        case _ if _fine(status):
            problem = "$: neither status nor code: this is no answer of the watch-bus"
            raise DecodeError(problem, excerpt=codec.excerpt(body))
        case _:
            raise _http_error(status, body)


def _fine(status: int) -> bool:
    return 200 <= status < 300


def _http_error(status: int, body: bytes) -> WatchBusError:
    said = codec.excerpt(body)
    return WatchBusError(f"HTTP status {status}: {said}", status=status)


def _judge(envelope: dict[str, Any], status: int) -> Any:
    code, word = _code(envelope.get("code")), envelope.get("status")
    votes = {_fine(status) if code is None else not code.strip("0")}
    if isinstance(word, str):
        votes.add(word.casefold() == "ok")
    if votes == {True}:
        return envelope.get("data")
    said = f"status {shown(word)}, code {shown(code)}"
    reasons = (envelope.get(name) for name in _REASONS)
    reason = next((each for each in reasons if isinstance(each, str)), None)
    if reason is not None:
        said += f": {shown(reason)}"
    kind = WatchBusError
    if True in votes:
        kind, said = Contradiction, f"the answer contradicts itself ({said})"
    raise kind(said, code=code, reason=reason, status=status)


def _code(given: object) -> str | None:
    """Keep the text of a code; an int gets the six digits that errors have."""
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, int) and not isinstance(given, bool):
        return f"{given:06d}"
    return shown(given)  # no code that is documented, and so no success


MAX_PAGE_SIZE: Final = 50

_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")
_SPELLINGS: Final = {
    spelling.casefold(): spelling
    for spelling in (
        *("ERC20", "ERC721", "ERC777", "ERC1155", "ERC4626"),
        *("Universal", "Unverified", "EOA"),
    )
}


@frozen(kw_only=True)
class WireStyle:
    """Choose between the two forms that the page shows for what is sent.

    Attributes:
        chain_id_as_int: send ``56`` (the tables) and not ``"56"`` (every example).
        bare_lists: send the list alone (the examples) and not in an object (the
            tables).
    """

    chain_id_as_int: bool = False
    bare_lists: bool = False


DOCUMENTED: Final = WireStyle()


@frozen(kw_only=True)
class PageRequest:
    """Hold what a request for subscriptions asks for.

    Attributes:
        entities: addresses; ``None`` for all.
        page_index: counted from 1.
        page_size: at most 50.
    """

    entities: tuple[str, ...] | None = None
    page_index: int = 1
    page_size: int = MAX_PAGE_SIZE


# --------------------------------------------------------------------------- entities
def encode_entities(
    entities: Iterable[EntityInfo], style: WireStyle = DOCUMENTED
) -> bytes:
    """Write the body of subscribe and unsubscribe.

    Raises:
        QueryError: there is no entity, or one cannot be sent; the message has its path.
    """
    wire = [
        _entity_to_wire(each, f"entity_list[{i}]", style)
        for i, each in enumerate(entities)
    ]
    return _body("entity_list", wire, style)


def decode_entities(body: bytes) -> list[EntityInfo]:
    """Read the body of subscribe and unsubscribe.

    Raises:
        DecodeError: it is something else; the problems have the paths.
    """
    return _read(read_json(body), "entity_list", _entity, "$")


def watch_result_data(
    entities: Iterable[EntityInfo], style: WireStyle = DOCUMENTED
) -> dict[str, Any]:
    """Make the data of an answer that lists the entities that succeeded.

    Raises:
        QueryError: an entity cannot be sent.
    """
    wire = [
        _entity_to_wire(each, f"watch_result[{i}]", style)
        for i, each in enumerate(entities)
    ]
    return {"watch_result": wire}


def decode_watch_result(data: object) -> list[EntityInfo]:
    """Read the data of the answer to subscribe and unsubscribe.

    Raises:
        DecodeError: it is something else; the problems have the paths.
    """
    return _read(data, "watch_result", _entity, "$.data")


# ---------------------------------------------------------------------- subscriptions
def encode_page_request(
    entities: Sequence[str] | None = None,
    page_index: int = 1,
    page_size: int = MAX_PAGE_SIZE,
) -> bytes:
    """Write the body of subscriptions/list; ``None`` asks for all entities.

    Raises:
        QueryError: an address is none, the list is empty, or a number is out of range.
    """
    wire: dict[str, Any] = {}
    if isinstance(entities, str):
        raise QueryError("entities: give a list of addresses, not one string")
    if entities is not None:
        if not entities:
            raise QueryError("entities: an empty list means all; leave it out for that")
        for i, entity in enumerate(entities):
            _check_address(f"entity_list[{i}]", entity)
        wire["entity_list"] = list(entities)
    _check_range("page_index", page_index, None)
    _check_range("page_size", page_size, MAX_PAGE_SIZE)
    wire |= {"page_index": page_index, "page_size": page_size}
    return codec.dumps(wire).encode()


def decode_page_request(body: bytes) -> PageRequest:
    """Read the body of subscriptions/list; an empty one asks for the first page.

    Raises:
        DecodeError: it is something else; the problems have the paths.
    """
    problems = Problems()
    entry = Entry(read_json(body) if body else {}, "$", problems)
    listed = entry.raw.get("entity_list")
    entities = () if listed is None else _texts(entry, "entity_list")
    numbers = {
        name: entry.count(name)
        for name in ("page_index", "page_size")
        if entry.raw.get(name) is not None
    }
    for name, value in numbers.items():
        if value < 1 or (name == "page_size" and value > MAX_PAGE_SIZE):
            entry.wrong(name, f"{shown(value)} is out of range")
    problems.refuse(codec.excerpt(body))
    return PageRequest(entities=entities or None, **numbers)


def subscription_page_data(page: SubscriptionPage) -> dict[str, Any]:
    """Make the data of an answer with one page of subscriptions."""
    return {
        "subscription_list": [
            {
                "watch_entity": each.entity,
                "watch_event_list": [
                    {"watch_id": event.watch_id, "event_code": event.event_code}
                    for event in each.events
                ],
            }
            for each in page.subscriptions
        ],
        "page_index": page.page_index,
        "page_size": page.page_size,
        "total": page.total,
    }


def decode_subscription_page(data: object) -> SubscriptionPage:
    """Read the data of an answer with one page of subscriptions.

    Raises:
        DecodeError: it is something else; the problems have the paths.
    """
    problems = Problems()
    entry = Entry(data, "$.data", problems)
    listed = entry.raw.get("subscription_list")
    path = "$.data.subscription_list"
    page = SubscriptionPage(
        subscriptions=tuple(map(_subscription, problems.entries(listed, path))),
        page_index=entry.count("page_index"),
        page_size=entry.count("page_size"),
        total=entry.count("total"),
    )
    problems.refuse()
    return page


# ------------------------------------------------------------------- supported events
def supported_events_data(events: Iterable[SupportedEvent]) -> list[dict[str, Any]]:
    """Make the data of an answer with the supported events."""
    return [
        {
            name: value
            for name, value in (
                ("event_code", each.event_code),
                ("support_entity_type_list", list(each.entity_types)),
                ("mini_threshold", _plain(each.mini_threshold)),
                ("trigger_frequency", each.trigger_frequency),
                ("event_description", each.description),
            )
            if value is not None
        }
        for each in events
    ]


def decode_supported_events(data: object) -> list[SupportedEvent]:
    """Read the data of the answer to event/list.

    Raises:
        DecodeError: it is something else; the problems have the paths.
    """
    problems = Problems()
    events = [_supported_event(entry) for entry in problems.entries(data, "$.data")]
    problems.refuse()
    return events


# ----------------------------------------------------------------------------- alerts
def encode_alerts(alerts: Iterable[AlertInfo], style: WireStyle = DOCUMENTED) -> bytes:
    """Write the body of alert; numbers among the values become text, exactly.

    Raises:
        QueryError: there is no alert, or one cannot be sent; the message has its path.
    """
    wire = [
        _alert_to_wire(each, f"alert_info_list[{i}]", style)
        for i, each in enumerate(alerts)
    ]
    return _body("alert_info_list", wire, style)


# ---------------------------------------------------------------------------- reading
Read = Callable[[Entry], Any]


def _read(value: object, key: str, read: Read, path: str) -> list[Any]:
    if isinstance(value, dict):
        value, path = value.get(key), f"{path}.{key}"
    problems = Problems()
    found = [read(entry) for entry in problems.entries(value, path)]
    problems.refuse()
    return found


def _entity(entry: Entry) -> EntityInfo:
    return EntityInfo(
        entry.text("entity", "watch_entity", "address", same=str.lower),
        entry.count("chain_id"),
        entry.text("entity_type", "watch_entity_type", same=str.casefold),
        entry.text("event_code", "watch_event_code"),
    )


def _subscription(entry: Entry) -> Subscription:
    listed = entry.raw.get("watch_event_list")
    events = entry.problems.entries(listed, f"{entry.path}.watch_event_list")
    return Subscription(
        entity=entry.text("watch_entity", "entity", "address", same=str.lower),
        events=tuple(map(_watch_event, events)),
        raw=entry.raw,
    )


def _watch_event(entry: Entry) -> WatchEvent:
    given = entry.raw.get("watch_id")
    whole = isinstance(given, int) and not isinstance(given, bool)
    return WatchEvent(
        watch_id=str(given) if whole else entry.text("watch_id"),
        event_code=entry.text("event_code", "watch_event_code"),
    )


def _supported_event(entry: Entry) -> SupportedEvent:
    threshold = entry.raw.get("mini_threshold")
    if threshold is not None and number(threshold) is None:
        entry.wrong("mini_threshold", f"{shown(threshold)} is no number")
    description = entry.raw.get("event_description")
    if description is not None and not isinstance(description, str):
        entry.wrong("event_description", "a text is expected")
    return SupportedEvent(
        event_code=entry.text("event_code", "watch_event_code"),
        entity_types=_texts(entry, "support_entity_type_list"),
        mini_threshold=number(threshold),
        trigger_frequency=entry.raw.get("trigger_frequency"),
        description=description,
        raw=entry.raw,
    )


def _texts(entry: Entry, name: str) -> tuple[str, ...]:
    value = entry.raw.get(name)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(cast("list[str]", value))
    entry.wrong(name, f"a list of texts is expected, not {shown(value)}")
    return ()


# ---------------------------------------------------------------------------- writing
def _body(key: str, wire: list[dict[str, Any]], style: WireStyle) -> bytes:
    if not wire:
        raise QueryError(f"{key}: there is nothing to send; give at least one")
    return codec.dumps(wire if style.bare_lists else {key: wire}).encode()


def _entity_to_wire(info: EntityInfo, path: str, style: WireStyle) -> dict[str, Any]:
    _check_address(f"{path}.entity", info.entity)
    return {
        "entity": info.entity,
        "chain_id": info.chain_id if style.chain_id_as_int else str(info.chain_id),
        "entity_type": _spelt(info.entity_type),
        "event_code": info.event_code,
    }


def _alert_to_wire(alert: AlertInfo, path: str, style: WireStyle) -> dict[str, Any]:
    _check_address(f"{path}.entity", alert.entity)
    values = alert.event_values
    for name, problem in values.problems():
        raise QueryError(f"{path}.event_values.{name}: {problem}")
    return {
        "watch_entity": alert.entity,
        "chain_id": alert.chain_id if style.chain_id_as_int else str(alert.chain_id),
        "watch_entity_type": _spelt(alert.entity_type),
        "watch_event_code": alert.event_code,
        "timestamp": alert.timestamp,
        "event_values": {
            name: _plain(value) for name, value in values.items() if value is not None
        },
    }


def _plain(value: Any) -> Any:
    """Turn a number into text, exactly, mostly without exponent; leave the rest."""
    match value:
        case Decimal() if value.is_finite():
            return format(value, "f") if abs(value.adjusted()) < 1000 else str(value)
        case int() if not isinstance(value, bool):
            return str(value)
        case _:
            return value


def _spelt(entity_type: str) -> str:
    return _SPELLINGS.get(entity_type.casefold(), entity_type)


def _check_address(path: str, entity: object) -> None:
    if not isinstance(entity, str) or _ADDRESS.fullmatch(entity) is None:
        raise QueryError(f"{path}: {shown(entity)} is no address: 0x and 40 hex digits")


def _check_range(name: str, value: object, last: int | None) -> None:
    whole = value if isinstance(value, int) and not isinstance(value, bool) else 0
    if whole < 1 or (last is not None and whole > last):
        limit = f" to {last}" if last else ""
        raise QueryError(
            f"{name}: {shown(value)} is out of range: give an int from 1{limit}"
        )
