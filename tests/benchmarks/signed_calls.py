"""Measure a signed call against the bare httpx call, and print the ratios.

CPU time of this process; the server is another one, on loopback. Both send one alert of
the same size and read the same answer; rounds are interleaved, and the bare call is
also compared with itself: a run where that is outside 0.97 to 1.03 was disturbed.
``python tests/benchmarks/signed_calls.py [--quick] [--rounds N]``
"""

from __future__ import annotations

import asyncio
import json
import time

import httpx
from command_line import parser, rounds_of
from comparing import quartiles
from processes import call_server

from ortege_watch.watchbus import (
    AlertInfo,
    AlertPublisher,
    AsyncAlertPublisher,
    AsyncWatchBusClient,
    Credentials,
    EntityInfo,
    WatchBusClient,
)

PATH = "/api/watch/subscribe"
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


def spent(act) -> float:
    begin = time.process_time()
    act()
    return time.process_time() - begin


def compare(acts, rounds):
    """Print each one's median ratio to the first, round by round."""
    names = list(acts)
    for act in acts.values():
        act()
    seen = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        times = {name: spent(acts[name]) for name in names[turn:] + names[:turn]}
        for name, seconds in times.items():
            seen[name].append(seconds / times[names[0]])
    for name, ratios in seen.items():
        low, middle, high = quartiles(ratios)
        print(f"{name:28} {middle:.3f}  ({low:.3f} .. {high:.3f})")


def compare_sync(url: str, calls: int, rounds: int) -> None:
    """Compare the sync clients with httpx, ``calls`` calls in a round."""
    with (
        httpx.Client() as bare,
        httpx.Client() as again,
        WatchBusClient(url, CREDENTIALS) as client,
        AlertPublisher(url, CREDENTIALS) as publisher,
    ):

        def repeat(call):
            def act():
                for _ in range(calls):
                    call()

            return act

        def post(http):
            return http.post(url + PATH, content=BODY, headers=HEADERS).json()

        acts = {
            "httpx": repeat(lambda: post(bare)),
            "httpx again": repeat(lambda: post(again)),
            "WatchBusClient.subscribe": repeat(lambda: client.subscribe([ENTITY])),
            "AlertPublisher.publish": repeat(lambda: publisher.publish([ALERT])),
        }
        compare(acts, rounds)


def compare_async(url: str, calls: int, rounds: int) -> None:
    """Do the same with the async clients, on one event loop."""
    with asyncio.Runner() as runner:
        bare, again = httpx.AsyncClient(), httpx.AsyncClient()
        client = AsyncWatchBusClient(url, CREDENTIALS)
        publisher = AsyncAlertPublisher(url, CREDENTIALS)

        def repeat(call):
            async def act():
                for _ in range(calls):
                    await call()

            return lambda: runner.run(act())

        async def post(http):
            (await http.post(url + PATH, content=BODY, headers=HEADERS)).json()

        acts = {
            "async httpx": repeat(lambda: post(bare)),
            "async httpx again": repeat(lambda: post(again)),
            "AsyncWatchBusClient": repeat(lambda: client.subscribe([ENTITY])),
            "AsyncAlertPublisher": repeat(lambda: publisher.publish([ALERT])),
        }
        compare(acts, rounds)
        for each in (bare, again, client, publisher):
            runner.run(each.aclose())


def main() -> None:
    options = parser(__doc__, rounds=21).parse_args()
    calls = 10 if options.quick else 100
    with call_server() as url:
        compare_sync(url, calls, rounds_of(options))
        compare_async(url, calls, rounds_of(options))


if __name__ == "__main__":
    main()
