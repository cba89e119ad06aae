"""Where positions and prices come from: Ortege's cubes or files (``chain.py``: a node).

Of ``ortege_watch`` only public names are used. The cubes and members are those in public
use; their exact meaning is not documented, so every plan lists what they leave out.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec

from liquidation_bot.market import Market, MarketError
from liquidation_bot.model import (
    Holding,
    Position,
    Price,
    SourceError,
    UsageError,
    exact,
    fixed,
    load_json,
)
from liquidation_bot.rules import Watched
from ortege_watch import (
    AsyncCubeClient,
    DecodeError,
    Dimension,
    Filter,
    Measure,
    MeasureMeta,
    Meta,
    Order,
    OrtegeWatchError,
    Query,
    Result,
    Row,
    TimeDimension,
    Update,
)

__all__ = [
    "ASSUMED",
    "Events",
    "FixturePositions",
    "FixturePrices",
    "OrtegePositions",
    "OrtegePrices",
    "Positions",
    "Prices",
    "changed",
    "check_cubes",
    "events_query",
    "members",
    "newest_event",
]


class Events:
    """Events of contracts: they tell that a position changed, not what it is."""

    asset_amount = Measure("stacks_contract_events.asset_amount", Decimal)
    contract_id = Dimension("stacks_contract_events.contract_id")
    function_name = Dimension("stacks_contract_events.function_name")
    sender_address = Dimension("stacks_contract_events.sender_address")
    tx_date = TimeDimension("stacks_contract_events.tx_date")


class Positions:
    """Sums of the amounts that each address supplied, borrowed and repaid."""

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


_MAX_ROWS: Final = 50_000
_MAX_EVENTS: Final = 10_000
_MAX_PRICES: Final = 10_000
# Plausible dollars for one token; beyond, the cube has another unit.
_CHEAPEST: Final = Decimal("0.000001")
_DEAREST: Final = Decimal(10_000_000)
# So many amounts without a fraction are not in whole tokens.
_ENOUGH_AMOUNTS: Final = 20
# Decimals of an asset that is unknown; of its amounts only the sign matters.
_UNKNOWN: Final = 38
# Whatever a decision follows from is never asked from the server's cache. Of the modes
# that would do, "must-revalidate" gives an outdated result once more on Cube 1.7.43 [seen].
_FRESH: Final = "no-cache"


ASSUMED: Final[Mapping[str, str]] = {
    Events.asset_amount.name: "not used: a query needs a measure",
    Events.contract_id.name: "the contract that was called",
    Events.function_name.name: "its public function that was called",
    Events.sender_address.name: "the caller: the borrower, unless somebody else repays "
    "or liquidates",
    Events.tx_date.name: "the time of the block, UTC",
    Positions.supply.name: "the sum supplied and not withdrawn, in the market's units",
    Positions.borrow.name: "the sum ever borrowed, without interest, in the same units",
    Positions.repaid.name: "the sum ever repaid, in the same units",
    Positions.lender_address.name: "the owner of the position",
    Positions.asset_id.name: "the asset: one of the market's asset_ids",
    Prices.price.name: "dollars for one whole token; one row for each token and time",
    Prices.token.name: "the asset: one of the market's price_tokens",
    Prices.tx_date.name: "when the price was published, UTC",
}
"""What is assumed about each member of Ortege's cubes; nothing of it is documented."""

_AGGREGATIONS: Final[Mapping[str, tuple[str, ...]]] = {
    Positions.supply.name: ("sum",),
    Positions.borrow.name: ("sum",),
    Positions.repaid.name: ("sum",),
    # A sum of two rows of one time would double the price.
    Prices.price.name: ("max", "min", "avg"),
}


async def check_cubes(
    cube: AsyncCubeClient, meta: Meta, market: Market, names: Sequence[str]
) -> list[str]:
    """Check what is assumed about the cubes, as far as the server can tell.

    Args:
        cube: the client.
        meta: of the server, which has all these members.
        market: names assets and units.
        names: the members that the bot queries.

    Returns:
        What could not be checked, in words.

    Raises:
        UsageError: an assumption is wrong.
        SourceError: the server cannot be asked now.
    """
    doubts: list[str] = []
    for name in set(names) & set(_AGGREGATIONS):
        member, fitting = meta.member(name), _AGGREGATIONS[name]
        kind = member.agg_type if isinstance(member, MeasureMeta) else "dimension"
        if kind in (None, "number"):
            doubts.append(f"the server does not tell how {name} is aggregated")
        elif kind not in fitting:
            raise _wrong(
                f"{name} is aggregated as {kind!r}, not {' or '.join(fitting)}"
            )
    if Prices.price.name in names:
        doubts += await _check_prices(cube, meta, market)
    if Positions.supply.name in names:
        await _check_amounts(cube, market)
    return sorted(doubts)


