"""The REST side of FakeCube, called by a plain HTTP client."""

from __future__ import annotations

import json
from decimal import Decimal

import httpx
import pytest

from ortege_watch.testing import FakeCube, Table

COUNT = "stacks_contract_events.count"
AMOUNT = "stacks_contract_events.asset_amount"
CONTRACT = "stacks_contract_events.contract_id"
DATE = "stacks_contract_events.tx_date"
ROWS = [
    {
        "contract_id": "a",
        "asset_amount": Decimal("1000.500000"),
        "tx_date": "2024-05-01",
    },
    {"contract_id": "b", "asset_amount": Decimal("9007199254740993.000000")},
    {"contract_id": "b", "asset_amount": 7, "tx_date": "2024-05-02T23:30:00"},
]


def events():
    """A cube of events that also counts them."""
    return Table(
        "stacks_contract_events",
        measures={"asset_amount": "sum", "count": "count"},
        dimensions={
            "contract_id": "string",
            "function_name": "string",
            "sender_address": "string",
            "tx_date": "time",
        },
    )


@pytest.fixture(params=["strict", "classic"])
def cube(request):
    with FakeCube(request.param, tables=[events()]) as cube:
        cube.tables["stacks_contract_events"].insert(ROWS)
        yield cube


@pytest.fixture
def http(cube):
    with client(cube) as http:
        yield http


def client(cube, token=None):
    header = {"authorization": f"Bearer {token or cube.token()}"}
    return httpx.Client(base_url=cube.url, headers=header, verify=False)


def load(http, query, **more):
    return http.post("/load", json={"query": query, **more})


def test_values_are_exact(cube, http):
    answer = load(http, {"measures": [AMOUNT], "dimensions": [CONTRACT]}).json()
    assert answer["data"] == [
        {CONTRACT: "b", AMOUNT: "9007199254741000.000000"},
        {CONTRACT: "a", AMOUNT: "1000.500000"},
    ]


def test_shapes_of_a_result_differ_between_the_generations(cube, http):
    body = load(http, {"measures": [COUNT]}).json()
    common = ["annotation", "dataSource", "dbType", "external", "slowQuery"]
    keys = {
        "classic": ["query", "data", "lastRefreshTime", *common, "total"],
        "strict": ["query", "lastRefreshTime", *common, "data"],
    }
    assert list(body) == keys[cube.generation]


@pytest.mark.parametrize("path", ["/load", "/load/", "/subscribe"])
def test_get_accepts_the_query_as_a_string(cube, http, path):
    text = json.dumps({"measures": [COUNT]})
    answer = http.get(path, params={"query": text, "queryType": "multi"})
    assert answer.json()["results"][0]["data"] == [{COUNT: "3"}]


def test_post_accepts_the_query_as_a_string(cube, http):
    assert load(http, json.dumps({"measures": [COUNT]})).json()["data"] == [
        {COUNT: "3"}
    ]


def test_total_ignores_limit_and_offset(cube, http):
    query = {"dimensions": [CONTRACT], "total": True, "limit": 1, "offset": 1}
    body = load(http, query).json()
    assert (body["total"], body["data"]) == (2, [{CONTRACT: "b"}])


def test_compact(cube, http):
    query = {"measures": [COUNT], "dimensions": [CONTRACT], "responseFormat": "compact"}
    assert load(http, query).json()["data"] == {
        "members": [CONTRACT, COUNT],
        "dataset": [["b", "2"], ["a", "1"]],
    }


def test_columnar_is_for_newer_servers(cube, http):
    query = {
        "measures": [COUNT],
        "dimensions": [CONTRACT],
        "responseFormat": "columnar",
    }
    body = load(http, query).json()
    if cube.generation == "strict":
        assert body["data"] == {
            "members": [CONTRACT, COUNT],
            "columns": [["b", "a"], ["2", "1"]],
        }
    else:
        assert "must be one of [default, compact]" in body["error"]


@pytest.mark.parametrize("generation", ["strict", "classic"])
def test_a_server_that_does_not_know_the_form_of_rows(generation):
    # As 0.29 does.
    with FakeCube(generation, compact=False) as old, client(old) as http:
        query = {"dimensions": [CONTRACT], "responseFormat": "compact"}
        refused = load(http, query)
        assert refused.status_code == 400
        assert refused.json()["error"] == (
            'Invalid query format: "responseFormat" is not allowed'
        )
        assert load(http, {"dimensions": [CONTRACT]}).json()["data"] == []


