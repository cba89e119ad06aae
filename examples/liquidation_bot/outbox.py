"""A plan on its way out: guarded, noted in the state, then handed to the executor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from liquidation_bot.state import State

if TYPE_CHECKING:
    from liquidation_bot.decide import Plan
    from liquidation_bot.executor import Executor, Guard

__all__ = ["Outbox"]


class Outbox:
    """Hand plans over, each at most once.

    Args:
        executor: takes them.
        guard: may hold one back; None where the executor only writes.
        state: what survived from before.
        save: keeps the state; called before a plan leaves.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        guard: Guard | None = None,
        state: State | None = None,
        save: Callable[[State], object],
    ) -> None:
        self._executor = executor
        self._guard = guard
        self._state = state or State()
        self._save = save

    async def send(self, plan: Plan, document: Mapping[str, Any], *, until: int) -> str:
        """Hand a plan over, and say what was done with it.

        Args:
            plan: what to do.
            document: the same as JSON values.
            until: when its borrower may get another one, in unix seconds.
        """
        most = plan.most_paid_usd
        held = self._guard.refusal(most, self._state.spent) if self._guard else None
        spends = most if self._guard is not None and held is None else 0
        self._note(plan, until, spends)
        if held is not None:
            return f"held back: {held}"
        try:
            return await self._executor.execute(document)
        except Exception as error:  # noqa: BLE001 - somebody else's code
            return f"the executor failed with {type(error).__name__}: {error}"

    def _note(self, plan: Plan, until: int, spends: int) -> None:
        # Of other plans from the same input, which are not out yet, nothing is kept.
        running = {
            borrower: end
            for borrower, end in self._state.cool_downs.items()
            if end > plan.made_at
        }
        self._state = attrs.evolve(
            self._state,
            plans=self._state.plans + 1,
            cool_downs={**running, plan.borrower: until},
            spent=self._state.spent + spends,
        )
        self._save(self._state)
