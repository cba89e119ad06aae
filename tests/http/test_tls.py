"""TLS with real certificates, and proxies: every client, over HTTP and WebSocket."""

from __future__ import annotations

import asyncio
import re
import ssl
import traceback
import warnings
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import pytest
import trustme
from loopback import ConnectProxy, Peer, handshaking, relay, silent

from ortege_watch import (
    AsyncCubeClient,
    CubeClient,
    DeadlineExceeded,
    Dimension,
    OrtegeWatchError,
    Query,
    Reconnect,
    Retry,
    TransportError,
)
from ortege_watch.testing import FakeCube, FakeProvider, FakeWatchBus, ManualClock
from ortege_watch.watchbus import (
    AlertChannel,
    AlertInfo,
    AlertPublisher,
    AsyncAlertPublisher,
    AsyncWatchBusClient,
    Credentials,
    WatchBusClient,
)

pytestmark = pytest.mark.anyio

QUERY = Query(dimensions=[Dimension("stacks_contract_events.sender_address")])
VALUES = {"block_number": 1, "tx_hash": "0x" + "1" * 64, "current_value": "1"}
ALERT = AlertInfo(
    "0x" + "ab" * 20, 56, "ERC20", "big_amount_txn", 1_700_000_000, VALUES
)
SECRET = "s3cret-s3cret-s3cret"
RETRY = Retry(attempts=3, base=0.001, cap=0.002)
RECONNECT = Reconnect(attempts=2, base=0.001, cap=0.002)
FAST = {"retry": RETRY, "timeout": 5.0, "deadline": 10.0}

Settings = Any  # ssl=, or http= and what the test adds


# ------------------------------------------------------- one use of each client


async def load(url: str, token: str, **settings: Settings) -> None:
    async with AsyncCubeClient(url, token, **FAST | settings) as cube:
        await cube.load(QUERY)


async def load_sync(url: str, token: str, **settings: Settings) -> None:
    with CubeClient(url, token, **FAST | settings) as cube:
        await asyncio.to_thread(cube.load, QUERY)


async def watch(url: str, token: str, **settings: Settings) -> None:
    async with (
        AsyncCubeClient(url, token, **FAST | settings) as cube,
        cube.watch(QUERY, transport="websocket", reconnect=RECONNECT) as updates,
    ):
        await anext(updates)


async def watch_sync(url: str, token: str, **settings: Settings) -> None:
    def first() -> None:
        with (
            CubeClient(url, token, **FAST | settings) as cube,
            cube.watch(QUERY, transport="websocket", reconnect=RECONNECT) as updates,
        ):
            next(updates)

    await asyncio.to_thread(first)


async def poll(url: str, token: str, **settings: Settings) -> None:
    async with (
        AsyncCubeClient(url, token, **FAST | settings) as cube,
        cube.watch(
            QUERY, transport="rest", reconnect=RECONNECT, poll_every=0.01
        ) as updates,
    ):
        await anext(updates)


async def events(url: str, credentials: Credentials, **settings: Settings) -> None:
    async with AsyncWatchBusClient(url, credentials, **FAST | settings) as provider:
        await provider.events()


async def events_sync(url: str, credentials: Credentials, **settings: Settings) -> None:
    with WatchBusClient(url, credentials, **FAST | settings) as provider:
        await asyncio.to_thread(provider.events)


async def publish(url: str, credentials: Credentials, **settings: Settings) -> None:
    async with AsyncAlertPublisher(url, credentials, **FAST | settings) as bus:
        await bus.publish([ALERT])


async def publish_sync(
    url: str, credentials: Credentials, **settings: Settings
) -> None:
    with AlertPublisher(url, credentials, **FAST | settings) as bus:
        await asyncio.to_thread(bus.publish, [ALERT])


async def send(url: str, credentials: Credentials, **settings: Settings) -> None:
    limits = {"connect_within": settings.pop("timeout", 5.0)}
    settings.pop("deadline", None)
    channel = AlertChannel(
        url + "/alerts/ws", credentials, reconnect=RECONNECT, **limits, **settings
    )
    async with channel:
        await channel.send([ALERT])


Use = Callable[..., Awaitable[None]]
REST: list[Use] = [load, load_sync, events, events_sync, publish, publish_sync]
EVERY: list[Use] = [*REST, watch, watch_sync, poll, send]
OF_CUBE = {load, load_sync, watch, watch_sync, poll}
every = pytest.mark.parametrize("use", EVERY, ids=lambda use: use.__name__)


