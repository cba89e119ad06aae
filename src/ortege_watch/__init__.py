"""Ask an Ortege (Cube) server typed questions and stay subscribed to the answers.

Every public name stands in this module. A name loads its module when it is first
used (PEP 562): ``import ortege_watch`` itself loads nothing but this file.
"""

from __future__ import annotations

# Not from typing, whose import costs as much as the whole of this one: type checkers
# know the name, whoever defines it.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from ortege_watch._http.exchange import Retry
    from ortege_watch.cube.client import AsyncCubeClient, CubeClient, Limits
    from ortege_watch.cube.flows import DryRun, Sql
    from ortege_watch.cube.meta import Meta
    from ortege_watch.errors import (
        ApiError,
        AuthenticationError,
        DeadlineExceeded,
        DecodeError,
        InvalidArgument,
        OrtegeWatchError,
        OutboxFull,
        QueryError,
        QueryRejected,
        RateLimited,
        SignatureError,
        SignatureReason,
        SubscriptionLost,
        TransportError,
        WatchBusError,
    )
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
    from ortege_watch.watch.options import Reconnect
    from ortege_watch.watch.states import ConnectionState
    from ortege_watch.watch.updates import AsyncUpdates, Update, Updates, WatchOptions
    from ortege_watch.watchbus.channel import (
        AlertChannel,
        AlertServer,
        serve_alert_channel,
    )
    from ortege_watch.watchbus.client import AsyncWatchBusClient, WatchBusClient
    from ortege_watch.watchbus.inbox import RecentAlerts, alert_app
    from ortege_watch.watchbus.link import WatchPaths
    from ortege_watch.watchbus.models import (
        AbnormalFunctionCall,
        AlertInfo,
        BigAmountTxn,
        BigAmountTxnPercent,
        BigAmountTxnUsd,
        EntityInfo,
        EventValues,
        RiskFunctionCall,
        Subscription,
        SubscriptionPage,
        SupportedEvent,
        TrustScoreDecrease,
        WatchEvent,
        WatchResult,
    )
    from ortege_watch.watchbus.outbox import Outbox
    from ortege_watch.watchbus.posting import PublishResult, RejectedAlert
    from ortege_watch.watchbus.publisher import AlertPublisher, AsyncAlertPublisher
    from ortege_watch.watchbus.signing import Credentials, sign
    from ortege_watch.watchbus.verifier import (
        MemoryNonces,
        NonceStore,
        RequestVerifier,
        SQLiteNonces,
    )
    from ortege_watch.watchbus.wire import WireStyle

    __version__: str

__all__ = [
    "AbnormalFunctionCall",
    "AlertChannel",
    "AlertInfo",
    "AlertPublisher",
    "AlertServer",
    "ApiError",
    "AsyncAlertPublisher",
    "AsyncCubeClient",
    "AsyncUpdates",
    "AsyncWatchBusClient",
    "AuthenticationError",
    "BigAmountTxn",
    "BigAmountTxnPercent",
    "BigAmountTxnUsd",
    "ChangedRow",
    "Condition",
    "ConnectionState",
    "Credentials",
    "CubeClient",
    "DeadlineExceeded",
    "DecodeError",
    "Dimension",
    "DryRun",
    "EntityInfo",
    "EventValues",
    "Filter",
    "Group",
    "InvalidArgument",
    "Limits",
    "Measure",
    "Member",
    "MemoryNonces",
    "Meta",
    "NonceStore",
    "Order",
    "OrtegeWatchError",
    "Outbox",
    "OutboxFull",
    "PublishResult",
    "Query",
    "QueryError",
    "QueryRejected",
    "RateLimited",
    "RecentAlerts",
    "Reconnect",
    "RejectedAlert",
    "RequestVerifier",
    "Result",
    "Retry",
    "RiskFunctionCall",
    "Row",
    "SQLiteNonces",
    "Segment",
    "SignatureError",
    "SignatureReason",
    "Sql",
    "Subscription",
    "SubscriptionLost",
    "SubscriptionPage",
    "SupportedEvent",
    "TimeDimension",
    "TimeSelection",
    "TransportError",
    "TrustScoreDecrease",
    "Update",
    "Updates",
    "WatchBusClient",
    "WatchBusError",
    "WatchEvent",
    "WatchOptions",
    "WatchPaths",
    "WatchResult",
    "WireStyle",
    "__version__",
    "alert_app",
    "serve_alert_channel",
    "sign",
]

# Where each public name lives. A new name needs a line here, one above for the type
# checkers, and one in __all__; a test compares the three.
_HOMES = {
    "AbnormalFunctionCall": "watchbus.models",
    "AlertChannel": "watchbus.channel",
    "AlertInfo": "watchbus.models",
    "AlertPublisher": "watchbus.publisher",
    "AlertServer": "watchbus.channel",
    "ApiError": "errors",
    "AsyncAlertPublisher": "watchbus.publisher",
    "AsyncCubeClient": "cube.client",
    "AsyncUpdates": "watch.updates",
    "AsyncWatchBusClient": "watchbus.client",
    "AuthenticationError": "errors",
    "BigAmountTxn": "watchbus.models",
    "BigAmountTxnPercent": "watchbus.models",
    "BigAmountTxnUsd": "watchbus.models",
    "ChangedRow": "results",
    "Condition": "query",
    "ConnectionState": "watch.states",
    "Credentials": "watchbus.signing",
    "CubeClient": "cube.client",
    "DeadlineExceeded": "errors",
    "DecodeError": "errors",
    "Dimension": "query",
    "DryRun": "cube.flows",
    "EntityInfo": "watchbus.models",
    "EventValues": "watchbus.models",
    "Filter": "query",
    "Group": "query",
    "InvalidArgument": "errors",
    "Limits": "cube.client",
    "Measure": "query",
    "Member": "query",
    "MemoryNonces": "watchbus.verifier",
    "Meta": "cube.meta",
    "NonceStore": "watchbus.verifier",
    "Order": "query",
    "OrtegeWatchError": "errors",
    "Outbox": "watchbus.outbox",
    "OutboxFull": "errors",
    "PublishResult": "watchbus.posting",
    "Query": "query",
    "QueryError": "errors",
    "QueryRejected": "errors",
    "RateLimited": "errors",
    "RecentAlerts": "watchbus.inbox",
    "Reconnect": "watch.options",
    "RejectedAlert": "watchbus.posting",
    "RequestVerifier": "watchbus.verifier",
    "Result": "results",
    "Retry": "_http.exchange",
    "RiskFunctionCall": "watchbus.models",
    "Row": "results",
    "SQLiteNonces": "watchbus.verifier",
    "Segment": "query",
    "SignatureError": "errors",
    "SignatureReason": "errors",
    "Sql": "cube.flows",
    "Subscription": "watchbus.models",
    "SubscriptionLost": "errors",
    "SubscriptionPage": "watchbus.models",
    "SupportedEvent": "watchbus.models",
    "TimeDimension": "query",
    "TimeSelection": "query",
    "TransportError": "errors",
    "TrustScoreDecrease": "watchbus.models",
    "Update": "watch.updates",
    "Updates": "watch.updates",
    "WatchBusClient": "watchbus.client",
    "WatchBusError": "errors",
    "WatchEvent": "watchbus.models",
    "WatchOptions": "watch.updates",
    "WatchPaths": "watchbus.link",
    "WatchResult": "watchbus.models",
    "WireStyle": "watchbus.wire",
    "alert_app": "watchbus.inbox",
    "serve_alert_channel": "watchbus.channel",
    "sign": "watchbus.signing",
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
