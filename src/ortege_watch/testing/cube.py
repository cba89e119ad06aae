"""A Cube server for tests: real sockets, rows that a test sets, faults on command."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any, Literal

from ortege_watch._checks import check_choice, check_int, check_seconds
from ortege_watch.testing._cube import Refusal
from ortege_watch.testing._cube.frames import (
    Classic,
    Dialect,
    OnUnknownFrame,
    Peer,
    ServerCrash,
    Strict,
    Tutorial,
)
from ortege_watch.testing._cube.gateway import (
    BASE,
    Gateway,
    Generation,
    Numbers,
    issue,
    presented,
    respond,
)
from ortege_watch.testing._cube.table import Tables, on_change
from ortege_watch.testing._messages import (
    HttpRequest,
    HttpResponse,
    decode,
    encode,
    response,
)
from ortege_watch.testing._server import (
    Connection,
    Fake,
    HasNow,
    Moment,
    Server,
    check_status,
)

if TYPE_CHECKING:
    from ortege_watch.testing._cube.table import Table

# The longest message in bytes that each generation accepts.
_MAX_FRAME = {"classic": 100 * 2**20, "strict": 50 * 10**6, "tutorial": 50 * 10**6}


class _CubeServer(Server):
    """The server behind :class:`FakeCube`."""

    def __init__(
        self,
        gateway: Gateway,
        dialect: Dialect,
        *,
        websockets: bool,
        clock: HasNow | None,
        tick: float,
        port: int,
    ) -> None:
        super().__init__(clock, tick, port)
        self.gateway = gateway
        self.faults = gateway.faults
        self.dialect = dialect
        self.websockets = websockets
        self.max_frame = _MAX_FRAME[gateway.generation]
        self.peers: dict[Connection, Peer] = {}
        self.frames: list[Any] = []

    def respond(self, request: HttpRequest) -> HttpResponse:
        return self.faults.take("answer") or respond(request, self.gateway)

    def upgrade(self, request: HttpRequest) -> HttpResponse | None:
        if not self.websockets:
            return self.respond(request)
        if self.gateway.generation != "tutorial":
            return None
        # The tutorial's gateway checks the token here.
        rejected = self.faults.take("handshake")
        if rejected is not None:
            return response(rejected["status"], rejected["message"])
        try:
            self.gateway.authorize(presented(request, self.gateway))
        except Refusal as refusal:
            return response(401, {"error": refusal.error})
        return None

    def opened(self, connection: Connection) -> None:
        self.peers[connection] = Peer()
        if self.faults.drop_after == "upgrade":
            connection.drop()

    def closed(self, connection: Connection) -> None:
        self.peers.pop(connection, None)

    def message(self, connection: Connection, data: str | bytes) -> None:
        try:
            self.frames.append(decode(data))
        except ValueError:
            self.frames.append(data)
        try:
            replies = self.dialect.receive(self.peers[connection], data)
        except ServerCrash:
            for other in tuple(self.connections):
                other.drop()
            return
        self._send(connection, replies)

    def tick(self) -> None:
        if self.faults.silent:
            return
        for connection, peer in tuple(self.peers.items()):
            if connection.is_open:
                self._send(connection, self.dialect.tick(peer))

    def _send(self, connection: Connection, replies: list[Any]) -> None:
        def send() -> None:
            for reply in replies:
                connection.send(encode(reply))
                if reply == {"handshake": True} and self.faults.drop_after:
                    connection.drop()

        if replies:
            connection.later(send)


class FakeCube(Fake[_CubeServer]):
    """A server of Cube's REST and WebSocket protocols on loopback, for tests.

    It has one port, and a thread with an event loop of its own, so that a test may be
    synchronous or asynchronous. It answers from rows in memory::

        with FakeCube() as cube:
            cube.tables["stacks_oracle_prices"].insert(
                {"token": "STX", "price": Decimal("0.81")})
            bot = start_my_bot(url=cube.url, token=cube.token())
            cube.wait_until(lambda: cube.subscriptions)
            cube.drop()                                   # an outage
            cube.wait_until(lambda: len(cube.attempts) == 2)

    It answers as real servers did in captured conversations, word for word. By default a
    change to a table reaches subscriptions at once, and no test waits for a tick.

    Args:
        generation: ``"strict"`` behaves as Cube 1.7.43, ``"classic"`` as 0.35.81,
            ``"tutorial"`` as a gateway that speaks the envelope of Ortege's tutorial over
            WebSocket (and as strict over HTTP).
        tables: tables besides the known ones of Ortege; one of the same name replaces
            the known one.
        secret: the key that signs tokens.
        tick: seconds between two runs of all subscriptions: the heartbeat.
        push: ``"change"`` runs the subscriptions at once after a change,
            ``"tick"`` at the next tick, as a real server does.
        numbers: ``"string"`` sends numbers as PostgreSQL's driver does
            (``"1000.500000"``), ``"json"`` as JSON numbers, whole ones as ``1.0``.
        compact: False refuses the key ``responseFormat`` in a query, as 0.29 does.
        websockets: False answers upgrades as a server with WebSockets off.
        on_unknown_frame: what the tutorial's gateway does with a frame that it does not
            know: ``"error"`` answers with an error, ``"silence"`` ignores it.
        default_limit: the number of rows where a query has no limit.
        max_limit: a higher limit is refused with status 500.
        now: unix seconds: for tokens, relative dates and ``lastRefreshTime``.
        clock: what :attr:`attempts` are timed with; ``now()`` in seconds. Pass the
            :class:`ManualClock` that the code under test uses.
        port: 0 for any free one.

    Raises:
        InvalidArgument: an argument cannot be used.
    """

    def __init__(
        self,
        generation: Generation = "strict",
        *,
        tables: Iterable[Table] = (),
        secret: str = "fake-cube-secret",  # noqa: S107 - of a fake
        tick: float = 0.2,
        push: Literal["change", "tick"] = "change",
        numbers: Numbers = "string",
        compact: bool = True,
        websockets: bool = True,
        on_unknown_frame: OnUnknownFrame = "error",
        default_limit: int = 10_000,
        max_limit: int = 50_000,
        now: Callable[[], float] = time.time,
        clock: HasNow | None = None,
        port: int = 0,
    ) -> None:
        check_choice("generation", generation, _MAX_FRAME)
        check_choice("push", push, ("change", "tick"))
        check_choice("numbers", numbers, ("string", "json"))
        check_choice("on_unknown_frame", on_unknown_frame, ("error", "silence"))
        self.generation = generation
        self._push = push
        self._now = now
        self._tables = Tables(tables)
        gateway = Gateway(
            generation=generation,
            tables=self._tables,
            secret=secret,
            now=now,
            numbers=numbers,
            compact=compact,
            default_limit=default_limit,
            max_limit=max_limit,
        )
        dialect: Dialect = Strict(gateway)
        if generation == "classic":
            dialect = Classic(gateway)
        elif generation == "tutorial":
            dialect = Tutorial(gateway, on_unknown_frame)
        server = _CubeServer(
            gateway, dialect, websockets=websockets, clock=clock, tick=tick, port=port
        )
        super().__init__(server)
        on_change(self._tables, self.refresh)

    def __repr__(self) -> str:
        where = self.url if self._server.running else "not running"
        return (
            f"<FakeCube {self.generation} ({where}): {self.connections} connections, "
            f"{len(self.subscriptions)} subscriptions, {len(self.attempts)} attempts, "
            f"{len(self.frames)} frames, {len(self.requests)} requests>"
        )

    @property
    def url(self) -> str:
        """The REST base, ``http://127.0.0.1:<port>/cubejs-api/v1``."""
        return f"http://127.0.0.1:{self.port}{BASE}"

    @property
    def ws_url(self) -> str:
        """The WebSocket's address, ``ws://127.0.0.1:<port>/cubejs-api/v1/load/``."""
        return f"ws://127.0.0.1:{self.port}{BASE}/load/"

    @property
    def tables(self) -> MutableMapping[str, Table]:
        """The tables by name; change them at any time, from any thread."""
        return self._tables

    def token(self, expires_in: float | None = None, **claims: Any) -> str:
        """Issue a token (JWT, HS256) that this server accepts.

        Args:
            expires_in: seconds from the server's ``now()``; None never expires,
                negative has expired.
            claims: further claims, such as ``tenant="a"``: two tokens with the same
                claims are the same token.
        """
        if expires_in is not None:
            claims["exp"] = self._now() + expires_in
        return issue(self._server.gateway.secret, claims)

    def revoke(self, token: str) -> None:
        """Refuse a token from now on; live connections stay, as on a real server."""
        with self._server.lock:
            self._server.gateway.revoked.add(token)

    def require(self, secret: str) -> None:
        """Change the key: tokens issued until now are refused, new ones accepted."""
        with self._server.lock:
            self._server.gateway.secret = secret

    def refresh(self) -> None:
        """Refresh the cache without a change of the rows.

        Classic servers then push again, because ``lastRefreshTime`` has moved; strict
        ones do not.
        """
        with self._server.lock:
            self._server.gateway.refresh()
        if self._push == "change":
            self._server.wake()

    # What the server has seen

    @property
    def attempts(self) -> list[float]:
        """When each WebSocket upgrade was requested, in seconds of the ``clock``.

        Includes those that were refused or dropped; while the server is down, none is
        seen.
        """
        return [request.at for request in self.requests if request.upgrade]

    @property
    def frames(self) -> list[Any]:
        """The messages of all clients over WebSocket, decoded if they are JSON."""
        with self._server.lock:
            return list(self._server.frames)

    @property
    def connections(self) -> int:
        """The number of open WebSockets."""
        with self._server.lock:
            return sum(peer.is_open for peer in self._server.peers)

    @property
    def subscriptions(self) -> list[Any]:
        """The queries that are subscribed to, over all open connections."""
        with self._server.lock:
            return [
                subscription.query
                for connection, peer in self._server.peers.items()
                if connection.is_open
                for subscription in peer.subscriptions.values()
            ]

    # Misbehaviour

    def close(self, code: int = 1001, reason: str = "") -> None:
        """Send a close frame over every WebSocket."""
        self._each(lambda connection: connection.close(code, reason))

    def forget(self) -> None:
        """Forget every subscription; the connections stay, and nothing is sent."""
        with self._server.happened:
            for peer in self._server.peers.values():
                peer.subscriptions.clear()
            self._server.changed()

    def accept_and_drop(self, on: bool = True, *, after: Moment = "handshake") -> None:
        """Accept clients and drop them at once, as an overloaded server does.

        Args:
            on: False ends it.
            after: the ``"upgrade"`` of the connection, or Cube's own ``"handshake"``
                (``{"handshake": true}``).
        """
        check_choice("after", after, ("upgrade", "handshake"))
        self._server.faults.drop_after = after if on else None

    def refuse_handshake(
        self,
        message: str = "Invalid token",
        *,
        status: int = 403,
        times: int | None = None,
    ) -> None:
        """Refuse authorizations over WebSocket, whatever the token; see :meth:`refuse`.

        The connection stays open, as it does on a real server.
        """
        check_status(status)
        body = {"message": {"error": message}, "status": status}
        self._server.faults.set("handshake", body, times)

    def continue_wait(self, times: int = 1) -> None:
        """Answer the next queries with "Continue wait", over HTTP and WebSocket."""
        self._server.faults.set("wait", value=True, times=times)
        self._run_subscriptions()

    def fail_query(
        self,
        message: str = "Error: the database is not there",
        *,
        status: int = 400,
        times: int | None = None,
    ) -> None:
        """Let queries fail: a temporary fault of the database behind the server.

        Subscriptions stay registered, get the error at every tick, and the result
        again after :meth:`heal`.

        Args:
            message: of the error.
            status: of the answers.
            times: how many queries fail; None: until :meth:`heal`.
        """
        check_status(status)
        self._server.faults.set("query", (message, status), times)
        self._run_subscriptions()

    def serve_old(self, seconds: float) -> None:
        """Date every result that many seconds back, as the cache of another server does.

        Subscriptions hold such a result, and mark it ``stale`` in the end. Ends with
        :meth:`heal`.

        Args:
            seconds: how much older ``lastRefreshTime`` is than without this.
        """
        check_seconds("seconds", seconds, or_zero=True)
        self._server.faults.age = seconds
        self._run_subscriptions()

    def garbage(self, frame: bytes | str, *, text: bool = False) -> None:
        """Send a message to every WebSocket: a string as a text frame, bytes as binary.

        Args:
            frame: the message, whatever it is.
            text: send bytes as a text frame, valid UTF-8 or not.
        """
        data = frame.encode() if isinstance(frame, str) else frame
        binary = isinstance(frame, bytes) and not text
        self._each(lambda connection: connection.send(data, binary=binary))

    def big_frame(self, size: int) -> None:
        """Send a JSON message of that many bytes to every WebSocket."""
        shell = b'{"padding":""}'
        self.garbage(shell[:-2] + b"x" * (size - len(shell)) + shell[-2:], text=True)

    def fragment(self, count: int) -> None:
        """Cut every message into that many frames, each written in pieces; 1 ends it."""
        check_int("count", count)
        self._server.faults.fragments = count

    def heal(self) -> None:
        """End every misbehaviour."""
        super().heal()
        self._run_subscriptions()

    def _each(self, action: Callable[[Connection], None]) -> None:
        def run() -> None:
            for connection in tuple(self._server.peers):
                action(connection)

        self._server.call(run)

    def _run_subscriptions(self) -> None:
        """Run every subscription now, also where no row has changed."""
        with self._server.lock:
            self._server.gateway.version += 1
        self._server.wake()