def secret_of(use: Use) -> str | Credentials:
    return SECRET if use in OF_CUBE else Credentials("app", SECRET)


async def failure_of(
    use: Use, peer: Peer, scheme: str = "https", **settings: Settings
) -> OrtegeWatchError:
    """Return the error of a use that must fail within 20 s."""
    async with asyncio.timeout(20):
        try:
            await use(f"{scheme}://{peer.host}", secret_of(use), **settings)
        except OrtegeWatchError as error:
            return error
    raise AssertionError("it has succeeded")


def check(error: OrtegeWatchError, peer: Peer, caplog: Any, *words: str) -> None:
    """Check what every failure has: our class, the host, the advice, no secret."""
    shown = str(error)
    assert isinstance(error, TransportError | DeadlineExceeded), shown
    assert peer.host in shown, shown
    for word in words:
        assert word in shown, shown
    for text in (caplog.text, *traceback.format_exception(error)):
        assert SECRET not in text


# --------------------------------------------------------------------- authorities


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """Return settings of a client that trusts this authority alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


def serving(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def self_signed() -> ssl.SSLContext:
    own = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with own.cert_pem.tempfile() as certificate, own.private_key_pem.tempfile() as key:
        context.load_cert_chain(certificate, key)
    return context


class Backend:
    """The fakes behind a server with TLS."""

    def __init__(self, use: Use) -> None:
        self.fake: FakeCube | FakeProvider | FakeWatchBus
        if use in OF_CUBE:
            self.fake = FakeCube()
        elif use in {events, events_sync}:
            self.fake = FakeProvider()
        else:
            self.fake = FakeWatchBus()

    @property
    def secret(self) -> str | Credentials:
        if isinstance(self.fake, FakeCube):
            return self.fake.token()
        return self.fake.credentials

    def __enter__(self) -> Self:
        self.fake.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.fake.stop()


# -------------------------------------------------------------------------- it works


@every
async def test_a_private_authority_is_trusted_by_ssl(use, authority, trusting):
    tls = serving(authority.issue_cert("127.0.0.1"))
    with Backend(use) as backend, Peer(relay(backend.fake.port), tls) as server:
        async with asyncio.timeout(20):
            await use(f"https://{server.host}", backend.secret, ssl=trusting)
    assert server.served >= 1


# ------------------------------------------------------------------- bad certificates

DAY = timedelta(days=1)


def bad(kind: str, authority: trustme.CA) -> trustme.LeafCert:
    now = datetime.now(UTC)
    match kind:
        case "wrong host":
            return authority.issue_cert("cube.example.com")
        case "expired":
            span = {"not_before": now - 2 * DAY, "not_after": now - DAY}
            return authority.issue_cert("127.0.0.1", **span)
        case "not yet valid":
            span = {"not_before": now + DAY, "not_after": now + 2 * DAY}
            return authority.issue_cert("127.0.0.1", **span)
    assert kind == "unknown authority"
    return trustme.CA().issue_cert("127.0.0.1")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("wrong host", ["not valid for '127.0.0.1'"]),
        ("expired", ["certificate has expired"]),
        ("not yet valid", ["certificate is not yet valid"]),
        ("unknown authority", ["unable to get local issuer certificate"]),
        ("self-signed", ["self-signed certificate"]),
    ],
)
@every
async def test_a_bad_certificate_is_refused_at_once(
    use, kind, words, authority, trusting, caplog
):
    own = kind == "self-signed"
    tls = self_signed() if own else serving(bad(kind, authority))
    with Peer(silent, tls) as server:
        error = await failure_of(use, server, ssl=trusting)
    check(error, server, caplog, *words)
    assert "certificate" in str(error)
    assert "pass ssl=" in str(error)
    assert server.attempts == 1
    assert server.served == 0  # and so no byte of a request was sent


# ------------------------------------------------- certificates that become bad later

KEEP_TRYING = Reconnect(base=0.001, cap=0.002)
SENDER = "stacks_contract_events.sender_address"
LATER = {
    "expired": "certificate has expired",
    "wrong host": "not valid for '127.0.0.1'",
    "unknown authority": "unable to get local issuer certificate",
}
later = pytest.mark.parametrize("kind", LATER)


async def refused_often(server: Peer, caplog: Any, words: str) -> None:
    """Wait until several attempts have failed for the certificate, in the log."""
    served, attempts = server.served, server.attempts
    async with asyncio.timeout(20):
        while server.attempts < attempts + 4 or caplog.text.count(words) < 3:
            await asyncio.sleep(0.001)
    assert server.served == served
    assert re.search(rf"{server.host}(/\S+, app \S+)?: ", caplog.text)


@later
@pytest.mark.parametrize("transport", ["websocket", "rest"])
async def test_a_certificate_that_becomes_bad_is_an_outage_of_a_subscription(
    transport, kind, authority, trusting, caplog
):
    good = authority.issue_cert("127.0.0.1")
    tls = serving(good)
    options = {"reconnect": KEEP_TRYING, "transport": transport, "poll_every": 0.01}
    with FakeCube() as cube, Peer(relay(cube.port), tls) as server:
        client = AsyncCubeClient(f"https://{server.host}", cube.token(), ssl=trusting)
        async with (
            asyncio.timeout(20),
            client,
            client.watch(QUERY, **options) as updates,
        ):
            assert (await anext(updates)).first
            bad(kind, authority).configure_cert(tls)
            cube.restart()
            await refused_often(server, caplog, LATER[kind])
            assert updates.state in {"connecting", "waiting", "polling"}
            cube.tables["stacks_contract_events"].insert({"sender_address": "SPX"})
            good.configure_cert(tls)
            update = await anext(updates)
    assert [row[SENDER] for row in update.added] == ["SPX"]
    assert update.resumed
    assert "has ended" not in caplog.text


@later
async def test_a_certificate_that_becomes_bad_is_an_outage_of_a_channel(
    kind, authority, trusting, caplog
):
    good = authority.issue_cert("127.0.0.1")
    tls = serving(good)
    with FakeWatchBus() as bus, Peer(relay(bus.port), tls) as server:
        channel = AlertChannel(
            f"https://{server.host}/alerts/ws",
            bus.credentials,
            reconnect=KEEP_TRYING,
            ssl=trusting,
        )
        async with asyncio.timeout(20), channel:
            await channel.send([ALERT])
            bad(kind, authority).configure_cert(tls)
            bus.restart()
            sending = asyncio.ensure_future(channel.send([ALERT]))
            await refused_often(server, caplog, LATER[kind])
            assert not sending.done()
            good.configure_cert(tls)
            await sending


# ------------------------------------------------------- other failures of handshakes


async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer whatever comes as an HTTP server without TLS does."""
    await reader.read(1)
    writer.write(
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
    await writer.drain()


@every
async def test_a_server_without_tls_on_the_port(use, trusting, caplog):
    with Peer(plain) as server:
        error = await failure_of(use, server, ssl=trusting)
    check(error, server, caplog, "correct the scheme or port of the url")


async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close the connection at what is not HTTP, as a fake Cube does."""
    await reader.read(1)


@every
async def test_a_server_without_tls_that_closes_the_connection(use, trusting, caplog):
    with Peer(closing) as server:
        error = await failure_of(use, server, ssl=trusting)
    check(error, server, caplog, "if the port does not speak TLS, correct the scheme")


async def alerting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with an alert of TLS: a protocol version that is not supported."""
    await reader.read(1)
    writer.write(b"\x15\x03\x01\x00\x02\x02\x46" + b"\r\n\r\n")
    await writer.drain()


@every
@pytest.mark.parametrize("answers", [False, True])
async def test_a_server_with_tls_that_is_called_without(use, answers, caplog):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with Peer(alerting) if answers else Peer(silent, tls) as server:
        error = await failure_of(use, server, scheme="http")
    check(error, server, caplog, "change the scheme of the url to https or wss")


LIMITED = [*REST, poll, send]  # watch() has a limit of its own
limited = pytest.mark.parametrize("use", LIMITED, ids=lambda use: use.__name__)


@limited
async def test_a_handshake_that_stalls_is_bounded(use, trusting, caplog):
    limits = {"timeout": 0.2, "deadline": 2.0}
    with Peer(silent) as server:
        error = await failure_of(use, server, ssl=trusting, **limits)
    check(error, server, caplog)


@every
async def test_a_server_with_old_versions_of_tls_only(use, authority, trusting, caplog):
    tls = serving(authority.issue_cert("127.0.0.1"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        tls.minimum_version = ssl.TLSVersion.TLSv1
        tls.maximum_version = ssl.TLSVersion.TLSv1_1
    tls.set_ciphers("ALL:@SECLEVEL=0")
    with Peer(handshaking(tls)) as server:
        error = await failure_of(use, server, ssl=trusting)
    check(error, server, caplog, "ssl= allows no TLS version that the server supports")


# ------------------------------------------------------------- a stalled subscription


@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "proxy"])
async def test_a_subscription_that_stalls_is_an_outage(
    proxied, trusting, through, caplog
):
    clock = ManualClock()
    with Peer(silent) as server, ConnectProxy(None) as proxy:
        if proxied:
            through(proxy)
        stalled = proxy if proxied else server
        url = f"https://{server.host}"
        async with (
            AsyncCubeClient(url, SECRET, clock=clock, ssl=trusting) as cube,
            cube.watch(QUERY, transport="websocket", reconnect=RECONNECT) as updates,
            asyncio.timeout(20),
        ):
            iterating = asyncio.ensure_future(anext(updates))
            for attempt in range(RECONNECT.attempts):
                while stalled.served <= attempt:
                    await asyncio.sleep(0.001)
                    if clock.sleepers and clock.sleepers[0] <= RECONNECT.cap:
                        await clock.advance(clock.sleepers[0])
                await clock.advance(20)
            with pytest.raises(
                TransportError, match="no answer to the WebSocket upgrade within 20 s"
            ):
                await iterating
    assert clock.now() < 70


# ------------------------------------------------------------------ client certificate


def demanding(authority: trustme.CA, version: ssl.TLSVersion) -> ssl.SSLContext:
    """Return settings of a server that asks for a certificate of the authority."""
    tls = serving(authority.issue_cert("127.0.0.1"))
    tls.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(tls)
    tls.minimum_version = tls.maximum_version = version
    return tls


versions = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"]
)


