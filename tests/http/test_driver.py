from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import inspect
import socket
import ssl
import threading
import time
import warnings

import httpcore
import httpx
import pytest
import respx

from ortege_watch._http import deadline
from ortege_watch._http.conversation import (
    Failure,
    GetToken,
    Pause,
    Request,
    Response,
)
from ortege_watch._http.driver import AsyncHttpDriver, HttpDriver, ssl_context
from ortege_watch._http.token_source import TokenSource
from ortege_watch.errors import (
    DecodeError,
    InvalidArgument,
    OrtegeWatchError,
    TransportError,
)
from ortege_watch.testing import FakeCube

HOST = "cube.example.com"
TOKENS = TokenSource("secret-token")
both = pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])


def request(url=f"https://{HOST}/cubejs-api/v1/meta", **settings):
    headers = {"authorization": "Bearer secret-token"}
    return Request(
        **{"method": "GET", "headers": headers, "timeout": 5.0} | settings, url=url
    )


def one(effect):
    """Yield one effect and return what came of it."""
    answer = yield effect
    return answer


async def perform(effect, *, sync, **settings):
    if sync:
        driver = HttpDriver(**settings)
        with contextlib.closing(driver):
            return await asyncio.to_thread(driver.run, one(effect))
    driver = AsyncHttpDriver(**settings)
    async with contextlib.aclosing(driver):
        return await driver.arun(one(effect))


async def outcome(effect, **settings):
    return (await perform(effect, **settings)).outcome


class Loopback:
    """Accept connections and let a function talk on each, in threads.

    Without a function, say nothing until the client closes the connection.
    """

    def __init__(self, talk=None, reads=65536):
        self.talk = talk or self.until_gone
        self.reads = reads  # bytes at most, before the function talks
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/"
        self.gone = threading.Event()
        self.connections = []
        self.threads = [threading.Thread(target=self.accept)]

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections.append(connection)
                thread = threading.Thread(target=self.serve, args=[connection])
                self.threads.append(thread)
                thread.start()

    def serve(self, connection):
        with contextlib.suppress(OSError), connection:
            connection.recv(self.reads)
            self.talk(connection)

    def until_gone(self, connection):
        while connection.recv(65536):
            pass
        self.gone.set()

    def __enter__(self):
        self.threads[0].start()
        return self

    def __exit__(self, *_):
        for each in (self.listener, *self.connections):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self.threads:
            thread.join()


def sends(data):
    return lambda connection: connection.sendall(data)


# ------------------------------------------------------------------- what is sent


@both
@respx.mock
async def test_a_request_is_sent_as_it_is_asked_for(sync):
    route = respx.post(f"https://{HOST}/load").respond(
        201, content=b"x", headers={"A": "b"}
    )
    effect = request(
        f"https://{HOST}/load",
        method="POST",
        content=b'{"a":1}',
        headers={"authorization": "Bearer secret-token", "x-request-id": "7"},
    )
    response = await outcome(effect, sync=sync)
    sent = route.calls.last.request
    assert sent.content == b'{"a":1}'
    assert sent.headers["authorization"] == "Bearer secret-token"
    assert sent.headers["x-request-id"] == "7"
    assert sent.headers["user-agent"].startswith("ortege-watch/")
    assert sent.extensions["timeout"] == dict.fromkeys(
        ("connect", "read", "write", "pool"), 5.0
    )
    assert (response.status, response.content) == (201, b"x")
    assert response.headers["a"] == "b"
    assert abs(response.received_at - time.time()) < 60


@both
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_arrives_in_one_piece(sync, method):
    arrived = []

    def talk(connection):
        while True:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            piece = connection.recv(65536)
            if not piece:
                return
            arrived.append(piece)

    def conversation():
        content = None if method == "GET" else b"x" * 1000
        for _ in range(20):
            asked = request(server.url, method=method, content=content)
            assert (yield asked).outcome.content == b"ok"

    with Loopback(talk) as server:
        if sync:
            with contextlib.closing(HttpDriver()) as driver:
                driver.run(conversation())
        else:
            async with contextlib.aclosing(AsyncHttpDriver()) as driver:
                await driver.arun(conversation())
    assert len(arrived) == 19  # the first one is read before talk()
    assert all(
        each.startswith(method.encode())
        and each.endswith(b"\r\n\r\n" if method == "GET" else b"x" * 1000)
        for each in arrived
    )


