"""Plans as alerts, and what an alert says about borrowers. Pure.

An alert names its entity as 20 bytes in hex, with the number of a chain; it was made
for chains that have such addresses. A Stacks address is a version and a hash of 20
bytes, in c32check. How the one is written as the other is **this example's own
convention**: whoever is to understand its alerts has to know it.

- The entity is ``0x`` and the hash. Of a contract it is the hash of its issuer. The
  whole address is among the values.
- The chain is 5757, the coin type of Stacks in SLIP-0044: its own chain id, 1, is
  Ethereum's wherever alerts are read.
- The type of the entity is ``StacksPrincipal``, which the watch-bus does not know.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from liquidation_bot.clarity import c32_decode, c32_encode
from liquidation_bot.model import exact
from ortege_watch.watchbus import AlertInfo, EventValues

if TYPE_CHECKING:
    from liquidation_bot.decide import Plan

__all__ = [
    "CHAIN_ID",
    "ENTITY_TYPE",
    "Ignored",
    "LiquidationPlan",
    "borrowers_of",
    "entity_of",
    "plan_alert",
]

CHAIN_ID: Final = 5757
ENTITY_TYPE: Final = "StacksPrincipal"

_VERSIONS: Final = (22, 20, 26, 21)  # SP, SM, ST and SN
_ENTITY: Final = re.compile(r"0x[0-9a-fA-F]{40}")


class LiquidationPlan(EventValues, code="liquidation_plan"):
    """Report a plan; amounts are exact, in whole tokens and in dollars."""

    plan_id: str
    borrower: str
    health: Decimal
    debt_asset: str
    pays: Decimal
    collateral_asset: str
    gets: Decimal
    profit_usd: Decimal


class Ignored(Exception):
    """Report that an alert is about nobody who concerns the bot; it says why."""


def entity_of(principal: str) -> str:
    """Write an address, or that of a contract, as the entity of an alert.

    Raises:
        ClarityError: it is no address.
    """
    _, payload = c32_decode(principal.partition(".")[0])
    return f"0x{payload.hex()}"


def plan_alert(plan: Plan, plan_id: str) -> AlertInfo:
    """Write a plan as an alert about its borrower.

    Args:
        plan: what was planned.
        plan_id: the ``id`` of its document.

    Raises:
        ClarityError: its borrower is no address.
    """
    return AlertInfo(
        entity=entity_of(plan.borrower),
        chain_id=CHAIN_ID,
        entity_type=ENTITY_TYPE,
        event_code="liquidation_plan",
        timestamp=plan.made_at,
        event_values=LiquidationPlan(
            plan_id=plan_id,
            borrower=plan.borrower,
            health=exact(plan.health, 8),
            debt_asset=plan.debt.symbol,
            pays=exact(plan.sizing.paid, plan.debt.decimals),
            collateral_asset=plan.collateral.symbol,
            gets=exact(plan.sizing.to_liquidator, plan.collateral.decimals),
            profit_usd=exact(plan.profit_usd, 8),
        ),
    )


def borrowers_of(alert: AlertInfo, known: Iterable[str]) -> list[str]:
    """Name the known borrowers that an alert is about.

    Its code and its values do not matter: an alert is a reason to look, whoever sends
    it, and nothing in it is taken for true.

    Raises:
        Ignored: there is none.
    """
    ours = alert.entity_type.casefold() == ENTITY_TYPE.casefold()
    if not ours or alert.chain_id != CHAIN_ID or not _ENTITY.fullmatch(alert.entity):
        raise Ignored("another kind of entity")
    payload = bytes.fromhex(alert.entity[2:])
    addresses = {c32_encode(version, payload) for version in _VERSIONS}
    found = [who for who in known if who.partition(".")[0].upper() in addresses]
    if not found:
        raise Ignored("no borrower that is known")
    return found
