"""A client and a server of the watch-bus that import nothing of the library.

They were written from the specification alone: urllib and http.server, and hmac for the
signatures.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import threading
import time
import urllib.error
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

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


class Verifier:
    """Accepts a request that is signed as the specification says, once."""

    def __init__(self, app_id: str = APP_ID, secret: str = SECRET) -> None:
        self.app_id, self.secret = app_id, secret
        self.nonces: set[str] = set()

    def verify(self, method, target, headers, body) -> None:
        """Raise an AssertionError for a request that is not to be accepted."""
        fields = [(name.lower(), value) for name, value in headers]
        signed = dict(fields)
        assert len(signed) == len(fields), fields
        app_id, timestamp, nonce, signature = (
            signed[f"x-signature-{name}"]
            for name in ("appid", "timestamp", "nonce", "signature")
        )
        assert app_id == self.app_id
        assert re.fullmatch("[0-9]{13}", timestamp)
        assert abs(int(timestamp) / 1000 - time.time()) < 60
        assert uuid.UUID(hex=nonce).hex == nonce
        assert nonce not in self.nonces
        path, _, query = target.partition("?")
        parts = [app_id, timestamp, nonce, method, path, *([query] if query else [])]
        message = b"".join(f"{part};".encode() for part in parts) + body
        expected = hmac.new(self.secret.encode(), message, hashlib.sha256).hexdigest()
        assert signature == expected
        self.nonces.add(nonce)
        if method == "POST":
            assert signed["content-type"] == "application/json;charset=UTF-8"


class Server:
    """A provider and a receiver of alerts on loopback.

    Attributes:
        requests: the path and the body of each request that was accepted.
        problems: what was wrong with the others.
        answer: the status and the body that answer alerts.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, object]] = []
        self.problems: list[Exception] = []
        self.answer: tuple[int, bytes] = (200, b"")
        self._verifier = Verifier()
        self._lock = threading.Lock()
        self._watched: list[dict[str, str]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                with server._lock:
                    status, content = server._respond(self, body)
                self.send_response(status)
                if status != 204:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=[0.01])

    def _respond(self, request, body: bytes) -> tuple[int, bytes]:
        try:
            self._verifier.verify("POST", request.path, request.headers.items(), body)
            content = json.loads(body) if body else None
        except Exception as problem:  # noqa: BLE001 - the test raises it
            self.problems.append(problem)
            return 401, b""
        self.requests.append((request.path, content))
        if request.path == "/api/v1/watch/alert":
            return self.answer
        return 200, self._envelope(self._data(request.path, content))

    def _envelope(self, data: object) -> bytes:
        envelope = {"status": "OK", "code": "000000000", "data": data}
        return json.dumps(envelope).encode()

    def _data(self, path: str, content) -> object:
        match path:
            case "/api/watch/subscribe":
                self._watched += content["entity_list"]
                return {"watch_result": content["entity_list"]}
            case "/api/v1/watch/unsubscribe":
                for each in content["entity_list"]:
                    self._watched.remove(each)
                return {"watch_result": content["entity_list"]}
            case "/api/watch/subscriptions/list":
                index, size = content["page_index"], content["page_size"]
                page = self._watched[(index - 1) * size : index * size]
                listed = [
                    {
                        "watch_entity": each["entity"],
                        "watch_event_list": [
                            {"watch_id": "1", "event_code": each["event_code"]}
                        ],
                    }
                    for each in page
                ]
                return {
                    "subscription_list": listed,
                    "page_index": index,
                    "page_size": size,
                    "total": len(self._watched),
                }
            case "/api/watch/event/list":
                assert content is None
                return [
                    {
                        "event_code": "big_amount_txn",
                        "support_entity_type_list": ["ERC20"],
                        "mini_threshold": "0.005",
                    }
                ]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
