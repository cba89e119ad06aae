"""The data of the watch-bus: entities, subscriptions, supported events and alerts.

A class accepts whatever is unambiguous, because answers are read with it; what is
stricter, such as the form of an address, is checked in ``wire.py`` before sending.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    TypeAlias,
    cast,
    final,
)

import msgspec
from attrs import field, frozen

from ortege_watch import _json as codec
from ortege_watch._checks import check_int, check_kind, check_list, check_text, shown
from ortege_watch.errors import DecodeError, InvalidArgument, printable
from ortege_watch.watchbus.events import EventValues, copied, copy_of, kind_of
from ortege_watch.watchbus.reading import (
    ADDRESS,
    COUNT,
    LAST_SECONDS,
    NUMBER,
    OBJECT,
    SECONDS,
    TEXT,
    Entry,
    Problems,
    read_json,
    read_list,
)


def _check_fields(entity: object, entity_type: object, event_code: object) -> None:
    check_text("entity", entity)
    check_text("entity_type", entity_type)
    check_text("event_code", event_code)


def _chain_id(value: int | str) -> int:
    found = COUNT.read(value)
    if found is None:
        expected = "a non-negative int or its digits, such as 56"
        raise InvalidArgument(f"chain_id must be {expected}, got {shown(value)}")
    return int(found)


@frozen
class EntityInfo:
    """An entity to watch, and the event to watch for.

    Two are equal if they mean the same: the case of the address and of the type does
    not count.

    Attributes:
        entity: the address, ``0x`` and 40 hex digits.
        chain_id: the chain's number, such as 56; its digits are accepted, too.
        entity_type: ``ERC20``, ``ERC721``, ``ERC777``, ``ERC1155``, ``ERC4626``,
            ``Universal``, ``Unverified``, or one that the specification does not list.
        event_code: such as ``big_amount_txn``; the set is open.

    Raises:
        InvalidArgument: a field is empty or of another type.
    """

    entity: str = field(eq=str.lower)
    chain_id: int = field(converter=_chain_id)
    entity_type: str = field(eq=str.casefold)
    event_code: str

    def __attrs_post_init__(self) -> None:
        """Check the fields."""
        _check_fields(self.entity, self.entity_type, self.event_code)


@frozen
class WatchResult:
    """The entities that a provider accepted; its answer lists successes only.

    Attributes:
        succeeded: entities of the request that are in the answer.
        missing: entities of the request that are not in the answer: they failed.
        unexpected: entities of the answer that are not in the request; addresses, if
            the answer has only those.
        unanswered: entities of requests without an answer; empty except in the result
            that an error carries.
    """

    succeeded: tuple[EntityInfo, ...]
    missing: tuple[EntityInfo, ...]
    unexpected: tuple[EntityInfo | str, ...]
    unanswered: tuple[EntityInfo, ...] = ()

    @classmethod
    def compare(
        cls,
        asked: Iterable[EntityInfo],
        answered: Iterable[EntityInfo | str],
        unanswered: Iterable[EntityInfo] = (),
    ) -> WatchResult:
        """Compare a request with its answer; an entity that repeats counts once.

        An address in the answer stands for all entities of the request that have it.
        """
        wanted = dict.fromkeys(asked)
        found = dict.fromkeys(with_addresses(wanted, answered))
        return cls(
            succeeded=tuple(each for each in wanted if each in found),
            missing=tuple(each for each in wanted if each not in found),
            unexpected=tuple(each for each in found if each not in wanted),
            unanswered=tuple(unanswered),
        )


def with_addresses(
    asked: Iterable[EntityInfo], answered: Iterable[EntityInfo | str]
) -> Iterator[EntityInfo | str]:
    """Yield what was answered, and for an address the entities that were asked there."""
    by_address: dict[str, list[EntityInfo]] = {}
    for each in asked:
        by_address.setdefault(each.entity.lower(), []).append(each)
    for found in answered:
        if isinstance(found, str):
            yield from by_address.get(found.lower(), [found])
        else:
            yield found


@frozen
class WatchEvent:
    """One event of a subscription.

    Attributes:
        watch_id: the provider's id of it.
        event_code: such as ``big_amount_txn``.
    """

    watch_id: str
    event_code: str


@frozen
class Subscription:
    """The events that are watched at one entity.

    A provider's list has neither chain nor entity type, so it is not enough for an
    unsubscribe: keep the :class:`EntityInfo` of the subscribe.

    Attributes:
        entity: the address.
        events: the events.
        raw: the entry as it was received.
    """

    entity: str
    events: tuple[WatchEvent, ...]
    raw: Mapping[str, Any] = field(factory=dict[str, Any], eq=False, repr=False)


@frozen
class SubscriptionPage:
    """One page of a provider's subscriptions.

    Attributes:
        subscriptions: the entries of this page.
        page_index: counted from 1.
        page_size: the number of entries of a full page.
        total: the number of entries of all pages.
    """

    subscriptions: tuple[Subscription, ...]
    page_index: int
    page_size: int
    total: int


@frozen
class SupportedEvent:
    """An event that a provider can watch for.

    Attributes:
        event_code: such as ``big_amount_txn``.
        entity_types: the kinds of entity, as the provider spells them.
        mini_threshold: the smallest value that causes an alert, or ``None``.
        trigger_frequency: in the provider's own form, which JSON must be able to represent
            exactly; or ``None``.
        description: the provider's description, or ``None``.
        raw: the entry as it was received; what it says is kept, whatever it is.

    Raises:
        InvalidArgument: a field is empty or of another type.
    """

    event_code: str
    entity_types: tuple[str, ...]
    mini_threshold: Decimal | None = None
    trigger_frequency: Any = None
    description: str | None = None
    raw: Mapping[str, Any] = field(factory=dict[str, Any], eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        """Check the fields of an own event."""
        if self.raw:
            return
        check_text("event_code", self.event_code)
        types: object = self.entity_types
        if not isinstance(types, tuple):
            advice = f": write ({types!r},)" if isinstance(types, str) else ""
            rule = "entity_types must be a tuple of strings"
            raise InvalidArgument(f"{rule}, got {shown(types)}{advice}")
        for i, each in enumerate(check_list("entity_types", types, str)):
            check_text(f"entity_types[{i}]", each)
        threshold: object = self.mini_threshold
        is_number = (
            isinstance(threshold, int | Decimal) and Decimal(threshold).is_finite()
        )
        if threshold is not None and (not is_number or isinstance(threshold, bool)):
            rule = "mini_threshold must be a finite Decimal or None"
            raise InvalidArgument(f"{rule}, got {shown(threshold)}")
        check_kind("description", self.description, str | None, "a string or None")
        # What cannot be sent would fail at the first request that lists the events.
        for name in ("event_code", "trigger_frequency", "description"):
            codec.dump_bytes(getattr(self, name), name)
        codec.dump_bytes(list(types), "entity_types")


_COLON, _QUOTE = b':"'
_BY_FIELDS: Final[Mapping[str, Any]] = {}
"""The ``raw`` of a new alert with values that are not strings: it is made on access."""


class _Key(msgspec.Struct, gc=False):
    """The JSON whose SHA-256 is a dedupe key; its end is that of the encoded alert."""

    app_id: str
    chain_id: str
    watch_entity: str  # in lower case
    watch_event_code: str
    timestamp: int
    event_values: Mapping[str, str]


_sha256: Final = hashlib.sha256
_AFTER_TYPE: Final = b'"watch_event_code":'
"""Where the part of an encoded alert begins that its dedupe key covers as it is.

