"""The WebSocket protocols of both Cube generations, frame for frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

import attrs

from ortege_watch.testing._cube.dates import Refusal
from ortege_watch.testing._messages import decode

if TYPE_CHECKING:
    from ortege_watch.testing._cube.gateway import Answer, Gateway

_METHODS: Final = ("load", "sql", "dry-run", "meta", "subscribe", "unsubscribe")
_NO_METHOD: Final = "TypeError: this.apiGateway[method] is not a function"
_REJECTED: Final = "method: Invalid discriminator value. Expected " + " | ".join(
    f"'{method}'" for method in _METHODS
)


class ServerCrash(Exception):
    """Say that a real server would have died of this frame."""


@attrs.define
class Subscription:
    """Hold one subscription of a connection.

    Attributes:
        message: the frame that asked for it.
        rows: what the last good answer was; None after an error or at first.
        settled: the gateway's version at which it was answered last; None where the
            next tick has to ask again.
    """

    message: Mapping[str, Any]
    rows: bytes | None = None
    settled: int | None = None


@attrs.define
class Peer:
    """Hold what a server knows of one connection."""

    authorized: bool = False
    subscriptions: dict[str, Subscription] = attrs.field(factory=dict)


class Dialect(Protocol):
    """What the server asks of a WebSocket protocol."""

    def receive(self, peer: Peer, data: str | bytes) -> list[Any]:
        """Answer a message; each reply is one frame, ready to be encoded."""
        ...

    def tick(self, peer: Peer) -> list[Any]:
        """Run the subscriptions of a connection once more."""
        ...

    def query(self, subscription: Subscription) -> Any:
        """Tell what a subscription asks."""
        ...


class Classic:
    """Speak as Cube 0.29 to 1.5 do; seen on 0.35.81."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def query(self, subscription: Subscription) -> Any:
        """Tell what a subscription asks."""
        return (subscription.message.get("params") or {}).get("query")

    def receive(self, peer: Peer, data: str | bytes) -> list[Any]:
        """Answer one message.

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
            peer.subscriptions.pop(_key(message["unsubscribe"]), None)
            return []
        if not message.get("messageId"):
            return [self._error(Refusal("messageId is required"))]
        return self._call(peer, message)

    def _authorize(self, peer: Peer, token: Any) -> list[Any]:
        rejected = self.gateway.faults.take("no_handshake")
        if rejected is not None:
            return [rejected]
        try:
            self.gateway.authorize(token)
        except Refusal as refusal:
            return [self._error(refusal)]
        peer.authorized = True
        return [{"handshake": True}]

    def _call(self, peer: Peer, message: dict[str, Any]) -> list[Any]:
        echo = self._echo(message["messageId"])
        if not peer.authorized:
            refused = {"error": "Not authorized"}
            return [{"messageId": echo, "message": refused, "status": 403}]
        method = message.get("method")
        if not method:
            return [self._error(Refusal("method is required"), message)]
        if method not in _METHODS:
            refusal = Refusal(f"Unsupported method: {method}")
            return [self._error(refusal, message)]
        if method == "unsubscribe":
            return [self._error(Refusal.internal(_NO_METHOD), message)]
        if method == "subscribe":
            key = _key(message["messageId"])
            known = peer.subscriptions.get(key)
            subscription = Subscription(message, known.rows if known else None)
            peer.subscriptions[key] = subscription
            return self._run(subscription)
        answer = self._answer(method, message)
        return [self._reply(message, answer), {"messageProcessedId": echo}]

    def _answer(self, method: str, message: Mapping[str, Any]) -> Answer:
        params = message.get("params")
        params = params if isinstance(params, dict) else {}
        query = params.get("query")
        match method:
            case "sql":
                return self.gateway.sql(query)
            case "dry-run":
                return self.gateway.dry_run(query)
            case "meta":
                return self.gateway.meta()
            case _:
                # A subscription takes no notice of `cache`.
                cache = params.get("cache") if method == "load" else None
                return self.gateway.load(query, params.get("queryType"), cache)

    def _run(self, subscription: Subscription) -> list[Any]:
        """Ask once; a good answer is sent where it changed, an error always."""
        message = subscription.message
        version = self.gateway.version
        answer = self._answer("subscribe", message)
        frames = [self._processed(message)]
        if answer.rows is None or answer.rows != subscription.rows:
            frames.insert(0, self._reply(message, answer))
        subscription.rows = answer.rows
        lasting = answer.rows is not None and not answer.passing
        subscription.settled = version if lasting else None
        return frames

    def tick(self, peer: Peer) -> list[Any]:
        """Run the subscriptions again: heartbeats, and what has changed."""
        frames: list[Any] = []
        for subscription in peer.subscriptions.values():
            if subscription.settled == self.gateway.version:
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

    def _error(
        self, refusal: Refusal, message: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        answer = self.gateway.refusal(refusal)
        echo = (
            {} if message is None else {"messageId": self._echo(message["messageId"])}
        )
        return {**echo, "message": answer.body, "status": answer.status}


class Strict(Classic):
    """Speak as Cube 1.6.10 and later do; seen on 1.7.43."""

    def receive(self, peer: Peer, data: str | bytes) -> list[Any]:
        """Answer one message; what the schema does not know is refused."""
        try:
            message = decode(data)
        except ValueError as error:
            return [self._error(Refusal(str(error)))]
        if isinstance(message, list):
            return [
                self._error(Refusal("Invalid input: expected object, received array"))
            ]
        if not isinstance(message, dict):
            shown = message if isinstance(message, str) else _js(message)
            text = "TypeError: Cannot use 'in' operator to search for 'authorization'"
            return [self._error(Refusal.internal(f"{text} in {shown}"))]
        problems = _problems(message)
        if problems:
            echo = {k: v for k, v in message.items() if k == "messageId"}
            return [{**echo, **self._error(Refusal(", ".join(problems)))}]
        if "authorization" in message:
            return self._authorize(peer, message["authorization"])
        if "unsubscribe" in message:
            peer.subscriptions.pop(_key(message["unsubscribe"]), None)
            return []
        return self._call(peer, message)

    def _echo(self, message_id: Any) -> Any:
        return str(message_id)

    def _reply(self, message: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
        reply = super()._reply(message, answer)
        if answer.rows is None:
            return reply
        order = ("messageId", "status", "message")
        return {key: reply[key] for key in order}


def _key(message_id: Any) -> str:
    return message_id if isinstance(message_id, str) else _js(message_id)


def _js(value: Any) -> str:
    names = {None: "null", True: "true", False: "false"}
    return names[value] if value is None or isinstance(value, bool) else str(value)


def _problems(message: dict[str, Any]) -> list[str]:
    if "authorization" in message:
        return [
            *_text(message["authorization"], "authorization"),
            *_unknown(message, {"authorization"}),
        ]
    if "unsubscribe" in message:
        return [
            *_id(message["unsubscribe"], "unsubscribe"),
            *_unknown(message, {"unsubscribe"}),
        ]
    if message.get("method") in _METHODS:
        return _method_problems(message)
    return [_REJECTED]


def _method_problems(message: dict[str, Any]) -> list[str]:
    method = message["method"]
    problems = _id(message.get("messageId"), "messageId")
    if "requestId" in message:
        problems += _text(message["requestId"], "requestId", longest=64)
    allowed = {
        "load": {"query", "queryType", "cache"},
        "subscribe": {"query", "queryType", "cache"},
        "sql": {"query"},
        "dry-run": {"query"},
    }.get(method, set())
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
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case list():
            return "array"
        case dict():
            return "object"
        case str():
            return "string"
        case _:
            return "number"


# -------------------- The dialect of Ortege's tutorial, as a gateway in front of Cube may speak it.
#
# The tutorial shows one frame and hints that a top-level ``data`` list answers it;
# everything else here is the simplest thing that fits.


Manners: TypeAlias = Literal["error", "silence"]


class Tutorial:
    """Answer subscribe envelopes; a connection is authorized by its upgrade."""

    def __init__(self, gateway: Gateway, manners: Manners) -> None:
        self.gateway = gateway
        self.manners = manners

    def query(self, subscription: Subscription) -> Any:
        """Tell what a subscription asks."""
        return subscription.message["query"]

    def receive(self, peer: Peer, data: str | bytes) -> list[Any]:
        """Answer one envelope with its rows; whatever is none, as told to."""
        try:
            message = decode(data)
        except ValueError:
            message = None
        if not (
            isinstance(message, dict)
            and message.get("queryType") == "subscribe"
            and "query" in message
        ):
            if self.manners == "silence":
                return []
            return [{"error": "queryType must be 'subscribe'", "status": 400}]
        subscription = Subscription(message)
        peer.subscriptions[str(message.get("requestId"))] = subscription
        return self._run(subscription)

    def tick(self, peer: Peer) -> list[Any]:
        """Push what has changed; there is no heartbeat."""
        return [
            frame
            for subscription in peer.subscriptions.values()
            if subscription.settled != self.gateway.version
            for frame in self._run(subscription)
        ]

    def _run(self, subscription: Subscription) -> list[Any]:
        version = self.gateway.version
        answer = self.gateway.load(subscription.message["query"])
        changed = answer.rows is None or answer.rows != subscription.rows
        subscription.rows = answer.rows
        lasting = answer.rows is not None and not answer.passing
        subscription.settled = version if lasting else None
        if not changed:
            return []
        if answer.rows is None:
            return [{**answer.body, "status": answer.status}]
        return [{"data": answer.body["data"]}]
