"""Print events of a Zest helper contract as they happen, as in Ortege's tutorial.

Set ORTEGE_URL (such as https://host/cubejs-api/v1) and ORTEGE_TOKEN, then run it. The
contract is the tutorial's and has been replaced since. Amounts with the same sender,
function and time are summed into one row; `upserted` includes the rows that change.
Events that do not change the sum of a row, because their amount is 0 or NULL or because
they cancel out, are not noticed (docs/delivery.md, "What no client can see").
"""

import sys
from decimal import Decimal

from ortege_watch import (
    CubeClient,
    DecodeError,
    Dimension,
    Measure,
    Query,
    Row,
    TimeDimension,
)

HELPER = "SP2VCQJGH7PHP2DJK7Z0V48AGBHQAW3R3ZW1QF4N.borrow-helper-v1-3"

amount = Measure("stacks_contract_events.asset_amount", Decimal)
contract = Dimension("stacks_contract_events.contract_id")
function = Dimension("stacks_contract_events.function_name")
sender = Dimension("stacks_contract_events.sender_address")
date = TimeDimension("stacks_contract_events.tx_date")

query = Query(
    measures=[amount],
    dimensions=[contract, function, sender, date],
    where=[contract.eq(HELPER), function.in_(["withdraw", "supply", "borrow"])],
    time=[date.over("from 2 hours ago to now")],
    order=[date.desc()],
)


def show(row: Row) -> None:
    """Print a row; one that cannot be read must not end the program."""
    try:
        print(row[date], row.get(function), row.get(sender), row.get(amount))
    except DecodeError as error:  # such as an amount that is NaN
        print("skipped:", error, file=sys.stderr)


if __name__ == "__main__":
    with CubeClient() as cube, cube.watch(query) as updates:
        for update in updates:
            if update.truncated:
                print("rows may be missing: use a shorter window", file=sys.stderr)
            for row in update.upserted:
                show(row)
