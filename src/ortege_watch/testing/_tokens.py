"""Tokens as Cube's default authentication takes them: JWT, HS256."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _signature(secret: str, signed: str) -> bytes:
    return hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest()


def issue(secret: str, claims: Mapping[str, Any]) -> str:
    """Sign claims."""
    header = _encode(b'{"alg":"HS256","typ":"JWT"}')
    payload = _encode(json.dumps(claims, separators=(",", ":")).encode())
    signed = f"{header}.{payload}"
    return f"{signed}.{_encode(_signature(secret, signed))}"


def verified(token: Any, secret: str, *, now: float) -> bool:
    """Tell whether a token is signed with the secret and not expired."""
    if not isinstance(token, str) or token.count(".") != 2:
        return False
    signed, _, signature = token.rpartition(".")
    try:
        header, claims = (json.loads(_decode(part)) for part in signed.split("."))
        good = hmac.compare_digest(_decode(signature), _signature(secret, signed))
    except (ValueError, binascii.Error):
        return False
    if not (good and isinstance(header, dict) and isinstance(claims, dict)):
        return False
    expiry = claims.get("exp")
    return header.get("alg") == "HS256" and (
        expiry is None or (isinstance(expiry, int | float) and now < expiry)
    )
