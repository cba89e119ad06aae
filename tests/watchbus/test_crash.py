"""Processes that publish into one outbox, and are killed."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
from channels import CREDENTIALS, PATH
from forks import Log, enqueue, is_poison, publish, receive, send

from ortege_watch.testing import FakeWatchBus
from ortege_watch.watchbus import (
    AlertChannel,
    AlertInbox,
    AlertInfo,
    AlertPublisher,
    Outbox,
)
from ortege_watch.watchbus.outbox import queue_of
from ortege_watch.watchbus.sending import SendLease

KILLS = 30


def numbers(alerts):
    return [int(each.event_values["block_number"]) for each in alerts]


@pytest.mark.parametrize("program", [publish, enqueue])
def test_no_accepted_alert_is_lost_when_its_sender_is_killed(tmp_path, forks, program):
    """A bus that rejects some alerts, and loses answers; a sender that is killed."""
    path, log = tmp_path / "alerts.sqlite3", Log(tmp_path / "log")
    random, left, start = Random(7), set(), 0
    with FakeWatchBus() as bus, Outbox(path) as box:
        bus.reject_alerts(is_poison)
        for _ in range(KILLS):
            process = forks.start(program, bus.url, path, log.path, start)
            if random.random() < 0.3:
                bus.cut()
            wait_for_some(random, bus, log)
            forks.kill(process)
            left.add(len(box))
            start = max(log.numbers("offered")) + 1
        with AlertPublisher(bus.url, bus.credentials, outbox=box) as publisher:
            publisher.flush()
        assert len(box) == 0
        offered, accepted = set(log.numbers("offered")), set(log.numbers("accepted"))
        arrived, dead = numbers(bus.alerts), [each.alert for each in box.dead]
        assert accepted <= {*arrived, *numbers(dead)} <= offered
        assert all(map(is_poison, dead))
        assert not any(map(is_poison, bus.alerts))
        assert {each.reason for each in box.dead} <= {"illegal alert"}
        assert len(set(arrived)) == len(arrived)
        assert max(left) > 0  # some were killed with alerts that were not sent
        # A receiver with an inbox handles each alert once.
        assert asyncio.run(handled_by_an_inbox(bus)) == bus.alerts


def wait_for_some(random, bus, log):
    """Wait for some requests, or for some calls that accept alerts."""
    more = random.randrange(1, 10)
    if random.random() < 0.5:
        until = len(bus.requests) + more
        bus.wait_until(lambda: len(bus.requests) >= until, timeout=60)
    else:
        log.reach(len(log.lines()) + more)


async def test_no_accepted_alert_is_lost_when_either_end_of_a_channel_is_killed(
    tmp_path, forks
):
    path, log, taken = (
        tmp_path / "alerts",
        Log(tmp_path / "log"),
        Log(tmp_path / "taken"),
    )
    random, ends = Random(7), {}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"ws://127.0.0.1:{port}{PATH}"
    sender, receiver = (
        lambda: forks.start(send, url, path, log.path, len(log.lines())),
        lambda: forks.start(receive, port, tmp_path / "received", taken.path),
    )
    ends = {end: end() for end in (sender, receiver)}
    for _ in range(KILLS):
        progress = random.choice([log, taken])
        progress.reach(len(progress.lines()) + random.randrange(1, 20))
        end = random.choice([sender, receiver])
        forks.kill(ends[end])
        ends[end] = end()
    forks.kill(ends[sender])
    # The receiver may have failed to handle some, which are sent again later.
    with Outbox(path, now=lambda: time.time() + 60) as box:
        async with AlertChannel(url, CREDENTIALS, outbox=box), asyncio.timeout(60):
            while len(box):
                await asyncio.sleep(0.01)
        dead = [each.alert for each in box.dead]
        assert {each.reason for each in box.dead} == {"illegal alert"}
    offered, accepted = set(log.numbers("offered")), set(log.numbers("accepted"))
    handled = set(taken.numbers("handled"))
    assert accepted <= {*handled, *numbers(dead)} <= offered
    assert all(map(is_poison, dead))


async def handled_by_an_inbox(bus: FakeWatchBus) -> list[AlertInfo]:
    handled, inbox = [], AlertInbox()
    for alert in (each for request in bus.deliveries for each in request):
        outcome = await inbox.handle(alert, bus.credentials.app_id, handled.append)
        assert outcome.action == "acknowledge"
    return handled


def test_a_bus_that_never_responds_gets_the_alerts_again(tmp_path, forks):
    """Killed after the alerts had arrived, without a response: they are sent again."""
    path, log = tmp_path / "alerts.sqlite3", Log(tmp_path / "log")
    with FakeWatchBus() as bus:
        bus.silence()
        process = forks.start(publish, bus.url, path, log.path, 0)
        bus.wait_until(lambda: bus.deliveries, timeout=30)
        forks.kill(process)
        assert log.lines() == [["offered", "0", "1", "2"]]
        bus.speak()
        with AlertPublisher(bus.url, bus.credentials, outbox=path) as publisher:
            assert numbers(publisher.flush().sent) == [0, 1, 2]
        assert [numbers(each) for each in bus.deliveries] == [[0, 1, 2]] * 2
        assert numbers(bus.alerts) == [0, 1, 2]


def test_two_processes_with_one_outbox_send_nothing_twice(tmp_path, forks):
    path, log = tmp_path / "alerts.sqlite3", Log(tmp_path / "log")
    with FakeWatchBus() as bus:
        processes = [
            forks.start(publish, bus.url, path, log.path, number)
            for number in (0, 1_000_000)
        ]
        bus.wait_until(
            lambda: (
                len(bus.alerts) > 60
                and min(numbers(bus.alerts)) < 1_000_000 <= max(numbers(bus.alerts))
            ),
            timeout=60,
        )
        # Both are stopped by the bus, not in the middle of a request.
        bus.down()
        for process in processes:
            forks.kill(process)
        bus.up()
        before = [each for request in bus.deliveries for each in numbers(request)]
        assert len(set(before)) == len(before)
        with AlertPublisher(bus.url, bus.credentials, outbox=path) as publisher:
            publisher.flush()
        arrived = set(numbers(bus.alerts))
        assert set(log.numbers("accepted")) <= arrived <= set(log.numbers("offered"))


def test_a_killed_sender_loses_the_lease(tmp_path, forks):
    path = tmp_path / "alerts.sqlite3"
    with FakeWatchBus() as bus, Outbox(path) as box:
        bus.silence()
        process = forks.start(publish, bus.url, path, tmp_path / "log", 0)
        bus.wait_until(lambda: bus.requests, timeout=30)
        assert queue_of(box).begin_sending(SendLease(), 1) is None
        forks.kill(process)
        assert queue_of(box).begin_sending(SendLease(), 1)


FULL_DISK = """
import resource, sys
from driving import alert
from ortege_watch import OrtegeWatchError
from ortege_watch.watchbus import AlertPublisher, Credentials