def test_columnar_without_rows(cube):
    with FakeCube(tables=[events()]) as empty, client(empty) as http:
        query = {"dimensions": [CONTRACT], "responseFormat": "columnar"}
        data = load(http, query).json()["data"]
        assert data == {"members": [], "columns": []}


def test_json_numbers():
    with FakeCube(tables=[events()], numbers="json") as cube, client(cube) as http:
        cube.tables["stacks_contract_events"].insert(ROWS)
        text = load(
            http, {"measures": [COUNT, AMOUNT], "order": [[CONTRACT, "asc"]]}
        ).text
        assert f'"{COUNT}":3.0,"{AMOUNT}":9007199254742000.500000' in text


def test_days_are_those_of_the_querys_zone(cube, http):
    time = {"dimension": DATE, "granularity": "day", "dateRange": ["2024-05-03"]}
    query = {
        "measures": [COUNT],
        "timeDimensions": [time],
        "timezone": "Europe/Berlin",
    }
    body = load(http, query, queryType="multi").json()["results"][0]
    day = "2024-05-03T00:00:00.000"
    assert body["data"] == [{f"{DATE}.day": day, DATE: day, COUNT: "1"}]
    assert body["annotation"]["timeDimensions"].keys() == {f"{DATE}.day", DATE}
    assert body["query"]["timeDimensions"][0]["dateRange"] == [
        "2024-05-03T00:00:00.000",
        "2024-05-03T23:59:59.999",
    ]


@pytest.mark.parametrize(
    ("query", "status", "error"),
    [
        ({"limit": 50_001}, 500, "Error: The query limit has been exceeded."),
        ({"limit": -1}, 400, '"limit" must be greater than or equal to 0'),
        (
            {"measures": ["nope.count"]},
            400,
            "Cube 'nope' not found for path 'nope.count'",
        ),
        ({"measures": None}, 400, '"measures" must be an array'),
        ({"rowLimit": 1}, 400, '"rowLimit" is not allowed'),
        (
            {"dimensions": ["prices.symbol"]},
            400,
            "Can't find join path to join 'stacks_contract_events', 'prices'",
        ),
    ],
)
def test_refusals(cube, http, query, status, error):
    answer = load(http, {"measures": [COUNT], **query})
    assert answer.status_code == status
    assert answer.json()["error"].removeprefix("Invalid query format: ") == error
    assert ("stack" in answer.json()) == (cube.generation == "classic")


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ({"renewQuery": True}, '"renewQuery" is not allowed'),
        ({"limit": "10"}, '"limit" must be a number'),
        (
            {"timezone": "PST"},
            '"timezone" must be a valid IANA time zone, got "PST"',
        ),
        (
            {"cache": "never"},
            (
                '"cache" must be one of [stale-if-slow, stale-while-revalidate, '
                "must-revalidate, no-cache]"
            ),
        ),
        (
            {"measures": ["a-b.c"]},
            (
                '"measures[0]" with value "a-b.c" fails to match the required pattern: '
                r"/^[a-zA-Z0-9_]+\.[a-zA-Z0-9_]+$/"
            ),
        ),
    ],
)
def test_refusals_of_newer_servers_only(query, error):
    with FakeCube(tables=[events()]) as cube, client(cube) as http:
        answer = load(http, {"measures": [COUNT], **query})
        assert (answer.status_code, answer.json()) == (
            400,
            {"error": f"Invalid query format: {error}"},
        )


def test_what_only_newer_servers_accept():
    query = {"measures": [COUNT], "joinHints": [["a", "b"]], "timezone": ""}
    with FakeCube(tables=[events()]) as cube, client(cube) as http:
        body = load(http, {**query, "cache": "no-cache"}).json()
        assert body["query"]["cacheMode"] == "no-cache"
        assert body["query"]["timezone"] == "UTC"
        body = load(http, query, cache="must-revalidate").json()
        assert body["query"]["cacheMode"] == "must-revalidate"
        assert load(http, query, cache="x").status_code == 400
        ungrouped = load(http, {"dimensions": [CONTRACT], "ungrouped": True})
        assert ungrouped.status_code == 200


