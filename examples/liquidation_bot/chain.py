"""What a Stacks node tells: positions, states and prices of both protocols.

A node's answers are the contracts' current state, which includes interest, collateral
flags and e-modes. The function names are those of Zest's public contracts; the market file
names the contracts, and is compared with the chain here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Final, TypeVar

import attrs
import msgspec

from liquidation_bot.market import Market, MarketError
from liquidation_bot.model import Holding, Position, Price, SourceError
from liquidation_bot.rules.zest_v1 import (
    Fixed,
    MarketV1,
    Ratio,
    ReserveState,
    ReserveV1,
    StateV1,
)
from liquidation_bot.rules.zest_v2 import (
    SHARES,
    Asset,
    Group,
    MarketV2,
    StateV2,
    Vault,
)
from liquidation_bot.stacks import (
    CallRefused,
    ClarityError,
    Err,
    Name,
    Node,
    Ok,
    Principal,
    Some,
    UInt,
    Value,
    deserialize,
    fields,
    integer,
    ok,
    principals,
    represent,
    some,
    uint,
)

__all__ = [
    "MarketCheck",
    "NodePositions",
    "NodePrices",
    "NodeV2",
    "check_market",
    "node_source",
]

_T = TypeVar("_T")

_NO_E_MODE: Final = bytes(1)
_NOTHING: Final[Mapping[str, Value]] = {"assets-supplied": (), "assets-borrowed": ()}


class NodePositions:
    """Positions from the protocol's own contracts.

    Each borrower is read on its own, with as few calls as the position needs: nothing
    more of somebody without a debt, no balance of what is not used as collateral, no
    e-mode if no asset in the position has one.

    ``[node]`` in the market file names the contracts: ``data``
    (``get-user-assets-read``, ``get-user-reserve-data-read``), ``reader``
    (``get-user-borrow-balance``), for markets with e-modes ``e_mode``
    (``get-user-e-mode-read``) and ``e_mode_bonus``, and ``grace``, if the grace periods
    after a freeze shall be known (``get-grace-period-enabled-read``).

    Raises:
        MarketError: the market is not of Zest V1, or its file does not name ``data`` or
            ``reader``.
    """

    caveats: Sequence[str] = (
        "positions are as of the node's tip, which may lag or be reorganised",
    )
    chunk: int = 10

    def __init__(self, node: Node, market: Market) -> None:
        if not isinstance(market, MarketV1):
            raise MarketError(
                f"positions of {market.protocol} cannot be read from a node"
            )
        self._node = node
        self._data = _contract(market, "data")
        self._reader = _contract(market, "reader")
        self._e_mode = market.node.get("e_mode")
        self._grace = market.node.get("grace")
        self._market = market
        self._by_symbol = {each.symbol: each for each in market.reserves}
        self._reserves = {each.asset: each for each in market.reserves}

    async def positions(self, borrowers: Sequence[str], at: int) -> Sequence[Position]:
        """Read the positions of these addresses, in their order."""
        return await _all("positions", [self._position(each, at) for each in borrowers])

    async def _position(self, borrower: str, at: int) -> list[Position]:
        who, holdings, e_mode = Principal(borrower), list[Holding](), 0
        try:
            used = await self._node.call(self._data, "get-user-assets-read", who)
            lists = _NOTHING if used is None else fields(some(used))
            supplied = principals(lists.get("assets-supplied"))
            if borrowed := principals(lists.get("assets-borrowed")):
                assets = sorted({*supplied, *borrowed})
                found = [await self._holding(who, asset) for asset in assets]
                holdings = [each for each in found if each is not None]
                e_mode = await self._read_e_mode(who, holdings)
        except ClarityError as error:
            raise SourceError(f"cannot read the position of {borrower}: {error}") from (
                error
            )
        held = tuple(holdings)
        return [Position(borrower=borrower, holdings=held, read_at=at, e_mode=e_mode)]

    async def _holding(self, who: Principal, asset: str) -> Holding | None:
        reserve, args = self._reserves.get(asset), (who, Principal(asset))
        data = await self._node.call(self._data, "get-user-reserve-data-read", *args)
        if data is None:
            return None
        known, owed, supply = fields(some(data)), 0, 0
        if uint(known.get("principal-borrow-balance")):
            balance = await self._node.call(
                self._reader, "get-user-borrow-balance", *args
            )
            owed = uint(fields(balance).get("compounded-balance"))
        pledged = known.get("use-as-collateral") is True
        if not pledged and not owed:
            return None
        if pledged and reserve is not None:
            supply = uint(
                ok(await self._node.call(reserve.z_token, "get-balance", who))
            )
        return Holding(
            asset=asset, supplied=supply, borrowed=owed, as_collateral=pledged
        )

    async def state(self, at: int) -> StateV1:
        """Read what each reserve allows, and the ratios in prices.

        Raises:
            SourceError: not all of it can be read now.
        """
        del at  # the contracts have no times but heights
        reserves = list(self._reserves.values())
        found = await _all("reserves", [self._reserve(each) for each in reserves])
        return StateV1(
            reserves={asset: state for asset, state, _ in found},
            ratios={asset: ratio for asset, _, ratio in found if ratio is not None},
        )

    async def _reserve(
        self, reserve: ReserveV1
    ) -> list[tuple[str, ReserveState, int | None]]:
        asset, call = Principal(reserve.asset), self._node.call
        liquidity, grace, ratio = None, False, None
        try:
            said = await call(self._data, "get-reserve-state-read", asset)
            state = fields(some(said))
            if reserve.seizable:
                vault = Principal(self._market.contracts.vault)
                held = uint(ok(await call(reserve.asset, "get-balance", vault)))
                # The pool does not pay out what it owes to the treasury.
                liquidity = max(held - uint(state.get("accrued-to-treasury")), 0)
                grace = await self._in_grace(asset)
            pricing = reserve.pricing
            if isinstance(pricing, Ratio) and pricing.ratio is None:
                base = Principal(self._by_symbol[pricing.base].asset)
                oracle = principals((state.get("oracle"),))[0]
                price = uint(ok(await call(oracle, "get-price", asset)))
                of_base = uint(ok(await call(oracle, "get-price", base)))
                # The oracle truncates price * ratio; the ratio has six decimals.
                ratio = -(-price * 10**6 // max(of_base, 1)) * 100
        except ClarityError as error:
            raise SourceError(
                f"cannot read reserve {reserve.symbol}: {error}"
            ) from error
        active, frozen = (state.get(key) is True for key in ("is-active", "is-frozen"))
        found = ReserveState(
            liquidity=liquidity, active=active, frozen=frozen, grace=grace
        )
        return [(reserve.asset, found, ratio)]

    async def _in_grace(self, asset: Principal) -> bool:
        """Return whether the grace period after a freeze has not ended."""
        if (contract := self._grace) is None:
            return False
        call = self._node.call
        # Without a setting the contract refuses every liquidation.
        if await call(contract, "get-grace-period-enabled-read", asset) == Some(False):
            return False
        end = await call(contract, "get-freeze-end-block-read", asset)
        period = await call(contract, "get-grace-period-time-read", asset)
        if end is None or period is None:
            return True
        since = await self._node.burn_height() - uint(some(end))
        return since <= uint(some(period))

    async def _read_e_mode(self, who: Principal, holdings: list[Holding]) -> int:
        reserves = [self._reserves.get(each.asset) for each in holdings]
        if self._e_mode is None or not any(each and each.e_mode for each in reserves):
            return 0
        mode = await self._node.call(self._e_mode, "get-user-e-mode-read", who)
        if mode is None:
            return 0
        flag = some(mode)
        if not isinstance(flag, bytes) or len(flag) != 1:
            raise ClarityError(f"e-mode must be one byte, got {flag!r}")
        return flag[0]


class NodeV2:
    """Positions and the protocol's state of Zest V2, from its public contracts.

    The state takes about 120 calls, a position takes one. ``[node]`` in the market file
    names the contracts ``assets``, ``groups``, ``ststx``, ``stbtc`` and ``dia``.

    Raises:
        MarketError: the market is not of Zest V2, or its file lacks a contract.
    """

    caveats: Sequence[str] = (
        "positions and state are as of the node's tip, which may lag or be reorganised",
        "interest is computed up to the decision; the call adds it up to its block",
    )
    chunk: int = 10

    def __init__(self, node: Node, market: Market) -> None:
        if not isinstance(market, MarketV2):
            raise MarketError(f"protocol must be 'zest-v2', got {market.protocol!r}")
        self._node, self._market = node, market
        keys = ("assets", "groups", "ststx", "stbtc", "dia")
        self._names = {key: _contract(market, key) for key in keys}
        self._tokens: dict[int, str] = {}

    async def borrowers(self, most: int) -> Sequence[str]:
        """Return the accounts with debt among the newest ones of that number."""
        count, vault = (
            await self._read(int, self._market.vault, "get-nr"),
            self._market.vault,
        )
        newest = range(max(0, count - most), count)
        found = await self._each(_Account, vault, "lookup", newest)
        return [each.account for each in found if each.mask >> 64]

    async def positions(self, borrowers: Sequence[str], at: int) -> Sequence[Position]:
        """Read the positions of these addresses, in their order."""
        if not self._tokens:
            await self._registry()
        return await _all("positions", [self._position(each, at) for each in borrowers])

    async def state(self, at: int) -> StateV2:
        """Read the protocol's state; of a market without rules only its name.

        Raises:
            SourceError: the state cannot be read now.
        """
        names, vault = self._names, self._market.vault
        market = await self._read(str, vault, "get-impl")
        if market != self._market.contract:
            return StateV2(read_at=at, market=market)
        values = await self._table(
            {
                "enabled": (names["assets"], "get-bitmap"),
                "ststx": (names["ststx"], "get-stx-per-ststx"),
                "stbtc": (names["stbtc"], "get-sbtc-per-stbtc"),
                "haircut": (market, "get-stbtc-haircut-bps"),
                "max_confidence": (market, "get-max-confidence-ratio"),
                "paused": (market, "get-pause-liquidation"),
                "grace_end": (market, "get-liquidation-grace-end"),
                "pauses": (vault, "get-pause-states"),
            }
        )
        assets = await self._registry()
        groups = range(await self._read(int, names["groups"], "get-nonce"))
        lent = {SHARES[each.id]: each.addr for each in assets if each.id in SHARES}
        vaults = await asyncio.gather(*(self._vault(*each) for each in lent.items()))
        known = {
            "read_at": at,
            "market": market,
            "assets": assets,
            "groups": await self._each(Group, names["groups"], "lookup", groups),
            "vaults": dict(zip(lent, vaults, strict=True)),
            "dia": await self._dia(assets),
        }
        return _convert(f"state of {market}", {**values, **known}, StateV2)

    async def compare(self) -> MarketCheck:
        """Compare the file with the market in force and with the registry."""
        market = self._market
        found = [f"market {await self._read(str, market.vault, 'get-impl')}"]
        found += [_token(each.addr, each.decimals) for each in await self._registry()]
        filed = [f"market {market.contract}"]
        filed += [_token(each.asset, each.decimals) for each in market.reserves]
        wrong: list[str] = []
        missing: list[str] = []
        for on_chain, in_file in zip_longest(found, filed, fillvalue="nothing"):
            if on_chain != in_file:
                text = f"the chain has {on_chain}, the file {in_file}"
                (missing if in_file == "nothing" else wrong).append(text)
        return MarketCheck(tuple(wrong), tuple(missing))

    async def _position(self, borrower: str, at: int) -> list[Position]:
        args = (Principal(borrower), UInt(2**64 - 1))
        answer = await self._node.call(self._market.vault, "get-position", *args)
        found = _Obligation((), ())
        if answer != Err(UInt(600006)):
            found = _convert(f"position of {borrower}", answer, _Obligation)
        supplied = {each.aid: each.amount for each in found.collateral}
        borrowed = {each.aid: each.scaled for each in found.debt}
        holdings = tuple(
            Holding(
                asset=self._tokens.get(asset, f"asset {asset}"),
                supplied=supplied.get(asset, 0),
                borrowed=borrowed.get(asset, 0),
            )
            for asset in sorted({*supplied, *borrowed})
        )
        return [Position(borrower=borrower, holdings=holdings, read_at=at)]

    async def _registry(self) -> list[Asset]:
        contract = self._names["assets"]
        ids = range(await self._read(int, contract, "get-nonce"))
        assets = await self._each(Asset, contract, "get-status", ids)
        self._tokens = {each.id: each.addr for each in assets}
        return assets

    async def _vault(self, lent: int, vault: str) -> Vault:
        values = await self._table(
            {
                # As stored, not `get-next-index`: the roll-forward starts from there.
                "index": (vault, "get-index"),
                "lindex": (vault, "get-liquidity-index"),
                "last_update": (vault, "get-last-update"),
                "principal": (vault, "get-principal-scaled"),
                "available": (vault, "get-available-assets"),
                "utils": (vault, "get-points-util"),
                "rates": (vault, "get-points-rate"),
                "fee": (vault, "get-fee-reserve"),
                "pauses": (vault, "get-pause-states"),
            }
        )
        function = "get-liquidation-grace-period-asset"
        grace = await self._read(int, self._market.contract, function, UInt(lent))
        return _convert(vault, {**values, "grace_end": grace}, Vault)

    async def _dia(self, assets: Sequence[Asset]) -> dict[str, Price]:
        found: dict[str, Price] = {}
        for each in assets:
            if each.oracle.dia and each.oracle.ident not in found:
                try:
                    name = deserialize(bytes.fromhex(each.oracle.ident))
                except ClarityError as error:
                    raise SourceError(
                        f"cannot read the name of DIA's price: {error}"
                    ) from error
                answer = await self._read(_Dia, self._names["dia"], "get-value", name)
                found[each.oracle.ident] = Price(
                    asset=each.addr, price=answer.value, at=answer.timestamp // 1000
                )
        return found

    async def _read(
        self, kind: type[_T], contract: str, function: str, *arguments: Value
    ) -> _T:
        answer = await self._node.call(contract, function, *arguments)
        return _convert(f"{contract} {function}", answer, kind)

    async def _each(
        self, kind: type[_T], contract: str, function: str, numbers: Iterable[int]
    ) -> list[_T]:
        """Call a function once for each number."""
        jobs = (self._read(kind, contract, function, UInt(n)) for n in numbers)
        return list(await asyncio.gather(*jobs))

    async def _table(self, calls: Mapping[str, tuple[str, str]]) -> dict[str, Value]:
        """Return the values of calls without arguments."""
        values = await asyncio.gather(
            *(self._node.call(*each) for each in calls.values())
        )
        return dict(zip(calls, values, strict=True))


class _Account(msgspec.Struct):
    account: str
    mask: int


class _Collateral(msgspec.Struct):
    aid: int
    amount: int


class _Debt(msgspec.Struct):
    aid: int
    scaled: int


class _Obligation(msgspec.Struct):
    collateral: tuple[_Collateral, ...]
    debt: tuple[_Debt, ...]


class _Dia(msgspec.Struct):
    value: int
    timestamp: int


def _token(contract: str, decimals: int) -> str:
    return f"{contract} with {decimals} decimals"


def _convert(what: str, value: object, kind: type[_T]) -> _T:
    """Return an answer, without ``(ok ...)``, as a type, strictly."""
    try:
        return msgspec.convert(_plain(value), kind)
    except ValueError as error:
        raise SourceError(f"cannot read {what}: {error}") from error


def _plain(value: object) -> object:
    """Return a value in Python's own types; buffers of one or two bytes are numbers."""
    match value:
        case Ok(inner) | Some(inner):
            return _plain(inner)
        case Err():
            raise ClarityError(f"expected (ok ...), got {represent(value)}")
        case UInt(number):
            return number
        case Principal(text) | Name(text):
            return text
        case bytes():
            return value.hex() if len(value) > 2 else int.from_bytes(value)
        case Mapping():
            return {key: _plain(each) for key, each in value.items()}
        case tuple() | list():
            return tuple(map(_plain, value))
        case _:
            return value


