"""What other limits would have done: recorded inputs in, a report out. Pure.

A plan of a backtest changes nothing: the position stays as it was recorded, and its
borrower gets another plan after the cool-down. Later prices show what the amounts of a
plan were worth then, not whether the call would have passed, or been the first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, Final
from xml.sax.saxutils import escape

import attrs
import msgspec

from liquidation_bot.engine import (
    CoolDown,
    Decision,
    Engine,
    Input,
    Plan,
    PositionsRead,
    PricesSeen,
    Reason,
    StateRead,
)
from liquidation_bot.market import Market
from liquidation_bot.model import Price, UsageError, shown
from liquidation_bot.record import Session
from liquidation_bot.rules import Refused

__all__ = ["Backtest", "Chance", "Outcome", "with_prices", "with_settings"]

_LEFT, _RIGHT, _TOP, _BOTTOM, _MAX_ROWS = 110, 940, 50, 360, 40
_STYLE: Final = """\
svg{font:13px sans-serif;background:#fff}text{fill:#222}path{stroke:#999}
.missed{fill:#c60}.expected{fill:#07c}.later{fill:none;stroke:#07c;stroke-width:2}
@media(prefers-color-scheme:dark){svg{background:#111}text{fill:#ddd}
.missed{fill:#fa3}.expected{fill:#5bf}.later{stroke:#5bf}}"""


@attrs.define
class Outcome:
    """A plan, and the profit at later prices; None if the record ends before them."""

    plan: Plan
    later: int | None = None

    def __str__(self) -> str:
        plan, offer = self.plan, self.plan.offer
        paid = shown(offer.paid, plan.debt.decimals)
        received = shown(offer.received, plan.collateral.decimals)
        later = "unknown" if self.later is None else shown(self.later, 8, 2)
        return (
            f"{_time(plan.made_at)} {plan.borrower} {plan.standing.text}: pays {paid} "
            f"{plan.debt.symbol}, gets {received} {plan.collateral.symbol}; expected "
            f"{shown(plan.profit_usd, 8, 2)} USD, later {later}"
        )


@attrs.define
class Chance:
    """A time in which a position could be liquidated, as far as it was seen."""

    borrower: str
    start: int
    end: int
    planned: bool = False
    reasons: Counter[Reason] = attrs.field(factory=Counter)

    def __str__(self) -> str:
        return (
            f"{_time(self.start)} {self.borrower} for {_longest([self])}: "
            + _counts(self.reasons)
        )


@attrs.define
class Backtest:
    """Sessions that are decided about anew, and the report about them.

    ``delay`` is the seconds after which the amounts of a plan are valued again; ``setups``
    are the markets and limits of the sessions; ``times`` are those of the inputs.
    """

    delay: int
    setups: list[str] = attrs.field(factory=list)
    sessions: int = 0
    times: list[int] = attrs.field(factory=list)
    outcomes: list[Outcome] = attrs.field(factory=list)
    chances: list[Chance] = attrs.field(factory=list)
    reasons: Counter[Reason] = attrs.field(factory=Counter)
    _engine: Engine | None = None
    _open: dict[str, Chance] = attrs.field(factory=dict)
    _unvalued: list[Outcome] = attrs.field(factory=list)

    @classmethod
    def of(cls, items: Iterable[Session | Input], delay: int) -> Backtest:
        """Pass each session, followed by its inputs, to a new engine.

        A session starts with the cool-downs with which the one before it ended. What
        became of the recorded plans is left out: other plans are tested.
        """
        found = cls(delay)
        for each in items:
            if isinstance(each, Session):
                found._begin(each)
            elif found._engine is not None and not isinstance(each, CoolDown):
                found._handle(each, found._engine)
        return found

    def _begin(self, session: Session) -> None:
        if self._engine is not None:
            kept = self._engine.cool_downs
            session = msgspec.structs.replace(session, cool_downs=kept)
        self._engine = session.engine()
        self._open, self._unvalued = {}, []
        self.sessions += 1
        limits, market, cap = session.limits, session.market, session.limits.wallet_cap
        setup = (
            f"{market.name}, as of {market.as_of}; profit at least "
            f"{shown(limits.min_profit, 8)} USD{' or not' * limits.allow_unprofitable}, "
            f"transaction fee {shown(limits.transaction_fee, 8)} USD, slippage "
            f"{limits.slippage_bps} bps, margin {shown(limits.margin, 8)}, wallet cap "
            f"{'none' if cap is None else shown(cap, 8)}, cool-down {session.cool_down} s"
        )
        if setup not in self.setups:
            self.setups.append(setup)

    def _handle(self, given: Input, engine: Engine) -> None:
        self.times.append(given.at)
        decisions = engine.handle(given)
        for chance in self._open.values():
            chance.end = given.at
        if isinstance(given, PricesSeen):
            unvalued, self._unvalued = self._unvalued, []
            for outcome in unvalued:
                if given.at < outcome.plan.made_at + self.delay:
                    self._unvalued.append(outcome)
                else:
                    outcome.later = _profit(outcome.plan, engine, given.at)
        for decision in decisions:
            self._note(decision, given.at)

    def _note(self, decision: Decision, at: int) -> None:
        who, standing = decision.borrower, decision.standing
        if standing is not None and standing.headroom < 0 and who not in self._open:
            self._open[who] = Chance(who, at, at)
            self.chances.append(self._open[who])
        chance = self._open.get(who)
        if isinstance(decision, Plan):
            self.outcomes.append(Outcome(decision))
            self._unvalued.append(self.outcomes[-1])
            if chance is not None:
                chance.planned = True
            return
        self.reasons[decision.reason] += 1
        # Without a standing nobody knows, unless there is no debt any more.
        is_over = decision.reason is Reason.NO_DEBT
        if is_over or (standing is not None and standing.headroom >= 0):
            self._open.pop(who, None)
        elif chance is not None:
            chance.reasons[decision.reason] += 1

    @property
    def missed(self) -> list[Chance]:
        """The chances without a plan."""
        return [each for each in self.chances if not each.planned]

    def lines(self) -> Iterator[str]:
        """Yield the report for people."""
        valued = [each for each in self.outcomes if each.later is not None]
        start, end = min(self.times, default=0), max(self.times, default=0)
        yield f"backtest of {self.sessions} sessions with {len(self.times)} inputs"
        yield f"{_time(start)} to {_time(end)} UTC"
        yield from self.setups
        yield f"plans: {len(self.outcomes)}, expected profit {_sum(self.outcomes)} USD"
        yield (
            f"with the next prices after {self.delay} s: {len(valued)} plans, "
            f"{shown(sum(each.later or 0 for each in valued), 8, 2)} USD instead of "
            f"{_sum(valued)}"
        )
        yield from (f"  {each}" for each in self.outcomes)
        yield (
            f"positions that could be liquidated: {len(self.chances)}, at most for "
            f"{_longest(self.chances)}; without a plan: {len(self.missed)}, at most for "
            f"{_longest(self.missed)}"
        )
        yield from (f"  {each}" for each in self.missed)
        yield f"decisions against a plan: {_counts(self.reasons)}"

    def svg(self) -> str:
        """Return the profits over time, and below them what was missed, as a picture."""
        later = [each.later for each in self.outcomes if each.later is not None]
        profits = [0, *later, *(each.plan.profit_usd for each in self.outcomes)]
        low, high = min(profits), max(profits)
        start, end = min(self.times, default=0), max(self.times, default=0)

        def x(at: int) -> int:
            return _LEFT + (_RIGHT - _LEFT) * (at - start) // max(end - start, 1)

        def y(profit: int) -> int:
            return _BOTTOM - (_BOTTOM - _TOP) * (profit - low) // max(high - low, 1)

        height = _BOTTOM + 80 + 8 * min(len(self.missed), _MAX_ROWS)
        what = "profit of plans in USD: dots as expected, circles at the next prices"
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 {height}">',
            f"<style>{_STYLE}</style>",
            _text(_LEFT, 24, f"{what} after {self.delay} s"),
            _text(_LEFT, _BOTTOM + 24, f"{_time(start)} UTC"),
            _text(_RIGHT, _BOTTOM + 24, f"{_time(end)} UTC", "end"),
            _text(_LEFT, _BOTTOM + 54, f"not planned: {len(self.missed)} positions"),
        ]
        for each in sorted({low, 0, high}):
            parts.append(_text(_LEFT - 8, y(each) + 4, shown(each, 8, 2), "end"))
            parts.append(f'<path d="M{_LEFT} {y(each)}H{_RIGHT}"/>')
        for outcome in self.outcomes:
            at, top = x(outcome.plan.made_at), y(outcome.plan.profit_usd)
            shape = f'<circle class="expected" cx="{at}" cy="{top}" r="4"/>'
            if outcome.later is not None:
                then = y(outcome.later)
                shape += f'<path d="M{at} {top}V{then}"/>'
                shape += f'<circle class="later" cx="{at}" cy="{then}" r="5"/>'
            parts.append(f"<g><title>{_plain(str(outcome))}</title>{shape}</g>")
        for row, chance in enumerate(self.missed[:_MAX_ROWS]):
            left, right = x(chance.start), x(chance.end)
            parts.append(
                f'<rect class="missed" x="{left}" y="{_BOTTOM + 64 + 8 * row}" height="6" '
                f'width="{max(right - left, 2)}"><title>{_plain(str(chance))}</title></rect>'
            )
        return "\n".join([*parts, "</svg>\n"])


def _profit(plan: Plan, engine: Engine, now: int) -> int | None:
    """Return the profit of a plan's amounts at the current prices, if they are known."""
    offer, limits = plan.offer, engine.limits
    try:
        quotes = engine.rules.standing(engine.case(plan.position, now)).quotes
    except Refused:
        return None
    debt, collateral = (quotes.get(each.asset) for each in (plan.debt, plan.collateral))
    if debt is None or collateral is None:
        return None
    gained = collateral.usd(offer.received) * (10_000 - limits.slippage_bps) // 10_000
    return gained - debt.usd(offer.paid, up=True) - limits.transaction_fee


def _text(x: int, y: int, text: str, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{_plain(text)}</text>'


def _plain(text: str) -> str:
    """Escape a text for XML, which has no control characters."""
    return escape("".join(each if each.isprintable() else "?" for each in text))


def _time(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _sum(outcomes: Iterable[Outcome]) -> str:
    return shown(sum(each.plan.profit_usd for each in outcomes), 8, 2)


def _longest(chances: Iterable[Chance]) -> timedelta:
    return timedelta(
        seconds=max((each.end - each.start for each in chances), default=0)
    )


def _counts(reasons: Counter[Reason]) -> str:
    ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {count}" for reason, count in ranked) or "none"


def with_settings(
    items: Iterable[Session | Input],
    *,
    limits: Mapping[str, Any],
    market: Market | None = None,
    cool_down: int | None = None,
) -> Iterator[Session | Input]:
    """Yield a record with other settings; without a value the recorded one is kept."""
    for each in items:
        if isinstance(each, Session):
            yield msgspec.structs.replace(
                each,
                market=market or each.market,
                limits=msgspec.structs.replace(each.limits, **limits),
                cool_down=each.cool_down if cool_down is None else cool_down,
            )
        else:
            yield each


def with_prices(
    items: Iterable[Session | Input], prices: Sequence[Price]
) -> Iterator[Session | Input]:
    """Yield the last positions and state of a record, then other prices.

    The positions stay the same, without interest. Each price is seen at the second in
    which it was published.

    Args:
        items: each session, followed by its inputs.
        prices: of any times.

    Raises:
        UsageError: there are no prices, or there is no session.
    """
    session, engine, state = None, None, None
    for each in items:
        if isinstance(each, Session):
            session, engine, state = each, each.engine(), None
        elif engine is not None:
            state = each if isinstance(each, StateRead) else state
            engine.handle(each)
    if session is None or engine is None or not prices:
        raise UsageError("nothing to test: no prices in that time, or no session")
    ordered = sorted(prices, key=lambda price: (price.at, price.asset))
    start = ordered[0].at
    yield msgspec.structs.replace(session, cool_downs={})
    if state is not None:
        yield msgspec.structs.replace(state, at=start)
    kept = engine.positions.values()
    moved = [msgspec.structs.replace(each, read_at=start) for each in kept]
    yield PositionsRead(start, tuple(moved))
    for at, published in groupby(ordered, key=lambda price: price.at):
        yield PricesSeen(at, tuple(published))
