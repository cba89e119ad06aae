"""The two sides of the watch-bus for tests: a provider, and a receiver of alerts.

A signature is computed here with the standard library alone, from the wire facts and not
with the code under test.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from email.utils import formatdate
from functools import partial
from typing import Any, Final, TypeVar
from weakref import finalize

import attrs
import msgspec

from ortege_watch._checks import check_callable, check_int
from ortege_watch.errors import DecodeError, InvalidArgument
from ortege_watch.testing._messages import (
    HttpRequest,
    HttpResponse,
    decode,
    page,
    response,
)
from ortege_watch.testing._server import Connection, Fake, HasNow, Server
from ortege_watch.watchbus import frames
from ortege_watch.watchbus.models import (
    AlertInfo,
    EntityInfo,
    SubscriptionPage,
    SupportedEvent,
    read_alerts,
)
from ortege_watch.watchbus.provider import Endpoint, endpoints_at
from ortege_watch.watchbus.requests import WatchPaths
from ortege_watch.watchbus.signing import Credentials
from ortege_watch.watchbus.subscribers import SQLiteProvider
from ortege_watch.watchbus.wire import PageRequest

T = TypeVar("T")

_SUCCESS: Final = "000000000"
_BAD_REQUEST: Final = "000001"
_HEADERS: Final = ("appid", "timestamp", "nonce", "signature")


def _error_body(code: str, reason: str) -> dict[str, str | None]:
    return {"status": "ERROR", "code": code, "data": None, "error_data": reason}


class _Refused(Exception):
    """An error answer, raised where it is found."""

    def __init__(self, status: int, code: str, reason: str) -> None:
        self.answer = response(status, _error_body(code, reason))


def _outcome(action: Callable[[], object]) -> HttpResponse:
    """Answer with what an action returns, or with the refusal that it raises."""
    try:
        data = action()
    except _Refused as refused:
        return refused.answer
    return response(200, {"status": "OK", "code": _SUCCESS, "data": data})


class _SignedServer(Server):
    """A server that checks signatures and serves endpoints."""

    def __init__(
        self,
        credentials: Credentials,
        tolerance: float,
        now: Callable[[], float],
        clock: HasNow | None,
        port: int,
        max_body: int,
    ) -> None:
        super().__init__(clock, 60.0, port)
        check_callable("now", now, awaited=False)
        check_int("max_body", max_body)
        self.credentials = credentials
        self.tolerance = tolerance
        self.max_body = max_body
        self.ahead = 0.0  # seconds by which the server's clock is wrong
        self.endpoints: dict[str, Callable[[HttpRequest], Any]] = {}
        self._nonces: set[str] = set()
        self._now = now

    def now(self) -> float:
        """Return the server's own time in unix seconds."""
        return self._now() + self.ahead

    def respond(self, request: HttpRequest) -> HttpResponse:
        return self.dated(self.faults.take("answer") or self._answer(request))

    def dated(self, answer: HttpResponse) -> HttpResponse:
        """Add the server's own time to an answer."""
        headers = {"date": formatdate(self.now(), usegmt=True), **answer.headers}
        return attrs.evolve(answer, headers=headers)

    def _answer(self, request: HttpRequest) -> HttpResponse:
        endpoint = self.endpoints.get(request.path)
        if endpoint is None or request.method != "POST":
            return page(404)

        def act() -> object:
            self.check(request)
            return endpoint(request)

        return _outcome(act)

    def check(self, request: HttpRequest) -> None:
        """Check a signature, in the order of the documented reasons.

        The body may be too large; receivers see that before they compute a signature.

        Raises:
            _Refused: the signature is not valid, or the body is too large.
        """
        given = [request.headers.get(f"x-signature-{name}", "") for name in _HEADERS]
        app_id, timestamp, nonce, signature = given
        if not all(given):
            raise _Refused(401, "000004", "headers can not be null or empty")
        if app_id != self.credentials.app_id:
            raise _Refused(401, "000003", "invalid appid")
        if not (timestamp.isascii() and timestamp.isdigit()):
            raise _Refused(401, "000005", "timestamp has illegal")
        if abs(int(timestamp) / 1000 - self.now()) > self.tolerance:
            raise _Refused(401, "000005", "timestamp is expired")
        if len(request.content) > self.max_body:
            raise _Refused(413, _BAD_REQUEST, "body too large")
        start = f"{app_id};{timestamp};{nonce};{request.method};{request.path};"
        message = start.encode() + request.content
        secret = self.credentials.secret.encode()
        good = hmac.new(secret, message, hashlib.sha256).hexdigest()
        if request.params or not hmac.compare_digest(good, signature):
            raise _Refused(401, "000005", "invalid signature")
        if nonce in self._nonces:
            raise _Refused(401, "000005", "replay request")
        self._nonces.add(nonce)