class NodePrices:
    """Prices, with time and confidence, from Pyth's contract on the chain.

    ``[node]`` in the market file names the contract as ``pyth``; each reserve names its
    ``feed``.

    Raises:
        MarketError: the contract or every feed is missing from the market file.
    """

    caveats: Sequence[str] = (
        "prices are Pyth's as last written on the chain",
        "the protocol's oracles may convert them (stSTX), or take others",
    )

    def __init__(self, node: Node, market: Market) -> None:
        self._node = node
        self._pyth = _contract(market, "pyth")
        self._reserves = [each for each in market.reserves if each.feed]
        if not self._reserves:
            raise MarketError("market.reserves: at least one reserve needs a feed")

    async def prices(self) -> Sequence[Price]:
        """Read each feed once, and return the price of each reserve that has one."""
        feeds = sorted({each.feed for each in self._reserves})
        return await _all("price feeds", [self._read(each) for each in feeds])

    async def _read(self, feed: str) -> list[Price]:
        """Return the price of each reserve that has this feed."""
        answer = await self._node.call(self._pyth, "get-price", bytes.fromhex(feed))
        try:
            found = fields(ok(answer))
            exponent = integer(found.get("expo"))
            price = _eight(integer(found.get("price")), exponent)
            confidence = _eight(uint(found.get("conf")), exponent)
            at = uint(found.get("publish-time"))
        except ClarityError as error:
            raise SourceError(f"cannot read the feed {feed}: {error}") from error
        return [
            Price(asset=each.asset, price=price, confidence=confidence, at=at)
            for each in self._reserves
            if each.feed == feed
        ]


