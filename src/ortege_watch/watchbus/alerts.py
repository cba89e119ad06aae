"""Alerts: the model, and reading them from the body of a request.

Nearly every alert has the documented names with text as values, so that is read in one
step by msgspec, and an :class:`AlertInfo` is a view of what it made: no Python code runs
for a field that nobody looks at. Everything else takes the long way, which is the
truth: the short one must come to the same result or step aside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Final, final

import msgspec

from ortege_watch import codec
from ortege_watch.errors import QueryError
from ortege_watch.watchbus.events import EventValues, kind_of
from ortege_watch.watchbus.models import check_chain_id, check_text
from ortege_watch.watchbus.reading import Entry, Problems, read_json, seconds, shown

__all__ = ["AlertInfo", "decode_alerts"]

_LIST: Final = "alert_info_list"
_LATEST: Final = 10**11  # seconds; what lies beyond are milliseconds
_QUOTE: Final = ord('"')

_new: Final = object.__new__


class _Fields(msgspec.Struct, frozen=True, gc=False):
    """The fields of an alert under their documented names; the chain id in digits."""

    watch_entity: Annotated[str, msgspec.Meta(min_length=1)]
    chain_id: Annotated[str, msgspec.Meta(max_length=77)]
    watch_entity_type: Annotated[str, msgspec.Meta(min_length=1)]
    watch_event_code: Annotated[str, msgspec.Meta(min_length=1)]
    timestamp: Annotated[int, msgspec.Meta(ge=0, lt=_LATEST)]
    event_values: Mapping[str, Any]


class _Documented(_Fields, frozen=True, gc=False, forbid_unknown_fields=True):
    """An alert as the page documents it, with text as values."""

    event_values: Mapping[str, str]


class _Body(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    alert_info_list: list[_Documented]


_decode: Final = msgspec.json.Decoder(_Body | list[_Documented]).decode


@final
class AlertInfo:
    """Tell what happened at a watched entity.

    Two alerts are equal if they mean the same: ``raw``, the case of the address and
    that of the type do not count.

    Args:
        entity: the address, ``0x`` and 40 hex digits.
        chain_id: the chain's number, such as 56.
        entity_type: such as ``ERC20``, as it came.
        event_code: such as ``big_amount_txn``; the set is open.
        timestamp: when it happened, in unix seconds.
        event_values: what happened. Numbers are ints, Decimals or text, never floats.
        raw: the alert as it came; of an own alert, its documented form.

    Raises:
        QueryError: a field is empty, out of range or of another type.
    """

    __slots__ = ("_fields", "_raw")
    __match_args__ = (
        "entity",
        "chain_id",
        "entity_type",
        "event_code",
        "timestamp",
        "event_values",
    )

    _fields: _Fields
    _raw: Mapping[str, Any] | None

    def __init__(
        self,
        entity: str,
        chain_id: int,
        entity_type: str,
        event_code: str,
        timestamp: int,
        event_values: Mapping[str, Any] | None = None,
        raw: Mapping[str, Any] | None = None,
    ) -> None:
        check_text("entity", entity)
        check_chain_id("chain_id", chain_id)
        check_text("entity_type", entity_type)
        check_text("event_code", event_code)
        if type(timestamp) is not int or not 0 <= timestamp < _LATEST:
            raise QueryError(f"timestamp: {shown(timestamp)} is no int of unix seconds")
        if not isinstance(event_values, Mapping | None):
            raise QueryError(f"event_values: {shown(event_values)} is no mapping")
        self._fields = _Fields(
            entity,
            str(chain_id),
            entity_type,
            event_code,
            timestamp,
            dict(event_values or {}),
        )
        self._raw = raw

    @property
    def entity(self) -> str:
        """The address as it came."""
        return self._fields.watch_entity

    @property
    def chain_id(self) -> int:
        """The chain's number."""
        return int(self._fields.chain_id)

    @property
    def entity_type(self) -> str:
        """The kind of entity as it came."""
        return self._fields.watch_entity_type

    @property
    def event_code(self) -> str:
        """What happened."""
        return self._fields.watch_event_code

    @property
    def timestamp(self) -> int:
        """When it happened, in unix seconds."""
        return self._fields.timestamp

    @property
    def timestamp_was_milliseconds(self) -> bool:
        """Whether the sender gave 13 digits, against the page, and was understood."""
        found = seconds(self.raw.get("timestamp"))
        return found is not None and found[1]

    @property
    def event_values(self) -> EventValues:
        """What happened: of the code's class, else a plain :class:`EventValues`."""
        return kind_of(self.event_code).view(self._fields.event_values)

    @property
    def raw(self) -> Mapping[str, Any]:
        """The alert as it came."""
        if self._raw is None:
            return msgspec.to_builtins(self._fields)  # type: ignore[no-any-return]
        return self._raw

    def dedupe_key(self, app_id: str) -> str:
        """Return what is the same for the same alert, for an alert has no id.

        Args:
            app_id: who sent it: what :meth:`RequestVerifier.verify` returns.

        Returns:
            64 hex digits, made of the app id, the chain, the address in lower case, the
            code, the timestamp, and the transaction's hash (else all the values). They
            are the same in every process.
        """
        values = self._fields.event_values
        what = values.get("tx_hash") or [
            [name, values[name]] for name in sorted(values)
        ]
        entity = self.entity.lower()
        parts = [app_id, self.chain_id, entity, self.event_code, self.timestamp, what]
        return hashlib.sha256(codec.dumps(parts).encode()).hexdigest()

    def _identity(self) -> tuple[object, ...]:
        entity_type = self.entity_type.casefold()
        where = (self.entity.lower(), self.chain_id, entity_type)
        return (*where, self.event_code, self.timestamp)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AlertInfo):
            return NotImplemented
        mine, theirs = self._fields.event_values, other._fields.event_values
        return self._identity() == other._identity() and mine == theirs

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        fields = (f"{name}={getattr(self, name)!r}" for name in self.__match_args__)
        return f"AlertInfo({', '.join(fields)})"


