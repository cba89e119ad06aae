"""Signed requests: the server's address, the options, the signature, the verdict.

Every attempt has a new timestamp and a new nonce: a request that arrives twice is
refused as a replay.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias, TypedDict, TypeGuard, TypeVar, Unpack

from attrs import evolve, field, frozen, mutable

from ortege_watch._http.conversation import (
    DEFAULT_MAX_SIZE,
    HTTP_SCHEMES,
    Attempts,
    Conversation,
    GetStamp,
    Limits,
    Reply,
    Response,
    Retry,
    TimeBudget,
    check_names,
    split_url,
)
from ortege_watch._http.exchange import (
    Done,
    Reauthenticate,
    TryLater,
    Verdict,
    exchange,
)
from ortege_watch._http.statuses import (
    TRANSIENT,
    http_date,
    redirect_target,
    retry_after,
)
from ortege_watch.errors import (
    InvalidArgument,
    OrtegeWatchError,
    RateLimited,
    WatchBusError,
)
from ortege_watch.watchbus.fields import check_int
from ortege_watch.watchbus.signing import (
    Credentials,
    Key,
    canonical,
    digest,
    headers_of,
    prepare,
    request_line,
)
from ortege_watch.watchbus.wire import (
    DOCUMENTED,
    Contradiction,
    ResultCode,
    WireStyle,
    read_answer,
)

T = TypeVar("T")

Progress: TypeAlias = Callable[[int, int], object]
"""A callable that gets the number of entries that are done, and the number of all."""

ALERT_PATH: Final = "/api/v1/watch/alert"

_EXAMPLE: Final = "https://provider.example.com"
_REMEDY: Final = "pass credentials, which sign the requests"
# What every HTTP library sends unchanged: the path that is sent must be the signed one.
_PATH: Final = re.compile(r"(?:/(?:[A-Za-z0-9\-._~!$&'()*+,=:@]|%[0-9A-F]{2})+)+/?")
_DOTS: Final = frozenset({".", ".."})
_INVALID: Final = frozenset({400, 413, 422})
_DOCUMENTED: Final = frozenset(ResultCode) | {None}


class BusOptions(TypedDict, total=False):
    """Options of the watch-bus's clients and publishers.

    Attributes:
        timeout: seconds that the server may be silent; 30 by default.
        deadline: seconds that each request may take with all its attempts; ``None`` for
            no limit; 300 by default. A long list is several requests.
        retry: the attempts and the pauses between them; ``Retry()`` by default.
        max_size: the largest response, in bytes, decompressed; 128 MiB by default.
        batch_size: the most entities or alerts in a request; 100 by default. More of
            them are sent as several requests.
        style: which of the two documented forms requests have.
    """

    timeout: float
    deadline: float | None
    retry: Retry | None
    max_size: int
    batch_size: int
    style: WireStyle


@frozen(kw_only=True)
class WatchPaths:
    """The paths of a provider's endpoints; the defaults are the specification's.

    Three are under ``/api/watch`` and one is under ``/api/v1/watch``. No other path is
    tried if one of them does not exist.
    """

    subscribe: str = "/api/watch/subscribe"
    unsubscribe: str = "/api/v1/watch/unsubscribe"
    subscriptions: str = "/api/watch/subscriptions/list"
    events: str = "/api/watch/event/list"


@mutable
class Skew:
    """The seconds by which a server's clock is ahead of this machine's."""

    seconds: float = 0.0


@frozen(kw_only=True)
class Endpoint:
    """The URL of an endpoint, and the line that names it in what is signed."""

    url: str
    line: str


@frozen(kw_only=True)
class BusConfig:
    """A server, the credentials, and the options of the requests.

    Attributes:
        root: scheme, host and the path that endpoints' paths are appended to.
        prefix: that path.
        budget: the time and the attempts of each request.
        skew: corrected where the server refuses a timestamp; shared by all requests.
    """

    root: str
    prefix: str
    credentials: Credentials
    key: Key = field(repr=False)
    budget: TimeBudget
    max_size: int
    batch_size: int
    style: WireStyle
    skew: Skew = field(factory=Skew)

    @classmethod
    def parse(
        cls,
        url: str,
        credentials: Credentials,
        path: str = "",
        **options: Unpack[BusOptions],
    ) -> BusConfig:
        """Check the arguments of a client; ``url`` may end in an endpoint's ``path``.

        Raises:
            InvalidArgument: one of them cannot be used.
            TypeError: an option is unknown.
        """
        if not isinstance(credentials, Credentials):
            # Its repr might show a secret.
            kind = type(credentials).__name__
            raise InvalidArgument(
                f"credentials must be Credentials(app_id, secret), got {kind}"
            )
        check_names(options, BusOptions)
        batch_size = options.get("batch_size", 100)
        check_int("batch_size", batch_size)
        parts = split_url(url, _EXAMPLE, _REMEDY)
        prefix = parts.path.rstrip("/").removesuffix(path or "/").rstrip("/")
        if prefix:
            _check_path("url", prefix)
        return cls(
            root=f"{HTTP_SCHEMES[parts.scheme]}://{parts.netloc}{prefix}",
            prefix=prefix,
            credentials=credentials,
            key=prepare(credentials.secret),
            budget=TimeBudget.of(options),
            max_size=options.get("max_size", DEFAULT_MAX_SIZE),
            batch_size=batch_size,
            style=options.get("style", DOCUMENTED),
        )

    def endpoint(self, name: str, path: str) -> Endpoint:
        """Return an endpoint; an error about its path names the argument ``name``."""
        _check_path(name, path)
        line = request_line("POST", self.prefix + path)
        return Endpoint(url=self.root + path, line=line)

    def override(self, limits: Limits) -> BusConfig:
        """Return the configuration with the time limits of one call."""
        return evolve(self, budget=self.budget.override(limits)) if limits else self


def _check_path(name: str, path: object) -> None:
    if (
        not isinstance(path, str)
        or _PATH.fullmatch(path) is None
        or not _DOTS.isdisjoint(path.split("/"))
    ):
        raise InvalidArgument(
            f"invalid {name} {path!r}: a path that is signed must begin with '/' and"
            " have no query, no ';', no '.' or '..' segment and no character that needs"
            " percent-encoding"
        )


def signed_exchange(
    config: BusConfig,
    endpoint: Endpoint,
    body: bytes,
    decode: Callable[[Any], T],
    *,
    is_repeatable: bool,
) -> Conversation[T]:
    """Send a signed request; see :func:`~ortege_watch._http.exchange.exchange`.

    Args:
        config: the server, the credentials and the options.
        endpoint: the endpoint.
        body: what is signed and sent, byte for byte.
        decode: reads the ``data`` of a success; raises :class:`DecodeError`.
        is_repeatable: the server may carry out the request twice. If not, it is sent
            again only after a failed connection, a rate limit, a status 503 or an
            expired timestamp.
    """
    stamp = yield GetStamp()
    return (
        yield from exchange(
            "POST",
            endpoint.url,
            partial(judge, decode=decode),
            content=body,
            authentication=_Signature(config, endpoint.line, stamp),
            attempts=Attempts(budget=config.budget, started=stamp.now),
            is_repeatable=is_repeatable,
        )
    )


@mutable
class _Signature:
    """Signs each attempt of one request."""

    config: BusConfig
    line: str
    stamp: Reply | None
    """The next attempt's time and nonce, where the driver has been asked for them."""

    skew_before: float | None = None
    """The correction of the clock before this request changed it."""

    def headers(
        self, content: bytes | None, attempts: Attempts
    ) -> Conversation[dict[str, str]]:
        stamp, self.stamp = self.stamp, None
        if stamp is None:
            stamp = yield GetStamp()
            attempts.now = stamp.now
        config = self.config
        app_id = config.credentials.app_id
        timestamp = str(max(0, int((stamp.unix + config.skew.seconds) * 1000)))
        message = canonical(app_id, timestamp, stamp.nonce, self.line, content or b"")
        signature = digest(config.key, message)
        headers = headers_of(app_id, timestamp, stamp.nonce, signature)
        return {"Accept": "application/json", **headers}

    def on_refused(
        self,
        verdict: Reauthenticate,
        attempts: Attempts,  # noqa: ARG002 - the protocol's
    ) -> Conversation[None]:
        """Use the server's clock from now on; undo that if the next attempt fails too."""
        skew = self.config.skew
        if self.skew_before is not None:
            skew.seconds = self.skew_before
            raise verdict.error
        self.skew_before = skew.seconds
        skew.seconds = verdict.clock_ahead or 0.0
        yield from ()