@both
@pytest.mark.parametrize("size", [4095, 4096, 5000, 3 * 2**20])
async def test_a_larger_body_arrives_whole(sync, size):
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    arrived = bytearray()

    def talk(connection):
        while not arrived.endswith(body):
            arrived.extend(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with Loopback(talk, reads=0) as server:
        asked = request(server.url, method="POST", content=body)
        assert (await outcome(asked, sync=sync)).status == 204
    assert arrived.count(b"\r\n\r\n") == 1


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (deadline._Backend, httpcore.NetworkBackend),
        (deadline._Stream, httpcore.NetworkStream),
        (deadline._AsyncBackend, httpcore.AsyncNetworkBackend),
        (deadline._AsyncStream, httpcore.AsyncNetworkStream),
    ],
)
def test_network_streams_take_the_keywords_of_httpcore(ours, theirs):
    """A SOCKS proxy uses others than HTTP, and needs packages that are not here."""
    shared = vars(ours).keys() & dict(inspect.getmembers(theirs, inspect.isfunction))
    assert len(shared) > 0
    for name in shared:
        keywords = inspect.signature(getattr(theirs, name)).parameters
        inspect.signature(getattr(ours, name)).bind(**dict.fromkeys(keywords))


@both
async def test_every_answer_has_the_time_and_a_draw(sync):
    before = time.monotonic()
    answers = [await perform(GetToken(TOKENS), sync=sync) for _ in range(20)]
    assert all(answer.token == "secret-token" for answer in answers)
    assert all(before <= answer.now <= time.monotonic() for answer in answers)
    assert all(0 <= answer.jitter < 1 for answer in answers)
    assert len({answer.jitter for answer in answers}) > 1


class Clock:
    """Move only when somebody sleeps, or by a step each time it is read."""

    def __init__(self, step=0.0):
        self.time = 0.0
        self.step = step
        self.slept = []

    def now(self):
        self.time += self.step
        return self.time

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.time += seconds


class AsyncClock(Clock):
    async def sleep(self, seconds):
        super().sleep(seconds)


@both
async def test_a_pause_sleeps_on_the_clock(sync):
    clock = Clock() if sync else AsyncClock()
    answer = await perform(Pause(7.5), sync=sync, clock=clock)
    assert clock.slept == [7.5]
    assert answer.now == 7.5


@both
@respx.mock
async def test_a_redirect_is_an_answer(sync):
    respx.get(f"https://{HOST}/").respond(
        302, headers={"location": "https://evil.example/"}
    )
    response = await outcome(request(f"https://{HOST}/"), sync=sync)
    assert response.status == 302


# ------------------------------------------------------------------ what goes wrong


def concrete(kind):
    below = [each for child in kind.__subclasses__() for each in concrete(child)]
    return [kind, *below]


FOREIGN = [
    *concrete(httpx.HTTPError),
    httpx.InvalidURL,
    httpx.CookieConflict,
    *concrete(httpx.StreamError),
]
PASSING = (
    httpx.TimeoutException,
    httpx.NetworkError,
    httpx.RemoteProtocolError,
    httpx.ProxyError,
)


def foreign(kind):
    if issubclass(kind, httpx.HTTPStatusError):
        asked = httpx.Request("GET", "https://x")
        return kind("words", request=asked, response=httpx.Response(500))
    if "message" in inspect.signature(kind).parameters:
        return kind("words")
    return kind()


@both
@pytest.mark.parametrize("kind", FOREIGN)
async def test_no_exception_of_httpx_comes_out(sync, kind):
    def handler(_):
        raise error

    error = foreign(kind)
    failure = await outcome(request(), sync=sync, http=httpx.MockTransport(handler))
    assert isinstance(failure, Failure)
    assert isinstance(failure.error, TransportError | DecodeError)
    assert failure.error.__cause__ is error
    assert failure.retry is issubclass(kind, PASSING)
    assert not failure.expired


@both
@pytest.mark.parametrize("module", ["socksio.exceptions", "httpcore._exceptions"])
async def test_no_exception_of_a_package_below_httpx_comes_out(sync, module):
    def handler(_):
        raise error

    # As httpx lets it through where a SOCKS proxy hangs up.
    kind = type("ProtocolError", (Exception,), {"__module__": module})
    error = kind("Malformed reply")
    failure = await outcome(request(), sync=sync, http=httpx.MockTransport(handler))
    assert isinstance(failure, Failure)
    assert isinstance(failure.error, TransportError)
    assert "no response: Malformed reply" in str(failure.error)
    assert failure.error.__cause__ is error
    assert failure.retry


@both
async def test_a_closed_client_of_the_users_is_said_to_be_closed(sync):
    http = httpx.Client() if sync else httpx.AsyncClient()
    if sync:
        http.close()
    else:
        await http.aclose()
    failure = await outcome(request(), sync=sync, http=http)
    assert type(failure.error) is OrtegeWatchError
    expected = "the client passed as http= is closed; create a new one"
    assert str(failure.error) == expected
    assert not failure.retry


@both
async def test_an_error_in_the_users_own_transport_is_the_users(sync):
    def handler(_):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await outcome(request(), sync=sync, http=httpx.MockTransport(handler))


