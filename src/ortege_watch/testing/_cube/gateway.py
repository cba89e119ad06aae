"""The API of a fake Cube server: tokens, queries, and REST around them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import html
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias

import attrs
import msgspec

from ortege_watch.testing._cube import Refusal, dates
from ortege_watch.testing._cube.evaluate import (
    Evaluated,
    Small,
    evaluate,
    member_kind,
    members_in,
)
from ortege_watch.testing._cube.query import Plan, Planner, Request
from ortege_watch.testing._cube.table import Table
from ortege_watch.testing._messages import (
    HttpRequest,
    HttpResponse,
    decode,
    encode,
    response,
    token_in,
)
from ortege_watch.testing._server import Faults

Generation: TypeAlias = Literal["strict", "classic", "tutorial"]
Numbers: TypeAlias = Literal["string", "json"]

BASE: Final = "/cubejs-api/v1"
_CALLS: Final = frozenset({"load", "subscribe", "sql", "dry-run", "meta"})
_AGG_TYPES: Final = {"count_distinct": "countDistinct"}
# Words that Cube's titles leave small.
_SMALL_WORDS: Final = frozenset(
    (
        *("a", "an", "and", "at", "but", "by", "for", "from", "in", "into", "nor"),
        *("of", "off", "on", "onto", "or", "out", "over", "so", "the", "to", "with"),
    )
)
_VISIBLE: Final = {"isVisible": True, "public": True}


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _signature(secret: str, signed: str) -> bytes:
    return hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest()


def issue(secret: str, claims: Mapping[str, Any]) -> str:
    """Return a token with these claims."""
    header = _encode(b'{"alg":"HS256","typ":"JWT"}')
    payload = _encode(json.dumps(claims, separators=(",", ":")).encode())
    signed = f"{header}.{payload}"
    return f"{signed}.{_encode(_signature(secret, signed))}"


def verified(token: Any, secret: str, *, now: float) -> bool:
    """Return whether a token is signed with the secret and has not expired."""
    if not isinstance(token, str) or token.count(".") != 2:
        return False
    signed, _, signature = token.rpartition(".")
    try:
        header, claims = (json.loads(_decode(part)) for part in signed.split("."))
        good = hmac.compare_digest(_decode(signature), _signature(secret, signed))
    except (ValueError, binascii.Error):
        return False
    if not (good and isinstance(header, dict) and isinstance(claims, dict)):
        return False
    expiry = claims.get("exp")
    return header.get("alg") == "HS256" and (
        expiry is None or (isinstance(expiry, int | float) and now < expiry)
    )


@attrs.frozen(kw_only=True)
class Answer:
    """The answer to a call."""

    status: int = 200
    body: Any
    # of a good answer to a query: the bytes that decide whether it changed
    rows: bytes | None = None
    passing: bool = False  # whether time alone may change the answer


@attrs.define(kw_only=True)
class Gateway:
    """The API of a Cube server, without the envelopes of HTTP and WebSocket."""

    generation: Generation
    tables: Mapping[str, Table]
    secret: str
    now: Callable[[], float]
    numbers: Numbers = "string"
    compact: bool = True
    default_limit: int = 10_000
    max_limit: int = 50_000
    faults: Faults = attrs.field(factory=Faults)
    # unix seconds of the last change or refresh, lastRefreshTime
    refreshed: float = attrs.field(init=False)
    version: int = 0  # increases with everything that can change an answer
    revoked: set[str] = attrs.field(factory=set)

    def __attrs_post_init__(self) -> None:
        self.refreshed = self.now()

    @property
    def classic(self) -> bool:
        """Whether this is the older generation, 0.35."""
        return self.generation == "classic"

    def refresh(self) -> None:
        """Refresh the cache: every answer may have changed."""
        # Answers show milliseconds: two refreshes within one must differ.
        self.refreshed = max(self.now(), self.refreshed + 0.001)
        self.version += 1

    def authorize(self, token: Any) -> None:
        """Check a token.

        Raises:
            Refusal: the token is missing or not accepted.
        """
        if not token:
            raise Refusal("Authorization header isn't set", status=403)
        good = verified(token, self.secret, now=self.now())
        if not good or token in self.revoked:
            raise Refusal("Invalid token", status=403)

    def refusal(self, refusal: Refusal) -> Answer:
        """Return a refusal as this generation writes it."""
        body = refusal.body(with_stack=self.classic)
        return Answer(status=refusal.status, body=body)

    def answer(self, method: str, fields: Mapping[str, Any]) -> Answer:
        """Answer a call; a refusal is an answer, too.

        Args:
            method: ``"load"``, ``"subscribe"``, ``"sql"``, ``"dry-run"`` or ``"meta"``.
            fields: ``query``, ``queryType`` and ``cache``.
        """
        if method == "meta":
            cubes = [self._described(table) for table in self.tables.values()]
            return Answer(body={"cubes": cubes})
        query, query_type, cache = map(fields.get, ("query", "queryType", "cache"))
        if method in {"sql", "dry-run"}:
            query_type, cache = "multi", None
        try:
            asked = self._request(query, query_type, cache)
            # Members are looked up before the database is asked.
            run = method not in {"sql", "dry-run"}
            answers = [evaluate(plan, self.tables, run=run) for plan in asked.plans]
        except Refusal as refusal:
            return self.refusal(refusal)
        if method == "sql":
            statements = [
                self._statement(plan, answer.order)
                for plan, answer in zip(asked.plans, answers, strict=True)
            ]
            regular = asked.type == "regularQuery"
            return Answer(body=statements[0] if regular else statements)
        if method == "dry-run":
            return _dry_run(asked, answers)
        if self.faults.take("wait"):
            return Answer(body={"error": "Continue wait"})
        failing = self.faults.take("query")
        if failing is not None:
            message, status = failing
            return Answer(status=status, body={"error": message})
        return self._results(asked, answers, multi=query_type == "multi")

    def _request(self, query: Any, query_type: Any, cache: Any) -> Request:
        if not query or query == "undefined":
            raise Refusal("Query param is required")
        if isinstance(query, str):
            try:
                query = decode(query)
            except ValueError as error:
                raise Refusal(
                    f"Unable to decode query param as JSON, error: {error}"
                ) from None
        planner = Planner(
            classic=self.classic,
            default_limit=self.default_limit,
            max_limit=self.max_limit,
            now=datetime.fromtimestamp(self.now(), UTC),
            cache=cache,
            compact=self.compact,
        )
        return planner.request(query, query_type)

    def _results(
        self, asked: Request, answers: list[Evaluated], *, multi: bool
    ) -> Answer:
        data = [self._data(answer, asked.format) for answer in answers]
        results = [
            self._result(*each) for each in zip(asked.plans, answers, data, strict=True)
        ]
        body = results[0]
        if multi:
            body = {
                "queryType": asked.type,
                "results": results,
                "pivotQuery": asked.pivot(native=not self.classic),
                "slowQuery": False,
            }
        rows = encode(body) if self.classic else b"\n".join(bytes(raw) for raw in data)
        passing = any(plan.relative for plan in asked.plans)
        return Answer(body=body, rows=rows, passing=passing)

    def _result(
        self, plan: Plan, answer: Evaluated, data: msgspec.Raw
    ) -> dict[str, Any]:
        moment = datetime.fromtimestamp(self.refreshed - self.faults.age, UTC)
        rest = {
            "lastRefreshTime": f"{dates.stamp(moment)}Z",
            "annotation": self._annotation(plan),
            "dataSource": "default",
            "dbType": "postgres",
            "external": False,
            "slowQuery": False,
        }
        if self.classic:
            return {"query": plan.wire, "data": data, **rest, "total": answer.total}
        total = {} if answer.total is None else {"total": answer.total}
        return {"query": plan.wire, **rest, **total, "data": data}

    def _data(self, answer: Evaluated, shape: str) -> msgspec.Raw:
        rows = [[self._shown(value) for value in row] for row in answer.rows]
        members = answer.members if rows else []  # Cube finds them in the first row
        data: Any
        match shape:
            case "compact":
                data = {"members": members, "dataset": rows}
            case "columnar":
                columns = [list(column) for column in zip(*rows, strict=True)]
                data = {"members": members, "columns": columns}
            case _:
                data = [dict(zip(answer.members, row, strict=True)) for row in rows]
        return msgspec.Raw(encode(data))

    def _shown(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, datetime):
            return dates.stamp(value)
        if isinstance(value, Small) and self.classic:
            return int(value)
        if self.numbers == "string" and not isinstance(value, Small):
            return format(value, "f") if isinstance(value, Decimal) else str(value)
        # Newer servers write whole numbers with a fraction.
        text = f"{value:f}" if isinstance(value, Decimal) else f"{value}.0"
        return Decimal(text)

    def _annotation(self, plan: Plan) -> dict[str, Any]:
        times: dict[str, Any] = {}
        for one in plan.wire["timeDimensions"]:
            if one.get("granularity"):
                path, unit = one["dimension"], one["granularity"]
                about = self._about(path)
                table, name, _ = member_kind(self.tables, path)
                grain = {"name": unit, "title": unit, "interval": f"1 {unit}"}
                if custom := table.granularities.get(name, {}).get(unit):
                    grain = _grain(custom)
                shown = about if self.classic else {**about, "granularity": grain}
                times[f"{path}.{unit}"] = shown
                if path not in plan.wire["dimensions"]:
                    times[path] = about
        return {
            "measures": {p: self._about(p) for p in plan.wire.get("measures") or ()},
            "dimensions": {
                p: {**self._about(p), **self._defined(*member_kind(self.tables, p)[:2])}
                for p in plan.wire["dimensions"]
            },
            "segments": {p: self._titles(p) for p in plan.wire.get("segments") or ()},
            "timeDimensions": times,
        }

    def _about(self, path: str) -> dict[str, Any]:
        table, name, kind = member_kind(self.tables, path)
        about = self._titles(path)
        if kind != "measure":
            return {**about, "type": kind}
        return {**about, "type": "number", **_drill(table, name)}

    def _statement(self, plan: Plan, order: dict[str, str]) -> dict[str, Any]:
        """Write a statement for a query; nothing runs it."""
        members = [*(plan.wire.get("measures") or ()), *plan.wire["dimensions"]]
        granular = [t for t in plan.wire["timeDimensions"] if t.get("granularity")]
        columns = [f"{t['dimension']}.{t['granularity']}" for t in granular]
        named = {
            path.replace(".", "__", 1).replace(".", "_"): path
            for path in [*members, *columns]
        }
        shown = ", ".join(f'{path} "{alias}"' for alias, path in named.items())
        table = [*members, *columns][0].split(".", 1)[0]
        limit = plan.wire["limit"]
        text = f"SELECT {shown} FROM {table} LIMIT {limit}"  # noqa: S608 - never run
        body: dict[str, Any] = {
            "external": False,
            "sql": [text, []],
            "lambdaQueries": {},
        }
        for time in plan.wire["timeDimensions"][:1]:
            alias = f"{time['dimension']}_{_unit(time)}".replace(".", "__")
            body["timeDimensionAlias"] = alias
            body["timeDimensionField"] = time["dimension"]
        used = [*members, *members_in(plan.wire["filters"])]
        used += [t["dimension"] for t in plan.wire["timeDimensions"]]
        body |= {
            "order": order,
            "cacheKeyQueries": [],
            "preAggregations": [],
            "dataSource": "default",
            "aliasNameToMember": named,
            "canUseTransformedQuery": _transformed(plan),
            "memberNames": list(dict.fromkeys(used)),
        }
        return {"sql": body} if self.classic else {"sql": body, "dataSource": "default"}

    def _titles(self, path: str) -> dict[str, str]:
        name = path.rpartition(".")[2]
        return {
            "title": _title(path, classic=self.classic),
            "shortTitle": _title(name, classic=self.classic),
        }

    def _defined(self, table: Table, time: str) -> dict[str, Any]:
        """Return the granularities of a time; 0.35.81 does not list them [seen]."""
        if self.classic or time not in table.granularities:
            return {}
        found = table.granularities[time].values()
        return {"granularities": [_grain(granularity) for granularity in found]}

    def _described(self, table: Table) -> dict[str, Any]:
        """Describe a table as /meta does."""

        def titled(name: str) -> dict[str, Any]:
            path = f"{table.name}.{name}"
            return {"name": path, **self._titles(path)}

        number: dict[str, Any] = {}
        folders: dict[str, Any] = {}
        if not self.classic:
            described = {"name": "number", "specifier": ",.2~f"}
            number = {"formatDescription": described}
            folders = {"folders": [], "nestedFolders": []}
        measures = [
            {
                **titled(name),
                "cumulativeTotal": False,
                "cumulative": False,
                "type": "number",
                "aggType": _AGG_TYPES.get(measure.function, measure.function),
                **_drill(table, name),
                **number,
                **_VISIBLE,
            }
            for name, measure in table.measures.items()
        ]
        dimensions = [
            {
                **titled(name),
                "type": kind,
                "suggestFilterValues": True,
                **(number if kind == "number" else {}),
                **_VISIBLE,
                "primaryKey": name == table.primary_key,
                **self._defined(table, name),
            }
            for name, kind in table.dimensions.items()
        ]
        return {
            "name": table.name,
            "type": "cube",
            "title": _title(table.name, classic=self.classic),
            **_VISIBLE,
            "measures": measures,
            "dimensions": dimensions,
            "segments": [{**titled(name), **_VISIBLE} for name in table.segments],
            "hierarchies": [],
            **folders,
        }


def _grain(granularity: dates.Granularity) -> dict[str, str]:
    return granularity.described(_title(granularity.name, classic=False))


def _title(path: str, *, classic: bool) -> str:
    first, *words = path.replace(".", "_").split("_")
    shown = [first[:1].upper() + first[1:]]
    shown += [w if w in _SMALL_WORDS else w[:1].upper() + w[1:] for w in words]
    return " ".join("ID" if w == "Id" and not classic else w for w in shown)


def _drill(table: Table, measure: str) -> dict[str, Any]:
    paths = [f"{table.name}.{name}" for name in table.drill_members.get(measure, ())]
    measures = [p for p in paths if p.split(".", 1)[1] in table.measures]
    dimensions = [p for p in paths if p not in measures]
    grouped = {"measures": measures, "dimensions": dimensions}
    return {"drillMembers": paths, "drillMembersGrouped": grouped}


def _dry_run(asked: Request, answers: list[Evaluated]) -> Answer:
    body = {
        "queryType": asked.type,
        "normalizedQueries": [plan.wire for plan in asked.plans],
        "queryOrder": [answer.order for answer in answers],
        "transformedQueries": [_transformed(plan) for plan in asked.plans],
        "pivotQuery": asked.pivot(native=False),
    }
    return Answer(body=body)


def _unit(time: dict[str, Any]) -> str:
    """Return the granularity in which pre-aggregations are looked for."""
    # Cube derives it from the range; of whole days it is a day.
    return time.get("granularity") or "day"


def _transformed(plan: Plan) -> dict[str, Any]:
    """Return the first keys of what Cube matches with pre-aggregations."""
    wire = plan.wire
    measures: list[str] = list(wire.get("measures") or ())
    used = [*wire["dimensions"], *(wire.get("segments") or ())]
    used += [path for path in members_in(wire["filters"]) if path not in measures]
    times = wire["timeDimensions"]
    return {
        "sortedDimensions": sorted(set(used)),
        "sortedTimeDimensions": sorted([t["dimension"], _unit(t)] for t in times),
        "timeDimensions": [[t["dimension"], t.get("granularity")] for t in times],
        "measures": measures,
        "leafMeasures": measures,
    }


def respond(request: HttpRequest, gateway: Gateway) -> HttpResponse:
    """Answer a request as Cube's REST API does."""
    path = request.path.rstrip("/") or "/"
    if path in {"/readyz", "/livez"} and request.method == "GET":
        return response(200, {"health": "HEALTH"})
    if path == "/" and request.method == "GET":
        return response(200, "<!doctype html>\n")
    name = path.removeprefix(f"{BASE}/")
    is_cubesql = name == "cubesql"
    get_only = {"meta", "subscribe"} if gateway.classic else {"meta"}
    methods = {"GET"} if name in get_only else {"GET", "POST"}
    if is_cubesql:
        methods = {"POST"}
    is_call = name in _CALLS or is_cubesql
    if path == name or not is_call or request.method not in methods:
        return _not_found(request)
    try:
        gateway.authorize(presented(request, gateway))
    except Refusal as refusal:
        return response(refusal.status, {"error": refusal.error})
    try:
        fields = _fields(request)
    except ValueError as error:
        answer = gateway.refusal(Refusal.internal(f"SyntaxError: {error}"))
    else:
        answer = (
            gateway.refusal(_cubesql(fields, classic=gateway.classic))
            if is_cubesql
            else gateway.answer(name, fields)
        )
    return response(answer.status, answer.body)