class _SignedFake(Fake[_SignedServer]):
    """What the fakes of the watch-bus have in common."""

    def __repr__(self) -> str:
        where = self.url if self._server.running else "not running"
        return f"<{type(self).__name__} ({where}): {len(self.requests)} requests>"

    @property
    def url(self) -> str:
        """The address, ``http://127.0.0.1:<port>``."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def credentials(self) -> Credentials:
        """What clients sign with."""
        return self._server.credentials

    def skew(self, seconds: float) -> None:
        """Set the server's clock ahead, or back; its ``Date`` header shows it."""
        with self._server.lock:
            self._server.ahead = seconds

    def fail(
        self,
        code: str = "000001",
        reason: str = "unknown server error",
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        times: int | None = 1,
    ) -> None:
        """Answer the next requests with an error code, and do nothing else.

        Args:
            code: six digits.
            reason: the server's message.
            status: the HTTP status.
            headers: such as ``{"Retry-After": "2"}``.
            times: how many requests; None: all until :meth:`heal`.
        """
        self.error(status, _error_body(code, reason), headers=headers, times=times)

    def rate_limit(
        self, retry_after: float | None = None, *, times: int | None = 1
    ) -> None:
        """Answer the next requests with status 429."""
        headers = None if retry_after is None else {"Retry-After": f"{retry_after:g}"}
        self.fail("000002", "rate limit", status=429, headers=headers, times=times)

    def redirect(
        self, location: str, *, status: int = 307, times: int | None = 1
    ) -> None:
        """Redirect the next requests to another address."""
        self.error(status, headers={"Location": location}, times=times)

    def contradict(self, *, times: int | None = 1) -> None:
        """Answer the next requests with status ``OK`` and the code of an error."""
        self.error(200, {"status": "OK", "code": "000001", "data": None}, times=times)

    def heal(self) -> None:
        """End every misbehaviour."""
        super().heal()
        with self._server.lock:
            self._server.ahead = 0.0


_CALLS: Final = ("ERC20", "ERC721", "UNIVERSAL")
_EVENTS: Final = (
    SupportedEvent("big_amount_txn", ("ERC20",), Decimal(1000)),
    SupportedEvent("big_amount_txn_percent", ("ERC20",), Decimal("0.01")),
    SupportedEvent("big_amount_txn_usd", ("ERC20",), Decimal(100)),
    SupportedEvent("risk_function_call", _CALLS, Decimal(0)),
    SupportedEvent("abnormal_function_call", _CALLS, Decimal(0)),
)
"""The documented events."""


class _FaultyProvider(SQLiteProvider):
    """A provider in memory that fails on command."""

    def __init__(self, events: Iterable[SupportedEvent]) -> None:
        super().__init__(None, events)
        self.rejected: set[EntityInfo] = set()
        self.unasked: list[EntityInfo] = []
        self.is_stuck = False
        self.stuck_page: SubscriptionPage | None = None

    def subscribe(
        self, app_id: str, entities: Sequence[EntityInfo]
    ) -> list[EntityInfo]:
        return super().subscribe(app_id, self._asked(entities)) + self.unasked

    def unsubscribe(
        self, app_id: str, entities: Sequence[EntityInfo]
    ) -> list[EntityInfo]:
        return super().unsubscribe(app_id, self._asked(entities)) + self.unasked

    def subscriptions(
        self, app_id: str, addresses: Sequence[str] | None, page: PageRequest
    ) -> SubscriptionPage:
        found = super().subscriptions(app_id, addresses, page)
        if not self.is_stuck:
            return found
        self.stuck_page = self.stuck_page or found
        return self.stuck_page

    def _asked(self, entities: Sequence[EntityInfo]) -> list[EntityInfo]:
        return [each for each in entities if each not in self.rejected]


