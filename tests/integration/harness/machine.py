"""What the machine has to offer: free ports, and words for what it lacks."""

from __future__ import annotations

import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"


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
