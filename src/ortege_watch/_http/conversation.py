"""What a REST conversation asks of its driver, and what the driver sends back.

A conversation is a generator: it yields an :data:`Effect`, is sent an :class:`Answer`,
and returns its result. It raises nothing but errors of this library.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator, Mapping
from typing import Any, Final, TypeAlias, TypedDict, TypeVar
from urllib.parse import SplitResult, urlsplit

from attrs import field, frozen, mutable

from ortege_watch.errors import DeadlineExceeded, OrtegeWatchError, QueryError

__all__ = [
    "DEADLINE",
    "TIMEOUT",
    "Answer",
    "Backoff",
    "Conversation",
    "Effect",
    "Endpoint",
    "Failure",
    "GetStamp",
    "GetToken",
    "Limits",
    "Pace",
    "Pause",
    "Request",
    "Response",
    "Retry",
    "Work",
    "check_limits",
    "split_url",
]

T = TypeVar("T")


@frozen(kw_only=True)
class Request:
    """Ask the driver for one HTTP exchange; redirects are not followed.

    Attributes:
        timeout: seconds that the server may be silent.
        limit: seconds that the whole exchange may take; ``None`` for no limit.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)  # one of them is the token
    content: bytes | None = None
    timeout: float
    limit: float | None = None


@frozen
class GetToken:
    """Ask the driver for a token: the answer carries it."""


@frozen
class GetStamp:
    """Ask the driver for what makes a signature new: the time and a nonce."""


@frozen
class Pause:
    """Ask the driver to wait, in seconds."""

    seconds: float


@frozen
class Work:
    """Ask the driver to call a function that may wait for a disk.

    The answer carries what it returned; what it raises ends the conversation.
    """

    call: Callable[[], Any]


@frozen(kw_only=True)
class Response:
    """Hold what a server answered, whatever its status.

    Attributes:
        headers: their names in lower case.
        received_at: unix seconds by this machine's clock.
    """

    status: int
    headers: Mapping[str, str] = field(factory=dict[str, str])
    content: bytes = b""
    received_at: float = 0.0


@frozen(kw_only=True)
class Failure:
    """Say that no answer came.

    Attributes:
        error: what to raise if nothing else is tried.
        retry: another attempt may succeed.
        expired: :attr:`Request.limit` ended the exchange.
        unsent: the server has seen nothing of the request.
    """

    error: OrtegeWatchError
    retry: bool = False
    expired: bool = False
    unsent: bool = False


@frozen(kw_only=True)
class Answer:
    """Carry what an effect gave, with a reading of the clock and a draw of the dice.

    Attributes:
        now: monotonic seconds, after the effect.
        draw: a random number, 0 <= draw < 1.
        outcome: what a :class:`Request` gave.
        token: what a :class:`GetToken` gave.
        unix: unix seconds, of a :class:`GetStamp`.
        nonce: 32 hex digits that were never given before, of a :class:`GetStamp`.
        value: what the function of a :class:`Work` returned.
    """

    now: float
    draw: float = 0.0
    outcome: Response | Failure | None = None
    token: str = field(default="", repr=False)
    unix: float = 0.0
    nonce: str = ""
    value: Any = None


Effect: TypeAlias = Request | GetToken | GetStamp | Pause | Work
Conversation: TypeAlias = Generator[Effect, Answer, T]


# -------------------- Where a Cube server is: every form of its URL that people have at hand.


_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_DEFAULT_PATH = "/cubejs-api"
_UNFIT = re.compile(r"[\s\x00-\x1f\x7f]")
_EXAMPLE = "give the server's address, such as https://cube.example.com/cubejs-api/v1"


@frozen(kw_only=True)
class Endpoint:
    """Hold the addresses of one Cube server.

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
        """Read a URL: a host, or down to ``/cubejs-api``, ``/v1`` or ``/load``.

        ``ws`` and ``wss`` stand for ``http`` and ``https``. A path that ends in ``/v1``
        is taken as it is (a server may have another base path); any other path is a
        prefix before ``/cubejs-api/v1``.

        Raises:
            QueryError: this is no such URL, or it carries a user name, a query or a
                fragment.
        """
        parts = split_url(url, _EXAMPLE, "give the token as token=")
        scheme = _SCHEMES[parts.scheme]
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


def split_url(url: str, example: str, secret: str) -> SplitResult:
    """Take a server's address apart: a scheme, a host, perhaps a port and a path.

    Args:
        url: the address.
        example: what an error tells to give instead.
        secret: what an error tells to do with a user name or password.

    Raises:
        QueryError: this is no such URL, or it carries a user name, a query or a
            fragment.
    """
    if not isinstance(url, str):
        raise QueryError(f"url is a string, not {type(url).__name__}: {example}")
    text = url.strip()
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        host.encode("idna")  # or the resolver would raise a UnicodeError of its own
        port = parts.port
    except ValueError as error:
        raise QueryError(f"url cannot be read ({error}): {example}") from error
    if "@" in parts.netloc:
        raise QueryError(f"url carries a user name or password: {secret}")
    if parts.scheme not in _SCHEMES or not host or port == 0 or _UNFIT.search(text):
        raise QueryError(f"{url!r} is no address of a server: {example}")
    if parts.query or parts.fragment:
        raise QueryError(f"{url!r} carries a query or a fragment: leave it out")
    return parts


# -------------------- How long to wait before the next attempt. Pure: the random draw is an argument.


@frozen
class Backoff:
    """Grow delays geometrically up to a cap, each drawn from its upper half.

    The draw keeps clients that failed together from coming back together; the lower
    bound of one half keeps every one of them from coming back at once.

    Attributes:
        base: seconds, the whole of the first delay.
        cap: seconds, the whole of the longest delay; at least ``base``.
        factor: how much longer each delay is than the one before; at least 1.
    """

    base: float = 1.0
    cap: float = 60.0
    factor: float = 2.0

    def __attrs_post_init__(self) -> None:
        if not 0 < self.base <= self.cap < math.inf:
            raise QueryError(
                f"a back-off from {self.base!r} s to {self.cap!r} s is not one:"
                " give 0 < base <= cap, in seconds"
            )
        if not 1 <= self.factor < math.inf:
            raise QueryError(f"factor {self.factor!r} shrinks delays: give 1 or more")

    def delay(self, attempt: int, draw: float) -> float:
        """Return the seconds to wait after a failed attempt.

        Args:
            attempt: 0 after the first failure, 1 after the second, and so on.
            draw: a random number, 0 <= draw < 1.

        Returns:
            Between half and the whole of ``min(cap, base * factor ** attempt)``.
        """
        try:
            whole = min(self.cap, self.base * self.factor**attempt)
        except OverflowError:
            whole = self.cap
        return whole * (1 + draw) / 2


# -------------------- How long a conversation goes on: attempts, pauses and the deadline.


TIMEOUT: Final = 30.0
DEADLINE: Final = 300.0

_LONGEST_SECONDS: Final = 1e6
"""More than any socket's timeout can be, everywhere."""