@versions
@every
async def test_a_client_certificate_is_presented(use, version, authority, trusting):
    authority.issue_cert("bot@example.com").configure_cert(trusting)
    tls = demanding(authority, version)
    with Backend(use) as backend, Peer(relay(backend.fake.port), tls) as server:
        async with asyncio.timeout(20):
            await use(f"https://{server.host}", backend.secret, ssl=trusting)


@versions
@every
async def test_a_client_certificate_is_missing(
    use, version, authority, trusting, caplog
):
    with Peer(handshaking(demanding(authority, version))) as server:
        error = await failure_of(use, server, ssl=trusting)
    check(error, server, caplog, "load the client certificate")


# ------------------------------------------------------------------------------ proxies


@pytest.fixture
def through(monkeypatch):
    """Return a function that names a proxy in the environment."""
    for scheme in ("http", "https", "all", "ws", "wss", "socks", "no"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme.upper()}_PROXY", raising=False)

    def set_proxy(proxy: Peer) -> None:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.host}")

    return set_proxy


@every
async def test_a_tunnel_of_a_proxy(use, authority, trusting, through):
    tls = serving(authority.issue_cert("127.0.0.1"))
    with (
        Backend(use) as backend,
        Peer(relay(backend.fake.port), tls) as server,
        ConnectProxy() as proxy,
    ):
        through(proxy)
        async with asyncio.timeout(20):
            await use(f"https://{server.host}", backend.secret, ssl=trusting)
    assert all(each.startswith(f"CONNECT {server.host} ") for each in proxy.asked)
    assert len(proxy.asked) == server.attempts >= 1
    assert "authorization" not in "".join(proxy.asked).lower()


