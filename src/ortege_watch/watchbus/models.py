"""What the watch-bus talks about: entities, subscriptions, supported events.

Models are values: names and spellings of the wire are ``payloads.py``'s. A class takes
whatever is clear, for that is how answers are read; what is stricter than that, such as
the form of an address, is asked where something is sent.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from types import UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    Self,
    Union,
    final,
    get_args,
    get_origin,
)

import msgspec
from attrs import Attribute, field, frozen

from ortege_watch import _json as codec
from ortege_watch.errors import DecodeError, QueryError
from ortege_watch.watchbus.fields import (
    LARGEST,
    Entry,
    Problems,
    integer,
    number,
    read_json,
    seconds,
    shown,
)

__all__ = [
    "AbnormalFunctionCall",
    "AlertInfo",
    "BigAmountTxn",
    "BigAmountTxnPercent",
    "BigAmountTxnUsd",
    "EntityInfo",
    "EventValues",
    "RiskFunctionCall",
    "Subscription",
    "SubscriptionPage",
    "SupportedEvent",
    "TrustScoreDecrease",
    "WatchEvent",
    "WatchResult",
    "check_chain_id",
    "check_text",
    "decode_alerts",
    "kind_of",
]

# -------------------- The values of an event, typed where its code is known.
#
# The set of codes is open: the page lists five, uses a sixth in an example, and says that
# there will be more. An unknown code keeps its values as they came. An own code is a subclass.
#


_kinds: Final[dict[str, type[EventValues]]] = {}


def _as_text(value: object) -> str | None:
    return value if isinstance(value, str) else None


_READERS: Final[Mapping[object, tuple[Callable[[object], object], str]]] = {
    str: (_as_text, "text"),
    int: (integer, "an integer"),
    Decimal: (number, "a number"),
}


class EventValues(Mapping[str, Any]):
    """Hold what happened, as a mapping of names to values as they came.

    Subclasses read their fields when they are asked for: text as ``str``, block numbers
    and times as ``int``, amounts and percents as ``Decimal``; never through a float. A
    field is annotated with one of these types, with ``| None`` if it is optional.

    Args:
        values: the mapping, also as keyword arguments.

    Raises:
        DecodeError: when a field is asked for and is missing or of another kind;
            ``values["name"]`` always gives what came.
    """

    __slots__ = ("_values",)

    code: ClassVar[str | None] = None
    """The event code that the class belongs to."""

    _fields: ClassVar[Mapping[str, _Field]] = {}
    _values: Mapping[str, Any]

    def __init__(
        self, values: Mapping[str, Any] | None = None, /, **fields: Any
    ) -> None:
        self._values = {**(values or {}), **fields}

    def __init_subclass__(cls, *, code: str | None = None, **rest: Any) -> None:
        """Take the fields from the annotations, and the code into the register."""
        super().__init_subclass__(**rest)
        own = _own_fields(cls)
        for name, each in own.items():
            setattr(cls, name, each)
        cls._fields = {**cls._fields, **own}
        cls.code = code
        if code is not None:
            _register(code, cls)

    @classmethod
    def view(cls, values: Mapping[str, Any]) -> Self:
        """Return typed access to a mapping, without a copy of it."""
        made = cls.__new__(cls)
        made._values = values  # noqa: SLF001 - its own
        return made

    def problems(self) -> Iterator[tuple[str, str]]:
        """Find the fields that are missing or of another kind: name and sentence."""
        for name, each in self._fields.items():
            try:
                each.read(self)
            except DecodeError as error:
                yield name, error.problems[0]

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({dict(self._values)!r})"


class _Field:
    """Read one field of the values; a data descriptor, so that nobody sets it."""

    __slots__ = ("name", "optional", "reader", "what")

    def __init__(self, name: str, kind: object, *, optional: bool) -> None:
        self.name = name
        self.optional = optional
        self.reader, self.what = _READERS[kind]

    def read(self, values: EventValues) -> object:
        given = values.get(self.name)
        if given is None:
            if self.optional:
                return None
            raise DecodeError(f"{self._where(values)} is missing; use .get() to ask")
        value = self.reader(given)
        if value is None:
            where = self._where(values)
            raise DecodeError(f"{where}: {shown(given)!r} is not {self.what}")
        return value

    def _where(self, values: EventValues) -> str:
        return f"{type(values).__name__}.{self.name}"

    def __get__(self, values: EventValues | None, _owner: type) -> object:
        return self if values is None else self.read(values)

    def __set__(self, values: EventValues, _value: object) -> None:
        raise AttributeError(f"{self._where(values)} cannot be set")


def kind_of(code: str) -> type[EventValues]:
    """Return the class of a code's values; :class:`EventValues` for an unknown one."""
    return _kinds.get(code, EventValues)


