"""Every frame that a subscription sends and receives, in both dialects.

The envelope is the one that every version of Cube accepts: text frames, decimal
strings as message ids, a uuid4 as ``requestId``, ``params`` with exactly ``query`` and
``queryType``, and the raw token (with the prefix ``Bearer ``, Cube responds with 403:
seen on 0.35.81 and 1.7.43). The tutorial's dialect sends one frame per socket, with the
members of filters under the legacy key ``dimension``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import attrs
import msgspec

from ortege_watch import _json as codec
from ortege_watch._json import Body, ResultPart
from ortege_watch.errors import DecodeError

CONTINUE_WAIT: Final = "Continue wait"
"""The error of a status 200 while a query is still running."""


@attrs.frozen
class Handshake:
    """The server accepted the token."""


class Answer(msgspec.Struct, frozen=True):
    """The answer to one query; ``message_id`` is ``None`` in the tutorial's dialect."""

    message_id: str | None
    body: Body
    status: int


class Processed(msgspec.Struct, frozen=True):
    """The server has refreshed a query; sent on every tick, so it is the heartbeat."""

    message_id: str


@attrs.frozen
class FrameError:
    """An error that belongs to no query: a refused token or an unknown envelope."""

    status: int
    message: str


Frame = Handshake | Answer | Processed | FrameError


def authorization(token: str) -> str:
    """Return the frame that (re-)authorises a socket with a raw token."""
    return codec.dumps({"authorization": token})


def subscribe(message_id: str, query: Mapping[str, Any], request_id: str) -> str:
    """Return the frame that subscribes to a query, or renews its subscription."""
    return codec.dumps(
        {
            "messageId": message_id,
            "requestId": request_id,
            "method": "subscribe",
            "params": {"query": query, "queryType": "multi"},
        }
    )


def unsubscribe(message_id: str) -> str:
    """Return the frame that ends a subscription; the server does not answer it.

    The id is a string: Cube 1.6.10 to 1.6.14 ignored a number here (pull request 10485
    of cube-js/cube).
    """
    return codec.dumps({"unsubscribe": message_id})


def tutorial_subscribe(query: Mapping[str, Any], request_id: str) -> str:
    """Return the only frame of the tutorial's dialect."""
    return codec.dumps(
        {
            "queryType": "subscribe",
            "query": _with_legacy_filters(query),
            "requestId": request_id,
        }
    )


def _with_legacy_filters(query: Mapping[str, Any]) -> dict[str, Any]:
    """Return the query with every filter's member under ``dimension``."""

    def legacy(node: Mapping[str, Any]) -> dict[str, Any]:
        return {
            ("dimension" if key == "member" else key): (
                [legacy(child) for child in value] if key in {"and", "or"} else value
            )
            for key, value in node.items()
        }

    return {
        key: [legacy(node) for node in value] if key == "filters" else value
        for key, value in query.items()
    }


class _Wire(msgspec.Struct, gc=False):
    """The keys of every frame of both dialects."""

    handshake: bool | None = None
    messageId: str | int | None = None  # noqa: N815 - the wire's name
    messageProcessedId: str | int | None = None  # noqa: N815 - the wire's name
    message: Body | None = None
    status: int = 200
    error: str | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    results: list[ResultPart] | None = None


_decoder = msgspec.json.Decoder(_Wire)

_LARGE: Final = 4096
"""Bytes of a frame from which on finding known rows is faster than decoding them."""

_STARTS_WITH: Final = b'{"messageId":'
_LONGEST_KEY: Final = 64
_MARKER: Final = b'["rows"]'
_MARKER_DATA: Final = msgspec.Raw(_MARKER)


class _Known(NamedTuple):
    """Rows that were decoded before, and how much of the frame was before and after."""

    rows: msgspec.Raw
    size: int
    before: int
    after: int


