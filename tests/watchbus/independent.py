"""A client of the watch-bus that imports nothing of the library.

It was written from the specification alone: urllib, and hmac for the signatures.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
import urllib.error
import urllib.request
import uuid

APP_ID, SECRET = "13cc90dc5ffa4032acb3", "cd0ec4b1ca934b188996034541d7e810"


class Client:
    """A client of the endpoints, written from the specification."""

    def __init__(self, url: str, app_id: str = APP_ID, secret: str = SECRET) -> None:
        self.url = url.rstrip("/")
        self.app_id, self.secret = app_id, secret
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def headers(self, path: str, body: bytes, **changes: str) -> dict[str, str]:
        given = {
            "appid": self.app_id,
            "timestamp": str(int(time.time() * 1000)),
            "nonce": uuid.uuid4().hex,
            **changes,
        }
        start = f"{given['appid']};{given['timestamp']};{given['nonce']};POST;{path};"
        given.setdefault(
            "signature",
            hmac.new(
                self.secret.encode(), start.encode() + body, hashlib.sha256
            ).hexdigest(),
        )
        signature = {f"X-Signature-{k}": v for k, v in given.items() if v}
        return {"Content-Type": "application/json;charset=UTF-8", **signature}

    def send(self, path, body, headers, method="POST"):
        """Return the status, the headers and the envelope."""
        request = urllib.request.Request(
            self.url + path, data=body, headers=headers, method=method
        )
        try:
            with self.opener.open(request, timeout=30) as answer:
                return answer.status, answer.headers, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, json.load(error)

    def ask(self, path, content=None, **changes):
        body = b"" if content is None else json.dumps(content).encode()
        return self.send(path, body, self.headers(path, body, **changes))

    def data(self, path, content=None):
        """Return the data of a success."""
        status, headers, envelope = self.ask(path, content)
        assert status == 200
        assert headers["content-type"] == "application/json;charset=UTF-8"
        assert list(envelope) == ["status", "code", "data"]
        assert (envelope["status"], envelope["code"]) == ("OK", "000000000")
        return envelope["data"]

    def error(self, path, content=None, **changes):
        """Return the status, the code and the reason of an error."""
        status, _, envelope = self.ask(path, content, **changes)
        assert envelope["status"] == "ERROR"
        assert envelope["data"] is None
        return status, envelope["code"], envelope["error_data"]
