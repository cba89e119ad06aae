"""What a REST conversation asks of its driver, and what the driver sends back.

A conversation is a generator: it yields an :data:`Effect`, is sent an :class:`Answer`,
and returns its result. It raises nothing but errors of this library.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeAlias, TypeVar

from attrs import field, frozen

from ortege_watch.errors import OrtegeWatchError

__all__ = [
    "Answer",
    "Conversation",
    "Effect",
    "Failure",
    "GetStamp",
    "GetToken",
    "Pause",
    "Request",
    "Response",
    "Work",
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
