"""Print who can be liquidated: watch events and prices, read moved positions again.

``python quick_bot.py --demo`` runs on a fake server and ends by itself. With ORTEGE_URL
and ORTEGE_TOKEN set, ``python quick_bot.py`` runs on Ortege until it is stopped.

It knows the borrowers that moved within the window of EVENTS. Positions are Ortege's sums,
in whole tokens as far as is known: without interest, collateral flags and e-modes. So a
line means "look at this borrower". docs/bot.md explains this file and leads to the full
bot in ``liquidation_bot/``.
"""

import argparse
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, Decimal

from ortege_watch import (
    CubeClient,
    DeadlineExceeded,
    DecodeError,
    Dimension,
    Measure,
    OrtegeWatchError,
    Query,
    Row,
    TimeDimension,
    Update,
)

# Parameters. The names and numbers are examples: take those of your market.
TOKENS = {  # an asset of the positions: its token in the prices
    "SP4SZE494VC2YC5JYG7AYFQ44F5Q4PYV7DVMDPBG.ststx-token::ststx": "stSTX",
    "SP3Y2ZSH8P7D50B0VBTSX11S7XSG24M1VB9YFQA4K.token-aeusdc::aeUSDC": "aeUSDC",
}
THRESHOLDS = {"stSTX": Decimal("0.70"), "aeUSDC": Decimal("0.90")}
CONTRACTS = "SP2VCQJGH7PHP2DJK7Z0V48AGBHQAW3R3ZW1QF4N.borrow-helper-"  # all versions
FUNCTIONS = ["supply", "borrow", "repay", "withdraw"]
MAX_PRICE_AGE = timedelta(minutes=6)
EVERY = 60  # seconds between status lines; each time, everybody is read again
PAUSE = 2  # seconds until the next round if no update comes
BATCH = 100  # borrowers that are read in one round

amount = Measure("stacks_contract_events.asset_amount")
contract = Dimension("stacks_contract_events.contract_id")
function = Dimension("stacks_contract_events.function_name")
sender = Dimension("stacks_contract_events.sender_address")
moved_at = TimeDimension("stacks_contract_events.tx_date")
price = Measure("stacks_oracle_prices.price")  # no sum: it would add rows of one time
token = Dimension("stacks_oracle_prices.token")
priced_at = TimeDimension("stacks_oracle_prices.tx_date")
supplied = Measure("stacks_dapp_zest_positions_net.total_supply")
borrowed = Measure("stacks_dapp_zest_positions_net.total_borrow")
repaid = Measure("stacks_dapp_zest_positions_net.total_repaid")
borrower = Dimension("stacks_dapp_zest_positions_net.lender_address")
asset = Dimension("stacks_dapp_zest_positions_net.asset_id")

EVENTS = Query(
    measures=[amount],
    dimensions=[function, sender, moved_at],
    where=[contract.starts_with(CONTRACTS), function.in_(FUNCTIONS)],
    time=[moved_at.over("from 24 hours ago to now")],  # longer than any outage
    order=[moved_at.desc()],
)
PRICES = Query(
    measures=[price],
    dimensions=[token, priced_at],
    where=[token.in_([*THRESHOLDS])],
    time=[priced_at.over("from 1 hour ago to now")],
    order=[priced_at.desc()],
)
POSITIONS = Query(
    measures=[supplied, borrowed, repaid],
    dimensions=[borrower, asset],
    order=[borrower.asc(), asset.asc()],
    cache="no-cache",  # what is read has just changed
)
ZERO = Decimal(0)
Prices = dict[str, tuple[datetime, Decimal]]
log = logging.getLogger("quick_bot")


def take(update: Update, prices: Prices, unread: dict[str, None]) -> None:
    """Note the newest prices, or who has moved."""
    if update.truncated:
        log.warning("rows are missing, shorten the window: %r", update)
    for row in update.upserted:
        try:
            if update.query == EVENTS:
                unread[row[sender]] = None
            elif row[priced_at] >= prices.get(row[token], [row[priced_at]])[0]:
                prices[row[token]] = row[priced_at], row[price]
        except DecodeError as error:  # NULL, or a price that is NaN
            log.warning("a row is left out: %s", error)


