"""What is asked of a provider, written once for both clients.

Pure: each conversation is a generator (see ``cube/effects.py``) that a driver of
``_http.py`` runs. What they raise is listed at
:func:`~ortege_watch.watchbus.exchange.exchange`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeAlias, TypeVar

from ortege_watch.cube.effects import Conversation
from ortege_watch.errors import DecodeError, OrtegeWatchError, QueryError
from ortege_watch.watchbus.exchange import exchange
from ortege_watch.watchbus.link import Link, Target, WatchPaths, check_batch_size
from ortege_watch.watchbus.models import (
    EntityInfo,
    Subscription,
    SubscriptionPage,
    SupportedEvent,
    WatchResult,
)
from ortege_watch.watchbus.payloads import (
    WireStyle,
    decode_subscription_page,
    decode_supported_events,
    decode_watch_result,
    encode_entities,
    encode_page_request,
)
from ortege_watch.watchbus.reading import shown

__all__ = ["Pages", "Progress", "Provider", "batches"]

T = TypeVar("T")

Progress: TypeAlias = Callable[[int, int], object]
"""A function that is told how many are done, and of how many."""


class Provider:
    """Begin the conversations with one provider.

    Args:
        link: the provider, the credentials and the limits.
        paths: where its endpoints are.
        style: the form of what is sent.
        batch_size: entities in a request, at most.

    Raises:
        QueryError: one of them cannot be used.
    """

    def __init__(
        self, link: Link, paths: WatchPaths, style: WireStyle, batch_size: int
    ) -> None:
        check_batch_size(batch_size)
        self.batch_size: Final = batch_size
        self._style = style
        self._subscribe = link.target("paths.subscribe", paths.subscribe)
        self._unsubscribe = link.target("paths.unsubscribe", paths.unsubscribe)
        self._subscriptions = link.target("paths.subscriptions", paths.subscriptions)
        self._events = link.target("paths.events", paths.events)

    def subscribe(
        self, link: Link, entities: Iterable[EntityInfo], progress: Progress | None
    ) -> Conversation[WatchResult]:
        """Ask to watch entities."""
        return self._watch(link, self._subscribe, _entities(entities), progress)

    def unsubscribe(
        self, link: Link, entities: Iterable[EntityInfo], progress: Progress | None
    ) -> Conversation[WatchResult]:
        """Ask not to watch entities any more."""
        return self._watch(link, self._unsubscribe, _entities(entities), progress)

    def _watch(
        self,
        link: Link,
        target: Target,
        entities: tuple[EntityInfo, ...],
        progress: Progress | None,
    ) -> Conversation[WatchResult]:
        """Ask in batches; an error carries what became of those before it."""
        # All are written before one is sent: what cannot be sent is refused first.
        waiting = [
            (batch, encode_entities(batch, self._style))
            for batch in batches(entities, self.batch_size)
        ]
        answered: list[EntityInfo] = []
        done = 0
        for batch, body in waiting:
            try:
                answered += yield from exchange(
                    link, target, body, decode_watch_result, repeatable=False
                )
            except OrtegeWatchError as error:
                error.watched = WatchResult.compare(
                    entities[:done], answered, entities[done:]
                )
                raise
            done += len(batch)
            if progress is not None:
                progress(done, len(entities))
        if tuple(answered) == entities:  # as nearly always
            return WatchResult(entities, (), ())
        return WatchResult.compare(entities, answered)

    def page(
        self,
        link: Link,
        entities: Sequence[str] | None,
        page_index: int,
        page_size: int,
    ) -> Conversation[SubscriptionPage]:
        """Ask for one page of subscriptions."""
        return exchange(
            link,
            self._subscriptions,
            encode_page_request(entities, page_index, page_size),
            decode_subscription_page,
            repeatable=True,
        )

    def events(self, link: Link) -> Conversation[list[SupportedEvent]]:
        """Ask which events the provider can watch for."""
        return exchange(
            link, self._events, b"", decode_supported_events, repeatable=True
        )


class Pages:
    """Go through all pages of subscriptions; the caller asks for one after the other.

    Args:
        entities: addresses; ``None`` for all.
        page_size: entries in a page, at most.
        batch_size: addresses in a request, at most.

    Raises:
        QueryError: one of them cannot be asked for.
    """

    def __init__(
        self, entities: Iterable[str] | None, page_size: int, batch_size: int
    ) -> None:
        self.page_size: Final = page_size
        self._waiting: list[tuple[str, ...] | None] = [None]
        if entities is not None:
            self._waiting = list(batches(_addresses(entities), batch_size))
        for batch in self._waiting:
            encode_page_request(batch, 1, page_size)  # refuses what cannot be sent
        self._begin()

    def _begin(self) -> None:
        self.page_index = 1
        self._count = 0
        self._seen: dict[tuple[Subscription, ...], int] = {}

    @property
    def entities(self) -> tuple[str, ...] | None:
        """The addresses to ask for next."""
        return self._waiting[0]

    def __bool__(self) -> bool:
        """Tell whether there is another page to ask for."""
        return bool(self._waiting)

    def take(self, page: SubscriptionPage) -> tuple[Subscription, ...]:
        """Return the entries of the page that was asked for, and turn the page.

        An empty page is the last one, and so is one that makes up the total. A short
        page is not, if the total says that there are more: the provider may give fewer
        to a page than it was asked for.

        Raises:
            DecodeError: the page came before: the provider turns no pages.
        """
        found = page.subscriptions
        self._count += len(found)
        if not found or self._count >= page.total:
            del self._waiting[0]
            self._begin()
            return found
        first = self._seen.setdefault(found, self.page_index)
        if first != self.page_index:
            raise DecodeError(
                f"$.data.subscription_list: page {self.page_index} repeats page"
                f" {first}: the provider turns no pages"
            )
        self.page_index += 1
        return found


def batches(entries: Sequence[T], size: int) -> Iterator[tuple[T, ...]]:
    """Cut a list into pieces."""
    for start in range(0, len(entries), size):
        yield tuple(entries[start : start + size])


def _entities(entities: Iterable[EntityInfo]) -> tuple[EntityInfo, ...]:
    listed = _listed("EntityInfo", entities)
    for i, each in enumerate(listed):
        if not isinstance(each, EntityInfo):
            raise QueryError(f"entities[{i}]: {shown(each)} is no EntityInfo")
    _refuse_repeated({each: i for i, each in enumerate(listed)}, listed)
    return listed


def _addresses(entities: Iterable[str]) -> tuple[str, ...]:
    listed = _listed("addresses", entities)
    encode_page_request(listed)  # refuses what is no address
    folded = [each.lower() for each in listed]
    _refuse_repeated({each: i for i, each in enumerate(folded)}, folded)
    return listed


def _listed(what: str, entities: Iterable[T]) -> tuple[T, ...]:
    if isinstance(entities, str | bytes) or not isinstance(entities, Iterable):
        raise QueryError(f"entities: give a list of {what}, not {shown(entities)}")
    listed = tuple(entities)
    if not listed:
        raise QueryError("entities: an empty list asks for nothing; give at least one")
    return listed


def _refuse_repeated(last: dict[T, int], listed: Sequence[T]) -> None:
    for i, each in enumerate(listed):
        if last[each] != i:
            raise QueryError(
                f"entities[{last[each]}]: {shown(each)} is there before, at"
                f" entities[{i}]; give each once"
            )
