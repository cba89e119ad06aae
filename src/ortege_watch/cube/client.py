"""CubeClient and AsyncCubeClient: one implementation, for threads and for tasks."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, Unpack
from uuid import uuid4

from attrs import frozen

from ortege_watch._http.conversation import (
    DEADLINE,
    HTTP_SCHEMES,
    TIMEOUT,
    Limits,
    Retry,
    TimeBudget,
    split_url,
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
from ortege_watch.cube import flows
from ortege_watch.cube.flows import Call, Server
from ortege_watch.errors import InvalidArgument
from ortege_watch.tokens import TokenLike, TokenSource

if TYPE_CHECKING:
    from ortege_watch._json import ResultPart
    from ortege_watch.cube.flows import DryRun, Sql
    from ortege_watch.cube.meta import Meta
    from ortege_watch.query import Query
    from ortege_watch.results import Result
    from ortege_watch.watch.options import Dialect
    from ortege_watch.watch.updates import AsyncUpdates, Updates, WatchOptions

__all__ = ["DEADLINE", "TIMEOUT", "AsyncCubeClient", "CubeClient", "Limits", "Settings"]

_DEFAULT_PATH: Final = "/cubejs-api"
_EXAMPLE: Final = "https://cube.example.com/cubejs-api/v1"


@frozen(kw_only=True)
class Endpoint:
    """The addresses of one Cube server.

    Attributes:
        api: what REST paths are appended to, ``https://host/cubejs-api/v1``.
        root: what ``/readyz`` is appended to, ``https://host``.
        socket: the WebSocket, ``wss://host/cubejs-api/v1/load/``; Cube takes an upgrade
            on any path (seen on 0.35.81 and 1.7.43), a gateway may not.
        host: host and port, for messages.
    """

    api: str
    root: str
    socket: str
    host: str

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Parse a URL: a host, perhaps with ``/cubejs-api``, ``/v1`` or ``/load``.

        ``ws`` and ``wss`` stand for ``http`` and ``https``. A path that ends in ``/v1``
        is taken as it is (a server may have another base path); any other path is a
        prefix before ``/cubejs-api/v1``.

        Raises:
            InvalidArgument: the URL has another scheme, no host, a user name, a query
                or a fragment.
        """
        parts = split_url(url, _EXAMPLE, "pass the token as token=")
        scheme = HTTP_SCHEMES[parts.scheme]
        path = parts.path.rstrip("/").removesuffix("/load").rstrip("/")
        if not path.endswith("/v1"):
            path = path.removesuffix(_DEFAULT_PATH) + _DEFAULT_PATH + "/v1"
        prefix = path.removesuffix(_DEFAULT_PATH + "/v1")
        host = parts.netloc
        return cls(
            api=f"{scheme}://{host}{path}",
            root=f"{scheme}://{host}" + (prefix if prefix != path else ""),
            socket=f"{scheme.replace('http', 'ws')}://{host}{path}/load/",
            host=host,
        )


class Settings:
    """What both clients need besides a driver."""

    def __init__(
        self,
        url: str | None,
        token: TokenLike | None,
        *,
        timeout: float,
        deadline: float | None,
        retry: Retry | None,
    ) -> None:
        server_url = url if url is not None else os.environ.get("ORTEGE_URL", "")
        if not server_url:
            raise InvalidArgument("missing server url: pass url=... or set ORTEGE_URL")
        self.endpoint = Endpoint.parse(server_url)
        self.tokens = TokenSource(
            token if token is not None else os.environ.get("ORTEGE_TOKEN", "")
        )
        self.budget = TimeBudget(
            timeout=timeout, deadline=deadline, retry=retry or Retry()
        )
        self.server = Server()
        self.dialect: Dialect | None = None
        """The WebSocket dialect that worked last with this server."""

    def call(
        self, now: float, limits: Limits, tokens: TokenSource | None = None
    ) -> Call:
        """Begin a call."""
        return Call(
            api=self.endpoint.api,
            request_id=str(uuid4()),
            started=now,
            budget=self.budget.override(limits),
            tokens=tokens or self.tokens,
            server=self.server,
        )