def read(cube: CubeClient, borrowers: list[str]) -> dict[str, list[Row]]:
    """Return each borrower's position, a row for each asset."""
    result = cube.load(POSITIONS.filter(borrower.in_(borrowers)), deadline=30)
    if result.truncated:
        if not (half := len(borrowers) // 2):
            raise OrtegeWatchError(f"{borrowers[0]} has too many rows, raise the limit")
        return read(cube, borrowers[:half]) | read(cube, borrowers[half:])
    return {who: [row for row in result if row[borrower] == who] for who in borrowers}


def judge(position: list[Row], prices: Prices, now: datetime) -> str:
    """Return "safe", "can be liquidated: …" or "undecided: …"."""
    secured = owed = ZERO
    for row in position:
        name = TOKENS.get(row.get(asset, "NULL"), "unknown")
        at, dollars = prices.get(name, (now, ZERO))
        try:
            supply = max(row.get(supplied, ZERO), ZERO)
            # Interest is repaid, too: an excess in one asset pays no debt in another.
            debt = max(row.get(borrowed, ZERO) - row.get(repaid, ZERO), ZERO)
        except DecodeError as error:  # an amount that is NaN
            return f"undecided: {error}"
        if (supply or debt) and (dollars <= 0 or now - at > MAX_PRICE_AGE):
            return f"undecided: {row.get(asset)} is unknown or has no fresh price"
        secured += supply * dollars * THRESHOLDS.get(name, ZERO)
        owed += debt * dollars
    if secured >= owed:
        return "safe"
    health = (secured / owed).quantize(Decimal("0.01"), ROUND_DOWN)
    return f"can be liquidated: health {health}"


def verdicts(cube: CubeClient) -> Iterator[str]:
    """Yield a line whenever the verdict on a borrower changes."""
    positions, said = dict[str, list[Row]](), dict[str, str]()
    prices, unread, routine = Prices(), dict[str, None](), dict[str, None]()
    report_at = time.monotonic() + PAUSE
    with cube.watch(PRICES, EVENTS, on_error=log.warning) as updates:
        while True:
            with suppress(DeadlineExceeded):  # no update within PAUSE
                take(updates.next(timeout=PAUSE), prices, unread)
            # Those that moved are first, and get no verdict before they are read.
            if batch := dict.fromkeys([*(unread | routine)][:BATCH]):
                try:
                    positions |= read(cube, [*batch])
                    unread = {who: None for who in unread if who not in batch}
                except OrtegeWatchError as error:  # they are read after the others
                    unread = dict.fromkeys(sorted(unread, key=batch.__contains__))
                    log.warning("%d positions are read again: %s", len(batch), error)
                routine = {who: None for who in routine if who not in batch}
            now = datetime.now(UTC)
            for who in sorted(positions.keys() - unread.keys()) if prices else ():
                verdict = judge(positions[who], prices, now)
                if verdict != said.get(who, "safe"):
                    yield f"{who} {verdict}"
                said[who] = verdict
            if time.monotonic() >= report_at:
                report_at = time.monotonic() + EVERY
                counts = f"{len(positions)} borrowers, {len(unread)} unread"
                ages = ", ".join(
                    f"{n} of {at:%H:%M:%S}" for n, (at, _) in prices.items()
                )
                log.info("%s, %s; prices: %s", updates.state, counts, ages or "none")
                routine = dict.fromkeys(positions)


def demo() -> None:
    """Run on a fake server until somebody can be liquidated."""
    from ortege_watch.testing import FakeCube  # noqa: PLC0415 - of the extra "testing"

    with FakeCube() as fake, CubeClient(fake.url, fake.token()) as cube:
        (ststx, aeusdc), now = TOKENS, datetime.now(UTC)
        alice, then = {"lender_address": "SP-ALICE"}, now + timedelta(seconds=1)
        positions = fake.tables["stacks_dapp_zest_positions_net"]
        positions.insert(alice | {"asset_id": ststx, "total_supply": 10_000})
        positions.insert(alice | {"asset_id": aeusdc, "total_borrow": 5_000})
        fake.tables["stacks_contract_events"].insert(
            {
                "sender_address": "SP-ALICE",
                "contract_id": f"{CONTRACTS}demo",
                "function_name": "borrow",
                "tx_date": now,
            }
        )
        prices = fake.tables["stacks_oracle_prices"]
        prices.insert({"token": "aeUSDC", "price": 1, "tx_date": now})
        prices.insert({"token": "stSTX", "price": Decimal("0.80"), "tx_date": now})
        fall = {"token": "stSTX", "price": Decimal("0.70"), "tx_date": then}
        threading.Timer(1, prices.insert, [fall]).start()
        print("SP-ALICE owes 5,000 aeUSDC and has 10,000 stSTX, which fall to 0.70 USD")
        print(next(verdicts(cube)))


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(message)s")
    log.setLevel(logging.INFO)
    parser = argparse.ArgumentParser(description="Print who can be liquidated.")
    parser.add_argument(
        "--demo", action="store_true", help="use a fake server, then end"
    )
    if parser.parse_args().demo:
        demo()
    else:
        with CubeClient() as cube:
            for line in verdicts(cube):
                print(line, flush=True)
