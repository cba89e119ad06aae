"""The envelope of every answer: ``{"status": ..., "code": ..., "data": ...}``.

A code is text and is compared as text: ``000000000`` is success, errors have six digits.
Which HTTP status goes with which code is documented nowhere; ours are in
:data:`REFUSALS`. Where the text of an error stands is open as well: we read four places
and write the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from ortege_watch import codec
from ortege_watch.errors import (
    DecodeError,
    SignatureError,
    SignatureReason,
    WatchBusError,
)
from ortege_watch.watchbus.reading import read_json, shown

__all__ = [
    "REFUSALS",
    "Contradiction",
    "ResultCode",
    "error_answer",
    "ok_answer",
    "read_answer",
    "refusal",
]

_REASONS: Final = ("error_data", "errorData", "message", "msg")


class ResultCode(StrEnum):
    """The documented result codes."""

    OK = "000000000"
    SERVER_ERROR = "000001"
    RATE_LIMIT = "000002"
    UNKNOWN_APP = "000003"
    HEADER_MISSING = "000004"
    SIGNATURE_ERROR = "000005"


class Contradiction(WatchBusError):
    """Report an answer whose status and code contradict each other."""


_BAD: Final = ResultCode.SIGNATURE_ERROR
_HEADERS: Final = "headers can not be null or empty"

REFUSALS: Final[Mapping[SignatureReason, tuple[int, ResultCode, str]]] = {
    SignatureReason.MISSING_HEADER: (401, ResultCode.HEADER_MISSING, _HEADERS),
    SignatureReason.MALFORMED_HEADER: (401, ResultCode.HEADER_MISSING, _HEADERS),
    SignatureReason.MALFORMED_TIMESTAMP: (401, _BAD, "timestamp has illegal"),
    SignatureReason.EXPIRED: (401, _BAD, "timestamp is expired"),
    SignatureReason.IN_THE_FUTURE: (401, _BAD, "timestamp is expired"),
    SignatureReason.MALFORMED_NONCE: (401, _BAD, "nonce is illegal"),
    SignatureReason.UNKNOWN_APP: (401, ResultCode.UNKNOWN_APP, "invalid appid"),
    SignatureReason.BAD_SIGNATURE: (401, _BAD, "invalid signature"),
    SignatureReason.REPLAY: (401, _BAD, "replay request"),
    SignatureReason.BODY_TOO_LARGE: (413, ResultCode.SERVER_ERROR, "body too large"),
    SignatureReason.QUERY_PRESENT: (400, _BAD, "a query cannot be signed"),
    SignatureReason.OTHER_PATH: (404, ResultCode.SERVER_ERROR, "not found"),
    SignatureReason.NONCES_FULL: (429, ResultCode.RATE_LIMIT, "too many requests"),
}
"""HTTP status, code and text of the answer to a request that is not accepted.

The codes are the documented ones, and so are the texts where the page has one; it has
no code for a body that is too large or for another path, so those are server errors.
"""


def ok_answer(data: object = None) -> bytes:
    """Write the answer to a request that succeeded.

    Raises:
        QueryError: the data has no exact JSON form.
    """
    answer = {"status": "OK", "code": ResultCode.OK.value, "data": data}
    return codec.dumps(answer).encode()


def error_answer(code: ResultCode, reason: str) -> bytes:
    """Write the answer to a request that failed."""
    answer = {
        "status": "ERROR",
        "code": code.value,
        "data": None,
        _REASONS[0]: reason,
    }
    return codec.dumps(answer).encode()


def refusal(error: SignatureError) -> tuple[int, bytes]:
    """Return the HTTP status and the body that answer a refused request."""
    status, code, reason = REFUSALS[error.reason]
    return status, error_answer(code, reason)


def read_answer(body: bytes, status: int) -> Any:
    """Read an answer; an envelope decides, and the HTTP status where there is none.

    Args:
        body: the answer's bytes.
        status: the HTTP status that they came with.

    Returns:
        The ``data`` of a success.

    Raises:
        WatchBusError: the answer says no, or its status and code contradict each other.
        DecodeError: a success that is no envelope.
    """
    try:
        envelope = read_json(body)
    except DecodeError as error:
        if _fine(status):
            raise
        raise _http_error(status, body) from error
    match envelope:
        case {"code": code} if code is not None:
            return _judge(envelope, status)
        case {"status": str()}:
            return _judge(envelope, status)
        case _ if _fine(status):
            problem = "$: neither status nor code: this is no answer of the watch-bus"
            raise DecodeError(problem, excerpt=codec.excerpt(body))
        case _:
            raise _http_error(status, body)


def _fine(status: int) -> bool:
    return 200 <= status < 300


def _http_error(status: int, body: bytes) -> WatchBusError:
    said = codec.excerpt(body)
    return WatchBusError(f"HTTP status {status}: {said}", status=status)


def _judge(envelope: dict[str, Any], status: int) -> Any:
    code, word = _code(envelope.get("code")), envelope.get("status")
    votes = {_fine(status) if code is None else not code.strip("0")}
    if isinstance(word, str):
        votes.add(word.casefold() == "ok")
    if votes == {True}:
        return envelope.get("data")
    said = f"status {shown(word)}, code {shown(code)}"
    reasons = (envelope.get(name) for name in _REASONS)
    reason = next((each for each in reasons if isinstance(each, str)), None)
    if reason is not None:
        said += f": {shown(reason)}"
    kind = WatchBusError
    if True in votes:
        kind, said = Contradiction, f"the answer contradicts itself ({said})"
    raise kind(said, code=code, reason=reason, status=status)


def _code(given: object) -> str | None:
    """Keep the text of a code; an int gets the six digits that errors have."""
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, int) and not isinstance(given, bool):
        return f"{given:06d}"
    return shown(given)  # no code that is documented, and so no success
