"""Positions and prices, whatever source they come from, and exact numbers.

What is read from files is checked strictly: numbers are not strings, and unknown keys are
errors, because a misspelled key would otherwise leave a default in its place.
"""

from __future__ import annotations

import decimal
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import msgspec

__all__ = [
    "Amount",
    "FileError",
    "Holding",
    "Position",
    "PositionSource",
    "Price",
    "PriceSource",
    "SourceError",
    "UsageError",
    "exact",
    "fixed",
    "fixed_exactly",
    "load_json",
    "shown",
]

T = TypeVar("T")

Amount = Annotated[int, msgspec.Meta(ge=0)]
"""An integer that is not negative; checked where it is read from a file."""


class SourceError(Exception):
    """Raised when a source cannot be read now; the next round tries again.

    Attributes:
        read: the positions or prices that were read all the same.
    """

    def __init__(self, text: str, read: Sequence[Any] = ()) -> None:
        super().__init__(text)
        self.read = tuple(read)


class UsageError(ValueError):
    """Raised for a mistake in the options, the environment or a file."""


class FileError(UsageError):
    """Raised when a file that the user named cannot be read."""


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The price of one whole token of an asset.

    Attributes:
        asset: the contract of the token.
        price: dollars with eight decimals.
        at: when it was published (not when it was read), in unix seconds.
        confidence: half the width of its interval, dollars with eight decimals; None
            where the source does not tell it.
    """

    asset: str
    price: Amount
    at: int
    confidence: Amount | None = None


class Holding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A borrower's amounts in one reserve, in the token's smallest unit.

    Attributes:
        asset: the contract of the token.
        supplied: the amount that can be seized.
        borrowed: the debt.
        as_collateral: whether the borrower uses the supply as collateral.
    """

    asset: str
    supplied: Amount = 0
    borrowed: Amount = 0
    as_collateral: bool = True


class Position(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a borrower has and owes at one time.

    Attributes:
        borrower: the address.
        holdings: one for each reserve in use.
        read_at: unix seconds.
        e_mode: the borrower's e-mode; 0 without one.
    """

    borrower: str
    holdings: tuple[Holding, ...]
    read_at: int
    e_mode: int = 0

    @property
    def has_debt(self) -> bool:
        """Whether the borrower owes anything."""
        return any(each.borrowed for each in self.holdings)

    @property
    def assets(self) -> set[str]:
        """The assets that the health factor depends on."""
        return {each.asset for each in self.holdings}


class PositionSource(Protocol):
    """A source of positions."""

    @property
    def caveats(self) -> Sequence[str]:
        """What its positions leave out; repeated in every plan."""
        ...

    @property
    def chunk(self) -> int:
        """How many addresses to ask for at a time."""
        ...

    async def positions(self, borrowers: Sequence[str], at: int) -> Sequence[Position]:
        """Read one position for each address; an unknown address has no holdings.

        Raises:
            SourceError: not all positions can be read now; those that were are in it.
        """
        ...


class PriceSource(Protocol):
    """A source of prices."""

    @property
    def caveats(self) -> Sequence[str]:
        """What its prices leave out; repeated in every plan."""
        ...

    async def prices(self) -> Sequence[Price]:
        """Read the newest price of each asset.

        Raises:
            SourceError: not all prices can be read now; those that were are in it.
        """
        ...


def load_json(path: Path, kind: type[T]) -> T:
    """Read a JSON file as a type, strictly: unknown keys are errors.

    Raises:
        FileError: the file cannot be read, or does not fit the type.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, ValueError) as error:
        raise FileError(f"cannot read {path}: {error}") from None


def fixed(value: Decimal | int, places: int) -> int:
    """Convert a number to an int with that many decimals, truncated towards zero."""
    with decimal.localcontext(prec=200, rounding=decimal.ROUND_DOWN):
        return int(Decimal(value).scaleb(places).to_integral_value())


def fixed_exactly(value: Decimal | int, most: int) -> int:
    """Convert a number from 0 to ``most`` to an int with eight decimals.

    Raises:
        ValueError: the number is out of range or has more than eight decimals.
    """
    number = Decimal(value)
    if not number.is_finite() or not 0 <= number <= most:
        raise ValueError(f"must be between 0 and {most}, got {value}")
    result = fixed(number, 8)
    if exact(result, 8) != number:
        raise ValueError(f"must have at most eight decimals, got {value}")
    return result


def exact(value: int, places: int) -> Decimal:
    """Convert an int with that many decimals to the number that it stands for."""
    return Decimal(f"{value}e-{places}")  # unlike arithmetic, this never rounds


def shown(value: int, places: int, most: int | None = None) -> str:
    """Format an int with that many decimals for people.

    Args:
        value: the number.
        places: its decimals.
        most: decimals to show, truncated; all by default, without trailing zeros.
    """
    sign, digits = "-" * (value < 0), str(abs(value)).rjust(places + 1, "0")
    whole, part = digits[: len(digits) - places], digits[len(digits) - places :]
    part = part[:most] if most is not None else part.rstrip("0")
    return f"{sign}{int(whole):,}{'.' * bool(part)}{part}"
