"""No nonce is new twice, in either store, and neither grows without end."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from forks import Log, verify
from signed import APP_ID, NOW, PATH, SECRET, alert_body, headers_for

from ortege_watch import InvalidArgument, OrtegeWatchError
from ortege_watch.watchbus import (
    MemoryNonces,
    NonceStore,
    RequestVerifier,
    SignatureError,
    SignatureReason,
    SQLiteNonces,
)


@pytest.fixture(params=["memory", "sqlite"])
def make_store(request, tmp_path):
    """Make stores; all of one test's SQLite stores share a file."""
    opened = []

    def make(**arguments: int) -> NonceStore:
        if request.param == "memory":
            return MemoryNonces(**arguments)
        opened.append(SQLiteNonces(tmp_path / "nonces.sqlite", **arguments))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


def test_a_nonce_is_new_once(make_store):
    store = make_store()
    assert store.record("app", "a", 0.0, 600.0)
    assert not store.record("app", "a", 0.0, 600.0)
    assert not store.record("app", "a", 599.0, 1199.0)
    assert store.record("app", "b", 0.0, 600.0)
    assert store.record("other", "a", 0.0, 600.0)


def test_a_nonce_is_remembered_until_its_time_and_no_shorter(make_store):
    store = make_store(limit=1)
    assert store.record("app", "a", 0.0, 600.0)
    with pytest.raises(SignatureError) as caught:
        store.record("app", "b", 600.0, 1200.0)
    assert caught.value.reason == SignatureReason.NONCES_FULL
    assert store.record("app", "b", 620.0, 1220.0)
    with pytest.raises(SignatureError):
        store.record("app", "b", 640.0, 1240.0)


def test_a_full_store_has_room_again_when_nonces_expire(make_store):
    store = make_store(limit=10)
    for number in range(10):
        assert store.record("app", str(number), float(number), number + 600.0)
    with pytest.raises(SignatureError, match="its limit of 10 for the app 'app';"):
        store.record("app", "more", 500.0, 1100.0)
    for number in range(10, 20):
        assert store.record("app", str(number), 620.0, 1220.0)


def test_the_limit_holds_for_each_app(make_store):
    store = make_store(limit=2)
    for number in range(2):
        assert store.record("full", str(number), 0.0, 600.0)
    for _ in range(2):
        with pytest.raises(SignatureError, match="the app 'full'"):
            store.record("full", "more", 20.0, 620.0)
    assert store.record("other", "1", 20.0, 620.0)
    assert not store.record("other", "1", 20.0, 620.0)
    assert store.record("full", "more", 640.0, 1240.0)


def test_a_clock_that_is_put_back_stops_nothing(make_store):
    store = make_store(limit=2)
    store.record("app", "a", 10_000.0, 10_600.0)
    store.record("app", "b", 10_000.0, 10_600.0)
    for now in (10_020.0, 5_000.0):
        with pytest.raises(SignatureError):
            store.record("app", "c", now, now + 600)
    assert store.record("app", "c", 20_000.0, 20_600.0)


def test_memory_is_swept_long_before_it_is_full():
    store = MemoryNonces()
    for number in range(20_000):
        assert store.record("app", str(number), float(number), number + 600.0)
    assert len(store) <= 2_500


def test_of_many_threads_one_is_first(make_store):
    store = make_store()
    barrier = threading.Barrier(8)

    def record(_: int) -> int:
        barrier.wait()
        return sum(store.record("app", str(n), 0.0, 600.0) for n in range(100))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(record, range(8))) == 100


def test_eight_processes_with_one_file_accept_a_request_once(tmp_path, forks):
    path, log = tmp_path / "nonces.sqlite", Log(tmp_path / "log")
    body, now = alert_body(), int(time.time() * 1000)
    requests = json.dumps([headers_for(body, timestamp=now) for _ in range(100)])
    processes = [forks.start(verify, path, log.path, requests) for _ in range(8)]
    for process in processes:
        forks.wait(process)
    assert sorted(log.numbers("accepted")) == list(range(100))


def test_a_file_remembers_after_a_restart(tmp_path):
    path = str(tmp_path / "nonces.sqlite")
    with SQLiteNonces(path) as store:
        assert store.record("app", "a", 0.0, 600.0)
    with SQLiteNonces(path) as store:
        assert not store.record("app", "a", 1.0, 601.0)


def test_a_file_that_cannot_be_used_is_an_error_of_ours(tmp_path):
    with pytest.raises(OrtegeWatchError, match="cannot use the nonce file") as caught:
        SQLiteNonces(tmp_path / "no such directory" / "nonces.sqlite")
    assert isinstance(caught.value.__cause__, sqlite3.Error)
    no_database = tmp_path / "text"
    no_database.write_text("This is no database, however long one looks at it. " * 40)
    with pytest.raises(OrtegeWatchError, match="not a database"):
        SQLiteNonces(no_database)
    store = SQLiteNonces(tmp_path / "nonces.sqlite")
    store.close()
    with pytest.raises(OrtegeWatchError, match="closed"):
        store.record("app", "a", 0.0, 600.0)


class AsyncNonces:
    async def record(self, app_id, nonce, now, until):
        return True


class OddNonces:
    def __init__(self, result):
        self.result = result

    def record(self, app_id, nonce, now, until):
        return self.result()


def test_an_async_store_is_refused():
    with pytest.raises(InvalidArgument, match=r"nonces\.record must be a plain func"):
        RequestVerifier({APP_ID: [SECRET]}, path=PATH, nonces=AsyncNonces())


@pytest.mark.parametrize(
    "result",
    [lambda: AsyncNonces().record(*"abcd"), lambda: None, lambda: 1, lambda: "OK"],
)
def test_a_store_that_does_not_say_true_or_false_accepts_nothing(result):
    """Every coroutine is true, also for a replay."""
    verifier = RequestVerifier(
        {APP_ID: [SECRET]}, path=PATH, nonces=OddNonces(result), clock=lambda: NOW
    )
    body = alert_body()
    for _ in range(2):
        with pytest.raises(OrtegeWatchError, match="must return True or False, got"):
            verifier.alerts(headers_for(body), body)
