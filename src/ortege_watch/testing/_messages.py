"""HTTP requests and responses, as the fakes record and write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NoReturn

import attrs

__all__ = ["HttpRequest", "HttpResponse", "decode", "response", "token_in"]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _number(text: str) -> int | Decimal:
    # To JavaScript 10.0 and 10 are the same; where it keeps all digits, at least.
    value = Decimal(text)
    whole = value.adjusted() < 21 and value == value.to_integral_value()
    return int(value) if whole else value


def decode(text: str | bytes) -> Any:
    """Read JSON, numbers exact.

    Raises:
        ValueError: with a sentence such as node's.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode()
        return json.loads(text, parse_float=_number, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        if error.pos >= len(error.doc):
            raise ValueError("Unexpected end of JSON input") from None
        token = error.doc[error.pos]
        shown = error.doc if len(error.doc) < 60 else f"{error.doc[:50]}..."
        raise ValueError(
            f"Unexpected token '{token}', \"{shown}\" is not valid JSON"
        ) from None


@attrs.frozen(kw_only=True)
class HttpRequest:
    """Hold one request that a client sent, upgrades to WebSocket included.

    Attributes:
        method: in capitals.
        path: without the query string.
        params: the query string's fields.
        headers: names in lower case.
        content: the body as it came.
        upgrade: whether it asked for a WebSocket.
        at: when it came, in seconds of the server's ``clock``.
    """

    method: str
    path: str
    params: Mapping[str, str]
    headers: Mapping[str, str]
    content: bytes
    upgrade: bool
    at: float

    @property
    def json(self) -> Any:
        """The body, decoded (numbers int or Decimal); None where it is no JSON."""
        try:
            return decode(self.content)
        except ValueError:
            return None

    @property
    def request_id(self) -> str | None:
        """The ``x-request-id`` that came along."""
        return self.headers.get("x-request-id")

    @property
    def token(self) -> str | None:
        """The token of the ``Authorization`` header, whatever its scheme."""
        return token_in(self.headers.get("authorization"))


def token_in(header: str | None) -> str | None:
    """Find the token: the second word of the header, or its only one."""
    words = (header or "").split(" ", 2)
    return words[1] if len(words) > 1 else words[0] or None


@attrs.frozen(kw_only=True)
class HttpResponse:
    """Hold one response, ready to be written."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def response(
    status: int, body: bytes, headers: Mapping[str, str] | None = None
) -> HttpResponse:
    """Write a response with a content type that fits its body."""
    kind = "application/json" if body[:1] in {b"{", b"["} else "text/html"
    given = {name.lower(): value for name, value in (headers or {}).items()}
    return HttpResponse(
        status=status,
        headers={"content-type": f"{kind}; charset=utf-8", **given},
        body=body,
    )
