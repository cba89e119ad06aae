"""What a real server took and refused: queries that were run against Cube 0.35.81.

Each row holds the status that the server answered. What it took must be read and
written; what it refused must be refused. The exceptions stand in one place, each with
its reason.
"""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from ortege_watch.errors import QueryError
from ortege_watch.query import Query

CUBE = "stacks_contract_events"
COUNT = f"{CUBE}.count"
DATE = f"{CUBE}.tx_date"
CONTRACT = f"{CUBE}.contract_id"
HASH = f"{CUBE}.tx_hash"


def leaf(operator, member, values):
    return {"member": f"{CUBE}.{member}", "operator": operator, "values": values}


def filtered(*filters, **more):
    return {"measures": [COUNT], "filters": list(filters), **more}


def timed(**selection):
    return {
        "measures": [COUNT],
        "timeDimensions": [{"dimension": DATE, **selection}],
    }


def counted(**more):
    return {"measures": [COUNT], **more}


def hashes(**more):
    return {"dimensions": [HASH], "measures": [COUNT], **more}


MAY = ["2024-05-01", "2024-05-31"]
IS_POX = leaf("equals", "contract_id", ["SP000.pox-4"])
IS_ALEX = leaf("equals", "contract_id", ["SP2Z.alex-vault"])

OPERATORS = [
    (200, "equals", "contract_id", ["SP000.pox-4"]),
    (200, "equals", "contract_id", ["SP000.pox-4", "SP2Z.alex-vault"]),
    (200, "equals", "contract_id", [None]),
    (200, "equals", "contract_id", ["SP000.pox-4", None]),
    (200, "notEquals", "contract_id", ["SP000.pox-4"]),
    (200, "contains", "contract_id", ["POX", "alex"]),
    (200, "notContains", "contract_id", ["pox"]),
    (200, "startsWith", "contract_id", ["sp1"]),
    (200, "notStartsWith", "contract_id", ["SP1"]),
    (200, "endsWith", "contract_id", ["swap"]),
    (200, "notEndsWith", "contract_id", ["swap"]),
    (200, "in", "contract_id", ["SP000.pox-4"]),
    (200, "notIn", "contract_id", ["SP000.pox-4"]),
    (200, "gt", "block_height", ["150050"]),
    (200, "gt", "block_height", [150050]),
    (200, "gte", "block_height", [150050]),
    (200, "lt", "block_height", ["150050"]),
    (200, "lte", "block_height", ["150050"]),
    (200, "gt", "block_height", ["150050", "150100"]),
    (400, "gt", "block_height", ["abc"]),
    (200, "set", "amount", []),
    (200, "notSet", "amount", []),
    (200, "set", "amount", ["x"]),
    (200, "equals", "success", ["true"]),
    (200, "equals", "success", [True]),
    (200, "equals", "amount", [Decimal("42.125")]),
    (200, "inDateRange", "tx_date", ["2024-05-01", "2024-05-02"]),
    (200, "inDateRange", "tx_date", ["2024-05-01"]),
    (400, "inDateRange", "tx_date", ["last 900 days"]),
    (400, "inDateRange", "tx_date", ["last week", "next week"]),
    (200, "notInDateRange", "tx_date", ["2024-05-01", "2024-05-02"]),
    (200, "onTheDate", "tx_date", ["2024-05-01"]),
    (200, "beforeDate", "tx_date", ["2024-05-03"]),
    (200, "beforeOrOnDate", "tx_date", ["2024-05-03"]),
    (200, "afterDate", "tx_date", ["2024-05-03"]),
    (200, "afterOrOnDate", "tx_date", ["2024-05-03"]),
    (400, "afterDate", "tx_date", ["yesterday"]),
    (200, "measureFilter", "count", []),
    (400, "equals", "contract_id", []),
    (200, "equals", "contract_id", [""]),
    (400, "inDateRange", "contract_id", ["2024-05-01", "2024-05-02"]),
]

DATE_RANGES = [
    (200, "today"),
    (200, "yesterday"),
    (200, "tomorrow"),
    (200, "this week"),
    (200, "this month"),
    (200, "this quarter"),
    (200, "this year"),
    (200, "last week"),
    (200, "last month"),
    (200, "last 7 days"),
    (200, "last 360 hours"),
    (200, "last 5 minutes"),
    (200, "last 2 quarters"),
    (200, "next 2 weeks"),
    (200, "from 2024-05-01 to 2024-05-02"),
    (200, "from 7 days ago to now"),
    (200, "2024-05-01"),
    (400, "2024"),
    (200, "June 2024"),
    (200, "last 0 days"),
    (200, ["2024-05-01"]),
    (200, ["2024-05-01", "2024-05-02"]),
    (200, ["2024-05-01T10:00:00", "2024-05-01T12:00:00"]),
    (200, ["2024-05-01T10:00:00.000Z", "2024-05-01T12:00:00.000Z"]),
    (200, ["2024-05-02", "2024-05-01"]),
    (400, []),
    (400, ["yesterday", "today"]),
    (400, ["foo", "bar"]),
    (400, None),
    (400, 5),
]

