"""A typed client for Ortege (Cube) servers: queries, results and subscriptions.

This module has every public name of the Cube half; the watch-bus has its own namespace,
:mod:`ortege_watch.watchbus`. A name's module is imported when the name is first used
(PEP 562): ``import ortege_watch`` itself imports nothing but this file.
"""

from __future__ import annotations

# Not from typing, whose import costs as much as the whole of this one: type checkers
# know the name, whoever defines it.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from ortege_watch._http.conversation import ClientOptions, Limits, Retry
    from ortege_watch._http.driver import AsyncClock, AsyncHttp, Clock, Http
    from ortege_watch.cube.client import AsyncCubeClient, CubeClient
    from ortege_watch.cube.flows import DryRun, Sql
    from ortege_watch.cube.meta import (
        CubeMeta,
        DimensionMeta,
        MeasureMeta,
        MemberMeta,
        Meta,
        SegmentMeta,
    )
    from ortege_watch.errors import (
        ApiError,
        AuthenticationError,
        DeadlineExceeded,
        DecodeError,
        InvalidArgument,
        OrtegeWatchError,
        QueryError,
        QueryRejected,
        RateLimited,
        SubscriptionLost,
        TransportError,
    )
    from ortege_watch.query import (
        CacheMode,
        Condition,
        Dimension,
        Filter,
        Group,
        Measure,
        Member,
        Order,
        Query,
        ResponseFormat,
        Segment,
        TimeDimension,
        TimeSelection,
    )
    from ortege_watch.query.values import Range, RangeLike
    from ortege_watch.results import ChangedRow, Result, Row
    from ortege_watch.tokens import TokenLike
    from ortege_watch.watch.mailbox import Update
    from ortege_watch.watch.options import Reconnect, WatchOptions
    from ortege_watch.watch.states import ConnectionState
    from ortege_watch.watch.updates import AsyncUpdates, Updates

    __version__: str

__all__ = [
    "ApiError",
    "AsyncClock",
    "AsyncCubeClient",
    "AsyncHttp",
    "AsyncUpdates",
    "AuthenticationError",
    "CacheMode",
    "ChangedRow",
    "ClientOptions",
    "Clock",
    "Condition",
    "ConnectionState",
    "CubeClient",
    "CubeMeta",
    "DeadlineExceeded",
    "DecodeError",
    "Dimension",
    "DimensionMeta",
    "DryRun",
    "Filter",
    "Group",
    "Http",
    "InvalidArgument",
    "Limits",
    "Measure",
    "MeasureMeta",
    "Member",
    "MemberMeta",
    "Meta",
    "Order",
    "OrtegeWatchError",
    "Query",
    "QueryError",
    "QueryRejected",
    "Range",
    "RangeLike",
    "RateLimited",
    "Reconnect",
    "ResponseFormat",
    "Result",
    "Retry",
    "Row",
    "Segment",
    "SegmentMeta",
    "Sql",
    "SubscriptionLost",
    "TimeDimension",
    "TimeSelection",
    "TokenLike",
    "TransportError",
    "Update",
    "Updates",
    "WatchOptions",
    "__version__",
]

# Where each public name lives. A new name needs a line here, one above for the type
# checkers, and one in __all__; a test compares the three.
_HOMES = {
    "ApiError": "errors",
    "AsyncClock": "_http.driver",
    "AsyncCubeClient": "cube.client",
    "AsyncHttp": "_http.driver",
    "AsyncUpdates": "watch.updates",
    "AuthenticationError": "errors",
    "CacheMode": "query",
    "ChangedRow": "results",
    "ClientOptions": "_http.conversation",
    "Clock": "_http.driver",
    "Condition": "query",
    "ConnectionState": "watch.states",
    "CubeClient": "cube.client",
    "CubeMeta": "cube.meta",
    "DeadlineExceeded": "errors",
    "DecodeError": "errors",
    "Dimension": "query",
    "DimensionMeta": "cube.meta",
    "DryRun": "cube.flows",
    "Filter": "query",
    "Group": "query",
    "Http": "_http.driver",
    "InvalidArgument": "errors",
    "Limits": "_http.conversation",
    "Measure": "query",
    "MeasureMeta": "cube.meta",
    "Member": "query",
    "MemberMeta": "cube.meta",
    "Meta": "cube.meta",
    "Order": "query",
    "OrtegeWatchError": "errors",
    "Query": "query",
    "QueryError": "errors",
    "QueryRejected": "errors",
    "Range": "query.values",
    "RangeLike": "query.values",
    "RateLimited": "errors",
    "Reconnect": "watch.options",
    "ResponseFormat": "query",
    "Result": "results",
    "Retry": "_http.conversation",
    "Row": "results",
    "Segment": "query",
    "SegmentMeta": "cube.meta",
    "Sql": "cube.flows",
    "SubscriptionLost": "errors",
    "TimeDimension": "query",
    "TimeSelection": "query",
    "TokenLike": "tokens",
    "TransportError": "errors",
    "Update": "watch.mailbox",
    "Updates": "watch.updates",
    "WatchOptions": "watch.options",
}


# Hidden from type checkers: to them a name that is not imported above is an error.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load a public name on its first use and keep it."""
        if name == "__version__":
            from importlib.metadata import version

            value = version("ortege-watch")
        elif name in _HOMES:
            from importlib import import_module

            value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        else:
            message = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(message)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
