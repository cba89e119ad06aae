"""A provider of the watch-bus for tests: it watches what it is told to, in memory."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final, Protocol

from ortege_watch.errors import DecodeError
from ortege_watch.testing._cube.gateway import encode
from ortege_watch.testing._fake import Fake
from ortege_watch.testing._faults import Faults, Records
from ortege_watch.testing._messages import HttpRequest, HttpResponse, decode, response
from ortege_watch.testing._server import Server
from ortege_watch.watchbus import channel as frames
from ortege_watch.watchbus.models import (
    AlertInfo,
    EntityInfo,
    SupportedEvent,
    decode_alerts,
)
from ortege_watch.watchbus.signing import Credentials

if TYPE_CHECKING:
    from ortege_watch.testing._server import Connection

__all__ = [
    "FakeProvider",
    "FakeWatchBus",
    "HasNow",
    "Refused",
    "SignedCore",
    "SignedFake",
    "log_clock",
    "missing",
    "outcome",
]

# -------------------- What the fakes of the watch-bus have in common: signatures, answers, faults.
#
# A signature is computed here with the standard library alone, from the wire facts and
# not with the code under test.


SUCCESS: Final = "000000000"
_PAGE: Final = b"<html><body>%d</body></html>\n"
_HEADERS: Final = ("appid", "timestamp", "nonce", "signature")


class HasNow(Protocol):
    """Tell monotonic seconds."""

    def now(self) -> float:
        """Return monotonic seconds."""
        ...


class Refused(Exception):
    """Carry an answer that says no."""

    def __init__(self, status: int, code: str, reason: str) -> None:
        self.answer = response(
            status, encode({"status": "ERROR", "code": code, "message": reason})
        )


class SignedCore(Records):
    """Check signatures, and answer what a fake's endpoints return.

    The WebSocket side is for a subclass: :meth:`upgrade` returns ``None`` to let one
    open, and :meth:`opened`, :meth:`message` and :meth:`closed` then follow.

    Args:
        app_id: who may ask.
        secret: what it signs with.
        tolerance: how many seconds a timestamp may be off.
        now: tells unix seconds.
        clock: tells the time of the log.
    """

    max_frame = 2**20

    def __init__(
        self,
        app_id: str,
        secret: str,
        tolerance: float,
        now: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        super().__init__(Faults(), clock)
        self.app_id = app_id
        self.secret = secret
        self.tolerance = tolerance
        self.ahead = 0.0
        self.nonces: set[str] = set()
        self.endpoints: dict[str, Callable[[HttpRequest], Any]] = {}
        self._now = now

    def now(self) -> float:
        """Tell the server's own time, in unix seconds."""
        return self._now() + self.ahead

    def request(self, request: HttpRequest) -> HttpResponse:
        """Answer a request."""
        self.requests.append(request)
        refused = self.refused()
        if refused is not None:
            return refused
        return self.dated(self.faults.take_answer() or self._answer(request))

    def refused(self) -> HttpResponse | None:
        """Answer with a page that says no, where that is commanded."""
        status = self.faults.take("refusals")
        return None if status is None else response(status, _PAGE % status)

    def dated(self, answer: HttpResponse) -> HttpResponse:
        """Add the server's own time to an answer."""
        date = {"date": formatdate(self.now(), usegmt=True)}
        headers = {**date, **answer.headers}
        return HttpResponse(status=answer.status, headers=headers, body=answer.body)

    def _answer(self, request: HttpRequest) -> HttpResponse:
        endpoint = self.endpoints.get(request.path)
        if endpoint is None or request.method != "POST":
            return missing()

        def act() -> object:
            self.check(request)
            return endpoint(request)

        return outcome(act)

    def check(self, request: HttpRequest) -> None:
        """Check a signature, in the order of the documented reasons.

        Raises:
            Refused: it is not good.
        """
        given = [request.headers.get(f"x-signature-{name}", "") for name in _HEADERS]
        app_id, timestamp, nonce, signature = given
        if not all(given):
            raise Refused(401, "000004", "headers can not be null or empty")
        if app_id != self.app_id:
            raise Refused(401, "000003", "invalid appid")
        if not (timestamp.isascii() and timestamp.isdigit()):
            raise Refused(401, "000005", "timestamp has illegal")
        if abs(int(timestamp) / 1000 - self.now()) > self.tolerance:
            raise Refused(401, "000005", "timestamp is expired")
        start = f"{app_id};{timestamp};{nonce};{request.method};{request.path};"
        message = start.encode() + request.content
        good = hmac.new(self.secret.encode(), message, hashlib.sha256).hexdigest()
        if request.params or not hmac.compare_digest(good, signature):
            raise Refused(401, "000005", "invalid signature")
        if nonce in self.nonces:
            raise Refused(401, "000005", "replay request")
        self.nonces.add(nonce)

    def upgrade(self, request: HttpRequest) -> HttpResponse | None:
        """Answer a request for a WebSocket as one for a page."""
        return self.request(request)

    def opened(self, connection: Connection) -> None:
        """Take note of a WebSocket that has opened."""

    def message(self, connection: Connection, data: str | bytes) -> None:
        """Take a message."""

    def closed(self, connection: Connection) -> None:
        """Take note of a connection that has ended."""

    def tick(self) -> None:
        """Do nothing: no answer is due by itself."""


