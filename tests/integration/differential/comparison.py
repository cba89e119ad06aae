"""The same rows in PostgreSQL and in a FakeCube, and what differs in their answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import httpx
from attrs import field, frozen
from harness.ledger import quoted

from differential.generator import CUBE, CUSTOM, GRANULARITIES, Generator, Query
from ortege_watch.testing import FakeCube, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from harness.cube_server import CubeServer
    from harness.postgres import Database

COLUMNS = (
    *("tx_hash", "contract_id", "function_name", "sender_address", "asset_id"),
    *("amount", "block_height", "success", "tx_date"),
)
OLD = (
    (
        "SP0.pox-4",
        "delegate",
        "SPA",
        "STX",
        "1000.5",
        150000,
        True,
        "2024-04-30T23:59:59.999",
    ),
    (
        "SP0.pox-4",
        "delegate",
        "SPB",
        "STX",
        "42.125",
        150010,
        True,
        "2024-05-01T00:00:00",
    ),
    (
        "SP0.pox-4",
        "stack",
        "SPA",
        "STX",
        "9007199254740993",
        150020,
        True,
        "2024-05-01T12:30:00.123",
    ),
    (
        "SP0.POX-4",
        "Stack",
        "spa",
        "stx",
        "0.000001",
        150030,
        False,
        "2024-05-01T23:59:59.999",
    ),
    ("a_b.vault", "withdraw", "SPC", "ALEX", None, 150040, True, "2024-05-02T00:00:00"),
    ("a%b.vault", "supply", None, "ALEX", "7", 150050, None, "2024-05-02T08:00:00"),
    ("a\\b.swap", "swap", "_x", "DIKO", "-3.5", 150060, True, "2024-05-03T00:00:00"),
    ("SP1.swap", "swap", "x_", None, "0", 150070, False, "2024-05-06T10:00:00"),
    (
        "SP2.helper",
        "borrow",
        "100%",
        "sBTC",
        "0.25",
        150080,
        True,
        "2024-05-31T23:30:00",
    ),
    (
        "SP2.helper",
        "borrow",
        "SPA",
        "sBTC",
        "12.75",
        150090,
        True,
        "2024-06-15T12:00:00",
    ),
    (
        "SP2.helper",
        "repay",
        "a\\",
        "sBTC",
        "1000000",
        150100,
        None,
        "2024-12-31T23:59:59",
    ),
    ("SP2.helper", None, None, None, None, 150100, None, "2025-01-01T00:00:00"),
    (
        'SP9.naïve_"quote\'s"',
        "日本語",
        "",
        "💱",
        "1",
        150120,
        True,
        "2025-02-28T23:00:00",
    ),
    ("SP2.helper", "Borrow", "SPB", " ", "1e3", 150130, False, "2024-11-03T05:30:00"),
    (
        "SP2.helper",
        "borrow",
        "SPB",
        "STX",
        "-3.5",
        150140,
        False,
        "2024-11-03T06:30:00",
    ),
    (
        "SP2.helper",
        "borrow",
        "SPC",
        "STX",
        "42.125",
        150150,
        False,
        "2024-03-10T07:00:00",
    ),
    ("SP2.helper", "borrow", "SPC", "STX", "7", 150160, None, None),
)
ATTEMPTS = 20  # of a second each, while the answer is "Continue wait"
# Hours between the start of the test's hour and a row, back and forth.
HOURS_AGO = (
    *(0.5, 1.5, 5.5, 20, 26, 50, 85, 100, 160, 200, 480, 840, 1700, 2500, 4400, 9000),
    *(-2.5, -20, -60, -200),
)


def events(now: datetime) -> list[dict[str, Any]]:
    """Return the rows; the younger ones lie around a time."""
    hour = now.replace(minute=0, second=0, microsecond=0)
    rows = [dict(zip(COLUMNS[1:], each, strict=True)) for each in OLD]
    for number, hours in enumerate(HOURS_AGO):
        row = dict(rows[number % len(OLD)])
        moment = hour - timedelta(hours=hours, seconds=number)
        row["tx_date"] = moment.replace(tzinfo=None).isoformat()
        rows.append(row)
    for number, row in enumerate(rows, 1):
        row["id"] = number
        row["seen_at"] = None
        if row["tx_date"] is not None:
            seen = datetime.fromisoformat(row["tx_date"]) + timedelta(minutes=90)
            row["seen_at"] = seen.isoformat()
        row["tx_hash"] = f"0x{number:02x}"
        if row["amount"] is not None:
            row["amount"] = Decimal(row["amount"]).quantize(Decimal("0.000001"))
    return rows


def fill(database: Database, rows: Iterable[dict[str, Any]]) -> None:
    """Create the table in PostgreSQL and insert the rows."""

    def literal(value: Any) -> str:
        return "NULL" if value is None else quoted(str(value))

    names = ("id", *COLUMNS)
    values = ", ".join(
        f"({', '.join(literal(row[name]) for name in names)})" for row in rows
    )
    database.execute(
        f"DROP TABLE IF EXISTS {CUBE};"
        f"CREATE TABLE {CUBE} (LIKE stacks_contract_events INCLUDING ALL);"
        f"ALTER TABLE {CUBE} ALTER tx_date DROP NOT NULL;"
        f"INSERT INTO {CUBE} ({', '.join(names)}) VALUES {values}"
    )


def table(rows: Iterable[dict[str, Any]]) -> Table:
    """Return the same table for a FakeCube."""
    return Table(
        CUBE,
        measures={
            "count": "count",
            "asset_amount": "sum(amount)",
            "avg_amount": "avg(amount)",
            "max_block": "max(block_height)",
            "senders": "count_distinct(sender_address)",
        },
        dimensions={
            "id": "number",
            **dict.fromkeys(COLUMNS[:5], "string"),
            "amount": "number",
            "block_height": "number",
            "success": "boolean",
            "tx_date": "time",
            "seen_at": "time",
        },
        segments={"borrows": lambda row: row["function_name"] == "borrow"},
        primary_key="id",
        granularities={
            "seen_at": {
                "fiscal_year": {
                    "interval": "1 year",
                    "offset": "3 months",
                    "title": "Fiscal Year",
                },
                "from_sunday": {"interval": "1 week", "offset": "-1 day"},
                "twelve_days": {"interval": "12 days", "origin": "2024-05-02 06:00"},
                "five_quarters": {"interval": "1 year 3 months", "origin": "2020-02"},
                "odd_year": {"interval": "1 year", "origin": "2024-05-02"},
                "later_half": {"interval": "6 months", "offset": "1 month 2 days"},
            }
        },
        rows=rows,
    )


@frozen
class Answer:
    """What a server answers to one query."""

    status: int
    body: Any
    error: str  # "" if there is none


@frozen
class Verdict:
    """Two answers to one query, compared.

    Attributes:
        number: of the query in its series.
        query: the query.
        difference: what differs; empty if nothing does.
        known: the name of the known difference that this is; "" if it is unknown.
    """

    number: int
    query: Query
    real: Answer
    fake: Answer
    difference: str = ""
    known: str = ""

    @property
    def kind(self) -> str:
        """The class of the outcome, for the figures."""
        if not self.difference:
            return "equal rows" if self.real.status == 200 else "equal refusal"
        return f"known: {self.known}" if self.known else "UNKNOWN"

    @property
    def is_unknown(self) -> bool:
        """Whether the answers differ for no known reason."""
        return bool(self.difference and not self.known)

    def __str__(self) -> str:
        return (
            f"query {self.number}: {json.dumps(self.query, ensure_ascii=False)}\n"
            f"  {self.difference}\n  real: {shown(self.real)}\n  fake: {shown(self.fake)}"
        )


def shown(answer: Answer) -> str:
    """Return the beginning of an answer."""
    data = answer.error or json.dumps(answer.body.get("data"), ensure_ascii=False)
    return f"{answer.status} {data[:1500]}"


@frozen
class Known:
    """A difference that is accepted, with the reason."""

    name: str
    reason: str
    holds: Callable[[Answer, Answer], bool] = field(repr=False)


def _is_whole(real: Answer, fake: Answer) -> bool:
    return "invalid input syntax for type bigint" in real.error and fake.status < 500


def _is_unread(real: Answer, fake: Answer) -> bool:
    pattern = "LIKE pattern must not end with escape character"
    return pattern in real.error + fake.error


def _are_of_the_database(real: Answer, fake: Answer) -> bool:
    return all(a.status == 400 and a.error.startswith("Error: ") for a in (real, fake))


def _is_never_cast(real: Answer, fake: Answer) -> bool:
    empty = real.status == 200 and not rows_of(real.body["data"])[1]
    return empty and "Invalid date" in fake.error


KNOWN = (
    Known(
        "type of a column of whole numbers",
        "a Table has numbers, not bigint and numeric: it compares 17 with 2.5",
        _is_whole,
    ),
    Known(
        "whether PostgreSQL reads the row of an error",
        "a pattern that ends with a backslash fails at the first row that is read",
        _is_unread,
    ),
    Known(
        "whether PostgreSQL casts a value",
        "where another filter can match no row it does not read the invalid date",
        _is_never_cast,
    ),
    Known(
        "which of several database errors",
        "PostgreSQL reports the one that its planner finds first",
        _are_of_the_database,
    ),
)


class Comparison:
    """A real server and a FakeCube of its generation, with the same rows.

    Attributes:
        servers: the address and a token of the "real" and of the "fake" one.
    """

    def __init__(self, cube: CubeServer, fake: FakeCube, client: httpx.Client) -> None:
        self._classic = cube.generation.classic
        self._client = client
        self.servers = {
            "real": (cube.url, cube.token()),
            "fake": (fake.url, fake.token()),
        }

    def compare(self, seed: int, number: int) -> Verdict:
        """Ask one query of both; twice where the time of day may matter."""
        query = Generator(seed, number).query()
        verdict = self._compare(number, query)
        if verdict.is_unknown:
            verdict = self._compare(number, query)
        return verdict

    def _compare(self, number: int, query: Query) -> Verdict:
        real, fake = (self._ask(name, query) for name in ("real", "fake"))
        difference = different(query, real, fake, classic=self._classic)
        names = [one.name for one in KNOWN if difference and one.holds(real, fake)]
        return Verdict(number, query, real, fake, difference, "".join(names[:1]))

    def _ask(self, name: str, query: Query) -> Answer:
        url, token = self.servers[name]
        for _ in range(ATTEMPTS):
            response = self._client.post(
                f"{url}/load", json={"query": query}, headers={"Authorization": token}
            )
            body = response.json()
            if body.get("error") != "Continue wait":
                return Answer(response.status_code, body, body.get("error", ""))
        raise TimeoutError(
            f"no answer to {json.dumps(query)} after {ATTEMPTS} attempts"
        )


def different(query: Query, real: Answer, fake: Answer, *, classic: bool) -> str:
    """Return what differs, or an empty string."""
    if real.status != fake.status:
        return f"status {real.status} and {fake.status}"
    if real.status != 200:
        if sentence(real.error) != sentence(fake.error):
            return "error message"
        if real.body.get("type") != fake.body.get("type"):
            return "type of the error"
        return ""
    for key in ("query", "annotation", "total", "dbType", "slowQuery", "external"):
        if real.body.get(key) != fake.body.get(key):
            return f"{key}: {real.body.get(key)!r} and {fake.body.get(key)!r}"
    order = order_of(query, classic=classic)
    rows = [rows_of(answer.body["data"]) for answer in (real, fake)]
    return different_rows(query, order, *rows)


def sentence(error: str) -> str:
    """Leave out the type of a column, which only the database knows."""
    return error.replace("bigint", "numeric")


Rows = tuple[list[str], list[tuple[Any, ...]]]


def rows_of(data: Any) -> Rows:
    """Return the members and the values of a result in any response format."""
    if isinstance(data, list):
        members = list(data[0]) if data else []
        return members, [tuple(row[name] for name in members) for row in data]
    if "dataset" in data:
        return data["members"], [tuple(row) for row in data["dataset"]]
    return data["members"], list(zip(*data["columns"], strict=True))


def different_rows(query: Query, order: list[str], real: Rows, fake: Rows) -> str:
    """Compare rows, and their order as far as the query fixes it."""
    (members, rows), (fake_members, fake_rows) = real, fake
    if members != fake_members:
        return f"members {members} and {fake_members}"
    if len(rows) != len(fake_rows):
        return f"{len(rows)} rows and {len(fake_rows)}"
    ordered = [name for name in order if name in members]
    places = [members.index(name) for name in ordered]
    keys = [
        [tuple(row[p] for p in places) for row in each] for each in (rows, fake_rows)
    ]
    if keys[0] != keys[1]:
        return "order of the rows"
    page = len(rows) in {query.get("limit"), 10000} or query.get("offset")
    if page and set(ordered) != set(members) and f"{CUBE}.id" not in ordered:
        return ""  # which rows of equal order are on the page is the database's choice
    if Counter(rows) != Counter(fake_rows):
        return "values of the rows"
    return ""


def order_of(query: Query, *, classic: bool) -> list[str]:
    """Return the columns that a query is ordered by, the default order included."""
    times = query.get("timeDimensions") or []
    measures, dimensions = query.get("measures") or (), query.get("dimensions") or ()
    plain = [name for name in dimensions if name.count(".") == 1]
    labels = [f"{t['dimension']}.{t['granularity']}" for t in times if is_granular(t)]
    labels += [name for name in dimensions if name.count(".") == 2]
    columns = [*plain, *labels, *measures]
    if (order := query.get("order")) is not None:
        pairs = order.items() if isinstance(order, dict) else order
        names = [pair[0] for pair in pairs]
    elif labels:
        names = [without_granularity(labels[0])]
    else:
        names = [*measures, *plain][:1]
    if classic:
        # 0.35.81 counts a time without a granularity as a column.
        listed = [*plain, *(time["dimension"] for time in times)]
        listed += [without_granularity(d) for d in dimensions if d.count(".") == 2]
        found = dict(zip(reversed(listed), reversed(range(len(listed))), strict=True))
        return [columns[found[n]] if n in found else n for n in names]
    # 1.7.43 takes the finest granularity. Where one of several is the data model's own,
    # that depends on its interval: the rest of the order is not compared.
    units = {label: label.rpartition(".")[2] for label in labels}
    for place, name in enumerate(names):
        own = [u for label, u in units.items() if without_granularity(label) == name]
        if len(own) > 1 and not set(own).isdisjoint(CUSTOM):
            names = names[:place]
            break
    labels.sort(key=lambda label: (*GRANULARITIES, *CUSTOM).index(units[label]))
    finest = {without_granularity(label): label for label in reversed(labels)}
    return [finest.get(name, name) for name in names]


def is_granular(time: dict[str, Any]) -> bool:
    """Return whether a time dimension is a column."""
    return bool(time.get("granularity"))


def without_granularity(label: str) -> str:
    """Return the member of a column such as ``cube.time.day``."""
    return label.rpartition(".")[0]


@contextmanager
def comparison(cube: CubeServer, database: Database) -> Iterator[Comparison]:
    """Fill the table of `database` and of a FakeCube, and compare `cube` with it."""
    rows = events(datetime.now(UTC))
    fill(database, rows)
    generation = cube.generation
    fake = FakeCube(generation.name, tables=[table(rows)])
    with fake, httpx.Client(trust_env=False, timeout=30) as client:
        yield Comparison(cube, fake, client)
