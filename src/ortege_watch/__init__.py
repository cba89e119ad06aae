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
    from ortege_watch._http.conversation import (
        ClientOptions as ClientOptions,
        Limits as Limits,
        Retry as Retry,
    )
    from ortege_watch._http.driver import (
        AsyncClock as AsyncClock,
        AsyncHttp as AsyncHttp,
        Clock as Clock,
        Http as Http,
    )
    from ortege_watch.cube.calls import (
        DryRun as DryRun,
        Sql as Sql,
    )
    from ortege_watch.cube.client import (
        AsyncCubeClient as AsyncCubeClient,
        CubeClient as CubeClient,
    )
    from ortege_watch.cube.meta import (
        CubeMeta as CubeMeta,
        DimensionMeta as DimensionMeta,
        GranularityMeta as GranularityMeta,
        MeasureMeta as MeasureMeta,
        MemberMeta as MemberMeta,
        Meta as Meta,
        SegmentMeta as SegmentMeta,
    )
    from ortege_watch.errors import (
        ApiError as ApiError,
        AuthenticationError as AuthenticationError,
        DeadlineExceeded as DeadlineExceeded,
        DecodeError as DecodeError,
        InvalidArgument as InvalidArgument,
        OrtegeWatchError as OrtegeWatchError,
        QueryError as QueryError,
        QueryRejected as QueryRejected,
        RateLimited as RateLimited,
        SubscriptionLost as SubscriptionLost,
        TransportError as TransportError,
    )
    from ortege_watch.query import (
        CacheMode as CacheMode,
        Condition as Condition,
        Dimension as Dimension,
        Filter as Filter,
        Group as Group,
        Measure as Measure,
        Member as Member,
        Order as Order,
        Query as Query,
        ResponseFormat as ResponseFormat,
        Segment as Segment,
        TimeDimension as TimeDimension,
        TimeSelection as TimeSelection,
    )
    from ortege_watch.query.values import (
        Range as Range,
        RangeLike as RangeLike,
    )
    from ortege_watch.results import (
        ChangedRow as ChangedRow,
        Result as Result,
        Row as Row,
    )
    from ortege_watch.tokens import (
        TokenLike as TokenLike,
    )
    from ortege_watch.watch.mailbox import (
        Update as Update,
    )
    from ortege_watch.watch.options import (
        Reconnect as Reconnect,
        WatchOptions as WatchOptions,
    )
    from ortege_watch.watch.states import (
        ConnectionState as ConnectionState,
    )
    from ortege_watch.watch.updates import (
        AsyncUpdates as AsyncUpdates,
        Updates as Updates,
    )

    __version__: str

# The module of each public name. A new name needs a line here and one above for type
# checkers; a test compares the two.
_HOMES = {
    name: module
    for module, names in {
        "_http.conversation": "ClientOptions Limits Retry",
        "_http.driver": "AsyncClock AsyncHttp Clock Http",
        "cube.client": "AsyncCubeClient CubeClient",
        "cube.calls": "DryRun Sql",
        "cube.meta": "CubeMeta DimensionMeta GranularityMeta MeasureMeta MemberMeta Meta"
        " SegmentMeta",
        "errors": """
            ApiError AuthenticationError DeadlineExceeded DecodeError InvalidArgument
            OrtegeWatchError QueryError QueryRejected RateLimited SubscriptionLost
            TransportError
        """,
        "query": """
            CacheMode Condition Dimension Filter Group Measure Member Order Query
            ResponseFormat Segment TimeDimension TimeSelection
        """,
        "query.values": "Range RangeLike",
        "results": "ChangedRow Result Row",
        "tokens": "TokenLike",
        "watch.mailbox": "Update",
        "watch.options": "Reconnect WatchOptions",
        "watch.states": "ConnectionState",
        "watch.updates": "AsyncUpdates Updates",
    }.items()
    for name in names.split()
}


# Hidden from type checkers, which know the names that are imported above.
if not TYPE_CHECKING:
    __all__ = sorted([*_HOMES, "__version__"])  # noqa: PLE0605 - computed

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
    """Return the public names and modules, imported or not."""
    private = (name for name in globals() if name.startswith("__"))
    return sorted({*_HOMES, "errors", "testing", "watchbus", *private})
