"""Use the installed wheel the way a program would: only its public names."""

from __future__ import annotations

from decimal import Decimal

import ortege_watch
import ortege_watch.watchbus
from ortege_watch import CubeClient, Measure, Query
from ortege_watch.testing import FakeCube

for namespace in (ortege_watch, ortege_watch.watchbus):
    for name in namespace.__all__:
        getattr(namespace, name)

price = Measure("stacks_oracle_prices.price")
with FakeCube() as fake, CubeClient(fake.url, fake.token()) as cube:
    prices = fake.tables["stacks_oracle_prices"]
    prices.insert({"token": "STX", "price": Decimal("0.81")})
    (row,) = cube.load(Query(measures=[price]))
    assert row[price] == Decimal("0.81")
    with cube.watch(Query(measures=[price])) as updates:
        assert next(updates).first
        prices.insert({"token": "sBTC", "price": Decimal(64_250)})
        assert next(updates).result[0][price] == 64_250

print(f"ortege-watch {ortege_watch.__version__} works from its wheel")
