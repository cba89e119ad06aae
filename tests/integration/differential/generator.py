"""Random queries as JSON; the same seed and number give the same query. Pure."""

from __future__ import annotations

import copy
import random
from typing import Any, TypeAlias

Query: TypeAlias = dict[str, Any]

CUBE = "random_events"
MEASURES = ("count", "asset_amount", "avg_amount", "max_block", "senders")
STRINGS = (
    *("tx_hash", "contract_id", "function_name", "sender_address"),
    "asset_id",
)
NUMBERS = ("id", "amount", "block_height")
TIMES = ("tx_date", "tx_date", "tx_date", "seen_at")
DIMENSIONS = (*STRINGS, *NUMBERS, "success", "tx_date", "seen_at")
GRANULARITIES = (
    *("second", "minute", "hour", "day", "week", "month", "quarter", "year"),
)
# Those that the data model defines for seen_at.
CUSTOM = (
    *("fiscal_year", "from_sunday", "twelve_days", "five_quarters", "odd_year"),
    "later_half",
)
ZONES = (
    *("UTC", "America/New_York", "Europe/Berlin", "Asia/Kolkata"),
    *("Pacific/Auckland", "America/Los_Angeles"),
)
TEXTS = (
    *("SPA", "spb", "s", "A", "_", "%", "\\", "a_b", "a%b", "a\\b", "100%", "x_", "_x"),
    *("borrow", "Borrow", "o", "日本", "naïve", "", " ", "'", '"', "STX", "stx", None),
)
AMOUNTS = ("0", "1", "-3.5", "42.125", "1000.5", "0.000001", "7", "1e3", "99999", None)
WHOLE = ("0", "1", "5", "17", "150020", "150100", "2.5", "-1", None)
DATES = (
    *("2024-05-01", "2024-05-02", "2024-06-15", "2024-12-31", "2025-01-01"),
    *("2024-05-01T12:30:00", "2024-05-01T12:30:00.123", "2024-05-01T23:59:59.999"),
    *("2024-05-01T12:30:00Z", "2024-03-10", "2024-11-03T01:30:00", "2026-11-01"),
)
PERIODS = (
    *("today", "yesterday", "tomorrow", "this week", "last week", "this month"),
    *("last month", "next month", "this year", "last year", "this quarter"),
    *("last quarter", "this hour", "last hour", "last 3 days", "last 2 weeks"),
    *("last 6 months", "last 48 hours", "last 1440 minutes", "last 2 years"),
    *("next 3 days", "next 1 week", "last 4 quarters", "Last 7 Days"),
    *("from 2 hours ago to now", "from 30 days ago to now", "from 2 years ago to now"),
    *("from now to 3 days from now", "from 90 minutes ago to now"),
    *("from 2 days ago to 1 hour from now", "from 3 months ago to now"),
    *("from 2024-05-01 to 2024-05-31", "from 7 days ago to yesterday", "2024-05-01"),
    *("from yesterday to today", "from 1 week ago to now", "June 2024"),
)
OPERATORS = {
    "equality": ("equals", "notEquals", "in", "notIn"),
    "text": (
        *("contains", "notContains", "startsWith", "notStartsWith"),
        *("endsWith", "notEndsWith"),
    ),
    "order": ("gt", "gte", "lt", "lte"),
    "set": ("set", "notSet"),
    "range": ("inDateRange", "notInDateRange", "onTheDate"),
    "moment": ("beforeDate", "beforeOrOnDate", "afterDate", "afterOrOnDate"),
}


def path(name: str) -> str:
    """Return a member's full name."""
    return f"{CUBE}.{name}"


