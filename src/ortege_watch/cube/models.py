"""What a server says about a query without running it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from ortege_watch import codec
from ortege_watch.errors import DecodeError

__all__ = ["DryRun", "Sql"]


@frozen(kw_only=True)
class Sql:
    """Hold the SQL that a server would run for a query.

    Attributes:
        statement: the SQL, with the database's placeholders.
        params: the values of the placeholders, in order.
        raw: the whole answer, as it came.
    """

    statement: str
    params: tuple[Any, ...]
    raw: Mapping[str, Any]

    @classmethod
    def read(cls, data: bytes) -> Sql:
        """Read the body of ``/sql``.

        Raises:
            DecodeError: it holds no statement.
        """
        answer = codec.loads(data)
        match answer:
            case {"sql": {"sql": [str(statement), [*params]]}}:
                return cls(statement=statement, params=tuple(params), raw=answer)
            case _:
                raise DecodeError("the answer of /sql has no statement under sql.sql")


@frozen(kw_only=True)
class DryRun:
    """Hold what a server made of a query.

    Attributes:
        query_type: ``"regularQuery"`` or ``"compareDateRangeQuery"``.
        queries: the normalised queries in Cube's JSON form, one for each date range.
        raw: the whole answer, as it came.
    """

    query_type: str
    queries: tuple[Mapping[str, Any], ...]
    raw: Mapping[str, Any]

    @classmethod
    def read(cls, data: bytes) -> DryRun:
        """Read the body of ``/dry-run``.

        Raises:
            DecodeError: it holds no normalised queries.
        """
        answer = codec.loads(data)
        match answer:
            case {"queryType": str(query_type), "normalizedQueries": [*queries]} if all(
                isinstance(query, Mapping) for query in queries
            ):
                return cls(query_type=query_type, queries=tuple(queries), raw=answer)
            case _:
                raise DecodeError(
                    "the answer of /dry-run has no list normalizedQueries"
                )
