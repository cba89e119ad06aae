"""SQLite files: their version, their size, and processes that fork."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

import pytest
from driving import alert

from ortege_watch import InvalidArgument, OrtegeWatchError
from ortege_watch.watchbus import (
    AlertInbox,
    Outbox,
    RequestVerifier,
    SQLiteHandled,
    SQLiteNonces,
    WireStyle,
    alert_app,
    alert_view,
)
from ortege_watch.watchbus.outbox import queue_of
from ortege_watch.watchbus.sending import BatchResults, SendLease, prepare_alerts


def ready(numbers, **values):
    alerts = [alert(each, **values) for each in numbers]
    return prepare_alerts(alerts, "app", WireStyle())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "alerts.sqlite3"


def pragma(path, name):
    with closing(sqlite3.connect(path)) as db:
        return db.execute(f"PRAGMA {name}").fetchone()[0]


def test_an_outbox_has_a_version(path):
    Outbox(path).close()
    assert pragma(path, "user_version") == 2
    Outbox(path).close()


@pytest.mark.parametrize("version", [0, 1, 99])
def test_an_outbox_of_another_version_is_refused_and_stays_as_it_is(path, version):
    with Outbox(path) as box:
        queue_of(box).accept(ready([1]))
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {version}")
    problem = f"version {version}.*version 2" if version else "another kind"
    with pytest.raises(OrtegeWatchError, match=problem):
        Outbox(path)
    assert pragma(path, "user_version") == version


@pytest.mark.parametrize("kind", [Outbox, SQLiteNonces, SQLiteHandled])
def test_a_name_that_is_too_long_is_an_error_of_the_library(kind, tmp_path):
    with pytest.raises(OrtegeWatchError, match="unable to open database file"):
        kind(tmp_path / ("x" * 300))


def test_another_database_is_not_an_outbox(path):
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE customers (name TEXT)")
    with pytest.raises(OrtegeWatchError, match="is a file of another kind"):
        Outbox(path)


def test_an_outbox_that_is_opened_again_needs_no_room_on_its_disk(path):
    Outbox(path).close()
    with Outbox(path):
        assert path.with_name(f"{path.name}-wal").stat().st_size == 0


def test_an_outbox_gives_space_back(path):
    with Outbox(path) as box:
        queue_of(box).accept(ready(range(2000), comment="x" * 2000))
        queue_of(box)._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        full = path.stat().st_size
        lease = SendLease()
        batch = queue_of(box).begin_sending(lease, 100)
        while batch:
            batch, _ = queue_of(box).resolve(BatchResults(sent=batch), 100)
        queue_of(box).end_sending(lease)
    assert path.stat().st_size < full / 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", [Outbox, SQLiteNonces])
def test_a_forked_child_cannot_use_the_file_of_its_parent(path, kind):
    with kind(path) as store:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                use = store.waiting if kind is Outbox else store.record
                use(*(() if kind is Outbox else ("app", "a", 0.0, 1.0)))
            except BaseException as error:  # noqa: BLE001 - the parent looks at it
                os.write(writing, f"{type(error).__name__}: {error}".encode())
            finally:
                store.close()  # does nothing here
                os._exit(0)
        os.close(writing)
        assert os.waitpid(child, 0)[1] == 0
        said = os.read(reading, 9999).decode()
        os.close(reading)
        assert said.startswith("OrtegeWatchError: cannot use")
        assert "before this process was forked" in said
        if kind is Outbox:
            queue_of(store).accept(ready([1]))
            assert len(store) == 1


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "alerts.db"
    SQLiteNonces(path).close()
    problem = "is a file of another kind: use another path"
    with pytest.raises(OrtegeWatchError, match=problem):
        Outbox(path)


@pytest.mark.parametrize("kind", [SQLiteNonces, SQLiteHandled])
def test_an_outbox_is_no_file_of_what_was_received(kind, tmp_path):
    path = tmp_path / "alerts.db"
    Outbox(path).close()
    problem = "is a file of another kind: use another path"
    with pytest.raises(OrtegeWatchError, match=problem):
        kind(path)
    Outbox(path).close()  # it was left as it is


@pytest.mark.parametrize("kind", [Outbox, SQLiteNonces, SQLiteHandled])
def test_a_directory_is_no_file(kind, tmp_path):
    with pytest.raises(InvalidArgument, match="must name a file, got the directory"):
        kind(tmp_path)


def test_an_empty_outbox_is_true(tmp_path):
    with Outbox(tmp_path / "alerts.db") as outbox:
        assert (bool(outbox), len(outbox)) == (True, 0)


def test_a_store_shows_its_file(tmp_path):
    path = tmp_path / "received.db"
    with SQLiteNonces(path) as nonces, SQLiteHandled(path) as handled:
        assert repr(nonces) == f"SQLiteNonces({str(path)!r})"
        assert repr(AlertInbox(handled)) == f"AlertInbox(SQLiteHandled({str(path)!r}))"


def test_an_application_shows_its_verifier(tmp_path):
    verifier = RequestVerifier({"app": ["hush"]}, path="/alerts")
    shown = "RequestVerifier(method='POST', path='/alerts')"
    assert repr(alert_app(verifier, print)) == f"AlertApp({shown})"
    assert repr(alert_view(verifier, print)) == f"AlertView({shown})"
