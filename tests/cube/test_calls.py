from __future__ import annotations

import contextlib
import json
import logging
from datetime import date
from decimal import Decimal
from email.utils import formatdate
from types import MappingProxyType

import attrs
import pytest
from hypothesis import given, strategies as st

from ortege_watch._http.conversation import (
    Failure,
    Reply,
    Request,
    Response,
    Retry,
    TimeBudget,
)
from ortege_watch._http.token_source import TokenSource
from ortege_watch.cube import calls
from ortege_watch.cube.calls import Call
from ortege_watch.errors import (
    ApiError,
    DecodeError,
    OrtegeWatchError,
    QueryError,
    QueryRejected,
    TransportError,
)
from ortege_watch.query import Dimension, Measure, Query, TimeDimension
from ortege_watch.query.added_keys import AddedKeys

count = Measure("events.count", int)
sender = Dimension("events.sender", str)
at = TimeDimension("events.at")
QUERY = Query(measures=[count], dimensions=[sender], limit=5)
DAILY = Query(measures=[count], time=[at.by("day").over("last 7 days")])
HOURLY = Query(measures=[count], time=[at.by("hour").over("last 7 days")])
MAY, JUNE = (date(2024, 5, 1), date(2024, 5, 31)), (date(2024, 6, 1), date(2024, 6, 30))
COMPARED = Query(measures=[count], time=[at.by("day").compare([MAY, JUNE])])

ROW = {"events.count": "5", "events.sender": "SP1"}
FORM_REFUSED = {"error": 'Invalid query format: "responseFormat" is not allowed'}
RENEW_REFUSED = {"error": 'Invalid query format: "renewQuery" is not allowed'}


def call(**settings):
    added_keys = settings.pop("added_keys", None) or AddedKeys()
    return Call(
        api="https://host/cubejs-api/v1",
        request_id="7d2b",
        started=0.0,
        budget=TimeBudget(**settings),
        tokens=TokenSource("unused"),
        added_keys=added_keys,
    )


def part(*rows):
    return {"data": list(rows), "annotation": {}, "lastRefreshTime": None}


def multi(*parts):
    return {"queryType": "regularQuery", "results": list(parts)}


@pytest.fixture
def loaded(answer):
    return answer(200, multi(part(ROW)))


def test_a_query_that_is_sent_without_renew_query_has_all_its_attempts(
    play, answer, loaded
):
    busy, refused = Response(status=503), answer(400, RENEW_REFUSED)
    server = play([busy] * 3 + [refused] + [busy] * 3 + [loaded])
    query = attrs.evolve(QUERY, cache="no-cache")
    assert len(server.run(calls.load(call(retry=Retry(attempts=4)), query))) == 1
    assert server.asked_tokens == 1


def test_a_raw_query_may_be_any_mapping(play, loaded):
    wire = {"measures": ("events.count",), "filters": [{"member": "events.sender"}]}
    view = MappingProxyType(wire | {"filters": [MappingProxyType(wire["filters"][0])]})
    server = play([loaded])
    server.run(calls.load_raw(call(), view))
    [question] = server.questions
    assert question == {
        "query": {**wire, "measures": ["events.count"]},
        "queryType": "multi",
    }


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.5, r"\$\.query\.limit: cannot write 0\.5 as JSON"), ("\ud800", "as JSON")],
)
def test_a_raw_query_that_json_cannot_hold_is_refused_unsent(play, value, words):
    server = play([])
    with pytest.raises(QueryError, match=words):
        server.run(calls.load_raw(call(), {"limit": value}))
    assert server.effects == []


def test_load_asks_with_the_uniform_envelope(play, loaded):
    server = play([loaded])
    result = server.run(calls.load(call(), QUERY))
    assert [row[count] for row in result] == [5]
    assert result.query is QUERY
    sent = {**QUERY.to_wire(), "responseFormat": "compact"}
    assert server.questions == [{"query": sent, "queryType": "multi"}]
    assert server.requests[0].url == "https://host/cubejs-api/v1/load"
    assert server.requests[0].method == "POST"


