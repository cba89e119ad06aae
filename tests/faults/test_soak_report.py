"""What the figures of a soak show, and how it ends; more needs a real server."""

from __future__ import annotations

import threading

import pytest
from injection.servers import FakeServer
from injection.soak import ALLOWED, Report, run


@pytest.mark.parametrize("name", ALLOWED)
def test_what_grows_after_the_warm_up_is_a_failure(name):
    flat = [9000] * 25
    report = Report(samples={name: [0] * 25 + flat + flat + flat})
    assert report.quarters() == {name: (9000, 9000)}
    assert report.failures == []
    grown = 9000 + ALLOWED[name] + 1
    report.samples[name][-25:] = [grown] * 25
    assert report.failures == [f"{name} grew from 9000 to {grown}"]
    assert f"FAILED {name} grew" in str(report)


class BrokenCube:
    """A server that can be killed, and not be started again."""

    def __init__(self, fake):
        self.url = f"http://127.0.0.1:{fake.port}/cubejs-api/v1"
        self._fake = fake

    def token(self, *, exp):
        assert exp > 0
        return self._fake.token()

    def kill(self):
        pass

    def start(self):
        raise RuntimeError("Cube does not start")


@pytest.mark.timeout(60)  # the writer must not keep the process alive
def test_a_server_that_does_not_start_again_ends_the_soak():
    before = threading.active_count()
    with FakeServer("strict") as server:
        server.cube = BrokenCube(server)
        with pytest.raises(RuntimeError, match="does not start"):
            run(server, seconds=30, restart_every=0)
        for thread in threading.enumerate():
            if thread.name in {"thread websocket", "thread rest"}:
                thread.join(30)
    assert threading.active_count() <= before
