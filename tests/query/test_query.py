"""Queries: what is checked, what is sent."""

from __future__ import annotations

import copy
import datetime  # noqa: ICN001
import io
import json
import pickle
import struct
import zoneinfo
from datetime import UTC, date
from decimal import Decimal
from typing import get_args

import attrs
import pytest

from ortege_watch import query as language
from ortege_watch.errors import InvalidArgument, QueryError
from ortege_watch.query import (
    Dimension,
    Measure,
    Query,
    Segment,
    TimeDimension,
    TimeSelection,
)
from ortege_watch.query.query import CacheMode


class Events:
    asset_amount = Measure("stacks_contract_events.asset_amount", Decimal)
    contract_id = Dimension("stacks_contract_events.contract_id", str)
    function_name = Dimension("stacks_contract_events.function_name", str)
    sender_address = Dimension("stacks_contract_events.sender_address", str)
    tx_date = TimeDimension("stacks_contract_events.tx_date")


amount, sender, seen = Events.asset_amount, Events.sender_address, Events.tx_date
large = Segment("stacks_contract_events.large")
DAY = date(2024, 5, 1)


def test_the_query_of_the_tutorial():
    borrow = "SP2VCQJGH7PHP2DJK7Z0V48AGBHQAW3R3ZW1QF4N.borrow-helper-v1-3"
    query = Query(
        measures=[Events.asset_amount],
        dimensions=[
            Events.contract_id,
            Events.function_name,
            Events.sender_address,
            Events.tx_date,
        ],
        where=[
            Events.contract_id.eq(borrow),
            Events.function_name.in_(["withdraw", "supply", "borrow"]),
        ],
    )
    assert query.to_wire() == {
        "measures": ["stacks_contract_events.asset_amount"],
        "dimensions": [
            "stacks_contract_events.contract_id",
            "stacks_contract_events.function_name",
            "stacks_contract_events.sender_address",
            "stacks_contract_events.tx_date",
        ],
        "filters": [
            {
                "member": "stacks_contract_events.contract_id",
                "operator": "equals",
                "values": [borrow],
            },
            {
                "member": "stacks_contract_events.function_name",
                "operator": "equals",
                "values": ["withdraw", "supply", "borrow"],
            },
        ],
    }


def test_everything_a_query_can_say():
    query = Query(
        measures=[amount],
        dimensions=[sender],
        time=[seen.by("day").over("last 7 days")],
        segments=[large],
        where=[seen.before(datetime.datetime(2024, 5, 1, 12, tzinfo=UTC))],
        having=[amount.gt(5)],
        order=[seen.asc(), amount.desc()],
        limit=0,
        offset=20,
        total=True,
        timezone="Asia/Tokyo",
        cache="no-cache",
        response_format="compact",
        join_hints=[["a", "b"], ["b", "c"]],
    )
    assert query.to_wire() == {
        "measures": [amount.name],
        "dimensions": [sender.name],
        "timeDimensions": [
            {"dimension": seen.name, "granularity": "day", "dateRange": "last 7 days"}
        ],
        "segments": [large.name],
        "filters": [
            {
                "member": seen.name,
                "operator": "beforeDate",
                "values": ["2024-05-01T21:00:00.000"],
            },
            {"member": amount.name, "operator": "gt", "values": ["5"]},
        ],
        "order": [[seen.name, "asc"], [amount.name, "desc"]],
        "limit": 0,
        "offset": 20,
        "total": True,
        "timezone": "Asia/Tokyo",
        "responseFormat": "compact",
        "joinHints": [["a", "b"], ["b", "c"]],
    }
    assert json.loads(json.dumps(query.to_wire())) == query.to_wire()


def test_what_says_nothing_is_left_out():
    query = Query(measures=[amount], dimensions=[], where=(), limit=None, offset=0)
    assert query.to_wire() == {"measures": [amount.name]}


