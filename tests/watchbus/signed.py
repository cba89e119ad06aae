"""Signed requests for the tests, made with the standard library alone."""

from __future__ import annotations

import hashlib
import hmac
import json
from itertools import count
from pathlib import Path

APP_ID = "13cc90dc5ffa4032acb3"
SECRET = "cd0ec4b1ca934b188996034541d7e810"
PATH = "/api/v1/watch/alert"
NOW = 1_700_000_000.0
ADDRESS = "0x312bc7EAAF93f1c60Dc5AfC115FcCDE161055fb0"
TX_HASH = "0x" + "ab" * 32

VECTORS = [
    vector
    for name in ("published", "derived")
    for vector in json.loads(
        (Path(__file__).parent / f"vectors/{name}.json").read_text("utf-8")
    )["vectors"]
]

_serial = count(1)


def new_nonce() -> str:
    """Give another nonce each time, and the same ones in each run."""
    return f"{next(_serial):032x}"


def signature_of(message: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()


def headers_for(
    body: bytes,
    *,
    app_id: str = APP_ID,
    secret: str = SECRET,
    timestamp: object = int(NOW * 1000),
    nonce: str | None = None,
    method: str = "POST",
    path: str = PATH,
) -> dict[str, str]:
    """Sign a request; whatever is given is signed, sensible or not."""
    nonce = new_nonce() if nonce is None else nonce
    start = f"{app_id};{timestamp};{nonce};{method};{path};"
    return {
        "Content-Type": "application/json;charset=UTF-8",
        "X-Signature-appid": app_id,
        "X-Signature-timestamp": str(timestamp),
        "X-Signature-nonce": nonce,
        "X-Signature-signature": signature_of(
            start.encode("utf-8", "surrogatepass") + body, secret
        ),
    }


def alert_object(**changes: object) -> dict[str, object]:
    """Write an alert as the page documents it; ``...`` leaves a field out."""
    alert = {
        "watch_entity": ADDRESS,
        "chain_id": "56",
        "watch_entity_type": "ERC20",
        "watch_event_code": "big_amount_txn_usd",
        "timestamp": 1_699_999_990,
        "event_values": {
            "cmc_slug": "tether",
            "block_number": "22313123",
            "tx_hash": TX_HASH,
            "current_value": "123456.789000000000000001",
        },
        **changes,
    }
    return {name: value for name, value in alert.items() if value is not ...}


def alert_body(*alerts: dict[str, object]) -> bytes:
    """Write the body of an alert request, with one alert by default."""
    listed = list(alerts) or [alert_object()]
    return json.dumps({"alert_info_list": listed}).encode()