class AsyncCubeClient:
    """Ask a Cube server questions, from tasks of asyncio or trio.

    Every method retries what may pass and asks again while the server is still working
    ("Continue wait" is never shown), until its deadline; every one takes ``timeout=``
    and ``deadline=`` for itself alone. What they raise besides what is listed there:

    - :class:`AuthenticationError`: the token is refused, and so is the one that the
      provider gave when asked again;
    - :class:`RateLimited`, :class:`ApiError`: still refused after the last retry, or an
      answer that no retry can change;
    - :class:`TransportError`: no answer, also after the last retry;
    - :class:`DeadlineExceeded`: no time left for (another) attempt;
    - :class:`DecodeError`: an answer that cannot be read;
    - :class:`OrtegeWatchError` itself: the token provider failed.

    Args:
        url: the server, such as ``https://host/cubejs-api/v1``; the host alone, the
            WebSocket's ``wss://`` form and trailing slashes are fine. By default what
            the environment variable ``ORTEGE_URL`` says.
        token: a JWT, or a function or async function that returns one: it is asked at
            each call, and once more when its token is refused. A leading ``Bearer`` is
            stripped. By default what ``ORTEGE_TOKEN`` says.
        timeout: seconds that the server may be silent. Cube holds a request for 5 s
            (0.35.81) to 10 s (1.7.43) at most.
        deadline: seconds that a call may take with all its attempts; ``None`` for no
            limit.
        retry: how often a request is tried.
        http: your own ``httpx.AsyncClient`` or transport; its limits on time are
            replaced by these here, and it is not closed with this client.
        clock: what tells the time and sleeps; for tests.
        max_size: bytes that an answer or a frame may have, decompressed.

    Raises:
        InvalidArgument: the URL, the token or a limit cannot be used.
    """

    def __init__(
        self,
        url: str | None = None,
        token: TokenLike | None = None,
        *,
        timeout: float = TIMEOUT,
        deadline: float | None = DEADLINE,
        retry: Retry | None = None,
        http: AsyncHttp | None = None,
        clock: AsyncClock | None = None,
        max_size: int = DEFAULT_MAX_SIZE,
    ) -> None:
        self._settings = Settings(
            url, token, timeout=timeout, deadline=deadline, retry=retry
        )
        self._driver = AsyncHttpDriver(http=http, clock=clock, max_size=max_size)

    def __repr__(self) -> str:
        return f"AsyncCubeClient({self._settings.endpoint.api!r})"

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

    async def load(self, query: Query, **limits: Unpack[Limits]) -> Result:
        """Ask for the rows of a query.

        Raises:
            QueryError: the query compares date ranges, which is for :meth:`compare`.
            QueryRejected: the server refuses the query.
        """
        return await self._driver.arun(flows.load(self._call(limits), query))

    async def load_raw(
        self, query: Mapping[str, Any], **limits: Unpack[Limits]
    ) -> Result:
        """Ask for the rows of a query in Cube's JSON form, which is sent as it is.

        The types of the rows are those that the server's annotation names.

        Raises:
            QueryError: this is no mapping, cannot be written as JSON, or compares date
                ranges.
            QueryRejected: the server refuses the query.
        """
        return await self._driver.arun(flows.load_raw(self._call(limits), query))

    async def compare(self, query: Query, **limits: Unpack[Limits]) -> list[Result]:
        """Ask one query for each date range of its ``.compare([range, ...])``.

        Returns:
            One result for each range, in their order.

        Raises:
            QueryError: the query has no such selection.
            QueryRejected: the server refuses the query.
        """
        return await self._driver.arun(flows.compare(self._call(limits), query))

    async def blend(self, *queries: Query, **limits: Unpack[Limits]) -> list[Result]:
        """Ask several queries that have one time granularity in common, in one request.

        Returns:
            One result for each query, in their order.

        Raises:
            QueryError: fewer than two queries, or their granularities or ``cache``
                differ.
            QueryRejected: the server refuses a query.
        """
        return await self._driver.arun(flows.blend(self._call(limits), queries))

    async def sql(self, query: Query, **limits: Unpack[Limits]) -> Sql:
        """Ask for the SQL that the server would run for a query.

        Raises:
            QueryError: the query compares date ranges.
            QueryRejected: the server refuses the query.
        """
        return await self._driver.arun(flows.sql(self._call(limits), query))

    async def dry_run(self, query: Query, **limits: Unpack[Limits]) -> DryRun:
        """Have the server validate and normalise a query without running it.

        Raises:
            QueryRejected: the server refuses the query.
        """
        return await self._driver.arun(flows.dry_run(self._call(limits), query))

    async def meta(self, **limits: Unpack[Limits]) -> Meta:
        """Ask which cubes, measures, dimensions and segments there are."""
        return await self._driver.arun(flows.meta(self._call(limits)))

    async def ready(self, **limits: Unpack[Limits]) -> bool:
        """Ask once, without a token, whether the server is ready for queries.

        Returns:
            ``False`` if the server says no, fails or cannot be reached; :meth:`load`
            says why.

        Raises:
            ApiError: there is an answer, but not of a Cube server's ``/readyz``: a
                gateway may hide that.
        """
        root = self._settings.endpoint.root
        return await self._driver.arun(flows.ready(self._call(limits), root))

    def watch(self, *queries: Query, **options: Unpack[WatchOptions]) -> AsyncUpdates:
        """Stay subscribed to the answers of one or more queries.

        Enter what this returns with ``async with`` and iterate over it: it reconnects,
        re-authorises and resubscribes by itself, and each :class:`Update` is the
        difference to the one before. Needs asyncio.

        Args:
            queries: what to subscribe to, over one socket.
            options: see :class:`WatchOptions`.

        Raises:
            QueryError: an option or a query that no subscription can be made of.
        """
        return _watch(
            self._settings, self._driver, self._settings.tokens, queries, options
        )

    def _call(self, limits: Limits) -> Call:
        return self._settings.call(self._driver.clock.now(), limits)


