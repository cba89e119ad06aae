"""The market file: the protocol's parameters as data, with their source and date.

Parameters, contracts and oracles change by governance, so none of them is in the code.
This file has what all protocols share; the rest stands beside the protocol's rules.
"""

from __future__ import annotations

import importlib
import tomllib
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, cast

import msgspec

from liquidation_bot.model import UsageError, fixed_exactly
from liquidation_bot.stacks import check_principal

__all__ = [
    "PROTOCOLS",
    "BasisPoints",
    "Contract",
    "Contracts",
    "Market",
    "MarketError",
    "Percentage",
    "Reserve",
    "Seconds",
    "Table",
    "Token",
    "Units",
]

PROTOCOLS: Final = {
    "zest-v1": "liquidation_bot.rules.zest_v1",
    "zest-v2": "liquidation_bot.rules.zest_v2",
}
"""The module with the rules of each protocol, by the market file's key."""

_MAX_PERCENTAGE: Final = 10
_CONTRACT: Final = r"[0-9A-Za-z]+\.[a-zA-Z][a-zA-Z0-9_-]*"

BasisPoints = Annotated[int, msgspec.Meta(ge=0, le=10_000)]
Contract = Annotated[str, msgspec.Meta(pattern=rf"\A{_CONTRACT}\Z")]
Contracts = Annotated[tuple[Contract, ...], msgspec.Meta(min_length=1)]
Decimals = Annotated[int, msgspec.Meta(ge=0, le=38)]
Feed = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]
Roles = dict[str, Contract]
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


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file; each address in it is checked."""

    def __post_init__(self) -> None:
        """Check the addresses of contracts and tokens; "" is STX itself."""
        for field in msgspec.structs.fields(self):
            if field.type in (Contract, Token, Contracts, Roles):
                found = getattr(self, field.name)
                named = found.values() if isinstance(found, dict) else found
                for name in [found] if isinstance(found, str) else named:
                    if name:
                        check_principal(name.partition("::")[0])


class Reserve(Table, frozen=True, kw_only=True):
    """One asset of the market.

    Attributes:
        symbol: for people.
        asset: the token's contract.
        moves: the token that a payment transfers, for post-conditions.
        decimals: of the token.
        price_token: the token's name in Ortege's price cube.
        asset_ids: the token's names in Ortege's position cube.
        feed: the price feed at Pyth, 32 bytes in hex; "" without one.
    """

    symbol: str
    asset: Contract
    moves: Token
    decimals: Decimals
    price_token: str
    asset_ids: tuple[NonEmpty, ...]
    feed: Feed = ""


class Units(Table, frozen=True, kw_only=True):
    """The units in Ortege's cubes.

    Attributes:
        amounts: ``"tokens"`` or ``"smallest"``, the token's smallest unit.
    """

    amounts: Annotated[str, msgspec.Meta(pattern=r"\A(tokens|smallest)\Z")]


class Market(Table, frozen=True, kw_only=True):
    """A market; see ``markets/`` for files with comments.

    Attributes:
        protocol: chooses the rules.
        name: for people.
        source: where the facts are from.
        as_of: the day on which they were true.
        units: the units in Ortege's cubes.
        reserves: all of them, in the registry's order.
        unverified: what is not verified, in words.
        node: contracts for reading from a node, by role; empty where not needed.
        text: the file itself, for a record of the session.
    """

    protocol: str
    name: str
    source: str
    as_of: date
    units: Units
    reserves: Annotated[tuple[Reserve, ...], msgspec.Meta(min_length=1)]
    unverified: tuple[NonEmpty, ...] = ()
    node: Roles = msgspec.field(default_factory=dict)
    text: str = ""

    def __post_init__(self) -> None:
        """Check the contracts, and that no name means two reserves."""
        super().__post_init__()
        names = {
            "symbol": [each.symbol for each in self.reserves],
            "asset": [each.asset for each in self.reserves],
            "asset_ids": [name for each in self.reserves for name in each.asset_ids],
        }
        for what, found in names.items():
            repeated = sorted({name for name in found if found.count(name) > 1})
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
        """Read the text of a market file, TOML, as its protocol's kind of market.

        Raises:
            MarketError: the text is invalid; the message names the key.
        """
        try:
            table = tomllib.loads(text, parse_float=Decimal)
            kind = _kind(table.get("protocol"))
            market = msgspec.convert(table, kind, dec_hook=_read_value)
        except ValueError as error:
            raise MarketError(f"invalid market file: {error}") from None
        return msgspec.structs.replace(market, text=text)

    def role(self, name: str) -> str:
        """Return the contract that has a role in reading from a node.

        Raises:
            MarketError: the file does not name it.
        """
        try:
            return self.node[name]
        except KeyError:
            raise MarketError(
                f"market.node.{name} is missing: name the contract"
            ) from None

    def reserve(self, asset: str) -> Reserve | None:
        """Return the reserve of an asset, found by its contract."""
        return next((each for each in self.reserves if each.asset == asset), None)


def _kind(protocol: object) -> type[Market]:
    if not isinstance(protocol, str) or protocol not in PROTOCOLS:
        known = " or ".join(map(repr, PROTOCOLS))
        raise ValueError(f"protocol must be {known}, got {protocol!r}")
    module: Any = importlib.import_module(PROTOCOLS[protocol])
    return cast("type[Market]", module.MARKET)


def _read_value(kind: type[Any], value: object) -> object:
    return kind.read(value)
