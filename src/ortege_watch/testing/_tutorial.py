"""The dialect of Ortege's tutorial, as a gateway in front of Cube may speak it.

The tutorial shows one frame and hints that a top-level ``data`` list answers it;
everything else here is the simplest thing that fits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ortege_watch.testing._frames import Peer, Subscription
from ortege_watch.testing._messages import decode

if TYPE_CHECKING:
    from ortege_watch.testing._gateway import Gateway

Manners: TypeAlias = Literal["error", "silence"]


class Tutorial:
    """Answer subscribe envelopes; a connection is authorized by its upgrade."""

    def __init__(self, gateway: Gateway, manners: Manners) -> None:
        self.gateway = gateway
        self.manners = manners

    def query(self, subscription: Subscription) -> Any:
        """Tell what a subscription asks."""
        return subscription.message["query"]

    def receive(self, peer: Peer, data: str | bytes) -> list[Any]:
        """Answer one envelope with its rows; whatever is none, as told to."""
        try:
            message = decode(data)
        except ValueError:
            message = None
        if not (
            isinstance(message, dict)
            and message.get("queryType") == "subscribe"
            and "query" in message
        ):
            if self.manners == "silence":
                return []
            return [{"error": "queryType must be 'subscribe'", "status": 400}]
        subscription = Subscription(message)
        peer.subscriptions[str(message.get("requestId"))] = subscription
        return self._run(subscription)

    def tick(self, peer: Peer) -> list[Any]:
        """Push what has changed; there is no heartbeat."""
        return [
            frame
            for subscription in peer.subscriptions.values()
            if subscription.settled != self.gateway.version
            for frame in self._run(subscription)
        ]

    def _run(self, subscription: Subscription) -> list[Any]:
        version = self.gateway.version
        answer = self.gateway.load(subscription.message["query"])
        changed = answer.rows is None or answer.rows != subscription.rows
        subscription.rows = answer.rows
        lasting = answer.rows is not None and not answer.passing
        subscription.settled = version if lasting else None
        if not changed:
            return []
        if answer.rows is None:
            return [{**answer.body, "status": answer.status}]
        return [{"data": answer.body["data"]}]