@pytest.mark.parametrize(
    "more",
    [
        {"timezone": "Europe/Berlin"},
        {"time": [seen.by("day")]},
        {"where": [seen.on(DAY) | sender.eq("a")]},
    ],
)
def test_the_zone_is_named_where_something_depends_on_it(more):
    wire = Query(measures=[amount], **more).to_wire()
    assert wire["timezone"] == more.get("timezone", "UTC")


@pytest.mark.parametrize(
    ("slot", "item", "more"),
    [
        ("measures", amount, {}),
        ("dimensions", sender, {}),
        ("dimensions", seen, {}),
        ("time", seen.by("day").over("today"), {}),
        ("segments", large, {"measures": amount}),
        ("where", sender.eq("a"), {"measures": amount}),
        ("where", sender.eq("a") | sender.eq("b"), {"measures": amount}),
        ("having", amount.gt(5), {"measures": amount}),
        ("order", amount.desc(), {"measures": amount}),
    ],
)
def test_one_item_alone_is_a_list_of_one(slot, item, more):
    query = Query(**{slot: item}, **more)
    assert getattr(query, slot) == (item,)
    assert query == Query(**{slot: [item]}, **more)


def test_lists_become_tuples_and_repetitions_count_once():
    query = Query(measures=[amount, Measure(amount.name)], dimensions=(sender, sender))
    assert query.measures == (amount,)
    assert query.dimensions == (sender,)


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({}, "the query selects nothing; pass measures"),
        ({"measures": []}, "the query selects nothing; pass measures"),
        ({"time": [seen.over("today")]}, "the query selects nothing; pass measures"),
        ({"segments": [large], "where": [sender.eq("a")]}, "selects nothing"),
        ({"measures": "cube.x"}, "must be a member or a list of members, got 'cube.x'"),
        ({"measures": sender}, r"measures: Dimension\(.*\) belongs in dimensions="),
        ({"measures": {amount}}, "measures must be a member or a list of members"),
        ({"measures": {"a": 1}}, "measures must be a member or a list of members"),
        ({"measures": None}, "measures must be a member or a list of members"),
        ({"time": "x.t"}, "time must be a time selection or a list of time selections"),
        ({"segments": "x.s"}, "segments must be a segment or a list of segments, got"),
        ({"order": "x.s"}, "order must be an order or a list of orders, got 'x.s'"),
        (
            {"time": ["c.t"]},
            (
                r"time: expected time selections such as TimeDimension\(\"cube.time\"\)"
                r"\.by\(\"day\"\), got 'c.t'"
            ),
        ),
        (
            {"segments": ["c.s"]},
            r"expected segments such as Segment\(\"cube.name\"\), got 'c.s'",
        ),
        (
            {"dimensions": ["c.d"]},
            (
                r"expected members such as Dimension\(\"cube.name\"\) or "
                r"TimeDimension\(\"cube.time\"\), got 'c.d'"
            ),
        ),
        (
            {"measures": ["cube.x"]},
            r'expected members such as Measure\("cube.total"\), got',
        ),
        ({"measures": [sender]}, r"measures: Dimension\(.*\) belongs in dimensions="),
        ({"dimensions": [amount]}, "belongs in measures="),
        ({"dimensions": [seen.by("day")]}, "belongs in time="),
        ({"dimensions": [large]}, "belongs in segments="),
        ({"measures": [amount.gt(5)]}, "belongs in where= or having="),
        ({"measures": [5]}, "measures: expected members such as .*, got 5"),
        ({"time": [seen]}, r'needs .by\("day"\) or .over\("today"\)'),
        ({"time": [sender]}, "belongs in dimensions="),
        ({"segments": [sender]}, "segments: .* belongs in dimensions="),
        (
            {"measures": [amount, Measure(amount.name, int)]},
            "asset_amount is listed twice, as Measure",
        ),
        (
            {"measures": [amount], "dimensions": [Dimension(amount.name)]},
            "dimensions: .*asset_amount is also listed in measures",
        ),
        (
            {"time": [seen.compare(["today"]), seen.by("day").compare(["today"])]},
            "only one time selection",
        ),
    ],
)
def test_refuses_members_that_are_out_of_place(arguments, advice):
    with pytest.raises(QueryError, match=advice):
        Query(**arguments)


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({"where": "a"}, "where must be a filter or a list of filters, got 'a'"),
        ({"where": amount.gt(5)}, "restricts a measure; put it into having="),
        ({"where": sender}, r"^where: expected .*; compare it with a value$"),
        (
            {"where": sender == "a"},
            r"where: expected a filter such as member.eq.*, got False \(== compares",
        ),
        ({"where": [amount.gt(5)]}, "restricts a measure; put it into having="),
        ({"having": [sender.eq("a")]}, "restricts a dimension; put it into where="),
        ({"having": [seen.on(DAY) | sender.eq("a")]}, "put it into where="),
        (
            {"where": [sender == "a"]},
            r"where: expected a filter such as member.eq.*, got False \(== compares",
        ),
        (
            {"where": [sender]},
            r"^where: expected .*, got Dimension\(.*\); compare it with a value$",
        ),
        ({"having": [amount]}, r"^having: .*; compare it with a value$"),
        ({"where": [seen.over("today")]}, r"^where: .*\); put it into time=$"),
        ({"where": [large]}, r"^where: .*\); put it into segments=$"),
        ({"where": [5]}, r"^where: expected a filter such as .*, got 5$"),
        (
            {"where": [seen.in_range(DAY, datetime.datetime(2024, 4, 30, tzinfo=UTC))]},
            "ends before it starts",
        ),
        ({"order": [amount]}, r"order: expected member.asc\(\) .*, got Measure"),
        (
            {
                "dimensions": [Dimension(f"{seen.name}.day", datetime.datetime)],
                "time": seen.over("today"),
            },
            rf'tx_date\.day is .*; use TimeDimension\("{seen.name}"\).by\("day"\)$',
        ),
        ({"order": amount}, r"order: expected member.asc\(\) .*, got Measure"),
        ({"order": sender.asc()}, "sender_address is not selected"),
        ({"order": [sender.asc()]}, "sender_address is not selected"),
        ({"order": [amount.asc(), amount.desc()]}, "asset_amount is listed twice"),
        ({"order": [seen.asc()], "time": [seen.over("today")]}, "is not selected"),
        (
            {"order": [seen.by("day").asc()], "dimensions": [seen]},
            "order by that",
        ),
        (
            {
                "order": [seen.by("hour").asc()],
                "time": [seen.by("day"), seen.by("hour")],
            },
            "servers read .*tx_date as .*tx_date.day; order by that",
        ),
        (
            {"order": [seen.asc()], "dimensions": [seen], "time": [seen.by("month")]},
            "order: servers differ in whether .*tx_date is the exact time or .*month",
        ),
        (
            {
                "order": [seen.by("month").asc()],
                "time": [seen.by("month"), seen.by("week")],
            },
            r"order: servers differ in whether .*tx_date is .*\.month or .*\.week",
        ),
        (
            {
                "order": [seen.by("day").asc()],
                "time": [seen.by("day"), seen.by("fiscal_year")],
            },
            r"order: servers differ in whether .*tx_date is .*\.day or .*fiscal_year",
        ),
        (
            {
                "order": [seen.asc()],
                "dimensions": [Dimension(f"{seen.name}.day", datetime.datetime)],
                "time": [seen.by("fiscal_year")],
            },
            r"order: servers differ in whether .*tx_date is .*\.fiscal_year or .*\.day",
        ),
        (
            {
                "order": [Dimension(f"{seen.name}.day", datetime.datetime).asc()],
                "dimensions": [Dimension(f"{seen.name}.day", datetime.datetime)],
            },
            rf'servers refuse .*; use TimeDimension\("{seen.name}"\).by\("day"\).asc\(\)$',
        ),
    ],
)
def test_refuses_filters_and_orders_that_are_out_of_place(arguments, advice):
    with pytest.raises(QueryError, match=advice):
        Query(measures=[amount], **arguments)


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({"limit": 50_001}, "limit must be an integer between 0 and 50000, got 50001"),
        ({"limit": -1}, "limit must be an integer between 0 and 50000, got -1"),
        ({"limit": True}, "limit must be an integer"),
        ({"limit": 1.0}, "limit must be an integer"),
        ({"limit": "10"}, "limit must be an integer"),
        pytest.param(
            {"limit": 10**5000}, "limit must be .*, got <int too large", id="huge"
        ),
        ({"offset": -1}, "offset must be an integer of at least 0, got"),
        ({"offset": None}, "offset must be an integer of at least 0, got"),
        ({"total": 1}, "total must be True or False, got 1"),
        ({"ungrouped": "true"}, "ungrouped must be True or False, got 'true'"),
        ({"cache": "renew"}, "cache must be one of 'stale-if-slow', .*, got 'renew'"),
        (
            {"response_format": "rows"},
            "response_format must be one of 'default', .*, got 'rows'",
        ),
        ({"join_hints": "a"}, "join_hints must be a list"),
        ({"join_hints": ["ab"]}, r"^join_hints\[0\] must be a list, got 'ab'$"),
        (
            {"join_hints": [[], ["a", 5]]},
            r"^join_hints\[1\] must be a string, got 5$",
        ),
        ({"join_hints": [["\ud800"]]}, r"join_hints\[0\]: .*surrogate"),
    ],
)
def test_refuses_settings_that_no_server_takes(arguments, advice):
    with pytest.raises(QueryError, match=advice):
        Query(measures=[amount], **arguments)