url, path = sys.argv[1:]
credentials = Credentials("fake-app", "fake-watch-bus-secret")
with AlertPublisher(url, credentials, outbox=path, batch_size=2) as publisher:
    publisher.enqueue(map(alert, range(4)))
    # Nothing can be written behind this, as on a full disk.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, before[1]))
    try:
        publisher.flush()
    except OrtegeWatchError as error:
        print(error, len(error.published.sent))
    try:
        publisher.enqueue([alert(9)])
    except OrtegeWatchError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    print(len(publisher.outbox), len(publisher.flush().sent), len(publisher.outbox))
"""


def test_a_full_disk_loses_nothing_and_says_what_was_sent(tmp_path):
    with FakeWatchBus() as bus:
        done = run_script(FULL_DISK, bus.url, tmp_path / "alerts")
        flushed, refused, healed = done.splitlines()
        assert flushed.startswith("cannot use the outbox")
        assert flushed.endswith(" 2")
        assert refused.startswith("cannot use the outbox")
        assert healed == "4 2 0"  # two were acknowledged before
        assert numbers(bus.alerts) == [0, 1, 2, 3]


QUOTA = """
import resource, sys
from pathlib import Path
from driving import alert
from ortege_watch.watchbus import AlertPublisher, Credentials

url, path = sys.argv[1:]
credentials = Credentials("fake-app", "fake-watch-bus-secret")
with AlertPublisher(url, credentials, outbox=path, batch_size=10) as publisher:
    publisher.enqueue(alert(n, comment="x" * 1000) for n in range(500))
    size = Path(f"{path}-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    print(len(publisher.flush().sent), len(publisher.outbox))
"""


def test_an_outbox_whose_log_cannot_grow_is_drained(tmp_path):
    with FakeWatchBus() as bus:
        done = run_script(QUOTA, bus.url, tmp_path / "alerts")
        assert done.split() == ["500", "0"]
        assert numbers(bus.alerts) == list(range(500))
        assert sum(map(len, bus.deliveries)) == 500  # nothing was sent twice


SMALL_DISK = """
import os, sys
from driving import alert, fill
from ortege_watch.watchbus import AlertPublisher, Credentials, OutboxFull

url, path = sys.argv[1:]
credentials = Credentials("fake-app", "fake-watch-bus-secret")
accepted = 0
with AlertPublisher(url, credentials, outbox=path + "/outbox") as publisher:
    try:
        while True:
            more = range(accepted, accepted + 100)
            publisher.enqueue(alert(n, comment="x" * 1000) for n in more)
            accepted += 100
    except OutboxFull as error:
        print("make room" in str(error))
    with open(path + "/other", "wb", 0) as other:
        fill(other)
    print(accepted == len(publisher.flush().sent), len(publisher.outbox))
"""


def test_an_outbox_leaves_room_on_its_disk_for_the_removal_of_alerts(tmp_path):
    """On a disk of 11 MB, which another program then fills."""
    before = with_disk("11m", tmp_path)
    with FakeWatchBus() as bus:
        done = run_script(SMALL_DISK, bus.url, tmp_path, before=before)
        assert done.split() == ["True", "True", "0"]
        assert sum(map(len, bus.deliveries)) == len(bus.alerts)


FULL_AT_FIRST = """
import os, sys
from driving import fill
from ortege_watch import OrtegeWatchError
from ortege_watch.watchbus import Outbox

[folder] = sys.argv[1:]
with open(folder + "/other", "wb", 0) as other:
    fill(other)
    size = other.tell()
    used = len(os.listdir("/proc/self/fd"))
    for free in range(0, 512, 4):
        other.truncate(size - free * 1024)
        try:
            Outbox(folder + "/outbox").close()
        except OrtegeWatchError as error:
            print(error, len(os.listdir("/proc/self/fd")) - used)
            continue
        print("opened", os.path.getsize(folder + "/outbox-sender") > 0)
        break
"""


def test_an_outbox_that_is_opened_on_a_full_disk_asks_for_room(tmp_path):
    """With every amount of room that is too little, and all files are closed again."""
    done = run_script(FULL_AT_FIRST, tmp_path, before=with_disk("2m", tmp_path))
    *refused, opened = done.splitlines()
    assert len(refused) > 10
    for line in refused:
        assert line.startswith(f"cannot use the outbox '{tmp_path}/outbox': ")
        assert line.endswith("; make room on its disk 0")
    assert opened == "opened True"


def with_disk(size, path):
    """Return what precedes a command that sees a disk of its own at a path."""
    mount = f"mount -t tmpfs -o size={size} none {path}"
    space = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        subprocess.run([*space, mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("NOT TESTED ON A FULL DISK: needs user namespaces")
    return [*space, f'{mount} && exec "$0" "$@"']


def run_script(script, *arguments, before=()):
    """Return what a script in a process of its own prints."""
    return subprocess.run(
        [*before, sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
        cwd=Path(__file__).parent,
    ).stdout
