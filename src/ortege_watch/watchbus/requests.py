"""Signed requests: the server's address, the options, the signature, the verdict.

Every attempt has a new timestamp and a new nonce: a request that arrives twice is
refused as a replay.
"""

from __future__ import annotations

import logging
import math
import re
from codecs import BOM_UTF8
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeAlias, TypeGuard, TypeVar, Unpack

from attrs import asdict, evolve, field, frozen, mutable

from ortege_watch._checks import check_int, check_kind, check_match, close_coroutine
from ortege_watch._http.conversation import (
    HTTP_SCHEMES,
    Attempts,
    ClientOptions,
    Conversation,
    GetStamp,
    Headers,
    Limits,
    Reply,
    Response,
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
    REDIRECTED,
    TRANSIENT,
    http_date,
    redirect_target,
    retry_after,
)
from ortege_watch.errors import (
    DecodeError,
    OrtegeWatchError,
    RateLimited,
    WatchBusError,
)
from ortege_watch.tokens import Concealed, Secrets, redact
from ortege_watch.watchbus.reading import read_json
from ortege_watch.watchbus.signing import (
    Credentials,
    Key,
    canonical,
    check_credentials,
    digest,
    headers_of,
    prepare,
    request_line,
)
from ortege_watch.watchbus.wire import (
    DOCUMENTED,
    Contradiction,
    ResultCode,
    UnreadableAnswer,
    WireStyle,
    read_answer,
)

T = TypeVar("T")

Progress: TypeAlias = Callable[[int, int], object]
"""A plain function that gets the number of entries that are done, and of all."""

_LOGGER: Final = logging.getLogger("ortege_watch.watchbus")


def report_progress(progress: Progress, done: int, of: int) -> None:
    """Call the function; one that turns out to be async is logged."""
    if close_coroutine(progress(done, of)):
        _LOGGER.error("progress is async and was not awaited: use a plain function")


ALERT_PATH: Final = "/api/v1/watch/alert"
NO_PASSWORD: Final = "pass credentials, which sign the requests"
"""What to do instead of a user name or password in a URL."""

_MAX_LIST: Final = 4 * 1024 * 1024
"""The largest response with a list, in bytes."""

MAX_ACKNOWLEDGEMENT: Final = 1024 * 1024
"""The largest response to alerts, in bytes."""

# What every HTTP library sends unchanged: the path that is sent must be the signed one.
_PATH: Final = re.compile(
    r"(?:/(?!\.{1,2}(?:/|$))(?:[A-Za-z0-9\-._~!$&'()*+,=:@]|%[0-9A-F]{2})+)+/?"
)
_BEFORE_TEXT: Final = b" \t\n\v\f\r\0\xef\xbb\xbf\xff\xfe"
"""White space, and the bytes of the byte order marks of UTF-8, UTF-16 and UTF-32."""

_INVALID: Final = frozenset({400, 409, 413, 422})
"""The statuses that reject the content of a request."""

_MISCONFIGURED: Final = frozenset({401, 404, 405, 407, 410, 411, 414, 415, 421, 426})
"""The statuses that every request gets until somebody corrects a setting."""

_OVERLOADED: Final = TRANSIENT | {408, 425}
"""The statuses that, without an envelope, say nothing about the request."""

_REFUSED: Final = frozenset(
    {ResultCode.UNKNOWN_APP, ResultCode.HEADER_MISSING, ResultCode.SIGNATURE_ERROR}
)
_PASSING: Final = ("replay", "count limit")
"""Parts of the reasons of a refused signature that a later request may not get."""

_DOCUMENTED: Final = frozenset(ResultCode) | {None}


class BusOptions(ClientOptions, total=False):
    """Options of the watch-bus's clients and publishers.

    There are also those of :class:`ClientOptions`: ``timeout``, ``deadline``, ``retry``,
    ``max_size`` and ``ssl``, with the same defaults, but ``max_size`` is 4 MiB for a
    client and 1 MiB for a publisher. They hold for each request; the deadline of
    ``publish()`` and ``flush()`` is that of the whole call, but each use of an outbox may
    take 10 s longer while another process has locked its file.

    Attributes:
        batch_size: the most entities or alerts in a request; 100 by default. More of
            them are sent as several requests.
        style: which of the two documented forms requests have.
    """

    batch_size: int
    style: WireStyle


