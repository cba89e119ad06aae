"""Wrong arguments are refused with an ``InvalidArgument`` that names them."""

from __future__ import annotations

import asyncio
import time
from functools import partial, wraps
from pathlib import Path

import pytest

from ortege_watch import (
    AsyncCubeClient,
    CubeClient,
    Dimension,
    InvalidArgument,
    OrtegeWatchError,
    Query,
    Reconnect,
    Retry,
)
from ortege_watch.testing import FakeCube, FakeProvider, FakeWatchBus, ManualClock
from ortege_watch.watchbus import (
    AlertChannel,
    AlertInbox,
    AlertInfo,
    AlertPublisher,
    AsyncAlertPublisher,
    AsyncWatchBusClient,
    Credentials,
    EntityInfo,
    MemoryNonces,
    Outbox,
    RequestVerifier,
    SQLiteHandled,
    SQLiteNonces,
    SQLiteProvider,
    SupportedEvent,
    WatchBusClient,
    WatchPaths,
    alert_app,
    alert_view,
    provider_app,
    serve_alert_channel,
    sign,
    signed_headers,
)

URL = "https://host.example.com"
GOOD = Credentials("app", "hush")
CUBE = [CubeClient, AsyncCubeClient]
BUS = [WatchBusClient, AsyncWatchBusClient, AlertPublisher, AsyncAlertPublisher]
ENTITY = EntityInfo("0x" + "ab" * 20, 56, "ERC20", "big_amount_txn")
ALERT = AlertInfo(ENTITY.entity, 56, "ERC20", "big_amount_txn", 1_700_000_000, {})
EVENT = SupportedEvent("big_amount_txn", ("ERC20",))
QUERY = Query(dimensions=[Dimension("events.sender")])
STORE = ["claim", "resolve", "release"]
WS = "ws://127.0.0.1:1/alerts"
SIGNED = {"timestamp": 1, "nonce": "0" * 32}
PAIR = "credentials must be Credentials(app_id, secret), got tuple"
FOR_POST = "verifier must be one for POST, with which alerts are sent, got one for"
SECONDS = "must be greater than 0 and at most a million seconds, got"


def verifier(secrets=None, **options):
    return RequestVerifier(secrets or {"app": ["hush"]}, path="/", **options)


def handle(_alert):
    pass


def nothing(): ...


def two(one, other): ...


def keyword(alert, *, database): ...


async def asynchronous(): ...


def generator(alert):
    yield alert


async def async_generator(alert):
    yield alert


class Handler:
    def __call__(self): ...


@pytest.mark.parametrize(
    ("handler", "got"),
    [
        (nothing, "got nothing(): too many positional arguments"),
        (asynchronous, "got asynchronous(): too many positional arguments"),
        (two, "got two(one, other): missing a required argument: 'other'"),
        (keyword, "got keyword(alert, *, database): missing a required"),
        (Handler(), "got Handler(): too many positional arguments"),
        (partial(two, 1, 2), "got partial(): too many positional arguments"),
        (Handler, "got Handler(): too many positional arguments"),
    ],
)
@pytest.mark.parametrize("make", [alert_app, alert_view])
def test_a_handler_must_take_one_alert(make, handler, got):
    with pytest.raises(InvalidArgument) as caught:
        make(verifier(), handler)
    assert str(caught.value).startswith("handler must be callable as handler(alert), ")
    assert got in str(caught.value)


@pytest.mark.parametrize("handler", [generator, async_generator])
@pytest.mark.parametrize("make", [alert_app, alert_view])
def test_a_handler_that_would_not_run_is_refused(make, handler):
    with pytest.raises(InvalidArgument, match="generator function: remove its yield"):
        make(verifier(), handler)


class PlainClock:
    now = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)


class AsyncNow(ManualClock):
    async def now(self):
        return 0.0


