"""A PostgreSQL server of the tests' own: one process, one temporary directory."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.machine import LOOPBACK, Unavailable, free_port, tail
from harness.waiting import wait_until

USER = "cube"
MAINTENANCE_DATABASE = "postgres"
USUAL_PLACES = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql*/bin",
    "usr/local/opt/postgresql*/bin",
)
START_SECONDS = 60.0
STOP_SECONDS = 20.0

# PostgreSQL in the shell's own place, and beside it a watcher that nobody waits for:
# when standard input ends, because the tests say so or because they died, PostgreSQL
# is told to quit at once. There is nothing to save.
UNTIL_STDIN_ENDS = """
exec 3<&0
( (cat <&3 >/dev/null; kill -QUIT $$) & )
exec "$@" 3<&- </dev/null
"""


def find_programs() -> Path:
    """Return the directory that holds initdb, postgres and psql.

    Debian keeps them off the PATH, others do not.

    Raises:
        Unavailable: PostgreSQL's server is not installed.
    """
    candidates: list[Path] = []
    if pg_config := shutil.which("pg_config"):
        shown = subprocess.run(
            [pg_config, "--bindir"], capture_output=True, text=True, check=False
        )
        candidates.append(Path(shown.stdout.strip()))
    if initdb := shutil.which("initdb"):
        candidates.append(Path(initdb).resolve().parent)
    for pattern in USUAL_PLACES:
        candidates.extend(sorted(Path("/").glob(pattern), reverse=True))
    for programs in candidates:
        if all((programs / name).exists() for name in ("initdb", "postgres", "psql")):
            return programs
    raise Unavailable(
        "PostgreSQL's server is not installed (initdb, postgres and psql were looked "
        "for through pg_config, on the PATH and in the usual places): install it, on "
        "Debian with `apt-get install postgresql`"
    )


def unprivileged() -> dict[str, Any]:
    """Return as whom to run PostgreSQL, as arguments of `subprocess.Popen`.

    PostgreSQL refuses to be run by root; everybody else runs it as themselves.

    Raises:
        Unavailable: this is root, and there is nobody else to be; or no POSIX system.
    """
    if os.name != "posix":
        raise Unavailable("the real servers are started on POSIX systems only")
    if os.geteuid() != 0:
        return {}
    import pwd

    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise Unavailable(
        "PostgreSQL refuses to run as root, and this machine has neither a user "
        "`postgres` nor a user `nobody`: run the tests as an ordinary user"
    )


class Database:
    """A database of a running PostgreSQL; the tests' own `psql`.

    Attributes:
        port: the loopback port of its server.
        name: the name of the database.
    """

    def __init__(self, program: Path, port: int, name: str) -> None:
        self._program = program
        self.port = port
        self.name = name

    def answers(self) -> bool:
        """Return whether the server answers a query."""
        return self._run_psql("SELECT 1").returncode == 0

    def execute(self, sql: str) -> None:
        """Run statements.

        Raises:
            RuntimeError: PostgreSQL refuses them; the text is its own.
        """
        self._psql(sql)

    def rows(self, sql: str) -> list[list[str]]:
        """Return what a SELECT gives, each value as PostgreSQL prints it.

        Raises:
            RuntimeError: PostgreSQL refuses it; the text is its own.
        """
        return list(csv.reader(self._psql(sql).splitlines()))

    def scalar(self, sql: str) -> str:
        """Return the single value of a SELECT, as PostgreSQL prints it."""
        [[value]] = self.rows(sql)
        return value

    @contextmanager
    def without(self, table: str) -> Iterator[None]:
        """Have no such table for a while, as in a migration that goes wrong."""
        self.execute(f"ALTER TABLE {table} RENAME TO {table}_away")
        try:
            yield
        finally:
            self.execute(f"ALTER TABLE {table}_away RENAME TO {table}")

    def _psql(self, sql: str) -> str:
        done = self._run_psql(sql)
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
        return done.stdout

    def _run_psql(self, sql: str) -> subprocess.CompletedProcess[str]:
        environment: Mapping[str, str] = {
            **{name: v for name, v in os.environ.items() if not name.startswith("PG")},
            "PGCLIENTENCODING": "UTF8",
            "PGOPTIONS": "--client-min-messages=warning",
        }
        return subprocess.run(
            [
                *(self._program, "--no-psqlrc", "--quiet"),
                *("--csv", "--tuples-only", "--set", "ON_ERROR_STOP=1"),
                *("--host", LOOPBACK, "--port", str(self.port)),
                *("--username", USER, "--dbname", self.name),
            ],
            input=sql,
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=environment,
            check=False,
        )


class Postgres:
    """A running PostgreSQL on loopback, without the tests' databases at first.

    Attributes:
        port: the loopback port it listens on.
    """

    def __init__(self) -> None:
        self._programs = find_programs()
        self._who = unprivileged()
        self._directory = Path(tempfile.mkdtemp(prefix="ow-postgres-"))
        self._data = self._directory / "data"
        self._log = self._directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self._maintenance = Database(
            self._programs / "psql", self.port, MAINTENANCE_DATABASE
        )

    def start(self) -> None:
        """Make a data directory and start the server on it.

        Raises:
            RuntimeError: it cannot be made or does not start; the text shows its log.
        """
        if self._who:
            shutil.chown(self._directory, self._who["user"])
        initdb = subprocess.run(
            [
                *(self._programs / "initdb", "--pgdata", self._data),
                *("--auth", "trust", "--username", USER),
                *("--encoding", "UTF8", "--locale", "C", "--no-sync"),
            ],
            cwd=self._directory,
            **self._who,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if initdb.returncode:
            raise RuntimeError(f"PostgreSQL's initdb fails: {initdb.stderr.strip()}")
        settings = {
            "listen_addresses": LOOPBACK,
            "unix_socket_directories": "",
            "fsync": "off",
            "timezone": "UTC",
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *("sh", "-c", UNTIL_STDIN_ENDS, "sh"),
                    *(self._programs / "postgres", "-D", self._data),
                    *("-p", str(self.port)),
                    *(f"--{name}={value}" for name, value in settings.items()),
                ],
                cwd=self._directory,
                **self._who,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(self._answers, seconds=START_SECONDS, what="PostgreSQL answers")
        except (TimeoutError, ChildProcessError) as error:
            raise RuntimeError(
                f"PostgreSQL does not start: {error}\n{tail(self._log)}"
            ) from error

    def stop(self) -> None:
        """End the server and remove its data; a second call does nothing."""
        if self._process is not None:
            try:
                self._process.communicate(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()
            self._process = None
        shutil.rmtree(self._directory, ignore_errors=True)

    def create_database(self, name: str) -> Database:
        """Create an empty database and return it."""
        database = Database(self._programs / "psql", self.port, name)
        self._maintenance.execute(f"CREATE DATABASE {name}")
        return database

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise ChildProcessError(f"it ended with {self._process.returncode}")
        return self._maintenance.answers()
