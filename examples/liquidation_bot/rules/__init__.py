"""What the bot asks a protocol, and what the answers look like.

A third protocol is one file beside ``zest_v1.py``, named in ``market.PROTOCOLS``. It has
``MARKET``, its kind of `Market`, ``RULES``, its class with the five members of `Rules`,
and ``READER``, its `ChainReader`. State on the chain, if it needs any, is a `ChainState`
named in ``engine.State``. Nothing else of the bot knows a protocol.
"""

from __future__ import annotations

import enum
import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import attrs
import msgspec

from liquidation_bot.market import Market, Reserve
from liquidation_bot.model import Holding, Position, Price
from liquidation_bot.stacks import Steps, Value, represent, serialize

if TYPE_CHECKING:
    from liquidation_bot.engine import Plan

__all__ = [
    "LIQUIDATOR",
    "Case",
    "ChainReader",
    "ChainState",
    "Limits",
    "MarketCheck",
    "Offer",
    "Quote",
    "Reason",
    "Refused",
    "Rules",
    "Standing",
    "Watched",
    "condition",
    "contract_call",
    "payment",
    "reader_of",
    "rules_of",
]

LIQUIDATOR: Final = "<the liquidator's address>"
"""The placeholder in post-conditions if the signer is not known."""

_ONE: Final = 10**8


class Reason(enum.StrEnum):
    """The reasons against a plan, in the order in which they are looked for."""

    NO_DEBT = "no debt"
    UNKNOWN_ASSET = "unknown asset"
    NO_COLLATERAL = "no collateral"
    NO_STATE = "state not read"
    OTHER_MARKET = "other market"
    NO_PRICE = "no price"
    STALE_PRICE = "stale price"
    WIDE_PRICE = "wide price"
    TOO_CLOSE = "too close to call"
    HEALTHY = "healthy"
    PAUSED = "paused"
    GRACE = "grace period"
    ILLIQUID = "too little liquidity"
    OVER_CAP = "wallet cap"
    TOO_SMALL = "too small"
    UNPROFITABLE = "unprofitable"
    COOLING_DOWN = "planned already"


class Refused(Exception):
    """A reason against a plan.

    Attributes:
        reason: the kind of reason, for counting.
        detail: the reason in words.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class ChainState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base class of a protocol's state on the chain, besides positions and prices."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which liquidations are worth a plan. Dollars have eight decimals.

    Attributes:
        min_profit: dollars that must be left after fee and slippage.
        allow_unprofitable: make plans that lose money, too.
        transaction_fee: dollars that the call is expected to cost.
        slippage_bps: the expected loss when the collateral is sold, in hundredths of a
            percent; also how much less collateral the call may yield.
        wallet_cap: dollars that one call may pay; None for no cap.
        margin: how far beyond the threshold a position must be; eight decimals of the
            health factor or of the LTV.
        clock_skew: seconds that the time of a price may be in the future.
        valid_for: seconds after which a plan is not executed any more.
    """

    min_profit: int = _ONE
    allow_unprofitable: bool = False
    transaction_fee: int = _ONE // 10
    slippage_bps: int = 100
    wallet_cap: int | None = None
    margin: int = _ONE // 1000
    clock_skew: int = 60
    valid_for: int = 300


