"""What the fakes of the watch-bus have in common: signatures, answers, faults.

A signature is computed here with the standard library alone, from the wire facts and
not with the code under test.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final, Protocol

from ortege_watch.testing._fake import Fake
from ortege_watch.testing._faults import Faults
from ortege_watch.testing._gateway import encode
from ortege_watch.testing._messages import HttpRequest, HttpResponse, response
from ortege_watch.testing._records import Records
from ortege_watch.testing._server import Server
from ortege_watch.watchbus.signing import Credentials

if TYPE_CHECKING:
    from ortege_watch.testing._connection import Connection

__all__ = [
    "HasNow",
    "Refused",
    "SignedCore",
    "SignedFake",
    "log_clock",
    "missing",
    "outcome",
]

SUCCESS: Final = "000000000"
_PAGE: Final = b"<html><body>%d</body></html>\n"
_HEADERS: Final = ("appid", "timestamp", "nonce", "signature")


class HasNow(Protocol):
    """Tell monotonic seconds."""

    def now(self) -> float: ...


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
