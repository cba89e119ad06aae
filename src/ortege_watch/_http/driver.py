"""The drivers of conversations, for threads and for tasks; only this file imports httpx.

Every exception of httpx becomes an error of this library.
"""

from __future__ import annotations

import functools
import math
import os
import random
import re
import ssl
import threading
import time
from collections.abc import Awaitable
from concurrent.futures import Future, wait
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Generic, NoReturn, Protocol, Self, TypeAlias, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass  # environment and system settings
from uuid import uuid4

import anyio
import httpx
from anyio import to_thread
from anyio.lowlevel import RunVar

from ortege_watch._checks import check_clock, check_int, check_kind, not_copyable
from ortege_watch._http.body import Body
from ortege_watch._http.conversation import (
    DEFAULT_MAX_SIZE,
    Conversation,
    Effect,
    Failure,
    GetStamp,
    GetToken,
    Pause,
    Reply,
    Request,
    Response,
    TokenTimeout,
    Work,
)
from ortege_watch._http.deadline import (
    DEADLINE,
    DeadlinePassed,
    Sockets,
    guard,
    send_at_once,
)
from ortege_watch.errors import (
    DecodeError,
    InvalidArgument,
    OrtegeWatchError,
    TransportError,
)
from ortege_watch.tokens import Concealed, redact, safe_cause

T = TypeVar("T")
C = TypeVar("C", httpx.Client, httpx.AsyncClient)
B = TypeVar("B", httpx.BaseTransport, httpx.AsyncBaseTransport)

Http: TypeAlias = httpx.Client | httpx.BaseTransport
AsyncHttp: TypeAlias = httpx.AsyncClient | httpx.AsyncBaseTransport

_FOREIGN: Final = (
    httpx.HTTPError,
    httpx.InvalidURL,
    httpx.CookieConflict,
    # httpx for a closed client and a spent stream; asyncio for another event loop.
    RuntimeError,
    # A host that no resolver accepts is a UnicodeError; a proxy that httpx does not
    # accept is a ValueError, or an ImportError where it needs another package.
    ValueError,
    ImportError,
    # An alert of TLS 1.3 after the handshake is an ssl.SSLError in a task.
    OSError,
)
"""The exceptions that httpx raises or lets through."""

_BELOW_HTTPX: Final = frozenset({"httpcore", "h11", "h2", "socksio", "anyio"})
"""The packages whose own exceptions httpx may let through: it maps only those that it
knows, and socksio's error for what a SOCKS proxy answers is not among them."""

_NO_TLS: Final = "the port does not speak TLS: correct the scheme or port of the url"
_OLD_TLS: Final = "ssl= allows no TLS version that the server supports"
_NO_CLIENT_CERTIFICATE: Final = "load the client certificate that it requires into ssl="
_TLS_ADVICE: Final = {
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,  # the same since OpenSSL 3.2
    # By a server that closes the connection; it may do that for another reason.
    "UNEXPECTED_EOF_WHILE_READING": f"if {_NO_TLS.replace(':', ',')}",
    "TLSV1_ALERT_PROTOCOL_VERSION": _OLD_TLS,
    "UNSUPPORTED_PROTOCOL": _OLD_TLS,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": _NO_CLIENT_CERTIFICATE,  # by TLS 1.2
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _NO_CLIENT_CERTIFICATE,
    "CERTIFICATE_VERIFY_FAILED": (
        "correct the url, or pass ssl= with a context that trusts the certificate"
    ),
}

_NO_RESPONSE: Final = (
    "Server disconnected without sending a response",  # httpcore
    "illegal status line",  # h11, such as for an alert of TLS
    "did not receive a valid HTTP response",  # websockets
)
"""What an error says if a server does not answer a request with HTTP."""

_NO_HTTP: Final = (
    "if the port expects TLS, change the scheme of the url to https or wss"
)

_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy")
"""The environment variables, also in upper case, that name a proxy."""

_CLOSED: Final = "the client is closed; create a new one"
_CLOSED_HTTP: Final = "the client passed as http= is closed; create a new one"

_EXPECTED: Final = "expected a URL such as http://proxy.example.com:3128"

