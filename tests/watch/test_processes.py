"""The end of the interpreter, and forks, while a subscription is open."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from textwrap import dedent, indent
from typing import Self

import pytest
from watching import EVENTS

from ortege_watch.testing import FakeCube

BEGIN = """
import asyncio, gc, multiprocessing, os, signal, sys, threading
from ortege_watch import AsyncCubeClient, CubeClient, Measure, OrtegeWatchError, Query

signal.signal(signal.SIGINT, signal.default_int_handler)
amount = Measure("stacks_contract_events.asset_amount", int)
query = Query(measures=[amount])
options = {"transport": os.environ["TRANSPORT"], "poll_every": 0.05}
client = CubeClient()
"""
ENTER = """
updates = client.watch(query, **options).__enter__()
assert next(updates).first
"""
PARENT = """
_, status = os.waitpid(child, 0)
assert status == 0, status
print("parent: waiting", flush=True)
assert len(next(updates).result) == 1
updates.close()
client.close()
print("parent: closed")
"""


def fork(in_child: str) -> str:
    """Return a script that forks; the child goes on to the end of the script."""
    return "\n".join(
        [
            "client.load(query)",
            ENTER,
            "child = os.fork()",
            "if child == 0:",
            "    signal.alarm(20)  # ends the child if it hangs",
            indent(dedent(in_child), "    "),
            "else:",
            indent(PARENT, "    "),
        ]
    )


@pytest.fixture
def cube() -> Iterator[FakeCube]:
    with FakeCube() as fake:
        yield fake


@pytest.fixture(params=["websocket", "rest"])
def program(cube, request) -> Iterator[Program]:
    with Program(cube, request.param) as program:
        yield program


class Program:
    """A program in a process of its own."""

    def __init__(self, cube: FakeCube, transport: str):
        self.cube = cube
        self.process: subprocess.Popen | None = None
        # Ends every wait for a process that hangs; only to start one takes 20 s on a
        # busy machine.
        self.limit = threading.Timer(120, self.kill)
        self.environment = {
            **os.environ,
            "ORTEGE_URL": cube.url,
            "ORTEGE_TOKEN": cube.token(),
            "TRANSPORT": transport,
        }

    def __enter__(self) -> Self:
        self.limit.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.limit.cancel()
        self.kill()
        if self.process is not None:
            self.process.communicate()

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()

    def start(self, *parts: str) -> None:
        script = "".join(dedent(part) for part in (BEGIN, *parts))
        self.process = subprocess.Popen(
            [sys.executable, "-c", script],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, line: str) -> list[str]:
        """Return the lines before this one."""
        lines = []
        for found in self.process.stdout:
            if found == line + "\n":
                return lines
            lines.append(found.rstrip())
        raise AssertionError(self.process.communicate()[1])

    def end(self, code: int = 0) -> tuple[str, str]:
        """Return what it wrote; fail where it does not end."""
        output, errors = self.process.communicate()
        assert self.process.returncode == code, errors
        self.cube.wait_until(lambda: self.cube.connections == 0, timeout=30)
        return output, errors

    def run(self, *parts: str) -> tuple[str, str]:
        self.start(*parts)
        return self.end()

    def insert(self) -> None:
        self.cube.tables[EVENTS].insert({"asset_amount": 1})


def test_a_subscription_that_is_never_closed_does_not_delay_the_exit(program):
    assert program.run(ENTER) == ("", "")


def test_nor_where_a_daemon_thread_iterates(program):
    iterate = """
    threading.Thread(target=list, args=(updates,), daemon=True).start()
    """
    assert program.run(ENTER, iterate) == ("", "")


def test_nor_after_ctrl_c(program):
    wait = """
    print("waiting", flush=True)
    next(updates)
    """
    program.start(ENTER, wait)
    program.wait_for("waiting")
    program.process.send_signal(signal.SIGINT)
    _, errors = program.end(-signal.SIGINT)
    assert errors.splitlines()[-1] == "KeyboardInterrupt"


def test_nor_in_asyncio(program):
    tasks = """
    async def main():
        global updates
        updates = await AsyncCubeClient().watch(query, **options).__aenter__()
        assert (await anext(updates)).first

    asyncio.run(main())
    """
    assert program.run(tasks) == ("", "")


def test_an_exit_warns_about_it_where_warnings_are_shown(program):
    program.environment["PYTHONWARNINGS"] = "always::ResourceWarning"
    _, errors = program.run(ENTER)
    assert "ResourceWarning: unclosed <Updates of 127.0.0.1:" in errors


@pytest.mark.parametrize("milliseconds", range(4, 24, 2))
def test_such_a_warning_does_not_hang(milliseconds):
    """A thread that is stopped while it imports a module keeps the import lock."""
    script = f"""
    import time
    from ortege_watch import CubeClient, Measure, Query
    client = CubeClient("http://127.0.0.1:9", "a.token")
    updates = client.watch(Query(measures=[Measure("a.b")])).__enter__()
    time.sleep({milliseconds / 1000})
    """
    command = [sys.executable, "-W", "default", "-c", dedent(script)]
    done = subprocess.run(command, check=True, capture_output=True, timeout=30)
    assert b"ResourceWarning: unclosed <Updates of 127.0.0.1:" in done.stderr


def test_another_thread_goes_on_after_the_main_thread(program):
    """Python waits for a thread that is no daemon, so its subscription goes on."""
    iterate = """
    def iterate():
        assert updates.next(timeout=20)
        print("went on")
        updates.close()

    threading.Thread(target=iterate).start()
    print("ending", flush=True)
    """
    program.start(ENTER, iterate)
    program.wait_for("ending")
    program.insert()
    assert program.end()[0] == "went on\n"


def test_it_reconnects_by_name_after_the_main_thread(cube):
    iterate = """
    with_name = os.environ["ORTEGE_URL"].replace("127.0.0.1", "localhost")
    updates = CubeClient(with_name).watch(query).__enter__()
    assert next(updates).first

    def iterate():
        assert len(updates.next(timeout=20).result) == 1
        print("went on")
        updates.close()

    threading.Thread(target=iterate).start()
    print("ending", flush=True)
    """
    with Program(cube, "websocket") as program:
        program.start(iterate)
        program.wait_for("ending")
        cube.drop()
        cube.wait_until(lambda: cube.connections == 0)
        program.insert()
        assert program.end()[0] == "went on\n"


# -------------------------------------------------------------------------- fork

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


@forks
@pytest.mark.parametrize(
    "in_child",
    [
        "pass",
        "sys.exit()",
        "del updates; gc.collect()",
        "updates.close(); client.close()",
        """
        with CubeClient() as own, own.watch(query, **options) as watch:
            assert next(watch).first
            assert own.load(query)
        """,
    ],
    ids=["nothing", "exit", "drop", "close", "create a client"],
)
def test_the_child_of_a_fork_can_exit_and_the_parent_goes_on(program, in_child):
    program.start(fork(in_child))
    assert program.wait_for("parent: waiting") == []
    program.insert()
    assert program.end() == ("parent: closed\n", "")


@forks
def test_the_child_of_a_fork_gets_a_clear_error(program):
    in_child = """
    for use in (
        lambda: next(updates),
        lambda: updates.next(1),
        lambda: client.load(query),
        lambda: client.watch(query),
    ):
        try:
            use()
        except OrtegeWatchError as error:
            print(error)
    """
    program.start(fork(in_child))
    watch = (
        "the subscription was entered before this process was forked; create a client"
        " here and call watch() again"
    )
    client = "the client was used before this process was forked; create a new one"
    assert program.wait_for("parent: waiting") == [watch, watch, client, client]
    program.insert()
    assert program.end() == ("parent: closed\n", "")


@forks
def test_multiprocessing_may_fork(program):
    body = """
    def work():
        try:
            next(updates)
        except OrtegeWatchError:
            sys.exit(7)

    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start()
    worker.join(20)
    assert worker.exitcode == 7, worker
    updates.close()
    """
    assert program.run(ENTER, body) == ("", "")


@forks
def test_a_client_that_was_not_used_before_a_fork_can_be_used_after_it(program):
    body = """
    child = os.fork()
    assert len(client.load(query)) == 1
    with client.watch(query, **options) as updates:
        assert next(updates).first
    if child:
        assert os.waitpid(child, 0)[1] == 0
    """
    assert program.run(body) == ("", "")


@forks
def test_tasks_are_not_for_the_child_of_a_fork(program):
    body = """
    def in_child(updates):
        async def use():
            try:
                await anext(updates)
            except OrtegeWatchError as error:
                assert "forked" in str(error)
            else:
                sys.exit("it worked")
            await updates.aclose()

        asyncio.run(use())

    async def main():
        async with AsyncCubeClient() as cube, cube.watch(query, **options) as updates:
            assert (await anext(updates)).first
            worker = multiprocessing.get_context("fork").Process(
                target=in_child, args=(updates,)
            )
            worker.start()
            await asyncio.to_thread(worker.join, 20)
            assert worker.exitcode == 0, worker

    asyncio.run(main())
    """
    assert program.run(body) == ("", "")
