"""A watch-bus for tests: it takes alerts, by POST and WebSocket, and keeps them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ortege_watch.errors import DecodeError
from ortege_watch.testing._messages import HttpRequest, HttpResponse, decode
from ortege_watch.testing._signed import (
    HasNow,
    Refused,
    SignedCore,
    SignedFake,
    log_clock,
    missing,
    outcome,
)
from ortege_watch.watchbus import frames
from ortege_watch.watchbus.alerts import AlertInfo, decode_alerts

if TYPE_CHECKING:
    from ortege_watch.testing._connection import Connection

__all__ = ["FakeWatchBus"]

_NO_FRAME: Final = 1007


class _Core(SignedCore):
    """Answer the frames of an alert channel as the same alerts in a POST.

    Attributes:
        channel_path: where a WebSocket may open.
        take: keeps the alerts of a body, or raises :class:`Refused`.
    """

    max_frame = 2**20 + frames.OVERHEAD
    channel_path: str
    take: Callable[[bytes], None]

    def upgrade(self, request: HttpRequest) -> HttpResponse | None:
        """Let a channel open whose handshake is signed."""
        self.requests.append(request)
        refused = self.refused()
        if refused is not None:
            return refused
        if request.path != self.channel_path:
            return self.dated(missing())
        try:
            self.check(request)
        except Refused as error:
            return self.dated(error.answer)
        return None

    def message(self, connection: Connection, data: str | bytes) -> None:
        """Take a frame of alerts and answer it."""
        try:
            frame = frames.read_alerts(data.encode() if isinstance(data, str) else data)
        except DecodeError:
            connection.close(_NO_FRAME, "this is no frame of alerts")
            return
        answer = self.faults.take_answer() or outcome(lambda: self.take(frame.body))
        if self.faults.take_cut():
            connection.drop()
            return
        reply = frames.AnswerFrame(frame.id, answer.status, _json(answer.body))
        text = frames.write_answer(reply).encode()
        connection.later(lambda: connection.send(text))


def _json(body: bytes) -> bytes:
    """Return a body as JSON: what is none, such as a page, becomes a string."""
    try:
        decode(body)
    except ValueError:
        return json.dumps(body.decode(errors="replace")).encode()
    return body


class FakeWatchBus(SignedFake):
    """Take alerts by POST and by WebSocket on loopback.

    One port, a thread and an event loop of its own, as :class:`FakeCube` has::

        with FakeWatchBus() as bus:
            publisher = AlertPublisher(bus.url, bus.credentials)
            publisher.publish([alert])
            assert bus.alerts == [alert]

        async with FakeWatchBus() as bus:
            async with AlertChannel(bus.ws_url, bus.credentials) as channel:
                await channel.send([alert])
            assert bus.alerts == [alert]

    It checks every signature by itself, a handshake's too, and takes no nonce twice.
    Of the base's faults, :meth:`refuse` answers requests and handshakes without taking
    alerts. :meth:`error` and what is made of it (:meth:`fail`, :meth:`rate_limit`,
    :meth:`contradict`, :meth:`redirect`) do so for requests and for the frames of an
    alert channel, never for its handshake; a frame has no headers, so that
    ``Retry-After`` and ``Location`` are lost, and in it a body that is no JSON is a
    string. :meth:`cut` takes the alerts and then loses the answer: a channel's
    connection ends in its place. :meth:`skew` matters to the handshake alone.
    :meth:`drop`, :meth:`down`, :meth:`up`, :meth:`restart`, :meth:`silence` and
    :meth:`slow` are the same for both; in a silence, alerts are taken all the same.

    Args:
        app_id: who may send.
        secret: what it signs with.
        path: of the endpoint.
        channel_path: of the alert channel.
        tolerance: how many seconds a timestamp may be off.
        now: unix seconds.
        clock: what requests are timed with; ``now()`` in seconds.
        port: 0 for any free one.
    """

    def __init__(
        self,
        app_id: str = "fake-app",
        secret: str = "fake-watch-bus-secret",  # noqa: S107 - of a fake
        *,
        path: str = "/api/v1/watch/alert",
        channel_path: str = "/alerts/ws",
        tolerance: float = 300.0,
        now: Callable[[], float] = time.time,
        clock: HasNow | None = None,
        port: int = 0,
    ) -> None:
        core = _Core(app_id, secret, tolerance, now, log_clock(clock))
        super().__init__(core, port)
        self._deliveries: list[list[AlertInfo]] = []
        self._invalid: Callable[[AlertInfo], object] = lambda _: False
        self._answer = (400, "000001", "illegal alert")
        self._channel_path = core.channel_path = channel_path
        core.take = self._take
        core.endpoints[path] = lambda request: self._take(request.content)

    @property
    def ws_url(self) -> str:
        """Where its alert channel is, ``ws://127.0.0.1:<port>/alerts/ws``."""
        return f"ws://127.0.0.1:{self.port}{self._channel_path}"

    @property
    def deliveries(self) -> list[list[AlertInfo]]:
        """The alerts of each request or frame that was taken, repeated ones too."""
        with self._core.lock:
            return [list(each) for each in self._deliveries]

    @property
    def alerts(self) -> list[AlertInfo]:
        """All alerts, in the order in which each first came: once by its dedupe key."""
        app_id = self._core.app_id
        first: dict[str, AlertInfo] = {}
        for each in self.deliveries:
            for alert in each:
                first.setdefault(alert.dedupe_key(app_id), alert)
        return list(first.values())

    def reject_alerts(
        self,
        invalid: Callable[[AlertInfo], object],
        reason: str = "illegal alert",
        *,
        status: int = 400,
        code: str = "000001",
    ) -> None:
        """Refuse every request and frame with such an alert, until :meth:`heal`.

        Args:
            invalid: tells whether an alert is one.
            reason: the bus's words.
            status: the HTTP status of the answer; a channel sends again what was
                answered 408, 425, 429 or 500 and above.
            code: its result code.
        """
        with self._core.lock:
            self._invalid = invalid
            self._answer = (status, code, reason)

    def heal(self) -> None:
        """End every misbehaviour at once."""
        super().heal()
        with self._core.lock:
            self._invalid = lambda _: False
            self._core.ahead = 0.0

    def _take(self, body: bytes) -> None:
        try:
            alerts = decode_alerts(body)
        except DecodeError as error:
            raise Refused(400, "000001", str(error)) from error
        if any(map(self._invalid, alerts)):
            raise Refused(*self._answer)
        self._deliveries.append(alerts)
