"""REST conversations: their effects, their time budget, and back-off.

A conversation is a generator: it yields an :data:`Effect`, is sent a :class:`Reply`, and
returns its result. It raises only errors of this library. ``driver.py`` runs it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator, Mapping
from difflib import get_close_matches
from ipaddress import ip_address
from logging import Logger
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypedDict, TypeVar
from urllib.parse import SplitResult, urlsplit

from attrs import evolve, field, frozen, mutable

from ortege_watch._checks import check_int, check_kind, check_seconds
from ortege_watch.errors import (
    DeadlineExceeded,
    InvalidArgument,
    OrtegeWatchError,
    TransportError,
)
from ortege_watch.tokens import Concealed, Secrets

if TYPE_CHECKING:
    from ssl import SSLContext

T = TypeVar("T")

TOKEN_TIMEOUT: Final = 30.0
"""Seconds that a token function may take, if the deadline leaves so many."""


@frozen(kw_only=True)
class Request:
    """One HTTP request; redirects are not followed."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)  # one of them is a secret
    secrets: Secrets = field(factory=Secrets)  # not to be in messages
    content: bytes | None = None
    timeout: float  # seconds that the server may be silent
    limit: float | None = None  # seconds that the whole exchange may take


class Headers(dict[str, str]):
    """The headers of a request; no repr shows them, as one of them is a secret."""

    def __repr__(self) -> str:
        return f"<{len(self)} headers>"


class Tokens(Protocol):
    """Where tokens come from; see ``token_source.py``."""

    def get(self, within: float, closing: Any = None) -> str:
        """Return a token; wait so many seconds, or for a future, at the most."""
        ...

    async def aget(self, within: float) -> str:
        """Return a token; wait so many seconds at the most."""
        ...

    def advice(self, now: float) -> str:
        """Return what to do if the same token comes again after it was refused."""
        ...


class TokenTimeout(TransportError):
    """The token function did not return in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the token function did not return within {seconds:.3g} s")


@frozen
class GetToken:
    """A request for a token from its source; the reply is a Failure if that is late."""

    source: Tokens
    within: float = TOKEN_TIMEOUT  # seconds


@frozen
class GetStamp:
    """A request for what makes a signature unique: the time and a nonce."""


@frozen
class Pause:
    """A pause, in seconds."""

    seconds: float


@frozen
class Work:
    """A function call; its exception ends the conversation."""

    call: Callable[[], Any]
    may_block: bool = True  # it may wait for a disk: not to run on an event loop


@frozen(kw_only=True)
class Response:
    """A response with any status; names of headers are in lower case."""

    status: int
    # Not in reprs: a server may repeat the token.
    headers: Mapping[str, str] = field(factory=dict[str, str], repr=False)
    content: bytes = field(default=b"", repr=False)
    received_at: float = 0.0  # unix seconds by this machine's clock


@frozen(kw_only=True)
class Failure:
    """A request without a response."""

    error: OrtegeWatchError
    retry: bool = False  # another attempt may succeed
    expired: bool = False  # the request's limit ended the exchange
    unsent: bool = False  # the server has received nothing of the request


@frozen(kw_only=True)
class Reply:
    """The result of an effect, with the monotonic time after it.

    ``jitter`` is a random number, 0 <= jitter < 1; ``unix`` are unix seconds, and
    ``nonce`` are 32 hex digits that were never used before.
    """

    now: float
    jitter: float = 0.0
    outcome: Response | Failure | None = None  # of a Request or GetToken
    token: str = field(default="", repr=False)  # of a GetToken
    unix: float = 0.0  # of a GetStamp
    nonce: str = ""
    value: Any = None  # of a Work


Effect: TypeAlias = Request | GetToken | GetStamp | Pause | Work
Conversation: TypeAlias = Generator[Effect, Reply, T]


HTTP_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
"""The accepted schemes of a URL, and the HTTP scheme for each."""

_UNFIT = re.compile(r"[\s\x00-\x1f\x7f]")
_TOKEN_LIKE = re.compile(r"eyJ|bearer\s|[\w+=~-]{32}|.{254}", re.IGNORECASE | re.DOTALL)
"""The beginning of a token or a secret; a host name has at most 253 characters."""


def split_url(url: str | Concealed, example: str, remedy: str) -> SplitResult:
    """Split a server's address into a scheme, a host, perhaps a port and a path.

    An invalid one is an InvalidArgument, whose message has a valid ``example``, and the
    ``remedy`` for a token, a user name or a password, which it does not show. Neither
    does its traceback, if the frames of the callers have ``url`` only concealed.
    """
    given = url if isinstance(url, Concealed) else Concealed(url)
    del url  # a traceback shows what a frame has
    parts, problem = _examine_url(given.value, example, remedy)
    if problem:
        raise InvalidArgument(problem)
    return parts


def _examine_url(url: object, example: str, remedy: str) -> tuple[SplitResult, str]:
    """Return the parts of a URL, and what is wrong with it."""
    parts, host, port, problem = urlsplit(""), "", None, ""
    if not isinstance(url, str):
        kind = type(url).__name__
        return parts, f"url must be a string such as {example}, got {kind}"
    text = url.strip()
    if "://" not in text and _TOKEN_LIKE.match(text):
        return parts, f"url looks like a token: {remedy}"
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        host.encode("idna")  # or the resolver would raise a UnicodeError of its own
        port = parts.port
    except ValueError as error:
        parts, problem = urlsplit(""), f"invalid url ({error}): expected {example}"
    if "@" in (parts.netloc or text):
        problem = f"url contains a user name or password; {remedy}"
    elif problem:
        pass
    elif parts.query or parts.fragment:
        problem = "invalid url: remove the query and the fragment"
    elif parts.scheme not in HTTP_SCHEMES:
        rule = f"the scheme must be http, https, ws or wss, as in {example}"
        problem = f"invalid url {url!r}: {rule}"
    elif not host or port == 0 or _UNFIT.search(text):
        rule = f"expected a host, perhaps with a port and a path, as in {example}"
        problem = f"invalid url {url!r}: {rule}"
    return (urlsplit("") if problem else parts), problem


def is_loopback(host: str) -> bool:
    """Return whether a host name or address certainly is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


