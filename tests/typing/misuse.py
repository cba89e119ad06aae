"""Mistakes that a type checker must find: each line says which error it expects.

``# E: code`` or ``# E: words of the message``. This file is never run.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import ortege_watch
from ortege_watch import (
    ApiError,
    AsyncCubeClient,
    CubeClient,
    Dimension,
    Measure,
    Query,
    Row,
    Segment,
    TimeDimension,
)
from ortege_watch.watchbus import (
    AlertChannel,
    AlertInfo,
    AlertPublisher,
    Credentials,
    EntityInfo,
    RequestVerifier,
    SQLiteProvider,
    provider_app,
    serve_alert_channel,
    signed_headers,
)

fee = Measure("events.fee")
count = Measure("events.count", int)
sender = Dimension("events.sender")
seen = TimeDimension("events.seen")
large = Segment("events.large")
query = Query(measures=[fee])


def an_unknown_name_is_not_a_public_one() -> None:
    ortege_watch.Qeury  # E: attr-defined


def an_error_needs_its_status() -> None:
    ApiError("no")  # E: Missing named argument "status"


def a_value_has_the_type_of_its_member() -> None:
    fee.gt("5")  # E: call-overload
    fee.gt(0.1)  # E: call-overload
    count.eq(Decimal(5))  # E: arg-type
    sender.eq(5)  # E: arg-type
    sender.in_([5])  # E: list-item
    seen.before("2024-05-01")  # E: arg-type


def a_method_belongs_to_some_members() -> None:
    fee.contains("5")  # E: attr-defined
    count.in_range(1, 2)  # E: attr-defined
    seen.eq(date(2024, 5, 1))  # E: attr-defined
    large.eq(True)  # E: attr-defined
    large.asc()  # E: attr-defined
    Dimension("events.height", int).contains("5")  # E: Invalid self argument


def each_argument_of_a_query_takes_its_own_kind() -> None:
    Query([fee])  # E: Too many positional arguments
    Query(measures=sender)  # E: arg-type
    Query(where=fee)  # E: arg-type
    Query(measures=[sender])  # E: list-item
    Query(dimensions=[fee])  # E: list-item
    Query(segments=[sender])  # E: list-item
    Query(measures=[fee], where=[fee])  # E: list-item
    Query(measures=[fee], order=[fee])  # E: list-item
    Query(measures=[fee], limit="5")  # E: arg-type
    Query(measures=[fee], cache="renew")  # E: arg-type
    Query(measures=[fee], response_format="rows")  # E: arg-type


def a_row_is_not_a_sequence(row: ortege_watch.Row) -> None:
    row[0]  # E: call-overload


def a_query_is_frozen() -> None:
    query.limit = 5  # E: read-only


def a_row_knows_what_it_holds(row: Row) -> None:
    name: str = row[fee]  # E: assignment
    maybe: Decimal = row.get(fee)  # E: assignment
    print(name, maybe)


def clients_take_queries(client: CubeClient) -> None:
    client.load("query")  # E: arg-type
    client.load(query, patience=5)  # E: patience
    client.watch("query")  # E: arg-type
    client.watch(query, dialect="graphql")  # E: arg-type


async def a_subscription_is_entered_as_its_client(client: AsyncCubeClient) -> None:
    with client.watch(query) as updates:  # E: __enter__
        print(updates)


async def a_channel_takes_alerts(verifier: RequestVerifier, alert: AlertInfo) -> None:
    channel = AlertChannel("wss://bus.example/alerts", ("app", "secret"))  # E: arg-type
    channel = AlertChannel("wss://bus.example/alerts", Credentials("app", "secret"))
    await channel.send(alert)  # E: arg-type
    await channel.send(["alert"])  # E: list-item
    with channel:  # E: __enter__
        pass
    serve_alert_channel(verifier)  # E: handler
    serve_alert_channel(verifier, "handler")  # E: arg-type


class NoProvider:
    def subscribe(self, app_id: str) -> list[EntityInfo]:
        return []


def a_provider_has_four_methods(stored: SQLiteProvider) -> None:
    secrets = {"app": ["secret"]}
    provider_app(secrets, NoProvider())  # E: arg-type
    provider_app(secrets, stored, rate_limit=lambda: True)  # E: arg-type
    provider_app({"app": "secret", 5: []}, stored)  # E: dict-item
    stored.matching("0x", 56)  # E: event_code


def a_signature_is_of_bytes(
    credentials: Credentials, verifier: RequestVerifier
) -> None:
    line = ("POST", "/p")
    signed_headers(credentials, *line, "{}", timestamp=1, nonce="n")  # E: arg-type
    signed_headers(credentials, *line, b"{}", timestamp=1)  # E: nonce
    verifier.verify({})  # E: body


def secrets_come_from_a_mapping_or_a_plain_function(alert: AlertInfo) -> None:
    async def find(app_id: str) -> list[str]:
        return [app_id]

    RequestVerifier(find, path="/p")  # E: arg-type
    alert.app_id = "other"  # E: app_id
    AlertInfo.from_wire([alert])  # E: arg-type


def a_publisher_has_known_options(credentials: Credentials, alert: AlertInfo) -> None:
    AlertPublisher("https://bus.example", credentials, batchsize=5)  # E: batchsize
    AlertPublisher("https://bus.example", credentials, batch_size="5")  # E: arg-type
    bus = AlertPublisher("https://bus.example", credentials)
    bus.publish(alert)  # E: arg-type
    bus.publish([alert], patience=5)  # E: patience
