"""The commands that make a fake server misbehave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import attrs

from ortege_watch.testing._cube.core import Core
from ortege_watch.testing._cube.gateway import encode
from ortege_watch.testing._faults import Countdown, Faults, Moment, Records
from ortege_watch.testing._messages import response

if TYPE_CHECKING:
    import asyncio

    from ortege_watch.testing._server import Connection, Server

CoreT = TypeVar("CoreT", bound=Records)


class NetworkMisbehaviour(Generic[CoreT]):
    """Give a fake server the faults of any server: each a method, from any thread.

    Whatever has no end of its own lasts until :meth:`heal`.
    """

    _core: CoreT
    _server: Server
    _speaking: asyncio.TimerHandle | None = None

    def drop(self, *, reset: bool = False) -> None:
        """End every TCP connection without a close frame, as a dying server does.

        Args:
            reset: send a TCP reset in the place of an orderly end.
        """
        self._server.run(lambda: self._server.end_connections(reset=reset))

    def down(self) -> None:
        """Stop listening and drop every connection: attempts are refused by the host."""
        self._server.run(self._server.unlisten)
        self.drop()

    def up(self) -> None:
        """Listen again, on the same port."""
        self._server.run(self._server.listen)

    def restart(self) -> None:
        """Go down and come up again: every connection and subscription is forgotten."""
        self.down()
        self.up()

    def silence(self, seconds: float | None = None) -> None:
        """Accept connections and read, but send nothing: no answer, tick or pong.

        What would be sent is held back until :meth:`speak`; subscriptions stand
        still, and are run once after it.

        Args:
            seconds: speak again after that long; None: when told to.
        """

        def silence() -> None:
            self._core.faults.silent = True
            if self._speaking is not None:
                self._speaking.cancel()
            if seconds is not None:
                loop = self._server.loop
                self._speaking = loop.call_later(seconds, self._speak)

        self._server.call(silence)

    def speak(self) -> None:
        """End a silence: send what was held back."""
        self._server.call(self._speak)

    def slow(self, seconds: float) -> None:
        """Give every answer that many seconds late; 0 ends it."""
        with self._core.lock:
            self._core.faults.delay = seconds

    def refuse(self, status: int = 503, *, times: int | None = None) -> None:
        """Answer upgrades and requests with a status and a page of HTML.

        Args:
            status: such as 401, 404, 502 or 503.
            times: how often; None: until :meth:`heal`.
        """
        with self._core.lock:
            self._core.faults.refusals = Countdown(status, times)

    def error(
        self,
        status: int,
        body: bytes | str | Mapping[str, Any] = b"",
        *,
        headers: Mapping[str, str] | None = None,
        times: int | None = 1,
    ) -> None:
        """Give HTTP requests this answer, good or bad; several calls make a queue.

        Args:
            status: of the answer.
            body: bytes or text as they are (HTML, nothing, half a JSON), or a mapping,
                which is sent as JSON.
            headers: such as ``{"Retry-After": "2"}``.
            times: how many requests get it before the next in the queue; None: all.
        """
        raw = body if isinstance(body, bytes) else b""
        if isinstance(body, str):
            raw = body.encode()
        elif isinstance(body, Mapping):
            raw = encode(dict(body))
        fault = response(status, raw, headers)
        with self._core.lock:
            self._core.faults.answers.append(Countdown(fault, times))

    def cut(self, times: int = 1) -> None:
        """Send half of the body of the next HTTP answers, then end the connection."""
        with self._core.lock:
            self._core.faults.cuts = times

    def heal(self) -> None:
        """End every misbehaviour at once."""

        def heal() -> None:
            self._speak()
            for field in attrs.fields_dict(Faults):
                setattr(self._core.faults, field, getattr(Faults(), field))

        self._server.call(heal)

    def _speak(self) -> None:
        with self._core.lock:
            self._core.faults.silent = False
            for connection in tuple(self._server.connections):
                connection.release()
            self._core.changed()
        self._server.wake()


class Misbehaviour(NetworkMisbehaviour[Core]):
    """Give a fake Cube server the faults of its own; see the base for the others."""

    def close(self, code: int = 1001, reason: str = "") -> None:
        """Send a close frame over every WebSocket."""
        self._each(lambda connection: connection.close(code, reason))

    def forget(self) -> None:
        """Forget every subscription while its connection stays open, without a word."""
        with self._core.happened:
            for peer in self._core.peers.values():
                peer.subscriptions.clear()
            self._core.changed()

    def accept_and_drop(self, on: bool = True, *, after: Moment = "handshake") -> None:
        """Let clients in and drop them at once, as an overloaded server does.

        Args:
            on: False ends it.
            after: the ``"upgrade"`` of the connection, or Cube's own ``"handshake"``
                (``{"handshake": true}``).
        """
        with self._core.lock:
            self._core.faults.drop_after = after if on else None

    def refuse_handshake(
        self,
        sentence: str = "Invalid token",
        *,
        status: int = 403,
        times: int | None = None,
    ) -> None:
        """Refuse authorizations over WebSocket, whatever the token; see :meth:`refuse`.

        The connection stays open, as it does on a real server.
        """
        body = {"message": {"error": sentence}, "status": status}
        with self._core.lock:
            self._core.faults.no_handshake = Countdown(body, times)

    def continue_wait(self, times: int = 1) -> None:
        """Answer the next queries with "Continue wait", over HTTP and WebSocket."""
        with self._core.lock:
            self._core.faults.continue_wait = times
        self._ask_again()

    def fail_query(
        self,
        sentence: str = "Error: the database is not there",
        *,
        status: int = 400,
        times: int | None = None,
    ) -> None:
        """Let every query fail: a passing fault of the database behind the server.

        Subscriptions stay registered, get the error at every tick, and the result
        again after :meth:`heal`.

        Args:
            sentence: of the error.
            status: of the answers.
            times: how many queries fail; None: until :meth:`heal`.
        """
        with self._core.lock:
            self._core.faults.failing = Countdown((sentence, status), times)
        self._ask_again()

    def garbage(self, frame: bytes | str, *, text: bool = False) -> None:
        """Send a message to every WebSocket: text as a text frame, bytes as binary.

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
        with self._core.lock:
            self._core.faults.fragments = count

    def heal(self) -> None:
        """End every misbehaviour at once."""
        super().heal()
        self._ask_again()

    def _each(self, action: Callable[[Connection], None]) -> None:
        def run() -> None:
            for connection in tuple(self._core.peers):
                action(connection)

        self._server.call(run)

    def _ask_again(self) -> None:
        """Let the next tick run every subscription, and have it at once."""
        with self._core.lock:
            self._core.gateway.version += 1
        self._server.wake()
