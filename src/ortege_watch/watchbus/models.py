"""What the watch-bus talks about: entities, subscriptions, supported events.

Models are values: names and spellings of the wire are ``payloads.py``'s. A class takes
whatever is clear, for that is how answers are read; what is stricter than that, such as
the form of an address, is asked where something is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from attrs import Attribute, field, frozen

from ortege_watch.errors import QueryError
from ortege_watch.watchbus.reading import LARGEST, shown

__all__ = [
    "EntityInfo",
    "Subscription",
    "SubscriptionPage",
    "SupportedEvent",
    "WatchEvent",
    "WatchResult",
    "check_chain_id",
    "check_text",
]


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