@frozen(kw_only=True)
class WatchPaths:
    """The paths of a provider's endpoints; the defaults are the specification's.

    Three are under ``/api/watch`` and one is under ``/api/v1/watch``. No other path is
    tried if one of them does not exist.

    Raises:
        InvalidArgument: a path cannot be signed.
    """

    subscribe: str = "/api/watch/subscribe"
    unsubscribe: str = "/api/v1/watch/unsubscribe"
    subscriptions: str = "/api/watch/subscriptions/list"
    events: str = "/api/watch/event/list"

    def __attrs_post_init__(self) -> None:
        for name, path in asdict(self).items():
            _check_path(name, path)


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
    """A server, the credentials, and the options of the requests."""

    root: str  # scheme, host and the path that endpoints' paths are appended to
    host: str  # perhaps with a port, for errors
    prefix: str  # that path
    credentials: Credentials
    key: Key = field(repr=False)
    budget: TimeBudget  # the time and the attempts of each request
    max_size: int
    tls: Any  # an ssl.SSLContext, or None; checked by the driver
    batch_size: int
    style: WireStyle
    # corrected where the server refuses a timestamp; shared by all requests
    skew: Skew = field(factory=Skew)

    @classmethod
    def parse(
        cls,
        url: str | Concealed,
        credentials: Credentials | Concealed,
        path: str = "",
        **options: Unpack[BusOptions],
    ) -> BusConfig:
        """Check the arguments of a client; ``url`` may end in an endpoint's ``path``."""
        if not isinstance(credentials, Concealed):
            credentials = Concealed(credentials)
        signer = check_credentials(credentials)
        check_names(options, BusOptions, "http", "clock")
        batch_size = options.get("batch_size", 100)
        check_int("batch_size", batch_size)
        style = options.get("style", DOCUMENTED)
        check_kind("style", style, WireStyle)
        parts = split_url(url, "https://provider.example.com", NO_PASSWORD)
        prefix = parts.path.rstrip("/").removesuffix(path or "/").rstrip("/")
        if prefix:
            _check_path("url", prefix)
        return cls(
            root=f"{HTTP_SCHEMES[parts.scheme]}://{parts.netloc}{prefix}",
            host=parts.netloc,
            prefix=prefix,
            credentials=signer,
            key=prepare(signer.secret),
            budget=TimeBudget.of(options),
            max_size=options.get("max_size", _MAX_LIST),
            tls=options.get("ssl"),
            batch_size=batch_size,
            style=style,
        )

    @property
    def sender(self) -> str:
        """The name of a sender of alerts in log lines."""
        return f"{self.host}, app {self.credentials.app_id}"

    def endpoint(self, path: str) -> Endpoint:
        """Return the endpoint with a path, which is checked."""
        _check_path("path", path)
        line = request_line("POST", self.prefix + path)
        return Endpoint(url=self.root + path, line=line)

    def override(self, limits: Limits) -> BusConfig:
        """Return the configuration with the time limits of one call."""
        return evolve(self, budget=self.budget.override(limits)) if limits else self


def _check_path(name: str, path: object) -> None:
    rule = (
        "a path that begins with '/' and has no query, no ';', no '.' or '..' segment"
        " and no character that needs percent-encoding"
    )
    check_match(name, path, _PATH, rule)


def signed_exchange(
    config: BusConfig,
    endpoint: Endpoint,
    body: bytes,
    decode: Callable[[Any], T] | None,
    *,
    is_repeatable: bool = True,
    longest_wait: float = math.inf,
    started: float | None = None,
) -> Conversation[T]:
    """Send a signed request; ``decode`` reads the ``data`` of a success.

    Without ``decode``, every success without an error code is one, and the result is
    ``None``.

    A request that is not repeatable is sent again only where the server certainly has
    not carried it out: after a failed connection, a rate limit, a status 503 or an
    expired timestamp. An error envelope is final if it asks to wait for more than
    ``longest_wait`` seconds; if that is negative, always.

    The deadline counts from ``started``, in monotonic seconds; by default from now.
    """
    stamp = yield GetStamp()
    signature = _Signature(config, endpoint.line, stamp)
    begin = stamp.now if started is None else started
    attempts = Attempts(budget=config.budget, started=begin, logger=_LOGGER)
    attempts.now = stamp.now
    try:
        return (
            yield from exchange(
                "POST",
                endpoint.url,
                lambda reply: judge(reply, decode, signature.secrets, longest_wait),
                content=body,
                authentication=signature,
                attempts=attempts,
                is_repeatable=is_repeatable,
            )
        )
    except WatchBusError as error:
        if is_misconfigured(error):  # the path may be the wrong setting
            error.message += f" (POST {endpoint.line.split(';')[1]})"
        raise


@mutable
class _Signature:
    """The signatures of the attempts of one request.

    Attributes:
        stamp: the time and nonce of the first attempt; ``None`` afterwards.
        skew_before: the correction of the clock, if this request has changed it.
        secrets: the signature of the latest attempt, and the secret.
    """

    config: BusConfig
    line: str
    stamp: Reply | None
    skew_before: float | None = None
    secrets: Secrets = field(factory=Secrets, init=False)

    def headers(
        self, content: bytes | None, attempts: Attempts
    ) -> Conversation[Headers]:
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
        self.secrets = Secrets([signature, config.credentials.secret])
        return Headers({"Accept": "application/json", **headers})

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
        log_skew(self.config.host, skew.seconds)
        yield from ()


def judge(
    response: Response,
    decode: Callable[[Any], T] | None,
    secrets: Secrets,
    longest_wait: float = math.inf,
) -> Verdict[T]:
    """Return what a response means; raise errors that no retry can change.

    The secrets are removed from every message. The other arguments are those of
    :func:`signed_exchange`.
    """

    def read(content: bytes) -> Done[Any]:
        if decode is None:
            read_acknowledgement(content, response.status)
            return Done(None)
        return Done(decode(read_answer(content, response.status)))

    # What fails is read again without the secrets, for errors quote it.
    with suppress(WatchBusError, DecodeError):
        return read(response.content)
    try:
        return read(redact(response.content, secrets))
    except UnreadableAnswer as error:
        return TryLater(error)
    except WatchBusError as error:
        return _judge_error(error, response, secrets, longest_wait)


