"""Processes that start at once and can be killed: forks of one that has imported all.

As a program, this file reads a command in each line, and answers it with a line:
``start NAME ARGUMENT...`` calls a function of this file in a new process and answers with
its id, ``kill ID`` and ``wait ID`` answer with how it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Self

import channels
from driving import alert
from signed import APP_ID, PATH, SECRET, alert_body

from ortege_watch import OrtegeWatchError, Reconnect, Retry
from ortege_watch.watchbus import (
    AlertChannel,
    AlertInbox,
    AlertInfo,
    AlertPublisher,
    Credentials,
    RejectAlert,
    RequestVerifier,
    SignatureError,
    SQLiteHandled,
    SQLiteNonces,
    serve_alert_channel,
)

BUS = Credentials("fake-app", "fake-watch-bus-secret")


class Forks:
    """The processes of tests; each test ends its own."""

    def __init__(self) -> None:
        self._running = set[int]()
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _ask(self, *words: object) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(list(map(str, words))), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def start(self, function: Callable[..., object], *arguments: object) -> int:
        """Call a function of this file in a new process; return its id."""
        pid = self._ask("start", function.__name__, *arguments)
        self._running.add(pid)
        return pid

    def kill(self, pid: int) -> None:
        """Kill a process that runs, so that it can do nothing about it."""
        self._running.remove(pid)
        assert self._ask("kill", pid) == -signal.SIGKILL, "it had ended before"

    def wait(self, pid: int) -> None:
        """Wait until a process has ended by itself, without an error."""
        self._running.remove(pid)
        assert self._ask("wait", pid) == 0

    def end(self) -> None:
        """Kill those that still run."""
        while self._running:
            self._ask("kill", self._running.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()
        self._process.communicate()


class Log:
    """A file of numbers; what was added is kept when the process is killed."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def add(self, word: str, *numbers: int) -> None:
        with self.path.open("a") as file:  # one write
            file.write(" ".join(map(str, (word, *numbers))) + "\n")

    def lines(self) -> list[list[str]]:
        text = self.path.read_text() if self.path.exists() else ""
        return [line.split() for line in text.splitlines()]

    def reach(self, count: int) -> None:
        """Wait for so many lines."""
        until = time.monotonic() + 60
        while len(self.lines()) < count:
            assert time.monotonic() < until, self.lines()[-5:]
            time.sleep(0.001)

    def numbers(self, word: str) -> list[int]:
        """Return the numbers that were added with a word."""
        lines = self.lines()
        return [int(each) for first, *rest in lines if first == word for each in rest]


def offer(accept: Callable[..., object], log: str, start: str) -> None:
    """Accept three alerts at a time, without end; log them before and after."""
    for number in count(int(start), 3):
        numbers = range(number, number + 3)
        Log(log).add("offered", *numbers)
        accept(map(alert, numbers))
        Log(log).add("accepted", *numbers)


def publish(url: str, outbox: str, log: str, start: str) -> None:
    """Publish alerts without end."""
    with AlertPublisher(url, BUS, outbox=outbox, retry=Retry(attempts=1)) as publisher:
        offer(publisher.publish, log, start)


def enqueue(url: str, outbox: str, log: str, start: str) -> None:
    """Enqueue alerts without end while ``run()`` sends them."""
    retry = Retry(attempts=1, base=0.01, cap=0.05)
    with AlertPublisher(url, BUS, outbox=outbox, retry=retry) as publisher:
        threading.Thread(target=publisher.run, daemon=True).start()
        offer(publisher.enqueue, log, start)


def send(url: str, outbox: str, log: str, start: str) -> None:
    """Enqueue alerts without end while an alert channel sends them."""

    async def main() -> None:
        retry = Reconnect(base=0.01, cap=0.05)
        async with AlertChannel(
            url, channels.CREDENTIALS, outbox=outbox, reconnect=retry
        ) as channel:
            for number in count(int(start)):
                Log(log).add("offered", number)
                await channel.enqueue([channels.alert(number)])
                Log(log).add("accepted", number)
                while len(channel.outbox) > 30:
                    await asyncio.sleep(0.001)

    asyncio.run(main())


def receive(port: str, path: str, log: str) -> None:
    """Receive alerts over channels without end, and reject some."""

    async def handler(alert: AlertInfo) -> None:
        number = channels.number_of(alert)
        if is_poison(alert):
            raise RejectAlert("illegal alert")
        Log(log).add("handled", number)

    async def main() -> None:
        with (
            SQLiteHandled(f"{path}-handled", claim_for=0.05) as handled,
            SQLiteNonces(f"{path}-nonces") as nonces,
        ):
            async with serve_alert_channel(
                channels.verifier(nonces=nonces),
                handler,
                port=int(port),
                inbox=AlertInbox(handled, handle_within=0.04),
            ):
                await asyncio.Event().wait()

    asyncio.run(main())


def is_poison(alert: AlertInfo) -> bool:
    """Return whether receivers reject an alert."""
    return channels.number_of(alert) % 50 == 7


def verify(path: str, log: str, requests: str) -> None:
    """Verify the same requests as other processes do, and log the accepted ones."""
    with SQLiteNonces(path) as nonces:
        verifier = RequestVerifier({APP_ID: [SECRET]}, path=PATH, nonces=nonces)
        for number, headers in enumerate(json.loads(requests)):
            with contextlib.suppress(SignatureError):
                verifier.verify(headers, alert_body())
                Log(log).add("accepted", number)


def handle(path: str, log: str, size: str, *hang: str) -> None:
    """Handle the same alerts as other processes do; with ``hang``, never return."""

    async def main() -> None:
        with SQLiteHandled(path) as handled:
            inbox = AlertInbox(handled)
            for number in range(int(size)):
                outcome = await inbox.handle(channels.alert(number), APP_ID, handler)
                assert outcome.action == "acknowledge", outcome

    async def handler(each) -> None:
        Log(log).add("handled", channels.number_of(each))
        await asyncio.sleep(3600 if hang else 0)

    asyncio.run(main())


def _start(name: str, *arguments: str) -> int:
    if pid := os.fork():
        return pid
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)  # the commands are for the parent
    os.dup2(nowhere, 1)
    code = 1
    try:
        globals()[name](*arguments)
        code = 0
    except BaseException:  # noqa: BLE001 - it is shown
        traceback.print_exc()
    finally:
        os._exit(code)


def _main() -> None:
    # What is imported at the first use is then there in all of them.
    for name in ("anyio._backends._asyncio", "websockets.asyncio.client"):
        import_module(name)
    with (
        AlertPublisher("http://127.0.0.1:1", BUS, retry=Retry(attempts=1)) as publisher,
        contextlib.suppress(OrtegeWatchError),
    ):
        publisher.publish([alert(0)])
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        if command == "start":
            answer = _start(*arguments)
        else:
            pid = int(arguments[0])
            if command == "kill":
                os.kill(pid, signal.SIGKILL)
            answer = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(answer, flush=True)


if __name__ == "__main__":
    _main()
