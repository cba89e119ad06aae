"""A plan as JSON for a signer: the contract call and its post-conditions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from liquidation_bot.model import shown
from liquidation_bot.stacks import Principal, UInt, Value, represent, serialize

if TYPE_CHECKING:
    from liquidation_bot.decide import Plan
    from liquidation_bot.market import Market, Reserve

__all__ = ["LIQUIDATOR", "call", "canonical", "document"]

LIQUIDATOR = "<the liquidator's address>"
"""The placeholder in post-conditions if the signer is not known."""


def document(
    plan: Plan, market: Market, *, caveats: Sequence[str], liquidator: str | None
) -> dict[str, Any]:
    """Return a plan as JSON values.

    Amounts are strings, because many JSON readers round large numbers.

    Args:
        plan: the plan.
        market: its market.
        caveats: what the sources leave out.
        liquidator: the address that will sign; None leaves a placeholder.

    Returns:
        ``id`` (a hash of everything else), ``call``, and the numbers behind the plan.
    """
    sizing, prices = plan.sizing, plan.prices
    body: dict[str, Any] = {
        "what": "a plan: nothing was signed, nothing was sent",
        "made_at": plan.made_at,
        "borrower": plan.borrower,
        "market": {"name": market.name, "as_of": market.as_of.isoformat()},
        "health": shown(plan.health, 8),
        "pays": {
            "asset": plan.debt.symbol,
            "amount": str(sizing.paid),
            "shown": shown(sizing.paid, plan.debt.decimals),
        },
        "seizes": {
            "asset": plan.collateral.symbol,
            "amount": str(sizing.seized),
            "bonus": str(sizing.bonus),
            "fee": str(sizing.fee),
            "to_liquidator": str(sizing.to_liquidator),
            "shown": shown(sizing.to_liquidator, plan.collateral.decimals),
        },
        "usd": {
            "paid": shown(plan.paid_usd, 8),
            "gained_after_slippage": shown(plan.gained_usd, 8),
            "profit": shown(plan.profit_usd, 8),
        },
        "prices": [
            {
                "asset": reserve.symbol,
                "price": shown(price.price, 8),
                "at": price.at,
                "confidence": None
                if price.confidence is None
                else shown(price.confidence, 8),
            }
            for reserve, price in zip((plan.debt, plan.collateral), prices, strict=True)
        ],
        "call": call(plan, market, liquidator),
        "unverified": [*market.unverified, *caveats],
    }
    return {"id": hashlib.sha256(canonical(body).encode()).hexdigest()[:16], **body}


def canonical(document: dict[str, Any]) -> str:
    """Return compact JSON, the form that is compared and hashed."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def call(plan: Plan, market: Market, liquidator: str | None) -> dict[str, Any]:
    """Return the contract call with the ten arguments of ``liquidation-call``.

    Each argument has its name, its Clarity source (``repr``) and its consensus bytes
    (``hex``). The function has no argument for the minimum of collateral: a
    post-condition in deny mode is the only guard against slippage.
    """
    return {
        "contract": market.contracts.liquidation,
        "function": "liquidation-call",
        "arguments": [
            {"name": name, "repr": represent(value), "hex": f"0x{_hex(value)}"}
            for name, value in _arguments(plan, market)
        ],
        "post_condition_mode": "deny",
        "post_conditions": _conditions(plan, market, liquidator or LIQUIDATOR),
    }


def _hex(value: Value) -> str:
    return serialize(value).hex()


def _arguments(plan: Plan, market: Market) -> list[tuple[str, Value]]:
    assets = [
        {
            "asset": Principal(each.asset),
            "lp-token": Principal(each.z_token),
            "oracle": Principal(each.oracle),
        }
        for each in market.reserves
    ]
    return [
        ("assets", assets),
        ("collateral-lp", Principal(plan.collateral.z_token)),
        ("collateral-to-liquidate", Principal(plan.collateral.asset)),
        ("debt-asset", Principal(plan.debt.asset)),
        ("collateral-oracle", Principal(plan.collateral.oracle)),
        ("debt-oracle", Principal(plan.debt.oracle)),
        ("liquidated-user", Principal(plan.borrower)),
        ("debt-amount", UInt(plan.requested)),
        ("to-receive-atoken", False),
        # The signer may insert a new price message; none relies on the chain's prices.
        ("price-feed-bytes", None),
    ]


def _conditions(plan: Plan, market: Market, liquidator: str) -> list[dict[str, str]]:
    """Return the conditions that allow only the three transfers of a liquidation."""
    # If the collateral is the limit, rounding may make the payment one unit larger.
    most = max(plan.requested, plan.sizing.paid)
    return [
        _condition(liquidator, plan.debt, "lte", most),
        _condition(market.contracts.vault, plan.collateral, "gte", plan.least),
        {
            "type": "ft-postcondition",
            "address": plan.borrower,
            "condition": "lte",
            "amount": str(_most_burnt(plan)),
            "asset": plan.collateral.z_moves,
        },
    ]


def _most_burnt(plan: Plan) -> int:
    """Return the most z-tokens that the borrower may lose: the whole supply."""
    return next(
        each.supplied
        for each in plan.position.holdings
        if each.asset == plan.collateral.asset
    )


def _condition(
    address: str, reserve: Reserve, condition: str, amount: int
) -> dict[str, str]:
    common = {"address": address, "condition": condition, "amount": str(amount)}
    if not reserve.moves:
        return {"type": "stx-postcondition", **common}
    return {"type": "ft-postcondition", **common, "asset": reserve.moves}