async def _all(what: str, jobs: Sequence[Awaitable[Sequence[_T]]]) -> list[_T]:
    """Wait for all jobs; those that fail do not lose what the others have read."""
    done = await asyncio.gather(*jobs, return_exceptions=True)
    found: list[_T] = []
    failed: list[SourceError] = []
    for each in done:
        if isinstance(each, SourceError):
            failed.append(each)
        elif isinstance(each, BaseException):
            raise each
        else:
            found.extend(each)
    if failed:
        count = f"{len(failed)} of {len(jobs)} {what} not read: " if found else ""
        raise SourceError(f"{count}{failed[0]}", found) from failed[0]
    return found


@attrs.frozen
class MarketCheck:
    """What a market file says, compared with the chain.

    Attributes:
        wrong: where the file says something else than the chain.
        missing: what the file does not say; nothing is decided with it.
    """

    wrong: tuple[str, ...]
    missing: tuple[str, ...]


def node_source(node: Node, market: Market) -> NodePositions | NodeV2:
    """Return the source of positions and state for the market's protocol.

    Raises:
        MarketError: the protocol has none, or the market file does not name a contract.
    """
    if isinstance(market, MarketV2):
        return NodeV2(node, market)
    return NodePositions(node, market)


async def check_market(node: Node, market: Market) -> MarketCheck:
    """Compare a market file with the chain; of Zest V2 the market, tokens and decimals.

    Raises:
        MarketError: the rules are neither V1's nor V2's, or a contract is not named.
        SourceError: not everything can be read now.
    """
    if isinstance(market, MarketV2):
        return await NodeV2(node, market).compare()
    if not isinstance(market, MarketV1):
        raise MarketError(f"a market of {market.protocol} cannot be compared")
    wrong: list[str] = []
    missing: list[str] = []
    checks = list(_checks(market))
    answers = await _all("answers", [_answer(node, each) for each in checks])
    for check, answer in zip(checks, answers, strict=True):
        for key, expected in check.expected.items():
            found = answer
            if key:
                found = answer.get(key) if isinstance(answer, Mapping) else None
            if found == expected or (found is None and expected == _NO_E_MODE):
                continue
            says = "nothing" if expected is None else represent(expected)
            place = f"{check.what} {key or check.function}"
            text = f"{place}: the chain has {represent(found)}, the file {says}"
            (missing if expected is None else wrong).append(text)
    return MarketCheck(tuple(wrong), tuple(missing))


