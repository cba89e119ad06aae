"""The watch-bus: signed alerts about blockchain entities, in both directions.

This module has every public name of the watch-bus. A name's module is imported when the
name is first used (PEP 562).
"""

from __future__ import annotations

TYPE_CHECKING = False  # not from typing, whose import takes longer than this file

if TYPE_CHECKING:
    from ortege_watch.errors import (
        OutboxFull as OutboxFull,
        SignatureError as SignatureError,
        SignatureReason as SignatureReason,
        WatchBusError as WatchBusError,
    )
    from ortege_watch.watchbus.asgi import (
        alert_app as alert_app,
    )
    from ortege_watch.watchbus.channel import (
        AlertChannel as AlertChannel,
        AlertServer as AlertServer,
        serve_alert_channel as serve_alert_channel,
    )
    from ortege_watch.watchbus.client import (
        AsyncWatchBusClient as AsyncWatchBusClient,
        WatchBusClient as WatchBusClient,
    )
    from ortege_watch.watchbus.events import (
        AbnormalFunctionCall as AbnormalFunctionCall,
        BigAmountTxn as BigAmountTxn,
        BigAmountTxnPercent as BigAmountTxnPercent,
        BigAmountTxnUsd as BigAmountTxnUsd,
        EventValues as EventValues,
        RiskFunctionCall as RiskFunctionCall,
        TrustScoreDecrease as TrustScoreDecrease,
    )
    from ortege_watch.watchbus.handled import (
        Claim as Claim,
        HandledStore as HandledStore,
        MemoryHandled as MemoryHandled,
        SQLiteHandled as SQLiteHandled,
    )
    from ortege_watch.watchbus.inbox import (
        AlertHandler as AlertHandler,
        AlertInbox as AlertInbox,
        AlertOutcome as AlertOutcome,
        RejectAlert as RejectAlert,
        RetryAlert as RetryAlert,
    )
    from ortege_watch.watchbus.models import (
        AlertInfo as AlertInfo,
        Alerts as Alerts,
        EntityInfo as EntityInfo,
        Subscription as Subscription,
        SubscriptionPage as SubscriptionPage,
        SupportedEvent as SupportedEvent,
        WatchEvent as WatchEvent,
        WatchResult as WatchResult,
        read_alerts as read_alerts,
    )
    from ortege_watch.watchbus.outbox import (
        Outbox as Outbox,
        WaitingAlert as WaitingAlert,
    )
    from ortege_watch.watchbus.provider import (
        Provider as Provider,
        RateLimit as RateLimit,
        provider_app as provider_app,
    )
    from ortege_watch.watchbus.publisher import (
        AlertPublisher as AlertPublisher,
        AsyncAlertPublisher as AsyncAlertPublisher,
    )
    from ortege_watch.watchbus.requests import (
        BusOptions as BusOptions,
        Progress as Progress,
        WatchPaths as WatchPaths,
    )
    from ortege_watch.watchbus.sending import (
        DeadLetter as DeadLetter,
        PublishResult as PublishResult,
    )
    from ortege_watch.watchbus.signing import (
        Credentials as Credentials,
        Headers as Headers,
        sign as sign,
        signed_headers as signed_headers,
    )
    from ortege_watch.watchbus.subscribers import (
        SQLiteProvider as SQLiteProvider,
        Subscriber as Subscriber,
    )
    from ortege_watch.watchbus.verifier import (
        MemoryNonces as MemoryNonces,
        NonceStore as NonceStore,
        RequestVerifier as RequestVerifier,
        SQLiteNonces as SQLiteNonces,
    )
    from ortege_watch.watchbus.view import (
        ViewAnswer as ViewAnswer,
        alert_view as alert_view,
    )
    from ortege_watch.watchbus.wire import (
        PageRequest as PageRequest,
        WireStyle as WireStyle,
    )

# Where each public name lives; a test compares it with the imports above.
_HOMES = {
    name: module
    for module, names in {
        "errors": "OutboxFull SignatureError SignatureReason WatchBusError",
        "watchbus.asgi": "alert_app",
        "watchbus.channel": "AlertChannel AlertServer serve_alert_channel",
        "watchbus.client": "AsyncWatchBusClient WatchBusClient",
        "watchbus.events": """
            AbnormalFunctionCall BigAmountTxn BigAmountTxnPercent BigAmountTxnUsd
            EventValues RiskFunctionCall TrustScoreDecrease
        """,
        "watchbus.handled": "Claim HandledStore MemoryHandled SQLiteHandled",
        "watchbus.inbox": """
            AlertHandler AlertInbox AlertOutcome RejectAlert RetryAlert
        """,
        "watchbus.models": """
            AlertInfo Alerts EntityInfo Subscription SubscriptionPage SupportedEvent
            WatchEvent WatchResult read_alerts
        """,
        "watchbus.outbox": "Outbox WaitingAlert",
        "watchbus.provider": "Provider RateLimit provider_app",
        "watchbus.publisher": "AlertPublisher AsyncAlertPublisher",
        "watchbus.requests": "BusOptions Progress WatchPaths",
        "watchbus.sending": "DeadLetter PublishResult",
        "watchbus.signing": "Credentials Headers sign signed_headers",
        "watchbus.subscribers": "SQLiteProvider Subscriber",
        "watchbus.verifier": "MemoryNonces NonceStore RequestVerifier SQLiteNonces",
        "watchbus.view": "ViewAnswer alert_view",
        "watchbus.wire": "PageRequest WireStyle",
    }.items()
    for name in names.split()
}


# Hidden from type checkers, which know the names that are imported above.
if not TYPE_CHECKING:
    __all__ = sorted(_HOMES)  # noqa: PLE0605 - computed

    def __getattr__(name: str) -> object:
        """Import the module of a public name on its first use and keep the value."""
        if name not in _HOMES:
            message = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(message)
        from importlib import import_module

        value = getattr(import_module(f"ortege_watch.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return sorted({*_HOMES, *(name for name in globals() if name.startswith("__"))})
