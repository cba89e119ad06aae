"""The subscriptions of a provider, in an SQLite file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from attrs import frozen

from ortege_watch._checks import check_int, check_list, check_match, shown
from ortege_watch._sqlite import DatabaseFile, Guard, connect
from ortege_watch.errors import InvalidArgument
from ortege_watch.tokens import Concealed
from ortege_watch.watchbus.models import (
    EntityInfo,
    Subscription,
    SubscriptionPage,
    SupportedEvent,
    WatchEvent,
)
from ortege_watch.watchbus.reading import ADDRESS
from ortege_watch.watchbus.signing import check_app_id
from ortege_watch.watchbus.wire import PageRequest

# Addresses, types and codes are compared without case. A chain id may have 256 bits,
# and an integer of SQLite has 64. AUTOINCREMENT: a number is never given twice.
_SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS subscriptions (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        app_id TEXT NOT NULL,
        entity TEXT NOT NULL COLLATE NOCASE,
        chain_id TEXT NOT NULL,
        entity_type TEXT NOT NULL COLLATE NOCASE,
        event_code TEXT NOT NULL COLLATE NOCASE,
        UNIQUE (app_id, entity, chain_id, entity_type, event_code)
    );
    CREATE INDEX IF NOT EXISTS subscribers
        ON subscriptions (entity, chain_id, event_code);
"""
_SAME: Final = (
    "app_id = ? AND entity = ? AND chain_id = ? AND entity_type = ? AND event_code = ?"
)
_LARGEST: Final = 2**63 - 1


@frozen
class Subscriber:
    """An app that has subscribed to an event.

    Attributes:
        app_id: the app.
        entity: what it has subscribed to, with the provider's spelling of the event.
        watch_id: the id of the subscription in the provider's lists.
    """

    app_id: str
    entity: EntityInfo
    watch_id: str