@pytest.mark.parametrize(
    "body",
    [
        multi(part(ROW)),
        {"query": {}, "data": [ROW], "annotation": {}, "total": None},
        {"data": [ROW]},
    ],
)
def test_every_shape_of_an_answer_is_taken(play, answer, body):
    result = play([answer(200, body)]).run(calls.load(call(), QUERY))
    assert [row[sender] for row in result] == ["SP1"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (multi(part(), part()), "expected 1 results, got 2"),
        (multi(), "contains no results"),
        ({"cubes": []}, "contains no results"),
        ({"data": None, "error": None}, "contains no results"),
    ],
)
def test_one_query_has_one_result(play, answer, body, reason):
    with pytest.raises(DecodeError, match=reason) as caught:
        play([answer(200, body)]).run(calls.load(call(), QUERY))
    assert caught.value.query is QUERY


def test_an_error_names_its_query(play, answer):
    server = play([answer(400, {"error": "Cube 'events' not found"})])
    with pytest.raises(QueryRejected) as caught:
        server.run(calls.load(call(), QUERY))
    assert caught.value.query is QUERY


def test_a_snapshot_is_the_undecoded_rows_of_a_query(play, loaded):
    server = play([loaded])
    snapshot = server.run(calls.snapshot(call(), QUERY))
    assert bytes(snapshot.data) == json.dumps([ROW]).encode()
    with pytest.raises(QueryError, match="use compare"):
        play([]).run(calls.snapshot(call(), COMPARED))


# ------------------------------------------------------------------ past the cache


@pytest.mark.parametrize("cache", ["stale-if-slow", "stale-while-revalidate"])
def test_a_mild_cache_mode_goes_beside_the_query(play, loaded, cache):
    server = play([loaded])
    server.run(calls.load(call(), Query(measures=[count], cache=cache)))
    (question,) = server.questions
    assert question["cache"] == cache
    assert question["query"] == {"measures": ["events.count"]} | question["query"]
    assert "renewQuery" not in question["query"]
    assert "cache" not in question["query"]


@pytest.mark.parametrize("cache", ["must-revalidate", "no-cache"])
def test_an_old_server_renews_with_one_request(play, loaded, cache):
    server, known = play([loaded, loaded]), AddedKeys()
    for _ in range(2):
        query = Query(measures=[count], cache=cache)
        server.run(calls.load(call(added_keys=known), query))
    assert [each["query"]["renewQuery"] for each in server.questions] == [True, True]
    assert [each["cache"] for each in server.questions] == [cache, cache]


def test_a_new_server_is_asked_twice_once(play, loaded, answer):
    query = Query(measures=[count], cache="no-cache")
    server, known = play([answer(400, RENEW_REFUSED), loaded, loaded]), AddedKeys()
    for _ in range(2):
        result = server.run(calls.load(call(added_keys=known), query))
        assert [row[count] for row in result] == [5]
    first, *others = server.questions
    assert first["query"]["renewQuery"] is True
    assert ["renewQuery" in each["query"] for each in others] == [False, False]
    assert [each["cache"] for each in others] == ["no-cache", "no-cache"]
    spans = [each.headers["x-request-id"][-1] for each in server.requests]
    assert spans == ["1", "2", "1"]


def test_another_refusal_says_nothing_of_renewing(play, answer):
    query, known = Query(measures=[count], cache="no-cache"), AddedKeys()
    server = play([answer(400, {"error": "no such cube"})] * 2)
    for _ in range(2):
        with pytest.raises(QueryRejected, match="no such cube"):
            server.run(calls.load(call(added_keys=known), query))
    assert [each["query"]["renewQuery"] for each in server.questions] == [True, True]


def test_the_question_without_renewing_has_the_same_deadline(play, answer):
    server = play([answer(400, RENEW_REFUSED)] * 2, takes=7.0)
    query = Query(measures=[count], cache="no-cache")
    with pytest.raises(QueryRejected):
        server.run(calls.load(call(deadline=20.0), query))
    assert [each.limit for each in server.requests] == [20.0, 13.0]


# ---------------------------------------------------------------- the form of rows