@pytest.mark.parametrize(
    "zone",
    [
        "",
        "PST",
        "+05:00",
        "GMT+5",
        "America",
        "/etc/localtime",
        "../UTC",
        "localtime",
        "Factory",
        "posix/UTC",
        "right/UTC",
        "tzdata.zi",
        "\ud800",
        None,
        5,
    ],
)
def test_refuses_other_time_zones(zone):
    with pytest.raises(QueryError) as raised:
        Query(measures=[amount], timezone=zone)
    expected = "an IANA name such as 'America/Los_Angeles', 'Etc/GMT-5' or 'UTC'"
    assert str(raised.value) == f"timezone must be {expected}, got {zone!r}"


@pytest.mark.parametrize(
    ("zone", "near"),
    [
        ("Europe/Berlim", "Europe/Berlin"),
        ("Europe/Berlin\0", "Europe/Berlin"),
        ("america/los_angeles!", "America/Los_Angeles"),
        ("America/New York", "America/New_York"),
        ("utc", "UTC"),
    ],
)
def test_suggests_the_nearest_time_zone(zone, near):
    with pytest.raises(QueryError) as raised:
        Query(measures=[amount], timezone=zone)
    assert str(raised.value) == f"unknown timezone {zone!r}: did you mean {near!r}?"


