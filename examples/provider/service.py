"""Take subscriptions, watch Ortege, and send alerts to the apps that have subscribed.

Set ORTEGE_URL and ORTEGE_TOKEN; BUS_APP_ID and BUS_SECRET, which sign the requests of a
watch-bus; BUS_URL, ALERT_APP_ID and ALERT_SECRET: where alerts are sent, and what signs
them. The cube is made up. Files are written to the working directory.
"""

import asyncio
import logging
from contextlib import suppress
from decimal import Decimal
from os import environ

import uvicorn

from ortege_watch import AsyncCubeClient, Dimension, Measure, Query, Row, TimeDimension
from ortege_watch.watchbus import (
    AlertInfo,
    AsyncAlertPublisher,
    BigAmountTxn,
    Credentials,
    SQLiteNonces,
    SQLiteProvider,
    SupportedEvent,
    provider_app,
)

CHAIN_ID, CODE, LEAST = 56, "big_amount_txn", Decimal(1000)
EVENTS = [SupportedEvent(CODE, ("ERC20",), LEAST)]
log = logging.getLogger("provider")
usd = Measure("token_transfers.usd", Decimal)
token = Dimension("token_transfers.token_address")
tx = Dimension("token_transfers.tx_hash")
block = Dimension("token_transfers.block_number", int)
date = TimeDimension("token_transfers.block_time")
TRANSFERS = Query(
    measures=[usd],
    dimensions=[token, tx, block, date],
    where=[token.is_set(), tx.is_set()],
    having=[usd.gte(LEAST)],
    time=[date.over("from 2 hours ago to now")],
    order=[date.desc()],
)


def alert_of(row: Row, entity_type: str) -> AlertInfo | None:
    """Return the alert about a transfer."""
    value, number, when = row.get(usd), row.get(block), row.get(date)
    if value is None or number is None or when is None:  # NULL
        log.warning("incomplete transfer: %s", row)
        return None
    values = BigAmountTxn(block_number=number, tx_hash=row[tx], current_value=value)
    at = int(when.timestamp())
    return AlertInfo(row[token], CHAIN_ID, entity_type, CODE, at, values)


async def watch(
    cube: AsyncCubeClient,
    provider: SQLiteProvider,
    publishers: dict[str, AsyncAlertPublisher],  # by the app id of the subscriber
) -> None:
    """Write alerts to outboxes; after a start again, and the bus skips what it has."""
    async with cube.watch(TRANSFERS) as updates:
        async for update in updates:
            if update.truncated:
                log.error("transfers may be missing: use a shorter window")
            for row in update.upserted:
                for each in provider.matching(row[token], CHAIN_ID, CODE):
                    alert = alert_of(row, each.entity.entity_type)
                    if each.app_id not in publishers:
                        log.warning("no publisher for the subscriber %s", each.app_id)
                    elif alert is not None:
                        await publishers[each.app_id].enqueue([alert])


async def main() -> None:
    """Serve the endpoints, watch and send, until Ctrl-C."""
    app_id, secret = environ["BUS_APP_ID"], environ["BUS_SECRET"]
    ours = Credentials(environ["ALERT_APP_ID"], environ["ALERT_SECRET"])
    async with (
        AsyncCubeClient() as cube,
        AsyncAlertPublisher(environ["BUS_URL"], ours, outbox="outbox.db") as publisher,
        asyncio.TaskGroup() as tasks,
    ):
        with SQLiteProvider("provider.db", EVENTS) as provider:
            nonces = SQLiteNonces("nonces.db")
            app = provider_app({app_id: [secret]}, provider, nonces=nonces)
            sending = tasks.create_task(publisher.run())
            watching = tasks.create_task(watch(cube, provider, {app_id: publisher}))
            config = uvicorn.Config(app, port=int(environ.get("PORT", "8000")))
            await uvicorn.Server(config).serve()
            sending.cancel()
            watching.cancel()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
