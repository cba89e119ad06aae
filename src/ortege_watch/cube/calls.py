"""The REST calls to a Cube server, written once for both clients.

Each one is a conversation (see ``_http/conversation.py``). What they raise is listed at
:func:`~ortege_watch._http.exchange.exchange`.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

from attrs import field, frozen, mutable

from ortege_watch import _json as codec
from ortege_watch._http.conversation import (
    TOKEN_TIMEOUT,
    Attempts,
    Conversation,
    Failure,
    GetStamp,
    GetToken,
    Headers,
    Request,
    Response,
    TimeBudget,
    Tokens,
)
from ortege_watch._http.exchange import (
    AskAgain,
    Done,
    Reauthenticate,
    TryLater,
    Verdict,
    exchange,
)
from ortege_watch._http.statuses import (
    REDIRECTED,
    TRANSIENT,
    api_error,
    is_unauthorized,
    redirect_target,
    retry_after,
    server_error,
)
from ortege_watch._json import ResultPart
from ortege_watch.cube.meta import Meta
from ortege_watch.errors import (
    ApiError,
    AuthenticationError,
    DecodeError,
    InvalidArgument,
    OrtegeWatchError,
    QueryError,
    QueryRejected,
)
from ortege_watch.query import CacheMode, Query
from ortege_watch.query.added_keys import AddedKeys
from ortege_watch.results import Result
from ortege_watch.tokens import Secrets, redact, safe_cause

T = TypeVar("T")

_LOGGER: Final = logging.getLogger("ortege_watch.cube")

_PAST_THE_CACHE: Final = frozenset({"must-revalidate", "no-cache"})


@mutable(kw_only=True)
class Call:
    """One call of a client's method; authenticates its requests with a bearer token."""

    api: str  # the URL that paths are appended to, https://host/cubejs-api/v1
    request_id: str  # a uuid4; each attempt sends it with -span-1, -span-2
    started: float  # monotonic seconds
    budget: TimeBudget  # the time and the attempts of the whole call
    # where the token comes from; asked unless one is known, and again if it is refused
    tokens: Tokens
    _token: str = field(default="", alias="token", repr=False)
    added_keys: AddedKeys = field(factory=AddedKeys)
    _attempts: Attempts = field(init=False)
    _spans: Iterator[int] = field(factory=partial(itertools.count, 1), init=False)
    _span: str = field(default="", init=False)
    # what the server knows, and no error may show
    secrets: Secrets = field(factory=Secrets, init=False)
    _is_renewed: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._attempts = Attempts(
            budget=self.budget, started=self.started, logger=_LOGGER
        )
        if self._token:
            self.secrets = Secrets([self._token])

    def ask(
        self,
        method: str,
        path: str,
        decode: Callable[[bytes], T],
        content: bytes | None = None,
    ) -> Conversation[T]:
        """Send a request until there is a result.

        ``decode`` reads the body of a 2xx; it raises :class:`DecodeError` for
        everything else, the server's own errors included.
        """
        return exchange(
            method,
            self.api + path,
            lambda response: judge(
                response, decode, secrets=self.secrets, request_id=self._span
            ),
            content=content,
            authentication=self,
            attempts=self._attempts,
        )

    def headers(
        self, content: bytes | None, attempts: Attempts
    ) -> Conversation[Headers]:
        """Return all headers of the next attempt."""
        if not self._token:
            yield from self._get_token(attempts)
        self._span = f"{self.request_id}-span-{next(self._spans)}"
        headers = Headers(
            {
                "accept": "application/json",
                "authorization": f"Bearer {self._token}",
                "x-request-id": self._span,
            }
        )
        if content is not None:
            headers["content-type"] = "application/json"
        return headers

    def on_refused(
        self, verdict: Reauthenticate, attempts: Attempts
    ) -> Conversation[None]:
        """Get another token, once."""
        if self._is_renewed:
            raise verdict.error
        if not (yield from self._get_token(attempts)):
            error = verdict.error
            if isinstance(error, AuthenticationError) and not error.from_proxy:
                error.advice = self.tokens.advice((yield GetStamp()).unix)
            raise error
        self._is_renewed = True

    def _get_token(self, attempts: Attempts) -> Conversation[bool]:
        """Get a token; return whether it is a new one."""
        left = attempts.left
        reply = yield GetToken(self.tokens, min(left, TOKEN_TIMEOUT))
        attempts.update(reply)
        if isinstance(reply.outcome, Failure):
            late = reply.outcome.error
            if left > TOKEN_TIMEOUT:
                raise late
            attempts.context = "; the token function has not returned"
            raise attempts.deadline_exceeded() from late
        before, self._token = self._token, reply.token
        self.secrets = Secrets([self._token])
        return self._token != before


