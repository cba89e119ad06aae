"""Market files: what is read exactly, and what is refused with its place."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from liquidation_bot import demo
from liquidation_bot.market import FUNCTIONS, Market, MarketError

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
    assert any("borrow-helper-v1-3" in each for each in market.watched)
    assert any("helper contract has been replaced" in d for d in market.unverified)


def test_numbers_are_exact():
    market = Market.read(TEXT.replace("threshold = 0.70", "threshold = 0.12345678"))
    assert market.reserves[0].threshold == 12_345_678
    assert market.health_threshold == 100_000_000


def test_the_seven_functions():
    assert len(set(FUNCTIONS)) == 7


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
    with pytest.raises(MarketError, match=r"reserves\[0\].bonus is missing"):
        Market.read(TEXT.replace("bonus = 0.10\n", "", 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name = ", "nam = ", "market.name is missing"),
        ("as_of = 2026-11-22", "as_of = 'today'", "market.as_of must be of type date"),
        ("[rules]", "[[rules]]", "market.rules must be of type dict"),
        ("max_price_age = 360", "max_price_age = 360.5", "max_price_age must be of"),
        ("max_price_age = 360", "max_price_age = true", "max_price_age must be of"),
        ("max_price_age = 360", "max_price_age = -1", "between 0 and"),
        ("max_price_age = 360", "max_price_ag = 360", "max_price_age is missing"),
        ("max_price_age = 360", "max_price_age = 360\nx = 1", "rules.x is not a key"),
        ("threshold = 0.70", "threshold = 70", "between 0 and 10"),
        ("threshold = 0.70", "threshold = nan", "between 0 and 10"),
        ("threshold = 0.70", "threshold = '0.7'", "a number such as 0.75"),
        ("threshold = 0.70", "threshold = true", "a number such as 0.75"),
        ("threshold = 0.70", "threshold = 0.700000001", "more than eight decimals"),
        ("decimals = 6", "decimals = 39", "between 0 and 38"),
        ('amounts = "tokens"', 'amounts = "usd"', 'must be "tokens" or "smallest"'),
        ('watched = ["', 'watched = [] #"', "at least one contract"),
        ('unverified = ["', 'unverified = [1, "', "must be a list of texts"),
        (".pool-vault-demo", "", "must name a contract, not the account"),
        (".pool-vault-demo", ".pool vault", "invalid contract name"),
        ("SP1E1AK6SZ", "SP1E1AK6SX", "wrong checksum"),
        ("::ststx", "::", "must be contract::token"),
        ('price_token = "stSTX"', "price_token = 1", "price_token must be of type str"),
        ("fee_bps = 1000", "fee_bps = 10001", "between 0 and 10000"),
        ("fee_bps = 1000", "fee_bps = 1000\nfeed = 'x'", "64 hexadecimal digits"),
        ("[units]", "[node]\ndata = 'SP1'\n[units]", "node.data is no contract"),
        ("[contracts]", "[contracts", "no TOML"),
    ],
)
def test_mistakes_are_named_with_their_place(old, new, message):
    assert old in TEXT
    with pytest.raises(MarketError, match=message.replace("[", r"\[")):
        Market.read(TEXT.replace(old, new, 1))


def test_reserves_must_be_tables():
    head = TEXT[: TEXT.index("[[reserves]]")]
    for wrong in ("", "reserves = []\n", "reserves = [1]\n"):
        with pytest.raises(MarketError, match="reserves"):
            Market.read(wrong + head)


def test_one_name_means_one_reserve():
    second = TEXT.replace("aeusdc-demo", "ststx-demo")
    with pytest.raises(MarketError, match=r"asset .* is there twice"):
        Market.read(second)


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_file_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "market.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MarketError, match="cannot read the market file"):
        Market.load(path)