def _register(code: str, kind: type[EventValues]) -> None:
    known = _kinds.get(code, kind)
    # The same class again is a module or a notebook cell that ran twice.
    if (known.__module__, known.__qualname__) != (kind.__module__, kind.__qualname__):
        raise QueryError(f"code: {code!r} belongs to {known.__qualname__} already")
    _kinds[code] = kind


def _own_fields(cls: type[EventValues]) -> dict[str, _Field]:
    try:
        hints = inspect.get_annotations(cls, eval_str=True)
    except NameError as error:
        raise QueryError(
            f"{cls.__qualname__}: {error}; import it at run time, not for type"
            " checkers alone"
        ) from error
    return {
        name: _field_of(cls, name, hint)
        for name, hint in hints.items()
        if not name.startswith("_") and "ClassVar" not in str(hint)
    }


def _field_of(cls: type[EventValues], name: str, hint: object) -> _Field:
    optional = get_origin(hint) in {Union, UnionType}
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    kind = kinds[0] if optional and len(kinds) == 1 else hint
    if hasattr(EventValues, name):
        advice = f"every EventValues has it already; read it as values[{name!r}]"
    elif not any(kind is known for known in _READERS):
        advice = f"it is {hint!r}; use str, int or Decimal, with '| None' if optional"
    else:
        return _Field(name, kind, optional=optional)
    raise QueryError(f"{cls.__qualname__}.{name}: {advice}")


class _Transaction(EventValues):
    block_number: int
    tx_hash: str
    comment: str | None


class BigAmountTxn(_Transaction, code="big_amount_txn"):
    """Report a transfer of much value (documented minimum: 1,000 USD)."""

    current_value: Decimal


class BigAmountTxnPercent(_Transaction, code="big_amount_txn_percent"):
    """Report a transfer of much of the supply (documented minimum: 0.01 of it)."""

    cmc_slug: str
    current_value: Decimal


class BigAmountTxnUsd(_Transaction, code="big_amount_txn_usd"):
    """Report a transfer of much value in dollars (documented minimum: 100 USD)."""

    cmc_slug: str
    current_value: Decimal


class RiskFunctionCall(_Transaction, code="risk_function_call"):
    """Report a call of a risky function; the value is its signature.

    Such as ``transfer(address,uint256)``.
    """

    current_value: str


class AbnormalFunctionCall(_Transaction, code="abnormal_function_call"):
    """Report an unusual call; the value is the function's signature."""

    current_value: str


class TrustScoreDecrease(EventValues, code="trust_score_decrease"):
    """Report that a trust score fell (seen in the page's example of an alert alone)."""

    last_value: Decimal
    last_ts: int
    current_value: Decimal
    delta_value: Decimal
    delta_percent: Decimal
    comment: str | None


def check_text(name: str, value: object) -> None:
    """Refuse what is no text, and an empty one.

    Raises:
        QueryError: it is.
    """
    if not isinstance(value, str) or not value:
        raise QueryError(f"{name}: {shown(value)} is no text; give one, not empty")


def check_chain_id(name: str, value: object) -> None:
    """Refuse what is no chain id.

    Raises:
        QueryError: it is not an int, or negative.
    """
    whole = value if isinstance(value, int) and not isinstance(value, bool) else -1
    if not 0 <= whole < LARGEST:
        raise QueryError(f"{name}: {shown(value)} is no chain id; give an int, say 56")


def _text(_instance: object, attribute: Attribute[str], value: object) -> None:
    check_text(attribute.name, value)


