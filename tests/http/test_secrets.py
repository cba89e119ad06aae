"""No token and no secret in an error, its causes, or the variables of their frames."""

from __future__ import annotations

import asyncio
import traceback

import pytest
from loopback import Peer, close, read_request

from ortege_watch import (
    AsyncCubeClient,
    CubeClient,
    InvalidArgument,
    Measure,
    OrtegeWatchError,
    Query,
    Reconnect,
    Retry,
)
from ortege_watch.watchbus import (
    AlertChannel,
    AlertPublisher,
    AsyncAlertPublisher,
    AsyncWatchBusClient,
    Credentials,
    WatchBusClient,
)

TOKEN = "s3cret-token.of-the-test"
SECRET = "s3cret-key.of-the-test"
QUERY = Query(measures=[Measure("stacks_contract_events.count")])
ONCE = Retry(attempts=1)


class Echo(Peer):
    """Answer every request with a reply that may quote the request's header."""

    def __init__(self, reply):
        super().__init__(self._echo)
        self.reply = reply
        self.secrets = []

    async def _echo(self, reader, writer):
        secret = b""
        for line in (await read_request(reader)).split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() in {b"authorization", b"x-signature-signature"}:
                secret = value.split()[-1]
        self.secrets.append(secret.decode())
        escaped = "".join(f"\\u{byte:04x}" for byte in secret).encode()
        reply = self.reply.replace(b"SECRET", secret)
        writer.write(reply.replace(b"ESCAPED", escaped))
        await close(writer)


HTTP = b"HTTP/1.1 "
REPLIES = {
    "nothing": b"",
    "no HTTP": b"SECRET\r\n\r\n",
    "bad header": HTTP + b"200 OK\r\nSECRET\r\n\r\n",
    "bad status": HTTP + b"SECRET OK\r\n\r\n",
    "bad length": HTTP + b"200 OK\r\nContent-Length: SECRET\r\n\r\n",
    "bad encoding": HTTP + b"200 OK\r\nContent-Encoding: SECRET\r\n\r\nx",
    "bad chunk": HTTP + b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\nSECRET\r\n",
    "half": HTTP + b"200 OK\r\nContent-Length: 500\r\n\r\nSECRET",
    "page": HTTP + b"403 Forbidden\r\nContent-Length: 24\r\n\r\nSECRET",
    "text": HTTP + b"200 OK\r\n\r\nSECRET",
    "error": HTTP + b'400 Bad\r\n\r\n{"error":"SECRET","type":"SECRET"}',
    "escaped": HTTP + b'400 Bad\r\n\r\n{"error":"ESCAPED","type":"ESCAPED"}',
    "redirect": HTTP + b"302 Found\r\nLocation: http://x/SECRET\r\n\r\n",
    "unavailable": HTTP + b"503 Busy\r\n\r\nSECRET",
}


