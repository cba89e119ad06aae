"""Backtests: exact reports, the same bytes each time, and what is said to be missed."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec
import pytest

from liquidation_bot import cli, sources
from liquidation_bot.backtest import Backtest, with_prices, with_settings
from liquidation_bot.engine import (
    CoolDown,
    Limits,
    PositionsRead,
    PricesSeen,
    Reason,
    Tick,
)
from liquidation_bot.model import SourceError, UsageError
from liquidation_bot.record import Recorder, Session, read_record, replay
from ortege_watch import AsyncCubeClient
from ortege_watch.testing import FakeCube

ONE = 10**8


def session(world, **changes):
    given = {
        "market": world.market,
        "limits": Limits(),
        "cool_down": 1000,
        "cool_downs": {},
        "caveats": (),
        "liquidator": None,
    }
    return Session(**{**given, **changes})


def seen(world, seconds, **prices):
    """Return prices of that time."""
    at = world.now + seconds
    return PricesSeen(at, tuple(world.prices(**prices, at=at).values()))


def story(world, **changes):
    """Alice is in danger from the first second on, until 300 seconds later."""
    return [
        session(world, **changes),
        PositionsRead(world.now - 5, (world.danger(),)),
        seen(world, 0),
        seen(world, 30, ststx=69_000_000),
        seen(world, 61, ststx=65_000_000),
        Tick(world.now + 100),
        seen(world, 300, ststx=90_000_000),
        seen(world, 360, ststx=90_000_000),
    ]


def text(backtest):
    return "\n".join(backtest.lines())


def test_a_report_is_exact(world):
    backtest = Backtest.of(story(world), 60)
    assert text(backtest) == (
        "backtest of 1 sessions with 7 inputs\n"
        "2027-01-15 07:59:55 to 2027-01-15 08:06:00 UTC\n"
        "a market made up for the demo, as of 2026-11-22; profit at least 1 USD, "
        "transaction fee 0.1 USD, slippage 100 bps, margin 0.001, wallet cap none, "
        "cool-down 1000 s\n"
        "plans: 1, expected profit 197.65 USD\n"
        "with the next prices after 60 s: 1 plans, 4.95 USD instead of 197.65\n"
        f"  2027-01-15 08:00:00 {world.alice} health 0.9800: pays 2,500 aeUSDC, gets "
        "3,892.857143 stSTX; expected 197.65 USD, later 4.95\n"
        "positions that could be liquidated: 1, at most for 0:05:00; without a plan: 0, "
        "at most for 0:00:00\n"
        "decisions against a plan: planned already 3, healthy 2, no price 1"
    )


def test_later_profits_are_exact_to_the_last_digit(world):
    [outcome] = Backtest.of(story(world), 60).outcomes
    # 3892.857143 stSTX at 0.65, less 1 %, less 2500 and 0.1
    assert outcome.later == 3_892_857_143 * 65 * 99 // 100 - 2500 * ONE - ONE // 10


@pytest.mark.parametrize(
    ("delay", "price"), [(1, 69), (30, 69), (31, 65), (61, 65), (62, 90), (360, 90)]
)
def test_the_next_prices_after_the_delay_count(world, delay, price):
    [outcome] = Backtest.of(story(world), delay).outcomes
    worth = 3_892_857_143 * price * 99 // 100
    assert outcome.later == worth - 2500 * ONE - ONE // 10


def test_what_the_record_does_not_show_is_unknown(world):
    backtest = Backtest.of(story(world), 361)
    assert backtest.outcomes[0].later is None
    assert "0 plans, 0.00 USD instead of 0.00" in text(backtest)
    assert "later unknown" in text(backtest)


def test_the_amounts_stay_those_of_the_plan_whatever_becomes_of_the_position(world):
    items = story(world)
    items.insert(4, PositionsRead(world.now + 40, (world.position(),)))
    [outcome] = Backtest.of(items, 60).outcomes
    assert outcome.later == Backtest.of(story(world), 60).outcomes[0].later


@pytest.mark.parametrize("seconds", [-4, 1])
@pytest.mark.parametrize("until", [0, 900])
def test_what_became_of_recorded_plans_changes_nothing(world, seconds, until):
    """A plan that failed or was dropped is not one of those that are tested."""
    items = story(world)
    given = CoolDown(world.now + seconds, world.alice, world.now + until)
    items.insert(2 if seconds < 0 else 3, given)
    assert text(Backtest.of(items, 60)) == text(Backtest.of(story(world), 60))


def test_other_limits_miss_what_was_there_and_say_why(world):
    items = list(with_settings(story(world), limits={"min_profit": 198 * ONE}))
    backtest = Backtest.of(items, 60)
    [missed] = backtest.missed
    assert (missed.start, missed.end) == (world.now, world.now + 300)
    assert missed.reasons == {Reason.UNPROFITABLE: 4}
    assert (
        f"  2027-01-15 08:00:00 {world.alice} for 0:05:00: unprofitable 4"
        in text(backtest).splitlines()
    )
    assert "without a plan: 1, at most for 0:05:00" in text(backtest)


def test_a_position_that_is_paid_back_cannot_be_liquidated_any_more(world):
    items = story(world, limits=Limits(min_profit=198 * ONE))
    items.insert(4, PositionsRead(world.now + 40, (world.position(),)))
    [missed] = Backtest.of(items, 60).missed
    assert (missed.start, missed.end) == (world.now, world.now + 40)


def test_without_a_price_nobody_knows_and_the_time_goes_on(world):
    items = story(world, limits=Limits(min_profit=198 * ONE))
    gone = world.price(world.ststx, 0, at=world.now + 40)
    items.insert(4, PricesSeen(world.now + 40, (gone,)))
    [missed] = Backtest.of(items, 60).missed
    assert missed.end == world.now + 300
    assert missed.reasons[Reason.NO_PRICE] == 1


def test_what_is_still_open_at_the_end_ends_with_the_record(world):
    [missed] = Backtest.of(
        story(world, limits=Limits(min_profit=198 * ONE))[:4], 60
    ).missed
    assert missed.end == world.now + 30


def test_settings_are_changed_and_others_are_kept(world):
    kept = {"limits": Limits(min_profit=7, margin=9), "cool_down": 5}
    [first, *_] = with_settings(story(world, **kept), limits={"margin": 3})
    assert first.limits == Limits(min_profit=7, margin=3)
    assert first.cool_down == 5
    other = msgspec.structs.replace(world.market, name="other")
    [first, *rest] = with_settings(story(world), limits={}, market=other, cool_down=1)
    assert (first.market, first.cool_down) == (other, 1)
    assert rest == story(world)[1:]


def test_sessions_follow_one_another_with_their_cool_downs(world):
    again = story(world)
    again[1:] = [
        PositionsRead(world.now + 400, (world.danger(),)),
        seen(world, 401),
        seen(world, 1001),
    ]
    backtest = Backtest.of([*story(world), *again], 60)
    assert [each.plan.made_at - world.now for each in backtest.outcomes] == [0, 1001]
    assert backtest.sessions == 2
    assert len(backtest.setups) == 1
    assert [each.planned for each in backtest.chances] == [True, True]


def test_what_is_open_ends_with_its_session(world):
    """The bot was not running meanwhile: nobody knows what the prices were."""
    again = [session(world), *story(world)[1:2], seen(world, 5_000)]
    backtest = Backtest.of([*story(world)[:4], *again], 60)
    first, second = backtest.outcomes
    assert (first.later, second.later) == (None, None)
    assert [(each.start, each.end) for each in backtest.chances] == [
        (world.now, world.now + 30),
        (world.now + 5_000, world.now + 5_000),
    ]


def test_nothing_recorded_is_an_empty_report(world):
    backtest = Backtest.of([session(world)], 60)
    assert "plans: 0, expected profit 0.00 USD" in text(backtest)
    assert "decisions against a plan: none" in text(backtest)
    ET.fromstring(backtest.svg())


def recorded(path, items):
    for each in items:
        if isinstance(each, Session):
            recorder = Recorder(path, each)
        else:
            recorder(each)
    recorder.__exit__(None, None, None)
    return path


def test_with_the_recorded_settings_it_makes_the_recorded_plans(tmp_path, world):
    path = recorded(tmp_path / "record", story(world))
    backtest = Backtest.of(read_record(path), 60)
    one = session(world)
    assert [one.document(each.plan) for each in backtest.outcomes] == list(replay(path))


def test_each_report_of_the_same_record_has_the_same_bytes(tmp_path, world):
    path = recorded(tmp_path / "record", story(world))
    one, two = (Backtest.of(read_record(path), 60) for _ in range(2))
    assert (text(one), one.svg()) == (text(two), two.svg())


def test_the_picture_is_plain_svg(world):
    items = [
        *story(world),
        *story(world, limits=Limits(min_profit=198 * ONE)),
    ]
    root = ET.fromstring(Backtest.of(items, 60).svg())
    names = [
        each.tag.removeprefix("{http://www.w3.org/2000/svg}") for each in root.iter()
    ]
    assert "script" not in names
    assert names.count("circle") == 2
    assert names.count("rect") == 1
    box = [int(each) for each in root.attrib["viewBox"].split()]
    for each in root.iter():
        for key in ("x", "cx"):
            assert 0 <= int(each.attrib.get(key, 0)) <= box[2]
        for key in ("y", "cy"):
            assert 0 <= int(each.attrib.get(key, 0)) <= box[3]
    titles = [each.text for each in root.iter() if each.tag.endswith("title")]
    assert any("expected 197.65 USD, later 4.95" in each for each in titles)
    style = next(each.text for each in root.iter() if each.tag.endswith("style"))
    assert "prefers-color-scheme:dark" in style


def test_text_is_escaped_in_the_picture(world):
    items = story(world, limits=Limits(min_profit=198 * ONE))
    danger = world.danger(who="</title><script>&\0")
    items[1] = PositionsRead(world.now - 5, (danger,))
    root = ET.fromstring(Backtest.of(items, 60).svg())
    assert not [each for each in root.iter() if "script" in each.tag]
    assert any("</title><script>&?" in (each.text or "") for each in root.iter())


def test_prices_of_another_time_meet_the_last_positions(world):
    prices = [
        each for seconds in (5_000, 5_090) for each in seen(world, seconds).prices
    ]
    running = {world.alice: world.now + 10_000}
    items = list(with_prices(story(world, cool_downs=running), prices[::-1]))
    assert items[0] == session(world)
    assert items[1].at == world.now + 5_000
    assert [each.read_at for each in items[1].positions] == [world.now + 5_000]
    backtest = Backtest.of(items, 60)
    assert [each.plan.made_at - world.now for each in backtest.outcomes] == [5_000]
    assert backtest.outcomes[0].later == backtest.outcomes[0].plan.profit_usd


@pytest.mark.parametrize("given", [[], "session"])
def test_nothing_to_test_is_said(world, given):
    items = [session(world)] if given else []
    with pytest.raises(UsageError, match="nothing to test"):
        list(with_prices(items, []))


def test_the_longest_time_is_that_of_all_chances(world):
    backtest = Backtest.of(story(world), 60)
    assert backtest.chances[0].end - backtest.chances[0].start == 300
    assert str(timedelta(seconds=300)) in text(backtest)


def run(*arguments):
    return cli.main([str(each) for each in arguments])


def test_the_program_prints_the_report_and_draws_it(tmp_path, world, capsys):
    path, plot = recorded(tmp_path / "record", story(world)), tmp_path / "plot.svg"
    options = ("--min-profit", 198, "--slippage-bps", 0, "--cool-down", 7)
    assert run("--backtest", path, path, *options, "--plot", plot) == 0
    first = capsys.readouterr().out
    limits = {"min_profit": 198 * ONE, "slippage_bps": 0}
    items = with_settings(story(world) * 2, limits=limits, cool_down=7)
    backtest = Backtest.of(items, 60)
    assert first == text(backtest) + "\n"
    assert "profit at least 198 USD" in first
    assert plot.read_text() == backtest.svg()
    assert run("--backtest", path, path, *options) == 0
    assert capsys.readouterr().out == first


def test_what_is_not_given_stays_as_recorded(tmp_path, world, capsys):
    limits = Limits(min_profit=5 * ONE, margin=1, slippage_bps=7, wallet_cap=10**11)
    path = recorded(tmp_path / "record", story(world, limits=limits, cool_down=9))
    assert run("--backtest", path, "--transaction-fee", 2) == 0
    assert (
        "profit at least 5 USD, transaction fee 2 USD, slippage 7 bps, margin "
        "0.00000001, wallet cap 1,000, cool-down 9 s"
    ) in capsys.readouterr().out


def test_another_market_can_be_chosen(tmp_path, world, capsys):
    path = recorded(tmp_path / "record", story(world))
    market = tmp_path / "market.toml"
    market.write_text(world.market.text.replace("made up for the demo", "of old"))
    assert run("--backtest", path, "--market", market) == 0
    assert "a market of old" in capsys.readouterr().out


def test_mistakes_are_named(tmp_path, world, capsys):
    assert run("--backtest", tmp_path / "none") == 2
    assert "cannot read the record" in capsys.readouterr().err
    for mistake in (
        ["--plot", "x.svg"],
        ["--backtest-delay", "1"],
        ["--backtest"],
        ["--backtest", "x", "--state", "y"],
        ["--backtest", "x", "--backtest-prices", "2026-11-02..2026-11-01"],
        ["--backtest", "x", "--backtest-prices", "yesterday"],
    ):
        with pytest.raises(SystemExit):
            run(*mistake)


@pytest.fixture
def cube(world, monkeypatch):
    """Serve a price each minute, ten in all, and one that is NULL."""
    with FakeCube() as fake:
        monkeypatch.setenv("ORTEGE_URL", fake.url)
        monkeypatch.setenv("ORTEGE_TOKEN", fake.token())
        prices = fake.tables["stacks_oracle_prices"]
        for minute in range(10):
            at = datetime.fromtimestamp(world.now + 60 * minute, UTC)
            for token, dollars in {"stSTX": "0.70", "aeUSDC": "1"}.items():
                row = {"token": token, "price": Decimal(dollars), "tx_date": at}
                prices.insert(row)
        prices.insert({"token": "stSTX", "price": None, "tx_date": at})
        yield fake


@pytest.mark.parametrize("most", [3, 4, 10_000])
async def test_old_prices_are_read_in_pages(world, cube, monkeypatch, most):
    monkeypatch.setattr(sources, "_MAX_PRICES", most)
    start, end = (
        datetime.fromtimestamp(world.now + seconds, UTC) for seconds in (60, 480)
    )
    async with AsyncCubeClient() as client:
        prices = sources.OrtegePrices(client, world.market)
        found = await prices.history(start, end)
    expected = [
        (world.now + 60 * minute, asset)
        for minute in range(1, 9)
        for asset in sorted([world.ststx, world.aeusdc])
    ]
    assert [(each.at, each.asset) for each in found] == expected


async def test_too_many_prices_at_one_time_are_an_error(world, cube, monkeypatch):
    monkeypatch.setattr(sources, "_MAX_PRICES", 2)
    start, end = (
        datetime.fromtimestamp(world.now + seconds, UTC) for seconds in (0, 480)
    )
    async with AsyncCubeClient() as client:
        prices = sources.OrtegePrices(client, world.market)
        with pytest.raises(SourceError, match="more than 2 prices at"):
            await prices.history(start, end)


@pytest.mark.usefixtures("cube")
def test_the_program_reads_old_prices(tmp_path, world, capsys):
    path = recorded(tmp_path / "record", story(world))
    start = datetime.fromtimestamp(world.now + 120, UTC).isoformat()
    assert run("--backtest", path, "--backtest-prices", f"{start}..2027-01-16") == 0
    report = capsys.readouterr().out
    assert "2027-01-15 08:02:00 to 2027-01-15 08:09:00 UTC" in report
    assert "plans: 1, expected profit 197.65 USD" in report


@pytest.mark.usefixtures("cube")
def test_a_time_without_prices_is_said(tmp_path, world, capsys):
    path = recorded(tmp_path / "record", story(world))
    assert run("--backtest", path, "--backtest-prices", "2020-01-01..2020-01-02") == 2
    assert "no prices in that time" in capsys.readouterr().err