def judge(
    response: Response,
    decode: Callable[[bytes], T],
    *,
    secrets: Secrets,
    request_id: str,
) -> Verdict[T]:
    """Return what a response means; raise errors that no retry can change.

    The secrets are removed from every message.
    """
    unread: DecodeError | None = None
    if 200 <= response.status < 300:
        if not response.content.strip():
            raise DecodeError("the response is empty")
        try:
            return Done(decode(response.content))
        except DecodeError as problem:
            unread = problem
    # Before it is cut, because an excerpt may end in the middle of a secret.
    content = redact(response.content, secrets)
    message, code = server_error(content)
    # Again, because JSON can escape every character of a secret.
    message, code = message and redact(message, secrets), code and redact(code, secrets)
    if unread is not None:
        if message == "Continue wait":
            return AskAgain()
        if message is None:
            problems, text = unread.problems, codec.excerpt(content)
            cause = safe_cause(unread.__cause__, secrets)
            raise DecodeError(*problems, excerpt=text) from cause
    about: dict[str, Any] = {"status": response.status, "request_id": request_id}
    wait = retry_after(response)
    if message is not None:
        error = api_error(message, **about, code=code)
    else:
        target = redirect_target(response, secrets)
        error = _foreign_error(content, target, about)
        error.from_proxy = True
    error.retry_after = wait
    if unread is None and response.status in TRANSIENT:
        return TryLater(error, wait)
    if unread is None and is_unauthorized(response.status, error.message):
        return Reauthenticate(error)
    raise error


def _foreign_error(
    content: bytes, target: str | None, about: dict[str, Any]
) -> ApiError:
    """Return the error for a response that no Cube server wrote: a proxy's page."""
    if target:
        return ApiError(f"redirected to {target}; {REDIRECTED}", **about)
    text = codec.excerpt(content)
    message = f"not a Cube server's response: {text!r}" if text else "empty response"
    if about["status"] in {401, 403, 429}:
        return api_error(message, **about)
    return ApiError(message, **about)


@frozen(kw_only=True)
class Sql:
    """The SQL that a server would run for a query.

    Attributes:
        statement: the SQL, with the database's placeholders.
        params: the values of the placeholders, in order.
        raw: the whole response.
    """

    statement: str
    params: tuple[Any, ...]
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def read(cls, data: bytes) -> Sql:
        """Decode the body of ``/sql``.

        Raises:
            DecodeError: it contains no statement.
        """
        answer = codec.loads(data)
        match answer:
            case {"sql": {"sql": [str(statement), [*params]]}}:
                return cls(statement=statement, params=tuple(params), raw=answer)
            case _:
                raise DecodeError("the response of /sql has no statement under sql.sql")


@frozen(kw_only=True)
class DryRun:
    """A query as the server normalised it.

    Attributes:
        query_type: ``"regularQuery"`` or ``"compareDateRangeQuery"``.
        queries: the normalised queries in Cube's JSON form, one for each date range.
        raw: the whole response.
    """

    query_type: str
    queries: tuple[Mapping[str, Any], ...]
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def read(cls, data: bytes) -> DryRun:
        """Decode the body of ``/dry-run``.

        Raises:
            DecodeError: it contains no normalised queries.
        """
        answer = codec.loads(data)
        match answer:
            case {"queryType": str(query_type), "normalizedQueries": [*queries]} if all(
                isinstance(query, Mapping) for query in queries
            ):
                return cls(query_type=query_type, queries=tuple(queries), raw=answer)
            case _:
                raise DecodeError(
                    "the response of /dry-run has no list normalizedQueries"
                )