def decode_alerts(body: bytes) -> list[AlertInfo]:
    """Read the body of an alert request: an object with the list, or the list alone.

    Raises:
        DecodeError: it is something else, or contradicts itself; the problems have the
            paths.
    """
    try:
        found = _decode(body)
    except codec.UNREADABLE:
        return _decode_tolerantly(body)
    quotes = 0
    if isinstance(found, _Body):
        quotes, found = 2, found.alert_info_list
    alerts: list[AlertInfo] = []
    for fields in found:
        chain = fields.chain_id
        if not (chain.isdecimal() and chain.isascii()):
            return _decode_tolerantly(body)
        quotes += 20 + 4 * len(fields.event_values)
        alert = _new(AlertInfo)
        alert._fields = fields
        alert._raw = None  # noqa: SLF001 - __init__ would check it all again
        alerts.append(alert)
    # msgspec keeps the last of a repeated key. Each text has two quotes, and an escaped
    # quote is one more: as many as these texts have means that none was dropped.
    return alerts if body.count(_QUOTE) == quotes else _decode_tolerantly(body)


def _decode_tolerantly(body: bytes) -> list[AlertInfo]:
    value, path = read_json(body), "$"
    if isinstance(value, dict):
        value, path = value.get(_LIST), f"$.{_LIST}"
    problems = Problems()
    alerts = [_alert(entry) for entry in problems.entries(value, path)]
    problems.refuse(codec.excerpt(body))
    return alerts


def _alert(entry: Entry) -> AlertInfo:
    fields = _Fields(
        entry.text("watch_entity", "address", "entity", same=str.lower),
        str(entry.count("chain_id")),
        entry.text("watch_entity_type", "entity_type", same=str.casefold),
        entry.text("watch_event_code", "event_code"),
        entry.time("timestamp"),
        entry.mapping("event_values"),
    )
    alert = _new(AlertInfo)
    alert._fields = fields
    alert._raw = entry.raw  # noqa: SLF001
    return alert
