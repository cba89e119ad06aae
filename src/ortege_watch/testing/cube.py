"""A Cube server for tests: real sockets, rows that a test sets, faults on command."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ortege_watch.testing._cube import gateway as _tokens
from ortege_watch.testing._cube.core import Core, Tables
from ortege_watch.testing._cube.frames import (
    Classic,
    Dialect,
    Manners,
    Strict,
    Tutorial,
)
from ortege_watch.testing._cube.gateway import BASE, Gateway, Generation, Numbers
from ortege_watch.testing._cube.query import Settings, known_tables
from ortege_watch.testing._fake import Fake
from ortege_watch.testing._faults import Faults
from ortege_watch.testing._misbehaviour import Misbehaviour
from ortege_watch.testing._server import Server

if TYPE_CHECKING:
    from ortege_watch.testing._cube.table import Table

__all__ = ["FakeCube"]

# What the generations take at most in one message, in bytes.
_MAX_FRAME = {"classic": 100 * 2**20, "strict": 50 * 10**6, "tutorial": 50 * 10**6}


class _Clock(Protocol):
    def now(self) -> float: ...


class FakeCube(Fake[Core], Misbehaviour):
    """Serve Cube's REST and WebSocket protocols on loopback, from rows in memory.

    One port, a thread and an event loop of its own: code under test meets real
    sockets, and the test may be synchronous or asynchronous::

        with FakeCube() as cube:
            cube.tables["stacks_oracle_prices"].insert(
                {"token": "STX", "price": Decimal("0.81")})
            bot = start_my_bot(url=cube.url, token=cube.token())
            cube.wait_until(lambda: cube.subscriptions)
            cube.drop()                                   # an outage
            cube.wait_until(lambda: len(cube.attempts) == 2)

    It behaves as the captured conversations with real servers do, sentence for
    sentence; what nobody has seen a server do, it does not do either. A change to a
    table reaches subscriptions at once, so that no test has to wait for a tick.

    Args:
        generation: ``"strict"`` behaves as Cube 1.7.43, ``"classic"`` as 0.35.81,
            ``"tutorial"`` as a gateway that speaks Ortege's tutorial's envelope over
            WebSocket (and as strict over HTTP).
        tables: tables to serve besides the members that Ortege is known to have, or
            in the place of one of the same name.
        secret: the key of the tokens.
        tick: seconds between two runs of all subscriptions: the heartbeat.
        push: ``"change"`` runs the subscriptions at once after a change,
            ``"tick"`` at the next tick, as a real server does.
        numbers: ``"string"`` answers numbers as PostgreSQL's driver does
            (``"1000.500000"``), ``"json"`` as JSON numbers, whole ones as ``1.0``.
        websockets: False answers upgrades as a server with WebSockets off.
        manners: how the tutorial's gateway answers frames that it does not know.
        default_limit: rows where a query names no limit.
        max_limit: a limit above it is refused with status 500.
        now: unix seconds: for tokens, relative dates and ``lastRefreshTime``.
        clock: what :attr:`attempts` are timed with; ``now()`` in seconds. A
            :class:`ManualClock` that drives the code under test belongs here.
        port: 0 for any free one.
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
        websockets: bool = True,
        manners: Manners = "error",
        default_limit: int = 10_000,
        max_limit: int = 50_000,
        now: Callable[[], float] = time.time,
        clock: _Clock | None = None,
        port: int = 0,
    ) -> None:
        if generation not in _MAX_FRAME:
            raise ValueError(
                f"generation is {generation!r}; it must be one of "
                f"{', '.join(_MAX_FRAME)}"
            )
        self.generation = generation
        self._push = push
        self._now = now
        known = {table.name: table for table in [*known_tables(), *tables]}
        self._tables = Tables(known.values())
        gateway = Gateway(
            generation=generation,
            tables=self._tables,
            faults=Faults(),
            secret=secret,
            now=now,
            numbers=numbers,
            settings=Settings(
                classic=generation == "classic",
                default_limit=default_limit,
                max_limit=max_limit,
            ),
            refreshed=now(),
        )
        dialect: Dialect = Strict(gateway)
        if generation != "strict":
            tutorial = generation == "tutorial"
            dialect = Tutorial(gateway, manners) if tutorial else Classic(gateway)
        self._core = Core(
            gateway,
            dialect,
            websockets=websockets,
            max_frame=_MAX_FRAME[generation],
            time=time.monotonic if clock is None else clock.now,
        )
        self._server = Server(
            application=self._core, lock=self._core.lock, interval=tick, port=port
        )
        self._tables.listen(self._note_change)

    def __repr__(self) -> str:
        """Show what a failing test wants to know first."""
        where = self.url if self._server.running else "not running"
        return (
            f"<FakeCube {self.generation} ({where}): {self.connections} connections, "
            f"{len(self.subscriptions)} subscriptions, {len(self._core.attempts)} attempts, "
            f"{len(self._core.frames)} frames, {len(self._core.requests)} requests>"
        )

    # Where it is, and what it takes

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
        """Issue a token (JWT, HS256) that this server takes.

        Args:
            expires_in: seconds from the server's ``now()``; None never expires,
                negative has expired.
            claims: further claims, such as ``tenant="a"``: two tokens with the same
                claims are the same token.
        """
        if expires_in is not None:
            claims["exp"] = self._now() + expires_in
        return _tokens.issue(self._core.gateway.secret, claims)

    def revoke(self, token: str) -> None:
        """Refuse a token from now on; live connections stay, as on a real server."""
        with self._core.lock:
            self._core.gateway.revoked.add(token)

    def require(self, secret: str) -> None:
        """Change the key: tokens issued until now are refused, new ones are good."""
        with self._core.lock:
            self._core.gateway.secret = secret

    def refresh(self) -> None:
        """Refresh the cache without a change of the rows.

        Classic servers then push again, because ``lastRefreshTime`` has moved; strict
        ones do not.
        """
        self._note_change()

    # What it has seen

    @property
    def attempts(self) -> list[float]:
        """When each WebSocket upgrade was asked for, in seconds of the ``clock``.

        Refused and dropped ones are among them; while the server is down, none is
        seen.
        """
        with self._core.lock:
            return list(self._core.attempts)

    @property
    def frames(self) -> list[Any]:
        """What clients have sent over WebSocket, decoded; as it came if it is no JSON."""
        with self._core.lock:
            return list(self._core.frames)

    @property
    def connections(self) -> int:
        """How many WebSockets are open."""
        with self._core.lock:
            return sum(peer.is_open for peer in self._core.peers)

    @property
    def subscriptions(self) -> list[Any]:
        """The queries that are subscribed to, over all open connections."""
        with self._core.lock:
            return [
                self._core.dialect.query(subscription)
                for connection, peer in self._core.peers.items()
                if connection.is_open
                for subscription in peer.subscriptions.values()
            ]

    def _note_change(self) -> None:
        """Note a change of the rows; subscriptions see it when told to."""
        with self._core.lock:
            gateway = self._core.gateway
            # Answers show milliseconds: two changes within one are still two.
            gateway.refreshed = max(self._now(), gateway.refreshed + 0.001)
            gateway.version += 1
        if self._push == "change":
            self._server.wake()
