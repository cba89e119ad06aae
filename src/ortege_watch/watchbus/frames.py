"""The frames of an alert channel: the one place that knows their form.

The page recommends WebSocket for alerts and documents no frame. These are therefore
ours, and as close to the documented POST as can be: a frame is the POST's body under an
id, an answer is the POST's answer (status and envelope) under the same id. Both are
JSON in WebSocket text frames::

    {"id": "5f3c...", "body": {"alert_info_list": [...]}}
    {"id": "5f3c...", "status": 200, "body": {"status": "OK", "code": "000000000", ...}}

If a form is documented one day, these four functions are what changes.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias, TypeVar

import msgspec
from attrs import frozen

from ortege_watch import codec
from ortege_watch.errors import DecodeError

__all__ = [
    "OVERHEAD",
    "AlertFrame",
    "AnswerFrame",
    "read_alerts",
    "read_answer",
    "write_alerts",
    "write_answer",
]

OVERHEAD: Final = 256
"""Bytes that a frame has at most beyond its body."""

_Id: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
_Status: TypeAlias = Annotated[int, msgspec.Meta(ge=100, lt=600)]


@frozen
class AlertFrame:
    """Carry alerts to the receiver.

    Attributes:
        id: what the answer carries as well; the same when the frame is sent again.
        body: the body of an alert POST, byte for byte.
    """

    id: str
    body: bytes


@frozen
class AnswerFrame:
    """Tell the sender what became of a frame.

    Attributes:
        id: the frame's.
        status: the HTTP status that a POST would have been answered with; 200 if all
            its alerts are handled.
        body: the envelope, ``{"status": ..., "code": ..., "data": ...}``.
    """

    id: str
    status: int
    body: bytes


class _Alerts(msgspec.Struct):
    id: _Id
    body: msgspec.Raw


class _Answer(msgspec.Struct):
    id: _Id
    status: _Status
    body: msgspec.Raw


T = TypeVar("T")

_alerts: Final = msgspec.json.Decoder(_Alerts)
_answer: Final = msgspec.json.Decoder(_Answer)


def write_alerts(frame: AlertFrame) -> str:
    """Write a frame of alerts."""
    head = codec.dumps(frame.id)
    return f'{{"id":{head},"body":{frame.body.decode()}}}'


def read_alerts(data: bytes) -> AlertFrame:
    """Read a frame of alerts; what its body holds is not looked at.

    Raises:
        DecodeError: it is something else.
    """
    found = _read(_alerts, data, "no frame of alerts")
    return AlertFrame(found.id, bytes(found.body))


def write_answer(frame: AnswerFrame) -> str:
    """Write the answer to a frame."""
    head = f'{{"id":{codec.dumps(frame.id)},"status":{frame.status}'
    return f'{head},"body":{frame.body.decode()}}}'


def read_answer(data: bytes) -> AnswerFrame:
    """Read the answer to a frame; what its envelope says is not looked at.

    Raises:
        DecodeError: it is something else.
    """
    found = _read(_answer, data, "no answer to a frame of alerts")
    return AnswerFrame(found.id, found.status, bytes(found.body))


def _read(decoder: msgspec.json.Decoder[T], data: bytes, problem: str) -> T:
    try:
        return decoder.decode(data)
    except codec.UNREADABLE as error:
        text = f"this is {problem} ({error})"
        raise DecodeError(text, excerpt=codec.excerpt(data)) from error
