"""The interface of a protocol's rules.

``decide.py`` asks a protocol how near a position is to its liquidation, what a call would
pay and seize, and what the call looks like. The answers are in one file for each
protocol; the market file chooses it with its key ``protocol``.
"""

from __future__ import annotations

import enum
import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, cast

import attrs
import msgspec

from liquidation_bot.market import Market, Reserve
from liquidation_bot.model import Position, Price
from liquidation_bot.stacks import Value

if TYPE_CHECKING:
    from liquidation_bot.decide import Plan

__all__ = [
    "LIQUIDATOR",
    "Call",
    "Case",
    "ChainState",
    "Condition",
    "Offer",
    "Quote",
    "Reason",
    "Refused",
    "Rules",
    "Standing",
    "Watched",
    "condition",
    "payment",
    "rules_of",
]

LIQUIDATOR: Final = "<the liquidator's address>"
"""The placeholder in post-conditions if the signer is not known."""

Condition: TypeAlias = dict[str, str]


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
    """A reason against a plan, raised or returned by the rules.

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


@attrs.frozen(kw_only=True)
class Case:
    """Everything that a decision about one borrower rests on.

    Attributes:
        position: of the borrower.
        prices: the newest price of each asset from the source, by the token's contract.
        state: the protocol's state; None if it was not read.
        now: unix seconds.
        cap: dollars that the call may pay, eight decimals; None for no cap.
        wallet: what the wallet has, in smallest units; assets that are missing here are
            not limited.
    """

    position: Position
    prices: Mapping[str, Price]
    state: ChainState | None
    now: int
    cap: int | None = None
    wallet: Mapping[str, int] = attrs.field(factory=dict)

    def affordable(self, reserve: Reserve, price: int, most: int) -> int:
        """Return how much of an amount the cap and the wallet allow to pay."""
        if self.cap is not None:
            most = min(most, self.cap * int(10**reserve.decimals) // price)
        return min(most, self.wallet.get(reserve.asset, most))


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


@attrs.frozen(kw_only=True)
class Standing:
    """How near a position is to its liquidation.

    Attributes:
        value: the protocol's measure, such as the health factor.
        text: the same in words, such as ``health 0.9800``.
        headroom: the signed distance to the threshold, eight decimals; negative if the
            position can be liquidated. It orders borrowers, whatever their protocol.
        facts: entries of the plan's document.
        quotes: the prices of every asset that counts.
    """

    value: int
    text: str
    headroom: int
    facts: Mapping[str, str]
    quotes: tuple[Quote, ...]


@attrs.frozen(kw_only=True)
class Offer:
    """A liquidation that the contract would carry out. Dollars have eight decimals.

    Attributes:
        debt: the reserve whose debt is paid.
        collateral: the reserve that is seized.
        requested: debt tokens that the call offers to pay.
        paid: debt tokens that it pays.
        seized: collateral tokens that the borrower loses.
        received: collateral tokens that the liquidator gets.
        requested_usd: the value of ``requested``.
        paid_usd: the value of ``paid``.
        received_usd: the value of ``received``.
        facts: entries of ``seizes`` in the plan's document.
    """

    debt: Reserve
    collateral: Reserve
    requested: int
    paid: int
    seized: int
    received: int
    requested_usd: int
    paid_usd: int
    received_usd: int
    facts: Mapping[str, str]


@attrs.frozen(kw_only=True)
class Call:
    """A contract call.

    Attributes:
        contract: the contract.
        function: its function.
        arguments: names and values, in order.
        conditions: the post-conditions, in deny mode.
        inserts: what the signer inserts for an argument, in words, by its name.
        complete: whether the call can pass without those.
    """

    contract: str
    function: str
    arguments: Sequence[tuple[str, Value]]
    conditions: Sequence[Condition]
    inserts: Mapping[str, str]
    complete: bool


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

    def offers(self, case: Case, standing: Standing) -> Sequence[Offer | Refused]:
        """Return what the contract would do, for each pair of debt and collateral.

        Raises:
            Refused: the contract would refuse every pair, for a reason that is looked
                for before the pair.
        """
        ...

    def call(self, plan: Plan, liquidator: str) -> Call:
        """Return the contract call of a plan.

        Args:
            plan: the plan.
            liquidator: the address in post-conditions, or the placeholder.
        """
        ...


def rules_of(market: Market) -> Rules:
    """Return the rules of a market; they are in the file that has its class."""
    module: Any = importlib.import_module(type(market).__module__)
    return cast("Rules", module.RULES(market))


def condition(address: str, moves: str, how: str, amount: int) -> Condition:
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


def payment(liquidator: str, debt: Reserve, most: int, fee: int) -> list[Condition]:
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