def test_a_body_that_is_not_json(cube, http):
    kind = {"content-type": "application/json"}
    answer = http.post("/load", content=b"{", headers=kind)
    assert answer.status_code == 500
    assert answer.json()["error"] == "SyntaxError: Unexpected end of JSON input"
    answer = http.post("/load", content=b'{"query":{}}')
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        "Query param is required",
    )
    answer = http.get("/load", params={"query": "nonsense"})
    assert answer.json()["error"].startswith(
        "Unable to decode query param as JSON, error:"
    )


def test_unknown_paths_are_answered_with_html(cube, http):
    answer = http.post("/nothing")
    assert (answer.status_code, answer.headers["content-type"]) == (
        404,
        "text/html; charset=utf-8",
    )
    assert "<pre>Cannot POST /cubejs-api/v1/nothing</pre>" in answer.text


def test_posting_to_subscribe_is_for_newer_servers(cube, http):
    answer = http.post("/subscribe", json={"query": {"measures": [COUNT]}})
    assert answer.status_code == (404 if cube.generation == "classic" else 200)


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "Whatever ", ""])
def test_the_scheme_of_the_header_does_not_matter(cube, scheme):
    header = {"authorization": f"{scheme}{cube.token()}"}
    answer = httpx.get(f"{cube.url}/meta", headers=header, verify=False)
    assert answer.status_code == 200


def test_without_a_token(cube):
    answer = httpx.get(f"{cube.url}/meta", verify=False)
    assert (answer.status_code, answer.json()) == (
        403,
        {"error": "Authorization header isn't set"},
    )


def test_tokens_that_are_refused(cube):
    revoked, old = cube.token(user="eve"), cube.token(user="old")
    cube.revoke(revoked)
    cube.require("another secret")
    fresh = cube.token(60, user="ann")
    bad = [revoked, old, cube.token(-1), fresh[:-3], "x.y.z", "Ω.Ω.Ω", f"{fresh}.x"]
    for token in bad:
        header = {"authorization": f"Bearer {token}".encode()}
        answer = httpx.get(f"{cube.url}/meta", headers=header, verify=False)
        assert (answer.status_code, answer.json()) == (403, {"error": "Invalid token"})
    with client(cube, fresh) as http:
        assert http.get("/meta").status_code == 200


def test_tokens_expire_by_the_servers_clock():
    now = [1_000_000.0]
    with (
        FakeCube(tables=[events()], now=lambda: now[0]) as cube,
        client(cube, cube.token(60)) as http,
    ):
        assert http.get("/meta").status_code == 200
        now[0] += 61
        assert http.get("/meta").status_code == 403


def test_newer_servers_prefer_cubes_own_header(cube):
    headers = {"authorization": "Bearer nonsense", "x-cube-authorization": cube.token()}
    answer = httpx.get(f"{cube.url}/meta", headers=headers, verify=False)
    assert answer.status_code == (403 if cube.generation == "classic" else 200)


def test_meta_describes_the_tables(cube, http):
    cube.tables["wallets"] = Table(
        "wallets",
        measures={"owners": "count_distinct(owner)"},
        dimensions={"id": "number", "owner": "string"},
        segments={"rich": lambda row: True},
        primary_key="id",
        drill_members={"owners": ["id", "owners"]},
    )
    meta = http.get("/meta").json()
    assert meta == http.get("/meta", params={"extended": ""}).json()
    wallets = next(c for c in meta["cubes"] if c["name"] == "wallets")
    assert wallets["measures"][0]["aggType"] == "countDistinct"
    assert wallets["measures"][0]["drillMembersGrouped"] == {
        "measures": ["wallets.owners"],
        "dimensions": ["wallets.id"],
    }
    assert [(d["name"], d["type"], d["primaryKey"]) for d in wallets["dimensions"]] == [
        ("wallets.id", "number", True),
        ("wallets.owner", "string", False),
    ]
    assert wallets["segments"][0]["name"] == "wallets.rich"
    body = load(http, {"measures": ["wallets.owners"], "segments": ["wallets.rich"]})
    assert body.json()["annotation"]["segments"]["wallets.rich"]["shortTitle"] == "Rich"