QUERIES = [
    (400, "values as a string", filtered({**IS_POX, "values": "SP000.pox-4"})),
    (400, "no operator", filtered({"member": CONTRACT, "values": ["x"]})),
    (200, "dimension legacy key", filtered(
        {"dimension": CONTRACT, "operator": "equals", "values": ["SP000.pox-4"]}
    )),
    (200, "filter on measure", filtered(
        leaf("gt", "count", ["1"]), dimensions=[CONTRACT]
    )),
    (200, "or", filtered({"or": [IS_POX, IS_ALEX]})),
    (200, "and in or", filtered(
        {"or": [{"and": [IS_POX, leaf("equals", "success", [True])]}, IS_ALEX]}
    )),
    (400, "or mixing measure+dimension", filtered(
        {"or": [IS_POX, leaf("gt", "count", ["1"])]}, dimensions=[CONTRACT]
    )),
    (400, "or+and same object", filtered({"or": [IS_POX], "and": [IS_ALEX]})),
    (200, "empty or", filtered({"or": []})),
    *(
        (200, f"granularity {g}", timed(granularity=g, dateRange=MAY))
        for g in ["second", "minute", "hour", "day", "week", "month", "quarter", "year"]
    ),
    (400, "granularity fortnight", timed(granularity="fortnight", dateRange=MAY)),
    (200, "granularity null", timed(granularity=None, dateRange=MAY)),
    (400, "compare without queryType", timed(compareDateRange=[MAY])),
    (200, "compare", timed(compareDateRange=[MAY, ["2024-06-01", "2024-06-30"]])),
    (200, "compare words", timed(
        granularity="month", compareDateRange=["this month", "last month"]
    )),
    (200, "compare one", timed(compareDateRange=["this month"])),
    (200, "compare and dateRange", timed(
        compareDateRange=["this month"], dateRange="today"
    )),
    (200, "dimension with granularity", counted(dimensions=[f"{DATE}.month"])),
    (200, "order object", hashes(order={COUNT: "asc"})),
    (200, "order pairs", hashes(order=[[COUNT, "desc"]])),
    (400, "order none", hashes(order={COUNT: "none"})),
    (200, "order {}", hashes(order={})),
    (200, "order []", hashes(order=[])),
    (400, "order objects", hashes(order=[{"id": COUNT, "desc": True}])),
    (200, "order unknown member", counted(order={HASH: "asc"})),
    (400, "order null", hashes(order=None)),
    (200, "limit 0", hashes(limit=0)),
    (200, "limit 1", hashes(limit=1)),
    (200, "limit 50000", hashes(limit=50000)),
    (500, "limit 50001", hashes(limit=50001)),
    (400, "limit -1", hashes(limit=-1)),
    (400, "limit 1.5", hashes(limit=Decimal("1.5"))),
    (200, "limit '10'", hashes(limit="10")),
    (400, "limit null", hashes(limit=None)),
    (200, "offset 0", hashes(offset=0)),
    (200, "offset 2", hashes(offset=2)),
    (400, "offset -1", hashes(offset=-1)),
    (200, "offset '1'", hashes(offset="1")),
    (400, "offset null", hashes(offset=None)),
    (200, "total", hashes(total=True, limit=1)),
    (200, "total 'true'", counted(total="true")),
    (200, "segments", counted(segments=[f"{CUBE}.stacking"])),
    (400, "segments unknown", counted(segments=[f"{CUBE}.nope"])),
    *(
        (status, f"timezone {zone!r}", {**timed(granularity="day"), "timezone": zone})
        for status, zone in [
            (200, "UTC"),
            (200, "America/Los_Angeles"),
            (200, "Etc/GMT+5"),
            (500, "+05:00"),
            (200, "america/los_angeles"),
            (500, "PST"),
            (400, ""),
        ]
    ),
    (200, "renewQuery", counted(renewQuery=True)),
    (400, "ungrouped", counted(ungrouped=True)),
    (200, "compact", counted(responseFormat="compact")),
    (400, "columnar", counted(responseFormat="columnar")),
    (400, "responseFormat x", counted(responseFormat="x")),
    (400, "cacheMode", counted(cacheMode="no-cache")),
    (400, "cache", counted(cache="must-revalidate")),
    (400, "cache x", counted(cache="x")),
    (400, "joinHints", counted(joinHints=[["a", "b"]])),
    (400, "subqueryJoins", counted(subqueryJoins=[])),
    (400, "maskedMembers", counted(maskedMembers=[])),
    (400, "rowLimit", counted(rowLimit=5)),
    (400, "queryType", counted(queryType="subscribe")),
    (400, "requestId", counted(requestId="x")),
    (400, "foo", counted(foo=1)),
    (400, "ungrouped dims only", {"dimensions": [HASH], "ungrouped": True}),
    (200, "dims only", {"dimensions": [f"{CUBE}.function_name"]}),
    (200, "td only w gran", {
        "timeDimensions": [{"dimension": DATE, "granularity": "month"}]
    }),
    (400, "td only no gran", {"timeDimensions": [{"dimension": DATE}]}),
    (400, "empty measures", {"measures": []}),
    (500, "measures string", {"measures": COUNT}),
    (400, "dimension in measures", {"measures": [HASH]}),
    (400, "measure in dimensions", {"dimensions": [COUNT]}),
    (400, "hyphen name", {"measures": ["my-cube.count"]}),
    (400, "null measure list", {"measures": None, "dimensions": [HASH]}),
    (200, "time dimension as dimension", {"dimensions": [DATE]}),
    (200, "types", {
        "dimensions": [f"{CUBE}.{n}" for n in ("id", "amount", "success", "tx_date")],
        "measures": [f"{CUBE}.avg_amount", COUNT],
    }),
    (200, "array of one query", [timed(granularity="day", dateRange=MAY)]),
    (400, "array without multi", [timed(granularity="day", dateRange=MAY)]),
    (200, "blending", [timed(granularity="month"), timed(granularity="month")]),
    (400, "blending mismatched", [timed(granularity="month"), timed(granularity="day")]),
]  # fmt: skip

