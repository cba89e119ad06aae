"""What a fake Cube server knows, has seen and answers, under one lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any

from ortege_watch.testing._cube.dates import Refusal
from ortege_watch.testing._cube.frames import Dialect, Peer, ServerCrash
from ortege_watch.testing._cube.gateway import Gateway, encode, presented, respond
from ortege_watch.testing._cube.table import Table
from ortege_watch.testing._faults import Records
from ortege_watch.testing._messages import HttpRequest, HttpResponse, decode, response
from ortege_watch.testing._server import Connection

__all__ = ["Core", "Tables"]


_PAGE = b"<html><body>%d</body></html>\n"


class Tables(MutableMapping[str, Table]):
    """Hold the tables by name and tell the server when one changes."""

    def __init__(self, tables: Iterable[Table]) -> None:
        self._tables: dict[str, tuple[Table, Callable[[], None]]] = {}
        self._listener: Callable[[], None] | None = None
        for table in tables:
            self[table.name] = table

    def listen(self, listener: Callable[[], None]) -> None:
        """Call a function after every change of any table."""
        self._listener = listener

    def _changed(self) -> None:
        if self._listener is not None:
            self._listener()

    def __getitem__(self, name: str) -> Table:
        return self._tables[name][0]

    def __setitem__(self, name: str, table: Table) -> None:
        if name != table.name:
            raise ValueError(f"the table's name is {table.name!r}, not {name!r}")
        if name in self._tables:
            self._tables[name][1]()
        self._tables[name] = table, table.on_change(self._changed)
        self._changed()

    def __delitem__(self, name: str) -> None:
        self._tables.pop(name)[1]()
        self._changed()

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._tables))

    def __len__(self) -> int:
        return len(self._tables)


class Core(Records):
    """Connect the network to the fake's records, faults and answers.

    Everything here is read and changed under ``lock`` only.
    """

    def __init__(
        self,
        gateway: Gateway,
        dialect: Dialect,
        *,
        websockets: bool,
        max_frame: int,
        time: Callable[[], float],
    ) -> None:
        super().__init__(gateway.faults, time)
        self.gateway = gateway
        self.dialect = dialect
        self.websockets = websockets
        self.max_frame = max_frame
        self.peers: dict[Connection, Peer] = {}
        self.attempts: list[float] = []
        self.frames: list[Any] = []

    def request(self, request: HttpRequest) -> HttpResponse:
        """Answer over HTTP."""
        self.requests.append(request)
        status = self.faults.take("refusals")
        if status is not None:
            return response(status, _PAGE % status)
        return self.faults.take_answer() or respond(request, self.gateway)

    def upgrade(self, request: HttpRequest) -> HttpResponse | None:
        """Let a WebSocket open, or answer as plain HTTP."""
        self.attempts.append(request.at)
        if not self.websockets:
            return self.request(request)
        self.requests.append(request)
        status = self.faults.take("refusals")
        if status is not None:
            return response(status, _PAGE % status)
        if self.gateway.generation == "tutorial":
            return self._checked(request)
        return None

    def _checked(self, request: HttpRequest) -> HttpResponse | None:
        rejected = self.faults.take("no_handshake")
        if rejected is not None:
            return response(rejected["status"], encode(rejected["message"]))
        try:
            self.gateway.authorize(presented(request, self.gateway))
        except Refusal as refusal:
            return response(401, encode({"error": refusal.error}))
        return None

    def opened(self, connection: Connection) -> None:
        """Begin to know a connection."""
        self.peers[connection] = Peer()
        if self.faults.drop_after == "upgrade":
            connection.drop()

    def closed(self, connection: Connection) -> None:
        """Forget a connection and all that it subscribed to."""
        self.peers.pop(connection, None)

    def message(self, connection: Connection, data: str | bytes) -> None:
        """Record a message and answer it."""
        try:
            self.frames.append(decode(data))
        except ValueError:
            self.frames.append(data)
        try:
            replies = self.dialect.receive(self.peers[connection], data)
        except ServerCrash:
            for other in tuple(connection.server.connections):
                other.drop()
            return
        self._send(connection, replies)

    def tick(self) -> None:
        """Run every subscription; a silent server stands still."""
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
