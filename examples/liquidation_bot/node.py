"""Positions and prices from a Stacks node, by calls of read-only functions.

A liquidation is judged by the contracts' current state, which includes interest,
collateral flags and e-modes. The function names are those of Zest V1's public
contracts; the contracts themselves are named in the market file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, cast

import httpx

from liquidation_bot.clarity import (
    ClarityError,
    Ok,
    Principal,
    Some,
    UInt,
    Value,
    deserialize,
    serialize,
)
from liquidation_bot.market import Market, MarketError, Reserve
from liquidation_bot.model import Holding, Position, Price, SourceError

__all__ = ["Node", "NodePositions", "NodePrices"]

# A read-only call needs a sender, and accepts any: this is the burn address.
_SENDER: Final = "SP000000000000000000002Q6VF78"
_MAX_CONCURRENT: Final = 4


class Node:
    """A client that calls read-only functions over HTTP.

    Args:
        url: of the node or of its API, such as ``https://api.hiro.so``.
        transport: replaces the network in tests.
        timeout: in seconds, for connecting and for each read.
    """

    def __init__(
        self,
        url: str,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        timeout: float = 20.0,
    ) -> None:
        self._http = httpx.AsyncClient(
            base_url=url, transport=transport, timeout=timeout
        )
        self._slots = asyncio.Semaphore(_MAX_CONCURRENT)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def call(self, contract: str, function: str, *arguments: Value) -> Value:
        """Call a read-only function and return its value.

        Raises:
            SourceError: the call failed, or its response cannot be read.
        """
        address, _, name = contract.partition(".")
        body = {
            "sender": _SENDER,
            "arguments": [f"0x{serialize(each).hex()}" for each in arguments],
        }
        path = f"/v2/contracts/call-read/{address}/{name}/{function}"
        try:
            async with self._slots:
                response = await self._http.post(path, json=body)
            response.raise_for_status()
            return _result(response.json())
        except (httpx.HTTPError, ValueError, TypeError) as error:
            reason = str(error) or type(error).__name__
            raise SourceError(f"cannot call {contract} {function}: {reason}") from error


def _result(answer: Any) -> Value:
    if not isinstance(answer, dict):
        raise TypeError("expected a JSON object")
    fields = cast("dict[str, Any]", answer)
    if fields.get("okay") is not True:
        raise ValueError(str(fields.get("cause", "failed without a cause"))[:200])
    result = str(fields.get("result", ""))
    return deserialize(bytes.fromhex(result.removeprefix("0x")))


class NodePositions:
    """Positions from the protocol's own contracts.

    ``[node]`` in the market file names the contracts: ``data``
    (``get-user-assets-read``, ``get-user-reserve-data-read``), ``reader``
    (``get-user-borrow-balance``) and, for markets with e-modes, ``e_mode``
    (``get-user-e-mode-read``).

    Raises:
        MarketError: the market file does not name ``data`` or ``reader``.
    """

    caveats: Sequence[str] = (
        "positions are as of the node's tip, which may lag or be reorganised",
    )

    def __init__(self, node: Node, market: Market) -> None:
        self._node = node
        self._data = _contract(market, "data")
        self._reader = _contract(market, "reader")
        self._e_mode = market.node.get("e_mode")
        self._market = market

    async def positions(self, borrowers: Sequence[str], at: int) -> Sequence[Position]:
        """Read the positions of these addresses, in their order."""
        return await asyncio.gather(*(self._position(each, at) for each in borrowers))

    async def _position(self, borrower: str, at: int) -> Position:
        who = Principal(borrower)
        try:
            used = await self._node.call(self._data, "get-user-assets-read", who)
            assets = _assets(used)
            holdings = await asyncio.gather(
                *(self._holding(who, asset) for asset in assets)
            )
            e_mode = await self._read_e_mode(who)
        except ClarityError as error:
            raise SourceError(f"cannot read the position of {borrower}: {error}") from (
                error
            )
        return Position(
            borrower=borrower,
            holdings=tuple(each for each in holdings if each is not None),
            read_at=at,
            e_mode=e_mode,
        )

    async def _holding(self, who: Principal, asset: str) -> Holding | None:
        reserve = self._market.reserve(asset)
        data = await self._node.call(
            self._data, "get-user-reserve-data-read", who, Principal(asset)
        )
        if data is None and reserve is None:
            return None
        fields = _fields(_some(data)) if data is not None else {}
        borrowed = 0
        if fields and _uint(fields["principal-borrow-balance"]):
            balance = await self._node.call(
                self._reader, "get-user-borrow-balance", who, Principal(asset)
            )
            borrowed = _uint(_fields(balance)["compounded-balance"])
        return Holding(
            asset=asset,
            supplied=await self._supplied(who, reserve),
            borrowed=borrowed,
            as_collateral=fields.get("use-as-collateral", False) is True,
        )

    async def _supplied(self, who: Principal, reserve: Reserve | None) -> int:
        if reserve is None:
            return 0
        return _uint(_ok(await self._node.call(reserve.z_token, "get-balance", who)))

    async def _read_e_mode(self, who: Principal) -> int:
        if self._e_mode is None:
            return 0
        mode = await self._node.call(self._e_mode, "get-user-e-mode-read", who)
        if mode is None:
            return 0
        flag = _some(mode)
        if not isinstance(flag, bytes) or len(flag) != 1:
            raise ClarityError(f"e-mode must be one byte, got {flag!r}")
        return flag[0]


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
        found = await asyncio.gather(*(self._read(feed) for feed in feeds))
        by_feed: Mapping[str, tuple[int, int, int]] = dict(
            zip(feeds, found, strict=True)
        )
        return [
            Price(
                asset=reserve.asset,
                price=by_feed[reserve.feed][0],
                confidence=by_feed[reserve.feed][1],
                at=by_feed[reserve.feed][2],
            )
            for reserve in self._reserves
        ]

    async def _read(self, feed: str) -> tuple[int, int, int]:
        """Return price and confidence, with eight decimals, and the time."""
        answer = await self._node.call(self._pyth, "get-price", bytes.fromhex(feed))
        try:
            fields = _fields(_ok(answer))
            exponent = _int(fields["expo"])
            return (
                _eight(_int(fields["price"]), exponent),
                _eight(_uint(fields["conf"]), exponent),
                _uint(fields["publish-time"]),
            )
        except (ClarityError, KeyError) as error:
            raise SourceError(f"cannot read the feed {feed}: {error}") from error


def _contract(market: Market, key: str) -> str:
    try:
        return market.node[key]
    except KeyError:
        raise MarketError(f"market.node.{key} is missing: name the contract") from None


def _assets(value: Value) -> list[str]:
    """Return the assets in ``(optional {assets-supplied, assets-borrowed})``."""
    if value is None:
        return []
    fields, found = _fields(_some(value)), set[str]()
    for key in ("assets-supplied", "assets-borrowed"):
        listed = fields.get(key)
        if not isinstance(listed, tuple):
            raise ClarityError(f"{key} must be a list, got {listed!r}")
        for each in listed:
            if not isinstance(each, Principal):
                raise ClarityError(f"{key} must contain principals, got {each!r}")
            found.add(each.text)
    return sorted(found)


def _eight(number: int, exponent: int) -> int:
    places = exponent + 8
    if abs(places) > 30 or number < 0:
        raise ClarityError(f"price out of range: {number} with exponent {exponent}")
    return number * int(10**places) if places >= 0 else number // int(10**-places)


def _some(value: Value) -> Value:
    if not isinstance(value, Some):
        raise ClarityError(f"expected (some ...), got {value!r}")
    return value.value


def _ok(value: Value) -> Value:
    if not isinstance(value, Ok):
        raise ClarityError(f"expected (ok ...), got {value!r}")
    return value.value


def _fields(value: Value) -> Mapping[str, Value]:
    if not isinstance(value, Mapping):
        raise ClarityError(f"expected a tuple, got {value!r}")
    return value


def _uint(value: Value) -> int:
    if not isinstance(value, UInt):
        raise ClarityError(f"expected a uint, got {value!r}")
    return value.value


def _int(value: Value) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ClarityError(f"expected an int, got {value!r}")
    return value
