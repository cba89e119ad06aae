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
PAGE = HERE.parent.parent / "docs" / "watchbus-receiving.md"


@contextmanager
def workers(
    app: str, folder: Path, **environment: str
) -> Iterator[tuple[str, list[str]]]:
    """Serve with several workers; give the URL and the lines of their output."""
    listener = socket.create_server(("127.0.0.1", 0))
    number = listener.fileno()
    options = ["--fd", str(number), "--workers", str(WORKERS)]
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", app, *options],
        cwd=folder,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        pass_fds=[number],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stdout))
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
        process.stdout.close()


def post(
    url: str, count: int, headers: dict[str, str] | None = None, **credentials: str
) -> Counter[int]:
    """Send an alert at the same moment over several connections; count the statuses."""
    body, ready = alert_body(), threading.Barrier(count)

    def send(_: int) -> int:
        now = int(time.time() * 1000)
        with httpx.Client(trust_env=False, timeout=60) as client:
            ready.wait()
            fields = headers or headers_for(body, timestamp=now, **credentials)
            return client.post(url + PATH, content=body, headers=fields).status_code

    with ThreadPoolExecutor(count) as pool:
        return Counter(pool.map(send, range(count)))


def test_the_first_lines_of_the_page_are_right_for_workers_and_after_a_restart(
    tmp_path,
):
    text = PAGE.read_text("utf-8")
    first = re.search(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert first
    (tmp_path / "alerts.py").write_text(first[1])
    provider = {"app_id": "provider-1", "secret": "the provider's secret"}
    now = int(time.time() * 1000)
    replayed = headers_for(alert_body(), timestamp=now, **provider)
    with workers("alerts:app", tmp_path) as (url, lines):
        assert post(url, 16, replayed) == {200: 1, 401: 15}
        assert post(url, 16, **provider) == {200: 16}  # sent again: acknowledged
    assert len([line for line in lines if "big_amount_txn_usd" in line]) == 1
    assert WARNING not in "".join(lines)
    with workers("alerts:app", tmp_path) as (url, lines):
        assert post(url, 4, replayed) == {401: 4}
        assert post(url, 4, **provider) == {200: 4}
    assert not [line for line in lines if "big_amount_txn_usd" in line]


def test_workers_with_stores_of_their_own_are_warned_about(tmp_path):
    environment = {"PYTHONPATH": str(HERE), "RECEIVED": ""}
    with workers("workers:app", tmp_path, **environment) as (url, lines):
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
        env={**rest, **environment, "RECEIVED": str(received)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert len(re.findall(WARNING, done.stderr)) == (warned and not shared)
