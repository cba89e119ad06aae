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
    from ortege_watch.watchbus.alerts import AlertInfo
    from ortege_watch.watchbus.asgi import RecentAlerts, alert_app
    from ortege_watch.watchbus.channel import AlertChannel
    from ortege_watch.watchbus.channel_server import AlertServer, serve_alert_channel
    from ortege_watch.watchbus.client import AsyncWatchBusClient, WatchBusClient
    from ortege_watch.watchbus.events import (
        AbnormalFunctionCall,
        BigAmountTxn,
        BigAmountTxnPercent,
        BigAmountTxnUsd,
        EventValues,
        RiskFunctionCall,
        TrustScoreDecrease,
    )
    from ortege_watch.watchbus.link import WatchPaths
    from ortege_watch.watchbus.models import (
        EntityInfo,
        Subscription,
        SubscriptionPage,
        SupportedEvent,
        WatchEvent,
        WatchResult,
    )
    from ortege_watch.watchbus.nonces import MemoryNonces, NonceStore, SQLiteNonces
    from ortege_watch.watchbus.outbox import Outbox
    from ortege_watch.watchbus.payloads import WireStyle
    from ortege_watch.watchbus.posting import PublishResult, RejectedAlert
    from ortege_watch.watchbus.publisher import AlertPublisher, AsyncAlertPublisher
    from ortege_watch.watchbus.receiver import RequestVerifier
    from ortege_watch.watchbus.signing import Credentials, sign

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
    "AbnormalFunctionCall": "watchbus.events",
    "AlertChannel": "watchbus.channel",
    "AlertInfo": "watchbus.alerts",
    "AlertPublisher": "watchbus.publisher",
    "AlertServer": "watchbus.channel_server",
    "ApiError": "errors",
    "AsyncAlertPublisher": "watchbus.publisher",
    "AsyncCubeClient": "cube.client",
    "AsyncUpdates": "subscription.updates",
    "AsyncWatchBusClient": "watchbus.client",
    "AuthenticationError": "errors",
    "BigAmountTxn": "watchbus.events",
    "BigAmountTxnPercent": "watchbus.events",
    "BigAmountTxnUsd": "watchbus.events",
    "ChangedRow": "results",
    "Condition": "query",
    "ConnectionState": "subscription.states",
    "Credentials": "watchbus.signing",
    "CubeClient": "cube.client",
    "DeadlineExceeded": "errors",
    "DecodeError": "errors",
    "Dimension": "query",
    "DryRun": "cube.models",
    "EntityInfo": "watchbus.models",
    "EventValues": "watchbus.events",
    "Filter": "query",
    "Group": "query",
    "Limits": "cube.settings",
    "Measure": "query",
    "Member": "query",
    "MemoryNonces": "watchbus.nonces",
    "Meta": "meta",
    "NonceStore": "watchbus.nonces",
    "Order": "query",
    "OrtegeWatchError": "errors",
    "Outbox": "watchbus.outbox",
    "OutboxFull": "errors",
    "PublishResult": "watchbus.posting",
    "Query": "query",
    "QueryError": "errors",
    "QueryRejected": "errors",
    "RateLimited": "errors",
    "RecentAlerts": "watchbus.asgi",
    "Reconnect": "subscription.settings",
    "RejectedAlert": "watchbus.posting",
    "RequestVerifier": "watchbus.receiver",
    "Result": "results",
    "Retry": "cube.exchange",
    "RiskFunctionCall": "watchbus.events",
    "Row": "results",
    "SQLiteNonces": "watchbus.nonces",
    "Segment": "query",
    "SignatureError": "errors",
    "SignatureReason": "errors",
    "Sql": "cube.models",
    "Subscription": "watchbus.models",
    "SubscriptionLost": "errors",
    "SubscriptionPage": "watchbus.models",
    "SupportedEvent": "watchbus.models",
    "TimeDimension": "query",
    "TimeSelection": "query",
    "TransportError": "errors",
    "TrustScoreDecrease": "watchbus.events",
    "Update": "subscription.updates",
    "Updates": "subscription.blocking",
    "WatchBusClient": "watchbus.client",
    "WatchBusError": "errors",
    "WatchEvent": "watchbus.models",
    "WatchOptions": "subscription.updates",
    "WatchPaths": "watchbus.link",
    "WatchResult": "watchbus.models",
    "WireStyle": "watchbus.payloads",
    "alert_app": "watchbus.asgi",
    "serve_alert_channel": "watchbus.channel_server",
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
