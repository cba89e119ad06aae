"""Errors name the server once; lines that name it anyway do not repeat it."""

from __future__ import annotations

import asyncio
import copy
import pickle

import pytest
from loopback import Peer, close, read_request
from watching import QUERY

from ortege_watch import ApiError, AsyncCubeClient, OrtegeWatchError, Reconnect, Retry
from ortege_watch.watchbus import AsyncWatchBusClient, Credentials

pytestmark = pytest.mark.anyio

REFUSAL = b'{"error":"Invalid token"}'
REPLIES = {
    "refusal": b"HTTP/1.1 403 X\r\nContent-Length: 25\r\n\r\n" + REFUSAL,
    "outage": b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n",
    "page": b"HTTP/1.1 200 X\r\nContent-Length: 6\r\n\r\n<html>",
    "encoding": b"HTTP/1.1 200 X\r\nContent-Encoding: br\r\nContent-Length: 1\r\n\r\nx",
    "nothing": b"",
}


def replying(reply):
    async def talk(reader, writer):
        await read_request(reader)
        writer.write(reply)
        await close(writer)

    return Peer(talk)


def check(error, host):
    assert error.host == host
    assert str(error) == f"{host}: {error.text}"
    assert str(error).count(host) == 1
    for same in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert str(same) == str(error)


@pytest.mark.parametrize("reply", REPLIES)
async def test_the_error_of_a_call_names_the_server(reply, caplog):
    twice = Retry(attempts=2, base=0.001, cap=0.002)
    with replying(REPLIES[reply]) as peer:
        async with AsyncCubeClient(peer.url, "token", retry=twice) as client:
            with pytest.raises(OrtegeWatchError) as caught:
                await client.load(QUERY)
        check(caught.value, peer.host)
        lines = [each.getMessage() for each in caplog.records if "ortege" in each.name]
        assert all(line.count(peer.host) == 1 for line in lines)


async def test_an_exceeded_deadline_names_the_server():
    with replying(REPLIES["outage"]) as peer:
        async with AsyncCubeClient(peer.url, "token") as client:
            with pytest.raises(OrtegeWatchError) as caught:
                await client.load(QUERY, deadline=0.1)
        check(caught.value, peer.host)


async def test_the_error_of_a_signed_call_names_the_provider():
    with replying(REPLIES["refusal"]) as peer:
        async with AsyncWatchBusClient(peer.url, Credentials("a", "b")) as client:
            with pytest.raises(ApiError) as caught:
                await client.events()
        check(caught.value, peer.host)


@pytest.mark.parametrize("transport", ["websocket", "rest"])
@pytest.mark.parametrize("reply", REPLIES)
async def test_the_error_of_a_subscription_names_the_server(reply, transport, caplog):
    with replying(REPLIES[reply]) as peer:
        once = Reconnect(attempts=1, base=0.001, cap=0.002)
        async with (
            asyncio.timeout(20),
            AsyncCubeClient(peer.url, "token") as client,
            client.watch(QUERY, transport=transport, reconnect=once) as updates,
        ):
            with pytest.raises(OrtegeWatchError) as caught:
                await anext(updates)
        check(caught.value, peer.host)
        lines = [each.getMessage() for each in caplog.records if "ortege" in each.name]
        assert lines
        assert all(line.count(peer.host) == 1 for line in lines)
