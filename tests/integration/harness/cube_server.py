"""A Cube server of the tests' own: one Node process that can be killed and restarted."""

from __future__ import annotations

import http.client
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from harness.generations import PROJECT
from harness.machine import LOOPBACK, free_port, tail
from harness.node_modules import find_node, node_modules
from harness.postgres import USER
from harness.tokens import jwt
from harness.waiting import wait_until

if TYPE_CHECKING:
    from harness.generations import Generation
    from harness.postgres import Database

# Cube's own default is 5 s; the tests would be nothing but waiting.
TICK_SECONDS = 0.25
START_SECONDS = 60.0
TOKEN_SECONDS = 3600.0
SECRET = "an integration test's secret, known to everybody"


class CubeServer:
    """A Cube server on loopback, in front of a database of PostgreSQL.

    It keeps its port over `kill` and `start`, as a real server keeps its address.

    Args:
        generation: which version of Cube to start.
        database: the database with the tables.
        websockets: whether it offers WebSockets.
        tick: seconds between two runs of its subscriptions.
        refresh: seconds after which it reads a table again.

    Attributes:
        generation: which version of Cube this is.
        host: where it listens, without a path: ``"http://127.0.0.1:…"``.
        url: the base of its REST API, as the clients of this library take it.
    """

    def __init__(
        self,
        generation: Generation,
        database: Database,
        *,
        websockets: bool = True,
        tick: float = TICK_SECONDS,
        refresh: int = 1,
    ) -> None:
        self.generation = generation
        self._node = find_node()
        self._modules = node_modules(generation.folder, f"cube-{generation.version}")
        self._port = free_port()
        self._log = Path(tempfile.mkdtemp(prefix="ow-cube-")) / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "TZ": "UTC",
            # Outside of production Cube takes any token, also none.
            "NODE_ENV": "production",
            "NODE_PATH": str(self._modules),
            "PORT": str(self._port),
            "CUBEJS_API_SECRET": SECRET,
            "CUBEJS_CACHE_AND_QUEUE_DRIVER": "memory",
            "CUBEJS_SCHEMA_PATH": "schema",
            # The add-on that these need is not there; see cube/native-shim.js.
            "CUBEJS_TESSERACT_SQL_PLANNER": "false",
            "CUBEJS_PG_SQL_PORT": "false",
            "CUBEJS_EXTERNAL_DEFAULT": "false",
            "CUBEJS_SCHEDULED_REFRESH_DEFAULT": "false",
            "CUBEJS_SCHEDULED_REFRESH_TIMER": "false",
            "CUBEJS_TELEMETRY": "false",
            "CUBEJS_WEB_SOCKETS": "true" if websockets else "false",
            "CUBEJS_DB_TYPE": "postgres",
            "CUBEJS_DB_HOST": LOOPBACK,
            "CUBEJS_DB_PORT": str(database.port),
            "CUBEJS_DB_NAME": database.name,
            "CUBEJS_DB_USER": USER,
            "CUBEJS_DB_PASS": "",
            "TEST_TICK_MILLISECONDS": str(int(tick * 1000)),
            "TEST_REFRESH_SECONDS": str(refresh),
        }
        self.host = f"http://{LOOPBACK}:{self._port}"
        self.url = f"{self.host}/cubejs-api/v1"

    def token(self, *, exp: float | None = None, **claims: object) -> str:
        """Return a token that this server takes.

        Args:
            exp: when it expires, in unix seconds; in an hour without.
            **claims: more claims, such as a user's id.
        """
        expires = time.time() + TOKEN_SECONDS if exp is None else exp
        return jwt(SECRET, exp=int(expires), **claims)

    def start(self) -> None:
        """Start the process and return once it answers that it is ready.

        Raises:
            RuntimeError: it does not start; the text shows its log.
        """
        if self._process is not None:
            raise RuntimeError("this server runs already")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._node, "index.js"],
                cwd=PROJECT,
                env=self._environment,
                stdin=subprocess.PIPE,  # its end is the end of the server
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(self._ready, seconds=START_SECONDS, what="Cube is ready")
        except (TimeoutError, ChildProcessError) as error:
            self.kill()
            raise RuntimeError(
                f"Cube does not start: {error}\n{tail(self._log)}"
            ) from error

    def kill(self) -> None:
        """Kill exactly this server's process (SIGKILL); a second call does nothing."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def alive(self) -> bool:
        """Tell whether the process runs; a server may also die of what it is sent."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """Return everything that the server has printed so far."""
        return self._log.read_text(errors="replace")

    def close(self) -> None:
        """Kill the process and remove its log; a second call does nothing."""
        self.kill()
        self._log.unlink(missing_ok=True)
        if self._log.parent.exists():
            self._log.parent.rmdir()

    def _ready(self) -> bool:
        if not self.alive():
            code = None if self._process is None else self._process.returncode
            raise ChildProcessError(f"it ended with {code}")
        # Asked many times while Cube starts, so without a client that costs CPU.
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=10)
        try:
            # Cube looks into its database for this answer.
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()