class FakeProvider(_SignedFake):
    """A provider with its four endpoints on loopback, for tests.

    It serves both of the prefixes that are documented, on one port, in a thread::

        with FakeProvider() as provider:
            client = WatchBusClient(provider.url, provider.credentials)
            client.subscribe([entity])
            assert provider.watched == [entity]
            provider.rate_limit()

    It does what :func:`provider_app` does with an :class:`SQLiteProvider`. It checks
    every signature, and accepts a nonce once. With :meth:`refuse` and :meth:`error` it
    does nothing but answer; with :meth:`cut` it does what was asked and then loses the
    answer.

    Args:
        app_id: the only app that may send requests.
        secret: the key of its signatures.
        events: what can be subscribed to, and the answer of ``event/list``; by default
            the events of the specification.
        page_size: the highest number of entries in a page; a request may ask for more.
        tolerance: the seconds that a timestamp may differ.
        now: unix seconds.
        clock: what requests are timed with; ``now()`` in seconds.
        port: 0 for any free one.
        max_body: the size in bytes of the largest body that is read.
    """

    def __init__(
        self,
        app_id: str = "fake-app",
        secret: str = "fake-provider-secret",  # noqa: S107 - of a fake
        *,
        events: Iterable[SupportedEvent] = _EVENTS,
        page_size: int = 50,
        tolerance: float = 300.0,
        now: Callable[[], float] = time.time,
        clock: HasNow | None = None,
        port: int = 0,
        max_body: int = 2**20,
    ) -> None:
        credentials = Credentials(app_id, secret)
        server = _SignedServer(credentials, tolerance, now, clock, port, max_body)
        super().__init__(server)
        self._page_size = page_size
        self._provider = _FaultyProvider(events)
        finalize(self, self._provider.close)
        for path, endpoint in endpoints_at(WatchPaths()).items():
            server.endpoints[path] = partial(self._serve, endpoint)

    @property
    def watched(self) -> list[EntityInfo]:
        """The watched entities, in the order of their subscription."""
        return [each.entity for each in self._provider.subscribers()]

    def watch(self, *entities: EntityInfo) -> None:
        """Subscribe entities without a request.

        Raises:
            InvalidArgument: one is not of the provider's events.
        """
        app_id = self.credentials.app_id
        accepted = SQLiteProvider.subscribe(self._provider, app_id, entities)
        if missing := [each for each in entities if each not in accepted]:
            raise InvalidArgument(f"entities must be of the events, got {missing[0]}")

    def reject(self, *entities: EntityInfo) -> None:
        """Fail for these entities: the answers omit them, as documented."""
        with self._server.lock:
            self._provider.rejected.update(entities)

    def answer_unasked(self, *entities: EntityInfo) -> None:
        """Add these entities to the answers to subscribe and unsubscribe."""
        with self._server.lock:
            self._provider.unasked.extend(entities)

    def repeat_page(self, on: bool = True) -> None:
        """Answer every page with the first that is requested from now on."""
        with self._server.lock:
            self._provider.is_stuck, self._provider.stuck_page = on, None

    def heal(self) -> None:
        """End every misbehaviour; entities that were rejected stay unwatched."""
        super().heal()
        with self._server.lock:
            self._provider.rejected.clear()
            self._provider.unasked.clear()
            self._provider.is_stuck = False

    def _serve(self, endpoint: Endpoint, request: HttpRequest) -> Any:
        app_id, size = self.credentials.app_id, self._page_size
        arguments = _read(
            lambda body: endpoint.arguments(app_id, body, size), request.content
        )
        return endpoint.data(getattr(self._provider, endpoint.name)(*arguments))


def _read(decode: Callable[[bytes], T], body: bytes) -> T:
    try:
        return decode(body)
    except DecodeError as error:
        raise _Refused(400, _BAD_REQUEST, str(error)) from error


