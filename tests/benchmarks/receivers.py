"""The receivers that are compared; each runs in a process of its own.

Each takes ``count`` frames and prints, as JSON, the CPU seconds between the first frame
and the last, and what it saw in the last one, so that all can be held to the same.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from decimal import Decimal
from time import process_time

from frames import CUBE, refreshed_at

HELLO = '{"authorization":"token"}'
SUBSCRIBE = json.dumps(
    {"messageId": "1", "method": "subscribe", "params": {"query": {}}}
)
AMOUNT = f"{CUBE}.asset_amount"


def report(cpu: float, updates: int, rows: int, total: Decimal) -> None:
    print(json.dumps([cpu, updates, rows, str(total)]))


def total_of(rows) -> Decimal:
    return sum((Decimal(row[AMOUNT]) for row in rows), Decimal())


async def floor(port: int, count: int) -> None:
    """Receive with websockets and build dicts with orjson, and do nothing more."""
    import orjson
    from websockets.asyncio.client import connect

    url = f"ws://127.0.0.1:{port}/"
    async with connect(
        url, compression=None, max_size=None, ping_interval=None
    ) as socket:
        await socket.send(HELLO)
        await socket.recv()
        await socket.send(SUBSCRIBE)
        start = 0.0
        for number in range(count):
            message = orjson.loads(await socket.recv(decode=False))
            if number == 0:
                start = process_time()
        cpu = process_time() - start
    rows = message["message"]["results"][0]["data"]
    report(cpu, count, len(rows), total_of(rows))


async def library(port: int, count: int) -> None:
    """Receive updates, and read two typed values of each row that differs."""
    from ortege_watch import (
        AsyncCubeClient,
        Dimension,
        Measure,
        Query,
        TimeDimension,
    )

    amount = Measure(AMOUNT, Decimal)
    sender = Dimension(f"{CUBE}.sender_address")
    query = Query(
        measures=[amount],
        dimensions=[
            Dimension(f"{CUBE}.contract_id"),
            Dimension(f"{CUBE}.function_name"),
            sender,
            TimeDimension(f"{CUBE}.tx_date"),
        ],
        limit=50_000,
    )
    client = AsyncCubeClient(f"http://127.0.0.1:{port}", "token")
    async with client, client.watch(query, dialect="cube") as subscription:
        start, seen = 0.0, 0
        async for update in subscription:
            if not update.first:
                for row in (*update.added, *update.changed):
                    assert row[amount] > 0
                    assert row[sender]
            seen += 1
            if seen == 1:
                start = process_time()
            if update.result.refreshed_at == refreshed_at(count - 1):
                break
        cpu = process_time() - start
    rows = [{AMOUNT: row[amount]} for row in update.result]
    report(cpu, seen, len(rows), total_of(rows))


def tutorial(port: int, count: int) -> None:
    """Do as the tutorial does: websocket-client's app, and json."""
    import websocket

    state = {"seen": 0, "start": 0.0, "cpu": 0.0, "rows": []}

    def on_open(app) -> None:
        app.send(json.dumps({"queryType": "subscribe", "query": {}}))

    def on_message(app, text: str) -> None:
        state["rows"] = json.loads(text)["data"]
        state["seen"] += 1
        if state["seen"] == 1:
            state["start"] = process_time()
        if state["seen"] == count:
            state["cpu"] = process_time() - state["start"]
            app.close()

    app = websocket.WebSocketApp(
        f"ws://127.0.0.1:{port}/", on_open=on_open, on_message=on_message
    )
    app.run_forever(ping_interval=60, ping_timeout=10)
    report(state["cpu"], count, len(state["rows"]), total_of(state["rows"]))


if __name__ == "__main__":
    which, *numbers = sys.argv[1:]
    port, count = map(int, numbers)
    gc.collect()
    match which:
        case "floor":
            asyncio.run(floor(port, count))
        case "library":
            asyncio.run(library(port, count))
        case "tutorial":
            tutorial(port, count)
