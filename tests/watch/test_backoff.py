"""The back-off of a subscription, counted over all its sessions, in simulated time."""

from __future__ import annotations

import heapq
import itertools

import pytest

from ortege_watch.errors import TransportError
from ortege_watch.query.added_keys import AddedKeys
from ortege_watch.watch import frames
from ortege_watch.watch.options import Reconnect, Settings, SharedFailures
from ortege_watch.watch.session import DialectChoice, Session
from ortege_watch.watch.states import (
    AskToken,
    DeadlinePassed,
    Dropped,
    Finish,
    Live,
    Open,
    Opened,
    OpenFailed,
    Ping,
    Pong,
    Received,
    TokenReady,
    Waiting,
)

LOST = TransportError("lost")


class Subscription:
    """The sessions of one subscription, and a server that handles their attempts."""

    def __init__(self, dialect, queries, serve, *, jitter=0.0, **reconnect):
        self.now = 0.0
        self.attempts: list[float] = []
        self.ended: list[object] = []
        self.serve = serve
        settings = Settings(reconnect=Reconnect(**reconnect))
        self.failures = SharedFailures(settings.reconnect)
        keys = [str(number) for number in range(1, queries + 1)]
        self.sessions = [
            Session(
                {key: {"measures": ["a.b"]} for key in group},
                server="cube.example",
                choice=DialectChoice(dialect, may_switch=False, confirmed=True),
                settings=settings,
                added_keys=AddedKeys(),
                failures=self.failures,
                jitter=lambda: jitter,
                new_id=lambda: "id",
                advice=lambda: "",
                now=0.0,
            )
            for group in ([keys] if dialect == "cube" else [[key] for key in keys])
        ]
        self._due = []
        self._order = itertools.count()
        for session in self.sessions:
            self._at(0.0, session, DeadlinePassed())

    def _at(self, time, session, event):
        heapq.heappush(self._due, (time, next(self._order), session, event))

    def drop(self, *sessions):
        for session in sessions:
            self._handle(session, Dropped(1006, LOST))

    def _handle(self, session, event):
        for effect in session.handle(event, self.now):
            match effect:
                case AskToken():
                    self._at(self.now, session, TokenReady("t"))
                case Ping():
                    self._at(self.now, session, Pong())
                case Open():
                    self.attempts.append(self.now)
                    for after, event_ in self.serve(session):
                        self._at(self.now + after, session, event_)
                case Finish(error=error):
                    self.ended.append(error)
                    if error is not None:  # all of it ends
                        self._due.clear()
                        return
        if (until := session.state.until) is not None:
            self._at(until, session, DeadlinePassed())

    def run(self, until: float) -> None:
        while self._due and self._due[0][0] <= until:
            self.now, _, session, event = heapq.heappop(self._due)
            self._handle(session, event)
        self.now = until

    @property
    def live(self) -> int:
        return sum(isinstance(each.state, Live) for each in self.sessions)


def refusing(session):
    return [(0.0, OpenFailed(LOST))]


def up(session):
    first = frames.Handshake() if session.dialect == "cube" else ANSWER
    return [(0.0, Opened()), (0.0, Received(first))]


def dropping(session):
    return [*up(session), (0.0, Dropped(1006, LOST))]


def slow_to_fail(session):
    return [(20.0, OpenFailed(LOST))]


ANSWER = frames.read(b'{"data": []}')


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("serve", [refusing, dropping])
@pytest.mark.parametrize("queries", [1, 3, 5])
@pytest.mark.parametrize("dialect", ["cube", "ortege"])
def test_a_server_that_drops_gets_ten_attempts_in_the_first_minute(
    dialect, queries, serve, jitter
):
    watch = Subscription(dialect, queries, serve, jitter=jitter)
    watch.run(60.0)
    assert 4 <= len(watch.attempts) <= 10


@pytest.mark.parametrize("queries", [1, 5])
@pytest.mark.parametrize("serve", [refusing, dropping])
def test_attempts_count_the_sockets_that_fail_together_once(queries, serve):
    watch = Subscription("ortege", queries, serve, attempts=3)
    watch.run(1.0)
    assert watch.ended == []
    watch.run(60.0)
    assert watch.ended == [LOST]
    assert watch.failures.count == 3
    if serve is refusing:
        assert len(watch.attempts) == 2 + queries


@pytest.mark.parametrize("outage", [0.0, 70.0, 500.0])
def test_every_query_is_live_again_after_an_outage(outage):
    watch = Subscription("ortege", 5, up)
    watch.run(100.0)
    assert watch.live == 5
    watch.serve = refusing
    watch.drop(*watch.sessions)
    watch.run(100.0 + outage)
    watch.serve = up
    watch.run(100.0 + outage + 60.0 + 12.0)
    assert watch.live == 5
    assert watch.failures.count == 0


def test_a_lost_socket_does_not_disturb_the_others():
    watch = Subscription("ortege", 3, up)
    watch.run(100.0)
    watch.drop(watch.sessions[1])
    assert watch.live == 2
    watch.run(101.0)
    assert watch.live == 3


def test_a_query_whose_socket_always_fails_does_not_keep_out_another():
    watch = Subscription("ortege", 3, up)
    watch.run(100.0)
    bad = watch.sessions[0]
    watch.serve = lambda session: (refusing if session is bad else up)(session)
    watch.drop(*watch.sessions)
    watch.run(160.0)
    assert watch.live == 2
    assert isinstance(bad.state, Waiting)


def test_a_query_that_ends_while_it_is_tried_makes_room():
    watch = Subscription("ortege", 2, up)
    watch.run(100.0)
    first = watch.sessions[0]
    refused = frames.FrameError(400, "'x' not found for path 'y.x'")
    watch.serve = lambda session: (
        [(0.0, Opened()), (0.0, Received(refused))] if session is first else up(session)
    )
    watch.drop(*watch.sessions)
    watch.run(104.0)
    assert watch.ended == [None]
    assert watch.live == 1


def test_sockets_that_fail_late_belong_to_the_same_outage():
    watch = Subscription("ortege", 3, slow_to_fail)
    watch.run(19.0)
    watch.serve = up
    watch.run(22.0)
    assert watch.failures.count == 1
    assert watch.live == 1
    watch.run(32.0)
    assert watch.live == 3
