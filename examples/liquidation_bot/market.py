"""The market file: the protocol's parameters as data, with their source and date.

Parameters, contracts and oracles change by governance, so none of them is in the code.
"""

from __future__ import annotations

import tomllib
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from liquidation_bot.model import UsageError, fixed_exactly
from liquidation_bot.stacks import check_principal

__all__ = [
    "FUNCTIONS",
    "Contracts",
    "Market",
    "MarketError",
    "Percentage",
    "Reserve",
    "Rules",
    "Units",
]

FUNCTIONS: Final = (
    "supply",
    "borrow",
    "withdraw",
    "repay",
    "liquidation-call",
    "set-e-mode",
    "set-user-use-reserve-as-collateral",
)
"""The helper contract's functions that change a position."""

_MAX_PERCENTAGE: Final = 10
_CONTRACT: Final = r"[0-9A-Za-z]+\.[a-zA-Z][a-zA-Z0-9_-]*"

BasisPoints = Annotated[int, msgspec.Meta(ge=0, le=10_000)]
Contract = Annotated[str, msgspec.Meta(pattern=rf"\A{_CONTRACT}\Z")]
Decimals = Annotated[int, msgspec.Meta(ge=0, le=38)]
EMode = Annotated[int, msgspec.Meta(ge=0, le=255)]
Feed = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]
Seconds = Annotated[int, msgspec.Meta(ge=0, le=10**9)]
Token = Annotated[
    str, msgspec.Meta(pattern=rf"\A({_CONTRACT}::[a-zA-Z][a-zA-Z0-9_-]{{0,127}})?\Z")
]
"""``contract::token``, or "" for STX itself."""


class MarketError(UsageError):
    """Raised for an invalid market file; the message names the place."""


class Percentage(int):
    """A ratio with eight decimals: 0.75 in the file is 75_000_000."""

    @classmethod
    def read(cls, value: object) -> Percentage:
        """Convert a number of the file, without rounding."""
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            raise ValueError(f"expected a number such as 0.75, got {value!r}")  # noqa: TRY004 - msgspec adds the place
        return cls(fixed_exactly(value, _MAX_PERCENTAGE))


