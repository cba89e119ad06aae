"""The library against programs that share nothing with it but the specification."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from decimal import Decimal

import pytest
from channels import CREDENTIALS, PATH as CHANNEL_PATH, alert as channel_alert, scripted
from driving import alert, entity
from independent import APP_ID, SECRET, Server, Verifier
from serving import served
from signed import PATH, alert_body, alert_object

from ortege_watch import DecodeError, Retry
from ortege_watch.watchbus import (
    AlertChannel,
    AlertPublisher,
    AsyncAlertPublisher,
    AsyncWatchBusClient,
    Credentials,
    Outbox,
    RequestVerifier,
    SupportedEvent,
    WatchBusClient,
    WatchBusError,
    WireStyle,
    alert_app,
)

BUS = Credentials(APP_ID, SECRET)
ENTITY = entity(1)


@pytest.fixture
def server():
    with Server() as server:
        yield server
        assert server.problems == []


# ------------------------------------------------------------------ what we send
WIRE_ALERT = {
    "watch_entity": f"0x{7:040x}",
    "chain_id": "56",
    "watch_entity_type": "ERC20",
    "watch_event_code": "big_amount_txn",
    "timestamp": 1_699_999_000,
    "event_values": {
        "tx_hash": f"0x{7:064x}",
        "block_number": "7",
        "current_value": "1000.5",
        "comment": '"ö" \u2028',
    },
}
WIRE_ENTITY = {
    "entity": f"0x{1:040x}",
    "chain_id": "56",
    "entity_type": "ERC20",
    "event_code": "big_amount_txn",
}
EVENT = SupportedEvent("big_amount_txn", ("ERC20",), Decimal("0.005"))


def publish(url: str, alerts: list, **options: object) -> object:
    with AlertPublisher(url, BUS, **options) as publisher:
        return publisher.publish(alerts)


async def publish_async(url: str, alerts: list, **options: object) -> object:
    async with AsyncAlertPublisher(url, BUS, **options) as publisher:
        return await publisher.publish(alerts)


async def test_alerts_of_publishers_are_as_the_specification_says(server, tmp_path):
    sent = alert(7, comment=WIRE_ALERT["event_values"]["comment"])
    bare = WireStyle(bare_lists=True, chain_id_as_int=True)
    publish(server.url, [sent])
    publish(server.url, [sent], outbox=tmp_path / "outbox")
    publish(server.url, [sent], style=bare)
    await publish_async(server.url, [sent])
    await publish_async(server.url, [sent], style=bare)
    documented = {"alert_info_list": [WIRE_ALERT]}
    other = [{**WIRE_ALERT, "chain_id": 56}]
    bodies = [documented, documented, other, documented, other]
    assert server.requests == [(PATH, body) for body in bodies]


def test_calls_of_a_client_are_as_the_specification_says(server):
    with WatchBusClient(server.url, BUS) as client:
        assert client.subscribe([ENTITY]).succeeded == (ENTITY,)
        assert [each.entity for each in client.subscriptions()] == [ENTITY.entity]
        assert client.unsubscribe([ENTITY]).succeeded == (ENTITY,)
        assert client.events() == [EVENT]
    assert server.requests == REQUESTS


async def test_calls_of_an_async_client_are_as_the_specification_says(server):
    async with AsyncWatchBusClient(server.url, BUS) as client:
        assert (await client.subscribe([ENTITY])).succeeded == (ENTITY,)
        listed = [each.entity async for each in client.subscriptions()]
        assert listed == [ENTITY.entity]
        assert (await client.unsubscribe([ENTITY])).succeeded == (ENTITY,)
        assert await client.events() == [EVENT]
    assert server.requests == REQUESTS


REQUESTS = [
    ("/api/watch/subscribe", {"entity_list": [WIRE_ENTITY]}),
    ("/api/watch/subscriptions/list", {"page_index": 1, "page_size": 50}),
    ("/api/v1/watch/unsubscribe", {"entity_list": [WIRE_ENTITY]}),
    ("/api/watch/event/list", None),
]


async def test_the_handshake_of_a_channel_is_signed_like_a_request():
    verifier = Verifier(CREDENTIALS.app_id, CREDENTIALS.secret)
    async with scripted() as script:
        async with AlertChannel(script.url, CREDENTIALS) as channel:
            await channel.send([channel_alert(1)])
        [headers] = script.headers
        verifier.verify("GET", CHANNEL_PATH, headers.raw_items(), b"")


# ------------------------------------------------- receivers that answer otherwise
@pytest.mark.parametrize(
    "answer",
    [
        (200, b""),
        (200, b"OK"),
        (200, b'{"success":true}'),
        (202, b""),
        (204, b""),
    ],
)
async def test_a_receiver_without_an_envelope_acknowledges(server, tmp_path, answer):
    server.answer = answer
    alerts = [alert(1), alert(2)]
    outbox = tmp_path / "outbox"
    retry = Retry(attempts=1)
    for result in (
        publish(server.url, alerts, retry=retry),
        publish(server.url, alerts, retry=retry, outbox=outbox),
        await publish_async(server.url, alerts, retry=retry),
        await publish_async(server.url, alerts, retry=retry, outbox=outbox),
    ):
        assert result.sent == tuple(alerts)
        assert (result.dead, result.unsent, result.error) == ((), (), None)
    assert len(server.requests) == 4


ERROR = b'{"status":"ERROR","code":"000001","error_data":"line"}'
BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    "answer",
    [
        ERROR.replace(b"line", "服务器".encode("gbk")),
        ERROR.replace(b"line", b"1\n2"),
        ERROR.replace(b'"line"', b"NaN"),
        ERROR[:45],
        BOM + ERROR[:45],
        BOM + b" \n" + ERROR[:45],
        ERROR.decode().encode("utf-16"),
        b'{"code":"000000000","code":"000001","status":"ERROR"}',
        b'{"status":"ERROR","code":' + b"9" * 5000 + b"}",
        b"[" * 1000,
        b"[" * 102 + b"]" * 102,
    ],
)
async def test_json_that_cannot_be_decoded_acknowledges_nothing(
    server, tmp_path, answer
):
    server.answer = (200, answer)
    path, retry = tmp_path / "outbox", Retry(attempts=1)
    with pytest.raises(DecodeError) as caught:
        publish(server.url, [alert(1)], retry=retry)
    assert caught.value.published.unsent == (alert(1),)
    # It is an outage: no alert loses an attempt.
    for _ in range(3):
        with Outbox(path, max_attempts=1) as outbox:
            result = publish(server.url, [alert(1)], retry=retry, outbox=outbox)
            assert result.unsent == (alert(1),)
            assert isinstance(result.error, DecodeError)
            assert (len(outbox), outbox.dead) == (1, [])
    server.answer = (200, b"OK")
    result = await publish_async(server.url, [alert(1)], retry=retry, outbox=path)
    assert result.sent == (alert(1),)


@pytest.mark.parametrize("content", [ERROR, b" \n" + ERROR])
def test_an_error_after_a_byte_order_mark_is_an_error(server, content):
    server.answer = (200, BOM + content)
    with pytest.raises(WatchBusError, match="code 000001: line"):
        publish(server.url, [alert(1)], retry=Retry(attempts=1))


# --------------------------------------------------------------- what we receive
SIGN_AND_SEND = """
set -eu
body=$(cat "$FILE")
timestamp=$(date +%s)000
signature=$(printf '%s' "$APP_ID;$timestamp;$NONCE;POST;$REQUEST_PATH;$body" |
    openssl dgst -sha256 -hmac "$SECRET" | sed 's/^.*= *//')