@pytest.mark.parametrize("zone", ["UTC", "America/Los_Angeles", "Etc/GMT+5", "Japan"])
def test_knows_its_zone(zone):
    query = Query(measures=[amount], timezone=zone)
    assert query.timezone == zone
    assert query == Query(measures=[amount], timezone=zoneinfo.ZoneInfo(zone))


def test_refuses_a_zone_without_a_name():
    counts = struct.pack(">6l", 0, 0, 0, 0, 1, 4)
    file = io.BytesIO(b"TZif" + bytes(16) + counts + bytes(6) + b"UTC\0")
    zone = zoneinfo.ZoneInfo.from_file(file)
    with pytest.raises(QueryError, match=r"timezone must be an IANA .*, got zoneinfo"):
        Query(measures=[amount], timezone=zone)


@pytest.mark.parametrize("mode", [None, *get_args(CacheMode)])
def test_the_cache_mode_is_kept_and_not_part_of_the_json(mode):
    query = Query(measures=[amount], cache=mode)
    assert query.cache == mode
    assert "cache" not in query.to_wire()


def test_a_range_of_a_day_and_an_instant_depends_on_the_zone():
    instant = datetime.datetime(2024, 5, 2, 2, tzinfo=UTC)
    ranged = Query(measures=[amount], where=[seen.in_range(date(2024, 5, 2), instant)])
    with pytest.raises(QueryError, match="ends before it starts"):
        attrs.evolve(ranged, timezone="America/New_York")


