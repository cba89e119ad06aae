"""What the bot asks Ortege: events to watch, positions and prices to read.

All of it through the public names of ``ortege_watch``. The cubes and members are those
in public use; what they mean exactly is not documented, so every plan says what they
leave out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from liquidation_bot.market import FUNCTIONS, Market
from liquidation_bot.model import Holding, Position, Price, SourceError, fixed
from ortege_watch import (
    AsyncCubeClient,
    Dimension,
    Measure,
    OrtegeWatchError,
    Query,
    Row,
    TimeDimension,
    Update,
)

__all__ = [
    "Events",
    "OrtegePositions",
    "OrtegePrices",
    "Positions",
    "Prices",
    "events_query",
    "members",
    "moved",
]


class Events:
    """Events of contracts: that something happened, not what a position is."""

    asset_amount = Measure("stacks_contract_events.asset_amount", Decimal)
    contract_id = Dimension("stacks_contract_events.contract_id")
    function_name = Dimension("stacks_contract_events.function_name")
    sender_address = Dimension("stacks_contract_events.sender_address")
    tx_date = TimeDimension("stacks_contract_events.tx_date")


class Positions:
    """Sums of what each address supplied, borrowed and repaid."""

    supply = Measure("stacks_dapp_zest_positions_net.total_supply", Decimal)
    borrow = Measure("stacks_dapp_zest_positions_net.total_borrow", Decimal)
    repaid = Measure("stacks_dapp_zest_positions_net.total_repaid", Decimal)
    lender_address = Dimension("stacks_dapp_zest_positions_net.lender_address")
    asset_id = Dimension("stacks_dapp_zest_positions_net.asset_id")


class Prices:
    """Prices as oracles published them."""

    price = Measure("stacks_oracle_prices.price", Decimal)
    token = Dimension("stacks_oracle_prices.token")
    tx_date = TimeDimension("stacks_oracle_prices.tx_date")


# Addresses in one question; each may have a row for every reserve.
_AT_ONCE: Final = 100
_MOST_ROWS: Final = 50_000
_MOST_EVENTS: Final = 10_000
_MOST_PRICES: Final = 10_000
# The address that calls these need not be the borrower whom they change.
_OTHERS: Final = frozenset({"repay", "liquidation-call"})


def members(*, positions: bool, prices: bool) -> list[str]:
    """Name the members that the bot asks for.

    Args:
        positions: positions or borrowers are asked from Ortege.
        prices: prices are.
    """
    cubes = [Events, *([Positions] if positions else []), *([Prices] if prices else [])]
    return [
        member.name
        for cube in cubes
        for member in vars(cube).values()
        if isinstance(member, Measure | Dimension | TimeDimension)
    ]


def events_query(market: Market, since: datetime) -> Query:
    """Ask for the events that say that a position moved, the newest first.

    Args:
        market: names the contracts.
        since: events before it are left out: a result has an end.
    """
    return Query(
        measures=[Events.asset_amount],
        dimensions=[
            Events.contract_id,
            Events.function_name,
            Events.sender_address,
            Events.tx_date,
        ],
        where=[
            Events.contract_id.in_(market.contracts.watched),
            Events.function_name.in_(FUNCTIONS),
            Events.tx_date.after(since),
        ],
        order=[Events.tx_date.desc()],
        limit=_MOST_EVENTS,
    )


def moved(update: Update) -> tuple[list[str], bool]:
    """Read an update of the events as "these addresses moved".

    Returns:
        The addresses to read again, and whether everybody must be read: the sender of
        a repayment or of a liquidation need not be the borrower, and rows beyond a
        result's limit are unseen.
    """
    rows = update.upserted
    addresses = {row[Events.sender_address] for row in rows}
    others = any(row[Events.function_name] in _OTHERS for row in rows)
    return sorted(addresses), update.truncated or (others and not update.first)


class OrtegePositions:
    """Read positions from ``stacks_dapp_zest_positions_net``.

    What it gives is an estimate: sums of amounts, without the interest since.
    """

    caveats: Sequence[str] = (
        "positions are sums out of Ortege's cube, without interest",
        "collateral flags and e-modes are not known: read the chain before signing",
    )

    def __init__(self, cube: AsyncCubeClient, market: Market) -> None:
        self._cube = cube
        self._market = market
        self._assets = {
            name: reserve for reserve in market.reserves for name in reserve.asset_ids
        }

    async def borrowers(self, most: int) -> Sequence[str]:
        """Name at most that many addresses that ever borrowed, those of most first."""
        query = Query(
            measures=[Positions.borrow],
            dimensions=[Positions.lender_address],
            having=[Positions.borrow.gt(0)],
            order=[Positions.borrow.desc()],
            limit=most,
        )
        return [row[Positions.lender_address] for row in await self._load(query)]

    async def positions(self, borrowers: Sequence[str], at: int) -> Sequence[Position]:
        """Read the sums of these addresses, a few hundred at once."""
        found: dict[str, list[Holding]] = {borrower: [] for borrower in borrowers}
        for start in range(0, len(borrowers), _AT_ONCE):
            query = Query(
                measures=[Positions.supply, Positions.borrow, Positions.repaid],
                dimensions=[Positions.lender_address, Positions.asset_id],
                where=[
                    Positions.lender_address.in_(borrowers[start : start + _AT_ONCE])
                ],
                limit=_MOST_ROWS,
                # Somebody moved: an answer from before that is of no use.
                cache="must-revalidate",
            )
            for row in await self._load(query):
                if (holding := self._holding(row)) is not None:
                    found[row[Positions.lender_address]].append(holding)
        return [
            Position(borrower=borrower, holdings=tuple(holdings), read_at=at)
            for borrower, holdings in found.items()
        ]

    def _holding(self, row: Row) -> Holding | None:
        supplied = _at_least_zero(row.get(Positions.supply))
        owed = _at_least_zero(row.get(Positions.borrow)) - _at_least_zero(
            row.get(Positions.repaid)
        )
        asset_id = row[Positions.asset_id]
        reserve = self._assets.get(asset_id)
        if reserve is None:
            # Its decimals are unknown: keep that there is something, not how much.
            holding = Holding(
                asset=asset_id, supplied=int(supplied > 0), borrowed=int(owed > 0)
            )
        else:
            places = reserve.decimals if self._market.units.amounts == "tokens" else 0
            holding = Holding(
                asset=reserve.asset,
                supplied=fixed(supplied, places),
                borrowed=fixed(_at_least_zero(owed), places),
            )
        return holding if holding.supplied or holding.borrowed else None

    async def _load(self, query: Query) -> Sequence[Row]:
        try:
            return await self._cube.load(query)
        except OrtegeWatchError as error:
            raise SourceError(f"Ortege gave no positions: {error}") from error


class OrtegePrices:
    """Read prices from ``stacks_oracle_prices``, by asking or by watching."""

    caveats: Sequence[str] = (
        "prices are rows of Ortege's cube, without a confidence",
        "the contract takes its own oracle's prices, whatever these are",
    )

    def __init__(self, cube: AsyncCubeClient, market: Market) -> None:
        self._cube = cube
        self._assets: Mapping[str, list[str]] = {
            token: [
                reserve.asset
                for reserve in market.reserves
                if reserve.price_token == token
            ]
            for token in {reserve.price_token for reserve in market.reserves}
        }

    def query(self, since: datetime | None = None) -> Query:
        """Ask for what was published, the newest first.

        Args:
            since: leave out what is older.
        """
        window = [Prices.tx_date.after(since)] if since is not None else []
        return Query(
            measures=[Prices.price],
            dimensions=[Prices.token, Prices.tx_date],
            where=[Prices.token.in_(sorted(self._assets)), *window],
            order=[Prices.tx_date.desc()],
            limit=_MOST_PRICES,
        )

    def read(self, rows: Iterable[Row]) -> list[Price]:
        """Take the newest row of each token."""
        newest: dict[str, tuple[datetime, Decimal]] = {}
        for row in rows:
            token, at = row[Prices.token], row[Prices.tx_date].astimezone(UTC)
            price = row.get(Prices.price)
            if price is not None and (token not in newest or at > newest[token][0]):
                newest[token] = (at, price)
        return [
            Price(asset=asset, price=fixed(_at_least_zero(price), 8), at=_unix(at))
            for token, (at, price) in sorted(newest.items())
            for asset in self._assets.get(token, [])
        ]

    async def prices(self) -> Sequence[Price]:
        """Ask for the newest price of each asset."""
        try:
            return self.read(await self._cube.load(self.query()))
        except OrtegeWatchError as error:
            raise SourceError(f"Ortege gave no prices: {error}") from error


def _at_least_zero(value: Decimal | None) -> Decimal:
    return max(value or Decimal(0), Decimal(0))


def _unix(moment: datetime) -> int:
    return int(moment.timestamp())