_AUTHORITIES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""The environment variables that name certificate authorities."""

_HOST: Final = re.compile(r"[\w.-]+|[\da-f:.]+(%[\w.-]+)?")
"""The name or the address of a proxy."""

_SOCKS: Final = ("socksio", "python_socks")
"""The packages with which httpx and websockets use a SOCKS proxy."""

_PHASES: Final = ("connect", "read", "write", "pool")
"""What httpx limits by the timeout of a request, each by itself."""

_LOOP: Final = RunVar[object]("ortege_watch_loop")  # an object for each event loop


class Clock(Protocol):
    """A monotonic clock for threads."""

    def now(self) -> float:
        """Return monotonic seconds."""
        ...

    def sleep(self, seconds: float, /) -> object:
        """Wait so many seconds."""
        ...


class AsyncClock(Protocol):
    """A monotonic clock for tasks."""

    def now(self) -> float:
        """Return monotonic seconds."""
        ...

    async def sleep(self, seconds: float, /) -> object:
        """Wait so many seconds."""
        ...


class SystemClock:
    """The clock of a driver, whose closing ends a pause."""

    now = staticmethod(time.monotonic)

    def __init__(self, closing: Future[None]) -> None:
        self._closing = closing

    def sleep(self, seconds: float, /) -> object:
        return wait([self._closing], seconds)


class AsyncSystemClock:
    now = staticmethod(time.monotonic)
    sleep = staticmethod(anyio.sleep)


def ssl_context() -> ssl.SSLContext:
    """Return the TLS settings that all clients and sockets of the process share.

    Loading the certificate authorities is most of what a new client costs.

    Raises:
        InvalidArgument: the authorities that the environment names cannot be loaded.
    """
    # The first that is set is the one that httpx reads.
    for name in _AUTHORITIES:
        if value := os.environ.get(name):
            return _load_authorities(name, value)
    return _load_authorities("", "")


@functools.cache
def _load_authorities(name: str, value: str) -> ssl.SSLContext:
    # httpx 0.28 reads the two as here, 0.27 skips a path that does not exist.
    problem = "expected a file of certificates in PEM format"
    try:
        if not name:
            return httpx.create_ssl_context()
        if name == "SSL_CERT_FILE":
            return ssl.create_default_context(cafile=value)
        problem = "expected a directory of certificates, prepared by openssl rehash"
        # OpenSSL skips a directory that it cannot read, and files with other names.
        if any(
            next(Path(each).glob("[0-9a-f]" * 8 + ".[0-9]*"), None)
            for each in value.split(os.pathsep)
        ):
            return ssl.create_default_context(capath=value)
    except OSError as error:  # such as a name that is too long
        problem = f"{problem} ({error.strerror or error})"
    raise InvalidArgument(f"the environment variable {name} is {value!r}: {problem}")


@functools.cache
def user_agent() -> str:
    """Return what requests and WebSockets of this library send as ``User-Agent``."""
    with suppress(PackageNotFoundError):  # in an application frozen without metadata
        return f"ortege-watch/{version('ortege-watch')}"
    return "ortege-watch"


def check_environment(tls: ssl.SSLContext | None) -> None:
    """Raise InvalidArgument for an unusable environment variable.

    They name proxies and, for clients without TLS settings, certificate authorities. The
    message does not show a proxy, in which there may be a password.
    """
    if tls is None and any(map(os.environ.get, _AUTHORITIES)):
        ssl_context()
    for name in (*_PROXIES, *map(str.upper, _PROXIES)):
        proxy = Concealed(os.environ.get(name))
        if proxy.value and (problem := _proxy_problem(_with_scheme(proxy.value))):
            raise InvalidArgument(
                f"the environment variable {name} is not a usable proxy: {problem}"
            )
    for name in ("no_proxy", "NO_PROXY"):
        value = os.environ.get(name, "")
        if problem := _no_proxy_problem(value):
            raise InvalidArgument(
                f"the environment variable {name} is not a list of hosts without a"
                f" proxy: {problem}, got {value!r}"
            )


def _no_proxy_problem(value: str) -> str:
    if ";" in value:
        return "separate them by commas"
    for host in map(str.strip, value.split(",")):
        _, colon, port = host.partition(":")
        # An IPv6 address has several colons; after a single one, a port must follow.
        if "//" in host or (colon and ":" not in port and not port.isdecimal()):
            return f"expected a host, perhaps with a port, in place of {host!r}"
    return ""


def _proxy_problem(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        httpx.Proxy(url)
    except (ValueError, httpx.InvalidURL):
        return _EXPECTED
    if not host or port == 0:
        return "expected a host and a port"
    if not _HOST.fullmatch(host):
        return _EXPECTED
    if parts.scheme.startswith("socks") and not all(map(find_spec, _SOCKS)):
        return f"SOCKS needs the packages {' and '.join(_SOCKS)}"
    return ""


def proxy_for(url: str) -> str | None:
    """Return the proxy of an address; REST requests and WebSockets take the same."""
    parts = urlsplit(url)
    # With the port, and without the brackets of an address of IPv6.
    if proxy_bypass(parts.netloc) or proxy_bypass(parts.hostname or ""):
        return None
    proxies = getproxies()
    scheme = "https" if parts.scheme in {"https", "wss"} else "http"
    found = proxies.get(scheme) or proxies.get("all")
    if not found:
        return None
    # In the form that websockets accepts, too: no path, and no user without a password.
    proxy = urlsplit(_with_scheme(found))
    login, _, host = proxy.netloc.rpartition("@")
    login += "" if ":" in login or not login else ":"
    return f"{proxy.scheme}://{login}{'@' if login else ''}{host}"


def through_proxy(url: str) -> str:
    """Return which proxy a connection goes through, for a message; perhaps nothing."""
    proxy = proxy_for(url)
    return (
        f" through the proxy {urlsplit(proxy).netloc.rpartition('@')[2]}"
        if proxy
        else ""
    )


def _with_scheme(proxy: str) -> str:
    return proxy if "://" in proxy else f"http://{proxy}"


class _Driver(Generic[C, B]):
    """What both drivers share: how requests reach httpx, and whether that is closed.

    They go through a client of the caller as it is configured, or directly through a
    transport: a client's cookies, hooks and redirects are a quarter of the cost of a
    request, and none of them is wanted.
    """

    def __init__(
        self,
        http: C | B | None,
        client: type[C],
        transport: type[B],
        max_size: int,
        tls: ssl.SSLContext | None,
    ) -> None:
        expected = f"an httpx.{client.__name__} or a transport for one"
        check_kind("http", http, client | transport | None, expected)
        check_kind("ssl", tls, ssl.SSLContext | None, "an ssl.SSLContext")
        if tls is not None and tls.protocol is ssl.PROTOCOL_TLS_SERVER:
            raise InvalidArgument(
                "ssl must be a context for clients, such as"
                " ssl.create_default_context(), got one for servers"
            )
        check_int("max_size", max_size)
        self._client: Final[C | None] = http if isinstance(http, client) else None
        self._transport: B | None = http if isinstance(http, transport) else None
        self._is_ours = http is None
        self._closed = False
        self._used_in = 0  # the id of the process
        if self._is_ours:
            check_environment(tls)
        self.max_size = max_size
        self.tls = tls

    def _unless_closed(
        self, outcome: Response | Failure | None
    ) -> Response | Failure | None:
        """Return an outcome; after the closing, only a success is returned as it is."""
        if isinstance(outcome, Response) and outcome.status < 300:
            return outcome
        try:
            self.check_open()
        except OrtegeWatchError as error:
            return Failure(error=error)
        return outcome

    def _through(self, request: Request) -> str:
        """Return the proxy of a request, for messages."""
        # A client of the caller may have other proxies than the environment names.
        return through_proxy(request.url) if self._is_ours else ""

    @property
    def is_closed(self) -> bool:
        """Whether the client is closed, or that of the user."""
        return self._closed or (self._client is not None and self._client.is_closed)

    def check_open(self) -> None:
        """Raise OrtegeWatchError if the client is closed, or that of the user.

        Or if this process was forked from one that has used it: both would use the same
        connections, and a lock of the client may be held by a thread that is not here.
        """
        # As is_closed, without a call: every request does this several times.
        if self._closed or (self._client is not None and self._client.is_closed):
            raise OrtegeWatchError(_CLOSED if self._closed else _CLOSED_HTTP)
        self._used_in = self._used_in or os.getpid()
        if self._used_in != os.getpid():
            raise OrtegeWatchError(
                "the client was used before this process was forked; create a new one"
            )


class HttpDriver(_Driver[httpx.Client, httpx.BaseTransport]):
    """Runs conversations in the calling thread; closes only a client of its own."""

    def __init__(
        self,
        *,
        http: Http | None = None,
        clock: Clock | None = None,
        max_size: int = DEFAULT_MAX_SIZE,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(http, httpx.Client, httpx.BaseTransport, max_size, tls)
        self._closing = Future[None]()
        check_clock(clock, sleep="plain")
        self.clock: Clock = clock or SystemClock(self._closing)
        # What uses a client of the caller may go on.
        self._sockets = Sockets(self._closing if self._is_ours else Future())
        self._lock = threading.Lock()
        guard(http, self._sockets)

    def run(self, conversation: Conversation[T]) -> T:
        """Perform the effects of a conversation until it returns or raises."""
        try:
            effect = next(conversation)
            while True:
                effect = conversation.send(self._perform(effect))
        except StopIteration as end:
            value: T = end.value
            return value
        finally:
            conversation.close()

    def _perform(self, effect: Effect) -> Reply:
        outcome, token = None, ""
        match effect:
            case Request():
                outcome = self._unless_closed(self._send(effect))
            case GetToken(source, within):
                self.check_open()
                try:
                    token = source.get(within, self._closing)
                except TokenTimeout as error:
                    self.check_open()
                    outcome = Failure(error=error)
            case GetStamp():
                return Reply(now=self.clock.now(), unix=time.time(), nonce=uuid4().hex)
            case Work(call):
                return Reply(now=self.clock.now(), value=call())
            case Pause(seconds):
                self.clock.sleep(seconds)
        return _answer(self.clock.now(), outcome, token)

    def _send(self, request: Request) -> Response | Failure:
        now, end = self.clock.now, math.inf
        if request.limit is not None:
            end = now() + request.limit
        before = DEADLINE.set(None if end == math.inf else (now, end))
        try:
            response = self._respond(request)
            try:
                body = _body(response, request, self.max_size)
                if not response.is_stream_consumed:
                    for chunk in response.iter_raw():
                        body.feed(chunk)
                        if now() >= end:
                            return _expired(request, self._through(request))
            finally:
                response.close()
            return _response(response, body.finish())
        except DeadlinePassed:
            return _expired(request, self._through(request))
        except OrtegeWatchError as error:
            return Failure(error=error, retry=isinstance(error, TransportError))
        except Exception as error:
            if not _is_foreign(error):
                raise
            if now() >= end:
                return _expired(request, self._through(request))
            return _failure(error, request, self._through(request))
        finally:
            DEADLINE.reset(before)

    def _respond(self, request: Request) -> httpx.Response:
        """Send a request; return the response with its body yet to be read."""
        if self._client is not None:
            self.check_open()
            asked = _build_with(self._client, request)
            return self._client.send(asked, stream=True, follow_redirects=False)
        with self._lock:
            self.check_open()
            if self._transport is None:
                self._transport = httpx.HTTPTransport(
                    verify=self.tls or ssl_context(), proxy=proxy_for(request.url)
                )
                guard(self._transport, self._sockets, is_ours=True)
        return self._transport.handle_request(_build(request))

    def close(self) -> None:
        """Close the client that was created here; conversations fail afterwards."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._closing.set_result(None)
            if self._transport is not None and self._is_ours:
                self._transport.close()


