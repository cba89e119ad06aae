"""Correct use as type checkers see it: both must find nothing wrong here."""

from __future__ import annotations

from collections.abc import KeysView, ValuesView
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, assert_type
from zoneinfo import ZoneInfo

from attrs import frozen

from ortege_watch import (
    ApiError,
    AsyncCubeClient,
    AsyncUpdates,
    CacheMode,
    ChangedRow,
    ClientOptions,
    Condition,
    ConnectionState,
    CubeClient,
    DecodeError,
    Dimension,
    Group,
    Measure,
    Member,
    Meta,
    Order,
    Query,
    RateLimited,
    Reconnect,
    ResponseFormat,
    Result,
    Retry,
    Row,
    Segment,
    TimeDimension,
    TimeSelection,
    Update,
    Updates,
    __version__,
)
from ortege_watch.watchbus import (
    AlertChannel,
    AlertInbox,
    AlertInfo,
    AlertOutcome,
    AlertServer,
    Credentials,
    MemoryHandled,
    RequestVerifier,
    alert_app,
    serve_alert_channel,
)


class Events:
    fee = Measure("events.fee")
    count = Measure("events.count", int)
    sender = Dimension("events.sender")
    height = Dimension("events.height", int)
    success = Dimension("events.success", bool)
    seen = TimeDimension("events.seen")
    large = Segment("events.large")


DAY = date(2024, 5, 1)
INSTANT = datetime(2024, 5, 1, 12, tzinfo=UTC)


def members_know_their_type() -> None:
    assert_type(Events.fee, Measure[Decimal])
    assert_type(Events.count, Measure[int])
    assert_type(Events.sender, Dimension[str])
    assert_type(Events.height, Dimension[int])
    assert_type(Events.success, Dimension[bool])
    assert_type(Events.seen.by("day").over("last 7 days"), TimeSelection)
    assert_type(Events.seen.over((DAY, INSTANT)), TimeSelection)
    assert_type(Events.seen.compare(["this week", (DAY, DAY)]), TimeSelection)
    assert_type(Events.fee.desc(), Order)


def filters_take_values_of_the_members_type() -> None:
    assert_type(Events.fee.gt(Decimal("0.1")), Condition)
    assert_type(Events.fee.lte(5), Condition)
    assert_type(Events.count.gte(5), Condition)
    assert_type(Events.sender.eq("SP1") & Events.height.gt(5), Group)
    assert_type(Events.sender.in_(["SP1", None]) | Events.success.eq(True), Group)
    assert_type(Events.sender.not_in({"SP1"}), Condition)
    assert_type(Events.sender.not_starts_with("SP1", "SP2"), Condition)
    assert_type(Events.seen.in_range(DAY, INSTANT), Condition)
    assert_type(Events.seen.on_or_before(DAY), Condition)
    assert_type(Events.fee.is_not_set(), Condition)


def a_query_is_compared_with_a_server(cube: CubeClient, query: Query) -> None:
    assert_type(query.validate(cube.meta()), list[str])
    assert_type(Meta.read(b"").member("events.seen").granularity_names, tuple[str, ...])


def queries_are_built_and_changed() -> Query:
    query = Query(
        measures=[Events.fee, Events.count],
        dimensions=(Events.sender, Events.height),
        time=[Events.seen.by("day").over("last 7 days")],
        segments=[Events.large],
        where=[Events.sender.eq("SP1"), Events.success.eq(True)],
        having=[Events.fee.gt(5)],
        order=[Events.fee.desc()],
        limit=10,
        total=True,
        timezone="Europe/Berlin",
        cache="no-cache",
        response_format="compact",
    )
    Query(measures=Events.fee, dimensions=Events.seen, where=Events.sender.eq("SP1"))
    Query(time=Events.seen.by("day"), timezone=ZoneInfo("Europe/Berlin"))
    Query(measures=Events.fee, having=Events.fee.gt(5), order=Events.fee.desc())
    Query(measures=Events.fee, segments=Events.large)
    assert_type(query.members, tuple[Member[Any], ...])
    assert_type(query.cache, CacheMode | None)
    assert_type(query.response_format, ResponseFormat | None)
    assert_type(query.to_wire(), dict[str, Any])
    assert_type(Query.from_wire({"measures": ["events.fee"]}), Query)
    assert_type(query.limit_to(5).filter(Events.height.lt(7)), Query)
    assert_type(query.order_by(Events.sender.asc()), Query)
    return query


@frozen
class Transfer:
    sender: str
    fee: Decimal


