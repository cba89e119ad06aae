"""What a query gives back: rows with exact, typed values, read when they are needed."""

from ortege_watch.results.result import ChangedRow, Result, Row, rows_into

__all__ = ["ChangedRow", "Result", "Row", "rows_into"]