ASYNC_CLIENTS = [
    lambda clock: AsyncCubeClient(URL, "token", clock=clock),
    lambda clock: AsyncWatchBusClient(URL, GOOD, clock=clock),
    lambda clock: AsyncAlertPublisher(URL, GOOD, clock=clock),
    lambda clock: AlertChannel(WS, GOOD, clock=clock),
]
SYNC_CLIENTS = [
    lambda clock: CubeClient(URL, "token", clock=clock),
    lambda clock: WatchBusClient(URL, GOOD, clock=clock),
    lambda clock: AlertPublisher(URL, GOOD, clock=clock),
]
FAKES = [
    lambda clock: FakeCube(clock=clock),
    lambda clock: FakeProvider(clock=clock),
    lambda clock: FakeWatchBus(clock=clock),
]
PLAIN = "must be a plain function, got an async one: define it with 'def'"


@pytest.mark.parametrize("make", ASYNC_CLIENTS)
def test_an_async_client_needs_a_clock_with_an_async_sleep(make):
    with pytest.raises(InvalidArgument) as caught:
        make(PlainClock())
    message = "must be async, got a plain function: define it with 'async def'"
    assert str(caught.value) == f"clock.sleep {message}"


@pytest.mark.parametrize("make", SYNC_CLIENTS)
def test_a_sync_client_needs_a_clock_with_a_plain_sleep(make):
    with pytest.raises(InvalidArgument) as caught:
        make(ManualClock())
    assert str(caught.value) == f"clock.sleep {PLAIN}"


@pytest.mark.parametrize("make", [*ASYNC_CLIENTS, *SYNC_CLIENTS, *FAKES])
def test_reading_a_clock_is_not_async(make):
    with pytest.raises(InvalidArgument) as caught:
        make(AsyncNow())
    assert str(caught.value) == f"clock.now {PLAIN}"


@pytest.mark.parametrize("make", FAKES)
def test_the_clock_of_a_fake_can_be_read(make):
    with pytest.raises(InvalidArgument) as caught:
        make(time.time)
    message = "clock must be an object with now(), got builtin_function_or_method"
    assert str(caught.value) == f"{message} without now"


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("clock", lambda: verifier(clock=asynchronous)),
        ("clock", lambda: SQLiteHandled("never.db", clock=asynchronous)),
        ("now", lambda: Outbox("never.db", now=asynchronous)),
        ("now", lambda: FakeProvider(now=asynchronous)),
        ("now", lambda: FakeWatchBus(now=asynchronous)),
    ],
)
def test_a_function_that_returns_the_time_is_not_async(name, make):
    with pytest.raises(InvalidArgument) as caught:
        make()
    assert str(caught.value) == f"{name} {PLAIN}"


class AsyncCallable:
    async def __call__(self, *arguments): ...


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("on_state", lambda it: CubeClient(URL, "token").watch(QUERY, on_state=it)),
        ("on_error", lambda it: CubeClient(URL, "token").watch(QUERY, on_error=it)),
        ("progress", lambda it: new(AlertPublisher).publish([ALERT], progress=it)),
        ("progress", lambda it: new(WatchBusClient).subscribe([ENTITY], progress=it)),
        ("progress", lambda it: new(WatchBusClient).unsubscribe([ENTITY], progress=it)),
        ("invalid", lambda it: FakeWatchBus().reject_alerts(it)),
    ],
)
@pytest.mark.parametrize("callback", [AsyncCallable(), AsyncCallable().__call__])
def test_a_callback_whose_result_is_not_awaited_is_not_async(name, make, callback):
    with pytest.raises(InvalidArgument) as caught:
        make(callback)
    assert str(caught.value) == f"{name} {PLAIN}"


@pytest.mark.parametrize("kind", [AsyncAlertPublisher, AsyncWatchBusClient])
async def test_a_callback_of_an_async_client_is_not_async_either(kind):
    async with new(kind) as client:
        with pytest.raises(InvalidArgument, match=PLAIN):
            if kind is AsyncAlertPublisher:
                await client.publish([ALERT], progress=AsyncCallable())
            else:
                await client.subscribe([ENTITY], progress=AsyncCallable())


def test_a_function_of_secrets_is_not_async():
    with pytest.raises(
        InvalidArgument, match="a plain function, got an async function"
    ):
        verifier(AsyncCallable())


def decorated(function):
    @wraps(function)
    def call(*arguments):
        return function(*arguments)

    return call


