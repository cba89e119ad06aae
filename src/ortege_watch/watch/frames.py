"""Every frame that a subscription sends and receives, in both dialects.

The envelope is the one that every version of Cube accepts: text frames, decimal
strings as message ids, a uuid4 as ``requestId``, ``params`` with exactly ``query`` and
``queryType``, and the raw token (with the prefix ``Bearer ``, Cube responds with 403:
seen on 0.35.81 and 1.7.43). The tutorial's dialect sends one frame per socket, with the
members of filters under the legacy key ``dimension``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

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


@attrs.frozen
class Answer:
    """The answer to one query; ``message_id`` is ``None`` in the tutorial's dialect."""

    message_id: str | None
    body: Body
    status: int


@attrs.frozen
class Processed:
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


def read(data: bytes | bytearray) -> Frame:
    """Decode one frame; its rows are checked, but stay JSON until they are accessed.

    After a ``DecodeError`` its content is lost: the queries must be sent again.
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
