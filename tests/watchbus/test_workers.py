"""Several workers of one application: what they share, and what they warn about."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from signed import PATH, alert_body, headers_for

WARNING = "several worker processes"
WORKERS = 4
HERE = Path(__file__).parent


@contextmanager
def workers(received: Path | str, effects: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve with several workers; give the URL and the lines of their log."""
    listener = socket.create_server(("127.0.0.1", 0))
    number = listener.fileno()
    options = ["--fd", str(number), "--workers", str(WORKERS), "--app-dir", str(HERE)]
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "workers:app", *options],
        env={**os.environ, "RECEIVED": str(received), "EFFECTS": str(effects)},
        pass_fds=[number],
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stderr))
    reader.start()
    try:
        deadline = time.monotonic() + 60
        while sum("startup complete" in line for line in lines) < WORKERS:
            assert time.monotonic() < deadline, lines
            assert process.poll() is None, lines
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", lines
    finally:
        listener.close()
        process.send_signal(signal.SIGINT)
        process.wait(60)
        reader.join()
        process.stderr.close()


def post(url: str, count: int, headers: dict[str, str] | None = None) -> Counter[int]:
    """Send an alert at the same moment over several connections; count the statuses."""
    body, ready = alert_body(), threading.Barrier(count)

    def send(_: int) -> int:
        now = int(time.time() * 1000)
        with httpx.Client(trust_env=False, timeout=60) as client:
            ready.wait()
            fields = headers or headers_for(body, timestamp=now)
            return client.post(url + PATH, content=body, headers=fields).status_code

    with ThreadPoolExecutor(count) as pool:
        return Counter(pool.map(send, range(count)))


def test_workers_that_share_a_file_accept_a_request_and_handle_an_alert_once(tmp_path):
    effects = tmp_path / "effects"
    with workers(tmp_path / "received.db", effects) as (url, lines):
        now = int(time.time() * 1000)
        replayed = headers_for(alert_body(), timestamp=now)
        assert post(url, 16, replayed) == {200: 1, 401: 15}
        assert post(url, 16) == {200: 16}  # sent again: acknowledged, not handled
    assert len(effects.read_text().split()) == 1
    assert WARNING not in "".join(lines)


def test_workers_with_stores_of_their_own_are_warned_about(tmp_path):
    with workers("", tmp_path / "effects") as (url, lines):
        assert post(url, 1) == {200: 1}
    assert "".join(lines).count(WARNING) == WORKERS
    assert "SQLiteNonces(path)" in "".join(lines)


@pytest.mark.parametrize(
    ("environment", "warned"),
    [
        ({}, False),
        ({"WEB_CONCURRENCY": "1"}, False),
        ({"WEB_CONCURRENCY": "3"}, True),
        ({"WEB_CONCURRENCY": "many"}, False),
        ({"SERVER_SOFTWARE": "gunicorn/23.0.0"}, True),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_what_shows_that_there_are_several_workers(
    tmp_path, environment, warned, shared
):
    received = tmp_path / "received.db" if shared else ""
    names = {"WEB_CONCURRENCY", "SERVER_SOFTWARE"}
    rest = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", "import workers, workers as again"],
        cwd=HERE,
        env={**rest, **environment, "RECEIVED": str(received), "EFFECTS": "none"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert len(re.findall(WARNING, done.stderr)) == (warned and not shared)