@both
async def test_nobody_listens(sync):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    failure = await outcome(request(f"http://127.0.0.1:{port}/"), sync=sync)
    assert failure.retry
    assert "cannot connect: " in str(failure.error)


@both
async def test_a_name_that_no_resolver_takes(sync):
    failure = await outcome(request(f"http://{'a' * 64}.example/"), sync=sync)
    assert isinstance(failure.error, TransportError)


@both
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf",
        b"SSH-2.0-OpenSSH_9.6\r\n",
    ],
    ids=["at once", "in the head", "in the body", "in a chunk", "no HTTP"],
)
async def test_a_connection_that_breaks_may_be_tried_again(sync, data):
    with Loopback(sends(data)) as server:
        failure = await outcome(request(server.url), sync=sync)
    assert isinstance(failure.error, TransportError)
    assert failure.retry


@both
async def test_a_server_that_is_silent(sync):
    with Loopback() as server:
        failure = await outcome(request(server.url, timeout=0.05), sync=sync)
        assert server.gone.wait(5)
    assert "was silent for 0.05 s (ReadTimeout)" in str(failure.error)
    assert failure.retry
    assert not failure.expired


@both
async def test_tls_to_a_server_without(sync):
    with Loopback(sends(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as server:
        url = server.url.replace("http:", "https:")
        failure = await outcome(request(url), sync=sync)
    assert isinstance(failure.error, TransportError)


@both
async def test_tls_to_a_server_without_that_closes_the_connection(sync):
    with FakeCube() as fake:
        url = fake.url.replace("http:", "https:")
        failure = await outcome(request(url), sync=sync)
    assert "if the port does not speak TLS, correct the scheme" in str(failure.error)


@both
async def test_a_refused_certificate_is_not_tried_again(sync):
    def handler(asked):
        try:
            raise ssl.SSLCertVerificationError(1, "certificate has expired")
        except ssl.SSLError as error:
            raise httpx.ConnectError(str(error), request=asked) from error

    failure = await outcome(request(), sync=sync, http=httpx.MockTransport(handler))
    assert "certificate refused" in str(failure.error)
    assert not failure.retry


@both
async def test_a_failing_token_provider_is_the_callers_to_see(sync):
    def provider():
        raise OSError("vault")

    with pytest.raises(OrtegeWatchError, match="token function failed"):
        await perform(GetToken(TokenSource(provider)), sync=sync)


# ------------------------------------------------------------------ limits of size


@both
@respx.mock
async def test_a_compressed_answer_is_unpacked(sync):
    packed = gzip.compress(b"[" + b" " * 1000 + b"]")
    encoded = {"content-encoding": "gzip"}
    respx.get(f"https://{HOST}/").respond(content=packed, headers=encoded)
    response = await outcome(request(f"https://{HOST}/"), sync=sync)
    assert len(response.content) == 1002


@both
@respx.mock
async def test_an_answer_that_cannot_be_unpacked(sync):
    encoded = {"content-encoding": "gzip"}

    def stream():
        yield b"no gzip"

    async def astream():
        yield b"no gzip"

    content = stream() if sync else astream()
    respx.get(f"https://{HOST}/").mock(
        return_value=httpx.Response(200, headers=encoded, content=content)
    )
    failure = await outcome(request(f"https://{HOST}/"), sync=sync)
    assert isinstance(failure.error, DecodeError)
    assert "decompressed" in str(failure.error)


@both
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_a_larger_answer_is_not_read_to_its_end(sync, encoding):
    body = b"x" * 200_000
    content = gzip.compress(body) if encoding == "gzip" else body

    def handler(_):
        headers = {"content-encoding": encoding, "content-length": str(len(content))}
        return httpx.Response(200, headers=headers, stream=httpx.ByteStream(content))

    http = httpx.MockTransport(handler)
    failure = await outcome(request(), sync=sync, http=http, max_size=199_999)
    assert isinstance(failure.error, DecodeError)
    assert "response exceeds max_size (199999 bytes)" in str(failure.error)
    assert not failure.retry
    response = await outcome(request(), sync=sync, http=http, max_size=200_000)
    assert len(response.content) == 200_000


# ------------------------------------------------------------------ limits of time


async def test_the_limit_ends_a_task_that_gets_nothing():
    with Loopback() as server:
        failure = await outcome(request(server.url, limit=0.05), sync=False)
        assert server.gone.wait(5)
    assert failure.expired
    assert "within 0.05 s" in str(failure.error)


def test_the_limit_ends_a_thread_that_gets_a_drip():
    class Drip(httpx.SyncByteStream):
        def __iter__(self):
            while True:
                yield b"."

    http = httpx.MockTransport(lambda _: httpx.Response(200, stream=Drip()))
    driver = HttpDriver(http=http, clock=Clock(step=1.0))
    failure = driver.run(one(request(limit=10.0))).outcome
    assert failure.expired
    assert isinstance(failure.error, TransportError)


async def test_cancellation_passes_and_closes_the_connection():
    asked = threading.Event()

    def talk(connection):
        asked.set()
        server.until_gone(connection)

    with Loopback(talk) as server:
        driver = AsyncHttpDriver()
        task = asyncio.create_task(driver.arun(one(request(server.url))))
        assert await asyncio.to_thread(asked.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.gone.wait, 5)
        await driver.aclose()


# ----------------------------------------------------------------- opening, closing


@both
async def test_a_closed_shell_says_so(sync):
    if sync:
        driver = HttpDriver()
        driver.close()
        driver.close()
        answer = driver.run(one(request()))
    else:
        driver = AsyncHttpDriver()
        await driver.aclose()
        await driver.aclose()
        answer = await driver.arun(one(request()))
    assert "the client is closed" in str(answer.outcome.error)


@both
async def test_what_the_user_opened_stays_open(sync):
    transport = httpx.MockTransport(lambda _: httpx.Response(204))
    http = (httpx.Client if sync else httpx.AsyncClient)(transport=transport)
    response = await outcome(request(), sync=sync, http=http)
    assert response.status == 204
    assert not http.is_closed


@both
async def test_a_transport_of_the_users_stays_open(sync):
    class Transport(httpx.MockTransport):
        closed = False

        def close(self):
            self.closed = True

        async def aclose(self):
            self.closed = True

    transport = Transport(lambda _: httpx.Response(204))
    response = await outcome(request(), sync=sync, http=transport)
    assert response.status == 204
    assert not transport.closed


@pytest.mark.parametrize(
    ("driver", "http", "advice"),
    [
        (
            HttpDriver,
            httpx.AsyncClient(),
            "http must be an httpx.Client or a transport",
        ),
        (HttpDriver, httpx.AsyncHTTPTransport(), "http must be an httpx.Client"),
        (AsyncHttpDriver, httpx.Client(), "http must be an httpx.AsyncClient"),
        (AsyncHttpDriver, "http://proxy", "got str"),
    ],
)
def test_the_wrong_kind_of_client_is_refused(driver, http, advice):
    with pytest.raises(InvalidArgument, match=advice):
        driver(http=http)


def test_tls_settings_are_made_once():
    assert ssl_context() is ssl_context()
    assert ssl_context().verify_mode is ssl.CERT_REQUIRED


def keeps_alive(connection):
    data = b"HTTP/1.1 204 No Content\r\n\r\n"
    connection.sendall(data)
    while connection.recv(65536):
        connection.sendall(data)


def test_a_driver_opens_nothing_before_its_first_request():
    gone = threading.Event()

    def talk(connection):
        keeps_alive(connection)
        gone.set()

    with Loopback(talk) as server:
        driver = HttpDriver()
        assert server.connections == []
        for _ in range(2):
            assert driver.run(one(request(server.url))).outcome.status == 204
        assert len(server.connections) == 1
        driver.close()
        assert gone.wait(5)


@both
async def test_cookies_of_a_server_are_not_sent_back(sync):
    asked = []

    def handler(sent):
        asked.append(sent.headers.get("cookie"))
        return httpx.Response(200, headers={"set-cookie": "a=b"})

    def conversation():
        for _ in range(2):
            yield request()

    driver = (HttpDriver if sync else AsyncHttpDriver)(
        http=httpx.MockTransport(handler)
    )
    if sync:
        driver.run(conversation())
    else:
        await driver.arun(conversation())
    assert asked == [None, None]


async def twice(driver, url):
    for _ in range(2):
        assert type((await driver.arun(one(request(url)))).outcome) is Response


def test_a_second_event_loop_is_refused():
    def kinds(url):
        driver = AsyncHttpDriver()
        asyncio.run(twice(driver, url))
        for later in (driver.arun(one(request(url))), driver.aclose()):
            try:
                asyncio.run(later)
            except OrtegeWatchError as error:
                yield type(error), str(error)

    with Loopback(keeps_alive) as server, warnings.catch_warnings():
        # The first loop's connection cannot be closed from the second.
        warnings.simplefilter("ignore", ResourceWarning)
        errors = list(kinds(server.url))
        gc.collect()
    message = "the client was used in another event loop; create one client per loop"
    assert errors == [(OrtegeWatchError, message)] * 2


@both
async def test_a_conversation_is_closed_when_its_driver_fails(sync):
    closed = []

    def conversation():
        try:
            yield GetToken(TokenSource(provider))
        finally:
            closed.append(True)

    def provider():
        raise OSError

    with pytest.raises(OrtegeWatchError):
        if sync:
            HttpDriver().run(conversation())
        else:
            await AsyncHttpDriver().arun(conversation())
    assert closed == [True]