_LONGEST_RETRY_AFTER: Final = 3600.0
"""Seconds: a server that asks for more is not waited for."""


class Limits(TypedDict, total=False):
    """Override a client's time limits for one call, in seconds.

    Attributes:
        timeout: how long the server may be silent.
        deadline: how long the whole call may take; ``None`` for no limit.
    """

    timeout: float
    deadline: float | None


@frozen(kw_only=True)
class Retry:
    """Say how often a REST request is tried, and how long the pauses are.

    Connection failures and the statuses 429, 502, 503 and 504 are retried. Each pause
    is drawn between half and the whole of ``base``, ``2 * base``, ``4 * base`` ... up
    to ``cap``; a longer ``Retry-After`` is kept to, up to an hour.

    Attributes:
        attempts: tries in a row, the first included; 1 retries nothing.
        base: seconds.
        cap: seconds.
    """

    attempts: int = 4
    base: float = 0.5
    cap: float = 20.0

    def __attrs_post_init__(self) -> None:
        if self.attempts < 1:
            raise QueryError(f"attempts={self.attempts!r}: give 1 or more")
        Backoff(self.base, self.cap)  # refuses what is no back-off

    def delay(self, failures: int, draw: float) -> float:
        """Return the pause, in seconds, after so many failures in a row."""
        return Backoff(self.base, self.cap).delay(failures - 1, draw)


def check_limits(timeout: float | None, deadline: float | None) -> None:
    """Refuse what are no limits on time, in seconds.

    Raises:
        QueryError: one is not above 0, or too large; ``timeout`` is ``None``.
    """
    for name, seconds in (("timeout", timeout), ("deadline", deadline)):
        if seconds is None and name == "deadline":
            continue
        if seconds is None or not 0 < seconds <= _LONGEST_SECONDS:
            raise QueryError(
                f"{name}={seconds!r}: give seconds, more than 0 and at most a million"
            )


@mutable(kw_only=True)
class Pace:
    """Keep the time of one conversation.

    Attributes:
        now: monotonic seconds, as the driver told them last.
        deadline: seconds for the whole; ``None`` for no limit.
        until: the end, in monotonic seconds.
        failures: attempts in a row that failed.
        still: what :class:`DeadlineExceeded` adds to its sentence.
    """

    now: float
    deadline: float | None
    retry: Retry
    until: float
    draw: float = 0.0
    failures: int = 0
    still: str = ""

    def note(self, answer: Answer) -> None:
        """Take the time, and the dice, from what the driver sent."""
        self.now = answer.now
        self.draw = answer.draw

    @property
    def left(self) -> float | None:
        """The seconds that are left; ``None`` without a deadline.

        Raises:
            DeadlineExceeded: there are none.
        """
        left = self.until - self.now
        if left <= 0:
            raise self.late()
        return None if math.isinf(left) else left

    def back_off(
        self, error: OrtegeWatchError, retry_after: float | None
    ) -> Conversation[None]:
        """Wait before another attempt.

        Raises:
            OrtegeWatchError: the error itself, if there is to be none.
            DeadlineExceeded: no time is left for it.
        """
        self.failures += 1
        asked = retry_after or 0.0
        if self.failures >= self.retry.attempts or asked > _LONGEST_RETRY_AFTER:
            raise error
        pause = max(self.retry.delay(self.failures, self.draw), asked)
        yield from self.pause(pause, error)

    def pause(
        self, seconds: float, cause: OrtegeWatchError | None = None
    ) -> Conversation[None]:
        """Wait.

        Raises:
            DeadlineExceeded: it would be over after that.
        """
        if self.now + seconds >= self.until:
            raise self.late() from cause
        self.note((yield Pause(seconds)))

    def late(self) -> DeadlineExceeded:
        """Return the error of a conversation that has no time left."""
        return DeadlineExceeded(f"no answer within {self.deadline} s{self.still}")
