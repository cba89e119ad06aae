"""Tokens as Cube takes them: JWTs that are signed with a shared secret (HS256)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json


def jwt(secret: str, **claims: object) -> str:
    """Return a JWT with these claims, in its compact form."""
    header = _part({"alg": "HS256", "typ": "JWT"})
    signed = f"{header}.{_part(claims)}"
    digest = hmac.digest(secret.encode(), signed.encode(), hashlib.sha256)
    return f"{signed}.{_base64(digest)}"


def _part(value: dict[str, object]) -> str:
    return _base64(json.dumps(value, separators=(",", ":")).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
