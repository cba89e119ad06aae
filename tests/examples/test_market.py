"""Market files: what is read exactly, and what is refused with its place."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

from liquidation_bot import demo
from liquidation_bot.market import Market, MarketError
from liquidation_bot.rules import rules_of

MARKETS = Path(demo.MARKET).parent
TEXT = demo.MARKET.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(MARKETS.glob("*.toml")), ids=lambda p: p.stem)
def test_every_shipped_file_is_a_market_and_names_its_doubts(path):
    market = Market.load(path)
    assert market.text == path.read_text(encoding="utf-8")
    assert market.unverified
    assert market.source
    assert market.as_of <= date(2026, 11, 22)


def test_what_zest_v1_is_known_to_have_been():
    market = Market.load(MARKETS / "zest-v1.toml")
    assert [each.symbol for each in market.reserves][:3] == ["stSTX", "aeUSDC", "wSTX"]
    ststx, aeusdc, wstx = market.reserves[:3]
    assert (ststx.threshold, ststx.bonus) == (70_000_000, 10_000_000)
    assert (ststx.threshold_in(1), ststx.bonus_in(1)) == (85_000_000, 5_000_000)
    assert (ststx.threshold_in(2), ststx.threshold_in(0)) == (70_000_000, 70_000_000)
    assert aeusdc.payable
    assert not aeusdc.seizable
    assert wstx.moves == ""
    assert any("borrow-helper-v1-3" in each for each in market.contracts.watched)
    assert any("helper contract has been replaced" in d for d in market.unverified)


def test_numbers_are_exact():
    market = Market.read(TEXT.replace("threshold = 0.70", "threshold = 0.12345678"))
    assert market.reserves[0].threshold == 12_345_678
    assert market.rules.health_threshold == 100_000_000


def test_the_seven_functions():
    assert len(set(rules_of(Market.read(TEXT)).watched.functions)) == 7


def test_reserves_are_found_by_their_contract():
    market = Market.read(TEXT)
    assert market.reserve(market.reserves[2].asset) is market.reserves[2]
    assert market.reserve("SP1.nothing") is None


def test_a_reserve_may_lack_parameters_but_not_half_of_them():
    first = TEXT.index("threshold = 0.70")
    without = TEXT[:first] + TEXT[TEXT.index("[[reserves]]", first) :]
    reserve = Market.read(without).reserves[0]
    assert not reserve.payable
    assert not reserve.seizable
    with pytest.raises(MarketError, match=r"bonus is missing.*reserves\[0\]"):
        Market.read(TEXT.replace("bonus = 0.10\n", "", 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name = ", "nam = ", "unknown field `nam`"),
        (
            "protocol = ",
            "protokol = ",
            "protocol must be 'zest-v1' or 'zest-v2', got None",
        ),
        ('"zest-v1"', '"aave"', "must be 'zest-v1' or 'zest-v2', got 'aave'"),
        ("protocol = ", "protocol = 1 #", "must be 'zest-v1' or 'zest-v2', got 1"),
        ("as_of = 2026-11-22", "as_of = 'today'", "date - at `$.as_of`"),
        ("[rules]", "[[rules]]", "Expected `object`, got `array` - at `$.rules`"),
        (
            "max_price_age = 360",
            "max_price_age = 360.5",
            "Expected `int`, got `decimal` - at `$.rules.max_",
        ),
        ("max_price_age = 360", "max_price_age = true", "Expected `int`, got `bool`"),
        ("max_price_age = 360", "max_price_age = -1", "Expected `int` >= 0"),
        ("max_price_age = 360", "", "missing required field `max_price_age`"),
        (
            "max_price_age = 360",
            "max_price_age = 360\nx = 1",
            "unknown field `x` - at `$.rules`",
        ),
        ("threshold = 0.70", "threshold = 70", "between 0 and 10"),
        ("threshold = 0.70", "threshold = nan", "between 0 and 10"),
        ("threshold = 0.70", "threshold = '0.7'", "a number such as 0.75"),
        ("threshold = 0.70", "threshold = true", "a number such as 0.75"),
        ("threshold = 0.70", "threshold = 0.700000001", "at most eight decimals"),
        (
            "decimals = 6",
            "decimals = 39",
            "Expected `int` <= 38 - at `$.reserves[0].decimals`",
        ),
        ('amounts = "tokens"', 'amounts = "usd"', "(tokens|smallest)"),
        ('watched = ["', 'watched = [] #"', "length >= 1 - at `$.contracts.watched`"),
        (
            'unverified = ["',
            'unverified = [1, "',
            "Expected `str`, got `int` - at `$.unverified[0]`",
        ),
        (".pool-vault-demo", "", "matching regex"),
        (".pool-vault-demo", ".pool vault", "matching regex"),
        ("SP1E1AK6SZ", "SP1E1AK6SX", "wrong checksum"),
        ("::ststx", "::", "matching regex"),
        (
            'price_token = "stSTX"',
            "price_token = 1",
            "Expected `str`, got `int` - at `$.reserves[0].price",
        ),
        ("fee_bps = 1000", "fee_bps = 10001", "Expected `int` <= 10000"),
        ("fee_bps = 1000", "fee_bps = 1000\nfeed = 'x'", "matching regex"),
        (
            "[units]",
            "[node]\ndata = 'SP1'\n[units]",
            "matching regex",
        ),
        ("[contracts]", "[contracts", "invalid market file"),
        ("fee_bps = 1000", "fee_bps = 1000\npricing = {kind = 'dia'}", "'dia'"),
        (
            "fee_bps = 1000",
            "fee_bps = 1000\npricing = {kind = 'fixed', price = 0}",
            "price must be positive",
        ),
        (
            "fee_bps = 1000",
            "fee_bps = 1000\npricing = {kind = 'ratio', base = 'STX'}",
            "reserve whose pricing is of the kind 'pyth', got 'STX'",
        ),
        ("message_fee = 10", "", "missing required field `message_fee`"),
    ],
)
def test_mistakes_are_named_with_their_place(old, new, message):
    assert old in TEXT
    with pytest.raises(MarketError, match=re.escape(message)):
        Market.read(TEXT.replace(old, new, 1))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('liquidation = "SP1E', "$.contracts"),
        ('watched = ["SP1E', "$.contracts"),
        ('vault = "SP1E', "$.contracts"),
        ('asset = "SP11', "$.reserves[0]"),
        ('moves = "SP11', "$.reserves[0]"),
        ('z_token = "SP1E', "$.reserves[0]"),
        ('z_moves = "SP1E', "$.reserves[0]"),
        ('oracle = "SP1E', "$.reserves[0]"),
        ('data = "SP1E', ""),
    ],
)
def test_each_address_is_checked(text, place):
    named = TEXT[TEXT.index('vault = "') + 9 :].partition('"')[0]
    whole = TEXT.replace("[units]", f'[node]\ndata = "{named}"\n[units]')
    assert Market.read(whole).node == {"data": named}
    with pytest.raises(MarketError, match="invalid Stacks address") as raised:
        Market.read(whole.replace(text, f"{text[:-1]}Z", 1))
    assert place in str(raised.value)


def test_reserves_must_be_tables():
    head = TEXT[: TEXT.index("[[reserves]]")]
    for wrong in ("", "reserves = []\n", "reserves = [1]\n"):
        with pytest.raises(MarketError, match="reserves"):
            Market.read(wrong + head)


def test_one_name_means_one_reserve():
    second = TEXT.replace("aeusdc-demo", "ststx-demo")
    with pytest.raises(MarketError, match=r"duplicate asset '.*ststx-demo'"):
        Market.read(second)


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_file_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "market.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MarketError, match="cannot read the market file"):
        Market.load(path)