def load_parts(
    call: Call,
    query: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    cache: CacheMode | None = None,
    compact: bool = False,
) -> Conversation[list[ResultPart]]:
    """Return the undecoded results of a query in its wire form.

    ``cache`` is sent beside the query, where Cube from 1.5.10 on reads it and 0.35.81
    ignores it. To bypass the cache of 0.35.81 too, the query contains ``renewQuery``.
    ``compact`` rows are asked for where one query has one result; nobody has seen every
    server write those of several in this form. A server that refuses one of these keys
    costs one extra request per client.
    """
    renewing = cache in _PAST_THE_CACHE
    single = query if compact and isinstance(query, Mapping) else None
    while True:
        added = call.added_keys.for_query(single, renewing=renewing)
        try:
            return (yield from _ask_parts(call, _with_keys(query, added), cache))
        except QueryRejected as error:
            refused = call.added_keys.refused_by(error, added)
            if refused is None:
                raise
            problem = "%s: the server does not know %r in a query; sending it without"
            _LOGGER.info(problem, error.host, refused)


def _ask_parts(
    call: Call, query: object, cache: CacheMode | None
) -> Conversation[list[ResultPart]]:
    question: dict[str, object] = {"query": query, "queryType": "multi"}
    if cache is not None:
        question["cache"] = cache
    return call.ask("POST", "/load", _parts, codec.encode(question))


def _parts(data: bytes) -> list[ResultPart]:
    parts = codec.decode_body(data).parts
    if not parts:
        raise DecodeError("the response contains no results")
    return parts


def _with_keys(
    query: Mapping[str, Any] | Sequence[Mapping[str, Any]], added: Mapping[str, Any]
) -> dict[str, Any] | list[dict[str, Any]]:
    if isinstance(query, Mapping):
        return {**query, **added}
    return [{**one, **added} for one in query]


def load(call: Call, query: Query) -> Conversation[Result]:
    """Return the rows of one query."""
    wire = _to_wire(query, "load()")
    with _about(query):
        parts = yield from load_parts(call, wire, cache=query.cache, compact=True)
        return Result(_exactly(1, parts)[0], query)


def snapshot(call: Call, query: Query) -> Conversation[ResultPart]:
    """Return the undecoded rows of one query, for a subscription."""
    with _about(query):
        parts = yield from load_parts(call, _to_wire(query, "watch()"), compact=True)
        return _exactly(1, parts)[0]


def load_raw(call: Call, query: Mapping[str, Any]) -> Conversation[Result]:
    """Return the rows of a query in Cube's JSON form, which is sent unchanged."""
    if not isinstance(query, Mapping):
        advice = "pass a Query to load(), several to blend()"
        if isinstance(query, str | bytes | bytearray):
            advice = "read JSON with json.loads()"
        got = type(query).__name__
        raise QueryError(f"load_raw() takes one mapping, got {got}: {advice}")
    if _ranges(query):
        raise _several_results("load_raw()")
    try:
        content = codec.dump_bytes({"query": query, "queryType": "multi"})
    except InvalidArgument as error:
        raise QueryError(str(error)) from error
    parts = yield from call.ask("POST", "/load", _parts, content)
    return Result(_exactly(1, parts)[0])


def compare(call: Call, query: Query) -> Conversation[list[Result]]:
    """Return one result for each date range of a query, in order."""
    wire = _to_wire(query, "compare()", compares=True)
    ranges = _ranges(wire)
    if not ranges:
        raise QueryError(
            "compare() takes a query with .compare([range, ...]) on a time dimension;"
            " use load() for this one"
        )
    with _about(query):
        parts = yield from load_parts(call, wire, cache=query.cache)
        return [Result(part, query) for part in _exactly(ranges, parts)]