for _ in $TIMES; do
    curl --silent --show-error --noproxy '*' --max-time 30 --write-out ' %{http_code}\\n' \\
        --header "Content-Type: application/json;charset=UTF-8" \\
        --header "X-Signature-appid: $APP_ID" \\
        --header "X-Signature-timestamp: $timestamp" \\
        --header "X-Signature-nonce: $NONCE" \\
        --header "X-Signature-signature: $signature" \\
        --header "$MORE" \\
        --data-binary "@$FILE" "$URL$REQUEST_PATH"
done
"""


@pytest.fixture
def by_curl(tmp_path):
    """Send a body with curl, signed by openssl; return the answers."""
    missing = [name for name in ("curl", "openssl") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"NOT TESTED AGAINST FOREIGN PROGRAMS: {missing} not found")

    def send(url: str, body: bytes, more: str = "", **changes: str) -> list[str]:
        file = tmp_path / "body"
        file.write_bytes(body)
        variables = {
            "URL": url,
            "REQUEST_PATH": PATH,
            "APP_ID": APP_ID,
            "SECRET": SECRET,
            "NONCE": uuid.uuid4().hex,
            "FILE": str(file),
            "MORE": more,
            "TIMES": "1",
            **changes,
        }
        done = subprocess.run(
            ["sh", "-c", SIGN_AND_SEND],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout.splitlines()

    return send


ACKNOWLEDGED = '{"status":"OK","code":"000000000","data":null} 200'


def test_curl_and_openssl_send_alerts(by_curl):
    alerts = []
    app = alert_app(RequestVerifier({APP_ID: [SECRET]}, path=PATH), alerts.append)
    with served(app) as client:
        url = str(client.base_url).rstrip("/")
        assert by_curl(url, alert_body()) == [ACKNOWLEDGED]
        large = alert_body(alert_object(event_values={"comment": "x" * 500_000}))
        assert by_curl(url, large) == [ACKNOWLEDGED]
        assert by_curl(url, alert_body(), "Transfer-Encoding: chunked") == [
            ACKNOWLEDGED
        ]
        assert by_curl(url, alert_body(), "Expect: 100-continue") == [ACKNOWLEDGED]
        first, replayed = by_curl(url, alert_body(), TIMES="1 2")
        assert first == ACKNOWLEDGED
        assert "replay request" in replayed
        assert replayed.endswith(" 401")
        [refused] = by_curl(url, alert_body(), SECRET="another")
        assert "invalid signature" in refused
    assert len(alerts) == 2  # those that were sent again are the same alert
