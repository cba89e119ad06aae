"""Run the provider against fake servers: ``python -m provider.demo``.

It is the real program, in a process of its own. This module is the watch-bus that
subscribes and gets the alerts, and the server with the transfers.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from decimal import Decimal

from ortege_watch import Retry
from ortege_watch.testing import FakeCube, FakeWatchBus, Table
from ortege_watch.watchbus import Credentials, EntityInfo, WatchBusClient

WATCHED, OTHER = f"0x{'ab' * 20}", f"0x{'cd' * 20}"


def transfer(
    table: Table, token: str | None, usd: int, number: int, *, block: int | None = 7
) -> None:
    """Insert a transfer that happened just now; ``None`` is NULL."""
    table.insert(
        {
            "token_address": token,
            "tx_hash": f"0x{number:064x}",
            "block_number": block,
            "usd": Decimal(usd),
            "block_time": datetime.now(UTC).replace(microsecond=0),
        }
    )


def free_port() -> int:
    """Return a port that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def main() -> None:
    """Subscribe, let transfers happen, and print the alerts."""
    table = Table(
        "token_transfers",
        measures={"usd": "sum"},
        dimensions={
            "token_address": "string",
            "tx_hash": "string",
            "block_number": "number",
            "block_time": "time",
        },
    )
    port = free_port()
    the_bus = Credentials("the-bus", "made up, for requests of the bus")
    with (
        FakeCube(tables=[table]) as cube,
        FakeWatchBus() as bus,
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, "-m", "provider.service"],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "ORTEGE_URL": cube.url,
                "ORTEGE_TOKEN": cube.token(),
                "BUS_APP_ID": the_bus.app_id,
                "BUS_SECRET": the_bus.secret,
                "BUS_URL": bus.url,
                "ALERT_APP_ID": bus.credentials.app_id,
                "ALERT_SECRET": bus.credentials.secret,
                "PORT": str(port),
            },
        ) as service,
    ):
        try:
            url, patient = f"http://127.0.0.1:{port}", Retry(attempts=100, cap=0.5)
            with WatchBusClient(url, the_bus, retry=patient, deadline=60) as client:
                [event] = client.events()
                print("the provider can watch for", event.event_code)
                entity = EntityInfo(WATCHED, 56, "ERC20", event.event_code)
                [watched] = client.subscribe([entity]).succeeded
                print("subscribed to", watched.entity)

            transfer(table, WATCHED, 2_500, 1)
            transfer(table, OTHER, 9_000, 2)  # nobody has subscribed to it
            transfer(table, WATCHED, 10, 3)  # too small
            transfer(table, None, 5_000, 4)
            transfer(table, WATCHED, 5_000, 5, block=None)  # is logged
            bus.wait_until(lambda: len(bus.alerts) == 1, timeout=30)
            cube.restart()  # an outage: what happens meanwhile is not lost
            transfer(table, WATCHED, 4_000, 6)
            bus.wait_until(lambda: len(bus.alerts) == 2, timeout=30)
            for alert in bus.alerts:
                values = alert.event_values
                print(f"alert: {values['current_value']} USD in {values['tx_hash']}")
        finally:
            service.send_signal(signal.SIGINT)
            service.wait(30)


if __name__ == "__main__":
    main()