REFUSED = b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n"


@every
async def test_a_bad_certificate_behind_a_proxy(
    use, authority, trusting, through, caplog
):
    tls = serving(bad("expired", authority))
    with Peer(silent, tls) as server, ConnectProxy() as proxy:
        through(proxy)
        error = await failure_of(use, server, ssl=trusting)
    check(error, server, caplog, "certificate has expired")
    assert server.served == 0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (REFUSED % b"407 Proxy Authentication Required", ["407"]),
        (REFUSED % b"502 Bad Gateway", ["502"]),
        (b"SSH-2.0-OpenSSH_9.6\r\n", []),
        (b"HTTP/1.1 200 OK\r\n\r\nnot TLS" + b"x" * 100, []),
    ],
    ids=["407", "502", "garbage", "no tunnel"],
)
@every
async def test_a_proxy_that_refuses(use, answer, words, trusting, through, caplog):
    with Peer(silent) as server, ConnectProxy(answer) as proxy:
        through(proxy)
        error = await failure_of(use, server, ssl=trusting)
    check(error, server, caplog, *words)
    assert server.attempts == 0


@limited
async def test_a_proxy_that_stalls_is_bounded(use, trusting, through, caplog):
    limits = {"timeout": 0.2, "deadline": 2.0}
    with Peer(silent) as server, ConnectProxy(None) as proxy:
        through(proxy)
        error = await failure_of(use, server, ssl=trusting, **limits)
    check(error, server, caplog)
    assert server.attempts == 0
