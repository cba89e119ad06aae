"""One alert on which a server hangs or breaks down, among others."""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from driving import alert

from ortege_watch import Retry
from ortege_watch.watchbus import AsyncAlertPublisher, Credentials, Outbox
from ortege_watch.watchbus.sending import BatchSize

CREDENTIALS = Credentials("app", "secret-of-the-test")
BREAKS = 5
"""The number of the alert."""


class Server(ThreadingHTTPServer):
    """Acknowledges alerts, and does ``how`` with each request that has the one."""

    daemon_threads = True

    def __init__(self, how: str | int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.how, self.taken, self.broken = how, set[int](), 0
        self.end = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.end.set()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None: ...

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        numbers = {
            int(each["event_values"]["block_number"])
            for each in body["alert_info_list"]
        }
        if BREAKS not in numbers:
            self.server.taken |= numbers
            self.send_response(204)
            self.end_headers()
            return
        self.server.broken += 1
        if self.server.how == "hang":
            self.server.end.wait(60)
        elif self.server.how != "close":
            self.send_response(int(self.server.how))
            self.end_headers()


@pytest.fixture(params=["hang", "close", 408, 429, 502, 503, 504], ids=str)
def server(request):
    server = Server(request.param)
    yield server
    server.stop()


async def test_an_alert_on_which_a_server_breaks_down_stops_no_others(server, tmp_path):
    outbox = Outbox(tmp_path / "outbox.db", max_attempts=1)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    retry = Retry(attempts=1, base=0.001, cap=0.001)
    options = {"outbox": outbox, "retry": retry, "timeout": 0.3}
    with outbox:
        async with AsyncAlertPublisher(url, CREDENTIALS, **options) as publisher:
            await publisher.enqueue(map(alert, range(40)))
            sending = asyncio.create_task(publisher.run(poll_every=0.01))
            async with asyncio.timeout(60):
                while len(outbox) or len(server.taken) < 39:
                    await asyncio.sleep(0.01)
            sending.cancel()
        [dead] = outbox.dead
    assert dead.alert == alert(BREAKS)
    assert dead.attempts == 1
    assert server.taken == set(range(40)) - {BREAKS}


def test_batches_grow_again_with_each_that_succeeds():
    batches = BatchSize(10)
    assert (batches.size, batches.is_reduced) == (10, False)
    batches.on_success(10)
    assert batches.size == 10
    batches.on_failure()
    sizes = []
    while batches.is_reduced:
        sizes.append(batches.size)
        batches.on_success(batches.size)
    assert sizes == [1, 2, 4, 8]
    assert batches.size == 10