class SQLiteProvider(DatabaseFile):
    """A provider that keeps its subscriptions in an SQLite file.

    Pass it to :func:`provider_app`, and ask :meth:`matching` whom an alert is for. It may
    be used from any thread, and several processes may share the file. Subscriptions
    survive a crash and a power failure.

    Close it, or use it as a context manager.

    Args:
        path: the file; it is created if it does not exist. ``None`` keeps the
            subscriptions in memory, for tests.
        events: what the provider can watch for. Other events and entity types are not
            accepted (their case does not count); earlier subscriptions stay.
        limit: the most subscriptions of an app; further ones are not accepted.

    Raises:
        InvalidArgument: ``path`` is not a file's, ``events`` is empty or has a code
            twice, or ``limit`` is not positive.
        OrtegeWatchError: the file cannot be used; every method raises it, too.
    """

    def __init__(
        self,
        path: str | Path | None,
        events: Iterable[SupportedEvent],
        *,
        limit: int = 100_000,
    ) -> None:
        check_int("limit", limit)
        self._limit = limit
        self._events = check_list("events", events, SupportedEvent)
        codes = [each.event_code for each in self._events]
        self._codes = {code.casefold() for code in codes}
        if len(self._codes) < len(codes):
            raise InvalidArgument(f"events must have each code once, got {codes}")
        # What is supported, by the entity type and the code in one case.
        self._spellings = {
            (entity_type.casefold(), each.event_code.casefold()): (
                entity_type,
                each.event_code,
            )
            for each in self._events
            for entity_type in each.entity_types
        }
        super().__init__(
            path,
            "the provider's file",
            _SCHEMA,
            synchronous="FULL",
            version=1,
            may_be_in_memory=True,
        )
        # A second connection: a write may wait for other processes, a reader must not.
        self._read_guard, self._reader = self._guard, self._db
        if path is not None:
            self._read_guard = Guard(f"the provider's file {str(path)!r}")
            with self._read_guard:
                self._reader = connect(path)

    def subscribe(
        self, app_id: str, entities: Sequence[EntityInfo]
    ) -> list[EntityInfo]:
        """Store subscriptions of an app; one that exists keeps its id.

        Args:
            app_id: who subscribes.
            entities: the entities and events.

        Returns:
            The entities that are subscribed now: not those with an unsupported event or
            entity type, or beyond the limit.

        Raises:
            InvalidArgument: ``app_id`` cannot be an app id, or ``entities`` has something
                else than :class:`EntityInfo` with addresses.
        """
        entities = _checked(app_id, entities)
        with self._transaction():
            query = "SELECT count(*) FROM subscriptions WHERE app_id = ?"
            [count] = self._db.execute(query, (app_id,)).fetchone()
            accepted = []
            for each in entities:
                asked = (each.entity_type.casefold(), each.event_code.casefold())
                spelling = self._spellings.get(asked)
                if spelling is None:
                    continue
                row = (app_id, each.entity, str(each.chain_id), *spelling)
                query = f"SELECT 1 FROM subscriptions WHERE {_SAME}"  # noqa: S608
                if self._db.execute(query, row).fetchone() is None:
                    if count >= self._limit:
                        continue
                    count += 1
                    self._db.execute(
                        "INSERT INTO subscriptions"
                        " (app_id, entity, chain_id, entity_type, event_code)"
                        " VALUES (?, ?, ?, ?, ?)",
                        row,
                    )
                accepted.append(each)
            return accepted

    def unsubscribe(
        self, app_id: str, entities: Sequence[EntityInfo]
    ) -> list[EntityInfo]:
        """Delete subscriptions of an app.

        Returns:
            The entities that were subscribed.

        Raises:
            InvalidArgument: as for :meth:`subscribe`.
        """
        entities = _checked(app_id, entities)
        query = f"DELETE FROM subscriptions WHERE {_SAME}"  # noqa: S608
        with self._transaction():
            return [
                each
                for each in entities
                if self._db.execute(query, _row(app_id, each)).rowcount
            ]

    def subscriptions(
        self, app_id: str, addresses: Sequence[str] | None, page: PageRequest
    ) -> SubscriptionPage:
        """Return a page of an app's subscriptions, in the order of subscribing.

        Args:
            app_id: who asks.
            addresses: only the subscriptions of these; ``None`` for all.
            page: the page.
        """
        where, values = "FROM subscriptions WHERE app_id = ?", [app_id]
        if addresses is not None:
            where += " AND entity IN (SELECT value FROM json_each(?))"
            values.append(json.dumps(list(addresses)))
        window = (page.page_size, min(page.offset, _LARGEST))
        with self._transaction("DEFERRED"):
            query = f"SELECT count(DISTINCT entity) {where}"
            [total] = self._db.execute(query, values).fetchone()
            query = (
                f"SELECT entity, min(number) AS first {where}"
                " GROUP BY entity ORDER BY first LIMIT ? OFFSET ?"
            )
            found = self._db.execute(query, (*values, *window)).fetchall()
            query = (
                "SELECT number, event_code FROM subscriptions"
                " WHERE app_id = ? AND entity = ? ORDER BY number"
            )
            listed = tuple(
                Subscription(
                    entity=entity,
                    events=tuple(
                        WatchEvent(watch_id=_watch_id(number), event_code=code)
                        for number, code in self._db.execute(query, (app_id, entity))
                    ),
                )
                for entity, _ in found
            )
        return SubscriptionPage(
            subscriptions=listed,
            page_index=page.page_index,
            page_size=page.page_size,
            total=total,
        )

    def events(self) -> list[SupportedEvent]:
        """Return the events that the provider can watch for."""
        return list(self._events)

    def matching(self, entity: str, chain_id: int, event_code: str) -> list[Subscriber]:
        """Return who has subscribed to an event, in the order of subscribing.

        An app that has subscribed with several entity types is listed once for each. It
        takes microseconds and waits for no write, so it may be called on an event loop.

        Args:
            entity: the address, in any case.
            chain_id: the chain's number.
            event_code: the event's code, in any case.

        Raises:
            InvalidArgument: the address is not ``0x`` and 40 hex digits, the chain not
                a number, or ``events`` does not have the code.
        """
        asked = EntityInfo(entity, chain_id, "any", event_code)
        check_match("entity", entity, ADDRESS, "an address, 0x and 40 hex digits")
        if event_code.casefold() not in self._codes:
            rule = "event_code must be a code of the provider's events"
            raise InvalidArgument(f"{rule}, got {shown(event_code)}")
        where = "WHERE entity = ? AND chain_id = ? AND event_code = ?"
        return self._read(where, entity, str(asked.chain_id), event_code)

    def subscribers(self) -> list[Subscriber]:
        """Return all subscriptions of all apps, in the order of subscribing."""
        return self._read("")

    def remove_app(self, app_id: str) -> int:
        """Delete all subscriptions of an app, and return their number."""
        check_app_id(Concealed(app_id))
        query = "DELETE FROM subscriptions WHERE app_id = ?"
        with self._guard:
            return self._db.execute(query, (app_id,)).rowcount

    def _read(self, where: str, *values: str) -> list[Subscriber]:
        query = f"SELECT * FROM subscriptions {where} ORDER BY number"  # noqa: S608
        with self._read_guard:
            return [
                Subscriber(
                    app_id=app_id,
                    entity=EntityInfo(entity, int(chain_id), entity_type, code),
                    watch_id=_watch_id(number),
                )
                for number, app_id, entity, chain_id, entity_type, code in (
                    self._reader.execute(query, values)
                )
            ]

    def close(self) -> None:
        """Close the file; does nothing in a process that was forked meanwhile."""
        super().close()
        if not self._guard.is_forked:
            with self._read_guard:
                self._reader.close()

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        with self._guard, self._db:
            self._db.execute(f"BEGIN {kind}")
            yield


def _checked(app_id: str, entities: Sequence[EntityInfo]) -> tuple[EntityInfo, ...]:
    check_app_id(Concealed(app_id))
    found = () if entities in ([], ()) else check_list("entities", entities, EntityInfo)
    for i, each in enumerate(found):
        rule = "an address, 0x and 40 hex digits"
        check_match(f"entities[{i}].entity", each.entity, ADDRESS, rule)
    return found


def _row(app_id: str, entity: EntityInfo) -> tuple[str, ...]:
    chain_id = str(entity.chain_id)
    return (app_id, entity.entity, chain_id, entity.entity_type, entity.event_code)


def _watch_id(number: int) -> str:
    return f"watch-{number}"