def test_dry_run(cube, http):
    query = {"measures": [COUNT], "order": {COUNT: "desc"}}
    body = http.post("/dry-run", json={"query": query}).json()
    assert body["queryType"] == body["pivotQuery"]["queryType"] == "regularQuery"
    assert body["normalizedQueries"][0]["order"] == [{"id": COUNT, "desc": True}]
    assert body["queryOrder"] == [{COUNT: "desc"}]
    assert http.post("/dry-run", json={"query": {}}).status_code == 400


def test_sql(cube, http):
    body = http.get("/sql", params={"query": json.dumps({"measures": [COUNT]})}).json()
    statement, values = body["sql"]["sql"]
    assert (statement.split()[0], values) == ("SELECT", [])
    time = {"dimension": DATE, "granularity": "day", "dateRange": "today"}
    several = [{"measures": [COUNT], "timeDimensions": [time]}] * 2
    assert len(http.post("/sql", json={"query": several}).json()) == 2
    assert http.post("/sql", json={"query": "{"}).status_code == 400


@pytest.mark.parametrize("path", ["/readyz", "/livez"])
def test_health_needs_no_token(cube, path):
    answer = httpx.get(f"http://127.0.0.1:{cube.port}{path}", verify=False)
    assert (answer.status_code, answer.json()) == (200, {"health": "HEALTH"})


def test_the_root_is_an_html_page(cube):
    root = f"http://127.0.0.1:{cube.port}/"
    assert httpx.get(root, verify=False).headers["content-type"].startswith("text/html")
    assert httpx.head(root, verify=False).status_code == 404


def test_requests_are_recorded(cube, http):
    load(http, {"measures": [COUNT], "limit": 1.0, "filters": []})
    http.get("/meta", params={"extended": ""}, headers={"x-request-id": "abc-span-1"})
    first, second = cube.requests
    assert (first.method, first.path) == ("POST", "/cubejs-api/v1/load")
    assert first.json == {"query": {"measures": [COUNT], "limit": 1, "filters": []}}
    assert (first.token, first.request_id) == (cube.token(), None)
    assert (second.params, second.request_id) == ({"extended": ""}, "abc-span-1")
    assert (second.json, second.upgrade, first.at <= second.at) == (None, False, True)
    assert cube.attempts == []


def test_pipelined_requests_are_answered_in_order(cube):
    import socket

    ask = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"
    end = b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", cube.port)) as raw:
        raw.sendall(ask + ask + end)
        answers = raw.makefile("rb").read()
    assert answers.count(b"HTTP/1.1 200 OK") == 3


def test_bytes_that_are_not_http_end_the_connection(cube):
    import socket

    with socket.create_connection(("127.0.0.1", cube.port)) as raw:
        raw.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert raw.recv(100) == b""


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({}, 400, 'Invalid query format: "query" is required'),
        ({"query": 5}, 400, 'Invalid query format: "query" must be a string'),
        (
            {"query": ""},
            400,
            'Invalid query format: "query" is not allowed to be empty',
        ),
        (
            {"query": "SELECT 1", "x": 1},
            400,
            'Invalid query format: "x" is not allowed',
        ),
        (
            {"query": "SELECT 1"},
            500,
            (
                "Error: SQL interface is not initialized. "
                "Please enable the SQL interface in your settings."
            ),
        ),
    ],
)
def test_cubesql_of_a_server_without_the_sql_interface(body, status, error):
    with FakeCube("strict", tables=[events()]) as cube, client(cube) as http:
        answer = http.post("/cubesql", json=body)
        assert (answer.status_code, answer.json()) == (status, {"error": error})
        assert http.get("/cubesql").status_code == 404


@pytest.mark.parametrize("body", [{}, {"query": 5}, {"query": "SELECT 1"}])
def test_cubesql_of_an_older_server_without_its_add_on(body):
    with FakeCube("classic", tables=[events()]) as cube, client(cube) as http:
        answer = http.post("/cubesql", json=body)
        assert answer.status_code == 500
        assert answer.json()["error"].startswith(
            "Error: Unable to load @cubejs-backend/native"
        )
        assert http.get("/cubesql").status_code == 404
