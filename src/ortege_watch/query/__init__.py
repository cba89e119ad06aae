"""The Cube query language: members, filters, orders, queries, and their JSON."""

from __future__ import annotations

from ortege_watch.query.filters import Condition, Filter, Group, Member
from ortege_watch.query.members import (
    Dimension,
    Measure,
    Order,
    Segment,
    TimeDimension,
    TimeSelection,
)
from ortege_watch.query.query import CacheMode, Query, ResponseFormat

__all__ = [
    "CacheMode",
    "Condition",
    "Dimension",
    "Filter",
    "Group",
    "Measure",
    "Member",
    "Order",
    "Query",
    "ResponseFormat",
    "Segment",
    "TimeDimension",
    "TimeSelection",
]
