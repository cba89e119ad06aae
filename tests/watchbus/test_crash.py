"""Processes that publish into one outbox, and are killed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from ortege_watch.testing import FakeWatchBus
from ortege_watch.watchbus import AlertInbox, AlertInfo, AlertPublisher, Outbox
from ortege_watch.watchbus.sending import SendLease

PROGRAM = Path(__file__).parent / "publishing_process.py"
BACKGROUND = Path(__file__).parent / "sending_process.py"


def start(bus, path, number=0, program=PROGRAM):
    return subprocess.Popen(
        [sys.executable, str(program), bus.url, str(path), str(number)],
        stdout=subprocess.PIPE,
        text=True,
    )


def kill(process):
    """Kill it as nothing can be caught; tell what it offered and what was accepted."""
    process.kill()
    said, _ = process.communicate()
    told = {"offered": [], "accepted": []}
    for line in said.splitlines():
        word, *numbers = line.split()
        told[word] += map(int, numbers)
    return told


def numbers(alerts):
    return [int(each.event_values["block_number"]) for each in alerts]


@pytest.mark.parametrize("after", [1, 2, 5, 20])
def test_every_accepted_alert_arrives_and_none_is_handled_twice(tmp_path, after):
    path = tmp_path / "alerts.sqlite3"
    with FakeWatchBus() as bus:
        process = start(bus, path)
        bus.wait_until(lambda: len(bus.deliveries) >= after, timeout=30)
        told = kill(process)
        with AlertPublisher(bus.url, bus.credentials, outbox=path) as publisher:
            publisher.flush()
            assert len(publisher.outbox) == 0
        arrived = numbers(bus.alerts)
        assert set(told["accepted"]) <= set(arrived) <= set(told["offered"])
        assert len(set(arrived)) == len(arrived)
        assert arrived == sorted(arrived)
        # A receiver with an inbox handles each alert once.
        handled = asyncio.run(handled_by_an_inbox(bus))
        assert handled == bus.alerts


async def handled_by_an_inbox(bus: FakeWatchBus) -> list[AlertInfo]:
    handled, inbox = [], AlertInbox()
    for alert in (each for request in bus.deliveries for each in request):
        outcome = await inbox.handle(alert, bus.credentials.app_id, handled.append)
        assert outcome.action == "acknowledge"
    return handled


def test_a_bus_that_never_responds_gets_the_alerts_again(tmp_path):
    """Killed after the alerts had arrived, without a response: they are sent again."""
    path = tmp_path / "alerts.sqlite3"
    with FakeWatchBus() as bus:
        bus.silence()
        process = start(bus, path)
        bus.wait_until(lambda: bus.deliveries, timeout=30)
        told = kill(process)
        assert told == {"offered": [0, 1, 2], "accepted": []}
        bus.speak()
        with AlertPublisher(bus.url, bus.credentials, outbox=path) as publisher:
            assert numbers(publisher.flush().sent) == [0, 1, 2]
        assert [numbers(each) for each in bus.deliveries] == [[0, 1, 2]] * 2
        assert numbers(bus.alerts) == [0, 1, 2]


def test_two_processes_with_one_outbox_send_nothing_twice(tmp_path):
    path = tmp_path / "alerts.sqlite3"
    with FakeWatchBus() as bus:
        processes = [start(bus, path, number) for number in (0, 1_000_000)]
        bus.wait_until(
            lambda: (
                len(bus.alerts) > 60
                and min(numbers(bus.alerts)) < 1_000_000 <= max(numbers(bus.alerts))
            ),
            timeout=60,
        )
        # Both are stopped by the bus, not in the middle of a request.
        bus.down()
        told = [kill(process) for process in processes]
        bus.up()
        before = [each for request in bus.deliveries for each in numbers(request)]
        assert len(set(before)) == len(before)
        with AlertPublisher(bus.url, bus.credentials, outbox=path) as publisher:
            publisher.flush()
        arrived = set(numbers(bus.alerts))
        offered = {number for each in told for number in each["offered"]}
        accepted = {number for each in told for number in each["accepted"]}
        assert accepted <= arrived <= offered


def test_a_killed_sender_loses_the_lease(tmp_path):
    path = tmp_path / "alerts.sqlite3"
    with FakeWatchBus() as bus, Outbox(path) as box:
        bus.silence()
        process = start(bus, path)
        bus.wait_until(lambda: bus.requests, timeout=30)
        assert box.begin_sending(SendLease(), 1) is None
        kill(process)
        assert box.begin_sending(SendLease(), 1)


@pytest.mark.parametrize("after", [1, 5])
def test_a_killed_background_sender_loses_nothing(tmp_path, after):
    path = tmp_path / "alerts.sqlite3"
    with FakeWatchBus() as bus:
        process = start(bus, path, program=BACKGROUND)
        bus.wait_until(lambda: len(bus.deliveries) >= after, timeout=30)
        told = kill(process)
        with AlertPublisher(bus.url, bus.credentials, outbox=path) as publisher:
            publisher.flush()
            assert len(publisher.outbox) == 0
        arrived = numbers(bus.alerts)
        assert set(told["accepted"]) <= set(arrived) <= set(told["offered"])


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
        done = subprocess.run(
            [sys.executable, "-c", FULL_DISK, bus.url, str(tmp_path / "alerts")],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            cwd=Path(__file__).parent,
        )
        flushed, refused, healed = done.stdout.splitlines()
        assert flushed.startswith("cannot use the outbox")
        assert flushed.endswith(" 2")
        assert refused.startswith("cannot use the outbox")
        assert healed == "4 4 0"
        assert numbers(bus.alerts) == [0, 1, 2, 3]
