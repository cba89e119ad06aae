"""What a response means for the conversation that asked."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

from attrs import frozen

from ortege_watch import _json as codec
from ortege_watch._http.statuses import api_error, is_unauthorized
from ortege_watch.errors import ApiError, DecodeError, OrtegeWatchError

if TYPE_CHECKING:
    from ortege_watch._http.conversation import Response

__all__ = [
    "Done",
    "Passing",
    "StillRunning",
    "Unauthorized",
    "Verdict",
    "http_date",
    "judge",
    "retry_after",
]

T = TypeVar("T")

_PASSING: Final = frozenset({429, 502, 503, 504})
_SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?", re.ASCII)
_REDIRECT = "redirected to {}; redirects are not followed: give that address as url"


@frozen
class Done(Generic[T]):
    """The answer is here."""

    value: T


@frozen
class StillRunning:
    """The server said "Continue wait": the same request is to be sent again at once."""


@frozen
class Unauthorized:
    """The token is refused; another one may be taken."""

    error: ApiError


@frozen
class Passing:
    """The server, or the way to it, fails for now."""

    error: OrtegeWatchError
    retry_after: float | None


Verdict: TypeAlias = Done[T] | StillRunning | Unauthorized | Passing


def judge(
    response: Response, decode: Callable[[bytes], T], *, token: str, request_id: str
) -> Verdict[T]:
    """Say what a response means.

    Args:
        response: any response, whatever its body is.
        decode: reads the body of a 2xx; raises :class:`DecodeError` for all that is no
            answer, the server's own errors included.
        token: what the request was sent with; it is cut out of every text.
        request_id: the id for the errors.

    Raises:
        ApiError: a refusal that stays, however often it is asked.
        DecodeError: a 2xx that cannot be read.
    """
    if not 200 <= response.status < 300:
        return _refusal(response, token, request_id)
    if not response.content.strip():
        raise DecodeError("the answer is empty")
    try:
        return Done(decode(response.content))
    except DecodeError as error:
        sentence, code = _complaint(response.content)
        if sentence is None:
            text = _excerpt(response, token)
            raise DecodeError(*error.problems, excerpt=text) from error.__cause__
    if sentence == "Continue wait":
        return StillRunning()
    raise api_error(
        _without(token, sentence),
        status=response.status,
        code=code,
        request_id=request_id,
    )


def _complaint(content: bytes) -> tuple[str | None, str | None]:
    """Return a server's own words and its error type, or two times ``None``."""
    try:
        body = codec.loads(content)
    except DecodeError:
        return None, None
    match body:
        case {"error": str(sentence), "type": str(code)}:
            return sentence, code
        case {"error": str(sentence)}:
            return sentence, None
        case _:
            return None, None


def _refusal(response: Response, token: str, request_id: str) -> Unauthorized | Passing:
    status = response.status
    wait = retry_after(response)
    sentence, code = _complaint(response.content)
    if sentence is None:
        error = _unspoken(response, token, request_id, wait)
    else:
        error = api_error(
            _without(token, sentence),
            status=status,
            code=code,
            request_id=request_id,
            retry_after=wait,
        )
    if status in _PASSING:
        return Passing(error, wait)
    if is_unauthorized(status, error.message):
        return Unauthorized(error)
    raise error


def _unspoken(
    response: Response, token: str, request_id: str, wait: float | None
) -> ApiError:
    """Make an error of an answer that no Cube server wrote, such as a proxy's page."""
    status = response.status
    location = response.headers.get("location", "")
    if 300 <= status < 400 and location:
        target = _without(token, location.split("?")[0])
        return ApiError(_REDIRECT.format(target), status=status, request_id=request_id)
    text = _excerpt(response, token)
    message = f"no answer of a Cube server: {text!r}" if text else "an empty answer"
    if status in {401, 403, 429}:
        return api_error(
            message, status=status, request_id=request_id, retry_after=wait
        )
    return ApiError(message, status=status, request_id=request_id)


def retry_after(response: Response) -> float | None:
    """Read ``Retry-After`` as seconds from now; ``None`` without a usable one.

    A date is compared with the server's own ``Date``, and only without that with this
    machine's clock: the two clocks may differ.
    """
    given = response.headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(given):
        return float(given)
    until = http_date(given)
    if until is None:
        return None
    since = http_date(response.headers.get("date", "")) or response.received_at
    return max(0.0, until - since)


def http_date(text: str) -> float | None:
    """Read a header's date as unix seconds; ``None`` for what is none."""
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:  # "-0000": in UTC, says RFC 5322
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (ValueError, OverflowError):
        return None


def _excerpt(response: Response, token: str) -> str:
    # Cut out first: an excerpt may end in the middle of the token.
    return codec.excerpt(response.content.replace(token.encode(), b"<token>"))


def _without(token: str, text: str) -> str:
    return text.replace(token, "<token>")
