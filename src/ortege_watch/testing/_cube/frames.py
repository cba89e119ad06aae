"""The WebSocket protocols of both Cube generations, frame for frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

import attrs

from ortege_watch.testing._cube import Refusal
from ortege_watch.testing._cube.gateway import Answer, Gateway
from ortege_watch.testing._messages import decode

OnUnknownFrame: TypeAlias = Literal["error", "silence"]

_METHODS: Final = ("load", "sql", "dry-run", "meta", "subscribe", "unsubscribe")
_NO_METHOD: Final = "TypeError: this.apiGateway[method] is not a function"
_UNKNOWN_METHOD: Final = "method: Invalid discriminator value. Expected " + " | ".join(
    f"'{method}'" for method in _METHODS
)


class ServerCrash(Exception):
    """A frame that would end the process of a real server."""


@attrs.define
class Subscription:
    """A subscription of a connection."""

    message: Mapping[str, Any]  # the frame that asked for it
    query: Any
    rows: bytes | None = None  # of the last answer; None after an error and at first
    # the gateway's version when it was answered last; None where the next tick has to
    # ask again
    version: int | None = None

    def keep(self, answer: Answer, version: int) -> bool:
        """Keep an answer; return whether it is to be sent: if it changed, or failed."""
        changed = answer.rows is None or answer.rows != self.rows
        self.rows = answer.rows
        lasting = answer.rows is not None and not answer.passing
        self.version = version if lasting else None
        return changed


@attrs.define
class Peer:
    """What a server knows of one connection."""

    authorized: bool = False
    subscriptions: dict[str, Subscription] = attrs.field(factory=dict)


class Classic:
    """The protocol of Cube 0.29 to 1.5; seen on 0.35.81."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def receive(self, peer: Peer, data: str | bytes) -> list[Any]:
        """Answer a message; each reply is one frame, ready to be encoded.

        Raises:
            ServerCrash: for ``null``, which kills the process of a real server.
        """
        message: Any = data
        if isinstance(data, str):  # binary frames are not decoded
            try:
                message = decode(data)
            except ValueError as error:
                return [self._error(Refusal.internal(f"SyntaxError: {error}"))]
        if message is None:
            raise ServerCrash
        if not isinstance(message, dict):
            message = {}
        if message.get("authorization"):
            return self._authorize(peer, message["authorization"])
        if message.get("unsubscribe"):
            peer.subscriptions.pop(_js(message["unsubscribe"]), None)
            return []
        if not message.get("messageId"):
            return [self._error(Refusal("messageId is required"))]
        return self._call(peer, message)

    def _authorize(self, peer: Peer, token: Any) -> list[Any]:
        rejected = self.gateway.faults.take("handshake")
        if rejected is not None:
            return [rejected]
        try:
            self.gateway.authorize(token)
        except Refusal as refusal:
            return [self._error(refusal)]
        peer.authorized = True
        return [{"handshake": True}]

    def _call(self, peer: Peer, message: dict[str, Any]) -> list[Any]:
        if not peer.authorized:
            answer = Answer(status=403, body={"error": "Not authorized"})
            return [self._reply(message, answer)]
        method: Any = message.get("method")
        refusal: Refusal | None = None
        if not method:
            refusal = Refusal("method is required")
        elif method not in _METHODS:
            refusal = Refusal(f"Unsupported method: {method}")
        elif method == "unsubscribe":
            refusal = Refusal.internal(_NO_METHOD)
        if refusal is not None:
            return [self._reply(message, self.gateway.refusal(refusal))]
        params = _params(message)
        if method == "subscribe":
            key = _js(message["messageId"])
            known = peer.subscriptions.get(key)
            rows = known.rows if known else None
            subscription = Subscription(message, params.get("query"), rows)
            peer.subscriptions[key] = subscription
            return self._run(subscription)
        answer = self.gateway.answer(method, params)
        return [self._reply(message, answer), self._processed(message)]

    def _run(self, subscription: Subscription) -> list[Any]:
        message, version = subscription.message, self.gateway.version
        # A subscription ignores `cache`.
        fields = {**_params(message), "cache": None}
        answer = self.gateway.answer("subscribe", fields)
        frames = [self._processed(message)]
        if subscription.keep(answer, version):
            frames.insert(0, self._reply(message, answer))
        return frames

    def tick(self, peer: Peer) -> list[Any]:
        """Run the subscriptions again; return heartbeats and what has changed."""
        frames: list[Any] = []
        for subscription in peer.subscriptions.values():
            if subscription.version == self.gateway.version:
                frames.append(self._processed(subscription.message))
            else:
                frames += self._run(subscription)
        return frames

    def _echo(self, message_id: Any) -> Any:
        return message_id

    def _processed(self, message: Mapping[str, Any]) -> dict[str, Any]:
        return {"messageProcessedId": self._echo(message["messageId"])}

    def _reply(self, message: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
        echo = self._echo(message["messageId"])
        return {"messageId": echo, "message": answer.body, "status": answer.status}

    def _error(self, refusal: Refusal) -> dict[str, Any]:
        answer = self.gateway.refusal(refusal)
        return {"message": answer.body, "status": answer.status}


class Strict(Classic):
    """The protocol of Cube 1.6.10 and later; seen on 1.7.43."""

    def receive(self, peer: Peer, data: str | bytes) -> list[Any]:
        """Answer a message; refuse what the schema does not allow."""
        try:
            message = decode(data)
        except ValueError as error:
            return [self._error(Refusal(str(error)))]
        if isinstance(message, list):
            return [
                self._error(Refusal("Invalid input: expected object, received array"))
            ]
        if not isinstance(message, dict):
            text = "TypeError: Cannot use 'in' operator to search for 'authorization'"
            return [self._error(Refusal.internal(f"{text} in {_js(message)}"))]
        problems = _problems(message)
        if problems:
            echo = {k: v for k, v in message.items() if k == "messageId"}
            return [{**echo, **self._error(Refusal(", ".join(problems)))}]
        if "authorization" in message:
            return self._authorize(peer, message["authorization"])
        if "unsubscribe" in message:
            peer.subscriptions.pop(_js(message["unsubscribe"]), None)
            return []
        return self._call(peer, message)

    def _echo(self, message_id: Any) -> Any:
        return str(message_id)

    def _reply(self, message: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
        reply = super()._reply(message, answer)
        if answer.rows is None:
            return reply
        return {key: reply[key] for key in ("messageId", "status", "message")}


def _params(message: Mapping[str, Any]) -> dict[str, Any]:
    params = message.get("params")
    return params if isinstance(params, dict) else {}


def _js(value: Any) -> str:
    """Convert a value to a string as JavaScript does."""
    names = {None: "null", True: "true", False: "false"}
    return names[value] if value is None or isinstance(value, bool) else str(value)


def _problems(message: dict[str, Any]) -> list[str]:
    for key, check in (("authorization", _text), ("unsubscribe", _id)):
        if key in message:
            return [*check(message[key], key), *_unknown(message, {key})]
    if message.get("method") in _METHODS:
        return _method_problems(message)
    return [_UNKNOWN_METHOD]


def _method_problems(message: dict[str, Any]) -> list[str]:
    problems = _id(message.get("messageId"), "messageId")
    if "requestId" in message:
        problems += _text(message["requestId"], "requestId", longest=64)
    allowed = {
        "load": {"query", "queryType", "cache"},
        "subscribe": {"query", "queryType", "cache"},
        "sql": {"query"},
        "dry-run": {"query"},
    }.get(message["method"], set())
    params = message.get("params")
    if isinstance(params, dict):
        for key in ("queryType", "cache"):
            if key in params and key in allowed:
                problems += _text(params[key], f"params.{key}")
        problems += [f"params: {text}" for text in _unknown(params, allowed)]
    elif "params" in message or allowed:
        kind = _kind(params) if "params" in message else "undefined"
        problems.append(f"params: Invalid input: expected object, received {kind}")
    known = {"method", "messageId", "requestId", "params"}
    return problems + _unknown(message, known)


def _unknown(message: dict[str, Any], known: set[str]) -> list[str]:
    keys = [f'"{key}"' for key in message if key not in known]
    if not keys:
        return []
    return [f"Unrecognized key{'s' if len(keys) > 1 else ''}: {', '.join(keys)}"]


def _id(value: Any, path: str) -> list[str]:
    if isinstance(value, int) and not isinstance(value, bool):
        return []
    if not isinstance(value, str):
        return [f"{path}: Invalid input"]
    return _text(value, path, longest=16)


def _text(value: Any, path: str, *, longest: int | None = None) -> list[str]:
    if not isinstance(value, str):
        return [f"{path}: Invalid input: expected string, received {_kind(value)}"]
    if longest is not None and len(value) > longest:
        return [f"{path}: Too big: expected string to have <={longest} characters"]
    return []


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", list: "array", dict: "object", str: "string"}
    return names.get(type(value), "number")


class Tutorial:
    """The protocol of Ortege's tutorial; a connection is authorized by its upgrade.

    The tutorial shows one frame and suggests that a top-level ``data`` list answers it;
    everything else here is the simplest thing that fits.
    """

    def __init__(self, gateway: Gateway, on_unknown_frame: OnUnknownFrame) -> None:
        self.gateway = gateway
        self.on_unknown_frame = on_unknown_frame

    def receive(self, peer: Peer, data: str | bytes) -> list[Any]:
        """Answer an envelope with its rows, and anything else as configured."""
        try:
            message = decode(data)
        except ValueError:
            message = None
        if not (
            isinstance(message, dict)
            and message.get("queryType") == "subscribe"
            and "query" in message
        ):
            if self.on_unknown_frame == "silence":
                return []
            return [{"error": "queryType must be 'subscribe'", "status": 400}]
        subscription = Subscription(message, message["query"])
        peer.subscriptions[str(message.get("requestId"))] = subscription
        return self._run(subscription)

    def tick(self, peer: Peer) -> list[Any]:
        """Return what has changed; this protocol has no heartbeat."""
        return [
            frame
            for subscription in peer.subscriptions.values()
            if subscription.version != self.gateway.version
            for frame in self._run(subscription)
        ]

    def _run(self, subscription: Subscription) -> list[Any]:
        version = self.gateway.version
        answer = self.gateway.answer("load", {"query": subscription.query})
        if not subscription.keep(answer, version):
            return []
        if answer.rows is None:
            return [{**answer.body, "status": answer.status}]
        return [{"data": answer.body["data"]}]


Dialect: TypeAlias = Classic | Tutorial