def _cubesql(fields: Mapping[str, Any], *, classic: bool) -> Refusal:
    """Return what a server without the SQL interface answers; the fake has none."""
    if classic:
        # Whatever the body is.
        return Refusal.internal(
            "Error: Unable to load @cubejs-backend/native, probably your system "
            "(x64-linux) with Node.js v20.20.2 is not supported."
        )
    problem = ""
    if "query" not in fields:
        problem = '"query" is required'
    elif not isinstance(fields["query"], str):
        problem = '"query" must be a string'
    elif not fields["query"]:
        problem = '"query" is not allowed to be empty'
    unknown = fields.keys() - {"query", "timezone", "cache", "throwContinueWait"}
    if unknown and not problem:
        problem = f'"{min(unknown)}" is not allowed'
    if problem:
        return Refusal(f"Invalid query format: {problem}")
    return Refusal.internal(
        "Error: SQL interface is not initialized. "
        "Please enable the SQL interface in your settings."
    )


def presented(request: HttpRequest, gateway: Gateway) -> str | None:
    """Return the token of a request; newer servers have a header of their own for it."""
    header = request.headers.get("authorization")
    if not gateway.classic:
        header = request.headers.get("x-cube-authorization", header)
    return token_in(header)


def _fields(request: HttpRequest) -> Mapping[str, Any]:
    if request.method == "GET":
        return request.params
    if "json" not in request.headers.get("content-type", ""):
        return {}
    fields = decode(request.content)
    return fields if isinstance(fields, dict) else {}


def _not_found(request: HttpRequest) -> HttpResponse:
    shown = html.escape(f"Cannot {request.method} {request.path}")
    text = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>Error</title>\n</head>\n<body>\n<pre>{shown}</pre>\n</body>\n</html>\n"
    )
    return response(404, text)
