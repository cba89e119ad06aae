"""Ask an Ortege (Cube) server typed questions and stay subscribed to the answers.

Every public name stands in this module. A name loads its module when it is first
used (PEP 562): ``import ortege_watch`` itself loads nothing but this file.
"""

from __future__ import annotations

# Not from typing, whose import costs as much as the whole of this one: type checkers
# know the name, whoever defines it.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from ortege_watch.cube.client import AsyncCubeClient, CubeClient
    from ortege_watch.cube.exchange import Retry
    from ortege_watch.cube.models import DryRun, Sql
    from ortege_watch.cube.settings import Limits
    from ortege_watch.errors import (
        ApiError,
        AuthenticationError,
        DeadlineExceeded,
        DecodeError,
        OrtegeWatchError,
        QueryError,
        QueryRejected,
        RateLimited,
        SubscriptionLost,
        TransportError,
    )
    from ortege_watch.meta import Meta
    from ortege_watch.query import (
        Condition,
        Dimension,
        Filter,
        Group,
        Measure,
        Member,
        Order,
        Query,
        Segment,
        TimeDimension,
        TimeSelection,
    )
    from ortege_watch.results import ChangedRow, Result, Row
    from ortege_watch.subscription.blocking import Updates
    from ortege_watch.subscription.settings import Reconnect
    from ortege_watch.subscription.states import ConnectionState
    from ortege_watch.subscription.updates import AsyncUpdates, Update, WatchOptions

    __version__: str

__all__ = [
    "ApiError",
    "AsyncCubeClient",
    "AsyncUpdates",
    "AuthenticationError",
    "ChangedRow",
    "Condition",
    "ConnectionState",
    "CubeClient",
    "DeadlineExceeded",
    "DecodeError",
    "Dimension",
    "DryRun",
    "Filter",
    "Group",
    "Limits",
    "Measure",
    "Member",
    "Meta",
    "Order",
    "OrtegeWatchError",
    "Query",
    "QueryError",
    "QueryRejected",
    "RateLimited",
    "Reconnect",
    "Result",
    "Retry",
    "Row",
    "Segment",
    "Sql",
    "SubscriptionLost",
    "TimeDimension",
    "TimeSelection",
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
    "AsyncCubeClient": "cube.client",
    "AsyncUpdates": "subscription.updates",
    "AuthenticationError": "errors",
    "ChangedRow": "results",
    "Condition": "query",
    "ConnectionState": "subscription.states",
    "CubeClient": "cube.client",
    "DeadlineExceeded": "errors",
    "DecodeError": "errors",
    "Dimension": "query",
    "DryRun": "cube.models",
    "Filter": "query",
    "Group": "query",
    "Limits": "cube.settings",
    "Measure": "query",
    "Member": "query",
    "Meta": "meta",
    "Order": "query",
    "OrtegeWatchError": "errors",
    "Query": "query",
    "QueryError": "errors",
    "QueryRejected": "errors",
    "RateLimited": "errors",
    "Reconnect": "subscription.settings",
    "Result": "results",
    "Retry": "cube.exchange",
    "Row": "results",
    "Segment": "query",
    "Sql": "cube.models",
    "SubscriptionLost": "errors",
    "TimeDimension": "query",
    "TimeSelection": "query",
    "TransportError": "errors",
    "Update": "subscription.updates",
    "Updates": "subscription.blocking",
    "WatchOptions": "subscription.updates",
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
