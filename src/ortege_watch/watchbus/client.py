"""The clients of a provider: one for tasks, one for threads, over the same calls."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final, TypeVar, Unpack

from ortege_watch._checks import check_callable, check_kind, check_list, shown
from ortege_watch._http.conversation import Conversation, Limits
from ortege_watch._http.driver import (
    AsyncClock,
    AsyncHttp,
    AsyncHttpClient,
    AsyncHttpDriver,
    Clock,
    Http,
    HttpClient,
    HttpDriver,
)
from ortege_watch.errors import DecodeError, InvalidArgument, OrtegeWatchError
from ortege_watch.tokens import Concealed
from ortege_watch.watchbus.models import (
    EntityInfo,
    Subscription,
    SubscriptionPage,
    SupportedEvent,
    WatchResult,
    with_addresses,
)
from ortege_watch.watchbus.requests import (
    BusConfig,
    BusOptions,
    Endpoint,
    Progress,
    WatchPaths,
    report_progress,
    signed_exchange,
)
from ortege_watch.watchbus.signing import Credentials
from ortege_watch.watchbus.wire import (
    MAX_PAGE_SIZE,
    decode_subscription_page,
    decode_supported_events,
    decode_watch_result,
    encode_entities,
    encode_page_request,
    entities_to_wire,
)

T = TypeVar("T")

_LOGGER: Final = logging.getLogger("ortege_watch.watchbus")
_ADDRESSES_ALONE: Final = (
    "%s answers with addresses alone; each stands for all entities of the request that"
    " have it"
)

_PATHS: Final = WatchPaths()


class Provider:
    """The endpoints of a provider, and the conversations with it."""

    def __init__(self, config: BusConfig, paths: WatchPaths) -> None:
        check_kind("paths", paths, WatchPaths)
        self.subscribe = config.endpoint(paths.subscribe)
        self.unsubscribe = config.endpoint(paths.unsubscribe)
        self._list = config.endpoint(paths.subscriptions)
        self._events = config.endpoint(paths.events)

    def watch(
        self,
        config: BusConfig,
        endpoint: Endpoint,
        entities: Iterable[EntityInfo],
        progress: Progress | None,
    ) -> Conversation[WatchResult]:
        """Send entities in batches; an error has the result of those before it."""
        asked = _distinct(entities, EntityInfo)
        # All are checked before one is sent.
        wire = entities_to_wire(asked, config.style)
        answered: list[EntityInfo | str] = []
        done = 0
        for batch in batches(wire, config.batch_size):
            body = encode_entities(batch, config.style)
            try:
                found = yield from signed_exchange(
                    config, endpoint, body, decode_watch_result, is_repeatable=False
                )
            except OrtegeWatchError as error:
                error.watched = WatchResult.compare(
                    asked[:done], answered, asked[done:]
                )
                raise
            # An address stands for the entities of its own request.
            named = list(with_addresses(asked[done : done + len(batch)], found))
            if len(named) > len(found):
                _LOGGER.warning(_ADDRESSES_ALONE, config.root)
            answered += named
            done += len(batch)
            if progress is not None:
                report_progress(progress, done, len(asked))
        return WatchResult.compare(asked, answered)

    def page(
        self,
        config: BusConfig,
        entities: Sequence[str] | None,
        page_index: int,
        page_size: int,
    ) -> Conversation[SubscriptionPage]:
        """Return one page of subscriptions."""
        body = encode_page_request(entities, page_index, page_size)
        return signed_exchange(config, self._list, body, decode_subscription_page)

    def events(self, config: BusConfig) -> Conversation[list[SupportedEvent]]:
        """Return the events that the provider supports."""
        return signed_exchange(config, self._events, b"", decode_supported_events)


class Pages:
    """The pages of subscriptions that are still to be requested, one after the other."""

    def __init__(
        self,
        provider: Provider,
        config: BusConfig,
        entities: Iterable[str] | None,
        page_size: int,
    ) -> None:
        listed = None if entities is None else _distinct(entities, str)
        encode_page_request(listed, 1, page_size)  # raises what cannot be sent
        self._request: Final = partial(provider.page, config, page_size=page_size)
        self._batches: list[tuple[str, ...] | None] = [None]
        if listed is not None:
            self._batches = list(batches(listed, config.batch_size))
        self._start()

    def _start(self) -> None:
        self._page_index = 1
        self._count = 0
        self._seen: dict[tuple[Subscription, ...], int] = {}

    def __bool__(self) -> bool:
        """Return whether there is another page to request."""
        return bool(self._batches)

    def next(self) -> Conversation[tuple[Subscription, ...]]:
        """Request the next page, and return its entries."""
        page = yield from self._request(self._batches[0], self._page_index)
        found = page.subscriptions
        self._count += len(found)
        # A short page need not be the last: a provider may have smaller pages.
        if not found or self._count >= page.total:
            del self._batches[0]
            self._start()
            return found
        first = self._seen.setdefault(found, self._page_index)
        if first != self._page_index:
            raise DecodeError(
                f"$.data.subscription_list: page {self._page_index} repeats page"
                f" {first}: the provider ignores page_index"
            )
        self._page_index += 1
        return found


def batches(entries: Sequence[T], size: int) -> Iterator[tuple[T, ...]]:
    """Return the entries in tuples of at most ``size``."""
    for start in range(0, len(entries), size):
        yield tuple(entries[start : start + size])


def _distinct(entities: object, kind: type[T]) -> tuple[T, ...]:
    """Return entities or addresses as a tuple; it has at least one, and each once."""
    listed = check_list("entities", entities, kind)
    first: dict[object, int] = {}
    for i, each in enumerate(listed):
        same = each.lower() if isinstance(each, str) else each
        if (before := first.setdefault(same, i)) != i:
            raise InvalidArgument(
                f"entities[{i}] repeats entities[{before}]: {shown(each)}"
            )
    return listed


class BusCalls:
    """What the clients for tasks and those for threads share."""

    _driver: Any

    def __init__(self, config: BusConfig, http: object) -> None:
        if getattr(http, "params", None):
            raise InvalidArgument("http has params, which a signature does not cover")
        self._config = config

    def __repr__(self) -> str:
        # A traceback also shows a client that could not be created.
        config = getattr(self, "_config", None)
        return f"{type(self).__name__}({config.root if config else ''!r})"

    def _begin(self, limits: Limits, progress: Progress | None = None) -> BusConfig:
        """Check that the client is open and the arguments; return a call's options."""
        self._driver.check_open()
        if progress is not None:
            check_callable("progress", progress, "done", "of", awaited=False)
        return self._config.override(limits)


