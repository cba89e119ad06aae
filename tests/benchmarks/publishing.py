"""Measure publishers against bare httpx posts of the same bytes, and print the ratios.

CPU time of this process, and with an outbox also wall time, in which the disk is; the
server is another process, on loopback. Rounds are interleaved, and the bare post is also
compared with itself: a run where that is outside 0.97 to 1.03 was disturbed.
``python tests/benchmarks/publishing.py [--quick] [--rounds N]``

Goals: a batch of 100 within 2 times the bare post, one alert within 1.3 times; with an
outbox within 4 times.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from functools import partial
from itertools import count
from pathlib import Path

import httpx
from command_line import parser, rounds_of
from processes import call_server
from signed_calls import CREDENTIALS, HEADERS

from ortege_watch.watchbus import AlertInfo, AlertPublisher
from ortege_watch.watchbus.wire import encode_alerts

NUMBERS = count()
PATH = "/api/v1/watch/alert"


def alerts(size):
    """Return alerts that were never sent before."""
    return [
        AlertInfo(
            *("0x" + "ab" * 20, 56, "ERC20", "big_amount_txn", 1_700_000_000),
            {
                "block_number": str(number),
                "tx_hash": f"0x{number:064x}",
                "current_value": "1000.5",
            },
        )
        for number in (next(NUMBERS) for _ in range(size))
    ]


def measure(act, size, calls):
    """Return the CPU and wall seconds of calls, each with new alerts."""
    batches = [alerts(size) for _ in range(calls)]
    wall, cpu = time.perf_counter(), time.process_time()
    for batch in batches:
        act(batch)
    return time.process_time() - cpu, time.perf_counter() - wall


def post_to(url, body, client, _alerts):
    client.post(url, content=body, headers=HEADERS)


def compare_publishers(url, sizes, rounds):
    with tempfile.TemporaryDirectory() as folder:
        bare, again = httpx.Client(), httpx.Client()
        publisher = AlertPublisher(url, CREDENTIALS)
        queued = AlertPublisher(url, CREDENTIALS, outbox=Path(folder) / "outbox.db")
        for size, calls in sizes.items():
            body = encode_alerts(alerts(size))
            post = partial(post_to, url + PATH, body)
            acts = {
                "httpx": partial(post, bare),
                "httpx again": partial(post, again),
                "publish()": publisher.publish,
                "publish() with an outbox": queued.publish,
            }
            seen = {name: [] for name in acts}
            names = list(acts)
            for number in range(-1, rounds):
                order = names[number % 4 :] + names[: number % 4]
                times = {name: measure(acts[name], size, calls) for name in order}
                if number >= 0:
                    for name, spent in times.items():
                        pairs = zip(spent, times["httpx"], strict=True)
                        seen[name].append([mine / base for mine, base in pairs])
            print(f"{size} alerts: CPU time, wall time, as multiples of the bare post")
            for name, ratios in seen.items():
                cpu, wall = map(statistics.median, zip(*ratios, strict=True))
                print(f"  {name:28} {cpu:.2f}  {wall:.2f}")


def main():
    options = parser(__doc__, rounds=11).parse_args()
    sizes = {1: 10, 100: 2} if options.quick else {1: 100, 100: 20}
    with call_server() as url:
        compare_publishers(url, sizes, rounds_of(options))


if __name__ == "__main__":
    main()