@pytest.mark.parametrize("ask", [calls.load, calls.snapshot])
def test_a_server_that_refuses_the_form_is_asked_twice_once(play, answer, loaded, ask):
    server, known = play([answer(400, FORM_REFUSED), loaded, loaded]), AddedKeys()
    for _ in range(2):
        assert server.run(ask(call(added_keys=known, retry=Retry(attempts=1)), QUERY))
    forms = [each["query"].get("responseFormat") for each in server.questions]
    assert forms == ["compact", None, None]
    assert [each["query"] for each in server.questions[1:]] == [QUERY.to_wire()] * 2


def test_the_log_says_that_a_key_is_refused(play, answer, loaded, caplog):
    caplog.set_level(logging.INFO)
    play([answer(400, FORM_REFUSED), loaded]).run(calls.load(call(), QUERY))
    assert caplog.messages == [
        "host: the server does not know 'responseFormat' in a query; sending it without"
    ]


def test_two_calls_at_once_may_both_be_refused(play, answer, loaded):
    known, refused = AddedKeys(), answer(400, FORM_REFUSED)
    fast = play([refused, loaded])
    slow = calls.load(call(added_keys=known), QUERY)
    effects = [next(slow)]
    effects.append(slow.send(Reply(now=0.0, jitter=0.0, token="t")))
    assert len(fast.run(calls.load(call(added_keys=known), QUERY))) == 1
    effects.append(slow.send(Reply(now=0.0, jitter=0.0, outcome=refused)))
    asked = [json.loads(each.content)["query"] for each in effects[1:]]
    assert [each.get("responseFormat") for each in asked] == ["compact", None]
    slow.close()


@pytest.mark.parametrize(
    "refusals", [[FORM_REFUSED, RENEW_REFUSED], [RENEW_REFUSED, FORM_REFUSED]]
)
def test_a_server_may_refuse_the_form_and_renewing(play, answer, loaded, refusals):
    server = play([*(answer(400, each) for each in refusals), loaded])
    query = attrs.evolve(QUERY, cache="no-cache")
    assert len(server.run(calls.load(call(), query))) == 1
    assert len(server.questions[0]["query"]) == len(QUERY.to_wire()) + 2
    assert server.questions[-1]["query"] == QUERY.to_wire()


@pytest.mark.parametrize("form", ["default", "compact", "columnar"])
def test_the_form_that_the_caller_names_is_sent_and_refused(play, answer, form):
    server, known = play([answer(400, FORM_REFUSED)] * 2), AddedKeys()
    for query in (attrs.evolve(QUERY, response_format=form), QUERY):
        server.outcomes = iter([answer(400, FORM_REFUSED)] * 2)
        with pytest.raises(QueryRejected, match='"responseFormat" is not allowed'):
            server.run(calls.load(call(added_keys=known), query))
    forms = [each["query"].get("responseFormat") for each in server.questions]
    assert forms == [form, "compact", None]


def test_only_rows_of_one_query_are_asked_for_in_a_form(play, answer):
    rows, body = [part(ROW), part(ROW)], {"sql": {"sql": ["SELECT", []]}}
    dry = {"queryType": "regularQuery", "normalizedQueries": [{}]}
    raw = QUERY.to_wire()
    for conversation, response in (
        (calls.compare(call(), COMPARED), multi(*rows)),
        (calls.blend(call(), [DAILY, DAILY]), multi(*rows)),
        (calls.load_raw(call(), raw), multi(part(ROW))),
        (calls.sql(call(), QUERY), body),
        (calls.dry_run(call(), QUERY), dry),
    ):
        server = play([answer(200, response)])
        server.run(conversation)
        assert b"responseFormat" not in server.requests[0].content


# ----------------------------------------------------------------- raw, many at once


def test_load_raw_sends_the_mapping_as_it_is(play, loaded):
    raw = {"measures": ["events.count"], "filters": [], "renewQuery": True}
    server = play([loaded])
    result = server.run(calls.load_raw(call(), raw))
    assert [row["events.count"] for row in result] == ["5"]
    assert result.query is None
    assert server.questions == [{"query": raw, "queryType": "multi"}]


