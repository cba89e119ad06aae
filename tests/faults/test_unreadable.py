"""The last change of a table, whose answer is corrupted on its way, still arrives."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from injection.proxy import LoopThread, Proxy
from injection.servers import AMOUNT, KEY, FakeServer, FastClock, rows_of
from injection.watches import url

from ortege_watch import AsyncCubeClient, DecodeError

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("generation", ["classic", "strict"])
@pytest.mark.parametrize("transport", ["websocket", "rest"])
async def test_an_update_whose_answer_was_corrupted_arrives(generation, transport):
    errors, queries = [], [rows_of("SP1.first"), rows_of("SP1.second")]
    with (
        FakeServer(generation) as server,
        LoopThread() as thread,
        Proxy(thread, server.port) as proxy,
    ):
        clock = FastClock(server.speed)
        async with (
            asyncio.timeout(20),
            AsyncCubeClient(url(proxy.port), server.token(), clock=clock) as client,
            client.watch(
                *queries, transport=transport, on_error=errors.append
            ) as updates,
        ):
            assert {(await anext(updates)).query for _ in queries} == set(queries)
            proxy.spoil("0xlast")
            server.store("SP1.second").insert({"0xlast": Decimal("1.5")})
            update = await anext(updates)
            # Nothing was lost but one answer, so there was no outage.
            assert (update.query, update.resumed) == (queries[1], False)
            [row] = update.added
            assert (row[KEY], row[AMOUNT]) == ("0xlast", Decimal("1.5"))
            assert proxy.has_spoiled
            assert updates.state == ("live" if transport == "websocket" else "polling")
    [error] = errors
    assert isinstance(error, DecodeError)
    assert error.query == queries[1]
