"""Where a Cube server is: every form of its URL that people have at hand."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from attrs import frozen

from ortege_watch.errors import QueryError

__all__ = ["Endpoint", "split_url"]

_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_DEFAULT_PATH = "/cubejs-api"
_UNFIT = re.compile(r"[\s\x00-\x1f\x7f]")
_EXAMPLE = "give the server's address, such as https://cube.example.com/cubejs-api/v1"


@frozen(kw_only=True)
class Endpoint:
    """Hold the addresses of one Cube server.

    Attributes:
        api: what REST paths are appended to, ``https://host/cubejs-api/v1``.
        root: what ``/readyz`` is appended to, ``https://host``.
        socket: the WebSocket, ``wss://host/cubejs-api/v1/load/``; Cube takes an upgrade
            on any path (seen on 0.35.81 and 1.7.43), a gateway may not.
        host: host and port, for messages.
    """

    api: str
    root: str
    socket: str
    host: str

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Read a URL: a host, or down to ``/cubejs-api``, ``/v1`` or ``/load``.

        ``ws`` and ``wss`` stand for ``http`` and ``https``. A path that ends in ``/v1``
        is taken as it is (a server may have another base path); any other path is a
        prefix before ``/cubejs-api/v1``.

        Raises:
            QueryError: this is no such URL, or it carries a user name, a query or a
                fragment.
        """
        parts = split_url(url, _EXAMPLE, "give the token as token=")
        scheme = _SCHEMES[parts.scheme]
        path = parts.path.rstrip("/").removesuffix("/load").rstrip("/")
        if not path.endswith("/v1"):
            path = path.removesuffix(_DEFAULT_PATH) + _DEFAULT_PATH + "/v1"
        prefix = path.removesuffix(_DEFAULT_PATH + "/v1")
        host = parts.netloc
        return cls(
            api=f"{scheme}://{host}{path}",
            root=f"{scheme}://{host}" + (prefix if prefix != path else ""),
            socket=f"{scheme.replace('http', 'ws')}://{host}{path}/load/",
            host=host,
        )


def split_url(url: str, example: str, secret: str) -> SplitResult:
    """Take a server's address apart: a scheme, a host, perhaps a port and a path.

    Args:
        url: the address.
        example: what an error tells to give instead.
        secret: what an error tells to do with a user name or password.

    Raises:
        QueryError: this is no such URL, or it carries a user name, a query or a
            fragment.
    """
    if not isinstance(url, str):
        raise QueryError(f"url is a string, not {type(url).__name__}: {example}")
    text = url.strip()
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        host.encode("idna")  # or the resolver would raise a UnicodeError of its own
        port = parts.port
    except ValueError as error:
        raise QueryError(f"url cannot be read ({error}): {example}") from error
    if "@" in parts.netloc:
        raise QueryError(f"url carries a user name or password: {secret}")
    if parts.scheme not in _SCHEMES or not host or port == 0 or _UNFIT.search(text):
        raise QueryError(f"{url!r} is no address of a server: {example}")
    if parts.query or parts.fragment:
        raise QueryError(f"{url!r} carries a query or a fragment: leave it out")
    return parts
