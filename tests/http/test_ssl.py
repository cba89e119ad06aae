"""``ssl=`` of the clients: which connections use it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from ortege_watch import (
    AsyncCubeClient,
    CubeClient,
    InvalidArgument,
    Measure,
    OrtegeWatchError,
    Query,
    Retry,
)
from ortege_watch.watchbus import AsyncWatchBusClient, Credentials, WatchBusClient

pytestmark = pytest.mark.anyio

QUERY = Query(measures=[Measure("a.count", int)])
SIGNED = Credentials("app", "secret")
ONCE = Retry(attempts=1)


class Recording(ssl.SSLContext):
    """TLS settings that count the connections that use them."""

    uses = 0

    def wrap_socket(self, *arguments, **options):
        self.uses += 1
        return super().wrap_socket(*arguments, **options)

    def wrap_bio(self, *arguments, **options):
        self.uses += 1
        return super().wrap_bio(*arguments, **options)


@asynccontextmanager
async def refusing() -> AsyncIterator[str]:
    """Run a server that speaks no TLS; give its ``https`` address."""

    async def talk(reader, writer) -> None:
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def load(url: str, context: ssl.SSLContext) -> None:
    async with AsyncCubeClient(url, "token", ssl=context, retry=ONCE) as client:
        await client.load(QUERY)


async def load_in_a_thread(url: str, context: ssl.SSLContext) -> None:
    with CubeClient(url, "token", ssl=context, retry=ONCE) as client:
        await asyncio.to_thread(client.load, QUERY)


async def events(url: str, context: ssl.SSLContext) -> None:
    client = AsyncWatchBusClient(url, SIGNED, ssl=context, retry=ONCE)
    async with client:
        await client.events()


async def events_in_a_thread(url: str, context: ssl.SSLContext) -> None:
    with WatchBusClient(url, SIGNED, ssl=context, retry=ONCE) as client:
        await asyncio.to_thread(client.events)


@pytest.mark.parametrize("call", [load, load_in_a_thread, events, events_in_a_thread])
async def test_requests_use_the_tls_settings_of_the_client(call):
    context = Recording(ssl.PROTOCOL_TLS_CLIENT)
    async with refusing() as url:
        with pytest.raises(OrtegeWatchError):
            await call(url, context)
    assert context.uses == 1


@pytest.mark.parametrize("transport", ["websocket", "rest"])
@pytest.mark.parametrize("sync", [False, True])
async def test_subscriptions_use_the_tls_settings_of_the_client(transport, sync):
    context = Recording(ssl.PROTOCOL_TLS_CLIENT)

    async def used() -> None:
        async with asyncio.timeout(10):
            while not context.uses:
                await asyncio.sleep(0.01)

    async with refusing() as url:
        if sync:
            with (
                CubeClient(url, "token", ssl=context, retry=ONCE) as client,
                client.watch(QUERY, transport=transport),
            ):
                await used()
        else:
            async with (
                AsyncCubeClient(url, "token", ssl=context, retry=ONCE) as cube,
                cube.watch(QUERY, transport=transport),
            ):
                await used()


def test_a_context_for_servers_is_refused():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with pytest.raises(InvalidArgument, match="ssl must be a context for clients"):
        CubeClient("https://host", "token", ssl=context)


def test_a_closed_client_cannot_be_entered_again():
    with CubeClient("https://host", "token") as client:
        pass
    with pytest.raises(OrtegeWatchError, match="the client is closed; create a new"):
        client.__enter__()
