"""A provider, a bus and a bot as three processes; two of them are killed in between."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs
from roles import Settings, effects_in

WITHIN = 60.0
COUNT = 200


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        for each in sockets:
            stack.enter_context(each)
        return [each.getsockname()[1] for each in sockets]


class Cast:
    """The processes, by role; each can be killed and started again."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, role: str) -> None:
        script = Path(__file__).parent / "roles.py"
        given = json.dumps(attrs.asdict(self._settings))
        with self.log_of(role).open("ab") as log:
            self._running[role] = subprocess.Popen(
                [sys.executable, script, role, given], stdout=log, stderr=log
            )

    def kill(self, role: str) -> None:
        """Kill a process without a shutdown."""
        process = self._running.pop(role)
        assert process.poll() is None, self.story()
        process.kill()
        process.wait()

    def end(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()

    def log_of(self, role: str) -> Path:
        return Path(self._settings.folder) / f"{role}.log"

    def story(self) -> str:
        logs = sorted(Path(self._settings.folder).glob("*.log"))
        return "\n".join(f"{log.name}:\n{log.read_text()[-3000:]}" for log in logs)

    def effects(self) -> list[int]:
        return effects_in(self._settings.effects)

    def reach(self, count: int) -> int:
        """Wait until that many alerts had an effect."""
        self.wait_until(lambda: len(self.effects()) >= count)
        return len(self.effects())

    def finish(self) -> None:
        """Wait until the provider knows that every alert was handled."""
        self.wait_until(self._settings.done.exists)

    def wait_until(self, holds: Callable[[], bool]) -> None:
        until = time.monotonic() + WITHIN
        while not holds():
            assert time.monotonic() < until, f"{self.effects()}\n{self.story()}"
            time.sleep(0.005)


@contextmanager
def cast(folder: Path) -> Iterator[Cast]:
    provider, bus_http, bus_channel, bot = free_ports(4)
    made = Cast(
        Settings(
            provider=provider,
            bus_http=bus_http,
            bus_channel=bus_channel,
            bot=bot,
            alerts=COUNT,
            folder=str(folder),
        )
    )
    try:
        yield made
    finally:
        made.end()


def test_every_alert_is_handled_once_when_processes_are_killed(tmp_path):
    with cast(tmp_path) as actors:
        for role in ("provider", "bus", "bot"):
            actors.start(role)
        seen = actors.reach(COUNT // 10)
        actors.kill("bot")
        assert len(actors.effects()) < COUNT
        actors.start("bot")
        seen = actors.reach(seen + COUNT // 5)
        actors.kill("bus")
        assert len(actors.effects()) < COUNT
        actors.start("bus")
        actors.finish()
        assert Counter(actors.effects()) == Counter(range(COUNT)), actors.story()
