"""A watch-bus for tests: it takes alerts, and keeps them."""

from __future__ import annotations

import time
from collections.abc import Callable

from ortege_watch.errors import DecodeError
from ortege_watch.testing._messages import HttpRequest
from ortege_watch.testing._signed import (
    HasNow,
    Refused,
    SignedCore,
    SignedFake,
    log_clock,
)
from ortege_watch.watchbus.alerts import AlertInfo, decode_alerts

__all__ = ["FakeWatchBus"]


class FakeWatchBus(SignedFake):
    """Take alerts by POST on loopback.

    One port, a thread and an event loop of its own, as :class:`FakeCube` has::

        with FakeWatchBus() as bus:
            publisher = AlertPublisher(bus.url, bus.credentials)
            publisher.publish([alert])
            assert bus.alerts == [alert]

    It checks every signature by itself, and takes no nonce twice. Of the base's faults,
    :meth:`refuse` and :meth:`error` answer without taking the alerts, while
    :meth:`cut` takes them and then loses the answer.

    Args:
        app_id: who may send.
        secret: what it signs with.
        path: of the endpoint.
        tolerance: how many seconds a timestamp may be off.
        now: unix seconds.
        clock: what requests are timed with; ``now()`` in seconds.
        port: 0 for any free one.
        core: what keeps and answers, for a subclass that has more.
    """

    def __init__(
        self,
        app_id: str = "fake-app",
        secret: str = "fake-watch-bus-secret",  # noqa: S107 - of a fake
        *,
        path: str = "/api/v1/watch/alert",
        tolerance: float = 300.0,
        now: Callable[[], float] = time.time,
        clock: HasNow | None = None,
        port: int = 0,
        core: type[SignedCore] = SignedCore,
    ) -> None:
        super().__init__(core(app_id, secret, tolerance, now, log_clock(clock)), port)
        self._deliveries: list[list[AlertInfo]] = []
        self._invalid: Callable[[AlertInfo], object] = lambda _: False
        self._answer = (400, "000001", "illegal alert")
        self._core.endpoints[path] = self._take

    @property
    def deliveries(self) -> list[list[AlertInfo]]:
        """The alerts of each request that was accepted, repeated ones too."""
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
        """Refuse every request that holds such an alert, until :meth:`heal`.

        Args:
            invalid: tells whether an alert is one.
            reason: the bus's words.
            status: the HTTP status of the answer.
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

    def _take(self, request: HttpRequest) -> None:
        try:
            alerts = decode_alerts(request.content)
        except DecodeError as error:
            raise Refused(400, "000001", str(error)) from error
        if any(map(self._invalid, alerts)):
            raise Refused(*self._answer)
        self._deliveries.append(alerts)
