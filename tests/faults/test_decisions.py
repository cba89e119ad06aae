"""What the proxy does with bytes, without a socket."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st
from injection.decisions import (
    BREAKING,
    End,
    Flow,
    FrameScanner,
    Pause,
    Span,
    Write,
    garbage,
    unavailable,
)
from injection.schedule import Entry, Fault

UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n"


def frame(payload: bytes, opcode: int = 1) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes([0x80 | opcode, size]) + payload
    if size < 65536:
        return bytes([0x80 | opcode, 126]) + size.to_bytes(2, "big") + payload
    return bytes([0x80 | opcode, 127]) + size.to_bytes(8, "big") + payload


def lasting(*faults: Fault) -> list[Entry]:
    return [Entry(0.0, fault, 1.0) for fault in faults]


def written(steps) -> bytes:
    return b"".join(step.data for step in steps if isinstance(step, Write))


def websocket_flow(seed: str = "seed") -> Flow:
    flow = Flow("down", seed)
    assert flow.decide(UPGRADED, []) == [Write(UPGRADED)]
    return flow


@given(
    st.lists(st.tuples(st.binary(max_size=300), st.sampled_from([1, 2, 8, 9, 10]))),
    st.integers(1, 50),
)
def test_frames_are_found_wherever_the_stream_is_cut(messages, size):
    stream = b"".join(frame(payload, opcode) for payload, opcode in messages)
    scanner = FrameScanner()
    payloads = b""
    for start in range(0, len(stream), size):
        chunk = stream[start : start + size]
        spans = scanner.feed(chunk)
        assert spans[0].start == 0
        assert spans[-1].end == len(chunk)
        payloads += b"".join(chunk[s.payload : s.end] for s in spans)
    assert payloads == b"".join(payload for payload, _ in messages)


def test_a_large_frame_is_one_span():
    stream = frame(b"x" * 70_000)
    assert FrameScanner().feed(stream) == [Span(0, 10, 70_010, is_text=True)]


def test_without_a_fault_bytes_are_forwarded_as_they_are():
    assert websocket_flow().decide(b"\x00\xff anything", []) == [
        Write(b"\x00\xff anything")
    ]


@pytest.mark.parametrize("seed", range(50))
def test_a_corrupted_frame_has_its_length_and_is_no_json(seed):
    flow = websocket_flow(str(seed))
    payload = json.dumps({"handshake": True, "text": "aé"}).encode()
    while True:
        data = written(flow.decide(frame(payload), lasting(Fault.CORRUPT)))
        if Fault.CORRUPT in flow.done:
            break
    assert data[:2] == frame(payload)[:2]
    corrupted = data[2:]
    assert len(corrupted) == len(payload)
    assert sum(one != other for one, other in zip(corrupted, payload, strict=True)) == 1
    assert any(byte in corrupted for byte in BREAKING)
    with pytest.raises(ValueError):  # bad UTF-8 or bad JSON
        json.loads(corrupted.decode())


@pytest.mark.parametrize("seed", range(20))
def test_of_http_only_the_body_is_corrupted(seed):
    flow = Flow("down", str(seed))
    while Fault.CORRUPT not in flow.done:
        data = written(flow.decide(RESPONSE + b'{"error":"x"}', lasting(Fault.CORRUPT)))
        assert data.startswith(RESPONSE)
    assert any(byte in data for byte in BREAKING)


def test_control_frames_and_what_a_client_sends_stay_as_they_are():
    ping = frame(b"ping", opcode=9)
    up = Flow("up", "seed")
    flow = websocket_flow()
    for _ in range(50):
        assert written(flow.decide(ping, lasting(Fault.CORRUPT))) == ping
        assert written(up.decide(b"anything", lasting(Fault.CORRUPT))) == b"anything"
    assert flow.done == up.done == []


@pytest.mark.parametrize("seed", range(50))
def test_a_truncated_frame_ends_within_the_frame(seed):
    first, second = frame(b'{"messageProcessedId":"1"}'), frame(b"x" * 300)
    steps = websocket_flow(str(seed)).decide(first + second, lasting(Fault.TRUNCATE))
    assert isinstance(steps[-1], End)
    size = len(written(steps))
    assert 0 < size < len(first) + len(second)
    assert size != len(first)


def test_split_and_throttled_bytes_are_all_there():
    data = frame(bytes(range(256)) * 8)
    split = websocket_flow().decide(data, lasting(Fault.SPLIT))
    slow = websocket_flow().decide(data, lasting(Fault.THROTTLE))
    assert written(split) == written(slow) == data
    assert len(split) > 20
    assert sum(step.seconds for step in split if isinstance(step, Pause)) == 0
    assert sum(step.seconds for step in slow if isinstance(step, Pause)) > 0.2


def test_segments_are_delayed_and_merged():
    flow = websocket_flow()
    first, second = flow.decide(b"data", lasting(Fault.DELAY))
    assert isinstance(first, Pause)
    assert first.seconds > 0
    assert second == Write(b"data")
    assert flow.before_read([]) == 0
    assert flow.before_read(lasting(Fault.MERGE)) > 0


@pytest.mark.parametrize("seed", range(10))
def test_what_new_connections_get(seed):
    assert not garbage(seed).startswith(b"HTTP")
    head, _, body = unavailable(seed).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 50")
    assert f"Content-Length: {len(body)}".encode() in head
