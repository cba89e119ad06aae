"""The bodies and answers of each endpoint, in both directions.

What is sent has the names, types and spellings of the specification; what is received
may have any spelling that the specification uses.

Every ``encode_...`` raises :class:`InvalidArgument` with the path of what cannot be sent,
every ``decode_...`` raises :class:`DecodeError` whose problems have paths.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, Final

from attrs import frozen

from ortege_watch import _json as codec
from ortege_watch._checks import check_int, check_list, check_match, shown
from ortege_watch.errors import (
    DecodeError,
    InvalidArgument,
    WatchBusError,
)
from ortege_watch.watchbus.models import (
    AlertInfo,
    EntityInfo,
    Subscription,
    SubscriptionPage,
    SupportedEvent,
    WatchEvent,
    as_text,
    encode_alert,
    encode_documented,
    spelling_of,
)
from ortege_watch.watchbus.reading import (
    ADDRESS,
    COUNT,
    LARGEST,
    NUMBER,
    STRING,
    STRINGS,
    TEXT,
    Entry,
    Kind,
    Problems,
    read_json,
    read_list,
)

# Undocumented: where an error has its text. All are read, the first is written.
_REASONS: Final = ("error_data", "errorData", "message", "msg")


class ResultCode(StrEnum):
    """The documented result codes; compared as strings."""

    OK = "000000000"
    SERVER_ERROR = "000001"
    RATE_LIMIT = "000002"
    UNKNOWN_APP = "000003"
    HEADER_MISSING = "000004"
    SIGNATURE_ERROR = "000005"


class Contradiction(WatchBusError):
    """Raised when the status and the code of an answer contradict each other."""


class UnreadableAnswer(DecodeError):
    """Raised when an answer to alerts is JSON that cannot be decoded.

    It may be an error of the server that is cut off or wrongly encoded, so it neither
    acknowledges the alerts nor says that a setting is wrong.
    """


def ok_answer(data: object = None) -> bytes:
    """Encode the answer to a request that succeeded."""
    answer = {"status": "OK", "code": ResultCode.OK.value, "data": data}
    return codec.dump_bytes(answer)


def error_answer(code: ResultCode, reason: str) -> bytes:
    """Encode the answer to a request that failed."""
    answer = {"status": "ERROR", "code": code.value, "data": None, _REASONS[0]: reason}
    return codec.dump_bytes(answer)


def read_answer(body: bytes, status: int) -> Any:
    """Return the ``data`` of an answer; without an envelope its HTTP status decides.

    Raises:
        WatchBusError: an error, or its status and code contradict each other.
        DecodeError: a success without an envelope.
    """
    is_success = 200 <= status < 300
    try:
        envelope = read_json(body.removeprefix(BOM_UTF8))
    except DecodeError as error:
        if is_success:
            raise
        raise _http_error(status, body) from error
    fields = envelope if isinstance(envelope, dict) else {}
    if fields.get("code") is not None or isinstance(fields.get("status"), str):
        return _data(fields, status, is_success=is_success)
    if is_success:
        problem = "$: expected an object with status and code"
        raise DecodeError(problem, excerpt=codec.excerpt(body))
    raise _http_error(status, body)


def _http_error(status: int, body: bytes) -> WatchBusError:
    excerpt = codec.excerpt(body).strip()
    problem = f"HTTP status {status}" + (f": {excerpt}" if excerpt else "")
    return WatchBusError(problem, status=status)


def _data(envelope: dict[str, Any], status: int, *, is_success: bool) -> Any:
    """Return the data of an envelope that has a code or a status."""
    code, word = envelope.get("code"), envelope.get("status")
    if isinstance(code, int) and not isinstance(code, bool):
        code = f"{code:06d}"  # errors have six digits
    elif code is not None and not isinstance(code, str):
        code = shown(code)  # not a documented code, and so not a success
    votes = {is_success if code is None else not code.strip("0")}
    if isinstance(word, str):
        votes.add(word.casefold() == "ok")
    if votes == {True}:
        return envelope.get("data")
    reasons = (envelope.get(name) for name in _REASONS)
    reason = next((each for each in reasons if isinstance(each, str)), None)
    summary = ", ".join(
        f"{name} {codec.excerpt(str(sent))}"
        for name, sent in (("status", word), ("code", code))
        if sent is not None
    )
    if reason:
        summary += f": {codec.excerpt(reason)}"
    if True in votes:
        problem = f"the answer contradicts itself ({summary})"
        raise Contradiction(problem, code=code, reason=reason, status=status)
    raise WatchBusError(summary, code=code, reason=reason, status=status)


MAX_PAGE_SIZE: Final = 50


@frozen(kw_only=True)
class WireStyle:
    """The parts of a request that the specification writes in two ways.

    By default ``chain_id`` is a string, as in the specification's examples, and a list
    is in an object, as in its tables.

    Attributes:
        chain_id_as_int: send ``56``, as in the tables, instead of ``"56"``.
        bare_lists: send only the list, as in the examples, instead of an object.
    """

    chain_id_as_int: bool = False
    bare_lists: bool = False


DOCUMENTED: Final = WireStyle()


@frozen(kw_only=True)
class PageRequest:
    """The page of subscriptions that is requested.

    Attributes:
        page_index: counted from 1.
        page_size: the number of entries of a full page, at most 50.
    """

    page_index: int = 1
    page_size: int = MAX_PAGE_SIZE

    @property
    def offset(self) -> int:
        """The number of entries before this page."""
        return (self.page_index - 1) * self.page_size

    def select(self, subscriptions: Sequence[Subscription]) -> SubscriptionPage:
        """Return this page of a list that has all the subscriptions."""
        return SubscriptionPage(
            subscriptions=tuple(subscriptions[self.offset :][: self.page_size]),
            page_index=self.page_index,
            page_size=self.page_size,
            total=len(subscriptions),
        )


def entities_to_wire(
    entities: Iterable[EntityInfo], style: WireStyle = DOCUMENTED
) -> list[dict[str, Any]]:
    """Check entities, and return them in the form of requests and answers."""
    wire: list[dict[str, Any]] = []
    for i, each in enumerate(entities):
        _check_address(f"entities[{i}].entity", each.entity)
        chain_id = each.chain_id if style.chain_id_as_int else str(each.chain_id)
        wire.append(
            {
                "entity": each.entity,
                "chain_id": chain_id,
                "entity_type": spelling_of(each.entity_type),
                "event_code": each.event_code,
            }
        )
    return wire


def encode_entities(
    wire: Sequence[dict[str, Any]], style: WireStyle = DOCUMENTED
) -> bytes:
    """Encode the body of subscribe and unsubscribe."""
    return codec.dump_bytes(wire if style.bare_lists else {"entity_list": wire})


def decode_entities(body: bytes) -> list[EntityInfo]:
    """Decode the body of subscribe and unsubscribe."""
    return read_list(read_json(body), "entity_list", _entity)


def watch_result_data(
    entities: Iterable[EntityInfo], style: WireStyle = DOCUMENTED
) -> dict[str, Any]:
    """Return the data of an answer that lists the entities that succeeded."""
    return {"watch_result": entities_to_wire(entities, style)}


def decode_watch_result(data: object) -> list[EntityInfo | str]:
    """Decode the data of the answer to subscribe and unsubscribe.

    An entry may be an address alone; a list that is ``null`` is empty.
    """
    if isinstance(data, dict) and data.get("watch_result", data) is None:
        return []
    return read_list(data, "watch_result", _entity_or_address, "$.data", or_text=True)


def encode_page_request(
    entities: Sequence[str] | None = None,
    page_index: int = 1,
    page_size: int = MAX_PAGE_SIZE,
) -> bytes:
    """Encode the body of subscriptions/list; ``None`` requests all entities."""
    wire: dict[str, Any] = {}
    if entities is not None:
        wire["entity_list"] = addresses = check_list("entities", entities, str)
        for i, entity in enumerate(addresses):
            _check_address(f"entities[{i}]", entity)
    check_int("page_index", page_index, last=LARGEST)
    expected = f"an int from 1 to {MAX_PAGE_SIZE}"
    check_int("page_size", page_size, expected, last=MAX_PAGE_SIZE)
    wire |= {"page_index": page_index, "page_size": page_size}
    return codec.dump_bytes(wire)


def decode_page_request(
    body: bytes, largest: int = MAX_PAGE_SIZE
) -> tuple[tuple[str, ...] | None, PageRequest]:
    """Decode the body of subscriptions/list: addresses (``None`` for all) and the page.

    An empty body requests the first page. A page has at most ``largest`` entries.
    """
    problems = Problems()
    entry = Entry(read_json(body) if body else {}, "$", problems)
    addresses = entry.optional(STRINGS, "entity_list") or None
    page_index = entry.optional(_PAGE_INDEX, "page_index") or 1
    page_size = entry.optional(_PAGE_SIZE, "page_size") or MAX_PAGE_SIZE
    problems.refuse(codec.excerpt(body))
    page = PageRequest(page_index=page_index, page_size=min(page_size, largest))
    return addresses, page


def subscription_page_data(page: SubscriptionPage) -> dict[str, Any]:
    """Return the data of an answer with one page of subscriptions."""
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
    """Decode the data of an answer with one page of subscriptions."""
    problems = Problems()
    entry = Entry(data, "$.data", problems)
    page = SubscriptionPage(
        subscriptions=tuple(map(_subscription, entry.entries("subscription_list"))),
        page_index=entry.required(COUNT, "page_index"),
        page_size=entry.required(COUNT, "page_size"),
        total=entry.required(COUNT, "total"),
    )
    problems.refuse()
    return page


def supported_events_data(events: Iterable[SupportedEvent]) -> list[dict[str, Any]]:
    """Return the data of an answer with the supported events."""
    return [
        {
            name: value
            for name, value in (
                ("event_code", each.event_code),
                ("support_entity_type_list", list(each.entity_types)),
                ("mini_threshold", as_text(each.mini_threshold)),
                ("trigger_frequency", each.trigger_frequency),
                ("event_description", each.description),
            )
            if value is not None
        }
        for each in events
    ]


def decode_supported_events(data: object) -> list[SupportedEvent]:
    """Decode the data of the answer to event/list."""
    return read_list(data, None, _supported_event, "$.data")


def encode_each(alerts: Sequence[AlertInfo], style: WireStyle) -> list[bytes]:
    """Encode alerts, each on its own; numbers among the values become strings, exactly.

    They are the argument ``alerts`` of the caller.
    """
    encoded = None if style.chain_id_as_int else encode_documented(alerts)
    if encoded is None:
        encoded = [_encode_checked(each, i, style) for i, each in enumerate(alerts)]
    return encoded


def _encode_checked(alert: AlertInfo, number: int, style: WireStyle) -> bytes:
    if not style.chain_id_as_int and (encoded := encode_documented([alert])):
        return encoded[0]
    path = f"alerts[{number}]"
    _check_address(f"{path}.entity", alert.entity)
    for name, problem in alert.event_values.problems():
        raise InvalidArgument(f"{path}.event_values.{name}: {problem}")
    return encode_alert(alert, path, chain_id_as_int=style.chain_id_as_int)


def alerts_body(encoded: Iterable[bytes], style: WireStyle) -> bytes:
    """Return the body of alert from encoded alerts."""
    start, end = (b"[", b"]") if style.bare_lists else (b'{"alert_info_list":[', b"]}")
    return b"%b%b%b" % (start, b",".join(encoded), end)


def encode_alerts(alerts: Iterable[AlertInfo], style: WireStyle = DOCUMENTED) -> bytes:
    """Encode the body of alert."""
    listed = check_list("alerts", alerts, AlertInfo)
    return alerts_body(encode_each(listed, style), style)


def _identifier(value: object) -> str | None:
    """Return an id as a string; providers send integers, too."""
    is_int = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if is_int else TEXT.read(value)


def _page_index(value: object) -> int | None:
    return COUNT.read(value) or None


def _page_size(value: object) -> int | None:
    size = _page_index(value)
    return None if size is None or size > MAX_PAGE_SIZE else size


_ID: Final = Kind(_identifier, "a non-empty string or an integer", "?")
_PAGE_INDEX: Final = Kind(_page_index, "a positive integer", 1)
_PAGE_SIZE: Final = Kind(_page_size, f"an integer from 1 to {MAX_PAGE_SIZE}", 1)


def _entity(entry: Entry) -> EntityInfo:
    return EntityInfo(
        entry.required(TEXT, "entity", "watch_entity", "address", fold=str.lower),
        entry.required(COUNT, "chain_id"),
        entry.required(TEXT, "entity_type", "watch_entity_type", fold=str.casefold),
        entry.required(TEXT, "event_code", "watch_event_code"),
    )


def _entity_or_address(entry: Entry) -> EntityInfo | str:
    return _entity(entry) if entry.text is None else entry.text


def _subscription(entry: Entry) -> Subscription:
    events = tuple(map(_watch_event, entry.entries("watch_event_list")))
    names = ("watch_entity", "entity", "address")
    entity = entry.required(TEXT, *names, fold=str.lower)
    return Subscription(entity=entity, events=events, raw=entry.raw)


def _watch_event(entry: Entry) -> WatchEvent:
    return WatchEvent(
        watch_id=entry.required(_ID, "watch_id"),
        event_code=entry.required(TEXT, "event_code", "watch_event_code"),
    )


def _supported_event(entry: Entry) -> SupportedEvent:
    return SupportedEvent(
        event_code=entry.required(TEXT, "event_code", "watch_event_code"),
        entity_types=entry.required(STRINGS, "support_entity_type_list"),
        mini_threshold=entry.optional(NUMBER, "mini_threshold"),
        trigger_frequency=entry.raw.get("trigger_frequency"),
        description=entry.optional(STRING, "event_description"),
        raw=entry.raw,
    )


def is_address(entity: str) -> bool:
    """Return whether a string is an address, ``0x`` and 40 hex digits."""
    return ADDRESS.fullmatch(entity) is not None


def _check_address(path: str, entity: str) -> None:
    check_match(path, entity, ADDRESS, "an address, 0x and 40 hex digits")