def rows_give_the_members_type(result: Result, row: Row) -> None:
    assert_type(result[0], Row)
    assert_type(row[Events.fee], Decimal)
    assert_type(row[Events.count], int)
    assert_type(row[Events.sender], str)
    assert_type(row[Events.success], bool)
    assert_type(row[Events.seen], datetime)
    assert_type(row[Events.seen.by("day")], datetime)
    assert_type(row.get(Events.fee), Decimal | None)
    assert_type(row.get(Events.sender, "nobody"), str)
    print(row.get(Events.fee), row.get(Events.fee, None))
    shown: object = row.get(Events.sender)
    print(shown)
    assert_type(dict(row), dict[str, Any])
    copied: dict[str, Any] = {**row}
    print(copied)
    assert_type(row.keys(), KeysView[str])
    assert_type(row.values(), ValuesView[Any])
    assert_type(list(row), list[str])
    assert_type(len(row), int)
    for name, value in row.items():
        assert_type(name, str)
        assert_type(value, Any)
    assert_type(result.into(Transfer), list[Transfer])
    assert_type(result.refreshed_at, datetime | None)
    assert_type(result.total, int | None)
    assert_type(result.truncated, bool)
    for each in result:
        assert_type(each, Row)


def the_client_answers_with_results(client: CubeClient, query: Query) -> None:
    assert_type(client.load(query), Result)
    assert_type(client.load_raw({"measures": ["events.fee"]}), Result)
    assert_type(client.compare(query), list[Result])
    assert_type(client.blend(query, query), list[Result])
    assert_type(client.ready(), bool)


async def the_async_client_does_the_same(query: Query) -> None:
    async def token() -> str:
        return "secret"

    options: ClientOptions = {"timeout": 5.0, "retry": Retry(attempts=2)}
    async with AsyncCubeClient("https://cube.example", token, **options) as client:
        assert_type(client, AsyncCubeClient)
        assert_type(await client.load(query, deadline=None), Result)
        assert_type(await client.compare(query), list[Result])
        assert_type(await client.ready(), bool)


def check_update(update: Update) -> None:
    assert_type(update.query, Query)
    assert_type(update.result, Result)
    assert_type(update.received_at, datetime)
    assert_type(update.truncated, bool)
    assert_type(update.stale, bool)
    for row in update.added:
        assert_type(row[Events.fee], Decimal)
    for changed in update.changed:
        assert_type(changed, ChangedRow)
        assert_type(changed[Events.fee] - changed.before[Events.fee], Decimal)


def a_subscription_is_a_loop(client: CubeClient, query: Query) -> None:
    with client.watch(query, query, dialect="cube") as updates:
        assert_type(updates, Updates)
        assert_type(updates.state, ConnectionState)
        for update in updates:
            assert_type(update, Update)
            check_update(update)


async def so_is_an_async_one(client: AsyncCubeClient, query: Query) -> None:
    retry = Reconnect()
    async with client.watch(query, reconnect=retry, stale_after=30) as updates:
        assert_type(updates, AsyncUpdates)
        assert_type(updates.last_seen, datetime | None)
        async for update in updates:
            assert_type(update, Update)
            check_update(update)


async def alerts_come_by_post_and_by_socket(credentials: Credentials) -> None:
    async def handler(alert: AlertInfo) -> None:
        assert_type(alert.chain_id, int)

    def plain(alert: AlertInfo) -> None:
        assert_type(alert.raw["anything"], Any)

    inbox = AlertInbox(MemoryHandled(limit=1000))
    verifier = RequestVerifier({"app": ["secret"]}, path="/alerts")
    alert_app(verifier, plain, inbox=inbox)
    async with (
        serve_alert_channel(verifier, handler, inbox=inbox) as server,
        AlertChannel(server.url, credentials, reconnect=Reconnect()) as channel,
    ):
        assert_type(server, AlertServer)
        assert_type(server.port, int)
        assert_type(channel, AlertChannel)
        for alert in verifier.alerts({"X-Signature-appid": "app"}, b"[]"):
            assert_type(await channel.send([alert]), None)
            outcome = await inbox.handle(alert, "app", plain)
            assert_type(outcome, AlertOutcome)
            assert_type(outcome.retry_after, float | None)


def errors_carry_data(api: ApiError, limit: RateLimited, decode: DecodeError) -> None:
    assert_type(api.status, int)
    assert_type(api.code, str | None)
    assert_type(api.query, Any)
    assert_type(limit.retry_after, float | None)
    assert_type(decode.excerpt, str)
    assert_type(__version__, str)
