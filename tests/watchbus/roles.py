"""A provider, a bus and a bot, each as a process: ``python roles.py ROLE SETTINGS``.

The bot asks the provider to watch an entity. The provider then sends alerts to the bus,
by POST and by WebSocket; the bus hands each on to the bot, and says that it is handled
when the bot has said so.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import uvicorn

from ortege_watch import Reconnect, Retry, TransportError
from ortege_watch.watchbus import (
    AlertChannel,
    AlertInbox,
    AlertInfo,
    AsyncAlertPublisher,
    AsyncWatchBusClient,
    Claim,
    Credentials,
    EntityInfo,
    RequestVerifier,
    SQLiteNonces,
    SQLiteProvider,
    SupportedEvent,
    alert_app,
    provider_app,
    serve_alert_channel,
)

ENTITY = "0x312bc7eaaf93f1c60dc5afc115fccde161055fb0"
RETRY = Reconnect(base=0.05, cap=0.2)
ALERT = "/api/v1/watch/alert"
CHANNEL = "/alerts/ws"


@attrs.frozen(kw_only=True)
class Settings:
    """What all three know: where each listens, how many alerts, where files are."""

    provider: int
    bus_http: int
    bus_channel: int
    bot: int
    alerts: int
    folder: str

    @property
    def effects(self) -> Path:
        """The file in which the bot notes what it has done."""
        return Path(self.folder) / "effects.db"

    @property
    def done(self) -> Path:
        """The file that is there when the provider knows that all was handled."""
        return Path(self.folder) / "done"


def alert(number: int) -> AlertInfo:
    values = {"block_number": number, "tx_hash": f"0x{number:064x}", "current_value": 1}
    return AlertInfo(
        ENTITY, 56, "ERC20", "big_amount_txn", 1_700_000_000 + number, values
    )


def secret_of(sender: str) -> str:
    """Give the secret of one direction; each has its own."""
    return f"the secret of the {sender}"


def credentials(sender: str) -> Credentials:
    return Credentials(sender, secret_of(sender))


def verifier(sender: str, path: str, **options: Any) -> RequestVerifier:
    return RequestVerifier({sender: [secret_of(sender)]}, path=path, **options)


async def serve_http(app: Any, port: int) -> None:
    config = uvicorn.Config(app, port=port, lifespan="off", ws="none", log_config=None)
    await uvicorn.Server(config).serve()


# ------------------------------------------------------------------------- provider
class Provider(SQLiteProvider):
    """Take subscriptions, and send alerts as soon as there is one."""

    def __init__(self, settings: Settings) -> None:
        events = [SupportedEvent("big_amount_txn", ("ERC20",))]
        super().__init__(Path(settings.folder) / "provider.db", events)
        self._settings = settings
        self._subscribed = asyncio.Event()

    async def subscribe(self, app_id: str, entities: Any) -> Any:
        accepted = super().subscribe(app_id, entities)
        self._subscribed.set()
        return accepted

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            app = provider_app({"bot": [secret_of("bot")]}, self)
            tasks.create_task(serve_http(app, self._settings.provider))
            await self._subscribed.wait()
            async with asyncio.TaskGroup() as sending:
                sending.create_task(self._post(range(0, self._settings.alerts, 2)))
                sending.create_task(self._send(range(1, self._settings.alerts, 2)))
            self._settings.done.touch()

    async def _post(self, numbers: range) -> None:
        async with AsyncAlertPublisher(
            f"http://127.0.0.1:{self._settings.bus_http}",
            credentials("provider"),
            outbox=Path(self._settings.folder) / "outbox.db",
            retry=Retry(attempts=3, base=0.05, cap=0.2),
        ) as publisher:
            for number in numbers:
                await publisher.publish([alert(number)])
            assert publisher.outbox is not None
            while len(publisher.outbox):
                try:
                    await publisher.flush()
                except TransportError:
                    logging.getLogger(__name__).warning("the bus is still away")

    async def _send(self, numbers: range) -> None:
        url = f"ws://127.0.0.1:{self._settings.bus_channel}{CHANNEL}"
        async with (
            AlertChannel(url, credentials("provider"), reconnect=RETRY) as channel,
            asyncio.TaskGroup() as tasks,
        ):
            for number in numbers:
                tasks.create_task(channel.send([alert(number)]))


# ------------------------------------------------------------------------------ bus
async def bus(settings: Settings) -> None:
    url = f"ws://127.0.0.1:{settings.bot}{CHANNEL}"
    async with AlertChannel(url, credentials("bus"), reconnect=RETRY) as channel:

        async def hand_on(alert: AlertInfo) -> None:
            await channel.send([alert])

        async with serve_alert_channel(
            verifier("provider", CHANNEL),
            hand_on,
            port=settings.bus_channel,
        ):
            app = alert_app(verifier("provider", ALERT), hand_on)
            await serve_http(app, settings.bus_http)


# ------------------------------------------------------------------------------ bot
class Effects:
    """Note each effect; an alert whose effect is there was handled."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS effects (key TEXT, number INTEGER)"
        )

    def claim(self, app_id: str, key: str) -> Claim:
        found = self._db.execute("SELECT 1 FROM effects WHERE key = ?", [key])
        return Claim("claimed" if found.fetchone() is None else "handled")

    def resolve(self, app_id: str, key: str, reason: str | None) -> None:
        """Do nothing: the effect itself has the key."""

    def release(self, app_id: str, key: str) -> None:
        """Do nothing: there is one process."""

    async def __call__(self, alert: AlertInfo) -> None:
        row = [alert.dedupe_key("bus"), int(alert.event_values["block_number"])]
        self._db.execute("INSERT INTO effects VALUES (?, ?)", row)


def effects_in(path: Path) -> list[int]:
    """List the numbers of the alerts that had an effect, one for each effect."""
    with closing(sqlite3.connect(path)) as db:
        try:
            return [number for (number,) in db.execute("SELECT number FROM effects")]
        except sqlite3.OperationalError:
            return []  # the bot has not begun yet


async def bot(settings: Settings) -> None:
    effects = Effects(settings.effects)
    with SQLiteNonces(Path(settings.folder) / "nonces.db") as nonces:
        async with (
            serve_alert_channel(
                verifier("bus", CHANNEL, nonces=nonces),
                effects,
                port=settings.bot,
                inbox=AlertInbox(effects),
            ),
            AsyncWatchBusClient(
                f"http://127.0.0.1:{settings.provider}",
                credentials("bot"),
                retry=Retry(attempts=50, base=0.05, cap=0.2),
            ) as provider,
        ):
            entity = EntityInfo(ENTITY, 56, "ERC20", "big_amount_txn")
            watched = await provider.subscribe([entity])
            assert watched.succeeded == (entity,)
            await asyncio.Event().wait()


def main(role: str, given: str) -> None:
    logging.basicConfig(level=logging.INFO)
    settings = Settings(**json.loads(given))
    match role:
        case "provider":
            asyncio.run(Provider(settings).run())
        case "bus":
            asyncio.run(bus(settings))
        case "bot":
            asyncio.run(bot(settings))


if __name__ == "__main__":
    main(*sys.argv[1:])
