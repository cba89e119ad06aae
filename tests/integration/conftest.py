"""Real Cube servers on a real PostgreSQL, for every test below this folder.

Each test that uses one runs once for each generation of Cube's protocol: ``classic``
(0.35.81) and ``strict`` (1.7.43); ``-k classic`` runs one of them. The servers are
started here, on loopback, each on a database of its own, and end with the session. Where Node, npm or
PostgreSQL is missing, the tests are skipped and the last lines of the run say so;
with ``ORTEGE_WATCH_REQUIRE_INTEGRATION=1`` they fail instead.
``ORTEGE_TEST_CUBE_URL`` (``https://…/cubejs-api/v1``) and ``ORTEGE_TEST_CUBE_TOKEN``
point ``test_read_only.py`` at any other server; nothing is written there.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The harness is not part of any package.
sys.path.insert(0, str(Path(__file__).parent))

from harness.cube_server import CubeServer
from harness.generations import GENERATIONS, PROJECT, Generation
from harness.ledger import Ledger
from harness.machine import available, missing
from harness.postgres import Database, Postgres
from harness.target import Target

# Ten restarts of a server take half a minute, and four times that on a busy machine.
PATIENCE_SECONDS = 240
# A test that was ended in the middle may have left something that cannot be closed.
CLOSING_SECONDS = 15


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.integration)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if sentence := config.stash.get(missing, None):
        terminalreporter.section("INTEGRATION TESTS DID NOT RUN", red=True, bold=True)
        terminalreporter.write_line(sentence, red=True)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "generation" in metafunc.fixturenames:
        given = "target" in metafunc.fixturenames and target_url()
        metafunc.parametrize(
            "generation",
            [None] if given else GENERATIONS,
            ids=["given server"] if given else [each.name for each in GENERATIONS],
            indirect=True,
            scope="session",
        )


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """End a test that waits for ever, whether in a task or in a thread's lock."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"this test did not end within {PATIENCE_SECONDS} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS, CLOSING_SECONDS)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def generation(request: pytest.FixtureRequest) -> Generation:
    """The generation of Cube that this run of the test is for."""
    found: Generation = request.param
    return found


@pytest.fixture(scope="session")
def postgres_server(pytestconfig: pytest.Config) -> Iterator[Postgres]:
    """PostgreSQL, without tables."""
    with available(pytestconfig):
        server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgres(postgres_server: Postgres, generation: Generation) -> Database:
    """The generation's own database, with the tables of ``cube/tables.sql``."""
    database = postgres_server.create_database(generation.name)
    database.execute((PROJECT / "tables.sql").read_text(encoding="utf-8"))
    return database


@pytest.fixture(scope="session")
def shared_cube(
    generation: Generation, postgres: Database, pytestconfig: pytest.Config
) -> Iterator[CubeServer]:
    yield from run_cube(generation, postgres, pytestconfig, websockets=True)


@pytest.fixture
def cube(shared_cube: CubeServer) -> CubeServer:
    """Cube with WebSockets: one for all tests, started again where one killed it."""
    if not shared_cube.alive():
        shared_cube.kill()
        shared_cube.start()
    return shared_cube


@pytest.fixture(scope="session")
def rest_only_cube(
    generation: Generation, postgres: Database, pytestconfig: pytest.Config
) -> Iterator[CubeServer]:
    """Cube as it comes: WebSockets are off."""
    yield from run_cube(generation, postgres, pytestconfig, websockets=False)


@pytest.fixture
def ledger(postgres: Database, request: pytest.FixtureRequest) -> Ledger:
    """Rows of ``stacks_contract_events`` under a contract that is this test's own."""
    return Ledger(postgres, request.node.name)


def target_url() -> str:
    return os.environ.get("ORTEGE_TEST_CUBE_URL", "")


@pytest.fixture
def target(request: pytest.FixtureRequest, generation: Generation | None) -> Target:
    """Whatever server there is to read from: another one, or the tests' own."""
    if (url := target_url()) or generation is None:
        return Target(url=url, token=os.environ.get("ORTEGE_TEST_CUBE_TOKEN", ""))
    cube: CubeServer = request.getfixturevalue("cube")
    return Target(url=cube.url, token=cube.token())


def run_cube(
    generation: Generation,
    database: Database,
    config: pytest.Config,
    *,
    websockets: bool,
) -> Iterator[CubeServer]:
    """Start a Cube server, lend it, and end it."""
    with available(config):
        server = CubeServer(generation, database, websockets=websockets)
    try:
        server.start()
        yield server
    finally:
        server.close()