@attrs.frozen
class _Check:
    """A call, and its answer as the file has it: of a tuple by key, else with key ""."""

    what: str
    contract: str
    function: str
    arguments: tuple[Value, ...]
    expected: Mapping[str, Value]


async def _answer(node: Node, check: _Check) -> list[Value]:
    try:
        answer = await node.call(check.contract, check.function, *check.arguments)
    except CallRefused as error:
        return [Name(str(error))]
    return [answer.value if isinstance(answer, Some) else answer]


def _checks(market: MarketV1) -> Iterator[_Check]:
    """Yield a call for everything that a market file says about Zest V1."""
    data, registry = _contract(market, "data"), "the market"
    threshold = UInt(market.rules.health_threshold)
    assets = tuple(Principal(each.asset) for each in market.reserves)
    vault = Principal(market.contracts.vault)
    limit = "get-health-factor-liquidation-threshold-read"
    yield _Check(registry, data, "get-assets-read", (), {"": assets})
    yield _Check(registry, data, limit, (), {"": threshold})
    yield _Check(registry, data, "get-reserve-vault-read", (), {"": vault})
    for each in market.reserves:
        yield from _reserve_checks(market, data, each)
    for oracle in {each.oracle for each in market.reserves if each.feed}:
        age = {"": UInt(market.rules.max_price_age)}
        yield _Check(oracle, oracle, "get-stale-price-threshold", (), age)


