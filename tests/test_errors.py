"""Every error keeps its message and its attributes through pickle and copy."""

from __future__ import annotations

import copy
import multiprocessing
import pickle

import pytest

from ortege_watch import Measure, Query, errors
from ortege_watch.errors import (
    ApiError,
    AuthenticationError,
    DeadlineExceeded,
    DecodeError,
    InvalidArgument,
    OrtegeWatchError,
    OutboxFull,
    QueryError,
    QueryRejected,
    RateLimited,
    SignatureError,
    SignatureReason,
    SubscriptionLost,
    TransportError,
    WatchBusError,
)
from ortege_watch.watchbus import PublishResult

EXAMPLES = [
    (OrtegeWatchError("a"), "a"),
    (InvalidArgument("a"), "a"),
    (QueryError("a"), "a"),
    (DecodeError(), "cannot be decoded"),
    (DecodeError("a", "b"), "a; b"),
    (DecodeError("a", excerpt="<html>"), "a: '<html>'"),
    (TransportError("a"), "a"),
    (DeadlineExceeded("a"), "a"),
    (SubscriptionLost("a"), "a"),
    (ApiError("a", status=500, code="E"), "a (status 500)"),
    (ApiError("a", status=500, request_id="r"), "a (status 500, request r)"),
    (AuthenticationError("a", status=403), "a (status 403)"),
    (RateLimited("a", retry_after=2.5, request_id="r"), "a (status 429, request r)"),
    (QueryRejected("a", status=400), "a (status 400)"),
    (WatchBusError("a", status=401, code="000005", reason="r"), "a"),
    (SignatureError(SignatureReason.EXPIRED, "a", delta=400.0), "a"),
    (OutboxFull("a"), "a"),
]


def test_the_examples_cover_every_class() -> None:
    classes = {
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, OrtegeWatchError)
    }
    assert {type(error) for error, _ in EXAMPLES} == classes


@pytest.mark.parametrize(("error", "text"), EXAMPLES)
def test_pickle_and_copy_keep_message_and_attributes(
    error: OrtegeWatchError, text: str
) -> None:
    error.query = Query(measures=[Measure("a.b")])
    error.add_note("a note")
    for twin in (
        error,
        pickle.loads(pickle.dumps(error)),
        copy.copy(error),
        copy.deepcopy(error),
    ):
        assert type(twin) is type(error)
        assert str(twin) == text
        assert vars(twin) == vars(error)
        assert twin.args == error.args


@pytest.mark.parametrize("error", [error for error, _ in EXAMPLES])
def test_the_text_of_every_error_is_one_printable_line(error: OrtegeWatchError) -> None:
    token = "eyJhbGciOiJI.eyJleHAiOjE3.c2lnbmF0dXJl"
    text = f"bad\nERROR root {token}\r\x1b[31m\u2028\x9b\u202e" + "a" * 5000
    hostile = copy.copy(error)
    hostile.args = (text,)
    if isinstance(hostile, ApiError):
        hostile.message = text
    if isinstance(hostile, DecodeError):
        hostile.problems = (text,)
    shown = str(hostile)
    assert shown.isprintable()
    assert shown.startswith("bad ERROR root <token>  [31m   aaa")
    assert 1960 < len(shown) < 2200


def test_an_error_that_its_own_result_refers_to_can_be_pickled() -> None:
    error = WatchBusError("a", status=401)
    error.published = PublishResult(error=error)
    for twin in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert str(twin) == "a"
        assert twin.published.error is twin


def test_an_error_crosses_a_process_pool() -> None:
    program = "import ortege_watch as o; raise o.RateLimited('slow', retry_after=3.0)"
    with (
        multiprocessing.get_context("spawn").Pool(1) as pool,
        pytest.raises(RateLimited, match=r"^slow \(status 429\)$") as caught,
    ):
        pool.apply_async(exec, [program]).get(timeout=60)
    assert caught.value.retry_after == 3.0
