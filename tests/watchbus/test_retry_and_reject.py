"""What a handler decides about an alert, and what the publisher then does with it."""

from __future__ import annotations

import httpx
import pytest
from driving import CREDENTIALS, alert

from ortege_watch import Retry
from ortege_watch.watchbus import (
    AsyncAlertPublisher,
    Outbox,
    RejectAlert,
    RequestVerifier,
    RetryAlert,
    alert_app,
)

PATH = "/api/v1/watch/alert"


def numbers(alerts):
    return [int(each.event_values["block_number"]) for each in alerts]


@pytest.fixture
def outbox(tmp_path, clock):
    with Outbox(tmp_path / "alerts.sqlite3", now=clock, max_attempts=2) as box:
        yield box


@pytest.fixture
async def bus(outbox):
    """A publisher and the application that receives what it sends."""

    class Bus:
        def __init__(self):
            self.handled = []
            self.problems = {}

        def handler(self, alert):
            number = int(alert.event_values["block_number"])
            if number in self.problems:
                raise self.problems[number]
            self.handled.append(number)

    bus = Bus()
    verifier = RequestVerifier({CREDENTIALS.app_id: [CREDENTIALS.secret]}, path=PATH)
    async with AsyncAlertPublisher(
        "https://bus.example.com",
        CREDENTIALS,
        outbox=outbox,
        http=httpx.ASGITransport(alert_app(verifier, bus.handler)),
        retry=Retry(attempts=1),
    ) as bus.publisher:
        yield bus


ALERTS = [alert(number) for number in range(20)]
OTHERS = [number for number in range(20) if number != 7]


async def test_an_alert_that_the_handler_rejects_is_a_dead_letter(bus, outbox):
    bus.problems[7] = RejectAlert("unknown token")
    result = await bus.publisher.publish(ALERTS)
    assert sorted(bus.handled) == numbers(result.sent) == OTHERS
    assert result.unsent == ()
    [letter] = outbox.dead
    assert numbers([letter.alert]) == [7]
    assert "unknown token" in letter.reason
    assert letter.status == 422


async def test_an_alert_that_the_handler_fails_on_is_sent_again(bus, outbox, clock):
    bus.problems[7] = ValueError("a bug")
    await bus.publisher.publish(ALERTS)
    assert sorted(bus.handled) == OTHERS
    assert numbers([each.alert for each in outbox.waiting()]) == [7]
    assert (await bus.publisher.flush()).sent == ()
    clock.now += 6
    await bus.publisher.publish([alert(20)])
    [letter] = outbox.dead
    assert (letter.attempts, letter.status, letter.code) == (2, 500, "000001")
    bus.problems.clear()
    outbox.requeue()
    await bus.publisher.flush()
    assert sorted(bus.handled) == numbers([*ALERTS, alert(20)])


async def test_an_alert_is_sent_again_when_the_handler_asks_for_it(bus, outbox, clock):
    bus.problems[7] = RetryAlert(after=60)
    result = await bus.publisher.publish(ALERTS)
    assert sorted(bus.handled) == OTHERS
    assert numbers(result.unsent) == [7]
    clock.now += 59
    await bus.publisher.flush()
    assert 7 not in bus.handled
    bus.problems.clear()
    clock.now += 2
    assert numbers((await bus.publisher.flush()).sent) == [7]
    assert len(outbox) == 0
