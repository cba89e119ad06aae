"""The clients of a provider: one for tasks, one for threads, over the same flows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Final, Self, TypeVar, Unpack

from ortege_watch._http.conversation import (
    DEADLINE,
    TIMEOUT,
    Conversation,
    Limits,
    Retry,
)
from ortege_watch._http.driver import (
    DEFAULT_MAX_SIZE,
    AsyncClock,
    AsyncHttp,
    AsyncHttpDriver,
    Clock,
    Http,
    HttpDriver,
)
from ortege_watch.errors import DecodeError, OrtegeWatchError, QueryError
from ortege_watch.watchbus.fields import shown
from ortege_watch.watchbus.models import (
    EntityInfo,
    Subscription,
    SubscriptionPage,
    SupportedEvent,
    WatchResult,
)
from ortege_watch.watchbus.requests import (
    BusConfig,
    Endpoint,
    Progress,
    WatchPaths,
    check_batch_size,
    signed_exchange,
)
from ortege_watch.watchbus.signing import Credentials
from ortege_watch.watchbus.wire import (
    MAX_PAGE_SIZE,
    WireStyle,
    decode_subscription_page,
    decode_supported_events,
    decode_watch_result,
    encode_entities,
    encode_page_request,
)

__all__ = [
    "AsyncWatchBusClient",
    "Pages",
    "Provider",
    "WatchBusClient",
    "batches",
    "refuse_params",
]

T = TypeVar("T")


class Provider:
    """The conversations with one provider, written once for both clients.

    What they raise is listed at
    :func:`~ortege_watch.watchbus.requests.signed_exchange`.

    Args:
        link: the provider, the credentials and the limits.
        paths: where its endpoints are.
        style: the form of what is sent.
        batch_size: entities in a request, at most.

    Raises:
        QueryError: one of them cannot be used.
    """

    def __init__(
        self, link: BusConfig, paths: WatchPaths, style: WireStyle, batch_size: int
    ) -> None:
        check_batch_size(batch_size)
        self.batch_size: Final = batch_size
        self._style = style
        self._subscribe = link.endpoint("paths.subscribe", paths.subscribe)
        self._unsubscribe = link.endpoint("paths.unsubscribe", paths.unsubscribe)
        self._subscriptions = link.endpoint("paths.subscriptions", paths.subscriptions)
        self._events = link.endpoint("paths.events", paths.events)

    def subscribe(
        self, link: BusConfig, entities: Iterable[EntityInfo], progress: Progress | None
    ) -> Conversation[WatchResult]:
        """Ask to watch entities."""
        return self._watch(link, self._subscribe, _entities(entities), progress)

    def unsubscribe(
        self, link: BusConfig, entities: Iterable[EntityInfo], progress: Progress | None
    ) -> Conversation[WatchResult]:
        """Ask not to watch entities any more."""
        return self._watch(link, self._unsubscribe, _entities(entities), progress)

    def _watch(
        self,
        link: BusConfig,
        target: Endpoint,
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
                answered += yield from signed_exchange(
                    link, target, body, decode_watch_result, is_repeatable=False
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
        link: BusConfig,
        entities: Sequence[str] | None,
        page_index: int,
        page_size: int,
    ) -> Conversation[SubscriptionPage]:
        """Ask for one page of subscriptions."""
        return signed_exchange(
            link,
            self._subscriptions,
            encode_page_request(entities, page_index, page_size),
            decode_subscription_page,
            is_repeatable=True,
        )

    def events(self, link: BusConfig) -> Conversation[list[SupportedEvent]]:
        """Ask which events the provider can watch for."""
        return signed_exchange(
            link, self._events, b"", decode_supported_events, is_repeatable=True
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


_PATHS: Final = WatchPaths()
_STYLE: Final = WireStyle()


def refuse_params(http: object) -> None:
    """Refuse a client that adds a query: signatures do not cover one.

    Raises:
        QueryError: it does.
    """
    if getattr(http, "params", None):
        raise QueryError("http: it has params of its own, and a query cannot be signed")


class AsyncWatchBusClient:
    """Ask a provider to watch entities, from tasks of asyncio or trio.

    Every request is signed, and every attempt signed anew. A provider that calls the
    timestamp expired is asked once more by its own clock, which is then gone by.
    Redirects are not followed. Every method takes ``timeout=`` and ``deadline=`` for
    itself alone. What they raise besides what is listed there:

    - :class:`WatchBusError`: the provider says no; ``.code`` and ``.reason`` say why;
    - :class:`RateLimited`: it does so, also after the last retry, because there were
      too many requests;
    - :class:`TransportError`: no answer;
    - :class:`DeadlineExceeded`: no time left for (another) attempt;
    - :class:`DecodeError`: an answer that cannot be read.

    Args:
        url: the provider, such as ``https://provider.example.com``, with the path that
            stands before the endpoints' paths, if any. It is signed as it is sent: a
            gateway that cuts it off breaks the signature.
        credentials: the app id and the secret that the provider knows.
        timeout: seconds that the provider may be silent.
        deadline: seconds that a request may take with all its attempts; ``None`` for no
            limit. A long list is several requests.
        retry: how often a request is tried. Lists are read again after every failure
            that may pass. :meth:`subscribe` and :meth:`unsubscribe` are repeated only
            where the provider has certainly done nothing: no connection, a rate limit,
            503.
        http: your own ``httpx.AsyncClient`` or transport, without ``params`` of its
            own; its limits on time are replaced by these here, and it is not closed
            with this client.
        clock: what tells the time for pauses and deadlines, and sleeps; for tests.
        max_size: bytes that an answer may have, decompressed.
        batch_size: entities in a request, at most; more are sent as several requests.
        paths: where the endpoints are.
        style: which of the page's two forms is sent.

    Raises:
        QueryError: an argument that cannot be used.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        *,
        timeout: float = TIMEOUT,
        deadline: float | None = DEADLINE,
        retry: Retry | None = None,
        http: AsyncHttp | None = None,
        clock: AsyncClock | None = None,
        max_size: int = DEFAULT_MAX_SIZE,
        batch_size: int = 100,
        paths: WatchPaths = _PATHS,
        style: WireStyle = _STYLE,
    ) -> None:
        self._link = BusConfig.parse(
            url, credentials, timeout=timeout, deadline=deadline, retry=retry
        )
        self._provider = Provider(self._link, paths, style, batch_size)
        refuse_params(http)
        self._driver = AsyncHttpDriver(http=http, clock=clock, max_size=max_size)

    def __repr__(self) -> str:
        return f"AsyncWatchBusClient({self._link.root!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the client's connections; it cannot be used any more."""
        await self._driver.aclose()

    async def subscribe(
        self,
        entities: Iterable[EntityInfo],
        *,
        progress: Progress | None = None,
        **limits: Unpack[Limits],
    ) -> WatchResult:
        """Ask to watch entities.

        Keep them: a provider's list has neither chain nor entity type, so that no
        :meth:`unsubscribe` can be made from it.

        Args:
            entities: at least one, and each once.
            progress: called after each request with the number of entities that are
                done and that of all.
            limits: see :class:`Limits`; they are for each request.

        Returns:
            What the provider took and what it did not.

        Raises:
            QueryError: an entity that cannot be sent; nothing was sent.
            OrtegeWatchError: any of those above, with :attr:`OrtegeWatchError.watched`:
                what became of the entities before it. Those in its ``unanswered`` may
                have been taken or not; to subscribe to them again is the way to know.
        """
        link = self._link.override(limits)
        return await self._driver.arun(
            self._provider.subscribe(link, entities, progress)
        )

    async def unsubscribe(
        self,
        entities: Iterable[EntityInfo],
        *,
        progress: Progress | None = None,
        **limits: Unpack[Limits],
    ) -> WatchResult:
        """Ask not to watch entities any more; all as with :meth:`subscribe`."""
        link = self._link.override(limits)
        return await self._driver.arun(
            self._provider.unsubscribe(link, entities, progress)
        )

    def subscriptions(
        self,
        entities: Iterable[str] | None = None,
        *,
        page_size: int = MAX_PAGE_SIZE,
        **limits: Unpack[Limits],
    ) -> AsyncIterator[Subscription]:
        """Go through all subscriptions, page by page, as the loop asks for them.

        Args:
            entities: addresses; ``None`` for all that there are.
            page_size: entries in a page, at most 50.
            limits: see :class:`Limits`; they are for each page.

        Raises:
            QueryError: an address that is none, an empty list, or a size that is out of
                range; at once, not in the loop.
            DecodeError: a page comes twice: the provider turns no pages.
        """
        link = self._link.override(limits)
        pages = Pages(entities, page_size, self._provider.batch_size)
        return self._through(link, pages)

    async def _through(
        self, link: BusConfig, pages: Pages
    ) -> AsyncIterator[Subscription]:
        while pages:
            asked = self._provider.page(
                link, pages.entities, pages.page_index, pages.page_size
            )
            for each in pages.take(await self._driver.arun(asked)):
                yield each

    async def subscriptions_page(
        self,
        entities: Sequence[str] | None = None,
        *,
        page_index: int = 1,
        page_size: int = MAX_PAGE_SIZE,
        **limits: Unpack[Limits],
    ) -> SubscriptionPage:
        """Ask for one page of the subscriptions.

        Args:
            entities: addresses; ``None`` for all that there are.
            page_index: counted from 1.
            page_size: entries in a page, at most 50.
            limits: see :class:`Limits`.

        Raises:
            QueryError: one of them is none, or out of range; an empty list.
        """
        link = self._link.override(limits)
        asked = self._provider.page(link, entities, page_index, page_size)
        return await self._driver.arun(asked)

    async def events(self, **limits: Unpack[Limits]) -> list[SupportedEvent]:
        """Ask which events the provider can watch for."""
        return await self._driver.arun(
            self._provider.events(self._link.override(limits))
        )