def test_load_raw_sends_exact_numbers(play, loaded):
    server = play([loaded])
    server.run(calls.load_raw(call(), {"limit": 2**70, "x": Decimal("0.10")}))
    assert f'"limit":{2**70},"x":0.10'.encode() in server.requests[0].content


@pytest.mark.parametrize("raw", [QUERY, [QUERY.to_wire()], None, "{}"])
def test_load_raw_takes_one_mapping(play, raw):
    server = play([])
    with pytest.raises(QueryError, match="takes one mapping"):
        server.run(calls.load_raw(call(), raw))
    assert server.effects == []


@pytest.mark.parametrize("raw", ["{}", b"{}"])
def test_load_raw_says_how_to_read_json(play, raw):
    with pytest.raises(QueryError, match=r"got (str|bytes): read JSON with json"):
        play([]).run(calls.load_raw(call(), raw))


def test_compare_gives_a_result_for_each_range(play, answer):
    server = play([answer(200, multi(part({"events.count": "1"}), part()))])
    results = server.run(calls.compare(call(), COMPARED))
    assert [[row[count] for row in result] for result in results] == [[1], []]
    assert all(result.query is COMPARED for result in results)
    assert server.questions == [{"query": COMPARED.to_wire(), "queryType": "multi"}]


def test_compare_wants_as_many_results_as_ranges(play, answer):
    with pytest.raises(DecodeError, match="expected 2 results, got 1"):
        play([answer(200, multi(part()))]).run(calls.compare(call(), COMPARED))


@pytest.mark.parametrize("query", [QUERY, DAILY])
def test_compare_wants_ranges(play, query):
    with pytest.raises(QueryError, match="use load"):
        play([]).run(calls.compare(call(), query))


@pytest.mark.parametrize("flow", [calls.load, calls.sql])
def test_ranges_are_for_compare(play, flow):
    with pytest.raises(QueryError, match="use compare"):
        play([]).run(flow(call(), COMPARED))
    with pytest.raises(QueryError, match="use compare"):
        play([]).run(calls.load_raw(call(), COMPARED.to_wire()))


@pytest.mark.parametrize("flow", [calls.load, calls.compare, calls.sql, calls.dry_run])
def test_a_mapping_is_no_query(play, flow):
    with pytest.raises(QueryError, match="takes a Query, not dict"):
        play([]).run(flow(call(), QUERY.to_wire()))


def test_blend_gives_a_result_for_each_query(play, answer):
    other = Query(measures=[Measure("calls.fee")], time=[at.by("day")])
    server = play([answer(200, multi(part({"events.count": "1"}), part()))])
    results = server.run(calls.blend(call(), [DAILY, other]))
    assert [result.query for result in results] == [DAILY, other]
    assert [len(result) for result in results] == [1, 0]
    wires = [DAILY.to_wire(), other.to_wire()]
    assert server.questions == [{"query": wires, "queryType": "multi"}]


def test_blend_gets_past_the_cache(play, answer):
    fresh = Query(measures=[count], time=[at.by("day")], cache="no-cache")
    server = play([answer(200, multi(part(), part()))])
    server.run(calls.blend(call(), [fresh, fresh]))
    (question,) = server.questions
    assert [each["renewQuery"] for each in question["query"]] == [True, True]
    assert question["cache"] == "no-cache"


@pytest.mark.parametrize(
    ("queries", "advice"),
    [
        ([], "two queries or more"),
        ([DAILY], "two queries or more"),
        ([DAILY, HOURLY], "of one granularity"),
        ([DAILY, QUERY], "of one granularity"),
        ([QUERY, QUERY], "of one granularity"),
        ([DAILY, COMPARED], "use compare"),
        (
            [DAILY, Query(measures=[count], time=[at.by("day")], cache="no-cache")],
            "the same cache mode",
        ),
    ],
)
def test_blend_wants_queries_alike(play, queries, advice):
    server = play([])
    with pytest.raises(QueryError, match=advice):
        server.run(calls.blend(call(), queries))
    assert server.effects == []


# ------------------------------------------------------------ what is not about rows


