"""Correct use of the watch-bus as type checkers see it: nothing is wrong here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, assert_type

from ortege_watch.watchbus import (
    AlertInbox,
    AlertInfo,
    AlertPublisher,
    Alerts,
    AsyncWatchBusClient,
    BigAmountTxnUsd,
    BusOptions,
    Credentials,
    DeadLetter,
    EntityInfo,
    EventValues,
    MemoryHandled,
    Outbox,
    PageRequest,
    PublishResult,
    RequestVerifier,
    RiskFunctionCall,
    SignatureError,
    SignatureReason,
    SQLiteNonces,
    SQLiteProvider,
    Subscriber,
    SubscriptionPage,
    SupportedEvent,
    ViewAnswer,
    WaitingAlert,
    WatchBusError,
    WatchResult,
    alert_app,
    alert_view,
    provider_app,
    read_alerts,
    sign,
    signed_headers,
)


class PriceDrop(EventValues, code="price_drop"):
    token: str
    drop_percent: Decimal
    comment: str | None


def an_alert_knows_its_fields(alert: AlertInfo) -> None:
    assert_type(alert.entity, str)
    assert_type(alert.chain_id, int)
    assert_type(alert.timestamp, int)
    assert_type(alert.event_values, EventValues)
    assert_type(alert.raw, Mapping[str, Any])
    assert_type(alert.app_id, str | None)
    assert_type(alert.dedupe_key("app"), str)
    assert_type(alert.to_wire(), dict[str, Any])
    assert_type(AlertInfo.from_wire({}), AlertInfo)
    assert_type(AlertInfo("0xa", "56", "ERC20", "x", 5).chain_id, int)
    assert_type(EntityInfo("0xa", "56", "ERC20", "x").chain_id, int)
    match alert.event_values:
        case BigAmountTxnUsd() as values:
            assert_type(values.block_number, int)
            assert_type(values.current_value, Decimal)
            assert_type(values.comment, str | None)
        case RiskFunctionCall() as call:
            assert_type(call.current_value, str)
        case PriceDrop(drop_percent=percent):
            assert_type(percent, Decimal)
        case _:
            pass


def requests_are_signed_and_verified(body: bytes) -> None:
    credentials = Credentials("app", "secret")
    signature = sign(credentials, "POST", "/p", body, timestamp=1, nonce="n")
    assert_type(signature, str)
    headers = signed_headers(credentials, "POST", "/p", body, timestamp=1, nonce="n")
    assert_type(headers, dict[str, str])
    verifier = RequestVerifier(
        {"app": ["old", "new"]}, path="/p", nonces=SQLiteNonces("nonces.sqlite")
    )
    apps: dict[str, list[str]] = {}
    assert_type(RequestVerifier(apps.get, path="/p").is_current({}, b""), bool)
    RequestVerifier(lambda app_id: apps.get(app_id), path="/p")
    assert_type(verifier.verify({"X-Signature-nonce": "n"}, body), str)
    assert_type(verifier.verify([(b"x-signature-nonce", b"n")], body), str)
    assert_type(verifier.alerts({b"x-signature-nonce": b"n"}, body), Alerts)
    assert_type(verifier.alerts({b"x-signature-nonce": b"n"}, body).app_id, str)
    for received in verifier.alerts({}, body):
        assert_type(received, AlertInfo)
    assert_type(read_alerts(body), list[AlertInfo])


async def clients_share_their_options(credentials: Credentials) -> None:
    options: BusOptions = {"timeout": 5.0, "deadline": None, "batch_size": 10}
    async with AsyncWatchBusClient("https://host", credentials, **options) as client:
        assert_type(await client.subscribe([]), WatchResult)
    with AlertPublisher("https://host", credentials, outbox="f", **options) as bus:
        assert_type(bus.publish([], deadline=1.0), PublishResult)
        assert_type(bus.outbox, Outbox | None)
        assert_type(bus.enqueue([]), None)
        bus.run(poll_every=0.5)


def dead_letters_can_be_queued_again(outbox: Outbox) -> None:
    assert_type(outbox.dead, list[DeadLetter])
    assert_type(outbox.waiting(), list[WaitingAlert])
    assert_type(outbox.waiting()[0].next_attempt, float | None)
    assert_type(outbox.retry_now(), int)
    assert_type(outbox.requeue(outbox.dead[:1]), int)
    assert_type(outbox.forget(), int)
    assert_type(outbox.dead[0].attempts, int)
    assert_type(outbox.dead[0].time, float | None)


def handlers_are_plain_or_async(verifier: RequestVerifier) -> None:
    def plain(alert: AlertInfo) -> None: ...

    async def later(alert: AlertInfo) -> None: ...

    alert_app(verifier, plain)
    view = alert_view(verifier, plain, handled=MemoryHandled())
    assert_type(view({"x": "y"}, b"[]"), ViewAnswer)
    alert_app(verifier, later, inbox=AlertInbox(MemoryHandled()))


def results_and_errors_carry_data(
    result: WatchResult, refused: SignatureError, said: WatchBusError
) -> None:
    assert_type(result.missing, tuple[EntityInfo, ...])
    assert_type(result.unexpected, tuple[EntityInfo | str, ...])
    assert_type(refused.reason, SignatureReason)
    assert_type(refused.delta, float | None)
    assert_type(said.code, str | None)
    assert_type(said.reason, str | None)


class AsyncProvider:
    async def subscribe(
        self, app_id: str, entities: Sequence[EntityInfo]
    ) -> list[EntityInfo]:
        return [each for each in entities if app_id]

    def unsubscribe(
        self, app_id: str, entities: Sequence[EntityInfo]
    ) -> Sequence[EntityInfo]:
        return entities if app_id else ()

    def subscriptions(
        self, app_id: str, addresses: Sequence[str] | None, page: PageRequest
    ) -> SubscriptionPage:
        return page.select([])

    async def events(self) -> tuple[SupportedEvent, ...]:
        return ()


async def rate_limit(app_id: str) -> float | None:
    return 1.5 if app_id else None


def a_provider_is_plain_or_async(stored: SQLiteProvider) -> None:
    secrets = {"app": ["secret"]}
    provider_app(secrets, AsyncProvider(), page_size=10, rate_limit=rate_limit)
    provider_app(secrets, stored, rate_limit=lambda app_id: len(app_id))
    found = stored.matching("0x", 56, "big_amount_txn")
    assert_type(found, list[Subscriber])
    assert_type(found[0].entity, EntityInfo)