class Reader:
    """Decodes frames; rows that are the same as before are not decoded again.

    It remembers the latest rows of up to ``queries`` queries.
    """

    def __init__(self, queries: int) -> None:
        self._queries = queries
        self._known: dict[bytes, _Known] = {}

    def read(self, data: bytes | bytearray) -> Frame:
        """Decode one frame as :func:`read` does.

        Rows that are the same bytes as those in the last frame that began with the
        same ``messageId`` are the same object.
        """
        key_end = data.find(b",", 0, _LONGEST_KEY)
        if len(data) < _LARGE or key_end < 0 or not data.startswith(_STARTS_WITH):
            return read(data)
        key = bytes(data[:key_end])
        known = self._known.get(key)
        found = None if known is None else _read_around(data, known)
        frame = found or read(data)
        if key in self._known or len(self._known) < self._queries:
            self._remember(key, frame, data)
        return frame

    def _remember(self, key: bytes, frame: Frame, data: bytes | bytearray) -> None:
        if (part := _only_part(frame)) is not None:
            rows = memoryview(part.data)
            # Where the same bytes come earlier, the rows will not be found again.
            before = data.find(rows[:64])
            after = len(data) - before - len(rows)
            self._known[key] = _Known(part.data, len(rows), before, after)


def _read_around(data: bytes | bytearray, known: _Known) -> Frame | None:
    """Decode a frame whose rows are the known ones; return ``None`` if they may differ.

    The known bytes are cut out of the frame, and a marker takes their place. If what is
    decoded then has the marker as its rows, and nowhere else, the known bytes are the
    rows of the frame: both are one JSON value, and JSON around a value does not depend
    on which value it is. The known bytes were checked to be one, and UTF-8, when they
    were decoded. So it does not matter how their place was found.
    """
    rows, size, before, after = known
    for start in (before, len(data) - after - size):
        if start > 0 and data.startswith(rows, start):
            break
    else:
        return None
    around = _MARKER.join((data[:start], data[start + size :]))
    if around.count(_MARKER) != 1:
        return None
    try:
        frame = read(around)
    except DecodeError:  # read() reports it with the whole frame
        return None
    part = _only_part(frame)
    if part is None or part.data != _MARKER_DATA:
        return None
    part.data = rows
    return frame


_STATUS: Final = rb'(?:"status"\s*:\s*[0-9]{3}\s*,\s*)?'
_names_query = re.compile(
    rb'\s*\{\s*%b"messageId"\s*:\s*"([0-9]{1,9})"\s*,\s*%b"message"\s*:'
    % (_STATUS, _STATUS)
).match


def query_of(data: bytes | bytearray) -> str | None:
    """Return the id of the query that a frame names at its beginning, if it does.

    Every answer of Cube begins like this (``status`` comes before the message in some of
    1.7.43), so it is known even where the rest of the frame cannot be decoded. White space
    may come from a gateway that writes the JSON anew.
    """
    match = _names_query(data)
    return match[1].decode() if match else None


def _only_part(frame: Frame) -> ResultPart | None:
    """Return the result in an answer, unless there are several, or none."""
    parts = frame.body.parts if isinstance(frame, Answer) else ()
    return parts[0] if len(parts) == 1 else None


def read(data: bytes | bytearray) -> Frame:
    """Decode one frame; its rows are checked, but stay JSON until they are accessed.

    After a ``DecodeError`` its content is lost: the query that :func:`query_of` returns
    must be unsubscribed and sent again, or every query on a new connection.
    """
    try:
        if not data.isascii():
            data.decode()  # msgspec does not check the UTF-8 of what stays JSON
        wire = _decoder.decode(data)
    except codec.UNREADABLE as error:
        problem = f"cannot decode a frame ({error})"
        raise DecodeError(problem, excerpt=codec.excerpt(data)) from error
    if wire.messageProcessedId is not None:
        return Processed(str(wire.messageProcessedId))
    if wire.message is not None:
        if wire.messageId is not None:
            return Answer(str(wire.messageId), wire.message, wire.status)
        return FrameError(wire.status, wire.message.error or "no reason given")
    if wire.handshake:
        return Handshake()
    if wire.error is not None:
        return FrameError(wire.status if wire.status != 200 else 400, wire.error)
    if wire.data is not msgspec.UNSET or wire.results is not None:
        return Answer(None, codec.decode_body(data), wire.status)
    problem = "unknown form of a frame"
    raise DecodeError(problem, excerpt=codec.excerpt(data))
