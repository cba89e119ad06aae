"""Servers that answer requests with garbage, bombs, drips, or not at all."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from loopback import Peer, Talk, close, read_request, silent
from watching import QUERY

from ortege_watch import (
    ApiError,
    AsyncCubeClient,
    AuthenticationError,
    CubeClient,
    DeadlineExceeded,
    DecodeError,
    OrtegeWatchError,
    QueryRejected,
    RateLimited,
    Retry,
    Row,
    TransportError,
)
from ortege_watch.watchbus import (
    AsyncWatchBusClient,
    Credentials,
    WatchBusClient,
    WatchBusError,
)

pytestmark = pytest.mark.anyio

TOKEN = "s3cret-s3cret-s3cret"
SIGNED = Credentials("app", TOKEN)
ONCE = Retry(attempts=1)
MAX_SIZE = 1_000_000
LIMITS = {"retry": ONCE, "timeout": 5.0, "deadline": 10.0, "max_size": MAX_SIZE}

Use = Callable[..., Awaitable[object]]


# The uses keep one client for many requests, as programs do.


async def load(url: str, count: int, **limits: Any) -> list[object]:
    async with AsyncCubeClient(url, TOKEN, **LIMITS | limits) as cube:
        return [await outcome(read(cube)) for _ in range(count)]


async def read(cube: AsyncCubeClient) -> list[Row]:
    return list(await cube.load(QUERY))  # which decodes the rows


async def load_sync(url: str, count: int, **limits: Any) -> list[object]:
    with CubeClient(url, TOKEN, **LIMITS | limits) as cube:
        return [
            await outcome(asyncio.to_thread(lambda: list(cube.load(QUERY))))
            for _ in range(count)
        ]


async def events(url: str, count: int, **limits: Any) -> list[object]:
    async with AsyncWatchBusClient(url, SIGNED, **LIMITS | limits) as provider:
        return [await outcome(provider.events()) for _ in range(count)]


async def events_sync(url: str, count: int, **limits: Any) -> list[object]:
    with WatchBusClient(url, SIGNED, **LIMITS | limits) as provider:
        return [await outcome(asyncio.to_thread(provider.events)) for _ in range(count)]


async def outcome(call: Awaitable[object]) -> object:
    """Return the result or the error, which must be one of ours."""
    try:
        return await call
    except OrtegeWatchError as error:
        refused = error
    assert TOKEN not in str(refused)
    return refused


USES: list[Use] = [load, load_sync, events, events_sync]
every = pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)


def answering(*answers: bytes, then: str = "close") -> Talk:
    """Answer each request with the next bytes; afterwards say nothing, or close."""
    left = list(answers)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(left.pop(0))
        if then == "silence":
            await silent(reader, writer)
        else:
            await close(writer)

    return talk


def answer(status: int, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", "Connection: close", *headers]
    if status >= 200 and status not in {204, 304}:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


# ------------------------------------------------------------------------- refusals

STATUSES = [
    *(300, 301, 302, 303, 304, 305, 307, 308),
    *(400, 401, 402, 403, 404, 405, 406, 408, 409, 410, 411, 413, 414, 415, 417, 418),
    *(421, 422, 423, 425, 426, 428, 429, 431, 451, 499),
    *(500, 501, 502, 503, 504, 505, 507, 508, 511, 520, 530, 599, 600, 999),
]
BODIES = {
    "nothing": b"",
    "Cube's": b'{"error":"no such member"}',
    "with a token": json.dumps({"error": f"bad {TOKEN}"}).encode(),
    "a page": b"<html><body>" + b"<p>sorry</p>" * 10_000 + b"</body></html>",
    "bytes": bytes(range(256)),
    "a list": b"[]",
    "null": b"null",
    "a number": b"1e400",
    "an object as error": b'{"error":{"a":[1,2]}}',
    "nested": b"[" * 100_000,
    "a surrogate": b'{"error":"\\ud800"}',
    "duplicate keys": b'{"error":"a","error":"b"}',
}


# A proxy's page is not a query that Cube has rejected.
OF_CUBE = {"Cube's", "with a token", "duplicate keys"}


def expected(use: Use, status: int, body: str) -> type[OrtegeWatchError]:
    if use in {events, events_sync}:
        return RateLimited if status == 429 else WatchBusError
    match status:
        case 401 | 403:
            return AuthenticationError
        case 429:
            return RateLimited
        case _ if 400 <= status < 500 and body in OF_CUBE:
            return QueryRejected
    return ApiError


@every
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body)
async def test_every_refusal_has_its_class(use, body):
    answers = [answer(status, BODIES[body]) for status in STATUSES]
    with Peer(answering(*answers)) as server:
        async with asyncio.timeout(60):
            outcomes = await use(f"http://{server.host}", len(STATUSES))
        assert server.attempts == len(STATUSES)
    wrong = {
        status: repr(error)[:200]
        for status, error in zip(STATUSES, outcomes, strict=True)
        if type(error) is not expected(use, status, body)
        or error.status != status
        or len(str(error)) > 1000
    }
    assert wrong == {}, "\n".join(f"WRONG {k} {v}" for k, v in wrong.items())


# ---------------------------------------------------------------- unreadable successes


def rows(value: bytes) -> bytes:
    """Return a result of one row, as Cube writes it, with a value as it is."""
    return (
        b'{"results":[{"query":{},"data":[{"stacks_contract_events.asset_amount":'
        + value
        + b',"stacks_contract_events.sender_address":"S"}],"annotation":{"measures":{},'
        b'"dimensions":{},"segments":{},"timeDimensions":{}}}]}'
    )


NOT_JSON = {
    "nothing": b"",
    "bytes": bytes(range(256)),
    "a page": BODIES["a page"],
    "half": rows(b"1")[:-20],
    "twice": rows(b"1") * 2,
    "nested lists": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "a nested value": rows(b"[" * 100_000 + b"]" * 100_000),
    "NaN": rows(b"NaN"),
    "Infinity": rows(b"-Infinity"),
    "no UTF-8": rows(b'"\xff"'),
    "an encoded surrogate": rows(b'"\xed\xa0\x80"'),
    "a byte order mark": b"\xef\xbb\xbf" + rows(b"1"),
    "UTF-16": rows(b"1").decode().encode("utf-16"),
    "hexadecimal": rows(b"0x10"),
    "a leading zero": rows(b"01"),
    "no results": b'{"results":[]}',
    "null results": b'{"results":null}',
    "null data": b'{"results":[{"data":null}]}',
    "a number": b"1e999999999",
    "true": b"true",
}


@every
@pytest.mark.parametrize("name", NOT_JSON)
async def test_an_unreadable_success_is_a_decode_error(use, name):
    with Peer(answering(answer(200, NOT_JSON[name]))) as server:
        async with asyncio.timeout(20):
            (error,) = await use(f"http://{server.host}", 1)
    assert type(error) is DecodeError
    assert len(str(error)) < 1000


ODD_VALUES = {
    "a huge exponent": b"1e999999999",
    "a tiny exponent": b"1e-999999999",
    "an exponent beyond Decimal": b"1e99999999999999999999",
    "900,000 digits": b"9" * 900_000,
    "900,000 digits as a string": b'"' + b"9" * 900_000 + b'"',
    "900,000 decimals": b"0." + b"3" * 900_000,
    "a lone surrogate": b'"\\ud800"',
    "NUL": b'"\\u0000"',
    "a word": b'"NaN"',
    "an object": b'{"a":1}',
    "an object with a duplicate key": b'{"a":1,"a":2}',
}


@pytest.mark.parametrize("use", [load, load_sync], ids=lambda use: use.__name__)
@pytest.mark.parametrize("name", ODD_VALUES)
async def test_an_odd_value_costs_no_time_and_is_exact_or_an_error(use, name):
    with Peer(answering(answer(200, rows(ODD_VALUES[name])))) as server:
        started = time.process_time()
        async with asyncio.timeout(20):
            (result,) = await use(f"http://{server.host}", 1)
    if isinstance(result, DecodeError):
        assert len(str(result)) < 1000
    else:
        (row,) = result
        try:
            assert row[QUERY.measures[0]] is not None
        except DecodeError as error:
            problem = str(error)
        else:
            problem = ""
        assert len(problem) < 1000
    assert time.process_time() - started < 10


# --------------------------------------------------------------------------- half-open

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
STOPS = {
    "nothing": b"",
    "in the status line": b"HTTP/1.1 20",
    "in a header": HEAD + b"Content-Le",
    "before the body": HEAD + b"Content-Length: 100\r\n\r\n",
    "in the body": HEAD + b"Content-Length: 100\r\n\r\n" + b'{"results":',
    "in a chunk size": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5",
    "in a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n50\r\n{",
    "before the last chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    "after 100 Continue": b"HTTP/1.1 100 Continue\r\n\r\n",
    "in a body without a length": HEAD + b"\r\n" + b'{"results":',
}


@every
@pytest.mark.parametrize("name", STOPS)
async def test_a_server_that_stops_is_an_error_in_time(use, name):
    with Peer(answering(STOPS[name], then="silence")) as server:
        async with asyncio.timeout(20):
            (error,) = await use(f"http://{server.host}", 1, timeout=0.1)
    assert type(error) is TransportError
    assert server.host in str(error)
    assert "silent for 0.1 s" in str(error)


BROKEN = {
    name: part
    for name, part in STOPS.items()
    if name not in {"nothing", "in a body without a length"}
} | {
    "at once": b"",
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00" * 18,
    "a negative length": HEAD + b"Content-Length: -1\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    "a length of 5000 digits": HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "a bad chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "a status of 4 digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "a NUL in a header": HEAD + b"X: a\x00b\r\n\r\n",
    "a header of 10 MB": HEAD + b"X: " + b"a" * 10_000_000 + b"\r\n\r\n",
    "100,000 headers": HEAD + b"X: a\r\n" * 100_000 + b"\r\n",
}


@every
@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_response_is_an_error(use, name):
    with Peer(answering(BROKEN[name])) as server:
        async with asyncio.timeout(20):
            (error,) = await use(f"http://{server.host}", 1)
    assert type(error) is TransportError
    assert server.host in str(error)
    assert len(str(error)) < 1000


# ---------------------------------------------------------------------------- dripping


def dripping(start: bytes, drop: bytes) -> Talk:
    """Answer with a beginning, then with the same few bytes again and again."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(start)
        while True:
            writer.write(drop)
            await writer.drain()
            await asyncio.sleep(0.01)

    return talk