class Reserve(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One reserve of the market.

    A call must name every reserve, so a reserve is listed even if its parameters are
    not known. Nothing is decided about debts in a reserve without ``close_factor``, nor
    about collateral in one without ``threshold``, ``bonus`` and ``fee_bps``.

    Attributes:
        symbol: for people.
        asset: the token's contract.
        moves: the token that a payment transfers, for post-conditions.
        decimals: of the token.
        z_token: the contract of the supplier's token.
        z_moves: the token that is burnt when collateral is seized.
        oracle: the price oracle's contract.
        price_token: the token's name in Ortege's price cube.
        asset_ids: the token's names in Ortege's position cube.
        threshold: the liquidation threshold.
        bonus: the liquidation bonus.
        close_factor: the part of a debt that one call may pay.
        fee_bps: the protocol's part of the bonus, in hundredths of a percent.
        feed: the price feed at Pyth, 32 bytes in hex; "" without one.
        collateral: whether the asset can be collateral.
        e_mode: the e-mode that the asset belongs to; 0 without one.
        e_mode_threshold: the threshold in that e-mode.
        e_mode_bonus: the bonus in that e-mode.
    """

    symbol: str
    asset: Contract
    moves: Token
    decimals: Decimals
    z_token: Contract
    z_moves: Token
    oracle: Contract
    price_token: str
    asset_ids: tuple[NonEmpty, ...]
    threshold: Percentage | None = None
    bonus: Percentage | None = None
    close_factor: Percentage | None = None
    fee_bps: BasisPoints | None = None
    feed: Feed = ""
    collateral: bool = True
    e_mode: EMode = 0
    e_mode_threshold: Percentage = Percentage(0)
    e_mode_bonus: Percentage = Percentage(0)

    def __post_init__(self) -> None:
        """Check the contracts, and that no parameter of collateral is missing."""
        tokens = [each.partition("::")[0] for each in (self.moves, self.z_moves)]
        _check_contracts(self.asset, self.z_token, self.oracle, *filter(None, tokens))
        given = {
            "threshold": self.threshold,
            "bonus": self.bonus,
            "fee_bps": self.fee_bps,
        }
        missing = [name for name, value in given.items() if value is None]
        if missing and len(missing) < len(given):
            raise ValueError(f"{missing[0]} is missing: set {', '.join(given)} or none")

    @property
    def payable(self) -> bool:
        """Whether the parameters of debts are known."""
        return self.close_factor is not None

    @property
    def seizable(self) -> bool:
        """Whether the parameters of collateral are known."""
        return self.threshold is not None

    def threshold_in(self, e_mode: int) -> int:
        """Return the threshold for a borrower in that e-mode."""
        return self.e_mode_threshold if self._covers(e_mode) else self.threshold or 0

    def bonus_in(self, e_mode: int) -> int:
        """Return the bonus for a borrower in that e-mode."""
        return self.e_mode_bonus if self._covers(e_mode) else self.bonus or 0

    def _covers(self, e_mode: int) -> bool:
        return e_mode != 0 and e_mode == self.e_mode


class Contracts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The protocol's contracts.

    Attributes:
        liquidation: the contract that has ``liquidation-call``.
        watched: the contracts whose events report that a position changed.
        vault: the sender of the collateral that is seized.
    """

    liquidation: Contract
    watched: Annotated[tuple[Contract, ...], msgspec.Meta(min_length=1)]
    vault: Contract

    def __post_init__(self) -> None:
        """Check the contracts."""
        _check_contracts(self.liquidation, *self.watched, self.vault)


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The protocol's limits.

    Attributes:
        health_threshold: a position with a lower health factor can be liquidated.
        max_price_age: seconds after which the oracle refuses a price.
        max_confidence_bps: the widest confidence, in hundredths of a percent.
    """

    health_threshold: Percentage
    max_price_age: Seconds
    max_confidence_bps: BasisPoints


class Units(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The units in Ortege's cubes.

    Attributes:
        amounts: ``"tokens"`` or ``"smallest"``, the token's smallest unit.
    """

    amounts: Annotated[str, msgspec.Meta(pattern=r"\A(tokens|smallest)\Z")]


class Market(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A market; see ``markets/`` for files with comments.

    Attributes:
        name: for people.
        source: where the facts are from.
        as_of: the day on which they were true.
        contracts: the protocol's contracts.
        rules: the protocol's limits.
        units: the units in Ortege's cubes.
        reserves: all of them, in the registry's order.
        unverified: what is not verified, in words.
        node: contracts for reading from a node, by role; empty where not needed.
        text: the file itself, for a record of the session.
    """

    name: str
    source: str
    as_of: date
    contracts: Contracts
    rules: Rules
    units: Units
    reserves: Annotated[tuple[Reserve, ...], msgspec.Meta(min_length=1)]
    unverified: tuple[NonEmpty, ...] = ()
    node: dict[str, Contract] = msgspec.field(default_factory=dict)
    text: str = ""

    def __post_init__(self) -> None:
        """Check the contracts, and that no name means two reserves."""
        _check_contracts(*self.node.values())
        assets = [each.asset for each in self.reserves]
        asset_ids = [name for each in self.reserves for name in each.asset_ids]
        for what, names in {"asset": assets, "asset_ids": asset_ids}.items():
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise ValueError(f"duplicate {what} {repeated[0]!r} in reserves")

    @classmethod
    def load(cls, path: Path) -> Market:
        """Read a market file.

        Raises:
            MarketError: the file cannot be read or is invalid.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise MarketError(f"cannot read the market file {path}: {error}") from None
        return cls.read(text)

    @classmethod
    def read(cls, text: str) -> Market:
        """Read the text of a market file, TOML.

        Raises:
            MarketError: the text is invalid; the message names the key.
        """
        try:
            table = tomllib.loads(text, parse_float=Decimal)
            market = msgspec.convert(table, cls, dec_hook=_read_value)
        except ValueError as error:
            raise MarketError(f"invalid market file: {error}") from None
        return msgspec.structs.replace(market, text=text)

    def reserve(self, asset: str) -> Reserve | None:
        """Return the reserve of an asset, found by its contract."""
        return next((each for each in self.reserves if each.asset == asset), None)


def _check_contracts(*contracts: str) -> None:
    for contract in contracts:
        check_principal(contract)


def _read_value(kind: type[Any], value: object) -> object:
    return kind.read(value)