def _reserve_checks(market: MarketV1, data: str, each: ReserveV1) -> Iterator[_Check]:
    asset = (Principal(each.asset),)

    def check(
        contract: str, name: str, expected: Value, *arguments: Value, key: str = ""
    ) -> _Check:
        function = f"get-{name}-read"
        what = {key: expected}
        return _Check(each.symbol, contract, function, arguments or asset, what)

    state: Mapping[str, Value] = {
        "decimals": UInt(each.decimals),
        "oracle": Principal(each.oracle),
        "a-token-address": Principal(each.z_token),
        "liquidation-threshold": _known(each.threshold),
        "liquidation-bonus": _known(each.bonus),
        "usage-as-collateral-enabled": each.collateral,
    }
    yield _Check(each.symbol, data, "get-reserve-state-read", asset, state)
    factor, fee = _known(each.close_factor), _known(each.fee_bps)
    yield check(data, "liquidation-close-factor-percent", factor)
    yield check(data, "origination-fee-prc", fee)
    if isinstance(each.pricing, Fixed):
        price = {"": UInt(each.pricing.price)}
        yield _Check(each.symbol, each.oracle, "get-price", (), price)
    if modes := market.node.get("e_mode"):
        flag = bytes([each.e_mode])
        yield check(modes, "asset-e-mode-type", flag)
        if each.e_mode:
            threshold, key = UInt(each.e_mode_threshold), "liquidation-threshold"
            yield check(modes, "e-mode-type-config", threshold, flag, key=key)
            bonuses = _contract(market, "e_mode_bonus")
            bonus = UInt(each.e_mode_bonus)
            yield check(bonuses, "liquidation-bonus-e-mode", bonus)


def _known(value: int | None) -> UInt | None:
    return None if value is None else UInt(value)


def _contract(market: Market, key: str) -> str:
    try:
        return market.node[key]
    except KeyError:
        raise MarketError(f"market.node.{key} is missing: name the contract") from None


def _eight(number: int, exponent: int) -> int:
    places = exponent + 8
    if abs(places) > 30 or number < 0:
        raise ClarityError(f"price out of range: {number} with exponent {exponent}")
    return number * int(10**places) if places >= 0 else number // int(10**-places)