def test_maps_the_columns_of_its_result():
    day, hour = seen.by("day"), seen.by("hour")
    query = Query(measures=[amount], dimensions=[sender], time=[day, hour])
    assert query.columns == {
        amount.name: amount,
        sender.name: sender,
        f"{seen.name}.day": day,
        f"{seen.name}.hour": hour,
        seen.name: day,
    }
    query = Query(dimensions=[seen], time=[day, TimeSelection(sender_time)])
    assert query.columns == {seen.name: seen, f"{seen.name}.day": day}


sender_time = TimeDimension("stacks_contract_events.other")


def test_knows_that_it_compares():
    query = Query(measures=[amount], time=[seen.over("today")])
    assert not query.compares
    assert attrs.evolve(query, time=[seen.compare(["today"])]).compares


def test_lists_every_member_that_it_uses_once():
    count, other = Measure("a.count", int), Dimension("a.other")
    query = Query(
        measures=[amount],
        dimensions=[sender, seen],
        time=[seen.by("day").over("today"), sender_time.over("today")],
        segments=[large],
        where=[sender.eq("a"), other.eq("a") & (sender.ne("b") | other.is_set())],
        having=[count.gt(5), amount.gt(5)],
        order=[sender.asc(), amount.desc()],
    )
    assert query.members == (amount, sender, seen, sender_time, large, other, count)
    assert Query(measures=[amount]).members == (amount,)


def test_a_member_of_two_types_is_listed_with_both():
    number = Dimension(sender.name, int)
    query = Query(dimensions=[sender], where=[number.gt(5)])
    assert query.members == (sender, number)


def test_an_order_that_is_repeated_counts_once():
    query = Query(measures=[amount], order=[amount.asc(), amount.asc()])
    assert query.order == (amount.asc(),)


def test_is_refined_into_new_queries():
    query = Query(measures=[amount], dimensions=[sender], where=[sender.is_set()])
    refined = query.filter(sender.ne("a"), amount.gt(5)).limit_to(3)
    assert refined.where == (sender.is_set(), sender.ne("a"))
    assert refined.having == (amount.gt(5),)
    assert refined.limit == 3
    assert refined.limit_to(None).limit is None
    ordered = refined.order_by(sender.asc()).order_by(amount.desc())
    assert ordered.order == (amount.desc(),)
    assert ordered.order_by() == refined
    assert (
        query.filter()
        == query
        == Query(measures=[amount], dimensions=[sender], where=[sender.is_set()])
    )
    with pytest.raises(QueryError, match=r"filter: expected a filter .*, got 'a'"):
        query.filter("a")
    with pytest.raises(QueryError, match="limit"):
        query.limit_to(-1)


QUERIES = [
    Query(measures=[amount]),
    Query(dimensions=[sender], limit=5, offset=2, total=True, timezone="Japan"),
    Query(
        measures=[Measure("a.b", int)],
        time=[seen.by("day").over((DAY, DAY)), seen.over("today")],
        segments=[large],
        where=[(sender.eq("a") | seen.on(DAY)) & sender.ne("b")],
        having=[Measure("a.b", int).gt(1)],
        order=[seen.by("day").desc()],
        cache="no-cache",
        response_format="columnar",
        join_hints=[["a", "b"]],
    ),
    Query(measures=[amount], time=[seen.compare(["today", (DAY, DAY)])]),
]


