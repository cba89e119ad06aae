"""Tables keep values exactly, and refuse those that a database would refuse."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from ortege_watch import InvalidArgument
from ortege_watch.testing import FakeCube, Table
from ortege_watch.testing._cube.table import Tables, on_change


def table(rows=()):
    return Table(
        "prices",
        measures={"price": "max", "tokens": "count_distinct(token)"},
        dimensions={"token": "string", "open": "boolean", "at": "time"},
        rows=rows,
    )


def test_rows_have_every_column():
    prices = table([{"token": "STX"}])
    prices.insert({"price": Decimal("0.50")})
    prices.insert(iter([{"open": True}]))
    assert prices.rows == [
        {"price": None, "token": "STX", "open": None, "at": None},
        {"price": Decimal("0.50"), "token": None, "open": None, "at": None},
        {"price": None, "token": None, "open": True, "at": None},
    ]
    assert repr(prices) == "<Table 'prices' with 3 rows>"


@pytest.mark.parametrize(
    "value",
    [
        "2024-05-01T10:00:00",
        "2024-05-01 10:00:00+00:00",
        "2024-05-01T12:00:00+02:00",
        datetime(2024, 5, 1, 10, tzinfo=UTC),
        datetime(2024, 5, 1, 12, tzinfo=timezone(timedelta(hours=2))),
    ],
)
def test_times_are_kept_in_utc(value):
    (row,) = table([{"at": value}]).rows
    assert row["at"].isoformat() == "2024-05-01T10:00:00+00:00"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            {"prise": 1},
            "unknown column 'prise' of prices: the columns are price, token, open, at",
        ),
        (
            {"price": 0.1},
            r"prices\.price must be a number, got 0\.1; use int or Decimal",
        ),
        ({"price": True}, "price must be a number, got True"),
        ({"price": "1"}, "price must be a number, got '1'"),
        ({"token": 1}, "token must be a string, got 1"),
        ({"open": 1}, "open must be a boolean, got 1"),
        ({"at": 1}, "at must be a time, got 1"),
        ({"at": "soon"}, "at must be an ISO 8601 date or time, got 'soon'"),
        (
            {"at": datetime(2024, 5, 1)},  # noqa: DTZ001 - that is the point
            "at must have a time zone, got datetime",
        ),
    ],
)
def test_rows_that_are_refused(row, problem):
    prices = table()
    with pytest.raises(InvalidArgument, match=problem):
        prices.insert([{"token": "STX"}, row])
    assert prices.rows == []
    with pytest.raises(InvalidArgument, match=problem):
        prices.replace([row])


def test_update_and_delete():
    prices = table([{"token": "STX", "price": 1}, {"token": "sBTC", "price": 2}])
    before = prices.rows
    assert prices.update({"token": "STX"}, {"price": 3}) == 1
    assert (
        prices.update(
            lambda row: row["price"] > 1, lambda row: {"price": row["price"] * 2}
        )
        == 2
    )
    assert [row["price"] for row in prices.rows] == [6, 4]
    assert [row["price"] for row in before] == [1, 2]
    with pytest.raises(InvalidArgument, match=r"got 0\.5"):
        prices.update({}, {"price": 0.5})
    assert prices.delete({"token": "STX", "price": 6}) == 1
    assert prices.delete({"token": "STX"}) == 0
    prices.replace([])
    assert prices.rows == []


def test_a_listener_is_called_after_every_change():
    prices, heard = table(), []
    tables = Tables([prices])
    on_change(tables, lambda: heard.append(len(prices.rows)))
    prices.insert({})
    prices.insert([{}, {}])
    prices.update({}, {"price": 1})
    prices.delete({})
    prices.replace([{}])
    assert heard == [1, 3, 3, 0, 1]
    tables["prices"] = table()
    prices.insert({})
    assert len(heard) == 6
    del tables["prices"]
    assert len(heard) == 7


def test_an_editor_offers_what_a_test_needs():
    assert {name for name in dir(table()) if name[0] != "_"} == {
        *("name", "measures", "dimensions", "segments"),
        *("primary_key", "drill_members", "granularities"),
        *("rows", "insert", "update", "delete", "replace"),
    }
    with FakeCube() as fake:
        offered = {name for name in dir(fake.tables) if name[0] != "_"}
    assert offered - {"data"} <= set(dir(dict))


@pytest.mark.parametrize("spec", ["median", "sum()", "sum(a", "", "SUM"])
def test_unknown_measures_are_refused(spec):
    with pytest.raises(
        InvalidArgument, match=r"measure 'x' must be one of .* or such as"
    ):
        Table("t", measures={"x": spec})


def test_unknown_dimension_types_are_refused():
    with pytest.raises(
        InvalidArgument, match=r"type of dimension 'x' must be one of .*, got 'geo'"
    ):
        Table("t", dimensions={"x": "geo"})


@pytest.mark.parametrize("rows", [5, "STX", None, b"x"])
def test_rows_are_a_sequence_of_mappings(rows):
    message = rf"rows of prices must be a sequence of mappings, got {rows!r}"
    for act in (table().insert, table().replace, table):
        with pytest.raises(InvalidArgument, match=message):
            act(rows)


def test_a_row_is_a_mapping():
    with pytest.raises(
        InvalidArgument,
        match=r"^a row of prices must be a mapping of its columns price, .*, got 5",
    ):
        table().insert([{"token": "STX"}, 5])


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update({"tokn": "STX"}, {"price": 2}),
        lambda t: t.delete({"tokn": "STX"}),
    ],
)
def test_a_condition_with_an_unknown_column_is_refused(change):
    with pytest.raises(InvalidArgument, match=r"^unknown column 'tokn' of prices: the"):
        change(table([{"token": "STX", "price": 1}]))


def test_a_fake_refuses_what_is_not_a_table():
    for tables in (["x"], "x"):
        with pytest.raises(InvalidArgument, match=r"^tables must be Tables, got 'x'$"):
            FakeCube(tables=tables)
    with pytest.raises(InvalidArgument, match=r"^tables must be Tables, got <Table 'p"):
        FakeCube(tables=table())
    with pytest.raises(
        InvalidArgument, match=r"^tables\['x'\] must be a Table, got 5$"
    ):
        FakeCube().tables["x"] = 5


def test_a_table_that_a_fake_does_not_have_is_refused_with_the_names():
    tables = FakeCube(tables=[table()]).tables
    message = (
        r"^unknown table 'nope': the tables are stacks_contract_events, .*, prices"
    )
    with pytest.raises(InvalidArgument, match=message):
        tables["nope"]
    with pytest.raises(InvalidArgument, match=message):
        del tables["nope"]
    assert tables.get("nope") is None
    assert "nope" not in tables
