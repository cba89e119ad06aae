"""FakeCube starts and stops cleanly, and tests can wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import socket
import threading
import warnings

import httpx
import pytest
from websockets.asyncio.client import connect

from ortege_watch import InvalidArgument
from ortege_watch.testing import FakeCube, ManualClock, Table


def threads():
    return {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("generation", ["strict", "classic", "tutorial"])
def test_stopping_ends_the_thread_the_sockets_and_the_loop(generation):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = threads()
        with FakeCube(generation) as cube:
            raw = socket.create_connection(("127.0.0.1", cube.port))
            half = socket.create_connection(("127.0.0.1", cube.port))
            half.sendall(b"GET / HT")
            keep = httpx.Client()
            keep.get(f"http://127.0.0.1:{cube.port}/readyz")
            assert threads() - before == {"fake-server"}
        assert threads() == before
        assert (raw.recv(10), half.recv(10)) == (b"", b"")
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", cube.port))
        for one in (raw, half, keep):
            one.close()
        gc.collect()
    assert [str(w.message) for w in caught] == []
    assert "not running" in repr(cube)


async def test_stopping_ends_open_websockets():
    async with FakeCube() as cube:
        open_ones = [await connect(cube.ws_url) for _ in range(3)]
        await cube.wait_until_async(lambda: cube.connections == 3)
    for one in open_ones:
        await one.wait_closed()
        assert one.close_code == 1006


def test_two_servers_are_independent():
    with FakeCube() as one, FakeCube("classic") as other:
        assert one.port != other.port
        one.drop()
        assert (
            httpx.get(f"http://127.0.0.1:{other.port}/livez", verify=False).status_code
            == 200
        )


def test_a_fixed_port():
    with FakeCube() as cube:
        port = cube.port
        assert cube.url == f"http://127.0.0.1:{port}/cubejs-api/v1"
        assert cube.ws_url == f"ws://127.0.0.1:{port}/cubejs-api/v1/load/"
        with pytest.raises(OSError), FakeCube(port=port):
            pass
    with FakeCube(port=port) as again:
        assert again.port == port


def test_a_server_can_be_started_again():
    cube = FakeCube()
    cube.tables["prices"].insert({"symbol": "STX"})
    for _ in range(2):
        cube.start()
        assert (
            httpx.get(f"http://127.0.0.1:{cube.port}/livez", verify=False).status_code
            == 200
        )
        cube.stop()
        cube.stop()


def test_stopping_right_after_a_change():
    for _ in range(50):
        with FakeCube(tick=0.001) as cube:
            cube.refresh()


def test_commands_need_a_running_server():
    cube = FakeCube()
    with pytest.raises(RuntimeError, match="use it in a with block"):
        cube.drop()


def test_an_unknown_generation_is_refused():
    with pytest.raises(
        InvalidArgument, match="must be one of 'classic', 'strict', 'tutorial', got"
    ):
        FakeCube("modern")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"push": "ticks"}, "push must be one of 'change', 'tick', got 'ticks'"),
        ({"numbers": "float"}, "numbers must be one of 'string', 'json', got 'float'"),
        (
            {"on_unknown_frame": "drop"},
            "on_unknown_frame must be one of 'error', 'silence', got 'drop'",
        ),
        ({"tick": 0}, "tick must be greater than 0 and"),
        ({"port": -1}, "port must be between 0 and 65535, got -1"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(arguments, message):
    with pytest.raises(InvalidArgument, match=re.escape(message)):
        FakeCube(**arguments)


@pytest.mark.parametrize(
    ("misbehave", "message"),
    [
        (lambda f: f.refuse(99), "status must be between 200 and 599, got 99"),
        (lambda f: f.refuse("503"), "status must be between 200 and 599, got '503'"),
        (
            lambda f: f.refuse(503, times="2"),
            "times must be an int of 0 or more, got '2'",
        ),
        (lambda f: f.error("503"), "status must be between 200 and 599, got '503'"),
        (lambda f: f.error(100), "status must be between 200 and 599, got 100"),
        (lambda f: f.error(503, times=-1), "times must be an int of 0 or more, got -1"),
        (lambda f: f.cut(-1), "times must be an int of 0 or more, got -1"),
        (
            lambda f: f.continue_wait(True),
            "times must be an int of 0 or more, got True",
        ),
        (lambda f: f.fail_query(status="x"), "status must be between 200 and 599"),
        (lambda f: f.refuse_handshake(status=0), "status must be between 200 and 599"),
        (lambda f: f.slow(-1), "seconds must be 0 or more and"),
        (lambda f: f.silence(-1), "seconds must be 0 or more and"),
        (lambda f: f.serve_old("60"), "seconds must be 0 or more and"),
        (lambda f: f.fragment(0), "count must be a positive int, got 0"),
        (lambda f: f.accept_and_drop(after="accept"), "after must be one of 'upgrade'"),
    ],
)
def test_misbehaviour_that_cannot_be_meant_is_refused(misbehave, message):
    with FakeCube() as cube:
        with pytest.raises(InvalidArgument, match=re.escape(message)):
            misbehave(cube)
        assert httpx.get(f"{cube.url}/meta", verify=False).status_code == 403


def test_a_server_is_started_once(capfd):
    with FakeCube() as cube:
        with pytest.raises(RuntimeError, match="the fake server is already running"):
            cube.start()
        assert httpx.get(f"{cube.url}/meta", verify=False).status_code == 403
    gc.collect()
    assert capfd.readouterr().err == ""


def test_the_tables_of_ortege_are_known():
    cube = FakeCube(tables=[Table("prices", dimensions={"mine": "string"})])
    assert set(cube.tables) >= {
        "stacks_contract_events",
        "stacks_contract_calls",
        "stacks_dapp_zest_positions",
        "stacks_dapp_zest_positions_net",
        "stacks_oracle_prices",
        "stacks_tokens",
    }
    assert cube.tables["prices"].dimensions == {"mine": "string"}
    events = cube.tables["stacks_contract_events"]
    assert events.dimensions["tx_date"] == "time"
    assert events.measures.keys() == {"asset_amount"}


def test_tables_can_be_added_replaced_and_removed():
    with FakeCube() as cube:
        with pytest.raises(
            ValueError, match="name must be the table's name 'b', got 'a'"
        ):
            cube.tables["a"] = Table("b")
        old, new = Table("a"), Table("a")
        cube.tables["a"] = old
        cube.tables["a"] = new
        assert cube.tables["a"] is new
        count = len(cube.tables)
        del cube.tables["a"]
        assert len(cube.tables) == count - 1
        with pytest.raises(KeyError):
            cube.tables["a"]


def test_an_exception_while_answering_is_raised_at_the_end():
    def broken(row):
        raise ZeroDivisionError

    wrong = Table("t", measures={"n": "count"}, segments={"s": broken}, rows=[{}])
    query = '{"measures":["t.n"],"segments":["t.s"]}'

    def ask(cube):
        with contextlib.suppress(httpx.RemoteProtocolError):
            headers = {"authorization": cube.token()}
            httpx.get(
                f"{cube.url}/load",
                params={"query": query},
                headers=headers,
                verify=False,
            )

    with (
        pytest.raises(RuntimeError, match="the fake server failed") as caught,
        FakeCube(tables=[wrong]) as cube,
    ):
        ask(cube)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)

    def fail():
        with FakeCube(tables=[wrong]) as cube:
            ask(cube)
            raise KeyError

    with pytest.raises(KeyError):  # the test's own error comes first
        fail()


async def test_an_exception_in_a_tick_is_raised_at_the_end():
    now = [1_000_000.0]

    failed = []

    def broken(row):
        if now[0] > 1_000_000.0:
            failed.append(row)
            raise ZeroDivisionError
        return True

    wrong = Table("t", measures={"n": "count"}, segments={"s": broken}, rows=[{}])
    frame = '{"queryType":"subscribe","query":{"measures":["t.n"],"segments":["t.s"]}}'
    cube = FakeCube("tutorial", tables=[wrong], now=lambda: now[0])
    cube.start()
    header = {"Authorization": cube.token()}
    async with connect(cube.ws_url, additional_headers=header) as one:
        await one.send(frame)
        await one.recv()
        now[0] += 1
        cube.refresh()
        await cube.wait_until_async(lambda: failed)
    with pytest.raises(RuntimeError, match="the fake server failed"):
        cube.stop()


# Waiting


def test_wait_until_returns_after_an_event():
    with FakeCube() as cube:
        thread = threading.Thread(
            target=lambda: httpx.get(
                f"http://127.0.0.1:{cube.port}/livez", verify=False
            )
        )
        thread.start()
        cube.wait_until(lambda: cube.requests)
        thread.join()
        cube.wait_until(lambda: True, timeout=0)


def test_wait_until_times_out():
    with (
        FakeCube() as cube,
        pytest.raises(TimeoutError, match=r"not within 0.01 s: <FakeCube strict"),
    ):
        cube.wait_until(lambda: cube.connections, timeout=0.01)


def test_wait_until_async_times_out_and_removes_its_callback():
    with FakeCube() as cube:
        with pytest.raises(TimeoutError, match="0 connections, 0 subscriptions"):
            asyncio.run(cube.wait_until_async(lambda: cube.connections, timeout=0.01))
        # A callback to the closed event loop would break the next request.
        url = f"http://127.0.0.1:{cube.port}/livez"
        assert httpx.get(url, verify=False).status_code == 200


async def test_wait_until_async_does_not_block_the_loop():
    async with FakeCube() as cube:
        waiting = asyncio.create_task(cube.wait_until_async(lambda: cube.connections))
        async with connect(cube.ws_url):
            await waiting


async def test_attempts_are_timed_with_the_clock_of_the_test():
    clock = ManualClock()
    async with FakeCube(clock=clock) as cube:
        for _ in range(3):
            await (await connect(cube.ws_url)).close()
            await clock.advance(10)
        assert cube.attempts == [0, 10, 20]
        assert [request.upgrade for request in cube.requests] == [True] * 3


def test_changes_from_many_threads():
    with FakeCube() as cube:
        table = cube.tables["prices"]

        def insert():
            for _ in range(100):
                table.insert({"symbol": "x"})

        several = [threading.Thread(target=insert) for _ in range(4)]
        for thread in several:
            thread.start()
        for thread in several:
            thread.join()
        assert len(table.rows) == 400