class WatchBusClient:
    """Ask a provider to watch entities, from threads and scripts.

    All is as with :class:`AsyncWatchBusClient`, without ``await``; ``http`` is an
    ``httpx.Client`` or a transport for one. The deadline is looked at between reads, so
    a request may pass it by one ``timeout``. Threads may share a client.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        *,
        timeout: float = TIMEOUT,
        deadline: float | None = DEADLINE,
        retry: Retry | None = None,
        http: Http | None = None,
        clock: Clock | None = None,
        max_size: int = DEFAULT_MAX_SIZE,
        batch_size: int = 100,
        paths: WatchPaths = _PATHS,
        style: WireStyle = _STYLE,
    ) -> None:
        self._link = BusConfig.parse(
            url, credentials, timeout=timeout, deadline=deadline, retry=retry
        )
        self._provider = Provider(self._link, paths, style, batch_size)
        refuse_params(http)
        self._driver = HttpDriver(http=http, clock=clock, max_size=max_size)

    def __repr__(self) -> str:
        return f"WatchBusClient({self._link.root!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the client's connections; it cannot be used any more."""
        self._driver.close()

    def subscribe(
        self,
        entities: Iterable[EntityInfo],
        *,
        progress: Progress | None = None,
        **limits: Unpack[Limits],
    ) -> WatchResult:
        """Ask to watch entities; see :meth:`AsyncWatchBusClient.subscribe`."""
        link = self._link.override(limits)
        return self._driver.run(self._provider.subscribe(link, entities, progress))

    def unsubscribe(
        self,
        entities: Iterable[EntityInfo],
        *,
        progress: Progress | None = None,
        **limits: Unpack[Limits],
    ) -> WatchResult:
        """Ask not to watch any more; see :meth:`AsyncWatchBusClient.unsubscribe`."""
        link = self._link.override(limits)
        return self._driver.run(self._provider.unsubscribe(link, entities, progress))

    def subscriptions(
        self,
        entities: Iterable[str] | None = None,
        *,
        page_size: int = MAX_PAGE_SIZE,
        **limits: Unpack[Limits],
    ) -> Iterator[Subscription]:
        """Go through all pages; see :meth:`AsyncWatchBusClient.subscriptions`."""
        link = self._link.override(limits)
        pages = Pages(entities, page_size, self._provider.batch_size)
        return self._through(link, pages)

    def _through(self, link: BusConfig, pages: Pages) -> Iterator[Subscription]:
        while pages:
            asked = self._provider.page(
                link, pages.entities, pages.page_index, pages.page_size
            )
            yield from pages.take(self._driver.run(asked))

    def subscriptions_page(
        self,
        entities: Sequence[str] | None = None,
        *,
        page_index: int = 1,
        page_size: int = MAX_PAGE_SIZE,
        **limits: Unpack[Limits],
    ) -> SubscriptionPage:
        """Ask for one page; see :meth:`AsyncWatchBusClient.subscriptions_page`."""
        link = self._link.override(limits)
        asked = self._provider.page(link, entities, page_index, page_size)
        return self._driver.run(asked)

    def events(self, **limits: Unpack[Limits]) -> list[SupportedEvent]:
        """Ask for supported events; see :meth:`AsyncWatchBusClient.events`."""
        return self._driver.run(self._provider.events(self._link.override(limits)))