class CubeClient:
    """Ask a Cube server questions, from threads and scripts.

    All is as with :class:`AsyncCubeClient`, without ``await``; ``http`` is an
    ``httpx.Client`` or a transport for one, and ``token`` no async function. The
    deadline is looked at between reads, so a call may pass it by one ``timeout``.
    Threads may share a client.
    """

    def __init__(
        self,
        url: str | None = None,
        token: TokenLike | None = None,
        *,
        timeout: float = TIMEOUT,
        deadline: float | None = DEADLINE,
        retry: Retry | None = None,
        http: Http | None = None,
        clock: Clock | None = None,
        max_size: int = DEFAULT_MAX_SIZE,
    ) -> None:
        self._settings = Settings(
            url, token, timeout=timeout, deadline=deadline, retry=retry
        )
        self._driver = HttpDriver(http=http, clock=clock, max_size=max_size)

    def __repr__(self) -> str:
        return f"CubeClient({self._settings.endpoint.api!r})"

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

    def load(self, query: Query, **limits: Unpack[Limits]) -> Result:
        """Ask for the rows of a query; see :meth:`AsyncCubeClient.load`."""
        return self._driver.run(flows.load(self._call(limits), query))

    def load_raw(self, query: Mapping[str, Any], **limits: Unpack[Limits]) -> Result:
        """Ask in Cube's JSON form; see :meth:`AsyncCubeClient.load_raw`."""
        return self._driver.run(flows.load_raw(self._call(limits), query))

    def compare(self, query: Query, **limits: Unpack[Limits]) -> list[Result]:
        """Ask for several date ranges; see :meth:`AsyncCubeClient.compare`."""
        return self._driver.run(flows.compare(self._call(limits), query))

    def blend(self, *queries: Query, **limits: Unpack[Limits]) -> list[Result]:
        """Ask several queries at once; see :meth:`AsyncCubeClient.blend`."""
        return self._driver.run(flows.blend(self._call(limits), queries))

    def sql(self, query: Query, **limits: Unpack[Limits]) -> Sql:
        """Ask for the SQL of a query; see :meth:`AsyncCubeClient.sql`."""
        return self._driver.run(flows.sql(self._call(limits), query))

    def dry_run(self, query: Query, **limits: Unpack[Limits]) -> DryRun:
        """Have a query validated; see :meth:`AsyncCubeClient.dry_run`."""
        return self._driver.run(flows.dry_run(self._call(limits), query))

    def meta(self, **limits: Unpack[Limits]) -> Meta:
        """Ask which cubes there are; see :meth:`AsyncCubeClient.meta`."""
        return self._driver.run(flows.meta(self._call(limits)))

    def ready(self, **limits: Unpack[Limits]) -> bool:
        """Ask whether the server is ready; see :meth:`AsyncCubeClient.ready`."""
        root = self._settings.endpoint.root
        return self._driver.run(flows.ready(self._call(limits), root))

    def watch(self, *queries: Query, **options: Unpack[WatchOptions]) -> Updates:
        """Stay subscribed to queries, with ``with`` and ``for``.

        The subscription lives in a thread of its own, which also calls the callbacks; a
        token function is called in yet another one, so that it may block. See
        :meth:`AsyncCubeClient.watch`.
        """
        from ortege_watch.watch.updates import (  # noqa: PLC0415
            Updates,
            in_thread,
        )

        tokens = self._settings.tokens
        if not tokens.is_fixed:
            tokens = TokenSource(partial(in_thread, tokens.get))
        driver = AsyncHttpDriver(max_size=self._driver.max_size)
        updates = _watch(self._settings, driver, tokens, queries, options)
        return Updates(updates, aclose=driver.aclose)

    def _call(self, limits: Limits) -> Call:
        return self._settings.call(self._driver.clock.now(), limits)


def _watch(
    settings: Settings,
    driver: AsyncHttpDriver,
    tokens: TokenSource,
    queries: Sequence[Query],
    options: WatchOptions,
) -> AsyncUpdates:
    # Importing websockets takes longer than all the rest, and REST needs none of it.
    from ortege_watch.watch.runner import Target  # noqa: PLC0415
    from ortege_watch.watch.updates import watch  # noqa: PLC0415

    def poll(query: Query) -> Awaitable[ResultPart]:
        call = settings.call(driver.clock.now(), {}, tokens)
        return driver.arun(flows.snapshot(call, query))

    def remember(dialect: Dialect) -> None:
        settings.dialect = dialect

    target = Target(
        url=settings.endpoint.socket,
        token=tokens.aget,
        token_expires=not tokens.is_fixed,
        poll=poll,
        clock=driver.clock,
        max_size=driver.max_size,
    )
    return watch(
        queries,
        options,
        target=target,
        remembered=settings.dialect,
        remember=remember,
    )