class AsyncHttpDriver(_Driver[httpx.AsyncClient, httpx.AsyncBaseTransport]):
    """Runs conversations in tasks of asyncio or trio, as HttpDriver does."""

    def __init__(
        self,
        *,
        http: AsyncHttp | None = None,
        clock: AsyncClock | None = None,
        max_size: int = DEFAULT_MAX_SIZE,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(
            http, httpx.AsyncClient, httpx.AsyncBaseTransport, max_size, tls
        )
        check_clock(clock, sleep="async")
        self.clock: AsyncClock = clock or AsyncSystemClock()
        self._loop: object = None  # stands for the event loop of the connections
        self._running = set[anyio.CancelScope]()  # what the closing ends

    async def arun(self, conversation: Conversation[T]) -> T:
        """Perform the effects of a conversation until it returns or raises."""
        self._check_loop()
        try:
            effect = next(conversation)
            while True:
                effect = conversation.send(await self._perform(effect))
        except StopIteration as end:
            value: T = end.value
            return value
        finally:
            conversation.close()

    async def until_closed(self, call: Awaitable[T]) -> T | None:
        """Await a call; return ``None`` if the closing has ended it."""
        with anyio.CancelScope() as scope:
            self._running.add(scope)
            try:
                return await call
            finally:
                self._running.discard(scope)
        return None

    async def _perform(self, effect: Effect) -> Reply:
        outcome, token = None, ""
        match effect:
            case Request():
                outcome = self._unless_closed(await self._send(effect))
            case GetToken(source, within):
                self.check_open()
                try:
                    token = await self.until_closed(source.aget(within)) or ""
                except TokenTimeout as error:
                    outcome = Failure(error=error)
                if not token:
                    self.check_open()
            case GetStamp():
                return Reply(now=self.clock.now(), unix=time.time(), nonce=uuid4().hex)
            case Work(call, may_block):
                value = await to_thread.run_sync(call) if may_block else call()
                return Reply(now=self.clock.now(), value=value)
            case Pause(seconds):
                await self.until_closed(self.clock.sleep(seconds))
        return _answer(self.clock.now(), outcome, token)

    async def _send(self, request: Request) -> Response | Failure:
        scope = anyio.move_on_after(request.limit)
        self._running.add(scope)
        try:
            with scope:
                response = await self._respond(request)
                try:
                    body = _body(response, request, self.max_size)
                    if not response.is_stream_consumed:
                        async for chunk in response.aiter_raw():
                            body.feed(chunk)
                finally:
                    await response.aclose()
                return _response(response, body.finish())
        except OrtegeWatchError as error:
            return Failure(error=error, retry=isinstance(error, TransportError))
        except Exception as error:
            if not _is_foreign(error):
                raise
            return _failure(error, request, self._through(request))
        finally:
            self._running.discard(scope)
        assert scope.cancelled_caught  # noqa: S101 - for the type checkers
        return _expired(request, self._through(request))

    async def _respond(self, request: Request) -> httpx.Response:
        self.check_open()
        if self._client is not None:
            asked = _build_with(self._client, request)
            return await self._client.send(asked, stream=True, follow_redirects=False)
        if self._transport is None:
            self._transport = httpx.AsyncHTTPTransport(
                verify=self.tls or ssl_context(), proxy=proxy_for(request.url)
            )
            send_at_once(self._transport)
        return await self._transport.handle_async_request(_build(request))

    async def aclose(self) -> None:
        """Close the client that was created here; conversations fail afterwards."""
        self._closed = True
        for scope in self._running:
            scope.cancel()
        if self._transport is not None and self._is_ours:
            self._check_loop()
            await self._transport.aclose()

    def _check_loop(self) -> None:
        """Raise OrtegeWatchError in another event loop than that of the first call."""
        loop = _LOOP.get(None)
        if loop is None:
            _LOOP.set(loop := object())
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise OrtegeWatchError(
                "the client was used in another event loop; create one client per loop"
            )


class HttpClient:
    """Base class of the clients for threads and scripts."""

    _driver: HttpDriver

    def __reduce__(self) -> NoReturn:
        raise not_copyable(self)

    def __enter__(self) -> Self:
        if self._driver.is_closed:
            raise OrtegeWatchError(_CLOSED)
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the client's connections; the client cannot be used afterwards."""
        self._driver.close()


class AsyncHttpClient:
    """Base class of the clients for tasks of asyncio or trio."""

    _driver: AsyncHttpDriver

    def __reduce__(self) -> NoReturn:
        raise not_copyable(self)

    async def __aenter__(self) -> Self:
        if self._driver.is_closed:
            raise OrtegeWatchError(_CLOSED)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the client's connections; the client cannot be used afterwards."""
        await self._driver.aclose()


@functools.lru_cache(maxsize=64)
def _url(url: str) -> httpx.URL:
    """Parse a URL; parsing takes a while, and a client uses the same few."""
    return httpx.URL(url)


def _build(request: Request) -> httpx.Request:
    return httpx.Request(
        request.method,
        _url(request.url),
        headers={
            "user-agent": user_agent(),
            **request.headers,
            "accept-encoding": "gzip",
        },
        content=request.content,
        extensions={"timeout": dict.fromkeys(_PHASES, request.timeout)},
    )


def _build_with(
    client: httpx.Client | httpx.AsyncClient, request: Request
) -> httpx.Request:
    return client.build_request(
        request.method,
        _url(request.url),
        headers={**request.headers, "accept-encoding": "gzip"},
        content=request.content,
        timeout=request.timeout,
    )


def _body(response: httpx.Response, request: Request, max_size: int) -> Body:
    """Return the body of a response, empty unless somebody has already read it."""
    body = Body(max_size)
    if response.is_stream_consumed:  # by a mock or an event hook; httpx has decoded it
        body.feed(response.content)
    elif "content-encoding" in response.headers:
        body.decode(redact(response.headers["content-encoding"], request.secrets))
    return body


def _response(response: httpx.Response, content: bytes) -> Response:
    return Response(
        status=response.status_code,
        headers=response.headers,
        content=content,
        received_at=time.time(),
    )


def _answer(now: float, outcome: Response | Failure | None, token: str) -> Reply:
    jitter = random.random()  # noqa: S311 - spreads retries, guards nothing
    return Reply(now=now, jitter=jitter, outcome=outcome, token=token)


def _expired(request: Request, through: str) -> Failure:
    text = f"no response{through} within {request.limit:.3g} s"
    return Failure(error=TransportError(text), expired=True)


def _is_foreign(error: Exception) -> bool:
    """Return whether httpx raised an error, and not a transport of the caller."""
    return isinstance(error, _FOREIGN) or _is_below_httpx(error)


def _is_below_httpx(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in _BELOW_HTTPX


def _failure(error: Exception, request: Request, through: str) -> Failure:
    """Return the failure for an exception of httpx."""
    retry = isinstance(
        error,
        httpx.TimeoutException
        | httpx.NetworkError
        | httpx.RemoteProtocolError
        | httpx.ProxyError
        | OSError,
    ) or _is_below_httpx(error)
    ours: OrtegeWatchError
    match error:
        case httpx.PoolTimeout():
            ours = TransportError(
                f"no free connection{through} within {request.timeout:.3g} s: too many"
                " requests at once"
            )
        case httpx.TimeoutException():
            ours = TransportError(
                f"the server{through} was silent for {request.timeout:.3g} s"
                f" ({type(error).__name__})"
            )
        case httpx.DecodingError():
            what = redact(str(error), request.secrets)
            ours = DecodeError(f"the response cannot be decompressed ({what})")
        case _ if is_bad_certificate(error):
            ours = TransportError(
                f"certificate{through} refused: {error}{tls_advice(error, request.url)}"
            )
            retry = False
        case _:
            what = redact(_reason(error), request.secrets)
            is_unsent = isinstance(error, httpx.ConnectError)
            problem = "cannot connect" if is_unsent else "no response"
            advice = tls_advice(error, request.url)
            ours = TransportError(f"{problem}{through}: {what}{advice}")
    ours.__cause__ = safe_cause(error, request.secrets)
    unsent = isinstance(
        error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout
    )
    if isinstance(ours, TransportError):
        ours.unsent = unsent
    return Failure(error=ours, retry=retry, unsent=unsent)


def _reason(error: BaseException) -> str:
    """Return what an error of httpx says, or what the system said where it is vague."""
    inner: BaseException | None = error
    found = ""
    while inner is not None and found in {"", "All connection attempts failed"}:
        found, error = str(inner), inner
        inner = error.__cause__ or error.__context__
        if inner is None and isinstance(error, BaseExceptionGroup):
            inner, found = error.exceptions[-1], ""
    return found or type(error).__name__


def is_bad_certificate(error: BaseException | None) -> bool:
    """Return whether the reason of an error is the certificate of the server."""
    return _tls_reason(error) == "CERTIFICATE_VERIFY_FAILED"


def tls_advice(error: BaseException, url: str) -> str:
    """Return what to do about an error of TLS, after a semicolon; or nothing.

    A server with TLS mostly closes the connection if TLS is not spoken to it.
    """
    advice = _TLS_ADVICE.get(_tls_reason(error))
    if url.startswith(("http:", "ws:")) and str(error).startswith(_NO_RESPONSE):
        advice = _NO_HTTP
    return f"; {advice}" if advice else ""


def _tls_reason(error: BaseException | None) -> str:
    """Return OpenSSL's name for the reason of an error, or nothing."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            # Without a reason where a test, or a transport of the caller, makes it.
            is_bad = isinstance(error, ssl.SSLCertVerificationError)
            return "CERTIFICATE_VERIFY_FAILED" if is_bad else error.reason or ""
        # asyncio raises this one, without arguments, if a handshake ends early.
        if isinstance(error, ConnectionResetError) and not error.args:
            return "UNEXPECTED_EOF_WHILE_READING"
        error = error.__cause__ or error.__context__
    return ""
