"""Measure a signed call against the bare httpx call, and print the ratios.

CPU time of this process; the server is another one, on loopback. Both send one alert of
the same size and read the same answer; rounds are interleaved, and the bare call is
also compared with itself: a run where that is outside 0.97 to 1.03 was disturbed.
``python tests/benchmarks/signed_calls.py [rounds]``
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import time

import httpx

from ortege_watch.watchbus import (
    AlertInfo,
    AlertPublisher,
    AsyncAlertPublisher,
    AsyncWatchBusClient,
    Credentials,
    EntityInfo,
    WatchBusClient,
)

CALLS = 100
ENTITY = EntityInfo("0x" + "ab" * 20, 56, "ERC20", "big_amount_txn")
ALERT = AlertInfo(
    *("0x" + "ab" * 20, 56, "ERC20", "big_amount_txn", 1_700_000_000),
    {"block_number": "1", "tx_hash": "0x" + "cd" * 32, "current_value": "1000.5"},
)
WIRE = {
    "entity": ENTITY.entity,
    "chain_id": "56",
    "entity_type": "ERC20",
    "event_code": "big_amount_txn",
}
BODY = json.dumps({"entity_list": [WIRE]}).encode()
HEADERS = {
    "Accept": "application/json",
    "Content-Type": "application/json;charset=UTF-8",
    "X-Signature-appid": "app",
    "X-Signature-timestamp": "1700000000000",
    "X-Signature-nonce": "ab" * 16,
    "X-Signature-signature": "cd" * 32,
}
CREDENTIALS = Credentials("app", "secret")


async def serve() -> None:
    """Answer every request of a connection with the same bytes."""
    data = {"watch_result": [WIRE]}
    body = json.dumps({"status": "OK", "code": "000000000", "data": data}).encode()
    answer = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while head := (await reader.readuntil(b"\r\n\r\n")).lower():
                length = head.split(b"content-length: ")[1].split(b"\r\n")[0]
                await reader.readexactly(int(length))
                writer.write(answer)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def spent(act) -> float:
    begin = time.process_time()
    act()
    return time.process_time() - begin


def compare(named, rounds):
    """Print each one's median ratio to the first, round by round."""
    acts = list(named.items())
    for _, act in acts:
        act()
    seen = {name: [] for name, _ in acts}
    for number in range(rounds):
        order = acts[number % len(acts) :] + acts[: number % len(acts)]
        times = {name: spent(act) for name, act in order}
        for name, seconds in times.items():
            seen[name].append(seconds / times[acts[0][0]])
    for name, ratios in seen.items():
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{name:28} {middle:.3f}  ({low:.3f} .. {high:.3f})")


def main(port: int, rounds: int) -> None:
    url = f"http://127.0.0.1:{port}"
    whole = f"{url}/api/watch/subscribe"
    bare, again = httpx.Client(), httpx.Client()
    client = WatchBusClient(url, CREDENTIALS)
    publisher = AlertPublisher(url, CREDENTIALS)

    def repeat(call):
        def act():
            for _ in range(CALLS):
                call()

        return act

    compare(
        {
            "httpx": repeat(
                lambda: bare.post(whole, content=BODY, headers=HEADERS).json()
            ),
            "httpx again": repeat(
                lambda: again.post(whole, content=BODY, headers=HEADERS).json()
            ),
            "WatchBusClient.subscribe": repeat(lambda: client.subscribe([ENTITY])),
            "AlertPublisher.publish": repeat(lambda: publisher.publish([ALERT])),
        },
        rounds,
    )
    asyncio.run(main_async(url, rounds))


async def main_async(url: str, rounds: int) -> None:
    whole = f"{url}/api/watch/subscribe"
    bare, again = httpx.AsyncClient(), httpx.AsyncClient()
    client = AsyncWatchBusClient(url, CREDENTIALS)
    publisher = AsyncAlertPublisher(url, CREDENTIALS)

    async def post(http):
        (await http.post(whole, content=BODY, headers=HEADERS)).json()

    calls = {
        "async httpx": lambda: post(bare),
        "async httpx again": lambda: post(again),
        "AsyncWatchBusClient": lambda: client.subscribe([ENTITY]),
        "AsyncAlertPublisher": lambda: publisher.publish([ALERT]),
    }
    seen = {name: [] for name in calls}
    names = list(calls)
    for number in range(rounds + 1):
        times = {}
        for name in names[number % 4 :] + names[: number % 4]:
            begin = time.process_time()
            for _ in range(CALLS):
                await calls[name]()
            times[name] = time.process_time() - begin
        for name in names if number else ():
            seen[name].append(times[name] / times["async httpx"])
    for name, ratios in seen.items():
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{name:28} {middle:.3f}  ({low:.3f} .. {high:.3f})")
    for each in (bare, again, client, publisher):
        await each.aclose()


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        asyncio.run(serve())
    process = subprocess.Popen(
        [sys.executable, __file__, "serve"], stdout=subprocess.PIPE
    )
    try:
        main(int(process.stdout.readline()), int((sys.argv[1:] or ["21"])[0]))
    finally:
        process.kill()