It is found once: a quote in a string is written with a backslash before it.
"""


_FIELDS: Final = (
    *("entity", "chain_id", "entity_type", "event_code", "timestamp"),
    "event_values",
)


class _CheckedCall(msgspec.StructMeta):
    """The metaclass of alerts: to call the class checks the arguments.

    msgspec does not call it, and allows a struct no ``__init__``.
    """

    __match_args__ = _FIELDS

    def __call__(
        self,
        entity: str,
        chain_id: int | str,
        entity_type: str,
        event_code: str,
        timestamp: int,
        event_values: Mapping[str, Any] | None = None,
        raw: Mapping[str, Any] | None = None,
    ) -> AlertInfo:
        _check_fields(entity, entity_type, event_code)
        expected = "an int of unix seconds, not milliseconds"
        check_int("timestamp", timestamp, expected, first=0, last=LAST_SECONDS)
        check_kind("event_values", event_values, Mapping | None, "a mapping")
        if isinstance(event_values, EventValues):
            _check_code(event_values, event_code)
        return _create(
            entity,
            _chain_id(chain_id),
            entity_type,
            event_code,
            int(timestamp),
            copy_of(event_values or {}),
            None if raw is None else copy_of(raw),
        )

    __call__.__qualname__ = "AlertInfo.__init__"  # in the TypeError of a wrong argument

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(partial(_CheckedCall.__call__, self))


def _check_code(values: EventValues, event_code: str) -> None:
    if values.code not in {None, event_code}:
        name = type(values).__name__
        raise InvalidArgument(
            f"event_code must be {values.code!r} with {name}, got {event_code!r}: use"
            " the class of that code, or a mapping"
        )


_NonEmpty: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]


# Nearly every alert has the documented names with strings as values. msgspec creates
# the AlertInfo of such an alert in one step: no Python code runs for a field that is not
# accessed. The tolerant reader defines the result: the fast one must return the same or
# give up. An alert whose ``_raw`` is None has this form.
@final
class AlertInfo(
    msgspec.Struct,
    metaclass=_CheckedCall,
    gc=False,
    eq=False,
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """An event at a watched entity.

    Two alerts are equal if they are sent as the same: ``raw``, the case of the address
    and that of the type do not count; ``1`` and ``"1"`` are the same value.

    Args:
        entity: the address, ``0x`` and 40 hex digits.
        chain_id: the chain's number, such as 56; its digits are accepted, too.
        entity_type: such as ``ERC20``, as it was received.
        event_code: such as ``big_amount_txn``; the set is open.
        timestamp: the time of the event, in unix seconds.
        event_values: the details. Numbers are ints, Decimals or strings, never floats.
        raw: the alert as it was received; by default the documented form.

    Raises:
        InvalidArgument: a field is empty, out of range or of another type, or
            ``event_values`` is of the class of another code.
    """

    _entity: _NonEmpty = msgspec.field(name="watch_entity")
    _chain_id: Annotated[str, msgspec.Meta(max_length=77)] = msgspec.field(
        name="chain_id"
    )
    """In digits, without zeros before them."""
    _entity_type: _NonEmpty = msgspec.field(name="watch_entity_type")
    _event_code: _NonEmpty = msgspec.field(name="watch_event_code")
    _timestamp: Annotated[int, msgspec.Meta(ge=0, le=LAST_SECONDS)] = msgspec.field(
        name="timestamp"
    )
    _values: dict[str, str] = msgspec.field(name="event_values")
    _raw: Mapping[str, Any] | None = None
    _app_id: str | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            entity: str,
            chain_id: int | str,
            entity_type: str,
            event_code: str,
            timestamp: int,
            event_values: Mapping[str, Any] | None = None,
            raw: Mapping[str, Any] | None = None,
        ) -> None: ...

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> AlertInfo:
        """Return the alert that a JSON object is, in any documented spelling.

        Use :func:`read_alerts` for the body of a request.

        Args:
            wire: the object; its numbers are int, Decimal or strings, never float.
                ``raw`` is a copy of it.

        Raises:
            DecodeError: a field is missing, invalid or contradicts another one.
        """
        check_kind("wire", wire, Mapping, "a mapping, such as a JSON object")
        try:
            copied = codec.loads(codec.dumps(wire))
        except InvalidArgument as error:
            raise DecodeError(str(error)) from error
        problems = Problems()
        alert = _alert(Entry(copied, "$", problems))
        problems.refuse()
        return alert

    def to_wire(self) -> dict[str, Any]:
        """Return the alert as a JSON object with the documented names and types.

        The chain id and all numbers among the values are strings, exactly; values that
        are ``None`` are left out. :meth:`from_wire` reads it.
        """
        return {
            "watch_entity": self._entity,
            "chain_id": self._chain_id,
            "watch_entity_type": spelling_of(self._entity_type),
            "watch_event_code": self._event_code,
            "timestamp": self._timestamp,
            "event_values": self._values_as_text(),
        }

    @property
    def app_id(self) -> str | None:
        """The app that sent the alert, if a verifier has received it, else ``None``.

        It is not sent, and two alerts are equal whoever sent them.
        """
        return self._app_id

    @property
    def entity(self) -> str:
        """The address as it was received."""
        return self._entity

    @property
    def chain_id(self) -> int:
        """The chain's number."""
        return int(self._chain_id)

    @property
    def entity_type(self) -> str:
        """The kind of entity as it was received."""
        return self._entity_type

    @property
    def event_code(self) -> str:
        """The code of the event, such as ``big_amount_txn``."""
        return self._event_code

    @property
    def timestamp(self) -> int:
        """The time of the event, in unix seconds."""
        return self._timestamp

    @property
    def timestamp_was_milliseconds(self) -> bool:
        """Whether the sender gave 13 digits, against the specification."""
        given = None if self._raw is None else self._raw.get("timestamp")
        found = SECONDS.read(given)
        return found is not None and found != NUMBER.read(given)

    @property
    def event_values(self) -> EventValues:
        """The details: of the code's class, else a plain :class:`EventValues`."""
        return kind_of(self._event_code).view(self._values)

    @property
    def raw(self) -> Mapping[str, Any]:
        """The alert as it was received; a copy, which is made on access."""
        if self._raw is not None and self._raw is not _BY_FIELDS:
            return copy_of(self._raw)
        return {
            "watch_entity": self._entity,
            "chain_id": self._chain_id,
            "watch_entity_type": self._entity_type,
            "watch_event_code": self._event_code,
            "timestamp": self._timestamp,
            "event_values": msgspec.to_builtins(self._values),
        }

    def dedupe_key(self, app_id: str | None = None) -> str:
        """Return a key that is the same for the same alert; alerts have no id.

        Args:
            app_id: the sender; by default :attr:`app_id`, which a received alert has.

        Returns:
            64 hex digits, the SHA-256 of the app id, the chain, the address in lower
            case, the code, the timestamp and all values. It is the same in every
            process, whatever the order of the values and the spelling of the alert:
            ``1`` and ``"1"`` are the same value, as they are for the typed fields.

        Raises:
            InvalidArgument: JSON cannot represent a value, or ``app_id`` is missing.
        """
        if app_id is None and (app_id := self.app_id) is None:
            problem = "the alert was not received and has no app_id"
            raise InvalidArgument(f"{problem}: pass that of its sender")
        if self._raw is None:
            where = self._chain_id, self._entity.lower(), self._event_code
            parts = _Key(app_id, *where, self._timestamp, self._values)
            try:
                return _sha256(codec.encode_sorted(parts)).hexdigest()
            except (TypeError, *codec.UNREADABLE):
                pass
        [key] = dedupe_keys([self], [encode_alert(self, "alert")], app_id)
        return key

    def _values_as_text(self) -> dict[str, Any]:
        """Return the values as they are sent: numbers as strings, and no ``None``."""
        # Those of a received alert are strings, those of a new one may be others.
        values = cast("Mapping[str, Any]", self._values)
        return {
            name: value if type(value) is str else as_text(value)
            for name, value in values.items()
            if value is not None
        }

    def _identity(self) -> tuple[object, ...]:
        entity_type = self.entity_type.casefold()
        where = (self.entity.lower(), self.chain_id, entity_type)
        return (*where, self.event_code, self.timestamp)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AlertInfo):
            return NotImplemented
        if self._identity() != other._identity():
            return False
        return self._values_as_text() == other._values_as_text()

    __ne__ = object.__ne__  # that of msgspec compares identities

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        fields = (f"{name}={getattr(self, name)!r}" for name in _FIELDS)
        return f"AlertInfo({', '.join(fields)})"

    def __reduce__(self) -> tuple[object, ...]:
        raw = None if self._raw is _BY_FIELDS else self._raw
        what = self._entity_type, self._event_code, self._timestamp, self._values
        return _create, (self._entity, self._chain_id, *what, raw, self._app_id)


