"""The engine: who is looked at, cool-downs, counts; the same inputs, the same plans."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, strategies as st

from liquidation_bot.engine import (
    Engine,
    Limits,
    Plan,
    PositionsRead,
    PricesSeen,
    Reason,
    Skip,
    StateRead,
    Tick,
)
from liquidation_bot.rules.zest_v1 import Ratio, ReserveState, StateV1

COOL_DOWN = 100


@pytest.fixture
def engine(world):
    return Engine(world.market, Limits(), cool_down=COOL_DOWN)


def seen(world, **prices):
    """Return the input of the three prices."""
    return PricesSeen(world.now, tuple(world.prices(**prices).values()))


def read(world, *positions, at=None):
    """Return the input of positions."""
    return PositionsRead(world.now if at is None else at, positions)


def reasons(decisions):
    """Return the reasons, None for a plan."""
    return [getattr(each, "reason", None) for each in decisions]


def test_a_price_looks_at_every_holder_of_the_asset_and_at_nobody_else(world, engine):
    engine.handle(seen(world, ststx=80_000_000))
    other = world.position(
        (world.sbtc, 10**8, 0), (world.aeusdc, 0, 10**9), who=world.bob
    )
    engine.handle(read(world, world.danger(), other))
    fall = PricesSeen(
        world.now + 1, (world.price(world.ststx, 70_000_000, at=world.now + 1),)
    )
    [plan] = engine.handle(fall)
    assert isinstance(plan, Plan)
    assert plan.borrower == world.alice
    # aeUSDC is what both owe.
    later = PricesSeen(
        world.now + 2, (world.price(world.aeusdc, 10**8, at=world.now + 2),)
    )
    assert {each.borrower for each in engine.handle(later)} == {world.alice, world.bob}


def test_the_same_price_again_looks_at_nobody(world, engine):
    engine.handle(read(world, world.danger()))
    assert len(engine.handle(seen(world))) == 1
    assert engine.handle(seen(world)) == []


def test_an_older_price_does_not_replace_a_newer_one(world, engine):
    engine.handle(seen(world))
    old = world.price(world.ststx, 1, at=world.now - 1)
    engine.handle(PricesSeen(world.now, (old,)))
    assert engine.prices[world.ststx].price == 70_000_000


def test_a_price_from_the_future_does_not_stay_for_ever(world, engine):
    ahead = world.price(world.ststx, 1, at=world.now + 10_000)
    engine.handle(PricesSeen(world.now, (ahead,)))
    engine.handle(seen(world))
    assert engine.prices[world.ststx].price == 70_000_000


def test_one_plan_for_a_borrower_until_it_has_cooled_down(world, engine):
    engine.handle(seen(world))
    given = read(world, world.danger())
    assert reasons(engine.handle(given)) == [None]
    assert reasons(engine.handle(given)) == [Reason.COOLING_DOWN]
    last = read(world, world.danger(), at=world.now + COOL_DOWN - 1)
    assert reasons(engine.handle(last)) == [Reason.COOLING_DOWN]
    again = read(world, world.danger(), at=world.now + COOL_DOWN)
    assert reasons(engine.handle(again)) == [None]
    assert engine.plans == 2
    assert engine.skipped == {Reason.COOLING_DOWN: 2}


def test_another_borrower_gets_a_plan_meanwhile(world, engine):
    engine.handle(seen(world))
    engine.handle(read(world, world.danger()))
    assert reasons(engine.handle(read(world, world.danger(who=world.bob)))) == [None]


def test_cool_downs_survive(world, engine):
    engine.handle(seen(world))
    engine.handle(read(world, world.danger()))
    again = Engine(
        world.market, Limits(), cool_down=COOL_DOWN, cool_downs=engine.cool_downs
    )
    again.handle(seen(world))
    assert reasons(again.handle(read(world, world.danger()))) == [Reason.COOLING_DOWN]


def test_a_price_looks_at_holders_of_what_is_priced_by_it(world):
    ststx, *others = world.market.reserves
    derived = msgspec.structs.replace(ststx, pricing=Ratio(base="sBTC", ratio=10**8))
    market = msgspec.structs.replace(world.market, reserves=(derived, *others))
    engine = Engine(market, Limits(), cool_down=COOL_DOWN)
    engine.handle(seen(world, sbtc=80_000_000))
    engine.handle(read(world, world.danger()))
    moved = world.price(world.ststx, 1, at=world.now + 1)
    assert engine.handle(PricesSeen(world.now + 1, (moved,))) == []
    fall = world.price(world.sbtc, 70_000_000, at=world.now + 1)
    assert reasons(engine.handle(PricesSeen(world.now + 1, (fall,)))) == [None]


def test_the_protocols_state_looks_at_everybody(world, engine):
    engine.handle(seen(world, ststx=80_000_000))
    engine.handle(read(world, world.danger(), world.danger(who=world.bob)))
    frozen = StateV1(reserves={world.ststx: ReserveState(frozen=True)})
    assert len(engine.handle(StateRead(world.now, frozen))) == 2
    assert engine.state == frozen
    assert set(reasons(engine.handle(seen(world)))) == {Reason.PAUSED}
    assert reasons(engine.handle(StateRead(world.now, StateV1()))) == [None, None]


def test_time_alone_makes_prices_stale(world, engine):
    engine.handle(seen(world, ststx=80_000_000))
    assert reasons(engine.handle(read(world, world.danger()))) == [Reason.HEALTHY]
    tick = Tick(world.now + world.market.rules.max_price_age + 1)
    assert reasons(engine.handle(tick)) == [Reason.STALE_PRICE]


def test_old_cool_downs_are_forgotten(world, engine):
    engine.handle(seen(world))
    engine.handle(read(world, world.danger()))
    engine.handle(Tick(world.now + COOL_DOWN - 1))
    assert engine.cool_downs == {world.alice: world.now + COOL_DOWN}
    engine.handle(read(world, world.position(who=world.alice)))
    engine.handle(Tick(world.now + COOL_DOWN))
    assert engine.cool_downs == {}


def test_whoever_owes_nothing_any_more_is_forgotten(world, engine):
    engine.handle(seen(world))
    engine.handle(read(world, world.danger()))
    paid = world.position((world.ststx, 10**10, 0))
    assert reasons(engine.handle(read(world, paid))) == [Reason.NO_DEBT]
    assert engine.positions == {}
    assert engine.decisions == {}
    assert engine.handle(seen(world, ststx=1)) == []


def test_prices_in_words(world, engine):
    assert engine.prices_in_words() == ""
    engine.handle(seen(world))
    assert engine.prices_in_words() == "stSTX 0.7, aeUSDC 1, sBTC 60,000"


steps = st.lists(
    st.one_of(
        st.tuples(st.just("price"), st.integers(50, 120), st.integers(0, 300)),
        st.tuples(st.just("read"), st.integers(0, 2), st.integers(0, 10_000)),
        st.tuples(st.just("tick"), st.integers(0, 500), st.just(0)),
    ),
    max_size=30,
)


@given(steps)
def test_never_two_plans_for_one_borrower_within_the_cool_down(world, steps):
    engine = Engine(world.market, Limits(), cool_down=COOL_DOWN)
    twin = Engine(world.market, Limits(), cool_down=COOL_DOWN)
    engine.handle(seen(world))
    twin.handle(seen(world))
    now, planned = world.now, {}
    for kind, first, second in steps:
        if kind == "price":
            price = world.price(world.ststx, first * 10**6, at=now - second)
            given = PricesSeen(now, (price,))
        elif kind == "read":
            who = f"{world.alice[:-1]}{first}"
            position = world.position(
                (world.ststx, second * 10**6, 0),
                (world.aeusdc, 0, 5_000_000_000),
                who=who,
            )
            given = PositionsRead(now, (position,))
        else:
            now += first
            given = Tick(now)
        decisions = engine.handle(given)
        assert twin.handle(given) == decisions
        for decision in decisions:
            if isinstance(decision, Plan):
                assert now - planned.get(decision.borrower, -(10**9)) >= COOL_DOWN
                planned[decision.borrower] = now


def test_decisions_are_kept_for_the_table(world, engine):
    engine.handle(seen(world, ststx=80_000_000))
    engine.handle(read(world, world.danger()))
    decision = engine.decisions[world.alice]
    assert isinstance(decision, Skip)
    assert decision.standing.value == 112_000_000
