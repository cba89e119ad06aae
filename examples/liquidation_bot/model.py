"""What the bot knows about borrowers and prices, whoever told it."""

from __future__ import annotations

import decimal
from collections.abc import Sequence
from decimal import Decimal
from typing import Protocol

import attrs

__all__ = [
    "FileError",
    "Holding",
    "Position",
    "PositionSource",
    "Price",
    "PriceSource",
    "SourceError",
    "exact",
    "fixed",
    "shown",
]


class SourceError(Exception):
    """Report that a source could not be read; the next round tries again."""


class FileError(SourceError):
    """Refuse a file that was named by the user; trying again is of no use."""


@attrs.frozen(kw_only=True)
class Price:
    """Hold the price of one whole token of an asset.

    Attributes:
        asset: the contract of the token.
        price: dollars, eight decimals.
        at: unix seconds when it was published; not when it was read.
        confidence: half the width of its interval, dollars with eight decimals; None
            where the source does not say.
    """

    asset: str
    price: int
    at: int
    confidence: int | None = None


@attrs.frozen(kw_only=True)
class Holding:
    """Hold what a borrower has in one reserve, in the token's smallest unit.

    Attributes:
        asset: the contract of the token.
        supplied: what could be seized.
        borrowed: the debt.
        as_collateral: the borrower lets it count as collateral.
    """

    asset: str
    supplied: int = 0
    borrowed: int = 0
    as_collateral: bool = True


@attrs.frozen(kw_only=True)
class Position:
    """Hold all that a borrower has, as it was at one time.

    Attributes:
        borrower: the address.
        holdings: one for each reserve in use.
        read_at: unix seconds.
        e_mode: the borrower's e-mode; 0 for none.
    """

    borrower: str
    holdings: tuple[Holding, ...]
    read_at: int
    e_mode: int = 0

    @property
    def has_debt(self) -> bool:
        """Tell whether there is anything to pay back."""
        return any(each.borrowed for each in self.holdings)

    @property
    def assets(self) -> set[str]:
        """Name the assets that the health depends on."""
        return {each.asset for each in self.holdings}


class PositionSource(Protocol):
    """Read positions from somewhere."""

    @property
    def caveats(self) -> Sequence[str]:
        """Say what its positions leave out; every plan repeats it."""
        ...

    async def positions(self, borrowers: Sequence[str], at: int) -> Sequence[Position]:
        """Read one position for each address; an empty one where there is none.

        Raises:
            SourceError: they cannot be read now.
        """
        ...


class PriceSource(Protocol):
    """Read prices from somewhere."""

    @property
    def caveats(self) -> Sequence[str]:
        """Say what its prices leave out; every plan repeats it."""
        ...

    async def prices(self) -> Sequence[Price]:
        """Read the newest price of each asset.

        Raises:
            SourceError: they cannot be read now.
        """
        ...


def fixed(value: Decimal | int, places: int) -> int:
    """Write a number with that many decimals as an int, cut off towards zero."""
    with decimal.localcontext(prec=200, rounding=decimal.ROUND_DOWN):
        return int(Decimal(value).scaleb(places).to_integral_value())


def exact(value: int, places: int) -> Decimal:
    """Write an int that has that many decimals as the number that it stands for."""
    return Decimal(f"{value}e-{places}")  # no context rounds a text


def shown(value: int, places: int, most: int | None = None) -> str:
    """Write an int that has that many decimals for people.

    Args:
        value: the number, not negative where it is an amount.
        places: its decimals.
        most: decimals to show; all by default. The rest is cut off.
    """
    sign, digits = "-" * (value < 0), str(abs(value)).rjust(places + 1, "0")
    whole, part = digits[: len(digits) - places], digits[len(digits) - places :]
    part = part[:most] if most is not None else part.rstrip("0")
    return f"{sign}{int(whole):,}{'.' * bool(part)}{part}"