def _create(
    entity: str,
    chain_id: int | str,
    entity_type: str,
    event_code: str,
    timestamp: int,
    values: Mapping[str, Any],
    raw: Mapping[str, Any] | None,
    app_id: str | None = None,
) -> AlertInfo:
    """Return an alert with these fields, which were checked before."""
    if raw is None and not codec.has_strings(values):
        raw = _BY_FIELDS
    where, what = (entity, str(chain_id), entity_type), (event_code, timestamp, values)
    new: Callable[..., AlertInfo] = msgspec.StructMeta.__call__
    return new(AlertInfo, *where, *what, raw, app_id)


class _Body(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    alert_info_list: list[AlertInfo]


_decode: Final = msgspec.json.Decoder(_Body | list[AlertInfo]).decode


_MOST_BITS: Final = 14_000
"""A little less than 4300 digits, which are the most that Python writes."""

_SPELLINGS: Final = {
    spelling.casefold(): spelling
    for spelling in (
        *("ERC20", "ERC721", "ERC777", "ERC1155", "ERC4626"),
        *("Universal", "Unverified", "EOA"),
    )
}


def spelling_of(entity_type: str) -> str:
    """Return the documented spelling of an entity type; an unknown one is unchanged."""
    return _SPELLINGS.get(entity_type.casefold(), entity_type)


def encode_documented(alerts: Sequence[AlertInfo]) -> list[bytes] | None:
    """Encode alerts together; ``None`` if one of them has to be checked on its own.

    None has to if all values are strings and valid, as those of nearly every alert are.
    """
    app_ids, entities, types = set[str | None](), set[str](), set[str]()
    values: dict[str, list[Mapping[str, str]]] = {}
    for each in alerts:
        if each._raw is not None:
            return None
        app_ids.add(each._app_id)
        entities.add(each._entity)
        types.add(each._entity_type)
        values.setdefault(each._event_code, []).append(each._values)
    are_addresses = all(map(ADDRESS.fullmatch, entities))
    if not are_addresses or types != set(map(spelling_of, types)):
        return None
    for code, listed in values.items():
        if not kind_of(code).accept(listed):
            return None
    if app_ids != {None}:  # which are not sent
        alerts = list(map(copy.copy, alerts))
        for each in alerts:
            each._app_id = None
    try:
        return codec.encode_lines(alerts).splitlines()
    except (TypeError, *codec.UNREADABLE):
        return None


def encode_alert(
    alert: AlertInfo, path: str, *, chain_id_as_int: bool = False
) -> bytes:
    """Encode an alert in the documented form; an error begins with ``path``."""
    wire = alert.to_wire()
    values = wire.pop("event_values")
    if chain_id_as_int:
        wire["chain_id"] = alert.chain_id
    listed = codec.dump_bytes(
        values,
        f"{path}.event_values",
        sort_keys=True,
        is_exact=codec.has_strings(values),
    )
    return b'%b,"event_values":%b}' % (
        codec.dump_bytes(wire, path, is_exact=True)[:-1],
        listed,
    )


def dedupe_keys(
    alerts: Iterable[AlertInfo], encoded: Iterable[bytes], app_id: str
) -> list[str]:
    """Return the dedupe keys of alerts, which were encoded before."""
    # Alerts of one entity begin alike, and so do their keys.
    begins: dict[tuple[str, str, str], tuple[bytes, int]] = {}
    keys: list[str] = []
    for alert, data in zip(alerts, encoded, strict=True):
        place = alert._chain_id, alert._entity, alert._entity_type
        begin = begins.get(place)
        if begin is None:
            begin = _key_start(app_id, alert), data.index(_AFTER_TYPE)
            begins[place] = begin
        start, end = begin
        keys.append(_sha256(start + data[end:]).hexdigest())
    return keys


def shown_alert(alert: AlertInfo, key: str, app_id: str = "") -> str:
    """Return what log lines call an alert, the same for its sender and its receiver.

    ``key`` is its dedupe key, which tells alerts of one entity apart. A receiver passes
    the app that sent it, too.
    """
    what = f"{alert.event_code[:100]} at {alert.entity[:100]}"
    sender = f", from app {app_id}" if app_id else ""
    return f"{printable(what)} on chain {alert.chain_id} ({key[:12]}){sender}"


def _key_start(app_id: str, alert: AlertInfo) -> bytes:
    """Return what replaces the beginning of an encoded alert in its dedupe key."""
    names = _Key.__struct_fields__[:3]
    parts = app_id, alert._chain_id, alert._entity.lower()
    fields = dict(zip(names, parts, strict=True))
    start = codec.dump_bytes(fields, "alert", is_exact=True)
    return start[:-1] + b","


def as_text(value: Any) -> Any:
    """Return a number as an exact string, mostly without exponent; else a copy."""
    match value:
        case Decimal() if value.is_finite():
            return format(value, "f") if abs(value.adjusted()) < 1000 else str(value)
        case int() if not isinstance(value, bool) and value.bit_length() <= _MOST_BITS:
            return str(value)
        case _:
            return copied(value)


def read_alerts(body: bytes, app_id: str | None = None) -> list[AlertInfo]:
    """Read the body of an alert request: an object with the list, or only the list.

    :meth:`RequestVerifier.alerts` verifies a request and reads it.

    Args:
        body: the bytes as they arrived.
        app_id: the app that sent them, if that was verified; for ``AlertInfo.app_id``.

    Raises:
        DecodeError: it is something else, or contradicts itself; the problems have the
            paths.
    """
    if type(body) is not bytes:
        check_kind("body", body, bytes, "the bytes that arrived")
    try:
        found = _decode(body)
    except codec.UNREADABLE:
        return _read_tolerantly(body, app_id)
    is_object = type(found) is _Body
    alerts: list[AlertInfo] = found.alert_info_list if is_object else found
    known, keys = "0", int(is_object)
    for alert in alerts:
        chain = alert._chain_id
        if chain != known:  # mostly, all alerts are of one chain
            # A zero before other digits is a case for the tolerant reader, too.
            if not (chain.isdecimal() and chain.isascii() and chain >= "1"):
                return _read_tolerantly(body, app_id)
            known = chain
        keys += 6 + len(alert._values)
        alert._app_id = app_id
    # msgspec keeps the last value of a repeated key. Each key has a colon, and each
    # string two quotes; colons and escaped quotes in strings are more. So, the exact
    # number of either means that no key was repeated.
    if body.count(_COLON) == keys:
        return alerts
    strings = 2 * keys - 2 * len(alerts) - is_object
    if body.count(_QUOTE) == 2 * strings:
        return alerts
    return _read_tolerantly(body, app_id)


def _read_tolerantly(body: bytes, app_id: str | None) -> list[AlertInfo]:
    read = partial(_alert, app_id=app_id)
    document = read_json(body)
    return read_list(document, "alert_info_list", read, excerpt=codec.excerpt(body))


def _alert(entry: Entry, app_id: str | None = None) -> AlertInfo:
    return _create(
        entry.required(TEXT, "watch_entity", "address", "entity", fold=str.lower),
        entry.required(COUNT, "chain_id"),
        entry.required(TEXT, "watch_entity_type", "entity_type", fold=str.casefold),
        entry.required(TEXT, "watch_event_code", "event_code"),
        entry.required(SECONDS, "timestamp"),
        entry.optional(OBJECT, "event_values") or {},
        entry.raw,
        app_id,
    )


@final
class Alerts(tuple[AlertInfo, ...]):  # noqa: SLOT001 - it has an attribute
    """The alerts of one request, an immutable sequence, and the app that sent them.

    Args:
        alerts: the alerts, in order.
        app_id: the app that signed the request.
    """

    _app_id: str

    def __new__(cls, alerts: Iterable[AlertInfo], app_id: str) -> Alerts:
        """Create the sequence."""
        made = tuple.__new__(cls, alerts)
        made._app_id = app_id
        return made

    @property
    def app_id(self) -> str:
        """The app that signed the request."""
        return self._app_id

    def __getnewargs__(self) -> tuple[tuple[AlertInfo, ...], str]:
        return tuple(self), self._app_id

    def __repr__(self) -> str:
        return f"Alerts({list(self)!r}, app_id={self._app_id!r})"
