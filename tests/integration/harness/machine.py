"""What the machine has to offer: free ports, and words for what it lacks."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

LOOPBACK = "127.0.0.1"

missing = pytest.StashKey[str]()


class Unavailable(Exception):
    """Say in one sentence what is missing for a real server, and how to get it."""


def free_port() -> int:
    """Return a loopback TCP port that nobody listens on."""
    with socket.create_server((LOOPBACK, 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def tail(path: Path, lines: int = 25) -> str:
    """Return the last lines of a log, to be shown where a server did not start."""
    text = path.read_text(errors="replace") if path.exists() else ""
    return "\n".join(text.splitlines()[-lines:])


@contextmanager
def available(config: pytest.Config) -> Iterator[None]:
    """Skip the test where something is missing; fail it where it must not be."""
    try:
        yield
    except Unavailable as error:
        sentence = config.stash[missing] = str(error)
        if os.environ.get("ORTEGE_WATCH_REQUIRE_INTEGRATION") == "1":
            raise pytest.fail.Exception(sentence, pytrace=False) from None
        raise pytest.skip.Exception(sentence) from None
