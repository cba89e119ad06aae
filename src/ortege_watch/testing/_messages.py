"""JSON, HTTP requests and HTTP responses, as the fakes read and write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final, NoReturn

import attrs
import msgspec

encode: Final[Callable[[Any], bytes]] = msgspec.json.Encoder(
    decimal_format="number"
).encode


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _number(text: str) -> int | Decimal:
    # 10.0 and 10 are the same number in JavaScript, at least where it keeps all digits.
    value = Decimal(text)
    whole = value.adjusted() < 21 and value == value.to_integral_value()
    return int(value) if whole else value


def decode(text: str | bytes) -> Any:
    """Decode JSON with exact numbers.

    Raises:
        ValueError: with a message such as node's.
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
    """A request that a client sent; upgrades to WebSocket are requests, too.

    Attributes:
        method: in capitals.
        path: without the query string.
        params: the fields of the query string.
        headers: names in lower case.
        content: the body as bytes.
        upgrade: whether it asked for a WebSocket.
        at: when it was received, in seconds of the server's ``clock``.
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
        """The decoded body (numbers are int or Decimal); None if it is not JSON."""
        try:
            return decode(self.content)
        except ValueError:
            return None

    @property
    def request_id(self) -> str | None:
        """The header ``x-request-id``."""
        return self.headers.get("x-request-id")

    @property
    def token(self) -> str | None:
        """The token of the ``Authorization`` header, whatever its scheme."""
        return token_in(self.headers.get("authorization"))


def token_in(header: str | None) -> str | None:
    """Return the token: the second word of the header, or its only one."""
    words = (header or "").split(" ", 2)
    return words[1] if len(words) > 1 else words[0] or None


@attrs.frozen(kw_only=True)
class HttpResponse:
    """A response that is ready to be written."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def response(
    status: int, body: Any, headers: Mapping[str, str] | None = None
) -> HttpResponse:
    """Build a response; a body other than bytes or a string is encoded as JSON."""
    if isinstance(body, str):
        body = body.encode()
    elif not isinstance(body, bytes):
        body = encode(body)
    kind = "application/json" if body[:1] in {b"{", b"["} else "text/html"
    given = {name.lower(): value for name, value in (headers or {}).items()}
    return HttpResponse(
        status=status,
        headers={"content-type": f"{kind}; charset=utf-8", **given},
        body=body,
    )


def page(status: int, headers: Mapping[str, str] | None = None) -> HttpResponse:
    """Build the HTML page of a proxy that refuses a request."""
    return response(status, f"<html><body>{status}</body></html>\n", headers)