ROWS = [
    *(
        (
            status,
            f"{operator} {member} {values}",
            filtered(leaf(operator, member, values)),
        )
        for status, operator, member, values in OPERATORS
    ),
    *((s, f"dateRange {r!r}", timed(dateRange=r)) for s, r in DATE_RANGES),
    *QUERIES,
]

# Taken although this server refused them.
TAKEN = {
    # Only the server knows its cubes.
    "gt block_height ['abc']": "needs the cube: the dimension is a number",
    "inDateRange contract_id ['2024-05-01', '2024-05-02']": "needs the cube: it is text",
    "segments unknown": "needs the cube",
    "dimension in measures": "needs the cube",
    "measure in dimensions": "needs the cube",
    "inDateRange tx_date ['last 900 days']": "1.7 reads relative words",
    "afterDate tx_date ['yesterday']": "1.7 reads relative words",
    "timezone ''": "1.7 reads it as UTC",
    "ungrouped": "needs the cube: its primary key is missing; 1.7 takes it",
    "ungrouped dims only": "needs the cube: its primary key is missing; 1.7 takes it",
    # Newer servers take them, and the documentation of Query says which.
    "granularity fortnight": "granularities of a cube's own exist from 1.0 on",
    "columnar": "from 1.6.62 on",
    "cacheMode": "from 1.5.10 on; not part of to_wire",
    "cache": "from 1.5.10 on; not part of to_wire",
    "joinHints": "from 1.3.40 on",
    # The client sends queryType.
    "compare without queryType": "the client sends queryType: multi",
}

# Refused although this server took them: it answers something else than was meant.
REFUSED = {
    "gt block_height ['150050', '150100']": "the second value is ignored",
    "dateRange 'June 2024'": "means June 1st alone",
    "dateRange 'last 0 days'": "ends before it starts, so no row comes",
    "dateRange ['2024-05-02', '2024-05-01']": "ends before it starts, so no row comes",
    "empty or": "is ignored, but should match no row",
    "array of one query": "is a blend, not a query",
    "blending": "is a blend, not a query",
}


def test_every_exception_is_a_row_that_it_is_an_exception_of():
    answers = {label: status for status, label, _ in ROWS}
    assert len(answers) == len(ROWS)
    assert {answers[label] for label in TAKEN} == {400}
    assert {answers[label] for label in REFUSED} == {200}


@pytest.mark.parametrize(("status", "label", "query"), ROWS, ids=[r[1] for r in ROWS])
def test_takes_and_refuses_what_the_server_does(status, label, query):
    taken = label in TAKEN or (status == 200 and label not in REFUSED)
    if not taken:
        with pytest.raises(QueryError):
            Query.from_wire(query)
        return
    wire = Query.from_wire(query).to_wire()
    assert Query.from_wire(json.loads(json.dumps(wire))).to_wire() == wire