async def _check_prices(cube: AsyncCubeClient, meta: Meta, market: Market) -> list[str]:
    """Check that there is one row for each token and time, with dollars."""
    found = {
        each.asset: each.price for each in await OrtegePrices(cube, market).prices()
    }
    doubts = [
        f"Ortege has no price of {each.symbol} in the last 24 hours"
        for each in market.reserves
        if each.price_token and each.asset not in found
    ]
    for asset, fixed_price in found.items():
        price = exact(fixed_price, 8)
        if not price:  # of no asset in any unit: nothing is decided with it
            doubts.append(f"the price of {asset} is zero")
        elif not _CHEAPEST <= price <= _DEAREST:
            raise _wrong(f"the price of {asset} is {price}, not in dollars")
    tokens = {each.price_token for each in market.reserves} - {""}
    count = Measure("stacks_oracle_prices.count", int)
    if count not in meta:
        return [*doubts, "without a count it is not known if prices have several rows"]
    query = Query(
        measures=[count],
        dimensions=[Prices.token, Prices.tx_date],
        where=[Prices.token.in_(sorted(tokens))],
        time=[Prices.tx_date.over("from 24 hours ago to now")],
        having=[count.gt(1)],
        limit=1,
        cache=_FRESH,
    )
    for row in await _load(cube, query, "prices"):
        raise _wrong(
            f"{row[Prices.token]!r} has several prices at {row[Prices.tx_date]}"
        )
    return doubts


async def _check_amounts(cube: AsyncCubeClient, market: Market) -> None:
    """Check that amounts can be in the units that the market file names."""
    query = Query(
        measures=[Positions.supply, Positions.borrow],
        dimensions=[Positions.lender_address, Positions.asset_id],
        order=[Positions.borrow.desc()],
        limit=100,
        cache=_FRESH,
    )
    amounts = [
        amount
        for row in await _load(cube, query, "positions")
        for amount in (row.get(Positions.supply), row.get(Positions.borrow))
        if amount
    ]
    whole = all(amount == amount.to_integral_value() for amount in amounts)
    if market.units.amounts == "smallest" and not whole:
        raise _wrong("amounts have fractions, so units.amounts must be 'tokens'")
    if market.units.amounts == "tokens" and whole and len(amounts) >= _ENOUGH_AMOUNTS:
        raise _wrong("no amount has a fraction, so units.amounts must be 'smallest'")


def _wrong(what: str) -> UsageError:
    return UsageError(
        f"Ortege's cubes are not as assumed: {what}; correct the market file, or use "
        "other sources (--positions, --prices)"
    )


async def _load(cube: AsyncCubeClient, query: Query, what: str) -> Result:
    try:
        return await cube.load(query)
    except OrtegeWatchError as error:
        raise SourceError(f"cannot read {what} from Ortege: {error}") from error


def members(*, positions: bool, prices: bool) -> list[str]:
    """Return the names of the members that the bot queries.

    Args:
        positions: whether positions or borrowers come from Ortege.
        prices: whether prices come from Ortege.
    """
    cubes = [Events, *([Positions] if positions else []), *([Prices] if prices else [])]
    return [
        member.name
        for cube in cubes
        for member in vars(cube).values()
        if isinstance(member, Measure | Dimension | TimeDimension)
    ]


