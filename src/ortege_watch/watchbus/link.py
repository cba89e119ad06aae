"""Where the other side is, and what its requests are signed with."""

from __future__ import annotations

import re
from typing import Final

from attrs import evolve, field, frozen, mutable

from ortege_watch._http.conversation import (
    DEADLINE,
    TIMEOUT,
    Limits,
    Retry,
    check_limits,
    split_url,
)
from ortege_watch.errors import QueryError
from ortege_watch.watchbus.signing import Credentials, Key, prepare, request_line

__all__ = ["ALERT_PATH", "Link", "Skew", "Target", "WatchPaths", "check_batch_size"]

ALERT_PATH: Final = "/api/v1/watch/alert"

_EXAMPLE: Final = "give its address, such as https://provider.example.com"
_SECRET: Final = "sign with credentials"
# What every HTTP library leaves as it is: what is signed must be what is sent.
_PATH: Final = re.compile(r"(?:/(?:[A-Za-z0-9\-._~!$&'()*+,=:@]|%[0-9A-F]{2})+)+/?")
_DOTS: Final = frozenset({".", ".."})


@frozen(kw_only=True)
class WatchPaths:
    """Name the paths of a provider's endpoints, where they differ from the page's.

    The page has ``/api/watch`` for three of them and ``/api/v1/watch`` for one. None
    falls back to another: a path that is not there is an error.

    Attributes:
        subscribe: of :meth:`WatchBusClient.subscribe`.
        unsubscribe: of :meth:`WatchBusClient.unsubscribe`.
        subscriptions: of :meth:`WatchBusClient.subscriptions`.
        events: of :meth:`WatchBusClient.events`.
    """

    subscribe: str = "/api/watch/subscribe"
    unsubscribe: str = "/api/v1/watch/unsubscribe"
    subscriptions: str = "/api/watch/subscriptions/list"
    events: str = "/api/watch/event/list"


@mutable
class Skew:
    """Remember by how much a server's clock is ahead of this machine's, in seconds."""

    seconds: float = 0.0


@frozen(kw_only=True)
class Target:
    """Hold where one endpoint is.

    Attributes:
        url: the whole of it.
        line: the part of the signed text that names method and path.
    """

    url: str
    line: str


@frozen(kw_only=True)
class Link:
    """Hold what every request to one server needs.

    Attributes:
        root: scheme, host and the path that endpoints' paths are appended to.
        prefix: that path.
        timeout: seconds that the server may be silent.
        deadline: seconds that a request may take with its attempts; ``None`` for no
            limit.
    """

    root: str
    prefix: str
    credentials: Credentials
    key: Key = field(repr=False)
    timeout: float
    deadline: float | None
    retry: Retry
    skew: Skew = field(factory=Skew)

    @classmethod
    def parse(
        cls,
        url: str,
        credentials: Credentials,
        *,
        path: str = "",
        timeout: float = TIMEOUT,
        deadline: float | None = DEADLINE,
        retry: Retry | None = None,
    ) -> Link:
        """Read a server's address.

        Args:
            url: a host, or with the path that is before each endpoint's.
            credentials: whose signature it is.
            path: an endpoint's path that the URL may end in.
            timeout: seconds that the server may be silent.
            deadline: seconds that a request may take with its attempts.
            retry: how often a request is tried.

        Raises:
            QueryError: one of them cannot be used.
        """
        if not isinstance(credentials, Credentials):
            # Its repr might show a secret.
            kind = type(credentials).__name__
            raise QueryError(
                f"credentials: give Credentials(app_id, secret), not {kind}"
            )
        check_limits(timeout, deadline)
        parts = split_url(url, _EXAMPLE, _SECRET)
        prefix = parts.path.rstrip("/").removesuffix(path or "/").rstrip("/")
        if prefix:
            _check_path("url", prefix)
        scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
        return cls(
            root=f"{scheme}://{parts.netloc}{prefix}",
            prefix=prefix,
            credentials=credentials,
            key=prepare(credentials.secret),
            timeout=timeout,
            deadline=deadline,
            retry=retry or Retry(),
        )

    def target(self, name: str, path: str) -> Target:
        """Find an endpoint.

        Raises:
            QueryError: the path cannot be signed and sent as it is.
        """
        _check_path(name, path)
        line = request_line("POST", self.prefix + path)
        return Target(url=self.root + path, line=line)

    def within(self, limits: Limits) -> Link:
        """Take other limits on time, for one call.

        Raises:
            QueryError: they are none.
            TypeError: there are arguments that nobody knows.
        """
        if not limits:
            return self
        unknown = limits.keys() - Limits.__annotations__
        if unknown:
            names = ", ".join(sorted(unknown))
            raise TypeError(f"unexpected arguments: {names}")
        link = evolve(self, **limits)
        check_limits(link.timeout, link.deadline)
        return link


def check_batch_size(batch_size: object) -> None:
    """Refuse what is no size of a batch.

    Raises:
        QueryError: it is no int above 0.
    """
    if type(batch_size) is not int or batch_size < 1:
        raise QueryError(f"batch_size: {batch_size!r} is no number of entries above 0")


def _check_path(name: str, path: object) -> None:
    if (
        not isinstance(path, str)
        or _PATH.fullmatch(path) is None
        or not _DOTS.isdisjoint(path.split("/"))
    ):
        raise QueryError(
            f"{name}: {path!r} is no path that arrives as it is signed: it begins with"
            " '/', and has no query, no ';', no '.' or '..' between slashes and no"
            " character that needs percent-encoding"
        )