@pytest.mark.parametrize(
    "sleep",
    [
        asyncio.sleep,
        partial(asyncio.sleep, result=None),
        decorated(asyncio.sleep),
        ManualClock().sleep,
    ],
)
@pytest.mark.parametrize("make", ASYNC_CLIENTS)
def test_an_async_sleep_may_be_decorated(make, sleep):
    clock = PlainClock()
    clock.sleep = sleep
    make(clock)


def injected(function):
    """Pass a second argument, as frameworks do."""

    @wraps(function)
    def call(alert):
        return function(alert, "database")

    return call


class Decorated:
    __signature__ = "not a signature"

    def __call__(self, alert): ...


@pytest.mark.parametrize(
    "handler",
    [
        print,
        [].append,
        {}.setdefault,
        type("", (), {"__call__": handle}).__call__,
        lambda alert, other=None: None,
        lambda *anything: None,
        partial(two, 1),
        injected(two),
        Decorated(),  # cannot be examined
    ],
)
def test_a_handler_may_be_anything_that_takes_one_alert(handler):
    alert_app(verifier(), handler)


class Provider:
    def subscribe(self, app_id, entities): ...

    def unsubscribe(self, app_id, entities): ...

    def subscriptions(self, app_id, addresses): ...

    def events(self): ...


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda: provider_app({"app": ["hush"]}, Provider()),
            "provider.subscriptions must be callable as provider.subscriptions(app_id, ",
        ),
        (
            lambda: provider_app(
                {"app": ["hush"]}, SQLiteProvider(None, [EVENT]), rate_limit=nothing
            ),
            "rate_limit must be callable as rate_limit(app_id), got nothing()",
        ),
        (
            lambda: AlertInbox(type("Old", (), dict.fromkeys(STORE, lambda _: None))()),
            "handled.claim must be callable as handled.claim(app_id, key), got",
        ),
        (
            lambda: verifier(nonces=type("Old", (), {"record": two})()),
            "nonces.record must be callable as nonces.record(app_id, nonce, now, until)",
        ),
        (
            lambda: CubeClient(URL, "token").watch(QUERY, on_state=nothing),
            "on_state must be callable as on_state(state), got nothing()",
        ),
        (
            lambda: AlertPublisher(URL, GOOD).publish([ALERT], progress=handle),
            "progress must be callable as progress(done, of), got handle(_alert)",
        ),
        (
            lambda: SQLiteHandled("unused.db", clock=handle),
            "clock must be callable as clock(), got handle(_alert)",
        ),
    ],
)
def test_other_functions_must_take_the_arguments_too(make, expected):
    with pytest.raises(InvalidArgument) as caught:
        make()
    assert str(caught.value).startswith(expected)


def new(kind, **options):
    return kind(URL, "token" if kind in CUBE else GOOD, **options)