def events_query(watched: Watched, since: datetime) -> Query:
    """Return the query for events that change positions, newest first.

    Args:
        watched: the contracts and their functions.
        since: the start of the window; a query without one would exceed its limit.
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
            Events.contract_id.in_(watched.contracts),
            Events.function_name.in_(watched.functions),
            Events.tx_date.after(since),
        ],
        order=[Events.tx_date.desc()],
        limit=_MAX_EVENTS,
    )


def changed(update: Update, watched: Watched) -> tuple[list[str], bool]:
    """Return whose positions an update of the events reports as changed.

    Args:
        update: of the events.
        watched: the events that are asked for.

    Returns:
        The addresses to read again, and whether every position must be read: if the
        result is truncated, if a sender is NULL, or if the sender of a new event may be
        somebody else than the borrower.
    """
    senders = {row.get(Events.sender_address) for row in update.upserted}
    by_others = not update.first and any(
        (row.get(Events.function_name) or "") in watched.by_others
        for row in update.upserted
    )
    addresses = sorted(each for each in senders if each is not None)
    return addresses, update.truncated or None in senders or by_others


def newest_event(events: Iterable[Row]) -> datetime | None:
    """Return the time of the newest of these events, which are the newest first."""
    return next(filter(None, (row.get(Events.tx_date) for row in events)), None)


class OrtegePositions:
    """Positions from ``stacks_dapp_zest_positions_net``.

    They are estimates: sums of amounts, without the interest since.

    Args:
        cube: the client.
        market: the market, with the names and decimals of the assets.
        max_rows: the row limit of each query; a result that reaches it is an error.

    Raises:
        MarketError: the market file says that Ortege has no positions of the market.
    """

    caveats: Sequence[str] = (
        "positions are sums from Ortege's cube, without interest",
        "collateral flags and e-modes are not known: read the chain before signing",
    )
    chunk: int = 100  # each address may have a row for every reserve

    def __init__(
        self, cube: AsyncCubeClient, market: Market, *, max_rows: int = _MAX_ROWS
    ) -> None:
        self._cube = cube
        self._market = market
        self._max_rows = max_rows
        self._assets = {
            name: reserve for reserve in market.reserves for name in reserve.asset_ids
        }
        if not self._assets:
            raise MarketError(
                f"Ortege has no positions of {market.name}, whose reserves have no "
                "asset_ids: use --positions node --node URL"
            )

    async def borrowers(self, most: int) -> Sequence[str]:
        """Return at most that many addresses that ever borrowed, largest sums first."""
        query = Query(
            measures=[Positions.borrow],
            dimensions=[Positions.lender_address],
            having=[Positions.borrow.gt(0)],
            order=[Positions.borrow.desc()],
            limit=most,
            cache=_FRESH,
        )
        addresses = [
            row.get(Positions.lender_address)
            for row in await _load(self._cube, query, "positions")
        ]
        return [each for each in addresses if each is not None]

    async def positions(self, borrowers: Sequence[str], at: int) -> Sequence[Position]:
        """Read the sums of these addresses, a chunk in each query."""
        # An asset may have rows under several names: their sums are one holding.
        sums: dict[str, dict[str, list[int]]] = {each: {} for each in borrowers}
        problems: list[str] = []
        for start in range(0, len(borrowers), self.chunk):
            query = Query(
                measures=[Positions.supply, Positions.borrow, Positions.repaid],
                dimensions=[Positions.lender_address, Positions.asset_id],
                where=[
                    Positions.lender_address.in_(borrowers[start : start + self.chunk])
                ],
                order=[Positions.lender_address.asc(), Positions.asset_id.asc()],
                limit=self._max_rows,
                cache=_FRESH,
            )
            result = await _load(self._cube, query, "positions")
            if result.truncated:  # a debt may be among the rows that are missing
                raise SourceError(f"positions are truncated at {self._max_rows} rows")
            for row in result:
                who = row.get(Positions.lender_address) or ""
                try:
                    asset, *amounts = self._amounts(row)
                except DecodeError as error:  # such as NaN: not the others' problem
                    sums.pop(who, None)
                    problems.append(str(error))
                    continue
                if (held := sums.get(who)) is not None:
                    before = held.get(asset, [0] * len(amounts))
                    held[asset] = list(map(operator.add, before, amounts))
        positions: list[Position] = []
        for who, held in sums.items():
            holdings = tuple(
                holding
                for asset, amounts in held.items()
                if (holding := self._holding(asset, *amounts)) is not None
            )
            if any(max(each.supplied, each.borrowed) >= 2**128 for each in holdings):
                problems.append(f"an amount of {who} that does not fit into 128 bits")
                continue
            positions.append(Position(borrower=who, holdings=holdings, read_at=at))
        if problems:
            count = len(borrowers) - len(positions)
            problem = f"{count} positions are not readable, such as {problems[0]}"
            raise SourceError(problem, positions)
        return positions

    def _amounts(self, row: Row) -> tuple[str, int, int, int]:
        """Return the asset, and what was supplied, borrowed and repaid of it."""
        name = row.get(Positions.asset_id) or "NULL"
        reserve = self._assets.get(name)
        if reserve is None:
            asset, places = name, _UNKNOWN
        else:
            in_tokens = self._market.units.amounts == "tokens"
            asset, places = reserve.asset, reserve.decimals if in_tokens else 0
        return (
            asset,
            fixed(_at_least_zero(row.get(Positions.supply)), places),
            fixed(_at_least_zero(row.get(Positions.borrow)), places),
            fixed(_at_least_zero(row.get(Positions.repaid)), places),
        )

    def _holding(
        self, asset: str, supplied: int, borrowed: int, repaid: int
    ) -> Holding | None:
        owed = max(borrowed - repaid, 0)
        if self._market.reserve(asset) is None:  # only whether there is an amount
            supplied, owed = min(supplied, 1), min(owed, 1)
        if not supplied and not owed:
            return None
        return Holding(asset=asset, supplied=supplied, borrowed=owed)


class OrtegePrices:
    """Prices from ``stacks_oracle_prices``, read once or watched."""

    caveats: Sequence[str] = (
        "prices are rows of Ortege's cube, without a confidence",
        "the contract uses its own oracle's prices, which may differ",
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
            if token  # the others follow from these
        }

    def query(self, since: datetime | None = None) -> Query:
        """Return the query for published prices, newest first.

        Args:
            since: the start of the window of a subscription; without one, the query is
                for the last 24 hours, and its result is not from the server's cache.
        """
        if since is not None:  # a subscription takes no cache mode
            return self._query([Prices.tx_date.after(since)], Prices.tx_date.desc())
        day = Prices.tx_date.over("from 24 hours ago to now")
        return self._query([], Prices.tx_date.desc(), time=[day], cache=_FRESH)

    def _query(self, window: Sequence[Filter], *order: Order, **more: Any) -> Query:
        return Query(
            measures=[Prices.price],
            dimensions=[Prices.token, Prices.tx_date],
            where=[Prices.token.in_(sorted(self._assets)), *window],
            order=order,
            limit=_MAX_PRICES,
            **more,
        )

    def read(self, rows: Iterable[Row]) -> list[Price]:
        """Return the newest price of each token.

        A token may be missing from a truncated result. The engine then keeps its last
        price, and makes no plan once that is stale.

        Raises:
            SourceError: a row cannot be read; it has the prices of the others.
        """
        newest: dict[str, tuple[datetime, int]] = {}
        problems: list[str] = []
        for row in rows:
            try:
                token, price = row.get(Prices.token), row.get(Prices.price)
                at = row.get(Prices.tx_date)
                if token is None or price is None or at is None:
                    continue
                if (dollars := fixed(_at_least_zero(price), 8)) >= 2**128:
                    problems.append(f"a price that does not fit into 128 bits: {price}")
                elif token not in newest or at > newest[token][0]:
                    newest[token] = (at, dollars)
            except DecodeError as error:  # such as NaN
                problems.append(str(error))
        prices = [
            Price(asset=asset, price=price, at=int(at.timestamp()))
            for token, (at, price) in sorted(newest.items())
            for asset in self._assets.get(token, [])
        ]
        if problems:
            problem = f"{len(problems)} rows are left out, such as {problems[0]}"
            raise SourceError(problem, prices)
        return prices

    async def history(self, start: datetime, end: datetime) -> list[Price]:
        """Read the prices of a time, both ends included, in the order of their times.

        Raises:
            SourceError: they cannot be read.
        """
        found: dict[tuple[int, str], Price] = {}
        while True:
            window = [Prices.tx_date.in_range(start, end)]
            query = self._query(window, Prices.tx_date.asc(), Prices.token.asc())
            rows = await _load(self._cube, query, "prices")
            for row in rows:
                found.update({(each.at, each.asset): each for each in self.read([row])})
            if not rows.truncated:
                return [found[key] for key in sorted(found)]
            last = max(filter(None, (row.get(Prices.tx_date) for row in rows)))
            if last <= start:
                raise SourceError(f"more than {_MAX_PRICES} prices at {start}")
            start = last

    async def prices(self) -> Sequence[Price]:
        """Read the newest price of each asset."""
        return self.read(await _load(self._cube, self.query(), "prices"))


def _at_least_zero(value: Decimal | None) -> Decimal:
    return max(value or Decimal(0), Decimal(0))


class FixturePositions:
    """Positions from a file, or set by hand in tests."""

    caveats: Sequence[str] = ("positions are from a file, not from the chain",)
    chunk: int = 1000

    def __init__(self, positions: Iterable[Position] = ()) -> None:
        self.by_borrower = {each.borrower: each for each in positions}

    @classmethod
    def load(cls, path: Path) -> FixturePositions:
        """Read a JSON list of positions, in the form of a recorded session.

        Raises:
            FileError: the file cannot be read or is invalid.
        """
        return cls(load_json(path, list[Position]))

    async def positions(self, borrowers: Sequence[str], at: int) -> Sequence[Position]:
        """Return the positions of these addresses, as if read now."""
        empty = Position(borrower="", holdings=(), read_at=at)
        return [
            msgspec.structs.replace(
                self.by_borrower.get(borrower, empty), borrower=borrower, read_at=at
            )
            for borrower in borrowers
        ]


class FixturePrices:
    """Prices from a file, or set by hand in tests."""

    caveats: Sequence[str] = ("prices are from a file, not from an oracle",)

    def __init__(self, prices: Iterable[Price] = ()) -> None:
        self.by_asset = {each.asset: each for each in prices}

    @classmethod
    def load(cls, path: Path) -> FixturePrices:
        """Read a JSON list of prices, in the form of a recorded session.

        Raises:
            FileError: the file cannot be read or is invalid.
        """
        return cls(load_json(path, list[Price]))

    async def prices(self) -> Sequence[Price]:
        """Return all prices."""
        return list(self.by_asset.values())
