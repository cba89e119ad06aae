"""Zest Protocol V1's arithmetic: the health factor and the size of a liquidation.

All numbers are integers, rounded where and as the public contracts round (release of
2025-06-19), so the results equal theirs to the last digit. Amounts are in a token's
smallest unit; prices and percentages have eight decimals (``ONE`` is 1.00 USD, or
100 %). Clarity aborts if a product exceeds 2^128 - 1; these functions do not.

Zest V2 liquidates on LTV instead of a health factor and is not covered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

import attrs

__all__ = [
    "MAX",
    "ONE",
    "Collateral",
    "Debt",
    "Sizing",
    "div",
    "div_perc",
    "health_factor",
    "liquidation_limit",
    "mul",
    "mul_perc",
    "size_liquidation",
    "usd",
    "y_from_x",
]

ONE: Final = 10**8
"""1.00 dollar or 100 %: fixed point with eight decimals."""

MAX: Final = 2**128 - 1
"""The health factor without debt: Clarity's largest uint."""

_PLACES: Final = 8

Collateral: TypeAlias = tuple[int, int, int, int]
"""(amount, decimals, price, liquidation threshold)"""

Debt: TypeAlias = tuple[int, int, int]
"""(amount, decimals, price)"""


def _whole(**values: object) -> None:
    """Raise for what Clarity's uint cannot hold: floats, booleans, negative numbers."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool):
            kind = type(value).__name__
            raise TypeError(f"{name} must be an int (the smallest unit), got {kind}")
        if value < 0:
            raise ValueError(f"{name} must not be negative, got {value}")


def _positive(**values: int) -> None:
    _whole(**values)
    for name, value in values.items():
        if value == 0:
            raise ValueError(f"{name} must be positive: the contracts divide by it")


def _ten(exponent: int) -> int:
    """Return ten to a power that is not negative."""
    return int(10**exponent)  # type checkers take the power of two ints for Any


def mul(x: int, y: int) -> int:
    """Multiply two numbers of eight decimals, rounded half up."""
    _whole(x=x, y=y)
    return (x * y + ONE // 2) // ONE


def div(x: int, y: int) -> int:
    """Divide two numbers of eight decimals, rounded half up.

    Raises:
        ValueError: ``y`` is 0.
    """
    _whole(x=x)
    _positive(y=y)
    return (x * ONE + y // 2) // y


def usd(amount: int, decimals: int, price: int) -> int:
    """Return the value of an amount in dollars with eight decimals.

    Args:
        amount: in the token's smallest unit.
        decimals: of the token.
        price: dollars for one whole token, with eight decimals.
    """
    _whole(amount=amount, decimals=decimals)
    if decimals > _PLACES:
        return mul(amount // _ten(decimals - _PLACES), price)
    return mul(amount * _ten(_PLACES - decimals), price)


def mul_perc(amount: int, decimals: int, percentage: int) -> int:
    """Multiply a token amount by a percentage (or a price) with eight decimals."""
    _whole(amount=amount, decimals=decimals, percentage=percentage)
    if decimals > _PLACES:
        one = _ten(decimals)
        return (amount * percentage * _ten(decimals - _PLACES) + one // 2) // one
    shift = _ten(_PLACES - decimals)
    return (amount * shift * percentage + ONE // 2) // ONE // shift


def div_perc(amount: int, decimals: int, percentage: int) -> int:
    """Divide a token amount by a percentage (or a price) with eight decimals.

    Raises:
        ValueError: the percentage is 0.
    """
    _whole(amount=amount, decimals=decimals)
    _positive(percentage=percentage)
    if decimals > _PLACES:
        by = percentage * _ten(decimals - _PLACES)
        return (amount * _ten(decimals) + by // 2) // by
    shift = _ten(_PLACES - decimals)
    return (amount * shift * ONE + percentage // 2) // percentage // shift


def y_from_x(x: int, dx: int, dy: int, px: int, py: int) -> int:
    """Convert an amount of token x to an amount of token y of the same value.

    Args:
        x: the amount of x, in its smallest unit.
        dx: decimals of x.
        dy: decimals of y.
        px: price of x, eight decimals.
        py: price of y, eight decimals.

    Raises:
        ValueError: ``py`` is 0.
    """
    _whole(x=x, dx=dx, dy=dy, px=px)
    if dx > dy:
        return div_perc(mul_perc(x, dx, px), dx, py) // _ten(dx - dy)
    return div_perc(mul_perc(x * _ten(dy - dx), dy, px), dy, py)


def health_factor(collaterals: Iterable[Collateral], debts: Iterable[Debt]) -> int:
    """Return a borrower's health factor; below the threshold it can be liquidated.

    Args:
        collaterals: ``(amount, decimals, price, threshold)`` of each reserve that
            counts as collateral, with the threshold of the borrower's e-mode.
        debts: ``(amount, decimals, price)`` of each borrowed reserve, interest
            included.

    Returns:
        Eight decimals: ``ONE`` is 1.0. ``MAX`` without debt, 0 without collateral.
    """
    total = weighted = 0
    for amount, decimals, price, threshold in collaterals:
        _whole(threshold=threshold)
        value = usd(amount, decimals, price)
        total += value
        weighted += mul(value, threshold)
    owed = sum(usd(amount, decimals, price) for amount, decimals, price in debts)
    if owed == 0:
        return MAX
    average = div(weighted, total) if total else 0
    return div(mul(total, average), owed)


@attrs.frozen
class Sizing:
    """The amounts of one liquidation, in the smallest units of its two tokens.

    Attributes:
        paid: debt tokens that the liquidator pays.
        seized: collateral tokens that the borrower loses.
        bonus: the part of ``seized`` that exceeds the value of ``paid``.
        fee: the part of ``bonus`` that the protocol keeps.
        to_liquidator: ``seized`` less ``fee``.
    """

    paid: int
    seized: int
    bonus: int
    fee: int
    to_liquidator: int


def liquidation_limit(debt: int, debt_decimals: int, close_factor: int) -> int:
    """Return the most debt that one call may pay back."""
    return mul_perc(debt, debt_decimals, close_factor)


def size_liquidation(
    *,
    debt: int,
    debt_decimals: int,
    debt_price: int,
    collateral: int,
    collateral_decimals: int,
    collateral_price: int,
    close_factor: int,
    bonus: int,
    fee_bps: int,
    requested: int,
) -> Sizing:
    """Return the amounts of a liquidation, computed as the contract does.

    Args:
        debt: of the borrower, interest included.
        debt_decimals: of the debt token.
        debt_price: eight decimals.
        collateral: the amount that can be seized.
        collateral_decimals: of the collateral token.
        collateral_price: eight decimals.
        close_factor: the part of the debt that one call may pay, of the debt asset.
        bonus: the liquidation bonus of the collateral asset; 10 % is ``ONE // 10``.
        fee_bps: the protocol's part of the bonus, in hundredths of a percent.
        requested: the debt that the liquidator offers to pay.

    Raises:
        ValueError: a price is 0, or a number is out of its range.
        TypeError: a number is not an int.
    """
    _whole(collateral=collateral, bonus=bonus, requested=requested, fee_bps=fee_bps)
    _positive(debt_price=debt_price, collateral_price=collateral_price)
    if fee_bps > 10_000:
        raise ValueError(f"fee_bps must be at most 10000 (100 %), got {fee_bps}")
    paid = min(requested, liquidation_limit(debt, debt_decimals, close_factor))
    base = y_from_x(
        paid, debt_decimals, collateral_decimals, debt_price, collateral_price
    )
    seized = mul_perc(base, collateral_decimals, ONE + bonus)
    extra = seized - base
    if seized > collateral:
        seized = collateral
        worth = y_from_x(
            collateral, collateral_decimals, debt_decimals, collateral_price, debt_price
        )
        inverse = div(ONE, ONE + bonus)
        paid = mul_perc(worth, debt_decimals, inverse)
        extra = mul_perc(collateral, collateral_decimals, ONE - inverse)
    fee = fee_bps * extra // 10_000
    return Sizing(paid, seized, extra, fee, seized - fee)