def variables(error):
    """Yield what every frame of the library and of others shows of its variables."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename != __file__:
            for name, value in frame.f_locals.items():
                yield f"{frame.f_code.co_qualname}: {name} = {value!r}"


def check(error, secrets):
    """Fail if the error, its causes or their frames show a secret."""
    following, seen = [error], []
    while following:
        link = following.pop()
        if link is None or link in seen:
            continue
        seen.append(link)
        following += [link.__cause__, link.__context__]
        for text in (str(link), repr(link), str(vars(link)), *variables(link)):
            for secret in secrets:
                assert secret not in text
    assert not any(
        each in "".join(traceback.format_exception(error)) for each in secrets
    )


@pytest.mark.parametrize("provider", [False, True], ids=["string", "function"])
@pytest.mark.parametrize("reply", REPLIES)
def test_no_failure_of_a_call_shows_the_token(reply, provider):
    token = (lambda: TOKEN) if provider else TOKEN
    with (
        Echo(REPLIES[reply]) as server,
        CubeClient(server.url, token, retry=ONCE) as client,
        pytest.raises(OrtegeWatchError) as caught,
    ):
        client.load(QUERY, timeout=2)
    check(caught.value, [TOKEN])


@pytest.mark.parametrize("reply", REPLIES)
async def test_no_failure_of_an_async_call_shows_the_token(reply):
    with Echo(REPLIES[reply]) as server:
        async with AsyncCubeClient(server.url, TOKEN, retry=ONCE) as client:
            with pytest.raises(OrtegeWatchError) as caught:
                await client.load(QUERY, timeout=2)
    check(caught.value, [TOKEN])


@pytest.mark.parametrize(
    "reply", sorted(REPLIES.keys() - {"escaped"})
)  # a used signature is worthless
@pytest.mark.parametrize("sync", [True, False])
async def test_no_failure_of_a_signed_call_shows_the_secret(reply, sync, caplog):
    credentials = Credentials("app", SECRET)
    kind = WatchBusClient if sync else AsyncWatchBusClient
    with Echo(REPLIES[reply]) as server:
        client = kind(server.url, credentials, retry=ONCE)
        with pytest.raises(OrtegeWatchError) as caught:
            if sync:
                with client:
                    await asyncio.to_thread(client.events, timeout=2)
            else:
                async with client:
                    await client.events(timeout=2)
    assert len(server.secrets[0]) == 64  # the signature
    check(caught.value, [SECRET, *server.secrets])


@pytest.mark.parametrize("reply", REPLIES)
@pytest.mark.parametrize("transport", ["websocket", "rest"])
async def test_no_failure_of_a_watch_shows_the_token(reply, transport, caplog):
    once = Reconnect(attempts=1)
    with Echo(REPLIES[reply]) as server:
        async with (
            asyncio.timeout(20),
            AsyncCubeClient(server.url, TOKEN, retry=ONCE) as client,
            client.watch(QUERY, transport=transport, reconnect=once) as updates,
        ):
            with pytest.raises(OrtegeWatchError) as caught:
                await anext(updates)
    check(caught.value, [TOKEN])
    ours = [line for line in caplog.records if line.name.startswith("ortege_watch")]
    assert TOKEN not in "".join(line.getMessage() for line in ours)


def test_a_token_function_that_returns_no_token_is_not_quoted():
    with (
        CubeClient("http://127.0.0.1:9", lambda: TOKEN + " x") as client,
        pytest.raises(OrtegeWatchError) as caught,
    ):
        client.load(QUERY)
    check(caught.value, [TOKEN])


def test_a_short_token_does_not_mangle_messages():
    with (
        Echo(HTTP + b"400 Bad\r\n\r\n" + b"no connection") as server,
        CubeClient(server.url, "n", retry=ONCE) as client,
        pytest.raises(OrtegeWatchError, match="no connection"),
    ):
        client.load(QUERY)


@pytest.mark.parametrize("client", [CubeClient, AsyncCubeClient])
@pytest.mark.parametrize(
    "arguments",
    [
        {"url": "not a url"},
        {"url": "http://127.0.0.1:9", "token": TOKEN + " " + TOKEN},
        {"url": "http://127.0.0.1:9", "timeout": "5"},
        {"url": "http://127.0.0.1:9", "http": 5},
    ],
    ids=["url", "token", "option", "http"],
)
def test_no_client_that_cannot_be_created_shows_the_token(client, arguments):
    with pytest.raises(InvalidArgument) as caught:
        client(**{"token": TOKEN, **arguments})
    check(caught.value, [TOKEN])


@pytest.mark.parametrize(
    "url",
    [
        f"eyJ.{TOKEN}",
        f"Bearer {TOKEN}",
        f"https://cube.example.com?token={TOKEN}",
        f"https://me:{TOKEN}@cube.example.com",
        f"https://me:{TOKEN}@[cube",
        TOKEN.encode(),
    ],
)
@pytest.mark.parametrize(
    "kind",
    [
        CubeClient,
        AsyncCubeClient,
        WatchBusClient,
        AsyncWatchBusClient,
        AlertPublisher,
        AsyncAlertPublisher,
        AlertChannel,
    ],
)
def test_no_client_shows_a_token_that_is_passed_as_its_url(kind, url):
    second = TOKEN if kind in {CubeClient, AsyncCubeClient} else Credentials("a", "b")
    with pytest.raises(InvalidArgument) as caught:
        kind(url, second)
    check(caught.value, [TOKEN])


def test_a_token_in_ortege_url_is_not_shown(monkeypatch):
    monkeypatch.setenv("ORTEGE_URL", f"eyJ.{TOKEN}")
    with pytest.raises(InvalidArgument) as caught:
        CubeClient()
    check(caught.value, [TOKEN])


def test_a_proxy_that_is_not_one_is_not_shown(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", f"htp://user:{TOKEN}@proxy:1")
    with pytest.raises(InvalidArgument, match="HTTPS_PROXY is not a usable") as caught:
        CubeClient("https://cube.example.com", "another-token")
    check(caught.value, [TOKEN])