DRIPS = {
    "status": (b"HTTP/1.1 200 ", b"O"),
    "headers": (HEAD, b"X: a\r\n"),
    "header": (HEAD + b"X: ", b"a"),
    "100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": (HEAD + b"Content-Length: 100000\r\n\r\n", b" "),
    "body without a length": (HEAD + b"\r\n", b" "),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "chunk extension": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a"),
    "gzip header": (
        HEAD + b"Content-Encoding: gzip\r\n\r\n" + b"\x1f\x8b\x08\x08" + b"\0" * 6,
        b"n",
    ),
}


@every
@pytest.mark.parametrize("name", DRIPS)
async def test_a_response_that_drips_ends_at_the_deadline(use, name):
    with Peer(dripping(*DRIPS[name])) as server:
        started = time.monotonic()
        async with asyncio.timeout(20):
            (error,) = await use(f"http://{server.host}", 1, deadline=0.3)
        took = time.monotonic() - started
    assert type(error) is DeadlineExceeded
    assert took < 5  # on a busy machine


# ------------------------------------------------------------------------------- bombs


def packed(encoding: str, body: bytes) -> bytes:
    headers = (f"Content-Encoding: {encoding}", "Content-Type: application/json")
    return answer(200, body, *headers)


ZEROS = gzip.compress(b" " * 200_000_000, 6)
BOMBS = {
    "gzip": packed("gzip", ZEROS),
    "x-gzip": packed("x-gzip", ZEROS),
    "deflate": packed("deflate", zlib.compress(b" " * 200_000_000, 6)),
    "gzip, gzip": packed("gzip, gzip", gzip.compress(ZEROS)),
    "five times gzip": packed("gzip, gzip, gzip, gzip, gzip", ZEROS),
    "many members": packed("gzip", gzip.compress(b" " * 100_000) * 1000),
    "plain": answer(200, b" " * (MAX_SIZE + 1)),
    "no length": HEAD + b"\r\n" + b" " * (2 * MAX_SIZE),
}


@every
@pytest.mark.parametrize("name", BOMBS)
async def test_a_bomb_is_refused_and_takes_no_memory(use, name):
    with Peer(answering(BOMBS[name])) as server:
        tracemalloc.start()
        try:
            async with asyncio.timeout(20):
                (error,) = await use(f"http://{server.host}", 1)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert type(error) is DecodeError
    assert "max_size" in str(error) or "Content-Encoding" in str(error)
    # The server's own copy of the response is in it, too.
    assert peak < 4 * MAX_SIZE + 2 * len(BOMBS[name])


async def test_a_server_cannot_write_log_lines(caplog):
    message = "bad\nERROR root forged\x1b[2J"
    body = json.dumps({"error": message}).encode()
    retry = Retry(attempts=2, base=0.001)
    with Peer(answering(*[answer(503, body)] * 2)) as peer:
        [error] = await load(f"http://{peer.host}", 1, retry=retry)
    assert isinstance(error, ApiError)
    assert error.message == message
    assert " ERROR root forged" in caplog.text
    assert all(each.getMessage().isprintable() for each in caplog.records)
