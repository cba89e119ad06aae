"""Positions and prices out of files."""

from __future__ import annotations

import json

import msgspec
import pytest

from liquidation_bot.model import FileError, Position
from liquidation_bot.record import FixturePositions, FixturePrices


async def test_positions_are_read_as_if_now(tmp_path, world):
    path = tmp_path / "positions"
    path.write_text(json.dumps([msgspec.to_builtins(world.danger())]))
    source = FixturePositions.load(path)
    assert await source.positions([world.alice, world.bob], 7) == [
        msgspec.structs.replace(world.danger(), read_at=7),
        Position(borrower=world.bob, holdings=(), read_at=7),
    ]


async def test_prices(tmp_path, world):
    path = tmp_path / "prices"
    prices = list(world.prices().values())
    path.write_text(json.dumps([msgspec.to_builtins(each) for each in prices]))
    assert await FixturePrices.load(path).prices() == prices


@pytest.mark.parametrize(
    "content", [None, "", "{}x", "[1]", "5", '[{"borrower": "SP1"}]', "[{}]"]
)
def test_files_that_are_none_are_refused(tmp_path, content):
    path = tmp_path / "file"
    if content is not None:
        path.write_text(content)
    for source in (FixturePositions, FixturePrices):
        with pytest.raises(FileError, match="cannot read"):
            source.load(path)


@pytest.mark.parametrize("amount", ['"5"', "5.0", "true", "-5", "null"])
def test_amounts_are_whole_numbers_that_are_not_negative(tmp_path, amount):
    path = tmp_path / "file"
    position = """[{"borrower": "SP1", "read_at": 1,
        "holdings": [{"asset": "SP1.a", "borrowed": AMOUNT}]}]"""
    price = '[{"asset": "SP1.a", "at": 1, "price": AMOUNT}]'
    for source, text in ((FixturePositions, position), (FixturePrices, price)):
        path.write_text(text.replace("AMOUNT", "5"))
        source.load(path)
        path.write_text(text.replace("AMOUNT", amount))
        with pytest.raises(FileError, match=r"Expected `int`.*(borrowed|price)"):
            source.load(path)


def test_a_misspelled_key_does_not_become_a_debt_of_0(tmp_path):
    path = tmp_path / "file"
    path.write_text(
        """[{"borrower": "SP1", "read_at": 1,
        "holdings": [{"asset": "SP1.a", "borowed": 5}]}]"""
    )
    with pytest.raises(FileError, match="unknown field `borowed`"):
        FixturePositions.load(path)