@attrs.frozen(kw_only=True)
class Case:
    """Everything that a decision about one borrower rests on.

    Attributes:
        position: of the borrower.
        prices: the newest price of each asset from the source, by the token's contract.
        limits: which liquidations are worth a plan.
        now: unix seconds.
        state: the protocol's state on the chain; None if it was not read.
        wallet: what the wallet has, in smallest units, by the token's contract; assets
            that are missing here are not limited.
    """

    position: Position
    prices: Mapping[str, Price]
    limits: Limits
    now: int
    state: ChainState | None = None
    wallet: Mapping[str, int] = attrs.field(factory=dict)

    def affordable(self, debt: Quote, most: int) -> int:
        """Return how much of an amount the cap and the wallet allow to pay.

        Raises:
            Refused: they allow nothing.
        """
        allowed = min(most, self.wallet.get(debt.reserve.asset, most))
        if (cap := self.limits.wallet_cap) is not None:
            allowed = min(allowed, cap * 10**debt.reserve.decimals // debt.price)
        if most and not allowed:
            detail = "the cap or the wallet leaves nothing to pay"
            raise Refused(Reason.OVER_CAP, detail)
        return int(allowed)


@attrs.frozen(kw_only=True)
class Quote:
    """The price of an asset as the contract computes it.

    Attributes:
        reserve: the asset.
        price: dollars of one whole token, eight decimals.
        source: the published price behind it; None if the contract has a constant.
        max_age: the age in seconds up to which the contract accepts ``source``.
        max_confidence: the widest confidence that it accepts; None for any.
    """

    reserve: Reserve
    price: int
    source: Price | None
    max_age: int = 0
    max_confidence: int | None = None

    def usd(self, amount: int, *, up: bool = False) -> int:
        """Return the value of an amount, in dollars with eight decimals."""
        unit = int(10**self.reserve.decimals)
        return (amount * self.price + (unit - 1 if up else 0)) // unit


@attrs.frozen(kw_only=True)
class Standing:
    """How near a position is to its liquidation.

    Attributes:
        value: the protocol's measure, such as the health factor.
        text: the same in words, such as ``health 0.9800``.
        headroom: the signed distance to the threshold, eight decimals; negative if the
            position can be liquidated. It orders borrowers, whatever their protocol.
        facts: entries of the plan's document.
        quotes: the price of every asset that counts, by the token's contract.
    """

    value: int
    text: str
    headroom: int
    facts: Mapping[str, str]
    quotes: Mapping[str, Quote]


@attrs.frozen(kw_only=True)
class Offer:
    """A liquidation that the contract would carry out.

    Attributes:
        debt: the asset whose debt is paid.
        collateral: the asset that is seized.
        requested: debt tokens that the call offers to pay.
        paid: debt tokens that it pays.
        seized: collateral tokens that the borrower loses.
        received: collateral tokens that the liquidator gets.
        facts: entries of ``seizes`` in the plan's document.
    """

    debt: Quote
    collateral: Quote
    requested: int
    paid: int
    seized: int
    received: int
    facts: Mapping[str, str]


@attrs.frozen
class Watched:
    """The events that report a changed position.

    Attributes:
        contracts: the contracts.
        functions: their functions that change a position.
        by_others: functions whose sender may be somebody else than the borrower.
    """

    contracts: Sequence[str]
    functions: Sequence[str]
    by_others: frozenset[str]


class Rules(Protocol):
    """The rules of a protocol in one market. Pure."""

    @property
    def watched(self) -> Watched:
        """The events that report a changed position."""
        ...

    def price_assets(self, position: Position) -> set[str]:
        """Return the assets whose published prices the position depends on."""
        ...

    def standing(self, case: Case) -> Standing:
        """Return how near a position with debt is to its liquidation.

        Raises:
            Refused: it cannot be computed.
        """
        ...

    def offer(
        self, case: Case, standing: Standing, debt: Holding, collateral: Holding
    ) -> Offer:
        """Return what the contract would do for a debt and a supply of the position.

        It is only asked if ``standing.headroom`` is negative.

        Raises:
            Refused: the contract would refuse, or the amounts are 0.
        """
        ...

    def call(self, plan: Plan, liquidator: str) -> dict[str, Any]:
        """Return the contract call of a plan, made by `contract_call`.

        Args:
            plan: the plan.
            liquidator: the address in post-conditions, or the placeholder.
        """
        ...


@attrs.frozen
class MarketCheck:
    """What a market file says, compared with the chain.

    Attributes:
        wrong: where the file says something else than the chain.
        missing: what the file does not say; nothing is decided with it.
    """

    wrong: tuple[str, ...]
    missing: tuple[str, ...]


class ChainReader:
    """What is read from a protocol's contracts, as calls for a node. Pure.

    Attributes:
        caveats: what its positions leave out.
        lists_borrowers: whether the contracts list accounts.
    """

    caveats: Sequence[str] = (
        "positions and state are as of the node's tip, which may lag or be reorganised",
    )
    lists_borrowers: bool = False

    def prepare(self) -> Steps[None]:
        """Read once what positions need."""
        yield ()

    def borrowers(self, most: int) -> Steps[list[str]]:
        """Return the accounts with debt among the newest ones of that number."""
        raise NotImplementedError(most)

    def position(self, borrower: str, at: int) -> Steps[Position]:
        """Return the position of an address, with as few calls as it needs."""
        raise NotImplementedError(borrower, at)

    def state(self, at: int) -> Steps[Any]:
        """Return the protocol's `ChainState`."""
        raise NotImplementedError(at)

    def differences(self) -> Steps[list[tuple[str, str, str | None]]]:
        """Return where the market file and the chain differ.

        Each difference is the place, what the chain has, and what the file has: None if
        it says nothing.
        """
        raise NotImplementedError


def reader_of(market: Market) -> ChainReader:
    """Return the reader of a market.

    Raises:
        MarketError: the market file does not name a contract that it needs.
    """
    return cast("ChainReader", _module(market).READER(market))


def rules_of(market: Market) -> Rules:
    """Return the rules of a market; they are in the file that has its class."""
    return cast("Rules", _module(market).RULES(market))


def _module(market: Market) -> Any:
    return importlib.import_module(type(market).__module__)


def contract_call(
    contract: str,
    function: str,
    arguments: Sequence[tuple[str, Value]],
    *,
    conditions: Sequence[dict[str, str]],
    inserts: Mapping[str, str],
    complete: bool,
) -> dict[str, Any]:
    """Return a call as JSON values; each argument has its name, source and bytes.

    Args:
        contract: the contract.
        function: its function.
        arguments: names and values, in order.
        conditions: the post-conditions, in deny mode.
        inserts: what the signer inserts for an argument, in words, by its name.
        complete: whether the call can pass without those.
    """
    return {
        "contract": contract,
        "function": function,
        "arguments": [
            {"name": name, "repr": represent(each), "hex": f"0x{serialize(each).hex()}"}
            for name, each in arguments
        ],
        "complete": complete,
        "signer_inserts": inserts,
        "post_condition_mode": "deny",
        "post_conditions": conditions,
    }


def condition(address: str, moves: str, how: str, amount: int) -> dict[str, str]:
    """Return a post-condition on what an address sends.

    Args:
        address: the sender.
        moves: the token as ``contract::token``, or "" for STX.
        how: the comparison, such as ``lte``.
        amount: in the token's smallest unit.
    """
    common = {"address": address, "condition": how, "amount": str(amount)}
    if not moves:
        return {"type": "stx-postcondition", **common}
    return {"type": "ft-postcondition", **common, "asset": moves}


def payment(
    liquidator: str, debt: Reserve, most: int, fee: int
) -> list[dict[str, str]]:
    """Return the conditions on what the liquidator sends.

    Args:
        liquidator: the address.
        debt: the reserve whose debt is paid.
        most: the most debt tokens that are paid.
        fee: the most micro-STX that a price message costs.
    """
    if not debt.moves:  # the chain compares each condition with the sum of all STX sent
        return [condition(liquidator, "", "lte", most + fee)]
    fees = [condition(liquidator, "", "lte", fee)] if fee else []
    return [condition(liquidator, debt.moves, "lte", most), *fees]
