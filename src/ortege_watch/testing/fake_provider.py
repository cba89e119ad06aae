"""A provider of the watch-bus for tests: it watches what it is told to, in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, Final

from ortege_watch.testing._messages import HttpRequest
from ortege_watch.testing._signed import (
    HasNow,
    Refused,
    SignedCore,
    SignedFake,
    log_clock,
)
from ortege_watch.watchbus.models import EntityInfo, SupportedEvent

__all__ = ["FakeProvider"]

_EVENTS: Final = (
    SupportedEvent("big_amount_txn", ("ERC20",), Decimal(1000)),
    SupportedEvent("risk_function_call", ("ERC20", "ERC721", "UNIVERSAL"), Decimal(0)),
)
_PREFIXES: Final = ("/api/watch", "/api/v1/watch")


class FakeProvider(SignedFake):
    """Serve a provider's four endpoints on loopback, under both of the page's prefixes.

    One port, a thread and an event loop of its own, as :class:`FakeCube` has::

        with FakeProvider() as provider:
            client = WatchBusClient(provider.url, provider.credentials)
            client.subscribe([entity])
            assert provider.watched == [entity]
            provider.rate_limit()                         # and what does it do now?

    It checks every signature by itself, and takes no nonce twice. Of the base's faults,
    :meth:`refuse` and :meth:`error` answer without doing what is asked, while
    :meth:`cut` does it and then loses the answer.

    Args:
        app_id: who may ask.
        secret: what it signs with.
        events: what ``event/list`` answers.
        page_size: entries in a page, at most; fewer than asked for is allowed.
        tolerance: how many seconds a timestamp may be off.
        now: unix seconds.
        clock: what requests are timed with; ``now()`` in seconds.
        port: 0 for any free one.
    """

    def __init__(
        self,
        app_id: str = "fake-app",
        secret: str = "fake-provider-secret",  # noqa: S107 - of a fake
        *,
        events: Iterable[SupportedEvent] = _EVENTS,
        page_size: int = 50,
        tolerance: float = 300.0,
        now: Callable[[], float] = time.time,
        clock: HasNow | None = None,
        port: int = 0,
    ) -> None:
        core = SignedCore(app_id, secret, tolerance, now, log_clock(clock))
        super().__init__(core, port)
        self._events = list(events)
        self._page_size = page_size
        self._watched: dict[EntityInfo, str] = {}
        self._rejected: set[EntityInfo] = set()
        self._unasked: list[EntityInfo] = []
        self._stuck_page: dict[str, Any] | None = None
        self._is_stuck = False
        for prefix in _PREFIXES:
            core.endpoints |= {
                f"{prefix}/subscribe": self._subscribe,
                f"{prefix}/unsubscribe": self._unsubscribe,
                f"{prefix}/subscriptions/list": self._list,
                f"{prefix}/event/list": self._list_events,
            }

    @property
    def watched(self) -> list[EntityInfo]:
        """What it watches, in the order in which it was told to."""
        with self._core.lock:
            return list(self._watched)

    def watch(self, *entities: EntityInfo) -> None:
        """Watch entities without being asked over the network."""
        with self._core.lock:
            for each in entities:
                self._watched.setdefault(each, f"watch-{len(self._watched) + 1}")

    # Misbehaviour of a provider's own

    def reject(self, *entities: EntityInfo) -> None:
        """Fail for these entities: they are left out of the answers, as documented."""
        with self._core.lock:
            self._rejected.update(entities)

    def answer_unasked(self, *entities: EntityInfo) -> None:
        """Name these entities too in the answers to subscribe and unsubscribe."""
        with self._core.lock:
            self._unasked.extend(entities)

    def repeat_page(self, on: bool = True) -> None:
        """Answer every page with the first that is asked for from now on."""
        with self._core.lock:
            self._is_stuck, self._stuck_page = on, None

    def heal(self) -> None:
        """End every misbehaviour at once; entities that were rejected stay unwatched."""
        super().heal()
        with self._core.lock:
            self._rejected.clear()
            self._unasked.clear()
            self._core.ahead = 0.0
            self._is_stuck = False

    # Endpoints; the lock is held

    def _subscribe(self, request: HttpRequest) -> dict[str, Any]:
        asked = [each for each in _entities(request) if each not in self._rejected]
        self.watch(*asked)
        return self._result(asked)

    def _unsubscribe(self, request: HttpRequest) -> dict[str, Any]:
        known = [
            each
            for each in _entities(request)
            if each in self._watched and each not in self._rejected
        ]
        for each in known:
            del self._watched[each]
        return self._result(known)

    def _result(self, entities: list[EntityInfo]) -> dict[str, Any]:
        return {
            "watch_result": [
                {
                    "entity": each.entity,
                    "chain_id": str(each.chain_id),
                    "entity_type": each.entity_type,
                    "event_code": each.event_code,
                }
                for each in (*entities, *self._unasked)
            ]
        }

    def _list(self, request: HttpRequest) -> dict[str, Any]:
        asked = request.json or {}
        index, size = int(asked.get("page_index", 1)), int(asked.get("page_size", 50))
        if not (index >= 1 and 1 <= size <= 50):
            raise Refused(400, "000001", "illegal page")
        size = min(size, self._page_size)
        entries = self._entries(asked.get("entity_list"))
        page = {
            "subscription_list": entries[(index - 1) * size : index * size],
            "page_index": index,
            "page_size": size,
            "total": len(entries),
        }
        if not self._is_stuck:
            return page
        self._stuck_page = self._stuck_page or page
        return self._stuck_page

    def _entries(self, asked: list[str] | None) -> list[dict[str, Any]]:
        wanted = None if not asked else {each.lower() for each in asked}
        found: dict[str, list[dict[str, str]]] = {}
        for info, watch_id in self._watched.items():
            entity = info.entity.lower()
            if wanted is None or entity in wanted:
                event = {"watch_id": watch_id, "event_code": info.event_code}
                found.setdefault(entity, []).append(event)
        return [
            {"watch_entity": entity, "watch_event_list": events}
            for entity, events in found.items()
        ]

    def _list_events(self, request: HttpRequest) -> list[dict[str, Any]]:
        if request.content:
            raise Refused(400, "000001", "the body is not empty")
        return [
            {
                "event_code": each.event_code,
                "support_entity_type_list": list(each.entity_types),
                "mini_threshold": str(each.mini_threshold or 0),
            }
            for each in self._events
        ]


def _entities(request: HttpRequest) -> list[EntityInfo]:
    body: Any = request.json
    listed: Any = body.get("entity_list") if isinstance(body, dict) else body
    try:
        return [
            EntityInfo(
                each["entity"],
                int(each["chain_id"]),
                each["entity_type"],
                each["event_code"],
            )
            for each in listed
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(400, "000001", f"illegal entity_list: {error!r}") from error