_FAILURES: Final = {"error", "fail", "failed", "failure"}
"""The documented status of an error, and what else says that a request has failed."""


def read_acknowledgement(body: bytes, status: int) -> None:
    """Raise an error unless a response acknowledges a request; no form is documented.

    A web page is an error: it comes from another server, or from a wrong path. So is
    JSON that cannot be decoded: it may be an error envelope.
    """
    text = body.lstrip(_BEFORE_TEXT)
    if not 200 <= status < 300 or text.startswith(b"<"):
        read_answer(body, status)
        return
    try:
        answer = read_json(body.removeprefix(BOM_UTF8))
    except DecodeError as error:
        if text.startswith((b"{", b"[")):
            raise UnreadableAnswer(*error.problems, excerpt=error.excerpt) from error
        return  # such as OK, or nothing
    if not isinstance(answer, dict):
        return
    if answer.get("success") is False:
        raise WatchBusError("the answer is a failure", status=status)
    code = str(answer.get("code") or "")  # some receivers repeat the status
    is_error = code != str(status) and code.strip("0")
    if is_error or str(answer.get("status")).casefold() in _FAILURES:
        read_answer(body, status)


def _judge_error(
    error: WatchBusError, response: Response, secrets: Secrets, longest_wait: float
) -> Reauthenticate | TryLater:
    status, code = response.status, error.code
    if isinstance(error, Contradiction):
        raise error
    wait = retry_after(response)
    if code == ResultCode.RATE_LIMIT or (code is None and status == 429):
        limited = RateLimited(str(error), status=status, code=code, retry_after=wait)
        limited.__cause__ = error
        return TryLater(limited, wait, is_safe_to_retry=True)
    if code is None and (target := redirect_target(response, secrets)):
        raise WatchBusError(
            f"redirected to {target} (status {status}); {REDIRECTED}",
            status=status,
        )
    date = response.headers.get("date", "")
    ahead = server_ahead(error, date, response.received_at)
    if ahead is not None:
        return Reauthenticate(error, ahead)
    error.retry_after = wait
    if code is None:
        is_transient = status in TRANSIENT
    else:
        is_transient = code == ResultCode.SERVER_ERROR and not 400 <= status < 500
        is_transient &= (wait or 0.0) <= longest_wait
    if not is_transient:
        raise error
    return TryLater(error, wait, is_safe_to_retry=status == 503)


def server_ahead(error: OrtegeWatchError, date: str, now: float) -> float | None:
    """Return the seconds that a server's clock is ahead, if it calls a request expired.

    ``date`` is the ``Date`` header of the response, ``now`` our clock in unix seconds.
    """
    if not isinstance(error, WatchBusError) or error.code != ResultCode.SIGNATURE_ERROR:
        return None
    reason = (error.reason or "").casefold()
    moment = http_date(date)
    if moment is None or "timestamp" not in reason or "expired" not in reason:
        return None
    # The header has whole seconds: on average it is half a second late.
    return moment + 0.5 - now


def log_skew(host: str, ahead: float) -> None:
    """Log that the clock is corrected: that of ``host`` is ``ahead`` seconds ahead."""
    where = "behind" if ahead > 0 else "ahead of"
    problem = "our clock is %.0f s %s %s: synchronise it"
    _LOGGER.warning(problem, abs(ahead), where, host)


def is_rejection(error: OrtegeWatchError) -> TypeGuard[WatchBusError]:
    """Return whether an alert is rejected for its content, and always will be.

    An undocumented code is a rejection, or one alert might block all the others.
    """
    if not isinstance(error, WatchBusError) or isinstance(error, Contradiction):
        return False
    code, status = error.code, error.status
    if code in _DOCUMENTED:
        return code in {None, ResultCode.SERVER_ERROR} and status in _INVALID
    return status in _INVALID or status in range(200, 300)


def is_misconfigured(error: OrtegeWatchError) -> bool:
    """Return whether it seems that every request will fail until a setting is corrected.

    A plain 403 is not one: a firewall may refuse the content of one request.
    """
    if not isinstance(error, WatchBusError):
        is_unreadable = isinstance(error, UnreadableAnswer)
        return isinstance(error, DecodeError) and not is_unreadable
    if error.code in _REFUSED:
        reason = (error.reason or "").casefold()
        return not any(part in reason for part in _PASSING)
    return error.status in _MISCONFIGURED or 300 <= error.status < 400


def is_of_server(error: OrtegeWatchError) -> bool:
    """Return whether an error says nothing about the alerts of the request."""
    if not isinstance(error, WatchBusError) or is_misconfigured(error):
        return True
    if error.code is None:
        return error.status in _OVERLOADED
    return error.code in _REFUSED