def test_sql(play, answer):
    server = play([answer(200, {"sql": {"sql": ["SELECT $1", ["a"]]}})])
    sql = server.run(calls.sql(call(), QUERY))
    assert (sql.statement, sql.params) == ("SELECT $1", ("a",))
    assert server.requests[0].url.endswith("/v1/sql")
    assert server.questions == [{"query": QUERY.to_wire()}]


def test_dry_run(play, answer):
    body = {"queryType": "compareDateRangeQuery", "normalizedQueries": [{}, {}]}
    server = play([answer(200, body)])
    run = server.run(calls.dry_run(call(), COMPARED))
    assert len(run.queries) == 2
    assert server.requests[0].url.endswith("/v1/dry-run")


@pytest.mark.parametrize("flow", [calls.sql, calls.dry_run])
def test_an_error_of_theirs_names_its_query(play, answer, flow):
    with pytest.raises(DecodeError) as caught:
        play([answer(200, {})]).run(flow(call(), QUERY))
    assert caught.value.query is QUERY


def test_meta(play, answer):
    body = {"cubes": [{"name": "events", "segments": [{"name": "events.loud"}]}]}
    server = play([answer(200, {"error": "Continue wait"}), answer(200, body)])
    meta = server.run(calls.meta(call()))
    assert "events.loud" in meta
    assert {each.method for each in server.requests} == {"GET"}
    assert server.requests[0].url.endswith("/v1/meta")


def test_a_refused_meta(play, answer):
    server = play([answer(403, {"error": "API scope is missing: meta"})])
    with pytest.raises(ApiError, match="API scope is missing: meta"):
        server.run(calls.meta(call()))


def test_ready_asks_once_without_a_token(play, answer):
    server = play([answer(200, {"health": "HEALTH"})])
    assert server.run(calls.ready(call(), "https://host")) is True
    (asked,) = server.effects
    assert isinstance(asked, Request)
    assert asked.url == "https://host/readyz"
    assert "authorization" not in asked.headers


@pytest.mark.parametrize(
    "outcome",
    [
        Response(status=500, content=b'{"health":"DOWN"}'),
        Response(status=502, content=b"<html>"),
        Response(status=429),
        Failure(error=TransportError("refused"), retry=True),
        Failure(error=TransportError("late"), expired=True),
    ],
)
def test_a_server_that_cannot_say_yes_is_not_ready(play, outcome):
    server = play([outcome])
    assert server.run(calls.ready(call(), "https://host")) is False
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "content"), [(404, b"<html>no"), (200, b"<html>app"), (302, b"")]
)
def test_another_answer_is_not_about_readiness(play, status, content):
    with pytest.raises(
        ApiError, match="unexpected response of https://host/readyz"
    ) as caught:
        play([Response(status=status, content=content)]).run(
            calls.ready(call(), "https://host")
        )
    assert caught.value.status == status


# ---------------------------------------------------------------- whatever is answered

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "results",
                    "data",
                    "error",
                    "type",
                    "sql",
                    "cubes",
                    "queryType",
                    "name",
                    "normalizedQueries",
                    "annotation",
                    "measures",
                    "health",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
bodies = st.binary(max_size=30) | anything.map(lambda body: json.dumps(body).encode())
responses = st.builds(
    Response,
    status=st.sampled_from([200, 200, 200, 400, 403, 404, 429, 500, 503]),
    headers=st.sampled_from([{}, {"retry-after": "1"}, {"retry-after": formatdate(9)}]),
    content=bodies,
)
conversations = st.sampled_from(
    [
        lambda: calls.load(call(), QUERY),
        lambda: calls.load(call(), Query(measures=[count], cache="no-cache")),
        lambda: calls.load_raw(call(), {}),
        lambda: calls.compare(call(), COMPARED),
        lambda: calls.blend(call(), [DAILY, DAILY]),
        lambda: calls.sql(call(), QUERY),
        lambda: calls.dry_run(call(), QUERY),
        lambda: calls.meta(call()),
        lambda: calls.ready(call(), "https://host"),
    ]
)


@given(st.lists(responses), conversations)
def test_whatever_is_answered_nothing_foreign_is_raised(play, script, begin):
    gone = Failure(error=TransportError("gone"))
    with contextlib.suppress(OrtegeWatchError):
        play([*script, gone]).run(begin())
