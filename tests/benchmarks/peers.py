"""Other people's clients: installed by name and version into a temporary directory.

They are skipped, with the reason, where they cannot be installed: without node and npm,
or without a package registry in reach.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from frames import AMOUNT, DIMENSIONS
from processes import HERE, Program, loader

JAVASCRIPT = ("@cubejs-client/core@1.7.43", "@cubejs-client/ws-transport@1.7.34")
PYPI = {
    "cubejs_client": "cubejs-client-python==1.0.1",
    "cube_http": "cube-http-client==0.6.1",
}
TIMEOUT = 300


class Missing(Exception):
    """A client cannot be installed here; the message says why."""


def _install(command: Sequence[str | Path], folder: Path) -> None:
    try:
        done = subprocess.run(
            list(map(str, command)),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Missing(f"{command[0]} did not end within {TIMEOUT} s") from error
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise Missing(f"{Path(command[0]).name} failed: {last[0]}")


def javascript(folder: Path) -> Program:
    """Install Cube's JavaScript client, and return the program that receives with it.

    Raises:
        Missing: it cannot be installed.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise Missing("node and npm are not on the PATH")
    flags = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier")
    (folder / "package.json").write_text('{"private": true}', "ascii")
    _install([npm, "install", *flags, *JAVASCRIPT], folder)
    members = json.dumps({"AMOUNT": AMOUNT, "DIMENSIONS": DIMENSIONS})
    return Program(
        (node, HERE / "receiver.cjs"),
        {"NODE_PATH": str(folder / "node_modules"), "MEMBERS": members},
    )


def from_pypi(name: str, folder: Path) -> Program:
    """Install a client of :data:`PYPI`, and return the program that loads with it.

    Raises:
        Missing: it cannot be installed.
    """
    _install([sys.executable, "-m", "venv", folder / name], folder)
    python = folder / name / "bin" / "python"
    _install([python, "-m", "pip", "install", "--quiet", PYPI[name]], folder)
    return loader(name, python)
