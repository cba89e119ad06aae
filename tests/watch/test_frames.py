"""Frames, out and in, against captured conversations."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from ortege_watch.errors import DecodeError
from ortege_watch.watch import frames

CAPTURED = sorted((Path(__file__).parents[1] / "data" / "frames").glob("canonical-*"))
LINES = [
    (path.stem, number, line)
    for path in CAPTURED
    for number, line in enumerate(path.read_text().splitlines(), 1)
]


def of(prefix: str):
    return [
        pytest.param(line.removeprefix(prefix), id=f"{stem}:{number}")
        for stem, number, line in LINES
        if line.startswith(prefix)
    ]


@pytest.mark.parametrize("line", of("S< "))
def test_every_captured_frame_of_a_server_is_read(line):
    wire = json.loads(line)
    frame = frames.read(line.encode())
    match frame:
        case frames.Handshake():
            assert wire == {"handshake": True}
        case frames.Processed(message_id=key):
            assert wire == {"messageProcessedId": key}
        case frames.FrameError(status=status, message=message):
            assert "messageId" not in wire
            assert (status, message) == (wire["status"], wire["message"]["error"])
        case frames.Answer(message_id=key, body=body, status=status):
            assert (key, status) == (wire["messageId"], wire["status"])
            assert frames.query_of(line.encode()) == key
            assert body.error == wire["message"].get("error")
            rows = [json.loads(bytes(part.data)) for part in body.parts]
            assert rows == [r["data"] for r in wire["message"].get("results", [])]


def test_what_is_sent_is_what_the_captured_clients_sent():
    captured = {
        json.dumps(json.loads(line.removeprefix("C> ")), sort_keys=True)
        for _, _, line in LINES
        if line.startswith("C> ")
    }
    query = {"measures": ["stacks_contract_events.count"]}
    for text in (
        frames.authorization("<jwt>"),
        frames.subscribe("1", query, "req-1"),
        frames.unsubscribe("1"),
        frames.tutorial_subscribe(query, "6b6d5c0e-2f1e-4c53-9d0a-1d1c7b6d7f11"),
    ):
        assert json.dumps(json.loads(text), sort_keys=True) in captured


def test_the_envelope_is_the_one_that_every_cube_accepts():
    frame = json.loads(frames.subscribe("12", {"measures": ["a.b"]}, "r"))
    assert frame.keys() == {"messageId", "requestId", "method", "params"}
    assert frame["params"] == {"query": {"measures": ["a.b"]}, "queryType": "multi"}
    assert re.fullmatch("[1-9][0-9]{0,15}", frame["messageId"])
    assert json.loads(frames.authorization("x")).keys() == {"authorization"}
    assert json.loads(frames.unsubscribe("12")) == {"unsubscribe": "12"}


def test_a_number_as_id_is_read_as_a_string():
    assert frames.read(b'{"messageProcessedId":1}') == frames.Processed("1")
    frame = frames.read(b'{"messageId":7,"message":{"error":"x"},"status":400}')
    assert isinstance(frame, frames.Answer)
    assert frame.message_id == "7"


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('{"data":[{"a":"1"}]}', '[{"a":"1"}]'),
        ('{"results":[{"data":[]}]}', "[]"),
    ],
)
def test_an_answer_of_the_tutorial_has_no_id(text, rows):
    frame = frames.read(text.encode())
    assert isinstance(frame, frames.Answer)
    assert frame.message_id is None
    assert bytes(frame.body.parts[0].data).decode() == rows


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ('{"error":"no"}', 400, "no"),
        ('{"error":"no","status":403}', 403, "no"),
        ('{"message":{},"status":500}', 500, "no reason given"),
    ],
)
def test_an_error_without_an_id_belongs_to_no_query(text, status, message):
    assert frames.read(text.encode()) == frames.FrameError(status, message)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"5",
        b'"text"',
        b"[]",
        b"{}",
        b"{",
        b"<html>",
        b"\x00\xff\xfe",
        b'{"handshake":false}',
        b'{"handshake":"yes"}',
        b'{"messageId":"1","message":"text","status":200}',
        b'{"messageId":{},"message":{},"status":200}',
        b'{"messageId":"1","message":{"results":{}},"status":200}',
        b'{"data":[1,2}',
        b'{"messageId":"1","message":{"error":"\xff"},"status":200}',
        b'{"messageId":"1","message":{"data":[{"a.b":"\xff"}]},"status":200}',
        b"[" * 100_000,
    ],
)
def test_anything_else_is_one_error_of_ours(data):
    with pytest.raises(DecodeError) as caught:
        frames.read(data)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("data", "query"),
    [
        (b'{"messageId":"17","message":{"data":[', "17"),
        (b'{"messageId":"17","message":', "17"),
        (b'{"messageId":"17","message"', None),
        (b' {"messageId":"17","message":', "17"),
        (b'{"messageId": "17", "message": {', "17"),
        (b'{ "status" : 200,\n"messageId":"17","message":[', "17"),
        (b'{"message":{"data":[]},"messageId":"17",', None),
        (b'{"messageId":"a","message":', None),
        (b'{"messageId":17,"message":', None),
        (b'{"messageId":"1234567890","message":', None),
        (b'{"messageId":"17","status":200,"message":', "17"),
        (b'{"messageId":"17","status":"200","message":', None),
        (b'{"messageProcessedId":"17"}', None),
    ],
)
def test_only_the_beginning_of_an_answer_names_its_query(data, query):
    assert frames.query_of(data) == query


@given(st.binary() | st.text().map(str.encode))
def test_no_bytes_raise_anything_else(data):
    with contextlib.suppress(DecodeError):
        frames.read(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "messageId",
                    "message",
                    "status",
                    "error",
                    "data",
                    "results",
                    "handshake",
                ]
            ),
            inner,
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_no_json_raises_anything_else(value):
    try:
        frame = frames.read(json.dumps(value).encode())
    except DecodeError:
        return
    assert isinstance(frame, frames.Frame)


# ------------------------------------------------------------------- rows known before

ROWS = ['[{"a.b":"%s"}]' % ("x" * 5000), "[%s1]" % ("1," * 3000), '"%s"' % ("x" * 5000)]
MARKER = '["rows"]'


def answer(
    rows: str,
    *,
    key: str = '"1"',
    before: str = "",
    name: str = "data",
    after: str = "",
) -> bytes:
    return (
        f'{{"messageId":{key},"message":{{"results":[{{"lastRefreshTime":"{before}",'
        f'"annotation":{{}},"{name}":{rows}{after}}}]}},"status":200}}'
    ).encode(errors="surrogateescape")


def rows_of(frame):
    assert isinstance(frame, frames.Answer)
    (part,) = frame.body.parts
    return part.data


@pytest.mark.parametrize(
    "later",
    [
        {"before": "22:01"},
        {"before": "22:01:30.5"},
        {"before": "22:01", "after": ',"total":1'},
    ],
)
def test_rows_that_are_the_same_bytes_are_the_same_object(later):
    reader = frames.Reader(1)
    rows = rows_of(reader.read(answer(ROWS[0], before="22:00")))
    frame = reader.read(answer(ROWS[0], **later))
    assert rows_of(frame) is rows
    assert frame == frames.read(answer(ROWS[0], **later))
    assert rows_of(reader.read(answer(ROWS[0], before="22:03"))) is rows


def test_each_query_has_its_own_rows_and_no_more_are_remembered():
    reader = frames.Reader(2)
    keys = ['"1"', '"2"', '"3"']
    before = [rows_of(reader.read(answer(ROWS[0], key=key))) for key in keys]
    after = [rows_of(reader.read(answer(ROWS[0], key=key))) for key in keys]
    same = [one is other for one, other in zip(before, after, strict=True)]
    assert same == [True, True, False]


INSIDE = st.sampled_from(
    ["", "é", MARKER, MARKER.replace('"', '\\"'), *ROWS[1:2], '","data":[],"x":"', "\\"]
)
AROUND = st.sampled_from(
    [
        "",
        "}",
        "0",
        *(f',"{name}":{value}' for name in ("data", "x") for value in (*ROWS, MARKER)),
        ',"annotation":{"x":"\udcff"}',
        f'}},{{"data":{ROWS[1]}',
        ',"error":"x"',
    ]
)


def read_or_error(read, data: bytes):
    try:
        return read(data)
    except DecodeError as error:
        return str(error)


@pytest.mark.parametrize("name", ["data", "xata"])
@pytest.mark.parametrize(
    "after",
    ["", "}", '},{"data":[1]', *(f',"data":{rows}' for rows in (MARKER, "[1]", *ROWS))],
)
def test_the_known_bytes_in_another_place_are_not_the_rows(name, after):
    reader = frames.Reader(1)
    reader.read(answer(ROWS[0]))
    data = answer(ROWS[0], name=name, after=after)
    assert read_or_error(reader.read, data) == read_or_error(frames.read, data)


@given(
    st.lists(
        st.builds(
            answer,
            st.sampled_from([*ROWS, MARKER, "[]", "null"]),
            key=st.sampled_from(['"1"', "1", '"2"', "null"]),
            before=INSIDE,
            name=st.sampled_from(["data", "xata"]),
            after=AROUND,
        )
        | st.sampled_from([b"{}", b'{"messageId":"1"%s}' % (b" " * 5000)]),
        min_size=2,
        max_size=4,
    )
)
def test_a_reader_returns_what_decoding_every_frame_returns(sent):
    reader = frames.Reader(2)
    for data in sent:
        assert read_or_error(reader.read, data) == read_or_error(frames.read, data)
