"""Cube's REST API over the gateway: a request in, a response out."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any, Final

from ortege_watch.testing._gateway import Answer, Gateway, encode
from ortege_watch.testing._messages import (
    HttpRequest,
    HttpResponse,
    decode,
    response,
    token_in,
)
from ortege_watch.testing._refusal import Refusal

BASE: Final = "/cubejs-api/v1"
_READ: Final = ("GET", "POST")


def respond(request: HttpRequest, gateway: Gateway) -> HttpResponse:
    """Answer a request as Cube does."""
    path = request.path.rstrip("/") or "/"
    if path in {"/readyz", "/livez"} and request.method == "GET":
        return _json(200, {"health": "HEALTH"})
    if path == "/" and request.method == "GET":
        return response(200, b"<!doctype html>\n")
    name = path.removeprefix(f"{BASE}/")
    if path == name or request.method not in _methods(name, gateway):
        return _not_found(request)
    try:
        gateway.authorize(presented(request, gateway))
    except Refusal as refusal:
        return _json(refusal.status, {"error": refusal.error})
    answer = _answer(name, request, gateway)
    return _json(answer.status, answer.body)


def presented(request: HttpRequest, gateway: Gateway) -> str | None:
    """Find the token of a request; newer servers look at a header of their own."""
    header = request.headers.get("authorization")
    if not gateway.classic:
        header = request.headers.get("x-cube-authorization", header)
    return token_in(header)


def _methods(name: str, gateway: Gateway) -> tuple[str, ...]:
    if name in {"load", "sql", "dry-run"}:
        return _READ
    if name == "subscribe":
        return ("GET",) if gateway.classic else _READ
    return ("GET",) if name == "meta" else ()


def _answer(name: str, request: HttpRequest, gateway: Gateway) -> Answer:
    if name == "meta":
        return gateway.meta()
    try:
        fields = _fields(request)
    except ValueError as error:
        return gateway.refusal(Refusal.internal(f"SyntaxError: {error}"))
    query = fields.get("query")
    match name:
        case "sql":
            return gateway.sql(query)
        case "dry-run":
            return gateway.dry_run(query)
        case _:
            return gateway.load(query, fields.get("queryType"), fields.get("cache"))


def _fields(request: HttpRequest) -> Mapping[str, Any]:
    if request.method == "GET":
        return request.params
    if "json" not in request.headers.get("content-type", ""):
        return {}
    fields = decode(request.content)
    return fields if isinstance(fields, dict) else {}


def _json(status: int, body: Any) -> HttpResponse:
    return response(status, encode(body))


def _not_found(request: HttpRequest) -> HttpResponse:
    shown = html.escape(f"Cannot {request.method} {request.path}")
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>Error</title>\n</head>\n<body>\n<pre>{shown}</pre>\n</body>\n</html>\n"
    )
    return response(404, page.encode())