class SignedFake(Fake[SignedCore]):
    """Serve signed endpoints on loopback; a base for the fakes of the watch-bus."""

    def __init__(self, core: SignedCore, port: int) -> None:
        self._core = core
        self._server = Server(
            application=core, lock=core.lock, interval=60.0, port=port
        )

    def __repr__(self) -> str:
        """Show what a failing test wants to know first."""
        where = self.url if self._server.running else "not running"
        seen = f"{len(self._core.requests)} requests"
        return f"<{type(self).__name__} ({where}): {seen}>"

    @property
    def url(self) -> str:
        """Where it is, ``http://127.0.0.1:<port>``."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def credentials(self) -> Credentials:
        """What its clients sign with."""
        return Credentials(self._core.app_id, self._core.secret)

    def skew(self, seconds: float) -> None:
        """Set the server's clock ahead, or back; its ``Date`` header shows it."""
        with self._core.lock:
            self._core.ahead = seconds

    def fail(
        self,
        code: str = "000001",
        reason: str = "unknown server error",
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        times: int | None = 1,
    ) -> None:
        """Answer the next requests with an error code, and do nothing of what they ask.

        Args:
            code: six digits.
            reason: the server's words.
            status: the HTTP status.
            headers: such as ``{"Retry-After": "2"}``.
            times: how many requests; ``None`` for all until :meth:`heal`.
        """
        body = {"status": "ERROR", "code": code, "message": reason}
        self.error(status, body, headers=headers, times=times)

    def rate_limit(
        self, retry_after: float | None = None, *, times: int | None = 1
    ) -> None:
        """Answer the next requests that there were too many."""
        headers = None if retry_after is None else {"Retry-After": f"{retry_after:g}"}
        self.fail("000002", "rate limit", status=429, headers=headers, times=times)

    def redirect(
        self, location: str, *, status: int = 307, times: int | None = 1
    ) -> None:
        """Send the next requests to another address."""
        self.error(status, headers={"Location": location}, times=times)

    def contradict(self, *, times: int | None = 1) -> None:
        """Answer the next requests ``OK`` with the code of an error."""
        self.error(200, {"status": "OK", "code": "000001", "data": None}, times=times)


def log_clock(clock: HasNow | None) -> Callable[[], float]:
    """Return what tells the time of a fake's log."""
    return time.monotonic if clock is None else clock.now


def missing() -> HttpResponse:
    """Answer that there is nothing here."""
    return response(404, _PAGE % 404)


def outcome(action: Callable[[], object]) -> HttpResponse:
    """Answer with what an action returns, or with the refusal that it raises."""
    try:
        data = action()
    except Refused as refused:
        return refused.answer
    return response(200, encode({"status": "OK", "code": SUCCESS, "data": data}))


_EVENTS: Final = (
    SupportedEvent("big_amount_txn", ("ERC20",), Decimal(1000)),
    SupportedEvent("risk_function_call", ("ERC20", "ERC721", "UNIVERSAL"), Decimal(0)),
)
_PREFIXES: Final = ("/api/watch", "/api/v1/watch")


