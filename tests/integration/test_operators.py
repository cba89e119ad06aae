"""Every filter finds exactly the rows that SQL finds."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from harness.members import Calls, Events

from ortege_watch import CubeClient, Query

EAST = timezone(timedelta(hours=9))

# A filter, and what PostgreSQL is asked instead. Both are written by hand.
FILTERS = [
    (Calls.contract_id.eq("SP000.pox-4"), "contract_id = 'SP000.pox-4'"),
    (Calls.function_name.eq("日本語"), "function_name = '日本語'"),
    (Calls.asset_id.eq("💱"), "asset_id = '💱'"),
    (
        Calls.contract_id.eq("SP9.naïve_\"quote's\"-100%"),
        "contract_id = 'SP9.naïve_\"quote''s\"-100%'",
    ),
    (
        Calls.function_name.in_(["withdraw", "supply", "borrow"]),
        "function_name IN ('withdraw', 'supply', 'borrow')",
    ),
    (
        Calls.function_name.in_(["borrow", None]),
        "function_name = 'borrow' OR function_name IS NULL",
    ),
    (Calls.function_name.in_([None]), "function_name IS NULL"),
    (Calls.function_name.ne("borrow"), "function_name IS DISTINCT FROM 'borrow'"),
    (
        Calls.function_name.not_in(["borrow", "swap"]),
        "coalesce(function_name, '') NOT IN ('borrow', 'swap')",
    ),
    (
        Calls.function_name.not_in(["borrow", None]),
        "function_name <> 'borrow' AND function_name IS NOT NULL",
    ),
    (Calls.contract_id.contains("POX"), "position('pox' in lower(contract_id)) > 0"),
    (Calls.contract_id.contains("_"), "position('_' in contract_id) > 0"),
    (Calls.contract_id.contains("%"), "position('%' in contract_id) > 0"),
    (
        Calls.contract_id.contains("pox", "ALEX"),
        "contract_id ILIKE '%pox%' OR contract_id ILIKE '%alex%'",
    ),
    (
        Calls.function_name.not_contains("o"),
        "position('o' in lower(coalesce(function_name, ''))) = 0",
    ),
    (Calls.contract_id.starts_with("sp2"), "lower(left(contract_id, 3)) = 'sp2'"),
    (Calls.contract_id.ends_with("POX-4"), "lower(right(contract_id, 5)) = 'pox-4'"),
    (
        Calls.contract_id.not_starts_with("sp2", "SP9"),
        "lower(left(contract_id, 3)) NOT IN ('sp2', 'sp9')",
    ),
    (
        Calls.function_name.not_starts_with("S"),
        "coalesce(lower(left(function_name, 1)), '') <> 's'",
    ),
    (Calls.contract_id.not_ends_with("POX-4"), "lower(right(contract_id, 5)) <> 'pox-4'"),
    (Calls.function_name.is_set(), "function_name IS NOT NULL"),
    (Calls.function_name.is_not_set(), "function_name IS NULL"),
    (Calls.amount.eq(Decimal("42.125")), "amount = 42.125"),
    (Calls.amount.eq(9007199254740993), "amount = 9007199254740993"),
    (Calls.amount.in_([7, Decimal("0.25")]), "amount IN (7, 0.25)"),
    (Calls.amount.ne(7), "amount IS DISTINCT FROM 7"),
    (Calls.amount.gt(7), "amount > 7"),
    (Calls.amount.gt(Decimal("9007199254740992.5")), "amount > 9007199254740992.5"),
    (Calls.amount.gte(7), "amount >= 7"),
    (Calls.amount.lt(Decimal("1E-6")), "amount < 0.000001"),
    (Calls.amount.lte(Decimal("1E-6")), "amount <= 0.000001"),
    (Calls.amount.is_not_set(), "amount IS NULL"),
    (Calls.block_height.gte(150050), "block_height >= 150050"),
    (Calls.success.eq(True), "success"),
    (Calls.success.eq(False), "NOT success"),
    (Calls.success.ne(True), "success IS NOT TRUE"),
    (
        Calls.tx_date.in_range(date(2024, 5, 1), date(2024, 5, 2)),
        "tx_date >= '2024-05-01Z' AND tx_date < '2024-05-03Z'",
    ),
    (
        Calls.tx_date.in_range(
            datetime(2024, 5, 1, 12, 30, 0, 123000, tzinfo=UTC),
            datetime(2024, 5, 2, 17, tzinfo=EAST),
        ),
        "tx_date BETWEEN '2024-05-01 12:30:00.123Z' AND '2024-05-02 17:00:00+09'",
    ),
    (
        Calls.tx_date.not_in_range(date(2024, 5, 1), date(2024, 5, 2)),
        "tx_date < '2024-05-01Z' OR tx_date >= '2024-05-03Z'",
    ),
    (Calls.tx_date.on(date(2024, 5, 1)), "(tx_date AT TIME ZONE 'UTC')::date = '2024-05-01'"),
    (Calls.tx_date.before(date(2024, 5, 2)), "tx_date < '2024-05-02Z'"),
    (
        Calls.tx_date.before(datetime(2024, 5, 2, 17, tzinfo=EAST)),
        "tx_date < '2024-05-02 08:00Z'",
    ),
    (Calls.tx_date.after(date(2024, 5, 2)), "tx_date >= '2024-05-03Z'"),
    (
        Calls.tx_date.after(datetime(2024, 5, 2, 17, tzinfo=EAST)),
        "tx_date > '2024-05-02 08:00Z'",
    ),
    (Calls.tx_date.on_or_before(date(2024, 5, 1)), "tx_date < '2024-05-02Z'"),
    (
        Calls.tx_date.on_or_before(datetime(2024, 5, 2, 17, tzinfo=EAST)),
        "tx_date <= '2024-05-02 08:00Z'",
    ),
    (Calls.tx_date.on_or_after(date(2024, 5, 2)), "tx_date >= '2024-05-02Z'"),
    (
        Calls.tx_date.on_or_after(datetime(2024, 5, 2, 17, tzinfo=EAST)),
        "tx_date >= '2024-05-02 08:00Z'",
    ),
    (
        Calls.amount.gt(7) & Calls.success.eq(True),
        "amount > 7 AND success",
    ),
    (
        Calls.amount.lt(0) | Calls.function_name.is_not_set(),
        "amount < 0 OR function_name IS NULL",
    ),
    (
        (Calls.amount.gt(7) & Calls.success.eq(True)) | Calls.asset_id.eq("ALEX"),
        "(amount > 7 AND success) OR asset_id = 'ALEX'",
    ),
]  # fmt: skip

HAVING = [
    (Calls.count.gt(2), "count(*) > 2"),
    (Calls.count.eq(2), "count(*) = 2"),
    (Calls.asset_amount.gte(Decimal("12.75")), "sum(amount) >= 12.75"),
    (Calls.max_block.lt(150050), "max(block_height) < 150050"),
    (
        Calls.count.gt(3) | Calls.asset_amount.lt(0),
        "count(*) > 3 OR sum(amount) < 0",
    ),
]


@pytest.fixture
def client(cube):
    with CubeClient(cube.url, cube.token()) as client:
        yield client


def ids_by_sql(postgres, condition):
    rows = postgres.rows(
        f"SELECT id FROM stacks_contract_calls WHERE {condition} ORDER BY id"
    )
    everything = int(postgres.scalar("SELECT count(*) FROM stacks_contract_calls"))
    assert 0 < len(rows) < everything, "this condition tells nothing"
    return [int(value) for [value] in rows]


@pytest.mark.parametrize(
    ("where", "condition"), FILTERS, ids=[sql for _, sql in FILTERS]
)
def test_finds_the_rows_that_sql_finds(client, postgres, where, condition):
    expected = ids_by_sql(postgres, condition)
    result = client.load(Query(dimensions=[Calls.id], where=[where]))
    assert sorted(row[Calls.id] for row in result) == expected
    [row] = client.load(Query(measures=[Calls.count], where=[where]))
    assert row[Calls.count] == len(expected)


@pytest.mark.parametrize(
    ("having", "condition"), HAVING, ids=[sql for _, sql in HAVING]
)
def test_finds_the_groups_that_sql_finds(client, postgres, having, condition):
    rows = postgres.rows(
        "SELECT contract_id, count(*) FROM stacks_contract_calls "
        f"GROUP BY 1 HAVING {condition}"
    )
    assert 0 < len(rows) < 6
    result = client.load(
        Query(measures=[Calls.count], dimensions=[Calls.contract_id], having=[having])
    )
    found = {row[Calls.contract_id]: row[Calls.count] for row in result}
    assert found == {contract: int(count) for contract, count in rows}


def test_filters_of_a_list_must_all_hold(client, postgres):
    expected = ids_by_sql(postgres, "amount > 7 AND success AND asset_id = 'STX'")
    where = [Calls.amount.gt(7), Calls.success.eq(True), Calls.asset_id.eq("STX")]
    result = client.load(Query(dimensions=[Calls.id], where=where))
    assert sorted(row[Calls.id] for row in result) == expected


def test_a_segment_is_a_filter_of_the_server(client, postgres):
    expected = ids_by_sql(postgres, "function_name = 'borrow'")
    result = client.load(Query(dimensions=[Calls.id], segments=[Calls.borrows]))
    assert sorted(row[Calls.id] for row in result) == expected


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
def test_a_day_is_a_day_of_the_query_s_time_zone(client, postgres, zone):
    day = f"(tx_date AT TIME ZONE '{zone}')::date"
    for where, condition in [
        (Calls.tx_date.on(date(2024, 5, 1)), f"{day} = '2024-05-01'"),
        (Calls.tx_date.before(date(2024, 5, 2)), f"{day} < '2024-05-02'"),
        (Calls.tx_date.after(date(2024, 5, 2)), f"{day} > '2024-05-02'"),
        (Calls.tx_date.on_or_before(date(2024, 5, 2)), f"{day} <= '2024-05-02'"),
        (Calls.tx_date.on_or_after(date(2024, 5, 2)), f"{day} >= '2024-05-02'"),
    ]:
        expected = ids_by_sql(postgres, condition)
        result = client.load(Query(dimensions=[Calls.id], where=[where], timezone=zone))
        assert sorted(row[Calls.id] for row in result) == expected


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
@pytest.mark.parametrize(
    "granularity",
    ["second", "minute", "hour", "day", "week", "month", "quarter", "year"],
)
def test_groups_by_time_as_sql_groups(client, postgres, granularity, zone):
    rows = postgres.rows(
        f"SELECT date_trunc('{granularity}', tx_date AT TIME ZONE '{zone}') "
        f"AT TIME ZONE '{zone}', count(*) FROM stacks_contract_calls GROUP BY 1"
    )
    expected = {datetime.fromisoformat(moment): int(count) for moment, count in rows}
    selection = Calls.tx_date.by(granularity)
    result = client.load(Query(measures=[Calls.count], time=[selection], timezone=zone))
    assert {row[selection]: row[Calls.count] for row in result} == expected


def test_a_time_selection_has_a_range(client, postgres):
    expected = ids_by_sql(
        postgres, "tx_date >= '2024-05-01Z' AND tx_date < '2024-06-01Z'"
    )
    may = Calls.tx_date.over((date(2024, 5, 1), date(2024, 5, 31)))
    result = client.load(Query(dimensions=[Calls.id], time=[may]))
    assert sorted(row[Calls.id] for row in result) == expected


def test_a_relative_range_is_relative_to_the_server_s_clock(client, ledger):
    ledger.insert()
    counts = {}
    for words in ("today", "this year", "last 7 days", "tomorrow"):
        query = Query(
            measures=[Events.count],
            time=[Events.tx_date.over(words)],
            where=[Events.contract_id.eq(ledger.contract_id)],
        )
        [row] = client.load(query)
        counts[words] = row[Events.count]
    assert counts == {"today": 1, "this year": 1, "last 7 days": 0, "tomorrow": 0}