DEFAULT_MAX_SIZE: Final = 128 * 1024 * 1024
"""Bytes: a response of 50,000 rows, Cube's maximum, has about 17 MB."""

LONGEST_RETRY_AFTER: Final = 300.0
"""Seconds: no ``Retry-After`` makes a pause longer than this."""


def respected(retry_after: float | None) -> float:
    """Return the seconds to wait for a ``Retry-After``, which may be absent."""
    return min(retry_after or 0.0, LONGEST_RETRY_AFTER)


@frozen
class Backoff:
    """Delays that double up to a cap, each with jitter.

    The jitter keeps clients that failed together from retrying together; each delay is
    at least half of its nominal length, so that none of them retries at once.
    """

    base: float = 1.0  # nominal length of the first delay, in seconds
    cap: float = 60.0  # nominal length of the longest delay, in seconds; at least base

    def __attrs_post_init__(self) -> None:
        check_seconds("base", self.base)
        check_seconds("cap", self.cap)
        if self.cap < self.base:
            problem = f"cap must be at least base ({self.base!r} s), got {self.cap!r}"
            raise InvalidArgument(problem)

    def delay(
        self, attempt: int, jitter: float, retry_after: float | None = None
    ) -> float:
        """Return the seconds after a failed attempt; the first one has the number 0.

        Between half and the whole of ``min(cap, base * 2 ** attempt)``, by ``jitter``;
        at least what the server asked for, of which ``LONGEST_RETRY_AFTER`` counts.
        """
        try:
            whole = min(self.cap, self.base * 2.0**attempt)
        except OverflowError:
            whole = self.cap
        return max(whole * (1 + jitter) / 2, respected(retry_after))


def next_attempt(delay: float, retry_after: float | None = None) -> str:
    """Return when the next attempt is, for a log line."""
    asked = f"asked to wait {retry_after:.0f} s; " if retry_after else ""
    return f"{asked}next attempt in {delay:.3g} s"


@frozen(kw_only=True)
class Retry:
    """How often a REST request is tried, and how long the pauses are.

    Connection failures and the statuses 429, 502, 503 and 504 are retried. Each pause
    is drawn between half and the whole of ``base``, ``2 * base``, ``4 * base`` ... up
    to ``cap``; a longer ``Retry-After`` is respected, up to 300 s.

    Attributes:
        attempts: attempts in a row, including the first; 1 disables retries.
        base: nominal length of the first pause, in seconds.
        cap: nominal length of the longest pause, in seconds.

    Raises:
        InvalidArgument: ``attempts`` is below 1, or not ``0 < base <= cap``.
    """

    attempts: int = 4
    base: float = 0.5
    cap: float = 20.0

    def __attrs_post_init__(self) -> None:
        check_int("attempts", self.attempts)
        Backoff(self.base, self.cap)  # checks them


class Limits(TypedDict, total=False):
    """Time limits of one call, in seconds, instead of the client's.

    Attributes:
        timeout: how long the server may be silent.
        deadline: how long the whole call may take; ``None`` for no limit.
    """

    timeout: float
    deadline: float | None