def blend(call: Call, queries: Sequence[Query]) -> Conversation[list[Result]]:
    """Return one result for each of several queries of one granularity."""
    wires = [_to_wire(query, "blend()") for query in queries]
    _refuse_unlike(queries, wires)
    parts = yield from load_parts(call, wires, cache=queries[0].cache)
    pairs = zip(_exactly(len(wires), parts), queries, strict=True)
    return [Result(part, query) for part, query in pairs]


def sql(call: Call, query: Query) -> Conversation[Sql]:
    """Return the SQL that the server would run."""
    content = codec.encode({"query": _to_wire(query, "sql()")})
    with _about(query):
        return (yield from call.ask("POST", "/sql", Sql.read, content))


def dry_run(call: Call, query: Query) -> Conversation[DryRun]:
    """Return the query as the server normalises it, without running it."""
    content = codec.encode({"query": _to_wire(query, "dry_run()", compares=True)})
    with _about(query):
        return (yield from call.ask("POST", "/dry-run", DryRun.read, content))


def meta(call: Call) -> Conversation[Meta]:
    """Return the cubes of the server."""
    return call.ask("GET", "/meta", Meta.read)


def ready(call: Call, root: str) -> Conversation[bool]:
    """Return whether the server is ready for queries; one request, without a token.

    ``False`` also means that the server failed or cannot be reached.

    Raises:
        ApiError: the response is not that of a Cube server's ``/readyz``.
    """
    answer = yield Request(
        method="GET",
        url=root + "/readyz",
        headers={"accept": "application/json", "x-request-id": call.request_id},
        timeout=call.budget.timeout,
        limit=call.budget.deadline,
    )
    response = answer.outcome
    if not isinstance(response, Response) or response.status in {500, *TRANSIENT}:
        return False
    if response.status == 200 and b'"health"' in response.content:
        return True
    raise ApiError(
        f"unexpected response of {root}/readyz: {codec.excerpt(response.content)!r}",
        status=response.status,
        request_id=call.request_id,
    )


def _to_wire(query: Query, asked: str, *, compares: bool = False) -> dict[str, Any]:
    if not isinstance(query, Query):
        raise QueryError(
            f"{asked} takes a Query, not {type(query).__name__}: Query.from_wire(mapping)"
            " makes one from Cube's JSON form"
        )
    if query.compares and not compares:
        raise _several_results(asked)
    return query.to_wire()


def _several_results(asked: str) -> QueryError:
    return QueryError(
        f"{asked} returns one result and this query compares date ranges: use compare()"
    )


def _ranges(wire: Mapping[str, Any]) -> int:
    """Count the date ranges that a query compares; 0 for a query that does not."""
    selections = wire.get("timeDimensions") or ()
    return max(
        (len(each.get("compareDateRange") or ()) for each in selections), default=0
    )


def _refuse_unlike(
    queries: Sequence[Query], wires: Sequence[Mapping[str, Any]]
) -> None:
    if len(queries) < 2:
        raise QueryError("blend() takes two queries or more: use load() for one")
    granularities = {_granularity(wire) for wire in wires}
    if len(granularities) > 1 or None in granularities:
        raise QueryError(
            "blend() takes queries of one granularity: use the same"
            ' .by("day") (or another) on the time dimension of each'
        )
    if len({query.cache for query in queries}) > 1:
        raise QueryError("blend() takes queries with the same cache mode")


def _granularity(wire: Mapping[str, Any]) -> str | None:
    return next(
        (
            each["granularity"]
            for each in wire.get("timeDimensions", ())
            if "granularity" in each
        ),
        None,
    )


def _exactly(count: int, parts: list[ResultPart]) -> list[ResultPart]:
    if len(parts) != count:
        raise DecodeError(f"expected {count} results, got {len(parts)}")
    return parts


@contextmanager
def _about(query: Query) -> Iterator[None]:
    try:
        yield
    except OrtegeWatchError as error:
        error.query = query
        raise