class _AlertServer(_SignedServer):
    """A server that accepts alerts by POST, and over WebSocket as the same alerts."""

    channel_path: str  # the only path where a WebSocket opens
    take: Callable[[bytes], None]  # keeps the alerts of a body, or raises _Refused

    def upgrade(self, request: HttpRequest) -> HttpResponse | None:
        if request.path != self.channel_path:
            return self.dated(page(404))
        try:
            self.check(request)
        except _Refused as error:
            return self.dated(error.answer)
        return None

    def message(self, connection: Connection, data: str | bytes) -> None:
        try:
            data = data.encode() if isinstance(data, str) else data
            frame = frames.decode_frame(frames.AlertFrame, data)
        except DecodeError:
            connection.close(1007, "not a frame of alerts")
            return
        answer = self.faults.take("answer") or _outcome(
            lambda: self.take(bytes(frame.body))
        )
        if self.faults.take("cut"):
            connection.drop()
            return
        body = msgspec.Raw(_json(answer.body))
        reply = frames.AnswerFrame(frame.id, answer.status, body)
        text = frames.encode_frame(reply).encode()
        connection.later(lambda: connection.send(text))


def _json(body: bytes) -> bytes:
    """Return a body as JSON: one of another type, such as HTML, becomes a string."""
    try:
        decode(body)
    except ValueError:
        return json.dumps(body.decode(errors="replace")).encode()
    return body


class FakeWatchBus(_SignedFake):
    """A receiver of alerts by POST and by WebSocket on loopback, for tests.

    It has one port, and a thread with an event loop of its own::

        with FakeWatchBus() as bus:
            publisher = AlertPublisher(bus.url, bus.credentials)
            publisher.publish([alert])
            assert bus.alerts == [alert]

        async with FakeWatchBus() as bus:
            async with AlertChannel(bus.ws_url, bus.credentials) as channel:
                await channel.send([alert])
            assert bus.alerts == [alert]

    It checks every signature, a handshake's too, and accepts a nonce once. :meth:`refuse`
    answers requests and handshakes without keeping alerts. So do :meth:`error`,
    :meth:`fail`, :meth:`rate_limit`, :meth:`contradict` and :meth:`redirect` for requests
    and for the frames of an alert channel, never for its handshake; a frame has no
    headers, so that ``Retry-After`` and ``Location`` are lost, and a body that is not
    JSON becomes a string. :meth:`cut` keeps the alerts and then loses the answer: for a
    frame, the connection ends instead. :meth:`skew` affects only the handshake of a
    channel. During a :meth:`silence` alerts are kept, too.

    Args:
        app_id: the only app that may send alerts.
        secret: the key of its signatures.
        path: of the endpoint.
        channel_path: of the alert channel.
        tolerance: the seconds that a timestamp may differ.
        now: unix seconds.
        clock: what requests are timed with; ``now()`` in seconds.
        port: 0 for any free one.
        max_body: the size in bytes of the largest body that is read.
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
        max_body: int = 2**20,
    ) -> None:
        credentials = Credentials(app_id, secret)
        server = _AlertServer(credentials, tolerance, now, clock, port, max_body)
        super().__init__(server)
        server.max_frame = max_body + frames.OVERHEAD
        self._deliveries: list[list[AlertInfo]] = []
        self._invalid: Callable[[AlertInfo], object] = lambda _: False
        self._answer = (400, _BAD_REQUEST, "illegal alert")
        self._channel_path = server.channel_path = channel_path
        server.take = self._take
        server.endpoints[path] = lambda request: self._take(request.content)

    @property
    def ws_url(self) -> str:
        """The address of its alert channel, ``ws://127.0.0.1:<port>/alerts/ws``."""
        return f"ws://127.0.0.1:{self.port}{self._channel_path}"

    @property
    def deliveries(self) -> list[list[AlertInfo]]:
        """The alerts of each request or frame that was accepted, repeated ones too."""
        with self._server.lock:
            return [list(each) for each in self._deliveries]

    @property
    def alerts(self) -> list[AlertInfo]:
        """All alerts, each once by its dedupe key, in the order of arrival."""
        app_id = self.credentials.app_id
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
            invalid: returns whether an alert is one.
            reason: the bus's message.
            status: the HTTP status of the answer; a channel sends again what was
                answered 408, 425, 429 or 500 and above.
            code: the result code.
        """
        check_callable("invalid", invalid, "alert", awaited=False)
        with self._server.lock:
            self._invalid = invalid
            self._answer = (status, code, reason)

    def heal(self) -> None:
        """End every misbehaviour."""
        super().heal()
        with self._server.lock:
            self._invalid = lambda _: False

    def _take(self, body: bytes) -> None:
        alerts = _read(read_alerts, body)
        if any(map(self._invalid, alerts)):
            raise _Refused(*self._answer)
        self._deliveries.append(alerts)