def _chain_id(_instance: object, attribute: Attribute[int], value: object) -> None:
    check_chain_id(attribute.name, value)


@frozen
class EntityInfo:
    """Name something to watch, and what to watch for.

    Two of them are equal if they mean the same: the case of the address and of the
    type does not count.

    Attributes:
        entity: the address, ``0x`` and 40 hex digits.
        chain_id: the chain's number, such as 56.
        entity_type: ``ERC20``, ``ERC721``, ``ERC777``, ``ERC1155``, ``ERC4626``,
            ``Universal``, ``Unverified``, or one that the page does not know (yet).
        event_code: such as ``big_amount_txn``; the set is open.

    Raises:
        QueryError: a field is empty or of another type.
    """

    entity: str = field(validator=_text, eq=str.lower)
    chain_id: int = field(validator=_chain_id)
    entity_type: str = field(validator=_text, eq=str.casefold)
    event_code: str = field(validator=_text)


@frozen
class WatchResult:
    """Tell which entities a provider accepted; its answer lists successes only.

    Attributes:
        succeeded: asked for and in the answer.
        missing: asked for and not in the answer: they failed.
        unexpected: in the answer and not asked for.
        unanswered: asked for, and no answer tells what became of them; empty but for
            the result that an error carries.
    """

    succeeded: tuple[EntityInfo, ...]
    missing: tuple[EntityInfo, ...]
    unexpected: tuple[EntityInfo, ...]
    unanswered: tuple[EntityInfo, ...] = ()

    @classmethod
    def compare(
        cls,
        asked: Iterable[EntityInfo],
        answered: Iterable[EntityInfo],
        unanswered: Iterable[EntityInfo] = (),
    ) -> WatchResult:
        """Sort the entities out; one that is asked for twice counts as one."""
        wanted = dict.fromkeys(asked)
        found = dict.fromkeys(answered)
        return cls(
            succeeded=tuple(each for each in wanted if each in found),
            missing=tuple(each for each in wanted if each not in found),
            unexpected=tuple(each for each in found if each not in wanted),
            unanswered=tuple(unanswered),
        )


@frozen
class WatchEvent:
    """Name one event of a subscription.

    Attributes:
        watch_id: the provider's id of it.
        event_code: such as ``big_amount_txn``.
    """

    watch_id: str
    event_code: str


@frozen
class Subscription:
    """List what is watched at an entity.

    A provider's list has neither chain nor entity type, so an unsubscribe cannot be
    made from it: keep the :class:`EntityInfo` that you subscribed with.

    Attributes:
        entity: the address.
        events: what is watched for.
        raw: the entry as it came.
    """

    entity: str
    events: tuple[WatchEvent, ...]
    raw: Mapping[str, Any] = field(factory=dict[str, Any], eq=False, repr=False)


@frozen
class SubscriptionPage:
    """Hold one page of a provider's subscriptions.

    Attributes:
        subscriptions: the entries of this page.
        page_index: counted from 1.
        page_size: how many entries a full page has.
        total: how many entries all pages have.
    """

    subscriptions: tuple[Subscription, ...]
    page_index: int
    page_size: int
    total: int


@frozen
class SupportedEvent:
    """Describe an event that a provider can watch for.

    Attributes:
        event_code: such as ``big_amount_txn``.
        entity_types: at which kinds of entity, as the provider spells them.
        mini_threshold: the smallest value that makes an alert; ``None`` without.
        trigger_frequency: in the provider's own form; ``None`` without.
        description: the provider's words; ``None`` without.
        raw: the entry as it came.
    """

    event_code: str
    entity_types: tuple[str, ...]
    mini_threshold: Decimal | None = None
    trigger_frequency: Any = None
    description: str | None = None
    raw: Mapping[str, Any] = field(factory=dict[str, Any], eq=False, repr=False)


# -------------------- Alerts: the model, and reading them from the body of a request.
#
# Nearly every alert has the documented names with text as values, so that is read in one
# step by msgspec, and an :class:`AlertInfo` is a view of what it made: no Python code runs
# for a field that nobody looks at. Everything else takes the long way, which is the
# truth: the short one must come to the same result or step aside.


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
