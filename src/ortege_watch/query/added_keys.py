"""The keys that a client adds to the queries of its caller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ortege_watch.errors import QueryRejected


class AddedKeys:
    """The keys that a client adds to queries, each until its server refuses it.

    A Cube server refuses a query with a key that it does not know: 0.29 refuses
    ``responseFormat`` and 1.7.43 ``renewQuery``. Then the query is sent again without
    the key, and no later query of the client has it.
    """

    def __init__(self) -> None:
        self._refused: set[str] = set()

    def for_query(
        self, query: Mapping[str, Any] | None, *, renewing: bool = False
    ) -> dict[str, Any]:
        """Return the keys to add to a query.

        In the compact form a response has half the size. A query that names a form, or
        ``None`` for one whose rows have to be in the default form, gets none.
        """
        keys: dict[str, Any] = {}
        if query is not None and "responseFormat" not in query:
            keys["responseFormat"] = "compact"
        if renewing:
            keys["renewQuery"] = True
        return {key: keys[key] for key in keys if key not in self._refused}

    def refused_by(self, error: QueryRejected, added: Mapping[str, Any]) -> str | None:
        """Return which of the added keys a server refuses, and add it no more.

        Cube writes ``Invalid query format: "renewQuery" is not allowed``. Where the
        caller has written the key, the error is the caller's.
        """
        for key in added:
            if f'"{key}" is not allowed' in error.message:
                self._refused.add(key)
                return key
        return None
