"""Frames of the alert channel, by examples and by properties."""

from __future__ import annotations

import contextlib
import json

import msgspec
import pytest
from hypothesis import given, strategies as st

from ortege_watch import DecodeError
from ortege_watch.watchbus import AlertInfo
from ortege_watch.watchbus.frames import (
    OVERHEAD,
    AlertFrame,
    AnswerFrame,
    decode_frame,
    encode_frame,
)
from ortege_watch.watchbus.models import read_alerts
from ortege_watch.watchbus.wire import (
    ResultCode,
    encode_alerts,
    error_answer,
    ok_answer,
)

ALERT = AlertInfo("0x" + "ab" * 20, 56, "ERC20", "unheard_of", 1_700_000_000)
BODY = encode_alerts([ALERT])

KINDS = [AlertFrame, AnswerFrame]
EMPTY = msgspec.Raw(b"[]")

ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=100)


def test_a_frame_is_the_body_of_a_post_under_an_id():
    text = encode_frame(AlertFrame("7f", msgspec.Raw(BODY)))
    assert text == '{"id":"7f","body":' + BODY.decode() + "}"
    frame = decode_frame(AlertFrame, text.encode())
    assert read_alerts(bytes(frame.body)) == [ALERT]


def test_an_answer_is_that_to_a_post_under_the_id():
    body = error_answer(ResultCode.SERVER_ERROR, "no")
    written = encode_frame(AnswerFrame("7f", 500, msgspec.Raw(body)))
    assert json.loads(written) == {
        "id": "7f",
        "status": 500,
        "body": json.loads(body),
    }


@given(ids, st.sampled_from([BODY, b"[]", b"null", b'{"a": [1.50]}']))
def test_a_body_is_copied_byte_for_byte(key, body):
    frame = AlertFrame(key, msgspec.Raw(body))
    text = encode_frame(frame)
    assert decode_frame(AlertFrame, text.encode()) == frame
    assert body in text.encode()
    assert len(text.encode()) <= len(body) + 7 * len(key) + 20


@given(ids, st.integers(100, 599))
def test_an_answer_survives_encoding(key, status):
    frame = AnswerFrame(key, status, msgspec.Raw(ok_answer()))
    assert decode_frame(AnswerFrame, encode_frame(frame).encode()) == frame


def test_a_frame_is_not_larger_than_its_body_and_the_overhead():
    text = encode_frame(AlertFrame("0" * 32, msgspec.Raw(BODY)))
    assert len(text.encode()) <= len(BODY) + OVERHEAD


def test_unknown_fields_are_ignored():
    data = b'{"v": 2, "id": "1", "body": [], "status": 200, "x": {}}'
    assert decode_frame(AlertFrame, data) == AlertFrame("1", EMPTY)
    assert decode_frame(AnswerFrame, data) == AnswerFrame("1", 200, EMPTY)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\x00",
        b"hello",
        b"[]",
        b"null",
        b"{}",
        b'{"id": "1"}',
        b'{"body": []}',
        b'{"id": 1, "body": []}',
        b'{"id": "", "body": []}',
        b'{"id": null, "body": []}',
        b'{"id": "1", "body": [}',
        b'{"id": "' + b"1" * 101 + b'", "body": []}',
        b'{"id": "1", "body": ' + b"[" * 100_000,
    ],
)
def test_invalid_frames_are_decode_errors(data):
    for kind in KINDS:
        with pytest.raises(DecodeError, match=f"invalid {kind.__name__}"):
            decode_frame(kind, data)


@pytest.mark.parametrize("status", ["99", "600", '"200"', "200.5", "true", "null"])
def test_a_status_must_be_an_http_status(status):
    with pytest.raises(DecodeError):
        data = b'{"id":"1","body":{},"status":%s}' % status.encode()
        decode_frame(AnswerFrame, data)


@given(st.binary(max_size=200))
def test_decoding_raises_only_decode_errors(data):
    for kind in KINDS:
        with contextlib.suppress(DecodeError):
            decode_frame(kind, data)
