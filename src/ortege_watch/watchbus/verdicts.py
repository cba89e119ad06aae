"""What an answer of the watch-bus, or of a provider, means for who asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, TypeAlias, TypeVar

from attrs import frozen

from ortege_watch._http.conversation import Response
from ortege_watch._http.verdicts import http_date, retry_after
from ortege_watch.errors import OrtegeWatchError, RateLimited, WatchBusError
from ortege_watch.watchbus.wire import Contradiction, ResultCode, read_answer

__all__ = ["Done", "Expired", "Refused", "Verdict", "is_rejection", "judge"]

T = TypeVar("T")

_GATEWAYS: Final = frozenset({429, 502, 503, 504})
_INVALID: Final = frozenset({400, 413, 422})
_DOCUMENTED: Final = frozenset(ResultCode) | {None}


@frozen
class Done(Generic[T]):
    """The answer is here."""

    value: T


@frozen
class Expired:
    """The server calls the timestamp expired.

    Attributes:
        ahead: seconds by which its clock is ahead of this machine's.
    """

    error: WatchBusError
    ahead: float


@frozen
class Refused:
    """The server says no.

    Attributes:
        passing: another attempt may get another answer.
        untouched: nothing was done, so that the same may be asked again.
        retry_after: seconds that the server asks to wait.
    """

    error: OrtegeWatchError
    passing: bool
    untouched: bool
    retry_after: float | None


Verdict: TypeAlias = Done[T] | Expired | Refused


def judge(response: Response, decode: Callable[[Any], T]) -> Verdict[T]:
    """Say what a response means.

    Args:
        response: any response, whatever its body is.
        decode: reads the ``data`` of a success.

    Raises:
        DecodeError: a success that cannot be read.
    """
    try:
        data = read_answer(response.content, response.status)
    except WatchBusError as error:
        return _refusal(error, response)
    return Done(decode(data))


def _refusal(error: WatchBusError, response: Response) -> Expired | Refused:
    status, code = response.status, error.code
    if isinstance(error, Contradiction):
        return Refused(error, passing=False, untouched=False, retry_after=None)
    if code == ResultCode.RATE_LIMIT or (code is None and status == 429):
        wait = retry_after(response)
        limited = RateLimited(str(error), status=status, code=code, retry_after=wait)
        limited.__cause__ = error
        return Refused(limited, passing=True, untouched=True, retry_after=wait)
    location = response.headers.get("location", "")
    if code is None and 300 <= status < 400 and location:
        error = _redirected(location, status)
    date = http_date(response.headers.get("date", ""))
    if _is_expired(error) and date is not None:
        # The header has whole seconds: on average it is half a second late.
        return Expired(error, date + 0.5 - response.received_at)
    passing = status in _GATEWAYS if code is None else _may_pass(code, status)
    wait = retry_after(response) if passing else None
    return Refused(error, passing, untouched=status == 503, retry_after=wait)


def _may_pass(code: str, status: int) -> bool:
    return code == ResultCode.SERVER_ERROR and not 400 <= status < 500


def _is_expired(error: WatchBusError) -> bool:
    said = (error.reason or "").casefold()
    of_time = "timestamp" in said and "expired" in said
    return of_time and error.code == ResultCode.SIGNATURE_ERROR


def _redirected(location: str, status: int) -> WatchBusError:
    target = location.split("?", maxsplit=1)[0]
    return WatchBusError(
        f"redirected to {target} (status {status}); a signed request follows no"
        " redirect: give that address as url",
        status=status,
    )


def is_rejection(error: OrtegeWatchError) -> bool:
    """Tell whether an alert is refused for what it is, whenever it is sent.

    Everything else may be the fault of the way, of the credentials or of the moment. An
    error code that is not documented counts as a refusal, or one alert might block all
    others for ever.
    """
    if not isinstance(error, WatchBusError) or isinstance(error, Contradiction):
        return False
    code, status = error.code, error.status
    if code in _DOCUMENTED:
        return code in {None, ResultCode.SERVER_ERROR} and status in _INVALID
    return status in _INVALID or status in range(200, 300)