class Generator:
    """Makes one query.

    Args:
        seed: of the whole series.
        number: of this query in the series.
    """

    def __init__(self, seed: int, number: int) -> None:
        self._random = random.Random(f"{seed}/{number}")
        self._chance = self._random.random

    def query(self) -> Query:
        """Return a query: valid in most cases, else with one mistake."""
        query = self._valid()
        if self._chance() < 0.15:
            self._spoil(query)
        return query

    def _some(self, names: tuple[str, ...], most: int) -> list[str]:
        return self._random.sample(names, self._random.randint(0, most))

    def _valid(self) -> Query:
        query: Query = {}
        choose = self._random.choice
        measures = [path(name) for name in self._some(MEASURES, 3)]
        dimensions = [path(name) for name in self._some(DIMENSIONS, 3)]
        if self._chance() < 0.05:
            dimensions.append(f"{path('tx_date')}.{choose(GRANULARITIES)}")
        times = self._times()
        granular = any(time.get("granularity") for time in times)
        if not (measures or dimensions or granular):
            measures = [path("count")]
        for key, value in (("measures", measures), ("dimensions", dimensions)):
            if value or self._chance() < 0.2:
                query[key] = value
        if times:
            query["timeDimensions"] = times
        if self._chance() < 0.1:
            query["segments"] = [path("borrows")]
        if self._chance() < 0.65:
            query["filters"] = self._filters()
        if self._chance() < 0.08:
            query["ungrouped"] = True
            if self._chance() < 0.7 and path("id") not in dimensions:
                query["dimensions"] = [path("id"), *dimensions]
        self._arrange(query)
        if self._chance() < 0.3:
            query["timezone"] = choose(ZONES)
        if self._chance() < 0.2:
            query["responseFormat"] = choose(("compact", "default"))
        return query

    def _arrange(self, query: Query) -> None:
        columns = [
            *query.get("dimensions", ()),
            *(
                time["dimension"]
                for time in query.get("timeDimensions", ())
                if time.get("granularity")
            ),
            *query.get("measures", ()),
        ]
        columns = list(dict.fromkeys(name for name in columns if name.count(".") == 1))
        if self._chance() < 0.6:
            self._random.shuffle(columns)
            if self._chance() < 0.3:
                columns = columns[: self._random.randint(0, 2)]
            pairs = [[c, self._random.choice(("asc", "desc"))] for c in columns]
            as_object = self._chance() < 0.5
            query["order"] = dict(pairs) if as_object else pairs
        if self._chance() < 0.25:
            query["limit"] = self._random.choice((0, 1, 2, 5, 10, 50000))
        if self._chance() < 0.15:
            query["offset"] = self._random.choice((0, 1, 3, 50))
        if self._chance() < 0.15:
            query["total"] = self._chance() < 0.8

    def _times(self) -> list[dict[str, Any]]:
        return [
            self._time()
            for _ in range(self._random.choice((0, 0, 0, 0, 1, 1, 1, 1, 2)))
        ]

    def _time(self) -> dict[str, Any]:
        time: dict[str, Any] = {"dimension": path(self._random.choice(TIMES))}
        if self._chance() < 0.6:
            names = GRANULARITIES
            if time["dimension"] == path("seen_at") or self._chance() < 0.03:
                names = (*GRANULARITIES, *CUSTOM)
            time["granularity"] = self._random.choice(names)
        kind = self._chance()
        if kind < 0.4:
            time["dateRange"] = self._random.choice(PERIODS)
        elif kind < 0.65:
            time["dateRange"] = self._pair()
        elif kind < 0.7:
            time["dateRange"] = [self._random.choice(DATES)]
        return time

    def _pair(self) -> list[str]:
        return sorted(self._random.choices(DATES, k=2))

    def _filters(self) -> list[dict[str, Any]]:
        return [self._filter() for _ in range(self._random.choice((1, 1, 1, 2, 3)))]

    def _filter(self) -> dict[str, Any]:
        if self._chance() < 0.15:
            return self._leaf(self._random.choice(MEASURES))
        if self._chance() < 0.2:
            return self._group(2)
        return self._leaf(self._random.choice(DIMENSIONS))

    def _group(self, depth: int) -> dict[str, Any]:
        children = [
            self._group(depth - 1)
            if depth > 1 and self._chance() < 0.25
            else self._leaf(self._random.choice(DIMENSIONS))
            for _ in range(self._random.randint(1, 3))
        ]
        return {self._random.choice(("or", "and")): children}

    def _leaf(self, name: str) -> dict[str, Any]:
        kinds = {"equality", "order", "set"}
        if name in STRINGS:
            kinds = {"equality", "text", "set"}
        elif name == "success":
            kinds = {"equality", "set"}
        elif name in TIMES:
            kinds = {"range", "moment", "set"}
        if self._chance() < 0.04:
            kinds = set(OPERATORS)
        kind = self._random.choice(sorted(kinds))
        key = "dimension" if self._chance() < 0.1 else "member"
        leaf: dict[str, Any] = {
            key: path(name),
            "operator": self._random.choice(OPERATORS[kind]),
        }
        if kind != "set" or self._chance() < 0.1:
            leaf["values"] = self._values(name, kind)
        return leaf

    def _values(self, name: str, kind: str) -> list[Any]:
        choose = self._random.choice
        count = choose((1, 1, 1, 2, 3))
        if kind == "range":
            one = self._chance()
            if one < 0.6:
                return list(self._pair())
            return [choose(DATES if one < 0.8 else PERIODS)]
        if kind == "moment" or name in TIMES:
            return [choose(DATES if self._chance() < 0.9 else PERIODS)]
        if name in STRINGS:
            return [choose(TEXTS) for _ in range(count)]
        if name == "success":
            return [choose(("true", "false", True, False, None)) for _ in range(count)]
        some = AMOUNTS if name in {"amount", "asset_amount", "avg_amount"} else WHOLE
        picked = [choose(some) for _ in range(count)]
        return [
            int(value) if value and value.isdigit() and self._chance() < 0.2 else value
            for value in picked
        ]

    def _spoil(self, query: Query) -> None:
        choose = self._random.choice
        match self._random.randint(0, 5):
            case 0:
                key = choose(
                    (
                        *("measures", "dimensions", "filters", "timeDimensions"),
                        *("order", "limit", "offset", "total", "timezone"),
                        *("segments", "ungrouped", "responseFormat"),
                    )
                )
                query[key] = copy.deepcopy(
                    choose((None, 5, -1, 1.5, "x", "", True, {}, [], [5], [None], "10"))
                )
            case 1:
                query[choose(("rowLimit", "x", "queryType", "Limit"))] = choose(
                    (1, "x")
                )
            case 2:
                name = choose(("nope", "nope.count", path("nope"), "a-b.c", "a.b.c"))
                key = choose(("measures", "dimensions", "segments"))
                had = query.get(key)
                query[key] = [*(had if isinstance(had, list) else []), name]
            case 3:
                one = self._leaf(choose(DIMENSIONS))
                self._spoil_filter(one)
                had = query.get("filters")
                query["filters"] = [*(had if isinstance(had, list) else []), one]
            case 4:
                time = self._time()
                time[choose(("dimension", "granularity", "dateRange", "x"))] = choose(
                    (None, 5, "nope", "", [], ["a", "b"], ["2024-05-01", "now"], {})
                )
                query["timeDimensions"] = [time]
            case _:
                query["order"] = choose(
                    (
                        {path("nope"): "asc"},
                        {path("count"): "up"},
                        {"count": "asc"},
                        [[path("count")]],
                        [[path("count"), "asc", "x"]],
                        [path("count")],
                        [{"id": path("count"), "desc": True}],
                        "asc",
                    )
                )

    def _spoil_filter(self, one: dict[str, Any]) -> None:
        choose = self._random.choice
        match self._random.randint(0, 5):
            case 0:
                one.pop(choose(sorted(one)))
            case 1:
                one["operator"] = choose(
                    ("like", "", None, 5, "EQUALS", "measureFilter")
                )
            case 2:
                one["values"] = choose(("x", None, 5, {}, [{}], [[]], []))
            case 3:
                one["member"] = choose(("nope", "nope.x", path("nope"), 5, None, ""))
            case 4:
                one["x"] = 1
            case _:
                leaf = dict(one)
                one.clear()
                group = choose(("or", "and"))
                one[group] = choose(
                    ([leaf, self._leaf("count")], [], leaf, [{}], [leaf, {"or": []}])
                )