class ClientOptions(TypedDict, total=False):
    """Options of the Cube clients.

    Attributes:
        timeout: seconds that the server may be silent; 30 by default. Cube holds a
            request for 5 s (0.35.81) to 10 s (1.7.43).
        deadline: seconds that a call may take with all its attempts; ``None`` for no
            limit; 300 by default.
        retry: the attempts and the pauses between them; ``Retry()`` by default.
        max_size: the largest response or frame, in bytes, decompressed; 128 MiB by
            default.
        ssl: the TLS settings of ``https`` and ``wss`` connections, such as a private
            certificate authority or a client certificate; by default the usual
            authorities. Requests through ``http=`` use those of ``http``.
    """

    timeout: float
    deadline: float | None
    retry: Retry | None
    max_size: int
    ssl: SSLContext | None


def check_names(options: Mapping[str, object], known: type, *others: str) -> None:
    """Raise TypeError for keyword arguments that a ``TypedDict`` does not have.

    ``others`` are keyword arguments that the function has besides, for the message.
    """
    names = [*known.__annotations__, *others]
    for name in sorted(options.keys() - set(names)):
        near = get_close_matches(name, names, n=1)
        advice = f"expected one of {', '.join(map(repr, names))}"
        if near:
            advice = f"did you mean {near[0]!r}?"
        raise TypeError(f"unexpected argument {name!r}: {advice}")


@frozen(kw_only=True)
class TimeBudget:
    """The time and the attempts that a call may use; invalid ones are refused."""

    timeout: float = 30.0  # seconds that the server may be silent
    deadline: float | None = 300.0  # seconds for the whole call
    retry: Retry = field(factory=Retry)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> TimeBudget:
        """Return the budget of a client's calls."""
        given = {k: options[k] for k in ("timeout", "deadline") if k in options}
        retry = options.get("retry")
        return cls(**given, retry=Retry() if retry is None else retry)

    def __attrs_post_init__(self) -> None:
        check_seconds("timeout", self.timeout)
        if self.deadline is not None:
            check_seconds("deadline", self.deadline)
        check_kind("retry", self.retry, Retry)

    def override(self, limits: Limits) -> TimeBudget:
        """Return the budget of one call."""
        if not limits:
            return self
        check_names(limits, Limits)
        return evolve(self, **limits)


@mutable(kw_only=True)
class Attempts:
    """How much of a :class:`TimeBudget` a conversation has used."""

    budget: TimeBudget
    started: float  # monotonic seconds
    logger: Logger  # for retries
    method: str = field(default="", init=False)  # of the request, for log lines
    url: str = field(default="", init=False)
    now: float = field(init=False)  # the driver's latest monotonic time
    jitter: float = field(default=0.0, init=False)
    failures: int = field(default=0, init=False)  # attempts in a row
    context: str = field(default="", init=False)  # for DeadlineExceeded's message

    def __attrs_post_init__(self) -> None:
        self.now = self.started

    def update(self, reply: Reply) -> None:
        """Take the time and the random number from a driver's reply."""
        self.now = reply.now
        self.jitter = reply.jitter

    @property
    def host(self) -> str:
        """The server, for errors."""
        return urlsplit(self.url).netloc

    @property
    def request(self) -> str:
        """The server, the method and the path, for log lines."""
        return f"{self.host}: {self.method} {urlsplit(self.url).path}"

    @property
    def left(self) -> float:
        """The seconds that are left; infinity without a deadline, 0 at the least."""
        if self.budget.deadline is None:
            return math.inf
        return max(0.0, self.started + self.budget.deadline - self.now)

    def back_off(
        self, error: OrtegeWatchError, retry_after: float | None
    ) -> Conversation[None]:
        """Wait before another attempt; raise the error if none is left."""
        self.failures += 1
        retry = self.budget.retry
        if self.failures >= retry.attempts:
            raise error
        backoff = Backoff(retry.base, retry.cap)
        pause = backoff.delay(self.failures - 1, self.jitter, retry_after)
        if pause < self.left:
            when = next_attempt(pause, retry_after)
            self.logger.warning("%s: %s; %s", self.request, error.text, when)
        yield from self.pause(pause, error)

    def pause(
        self, seconds: float, cause: OrtegeWatchError | None = None
    ) -> Conversation[None]:
        """Wait so many seconds; raise DeadlineExceeded if no time would be left."""
        if seconds >= self.left:
            raise self.deadline_exceeded(cause) from cause
        self.update((yield Pause(seconds)))

    def deadline_exceeded(
        self, cause: OrtegeWatchError | None = None
    ) -> DeadlineExceeded:
        """Return the error of a call that has no time left (for a retry after a cause)."""
        deadline = self.budget.deadline
        if cause is None:
            problem = f"no response within {deadline} s{self.context}"
        else:
            problem = (
                f"the deadline of {deadline} s leaves no time for a retry: {cause.text}"
            )
        error = DeadlineExceeded(problem)
        error.host = self.host
        return error