def judge(response: Response, decode: Callable[[Any], T]) -> Verdict[T]:
    """Return what a response means; raise errors that no retry can change."""
    try:
        data = read_answer(response.content, response.status)
    except WatchBusError as error:
        return _judge_error(error, response)
    return Done(decode(data))


def _judge_error(error: WatchBusError, response: Response) -> Reauthenticate | TryLater:
    status, code = response.status, error.code
    if isinstance(error, Contradiction):
        raise error
    if code == ResultCode.RATE_LIMIT or (code is None and status == 429):
        wait = retry_after(response)
        limited = RateLimited(str(error), status=status, code=code, retry_after=wait)
        limited.__cause__ = error
        return TryLater(limited, wait, is_safe_to_retry=True)
    if code is None and (target := redirect_target(response)):
        raise WatchBusError(
            f"redirected to {target} (status {status}); a signed request follows no"
            " redirect: use that address as url",
            status=status,
        )
    date = response.headers.get("date", "")
    ahead = server_ahead(error, date, response.received_at)
    if ahead is not None:
        return Reauthenticate(error, ahead)
    if code is None:
        is_transient = status in TRANSIENT
    else:
        is_transient = code == ResultCode.SERVER_ERROR and not 400 <= status < 500
    if not is_transient:
        raise error
    wait = retry_after(response)
    return TryLater(error, wait, is_safe_to_retry=status == 503)


def server_ahead(error: OrtegeWatchError, date: str, now: float) -> float | None:
    """Return how far the server's clock is ahead, if it calls a signature expired.

    Args:
        error: the error that the server answered with.
        date: the ``Date`` header of that response.
        now: unix seconds by our clock.

    Returns:
        Seconds, negative if it is behind; ``None`` for other errors, or without a date.
    """
    if not isinstance(error, WatchBusError):
        return None
    reason = (error.reason or "").casefold()
    names_it = "timestamp" in reason and "expired" in reason
    moment = http_date(date)
    if not names_it or error.code != ResultCode.SIGNATURE_ERROR or moment is None:
        return None
    # The header has whole seconds: on average it is half a second late.
    return moment + 0.5 - now


def is_rejection(error: OrtegeWatchError) -> TypeGuard[WatchBusError]:
    """Return whether an alert is rejected for its content, and always will be.

    Other errors may be due to the network, the credentials or the moment. An error code
    that is not documented is a rejection, or one alert might block all others for ever.
    """
    if not isinstance(error, WatchBusError) or isinstance(error, Contradiction):
        return False
    code, status = error.code, error.status
    if code in _DOCUMENTED:
        return code in {None, ResultCode.SERVER_ERROR} and status in _INVALID
    return status in _INVALID or status in range(200, 300)