class FakeProvider(SignedFake):
    """Serve a provider's four endpoints on loopback, under both of the page's prefixes.

    One port, a thread and an event loop of its own, as :class:`FakeCube` has::

        with FakeProvider() as provider:
            client = WatchBusClient(provider.url, provider.credentials)
            client.subscribe([entity])
            assert provider.watched == [entity]
            provider.rate_limit()                         # and what does it do now?

    It checks every signature by itself, and takes no nonce twice. Of the base's faults,
    :meth:`refuse` and :meth:`error` answer without doing what is asked, while
    :meth:`cut` does it and then loses the answer.

    Args:
        app_id: who may ask.
        secret: what it signs with.
        events: what ``event/list`` answers.
        page_size: entries in a page, at most; fewer than asked for is allowed.
        tolerance: how many seconds a timestamp may be off.
        now: unix seconds.
        clock: what requests are timed with; ``now()`` in seconds.
        port: 0 for any free one.
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
    ) -> None:
        core = SignedCore(app_id, secret, tolerance, now, log_clock(clock))
        super().__init__(core, port)
        self._events = list(events)
        self._page_size = page_size
        self._watched: dict[EntityInfo, str] = {}
        self._rejected: set[EntityInfo] = set()
        self._unasked: list[EntityInfo] = []
        self._stuck_page: dict[str, Any] | None = None
        self._is_stuck = False
        for prefix in _PREFIXES:
            core.endpoints |= {
                f"{prefix}/subscribe": self._subscribe,
                f"{prefix}/unsubscribe": self._unsubscribe,
                f"{prefix}/subscriptions/list": self._list,
                f"{prefix}/event/list": self._list_events,
            }

    @property
    def watched(self) -> list[EntityInfo]:
        """What it watches, in the order in which it was told to."""
        with self._core.lock:
            return list(self._watched)

    def watch(self, *entities: EntityInfo) -> None:
        """Watch entities without being asked over the network."""
        with self._core.lock:
            for each in entities:
                self._watched.setdefault(each, f"watch-{len(self._watched) + 1}")

    # Misbehaviour of a provider's own

    def reject(self, *entities: EntityInfo) -> None:
        """Fail for these entities: they are left out of the answers, as documented."""
        with self._core.lock:
            self._rejected.update(entities)

    def answer_unasked(self, *entities: EntityInfo) -> None:
        """Name these entities too in the answers to subscribe and unsubscribe."""
        with self._core.lock:
            self._unasked.extend(entities)

    def repeat_page(self, on: bool = True) -> None:
        """Answer every page with the first that is asked for from now on."""
        with self._core.lock:
            self._is_stuck, self._stuck_page = on, None

    def heal(self) -> None:
        """End every misbehaviour at once; entities that were rejected stay unwatched."""
        super().heal()
        with self._core.lock:
            self._rejected.clear()
            self._unasked.clear()
            self._core.ahead = 0.0
            self._is_stuck = False

    # Endpoints; the lock is held

    def _subscribe(self, request: HttpRequest) -> dict[str, Any]:
        asked = [each for each in _entities(request) if each not in self._rejected]
        self.watch(*asked)
        return self._result(asked)

    def _unsubscribe(self, request: HttpRequest) -> dict[str, Any]:
        known = [
            each
            for each in _entities(request)
            if each in self._watched and each not in self._rejected
        ]
        for each in known:
            del self._watched[each]
        return self._result(known)

    def _result(self, entities: list[EntityInfo]) -> dict[str, Any]:
        return {
            "watch_result": [
                {
                    "entity": each.entity,
                    "chain_id": str(each.chain_id),
                    "entity_type": each.entity_type,
                    "event_code": each.event_code,
                }
                for each in (*entities, *self._unasked)
            ]
        }

    def _list(self, request: HttpRequest) -> dict[str, Any]:
        asked = request.json or {}
        index, size = int(asked.get("page_index", 1)), int(asked.get("page_size", 50))
        if not (index >= 1 and 1 <= size <= 50):
            raise Refused(400, "000001", "illegal page")
        size = min(size, self._page_size)
        entries = self._entries(asked.get("entity_list"))
        page = {
            "subscription_list": entries[(index - 1) * size : index * size],
            "page_index": index,
            "page_size": size,
            "total": len(entries),
        }
        if not self._is_stuck:
            return page
        self._stuck_page = self._stuck_page or page
        return self._stuck_page

    def _entries(self, asked: list[str] | None) -> list[dict[str, Any]]:
        wanted = None if not asked else {each.lower() for each in asked}
        found: dict[str, list[dict[str, str]]] = {}
        for info, watch_id in self._watched.items():
            entity = info.entity.lower()
            if wanted is None or entity in wanted:
                event = {"watch_id": watch_id, "event_code": info.event_code}
                found.setdefault(entity, []).append(event)
        return [
            {"watch_entity": entity, "watch_event_list": events}
            for entity, events in found.items()
        ]

    def _list_events(self, request: HttpRequest) -> list[dict[str, Any]]:
        if request.content:
            raise Refused(400, "000001", "the body is not empty")
        return [
            {
                "event_code": each.event_code,
                "support_entity_type_list": list(each.entity_types),
                "mini_threshold": str(each.mini_threshold or 0),
            }
            for each in self._events
        ]


def _entities(request: HttpRequest) -> list[EntityInfo]:
    body: Any = request.json
    listed: Any = body.get("entity_list") if isinstance(body, dict) else body
    try:
        return [
            EntityInfo(
                each["entity"],
                int(each["chain_id"]),
                each["entity_type"],
                each["event_code"],
            )
            for each in listed
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(400, "000001", f"illegal entity_list: {error!r}") from error


# -------------------- A watch-bus for tests: it takes alerts, by POST and WebSocket, and keeps them.


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
