"""The envelope of answers: its code decides, and contradictions are errors."""

from __future__ import annotations

import json
import pickle

import pytest

from ortege_watch import DecodeError
from ortege_watch.watchbus import SignatureError, SignatureReason, WatchBusError
from ortege_watch.watchbus.wire import (
    ResultCode,
    error_answer,
    ok_answer,
    read_answer,
)


def read(envelope: object, status: int = 200) -> object:
    return read_answer(json.dumps(envelope).encode(), status)


def refused(envelope: object, status: int = 200) -> WatchBusError:
    with pytest.raises(WatchBusError) as caught:
        read(envelope, status)
    return caught.value


def test_what_is_written_is_read_back():
    assert ok_answer() == b'{"status":"OK","code":"000000000","data":null}'
    assert read_answer(ok_answer({"a": [1]}), 200) == {"a": [1]}
    with pytest.raises(WatchBusError) as caught:
        read_answer(error_answer(ResultCode.RATE_LIMIT, "slow down"), 429)
    assert caught.value.code == "000002"
    assert caught.value.reason == "slow down"
    assert caught.value.status == 429
    assert str(caught.value) == "status ERROR, code 000002: slow down"


@pytest.mark.parametrize(
    ("status", "envelope"),
    [
        (200, {"status": "OK", "code": "000000000"}),
        (200, {"status": "ok", "code": 0}),
        (200, {"code": "0"}),
        (200, {"status": "OK"}),
        (500, {"status": "OK", "code": "000000000"}),  # the envelope's code wins
    ],
)
def test_a_success_gives_its_data(status, envelope):
    assert read({**envelope, "data": [1]}, status) == [1]


@pytest.mark.parametrize(
    ("status", "envelope", "code"),
    [
        (200, {"status": "ERROR", "code": "000005"}, "000005"),
        (200, {"status": "ERROR", "code": 5}, "000005"),
        (200, {"code": "00001"}, "00001"),
        (200, {"code": -5}, "-00005"),
        (401, {"status": "error", "code": "000003"}, "000003"),
        (404, {"status": "Not Found"}, None),
    ],
)
def test_an_error_keeps_the_text_of_its_code(status, envelope, code):
    error = refused(envelope, status)
    assert (error.code, error.reason, error.status) == (code, None, status)
    assert "contradicts" not in str(error)


@pytest.mark.parametrize(
    ("status", "envelope"),
    [
        (200, {"status": "OK", "code": "000005"}),
        (200, {"status": "ERROR", "code": "000000000"}),
        (500, {"status": "OK"}),
        (200, {"status": "ERROR"}),
        (200, {"status": "OK", "code": True}),
        (200, {"status": "OK", "code": 0.5}),
        (200, {"status": "OK", "code": []}),
    ],
)
def test_an_answer_that_contradicts_itself_is_an_error(status, envelope):
    assert "contradicts itself" in str(refused(envelope, status))


@pytest.mark.parametrize("field", ["error_data", "errorData", "message", "msg"])
def test_the_reason_is_found_wherever_it_is(field):
    error = refused({"code": "000005", "status": "ERROR", field: "replay request"})
    assert error.reason == "replay request"
    assert refused({"code": "000005", field: 5}).reason is None


@pytest.mark.parametrize(
    "body", [b"<html>", b"", b" \n", b"[]", b"5", b"{}", b'{"status": 404}']
)
def test_without_an_envelope_the_http_status_decides(body):
    with pytest.raises(WatchBusError) as caught:
        read_answer(body, 404)
    assert (caught.value.status, caught.value.code) == (404, None)
    shown = f": {body.decode()}" if body.strip() else ""
    assert str(caught.value) == f"HTTP status 404{shown}"
    with pytest.raises(DecodeError):
        read_answer(body, 200)


def test_an_envelope_with_a_key_twice_is_no_success():
    with pytest.raises(DecodeError, match="the key is repeated"):
        read_answer(b'{"code": "0", "code": "000005"}', 200)


def test_every_reason_has_its_answer():
    for reason in SignatureReason:
        error = pickle.loads(
            pickle.dumps(SignatureError(reason, "details that stay here"))
        )
        status, body = error.status, error.body
        assert 400 <= status < 500
        assert b"details" not in body
        with pytest.raises(WatchBusError) as caught:
            read_answer(body, status)
        assert caught.value.code in set(ResultCode) - {ResultCode.OK}
        assert caught.value.reason
        assert body == error_answer(ResultCode(caught.value.code), caught.value.reason)


@pytest.mark.parametrize(
    ("envelope", "message"),
    [
        ({"status": "ERROR"}, "status ERROR"),
        ({"status": "ERROR", "code": None, "reason": ""}, "status ERROR"),
        ({"code": "000001"}, "code 000001"),
        ({"code": 1, "message": None, "status": None}, "code 000001"),
    ],
)
def test_a_message_names_only_what_was_sent(envelope, message):
    assert str(refused(envelope, 500)) == message