@pytest.mark.parametrize("kind", CUBE + BUS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": "5"}, f"timeout {SECONDS} '5'"),
        ({"timeout": True}, f"timeout {SECONDS} True"),
        ({"deadline": "x"}, f"deadline {SECONDS} 'x'"),
        ({"retry": 3}, "retry must be of type Retry, got int"),
        ({"retry": 0}, "retry must be of type Retry, got int"),
        ({"retry": Reconnect()}, "retry must be of type Retry, got Reconnect"),
        ({"max_size": "1"}, "max_size must be a positive int, got '1'"),
        ({"max_size": 0}, "max_size must be a positive int, got 0"),
        ({"max_size": 1.5}, "max_size must be a positive int, got 1.5"),
        ({"ssl": True}, "ssl must be an ssl.SSLContext, got bool"),
    ],
)
def test_options_of_every_client(kind, options, message):
    with pytest.raises(InvalidArgument) as caught:
        new(kind, **options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"timeout": "5"}, f"timeout {SECONDS} '5'"),
        ({"deadline": "x"}, f"deadline {SECONDS} 'x'"),
    ],
)
def test_limits_of_a_call(limits, message):
    for call in (new(CubeClient).meta, new(WatchBusClient).events):
        with pytest.raises(InvalidArgument) as caught:
            call(**limits)
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Retry, {"attempts": "3"}, "attempts must be a positive int, got '3'"),
        (Retry, {"attempts": 1.5}, "attempts must be a positive int, got 1.5"),
        (Retry, {"base": "1"}, f"base {SECONDS} '1'"),
        (Retry, {"cap": 0}, f"cap {SECONDS} 0"),
        (Retry, {"cap": 0.1}, "cap must be at least base (0.5 s), got 0.1"),
        (Reconnect, {"cap": None}, f"cap {SECONDS} None"),
        (
            Reconnect,
            {"attempts": "3"},
            "attempts must be a positive int, or None, got '3'",
        ),
        (
            Reconnect,
            {"healthy_after": "1"},
            "healthy_after must be 0 or more and at most a million seconds, got '1'",
        ),
    ],
)
def test_retries(kind, options, message):
    with pytest.raises(InvalidArgument) as caught:
        kind(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize("kind", BUS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"style": "x"}, "style must be of type WireStyle, got str"),
        ({"batch_size": "3"}, "batch_size must be a positive int, got '3'"),
    ],
)
def test_options_of_the_clients_of_the_watch_bus(kind, options, message):
    with pytest.raises(InvalidArgument) as caught:
        new(kind, **options)
    assert str(caught.value) == message


