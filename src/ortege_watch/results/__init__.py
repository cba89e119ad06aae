"""Results of queries: rows with exact, typed values, read when they are accessed."""

from ortege_watch.results.result import ChangedRow, Result, Row

__all__ = ["ChangedRow", "Result", "Row"]
