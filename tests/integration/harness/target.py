"""A server that is only read from."""

from __future__ import annotations

from attrs import field, frozen


@frozen(kw_only=True)
class Target:
    """Where a server is, and what opens it.

    Attributes:
        url: the base of its REST API.
        token: a JWT; kept out of the representation.
    """

    url: str
    token: str = field(repr=False)