UNNAMED = "path of the outbox must be a string or a Path, got"
UNSTORED = "path of the nonce file must name a file that persists, got"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: new(WatchBusClient, paths={}), "paths must be of type WatchPaths"),
        (
            lambda: new(AsyncWatchBusClient, paths={}),
            "paths must be of type WatchPaths",
        ),
        (
            lambda: WatchPaths(subscribe="x"),
            "subscribe must be a path that begins with",
        ),
        (lambda: WatchPaths(events=None), "events must be a path that begins with"),
        (lambda: new(AlertPublisher, outbox=3), f"{UNNAMED} int"),
        (lambda: new(AsyncAlertPublisher, outbox=3), f"{UNNAMED} int"),
        (lambda: Outbox(None), f"{UNNAMED} NoneType"),
        (lambda: SQLiteNonces(":memory:"), f"{UNSTORED} ':memory:'"),
        (lambda: SQLiteNonces("a\0b"), f"{UNSTORED} 'a\\x00b'"),
        (
            lambda: SQLiteNonces("file:n?mode=memory"),
            f"{UNSTORED} 'file:n?mode=memory'; pass a path, not a URI",
        ),
        (
            lambda: SQLiteHandled("file:n?mode=memory"),
            "path of the file of handled alerts must name a file that persists, got",
        ),
        (
            lambda: SQLiteProvider(Path("file:n?mode=memory"), [EVENT]),
            "path of the provider's file must name a file that persists, got",
        ),
        (
            lambda: Outbox("file:n?mode=memory"),
            "path of the outbox must name a file that persists, got",
        ),
        (
            lambda: SQLiteNonces("n\ud800"),
            "path of the nonce file cannot be encoded: 'utf-8' codec can't encode",
        ),
        (lambda: SQLiteNonces(None), "path of the nonce file must be a string or"),
        (lambda: SQLiteNonces("nonces", 0), "limit must be a positive int, got 0"),
        (lambda: MemoryNonces(0), "limit must be a positive int, got 0"),
        (lambda: Credentials("app", "s\n"), "secret begins or ends with whitespace"),
        (lambda: sign(("a", "s"), "GET", "/", b"", **SIGNED), PAIR),
        (lambda: signed_headers(("a", "s"), "GET", "/", b"", **SIGNED), PAIR),
        (
            lambda: sign(
                GOOD, "GET", "/", b"", timestamp=10**5000, nonce=SIGNED["nonce"]
            ),
            "timestamp must be an int of unix milliseconds, got <int too large",
        ),
        (lambda: sign(GOOD, None, "/", b"", **SIGNED), "method must be an HTTP method"),
        (
            lambda: sign(GOOD, "GET", None, b"", **SIGNED),
            "path must be a path that begins with",
        ),
        (lambda: RequestVerifier(None, path="/"), "secrets must be a mapping of app"),
        (lambda: RequestVerifier(GOOD, path="/"), "secrets must be a mapping of app"),
        (lambda: RequestVerifier({}, path="/"), "secrets is empty: pass the secrets"),
        (lambda: RequestVerifier(Credentials, path="/"), "secrets must be a mapping"),
        (
            lambda: RequestVerifier({"a": ["s"]}, path=None),
            "path must be a path that begins with",
        ),
        (
            lambda: verifier({"a": "s"}),
            "the secrets of 'a' must be a non-empty list, got a string: write [secret]",
        ),
        (
            lambda: verifier({"a": 5}),
            "the secrets of 'a' must be a non-empty list, got int",
        ),
        (
            lambda: verifier({"a": [b"s"]}),
            "a secret of 'a' must be a non-empty string, got bytes",
        ),
        (lambda: verifier({"a": ["s\n"]}), "a secret of 'a' begins or ends with white"),
        (
            lambda: Credentials("a", None),
            "secret must be a non-empty string, got None: is a variable of the",
        ),
        (lambda: Credentials("a", ""), "secret must be a non-empty string, got ''"),
        (
            lambda: Credentials("", "s"),
            "app_id must be visible ASCII characters without ';', got ''",
        ),
        (
            lambda: Credentials("provider 1", "hush"),
            "app_id must be visible ASCII characters without ';', got one with ' ' at",
        ),
        (
            lambda: Credentials(5, "s"),
            "app_id must be visible ASCII characters without ';', got int",
        ),
        (
            lambda: AlertInfo("0x1", 56, "ERC20", "x", 1795735493000, {}),
            "timestamp must be an int of unix seconds, not milliseconds, got 1795735493000",
        ),
        (
            lambda: verifier(nonces=SQLiteNonces),
            "nonces must be a NonceStore, such as SQLiteNonces(path), got the class SQLit",
        ),
        (
            lambda: verifier(nonces="nonces.db"),
            "nonces must be a NonceStore, such as SQLiteNonces(path), got str without",
        ),
        (
            lambda: AlertInbox("handled.db"),
            "handled must be a HandledStore, such as SQLiteHandled(path), got str with",
        ),
        (lambda: verifier(tolerance="5"), f"tolerance {SECONDS} '5'"),
        (lambda: verifier(clock=1.5), "clock must be callable, got 1.5"),
        (lambda: Outbox("never.db", now=1.5), "now must be callable, got 1.5"),
        (
            lambda: AlertChannel(WS, GOOD, clock=time.time),
            "clock must be an object with now() and sleep(), got builtin_function",
        ),
        (
            lambda: AlertPublisher(URL, GOOD, clock=time.time),
            "clock must be an object with now() and sleep(), got builtin_function",
        ),
        (
            lambda: AsyncAlertPublisher(URL, GOOD, clock=time.time),
            "clock must be an object with now() and sleep(), got builtin_function",
        ),
        (
            lambda: verifier(secrets=lambda: ["hush"]),
            "secrets must be callable as secrets(app_id)",
        ),
        (lambda: verifier(max_body="5"), "max_body must be a positive int, got '5'"),
        (lambda: verifier(nonces=set()), "nonces must be a NonceStore"),
        (lambda: verifier().verify({}, "[]"), "body must be the bytes that arrived"),
        (lambda: verifier().alerts({}, "[]"), "body must be the bytes that arrived"),
        (lambda: alert_app(None, handle), "verifier must be of type RequestVerifier"),
        (lambda: alert_app(handle, verifier()), "verifier must be of type RequestVer"),
        (lambda: alert_app(verifier(), None), "handler must be callable, got None"),
        (lambda: alert_app(verifier(method="GET"), handle), FOR_POST),
        (lambda: alert_view(verifier(method="PUT"), handle), FOR_POST),
        (
            lambda: alert_app(verifier(), handle, read_within=0),
            f"read_within {SECONDS} 0",
        ),
        (
            lambda: alert_app(verifier(), handle, inbox={}),
            "inbox must be an AlertInbox, got dict",
        ),
        (lambda: AlertChannel(WS, ("a", "s")), PAIR),
        (
            lambda: AlertChannel(WS, GOOD, reconnect=3),
            "reconnect must be of type Recon",
        ),
        (lambda: AlertChannel(WS, GOOD, style="x"), "style must be of type WireStyle"),
        (lambda: AlertChannel(WS, GOOD, max_pending="3"), "max_pending must be a posi"),
        (lambda: AlertChannel(WS, GOOD, max_body=None), "max_body must be a positive"),
        (lambda: AlertChannel(WS, GOOD, ping_every="3"), f"ping_every {SECONDS} '3'"),
        (lambda: AlertChannel(WS, GOOD, ping_every=-5), f"ping_every {SECONDS} -5"),
        (
            lambda: AlertChannel(WS, GOOD, max_attempts=0),
            "max_attempts must be a posit",
        ),
        (lambda: AlertChannel(WS, GOOD, outbox=5), "path of the outbox must be a str"),
        (lambda: AlertChannel(WS, GOOD, pong_within=0), f"pong_within {SECONDS} 0"),
        (lambda: AlertChannel(WS, GOOD, answer_within=0), f"answer_within {SECONDS} 0"),
        (
            lambda: AlertChannel(WS, GOOD, connect_within=None),
            f"connect_within {SECONDS} None",
        ),
    ],
)
def test_arguments_of_the_watch_bus(call, message):
    with pytest.raises(InvalidArgument) as caught:
        call()
    assert str(caught.value).startswith(message)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"verifier": None}, "verifier must be of type RequestVerifier, got NoneType"),
        ({"handler": 3}, "handler must be callable, got 3"),
        ({"handler": nothing}, "handler must be callable as handler(alert), got nothi"),
        ({"inbox": {}}, "inbox must be an AlertInbox, got dict"),
        ({"host": None}, "host must be a non-empty string, got None"),
        ({"port": 99999}, "port must be an int, 0 to 65535, got 99999"),
        ({"port": "80"}, "port must be an int, 0 to 65535, got '80'"),
        ({"ping_every": "3"}, f"ping_every {SECONDS} '3'"),
        ({"ping_every": -5}, f"ping_every {SECONDS} -5"),
        ({"close_within": -1}, "close_within must be 0 or more and at most a million"),
    ],
)
async def test_arguments_of_a_channel_that_is_served(options, message):
    arguments = {"verifier": verifier(), "handler": handle} | options
    with pytest.raises(InvalidArgument) as caught:
        async with serve_alert_channel(**arguments):
            pass
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("alerts", "message"),
    [
        (3, "alerts must be an iterable of AlertInfo, got 3"),
        ([{}], "alerts[0] must be of type AlertInfo, got dict"),
        ([], "alerts is empty: pass at least one AlertInfo"),
    ],
)
async def test_alerts_of_a_channel(alerts, message):
    with pytest.raises(InvalidArgument) as caught:
        await AlertChannel(WS, GOOD).send(alerts)
    assert str(caught.value) == message


def test_progress_is_called_so_it_must_be_callable(tmp_path):
    message = "progress must be callable, got 3"
    with new(AlertPublisher, outbox=tmp_path / "outbox") as publisher:
        with pytest.raises(InvalidArgument, match=message):
            publisher.publish([ALERT], progress=3)
        with pytest.raises(InvalidArgument, match=message):
            publisher.flush(progress=3)
        assert len(publisher.outbox) == 0
    for method in ("subscribe", "unsubscribe"):
        with pytest.raises(InvalidArgument, match=message):
            getattr(new(WatchBusClient), method)([ENTITY], progress=3)


def test_a_closed_publisher_accepts_no_alerts(tmp_path):
    with Outbox(tmp_path / "outbox") as outbox:
        publisher = new(AlertPublisher, outbox=outbox)
        publisher.close()
        with pytest.raises(
            OrtegeWatchError, match="client is closed; create a new one"
        ):
            publisher.publish([ALERT])
        assert len(outbox) == 0
    client = new(WatchBusClient)
    client.close()
    with pytest.raises(OrtegeWatchError, match="client is closed; create a new one"):
        client.subscriptions()
