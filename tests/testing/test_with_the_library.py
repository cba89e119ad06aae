"""The library's client against FakeCube, as in a user's test."""

from __future__ import annotations

from decimal import Decimal

import pytest

from ortege_watch import AsyncCubeClient, Dimension, Measure, Query
from ortege_watch.testing import FakeCube


class Prices:
    price = Measure("stacks_oracle_prices.price", Decimal)
    token = Dimension("stacks_oracle_prices.token")


QUERY = Query(measures=[Prices.price], dimensions=[Prices.token])


@pytest.mark.parametrize("generation", ["strict", "classic", "tutorial"])
async def test_load_and_watch(generation):
    async with FakeCube(generation) as fake:
        prices = fake.tables["stacks_oracle_prices"]
        prices.insert({"token": "STX", "price": Decimal("0.81")})
        async with AsyncCubeClient(fake.url, fake.token()) as cube:
            (row,) = await cube.load(QUERY)
            assert (row[Prices.token], row[Prices.price]) == ("STX", Decimal("0.81"))
            async with cube.watch(QUERY) as updates:
                assert len((await anext(updates)).added) == 1
                prices.update({"token": "STX"}, {"price": Decimal("0.79")})
                (changed,) = (await anext(updates)).changed
                assert changed[Prices.price] == Decimal("0.79")
        await fake.wait_until_async(lambda: not fake.connections)