@pytest.mark.parametrize("query", QUERIES, ids=repr)
def test_a_query_is_a_value(query):
    names = {**vars(language), "datetime": datetime, "zoneinfo": zoneinfo}
    assert eval(repr(query), names) == query
    assert pickle.loads(pickle.dumps(query)) == copy.deepcopy(query) == query
    assert hash(attrs.evolve(query)) == hash(query)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        query.limit = 5


def test_a_query_is_easy_to_read():
    query = Query(measures=[amount], order=[amount.desc()], limit=5)
    name = "stacks_contract_events.asset_amount"
    assert repr(query) == (
        f"Query(measures=[Measure('{name}')], order=[Measure('{name}').desc()], limit=5)"
    )


def test_the_json_is_the_callers_own():
    query = Query(measures=[amount], where=[sender.in_(["a"])])
    query.to_wire()["filters"][0]["values"].append("b")
    assert query.to_wire()["filters"][0]["values"] == ["a"]


def test_selections_with_a_granularity_are_sent_first():
    # 0.35.81 counts a range before them as a column of ORDER BY [seen].
    settled = TimeDimension("stacks_contract_events.settled_at")
    query = Query(
        measures=[amount],
        time=[seen.over("today"), settled.by("day"), settled.by("month")],
    )
    sent = query.to_wire()["timeDimensions"]
    assert [each.get("granularity") for each in sent] == ["day", "month", None]
    assert query.time[0] == seen.over("today")


@pytest.mark.parametrize(
    "dimension", [seen, Dimension("stacks_contract_events.tx_date", datetime.datetime)]
)
def test_refuses_an_exact_time_in_another_zone_than_utc(dimension):
    advice = r'^dimensions: .*tx_date .*"Asia/Tokyo".*by\("second"\)\].*timezone="UTC"'
    with pytest.raises(QueryError, match=advice):
        Query(dimensions=[dimension], timezone="Asia/Tokyo")
    Query(time=[seen.by("second")], timezone="Asia/Tokyo")


def test_refuses_filters_on_measures_without_aggregating():
    with pytest.raises(
        QueryError,
        match=r"^ungrouped=True excludes filters on measures .*having=.*where=",
    ):
        Query(dimensions=[sender], having=[amount.gt(5)], ungrouped=True)
    query = Query(dimensions=[sender], measures=[amount], ungrouped=True)
    assert query.to_wire()["ungrouped"] is True


@pytest.mark.parametrize("meta", [None, {}, {"cubes": []}])
def test_is_compared_with_a_meta_only(meta):
    with pytest.raises(InvalidArgument, match=r"meta must be .*cube.meta\(\), got"):
        Query(measures=[amount]).validate(meta)


def test_refuses_a_granularity_in_a_name_next_to_a_range():
    # 0.35.81 counts the range as a column of ORDER BY, and sends it first [seen].
    daily = Dimension("stacks_contract_events.settled_at.day", object)
    with pytest.raises(
        QueryError, match=r'^dimensions: .*settled_at.day .*\.by\("day"\)'
    ):
        Query(dimensions=[daily], time=[seen.over("today")])
    Query(dimensions=[daily], time=[seen.by("day").over("today")])
    Query(dimensions=[Dimension("orders.customer.city")], time=[seen.over("today")])
    Query(dimensions=[Dimension("orders.day")], time=[seen.over("today")])


@pytest.mark.parametrize(
    "units", [("day", "month"), ("month", "day"), ("week", "year"), ("year", "hour")]
)
def test_orders_by_the_first_granularity_where_the_finest_gives_the_same(units):
    first, second = map(seen.by, units)
    query = Query(time=[first, second], order=[first.desc()])
    assert query.to_wire()["order"] == [[seen.name, "desc"]]
