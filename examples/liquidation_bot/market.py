"""The market file: what is true of the protocol today is data, with source and date.

Parameters, contracts and oracles change by governance; none of them is in the code.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, cast

import attrs

from liquidation_bot.clarity import ClarityError, check_principal
from liquidation_bot.model import fixed
from liquidation_bot.zest import ONE

__all__ = ["FUNCTIONS", "Market", "MarketError", "Reserve"]

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

_NAME: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]{0,127}")

_FEED: Final = re.compile(r"[0-9a-f]{64}")

T = TypeVar("T")


class MarketError(ValueError):
    """Refuse a market file; the message names the place and what belongs there."""


@attrs.frozen(kw_only=True)
class Reserve:
    """Describe one reserve. Percentages have eight decimals.

    Attributes:
        symbol: for people.
        asset: the token's contract.
        moves: what moves when it is paid, ``contract::token``, for post-conditions;
            "" where that is STX itself.
        decimals: of the token.
        z_token: the contract that speaks for the supplier's token.
        z_moves: what is burnt when it is seized, ``contract::token``.
        oracle: the price oracle's contract.
        price_token: what Ortege's price cube calls the token.
        asset_ids: what Ortege's position cube calls the token.
        threshold: the liquidation threshold.
        bonus: the liquidation bonus.
        close_factor: the part of a debt in it that one call may pay.
        fee_bps: the protocol's part of a bonus in it, in hundredths of a percent.
        payable: the file has its close factor. A call must name every reserve, so one
            is listed without it too; nothing is decided about debts in it then.
        seizable: the file has its threshold, bonus and fee; likewise.
        feed: its price feed at Pyth, 32 bytes in hex; "" for none.
        collateral: it may be collateral.
        e_mode: the e-mode it belongs to; 0 for none.
        e_mode_threshold: the threshold in that e-mode.
        e_mode_bonus: the bonus in that e-mode.
    """

    symbol: str
    asset: str
    moves: str
    decimals: int
    z_token: str
    z_moves: str
    oracle: str
    price_token: str
    asset_ids: tuple[str, ...]
    threshold: int = 0
    bonus: int = 0
    close_factor: int = 0
    fee_bps: int = 0
    payable: bool = True
    seizable: bool = True
    feed: str = ""
    collateral: bool = True
    e_mode: int = 0
    e_mode_threshold: int = 0
    e_mode_bonus: int = 0

    def threshold_in(self, e_mode: int) -> int:
        """Give the threshold for a borrower of that e-mode."""
        return self.e_mode_threshold if self._covers(e_mode) else self.threshold

    def bonus_in(self, e_mode: int) -> int:
        """Give the bonus for a borrower of that e-mode."""
        return self.e_mode_bonus if self._covers(e_mode) else self.bonus

    def _covers(self, e_mode: int) -> bool:
        return e_mode != 0 and e_mode == self.e_mode


@attrs.frozen(kw_only=True)
class Market:
    """Describe a market; see ``markets/`` for files with comments.

    Attributes:
        name: for people.
        source: where the facts are from.
        as_of: the day they were true.
        unverified: what nobody checked, in words.
        liquidation: the contract that has ``liquidation-call``.
        watched: the contracts whose events say that a position moved.
        vault: who sends the collateral that is seized.
        health_threshold: a health factor below it can be liquidated; eight decimals.
        max_price_age: seconds after which the oracle refuses a price.
        max_confidence_bps: the widest confidence, in hundredths of a percent.
        amounts: what Ortege's positions are counted in.
        reserves: all of them, in the registry's order.
        node: names of contracts for reading from a node; empty where not needed.
        text: the file itself, for a record of the session.
    """

    name: str
    source: str
    as_of: date
    unverified: tuple[str, ...]
    liquidation: str
    watched: tuple[str, ...]
    vault: str
    health_threshold: int
    max_price_age: int
    max_confidence_bps: int
    amounts: Literal["tokens", "smallest"]
    reserves: tuple[Reserve, ...]
    node: Mapping[str, str] = attrs.field(factory=dict)
    text: str = attrs.field(default="", repr=False, eq=False)

    @classmethod
    def load(cls, path: Path) -> Market:
        """Read a market file.

        Raises:
            MarketError: it is not there, or it is no market.
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
            MarketError: it is no market.
        """
        try:
            table = tomllib.loads(text, parse_float=Decimal)
        except tomllib.TOMLDecodeError as error:
            raise MarketError(f"the market file is no TOML: {error}") from None
        return attrs.evolve(_market(_Section(table, "market")), text=text)

    def reserve(self, asset: str) -> Reserve | None:
        """Find the reserve of an asset by its contract."""
        return next((each for each in self.reserves if each.asset == asset), None)


class _Section:
    """Read the keys of a table, each once, and refuse what is left over."""

    def __init__(self, table: Mapping[str, Any], path: str) -> None:
        self._table = dict(table)
        self.path = path

    def take(self, key: str, kind: type[T], default: T | None = None) -> T:
        value = self._table.pop(key, default)
        if value is None:
            raise MarketError(f"{self.path}.{key} is missing")
        if not isinstance(value, kind) or (
            isinstance(value, bool) and kind is not bool
        ):
            raise self.wrong(key, f"must be of type {kind.__name__}, not {value!r}")
        return value

    def wrong(self, key: str, why: str) -> MarketError:
        return MarketError(f"{self.path}.{key} {why}")

    def text(self, key: str, default: str | None = None) -> str:
        return self.take(key, str, default)

    def texts(self, key: str, default: list[Any] | None = None) -> tuple[str, ...]:
        values = self.take(key, list, default)
        if not all(isinstance(each, str) and each for each in values):
            raise self.wrong(key, "must be a list of texts")
        return tuple(values)

    def has(self, *keys: str) -> bool:
        return any(key in self._table for key in keys)

    def whole(self, key: str, most: int, default: int | None = None) -> int:
        value = self.take(key, int, default)
        if not 0 <= value <= most:
            raise self.wrong(key, f"must be between 0 and {most}, not {value}")
        return value

    def percentage(self, key: str, default: Decimal | None = None) -> int:
        """Read 0.75 as 75 %, exactly."""
        raw = self._table.pop(key, default)
        if raw is None:
            raise MarketError(f"{self.path}.{key} is missing")
        if isinstance(raw, bool) or not isinstance(raw, int | Decimal):
            raise self.wrong(key, f"must be a number such as 0.75, not {raw!r}")
        number = Decimal(raw)
        if not number.is_finite() or not 0 <= number <= 10:
            raise self.wrong(key, f"must be between 0 and 10, not {raw}")
        value = fixed(number, 8)
        if Decimal(value) != number * ONE:
            raise self.wrong(key, f"has more than eight decimals: {raw}")
        return value

    def contract(self, key: str) -> str:
        return self._contract(key, self.text(key))

    def contracts(self, key: str) -> tuple[str, ...]:
        found = tuple(self._contract(key, each) for each in self.texts(key))
        if not found:
            raise self.wrong(key, "must name at least one contract")
        return found

    def _contract(self, key: str, value: str) -> str:
        try:
            check_principal(value)
        except ClarityError as error:
            raise self.wrong(key, f"is no contract: {error}") from None
        if "." not in value:
            raise self.wrong(key, f"must name a contract, not the account {value}")
        return value

    def token(self, key: str) -> str:
        value = self.text(key)
        contract, _, name = value.partition("::")
        if value and not _NAME.fullmatch(name):
            raise self.wrong(key, f"must be contract::token, not {value!r}")
        if value:
            self._contract(key, contract)
        return value

    def section(self, key: str) -> _Section:
        table = cast("dict[str, Any]", self.take(key, dict))
        return _Section(table, f"{self.path}.{key}")

    def done(self) -> None:
        if self._table:
            name = min(self._table)
            raise self.wrong(name, "is not a key that is known here")


def _market(top: _Section) -> Market:
    contracts, rules = top.section("contracts"), top.section("rules")
    units = top.section("units")
    amounts = units.text("amounts")
    if amounts not in ("tokens", "smallest"):
        raise units.wrong("amounts", f'must be "tokens" or "smallest", not {amounts!r}')
    node = cast("dict[str, Any]", top.take("node", dict, {}))
    nodes = _Section(node, f"{top.path}.node")
    market = Market(
        name=top.text("name"),
        source=top.text("source"),
        as_of=top.take("as_of", date),
        unverified=top.texts("unverified", []),
        liquidation=contracts.contract("liquidation"),
        watched=contracts.contracts("watched"),
        vault=contracts.contract("vault"),
        health_threshold=rules.percentage("health_threshold"),
        max_price_age=rules.whole("max_price_age", 10**9),
        max_confidence_bps=rules.whole("max_confidence_bps", 10_000),
        amounts="tokens" if amounts == "tokens" else "smallest",
        reserves=tuple(
            _reserve(_Section(table, f"market.reserves[{number}]"))
            for number, table in enumerate(_tables(top, "reserves"))
        ),
        node={key: nodes.contract(key) for key in node},
    )
    for section in (top, contracts, rules, units, nodes):
        section.done()
    _unique(market)
    return market


def _tables(section: _Section, key: str) -> list[dict[str, Any]]:
    tables: list[Any] = section.take(key, list)
    if not tables or not all(isinstance(each, dict) for each in tables):
        raise section.wrong(key, "must be [[reserves]] tables, at least one")
    return tables


def _reserve(section: _Section) -> Reserve:
    payable = section.has("close_factor")
    seizable = section.has("threshold", "bonus", "fee_bps")
    feed = section.text("feed", "")
    if feed and not _FEED.fullmatch(feed):
        raise section.wrong("feed", f"must be 64 hexadecimal digits, not {feed!r}")
    reserve = Reserve(
        symbol=section.text("symbol"),
        asset=section.contract("asset"),
        moves=section.token("moves"),
        decimals=section.whole("decimals", 38),
        z_token=section.contract("z_token"),
        z_moves=section.token("z_moves"),
        oracle=section.contract("oracle"),
        price_token=section.text("price_token"),
        asset_ids=section.texts("asset_ids"),
        threshold=section.percentage("threshold") if seizable else 0,
        bonus=section.percentage("bonus") if seizable else 0,
        close_factor=section.percentage("close_factor") if payable else 0,
        fee_bps=section.whole("fee_bps", 10_000) if seizable else 0,
        payable=payable,
        seizable=seizable,
        feed=feed,
        collateral=section.take("collateral", bool, default=True),
        e_mode=section.whole("e_mode", 255, 0),
        e_mode_threshold=section.percentage("e_mode_threshold", Decimal(0)),
        e_mode_bonus=section.percentage("e_mode_bonus", Decimal(0)),
    )
    section.done()
    return reserve


def _unique(market: Market) -> None:
    """Refuse a market in which a name from outside would mean two reserves."""
    for what, names in {
        "asset": [each.asset for each in market.reserves],
        "asset_ids": [name for each in market.reserves for name in each.asset_ids],
    }.items():
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise MarketError(f"market.reserves: {what} {repeated[0]} is there twice")