class AsyncBusClient(AsyncHttpClient, BusCalls):
    """Base of the clients that send signed requests from tasks."""

    def __init__(
        self, config: BusConfig, http: AsyncHttp | None, clock: AsyncClock | None
    ) -> None:
        BusCalls.__init__(self, config, http)
        self._driver = AsyncHttpDriver(
            http=http, clock=clock, max_size=config.max_size, tls=config.tls
        )


class BusClient(HttpClient, BusCalls):
    """Base of the clients that send signed requests from threads."""

    def __init__(
        self, config: BusConfig, http: Http | None, clock: Clock | None
    ) -> None:
        BusCalls.__init__(self, config, http)
        self._driver = HttpDriver(
            http=http, clock=clock, max_size=config.max_size, tls=config.tls
        )


class AsyncWatchBusClient(AsyncBusClient):
    """A client of a provider, for tasks of asyncio or trio.

    Lists are requested again after every transient failure; :meth:`subscribe` and
    :meth:`unsubscribe` only where the provider has certainly done nothing: no
    connection, a rate limit, 503. If a provider refuses a timestamp as expired, the
    request is retried once with the provider's clock, which is used from then on.
    Redirects are not followed. Every method takes ``timeout=`` and ``deadline=`` for
    one call, and may raise :class:`WatchBusError` (the provider refused; see ``code``
    and ``reason``), :class:`RateLimited`, :class:`TransportError`,
    :class:`DeadlineExceeded` and :class:`DecodeError`.

    Args:
        url: the provider, such as ``https://provider.example.com``; a path precedes
            those of the endpoints and is signed, so that no gateway may remove it.
        credentials: the app id and the secret that the provider knows.
        paths: the endpoints' paths.
        http: your own ``httpx.AsyncClient`` or transport, without ``params``; its
            timeouts are replaced by those here, and it is not closed with this client.
        clock: what reads the time and sleeps; for tests.
        options: see :class:`BusOptions`.

    Raises:
        InvalidArgument: an argument cannot be used.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        *,
        paths: WatchPaths = _PATHS,
        http: AsyncHttp | None = None,
        clock: AsyncClock | None = None,
        **options: Unpack[BusOptions],
    ) -> None:
        address, given = Concealed(url), Concealed(credentials)
        del url, credentials  # a traceback shows what a frame has
        config = BusConfig.parse(address, given, **options)
        super().__init__(config, http, clock)
        self._provider: Final = Provider(self._config, paths)

    async def subscribe(
        self,
        entities: Iterable[EntityInfo],
        *,
        progress: Progress | None = None,
        **limits: Unpack[Limits],
    ) -> WatchResult:
        """Subscribe to entities, and return which of them the provider accepted.

        Keep them: :meth:`unsubscribe` needs more than the provider's list has.

        Args:
            entities: at least one, and each once.
            progress: called after each request.
            limits: see :class:`Limits`; they hold for each request.

        Raises:
            InvalidArgument: an entity cannot be sent; none was sent.
            OrtegeWatchError: a request failed; :attr:`OrtegeWatchError.watched` is the
                result of those before it. Entities in its ``unanswered`` may have been
                accepted: subscribe to them again to find out.
        """
        config, provider = self._begin(limits, progress), self._provider
        return await self._driver.arun(
            provider.watch(config, provider.subscribe, entities, progress)
        )

    async def unsubscribe(
        self,
        entities: Iterable[EntityInfo],
        *,
        progress: Progress | None = None,
        **limits: Unpack[Limits],
    ) -> WatchResult:
        """Unsubscribe from entities, and return which of them the provider accepted.

        The arguments and the errors are those of :meth:`subscribe`.
        """
        config, provider = self._begin(limits, progress), self._provider
        return await self._driver.arun(
            provider.watch(config, provider.unsubscribe, entities, progress)
        )

    def subscriptions(
        self,
        entities: Iterable[str] | None = None,
        *,
        page_size: int = MAX_PAGE_SIZE,
        **limits: Unpack[Limits],
    ) -> AsyncIterator[Subscription]:
        """Iterate over all subscriptions; each page is requested when it is needed.

        Args:
            entities: addresses; ``None`` for all.
            page_size: entries in a page, at most 50.
            limits: see :class:`Limits`; they hold for each page.

        Raises:
            InvalidArgument: an argument is invalid; raised at once, not in the loop.
            DecodeError: the provider sends the same page twice.
        """
        config = self._begin(limits)
        return self._iterate(Pages(self._provider, config, entities, page_size))

    async def _iterate(self, pages: Pages) -> AsyncIterator[Subscription]:
        while pages:
            for each in await self._driver.arun(pages.next()):
                yield each

    async def subscriptions_page(
        self,
        entities: Sequence[str] | None = None,
        *,
        page_index: int = 1,
        page_size: int = MAX_PAGE_SIZE,
        **limits: Unpack[Limits],
    ) -> SubscriptionPage:
        """Return one page of subscriptions; the first has the index 1.

        Raises:
            InvalidArgument: an invalid address, an empty list, a number out of range.
        """
        config = self._begin(limits)
        return await self._driver.arun(
            self._provider.page(config, entities, page_index, page_size)
        )

    async def events(self, **limits: Unpack[Limits]) -> list[SupportedEvent]:
        """Return the events that the provider supports."""
        config = self._begin(limits)
        return await self._driver.arun(self._provider.events(config))


class WatchBusClient(BusClient):
    """A client of a provider, for threads and scripts. Threads may share one.

    Lists are requested again after every transient failure; :meth:`subscribe` and
    :meth:`unsubscribe` only where the provider has certainly done nothing: no
    connection, a rate limit, 503. If a provider refuses a timestamp as expired, the
    request is retried once with the provider's clock, which is used from then on.
    Redirects are not followed. Every method takes ``timeout=`` and ``deadline=`` for
    one call, and may raise :class:`WatchBusError` (the provider refused; see ``code``
    and ``reason``), :class:`RateLimited`, :class:`TransportError`,
    :class:`DeadlineExceeded` and :class:`DecodeError`.

    The deadline holds for each read and write, unless ``http`` is a transport that does
    not have a connection pool of httpx; there it is checked after each part of a body.

    Args:
        url: the provider, such as ``https://provider.example.com``; a path precedes
            those of the endpoints and is signed, so that no gateway may remove it.
        credentials: the app id and the secret that the provider knows.
        paths: the endpoints' paths.
        http: your own ``httpx.Client`` or transport, without ``params``; its timeouts
            are replaced by those here, and it is not closed with this client.
        clock: what reads the time and sleeps; for tests.
        options: see :class:`BusOptions`.

    Raises:
        InvalidArgument: an argument cannot be used.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        *,
        paths: WatchPaths = _PATHS,
        http: Http | None = None,
        clock: Clock | None = None,
        **options: Unpack[BusOptions],
    ) -> None:
        address, given = Concealed(url), Concealed(credentials)
        del url, credentials  # a traceback shows what a frame has
        config = BusConfig.parse(address, given, **options)
        super().__init__(config, http, clock)
        self._provider: Final = Provider(self._config, paths)

    def subscribe(
        self,
        entities: Iterable[EntityInfo],
        *,
        progress: Progress | None = None,
        **limits: Unpack[Limits],
    ) -> WatchResult:
        """Subscribe to entities, and return which of them the provider accepted.

        Keep them: :meth:`unsubscribe` needs more than the provider's list has.

        Args:
            entities: at least one, and each once.
            progress: called after each request.
            limits: see :class:`Limits`; they hold for each request.

        Raises:
            InvalidArgument: an entity cannot be sent; none was sent.
            OrtegeWatchError: a request failed; :attr:`OrtegeWatchError.watched` is the
                result of those before it. Entities in its ``unanswered`` may have been
                accepted: subscribe to them again to find out.
        """
        config, provider = self._begin(limits, progress), self._provider
        return self._driver.run(
            provider.watch(config, provider.subscribe, entities, progress)
        )

    def unsubscribe(
        self,
        entities: Iterable[EntityInfo],
        *,
        progress: Progress | None = None,
        **limits: Unpack[Limits],
    ) -> WatchResult:
        """Unsubscribe from entities, and return which of them the provider accepted.

        The arguments and the errors are those of :meth:`subscribe`.
        """
        config, provider = self._begin(limits, progress), self._provider
        return self._driver.run(
            provider.watch(config, provider.unsubscribe, entities, progress)
        )

    def subscriptions(
        self,
        entities: Iterable[str] | None = None,
        *,
        page_size: int = MAX_PAGE_SIZE,
        **limits: Unpack[Limits],
    ) -> Iterator[Subscription]:
        """Iterate over all subscriptions; each page is requested when it is needed.

        Args:
            entities: addresses; ``None`` for all.
            page_size: entries in a page, at most 50.
            limits: see :class:`Limits`; they hold for each page.

        Raises:
            InvalidArgument: an argument is invalid; raised at once, not in the loop.
            DecodeError: the provider sends the same page twice.
        """
        config = self._begin(limits)
        return self._iterate(Pages(self._provider, config, entities, page_size))

    def _iterate(self, pages: Pages) -> Iterator[Subscription]:
        while pages:
            yield from self._driver.run(pages.next())

    def subscriptions_page(
        self,
        entities: Sequence[str] | None = None,
        *,
        page_index: int = 1,
        page_size: int = MAX_PAGE_SIZE,
        **limits: Unpack[Limits],
    ) -> SubscriptionPage:
        """Return one page of subscriptions; the first has the index 1.

        Raises:
            InvalidArgument: an invalid address, an empty list, a number out of range.
        """
        config = self._begin(limits)
        return self._driver.run(
            self._provider.page(config, entities, page_index, page_size)
        )

    def events(self, **limits: Unpack[Limits]) -> list[SupportedEvent]:
        """Return the events that the provider supports."""
        config = self._begin(limits)
        return self._driver.run(self._provider.events(config))
