"""Compressed bodies: one gzip layer, nothing beyond the limit of size."""

from __future__ import annotations

import gzip
import tracemalloc

import httpx
import pytest
from hypothesis import given, strategies as st

from ortege_watch import AsyncCubeClient, CubeClient, Measure, Query
from ortege_watch._http.body import Body
from ortege_watch.errors import DecodeError, TransportError

QUERY = Query(measures=[Measure("stacks_contract_events.count")])
PACKED = gzip.compress(b'{"a": 1}')
MIB = 2**20


def unpack(data, *, encodings=("gzip",), size=100, max_size=MIB):
    body = Body(max_size)
    body.decode(",".join(encodings))
    for start in range(0, len(data), size):
        body.feed(data[start : start + size])
    return body.finish()


@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize("encodings", [["gzip"], [" GZIP "], ["x-gzip", "identity"]])
def test_gzip_is_unpacked(size, encodings):
    assert unpack(PACKED, encodings=encodings, size=size) == b'{"a": 1}'


@pytest.mark.parametrize("encodings", [[], [""], ["identity"]])
def test_a_plain_body_is_kept(encodings):
    assert unpack(PACKED, encodings=encodings) == PACKED


@pytest.mark.parametrize("size", [1, 9, 100])
def test_gzip_streams_one_after_the_other_are_joined(size):
    assert unpack(PACKED * 3, size=size) == b'{"a": 1}' * 3


def test_an_empty_body_needs_no_gzip_stream():
    assert unpack(b"") == b""


@pytest.mark.parametrize(
    "encodings", [["gzip", "gzip"], ["br"], ["deflate"], ["gzip", " br"], ["s p"]]
)
def test_other_encodings_are_refused(encodings):
    with pytest.raises(DecodeError, match=r"unsupported Content-Encoding '.*'"):
        unpack(PACKED, encodings=encodings)


@pytest.mark.parametrize("length", range(1, len(PACKED)))
def test_a_stream_that_is_cut_off_is_a_lost_connection(length):
    with pytest.raises(TransportError, match="gzip stream is cut off"):
        unpack(PACKED[:length])


@pytest.mark.parametrize(
    "data", [b"no gzip", PACKED[:-8] + bytes(8), PACKED + b"garbage"]
)
def test_what_is_not_gzip_cannot_be_decompressed(data):
    with pytest.raises(DecodeError, match="response cannot be decompressed"):
        unpack(data)


@given(st.binary(max_size=300), st.integers(1, 50), st.integers(1, 300))
def test_a_body_is_unpacked_if_it_is_not_too_large(content, size, max_size):
    for encoding, data in (("gzip", gzip.compress(content)), ("", content)):
        if len(content) <= max_size:
            found = unpack(data, encodings=[encoding], size=size, max_size=max_size)
            assert found == content
        else:
            with pytest.raises(DecodeError, match="response exceeds max_size"):
                unpack(data, encodings=[encoding], size=size, max_size=max_size)


def test_nothing_is_inflated_beyond_the_limit():
    bomb = gzip.compress(bytes(300 * MIB))
    tracemalloc.start()
    with pytest.raises(DecodeError, match="exceeds max_size"):
        unpack(bomb, size=len(bomb))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * MIB


def test_a_body_in_tiny_chunks_takes_no_more_memory_than_its_size():
    tracemalloc.start()
    body = Body(MIB)
    for _ in range(MIB):
        body.feed(bytes(bytearray(1)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert body.finish() == bytes(MIB)
    assert peak < 3 * MIB


@given(st.lists(st.sampled_from([b"", b"a", b"bc", b"d" * 4095, b"e" * 4096])))
def test_small_and_large_parts_keep_their_order(parts):
    body = Body(MIB)
    for part in parts:
        body.feed(part)
    assert body.finish() == b"".join(parts)


def test_empty_blocks_and_streams_have_a_limit():
    empty = b"\x1f\x8b\x08\x00" + bytes(6) + b"\x00\x00\x00\xff\xff" * 300_000
    with pytest.raises(DecodeError, match="exceeds max_size"):
        unpack(empty, size=65536, max_size=MIB)
    with pytest.raises(DecodeError, match="more than 1000 gzip streams"):
        unpack(gzip.compress(b"") * 1001, size=65536)


def twice(data):
    return gzip.compress(gzip.compress(data))


@pytest.mark.parametrize("sync", [True, False])
async def test_a_response_that_is_compressed_twice_is_refused(sync):
    bomb = twice(bytes(100 * MIB))
    seen = []

    def handler(request):
        seen.append(request.headers["accept-encoding"])
        headers = {"content-encoding": "gzip, gzip"}
        return httpx.Response(200, headers=headers, stream=httpx.ByteStream(bomb))

    transport = httpx.MockTransport(handler)
    tracemalloc.start()
    with pytest.raises(DecodeError, match="Content-Encoding 'gzip, gzip'"):
        if sync:
            with CubeClient("http://host", "token", http=transport) as client:
                client.load(QUERY)
        else:
            async with AsyncCubeClient(
                "http://host", "token", http=transport
            ) as client:
                await client.load(QUERY)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen == ["gzip"]
    assert peak < 4 * MIB


def test_a_response_that_a_hook_has_read_is_not_unpacked_twice():
    def handler(_):
        headers = {"content-encoding": "gzip"}
        stream = httpx.ByteStream(gzip.compress(b'{"sql": {"sql": ["1", []]}}'))
        return httpx.Response(200, headers=headers, stream=stream)

    hooks = {"response": [lambda response: response.read()]}
    with (
        httpx.Client(transport=httpx.MockTransport(handler), event_hooks=hooks) as http,
        CubeClient("http://host", "token", http=http) as client,
    ):
        assert client.sql(QUERY).statement == "1"


def test_a_response_cut_off_within_gzip_is_retried():
    answers = [PACKED[:-3], gzip.compress(b'{"sql": {"sql": ["1", []]}}')]

    def handler(_):
        headers = {"content-encoding": "gzip"}
        return httpx.Response(
            200, headers=headers, stream=httpx.ByteStream(answers.pop(0))
        )

    with CubeClient(
        "http://host", "token", http=httpx.MockTransport(handler)
    ) as client:
        assert client.sql(QUERY).statement == "1"
