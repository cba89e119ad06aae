"""What the proxy does with the bytes of one direction: decisions without I/O."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Literal

import attrs
from injection.schedule import Entry, Fault

if TYPE_CHECKING:
    from collections.abc import Sequence

# No JSON text contains either: a control character, and a byte that UTF-8 never has.
BREAKING = (b"\x01", b"\xff")
_MOST_PIECES = 40
_PIECES_PER_SECOND = 50
_TEXT = 1
_STATUSES = (
    "500 Internal Server Error",
    "502 Bad Gateway",
    "503 Service Unavailable",
    "504 Gateway Timeout",
)


@attrs.frozen
class Pause:
    """Wait before the next step."""

    seconds: float


@attrs.frozen
class Write:
    """Forward these bytes."""

    data: bytes


@attrs.frozen
class End:
    """End the connection: with a FIN, or with a RST."""

    reset: bool


Step = Pause | Write | End


@attrs.frozen
class Span:
    """A frame, as far as it is in a chunk: offsets of its first byte and its payload.

    The end is exclusive. ``is_text`` tells whether its payload may be corrupted.
    """

    start: int
    payload: int
    end: int
    is_text: bool


class FrameScanner:
    """Finds WebSocket frames in the chunks of a stream."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self._is_text = False

    def feed(self, data: bytes) -> list[Span]:
        """Return the frames, or parts of frames, in the next chunk."""
        spans = []
        place = 0
        while place < len(data):
            start = place
            while not self._left and place < len(data):
                self._head += data[place : place + 1]
                place += 1
                length = _payload_length(self._head)
                if length is not None:
                    self._is_text = self._head[0] & 0x0F in {0, _TEXT}
                    self._head, self._left = b"", length
                    break
            end = min(len(data), place + self._left)
            self._left -= end - place
            spans.append(Span(start, place, end, self._is_text))
            place = end
        return spans


def _payload_length(head: bytes) -> int | None:
    """Return the bytes after a complete head, the mask not included; else ``None``."""
    if len(head) < 2:
        return None
    short = head[1] & 0x7F
    extra = {126: 2, 127: 8}.get(short, 0)
    mask = 4 if head[1] & 0x80 else 0
    if len(head) < 2 + extra + mask:
        return None
    return int.from_bytes(head[2 : 2 + extra], "big") if extra else short


def spoiled(data: bytes, marker: bytes) -> bytes | None:
    """Return bytes in which the first marker is broken; ``None`` if there is none."""
    before, found, after = data.partition(marker)
    return before + BREAKING[1] * len(marker) + after if found else None


class Flow:
    """One direction of one connection.

    Args:
        direction: ``"down"`` is from the server to the client.
        seed: of the random decisions.

    Attributes:
        done: the faults that have changed the stream, once for each chunk.
    """

    def __init__(self, direction: Literal["up", "down"], seed: str) -> None:
        self._down = direction == "down"
        self._random = Random(seed)
        self._scanner: FrameScanner | None = None
        self._in_body = False
        self.done: list[Fault] = []

    def before_read(self, active: Sequence[Entry]) -> float:
        """Return the seconds to let segments pile up."""
        if any(entry.fault is Fault.MERGE for entry in active):
            self.done.append(Fault.MERGE)
            return self._random.uniform(0.02, 0.2)
        return 0.0

    def decide(self, data: bytes, active: Sequence[Entry]) -> list[Step]:
        """Return what to do with the next chunk."""
        bodies = self._bodies(data)
        steps: list[Step] = []
        kinds = {entry.fault for entry in active}
        if Fault.DELAY in kinds:
            self.done.append(Fault.DELAY)
            steps.append(Pause(self._random.uniform(0.02, 0.3)))
        if Fault.CORRUPT in kinds and self._down and self._random.random() < 0.5:
            data = self._corrupted(data, bodies)
        if Fault.TRUNCATE in kinds and self._down and len(data) > 1:
            self.done.append(Fault.TRUNCATE)
            cut = self._cut(data, bodies)
            return [*steps, Write(data[:cut]), End(self._random.random() < 0.5)]
        for fault, size, pause in (
            (Fault.THROTTLE, 16, 1 / _PIECES_PER_SECOND),
            (Fault.SPLIT, 7, 0.0),
        ):
            if fault in kinds:
                self.done.append(fault)
                return [*steps, *self._pieces(data, size, pause)]
        return [*steps, Write(data)]

    def _bodies(self, data: bytes) -> list[Span]:
        """Return the frames of a WebSocket, or the part of an HTTP body, in a chunk."""
        if self._scanner is not None:
            return self._scanner.feed(data)
        start = 0
        if data.startswith(b"HTTP/1."):
            head, found, rest = data.partition(b"\r\n\r\n")
            if not found:
                return []
            start = len(head) + len(found)
            if b" 101 " in head.split(b"\r\n")[0]:
                self._scanner = FrameScanner()
                spans = self._scanner.feed(rest)
                return [
                    Span(s.start + start, s.payload + start, s.end + start, s.is_text)
                    for s in spans
                ]
            self._in_body = True
        if not self._in_body or start == len(data):
            return []
        return [Span(start, start, len(data), is_text=True)]

    def _corrupted(self, data: bytes, bodies: list[Span]) -> bytes:
        places = [s for s in bodies if s.is_text and s.end > s.payload]
        if not places:
            return data
        self.done.append(Fault.CORRUPT)
        span = self._random.choice(places)
        place = self._random.randrange(span.payload, span.end)
        return data[:place] + self._random.choice(BREAKING) + data[place + 1 :]

    def _cut(self, data: bytes, bodies: list[Span]) -> int:
        """Return where to cut a chunk: within a frame or a body, if it has one."""
        places = [s for s in bodies if s.end - s.start > 1]
        if not places:
            return self._random.randrange(1, len(data))
        span = self._random.choice(places)
        return self._random.randrange(span.start + 1, span.end)

    def _pieces(self, data: bytes, size: int, pause: float) -> list[Step]:
        steps: list[Step] = []
        place = 0
        # Large chunks in larger pieces: a fault must not last longer than it should.
        size = max(size, 2 * len(data) // _MOST_PIECES)
        while place < len(data):
            end = place + self._random.randint(1, size)
            steps += [Write(data[place:end]), Pause(pause)]
            place = end
        return steps


def garbage(seed: int) -> bytes:
    """Return bytes that are neither HTTP nor WebSocket."""
    random = Random(seed)
    return random.randbytes(random.randint(1, 2000))


def unavailable(seed: int) -> bytes:
    """Return an HTTP response as a proxy gives it whose server is away."""
    status = Random(seed).choice(_STATUSES)
    page = f"<html><body><h1>{status}</h1></body></html>".encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\n"
        f"Content-Length: {len(page)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + page
