"""The processes of the benchmark: servers, and the programs that are compared."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import IO

HERE = Path(__file__).parent
TIMEOUT = 180


class Failed(Exception):
    """A program ended with an error, or saw other rows than it should have."""


@dataclass
class Outcome:
    """What a program says after it has received all answers.

    Attributes:
        cpu: the CPU seconds of its process, from the first answer to the last.
        faults: its minor page faults in that time.
        seen: for each answer that reached the caller's code, its step and when.
        rows: how many rows the last answer had.
        sum: the sum of their amounts.
        bytes: the size of the last frame that was sent to it.
        latencies: the seconds between sending an answer and its arrival in the
            caller's code.
    """

    cpu: float
    faults: int
    seen: list[tuple[int, float]]
    rows: int
    sum: Decimal
    peak: int = 0
    first_peak: int = 0
    growth: int = 0
    missed: int = 0
    bytes: int = 0
    latencies: list[float] = field(default_factory=list)

    @property
    def content(self) -> tuple[int, Decimal]:
        """What all programs must have seen alike."""
        return self.rows, self.sum


@dataclass(frozen=True)
class Program:
    """A command that takes the port of a server and the number of answers."""

    command: tuple[str | Path, ...]
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, port: int, count: int, *arguments: str) -> Outcome:
        command = [*map(str, self.command), str(port), str(count), *arguments]
        name = f"{Path(command[1]).name} {command[2]}"
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env=os.environ | self.environment,
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"{name} did not end within {TIMEOUT} s") from None
        if done.returncode:
            raise Failed(f"{name}: {done.stderr.strip()[-2000:]}")
        said = json.loads(done.stdout)
        return Outcome(**said | {"sum": Decimal(said["sum"])})


def receiver(name: str) -> Program:
    """Return one of the programs of ``receivers.py``."""
    return Program((sys.executable, HERE / "receivers.py", name))


def loader(name: str, python: str | Path = sys.executable) -> Program:
    """Return one of the programs of ``loaders.py``."""
    return Program((python, HERE / "loaders.py", name))


@contextmanager
def call_server() -> Iterator[str]:
    """Run a server that responds to each call of the watch-bus; yield its URL."""
    with _server("call") as (port, _):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _server(*arguments: object) -> Iterator[tuple[int, IO[str]]]:
    command = [sys.executable, HERE / "server.py", *arguments]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield int(_line(process.stdout)), process.stdout
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def _line(output: IO[str]) -> str:
    """Return the next line of the server, which writes one at a time."""
    if not select.select([output], [], [], TIMEOUT)[0]:
        raise Failed(f"server.py wrote nothing within {TIMEOUT} s")
    line = output.readline()
    if not line.endswith("\n"):
        raise Failed("server.py ended before the program that is measured")
    return line


@dataclass
class PushServer:
    """A server that pushes ``count`` answers to each program."""

    port: int
    count: int
    output: IO[str]

    @classmethod
    @contextmanager
    def start(
        cls, rows: int, case: str, count: int, pace: float, *options: str
    ) -> Iterator[PushServer]:
        with _server("push", rows, case, count, pace, *options) as (port, output):
            yield cls(port, count, output)

    def run(
        self, program: Program, *arguments: str, count: int | None = None
    ) -> Outcome:
        """Let a program receive everything; pass it ``count`` as its second argument.

        Raises:
            Failed: the program or the server failed; this server cannot be used again.
        """
        outcome = program.run(self.port, count or self.count, *arguments)
        # Of a program that never connected, the server writes nothing.
        said = json.loads(_line(self.output))
        outcome.bytes = said["bytes"]
        sent = said["sent"]
        outcome.latencies = [when - sent[step] for step, when in outcome.seen]
        return outcome


@dataclass
class LoadServer:
    """A server that responds to each request for a result."""

    port: int
    count: int

    @classmethod
    @contextmanager
    def start(cls, rows: int, count: int) -> Iterator[LoadServer]:
        with _server("load", rows) as (port, _):
            yield cls(port, count)

    def run(self, program: Program) -> Outcome:
        """Let a program load the result ``count`` times."""
        return program.run(self.port, self.count)
