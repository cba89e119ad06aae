"""The Cube query language: members, filters, orders, queries, and their JSON."""

from __future__ import annotations

from ortege_watch.query.base import Member
from ortege_watch.query.filters import Condition, Filter, Group
from ortege_watch.query.members import (
    Dimension,
    Measure,
    Order,
    Segment,
    TimeDimension,
    TimeSelection,
)
from ortege_watch.query.query import Query

__all__ = [
    "Condition",
    "Dimension",
    "Filter",
    "Group",
    "Measure",
    "Member",
    "Order",
    "Query",
    "Segment",
    "TimeDimension",
    "TimeSelection",
]
